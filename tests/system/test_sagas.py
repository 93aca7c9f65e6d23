"""Sagas on real servers: they complete, are refused and compensated, and nothing is left over. How steps follow each other, and how sagas are started."""

import json
import re
import threading
import uuid

import psycopg2
import pytest

from txbtest import process
from txbtest.verify import read_topic


def test_a_trip_is_booked_and_tells_what_it_booked(travel):
    travel.deployed("trip")
    code, result, err = travel.saga("start", "trip", "--input", '{"amount": 5}', "--wait", "40s")
    assert code == 0, (result, err)
    assert result["state"] == "completed" and set(result["output"]) == {"flight", "hotel", "payment"}
    travel.check()


def test_a_refusal_undoes_what_took_effect_and_says_why(travel):
    travel.deployed("trip")
    code, result, _ = travel.saga("start", "trip", "--input", '{"amount": 5, "refuse": "payment"}', "--wait", "40s")
    assert code == 1 and result["state"] == "compensated" and result["reason"] == "payment: no payment is left"
    assert uuid.UUID(result["saga"]) not in travel.bookings()
    travel.check()


def test_many_end_with_all_bookings_or_none(travel):
    travel.deployed("trip")
    refusals = {n: ("flight", "hotel", "payment")[n // 5 % 3] for n in range(0, 1000, 5)}
    ids = travel.begin(1000, lambda n: {"refuse": refusals[n]} if n in refusals else {})
    travel.wait_ended(ids)
    assert travel.states(ids) == {"completed": 800, "compensated": 200}
    travel.check()


# -- steps ---------------------------------------------------------------------------------------------------------------------


def parallel(travel):
    return travel.deployed("parallel", [travel.step("flight", after=[]), travel.step("hotel", after=[]),
                                        travel.step("payment", "pivot", after=["flight", "hotel"])])


def test_steps_without_an_order_run_side_by_side(travel):
    saga, = travel.begin(1, name=parallel(travel))
    travel.wait_ended([saga])
    assert travel.events(saga)[:3] == ["start", "flight: begin", "hotel: begin"]
    assert travel.result(saga)["state"] == "completed"
    travel.check()


def test_a_step_that_has_not_answered_when_its_neighbour_refuses_is_settled_and_undone(travel):
    name = parallel(travel)
    with travel.postgres.session(travel.databases["flight"]) as gate:
        gate.cursor().execute("BEGIN; LOCK TABLE travel.account IN ACCESS EXCLUSIVE MODE")
        saga, = travel.begin(1, lambda n: {"refuse": "hotel"}, name=name)
        travel.wait_event([saga], "hotel: refused")
        gate.cursor().execute("ROLLBACK")
    travel.wait_ended([saga])
    events = travel.events(saga)
    assert [event for event in events if event.startswith("flight") and not event.endswith("ignored")] == ["flight: begin", "flight: effect", "flight: compensated"]
    assert "payment: begin" not in events
    assert travel.result(saga)["state"] == "compensated"
    travel.check()


def test_a_step_whose_condition_does_not_hold_is_skipped_and_not_undone(travel):
    name = travel.deployed("daytrip", [travel.step("flight"), travel.step("hotel", when="input.nights > 0"), travel.step("payment", "pivot")])
    day, night, refused = travel.begin(3, lambda n: [{"nights": 0}, {"nights": 1}, {"nights": 0, "refuse": "payment"}][n], name=name)
    travel.wants[day] = ["flight", "payment"]
    travel.wait_ended([day, night, refused])
    assert "hotel: skip" in travel.events(day) and "hotel: begin" not in travel.events(day)
    assert "hotel: begin" in travel.events(night)
    assert [e for e in travel.events(refused) if e.startswith("hotel")] == ["hotel: skip"]
    assert [travel.result(saga)["state"] for saga in (day, night, refused)] == ["completed", "completed", "compensated"]
    travel.check()


def test_a_condition_that_can_t_be_told_turns_the_saga_back(travel):
    name = travel.deployed("puzzle", [travel.step("flight"), travel.step("hotel", when="input.nights > 0"), travel.step("payment", "pivot")])
    saga, = travel.begin(1, name=name)
    travel.wait_ended([saga])
    assert travel.result(saga)["state"] == "compensated" and "input.nights" in travel.result(saga)["reason"]
    travel.check()


def test_what_comes_behind_the_pivot_is_tried_until_it_succeeds(travel):
    name = travel.deployed("receipted", [
        travel.step("flight"), travel.step("payment", "pivot"),
        travel.step("receipt", "retriable", "hotel", retry={"attempts": 5, "first": "20ms", "cap": "50ms"})])
    refused, failing = travel.begin(2, lambda n: [{"no": {"receipt": 3}}, {"fail": {"receipt": 3}}][n], name=name)
    travel.wants.update({refused: ["flight", "payment", "receipt"], failing: ["flight", "payment", "receipt"]})
    travel.wait_ended([refused, failing])
    assert {travel.result(saga)["state"] for saga in (refused, failing)} == {"completed"}
    assert [e for e in travel.events(refused) if e.startswith("receipt") and not e.endswith("time")] == ["receipt: begin", "receipt: refused", "receipt: refused", "receipt: effect"]
    assert "receipt: refused" not in travel.events(failing)
    travel.check()


def test_what_was_reserved_is_confirmed_at_the_end_or_cancelled(travel):
    name = travel.deployed("reserving", [travel.step("flight", "reserve"), travel.step("hotel", "reserve"), travel.step("payment", "pivot")])
    booked, refused = travel.begin(2, lambda n: [{}, {"refuse": "payment"}][n], name=name)
    travel.wait_ended([booked, refused])
    events = travel.events(booked)
    assert [travel.result(saga)["state"] for saga in (booked, refused)] == ["completed", "compensated"]
    assert events.index("payment: effect") < events.index("flight/confirm: begin") and "hotel/confirm: effect" in events
    assert not any("/confirm" in event for event in travel.events(refused))
    travel.check()  # confirmed ones stand there without a question mark


def test_instances_end_on_the_version_that_they_began_with(travel):
    name = travel.deployed("versioned")
    with travel.postgres.session(travel.databases["payment"]) as gate:
        gate.cursor().execute("BEGIN; LOCK TABLE travel.account IN ACCESS EXCLUSIVE MODE")
        old = travel.begin(100, lambda n: {"refuse": "payment"} if n % 5 == 0 else {}, name=name)
        travel.wait_event(old, "payment: begin")
        second = travel.definition(version=2, name=name)
        second["steps"].append(travel.step("receipt", "retriable", "hotel"))
        code, _, err = travel.deploy(second)
        assert code == 0, err
        new = travel.begin(100, lambda n: {"refuse": "payment"} if n % 5 == 0 else {}, name=name)
        gate.cursor().execute("ROLLBACK")
    travel.wait_ended(old + new)
    assert dict(travel.query("SELECT version, count(*) FROM txb.saga WHERE name = %s GROUP BY 1", name)) == {1: 100, 2: 100}
    assert {saga for saga, version in travel.query("SELECT id, version FROM txb.saga WHERE name = %s", name) if version == 2} == set(new)
    assert travel.states(old) == travel.states(new) == {"completed": 80, "compensated": 20}
    travel.wants.update({saga: ["flight", "hotel", "payment", "receipt"] for saga in new if travel.result(saga)["state"] == "completed"})
    travel.check()


# -- values ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["19.99", "0.30000000000000004", "9223372036854775807", "-0.000001", "1e22", "123456789012.25"])
def test_numbers_come_through_as_they_are(number, travel):
    name = travel.deployed("carrying", [travel.step("flight"), travel.step("hotel", input={"amount": "{input.amount}", "echo": ["{input.price}", "{steps.flight.output.echo}"]}),
                                        travel.step("payment", "pivot")])
    if number == "1e22":
        with pytest.raises(psycopg2.Error, match="input holds the number 10000000000000000000000, which has too many digits: give it as a text"):
            travel.begin(1, lambda n: {"price": 10 ** 22, "echo": {"flight": 1}}, name=name)
        return
    with travel.postgres.session(travel.agency, user="txbtest_app") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT txb.saga_start('carrying', %s::jsonb)", (f'{{"amount": 1, "price": {number}, "echo": {{"flight": {number}}}}}',))
        saga, = cursor.fetchone()
    travel.wait_ended([saga])
    assert travel.result(saga)["state"] == "completed", travel.result(saga)
    payload, = travel.query("SELECT convert_from(payload, 'UTF8')::jsonb -> 'echo' = jsonb_build_array(%s::jsonb, %s::jsonb) FROM txb.outbox WHERE type = 'hotel.book' AND key = %s",
                            number, number, str(saga))
    output, = travel.query("SELECT output -> 'echo' = %s::jsonb FROM txb.saga_event WHERE saga_id = %s AND event = 'effect' AND step = 'flight'", number, saga)
    assert payload == output == (True,)
    travel.check()


@pytest.mark.parametrize("number", ["12345678901234567890", "12345678901234567.89", "1e400", "1.5e-310"])
def test_numbers_that_can_t_be_carried_are_refused_where_they_come_from(number, travel):
    travel.deployed("trip")
    with travel.postgres.session(travel.agency, user="txbtest_app") as connection, connection.cursor() as cursor:
        with pytest.raises(psycopg2.Error, match="txb.saga_start: input holds the number .*, which has too many digits: give it as a text"):
            cursor.execute("SELECT txb.saga_start('trip', %s::jsonb)", (f'{{"amount": 1, "deep": [{{"price": {number}}}]}}',))
    # Of a participant: as a text in the input, which the handler gives back as a number.
    saga, = travel.begin(1, lambda n: {"echo": {"hotel": number}})
    travel.wait_ended([saga])
    result = travel.result(saga)
    assert result["state"] == "compensated" and "the output holds the number" in result["reason"] and "too many digits" in result["reason"]
    travel.check()


# -- starts --------------------------------------------------------------------------------------------------------------------


def test_a_start_in_a_transaction_that_rolls_back_leaves_nothing(travel):
    travel.deployed("trip")
    with travel.postgres.session(travel.agency, user="txbtest_app") as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN; SELECT txb.saga_start('trip', '{\"amount\": 1}', key => 'undone')")
        saga = cursor.fetchone()[0]
        cursor.execute("ROLLBACK")
        cursor.execute("SELECT state FROM txb.saga_result(%s)", (saga,))
        assert cursor.fetchone()[0] == "unknown"
    for table, column in (("saga", "id"), ("saga_start_key", "id"), ("saga_event", "saga_id"), ("outbox", "key")):
        assert travel.query(f"SELECT 1 FROM txb.{table} WHERE {column}::text = %s", str(saga)) == []
    # The key is free.
    code, result, err = travel.saga("start", "trip", "--input", '{"amount": 1}', "--key", "undone", "--wait", "40s")
    assert code == 0 and result["saga"] == str(saga), (result, err)
    travel.check()


def test_a_thousand_starts_with_one_key_are_one_saga(travel):
    travel.deployed("trip")
    found, errors = [], []

    def start():
        try:
            with travel.postgres.session(travel.agency, user="txbtest_app") as connection, connection.cursor() as cursor:
                for _ in range(125):
                    cursor.execute("SELECT txb.saga_start('trip', '{\"amount\": 1}', key => 'the only one')")
                    found.append(cursor.fetchone()[0])
        except psycopg2.Error as error:
            errors.append(error)

    threads = [threading.Thread(target=start, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors and len(found) == 1000 and len(set(found)) == 1
    travel.wait_ended(found[:1])
    assert travel.query("SELECT count(*) FROM txb.saga WHERE key = 'the only one'") == [(1,)]
    assert sorted(travel.bookings()[found[0]]) == ["flight", "hotel", "payment"]
    travel.check()


@pytest.fixture
def service(travels):
    """An installation and the database of a service that has no coordinator: its starts travel."""
    travel = travels()
    shop = f"{travel.name}_shop"
    travel.create_database(shop)
    travel.sources.append(shop)
    travel.told = f"{travel.name}.told"
    travel.kafka.create_topic(travel.told, 1)
    travel.start("run")
    travel.deployed("trip")

    def start(name="trip", given='{"amount": 2}', key=None):
        return travel.postgres.query(shop, "SELECT txb.saga_start(%s, %s::jsonb, key => %s, reply_topic => %s, coordinator => %s)",
                                     (name, given, key, travel.told, travel.topic), user="txbtest_app")[0][0]

    return travel, start


def test_a_start_from_another_database_travels_and_its_end_is_told(service):
    travel, start = service
    expected = {start(): ("completed", "txb.saga.completed", None),
                start(given='{"amount": 2, "refuse": "hotel"}'): ("compensated", "txb.saga.compensated", "hotel: no hotel is left"),
                start(name="cruise"): ("refused", "txb.saga.refused", 'there is no saga "cruise"'),
                start(given='{"amount": 0}'): ("refused", "txb.saga.refused", "input.amount is 0, it must be at least 1"),
                start(key="k"): ("completed", "txb.saga.completed", None)}
    repeated = start(key="k")
    assert repeated in expected
    ids = list(expected)
    process.wait_for(lambda: sum(travel.states(ids).values()) == len(ids) and None not in travel.states(ids),
                     lambda: f"{travel.states(ids)}\n{travel.logs_text()}", 60, alive=travel.alive)
    for saga, (state, _, reason) in expected.items():
        result = travel.result(saga)
        assert result["state"] == state and result["reason"] == reason, result
    process.wait_for(lambda: len(read_topic(travel.kafka.brokers, travel.told)) >= len(ids), "the ends to be told", 60, alive=travel.alive)
    records = read_topic(travel.kafka.brokers, travel.told)
    assert len(records) == len(ids)
    for record in records:
        saga = uuid.UUID(record.headers["txb-saga"].decode())
        body = json.loads(record.value)
        assert record.headers["ce_type"].decode() == expected[saga][1] and body.get("reason") == expected[saga][2], record
        assert record.key.decode() == ("k" if saga == repeated else str(saga))
        assert ("output" in body) == (expected[saga][0] == "completed")
    assert travel.query("SELECT count(*) FROM txb.saga") == [(len(ids),)]
    travel.check()


def test_an_output_that_breaks_its_schema_is_none_and_the_saga_says_why(service):
    travel, start = service
    broken, kept = ({"type": "object", "properties": {"flight": {"type": kind}}} for kind in ("array", "string"))
    names = [travel.deployed(name, output={"flight": "no {steps.flight.output.booking}"}, output_schema=schema) for name, schema in (("odd", broken), ("even", kept))]
    odd, even = (start(name) for name in names)
    process.wait_for(lambda: travel.states([odd, even]) == {"completed": 2}, lambda: f"{travel.states()}\n{travel.logs_text()}", 60, alive=travel.alive)
    result = travel.result(odd)
    assert result["output"] is None and re.fullmatch('completed, but its output breaks output_schema: output.flight is "no [0-9]+", which is no array', result["reason"])
    assert travel.result(even)["reason"] is None and set(travel.result(even)["output"]) == {"flight"}
    ends = dict(travel.query("SELECT saga_id, output IS NULL AND reason = %s FROM txb.saga_event WHERE event = 'end'", result["reason"]))
    assert ends == {odd: True, even: False}
    process.wait_for(lambda: len(read_topic(travel.kafka.brokers, travel.told)) >= 2, "the ends to be told", 60, alive=travel.alive)
    told = {uuid.UUID(record.headers["txb-saga"].decode()): json.loads(record.value) for record in read_topic(travel.kafka.brokers, travel.told)}
    assert "output" not in told[odd] and told[odd]["reason"] == result["reason"] and "output" in told[even]
    travel.check()


# -- waiting -------------------------------------------------------------------------------------------------------------------


def test_each_of_32_who_wait_gets_its_own_result(travel):
    travel.deployed("trip")
    kinds = [{"amount": 3}, {"amount": 3, "refuse": "hotel"}]
    wrong = []

    def by_command(n):
        code, result, err = travel.saga("start", "trip", "--input", json.dumps(kinds[n % 2]), "--key", f"waiting{n}", "--wait", "60s")
        right = travel.query("SELECT id FROM txb.saga WHERE key = %s", f"waiting{n}")
        state = ["completed", "compensated"][n % 2]
        if (code, result["state"]) != (n % 2, state) or [(uuid.UUID(result["saga"]),)] != right:
            wrong.append((n, code, result, err))
        elif n % 2 == 0 and result["output"]["flight"] != booking(uuid.UUID(result["saga"])):
            wrong.append((n, result, booking(uuid.UUID(result["saga"]))))

    def by_function(n):
        with travel.postgres.session(travel.agency, user="txbtest_app") as connection, connection.cursor() as cursor:
            cursor.execute("SELECT txb.saga_start('trip', %s)", (json.dumps(kinds[n % 2]),))
            saga = cursor.fetchone()[0]

            def result():
                cursor.execute("SELECT state, output FROM txb.saga_result(%s)", (saga,))
                row = cursor.fetchone()
                return row[0] not in ("running", "unknown") and row

            state, output = process.wait_for(result, f"the end of {saga}", 60)
            if state != ["completed", "compensated"][n % 2] or (output or {}).get("flight") != booking(saga):
                wrong.append((n, state, output, booking(saga)))

    def booking(saga):
        return travel.postgres.value(travel.databases["flight"], "SELECT number FROM travel.booking WHERE saga = %s AND what = 'flight'", (saga,))

    def run(n):
        try:
            (by_command if n < 16 else by_function)(n)
        except Exception as error:  # pylint: disable=broad-except; it is told below
            wrong.append((n, error))

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert not wrong and not any(thread.is_alive() for thread in threads), wrong
    travel.check()


def test_a_time_that_is_over_says_running_and_the_same_id_has_the_result_later(travel):
    travel.deployed("trip")
    with travel.postgres.session(travel.databases["hotel"]) as gate:
        gate.cursor().execute("BEGIN; LOCK TABLE travel.account IN ACCESS EXCLUSIVE MODE")
        code, result, _ = travel.saga("start", "trip", "--input", '{"amount": 2}', "--wait", "300ms")
        assert code == 1 and result["state"] == "running"
        code, again, _ = travel.saga("wait", result["saga"], "--timeout", "100ms")
        assert code == 1 and again["state"] == "running"
        gate.cursor().execute("ROLLBACK")
    code, final, err = travel.saga("wait", result["saga"], "--timeout", "60s")
    assert code == 0 and final["state"] == "completed" and final["saga"] == result["saga"], (final, err)
    travel.check()


# -- what does not belong there ------------------------------------------------------------------------------------------------


def publish(travel, key, kind, payload, headers):
    """By hand, through the outbox of a participant."""
    with travel.postgres.session(travel.databases["hotel"], user="txbtest_app") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT txb.publish(%s, %s, %s, convert_to(%s, 'UTF8'), %s)", (travel.topic, key, kind, payload, json.dumps(headers)))
        return cursor.fetchone()[0]


def test_messages_of_no_saga_are_put_aside_and_change_nothing(travel):
    travel.deployed("trip")
    done, = travel.begin(1)
    travel.wait_ended([done])
    started = travel.query("SELECT (extract(epoch FROM started_at) * 1000000)::bigint::text FROM txb.saga WHERE id = %s", done)[0][0]
    nobody, text = str(uuid.uuid4()), str(done)
    answer = '{"answer": "ok", "output": {"booking": 1}}'
    mine = {"txb-saga": text, "txb-saga-started": started}
    forged = {publish(travel, *message): reason for message, reason in [
        ((nobody, "txb.reply", answer, {"txb-saga": nobody, "txb-saga-started": started, "txb-saga-step": "flight"}), "there is no such saga"),
        ((text, "txb.reply", answer, {"txb-saga": text, "txb-saga-started": str(int(started) + 1)}), "there is no such saga"),
        ((nobody, "txb.saga.start", "{}", {"txb-saga": nobody, "txb-saga-started": started}), "there is no such saga"),
        ((text, "booking.made", "{}", mine), "its type is none that a coordinator knows"),
        ((text, "txb.reply", answer, {}), "it names no saga: the header txb-saga is missing, or no UUID"),
        ((text, "txb.reply", answer, {"txb-saga": "42", "txb-saga-started": started}), "it names no saga: the header txb-saga is missing, or no UUID"),
        ((text, "txb.reply", answer, {"txb-saga": text, "txb-saga-started": "yesterday"}), "the header txb-saga-started is missing, or no number of microseconds"),
        ((text, "txb.reply", "not json", mine), "its payload is no JSON object"),
        ((text, "txb.reply", '{"answer": "ok", "output": "\\u0000"}', mine), "its payload is no JSON object"),
        ((text, "txb.reply", '{"answer": "ok", "output": 12345678901234567890}', mine), "its payload has a number that does not fit into 64 bits: such are written as text"),
        ((nobody, "txb.reply", answer, mine), "its key is not the saga's id: it may lie in a partition where it overtakes others"),
        ((None, "txb.reply", answer, mine), "its key is not the saga's id: it may lie in a partition where it overtakes others"),
        ((text, "txb.reply", '{"answer": 1}', mine), "an answer without an answer"),
        ((text, "txb.saga.timer", '{"due_us": "soon"}', mine), "a timer without a time"),
        ((text, "txb.saga.decision", "{}", mine), "a decision without a decision"),
    ]}

    def strays():
        return {message: reason for message, reason in travel.query("SELECT message_id, reason FROM txb.saga_stray") if message in forged}

    process.wait_for(lambda: len(strays()) == len(forged), lambda: f"strays: {strays()}\n{travel.logs_text()}", 60, alive=travel.alive)
    assert strays() == forged
    assert travel.query("SELECT 1 FROM txb.failed") == []
    assert "ignored" not in travel.events(done) and travel.query("SELECT 1 FROM txb.saga WHERE id::text = %s", nobody) == []
    travel.check()


def test_a_start_by_hand_that_can_t_be_is_refused_with_its_reason(travel):
    travel.deployed("trip")
    good, expected = {"name": "trip", "input": {"amount": 1}}, {}
    for change, reason in [({"reply_topic": "a b"}, 'reply_topic "a b" is not a Kafka topic name: letters, digits, ".", "_" and "-"'),
                           ({"key": 1025 * "k"}, "key has 1025 bytes, 1 to 1024 are allowed"),
                           ({"deadline_ms": 0}, "deadline_ms is 0, it must be above 0 and at most a year"),
                           ({"deadline_ms": 2 ** 62}, f"deadline_ms is {2 ** 62}, it must be above 0 and at most a year"),
                           ({"version": 7}, 'there is no saga "trip"'), ({"name": None}, 'there is no saga ""'), ({"input": None}, "input is null, which is no object")]:
        saga = uuid.uuid4()
        publish(travel, str(saga), "txb.saga.start", json.dumps({**good, **change}), {"txb-saga": str(saga), "txb-saga-started": "1700000000000000"})
        expected[saga] = reason

    def found():
        return dict(travel.query("SELECT saga_id, reason FROM txb.saga_end WHERE state = 'refused' AND saga_id = ANY (%s)", list(expected)))

    process.wait_for(lambda: len(found()) == len(expected), lambda: f"{found()}\n{travel.logs_text()}", 60, alive=travel.alive)
    assert found() == expected
    travel.check()


def test_answers_that_nobody_asked_for_are_noted_and_ignored(travel):
    travel.deployed("trip")
    with travel.postgres.session(travel.databases["payment"]) as gate:
        gate.cursor().execute("BEGIN; LOCK TABLE travel.account IN ACCESS EXCLUSIVE MODE")
        saga, = travel.begin(1)
        travel.wait_event([saga], "payment: begin")
        started = travel.query("SELECT (extract(epoch FROM started_at) * 1000000)::bigint::text FROM txb.saga WHERE id = %s", saga)[0][0]

        def answer(step, topic, said="ok", operation="action"):
            return publish(travel, str(saga), "txb.reply", json.dumps({"answer": said}), {
                "txb-saga": str(saga), "txb-saga-started": started, "txb-saga-step": step, "txb-saga-operation": operation,
                "txb-saga-sending": "1", "txb-command-topic": topic})

        forged = {answer("payment", travel.topics["hotel"]): f"an answer from topic {travel.topics['hotel']}: its commands go to {travel.topics['payment']}",
                  answer("cruise", travel.topics["payment"]): "an answer about cruise: version 1 of trip has no such step",
                  answer("payment", travel.topics["payment"], "perhaps"): "the answer perhaps to action means nothing",
                  answer("flight", travel.topics["flight"], "refused"): "the answer refused to action came when the step was done: nothing follows from it",
                  publish(travel, str(saga), "txb.saga.timer", '{"due_us": 1}', {"txb-saga": str(saga), "txb-saga-started": started}): None}
        expected = {reason for reason in forged.values() if reason}

        def ignored():
            return {reason for reason, in travel.query("SELECT reason FROM txb.saga_event WHERE saga_id = %s AND event = 'ignored'", saga)}

        process.wait_for(lambda: len(ignored()) >= len(expected), lambda: f"{ignored()}\n{travel.logs_text()}", 60, alive=travel.alive)
        assert ignored() == expected
        gate.cursor().execute("ROLLBACK")
    travel.wait_ended([saga])
    assert travel.result(saga)["state"] == "completed" and "timer" not in travel.events(saga)
    travel.check()
