"""What sagas within each other lock (S6, S7): one root holds it for all of them, nobody within waits, and nothing is left behind."""

import json
import uuid

from txbtest import process

ACCOUNT = ["account:{input.account}"]


def deployed(travel, name, steps, **more):
    code, _, err = travel.deploy({**travel.definition(name=name), "steps": steps, "output": {}, **more})
    assert code == 0, err
    return name


def family(travel, outer=None, inner=None):
    """An outer saga whose first step is a saga that books a flight; the names of both."""
    within = deployed(travel, f"inner{len(outer or [])}{len(inner or [])}", [travel.step("flight")], **({"locks": inner} if inner else {}))
    step = {"name": "within", "kind": "compensatable", "saga": {"name": within}}
    return deployed(travel, f"outer{len(outer or [])}{len(inner or [])}", [step, travel.step("payment", "pivot")], **({"locks": outer} if outer else {}))


def locks(travel):
    return travel.query("SELECT name, saga_id, granted FROM txb.saga_lock ORDER BY place")


def check(travel, saga, state, wants):
    travel.wait_ended([saga])
    travel.wait_ended()
    assert travel.result(saga)["state"] == state, travel.events(saga)
    travel.wants.update({one: [] for one, in travel.query("SELECT id FROM txb.saga WHERE parent ->> 'saga' = %s", str(saga))})
    for child, in travel.query("SELECT s.id FROM txb.saga AS s JOIN txb.saga_end AS e ON e.saga_id = s.id AND e.state = 'completed' WHERE s.parent ->> 'saga' = %s", str(saga)):
        travel.wants[child] = ["flight"]
    travel.wants[saga] = wants
    travel.check()
    assert locks(travel) == []


def test_what_the_outer_one_locks_is_the_inner_one_s_too(travels):
    travel = travels()
    name = family(travel, ACCOUNT, [*ACCOUNT, "also:{input.account}"])
    travel.start("run")
    saga, = travel.begin(1, lambda n: {"account": 1}, name=name)
    check(travel, saga, "completed", ["payment"])


def test_what_only_the_inner_one_locks_is_given_back_at_the_end_of_all(travels):
    travel = travels()
    name = family(travel, None, ACCOUNT)
    travel.start("run")
    with travel.postgres.session(travel.databases["payment"]) as gate:
        gate.cursor().execute("BEGIN; LOCK TABLE travel.account IN ACCESS EXCLUSIVE MODE")
        saga, = travel.begin(1, lambda n: {"account": 1}, name=name)
        travel.wait_event([saga], "payment: begin")
        (held, by, granted), = locks(travel)
        assert held == "account:1" and by != saga and granted, "its own saga has ended, and the account is locked until the whole has"
        gate.cursor().execute("ROLLBACK")
    check(travel, saga, "completed", ["payment"])


def test_an_inner_one_does_not_wait_for_others(travels):
    """It might hold what those wait for."""
    travel = travels()
    name = family(travel, None, ACCOUNT)
    other = deployed(travel, "other", [travel.step("hotel")], locks=ACCOUNT)
    travel.start("run")
    with travel.postgres.session(travel.databases["hotel"]) as gate:
        gate.cursor().execute("BEGIN; LOCK TABLE travel.account IN ACCESS EXCLUSIVE MODE")
        holder, = travel.begin(1, lambda n: {"account": 1}, name=other)
        travel.wait_event([holder], "hotel: begin")
        saga, = travel.begin(1, lambda n: {"account": 1}, name=name)
        process.wait_for(lambda: travel.result(saga)["state"] == "compensated", lambda: travel.open_text() + travel.logs_text(), 60, alive=travel.alive)
        assert travel.result(saga)["reason"] == f"within: lock account:1 is held by saga {holder}"
        gate.cursor().execute("ROLLBACK")
    travel.wants[holder] = ["hotel"]
    check(travel, saga, "compensated", [])


def test_who_is_refused_holds_nothing_however_often_it_comes(travels):
    travel = travels()
    name = deployed(travel, "strict", [travel.step("flight")], locks=ACCOUNT)
    travel.start("run")
    saga = str(uuid.uuid4())
    for goal in (1, 2):
        travel.postgres.query(travel.agency, "SELECT txb.publish(%s, %s, 'txb.saga.start', %s::jsonb, %s::jsonb)", (
            travel.topic, saga, json.dumps({"name": name, "input": {"account": 1, "amount": 0}}), json.dumps({"txb-saga": saga, "txb-saga-started": "1700000000000000"})))
        process.wait_for(lambda goal=goal: travel.query("SELECT sum(applied) FROM txb.consumer_offset WHERE topic = %s", travel.topic)[0][0] == goal,
                         travel.logs_text, 60, alive=travel.alive)
    assert travel.result(saga)["state"] == "refused" and locks(travel) == []
