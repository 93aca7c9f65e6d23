"""txbroker failed edit of many messages, the same for all of them, and failed copy: on a real PostgreSQL, rows made by SQL. No Kafka is needed."""

import re
import subprocess

from test_failed_commands import desk, refusing, server  # fixtures are used by their names
from txbtest import process
from txbtest.program import FAILED, SAFETY, USAGE, binary, command

FIXTURES = (desk, server)


# -- edit ----------------------------------------------------------------------------------------------------------------------------------


def test_of_many_what_can_not_be_edited_is_told(desk):
    plain, good = desk.add(key="p", content_type="text/plain", payload=b"no json"), desk.add(key="g", content_type="text/plain")
    code, out, err = desk.run("failed", "edit", "--state", "dead", "--content-type", "application/json", "--yes")
    assert code == FAILED and f"message {good} is edited" in out and f"message {plain} can't be edited so: payload is not valid JSON" in err
    assert desk.states(plain, good) == ["dead", "resolved"]
    desk.refused(USAGE, ["is not a header name", "nothing was changed"], "failed", "edit", "--state", "any", "--set-header", "Big=1", "--yes")
    desk.refused(USAGE, ["payload has 10", "at most 1000000 are allowed"], "failed", "edit", "--state", "any", "--payload-file", "-", "--yes", stdin=b"1" * 1_100_000)


def test_a_dry_run_checks_what_an_edit_would_be(desk):
    desk.add(key="a")
    for words, args, stdin in (
            ("payload has 10", [], b"1" * 1_100_000), ("payload is not valid JSON", ["--content-type", "text/json"], b"{"), ("is not a header name", ["--set-header", "Big=1"], b"1")):
        desk.refused(USAGE, [words, "nothing was changed"], "failed", "edit", "--state", "dead", "--payload-file", "-", "--dry-run", *args, stdin=stdin)
    assert "would edit 1 message: 1 dead" in desk.ok("failed", "edit", "--state", "dead", "--payload-file", "-", "--dry-run", stdin=b"{}")
    assert "would edit 1 message: 1 dead" in desk.ok("failed", "edit", "--state", "dead", "--dry-run")


def test_more_than_500_are_edited_by_a_job(desk):
    numbers = [desk.add(key=f"k{n}") for n in range(600)]
    before = desk.contents()
    assert "would edit 600 messages: 600 dead" in desk.ok("failed", "edit", "--state", "dead", "--payload-file", "-", "--dry-run")
    desk.refused(USAGE, ["600 messages are meant", "--yes"], "failed", "edit", "--state", "dead", "--payload-file", "-", stdin=b"[]")
    desk.refused(USAGE, ["payload is not valid JSON"], "failed", "edit", "--state", "dead", "--payload-file", "-", "--content-type", "text/json", "--yes", stdin=b"[")
    assert desk.contents() == before and desk.ok("failed", "jobs") == "no jobs\n"
    with refusing(desk, numbers[550]):
        code, out, err = desk.run("failed", "edit", "--state", "dead", "--payload-file", "-", "--set-header", "a=b", "--yes", stdin=b"[7]")
    assert code == FAILED and "edited 500 of 600 messages" in out and "no room" in err
    [job] = desk.json("failed", "jobs")["jobs"]
    assert (job["verb"], job["done"], job["left"], job["changes"]) == ("edit", 500, 100, {"headers": {"a": "b"}, "payload_bytes": 3})
    assert desk.ok("failed", "resume", str(job["number"])) == "edited 600 of 600 messages\n"
    assert set(desk.states(*numbers)) == {"resolved"}
    assert desk.do("SELECT convert_from(payload, 'UTF8'), headers, count(DISTINCT replaces), count(DISTINCT id) FROM txb.failed WHERE state = 'retrying' GROUP BY 1, 2") == [
        ("[7]", {"a": "b"}, 600, 600)]


# -- copy ----------------------------------------------------------------------------------------------------------------------------------


def copies(desk):
    return [(bytes(row[0]), *row[1:]) for row in desk.do("SELECT payload, topic, key, headers ->> 'txb-replayed' FROM txb.outbox ORDER BY seq")]


def test_failed_messages_are_copied_to_a_topic(desk):
    numbers = [desk.add(key=f"k{n}", payload=b"%d" % n) for n in range(2)] + [desk.add("held", key="k0", payload=b"2")]
    closed = desk.add("resolved", key="z", payload=b"3")
    desk.refused(FAILED, ["no relay has ever served this database", "start its relay"], "failed", "copy", str(numbers[0]), "--to-topic", "aside")
    desk.do("INSERT INTO txb.relay (source, epoch) VALUES ('shop', 1)")
    before = desk.contents()[0]
    assert "would copy 3 messages: 1 held, 2 dead" in desk.ok("failed", "copy", "--topic", "transfers", "--to-topic", "aside", "--dry-run") and copies(desk) == []
    assert desk.ok("failed", "copy", str(closed), "--to-topic", "other") == f"message {closed} is copied\n"
    done = desk.json("failed", "copy", "--topic", "transfers", "--to-topic", "aside", "--yes", "--reason", "look")
    assert (done["action"], done["to_topic"], done["matched"], done["changed"]) == ("failed copy", "aside", 3, 3)
    assert [(m["number"], m["to_topic"]) for m in done["messages"]] == [(number, "aside") for number in numbers]
    assert desk.json("failed", "copy", "1", "--to-topic", "aside", "--dry-run")["to_topic"] == "aside"
    assert copies(desk) == [(b"3", "other", "z", "1")] + [(b"%d" % n, "aside", k, "1") for n, k in enumerate(("k0", "k1", "k0"))]
    assert desk.contents()[0] == before, "they stay as they are"
    assert re.search(r"copied +held .* to aside: look", desk.ok("failed", "show", str(numbers[2])))
    assert re.search(r'failed copy +3 +3 .*"to_topic":"aside".* look', desk.ok("audit", "list"))
    desk.do("""UPDATE txb.failed SET headers = '{"txb-replayed": "10"}' WHERE number = %s""", numbers[0])
    code, out, err = desk.run("failed", "copy", "--topic", "transfers", "--to-topic", "aside", "--yes")
    assert code == FAILED and out.count("is copied") == 2 and f"message {numbers[0]} was copied or replayed to a topic 10 times already" in err
    code, _, err = command("-d", desk.server.uri(desk.database, "looker"), "failed", "copy", str(numbers[1]), "--to-topic", "aside")
    assert code == SAFETY and "init --role looker=txb_admin" in err


def test_many_copies_are_a_job_that_is_killed_and_finished(server, desk):
    numbers = [desk.add(key=f"a{n}", payload=b"%d" % n) for n in range(600)]
    desk.do("INSERT INTO txb.relay (source, epoch) VALUES ('shop', 1)")
    with server.session(desk.database, autocommit=False) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT 1 FROM txb.failed WHERE number = %s FOR UPDATE", (numbers[550],))
        running = subprocess.Popen([binary(), "-d", desk.uri, "failed", "copy", "--state", "dead", "--to-topic", "aside", "--yes"])
        asks = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'txbroker failed copy'"
        process.wait_for(lambda: desk.do(f"{asks} AND wait_event_type = 'Lock'"), "the second step to wait", 60)
        running.kill()
        running.wait(60)
        desk.do("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'txbroker failed copy'")
        process.wait_for(lambda: not desk.do(asks), "its session to end", 60)
        holder.rollback()
    assert len(copies(desk)) == 500
    assert re.search(r"^ *1  running  copy to aside  - +600 +500 +0 +100 ", desk.ok("failed", "jobs"), re.M)
    assert desk.ok("failed", "resume", "1") == "copied 600 of 600 messages\n"
    assert desk.json("failed", "resume", "1")["to_topic"] == "aside"
    assert [row[0] for row in copies(desk)] == [b"%d" % n for n in range(600)] and desk.json("failed", "list")["states"] == {"dead": 600}
