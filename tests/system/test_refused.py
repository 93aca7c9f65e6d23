"""What Kafka does not take: a message too large for its topic holds its key and nothing else; a missing topic and a missing right hold the topic and
nothing else, and end by themselves when the topic or the right is there."""

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
