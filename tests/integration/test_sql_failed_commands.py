"""The operator's functions: finding, counting, showing failed messages; deciding on them; the audit."""

import time
import uuid

import pytest
from sqltest import refused

def v7(n=0):
    """A UUIDv7 of a time that the inbox remembers."""
    return uuid.UUID(int=(int(time.time() * 1000) << 80) | (7 << 76) | (2 << 62) | (uuid.uuid4().int & ((1 << 60) - 1)) + n)


def position(db, partition=0, topic="t", group="g"):
    db.root.do(
        "INSERT INTO txb.consumer_offset (group_name, topic, partition, next_offset, epoch) VALUES (%s, %s, %s, 100, 1)"
        " ON CONFLICT DO NOTHING",
        group,
        topic,
        partition,
    )


COLUMNS = (
    "side state group_name source seq topic partition offset key id type payload content_type headers attempts error_class sqlstate error "
    "holds created_at"
).split()


def add(db, state="dead", offset=1, key="k", **more):
    """A failed message as a worker leaves it; its number."""
    row = {
        "side": "consumer",
        "state": state,
        "group_name": "g",
        "topic": "t",
        "partition": 0,
        "offset": offset,
        "key": key.encode() if isinstance(key, str) else key,
        "id": v7(),
        "type": "made",
        "payload": b'{"n": 1}',
        "content_type": "application/json",
        "attempts": 0 if state == "held" else 3,
        "error_class": None if state == "held" else "error",
        "sqlstate": None if state == "held" else "22012",
        "error": None if state == "held" else "division by zero",
        "holds": key is not None,
        **more,
    }
    if state in ("resolved", "discarded"):
        row["holds"] = False
    position(db, row["partition"] or 0, row["topic"], row["group_name"] or "g")
    names = [name for name in COLUMNS if name in row]
    number = db.root.one(
        f"""INSERT INTO txb.failed ({', '.join('"%s"' % n for n in names)}, place, resolution, next_attempt_at)
            VALUES ({', '.join(['%s'] * len(names))}, 0, %s, %s) RETURNING number""",
        *[row[name] for name in names],
        {"resolved": "applied", "discarded": "discarded"}.get(state),
        "2999-01-01" if state == "retrying" else None,
    )
    db.root.do("UPDATE txb.failed SET place = number WHERE number = %s", number)
    if state == "held":
        db.root.do(
            "UPDATE txb.consumer_offset SET held = held + 1 WHERE group_name = %s AND topic = %s AND partition = %s",
            row["group_name"],
            row["topic"],
            row["partition"],
        )
    return number


def find(session, filter="{}", after=None, page=50):
    return [row[0] for row in session.do("SELECT number FROM txb.failed_find(%s, %s, %s)", filter, after, page)]


def message(db, number):
    return db.root.row("SELECT * FROM txb.failed WHERE number = %s", number)


def states(db, *numbers):
    return [message(db, n)["state"] for n in numbers]


def events(db, number):
    return db.root.do("SELECT event, state, who, error FROM txb.failed_history WHERE number = %s ORDER BY at", number)


def offset(db, partition=0):
    return db.root.row(
        "SELECT held, keys_version, consumed, failed FROM txb.consumer_offset WHERE topic = 't' AND partition = %s", partition
    )


def retry(session, *numbers, person="alice", reason=None):
    return session.do("SELECT number, done, state, why FROM txb.failed_retry(%s, %s, %s)", list(numbers), person, reason)


def discard(session, *numbers, reason="no use"):
    return session.do("SELECT number, done, state, why FROM txb.failed_discard(%s, 'alice', %s)", list(numbers), reason)


EDIT = "SELECT done, state, why, new_number, new_id FROM txb.failed_edit(%s, %s, %s, %s, 'alice', 'typo')"


def edit(session, number, payload=b'{"n": 2}', content_type="application/json", headers=None):
    return session.do(EDIT, number, payload, content_type, headers)[0]


@pytest.fixture
def admin(db):
    return db.session("admin")


@pytest.fixture
def reader(db):
    return db.session("reader")


# -- finding --------------------------------------------------------------------------------------


def test_a_filter_means_those_in_which_all_of_its_keys_hold(db, reader):
    plain = add(db)
    other = add(db, topic="u", key="other", error="no such account 17", sqlstate="P0001", type="paid", offset=2)
    loose = add(db, key=None, state="retrying", partition=3, error_class="timeout", offset=3)
    binary = add(db, key=b"\xff\x00", offset=4)
    closed = add(db, state="resolved", offset=5)
    held = add(db, state="held", offset=6)
    intent = add(db, side="outbox", group_name=None, source="shop", seq=7, partition=None, offset=None, key="o")
    group = reader.one("SELECT error_group FROM txb.failed_find(%s)", f'{{"number": {other}}}')
    everything = [plain, other, loose, binary, held, intent]
    for filter, numbers in (
        ("{}", everything),
        ('{"state": "open"}', everything),
        ('{"state": "any"}', sorted(everything + [closed])),
        ('{"state": ["resolved", "held"]}', [closed, held]),
        ('{"side": "outbox"}', [intent]),
        ('{"source": "shop"}', [intent]),
        ('{"group": "g", "topic": "t", "partition": 0}', [plain, binary, held]),
        ('{"partition": "3"}', [loose]),
        ('{"key": "k"}', [plain, loose, held][:1] + [held]),
        ('{"key": "\\\\xff00"}', [binary]),
        ('{"type": "paid"}', [other]),
        ('{"error_class": "timeout"}', [loose]),
        ('{"text": "ACCOUNT"}', [other]),
        (f'{{"error": "{group}"}}', [other]),
        ('{"error": "error P0001 no such account ?"}', [other]),
        (f'{{"numbers": [{closed}, {plain}, 999999]}}', [plain, closed]),
        (f'{{"number": {closed}}}', [closed]),
        (f'{{"id": "{message(db, binary)["id"]}"}}', [binary]),
        ('{"older_than": "1h"}', []),
        ('{"newer_than": "1 h"}', everything),
        ('{"order": "newest"}', everything[::-1]),
        ('{"group": "nobody"}', []),
    ):
        assert find(reader, filter) == numbers, filter


@pytest.mark.parametrize("order", ["oldest", "newest", "changed", "due", "attempts"])
def test_pages_follow_one_another_without_a_gap_in_every_order(db, reader, order):
    for n in range(23):
        number = add(db, key=f"k{n}", offset=n, state="retrying" if n % 3 else "dead", attempts=n % 4)
        db.root.do("UPDATE txb.failed SET updated_at = now() - %s * interval '1 s' WHERE number = %s", n % 5, number)
    filter = f'{{"order": "{order}"}}'
    whole, pages, after = find(reader, filter), [], None
    assert len(whole) == 23
    while page := find(reader, filter, after, 4):
        pages += page
        after = page[-1]
    assert pages == whole


@pytest.mark.parametrize(
    "filter,words",
    [
        ('{"stat": "dead"}', ('filter "stat" is unknown', 'did you mean "state"?')),
        ('{"topik": "t"}', ('did you mean "topic"?',)),
        ('{"error_clas": "x"}', ('did you mean "error_class"?',)),
        ('{"colour": "x"}', ("is unknown; there are number, numbers, side",)),
        ('{"state": "ded"}', ('state "ded" is unknown; did you mean "dead"?',)),
        ('{"state": ["dead", "hold"]}', ('did you mean "held"?',)),
        ('{"side": "consumr"}', ('did you mean "consumer"?',)),
        ('{"order": "newst"}', ('did you mean "newest"?',)),
        ('{"number": "x"}', ('filter "number": "x" is not a whole number',)),
        ('{"partition": "99999999999"}', ('"99999999999" is not a whole number',)),
        ('{"id": "7"}', ('"7" is not a UUID',)),
        ('{"older_than": "soon"}', ('"soon" is not a span of time',)),
        ('{"older_than": "-1h"}', ('"-1h" is not a span of time',)),
        ('{"newer_than": "-1h"}', ('"-1h" is not a span of time',)),
        ('{"error": ""}', ('filter "error" is empty',)),
        ('{"text": ""}', ('filter "text" is empty',)),
        ('{"newer_than": "99999999999999999h"}', ("is not a span of time",)),
        ('{"topic": ["a"]}', ('filter "topic" is a JSON array',)),
        ('{"topic": null}', ('filter "topic" is a JSON null',)),
        ("[]", ("a filter is a JSON object",)),
        (None, ("a filter is a JSON object",)),
    ],
)
def test_a_wrong_filter_is_told_with_the_nearest_word(reader, filter, words):
    with refused("22023", *words):
        find(reader, filter)
    with refused("22023", *words):
        reader.do("SELECT * FROM txb.failed_count(%s, 'state')", filter)


def test_a_page_has_limits_and_goes_on_after_what_there_is(reader):
    with refused("22023", "a page has 1 to 10000 messages, not 0"):
        find(reader, "{}", None, 0)
    with refused("22023", "there is no failed message 77 to go on after"):
        find(reader, '{"order": "due"}', 77)
    with refused("22023", 'group by "erorr" is unknown; did you mean "error"?'):
        reader.do("SELECT * FROM txb.failed_count('{}', 'erorr')")
    with refused("22023", "1 to 10000 values"):
        reader.do("SELECT * FROM txb.failed_count('{}', 'error', 0)")


def test_equal_errors_are_counted_as_one_group_with_an_example(db, reader):
    first = add(db, error="account 17 of \"bob\" is closed", key="a", offset=1)
    add(db, error="account 4711 of \"alice\" is closed", key="b", offset=2)
    other = add(db, error="division by zero", key="c", offset=3)
    add(db, state="held", key="c", offset=4)
    rows = reader.do("SELECT value, messages, example, error_group FROM txb.failed_count('{}', 'error')")
    assert [row[:3] for row in rows] == [
        ("error 22012 account ? of ? is closed", 2, first),
        ("error 22012 division by zero", 1, other),
        (None, 1, other + 1),
    ]
    assert len(rows[0][3]) == 8 and rows[2][3] is None
    assert find(reader, f'{{"error": "{rows[0][3]}"}}') == [first, first + 1]
    by = {
        by: reader.do("SELECT value, messages FROM txb.failed_count('{}', %s)", by)
        for by in ("state", "type", "topic", "key", "group", "source")
    }
    assert by["state"] == [("dead", 3), ("held", 1)] and by["key"] == [("c", 2), ("a", 1), ("b", 1)]
    assert by["type"] == [("made", 4)] and by["topic"] == [("t", 4)] and by["group"] == [("g", 4)]
    assert reader.do("""SELECT value, "values" FROM txb.failed_count('{}', 'key', 1)""") == [("c", 3)]


def test_show_tells_all_of_a_message(db, admin, reader):
    head = add(db, key=b"\xff", headers='{"trace": "7"}')
    behind = [add(db, state="held", key=b"\xff", offset=n) for n in range(2, 14)]
    add(db, state="held", key="another", offset=99)
    db.root.do("INSERT INTO txb.failed_history (number, event, state, attempt, who, error) VALUES (%s, 'failed', 'dead', 1, 'w1', 'x')", head)
    row = reader.row("SELECT * FROM txb.failed_show(%s)", head)
    assert (bytes(row["key"]), bytes(row["payload"])) == (b"\xff", b'{"n": 1}')
    assert row["message"]["key"] == "\\xff" and row["message"]["headers"] == {"trace": "7"} and "payload" not in row["message"]
    assert [h["event"] for h in row["history"]] == ["failed"]
    assert (row["behind"], [b["number"] for b in row["behind_first"]], row["head"]) == (12, behind[:10], None)
    assert reader.row("SELECT * FROM txb.failed_show(%s)", behind[3])["head"] == head
    second = edit(admin, head)[3]
    third = edit(admin, second, b'{"n": 3}')[3]
    for number, others in ((head, [second, third]), (second, [head, third]), (third, [head, second])):
        shown = reader.row("SELECT * FROM txb.failed_show(%s)", number)
        assert [e["number"] for e in shown["editions"]] == others
    with refused("P0002", "there is no failed message 999"):
        reader.do("SELECT * FROM txb.failed_show(999)")


def test_the_payload_of_a_refused_intent_is_shown_from_the_outbox(db, reader):
    app = db.session("app")
    db.publish(app, '{"big": 1}')
    seq = db.root.one("SELECT seq FROM txb.outbox")
    number = add(db, side="outbox", group_name=None, source="shop", seq=seq, partition=None, offset=None, payload=None)
    assert bytes(reader.row("SELECT payload FROM txb.failed_show(%s)", number)["payload"]) == b'{"big": 1}'
    db.root.do("UPDATE txb.failed SET replaces = 1 WHERE number = %s", number)
    assert reader.row("SELECT payload FROM txb.failed_show(%s)", number)["payload"] is None, "an edition has its own, or none"


# -- retry ----------------------------------------------------------------------------------------


def test_a_retry_makes_a_message_due_with_all_its_attempts(db, admin):
    dead, waiting = add(db), add(db, state="retrying", key="w", offset=2)
    assert retry(admin, waiting, dead, dead, reason="mended") == [(dead, True, "retrying", None), (waiting, True, "retrying", None)]
    for number in (dead, waiting):
        row = message(db, number)
        assert (row["state"], row["attempts"], row["holds"]) == ("retrying", 0, True)
        assert db.root.one("SELECT next_attempt_at <= clock_timestamp() FROM txb.failed WHERE number = %s", number)
        assert events(db, number) == [("retry", "retrying", "login_admin (alice)", "mended")]
    assert offset(db)["keys_version"] == 1, "once a command and partition"
    audit = db.root.row("SELECT * FROM txb.audit")
    assert (audit["role"], audit["person"], audit["action"]) == ("login_admin", "alice", "failed retry")
    assert (audit["matched"], audit["changed"], audit["reason"], audit["filter"]) == (2, 2, "mended", {"numbers": [dead, waiting]})


def test_what_can_not_be_retried_says_why_and_changes_nothing(db, admin):
    head = add(db)
    held, closed = add(db, state="held", offset=2), add(db, state="resolved", offset=3, key="z")
    discard(admin, closed_by_hand := add(db, offset=4, key="y"))
    before = offset(db)
    found = {row[0]: row[1:] for row in retry(admin, held, closed, closed_by_hand, 9999)}
    assert found[held][:2] == (False, "held") and f"is held behind {head}: retry that one" in found[held][2]
    assert found[closed][:2] == (False, "resolved") and found[closed][2].startswith("is resolved (applied) since 20")
    assert "is discarded since" in found[closed_by_hand][2] and found[closed_by_hand][2].endswith("by login_admin (alice)")
    assert found[9999] == (False, None, "does not exist")
    assert states(db, head, held, closed) == ["dead", "held", "resolved"] and events(db, held) == []
    assert offset(db) == before
    assert db.root.row("SELECT matched, changed FROM txb.audit ORDER BY number DESC LIMIT 1") == {"matched": 4, "changed": 0}


def test_the_second_of_two_persons_is_told_who_was_first(db, admin):
    number = add(db)
    retry(admin, number, person="alice")
    other = db.session("admin")
    why = retry(other, number, person="bob")[0]
    assert why[1] is False and "asked for it" in why[3] and "login_admin (alice)" in why[3]
    discarded = add(db, offset=2, key="x")
    first, second = db.session("admin", transaction=True), db.session("admin")
    assert discard(first, discarded)[0][1] is True
    running = second.start("SELECT done, why FROM txb.failed_discard(%s, 'bob', 'mine')", [discarded])
    db.wait_until_waiting(second)
    first.do("COMMIT")
    [(done, why)] = running.finish()
    assert done is False and "is discarded since" in why and "(alice)" in why
    assert len(events(db, discarded)) == 1


def test_a_retry_that_failed_again_can_be_asked_for_again(db, admin):
    number = add(db)
    retry(admin, number)
    db.root.do("UPDATE txb.failed SET state = 'retrying', attempts = 1, next_attempt_at = now() + interval '1 h'")
    db.root.do("INSERT INTO txb.failed_history (number, event, state, attempt) VALUES (%s, 'failed', 'retrying', 1)", number)
    assert retry(admin, number)[0][1] is True


def test_what_is_held_behind_nothing_is_mended_by_a_retry(db, admin):
    held = add(db, state="held")
    assert retry(admin, held)[0][1:3] == (True, "retrying") and offset(db)["held"] == 0


def test_a_decision_waits_for_the_batch_under_way_and_gives_up_with_a_word(db, admin):
    number = add(db)
    worker = db.session(transaction=True)
    worker.do("SELECT 1 FROM txb.consumer_offset FOR UPDATE")  # as the first statement of every batch does
    with refused("55P03", "a batch of that partition is under way", "nothing was changed; try again"):
        retry(admin, number)
    running = admin.start("SELECT done FROM txb.failed_retry(%s, 'alice')", [number])
    db.wait_until_waiting(admin)
    worker.do("ROLLBACK")
    assert running.finish() == [(True,)]


def test_partitions_are_locked_in_their_order_so_that_two_decisions_do_not_deadlock(db):
    numbers = [add(db, partition=p, key=f"k{p}", offset=p) for p in range(8)]
    holder, admin = db.session(transaction=True), db.session("admin")
    holder.do("SELECT 1 FROM txb.consumer_offset WHERE partition = 0 FOR UPDATE")
    running = admin.start("SELECT done FROM txb.failed_retry(%s, 'x')", numbers[::-1])
    db.wait_until_waiting(admin)
    free = db.session(transaction=True)
    assert len(free.do("SELECT 1 FROM txb.consumer_offset WHERE partition > 0 FOR UPDATE NOWAIT")) == 7
    free.do("ROLLBACK")
    holder.do("ROLLBACK")
    assert running.finish() == [(True,)] * 8


def test_numbers_are_asked_for(admin):
    for numbers in ([], None, [1, None]):
        with refused("22023", "give the numbers of 1 to 10000 failed messages"):
            admin.do("SELECT * FROM txb.failed_retry(%s::bigint[], 'x')", numbers)


# -- discard --------------------------------------------------------------------------------------


def test_behind_a_discarded_head_the_next_one_runs(db, admin):
    head = add(db)
    second, third = add(db, state="held", offset=2), add(db, state="held", offset=3)
    other = add(db, state="held", offset=4, key="other")
    assert discard(admin, head) == [(head, True, "discarded", None)]
    assert states(db, head, second, third, other) == ["discarded", "retrying", "held", "held"]
    row = message(db, head)
    assert (row["resolution"], row["holds"], row["next_attempt_at"]) == ("discarded", False, None)
    assert message(db, second)["attempts"] == 0 and message(db, second)["next_attempt_at"] is not None
    assert events(db, head) == [("discard", "discarded", "login_admin (alice)", "no use")]
    assert events(db, second) == [("ahead_done", "retrying", None, None)]
    assert (offset(db)["held"], offset(db)["keys_version"]) == (2, 1)
    assert db.root.do("SELECT group_name, run FROM txb.inbox WHERE message_id = %s", row["id"]) == [("g", 0)]


def test_a_held_one_can_be_discarded_alone_and_moves_nobody(db, admin):
    head = add(db, state="retrying")
    second, third = add(db, state="held", offset=2), add(db, state="held", offset=3)
    discard(admin, second)
    assert states(db, head, second, third) == ["retrying", "discarded", "held"]
    assert offset(db)["held"] == 1
    discard(admin, head, third)
    assert states(db, head, third) == ["discarded", "discarded"] and offset(db)["held"] == 0


def test_all_of_a_key_are_discarded_at_once(db, admin):
    numbers = [add(db)] + [add(db, state="held", offset=n) for n in range(2, 6)]
    assert all(row[1] for row in discard(admin, *numbers))
    assert set(states(db, *numbers)) == {"discarded"} and offset(db)["held"] == 0


def test_discarding_what_holds_no_key_moves_nobody(db, admin):
    released = add(db, holds=False)
    head, held = add(db, state="retrying", offset=2), add(db, state="held", offset=3)
    loose = add(db, key=None, offset=4)
    discard(admin, released, loose)
    assert states(db, released, loose, head, held) == ["discarded", "discarded", "retrying", "held"]


def test_to_discard_a_reason_is_needed(db, admin):
    number = add(db)
    for reason in (None, "", "  ", "\t\n"):
        with refused("22023", "a reason is needed"):
            discard(admin, number, reason=reason)
    assert states(db, number) == ["dead"]


def test_an_id_that_is_older_than_the_inbox_remembers_is_discarded_all_the_same(db, admin):
    db.root.do("SELECT txb.inbox_partition_drop('1 day')")
    number = add(db, id="0190163d-8694-739b-aea5-966c26f8ad91")
    assert discard(admin, number)[0][1] is True and states(db, number) == ["discarded"]


# -- edit -----------------------------------------------------------------------------------------


def test_an_edition_takes_the_place_with_a_new_id(db, admin):
    head = add(db, headers='{"trace": "7"}', source="shop")
    held = add(db, state="held", offset=2)
    done, state, why, number, new_id = edit(admin, head, b'{"n": 2}', "text/plain", '{"trace": "8"}')
    assert (done, state, why) == (True, "retrying", None)
    old, new = message(db, head), message(db, number)
    assert (old["state"], old["resolution"], old["replaced_by"], old["holds"]) == ("resolved", "edited", number, False)
    same = ("group_name", "topic", "partition", "offset", "key", "type", "time", "source", "place", "run", "side")
    assert [bytes(new[c]) if c == "key" else new[c] for c in same] == [bytes(old[c]) if c == "key" else old[c] for c in same]
    assert (bytes(new["payload"]), new["content_type"], new["headers"]) == (b'{"n": 2}', "text/plain", {"trace": "8"})
    assert (new["replaces"], new["holds"], new["attempts"], new["id"]) == (head, True, 0, new_id) and new_id != old["id"]
    assert db.root.one("SELECT next_attempt_at <= clock_timestamp() FROM txb.failed WHERE number = %s", number)
    assert events(db, head) == [("edit", "resolved", "login_admin (alice)", "typo")]
    assert events(db, number) == [("edited", "retrying", "login_admin (alice)", "typo")]
    assert states(db, held) == ["held"] and (offset(db)["held"], offset(db)["keys_version"]) == (1, 1)
    assert db.root.one("SELECT count(*) FROM txb.inbox WHERE message_id = %s AND group_name = 'g' AND run = 0", old["id"]) == 1
    assert db.root.one("SELECT count(*) FROM txb.inbox WHERE message_id = %s", new_id) == 0


def test_an_edition_of_a_held_one_waits_in_its_place(db, admin):
    head, held, last = add(db), add(db, state="held", offset=2), add(db, state="held", offset=3)
    number = edit(admin, held)[3]
    assert (message(db, number)["state"], message(db, number)["place"], offset(db)["held"]) == ("held", held, 2)
    discard(admin, head)
    assert states(db, number, last) == ["retrying", "held"], "the edition is next, by its place"


@pytest.mark.parametrize(
    "payload,content_type,headers,words",
    [
        (b"{", "application/json", None, ("payload is not valid JSON", "nothing was changed")),
        (b"{", "Application/JSON; charset=utf-8", None, ("payload is not valid JSON",)),
        (b"\xff", "application/vnd.x+json", None, ("which content_type application/vnd.x+json promises",)),
        (b"x" * 1_000_001, "text/plain", None, ("payload has 1000001 bytes, at most 1000000",)),
        (b"1", "x" * 256, None, ("content_type has 256 bytes",)),
        (b"1", "text/plain", '{"Big": "1"}', ("is not a header name",)),
        (b"1", "text/plain", '{"ce_id": "1"}', ("is reserved",)),
        (b"1", "text/plain", '{"a": 1}', ("the value of", "is not a string")),
        (b"1", "text/plain", '["a"]', ("headers is a JSON array",)),
        (b"1", "text/plain", '{"a": "%s"}' % ("x" * 17000), ("at most 16384",)),
    ],
)
def test_an_edition_keeps_the_limits_of_publish(db, admin, payload, content_type, headers, words):
    number = add(db)
    with refused("22023", *words):
        edit(admin, number, payload, content_type, headers)
    assert states(db, number) == ["dead"] and db.root.one("SELECT count(*) FROM txb.audit") == 0


def test_headers_that_another_producer_made_stay(db, admin):
    number = add(db, headers='{"Odd": "1", "bin": {"base64": "/w=="}}')
    done, _, _, new, _ = edit(admin, number, headers='{"Odd": "1", "bin": {"base64": "/w=="}, "new": "2"}')
    assert done and message(db, new)["headers"]["Odd"] == "1"
    with refused("22023", "is not a header name"):
        edit(admin, new, headers='{"Odd": "2"}')


def test_an_unchanged_edition_changes_nothing(db, admin):
    number = add(db)
    assert edit(admin, number, b'{"n": 1}', "application/json", "{}")[:3] == (False, "dead", "is the same as before: nothing was changed")
    assert states(db, number) == ["dead"] and events(db, number) == []


def test_the_second_who_edits_is_told_who_was_first(db, admin):
    number = add(db)
    new = edit(admin, number)[3]
    done, state, why, *_ = edit(admin, number, b'{"n": 5}')
    assert (done, state) == (False, "resolved") and f"is resolved (edited: see {new}) since" in why and "(alice)" in why
    with refused("P0002", "there is no failed message 999"):
        edit(admin, 999)


def test_the_publishing_side_is_handed_to_the_relay(db, admin):
    """What it answers is told; txb.outbox_decide is the relay's own."""
    db.root.do(
        """CREATE TABLE asked (number bigint, action text, payload bytea, who text, reason text);
           GRANT INSERT ON asked TO txb_owner;
           CREATE OR REPLACE FUNCTION txb.outbox_decide(number bigint, action text, payload bytea, content_type text,
                                                        headers jsonb, who text, reason text) RETURNS text
           LANGUAGE plpgsql SECURITY DEFINER AS $$
           BEGIN
             INSERT INTO public.asked VALUES (number, action, payload, who, reason);
             RETURN CASE WHEN action = 'discard' THEN 'is being published just now' END;
           END $$"""
    )
    number = add(db, side="outbox", group_name=None, source="shop", seq=7, partition=None, offset=None)
    assert retry(admin, number, reason="raised")[0][:2] == (number, True)
    assert discard(admin, number)[0] == (number, False, "dead", "is being published just now")
    assert edit(admin, number)[0] is True
    assert db.root.do("SELECT action, who, reason FROM asked") == [
        ("retry", "login_admin (alice)", "raised"),
        ("discard", "login_admin (alice)", "no use"),
        ("edit", "login_admin (alice)", "typo"),
    ]


def test_whoever_decides_about_an_intent_stops_no_relay(db, admin):
    """txb.outbox_decide locks what it may; nothing else locks the row."""
    db.root.do(
        """CREATE OR REPLACE FUNCTION txb.outbox_decide(number bigint, action text, payload bytea, content_type text,
                                                        headers jsonb, who text, reason text) RETURNS text
           LANGUAGE sql AS $$ SELECT 'is being published' $$"""
    )
    number = add(db, side="outbox", group_name=None, source="shop", seq=7, partition=None, offset=None)
    deciding = db.session("admin", transaction=True)
    for rows in (retry(deciding, number), discard(deciding, number)):
        assert rows[0][3] == "is being published"
    db.root.do("SET lock_timeout = '1s'; UPDATE txb.failed SET attempts = attempts + 1")


# -- audit ----------------------------------------------------------------------------------------


def test_the_audit_is_read_newest_first_page_by_page(db, admin, reader):
    number = add(db)
    for n in range(5):
        admin.do("SELECT * FROM txb.failed_retry(%s, %s, NULL, '{\"key\": \"k\"}')", [number], f"p{n}")
    listed = reader.do("SELECT number, person, filter FROM txb.audit_list(NULL, 2)")
    assert [row[1] for row in listed] == ["p4", "p3"] and listed[0][2] == {"key": "k"}
    assert [r[0] for r in reader.do("SELECT person FROM txb.audit_list(%s, 10)", listed[-1][0])] == ["p2", "p1", "p0"]
    with refused("22023", "a page has 1 to 10000 rows"):
        reader.do("SELECT * FROM txb.audit_list(NULL, 0)")


# -- a hundred thousand ---------------------------------------------------------------------------


@pytest.fixture
def many(db):
    """100,000 dead in three ways, a payload of 500 bytes each, and as many that are resolved."""
    db.root.do(
        """
        INSERT INTO txb.failed (side, state, group_name, topic, partition, "offset", key, id, type, payload, content_type,
                                attempts, error_class, sqlstate, error, place, holds, resolution)
        SELECT 'consumer', CASE WHEN n > 100000 THEN 'resolved' ELSE 'dead' END, 'g', 't', n % 8, n,
               convert_to('k' || n % 20000, 'UTF8'), txb.uuid_v7(), 'made', convert_to(repeat('x', 500), 'UTF8'), 'text/plain', 8,
               'error', (ARRAY['22012', '23505', 'P0001'])[1 + n % 3],
               (ARRAY['division by zero', 'duplicate key value (4711)', 'account ' || n || ' is closed'])[1 + n % 3],
               n, n <= 20000, CASE WHEN n > 100000 THEN 'applied' END
          FROM generate_series(1, 200000) AS n;
        ANALYZE txb.failed"""
    )
    return db


def read_buffers(session, sql, *args):
    plan = session.do(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *args)[0][0][0]["Plan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def test_three_causes_of_a_hundred_thousand_are_counted_in_one_pass(many, reader):
    rows = reader.do("SELECT value, messages FROM txb.failed_count('{}', 'error')")
    assert sorted(rows) == [
        ("error 22012 division by zero", 33333),
        ("error 23505 duplicate key value ?", 33334),
        ("error P0001 account ? is closed", 33333),
    ]
    pages = many.root.one("SELECT pg_relation_size('txb.failed') / 8192")
    for by in ("error", "key", "state"):
        assert read_buffers(reader, "SELECT * FROM txb.failed_count('{}', %s)", by) < pages * 1.2


def test_a_page_reads_only_what_it_shows(many, reader):
    find_page = "SELECT * FROM txb.failed_find('{}', %s, 50)"
    last = many.root.one("SELECT max(number) FROM txb.failed WHERE state = 'dead'")
    reader.do(find_page, None)
    for after in (None, last // 2, last - 50):
        assert read_buffers(reader, find_page, after) < 2000, "not the whole table, of some 20,000 pages"
    reader.do("SELECT * FROM txb.failed_show(17)")  # the catalog is read once a session
    assert read_buffers(reader, "SELECT * FROM txb.failed_show(%s)", 18) < 500


def test_what_follows_in_a_key_is_found_by_its_index(many, admin):
    """failed_in_key over 100,000 open messages: a few pages, not all."""
    number = many.root.one("SELECT min(number) FROM txb.failed")
    many.root.do("INSERT INTO txb.consumer_offset (group_name, topic, partition, next_offset, epoch) SELECT 'g', 't', p, 0, 1 FROM generate_series(0, 7) AS p")
    admin.do("BEGIN; SELECT txb.failed_discard('{20000}', 'x', 'y')")  # the catalog is read once a session
    assert read_buffers(admin, "SELECT * FROM txb.failed_discard(%s, 'x', 'y')", [number]) < 500
    admin.do("ROLLBACK")
