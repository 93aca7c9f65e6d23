"""txbroker replay on a real PostgreSQL, without a running worker or relay: what they would leave is made by SQL. No Kafka is needed."""

import json
import os
import pty
import re
import signal
import subprocess

import pytest

from test_planted_objects import PLANTED
from txbtest import process
from txbtest.postgres import Postgres
from txbtest.program import FAILED, POSTGRES_GONE, SAFETY, USAGE, binary, command

SECRET = "s3cr3t-word"
ESCAPES = "\x1b[31mred\x9b2J\u202e\x7f"
NUMBERS = iter(range(1000))


@pytest.fixture(scope="module")
def server():
    with Postgres() as running:
        for user, role in (("operator", "txb_admin"), ("looker", "txb_reader")):
            running.query("postgres", f"CREATE ROLE {user} LOGIN")
            database = running.create_database(f"roles_{user}")
            assert command("-d", running.uri(database), "init", "--role", f"{user}={role}")[0] == 0
        template = running.create_database("template")
        assert command("-d", running.uri(template), "init", "--set", "relay.partition_rows=1000")[0] == 0
        yield running


class Desk:
    """A database that publishes and one that consumes, a configuration of both, and the commands on them."""

    def __init__(self, server, directory, user="operator"):
        self.server, self.directory = server, directory
        self.shop, self.ledger = (server.create_database(f"{name}_{next(NUMBERS)}", "template") for name in ("shop", "ledger"))
        self.config = self.configure(user)
        self.sell("INSERT INTO txb.relay (source, epoch) VALUES ('shop', 1)")
        self.book("INSERT INTO txb.consumer_offset (group_name, topic, partition, next_offset, epoch)"
                  " SELECT 'ledger', t, p, 0, 1 FROM unnest(ARRAY['orders', 'payments']) AS t, generate_series(0, 1) AS p")

    def configure(self, user="operator", name="txbroker", **more):
        path = os.path.join(self.directory.path, f"{name}_{next(NUMBERS)}.json")
        handler = {"function": "f"}
        settings = {"sources": [{"name": "shop", "database": self.server.uri(self.shop, user, SECRET)}],
                    "workers": [{"group": "ledger", "topics": ["orders", "payments"], "database": self.server.uri(self.ledger, user, SECRET), "handler": handler},
                                {"group": "balances", "topics": ["orders"], "database": self.server.uri(self.ledger, user, SECRET), "handler": handler}], **more}
        with open(path, "w", encoding="utf-8") as file:
            json.dump(settings, file)
        return path

    def sell(self, sql, *args):
        return self.server.query(self.shop, sql, args or None)

    def book(self, sql, *args):
        return self.server.query(self.ledger, sql, args or None)

    def publish(self, count, topic="orders", kind="made", keys=3):
        """So many intents, all of them relayed."""
        self.sell("SELECT txb.publish(%s, 'k' || n %% %s, %s, '1') FROM generate_series(1, %s) AS n", topic, keys, kind, count)
        self.sell("UPDATE txb.relay SET highest = (SELECT max(seq) FROM txb.outbox), watermark = (SELECT max(seq) FROM txb.outbox)")

    def run(self, *args, config=None, **more):
        code, out, err = command("-c", config or self.config, *args, **more)
        assert SECRET not in out + err
        return code, out, err

    def ok(self, *args, **more):
        code, out, err = self.run(*args, **more)
        assert code == 0 and err == "", f"exit {code}\n{out}{err}"
        return out

    def json(self, *args, **more):
        return json.loads(self.ok("-o", "json", *args, **more))

    def start(self, *args):
        """The number of a job that is started."""
        return self.json("replay", "start", "--group", "ledger", "--yes", *args)["number"]

    def refused(self, code, words, *args, **more):
        """One line on standard error with these words, nothing on standard output, and nothing changed."""
        before = self.contents()
        got, out, err = self.run(*args, **more)
        assert got == code and out == "", f"exit {got}\n{out}{err}"
        assert err.count("\n") == 1 and len(err) < 700, err
        for word in words if isinstance(words, (list, tuple)) else [words]:
            assert word in err, f"{word} is not in {err}"
        assert self.contents() == before
        return err

    def contents(self):
        return (self.book("SELECT * FROM txb.job ORDER BY number"), self.book("SELECT * FROM txb.job_lane ORDER BY lane"),
                self.book("SELECT * FROM txb.consumer_offset ORDER BY 1, 2, 3"), self.book("SELECT count(*) FROM txb.audit"), self.pins())

    def pin_of(self, job):
        """Several servers may have a database of that name, and a job of that number."""
        name = self.book("SELECT txb.job_pin(j) FROM txb.job AS j WHERE number = %s", job)[0][0]
        assert re.fullmatch(rf"job {self.ledger} {job} \d{{8}}T\d{{6}}\.\d{{6}}", name), name
        return name

    def pins(self):
        return self.sell("SELECT name, lo FROM txb.outbox_pin ORDER BY name")

    def reach(self, job, position=None):
        """What workers do: the lanes come to a position (the end), and a claim notices."""
        self.book("UPDATE txb.consumer_offset AS c SET next_offset = coalesce(%s, l.seq_to), consumed = 10, applied = 7, duplicate = 2, failed = 1"
                  " FROM txb.job_lane AS l WHERE l.job = %s AND c.partition = -l.lane", position, job)
        self.book("SELECT txb.lane_claim('ledger', 'worker-1', '00000000-0000-7000-8000-000000000001', 60000, 10)")


@pytest.fixture
def directory():
    made = process.TempDir("replay")
    yield made
    made.remove()


@pytest.fixture
def desk(server, directory):
    return Desk(server, directory)


@pytest.fixture(scope="module")
def ten(server):
    """One for all that change nothing: ten intents."""
    made = process.TempDir("ten")
    desk = Desk(server, made)
    desk.publish(10)
    yield desk
    made.remove()


# -- plan ----------------------------------------------------------------------------------------------------------------------------------


def test_a_plan_counts_and_changes_nothing(desk):
    desk.publish(30)
    desk.publish(12, topic="payments", kind="paid", keys=100)
    desk.publish(5, topic="letters")
    desk.book("INSERT INTO txb.inbox (group_name, message_id) VALUES ('ledger', txb.uuid_v7()), ('other', txb.uuid_v7())")
    for (known,) in desk.sell("SELECT id FROM txb.outbox WHERE topic = 'orders' ORDER BY seq LIMIT 4"):
        desk.book("INSERT INTO txb.inbox (group_name, message_id) VALUES ('ledger', %s)", known)
    before = desk.contents()
    plan = desk.json("replay", "plan", "--group", "ledger")
    assert (plan["messages"], plan["known"], plan["discarded"], plan["waiting"], plan["forgotten"]) == (42, 4, 0, 0, 0)
    assert (plan["seq_from"], plan["seq_to"], plan["watermark"], plan["dry_run"]) == (1, 48, 47, True)
    assert plan["by_topic"] == [{"value": "orders", "messages": 30}, {"value": "payments", "messages": 12}]
    assert plan["by_type"] == [{"value": "made", "messages": 30}, {"value": "paid", "messages": 12}]
    assert plan["key_count"] == 13 and len(plan["by_key"]) == 10 and plan["by_key"][0] == {"value": "k1", "messages": 11}
    text = desk.ok("replay", "plan", "--group", "ledger")
    assert "would replay 42 messages of source shop into group ledger" in text and "... and 3 more" in text
    assert re.search(r"^ +4  of them the group has applied", text, re.M) and "numbers 1 to 47, from 20" in text
    forced = desk.json("replay", "start", "--dry-run", "--group", "ledger", "--force", "--reason", "x", "--topic", "payments", "--rate", "6")
    assert (forced["messages"], forced["known"], forced["estimate_ms"], forced["topics"]) == (12, 0, 2000, ["payments"])
    assert desk.json("replay", "plan", "--group", "ledger", "--key", "k1", "--type", "made")["messages"] == 10
    assert desk.contents() == before


def test_a_plan_tells_what_is_left_out_and_what_waits(desk):
    desk.publish(10)
    desk.sell("""INSERT INTO txb.failed (side, state, resolution, source, seq, topic, key, id, type, attempts, place, holds)
                 VALUES ('outbox', 'discarded', 'discarded', 'shop', 4, 'orders', 'k1', txb.uuid_v7(), 'made', 1, 0, false),
                        ('outbox', 'dead', NULL, 'shop', 5, 'orders', 'k2', txb.uuid_v7(), 'made', 1, 0, true)""")
    desk.sell("INSERT INTO txb.relay_hold (source, kind, topic, key, lo, error) VALUES ('shop', 'key', 'orders', 'k2', 5, 'too large')")
    desk.book("""INSERT INTO txb.failed (side, state, group_name, topic, partition, "offset", key, id, type, attempts, place, holds)
                 VALUES ('consumer', 'dead', 'ledger', 'orders', 0, 9, 'k0', txb.uuid_v7(), 'made', 8, 0, true)""")
    plan = desk.json("replay", "plan", "--group", "ledger")
    assert (plan["messages"], plan["discarded"], plan["waiting"], plan["held_keys"], plan["behind_held"]) == (7, 1, 2, 1, 3)
    text = desk.ok("replay", "plan", "--group", "ledger")
    for line in ("3  wait behind keys that failed messages hold", "1  more are left out: they were discarded", "2  more are left out: they are not published yet"):
        assert line in text
    text = desk.ok("replay", "plan", "--group", "ledger", "--to-topic", "copies")
    assert "2  more are left out: they are not published yet, and are not copied" in text
    text = desk.ok("replay", "plan", "--group", "balances", "--then-live")
    assert "and then go on live" in text and "it will stop before number 5" in text and "failed list --source shop" in text


# -- start ---------------------------------------------------------------------------------------------------------------------------------


def test_a_job_is_started_pinned_shown_and_listed(desk):
    desk.publish(20)
    desk.publish(5, topic="payments")
    out = desk.ok("replay", "start", "--group", "ledger", "--yes", "--name", "nightly", "--reason", "lost rows", "--key", "k1", "--type", "made", "--rate", "500")
    number = int(re.match(r"job (\d+) is started; a running worker of group ledger takes it\n", out).group(1))
    assert f"txbroker --config {desk.config} replay show {number} --group ledger --follow" in out
    assert desk.pins() == [(desk.pin_of(number), 1)], "its own pin is gone, the job's is there"
    job = desk.json("replay", "show", str(number), "--group", "ledger")
    assert (job["number"], job["name"], job["state"], job["group_name"], job["source"]) == (number, "nightly", "running", "ledger", "shop")
    assert (job["topics"], job["keys"], job["types"], job["seq_from"], job["seq_to"], job["rate_max"]) == (["orders", "payments"], ["k1"], ["made"], 1, 26, 500)
    assert (job["forced"], job["then_live"], job["reason"], job["created_by"]) == (False, False, "lost rows", "operator")
    assert [(lane["topic"], lane["position"], lane["seq_to"], lane["done"]) for lane in job["lanes"]] == [("orders", 1, 26, False), ("payments", 1, 26, False)]
    desk.book("UPDATE txb.consumer_offset SET next_offset = 13, consumed = 10, applied = 6, duplicate = 3, failed = 1 WHERE partition < 0 AND topic = 'orders'")
    desk.book("UPDATE txb.job_lane SET moved = 2, owner = 'worker-1', lease_until = clock_timestamp() + interval '1 hour' WHERE topic = 'orders'")
    text = desk.ok("replay", "show", str(number))
    assert text.startswith(f'job {number} "nightly": running for ') and "[#####-------------------]  24.0 %, 12 of 50 numbers" in text
    assert "6 applied, 3 duplicate, 1 failed, 2 behind keys that failed messages hold" in text and "at most 500 messages a second" in text
    assert re.search(r"orders +13 +26  owned +0 +6 +3 +1 +2  worker-1 +5\d min", text) and re.search(r"payments +1 +26  waits", text)
    for verb in ("pause", "rate", "cancel"):
        assert f"replay {verb} {number}" in text
    listed = desk.json("replay", "list")
    assert [j["number"] for j in listed["jobs"]] == [number] and listed["next_after"] is None
    assert re.search(rf"^ +{number}  nightly  running  ledger  shop    orders and 1 more  24.0 % +6 +3 +1  plain", desk.ok("replay", "list"), re.M)
    assert [json.loads(line)["number"] for line in desk.ok("-o", "jsonl", "replay", "list").splitlines()] == [number]
    audit = desk.json("audit", "list", "--group", "ledger")["audit"][0]
    assert (audit["action"], audit["filter"]["job"], audit["reason"], audit["role"]) == ("replay start", number, "lost rows", "operator")


def test_jobs_are_listed_page_by_page(desk):
    desk.publish(5)
    numbers = []
    for _ in range(5):
        numbers.append(desk.start("--topic", "orders"))
        desk.ok("replay", "cancel", str(numbers[-1]), "--reason", "x")
    assert desk.ok("replay", "list", "--limit", "2").endswith(f"more follow: --after {numbers[3]}\n")
    seen, after = [], None
    while True:
        page = desk.json("replay", "list", "-n", "2", *(["--after", str(after)] if after else []))
        seen += [j["number"] for j in page["jobs"]]
        after = page["next_after"]
        if after is None:
            break
    assert seen == numbers[::-1]
    assert "more follow" not in desk.ok("replay", "list", "-n", "5") and desk.json("replay", "list", "-n", "5")["next_after"] is None
    assert desk.ok("replay", "list", "--after", str(numbers[0])) == f"no more follow: nothing is left after {numbers[0]}\n"


def test_no_jobs_are_no_failure(desk):
    assert desk.ok("replay", "list") == "no jobs\n"
    assert desk.json("replay", "list") == {"jobs": [], "next_after": None}


def test_a_range_of_numbers_and_of_times(desk):
    desk.publish(10)
    desk.sell("ALTER TABLE txb.outbox DISABLE TRIGGER ALL")
    desk.sell("UPDATE txb.outbox SET created_at = '2026-01-01T00:00:00Z'::timestamptz + seq * interval '1 hour'")
    plan = desk.json("replay", "plan", "--group", "ledger", "--from", "3", "--to", "8")
    assert (plan["seq_from"], plan["seq_to"], plan["messages"], plan["time_from"]) == (3, 8, 5, None)
    plan = desk.json("replay", "plan", "--group", "ledger", "--from", "2026-01-01T03:00:00Z", "--to", "2026-01-01 08:00:00")
    assert (plan["messages"], plan["time_from"], plan["time_to"]) == (5, "2026-01-01T03:00:00.000000Z", "2026-01-01T08:00:00.000000Z")
    job = desk.json("replay", "show", str(desk.start("--from", "2026-01-01T03:00:00+01:00")))
    assert job["time_from"].startswith("2026-01-01T02:00:00+00:00") and job["time_to"] is None and job["seq_to"] == 11


def test_a_time_becomes_a_number_near_it(desk):
    """Only what lies more than 100,000 numbers away is left out by number: so the numbers are far apart here."""
    for seq in (1, 200_000, 400_000, 600_000, 800_000):
        if seq > 1:
            desk.sell("SELECT setval('txb.outbox_seq_seq', %s)", seq - 1)
            desk.sell(f"CREATE TABLE txb.outbox_p{seq:012} PARTITION OF txb.outbox FOR VALUES FROM ({seq}) TO ({seq + 1000})")
        desk.publish(3)
    desk.sell("UPDATE txb.outbox SET created_at = '2026-01-01T00:00:00Z'::timestamptz + seq * interval '1 second'")
    plan = desk.json("replay", "plan", "--group", "ledger", "--from", "2026-01-05T15:06:41Z", "--to", "2026-01-05T15:06:42Z")
    assert (plan["messages"], plan["seq_from"], plan["seq_to"]) == (1, 300_001, 500_002)


def test_the_same_name_is_one_job(desk):
    desk.publish(10)
    number = desk.start("--name", "fix-4711", "--topic", "orders")
    desk.publish(10)  # the watermark has moved
    before = desk.contents()
    again = desk.json("replay", "start", "--group", "ledger", "--yes", "--name", "fix-4711", "--topic", "orders")
    assert again["number"] == number and again["existed"] is True and desk.contents() == before
    assert f"job {number} of that name is there already: nothing was started" in desk.ok("replay", "start", "--group", "ledger", "--name", "fix-4711", "--topic", "orders")
    for other in (["--key", "k1"], ["--from", "3"], ["--force", "--reason", "x"], ["--topic", "payments"]):
        desk.refused(FAILED, ['"fix-4711" is taken by a job that says something else', f"job {number} "], "replay", "start", "--group", "ledger", "--yes",
                     "--name", "fix-4711", "--topic", "orders", *other)


def test_a_start_that_is_killed_leaves_a_pin_at_most_and_the_same_name_is_one_job(server, desk):
    desk.publish(10)
    args = ["replay", "start", "--group", "ledger", "--yes", "--name", "once"]
    with server.session(desk.ledger, autocommit=False) as other, other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(txb.jobs_lock())")
        running = subprocess.Popen([binary(), "-c", desk.config, *args])
        process.wait_for(lambda: desk.book("SELECT 1 FROM pg_stat_activity WHERE application_name = 'txbroker replay start' AND wait_event_type = 'Lock'"),
                         "the start to wait", 60)
        running.kill()
        running.wait(60)
        assert [(name[:13], lo) for name, lo in desk.pins()] == [("replay-start-", 1)], "the range was pinned before the job is there"
        other.rollback()
    process.wait_for(lambda: not desk.book("SELECT 1 FROM pg_stat_activity WHERE application_name = 'txbroker replay start'"), "its session to end", 60)
    number = desk.json(*args)["number"]  # what the server had begun for the first may be done or not
    assert desk.book("SELECT count(*) FROM txb.job")[0][0] == 1 and (desk.pin_of(number), 1) in desk.pins() and len(desk.pins()) == 2
    desk.refused(FAILED, ["another job of group"], "replay", "start", "--group", "ledger", "--yes")
    assert len(desk.pins()) == 2, "a start that is refused takes its own pin away"


def answer(desk, word, *args):
    """The command on a terminal of its own, where a person types a word; exit code and what stood on the screen."""
    master, slave = pty.openpty()
    running = subprocess.Popen([binary(), "-c", desk.config, *args], stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    screen = b""
    while b"[y/N]" not in screen:
        screen += os.read(master, 1000)
    os.write(master, word.encode() + b"\n")
    try:
        while chunk := os.read(master, 1000):
            screen += chunk
    except OSError:
        pass  # the terminal's other end is closed: it has ended
    os.close(master)
    return running.wait(60), screen.decode()


def test_a_person_is_asked_and_a_script_says_yes(desk):
    desk.publish(10)
    desk.refused(USAGE, ["--yes", "--dry-run"], "replay", "start", "--group", "ledger")
    before = desk.contents()
    code, screen = answer(desk, "n", "replay", "start", "--group", "ledger", "--force", "--reason", "x")
    assert code == FAILED and "replay numbers 1 to 10 of source shop into group ledger, also what was applied already? [y/N]" in screen
    assert "nothing was started" in screen and desk.contents() == before
    code, screen = answer(desk, "y", "replay", "start", "--group", "balances", "--then-live")
    assert code == 0 and "from number 1 on into group balances, and go on live? [y/N]" in screen and "is started" in screen


def test_a_new_group_is_rebuilt_from_all_there_is(desk):
    desk.publish(5)
    number = desk.json("replay", "start", "--group", "balances", "--then-live", "--yes")["number"]
    job = desk.json("replay", "show", str(number), "--group", "balances")
    assert (job["then_live"], job["seq_to"], [lane["seq_to"] for lane in job["lanes"]]) == (True, None, [1])
    text = desk.ok("replay", "show", str(number))
    assert "from number 1 on, and then live" in text and "0.0 %" in text
    other = Desk(desk.server, desk.directory)
    assert other.json("replay", "start", "--group", "balances", "--then-live", "--yes")["existed"] is False, "an outbox may be empty still"


# -- pause, resume, cancel, rate -----------------------------------------------------------------------------------------------------------


def test_a_job_is_paused_resumed_slowed_and_cancelled(desk):
    desk.publish(10)
    number = str(desk.start())
    assert desk.ok("replay", "pause", number, "--reason", "too hot") == f"job {number} is paused\n"
    assert desk.ok("replay", "show", number).startswith(f"job {number}: paused for ") and f"replay resume {number}" in desk.ok("replay", "show", number)
    assert desk.json("replay", "rate", number, "500")["rate_max"] == 500
    assert desk.json("replay", "resume", number)["state"] == "running"
    assert desk.ok("replay", "rate", number, "none") == f"job {number} has no limit of its rate any more\n"
    assert desk.ok("replay", "cancel", number, "--reason", "wrong group") == f"job {number} is cancelled; what it did stays done\n"
    text = desk.ok("replay", "show", number)
    assert text.startswith(f"job {number}: cancelled for ") and "by operator" in text and "What to do" not in text
    audit = [(a["action"], a["reason"]) for a in desk.json("audit", "list", "--group", "ledger")["audit"]]
    assert [action for action, _ in audit] == ["replay cancel", "replay rate", "replay resume", "replay rate", "replay pause", "replay start"]
    assert audit[0][1] == "wrong group" and audit[4][1] == "too hot"


def test_the_wrong_state_is_told_with_who_was_first(desk):
    desk.publish(10)
    number = str(desk.start())
    desk.refused(FAILED, [f"job {number} is running since 20", "UTC: operator ("], "replay", "resume", number)
    desk.ok("replay", "pause", number)
    desk.refused(FAILED, [f"job {number} is paused since 20", "UTC: operator ("], "replay", "pause", number)
    desk.ok("replay", "cancel", number, "--reason", "x")
    for args in (["pause", number], ["resume", number], ["rate", number, "5"], ["cancel", number, "--reason", "y"]):
        desk.refused(FAILED, [f"job {number} is cancelled since 20", "UTC: operator ("], "replay", *args)


def test_two_at_once_the_second_is_told_who_was_first(server, desk):
    desk.publish(10)
    number = desk.start()
    with server.session(desk.ledger, autocommit=False, user="operator") as first, first.cursor() as cursor:
        cursor.execute("SELECT txb.job_cancel(%s, 'alice', 'enough')", (number,))
        second = subprocess.Popen([binary(), "-c", desk.config, "replay", "pause", str(number)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.wait_for(lambda: desk.book("SELECT 1 FROM pg_stat_activity WHERE application_name = 'txbroker replay pause' AND wait_event_type = 'Lock'"),
                         "the second to wait for the first", 60)
        first.commit()
        out, err = second.communicate(timeout=60)
    assert second.returncode == FAILED and out == b"" and b"is cancelled since" in err and b"operator (alice)" in err


def test_a_cancelled_job_lets_go_of_its_range_in_the_source(desk):
    desk.publish(10)
    desk.sell("SELECT txb.outbox_pin_set('another', 3, 'x')")
    number = desk.start()
    assert sorted(desk.pins()) == sorted([("another", 3), (desk.pin_of(number), 1)])
    desk.ok("replay", "cancel", str(number), "--reason", "x")
    assert desk.pins() == [("another", 3)]
    assert desk.json("replay", "show", str(number))["state"] == "cancelled"


def test_a_pin_that_a_worker_sets_once_more_before_it_knows_is_taken_away_too(desk):
    """It has claimed before the job was cancelled, pins right behind that, and is told at its next claim."""
    desk.publish(10)
    number = desk.start()
    pin, claim = desk.pin_of(number), "SELECT * FROM txb.lane_claim('ledger', 'worker-1', '00000000-0000-7000-8000-000000000001', 60000, 10)"
    assert len(desk.book(claim)) == 2
    cancel = subprocess.Popen([binary(), "-c", desk.config, "replay", "cancel", str(number), "--reason", "x"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    looks = set()

    def looks_again():
        looks.update(desk.book("SELECT query_start FROM pg_stat_activity WHERE application_name = 'txbroker replay cancel' AND query LIKE '%job_show%'"))
        return len(looks) >= 2 or cancel.poll() is not None

    process.wait_for(looks_again, "the command to wait for the worker, or to end", 60)
    assert desk.book("SELECT state FROM txb.job") == [("cancelled",)]
    desk.sell("SELECT txb.outbox_pin_set(%s, 1, 'late')", pin)
    assert desk.book(claim) == []
    out, err = cancel.communicate(timeout=60)
    assert (cancel.returncode, err) == (0, b"") and b"is cancelled" in out
    assert desk.pins() == []


@pytest.mark.parametrize("trouble", ["away", "unknown", "right"])
def test_a_job_is_cancelled_though_its_source_can_t_be_told(trouble, desk):
    desk.publish(10)
    number = desk.start()
    gone = f"postgresql://u:{SECRET}@127.0.0.1:{process.free_port()}/x"
    database, name, words = {"away": (gone, "shop", "127.0.0.1"), "unknown": (desk.server.uri(desk.shop, "operator", SECRET), "store", 'has no source "shop"'),
                             "right": (desk.server.uri(desk.shop, "looker", SECRET), "shop", "looker may not do that")}[trouble]  # fmt: skip
    code, out, err = desk.run("replay", "cancel", str(number), "--reason", "x", config=desk.configure(name="other", sources=[{"name": name, "database": database}]))
    assert code == 0 and out == f"job {number} is cancelled; what it did stays done\n"
    assert err.count("\n") == 1 and "seven days at most" in err and words in err, err
    assert desk.pins() == [(desk.pin_of(number), 1)] and desk.json("replay", "show", str(number))["state"] == "cancelled"


# -- watching ------------------------------------------------------------------------------------------------------------------------------


def follow(desk, number):
    """Somebody who watches, and has seen the job once; what he saw."""
    watcher = subprocess.Popen([binary(), "-c", desk.config, "-o", "jsonl", "replay", "show", str(number), "--follow"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    return watcher, json.loads(watcher.stdout.readline())


def end(watcher):
    """Its exit code, the last job that it printed, what stood on standard error."""
    out, err = watcher.communicate(timeout=60)
    return watcher.returncode, json.loads(out.splitlines()[-1]), err.decode()


def watching(desk):
    return desk.book("SELECT pid FROM pg_stat_activity WHERE application_name = 'txbroker replay show' AND state = 'idle'")


def test_following_ends_with_the_job(desk):
    desk.publish(10)
    number = desk.start()
    watcher, first = follow(desk, number)
    desk.reach(number)
    code, last, err = end(watcher)
    assert (code, err) == (0, "") and (first["state"], last["state"]) == ("running", "done")
    code, text, _ = desk.run("replay", "show", str(number), "--follow")
    assert code == 0 and text.startswith(f"job {number}: done for ") and "[########################] 100.0 %" in text


def test_following_a_job_that_is_cancelled_is_a_failure(desk):
    desk.publish(10)
    number = desk.start()
    watcher, _ = follow(desk, number)
    desk.ok("replay", "cancel", str(number), "--reason", "x")
    code, last, err = end(watcher)
    assert (code, err, last["state"]) == (FAILED, "", "cancelled")


def test_a_signal_ends_the_watching_and_not_the_job(desk):
    desk.publish(10)
    number = desk.start()
    watcher, _ = follow(desk, number)
    watcher.send_signal(signal.SIGINT)
    code, last, err = end(watcher)
    assert (code, err, last["state"]) == (FAILED, "txbroker: stopped watching; the job goes on\n", "running")
    assert desk.json("replay", "show", str(number))["state"] == "running"


def test_a_server_that_goes_away_is_waited_for(desk):
    desk.publish(10)
    number = desk.start()
    watcher, _ = follow(desk, number)
    (pid,), = process.wait_for(lambda: watching(desk), "the watcher to rest", 60)
    desk.book("SELECT pg_terminate_backend(%s)", pid)
    process.wait_for(lambda: [row for row in watching(desk) if row[0] != pid], "the watcher to come back", 60)
    desk.reach(number)
    code, last, err = end(watcher)
    assert (code, last["state"]) == (0, "done") and "waiting for it" in err and "the server is back" in err and err.count("\n") == 2


def test_a_terminal_gets_a_bar(desk):
    desk.publish(10)
    number = desk.start("--topic", "orders")
    desk.reach(number, 6)
    master, slave = pty.openpty()
    watcher = subprocess.Popen([binary(), "-c", desk.config, "replay", "show", str(number), "--follow"], stdin=slave, stdout=slave, stderr=slave,
                               start_new_session=True, env={**os.environ, "TERM": "xterm"})
    os.close(slave)
    screen = b""
    while b" 50.0 %, 5 of 10 numbers" not in screen or b"0 messages/s" not in screen:
        screen += os.read(master, 1000)
    desk.reach(number)
    try:
        while chunk := os.read(master, 1000):
            screen += chunk
    except OSError:
        pass
    os.close(master)
    assert watcher.wait(60) == 0 and f"\r\x1b[Kjob {number} running [############------------]".encode() in screen and b"done for" in screen


# -- what is refused -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words,args", [
    (["unknown option --grup", "did you mean --group?"], ["replay", "start", "--grup", "ledger"]),
    (['unknown command "replay strat"; did you mean replay start?'], ["replay", "strat"]),
    (["replay: which command of it? plan, start, list, show, pause, resume, cancel, rate, states"], ["replay"]),
    (["which group do the messages go to? Give --group GROUP"], ["replay", "start"]),
    (['no worker of group "leger"; did you mean "ledger"?'], ["replay", "start", "--group", "leger"]),
    (['no worker of group "leger"; did you mean "ledger"?'], ["replay", "list", "--group", "leger"]),
    (['no worker of group "mail"; there are ledger, balances'], ["replay", "plan", "--group", "mail"]),
    (['group ledger takes no topic "order"; did you mean "orders"?'], ["replay", "start", "--group", "ledger", "--topic", "order"]),
    (['group ledger takes no topic "mail"; there are orders, payments'], ["replay", "start", "--group", "ledger", "--topic", "mail"]),
    (['no source "shp"; did you mean "shop"?'], ["replay", "start", "--group", "ledger", "--source", "shp"]),
    (["--force", "--then-live", "don't go together"], ["replay", "start", "--group", "balances", "--then-live", "--force", "--reason", "x"]),
    (["--force", "say why with --reason TEXT"], ["replay", "start", "--group", "ledger", "--force"]),
    (["--force", "say why with --reason TEXT"], ["replay", "start", "--group", "ledger", "--force", "--reason", " "]),
    (["--then-live", "it takes no --to"], ["replay", "start", "--group", "balances", "--then-live", "--to", "5"]),
    (["--then-live", "it takes no --key"], ["replay", "start", "--group", "balances", "--then-live", "--key", "k"]),
    (["--then-live", "it takes no --type"], ["replay", "start", "--group", "balances", "--then-live", "--type", "t"]),
    (['--rate: "0" is not a whole number from 1'], ["replay", "start", "--group", "ledger", "--rate", "0"]),
    (['--from: "0" is not a number of an outbox'], ["replay", "start", "--group", "ledger", "--from", "0"]),
    (['--from: "99999999999999999999" is not a number'], ["replay", "start", "--group", "ledger", "--from", "99999999999999999999"]),
    (["--from is empty"], ["replay", "start", "--group", "ledger", "--from", ""]),
    (["--name is not UTF-8"], ["replay", "start", "--group", "ledger", "--name", os.fsdecode(b"\xff")]),
    (['--from: "soon" is no time: give one like 2026-01-31T12:00:00Z, a number of the outbox, or beginning'], ["replay", "start", "--group", "ledger", "--from", "soon"]),
    (["--from 2999-01-01 lies in the time to come"], ["replay", "start", "--group", "ledger", "--from", "2999-01-01"]),
    (["--to infinity lies in the time to come"], ["replay", "start", "--group", "ledger", "--to", "infinity"]),
    (["--to 12 lies above the watermark", "up to number 10", "11 at most"], ["replay", "start", "--group", "ledger", "--to", "12"]),
    (["nothing lies from 11 to now", "it ends with number 10; correct --from and --to"], ["replay", "start", "--group", "ledger", "--from", "11"]),
    (["nothing lies from 5 to 5"], ["replay", "plan", "--group", "ledger", "--from", "5", "--to", "5"]),
    (["nothing lies from 2026-02-01 to 2026-01-01"], ["replay", "plan", "--group", "ledger", "--from", "2026-02-01", "--to", "2026-01-01"]),
    (["--from 12 lies above the watermark"], ["replay", "start", "--group", "balances", "--then-live", "--from", "12"]),
    (["replay show: usage"], ["replay", "show"]),
    (['"x" is not the number of a job; `txbroker replay list` prints them'], ["replay", "show", "x"]),
    (['"0" is not the number of a job'], ["replay", "pause", "0"]),
    (["replay cancel wants --reason TEXT"], ["replay", "cancel", "1"]),
    (["replay cancel wants --reason TEXT"], ["replay", "cancel", "1", "--reason", " "]),
    (['"fast" is no rate: give messages a second', "or none"], ["replay", "rate", "1", "fast"]),
    (['"0" is no rate'], ["replay", "rate", "1", "0"]),
    (["replay rate: usage"], ["replay", "rate", "1"]),
    (['--limit: "0"', "1 to 1000"], ["replay", "list", "--limit", "0"]),
])
def test_a_wrong_command_line_is_one_line(ten, words, args):
    ten.refused(USAGE, words, *args, *(["--yes"] if args[1:2] == ["start"] else []))


def test_what_is_wrong_is_told_before_a_database_is_missed():
    for words, args in (('"abc" is not the number of a failed message', ["failed", "show", "abc"]), ('--limit: "0"', ["failed", "list", "--limit", "0"]),
                        ('--limit: "0"', ["audit", "list", "--limit", "0"]), ('"abc" is not the number of a job', ["replay", "show", "abc"]),
                        ('"fast" is no rate', ["replay", "rate", "1", "fast"]), ("say why with --reason", ["replay", "start", "--force"])):
        code, out, err = command(*args)
        assert code == USAGE and out == "" and err.count("\n") == 1 and words in err, err


def test_without_configuration_it_says_what_is_missing(desk):
    desk.publish(10)
    for words, args in (('no worker of group "ledger": add it to workers', ["replay", "start", "--group", "ledger"]), ("no database", ["replay", "list"]),
                        ("no database", ["replay", "show", "1"])):
        code, out, err = command(*args)
        assert code == USAGE and out == "" and err.count("\n") == 1 and words in err, err
    config = desk.configure(name="bare", sources=[])
    desk.refused(USAGE, ["the configuration has no source", "sources[].database"], "replay", "start", "--group", "ledger", config=config)
    config = desk.configure(name="two", sources=[{"name": name, "database": desk.server.uri(desk.shop)} for name in ("shop", "store")])
    desk.refused(USAGE, ["has 2 sources: choose with --source"], "replay", "start", "--group", "ledger", config=config)
    desk.refused(USAGE, [desk.shop, 'no relay has published for a source "store" here'], "replay", "start", "--group", "ledger", "--source", "store", config=config)
    code, _, err = command("-d", desk.server.uri(desk.ledger), "replay", "start", "--group", "ledger")
    assert code == USAGE and "which topics?" in err and "--topic TOPIC" in err


def test_one_database_for_both_sides_needs_no_configuration(server, desk):
    both = server.create_database(f"both_{next(NUMBERS)}", "template")
    uri = server.uri(both)
    server.query(both, "INSERT INTO txb.relay (source, highest, watermark) VALUES ('here', 1, 1)")
    server.query(both, "SELECT txb.publish('orders', 'k', 'made', '1')")
    server.query(both, "INSERT INTO txb.consumer_offset (group_name, topic, partition, next_offset, epoch) VALUES ('g', 'orders', 0, 0, 1)")
    code, out, err = command("-d", uri, "replay", "start", "--group", "g", "--topic", "orders", "--source", "here", "--yes")
    assert (code, err) == (0, "") and "is started" in out
    code, out, err = command("-d", uri, "replay", "list")
    assert (code, err) == (0, "") and "running" in out
    assert desk.contents()[0] == []


def test_what_stands_against_a_job_is_told(desk):
    desk.publish(10)
    desk.refused(FAILED, ['group "balances" has no position in topic "orders"', "--then-live"], "replay", "start", "--group", "balances", "--yes")
    desk.refused(FAILED, ['group "ledger" has a position in topic "orders" already'], "replay", "start", "--group", "ledger", "--topic", "orders", "--then-live", "--yes")
    number = desk.start("--topic", "orders")
    desk.refused(FAILED, ['another job of group "ledger" is at work on topic "orders"', f"job {number} is running since 20", f"replay cancel {number}"],
                 "replay", "start", "--group", "ledger", "--yes")
    desk.ok("replay", "cancel", str(number), "--reason", "x")
    for _ in range(10):
        desk.reach(desk.start("--force", "--reason", "again", "--topic", "orders"))
    desk.refused(FAILED, ["10 forced jobs", "looks like a loop"], "replay", "start", "--group", "ledger", "--force", "--reason", "again", "--topic", "orders", "--yes")


def test_forced_jobs_of_other_keys_are_no_loop(desk):
    desk.publish(11, keys=11)
    again = ("--force", "--reason", "again")
    for n in range(11):
        desk.reach(desk.start(*again, "--key", f"k{n}"))
    for _ in range(9):
        desk.reach(desk.start(*again, "--key", "k7"))
    assert desk.json("replay", "plan", "--group", "ledger", "--key", "k8", *again[:2], "again")["would_refuse"] is None
    assert "looks like a loop" in desk.json("replay", "plan", "--group", "ledger", "--key", "k7", *again)["would_refuse"]
    desk.refused(FAILED, ["10 forced jobs", "looks like a loop"], "replay", "start", "--group", "ledger", "--key", "k7", *again, "--yes")
    desk.start(*again, "--key", "k8")


@pytest.mark.parametrize("options, words", [
    (["--key", "nosuch"], ['source "shop" holds nothing of topic "orders" or "payments", key "nosuch" from the beginning to now: correct --key, or leave it out\n']),
    (["--type", "mad"], [', type "mad" from', "correct --type, or leave it out"]),
    (["--key", "k1", "--type", "paid"], [', key "k1", type "paid" from', "correct --key or --type, or leave them out"]),
    (["--topic", "payments"], ['topic "payments" from', "correct --topic, or leave it out"]),
    (["--key", "k1", "--from", "3", "--to", "4"], ["from 3 to 4: correct --key, --from or --to, or leave them out"]),
    (["--from", "2026-01-01", "--to", "2026-01-02"], ["from 2026-01-01 to 2026-01-02: correct --from or --to"]),
    ([word for n in range(5) for word in ("--key", f"other{n}")], ['key "other0" or "other1" or "other2" or 2 more from']),
    (["--key", ESCAPES, "--type", "t" * 500], [', key "\\x1b[31mred', "tttt...\" from"]),
    (["--key", "nosuch", "--force", "--reason", "x"], ['key "nosuch"']),
], ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None)
def test_a_filter_that_means_nothing_is_refused(ten, options, words):
    line = ("--group", "ledger", *options)
    told = ten.refused(USAGE, words, "replay", "start", *line, "--yes")
    plan = ten.json("replay", "plan", *line)
    assert plan["messages"] == 0 and f"txbroker: {plan['would_refuse']}\n" == told
    assert "\nreplay start would refuse this: source " in ten.ok("replay", "start", "--dry-run", *line)


def test_a_new_group_may_be_rebuilt_from_an_outbox_that_is_empty_or_has_other_topics(desk):
    line = ("replay", "start", "--group", "balances", "--then-live", "--yes")
    desk.ok(*line)
    desk.ok("replay", "cancel", "1", "--reason", "x")
    desk.publish(1, "payments")
    assert desk.json("replay", "plan", "--group", "balances", "--then-live")["would_refuse"] is None
    desk.ok(*line)


def test_a_filter_that_means_what_is_left_out_is_no_typo(desk):
    desk.publish(2)
    desk.sell("""INSERT INTO txb.failed (side, state, resolution, source, seq, topic, key, id, type, attempts, place, holds)
                 VALUES ('outbox', 'discarded', 'discarded', 'shop', 1, 'orders', 'k1', txb.uuid_v7(), 'made', 1, 0, false)""")
    plan = desk.json("replay", "plan", "--group", "ledger", "--key", "k1")
    assert (plan["messages"], plan["discarded"], plan["would_refuse"]) == (0, 1, None)
    desk.start("--key", "k1")


def test_an_unknown_job_is_told(desk):
    for args in (["show", "99"], ["show", "99", "--follow"], ["pause", "99"], ["resume", "99"], ["cancel", "99", "--reason", "x"], ["rate", "99", "5"]):
        desk.refused(FAILED, "there is no job 99", "replay", *args)


def test_an_outbox_that_is_empty_or_no_longer_there(desk):
    desk.refused(USAGE, ['the outbox of source "shop" holds nothing', "nothing to replay"], "replay", "start", "--group", "ledger", "--yes")
    desk.publish(1500)
    desk.sell("DROP TABLE txb.outbox_p000000000001")
    lowest = ["lies before what source \"shop\" still has", "its oldest intent is number 1001, of 20", "--from beginning"]
    desk.refused(USAGE, ["--from 7 ", *lowest], "replay", "start", "--group", "ledger", "--from", "7", "--yes")
    desk.refused(USAGE, ["--from 2026-01-01 ", *lowest], "replay", "plan", "--group", "ledger", "--from", "2026-01-01")
    desk.refused(USAGE, ["--from 7 ", *lowest], "replay", "start", "--group", "balances", "--then-live", "--from", "7", "--yes")
    plan = desk.json("replay", "plan", "--group", "ledger")
    assert (plan["seq_from"], plan["messages"]) == (1001, 500)
    assert "is no longer there: the group begins without it" in desk.ok("replay", "plan", "--group", "balances", "--then-live")


def test_a_plain_job_does_not_begin_before_the_inbox_remembers(desk):
    desk.publish(10)
    desk.sell("UPDATE txb.outbox SET created_at = clock_timestamp() - interval '5 days' WHERE seq < 5")
    desk.book("SELECT txb.inbox_partition_drop('2 days')")
    desk.refused(USAGE, ["the inbox of group ledger remembers what was applied since 20", "take --from 20", "--force"], "replay", "start", "--group", "ledger", "--yes")
    desk.ok("replay", "plan", "--group", "ledger")
    desk.ok("replay", "start", "--group", "ledger", "--force", "--reason", "all of it", "--topic", "orders", "--yes")
    desk.ok("replay", "start", "--group", "balances", "--then-live", "--yes")
    desk.publish(1, "payments")
    desk.ok("replay", "start", "--group", "ledger", "--topic", "payments", "--yes")
    desk.ok("replay", "cancel", "1", "--reason", "x")
    desk.ok("replay", "start", "--group", "ledger", "--topic", "orders", "--from", "5", "--yes")


def test_servers_that_are_away_are_named(desk):
    desk.publish(10)
    gone = f"postgresql://u:{SECRET}@127.0.0.1:{process.free_port()}/x"
    config = desk.configure(name="gone", sources=[{"name": "shop", "database": gone}])
    desk.refused(POSTGRES_GONE, ["source shop: ", "127.0.0.1"], "replay", "start", "--group", "ledger", "--yes", config=config)
    config = desk.configure(name="gone", workers=[{"group": "ledger", "topics": ["orders"], "database": gone, "handler": {"function": "f"}}])
    desk.refused(POSTGRES_GONE, ["group ledger: ", "127.0.0.1"], "replay", "plan", "--group", "ledger", config=config)
    for args in (["list"], ["show", "1"], ["show", "1", "--follow"], ["pause", "1"]):
        desk.refused(POSTGRES_GONE, "127.0.0.1", "replay", *args, config=config)


def test_a_missing_right_names_the_role(server, desk):
    desk.publish(10)
    number = str(desk.start())
    config = desk.configure("looker", name="looker")
    for args in (["start", "--group", "ledger", "--yes"], ["pause", number], ["resume", number], ["cancel", number, "--reason", "x"], ["rate", number, "5"]):
        desk.refused(SAFETY, "init --role looker=txb_admin", "replay", *args, config=config)
    for args in (["plan", "--group", "ledger"], ["list"], ["show", number]):
        assert desk.run("replay", *args, config=config)[0] == 0
    assert server.query(desk.shop, "SELECT count(*) FROM txb.outbox_pin")[0][0] == 1


def test_of_several_databases_all_are_listed_and_a_number_belongs_to_one(desk):
    other = Desk(desk.server, desk.directory)
    desk.publish(10)
    other.publish(10)
    mine, theirs = desk.start("--name", "mine"), None
    config = desk.configure(name="several", workers=[
        {"group": group, "topics": ["orders"], "database": desk.server.uri(database, "operator", SECRET), "handler": {"function": "f"}}
        for group, database in (("ledger", desk.ledger), ("audit", other.ledger))])
    other.book("UPDATE txb.consumer_offset SET group_name = 'audit'")
    theirs = desk.json("replay", "start", "--group", "audit", "--yes", "--name", "theirs", config=config)["number"]
    code, out, err = desk.run("replay", "list", config=config)
    assert (code, err) == (0, "") and desk.ledger in out and other.ledger in out and "mine" in out and "theirs" in out
    desk.refused(USAGE, "the groups of the configuration have 2: choose with --group GROUP", "replay", "show", str(mine), config=config)
    desk.refused(USAGE, "choose with --group", "replay", "list", "--after", "5", config=config)
    assert '"theirs"' in desk.ok("replay", "show", str(theirs), "--group", "audit", config=config)


# -- beside the other commands -------------------------------------------------------------------------------------------------------------


def test_what_a_job_brings_can_not_reach_the_terminal(desk):
    desk.publish(10, kind=ESCAPES)
    desk.sell("UPDATE txb.outbox SET key = %s", ESCAPES)
    number = str(desk.start("--name", ESCAPES, "--reason", ESCAPES, "--key", ESCAPES, "--type", ESCAPES))
    desk.book("UPDATE txb.job_lane SET last_error = %s, owner = %s, lease_until = clock_timestamp()", ESCAPES, ESCAPES)
    for args in (["replay", "show", number], ["replay", "list"], ["status"], ["audit", "list", "--group", "ledger"], ["-o", "json", "replay", "show", number],
                 ["-o", "jsonl", "replay", "list"], ["replay", "plan", "--group", "ledger", "--key", ESCAPES]):
        out = desk.ok(*args)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", out), (args, out)


def test_nothing_that_was_planted_runs(server, directory):
    """Whoever may create in schema public can make functions that fit better than the server's own."""
    desk = Desk(server, directory, user=None)
    desk.publish(10)
    for database in (desk.shop, desk.ledger):
        server.query(database, PLANTED)
    number = str(desk.start("--from", "2026-01-01", "--name", "x"))
    desk.start("--from", "2026-01-01", "--name", "x")
    for args in (["plan", "--group", "ledger", "--to", "yesterday"], ["list"], ["show", number], ["pause", number], ["resume", number], ["rate", number, "5"],
                 ["cancel", number, "--reason", "x"]):
        desk.run("replay", *args)
    desk.run("status")
    desk.run("doctor")
    for database in (desk.shop, desk.ledger):
        assert server.query(database, "SELECT * FROM public.ran") == []
