"""Commits that are not on disk (R8). While the WAL writer stands still, what is committed with synchronous_commit = off is there for everybody who reads,
and gone after a crash. With relay.wait_flush it is published when it can't be lost any more; without, it may be a message without a transaction."""

import contextlib
import json
import os
import signal

import pytest

from txbtest import process
from txbtest.postgres import Postgres
from txbtest.program import command
from txbtest.verify import read_topic


@pytest.fixture(scope="module")
def lazy_postgres():
    """Nobody but the WAL writer flushes: no commit, and no process that writes pages."""
    with Postgres({"synchronous_commit": "off", "bgwriter_lru_maxpages": "0", "autovacuum": "off"}) as server:
        yield server


@contextlib.contextmanager
def nothing_flushed(server):
    """Everything so far goes to disk, then the WAL writer stands still, asleep and without locks. It goes on at the end of the block, if it lives."""
    server.query("postgres", "SET synchronous_commit = on; CREATE TABLE flushed (); DROP TABLE flushed")
    pid = server.value("postgres", "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'")
    born = process.start_time(pid)

    def stands_still():
        os.kill(pid, signal.SIGSTOP)
        if server.value("postgres", "SELECT wait_event FROM pg_stat_activity WHERE pid = %s", (pid,)) == "WalWriterMain":
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    process.wait_for(stands_still, "the WAL writer to sleep")
    try:
        yield
    finally:
        if process.start_time(pid) == born:
            os.kill(pid, signal.SIGCONT)


def published(system):
    """Ids in the topic, each once, in the order of producing (all transfers of a test have one key)."""
    return list(dict.fromkeys(record.id for record in read_topic(system.kafka.brokers, system.bank.topics[0])))


def relay_waits(system):
    """The relay has read what was committed last, and asks whether it is on disk."""
    return system.postgres.value(system.bank.source, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'txbroker relay %'"
                                 " AND datname = current_database() AND query LIKE '%wal_flush_lsn%'"
                                 " AND query_start > (SELECT max(at) FROM bank.journal)") > 0


def wait_read(system, last):
    """Until the relay has published `last`, or waits for the disk."""
    process.wait_for(lambda: relay_waits(system) or last in published(system), system.lag, 60, alive=system.alive)


def test_a_commit_that_is_not_on_disk_is_published_when_it_is(systems, lazy_postgres, kafka):
    system = systems(lazy_postgres, kafka, relay={"wait_flush": True})
    system.relay()
    first = system.bank.transfer()
    system.wait_published()
    with nothing_flushed(lazy_postgres):
        second = system.bank.transfer()
        wait_read(system, second)
        third = system.bank.transfer()  # behind the position that is waited for
        assert system.bank.published() == 3 and published(system) == [first]
    system.wait_published()
    assert published(system) == [first, second, third]


@pytest.mark.parametrize("wait_flush", [True, False])
def test_a_commit_that_a_crash_takes_back_was_published_only_without_the_setting(wait_flush, systems, lazy_postgres, kafka):
    system = systems(lazy_postgres, kafka, relay={"wait_flush": wait_flush})
    relay = system.relay()
    kept = system.bank.transfer()
    system.wait_published()
    with nothing_flushed(lazy_postgres):
        lost = system.bank.transfer()
        wait_read(system, lost)
        seen = published(system)
        lazy_postgres.kill9()
    lazy_postgres.start()
    assert lazy_postgres.query(system.bank.source, "SELECT id::text FROM bank.journal") == [(kept,)]
    again = system.bank.transfer()
    process.wait_for(lambda: again in published(system), system.lag, 60, alive=system.alive)  # which may have the lost one's number
    system.wait_published()
    assert seen == ([kept] if wait_flush else [kept, lost])
    assert published(system) == seen + [again] and relay.running()


def durability(system, **relay):
    """What doctor says of the source."""
    _, out, _ = command("--config", system.config(name="doctor", relay=relay), "-o", "json", "doctor", "--timeout", "30")
    found = [check for check in json.loads(out)["checks"] if check["check"] == "durability" and system.bank.source in check["of"]]
    assert len(found) == 1, out
    return found[0]


def test_doctor_asks_for_the_wait_where_commits_are_not_flushed(systems, postgres, kafka):
    system = systems(postgres, kafka)
    assert durability(system)["result"] == "ok"
    postgres.query(system.bank.source, f"ALTER DATABASE {system.bank.source} SET synchronous_commit = off")
    warned = durability(system)
    assert warned["result"] == "warn" and "relay.wait_flush" in warned["remedy"] and "lost" in warned["found"]
    assert durability(system, wait_flush=True)["result"] == "ok"


# -- the end of a page ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def quiet_postgres():
    """Nobody but the writers and the relay writes WAL: no snapshots of running transactions, no vacuum."""
    with Postgres({"wal_level": "minimal", "max_wal_senders": "0", "bgwriter_lru_maxpages": "0", "autovacuum": "off"}) as server:
        yield server


def commit_at_the_end_of_a_page(system):
    """Transfers, each published before the next, until the commit record of one ends with a page of the WAL; its id. The insert position is then
    behind the next page's header, which nobody has written yet."""
    rest, position = 100, "SELECT ((pg_current_wal_insert_lsn() - '0/0') % 8192)::int, ((pg_current_wal_flush_lsn() - '0/0') % 8192)::int"
    with system.postgres.session(system.bank.source) as connection, connection.cursor() as cursor:
        for _ in range(100):
            system.wait_published()
            cursor.execute("BEGIN")
            cursor.execute("SELECT bank.transfer(1, 1, 1)")
            last = str(cursor.fetchone()[0])
            cursor.execute(position)
            padding = 8192 - cursor.fetchone()[0] - rest
            if padding > 0:
                cursor.execute("SELECT pg_logical_emit_message(true, '', repeat('x', %s))", (padding,))
            cursor.execute("COMMIT")
            cursor.execute(position)
            inserted, flushed = cursor.fetchone()
            if flushed == 0 and inserted > 0:
                return last
            if padding > 0:
                rest += flushed - 24 if flushed < 4096 else flushed - 8192
    raise AssertionError("no commit ended with a page")


def test_a_commit_that_ends_with_a_page_of_the_wal_is_known_to_be_on_disk(systems, quiet_postgres, kafka):
    """The relay's own lease, which it renews seldom here, is the next that is written to the WAL."""
    system = systems(quiet_postgres, kafka, relay={"wait_flush": True, "lease_ms": 600_000})
    system.relay()
    last = commit_at_the_end_of_a_page(system)
    process.wait_for(lambda: last in published(system), system.lag, 60, alive=system.alive)
