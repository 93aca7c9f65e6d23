"""A stand-in for relay and worker in the verifier's own tests: carries every committed intent to Kafka and to the applying bank, rightly or with one
planted mismatch. It runs when all writers have ended, so the order of seq is right by itself."""

import json
import time

from confluent_kafka import Producer

from txbtest.bank import sql_file
from txbtest.verify import murmur2_partition, read_topic


class Courier:
    """flaw: None, or what is done wrong to one intent in the middle. discarded: what a person gave up, for the verifier."""

    def __init__(self, bank, kafka, group, partitions, flaw=None):
        self.bank, self.kafka, self.group, self.partitions, self.flaw = bank, kafka, group, partitions, flaw
        self.discarded = set()

    def prepare(self):
        """The stub of schema txb in both databases."""
        for server, database in ((self.bank.postgres, self.bank.source), (self.bank.target_postgres, self.bank.target)):
            server.create_database(database)
            server.query(database, sql_file("stub.sql"))
        self.bank.create_source()
        self.bank.create_target(handlers=False)

    def run(self):
        messages = self._publish(self._intents())
        self._apply(messages)
        self.bank.postgres.query(self.bank.source, "INSERT INTO txb.relay SELECT 'stub', max(seq), max(seq) FROM txb.outbox")

    def _intents(self):
        rows = self.bank.postgres.query(self.bank.source, "SELECT id::text, topic, key, payload FROM txb.outbox ORDER BY seq")
        rows = [(i, topic, key, bytes(payload)) for i, topic, key, payload in rows]
        if self.flaw == "lost message":
            del rows[len(rows) // 2]
        if self.flaw == "phantom message":
            rows.insert(len(rows) // 2, ("00000000-0000-4000-8000-000000000000", rows[0][1], rows[0][2], rows[0][3]))
        if self.flaw == "swapped messages":
            one, other = self._neighbours(rows)
            rows[one], rows[other] = rows[other], rows[one]
        if self.flaw == "wrong payload":
            i, topic, key, payload = rows[len(rows) // 2]
            body = json.loads(payload)
            rows[len(rows) // 2] = (i, topic, key, json.dumps({**body, "amount": body["amount"] + 1}).encode())
        return rows

    @staticmethod
    def _neighbours(rows):
        """The places of two numbered intents of one key with none of that key between: the pair nearest to the middle."""
        before, pairs = {}, []
        for at, row in enumerate(rows):
            if row[2] is None or b'"n"' not in row[3]:
                continue
            if row[2] in before:
                pairs.append((before[row[2]], at))
            before[row[2]] = at
        return min(pairs, key=lambda pair: abs(pair[1] - len(rows) // 2))

    def _publish(self, rows):
        producer = Producer({"bootstrap.servers": self.kafka.brokers, "linger.ms": 5, "log_level": 0})
        moved = rows[self._neighbours(rows)[0]][0]
        # It waits for nothing: as if all were published when the last of them is due.
        due_ms = self.bank.postgres.value(self.bank.source, "SELECT ceil(extract(epoch FROM max(due)) * 1000)::bigint FROM bank.journal") or 0
        timestamp = max(due_ms, int(time.time() * 1000))
        for identity, topic, key, payload in rows:
            headers = {"ce_specversion": "1.0", "ce_id": identity, "ce_source": "stub", "ce_type": "transfer.made",
                       "ce_time": "2024-01-01T00:00:00Z", "content-type": "application/json"}
            if self.flaw == "lost header" and identity == rows[len(rows) // 2][0]:
                del headers["ce_type"]
            partition = 0 if key is None else murmur2_partition(key.encode(), self.partitions)
            if self.flaw == "wrong partition" and identity == moved:
                partition = (partition + 1) % self.partitions
            producer.produce(topic, payload, key, partition, timestamp=timestamp, headers=headers)
            producer.poll(0)
        if producer.flush(60) != 0:
            raise AssertionError("the courier could not publish")
        return [record for topic in self.bank.topics for record in read_topic(self.kafka.brokers, topic)]

    def _apply(self, messages):
        work = list(messages)
        middle = len(work) // 2
        if self.flaw == "lost effect":
            del work[middle]
        if self.flaw == "discarded effect":
            self.discarded = {work[middle].id}
        if self.flaw == "doubled effect":
            work.insert(middle, work[middle])
        if self.flaw == "phantom effect":
            work.insert(middle, work[middle]._replace(headers={**work[middle].headers, "ce_id": b"00000000-0000-4000-8000-000000000000"}))
        if self.flaw == "swapped effects":
            ordered = [i for i, record in enumerate(work) if record.key and b'"n"' in record.value]
            at, other = next((i, j) for i in ordered for j in ordered if i < j and work[i].key == work[j].key)
            work[at], work[other] = work[other], work[at]
        with self.bank.target_postgres.session(self.bank.target) as connection, connection.cursor() as cursor:
            cursor.execute("BEGIN")
            for record in work:
                body = json.loads(record.value)
                cursor.execute("INSERT INTO bank.applied (id, key, n, account, amount, topic, partition, \"offset\") VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                               (record.id, record.key and record.key.decode(), body.get("n"), body["to"], body["amount"], record.topic,
                                record.partition, record.offset))
                cursor.execute("UPDATE bank.credit SET balance = balance + %s WHERE account = %s", (body["amount"], body["to"]))
            if self.flaw == "wrong money":
                cursor.execute("UPDATE bank.credit SET balance = balance + 1 WHERE account = 1")
            self._count(cursor, messages)
            cursor.execute("COMMIT")

    def _count(self, cursor, messages):
        for topic in self.bank.topics:
            for partition in range(self.partitions):
                there = [r for r in messages if r.topic == topic and r.partition == partition]
                applied = len(there) - (1 if self.flaw == "wrong counter" and partition == 0 else 0)
                cursor.execute("INSERT INTO txb.consumer_offset VALUES (%s, %s, %s, %s, %s, %s, 0, 0)",
                               (self.group, topic, partition, there[-1].offset + 1 if there else 0, len(there), applied))
