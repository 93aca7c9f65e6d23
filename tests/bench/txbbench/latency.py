"""From insert to a raw consumer at a steady rate; the same while two transactions stay open and others roll back."""

import contextlib
import subprocess

from txbtest import process

from txbbench.place import Lost
from txbbench.report import Figure

WARM_UP_S = 2
ROLLBACK_PERCENT = 20


def run_load(place, database, relay, rate, seconds, rollback=0, around=None):
    """Load and ear over one new topic; returns what the ear heard. Exactly the committed intents must be heard.

    `around`, if given, makes a context from the topic, and the load runs in it.
    """
    topic = place.topic()
    uri = place.postgres.uri(database)
    with place.peer(
        "tail", stdin=subprocess.PIPE, brokers=place.kafka.brokers, topic=topic, skip=rate * WARM_UP_S
    ) as ear:
        process.wait_for(lambda: ear.text().startswith("ready"), "the ear to listen", 30, alive=ear.check_alive)
        with around(topic) if around else contextlib.nullcontext():
            with place.peer("load", database=uri, topic=topic, rate=rate, seconds=seconds, rollback=rollback) as load:
                done = load.finish(seconds + 120)
        ear.process.stdin.write(f"expect {done['committed']}\n")
        ear.process.stdin.close()
        heard = ear.finish()
    relay.check_alive()
    place.check_servers()
    if heard["missing"] != 0 or heard["repeated"] != 0:
        raise Lost(
            f"of {done['committed']:,} committed intents {heard['missing']:,} were not heard,"
            f" {heard['repeated']:,} twice"
        )
    place.kafka.delete_topic(topic)
    place.say(
        f"  {heard['rate']:,.0f}/s  p50 {heard['p50_ms']:.2f} ms  p99 {heard['p99_ms']:.2f} ms"
        f"  most {heard['max_ms']:.1f} ms"
        f"  (the load's clock was late by {done['late_ms']:.1f} ms at most)"
    )
    return heard


def measure(place, options):
    database = place.migrated(place.fresh("latency"))
    with place.relay(database) as relay:
        run_load(place, database, relay, options.rate, options.seconds)  # not counted: Kafka is still being compiled
        heard = [run_load(place, database, relay, options.rate, options.seconds) for _ in range(options.runs)]
        relay.stop()
    place.postgres.drop_database(database)
    what = f"insert to consumer at {options.rate:,}/s"
    return [
        Figure(f"{what}, p50", "ms", [h["p50_ms"] for h in heard], most=5),
        Figure(f"{what}, p99", "ms", [h["p99_ms"] for h in heard], most=20),
    ]


class OpenTransactions:
    """An idle transaction that has an xid and a publishing one, open as long as the load runs."""

    names = ("bench idle", "bench publisher")

    def __init__(self, place, database, configuration):
        self.place, self.database, self.configuration = place, database, configuration
        self.named = 0

    @contextlib.contextmanager
    def __call__(self, topic):
        with self._begin(self.names[0], "SELECT pg_current_xact_id()") as idle:
            with self._begin(
                self.names[1],
                "INSERT INTO txb.outbox (topic, key, type, payload) VALUES (%s, 'open', 'bench.open', 'open')",
                topic,
            ) as publisher:
                yield
                self._check_status()
                publisher.commit()
            idle.rollback()

    @contextlib.contextmanager
    def _begin(self, name, sql, *args):
        with self.place.postgres.session(self.database, autocommit=False, application_name=name) as session:
            with session.cursor() as cursor:
                cursor.execute(sql, args)
            yield session

    def _check_status(self):
        """The operator must see who is behind the oldest hole, and not be sent after the idle one, which fills none."""
        text = process.run([self.place.txbroker, "--config", self.configuration, "-o", "json", "status"])
        self.named += self.names[1] in text
        if self.names[0] in text:
            raise Lost(f"status names a session that holds no hole:\n{text}")


def measure_open(place, options):
    database = place.migrated(place.fresh("open"))
    around = OpenTransactions(place, database, place.configuration(source=database))
    without, within = [], []
    with place.relay(database) as relay:
        for _ in range(options.runs):
            without.append(run_load(place, database, relay, options.open_rate, options.open_seconds, ROLLBACK_PERCENT))
            within.append(
                run_load(place, database, relay, options.open_rate, options.open_seconds, ROLLBACK_PERCENT, around)
            )
        relay.stop()
    place.postgres.drop_database(database)
    if around.named != options.runs:
        raise Lost(f"status named the session behind the oldest hole in {around.named} of {options.runs} runs")
    what = f"two transactions open for {options.open_seconds} s"
    note = "beside: the same load without them; status named the session behind the oldest hole in every run"
    ours, bare = ([h["rate"] for h in side] for side in (within, without))
    figures = [Figure(f"{what}, rate of the others", "intents/s", ours, bare=bare, note=note)]
    ours, bare = ([h["p99_ms"] for h in side] for side in (within, without))
    return figures + [Figure(f"{what}, p99 of the others", "ms", ours, bare=bare)]
