"""Failed messages: what can't be applied is set aside, holds its key and nothing else, is tried again by whoever owns the partition, and follows in order."""

import json

import pytest
from confluent_kafka import Producer

from txbtest import process
from txbtest.plugin import build_plugin

RETRY = {"first_ms": 20, "cap_ms": 200}

TABLES = """
CREATE TABLE bank.seen (n serial, key text, number int, attempt int, id uuid);
CREATE TABLE bank.broken (key text, number int);
GRANT ALL ON bank.seen, bank.broken TO PUBLIC; GRANT ALL ON ALL SEQUENCES IN SCHEMA bank TO PUBLIC;
"""
HANDLER = """
CREATE OR REPLACE FUNCTION bank.see(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
DECLARE
  body jsonb := convert_from(m.payload, 'UTF8');
BEGIN
  INSERT INTO bank.seen (key, number, attempt, id) VALUES (txb.key_text(m.key), (body->>'n')::int, m.attempt, m.id);
  IF EXISTS (SELECT FROM bank.broken AS b WHERE b.number = (body->>'n')::int AND b.key IS NOT DISTINCT FROM txb.key_text(m.key)) THEN
    %s
  END IF;
  RETURN txb.ok();
END $$"""
RAISES = "RAISE EXCEPTION 'no account % of %', body->>'n', txb.key_text(m.key);"


def prepare(systems, postgres, kafka, fails=RAISES, **options):
    """A system whose handler notes what it is given, and fails for what stands in bank.broken."""
    system = systems(postgres, kafka, **options)
    postgres.query(system.bank.target, TABLES)
    postgres.query(system.bank.target, HANDLER % fails)
    return system


def handler(**more):
    return {"handler": {"kind": "sql", "function": "bank.see", **more.pop("handler", {})}, "retry": {**RETRY, **more.pop("retry", {})}, **more}


def send(system, messages, partition=None):
    """(key, number) each; all of them without a source."""
    producer = Producer({"bootstrap.servers": system.brokers, "linger.ms": 20})
    for key, number in messages:
        place = {} if partition is None else {"partition": partition}
        producer.produce(system.bank.topics[0], json.dumps({"n": number}), key=key, **place)
    assert producer.flush(60) == 0


def query(system, sql, *args):
    return system.target_postgres.query(system.bank.target, sql, args or None)


def one(system, sql, *args):
    return system.target_postgres.value(system.bank.target, sql, args or None)


def counters(system):
    """consumed, applied, duplicate, failed of the group; they always add up (Q)."""
    row = query(system, "SELECT coalesce(sum(consumed), 0)::bigint, coalesce(sum(applied), 0)::bigint, coalesce(sum(duplicate), 0)::bigint,"
                " coalesce(sum(failed), 0)::bigint FROM txb.consumer_offset WHERE group_name = %s", system.group)[0]
    assert row[0] == sum(row[1:]), row
    return row


def states(system):
    return dict(query(system, "SELECT state, count(*) FROM txb.failed GROUP BY state"))


def seen(system, key=None):
    """Numbers with effect, in their order."""
    rows = query(system, "SELECT number FROM bank.seen WHERE %s IS NULL OR key = %s ORDER BY n", key, key)
    return [row[0] for row in rows]


def break_it(system, *messages):
    for key, number in messages:
        query(system, "INSERT INTO bank.broken VALUES (%s, %s)", key, number)


def mend(system):
    query(system, "DELETE FROM bank.broken")


def wait(system, condition, what=None, deadline_s=60):
    process.wait_for(condition, what or system.lag, deadline_s, alive=system.alive)


def test_one_bad_message_holds_its_key_and_nothing_else(systems, postgres, kafka):
    system = prepare(systems, postgres, kafka)
    break_it(system, ("k7", 3))
    worker = system.worker(worker=handler(retry={"attempts_max": 1000}))
    send(system, [(f"k{k}", n) for n in range(10) for k in range(30)])
    wait(system, lambda: counters(system)[:2] == (300, 293))
    assert seen(system, "k7") == [0, 1, 2] and counters(system)[3] == 7
    assert states(system) == {"retrying": 1, "held": 6}
    for k in range(30):
        assert k == 7 or seen(system, f"k{k}") == list(range(10))
    assert "message set aside" in worker.text()
    send(system, [("k7", 10), ("k8", 10)])
    wait(system, lambda: seen(system, "k8")[-1:] == [10] and counters(system)[0] == 302)
    assert states(system) == {"retrying": 1, "held": 7}
    mend(system)
    wait(system, lambda: states(system) == {"resolved": 8})
    assert seen(system, "k7") == list(range(11))
    assert counters(system) == (302, 302, 0, 0)
    send(system, [("k7", 11)])
    wait(system, lambda: seen(system, "k7") == list(range(12)))
    assert one(system, "SELECT sum(held) FROM txb.consumer_offset") == 0


@pytest.mark.parametrize("answer,state,error_class,sqlstate,attempts", [
    ("RETURN txb.refuse('no such account');", "dead", "refuse", None, 1), ("RETURN txb.dead('never');", "dead", "dead", None, 1),
    ("RETURN txb.retry('10 ms', 'not now');", "dead", "retry", None, 3), ("RAISE EXCEPTION 'broken';", "dead", "error", "P0001", 3),
    ("PERFORM 1 / 0;", "dead", "error", "22012", 3), ("RETURN NULL;", "dead", "error", None, 3),
    ("PERFORM nowhere.nothing();", "dead", "error", "3F000", 3)])
def test_what_a_handler_answers_says_how_it_goes_on(answer, state, error_class, sqlstate, attempts, systems, postgres, kafka):
    system = prepare(systems, postgres, kafka, answer)
    break_it(system, ("k1", 1))
    system.worker(worker=handler(retry={"attempts_max": 3}))
    send(system, [(f"k{k}", n) for n in range(3) for k in range(3)])
    wait(system, lambda: counters(system)[0] == 9 and states(system).get("dead") == 1)
    assert query(system, "SELECT state, error_class, sqlstate, attempts FROM txb.failed WHERE state <> 'held'") == [(state, error_class, sqlstate, attempts)]
    assert states(system) == {"dead": 1, "held": 1} and counters(system) == (9, 7, 0, 2)
    assert [row[0] for row in query(system, "SELECT state FROM txb.failed_history AS h WHERE event = 'failed' ORDER BY at")] == (
        ["retrying"] * (attempts - 1) + ["dead"])


@pytest.mark.parametrize("answer,error_class", [("RETURN txb.refuse('no');", "refuse"), ("RAISE EXCEPTION 'no';", "error")])
def test_a_message_that_is_a_batch_of_its_own_fails_the_same_way(answer, error_class, systems, postgres, kafka):
    system = prepare(systems, postgres, kafka, answer)
    break_it(system, ("k1", 1))
    system.worker(worker=handler(batch_messages=1, retry={"attempts_max": 2}))
    send(system, [("k1", n) for n in range(4)])
    wait(system, lambda: states(system) == {"dead": 1, "held": 2})
    assert query(system, "SELECT error_class, attempts FROM txb.failed WHERE state = 'dead'") == [(error_class, 1 if error_class == "refuse" else 2)]
    assert counters(system) == (4, 1, 0, 3)


def test_a_dead_message_lets_go_of_its_key_where_the_group_wants_it(systems, postgres, kafka):
    system = prepare(systems, postgres, kafka)
    break_it(system, ("k1", 1), ("k1", 4), ("k2", 2))
    system.worker(worker=handler(retry={"attempts_max": 2, "on_dead": "release"}))
    send(system, [(f"k{k}", n) for n in range(8) for k in range(3)])
    wait(system, lambda: states(system).get("dead") == 3 and counters(system)[1] == 21)
    assert seen(system, "k1") == [0, 2, 3, 5, 6, 7] and seen(system, "k2") == [0, 1, 3, 4, 5, 6, 7]
    assert one(system, "SELECT sum(held) FROM txb.consumer_offset") == 0


@pytest.mark.parametrize("workers", [1, 4])
def test_the_number_of_attempts_does_not_depend_on_the_number_of_workers(workers, systems, postgres, kafka):
    system = prepare(systems, postgres, kafka, partitions=4)
    postgres.query(system.bank.target, """CREATE OR REPLACE FUNCTION bank.see(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$ BEGIN
        IF m.attempt <= 5 THEN RAISE EXCEPTION 'not yet: attempt %', m.attempt; END IF;
        INSERT INTO bank.seen (key, number, attempt, id) VALUES (txb.key_text(m.key), (convert_from(m.payload, 'UTF8')::jsonb->>'n')::int, m.attempt, m.id);
        RETURN txb.ok(); END $$""")
    for _ in range(workers):
        system.worker(worker=handler(session_timeout_ms=6000))
    for partition in range(4):
        send(system, [(f"k{partition}.{k}", n) for n in range(2) for k in range(20)], partition)
    wait(system, lambda: counters(system) == (160, 160, 0, 0), deadline_s=90)
    assert query(system, "SELECT number, count(*) FILTER (WHERE event = 'failed'), count(*) FILTER (WHERE event = 'applied')"
                 " FROM txb.failed_history GROUP BY number HAVING count(*) FILTER (WHERE event = 'failed') <> 5"
                 " OR count(*) FILTER (WHERE event = 'applied') <> 1") == []
    assert query(system, "SELECT min(attempt), max(attempt), count(*) FROM bank.seen") == [(6, 6, 160)]
    assert query(system, "SELECT key FROM bank.seen GROUP BY key HAVING array_agg(number ORDER BY n) <> '{0,1}'") == []


def test_a_batch_handler_s_bad_message_is_found_and_the_others_applied(systems, postgres, kafka):
    system = prepare(systems, postgres, kafka)
    postgres.query(system.bank.target, """CREATE FUNCTION bank.see_all(m txb.message[]) RETURNS SETOF txb.outcome LANGUAGE plpgsql AS $$
        DECLARE one txb.message; BEGIN FOREACH one IN ARRAY m LOOP RETURN NEXT bank.see(one); END LOOP; END $$""")
    break_it(system, *[(f"k{k}", 5) for k in range(0, 40, 8)])
    system.worker(worker=handler(handler={"function": "bank.see_all", "per": "batch"}, retry={"attempts_max": 1000}))
    send(system, [(f"k{k}", n) for n in range(10) for k in range(40)])
    wait(system, lambda: counters(system)[0] == 400 and states(system) == {"retrying": 5, "held": 20})
    assert counters(system) == (400, 375, 0, 25)
    mend(system)
    wait(system, lambda: counters(system) == (400, 400, 0, 0))
    assert query(system, "SELECT key FROM bank.seen GROUP BY key HAVING array_agg(number ORDER BY n) <> '{0,1,2,3,4,5,6,7,8,9}'") == []


def test_a_batch_handler_that_answers_too_few_outcomes_fails_each_message(systems, postgres, kafka):
    system = prepare(systems, postgres, kafka)
    postgres.query(system.bank.target, """CREATE FUNCTION bank.short(m txb.message[]) RETURNS SETOF txb.outcome LANGUAGE sql AS
        $$ SELECT (txb.ok()).* FROM generate_series(2, cardinality(m)) $$""")
    system.worker(worker=handler(handler={"function": "bank.short", "per": "batch"}, retry={"attempts_max": 1}))
    send(system, [(f"k{k}", 0) for k in range(20)])
    wait(system, lambda: states(system) == {"dead": 20})
    assert "outcomes for" in one(system, "SELECT max(error) FROM txb.failed")


def test_a_handler_that_takes_too_long_fails_alone(systems, postgres, kafka):
    system = prepare(systems, postgres, kafka, "PERFORM pg_sleep(600);")
    break_it(system, ("k1", 1))
    system.worker(worker=handler(handler={"timeout_ms": 300}, retry={"attempts_max": 2}))
    send(system, [(f"k{k}", n) for n in range(3) for k in range(3)])
    wait(system, lambda: counters(system)[0] == 9 and states(system).get("dead") == 1)
    assert query(system, "SELECT error_class, sqlstate, attempts FROM txb.failed WHERE state = 'dead'") == [("timeout", "57014", 2)]
    assert counters(system) == (9, 7, 0, 2)


def test_what_a_handler_asks_for_is_how_long_it_waits(systems, postgres, kafka):
    system = prepare(systems, postgres, kafka, "RETURN txb.retry('1 hour', 'closed');")
    break_it(system, ("k1", 1))
    system.worker(worker=handler())
    send(system, [("k1", 1)])
    wait(system, lambda: states(system) == {"retrying": 1})
    assert one(system, "SELECT next_attempt_at - updated_at BETWEEN interval '59 min' AND interval '61 min' FROM txb.failed")


def test_nothing_of_a_failed_delivery_stays_what_it_published_neither(systems, postgres, kafka):
    """W5."""
    system = prepare(systems, postgres, kafka, "PERFORM txb.publish('out', 'x', 'made', '1'); RAISE EXCEPTION 'no';")
    break_it(system, ("k1", 1))
    system.worker(worker=handler(retry={"attempts_max": 2}))
    send(system, [(f"k{k}", n) for n in range(4) for k in range(4)])
    wait(system, lambda: counters(system)[0] == 16 and states(system).get("dead") == 1)
    assert one(system, "SELECT count(*) FROM txb.outbox") == 0 and seen(system, "k1") == [0]
    assert one(system, "SELECT count(*) FROM txb.inbox WHERE group_name = %s", system.group) == counters(system)[1]


def test_a_message_that_only_its_commit_refuses_is_found_too(systems, postgres, kafka):
    system = prepare(systems, postgres, kafka, "INSERT INTO bank.refused VALUES (1);")
    postgres.query(system.bank.target, """CREATE TABLE bank.refused (a int); GRANT ALL ON bank.refused TO PUBLIC;
        CREATE FUNCTION bank.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not at the end'; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON bank.refused DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION bank.refuse()""")
    break_it(system, ("k1", 1))
    system.worker(worker=handler(retry={"attempts_max": 3}))
    send(system, [(f"k{k}", n) for n in range(5) for k in range(5)])
    wait(system, lambda: counters(system)[0] == 25 and states(system).get("dead") == 1)
    assert query(system, "SELECT error, attempts FROM txb.failed WHERE state = 'dead'") == [("not at the end", 3)]
    assert counters(system) == (25, 21, 0, 4)


def test_a_person_s_decision_is_taken_up_by_a_worker_that_is_idle_and_by_one_that_is_busy(systems, postgres, kafka):
    system = prepare(systems, postgres, kafka)
    break_it(system, ("k1", 1))
    system.worker(worker=handler(retry={"attempts_max": 1}))
    send(system, [("k1", n) for n in range(5)])
    wait(system, lambda: states(system) == {"dead": 1, "held": 3})
    mend(system)
    decide(system)
    send(system, [("k2", 1)])
    wait(system, lambda: counters(system) == (6, 6, 0, 0))
    assert seen(system, "k1") == list(range(5))


def decide(system):
    """What `failed retry` does."""
    query(system, "UPDATE txb.failed SET state = 'retrying', attempts = 0, next_attempt_at = now() WHERE state = 'dead';"
          " UPDATE txb.consumer_offset SET keys_version = keys_version + 1")


def test_limits_make_the_partition_wait_and_drop_nothing(systems, postgres, kafka):
    system = prepare(systems, postgres, kafka, partitions=2)
    break_it(system, ("k1", 0))
    worker = system.worker(worker=handler(retry={"attempts_max": 1}, held_per_key_max=5, batch_messages=4))
    send(system, [("k1", n) for n in range(20)] + [("k2", n) for n in range(5)], 0)
    send(system, [("k3", n) for n in range(20)], 1)
    wait(system, lambda: one(system, "SELECT count(*) FROM txb.consumer_offset WHERE last_outcome = 'held_limit'") == 1)
    wait(system, lambda: len(seen(system, "k3")) == 20)
    assert states(system) == {"dead": 1, "held": 4}  # with the dead one, five wait
    assert "held_per_key_max: 5" in one(system, "SELECT max(last_error) FROM txb.consumer_offset") and seen(system, "k2") == []
    assert "no more messages may be held" in worker.text()
    mend(system)
    decide(system)
    wait(system, lambda: counters(system) == (45, 45, 0, 0))
    assert seen(system, "k1") == list(range(20)) and seen(system, "k2") == list(range(5))


def test_keys_of_any_bytes_are_held(systems, postgres, kafka):
    system = prepare(systems, postgres, kafka)
    long_key, binary = b"x" * 3000, b"\x00\xff\x00"
    producer = Producer({"bootstrap.servers": system.brokers})
    for number in range(4):
        for key in (long_key, binary, b"", None):
            producer.produce(system.bank.topics[0], json.dumps({"n": number}), key=key, partition=0)
    assert producer.flush(60) == 0
    query(system, "INSERT INTO bank.broken SELECT k, 1 FROM unnest(ARRAY[txb.key_text(%s), txb.key_text(%s), '', NULL]) AS k", long_key, binary)
    system.worker(worker=handler(retry={"attempts_max": 1000}))
    wait(system, lambda: counters(system) == (16, 6, 0, 10))  # without a key only the message itself
    rows = query(system, "SELECT state, key FROM txb.failed ORDER BY number")
    assert sum(state == "held" for state, _ in rows) == 6 and {bytes(key) for _, key in rows if key is not None} == {long_key, binary, b""}
    mend(system)
    wait(system, lambda: counters(system) == (16, 16, 0, 0))
    assert query(system, "SELECT key FROM bank.seen WHERE key IS NOT NULL GROUP BY key HAVING array_agg(number ORDER BY n) <> '{0,1,2,3}'") == []


def test_twenty_kills_from_outside_condemn_nobody(systems, postgres, kafka):
    """W10: who dies because somebody else wanted it is no poison, though messages fail at first and are tried again all the while."""
    system = prepare(systems, postgres, kafka, partitions=8)
    postgres.query(system.bank.target, """CREATE OR REPLACE FUNCTION bank.see(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$ BEGIN
        IF m."offset" % 10 = 3 AND m.attempt < 3 THEN RAISE EXCEPTION 'not yet'; END IF;
        INSERT INTO bank.seen (key, number, attempt, id) VALUES (txb.key_text(m.key), (convert_from(m.payload, 'UTF8')::jsonb->>'n')::int, m.attempt, m.id);
        RETURN txb.ok(); END $$""")
    settings = handler(batch_messages=20, session_timeout_ms=6000)
    for number in range(5):
        workers = [system.worker(worker=settings) for _ in range(4)]
        wait(system, lambda: all("partition taken" in worker.text() for worker in workers))
        before = counters(system)[0]
        send(system, [(f"k{k}", number * 40 + n) for n in range(40) for k in range(20)])
        wait(system, lambda: counters(system)[0] > before)
        for worker in workers:
            worker.kill9()
    system.worker(worker=settings)
    wait(system, lambda: counters(system) == (4000, 4000, 0, 0), deadline_s=120)
    assert query(system, "SELECT count(*) FROM txb.failed_history WHERE state = 'dead'") == [(0,)]
    assert query(system, "SELECT key FROM bank.seen GROUP BY key HAVING count(*) <> count(DISTINCT id)"
                 " OR array_agg(number ORDER BY n) <> array_agg(number ORDER BY number)") == []


def test_a_message_that_comes_twice_while_its_key_is_held_is_applied_once(systems, postgres, kafka):
    """In one batch, in batches of their own, and once it is applied."""
    system = prepare(systems, postgres, kafka)
    break_it(system, ("k1", 0))
    system.worker(worker=handler(retry={"attempts_max": 1}))
    producer = Producer({"bootstrap.servers": system.brokers})

    def again(number):
        headers = {"ce_specversion": "1.0", "ce_id": f"0190163d-8694-739b-aea5-0000000000{number:02}", "ce_source": "bank", "ce_type": "made",
                   "ce_time": "2024-06-14T00:00:00Z"}
        producer.produce(system.bank.topics[0], json.dumps({"n": number}), key="k1", headers=headers)
        assert producer.flush(60) == 0

    send(system, [("k1", 0)])
    for number in (1, 1, 2):
        again(number)
    wait(system, lambda: counters(system)[0] == 4)
    again(1)
    again(2)
    wait(system, lambda: counters(system)[0] == 6)
    mend(system)
    decide(system)
    wait(system, lambda: states(system).keys() == {"resolved"})
    again(2)
    wait(system, lambda: counters(system) == (7, 3, 4, 0))
    assert seen(system, "k1") == [0, 1, 2]


OLD = """
INSERT INTO txb.failed (number, place, side, state, resolution, group_name, source, seq, topic, partition, "offset", id, updated_at)
OVERRIDING SYSTEM VALUE
SELECT 1000 + n, 1000 + n, %(side)s, CASE WHEN n %% 2 = 0 THEN 'resolved' ELSE 'discarded' END, CASE WHEN n %% 2 = 0 THEN 'applied' ELSE 'discarded' END,
       %(owner)s, %(owner)s, -n, 't', 0, n, txb.uuid_v7(), now() - %(days)s * interval '1 day'
  FROM generate_series(%(first)s, %(last)s) AS n;
INSERT INTO txb.failed_history (number, event, state) SELECT number, 'applied', state FROM txb.failed WHERE number BETWEEN 1000 + %(first)s AND 1000 + %(last)s"""


def test_failed_messages_that_ended_long_ago_are_deleted_by_worker_and_relay(systems, postgres, kafka):
    """More than one chunk of each; what ended lately stays."""
    system = systems(postgres, kafka, worker={"failed_keep_ms": 3 * 86_400_000}, relay={"failed_keep_ms": 3 * 86_400_000})
    sides = {"consumer": (system.bank.target, system.group), "outbox": (system.bank.source, system.name)}
    for side, (database, owner) in sides.items():
        postgres.query(database, OLD, {"side": side, "owner": owner, "days": 4, "first": 1, "last": 1500})
        postgres.query(database, OLD, {"side": side, "owner": owner, "days": 2, "first": 2001, "last": 2010})
    system.relay()
    system.worker()

    def left(table):
        return [postgres.query(database, f"SELECT min(number), count(*) FROM txb.{table}")[0] for database, _ in sides.values()]

    process.wait_for(lambda: left("failed") == [(3001, 10)] * 2, lambda: str(left("failed")), 60, alive=system.alive)
    assert left("failed_history") == [(3001, 10)] * 2
