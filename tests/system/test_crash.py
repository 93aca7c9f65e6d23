"""kill -9 at every failpoint, under load; after each the program is started again and the verifier looks at everything.

TXB_CRASH_RUNS says how many times each (make test-crash N=50; once in make test). Campaigns of several failpoints run side by side, each on databases
and topics of its own, because most of their time is waiting: a killed worker's partitions are free only after the group's session time-out.
"""

import concurrent.futures
import json
import os
import random

import pytest
import test_saga_crash

from txbtest import process
from txbtest.bank import QUICK, Writers
from txbtest.plugin import build_plugin
from txbtest.program import System, binary, command, fault_names
from txbtest.verify import read_topic

pytestmark = pytest.mark.crash

RUNS = int(os.environ.get("TXB_CRASH_RUNS") or 1)
SIDE_BY_SIDE = 5
FAILPOINTS = [name for name in fault_names("txb_failpoint_names") if name not in test_saga_crash.ONLY_SAGAS]
# How many passes at most are let go by before the kill, where a program passes more than once while it is loaded.
PASSES = {"relay.after_acquire": 1, "worker.after_assign": 1, "worker.after_take": 3, "worker.on_revoke": 1, "relay.before_record_failed": 1,
          "relay.after_record_failed": 1, "relay.after_decisions": 1, "relay.before_settle": 1, "relay.after_settle": 1,
          "worker.before_stall_record": 3, "worker.after_stall_record": 3, "worker.before_set_aside": 3, "worker.after_set_aside": 3,
          "worker.before_retry_mark": 3, "worker.after_retry_mark": 3, "worker.after_retry_open": 3, "worker.before_retry_settle": 3,
          "worker.after_retry_settle": 3, "worker.before_condemn": 1, "worker.after_condemn": 1}
DECIDED = ("relay.after_decisions", "relay.before_settle", "relay.after_settle")  # passed when somebody has decided about refused intents
FLAKY = ("set_aside", "retry_mark", "retry_open", "retry_settle")
WORKER = {"session_timeout_ms": 6000, "batch_messages": 50, "retry": {"first_ms": 20, "cap_ms": 100}}


class Campaign:
    """All runs of one failpoint on one System."""

    def __init__(self, name, postgres, kafka, seed):
        self.name, self.role, self.random = name, name.split(".")[0], random.Random(f"{seed} {name}")
        self.seed, self.text, self.kills = seed, [], 0
        self.system = System(postgres, kafka, "crash_" + name.replace(".", "_"), seed, accounts=40, relay={"lease_ms": 3000, "checkpoint_ms": 20},
                             worker=WORKER, per=self.random.choice(["message", "batch"]))
        self.fault_log = os.path.join(self.system.directory.path, "faults")

    def run(self):
        try:
            self.prepare()
            for number in range(RUNS):
                {"publish": self.publish_once, "lane": self.kill_in_lane}.get(self.role, self.kill_once)(number)
            return self
        except Exception as error:
            raise AssertionError(f"{self.name} (seed {self.seed}): {error}\n{self.system.lag()}") from error
        finally:
            self.system.close()

    def prepare(self):
        """What this failpoint needs to be passed at all."""
        self.handler, self.mix = {}, QUICK
        if self.name in ("worker.after_open", "worker.after_apply"):  # passed with a plugin only
            self.handler = {"handler": {"kind": "plugin", "path": build_plugin("bank_plugin.c")}}
        if self.name.endswith("_stall_record"):
            self.handler = {"handler": {"kind": "sql", "function": "bank.apply_scarce"}}
        if self.name.endswith(FLAKY):
            self.handler = {"handler": {"kind": "sql", "function": "bank.apply_flaky"}}
        if self.name.endswith("_condemn"):
            self.handler = {"handler": {"kind": "sql", "function": "bank.apply_killing"}}
        if self.name.endswith("_schedule_move"):
            self.mix = {"later": 1, "plain": 1}
        if self.name.endswith("_record_failed"):
            self.system.kafka.configure_topic(self.system.bank.topics[0], max_message_bytes=200_000)
        self.refusing = self.system.name + ".refusing"
        if self.name in DECIDED:
            self.system.kafka.create_topic(self.refusing, 2)
            self.system.kafka.configure_topic(self.refusing, max_message_bytes=200_000)

    def start(self, role, env=None):
        return self.system.start(role, env=env, worker=self.handler) if role == "worker" else self.system.start(role, env=env)

    def kill_once(self, number):
        """One kill under load, the verifier after it."""
        passes = self.random.randint(1, PASSES.get(self.name, 8))
        armed = {"TXB_FAILPOINT": f"{self.name}:{passes}", "TXB_FAULT_LOG": self.fault_log}
        others = [self.start("worker" if self.role == "relay" else "relay")]
        crew = Writers(self.system.bank, 4, self.seed + number, self.mix, pause_s=0.05, held_s=0.05, user="txbtest_app").start()
        victim = self.start(self.role, armed)
        self.provoke(number, victim, others)
        code = victim.wait_exit(60)
        assert code == -9, f"{victim.name} ended with {code} instead of being killed at {self.name}:\n{victim.text()}"
        self.count()
        if self.role == "relay" or self.name == "worker.on_revoke":
            crew.stop()
        survivors = others if self.name == "worker.on_revoke" else others + [self.start(self.role)]
        crew.stop()
        self.system.wait_rest(90)
        self.cure()
        self.check(number)
        for program in survivors:
            assert program.stop() == 0, program.text()

    def kill_in_lane(self, number):
        """A projection is rebuilt and goes live while writers go on: its job passes all failpoints of the lanes. Each run has a group of its own."""
        self.system.group = f"{self.system.name}.ledger{number}"
        target, postgres = self.system.bank.target, self.system.target_postgres
        postgres.query(target, "TRUNCATE bank.applied; UPDATE bank.credit SET balance = 0")
        relay = self.start("relay")
        crew = Writers(self.system.bank, 4, self.seed + number, self.mix, pause_s=0.05, held_s=0.05, user="txbtest_app").start()
        job = postgres.value(target, "SELECT number FROM txb.job_start(NULL, %s, %s, %s, NULL, NULL, NULL, NULL, 1, NULL, false, true, NULL, NULL, 'test')",
                             (self.system.group, self.system.name, self.system.bank.topics))
        victim = self.start("worker", {"TXB_FAILPOINT": f"{self.name}:{self.random.randint(1, PASSES.get(self.name, 1))}", "TXB_FAULT_LOG": self.fault_log})
        code = victim.wait_exit(60)
        assert code == -9, f"{victim.name} ended with {code} instead of being killed at {self.name}:\n{victim.text()}"
        self.count()
        worker = self.start("worker")
        process.wait_for(lambda: postgres.value(target, "SELECT state FROM txb.job WHERE number = %s", (job,)) == "done", self.system.lag, 90, alive=worker.alive)
        crew.stop()
        self.system.wait_rest(90)
        report = self.system.verify(latest=True)
        self.text.append(str(report))
        assert report, report
        for program in (relay, worker):
            assert program.stop() == 0, program.text()

    def cure(self):
        """What was set aside is applied in the end; what was condemned, when a person says so and the handler is cured. The next run has its illness back."""
        target, postgres = self.system.bank.target, self.system.target_postgres
        open_ones = "SELECT count(*) FROM txb.failed WHERE state NOT IN ('resolved', 'discarded')"
        if self.name.endswith("_condemn"):
            process.wait_for(lambda: postgres.value(target, "SELECT count(*) FROM txb.failed WHERE state = 'dead' AND error_class = 'crash'") > 0,
                             self.system.lag, 90)
            illness = postgres.value(target, "SELECT pg_get_functiondef('bank.apply_killing'::regproc)")
            postgres.query(target, "CREATE OR REPLACE FUNCTION bank.apply_killing(m txb.message) RETURNS txb.outcome LANGUAGE sql SECURITY DEFINER AS"
                           " 'SELECT bank.apply(m)'; UPDATE txb.failed SET state = 'retrying', attempts = 0, next_attempt_at = now() WHERE state = 'dead';"
                           " UPDATE txb.consumer_offset SET keys_version = keys_version + 1")
        process.wait_for(lambda: postgres.value(target, open_ones) == 0, self.system.lag, 90)
        if self.name.endswith("_condemn"):
            postgres.query(target, illness)

    def provoke(self, number, victim, others):
        if self.name.endswith("_condemn"):
            self.system.bank.transfer(7)
        if self.name == "worker.on_revoke":  # a second member makes the first give partitions back
            victim.wait_line("partition taken")
            others.append(self.start("worker"))
        if self.name.endswith("_record_failed"):
            with self.system.postgres.session(self.system.bank.source, user="txbtest_app") as connection, connection.cursor() as cursor:
                cursor.execute("SELECT txb.publish(%s, %s, 'note.made', convert_to(repeat('x', 300000), 'UTF8'), content_type => 'text/plain')",
                               (self.system.bank.topics[0], f"big{number}"))

        if self.name in DECIDED:
            self.decide(number)

    def failed(self, state):
        return [row[0] for row in self.system.postgres.query(self.system.bank.source, "SELECT number FROM txb.failed WHERE state = %s ORDER BY seq", (state,))]

    def decide(self, number):
        """A refused intent with others of its key behind it, and one without a key: both are edited."""
        with self.system.postgres.session(self.system.bank.source, user="txbtest_app") as connection, connection.cursor() as cursor:
            for key, text in (("big", "before"), ("big", "x" * 300_000), ("big", "after"), (None, "x" * 300_000)):
                cursor.execute("SELECT txb.publish(%s, %s, 'note.made', convert_to(%s, 'UTF8'), content_type => 'text/plain')",
                               (self.refusing, key and f"{key}{number}", text))
        process.wait_for(lambda: len(self.failed("dead")) == 2, self.system.lag, 60)
        for each, text in zip(self.failed("dead"), ("edited", f"loose{number}")):
            assert self.system.postgres.query(self.system.bank.source, "SELECT txb.outbox_decide(%s, 'edit', convert_to(%s, 'UTF8'), 'text/plain', NULL, 't', 't')",
                                              (each, text)) == [(None,)]

    def check_decided(self, number):
        process.wait_for(lambda: not self.failed("retrying"), self.system.lag, 60)
        process.wait_for(lambda: not self.system.postgres.query(self.system.bank.source, "SELECT 1 FROM txb.relay_hold"), self.system.lag, 60)
        assert self.failed("dead") == []
        there = [(r.key, r.value.decode()) for r in read_topic(self.system.kafka.brokers, self.refusing)]
        key = f"big{number}".encode()
        assert list(dict.fromkeys(text for k, text in there if k == key)) == ["before", "edited", "after"]
        assert (None, f"loose{number}") in there

    def check(self, number):
        if self.name in DECIDED:
            self.check_decided(number)
        report = self.system.verify()
        self.text.append(str(report))
        assert report, report
        if self.name.endswith("_record_failed"):
            failed = self.system.postgres.query(self.system.bank.source, "SELECT convert_from(key, 'UTF8') FROM txb.failed ORDER BY 1")
            assert failed == sorted((f"big{i}",) for i in range(number + 1))

    def count(self):
        with open(self.fault_log, encoding="ascii") as log:
            lines = log.read().split()
        self.kills += 1
        assert lines == [self.name] * self.kills, lines

    def publish_once(self, number):
        """The command publishes all of its lines or none, whichever the moment says."""
        topic = self.system.bank.topics[0]
        lines = "".join(json.dumps({"topic": topic, "key": str(i), "type": "note.made", "payload": {"run": number, "i": i}}) + "\n" for i in range(5))
        code, out, err = command("--database", self.system.postgres.uri(self.system.bank.source, "txbtest_app"), "publish", "--jsonl", stdin=lines.encode(),
                                 env={"TXB_FAILPOINT": self.name, "TXB_FAULT_LOG": self.fault_log})
        assert code == -9, f"exit {code}: {out}{err}"
        self.count()
        relay = self.start("relay")
        # A message behind them says that the relay has come by.
        self.system.bank.transfer()
        self.system.wait_published()
        there = [r for r in read_topic(self.system.kafka.brokers, topic) if r.headers.get("ce_type") == b"note.made" and json.loads(r.value)["run"] == number]
        expected = 5 if self.name == "publish.after_commit" else 0
        assert sorted(json.loads(r.value)["i"] for r in there) == list(range(expected))
        assert self.system.postgres.value(self.system.bank.source, "SELECT count(*) FROM txb.outbox WHERE type = 'note.made' AND payload LIKE %s",
                                          (f'%"run": {number},%'.encode(),)) == expected
        assert relay.stop() == 0, relay.text()
        self.text.append(f"{expected} of 5 intents")


@pytest.fixture(scope="module")
def campaigns(request, postgres, kafka, seed):
    """name -> future of its Campaign."""
    binary()
    wanted = [item.callspec.params["name"] for item in request.session.items if item.module is request.module and "name" in getattr(
        getattr(item, "callspec", None), "params", {})]
    with concurrent.futures.ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        # The slow ones first: workers.
        order = sorted(wanted, key=lambda name: name.startswith(("relay", "publish")))
        yield {name: pool.submit(lambda name=name: Campaign(name, postgres, kafka, seed).run()) for name in order}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", FAILPOINTS)
def test_kill_9_at_a_failpoint_breaks_no_invariant(name, campaigns, tally):
    campaign = campaigns[name].result()
    print("\n".join(campaign.text))
    tally["kills"] += campaign.kills
    tally["kills at work"] += campaign.kills  # a failpoint stands where work is under way
    assert campaign.kills == RUNS
