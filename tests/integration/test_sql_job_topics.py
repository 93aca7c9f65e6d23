"""Replay jobs that read topics of Kafka, and jobs that write to a topic: their lanes, their ranges, and what they want."""

import uuid

import pytest
from jobstest import ONE, audit, claim, end, job, lanes, register, start, start_kafka
from sqltest import refused


@pytest.fixture
def admin(db):
    """The group stands in two partitions of topics t and u."""
    register(db.root)
    register(db.root, "u")
    return db.session("admin")


@pytest.fixture
def worker(db):
    return db.session("worker")


RANGES = (("t", 1, 40, 50), ("u", 0, 0, 7), ("t", 0, 10, 20), ("t", 2, 5, 5))


def test_a_job_that_reads_kafka_has_a_lane_per_partition_with_its_own_offsets(db, admin, worker):
    number, existed = start_kafka(admin, *RANGES, time_from="2026-01-01 00:00:00+00", rate_max=90)
    assert not existed
    row = job(db, number)
    assert (row["source"], row["cluster_id"], row["partitions"], row["to_topic"], row["run"]) == (None, "c1", None, None, 0)
    assert (row["topics"], row["seq_from"], row["seq_to"], row["then_live"]) == (["t", "u"], None, None, False)
    assert db.root.do(
        "SELECT l.topic, l.from_partition, l.seq_from, l.seq_to, l.pass_from, c.next_offset, c.epoch, c.cluster_id "
        "FROM txb.job_lane AS l JOIN txb.consumer_offset AS c ON c.group_name = 'g' AND c.topic = l.topic "
        "AND c.partition = -l.lane ORDER BY l.lane"
    ) == [("t", 0, 10, 20, 10, 10, 0, None), ("t", 1, 40, 50, 40, 40, 0, None), ("u", 0, 0, 7, 0, 0, 0, None)]
    filter = db.root.one("SELECT filter FROM txb.audit")
    assert "source" not in filter and "seq_from" not in filter
    assert (filter["cluster_id"], filter["offsets"][0]) == ("c1", {"topic": "t", "partition": 0, "from": 10, "to": 20})
    got = claim(worker)
    assert [(r["source"], r["cluster_id"], r["topic"], r["from_partition"], r["position"], r["seq_to"]) for r in got] == [
        (None, "c1", "t", 0, 10, 20), (None, "c1", "t", 1, 40, 50), (None, "c1", "u", 0, 0, 7)
    ]
    assert {(r["rate_max"], r["pin"], r["to_topic"], r["wants_pass"]) for r in got} == {(30, None, None, False)}


def test_a_lane_of_kafka_keeps_the_first_message_of_its_range(db, admin, worker):
    first, last = uuid.UUID(int=5), uuid.UUID(int=6)
    number, _ = start_kafka(admin, *RANGES, name="n", lane_firsts=[49, None, 12, None], lane_ids=[last, None, first, None])
    assert [(r["topic"], r["from_partition"], r["first_seq"], r["first_id"]) for r in claim(worker)] == [
        ("t", 0, 12, first), ("t", 1, 49, last), ("u", 0, None, None)
    ]
    assert start_kafka(admin, *RANGES, name="n") == (number, True)
    assert [r["first_id"] for r in claim(worker)] == [first, last, None]


@pytest.mark.parametrize(
    "firsts, ids, text",
    [
        ([10], [ONE, ONE], "each lane wants the offset and the id of its first message"),
        ([10, 20], None, "each lane wants the offset and the id of its first message"),
        ([10, 20], [ONE, None], "the first message of a lane has an offset of its range, and an id"),
        ([None, 20], [ONE, ONE], "the first message of a lane has an offset of its range, and an id"),
        ([9, 20], [ONE, ONE], "the first message of a lane has an offset of its range, and an id"),
        ([10, 25], [ONE, ONE], "the first message of a lane has an offset of its range, and an id"),
    ],
)
def test_first_messages_that_are_none_of_their_ranges_are_refused(db, admin, firsts, ids, text):
    with refused("22023", text):
        start_kafka(admin, ("t", 0, 10, 20), ("t", 1, 20, 25), lane_firsts=firsts, lane_ids=ids)
    with refused("22023", "each lane wants the offset"):
        start(admin, lane_firsts=[1], lane_ids=[ONE])
    assert db.root.one("SELECT count(*) FROM txb.job") == 0


def test_an_outbox_lane_has_no_cluster_and_no_partition(admin, worker):
    start(admin)
    (row,) = claim(worker)
    assert (row["source"], row["cluster_id"], row["from_partition"], row["to_topic"]) == ("bank", None, -1, None)
    assert row["pin"].startswith("job ")


def test_a_job_that_reads_kafka_is_shown_with_its_progress_and_ends(db, admin, worker):
    number, _ = start_kafka(admin, *RANGES, partitions=[2, 0, 1, 0])
    assert len(lanes(worker)) == 3
    db.root.do("UPDATE txb.consumer_offset SET next_offset = 15 WHERE partition = -1")
    document = admin.one("SELECT txb.job_show(%s)", number)
    assert (document["span"], document["covered"], document["pin"]) == (27, 5, None)
    assert (document["source"], document["cluster_id"], document["partitions"]) == (None, "c1", [0, 1, 2])
    shown = [(lane["topic"], lane["from_partition"], lane["position"], lane["seq_to"]) for lane in document["lanes"]]
    assert shown == [("t", 0, 15, 20), ("t", 1, 40, 50), ("u", 0, 0, 7)]
    assert admin.do("SELECT job FROM txb.job_list()")[0][0]["span"] == 27
    db.root.do("UPDATE txb.consumer_offset AS c SET next_offset = l.seq_to FROM txb.job_lane AS l WHERE c.partition = -l.lane")
    claim(worker)
    assert job(db, number)["state"] == "done"


@pytest.mark.parametrize(
    "ranges,more,text",
    [
        ((), {}, "at least one topic is needed"),
        ((), {"topics": ["t"]}, "each lane wants a topic, a partition, and the offsets"),
        ((("t", 0, 1, 2),), {"lane_tos": [2, 3]}, "each lane wants a topic, a partition, and the offsets"),
        ((("t", -1, 1, 2),), {}, "offsets that are not negative"),
        ((("t", 0, -1, 2),), {}, "offsets that are not negative"),
        ((("t", 0, 3, 2),), {}, "the first one not behind the end"),
        ((("t", None, 1, 2),), {}, "each lane wants a topic, a partition and offsets"),
        ((("t", 0, 5, 5), ("u", 3, 0, 0)), {}, "the range is empty: no partition holds anything of it"),
        ((("t", 0, 1, 2), ("t", 0, 3, 4)), {}, "a partition of a topic has two lanes"),
        ((("t", 0, 1, 2),), {"topics": ["u"]}, "a lane is of a topic that is not among those of the job"),
        ((("t", 0, 1, 2),), {"partitions": [1]}, "a lane is of a partition that is not among those of the job"),
        ((("t", 0, 1, 2),), {"partitions": []}, "the list of partitions is empty"),
        ((("t", 0, 1, 2),), {"partitions": [-1, 0]}, "the list of partitions is empty, or one of them is null or negative"),
        ((("t", 0, 1, 2),), {"source": "bank"}, "a source's outbox or a Kafka cluster: give one of them"),
        ((("t", 0, 1, 2),), {"seq_from": 1}, "has offsets for each partition, and no numbers of an outbox"),
        ((("t", 0, 1, 2),), {"then_live": True}, "a job that reads a Kafka cluster can't go on live"),
        ((("t", 0, 1, 2),), {"to_topic": "a b"}, 'topic "a b" is not a Kafka topic name'),
        ((("t", 0, 1, 2),), {"to_topic": ""}, "topic has 0 bytes, allowed are 1 to 249"),
        ((("t", 0, 1, 2),), {"to_topic": "x", "forced": True}, "a job that writes to a topic applies nothing"),
    ],
)
def test_ranges_of_kafka_that_say_nothing_clear_are_refused(db, admin, ranges, more, text):
    with refused("22023", text):
        start_kafka(admin, *ranges, **more)
    assert db.root.one("SELECT count(*) FROM txb.job") == 0 and audit(db) == []


def test_partitions_and_lanes_belong_to_kafka_only(admin):
    with refused("22023", "only a job that reads a Kafka cluster takes partitions"):
        start(admin, partitions=[0])
    with refused("22023", "only a job that reads a Kafka cluster takes lanes of partitions"):
        start(admin, lane_topics=["t"], lane_partitions=[0], lane_froms=[0], lane_tos=[1])
    with refused("22023", "a job that goes on live runs its group's handler"):
        start(admin, topics=["new"], then_live=True, to_topic="copies")


def test_a_name_starts_one_job_of_kafka(db, admin):
    words = {"name": "nightly", "partitions": [0, 1, 2]}
    number, _ = start_kafka(admin, *RANGES, **words)
    again = [RANGES[2], ("u", 1, 9, 9), RANGES[0], RANGES[1]]
    assert start_kafka(admin, *again, topics=["t", "u"], **words) == (number, True), "empty lanes say nothing"
    for wrong in (
        {"ranges": RANGES[:2]},
        {"ranges": (("t", 1, 40, 51), *RANGES[1:])},
        {"cluster_id": "c2"},
        {"partitions": None},
        {"time_to": "2026-01-01"},
        {"topics": ["t", "u", "v"]},
    ):
        with refused("55000", 'the name "nightly" is taken by a job that says something else'):
            start_kafka(admin, *wrong.pop("ranges", RANGES), **{**words, **wrong})
    with refused("55000", 'the name "nightly" is taken by a job that says something else'):
        start(admin, name="nightly", topics=["t", "u"])


def test_a_group_must_stand_in_a_topic_of_kafka_that_its_handler_runs(db, admin):
    with refused("55000", 'group "g" has no position in topic "new"', 'with start "latest"'):
        start_kafka(admin, ("new", 0, 0, 5))
    number, _ = start_kafka(admin, ("t", 0, 0, 5))
    with refused("55000", f'another job of group "g" is at work on topic "t": job {number}'):
        start_kafka(admin, ("t", 1, 0, 5))


def test_ten_forced_jobs_over_one_range_of_kafka_look_like_a_loop(db, admin):
    def once(*ranges, **more):
        number, _ = start_kafka(admin, *ranges, forced=True, **more)
        assert job(db, number)["run"] == number
        end(db, admin, number)

    for _ in range(10):
        once(("t", 0, 50, 60), ("t", 1, 0, 9))
    with refused("55000", "10 forced jobs have run messages of this range", "this looks like a loop"):
        start_kafka(admin, ("t", 0, 59, 70), forced=True)
    once(("t", 0, 60, 70))
    once(("t", 2, 50, 60))
    once(("t", 0, 50, 60), cluster_id="c2")
    with refused("55000", "this looks like a loop"):
        start_kafka(admin, ("t", 1, 8, 9), forced=True, keys=[b"k"])
    number, _ = start(admin, forced=True, seq_from=50, seq_to=60)  # numbers of an outbox are no offsets
    assert job(db, number)["run"] == number


def test_a_job_that_writes_to_a_topic_wants_a_relay_and_no_position(db, admin, worker):
    texts = ("no relay has served this database: intents written here would not be published", "as a source")
    with refused("55000", *texts):
        start(admin, to_topic="copies")
    with refused("55000", *texts):
        start_kafka(admin, ("new", 0, 0, 5), to_topic="copies")
    db.root.do("INSERT INTO txb.relay (source) VALUES ('here')")  # that none ever took
    with refused("55000", *texts):
        start(admin, to_topic="copies")
    db.root.do("UPDATE txb.relay SET epoch = 1")
    number, _ = start_kafka(admin, ("new", 0, 0, 5), to_topic="new", name="copy")
    row = job(db, number)
    assert (row["to_topic"], row["run"], row["forced"]) == ("new", number, False), "even into itself: its range is fixed"
    assert [(r["to_topic"], r["run"]) for r in claim(worker)] == [("new", number)]
    assert db.root.one("SELECT filter ->> 'to_topic' FROM txb.audit") == "new"
    with refused("55000", 'the name "copy" is taken'):
        start_kafka(admin, ("new", 0, 0, 5), to_topic="other", name="copy")
    number, _ = start(admin, to_topic="copies")
    assert job(db, number)["run"] == number and admin.one("SELECT txb.job_show(%s)", number)["to_topic"] == "copies"
