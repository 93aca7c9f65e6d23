"""Failed messages of the consumer's side: setting aside, held keys, trying again under a marker."""

import json
import uuid

import psycopg2.extras
import pytest
from sqltest import V7, refused
from test_sql_consumer import stored

OPEN = "SELECT txb.batch_open('g', 't', 0, %s, %s, %s, %s, %s, 1700000000000, %s)"
CLOSE = "SELECT txb.batch_close('g', 't', 0, %s, %s, %s)"
ADD = (
    "SELECT txb.failed_add('g', 't', 0, %s::bigint[], %s::uuid[], %s::text[], %s::bytea[], %s::text[], "
    "%s::timestamptz[], %s::bytea[], %s::text[], %s::jsonb[], %s::text[], %s::int[], %s::bigint[], %s::boolean[], "
    "%s::text[], %s::text[], %s::text[], 'shop.apply', 'w1')"
)
MARK = "SELECT * FROM txb.retry_mark('g', 't', 0, %s, %s, %s)"
RETRY_OPEN = "SELECT txb.retry_open('g', 't', 0, %s, %s)"
SETTLE = (
    "SELECT next_due_ms, held, key FROM txb.retry_settle('g', 't', 0, %s::bigint[], %s::text[], %s::bigint[], "
    "%s::text[], %s::text[], %s::text[], %s, 'w2')"
)
KEYS = "SELECT keys_version, next_due_ms, held, group_held, key, messages FROM txb.failed_keys('g', 't', 0, 1000)"
CONDEMN = "SELECT next_due_ms, held, key FROM txb.failed_condemn('g', 't', 0, %s, %s, 'died twice', %s, 'w2')"
PLENTY = (1000, 1 << 20)


def item(offset, key=b"k", state="retrying", **more):
    """A message to be set aside."""
    return {
        "offset": offset,
        "id": uuid.UUID(int=(0x0190 << 112) | (7 << 76) | (8 << 60) | offset),
        "source": "bank",
        "key": key,
        "type": "made",
        "time": "2024-06-14 00:00:00+00",
        "payload": b"p%d" % offset,
        "content_type": "application/json",
        "headers": "{}",
        "state": state,
        "attempts": 0 if state == "held" else 1,
        "delay_ms": 0 if state == "retrying" else None,
        "holds": key is not None,
        "error_class": None if state == "held" else "error",
        "sqlstate": None if state == "held" else "P0001",
        "error": None if state == "held" else "no money",
        **more,
    }


def add(session, *items):
    """The held messages of the group."""
    columns = (
        "offset id source key type time payload content_type headers state attempts delay_ms holds error_class sqlstate"
        " error"
    ).split()
    return session.one(ADD, *[[one[column] for one in items] for column in columns])


def aside(session, epoch, *items, version=0, extra=0):
    """A batch of nothing but failed messages (and `extra` applied ones behind them), committed."""
    first = stored_next(session)
    count = len(items) + extra
    session.do("BEGIN")
    session.do(OPEN, epoch, first, first + count, count, V7, version)
    held = add(session, *items)
    session.do(CLOSE, extra, 0, len(items))
    session.do("COMMIT")
    return held


def stored_next(session):
    return session.one("SELECT next_offset FROM txb.consumer_offset WHERE partition = 0")


def failed(db):
    """state by offset, in order."""
    return dict(db.root.do('SELECT "offset", state FROM txb.failed ORDER BY place'))


def history(db, offset):
    return db.root.do(
        'SELECT h.event, h.state, h.attempt FROM txb.failed_history AS h JOIN txb.failed AS f USING (number) '
        'WHERE f."offset" = %s ORDER BY h.at',
        offset,
    )


def counters(db):
    row = stored(db)
    assert row["consumed"] == row["applied"] + row["duplicate"] + row["failed"]
    assert row["held"] == db.root.one("SELECT count(*) FROM txb.failed WHERE state = 'held'")
    return row["consumed"], row["applied"], row["duplicate"], row["failed"]


def mark(session, epoch=1, rows=PLENTY[0], size=PLENTY[1]):
    """The offsets that were given out."""
    return [row[6] for row in session.do(MARK, epoch, rows, size) if row[2] is not None]


def settle(session, db, verdicts, epoch=1, version=0, release=False, delay_ms=60000, error_class="error"):
    """offset -> verdict, of the messages that are marked."""
    numbers = dict(db.root.do('SELECT "offset", number FROM txb.failed'))
    session.do("BEGIN")
    session.do(RETRY_OPEN, epoch, version)
    count = len(verdicts)
    result = session.do(
        SETTLE,
        [numbers[offset] for offset in verdicts],
        list(verdicts.values()),
        [delay_ms] * count,
        [error_class] * count,
        ["P0001"] * count,
        ["again"] * count,
        release,
    )
    session.do("COMMIT")
    return result


@pytest.fixture
def worker(db):
    """An owner at offset 0, in epoch 1."""
    session = db.session("worker")
    db.take(session)
    return session


# -- setting aside --------------------------------------------------------------------------------


def test_what_is_set_aside_is_kept_as_it_came(db, worker):
    key = bytes(range(256)) * 12  # longer than an index entry may be
    one = item(0, key, payload=bytes(range(256)), headers=json.dumps({"a": {"base64": "AA=="}}))
    assert aside(worker, 1, one) == 0
    row = db.root.row("SELECT * FROM txb.failed")
    assert (bytes(row["key"]), bytes(row["payload"])) == (key, one["payload"])
    assert row["headers"] == {"a": {"base64": "AA=="}} and row["id"] == one["id"]
    assert (row["source"], row["type"], row["content_type"]) == ("bank", "made", "application/json")
    assert (row["state"], row["attempts"], row["holds"], row["place"]) == ("retrying", 1, True, row["number"])
    assert (row["error_class"], row["sqlstate"], row["error"], row["handler"], row["worker"]) == (
        "error",
        "P0001",
        "no money",
        "shop.apply",
        "w1",
    )
    assert counters(db) == (1, 0, 0, 1) and history(db, 0) == [("failed", "retrying", 1)]


def test_a_batch_keeps_the_order_of_its_messages(db, worker):
    items = [item(n, b"k%d" % (n % 3), "retrying" if n < 3 else "held") for n in range(500)]
    assert aside(worker, 1, *items, extra=2) == 497
    assert list(failed(db)) == list(range(500))
    assert counters(db) == (502, 2, 0, 500)
    assert history(db, 0) == [("failed", "retrying", 1)] and history(db, 3) == [("behind", "held", None)]
    keys = {bytes(row[4]): row[5] for row in worker.do(KEYS)}
    assert keys == {b"k0": 167, b"k1": 167, b"k2": 166}


def test_nothing_is_set_aside_without_an_open_batch(db, worker):
    with refused("TXB03", "txb.failed_add"):
        add(worker, item(0))
    worker.do("BEGIN")
    worker.do(OPEN, 1, 0, 1, 1, V7, 0)
    with refused("22023", "retrying, held or dead"):
        add(worker, item(0, state="resolved"))
    worker.do("ROLLBACK")
    assert failed(db) == {} and stored(db)["next_offset"] == 0


def test_a_message_without_a_key_holds_nothing(db, worker):
    aside(worker, 1, item(0, None, holds=True), item(1, None))
    ((version, due, *rest),) = worker.do(KEYS)
    assert version == 0 and due <= 0 and rest == [0, 0, None, None]
    assert sorted(mark(worker)) == [0, 1]


def test_the_dead_let_go_of_their_key_where_the_group_wants_it(db, worker):
    """What came behind it in the very same batch is not left without a head."""
    assert aside(worker, 1, item(0, state="dead", holds=False), item(1, state="held"), item(2, state="held")) == 1
    assert failed(db) == {0: "dead", 1: "retrying", 2: "held"}
    assert history(db, 1) == [("behind", "held", None), ("ahead_done", "retrying", None)]
    assert counters(db) == (3, 0, 0, 3)


def test_the_dead_keep_their_key_otherwise(db, worker):
    aside(worker, 1, item(0, state="dead"), item(1, state="held"))
    assert failed(db) == {0: "dead", 1: "held"} and mark(worker) == []
    ((*rest, key, messages),) = worker.do(KEYS)
    assert rest == [0, None, 1, 1] and (bytes(key), messages) == (b"k", 2)


def test_a_message_that_is_here_already_stays_while_it_is_open_and_opens_again_when_closed(db, worker):
    """The position was set back by hand."""
    aside(worker, 1, item(0), item(1, state="held"), item(2, b"other"), item(3, b"other", "held"))
    assert sorted(mark(worker)) == [0, 2]
    settle(worker, db, {2: "applied"})
    db.root.do("SELECT txb.offset_set('g', 't', 0, 0, 'c1', 'again')")
    epoch = db.take(worker, start=None)["epoch"]
    before = db.root.do('SELECT * FROM txb.failed WHERE "offset" <> 2')
    again = [item(0, state="held"), item(1, state="held"), item(2, b"other", "held"), item(3, b"other", "held")]
    aside(worker, epoch, *again)
    assert db.root.do('SELECT * FROM txb.failed WHERE "offset" <> 2') == before
    order = [(0, "retrying"), (1, "held"), (3, "retrying"), (2, "held")]
    assert list(failed(db).items()) == order, "behind what its key has"
    assert counters(db) == (8, 1, 0, 7)


def test_nothing_is_held_behind_nothing(db, worker):
    """Whoever set it aside so was out of date about its key."""
    assert aside(worker, 1, item(0, state="held"), item(1, state="held"), item(2, b"l", "held")) == 1
    assert failed(db) == {0: "retrying", 1: "held", 2: "retrying"}
    counters(db)


def test_a_long_error_is_cut(db, worker):
    aside(worker, 1, item(0, error="x" * 100000))
    assert db.root.one("SELECT length(error) FROM txb.failed") == 4000
    assert db.root.one("SELECT length(error) FROM txb.failed_history") == 4000


# -- the batch ------------------------------------------------------------------------------------


def test_opening_compares_the_version_of_the_keys(db, worker):
    db.root.do("UPDATE txb.consumer_offset SET keys_version = 4")
    worker.do("BEGIN")
    with refused("TXB05", "txb.batch_open", "keys changed"):
        worker.do(OPEN, 1, 0, 1, 1, V7, 3)
    worker.do("ROLLBACK")
    for epoch, first, version in ((2, 0, 4), (1, 1, 4), (2, 0, 3), (1, 1, 3)):
        with refused("TXB01", "txb.batch_open"):
            worker.do(OPEN, epoch, first, first + 1, 1, V7, version)
    aside(worker, 1, item(0), version=4)
    assert failed(db) == {0: "retrying"}


def test_a_change_that_commits_while_the_batch_waits_for_the_row_is_seen(db, worker):
    """W2: the operator's transaction holds the row; what it did is behind the wait."""
    person = db.session()
    person.do("BEGIN")
    person.do("UPDATE txb.consumer_offset SET keys_version = keys_version + 1")
    worker.do("BEGIN")
    running = worker.start(OPEN, 1, 0, 1, 1, V7, 0)
    db.wait_until_waiting(worker)
    person.do("COMMIT")
    with refused("TXB05"):
        running.finish()


def test_a_cut_batch_moves_the_position_only_so_far(db, worker):
    worker.do("BEGIN")
    worker.do(OPEN, 1, 0, 10, 10, V7, 0)
    other = uuid.UUID(int=5)
    worker.do("SELECT txb.batch_cut('g', 't', 0, 4, 3, %s, 17)", other)
    add(worker, item(1))
    worker.do(CLOSE, 2, 0, 1)
    worker.do("COMMIT")
    row = stored(db)
    assert (row["next_offset"], row["last_offset"], row["last_id"], row["last_timestamp_ms"]) == (4, 3, other, 17)
    assert counters(db) == (3, 2, 0, 1)


@pytest.mark.parametrize("new_next,consumed", [(10, 3), (11, 3), (4, 10), (4, 0), (4, 11)])
def test_a_cut_only_makes_a_batch_smaller(db, worker, new_next, consumed):
    worker.do("BEGIN")
    worker.do(OPEN, 1, 0, 10, 10, V7, 0)
    with refused("TXB03", "txb.batch_cut"):
        worker.do("SELECT txb.batch_cut('g', 't', 0, %s, %s, %s, 17)", new_next, consumed, V7)
    worker.do("ROLLBACK")
    with refused("TXB03", "txb.batch_cut"):
        worker.do("SELECT txb.batch_cut('g', 't', 0, 4, 3, %s, 17)", V7)


# -- what is held ---------------------------------------------------------------------------------


def test_the_keys_come_with_their_version_and_the_next_time(db, worker):
    assert worker.do("SELECT * FROM txb.failed_keys('g', 't', 9, 10)") == []
    assert worker.do(KEYS) == [(0, None, 0, 0, None, None)]
    aside(worker, 1, item(0, b"\x00\xff", delay_ms=60000), item(1, b"\x00\xff", "held"), item(2, b"z", "dead"))
    aside(worker, 1, item(3, b"\x00\xff", "held"))
    rows = worker.do(KEYS)
    assert {(bytes(row[4]), row[5]) for row in rows} == {(b"\x00\xff", 3), (b"z", 1)}
    assert {row[2:4] for row in rows} == {(2, 2)} and all(50000 < row[1] <= 60000 for row in rows)
    db.root.do("UPDATE txb.consumer_offset SET keys_version = 7")
    db.root.do("UPDATE txb.failed SET next_attempt_at = now() - interval '5 s' WHERE state = 'retrying'")
    assert {row[0] for row in worker.do(KEYS)} == {7} and worker.do(KEYS)[0][1] < 0


def test_held_messages_are_counted_over_the_group(db, worker):
    other = db.session("worker")
    db.take(other, partition=1)
    aside(worker, 1, item(0), item(1, state="held"))
    other.do("BEGIN")
    other.do(OPEN.replace("'t', 0", "'t', 1"), 1, 0, 2, 2, V7, 0)
    columns = [[item(0), item(1, state="held")]]
    one = [
        [i[c] for i in columns[0]]
        for c in (
            "offset id source key type time payload content_type headers state attempts delay_ms holds error_class"
            " sqlstate error"
        ).split()
    ]
    assert other.one(ADD.replace("'t', 0", "'t', 1"), *one) == 2
    other.do(CLOSE.replace("'t', 0", "'t', 1"), 0, 0, 2)
    other.do("COMMIT")
    assert worker.do(KEYS)[0][2:4] == (1, 2)


# -- trying again ---------------------------------------------------------------------------------


def test_the_due_ones_come_in_their_time_and_those_to_come_do_not(db, worker):
    aside(worker, 1, *[item(n, b"k%d" % n, delay_ms=(5 - n) if n < 3 else 60000) for n in range(6)])
    db.root.do(
        "UPDATE txb.failed SET next_attempt_at = now() - (\"offset\" + 1) * interval '1 s' WHERE \"offset\" < 3"
    )
    rows = worker.do(MARK, 1, *PLENTY)
    assert [row[6] for row in rows] == [2, 1, 0]
    numbers = [row[2] for row in rows]
    assert stored(db)["suspect_failed"] == numbers and stored(db)["suspect_marked"]
    assert {row[0] for row in rows} == {0}
    assert not any(row[5] for row in rows) and [row[3] for row in rows] == [1, 1, 1]


def test_none_due_leaves_no_marker_and_tells_the_next_time(db, worker):
    aside(worker, 1, item(0, delay_ms=60000))
    (row,) = worker.do(MARK, 1, *PLENTY)
    assert row[0] == 0 and 50000 < row[1] <= 60000 and row[2] is None
    assert not stored(db)["suspect_marked"] and stored(db)["suspect_failed"] is None


def test_a_marker_about_what_somebody_has_closed_meanwhile_is_taken_in(db, worker):
    aside(worker, 1, item(0))
    assert mark(worker) == [0]
    db.root.do("UPDATE txb.failed SET state = 'discarded', resolution = 'discarded', holds = false")
    assert mark(worker) == []
    assert not stored(db)["suspect_marked"] and stored(db)["suspect_failed"] is None


def test_thousands_of_different_keys_come_in_one_go(db, worker):
    aside(worker, 1, *[item(n, b"k%d" % n) for n in range(3000)])
    assert sorted(mark(worker, rows=10000, size=1 << 30)) == list(range(3000))
    assert len(mark(worker, rows=1000)) == 1000
    assert stored(db)["suspect_failed"] is not None and len(stored(db)["suspect_failed"]) == 1000


def test_bytes_and_rows_limit_a_go_and_one_always_comes(db, worker):
    aside(worker, 1, *[item(n, b"k%d" % n, payload=b"x" * 1000) for n in range(5)])
    assert len(mark(worker, size=1)) == 1
    assert len(mark(worker, size=2500)) == 2
    assert stored(db)["suspect_marked"] and mark(worker, rows=0) == [] and not stored(db)["suspect_marked"]
    assert len(mark(worker, rows=1)) == 1
    assert len(mark(worker, rows=4)) == 4


def test_what_is_held_behind_comes_along_when_its_head_has_not_failed_before(db, worker):
    aside(worker, 1, item(0), *[item(n, state="held") for n in range(1, 5)])
    assert mark(worker) == [0], "most likely it fails again"
    settle(worker, db, {0: "applied"})
    assert failed(db) == {0: "resolved", 1: "retrying", 2: "held", 3: "held", 4: "held"}
    rows = worker.do(MARK, 1, *PLENTY)
    assert [(row[6], row[5], row[3]) for row in rows] == [(1, False, 0), (2, True, 0), (3, True, 0), (4, True, 0)]
    assert mark(worker, rows=3) == [1, 2, 3]
    assert mark(worker) == [1, 2, 3, 4]
    (row,) = settle(worker, db, {1: "applied", 2: "applied", 3: "duplicate", 4: "applied"})
    assert (row[0], row[1], bytes(row[2])) == (None, 0, b"k")
    assert counters(db) == (5, 4, 1, 0) and set(failed(db).values()) == {"resolved"}
    assert history(db, 3) == [("behind", "held", None), ("duplicate", "resolved", None)]
    assert history(db, 4) == [("behind", "held", None), ("applied", "resolved", 1)]


def test_one_of_a_key_that_fails_keeps_those_behind_it(db, worker):
    aside(worker, 1, item(0), *[item(n, state="held") for n in range(1, 5)])
    mark(worker)
    settle(worker, db, {0: "applied"})
    mark(worker)
    ((due, held, freed),) = settle(worker, db, {1: "applied", 2: "retrying", 3: "untouched"})
    assert 50000 < due <= 60000 and held == 2 and freed is None
    assert failed(db) == {0: "resolved", 1: "resolved", 2: "retrying", 3: "held", 4: "held"}
    assert history(db, 2) == [
        ("behind", "held", None),
        ("ahead_done", "retrying", None),
        ("failed", "retrying", 1),
    ]
    assert history(db, 3) == [("behind", "held", None)]
    assert counters(db) == (5, 2, 0, 3)


def test_another_key_of_the_same_hash_prefix_is_another_key(db, worker):
    aside(worker, 1, item(0, b"a"), item(1, b"b"), item(2, b"a", "held"), item(3, b"b", "held"))
    mark(worker)
    settle(worker, db, {0: "applied", 1: "retrying"})
    assert failed(db) == {0: "resolved", 1: "retrying", 2: "retrying", 3: "held"}


def test_a_dead_one_keeps_its_key_or_lets_go_as_the_group_wants(db, worker):
    aside(worker, 1, item(0), item(1, state="held"))
    mark(worker)
    assert [row[1:] for row in settle(worker, db, {0: "dead"})] == [(1, None)]
    assert failed(db) == {0: "dead", 1: "held"} and history(db, 0)[1] == ("failed", "dead", 2)
    aside(worker, 1, item(2, b"b"), item(3, b"b", "held"))
    mark(worker)
    settle(worker, db, {2: "dead"}, release=True)
    assert failed(db) == {0: "dead", 1: "held", 2: "dead", 3: "retrying"}
    assert {bytes(row[4]): row[5] for row in worker.do(KEYS)} == {b"k": 2, b"b": 1}
    aside(worker, 1, item(4, b"c"))
    assert mark(worker) == [3, 4] or mark(worker) == [4, 3]
    freed = settle(worker, db, {4: "dead", 3: "applied"}, release=True)
    assert {bytes(row[2]) for row in freed} == {b"b", b"c"}


def test_settling_needs_what_was_marked_and_opened(db, worker):
    aside(worker, 1, item(0), item(1, b"l", delay_ms=60000))
    with refused("TXB01", "txb.retry_open"):
        worker.do(RETRY_OPEN, 1, 0)
    mark(worker)
    with refused("TXB03", "txb.retry_settle"):
        worker.do(SETTLE, [], [], [], [], [], [], False)
    with refused("TXB01", "txb.retry_open"):
        worker.do(RETRY_OPEN, 2, 0)
    with refused("22023", "of the marker"):
        settle(worker, db, {1: "applied"})
    worker.do("ROLLBACK")
    with refused("22023", "untouched"):
        settle(worker, db, {0: "lost"})
    worker.do("ROLLBACK")
    worker.do("BEGIN")
    worker.do(RETRY_OPEN, 1, 0)
    with refused("TXB03"):
        worker.do("COMMIT")
    assert failed(db) == {0: "retrying", 1: "retrying"} and stored(db)["suspect_marked"]


def test_marking_is_fenced(db, worker):
    aside(worker, 1, item(0))
    with refused("TXB01", "txb.retry_mark"):
        mark(worker, epoch=2)
    with refused("TXB01", "txb.failed_condemn"):
        worker.do(CONDEMN, 2, 1, False)
    with refused("TXB01"):
        worker.do("SELECT * FROM txb.retry_mark('g', 't', 5, 1, 1, 1)")


def test_a_person_who_changes_what_is_marked_is_noticed(db, worker):
    aside(worker, 1, item(0))
    mark(worker)
    db.root.do("UPDATE txb.consumer_offset SET keys_version = keys_version + 1")
    with refused("TXB05", "txb.retry_open"):
        worker.do(RETRY_OPEN, 1, 0)
    assert mark(worker) == [0]
    settle(worker, db, {0: "applied"}, version=1)
    assert counters(db) == (1, 1, 0, 0)


def test_a_marker_waits_for_a_person_and_sees_what_was_done(db, worker):
    """W2: both change the same message; whoever comes second sees the first's work."""
    aside(worker, 1, item(0), item(1, b"l"))
    person = db.session()
    person.do("BEGIN")
    person.do("SELECT FROM txb.consumer_offset FOR UPDATE")
    running = worker.start(MARK, 1, *PLENTY)
    db.wait_until_waiting(worker)
    person.do("UPDATE txb.failed SET state = 'discarded', resolution = 'discarded', holds = false WHERE \"offset\" = 0")
    person.do("UPDATE txb.consumer_offset SET keys_version = keys_version + 1")
    person.do("COMMIT")
    assert [(row[0], row[6]) for row in running.finish()] == [(1, 1)]


def test_a_person_waits_for_a_retry_under_way(db, worker):
    aside(worker, 1, item(0))
    mark(worker)
    worker.do("BEGIN")
    worker.do(RETRY_OPEN, 1, 0)
    person = db.session()
    person.do("BEGIN")
    running = person.start("SELECT held FROM txb.consumer_offset FOR UPDATE")
    db.wait_until_waiting(person)
    worker.do("ROLLBACK")
    running.finish()
    person.do("ROLLBACK")


def test_a_free_key_is_one_that_no_open_message_holds(db, worker):
    aside(worker, 1, item(0), item(1, state="held"))
    mark(worker)
    ((_, _, freed),) = settle(worker, db, {0: "applied"})
    assert freed is None
    mark(worker)
    ((due, held, freed),) = settle(worker, db, {1: "applied"})
    assert (due, held, bytes(freed)) == (None, 0, b"k")
    assert worker.do(KEYS) == [(0, None, 0, 0, None, None)]


def test_attempts_go_on_from_owner_to_owner(db, worker):
    aside(worker, 1, item(0))
    for attempt in range(2, 6):
        epoch = db.take(worker, start=None)["epoch"]
        mark(worker, epoch)
        settle(worker, db, {0: "retrying"}, epoch, delay_ms=0)
        assert history(db, 0)[-1] == ("failed", "retrying", attempt)
        worker.do("SELECT txb.offset_release('g', 't', 0, %s)", epoch)
    assert db.root.one("SELECT attempts FROM txb.failed") == 5


# -- W10 ------------------------------------------------------------------------------------------


def test_a_death_among_many_makes_each_of_them_run_alone(db, worker):
    aside(worker, 1, item(0, b"a"), item(1, b"b"), item(2, b"c"))
    mark(worker)
    row = db.take(worker, start=None)
    assert (row["suspect"], row["suspect_died"], row["suspect_count"], row["suspect_deaths"]) == (True, False, 3, 0)
    assert len(row["suspect_failed"]) == 3 and row["suspect_offset"] is None
    worker.do("SELECT txb.offset_release('g', 't', 0, 2)")
    assert db.take(worker, start=None)["suspect_failed"] is None, "it is kept with the messages"
    for offset in (0, 1, 2):
        assert mark(worker, 3) == [offset]
        settle(worker, db, {offset: "retrying"}, 3)
    db.root.do("UPDATE txb.failed SET next_attempt_at = now()")
    assert len(mark(worker, 3)) == 3


def test_a_marker_that_is_left_in_good_order_is_a_suspicion_handed_on(db, worker):
    aside(worker, 1, item(0, b"a"), item(1, b"b"))
    mark(worker)
    worker.do("SELECT txb.offset_release('g', 't', 0, 1)")
    row = db.take(worker, start=None)
    assert (row["suspect"], row["suspect_died"], len(row["suspect_failed"])) == (True, False, 2)
    assert db.root.do("SELECT DISTINCT deaths, suspect FROM txb.failed") == [(0, True)]
    assert len(mark(worker, 2)) == 1


def test_two_deaths_under_its_own_marker_are_told_and_condemn(db, worker):
    aside(worker, 1, item(0), item(1, state="held"), item(2, b"other"))
    mark(worker)  # two of them
    row = db.take(worker, start=None)
    assert row["suspect_deaths"] == 0
    deaths = []
    for epoch in (2, 3):
        assert mark(worker, epoch) == [0]
        row = db.take(worker, start=None)
        assert row["suspect_died"] and row["suspect_count"] == 1
        deaths.append(row["suspect_deaths"])
    assert deaths == [1, 2]
    number = row["suspect_failed"][0]
    assert worker.do(CONDEMN, 4, number, False)[0][1:] == (1, None)
    assert failed(db) == {0: "dead", 1: "held", 2: "retrying"}
    assert history(db, 0) == [("failed", "retrying", 1), ("crashed", "dead", 2)]
    assert db.root.row('SELECT error_class, error, deaths, suspect FROM txb.failed WHERE "offset" = 0') == {
        "error_class": "crash",
        "error": "died twice",
        "deaths": 2,
        "suspect": False,
    }
    assert counters(db) == (3, 0, 0, 3)
    assert worker.do(CONDEMN, 4, number, False)[0][1:] == (1, None), "again it does nothing"
    assert len(history(db, 0)) == 2


def test_the_deaths_of_a_suspect_come_with_it_when_its_owner_left_in_good_order(db, worker):
    aside(worker, 1, item(0))
    for epoch in (1, 2, 3):
        mark(worker, epoch)
        db.take(worker, start=None)
    worker.do("SELECT txb.offset_release('g', 't', 0, 4)")
    db.take(worker, start=None)
    (row,) = worker.do(MARK, 5, *PLENTY)
    assert row[4] == 2


def test_a_death_that_meets_one_that_was_due_alone_makes_it_suspect_and_counts_from_the_next(db, worker):
    aside(worker, 1, item(0))
    deaths = []
    for epoch in (1, 2, 3):
        assert mark(worker, epoch) == [0]
        row = db.take(worker, start=None)
        assert row["suspect_died"] and row["suspect_count"] == 1
        deaths.append(row["suspect_deaths"])
    assert deaths == [0, 1, 2], "who kills a worker that happens to try one message condemns nobody by it"


def test_a_condemned_one_lets_go_of_its_key_where_the_group_wants_it(db, worker):
    aside(worker, 1, item(0), item(1, state="held"))
    number = db.root.one('SELECT number FROM txb.failed WHERE "offset" = 0')
    assert worker.do(CONDEMN, 1, number, True)[0][1:] == (0, None)
    assert failed(db) == {0: "dead", 1: "retrying"}
    counters(db)


def test_a_person_s_second_chance_forgets_the_deaths(db, worker):
    aside(worker, 1, item(0), item(1, b"other"))
    number = db.root.one('SELECT number FROM txb.failed WHERE "offset" = 0')
    db.root.do('UPDATE txb.failed SET deaths = 2 WHERE "offset" = 0')
    worker.do(CONDEMN, 1, number, False)
    db.root.do("UPDATE txb.failed SET state = 'retrying', attempts = 0, next_attempt_at = now() WHERE state = 'dead'")
    assert sorted(row[4] for row in worker.do(MARK, 1, *PLENTY)) == [0, 0]


def test_the_same_life_that_comes_back_has_not_died_but_what_it_ran_is_suspected(db):
    life = uuid.uuid4()
    worker = db.session("worker")
    db.take(worker, instance=life)
    aside(worker, 1, item(0, b"a"), item(1, b"b"))
    mark(worker)
    row = db.take(worker, start=None, instance=life)
    assert (row["suspect"], row["suspect_died"], row["suspect_deaths"]) == (True, False, 0)
    assert db.root.do("SELECT DISTINCT deaths, suspect FROM txb.failed") == [(0, True)]
    for offset in (0, 1):
        assert mark(worker, 2) == [offset], "its session may have died of one of them"
        settle(worker, db, {offset: "applied"}, 2)
    assert counters(db) == (2, 2, 0, 0)


def test_a_marker_about_a_record_and_one_about_failed_ones_don_t_count_for_each_other(db, worker):
    aside(worker, 1, item(0))
    mark_record = "SELECT txb.suspect_mark('g', 't', 0, %s, 1, 1)"
    worker.do(mark_record, 1)
    assert db.take(worker, start=None)["suspect_deaths"] == 1
    mark(worker, 2)
    row = db.take(worker, start=None)
    assert (row["suspect_deaths"], len(row["suspect_failed"])) == (0, 1)
    assert worker.one(mark_record, 3) == 1, "one of its own"
    assert stored(db)["suspect_failed"] is None
    row = db.take(worker, start=None)
    assert (row["suspect_deaths"], row["suspect_offset"], row["suspect_failed"]) == (2, 1, None)


def test_a_live_message_that_crashed_is_dead_at_once(db, worker):
    aside(worker, 1, item(0, state="dead", error_class="crash", sqlstate=None, error="died twice"))
    assert history(db, 0) == [("crashed", "dead", 1)]
    assert db.root.one("SELECT deaths FROM txb.failed") == 2


# -- speed ----------------------------------------------------------------------------------------


def plan(db, sql):
    return "\n".join(row[0] for row in db.root.do("EXPLAIN " + sql))


def test_a_key_is_found_by_its_own_index_before_anybody_has_counted_the_rows(db, worker):
    db.root.do("ALTER TABLE txb.failed SET (autovacuum_enabled = off)")
    aside(worker, 1, *[item(offset, b"k%d" % offset) for offset in range(14000)])
    text = plan(
        db,
        "SELECT n.number FROM unnest('{k1,k2}'::bytea[]) AS k (key)"
        " LEFT JOIN LATERAL (SELECT f.number FROM txb.failed AS f"
        " WHERE f.side = 'consumer' AND f.holds AND f.group_name = 'g' AND f.topic = 't' AND f.partition = 0"
        " AND sha256(f.key) = sha256(k.key) AND f.key = k.key ORDER BY f.place LIMIT 1) AS n ON true",
    )
    assert "failed_open_key" in text and "sha256" in text.split("Index Cond")[1].split("\n")[0], text


def test_what_is_due_and_what_is_held_is_found_by_index_among_a_hundred_thousand(db, worker):
    db.root.do(
        """INSERT INTO txb.failed (number, place, side, state, group_name, topic, partition, "offset", id, key, holds,
                                   next_attempt_at, resolution)
           OVERRIDING SYSTEM VALUE
           SELECT n, n, 'consumer', s, 'g', 't', n % 4, n, txb.uuid_v7(), ('key' || n % 1000)::bytea,
                  s IN ('retrying', 'held'),
                  CASE WHEN s = 'retrying' THEN now() + n * interval '1 s' END,
                  CASE WHEN s = 'resolved' THEN 'applied' END
             FROM generate_series(1, 100000) AS n,
                  LATERAL (SELECT CASE WHEN n <= 1000 THEN 'retrying' WHEN n % 2 = 0 THEN 'held'
                                       ELSE 'resolved' END) AS u (s);
           ANALYZE txb.failed"""
    )
    place = "side = 'consumer' AND group_name = 'g' AND topic = 't' AND partition = 0"
    due = plan(db, f"SELECT * FROM txb.failed WHERE {place} AND state = 'retrying' AND next_attempt_at <= now() "
                   "ORDER BY next_attempt_at LIMIT 1000")  # fmt: skip
    assert "failed_next" in due and "Sort" not in due and "Seq Scan" not in due
    key = plan(db, f"SELECT * FROM txb.failed WHERE {place} AND holds AND sha256(key) = sha256('key4') "
                   "AND key = 'key4' AND place > 7 ORDER BY place LIMIT 1000")  # fmt: skip
    assert "failed_open_key" in key and "Sort" not in key and "Seq Scan" not in key
    alone = plan(db, f"SELECT * FROM txb.failed WHERE suspect AND {place}")
    assert "Seq Scan" not in alone


def test_the_functions_scan_no_whole_table_among_twenty_thousand(db, worker):
    """The plans of the statements inside, as the server tells them."""
    aside(worker, 1, *[item(n, b"k%d" % (n % 10), "retrying" if n < 10 else "held") for n in range(20000)])
    db.root.do("ANALYZE txb.failed")
    db.root.do(
        "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on; "
        "SET client_min_messages = log"
    )
    session = db.root
    numbers = [row[2] for row in session.do(MARK, 1, 10, 1 << 20)]
    session.do("BEGIN")
    session.do(RETRY_OPEN, 1, 0)
    count = len(numbers)
    session.do(
        SETTLE, numbers, ["applied"] * count, [0] * count, [None] * count, [None] * count, [None] * count, False
    )
    session.do("COMMIT")
    assert len(session.do(MARK, 1, 1000, 1 << 20)) == 1000
    plans = "".join(session.connection.notices)
    assert "failed_open_key" in plans and "failed_next" in plans
    assert "Seq Scan on failed" not in plans, plans
