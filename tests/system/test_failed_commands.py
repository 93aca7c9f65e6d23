"""txbroker failed and txbroker audit on a real PostgreSQL: rows are made by SQL, as a worker leaves them. No Kafka is needed."""

import contextlib
import json
import os
import pty
import re
import stat
import subprocess

import pytest

from test_planted_objects import PLANTED
from txbtest import process
from txbtest.postgres import Postgres
from txbtest.program import FAILED, POSTGRES_GONE, SAFETY, USAGE, binary, command, create_installed

SECRET = "s3cr3t-word"
ESCAPES = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202e\x7f"
NUMBERS = iter(range(1000))


@pytest.fixture(scope="module")
def server():
    with Postgres() as running:
        for user, role in (("operator", "txb_admin"), ("looker", "txb_reader"), ("app", "txb_app")):
            running.query("postgres", f"CREATE ROLE {user} LOGIN")
            database = running.create_database(f"roles_{user}")
            assert command("-d", running.uri(database), "init", "--role", f"{user}={role}")[0] == 0
        yield running


class Desk:
    """A database with failed messages, and the commands on it."""

    def __init__(self, server):
        self.server, self.clerk = server, None
        self.database = create_installed(server, f"desk_{next(NUMBERS)}")
        self.uri = server.uri(self.database, "operator", SECRET)
        self.do("INSERT INTO txb.consumer_offset (group_name, topic, partition, next_offset, epoch) VALUES ('ledger', 'transfers', 0, 100, 1)")

    def do(self, sql, *args):
        return self.server.query(self.database, sql, args or None)

    def add(self, state="dead", key="k", payload=b'{"n": 1}', error="account 17 is closed", headers=None, content_type="application/json", group="ledger", partition=0):
        """Its number."""
        is_open, failed = state in ("retrying", "held", "dead"), state != "held"
        row = {
            "side": "consumer", "state": state, "group_name": group, "topic": "transfers", "partition": partition, "offset": 7,
            "key": key.encode() if isinstance(key, str) else key, "type": "transfer.made", "payload": payload, "content_type": content_type,
            "headers": json.dumps(headers) if headers else None, "attempts": 8 if failed else 0, "error_class": "error" if failed else None,
            "sqlstate": "P0001" if failed else None, "error": error if failed else None, "holds": is_open and key is not None,
            "resolution": None if is_open else "applied", "next_attempt_at": "2999-01-01" if state == "retrying" else None,
        }
        columns = ", ".join(f'"{name}"' for name in row)
        self.clerk = self.clerk or self.server.connect(self.database, autocommit=False)  # kept: hundreds are added by some, and each connection is a process
        with self.clerk, self.clerk.cursor() as cursor:
            cursor.execute(f"INSERT INTO txb.failed ({columns}, id, place) VALUES ({', '.join(['%s'] * len(row))}, txb.uuid_v7(), 0) RETURNING number",
                           tuple(row.values()))
            (number,) = cursor.fetchone()
            cursor.execute("UPDATE txb.failed SET place = number WHERE number = %s", (number,))
        return number

    def run(self, *args, **more):
        code, out, err = command("-d", self.uri, *args, **more)
        assert SECRET not in out + err
        return code, out, err

    def ok(self, *args, **more):
        code, out, err = self.run(*args, **more)
        assert code == 0 and err == "", f"exit {code}\n{out}{err}"
        return out

    def json(self, *args, **more):
        return json.loads(self.ok("-o", "json", *args, **more))

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
        return self.do("SELECT number, state, attempts, updated_at FROM txb.failed ORDER BY number"), self.do("SELECT count(*) FROM txb.failed_history")

    def states(self, *numbers):
        return [self.do("SELECT state FROM txb.failed WHERE number = %s", number)[0][0] for number in numbers]


@pytest.fixture
def desk(server):
    return Desk(server)


@pytest.fixture
def directory():
    made = process.TempDir("failed")
    yield made
    made.remove()


# -- list ----------------------------------------------------------------------------------------------------------------------------------


def test_a_list_is_paged_filtered_and_counted(desk):
    numbers = [desk.add(key=f"k{n}") for n in range(7)] + [desk.add("held", key="k0"), desk.add("resolved", key="z")]
    text = desk.ok("failed", "list", "--limit", "3")
    assert [int(n) for n in re.findall(r"^ *(\d+)  dead", text, re.M)] == numbers[:3]
    assert "8 messages: 1 held, 7 dead" in text and f"more follow: --after {numbers[2]}" in text
    seen, after = [], None
    while True:
        page = desk.json("failed", "list", "-n", "3", *(["--after", str(after)] if after else []))
        assert page["matched"] == 8 and page["states"] == {"dead": 7, "held": 1}
        seen += [m["number"] for m in page["messages"]]
        after = page["next_after"]
        if after is None:
            break
    assert seen == numbers[:8]
    assert [m["number"] for m in desk.json("failed", "list", "--state", "held", "--state", "resolved", "--sort", "newest")["messages"]] == numbers[:6:-1]
    lines = desk.ok("-o", "jsonl", "failed", "list", "--key", "k3").splitlines()
    assert [json.loads(line)["number"] for line in lines] == [numbers[3]]


PAST_END = "no more follow: nothing is left after {}\n"


@pytest.mark.parametrize("by", ([], ["--sort", "attempts"]))
def test_a_list_that_ends_with_its_page_says_of_no_more(desk, by):
    for n in range(3):
        desk.add(key=f"k{n}")
    assert desk.ok("failed", "list", "-n", "3", *by).endswith("\n3 messages: 3 dead\n")
    assert desk.json("failed", "list", "-n", "3", *by)["next_after"] is None
    page = desk.json("failed", "list", "-n", "2", *by)
    assert page["next_after"] == page["messages"][1]["number"] and len(page["messages"]) == 2
    assert desk.json("failed", "list", "-n", "1", "--after", str(page["next_after"]), *by)["next_after"] is None
    assert len(desk.ok("-o", "jsonl", "failed", "list", "-n", "2", *by).splitlines()) == 2
    last = desk.json("failed", "list", *by)["messages"][2]["number"]
    assert desk.ok("failed", "list", "--after", str(last), *by) == PAST_END.format(last) + "\n3 messages: 3 dead\n"


def test_counts_that_end_with_their_page_say_of_no_more(desk):
    for key in ("a", "b"):
        desk.add(key=key)
    assert desk.ok("failed", "list", "--group-by", "key", "-n", "2").endswith("\n2 messages: 2 dead\n")
    assert "more are there: --limit N shows them" in desk.ok("failed", "list", "--group-by", "key", "-n", "1")


def test_equal_errors_are_one_line_and_its_group_is_a_filter(desk):
    closed = [desk.add(key=f"a{n}", error=f"account {n} is closed") for n in range(5)]
    poor = [desk.add(key=f"b{n}", error=f"balance {n}.00 is too low") for n in range(3)]
    desk.add("held", key="a1")
    text = desk.ok("failed", "list", "--group-by", "error")
    assert re.search(rf"^ +5 .* {closed[0]}  [0-9a-f]{{8}} +error P0001 account \? is closed$", text, re.M)
    assert "1 have no error of their own" in text and "9 messages: 1 held, 8 dead" in text
    groups = desk.json("failed", "list", "--group-by", "error")["groups"]
    assert [g["messages"] for g in groups] == [5, 3, 1]
    listed = desk.json("failed", "list", "--error-group", groups[1]["error_group"])["messages"]
    assert [m["number"] for m in listed] == poor
    for by, title in (("state", "STATE"), ("key", "KEY"), ("type", "TYPE"), ("topic", "TOPIC"), ("group", "GROUP"), ("source", "SOURCE")):
        assert title in desk.ok("failed", "list", "--group-by", by)


def test_nothing_there_is_well_and_nothing_found_is_not(desk):
    assert desk.ok("failed", "list") == "no failed messages\n"
    assert desk.json("failed", "list")["messages"] == []
    desk.add()
    desk.refused(FAILED, ["no failed message is like that", "--state any"], "failed", "list", "--topic", "nosuch")
    code, out, err = desk.run("-o", "json", "failed", "list", "--group", "nosuch")
    assert code == FAILED and json.loads(out)["matched"] == 0 and "no failed message" in err


@pytest.mark.parametrize("words,args", [
    (["unknown option --satte", "did you mean --state?"], ["failed", "list", "--satte", "dead"]),
    (['--state: "ded" is not one of'], ["failed", "list", "--state", "ded"]),
    (['"soon" is not a span of time'], ["failed", "list", "--older-than", "soon"]),
    (['"x" is not a whole number'], ["failed", "list", "--partition", "x"]),
    (['"7" is not a UUID'], ["failed", "list", "--id", "7"]),
    (["--key is not UTF-8", "\\x and hexadecimal"], ["failed", "list", "--key", os.fsdecode(b"\xff")]),
    (['--limit: "0"', "1 to 10000"], ["failed", "list", "--limit", "0"]),
    (["there is no failed message 99 to go on after"], ["failed", "list", "--after", "99", "--sort", "due"]),
    (["it takes no --sort"], ["failed", "list", "--group-by", "error", "--sort", "due"]),
    (['unknown command "failed lst"; did you mean failed list?'], ["failed", "lst"]),
    (['unknown command "audit frobnicate"; there are list'], ["audit", "frobnicate"]),
    (["failed: which command of it? list, show, retry, edit, discard"], ["failed"]),
    (['"x" is not the number of a failed message'], ["failed", "show", "x"]),
    (["failed show: usage"], ["failed", "show"]),
    (["which messages?", "`txbroker failed list`"], ["failed", "retry"]),
    (["give numbers or a filter, not both"], ["failed", "retry", "1", "--key", "k"]),
    (["--reason TEXT"], ["failed", "discard", "1"]),
    (["--reason TEXT"], ["failed", "discard", "1", "--reason", " "]),
    (["--set-header x: must be NAME=VALUE"], ["failed", "edit", "1", "--set-header", "x"]),
    (["can't open", "nosuch.json"], ["failed", "edit", "1", "--payload-file", "nosuch.json"]),
    (["a job takes no editor", "--payload-file"], ["failed", "edit", "1", "--detach"]),
    (["--unset-header: not UTF-8"], ["failed", "edit", "1", "--unset-header", os.fsdecode(b"\xff")]),
    (["--unset-header is empty"], ["failed", "edit", "1", "--unset-header", ""]),
    (["--unset-header: has control characters"], ["failed", "edit", "1", "--unset-header", "a\nb"]),
    (["--set-header and --unset-header both name a: give one of them"], ["failed", "edit", "1", "--unset-header", "a", "--set-header", "ab=1", "--set-header", "a=1"]),
    (["can't open", "nosuch.json"], ["failed", "edit", "1", "--payload-file", "nosuch.json", "--dry-run"]),
    (["--reason is not UTF-8"], ["failed", "retry", "1", "--reason", os.fsdecode(b"\xff")]),
    (["--reason is not UTF-8"], ["failed", "discard", "1", "--reason", os.fsdecode(b"\xff")]),
    (["--reason is not UTF-8"], ["failed", "edit", "1", "--set-header", "a=1", "--reason", os.fsdecode(b"\xff")]),
    (["--reason is not UTF-8"], ["failed", "copy", "1", "--to-topic", "aside", "--reason", os.fsdecode(b"\xff")]),
    (["failed copy wants --to-topic TOPIC"], ["failed", "copy", "1"]),
    (["failed copy wants --to-topic TOPIC"], ["failed", "copy", "1", "--to-topic", " "]),
    (['topic "a b" is not a Kafka topic name', "nothing was copied"], ["failed", "copy", "1", "--to-topic", "a b"]),
    (["which messages?"], ["failed", "copy", "--to-topic", "aside"]),
])
def test_a_wrong_command_line_is_one_line(desk, words, args):
    desk.add()
    desk.refused(USAGE, words, *args)


def test_an_unknown_number_is_told(desk):
    desk.refused(FAILED, "there is no failed message 99", "failed", "show", "99")
    desk.refused(FAILED, "message 99 does not exist", "failed", "retry", "99")
    desk.refused(FAILED, "message 99 does not exist", "failed", "discard", "99", "--reason", "x")
    desk.refused(FAILED, "there is no failed message 99", "failed", "edit", "99", "--set-header", "a=b")
    desk.refused(FAILED, "nothing to retry", "failed", "retry", "99", "--dry-run")


def test_a_missing_right_names_the_role(server, desk):
    number = desk.add()
    for user, role, args in (("looker", "txb_admin", ["retry", str(number)]), ("app", "txb_reader", ["list"])):
        code, out, err = command("-d", server.uri(desk.database, user), "failed", *args)
        assert code == SAFETY and out == "" and err.count("\n") == 1 and f"init --role {user}={role}" in err, err
    assert command("-d", server.uri(desk.database, "looker"), "failed", "show", str(number))[0] == 0


def test_a_server_that_is_away(desk):
    code, _, err = command("-d", f"postgresql://u:{SECRET}@127.0.0.1:{process.free_port()}/x", "failed", "list")
    assert code == POSTGRES_GONE and SECRET not in err and err.count("\n") == 1


# -- several databases ---------------------------------------------------------------------------------------------------------------------


def test_of_several_databases_all_are_listed_and_a_number_belongs_to_one(server, desk, directory):
    other = Desk(server)
    mine, theirs = desk.add(key="mine"), other.add(key="theirs", group="audit")
    config = os.path.join(directory.path, "txbroker.json")
    with open(config, "w", encoding="utf-8") as file:
        json.dump({"sources": [{"name": "shop", "database": server.uri(desk.database, "looker")}],
                   "workers": [{"group": "ledger", "topics": ["t"], "database": desk.uri, "handler": {"function": "f"}},
                               {"group": "audit", "topics": ["t"], "database": other.uri, "handler": {"function": "f"}}]}, file)

    def run(*args):
        return command("-c", config, *args)

    code, out, err = run("failed", "list")
    assert (code, err) == (0, "") and desk.database in out and other.database in out and "mine" in out and "theirs" in out and "2 messages: 2 dead" in out
    assert SECRET not in out
    code, out, _ = run("-o", "json", "failed", "list")
    assert [(m["number"], m["database"].split("/")[1]) for m in json.loads(out)["messages"]] == [(mine, desk.database), (theirs, other.database)]
    for args in (["show", "1"], ["retry", "1"], ["discard", "--key", "x", "--reason", "y"], ["edit", "1"]):
        code, out, err = run("failed", *args)
        assert code == USAGE and "the configuration has 2: choose with --group GROUP" in err, err
    assert run("failed", "list", "--after", "1")[0] == USAGE
    code, out, err = run("failed", "show", str(theirs), "--group", "audit")
    assert code == 0 and "theirs" in out and f"txbroker --config {config} failed retry {theirs} --group audit" in out
    assert run("failed", "retry", str(theirs), "--group", "audit")[0] == 0 and other.states(theirs) == ["retrying"] and desk.states(mine) == ["dead"]
    assert run("audit", "list", "--group", "audit")[1].count("failed retry") == 1
    desk.clerk.close()  # a database that somebody is in keeps its name
    server.query("postgres", f"ALTER DATABASE {desk.database} RENAME TO {desk.database}_gone")
    code, out, err = run("failed", "list", "--state", "any")
    assert code == USAGE and "theirs" in out and desk.database in err, "what is away hides nothing else"


# -- show ----------------------------------------------------------------------------------------------------------------------------------


def test_what_a_message_brings_can_not_reach_the_terminal(desk):
    number = desk.add(key=ESCAPES, payload=(ESCAPES + "\nline two").encode(), error="bad " + ESCAPES, headers={"trace": ESCAPES}, content_type="text/plain")
    desk.ok("failed", "retry", str(number), "--reason", ESCAPES)
    held = desk.add("held", key=ESCAPES)
    for args in (["failed", "list"], ["failed", "list", "--group-by", "error"], ["failed", "list", "--group-by", "key"], ["failed", "show", str(number)],
                 ["failed", "show", str(held)], ["audit", "list"], ["status"], ["failed", "discard", "--key", ESCAPES, "--dry-run", "--reason", "x"],
                 *[["-o", form, "failed", *what] for form in ("json", "jsonl") for what in (["list"], ["show", str(number)])]):
        out = desk.ok(*args)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", out), (args, out)
    text = desk.ok("failed", "show", str(number))
    assert "\\x1b[31mred\\x1b]0;title\\x07\\x9b2J\\u202e\\x7f\nline two" in text
    assert desk.json("failed", "show", str(number))["payload_text"] == ESCAPES + "\nline two"


def test_a_payload_that_is_not_text_is_shown_as_bytes(desk):
    number = desk.add(payload=b"\xff\x00AB\x1b", key=b"\xfe\x00", content_type="application/octet-stream")
    text = desk.ok("failed", "show", str(number))
    assert "00000000  ff 00 41 42 1b " in text and "|..AB.|" in text and "\\xfe00" in text
    shown = desk.json("failed", "show", str(number))
    assert (shown["payload_base64"], shown["key_base64"]) == ("/wBBQhs=", "/gA=")
    assert desk.json("failed", "list", "--key", "\\xfe00")["matched"] == 1
    assert "  none\n" in desk.ok("failed", "show", str(desk.add(payload=None, key=None)))


def test_show_tells_attempts_what_waits_and_how_to_go_on(desk):
    head = desk.add(headers={"trace": "7"})
    held = [desk.add("held") for _ in range(12)]
    desk.do("INSERT INTO txb.failed_history (number, event, state, attempt, who, error_class, sqlstate, error) VALUES (%s, 'failed', 'dead', 8, 'w-1', 'error', 'P0001', 'first')", head)
    text = desk.ok("failed", "show", str(head))
    assert "trace: 7" in text and re.search(r"failed +dead +8  w-1  error  P0001 +first", text)
    assert f"12 messages of its key: {' '.join(map(str, held[:10]))} ..." in text
    for verb in ("retry", "edit", "discard"):
        assert f"failed {verb} {head}" in text
    text = desk.ok("failed", "show", str(held[0]))
    assert f"waits behind message {head}" in text and f"failed show {head}" in text and f"failed retry {held[0]}" not in text
    assert text.startswith(f"message {held[0]}: held, set aside ")
    desk.ok("failed", "discard", str(head), "--reason", "no use")
    assert desk.ok("failed", "show", str(head)).startswith(f"message {head}: discarded, failed first ")


# -- retry and discard ---------------------------------------------------------------------------------------------------------------------


def test_one_is_done_at_once_and_many_want_a_yes(desk):
    numbers = [desk.add(key=f"k{n}") for n in range(12)]
    held = desk.add("held", key="k0")
    assert desk.ok("failed", "retry", str(numbers[0])) == f"message {numbers[0]} is due now\n"
    desk.refused(USAGE, ["12 messages are meant (1 retrying, 11 dead)", "--yes", "--dry-run"], "failed", "retry", "--topic", "transfers")
    before = desk.contents()
    text = desk.ok("failed", "retry", "--topic", "transfers", "--dry-run")
    assert "would retry 12 messages: 1 retrying, 11 dead" in text and "... and 2 more" in text and len(re.findall(r"^ *\d+  ", text, re.M)) == 10
    dry = desk.json("failed", "retry", "--topic", "transfers", "--dry-run")
    assert (dry["dry_run"], dry["matched"], len(dry["first"])) == (True, 12, 10)
    assert desk.contents() == before
    code, out, err = desk.run("failed", "retry", "--topic", "transfers", "--yes", "--reason", "mended")
    assert code == FAILED and out == "retried 11 of 12 messages\n", "the first was asked for already"
    assert f"message {numbers[0]} is due already since" in err and "operator" in err
    assert set(desk.states(*numbers)) == {"retrying"} and desk.states(held) == ["held"]


def test_a_group_of_errors_is_retried_and_nothing_else(desk):
    closed = [desk.add(key=f"a{n}", error=f"order ORD{n} of account {n} is closed") for n in range(600)]
    other = desk.add(key="b", error="balance is too low")
    group = desk.json("failed", "list", "--group-by", "error")["groups"][0]["error_group"]
    done = desk.json("failed", "retry", "--error-group", group, "--yes")
    job = done["job"]
    assert done == {"action": "failed retry", "job": job, "state": "done", "matched": 600, "changed": 600, "skipped": 0, "refused": []}
    assert set(desk.states(*closed)) == {"retrying"} and desk.states(other) == ["dead"]
    audit = desk.json("audit", "list")["audit"]
    assert [(a["action"], a["matched"], a["changed"], a["filter"]["error"], a["filter"]["job"]) for a in audit] == [
        ("failed retry done", 600, 600, group, job), ("failed retry", 600, 0, group, job)]
    assert audit[0]["role"] == "operator" and audit[0]["person"]


def test_a_consumer_group_is_a_filter_too(desk):
    mine, other = desk.add(), desk.add(group="audit", key="x")
    desk.ok("failed", "retry", "--group", "audit")
    assert desk.states(mine, other) == ["dead", "retrying"]


def test_nothing_that_was_planted_runs(desk, server):
    """Whoever may create in schema public can make functions that fit better than the server's own."""
    number, other, third, fourth = (desk.add(key=key) for key in "kxyz")
    desk.do("INSERT INTO txb.relay (source, epoch) VALUES ('shop', 1)")
    desk.do(PLANTED)
    for args in (["failed", "list", "--text", "closed", "--older-than", "0s"], ["failed", "list", "--group-by", "error"], ["failed", "show", str(number)],
                 ["failed", "retry", str(number)], ["failed", "edit", str(number), "--set-header", "a=b"], ["failed", "copy", str(other), "--to-topic", "aside"],
                 ["failed", "edit", str(third), str(fourth), "--set-header", "a=b", "--yes"], ["failed", "discard", str(other), "--reason", "x"],
                 ["failed", "retry", "--state", "any", "--detach", "--yes"], ["failed", "jobs"], ["failed", "cancel", "1", "--reason", "x"],
                 ["audit", "list"], ["status"]):
        code, _, err = command("-d", server.uri(desk.database), *args)
        assert code == 0, err
    assert desk.do("SELECT * FROM public.ran") == []


def test_500_are_one_transaction_and_no_job(desk):
    numbers = [desk.add(key=f"a{n}") for n in range(500)]
    with refusing(desk, numbers[499]):
        code, out, err = desk.run("failed", "retry", "--state", "dead", "--yes")
        assert code == FAILED and out == "" and "no room" in err
    assert desk.json("failed", "list")["states"] == {"dead": 500}
    assert desk.ok("failed", "retry", "--state", "dead", "--yes") == "retried 500 of 500 messages\n"
    assert desk.ok("failed", "jobs") == "no jobs\n"


@contextlib.contextmanager
def refusing(desk, number):
    """Meanwhile nobody can change that message."""
    desk.do(f"""CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.number = {number} THEN RAISE EXCEPTION 'no room'; END IF; RETURN NEW; END $$;
                CREATE TRIGGER refuse BEFORE UPDATE ON txb.failed FOR EACH ROW EXECUTE FUNCTION public.refuse()""")
    yield
    desk.do("DROP TRIGGER refuse ON txb.failed; DROP FUNCTION public.refuse")


def test_a_step_that_fails_leaves_those_before_it_and_the_job_is_resumed(desk):
    numbers = [desk.add(key=f"a{n}") for n in range(600)]
    with refusing(desk, numbers[550]):
        code, out, err = desk.run("failed", "retry", "--state", "dead", "--yes")
    assert code == FAILED and "job 1: 600 messages" in out and "retried 500 of 600 messages" in out and "no room" in err
    assert re.search(r"job 1 is kept: `txbroker .*failed resume 1.*` goes on with it; where a worker of its group runs", err)
    assert re.search(r"if this command ends early, `txbroker .*failed resume 1.*` goes on with it", out), "no worker would"
    assert desk.json("failed", "list")["states"] == {"dead": 100, "retrying": 500}
    late = desk.add(key="late")
    assert desk.ok("failed", "resume", "1") == "retried 600 of 600 messages\n"
    assert set(desk.states(*numbers)) == {"retrying"} and desk.states(late) == ["dead"]


def test_a_command_that_is_killed_leaves_a_job_that_another_finishes(server, desk):
    first, second = [desk.add(key=f"a{n}") for n in range(500)], [desk.add(key=f"b{n}", partition=1) for n in range(100)]
    desk.do("INSERT INTO txb.consumer_offset (group_name, topic, partition, next_offset, epoch) VALUES ('ledger', 'transfers', 1, 100, 1)")
    with server.session(desk.database, autocommit=False) as worker, worker.cursor() as cursor:
        cursor.execute("SELECT 1 FROM txb.consumer_offset WHERE partition = 1 FOR UPDATE")
        running = subprocess.Popen([binary(), "-d", desk.uri, "failed", "discard", "--state", "dead", "--reason", "x", "--yes"])
        process.wait_for(lambda: desk.do("SELECT 1 FROM pg_stat_activity WHERE application_name = 'txbroker failed discard' AND wait_event_type = 'Lock'"),
                         "the second step to wait", 60)
        running.kill()
        running.wait(60)
        desk.do("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'txbroker failed discard'")
        process.wait_for(lambda: not desk.do("SELECT 1 FROM pg_stat_activity WHERE application_name = 'txbroker failed discard'"), "its session to end", 60)
        worker.rollback()
    assert set(desk.states(*first)) == {"discarded"} and set(desk.states(*second)) == {"dead"}
    [job] = desk.json("failed", "jobs")["jobs"]
    assert (job["state"], job["done"], job["left"]) == ("running", 500, 100)
    late = desk.add(key="late")
    assert desk.ok("failed", "resume", str(job["number"])) == "discarded 600 of 600 messages\n"
    assert desk.states(late) == ["dead"] and desk.json("failed", "list", "--state", "any")["states"] == {"dead": 1, "discarded": 600}
    assert desk.do("SELECT count(*), count(DISTINCT number) FROM txb.failed_history WHERE event = 'discard'") == [(600, 600)]
    assert desk.do("SELECT sum(changed) FROM txb.audit")[0][0] == 600


def test_jobs_that_end_with_their_page_say_of_no_more(desk):
    number = str(desk.add())
    for n in range(2):
        desk.ok("failed", "retry", number, "--detach", "--yes")
    assert desk.ok("failed", "jobs", "-n", "1").endswith("more follow: --after 2\n")
    assert "more follow" not in desk.ok("failed", "jobs", "-n", "2") and len(desk.json("failed", "jobs", "-n", "1")["jobs"]) == 1
    assert "more follow" not in desk.ok("failed", "jobs", "-n", "1", "--after", "2")
    assert desk.json("failed", "jobs", "-n", "2")["next_after"] is None
    assert desk.ok("failed", "jobs", "--after", "1") == PAST_END.format(1)


def test_a_job_can_be_left_to_workers_listed_and_cancelled(desk):
    assert desk.ok("failed", "jobs") == "no jobs\n"
    numbers = [desk.add(key=f"k{n}") for n in range(3)]
    text = desk.ok("failed", "discard", "--group", "ledger", "--detach", "--yes", "--reason", "test data")
    assert re.search(r"^job 1: 3 messages; no worker is there now to run it: `txbroker .*failed resume 1.*` does, or a worker once one is started. "
                     r"Stop it: txbroker .*failed cancel 1.* --reason TEXT$", text, re.M)
    more = desk.json("failed", "retry", *map(str, numbers), "--detach", "--yes")
    assert more == {"action": "failed retry", "job": 2, "state": "running", "matched": 3, "served": False}
    assert set(desk.states(*numbers)) == {"dead"}
    table = desk.ok("failed", "jobs")
    assert re.search(r"^ *1  running  discard  ledger +3 +0 +0 +3 .* operator .* test data$", table, re.M)
    assert re.search(r"^ *2  running  retry    -      ", table, re.M)
    assert [job["number"] for job in desk.json("failed", "jobs", "-n", "1", "--after", "2")["jobs"]] == [1]
    desk.refused(USAGE, "wants --reason", "failed", "cancel", "1")
    desk.refused(USAGE, '"x" is not the number of a job; `txbroker failed jobs`', "failed", "resume", "x")
    desk.refused(FAILED, ["there is no job 9 about failed messages", "failed jobs"], "failed", "resume", "9")
    assert desk.ok("failed", "cancel", "1", "--reason", "not now") == "job 1 is cancelled; what it did stays done\n"
    desk.refused(FAILED, "job 1 is cancelled since", "failed", "cancel", "1", "--reason", "x")
    code, out, err = desk.run("failed", "resume", "1")
    assert code == FAILED and out == "discarded 0 of 3 messages\n" and "job 1 was cancelled by operator" in err
    assert set(desk.states(*numbers)) == {"dead"}
    desk.ok("failed", "retry", str(numbers[0]))
    code, out, err = desk.run("failed", "resume", "2")
    assert code == FAILED and out == "retried 2 of 3 messages\n" and f"message {numbers[0]} is due already since" in err


def test_what_is_closed_is_told_with_when_and_by_whom(desk):
    number = desk.add("resolved")
    desk.refused(FAILED, [f"message {number} is resolved (applied) since 20"], "failed", "retry", str(number))
    other = desk.add(key="x")
    desk.ok("failed", "discard", str(other), "--reason", "test data")
    told = desk.refused(FAILED, [f"message {other} is discarded since", "by operator ("], "failed", "discard", str(other), "--reason", "mine")
    assert told.count("UTC") == 1
    head, held = desk.add(key="h"), desk.add("held", key="h")
    desk.refused(FAILED, [f"message {held} is held behind {head}"], "failed", "retry", str(held))
    code, out, err = desk.run("-o", "jsonl", "failed", "retry", str(head), str(held), "--yes")
    assert code == FAILED and [json.loads(line)["done"] for line in out.splitlines()] == [True, False] and "is held behind" in err


def test_two_at_once_the_second_is_told_who_was_first(server, desk):
    number = desk.add()
    with server.session(desk.database, autocommit=False, user="operator") as first, first.cursor() as cursor:
        cursor.execute("SELECT done FROM txb.failed_discard(%s, 'alice', 'test data')", ([number],))
        second = subprocess.Popen([binary(), "-d", desk.uri, "failed", "retry", str(number)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.wait_for(lambda: desk.do("SELECT 1 FROM pg_stat_activity WHERE application_name = 'txbroker failed retry' AND wait_event_type = 'Lock'"),
                         "the second to wait for the first", 60)
        first.commit()
        out, err = second.communicate(timeout=60)
    assert second.returncode == FAILED and out == b"" and b"is discarded since" in err and b"by operator (alice)" in err


def test_a_batch_under_way_is_waited_for_and_then_told(server, desk):
    number = desk.add()
    with server.session(desk.database, autocommit=False) as worker, worker.cursor() as cursor:
        cursor.execute("SELECT 1 FROM txb.consumer_offset FOR UPDATE")
        desk.refused(FAILED, ["a batch of that partition is under way", "try again"], "failed", "retry", str(number))


def answer(desk, word, *args):
    """The command on a terminal of its own, where a person types a word; exit code and what stood on the screen."""
    master, slave = pty.openpty()
    running = subprocess.Popen([binary(), "-d", desk.uri, *args], stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
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


def test_on_a_terminal_a_person_is_asked(desk):
    numbers = [desk.add(key=f"k{n}") for n in range(3)]
    code, screen = answer(desk, "n", "failed", "retry", "--topic", "transfers")
    assert code == FAILED and "retry 3 messages (3 dead)? [y/N]" in screen and "nothing was changed" in screen and set(desk.states(*numbers)) == {"dead"}
    code, screen = answer(desk, "", "failed", "retry", "--topic", "transfers")
    assert code == FAILED and set(desk.states(*numbers)) == {"dead"}
    code, screen = answer(desk, "y", "failed", "retry", "--topic", "transfers")
    assert code == 0 and set(desk.states(*numbers)) == {"retrying"}


# -- edit ----------------------------------------------------------------------------------------------------------------------------------


def script(directory, body, name="editor"):
    path = os.path.join(directory.path, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"#!/bin/sh\n{body}\n")
    os.chmod(path, 0o755)
    return path


def newest(desk):
    return desk.do("SELECT number, convert_from(payload, 'UTF8'), content_type, headers, replaces, state FROM txb.failed ORDER BY number DESC LIMIT 1")[0]


def test_an_editor_gets_a_private_file_that_is_gone_afterwards(desk, directory):
    number = desk.add()
    seen = os.path.join(directory.path, "seen")
    editor = script(directory, f'stat -c "%a %n" "$1" > {seen}; cat "$1" >> {seen}; printf \'{{"n": 2}}\\n\' > "$1"')
    out = desk.ok("failed", "edit", str(number), "--reason", "typo", env={"VISUAL": "", "EDITOR": editor, "TMPDIR": directory.path})
    new, payload, content_type, _, replaces, state = newest(desk)
    assert (payload, content_type, replaces, state) == ('{"n": 2}', "application/json", number, "retrying"), "less the newline that editors add"
    assert f"message {number} is edited: message {new} is in its place, with id " in out and desk.states(number) == ["resolved"]
    with open(seen, encoding="utf-8") as file:
        line, content = file.read().split("\n", 1)
    assert line.startswith("600 ") and line.endswith(".json") and content == '{"n": 1}'
    assert not os.path.exists(line.split(" ", 1)[1])
    assert "edited" in desk.ok("failed", "show", str(new)) and "Other editions of it" in desk.ok("failed", "show", str(new))
    desk.refused(FAILED, [f"message {number} is resolved (edited: see {new}) since", "by operator ("], "failed", "edit", str(number), env={"EDITOR": editor})


def test_an_editor_may_have_arguments_and_visual_comes_first(desk, directory):
    number = desk.add()
    visual = script(directory, 'echo "\\"$1 $2\\"" > "$3"')
    desk.ok("failed", "edit", str(number), env={"VISUAL": f"{visual} --wait 'two words'", "EDITOR": "false"})
    assert newest(desk)[1] == '"--wait two words"'


def test_an_edit_that_changes_nothing_or_fails_leaves_everything(desk, directory):
    number = desk.add()
    env = {"VISUAL": "", "TMPDIR": directory.path}
    desk.refused(FAILED, "is the same as before: nothing was changed", "failed", "edit", str(number), env={**env, "EDITOR": "true"})
    desk.refused(FAILED, ["editor false failed", "nothing was changed"], "failed", "edit", str(number), env={**env, "EDITOR": "false"})
    desk.refused(USAGE, ["no editor nosuch-editor", "--payload-file"], "failed", "edit", str(number), env={**env, "EDITOR": "nosuch-editor 2>/dev/null"})
    desk.refused(USAGE, ["no editor: set EDITOR"], "failed", "edit", str(number), env={**env, "EDITOR": ""})
    desk.refused(USAGE, "the payload is not text", "failed", "edit", str(desk.add(payload=b"\xff", key="b")), env={**env, "EDITOR": "true"})
    assert os.listdir(directory.path) == []


def test_what_the_server_refuses_is_kept_for_another_try(desk, directory):
    number = desk.add()
    editor = script(directory, 'printf \'{"n": 2,}\' > "$1"')
    before = desk.contents()
    code, out, err = desk.run("failed", "edit", str(number), env={"VISUAL": "", "EDITOR": editor, "TMPDIR": directory.path})
    assert code == USAGE and out == "" and "payload is not valid JSON" in err and desk.contents() == before
    kept = re.search(r"is kept in (\S+):", err).group(1)
    assert stat.S_IMODE(os.stat(kept).st_mode) == 0o600
    with open(kept, "r+", encoding="utf-8") as file:
        assert file.read() == '{"n": 2,}'
        file.seek(0)
        file.truncate()
        file.write('{"n": 3}')
    desk.ok("failed", "edit", str(number), "--payload-file", kept)
    assert newest(desk)[1] == '{"n": 3}'


def test_payload_headers_and_type_come_from_the_command_line(desk):
    number = desk.add(headers={"trace": "7", "keep": "me"})
    desk.ok("failed", "edit", str(number), "--payload-file", "-", "--set-header", "trace=8", "--set-header", "new=a=b", "--content-type", "text/plain", stdin=b"plain\n")
    new, payload, content_type, headers, _, _ = newest(desk)
    assert (payload, content_type, headers) == ("plain\n", "text/plain", {"trace": "8", "keep": "me", "new": "a=b"})
    desk.ok("failed", "edit", str(new), "--set-header", "trace=9")
    assert newest(desk)[1:4] == ("plain\n", "text/plain", {"trace": "9", "keep": "me", "new": "a=b"})
    desk.ok("failed", "edit", str(newest(desk)[0]), "--unset-header", "keep", "--unset-header", "trace", "--set-header", "trac=1", "--unset-header", "nosuch")
    assert newest(desk)[3] == {"trac": "1", "new": "a=b"}


@pytest.mark.parametrize("words,args,stdin", [
    (["payload is not valid JSON", "nothing was changed"], ["--payload-file", "-"], b"{"),
    (["payload has 10", "at most 1000000 are allowed"], ["--payload-file", "-"], (b"1", 1_100_000)),
    (["is not a header name"], ["--set-header", "Big=1"], b""),
    (["is reserved"], ["--set-header", "ce_id=1"], b""),
    (["headers has", "at most 16384"], ["--set-header", "a=" + "x" * 17000], b""),
    (["content_type has 0 bytes"], ["--content-type", ""], b""),
    (["payload is not valid JSON", "application/vnd.x+json"], ["--payload-file", "-", "--content-type", "application/vnd.x+json"], b"x"),
])
def test_an_edition_keeps_the_limits_of_publish(desk, words, args, stdin):
    number = desk.add()
    desk.refused(USAGE, words, "failed", "edit", str(number), *args, stdin=stdin[0] * stdin[1] if isinstance(stdin, tuple) else stdin)


def test_many_are_edited_with_flags_and_never_with_an_editor(desk):
    numbers = [desk.add(key=f"k{n}") for n in range(3)]
    desk.refused(USAGE, ["an editor takes one message, and 3 are meant"], "failed", "edit", "--state", "dead", "--yes", env={"EDITOR": "true"})
    desk.refused(USAGE, ["3 messages are meant"], "failed", "edit", "--state", "dead", "--set-header", "a=b")
    done = desk.json("failed", "edit", "--state", "dead", "--set-header", "a=b", "--yes", "--reason", "tenant")
    assert done["changed"] == 3 and set(desk.states(*numbers)) == {"resolved"}
    assert [m["number"] for m in done["messages"]] == numbers and len({m["new_id"] for m in done["messages"]}) == 3
    assert desk.json("failed", "list")["states"] == {"retrying": 3}
    assert desk.json("audit", "list")["audit"][0]["changed"] == 3, "one decision"
    text = desk.ok("failed", "edit", "--state", "retrying", "--unset-header", "a", "--yes")
    assert len(re.findall(r"^message \d+ is edited: message \d+ is in its place, with id \S+$", text, re.M)) == 3


# -- status and audit ----------------------------------------------------------------------------------------------------------------------


def test_status_counts_what_is_open_and_names_the_oldest_held_key(desk):
    assert "HELD LONGEST" not in desk.ok("status") and desk.json("status")["groups"][0]["failed_messages"] is None
    head = desk.add(key="slow")
    desk.add("held", key="slow")
    desk.add("retrying", key="later")
    due = desk.add("retrying", key=None)
    desk.do("UPDATE txb.failed SET next_attempt_at = now() - interval '1 s' WHERE number = %s", due)
    desk.add("resolved")
    failed = desk.json("status")["groups"][0]["failed_messages"]
    assert (failed["retrying"], failed["due"], failed["held"], failed["dead"]) == (2, 1, 1, 1) and failed["next_due_in_ms"] < 0
    assert {k: failed["oldest_key"][k] for k in ("number", "topic", "key", "state")} == {"number": head, "topic": "transfers", "key": "slow", "state": "dead"}
    assert re.search(rf"group +ledger +2 +1 +1 +1 .* transfers key slow, for .*, by message {head} \(dead\)", desk.ok("status"))
    desk.do("INSERT INTO txb.relay (source, epoch) VALUES ('shop', 1)")
    desk.do("INSERT INTO txb.failed (side, state, source, seq, topic, key, place, holds, error) VALUES ('outbox', 'dead', 'shop', 7, 'orders', 'o', 99, true, 'too large')")
    shop = [s for s in desk.json("status")["sources"] if s["source"] == "shop"][0]["failed_messages"]
    assert shop["dead"] == 1 and shop["oldest_key"]["topic"] == "orders"


def test_the_audit_is_listed_page_by_page(desk):
    assert desk.ok("audit", "list") == "nobody has decided anything\n"
    number = desk.add()
    desk.ok("failed", "retry", str(number), "--reason", "mended")
    desk.ok("failed", "discard", str(number), "--reason", "after all")
    text = desk.ok("audit", "list")
    assert re.search(r"operator .* failed discard +1 +1 .* after all +-\n.* failed retry +1 +1 .* mended +-\n", text)
    lines = [json.loads(line) for line in desk.ok("-o", "jsonl", "audit", "list", "--limit", "1").splitlines()]
    assert [line["action"] for line in lines] == ["failed discard"]
    assert "after all" not in desk.ok("audit", "list", "--after", str(lines[0]["number"]))


def test_a_page_of_the_audit_says_whether_more_follow(desk):
    assert desk.ok("audit", "list") == "nobody has decided anything\n"
    assert desk.json("audit", "list") == {"audit": [], "next_after": None}
    for n in range(3):
        desk.ok("failed", "retry", str(desk.add(key=f"k{n}")))
    assert desk.ok("audit", "list", "-n", "2").endswith("more follow: --after 2\n")
    assert "more follow" not in desk.ok("audit", "list", "-n", "3")
    page = desk.json("audit", "list", "-n", "2")
    assert page["next_after"] == 2 and [row["number"] for row in page["audit"]] == [3, 2]
    page = desk.json("audit", "list", "-n", "2", "--after", "2")
    assert page["next_after"] is None and [row["number"] for row in page["audit"]] == [1]
    assert desk.ok("audit", "list", "--after", "1") == PAST_END.format(1)


def test_only_a_terminal_cuts_what_the_audit_says(desk):
    text = "x" * 90
    desk.add(error=text)
    desk.ok("failed", "retry", "--text", text, "--reason", "y" * 100)
    assert f'"text":"{text}"' in desk.ok("audit", "list") and "y" * 100 in desk.ok("audit", "list")
    mine, theirs = pty.openpty()
    code = subprocess.call([binary(), "-d", desk.uri, "audit", "list"], stdout=theirs, stdin=subprocess.DEVNULL, timeout=60)
    os.close(theirs)
    seen = read_all(mine)
    assert code == 0 and "x" * 40 in seen and "x" * 60 not in seen and "y" * 60 in seen and "y" * 81 not in seen


def read_all(terminal):
    """What was written to it; its other end is closed."""
    seen = b""
    with contextlib.suppress(OSError):  # how Linux tells the end
        while part := os.read(terminal, 65536):
            seen += part
    os.close(terminal)
    return seen.decode()


def test_the_largest_page_knows_too_whether_more_follow(desk):
    desk.do("INSERT INTO txb.audit (action, matched, changed) SELECT 'x', 1, 1 FROM generate_series(1, 10000)")
    listed = desk.json("audit", "list", "-n", "10000")
    assert len(listed["audit"]) == 10000 and listed["next_after"] is None
    desk.do("INSERT INTO txb.audit (action, matched, changed) VALUES ('x', 1, 1)")
    listed = desk.json("audit", "list", "-n", "10000")
    assert len(listed["audit"]) == 10000 and listed["next_after"] == listed["audit"][-1]["number"] == 2


# -- help and completion -------------------------------------------------------------------------------------------------------------------


def test_help_and_completion_know_the_second_word():
    def ok(*args):
        code, out, err = command(*args)
        assert code == 0, err
        return out

    assert re.search(r"^  failed +failed messages", ok("--help"), re.M) and ok("--help").count("\n  failed") == 1
    for args in (["failed", "--help"], ["help", "failed"]):
        assert all(re.search(rf"^  {verb} ", ok(*args), re.M) for verb in ("list", "show", "retry", "edit", "discard", "copy", "jobs", "resume", "cancel"))
    assert "usage: txbroker failed list [OPTION]..." in ok("help", "failed", "list") and "--group-by" in ok("failed", "list", "--help")
    assert ".SS txbroker failed list" in ok("man")
    bash = ok("completion", "bash")
    assert subprocess.run(["bash", "-n"], input=bash.encode(), check=False).returncode == 0

    def completed(*words):
        line = f'\nCOMP_WORDS=(txbroker {" ".join(words)}); COMP_CWORD={len(words)}; _txbroker; echo "${{COMPREPLY[@]}}"'
        return subprocess.run(["bash", "-c", bash + line], stdout=subprocess.PIPE, check=True).stdout.decode().split()

    assert completed("fai") == ["failed"] and completed("failed", "ret") == ["retry"] and completed("-o", "json", "failed", "sh") == ["show"]
    assert completed("failed", "list", "--group-") == ["--group-by"] and completed("failed", "list", "--group-by", "er") == ["error"]
    assert completed("failed", "retry", "--reas") == ["--reason"] and completed("help", "aud") == ["audit"]
    assert "failed list" not in ok("completion", "zsh") and "_txbroker_failed()" in ok("completion", "zsh")
    assert "__fish_seen_subcommand_from failed; and __fish_seen_subcommand_from list" in ok("completion", "fish")
