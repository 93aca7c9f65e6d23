"""Decisions about intents that Kafka refused, and what the relay makes of them: states, history, notes, holds, what a page of
a drain reads, retention."""

from pathlib import Path

import pytest
from sqltest import ROOT, refused
from test_sql_partitions import nodes, reader
from test_sql_partitions import statement as text_of

SQL = Path(ROOT) / "outbox" / "sql"
V4 = "00000000-0000-4000-8000-000000000002"


def statement(name):
    """A statement of the relay's, with psycopg2's marks."""
    text = "\n".join(line for line in (SQL / f"{name}.sql").read_text().splitlines() if not line.startswith("--"))
    for number in range(12, 0, -1):
        text = text.replace(f"${number}", f"%({number})s")
    return text


def run(session, name, *args):
    with session.connection.cursor() as cursor:
        cursor.execute(statement(name), {str(number): value for number, value in enumerate(args, 1)})
        return cursor.fetchall()


class Relay:
    def __init__(self, db):
        self.session = db.session("relay")
        row = db.acquire(self.session)
        self.fence = ("bank", row["epoch"], row["instance"])

    def record(self, seq, error="too large"):
        return self.session.one("SELECT txb.relay_record_failed(%s, %s, %s, %s, 'MSG_SIZE_TOO_LARGE', %s)", *self.fence, seq, error)

    def take(self):
        return sorted(run(self.session, "relay_decisions_take", *self.fence), key=str)

    def settle(self, published=(), holds=()):
        topics, keys, los = ([h[i] for h in holds] for i in range(3))
        self.session.do("SELECT txb.relay_settle(%s, %s, %s, %s::bigint[], %s::text[], %s::text[], %s::bigint[])", *self.fence, list(published), topics, keys, los)

    def keys_page(self, *keys, first=1, last=1000, rows=100, size=1000000):
        """(seq, payload, verdict) of a page."""
        return [(r[0], bytes(r[5]).decode() if r[5] is not None else None, r[13]) for r in run(self.session, "relay_read_keys", first, last, list(keys), rows, size, "bank")]

    def loose_page(self, after=0, rows=100):
        return [(r[0], bytes(r[5]).decode() if r[5] is not None else None, r[13]) for r in run(self.session, "relay_read_loose", after, rows, 1000000, "bank")]

    def decided(self):
        self.session.do("SELECT set_config('txbroker.source', 'bank', false)")
        return run(self.session, "relay_state")[0][8]

    def holds(self):
        return self.session.do("SELECT topic, key, lo, failed_id FROM txb.relay_hold ORDER BY number")

    def loaded(self):
        return [(key, lo, decided) for _, _, key, lo, decided in run(self.session, "relay_load_holds", "bank")]


def decide(session, number, action, payload=None, content_type=None, headers=None, who="boss (anna)", reason="because"):
    return session.one("SELECT txb.outbox_decide(%s, %s, %s, %s, %s, %s, %s)", number, action, payload, content_type, headers, who, reason)


def record_of(db, number):
    return db.root.row("SELECT state, resolution, attempts, holds, kept, replaces, replaced_by FROM txb.failed WHERE number = %s", number)


def history(db, number):
    return db.root.do("SELECT event, state, attempt, who FROM txb.failed_history WHERE number = %s ORDER BY at", number)


@pytest.fixture
def relay(db):
    """Intents 1 to 5 of key k, one of another key, 7 without a key; 2, 4 and 7 are refused, recorded as 1, 2 and 3."""
    app = db.session("app")
    for number in range(1, 6):
        db.publish(app, f'"{number}"')
    db.publish(app, '"other"', key="o")
    db.publish(app, '"loose"', key=None)
    made = Relay(db)
    assert [made.record(seq) for seq in (2, 4, 7)] == [1, 2, 3]
    return made


@pytest.fixture
def admin(db):
    """The functions that decide call txb.outbox_decide as its owner; here the superuser does."""
    return db.session()


def test_a_refused_intent_has_a_history(db, relay):
    assert history(db, 1) == [("failed", "dead", 1, "relay r1")]
    assert record_of(db, 1) == {"state": "dead", "resolution": None, "attempts": 1, "holds": True, "kept": False, "replaces": None, "replaced_by": None}
    assert record_of(db, 3)["holds"] is False
    assert relay.holds() == [("t", "k", 2, 1)]


def test_a_decision_is_noticed_by_the_poll_until_it_is_taken(db, relay, admin):
    assert relay.decided() is False and relay.take() == []
    assert decide(admin, 1, "retry") is None and decide(admin, 3, "retry") is None
    assert relay.decided() is True
    assert relay.take() == [("t", "k"), (None, None)]
    assert relay.decided() is False and relay.take() == []
    assert relay.loaded() == [("k", 2, True)], "a relay that begins sees it in the record"


def test_a_retry_is_carried_out_and_resolved(db, relay, admin):
    assert decide(admin, 1, "retry") is None
    assert record_of(db, 1)["state"] == "retrying"
    assert relay.keys_page("t/k", first=2) == [(2, '"2"', 1), (3, '"3"', 0), (4, None, 3), (5, '"5"', 0)]
    relay.settle([1], [("t", "k", 4)])
    assert record_of(db, 1) == {"state": "resolved", "resolution": "published", "attempts": 2, "holds": False, "kept": False, "replaces": None, "replaced_by": None}
    assert history(db, 1) == [("failed", "dead", 1, "relay r1"), ("retry", "retrying", None, "boss (anna)"), ("published", "resolved", 2, "relay r1")]
    assert relay.holds() == [("t", "k", 4, 2)], "the next refused one is the head now"
    assert relay.loaded() == [("k", 4, False)]
    relay.settle([], [("t", "k", 0)])
    assert relay.holds() == []


def test_refused_again_is_dead_again_with_an_attempt_more(db, relay, admin):
    decide(admin, 1, "retry")
    assert relay.record(2, "still too large") == 1
    assert record_of(db, 1)["state"] == "dead" and record_of(db, 1)["attempts"] == 2
    assert history(db, 1)[-1] == ("failed", "dead", 2, "relay r1")
    assert relay.holds() == [("t", "k", 2, 1)]
    assert decide(admin, 1, "retry") is None, "as often as somebody likes"


def test_an_edited_copy_takes_the_place_with_an_id_of_its_own(db, relay, admin):
    assert decide(admin, 1, "edit", b'"small"', "application/json", '{"h": "x"}') is None
    assert record_of(db, 1) == {"state": "resolved", "resolution": "edited", "attempts": 1, "holds": False, "kept": False, "replaces": None, "replaced_by": 4}
    assert record_of(db, 4) == {"state": "retrying", "resolution": None, "attempts": 0, "holds": True, "kept": True, "replaces": 1, "replaced_by": None}
    old, new = (db.root.row("SELECT source, seq, topic, key, type, \"time\", place, id FROM txb.failed WHERE number = %s", number) for number in (1, 4))
    assert old.pop("id") != new["id"] and str(new.pop("id"))[14] == "7" and old == new
    assert history(db, 1)[-1] == ("edit", "resolved", None, "boss (anna)") and history(db, 4) == [("edited", "retrying", None, "boss (anna)")]
    assert relay.keys_page("t/k", first=2)[0] == (2, '"small"', 1)
    assert relay.loaded() == [("k", 2, True)]
    # The edition is refused too, and edited again.
    assert relay.record(2) == 4 and record_of(db, 4)["state"] == "dead"
    assert decide(admin, 4, "edit", b'"tiny"', "application/json") is None
    assert relay.keys_page("t/k", first=2)[0] == (2, '"tiny"', 1)
    relay.settle([5], [("t", "k", 0)])
    assert record_of(db, 5)["resolution"] == "published"


def test_a_value_can_be_taken_out(db, relay, admin):
    """A message without a value is a deletion to whoever compacts."""
    assert decide(admin, 1, "edit", None, None) is None
    assert relay.keys_page("t/k", first=2)[0] == (2, None, 1)


def test_an_edition_keeps_the_limits_of_publishing(db, relay, admin):
    for words, args in {("payload", "JSON"): (b"{", "application/json"), ("payload", "1000000"): (b"x" * 1000001, "text/plain"),
                        ("headers", "Upper"): (b"x", "text/plain", '{"Upper": "x"}')}.items():
        with refused("22023", *words):
            decide(admin, 1, "edit", *args)
    assert record_of(db, 1)["state"] == "dead" and relay.decided() is False


def test_what_is_discarded_never_goes_out_and_its_key_goes_on(db, relay, admin):
    assert decide(admin, 1, "discard") is None and decide(admin, 2, "discard") is None
    assert record_of(db, 1)["state"] == "discarded" and record_of(db, 1)["resolution"] == "discarded" and record_of(db, 1)["holds"] is False
    assert relay.take() == [("t", "k")]
    assert relay.keys_page("t/k", first=2) == [(2, None, 2), (3, '"3"', 0), (4, None, 2), (5, '"5"', 0)]
    assert relay.loaded() == [("k", 2, True)]
    assert relay.record(2) == 1 and record_of(db, 1)["state"] == "discarded", "whoever sends it still"


def test_without_a_key_a_discarded_one_leaves_the_relay_nothing_to_do(db, relay, admin):
    assert decide(admin, 3, "discard") is None
    assert relay.decided() is False and relay.loose_page() == []


def test_whoever_decides_second_is_told_who_was_first(db, relay, admin):
    other = db.session()
    assert decide(admin, 1, "retry", who="boss (anna)") is None
    for action in ("retry", "discard", "edit"):
        answer = decide(other, 1, action)
        assert answer.startswith("is being published since 20") and answer.endswith(", by boss (anna)")
    decide(admin, 2, "discard")
    assert decide(other, 2, "retry").startswith("is discarded since ")
    decide(admin, 3, "edit", b"x", "text/plain")
    assert decide(other, 3, "retry").startswith("is resolved (edited: see 4) since ")
    assert decide(other, 99, "retry") == "is no failed message of an outbox"
    with refused("22023", "action is burn"):
        decide(other, 1, "burn")


def test_two_at_once_are_one_after_the_other(db, relay):
    first, second = db.session(transaction=True), db.session()
    assert decide(first, 1, "discard") is None
    waiting = second.start("SELECT txb.outbox_decide(1, 'retry', NULL, NULL, NULL, 'b', NULL)")
    db.wait_until_waiting(second)
    first.do("COMMIT")
    assert waiting.finish()[0][0].startswith("is discarded since ")


def test_whoever_decides_and_stays_open_is_waited_for_and_then_told(db, relay):
    first, second = db.session(transaction=True), db.session()
    assert decide(first, 1, "discard") is None
    with refused("55P03", "somebody has been deciding about message 1 for more than five seconds"):
        decide(second, 1, "retry")
    first.do("ROLLBACK")
    assert decide(second, 1, "retry") is None


def test_a_session_that_decides_and_stays_open_stops_no_relay(db, relay, admin):
    decide(admin, 2, "retry")
    lazy = db.session(transaction=True)
    assert decide(lazy, 1, "retry") is None and decide(lazy, 3, "discard") is None and decide(lazy, 2, "discard") is not None
    relay.session.do("SET statement_timeout = '10s'")
    assert relay.take() == [("t", "k")]
    relay.settle([2], [("t", "k", 2)])
    assert relay.record(5) == 4
    assert relay.keys_page("t/k", first=2)[0] == (2, None, 3), "not decided before it is committed"
    lazy.do("COMMIT")
    assert relay.take() == [("t", "k")]


def test_a_fenced_relay_takes_and_settles_nothing(db, relay, admin):
    decide(admin, 1, "retry")
    late = db.session("relay")
    relay.session.close()
    db.wait_until_gone(relay.session)
    db.acquire(late, "r2", V4)
    relay.session = db.session("relay")
    with refused("TXB01", 'source "bank"'):
        relay.take()
    with refused("TXB01", 'source "bank"'):
        relay.settle([1])
    assert record_of(db, 1)["state"] == "retrying" and relay.decided() is True


def test_settling_touches_only_what_is_being_published(db, relay, admin):
    relay.settle([1, 2, 99])
    assert record_of(db, 1)["state"] == "dead"
    decide(admin, 1, "discard")
    relay.settle([1])
    assert record_of(db, 1)["state"] == "discarded"


def test_what_has_failed_is_known_to_a_relay_that_will_read_it_again(db, relay, admin):
    decide(admin, 1, "edit", b"x", "text/plain")
    assert [r[0] for r in run(relay.session, "relay_load_recorded", "bank", 1)] == [2, 4, 7]
    db.root.do("UPDATE txb.relay SET highest = 7")
    db.root.do("INSERT INTO txb.relay_holes (source, page, holes) VALUES ('bank', 0, '{[3,5)}')")
    assert [r[0] for r in run(relay.session, "relay_load_recorded", "bank", 7)] == [4]


def test_a_topic_s_drain_leaves_failed_ones_to_their_own(db, relay, admin):
    decide(admin, 3, "discard")
    assert [r[0] for r in run(relay.session, "relay_read_drain", 1, 100, "t", 100, 1000000, "bank")] == [1, 3, 5, 6]


def test_a_page_is_cut_by_rows_and_bytes_and_keeps_the_order_of_several_keys(db, relay, admin):
    decide(admin, 1, "retry")
    both = ("t/k", "t/o")
    assert [r[0] for r in relay.keys_page(*both, first=3)] == [3, 4, 5, 6]
    assert [r[0] for r in relay.keys_page(*both, first=3, rows=2)] == [3, 4]
    assert [r[0] for r in relay.keys_page(*both, first=3, size=1)] == [3]
    assert relay.keys_page("t/", "/k", "t/k/", "k/t") == []
    assert [r[0] for r in relay.keys_page(*both, first=5, last=5)] == [5]


def test_a_page_of_keys_is_read_along_the_index_up_to_its_limit(db):
    """Thousands of keys and a backlog of any size: a page that were joined and sorted would take seconds, and everybody's poll with it."""
    app = db.session("app")
    app.do("SELECT count(txb.publish('t', 'k' || i % 2000, 'made', '1'::jsonb)) FROM generate_series(1, 5000) AS i")
    session = reader(db)
    session.do(f"PREPARE page(bigint, bigint, text[], int, bigint, text) AS {text_of('relay_read_keys')}")
    call = "EXECUTE page(1200, 4200, '{%s}', 100, 4000000, 'bank')" % ",".join(f"t/k{n}" for n in range(1000))
    plan = session.one(f"EXPLAIN (ANALYZE, FORMAT json) {call}")[0]["Plan"]
    scans = [n for n in nodes(plan) if n.get("Relation Name", "").startswith("outbox")]
    assert {n["Relation Name"] for n in scans} <= {f"outbox_p00000000{n}001" for n in (1, 2, 3, 4)} and {n["Node Type"] for n in scans} == {"Index Scan"}
    assert sum(n["Actual Rows"] * n["Actual Loops"] for n in scans) == 100
    assert len(session.do(call)) == 100


# -- retention ------------------------------------------------------------------------------------


def drop_first_partition(db, relay):
    app = db.session("app")
    app.do("SELECT count(txb.publish('t', 'filler', 'made', '1'::jsonb)) FROM generate_series(1, 1200)")
    db.root.do("UPDATE txb.relay SET highest = 1207, watermark = 1207")
    db.root.do("UPDATE txb.outbox SET created_at = created_at - interval '2 hours'")
    for _ in range(9):
        row = relay.session.row("SELECT * FROM txb.partition_drop('bank', interval '1 hour')")
        if row["statement"] is None:
            return
        relay.session.do("SET ROLE txb_retention")
        relay.session.do(row["statement"])
        relay.session.do("RESET ROLE")


def test_a_held_key_keeps_its_partition_until_its_drain_has_ended(db, relay, admin):
    decide(admin, 1, "retry")
    drop_first_partition(db, relay)
    assert db.root.one("SELECT min(seq) FROM txb.outbox") == 1
    relay.settle([1], [("t", "k", 0)])
    drop_first_partition(db, relay)
    assert db.root.one("SELECT min(seq) FROM txb.outbox") == 1001


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_is_to_be_sent_again_outlives_its_partition(db, relay, admin, when):
    if when == "before":
        decide(admin, 3, "retry")
    db.root.do("DELETE FROM txb.relay_hold")
    drop_first_partition(db, relay)
    assert db.root.one("SELECT min(seq) FROM txb.outbox") == 1001
    if when == "after":
        decide(admin, 3, "retry")
    assert relay.loose_page() == [(7, '"loose"', 1)]
    assert relay.record(7) == 3, "refused again, though the outbox has it no more"
    assert record_of(db, 3)["state"] == "dead" and record_of(db, 3)["kept"] is True


def test_an_edited_copy_is_not_overwritten_by_what_it_replaces(db, relay, admin):
    decide(admin, 3, "edit", b"small", "text/plain")
    db.root.do("DELETE FROM txb.relay_hold")
    drop_first_partition(db, relay)
    assert db.root.one("SELECT min(seq) FROM txb.outbox") == 1001
    assert relay.loose_page() == [(7, "small", 1)]


def test_nothing_is_sent_whose_payload_is_on_its_way_into_the_record(db, relay, admin):
    """TRUNCATE empties the partition for older snapshots too: such a read sees neither, and must not send an empty message."""
    decide(admin, 3, "retry")
    db.root.do("TRUNCATE txb.outbox_p000000000001")
    assert relay.loose_page() == []


def test_records_of_before_keep_their_payload(db, relay):
    """The migration's own statement on records of the version before."""
    db.root.do("UPDATE txb.failed SET payload = 'x' WHERE number = 1")
    text = (Path(ROOT) / "schemas" / "sql" / "0013_outbox_failed.sql").read_text()
    update = text[text.index("UPDATE txb.failed AS f SET kept = true"):]
    db.root.do("TRUNCATE txb.outbox_p000000000001")
    db.root.do(update[:update.index(";")])
    assert record_of(db, 1)["kept"] and record_of(db, 3)["kept"]
