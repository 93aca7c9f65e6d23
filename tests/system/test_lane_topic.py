"""A lane's reader of one Kafka partition on a real Kafka: tests/system/lane_topic.c is it as a program, which waits as the worker does."""

import json
import os
import subprocess
import threading
import uuid

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from txbtest import process
from txbtest.kafka import Kafka
from txbtest.program import build_dir, command

NUMBERS = iter(range(1_000_000))
LANE = 7  # of lane_topic.c


def make_topic(kafka, partitions=2, **config):
    return kafka.create_topic(f"lane.topic.{next(NUMBERS)}", partitions, **config)


def produce(kafka, topic, messages, partition=0, **config):
    """(key, value, headers) each."""
    producer = Producer({"bootstrap.servers": kafka.brokers, "acks": "all", "linger.ms": 5, **config})
    for key, value, headers in messages:
        while True:
            try:
                producer.produce(topic, value, key=key, partition=partition, headers=headers)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(60) == 0


def plain(numbers, key="k"):
    return [(f"{key}{n % 5}", str(n), None) for n in numbers]


def event(n, kind):
    """As the relay writes them."""
    stamp = uuid.UUID(int=(n + 1) << 80 | 7 << 76 | 2 << 62 | n)
    return (f"k{n % 5}", str(n), [("ce_specversion", b"1.0"), ("ce_id", str(stamp).encode()), ("ce_source", b"/test"), ("ce_type", kind.encode())])


class Reader:
    """lane_topic on a partition."""

    def __init__(self, brokers, cluster, topic, partition=0, keys=(), types=(), first=()):
        chosen = [word for key in keys for word in ("k", key)] + [word for one in types for word in ("t", one)] + [word for one in first for word in ("f", one)]
        self.notices, self.unseen = [], 0
        self.process = subprocess.Popen([os.path.join(build_dir(), "tests", "lane_topic"), brokers, cluster, topic, str(partition), *chosen],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=process.child_setup())
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        for line in self.process.stdout:
            self.notices.append(json.loads(line))

    def alive(self):
        assert self.process.poll() is None, self.process.stderr.read().decode()

    def tell(self, *lines):
        self.process.stdin.write("".join(f"{line}\n" for line in lines).encode())
        self.process.stdin.flush()

    def wait(self, kind, deadline_s=60, **wanted):
        """The next notice of that kind with these values, of those that came since the last one that was waited for."""
        def look():
            for i in range(self.unseen, len(self.notices)):
                if self.notices[i]["kind"] == kind and wanted.items() <= self.notices[i].items():
                    self.unseen = i + 1
                    return self.notices[i]
            return None
        return process.wait_for(look, lambda: f"{kind} {wanted} after {self.notices[self.unseen - 3:][:10]} ... {self.notices[-5:]}", deadline_s,
                                alive=self.alive)

    def records(self):
        return [n for n in self.notices if n["kind"] == "record"]

    def offsets(self):
        return [n["offset"] for n in self.records()]

    def rounds(self):
        self.tell("rounds")
        return self.wait("rounds")["n"]

    def close(self):
        """An end in order: a sanitizer's report would be a failure."""
        self.process.stdin.close()
        code = self.process.wait(60)
        self.thread.join(60)
        assert code == 0, self.process.stderr.read().decode()


@pytest.fixture
def readers(request):
    """Makes readers that end with the test."""
    made = []

    def make(kafka, topic, **options):
        reader = Reader(options.pop("brokers", kafka.brokers), options.pop("cluster", kafka.cluster_id), topic, **options)
        made.append(reader)
        return reader

    yield make
    for reader in made:
        if request.session.testsfailed == 0:
            reader.close()
        else:
            reader.process.kill()


def test_a_range_is_read_in_order_with_the_ids_that_every_other_reader_finds(readers, kafka):
    topic = make_topic(kafka)
    headers = [("a", b"x"), ("bytes", b"\xff"), ("none", None)]
    produce(kafka, topic, [("k", str(n), headers) for n in range(300)] + [event(n, "made") for n in range(300, 600)] + [(None, None, None)])
    produce(kafka, topic, plain(range(50)), partition=1)
    reader = readers(kafka, topic)
    reader.tell("bound 601 0", "fetch 100")
    assert reader.wait("end")["offset"] == 601
    code, tailed, err = command("-b", kafka.brokers, "tail", topic, "--partition", "0", "--from", "beginning", "-n", "601")
    assert code == 0, err
    ids = {line["offset"]: line["id"] for line in map(json.loads, tailed.splitlines())}
    seen = reader.records()
    assert [r["offset"] for r in seen] == list(range(100, 601))
    assert [r["id"] for r in seen] == [ids[n] for n in range(100, 601)]
    assert {r["partition"] for r in seen} == {-LANE} and {r["topic"] for r in seen} == {topic}
    assert [r["value"] for r in seen] == [*map(str, range(100, 600)), None]
    assert [r["key"] for r in seen[:200]] == ["k"] * 200 and seen[-1]["key"] is None
    assert json.loads(seen[0]["headers"]) == {"a": "x", "bytes": {"base64": "/w=="}, "none": None}
    assert {r["headers"] for r in seen[200:]} == {"{}"} and {r["type"] for r in seen[200:500]} == {"made"}


def test_what_the_filter_leaves_out_moves_the_end_on(readers, kafka):
    topic = make_topic(kafka)
    produce(kafka, topic, [event(n, "made" if n % 10 else "undone") for n in range(200)] + plain(range(200, 45_000), "other"))
    reader = readers(kafka, topic, keys=["k0", "k3", "nobody"], types=["undone", "x"])
    reader.tell("bound 45000 0", "fetch 0")
    reader.wait("end", offset=45_000, more=False)
    assert reader.offsets() == [n for n in range(200) if n % 10 == 0 and n % 5 in (0, 3)]
    ends = [n for n in reader.notices if n["kind"] == "end"]
    assert [n["offset"] for n in ends] == sorted(n["offset"] for n in ends) and len(ends) >= 3 and all(n["more"] for n in ends[:-1])
    by_type = readers(kafka, topic, types=["undone"])
    by_type.tell("bound 200 0", "fetch 0")
    by_type.wait("end", offset=200, more=False)
    assert by_type.offsets() == list(range(0, 200, 10))


def test_a_filter_that_nothing_can_pass_reads_nothing_and_ends(readers, kafka):
    topic = make_topic(kafka)
    produce(kafka, topic, [(None, "1", None)] * 20)
    reader = readers(kafka, topic, keys=["k"])
    reader.tell("bound 20 0", "fetch 0")
    reader.wait("end", offset=20, more=False)
    assert reader.offsets() == []


def transaction(kafka, topic, values, commits=True):
    producer = Producer({"bootstrap.servers": kafka.brokers, "transactional.id": f"{topic}.{next(NUMBERS)}"})
    producer.init_transactions(60)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value, partition=0)
    producer.flush(60)
    if commits is not None:
        (producer.commit_transaction if commits else producer.abort_transaction)(60)
    return producer


def test_the_end_lies_behind_markers_and_what_was_aborted(readers, kafka):
    topic = make_topic(kafka)
    transaction(kafka, topic, ["0", "1", "2"])
    transaction(kafka, topic, ["4", "5"], commits=False)
    # The broker answers a commit or an abort before it has written the markers.
    process.wait_for(lambda: kafka.ends(topic)[0][1] == 7, lambda: f"markers: {kafka.ends(topic)}", 60)
    reader = readers(kafka, topic)
    reader.tell("bound 7 0", "fetch 0")
    reader.wait("end", offset=7, more=False)
    assert reader.offsets() == [0, 1, 2]
    transaction(kafka, topic, ["7"])
    reader.tell("bound 9 0", "fetch 3")
    reader.wait("end", offset=9, more=False)
    assert reader.offsets() == [0, 1, 2, 7]
    reader.tell("bound 6 0", "fetch 2")  # a range that ends amidst the aborted ones
    reader.wait("end", offset=6, more=False)
    assert reader.offsets() == [0, 1, 2, 7, 2]


def test_an_open_transaction_is_waited_for_and_told(readers, kafka):
    topic = make_topic(kafka)
    produce(kafka, topic, plain(range(3)))
    producer = transaction(kafka, topic, ["3", "4"], commits=None)
    reader = readers(kafka, topic)
    reader.tell("bound 6 0", "fetch 0")
    reader.wait("end", offset=3, more=False)
    trouble = reader.wait("trouble")["text"]
    assert topic in trouble and "up to offset 3" in trouble and "up to 6" in trouble and "transaction is open" in trouble
    assert reader.offsets() == [0, 1, 2]
    producer.commit_transaction(60)
    reader.wait("well")
    reader.wait("end", offset=6, more=False)
    assert reader.offsets() == [0, 1, 2, 3, 4]


def shorten(kafka, topic, below):
    """Retention takes what lies below."""
    kafka.configure_topic(topic, retention_ms=1)
    process.wait_for(lambda: kafka.ends(topic)[0][0] >= below, lambda: f"retention: {kafka.ends(topic)}", 90)
    kafka.configure_topic(topic, retention_ms=-1)


def test_what_retention_took_is_told_with_what_is_there(readers, kafka):
    topic = make_topic(kafka)
    produce(kafka, topic, plain(range(100)))
    shorten(kafka, topic, 100)
    reader = readers(kafka, topic)
    low, high = kafka.ends(topic)[0]
    reader.tell("bound 100 0", "fetch 10")
    assert reader.wait("range") == {"kind": "range", "low": low, "high": high}
    reader.tell(f"bound {high} 0", f"last 5 {uuid.uuid4()} {high}")  # nothing of it is left to read: there is nothing to compare with
    reader.wait("end", offset=high, more=False)
    produce(kafka, topic, plain(range(100, 103)))
    reader.tell(f"bound {high + 3} 0", f"last 5 {uuid.uuid4()} {high}")  # the message below is gone, and that is no reason
    reader.wait("end", offset=high + 3)
    assert reader.offsets() == [high, high + 1, high + 2]
    other = readers(kafka, topic, first=[f"5:{uuid.uuid4()}"])  # nor is the range's first message
    other.tell(f"bound {high + 3} 0", f"fetch {high}")
    other.wait("end", offset=high + 3)
    assert other.offsets() == [high, high + 1, high + 2]


def remaining(kafka, topic, end):
    """The offsets of partition 0 that compaction has left."""
    consumer = Consumer({"bootstrap.servers": kafka.brokers, "group.id": "lane-topic-test", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, 0, 0)])
    left = []
    while True:
        message = consumer.poll(30)
        assert message is not None
        if message.error() or message.offset() >= end:
            consumer.close()
            return left
        left.append(message.offset())


def test_a_range_whose_last_messages_were_compacted_away_ends_all_the_same(readers):
    with Kafka({"log.cleaner.backoff.ms": 200}) as kafka:
        topic = make_topic(kafka, cleanup_policy="compact", segment_ms=100, min_cleanable_dirty_ratio="0.001", min_compaction_lag_ms=0)
        produce(kafka, topic, [("kept", "0", None)] + [(f"gone{n}", str(n), None) for n in range(1, 50)])

        def compacted():
            produce(kafka, topic, [(f"gone{n}", "again", None) for n in range(1, 50)])  # supersede them, and roll the segment
            return remaining(kafka, topic, 50) == [0]

        process.wait_for(compacted, lambda: f"compaction: {remaining(kafka, topic, 50)}", 120, every_s=0.3)
        reader = readers(kafka, topic)
        reader.tell("bound 50 0", "fetch 0")
        reader.wait("end", offset=50, more=False)
        assert reader.offsets() == [0]
        reader.tell("bound 50 0", f"last 20 {uuid.uuid4()} 21")  # the message below is compacted away: nothing to compare with
        reader.wait("end", offset=50, more=False)
        assert reader.offsets() == [0]


def test_a_topic_that_ends_before_the_position_is_told(readers, kafka):
    topic = make_topic(kafka)
    produce(kafka, topic, plain(range(10)))
    reader = readers(kafka, topic)
    reader.tell("bound 50 0", "fetch 20")
    assert reader.wait("range") == {"kind": "range", "low": 0, "high": 10}
    reader.tell("bound 50 0", f"last 19 {uuid.uuid4()} 20")
    assert reader.wait("range") == {"kind": "range", "low": 0, "high": 10}


def test_another_message_in_the_place_of_the_last_is_told_and_nothing_read(readers, kafka):
    topic = make_topic(kafka)
    produce(kafka, topic, plain(range(3000)))
    reader = readers(kafka, topic)
    reader.tell("bound 10 0", "fetch 0")
    reader.wait("end", offset=10)
    ids = [r["id"] for r in reader.records()]
    reader.tell("bound 3000 0", f"last 4 {ids[5]} 5")
    assert reader.wait("range") == {"kind": "range", "low": 0, "high": -1}
    reader.tell(f"last 4 {ids[4]} 5")
    reader.wait("end", offset=3000)
    assert reader.offsets() == [*range(10), *range(5, 3000)]
    reader.tell(f"last 4 {ids[4]} 2990")  # it lies far below
    reader.wait("end", offset=3000)
    assert reader.offsets()[10 + 2995:] == list(range(2990, 3000))
    reader.tell(f"last 4 {ids[3]} 2990")
    assert reader.wait("range") == {"kind": "range", "low": 0, "high": -1}


def test_another_message_in_the_place_of_the_first_is_told_and_nothing_read(readers, kafka):
    topic = make_topic(kafka)
    produce(kafka, topic, plain(range(3000)))
    reader = readers(kafka, topic)
    reader.tell("bound 10 0", "fetch 0")
    reader.wait("end", offset=10)
    ids = [r["id"] for r in reader.records()]
    for wrong in (readers(kafka, topic, first=[f"2:{ids[3]}"], keys=["none"]), readers(kafka, topic, first=[f"2:{ids[3]}"])):
        wrong.tell("bound 3000 0", "fetch 2")  # it is what is to be read first
        assert wrong.wait("range") == {"kind": "range", "low": 0, "high": -1}
        assert wrong.offsets() == []
        wrong.tell("fetch 2500")  # it lies below, and nothing was run since
        assert wrong.wait("range") == {"kind": "range", "low": 0, "high": -1}
        assert wrong.offsets() == []
    right = readers(kafka, topic, first=[f"2:{ids[2]}"])
    right.tell("bound 3000 0", "fetch 2")
    right.wait("end", offset=3000)
    right.tell("fetch 2500")
    right.wait("end", offset=3000)
    assert right.offsets() == [*range(2, 3000), *range(2500, 3000)]


def test_another_cluster_is_told_and_nothing_read(readers, kafka):
    topic = make_topic(kafka)
    produce(kafka, topic, plain(range(10)))
    reader = readers(kafka, topic, cluster="of-another-day")
    reader.tell("bound 10 0", "fetch 0")
    trouble = reader.wait("trouble")["text"]
    assert kafka.cluster_id in trouble and "of-another-day" in trouble and kafka.brokers in trouble
    assert reader.offsets() == []


def test_a_topic_that_is_not_there_is_told_and_read_once_it_is(readers, kafka):
    topic = f"lane.topic.{next(NUMBERS)}"
    reader = readers(kafka, topic)
    reader.tell("bound 10 0", "fetch 0")
    assert topic in reader.wait("trouble")["text"]
    kafka.create_topic(topic, 1)
    produce(kafka, topic, plain(range(10)))
    reader.wait("well")
    reader.wait("end", offset=10)
    assert reader.offsets() == list(range(10))


def test_brokers_that_are_away_are_told_and_it_goes_on_when_they_are_back(readers):
    with Kafka() as kafka:
        topic = make_topic(kafka)
        produce(kafka, topic, plain(range(5000)))
        reader = readers(kafka, topic)
        late = readers(kafka, topic)
        reader.tell("bound 6000 500", "fetch 0")
        reader.wait("record", offset=100)
        kafka.kill9()
        late.tell("bound 10 0", "fetch 0")
        assert kafka.brokers in late.wait("trouble")["text"]
        reader.tell("bound 6000 0")
        reader.wait("trouble")
        kafka.start()
        late.wait("well")
        late.wait("end", offset=10)
        produce(kafka, topic, plain(range(5000, 6000)))
        reader.wait("well")  # something got through
        reader.wait("end", offset=6000)
        assert reader.offsets() == list(range(6000)) and late.offsets() == list(range(10))


def test_a_topic_made_anew_while_brokers_were_away_is_told_and_nothing_of_it_read(readers):
    with Kafka() as kafka:
        topic = make_topic(kafka)
        produce(kafka, topic, plain(range(10)))
        reader = readers(kafka, topic)
        reader.tell("bound 40 0", "fetch 0")
        reader.wait("end", offset=10)
        kafka.kill9()
        reader.wait("trouble")
        kafka.start()
        kafka.delete_topic(topic)
        kafka.create_topic(topic, 2)
        produce(kafka, topic, plain(range(100, 140)))
        assert reader.wait("range")["low"] == 0  # what its ends are depends on when it looks: none yet, all, or another message in the last one's place
        assert reader.offsets() == list(range(10))


def test_a_rate_holds_back_and_can_be_lifted(readers, kafka):
    topic = make_topic(kafka)
    produce(kafka, topic, plain(range(5000)))
    reader = readers(kafka, topic)
    reader.tell("bound 5000 1", "fetch 0")
    reader.wait("record", offset=0)
    before = reader.rounds()
    reader.wait("record", offset=2)
    assert reader.rounds() - before < 100  # it sleeps meanwhile
    assert len(reader.offsets()) < 1000
    reader.tell("bound 5000 0")
    reader.wait("end", offset=5000)
    assert reader.offsets() == list(range(5000))


def test_a_pause_gives_nothing_and_a_resume_goes_on_or_back(readers, kafka):
    topic = make_topic(kafka)
    produce(kafka, topic, plain(range(60_000)))
    reader = readers(kafka, topic)
    reader.tell("bound 60000 1000", "fetch 0")
    reader.wait("record", offset=10)
    reader.tell("pause")
    at = reader.rounds() and len(reader.offsets())
    reader.tell("bound 60000 0")
    assert reader.rounds() < reader.rounds() + 3 and len(reader.offsets()) == at
    reader.tell(f"resume {at}")
    reader.wait("record", offset=30_000)
    reader.tell("pause", "resume 7")  # below what was given
    reader.wait("record", offset=7)
    reader.wait("end", offset=60_000)
    seen = reader.offsets()
    back = seen.index(7, at)
    assert seen[:back] == list(range(back)) and seen[back:] == list(range(7, 60_000))
    reader.tell("pause", "resume 60000")
    reader.wait("end", offset=60_000, more=False)  # told once more
    reader.tell("unfetch", "fetch 59990")
    reader.wait("end", offset=60_000)
    assert reader.offsets()[len(seen):] == list(range(59_990, 60_000))


def test_at_the_end_it_sleeps(readers, kafka):
    topic = make_topic(kafka)
    produce(kafka, topic, plain(range(10)))
    reader, waiting = readers(kafka, topic), readers(kafka, topic)
    reader.tell("bound 10 0", "fetch 0")
    waiting.tell("bound 20 0", "fetch 0")
    reader.wait("end", offset=10)
    waiting.wait("end", offset=10)
    before, waited = reader.rounds(), waiting.rounds()
    waiting.wait("trouble")  # seconds later
    assert reader.rounds() - before < 5 and waiting.rounds() - waited < 100


def test_messages_live_longer_than_their_reader(readers, kafka):
    topic = make_topic(kafka)
    produce(kafka, topic, plain(range(1000)))
    reader = readers(kafka, topic)
    reader.tell("keep", "bound 2000 0", "fetch 0")
    reader.wait("record", offset=999)
    reader.tell("free")
    reader.wait("freed")


def test_it_is_no_member_of_the_group_and_commits_nothing(readers, kafka):
    topic = make_topic(kafka)
    produce(kafka, topic, plain(range(100)))
    reader = readers(kafka, topic)
    reader.tell("bound 200 0", "fetch 0")
    reader.wait("record", offset=99)
    groups = kafka.admin().list_groups(timeout=30)
    assert not [g for g in groups if g.id == "lane_topic"]
    reader.tell("free")
    reader.wait("freed")
    probe = Consumer({"bootstrap.servers": kafka.brokers, "group.id": "lane_topic"})
    assert not [g for g in kafka.admin().list_groups(timeout=30) if g.id == "lane_topic"]
    probe.close()
