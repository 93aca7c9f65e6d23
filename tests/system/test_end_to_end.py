"""From a commit in one bank to the effect in the other, with whole processes on a real PostgreSQL and a real Kafka, nothing killed."""

import json
import os

import pytest
from confluent_kafka import Producer

from txbtest import process
from txbtest.bank import EVERYTHING, Writers
from txbtest.program import command
from txbtest.verify import read_topic


@pytest.mark.parametrize("per", ["message", "batch"])
def test_every_committed_transfer_takes_effect_once_and_in_order(per, systems, postgres, kafka, seed):
    system = systems(postgres, kafka, per=per, topics=2)
    system.relay()
    system.worker()
    writers = Writers(system.bank, 12, seed, EVERYTHING, operations=40, user="txbtest_app", held_s=0.2).start().join()
    assert writers.totals["rollback"] > 0
    system.wait_rest()
    report = system.verify()
    assert report, report
    assert report.counts["repeated"] == 0  # nothing was killed, so nothing had to be sent again


def test_one_process_runs_all_roles_of_a_configuration_and_ends_in_order(systems, postgres, kafka, seed):
    system = systems(postgres, kafka)
    program = system.start("run")
    Writers(system.bank, 4, seed, operations=40, user="txbtest_app", held_s=0.1).start().join()
    system.wait_rest()
    assert program.stop() == 0, program.text()
    assert system.relay_row()["state"] == "free"
    report = system.verify()
    assert report, report


def test_two_sources_in_one_process_don_t_disturb_each_other(systems, postgres, kafka, seed):
    one, other = systems(postgres, kafka), systems(postgres, kafka)
    with open(one.config(name="one"), encoding="utf-8") as file:
        both = json.load(file)
    with open(other.config(name="other"), encoding="utf-8") as file:
        second = json.load(file)
    both["sources"] += second["sources"]
    both["workers"] += second["workers"]
    one.start("run", sources=both["sources"], workers=both["workers"])
    with Writers(one.bank, 4, seed, operations=30, held_s=0.1), Writers(other.bank, 4, seed + 1, operations=30, held_s=0.1):
        pass
    for system in (one, other):
        system.wait_rest()
        report = system.verify()
        assert report, report


def test_a_backlog_written_before_anything_ran_is_carried_over(systems, postgres, kafka, seed):
    system = systems(postgres, kafka, per="batch")
    Writers(system.bank, 4, seed, operations=30, held_s=0.1).start().join()
    system.bank.bulk(30_000)
    relay = system.relay()
    system.worker()
    system.wait_rest()
    report = system.verify()
    assert report, report
    if not os.environ.get("ASAN_OPTIONS"):  # the address sanitizer has memory of its own
        assert relay.peak_kb() < 64 * 1024


def test_messages_of_a_foreign_producer_take_effect_once(systems, postgres, kafka):
    system = systems(postgres, kafka)
    topic = system.bank.topics[0]
    producer = Producer({"bootstrap.servers": kafka.brokers})
    for number in range(50):
        producer.produce(topic, json.dumps({"from": 1, "to": 7, "amount": 2, "n": number}), key="foreign")
    assert producer.flush(60) == 0
    system.worker()
    process.wait_for(lambda: system.bank.applied() >= 50, system.lag, 60, alive=system.alive)
    system.wait_consumed()
    rows = postgres.query(system.bank.target, "SELECT count(*), count(DISTINCT id), sum(amount) FROM bank.applied WHERE key = 'foreign'")
    assert rows == [(50, 50, 100)]
    assert postgres.query(system.bank.target, "SELECT n FROM bank.applied ORDER BY ord") == [(n,) for n in range(50)]


def test_an_intent_published_by_the_command_line_arrives_as_it_was_given(systems, postgres, kafka):
    system = systems(postgres, kafka)
    system.relay()
    code, out, err = command("--database", postgres.uri(system.bank.source, "txbtest_app"), "publish", "--topic", system.bank.topics[0], "--key",
                             "ключ", "--type", "note.made", "--header", "trace=abc", "--payload", '{"a": [1, "ü"]}')
    assert code == 0, err
    system.wait_published()
    (record,) = read_topic(kafka.brokers, system.bank.topics[0])
    assert record.id in out
    assert record.key.decode() == "ключ" and json.loads(record.value) == {"a": [1, "ü"]}
    assert record.headers["trace"] == b"abc" and record.headers["ce_type"] == b"note.made" and record.headers["ce_specversion"] == b"1.0"
    assert record.headers["ce_source"].decode().endswith(system.name)
    assert postgres.query(system.bank.source, "SELECT id::text FROM txb.outbox") == [(record.id,)]


def test_a_rolled_back_intent_is_never_seen(systems, postgres, kafka):
    system = systems(postgres, kafka)
    system.relay()
    with postgres.session(system.bank.source, autocommit=False, user="txbtest_app") as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT bank.transfer(1, 2, 3)")
            connection.rollback()
            cursor.execute("SELECT bank.transfer(1, 2, 4)")
            connection.commit()
    system.wait_published()
    (record,) = read_topic(kafka.brokers, system.bank.topics[0])
    assert json.loads(record.value)["amount"] == 4


def test_status_names_the_session_behind_the_oldest_hole(systems, postgres, kafka):
    system = systems(postgres, kafka)
    relay = system.relay()
    with postgres.session(system.bank.source, autocommit=False, user="txbtest_app", application_name="slow-shop") as connection:
        connection.cursor().execute("SELECT bank.transfer(1, 2, 3)")
        system.bank.transfer(2, 3, 4)  # passes the open one by
        process.wait_for(lambda: system.relay_row().get("oldest_hole_holders"), system.lag, 60, alive=relay.alive)
        code, out, err = command("--config", system.config(name="status"), "status", "-o", "json")
        assert code == 0, err
        assert "slow-shop" in out and json.loads(out)
        code, out, err = command("--config", system.config(name="status"), "status")
        assert code == 0 and "slow-shop" in out
        connection.commit()
    system.wait_published()
    assert len(read_topic(kafka.brokers, system.bank.topics[0])) == 2
