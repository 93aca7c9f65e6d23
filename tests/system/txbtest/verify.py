"""The verifier: reads the publishing bank, the topics and the applying bank, and says what breaks an invariant. It shares no code with txbroker.

  L lost          a committed intent that is not in its topic, or has no effect
  P phantom       a message, or an effect, without a committed intent
  D doubled       an effect that happened twice
  O misordered    first appearances of a key in the topic, or effects of a key, not in the order of its commits; or a key in two partitions
  M money         balances that differ from the transfers, or money made or lost
  Q counters      consumed is not applied + duplicate + failed, or the counters are not what the tables hold
  H hole          at rest, the relay's position still has a hole, or lies below what was published
  B broken        a message whose headers or payload are not those of its intent; one that came before it was due

Every mismatch is printed with the history of what it is about: journal, outbox, topic and effects.
"""

import collections
import json

from confluent_kafka import Consumer, TopicPartition

from txbtest import process
from txbtest.kafka import watermarks

MOST_SHOWN = 10
MOST_LINES = 40
RECORD_FIELDS = "topic partition offset timestamp_ms key value headers"


class Record(collections.namedtuple("Record", RECORD_FIELDS)):
    """A Kafka record; headers as a dict of bytes, the last of equal names counts."""

    @property
    def id(self):
        value = self.headers.get("ce_id")
        return value.decode("utf-8", "replace") if value is not None else None

    def __str__(self):
        return f"{self.topic}/{self.partition}@{self.offset}"


def read_topic(brokers, topic, timeout_s=60, config=None):
    """All records of a topic up to its present ends, by partition and offset."""
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "txbtest-verify", "enable.auto.commit": False, "log_level": 0,
                         "fetch.wait.max.ms": 20, **(config or {})})
    records = []
    try:
        ends = process.wait_for(lambda: watermarks(consumer, topic), f"the ends of topic {topic}", timeout_s, every_s=0.1)
        todo = {partition: (first, end) for partition, (first, end) in ends.items() if end > first}
        consumer.assign([TopicPartition(topic, partition, first) for partition, (first, _) in todo.items()])
        idle = 0
        while todo:
            batch = consumer.consume(10000, timeout=0.2)
            idle = 0 if batch else idle + 1
            if idle * 0.2 > timeout_s:
                raise RuntimeError(f"topic {topic}: nothing to read for {timeout_s} s, still expecting {todo}")
            for message in batch:
                if message.error():
                    raise RuntimeError(f"topic {topic}: {message.error()}")
                records.append(Record(topic, message.partition(), message.offset(), message.timestamp()[1], message.key(), message.value(),
                                      dict(message.headers() or [])))
                if message.partition() in todo and message.offset() + 1 >= todo[message.partition()][1]:
                    del todo[message.partition()]
    finally:
        consumer.close()
    return sorted(records, key=lambda r: (r.partition, r.offset))


def murmur2_partition(key, partitions):
    """Where Java's default partitioner puts a key (Kafka's Utils.murmur2)."""
    size, seed, m, mask = len(key), 0x9747B28C, 0x5BD1E995, 0xFFFFFFFF
    h = (seed ^ size) & mask
    for at in range(0, size - size % 4, 4):
        k = int.from_bytes(key[at:at + 4], "little")
        k = k * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    tail = key[size - size % 4:]
    if len(tail) >= 3:
        h ^= tail[2] << 16
    if len(tail) >= 2:
        h ^= tail[1] << 8
    if tail:
        h = (h ^ tail[0]) * m & mask
    h = (h ^ h >> 13) * m & mask
    h ^= h >> 15
    return (h & 0x7FFFFFFF) % partitions


Intent = collections.namedtuple("Intent", "id topic key n account amount mode due_ms at txid")
Effect = collections.namedtuple("Effect", "ord id key n account amount topic partition offset at txid")


class Report:
    """What was found: counts, and mismatches by letter. True when nothing is wrong."""

    def __init__(self, seed):
        self.seed = seed
        self.counts = {}
        self.mismatches = collections.defaultdict(list)

    def add(self, letter, text, history=None):
        """`history` is called for the mismatches that are shown only: it looks through everything."""
        shown = history is not None and len(self.mismatches[letter]) < MOST_SHOWN
        self.mismatches[letter].append((text, history() if shown else []))

    def letters(self):
        return "".join(sorted(self.mismatches))

    def __bool__(self):
        return not self.mismatches

    def __str__(self):
        counts = " ".join(f"{name}={value}" for name, value in self.counts.items())
        lines = [f"verifier: {'all invariants hold' if self else 'broken: ' + self.letters()} (seed {self.seed}) {counts}"]
        for letter, found in sorted(self.mismatches.items()):
            lines.append(f"{letter}: {len(found)} mismatches")
            for text, history in found[:MOST_SHOWN]:
                lines.append(f"  {letter} {text}")
                lines.extend(f"      {line}" for line in history[:MOST_LINES])
        return "\n".join(lines)


class Verifier:
    """Checks one bank (see txbtest.bank). `group` is the worker group whose counters are checked; foreign_ok: messages of other producers may be in
    the topics; `opening` of every account comes from the bank; discarded: ids that a person gave up, which must have no effect."""

    def __init__(self, bank, kafka, group, seed, foreign_ok=False, partitions=None, latest=False, discarded=()):
        self.bank, self.kafka, self.group, self.seed = bank, kafka, group, seed
        self.foreign_ok, self.partitions, self.latest, self.discarded = foreign_ok, partitions, latest, set(discarded)

    def check(self, topics=True, effects=True, counters=True, position=True):
        """Everything, or the parts that a test can claim. The system must be at rest (see program.System.wait_applied)."""
        self.report = Report(self.seed)
        self._load_intents()
        self.records = {topic: read_topic(self.kafka.brokers, topic) for topic in self.bank.topics}
        self.effects = self._load_effects() if effects else []
        self._index()
        if topics:
            self._check_topics()
        if effects:
            self._check_effects()
            self._check_money()
        if counters:
            self._check_counters()
        if position:
            self._check_position()
        return self.report

    # -- reading -----------------------------------------------------------------------------------------------------------------

    def _source(self, sql, args=None):
        return self.bank.postgres.query(self.bank.source, sql, args)

    def _target(self, sql, args=None):
        return self.bank.target_postgres.query(self.bank.target, sql, args)

    def _load_intents(self):
        self.intents = {}
        for row in self._source("SELECT id::text, topic, key, n, account, amount, mode, (extract(epoch FROM due) * 1000)::bigint, at::text, txid::text"
                                " FROM bank.journal"):
            intent = Intent(*row)
            self.intents[intent.id] = intent

    def _load_effects(self):
        return [Effect(*row) for row in self._target("SELECT ord, id::text, key, n, account, amount, topic, partition, \"offset\", at::text, txid::text"
                                                     " FROM bank.applied ORDER BY ord")]

    def _index(self):
        self.appearances = collections.defaultdict(list)  # id -> records
        for records in self.records.values():
            for record in records:
                self.appearances[record.id].append(record)
        self.effects_of = collections.defaultdict(list)  # id -> effects
        for effect in self.effects:
            self.effects_of[effect.id].append(effect)
        total = sum(len(records) for records in self.records.values())
        self.report.counts.update(intents=len(self.intents), messages=total, repeated=total - len(self.appearances),
                                  effects=len(self.effects))

    # -- L P O B in the topics ---------------------------------------------------------------------------------------------------

    def _check_topics(self):
        for intent in self.intents.values():
            if intent.id not in self.appearances:
                self.report.add("L", f"intent {intent.id} is not in topic {intent.topic}", lambda: self._history(intent.id))
        for identity, records in self.appearances.items():
            intent = self.intents.get(identity)
            if intent is None:
                if not self.foreign_ok:
                    self.report.add("P", f"message {records[0]} id {identity} has no committed intent", lambda: self._history(identity, records[0].key))
                continue
            for record in records:
                problem = self._broken(intent, record)
                if problem:
                    self.report.add("B", f"message {record} of intent {identity}: {problem}", lambda: self._history(identity))
        for topic, records in self.records.items():
            self._check_order(records, topic, "published")

    def _broken(self, intent, record):
        key = None if intent.key is None else intent.key.encode()
        if record.topic != intent.topic or record.key != key:
            return f"topic {record.topic} key {record.key}, expected {intent.topic} {key}"
        for name, value in {"ce_specversion": b"1.0", "ce_type": b"transfer.made", "content-type": b"application/json"}.items():
            if record.headers.get(name) != value:
                return f"header {name} is {record.headers.get(name)}, expected {value}"
        if not record.headers.get("ce_source") or not record.headers.get("ce_time"):
            return f"headers ce_source or ce_time are missing: {record.headers}"
        body = json.loads(record.value)
        if (body["to"], body["amount"]) != (intent.account, intent.amount) or ("n" in body and body["n"] != intent.n):
            return f"payload {body} is not that of {intent}"
        if intent.due_ms is not None and record.timestamp_ms < intent.due_ms:
            return f"published {intent.due_ms - record.timestamp_ms} ms before it was due"
        if self.partitions and key is not None and record.partition != murmur2_partition(key, self.partitions):
            return f"partition {record.partition}, Java's partitioner says {murmur2_partition(key, self.partitions)}"
        return None

    def _check_order(self, sequence, what, verb):
        """`sequence` of records or effects, in the order in which they happened; first appearances of a key must be n = 1, 2, 3 ..."""
        seen, last, place = set(), {}, {}
        for item in sequence:
            intent = self.intents.get(item.id)
            if intent is None or intent.n is None or intent.id in seen:
                continue
            seen.add(intent.id)
            key = (intent.topic, intent.key)
            # What a replay job brings is in no partition of Kafka (its numbers are negative).
            if item.partition >= 0 and place.setdefault(key, item.partition) != item.partition:
                self.report.add("O", f"key {key} {verb} in partitions {place[key]} and {item.partition}",
                                lambda: self._history(item.id))
            before = last.get(key)
            if before is not None and before.n > intent.n:
                self.report.add("O", f"{what}: key {key} number {intent.n} {verb} after {before.n}",
                                lambda: self._history(item.id) + self._history(before.id))
            if before is None or before.n < intent.n:
                last[key] = intent

    # -- L P D O M in the applying bank ------------------------------------------------------------------------------------------

    def _check_effects(self):
        for intent in self.intents.values():
            effects = self.effects_of.get(intent.id, ())
            if intent.id in self.discarded:
                if effects:
                    self.report.add("D", f"intent {intent.id} was discarded, and took effect", lambda: self._history(intent.id))
            elif not effects:
                self.report.add("L", f"intent {intent.id} has no effect", lambda: self._history(intent.id))
            elif len(effects) > 1:
                self.report.add("D", f"intent {intent.id} took effect {len(effects)} times", lambda: self._history(intent.id))
        for effect in self.effects:
            intent = self.intents.get(effect.id)
            if intent is None:
                if not self.foreign_ok:
                    self.report.add("P", f"effect {effect.ord} of id {effect.id} has no committed intent",
                                    lambda: self._history(effect.id, effect.key))
            elif (effect.key or None) != intent.key:
                self.report.add("B", f"effect {effect.ord} has key {effect.key}", lambda: self._history(effect.id))
            elif (effect.account, effect.amount) != (intent.account, intent.amount):
                self.report.add("M", f"effect {effect.ord}: {effect.amount} to {effect.account}, the intent says {intent.amount} to {intent.account}",
                                lambda: self._history(effect.id))
        self._check_order(self.effects, "effects", "applied")

    def _check_money(self):
        left = {row[0]: row[1:] for row in self._source("SELECT id, balance, opening FROM bank.account")}
        received = collections.Counter()
        for intent in self.intents.values():
            received[intent.account] += 0 if intent.id in self.discarded else intent.amount
        arrived = dict(self._target("SELECT account, balance FROM bank.credit"))
        for account, balance in sorted(arrived.items()):
            if balance != received[account]:
                self.report.add("M", f"account {account} holds {balance}, the committed transfers to it sum up to {received[account]}",
                                lambda: self._account_history(account))
        sent = sum(opening - balance for balance, opening in left.values())
        after = sum(b for b, _ in left.values()) + sum(arrived.values()) + sum(i.amount for i in self.intents.values() if i.id in self.discarded)
        before = sum(o for _, o in left.values())
        self.report.counts.update(money_before=before, money_after=after)
        if after != before:
            self.report.add("M", f"money before {before}, after {after}; left the source {sent}, arrived {sum(arrived.values())}")

    def _account_history(self, account):
        """Only the transfers to this account that did not take effect exactly once."""
        lines = []
        for intent in self.intents.values():
            if len(lines) >= MOST_LINES:  # each is a look into the outbox, and no more are shown
                break
            if intent.account == account and len(self.effects_of.get(intent.id, ())) != 1:
                lines.extend(self._history(intent.id))
        return lines

    # -- Q and H -----------------------------------------------------------------------------------------------------------------

    def _check_counters(self):
        rows = self._target("SELECT topic, partition, next_offset, consumed, applied, duplicate, failed FROM txb.consumer_offset"
                            " WHERE group_name = %s AND topic = ANY (%s)", (self.group, self.bank.topics))
        total = collections.Counter()
        for topic, partition, next_offset, consumed, applied, duplicate, failed in rows:
            total.update(consumed=consumed, applied=applied, duplicate=duplicate, failed=failed)
            text = f"{self.group} {topic}/{partition}: consumed {consumed} applied {applied} duplicate {duplicate} failed {failed} next {next_offset}"
            if consumed != applied + duplicate + failed:
                self.report.add("Q", text)
            there = [record for record in self.records[topic] if record.partition == partition]
            if there and next_offset != there[-1].offset + 1:
                self.report.add("Q", f"{text}: the partition ends at {there[-1].offset + 1}")
            if not self.latest and consumed != len(there):
                self.report.add("Q", f"{text}: the partition holds {len(there)} messages")
        if total["applied"] != len(self.effects):
            self.report.add("Q", f"applied is {total['applied']}, bank.applied has {len(self.effects)} rows")
        self.report.counts.update(total)

    def _check_position(self):
        for source, highest, watermark in self._source("SELECT source, highest, watermark FROM txb.relay"):
            last = self._source("SELECT coalesce(max(seq), 0) FROM txb.outbox")[0][0]
            if highest < last or watermark < last:
                self.report.add("H", f"source {source}: highest {highest} watermark {watermark}, the last intent is {last}")
        for source, page, holes in self._source("SELECT source, page, holes::text FROM txb.relay_holes WHERE NOT isempty(holes)"):
            self.report.add("H", f"source {source} still has holes in page {page}: {holes[:200]}")

    # -- history -----------------------------------------------------------------------------------------------------------------

    def _history(self, identity, key=None):
        """All that is known of one id, and of its neighbours of the same key."""
        intent = self.intents.get(identity)
        lines = [f"journal  {intent}" if intent else f"journal  nothing for id {identity} key {key}"]
        lines.extend(f"outbox   {row}" for row in self._outbox(identity))
        lines.extend(f"topic    {record} time {record.timestamp_ms}" for record in self.appearances.get(identity, ()))
        lines.extend(f"effect   {effect}" for effect in self.effects_of.get(identity, ()))
        if intent is not None and intent.n is not None:
            for other in self._neighbours(intent):
                where = " ".join(str(record) for record in self.appearances.get(other.id, ())) or "nowhere"
                orders = [effect.ord for effect in self.effects_of.get(other.id, ())]
                lines.append(f"near     n={other.n} id={other.id} at={other.at} txid={other.txid} {other.mode} topic: {where} effects: {orders}")
        return lines

    def _outbox(self, identity):
        try:
            return self._source("SELECT 'seq ' || seq || ' created ' || created_at || ' xmin ' || xmin FROM txb.outbox WHERE id = %s", (identity,))
        except Exception as error:  # pylint: disable=broad-except; the history must not hide the mismatch
            return [f"not readable: {str(error).strip()}"]

    def _neighbours(self, intent):
        near = [i for i in self.intents.values() if i.topic == intent.topic and i.key == intent.key and i.n is not None and abs(i.n - intent.n) <= 2]
        return sorted(near, key=lambda i: i.n)
