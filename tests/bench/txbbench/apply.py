"""How fast a worker applies, beside one connection that applies arrays."""

from txbbench import drain
from txbbench.place import Lost, watch
from txbbench.report import Figure

FORMS = (("message", "bench.apply_message", 25_000), ("batch", "bench.apply_batch", 40_000))


def _check_effect(place, database, child, messages):
    place.check_servers()
    effect = place.postgres.value(database, "SELECT sum(balance) FROM bench.account")
    if effect != messages:
        raise Lost(f"{child.name}: {effect:,} effects of {messages:,} messages")


def _progress(place, database, sql):
    """A function that reads a number over a connection of its own."""
    session = place.postgres.connect(database)

    def read():
        with session.cursor() as cursor:
            cursor.execute(sql)
            return int(cursor.fetchone()[0])

    return session, read


def apply_by_worker(place, template, topic, messages, per, function):
    database = place.copy(template)
    session, read = _progress(place, database, "SELECT coalesce(sum(applied), 0) FROM txb.consumer_offset")
    handler = {"kind": "sql", "function": function, "per": per}
    with place.worker(
        group=place.fresh("bench"), topics=[topic], database=place.postgres.uri(database), handler=handler
    ) as worker:
        rate, first = watch(read, messages, worker)
        worker.stop()
        _check_effect(place, database, worker, messages)
    session.close()
    place.postgres.drop_database(database)
    place.say(f"  worker, per {per} {rate:,.0f}/s, first after {first:.2f} s")
    return rate


def apply_by_bare(place, template, topic, messages):
    database = place.copy(template)
    session, read = _progress(place, database, "SELECT sum(next_offset) FROM bare.position")
    with place.peer(
        "bare_apply", database=place.postgres.uri(database), brokers=place.kafka.brokers, topic=topic, messages=messages
    ) as bare:
        rate, first = watch(read, messages, bare)
        bare.finish()
        _check_effect(place, database, bare, messages)
    session.close()
    place.postgres.drop_database(database)
    place.say(f"  bare {rate:,.0f}/s, first after {first:.2f} s")
    return rate


def fill_topic(place, messages, keys=10_000):
    """Messages as the relay writes them, by the bare loop: the worker's measurement does not lean on the relay."""
    backlog = drain.write_backlog(place, messages, 10_000, keys)
    place.script(backlog, "bare_outbox.sql")
    topic = place.topic()
    with place.peer(
        "bare_relay", database=place.postgres.uri(backlog), brokers=place.kafka.brokers, topic=topic
    ) as bare:
        bare.finish(600)
        drain.check_count(place, bare, topic, messages)
    place.postgres.drop_database(backlog)
    return topic


def measure(place, options):
    topic = fill_topic(place, options.messages)
    template = place.migrated(place.fresh("target"))
    ours, bare = {per: [] for per, _, _ in FORMS}, []
    for _ in range(options.runs):
        for per, function, _ in FORMS:
            ours[per].append(apply_by_worker(place, template, topic, options.messages, per, function))
        bare.append(apply_by_bare(place, template, topic, options.messages))
    place.postgres.drop_database(template)
    place.kafka.delete_topic(topic)
    return [
        Figure(f"worker applies, sql handler per {per}", "messages/s", ours[per], target=target, bare=bare)
        for per, _, target in FORMS
    ]
