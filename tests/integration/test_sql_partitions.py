"""Partitions of txb.outbox (R9): made and dropped while publishers' transactions stay open, and nobody waits."""

from pathlib import Path

import psycopg2
import pytest
from sqltest import refused
from txbtest import process

INSTANCE = "00000000-0000-4000-8000-000000000001"


def fill(db, count):
    db.root.do("INSERT INTO txb.outbox (topic, key, type) SELECT 't', 'k', 'made' FROM generate_series(1, %s)", count)


def partitions(db):
    return db.root.do("SELECT name, first, past FROM txb.outbox_partition ORDER BY first")


def ahead(db):
    return db.root.one("SELECT txb.outbox_partitions_ahead()")


def watermark(db, number):
    """Everything up to that number is published."""
    db.root.do(
        """INSERT INTO txb.relay (source, highest, watermark) VALUES ('bank', %s, %s)
                  ON CONFLICT (source) DO UPDATE SET highest = excluded.highest, watermark = excluded.watermark""",
        number,
        number,
    )


def age(db, name, by):
    """The intents of a partition were written that long ago (the owner may do what nobody else may)."""
    db.root.do(f"UPDATE txb.{name} SET created_at = created_at - %s::interval", by)


def drop_step(session, older_than="1 hour"):
    return session.row("SELECT statement, partition FROM txb.partition_drop('bank', %s::interval)", older_than)


def drop_all(relay, older_than="1 hour"):
    """As the relay does it; the partitions that went."""
    gone = []
    while True:
        step = drop_step(relay, older_than)
        if step["statement"] is None:
            return gone
        gone.append(step["partition"])
        relay.do("SET ROLE txb_retention")
        relay.do(step["statement"])
        relay.do("RESET ROLE")


def test_partitions_are_made_without_gaps_and_named_by_their_first_number(bare):
    assert bare.root.one("SELECT txb.partition_make(1000, 3)") == 4
    assert partitions(bare) == [
        ("outbox_p000000000001", 1, 1001),
        ("outbox_p000000001001", 1001, 2001),
        ("outbox_p000000002001", 2001, 3001),
        ("outbox_p000000003001", 3001, 4001),
    ]
    assert ahead(bare) == 3
    assert bare.root.one("SELECT txb.partition_make(1000, 3)") == 0
    fill(bare, 999)
    assert ahead(bare) == 3
    fill(bare, 1)
    assert ahead(bare) == 2, "the next number lies in the second"
    assert bare.root.one("SELECT txb.partition_make(5000, 3)") == 1
    assert partitions(bare)[-1] == ("outbox_p000000004001", 4001, 9001)


def test_one_call_makes_at_most_128(bare):
    assert [bare.root.one("SELECT txb.partition_make(1000, 300)") for _ in range(4)] == [128, 128, 45, 0]


def test_arguments_are_checked(db):
    for rows, many in ((999, 5), (None, 5), (1000, 0), (1000, 10001), (1000, None)):
        with refused("22023", "txb.partition_make"):
            db.root.do("SELECT txb.partition_make(%s, %s)", rows, many)


def test_a_new_partition_is_like_the_others(db):
    """Keys, defaults, compression, the trigger with the limits, no CHECK to be evaluated for each insert."""
    fill(db, 1500)
    facts = db.root.do(
        """
        SELECT c.relname, c.reloptions, (SELECT array_agg(attname || ':' || attcompression::text ORDER BY attnum)
          FROM pg_attribute AS a
                                          WHERE attrelid = c.oid AND attcompression <> ''),
               (SELECT array_agg(tgname::text) FROM pg_trigger WHERE tgrelid = c.oid), (SELECT count(*)
                 FROM pg_constraint WHERE conrelid = c.oid AND contype = 'c'),
               (SELECT count(*) FROM pg_index WHERE indrelid = c.oid AND indisunique), c.relowner::regrole::text
          FROM pg_class AS c WHERE c.oid IN (SELECT partition FROM txb.outbox_partition)"""
    )
    assert len(facts) == 9 and all(f[1:] == facts[0][1:] for f in facts)
    assert facts[0][1:] == (
        ["autovacuum_vacuum_insert_threshold=-1"],
        ["payload:l"],
        ["intent_check"],
        0,
        1,
        "txb_owner",
    )
    with refused("22023", "topic"):
        db.root.do("INSERT INTO txb.outbox (topic, type) VALUES ('a b', 'm')")


def test_without_a_partition_publishing_fails_and_the_next_one_begins_above(bare):
    """The alarm comes long before. Numbers drawn in vain are never reached again."""
    bare.root.do("SELECT txb.partition_make(1000, 1)")
    fill(bare, 2000)
    assert ahead(bare) == 0
    app = bare.session("app")
    for _ in range(3):
        with refused("23514", 'no partition of relation "outbox"'):
            bare.publish(app)
    assert bare.root.one("SELECT txb.partition_make(1000, 2)") == 3
    assert partitions(bare)[2][1] == 2004
    bare.publish(app)
    assert bare.root.one("SELECT max(seq) FROM txb.outbox") == 2004
    assert ahead(bare) == 2


def test_making_waits_for_no_publisher_and_no_publisher_waits(db):
    publisher, later, relay = db.session("app", transaction=True), db.session("app"), db.session("relay")
    db.publish(publisher)
    reader = db.session("relay", transaction=True)
    reader.do("SELECT count(*) FROM txb.outbox")  # has locks on every partition, as pg_dump has
    relay.do("BEGIN")
    assert relay.one("SELECT txb.partition_make(1000, 12)") == 4
    later.do("SET statement_timeout = '60s'")
    db.publish(later)  # while the maker's transaction is still open
    relay.do("COMMIT")
    db.publish(publisher)
    publisher.do("COMMIT")
    assert db.root.one("SELECT count(*) FROM txb.outbox") == 3


def test_bounds_of_other_tables_are_never_read(db):
    """Where the planner reads all classes before it asks which are partitions of ours: what their bounds are is no concern of ours."""
    root = db.root
    root.do("SELECT txb.barrier_partition_make(0, 1), txb.saga_partition_make(0, 1)")
    days = "SELECT count(*) FROM txb.day_partitions(%s) AS p WHERE p.past <= now() + interval '9 days' AND p.first > '2000-01-01'"
    ids = "SELECT count(*) FROM txb.inbox_partition AS p WHERE p.past <= txb.uuid_v7_floor(now() + interval '9 days')"
    inbox = root.one("SELECT count(*) FROM txb.inbox_partition AS p WHERE p.past IS NOT NULL")
    for number, (kind, low, high) in enumerate([("text", "a", "b"), ("numeric", "10000000000000000000", "20000000000000000000"),
                                                ("text", 36 * "-", 36 * "0"), ("date", "2026-01-01", "2026-01-02")]):
        root.do(f"CREATE TABLE public.other{number} (x {kind}) PARTITION BY RANGE (x)")
        root.do(f"CREATE TABLE public.part{number} PARTITION OF public.other{number} FOR VALUES FROM ('{low}') TO ('{high}')")
    for how in ("nestloop", "mergejoin", "indexscan", "bitmapscan"):
        root.do(f"SET enable_{how} = off")
    assert [root.one(days, table) for table in ("txb.barrier", "txb.saga", "txb.saga_event", "txb.saga_end")] == [2, 2, 2, 2]
    assert root.one(ids) == inbox > 0
    assert root.one("SELECT count(*) FROM txb.outbox_partition AS p WHERE p.past > 0 AND p.first < 1000000") == len(partitions(db))
    for call in ("saga_partition_drop('1 day')", "barrier_partition_drop('1 day')", "inbox_partition_drop('1 day')"):
        root.do(f"SELECT txb.{call}")


def test_an_old_transaction_uses_partitions_that_were_made_ahead(bare):
    """Of those made after it began it may hear late, once: with one partition ahead it is refused, and succeeds when
    run again."""
    bare.root.do("SELECT txb.partition_make(1000, 2)")
    app = bare.session("app")
    app.do("BEGIN ISOLATION LEVEL REPEATABLE READ")
    bare.publish(app)
    fill(bare, 1999)
    bare.root.do("SELECT txb.partition_make(1000, 3)")
    bare.publish(app)
    fill(bare, 999)
    try:
        bare.publish(app)
        app.do("COMMIT")
    except psycopg2.Error as error:
        assert "no partition of relation" in str(error)
        app.do("ROLLBACK")
    app.do("BEGIN")
    bare.publish(app)
    app.do("COMMIT")
    assert bare.root.one("SELECT max(seq) FROM txb.outbox") > 3000


def test_two_makers_do_not_make_the_same_partition(db):
    first, second = db.session("relay", transaction=True), db.session("relay")
    assert first.one("SELECT txb.partition_make(1000, 10)") == 2
    with refused("55P03"):  # its lock_timeout: try again
        second.do("SELECT txb.partition_make(1000, 10)")
    first.do("COMMIT")
    assert second.one("SELECT txb.partition_make(1000, 10)") == 0
    assert second.one("SHOW lock_timeout") == "0"


def test_nothing_is_dropped_above_the_watermark_or_before_its_time(db):
    relay = db.session("relay")
    fill(db, 3500)
    assert drop_step(relay)["statement"] is None, "no source, nothing published"
    watermark(db, 2500)
    assert drop_step(relay)["statement"] is None, "young"
    for name in ("outbox_p000000000001", "outbox_p000000001001", "outbox_p000000002001"):
        age(db, name, "2 hours")
    assert drop_all(relay) == ["outbox_p000000000001", "outbox_p000000001001"]
    assert [p[1] for p in partitions(db)][:2] == [2001, 3001]
    assert db.root.one("SELECT min(seq) FROM txb.outbox") == 2001
    assert db.root.do("SELECT relname FROM pg_class WHERE relname = 'outbox_p000000000001'") == []
    watermark(db, 2999)
    assert drop_step(relay)["statement"] is None
    watermark(db, 3000)
    assert drop_all(relay) == ["outbox_p000000002001"]


def test_a_young_intent_keeps_its_partition_and_those_behind(db):
    relay = db.session("relay")
    fill(db, 3500)
    watermark(db, 3500)
    age(db, "outbox_p000000001001", "2 hours")
    assert drop_step(relay)["statement"] is None
    assert db.root.one("SELECT count(*) FROM txb.outbox") == 3500


def test_every_source_counts(db):
    relay = db.session("relay")
    fill(db, 1500)
    watermark(db, 1500)
    age(db, "outbox_p000000000001", "2 hours")
    db.root.do("INSERT INTO txb.relay (source) VALUES ('other')")
    assert drop_step(relay)["statement"] is None
    db.root.do("UPDATE txb.relay SET highest = 1000, watermark = 1000 WHERE source = 'other'")
    assert drop_all(relay) == ["outbox_p000000000001"]


@pytest.mark.parametrize("lo,kept", [(1000, True), (1001, False), (5, True)])
def test_what_is_held_keeps_its_partition(db, lo, kept):
    """A hold is a reference to the intents: payloads are nowhere else."""
    relay = db.session("relay")
    fill(db, 1500)
    watermark(db, 1500)
    age(db, "outbox_p000000000001", "2 hours")
    db.root.do(
        "INSERT INTO txb.relay_hold (source, kind, topic, key, lo, error) VALUES ('bank', 'key', 't', 'k', %s, 'x')", lo
    )
    assert drop_all(relay) == ([] if kept else ["outbox_p000000000001"])


def test_a_refused_intent_without_a_key_takes_its_payload_along(db):
    app, relay = db.session("app"), db.session("relay")
    db.publish(app, '{"a": 1}', key=None)
    fill(db, 1500)
    row = db.acquire(relay)
    relay.do(
        "SELECT txb.relay_record_failed('bank', %s, %s, 1, 'MSG_SIZE_TOO_LARGE', 'x')", row["epoch"], row["instance"]
    )
    watermark(db, 1500)
    age(db, "outbox_p000000000001", "2 hours")
    assert db.root.one("SELECT payload FROM txb.failed") is None
    assert drop_all(relay) == ["outbox_p000000000001"]
    assert db.root.one("SELECT convert_from(payload, 'UTF8') FROM txb.failed") == '{"a": 1}'


def test_the_age_must_be_said(db):
    for older_than in (None, "-1 s"):
        with refused("22023", "older_than"):
            drop_step(db.session("relay"), older_than)


def test_an_empty_partition_that_is_passed_goes(db):
    """All of it rolled back."""
    relay = db.session("relay")
    db.root.do("BEGIN")
    fill(db, 1000)
    db.root.do("ROLLBACK")
    fill(db, 1)
    watermark(db, 1001)
    assert drop_all(relay) == ["outbox_p000000000001"]


def prepare_drop(db):
    fill(db, 1500)
    watermark(db, 1500)
    age(db, "outbox_p000000000001", "2 hours")


def test_dropping_waits_for_an_open_publisher_and_nobody_waits_for_the_dropping(db):
    prepare_drop(db)
    publisher, later, relay = db.session("app", transaction=True), db.session("app"), db.session("relay")
    db.publish(publisher)
    step = drop_step(relay)  # TRUNCATE: the publisher has no lock on that partition
    relay.do("SET ROLE txb_retention")
    running = relay.start(step["statement"])
    db.wait_until_waiting(relay)
    later.do("SET statement_timeout = '60s'")
    for _ in range(5):
        db.publish(later)
    db.publish(publisher)
    assert db.session("relay").one("SELECT txb.partition_make(1000, 12)") > 0, "nor does the making of partitions"
    assert db.waiting(relay)
    publisher.do("COMMIT")
    running.finish()
    relay.do("RESET ROLE")
    assert drop_step(relay)["statement"] is None
    assert partitions(db)[0][1] == 1001


def test_a_detach_that_was_broken_off_is_finalized(db):
    prepare_drop(db)
    publisher, relay = db.session("app", transaction=True), db.session("relay")
    db.publish(publisher)
    step = drop_step(relay)
    relay.do("SET ROLE txb_retention")
    relay.do("SET lock_timeout = '50ms'")
    with refused("55P03"):
        relay.do(step["statement"])
    relay.do("RESET ROLE; RESET lock_timeout")
    assert db.root.one("SELECT pending FROM txb.outbox_partition WHERE first = 1") is True
    # Publishing and making partitions go on meanwhile.
    db.publish(db.session("app"))
    assert relay.one("SELECT txb.partition_make(1000, 12)") > 0
    publisher.do("COMMIT")
    assert drop_all(relay) == ["outbox_p000000000001"]
    assert db.root.do("SELECT relname FROM pg_class WHERE relname = 'outbox_p000000000001'") == []


def test_a_crash_between_detaching_and_dropping_is_made_good(db):
    prepare_drop(db)
    relay = db.session("relay")
    step = drop_step(relay)
    relay.do("SET ROLE txb_retention")
    relay.do(step["statement"])
    relay.close()
    assert db.root.one("SELECT count(*) FROM pg_class WHERE relname = 'outbox_p000000000001'") == 1
    assert drop_step(db.session("relay"))["statement"] is None
    assert db.root.one("SELECT count(*) FROM pg_class WHERE relname = 'outbox_p000000000001'") == 0


def test_a_partition_that_somebody_detached_to_keep_is_left_alone(db):
    fill(db, 10)
    watermark(db, 10)
    db.root.do("ALTER TABLE txb.outbox DETACH PARTITION txb.outbox_p000000000001")
    assert drop_step(db.session("relay"))["statement"] is None
    assert db.root.one("SELECT count(*) FROM txb.outbox_p000000000001") == 10


def test_a_reader_of_the_old_partition_makes_dropping_come_back_later(db):
    prepare_drop(db)
    reader, relay = db.session("relay", transaction=True), db.session("relay")
    reader.do("SELECT count(*) FROM txb.outbox")
    with refused("55P03"):
        drop_step(relay)
    assert db.root.one("SELECT count(*) FROM txb.outbox") == 1500
    reader.do("COMMIT")
    assert drop_all(relay) == ["outbox_p000000000001"]


def test_two_droppers_do_not_meet(db):
    prepare_drop(db)
    first, second = db.session("relay", transaction=True), db.session("relay")
    assert drop_step(first)["statement"]
    assert drop_step(second)["statement"] is None
    first.do("ROLLBACK")
    assert db.root.one("SELECT count(*) FROM txb.outbox") == 1500


def test_detaching_is_possible_neither_in_a_function_nor_without_the_role(db):
    """Why the relay sends that statement itself, as txb_retention."""
    prepare_drop(db)
    relay = db.session("relay")
    step = drop_step(relay)
    with refused("42501"):
        relay.do(step["statement"])
    relay.do("SET ROLE txb_retention")
    relay.do("BEGIN")
    with refused("25001"):
        relay.do(step["statement"])
    relay.do("ROLLBACK")


def statement(name):
    return (Path(__file__).parents[2] / f"outbox/sql/{name}.sql").read_text()


def reader(db):
    """A session with the settings of the relay's own."""
    relay = db.session("relay")
    relay.do("SET plan_cache_mode = force_custom_plan; SET enable_bitmapscan = off; SET enable_seqscan = off")
    return relay


def nodes(plan):
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def test_the_tail_is_read_by_index_from_the_partitions_in_its_range_only(db):
    """No statistics yet, as on every new partition: without the settings it is a bitmap scan and a sort of the whole
    backlog."""
    fill(db, 2500)
    relay = reader(db)
    relay.do(f"PREPARE tail(bigint, bigint, int, bigint) AS {statement('relay_read_tail')}")
    plan = relay.one("EXPLAIN (FORMAT json) EXECUTE tail(1200, 2200, 500, 4000000)")[0]["Plan"]
    scans = [n for n in nodes(plan) if "Relation Name" in n]
    assert [(n["Node Type"], n["Relation Name"]) for n in scans] == [
        ("Index Scan", "outbox_p000000001001"),
        ("Index Scan", "outbox_p000000002001"),
    ]
    assert all(n["Node Type"] != "Sort" for n in nodes(plan))
    assert [r[0] for r in relay.do("EXECUTE tail(1200, 2200, 500, 4000000)")] == list(range(1201, 1701))


def test_a_few_rows_of_the_tail_are_read_as_the_whole_tail_is(db):
    fill(db, 2500)
    relay = reader(db)
    relay.do(f"PREPARE tail(bigint, bigint, int, bigint) AS {statement('relay_read_tail')}")
    relay.do(f"PREPARE few(bigint, bigint, int) AS {statement('relay_read_few')}")
    plan = relay.one("EXPLAIN (FORMAT json) EXECUTE few(1200, 2200, 8)")[0]["Plan"]
    scans = [n for n in nodes(plan) if "Relation Name" in n]
    assert [n["Relation Name"] for n in scans] == ["outbox_p000000001001", "outbox_p000000002001"]
    assert all(n["Node Type"] != "Sort" for n in nodes(plan))
    assert relay.do("EXECUTE few(1998, 2200, 8)") == relay.do("EXECUTE tail(1998, 2200, 8, 4000000)")
    assert [r[0] for r in relay.do("EXECUTE few(1998, 2001, 8)")] == [1999, 2000, 2001]


def test_a_poll_is_planned_anew_only_for_what_it_reads(db):
    """Planning is most of what a poll for two rows costs: what is asked at each poll has no parameters, and with them no
    plan of its own each time."""
    relay = reader(db)
    relay.do(f"PREPARE state AS {statement('relay_state')}")
    relay.do("EXECUTE state")
    relay.do("EXECUTE state")
    assert relay.do("SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE name = 'state'") == [(2, 0)]


def test_of_holes_that_are_full_no_more_is_read_than_the_limit(db):
    """All rows of a large transaction lie in holes when it commits, if others published meanwhile: a poll that read them
    all to give a few would take the longer the larger it was, and past the lease none would ever succeed."""
    fill(db, 2500)
    relay = reader(db)
    relay.do(f"PREPARE holes(bigint[], bigint[], bigint, bigint, int, bigint) AS {statement('relay_read_holes')}")
    ranges = [(low, low + 3) for low in range(1, 2500, 5)]
    call = "EXECUTE holes('{%s}', '{%s}', 1, 2500, 300, 4000000)" % tuple(",".join(map(str, side)) for side in zip(*ranges))
    plan = relay.one(f"EXPLAIN (ANALYZE, FORMAT json) {call}")[0]["Plan"]
    read = sum(n["Actual Rows"] * n["Actual Loops"] for n in nodes(plan) if "Relation Name" in n)
    assert 300 <= read <= 300 + 4, "a range more than was wanted, at the most"
    assert all("Sort" not in n["Node Type"] for n in nodes(plan))
    numbers = [number for low, high in ranges for number in range(low, high + 1)]
    assert [r[0] for r in relay.do(call)] == numbers[:300]


def test_a_lock_queue_never_forms_under_load(db):
    """Publishers without pause, partitions made and dropped beside them: no publisher ever waits as long as the
    lock_timeout."""
    publishers = [db.session("app") for _ in range(3)]
    relay = db.session("relay")
    for session in publishers:
        session.do("SET lock_timeout = '3s'")
    running = [
        s.start(
            """DO $$ BEGIN FOR i IN 1..700 LOOP PERFORM txb.publish('t', 'k', 'made', '1'); PERFORM pg_sleep(0.001);
               COMMIT; END LOOP; END $$"""
        )
        for s in publishers
    ]
    gone = []

    def maintain():
        try:
            relay.do("SELECT txb.partition_make(1000, 10)")
            watermark(db, db.root.one("SELECT last_value FROM txb.outbox_seq_seq") - 100)
            gone.extend(drop_all(relay, "0 s"))
        except psycopg2.Error as error:
            assert error.pgcode == "55P03", error
            relay.do("RESET ROLE")
        return not any(r.thread.is_alive() for r in running)

    process.wait_for(maintain, "the publishers to end", 300)
    for each in running:
        each.finish()
    watermark(db, 2100)
    gone.extend(drop_all(relay, "0 s"))
    assert len(gone) >= 2 and db.root.one("SELECT count(*) FROM txb.outbox") == 100
