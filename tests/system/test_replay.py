"""Replay jobs into a group: what the outbox holds is run again, every effect once, in the order of its key, whoever dies meanwhile, beside the live messages.

Most tests share one System whose source has a history, each with a group of its own; those that kill a server or go live have their own.
"""

import collections
import json

import pytest

from txbtest import process
from txbtest.bank import QUICK, Writers
from txbtest.plugin import build_plugin
from txbtest.postgres import Postgres
from txbtest.program import System, command
from txbtest.replay import COUNTS, FLAKY, PUBLISHES, WORKER, Group, history, prepare
from txbtest.verify import read_topic


@pytest.fixture(scope="module")
def world(postgres, kafka, seed):
    """A source whose history was written by several at once: transactions rolled back, late ones, scheduled intents, strict order, no key. Its relay runs."""
    system = System(postgres, kafka, "replay", seed, accounts=40, relay={"checkpoint_ms": 20})
    try:
        prepare(system)
        system.relay("relay")
        Writers(system.bank, 4, seed, {**QUICK, "later": 4, "held": 2}, operations=40, held_s=0.05, user="txbtest_app").start().join()
        system.bank.bulk(1500, 300)
        system.wait_published()
        yield system
    finally:
        system.close()


@pytest.fixture
def groups(request, world):
    """Makes Groups on the shared System, whose workers end with the test."""
    made = []

    def make(**options):
        made.append(Group(world, **options))
        return made[-1]

    request.node.systems = [world]
    yield make
    for group in made:
        group.stop()


@pytest.fixture(scope="module")
def mortal():
    with Postgres() as server:
        yield server


GOES_ON = "lane goes on with what came meanwhile"


def kill_owner(group, job, tally):
    """kill -9 of the worker that runs it, while it runs; another one is started."""
    group.kill(*group.wait(job.owners))
    tally["kills"] += 1
    tally["kills at work"] += 1
    group.worker()


def test_a_range_takes_effect_once_and_what_was_applied_is_a_duplicate(world, groups):
    expected = history(world)
    group = groups(topics=world.bank.topics)
    group.worker()
    middle = world.postgres.value(world.bank.source, "SELECT seq FROM txb.outbox WHERE topic = %s ORDER BY seq OFFSET %s LIMIT 1",
                                  (world.bank.topics[0], len(expected) // 2))
    first = group.job(seq_to=middle).wait()
    assert first.counts() == (len(expected) // 2, len(expected) // 2, 0, 0)
    second = group.job().wait()
    assert second.counts() == (len(expected), len(expected) - len(expected) // 2, len(expected) // 2, 0)
    report = group.check(expected)
    assert report, report


def test_only_what_a_job_names_is_run(world, groups):
    group = groups(start="nowhere")
    other = group.add_topic()
    group.publish([(f"k{k}", n) for n in range(4) for k in range(4)])
    group.publish([("k1", n) for n in range(4)], topic=other)
    world.postgres.query(world.bank.source, "SELECT txb.publish(%s, 'k1', 'note.other', '{\"n\": 100}'::jsonb)", (group.topics[0],))
    world.wait_published()
    group.register()
    group.worker()
    job = group.job(keys=[b"k1", b"k3"], types=["note.made"]).wait()
    assert job.counts() == (12, 12, 0, 0) and len(job.lanes) == 2
    report = group.check([message for message in group.published if message.key in ("k1", "k3")])
    assert report, report
    assert group.numbers_of("k3") == [0, 1, 2, 3]


def test_kill_9_pause_resume_and_another_rate_lose_double_and_swap_nothing(world, groups, tally):
    expected = history(world)
    group = groups(topics=world.bank.topics, start="nowhere")
    other = group.add_topic()
    group.publish([("k", n) for n in range(3)], topic=other)
    group.register()
    group.worker()
    group.worker()
    job = group.job(topics=world.bank.topics, rate_max=400)
    for _ in range(3):
        job.wait_more(100)
        kill_owner(group, job, tally)
    job.wait_more(20)
    job.pause()
    job.wait_left()
    stands = job.handled()
    # Its workers have looked for lanes again and again when another job is done.
    assert group.job(topics=[other]).wait().counts() == (3, 3, 0, 0)
    assert (job.state, job.handled()) == ("paused", stands)
    job.rate(1000)
    job.resume()
    job.wait_more(100)
    kill_owner(group, job, tally)
    job.rate(None)
    job.wait()
    assert job.counts() == (len(expected), len(expected), 0, 0)
    report = group.check(expected + group.published)
    assert report, report


def test_a_cancelled_job_keeps_what_it_did_and_the_next_one_does_the_rest(world, groups):
    """The first worker is killed and nobody helps: its lease ends by itself."""
    expected = history(world)
    group = groups(topics=world.bank.topics)
    first = group.worker()
    job = group.job(rate_max=300)
    job.wait_more(50)
    first.kill9()
    group.worker()
    job.wait_more(50)
    job.cancel()
    job.wait_left()
    done = job.sum("applied")
    assert job.state == "cancelled" and len(group.notes()) == done < len(expected)
    again = group.job().wait()
    assert again.counts() == (len(expected), len(expected) - done, done, 0) and job.sum("applied") == done
    report = group.check(expected)
    assert report, report


def test_a_job_that_is_cancelled_under_its_worker_has_no_pin_any_more(world, groups):
    """Also where messages that have failed in it are tried on: they are in the group's database, and read nothing."""
    group = groups(start="nowhere")
    pins = "SELECT count(*) FROM txb.outbox_pin WHERE what LIKE %s"
    group.publish([("bad", 0)] + [(f"k{n}", n) for n in range(1500)])
    group.register()  # behind them: it is the job that meets what fails, and not live
    group.break_it(("bad", 0))
    worker = group.worker(retry={"first_ms": 20, "cap_ms": 100, "attempts_max": 1000})
    job = group.job(rate_max=20)
    job.wait_more(10)

    def pinned():
        return world.postgres.value(world.bank.source, pins, (f"%group {group.name} of database%",))

    group.wait(lambda: pinned() == 1 and group.failed("retrying"))
    config = world.config(name="boss", sources=[{"name": world.name, "database": world.postgres.uri(world.bank.source)}],
                          worker={"group": group.name, "topics": group.topics, "database": world.postgres.uri(world.bank.target)})
    code, out, err = command("-c", config, "replay", "cancel", str(job.number), "--reason", "a test")
    assert (code, err) == (0, ""), out + err
    assert job.state == "cancelled" and pinned() == 0
    attempts = group.value("SELECT max(attempts) FROM txb.failed WHERE group_name = %s", group.name)
    group.wait(lambda: worker.text().count("lane of a replay claimed") >= 2)
    group.wait(lambda: group.value("SELECT max(attempts) FROM txb.failed WHERE group_name = %s", group.name) > attempts + 20)
    assert pinned() == 0
    group.mend()
    group.wait(lambda: not group.failed("retrying"))


def test_a_forced_job_started_twice_applies_everything_once_more_and_not_twice(world, groups, tally):
    expected = history(world)
    group = groups(topics=world.bank.topics, then=PUBLISHES, start="beginning")
    group.worker()
    group.wait(lambda: group.total("applied") == len(expected))
    options = {"name": f"{group.name} again", "forced": True, "seq_to": group.watermark() + 1, "rate_max": 1000}
    job = group.job(**options)
    assert not job.existed
    job.wait_more(200)
    same = group.job(**options)
    assert same.existed and same.number == job.number
    kill_owner(group, job, tally)
    job.wait_more(200)
    job.rate(None)
    job.wait()
    assert job.counts() == (len(expected), len(expected), 0, 0)
    report = group.check(expected, times=2)
    assert report, report
    # What the handler publishes is published once more too, under ids of their own.
    made = group.query("SELECT id::text, convert_from(payload, 'UTF8')::jsonb->>'of' FROM txb.outbox WHERE headers->>'who' = %s", group.name)
    assert len({identity for identity, _ in made}) == len(made)
    assert collections.Counter(of for _, of in made) == {message.id: 2 for message in expected}
    assert group.job(**options).existed
    assert group.job(**{**options, "name": f"{group.name} once more"}).wait().sum("applied") == len(expected)


@pytest.mark.parametrize("decision,forced", [("retry", False), ("retry", True), ("edit", False)])
def test_a_key_that_live_holds_takes_the_replayed_messages_behind_it(decision, forced, world, groups):
    group = groups(start="nowhere")
    group.publish([(f"k{k}", n) for n in range(5) for k in range(10)])
    group.register()
    group.break_it(("k7", 100))
    group.worker(retry={"first_ms": 20, "cap_ms": 100, "attempts_max": 2})
    live = group.publish([("k7", 100), ("k7", 101), ("k3", 100)])
    group.wait(lambda: group.states() == {"dead": 1, "held": 1} and group.numbers_of("k3") == [100])
    job = group.job(forced=forced).wait()
    # k7 is 5 old ones, and the two that are here already: the same again where it is forced, else nothing more.
    behind = 8 if forced else 6
    assert job.moved() == 7 and job.counts() == ((46, 46, 0, 0) if forced else (46, 45, 1, 0))
    assert group.states() == {"dead": 1, "held": behind}
    assert group.query("SELECT DISTINCT partition >= 0, run FROM txb.failed WHERE group_name = %s AND state = 'held' ORDER BY 2", group.name) == (
        [(True, 0), (True, job.number)] if forced else [(True, 0)])
    assert group.numbers_of("k7") == []
    for k in (0, 1, 2, 3, 4, 5, 6, 8, 9):
        assert [n for n in group.numbers_of(f"k{k}") if n < 100] == [0, 1, 2, 3, 4]
    group.publish([("k7", 102)])
    group.wait(lambda: group.states() == {"dead": 1, "held": behind + 1})
    head = group.failed("dead")
    expected, first = {message.id: message for message in group.published}, 100
    if decision == "retry":
        group.mend()
        assert group.query("SELECT done FROM txb.failed_retry(%s, 'test')", head) == [(True,)]
    else:
        new = group.edit(head[0], 1000)
        expected[new] = expected.pop(live[0].id)._replace(id=new, n=1000)
        first = 1000
    new = group.publish([("k7", 103)])[0]  # its worker looks at once
    expected[new.id] = new
    group.wait(lambda: set(group.states()) == {"resolved"} and group.numbers_of("k7")[-1] == 103)
    again = [100, 101] if forced else []
    assert group.numbers_of("k7") == [first, 101, 0, 1, 2, 3, 4, *again, 102, 103]
    if not forced:
        report = group.check(list(expected.values()), order=False)
        assert report, report
    assert group.look() and group.value("SELECT sum(held) FROM txb.consumer_offset WHERE group_name = %s", group.name) == 0


def test_what_fails_in_a_lane_is_retried_edited_and_discarded_there(world, groups):
    group = groups(start="nowhere")
    messages = group.publish([(f"k{k}", n) for n in range(6) for k in range(8)] + [(None, 0), (None, 1)])
    group.register()
    group.break_it(("k1", 2), ("k2", 3), ("k3", 1), ("k4", 5), (None, 1))
    group.worker(retry={"first_ms": 20, "cap_ms": 100, "attempts_max": 2})
    job = group.job()
    group.wait(lambda: group.states() == {"dead": 5, "held": 3 + 2 + 4})
    job.wait().wait_left()
    assert job.counts() == (50, 50 - 14, 0, 14) and job.moved() == 0
    assert group.query("SELECT count(*) FROM txb.failed AS f JOIN txb.job_lane AS l ON f.partition = -l.lane AND f.topic = l.topic"
                       " WHERE l.job = %s AND f.run = 0 AND f.attempts = CASE f.state WHEN 'dead' THEN 2 ELSE 0 END", job.number) == [(14,)]
    assert {row[0] for row in group.query("SELECT \"offset\" FROM txb.failed WHERE group_name = %s", group.name)} <= {
        row[0] for row in world.postgres.query(world.bank.source, "SELECT seq FROM txb.outbox WHERE topic = %s", (group.topics[0],))}
    of = {(key, n): number for number, key, n in group.query(
        "SELECT number, txb.key_text(key), (convert_from(payload, 'UTF8')::jsonb->>'n')::int FROM txb.failed WHERE state = 'dead' AND group_name = %s", group.name)}
    group.mend()
    with world.target_postgres.session(world.bank.target, autocommit=False) as session, session.cursor() as cursor:
        cursor.execute("SELECT done, new_id::text FROM txb.failed_edit(%s, '{\"n\": 33}', 'application/json', NULL, 'test')", (of["k2", 3],))
        done, new = cursor.fetchone()
        cursor.execute("SELECT done FROM txb.failed_discard(%s, 'test', 'a test') UNION ALL SELECT done FROM txb.failed_retry(%s, 'test')",
                       ([of["k3", 1]], [of["k1", 2], of["k4", 5], of[None, 1]]))
        assert done and cursor.fetchall() == [(True,)] * 4
        session.commit()
    group.wait(lambda: set(group.states()) == {"resolved", "discarded"})
    assert group.numbers_of("k2") == [0, 1, 2, 33, 4, 5] and group.numbers_of("k3") == [0, 2, 3, 4, 5]
    assert job.counts() == (50, 49, 0, 1)
    expected = [message for message in messages if (message.key, message.n) not in (("k2", 3), ("k3", 1))]
    edited = next(message for message in messages if (message.key, message.n) == ("k2", 3))
    report = group.check(expected + [edited._replace(id=new)])
    assert report, report


def test_what_fails_at_first_is_applied_in_order_though_its_workers_are_killed(world, groups, tally):
    expected = history(world)
    group = groups(topics=world.bank.topics, then=FLAKY)
    group.worker()
    group.worker()
    job = group.job(rate_max=1000)
    for _ in range(2):
        job.wait_more(100)
        kill_owner(group, job, tally)
    job.rate(None)
    job.wait()
    group.wait(lambda: set(group.states()) == {"resolved"})
    assert job.counts() == (len(expected), len(expected), 0, 0)
    report = group.check(expected)
    assert report, report


def test_a_message_that_kills_its_worker_in_a_lane_is_dead_and_the_rest_applied(world, groups):
    group = groups(start="nowhere")
    group.publish([("poison" if n == 25 else f"k{n % 4}", n) for n in range(60)])
    group.register()
    plugin = {"kind": "plugin", "path": build_plugin("bank_plugin.c")}
    deaths = 0

    def start():
        group.worker(handler={**plugin, "argument": "die"}, batch_messages=5).expected = False

    def applied():
        return group.query("SELECT count(*), count(DISTINCT id) FROM bank.applied WHERE topic = %s", group.topics[0])[0]

    def all_but_poison():
        nonlocal deaths
        if not group.running():
            assert group.programs[-1].process.returncode == -11, group.programs[-1].text()
            deaths += 1
            group.kill(group.programs[-1])
            start()
        return applied()[0] == 59 and group.states() == {"dead": 1}

    start()
    job = group.job()
    group.wait(all_but_poison, 120)
    job.wait()
    assert group.query("SELECT error_class FROM txb.failed WHERE group_name = %s", group.name) == [("crash",)] and 2 <= deaths <= 4
    assert job.counts() == (60, 59, 0, 1)
    group.kill()
    group.worker(handler=plugin)
    assert group.query("SELECT done FROM txb.failed_retry(%s, 'test')", group.failed("dead")) == [(True,)]
    group.wait(lambda: applied() == (60, 60))


def test_live_and_replayed_messages_of_a_key_exclude_each_other(world, groups):
    """The handler reads and writes without a lock; two workers, a lane that is at work all the while that live messages come."""
    keys = [f"k{k}" for k in range(4)]
    group = groups(then=COUNTS, start="nowhere")
    group.publish([(key, n) for n in range(200) for key in keys])
    group.register()
    group.query("INSERT INTO bank.counter (who, key) SELECT %s, k FROM unnest(%s) AS k", group.name, keys)
    workers = [group.worker(batch_messages=20) for _ in range(2)]
    group.wait(lambda: all("partition taken" in worker.text() for worker in workers))
    job = group.job(rate_max=300)
    job.wait_more(1)
    for part in range(200, 300, 20):
        group.publish([(key, n) for n in range(part, part + 20) for key in keys])
        job.wait_more(1)
    job.rate(None)
    job.wait()
    group.wait(lambda: group.total("applied") == 300 * len(keys))
    assert group.query("SELECT DISTINCT value FROM bank.counter WHERE who = %s", group.name) == [(300,)]
    report = group.check()
    assert report, report


def test_what_was_discarded_is_left_out_and_what_was_edited_stands_in_its_place(world, groups):
    group = groups(start="nowhere")
    topic, source = group.topics[0], world.bank.source
    world.kafka.configure_topic(topic, max_message_bytes=50_000)
    with world.postgres.session(source, user="txbtest_app") as connection, connection.cursor() as cursor:
        for key, n, extra in [("a", 0, ""), ("a", 1, "big"), ("a", 2, ""), ("b", 0, ""), ("b", 1, "big"), ("b", 2, ""), (None, 0, ""), (None, 1, "big"),
                              ("c", 0, "strict"), ("c", 1, "strict"), ("c", 2, "strict"), ("d", 0, "later"), (None, 2, "later"), ("e", 0, "")]:
            cursor.execute("SELECT txb.publish(%s, %s, 'note.made', convert_to(%s, 'UTF8'), content_type => 'application/json', strict_order => %s,"
                           " not_before => CASE WHEN %s THEN clock_timestamp() + interval '100 ms' END)",
                           (topic, key, json.dumps({"n": n, "pad": "x" * 100_000 if extra == "big" else ""}), extra == "strict", extra == "later"))
    refused = "SELECT number, txb.key_text(key) FROM txb.failed WHERE topic = %s AND state = 'dead' ORDER BY seq"
    process.wait_for(lambda: len(world.postgres.query(source, refused, (topic,))) == 3, world.lag, 60, alive=world.alive)
    decisions = {"a": ("discard", None), "b": ("edit", b'{"n": 11}'), None: ("edit", b'{"n": 21}')}
    for number, key in world.postgres.query(source, refused, (topic,)):
        action, payload = decisions[key]
        assert world.postgres.query(source, "SELECT txb.outbox_decide(%s, %s, %s, %s, NULL, 'test', 'a test')",
                                    (number, action, payload, payload and "application/json")) == [(None,)]
    process.wait_for(lambda: world.postgres.query(source, "SELECT 1 FROM txb.failed WHERE topic = %s AND state IN ('dead', 'retrying')", (topic,)) == []
                     and world.postgres.query(source, "SELECT 1 FROM txb.relay_hold") == [], world.lag, 60, alive=world.alive)
    world.wait_published()
    there = {record.id: (record.key and record.key.decode(), json.loads(record.value)["n"]) for record in read_topic(world.brokers, topic)}
    assert sorted(n for key, n in there.values() if key in ("a", "b")) == [0, 0, 2, 2, 11] and len(there) == 13
    group.register()
    group.worker()
    job = group.job().wait()
    assert job.counts() == (13, 13, 0, 0)
    assert {note.id: (note.key, note.n) for note in group.notes()} == there and len(group.notes()) == 13
    for key in "abcde":
        assert group.numbers_of(key) == [n for k, n in there.values() if k == key]


def test_a_message_through_kafka_and_by_replay_is_the_same(world, groups):
    live = groups()
    live.worker()
    later = groups(topics=live.topics, start="nowhere")
    with world.postgres.session(world.bank.source, user="txbtest_app") as connection, connection.cursor() as cursor:
        for key, body, content_type, headers in [
                ("k", b'{"n": 1}', "application/json", None), (None, b'{"n":2}', "application/json", {"a": "b"}), ("", b"{}", "application/json", {}),
                ("Zoë/✓", '{"n": 3, "t": "ü"}'.encode(), "application/json; charset=utf-8", {"who": "Zoë", "empty": "", "x-y": "1"}),
                ("k", b"\x00\xff\x01", "application/octet-stream", {"n": "4"}), ("k", b"", "text/plain", None), ("k" * 500, b'{"n": 5}', None, None)]:
            cursor.execute("SELECT txb.publish(%s, %s, 'note.made', %s::bytea, headers => %s, content_type => %s)",
                           (live.topics[0], key, body, None if headers is None else json.dumps(headers), content_type))
        cursor.execute("SELECT txb.publish(%s, 'j', 'note.json', '{\"n\": 6, \"deep\": [1, {\"a\": null}]}'::jsonb)", (live.topics[0],))
        cursor.execute("INSERT INTO txb.outbox (topic, key, type, payload, content_type) VALUES (%s, 'i', 'note.none', NULL, NULL)", (live.topics[0],))
    world.wait_published()
    live.wait(lambda: live.total("applied") == 9)
    later.register()
    later.worker()
    assert later.job().wait().counts() == (9, 9, 0, 0)
    whole = ("SELECT (m).id::text, (m).source, (m).topic, (m).key, (m).type, (m).time, (m).payload, (m).content_type, (m).headers, (m).attempt"
             " FROM bank.note WHERE who = %s ORDER BY ord")
    for one, other in zip(sorted(live.query(whole, live.name)), sorted(later.query(whole, later.name)), strict=True):
        assert [bytes(value) if isinstance(value, memoryview) else value for value in one] == [
            bytes(value) if isinstance(value, memoryview) else value for value in other]
    places = later.query("SELECT DISTINCT -(m).partition FROM bank.note WHERE who = %s", later.name)
    assert {row[0] for row in places} == later.jobs[0].lanes


def test_a_worker_without_the_source_says_so_and_leaves_the_lane_to_another(world, groups):
    group = groups(start="nowhere")
    group.publish([("k", n) for n in range(10)])
    group.register()
    group.worker(sources=[{"name": "elsewhere", "database": world.postgres.uri(world.bank.source, "txbtest_relay")}])
    job = group.job()
    group.wait(lambda: "sources." in (group.value("SELECT max(last_error) FROM txb.job_lane WHERE job = %s", job.number) or ""))
    assert world.name in group.value("SELECT max(last_error) FROM txb.job_lane WHERE job = %s", job.number)
    group.worker()
    assert job.wait().counts() == (10, 10, 0, 0)


def test_a_projection_is_rebuilt_and_goes_live_without_a_gap_or_a_double(systems, postgres, kafka, seed, tally):
    """The guide of the projection: writers go on, the worker dies in the rebuild, and at the end the projection is what the source says. The relay's stored
    position is far behind what it has published: who takes it for the end of what Kafka holds leaves a gap."""
    system = systems(postgres, kafka, topics=2, accounts=40, relay={"checkpoint_ms": 1000}, worker=WORKER)
    system.relay("relay")
    Writers(system.bank, 4, seed, QUICK, operations=30, user="txbtest_app").start().join()
    system.bank.bulk(1200, 300)
    group = Group(system, topics=system.bank.topics, name=system.group, function="bank.apply", start="nowhere")
    with Writers(system.bank, 4, seed + 1, {**QUICK, "held": 3}, pause_s=0.01, held_s=0.2, user="txbtest_app"):
        job = group.job(then_live=True, rate_max=700)
        group.worker()
        for _ in range(2):
            job.wait_more(200)
            assert group.value("SELECT count(*) FROM txb.consumer_offset WHERE group_name = %s AND partition >= 0", group.name) == 0
            kill_owner(group, job, tally)
        group.worker()
        job.rate(None)
        job.wait()
        lanes = job.sum("consumed")
        group.wait(lambda: group.total("consumed") > lanes + 100)  # live, by Kafka
    system.wait_rest()
    report = system.verify(latest=True)
    assert report, report
    group.look()


def test_a_rebuild_waits_for_what_is_dead_and_holds_its_key(world, groups):
    """Live messages of that key would overtake it."""
    group = groups(start="nowhere")
    group.publish([(f"k{k}", n) for n in range(4) for k in range(4)])
    group.break_it(("k1", 2))
    job = group.job(then_live=True)
    worker = group.worker(retry={"first_ms": 20, "cap_ms": 100, "attempts_max": 2})
    group.wait(lambda: group.states() == {"dead": 1, "held": 1} and job.sum("consumed") == 16)
    group.publish([("k1", 4), ("k2", 4)])
    group.wait(lambda: group.numbers_of("k2") == [0, 1, 2, 3, 4])
    group.wait(lambda: "dead" in (group.value("SELECT max(last_error) FROM txb.job_lane WHERE job = %s", job.number) or ""))
    # It may take a person days: passes go on, at a slower pace, and are not told each time.
    told, passes = worker.text().count(GOES_ON), group.value("SELECT passes FROM txb.job_lane WHERE job = %s", job.number)
    group.wait(lambda: group.value("SELECT passes FROM txb.job_lane WHERE job = %s", job.number) >= passes + 3)
    assert worker.text().count(GOES_ON) == told
    assert group.numbers_of("k1") == [0, 1] and job.state == "running"
    group.mend()
    job.pause()
    job.wait_left()
    assert group.query("SELECT done FROM txb.failed_retry(%s, 'test')", group.failed("dead")) == [(True,)]
    job.resume()  # who takes the lane looks at once
    job.wait()
    group.publish([("k1", 5)])
    group.wait(lambda: group.numbers_of("k1") == [0, 1, 2, 3, 4, 5])
    report = group.check(order=False)
    assert report, report


def test_jobs_of_two_servers_keep_their_own_pins(systems, postgres, mortal, kafka):
    """Databases of one name, jobs of one number: the end of one must not let retention have what the other has still to read."""
    system = systems(postgres, kafka, accounts=40, relay={"checkpoint_ms": 20})
    prepare(system)
    system.relay("relay")
    system.bank.bulk(600, 300)
    system.wait_published()
    twin = System(postgres, kafka, system.name, system.seed, target_postgres=mortal, accounts=40, create=False)
    try:
        twin.create_database(mortal, twin.bank.target)
        twin.create_users(mortal)
        twin.bank.create_target()
        prepare(twin)
        slow, quick = Group(system, topics=system.bank.topics), Group(twin, topics=system.bank.topics)
        slow.worker()
        quick.worker()
        slow_job, quick_job = slow.job(rate_max=20), quick.job(rate_max=300)
        assert slow_job.number == quick_job.number

        def pins():
            return postgres.value(system.bank.source, "SELECT count(*) FROM txb.outbox_pin")

        slow_job.wait_more(10)
        quick_job.wait_more(10)
        slow.wait(lambda: pins() == 2)
        quick_job.wait()
        quick.wait(lambda: pins() == 1)
        assert slow_job.state == "running"
        slow_job.rate(None)
        slow_job.wait()
        slow.wait(lambda: pins() == 0)
    finally:
        twin.close()


@pytest.mark.parametrize("dies", ["source", "target"])
def test_a_database_that_is_killed_and_comes_back_during_a_job(dies, systems, postgres, mortal, kafka, tally):
    system = systems(mortal if dies == "source" else postgres, kafka, target_postgres=mortal if dies == "target" else postgres, accounts=40,
                     relay={"checkpoint_ms": 20})
    prepare(system)
    system.relay("relay")
    system.bank.bulk(3000, 300)
    system.wait_published()
    expected = history(system)
    group = Group(system, topics=system.bank.topics)
    worker = group.worker()
    job = group.job(rate_max=300)
    for _ in range(2):
        job.wait_more(100)
        told = worker.text().count("level=warn")
        mortal.kill9()
        tally["kills"] += 1
        tally["kills at work"] += 1
        process.wait_for(lambda: worker.text().count("level=warn") > told, lambda: f"the outage to be told:\n{worker.text()}", 60, alive=worker.alive)
        mortal.start()
    job.rate(None)
    job.wait()
    assert job.counts() == (len(expected), len(expected), 0, 0)
    report = group.check(expected)
    assert report, report


def test_a_source_that_was_set_back_below_the_position_stops_the_lane(systems, postgres, mortal, kafka):
    """Its numbers are drawn again, for other messages: read on from the position, those below it would never be run and nobody told (W9, for an outbox)."""
    system = systems(mortal, kafka, target_postgres=postgres, accounts=40, relay={"checkpoint_ms": 20})
    prepare(system)
    system.relay("relay")
    system.bank.bulk(100, 100)
    system.wait_published()
    backup = mortal.basebackup()
    system.bank.bulk(2900, 300)
    system.wait_published()
    group = Group(system, topics=system.bank.topics, start="nowhere")
    worker = group.worker()
    job = group.job(then_live=True, rate_max=500)
    group.wait(lambda: job.handled() > 300)
    worker.kill9()
    mortal.stop("immediate")
    mortal.adopt(backup)
    mortal.start()
    system.bank.bulk(4000, 400)
    system.wait_published()
    handled = job.handled()
    job.rate(None)
    worker = group.worker()
    worker.wait_line("level=(error|warn).*restored or made anew")
    assert (job.state, job.handled()) == ("running", handled)
    assert "restored or made anew" in group.value("SELECT last_error FROM txb.consumer_offset WHERE partition < 0 AND group_name = %s", group.name)
