"""Requests: one command, one reply, without a saga; through Kafka, with processes that die and replies that come too late."""

import json
import os
import random
import subprocess
import uuid

import pytest

from txbtest import process
from txbtest.program import build_dir
from txbtest.travel import Travel

THREADS = 32
# One effect a request, which is counted; every fifth refuses, after it wrote.
HANDLER = """
CREATE SCHEMA ask;
CREATE TABLE ask.effect (request uuid, n int);
GRANT USAGE ON SCHEMA ask TO PUBLIC;
GRANT INSERT ON ask.effect TO PUBLIC;
CREATE FUNCTION ask.handle(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
DECLARE
  n int := convert_from(m.payload, 'UTF8')::jsonb ->> 'n';
BEGIN
  INSERT INTO ask.effect VALUES ((m.headers ->> 'txb-request')::uuid, n);
  IF n % 5 = 0 THEN
    RETURN txb.refuse('no room for ' || n);
  END IF;
  RETURN txb.ok(jsonb_build_object('n', n));
END
$$;
"""


class Asking(Travel):
    """The agency asks the flight's participant. Its group `replies` takes the replies."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.replies = f"{self.name}.replies"
        self.kafka.create_topic(self.replies, self.partitions)
        self.handlers["flight"] = {"kind": "sql", "function": "ask.handle"}
        with self.postgres.session(self.databases["flight"]) as connection, connection.cursor() as cursor:
            cursor.execute(HANDLER)
        self.query("SELECT txb.reply_topic_set(%s)", self.replies)

    def config(self, name="txbroker", group=None, **sections):
        path = super().config(name, group, **sections)
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        content["workers"].append({"group": f"{self.name}.replies", "topics": [self.replies], "database": self.postgres.uri(self.agency, "txbtest_worker"),
                                   "handler": {"kind": "sql", "function": "txb.take_reply"}, "batch_wait_ms": 0, **self.group, **(group or {})})
        with open(path, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
        return path

    def ask(self, numbers, timeout="60 s"):
        """One request for each number, in one transaction: {number: id}."""
        with self.postgres.session(self.agency, user="txbtest_app") as connection, connection.cursor() as cursor:
            cursor.execute("SELECT n, txb.request(%s, 'room.hold', jsonb_build_object('n', n), timeout => %s::interval) FROM unnest(%s::int[]) AS n",
                           (self.topics["flight"], timeout, list(numbers)))
            return dict(cursor.fetchall())

    def replied(self):
        """{id: (state, answer, output, reason)}"""
        return {row[0]: row[1:] for row in self.query("SELECT id, state, answer, output, reason FROM txb.request")}

    def effects(self):
        return sorted(self.postgres.query(self.databases["flight"], "SELECT request, n FROM ask.effect"))

    def ignored(self):
        return dict(self.query("SELECT why, sum(count)::int FROM txb.reply_ignored GROUP BY why"))

    def wait_replied(self, count=0):
        process.wait_for(lambda: self.query("SELECT count(*) FROM txb.request WHERE state = 'waiting'") == [(count,)], self.logs_text, 60, alive=self.alive)


def expected(n):
    return ("answered", "refused", None, f"no room for {n}") if n % 5 == 0 else ("answered", "ok", {"n": n}, None)


@pytest.fixture
def asking(request, postgres, kafka, seed):
    made = []

    def make(**options):
        made.append(Asking(postgres, kafka, seed, **options))
        request.node.systems = made
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_requests_are_answered_and_a_refusal_leaves_nothing(asking):
    travel = asking()
    travel.start("run")
    asked = travel.ask(range(1, 101))
    travel.wait_replied()
    assert travel.replied() == {asked[n]: expected(n) for n in asked}
    assert travel.effects() == sorted((asked[n], n) for n in asked if n % 5)
    assert travel.ignored() == {}


def test_a_late_reply_is_ignored_and_counted(asking):
    travel = asking()
    travel.relay()
    travel.worker("replies")
    late = travel.ask([1], timeout="1 ms")[1]
    process.wait_for(lambda: travel.query("SELECT (txb.request_result(%s)).state", str(late)) == [("expired",)], travel.logs_text, 60, alive=travel.alive)
    travel.worker("flight")
    process.wait_for(lambda: travel.ignored() == {"late": 1}, travel.logs_text, 60, alive=travel.alive)
    assert travel.replied()[late] == ("expired", None, None, None) and len(travel.effects()) == 1
    # A reply to nobody's request, and one that comes once more as another message.
    asked = travel.ask([2])[2]
    travel.wait_replied()
    headers = [json.dumps({"txb-request": str(one), "txb-command-topic": travel.topics["flight"]}) for one in (uuid.uuid4(), asked)]
    for one in headers:
        travel.query("SELECT txb.publish(%s, 'k', 'txb.reply', '{\"answer\": \"refused\"}'::jsonb, %s::jsonb)", travel.replies, one)
    process.wait_for(lambda: travel.ignored() == {"late": 1, "unknown": 1, "repeated": 1}, travel.logs_text, 60, alive=travel.alive)
    assert travel.replied()[asked] == expected(2)
    code, out, err = travel.cli("status")
    assert code == 0 and f"{travel.name}.replies: replies to requests that changed nothing: 1 late, 1 repeated, 1 unknown\n" in out, out + err
    code, out, err = travel.cli("status", "-o", "json")
    groups = {group["group"]: [partition["replies_ignored"] for partition in group["partitions"]] for group in json.loads(out)["groups"]}
    assert {} not in groups[f"{travel.name}.replies"] and sum(sum(one.values()) for one in groups[f"{travel.name}.replies"] if one) == 3, err


def test_requests_have_one_effect_and_one_reply_while_everybody_is_killed(asking, tally):
    """A victim is stopped first, and counts if messages or intents were waiting for it."""
    travel = asking(group={"session_timeout_ms": 6000, "batch_messages": 20}, relay={"lease_ms": 3000, "checkpoint_ms": 20})
    roles = {"relay": travel.relay, "flight": lambda: travel.worker("flight"), "replies": lambda: travel.worker("replies")}
    programs = {role: start() for role, start in roles.items()}
    chance, asked, kills = random.Random(f"{travel.seed} requests"), {}, 0
    for portion in range(6):
        asked.update(travel.ask(range(1 + 200 * portion, 201 + 200 * portion), timeout="10 min"))
        goal = 200 * portion + chance.randint(0, 150)  # some, and the others are under way
        process.wait_for(lambda goal=goal: travel.query("SELECT count(*) FROM txb.request WHERE state = 'answered'")[0][0] >= goal,
                         travel.logs_text, 60, every_s=0.01, alive=travel.alive)
        role = list(roles)[portion % 3]
        programs[role].freeze()
        kills += any(row[0] == "waiting" for row in travel.replied().values())
        programs[role].kill9()
        programs[role] = roles[role]()
    tally["kills"] += 6
    tally["kills at work"] += kills
    travel.wait_replied()
    assert kills > 0
    assert travel.replied() == {asked[n]: expected(n) for n in asked}
    assert travel.effects() == sorted((asked[n], n) for n in asked if n % 5)
    assert set(travel.ignored()) <= {"repeated"}, travel.ignored()


def test_thirty_two_threads_get_their_own_replies(asking):
    travel = asking()
    travel.start("run")
    env = {**os.environ, "TXB_TEST_DATABASE": travel.postgres.uri(travel.agency, "txbtest_app")}
    program = [os.path.join(build_dir(), "tests", "request_waits"), travel.topics["flight"], str(THREADS)]
    done = subprocess.run(program, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False)
    text = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0 and text == f"{THREADS} answered\n", text
    assert len(travel.effects()) == THREADS - THREADS // 5
