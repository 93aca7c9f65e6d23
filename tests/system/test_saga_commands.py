"""Commands of sagas that fail for good, what people decide about them, and what `txbroker saga` says to what it can't do."""

import contextlib
import json
import re
import uuid

import pytest

from txbtest import process
from txbtest.plugin import build_plugin
from txbtest.program import FAILED, USAGE, Program, command
from txbtest.travel import Travel
from txbtest.verify import read_topic

NOBODY = "0190163d-8694-739b-aea5-966c26f8ad91"


@pytest.fixture(scope="module")
def agency(postgres, kafka, seed):
    """As elsewhere, and commands are given up after two attempts."""
    made = Travel(postgres, kafka, seed, group={"retry": {"attempts_max": 2, "first_ms": 20, "cap_ms": 50}})
    made.start("run")
    yield made
    made.close()


def one_line(err):
    """What was said, in one line."""
    assert err.startswith("txbroker: ") and err.count("\n") == 1, err
    return err


# -- commands that are given up --------------------------------------------------------------------------------------------------


def test_a_command_out_of_attempts_is_refused_and_holds_nothing_up(travel):
    """S1: the compensation of `out` comes through the topic, with the key, in which `back` died."""
    name = travel.deployed("return", [travel.step("out", what="flight"), travel.step("back", what="flight"), travel.step("payment", "pivot")])
    saga, = travel.begin(1, lambda n: {"fail": {"back": 1000}}, name=name)
    travel.wait_ended([saga])
    result = travel.result(saga)
    assert result["state"] == "compensated" and result["reason"] == "back: given up after 2 attempts: the back office is closed"
    assert [event for event in travel.events(saga) if not event.endswith("begin")] == ["start", "out: effect", "back: refused", "out: compensated", "end"]
    assert travel.failed("flight", "state, attempts, convert_from(key, 'UTF8'), type") == [("dead", 2, str(saga), "back.book")]
    assert travel.postgres.value(travel.databases["flight"], "SELECT sum(held) FROM txb.consumer_offset") == 0
    # In one transaction: the row and the answer have the same xmin, and so has what the barrier says.
    assert travel.postgres.query(travel.databases["flight"], """
        SELECT DISTINCT b.state FROM txb.failed AS f JOIN txb.barrier AS b ON b.saga_id::text = f.headers ->> 'txb-saga' AND b.step = 'back'
         JOIN txb.outbox AS o ON o.key = convert_from(f.key, 'UTF8') AND o.xmin = b.xmin WHERE f.xmin = b.xmin""") == [("refused",)]
    travel.check()
    # Its retry changes nothing any more.
    number = travel.failed("flight", "number")[0][0]
    code, out, err = command("-d", travel.postgres.uri(travel.databases["flight"]), "failed", "retry", str(number), "--yes", "--reason", "a test")
    assert code == 0, out + err
    other, = travel.begin(1, name=travel.deployed("trip"))  # a worker that is idle looks for decisions now and then only
    process.wait_for(lambda: travel.failed("flight") == [("resolved",)], lambda: f"{travel.failed('flight')}\n{travel.logs_text()}", 60, alive=travel.alive)
    travel.wait_ended([other])
    travel.check()


@pytest.mark.parametrize("handler", ["sql", "plugin"])
def test_an_output_that_no_answer_can_carry_turns_the_saga_back_at_once(handler, travels):
    """At the first attempt: it is no error that is tried again. What the handler wrote is undone."""
    travel = travels()
    if handler == "plugin":
        travel.handlers["payment"] = {"kind": "plugin", "path": build_plugin("travel_plugin.c")}
    travel.deployed("trip")
    travel.start("run")
    saga, fits = travel.begin(2, lambda n: {"bulk": {"payment": 900_000 if n else 1_200_000}})
    travel.wait_ended([saga, fits])
    frame = len('{"bulk": "", "booking": 1}')
    why = f"its output has {1_200_000 + frame} bytes, at most 999963 are allowed"
    assert [event for event in travel.events(saga) if not event.endswith("begin")] == [
        "start", "flight: effect", "hotel: effect", "payment: refused", "hotel: compensated", "flight: compensated", "end"]
    assert travel.result(saga)["state"] == "compensated" and travel.result(saga)["reason"] == f"payment: {why}"
    code, out, err = travel.cli("saga", "show", str(saga))
    assert code == 0 and why in out, out + err
    assert travel.failed("payment") == [] and travel.result(fits)["state"] == "completed"
    travel.check()


def test_a_command_that_a_plugin_s_barrier_does_not_take_is_the_message_s_failure(travels):
    """As with a handler in SQL: it is set aside, and the process goes on."""
    travel = travels(group={"retry": {"attempts_max": 2, "first_ms": 20, "cap_ms": 50}})
    travel.handlers["payment"] = {"kind": "plugin", "path": build_plugin("travel_plugin.c")}
    travel.deployed("trip")
    travel.query("SELECT txb.publish(%s, 'k', 'payment.book', '{}', %s::jsonb)", travel.topics["payment"], json.dumps({"txb-reply-to": "r", "txb-saga": "no"}))
    travel.start("run")
    process.wait_for(lambda: travel.failed("payment") == [("dead",)], travel.logs_text, 60, alive=travel.alive)
    (error,), = travel.failed("payment", "error")
    assert "a command that can't be read: txb-saga is not a UUID" in error
    travel.wait_ended(travel.begin(1))
    travel.check()


def test_a_command_that_kafka_refuses_holds_nothing_up(travel):
    """S1 in the coordinator's outbox: the compensation of `out` goes through the topic, with the key, into which `back` did not fit."""
    little = {"amount": "{input.amount}"}
    out, back = travel.step("out", what="flight", input=little), travel.step("back", what="flight", input={**little, "note": "{input.note}"})
    out["compensation"]["input"] = little
    name = travel.deployed("heavy", [out, back, travel.step("payment", "pivot", input=little)])
    travel.kafka.configure_topic(travel.topics["flight"], max_message_bytes=20_000)
    try:
        saga, = travel.begin(1, lambda n: {"note": "x" * 50_000}, name=name)
        travel.wait_ended([saga])
    finally:
        travel.kafka.configure_topic(travel.topics["flight"], max_message_bytes=1_000_000)
    assert [event for event in travel.events(saga) if not event.endswith("begin")] == [
        "start", "out: effect", "back: time", "back: never", "out: compensated", "end"]
    assert travel.query("SELECT reason FROM txb.saga_event WHERE saga_id = %s AND event = 'time'", saga) == [
        ("given up after 1 attempts: Broker: Message size too large",)]
    refused = "SELECT number, state, holds, key, type FROM txb.failed WHERE side = 'outbox'"
    (number, *told), = travel.query(refused)
    assert told == ["dead", False, None, "back.book"]
    assert travel.query("SELECT FROM txb.relay_hold") == []
    travel.check()
    # A person has it published after all: into its saga's partition, and too late.
    code, text, err = travel.cli("failed", "retry", str(number), "--yes", "--reason", "a test")
    assert code == 0, text + err
    process.wait_for(lambda: travel.query(refused)[0][1] == "resolved", lambda: f"{travel.query(refused)}\n{travel.logs_text()}", 60, alive=travel.alive)
    of_saga = [record for record in read_topic(travel.kafka.brokers, travel.topics["flight"]) if record.key == str(saga).encode()]
    assert len({record.partition for record in of_saga}) == 1
    assert [record.headers["txb-saga-operation"] for record in of_saga if record.headers["txb-saga-step"] == b"back"] == [b"resolve", b"action"]
    process.wait_for(lambda: travel.consumed("flight"), travel.logs_text, 60, alive=travel.alive)
    travel.check()


def stuck(travel):
    """A saga whose hotel can't be cancelled, and the number of its last event."""
    steps = [travel.step(what, retry={"attempts": 2, "first": "20ms"}) for what in ("flight", "hotel")] + [travel.step("payment", "pivot")]
    saga, = travel.begin(1, lambda n: {"refuse": "payment", "stick": {"hotel": 1000}}, name=travel.deployed("sticky", steps))
    travel.wait_event([saga], "hotel: stuck")
    return saga, len(travel.events(saga))


def mend(travel, saga):
    travel.postgres.query(travel.databases["hotel"], "INSERT INTO travel.mended VALUES (%s)", (saga,))


def test_a_compensation_that_never_succeeds_waits_for_a_person_who_mends_and_retries(travel):
    saga, at = stuck(travel)
    code, document, err = travel.saga("list", "--state", "stuck")
    assert code == 0 and [(row["saga"], row["state"]) for row in document["sagas"]] == [(str(saga), "stuck")], err
    assert "hotel" in document["sagas"][0]["reason"]
    code, counts, _ = travel.saga("list", "--count", "--name", "sticky")
    assert code == 0 and counts["stuck"] == 1 and counts["running"] == 0
    code, out, err = travel.cli("saga", "show", str(saga))
    assert code == 0, err
    assert "hotel waits for a person:" in out and f"saga retry {saga} hotel --at {at} --reason" in out and f"saga mark {saga} hotel --undone --at {at}" in out
    assert f"mark {saga} hotel --done" not in out and "the hotel office is closed" in out
    assert travel.bookings()[saga] == ["flight", "hotel"]
    # Tried again before the cause is mended it is stuck again.
    code, document, err = travel.saga("retry", str(saga), "hotel", "--at", str(at), "--reason", "perhaps")
    assert code == 0 and document["event"]["event"] == "retry" and document["taken_up"], err
    process.wait_for(lambda: travel.events(saga).count("hotel: stuck") == 2, travel.open_text, 60, alive=travel.alive)
    mend(travel, saga)
    code, document, err = travel.saga("retry", str(saga), "hotel", "--at", str(len(travel.events(saga))), "--reason", "the office is open")
    assert code == 0 and not document["refused"], err
    travel.wait_ended([saga])
    assert travel.result(saga)["state"] == "compensated"
    assert travel.query("SELECT reason FROM txb.audit WHERE action = 'saga retry' AND filter ->> 'saga' = %s ORDER BY at", str(saga)) == [("perhaps",), ("the office is open",)]
    travel.check()


def test_what_a_person_marks_as_undone_is_taken_as_undone(travel):
    saga, at = stuck(travel)
    code, document, err = travel.saga("mark", str(saga), "hotel", "--undone", "--at", str(at), "--reason", "by telephone")
    assert code == 0 and document["event"]["event"] == "mark_undone", err
    travel.wait_ended([saga])
    assert travel.result(saga)["state"] == "compensated" and travel.bookings()[saga] == ["hotel"]
    travel.wants[saga] = ["hotel"]
    travel.check()


def behind(travel):
    """A saga whose letter, behind the pivot, can't be sent, and the number of its last event."""
    letter = travel.step("letter", "retriable", what="hotel", retry={"attempts": 1})
    steps = [travel.step("flight"), travel.step("payment", "pivot"), letter]
    saga, = travel.begin(1, lambda n: {"fail": {"letter": 1000}}, name=travel.deployed("letters", steps))
    travel.wait_event([saga], "letter: stuck")
    return saga, len(travel.events(saga))


def letters(travel, saga):
    return travel.postgres.query(travel.databases["hotel"], "SELECT amount FROM travel.booking WHERE saga = %s AND what = 'letter'", (saga,))


def test_a_step_is_skipped_and_never_runs_any_more(travel):
    """S3: also for a skip."""
    saga, at = behind(travel)
    code, out, err = travel.cli("saga", "show", str(saga))
    assert code == 0 and f"saga skip {saga} letter --at {at} --reason" in out and f"saga edit {saga} letter --payload-file FILE --at {at}" in out, out + err
    code, document, err = travel.saga("skip", str(saga), "letter", "--at", str(at), "--reason", "nobody reads it")
    assert code == 0 and document["event"]["event"] == "leave" and [sent["operation"] for sent in document["event"]["sent"]] == ["resolve"], err
    travel.wait_ended([saga])
    assert travel.result(saga)["state"] == "completed" and travel.events(saga)[at:] == ["letter: leave", "letter: never", "end"]
    assert travel.postgres.query(travel.databases["hotel"], "SELECT state FROM txb.barrier WHERE saga_id = %s AND step = 'letter'", (saga,)) == [("never",)]
    code, out, _ = travel.cli("saga", "show", str(saga))
    assert code == 0 and "letter: leave -> resolve letter" in out and ": nobody reads it, says postgres" in out, out
    assert travel.query("SELECT filter ->> 'step', reason FROM txb.audit WHERE action = 'saga skip' AND filter ->> 'saga' = %s", str(saga)) == [("letter", "nobody reads it")]
    # What lies dead at its worker and is tried again now, meets that.
    mend(travel, saga)
    number, = travel.postgres.query(travel.databases["hotel"], "SELECT number FROM txb.failed WHERE convert_from(key, 'UTF8') = %s AND type = 'letter.book'", (str(saga),))[0]
    code, out, err = command("-d", travel.postgres.uri(travel.databases["hotel"]), "failed", "retry", str(number), "--yes", "--reason", "a test")
    assert code == 0, out + err
    other, = travel.begin(1, name=travel.deployed("trip"))
    process.wait_for(lambda: travel.postgres.value(travel.databases["hotel"], "SELECT state FROM txb.failed WHERE number = %s", (number,)) == "resolved",
                     travel.logs_text, 60, alive=travel.alive)
    travel.wait_ended([other])
    assert letters(travel, saga) == []
    travel.wants[saga] = ["flight", "payment"]
    travel.check()


def test_a_step_that_took_effect_meanwhile_is_done_and_not_skipped(travel):
    """It does not answer in time, and is stuck while its effect is about to be committed."""
    steps = [travel.step("flight"), travel.step("payment", "pivot"), travel.step("letter", "retriable", what="hotel", timeout="200ms", retry={"attempts": 1})]
    name = travel.deployed("slow-letters", steps)
    with travel.postgres.session(travel.databases["hotel"]) as gate:
        gate.cursor().execute("BEGIN; LOCK TABLE travel.account IN ACCESS EXCLUSIVE MODE")
        saga, = travel.begin(1, name=name)
        travel.wait_event([saga], "letter: stuck")
        code, document, err = travel.saga("skip", str(saga), "letter", "--reason", "nobody reads it")
        assert code == 0 and document["event"]["event"] == "leave", err
        gate.cursor().execute("ROLLBACK")
    travel.wait_ended([saga])
    assert travel.result(saga)["state"] == "completed" and "letter: effect" in travel.events(saga) and len(letters(travel, saga)) == 1
    travel.wants[saga] = ["flight", "payment", "letter"]
    travel.check()


def test_an_effect_that_can_t_be_undone_is_let_stand(travel):
    saga, at = stuck(travel)
    code, document, err = travel.saga("skip", str(saga), "hotel", "--at", str(at), "--reason", "a gift")
    assert code == 0 and document["event"]["event"] == "leave", err
    assert [(sent["operation"], sent["step"]) for sent in document["event"]["sent"]] == [("compensation", "flight")]
    assert document["event"]["reason"] == "a gift" and document["event"]["who"].startswith("postgres")
    travel.wait_ended([saga])
    assert travel.result(saga)["state"] == "compensated" and travel.bookings()[saga] == ["hotel"]
    assert travel.result(saga)["reason"] == "payment: no payment is left; the effect of hotel was let stand"
    travel.wants[saga] = ["hotel"]
    travel.check()


def test_a_step_of_which_nobody_tells_is_not_skipped(travel):
    steps = [travel.step("flight"), travel.step("hotel", timeout="200ms", retry={"attempts": 1}), travel.step("payment", "pivot")]
    name = travel.deployed("silent", steps)
    with travel.postgres.session(travel.databases["hotel"]) as gate:
        gate.cursor().execute("BEGIN; LOCK TABLE travel.account IN ACCESS EXCLUSIVE MODE")
        saga, = travel.begin(1, name=name)
        travel.wait_event([saga], "hotel: stuck")
        code, _, err = travel.cli("saga", "skip", str(saga), "hotel", "--reason", "a test")
        assert code == FAILED and one_line(err) == ("txbroker: refused: the decision skip does not fit a step that is stuck_settling: "
                                                    "whether it took effect is not known; mark says what became of it\n")
        code, _, err = travel.saga("edit", str(saga), "hotel", "--payload-file", "-", "--reason", "a test", stdin=b"{}")
        assert code == FAILED, err
        gate.cursor().execute("ROLLBACK")
    travel.wait_ended([saga])
    assert travel.result(saga)["state"] == "completed"
    travel.check()


def test_an_edited_payload_is_what_takes_effect_and_is_not_in_the_audit(travel):
    saga, at = behind(travel)
    code, document, err = travel.saga("edit", str(saga), "letter", "--payload-file", "-", "--at", str(at), "--reason", "a wrong address", stdin=b'{"amount": 5, "to": null}')
    assert code == 0 and document["event"]["event"] == "edit" and document["event"]["output"] == {"amount": 5, "to": None}, err
    travel.wait_ended([saga])
    assert travel.result(saga)["state"] == "completed" and letters(travel, saga) == [(5,)]
    assert travel.query("SELECT filter, reason FROM txb.audit WHERE action = 'saga edit' AND filter ->> 'saga' = %s", str(saga)) == [
        ({"saga": str(saga), "step": "letter", "event": at, "payload": "edited", "message": document["event"]["message_id"]}, "a wrong address")]
    code, out, _ = travel.cli("saga", "show", str(saga))
    assert code == 0 and 'letter: edit {"to":null,"amount":5} -> forward letter' in out and ": a wrong address, says postgres" in out, out
    travel.wants[saga] = ["flight", "payment", "letter"]
    travel.check()


def test_an_edited_compensation_is_sent_so_again_and_again_until_it_succeeds(travel):
    saga, at = stuck(travel)
    again = b'{"stick": {"hotel": 1000}, "edited": true}'
    code, document, err = travel.saga("edit", str(saga), "hotel", "--payload-file", "-", "--at", str(at), "--reason", "perhaps", stdin=again)
    assert code == 0 and document["event"]["event"] == "edit", err
    process.wait_for(lambda: travel.events(saga).count("hotel: stuck") == 2, travel.open_text, 60, alive=travel.alive)
    sent = travel.query("SELECT convert_from(payload, 'UTF8')::jsonb ? 'edited' FROM txb.outbox WHERE type = 'hotel.cancel' AND key = %s ORDER BY seq", str(saga))
    assert sent == [(False,), (False,), (True,), (True,)]
    code, _, err = travel.saga("edit", str(saga), "hotel", "--payload-file", "-", "--reason", "now", stdin=b"{}")
    assert code == 0, err
    travel.wait_ended([saga])
    assert travel.result(saga)["state"] == "compensated"
    travel.check()


@contextlib.contextmanager
def following(travel, saga, *args):
    """Somebody who follows a saga."""
    watcher = Program(f"follow{len(args)}", ["-d", travel.postgres.uri(travel.agency), *args, "saga", "show", str(saga), "--follow"], travel.directory)
    try:
        yield watcher
    finally:
        watcher.kill9()


def unchanged(travel, saga):
    return travel.query("SELECT (SELECT count(*) FROM txb.saga_event WHERE saga_id = %s), (SELECT count(*) FROM txb.outbox), (SELECT count(*) FROM txb.scheduled)", saga)


def audited(travel):
    """The rows of the audit, in order, as `audit list` gives them."""
    code, out, err = travel.cli("audit", "list", "--limit", "10000", "-o", "json")
    assert code == 0, err
    return json.loads(out)["audit"][::-1]


def test_decisions_that_are_late_stale_or_out_of_place_change_nothing(travel):
    saga, at = stuck(travel)
    ended, = travel.begin(1, name=travel.deployed("trip"))
    travel.wait_ended([ended])
    why = ["--reason", "a test"]
    for args, code, text in [
            (["retry", saga, "hotel", "--at", at - 1, *why], FAILED, f"saga {saga} has gone on since: it is at event {at}, not at {at - 1}"),
            (["mark", saga, "hotel", "--undone", "--at", 1, *why], FAILED, f"it is at event {at}, not at 1"),
            (["cancel", saga, "--at", at + 1, *why], FAILED, f"it is at event {at}, not at {at + 1}"),
            (["retry", ended, "hotel", *why], FAILED, f"saga {ended} has ended at"),
            (["mark", ended, "hotel", "--done", *why], FAILED, "it is completed"),
            (["cancel", ended, *why], FAILED, f"saga {ended} has ended at"),
            (["retry", NOBODY, "hotel", *why], USAGE, f"there is no saga {NOBODY}"),
            (["mark", NOBODY, "hotel", "--undone", *why], USAGE, f"there is no saga {NOBODY}"),
            (["cancel", NOBODY, *why], USAGE, f"there is no saga {NOBODY}"),
            (["skip", saga, "hotel", "--at", at - 1, *why], FAILED, f"it is at event {at}, not at {at - 1}"),
            (["edit", saga, "hotel", "--payload-file", "-", "--at", at - 1, *why], FAILED, f"it is at event {at}, not at {at - 1}"),
            (["skip", ended, "hotel", *why], FAILED, f"saga {ended} has ended at"),
            (["edit", ended, "hotel", "--payload-file", "-", *why], FAILED, f"saga {ended} has ended at"),
            (["skip", NOBODY, "hotel", *why], USAGE, f"there is no saga {NOBODY}"),
            (["edit", NOBODY, "hotel", "--payload-file", "-", *why], USAGE, f"there is no saga {NOBODY}"),
            (["skip", "trip-42", "hotel", *why], USAGE, '"trip-42" is no saga\'s id'),
            (["skip", saga, *why], USAGE, "STEP"),
            (["skip", saga, "hotel"], USAGE, "--reason"),
            (["edit", saga, "hotel", "--payload-file", "-"], USAGE, "--reason"),
            (["edit", saga, "hotel", *why], USAGE, "--payload-file FILE"),
            (["edit", saga, "hotel", "--payload-file", "/nowhere/payload.json", *why], USAGE, "/nowhere/payload.json"),
            (["cancel", "trip-42", *why], USAGE, '"trip-42" is no saga\'s id'),
            (["retry", saga, "hotel"], USAGE, "--reason"),
            (["retry", saga, "hotel", "--reason", " "], USAGE, "--reason"),
            (["mark", saga, "hotel", *why], USAGE, "--done"),
            (["mark", saga, "hotel", "--done", "--undone", *why], USAGE, "--undone"),
            (["retry", saga, "hotel", "--at", "never", *why], USAGE, "--at")]:
        before, kept = unchanged(travel, saga), audited(travel)
        found, document, err = travel.saga(*map(str, args), stdin=b"{}" if "-" in args else None)
        assert (found, document) == (code, None) and text in one_line(err), f"{args}: exit {found}\n{err}"
        assert unchanged(travel, saga) == before, args
        # What names a saga is kept, with the line that the person was told.
        assert [(row["filter"]["saga"], row["matched"], row["changed"], row["reason"], f"txbroker: {row['refused']}\n") for row in audited(travel)[len(kept):]] == (
            [(str(args[1]), 1, 0, "a test", err)] if code == FAILED else []), args
    for payload, text in [(b"", "the payload is empty"), (b'{"a": 1', "the payload is no JSON: line 1, column 7"), (b"not json", "the payload is no JSON"),
                          (b'"\\u0000"', "\\u0000"), (b'"%s"' % (1_000_000 * b"x"), "1000000"), (b'"%s"' % (990_000 * b"x"), "the payload has 990002 bytes, at most 983616"),
                          (b"0.12345678901234567890123", "which has too many digits: give it as a text")]:
        before = unchanged(travel, saga), audited(travel)
        found, document, err = travel.saga("edit", str(saga), "hotel", "--payload-file", "-", *why, stdin=payload)
        assert (found, document) == (USAGE, None) and text in one_line(err), f"{payload[:40]}: exit {found}\n{err}"
        assert (unchanged(travel, saga), audited(travel)) == before, payload[:40]
    # These the coordinator refuses, which is an event; the audit says that it was asked, and by which message.
    kept = len(audited(travel))
    for args, text in [(["retry", saga, "flight"], "the decision retry does not fit a step that is done"),
                       (["mark", saga, "hotel", "--done"], "the decision mark_done does not fit a step that is stuck_compensation"),
                       (["retry", saga, "cruise"], "the decision retry is about cruise: there is no such step"),
                       (["skip", saga, "flight"], "the decision skip does not fit a step that is done"),
                       (["edit", saga, "flight", "--payload-file", "-"], "the decision edit does not fit a step that is done"),
                       (["skip", saga, "cruise"], "the decision skip is about cruise: there is no such step"),
                       (["cancel", saga], "cancelled too late: the saga is compensating, and can't turn back any more")]:
        code, _, err = travel.cli("saga", *map(str, args), *why, stdin=b"{}" if "-" in args else None)
        assert code == FAILED and one_line(err) == f"txbroker: refused: {text}\n", err
    assert travel.events(saga)[at:] == ["flight: ignored", "hotel: ignored", "ignored", "flight: ignored", "flight: ignored", "ignored", "ignored"]
    asked = audited(travel)[kept:]
    assert {(row["matched"], row["changed"], row["refused"]) for row in asked} == {(1, 0, None)}
    assert [row["filter"]["message"] for row in asked] == [str(message) for (message,) in travel.query(
        "SELECT message_id FROM txb.saga_event WHERE saga_id = %s AND n > %s AND who LIKE 'postgres%%' ORDER BY n", saga, at)]
    mend(travel, saga)
    code, _, err = travel.saga("retry", str(saga), "hotel", *why)
    assert code == 0, err
    travel.wait_ended([saga])
    travel.check()


def numbers(lines):
    """{number of the event: its line}, in their order; an id that does not fit stands in a line of its own."""
    return {int(found[1]): line for line in lines if (found := re.match(r" *[0-9.]+ s +([0-9]+) ", line))}


def test_following_a_saga_tells_what_happens_as_it_happens_and_ends_with_it(travel):
    name = travel.deployed("trip")
    with travel.postgres.session(travel.databases["hotel"]) as gate:
        gate.cursor().execute("BEGIN; LOCK TABLE travel.account IN ACCESS EXCLUSIVE MODE")
        saga, = travel.begin(1, name=name)
        with following(travel, saga, "-o", "jsonl") as machine, following(travel, saga) as person:
            # While the hotel can't answer:
            for watcher in (machine, person):
                process.wait_for(lambda: watcher.text().count("\n") >= 4, lambda: watcher.text() + travel.open_text(), 60, alive=watcher.alive)
            first = [json.loads(line) for line in machine.text().splitlines()]
            assert [(event["n"], event["event"], event.get("step")) for event in first] == [
                (1, "start", None), (2, "begin", "flight"), (3, "effect", "flight"), (4, "begin", "hotel")]
            lines = person.text().splitlines()
            assert list(numbers(lines)) == [1, 2, 3, 4], lines
            assert all(words in line for words, line in zip(["start", "flight: begin", "flight: effect", "hotel: begin"], numbers(lines).values())), lines
            assert travel.states([saga]) == {None: 1} and machine.running() and person.running()
            gate.cursor().execute("ROLLBACK")
            assert (machine.wait_exit(), person.wait_exit()) == (0, 0), machine.text() + person.text()
            told = [json.loads(line) for line in machine.text().splitlines()]
            assert [event["n"] for event in told] == list(range(1, len(told) + 1)) and told[-1]["event"] == "end"
            assert [f"{event['step']}: {event['event']}" if "step" in event else event["event"] for event in told] == travel.events(saga)
            # The rest of the events, and then the saga as it stands.
            code, whole_saga, err = travel.cli("saga", "show", str(saga))
            assert code == 0 and person.text().endswith(whole_saga), f"{person.text()}\n{err}"
            told = person.text()[:-len(whole_saga)].splitlines()
            assert told[:len(lines)] == lines and list(numbers(told)) == list(range(1, len(travel.events(saga)) + 1)), told
            assert "end" in list(numbers(told).values())[-1], told
    assert travel.result(saga)["state"] == "completed"
    travel.check()


def test_a_running_saga_is_cancelled(travel):
    travel.deployed("trip")
    with travel.postgres.session(travel.databases["hotel"]) as gate:
        gate.cursor().execute("BEGIN; LOCK TABLE travel.account IN ACCESS EXCLUSIVE MODE")
        saga, = travel.begin(1)
        travel.wait_event([saga], "hotel: begin")
        code, document, err = travel.saga("cancel", str(saga), "--reason", "it rains")
        assert code == 0 and document["event"]["event"] == "turn_back" and document["event"]["reason"] == "it rains", err
        gate.cursor().execute("ROLLBACK")
    travel.wait_ended([saga])
    assert travel.result(saga)["state"] == "compensated" and travel.result(saga)["reason"] == "it rains"
    assert "hotel: compensated" in travel.events(saga) and "payment: begin" not in travel.events(saga)
    travel.check()


# -- bad input -------------------------------------------------------------------------------------------------------------------


def changed(**changes):
    """Of the first step."""
    def change(definition):
        definition["steps"][0].update(changes)
    return change


def whole(**changes):
    return lambda definition: definition.update(changes)


def without(step, *keys):
    def change(definition):
        for key in keys:
            del definition["steps"][step][key]
    return change


def third(**changes):
    return lambda definition: definition["steps"][2].update(changes)


def swapped(definition):
    definition["steps"].reverse()


UNSAFE = {
    "no steps": (whole(steps=[]), "steps"),
    "no name": (lambda d: d.pop("name"), "name is missing"),
    "a name that is none": (whole(name="Trip to Rome"), "name"),
    "version 0": (whole(version=0), "version"),
    "a key that nobody knows": (whole(retries=3), 'unknown key "retries"'),
    "a step's key that nobody knows": (changed(timeuot="1s"), 'unknown key "timeuot"; did you mean timeout?'),
    "a kind that nobody knows": (changed(kind="optional"), "must be compensatable, pivot, retriable or reserve"),
    "no compensation": (without(0, "compensation"), "compensation is missing: a compensatable step needs one"),
    "a compensated pivot": (third(compensation={"type": "payment.cancel"}), "steps[2].compensation"),
    "no topic": (without(0, "topic"), "topic is missing"),
    "a topic that is no name": (changed(topic="a b"), "steps[0].topic: the name of a topic"),
    "a topic that is not there": (changed(topic="nowhere.at.all"), "steps[0].topic: there is no topic nowhere.at.all at"),
    "a topic for its end that is not there": (whole(reply_topic="nowhere.at.all"), "reply_topic: there is no topic nowhere.at.all at"),
    "a topic that is the coordinator's": (lambda d: d["steps"][0].update(topic=d["steps"][0]["topic"].replace(".flight", ".sagas")),
                                          "sagas is the coordinator's own topic, where a command reaches no participant"),
    "an end told to the coordinator": (lambda d: d.update(reply_topic=d["steps"][0]["topic"].replace(".flight", ".sagas")),
                                       "sagas is the coordinator's own topic, where the end of a saga reaches nobody"),
    "a compensation that may lack what it reads": (changed(compensation={"type": "flight.cancel", "input": {"n": "{input.seat}"}}),
                                                   "steps[0].compensation.input.n: input.seat may be absent (its schema does not require input.seat)"),
    "two of a name": (changed(name="hotel"), "is already named hotel"),
    "two pivots": (lambda d: d["steps"].append({**d["steps"][2], "name": "tip"}), "is a second pivot: there is one point of no return"),
    "compensatable behind the pivot": (swapped, "can't be compensated, and does not come after all steps that can"),
    "a pivot beside what can be compensated": (third(after=["flight"]), "does not come after all steps that can"),
    "retriable before the pivot": (lambda d: d["steps"].insert(2, {"name": "post", "kind": "retriable", "topic": d["steps"][0]["topic"], "type": "post.send"}),
                                   "is retriable and does not come after the pivot"),
    "a cycle": (changed(after=["hotel"]), "cycle"),
    "after nobody": (changed(after=["hotle"]), 'there is no step "hotle"; did you mean hotel?'),
    "a time-out that is none": (changed(timeout="soon"), "must be a duration above 0"),
    "attempts that are none": (changed(retry={"attempts": 0}), "must be a whole number from 1 to"),
    "what is not known yet": (changed(input={"hotel": "{steps.hotel.output.booking}"}), "step hotel is not before step flight"),
    "its own output": (changed(compensation={"type": "flight.cancel", "input": {"n": "{steps.flight.output.booking}"}}), "is what the step itself gives"),
    "what may be skipped": (lambda d: (d["steps"][0].update(when="input.amount > 3"), d["steps"][1].update(input={"n": "{steps.flight.output.booking}"})),
                            "step flight has a when, and may be skipped"),
    "a path that is none": (changed(input={"n": "{outputs.flight}"}), "steps[0].input.n"),
    "a condition that is none": (changed(when="input.amount >"), "steps[0].when"),
    "an output of nobody": (whole(output={"n": "{steps.cruise.output.n}"}), 'there is no step "cruise"'),
    "a saga as a step that is not there": (lambda d: d["steps"].__setitem__(0, {"name": "flight", "kind": "compensatable", "saga": {"name": "flights"}}),
                                           "steps[0].saga: saga flights is not deployed; deploy it first, or correct its name"),
    "itself as a step": (lambda d: d["steps"].__setitem__(0, {"name": "flight", "kind": "compensatable", "saga": {"name": "unsafe", "version": 1}}),
                         "steps[0].saga: version 1 of saga unsafe is not deployed"),
    "a lock that reads a step": (whole(locks=["booking:{steps.flight.output.booking}"]), "locks are taken at the start, before any step"),
    "a conflict of no locks": (whole(lock_conflict="refuse"), "lock_conflict: there is nothing to lock"),
    "a schema with what is not checked": (whole(input={"type": "object", "oneOf": []}), "input.oneOf is not checked here"),
    "a deadline that is none": (whole(deadline="-1s"), "must be a duration above 0"),
}


@pytest.mark.parametrize("what", UNSAFE)
def test_a_definition_that_can_t_be_run_safely_is_not_deployed(what, travel):
    definition = travel.definition(name="unsafe")
    del definition["output"]
    UNSAFE[what][0](definition)
    code, document, err = travel.deploy(definition)
    assert (code, document) == (USAGE, None) and UNSAFE[what][1] in one_line(err), f"exit {code}\n{err}"
    assert travel.query("SELECT 1 FROM txb.saga_definition WHERE name = 'unsafe'") == []


AT_LINES = {
    "input.properties.seat.type can't be \"strang\"": whole(input={"type": "object", "properties": {"a.b": {"type": "string"}, "seat": {"type": "strang"}}}),
    "input.properties.a.b.type can't be \"strang\"": whole(input={"type": "object", "properties": {"a": {"type": "string"}, "a.b": {"type": "strang"}}}),
    "output_schema.items.oneOf is not checked here": whole(output_schema={"items": {"oneOf": []}}),
    "input.pattern can't be \"(\"": whole(input={"pattern": "("}),
    "steps[0].topic: there is no topic nowhere.at.all": changed(topic="nowhere.at.all"),
    "reply_topic: there is no topic nowhere.at.all": whole(reply_topic="nowhere.at.all"),
    "steps[0].topic: {sagas} is the coordinator's own topic": lambda d: d["steps"][0].update(topic=d["steps"][0]["topic"].replace(".flight", ".sagas")),
}


@pytest.mark.parametrize("text", AT_LINES)
def test_what_only_servers_know_is_told_by_line_by_a_dry_run_too(text, travel):
    definition = travel.definition(name="unsafe")
    AT_LINES[text](definition)
    text, body = text.replace("{sagas}", travel.topic), json.dumps(definition, indent=1)
    lines = [n for n, line in enumerate(body.split("\n"), 1) if any(word in line for word in ('"strang"', '"oneOf"', '"("', "nowhere.at.all", f'"{travel.topic}"'))]
    assert len(lines) == 1, body
    for more in ([], ["--dry-run"]):
        code, out, err = travel.cli("saga", "deploy", *more, "-", stdin=body.encode())
        assert (code, out) == (USAGE, "") and f"standard input:{lines[0]}: {text}" in one_line(err), f"exit {code}\n{err}"


def test_a_dry_run_says_what_it_did_not_look_at(travel):
    body = json.dumps(travel.definition(name="dry")).encode()
    code, out, err = command("saga", "deploy", "-", "--dry-run", stdin=body)
    assert code == 0 and out.endswith("\nnothing stands against it, as far as it was looked at\n"), out + err
    assert "without brokers (--brokers, kafka.brokers) whether its topics are there was not looked at" in err
    assert "without the coordinator's database (--database URI) its input and output schemas" in err
    code, out, err = travel.cli("saga", "deploy", "-", "--dry-run", stdin=body)
    assert (code, err) == (0, "") and out.endswith("\nit can be deployed\n"), out + err
    code, document, err = travel.saga("deploy", "-", "--dry-run", stdin=body)
    assert code == 0 and (document["deployed"], document["looked_at_all"]) == (False, True), err
    assert travel.query("SELECT 1 FROM txb.saga_definition WHERE name = 'dry'") == []


def test_a_version_is_deployed_once(travel):
    for _ in range(2):
        code, document, err = travel.deploy(travel.definition(name="once"))
        assert code == 0, err
    assert document["new"] is False
    code, _, err = travel.deploy(travel.definition(name="once", deadline="1m"))
    assert code != 0 and "version 1 of saga once was deployed at" in err and "give this one version 2" in one_line(err), err
    assert travel.query("SELECT version, deadline_ms FROM txb.saga_definition WHERE name = 'once'") == [(1, None)]


@pytest.mark.parametrize("args,stdin,text", [
    (["deploy", "-"], b'{"name": "trip",\n "version" 1}', "standard input:2"),
    (["deploy", "-"], b"", "standard input"),
    (["deploy", "-"], b"[]", "must be an object"),
    (["deploy", "/nowhere/trip.json"], None, "/nowhere/trip.json"),
    (["deploy", "-"], b'{"name": "' + 300_000 * b"x" + b'"}', "standard input"),
    (["deploy"], None, "FILE"),
    (["start"], None, "NAME"),
    (["start", "cruise"], None, 'there is no saga "cruise"'),
    (["start", "trip", "--input", "{"], None, "the input is no JSON: line 1"),
    (["start", "trip", "--input", "{}"], None, "input.amount is missing"),
    (["start", "trip", "--input", '{"amount": 0}'], None, "input.amount is 0, it must be at least 1"),
    (["start", "trip", "--input", '{"amount": "5"}'], None, 'input.amount is "5", which is no integer'),
    (["start", "trip", "--input", "5"], None, "input is 5, which is no object"),
    (["start", "trip", "--input", "{}", "--input-file", "-"], b"{}", "--input and --input-file are two inputs: give one"),
    (["start", "trip", "--input-file", "/nowhere/input.json"], None, "/nowhere/input.json"),
    (["start", "trip", "--input-file", "-"], b"", "the input is empty: it must be JSON"),
    (["start", "trip", "--input", '{"amount": 5}', "--deadline", "soon"], None, "--deadline soon is no time"),
    (["start", "trip", "--input", '{"amount": 5}', "--deadline", "0s"], None, "--deadline 0s is no time"),
    (["start", "trip", "--input", '{"amount": 5}', "--wait", "5"], None, "--wait 5 is no time"),
    (["start", "trip", "--input", '{"amount": 5}', "--key", ""], None, "key"),
    (["start", "trip", "--input", '{"amount": 5}', "--key", 1025 * "k"], None, "key has 1025 bytes, 1 to 1024 are allowed"),
    (["start", "trip", "--input", '{"amount": 5}', "--reply-topic", "a b"], None, 'reply_topic "a b" is not a Kafka topic name'),
    (["start", "trip", "--input", '{"amount": 5}', "--coordinator", "a b"], None, "topic"),
    (["start", "trip", "--input", '{"amount": 5}', "--coordinator", "x", "--wait", "1s"], None, "--wait looks into the coordinator's database"),
    (["wait"], None, "ID"),
    (["wait", "42"], None, '"42" is no saga\'s id'),
    (["wait", NOBODY, "--timeout", "-1s"], None, "--timeout -1s is no time"),
    (["show", "42"], None, '"42" is no saga\'s id'),
    (["show", NOBODY], None, f"there is no saga {NOBODY}"),
    (["list", "--state", "lost"], None, "--state"),
    (["list", "--limit", "0"], None, "--limit"),
    (["locks", "--limit", "0"], None, "--limit"),
    (["locks", "--saga", "42"], None, '"42" is no saga\'s id'),
    (["list", "--before", "teatime"], None, "teatime"),
], ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "")
def test_bad_input_is_told_in_one_line_and_starts_nothing(args, stdin, text, travel):
    travel.deployed("trip")
    before = travel.query("SELECT count(*) FROM txb.saga")
    code, document, err = travel.saga(*args, stdin=stdin)
    assert (code, document) == (USAGE, None) and text in one_line(err), f"exit {code}: {document}\n{err}"
    assert travel.query("SELECT count(*) FROM txb.saga") == before


def test_waiting_for_a_saga_that_is_not_there_says_that_it_is_not_known(travel):
    code, document, err = travel.saga("wait", NOBODY, "--timeout", "10ms")
    assert code == FAILED and document["state"] == "unknown", err
    code, out, _ = travel.cli("saga", "wait", NOBODY, "--timeout", "10ms")
    assert code == FAILED and out == f"saga {NOBODY} is not known here (yet): ask again, txbroker saga wait {NOBODY}\n"


def test_without_a_coordinator_a_start_says_that_nobody_would_take_it_up(travels):
    travel = travels()
    code, _, err = travel.cli("saga", "start", "trip", "--input", json.dumps({"amount": 1}))
    assert code != 0 and 'there is no saga "trip"' in one_line(err)
    assert travel.query("SELECT 1 FROM txb.saga") == [] and uuid.UUID(NOBODY).version == 7
