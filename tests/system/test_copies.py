"""Copies of messages (txb.outbox_copy): what comes out of Kafka is what went in, and who had the original knows the copy. And the copies of the dead."""

import pytest
from confluent_kafka import Producer

from txbtest import process
from txbtest.program import KAFKA_GONE, USAGE, command
from txbtest.verify import murmur2_partition, read_topic

TABLES = """
CREATE TABLE bank.got (n serial, id uuid, source text, key bytea, type text, "time" timestamptz, payload bytea, content_type text, headers jsonb);
GRANT ALL ON bank.got TO PUBLIC; GRANT ALL ON SEQUENCE bank.got_n_seq TO PUBLIC;
CREATE FUNCTION bank.keep(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
BEGIN
  IF m.payload = 'dead' THEN
    RETURN txb.dead('no account ' || txb.key_text(m.key));
  ELSIF m.payload = 'fails' THEN
    RAISE EXCEPTION 'no account %', txb.key_text(m.key);
  END IF;
  INSERT INTO bank.got (id, source, key, type, "time", payload, content_type, headers)
  VALUES (m.id, m.source, m.key, m.type, m."time", m.payload, m.content_type, m.headers);
  RETURN txb.ok();
END $$;
CREATE FUNCTION bank.copy(target text) RETURNS void LANGUAGE sql AS $$
  SELECT txb.outbox_copy(target, g.id, g.source, g.key, g.type, g."time", g.payload, g.content_type, g.headers, '{"txb-replayed": "1"}')
    FROM bank.got AS g ORDER BY g.n
$$;
"""
EVENT = {"ce_specversion": b"1.0", "ce_source": b"/shop", "ce_type": b"made"}
V7 = "0190163d-8694-739b-aea5-966c26f8ad91"
# What other producers send: key, value, headers.
FOREIGN = {
    "no CloudEvent, binary key, odd headers": (b"\xff\x00k", b"\x00\x01", {"X-Odd": b"\xff\xfe", "empty": b"", "none": None, "Ünï cödé": "ü".encode(), "content-type": b"x/y"}),
    "nothing but a value": (None, b"plain", {}),
    "a tombstone": (b"gone", None, {"why": b"deleted"}),
    "empty key and value": (b"", b"", {}),
    "a key longer than an intent's": (b"k" * 5000, b"long", {}),
    "a CloudEvent with a text as its id": (b"a", b"1", {**EVENT, "ce_id": b"order-7", "ce_time": b"2026-01-31T13:00:00+01:00", "ce_subject": b"s"}),
    "the same without a time": (b"b", b"2", {**EVENT, "ce_id": b"order-8"}),
    "a CloudEvent with a time that is none": (b"c", b"3", {**EVENT, "ce_id": b"order-9", "ce_time": b"yesterday"}),
    "a CloudEvent with a UUIDv7": (b"d", b"4", {**EVENT, "ce_id": V7.encode(), "ce_time": b"2026-01-31T12:00:00.123456Z", "content-type": b"text/plain"}),
    "malformed, without an id": (b"e", b"5", {"ce_source": b"/shop", "ce_type": b"made"}),
    "many headers": (b"f", b"6", {f"Header-{n}": b"v" * 300 for n in range(200)}),
}


def prepare(systems, postgres, kafka):
    system = systems(postgres, kafka)
    postgres.query(system.bank.target, TABLES)
    return system


def worker_of(system, **retry):
    return {"handler": {"kind": "sql", "function": "bank.keep"}, "session_timeout_ms": 6000, "retry": {"first_ms": 20, "cap_ms": 100, **retry}}


def relay_target(system, **more):
    """A relay of the database that the group works in."""
    source = {"name": f"{system.name}.copies", "database": system.target_postgres.uri(system.bank.target, "txbtest_relay"), "event_source": "txbroker:copies"}
    return system.relay(sources=[source], **more)


def send(system, messages, topic=None):
    producer = Producer({"bootstrap.servers": system.brokers, "linger.ms": 20, "partitioner": "murmur2_random"})
    for key, value, headers in messages:
        producer.produce(topic or system.bank.topics[0], value, key=key, headers=list(headers.items()))
    assert producer.flush(60) == 0


def query(system, sql, *args):
    return system.target_postgres.query(system.bank.target, sql, args or None)


def counters(system):
    return query(system, "SELECT coalesce(sum(applied), 0)::int, coalesce(sum(duplicate), 0)::int, coalesce(sum(failed), 0)::int FROM txb.consumer_offset WHERE group_name = %s",
                 system.group)[0]


def wait(system, condition):
    process.wait_for(condition, system.lag, 60, alive=system.alive)


def test_a_copy_is_the_message_that_it_was_made_from_and_a_duplicate_of_it(systems, postgres, kafka):
    system = prepare(systems, postgres, kafka)
    topic, count = system.bank.topics[0], len(FOREIGN) + 2
    elsewhere = kafka.create_topic(f"{system.name}.elsewhere", 2)
    send(system, FOREIGN.values())
    query(system, "SELECT txb.publish(%s, 'own', 'made', '{\"n\": 1}', '{\"trace\": \"7\"}')", topic)
    query(system, "INSERT INTO txb.outbox (topic, key, type) VALUES (%s, 'own', 'ended')", topic)
    relay_target(system)
    system.worker(worker=worker_of(system))
    wait(system, lambda: counters(system) == (count, 0, 0))
    originals = {(r.key, r.value): r.headers for r in read_topic(system.brokers, topic)}
    assert len(originals) == count

    query(system, "SELECT bank.copy(%s)", elsewhere)
    query(system, "SELECT bank.copy(%s)", topic)
    wait(system, lambda: counters(system)[1] == count)
    assert counters(system) == (count, count, 0), "every copy has the id of its original"
    wait(system, lambda: sum(end - first for first, end in kafka.ends(elsewhere).values()) == count)
    ids = {(key and bytes(key), payload and bytes(payload)): str(id_) for id_, key, payload in query(system, "SELECT id, key, payload FROM bank.got")}
    for record in read_topic(system.brokers, elsewhere):
        original, copied = dict(originals[record.key, record.value]), dict(record.headers)
        assert copied.pop("txb-replayed") == b"1"
        if original.get("ce_time") == b"yesterday":
            original.pop("ce_time"), copied.pop("ce_time")
        # What it did not have is added where a consumer could not know the id, or the time, without.
        added = {name: copied.pop(name) for name in list(copied) if name not in original}
        assert copied == original, record
        assert set(added) <= {"ce_id", "ce_time"}, added
        assert added.get("ce_id", ids[record.key, record.value].encode()) == ids[record.key, record.value].encode()
        if "ce_id" in original and "ce_time" in original:
            assert not added


def test_copies_of_one_binary_key_stay_in_order_and_go_where_the_key_goes(systems, postgres, kafka):
    system = prepare(systems, postgres, kafka)
    elsewhere = kafka.create_topic(f"{system.name}.elsewhere", 6)
    keys = [bytes([255, n]) for n in range(20)]
    query(system, "SELECT count(txb.outbox_copy(%s, txb.uuid_v7(), NULL, k, NULL, now(), convert_to(n::text, 'UTF8'), NULL, NULL, NULL))"
          " FROM generate_series(1, 50) AS n, unnest(%s::bytea[]) AS k", elsewhere, keys)
    query(system, "SELECT count(txb.publish(%s, n::text, 'made', '1')) FROM generate_series(1, 50) AS n", elsewhere)
    relay_target(system)
    wait(system, lambda: sum(end for _, end in kafka.ends(elsewhere).values()) == 1050)
    send(system, [(key, b"51", {}) for key in keys], elsewhere)
    records = read_topic(system.brokers, elsewhere)
    for key in keys:
        mine = [r for r in records if r.key == key]
        assert [int(r.value) for r in mine] == list(range(1, 52))
        assert {r.partition for r in mine} == {murmur2_partition(key, 6)}


def dead(system):
    return [row[0] for row in query(system, "SELECT convert_from(key, 'UTF8') FROM txb.failed WHERE state = 'dead' ORDER BY key")]


def test_the_dead_of_a_group_are_copied_once_however_they_died(systems, postgres, kafka):
    """Killed on the way, before and after the commits that make them dead: the topic has one copy of each, with the message and its error."""
    system = prepare(systems, postgres, kafka)
    letters = kafka.create_topic(f"{system.name}.dead", 2)
    worker = worker_of(system, attempts_max=2, dead_letter_topic=letters)
    wanted = [f"k{n}" for n in range(20)]
    for failpoint in ("worker.before_commit", "worker.in_commit", "worker.before_retry_settle", "worker.after_retry_settle"):
        killed = system.worker(worker=worker, env={"TXB_FAILPOINT": failpoint})
        if failpoint == "worker.before_commit":
            send(system, [(key.encode(), b"dead" if number % 2 else b"fails", {"n": str(number).encode()}) for number, key in enumerate(wanted)])
        killed.wait_exit(90)
    system.worker(worker=worker)
    wait(system, lambda: dead(system) == sorted(wanted))
    assert query(system, "SELECT group_name, dead_letter_topic FROM txb.consumer_group") == [(system.group, letters)]
    relay_target(system)
    wait(system, lambda: sum(end for _, end in kafka.ends(letters).values()) >= 20)
    records = read_topic(system.brokers, letters)
    assert sorted(r.key.decode() for r in records) == sorted(wanted)
    facts = {key: (str(id_), str(number), str(partition), str(offset), str(attempts)) for key, id_, number, partition, offset, attempts in query(
        system, 'SELECT convert_from(key, \'UTF8\'), id, number, partition, "offset", attempts FROM txb.failed')}
    for r in records:
        h = {name: value.decode() for name, value in r.headers.items()}
        at_once = r.value == b"dead"
        assert facts[r.key.decode()] == (r.id, h["txb-failed"], h["txb-partition"], h["txb-offset"], h["txb-attempts"])
        assert (h["txb-group"], h["txb-topic"], h["n"]) == (system.group, system.bank.topics[0], r.key[1:].decode())
        assert (h["txb-error-class"], h.get("txb-error-sqlstate"), h["txb-attempts"]) == (("dead", None, "1") if at_once else ("error", "P0001", "2"))
        assert f"no account {r.key.decode()}" in h["txb-error"] and h["txb-dead-at"].endswith("Z")


def test_failed_copy_asks_whether_the_topic_is_there(systems, postgres, kafka):
    system = prepare(systems, postgres, kafka)
    uri = system.target_postgres.uri(system.bank.target)
    query(system, """INSERT INTO txb.failed (side, state, group_name, topic, partition, "offset", id, type, place, holds)
                     VALUES ('consumer', 'dead', 'g', 't', 0, 49, txb.uuid_v7(), 'made', 0, false); INSERT INTO txb.relay (source, epoch) VALUES ('copies', 1)""")
    aside = kafka.create_topic(f"{system.name}.aside", 1)
    for more in ([], ["--dry-run"]):
        code, out, err = command("-d", uri, "-b", kafka.brokers, "failed", "copy", "--state", "dead", "--to-topic", f"{aside}2", *more)
        assert (code, out) == (USAGE, "") and f"Kafka at {kafka.brokers} has no topic {aside}2: create it, or correct --to-topic" in err
    code, out, err = command("-d", uri, "-b", "127.0.0.1:1", "failed", "copy", "--state", "dead", "--to-topic", aside)
    assert (code, out) == (KAFKA_GONE, "") and "127.0.0.1:1" in err
    assert query(system, "SELECT count(*) FROM txb.outbox") == [(0,)]
    assert command("-d", uri, "-b", kafka.brokers, "failed", "copy", "--state", "dead", "--to-topic", aside)[0] == 0
    assert query(system, "SELECT topic FROM txb.outbox") == [(aside,)]


def test_a_group_without_a_dead_letter_topic_copies_nothing_and_may_lose_it_again(systems, postgres, kafka):
    system = prepare(systems, postgres, kafka)
    with_letters = system.worker(worker=worker_of(system, dead_letter_topic=f"{system.name}.dead"))
    send(system, [(b"a", b"dead", {})])
    wait(system, lambda: dead(system) == ["a"])
    with_letters.stop()
    system.worker(worker=worker_of(system))
    send(system, [(b"b", b"dead", {})])
    wait(system, lambda: dead(system) == ["a", "b"])
    assert query(system, "SELECT key FROM txb.outbox") == [("a",)]


def test_an_outbox_that_takes_no_copy_makes_the_message_wait_and_go_on_by_itself(systems, postgres, kafka):
    system = prepare(systems, postgres, kafka)
    letters = kafka.create_topic(f"{system.name}.dead")
    query(system, "SELECT setval('txb.outbox_seq_seq', 50000000)")  # as when no relay has made partitions for long
    worker = system.worker(worker=worker_of(system, dead_letter_topic=letters))
    send(system, [(b"a", b"good", {}), (b"a", b"dead", {}), (b"b", b"fine", {})])
    wait(system, lambda: query(system, "SELECT count(*) FROM txb.failed WHERE state = 'retrying' AND error ~ 'no partition of relation .outbox. found'")[0][0] == 1)
    drawn = "SELECT last_value FROM txb.outbox_seq_seq"  # each copy that is refused has drawn one; the log is told once a second
    (before,) = query(system, drawn)[0]
    wait(system, lambda: query(system, drawn)[0][0] >= before + 60)
    assert dead(system) == [] and query(system, "SELECT count(*) FROM txb.outbox")[0][0] == 0 and worker.running()
    assert "set aside for good" not in worker.text(), "what was rolled back with its copy has not happened"
    worker.wait_line("what became of a failed message can't be stored.* error=.*no partition of relation")
    relay_target(system)
    wait(system, lambda: dead(system) == ["a"])
    worker.wait_line("set aside for good")
    wait(system, lambda: counters(system) == (2, 0, 1))
    wait(system, lambda: sum(end for _, end in kafka.ends(letters).values()) == 1)


@pytest.mark.parametrize("served", [False, True])
def test_doctor_notices_dead_letters_that_nobody_relays(systems, postgres, kafka, served):
    from test_commands import checks  # pylint: disable=import-outside-toplevel

    system = prepare(systems, postgres, kafka)
    letters = f"{system.name}.dead"
    if served:
        kafka.create_topic(letters)
        relay_target(system).wait_line("lease taken")
    _, found = checks(system.config(name="doctor", worker=worker_of(system, dead_letter_topic=letters)))
    check = found["dead letters", system.group]
    assert check["result"] == ("ok" if served else "warn") and letters in check["found"]
    assert ("no relay has ever served" in check["found"]) != served
    assert found["topic", letters]["result"] == ("ok" if served else "fail")


def test_doctor_tells_which_dead_letter_topic_is_in_force(systems, postgres, kafka):
    """The one that a worker has told, until workers begin with another one."""
    from test_commands import checks  # pylint: disable=import-outside-toplevel

    system = prepare(systems, postgres, kafka)
    old, new = f"{system.name}.old", f"{system.name}.new"

    def found(topic):
        return checks(system.config(name="doctor", worker=worker_of(system, **({"dead_letter_topic": topic} if topic else {}))))[1].get(("dead letters in force", system.group))

    assert found(None) is None and "copied to no topic; configured is" in found(new)["found"]
    query(system, "SELECT txb.group_register(%s, %s)", system.group, old)
    assert found(old) is None
    for topic in (new, None):
        check = found(topic)
        assert check["result"] == "warn" and f"copied to {old}, as a worker told at 20" in check["found"] and f"configured is {topic or 'none'}" in check["found"]


def test_failed_messages_copied_by_command_are_what_came_and_stay(systems, postgres, kafka):
    """`failed copy`: by a job of a group's workers, through the outbox of its database; the group that applies what failed afterwards knows the copies."""
    system = prepare(systems, postgres, kafka)
    aside = kafka.create_topic(f"{system.name}.aside", 2)
    failing = {b"\xff\x00": (b"fails", {"X-Odd": b"\xff\xfe", "none": None}), b"a": (b"fails", {**EVENT, "ce_id": b"order-7", "ce_time": b"2026-01-31T12:00:00Z"}),
               b"b": (b"dead", {})}
    system.worker(worker=worker_of(system, attempts_max=1))
    send(system, [(key, value, headers) for key, (value, headers) in failing.items()])
    wait(system, lambda: counters(system) == (0, 0, 3))
    uri = system.target_postgres.uri(system.bank.target)
    code, _, err = command("-d", uri, "failed", "copy", "--group", system.group, "--to-topic", aside, "--yes")
    assert code == 1 and "no relay has ever served this database" in err
    relay_target(system)
    wait(system, lambda: query(system, "SELECT 1 FROM txb.relay"))
    code, out, err = command("-d", uri, "failed", "copy", "--group", system.group, "--to-topic", aside, "--detach", "--yes")
    assert code == 0 and "3 messages; workers run it." in out, out + err
    wait(system, lambda: query(system, "SELECT state, done FROM txb.failed_job") == [("done", 3)])
    wait(system, lambda: sum(end - first for first, end in kafka.ends(aside).values()) == 3)
    originals = {r.key: r.headers for r in read_topic(system.brokers, system.bank.topics[0])}
    for record in read_topic(system.brokers, aside):
        headers = dict(record.headers)
        assert record.value == failing[record.key][0] and headers.pop("txb-replayed") == b"1"
        assert {name: value for name, value in headers.items() if name in originals[record.key]} == dict(originals[record.key])
    assert query(system, "SELECT state, count(*) FROM txb.failed GROUP BY state") == [("dead", 3)]
    query(system, "CREATE OR REPLACE FUNCTION bank.keep(m txb.message) RETURNS txb.outcome LANGUAGE sql AS 'SELECT txb.ok()'")
    assert command("-d", uri, "failed", "retry", "--group", system.group, "--yes")[0] == 0
    wait(system, lambda: counters(system) == (3, 0, 0))
    code, out, err = command("-d", uri, "failed", "copy", "--group", system.group, "--state", "any", "--to-topic", system.bank.topics[0], "--yes")
    assert code == 0, err
    wait(system, lambda: counters(system) == (3, 3, 0))
