"""The times of a message (R6): the record bears the time of producing, so that retention counts from there; the intent's own time travels as ce_time, and
no application can choose it."""

import psycopg2.errors
import pytest
from confluent_kafka import Producer

from txbtest import process
from txbtest.verify import murmur2_partition, read_topic

HOUR_MS = 3_600_000
OLD = "2001-02-03 04:05:06.789012+00"


@pytest.fixture
def system(systems, postgres, kafka):
    return systems(postgres, kafka)


def make_old(system):
    """What was written is of long ago: no relay ran for years, or the database was restored."""
    system.postgres.query(system.bank.source, "UPDATE txb.outbox SET created_at = %s", (OLD,))


def now_ms(postgres):
    return postgres.value("postgres", "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint")


def test_a_record_bears_the_time_of_producing_and_ce_time_that_of_its_intent(system, postgres, kafka):
    system.bank.transfer()
    make_old(system)
    system.bank.transfer(2)
    system.bank.transfer(3, mode="later")
    before = now_ms(postgres)
    system.relay()
    system.wait_published()
    after = now_ms(postgres)
    written = dict(postgres.query(system.bank.source, "SELECT id::text, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
                                  " FROM txb.outbox"))
    assert "2001-02-03T04:05:06.789012Z" in written.values() and len(written) == 3
    records = read_topic(kafka.brokers, system.bank.topics[0])
    assert {record.id: record.headers["ce_time"].decode() for record in records} == written
    assert [record for record in records if not before <= record.timestamp_ms <= after] == []


def test_intents_older_than_the_retention_outlive_it_for_whoever_reads_later(system, kafka):
    """With the intent's time on the record, Kafka deletes what it has just acknowledged."""
    topic = system.bank.topics[0]
    kafka.configure_topic(topic, retention_ms=HOUR_MS)
    givers = [account for account in range(1, 100) if murmur2_partition(str(account).encode(), system.partitions) != 0][:20]
    for account in givers:
        system.bank.transfer(account)
    make_old(system)
    system.relay()
    system.wait_published()
    for number in range(2):  # the second time, all of retention's round came after the publishing
        producer = Producer({"bootstrap.servers": kafka.brokers})
        producer.produce(topic, b"old", partition=0, timestamp=1)
        assert producer.flush(60) == 0
        process.wait_for(lambda: kafka.ends(topic)[0][0] > number, "retention to remove an old record of another producer", 60, every_s=0.1)
    assert {first for partition, (first, _) in kafka.ends(topic).items() if partition != 0} == {0}
    worker = system.worker()
    process.wait_for(lambda: system.bank.applied() == len(givers), system.lag, 60, alive=worker.alive)
    assert system.bank.missing() == 0


# {h}: headers with a ce_time; the rest of an intent is right in each.
FORGED = [
    ("INSERT INTO txb.outbox (topic, type, created_at) VALUES ('{t}', 'forged', '{o}')", psycopg2.errors.InsufficientPrivilege),
    ("INSERT INTO txb.scheduled (due, id, topic, type, created_at) VALUES (now(), '{u}', '{t}', 'forged', '{o}')", psycopg2.errors.InsufficientPrivilege),
    ("UPDATE txb.outbox SET created_at = '{o}'", psycopg2.errors.InsufficientPrivilege),
    ("INSERT INTO txb.outbox (topic, type, headers) VALUES ('{t}', 'forged', '{h}')", psycopg2.errors.InvalidParameterValue),
    ("SELECT txb.publish('{t}', 'k', 'forged', '1', headers => '{h}')", psycopg2.errors.InvalidParameterValue),
    ("SELECT txb.publish('{t}', 'k', 'forged', '1', headers => '{h}', not_before => now())", psycopg2.errors.InvalidParameterValue),
]


def test_an_application_cannot_choose_the_time_of_its_intent(system, postgres, kafka):
    topic = system.bank.topics[0]
    words = {"t": topic, "o": OLD, "h": f'{{"ce_time": "{OLD}"}}', "u": "00000000-0000-7000-8000-000000000001"}
    allowed = []
    for sql, error in FORGED:
        try:
            postgres.query(system.bank.source, sql.format(**words), user="txbtest_app")
            allowed.append(sql)
        except error:
            pass
    assert allowed == []
    # A due time of long ago is no way either.
    postgres.query(system.bank.source, "SELECT txb.publish(%s, 'k', 'honest', '1', not_before => %s)", (topic, OLD), user="txbtest_app")
    system.relay()
    system.wait_published()
    records = read_topic(kafka.brokers, topic)
    assert [record.headers["ce_type"] for record in records] == [b"honest"] and not records[0].headers["ce_time"].startswith(b"2001")
