"""Replay jobs that read a topic from Kafka itself, whatever produced it: every effect once, in the order of its key, whoever dies meanwhile."""

import json

import pytest
from confluent_kafka import Producer

from txbtest.program import System, command
from txbtest.replay import WORKER, Group, Job, Message, prepare

COUNT = 20_000


@pytest.fixture(scope="module")
def world(postgres, kafka, seed):
    system = System(postgres, kafka, "replay_topics", seed, accounts=4)
    try:
        prepare(system)
        yield system
    finally:
        system.close()


@pytest.fixture
def groups(request, world):
    """Makes Groups on the shared System, whose workers end with the test."""
    made = []

    def make(**options):
        made.append(Group(world, **options))
        return made[-1]

    request.node.systems = [world]
    yield make
    for group in made:
        group.stop()


def fill(group, count, first=0, keys=50, partitions=None):
    """A foreign producer's messages, without any header. Returns them with the ids that whoever reads the topic finds."""
    kafka, topic = group.system.kafka, group.topics[0]
    producer = Producer({"bootstrap.servers": kafka.brokers, "acks": "all", "linger.ms": 5, "queue.buffering.max.messages": 200_000})
    for n in range(first, first + count):
        producer.produce(topic, json.dumps({"n": n}), key=f"k{n % keys}", partition=n % keys % (partitions or group.system.partitions))
    assert producer.flush(60) == 0
    total = sum(end for _, end in kafka.ends(topic).values())
    code, out, err = command("-b", kafka.brokers, "tail", topic, "--from", "beginning", "-n", str(total))
    assert code == 0, err
    return [Message(line["id"], line["key"], json.loads(line["payload_text"])["n"]) for line in map(json.loads, out.splitlines())]


class TopicJob(Job):
    """Started by the command, as a person does."""

    def __init__(self, group, *options):  # pylint: disable=super-init-not-called
        system = group.system
        worker = {"group": group.name, "topics": group.topics, "database": system.target_postgres.uri(system.bank.target), **WORKER,
                  "handler": {"kind": "sql", "function": group.function}}
        self.group, self.existed, self.positions = group, False, {}
        code, out, err = command("-c", system.config(name="command", worker=worker), "replay", "start", "--group", group.name, "--kafka", "--yes", *options)
        assert code == 0, out + err
        self.number = group.value("SELECT max(number) FROM txb.job WHERE group_name = %s", group.name)
        self.lanes = {row[0] for row in group.query("SELECT lane FROM txb.job_lane WHERE job = %s", self.number)}
        group.jobs.append(self)


def test_a_topic_goes_into_a_new_group_once_each_though_workers_are_killed(groups, world, tally):
    group = groups(start="nowhere")
    expected = fill(group, COUNT)
    group.register("end")
    job = TopicJob(group, "--rate", "8000")
    assert len(job.lanes) == world.partitions
    for _ in range(3):
        group.worker()
        job.wait_more(2000)
        group.kill()
        tally["kills"] += 1
        tally["kills at work"] += 1
    job.rate(None)
    group.worker()
    job.wait("done")
    assert job.counts() == (COUNT, COUNT, 0, 0)
    report = group.check(expected)
    assert report, report
    notes = group.notes()
    assert {note.partition for note in notes} == {-lane for lane in job.lanes}
    ends = {p: end for p, (_, end) in world.kafka.ends(group.topics[0]).items()}
    assert dict(group.query("SELECT l.from_partition, c.next_offset FROM txb.job_lane AS l JOIN txb.consumer_offset AS c ON c.partition = -l.lane AND"
                            " c.group_name = %s WHERE l.job = %s", group.name, job.number)) == ends


def test_what_the_live_worker_applied_is_duplicate_all_of_it(groups, tally):
    group = groups(start="beginning")
    expected = fill(group, COUNT)
    group.worker(batch_messages=500)
    group.wait(lambda: group.total("applied") == COUNT)
    job = TopicJob(group, "--rate", "8000")
    job.wait_more(3000)
    group.kill()
    tally["kills"] += 1
    tally["kills at work"] += 1
    job.rate(None)
    group.worker(batch_messages=500)
    job.wait("done")
    assert job.counts() == (COUNT, 0, COUNT, 0)
    report = group.check(expected)
    assert report, report


def test_more_partitions_than_a_worker_holds_at_once_are_read_one_after_the_other(groups, world):
    group = groups(start="nowhere", topics=[world.kafka.create_topic("replay_topics.wide", 20)])
    expected = fill(group, 2000, partitions=20)
    group.register("end")
    job = TopicJob(group)
    assert len(job.lanes) == 20
    group.worker()
    job.wait("done")
    assert job.counts() == (2000, 2000, 0, 0)
    report = group.check(expected)
    assert report, report


def test_keys_and_offsets_are_chosen_and_force_applies_them_again(groups):
    group = groups(start="beginning")
    expected = fill(group, 3000)
    group.worker(batch_messages=500)
    group.wait(lambda: group.total("applied") == 3000)
    chosen = [message for message in expected if message.key in ("k3", "k6") and message.n < 1500]
    job = TopicJob(group, "--partition", "0", "--from", "0", "--to", "500", "--key", "k3", "--key", "k6", "--force", "--reason", "a test")
    job.wait("done")
    assert job.counts() == (len(chosen), len(chosen), 0, 0) and len(chosen) > 0
    again = [(note.key, note.n) for note in group.notes() if note.partition < 0]
    assert again == [(message.key, message.n) for message in sorted(chosen, key=lambda m: m.n)]


def test_what_the_handler_sees_of_a_record_is_where_it_lies(groups):
    group = groups(start="nowhere")
    fill(group, 60, keys=3)
    group.register("end")
    job = TopicJob(group, "--partition", "1", "--from", "5", "--to", "9")
    group.worker()
    job.wait("done")
    assert [(note.partition, note.offset, note.key) for note in group.notes()] == [(-next(iter(job.lanes)), offset, "k1") for offset in range(5, 9)]


def test_what_is_malformed_is_told_as_live_workers_do(groups):
    group = groups(start="nowhere")
    producer = Producer({"bootstrap.servers": group.system.kafka.brokers})
    for n in range(3):
        producer.produce(group.topics[0], json.dumps({"n": n}), key="k", partition=0, headers=[("ce_id", b"x%d" % n), ("ce_source", b"s"), ("ce_type", b"t")])
    assert producer.flush(60) == 0
    group.register("end")
    job = TopicJob(group)
    worker = group.worker()
    job.wait("done")
    told = worker.wait_line(r"malformed CloudEvent.*offset=(\d+).*ce_specversion is missing")
    assert told[1] == "0" and worker.text().count("malformed CloudEvent") == 1
    assert job.counts() == (3, 3, 0, 0)


def test_a_topic_made_anew_under_a_job_stops_it(groups, world):
    group = groups(start="nowhere")
    topic = group.topics[0]
    fill(group, 3000)
    group.register("end")
    job = TopicJob(group, "--partition", "0", "--rate", "100")
    group.worker()
    job.wait_more(50)
    group.kill()
    world.kafka.delete_topic(topic)
    world.kafka.create_topic(topic, world.partitions)
    fill(group, 6000)
    job.rate(None)
    group.worker()
    stopped = "SELECT last_error FROM txb.consumer_offset WHERE group_name = %s AND partition < 0 AND last_error IS NOT NULL"
    error = group.wait(lambda: group.value(stopped, group.name))
    assert "the topic is not the one that was read so far" in error and "txbroker replay cancel" in error
    assert len([note for note in group.notes() if note.partition < 0]) == job.sum("applied") < 1020 and job.state == "running"
    job.cancel()


@pytest.mark.parametrize("options", [("--key", "k0"), ("--force", "--reason", "lost")])
def test_a_topic_made_anew_before_a_job_has_run_anything_stops_it(groups, world, options):
    group = groups(start="nowhere")
    topic = group.topics[0]
    fill(group, 300, keys=1)
    group.register("end")
    job = TopicJob(group, *options)
    world.kafka.delete_topic(topic)
    world.kafka.create_topic(topic, world.partitions)
    fill(group, 600, keys=1)
    group.worker()
    stopped = "SELECT last_error FROM txb.consumer_offset WHERE group_name = %s AND partition < 0 AND last_error IS NOT NULL"
    error = group.wait(lambda: group.value(stopped, group.name))
    assert "the topic is not the one that was read so far" in error and "txbroker replay cancel" in error
    assert [note for note in group.notes() if note.partition < 0] == [] and job.state == "running"
    job.cancel()


def test_a_worker_of_another_cluster_says_so_and_applies_nothing(groups):
    group = groups(start="nowhere")
    fill(group, 100)
    group.register("end")
    job = TopicJob(group)
    group.query("UPDATE txb.job SET cluster_id = 'another-one' WHERE number = %s", job.number)
    group.worker()
    error = "SELECT last_error FROM txb.job_lane WHERE job = %s AND last_error IS NOT NULL LIMIT 1"
    group.wait(lambda: group.value(error, job.number))
    assert "another-one" in group.value(error, job.number)
    assert group.notes() == [] and job.state == "running"
    job.cancel()


def test_a_worker_that_knows_no_source_serves_a_topic(groups):
    group = groups(start="nowhere")
    expected = fill(group, 300)
    group.register("end")
    job = TopicJob(group)
    group.worker(sources=[{"name": "another", "database": "postgresql:///nowhere"}])
    job.wait("done")
    report = group.check(expected)
    assert report, report


def test_brokers_that_are_away_are_told_and_the_job_goes_on_when_they_are_back(groups, world):
    group = groups(start="nowhere")
    expected = fill(group, 6000)
    group.register("end")
    job = TopicJob(group, "--rate", "1000")
    group.worker()
    job.wait_more(500)
    job.pause()
    job.wait_left()
    world.kafka.kill9()
    try:
        job.resume()
        error = "SELECT last_error FROM txb.job_lane WHERE job = %s AND last_error IS NOT NULL LIMIT 1"
        assert "Kafka" in group.wait(lambda: group.value(error, job.number))
    finally:
        world.kafka.start()
    job.rate(None)
    job.wait("done", 120)
    assert group.value(error, job.number) is None
    assert job.counts() == (6000, 6000, 0, 0)
    report = group.check(expected)
    assert report, report
