"""What Kafka does not take: a message too large for its topic holds its key and nothing else, until somebody decides about it; a missing topic and a
missing right hold the topic and nothing else, and end by themselves when the topic or the right is there."""

import itertools

import pytest

from txbtest import process
from txbtest.bank import QUICK, Writers
from txbtest.kafka import Kafka
from txbtest.program import KAFKA_GONE, SAFETY, command
from txbtest.verify import murmur2_partition, read_topic

PASSWORDS = {"relay": "relay-secret", "boss": "boss-secret"}


def publish(system, topic, key, text, kind="note.made"):
    return system.postgres.query(system.bank.source, "SELECT txb.publish(%s, %s, %s, convert_to(%s, 'UTF8'), content_type => 'text/plain')::text",
                                 (topic, key, kind, text), user="txbtest_app")[0][0]


def hold(system):
    return system.postgres.query(system.bank.source, "SELECT kind, topic, key FROM txb.relay_hold ORDER BY number")


def texts(kafka, topic, key=None):
    return [r.value.decode() for r in read_topic(kafka.brokers, topic) if r.headers.get("ce_type") == b"note.made" and (key is None or r.key == key.encode())]


def keys_of(partitions, wanted):
    """So many keys of each of these partitions."""
    for partition, count in wanted.items():
        yield from itertools.islice((f"key{n}" for n in itertools.count() if murmur2_partition(f"key{n}".encode(), partitions) == partition), count)


def test_an_intent_too_large_for_its_topic_holds_its_key_only(systems, postgres, kafka, seed):
    system = systems(postgres, kafka)
    topic = system.bank.topics[0]
    kafka.configure_topic(topic, max_message_bytes=50_000)
    system.relay()
    crew = Writers(system.bank, 4, seed, QUICK, pause_s=0.005, held_s=0.1).start()
    publish(system, topic, "big", "before")
    large = publish(system, topic, "big", "x" * 200_000)
    publish(system, topic, "big", "after")
    publish(system, topic, "small", "beside")
    process.wait_for(lambda: hold(system) == [("key", topic, "big")], system.lag, 60, alive=system.alive)
    crew.stop()
    system.wait_published()
    failed = postgres.query(system.bank.source, "SELECT id::text, side, state, convert_from(key, 'UTF8') FROM txb.failed")
    assert failed == [(large, "outbox", "dead", "big")]
    # A refused batch is sent again, so what was in it may be there twice.
    assert set(texts(kafka, topic, "big")) == {"before"} and set(texts(kafka, topic, "small")) == {"beside"}
    report = system.verify(foreign_ok=True, effects=False, counters=False)
    assert report, report


def test_many_large_intents_in_one_batch_are_sent_apart_and_only_the_large_ones_fail(systems, postgres, kafka):
    """librdkafka reports a whole batch refused when the sum of its messages is too large (R5)."""
    system = systems(postgres, kafka, kafka_client={"linger.ms": "100"})
    topic = system.bank.topics[0]
    kafka.configure_topic(topic, max_message_bytes=50_000)
    for number in range(40):
        publish(system, topic, f"k{number % 8}", f"{number}:" + "y" * (80_000 if number == 20 else 15_000))
    system.relay()
    process.wait_for(lambda: hold(system) == [("key", topic, "k4")], system.lag, 60, alive=system.alive)
    system.wait_published()
    arrived = [int(text.partition(":")[0]) for text in dict.fromkeys(texts(kafka, topic))]
    assert sorted(arrived) == [n for n in range(40) if n % 8 != 4 or n < 20]
    for key in range(8):
        mine = [n for n in arrived if n % 8 == key]
        assert mine == sorted(mine)


def failed(system):
    """{seq: (number, state, resolution, attempts)} of the last editions."""
    return {row[0]: row[1:] for row in system.postgres.query(
        system.bank.source, "SELECT seq, number, state, resolution, attempts FROM txb.failed WHERE replaced_by IS NULL ORDER BY seq")}


def dead(system):
    return [row[0] for row in failed(system).values() if row[1] == "dead"]


def wait_dead(system, count):
    process.wait_for(lambda: len(dead(system)) == count, system.lag, 60, alive=system.alive)
    return dead(system)


def decide(system, numbers, action, *options, stdin=None):
    """What a person would type."""
    uri = system.postgres.uri(system.bank.source, "txbtest_operator")
    yes = ["--yes"] if len(numbers) > 1 else []
    code, out, err = command("-d", uri, "failed", action, *map(str, numbers), "--reason", "test", *yes, *options, stdin=stdin)
    assert (code, err) == (0, ""), f"exit {code}\n{out}{err}"


def edit(system, number, text):
    decide(system, [number], "edit", "--content-type", "text/plain", "--payload-file", "-", stdin=text.encode())


def wait_settled(system):
    """Nothing is left to carry out, and no key is held."""
    process.wait_for(lambda: hold(system) == [] and all(row[1] in ("resolved", "discarded") for row in failed(system).values()),
                     lambda: f"{hold(system)} {failed(system)} {system.lag()}", 60, alive=system.alive)
    system.wait_published()


def first_appearances(kafka, topic, key=None):
    """Texts in their order; what is there again after a refused batch counts once. Long ones by their first letter."""
    return [text if len(text) < 100 else text[0] for text in dict.fromkeys(texts(kafka, topic, key))]


def test_only_what_is_too_large_alone_fails_and_arrives_in_order_when_the_limit_is_raised(systems, postgres, kafka):
    system = systems(postgres, kafka, kafka_client={"linger.ms": "100"})
    topic = system.bank.topics[0]
    kafka.configure_topic(topic, max_message_bytes=50_000)
    with postgres.session(system.bank.source, user="txbtest_app", autocommit=False) as connection, connection.cursor() as cursor:
        words = [("big", "before"), *[(f"k{n}", f"{n}:" + "y" * 15_000) for n in range(5)], ("big", "x" * 80_000), ("big", "after"),
                 *[(f"k{n}", f"{n + 5}:" + "y" * 15_000) for n in range(5)], (None, "z" * 90_000)]  # ten whose sum is too large, and two that are alone
        for key, text in words:
            cursor.execute("SELECT txb.publish(%s, %s, 'note.made', convert_to(%s, 'UTF8'), content_type => 'text/plain')", (topic, key, text))
        connection.commit()
    system.relay()
    numbers = wait_dead(system, 2)
    publish(system, topic, "big", "later")
    publish(system, topic, "small", "beside")
    system.wait_published()
    assert hold(system) == [("key", topic, "big")] and len(dead(system)) == 2
    assert first_appearances(kafka, topic, "big") == ["before"] and first_appearances(kafka, topic, "small") == ["beside"]
    for n in range(5):
        assert [text.partition(":")[0] for text in dict.fromkeys(texts(kafka, topic, f"k{n}"))] == [str(n), str(n + 5)]
    kafka.configure_topic(topic, max_message_bytes=1_000_000)
    decide(system, numbers, "retry")
    publish(system, topic, "big", "last")
    wait_settled(system)
    assert first_appearances(kafka, topic, "big") == ["before", "x", "after", "later", "last"]
    assert [row[1:] for row in failed(system).values()] == [("resolved", "published", 2)] * 2
    arrived = texts(kafka, topic)
    assert arrived.count("z" * 90_000) == 1 and arrived.count("x" * 80_000) == 1


def test_what_is_edited_takes_its_place_and_what_is_discarded_leaves_it(systems, postgres, kafka):
    """Two refused intents in one key, decided about while its writer goes on; a third without a key."""
    system = systems(postgres, kafka)
    topic = system.bank.topics[0]
    kafka.configure_topic(topic, max_message_bytes=50_000)
    system.relay()
    for text in ("0", "x" * 80_000, "1", "x" * 90_000, "2"):
        publish(system, topic, "big", text)
    publish(system, topic, None, "x" * 70_000)
    first, loose = wait_dead(system, 2)  # the second of the key has not been tried
    edit(system, first, "edited")
    edit(system, loose, "loose")
    for n in range(3, 60):
        publish(system, topic, "big", str(n))
    second, = wait_dead(system, 1)
    process.wait_for(lambda: postgres.value(system.bank.source, "SELECT failed_id FROM txb.relay_hold") == second, system.lag, 60, alive=system.alive)
    assert first_appearances(kafka, topic, "big") == ["0", "edited", "1"]
    decide(system, [second], "discard")
    for n in range(60, 120):
        publish(system, topic, "big", str(n))
    wait_settled(system)
    assert first_appearances(kafka, topic, "big") == ["0", "edited", "1", *[str(n) for n in range(2, 120)]]
    assert "loose" in texts(kafka, topic) and not any(text.startswith("x") for text in texts(kafka, topic))
    records = {r.headers["ce_id"].decode() for r in read_topic(kafka.brokers, topic) if r.value in (b"edited", b"loose")}
    assert records == {row[0] for row in postgres.query(system.bank.source, "SELECT id::text FROM txb.failed WHERE replaces IS NOT NULL")}


def test_what_is_sent_again_without_being_mended_is_refused_again_and_holds_nothing_else(systems, postgres, kafka):
    system = systems(postgres, kafka)
    topic = system.bank.topics[0]
    kafka.configure_topic(topic, max_message_bytes=50_000)
    system.relay()
    for key, text in (("big", "x" * 80_000), ("big", "after"), ("small", "beside"), (None, "x" * 70_000)):
        publish(system, topic, key, text)
    for attempts in (1, 2):
        decide(system, wait_dead(system, 2), "retry")
        process.wait_for(lambda: [row[1:] for row in failed(system).values()] == [("dead", None, attempts + 1)] * 2, system.lag, 60, alive=system.alive)
    publish(system, topic, "small", "still beside")
    system.wait_published()
    assert hold(system) == [("key", topic, "big")]
    assert first_appearances(kafka, topic) == ["beside", "still beside"]


def test_many_keys_are_drained_together(systems, postgres, kafka):
    system = systems(postgres, kafka)
    topic = system.bank.topics[0]
    kafka.configure_topic(topic, max_message_bytes=50_000)
    for n in range(30):
        for text in ("x" * 60_000, "1", "2"):
            publish(system, topic, f"k{n}", text)
    relay = system.relay()
    numbers = wait_dead(system, 30)
    kafka.configure_topic(topic, max_message_bytes=1_000_000)
    decide(system, numbers, "retry")
    wait_settled(system)
    for n in range(30):
        assert first_appearances(kafka, topic, f"k{n}") == ["x", "1", "2"]
    assert relay.text().count("a key is no longer held") == 30


def test_nothing_overtakes_the_first_message_of_a_producer_in_a_partition_when_that_is_refused(systems, postgres, kafka):
    """A broker that knows nothing of a producer in a partition takes whatever comes first, whichever sequence number it has: behind a refused first batch
    also the second one, which was under way already. With a batch a message that would be the rest of the key."""
    system = systems(postgres, kafka, kafka_client={"batch.num.messages": "1", "linger.ms": "0"})
    topic = system.bank.topics[0]
    kafka.configure_topic(topic, max_message_bytes=50_000)
    elsewhere, *keys = keys_of(3, {0: 1, 2: 4})
    with postgres.session(system.bank.source, user="txbtest_app", autocommit=False) as connection, connection.cursor() as cursor:
        for key, text in [(elsewhere, "the first of the topic goes alone"), *[(key, text) for key in keys for text in ("x" * 100_000, "after", "later")]]:
            cursor.execute("SELECT txb.publish(%s, %s, 'note.made', convert_to(%s, 'UTF8'), content_type => 'text/plain')", (topic, key, text))
        connection.commit()
    system.relay()
    system.wait_published()
    assert hold(system) == [("key", topic, key) for key in keys]
    assert [text for key in keys for text in texts(kafka, topic, key)] == []


def test_a_missing_topic_holds_its_own_intents_until_it_is_created(systems, postgres, kafka, seed):
    system = systems(postgres, kafka)
    relay = system.relay()
    system.worker()
    missing = system.name + ".missing"
    expected = [publish(system, missing, "k", f"{number}") and f"{number}" for number in range(10)]
    Writers(system.bank, 4, seed, QUICK, operations=20, held_s=0.1).start().join()
    process.wait_for(lambda: hold(system) == [("topic", missing, None)], system.lag, 60, alive=system.alive)
    expected += [publish(system, missing, "k", f"{number}") and f"{number}" for number in range(10, 20)]
    process.wait_for(lambda: system.bank.missing() == 0, system.lag, 60, alive=system.alive)  # the others went on
    assert any(missing in line for line in relay.text().splitlines())
    kafka.create_topic(missing, 2)
    process.wait_for(lambda: hold(system) == [], system.lag, 60, alive=system.alive)
    system.wait_rest()
    assert list(dict.fromkeys(texts(kafka, missing))) == expected
    report = system.verify()
    assert report, report


@pytest.fixture(scope="module")
def guarded_kafka():
    with Kafka(sasl=PASSWORDS) as server:
        yield server


def allow(kafka, user, topic, *operations):
    kafka.tool("kafka.admin.AclCommand", "--add", "--allow-principal", f"User:{user}", "--topic", topic,
               *[word for operation in operations for word in ("--operation", operation)])


def test_a_missing_right_holds_its_topic_until_it_is_granted(systems, postgres, guarded_kafka):
    client = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "relay", "sasl.password": PASSWORDS["relay"]}
    system = systems(postgres, guarded_kafka, kafka_client=client, brokers=guarded_kafka.sasl_brokers)
    guarded_kafka.tool("kafka.admin.AclCommand", "--add", "--allow-principal", "User:relay", "--cluster", "--operation", "IdempotentWrite")
    open_topic, closed = system.name + ".open", system.name + ".closed"
    for topic in (open_topic, closed):
        guarded_kafka.create_topic(topic)
    allow(guarded_kafka, "relay", open_topic, "Write", "Describe")
    allow(guarded_kafka, "boss", closed, "Write", "Describe")
    relay = system.relay()
    publish(system, closed, "k", "one")
    publish(system, open_topic, "k", "two")
    process.wait_for(lambda: hold(system) == [("topic", closed, None)], system.lag, 60, alive=system.alive)
    process.wait_for(lambda: texts(guarded_kafka, open_topic) == ["two"], system.lag, 60, alive=system.alive)
    publish(system, closed, "k", "three")
    allow(guarded_kafka, "relay", closed, "Write", "Describe")
    process.wait_for(lambda: hold(system) == [], system.lag, 60, alive=system.alive)
    system.wait_published()
    assert list(dict.fromkeys(texts(guarded_kafka, closed))) == ["one", "three"]
    assert PASSWORDS["relay"] not in relay.text()


@pytest.mark.parametrize("role", ["relay", "worker"])
def test_a_wrong_password_for_kafka_is_one_clear_line_without_the_password(role, systems, postgres, guarded_kafka):
    client = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "relay", "sasl.password": "guessed-word"}
    system = systems(postgres, guarded_kafka, kafka_client=client, brokers=guarded_kafka.sasl_brokers)
    code, out, err = command("--config", system.config(), role, timeout_s=90)
    lines = [line for line in err.splitlines() if "level=info" not in line]
    assert code in (KAFKA_GONE, SAFETY) and len(lines) == 1, f"exit {code}\n{out}{err}"
    assert "uthentication" in lines[0] and guarded_kafka.sasl_brokers in lines[0]
    assert "guessed-word" not in out + err
