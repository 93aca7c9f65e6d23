"""The fixtures on real servers, without txbroker: servers keep what they acknowledged, nothing outlives a killed test run, and the verifier finds
each planted mismatch and nothing else."""

import os
import signal
import subprocess
import sys
import time

import psycopg2
import pytest
from confluent_kafka import KafkaException, Producer

from txbtest import process
from txbtest.bank import Bank, Writers
from txbtest.courier import Courier
from txbtest.kafka import Kafka
from txbtest.postgres import Postgres
from txbtest.verify import Verifier, murmur2_partition, read_topic

HERE = os.path.dirname(os.path.abspath(__file__))


def produce(kafka, topic, values, **config):
    producer = Producer({"bootstrap.servers": kafka.brokers, "acks": "all", **config})
    for value in values:
        producer.produce(topic, value, key=value)
    assert producer.flush(60) == 0


def test_postgres_keeps_committed_rows_over_kill_9_and_is_back_at_the_same_address():
    with Postgres() as server:
        server.create_database("shop")
        server.query("shop", "CREATE TABLE t AS SELECT 1 AS a")
        connection = server.connect("shop", autocommit=False)
        connection.cursor().execute("INSERT INTO t VALUES (2)")
        server.kill9()
        with pytest.raises(psycopg2.OperationalError):
            server.connect("shop")
        server.start()
        assert server.query("shop", "SELECT a FROM t") == [(1,)]
        assert server.value("shop", "SHOW fsync") == "on"


def test_a_base_backup_adopted_loses_what_came_after_it_and_a_dump_moves_to_another_server():
    with Postgres() as server:
        server.create_database("shop")
        server.query("shop", "CREATE ROLE keeper; CREATE TABLE t AS SELECT 1 AS a; ALTER TABLE t OWNER TO keeper")
        backup = server.basebackup()
        server.query("shop", "INSERT INTO t VALUES (2)")
        dump = server.dump("shop")
        with Postgres() as other:
            other.restore("shop", *dump)
            assert other.query("shop", "SELECT a FROM t ORDER BY a") == [(1,), (2,)]
            assert other.value("shop", "SELECT tableowner FROM pg_tables WHERE tablename = 't'") == "keeper"
        server.stop("immediate")
        server.adopt(backup)
        server.start()
        assert server.query("shop", "SELECT a FROM t") == [(1,)]


def test_kafka_keeps_acknowledged_messages_over_kill_9_and_makes_no_topic_by_accident():
    with Kafka() as server:
        server.create_topic("t", 2)
        produce(server, "t", [b"a", b"b", b"c"])
        server.restart()
        produce(server, "t", [b"d"])
        assert sorted(record.value for record in read_topic(server.brokers, "t")) == [b"a", b"b", b"c", b"d"]
        server.freeze()
        with pytest.raises(KafkaException):
            server.admin().list_topics(timeout=1)
        server.thaw()
        assert "missing" not in server.admin().list_topics(timeout=30).topics
        process.wait_for(lambda: server.admin().list_topics("missing", timeout=30).topics["missing"].error is not None, "an unknown topic to be unknown")


def test_servers_of_a_killed_test_run_end_with_it_and_its_directories_go_at_the_next_start():
    owner = subprocess.Popen([sys.executable, "-m", "txbtest.servers", "--no-kafka"], cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    printed = {}
    for line in owner.stdout:
        if line.strip() == "READY":
            break
        name, _, value = line.strip().partition("=")
        printed[name] = value
    server = int(printed["PG_PID"])
    born = process.start_time(server)
    assert born is not None
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    process.wait_for(lambda: process.start_time(server) != born, "the server to end with its owner", 30)
    assert os.path.isdir(printed["PGHOST"])
    process.sweep()
    process.wait_for(lambda: not os.path.exists(printed["PGHOST"]), "the directory to go")


def test_murmur2_places_keys_as_librdkafkas_java_compatible_partitioner_does(kafka):
    kafka.create_topic("murmur", 7)
    keys = [str(number).encode() * (1 + number % 5) for number in range(200)]
    produce(kafka, "murmur", keys, partitioner="murmur2_random")
    records = read_topic(kafka.brokers, "murmur")
    assert len(records) == len(keys)
    assert [r for r in records if r.partition != murmur2_partition(r.key, 7)] == []
    assert murmur2_partition(b"21", 1 << 31) == -973932308 & 0x7FFFFFFF  # a value of Kafka's own unit test


@pytest.fixture(scope="module")
def written(postgres, kafka, seed):
    """A source database after the whole mix of writers, to be copied for each flaw."""
    kafka.create_topic("verify0", 3)
    courier = Courier(Bank(postgres, "verify0_a", "verify0_b", ["verify0"], accounts=60), kafka, "verify", 3)
    courier.prepare()
    writers = Writers(courier.bank, 16, seed, operations=25, held_s=0.05).start().join()
    print(dict(writers.totals))
    assert postgres.value("verify0_a", "SELECT count(*) FROM pg_prepared_xacts") == 0
    return courier


FLAWS = {None: "", "lost message": "LM", "phantom message": "MP", "swapped messages": "O", "wrong payload": "BM", "lost header": "B",
         "wrong partition": "BO", "lost effect": "LMQ", "doubled effect": "DMQ", "phantom effect": "MPQ", "swapped effects": "O",
         "discarded effect": "DM", "wrong money": "M", "wrong counter": "Q"}


@pytest.mark.parametrize("flaw", FLAWS)
def test_the_verifier_finds_each_planted_mismatch_and_nothing_else(flaw, written, postgres, kafka, seed):
    name = f"verify_{(flaw or 'clean').replace(' ', '_')}"
    postgres.create_database(f"{name}_a", "verify0_a")
    postgres.create_database(f"{name}_b", "verify0_b")
    kafka.create_topic(name, 3)
    bank = Bank(postgres, f"{name}_a", f"{name}_b", [name], accounts=60)
    for table in ("bank.journal", "bank.account", "txb.outbox"):
        postgres.query(bank.source, f"UPDATE {table} SET topic = %s", (name,))
    courier = Courier(bank, kafka, written.group, 3, flaw)
    courier.run()
    report = Verifier(bank, kafka, written.group, seed, partitions=3, discarded=courier.discarded).check()
    print(report)
    assert report.counts["intents"] > 300
    assert report.letters() == FLAWS[flaw] and bool(report) == (flaw is None)
    assert flaw is None or "journal" in str(report) or report.letters() in ("M", "Q")


def test_a_wait_that_cannot_succeed_says_what_it_waited_for():
    start = time.monotonic()
    with pytest.raises(process.Timeout, match="not within 0.1 s: the moon"):
        process.wait_for(lambda: False, "the moon", 0.1)
    assert time.monotonic() - start < 5
