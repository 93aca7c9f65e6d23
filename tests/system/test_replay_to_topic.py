"""Replay jobs into a topic: every message is there once for the job, in the order of its key and as it was, whoever dies meanwhile."""

import collections
import json

import pytest
from confluent_kafka import Producer

from txbtest import process
from txbtest.bank import QUICK, Writers
from txbtest.program import System
from txbtest.replay import Group, history, prepare
from txbtest.verify import read_topic

START = """SELECT number FROM txb.job_start(NULL, %(group)s, %(source)s, %(topics)s, NULL, NULL, NULL, NULL, %(seq_from)s, %(seq_to)s, false, false,
    %(rate)s, 'a test', 'test', %(lane_topics)s, %(partitions)s, %(froms)s::bigint[], %(tos)s::bigint[], %(cluster)s, %(to_topic)s)"""


@pytest.fixture(scope="module")
def world(postgres, kafka, seed):
    """A source with a history; its relay runs, and one for the applying database, through whose outbox copies go."""
    system = System(postgres, kafka, "totopic", seed, accounts=40, relay={"checkpoint_ms": 20})
    try:
        prepare(system)
        system.relay("relay")
        other = {"name": f"{system.name}_b", "database": system.target_postgres.uri(system.bank.target, "txbtest_relay")}
        system.start("relay", "copier", sources=[other])
        system.copies = other["name"]
        process.wait_for(lambda: relayed(system, "count(*)") == 1, system.lag, 60, alive=system.alive)
        Writers(system.bank, 4, seed, QUICK, operations=40, held_s=0.05, user="txbtest_app").start().join()
        system.bank.bulk(1500, 300)
        system.wait_published()
        yield system
    finally:
        system.close()


@pytest.fixture
def groups(request, world):
    made = []

    def make(**options):
        made.append(Group(world, **options))
        return made[-1]

    request.node.systems = [world]
    yield make
    for group in made:
        group.stop()


def relayed(system, what):
    """Of the applying database's own relay."""
    return system.target_postgres.value(system.bank.target, f"SELECT {what} FROM txb.relay WHERE source = %s", (system.copies,))


def wait_copied(group, topic):
    """What was written for the topic is acknowledged."""
    group.wait(lambda: relayed(group.system, "watermark") >= (group.value("SELECT max(seq) FROM txb.outbox WHERE topic = %s", topic) or 0))


def start(group, to_topic, kafka=False, rate=None, topics=None):
    """A job of all that there is, into a topic; its number."""
    system, places = group.system, []
    topics = topics or group.topics
    if kafka:
        places = [(topic, partition, *ends) for topic in topics for partition, ends in sorted(system.kafka.ends(topic).items())]
    columns = [list(column) for column in zip(*places)] if places else [None] * 4
    options = {"group": group.name, "source": None if kafka else system.name, "topics": topics, "seq_from": None if kafka else 1,
               "seq_to": None if kafka else group.watermark() + 1, "rate": rate, "lane_topics": columns[0], "partitions": columns[1], "froms": columns[2],
               "tos": columns[3], "cluster": system.kafka.cluster_id if kafka else None, "to_topic": to_topic}
    with system.target_postgres.session(system.bank.target) as connection, connection.cursor() as cursor:
        cursor.execute(START, options)
        return cursor.fetchone()[0]


def state(group, job):
    return group.value("SELECT state FROM txb.job WHERE number = %s", job)


def copied(group, job):
    return int(group.value("SELECT coalesce(sum(c.consumed), 0) FROM txb.job_lane AS l JOIN txb.consumer_offset AS c ON c.topic = l.topic"
                           " AND c.partition = -l.lane AND c.group_name = %s WHERE l.job = %s", group.name, job))


def first_of_each(records):
    """A relay that died sends again: the first appearances are what counts."""
    seen = {}
    for record in records:
        seen.setdefault(record.id, record)
    return list(seen.values())


def of_keys(records):
    keys = collections.defaultdict(list)
    for record in records:
        keys[record.key].append(record.id)
    return keys


def test_an_outbox_is_copied_once_in_order_and_as_it_was_whoever_dies(world, groups, tally):
    group = groups(topics=world.bank.topics)
    target = world.kafka.create_topic(f"{group.name}.copy", world.partitions)
    for _ in range(2):
        group.worker()
    job = start(group, target, rate=2000)
    for goal in (100, 400, 900, 1300):
        group.wait(lambda goal=goal: copied(group, job) >= goal or state(group, job) == "done")
        assert state(group, job) == "running", group.lag()
        group.kill()
        tally["kills"] += 2
        tally["kills at work"] += 2
        group.worker()
        group.worker()
    group.wait(lambda: state(group, job) == "done")
    wait_copied(group, target)
    expected = history(world)
    assert group.value("SELECT count(*) FROM txb.outbox WHERE topic = %s", target) == len(expected)  # once, whoever died
    originals = {record.id: record for topic in world.bank.topics for record in read_topic(world.brokers, topic)}
    copies = first_of_each(read_topic(world.brokers, target))
    assert {record.id for record in copies} == set(originals) == {message.id for message in expected}
    for copy in copies:
        original = originals[copy.id]
        assert (copy.key, copy.value) == (original.key, original.value)
        assert copy.headers == {**original.headers, "txb-replayed": b"1"}
    wanted = of_keys(sorted(first_of_each(originals.values()), key=lambda record: (record.partition, record.offset)))
    assert {key: ids for key, ids in of_keys(copies).items() if key is not None} == {key: ids for key, ids in wanted.items() if key is not None}


def test_a_group_that_knows_the_originals_takes_the_copies_for_repetitions(world, groups):
    group = groups(start="nowhere")
    group.publish([(f"k{n % 7}", n) for n in range(100)])
    group.register("beginning")
    target = group.add_topic()
    group.worker()
    group.wait(lambda: group.total("applied") == 100)
    job = start(group, target, topics=group.topics[:1])
    group.wait(lambda: state(group, job) == "done")
    wait_copied(group, target)
    group.wait(lambda: group.value("SELECT sum(duplicate) FROM txb.consumer_offset WHERE group_name = %s AND topic = %s AND partition >= 0",
                                   group.name, target) == 100)
    assert len(group.notes()) == 100


def test_messages_of_a_foreign_producer_are_copied_from_kafka_byte_by_byte(world, groups):
    group = groups()
    producer = Producer({"bootstrap.servers": world.brokers, "partitioner": "murmur2_random"})
    made = [(b"\x00\xff\xfe", b"\x01\x02", [("Trace", b"\xff"), ("none", None), ("plain", b"text")]), (None, b"{}", []), (b"k", None, [("why", b"tombstone")]),
            (b"k", b"x" * 10, [("ce_specversion", b"1.0"), ("ce_id", b"order-7"), ("ce_source", b"/shop"), ("ce_type", b"made"),
                              ("ce_time", b"2026-01-31T12:00:00Z")])]
    for key, value, headers in made * 2 + made[:3]:
        producer.produce(group.topics[0], value, key, headers=headers)
    producer.flush(60)
    target = world.kafka.create_topic(f"{group.name}.copy", world.partitions)
    group.worker()
    job = start(group, target, kafka=True)
    group.wait(lambda: state(group, job) == "done")
    wait_copied(group, target)

    def things(records):
        return sorted((repr(r.key), repr(r.value), sorted((name, repr(value)) for name, value in r.headers.items()
                                                           if name in ("Trace", "none", "plain", "why", "ce_source", "ce_type") or value == b"order-7"))
                      for r in records)

    copies = read_topic(world.brokers, target)
    originals = read_topic(world.brokers, group.topics[0])
    twice = [record for record in originals if record.id == "order-7"]
    assert things(copies) == things([record for record in originals if record is not twice[1]])  # a CloudEvent that came twice is one message
    assert len(copies) == len(originals) - 1 == 10
    assert {record.headers["txb-replayed"] for record in copies} == {b"1"}


def test_what_went_round_too_often_stops_visibly_and_can_begin_anew(world, groups):
    group = groups()
    producer = Producer({"bootstrap.servers": world.brokers})
    for count in (b"9", b"10"):
        producer.produce(group.topics[0], b'{"n": 1}', b"k", headers=[("txb-replayed", count)])
    producer.flush(60)
    group.worker()
    job = start(group, group.topics[0], kafka=True)  # into itself: its range was fixed at the start
    group.wait(lambda: state(group, job) == "done")
    number, why, handler = group.query("SELECT number, error, handler FROM txb.failed WHERE group_name = %s AND state = 'dead'", group.name)[0]
    assert "replayed 10 times" in why and handler == "txb.job_republish"
    wait_copied(group, group.topics[0])
    counts = [record.headers["txb-replayed"] for record in read_topic(world.brokers, group.topics[0])]
    assert sorted(counts) == [b"10", b"10", b"9"]
    group.query("SELECT txb.failed_edit(%s, convert_to('{\"n\": 1}', 'UTF8'), NULL, '{\"txb-replayed\": \"0\"}', 'test')", number)
    group.wait(lambda: group.value("SELECT count(*) FROM txb.outbox WHERE topic = %s", group.topics[0]) == 2)


def test_what_failed_in_the_group_does_not_hold_its_copies(world, groups):
    group = groups(start="nowhere")
    group.publish([("a", 1), ("a", 2), ("b", 1)])
    group.register("beginning")
    group.break_it(("a", 1))
    target = world.kafka.create_topic(f"{group.name}.copy", 1)
    group.worker(retry={"attempts_max": 1})
    group.wait(lambda: group.states() == {"dead": 1, "held": 1})
    job = start(group, target)
    group.wait(lambda: state(group, job) == "done")
    wait_copied(group, target)
    assert [(r.key, json.loads(r.value)["n"]) for r in read_topic(world.brokers, target)] == [(b"a", 1), (b"a", 2), (b"b", 1)]
    assert group.states() == {"dead": 1, "held": 1}
