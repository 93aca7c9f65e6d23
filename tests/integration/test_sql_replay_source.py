"""The publishing side of replay jobs: what retention leaves for them, what there is to replay, and how a lane reads it."""

import pytest
from sqltest import ROOT, V7, refused
from test_sql_outbox_failed import Relay, decide
from test_sql_partitions import age, drop_all, drop_step, fill, nodes, partitions, watermark

RANGE = "SELECT * FROM txb.replay_range('bank')"


def pin(session, lo, name="job 1"):
    session.do("SELECT txb.outbox_pin_set(%s, %s, 'replay job 1 of ledger')", name, lo)


@pytest.fixture
def relay(db):
    """3,500 intents, all published and old: four partitions, of which three are full."""
    fill(db, 3500)
    watermark(db, 3500)
    for name, _, _ in partitions(db)[:4]:
        age(db, name, "2 days")
    return db.session("relay")


# -- pins -----------------------------------------------------------------------------------------


def test_retention_leaves_what_is_pinned(db, relay):
    pin(relay, 1001)
    pin(db.session("admin"), 2500, "other")
    assert drop_all(relay) == ["outbox_p000000000001"]
    pin(relay, 1500)
    assert drop_all(relay) == []
    pin(relay, 2001)
    assert drop_all(relay) == ["outbox_p000000001001"]
    assert relay.one("SELECT txb.outbox_unpin('job 1')") is True and relay.one("SELECT txb.outbox_unpin('job 1')") is False
    assert drop_all(relay) == []
    relay.do("SELECT txb.outbox_unpin('other')")
    assert drop_all(relay) == ["outbox_p000000002001"]


def test_a_pin_that_nobody_renews_holds_for_a_week(db, relay):
    pin(relay, 1)
    assert drop_all(relay) == []
    db.root.do("UPDATE txb.outbox_pin SET seen_at = now() - interval '7 days' + interval '1 min'")
    assert drop_all(relay) == []
    db.root.do("UPDATE txb.outbox_pin SET seen_at = now() - interval '7 days'")
    assert drop_step(relay)["partition"] == "outbox_p000000000001"


def test_a_pin_is_moved_and_renewed_by_its_name(db, relay):
    pin(relay, 500)
    db.root.do("UPDATE txb.outbox_pin SET seen_at = seen_at - interval '1 day', made_at = made_at - interval '1 day'")
    pin(relay, 700)
    row = db.root.row("SELECT lo, what, seen_at - made_at > interval '23 h' AS renewed FROM txb.outbox_pin")
    assert row == {"lo": 700, "what": "replay job 1 of ledger", "renewed": True}
    pin(relay, 600)
    assert db.root.do("SELECT lo FROM txb.outbox_pin") == [(600,)]


def test_a_pin_waits_for_a_partition_that_is_being_dropped_and_a_renewal_does_not(db, relay):
    """What is there once it is pinned stays there."""
    other = db.session("relay")
    pin(other, 3001, "other")
    relay.do("BEGIN")
    assert drop_step(relay)["partition"] == "outbox_p000000000001"
    pin(other, 3002, "other")
    running = other.start("SELECT txb.outbox_pin_set('job 1', 1, 'x')")
    db.wait_until_waiting(other)
    relay.do("COMMIT")
    running.finish()
    assert relay.row(RANGE)["lowest_seq"] == 1001
    relay.do("SELECT txb.outbox_unpin('job 1')")
    assert drop_all(relay)[0] == "outbox_p000000000001", "what is empty is finished"


def test_pins_do_not_wait_for_each_other(db, relay):
    other = db.session("relay")
    relay.do("BEGIN")
    pin(relay, 1)
    pin(other, 2, "other")
    assert drop_step(other)["statement"] is None, "it comes back later"
    relay.do("COMMIT")


@pytest.mark.parametrize("name,lo,what,constraint", [("", 1, "x", "outbox_pin_name_size"), ("x", -1, "x", "outbox_pin_lo")])
def test_a_pin_has_a_name_and_a_number(relay, name, lo, what, constraint):
    with refused("23514", constraint):
        relay.do("SELECT txb.outbox_pin_set(%s, %s, %s)", name, lo, what)


def test_pins_of_last_month_are_forgotten(db, relay):
    pin(relay, 1)
    db.root.do("UPDATE txb.outbox_pin SET seen_at = now() - interval '31 days'")
    pin(relay, 5, "other")
    assert db.root.do("SELECT name FROM txb.outbox_pin") == [("other",)]


# -- what there is ----------------------------------------------------------------------------------


def test_the_range_is_told_as_it_can_be_seen(db, relay):
    assert db.session("reader").row(RANGE) == {
        "lowest_seq": 1,
        "lowest_time": db.root.one("SELECT created_at FROM txb.outbox WHERE seq = 1"),
        "highest": 3500,
        "watermark": 3500,
        "waits_from": None,
    }
    drop_all(relay)
    fill(db, 2)
    row = relay.row(RANGE)
    assert (row["lowest_seq"], row["highest"], row["watermark"]) == (3001, 3502, 3500), "the relay's row lags"
    db.root.do("UPDATE txb.relay SET highest = 4000")
    assert relay.row(RANGE)["highest"] == 4000


def test_an_empty_outbox_and_a_source_that_nobody_has_relayed(db):
    admin = db.session("admin")
    nothing = {"lowest_seq": None, "lowest_time": None, "highest": 0, "watermark": None, "waits_from": None}
    assert admin.row(RANGE) == nothing
    fill(db, 3)
    assert admin.row(RANGE)["highest"] == 3 and admin.row(RANGE)["watermark"] is None


def test_what_waits_for_a_decision_is_told_by_topic(db):
    for topic, key in (("t", "a"), ("u", None), ("t", "b"), ("v", None)):
        db.root.do("INSERT INTO txb.outbox (topic, key, type) VALUES (%s, %s, 'made')", topic, key)
    relay = Relay(db)
    number = relay.record(2)
    relay.record(3)
    waits = "SELECT waits_from FROM txb.replay_range('bank', %s::text[])"
    assert [relay.session.one(waits, topics) for topics in (None, ["t"], ["u"], ["t", "u"], ["v"])] == [2, 3, 2, 2, None]
    relay.session.do("SELECT txb.relay_hold_set(%s, %s, %s, 'topic', 'v', NULL, 4, 'no such topic')", *relay.fence)
    assert relay.session.one(waits, ["v"]) == 4
    decide(db.root, number, "retry")
    assert relay.session.one(waits, ["u"]) == 2, "not published yet"
    relay.settle([number])
    assert relay.session.one(waits, ["u"]) is None
    assert relay.session.one("SELECT waits_from FROM txb.replay_range('other')") is None


# -- reading ----------------------------------------------------------------------------------------


def lane_read(session, first=1, past=1000000, topic="t", keys=None, types=None, since=None, until=None, rows=100, size=10_000_000):
    """As the program sends it: a prepared statement. Without what is about a page's size, and about copies."""
    with open(f"{ROOT}/consumer/sql/lane_read.sql", encoding="utf-8") as text:
        session.do("DEALLOCATE ALL")
        session.do(
            "PREPARE lane_read (bigint, bigint, text, bytea[], text[], timestamptz, timestamptz, bigint, text, bigint) AS "
            + text.read()
        )
    found = session.do(
        "EXECUTE lane_read(%s, %s, %s, %s::bytea[], %s::text[], %s::timestamptz, %s::timestamptz, %s, 'bank', %s)",
        *(first, past, topic, keys, types, since, until, rows, size),
    )
    return [row[:8] for row in found]


def numbers(*args, **more):
    return [row[0] for row in lane_read(*args, **more)]


def test_a_page_is_what_the_filters_mean_in_order(db):
    for n in range(12):
        db.root.do(
            "INSERT INTO txb.outbox (topic, key, type, payload, content_type, headers) VALUES (%s, %s, %s, %s, 'x', '{\"a\": \"b\"}')",
            "tu"[n % 6 == 5],
            ["a", "ü", None][n % 3],
            "xy"[n % 2],
            b"%d" % n,
        )
    reader = db.session("reader")
    assert numbers(reader) == [1, 2, 3, 4, 5, 7, 8, 9, 10, 11] and numbers(reader, topic="u") == [6, 12]
    assert numbers(reader, first=4, past=8) == [4, 5, 7] and numbers(reader, rows=3) == [1, 2, 3]
    assert numbers(reader, keys=["ü".encode(), b"none"]) == [2, 5, 8, 11] and numbers(reader, keys=[b"\xff"]) == []
    assert numbers(reader, types=["x"]) == [1, 3, 5, 7, 9, 11] and numbers(reader, types=["x", "y"], rows=2) == [1, 2]
    at = db.root.do("SELECT created_at FROM txb.outbox ORDER BY seq")
    assert numbers(reader, since=at[3][0], until=at[6][0]) == [4, 5]
    seq, id_, key, type_, payload, content_type, headers, created_at = lane_read(reader, first=2)[0]
    assert (seq, key, type_, bytes(payload), content_type, headers) == (2, "ü", "y", b"1", "x", {"a": "b"})
    assert id_ == db.root.one("SELECT id FROM txb.outbox WHERE seq = 2") and created_at == at[1][0]


def test_what_was_discarded_or_is_not_published_is_left_out_and_an_edition_takes_its_place(db):
    for key in ("a", "b", None, "b", "a", "c"):
        db.root.do(
            "INSERT INTO txb.outbox (topic, key, type, payload, content_type) VALUES ('t', %s, 'made', 'old', 'text/plain')", key
        )
    relay, reader = Relay(db), db.session("reader")
    discarded, edited, loose = relay.record(1), relay.record(2), relay.record(3)
    assert numbers(reader) == [6], "refused, or behind one that was"
    decide(db.root, discarded, "discard")
    relay.settle(holds=[("t", "a", 0)])
    assert numbers(reader) == [5, 6]
    decide(db.root, edited, "edit", b"new", "text/plain", '{"n": "1"}')
    assert numbers(reader) == [5, 6], "decided, but not published"
    edition = db.root.one("SELECT replaced_by FROM txb.failed WHERE number = %s", edited)
    relay.settle([edition], [("t", "b", 0)])
    decide(db.root, loose, "retry")
    relay.settle([loose])
    rows = lane_read(reader)
    assert [row[0] for row in rows] == [2, 3, 4, 5, 6]
    (_, id_, key, type_, payload, _, headers, _) = rows[0]
    assert (key, type_, bytes(payload), headers) == ("b", "made", b"new", {"n": "1"})
    assert id_ == db.root.one("SELECT id FROM txb.failed WHERE number = %s", edition)
    assert bytes(rows[1][4]) == b"old" and rows[1][1] == db.root.one("SELECT id FROM txb.outbox WHERE seq = 3")
    relay.session.do("SELECT txb.relay_hold_set(%s, %s, %s, 'topic', 't', NULL, 5, 'no such topic')", *relay.fence)
    assert numbers(reader) == [2, 3, 4]


def test_a_page_ends_where_it_is_large_enough_and_has_one_intent_at_least(db):
    for size in (10, 500, 500, 2000, 10):
        db.root.do("INSERT INTO txb.outbox (topic, key, type, payload) VALUES ('t', 'a', 'made', %s)", b"x" * size)
    reader = db.session("reader")
    assert numbers(reader, size=1000) == [1, 2, 3] and numbers(reader, first=3, size=1000) == [3, 4]
    assert numbers(reader, first=4, size=1) == [4] and numbers(reader, first=4, size=2001) == [4, 5]


def test_what_another_source_says_about_a_number_is_not_meant(db):
    fill(db, 2)
    db.root.do("INSERT INTO txb.relay_hold (source, kind, topic, key, lo, error) VALUES ('shop', 'topic', 't', NULL, 1, 'x')")
    db.root.do(
        "INSERT INTO txb.failed (side, state, source, seq, topic, place, resolution) VALUES ('outbox', 'discarded', 'shop', 1, 't', 1, "
        "'discarded')"
    )
    assert numbers(db.session("reader")) == [1, 2]


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
def test_a_page_is_read_by_the_index_on_seq_in_its_partitions_only(db, mode):
    """Nothing is sorted, no partition below or above the range is touched, and no more rows than the page takes."""
    fill(db, 3500)
    db.root.do("ANALYZE txb.outbox; ANALYZE txb.failed")
    session = db.session("reader")
    session.do(f"SET plan_cache_mode = {mode}")
    lane_read(session)
    ((plan,),) = session.do(
        "EXPLAIN (ANALYZE, FORMAT JSON, COSTS off, TIMING off) EXECUTE lane_read(1500, 2500, 't', NULL, NULL, NULL, NULL, 10, 'bank', 1000000)"
    )
    found = list(nodes(plan[0]["Plan"]))
    scans = [node for node in found if node.get("Relation Name", "").startswith("outbox_p")]
    assert {node["Node Type"] for node in scans} == {"Index Scan"}, found
    assert all("seq" in node["Index Cond"] for node in scans)
    run = {node["Relation Name"]: node["Actual Rows"] for node in scans if node["Actual Loops"] > 0}
    assert run == {"outbox_p000000001001": 10}
    assert not any(node["Node Type"] == "Sort" for node in found)


def test_many_holds_and_failed_intents_are_asked_about_by_index(db):
    fill(db, 100)
    db.root.do(
        "INSERT INTO txb.relay_hold (source, kind, topic, key, lo, error) SELECT 'bank', 'key', 't', 'k' || n, n, 'x' FROM "
        "generate_series(1, 20000) AS n"
    )
    db.root.do(
        "INSERT INTO txb.failed (side, state, source, seq, topic, place) SELECT 'outbox', 'dead', 'bank', 1000 + n, 't', n FROM "
        "generate_series(1, 20000) AS n"
    )
    db.root.do("ANALYZE txb.outbox; ANALYZE txb.failed; ANALYZE txb.relay_hold")
    session = db.session("reader")
    assert len(lane_read(session)) == 100
    ((plan,),) = session.do(
        "EXPLAIN (FORMAT JSON) EXECUTE lane_read(1, 101, 't', NULL, NULL, NULL, NULL, 100, 'bank', 1000000)"
    )
    used = {node.get("Index Name") for node in nodes(plan[0]["Plan"])}
    assert {"relay_hold_one_key", "failed_intent"} <= used, used


def test_ids_and_times_of_old_messages_are_kept(db):
    db.root.do("INSERT INTO txb.outbox (id, topic, type) VALUES (%s, 't', 'made')", V7)
    assert str(lane_read(db.session("relay"))[0][1]) == V7
