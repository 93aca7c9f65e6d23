"""Commands that are given up, discarded, never delivered or too old for the barrier: what is answered in their place."""

import json

import pytest
from commandstest import BAD, SAGA, answers, bad_headers, bring_to, effects, headers_of, recorded, send, started, with_handler
from failedtest import OPEN, add, aside, failed, item, mark, settle
from sqltest import V7


@pytest.fixture
def db(bare):
    return with_handler(bare)


def command_item(offset, operation="action", state="dead", **more):
    headers = more.pop("headers", None) or headers_of(operation)
    return item(offset, key=b"k", state=state, holds=False, headers=json.dumps(headers), **more)


def test_a_command_that_is_dead_at_once_is_answered_with_it(db):
    worker = db.session("worker")
    db.take(worker)
    aside(worker, 1, command_item(0))
    assert answers(db) == [{"answer": "refused", "reason": "given up after 1 attempts: no money"}]
    assert recorded(db) == ("refused", None, "given up after 1 attempts: no money")
    row = db.root.row("SELECT topic, key, headers FROM txb.outbox")
    assert row["topic"] == "answers" and row["key"] == SAGA
    assert row["headers"]["txb-command-id"] == str(item(0)["id"]) and row["headers"]["txb-command-topic"] == "t"


def test_a_batch_that_is_rolled_back_answers_nothing(db):
    worker = db.session("worker", transaction=True)
    db.take(worker)
    worker.do(OPEN, 1, 0, 1, 1, V7, 0)
    add(worker, command_item(0))
    worker.do("ROLLBACK")
    assert answers(db) == [] and recorded(db) is None


@pytest.mark.parametrize(
    "before,operation,expected,then",
    [
        ("none", "action", "refused", "refused"),
        ("none", "forward", "refused", None),
        ("none", "compensation", "compensated", "never"),
        ("ok", "action", "ok", "ok"),
        ("ok", "compensation", "failed", "ok"),
        ("compensated", "action", "compensated", "compensated"),
        ("never", "action", "never", "never"),
    ],
)
def test_what_a_command_that_is_given_up_answers(db, before, operation, expected, then):
    """At its last attempt: what is recorded already, else that it took no effect; a compensation, that the effect stands."""
    worker = db.session("worker")
    bring_to(worker, before)
    count = len(answers(db))
    db.take(worker)
    aside(worker, 1, command_item(0, operation, "retrying"))
    assert len(answers(db)) == count, "it is tried again"
    assert mark(worker) == [0]
    settle(worker, db, {0: "dead"})
    assert [one["answer"] for one in answers(db)[count:]] == [expected]
    assert recorded(db) == then if then is None else recorded(db)[0] == then


@pytest.mark.parametrize("state", ["retrying", "dead"])
def test_a_command_that_is_discarded_is_answered_once(db, state):
    worker, admin = db.session("worker"), db.session("admin")
    db.take(worker)
    aside(worker, 1, command_item(0, state=state))
    assert len(answers(db)) == (state == "dead")
    number = db.root.one("SELECT number FROM txb.failed")
    admin.do("SELECT txb.failed_discard(ARRAY[%s]::bigint[], 'hal', 'no use')", number)
    reason = "given up" if state == "dead" else "discarded by a person"
    assert answers(db) == [{"answer": "refused", "reason": reason + " after 1 attempts: no money"}]


def test_a_command_that_is_retried_after_it_was_given_up_answers_what_is_recorded(db):
    worker, admin = db.session("worker"), db.session("admin")
    db.take(worker)
    aside(worker, 1, command_item(0))
    admin.do("SELECT txb.failed_retry(ARRAY(SELECT number FROM txb.failed), 'hal')")
    send(worker, "action")
    assert answers(db)[0] == answers(db)[1] and effects(db) == []
    # Should it die once more, it says so once more.
    assert mark(worker) == [0]
    settle(worker, db, {0: "dead"}, version=db.root.one("SELECT keys_version FROM txb.consumer_offset"))
    assert [one["reason"] for one in answers(db)] == ["given up after 1 attempts: no money"] * 3


def test_a_compensation_that_is_retried_after_it_was_given_up_runs(db):
    worker = db.session("worker")
    bring_to(worker, "ok")
    db.take(worker)
    aside(worker, 1, command_item(0, "compensation"))
    send(worker, "compensation")
    assert [one["answer"] for one in answers(db)] == ["ok", "failed", "compensated"]
    assert effects(db) == ["action", "compensation"]


def test_what_cannot_be_answered_does_not_keep_a_message_from_dying(db):
    """Else one message from anybody stops its partition for ever."""
    worker = db.session("worker")
    db.take(worker)
    aside(worker, 1, *[command_item(n, headers=headers) for n, (_, headers) in enumerate(bad_headers())])
    assert answers(db) == [] and set(failed(db).values()) == {"dead"} and len(failed(db)) == len(BAD)


def test_messages_that_want_no_answer_die_as_ever(db):
    worker = db.session("worker")
    db.take(worker)
    aside(worker, 1, item(0, state="dead"), item(1, key=None, state="dead", headers=None))
    assert answers(db) == []


def test_a_request_that_is_given_up_is_answered(db):
    worker = db.session("worker")
    db.take(worker)
    aside(worker, 1, command_item(0, headers={"txb-reply-to": "r", "txb-request": "7"}))
    assert answers(db) == [{"answer": "refused", "reason": "given up after 1 attempts: no money"}]
    assert recorded(db) is None


def test_a_command_that_kafka_does_not_take_is_told_as_undeliverable(db):
    relay, app = db.session("relay"), db.session("app")
    db.acquire(relay)
    app.do("SELECT txb.publish('pay', %s, 'pay.do', '{}'::jsonb, %s::jsonb)", SAGA, json.dumps(headers_of("action")))
    fail = "SELECT txb.relay_record_failed('bank', 1, '00000000-0000-4000-8000-000000000001', 1, 'MSG_SIZE_TOO_LARGE', 'big')"
    relay.do(fail)
    relay.do(fail)
    found = [one for one in answers(db) if "answer" in one]
    assert found == [{"answer": "undeliverable", "reason": "given up after 1 attempts: big"}]
    assert recorded(db) is None, "nobody has seen it"


def test_a_command_older_than_the_barrier_dies_without_an_answer(db):
    """What happened to it is not known, and must not be said."""
    worker = db.session("worker")
    worker.do("SELECT txb.barrier_partition_drop(interval '8 days')")
    db.take(worker)
    aside(worker, 1, command_item(0, headers=headers_of("action", saga_started=started(db, -20))))
    assert answers(db) == [] and recorded(db) is None
