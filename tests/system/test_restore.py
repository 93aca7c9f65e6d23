"""A source database that is not the one it was: dumped and restored into a new server, and a server that lost its last second. The relay goes on with
every row published, or stops with a message that says what happened and what to do; never silence."""

import re

import pytest

from txbtest import process
from txbtest.bank import QUICK, Writers
from txbtest.postgres import Postgres
from txbtest.program import SAFETY, System, command
from txbtest.verify import read_topic


@pytest.fixture
def own_postgres():
    with Postgres() as server:
        yield server


def missing_in_topic(system):
    """Committed intents of the source as it is now that no topic has."""
    there = {record.id for topic in system.bank.topics for record in read_topic(system.kafka.brokers, topic)}
    return [i for (i,) in system.postgres.query(system.bank.source, "SELECT id::text FROM bank.journal") if i not in there]


def test_a_database_dumped_while_it_was_relayed_goes_on_in_a_new_server(systems, own_postgres, postgres, kafka, seed):
    system = systems(own_postgres, kafka, target_postgres=postgres, worker={"session_timeout_ms": 6000})
    system.relay()
    system.worker()
    crew = Writers(system.bank, 4, seed, QUICK, pause_s=0.005, held_s=0.1).start()
    process.wait_for(lambda: system.bank.applied() > 200, system.lag, 60, alive=system.alive)
    crew.stop()
    own_postgres.query("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'writer-%'")
    system.bank.bulk(500, 100)  # some of it is dumped without being published
    dump = own_postgres.dump(system.bank.source)
    system.stop_all()
    with Postgres() as other:
        other.restore(system.bank.source, *dump)
        own_postgres.stop()
        system.postgres = system.bank.postgres = other
        relay = system.relay()
        system.worker()
        Writers(system.bank, 4, seed + 1, QUICK, operations=30, held_s=0.1).start().join()
        system.wait_rest(90)
        report = system.verify()
        assert report, report
        assert relay.running()


def test_a_server_that_lost_its_last_second_is_never_relayed_in_silence(systems, own_postgres, postgres, kafka, seed):
    """From a base backup taken a moment earlier, behind the same address: numbers that were published are drawn again by other intents."""
    system = systems(own_postgres, kafka, target_postgres=postgres)
    relay = system.relay()
    Writers(system.bank, 4, seed, QUICK, operations=25, held_s=0.1).start().join()
    system.wait_published()
    backup = own_postgres.basebackup()
    Writers(system.bank, 4, seed + 1, QUICK, operations=25, held_s=0.1).start().join()
    system.wait_published()
    lost = own_postgres.value(system.bank.source, "SELECT max(seq) FROM txb.outbox")
    own_postgres.stop("immediate")
    own_postgres.adopt(backup)
    own_postgres.start()
    kept = own_postgres.value(system.bank.source, "SELECT max(seq) FROM txb.outbox")
    assert kept < lost
    Writers(system.bank, 4, seed + 2, QUICK, operations=10, held_s=0.1).start().join()
    check_goes_on_or_stops_loudly(system, relay)


@pytest.mark.parametrize("behind", ["a little", "everything"])
def test_a_sequence_behind_the_stored_position_is_an_alarm(behind, systems, own_postgres, postgres, kafka, seed):
    """What a failover does that kept txb.relay but lost numbers: planted by setting the sequence back."""
    system = systems(own_postgres, kafka, target_postgres=postgres)
    relay = system.relay()
    Writers(system.bank, 4, seed, QUICK, operations=25, held_s=0.1).start().join()
    system.wait_published()
    highest = system.relay_row()["highest"]
    back = 1 if behind == "everything" else highest - 3
    # By setval: ALTER TABLE locks the table before its sequence, and a poll reads the sequence before the table, so the two could deadlock.
    own_postgres.query(system.bank.source, "SELECT setval(pg_get_serial_sequence('txb.outbox', 'seq'), %s, false)", (back,))
    code = relay.wait_exit(60)
    assert code == SAFETY, relay.text()
    line = next(text for text in relay.text().splitlines() if str(highest) in text and re.search("sequence", text))
    assert re.search(r"restore|backup|failover|lost", line), line
    row = system.relay_row()
    assert row["state"] == "stopped" and "sequence" in row["last_error"]
    code, out, _ = command("--config", system.config(name="status"), "status")
    assert "sequence" in out


def check_goes_on_or_stops_loudly(system: System, relay):
    """Whatever it does, it must say so: every committed row published, or an end with exit code 5 and a line that names both numbers."""
    process.wait_for(lambda: not relay.running() or system.published_all(), system.lag, 60)
    if relay.running():
        process.wait_for(lambda: not missing_in_topic(system) or not relay.running(), system.lag, 60)
    if relay.running():
        assert missing_in_topic(system) == []
        return
    relay.expected = False
    assert relay.process.returncode == SAFETY, relay.text()
    assert re.search(r"sequence.*(restore|backup|failover|lost)", relay.text()), relay.text()


def test_a_standby_is_left_alone_until_it_is_promoted(own_postgres, systems, kafka):
    """Relays work on the primary (R7); a server in recovery is named, and waited for."""
    system = systems(own_postgres, kafka)
    system.bank.transfer()
    backup = own_postgres.basebackup()
    own_postgres.stop()
    own_postgres.adopt(backup)
    with open(f"{own_postgres.data}/standby.signal", "w", encoding="ascii"):
        pass
    own_postgres.start()
    relay = system.relay()
    relay.wait_line("recovery|standby")
    assert len(relay.text().strip().splitlines()) == 1, relay.text()
    own_postgres.query("postgres", "SELECT pg_promote()")
    system.wait_published()
    assert missing_in_topic(system) == []
