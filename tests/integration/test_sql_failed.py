"""Failed messages of the consumer's side: setting aside, the batch that does it, held keys, and how fast they are found."""

import json
import uuid

import pytest
from failedtest import (
    ADD,
    CLOSE,
    KEYS,
    MARK,
    OPEN,
    RETRY_OPEN,
    SETTLE,
    add,
    aside,
    counters,
    failed,
    history,
    item,
    mark,
    owner,
    settle,
)
from sqltest import V7, refused, stored


@pytest.fixture
def worker(db):
    return owner(db)


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
