"""Sagas of three steps in three databases: how many a second finish from a backlog, how long one takes when there is room, what
each costs, and whether a million that ended make a difference: side by side, one after the other, with a thousand."""

import json
import threading
import time

from txbbench.place import Lost, watch
from txbbench.report import Figure

STEPS = ("flight", "hotel", "payment")
KINDS = ("compensatable", "compensatable", "pivot")
FEW = 1000


class Installation:
    """The coordinator's database, three participants, their topics, and the program that runs all of them."""

    def __init__(self, place, stored=0):
        self.place = place
        self.agency = place.migrated(place.fresh("agency"))
        self.parts = {step: place.migrated(place.fresh(step)) for step in STEPS}
        for database in self.parts.values():
            place.script(database, "saga_part.sql")
        self.topic = place.topic()
        self.topics = {step: place.topic() for step in STEPS}
        self.groups = {part: place.fresh(part) for part in ("sagas", *STEPS)}
        self.begun = 0
        self.deploy()
        if stored:
            place.say(f"  storing {stored:,} sagas that ended")
            place.postgres.query(self.agency, "SELECT txb.saga_partition_make(0, 3)")
            place.script(self.agency, "saga_stored.sql")
            with place.postgres.session(self.agency) as session, session.cursor() as cursor:
                cursor.execute("CALL bench.store(%s)", (stored,))
                cursor.execute("VACUUM ANALYZE")
        # Ids grow with time: what was begun here is found by their index, whatever is stored.
        self.first = place.postgres.value(self.agency, "SELECT txb.uuid_v7()")

    def deploy(self):
        steps = [{"name": step, "kind": kind, "topic": self.topics[step], "type": f"{step}.book",
                  **({"compensation": {"type": f"{step}.cancel"}} if kind == "compensatable" else {})}
                 for step, kind in zip(STEPS, KINDS)]
        body = json.dumps({"name": "trip", "version": 1, "steps": steps})
        self.place.postgres.query(self.agency, "SELECT txb.saga_deploy('trip', 1, %s, NULL, NULL, %s, 'bench')", (body, self.topic))

    def run(self):
        uri = self.place.postgres.uri
        groups = [{"group": self.groups["sagas"], "topics": [self.topic], "database": uri(self.agency),
                   "handler": {"kind": "coordinator"}, "batch_wait_ms": 0}]
        groups += [{"group": self.groups[step], "topics": [self.topics[step]], "database": uri(self.parts[step]),
                    "handler": {"kind": "sql", "function": "bench.step"}, "batch_wait_ms": 0} for step in STEPS]
        sources = [{"name": database, "database": uri(database)} for database in (self.agency, *self.parts.values())]
        path = self.place.configuration(sources=sources, workers=groups)
        return self.place.child("run", [self.place.txbroker, "--config", path, "run"])

    def begin(self, count):
        """So many in transactions of a hundred."""
        with self.place.postgres.session(self.agency) as session, session.cursor() as cursor:
            for begun in range(0, count, 100):
                cursor.execute("SELECT txb.saga_start('trip', '{\"amount\": 1}') FROM generate_series(1, %s)", (min(100, count - begun),))
        self.begun += count

    def ended(self):
        return self.place.postgres.value(self.agency, "SELECT count(*) FROM txb.saga_end WHERE saga_id > %s", (self.first,))

    def costs(self):
        """Commits and WAL bytes so far, of the whole server."""
        commits = sum(self.place.postgres.value(database, "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
                      for database in (self.agency, *self.parts.values()))
        return commits, self.place.postgres.value(self.agency, "SELECT pg_current_wal_lsn() - '0/0'")

    def check(self, child):
        """Everything that was begun is completed, and has had its effects once."""
        self.place.check_servers()
        states = dict(self.place.postgres.query(self.agency, "SELECT state, count(*) FROM txb.saga_end WHERE saga_id > %s GROUP BY 1", (self.first,)))
        effects = [self.place.postgres.value(database, "SELECT sum(balance) FROM bench.account") for database in self.parts.values()]
        if states != {"completed": self.begun} or effects != [self.begun] * len(STEPS):
            raise Lost(f"{child.name}: {states} of {self.begun:,} sagas, effects {effects}")

    def close(self):
        for database in (self.agency, *self.parts.values()):
            self.place.postgres.drop_database(database)
        for topic in (self.topic, *self.topics.values()):
            self.place.kafka.delete_topic(topic)


def drain(there, sagas):
    """(sagas a second, commits a saga, WAL bytes a saga) from a backlog."""
    place, ended = there.place, there.ended()
    there.begin(sagas)
    place.settle()
    before = there.costs()
    with there.run() as child:
        rate, first = watch(lambda: there.ended() - ended, sagas, child)
        after = there.costs()
        child.stop()
        there.check(child)
    commits, wal = ((b - a) / sagas for a, b in zip(before, after))
    place.say(f"  {rate:,.0f} sagas/s, first after {first:.2f} s, {commits:.2f} commits and {wal:,.0f} bytes of WAL each")
    return rate, float(commits), float(wal)


def drain_fresh(place, sagas):
    there = Installation(place, FEW)
    drained = drain(there, sagas)
    there.close()
    return drained


def latency(place, rate, seconds):
    """p50 and p99 in milliseconds from a start's commit to the saga's end, by the clock of the database."""
    there = Installation(place)
    with there.run() as child:
        there.begin(10)
        place.wait(lambda: there.ended() == 10, child)
        with place.postgres.session(there.agency) as session, session.cursor() as cursor:
            begun, clock = time.monotonic(), threading.Event()  # never set: it only keeps the rate
            for n in range(rate * seconds):
                clock.wait(max(0.0, begun + n / rate - time.monotonic()))
                cursor.execute("SELECT txb.saga_start('trip', '{\"amount\": 1}')")
        there.begun += rate * seconds
        place.wait(lambda: there.ended() == there.begun, child)
        child.stop()
        there.check(child)
        took = [float(ms) for (ms,) in place.postgres.query(there.agency, """SELECT extract(epoch FROM e.ended_at - e.started_at) * 1000
                  FROM txb.saga_end AS e ORDER BY e.started_at OFFSET 10""")]
    there.close()
    took.sort()
    p50, p99 = took[len(took) // 2], took[int(len(took) * 0.99)]
    place.say(f"  {rate}/s  p50 {p50:.1f} ms  p99 {p99:.1f} ms  most {took[-1]:.1f} ms")
    return p50, p99


def measure(place, options):
    drained, beside = [], []
    many = Installation(place, options.stored_sagas)
    for _ in range(options.runs):
        drained.append(drain_fresh(place, options.sagas))
        beside.append(drain(many, options.sagas))
    many.close()
    waited = [latency(place, options.saga_rate, options.saga_seconds) for _ in range(options.runs)]
    stored, few = f"{options.stored_sagas:,}", f"{FEW:,}"
    return [
        Figure("sagas of three steps finish, from a backlog", "sagas/s", [d[0] for d in drained], target=1500),
        Figure(f"the same beside {stored} that ended", "sagas/s", [b[0] for b in beside], bare=[d[0] for d in drained],
               note=f"beside: {few} stored"),
        Figure("commits a saga, over four databases", "commits", [d[1] for d in drained]),
        Figure(f"the same beside {stored}", "commits", [b[1] for b in beside], bare=[d[1] for d in drained], note=f"beside: {few} stored"),
        Figure("WAL a saga, over four databases", "bytes", [d[2] for d in drained]),
        Figure(f"the same beside {stored} stored", "bytes", [b[2] for b in beside], bare=[d[2] for d in drained], note=f"beside: {few} stored"),
        Figure(f"start to end at {options.saga_rate}/s, p50", "ms", [w[0] for w in waited], most=30),
        Figure(f"start to end at {options.saga_rate}/s, p99", "ms", [w[1] for w in waited], most=80),
    ]
