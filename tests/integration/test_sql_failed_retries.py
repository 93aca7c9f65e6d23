"""Failed messages of the consumer's side are tried again under a marker, and condemned when workers die of them."""

import uuid

import pytest
from failedtest import (
    CONDEMN,
    KEYS,
    MARK,
    PLENTY,
    RETRY_OPEN,
    SETTLE,
    aside,
    counters,
    failed,
    history,
    item,
    mark,
    owner,
    settle,
)
from sqltest import refused, stored


@pytest.fixture
def worker(db):
    return owner(db)


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
