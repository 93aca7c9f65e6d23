"""How fast a replay job runs an outbox again into a new group, and that a job whose workers are killed, paused and slowed
down on the way loses, doubles and swaps nothing."""

import time

from txbtest import process

from txbbench.drain import TOPIC, write_backlog
from txbbench.place import Lost, watch
from txbbench.report import Figure

KILLS = 10
FLOOR = 20_000
FORMS = (("message", "bench.apply_message"), ("batch", "bench.apply_batch"))


class Replay:
    """A new group at the end of the topic, in a database of its own, and one job of all that the source has published."""

    def __init__(self, place, template, source, rows):
        self.place, self.source, self.rows = place, source, rows
        self.database, self.group = place.copy(template), place.fresh("group")
        self.session = place.postgres.connect(self.database)
        self.job, self.position, self.workers = None, 0, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for worker in self.workers:
            worker.__exit__()
        self.session.close()
        self.place.postgres.drop_database(self.database)

    def value(self, sql, *args):
        with self.session.cursor() as cursor:
            cursor.execute(sql, args or None)
            return cursor.fetchone()[0]

    def worker(self, per, function):
        handler = {"kind": "sql", "function": function, "per": per}
        self.workers.append(
            self.place.worker(
                source=self.source,
                group=self.group,
                topics=[TOPIC],
                database=self.place.postgres.uri(self.database),
                start="latest",
                session_timeout_ms=6000,
                handler=handler,
            )
        )
        return self.workers[-1]

    def start(self, worker):
        """The job, once the group has its positions."""
        process.wait_for(
            lambda: self.value("SELECT count(*) FROM txb.consumer_offset") == self.place.partitions,
            "the group's positions",
            alive=worker.check_alive,
        )
        self.job = self.value(
            "SELECT number FROM txb.job_start(NULL, %s, 'bench', ARRAY[%s], NULL, NULL, NULL, NULL, 1, %s, false, false,"
            " NULL, 'a measurement', 'bench')",
            self.group,
            TOPIC,
            self.rows + 1,
        )

    def consumed(self):
        """Of the lane; its position never goes back, and its counters add up whenever one looks."""
        with self.session.cursor() as cursor:
            cursor.execute(
                "SELECT next_offset, consumed, applied, duplicate, failed FROM txb.consumer_offset WHERE partition < 0"
            )
            row = cursor.fetchone()
        if row is None:
            return 0
        position, consumed, applied, duplicate, failed = row
        if position < self.position or consumed != applied + duplicate + failed:
            raise Lost(f"the lane went from {self.position:,} to {position:,}, counters {row[1:]}")
        self.position = position
        return consumed

    def finish(self):
        process.wait_for(lambda: self.state() == "done", f"job {self.job} to be done")
        consumed, duplicate, failed = (
            self.value(f"SELECT sum({name})::bigint FROM txb.consumer_offset") for name in ("consumed", "duplicate", "failed")
        )
        if (consumed, duplicate, failed) != (self.rows, 0, 0):
            raise Lost(f"{consumed:,} consumed, {duplicate:,} duplicate, {failed:,} failed of {self.rows:,}")
        self.place.check_servers()

    def state(self):
        return self.value("SELECT state FROM txb.job WHERE number = %s", self.job)

    def more(self, count):
        goal = self.consumed() + count
        process.wait_for(
            lambda: self.consumed() >= goal, lambda: f"{goal:,} consumed (now {self.consumed():,})", 120, 0.005, self.check
        )
        if self.state() != "running":
            raise Lost("the job was over before it was disturbed: nothing was shown")

    def check(self):
        for worker in self.workers:
            worker.check_alive()

    def owner(self):
        """The worker that holds the lease; by the process number at the end of its name."""

        def found():
            name = self.value("SELECT owner FROM txb.job_lane WHERE job = %s", self.job) or ""
            return next((worker for worker in self.workers if name.endswith(f"-{worker.pid}")), None)

        return process.wait_for(found, "a worker that runs the job", 120, alive=self.check)

    def do(self, sql):
        self.value(f"SELECT {sql}", self.job)


def published_source(place, rows):
    """A source all of whose intents the relay has published."""
    source = write_backlog(place, rows, 10_000)
    place.kafka.create_topic(TOPIC, place.partitions)
    with place.relay(source) as relay, place.postgres.session(source) as session, session.cursor() as cursor:

        def passed():
            cursor.execute("SELECT coalesce(max(watermark), 0) FROM txb.relay")
            return cursor.fetchone()[0] >= rows

        process.wait_for(passed, "the relay to publish the backlog", 900, 0.05, relay.check_alive)
        relay.stop()
    return source


def measure(place, options):
    source = published_source(place, options.replay_rows)
    template = place.migrated(place.fresh("target"))
    rates = {per: [] for per, _ in FORMS}
    for _ in range(options.runs):
        for per, function in FORMS:
            rates[per].append(_whole(place, template, source, options.replay_rows, per, function))
    disturbed = _disturbed(place, template, source, options.replay_rows)
    place.postgres.drop_database(template)
    place.postgres.drop_database(source)
    place.kafka.delete_topic(TOPIC)
    figures = [
        Figure(f"replay into a new group, sql handler per {per}", "messages/s", rates[per], target=FLOOR) for per, _ in FORMS
    ]
    note = f"{KILLS} kill -9 at work, a pause, a slow-down: {options.replay_rows:,} effects once, each key in order"
    return figures + [Figure("replay, disturbed", "messages/s", [disturbed], note=note)]


def _whole(place, template, source, rows, per, function):
    with Replay(place, template, source, rows) as replay:
        worker = replay.worker(per, function)
        replay.start(worker)
        rate, first = watch(replay.consumed, rows, worker)
        replay.finish()
        effects = replay.value("SELECT sum(balance)::bigint FROM bench.account")
        if effects != rows:
            raise Lost(f"{effects:,} effects of {rows:,} messages")
        worker.stop()
    place.say(f"  per {per} {rate:,.0f}/s, first after {first:.2f} s")
    return rate


def _disturbed(place, template, source, rows):
    with Replay(place, template, source, rows) as replay:
        for _ in range(2):
            replay.worker("batch", "bench.apply_noted")
        replay.start(replay.workers[0])
        begun = time.monotonic()
        for number in range(KILLS):
            replay.more(rows // 40)
            if number == 3:
                _pause(replay)
            if number == 6:
                replay.do("txb.job_rate(%s, 2000, 'bench')")
                replay.more(1000)
                replay.do("txb.job_rate(%s, NULL, 'bench')")
            _kill(replay)
        process.wait_for(lambda: replay.consumed() >= rows, lambda: f"{rows:,} (now {replay.consumed():,})", 900, 0.05, replay.check)
        took = time.monotonic() - begun
        replay.finish()
        _check_effects(replay, rows)
    place.say(f"  disturbed {rows / took:,.0f}/s")
    return rows / took


def _kill(replay):
    owner = replay.owner()
    replay.workers.remove(owner)
    owner.__exit__()
    replay.worker("batch", "bench.apply_noted")


def _pause(replay):
    replay.do("txb.job_pause(%s, 'bench', 'a measurement')")
    process.wait_for(
        lambda: replay.value("SELECT count(owner) FROM txb.job_lane WHERE job = %s", replay.job) == 0, "the lane to be left", 120
    )
    replay.do("txb.job_resume(%s, 'bench', 'a measurement')")


def _check_effects(replay, rows):
    effects, distinct, swapped = (
        replay.value("SELECT count(*) FROM bench.noted"),
        replay.value("SELECT count(DISTINCT n) FROM bench.noted"),
        replay.value(
            "SELECT count(*) FROM (SELECT n < lag(n) OVER (PARTITION BY key ORDER BY ord) AS back FROM bench.noted) AS s WHERE back"
        ),
    )
    if (effects, distinct, swapped) != (rows, rows, 0):
        raise Lost(f"{effects:,} effects of {distinct:,} messages, {swapped:,} out of order, expected {rows:,} of each once")
