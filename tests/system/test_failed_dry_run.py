"""txbroker failed retry, edit, discard and copy --dry-run say what the real run then does: on a real PostgreSQL, rows made by SQL. No Kafka is
needed."""

import json
import re

import pytest

from test_failed_commands import desk, server  # fixtures are used by their names
from txbtest.program import FAILED, USAGE

FIXTURES = (desk, server)
HELD_WHY = "held: each follows when what it waits behind has ended; `txbroker failed show NUMBER` tells which\n"
VERBS = {"retry": [], "discard": ["--reason", "x"], "edit": ["--set-header", "a=b"], "copy": ["--to-topic", "aside"]}


def one_of_each(desk):
    """By state."""
    numbers = {"retrying": desk.add("retrying", key="a"), "dead": desk.add(key="b"), "held": desk.add("held", key="b"), "resolved": desk.add("resolved", key="c")}
    numbers["discarded"] = desk.add(key="d")
    desk.ok("failed", "discard", str(numbers["discarded"]), "--reason", "x")
    desk.do("INSERT INTO txb.relay (source, epoch) VALUES ('shop', 1)")
    return numbers


def intent(desk, state, seq):
    """A message of the publishing side; its number."""
    return desk.do("""INSERT INTO txb.failed (side, state, source, seq, topic, key, place, holds, error, resolution)
                      VALUES ('outbox', %s, 'shop', %s, 'orders', %s, 0, %s, 'too large', %s) RETURNING number""",
                   state, seq, f"o{seq}".encode(), state != "resolved", "published" if state == "resolved" else None)[0][0]


def dry(desk, code, *args):
    got, out, err = desk.run("failed", *args, "--dry-run")
    assert (got, err) == (code, ""), f"exit {got}\n{out}{err}"
    return out


def shown(text):
    return [int(number) for number in re.findall(r"^ *(\d+)  [a-z]+  ", text, re.M)]


def test_what_can_not_be_done_is_counted_apart(desk):
    numbers = one_of_each(desk)
    before = desk.contents()
    text = dry(desk, 0, "retry", "--state", "any")
    assert text.startswith("would retry 2 messages: 1 retrying, 1 dead; 3 can't be: 1 held, 1 resolved, 1 discarded\n" + HELD_WHY + "\nNUMBER")
    assert shown(text) == [numbers["retrying"], numbers["dead"]] and "more" not in text
    for verb in ("discard", "edit"):
        text = dry(desk, 0, verb, "--state", "any", *VERBS[verb])
        assert text.startswith(f"would {verb} 3 messages: 1 retrying, 1 held, 1 dead; 2 can't be: 1 resolved, 1 discarded\n\nNUMBER")
        assert shown(text) == [numbers[state] for state in ("retrying", "dead", "held")]
    text = dry(desk, 0, "copy", "--state", "any", *VERBS["copy"])
    assert text.startswith("would copy 5 messages: 1 retrying, 1 held, 1 dead, 1 resolved, 1 discarded\n\nNUMBER") and len(shown(text)) == 5
    assert desk.contents() == before


def test_nothing_that_can_be_done_is_a_failure_as_the_real_run_is(desk):
    dead = desk.add(key="k")
    for _ in range(29):
        desk.add("held", key="k")
    assert dry(desk, FAILED, "retry", "--state", "held") == "would retry 0 messages; 29 can't be: 29 held\n" + HELD_WHY
    code, out, _ = desk.run("failed", "retry", "--state", "held", "--yes")
    assert (code, out) == (FAILED, "retried 0 of 29 messages\n")
    desk.ok("failed", "discard", str(dead), "--reason", "x")
    for verb in ("retry", "discard", "edit"):
        assert dry(desk, FAILED, verb, str(dead), *VERBS[verb]) == f"would {verb} 0 messages; 1 can't be: 1 discarded\n"
        assert desk.run("failed", verb, str(dead), *VERBS[verb])[0] == FAILED
    assert dry(desk, 0, "copy", str(dead), *VERBS["copy"]).startswith("would copy 1 message: 1 discarded\n\n")


def test_the_first_ten_are_of_those_that_would_be(desk):
    held = [desk.add("held", key="k") for _ in range(15)]
    dead = [desk.add(key=f"k{n}") for n in range(12)]
    text = dry(desk, 0, "retry", "--topic", "transfers", "--state", "open")
    assert "would retry 12 messages: 12 dead; 15 can't be: 15 held\n" in text and shown(text) == dead[:10] and text.endswith("... and 2 more\n")
    document = json.loads(desk.ok("-o", "json", "failed", "retry", "--state", "open", "--dry-run"))
    assert [m["number"] for m in document.pop("first")] == dead[:10]
    assert document == {"dry_run": True, "action": "retry", "matched": 27, "states": {"held": 15, "dead": 12}, "would": 12, "refused": {"held": 15}}
    numbers = [str(number) for number in held[:2] + dead[:1]]
    document = json.loads(desk.ok("-o", "json", "failed", "retry", *numbers, "--dry-run"))
    assert (document["would"], document["refused"], [m["number"] for m in document["first"]]) == (1, {"held": 2}, dead[:1])
    code, out, err = desk.run("-o", "json", "failed", "retry", *numbers[:2], "--dry-run")
    document = json.loads(out)
    assert (code, err, document["would"], document["refused"], document["first"]) == (FAILED, "", 0, {"held": 2}, [])


def test_an_intent_that_is_being_published_is_the_relays(desk):
    published = [intent(desk, "retrying", n) for n in range(3)]
    text = dry(desk, FAILED, "retry", "--source", "shop")
    assert text == "would retry 0 messages; 3 can't be: 3 retrying\nretrying: a relay is publishing it\n"
    code, out, err = desk.run("failed", "retry", "--source", "shop", "--yes")
    assert code == FAILED and out == "" and err.count("is being published") == 3
    mixed = [intent(desk, "dead", 7), desk.add("retrying", key="k"), intent(desk, "dead", 8), desk.add(key="l"), intent(desk, "resolved", 9)][:4]
    for verb in ("retry", "discard", "edit"):
        text = dry(desk, 0, verb, "--state", "any", *VERBS[verb])
        assert text.startswith(f"would {verb} 4 messages: 1 retrying, 3 dead; 4 can't be: 3 retrying, 1 resolved\nretrying: a relay is publishing it\n")
        assert shown(text) == mixed
    text = dry(desk, 0, "copy", "--state", "retrying", *VERBS["copy"])
    assert text.startswith("would copy 4 messages: 4 retrying\n\n") and shown(text) == published + mixed[1:2]


@pytest.mark.parametrize("verb", VERBS)
def test_a_dry_run_says_what_the_real_run_does(desk, verb):
    one_of_each(desk)
    if verb != "copy":  # of an intent without its outbox row there is nothing to copy
        intent(desk, "retrying", 1)
    said = json.loads(desk.ok("-o", "json", "failed", verb, "--state", "any", *VERBS[verb], "--dry-run"))
    _, out, _ = desk.run("-o", "json", "failed", verb, "--state", "any", *VERBS[verb], "--yes")
    done = json.loads(out)
    assert (said["would"], said["matched"]) == (done["changed"], done["matched"])
    assert [m["number"] for m in said["first"]] == [m["number"] for m in done["messages"] if m["done"]]
    assert sum(said["refused"].values()) == sum(not m["done"] for m in done["messages"])


def test_changes_that_can_be_made_to_no_message_are_refused_first(desk):
    desk.ok("failed", "discard", str(desk.add()), "--reason", "x")
    desk.refused(USAGE, "is not a header name", "failed", "edit", "--state", "any", "--set-header", "Big=1", "--dry-run")
