"""The consumer's functions: fence, batch, stall, crash-poison, outcomes."""

import pytest
from sqltest import V7, refused, stored

OPEN = "SELECT txb.batch_open('g', 't', 0, %s, %s, %s, %s, %s, 1700000000000, 0)"
TAKE = "SELECT epoch, next_offset FROM txb.offset_take('g', 't', 0, 'w2', gen_random_uuid(), 'c1')"
CLOSE = "SELECT txb.batch_close('g', 't', 0, %s, %s)"


def batch(session, epoch, first, past, applied=None, duplicate=0):
    """One whole batch in a transaction."""
    session.do("BEGIN")
    session.do(OPEN, epoch, first, past, past - first, V7)
    session.do(CLOSE, past - first if applied is None else applied, duplicate)
    session.do("COMMIT")


# -- taking and giving back -----------------------------------------------------------------------


def test_a_partition_begins_where_it_is_registered_first(db):
    worker = db.session("worker")
    assert db.take(worker, start=None) is None
    register = "SELECT txb.offset_register('g', 't', %s, %s, 'c1')"
    assert worker.one(register, [1, 0], [7, 42]) == 2
    assert worker.one(register, [0, 1, 2], [0, 0, 9]) == 1, "positions that exist stay"
    row = db.take(worker, start=None)
    assert (row["next_offset"], row["epoch"], row["suspect"], row["stalled_offset"], row["due_ms"]) == (
        42,
        1,
        False,
        None,
        0,
    )
    kept = stored(db)
    assert (kept["owner"], kept["backend_pid"], kept["cluster_id"], kept["taken_offset"]) == (
        "w1",
        worker.pid,
        "c1",
        42,
    )
    assert kept["busy"] and kept["consumed"] == 0
    assert worker.do("SELECT partition, next_offset FROM txb.consumer_offset ORDER BY partition") == [
        (0, 42),
        (1, 7),
        (2, 9),
    ]
    with refused("23514", "consumer_offset_next"):
        worker.do(register, [3], [-1])
    with refused("22023", "a partition is negative"):
        worker.do(register, [-1], [0])
    with refused("22023", "2 partitions and 1 offsets"):
        worker.do(register, [4, 5], [0])


def test_every_owner_raises_the_epoch_and_keeps_the_position(db):
    first, second = db.session("worker"), db.session("worker")
    db.take(first, start=10)
    batch(first, 1, 10, 15)
    row = db.take(second, owner="w2")
    assert (row["epoch"], row["next_offset"], str(row["last_id"]), row["last_timestamp_ms"]) == (
        2,
        15,
        V7,
        1700000000000,
    )
    assert (stored(db)["owner"], stored(db)["backend_pid"]) == ("w2", second.pid)
    with refused("TXB01", "epoch 2, next offset 15, owner w2"):
        first.do(OPEN, 1, 15, 16, 1, V7)


def test_two_that_take_a_partition_at_once_get_one_epoch_each(db):
    first, second = db.session("worker", transaction=True), db.session("worker")
    second.do("SELECT txb.offset_register('g', 't', '{0}', '{5}', 'c1')")
    assert db.take(first, start=None)["epoch"] == 1
    running = second.start(TAKE)
    db.wait_until_waiting(second)
    first.do("COMMIT")
    assert running.finish() == [(2, 5)]


def test_two_that_register_a_topic_at_once_agree_on_the_first(db):
    first, second = db.session("worker", transaction=True), db.session("worker")
    assert first.one("SELECT txb.offset_register('g', 't', '{0,1}', '{5,6}', 'c1')") == 2
    running = second.start("SELECT txb.offset_register('g', 't', '{1,0}', '{70,80}', 'c1')")
    db.wait_until_waiting(second)
    first.do("COMMIT")
    assert running.finish() == [(0,)]
    assert (stored(db, 0)["next_offset"], stored(db, 1)["next_offset"]) == (5, 6)


def test_another_cluster_is_refused_until_somebody_decides(db):
    worker, admin = db.session("worker"), db.session("admin")
    db.take(worker, cluster="c1")
    batch(worker, 1, 0, 5)
    with refused("TXB04", 'group "g"', "cluster c1", "cluster c2", "txb.offset_set"):
        db.take(worker, cluster="c2")
    assert db.take(worker, cluster="")["epoch"] == 2, "a cluster that does not tell its id"
    with refused("22023", "reason"):
        admin.do("SELECT txb.offset_set('g', 't', 0, 2, 'c2', '')")
    assert admin.one("SELECT txb.offset_set('g', 't', 0, 2, 'c2', 'moved')") == 3
    with refused("TXB01"):
        worker.do(OPEN, 2, 5, 6, 1, V7)
    row = db.take(worker, cluster="c2")
    assert (row["epoch"], row["next_offset"], row["last_id"]) == (4, 2, None)
    assert (stored(db)["consumed"], stored(db)["last_error"]) == (5, "position set by login_admin: moved")


def test_giving_back_in_good_order_leaves_it_clean(db):
    worker = db.session("worker")
    db.take(worker)
    assert worker.one("SELECT txb.offset_release('g', 't', 0, 7)") is False
    assert worker.one("SELECT txb.offset_release('g', 't', 0, 1)") is True
    row = stored(db)
    assert (row["owner"], row["instance"], row["backend_pid"], row["busy"]) == (None, None, None, False)
    assert not db.take(worker)["suspect"]


def test_a_successor_waits_for_the_open_batch_and_then_fences_it(db):
    first, second = db.session("worker"), db.session("worker")
    db.take(first)
    first.do("BEGIN")
    first.do(OPEN, 1, 0, 5, 5, V7)
    running = second.start(TAKE)
    db.wait_until_waiting(second)
    first.do(CLOSE, 5, 0)
    first.do("COMMIT")
    assert running.finish() == [(2, 5)]


EVICT = "SELECT txb.offset_evict('g', 't', 0)"


def test_a_successor_may_end_a_stopped_owner_of_the_same_role(db):
    """W3: the owner's process is stopped in the middle of a batch; its backend holds the row."""
    first, second = db.session("worker"), db.session("worker")
    first.do("SET application_name = 'txbroker worker g'")
    db.take(first)
    first.do("BEGIN")
    first.do(OPEN, 1, 0, 5, 5, V7)
    running = second.start(TAKE)
    db.wait_until_waiting(second)
    assert db.session("worker").one(EVICT) == first.pid
    assert running.finish() == [(2, 0)]
    assert stored(db)["consumed"] == 0
    assert db.session("worker").one(EVICT) is None, "the new owner's name is not a worker's"


def test_only_a_worker_of_the_same_role_and_only_the_one_that_took_it_is_ended(db):
    first, second = db.session("worker"), db.session("worker")
    db.root.do("CREATE ROLE other_worker LOGIN IN ROLE txb_worker")
    try:
        db.take(first)
        assert second.one(EVICT) is None, "an application's session that happens to have the pid"
        first.do("SET application_name = 'txbroker worker g'")
        assert first.one(EVICT) is None, "nobody ends himself"
        with db.server.session(db.name, user="other_worker") as stranger, stranger.cursor() as cursor:
            cursor.execute(EVICT)
            assert cursor.fetchone() == (None,)
        db.root.do(
            "UPDATE txb.consumer_offset SET taken_at = (SELECT backend_start FROM pg_stat_activity WHERE pid = %s)"
            " - interval '1 s'",
            first.pid,
        )
        assert second.one(EVICT) is None, "a pid that was used again"
    finally:
        db.root.do("DROP ROLE other_worker")


# -- the batch ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "epoch,first,past,words",
    [(2, 0, 5, "epoch 1"), (0, 0, 5, "epoch 1"), (1, 1, 5, "next offset 0"), (1, 0, 0, "next offset 0")],
)
def test_opening_compares_epoch_and_position(db, epoch, first, past, words):
    """W1: it raises. In a pipeline zero rows would be no error, and a zombie's effects would be committed."""
    worker = db.session("worker")
    db.take(worker)
    worker.do("BEGIN")
    with refused("TXB01", "txb.batch_open", words):
        worker.do(OPEN, epoch, first, past, past - first, V7)
    worker.do("COMMIT")
    assert stored(db)["next_offset"] == 0


def test_a_batch_moves_position_and_counters_together(db):
    worker = db.session("worker")
    db.take(worker, start=100)
    batch(worker, 1, 100, 110, applied=7, duplicate=3)
    batch(worker, 1, 110, 111)
    row = stored(db)
    assert (row["next_offset"], row["consumed"], row["applied"], row["duplicate"], row["failed"]) == (111, 11, 8, 3, 0)
    assert str(row["last_id"]) == V7 and row["last_timestamp_ms"] == 1700000000000 and row["batch_open"] is False


def test_counts_must_add_up(db):
    """Invariant Q, in the table itself."""
    worker = db.session("worker")
    db.take(worker)
    worker.do("BEGIN")
    worker.do(OPEN, 1, 0, 10, 10, V7)
    with refused("23514", "consumer_offset_balance"):
        worker.do(CLOSE, 8, 1)
    worker.do("ROLLBACK")
    worker.do("BEGIN")
    worker.do(OPEN, 1, 0, 10, 10, V7)
    worker.do("SELECT txb.batch_close('g', 't', 0, 8, 1, 1)")
    worker.do("COMMIT")
    assert (stored(db)["consumed"], stored(db)["failed"]) == (10, 1)


def test_offsets_may_have_gaps(db):
    """Compaction, transactions of other producers: more offsets than messages."""
    worker = db.session("worker")
    db.take(worker)
    worker.do("BEGIN")
    worker.do(OPEN, 1, 0, 50, 3, V7)
    worker.do(CLOSE, 3, 0)
    worker.do("COMMIT")
    assert (stored(db)["next_offset"], stored(db)["consumed"]) == (50, 3)


def test_passing_moves_the_position_alone(db):
    worker = db.session("worker")
    epoch = db.take(worker)["epoch"]
    batch(worker, epoch, 0, 4)
    worker.do("SELECT txb.offset_pass('g', 't', 0, %s, 4, 6)", epoch)
    row = stored(db)
    assert (row["next_offset"], row["last_offset"], row["consumed"]) == (6, 3, 4)
    for wrong in ((epoch, 4, 7), (epoch - 1, 6, 7), (epoch, 6, 6), (epoch, 6, 5)):
        with refused("TXB01"):
            worker.do("SELECT txb.offset_pass('g', 't', 0, %s, %s, %s)", *wrong)
    taken = db.take(worker, start=None)
    assert (taken["next_offset"], taken["last_offset"]) == (6, 3)
    # No progress that would clear an owner that dies now.
    worker.do("SELECT txb.offset_pass('g', 't', 0, %s, 6, 8)", taken["epoch"])
    assert db.take(worker, start=None)["suspect"]


def test_nothing_is_passed_where_a_message_stalls(db):
    worker = db.session("worker")
    epoch = db.take(worker)["epoch"]
    worker.do("SELECT txb.batch_stall('g', 't', 0, %s, 0, 1, 1000, 'retry', 'x', NULL, false)", epoch)
    with refused("TXB01"):
        worker.do("SELECT txb.offset_pass('g', 't', 0, %s, 0, 1)", epoch)
    assert stored(db)["next_offset"] == 0


def test_closing_needs_an_open_batch_and_opening_none(db):
    worker = db.session("worker")
    db.take(worker)
    with refused("TXB03", "txb.batch_close", "must not end the transaction"):
        worker.do(CLOSE, 0, 0)
    worker.do("BEGIN")
    worker.do(OPEN, 1, 0, 1, 1, V7)
    with refused("TXB01", "txb.batch_open"):
        worker.do(OPEN, 1, 1, 2, 1, V7)
    worker.do("ROLLBACK")


def test_two_batches_of_one_transaction_are_possible_when_closed(db):
    worker = db.session("worker")
    db.take(worker)
    worker.do("BEGIN")
    for first in (0, 1):
        worker.do(OPEN, 1, first, first + 1, 1, V7)
        worker.do(CLOSE, 1, 0)
    worker.do("COMMIT")
    assert stored(db)["consumed"] == 2


# -- W11: nobody commits an open batch ------------------------------------------------------------


def open_batch(db):
    worker = db.session("worker")
    db.take(worker)
    worker.do("BEGIN")
    worker.do(OPEN, 1, 0, 1, 1, V7)
    return worker


def nothing_was_committed(db):
    row = stored(db)
    return row["next_offset"] == 0 and row["consumed"] == 0 and not row["batch_open"]


def test_the_commit_of_an_open_batch_is_refused(db):
    worker = open_batch(db)
    with refused("TXB03", "group g, topic t, partition 0", "A handler must not end the transaction"):
        worker.do("COMMIT")
    assert nothing_was_committed(db)


def test_a_batch_that_opens_outside_a_transaction_is_refused(db):
    worker = db.session("worker")
    db.take(worker)
    with refused("TXB03"):
        worker.do(OPEN, 1, 0, 1, 1, V7)
    assert nothing_was_committed(db)


def test_preparing_an_open_batch_is_refused(db):
    worker = open_batch(db)
    with refused("TXB03"):
        worker.do("PREPARE TRANSACTION 'x'")
    assert nothing_was_committed(db)


@pytest.mark.parametrize(
    "game",
    [
        "SET CONSTRAINTS ALL IMMEDIATE",
        "SET CONSTRAINTS txb.batch_is_closed IMMEDIATE",
        "DO $$ BEGIN SET CONSTRAINTS ALL IMMEDIATE; END $$",
    ],
)
def test_immediate_constraints_only_refuse_earlier(db, game):
    worker = open_batch(db)
    with refused("TXB03", "name the constraints"):
        worker.do(game)
    worker.do("ROLLBACK")
    assert nothing_was_committed(db)


@pytest.mark.parametrize(
    "game",
    [
        "DO $$ BEGIN SET CONSTRAINTS ALL IMMEDIATE; EXCEPTION WHEN OTHERS THEN NULL; END $$",
        "DO $$ BEGIN SET CONSTRAINTS ALL IMMEDIATE; EXCEPTION WHEN OTHERS THEN SET CONSTRAINTS ALL DEFERRED; END $$",
        "SET CONSTRAINTS ALL DEFERRED",
        "SAVEPOINT a; SET CONSTRAINTS ALL DEFERRED; ROLLBACK TO a",
    ],
)
def test_games_with_constraints_do_not_get_an_open_batch_committed(db, game):
    worker = open_batch(db)
    worker.do(game)
    with refused("TXB03"):
        worker.do("COMMIT")
    assert nothing_was_committed(db)


def test_constraints_set_immediate_before_the_batch_refuse_it_at_once(db):
    worker = db.session("worker")
    db.take(worker)
    worker.do("BEGIN; SET CONSTRAINTS ALL IMMEDIATE")
    with refused("TXB03"):
        worker.do(OPEN, 1, 0, 1, 1, V7)


def test_a_handler_may_check_its_own_constraints(db):
    db.root.do(
        """CREATE TABLE a (id int PRIMARY KEY, b int); GRANT ALL ON a TO login_worker;
                  ALTER TABLE a ADD CONSTRAINT a_b FOREIGN KEY (b) REFERENCES a DEFERRABLE INITIALLY DEFERRED"""
    )
    worker = open_batch(db)
    worker.do("INSERT INTO a VALUES (1, 1); SET CONSTRAINTS a_b IMMEDIATE")
    worker.do(CLOSE, 1, 0)
    worker.do("COMMIT")
    assert stored(db)["next_offset"] == 1


def test_savepoints_of_handlers_do_no_harm(db):
    worker = open_batch(db)
    worker.do("SAVEPOINT a")
    worker.do("INSERT INTO txb.inbox (group_name, message_id) VALUES ('g', %s)", V7)
    worker.do("ROLLBACK TO a")
    worker.do(CLOSE, 1, 0)
    worker.do("COMMIT")
    assert stored(db)["next_offset"] == 1 and db.root.one("SELECT count(*) FROM txb.inbox") == 0


def test_closing_in_a_savepoint_that_is_undone_leaves_it_open(db):
    worker = open_batch(db)
    worker.do("SAVEPOINT a")
    worker.do(CLOSE, 1, 0)
    worker.do("ROLLBACK TO a")
    with refused("TXB03"):
        worker.do("COMMIT")
    assert nothing_was_committed(db)


# -- stalls ---------------------------------------------------------------------------------------

STALL = "SELECT txb.batch_stall('g', 't', 0, %s, %s, %s, 60000, 'retry', 'no money', 'P0001', false)"


def test_a_stall_is_recorded_kept_and_cleared(db):
    first, second = db.session("worker"), db.session("worker")
    db.take(first)
    batch(first, 1, 0, 5)
    first.do(STALL, 1, 5, 1)
    since = stored(db)["stalled_since"]
    first.do(STALL, 1, 5, 2)
    row = db.take(second, owner="w2")  # a rebalance: attempts go on
    assert (row["stalled_offset"], row["attempts"]) == (5, 2) and 50000 < row["due_ms"] <= 60000
    row = stored(db)
    assert (row["last_outcome"], row["last_error"], row["last_sqlstate"]) == ("retry", "no money", "P0001")
    assert row["stalled_since"] == since and row["next_attempt_at"] > since
    with refused("TXB01", "txb.batch_stall"):
        first.do(STALL, 1, 5, 3)
    batch(second, 2, 5, 6)
    row = stored(db)
    cleared = ("stalled_offset", "stalled_since", "next_attempt_at", "last_error", "last_sqlstate", "last_outcome")
    assert [row[c] for c in cleared] == [None] * 6 and row["attempts"] == 0


def test_the_next_stall_has_its_own_time_and_one_behind_is_refused(db):
    worker = db.session("worker")
    db.take(worker)
    worker.do(STALL, 1, 0, 1)
    since = stored(db)["stalled_since"]
    batch(worker, 1, 0, 3)
    worker.do(STALL, 1, 4, 1)
    assert stored(db)["stalled_since"] > since
    with refused("TXB01"):
        worker.do(STALL, 1, 2, 1)


def test_a_stall_that_waits_for_a_person_is_never_due(db):
    worker = db.session("worker")
    db.take(worker)
    worker.do("SELECT txb.batch_stall('g', 't', 0, 1, 0, 1, NULL, 'stopped', 'recreated topic', NULL, false)")
    assert stored(db)["next_attempt_at"] is None and stored(db)["last_outcome"] == "stopped"


def test_a_long_error_is_cut(db):
    worker = db.session("worker")
    db.take(worker)
    worker.do("SELECT txb.batch_stall('g', 't', 0, 1, 0, 1, 1, 'error', repeat('x', 100000), NULL, false)")
    assert len(stored(db)["last_error"]) == 4000


# -- W10: crash-poison ----------------------------------------------------------------------------

MARK = "SELECT txb.suspect_mark('g', 't', 0, %s, %s, %s)"


def test_found_busy_is_suspect_whatever_its_owner_had_done(db):
    worker = db.session("worker")
    db.take(worker)
    batch(worker, 1, 0, 5)
    assert db.take(worker)["suspect"], "it died, and may do so again at the next message"
    assert db.take(worker)["suspect"]
    batch(worker, 3, 5, 6)
    worker.do("SELECT txb.offset_release('g', 't', 0, 3)")
    assert not db.take(worker)["suspect"]


def test_the_same_life_that_comes_back_has_not_died(db):
    """Its connection was lost: no death, nothing suspect, even under a marker."""
    worker = db.session("worker")
    life = "00000000-0000-4000-8000-000000000001"
    db.take(worker, instance=life)
    row = db.take(worker, instance=life)
    assert (row["epoch"], row["suspect"], row["suspect_died"]) == (2, False, False)
    worker.do(MARK, 2, 0, 1)
    row = db.take(worker, instance=life)
    assert (row["suspect_died"], row["suspect_deaths"]) == (False, 0)


def test_a_suspect_dies_twice_under_its_own_marker(db):
    worker = db.session("worker")
    db.take(worker)
    assert worker.one(MARK, 1, 0, 1) == 0
    row = db.take(worker)  # its owner died
    assert (row["suspect_offset"], row["suspect_deaths"], row["suspect_died"]) == (0, 1, True)
    row = db.take(worker)  # died again, but before it put the marker out
    assert (row["suspect_deaths"], row["suspect_died"], row["suspect"]) == (1, False, True)
    assert worker.one(MARK, 3, 0, 1) == 1
    assert db.take(worker)["suspect_deaths"] == 2
    with refused("TXB01", "txb.suspect_mark"):
        worker.do(MARK, 3, 0, 1)
    batch(worker, 4, 0, 1)
    row = stored(db)
    assert [row[c] for c in ("suspect_offset", "suspect_count", "suspect_marked", "suspect_deaths")] == [
        None,
        0,
        False,
        0,
    ]


def test_a_death_under_a_marker_of_many_is_nobodys(db):
    worker = db.session("worker")
    db.take(worker)
    worker.do(MARK, 1, 0, 100)
    row = db.take(worker)
    assert (row["suspect"], row["suspect_offset"], row["suspect_count"], row["suspect_deaths"]) == (True, 0, 100, 0)


def test_another_suspect_begins_at_zero(db):
    worker = db.session("worker")
    db.take(worker)
    worker.do(MARK, 1, 0, 1)
    db.take(worker)
    assert worker.one(MARK, 2, 1, 1) == 0


def test_a_stall_takes_the_marker_in_and_keeps_the_suspect_if_told(db):
    worker = db.session("worker")
    stall = "SELECT txb.batch_stall('g', 't', 0, %s, 0, 1, 1000, 'crash', 'died twice', NULL, %s)"
    db.take(worker)
    worker.do(MARK, 1, 0, 1)
    assert db.take(worker)["suspect_deaths"] == 1
    worker.do(MARK, 2, 0, 1)
    worker.do(stall, 2, True)
    row = db.take(worker)
    assert (row["suspect_deaths"], row["suspect_died"], row["suspect_offset"]) == (1, False, 0)
    worker.do(MARK, 3, 0, 1)
    worker.do(stall, 3, False)
    assert (stored(db)["suspect_offset"], stored(db)["suspect_deaths"]) == (None, 0)


def test_a_clean_end_is_no_death_and_forgets_none(db):
    worker = db.session("worker")
    db.take(worker)
    worker.do(MARK, 1, 0, 1)
    worker.do("SELECT txb.offset_release('g', 't', 0, 1)")
    row = db.take(worker)
    assert (row["suspect_deaths"], row["suspect_died"]) == (0, False)
    worker.do(MARK, 2, 0, 1)
    assert db.take(worker)["suspect_deaths"] == 1
    worker.do("SELECT txb.offset_release('g', 't', 0, 3)")
    row = db.take(worker)
    assert (row["suspect"], row["suspect_offset"], row["suspect_deaths"]) == (True, 0, 1)


def test_a_marker_on_what_is_done_is_refused(db):
    worker = db.session("worker")
    db.take(worker)
    batch(worker, 1, 0, 5)
    with refused("TXB01"):
        worker.do(MARK, 1, 3, 1)


# -- handlers -------------------------------------------------------------------------------------


def test_outcomes(db):
    worker = db.session("worker")
    assert worker.do("SELECT (txb.ok()).*") == [("ok", None, None, None)]
    assert worker.do("SELECT (txb.ok('{\"a\": 1}')).*") == [("ok", {"a": 1}, None, None)]
    assert worker.do("SELECT (txb.refuse('no')).*") == [("refuse", None, "no", None)]
    assert worker.do("SELECT (txb.retry()).outcome, (txb.retry(interval '2 s', 'later')).reason") == [
        ("retry", "later")
    ]
    assert worker.do("SELECT (txb.dead('broken')).*") == [("dead", None, "broken", None)]


def test_an_answer_that_is_not_ok_is_raised_with_its_offset(db):
    """W5: the COMMIT behind it in the pipeline becomes a ROLLBACK."""
    worker = db.session("worker")
    for answer, words in (
        ("txb.refuse('no money')", "offset=7 outcome=refuse after_ms=0: no money"),
        ("txb.retry(interval '1.5 s', 'later')", "offset=7 outcome=retry after_ms=1500: later"),
        ("txb.retry()", "offset=7 outcome=retry after_ms=0: no reason given"),
        ("txb.dead('broken')", "offset=7 outcome=dead after_ms=0: broken"),
        ("NULL", "offset=7 outcome=null after_ms=0: the handler returned no outcome"),
    ):
        with refused("TXB02", words):
            worker.do(f"SELECT txb.not_ok(7, {answer})")


def test_a_message_of_binary_keys_is_shown_as_text(db):
    worker = db.session("worker")
    assert worker.do(
        "SELECT txb.key_text('ä'::bytea), txb.key_text('\\xff00'), txb.key_text('\\x6100'), txb.key_text(NULL)"
    ) == [("ä", "\\xff00", "\\x6100", None)]


def test_deliver_sets_the_delivery_once_a_message_in_order(db):
    """The form of the worker's statement: the subquery's order is the handlers' order, each under its own delivery."""
    db.root.do(
        """CREATE SCHEMA shop; GRANT ALL ON SCHEMA shop TO login_worker; CREATE TABLE shop.seen (n serial, id uuid,
           delivery text, published uuid);
                  GRANT ALL ON ALL TABLES IN SCHEMA shop TO login_worker;
                    GRANT ALL ON ALL SEQUENCES IN SCHEMA shop TO login_worker"""
    )
    worker = db.session("worker")
    worker.do(
        """CREATE FUNCTION shop.handle(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$ BEGIN
                   INSERT INTO shop.seen (id, delivery, published) SELECT m.id, current_setting('txb.delivery'),
                     txb.publish('t', 'k', 'made', '1');
                   RETURN txb.ok(); END $$"""
    )
    worker.do("BEGIN")
    worker.do(
        """SELECT (shop.handle(CASE WHEN set_config('txb.delivery', 'g/' || (m).id, true) IS NOT NULL
                                         AND set_config('txb.ordinal', '0', true) IS NOT NULL THEN m END)).outcome
                   FROM (SELECT ROW('s', id, 't', 0, n, NULL, 'made', now(), NULL, NULL, NULL, 1)::txb.message AS m
                           FROM unnest(ARRAY[txb.uuid_v7(), txb.uuid_v7(), txb.uuid_v7()]) WITH ORDINALITY AS u(id, n)
                             ORDER BY n) AS b"""
    )
    worker.do("COMMIT")
    rows = worker.do(
        "SELECT id, delivery, published, txb.uuid_v7_time(id) = txb.uuid_v7_time(published) FROM shop.seen ORDER BY n"
    )
    assert (
        [r[1] for r in rows] == [f"g/{r[0]}" for r in rows]
        and all(r[3] for r in rows)
        and len({r[2] for r in rows}) == 3
    )
