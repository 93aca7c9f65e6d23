"""What status and doctor say about sagas, and how old ones go."""

import datetime
import json
import re

import pytest

from txbtest import process
from txbtest.verify import read_topic

TWO_DAYS = {"saga_keep_ms": 2 * 86_400_000}


def shown(travel, *args):
    """A command's document, and its exit code."""
    code, out, err = travel.cli(*args, "-o", "json")
    assert out.strip(), err
    return json.loads(out), code


def sagas_check(travel):
    document, _ = shown(travel, "doctor")
    check, = [c for c in (document["checks"] if isinstance(document, dict) else document) if c["check"] == "sagas"]
    return check["result"], check["found"]


def test_status_and_doctor_show_what_waits_for_a_person(travels):
    travel = travels(group={"retry": {"attempts_max": 2, "first_ms": 20, "cap_ms": 50}})
    step = travel.step("payment", "retriable", retry={"attempts": 1, "first": "20ms", "cap": "20ms"})
    travel.deployed("trip", [travel.step("flight"), step])
    result, found = sagas_check(travel)
    assert result == "fail" and "no relay has ever served" in found
    travel.start("run")
    saga, = travel.begin(1, lambda n: {"refuse": "payment"})
    travel.wait_event([saga], "payment: stuck")
    document, _ = shown(travel, "status")
    seen, = document["sagas"]
    assert (seen["topic"], seen["under_way"], seen["stuck"], seen["stuck_first"], seen["strays"]) == (travel.topic, 1, 1, str(saga), 0)
    code, out, _ = travel.cli("status")
    assert code == 0 and str(saga) in out and "saga list --state stuck" in out
    result, found = sagas_check(travel)
    assert result == "warn" and found.startswith(f"1 wait for a person, {saga}")
    code, _, err = travel.saga("mark", str(saga), "payment", "--done", "--reason", "paid by phone")
    assert code == 0, err
    travel.wait_ended([saga])
    assert sagas_check(travel)[0] == "ok"
    assert shown(travel, "status")[0]["sagas"][0]["under_way"] == 0


def test_who_waits_for_a_person_is_shown_whatever_its_timer_and_its_neighbours_do(travels):
    """The timer of what was refused at last comes behind its being stuck; a neighbour's compensation ends behind it, too."""
    travel = travels(group={"retry": {"attempts_max": 1, "first_ms": 20, "cap_ms": 50}})
    brief = {"timeout": "400ms", "retry": {"attempts": 1, "first": "20ms", "cap": "20ms"}}
    travel.deployed("trip", [travel.step("flight", after=[], **brief), travel.step("hotel", after=[]), travel.step("payment", "pivot", after=["flight", "hotel"])])
    travel.start("run")
    with travel.postgres.session(travel.databases["hotel"]) as gate:
        saga, = travel.begin(1, lambda n: {"refuse": "payment", "stick": {"flight": 1000}})
        travel.wait_event([saga], "payment: refused")
        gate.cursor().execute("BEGIN; LOCK TABLE travel.account IN ACCESS EXCLUSIVE MODE")
        travel.wait_event([saga], "flight: stuck")
        travel.wait_event([saga], "timer")
        gate.cursor().execute("ROLLBACK")
    travel.wait_event([saga], "hotel: compensated")
    assert shown(travel, "status")[0]["sagas"][0]["stuck"] == 1
    code, document, _ = travel.saga("list", "--state", "stuck")
    assert code == 0 and [row["saga"] for row in document["sagas"]] == [str(saga)] and document["sagas"][0]["reason"].startswith("flight: ")
    assert travel.saga("list", "--count")[1]["stuck"] == 1


def us(moment):
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


def spell(events, step, operations, outcomes):
    """How many such commands a step was sent, and the time from the first to the outcome."""
    sent = [at for _, at, _, _, commands, *_ in events for c in commands or [] if c["step"] == step and c["operation"] in operations]
    over, = [at for _, at, of, event, *_ in events if of == step and event in outcomes]
    return {"attempts": len(sent), "took_ms": (us(over) - us(sent[0])) // 1000}


def test_show_tells_where_each_message_lies_how_often_a_step_was_tried_and_how_long_it_took(travels):
    travel = travels(group={"retry": {"attempts_max": 1, "first_ms": 20, "cap_ms": 50}})
    hotel = travel.step("hotel", retry={"attempts": 2, "first": "20ms"})
    travel.deployed("trip", [travel.step("flight"), hotel, travel.step("payment", "pivot")])
    travel.start("run")
    saga, = travel.begin(1, lambda n: {"refuse": "payment", "stick": {"hotel": 1000}})
    travel.wait_event([saga], "hotel: stuck")
    document, _ = shown(travel, "saga", "show", str(saga))
    tried = {s["step"]: s for s in document["steps"]}
    assert set(tried["hotel"]["compensation"]) == {"attempts", "so_far_ms"} and tried["hotel"]["compensation"]["attempts"] == 2
    assert set(tried["hotel"]["action"]) == {"attempts", "took_ms"} and "compensation" not in tried["flight"]
    code, out, _ = travel.cli("saga", "show", str(saga))
    assert code == 0 and re.search(r"^  hotel +1 +\d+ ms +- +2 +> \d", out, re.M) and re.search(r"^  flight +1 +\d+ ms +- +- +-$", out, re.M), out
    travel.postgres.query(travel.databases["hotel"], "INSERT INTO travel.mended VALUES (%s)", (saga,))
    code, _, err = travel.saga("retry", str(saga), "hotel", "--reason", "mended")
    assert code == 0, err
    travel.wait_ended([saga])
    events = travel.query("SELECT n, at, step, event, sent, message_id, message_partition, message_offset FROM txb.saga_event WHERE saga_id = %s ORDER BY n", saga)
    document, _ = shown(travel, "saga", "show", str(saga))
    tried = {s["step"]: s for s in document["steps"]}
    forward, undone = (("action",), ("effect", "refused")), (("compensation",), ("compensated",))
    assert {name: tried[name]["action"] for name in tried} == {name: spell(events, name, *forward) for name in ("flight", "hotel", "payment")}
    assert {name: tried[name].get("compensation") for name in tried} == {
        "flight": spell(events, "flight", *undone), "hotel": spell(events, "hotel", *undone), "payment": None}
    assert tried["hotel"]["compensation"]["attempts"] == 3 and tried["flight"]["compensation"]["attempts"] == 1
    assert {(e["step"], e["event"]): e["took_ms"] for e in document["events"] if "took_ms" in e} == {
        ("flight", "effect"): tried["flight"]["action"]["took_ms"], ("hotel", "effect"): tried["hotel"]["action"]["took_ms"],
        ("payment", "refused"): tried["payment"]["action"]["took_ms"],
        ("hotel", "compensated"): tried["hotel"]["compensation"]["took_ms"], ("flight", "compensated"): tried["flight"]["compensation"]["took_ms"]}
    assert "next_timer" not in document
    # In the text each event has the place of its message, which is that of Kafka, and each message's id is told once.
    code, out, _ = travel.cli("saga", "show", str(saga))
    assert code == 0 and "next timer" not in out, out
    lies = {(record.partition, record.offset): record.id for record in read_topic(travel.kafka.brokers, travel.topic)}
    for (n, _, step, event, _, message, partition, offset), told in zip(events, document["events"], strict=True):
        assert lies[partition, offset] == str(message) and out.count(str(message)) == 1, out
        line, = [line for line in out.splitlines() if str(message) in line]
        assert len(line) == 100 and line.endswith(str(message)), line
        took = r" \(\d[^)]*\)" if "took_ms" in told else r" \(\d+ ms late\)" if event == "timer" else ""
        at, place, what = f"{told['ms'] / 1000:.3f} s +{n} ", f" {partition}@{offset} ", f" {step}: {event}" if step else f" {event}"
        assert re.search(f"^ *{at}{place} *{what}{took}(?! \\()", out, re.M), f"{what}\n{out}"


def test_show_tells_what_the_next_timer_is_for(travels):
    travel = travels()
    travel.deployed("trip", [travel.step("flight", timeout="10m"), travel.step("hotel", timeout="10m"), travel.step("payment", "pivot")])
    again = {"attempts": 2, "first": "20m", "cap": "20m"}
    travel.deployed("calm", [travel.step("flight", timeout="10m"), travel.step("payment", "retriable", timeout="10m", retry=again)])
    travel.start("run")
    with travel.postgres.session(travel.databases["hotel"]) as gate:
        gate.cursor().execute("BEGIN; LOCK TABLE travel.account IN ACCESS EXCLUSIVE MODE")
        plain, = travel.begin(1)
        brief, = travel.begin(1, deadline="9m")
        calm, = travel.begin(1, lambda n: {"no": {"payment": 1}}, name="calm")
        travel.wait_event([plain, brief], "hotel: begin")
        travel.wait_event([calm], "payment: refused")
        for saga, waits, of, due in [(plain, "answer", "hotel: begin", "10 min"), (brief, "deadline", None, "9 min"), (calm, "pause", "payment: refused", "20 min")]:
            # The timer is the one that was set first; what is due is told apart from it, by the time of the timeline.
            set_to, since, due_s = travel.query("""
                SELECT max(v.timer_at), extract(epoch FROM max(v.timer_at) - s.started_at)::float8,
                       extract(epoch FROM coalesce(max(v.at) FILTER (WHERE concat_ws(': ', v.step, v.event) = %s), s.started_at) + %s - s.started_at)::float8
                  FROM txb.saga AS s JOIN txb.saga_event AS v ON v.saga_id = s.id WHERE s.id = %s GROUP BY s.started_at""", of, due, saga)[0]
            document, _ = shown(travel, "saga", "show", str(saga))
            timer, step = document["next_timer"], of.split(":")[0] if of else None
            assert datetime.datetime.fromisoformat(timer["at"]) == set_to and (timer["for"], timer.get("step")) == (waits, step), timer
            assert abs(timer["in_ms"] + document["ms"] - since * 1000) <= 1 and abs(timer["due_in_ms"] + document["ms"] - due_s * 1000) <= 1, timer
            code, out, _ = travel.cli("saga", "show", str(saga))
            line, = [line for line in out.splitlines() if "next timer" in line]
            told = {"answer": "hotel: no answer by", "deadline": "the deadline at", "pause": "payment: again at"}[waits]
            seconds = re.fullmatch(f"  next timer   {re.escape(timer['at'])}, in [0-9.]+ (s|min), for {told} ([0-9.]+) s", line)
            assert code == 0 and seconds and abs(float(seconds[2]) - due_s) < 0.002, f"{due_s}\n{out}"
            assert re.search(r"; timer at [0-9.]+ s", out), out
        gate.cursor().execute("ROLLBACK")
    travel.wait_ended([plain, brief])


@pytest.mark.parametrize("ended", [True, False])
def test_a_coordinator_drops_old_days_whose_sagas_have_ended(travels, ended):
    travel = travels(group=TWO_DAYS)
    with travel.postgres.session(travel.agency) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT txb.saga_partition_make(10, 1)")
        cursor.execute("INSERT INTO txb.saga (id, started_at, name, version, input) SELECT txb.uuid_v7(), now() - d * interval '1 day', 'old', 1, '{}'"
                       " FROM unnest('{8,5}'::int[]) AS d")
        cursor.execute("INSERT INTO txb.saga_end (saga_id, started_at, ended_at, state) SELECT id, started_at, started_at, 'completed' FROM txb.saga"
                       " WHERE %s OR started_at < now() - interval '6 days'", (ended,))
    coordinator = travel.worker("sagas")
    process.wait_for(lambda: travel.query("SELECT count(*) FROM txb.saga") == [(0 if ended else 1,)], travel.logs_text, 60, alive=travel.alive)
    process.wait_for(lambda: "days of sagas dropped" in coordinator.text(), travel.logs_text, 60, alive=travel.alive)


def test_a_participant_drops_old_days_of_its_barrier(travels):
    travel = travels(group=TWO_DAYS)
    travel.deployed("trip", [travel.step("flight")])
    database = travel.databases["flight"]
    with travel.postgres.session(database) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT txb.barrier_partition_make(10, 1)")
        cursor.execute("INSERT INTO txb.barrier (started_at, saga_id, step, state) VALUES (now() - interval '5 days', txb.uuid_v7(), 'old', 'ok')")
    travel.start("run")
    saga, = travel.begin(1)
    travel.wait_ended([saga])
    process.wait_for(lambda: travel.postgres.value(database, "SELECT count(*) FROM txb.barrier") == 1, travel.logs_text, 60, alive=travel.alive)
    assert travel.result(saga)["state"] == "completed"
