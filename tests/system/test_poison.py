"""kill -9 of workers at random moments, under load of which two messages in a hundred are poison, while a person decides about dead ones: in the end all
is applied once and in order, but for what was discarded.

TXB_POISON_KILLS says how many kills (make test-poison N=50; a few in make test). Half of the workers die at a failpoint of their own, the others whenever
the group has come so far; two at once now and then. A kill counts that leaves work behind: messages that are there and not consumed, or a marker.
"""

import os
import random

import pytest

from txbtest import poison, process
from txbtest.bank import QUICK, Writers

pytestmark = pytest.mark.poison

KILLS = int(os.environ.get("TXB_POISON_KILLS") or 3)
WORKERS, LOOK_S = 2, 0.1  # seconds between looks, each of which is a connection
SETTINGS = {"session_timeout_ms": 6000, "batch_messages": 20, "retry": {"first_ms": 20, "cap_ms": 200, "attempts_max": 4}}
FAILPOINTS = ["worker.after_take", "worker.before_commit", "worker.in_commit", "worker.after_commit", "worker.after_kafka_commit", "worker.before_set_aside",
              "worker.after_set_aside", "worker.before_retry_mark", "worker.after_retry_mark", "worker.after_retry_open", "worker.before_retry_settle",
              "worker.after_retry_settle"]


class Campaign:
    def __init__(self, system, seed):
        self.system, self.random, self.person = system, random.Random(f"{seed} poison"), poison.Person(system)
        self.per = self.random.choice(["message", "batch"])
        self.workers, self.armed, self.points = [], set(), []
        self.kills = self.idle = 0
        poison.prepare(system)

    def query(self, sql, *args):
        return self.system.target_postgres.query(self.system.bank.target, sql, args or None)

    # -- workers ---------------------------------------------------------------------------------------------------------------

    def fill(self, armed=True):
        """As many workers as there should be; one in two has a failpoint."""
        while len(self.workers) < WORKERS:
            point = self.random.choice(FAILPOINTS) if armed and self.random.random() < 0.5 else None
            env = {"TXB_FAILPOINT": f"{point}:{self.random.randint(1, 8)}"} if point else None
            function = "bank.apply_poisoned" if self.per == "message" else "bank.apply_poisoned_batch"
            worker = self.system.worker(env=env, worker={**SETTINGS, "handler": {"kind": "sql", "function": function, "per": self.per}})
            worker.point, worker.expected = point, point is None
            self.workers.append(worker)

    def bury(self):
        """Takes those that died at their failpoint away; returns how many."""
        dead = [worker for worker in self.workers if not worker.running()]
        for worker in dead:
            assert worker.point and worker.process.returncode == -9, f"{worker.name} ended with {worker.process.returncode}:\n{worker.text()}"
            self.points.append(worker.point)
            self.workers.remove(worker)
        return len(dead)

    def left_behind(self, worker):
        """Whether it died at work."""
        ends = {partition: end for partition, (_, end) in self.system.kafka.ends(self.system.bank.topics[0]).items()}
        rows = self.query("SELECT partition, next_offset, suspect_marked FROM txb.consumer_offset WHERE owner LIKE %s", f"%-{worker.process.pid}")
        return any(marked or offset < ends[partition] for partition, offset, marked in rows)

    # -- a kill, or two ------------------------------------------------------------------------------------------------------

    def progress(self):
        return self.query("SELECT (SELECT coalesce(sum(consumed), 0) FROM txb.consumer_offset) + (SELECT count(*) FROM txb.failed_history)")[0][0]

    def kill(self):
        self.fill()
        self.person.decide(lambda: self.random.random() < 0.7)
        self.system.bank.bulk(400, 10)
        goal = self.progress() + self.random.randint(1, 200)
        process.wait_for(lambda: not all(worker.running() for worker in self.workers) or self.progress() >= goal, self.lag, 60, LOOK_S)
        self.kills += self.bury()
        owners = [worker for worker in self.workers if self.query("SELECT 1 FROM txb.consumer_offset WHERE owner LIKE %s LIMIT 1", f"%-{worker.process.pid}")]
        for victim in self.random.sample(owners, self.random.randint(min(1, len(owners)), len(owners))):
            victim.kill9()
            self.workers.remove(victim)
            if self.left_behind(victim):
                self.kills += 1
            else:
                self.idle += 1

    def complete(self):
        """Until every kind of poison has been published at least once."""
        def kinds():
            return {poison.kind_of(row[0]) for row in self.system.postgres.query(self.system.bank.source, "SELECT id FROM bank.journal")}

        while not kinds() >= set(poison.KINDS):
            self.system.bank.bulk(100, 10)

    # -- the end ---------------------------------------------------------------------------------------------------------------

    def settle(self):
        """Until nothing is set aside. An idle worker looks for decisions now and then only; a few messages make it look."""
        self.fill(armed=False)

        def settled():
            if self.person.decide():
                self.system.bank.bulk(12, 1)
            states = self.person.states()
            self.system.alive()
            return not any(states[state] for state in poison.OPEN)

        process.wait_for(settled, self.lag, 120, 2 * LOOK_S)

    def lag(self):
        return f"{self.person.states()} {self.query('SELECT state, error_class, error, count(*) FROM txb.failed GROUP BY 1, 2, 3')}\n{self.system.lag()}"


def test_workers_killed_at_random_moments_lose_double_and_swap_nothing_of_a_poisoned_load(systems, postgres, kafka, seed, tally):
    system = systems(postgres, kafka, accounts=100, partitions=4, relay={"checkpoint_ms": 20})
    campaign = Campaign(system, seed)
    system.relay()
    crew = Writers(system.bank, 2, seed, QUICK, pause_s=0.05, user="txbtest_app").start()
    for _ in range(3 * KILLS + 10):
        if campaign.kills < KILLS:
            campaign.kill()
    assert campaign.kills >= KILLS, f"{campaign.kills} kills met work, {campaign.idle} did not: not enough is shown"
    crew.stop()
    campaign.complete()
    for worker in [worker for worker in campaign.workers if worker.point]:  # it might die while all comes to rest
        worker.kill9()
        campaign.workers.remove(worker)
    campaign.settle()
    system.wait_rest(120)
    campaign.settle()
    report = system.verify(discarded=campaign.person.discarded)
    campaign.person.check(report)
    print(f"{campaign.kills} kills at work, of which at failpoints {sorted(campaign.points)}, {campaign.idle} without work\n{report}")
    tally["kills"] += campaign.kills + campaign.idle
    tally["kills at work"] += campaign.kills
    assert report, report
    assert report.counts["poison"] and report.counts["held"] and all(campaign.person.decided[verb] for verb in ("edit", "retry", "discard"))
