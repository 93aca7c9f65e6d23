"""Decisions about many failed messages as jobs: txb.failed_job and its functions (0017)."""

import json

import psycopg2
import pytest
from sqltest import refused
from test_sql_failed_commands import add, discard, events, message, offset, states

FILTER = '{"group": "g", "state": ["dead", "retrying"]}'


@pytest.fixture
def admin(db):
    return db.session("admin")


def add_many(db, count, partition=0, key="m"):
    """Their numbers; each with a key of its own."""
    first = add(db, partition=partition, key=f"{key}0", offset=1000)
    more = db.root.do(
        """INSERT INTO txb.failed (side, state, group_name, topic, partition, "offset", key, id, type, payload, content_type,
                                   attempts, error_class, sqlstate, error, holds, place)
           SELECT 'consumer', 'dead', 'g', 't', %s, 1000 + n, convert_to(%s || n, 'UTF8'), txb.uuid_v7(), 'made', '1', 'j', 3,
                  'error', '22012', 'division by zero', true, 0 FROM generate_series(1, %s) AS n RETURNING number""",
        partition,
        key,
        count - 1,
    )
    db.root.do("UPDATE txb.failed SET place = number WHERE place = 0")
    return [first] + sorted(row[0] for row in more)


def start(session, verb="retry", filter=FILTER, reason="mended"):
    """(number, messages)"""
    return session.do("SELECT number, messages FROM txb.failed_job_start(%s, %s, %s, 'alice')", verb, filter, reason)[0]


def step(session, number):
    return session.one("SELECT txb.failed_job_step(%s, 'alice')", number)


def work(session, group="g", owner="w1"):
    rows = session.do("SELECT number, state, done, skipped FROM txb.failed_job_work(%s, %s)", group, owner)
    return rows[0] if rows else None


def cancel(session, number, reason="wrong filter"):
    session.do("SELECT txb.failed_job_cancel(%s, 'bob', %s)", number, reason)


def job(db, number):
    return db.root.row("SELECT * FROM txb.failed_job WHERE number = %s", number)


def decided(db, event="retry"):
    """Numbers, as often as they were decided about."""
    return [row[0] for row in db.root.do("SELECT number FROM txb.failed_history WHERE event = %s ORDER BY number", event)]


def audit(db):
    return db.root.do("SELECT action, role, person, matched, changed, filter -> 'job', reason FROM txb.audit ORDER BY number")


def test_a_job_decides_step_by_step_about_what_its_filter_meant(db, admin):
    numbers, other = add_many(db, 1100), add(db, group_name="other", topic="u")
    number, messages = start(admin)
    assert messages == 1100 and decided(db) == []
    row = job(db, number)
    assert (row["state"], row["verb"], row["group_name"]) == ("running", "retry", "g")
    assert (row["filter"], row["reason"], row["created_by"], row["os_user"]) == (json.loads(FILTER), "mended", "login_admin", "alice")
    first = step(admin, number)
    assert (first["state"], first["done"], first["left"]) == ("running", 500, 600)
    assert decided(db) == numbers[:500] and offset(db)["keys_version"] == 1
    assert step(admin, number)["done"] == 1000
    last = step(admin, number)
    assert (last["state"], last["done"], last["skipped"], last["left"], last["refused"]) == ("done", 1100, 0, 0, [])
    assert decided(db) == numbers and step(admin, number)["done"] == 1100, "a step of what is done does nothing"
    assert set(states(db, *numbers)) == {"retrying"} and states(db, other) == ["dead"]
    assert events(db, numbers[7]) == [("retry", "retrying", "login_admin (alice)", "mended")]
    assert db.root.do("SELECT * FROM txb.failed_job_part") == []
    assert job(db, number)["state_by"] == "login_admin (alice)"
    assert audit(db) == [
        ("failed retry", "login_admin", "alice", 1100, 0, number, "mended"),
        ("failed retry done", "login_admin", "alice", 1100, 1100, number, "mended"),
    ]


def test_a_worker_s_step_is_in_the_name_of_who_started_the_job(db, admin):
    numbers = add_many(db, 3)
    number, _ = start(admin, "discard", reason="test data")
    worker = db.session("worker")
    assert worker.one("SELECT txb.failed_job_open('g')") is True
    assert work(worker) == (number, "done", 3, 0)
    assert events(db, numbers[0]) == [("discard", "discarded", "login_admin (alice)", "test data")]
    assert audit(db)[-1] == ("failed discard done", "login_admin", "alice", 3, 3, number, "test data")
    assert job(db, number)["state_by"] == "worker w1"
    assert worker.one("SELECT txb.failed_job_open('g')") is False and work(worker) is None


def test_a_worker_goes_on_with_jobs_of_its_group_and_of_none(db, admin):
    add_many(db, 2)
    mine, worker = start(admin)[0], db.session("worker")
    assert worker.one("SELECT txb.failed_job_open('another')") is False and work(worker, "another") is None
    anybody = start(admin, filter='{"topic": "t"}')[0]
    assert worker.one("SELECT txb.failed_job_open('another')") is True and work(worker, "another")[0] == anybody
    assert work(worker)[0] == mine


def test_a_step_that_does_not_commit_is_undone_and_another_does_it(db, admin):
    """What a kill leaves: the session ends, its transaction with it, and with that the lock, which is the lease."""
    numbers = add_many(db, 700)
    number, _ = start(admin)
    step(admin, number)
    dying, worker = db.session("admin", transaction=True), db.session("worker")
    assert step(dying, number)["state"] == "done"
    assert work(worker) is None, "somebody is at it"
    db.root.do("SELECT pg_terminate_backend(%s)", dying.pid)
    db.wait_until_gone(dying)
    assert decided(db) == numbers[:500] and job(db, number)["done"] == 500
    assert work(worker) == (number, "done", 700, 0) and decided(db) == numbers


def test_steps_that_meet_decide_about_each_message_once(db, admin):
    numbers = add_many(db, 1000)
    number, _ = start(admin)
    first, second = db.session("admin", transaction=True), db.session("admin")
    step(first, number)
    running = second.start("SELECT txb.failed_job_step(%s, 'bob')", number)
    db.wait_until_waiting(second)
    first.do("COMMIT")
    assert running.finish()[0][0]["done"] == 1000, "the second went on with what the first left"
    assert decided(db) == numbers


def test_what_fails_after_the_start_is_not_in_the_job(db, admin):
    numbers, retrying = add_many(db, 2), add(db, state="retrying", key="later", offset=5)
    number, messages = start(admin, "discard", '{"state": "dead"}', "test data")
    assert messages == 2
    late = add(db, key="late", offset=6)
    db.root.do("UPDATE txb.failed SET state = 'dead', next_attempt_at = NULL WHERE number = %s", retrying)
    assert step(admin, number)["state"] == "done"
    assert states(db, *numbers, late, retrying) == ["discarded", "discarded", "dead", "dead"]
    assert decided(db, "discard") == numbers


def test_what_somebody_else_decided_meanwhile_is_skipped_and_told(db, admin):
    numbers = add_many(db, 14)
    number, _ = start(admin)
    discard(admin, *numbers[:12])
    done = step(admin, number)
    assert (done["state"], done["done"], done["skipped"]) == ("done", 2, 12)
    assert [r["number"] for r in done["refused"]] == numbers[:10], "the first ten"
    assert done["refused"][0]["why"].startswith("is discarded since 20") and "login_admin (alice)" in done["refused"][0]["why"]
    assert audit(db)[-1][3:5] == (14, 2)


def test_a_step_is_about_one_partition(db, admin):
    """It waits for the batches of that one only."""
    one, two = add_many(db, 3), add_many(db, 600, partition=1, key="n")
    number, messages = start(admin)
    parts = db.root.do("SELECT numbers FROM txb.failed_job_part WHERE job = %s ORDER BY part", number)
    assert messages == 603 and parts == [(one,), (two[:500],), (two[500:],)]
    batch, worker = db.session(transaction=True), db.session("worker")
    batch.do("SELECT 1 FROM txb.consumer_offset WHERE partition = 1 FOR UPDATE")
    assert work(worker) == (number, "running", 3, 0)
    with refused("55P03", "lock timeout"):
        work(worker)
    batch.do("ROLLBACK")
    assert work(worker) == (number, "running", 503, 0) and work(worker) == (number, "done", 603, 0)


def test_a_job_whose_steps_fail_keeps_no_other_waiting(db, admin):
    """Its partition is busy for ever."""
    add_many(db, 2)
    stuck, _ = start(admin)
    intent = add(db, side="outbox", group_name=None, source="shop", seq=7, partition=None, offset=None, key="o")
    other, _ = start(admin, "discard", '{"source": "shop"}', "test data")
    batch, worker = db.session(transaction=True), db.session("worker")
    batch.do("SELECT 1 FROM txb.consumer_offset FOR UPDATE")
    worker.do("SET lock_timeout = '1ms'")
    rows = []
    for _ in range(40):  # whichever it takes; forty times the same one is one in a million millions
        try:
            rows.append(work(worker))
        except psycopg2.errors.LockNotAvailable:
            pass
    assert (other, "done", 1, 0) in rows and states(db, intent) == ["discarded"] and job(db, stuck)["state"] == "running"


def test_a_discard_does_not_overrule_who_asked_for_another_try_since(db, admin):
    numbers = add_many(db, 3)
    number, _ = start(admin, "discard", reason="test data")
    admin.do("SELECT txb.failed_retry(%s, 'bob', 'mended')", [numbers[1]])
    done = step(admin, number)
    assert (done["state"], done["done"], done["skipped"]) == ("done", 2, 1)
    assert states(db, *numbers) == ["discarded", "retrying", "discarded"]
    [told] = done["refused"]
    assert told["number"] == numbers[1] and told["why"].startswith("is to be tried again: login_admin (bob) asked for it at 20")


def test_a_worker_does_not_wait_long_for_who_decides_about_an_intent(db, admin):
    intent = add(db, side="outbox", group_name=None, source="shop", seq=7, partition=None, offset=None, key="o")
    number, _ = start(admin, "discard", '{"state": "dead"}', "test data")
    other, worker = db.session(transaction=True), db.session("worker")
    other.do("SELECT 1 FROM txb.failed WHERE number = %s FOR UPDATE", intent)
    with refused("55P03", "lock timeout"):
        work(worker)
    other.do("ROLLBACK")
    assert work(worker) == (number, "done", 1, 0)


def test_cancelling_keeps_what_was_done_and_does_no_more(db, admin):
    numbers = add_many(db, 600)
    number, _ = start(admin)
    step(admin, number)
    cancel(admin, number)
    row = step(admin, number)
    assert (row["state"], row["done"], row["left"]) == ("cancelled", 500, 0) and decided(db) == numbers[:500]
    assert work(db.session("worker")) is None and set(states(db, *numbers[500:])) == {"dead"}
    assert job(db, number)["state_by"] == "login_admin (bob)" and db.root.do("SELECT * FROM txb.failed_job_part") == []
    assert audit(db)[-1] == ("failed cancel", "login_admin", "bob", 600, 500, number, "wrong filter")
    with refused("55000", f"job {number} is cancelled since", "login_admin (bob)"):
        cancel(admin, number)


def test_a_cancel_waits_for_the_step_under_way(db, admin):
    add_many(db, 600)
    number, _ = start(admin)
    stepping, other = db.session("admin", transaction=True), db.session("admin")
    step(stepping, number)
    running = other.start("SELECT txb.failed_job_cancel(%s, 'bob', 'no')", number)
    db.wait_until_waiting(other)
    stepping.do("COMMIT")
    running.finish()
    assert (job(db, number)["state"], job(db, number)["done"]) == ("cancelled", 500)


def test_a_worker_does_not_wait_long_for_a_batch_and_a_command_longer(db, admin):
    add_many(db, 2)
    number, _ = start(admin)
    batch, worker = db.session(transaction=True), db.session("worker")
    batch.do("SELECT 1 FROM txb.consumer_offset FOR UPDATE")
    with refused("55P03", "lock timeout"):
        work(worker)
    with refused("55P03", "a batch of that partition is under way", "nothing was changed; try again"):
        step(admin, number)
    assert (job(db, number)["state"], job(db, number)["done"]) == ("running", 0)
    batch.do("ROLLBACK")
    assert work(worker) == (number, "done", 2, 0)


def test_what_is_refused_leaves_nothing(db, admin):
    number = add(db)
    for verb, filter, reason, code, word in (
        ("retyr", FILTER, None, "22023", 'did you mean "retry"?'),
        (None, FILTER, None, "22023", 'verb "" is unknown'),
        ("discard", FILTER, " ", "22023", "a reason is needed"),
        ("retry", '{"stat": "dead"}', None, "22023", 'did you mean "state"?'),
        ("retry", None, None, "22023", "a filter is a JSON object"),
        ("retry", '{"group": "nobody"}', None, "P0002", "no failed message is like that"),
    ):
        with refused(code, word):
            start(admin, verb, filter, reason)
    with refused("P0002", "there is no job 99 about failed messages"):
        step(admin, 99)
    with refused("P0002", "there is no job 99 about failed messages"):
        cancel(admin, 99)
    with refused("22023", "a reason is needed"):
        cancel(admin, 1, " ")
    with refused("22023", "a page has 1 to 10000 jobs, not 0"):
        admin.do("SELECT * FROM txb.failed_job_list(NULL, 0)")
    assert db.root.do("SELECT * FROM txb.failed_job") == [] == db.root.do("SELECT * FROM txb.failed_job_part")
    assert audit(db) == [] and states(db, number) == ["dead"]


def test_jobs_are_listed_page_by_page_and_share_no_number_with_replay_jobs(db, admin):
    add(db)
    numbers = [start(admin)[0] for _ in range(3)]
    assert db.root.one("SELECT nextval('txb.job_number_seq')") == numbers[-1] + 1
    rows = db.session("reader").do("SELECT number, job FROM txb.failed_job_list(NULL, 2)")
    assert [row[0] for row in rows] == numbers[:0:-1] and rows[0][1]["left"] == 1
    assert [row[0] for row in admin.do("SELECT number FROM txb.failed_job_list(%s)", rows[-1][0])] == numbers[:1]


def test_what_is_held_follows_and_intents_are_decided_about_too(db, admin):
    head, held = add(db), add(db, state="held", offset=2)
    intent = add(db, side="outbox", group_name=None, source="shop", seq=7, partition=None, offset=None, key="o")
    number, messages = start(admin, "discard", '{"state": "dead"}', "test data")
    assert messages == 2 and [step(admin, number)["done"] for _ in range(2)] == [1, 2]
    assert states(db, head, held, intent) == ["discarded", "retrying", "discarded"] and message(db, held)["attempts"] == 0
    assert db.root.do("SELECT failed_id FROM txb.relay_decision") == [(intent,)]
