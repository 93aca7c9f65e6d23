"""Sagas within each other, in the database of their coordinator: which definitions can be deployed, children's rows, and ends that come anew."""

import json
from datetime import datetime, timedelta, timezone

import pytest
from sqltest import refused

DEPLOY = "SELECT txb.saga_deploy(%s, %s, %s, NULL, NULL, 'coordinator', 'hal')"
ID, PARENT = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-00000000000a"
STARTED = "2026-01-01 12:00+00"


@pytest.fixture
def db(bare):
    bare.root.do("SELECT txb.partition_make(100000, 1)")
    return bare


def step(name, kind="compensatable", saga=None, version=None):
    return {"name": name, "kind": kind, **({"saga": {"name": saga, **({"version": version} if version else {})}} if saga else {})}


def deploy(db, name, *steps, version=1):
    return db.session("admin").one(DEPLOY, name, version, json.dumps({"steps": list(steps)}))


def kept(db, name, version=1):
    return db.root.do("SELECT nested, depth FROM txb.saga_definition WHERE name = %s AND version = %s", name, version)[0]


def parent(operation="action", sending=1):
    return json.dumps({"saga": PARENT, "started": 1767268800000000, "step": "stay", "operation": operation, "sending": sending, "root": PARENT})


def begin(session, operation="action", saga=ID, name="booking", version=1, body='{"order": 1}', deadline_ms=None, by=None):
    return session.do(
        "SELECT id::text, problem FROM txb.saga_begin(%s::uuid[], ARRAY[%s]::timestamptz[], %s, %s::int[], '{NULL}', %s::jsonb[], %s::bigint[], "
        "'{NULL}', %s::jsonb[])",
        [saga], STARTED, [name], [version], [body], [deadline_ms], [by or parent(operation)],
    )


# ---- deploying ------------------------------------------------------------------------------------------------------


def test_a_definition_keeps_the_versions_that_were_the_newest(db):
    for version in (1, 2):
        deploy(db, "booking", step("flight"), version=version)
    assert deploy(db, "tour", step("stay", saga="booking"), step("old", saga="booking", version=1), step("pay", "pivot")) is True
    deploy(db, "booking", step("flight"), version=3)
    assert kept(db, "booking") == (None, 1)
    assert kept(db, "tour") == ({"stay": {"name": "booking", "version": 2}, "old": {"name": "booking", "version": 1}}, 2)


def test_what_is_deployed_already_is_not_looked_at_again(db):
    """A newer version that would not do must not refuse a repetition."""
    deploy(db, "booking", step("flight"))
    deploy(db, "tour", step("stay", saga="booking"))
    deploy(db, "booking", step("pay", "pivot"), version=2)
    assert deploy(db, "tour", step("stay", saga="booking")) is False
    assert kept(db, "tour")[0]["stay"]["version"] == 1
    with refused("22023", "steps[0].saga", "can't be undone"):
        deploy(db, "tour", step("stay", saga="booking"), version=2)


def test_a_nested_saga_must_be_there_before(db):
    with refused("22023", "saga tour: steps[1].saga: saga booking is not deployed", "Deploy the inner saga first"):
        deploy(db, "tour", step("x"), step("stay", saga="booking"))
    with refused("22023", "saga tour: steps[0].saga: saga tour is not deployed"):
        deploy(db, "tour", step("stay", "pivot", "tour"))
    deploy(db, "booking", step("flight"))
    with refused("22023", "steps[0].saga: version 2 of saga booking is not deployed"):
        deploy(db, "tour", step("stay", saga="booking", version=2))
    assert db.root.do("SELECT name FROM txb.saga_definition") == [("booking",)]


def test_a_saga_may_hold_an_earlier_version_of_itself_but_not_itself(db):
    deploy(db, "tour", step("x"))
    deploy(db, "tour", step("stay", saga="tour"), version=2)
    assert kept(db, "tour", 2) == ({"stay": {"name": "tour", "version": 1}}, 2)
    with refused("22023", "version 3 of saga tour is not deployed"):
        deploy(db, "tour", step("stay", saga="tour", version=3), version=3)


@pytest.mark.parametrize("kind", ["pivot", "retriable", "reserve"])
def test_what_can_be_undone_holds_only_what_can(db, kind):
    deploy(db, "inner", step("a"), step("b", kind))
    deploy(db, "good", step("a"), step("b"))
    with refused("22023", f"steps[0].saga: version 1 of saga inner has a step that can't be undone (b, {kind})", "make this step the pivot"):
        deploy(db, "outer", step("x", saga="inner"))
    deploy(db, "middle", step("x", "pivot", "inner"))
    deploy(db, "later", step("x", "retriable", "inner"))
    deploy(db, "outer", step("x", saga="good"))
    with refused("22023", "version 1 of saga middle has a step that can't be undone (x, pivot)"):
        deploy(db, "around", step("x", saga="middle"))


def test_at_most_eight_lie_within_each_other(db):
    deploy(db, "s1", step("x"))
    for n in range(2, 9):
        deploy(db, f"s{n}", step("x", saga=f"s{n - 1}"))
        assert kept(db, f"s{n}")[1] == n
    with refused("22023", "with version 1 of saga s8 more than 8 sagas would lie within each other", "Give the steps"):
        deploy(db, "s9", step("x", saga="s8"))


# ---- rows of children -----------------------------------------------------------------------------------------------


def test_a_child_is_kept_once_with_its_parent_and_its_own_deadline(db):
    deploy(db, "booking", step("flight"))
    worker, before = db.session("worker"), datetime.now(timezone.utc)
    assert begin(worker, deadline_ms=60000) == [(ID, None)]
    assert begin(worker, deadline_ms=60000) == [] and begin(worker, "resolve") == [] and begin(worker, "compensation") == []
    row = db.root.row("SELECT name, version, key, parent, deadline_at, started_at FROM txb.saga")
    assert (row["name"], row["version"], row["key"], row["parent"]) == ("booking", 1, None, json.loads(parent()))
    # Its parent may have begun long before.
    assert row["started_at"] == datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
    assert before + timedelta(seconds=60) <= row["deadline_at"] <= datetime.now(timezone.utc) + timedelta(seconds=60)


def test_without_a_parent_the_deadline_counts_from_the_start(db):
    deploy(db, "booking", step("flight"))
    db.session("worker").do(
        f"SELECT txb.saga_begin('{{{ID}}}', '{{{STARTED}}}', '{{booking}}', '{{NULL}}', '{{NULL}}', '{{1}}', '{{60000}}', '{{NULL}}', '{{NULL}}')"
    )
    assert db.root.one("SELECT deadline_at - started_at FROM txb.saga").total_seconds() == 60


@pytest.mark.parametrize("operation", ["resolve", "compensation"])
@pytest.mark.parametrize("version", [1, 9])
def test_one_whose_end_is_asked_for_before_it_began_never_does(db, operation, version):
    deploy(db, "booking", step("flight"))
    worker = db.session("worker")
    ((saga, problem),) = begin(worker, operation, version=version)
    assert saga == ID and problem == "it had not begun when its parent asked for its end, and never will"
    assert begin(worker) == [], "its start finds that"
    assert db.root.do("SELECT version, parent ->> 'operation', deadline_at FROM txb.saga") == [(version % 9, operation, None)]


def test_a_child_whose_input_does_not_fit_is_refused(db):
    db.session("admin").one(DEPLOY, "booking", 1, json.dumps({"input": {"type": "object"}, "steps": [step("flight")]}))
    assert begin(db.session("worker"), body="7") == [(ID, "input is 7, which is no object")]


# ---- ends -----------------------------------------------------------------------------------------------------------


def test_what_is_undone_runs_again_and_ends_anew(db):
    deploy(db, "booking", step("flight"))
    worker = db.session("worker")
    begin(worker)
    finish = "SELECT txb.saga_finish(%s::uuid[], ARRAY[%s]::timestamptz[], '{now}', %s, '{NULL}', '{NULL}')"
    reopen = "SELECT txb.saga_reopen(%s::uuid[], ARRAY[%s]::timestamptz[])"
    result = lambda: db.session("app").one("SELECT state FROM txb.saga_result(%s)", ID)
    worker.do(finish, [ID], STARTED, ["completed"])
    assert result() == "completed"
    assert worker.one(reopen, [ID], STARTED) == 1 and result() == "running"
    assert worker.one(reopen, [ID], STARTED) == 0
    worker.do(finish, [ID], STARTED, ["compensated"])
    assert result() == "compensated"
    other = [ID[:-1] + "2"]
    assert worker.one(reopen, other, STARTED) == 0 and worker.one(reopen, [ID], "2026-01-02 12:00+00") == 0 and result() == "compensated"
