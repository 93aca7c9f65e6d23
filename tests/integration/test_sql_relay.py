"""The relay's functions: lease, fence, checkpoint, holds, scheduled intents, holders."""

from pathlib import Path

import pytest
from sqltest import V7, refused

OTHER = "00000000-0000-4000-8000-000000000002"
FUNCTIONS = {
    "relay_renew": "SELECT txb.relay_renew('bank', %(epoch)s, %(instance)s, 30000)",
    "relay_checkpoint": "SELECT txb.relay_checkpoint('bank', %(epoch)s, %(instance)s, %(checkpoint)s, 5, 5, 5, 30000, "
    "NULL, NULL)",
    "relay_hold_set": "SELECT txb.relay_hold_set('bank', %(epoch)s, %(instance)s, 'topic', 't', NULL, 1, 'missing')",
    "relay_hold_release": "SELECT txb.relay_hold_release('bank', %(epoch)s, %(instance)s, 'topic', 't', NULL)",
    "relay_record_failed": "SELECT txb.relay_record_failed('bank', %(epoch)s, %(instance)s, 1, 'MSG_SIZE_TOO_LARGE', "
    "'x')",
    "scheduled_move": "SELECT txb.scheduled_move('bank', %(epoch)s, %(instance)s, 10)",
}


def call(session, name, row, **changes):
    with session.connection.cursor() as cursor:
        cursor.execute(FUNCTIONS[name], {**row, **changes})
        return cursor.fetchone()[0]


def stored(db):
    return db.root.row("SELECT * FROM txb.relay")


def checkpoint(session, row, number, highest, watermark, pages=None, holes=None, published=0):
    return session.one(
        "SELECT txb.relay_checkpoint('bank', %s, %s, %s, %s, %s, %s, 30000, %s, %s)",
        row["epoch"],
        row["instance"],
        number,
        highest,
        watermark,
        published,
        pages,
        holes,
    )


# -- the lease ------------------------------------------------------------------------------------


def test_the_first_relay_gets_the_source_and_a_second_none(db):
    first, second = db.session("relay"), db.session("relay")
    row = db.acquire(first)
    assert (row["epoch"], row["owner"], row["state"], row["checkpoint"], row["highest"], row["watermark"]) == (
        1,
        "r1",
        "running",
        0,
        0,
        0,
    )
    assert row["session_locked"] and row["backend_pid"] == first.pid and row["event_source"] == "txbroker:bank"
    assert db.acquire(second, "r2", OTHER) is None
    assert db.acquire(second, "r2", OTHER) is None
    assert stored(db)["epoch"] == 1
    # The one that stands by sees who holds it.
    assert second.row("SELECT owner, instance FROM txb.relay WHERE source = 'bank'")["owner"] == "r1"


def test_sources_do_not_mind_each_other(db):
    first, second = db.session("relay"), db.session("relay")
    assert db.acquire(first)["epoch"] == 1
    assert db.acquire(second, "r2", OTHER, source="other")["epoch"] == 1


def test_a_crashed_holder_is_replaced_at_once(db):
    first, second = db.session("relay"), db.session("relay")
    db.acquire(first, lease_ms=3600000)
    first.close()
    db.wait_until_gone(first)
    row = db.acquire(second, "r2", OTHER)
    assert row["epoch"] == 2 and row["owner"] == "r2" and row["session_locked"]


def test_a_killed_session_is_replaced_at_once_and_its_holder_fenced(db):
    first, second = db.session("relay"), db.session("relay")
    row = db.acquire(first, lease_ms=3600000)
    db.root.do("SELECT pg_terminate_backend(%s)", first.pid)
    db.wait_until_gone(first)
    assert db.acquire(second, "r2", OTHER)["epoch"] == 2
    again = db.session("relay")
    for name in FUNCTIONS:
        with refused("TXB01", 'source "bank"', "epoch 2", "owner r2"):
            call(again, name, row)


def test_the_same_process_takes_its_source_again_on_a_new_connection(db):
    """Its old session may still stand on the server (a network cut): the instance tells that it is the same."""
    first, second = db.session("relay"), db.session("relay")
    db.acquire(first, lease_ms=3600000)
    assert db.acquire(second)["epoch"] == 2


def expire(db):
    db.root.do("UPDATE txb.relay SET lease_until = clock_timestamp()")


def test_a_stopped_holder_is_replaced_when_its_lease_is_over(db):
    stopped, second, third = (db.session("relay") for _ in range(3))
    row = db.acquire(stopped)
    assert db.acquire(second, "r2", OTHER) is None
    expire(db)
    taken = db.acquire(second, "r2", OTHER)
    assert taken["epoch"] == 2 and not taken["session_locked"], "the stopped session keeps the lock"
    for name in FUNCTIONS:
        with refused("TXB01"):
            call(stopped, name, row)
    # Its session ends: the lock gets free, and that must not look like a crash of the new holder.
    stopped.close()
    db.wait_until_gone(stopped)
    assert db.acquire(third, "r3", "00000000-0000-4000-8000-000000000003") is None
    # With the next renewal the new holder has the lock, and its own crash is noticed at once.
    call(second, "relay_renew", taken)
    assert stored(db)["session_locked"]
    assert db.acquire(third, "r3", "00000000-0000-4000-8000-000000000003") is None
    second.close()
    db.wait_until_gone(second)
    assert db.acquire(third, "r3", "00000000-0000-4000-8000-000000000003")["epoch"] == 3


def test_a_renewed_lease_holds(db):
    first, second = db.session("relay"), db.session("relay")
    row = db.acquire(first)
    expire(db)
    until = call(first, "relay_renew", row)
    assert until == stored(db)["lease_until"] and db.root.one(
        "SELECT lease_until > now() + interval '20 s' FROM txb.relay"
    )
    assert db.acquire(second, "r2", OTHER) is None


def test_a_checkpoint_renews_the_lease_too(db):
    first, second = db.session("relay"), db.session("relay")
    row = db.acquire(first)
    expire(db)
    call(first, "relay_checkpoint", row)
    assert db.acquire(second, "r2", OTHER) is None


def test_a_released_source_is_free_at_once(db):
    first, second = db.session("relay"), db.session("relay")
    row = db.acquire(first, lease_ms=3600000)
    assert first.one("SELECT txb.relay_release('bank', %s, %s)", row["epoch"], row["instance"]) is True
    assert first.one("SELECT txb.relay_release('bank', %s, %s)", row["epoch"], row["instance"]) is False
    assert stored(db)["state"] == "free" and stored(db)["owner"] is None
    for name in FUNCTIONS:
        with refused("TXB01", "owner none"):
            call(first, name, row)
    assert db.acquire(second, "r2", OTHER)["session_locked"]
    assert db.acquire(first) is None


def test_a_holder_that_stopped_for_a_person_stays_visible(db):
    relay = db.session("relay")
    row = db.acquire(relay)
    relay.do(
        "SELECT txb.relay_renew('bank', %s, %s, 30000, 'stopped', 'the sequence is at 5, the position at 9')",
        row["epoch"],
        row["instance"],
    )
    relay.do("SELECT txb.relay_release('bank', %s, %s)", row["epoch"], row["instance"])
    assert (stored(db)["state"], stored(db)["last_error"]) == ("stopped", "the sequence is at 5, the position at 9")
    assert db.acquire(relay)["state"] == "running"


def test_arguments_of_acquire_are_checked(db):
    relay = db.session("relay")
    for owner, instance, lease in ((None, OTHER, 30000), ("r", None, 30000), ("r", OTHER, 99), ("r", OTHER, None)):
        with refused("22023", "lease_ms"):
            relay.do("SELECT txb.relay_acquire('bank', %s, %s, %s, NULL)", owner, instance, lease)
    with refused("23514", "relay_source_name"):
        relay.do("SELECT txb.relay_acquire('a b', 'r', %s, 30000, NULL)", OTHER)


def test_two_at_once_get_one_epoch_each(db):
    """The row's lock decides; whoever loses sees the winner's lease."""
    sessions = [db.session("relay") for _ in range(4)]
    instances = [f"00000000-0000-4000-8000-0000000000{n}0" for n in range(1, 5)]
    running = [
        s.start("SELECT owner FROM txb.relay_acquire('bank', %s, %s, 30000, NULL)", i, i)
        for s, i in zip(sessions, instances)
    ]
    winners = [rows for rows in (each.finish() for each in running) if rows]
    assert len(winners) == 1 and stored(db)["epoch"] == 1


# -- the fence ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("change", [{"epoch": 0}, {"epoch": 2}, {"instance": OTHER}])
def test_everything_that_a_relay_writes_is_fenced(db, name, change):
    relay = db.session("relay")
    row = db.acquire(relay)
    db.publish(db.root)
    before = stored(db)
    with refused("TXB01", f"txb.{name}", "epoch 1, checkpoint 0, owner r1"):
        call(relay, name, row, **change)
    assert stored(db) == before
    assert db.root.one("SELECT (SELECT count(*) FROM txb.relay_hold) + (SELECT count(*) FROM txb.failed)") == 0


@pytest.mark.parametrize("number", [-1, 1, 7, None])
def test_a_checkpoint_compares_its_number(db, number):
    relay = db.session("relay")
    row = db.acquire(relay)
    with refused("TXB01"):
        call(relay, "relay_checkpoint", row, checkpoint=number)


def test_a_database_without_the_row_is_another_server(db):
    relay = db.session("relay")
    row = db.acquire(relay)
    db.root.do("DELETE FROM txb.relay")
    for name in FUNCTIONS:
        with refused("TXB01", "another server"):
            call(relay, name, row)


def test_a_zombie_waits_for_the_successor_and_then_fails(db):
    """Its checkpoint is already on its way when the successor acquires: the row's lock puts one behind the other."""
    first, second = db.session("relay"), db.session("relay", transaction=True)
    row = db.acquire(first)
    expire(db)
    assert db.acquire(second, "r2", OTHER)["epoch"] == 2
    running = first.start(
        "SELECT txb.relay_checkpoint('bank', %s, %s, 0, 5, 5, 5, 30000, NULL, NULL)", row["epoch"], row["instance"]
    )
    db.wait_until_waiting(first)
    second.do("COMMIT")
    with refused("TXB01"):
        running.finish()
    assert stored(db)["highest"] == 0


def test_a_successor_waits_for_what_the_holder_is_just_writing(db):
    """Without the row's lock the holder's hold would be committed after the epoch was raised."""
    first, second = db.session("relay"), db.session("relay")
    row = db.acquire(first)
    expire(db)
    first.do("BEGIN")
    call(first, "relay_hold_set", row)
    running = second.start("SELECT epoch FROM txb.relay_acquire('bank', 'r2', %s, 30000, NULL)", OTHER)
    db.wait_until_waiting(second)
    first.do("COMMIT")
    assert running.finish() == [(2,)]


# -- the checkpoint -------------------------------------------------------------------------------


def test_a_checkpoint_moves_the_position_and_counts(db):
    relay = db.session("relay")
    row = db.acquire(relay)
    assert checkpoint(relay, row, 0, 100, 40, [0], ["{[41,43),[50,51)}"], published=97) == 1
    assert checkpoint(relay, row, 1, 120, 49, [0], ["{[50,51)}"], published=20) == 2
    now = stored(db)
    assert (now["checkpoint"], now["highest"], now["watermark"], now["published"]) == (2, 120, 49, 117)
    assert db.root.do("SELECT page, holes::text FROM txb.relay_holes") == [(0, "{[50,51)}")]


def test_only_the_pages_that_are_given_change_and_an_empty_one_goes(db):
    relay = db.session("relay")
    row = db.acquire(relay)
    checkpoint(relay, row, 0, 100000, 4, [0, 1, 5], ["{[5,9)}", "{[16384,16385),[20000,32768)}", "{[81920,81921)}"])
    ctids = dict(db.root.do("SELECT page, ctid::text || xmin FROM txb.relay_holes"))
    checkpoint(relay, row, 1, 100000, 4, [1, 9], ["{}", "{[147456,147457)}"])
    assert db.root.do("SELECT page, holes::text FROM txb.relay_holes ORDER BY page") == [
        (0, "{[5,9)}"),
        (5, "{[81920,81921)}"),
        (9, "{[147456,147457)}"),
    ]
    after = dict(db.root.do("SELECT page, ctid::text || xmin FROM txb.relay_holes"))
    assert all(after[page] == ctids[page] for page in (0, 5))
    checkpoint(relay, row, 2, 100000, 4, [0, 2], ["{}", "{}"])
    checkpoint(relay, row, 3, 100000, 4, [], [])
    checkpoint(relay, row, 4, 100000, 4)
    assert db.root.one("SELECT count(*) FROM txb.relay_holes") == 2


def test_holes_of_another_page_are_a_bug_that_is_refused(db):
    relay = db.session("relay")
    row = db.acquire(relay)
    for page, holes in ((0, "{[16384,16385)}"), (1, "{[5,6)}"), (1, "{[32768,32769)}")):
        with refused("23514", "relay_holes_in_page"):
            checkpoint(relay, row, 0, 100000, 4, [page], [holes])
    with refused("22023", "2 pages but 1 hole sets"):
        checkpoint(relay, row, 0, 100000, 4, [1, 2], ["{}"])
    assert stored(db)["checkpoint"] == 0, "all or nothing"


def test_a_position_never_goes_back(db):
    """Retention has dropped what lies below the watermark."""
    relay = db.session("relay")
    row = db.acquire(relay)
    checkpoint(relay, row, 0, 100, 50)
    for highest, watermark in ((99, 50), (100, 49)):
        with refused("TXB04", "would go back"):
            checkpoint(relay, row, 1, highest, watermark)
    with refused("23514", "relay_watermark"):
        checkpoint(relay, row, 1, 100, 101)


def test_a_new_holder_finds_the_position_and_the_holes(db):
    first, second = db.session("relay"), db.session("relay")
    row = db.acquire(first)
    checkpoint(first, row, 0, 100, 50, [0], ["{[51,60)}"])
    first.close()
    db.wait_until_gone(first)
    found = db.acquire(second, "r2", OTHER)
    assert (found["highest"], found["watermark"], found["checkpoint"]) == (100, 50, 1)
    assert second.one("SELECT holes::text FROM txb.relay_holes WHERE source = 'bank'") == "{[51,60)}"
    assert checkpoint(second, found, 1, 100, 100, [0], ["{}"]) == 2


def test_twenty_thousand_holes_are_written_by_page(db):
    relay = db.session("relay")
    row = db.acquire(relay)
    pages = list(range(5))
    holes = ["{" + ",".join(f"[{p * 16384 + n},{p * 16384 + n + 1})" for n in range(0, 16384, 4)) + "}" for p in pages]
    checkpoint(relay, row, 0, 5 * 16384, 0, pages, holes)
    assert db.root.one("SELECT sum((SELECT count(*) FROM unnest(holes))) FROM txb.relay_holes") == 5 * 4096


def test_the_oldest_hole_is_told_and_forgotten(db):
    relay = db.session("relay")
    row = db.acquire(relay)
    relay.do(
        """SELECT txb.relay_renew('bank', %s, %s, 30000, NULL, NULL, 7, now(), '[{"pid": 1}]')""",
        row["epoch"],
        row["instance"],
    )
    assert (stored(db)["oldest_hole"], stored(db)["oldest_hole_holders"]) == (7, [{"pid": 1}])
    call(relay, "relay_renew", row)
    assert stored(db)["oldest_hole"] is None and stored(db)["oldest_hole_since"] is None


# -- holds and failed intents ---------------------------------------------------------------------


def test_a_topic_is_held_from_the_lowest_number_on(db):
    relay = db.session("relay")
    row = db.acquire(relay)
    hold = "SELECT txb.relay_hold_set('bank', %s, %s, 'topic', 'missing', NULL, %s, %s)"
    first = relay.one(hold, row["epoch"], row["instance"], 7, "unknown topic")
    assert relay.one(hold, row["epoch"], row["instance"], 9, "unknown topic") == first
    assert relay.one("SELECT lo FROM txb.relay_hold") == 7
    assert relay.one(hold, row["epoch"], row["instance"], 5, "no right") == first
    assert relay.row("SELECT lo, error, key, failed_id FROM txb.relay_hold") == {
        "lo": 5,
        "error": "no right",
        "key": None,
        "failed_id": None,
    }
    release = "SELECT txb.relay_hold_release('bank', %s, %s, 'topic', 'missing', NULL)"
    assert relay.one(release, row["epoch"], row["instance"]) is True
    assert relay.one(release, row["epoch"], row["instance"]) is False


def test_a_hold_names_a_key_if_it_is_of_a_key(db):
    relay = db.session("relay")
    row = db.acquire(relay)
    for kind, key in (("topic", "k"), ("key", None)):
        with refused("23514", "relay_hold_key"):
            relay.do(
                "SELECT txb.relay_hold_set('bank', %s, %s, %s, 't', %s, 1, 'x')",
                row["epoch"],
                row["instance"],
                kind,
                key,
            )
    with refused("23514"):
        relay.do("SELECT txb.relay_hold_set('bank', %s, %s, 'other', 't', NULL, 1, 'x')", row["epoch"], row["instance"])


def test_an_empty_key_is_a_key(db):
    app, relay = db.session("app"), db.session("relay")
    db.publish(app, key="")
    row = db.acquire(relay)
    call(relay, "relay_record_failed", row)
    assert relay.row("SELECT kind, key, lo FROM txb.relay_hold") == {"kind": "key", "key": "", "lo": 1}


def test_a_refused_intent_is_recorded_by_reference_and_holds_its_key(db):
    app, relay = db.session("app"), db.session("relay")
    for key in ("a", "a", None):
        app.do("""SELECT txb.publish('t', %s, 'made', '{"big": true}', headers => '{"h": "x"}')""", key)
    row = db.acquire(relay)
    record = (
        "SELECT txb.relay_record_failed('bank', %s, %s, %s, 'MSG_SIZE_TOO_LARGE', 'Broker: Message size too large')"
    )
    number = relay.one(record, row["epoch"], row["instance"], 2)
    failed = db.root.row("SELECT * FROM txb.failed")
    intent = db.root.row("SELECT * FROM txb.outbox WHERE seq = 2")
    assert (
        failed["side"],
        failed["state"],
        failed["source"],
        failed["seq"],
        failed["topic"],
        failed["id"],
        failed["type"],
        failed["attempts"],
    ) == ("outbox", "dead", "bank", 2, "t", intent["id"], "made", 1)
    assert (
        bytes(failed["key"]) == b"a"
        and failed["payload"] is None
        and failed["headers"] == {"h": "x"}
        and failed["time"] == intent["created_at"]
    )
    assert relay.row("SELECT kind, topic, key, lo, failed_id FROM txb.relay_hold") == {
        "kind": "key",
        "topic": "t",
        "key": "a",
        "lo": 2,
        "failed_id": number,
    }
    # Once more after a crash: the same record.
    assert relay.one(record, row["epoch"], row["instance"], 2) == number
    assert db.root.row("SELECT count(*), max(attempts) AS attempts FROM txb.failed") == {"count": 1, "attempts": 2}
    # Without a key there is nothing to hold.
    relay.do(record, row["epoch"], row["instance"], 3)
    assert relay.one("SELECT count(*) FROM txb.relay_hold") == 1
    # One further down the same key lowers the hold.
    lower = relay.one(record, row["epoch"], row["instance"], 1)
    assert relay.row("SELECT lo, failed_id FROM txb.relay_hold") == {"lo": 1, "failed_id": lower}
    with refused("TXB04", "no intent 99"):
        relay.do(record, row["epoch"], row["instance"], 99)


# -- scheduled intents ----------------------------------------------------------------------------


def schedule(db, *names_and_hours):
    app = db.session("app")
    for name, hours in names_and_hours:
        app.do(
            "SELECT txb.publish('t', 'k', 'made', to_jsonb(%s::text), not_before => date_trunc('hour', now()) + %s * "
            "interval '1 hour')",
            name,
            hours,
        )


def make_due(db, hours):
    db.root.do("UPDATE txb.scheduled SET due = due - %s * interval '1 hour'", hours)


def test_a_poll_never_sees_the_sequence_higher_than_it_was_drawn(db):
    """nextval() writes a value 32 too high into the page while it logs; read as a table, a poll saw it (and numbers that
    nobody had drawn died as holes)."""
    look = (Path(__file__).parents[2] / "outbox/sql/relay_state.sql").read_text()
    relay, app = db.session("relay"), db.session("app")
    relay.do("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    assert relay.do(look)[0][5] == 0
    db.publish(app)
    db.publish(app)
    assert relay.do(look)[0][5] == 2
    relay.do("COMMIT")
    busy = db.root.start(
        "DO $$ BEGIN FOR i IN 1..3000 LOOP PERFORM nextval('txb.outbox_seq_seq') FROM generate_series(1, 40); "
        "COMMIT; END LOOP; END $$"
    )
    drawn = 0
    while busy.thread.is_alive():
        for _ in range(50):
            now = relay.do(look)[0][5]
            assert now >= drawn
            drawn = now
    busy.finish()
    assert "FROM txb.outbox_seq_seq" not in look


def test_a_session_sees_its_source_from_the_lease_on(db):
    """A pooler that gives the relay another session in between shows it no position, and not somebody else's."""
    sql = Path(__file__).parents[2] / "outbox/sql"
    state, acquire = ((sql / f"{name}.sql").read_text() for name in ("relay_state", "relay_acquire"))
    relay = db.session("relay")
    relay.do(f"PREPARE acquire(text, text, uuid, bigint, text) AS {acquire}")
    before = relay.do(state)[0]
    assert before[0] is None and before[9] is None
    (epoch, *_) = relay.do("EXECUTE acquire('bank', 'r1', txb.uuid_v7(), 10000, 'txbroker:bank')")[0]
    after = relay.do(state)[0]
    assert (after[0], after[9]) == (epoch, "bank")
    assert db.session("relay").do(state)[0][0] is None


def test_a_look_for_due_intents_reads_the_index_and_not_the_table(db):
    """The relay looks ten times a second: with millions of reminders for tomorrow it would do nothing else."""
    look = (Path(__file__).parents[2] / "outbox/sql/relay_schedule_due.sql").read_text()
    db.root.do("SET enable_seqscan = off")
    plan = db.root.one("EXPLAIN (FORMAT json) " + look)[0]
    assert "Index Cond" in str(plan), plan
    moving = db.root.one("SELECT prosrc FROM pg_proc WHERE oid = 'txb.scheduled_move'::regproc")
    assert "d.due <= statement_timestamp()" in moving


def test_due_intents_are_moved_in_order_of_due_time_then_number(db):
    schedule(db, ("c", 3), ("a", 1), ("b1", 2), ("b2", 2), ("later", 50))
    relay = db.session("relay")
    row = db.acquire(relay)
    assert call(relay, "scheduled_move", row) == 0
    make_due(db, 10)
    ids = dict(db.root.do("SELECT convert_from(payload, 'UTF8'), id FROM txb.scheduled"))
    assert relay.one("SELECT txb.scheduled_move('bank', %s, %s, 3)", row["epoch"], row["instance"]) == 3
    assert db.payloads() == ['"a"', '"b1"', '"b2"']
    assert call(relay, "scheduled_move", row) == 1
    assert call(relay, "scheduled_move", row) == 0
    schedule(db, ("z", 2), ("y", 1))
    make_due(db, 10)
    assert call(relay, "scheduled_move", row) == 2
    assert db.payloads() == ['"a"', '"b1"', '"b2"', '"c"', '"y"', '"z"']
    db.root.do("DELETE FROM txb.outbox WHERE payload IN ('\"y\"', '\"z\"')")
    assert [r[0] for r in db.root.do("SELECT id FROM txb.outbox ORDER BY seq")] == [
        ids[n] for n in ('"a"', '"b1"', '"b2"', '"c"')
    ]
    assert db.root.one(
        "SELECT bool_and(created_at > now() - interval '1 minute') FROM txb.outbox"
    ), "the outbox row is as old as the move"
    assert db.root.one("SELECT count(*) FROM txb.scheduled") == 1


def test_a_second_mover_waits_for_the_first(db):
    """R10: the source's row is the lock. Two that moved at once would interleave."""
    schedule(db, ("a", 1), ("b", 2))
    make_due(db, 10)
    first, second = db.session("relay", transaction=True), db.session("relay")
    first.do("ROLLBACK")
    row = db.acquire(first)
    first.do("BEGIN")
    assert first.one("SELECT txb.scheduled_move('bank', %s, %s, 1)", row["epoch"], row["instance"]) == 1
    running = second.start("SELECT txb.scheduled_move('bank', %s, %s, 10)", row["epoch"], row["instance"])
    db.wait_until_waiting(second)
    first.do("COMMIT")
    assert running.finish() == [(1,)]
    assert db.payloads() == ['"a"', '"b"']


def test_a_move_that_is_rolled_back_loses_nothing(db):
    schedule(db, ("a", 1))
    make_due(db, 10)
    relay = db.session("relay")
    row = db.acquire(relay)
    relay.do("BEGIN")
    call(relay, "scheduled_move", row)
    relay.do("ROLLBACK")
    assert db.root.one("SELECT count(*) FROM txb.scheduled") == 1 and db.payloads() == []


# -- holders --------------------------------------------------------------------------------------


def test_a_prepared_transaction_is_a_holder_by_its_virtual_transaction(db):
    """R3: PREPARE keeps the virtual transaction and drops the pid."""
    app = db.session("app", transaction=True)
    db.publish(app)
    before = db.root.do("SELECT virtualtransaction, xid::text, pid FROM txb.outbox_holders()")
    app.do("PREPARE TRANSACTION 'shop-7'")
    after = db.root.do("SELECT virtualtransaction, xid::text, pid, gid FROM txb.outbox_holders()")
    assert [(b[1], b[2]) for b in before] == [(after[0][1], app.pid)]
    assert (after[0][2], after[0][3]) == (None, "shop-7") and after[0][0]
    db.root.do("ROLLBACK PREPARED 'shop-7'")
    assert db.root.do("SELECT 1 FROM txb.outbox_holders()") == []


def test_a_holder_is_listed_with_its_top_level_xid(db):
    app = db.session("app", transaction=True)
    app.do("SAVEPOINT a")
    app.do("SAVEPOINT b")
    db.publish(app)
    xids = [r[0] for r in db.root.do("SELECT xid::text FROM txb.outbox_holders()")]
    assert xids == [app.one("SELECT pg_current_xact_id()::text")]
    app.do("ROLLBACK")


def test_readers_and_the_relay_itself_are_no_holders(db):
    relay = db.session("relay", transaction=True)
    relay.do("SELECT * FROM txb.outbox")
    assert relay.do("SELECT 1 FROM txb.outbox_holders()") == []


def test_a_session_that_took_the_lock_and_has_no_number_yet_is_a_holder(db):
    app = db.session("app", transaction=True)
    app.do("PREPARE one AS INSERT INTO txb.outbox (topic, type) SELECT 't', 'm' WHERE false")
    app.do("EXECUTE one")
    assert [(r[0], r[1]) for r in db.root.do("SELECT pid, xid FROM txb.outbox_holders()")] == [(app.pid, None)]


def test_an_intent_moved_by_the_relay_is_checked_like_any_other(db):
    db.root.do("ALTER TABLE txb.scheduled DISABLE TRIGGER intent_check")
    db.root.do("INSERT INTO txb.scheduled (due, id, topic, type) VALUES (now() - interval '1 h', %s, 'a b', 'm')", V7)
    relay = db.session("relay")
    row = db.acquire(relay)
    with refused("22023", "not a Kafka topic name"):
        call(relay, "scheduled_move", row)
