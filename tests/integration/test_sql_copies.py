"""Copies of messages in the outbox (txb.outbox_copy): what they keep, which limits bind them, what becomes of those that Kafka refuses, and the copies of
the dead (txb.consumer_group)."""

import base64
import datetime
import itertools
import json

import psycopg2
import pytest
from jobstest import register, start
from sqltest import V7, migrations, refused
from test_sql_outbox_failed import Relay, decide, run
from test_sql_replay_source import lane_read

AT = datetime.datetime(2026, 1, 31, 12, 0, 0, 123456, datetime.timezone.utc)
NUMBERS = itertools.count(1)


def copy(session, target="t", id_=V7, source="shop", key=b"k", type_="made", time=AT, payload=b"x", content_type="text/plain", headers=None, extra=None):
    return session.do(
        "SELECT txb.outbox_copy(%s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb, %s::jsonb)",
        *(target, id_, source, key, type_, time, payload, content_type),
        *(None if h is None else json.dumps(h) for h in (headers, extra)),
    )


def intent(db, where="seq = (SELECT max(seq) FROM txb.outbox)"):
    return db.root.row(f"SELECT * FROM txb.outbox WHERE {where}")


def copied_key(row):
    key = row["origin"].get("key")
    return base64.b64decode(key) if key is not None else row["key"].encode()


def test_a_copy_has_the_message_in_its_columns_and_what_they_cannot_say_in_origin(db):
    copy(db.root, headers={"a": "ü", "none": None, "raw": {"base64": "/w=="}}, extra={"txb-group": "g"})
    row = intent(db)
    assert (str(row["id"]), row["topic"], row["key"], row["type"], row["content_type"]) == (V7, "t", "k", "made", "text/plain")
    assert bytes(row["payload"]) == b"x" and row["headers"] == {"a": "ü", "none": None, "raw": {"base64": "/w=="}, "txb-group": "g"}
    assert row["origin"] == {"source": "shop", "type": "made", "time": "2026-01-31T12:00:00.123456Z"}
    copy(db.root, source=None, type_=None, time=None, key=None, payload=None, content_type=None)
    row = intent(db)
    assert row["origin"] == {}, "a copy all the same"
    assert (row["key"], row["type"], row["payload"], row["headers"], row["content_type"]) == (None, "-", None, None, None)
    copy(db.root, headers={"txb-error": "old", "kept": "1"}, extra={"txb-error": "new"})
    assert intent(db)["headers"] == {"txb-error": "new", "kept": "1"}


@pytest.mark.parametrize("key", [b"", b"k", "ü".encode(), b"a\\b", b"\\377", b"\xff\xfe", b"a\0b", b"x" * 1024, b"x" * 1025, b"\xff" * 100000, bytes(range(256))])
def test_every_key_comes_through_and_one_that_is_no_text_has_a_standin(db, key):
    copy(db.root, key=key)
    row = intent(db)
    assert copied_key(row) == key and len(row["key"].encode()) <= 1024
    copy(db.root, key=key)
    assert intent(db)["key"] == row["key"], "order goes by it"
    copy(db.root, key=key + b"y")
    assert intent(db)["key"] != row["key"]


def test_no_limit_of_intents_binds_a_copy_but_topic_and_id(db):
    copy(db.root, payload=b"x" * 1_000_001, type_="y" * 256, content_type="z" * 256,
         headers={**{f"H {n}": "v" * 1000 for n in range(100)}, "ce_id": "7", "content-type": "x", "Ü": None})
    assert len(intent(db)["headers"]) == 103
    with refused("22023", "topic", "a b"):
        copy(db.root, target="a b")
    with refused("22023", "id", "version 7"):
        copy(db.root, id_="00000000-0000-4000-8000-000000000001")
    for wrong in ([], "x"):
        with refused("22023", "JSON objects"):
            copy(db.root, headers=wrong)
        with refused("22023", "JSON objects"):
            copy(db.root, extra=wrong)
    for column, value in (("payload", b"x" * 1_000_001), ("type", ""), ("headers", '{"A": "b"}'), ("key", "k" * 1025)):
        with refused("22023", column):
            db.root.do(f"INSERT INTO txb.outbox (topic, {'type, ' if column != 'type' else ''}{column}) VALUES ('t', {chr(39) + 'm' + chr(39) + ', ' if column != 'type' else ''}%s)", value)
    with refused("22023", "payload"):
        db.root.do("INSERT INTO txb.scheduled (due, id, topic, type, payload) VALUES (now(), txb.uuid_v7(), 't', 'm', %s)", b"x" * 1_000_001)


def test_a_relay_of_before_reads_nothing_any_more(db):
    """What it asks first of all, in each of its polls; it takes the answer for a schema of another version, and ends."""
    with refused("42703", "d.source"):
        db.session("relay").do("SELECT EXISTS (SELECT FROM txb.relay_decision AS d WHERE d.source = 'bank')")


def test_a_rolled_back_copy_was_never_there(db):
    session = db.session(transaction=True)
    copy(session)
    session.do("ROLLBACK")
    assert db.root.one("SELECT count(*) FROM txb.outbox") == 0


@pytest.mark.parametrize(
    "headers, count",
    [(None, 0), ({}, 0), ({"txb-replayed": "3"}, 3), ({"txb-replayed": "x"}, 0), ({"txb-replayed": None}, 0), ({"txb-replayed": "-1"}, 0),
     ({"txb-replayed": {"base64": "/w=="}}, 0), ({"txb-replayed": "9" * 40}, 999999999)],
)
def test_the_number_of_replays_is_a_header(db, headers, count):
    assert db.root.one("SELECT txb.replay_count(%s::jsonb)", None if headers is None else json.dumps(headers)) == count
    assert db.root.one("SELECT txb.replay_count_max()") == 10


def test_a_database_of_before_gets_the_column_in_every_partition(server):
    name = server.create_database(f"sql_before_{next(NUMBERS)}")
    with server.session(name, autocommit=False) as connection, connection.cursor() as cursor:
        for version, _, text in migrations():
            if version == 19:
                cursor.execute("RESET ROLE; SELECT txb.partition_make(1000, 3)")
                cursor.execute("INSERT INTO txb.outbox (topic, key, type) VALUES ('t', 'k', 'made')")
                connection.commit()
            cursor.execute(text)
            connection.commit()
        cursor.execute("SELECT txb.outbox_copy('t', %s, 's', %s, 'm', now(), NULL, NULL, NULL, NULL)", (V7, b"\xff"))
        cursor.execute("SELECT key, origin ->> 'key' FROM txb.outbox ORDER BY seq")
        assert cursor.fetchall() == [("k", None), ("\\xff", "/w==")]
        connection.commit()
        cursor.execute("SELECT txb.partition_make(1000, 9)")
        cursor.execute("SELECT setval('txb.outbox_seq_seq', 8500)")
        cursor.execute("SELECT txb.outbox_copy('t', %s, 's', 'k', 'm', now(), %s, NULL, NULL, NULL)", (V7, b"x" * 1_000_001))
        connection.commit()
        with pytest.raises(psycopg2.errors.InvalidParameterValue):
            cursor.execute("INSERT INTO txb.outbox (topic, type) VALUES ('a b', 'm')")
    server.query("postgres", f"DROP DATABASE {name} WITH (FORCE)")


# -- refused by Kafka (R5) --------------------------------------------------------------------------


def test_a_refused_copy_is_a_failed_message_with_all_that_it_was(db):
    relay = Relay(db)
    copy(db.root, key=b"\xff", type_=None, source=None, headers={"H": None, "raw": {"base64": "/w=="}}, extra={"txb-group": "g"})
    number = relay.record(1)
    failed = db.root.row("SELECT * FROM txb.failed WHERE number = %s", number)
    assert (failed["type"], failed["time"], bytes(failed["key"]), str(failed["id"])) == (None, AT, b"\\xff", V7)
    assert failed["headers"] == {"H": None, "raw": {"base64": "/w=="}, "txb-group": "g"}
    assert failed["origin"] == {"time": "2026-01-31T12:00:00.123456Z", "key": "/w=="}
    assert relay.holds() == [("t", "\\xff", 1, number)]
    assert decide(db.root, number, "retry") is None
    ((*_, origin, key, failed_number, verdict),) = run(relay.session, "relay_read_keys", 1, 100, ["t/\\xff"], 10, 1000000, "bank")
    assert (origin, bytes(key), failed_number, verdict) == (failed["origin"], b"\xff", number, 1)


def test_of_a_refused_copy_only_what_is_new_must_keep_the_limits(db):
    relay = Relay(db)
    copy(db.root, key=b"\xff", headers={"H": None, "ce_id": "7"})
    number = relay.record(1)
    with refused("22023", "headers", "reserved"):
        db.root.do("SELECT * FROM txb.failed_edit(%s, 'y', NULL, '{\"ce_time\": \"x\"}', 'hal')", number)
    done, *_ = db.root.do("SELECT * FROM txb.failed_edit(%s, 'y', NULL, '{\"H\": null, \"ce_id\": \"7\", \"more\": \"1\"}', 'hal')", number)[0]
    assert done
    ((_, id_, _, key, _, payload, _, headers, _, _, origin, kafka_key, _, verdict),) = run(
        relay.session, "relay_read_keys", 1, 100, ["t/\\xff"], 10, 1000000, "bank")
    assert str(id_) != V7 and key == "\\xff" and bytes(kafka_key) == b"\xff" and bytes(payload) == b"y" and verdict == 1
    assert headers == {"H": None, "ce_id": "7", "more": "1"} and origin["source"] == "shop"


@pytest.mark.parametrize("action, text", [("retry", None), ("edit", "y")])
def test_a_refused_copy_without_a_key_is_sent_again_as_one(db, action, text):
    relay = Relay(db)
    copy(db.root, key=None, payload=None, headers={"H": None})
    number = relay.record(1)
    assert relay.holds() == [] and decide(db.root, number, action, text, "text/plain", '{"H": null}') is None
    ((_, id_, _, _, _, payload, _, headers, _, _, origin, kafka_key, _, verdict),) = run(relay.session, "relay_read_loose", 0, 10, 1000000, "bank")
    assert (headers, origin["source"], origin["type"], kafka_key, verdict) == ({"H": None}, "shop", "made", None, 1)
    assert (str(id_) == V7, payload and bytes(payload).decode()) == (action == "retry", text)


def test_the_reads_of_the_relay_tell_copies_from_intents(db):
    relay = Relay(db)
    db.root.do("INSERT INTO txb.outbox (topic, key, type) VALUES ('t', 'k', 'made')")
    copy(db.root, key=b"\xff")
    copy(db.root)
    for name, args in (("relay_read_tail", (0, 10, 10, 1000000)), ("relay_read_few", (0, 10, 10)),
                       ("relay_read_drain", (1, 10, "t", 10, 1000000, "bank")),
                       ("relay_read_holes", ([1], [10], 1, 10, 10, 1000000))):
        rows = run(relay.session, name, *args)
        assert [row[10] is not None for row in rows] == [False, True, True], name
        assert [row[11] and bytes(row[11]) for row in rows] == [None, b"\xff", None], name


# -- replay of the outbox ---------------------------------------------------------------------------


def test_a_replayed_copy_is_the_message_that_it_was(db):
    copy(db.root, key=b"\xff", type_=None, source=None, headers={"H": None}, extra={"txb-group": "g"})
    copy(db.root, type_="x", time=None)
    reader = db.session("reader")
    first, second = lane_read(reader)
    assert (str(first[1]), first[3], first[6], first[7]) == (V7, None, {"H": None, "txb-group": "g"}, AT)
    assert second[3] == "x" and second[7] == datetime.datetime.fromtimestamp(0, datetime.timezone.utc)
    assert [row[0] for row in lane_read(reader, keys=[b"\xff"])] == [1]
    assert [row[0] for row in lane_read(reader, types=["x"])] == [2] and lane_read(reader, types=["-"]) == []


# -- the dead ---------------------------------------------------------------------------------------


class Group:
    """A worker of group g that has taken partition 0 of topic t."""

    def __init__(self, db, dead_letter_topic="dead"):
        self.db, self.worker, self.next = db, db.session("worker"), 0
        self.register(dead_letter_topic)
        self.epoch = db.take(self.worker)["epoch"]

    def register(self, topic):
        self.worker.do("SELECT txb.group_register('g', %s)", topic)

    def fail(self, state="dead", error="no account 7", error_class="error", sqlstate="P0001", key=b"\xff", id_=None, attempts=3, end="COMMIT", headers=None):
        """One message set aside; its number."""
        session, offset = self.worker, self.next
        session.do("BEGIN")
        id_ = id_ or session.one("SELECT txb.uuid_v7()")
        version = session.do("SELECT keys_version FROM txb.failed_keys('g', 't', 0, 10)")[0][0]
        session.do("SELECT txb.batch_open('g', 't', 0, %s, %s, %s, 1, %s, 0, %s)", self.epoch, offset, offset + 1, id_, version)
        session.do(
            "SELECT txb.failed_add('g', 't', 0, %s::bigint[], %s::uuid[], '{shop}', %s::bytea[], '{made}', %s::timestamptz[], %s::bytea[], '{text/plain}',"
            " %s::jsonb[], %s::text[], %s::int[], '{0}', '{true}', %s::text[], %s::text[], %s::text[], 'h', 'w')",
            *([offset], [id_], [key], [AT], [b"body"], [json.dumps(headers or {"H": None})], [state], [attempts], [error_class], [sqlstate], [error]),
        )
        session.do("SELECT txb.batch_close('g', 't', 0, 0, 0, 1)")
        session.do(end)
        if end == "ROLLBACK":
            return None
        self.next += 1
        return self.db.root.one('SELECT number FROM txb.failed WHERE "offset" = %s', offset)

    def settle(self, number, verdict, error="still none", end="COMMIT"):
        """The end of another attempt."""
        session = self.worker
        version = session.do("SELECT keys_version FROM txb.retry_mark('g', 't', 0, %s, 10, 100000)", self.epoch)[0][0]
        session.do("BEGIN")
        session.do("SELECT txb.retry_open('g', 't', 0, %s, %s)", self.epoch, version)
        session.do(
            "SELECT txb.retry_settle('g', 't', 0, %s::bigint[], %s::text[], '{0}', '{error}', '{P0002}', %s::text[], false, 'w')",
            *([number], [verdict], [error]),
        )
        session.do(end)

    def copies(self):
        rows = self.db.root.do("SELECT id, topic, headers, origin, payload FROM txb.outbox ORDER BY seq")
        return [(str(id_), topic, headers, origin, bytes(payload)) for id_, topic, headers, origin, payload in rows]


def test_a_message_that_is_dead_at_once_is_copied_with_its_error(db):
    group = Group(db)
    number = group.fail(id_=V7)
    ((id_, topic, headers, origin, payload),) = group.copies()
    assert (id_, topic, payload) == (V7, "dead", b"body")
    assert origin == {"source": "shop", "type": "made", "time": "2026-01-31T12:00:00.123456Z", "key": "/w=="}
    assert db.root.one("SELECT (%s::timestamptz = updated_at) FROM txb.failed", headers.pop("txb-dead-at"))
    assert headers == {
        "H": None, "txb-group": "g", "txb-topic": "t", "txb-partition": "0", "txb-offset": "0", "txb-failed": str(number), "txb-attempts": "3",
        "txb-error-class": "error", "txb-error-sqlstate": "P0001", "txb-error": "no account 7"}


def test_what_an_earlier_death_told_does_not_show(db):
    """A copy that came back, and dies anew without a SQLSTATE."""
    group = Group(db)
    group.fail(sqlstate=None, headers={"txb-error-sqlstate": "22012", "txb-error": "old", "txb-dead-at": "2020-01-01T00:00:00Z", "txb-replayed": "2", "n": "1"})
    headers = group.copies()[0][2]
    assert "txb-error-sqlstate" not in headers and headers["txb-error"] == "no account 7" and headers["txb-dead-at"] > "2021"
    assert (headers["txb-replayed"], headers["n"]) == ("2", "1")


@pytest.mark.parametrize("from_partition,told", [(1, "1"), (-1, None)])
def test_a_dead_message_of_a_job_says_where_it_lay(db, from_partition, told):
    register(db.root)
    start(db.root)
    lane = db.root.one("UPDATE txb.job_lane SET from_partition = %s RETURNING lane", from_partition)
    db.root.do("SELECT txb.group_register('g', 'dead')")
    db.root.do("""INSERT INTO txb.failed (side, state, group_name, topic, partition, "offset", id, type, place, holds)
                  VALUES ('consumer', 'dead', 'g', 't', %s, 49, %s, 'made', 0, false)""", -lane, V7)
    headers = db.root.one("SELECT headers FROM txb.outbox")
    assert (headers["txb-partition"], headers["txb-offset"]) == (told or str(-lane), "49")


def test_an_error_is_cut_and_what_there_is_not_is_left_out(db):
    group = Group(db)
    group.fail(error="ü" * 1001, sqlstate=None)
    headers = group.copies()[0][2]
    assert headers["txb-error"] == "ü" * 1000 and "txb-error-sqlstate" not in headers


def test_a_message_is_copied_each_time_that_it_becomes_dead_and_only_then(db):
    group = Group(db)
    number = group.fail(state="retrying", attempts=1)
    assert group.copies() == []
    group.settle(number, "retrying")
    assert group.copies() == []
    group.settle(number, "dead")
    assert [c[2]["txb-attempts"] for c in group.copies()] == ["3"] and group.copies()[0][2]["txb-error-sqlstate"] == "P0002"
    db.root.do("UPDATE txb.failed SET error = 'told again', state = state")
    assert len(group.copies()) == 1
    assert db.session("admin").do("SELECT done FROM txb.failed_retry(ARRAY[%s::bigint], 'hal')", number) == [(True,)]
    group.settle(number, "dead", "and still none")
    assert [c[2]["txb-error"] for c in group.copies()] == ["still none", "and still none"]
    db.session("admin").do("SELECT * FROM txb.failed_discard(ARRAY[%s::bigint], 'hal', 'no use')", number)
    assert len(group.copies()) == 2


def test_what_is_condemned_for_a_crash_is_copied(db):
    group = Group(db)
    number = group.fail(state="retrying", attempts=1)
    group.worker.do("SELECT txb.retry_mark('g', 't', 0, %s, 10, 100000)", group.epoch)
    group.worker.do("SELECT txb.failed_condemn('g', 't', 0, %s, %s, 'its worker died', false, 'w')", group.epoch, number)
    ((_, _, headers, _, _),) = group.copies()
    assert (headers["txb-error-class"], headers["txb-error"]) == ("crash", "its worker died")


def test_a_message_that_was_closed_and_comes_again_dead_is_copied_again(db):
    group = Group(db)
    number = group.fail(id_=V7)
    db.session("admin").do("SELECT * FROM txb.failed_discard(ARRAY[%s::bigint], 'hal', 'no use')", number)
    db.root.do("SELECT txb.offset_set('g', 't', 0, 0, 'c1', 'once more')")
    group.next, group.epoch = 0, db.take(group.worker, start=None)["epoch"]
    assert group.fail(id_=V7) == number and len(group.copies()) == 2


def test_a_copy_is_there_if_and_only_if_its_message_is_dead(db):
    group = Group(db)
    group.fail(end="ROLLBACK")
    assert group.copies() == [] and db.root.one("SELECT count(*) FROM txb.failed") == 0
    number = group.fail(state="retrying", attempts=1)
    group.settle(number, "dead", end="ROLLBACK")
    assert group.copies() == [] and db.root.one("SELECT state FROM txb.failed") == "retrying"


def test_what_is_held_retried_or_refused_on_the_publishing_side_is_not_copied(db):
    group = Group(db)
    group.fail(state="retrying", key=b"a")
    group.fail(state="held", key=b"a")
    db.root.do("INSERT INTO txb.outbox (topic, key, type) VALUES ('t', 'k', 'made')")
    Relay(db).record(1)
    assert db.root.one("SELECT count(*) FROM txb.outbox WHERE topic = 'dead'") == 0


def test_a_group_without_the_setting_writes_nothing(db):
    group = Group(db, None)
    group.fail()
    assert group.copies() == [] and db.root.do("SELECT * FROM txb.consumer_group") == []


def test_the_last_worker_that_began_is_right(db):
    group = Group(db, "old")
    written = "SELECT dead_letter_topic, xmin::text FROM txb.consumer_group"
    before = db.root.do(written)
    group.register("old")
    assert db.root.do(written) == before, "nothing changed, nothing written"
    db.session("worker").do("SELECT txb.group_register('other', 'elsewhere')")
    group.register("new")
    group.fail()
    look = "SELECT dead_letter_topic, since = (SELECT registered_at FROM txb.consumer_group WHERE group_name = 'g') FROM txb.group_registered('g')"
    assert db.session("reader").do(look) == [("new", True)]
    assert db.session("worker").do("SELECT * FROM txb.group_registered('nobody')") == []
    group.register(None)
    group.fail()
    assert [c[1] for c in group.copies()] == ["new"]
    with refused("22023", "dead letter topic", "a b"):
        group.register("a b")


def test_a_database_knows_whether_a_relay_ever_served_it(db):
    worker = db.session("worker")
    assert worker.one("SELECT txb.outbox_served()") is False
    Relay(db)
    assert worker.one("SELECT txb.outbox_served()") is True
