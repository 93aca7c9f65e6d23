"""The suite proves itself: rules broken on purpose (TXB_BUG, test builds only) are caught. Each scenario runs once as the program is, when the verifier
must find nothing, and once for each bug that it is there for, when the verifier must find something.

The bugs that only a directed interleaving shows (relay_last_look_limited) are the simulation's: tests/sim.
"""

import os

import pytest

from txbtest import hazard, process
from txbtest.bank import QUICK, Writers
from txbtest.program import fault_names
from txbtest.verify import read_topic


def rest(system, deadline_s=30):
    """The verifier's report once the system is at rest; one that does not come to rest has left something behind (H)."""
    trouble = None
    try:
        system.wait_rest(deadline_s)
    except (process.Timeout, AssertionError) as error:
        trouble = str(error)[:1500]
    report = system.verify()
    if trouble:
        report.add("H", f"not at rest: {trouble}")
    return report


def hazards(system, seed, env):
    return hazard.run(system, seed, env=env, deadline_s=30)


def prepared(system, seed, env):
    """Most transactions are prepared, and settled by and by while their sessions go on."""
    return hazard.run(system, seed, env=env, deadline_s=30, mix={"prepared": 10, "plain": 5, "held": 2}, writers=24)


def late_rows(system, seed, env):
    """Few accounts, many of whose transactions commit late: a row out of a hole and one that follows it meet in one poll again and again."""
    return hazard.run(system, seed, env=env, deadline_s=30, mix={"plain": 20, "insert": 10, "held": 1}, writers=32, operations=60)


def frozen_kafka(system, seed, env):
    """The relay dies while Kafka answers nothing: what it has read was never acknowledged."""
    system.worker()
    first = system.relay(env=env)
    system.bank.transfer()
    system.wait_rest()
    system.kafka.freeze()
    try:
        system.bank.bulk(200, 10)
        # A relay with the bug moves its position over them; a right one has read them by the time it notices that nothing is acknowledged.
        first.wait_line(r"kafka|broker|timed out|transport", 60) if not env else process.wait_for(
            lambda: system.relay_row()["watermark"] >= 201, system.lag, 60)
        first.kill9()
    finally:
        system.kafka.thaw()
    system.relay()
    return rest(system)


def refused(system, seed, env):
    """One intent that Kafka refuses: it must be recorded, and hold what follows of its key."""
    topic = system.bank.topics[0]
    system.kafka.configure_topic(topic, max_message_bytes=50_000)
    system.relay(env=env)
    ids = []
    for text in ("before", "x" * 100_000, "after"):
        ids += system.postgres.query(system.bank.source, "SELECT txb.publish(%s, 'big', 'note.made', convert_to(%s, 'UTF8'), content_type => 'text/plain')::text",
                                     (topic, text))[0]
    Writers(system.bank, 2, seed, QUICK, operations=20).start().join()
    try:
        system.wait_published(30)
    except process.Timeout:
        pass
    there = {record.id for record in read_topic(system.kafka.brokers, topic)}
    failed = {row[0] for row in system.postgres.query(system.bank.source, "SELECT id::text FROM txb.failed")}
    report = system.verify(foreign_ok=True, effects=False, counters=False)
    if failed != {ids[1]}:
        report.add("L", f"the refused intent {ids[1]} is not recorded: {failed}")
    if ids[2] in there or ids[0] not in there:
        report.add("O", "the key's order: what follows a refused intent must wait, what precedes it must be there")
    return report


def worker_killed_before_commit(system, seed, env):
    system.relay()
    Writers(system.bank, 2, seed, QUICK, operations=40).start().join()
    system.wait_published()
    dying = system.worker(env={**env, "TXB_FAILPOINT": "worker.before_commit:2"})
    assert dying.wait_exit(60) == -9, dying.text()
    system.worker(env=env)
    return rest(system)


def relay_repeats(system, seed, env):
    """The relay dies between Kafka's acknowledgement and its checkpoint, twice; then everything is consumed at once, repetitions in one batch."""
    for _ in range(2):
        Writers(system.bank, 2, seed, QUICK, operations=20).start().join()
        dying = system.relay(env={"TXB_FAILPOINT": "relay.before_checkpoint"})
        assert dying.wait_exit(60) == -9, dying.text()
    system.relay()
    system.wait_published()
    system.worker(env=env)
    report = rest(system)
    assert report.counts["repeated"] > 0, "nothing was repeated: the scenario shows nothing"
    return report


def flaky_handler(system, seed, env):
    system.relay()
    system.worker(env=env, worker={"handler": {"kind": "sql", "function": "bank.apply_flaky"}, "retry": {"first_ms": 10, "cap_ms": 50}})
    Writers(system.bank, 2, seed, QUICK, operations=30).start().join()
    return rest(system)


def zombie_worker(system, seed, env):
    """A worker is stopped, replaced, and wakes with a batch in its hands."""
    system.relay()
    first = system.worker("first", env=env)
    process.wait_for(lambda: system.target_postgres.value(system.bank.target, "SELECT count(*) FROM txb.consumer_offset") == system.partitions,
                     system.lag, 60, alive=first.alive)
    with Writers(system.bank, 4, seed, QUICK, pause_s=0.002):
        process.wait_for(lambda: system.bank.applied() > 100, system.lag, 60, alive=first.alive)
        first.freeze()
        second = system.worker("second", env=env)
        stood = system.bank.applied()
        process.wait_for(lambda: system.bank.applied() > stood + 300, system.lag, 60, alive=second.alive)
        first.thaw()
        stood = system.bank.applied()
        process.wait_for(lambda: system.bank.applied() > stood + 300, system.lag, 60, alive=second.alive)
    return rest(system)


def zombie_relay(system, seed, env):
    """A relay is stopped, replaced, and wakes with a position in its hands: it must not write it."""
    first = system.relay("first", env=env)
    system.worker()
    with Writers(system.bank, 4, seed, QUICK, pause_s=0.002):
        process.wait_for(lambda: system.bank.applied() > 100, system.lag, 60, alive=first.alive)
        first.freeze()
        second = system.relay("second", env=env)
        process.wait_for(lambda: str(system.relay_row()["owner"]).endswith("second"), system.lag, 60, alive=second.alive)
        first.thaw()
        row = system.relay_row()
        stood, low, regressed = system.bank.applied(), row["watermark"], []

        def went_on():
            nonlocal low
            now = system.relay_row()
            if now["watermark"] < low or now["owner"] != row["owner"] or now["epoch"] != row["epoch"]:
                regressed.append((low, now["watermark"], now["owner"], now["epoch"]))
            low = now["watermark"]
            return system.bank.applied() > stood + 500 or not second.running()

        process.wait_for(went_on, system.lag, 60)
    report = rest(system)
    if regressed:
        report.add("H", f"the position was moved by a relay that had lost its lease: {regressed[:5]}")
    return report


SCENARIOS = {
    hazards: ["relay_id_gt_last", "relay_no_lock_rule"],
    prepared: ["relay_holder_by_pid"],
    late_rows: ["relay_holes_sometimes"],
    frozen_kafka: ["relay_position_before_ack"],
    refused: ["relay_flush_is_success", "relay_refused_skipped"],
    zombie_relay: ["relay_no_epoch_check"],
    worker_killed_before_commit: ["worker_offset_before_commit", "worker_inbox_outside"],
    relay_repeats: ["worker_no_inbox", "worker_batch_duplicate_ids"],
    flaky_handler: ["worker_commit_tag_ignored", "worker_error_skips"],
    zombie_worker: ["worker_no_epoch_check"],
}
ELSEWHERE = {"relay_last_look_limited": "tests/sim"}
CASES = [(scenario, bug) for scenario, bugs in SCENARIOS.items() for bug in [None] + bugs]


@pytest.mark.parametrize("scenario,bug", CASES, ids=[f"{scenario.__name__}-{bug}" for scenario, bug in CASES])
def test_a_planted_bug_is_caught_and_nothing_is_found_without_it(scenario, bug, systems, postgres, kafka, seed):
    system = systems(postgres, kafka, accounts=60, relay={"lease_ms": 1500, "checkpoint_ms": 20},
                     worker={"session_timeout_ms": 6000, "batch_messages": 100, "retry": {"first_ms": 20, "cap_ms": 100}})
    report = scenario(system, seed, {"TXB_BUG": bug} if bug else {})
    print(report)
    if bug is None:
        assert report, report
    else:
        assert not report, f"{bug} was not caught by {scenario.__name__} (seed {seed})"


def test_every_planted_bug_has_a_test_that_is_there_to_catch_it():
    planted = fault_names("txb_bug_names")
    covered = [bug for bugs in SCENARIOS.values() for bug in bugs]
    assert sorted(planted) == sorted(covered + list(ELSEWHERE))
    assert len(covered) >= 12
    sources = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "sim")
    text = "".join(open(os.path.join(sources, name), encoding="utf-8").read() for name in sorted(os.listdir(sources)) if name.endswith(".c"))
    assert all(bug in text for bug in ELSEWHERE)
