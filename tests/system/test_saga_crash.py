"""Sagas under kill -9: at failpoints of coordinator and participants, and of all processes again and again while thousands of sagas run.

TXB_CRASH_RUNS says how many times each failpoint; TXB_SAGAS and TXB_SAGA_KILLS how large the campaign is. A kill of the campaign counts that meets work: the
victim is stopped, and killed only if messages wait in its partitions or intents in its sources.
"""

import os
import random

import pytest

from txbtest import process
from txbtest.plugin import build_plugin
from txbtest.travel import WHATS, Travel

pytestmark = pytest.mark.crash

RUNS = int(os.environ.get("TXB_CRASH_RUNS") or 1)
SAGAS = int(os.environ.get("TXB_SAGAS") or 2000)
KILLS = int(os.environ.get("TXB_SAGA_KILLS") or 12)
ACCOUNTS = 400  # which sagas of the campaign lock, so that some wait for each other
GROUP = {"session_timeout_ms": 6000, "retry": {"first_ms": 20, "cap_ms": 200}}
RELAY = {"lease_ms": 3000, "checkpoint_ms": 20}
# Passed by sagas only; test_crash.py has all others.
ONLY_SAGAS = ("coordinator.after_load", "coordinator.after_store", "worker.before_command_answer")
POINTS = [*[("sagas", point) for point in (*ONLY_SAGAS[:2], "worker.before_commit", "worker.in_commit", "worker.after_commit")],
          ("flight", "worker.before_commit"), ("hotel", "worker.in_commit"), ("flight", "worker.after_commit"), ("payment", "worker.before_command_answer")]


def given(n):
    """Of a hundred sagas twenty are refused in one of the steps, and one of these has a compensation that fails three times."""
    if n % 5:
        return {}
    refuse = WHATS[n // 5 % 3]
    return {"refuse": refuse, **({"stick": {"flight": 3}} if n % 100 == 5 and refuse != "flight" else {"stick": {"hotel": 3}} if n % 100 == 10 else {})}


def expected(ids):
    return {saga: "compensated" if "refuse" in given(n) else "completed" for n, saga in enumerate(ids)}


def check(travel, ids):
    """How they ended, what the barriers say, and that nothing is left over."""
    wanted = expected(ids)
    found = dict(travel.query("SELECT saga_id, state FROM txb.saga_end WHERE saga_id = ANY (%s)", ids))
    wrong = {saga: travel.events(saga) for saga in ids if found.get(saga) != wanted[saga]}
    assert not wrong, f"{len(wrong)} of {len(ids)} ended otherwise, the first: {list(wrong.items())[:3]} (TXB_SEED={travel.seed})"
    travel.check()
    assert travel.query("SELECT * FROM txb.scheduled") == []
    assert travel.query("SELECT * FROM txb.saga_lock") == []
    assert travel.query("SELECT saga_id FROM txb.saga_event WHERE event = 'stuck'") == []
    assert travel.query("SELECT saga_id FROM txb.saga_event WHERE event = 'end' GROUP BY 1 HAVING count(*) > 1") == []
    assert travel.query("SELECT reason FROM txb.saga_stray") == []
    for what in WHATS:
        standing = {saga for saga, in travel.postgres.query(travel.databases[what], "SELECT saga_id FROM txb.barrier WHERE state = 'ok' AND saga_id = ANY (%s)", (ids,))}
        assert standing == {saga for saga, state in found.items() if state == "completed"}, f"{what}: its barrier says otherwise (TXB_SEED={travel.seed})"
        assert travel.failed(what, "state, error") == [row for row in travel.failed(what, "state, error") if row[0] == "resolved"]


# -- failpoints ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def staff(postgres, kafka, seed):
    """An installation with one process for each group, the payment's a plugin: (it, {group: its process})."""
    travel = Travel(postgres, kafka, seed, group={**GROUP, "batch_messages": 10}, relay=RELAY)
    try:
        travel.handlers["payment"] = {"kind": "plugin", "path": build_plugin("travel_plugin.c")}
        travel.relay()
        workers = {what: travel.worker(what) for what in ("sagas", *WHATS)}
        travel.deployed("trip")
        yield travel, workers
    finally:
        travel.close()


@pytest.mark.parametrize("what,point", POINTS, ids=[f"{what}-{point}" for what, point in POINTS])
def test_kill_9_at_a_failpoint_leaves_all_bookings_or_none(what, point, request, staff, seed, tally):
    travel, workers = staff
    request.node.systems = [travel]
    chance, fault_log = random.Random(f"{seed} {what} {point}"), os.path.join(travel.directory.path, f"faults-{what}-{point}")
    for number in range(RUNS):
        assert workers[what].stop() == 0, workers[what].text()
        victim = travel.worker(what, env={"TXB_FAILPOINT": f"{point}:{chance.randint(1, 8)}", "TXB_FAULT_LOG": fault_log})
        ids = travel.begin(100, given)
        code = victim.wait_exit(60)
        assert code == -9, f"{victim.name} ended with {code} instead of being killed at {point}:\n{victim.text()}"
        with open(fault_log, encoding="ascii") as log:
            assert log.read().split() == [point] * (number + 1)
        tally["kills"] += 1
        tally["kills at work"] += 1  # a failpoint stands where work is under way
        workers[what] = travel.worker(what)
        travel.wait_ended(ids)
        check(travel, ids)


# -- the campaign ----------------------------------------------------------------------------------------------------------------


class Campaign:
    """Relay, coordinators, participants, and one process that is all of them."""

    ROLES = ("relay", "sagas", "sagas", *WHATS, "run")

    def __init__(self, travel, seed):
        self.travel, self.random = travel, random.Random(f"{seed} sagas")
        self.processes, self.ids, self.kills, self.spared = [], [], 0, 0
        self.killed = []
        for role in self.ROLES:
            self.start(role)

    def start(self, role):
        program = self.travel.start(role) if role == "run" else self.travel.relay() if role == "relay" else self.travel.worker(role)
        program.role = role
        self.processes.append(program)

    def begin(self, count):
        first = len(self.ids)
        self.ids += self.travel.begin(count, lambda n: {**given(first + n), "account": (first + n) % ACCOUNTS})

    def at_work(self, program):
        """Whether messages or intents wait for it, which is stopped."""
        travel = self.travel
        for database in travel.sources:
            if travel.postgres.query(database, "SELECT 1 FROM txb.relay AS r WHERE r.owner = %s AND r.watermark < (SELECT max(seq) FROM txb.outbox)",
                                     (f"{travel.name}.{program.name}",)):
                return True
            rows = travel.postgres.query(database, "SELECT topic, partition, next_offset FROM txb.consumer_offset WHERE owner LIKE %s", (f"%-{program.process.pid}",))
            if any(offset < travel.kafka.ends(topic)[partition][1] for topic, partition, offset in rows):
                return True
        return False

    def strike(self):
        """Kills one of them if it is at work."""
        victim = self.random.choice(self.processes)
        victim.freeze()
        if not self.at_work(victim):
            victim.thaw()
            self.spared += 1
            return False
        victim.kill9()
        self.kills += 1
        self.killed.append(victim.role)
        self.processes.remove(victim)
        self.start(victim.role)
        return True

    def progress(self):
        return self.travel.query("SELECT count(*) FROM txb.saga_event")[0][0]

    def kill(self, portion):
        """A portion of sagas, and a kill somewhere in it."""
        self.begin(portion)
        goal = self.progress() + self.random.randint(1, 4 * portion)
        process.wait_for(lambda: self.progress() >= goal or self.travel.ended_all(), self.travel.logs_text, 120, every_s=0.05, alive=self.travel.alive)
        process.wait_for(lambda: self.strike() or self.travel.ended_all(), self.travel.logs_text, 120, every_s=0.05, alive=self.travel.alive)


def test_thousands_of_sagas_survive_kills_of_everybody(travels, seed, tally):
    travel = travels(partitions=4, group={**GROUP, "batch_messages": 50}, relay=RELAY)
    steps = [travel.step(what, kind, timeout="10s", retry={"attempts": 1000, "first": "50ms", "cap": "1s"}) for what, kind in
             (("flight", "compensatable"), ("hotel", "compensatable"), ("payment", "pivot"))]
    travel.deployed("trip", steps, locks=["account:{input.account}"])
    campaign = Campaign(travel, seed)
    while campaign.kills < KILLS and len(campaign.ids) < 3 * SAGAS:
        campaign.kill(SAGAS // KILLS)
    assert campaign.kills >= KILLS, f"{campaign.kills} kills met work, {campaign.spared} would not have: not enough is shown"
    if len(campaign.ids) < SAGAS:
        campaign.begin(SAGAS - len(campaign.ids))
    travel.wait_ended(deadline_s=120 + SAGAS // 50)
    tally["kills"] += campaign.kills
    tally["kills at work"] += campaign.kills
    waited = travel.query("SELECT count(DISTINCT saga_id) FROM txb.saga_event WHERE event = 'waits'")[0][0]
    assert waited > len(campaign.ids) // 100, f"{waited} sagas waited for a lock: not enough is shown"
    print(f"{len(campaign.ids)} sagas, {waited} of them waited for a lock, {travel.states()}, {campaign.kills} kills at work of {campaign.killed}, {campaign.spared} spared")
    check(travel, campaign.ids)
    tried = [attempts for what in WHATS for kind, attempts in travel.failed(what, "type, attempts") if kind.endswith(".cancel")]
    assert sum(attempts >= 4 for attempts in tried) > len(campaign.ids) // 200, f"compensations that failed three times: {tried}"
