"""txbroker replay that reads topics of a real Kafka, or writes to a topic; without a running worker: what one would leave is made by SQL."""

import json
import re

import pytest
from confluent_kafka import Producer

from txbtest import process
from txbtest.program import FAILED, KAFKA_GONE, USAGE, Program, command

NUMBERS = iter(range(1000))
HOUR_MS = 3_600_000
START_MS = 1_750_000_000_000  # 2025-06-15T15:06:40Z


@pytest.fixture(scope="module")
def template(postgres):
    name = postgres.create_database("replay_topics")
    assert command("-d", postgres.uri(name), "init", "--set", "relay.partition_rows=1000")[0] == 0
    return name


class Desk:
    """A group of two topics, its database, and the commands on them."""

    def __init__(self, postgres, kafka, template, directory):
        self.postgres, self.kafka, number = postgres, kafka, next(NUMBERS)
        self.ledger = postgres.create_database(f"replay_topics_{number}", template)
        self.orders, self.payments, self.archive = (f"{name}.{number}" for name in ("orders", "payments", "archive"))
        for topic, partitions in ((self.orders, 2), (self.payments, 1), (self.archive, 1)):
            kafka.create_topic(topic, partitions, retention_ms=-1)  # the messages say that they are old
        self.config = f"{directory.path}/txbroker.json"
        settings = {"kafka": {"brokers": kafka.brokers},
                    "workers": [{"group": "ledger", "topics": [self.orders, self.payments], "database": postgres.uri(self.ledger), "handler": {"function": "f"}}]}
        with open(self.config, "w", encoding="utf-8") as file:
            json.dump(settings, file)
        self.book("INSERT INTO txb.consumer_offset (group_name, topic, partition, next_offset, epoch) SELECT 'ledger', t, p, 0, 1"
                  " FROM unnest(%s::text[], ARRAY[0, 1, 0]) AS u (t, p)", [self.orders, self.orders, self.payments])

    def book(self, sql, *args):
        return self.postgres.query(self.ledger, sql, args or None)

    def produce(self, topic, count, partition=0, at_ms=START_MS, step_ms=1000, key="k%d", **headers):
        """Foreign messages, numbered; returns nothing before all are there."""
        producer = Producer({"bootstrap.servers": self.kafka.brokers, "linger.ms": 5, "log_level": 0, "queue.buffering.max.messages": 1_000_000})
        for n in range(count):
            producer.produce(topic, f"{n}", None if key is None else key % (n % 3) if isinstance(key, str) else key, partition,
                             timestamp=at_ms + n * step_ms, headers=headers or None)
            producer.poll(0)
        assert producer.flush(60) == 0

    def run(self, *args, config=None, **more):
        return command("-c", config or self.config, *args, **more)

    def ok(self, *args, **more):
        code, out, err = self.run(*args, **more)
        assert code == 0 and err == "", f"exit {code}\n{out}{err}"
        return out

    def json(self, *args, **more):
        return json.loads(self.ok("-o", "json", *args, **more))

    def start(self, *args):
        return self.json("replay", "start", "--group", "ledger", "--kafka", "--yes", *args)

    def plan(self, *args):
        return self.json("replay", "plan", "--group", "ledger", "--kafka", *args)

    def contents(self):
        return [self.book(f"SELECT * FROM txb.{table} ORDER BY 1, 2, 3") for table in ("job", "job_lane", "consumer_offset", "audit")]

    def refused(self, code, words, *args, **more):
        """One line on standard error with these words, nothing on standard output, and nothing changed."""
        before = self.contents()
        got, out, err = self.run(*args, **more)
        assert got == code and out == "", f"exit {got}\n{out}{err}"
        assert err.count("\n") == 1 and len(err) < 700, err
        for word in [words] if isinstance(words, str) else words:
            assert word in err, f"{word} is not in {err}"
        assert self.contents() == before
        return err

    def lanes(self, job):
        return self.book("SELECT topic, from_partition, seq_from, seq_to FROM txb.job_lane WHERE job = %s ORDER BY lane", job)

    def let_retention_take(self, topic, partition=0):
        """All that is there; what is produced afterwards stays. Returns the first offset of that."""
        end = self.kafka.ends(topic)[partition][1]
        self.kafka.configure_topic(topic, retention_ms=1)
        process.wait_for(lambda: self.kafka.ends(topic)[partition][0] == end, "retention to take the messages", 60)
        self.kafka.configure_topic(topic, retention_ms=-1)
        return end


@pytest.fixture
def desk(postgres, kafka, template):
    directory = process.TempDir("replay-topics")
    yield Desk(postgres, kafka, template, directory)
    directory.remove()


# -- what a range means ------------------------------------------------------------------------------------------------------------------


def test_a_job_has_the_offsets_that_kafka_has_at_its_start(desk):
    desk.produce(desk.orders, 5)
    desk.produce(desk.orders, 3, partition=1)
    answer = desk.start("--reason", "lost")
    assert (answer["existed"], answer["source"], answer["to_topic"]) == (False, None, None)
    assert desk.lanes(answer["number"]) == [(desk.orders, 0, 0, 5), (desk.orders, 1, 0, 3)], "payments hold nothing"
    assert desk.book("SELECT source, cluster_id, topics, run FROM txb.job") == [(None, desk.kafka.cluster_id, [desk.orders, desk.payments], 0)]
    desk.produce(desk.orders, 1)
    desk.refused(FAILED, [f"another job of group \"ledger\" is at work on topic \"{desk.orders}\"", "replay cancel"],
                 "replay", "start", "--group", "ledger", "--kafka", "--yes")
    text = desk.ok("replay", "cancel", str(answer["number"]), "--group", "ledger", "--reason", "enough")
    assert "is cancelled" in text


def test_offsets_of_one_partition(desk):
    desk.produce(desk.orders, 9, partition=1)
    one = ("--topic", desk.orders, "--partition", "1")
    number = desk.start(*one, "--from", "2", "--to", "7")["number"]
    assert desk.lanes(number) == [(desk.orders, 1, 2, 7)] and desk.book("SELECT partitions FROM txb.job") == [([1],)]
    command_line = ("replay", "start", "--group", "ledger", "--kafka", "--yes", *one)
    desk.refused(USAGE, ["--to 10 lies above the end", "gets offset 9"], *command_line, "--to", "10")
    desk.refused(USAGE, ["--from 10 lies above the end", "gets offset 9"], *command_line, "--from", "10")
    desk.refused(USAGE, ["nothing lies from 9 to now", "correct --from and --to, or leave them out"], *command_line, "--from", "9")
    desk.refused(USAGE, "nothing lies from 5 to 5", *command_line, "--from", "5", "--to", "5")
    desk.refused(USAGE, ["has 2 partitions, numbered from 0: there is no 2; correct --partition"], *command_line, "--partition", "2")
    desk.refused(USAGE, f"topic {desk.payments} has 1 partition, numbered from 0: there is no 1; correct --partition",
                 "replay", "plan", "--group", "ledger", "--kafka", "--topic", desk.payments, "--partition", "1")
    for option, word in (("--from", "beginning"), ("--to", "now")):
        desk.refused(USAGE, f'{option}: "soon" is no time: give one like 2026-01-31T12:00:00Z, an offset, or {word}', *command_line, option, "soon")


def test_times_become_offsets_when_the_job_starts(desk):
    desk.produce(desk.orders, 10)
    desk.produce(desk.orders, 10, partition=1, at_ms=START_MS + 5500)
    number = desk.start("--from", "2025-06-15T15:06:43.2Z", "--to", "2025-06-15T15:06:47Z")["number"]
    assert desk.lanes(number) == [(desk.orders, 0, 4, 7), (desk.orders, 1, 0, 2)]
    assert desk.book("SELECT time_from::text, seq_from FROM txb.job") == [("2025-06-15 15:06:43.2+00", None)]
    desk.refused(USAGE, "nothing lies from 2025-06-15T16:00:00Z to now", "replay", "plan", "--group", "ledger", "--kafka", "--from", "2025-06-15T16:00:00Z")
    desk.refused(USAGE, "lies in the time to come", "replay", "plan", "--group", "ledger", "--kafka", "--to", "2999-01-01")


def test_what_retention_took_is_told_with_the_oldest_that_is_there(desk):
    desk.produce(desk.orders, 4, at_ms=START_MS - HOUR_MS)
    first = desk.let_retention_take(desk.orders)
    desk.produce(desk.orders, 6, at_ms=START_MS)
    assert first == 4
    line = ("replay", "start", "--group", "ledger", "--kafka", "--yes", "--topic", desk.orders)
    texts = [f"lies before what Kafka still has of topic {desk.orders}, partition 0", "oldest message has offset 4, of 2025-06-15T15:06:40Z", "--from beginning"]
    desk.refused(USAGE, ["--from 3 ", *texts], *line, "--partition", "0", "--from", "3")
    desk.refused(USAGE, ["--from 2025-06-15T15:06:39Z ", *texts], *line, "--from", "2025-06-15T15:06:39Z")
    assert desk.plan("--topic", desk.orders, "--from", "2025-06-15T15:06:40Z")["messages"] == 6, "nothing that was taken is as young"
    assert desk.plan("--topic", desk.orders, "--from", "2025-06-15T15:06:42Z")["messages"] == 4
    assert desk.plan("--topic", desk.orders, "--partition", "0", "--from", "4")["messages"] == 6
    number = desk.start("--topic", desk.orders, "--from", "beginning")["number"]
    assert desk.lanes(number) == [(desk.orders, 0, 4, 10)]


def test_a_topic_that_is_not_there_is_refused(desk):
    desk.refused(USAGE, "has no topic nowhere: create it, or correct --topic", "replay", "plan", "--group", "ledger", "--kafka", "--to-topic", desk.archive, "--topic", "nowhere")
    desk.refused(USAGE, ["takes no topic", desk.archive], "replay", "plan", "--group", "ledger", "--kafka", "--topic", desk.archive)
    desk.refused(USAGE, f"nothing lies from the beginning to now in topic {desk.orders} and the others", "replay", "plan", "--group", "ledger", "--kafka")


def test_a_topic_to_write_to_must_be_there(desk):
    desk.produce(desk.orders, 1)
    desk.book("INSERT INTO txb.relay (source, highest, watermark, epoch) VALUES ('here', 1, 1, 1)")
    desk.book("SELECT txb.publish('any', 'k', 'made', '1')")
    outbox = ("-d", desk.postgres.uri(desk.ledger), "--brokers", desk.kafka.brokers)
    for words in (("plan",), ("start", "--yes")):
        desk.refused(USAGE, f"Kafka at {desk.kafka.brokers} has no topic nowhere: create it, or correct --to-topic", "replay", *words, "--group", "ledger", "--kafka", "--to-topic", "nowhere")
        desk.refused(USAGE, "has no topic nowhere: create it, or correct --to-topic", *outbox, "replay", *words, "--group", "ledger", "--source", "here", "--topic", "any", "--to-topic", "nowhere")
    desk.refused(USAGE, ['source "here" holds nothing of topic an from the beginning to now', "correct --topic"],
                 *outbox, "replay", "start", "--yes", "--group", "ledger", "--source", "here", "--topic", "an", "--to-topic", desk.archive)
    desk.ok(*outbox, "replay", "start", "--yes", "--group", "ledger", "--source", "here", "--topic", "any", "--to-topic", desk.archive)
    with open(desk.config, encoding="utf-8") as file:
        settings = json.load(file) | {"sources": [{"name": "here", "database": desk.postgres.uri(desk.ledger)}]}
    with open(desk.config, "w", encoding="utf-8") as file:
        json.dump(settings, file)
    plan = desk.json("replay", "plan", "--group", "ledger", "--to-topic", desk.archive)
    assert plan["messages"] == 0, "a topic that nobody named may hold nothing"


def test_kafka_that_is_away_is_told(desk):
    desk.produce(desk.orders, 1)
    nobody = ("--set", f"kafka.brokers=127.0.0.1:{process.free_port()}")
    desk.refused(KAFKA_GONE, "127.0.0.1", "replay", "plan", "--group", "ledger", "--kafka", *nobody)
    desk.refused(KAFKA_GONE, "127.0.0.1", "replay", "start", "--group", "ledger", "--kafka", "--yes", *nobody)


def test_a_range_older_than_the_inbox_remembers_is_refused(desk):
    desk.produce(desk.orders, 3)
    desk.book("UPDATE txb.inbox_state SET horizon = '2025-06-16 00:00:00+00'")
    line = ("replay", "start", "--group", "ledger", "--kafka", "--yes")
    desk.refused(USAGE, ["remembers what was applied since 2025-06-16T00:00:00Z", "--from 2025-06-16T00:00:00Z, or --force"], *line)
    plan = desk.plan()
    assert plan["forgotten"] == 3 and "remembers what was applied since" in plan["would_refuse"] and plan["remembers_since"].startswith("2025-06-16T00:00:00")
    assert "\nreplay start would refuse this: the inbox of group ledger remembers" in desk.ok("replay", "plan", "--group", "ledger", "--kafka")
    desk.ok(*line, "--force", "--reason", "on purpose")


def test_a_filter_that_means_nothing_of_kafka_is_refused(desk):
    line = ("replay", "start", "--group", "ledger", "--kafka", "--yes")
    desk.produce(desk.orders, 3)
    desk.produce(desk.orders, 2, partition=1, ce_specversion="1.0", ce_id="x", ce_source="s", ce_type="made")
    desk.produce(desk.payments, 1)
    for options, words in ((("--key", "nosuch"), [f'Kafka holds nothing of topic "{desk.orders}" or "{desk.payments}", key "nosuch" from the beginning to now: correct --key, or']),
                           (("--key", "k2", "--type", "made"), [', key "k2", type "made" from', "correct --key or --type, or leave them out"]),
                           (("--key", "k2", "--partition", "1", "--topic", desk.orders), ["correct --topic, --key or --partition"])):
        told = desk.refused(USAGE, words, *line, *options)
        plan = desk.plan(*options)
        assert plan["messages"] == 0 and f"txbroker: {plan['would_refuse']}\n" == told
    desk.ok(*line, "--key", "k1", "--type", "made", "--name", "one")
    desk.ok(*line, "--key", "k1", "--type", "made", "--name", "one")
    assert desk.plan("--key", "k1", "--name", "one")["would_refuse"] is None


def test_what_is_not_meant_does_not_matter_to_the_inbox(desk):
    desk.produce(desk.orders, 3, key="old%d")
    desk.produce(desk.orders, 3, at_ms=START_MS + 48 * HOUR_MS)
    desk.produce(desk.orders, 1, partition=1, key="old%d")
    desk.book("UPDATE txb.inbox_state SET horizon = '2025-06-16 00:00:00+00'")
    line = ("replay", "start", "--group", "ledger", "--kafka", "--yes")
    desk.refused(USAGE, "remembers what was applied since", *line, "--key", "old1")
    assert desk.plan("--key", "k1")["would_refuse"] is None
    desk.ok(*line, "--key", "k1")


def test_copies_that_an_inbox_no_longer_remembers_are_told(desk):
    desk.produce(desk.orders, 3)
    desk.produce(desk.orders, 2, at_ms=START_MS + 48 * HOUR_MS)
    desk.book("INSERT INTO txb.relay (source, highest, watermark, epoch) VALUES ('here', 2, 2, 1)")
    desk.book("SELECT txb.publish('any', 'k', 'made', '1')")
    desk.book("SELECT txb.outbox_copy('any', '01900000-0000-7000-8000-000000000001', NULL, NULL, NULL, NULL, '1', NULL, NULL, '{}')")
    outbox = ("-d", desk.postgres.uri(desk.ledger), "--brokers", desk.kafka.brokers, "replay", "plan", "--group", "ledger", "--source", "here", "--topic", "any", "--to-topic", desk.archive)
    assert desk.plan("--to-topic", desk.archive)["forgotten"] == 0
    desk.book("UPDATE txb.inbox_state SET horizon = '2025-06-16 00:00:00+00'")
    plan = desk.plan("--to-topic", desk.archive)
    assert (plan["forgotten"], plan["known"], plan["would_refuse"]) == (3, 0, None)
    told = "older than 2025-06-16T00:00:00Z: groups of databases whose inbox forgets what was before that will refuse"
    assert f"3  are {told}" in desk.ok("replay", "plan", "--group", "ledger", "--kafka", "--to-topic", desk.archive)
    assert desk.json(*outbox)["forgotten"] == 1 and f"1  are {told}" in desk.ok(*outbox)
    code, out, err = desk.run("replay", "start", "--yes", "--group", "ledger", "--kafka", "--to-topic", desk.archive)
    assert code == 0 and told in err and f"writes its messages to the outbox for topic {desk.archive}" in out
    desk.book("UPDATE txb.outbox SET created_at = '2025-06-01'")
    code, out, err = desk.run(*[word if word != "plan" else "start" for word in outbox], "--yes")
    assert code == 0 and told in err


def test_a_plan_tells_what_a_start_would_refuse(desk):
    desk.produce(desk.archive, 1)
    desk.produce(desk.orders, 1)
    line = ("replay", "plan", "--group", "ledger", "--kafka")
    copy = ("--topic", desk.archive, "--to-topic", desk.archive)
    assert "no relay has served this database" in desk.plan(*copy)["would_refuse"]
    assert "\nreplay start would refuse this: no relay has served this database: intents written here would not be published; " in desk.ok(*line, *copy)
    assert desk.plan()["would_refuse"] is None and "refuse" not in desk.ok(*line)
    number = desk.start("--name", "n")["number"]
    assert f"job {number} (\"n\") is running" in desk.plan()["would_refuse"]
    assert f"replay start would refuse this: another job of group \"ledger\" is at work on topic \"{desk.orders}\"" in desk.ok("replay", "start", "--dry-run", *line[2:])
    assert desk.plan("--name", "n")["would_refuse"] is None, "a start finds it"
    desk.ok("replay", "cancel", str(number), "--group", "ledger", "--reason", "x")
    desk.book("DELETE FROM txb.consumer_offset WHERE topic = %s", desk.orders)
    assert "has no position in topic" in desk.plan()["would_refuse"]


# -- the plan ------------------------------------------------------------------------------------------------------------------------------


def test_a_plan_reads_the_range_and_changes_nothing(desk):
    own = "0190163d-8694-739b-aea5-966c26f8ad91"
    desk.produce(desk.orders, 6)
    desk.produce(desk.orders, 1, partition=1, ce_specversion="1.0", ce_id=own, ce_source="s", ce_type="made")
    desk.produce(desk.payments, 2, key=b"\xff\x00", ce_specversion="1.0", ce_id="x", ce_source="s", ce_type="paid")
    desk.produce(desk.payments, 1, key=None)
    desk.book("INSERT INTO txb.inbox (group_name, message_id) VALUES ('ledger', %s), ('other', txb.uuid_v7())", own)
    desk.book("""INSERT INTO txb.failed (side, state, group_name, topic, partition, "offset", key, id, attempts, place, holds)
                 VALUES ('consumer', 'dead', 'ledger', %s, 0, 0, 'k1', txb.uuid_v7(), 8, 0, true)""", desk.orders)
    before = desk.contents()
    plan = desk.plan()
    assert (plan["messages"], plan["known"], plan["behind_held"], plan["held_keys"], plan["forgotten"]) == (10, 1, 2, 1, 0)
    assert (plan["estimated"], plan["span"], plan["looked_at"], plan["source"]) == (False, 10, 10, None)
    assert (plan["cluster_id"], plan["seq_from"], plan["seq_to"], plan["dry_run"]) == (desk.kafka.cluster_id, None, None, True)
    assert plan["by_topic"] == [{"value": desk.orders, "messages": 7}, {"value": desk.payments, "messages": 3}]
    assert plan["by_type"] == [{"value": None, "messages": 7}, {"value": "paid", "messages": 2}, {"value": "made", "messages": 1}]
    keys = [("k0", 3), ("\\xff00", 2), ("k1", 2), ("k2", 2), (None, 1)]
    assert [(row["value"], row["messages"]) for row in plan["by_key"]] == sorted(keys, key=lambda key: (-key[1], key[0] or "")) and plan["key_count"] == 4
    assert plan["lanes"][0] == {"topic": desk.orders, "from_partition": 0, "seq_from": 0, "seq_to": 6}
    assert plan["first_at"].startswith("2025-06-15T15:06:40")
    text = desk.ok("replay", "plan", "--group", "ledger", "--kafka")
    for line in ("would replay 10 messages of Kafka into group ledger", "10 offsets of 3 partitions, from 2025-06-15T15:06:40", f"{desk.orders}[1]", f"0    6  {desk.orders}[0]",
                 "1  of them the group has applied", "2  wait behind keys", "in each partition, which is assumed"):
        assert line in text, text
    assert desk.plan("--key", "k1")["messages"] == 2 and desk.plan("--type", "paid")["messages"] == 2
    assert desk.plan("--key", "nobody")["messages"] == 0
    forced = desk.json("replay", "start", "--dry-run", "--group", "ledger", "--kafka", "--force", "--reason", "x", "--rate", "5")
    assert (forced["known"], forced["estimate_ms"], forced["forced"]) == (0, 2000, True)
    desk.produce(desk.archive, 1, **{"txb-replayed": "9"})
    desk.produce(desk.archive, 2, **{"txb-replayed": "10"})
    circling = ("--topic", desk.archive, "--to-topic", desk.archive)
    assert desk.plan(*circling)["circling"] == 2
    assert "2  go into no topic" in desk.ok("replay", "plan", "--group", "ledger", "--kafka", *circling)
    copied = desk.plan("--to-topic", desk.archive)
    assert (copied["messages"], copied["known"], copied["behind_held"], copied["to_topic"]) == (10, 0, 0, desk.archive)
    assert desk.contents() == before


def test_a_plan_of_a_large_range_is_an_estimate(desk):
    desk.produce(desk.orders, 1, key=b"alone")
    desk.produce(desk.orders, 149_999, step_ms=0)
    desk.produce(desk.orders, 50_000, partition=1, step_ms=0)
    start = ("replay", "start", "--group", "ledger", "--kafka", "--topic", desk.orders, "--yes")
    assert desk.plan("--topic", desk.orders, "--key", "nosuch")["would_refuse"] is None, "not all was looked at"
    desk.ok(*start, "--key", "nosuch")
    desk.ok("replay", "cancel", "1", "--reason", "x")
    plan = desk.plan("--topic", desk.orders)
    assert plan["estimated"] and 100_000 <= plan["looked_at"] <= 100_010 and plan["span"] == 200_000
    assert plan["messages"] == 200_000 and sum(row["messages"] for row in plan["by_key"]) == plan["looked_at"]
    assert plan["by_key"][-1] == {"value": "alone", "messages": 1} and plan["last_at"] is None
    text = desk.ok("replay", "plan", "--group", "ledger", "--kafka", "--topic", desk.orders)
    assert "would replay about 200000 messages" in text and "all of this is an estimate: 10000" in text
    assert "were looked at, from the beginning of each partition, and keys are counted among them alone" in text and " UTC on\n" in text


# -- jobs ----------------------------------------------------------------------------------------------------------------------------------


def test_the_same_name_finds_its_job_also_when_the_topic_has_grown_and_kafka_is_away(desk):
    desk.produce(desk.orders, 5)
    number = desk.start("--name", "nightly", "--from", "2025-06-15T15:06:41Z")["number"]
    desk.produce(desk.orders, 5)
    desk.produce(desk.payments, 5)
    again = ("replay", "start", "--group", "ledger", "--kafka", "--yes", "--name", "nightly", "--from", "2025-06-15T15:06:41Z",
             "--set", f"kafka.brokers=127.0.0.1:{process.free_port()}")
    answer = desk.json(*again)
    assert (answer["number"], answer["existed"]) == (number, True)
    taken = ["the name \"nightly\" is taken by a job that says something else", f"replay show {number}"]
    for other in (("--partition", "0"), ("--partition", "1"), ("--topic", desk.payments), ("--topic", desk.orders, "--partition", "0", "--to", "1"), ("--topic", desk.orders), ("--to", "2025-06-15T15:06:42Z"), ("--key", "k1"), ("--to-topic", "copies")):
        desk.refused(FAILED, taken, *again, *other)
    desk.book("INSERT INTO txb.relay (source, highest, watermark, epoch) VALUES ('here', 1, 1, 1)")
    desk.book("SELECT txb.publish(%s, 'k', 'made', '1')", desk.orders)
    desk.refused(FAILED, taken, "--database", desk.postgres.uri(desk.ledger), "replay", "start", "--group", "ledger", "--yes", "--name", "nightly", "--source", "here")


def test_a_job_of_kafka_is_shown_by_partition_and_offset(desk):
    desk.produce(desk.orders, 10)
    desk.produce(desk.orders, 10, partition=1)
    number = str(desk.start("--topic", desk.orders, "--partition", "0", "--partition", "1", "--key", "k1")["number"])
    desk.book("UPDATE txb.consumer_offset SET next_offset = 5, consumed = 2, applied = 2 WHERE partition = -1")
    text = desk.ok("replay", "show", number, "--group", "ledger")
    for line in (f"Kafka        {desk.kafka.cluster_id}", "partitions   0, 1", "offsets of each partition", "25.0 %, 5 of 20 offsets", f"{desk.orders}[1]", "keys         k1"):
        assert line in text, text
    assert "source" not in text
    shown = desk.json("replay", "show", number, "--group", "ledger")
    assert (shown["span"], shown["covered"], shown["source"], shown["cluster_id"]) == (20, 5, None, desk.kafka.cluster_id)
    assert [lane["from_partition"] for lane in shown["lanes"]] == [0, 1]
    assert re.search(rf"ledger +Kafka +{desk.orders} +25.0 %", desk.ok("replay", "list", "--group", "ledger"))
    desk.book("UPDATE txb.job_lane SET last_error = 'the messages are gone' WHERE from_partition = 1")
    text = desk.ok("status")
    assert f"{desk.orders}[0]" in text and f"job {number}, {desk.orders}[1]: the messages are gone" in text
    _, text, _ = desk.run("doctor")
    assert f"job {number}, {desk.orders}[1]" in text and "the messages are gone" in text
    assert desk.kafka.cluster_id in desk.ok("-o", "json", "audit", "list")


# -- into a topic --------------------------------------------------------------------------------------------------------------------------


def test_a_job_into_a_topic_wants_a_relay_of_the_groups_database(desk):
    desk.produce(desk.archive, 5)
    line = ("replay", "start", "--group", "ledger", "--kafka", "--yes", "--topic", desk.archive, "--to-topic", desk.archive)
    desk.refused(FAILED, ["intents written here would not be published", "start its relay"], *line)
    desk.book("INSERT INTO txb.relay (source, epoch) VALUES ('here', 1)")
    answer = desk.json(*line)
    number = str(answer["number"])
    assert answer["to_topic"] == desk.archive and desk.lanes(number) == [(desk.archive, 0, 0, 5)], "it ends where it began to write"
    assert desk.book("SELECT run, to_topic FROM txb.job") == [(answer["number"], desk.archive)]
    assert f"into topic   {desk.archive}" in desk.ok("replay", "show", number, "--group", "ledger")
    assert f"to {desk.archive}" in desk.ok("replay", "list", "--group", "ledger") and "WRITTEN" in desk.ok("replay", "list", "--group", "ledger")
    shown = desk.ok("replay", "show", number, "--group", "ledger")
    assert "0 written, 0 duplicate" in shown and "WRITTEN" in shown and "applied" not in shown.lower()


def test_an_outbox_may_go_to_a_topic(desk):
    desk.book("INSERT INTO txb.relay (source, highest, watermark, epoch) VALUES ('here', 3, 3, 1)")
    desk.book("SELECT txb.publish('any', 'k', 'made', '1') FROM generate_series(1, 3)")
    here = ("--database", desk.postgres.uri(desk.ledger), "--source", "here", "--topic", "any", "--to-topic", desk.archive)
    text = desk.ok("replay", "plan", "--group", "ledger", *here)
    assert f"would replay 3 messages of source here into topic {desk.archive}" in text
    plan = desk.json("replay", "plan", "--group", "ledger", *here)
    assert (plan["to_topic"], plan["circling"]) == (desk.archive, 0)
    for count in (9, 10):
        desk.book("SELECT txb.outbox_copy('any', txb.uuid_v7(), NULL, '\\xff', NULL, NULL, '1', NULL, NULL, %s)", json.dumps({"txb-replayed": str(count)}))
    desk.book("UPDATE txb.relay SET highest = 5, watermark = 5")
    plan = desk.json("replay", "plan", "--group", "ledger", *here)
    assert (plan["messages"], plan["circling"]) == (5, 1)
    assert plan["by_type"] == [{"value": "made", "messages": 3}, {"value": None, "messages": 2}], "a copy of a message without a type has none"
    assert desk.json("replay", "plan", "--group", "ledger", *here, "--type", "-")["messages"] == 0
    number = desk.json("replay", "start", "--group", "ledger", "--yes", *here)["number"]
    assert desk.book("SELECT source, cluster_id, to_topic, run FROM txb.job") == [("here", None, desk.archive, number)]


# -- with workers --------------------------------------------------------------------------------------------------------------------------

HANDLER = """
CREATE TABLE public.note (ord bigint GENERATED ALWAYS AS IDENTITY, topic text, key text, n int);
CREATE FUNCTION f(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO public.note (topic, key, n) VALUES (m.topic, txb.key_text(m.key), convert_from(m.payload, 'UTF8')::int);
  RETURN txb.ok();
END $$
"""


@pytest.fixture
def running(desk):
    """A Desk whose group stands at the ends of its topics, with `txbroker run` for it and for its database as a source."""
    desk.produce(desk.orders, 3000, step_ms=1)
    desk.produce(desk.orders, 2000, partition=1, step_ms=1)
    desk.book(HANDLER)
    for topic in (desk.orders, desk.payments):
        for partition, (_, end) in desk.kafka.ends(topic).items():
            desk.book("UPDATE txb.consumer_offset SET next_offset = %s, cluster_id = %s WHERE topic = %s AND partition = %s", end, desk.kafka.cluster_id, topic, partition)
    with open(desk.config, encoding="utf-8") as file:
        settings = json.load(file)
    settings["sources"] = [{"name": "here", "database": desk.postgres.uri(desk.ledger)}]
    settings["workers"][0]["handler"] = {"kind": "sql", "function": "public.f"}
    with open(desk.config, "w", encoding="utf-8") as file:
        json.dump(settings, file)
    directory = process.TempDir("run")
    program = Program("run", ["-c", desk.config, "run"], directory)
    yield desk, program
    if program.running():
        program.stop()  # it leaves the group: the next one need not wait for its session to end
    program.kill9()
    directory.remove()


def follow(desk, number):
    assert "100.0 %" in desk.ok("replay", "show", str(number), "--group", "ledger", "--follow", timeout_s=120)
    return desk.json("replay", "show", str(number), "--group", "ledger")


def test_what_a_plan_counted_a_worker_applies_and_the_next_plan_knows(running):
    desk, program = running
    plan = desk.plan("--topic", desk.orders)
    assert (plan["messages"], plan["known"]) == (5000, 0)
    job = follow(desk, desk.start("--topic", desk.orders)["number"])
    assert (job["state"], job["consumed"], job["applied"], job["covered"]) == ("done", 5000, 5000, 5000)
    for partition, count in ((0, 3000), (1, 2000)):
        assert desk.book("SELECT consumed FROM txb.consumer_offset AS c JOIN txb.job_lane AS l ON c.partition = -l.lane WHERE l.from_partition = %s", partition) == [(count,)]
    assert desk.book("SELECT count(*), count(DISTINCT (key, n)) FROM public.note") == [(5000, 3000)]
    plan = desk.plan("--topic", desk.orders)
    assert (plan["messages"], plan["known"]) == (5000, 5000), "the ids are those of the worker"
    job = follow(desk, desk.start("--topic", desk.orders, "--from", "2025-06-15T15:06:42Z")["number"])
    assert (job["applied"], job["duplicate"], job["span"]) == (0, 1000, 1000)
    assert program.running()


def test_a_topic_is_copied_into_itself_once(running):
    desk, program = running
    process.wait_for(lambda: desk.book("SELECT count(*) FROM txb.relay")[0][0] == 1, "the relay to serve its source", 60, alive=program.alive)
    job = follow(desk, desk.start("--topic", desk.orders, "--key", "k1", "--to-topic", desk.orders)["number"])
    copies = 1000 + 667
    assert (job["state"], job["applied"], job["to_topic"]) == ("done", copies, desk.orders)
    process.wait_for(lambda: sum(end for _, end in desk.kafka.ends(desk.orders).values()) == 5000 + copies, "the copies to be published", 60, alive=program.alive)
    process.wait_for(lambda: desk.book("SELECT sum(applied) FROM txb.consumer_offset WHERE partition >= 0")[0][0] == copies, "the copies to be applied", 60, alive=program.alive)
    plan = desk.plan("--topic", desk.orders, "--key", "k1")
    assert (plan["messages"], plan["known"]) == (2 * copies, 2 * copies), "a copy has the id of its original"
    assert desk.book("SELECT count(*) FROM public.note") == [(copies,)]
