"""Draining a backlog: intents a second, beside a loop that only reads and produces; and the memory it takes."""

from txbbench.place import Lost, watch
from txbbench.report import Figure

KEYS = 10_000
SHAPES = (
    ("thousand-row transactions", 1000, KEYS),
    ("one-row transactions", 1, KEYS),
    ("thousand-row transactions, no keys", 1000, 0),
)
TOPIC = "bench.drain"  # the rows name it, so every run makes it anew


def write_backlog(place, rows, per_transaction, keys=KEYS):
    """A database with a backlog that nobody has read yet."""
    place.say(f"writing a backlog of {rows:,} intents, {per_transaction:,} a transaction")
    name = place.migrated(place.fresh("backlog"))
    with place.postgres.session(name) as session, session.cursor() as cursor:
        cursor.execute("CALL bench.fill(%s, %s, %s, %s)", (TOPIC, rows, per_transaction, keys))
    return name


def check_count(place, child, topic, rows):
    place.check_servers()
    found = place.published(topic)
    if found != rows:
        raise Lost(f"{child.name}: {found:,} messages in the topic for {rows:,} intents")


def drain_by_relay(place, database, rows):
    """Intents a second; every one must be in the topic exactly once, since nothing crashed."""
    with place.relay(database) as relay:
        rate, first = watch(lambda: place.published(TOPIC), rows, relay)
        relay.stop()
        check_count(place, relay, TOPIC, rows)
    place.say(f"  relay {rate:,.0f}/s, first after {first:.2f} s")
    return rate


def drain_by_bare(place, database, rows, queue):
    with place.peer(
        "bare_relay", database=place.postgres.uri(database), brokers=place.kafka.brokers, topic=TOPIC, queue=queue
    ) as bare:
        rate, first = watch(lambda: place.published(TOPIC), rows, bare)
        bare.finish()
        check_count(place, bare, TOPIC, rows)
    place.say(f"  bare  {rate:,.0f}/s, first after {first:.2f} s")
    return rate


def on_copy(place, template, drain, *args):
    """A run on a copy of its own and a new topic: each finds rows that were never read and an empty log."""
    database = place.copy(template)
    place.kafka.create_topic(TOPIC, place.partitions)
    try:
        return drain(place, database, *args)
    finally:
        place.kafka.delete_topic(TOPIC)
        place.postgres.drop_database(database)


def measure(place, options):
    figures = []
    with place.without_autovacuum():
        for shape, per_transaction, keys in SHAPES:
            template = write_backlog(place, options.rows, per_transaction, keys)
            place.script(template, "bare_outbox.sql")
            ours, bare = [], []
            for _ in range(options.runs):
                ours.append(on_copy(place, template, drain_by_relay, options.rows))
                bare.append(on_copy(place, template, drain_by_bare, options.rows, options.bare_queue))
            place.postgres.drop_database(template)
            figures.append(Figure(f"relay drains, {shape}", "intents/s", ours, target=100_000, bare=bare))
    return figures


def measure_memory(place, options):
    """The peak of the whole process, Kafka client included, with the backlog behind it and until it is drained."""
    peaks = []
    with place.without_autovacuum():
        database = write_backlog(place, options.memory_rows, 10_000)
        place.kafka.create_topic(TOPIC, place.partitions)
        with place.relay(database) as relay:
            rate, _ = watch(lambda: place.published(TOPIC), options.memory_rows, relay, deadline_s=3600)
            peaks.append(relay.peak_kib() / 1024)
            relay.stop()
            check_count(place, relay, TOPIC, options.memory_rows)
        place.kafka.delete_topic(TOPIC)
        place.postgres.drop_database(database)
    millions = options.memory_rows / 1e6
    return [
        Figure(
            f"relay's peak memory, {millions:g} million behind", "MiB", peaks, most=64, note=f"drained at {rate:,.0f}/s"
        )
    ]
