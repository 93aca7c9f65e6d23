"""What failed messages cost those that don't fail, and how fast they are found, looked at and tried again."""

import json
import time

from txbtest import process

from txbbench.apply import fill_topic
from txbbench.place import Lost, watch
from txbbench.report import Figure

KEYS = 1000
BAD = 50_000  # which one is the only bad one; its key is 0
BAD_PERCENT = 5
FEW = 1000
LOOKS = 100


def _worker(place, topic, database, function):
    return place.worker(
        group="bench",
        topics=[topic],
        database=place.postgres.uri(database),
        handler={"kind": "sql", "function": function},
    )


def _reader(place, database, sql):
    session = place.postgres.connect(database)

    def read():
        with session.cursor() as cursor:
            cursor.execute(sql)
            return int(cursor.fetchone()[0])

    return session, read


def _counters(place, database):
    consumed, applied, duplicate, failed, effects = (
        int(place.postgres.value(database, f"SELECT coalesce(sum({column}), 0) FROM {table}"))
        for column, table in (
            ("consumed", "txb.consumer_offset"),
            ("applied", "txb.consumer_offset"),
            ("duplicate", "txb.consumer_offset"),
            ("failed", "txb.consumer_offset"),
            ("balance", "bench.account"),
        )
    )
    if consumed != applied + duplicate + failed or applied != effects or duplicate != 0:
        raise Lost(f"consumed {consumed:,}, applied {applied:,}, duplicate {duplicate:,}, failed {failed:,}, effects {effects:,}")
    return consumed, applied, failed


def _looking(session, database):
    """A reader of how much is consumed that has the counters agree at each moment it looks (W15), in one snapshot; and how often it has looked."""
    looks = 0

    def read():
        nonlocal looks
        with session.cursor() as cursor:
            cursor.execute("SELECT coalesce(sum(consumed), 0), coalesce(sum(applied + duplicate + failed), 0) FROM txb.consumer_offset")
            consumed, others = map(int, cursor.fetchone())
        if consumed != others:
            raise Lost(f"{database}: consumed {consumed:,}, applied, duplicate and failed {others:,}")
        looks += 1
        return consumed

    return read, lambda: looks


def _consume(place, template, topic, messages, function, expected_failed):
    """Messages a second until every one is consumed: applied, or set aside."""
    database = place.copy(template)
    session = place.postgres.connect(database)
    read, looks = _looking(session, database)
    with _worker(place, topic, database, function) as worker:
        rate, _ = watch(read, messages, worker, every_s=0.005)
        while looks() < LOOKS:
            read()
        worker.stop()
    session.close()
    place.check_servers()
    consumed, _, failed = _counters(place, database)
    if (consumed, failed) != (messages, expected_failed):
        raise Lost(f"{function}: {consumed:,} consumed, {failed:,} failed, expected {messages:,} and {expected_failed:,}")
    place.say(f"  {function} {rate:,.0f}/s, {failed:,} failed; {looks():,} looks at the counters")
    return rate, database


def _key_of(number):
    return number * 7919 % KEYS


def _behind(messages):
    """How many follow the bad message in its key, itself included."""
    return sum(1 for n in range(BAD, messages) if _key_of(n) == _key_of(BAD))


def _edit(place, topic, database, messages):
    """The bad message is mended: it and all that is held behind it are applied, in the order of the key."""
    (number,), = place.postgres.query(database, "SELECT number FROM txb.failed WHERE state IN ('retrying', 'dead')")
    mended = place.path(place.fresh("mended") + ".json")
    with open(mended, "w", encoding="ascii") as file:
        json.dump({"n": BAD, "mended": True}, file, separators=(",", ":"))  # otherwise it would begin as the bad one does
    process.run([place.txbroker, "--database", place.postgres.uri(database), "failed", "edit", number, "--payload-file", mended,
                 "--reason", "bench", "--yes"])
    session, read = _reader(place, database, "SELECT coalesce(sum(applied), 0) FROM txb.consumer_offset")
    with _worker(place, topic, database, "bench.apply_one_bad") as worker:
        place.wait(lambda: read() == messages, worker)
        worker.stop()
    session.close()
    _, applied, failed = _counters(place, database)
    order = [n for (n,) in place.postgres.query(database, "SELECT n FROM bench.noted ORDER BY ord")]
    if (applied, failed) != (messages, 0) or order != [n for n in range(messages) if _key_of(n) == _key_of(BAD)]:
        raise Lost(f"after the edit {applied:,} of {messages:,} are applied, {failed:,} failed; its key in the order {order}")


def measure(place, options):
    return _one_bad(place, options) + _many_bad(place, options)


def _one_bad(place, options):
    messages = options.failed_messages
    if messages <= BAD:
        raise Lost(f"the bad message is number {BAD:,}: more are needed")
    topic = fill_topic(place, messages, KEYS)
    template = place.migrated(place.fresh("target"))
    ours, beside = [], []
    for _ in range(options.runs):
        for function, rates, failed in (
            ("bench.apply_none_bad", beside, 0),
            ("bench.apply_one_bad", ours, _behind(messages)),
        ):
            rate, database = _consume(place, template, topic, messages, function, failed)
            rates.append(rate)
            if failed > 0:
                _edit(place, topic, database, messages)
            place.postgres.drop_database(database)
    place.postgres.drop_database(template)
    place.kafka.delete_topic(topic)
    return [
        Figure(
            f"worker, one bad message among {KEYS:,} keys",
            "messages/s",
            ours,
            bare=beside, least_ratio=0.8,
            note=f"{messages:,} messages, the {_behind(messages):,} of its key set aside, edited, and applied in order; beside: the same handler and no bad"
            " message",
        )
    ]


def _many_bad(place, options):
    """One in twenty fails, each of a key of its own: how fast the rest goes on, a person sees the causes, and one cause is mended."""
    messages = options.failed_messages
    bad = messages * BAD_PERCENT // 100
    topic = fill_topic(place, messages, messages)
    template = place.migrated(place.fresh("target"))
    rates, few, beside, listing, retried = [], [], [], [], []
    for _ in range(options.runs):
        rate, database = _consume(place, template, topic, messages, "bench.apply_none_bad", 0)
        beside.append(rate)
        place.postgres.drop_database(database)
        rate, database = _consume(place, template, topic, messages, "bench.apply_few_bad", messages // FEW)
        few.append(rate)
        place.postgres.drop_database(database)
        rate, database = _consume(place, template, topic, messages, "bench.apply_some_bad", bad)
        rates.append(rate)
        listing.append(_list(place, database, bad))
        retried.append(_retry(place, topic, database, messages, bad))
        place.postgres.drop_database(database)
    place.postgres.drop_database(template)
    place.kafka.delete_topic(topic)
    return [
        Figure(
            f"worker, one in {FEW:,} failing", "messages/s", few, bare=beside,
            note=f"{messages:,} messages, each of a key of its own, so that nearly every batch has one that fails; beside: another handler that fails for none",
        ),
        Figure(
            f"worker, {BAD_PERCENT} % failing in three ways", "messages/s", rates, bare=beside,
            note=f"{messages:,} messages, each of a key of its own; beside: another handler that fails for none",
        ),
        Figure(f"failed list --group-by error, {bad:,} failed", "ms", listing, most=1000),
        Figure("failed retry of one cause, until applied", "messages/s", retried),
    ]


def _groups(place, database):
    out = process.run(
        [place.txbroker, "--database", place.postgres.uri(database), "-o", "json", "failed", "list", "--group-by", "error"]
    )
    return json.loads(out)


def _list(place, database, bad):
    begun = time.monotonic()
    groups = _groups(place, database)["groups"]
    took = time.monotonic() - begun
    counts = sorted(group["messages"] for group in groups)
    if len(counts) != 3 or sum(counts) != bad:
        raise Lost(f"failed list --group-by error shows {counts} for {bad:,} failed messages of three causes")
    place.say(f"  three groups of {counts} in {took * 1000:,.0f} ms")
    return took * 1000


def _retry(place, topic, database, messages, bad):
    """The first cause is mended and its group retried: exactly those are applied."""
    groups = _groups(place, database)["groups"]
    group = next(g for g in groups if "is closed" in json.dumps(g) or "P0001" in json.dumps(g))
    place.postgres.query(database, "INSERT INTO bench.mended VALUES (0)")
    session, read = _reader(
        place, database, f"SELECT coalesce(sum(applied), 0) - {messages - bad} FROM txb.consumer_offset"
    )
    process.run(
        [place.txbroker, "--database", place.postgres.uri(database), "failed", "retry", "--error-group", group["error_group"], "--yes"]
    )
    with _worker(place, topic, database, "bench.apply_some_bad") as worker:
        rate, _ = watch(read, group["messages"], worker, every_s=0.005)
        worker.stop()
    session.close()
    _, applied, failed = _counters(place, database)
    if (applied, failed) != (messages - bad + group["messages"], bad - group["messages"]):
        raise Lost(f"after the retry of {group['messages']:,}: {applied:,} applied, {failed:,} failed")
    place.say(f"  retried {group['messages']:,} at {rate:,.0f}/s")
    return rate
