"""Requests in the database of the caller: asking, replies, late and repeated and foreign ones, what is forgotten."""

import json

import pytest
from sqltest import V7, refused

REQUEST = "SELECT txb.request(%s, %s, %s::jsonb, %s, %s::interval, %s)"
RESULT = "SELECT state, answer, output, reason FROM txb.request_result(%s)"
TAKE = (
    "SELECT (txb.take_reply(ROW('bank', %s, 'replies', %s, %s, NULL, %s, now(), %s, 'application/json', %s::jsonb, 1)"
    "::txb.message)).outcome"
)


@pytest.fixture
def db(bare):
    bare.root.do("SELECT txb.partition_make(100000, 1)")
    bare.session("admin").do("SELECT txb.reply_topic_set('replies')")
    return bare


def ask(session, topic="rooms", kind="room.hold", body='{"nights": 2}', key=None, timeout="1 h", reply_to=None):
    return session.one(REQUEST, topic, kind, body, key, timeout, reply_to)


def reply(session, request, body='{"answer": "ok", "output": {"room": 7}}', kind="txb.reply", partition=0, offset=1, topic="rooms"):
    headers = {"txb-command-topic": topic, **({} if request is None else {"txb-request": str(request)})}
    payload = body if isinstance(body, (bytes, type(None))) else body.encode()
    assert session.one(TAKE, V7, partition, offset, kind, payload, json.dumps(headers)) == "ok"


def result(db, request):
    return db.session("app").do(RESULT, request)[0]


def ignored(db):
    return {(partition, why): count for partition, why, count in db.root.do("SELECT partition, why, count FROM txb.reply_ignored")}


def published(db):
    return db.root.do("SELECT topic, key, type, convert_from(payload, 'UTF8')::jsonb, headers FROM txb.outbox ORDER BY seq")


def expire(db, request):
    db.root.do("UPDATE txb.request SET deadline_at = clock_timestamp() - interval '1 ms' WHERE id = %s", request)


# ---- asking ---------------------------------------------------------------------------------------------------------


def test_a_request_is_a_command_that_wants_an_answer(db):
    request = ask(db.session("app"))
    headers = {"txb-reply-to": "replies", "txb-request": str(request)}
    assert published(db) == [("rooms", str(request), "room.hold", {"nights": 2}, headers)]
    assert db.root.one("SELECT txb.command_problem(%s::jsonb)", json.dumps(headers)) is None
    assert result(db, request) == ("waiting", None, None, None)
    ask(db.session("app"), reply_to="elsewhere")
    assert published(db)[1][4]["txb-reply-to"] == "elsewhere"


def test_a_request_is_made_if_its_transaction_commits(db):
    app = db.session("app", transaction=True)
    gone = ask(app)
    app.do("ROLLBACK")
    kept = ask(app)
    app.do("COMMIT")
    assert [row[1] for row in published(db)] == [str(kept)]
    assert result(db, gone)[0] == "unknown" and result(db, kept)[0] == "waiting"


def test_a_repeated_request_with_a_key_is_the_first_one(db):
    app = db.session("app")
    first = ask(app, key="order-42")
    assert ask(app, key="order-42", body='{"nights": 3}') == first
    assert ask(app, topic="cars", key="order-42") != first and ask(app) != first
    assert [(row[0], row[1]) for row in published(db)][:2] == [("rooms", "order-42"), ("cars", "order-42")]
    reply(db.session("worker"), first)
    assert ask(app, key="order-42") == first and result(db, first)[0] == "answered" and len(published(db)) == 3


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_two_requests_with_one_key_at_once_send_one(db, end):
    one, other = db.session("app", transaction=True), db.session("app")
    first = ask(one, key="k")
    running = other.start(REQUEST, "rooms", "room.hold", "{}", "k", "1 h", None)
    db.wait_until_waiting(other)
    one.do(end)
    assert running.finish() == [(first,)]
    assert [row[3] for row in published(db)] == ([{"nights": 2}] if end == "COMMIT" else [{}])


def test_what_can_not_be_asked_is_refused_and_named(db):
    app = db.session("app")
    for words, more in [
        ("topic is null", {"topic": None}),
        ("type is null", {"kind": None}),
        ("input is null", {"body": None}),
        ("timeout is null", {"timeout": None}),
        ("timeout is 00:00:00", {"timeout": "0"}),
        ("timeout is -00:00:01", {"timeout": "-1 s"}),
        ("timeout is 2 years", {"timeout": "2 years"}),
        ("key has 0 bytes", {"key": ""}),
        ("key has 1025 bytes", {"key": 1025 * "k"}),
        ('reply_to: topic "a b"', {"reply_to": "a b"}),
    ]:
        with refused("22023", words):
            ask(app, **more)
    with refused("22023", "topic"):
        ask(app, topic="a b")
    assert published(db) == [] and db.root.one("SELECT count(*) FROM txb.request") == 0


def test_without_a_topic_for_replies_nobody_asks(bare):
    bare.root.do("SELECT txb.partition_make(1000, 1)")
    with refused("55000", "nobody has said where replies go", "txb.reply_topic_set"):
        ask(bare.session("app"))
    for bad in ("a b", None, ""):
        with refused("22023", "txb.reply_topic_set: topic"):
            bare.session("admin").do("SELECT txb.reply_topic_set(%s)", bad)
    assert ask(bare.session("app"), reply_to="replies") is not None
    for topic in ("first", "second"):
        bare.session("admin").do("SELECT txb.reply_topic_set(%s)", topic)
    assert bare.root.do("SELECT topic FROM txb.reply_topic") == [("second",)]


# ---- replies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body,answer,output,reason", [
    ({"answer": "ok"}, "ok", None, None),
    ({"answer": "ok", "output": {"room": 7, "none": None}}, "ok", {"room": 7, "none": None}, None),
    ({"answer": "refused", "reason": "no room"}, "refused", None, "no room"),
    ({"answer": "undeliverable", "reason": "given up"}, "undeliverable", None, "given up"),
])
def test_a_reply_is_what_its_request_became(db, body, answer, output, reason):
    request = ask(db.session("app"))
    reply(db.session("worker"), request, json.dumps(body))
    assert result(db, request) == ("answered", answer, output, reason) and ignored(db) == {}


def test_a_request_reaches_a_participant_and_comes_back(db):
    """With the participant in the same database: what command_apply makes of the one, take_reply takes as the other."""
    db.root.do("CREATE FUNCTION public.hold(m txb.message) RETURNS txb.outcome LANGUAGE sql AS $$ SELECT txb.ok('{\"room\": 7}') $$")
    request, worker = ask(db.session("app")), db.session("worker")
    (_, _, kind, body, headers), = published(db)
    assert worker.one("SELECT (txb.command_apply(ROW('bank', %s, 'rooms', 0, 1, 'k', %s, now(), %s, 'application/json', %s::jsonb, 1)::txb.message, 'public.hold', false)).outcome",
                      V7, kind, json.dumps(body).encode(), json.dumps(headers)) == "ok"
    topic, _, kind, body, headers = published(db)[1]
    assert topic == "replies" and headers["txb-command-topic"] == "rooms"
    assert worker.one(TAKE, V7, 0, 1, kind, json.dumps(body).encode(), json.dumps(headers)) == "ok"
    assert result(db, request) == ("answered", "ok", {"room": 7}, None)


def test_late_repeated_and_unknown_replies_change_nothing_and_are_counted(db):
    app, worker = db.session("app"), db.session("worker")
    answered, late, looked = ask(app), ask(app), ask(app)
    reply(worker, answered)
    reply(worker, answered, '{"answer": "refused"}', partition=1, offset=5)
    reply(worker, answered, '{"answer": "refused"}', partition=1, offset=6)
    expire(db, late)
    reply(worker, late)
    expire(db, looked)
    assert result(db, looked)[0] == "expired"
    reply(worker, looked)
    reply(worker, V7)
    assert result(db, answered) == ("answered", "ok", {"room": 7}, None)
    assert result(db, late) == result(db, looked) == ("expired", None, None, None)
    assert ignored(db) == {(1, "repeated"): 2, (0, "late"): 2, (0, "unknown"): 1}
    assert db.session("reader").one("SELECT last_offset FROM txb.reply_ignored WHERE why = 'repeated'") == 6


@pytest.mark.parametrize("more", [
    {"kind": "txb.other"}, {"kind": None}, {"body": None}, {"body": b"\xff"}, {"body": "{"}, {"body": "[]"}, {"body": "{}"},
    {"body": '{"answer": 1}'}, {"body": '{"answer": "ok", "output": "\\u0000"}'}, {"body": 20000 * "["}, {"request": None}, {"request": "42"},
])
def test_what_is_no_reply_holds_nothing_up_and_is_counted(db, more):
    request = ask(db.session("app"))
    reply(db.session("worker"), **{"request": request, **more})
    assert result(db, request)[0] == "waiting" and ignored(db) == {(0, "unreadable"): 1}


@pytest.mark.parametrize("topic", ["cars", "", None])
def test_a_reply_from_another_topic_answers_nothing_and_is_counted(db, topic):
    request, worker = ask(db.session("app")), db.session("worker")
    reply(worker, request, topic=topic)
    assert result(db, request)[0] == "waiting" and ignored(db) == {(0, "foreign"): 1}
    reply(worker, request)
    reply(worker, request, topic=topic)
    assert result(db, request)[:2] == ("answered", "ok") and ignored(db) == {(0, "foreign"): 2}


def test_who_was_told_that_it_is_expired_never_finds_it_answered(db):
    """A reply that came in time is not committed yet when the time is over: whoever looks then waits for that."""
    request = ask(db.session("app"))
    expire(db, request)
    storing, other = db.session(transaction=True), db.session("app")
    storing.do("UPDATE txb.request SET state = 'answered', answer = 'ok' WHERE id = %s", request)  # as txb.take_reply did, just before
    running = other.start(RESULT, request)
    db.wait_until_waiting(other)
    storing.do("COMMIT")
    assert running.finish() == [("answered", "ok", None, None)]


def test_a_reader_that_may_not_write_is_told_the_same(db):
    request = ask(db.session("app"))
    expire(db, request)
    app = db.session("app", transaction=True)
    app.do("SET TRANSACTION READ ONLY")
    assert app.do(RESULT, request)[0][0] == "expired"
    app.do("COMMIT")
    assert db.root.one("SELECT state FROM txb.request") == "waiting"
    assert result(db, request)[0] == "expired" and db.root.one("SELECT state FROM txb.request") == "expired"


# ---- forgetting -----------------------------------------------------------------------------------------------------


def test_old_requests_are_forgotten_as_replies_come(db):
    app, worker = db.session("app"), db.session("worker")
    old = [ask(app) for _ in range(3)]
    young = ask(app)
    db.root.do("UPDATE txb.request SET deadline_at = now() - interval '8 days' WHERE id = ANY (%s)", old)
    reply(worker, young)
    assert db.root.one("SELECT count(*) FROM txb.request") == 2
    reply(worker, old[0])
    reply(worker, old[0])
    assert db.root.do("SELECT id FROM txb.request") == [(young,)]
    assert result(db, old[0])[0] == "unknown"


def test_forgetting_passes_by_what_others_hold(db):
    app, admin, holder = db.session("app"), db.session("admin"), db.root
    requests = [ask(app) for _ in range(3)]
    holder.do("UPDATE txb.request SET deadline_at = now() - interval '8 days'")
    other = db.session("worker", transaction=True)
    admin.do("SET lock_timeout = '10s'")
    assert other.one("SELECT txb.request_expire('7 days', 1)") == 1
    assert admin.one("SELECT txb.request_expire('7 days', 10)") == 2
    other.do("COMMIT")
    assert len(requests) == 3 and holder.one("SELECT count(*) FROM txb.request") == 0
    for args in ("NULL, 1", "'1 minute', 1", "'7 days', 0"):
        with refused("22023", "keep is at least one hour"):
            admin.do(f"SELECT txb.request_expire({args})")
