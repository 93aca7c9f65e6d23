"""Sagas in the database of their coordinator: deploying, starting, what starts must look like, events, decisions, days."""

import json

import pytest
from sqltest import refused

SCHEMA = {
    "type": "object",
    "required": ["order"],
    "properties": {"order": {"type": "integer"}},
    "additionalProperties": False,
}
BODY = json.dumps({"input": SCHEMA})
DEPLOY = "SELECT txb.saga_deploy(%s, %s, %s, %s, %s, %s, 'hal')"
START = "SELECT txb.saga_start('order', %s::jsonb, %s, %s::interval, %s, %s)"
ID = "00000000-0000-4000-8000-000000000001"


@pytest.fixture
def db(bare):
    bare.root.do("SELECT txb.partition_make(100000, 1)")
    return bare


def deploy(db, name="order", version=1, body=BODY, deadline_ms=None, reply_topic=None, topic="coordinator"):
    return db.session("admin").one(DEPLOY, name, version, body, deadline_ms, reply_topic, topic)


def start(session, body='{"order": 1}', key=None, deadline=None, reply_topic=None, coordinator=None):
    return session.one(START, body, key, deadline, reply_topic, coordinator)


def published(db):
    return db.root.do("SELECT topic, key, type, convert_from(payload, 'UTF8')::jsonb, headers FROM txb.outbox ORDER BY seq")


def counts(db):
    return db.root.do(
        "SELECT (SELECT count(*) FROM txb.saga), (SELECT count(*) FROM txb.saga_start_key), (SELECT count(*) FROM txb.outbox)"
    )[0]


def begin(session, saga=ID, name="order", version=None, key=None, body='{"order": 1}', deadline_ms=None, reply_topic=None):
    return session.do(
        "SELECT id::text, problem FROM txb.saga_begin(%s::uuid[], '{2026-01-01 12:00+00}', %s, %s::int[], %s::text[], "
        "%s::jsonb[], %s::bigint[], %s::text[], '{NULL}')",
        *[[one] for one in (saga, name, version, key, body, deadline_ms, reply_topic)],
    )


def append(session, n, saga=ID, at="2026-01-01 12:00+00"):
    session.do(
        "SELECT txb.saga_append(%s::uuid[], ARRAY[%s]::timestamptz[], %s, '{now}', '{start}', '{NULL}', '{NULL}', '{NULL}', "
        "'{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}')",
        [saga],
        at,
        [n],
    )


def finish(session, state, saga=ID):
    session.do(
        "SELECT txb.saga_finish(%s::uuid[], '{2026-01-01 12:00+00}', '{now}', %s, ARRAY['{\"x\": null}'::jsonb], '{why}')",
        [saga],
        [state],
    )


# ---- deploying ------------------------------------------------------------------------------------------------------


def test_a_version_is_deployed_once_and_reads_always_the_same(db):
    assert deploy(db) is True and deploy(db) is False
    with refused("22023", "version 1 of saga order was deployed at", "reads otherwise", "version 2"):
        deploy(db, body="{}")
    assert deploy(db, version=2, body="{}") is True
    assert db.root.do("SELECT action, filter, person FROM txb.audit ORDER BY number") == [
        ("saga deploy", {"name": "order", "version": n}, "hal") for n in (1, 2)
    ]
    assert db.root.one("SELECT deployed_by FROM txb.saga_definition LIMIT 1") == "login_admin (hal)"


def test_what_the_coordinator_said_itself_stands_over_what_deploying_says(db):
    worker = db.session("worker")
    deploy(db, topic="said-by-deploy")
    worker.do("SELECT txb.saga_coordinator_set('said-by-itself')")
    deploy(db, version=2, topic="said-by-deploy")
    assert db.root.do("SELECT topic FROM txb.saga_coordinator") == [("said-by-itself",)]


UNUSABLE = [
    ({"oneOf": []}, "input.oneOf is not checked here"),
    ({"properties": {"a": {"items": {"$ref": "#"}}}}, "input.properties.a.items.$ref is not checked here"),
    ({"additionalProperties": {"format": "uri"}}, "input.additionalProperties.format is not checked here"),
    (5, "input is no schema"),
    ({"properties": []}, "input.properties can't be []"),
    ({"properties": {"a": 1}}, "input.properties.a is no schema"),
    ({"type": "text"}, "input.type can't be"),
    ({"type": {}}, "input.type can't be"),
    ({"required": "a"}, "input.required can't be"),
    ({"required": [1]}, "input.required can't be"),
    ({"enum": 1}, "input.enum can't be"),
    ({"pattern": "("}, "input.pattern can't be"),
    ({"pattern": 1}, "input.pattern can't be"),
    ({"minimum": "1"}, "input.minimum can't be"),
    ({"multipleOf": 0}, "input.multipleOf can't be"),
    ({"minLength": -1}, "input.minLength can't be"),
    ({"maxItems": 1.5}, "input.maxItems can't be"),
    ({"uniqueItems": 1}, "input.uniqueItems can't be"),
]


def test_a_schema_that_would_not_be_checked_or_cannot_be_is_not_deployed(db):
    """What can't be used would stop the coordinator with the first start that comes as a message."""
    for schema, words in UNUSABLE:
        with refused("22023", words):
            deploy(db, body=json.dumps({"input": schema}))
        with refused("22023", words.replace("input", "output_schema")):
            deploy(db, body=json.dumps({"output_schema": schema}))
    assert db.root.one("SELECT count(*) FROM txb.saga_definition") == 0


OWN = "is the coordinator's own topic"


def test_a_definition_with_the_coordinator_s_own_topic_is_not_deployed(db):
    """Commands and ends in there belong to no saga."""
    steps = json.dumps({"steps": [{"topic": "flights"}, {"topic": "coordinator"}]})
    ends = json.dumps({"steps": [{"topic": "flights"}], "reply_topic": "coordinator"})
    with refused("22023", f"saga order: steps[1].topic: coordinator {OWN}", "Name the topic that the participant's group reads."):
        deploy(db, body=steps)
    with refused("22023", f"saga order: reply_topic: coordinator {OWN}", "Name a topic that whoever waits for the end reads"):
        deploy(db, body=ends)
    assert db.root.one("SELECT count(*) FROM txb.saga_definition") == 0
    # Its own word counts as well as that of whoever deploys.
    db.session("worker").do("SELECT txb.saga_coordinator_set('coordinator')")
    for topic in (None, "another"):
        with refused("22023", OWN):
            deploy(db, body=steps, topic=topic)
    # What is there stays there.
    db.session("worker").do("SELECT txb.saga_coordinator_set('elsewhere')")
    assert deploy(db, body=steps, topic=None) is True
    db.session("worker").do("SELECT txb.saga_coordinator_set('coordinator')")
    assert deploy(db, body=steps, topic=None) is False


def test_what_stands_against_a_definition_can_be_asked_before(db):
    ask, admin = "SELECT problem FROM txb.saga_problem(%s::jsonb, %s)", db.session("admin")
    assert admin.one(ask, BODY, "coordinator") is None
    assert admin.one(ask, json.dumps({"output_schema": {"type": "text"}}), None) == "output_schema.type can't be \"text\""
    assert OWN in admin.one(ask, json.dumps({"steps": [{"topic": "sagas"}]}), "sagas")
    assert admin.one(ask, json.dumps({"steps": [{"topic": "sagas"}]}), None) is None


@pytest.mark.parametrize("more", [{"deadline_ms": 0}, {"deadline_ms": 1 << 62}, {"reply_topic": "a b"}, {"name": "Order"}])
def test_what_a_definition_says_for_its_instances_is_checked(db, more):
    with refused("23514"):
        deploy(db, **more)


# (schema, value, problem)
CASES = [
    (None, {"a": 1}, None),
    (True, 1, None),
    (False, 1, "input must not be there"),
    ({}, None, None),
    ({"type": "string"}, 1, "input is 1, which is no string"),
    ({"type": ["string", "null"]}, None, None),
    ({"type": ["string", "null"]}, 1, 'input is 1, which is no ["string", "null"]'),
    ({"type": "integer"}, 1, None),
    ({"type": "integer"}, 1.0, None),
    ({"type": "integer"}, 1.5, "input is 1.5, which is no integer"),
    ({"type": "number"}, 1, None),
    ({"type": "number"}, "1", 'input is "1", which is no number'),
    ({"type": "integer"}, True, "input is true, which is no integer"),
    ({"const": {"a": 1}}, {"a": 1.0}, None),
    ({"const": 1}, 2, "input is 2, it must be 1"),
    ({"enum": [1, "a", None]}, None, None),
    ({"enum": [1, "a"]}, "b", 'input is "b", it must be one of [1, "a"]'),
    ({"minimum": 1, "maximum": 2}, 1, None),
    ({"minimum": 1}, 0.5, "input is 0.5, it must be at least 1"),
    ({"maximum": 1}, 2, "input is 2, it must be at most 1"),
    ({"exclusiveMinimum": 1}, 1, "input is 1, it must be above 1"),
    ({"exclusiveMaximum": 1}, 1, "input is 1, it must be below 1"),
    ({"multipleOf": 0.01}, 0.07, None),
    ({"multipleOf": 2}, 3, "input is 3, it must be a multiple of 2"),
    ({"minimum": 1}, "a", None),
    ({"minLength": 2.0}, "ä", 'input is "ä", it must be at least 2.0 characters long'),
    ({"maxLength": 1}, "ä", None),
    ({"maxLength": 1}, "ab", 'input is "ab", it must be at most 1 characters long'),
    ({"pattern": "^a+$"}, "aa", None),
    ({"pattern": "^a+$"}, "ab", 'input is "ab", it must be like ^a+$'),
    ({"minItems": 1}, [], "input is [], it must be at least 1 long"),
    ({"maxItems": 1}, [1, 2], "input is [1, 2], it must be at most 1 long"),
    ({"uniqueItems": True}, [1, 1.0], "input is [1, 1.0], it must be without equal elements"),
    ({"uniqueItems": True}, [1, "1"], None),
    ({"minProperties": 1}, {}, "input is {}, it must be of at least 1 members"),
    ({"maxProperties": 0}, {"a": 1}, 'input is {"a": 1}, it must be of at most 0 members'),
    ({"items": {"type": "string"}}, ["a", 1], "input[1] is 1, which is no string"),
    ({"items": {"items": {"minimum": 1}}}, [[1], [1, 0]], "input[1][1] is 0, it must be at least 1"),
    (SCHEMA, {"order": 1}, None),
    (SCHEMA, {}, "input.order is missing"),
    (SCHEMA, [], "input is [], which is no object"),
    (SCHEMA, {"order": "x"}, 'input.order is "x", which is no integer'),
    (SCHEMA, {"order": 1, "more": 2}, "input.more is not known"),
    ({"required": ["a"]}, {"a": None}, None),
    ({"additionalProperties": {"type": "integer"}}, {"a": 1, "b": "x"}, 'input.b is "x", which is no integer'),
    ({"properties": {"a": {"properties": {"b": {"const": 1}}}}}, {"a": {"b": 2}}, "input.a.b is 2, it must be 1"),
    ({"properties": {"a": False}}, {"a": 1}, "input.a must not be there"),
]


def test_where_a_value_breaks_a_schema(db):
    for schema, value, problem in CASES:
        found = db.root.one(
            "SELECT txb.json_schema_problem(%s::jsonb, %s::jsonb, 'input')",
            None if schema is None else json.dumps(schema),
            json.dumps(value),
        )
        assert found == problem, (schema, value)
        assert db.root.one("SELECT txb.json_schema_unknown(%s::jsonb, 'input')", json.dumps(schema or {})) is None, schema


# ---- starting -------------------------------------------------------------------------------------------------------


def test_a_start_is_a_row_and_a_message_to_the_coordinator(db):
    deploy(db, deadline_ms=60000, reply_topic="ends")
    saga = start(db.session("app"))
    row = db.root.row("SELECT *, deadline_at - started_at AS takes FROM txb.saga")
    assert (row["id"], row["name"], row["version"], row["input"]) == (saga, "order", 1, {"order": 1})
    assert row["takes"].total_seconds() == 60 and row["reply_topic"] == "ends" and row["started_by"] == "login_app"
    ((topic, key, kind, payload, headers),) = published(db)
    assert (topic, key, kind, payload) == ("coordinator", str(saga), "txb.saga.start", {})
    us = db.root.one("SELECT (extract(epoch FROM started_at) * 1000000)::bigint::text FROM txb.saga")
    assert headers == {"txb-saga": str(saga), "txb-saga-started": us}


def test_a_start_takes_the_highest_version_and_says_what_the_definition_does_not(db):
    deploy(db, version=2, body="{}", deadline_ms=60000, reply_topic="ends")
    deploy(db)
    start(db.session("app"), '"anything"', deadline="1 hour", reply_topic="mine")
    row = db.root.row("SELECT version, reply_topic, (deadline_at - started_at)::text AS takes FROM txb.saga")
    assert row == {"version": 2, "reply_topic": "mine", "takes": "01:00:00"}


REFUSED = [
    ({"body": "{}"}, "saga order (version 1) takes another input: input.order is missing"),
    ({"body": None}, "input is null"),
    ({"key": ""}, "key has 0 bytes"),
    ({"key": "ä" * 513}, "key has 1026 bytes"),
    ({"deadline": "-1 s"}, "deadline is -00:00:01"),
    ({"deadline": "0"}, "deadline is 00:00:00"),
    ({"reply_topic": "a b"}, 'reply_topic "a b" is not'),
    ({"coordinator": "a b"}, "is not a Kafka topic name"),
]


def test_a_start_that_cannot_be_is_refused_and_leaves_nothing(db):
    deploy(db)
    app = db.session("app")
    for more, words in REFUSED:
        with refused("22023", words):
            start(app, **more)
    with refused("22023", 'there is no saga "oder"', "Deployed are: order."):
        app.do("SELECT txb.saga_start('oder', '{}')")
    for coordinator in (None, "elsewhere"):
        with refused("22023", "name is null"):
            app.do("SELECT txb.saga_start(NULL, '{}', coordinator => %s)", coordinator)
    assert counts(db) == (0, 0, 0)


def test_a_start_that_nobody_would_take_up_is_refused(db):
    app = db.session("app")
    with refused("22023", 'there is no saga "order"', "name the topic of the coordinator"):
        start(app)
    deploy(db, topic=None)
    with refused("55000", "no coordinator has run on this database"):
        start(app)
    assert counts(db) == (0, 0, 0)


def test_a_start_is_if_its_transaction_commits(db):
    deploy(db)
    app = db.session("app", transaction=True)
    start(app)
    start(app, key="k")
    app.do("ROLLBACK")
    assert counts(db) == (0, 0, 0)
    app.do("BEGIN")
    start(app, key="k")
    app.do("COMMIT")
    assert counts(db) == (1, 1, 1)


def test_a_thousand_starts_with_one_key_from_several_sessions_make_one_saga(db):
    deploy(db)
    sessions = [db.session("app") for _ in range(4)]
    running = [
        one.start("SELECT DISTINCT txb.saga_start('order', '{\"order\": 1}', 'k') FROM generate_series(1, 250)") for one in sessions
    ]
    ids = {row for one in running for row in one.finish()}
    assert len(ids) == 1 and counts(db) == (1, 1, 1)
    assert ids == {(db.root.one("SELECT txb.saga_id('order', 'k')"),)}


def test_who_waits_for_a_start_with_the_same_key_starts_it_when_that_is_rolled_back(db):
    deploy(db)
    first, second = db.session("app", transaction=True), db.session("app")
    start(first, key="k")
    running = second.start(START, '{"order": 2}', "k", None, None, None)
    db.wait_until_waiting(second)
    first.do("ROLLBACK")
    running.finish()
    assert counts(db) == (1, 1, 1) and db.root.one("SELECT input FROM txb.saga") == {"order": 2}


def test_a_repeated_start_gets_its_id_whatever_was_deployed_since(db):
    """It was started: who asks again after a lost answer must not be told that it can't be."""
    deploy(db)
    app = db.session("app")
    first = start(app, key="k")
    deploy(db, version=2, body=json.dumps({"input": {"required": ["more"]}}))
    assert start(app, key="k") == first
    with refused("22023"):
        start(app, key="other")
    assert counts(db) == (1, 1, 1)


def test_ids_of_keys_differ_by_name_and_key_and_are_uuids_of_version_8(db):
    ids = [
        str(db.root.one("SELECT txb.saga_id(%s, %s)", name, key)) for name, key in (("a", "bc"), ("ab", "c"), ("a", "b"), ("a", "bc"))
    ]
    assert ids[0] == ids[3] and len(set(ids)) == 3
    assert all(one[14] == "8" and one[19] in "89ab" for one in ids)


def test_a_start_for_another_coordinator_is_only_an_intent(db):
    saga = start(db.session("app"), '{"x": 1}', key="k", deadline="2 s", reply_topic="ends", coordinator="elsewhere")
    assert counts(db) == (0, 0, 1)
    ((topic, key, kind, payload, headers),) = published(db)
    assert (topic, key, kind) == ("elsewhere", str(saga), "txb.saga.start") and headers["txb-saga"] == str(saga)
    assert payload == {"name": "order", "input": {"x": 1}, "key": "k", "deadline_ms": 2000, "reply_topic": "ends"}


# ---- starts that come as messages -----------------------------------------------------------------------------------


def test_a_start_that_comes_as_a_message_is_kept_once(db):
    deploy(db)
    deploy(db, version=2, body="{}")
    worker = db.session("worker")
    assert begin(worker) == [(ID, None)] and begin(worker) == []
    other = ID[:-1] + "2"
    assert begin(worker, other, key="k", version=1) == [(other, None)] and begin(worker, other, key="k") == []
    assert db.root.do("SELECT id::text, version FROM txb.saga ORDER BY id") == [(ID, 2), (other, 1)]


@pytest.mark.parametrize(
    "more,words",
    [
        ({"name": "none"}, 'there is no saga "none"'),
        ({"name": None}, 'there is no saga ""'),
        ({"version": 9}, "there is no saga"),
        ({"body": "{}"}, "input.order is missing"),
        ({"body": None}, "input is null, which is no object"),
        ({"deadline_ms": -1}, "deadline_ms is -1"),
        ({"deadline_ms": (1 << 63) - 1}, "deadline_ms is 9223372036854775807"),
        ({"reply_topic": "a b"}, 'reply_topic "a b" is not'),
    ],
)
def test_what_is_wrong_with_a_message_is_said_and_stops_nobody(db, more, words):
    """A saga that ends by being refused: an error would come again with every attempt of the coordinator."""
    deploy(db)
    worker = db.session("worker")
    ((saga, problem),) = begin(worker, **more)
    assert saga == ID and words in problem
    assert db.root.do("SELECT reply_topic, deadline_at FROM txb.saga") == [(None, None)]


# ---- events, ends, timers -------------------------------------------------------------------------------------------


def test_two_events_of_one_number_cannot_be(db):
    one, other = db.session("worker", transaction=True), db.session("worker")
    append(one, 1)
    running = other.start(
        "SELECT txb.saga_append(%s::uuid[], '{2026-01-01 12:00+00}', '{1}', '{now}', '{x}', '{NULL}', '{NULL}', '{NULL}', "
        "'{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}')",
        [ID],
    )
    db.wait_until_waiting(other)
    one.do("COMMIT")
    with refused("23505"):
        running.finish()
    append(other, 2)
    finish(other, "completed")
    with refused("23505"):
        finish(other, "compensated")


def test_a_result_in_each_state(db):
    deploy(db)
    worker, app = db.session("worker"), db.session("app")
    result = lambda: app.row("SELECT state, output, reason, ended_at IS NULL AS runs FROM txb.saga_result(%s)", ID)
    assert result() == {"state": "unknown", "output": None, "reason": None, "runs": True}
    begin(worker)
    assert result()["state"] == "running"
    for state in ("completed", "compensated", "refused"):
        finish(worker, state)
        assert result() == {"state": state, "output": {"x": None}, "reason": "why", "runs": False}
        db.root.do("DELETE FROM txb.saga_end")


def test_what_is_loaded_has_its_place_and_the_order_of_its_events(db):
    deploy(db)
    worker = db.session("worker")
    begin(worker)
    for n in (2, 1, 3):
        append(worker, n)
    ids, starts = [ID[:-1] + "9", ID, ID], ["2026-01-01 12:00+00", "2026-01-01 12:00+00", "2026-01-01 12:01+00"]
    load = "SELECT nth, name, ended FROM txb.saga_load(%s::uuid[], %s::timestamptz[])"
    assert worker.do(load, ids, starts) == [(2, "order", False)]
    assert worker.do("SELECT nth, n FROM txb.saga_events(%s::uuid[], %s::timestamptz[])", ids, starts) == [(2, 1), (2, 2), (2, 3)]
    finish(worker, "completed")
    assert worker.do(load, ids, starts) == [(2, "order", True)]


def test_only_timers_are_dropped(db):
    worker = db.session("worker")
    ids = [
        worker.one("SELECT txb.publish('c', 'k', %s, '{}'::jsonb, not_before => now() + interval '1 h')", kind)
        for kind in ("txb.saga.timer", "txb.saga.timer", "other")
    ]
    dues = [db.root.one("SELECT due FROM txb.scheduled WHERE id = %s", one) for one in ids]
    drop = "SELECT txb.saga_timer_drop(%s::timestamptz[], %s::uuid[])"
    assert worker.one(drop, [dues[0], dues[2]], [ids[0], ids[2]]) == 1
    assert worker.one(drop, [dues[0]], [ids[0]]) == 0, "it has been moved: it comes, and changes nothing"
    assert {row[0] for row in db.root.do("SELECT id FROM txb.scheduled")} == set(ids[1:])


# ---- decisions ------------------------------------------------------------------------------------------------------

DECIDE = "SELECT * FROM txb.saga_decide(%s, %s, %s, %s, %s, 'hal')"


def audited(db):
    """The rows of the audit that are about sagas, in order."""
    rows = db.root.do("SELECT to_jsonb(a) FROM txb.audit AS a WHERE action <> 'saga deploy' ORDER BY number")
    return [row for (row,) in rows]


def test_a_decision_is_a_message_to_the_coordinator_and_is_kept(db):
    deploy(db)
    begin(db.session("worker"))
    append(db.session("worker"), 1)
    ((decided, refused_why),) = db.session("admin").do(DECIDE, ID, "retry", "pay", 1, "bank is back")
    ((topic, key, kind, payload, headers),) = published(db)
    assert (topic, key, kind, headers["txb-saga"]) == ("coordinator", ID, "txb.saga.decision", ID)
    assert payload == {"decision": "retry", "step": "pay", "seen": 1, "reason": "bank is back", "who": "login_admin (hal)"}
    row = audited(db)[0]
    assert (row["role"], row["person"], row["action"], row["reason"]) == ("login_admin", "hal", "saga retry", "bank is back")
    # The coordinator has only been asked.
    assert (row["matched"], row["changed"], row["refused"]) == (1, 0, None)
    message = db.root.one("SELECT id::text FROM txb.outbox WHERE type = 'txb.saga.decision'")
    assert (str(decided), refused_why) == (message, None) and row["filter"] == {"saga": ID, "step": "pay", "event": 1, "message": message}


def test_a_decision_that_cannot_be_is_refused(db):
    deploy(db)
    worker, admin = db.session("worker"), db.session("admin")
    begin(worker)
    append(worker, 1)
    for sqlstate, words, args in [
        ("22023", "decision is dance", (ID, "dance", "pay", 1, "why")),
        ("22023", "skip needs the name of a step", (ID, "skip", None, 1, "why")),
        ("22023", "a reason is needed", (ID, "skip", "pay", 1, "")),
        ("22023", "edit needs a payload", (ID, "edit", "pay", 1, "why")),
        ("22023", "decision is null", (ID, None, "pay", 1, "why")),
        ("22023", "a reason is needed", (ID, "retry", "pay", 1, "")),
        ("22023", "a reason is needed", (ID, "retry", "pay", 1, None)),
        ("22023", "retry needs the name of a step", (ID, "retry", None, 1, "why")),
        ("22023", "cancel is about the whole saga", (ID, "cancel", "pay", 1, "why")),
        ("22023", "there is no saga", (ID[:-1] + "9", "cancel", None, None, "why")),
    ]:
        with refused(sqlstate, words):
            admin.do(DECIDE, *args)
    assert published(db) == [] and audited(db) == []


def test_a_decision_that_comes_too_late_is_refused_and_kept(db):
    """With a value: an error would take the row of the audit along."""
    deploy(db)
    worker, admin = db.session("worker"), db.session("admin")
    begin(worker)
    append(worker, 1)
    edit = "SELECT * FROM txb.saga_decide(%s, 'edit', 'pay', 0, 'why', 'hal', '{\"to\": \"Bob\"}')"
    told = admin.do(DECIDE, ID, "cancel", None, 0, "why") + admin.do(edit, ID)
    finish(worker, "compensated")
    for at in (1, 0, None):
        told += admin.do(DECIDE, ID, "skip", "pay", at, "why")
    stale = f"saga {ID} has gone on since: it is at event 1, not at 0; look at it again: txbroker saga show"
    assert told[:2] == [(None, stale), (None, stale)]
    assert all(message is None and why.startswith(f"saga {ID} has ended at ") and why.endswith(": it is compensated") for message, why in told[2:])
    assert [(row["role"], row["person"], row["action"], row["matched"], row["changed"], row["reason"], row["refused"]) for row in audited(db)] == [
        ("login_admin", "hal", f"saga {decision}", 1, 0, "why", why) for decision, (_, why) in zip(["cancel", "edit"] + 3 * ["skip"], told)]
    assert [row["filter"] for row in audited(db)] == [{"saga": ID, "event": 0}, {"saga": ID, "step": "pay", "event": 0, "payload": "edited"},
                                                      *({"saga": ID, "step": "pay", "event": at} for at in (1, 0, 1))]
    assert published(db) == [] and db.root.one("SELECT count(*) FROM txb.saga_event") == 1


EDIT = "SELECT txb.saga_decide(%s, 'edit', 'pay', 1, 'a wrong address', 'hal', %s::jsonb)"


@pytest.mark.parametrize("payload", [{"to": "Bob", "none": None, "n": 9007199254740993}, None, [1], "text"])
def test_an_edit_brings_its_payload_as_it_is_and_the_audit_says_only_that(db, payload):
    deploy(db)
    begin(db.session("worker"))
    append(db.session("worker"), 1)
    db.session("admin").do(EDIT, ID, json.dumps(payload))
    ((_, _, _, decision, _),) = published(db)
    assert decision["decision"] == "edit" and "payload" in decision and decision["payload"] == payload
    (row,) = audited(db)
    assert (row["action"], row["reason"]) == ("saga edit", "a wrong address")
    del row["filter"]["message"]
    assert row["filter"] == {"saga": ID, "step": "pay", "event": 1, "payload": "edited"}


def test_a_payload_that_cannot_be_is_refused(db):
    deploy(db)
    admin = db.session("admin")
    begin(db.session("worker"))
    append(db.session("worker"), 1)
    with refused("22023", "the payload has 983617 bytes, at most 983616 are allowed"):
        admin.do(EDIT, ID, json.dumps(983615 * "x"))
    with refused("22023", "the payload holds the number 0.1234567890123456789012345, which has too many digits"):
        admin.do(EDIT, ID, '{"n": [0.1234567890123456789012345]}')
    with refused("22023", "retry takes no payload"):
        admin.do("SELECT txb.saga_decide(%s, 'retry', 'pay', 1, 'why', 'hal', '{}')", ID)
    assert published(db) == [] and audited(db) == []
    admin.do(EDIT, ID, json.dumps(983614 * "x"))


# ---- days -----------------------------------------------------------------------------------------------------------


def test_days_that_are_made_take_over_the_rows_of_the_default(db):
    deploy(db)
    worker = db.session("worker")
    saga = start(db.session("app"), key="k")
    began = db.root.one("SELECT started_at FROM txb.saga")
    append(worker, 1, str(saga), began)
    append(worker, 1)
    assert worker.one("SELECT txb.saga_partition_make(0, 1)") == 6
    assert worker.one("SELECT txb.saga_partition_make(0, 1)") == 0
    for table in ("saga", "saga_event"):
        column = "id" if table == "saga" else "saga_id"
        assert db.root.one(f"SELECT tableoid::regclass::text FROM txb.{table} WHERE {column} = %s", saga) != f"txb.{table}_default"
    assert db.root.one("SELECT count(*) FROM txb.saga_event_default") == 1, "of another day"
    assert worker.do("SELECT n FROM txb.saga_events(ARRAY[%s]::uuid[], ARRAY[%s])", saga, began) == [(1,)]
    with refused("23505"):
        append(worker, 1, str(saga), began)
    assert start(db.session("app"), key="k") == saga and counts(db) == (1, 1, 1)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM txb.saga WHERE id = '{0}'",
        "SELECT count(*) FROM txb.saga_load(ARRAY['{0}']::uuid[], ARRAY['{1}']::timestamptz[])",
        "SELECT count(*) FROM txb.saga_result('{0}') AS r WHERE r.state = 'running'",
    ],
)
@pytest.mark.parametrize("planned", [False, True])
def test_who_reads_while_a_day_is_made_misses_no_row(db, sql, planned):
    """A query that was planned without the day, and then waits for the default, would find the row in neither."""
    deploy(db)
    saga = start(db.session("app"))
    sql = sql.format(saga, db.root.one("SELECT started_at FROM txb.saga"))
    reader, maker = db.session("worker"), db.session("worker", transaction=True)
    if planned:
        assert reader.one(sql) == 1
    maker.do("SELECT txb.saga_partition_make(0, 1)")
    running = reader.start(sql)
    db.wait_until_waiting(reader)
    maker.do("COMMIT")
    assert running.finish() == [(1,)]


def test_making_days_comes_back_later_when_a_batch_is_open(db):
    batch, maker = db.session("worker", transaction=True), db.session("worker")
    append(batch, 1)
    with refused("55P03"):
        maker.do("SELECT txb.saga_partition_make(0, 1)")
    batch.do("COMMIT")
    assert maker.one("SELECT txb.saga_partition_make(0, 1)") == 6
