"""How long ended failed messages are kept: txb.failed_expire takes what nobody needs any more, and nothing else."""

import pytest
from sqltest import refused
from test_sql_failed_commands import add

DAYS = 31


def end(db, *numbers, days=DAYS):
    """As if they had ended so many days ago; each has a history."""
    db.root.do("UPDATE txb.failed SET updated_at = now() - %s * interval '1 day' WHERE number = ANY (%s)", days, list(numbers))
    db.root.do("INSERT INTO txb.failed_history (number, event, state) SELECT number, 'applied', state FROM txb.failed WHERE number = ANY (%s)", list(numbers))


def ended(db, *args, days=DAYS, **more):
    number = add(db, *args, **more)
    end(db, number, days=days)
    return number


def edited(db, old, new):
    db.root.do("UPDATE txb.failed SET state = 'resolved', resolution = 'edited', holds = false, next_attempt_at = NULL, replaced_by = %s WHERE number = %s", new, old)
    db.root.do("UPDATE txb.failed SET replaces = %s WHERE number = %s", old, new)


def expire(session, side="consumer", owner="g", keep="30 days", rows_max=1000):
    return session.one("SELECT txb.failed_expire(%s, %s, %s, %s)", side, owner, keep, rows_max)


def left(db):
    rows = [row[0] for row in db.root.do("SELECT number FROM txb.failed ORDER BY number")]
    history = {row[0] for row in db.root.do("SELECT number FROM txb.failed_history")}
    assert history <= set(rows)
    return rows


@pytest.fixture
def worker(db):
    return db.session("worker")


@pytest.fixture
def relay(db):
    """Intents 1 to 4, all below the watermark; a session of the relay's."""
    app = db.session("app")
    for number in range(1, 5):
        db.publish(app, f'"{number}"', key=f"k{number}")
    session = db.session("relay")
    db.acquire(session)
    db.root.do("UPDATE txb.relay SET watermark = 4, highest = 4")
    return session


def intent(db, seq, state="discarded", **more):
    return ended(db, state, side="outbox", group_name=None, partition=None, offset=None, source="bank", seq=seq, key=f"k{seq}", **more)


def test_only_what_ended_long_enough_ago_goes_with_its_history(db, worker):
    opens = [ended(db, state, offset=n) for n, state in enumerate(("retrying", "held", "dead"))]
    young = [ended(db, state, offset=10 + n, days=29) for n, state in enumerate(("resolved", "discarded"))]
    others = [ended(db, "resolved", offset=20, group_name="other"), intent(db, 1)]
    old = [ended(db, state, offset=30 + n) for n, state in enumerate(("resolved", "discarded"))]
    assert left(db) == sorted(opens + young + others + old)
    assert expire(worker) == 2
    assert left(db) == sorted(opens + young + others)
    assert expire(worker) == 0


def test_it_goes_in_chunks_the_oldest_first(db, worker):
    numbers = [ended(db, "resolved", offset=n, days=100 - n) for n in range(8)]
    assert [expire(worker, rows_max=3) for _ in range(2)] == [3, 3]
    assert left(db) == numbers[6:]
    assert [expire(worker, rows_max=3) for _ in range(2)] == [2, 0]


def test_editions_go_together_when_the_last_one_ended_long_enough_ago(db, worker):
    first, second, third = (add(db, "dead", offset=1) for _ in range(3))
    edited(db, first, second)
    edited(db, second, third)
    end(db, first, second)
    assert expire(worker) == 0 and left(db) == [first, second, third]  # an open one refers to them
    db.root.do("UPDATE txb.failed SET state = 'resolved', resolution = 'applied', holds = false WHERE number = %s", third)
    end(db, third, days=29)
    assert expire(worker) == 0 and left(db) == [first, second, third]
    end(db, third)
    assert expire(worker) == 3 and left(db) == []


def test_editions_stay_while_one_that_was_replaced_is_open_again(db, worker):
    first, second = add(db, "dead", offset=1), ended(db, "resolved", offset=1)
    edited(db, first, second)
    end(db, first)
    db.root.do("UPDATE txb.failed SET state = 'retrying', resolution = NULL, next_attempt_at = now() WHERE number = %s", first)
    assert expire(worker) == 0 and left(db) == [first, second]


def test_what_a_marker_names_stays(db, worker):
    marked, suspect, free = (ended(db, "discarded", offset=n) for n in range(3))
    db.root.do("UPDATE txb.consumer_offset SET suspect_failed = ARRAY[%s::bigint]", marked)
    db.root.do("UPDATE txb.failed SET suspect = true WHERE number = %s", suspect)
    assert expire(worker) == 1 and left(db) == [marked, suspect] and free not in left(db)


@pytest.mark.parametrize("state", ["discarded", "resolved"])
def test_the_record_of_an_intent_stays_as_long_as_the_outbox_has_it(state, db, relay):
    """A replay leaves out what was discarded, and a relay knows what is done with, by that record."""
    numbers = [intent(db, seq, state) for seq in (1, 2, 4)]
    assert expire(relay, "outbox", "bank") == 0 and left(db) == numbers
    db.root.do("DELETE FROM txb.outbox WHERE seq <= 2")  # as when their partition was dropped
    assert expire(relay, "outbox", "other") == 0 and left(db) == numbers
    assert expire(relay, "outbox", "bank") == 2 and left(db) == numbers[2:]
    db.root.do("DELETE FROM txb.outbox")
    db.root.do("UPDATE txb.relay SET watermark = 3")
    assert expire(relay, "outbox", "bank") == 0 and left(db) == numbers[2:]
    db.root.do("UPDATE txb.relay SET watermark = 4")
    assert expire(relay, "outbox", "bank") == 1 and left(db) == []


def test_the_record_of_an_intent_stays_as_long_as_its_key_is_held(db, relay):
    held, free = intent(db, 1), intent(db, 2)
    db.root.do("DELETE FROM txb.outbox")
    db.root.do("INSERT INTO txb.relay_hold (source, kind, topic, key, lo, failed_id, error) VALUES ('bank', 'key', 't', 'k1', 3, %s, 'e')", held)
    assert expire(relay, "outbox", "bank") == 1 and left(db) == [held] and free not in left(db)


def test_two_at_once_skip_what_the_other_has(db, worker):
    numbers = [ended(db, "resolved", offset=n) for n in range(4)]
    first = db.session("worker", transaction=True)
    assert expire(first, rows_max=2) == 2
    assert expire(worker, rows_max=4) == 2
    assert left(db) == numbers[:2]
    first.do("ROLLBACK")  # as after a crash
    assert left(db) == numbers[:2]
    assert expire(worker) == 2 and left(db) == []


@pytest.mark.parametrize("args", [("inbox", "g", "30 days", 1), ("consumer", None, "30 days", 1), ("consumer", "g", "59 minutes", 1), ("consumer", "g", None, 1),
                                  ("consumer", "g", "30 days", 0), ("consumer", "g", "30 days", 10001)])  # fmt: skip
def test_a_call_that_could_delete_too_much_is_refused(args, db, worker):
    with refused("22023"):
        worker.do("SELECT txb.failed_expire(%s, %s, %s, %s)", *args)


def test_no_whole_table_is_scanned_among_twenty_thousand(db, worker, relay):
    """The plans of the statements inside, as the server tells them: few are to go, and many are open, or young, or needed."""
    add(db, "dead", offset=0)
    db.root.do(
        """INSERT INTO txb.failed (number, place, side, state, group_name, source, seq, topic, partition, "offset", id, key, resolution, next_attempt_at, updated_at)
           OVERRIDING SYSTEM VALUE
           SELECT 1000 + n, n, CASE WHEN n % 2 = 0 THEN 'consumer' ELSE 'outbox' END, s, 'g', 'bank', n, 't', 0, n, txb.uuid_v7(), ('key' || n)::bytea,
                  CASE WHEN s <> 'retrying' THEN 'applied' END, CASE WHEN s = 'retrying' THEN now() END, now() - d * interval '1 day'
             FROM generate_series(1, 20000) AS n, LATERAL (SELECT CASE WHEN n % 3 = 0 THEN 'retrying' ELSE 'resolved' END, CASE WHEN n <= 200 THEN 40 ELSE 1 END) AS u (s, d);
           INSERT INTO txb.failed_history (number, event, state) SELECT number, 'applied', state FROM txb.failed, generate_series(1, 3);
           DELETE FROM txb.outbox; UPDATE txb.relay SET watermark = 1000000, highest = 1000000;
           INSERT INTO txb.relay_hold (source, kind, topic, key, lo, error) SELECT 'bank', 'key', 't', 'held' || n, 1, 'e' FROM generate_series(1, 2000) AS n;
           ANALYZE txb.failed, txb.failed_history, txb.relay_hold"""
    )
    db.root.do("LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on; SET client_min_messages = log")
    assert expire(db.root) == 67 and expire(db.root, "outbox", "bank") == 67
    plans = "".join(db.root.connection.notices)
    assert "failed_ended_message" in plans and "failed_ended_intent" in plans and "failed_history_number" in plans, plans
    assert "Seq Scan on failed" not in plans and "Seq Scan on relay_hold" not in plans, plans
    assert not db.root.do("SELECT FROM txb.failed_history AS h WHERE NOT EXISTS (SELECT FROM txb.failed AS f WHERE f.number = h.number)")
