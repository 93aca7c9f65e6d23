"""64 writers with random commit delays, long and prepared transactions, savepoints and rollbacks: nothing lost, nothing out of order, no hole left.

The two bugs that most outboxes have are planted, and the same code must find them.
"""

import pytest

from txbtest import hazard

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
