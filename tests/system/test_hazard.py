"""64 writers with random commit delays, long and prepared transactions, savepoints and rollbacks: nothing lost, nothing out of order, no hole left.

The two bugs that most outboxes have are planted, and the same code must find them.
"""

import pytest

from txbtest import hazard, process
from txbtest.bank import Writers
from txbtest.verify import read_topic

BUGS = ["relay_id_gt_last", "relay_no_lock_rule"]


@pytest.mark.parametrize("round_", range(2))
def test_64_writers_lose_nothing_and_swap_nothing_and_leave_no_hole(round_, systems, postgres, kafka, seed):
    system = systems(postgres, kafka, per="batch", accounts=120, partitions=3)
    report = hazard.run(system, seed + round_)
    assert report, report
    assert report.counts["intents"] > 1000


@pytest.mark.parametrize("bug", BUGS)
def test_a_relay_without_holes_or_without_the_lock_rule_is_caught_by_the_same_test(bug, systems, postgres, kafka, seed):
    system = systems(postgres, kafka, per="batch", accounts=120, partitions=3)
    report = hazard.run(system, seed, env={"TXB_BUG": bug})
    assert "L" in report.letters(), report


def test_a_zombie_relay_a_refused_intent_and_bulk_transactions_at_once(systems, postgres, kafka, seed):
    """Random schedules without these passed while rules were missing."""
    system = systems(postgres, kafka, per="batch", accounts=120, partitions=4, relay={"lease_ms": 1500, "checkpoint_ms": 20})
    topic = system.bank.topics[0]
    kafka.configure_topic(topic, max_message_bytes=200_000)
    zombie, successor = system.relay("zombie"), None
    system.worker()
    crew = Writers(system.bank, 32, seed, {**hazard.MIX, "bulk": 3}, held_s=0.3, user="txbtest_app").start()
    refused = []
    for number in range(3):
        enough = system.bank.applied() + 300
        process.wait_for(lambda: system.bank.applied() > enough, system.lag, 60, alive=system.alive)
        refused += postgres.query(system.bank.source, "SELECT txb.publish(%s, %s, 'note.made', convert_to(repeat('x', 300000), 'UTF8'),"
                                  " content_type => 'text/plain')::text", (topic, f"big{number}"), user="txbtest_app")[0]
        if number == 0:
            zombie.freeze()
            successor = system.relay("successor")
            process.wait_for(lambda: system.relay_row()["owner"].endswith("successor"), system.lag, 60, alive=successor.alive)
        if number == 1:
            zombie.thaw()
    crew.stop()
    system.wait_rest()
    assert sorted(row[0] for row in postgres.query(system.bank.source, "SELECT id::text FROM txb.failed")) == sorted(refused)
    assert not {record.id for record in read_topic(kafka.brokers, topic)} & set(refused)
    report = system.verify()
    assert report, report
