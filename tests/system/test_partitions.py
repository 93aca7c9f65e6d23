"""Partitions of txb.outbox come and go under load (R9): made ahead of the writers, dropped when all in them is published and old enough, and nobody who
publishes waits for that, not even while another publisher keeps its transaction open."""

from txbtest import process
from txbtest.bank import QUICK, Writers


def partitions(system):
    return [name for (name,) in system.postgres.query(
        system.bank.source, "SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = 'txb.outbox'::regclass"
        " ORDER BY 1")]


def test_partitions_are_made_and_dropped_while_everybody_publishes(systems, postgres, kafka, seed):
    system = systems(postgres, kafka, per="batch", relay={"partition_rows": 1000, "partitions_ahead": 6, "retention_ms": 0})
    first = partitions(system)
    system.relay()
    system.worker()
    with Writers(system.bank, 4, seed, QUICK, pause_s=0.01, held_s=0.05, user="txbtest_app") as crew:
        with postgres.session(system.bank.source, user="txbtest_app", autocommit=False) as publisher, publisher.cursor() as cursor:
            cursor.execute("SELECT bank.transfer(199, 1, 1)")
            system.bank.bulk(6000, 100)
            process.wait_for(lambda: len(set(partitions(system)) - set(first)) >= 3, lambda: f"new partitions: {partitions(system)}", 60, alive=crew.alive)
            # With this transaction open nothing may be dropped for good (its number is a hole in the first partition), and nobody may wait.
            rate = [system.bank.published()]
            process.wait_for(lambda: rate.append(system.bank.published()) or rate[-1] > rate[0] + 500, "writers to go on", 60, alive=crew.alive)
            publisher.commit()
        process.wait_for(lambda: not set(first[:1]) & set(partitions(system)), lambda: f"the first partition to go: {partitions(system)}", 90,
                         every_s=0.2, alive=crew.alive)
    system.wait_rest()
    report = system.verify()
    assert report, report


def test_an_insert_never_fails_for_want_of_a_partition_while_no_relay_runs_for_a_while(systems, postgres, kafka):
    """init made enough of them: with the default settings for 64 million intents, here for forty thousand."""
    system = systems(postgres, kafka, per="batch")
    system.bank.bulk(16_000)
    system.relay()
    process.wait_for(lambda: len(partitions(system)) >= 11, lambda: f"partitions ahead again: {partitions(system)}", 60, alive=system.alive)
    system.bank.bulk(10_000)
    system.worker()
    system.wait_rest()
    report = system.verify()
    assert report, report
