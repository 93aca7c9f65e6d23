"""A topic that is not the one it was (W9, W13): recreated, cut by retention, grown. A worker stops that partition and says so, or reads on; it never skips
or applies anything in silence."""

import json

import pytest
from confluent_kafka import Producer

from txbtest import process
from txbtest.bank import QUICK, Writers
from txbtest.program import command


@pytest.fixture
def system(systems, postgres, kafka):
    return systems(postgres, kafka, worker={"session_timeout_ms": 6000})


def produce(system, numbers, partition=0):
    producer = Producer({"bootstrap.servers": system.kafka.brokers})
    for number in numbers:
        producer.produce(system.bank.topics[0], json.dumps({"from": 1, "to": 2, "amount": 1, "n": number}), key=f"p{partition}", partition=partition)
    assert producer.flush(60) == 0


def stopped(system, partition=0):
    """last_error of a partition that does not go on."""
    return system.target_postgres.value(system.bank.target, "SELECT last_error FROM txb.consumer_offset WHERE group_name = %s AND partition = %s"
                                        " AND last_error IS NOT NULL", (system.group, partition))


def test_a_recreated_topic_stops_its_partitions_and_applies_nothing(system, kafka):
    topic = system.bank.topics[0]
    produce(system, range(20))
    worker = system.worker()
    process.wait_for(lambda: system.bank.applied() == 20, system.lag, 60, alive=worker.alive)
    assert worker.stop() == 0, worker.text()
    kafka.delete_topic(topic)
    kafka.create_topic(topic, system.partitions)
    produce(system, range(100, 140))
    worker = system.worker()
    worker.wait_line(rf"{topic}.*(recreated|not the same|another|truncated)|(recreated|not the same|another|truncated).*{topic}")
    process.wait_for(lambda: stopped(system), system.lag, 60)
    code, out, _ = command("--config", system.config(name="status"), "status")
    assert code == 0 and topic in out
    produce(system, range(3), partition=1)  # a partition that had no position worth comparing goes on
    process.wait_for(lambda: system.target_postgres.value(system.bank.target, "SELECT count(*) FROM bank.applied WHERE partition = 1") == 3, system.lag, 60)
    assert system.bank.applied() == 23


def test_a_topic_made_anew_and_filled_under_an_idle_worker_stops_its_partitions(system, kafka):
    """Nothing tells the worker, and its next offset is there: only the record below it is another."""
    topic = system.bank.topics[0]
    worker = system.worker()
    produce(system, range(20))
    process.wait_for(lambda: system.bank.applied() == 20, system.lag, 60, alive=worker.alive)
    process.wait_for(lambda: system.target_postgres.value(system.bank.target, "SELECT clock_timestamp() > max(at) + interval '1 second' FROM bank.applied"),
                     "the worker to be idle for a second", 60)
    kafka.delete_topic(topic)
    kafka.create_topic(topic, system.partitions)
    produce(system, range(100, 160))
    process.wait_for(lambda: stopped(system), system.lag, 60, alive=worker.alive)
    assert system.bank.applied() == 20


def test_an_idle_worker_notices_that_an_operator_has_set_its_position(system):
    worker = system.worker()
    produce(system, range(20))
    process.wait_for(lambda: system.bank.applied() == 20, system.lag, 60, alive=worker.alive)
    system.target_postgres.query(system.bank.target, "SELECT txb.offset_set(group_name, topic, partition, 5, cluster_id, 'once more')"
                                 " FROM txb.consumer_offset WHERE group_name = %s AND partition = 0", (system.group,))
    process.wait_for(lambda: system.target_postgres.value(system.bank.target, "SELECT duplicate FROM txb.consumer_offset"
                                                          " WHERE group_name = %s AND partition = 0", (system.group,)) == 15,
                     system.lag, 60, alive=worker.alive)
    assert system.bank.applied() == 20


def test_a_position_that_retention_has_passed_stops_its_partition(system, kafka):
    topic = system.bank.topics[0]
    produce(system, range(20))
    worker = system.worker()
    process.wait_for(lambda: system.bank.applied() == 20, system.lag, 60, alive=worker.alive)
    assert worker.stop() == 0, worker.text()
    produce(system, range(20, 60))
    kafka.configure_topic(topic, retention_ms=1)
    process.wait_for(lambda: kafka.ends(topic)[0][0] > 20, "retention to remove messages that were not consumed", 60, every_s=0.2)
    kafka.configure_topic(topic, retention_ms=-1)
    produce(system, range(60, 65))
    worker = system.worker()
    process.wait_for(lambda: stopped(system), system.lag, 60)
    assert system.bank.applied() == 20 and worker.running()


def test_a_topic_that_grows_is_read_on_in_its_new_partitions(systems, postgres, kafka, seed):
    system = systems(postgres, kafka, kafka_client={"topic.metadata.refresh.interval.ms": "1000"})
    system.relay()
    worker = system.worker()
    Writers(system.bank, 4, seed, QUICK, operations=20).start().join()
    system.wait_rest()
    kafka.grow_topic(system.bank.topics[0], 6)
    # The program's view of the topic is renewed by and by; until then it publishes into the old partitions.
    process.wait_for(lambda: publish_and_count(system, seed) > 0, system.lag, 120, every_s=0.5, alive=system.alive)
    system.wait_rest(90)
    # Keys moved to other partitions: order over the growth is lost (W13), everything else holds.
    report = system.verify()
    assert set(report.letters()) <= {"O", "B"}, report
    assert worker.running()


def publish_and_count(system, seed):
    """Some more transfers; how many messages the new partitions have."""
    Writers(system.bank, 2, seed, QUICK, operations=10).start().join()
    return sum(end for partition, (_, end) in system.kafka.ends(system.bank.topics[0]).items() if partition >= 3)
