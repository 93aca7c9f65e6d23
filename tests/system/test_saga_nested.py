"""Sagas within each other (S7): a child ends as its parent needs, whatever dies meanwhile; what can't be is not deployed."""

import json
import random
import uuid

import pytest

from txbtest import process
from txbtest.program import USAGE

# What stands of each saga by its name, once it is completed.
STANDS = {"stay": ["flight", "hotel"], "lodging": ["hotel"], "tour": ["payment"], "round": ["payment"], "sale": ["flight", "payment"],
          "sold": ["hotel"], "paper": ["hotel"], "sent": ["payment"],
          "pair": ["flight"], "twice": ["flight"], "trek": ["payment"], "hut": ["flight", "hotel"], "hike": ["payment"]}
OUTPUT = {"stay": "{steps.stay.output}", "payment": "{steps.payment.output.booking}"}
BRIEF = {"attempts": 1000, "first": "20ms", "cap": "100ms"}


def inner(name, **changes):
    """A step that is the saga of that name."""
    return {"name": name, "kind": "compensatable", "saga": {"name": name}, **changes}


def stay(travel):
    """Flight and hotel as a whole, which can be undone."""
    return deployed(travel, "stay", [travel.step("flight"), travel.step("hotel")], {"room": "{steps.hotel.output.booking}"})


def tour(travel):
    stay(travel)
    return deployed(travel, "tour", [inner("stay"), travel.step("payment", "pivot")], OUTPUT)


def deployed(travel, name, steps, output=None, version=1, **more):
    """Deploys; steps: its own."""
    code, _, err = travel.deploy({**travel.definition(name=name, version=version), "steps": steps, "output": output or {}, **more})
    assert code == 0, err
    return name


def children(travel, saga):
    """{step: [id, ...]}, by when they were asked for."""
    found = {}
    for step, child in travel.query("SELECT x.value ->> 'step', x.value ->> 'saga' FROM txb.saga_event AS e, jsonb_array_elements(e.sent) AS x"
                                    " WHERE e.saga_id = %s AND x.value ? 'saga' ORDER BY e.n", saga):
        if uuid.UUID(child) not in found.setdefault(step, []):
            found[step].append(uuid.UUID(child))
    return found


def only_child(travel, saga, step="stay"):
    child, = children(travel, saga)[step]
    return child


def wait_all(travel, ids):
    """Until the sagas have ended, and whatever is within them."""
    travel.wait_ended(ids)
    travel.wait_ended()


def check(travel):
    """Each saga, by its name, has what stands of it when it is completed, and nothing otherwise."""
    rows = travel.query("SELECT s.id, s.name, e.state FROM txb.saga AS s JOIN txb.saga_end AS e ON e.saga_id = s.id")
    travel.wants.update({saga: STANDS[name] if state == "completed" else [] for saga, name, state in rows})
    travel.check()
    # Of a parent that is compensated no child is completed, of one that is completed only those of the last try.
    assert travel.query("""SELECT c.id FROM txb.saga AS c JOIN txb.saga_end AS e ON e.saga_id = c.id
        JOIN txb.saga_end AS p ON p.saga_id::text = c.parent ->> 'saga' WHERE e.state = 'completed' AND p.state <> 'completed'""") == []
    assert travel.query("SELECT reason FROM txb.saga_stray") == []


# -- how they end ----------------------------------------------------------------------------------------------------------------


def test_a_step_that_is_a_saga_gives_what_that_gave(travel):
    saga, = travel.begin(1, name=tour(travel))
    wait_all(travel, [saga])
    child, result = only_child(travel, saga), travel.result(saga)
    assert result["state"] == "completed" and result["output"]["stay"] == travel.result(child)["output"] and set(result["output"]["stay"]) == {"room"}
    assert travel.events(saga) == ["start", "stay: begin", "stay: effect", "payment: begin", "payment: effect", "end"]
    assert sorted(travel.bookings()[child]) == ["flight", "hotel"] and travel.bookings()[saga] == ["payment"]
    row, = travel.query("SELECT c.parent, c.version, c.started_at = p.started_at, c.started_by FROM txb.saga AS c, txb.saga AS p WHERE c.id = %s AND p.id = %s",
                        child, saga)
    assert row[0]["saga"] == row[0]["root"] == str(saga) and row[0]["step"] == "stay" and row[1:] == (1, True, "a message")
    check(travel)


def test_a_step_whose_output_breaks_its_schema_gives_nothing_and_has_happened(travel):
    deployed(travel, "hut", [travel.step("flight"), travel.step("hotel")], {"room": "{steps.hotel.output.booking}"}, output_schema={"required": ["key"]})
    saga, = travel.begin(1, name=deployed(travel, "hike", [inner("hut"), travel.step("payment", "pivot")], {"hut": "{steps.hut.output}"}))
    wait_all(travel, [saga])
    child = only_child(travel, saga, "hut")
    assert travel.result(child)["reason"] == "completed, but its output breaks output_schema: output.key is missing"
    assert travel.result(child)["state"] == travel.result(saga)["state"] == "completed" and travel.result(child)["output"] is None
    assert travel.result(saga)["output"] == {"hut": None}, travel.result(saga)
    assert travel.query("SELECT output, reason FROM txb.saga_event WHERE saga_id = %s AND event = 'effect' AND step = 'hut'", saga) == [(None, travel.result(child)["reason"])]
    check(travel)


def test_what_is_behind_it_refuses_and_it_is_undone(travel):
    saga, = travel.begin(1, lambda n: {"refuse": "payment"}, name=tour(travel))
    wait_all(travel, [saga])
    child = only_child(travel, saga)
    assert travel.result(saga)["state"] == travel.result(child)["state"] == "compensated"
    assert travel.result(saga)["reason"] == "payment: no payment is left" and travel.result(child)["reason"] == "its parent undoes it"
    assert travel.events(child) == ["start", "flight: begin", "flight: effect", "hotel: begin", "hotel: effect", "end", "undo", "hotel: compensated",
                                    "flight: compensated", "end"]
    assert not {saga, child} & set(travel.bookings())
    check(travel)


def test_it_refuses_and_what_was_before_it_is_undone(travel):
    stay(travel)
    name = deployed(travel, "twice", [travel.step("flight"), inner("stay")])
    saga, = travel.begin(1, lambda n: {"refuse": "hotel"}, name=name)
    wait_all(travel, [saga])
    child = only_child(travel, saga)
    assert travel.result(saga)["reason"] == "stay: hotel: no hotel is left" and travel.result(child)["reason"] == "hotel: no hotel is left"
    assert travel.events(saga) == ["start", "flight: begin", "flight: effect", "stay: begin", "stay: refused", "flight: compensated", "end"]
    check(travel)


def test_a_parent_that_is_cancelled_has_its_child_turn_back(travel):
    name = tour(travel)
    with travel.postgres.session(travel.databases["hotel"]) as gate:
        gate.cursor().execute("BEGIN; LOCK TABLE travel.account IN ACCESS EXCLUSIVE MODE")
        saga, = travel.begin(1, name=name)
        travel.wait_event([saga], "stay: begin")
        child = only_child(travel, saga)
        travel.wait_event([child], "hotel: begin")
        code, _, err = travel.saga("cancel", str(saga), "--reason", "a test")
        assert code == 0, err
        travel.wait_event([child], "turn_back")
        gate.cursor().execute("ROLLBACK")
    wait_all(travel, [saga])
    assert travel.result(saga)["state"] == "compensated" and travel.result(child)["reason"] == "its parent asks to settle"
    assert travel.events(saga) == ["start", "stay: begin", "turn_back", "stay: refused", "end"]
    check(travel)


def test_a_time_out_of_the_step_settles_the_child(travel):
    stay(travel)
    name = deployed(travel, "round", [inner("stay", timeout="300ms", retry=BRIEF), travel.step("payment", "pivot")])
    with travel.postgres.session(travel.databases["flight"]) as gate:
        gate.cursor().execute("BEGIN; LOCK TABLE travel.account IN ACCESS EXCLUSIVE MODE")
        saga, = travel.begin(1, name=name)
        travel.wait_event([saga], "stay: time")
        travel.wait_event([only_child(travel, saga)], "turn_back")
        gate.cursor().execute("ROLLBACK")
    wait_all(travel, [saga])
    assert travel.result(saga)["state"] == "compensated"
    check(travel)


@pytest.mark.parametrize("refuse", [None, "payment", "hotel"])
def test_two_levels_deep(refuse, travel):
    travel.deployed("lodging", [travel.step("hotel")])
    deployed(travel, "pair", [travel.step("flight"), inner("lodging")])
    name = deployed(travel, "trek", [inner("pair"), travel.step("payment", "pivot")])
    saga, = travel.begin(1, lambda n: {"refuse": refuse} if refuse else {}, name=name)
    wait_all(travel, [saga])
    middle = only_child(travel, saga, "pair")
    deepest = only_child(travel, middle, "lodging")
    wanted = "compensated" if refuse else "completed"
    assert [travel.result(one)["state"] for one in (saga, middle, deepest)] == [wanted] * 3
    assert {parent["root"] for parent, in travel.query("SELECT parent FROM txb.saga WHERE id IN (%s, %s)", middle, deepest)} == {str(saga)}
    check(travel)


@pytest.mark.parametrize("refuse", [None, "flight", "payment"])
def test_a_pivot_that_is_a_saga_with_a_pivot_of_its_own(refuse, travel):
    travel.deployed("sale", [travel.step("flight"), travel.step("payment", "pivot")])
    name = deployed(travel, "sold", [travel.step("hotel"), inner("sale", kind="pivot")])
    saga, = travel.begin(1, lambda n: {"refuse": refuse} if refuse else {}, name=name)
    wait_all(travel, [saga])
    assert travel.result(saga)["state"] == travel.result(only_child(travel, saga, "sale"))["state"] == ("compensated" if refuse else "completed")
    check(travel)


def test_a_pivot_under_way_decides_for_both_when_the_parent_is_cancelled(travel):
    travel.deployed("sale", [travel.step("flight"), travel.step("payment", "pivot")])
    name = deployed(travel, "sold", [travel.step("hotel"), inner("sale", kind="pivot")])
    with travel.postgres.session(travel.databases["payment"]) as gate:
        gate.cursor().execute("BEGIN; LOCK TABLE travel.account IN ACCESS EXCLUSIVE MODE")
        saga, = travel.begin(1, name=name)
        travel.wait_event([saga], "sale: begin")
        child = only_child(travel, saga, "sale")
        travel.wait_event([child], "payment: begin")
        code, _, err = travel.saga("cancel", str(saga), "--reason", "a test")
        assert code == 0, err
        travel.wait_event([child], "turn_back")
        gate.cursor().execute("ROLLBACK")
    wait_all(travel, [saga])
    assert travel.result(saga)["state"] == travel.result(child)["state"] == "completed"
    check(travel)


@pytest.fixture
def moody(travels):
    """The hotel refuses the first two bookings that it is asked for."""
    travel = travels(group={"retry": {"first_ms": 20, "cap_ms": 100}})
    travel.handlers["hotel"] = {"kind": "sql", "function": "travel.moody"}
    with travel.postgres.session(travel.databases["hotel"]) as connection, connection.cursor() as cursor:
        cursor.execute("""CREATE SEQUENCE travel.mood; GRANT USAGE ON SEQUENCE travel.mood TO PUBLIC;
            CREATE FUNCTION travel.moody(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
            BEGIN
              IF m.type = 'hotel.book' AND nextval('travel.mood') <= 2 THEN
                RETURN txb.refuse('not today');
              END IF;
              RETURN travel.handle(m);
            END $$""")
    travel.start("run")
    return travel


def test_what_is_tried_until_it_succeeds_is_a_new_saga_each_time(moody):
    moody.deployed("paper", [moody.step("hotel")])
    name = deployed(moody, "sent", [moody.step("payment", "pivot"), inner("paper", kind="retriable", retry=BRIEF)])
    saga, = moody.begin(1, name=name)
    wait_all(moody, [saga])
    tried = children(moody, saga)["paper"]
    assert [moody.result(one)["state"] for one in tried] == ["compensated", "compensated", "completed"]
    assert moody.result(saga)["state"] == "completed" and moody.events(saga).count("paper: refused") == 2
    check(moody)


# -- versions --------------------------------------------------------------------------------------------------------------------


def test_the_version_is_the_one_that_was_the_newest_at_deploying(travels):
    travel = travels()
    travel.start("run")
    name = tour(travel)
    travel.deployed("stay", [travel.step("flight"), travel.step("hotel"), travel.step("payment", "pivot")], version=2)
    saga, = travel.begin(1, name=name)
    wait_all(travel, [saga])
    assert travel.query("SELECT version FROM txb.saga WHERE id = %s", only_child(travel, saga)) == [(1,)]
    # Word for word the same: nothing new, though the newest would not do any more.
    definition = {**travel.definition(name=name), "steps": [inner("stay"), travel.step("payment", "pivot")],
                  "output": OUTPUT}
    code, document, err = travel.deploy(definition)
    assert code == 0 and document["new"] is False, err
    code, _, err = travel.deploy({**definition, "version": 2})
    assert code == USAGE and "step payment of saga stay (version 2) is pivot, and can't be undone for good" in err, err
    check(travel)


def test_what_can_t_be_within_it_is_refused_by_line(travel):
    travel.deployed("sale", [travel.step("flight"), travel.step("payment", "pivot")])
    text = json.dumps({**travel.definition(name="outer"), "output": {}, "steps": [travel.step("hotel"), inner("sale")]}, indent=1)
    line = 1 + text[:text.index('"saga"')].count("\n")
    code, out, err = travel.cli("saga", "deploy", "-", stdin=text.encode())
    assert code == USAGE and f"standard input:{line}: steps[1].saga: step payment of saga sale (version 1) is pivot" in err, out + err
    assert err.count("\n") == 1 and "make this step the pivot or retriable" in err
    code, dry, again = travel.cli("saga", "deploy", "--dry-run", "-", stdin=text.encode())
    assert (code, dry, again) == (USAGE, out, err)
    for n in range(1, 9):
        deployed(travel, f"d{n}", [travel.step("hotel") if n == 1 else inner(f"d{n - 1}")])
    code, _, err = travel.deploy({**travel.definition(name="d9"), "steps": [inner("d8")], "output": {}})
    assert code == USAGE and "more than 8 sagas would lie within each other" in err
    # Whoever deploys without the program is told by the function.
    assert travel.query("SELECT problem FROM txb.saga_nested(%s::jsonb)", text)[0][0].startswith("steps[1].saga: version 1 of saga sale has a step that can't")


# -- what is seen ----------------------------------------------------------------------------------------------------------------


def test_both_are_shown_with_each_other(travel):
    saga, other = travel.begin(2, lambda n: {"refuse": "payment"} if n else {}, name=tour(travel))
    wait_all(travel, [saga, other])
    child, undone = only_child(travel, saga), only_child(travel, other)
    code, document, err = travel.saga("show", str(saga))
    assert code == 0 and [(c["saga"], c["step"], c["name"], c["state"]) for c in document["children"]] == [(str(child), "stay", "stay", "completed")], err
    code, document, err = travel.saga("show", str(undone))
    assert code == 0 and document["parent"]["saga"] == str(other) and document["state"] == "compensated" and document["children"] == [], err
    code, out, err = travel.cli("saga", "show", str(saga))
    assert code == 0 and f"stay: saga {child}, stay version 1, completed" in out and "saga stay version 1" in out, out + err
    code, out, err = travel.cli("saga", "show", str(child))
    assert code == 0 and f"stay of saga {saga}" in out, out + err
    for parent, kid in ((saga, child), (other, undone)):
        code, document, err = travel.saga("list", "--parent", str(parent))
        assert code == 0 and [row["saga"] for row in document["sagas"]] == [str(kid)], err
    code, document, err = travel.saga("list", "--parent", str(child))
    assert code == 0 and document["sagas"] == [], err
    assert travel.saga("list", "--parent", "x")[0] == USAGE


def stuck_child(travel):
    """A parent that is stuck because its child's hotel can't be cancelled."""
    brief = {"attempts": 2, "first": "20ms"}
    travel.deployed("stay", [travel.step("flight"), travel.step("hotel", retry=brief)], version=2)
    # Time enough for the child to book: turned back before its hotel, it would have nothing that can't be cancelled.
    name = deployed(travel, "tour", [inner("stay", timeout="5s", retry=brief), travel.step("payment", "pivot")], version=2)
    saga, = travel.begin(1, lambda n: {"refuse": "payment", "stick": {"hotel": 1000}}, name=name)
    travel.wait_event([saga], "stay: stuck")
    return saga, only_child(travel, saga)


@pytest.fixture
def brief(travels):
    travel = travels(group={"retry": {"attempts_max": 2, "first_ms": 20, "cap_ms": 50}})
    travel.start("run")
    tour(travel)
    return travel


def test_a_person_decides_at_the_child_and_the_parent_ends_by_itself(brief):
    saga, child = stuck_child(brief)
    brief.wait_event([child], "hotel: stuck")
    code, out, err = brief.cli("saga", "show", str(saga))
    assert code == 0 and f"txbroker saga show {child}" in out, out + err
    code, document, err = brief.saga("list", "--state", "stuck", "--parent", str(saga))
    assert [row["saga"] for row in document["sagas"]] == [str(child)], err
    with brief.postgres.session(brief.databases["hotel"]) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO travel.mended VALUES (%s)", (str(child),))
    code, _, err = brief.saga("retry", str(child), "hotel", "--reason", "mended")
    assert code == 0, err
    wait_all(brief, [saga])
    assert brief.result(saga)["state"] == brief.result(child)["state"] == "compensated"
    check(brief)


# -- messages that nobody expects ------------------------------------------------------------------------------------------------


def message(travel, kind, operation, child, of, step="stay", sending=1, name="stay"):
    """Into the coordinator's topic, as the saga `of` would send it to its child."""
    started = travel.query("SELECT (extract(epoch FROM started_at) * 1000000)::bigint FROM txb.saga WHERE id = %s", of)[0][0]
    body = {"name": name, "version": 1, "input": {"amount": 1},
            "parent": {"saga": str(of), "started": started, "step": step, "operation": operation, "sending": sending, "root": str(of)}}
    travel.query("SELECT txb.publish(%s, %s, %s, %s::jsonb, %s::jsonb)", travel.topic, str(child), kind, json.dumps(body),
                 json.dumps({"txb-saga": str(child), "txb-saga-started": str(started)}))


def answers(travel, child):
    return travel.query("""SELECT headers ->> 'txb-saga-operation', convert_from(payload, 'UTF8')::jsonb ->> 'answer' FROM txb.outbox
                            WHERE type = 'txb.reply' AND headers ->> 'txb-saga-child' = %s ORDER BY seq""", str(child))


@pytest.mark.parametrize("kind,operation,said", [("txb.saga.settle", "resolve", "never"), ("txb.saga.undo", "compensation", "compensated")])
def test_one_whose_end_is_asked_for_first_never_begins(kind, operation, said, travel):
    saga, = travel.begin(1, name=tour(travel))
    wait_all(travel, [saga])
    child = uuid.uuid4()
    message(travel, kind, operation, child, saga)
    travel.wait_event([saga], "stay: ignored")  # the answer: the parent knows another child
    result = travel.result(child)
    assert result["state"] == "refused" and "never will" in result["reason"]
    message(travel, "txb.saga.start", "action", child, saga, sending=2)
    message(travel, kind, operation, child, saga, sending=3)
    process.wait_for(lambda: len(answers(travel, child)) == 3, lambda: f"{answers(travel, child)}\n{travel.logs_text()}", 60, alive=travel.alive)
    assert answers(travel, child) == [(operation, said), ("action", "refused"), (operation, said)]
    assert travel.events(child) == [] and child not in travel.bookings() and travel.result(saga)["state"] == "completed"
    check(travel)


def test_one_whose_input_does_not_fit_is_refused_however_often_it_is_asked(travel):
    stay(travel)
    name = deployed(travel, "twice", [travel.step("flight"), inner("stay", input={"amount": "{input.none}"})], version=2)
    saga, = travel.begin(1, lambda n: {"none": 0}, name=name)
    wait_all(travel, [saga])
    child, why = only_child(travel, saga), "input.amount is 0, it must be at least 1"
    assert travel.result(saga)["reason"] == f"stay: {why}" and travel.result(child)["state"] == "refused"
    message(travel, "txb.saga.start", "action", child, saga, sending=2)
    message(travel, "txb.saga.settle", "resolve", child, saga, sending=3)
    process.wait_for(lambda: len(answers(travel, child)) == 3, lambda: f"{answers(travel, child)}\n{travel.logs_text()}", 60, alive=travel.alive)
    assert answers(travel, child) == [("action", "refused"), ("action", "refused"), ("resolve", "refused")]
    assert travel.events(child) == [] and travel.result(child)["reason"] == why
    check(travel)


def test_who_is_not_its_parent_can_t_undo_it(travels):
    travel = travels()
    travel.start("run")
    saga, other = travel.begin(2, name=tour(travel))
    wait_all(travel, [saga, other])
    child = only_child(travel, saga)
    us = travel.query("SELECT (extract(epoch FROM started_at) * 1000000)::bigint::text FROM txb.saga WHERE id = %s", child)[0][0]
    body = {"name": "stay", "version": 1, "parent": {"saga": str(other), "started": int(us), "step": "stay", "operation": "compensation",
                                                     "sending": 9, "root": str(other)}}
    travel.query("SELECT txb.publish(%s, %s, 'txb.saga.undo', %s::jsonb, %s::jsonb)", travel.topic, str(child), json.dumps(body),
                 json.dumps({"txb-saga": str(child), "txb-saga-started": us}))
    process.wait_for(lambda: travel.query("SELECT reason FROM txb.saga_stray") == [("it is not from the saga that this one is a step of",)],
                     travel.logs_text, 60, alive=travel.alive)
    assert travel.result(child)["state"] == "completed" and sorted(travel.bookings()[child]) == ["flight", "hotel"]


# -- kill -9 ---------------------------------------------------------------------------------------------------------------------


def given(n):
    refuse = {0: "payment", 3: "hotel", 6: "flight"}.get(n % 10)
    return {"refuse": refuse} if refuse else {}


def ended_as_wanted(travel, ids):
    wait_all(travel, ids)
    found = dict(travel.query("SELECT saga_id, state FROM txb.saga_end WHERE saga_id = ANY (%s)", ids))
    wrong = {saga: travel.events(saga) for n, saga in enumerate(ids) if found.get(saga) != ("compensated" if given(n) else "completed")}
    assert not wrong, f"{len(wrong)} of {len(ids)} ended otherwise: {list(wrong.items())[:3]}"
    assert travel.query("SELECT saga_id FROM txb.saga_event WHERE event = 'stuck'") == []
    assert travel.query("SELECT * FROM txb.scheduled") == []
    check(travel)


@pytest.mark.crash
@pytest.mark.parametrize("what,point", [("sagas", "coordinator.after_load"), ("sagas", "coordinator.after_store"), ("sagas", "worker.in_commit"),
                                        ("sagas", "worker.after_commit"), ("hotel", "worker.before_commit"), ("flight", "worker.after_commit")])
def test_kill_9_leaves_all_of_a_family_or_nothing(what, point, travels, seed):
    travel = travels(group={"session_timeout_ms": 6000, "batch_messages": 10, "retry": {"first_ms": 20, "cap_ms": 200}},
                     relay={"lease_ms": 3000, "checkpoint_ms": 20})
    travel.relay()
    for role in {"sagas", "flight", "hotel", "payment"} - {what}:
        travel.worker(role)
    name, chance, worker = tour(travel), random.Random(f"{seed} {what} {point}"), None
    for _ in range(2):
        if worker is not None:
            assert worker.stop() == 0, worker.text()
        victim = travel.worker(what, env={"TXB_FAILPOINT": f"{point}:{chance.randint(1, 6)}"})
        ids = travel.begin(100, given, name=name)
        assert victim.wait_exit(60) == -9, victim.text()
        worker = travel.worker(what)
        ended_as_wanted(travel, ids)  # before the next kill: a message that is killed with again and again is given up (W10)


@pytest.mark.crash
def test_parent_and_child_in_two_coordinators_that_are_killed_again_and_again(travels, seed):
    travel = travels(group={"session_timeout_ms": 6000, "batch_messages": 10, "retry": {"first_ms": 20, "cap_ms": 200}},
                     relay={"lease_ms": 3000, "checkpoint_ms": 20}, partitions=4)
    travel.relay()
    for what in ("flight", "hotel", "payment"):
        travel.worker(what)
    name, chance, ids = tour(travel), random.Random(f"{seed} two"), []
    coordinators = [travel.worker("sagas") for _ in range(2)]
    for _ in range(5):
        ids += travel.begin(50, lambda n: given(len(ids) + n), name=name)
        travel.wait_event(ids[-50:-40], "stay: begin")
        victim = chance.randrange(2)
        coordinators[victim].kill9()
        coordinators[victim] = travel.worker("sagas")
        ended_as_wanted(travel, ids)
