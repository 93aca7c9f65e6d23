"""A person's decisions beside what worker and relay do with the same rows."""

import pytest
from sqltest import refused
from test_sql_failed_commands import discard, edit, message, offset, retry, states, v7

INSTANCE = "00000000-0000-4000-8000-000000000001"
MARK = "SELECT keys_version, number, convert_from(payload, 'UTF8') FROM txb.retry_mark('g', 't', 0, 1, 100, 1000000)"
SETTLE = "SELECT * FROM txb.retry_settle('g', 't', 0, %s, %s, %s, %s, %s, %s, false, 'w1')"


@pytest.fixture
def admin(db):
    return db.session("admin")


@pytest.fixture
def worker(db):
    """It has set aside 1 (dead), 2 and 3 (held behind it) of key k, and 4 (retrying, not due) of key j."""
    session = db.session("worker")
    db.take(session, start=0)
    session.do("BEGIN; SELECT txb.batch_open('g', 't', 0, 1, 0, 4, 4, NULL, NULL, 0)")
    session.do(
        """SELECT txb.failed_add('g', 't', 0, '{0,1,2,3}', %s::uuid[], '{s,s,s,s}', ARRAY['k', 'k', 'k', 'j']::bytea[], '{m,m,m,m}',
                                 array_fill(now(), '{4}'), ARRAY['1', '2', '3', '4']::bytea[], array_fill('text/plain'::text, '{4}'),
                                 array_fill(NULL::jsonb, '{4}'), '{dead,held,held,retrying}', '{8,0,0,1}', '{NULL,NULL,NULL,100000}', '{t,t,t,t}',
                                 '{error,NULL,NULL,error}', '{22012,NULL,NULL,22012}', '{boom,NULL,NULL,boom}', 'h', 'w1')""",
        [v7() for _ in range(4)],
    )
    session.do("SELECT txb.batch_close('g', 't', 0, 0, 0, 4); COMMIT")
    return session


def run(worker, *marked):
    """One go of the worker's in which all that were marked are applied."""
    worker.do("BEGIN")
    worker.do("SELECT txb.retry_open('g', 't', 0, 1, %s)", marked[0][0])
    none = [None] * len(marked)
    worker.do(SETTLE, [m[1] for m in marked], ["applied"] * len(marked), none, none, none, none)
    worker.do("COMMIT")


def test_what_follows_a_discarded_head_runs_in_order_with_its_edition(db, admin, worker):
    edition = edit(admin, 2, b"22", "text/plain")[3]
    discard(admin, 1)
    marked = worker.do(MARK)
    assert [m[1:] for m in marked] == [(edition, "22"), (3, "3")]
    run(worker, *marked)
    assert states(db, 1, 2, edition, 3, 4) == ["discarded", "resolved", "resolved", "resolved", "retrying"]
    assert db.root.do("SELECT consumed, applied, duplicate, failed, held FROM txb.consumer_offset") == [(4, 2, 0, 2, 0)]


def test_a_decision_between_marker_and_run_sends_the_worker_back(db, admin, worker):
    retry(admin, 1)
    marked = worker.do(MARK)
    assert [m[1] for m in marked] == [1, 2, 3]
    discard(admin, 2)
    worker.do("BEGIN")
    with refused("TXB05", "keys changed"):
        worker.do("SELECT txb.retry_open('g', 't', 0, 1, %s)", marked[0][0])
    worker.do("ROLLBACK")
    marked = worker.do(MARK)
    assert [m[1] for m in marked] == [1, 3]
    run(worker, *marked)
    assert states(db, 1, 2, 3) == ["resolved", "discarded", "resolved"] and offset(db)["held"] == 0


def test_a_batch_that_does_not_know_of_a_decision_is_sent_back(db, admin, worker):
    retry(admin, 4)
    with refused("TXB05", "keys changed"):
        worker.do("SELECT txb.batch_open('g', 't', 0, 1, 4, 5, 1, NULL, NULL, 0)")


def test_a_refused_intent_is_shown_edited_and_never_decided_about_twice(db, admin):
    db.publish(db.session("app"), '{"n": 1}')
    relay = db.session("relay")
    db.acquire(relay)
    number = relay.one("SELECT txb.relay_record_failed('bank', 1, %s, 1, 'MSG_SIZE_TOO_LARGE', 'too large')", INSTANCE)
    shown = admin.row("SELECT * FROM txb.failed_show(%s)", number)
    assert bytes(shown["payload"]) == b'{"n": 1}' and shown["waits_in_outbox"]
    assert edit(admin, number, b'{"n": 1}')[2] == "is the same as before: nothing was changed"
    done, state, why, edition, _ = edit(admin, number, b'{"n": 2}')
    assert (done, state, why) == (True, "retrying", None) and message(db, edition)["replaces"] == number
    assert f"is resolved (edited: see {edition}) since" in retry(admin, number)[0][3]
    assert "is being published since" in retry(admin, edition)[0][3]
    assert [row[3] is None for row in discard(admin, number, edition)] == [False, False]
