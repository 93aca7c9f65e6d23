"""An edit that is the same for many failed messages, and copies of them to a topic: as one decision, and as a job (0021)."""

import base64
import json

import pytest
from sqltest import refused
from test_sql_failed_commands import add, discard, events, find, message, offset, retry, states
from test_sql_failed_jobs import add_many, audit, job, step, work

SETS = {"headers": {"tenant": "7"}}
START = "SELECT number, messages, served FROM txb.failed_job_start(%s, %s, %s, 'alice', %s, %s)"


@pytest.fixture
def admin(db):
    return db.session("admin")


@pytest.fixture
def relayed(db):
    db.root.do("INSERT INTO txb.relay (source, event_source, epoch) VALUES ('shop', 'urn:shop', 1)")


def edit(session, numbers, changes, reason="typo"):
    return session.do("SELECT number, done, state, why, new_number, new_id FROM txb.failed_edit_many(%s, %s, 'alice', %s)",
                      list(numbers), json.dumps(changes), reason)


def start(session, verb, filter='{"group": "g"}', changes=None, to_topic=None, reason="typo"):
    return session.do(START, verb, filter, reason, None if changes is None else json.dumps(changes), to_topic)[0]


def copy(session, *numbers, to_topic="aside", reason="look"):
    return session.do("SELECT number, done, state, why FROM txb.failed_copy(%s, %s, 'alice', %s)", list(numbers), to_topic, reason)


def outbox(db):
    return db.root.do("SELECT id, topic, key, type, payload, content_type, headers FROM txb.outbox ORDER BY seq")


def edition_of(db, number):
    return message(db, message(db, number)["replaced_by"])


# -- edit -----------------------------------------------------------------------------------------


def test_the_same_changes_are_made_to_many_and_the_rest_of_each_stays(db, admin):
    first = add(db, headers='{"trace": "1", "old": "x"}')
    held = add(db, state="held", offset=2, payload=b'{"n": 2}')
    loose = add(db, key=None, offset=3, headers='{"tenant": "6"}', content_type="application/x")
    rows = edit(admin, [loose, held, first], {**SETS, "unset": ["old", "nosuch"]})
    assert [row[:4] for row in rows] == [(first, True, "retrying", None), (held, True, "held", None), (loose, True, "retrying", None)]
    for number, headers, payload, kind in ((first, {"trace": "1", "tenant": "7"}, b'{"n": 1}', "application/json"),
                                           (held, {"tenant": "7"}, b'{"n": 2}', "application/json"), (loose, {"tenant": "7"}, b'{"n": 1}', "application/x")):
        old, new = message(db, number), edition_of(db, number)
        assert (old["state"], old["resolution"], old["holds"]) == ("resolved", "edited", False)
        assert (new["headers"], bytes(new["payload"]), new["content_type"]) == (headers, payload, kind)
        assert (new["replaces"], new["place"], new["key"] == old["key"], new["attempts"]) == (number, old["place"], True, 0)
        assert new["id"] != old["id"] and (new["number"], new["id"]) in [row[4:] for row in rows]
        assert events(db, number)[-1] == ("edit", "resolved", "login_admin (alice)", "typo")
    assert offset(db)["held"] == 1 and offset(db)["keys_version"] == 1
    assert db.root.do("SELECT action, matched, changed FROM txb.audit") == [("failed edit", 3, 3)]


def test_a_payload_for_all_is_bytes_or_none(db, admin):
    first, second = add(db), add(db, key="l", offset=2)
    edit(admin, [first], {"payload": base64.b64encode(b"\x00\xff").decode(), "content_type": "application/octet-stream"})
    edit(admin, [second], {"payload": None})
    assert (bytes(edition_of(db, first)["payload"]), edition_of(db, first)["content_type"]) == (b"\x00\xff", "application/octet-stream")
    assert edition_of(db, second)["payload"] is None


def test_what_can_not_be_edited_is_told_and_the_others_are(db, admin):
    good, bad = add(db, payload=b"[1]", content_type="text/plain"), add(db, key="b", offset=2, payload=b"plain", content_type="text/plain")
    closed, same = add(db, state="resolved", offset=3), add(db, key="s", offset=4, payload=b"[1]")
    rows = {row[0]: row[1:4] for row in edit(admin, [good, bad, closed, same, 999], {"content_type": "application/json"})}
    assert rows[good] == (True, "retrying", None)
    assert rows[bad][:2] == (False, "dead") and rows[bad][2].startswith("can't be edited so: payload is not valid JSON")
    assert rows[closed][2].startswith("is resolved (applied) since") and rows[same][2] == "is the same as before: nothing was changed"
    assert rows[999][2] == "does not exist" and states(db, bad, closed, same) == ["dead", "resolved", "dead"]
    assert db.root.do("SELECT matched, changed FROM txb.audit") == [(5, 1)]


@pytest.mark.parametrize("changes,words", [
    (None, "changes are a JSON object"),
    ({}, "changes are a JSON object"),
    ([], "changes are a JSON object"),
    ({"header": {}}, 'did you mean "headers"?'),
    ({"headers": ["a"]}, "headers is not an object of strings"),
    ({"headers": {"a": 1}}, 'headers: the value of "a" is not a string'),
    ({"headers": {"Big": "1"}}, "is not a header name"),
    ({"headers": {"ce_id": "1"}}, "is reserved"),
    ({"unset": "a"}, "unset is not a list of header names"),
    ({"unset": [1]}, "unset is not a list of header names"),
    ({"unset": ["a", ""]}, "unset has a name that is empty"),
    ({"unset": ["a", "b\n"]}, "unset has a name that has control characters"),
    ({"unset": ["a", "b"], "headers": {"b": "1"}}, "unset has a name that is in headers too: b"),
    ({"content_type": None}, "content_type is not a text"),
    ({"content_type": ""}, "content_type has 0 bytes"),
    ({"payload": 1}, "payload is not base64, or null"),
    ({"payload": "%"}, "payload is not base64"),
    ({"payload": base64.b64encode(b"1" * 1000001).decode()}, "payload has 1000001 bytes"),
    ({"payload": "ew==", "content_type": "text/json"}, "payload is not valid JSON, which content_type text/json promises"),
])
def test_changes_that_can_be_made_to_none_are_refused_at_once(db, admin, changes, words):
    number = add(db)
    for call in (lambda: edit(admin, [number], changes), lambda: start(admin, "edit", changes=changes)):
        with refused("22023", words):
            call()
    assert states(db, number) == ["dead"] and audit(db) == [] and db.root.do("SELECT * FROM txb.failed_job") == []


def test_an_edit_of_many_is_a_job(db, admin):
    numbers = add_many(db, 700)
    number, messages, served = start(admin, "edit", changes={**SETS, "payload": "WzFd"})
    assert (messages, served) == (700, False)
    first = step(admin, number)
    assert (first["done"], first["left"]) == (500, 200) and set(states(db, *numbers[500:])) == {"dead"}
    assert first["changes"] == {**SETS, "payload_bytes": 3}, "what may be large is not told each time"
    worker = db.session("worker")
    assert work(worker) == (number, "done", 700, 0) and work(worker) is None
    assert set(states(db, *numbers)) == {"resolved"}
    assert db.root.do("SELECT count(*), count(DISTINCT replaces), count(DISTINCT id) FROM txb.failed WHERE replaces IS NOT NULL AND state = 'retrying'"
                      " AND headers = '{\"tenant\": \"7\"}' AND payload = '[1]'") == [(700, 700, 700)]
    assert events(db, numbers[600]) == [("edit", "resolved", "login_admin (alice)", "typo")]
    assert job(db, number)["changes"] == {**SETS, "payload_bytes": 3}, "the editions have it"
    assert audit(db) == [("failed edit", "login_admin", "alice", 700, 0, number, "typo"), ("failed edit done", "login_admin", "alice", 700, 700, number, "typo")]


def test_a_step_of_an_edit_that_does_not_commit_makes_no_edition(db, admin):
    numbers = add_many(db, 2)
    number = start(admin, "edit", changes=SETS)[0]
    dying = db.session("admin", transaction=True)
    assert step(dying, number)["state"] == "done"
    db.root.do("SELECT pg_terminate_backend(%s)", dying.pid)
    db.wait_until_gone(dying)
    assert set(states(db, *numbers)) == {"dead"} and job(db, number)["done"] == 0
    assert work(db.session("worker")) == (number, "done", 2, 0)
    assert db.root.do("SELECT count(*), count(DISTINCT replaces) FROM txb.failed WHERE replaces IS NOT NULL") == [(2, 2)]


def test_a_job_of_edits_skips_what_it_can_not_edit_and_what_somebody_asked_for_since(db, admin):
    bad, asked, good = add(db, payload=b"x", content_type="text/plain"), add(db, key="a", offset=2), add(db, key="g", offset=3, content_type="text/plain")
    number = start(admin, "edit", changes={"content_type": "application/json"})[0]
    retry(admin, asked, person="bob")
    done = step(admin, number)
    assert (done["done"], done["skipped"]) == (1, 2) and states(db, bad, asked, good) == ["dead", "retrying", "resolved"]
    assert {r["number"]: r["why"][:30] for r in done["refused"]} == {bad: "can't be edited so: payload is", asked: "is to be tried again: login_ad"}


def test_intents_are_edited_too_and_one_that_breaks_a_limit_stops_no_other(db, admin):
    """What an intent came with has no longer been checked since: its type may be beyond the limits of an edition."""
    odd, even = (add(db, side="outbox", group_name=None, source="shop", seq=seq, partition=None, offset=None, key=f"o{seq}", type=kind)
                 for seq, kind in ((7, "t" * 300), (8, "made")))
    number = start(admin, "edit", '{"source": "shop"}', changes={"payload": "WzFd"})[0]
    done = step(admin, number)
    assert (done["state"], done["done"], done["skipped"]) == ("done", 1, 1)
    assert done["refused"] == [{"number": odd, "why": "can't be edited so: type has 300 bytes, allowed are 1 to 255"}]
    assert states(db, odd, even) == ["dead", "resolved"] and bytes(edition_of(db, even)["payload"]) == b"[1]"


def test_a_cancelled_edit_keeps_no_payload(db, admin):
    add_many(db, 2)
    number = start(admin, "edit", changes={"payload": "WzFd"})[0]
    assert job(db, number)["changes"] == {"payload": "WzFd"}
    admin.do("SELECT txb.failed_job_cancel(%s, 'bob', 'no')", number)
    assert job(db, number)["changes"] == {"payload_bytes": 3}


# -- copy -----------------------------------------------------------------------------------------


def test_a_copy_is_the_message_and_leaves_it_as_it_is(db, admin, relayed):
    first = add(db, headers='{"trace": "1"}', source="urn:other")
    held = add(db, state="held", offset=2)
    closed = add(db, state="resolved", offset=3, payload=None, key=None)
    before = [message(db, n) for n in (first, held, closed)]
    assert copy(admin, closed, held, first, 999) == [(first, True, "dead", None), (held, True, "held", None), (closed, True, "resolved", None),
                                                     (999, False, None, "does not exist")]
    assert [message(db, n) for n in (first, held, closed)] == before and offset(db)["keys_version"] == 0
    assert [tuple(bytes(v) if isinstance(v, memoryview) else v for v in row) for row in outbox(db)] == [
        (before[0]["id"], "aside", "k", "made", b'{"n": 1}', "application/json", {"trace": "1", "txb-replayed": "1"}),
        (before[1]["id"], "aside", "k", "made", b'{"n": 1}', "application/json", {"txb-replayed": "1"}),
        (before[2]["id"], "aside", None, "made", None, "application/json", {"txb-replayed": "1"})]
    assert db.root.one("SELECT origin ->> 'source' FROM txb.outbox ORDER BY seq LIMIT 1") == "urn:other"
    assert events(db, held) == [("copied", "held", "login_admin (alice)", "to aside: look")]
    assert db.root.do("SELECT action, filter, matched, changed, reason FROM txb.audit") == [
        ("failed copy", {"numbers": [closed, held, first, 999], "to_topic": "aside"}, 4, 3, "look")]


def test_a_copy_does_not_change_what_is_told_of_the_message(db, admin, relayed):
    number, closed = add(db), add(db, key="c", offset=2)
    retry(admin, number)
    discard(admin, closed)
    ended = db.root.one("SELECT max(at) FROM txb.failed_history WHERE number = %s", closed)
    copy(db.session("admin"), number, closed)
    assert retry(admin, number)[0][3].startswith("is due already since"), "it was asked for before the copy"
    assert ended.strftime("since %Y-%m-%d %H:%M:%S UTC, by login_admin (alice)") in retry(admin, closed)[0][3]
    assert db.root.one("SELECT (txb.failed_last(%s)).event", closed) == "discard"


def test_a_message_that_goes_round_in_a_circle_is_copied_no_more(db, admin, relayed):
    most = db.root.one("SELECT txb.replay_count_max()")
    last, over = (add(db, key=f"k{n}", offset=n, headers=json.dumps({"txb-replayed": str(n)})) for n in (most - 1, most))
    rows = copy(admin, last, over)
    assert rows[0][:2] == (last, True) and outbox(db)[0][6] == {"txb-replayed": str(most)}
    assert rows[1][3] == (f"was copied or replayed to a topic {most} times already, and {most} are allowed, since it may go in a circle: "
                          "leave it; or, knowing that it becomes a new message for every reader, edit it first: failed edit --unset-header txb-replayed")
    done = step(admin, start(admin, "copy", to_topic="aside")[0])
    assert (done["done"], done["skipped"], done["refused"][0]["number"]) == (1, 1, over) and len(outbox(db)) == 2


def test_a_copy_of_an_intent_is_what_its_relay_would_publish(db, admin, relayed):
    seq = db.root.one("INSERT INTO txb.outbox (topic, key, type, payload, headers) VALUES ('t', 'k', 'made', '[1]', '{\"a\": \"b\"}') RETURNING seq")
    more = {"side": "outbox", "group_name": None, "source": "shop", "partition": None, "offset": None, "payload": None}
    kept, gone = add(db, seq=seq, headers='{"a": "b"}', **more), add(db, seq=777, key="g", **more)
    rows = copy(admin, kept, gone)
    assert rows[0][1] and rows[1][1:] == (False, "dead", "is not kept any more: its payload was in a partition of the outbox that was dropped")
    assert [(bytes(row[4]), row[6]) for row in outbox(db)[1:]] == [(b"[1]", {"a": "b", "txb-replayed": "1"})]
    assert db.root.one("SELECT origin ->> 'source' FROM txb.outbox WHERE origin IS NOT NULL") == "urn:shop"


def test_a_copy_of_a_refused_copy_has_the_message_s_own_key_and_source(db, admin, relayed):
    copied = add(db, key=b"\xff\x00", source="urn:other")
    copy(admin, copied)
    [(origin, key, headers)] = db.root.do("SELECT origin, key, headers FROM txb.outbox")
    intent = add(db, side="outbox", group_name=None, source="shop", seq=7, partition=None, offset=None, key=key, headers=json.dumps(headers))
    db.root.do("UPDATE txb.failed SET origin = %s, kept = true WHERE number = %s", json.dumps(origin), intent)
    assert copy(admin, intent)[0][1]
    [(again, more)] = db.root.do("SELECT origin, headers FROM txb.outbox ORDER BY seq OFFSET 1")
    assert (again["key"], again["source"], more["txb-replayed"]) == (origin["key"], "urn:other", "2")


def test_nothing_is_copied_where_no_relay_would_publish_it(db, admin):
    number = add(db)
    db.root.do("INSERT INTO txb.relay (source) VALUES ('shop')")  # that none ever took
    for call in (lambda: copy(admin, number), lambda: start(admin, "copy", to_topic="aside")):
        with refused("55000", "no relay has ever served this database", "start its relay"):
            call()
    assert outbox(db) == [] and audit(db) == [] and events(db, number) == []


def test_many_copies_are_a_job_in_the_order_of_keys(db, admin, relayed):
    numbers = add_many(db, 600)
    edit(admin, [numbers[3]], SETS)
    edited = edition_of(db, numbers[3])
    number, messages, _ = start(admin, "copy", to_topic="aside", reason=None)
    assert messages == 600 and step(admin, number)["done"] == 500
    assert [row[0] for row in outbox(db)][3] == edited["id"], "the edition stands where its message stood"
    dying = db.session("admin", transaction=True)
    step(dying, number)
    assert work(db.session("worker")) is None
    db.root.do("SELECT pg_terminate_backend(%s)", dying.pid)
    db.wait_until_gone(dying)
    assert len(outbox(db)) == 500
    assert work(db.session("worker")) == (number, "done", 600, 0)
    assert len({row[0] for row in outbox(db)}) == len(outbox(db)) == 600
    assert states(db, *numbers[:3]) == ["dead"] * 3 and len(find(admin, '{"group": "g"}', page=1000)) == 600
    row = job(db, number)
    assert (row["verb"], row["to_topic"], row["changes"]) == ("copy", "aside", None)
    assert db.root.do("SELECT action, filter ->> 'to_topic', changed FROM txb.audit WHERE filter ? 'job' ORDER BY number") == [
        ("failed copy", "aside", 0), ("failed copy done", "aside", 600)]


def test_a_copy_waits_for_no_batch_and_no_batch_for_a_copy(db, admin, relayed):
    number = add(db)
    batch = db.session(transaction=True)
    batch.do("SELECT 1 FROM txb.consumer_offset FOR UPDATE")
    batch.do("UPDATE txb.failed SET attempts = attempts + 1")
    assert copy(admin, number)[0][1]
    held = db.session("admin", transaction=True)
    assert step(held, start(admin, "copy", to_topic="aside")[0])["done"] == 1
    batch.do("UPDATE txb.failed SET attempts = attempts + 1")


def test_a_message_is_not_deleted_while_it_is_copied(db, admin, relayed):
    number = add(db, state="resolved")
    db.root.do("UPDATE txb.failed SET updated_at = now() - interval '40 days'")
    copying, expire = db.session("admin", transaction=True), "SELECT txb.failed_expire('consumer', 'g', interval '30 days', 10)"
    copy(copying, number)
    assert db.session("worker").one(expire) == 0
    copying.do("COMMIT")
    assert db.session("worker").one(expire) == 1 and db.root.do("SELECT * FROM txb.failed_history") == []


# -- jobs -----------------------------------------------------------------------------------------


def test_a_job_is_given_what_its_verb_takes(db, admin, relayed):
    number = add(db)
    for verb, changes, topic, words in (
        ("edit", None, None, "changes are a JSON object"),
        ("edit", SETS, "aside", "a topic is for the verb copy, not for edit"),
        ("copy", None, None, "topic is null"),
        ("copy", None, "no topic", 'topic "no topic" is not a Kafka topic name'),
        ("copy", SETS, "aside", "changes are for the verb edit, not for copy"),
        ("retry", SETS, None, "changes are for the verb edit, not for retry"),
        ("coppy", None, "aside", 'did you mean "copy"?'),
    ):
        with refused("22023", words):
            start(admin, verb, changes=changes, to_topic=topic)
    for topic in (None, "", "no topic", ".."):
        with refused("22023", "topic"):
            copy(admin, number, to_topic=topic)
    with refused("22023", "give the numbers of 1 to 10000"):
        copy(admin)
    assert db.root.do("SELECT * FROM txb.failed_job") == [] == db.root.do("SELECT * FROM txb.failed_job_part") and outbox(db) == []


def test_who_goes_on_with_a_job_is_told(db, admin):
    add(db)
    assert start(admin, "retry")[2] is False, "nobody is there"
    worker = db.session("worker")
    db.root.do("UPDATE txb.consumer_offset SET owner = 'w1', backend_pid = %s", worker.pid)
    assert start(admin, "retry")[2] is True and start(admin, "retry", '{"topic": "t"}')[2] is True
    add(db, group_name="other", topic="u")
    assert start(admin, "retry", '{"group": "other"}')[2] is False
    running = db.session("reader").do("SELECT number, job FROM txb.failed_job_running()")
    assert [(j["number"] == n, j["state"], j["served"]) for n, j in running] == [(True, "running", True)] * 3 + [(True, "running", False)]
    worker.close()
    db.wait_until_gone(worker)
    assert [j["served"] for _, j in admin.do("SELECT * FROM txb.failed_job_running()")] == [False] * 4
    admin.do("SELECT txb.failed_job_step(%s, 'alice')", running[0][0])
    assert [n for n, _ in admin.do("SELECT * FROM txb.failed_job_running()")] == [n for n, _ in running[1:]]


def test_what_a_person_has_ended_is_kept_no_longer_than_others(db, admin):
    """A process died on it: that matters to nobody once it can't run any more."""
    given_up, edited = add(db, state="retrying"), add(db, state="retrying", key="e", offset=2)
    db.root.do("UPDATE txb.failed SET suspect = true")
    discard(admin, given_up)
    edit(admin, [edited], SETS)
    discard(admin, edition_of(db, edited)["number"])
    db.root.do("UPDATE txb.failed SET updated_at = now() - interval '40 days'")
    assert db.session("worker").one("SELECT txb.failed_expire('consumer', 'g', interval '30 days', 10)") == 3
    assert db.root.do("SELECT * FROM txb.failed") == []
