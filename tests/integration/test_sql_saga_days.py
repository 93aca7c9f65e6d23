"""Old days of sagas: which of them go, and what goes with them; and how many are under way."""

import uuid

import pytest
from sqltest import refused

DEPLOY = "SELECT txb.saga_deploy('order', 1, '{}', NULL, NULL, 'coordinator', 'hal')"
DROP = "SELECT txb.saga_partition_drop(%s::interval)"
COUNTS = """SELECT (SELECT count(*) FROM txb.saga), (SELECT count(*) FROM txb.saga_event), (SELECT count(*) FROM txb.saga_end),
    (SELECT count(*) FROM txb.saga_start_key)"""


@pytest.fixture
def db(bare):
    bare.root.do("SELECT txb.partition_make(100000, 1)")
    bare.session("admin").do(DEPLOY)
    bare.session("worker").do("SELECT txb.saga_partition_make(40, 1)")
    return bare


def saga(db, day, ended=None, key=None):
    """One that started in the middle of a day so many days from today, with one event, and ended so long ago; its id."""
    worker, made = db.session("worker"), str(uuid.uuid4())
    at = db.root.one("SELECT (date_trunc('day', now(), 'UTC') + interval '12 hours' + %s * interval '1 day')::text", day)
    worker.do("SELECT txb.saga_begin(%s::uuid[], ARRAY[%s]::timestamptz[], '{order}', '{NULL}', %s, '{\"{}\"}', '{NULL}', '{NULL}', '{NULL}')",
              [made], at, [key])
    event(db, made, 1, "start", at)
    if ended is not None:
        worker.do("SELECT txb.saga_finish(%s::uuid[], ARRAY[%s]::timestamptz[], ARRAY[now() - %s::interval], '{completed}', '{NULL}', '{NULL}')",
                  [made], at, ended)
    return made


def event(db, made, n, what, at=None, step=None):
    at = at or db.root.one("SELECT started_at::text FROM txb.saga WHERE id = %s", made)
    db.session("worker").do(
        "SELECT txb.saga_append(%s::uuid[], ARRAY[%s]::timestamptz[], %s, '{now}', %s, %s, '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', "
        "'{NULL}', '{NULL}', '{NULL}', '{NULL}')", [made], at, [n], [what], [step])


def left(db):
    return {made for made, in db.root.do("SELECT id::text FROM txb.saga")}


def days(db):
    return db.root.do("SELECT count(*) FROM txb.day_partitions('txb.saga') AS p WHERE p.first IS NOT NULL")[0][0]


def test_a_day_goes_when_all_of_its_sagas_ended_long_enough_ago(db):
    worker = db.session("worker")
    gone = [saga(db, -20, "19 days", key="first"), saga(db, -20, "18 days")]
    kept = [saga(db, -19, "18 days"), saga(db, -19), saga(db, -18, "1 day"), saga(db, -5, "4 days"), saga(db, 0, "0 days")]
    before = days(db)
    assert worker.one(DROP, "10 days") > 0
    assert left(db) == set(kept) and not left(db) & set(gone)
    assert db.root.do(COUNTS) == [(5, 5, 4, 0)]
    assert worker.one(DROP, "10 days") == 0
    assert before - days(db) == 40 - 10 + 1 - 1 - 2, "those without sagas too, and not the two that are kept"
    event(db, kept[1], 2, "end")
    worker.do("SELECT txb.saga_finish(ARRAY[id], ARRAY[started_at], ARRAY[now() - interval '11 days'], '{completed}', '{NULL}', '{NULL}')"
              " FROM txb.saga WHERE id = %s", kept[1])
    assert worker.one(DROP, "10 days") == 1
    assert left(db) == set(kept[2:])


def test_a_start_key_is_known_as_long_as_its_saga(db):
    worker = db.session("worker")
    saga(db, -20, "19 days", key="gone")
    saga(db, -19, key="under way")
    worker.do(DROP, "10 days")
    assert db.root.do(COUNTS) == [(1, 1, 0, 1)]


def test_what_lies_in_the_default_goes_too(db):
    """Sagas of a clock that was wrong by months have no day."""
    worker = db.session("worker")
    saga(db, -300, "299 days")
    kept = {saga(db, -200), saga(db, 100, "0 days"), saga(db, -250, "1 day")}
    worker.do(DROP, "10 days")
    assert left(db) == kept
    assert db.root.do("SELECT count(*) FROM txb.saga_event_default UNION ALL SELECT count(*) FROM txb.saga_end_default") == [(3,), (2,)]


def test_strays_are_forgotten_like_sagas(db):
    db.root.do("INSERT INTO txb.saga_stray (at, message_id, message_partition, message_offset, reason)"
               " SELECT now() - d * interval '1 day', txb.uuid_v7(), 0, d, 'none' FROM unnest('{1,20}'::int[]) AS d")
    db.session("worker").do(DROP, "10 days")
    assert db.root.do("SELECT message_offset FROM txb.saga_stray") == [(1,)]


def test_dropping_comes_back_later_when_a_batch_is_open(db):
    saga(db, -20, "19 days")
    batch, worker = db.session("worker", transaction=True), db.session("worker")
    batch.do("SELECT count(*) FROM txb.saga_load(ARRAY[txb.uuid_v7()], '{now}')")
    with refused("55P03"):
        worker.do(DROP, "10 days")
    assert len(left(db)) == 1
    batch.do("COMMIT")
    assert worker.one(DROP, "10 days") > 0


def test_the_longest_wish_counts(db):
    worker = db.session("worker")
    keep = "SELECT txb.saga_keep(%s, %s::interval)::text"
    assert worker.one(keep, "a", "10 days") == "10 days"
    assert worker.one(keep, "b", "2 days") == "10 days"
    assert worker.one(keep, "a", "3 days") == "3 days"
    db.root.do("UPDATE txb.saga_wish SET said_at = now() - interval '4 days'")
    assert worker.one(keep, "b", "2 days") == "2 days", "of a group that is silent for longer than it wants"


@pytest.mark.parametrize("keep", ["1 minute", None])
def test_a_shorter_keep_is_refused(db, keep):
    with refused("22023", "at least one hour"):
        db.session("worker").do(DROP, keep)


def test_what_is_under_way_and_what_waits_for_a_person_is_counted(db):
    worker = db.session("worker")
    assert worker.do("SELECT * FROM txb.sagas_seen()") == [(0, 0, None, None, 0)]
    first, second, third = saga(db, 0), saga(db, -1), saga(db, 0)
    saga(db, 0, "0 days")
    stuck = {first: ["a stuck", "timer", "ignored", "b effect"], second: ["a stuck", "b begin", "a retry"], third: ["b stuck", "b retry", "b stuck"]}
    for made, events in stuck.items():
        for n, what in enumerate(events):
            step, name = what.split() if " " in what else (None, what)
            event(db, made, n + 2, name, step=step)
    under_way, count, oldest, _, strays = worker.do("SELECT under_way, stuck, stuck_first::text, stuck_since, strays FROM txb.sagas_seen()")[0]
    assert (under_way, count, oldest, strays) == (3, 2, first, 0)


def test_a_saga_that_begins_in_a_day_while_it_is_dropped_stays(db):
    """A start that came late, in a batch that commits while the locks are waited for."""
    saga(db, -20, "19 days")
    batch, dropper = db.session("worker", transaction=True), db.session("worker")
    at = db.root.one("SELECT (date_trunc('day', now(), 'UTC') - interval '20 days' + interval '13 hours')::text")
    batch.do("SELECT txb.saga_begin(ARRAY[txb.uuid_v7()], ARRAY[%s]::timestamptz[], '{order}', '{NULL}', '{NULL}', '{\"{}\"}', '{NULL}', '{NULL}', '{NULL}')", at)
    db.root.do("ALTER FUNCTION txb.saga_partition_drop(interval) SET lock_timeout = '60s'")
    running = dropper.start(DROP, "10 days")
    db.wait_until_waiting(dropper)
    batch.do("COMMIT")
    running.finish()
    assert db.root.do(COUNTS)[0][:3] == (2, 1, 1)


def test_who_looks_while_another_one_drops_leaves_it_to_that(db):
    saga(db, -20, "19 days")
    first, second = db.session("worker", transaction=True), db.session("worker")
    assert first.one(DROP, "10 days") > 0
    assert second.one(DROP, "10 days") == 0
    first.do("COMMIT")
