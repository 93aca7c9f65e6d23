"""What status and doctor say about sagas, and how old ones go."""

import json

import pytest

from txbtest import process

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
