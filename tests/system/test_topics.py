"""A topic that is not the one it was (W9, W13): recreated, cut by retention, grown. A worker stops that partition and says so, or reads on; it never skips
or applies anything in silence."""

import json
import re

import pytest
from confluent_kafka import Producer

from txbtest import process
from txbtest.bank import QUICK, Writers
from txbtest.program import command
from txbtest.proxy import Proxy
from txbtest.verify import murmur2_partition


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


def test_the_ends_of_transactions_that_retention_has_removed_stop_nothing(system, kafka):
    """They take offsets, and no record does: an idle worker moves its position over them, also over what was aborted."""
    topic = system.bank.topics[0]
    producer = Producer({"bootstrap.servers": kafka.brokers, "transactional.id": topic})
    producer.init_transactions()

    def transaction(number, abort=False):
        producer.begin_transaction()
        producer.produce(topic, json.dumps({"from": 1, "to": 2, "amount": 1, "n": number}), key="k", partition=0)
        producer.flush(60)
        producer.abort_transaction() if abort else producer.commit_transaction()

    def position():
        return system.target_postgres.value(system.bank.target, "SELECT next_offset FROM txb.consumer_offset WHERE group_name = %s AND partition = 0",
                                            (system.group,))

    for number in range(3):
        transaction(number)
    transaction(3, abort=True)
    end = 8  # four messages and the ends of their transactions, which are written after the coordinator has answered
    process.wait_for(lambda: kafka.ends(topic)[0][1] == end, lambda: f"{end}: {kafka.ends(topic)}", 60)
    worker = system.worker()
    process.wait_for(lambda: system.bank.applied() == 3 and position() == end, system.lag, 60, alive=worker.alive)
    assert worker.stop() == 0, worker.text()
    kafka.configure_topic(topic, retention_ms=1)
    process.wait_for(lambda: kafka.ends(topic)[0][0] == end, "retention to remove everything", 60, every_s=0.2)
    kafka.configure_topic(topic, retention_ms=-1)
    worker = system.worker()
    transaction(4)
    process.wait_for(lambda: system.bank.applied() == 4, system.lag, 60, alive=worker.alive)
    assert stopped(system) is None


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


# -- keys and partitions (W13) -------------------------------------------------------------------------------------------------------------

NOT_YET = """
CREATE FUNCTION bank.not_yet(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
BEGIN
  IF %s THEN
    RETURN txb.retry('100 ms', 'not yet');
  END IF;
  RETURN bank.apply(m);
END $$"""
APPLY = "CREATE OR REPLACE FUNCTION bank.not_yet(m txb.message) RETURNS txb.outcome LANGUAGE sql AS 'SELECT bank.apply(m)'"
HANDLER = {"kind": "sql", "function": "bank.not_yet"}
RETRY = {"first_ms": 20, "cap_ms": 200, "attempts_max": 1000}


def produce_same(system, *places):
    """One message each to these topics and partitions, all of the same key."""
    producer = Producer({"bootstrap.servers": system.kafka.brokers})
    for topic, partition in places:
        producer.produce(topic, json.dumps({"from": 1, "to": 2, "amount": 1, "n": 1}), key="same", partition=partition)
    assert producer.flush(60) == 0


def held_places(system):
    """(group, topic, partition) of everything that a message holds which has failed more than once."""
    return system.target_postgres.query(system.bank.target, "SELECT group_name, topic, partition FROM txb.failed WHERE holds AND attempts >= 2"
                                        " ORDER BY 1, 2, 3")


def registered(system):
    return system.target_postgres.value(system.bank.target, "SELECT count(*) FROM txb.consumer_offset WHERE group_name = %s AND owner IS NOT NULL",
                                        (system.group,))


def added(worker):
    """The partitions that a worker told to be new, sorted."""
    return sorted(int(re.search(r"partition=(\d+)", line).group(1)) for line in worker.text().splitlines() if "partitions were added" in line)


def test_a_held_key_is_held_in_its_own_group_topic_and_partition(systems, postgres, kafka):
    system = systems(postgres, kafka, topics=2)
    first, second = system.bank.topics
    postgres.query(system.bank.target, NOT_YET % f"m.topic = '{first}' AND m.partition = 0")
    system.worker(worker={"handler": HANDLER, "retry": RETRY})
    system.worker(worker={"group": f"{system.name}.other"})
    produce_same(system, (first, 0))
    process.wait_for(lambda: held_places(system) and system.bank.applied() == 1, system.lag, 60, alive=system.alive)
    assert held_places(system) == [(system.group, first, 0)]
    produce_same(system, (first, 1), (second, 0))
    process.wait_for(lambda: system.bank.applied() == 5, system.lag, 60, alive=system.alive)
    places = system.target_postgres.query(system.bank.target, "SELECT topic, partition, count(*) FROM bank.applied GROUP BY 1, 2 ORDER BY 1, 2")
    assert places == [(first, 0, 1), (first, 1, 2), (second, 0, 2)]
    assert held_places(system) == [(system.group, first, 0)]
    postgres.query(system.bank.target, APPLY)
    process.wait_for(lambda: system.bank.applied() == 6 and not held_places(system), system.lag, 60, alive=system.alive)


def test_order_is_lost_where_growth_moves_a_key_and_the_worker_says_so(systems, postgres, kafka):
    """What is held in the old partition does not hold the same key in the new one."""
    system = systems(postgres, kafka)
    account = next(a for a in range(1, 200) if murmur2_partition(str(a).encode(), 3) != murmur2_partition(str(a).encode(), 6))
    postgres.query(system.bank.target, NOT_YET % "convert_from(m.payload, 'UTF8')::jsonb->>'n' = '1'")
    relay, worker = system.relay(), system.worker(worker={"handler": HANDLER, "retry": RETRY})
    system.bank.transfer(account)
    process.wait_for(lambda: held_places(system), system.lag, 60, alive=system.alive)
    system.wait_published()
    assert (worker.stop(), relay.stop(), added(worker)) == (0, 0, []), worker.text()
    kafka.grow_topic(system.bank.topics[0], 6)
    system.bank.transfer(account)
    system.relay()
    worker = system.worker(worker={"handler": HANDLER, "retry": RETRY})
    process.wait_for(lambda: system.bank.applied() == 1, system.lag, 60, alive=system.alive)
    postgres.query(system.bank.target, APPLY)
    process.wait_for(lambda: system.bank.applied() == 2, system.lag, 60, alive=system.alive)
    effects = postgres.query(system.bank.target, "SELECT n, partition FROM bank.applied ORDER BY ord")
    assert effects == [(n, murmur2_partition(str(account).encode(), partitions)) for n, partitions in ((2, 6), (1, 3))]
    assert added(worker) == [3, 4, 5] and "lose their order" in worker.text(), worker.text()


def test_a_worker_tells_each_added_partition_once_and_a_new_group_none(systems, postgres, kafka):
    system = systems(postgres, kafka, worker={"session_timeout_ms": 6000}, kafka_client={"topic.metadata.refresh.interval.ms": "1000"})
    worker = system.worker()
    process.wait_for(lambda: registered(system) == 3, system.lag, 60, alive=worker.alive)
    kafka.grow_topic(system.bank.topics[0], 5)
    process.wait_for(lambda: registered(system) == 5, system.lag, 60, alive=worker.alive)
    line = worker.wait_line(".*partitions were added.*").group(0)
    assert added(worker) == [3, 4] and "level=warn" in line and system.group in line and system.bank.topics[0] in line, worker.text()
    assert worker.stop() == 0
    worker = system.worker()
    process.wait_for(lambda: registered(system) == 5, system.lag, 60, alive=worker.alive)
    assert (worker.stop(), added(worker)) == (0, []), worker.text()
    system.group = f"{system.name}.later"
    worker = system.worker()
    process.wait_for(lambda: registered(system) == 5, system.lag, 60, alive=worker.alive)
    assert (worker.stop(), added(worker)) == (0, []), worker.text()


def test_workers_of_a_new_group_that_start_at_once_tell_no_added_partition(systems, postgres, kafka):
    """One has looked and found nothing; before it looks again, to register where the group begins, another has registered."""
    system = systems(postgres, kafka)
    with Proxy(("127.0.0.1", postgres.port), hold_at=(b"txb_worker_lookup", 2)) as proxy:
        worker = system.worker(worker={"database": f"postgresql://txbtest_worker@127.0.0.1:{proxy.port}/{system.bank.target}"})
        process.wait_for(lambda: proxy.held, "the second look", 60, alive=worker.alive)
        postgres.query(system.bank.target, "SELECT txb.offset_register(%s, %s, '{0,1,2}', '{0,0,0}', '')", (system.group, system.bank.topics[0]))
        proxy.release()
        process.wait_for(lambda: registered(system) == 3, system.lag, 60, alive=worker.alive)
        assert added(worker) == [], worker.text()
        assert worker.stop() == 0, worker.text()


def test_an_added_partition_is_read_from_its_beginning_though_the_group_began_at_the_end(systems, postgres, kafka):
    system = systems(postgres, kafka, worker={"start": "latest"})
    produce(system, range(5))
    worker = system.worker()
    process.wait_for(lambda: registered(system) == 3, system.lag, 60, alive=worker.alive)
    assert worker.stop() == 0, worker.text()
    kafka.grow_topic(system.bank.topics[0], 4)
    produce(system, range(7), partition=3)  # before anybody of the group knows that partition
    produce(system, range(5, 7))
    worker = system.worker()
    system.wait_consumed()
    assert postgres.query(system.bank.target, "SELECT partition, count(*) FROM bank.applied GROUP BY 1 ORDER BY 1") == [(0, 2), (3, 7)]
    assert added(worker) == [3]


def growth(system):
    """What doctor says of the topic's partitions."""
    _, out, _ = command("--config", system.config(name="doctor"), "-o", "json", "doctor", "--timeout", "30")
    found = [check for check in json.loads(out)["checks"] if check["check"] == "partition growth"]
    assert len(found) == 1 and system.bank.topics[0] in found[0]["of"] and system.group in found[0]["of"], out
    return found[0]


def test_doctor_tells_growth_until_the_group_has_the_new_partitions(systems, postgres, kafka):
    system = systems(postgres, kafka)
    worker = system.worker()
    process.wait_for(lambda: registered(system) == 3, system.lag, 60, alive=worker.alive)
    assert worker.stop() == 0 and growth(system)["result"] == "ok"
    kafka.grow_topic(system.bank.topics[0], 7)
    told = growth(system)
    assert told["result"] == "warn" and {"7", "3"} <= set(re.findall(r"\d+", told["found"])) and "order" in told["remedy"], told
    worker = system.worker()
    process.wait_for(lambda: registered(system) == 7, system.lag, 60, alive=worker.alive)
    assert growth(system)["result"] == "ok"
