"""Publishing: limits, ids, order, scheduling, by every way in."""

import hashlib
import json
import uuid

import psycopg2.extras
import pytest
from sqltest import V7, refused
from txbtest import process

LIMITS = [
    # argument, value, words of the message
    ("topic", None, "topic is null"),
    ("topic", "", "topic has 0 bytes"),
    ("topic", "a" * 250, "topic has 250 bytes, allowed are 1 to 249"),
    ("topic", "a b", "not a Kafka topic name"),
    ("topic", "ä", "not a Kafka topic name"),
    ("topic", ".", "not a Kafka topic name"),
    ("topic", "..", "not a Kafka topic name"),
    ("key", "ä" * 513, "key has 1026 bytes, at most 1024"),
    ("key", "k" * 1025, "key has 1025 bytes, at most 1024"),
    ("type", None, "type is null"),
    ("type", "", "type has 0 bytes"),
    ("type", "x" * 256, "type has 256 bytes, allowed are 1 to 255"),
    ("payload", b"x" * 1000001, "payload has 1000001 bytes, at most 1000000"),
    ("content_type", "", "content_type has 0 bytes"),
    ("content_type", "x" * 256, "content_type has 256 bytes, allowed are 1 to 255"),
    ("id", str(uuid.UUID(int=0x1234, version=4)), "is not a UUID of version 7"),
    ("id", "0190163d-8694-739b-2ea5-966c26f8ad91", "is not a UUID of version 7"),
    ("headers", [], "headers is a JSON array"),
    ("headers", "x", "headers is a JSON string"),
    ("headers", {f"h{n}": "x" for n in range(33)}, "headers has 33 entries, at most 32"),
    ("headers", {"h": "x" * 16384}, "at most 16384"),
    ("headers", {"h": 1}, 'the value of "h" is not a string'),
    ("headers", {"h": None}, 'the value of "h" is not a string'),
    ("headers", {"H": "x"}, '"H" is not a header name'),
    ("headers", {"": "x"}, '"" is not a header name'),
    ("headers", {"-h": "x"}, '"-h" is not a header name'),
    ("headers", {"h\n": "x"}, "is not a header name"),
    ("headers", {"ce_id": "x"}, '"ce_id" is reserved'),
    ("headers", {"content-type": "x"}, '"content-type" is reserved'),
]
EDGES = [
    ("topic", "a" * 249),
    ("topic", "..."),
    ("key", "k" * 1024),
    ("key", ""),
    ("key", None),
    ("type", "x" * 255),
    ("payload", b"x" * 1000000),
    ("payload", None),
    ("content_type", "x" * 255),
    ("headers", {f"h{n}": "" for n in range(32)}),
    ("headers", {}),
    ("headers", {"h": "x" * (16384 - len('{"h": ""}'))}),
    ("headers", {"0-a_b": 'ü\n"'}),
    ("id", V7),
]


def intent(argument=None, value=None):
    row = {
        "topic": "t",
        "key": "k",
        "type": "made",
        "payload": b"x",
        "content_type": "text/plain",
        "headers": None,
        "id": V7,
    }
    if argument:
        row[argument] = value
    if row["headers"] is not None:
        row["headers"] = psycopg2.extras.Json(row["headers"])
    return row


def by_function(app, row):
    return app.one(
        """SELECT txb.publish(%s, %s, %s, %s::bytea, headers => %s::jsonb, id => %s::uuid, content_type => %s)""",
        row["topic"],
        row["key"],
        row["type"],
        row["payload"],
        row["headers"],
        row["id"],
        row["content_type"],
    )


def by_insert(app, row):
    app.do(
        "INSERT INTO txb.outbox (id, topic, key, type, payload, content_type, headers) VALUES (%s, %s, %s, %s, %s, "
        "%s, %s)",
        row["id"],
        row["topic"],
        row["key"],
        row["type"],
        row["payload"],
        row["content_type"],
        row["headers"],
    )


def by_schedule(app, row):
    return app.one(
        """SELECT txb.publish(%s, %s, %s, %s::bytea, headers => %s::jsonb, id => %s::uuid, content_type => %s,
                      not_before => now() + interval '1 hour')""",
        row["topic"],
        row["key"],
        row["type"],
        row["payload"],
        row["headers"],
        row["id"],
        row["content_type"],
    )


def by_many(app, row):
    other = {
        "topic": "t",
        "key": None,
        "type": "made",
        "payload": b"1",
        "content_type": "application/json",
        "headers": None,
        "id": None,
    }
    rows = [other, other, row]
    return [
        r[0]
        for r in app.do(
            "SELECT * FROM txb.publish_many(%s::text[], %s::text[], %s::text[], %s::bytea[], %s::text[], %s::jsonb[], "
            "%s::uuid[])",
            *([r[name] for r in rows] for name in ("topic", "key", "type", "payload", "content_type", "headers", "id")),
        )
    ]


WAYS = {"function": by_function, "insert": by_insert, "schedule": by_schedule, "many": by_many}


@pytest.mark.parametrize("way", WAYS)
def test_every_limit_is_refused_by_name(db, way):
    app = db.session("app")
    for argument, value, words in LIMITS:
        with refused("22023", words, *(["row 3: "] if way == "many" else [])):
            WAYS[way](app, intent(argument, value))
    assert db.root.one("SELECT count(*) FROM txb.outbox") == 0
    assert db.root.one("SELECT count(*) FROM txb.scheduled") == 0


@pytest.mark.parametrize("way", WAYS)
def test_every_edge_passes(db, way):
    app = db.session("app")
    for argument, value in EDGES:
        WAYS[way](app, intent(argument, value))
    table = "scheduled" if way == "schedule" else "outbox"
    assert db.root.one(f"SELECT count(*) FROM txb.{table}") == len(EDGES) * (3 if way == "many" else 1)


def test_the_error_names_the_column_in_its_fields(db):
    app = db.session("app")
    try:
        by_insert(app, intent("type", ""))
    except psycopg2.Error as error:
        assert (error.diag.schema_name, error.diag.table_name, error.diag.column_name) == ("txb", "outbox", "type")
        assert error.diag.message_hint


@pytest.mark.parametrize("payload", ['{"a": 1', "", "{'a': 1}", '{"a": "\\x"}'])
def test_a_payload_that_is_not_json_is_refused_where_json_is_promised(db, payload):
    app = db.session("app")
    with refused("22023", "payload is not valid JSON"):
        app.do("SELECT txb.publish('t', 'k', 'made', %s::text)", payload)
    with refused("22023", "payload is not valid JSON"):
        app.do("SELECT txb.publish('t', 'k', 'made', %s::bytea, content_type => 'application/json')", payload.encode())
    with refused("22023", "row 2: payload is not valid JSON"):
        app.do(
            """SELECT txb.publish_many('{t,t,t}', '{k,k,k}', '{m,m,m}', ARRAY['1', %s, '{']::bytea[],
                  '{application/json,application/json,application/json}')""",
            payload.encode(),
        )
    app.do("SELECT txb.publish('t', 'k', 'made', %s::bytea, content_type => 'text/plain')", payload.encode())
    assert db.payloads() == [payload]


def test_bytes_that_are_not_utf8_are_refused_as_json(db):
    app = db.session("app")
    with refused("22023", "payload is not valid JSON", "UTF8"):
        app.do("SELECT txb.publish('t', 'k', 'made', '\\xff'::bytea, content_type => 'application/json')")
    app.do("SELECT txb.publish('t', 'k', 'made', '\\xff00'::bytea)")
    assert db.root.do("SELECT payload, content_type FROM txb.outbox")[0][1] == "application/octet-stream"


def test_a_literal_needs_no_type_and_text_is_kept_byte_for_byte(db):
    app = db.session("app")
    app.do("""SELECT txb.publish('t', 'k', 'made', '{"b": 1,   "a": 2.50}')""")
    app.do("""SELECT txb.publish('t', 'k', 'made', '{"b": 1,   "a": 2.50}'::jsonb)""")
    app.do("SELECT txb.publish(topic => 't', key => NULL, type => 'made', payload => NULL::jsonb)")
    assert db.payloads() == ['{"b": 1,   "a": 2.50}', '{"a": 2.50, "b": 1}', None]
    assert db.root.one("SELECT count(*) FROM txb.outbox WHERE content_type = 'application/json'") == 3


def test_publish_returns_the_id_that_it_wrote(db):
    app = db.session("app")
    given = by_function(app, intent())
    made = db.publish(app)
    assert [row[0] for row in db.root.do("SELECT id FROM txb.outbox ORDER BY seq")] == [given, made]
    assert str(given) == V7 and made.version == 7


def test_new_ids_are_of_version_7_and_of_now(db):
    low, made, high = db.root.do(
        "SELECT txb.uuid_v7_floor(clock_timestamp()), txb.uuid_v7(), txb.uuid_v7_floor(clock_timestamp() + interval "
        "'1 ms')"
    )[0]
    assert made.version == 7 and made.variant == uuid.RFC_4122
    assert low < made < high
    assert db.root.one("SELECT count(DISTINCT txb.uuid_v7()) FROM generate_series(1, 100000)") == 100000
    # 1/4096 of a millisecond, as common/uuid.c has it: the vector of its unit test is 2024-01-01 00:00:00.000500.
    assert str(db.root.one("SELECT txb.uuid_v7_at('2024-01-01 00:00:00.0005+00')")).startswith("018cc251-f400-7800-")
    assert db.root.one("SELECT txb.uuid_v7_time('018cc251-f401-7800-8000-000000000000') = '2024-01-01 00:00:00.001+00'")


def test_ids_without_order_are_made_by_the_insert_too(db):
    app = db.session("app")
    app.do("INSERT INTO txb.outbox (topic, type) VALUES ('t', 'made')")
    assert db.root.one("SELECT id FROM txb.outbox").version == 7


def test_publish_many_keeps_the_order_of_the_arrays(db):
    app = db.session("app")
    count = 1500
    payloads = [str(n).encode() for n in range(count)]
    ids = app.do(
        "SELECT txb.publish_many(%s, %s, %s, %s, %s)",
        ["t"] * count,
        [str(n * 7919 % count) for n in range(count)],
        ["made"] * count,
        payloads,
        ["application/json"] * count,
    )
    assert db.payloads() == [str(n) for n in range(count)]
    assert [row[0] for row in ids] == [row[0] for row in db.root.do("SELECT id FROM txb.outbox ORDER BY seq")]


def test_publish_many_of_nothing_writes_nothing(db):
    assert db.session("app").do("SELECT txb.publish_many('{}', '{}', '{}', '{}', '{}')") == []


def test_publish_many_refuses_arrays_that_do_not_fit(db):
    app = db.session("app")
    with refused("22023", "topics has 2 elements"):
        app.do("SELECT txb.publish_many('{t,t}', '{k}', '{m,m}', '{1,2}', '{text/plain,text/plain}')")
    with refused("22023", "none of them null"):
        app.do("SELECT txb.publish_many('{t,t}', NULL, '{m,m}', '{1,2}', '{text/plain,text/plain}')")
    with refused("22023", "topics has 1 elements"):
        app.do("SELECT txb.publish_many('{t}', '{k}', '{m}', '{1}', '{x}', NULL, NULL, '{now,now}')")


def test_publish_many_writes_all_or_none(db):
    app = db.session("app")
    with refused("22023", "txb.publish_many: row 2: type has 0 bytes"):
        app.do(
            "SELECT txb.publish_many('{t,t}', '{k,k}', ARRAY['m', ''], '{1,2}', '{x,x}', NULL, NULL, ARRAY[now() + "
            "interval '1 h', null])"
        )
    with refused("22023", "row 1: not_before is"):
        app.do("SELECT txb.publish_many('{t,t}', '{k,k}', '{m,m}', '{1,2}', '{x,x}', NULL, NULL, '{2300-01-01,null}')")
    with refused("22023", "row 2: strict_order needs a key"):
        app.do("SELECT txb.publish_many('{t,t}', '{k,null}', '{m,m}', '{1,2}', '{x,x}', NULL, NULL, NULL, '{t,t}')")
    assert db.payloads() == []


def test_a_rollback_is_never_seen_and_a_savepoint_neither(db):
    app = db.session("app", transaction=True)
    db.publish(app, "1")
    app.do("SAVEPOINT s")
    db.publish(app, "2")
    app.do("ROLLBACK TO s")
    db.publish(app, "3")
    assert db.payloads() == []
    app.do("COMMIT")
    assert db.payloads() == ["1", "3"]
    app.do("BEGIN")
    db.publish(app, "4")
    app.do("ROLLBACK")
    assert db.payloads() == ["1", "3"]


def test_strict_order_makes_the_second_wait_for_the_first(db):
    first, second = db.session("app", transaction=True), db.session("app", transaction=True)
    strict = "SELECT txb.publish('t', 'k', 'made', %s::text, strict_order => true)"
    first.do(strict, "1")
    running = second.start(strict, "2")
    db.wait_until_waiting(second)
    first.do(strict, "3")
    first.do("COMMIT")
    running.finish()
    second.do("COMMIT")
    assert db.payloads() == ["1", "3", "2"]


def test_without_strict_order_nobody_waits_and_numbers_may_swap(db):
    first, second = db.session("app", transaction=True), db.session("app", transaction=True)
    db.publish(first, "1")
    db.publish(second, "2")
    second.do("COMMIT")
    db.publish(first, "3")
    first.do("COMMIT")
    assert db.payloads() == ["1", "2", "3"]


def test_strict_order_holds_only_its_own_topic_and_key(db):
    first, second = db.session("app", transaction=True), db.session("app", transaction=True)
    strict = "SELECT txb.publish(%s, %s, 'made', '1', strict_order => true)"
    first.do(strict, "a", "bc")
    for topic, key in (("ab", "c"), ("a", "b"), ("bc", "a")):
        second.do(strict, topic, key)
    db.publish(second, topic="a", key="bc")  # who does not ask for it does not wait
    second.do("COMMIT")


def test_strict_order_needs_a_key(db):
    with refused("22023", "strict_order needs a key"):
        db.session("app").do("SELECT txb.publish('t', NULL, 'made', '1', strict_order => true)")


def test_publish_many_takes_its_locks_in_one_order(db):
    """It waits for the lowest of its locks before it has any other: with the arrays' order, these two would
    deadlock."""
    one, many = db.session("app", transaction=True), db.session("app", transaction=True)
    low, high = [r[0] for r in db.root.do("SELECT t FROM unnest('{a,b}'::text[]) AS t ORDER BY txb.order_lock(t, 'k')")]
    strict = "SELECT txb.publish(%s, 'k', 'made', '1', strict_order => true)"
    one.do(strict, low)
    running = many.start(
        "SELECT txb.publish_many(ARRAY[%s, %s], '{k,k}', '{m,m}', '{1,2}', '{x,x}', NULL, NULL, NULL, '{t,t}')",
        high,
        low,
    )
    db.wait_until_waiting(many)
    one.do(strict, high)
    one.do("COMMIT")
    running.finish()
    many.do("COMMIT")


def test_not_before_keeps_an_intent_until_it_is_due(db):
    app = db.session("app")
    at = app.one("SELECT now() + interval '3 days'")
    made = app.one("SELECT txb.publish('t', 'k', 'made', '1', not_before => %s)", at)
    app.do("SELECT txb.publish('t', 'k', 'made', '2', not_before => now() - interval '1 day')")
    assert db.payloads() == ["2"]
    row = db.root.row("SELECT * FROM txb.scheduled")
    assert row["due"] == at and row["id"] == made
    # Its id is of its due time: a consumer's inbox that forgets older ids still takes it.
    assert db.root.one("SELECT txb.uuid_v7_time(%s) BETWEEN %s - interval '1 ms' AND %s", made, at, at)
    for far in ("2300-01-01", "infinity"):
        with refused("22023", "not_before is", "10 years"):
            app.do("SELECT txb.publish('t', 'k', 'made', '1', not_before => %s)", far)


def test_publish_many_schedules_some(db):
    app = db.session("app")
    ids = [
        row[0]
        for row in app.do(
            """SELECT txb.publish_many('{t,t,t}', '{k,k,k}', '{m,m,m}', '{1,2,3}', '{x,x,x}', NULL, NULL,
                                       ARRAY[NULL, now() + interval '1 hour', now() - interval '1 hour'])"""
        )
    ]
    assert db.payloads() == ["1", "3"]
    assert db.root.do("SELECT id, convert_from(payload, 'UTF8') FROM txb.scheduled") == [(ids[1], "2")]


def begin_delivery(session, group, message_id):
    """As the worker's apply statements do."""
    session.do(
        "SELECT set_config('txb.delivery', %s || '/' || %s, true), set_config('txb.ordinal', '0', true)", group, message_id
    )


def deliver(session, message_id, group="g", sql="SELECT txb.publish('t', 'k', 'made', '1')", times=1):
    """Publishes in a delivery, as a handler would; the ids."""
    session.do("BEGIN")
    begin_delivery(session, group, message_id)
    ids = [session.one(sql) for _ in range(times)]
    session.do("ROLLBACK")
    return ids


def test_ids_of_a_delivery_are_the_same_whenever_it_is_run(db):
    worker = db.session("worker")
    first = deliver(worker, V7, times=3)
    assert len(set(first)) == 3 and all(i.version == 7 and i.variant == uuid.RFC_4122 for i in first)
    assert deliver(worker, V7, times=3) == first
    # The time is the message's own.
    assert all(str(i)[:18] == V7[:18] for i in first)
    assert not set(first) & set(deliver(worker, V7, group="h", times=3))
    assert not set(first) & set(deliver(worker, "0190163d-8694-739b-aea5-966c26f8ad92", times=3))
    # This very id: it must not change with a version of the schema, or a repeated delivery would publish twice.
    assert str(first[0]) == derived("g", V7, 1)


def derived(group, message_id, ordinal):
    """W14 and common/uuid.c, once more: SHA-256 over the parts, each preceded by its length in 8 bytes."""
    digest = hashlib.sha256()
    for part in (group.encode(), message_id.encode(), str(ordinal).encode()):
        digest.update(len(part).to_bytes(8, "big") + part)
    tail = bytearray(digest.digest()[:8])
    tail[0] = 0x80 | (tail[0] & 0x3F)
    return str(uuid.UUID(bytes=uuid.UUID(message_id).bytes[:8] + bytes(tail)))


def test_ids_of_a_delivery_are_derived_by_every_function(db):
    worker = db.session("worker")
    many = "SELECT txb.publish_many('{t,t}', '{k,k}', '{m,m}', '{1,2}', '{x,x}')"
    one = deliver(worker, V7, times=2)
    assert deliver(worker, V7, sql=many)[0] == one[0]
    for form in ("'1'::jsonb", "'1'::text", "'1'::bytea"):
        assert deliver(worker, V7, sql=f"SELECT txb.publish('t', 'k', 'made', {form})")[0] == one[0]
    # A scheduled one has the due time in front of the same hash.
    due = db.root.one("SELECT date_trunc('day', now()) + interval '9 days'")
    later = "SELECT txb.publish('t', 'k', 'made', '1', not_before => date_trunc('day', now()) + interval '9 days')"
    scheduled = deliver(worker, V7, sql=later)[0]
    assert scheduled == deliver(worker, V7, sql=later)[0]
    assert str(scheduled)[19:] == str(one[0])[19:] and db.root.one("SELECT txb.uuid_v7_time(%s) = %s", scheduled, due)


def test_the_delivery_ends_with_its_transaction(db):
    worker = db.session("worker")
    deliver(worker, V7)
    made = db.publish(worker)
    assert str(made)[:18] != V7[:18]


def test_savepoints_do_not_disturb_derived_ids(db):
    worker = db.session("worker")
    worker.do("BEGIN")
    begin_delivery(worker, "g", V7)
    first = db.publish(worker)
    worker.do("SAVEPOINT s")
    undone = db.publish(worker)
    worker.do("ROLLBACK TO s")
    assert db.publish(worker) == undone != first
    worker.do("COMMIT")


def test_identity_needs_no_right_on_the_sequence_and_returning_is_refused(db):
    app = db.session("app")
    app.do("INSERT INTO txb.outbox (topic, key, type) VALUES ('t', 'k', 'made')")
    with refused("42501"):
        app.do("INSERT INTO txb.outbox (topic, key, type) VALUES ('t', 'k', 'made') RETURNING id")
    with refused("42501"):
        app.do("SELECT nextval('txb.outbox_seq_seq')")
    for column, value in (("seq", "1"), ("created_at", "now()")):
        with refused("428C9" if column == "seq" else "42501"):
            app.do(f"INSERT INTO txb.outbox (topic, key, type, {column}) VALUES ('t', 'k', 'made', {value})")
        with refused("42501"):
            app.do(
                f"INSERT INTO txb.outbox (topic, key, type, {column}) OVERRIDING SYSTEM VALUE VALUES ('t', 'k', "
                f"'made', {value})"
            )


def test_a_hostile_search_path_changes_nothing(db):
    """An application's own operator <= (or a function of a built-in's name) must not reach the functions that run as
    the owner, nor the limits."""
    db.root.do("CREATE SCHEMA evil; GRANT ALL ON SCHEMA evil TO login_app")
    app = db.session("app")
    app.do("CREATE FUNCTION evil.yes(int, int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true'")
    app.do("CREATE OPERATOR evil.<= (FUNCTION = evil.yes, LEFTARG = int, RIGHTARG = int)")
    app.do("CREATE OPERATOR evil.>= (FUNCTION = evil.yes, LEFTARG = int, RIGHTARG = int)")
    app.do("CREATE FUNCTION evil.octet_length(text) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'")
    app.do(
        "CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT 'epoch'::timestamptz $$"
    )
    app.do("SET search_path = evil, pg_catalog")
    for way in ("function", "insert"):
        with refused("22023", "topic has 300 bytes"):
            WAYS[way](app, intent("topic", "a" * 300))
    made = db.publish(app)
    assert db.root.one("SELECT txb.uuid_v7_time(%s) > now() - interval '1 minute'", made)


def test_the_number_is_drawn_under_the_lock_that_the_relay_looks_for(db):
    """R3: every transaction with a number of txb.outbox is listed as a holder until it has ended,
    by whichever way it published."""
    for way in ("function", "insert", "many"):
        app = db.session("app", transaction=True)
        WAYS[way](app, intent())
        holders = db.root.do("SELECT pid, xid FROM txb.outbox_holders()")
        assert [h[0] for h in holders] == [app.pid] and holders[0][1] is not None
        app.do("ROLLBACK")
        assert db.root.do("SELECT 1 FROM txb.outbox_holders()") == []


def test_json_headers_come_back_as_given(db):
    app = db.session("app")
    app.do("""SELECT txb.publish('t', 'k', 'made', '1', '{"trace-id": "ä\\u0001"}')""")
    assert json.dumps(db.root.one("SELECT headers FROM txb.outbox")) == json.dumps({"trace-id": "ä\u0001"})


def test_many_publishers_at_once_lose_and_swap_nothing(db):
    """Four sessions, one key each, in transactions of three: every session's intents stand in the order of its
    writing."""
    sessions = [db.session("app") for _ in range(4)]
    running = [
        s.start(
            """DO $$ BEGIN FOR i IN 1..100 LOOP
                 PERFORM txb.publish('t', pg_backend_pid()::text, 'made', (i * 10 + j)::text::jsonb)
                   FROM generate_series(1, 3) AS j;
                 COMMIT; END LOOP; END $$"""
        )
        for s in sessions
    ]
    for each in running:
        each.finish()
    for session in sessions:
        mine = [
            int(r[0])
            for r in db.root.do(
                "SELECT convert_from(payload, 'UTF8') FROM txb.outbox WHERE key = %s ORDER BY seq", str(session.pid)
            )
        ]
        assert len(mine) == 300 and mine == sorted(mine)
    process.wait_for(lambda: not db.root.do("SELECT 1 FROM txb.outbox_holders()"), "all publishers to have ended", 60)
