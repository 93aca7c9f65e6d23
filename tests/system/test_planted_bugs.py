"""The suite proves itself: rules broken on purpose (TXB_BUG, test builds only) are caught. Each scenario runs once as the program is, when the verifier
must find nothing, and once for each bug that it is there for, when the verifier must find something."""

import pytest

import test_hazard
import test_saga_bugs
from txbtest import hazard, moments, process
from txbtest.bank import QUICK, Writers
from txbtest.program import fault_names
from txbtest.proxy import Proxy
from txbtest.replay import FLAKY, Group, prepare
from txbtest.verify import read_topic


def rest(system, deadline_s=60):
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


def prepared(system, seed, env):
    """Most transactions are prepared, and settled by and by while their sessions go on."""
    return hazard.run(system, seed, env=env, mix={"prepared": 10, "plain": 5, "held": 2}, writers=24)


def late_rows(system, seed, env):
    """Few accounts, many of whose transactions commit late: a row out of a hole and one that follows it meet in one poll again and again."""
    return hazard.run(system, seed, env=env, mix={"plain": 20, "insert": 10, "held": 1}, writers=32, operations=60)


def frozen_kafka(system, seed, env):
    """The relay dies while Kafka answers nothing, and Kafka with it: what the relay has sent and was not told of is in the network's buffers at best."""
    system.worker()
    first = system.relay(env=env)
    system.bank.transfer()
    system.wait_rest()
    system.kafka.freeze()
    try:
        # It goes on, lease and all; a relay with the bug moves its position over them meanwhile. Only what it reads makes it write its position now (once
        # more for what it knew before), and it reads only while it may send, which it does first: what made the first two is sent before the third.
        for publish in (lambda: system.bank.bulk(200, 10), system.bank.transfer, system.bank.transfer):
            before = system.relay_row()["checkpoint"]
            publish()
            process.wait_for(lambda: system.relay_row()["checkpoint"] > before, system.lag, 60, alive=first.alive)
        first.kill9()
    finally:
        system.kafka.restart()
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
        system.wait_published()
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


def decided(system, seed, env):
    """A key is drained page by page while its writer goes on: nothing newer may overtake what waited."""
    topic = system.bank.topics[0]
    system.kafka.configure_topic(topic, max_message_bytes=50_000)
    system.relay(env=env, relay={"read_rows": 50})

    def publish(*texts):
        with system.postgres.session(system.bank.source, user="txbtest_app") as connection, connection.cursor() as cursor:
            for text in texts:
                cursor.execute("SELECT txb.publish(%s, 'big', 'note.made', convert_to(%s, 'UTF8'), content_type => 'text/plain')", (topic, text))

    publish("x" * 100_000, *map(str, range(3000)))
    process.wait_for(lambda: system.postgres.value(system.bank.source, "SELECT count(*) FROM txb.failed") == 1, system.lag, 60, alive=system.alive)
    system.postgres.query(system.bank.source, "SELECT txb.outbox_decide(number, 'discard', NULL, NULL, NULL, 'test', 'test') FROM txb.failed")
    publish(*map(str, range(3000, 4000)))
    process.wait_for(lambda: not system.postgres.query(system.bank.source, "SELECT 1 FROM txb.relay_hold"), system.lag, 60, alive=system.alive)
    system.wait_published()
    there = list(dict.fromkeys(record.value.decode() for record in read_topic(system.kafka.brokers, topic) if record.key == b"big"))
    report = system.verify(foreign_ok=True, effects=False, counters=False)
    if sorted(map(int, there)) != list(range(4000)):
        report.add("L", f"{len(there)} of 4000 that waited behind the discarded one are there")
    elif there != list(map(str, range(4000))):
        report.add("O", "what was written while the key was drained has overtaken what waited")
    return report


def worker_killed_before_commit(system, seed, env):
    system.relay()
    Writers(system.bank, 2, seed, QUICK, operations=40).start().join()
    system.wait_published()
    dying = system.worker(env={**env, "TXB_FAILPOINT": "worker.before_commit:2"})
    assert dying.wait_exit(60) == -9, dying.text()
    system.worker(env=env)
    return rest(system)


def relay_repeats(system, seed, env, batch_messages=None):
    """The relay dies between Kafka's acknowledgement and its checkpoint, twice; then everything is consumed, repetitions in one batch: it is as large as all
    that there is, and waits until all has been fetched."""
    for _ in range(2):
        Writers(system.bank, 2, seed, QUICK, operations=20).start().join()
        dying = system.relay(env={"TXB_FAILPOINT": "relay.after_ack"})
        assert dying.wait_exit(60) == -9, dying.text()
    system.relay()
    system.wait_published()
    records = len(read_topic(system.kafka.brokers, system.bank.topics[0]))
    system.worker(env=env, worker={"batch_messages": batch_messages or records, "batch_wait_ms": 60000})
    report = rest(system)
    assert report.counts["repeated"] > 0, "nothing was repeated: the scenario shows nothing"
    return report


def relay_repeats_apart(system, seed, env):
    """The same with repetitions in batches of their own."""
    return relay_repeats(system, seed, env, batch_messages=1)


def flaky_handler(system, seed, env):
    system.relay()
    system.worker(env=env, worker={"handler": {"kind": "sql", "function": "bank.apply_flaky"}, "retry": {"first_ms": 10, "cap_ms": 50}})
    Writers(system.bank, 2, seed, QUICK, operations=30).start().join()
    report = rest(system)
    return report if env else settled(system, report)


def failing_heads(system, seed, env):
    """Long runs of one key, whose first messages fail for a while: what comes behind them is held, and follows in order."""
    system.bank.bulk(2000, 200)
    system.relay()
    system.wait_published()
    system.worker(env=env, worker={"handler": {"kind": "sql", "function": "bank.apply_flaky"}, "retry": {"first_ms": 10, "cap_ms": 50}})
    report = rest(system)
    return settled(system, report)


def settled(system, report, deadline_s=60):
    """What was set aside is applied in the end; then everything is looked at once more."""
    try:
        process.wait_for(lambda: system.target_postgres.value(
            system.bank.target, "SELECT count(*) FROM txb.failed WHERE state NOT IN ('resolved', 'discarded')") == 0, system.lag, deadline_s)
    except process.Timeout as error:
        report.add("V", f"still set aside: {str(error)[:1500]}")
        return report
    return system.verify()


def hopeless(system, seed, env):
    """A message that always fails is dead after its last attempt, whoever makes them."""
    target = system.target_postgres
    target.query(system.bank.target, """CREATE FUNCTION bank.never(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$ BEGIN
        IF convert_from(m.key, 'UTF8') = '7' THEN RAISE EXCEPTION 'never'; END IF; RETURN bank.apply(m); END $$""")
    system.relay()
    settings = {"handler": {"kind": "sql", "function": "bank.never"}, "retry": {"first_ms": 10, "cap_ms": 50, "attempts_max": 4}}
    for account in range(1, 12):
        system.bank.transfer(account)
    for _ in range(2):
        system.worker(env=env, worker=settings)
    system.wait_rest()
    process.wait_for(lambda: target.value(system.bank.target, "SELECT count(*) FROM txb.failed WHERE state = 'dead'") == 1
                     or target.value(system.bank.target, "SELECT count(*) FROM txb.failed_history") > 8, system.lag, 60)
    report = system.verify(effects=False, counters=False)
    attempts = target.value(system.bank.target, "SELECT count(*) FROM txb.failed_history WHERE event = 'failed'")
    if attempts != 4:
        report.add("V", f"{attempts} attempts instead of 4")
    return report


def zombie_worker(system, seed, env):
    """A worker is stopped and replaced while a batch of its is still under way to the server; the batch arrives when another owns the partition."""
    system.relay()
    system.bank.bulk(10_000)
    system.wait_published()
    # Held from a batch's first statement on: one of which the server has a part already holds the partition's row, and is ended by the successor.
    with Proxy(("127.0.0.1", system.target_postgres.port), hold_at=(b"txb_worker_open", 12)) as proxy:
        database = system.target_postgres.uri(system.bank.target, "txbtest_worker").replace(str(system.target_postgres.port), str(proxy.port))
        first = system.worker("first", env=env, worker={"batch_messages": 20, "database": database})
        process.wait_for(lambda: b"txb_worker_commit" in proxy.held, "a batch on its way to the server", 60, alive=first.alive)
        first.freeze()
        system.worker("second", env=env)
        system.wait_consumed()
        proxy.release()
        # The late batch is answered, or applied, before anything else of that connection.
        process.wait_for(lambda: not system.target_postgres.value(
            system.bank.target, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle' AND usename = 'txbtest_worker'"),
            "the late batch to be done with", 60)
        first.thaw()
        if not env:
            first.wait_line("fenced")
        return rest(system)


def replayed(group, job, times=1, order=True, deadline_s=60):
    """The verifier's report once a job is done and nothing is set aside; one that does not come to that has left something behind."""
    trouble = None
    try:
        job.wait(deadline_s=deadline_s)
        group.wait(lambda: set(group.states()) <= {"resolved"}, deadline_s)
    except (process.Timeout, AssertionError) as error:
        trouble = str(error)[:1500]
    report = group.check(times=times, order=order)
    if trouble:
        report.add("V", f"not over: {trouble}")
    return report


def old_messages(system, count=20, keys=10, start="end"):
    """A group with a topic that holds messages; it begins behind them, or before them."""
    prepare(system)
    system.relay()
    group = Group(system, start="nowhere")
    group.publish([(f"k{k}", n) for n in range(count) for k in range(keys)])
    group.register(start)
    return group


def lane_beside_live(system, seed, env):
    """A live batch has read what a job's messages change, and is about to write it. The test plays that batch: it does first what batch_open does first."""
    system.relay()
    system.bank.bulk(300, 10)
    system.wait_published()
    group = Group(system, topics=system.bank.topics, name=system.group, function="bank.apply")
    worker = group.worker(env=env)
    process.wait_for(lambda: worker.text().count("partition taken") == system.partitions, worker.text, 60, alive=worker.alive)
    with system.target_postgres.session(system.bank.target, autocommit=False) as live, live.cursor() as cursor:
        cursor.execute("SELECT FROM txb.consumer_offset WHERE group_name = %s AND partition = 1 FOR NO KEY UPDATE", (group.name,))
        cursor.execute("SELECT balance, account FROM bank.credit")
        read = cursor.fetchall()
        job = group.job()
        process.wait_for(lambda: system.bank.applied() or group.value(
            "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid)) AND query LIKE %s", live.info.backend_pid, "%batch_open%"),
            group.lag, 60, alive=worker.alive)
        cursor.executemany("UPDATE bank.credit SET balance = %s WHERE account = %s", read)
        live.commit()
    job.wait()
    return system.verify(latest=True)


def lane_behind_live(system, seed, env):
    """A live message holds its key when a job brings older ones of it: none may pass, and they follow when it is resolved."""
    group = old_messages(system)
    hold(group, env)
    job = group.job().wait()
    return followed(group, job, [], range(20))


def lane_overtaken_by_live(system, seed, env):
    """A live message begins to hold its key while a job is at work: from then on none of that key may pass."""
    group = old_messages(system, count=100)
    job = group.job(rate_max=200)
    group.worker(env=env, retry={"first_ms": 20, "cap_ms": 100, "attempts_max": 2})
    job.wait_more(50)
    hold(group)
    early = group.numbers_of("k1")
    assert len(early) < 100, "the job was over before: nothing was shown"
    job.rate(None)
    job.wait()
    return followed(group, job, early, range(len(early), 100))


def hold(group, env=None):
    """A live message of k1 that stays dead until it is mended."""
    group.break_it(("k1", 100))
    if env is not None:
        group.worker(env=env, retry={"first_ms": 20, "cap_ms": 100, "attempts_max": 2})
    group.publish([("k1", 100)])
    group.wait(lambda: group.states().get("dead") == 1)


def followed(group, job, early, rest):
    """The report when the dead one is retried: nothing of its key but `early` was applied before it, and all the rest after it."""
    before = group.numbers_of("k1")
    group.mend()
    group.query("SELECT txb.failed_retry(%s, 'test')", group.failed("dead"))
    group.publish([("k1", 101)])  # its worker looks at once
    report = replayed(group, job, order=False)
    if before != early or group.numbers_of("k1") != [*early, 100, *rest, 101]:
        report.add("O", f"k1, held by live: {before} took effect before it was free, expected {early}; in all {group.numbers_of('k1')}")
    return report


def lane_forced(system, seed, env):
    """What live has applied is applied once more."""
    group = old_messages(system, start="beginning")
    group.worker(env=env)
    group.wait(lambda: group.total("applied") == len(group.published))
    return replayed(group, group.job(forced=True), times=2)


def lane_killed_before_commit(system, seed, env):
    group = old_messages(system, count=60)
    job = group.job()
    dying = group.worker(env={**env, "TXB_FAILPOINT": "worker.before_commit:2"})
    assert dying.wait_exit(60) == -9, dying.text()
    group.kill(dying)
    group.worker(env=env)
    return replayed(group, job)


def counted(system, seed, env):
    """The counters at a hundred moments, while messages fail, are held, come twice, are edited, discarded and tried again (W15)."""
    prepare(system)
    system.relay()
    group = Group(system, start="beginning", then=FLAKY)
    return moments.watched(group, MOMENTS, env=env, batch_messages=10, retry={"first_ms": 20, "cap_ms": 100, "attempts_max": 4})


MOMENTS = 100
SCENARIOS = {
    prepared: ["relay_holder_by_pid"],
    late_rows: ["relay_holes_sometimes"],
    frozen_kafka: ["relay_position_before_ack", "relay_flush_is_success"],
    refused: ["relay_refused_skipped"],
    decided: ["relay_drain_overtaken"],
    worker_killed_before_commit: ["worker_offset_before_commit", "worker_inbox_outside"],
    relay_repeats: ["worker_batch_duplicate_ids"],
    relay_repeats_apart: ["worker_no_inbox"],
    flaky_handler: ["worker_error_skips"],
    failing_heads: ["worker_behind_applied", "worker_held_not_kept", "worker_held_out_of_order", "worker_failed_not_recorded"],
    hopeless: ["worker_attempt_per_replica"],
    zombie_worker: ["worker_no_epoch_check"],
    lane_beside_live: ["lane_fence_unlocked"],
    lane_behind_live: ["lane_held_ignored"],
    lane_overtaken_by_live: ["lane_fence_ignored"],
    lane_forced: ["lane_run_ignored"],
    lane_killed_before_commit: ["lane_position_before_effects"],
    counted: ["worker_offset_before_commit", "retry_uncounted", "edit_keeps_id"],
}
# One batch holds a whole topic only where that has one partition.
PARTITIONS = {relay_repeats: 1, relay_repeats_apart: 1}
# Rules that stand in SQL are broken there: a function, and what it says instead of what. An edited copy under the old id is refused by an index already;
# what it would lose without that the simulator shows (worker_edit_keeps_id).
IN_SQL = {"lane_fence_unlocked": ("txb.lane_fence", "FOR NO KEY UPDATE", ""),
          "retry_uncounted": ("txb.retry_settle", """applied = c.applied + n_applied, duplicate = c.duplicate + n_duplicate,
         failed = c.failed - n_applied - n_duplicate, """, ""),
          "edit_keeps_id": ("txb.failed_edit_one", "txb.uuid_v7()", "f.id")}
# Found by the simulators only (tests/sim/test_planted_bugs.py runs all of them): either one interleaving in a million shows it, or a second guard stands
# behind the rule: the SQL functions compare epochs too, a transaction that failed is noticed before its COMMIT.
SIMULATED = ["relay_holes_unordered", "relay_last_look_limited", "relay_no_epoch_check", "relay_partition_unproven", "relay_hold_released_early",
             "relay_failed_read_again", "worker_commit_tag_ignored", "worker_keys_version_ignored", "worker_retry_unmarked"]
CASES = [(scenario, bug) for scenario, bugs in SCENARIOS.items() for bug in [None] + bugs]


def break_function(system, name, words, instead):
    target, database = system.target_postgres, system.bank.target
    text = target.value(database, "SELECT pg_get_functiondef(%s::regproc)", (name,))
    assert words in text
    target.query(database, text.replace(words, instead))


@pytest.mark.parametrize("scenario,bug", CASES, ids=[f"{scenario.__name__}-{bug}" for scenario, bug in CASES])
def test_a_planted_bug_is_caught_and_nothing_is_found_without_it(scenario, bug, systems, postgres, kafka, seed):
    system = systems(postgres, kafka, accounts=60, partitions=PARTITIONS.get(scenario, 3), relay={"lease_ms": 1500, "checkpoint_ms": 20},
                     worker={"session_timeout_ms": 6000, "batch_messages": 100, "retry": {"first_ms": 20, "cap_ms": 100}})
    if bug in IN_SQL:
        break_function(system, *IN_SQL[bug])
    report = scenario(system, seed, {"TXB_BUG": bug} if bug and bug not in IN_SQL else {})
    if bug is None:
        assert report, report
    else:
        assert not report, f"{bug} was not caught by {scenario.__name__} (seed {seed})"


def test_every_planted_bug_has_a_test_that_is_there_to_catch_it():
    covered = [bug for bugs in SCENARIOS.values() for bug in bugs if bug not in IN_SQL] + test_hazard.BUGS + test_saga_bugs.BUGS
    assert sorted(fault_names("txb_bug_names")) == sorted({*covered, *SIMULATED})
    assert len(set(covered)) >= 12
