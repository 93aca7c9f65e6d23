"""The inbox: once per group and run, daily partitions, the horizon."""

import uuid

import pytest
from sqltest import refused


@pytest.fixture
def db(bare):
    """With the days around today, of which the template knows only what today was when the tests began."""
    bare.root.do("SELECT txb.inbox_partition_make(2, 2)")
    return bare


APPLY = """INSERT INTO txb.inbox (group_name, run, message_id) SELECT %s, 0, id FROM unnest(%s::uuid[]) AS id
           ORDER BY id
           ON CONFLICT DO NOTHING RETURNING message_id"""


def ids_of(db, day, count=1):
    """Ids of the noon of a day from today."""
    return [
        r[0]
        for r in db.root.do(
            """SELECT txb.uuid_v7_at(date_trunc('day', now(), 'UTC') + (%s + 0.5) * interval '1 day')
                                          FROM generate_series(1, %s)""",
            day,
            count,
        )
    ]


def days(db):
    """The partitions' days from today, the default left out."""
    return [
        r[0]
        for r in db.root.do(
            """SELECT round(extract(epoch FROM txb.uuid_v7_time(first) - date_trunc('day', now(), 'UTC')) / 86400)::int
                                          FROM txb.inbox_partition WHERE first IS NOT NULL ORDER BY first"""
        )
    ]


def where(db, message_id):
    return db.root.one("SELECT tableoid::regclass::text FROM txb.inbox WHERE message_id = %s", message_id)


def test_an_id_is_new_once_per_group_and_run(db):
    worker = db.session("worker")
    ids = ids_of(db, 0, 1000)
    assert len(worker.do(APPLY, "g", ids)) == 1000
    assert worker.do(APPLY, "g", ids) == []
    assert len(worker.do(APPLY, "h", ids[:3])) == 3
    assert (
        len(
            worker.do(
                "INSERT INTO txb.inbox (group_name, run, message_id) VALUES ('g', 7, %s) ON CONFLICT DO NOTHING "
                "RETURNING 1",
                ids[0],
            )
        )
        == 1
    )
    more = ids_of(db, 0, 2)
    assert sorted(r[0] for r in worker.do(APPLY, "g", ids[:5] + more)) == sorted(more)


def test_the_second_of_two_at_once_waits_and_finds_it_applied(db):
    first, second = db.session("worker", transaction=True), db.session("worker")
    ids = ids_of(db, 0)
    assert len(first.do(APPLY, "g", ids)) == 1
    running = second.start(APPLY, "g", ids)
    db.wait_until_waiting(second)
    first.do("COMMIT")
    assert running.finish() == []


def test_ids_fall_into_their_days_and_others_into_the_default(db):
    worker = db.session("worker")
    assert days(db) == [-2, -1, 0, 1, 2]
    for day in (-400, -2, 0, 2, 400):
        found = ids_of(db, day)
        worker.do(APPLY, "g", found)
        assert (where(db, found[0]) == "txb.inbox_default") == (abs(day) > 2)
    # A foreign id that is not even of version 7 has a place too.
    worker.do(APPLY, "g", [str(uuid.UUID(int=2**128 - 1)), str(uuid.UUID(int=0))])


def test_a_partition_made_later_takes_over_the_rows_of_its_day(db):
    """W7: one message from a fast clock would otherwise block the making of partitions, and with them everybody,
    for ever."""
    worker = db.session("worker")
    early, other = ids_of(db, 4, 50), ids_of(db, 9, 2)
    worker.do(APPLY, "g", early + other)
    assert worker.one("SELECT txb.inbox_partition_make(2, 5)") == 3
    assert {where(db, i) for i in early} == {where(db, early[0])} != {"txb.inbox_default"}
    assert {where(db, i) for i in other} == {"txb.inbox_default"}
    assert worker.do(APPLY, "g", early) == [], "still known"
    assert worker.one("SELECT txb.inbox_partition_make(2, 5)") == 0


def test_making_waits_for_no_batch_and_no_batch_waits(db):
    batch, later, maker = (
        db.session("worker", transaction=True),
        db.session("worker"),
        db.session("worker", transaction=True),
    )
    batch.do(APPLY, "g", ids_of(db, 0))
    assert maker.one("SELECT txb.inbox_partition_make(2, 4)") == 2
    later.do("SET statement_timeout = '60s'")
    later.do(APPLY, "g", ids_of(db, 0))
    maker.do("COMMIT")
    batch.do("COMMIT")


def test_making_comes_back_later_when_a_batch_writes_to_the_default(db):
    batch, maker = db.session("worker", transaction=True), db.session("worker")
    ids = ids_of(db, 4)
    batch.do(APPLY, "g", ids)
    with refused("55P03"):
        maker.do("SELECT txb.inbox_partition_make(2, 4)")
    batch.do("COMMIT")
    assert maker.one("SELECT txb.inbox_partition_make(2, 4)") == 2
    assert where(db, ids[0]) != "txb.inbox_default"


def test_old_days_are_dropped_and_their_ids_refused(db):
    worker = db.session("worker")
    db.root.do("SELECT txb.inbox_partition_make(10, 1)")
    old, middle, ancient = ids_of(db, -9, 3), ids_of(db, -7, 3), ids_of(db, -300, 3)
    worker.do(APPLY, "g", old + middle + ancient)
    assert worker.one("SELECT txb.inbox_horizon()::text") == "-infinity"
    assert worker.one("SELECT txb.inbox_partition_drop(interval '8 days')") == 2
    assert days(db)[0] == -8
    assert db.root.one("SELECT txb.inbox_horizon() = date_trunc('day', now(), 'UTC') - interval '8 days'")
    # Never silently again: they can't be told from repetitions.
    for gone in (old, ancient, ids_of(db, -20)):
        with refused("23514", "inbox_horizon"):
            worker.do(APPLY, "g", gone)
    assert worker.do(APPLY, "g", middle) == []
    assert len(worker.do(APPLY, "g", ids_of(db, -8))) == 1
    assert worker.one("SELECT txb.inbox_partition_drop(interval '8 days')") == 0
    assert worker.one("SELECT txb.inbox_partition_make(10, 1)") == 0, "nothing is made below the horizon again"
    assert worker.one("SELECT txb.inbox_partition_drop(interval '6 days')") == 2
    with refused("23514", "inbox_horizon"):
        worker.do(APPLY, "g", middle)


def test_a_shorter_keep_is_refused_and_a_longer_one_later_brings_nothing_back(db):
    worker = db.session("worker")
    with refused("22023", "at least one hour"):
        worker.do("SELECT txb.inbox_partition_drop(interval '1 minute')")
    worker.do("SELECT txb.inbox_partition_drop(interval '1 day')")
    horizon = worker.one("SELECT txb.inbox_horizon()")
    assert worker.one("SELECT txb.inbox_partition_drop(interval '30 days')") == 0
    assert worker.one("SELECT txb.inbox_horizon()") == horizon


def test_the_longest_wish_of_the_groups_that_still_say_theirs_counts(db):
    """A day is dropped for all groups: one with a short keep must not make another's messages unknown."""
    worker = db.session("worker")
    assert worker.one("SELECT txb.inbox_keep('short', interval '1 hour')::text") == "01:00:00"
    assert worker.one("SELECT txb.inbox_keep('long', interval '14 days')::text") == "14 days"
    assert worker.one("SELECT txb.inbox_keep('short', interval '2 hours')::text") == "14 days"
    db.root.do("UPDATE txb.inbox_wish SET said_at = said_at - interval '15 days' WHERE group_name = 'long'")
    assert worker.one("SELECT txb.inbox_keep('short', interval '2 hours')::text") == "02:00:00", "it is gone for good"


def test_the_horizon_never_sinks(db):
    """Two drop at once, with different keep: the longer one waits, and must not bring back what the shorter one
    took."""
    first, second = db.session("worker", transaction=True), db.session("worker", transaction=True)
    second.do("SET LOCAL lock_timeout = 0")
    db.root.do("ALTER FUNCTION txb.inbox_partition_drop RESET lock_timeout")
    first.do("SELECT txb.inbox_partition_drop(interval '1 day')")
    running = second.start("SELECT txb.inbox_partition_drop(interval '30 days')")
    db.wait_until_waiting(second)
    first.do("COMMIT")
    assert running.finish() == [(0,)]
    second.do("COMMIT")
    assert db.root.one("SELECT txb.inbox_horizon() > now() - interval '3 days'")
    with refused("23514", "inbox_horizon"):
        db.session("worker").do(APPLY, "g", ids_of(db, -2))


def test_a_batch_that_was_open_while_its_day_was_dropped_is_refused(db):
    """It read the horizon before, and would find the id new in the default: the constraint decides under the lock."""
    batch, dropper = db.session("worker", transaction=True), db.session("worker")
    old = ids_of(db, -2)
    db.root.do("INSERT INTO txb.inbox (group_name, message_id) VALUES ('g', %s)", old[0])
    assert batch.one("SELECT txb.inbox_horizon()::text") == "-infinity"
    assert dropper.one("SELECT txb.inbox_partition_drop(interval '1 day')") == 1
    with refused("23514", "inbox_horizon"):
        batch.do(APPLY, "g", old)


def test_dropping_comes_back_later_when_a_batch_is_open_and_nobody_waits_long(db):
    batch, dropper, later = db.session("worker", transaction=True), db.session("worker"), db.session("worker")
    batch.do(APPLY, "g", ids_of(db, 0))
    running = dropper.start("SELECT txb.inbox_partition_drop(interval '1 day')")
    later.do("SET lock_timeout = '5s'")
    later.do(APPLY, "g", ids_of(db, 0))
    with refused("55P03"):
        running.finish()
    batch.do("COMMIT")
    assert dropper.one("SELECT txb.inbox_partition_drop(interval '1 day')") == 1


@pytest.mark.parametrize("back,ahead", [(-1, 1), (1, -1), (367, 1), (None, 1)])
def test_arguments_are_checked(db, back, ahead):
    with refused("22023", "days_back and days_ahead"):
        db.root.do("SELECT txb.inbox_partition_make(%s, %s)", back, ahead)


def test_the_insert_touches_one_partition_and_no_other(db):
    """Partitions are many; a batch locks the ones of its own ids."""
    worker = db.session("worker", transaction=True)
    worker.do(APPLY, "g", ids_of(db, 0, 10))
    locked = worker.do(
        """SELECT DISTINCT c.relname FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
                          WHERE l.pid = pg_backend_pid() AND c.relkind = 'r' AND c.relname ~ '^inbox_'"""
    )
    assert locked == db.root.do("SELECT 'inbox_d' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')")
