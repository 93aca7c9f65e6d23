"""The days of the barrier: which a saga's record falls into, making and dropping them, and commands that come too late."""

import json

import pytest
from commandstest import APPLY, answer, answers, effects, headers_of, recorded, send, started, with_handler
from sqltest import V7, refused


@pytest.fixture
def db(bare):
    return with_handler(bare)


def days(db):
    """The partitions' days from today, the default left out."""
    return [
        row[0]
        for row in db.root.do(
            "SELECT round(extract(epoch FROM first - date_trunc('day', now(), 'UTC')) / 86400)::int "
            "FROM txb.day_partitions('txb.barrier') WHERE first IS NOT NULL ORDER BY first"
        )
    ]


def where(db, day):
    return db.root.one(
        "SELECT tableoid::regclass::text FROM txb.barrier WHERE started_at = txb.saga_time(jsonb_build_object("
        "'txb-saga-started', %s::text))",
        started(db, day),
    )


def test_sagas_fall_into_their_days_and_others_into_the_default(db):
    worker = db.session("worker")
    assert worker.one("SELECT txb.barrier_partition_make(2, 2)") == 5
    assert worker.one("SELECT txb.barrier_partition_make(2, 2)") == 0
    assert days(db) == [-2, -1, 0, 1, 2]
    for day in (-400, -2, 0, 2, 400):
        send(worker, "action", saga_started=started(db, day))
        assert (where(db, day) == "txb.barrier_default") == (abs(day) > 2)


def test_a_day_that_is_made_later_takes_over_its_rows_and_they_are_still_known(db):
    worker = db.session("worker")
    db.root.do("SET timezone = 'Asia/Kathmandu'")
    for day in (4, 9):
        send(worker, "action", saga_started=started(db, day), output=day)
    worker.do("SET timezone = 'America/St_Johns'")
    assert worker.one("SELECT txb.barrier_partition_make(0, 5)") == 6
    assert days(db) == [0, 1, 2, 3, 4, 5]
    assert where(db, 4) != "txb.barrier_default" == where(db, 9)
    send(worker, "action", saga_started=started(db, 4))
    assert answer(db) == {"answer": "ok", "output": 4} and len(effects(db)) == 2


def test_a_partition_is_stored_as_the_default_is(db):
    db.root.do("SELECT txb.barrier_partition_make(0, 0), txb.saga_partition_make(0, 0)")
    rows = db.root.do("SELECT relname, reloptions FROM pg_class WHERE relname ~ '_d[0-9]{8}$' AND relkind = 'r'")
    assert {name[:-10]: options for name, options in rows} == {
        "barrier": ["fillfactor=60"],
        "saga": None,
        "saga_event": None,
        "saga_end": None,
    }


def test_making_and_dropping_come_back_later_when_a_batch_is_open(db):
    batch, other = db.session("worker", transaction=True), db.session("worker")
    send(batch, "action")
    with refused("55P03"):
        other.do("SELECT txb.barrier_partition_make(0, 1)")
    with refused("55P03"):
        other.do("SELECT txb.barrier_partition_drop(interval '2 days')")
    batch.do("COMMIT")
    assert other.one("SELECT txb.barrier_partition_make(0, 1)") == 2


def test_old_days_are_dropped_and_commands_of_their_sagas_refused(db):
    worker = db.session("worker")
    worker.do("SELECT txb.barrier_partition_make(10, 1)")
    assert worker.one("SELECT txb.barrier_horizon()::text") == "-infinity"
    for day in (-300, -9, -7):
        send(worker, "action", saga_started=started(db, day))
    assert worker.one("SELECT txb.barrier_partition_drop(interval '8 days')") == 2
    assert days(db)[0] == -8
    assert db.root.one("SELECT txb.barrier_horizon() = date_trunc('day', now(), 'UTC') - interval '8 days'")
    count = len(answers(db))
    for day in (-300, -9, -20):
        for operation in ("action", "forward", "resolve", "compensation"):
            with refused("TXB04", "before what the barrier remembers", "saga mark"):
                send(worker, operation, saga_started=started(db, day))
    assert len(answers(db)) == count and db.root.one("SELECT count(*) FROM txb.barrier") == 1 and len(effects(db)) == 3
    send(worker, "action", saga_started=started(db, -7))
    assert len(effects(db)) == 3, "still known"
    assert worker.one("SELECT txb.barrier_partition_drop(interval '8 days')") == 0
    assert worker.one("SELECT txb.barrier_partition_drop(interval '30 days')") == 0, "the horizon never sinks"
    assert worker.one("SELECT txb.barrier_partition_make(10, 1)") == 0, "nothing is made below the horizon again"


def test_a_command_that_waits_while_its_day_is_dropped_is_refused(db):
    """It would be the first in the default, and take its effect a second time."""
    worker, dropper = db.session("worker"), db.session("worker", transaction=True)
    worker.do("SELECT txb.barrier_partition_make(10, 1)")
    send(worker, "action", saga_started=started(db, -9))
    dropper.do("SELECT txb.barrier_partition_drop(interval '8 days')")
    headers = json.dumps(headers_of("action", saga_started=started(db, -9)))
    running = worker.start(APPLY, V7, b"k", b"{}", headers, "public.does", False)
    db.wait_until_waiting(worker)
    dropper.do("COMMIT")
    with refused("TXB04"):
        running.finish()
    assert effects(db) == ["action"] and recorded(db) is None


@pytest.mark.parametrize("back,ahead", [(-1, 1), (1, -1), (367, 1), (None, 1)])
def test_days_are_checked(db, back, ahead):
    with refused("22023", "txb.barrier_partition_make: days_back and days_ahead"):
        db.root.do("SELECT txb.barrier_partition_make(%s, %s)", back, ahead)


def test_a_shorter_keep_is_refused(db):
    for keep in ("1 minute", None):
        with refused("22023", "at least one hour"):
            db.root.do("SELECT txb.barrier_partition_drop(%s::interval)", keep)
