"""Semantic locks of sagas (S6): queues, roots, refusals, and many takers and releasers at once; and the check of versions for handlers."""

import os
import random
import re
import threading
import uuid

import psycopg2
import pytest
from sqltest import ROOT, refused

AT = "2026-01-01 12:00+00"
US = "1767268800000000"
SEED = int(os.environ.get("TXB_SEED") or random.SystemRandom().randrange(1, 1_000_000))


@pytest.fixture
def db(bare):
    bare.root.do("SELECT txb.partition_make(100000, 1), txb.saga_coordinator_set('sagas')")
    return bare


@pytest.fixture
def worker(db):
    return db.session("worker")


def a(number):
    return uuid.UUID(int=number)


def lock(session, *wishes, others=()):
    """wishes: (saga, names, waits, root) of each, the last two if they are not true and the saga. What is said about each:
    True, or (name, holder)."""
    wishes = [(saga, names, (more or [True])[0], more[1] if len(more) > 1 else saga) for saga, names, *more in wishes]
    rows = [(a(saga), a(root), name, waits) for saga, names, waits, root in wishes for name in names]
    found = session.do(
        f"SELECT granted, name, holder FROM txb.saga_lock(%s::uuid[], array_fill('{AT}'::timestamptz, ARRAY[%s]), %s::uuid[], %s::text[], %s, %s::uuid[])"
        " ORDER BY nth",
        [row[0] for row in rows],
        len(rows),
        [row[1] for row in rows],
        [row[2] for row in rows],
        [row[3] for row in rows],
        [a(other) for other in others],
    )
    return [True if granted else (name, holder.int) for granted, name, holder in found]


def unlock(session, *sagas):
    """sagas: numbers, or (saga, root)."""
    pairs = [one if isinstance(one, tuple) else (one, one) for one in sagas]
    return session.one("SELECT txb.saga_unlock(%s::uuid[], %s::uuid[])", [a(saga) for saga, _ in pairs], [a(root) for _, root in pairs])


def rows(db):
    """{name: [saga, ...]}, the holder first."""
    found = {}
    for name, saga in db.root.do("SELECT name, saga_id FROM txb.saga_lock ORDER BY name, granted DESC, place"):
        found.setdefault(name, []).append(saga.int)
    return found


def woken(db):
    """The sagas that were sent a wake, in order."""
    return [uuid.UUID(key).int for key, in db.root.do("SELECT key FROM txb.outbox WHERE type = 'txb.saga.wake' ORDER BY seq")]


# ---- queues ---------------------------------------------------------------------------------------------------------


def test_a_name_has_one_holder_and_a_queue_in_the_order_of_asking(db, worker):
    assert lock(worker, (1, "x"), (2, "x"), (3, "x")) == [True, ("x", 1), ("x", 1)]
    assert lock(worker, (4, "x")) == [("x", 1)]
    assert rows(db) == {"x": [1, 2, 3, 4]} and woken(db) == []
    assert unlock(worker, 1) == 1
    assert rows(db) == {"x": [2, 3, 4]} and woken(db) == [2]
    assert lock(worker, (3, "x")) == [("x", 2)] and lock(worker, (2, "x")) == [True]
    assert unlock(worker, 2) == 1 and unlock(worker, 3) == 1 and unlock(worker, 4) == 0
    assert rows(db) == {} and woken(db) == [2, 3, 4]
    assert lock(worker, (5, "x")) == [True]


def test_who_is_woken_is_told_in_his_own_partition(db, worker):
    lock(worker, (1, "x"), (2, "x"))
    unlock(worker, 1)
    ((topic, key, payload, headers),) = db.root.do("SELECT topic, key, convert_from(payload, 'UTF8'), headers FROM txb.outbox")
    assert (topic, key, payload) == ("sagas", str(a(2)), "{}")
    assert headers == {"txb-saga": str(a(2)), "txb-saga-started": US}


def test_names_are_taken_in_their_order_and_none_behind_one_that_is_waited_for(db, worker):
    lock(worker, (1, ["b"]))
    assert lock(worker, (2, ["c", "b", "a", "b"])) == [("b", 1)]
    assert rows(db) == {"a": [2], "b": [1, 2]}
    assert lock(worker, (3, ["c"])) == [True]  # nobody waits there
    unlock(worker, 1)
    assert woken(db) == [2] and lock(worker, (2, ["c", "b", "a"])) == [("c", 3)]
    unlock(worker, 3)
    assert woken(db) == [2, 2] and lock(worker, (2, ["c", "b", "a"])) == [True]
    assert rows(db) == {"a": [2], "b": [2], "c": [2]}


def test_two_that_want_the_same_names_do_not_wait_for_each_other(db, worker):
    assert lock(worker, (1, ["a", "b"]), (2, ["b", "a"])) == [True, ("a", 1)]
    unlock(worker, 1)
    assert lock(worker, (2, ["b", "a"])) == [True]


def test_who_asks_again_keeps_its_place(db, worker):
    lock(worker, (1, "x"), (2, "x"), (3, "x"))
    assert lock(worker, (2, "x"), (3, "x"), (2, "x")) == [("x", 1), ("x", 1)]
    assert rows(db) == {"x": [1, 2, 3]} and lock(worker, (1, "x")) == [True]


def test_who_gives_up_waiting_leaves_the_queue_and_gives_back_what_it_has(db, worker):
    lock(worker, (1, ["x"]), (2, ["a", "x"]), (3, ["x"]), (4, ["a"]))
    assert unlock(worker, 2) == 1
    assert rows(db) == {"x": [1, 3], "a": [4]} and woken(db) == [4]
    assert unlock(worker, 1) == 1 and woken(db) == [4, 3]


def test_an_end_and_who_gives_up_at_once_pass_the_name_to_who_is_left(db, worker):
    lock(worker, (1, "x"), (2, "x"), (3, "x"))
    assert unlock(worker, 2, 1) == 1
    assert rows(db) == {"x": [3]} and woken(db) == [3]


def test_unlocking_twice_or_what_was_never_locked_changes_nothing(db, worker):
    lock(worker, (1, "x"), (2, "x"))
    assert unlock(worker, 1) == 1 and unlock(worker, 1) == 0 and unlock(worker, 7) == 0 and unlock(worker) == 0
    assert rows(db) == {"x": [2]} and woken(db) == [2]


def test_what_was_rolled_back_leaves_nothing(db):
    session = db.session("worker", transaction=True)
    lock(session, (1, "x"), (2, "x"))
    unlock(session, 1)
    session.do("ROLLBACK")
    assert rows(db) == {} and woken(db) == []


def test_names_are_bytes_and_have_1024_at_most(db, worker):
    assert lock(worker, (1, ["ä" * 512, "a", "A", "a "])) == [True]
    assert sorted(rows(db)) == ["A", "a", "a ", "ä" * 512]
    for name in ("", "x" * 1025):
        with refused("23514", "saga_lock_name"):
            lock(worker, (2, [name]))


def test_an_index_says_that_there_is_one_holder(db, worker):
    """Whatever is wrong with who takes it."""
    lock(worker, (1, "x"), (2, "x"))
    with refused("23505", "saga_lock_holder"):
        db.root.do("UPDATE txb.saga_lock SET granted = true, granted_at = now()")


# ---- refusing -------------------------------------------------------------------------------------------------------


def test_who_does_not_wait_keeps_nothing_when_one_name_is_not_free(db, worker):
    lock(worker, (1, ["n"]), (2, ["n"]))
    assert lock(worker, (3, ["a", "m", "n", "z"], False)) == [("n", 1)]
    assert rows(db) == {"n": [1, 2]}
    assert lock(worker, (3, ["a", "m", "z"], False)) == [True]
    assert rows(db) == {"a": [3], "m": [3], "z": [3], "n": [1, 2]}


def test_what_a_refusal_takes_back_is_free_for_who_comes_next_in_the_same_batch(db, worker):
    lock(worker, (1, ["n"]))
    assert lock(worker, (2, ["a", "n"], False), (3, ["a"], False)) == [("n", 1), True]
    assert rows(db) == {"a": [3], "n": [1]}


def test_a_refusal_takes_back_only_what_it_took_itself(db, worker):
    lock(worker, (1, ["n"]), (2, ["a"], False))
    assert lock(worker, (2, ["a", "b", "n"], False)) == [("n", 1)]
    assert rows(db) == {"a": [2], "n": [1]}


# ---- roots ----------------------------------------------------------------------------------------------------------


def test_a_root_holds_a_name_for_all_sagas_within_it(db, worker):
    lock(worker, (1, ["x"]))
    assert lock(worker, (11, ["x", "y"], True, 1), (12, ["y"], False, 1)) == [True, True]
    assert lock(worker, (2, ["x"]), (3, ["y"])) == [("x", 1), ("y", 11)]
    assert rows(db) == {"x": [1, 2], "y": [11, 3]}
    assert unlock(worker, (11, 1)) == 0  # an inner one ends: its root goes on
    assert rows(db) == {"x": [1, 2], "y": [11, 3]}
    assert unlock(worker, (1, 1)) == 2 and rows(db) == {"x": [2], "y": [3]}


def test_inner_sagas_that_wait_for_one_name_are_woken_together(db, worker):
    lock(worker, (9, ["x"]), (2, ["x"]))
    lock(worker, (11, ["x"], True, 1), (12, ["x"], True, 1), (21, ["x"], True, 2))
    assert rows(db) == {"x": [9, 2, 11, 12, 21]}
    assert unlock(worker, 9) == 1 and sorted(woken(db)) == [2, 21]
    assert rows(db) == {"x": [2, 11, 12]}
    assert unlock(worker, 2) == 1 and sorted(woken(db)) == [2, 11, 12, 21]
    assert rows(db) == {"x": [11]} and lock(worker, (12, ["x"], True, 1), (11, ["x"], True, 1)) == [True, True]


def test_an_inner_saga_that_ends_leaves_the_queue_but_not_what_its_root_holds(db, worker):
    lock(worker, (9, ["x"]), (11, ["a", "x"], True, 1), (2, ["x"]))
    assert unlock(worker, (11, 1)) == 0
    assert rows(db) == {"a": [11], "x": [9, 2]}
    assert unlock(worker, 1) == 0 and rows(db) == {"x": [9, 2]}


# ---- several coordinators at once -----------------------------------------------------------------------------------


def names_by_key(db, count):
    """Names in the order in which their advisory locks are taken."""
    return [name for name, in db.root.do("SELECT n FROM (SELECT 'n' || g AS n FROM generate_series(1, %s) AS g) AS s ORDER BY hashtext(n)", count)]


def test_the_advisory_locks_of_a_batch_are_taken_in_one_order(db):
    """It waits for the lowest of its locks before it has any other: in the order of the names these two would deadlock."""
    low, high = names_by_key(db, 2)
    one, many = db.session("worker", transaction=True), db.session("worker", transaction=True)
    lock(one, (1, [low]))
    running = many.start(
        f"SELECT granted FROM txb.saga_lock(%s::uuid[], '{{{AT},{AT}}}', %s::uuid[], %s, '{{t,t}}')", [a(2), a(3)], [a(2), a(3)], [high, low]
    )
    db.wait_until_waiting(many)
    assert lock(one, (1, [high])) == [True]
    one.do("COMMIT")
    assert running.finish() == [(False,), (False,)]
    many.do("COMMIT")
    assert rows(db) == {low: [1, 3], high: [1, 2]}


def test_what_may_be_given_back_is_locked_with_what_is_taken(db):
    """Else this one would wait for the lower of its names when it has the higher one already."""
    low, high = names_by_key(db, 2)
    lock(db.session("worker"), (1, [low]))
    one, many = db.session("worker", transaction=True), db.session("worker", transaction=True)
    lock(one, (2, [low]))
    running = many.start(
        f"SELECT granted FROM txb.saga_lock(%s::uuid[], '{{{AT}}}', %s::uuid[], %s, '{{t}}', %s::uuid[])", [a(3)], [a(3)], [high], [a(1)]
    )
    db.wait_until_waiting(many)
    lock(one, (2, [high]))  # at once
    one.do("COMMIT")
    running.finish()
    assert unlock(many, 1) == 1
    many.do("COMMIT")


def test_who_comes_while_a_holder_ends_sees_that_it_has_ended(db):
    """What was committed while it waited counts, not what was there when it asked."""
    lock(db.session("worker"), (1, "x"))
    ending, coming = db.session("worker", transaction=True), db.session("worker", transaction=True)
    unlock(ending, 1)
    running = coming.start(f"SELECT granted FROM txb.saga_lock(%s::uuid[], '{{{AT}}}', %s::uuid[], '{{x}}', '{{t}}')", [a(2)], [a(2)])
    db.wait_until_waiting(coming)
    ending.do("COMMIT")
    assert running.finish() == [(True,)]
    coming.do("COMMIT")
    assert rows(db) == {"x": [2]}


def test_very_many_names_are_one_advisory_lock_that_the_others_share(db):
    many, few, other = (db.session("worker", transaction=True) for _ in range(3))
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = %s"
    assert lock(few, (1, ["x"])) == [True] and lock(other, (2, ["y"])) == [True]
    running = many.start(
        f"SELECT count(*) FROM txb.saga_lock(array_fill(%s, ARRAY[1001]), array_fill('{AT}'::timestamptz, ARRAY[1001]), array_fill(%s, ARRAY[1001]),"
        " (SELECT array_agg('n' || g) FROM generate_series(1, 1001) AS g), array_fill(true, ARRAY[1001]))",
        a(3),
        a(3),
    )
    db.wait_until_waiting(many)
    few.do("COMMIT")
    other.do("COMMIT")
    assert running.finish() == [(1,)] and db.root.one(held, many.pid) == 1
    waiting = few.start(f"SELECT granted FROM txb.saga_lock(%s::uuid[], '{{{AT}}}', %s::uuid[], '{{n7}}', '{{t}}')", [a(4)], [a(4)])
    db.wait_until_waiting(few)
    many.do("COMMIT")
    assert waiting.finish() == [(False,)]


class Crowd:
    """Threads with a session each that start, end, cancel and wake sagas. Who holds a name says so in a table of its own, too, where a second
    holder would show."""

    NAMES = [f"account:{n}" for n in range(10)]

    def __init__(self, db, seed):
        self.db, self.random, self.guard = db, random.Random(seed), threading.Lock()
        self.names, self.waiting, self.running, self.woken = {}, set(), set(), set()
        self.flying, self.early = set(), set()  # in the hands of a thread; of these, those that another one has woken meanwhile
        self.numbers, self.failed = 0, []
        self.counts = dict.fromkeys(("began", "waited", "refused", "woken", "ended", "cancelled", "lost"), 0)
        db.root.do("CREATE TABLE public.occupied (name text PRIMARY KEY, saga uuid NOT NULL)")

    def chance(self, percent):
        return self.random.random() * 100 < percent

    def take(self, pool, least, most):
        """Some of a pool, for one thread alone."""
        with self.guard:
            taken = set(self.random.sample(sorted(pool), min(len(pool), self.random.randint(least, most))))
            pool -= taken
            self.flying |= taken
        return taken

    def make(self, count):
        """New sagas: {number: whether it waits}."""
        with self.guard:
            made = {self.numbers + 1 + n: self.random.random() < 0.8 for n in range(count)}
            self.numbers += count
            self.flying |= set(made)
            self.names.update({saga: self.random.sample(self.NAMES, self.random.choice((1, 1, 1, 2, 3))) for saga in made})
        return made

    def occupy(self, session, sagas):
        for saga in sagas:
            session.do("INSERT INTO public.occupied SELECT n, %s FROM unnest(%s) AS n", a(saga), self.names[saga])

    def end(self, session, running, waiting):
        """Ends those that run and those that wait; who is woken by it."""
        for saga in running:
            gone = [name for name, in session.do("DELETE FROM public.occupied WHERE saga = %s RETURNING name", a(saga))]
            assert sorted(gone) == sorted(self.names[saga]), f"{saga} had {gone} and not {self.names[saga]}"
        since = session.one("SELECT last_value FROM txb.outbox_seq_seq")
        unlock(session, *running, *waiting)
        keys = session.do("SELECT key FROM txb.outbox WHERE seq >= %s AND type = 'txb.saga.wake' AND xmin = pg_current_xact_id()::xid", since)
        return {uuid.UUID(key).int for key, in keys}

    def put(self, pool, sagas):
        """Back from the hands of a thread."""
        for saga in sagas:
            self.flying.discard(saga)
            (self.woken if pool is self.waiting and saga in self.early else pool).add(saga)
            self.early.discard(saga)

    def gone(self, sagas):
        self.flying -= sagas
        self.early -= sagas

    def wake(self, sagas):
        self.early |= sagas & self.flying
        self.waiting -= sagas
        self.woken |= sagas - self.flying

    def turn(self, session, calm=False):
        """A batch of a coordinator, in one transaction, which may be lost: some start, some are woken, some end, some that wait are cancelled."""
        new = {} if calm else self.make(self.random.randint(0, 3) if len(self.waiting) < 12 else 0)
        ready, ending = self.take(self.woken, 1, 3), self.take(self.running, 1, 2)
        tired = self.take(self.waiting, 1, 1) if not calm and self.chance(10) else set()
        lost = not calm and self.chance(7)
        session.do("BEGIN")
        asking = [*ready, *new]
        said = lock(session, *[(saga, self.names[saga], new.get(saga, True)) for saga in asking], others=ending | tired) if asking else []
        up = {saga for saga, one in zip(asking, said) if one is True}
        wait = {saga for saga in asking if saga not in up and new.get(saga, True)}
        self.occupy(session, up)
        woken = self.end(session, sorted(ending), sorted(tired)) if ending or tired else set()
        session.do("ROLLBACK" if lost else "COMMIT")
        with self.guard:
            if lost:
                self.put(self.woken, ready)
                self.put(self.running, ending)
                self.put(self.waiting, tired)
                self.gone(set(new))
                self.counts["lost"] += 1
                return
            self.wake(woken)
            self.gone(ending | tired | set(asking) - up - wait)
            self.put(self.running, up)
            self.put(self.waiting, wait)
            for what, many in (("began", up), ("waited", wait), ("refused", set(asking) - up - wait), ("woken", woken), ("ended", ending), ("cancelled", tired)):
                self.counts[what] += len(many)

    def work(self, turns):
        session = self.db.session()
        try:
            for _ in range(turns):
                self.turn(session)
        except (psycopg2.Error, AssertionError) as error:
            self.failed.append(error)
            session.close()


@pytest.mark.parametrize("threads,turns", [(6, 1000)])
def test_many_at_once_never_hold_together_and_nobody_is_forgotten(db, threads, turns):
    crowd = Crowd(db, SEED)
    everybody = [threading.Thread(target=crowd.work, args=(turns,), daemon=True) for _ in range(threads)]
    for one in everybody:
        one.start()
    for one in everybody:
        one.join(300)
        assert not one.is_alive(), "a session hangs"
    assert crowd.failed == [], f"{crowd.failed[0]} (TXB_SEED={SEED})"
    session = db.session()
    while crowd.running or crowd.woken:
        crowd.turn(session, calm=True)
    assert not crowd.waiting, f"forgotten: {sorted(crowd.waiting)}, {rows(db)} (TXB_SEED={SEED})"
    assert rows(db) == {} and db.root.one("SELECT count(*) FROM public.occupied") == 0
    print(crowd.counts)
    assert min(crowd.counts.values()) > turns // 10, crowd.counts


# ---- versions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expected,found,words",
    [
        (3, 4, "account 7 was read at version 3 and is at 4 now: somebody has changed it since"),
        (3, None, "account 7 is not there any more"),
        (None, 3, "at which version account 7 was read was not said"),
        (None, None, "account 7 is not there any more"),
    ],
)
def test_another_version_than_the_expected_one_refuses(db, expected, found, words):
    with refused("TXB06", words):
        db.session("worker").do("SELECT txb.expect_version('account 7', %s, %s)", expected, found)


def test_the_expected_version_is_no_problem(db):
    db.session("worker").do("SELECT txb.expect_version('account 7', 3, 3)")


def test_the_guides_handler_refuses_what_was_changed_since_it_was_read(db):
    """The example of docs/guides/sagas.md, as it stands there, behind the barrier."""
    with open(os.path.join(ROOT, "docs", "guides", "sagas.md"), encoding="utf-8") as file:
        (example,) = re.findall(r"```sql\n(CREATE FUNCTION account\.handle.*?)```", file.read(), re.S)
    db.root.do("CREATE SCHEMA account; CREATE TABLE account.account (id int PRIMARY KEY, credit int NOT NULL, version bigint NOT NULL);"
               " INSERT INTO account.account VALUES (7, 100, 3); GRANT USAGE ON SCHEMA account TO PUBLIC; GRANT ALL ON account.account TO PUBLIC")
    db.root.do(example)
    worker = db.session("worker")

    def command(saga, credit, version):
        worker.do(
            "SELECT txb.command_apply(ROW(NULL, txb.uuid_v7(), 't', 0, 0, NULL, 'account.credit', now(), convert_to(%s, 'UTF8'), 'application/json', %s, 1)"
            "::txb.message, 'account.handle', false)",
            '{"account": 7, "credit": %d, "version": %d}' % (credit, version),
            '{"txb-reply-to": "sagas", "txb-saga": "%s", "txb-saga-started": "1", "txb-saga-step": "credit", "txb-saga-operation": "action"}' % a(saga),
        )
        return db.root.do("SELECT convert_from(payload, 'UTF8')::jsonb FROM txb.outbox ORDER BY seq DESC LIMIT 1")[0][0]

    assert command(1, 50, 3)["answer"] == "ok"
    answer = command(2, 80, 3)
    assert answer == {"answer": "refused", "reason": "account 7 was read at version 3 and is at 4 now: somebody has changed it since"}
    assert db.root.do("SELECT credit, version FROM account.account") == [(50, 4)]
