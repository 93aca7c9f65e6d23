"""The counters of txb.consumer_offset looked at while workers are busy (W15): at each moment they say what the tables hold.

A moment is a look that finds other counters than the one before it, so there are as many as there is progress. A look is one statement, so one snapshot: what
a worker counts in another transaction than it does it shows, however soon it is made good.
"""

import collections

import psycopg2
from confluent_kafka import Producer

from txbtest import process
from txbtest.verify import Report, read_topic

LOOK = """
SELECT c.partition, c.next_offset, c.consumed, c.applied, c.duplicate, c.failed,
       (SELECT count(*) FROM bank.note AS n WHERE n.who = c.group_name AND (n.m).partition = c.partition) AS effects,
       f.retrying, f.held, f.dead, f.discarded, c.held AS held_counted
  FROM txb.consumer_offset AS c
  CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE t.state = 'retrying') AS retrying, count(*) FILTER (WHERE t.state = 'held') AS held,
                             count(*) FILTER (WHERE t.state = 'dead') AS dead, count(*) FILTER (WHERE t.state = 'discarded') AS discarded
                        FROM txb.failed AS t WHERE t.group_name = c.group_name AND t.partition = c.partition) AS f
 WHERE c.group_name = %s ORDER BY c.partition"""
COUNTERS = ("partition", "next_offset", "consumed", "applied", "duplicate", "failed")
STATES = ("retrying", "held", "dead", "discarded")
Row = collections.namedtuple("Row", (*COUNTERS, "effects", *STATES, "held_counted"))


class Wrong(Exception):
    """A moment was wrong: there is nothing more to wait for."""


class Watch:
    """Looks at one group on a connection that stays open: a look costs a query."""

    def __init__(self, group):
        self.group, self.rows, self.moments, self.wrong = group, [], 0, []
        self.seen = collections.Counter()  # how many moments had something of each kind
        self.connection = group.system.target_postgres.connect(group.system.bank.target)
        self.cursor = self.connection.cursor()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def look(self):
        self.cursor.execute(LOOK, (self.group.name,))
        rows, before = [Row(*row) for row in self.cursor], self.rows
        self.rows = rows
        if [row[:len(COUNTERS)] for row in rows] != [row[:len(COUNTERS)] for row in before]:
            self.moments += 1
            self.seen.update({name for row in rows for name in ("duplicate", *STATES) if getattr(row, name)})
            self.wrong += [f"moment {self.moments}: {row}" for row in rows if not self.agrees(row)]

    @staticmethod
    def agrees(row):
        """The topic begins at 0 and has no gaps, so the offset is a count too."""
        return (row.consumed == row.applied + row.duplicate + row.failed == row.next_offset and row.applied == row.effects
                and row.failed == row.retrying + row.held + row.dead + row.discarded and row.held_counted == row.held)

    def total(self, name):
        return sum(getattr(row, name) for row in self.rows)

    def wait(self, condition, deadline_s=60):
        """Looks until it is true; raises Wrong when something is wrong."""
        def ready():
            self.look()
            if self.wrong:
                raise Wrong
            return condition()

        process.wait_for(ready, self.group.lag, deadline_s, alive=self.group.alive)


class Load:
    """Messages of which some fail for a while, some for ever, whose keys hold others, some that come twice, and a person who decides. `expected`: what is to
    take effect in the end. Numbers of a key are apart, so that an edited copy has one between two others."""

    KEYS, EACH, APART = 24, 4, 10

    def __init__(self, group, watch):
        self.group, self.watch, self.rounds, self.sent, self.discarded = group, watch, 0, 0, 0
        self.expected = {}

    def round(self):
        """One more portion; two of its messages fail until somebody decides, a third until its cause is mended."""
        first = self.rounds * self.EACH
        bad = [(f"k{self.rounds * 3 % self.KEYS + k}", first * self.APART) for k in range(3)]
        self.group.break_it(*bad)
        self.publish((f"k{k}", (first + n) * self.APART) for n in range(self.EACH) for k in range(self.KEYS))
        self.rounds += 1
        self.watch.wait(lambda: self.watch.total("consumed") >= self.sent and self.watch.total("dead") == len(bad))

    def publish(self, messages):
        made = self.group.publish(list(messages), wait=False)
        self.expected.update((message.id, message) for message in made)
        self.sent += len(made)

    def finish(self):
        """An idle worker looks for decisions now and then only; a message of each key makes it look."""
        self.publish((f"k{k}", self.rounds * self.EACH * self.APART) for k in range(self.KEYS))
        self.watch.wait(lambda: self.watch.total("consumed") >= self.sent and not any(self.watch.total(state) for state in ("retrying", "held", "dead")))

    def repeat(self, count=40):
        """The last messages come once more, as a relay that starts again sends them."""
        topic = self.group.topics[0]
        producer = Producer({"bootstrap.servers": self.group.system.brokers})
        for record in read_topic(self.group.system.brokers, topic)[-count:]:
            producer.produce(topic, record.value, key=record.key, partition=record.partition, headers=record.headers)
            self.sent += 1
        assert producer.flush(60) == 0
        self.watch.wait(lambda: self.watch.total("consumed") >= self.sent)

    def decide(self):
        """Of what is dead one is edited, one discarded, and the rest tried again once the cause is mended. Nobody waits for it."""
        edited, discarded, *rest = self.group.failed("dead")
        rows = {number: (str(identity), self.expected[str(identity)]) for number, identity in self.group.query(
            "SELECT number, id FROM txb.failed WHERE number = ANY (%s)", [edited, discarded])}
        old, message = rows[edited]
        new = self.group.edit(edited, message.n + 1)
        del self.expected[old], self.expected[rows[discarded][0]]
        self.expected[new] = message._replace(id=new, n=message.n + 1)
        self.group.query("SELECT txb.failed_discard(%s, 'test', 'a test')", [discarded])
        self.discarded += 1
        self.watch.look()
        self.group.mend()
        self.group.query("SELECT txb.failed_retry(%s, 'test')", rest)


def watched(group, moments, **settings):
    """The report of so many moments, and of the end."""
    report = Report(group.system.seed)
    with Watch(group) as watch:
        load = Load(group, watch)
        try:
            group.worker(**settings)
            while watch.moments < moments or load.rounds < 3:
                load.round()
                load.repeat()
                load.decide()
            load.finish()
        except Wrong:
            for text in watch.wrong:
                report.add("Q", text)
        except process.Timeout as error:
            report.add("V", f"not over: {str(error)[:1500]}")
        except psycopg2.errors.UniqueViolation as error:  # of an edited copy
            report.add("D", str(error))
        report.counts.update(moments=watch.moments, rounds=load.rounds, sent=load.sent, **watch.seen)
        if report:
            end = group.check(load.expected.values())
            report.mismatches.update(end.mismatches)
            if watch.total("failed") != load.discarded or watch.total("duplicate") != load.sent - len(load.expected) - load.discarded:
                report.add("Q", f"{watch.rows}: {load.sent} were sent, {len(load.expected)} take effect, {load.discarded} were discarded")
    print(report)
    return report
