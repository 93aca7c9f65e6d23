"""Kafka and PostgreSQL killed with -9 and restarted, under load: processes stay, wait, say so once, go on, and nothing is lost or doubled."""

import re
from collections import Counter

import pytest

from txbtest import process
from txbtest.bank import QUICK, Writers
from txbtest.kafka import Kafka
from txbtest.postgres import Postgres


@pytest.fixture(scope="module")
def mortal_postgres():
    with Postgres() as server:
        yield server


@pytest.fixture(scope="module")
def mortal_kafka():
    with Kafka() as server:
        yield server


def applied_more(system, number):
    before = system.bank.applied()
    process.wait_for(lambda: system.bank.applied() >= before + number, system.lag, 60, alive=system.alive)


def check_told(program, outages, gone, back, each=1):
    """Every outage is told when it begins, when its reason changes (lost, refused, starting up, not yet consistent: which of these are met is chance), and
    when it is over; each of it once in an outage, and not again and again. Two outages in quick succession are one to whoever was not connected between
    them, and librdkafka may lose and find a broker more than once (`each`)."""
    lines = [re.sub(r"\d+", "#", line) for line in program.text().splitlines()]
    for pattern in (gone, back):
        told = Counter(line for line in lines if re.search(pattern, line))
        assert told, f"{pattern} was not told:\n{program.text()}"
        assert max(told.values()) <= each * outages, program.text()


def test_kafka_killed_and_restarted_under_load(systems, mortal_postgres, mortal_kafka, seed, tally):
    system = systems(mortal_postgres, mortal_kafka, worker={"session_timeout_ms": 6000})
    relay, worker = system.relay(), system.worker()
    with Writers(system.bank, 6, seed, QUICK, pause_s=0.005, held_s=0.1, user="txbtest_app"):
        for _ in range(2):
            applied_more(system, 100)
            mortal_kafka.kill9()
            tally["kills"] += 1
            tally["kills at work"] += 1  # the writers go on, so rows are on their way
            published = system.bank.published()
            process.wait_for(lambda: system.bank.published() > published + 50, "writers to go on without Kafka", 60)
            mortal_kafka.start()
        applied_more(system, 100)
    system.wait_rest()
    report = system.verify()
    assert report, report
    for program in (relay, worker):
        check_told(program, 2, r"level=warn.*[Kk]afka", "Kafka is back", each=3)


def test_kafka_stopped_for_a_while_loses_and_swaps_nothing(systems, mortal_postgres, mortal_kafka, seed):
    system = systems(mortal_postgres, mortal_kafka, worker={"session_timeout_ms": 6000})
    system.relay()
    system.worker()
    with Writers(system.bank, 6, seed, QUICK, pause_s=0.005, held_s=0.1, user="txbtest_app"):
        applied_more(system, 100)
        mortal_kafka.freeze()
        published = system.bank.published()
        process.wait_for(lambda: system.bank.published() > published + 500, "writers to go on without Kafka", 60)
        mortal_kafka.thaw()
        applied_more(system, 100)
    system.wait_rest()
    report = system.verify()
    assert report, report


def test_postgres_killed_and_restarted_under_load(systems, mortal_postgres, mortal_kafka, seed, tally):
    system = systems(mortal_postgres, mortal_kafka, worker={"session_timeout_ms": 6000})
    relay, worker = system.relay(), system.worker()
    with Writers(system.bank, 6, seed, {**QUICK, "prepared": 2}, outages=True, pause_s=0.005, held_s=0.1, user="txbtest_app"):
        for _ in range(2):
            applied_more(system, 100)
            mortal_postgres.kill9()
            tally["kills"] += 1
            tally["kills at work"] += 1
            mortal_postgres.start()
        applied_more(system, 100)
    system.wait_rest()
    report = system.verify()
    assert report, report
    check_told(relay, 2, "PostgreSQL is away", "PostgreSQL is back")
    check_told(worker, 2, "database away", "connected to the database")


def waits_at_the_gate(postgres):
    return postgres.value("postgres", "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'txbroker worker%%' AND wait_event_type = 'Lock'") > 0


def test_a_server_that_dies_under_the_same_message_each_time_condemns_nobody(systems, mortal_postgres, mortal_kafka):
    """W10: whoever restarts a server must not set messages aside, though one ran alone each time."""
    system = systems(mortal_postgres, mortal_kafka, partitions=1)
    target = system.bank.target
    mortal_postgres.query(target, """
        CREATE TABLE bank.gate (open boolean);
        INSERT INTO bank.gate VALUES (false);
        CREATE FUNCTION bank.through_the_gate(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN
          PERFORM FROM bank.gate FOR UPDATE;
          RETURN bank.apply(m);
        END $$""")
    # Prepared, so that it holds its row over the server's death.
    with mortal_postgres.session(target) as connection, connection.cursor() as cursor:
        for statement in ("BEGIN", "UPDATE bank.gate SET open = true", "PREPARE TRANSACTION 'gate'"):
            cursor.execute(statement)
    system.relay()
    worker = system.worker(worker={"handler": {"kind": "sql", "function": "bank.through_the_gate"}})
    system.bank.transfer()
    for _ in range(4):
        process.wait_for(lambda: waits_at_the_gate(mortal_postgres), "a handler that waits", 60, alive=worker.alive)
        mortal_postgres.kill9()
        mortal_postgres.start()
    process.wait_for(lambda: waits_at_the_gate(mortal_postgres), "a handler that waits", 60, alive=worker.alive)
    mortal_postgres.query(target, "COMMIT PREPARED 'gate'")
    system.wait_rest()
    report = system.verify()
    assert report, report
    assert mortal_postgres.query(target, "SELECT state, error_class FROM txb.failed") == []


def test_both_servers_killed_at_once_and_restarted(systems, mortal_postgres, mortal_kafka, seed):
    system = systems(mortal_postgres, mortal_kafka, worker={"session_timeout_ms": 6000})
    system.relay()
    system.worker()
    with Writers(system.bank, 6, seed, QUICK, outages=True, pause_s=0.005, held_s=0.1, user="txbtest_app"):
        applied_more(system, 100)
        mortal_kafka.kill9()
        mortal_postgres.kill9()
        mortal_kafka.start(wait=False)
        mortal_postgres.start()
        mortal_kafka.wait_ready()
        applied_more(system, 100)
    system.wait_rest()
    report = system.verify()
    assert report, report


def test_a_database_that_comes_back_and_takes_no_writes_is_told_with_its_own_words(systems, mortal_postgres, mortal_kafka, seed):
    """What the log said when the connection went is no answer to why it stays away."""
    system = systems(mortal_postgres, mortal_kafka)
    relay = system.relay()
    process.wait_for(lambda: system.relay_row().get("owner"), "an owner")
    mortal_postgres.query("postgres", f"ALTER DATABASE {system.bank.source} SET default_transaction_read_only = on")
    mortal_postgres.query("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'txbroker relay%%'")
    relay.wait_line("level=warn.*read-only transaction")
    mortal_postgres.query("postgres", f"ALTER DATABASE {system.bank.source} RESET default_transaction_read_only")
    relay.wait_line("PostgreSQL is back")
    assert relay.text().count("read-only transaction") == 1
