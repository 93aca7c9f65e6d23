"""The hazard workload, used with the program as it is and with each planted bug, so that the same code says that all is well and that it isn't."""

from txbtest import process
from txbtest.bank import Writers

# Much of what a poll can get wrong: many writers on few accounts, commits that come late, prepared transactions, rollbacks.
MIX = {"plain": 30, "insert": 8, "strict": 6, "unkeyed": 4, "several": 12, "savepoint": 12, "rollback": 14, "failing": 2, "held": 10, "prepared": 4,
       "idle": 1, "bulk": 1, "later": 1, "long": 0.2}


def run(system, seed, writers=64, operations=25, env=None, deadline_s=60, mix=None):
    """Relay and worker under `writers` writers; at rest the verifier's report. A system that never comes to rest counts as a hole left (H)."""
    system.relay(env=env)
    system.worker(env=env)
    crew = Writers(system.bank, writers, seed, mix or MIX, operations=operations, held_s=0.5, user="txbtest_app").start().join()
    print(f"seed {seed}: {dict(crew.totals)}")
    try:
        system.wait_rest(deadline_s)
    except (process.Timeout, AssertionError) as error:
        report = system.verify()
        report.add("H", f"not at rest: {str(error)[:2000]}")
        return report
    return system.verify()
