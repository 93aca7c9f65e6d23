"""Two relays and two workers: one of each is stopped for longer than its lease and woken again, one is killed, one joins. Nothing is lost or doubled."""

import pytest

from txbtest import process
from txbtest.bank import QUICK, Writers

RELAY = {"lease_ms": 1500, "checkpoint_ms": 20}
WORKER = {"session_timeout_ms": 6000, "batch_messages": 100}


@pytest.fixture
def system(systems, postgres, kafka):
    return systems(postgres, kafka, relay=RELAY, worker=WORKER, partitions=4)


def holder(system):
    return system.relay_row().get("owner")


def owners(system):
    """The names of the workers that own partitions, by the database's word."""
    return {row[0] for row in system.target_postgres.query(
        system.bank.target, "SELECT DISTINCT owner FROM txb.consumer_offset WHERE group_name = %s AND owner IS NOT NULL", (system.group,))}


def epochs(system):
    return system.target_postgres.query(system.bank.target, "SELECT topic, partition, epoch FROM txb.consumer_offset WHERE group_name = %s"
                                        " ORDER BY 1, 2", (system.group,))


def applied_more(system, number):
    before = system.bank.applied()
    process.wait_for(lambda: system.bank.applied() >= before + number, system.lag, 60)


def test_a_stopped_relay_is_replaced_and_moves_nothing_when_it_wakes(system, seed):
    first = system.relay("first")
    first_owner = process.wait_for(lambda: holder(system), "a holder", 60, alive=first.alive)
    second = system.relay("second", relay={"lease_ms": 12_000})  # which the first, awake again, finds held even if the machine stands still for seconds
    system.worker()
    with Writers(system.bank, 6, seed, QUICK, pause_s=0.01, held_s=0.1, user="txbtest_app"):
        applied_more(system, 100)
        first.freeze()
        process.wait_for(lambda: holder(system) not in (None, first_owner), system.lag, 60, alive=second.alive)
        applied_more(system, 100)
        row = system.relay_row()
        first.thaw()
        first.wait_line("standing by")
        applied_more(system, 100)
        after = system.relay_row()
        assert (after["epoch"], after["owner"], after["instance"]) == (row["epoch"], row["owner"], row["instance"])
        # The woken one stands by: it takes over when the other is killed.
        second.kill9()
        process.wait_for(lambda: system.relay_row()["epoch"] > row["epoch"], system.lag, 60, alive=first.alive)
        applied_more(system, 100)
    system.wait_rest()
    report = system.verify()
    assert report, report


def test_a_killed_relay_s_successor_does_not_wait_for_the_lease(systems, postgres, kafka, seed):
    system = systems(postgres, kafka, relay={"lease_ms": 600_000})
    first = system.relay("first")
    process.wait_for(lambda: holder(system), "a holder", 60, alive=first.alive)
    second = system.relay("second", relay={"lease_ms": 1500})  # how often it looks is a part of its own lease
    Writers(system.bank, 4, seed, QUICK, operations=20, held_s=0.1).start().join()
    before = system.relay_row()
    first.kill9()
    system.bank.transfer()
    after = process.wait_for(lambda: (row := system.relay_row())["epoch"] > before["epoch"] and row, system.lag, 60, alive=second.alive)
    assert after["acquired_at"] < before["lease_until"]
    system.worker()
    system.wait_rest()
    report = system.verify()
    assert report, report


def test_a_stopped_worker_is_replaced_and_applies_nothing_twice_when_it_wakes(system, seed):
    system.relay()
    first, second = system.worker("first"), system.worker("second")
    with Writers(system.bank, 6, seed, QUICK, pause_s=0.01, held_s=0.1, user="txbtest_app"):
        process.wait_for(lambda: len(owners(system)) == 2, lambda: f"both workers to own partitions: {owners(system)}", 60, alive=system.alive)
        applied_more(system, 100)
        before = epochs(system)
        first.freeze()
        process.wait_for(lambda: len(owners(system)) == 1, lambda: f"the other worker to own all partitions: {owners(system)}", 60, alive=second.alive)
        applied_more(system, 200)
        first.thaw()
        process.wait_for(lambda: len(owners(system)) == 2, lambda: f"the woken worker to own partitions again: {owners(system)}", 60, alive=system.alive)
        applied_more(system, 200)
        assert any(new[2] > old[2] for new, old in zip(epochs(system), before))
    system.wait_rest()
    report = system.verify()
    assert report, report


def test_everything_at_once_two_relays_and_two_workers_stopped_killed_joined(system, seed):
    relays = [system.relay("relay-a"), system.relay("relay-b")]
    workers = [system.worker("worker-a"), system.worker("worker-b")]
    with Writers(system.bank, 8, seed, QUICK, pause_s=0.01, held_s=0.2, user="txbtest_app"):
        process.wait_for(lambda: len(owners(system)) == 2, lambda: f"both workers to own partitions: {owners(system)}", 60, alive=system.alive)
        applied_more(system, 100)
        mine = next(relay for relay in relays if holder(system).endswith(relay.name))
        other = next(relay for relay in relays if relay is not mine)
        mine.freeze()
        workers[0].freeze()
        process.wait_for(lambda: holder(system).endswith(other.name), system.lag, 60, alive=other.alive)
        process.wait_for(lambda: len(owners(system)) == 1, lambda: f"one worker to own all partitions: {owners(system)}", 60, alive=workers[1].alive)
        applied_more(system, 100)
        mine.thaw()
        workers[0].thaw()
        applied_more(system, 100)
        other.kill9()
        workers[1].kill9()
        system.relay("relay-c")
        system.worker("worker-c")
        applied_more(system, 300)
    system.wait_rest()
    report = system.verify()
    assert report, report
