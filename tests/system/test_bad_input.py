"""Bad input: one clear line that names the thing and the remedy, an exit code, no noise, no secret, and nothing changed."""

import concurrent.futures
import json
import os
import re
import subprocess

import pytest
from confluent_kafka import Producer

from txbtest import process
from txbtest.plugin import build_plugin
from txbtest.program import FAILED, KAFKA_GONE, POSTGRES_GONE, SAFETY, USAGE, System, binary, command

SECRET = "s3cr3t-word"


@pytest.fixture(scope="module")
def shared(postgres, kafka, seed):
    """For all that must change nothing."""
    made = System(postgres, kafka, "bad", seed)
    yield made
    made.close()


@pytest.fixture
def system(shared):
    before = contents(shared)
    yield shared
    assert contents(shared) == before


@pytest.fixture
def fresh(systems, postgres, kafka):
    return systems(postgres, kafka)


def contents(system):
    """What must not change: rows of schema txb in both databases (times aside), and topics."""
    found = {}
    for database in (system.bank.source, system.bank.target):
        with system.postgres.session(database) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT c.oid::regclass::text FROM pg_class AS c WHERE relnamespace = to_regnamespace('txb') AND relkind = 'r'")
            for (table,) in cursor.fetchall():
                cursor.execute(f"SELECT count(*) FROM {table}")
                found[database, table] = cursor.fetchone()
    # A broker makes its own when it is first asked for a group's coordinator.
    found["topics"] = sorted(topic for topic in system.kafka.admin().list_topics(timeout=30).topics if topic != "__consumer_offsets")
    return found


def refused(code, words, *args, stdin=None, env=None):
    """The command ends with `code` and one line on standard error in which all `words` stand. Lines at level info may come before it: a role that
    starts says so."""
    got, out, err = command(*args, stdin=stdin, env=env, timeout_s=90)
    lines = [line for line in err.splitlines() if line.strip() and "level=info" not in line]
    assert got in (code if isinstance(code, tuple) else (code,)), f"exit {got}\n{out}{err}"
    assert len(lines) == 1, f"not one line:\n{err}"
    for word in words:
        assert re.search(word, lines[0]), f"{word} is not in: {lines[0]}"
    assert SECRET not in out + err
    assert len(lines[0]) < 700
    return lines[0]


# -- PostgreSQL ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["status", "doctor", "init", "relay"])
def test_a_connection_string_that_is_none(role, kafka):
    if role == "doctor":
        code, out, err = command("--database", f"postgresql://u:{SECRET}@[broken/x", "--brokers", kafka.brokers, "doctor")
        assert code in (1, USAGE) and SECRET not in out + err
        return
    refused(USAGE, ["connection string|database"], "--database", f"postgresql://u:{SECRET}@[broken/x", "--brokers", kafka.brokers, role)


def test_a_server_that_is_down_at_start(kafka):
    port = process.free_port()
    for role in ("init", "relay", "publish"):
        more = ["--topic", "t", "--type", "x", "--payload", "1"] if role == "publish" else []
        refused(POSTGRES_GONE, [f"127.0.0.1.*{port}|{port}"], "--database", f"postgresql://u:{SECRET}@127.0.0.1:{port}/x", "--brokers", kafka.brokers,
                role, *more)


def test_a_database_that_does_not_exist(postgres, kafka):
    refused(USAGE, ["nosuch", "does not exist"], "--database", postgres.uri("nosuch"), "--brokers", kafka.brokers, "relay")


def test_a_wrong_password(postgres, kafka):
    postgres.query("postgres", "DROP ROLE IF EXISTS locked; DROP ROLE IF EXISTS password_users")
    postgres.query("postgres", "CREATE ROLE password_users; CREATE ROLE locked LOGIN PASSWORD 'right' IN ROLE password_users")
    refused(SAFETY, ["locked", "password", "correct user or password"], "--database", postgres.uri("postgres", "locked", SECRET), "--brokers", kafka.brokers, "relay")


def test_a_database_without_the_schema(system, postgres, kafka):
    postgres.create_database(f"{system.name}_bare")
    for user in ("postgres", "txbtest_relay"):
        refused(SAFETY, [f"{system.name}_bare", "init"], "--database", postgres.uri(f"{system.name}_bare", user), "--brokers", kafka.brokers, "relay")
    refused(SAFETY, [f"{system.name}_bare", "init"], "--config", system.config(worker={"database": postgres.uri(f"{system.name}_bare")}), "worker")
    assert postgres.value(f"{system.name}_bare", "SELECT to_regnamespace('txb')") is None


@pytest.mark.parametrize("change,words", [("DELETE FROM txb.schema_migration WHERE version = (SELECT max(version) FROM txb.schema_migration)", ["init"]),
                                          ("INSERT INTO txb.schema_migration (version, name, sha256) VALUES (999, '0999_future.sql', 'x')", ["999", "newer"])])
def test_a_schema_of_another_version(change, words, fresh, postgres):
    for database in (fresh.bank.source, fresh.bank.target):
        postgres.query(database, change)
    before = contents(fresh)
    refused(SAFETY, words + [fresh.bank.source], "--config", fresh.config(), "relay")
    refused(SAFETY, words + [fresh.bank.target], "--config", fresh.config(), "worker")
    refused(SAFETY, words + [fresh.bank.source], "--database", postgres.uri(fresh.bank.source, "txbtest_app"), "publish", "--topic", "t", "--type", "x",
            "--payload", "1") if "999" in words else None
    if "999" in words:
        refused(SAFETY, words + [fresh.bank.source], "--database", postgres.uri(fresh.bank.source), "init")
    assert contents(fresh) == before


def test_a_missing_permission(system, postgres):
    nobody = postgres.uri(system.bank.source, "txbtest_nobody")
    postgres.query("postgres", "DROP ROLE IF EXISTS txbtest_nobody; CREATE ROLE txbtest_nobody LOGIN")
    no_right = ["user txbtest_nobody has no right on schema txb", "init --role txbtest_nobody="]
    refused(SAFETY, no_right, "--config", system.config(sources=[{"name": system.name, "database": nobody}]), "relay")
    refused(SAFETY, ["permission|txb_worker"], "--config", system.config(worker={"database": postgres.uri(system.bank.target, "txbtest_nobody")}), "worker")
    refused(SAFETY, no_right, "--database", nobody, "publish", "--topic", "t", "--type", "x", "--payload", "1")
    code, out, _ = command("--database", nobody, "--brokers", system.kafka.brokers, "doctor")
    assert code == 1 and no_right[0] in out and "init --role" in out


def test_a_relay_s_user_is_no_worker(system, postgres):
    refused(SAFETY, ["no right to call txb.* and [0-9]+ more", "init --role txbtest_relay=txb_worker"], "--config",
            system.config(worker={"database": postgres.uri(system.bank.target, "txbtest_relay")}), "worker")


def test_an_application_s_user_is_no_relay(system, postgres):
    refused(SAFETY, ["may not relay", "init --role txbtest_app=txb_relay"], "--config",
            system.config(sources=[{"name": system.name, "database": postgres.uri(system.bank.source, "txbtest_app")}]), "relay")


# -- Kafka ---------------------------------------------------------------------------------------------------------------------------------


def test_kafka_that_is_down_at_start(system):
    brokers = f"127.0.0.1:{process.free_port()}"
    config = system.config(kafka={"brokers": brokers})
    with concurrent.futures.ThreadPoolExecutor() as pool:  # each tries for some seconds
        for done in [pool.submit(refused, KAFKA_GONE, [brokers, "Connection refused", "start the brokers, or correct kafka.brokers"], *args) for args in (
                ("--config", config, "relay"), ("--config", config, "worker"), ("--brokers", brokers, "tail", "x"), ("--brokers", brokers, "demo"))]:
            done.result()


def test_a_missing_topic(system):
    refused(USAGE, ["nosuch.topic", "create|does not exist"], "--config", system.config(worker={"topics": ["nosuch.topic"]}), "worker")
    code, _, err = command("--brokers", system.kafka.brokers, "tail", "nosuch.topic")
    assert code != 0 and "nosuch.topic" in err and len(err.strip().splitlines()) == 1


# -- configuration -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change,words", [
    ({"relay": {"lease_sm": 5000}}, ["lease_sm", "lease_ms"]),
    ({"relay": {"lease_ms": "soon"}}, ["lease_ms", "soon|number|integer"]),
    ({"relay": {"lease_ms": 1}}, ["lease_ms", "1000"]),
    ({"worker": {"hanlder": {}}}, ["hanlder", "handler"]),
    ({"worker": {"start": "earlyest"}}, ["start", "earliest"]),
    ({"wrokers": []}, ["wrokers", "workers"]),
    ({"kafka_client": {"enable.idempotence": "false"}}, ["enable.idempotence"]),
    ({"kafka_client": {"linger.msec": "1"}}, ["linger.msec", "linger.ms"]),
    ({"worker": {"handler": {"kind": "sql", "function": "drop table x"}}}, ["function"]),
])
def test_a_configuration_with_a_typo(change, words, system):
    path = system.config(**change)
    for role in ("relay", "worker", "run", "config"):
        refused(USAGE, words, "--config", path, role)


def test_a_configuration_that_is_no_json_or_not_there(system):
    path = os.path.join(system.directory.path, "bad.json")
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"sources": [\n  {"name": "a",, }]}')
    refused(USAGE, [re.escape(path), "2"], "--config", path, "relay")
    refused(USAGE, [re.escape(path + ".nowhere")], "--config", path + ".nowhere", "relay")


def test_what_cannot_work_is_refused_before_it_is_tried(kafka):
    refused(USAGE, ["empty", "--config FILE"], "-c", "", "config")
    assert command("config", "--check", env={"TXB_CONFIG": ""})[0] == 0
    refused(USAGE, ["http://x:9092", "HOST:PORT"], "-b", "http://x:9092", "config", "--check")
    refused(USAGE, ["connection string"], "-d", "x=1", "config", "--check")
    refused(USAGE, ["connection string"], "-d", f"x=1 password={SECRET}", "config", "--check")
    refused(USAGE, ["TXB_WORKERS_X_START"], "config", "--check", env={"TXB_WORKERS_X_START": "latest"})
    for name in ("", "bad topic", ".."):
        refused(USAGE, [f'topic "{name}"'], "-b", kafka.brokers, "tail", name)


def test_flags_that_would_be_left_aside():
    refused(USAGE, ["--database", "txbroker run"], "-d", "postgresql:///shop", "dev")
    refused(USAGE, ["--brokers", "txbroker run"], "-b", "127.0.0.1:9092", "dev")
    refused(USAGE, ["--keep", "--database"], "demo", "--keep")
    refused(USAGE, ["foo", "more than once"], "-d", "postgresql://127.0.0.1:1/x", "publish", "-t", "t", "--type", "x", "-p", "1", "-H", "foo=1", "-H", "foo=2")


def test_what_was_committed_is_told_when_it_cannot_be_printed(fresh):
    def unprinted(*args, stdin=b""):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([binary(), "-d", fresh.postgres.uri(fresh.bank.source), *args], input=stdin, stdout=full, stderr=subprocess.PIPE,
                                  timeout=60, check=False)
        assert done.returncode == FAILED and done.stderr.count(b"can't write to standard output") == 1, done.stderr
        return done.stderr.decode()

    lines = b'{"topic": "t", "type": "x"}\n' * 3
    assert "3 intents are committed; only their ids could not be printed" in unprinted("publish", "--jsonl", stdin=lines)
    assert "1 intent is committed; only its id could not be printed" in unprinted("publish", "-t", "t", "--type", "x", "-p", "1")
    assert "only the report could not be printed" in unprinted("init")


def test_an_offset_that_is_not_there_is_told_with_those_that_are(fresh):
    topic = fresh.bank.topics[0]
    fresh.kafka.grow_topic(topic, fresh.partitions + 1)
    producer = Producer({"bootstrap.servers": fresh.kafka.brokers})
    for _ in range(3):
        producer.produce(topic, b"x", partition=0)
    assert producer.flush(60) == 0
    refused(FAILED, [f"topic {topic}: partition 0 has offsets 0 to 3, not 999999"], "-b", fresh.kafka.brokers, "tail", topic, "--partition", "0", "--from",
            "999999")
    with open("/dev/full", "wb") as full:
        done = subprocess.run([binary(), "-b", fresh.kafka.brokers, "tail", topic], stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode == FAILED and len(done.stderr.splitlines()) == 1, done.stderr


def test_words_that_the_program_does_not_know():
    refused(USAGE, ["relya", "relay"], "relya")
    refused(USAGE, ["--databse", "--database"], "--databse", "x", "relay")
    refused(USAGE, ["lease_sm", "lease_ms"], "--set", "relay.lease_sm=1", "relay")


# -- handlers ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handler,words", [
    ({"kind": "sql", "function": "bank.nosuch"}, ["bank.nosuch"]),
    ({"kind": "sql", "function": "bank.apply", "per": "batch"}, ["bank.apply"]),
    ({"kind": "sql", "function": "nosuch.apply"}, ["nosuch.apply"]),
    ({"kind": "plugin", "path": "/nonexistent/handler.so"}, ["/nonexistent/handler.so"]),
    ({"kind": "plugin"}, ["path"]),
    ({"kind": "sql"}, ["function"]),
])
def test_an_unknown_handler(handler, words, system):
    refused(USAGE, words, "--config", system.config(worker={"handler": handler}), "worker")


def test_an_unknown_symbol_in_a_plugin(system):
    path = build_plugin("bank_plugin.c")
    refused(USAGE, ["no_such_symbol", re.escape(path)], "--config", system.config(worker={"handler": {"kind": "plugin", "path": path,
                                                                                                "symbol": "no_such_symbol"}}), "worker")


def test_a_handler_that_the_worker_s_user_may_not_call(fresh, postgres):
    postgres.query(fresh.bank.target, "REVOKE EXECUTE ON FUNCTION bank.apply(txb.message) FROM PUBLIC")
    refused(SAFETY, ["bank.apply", "EXECUTE|execute|permission"], "--config", fresh.config(), "worker")


# -- intents -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args,words", [
    (["--payload-file", "BIG"], ["payload", "1,?000,?000"]),
    (["--payload", "{not json"], ["payload", "JSON"]),
    (["--key", "k" * 2000, "--payload", "1"], ["key", "1,?024"]),
    (["--key", b"\xff\xfe", "--payload", "1"], ["key", "UTF-8"]),
    (["--payload", b"\"\xff\"", ], ["payload", "UTF-8|JSON"]),
    (["--header", "ce_id=x", "--payload", "1"], ["ce_id"]),
    (["--header", "Bad Name=x", "--payload", "1"], ["Bad Name"]),
    (["--id", "not-a-uuid", "--payload", "1"], ["id", "UUID"]),
    (["--topic", "white space", "--payload", "1"], ["topic"]),
    (["--not-before", "+400000000", "--payload", "1"], ["not_before", "HINT: Give a time that is at most 10 years ahead"]),
    (["--type", "", "--payload", "1"], ["type"]),
])
def test_an_intent_over_a_limit_or_not_text(args, words, system):
    big = os.path.join(system.directory.path, "big")
    with open(big, "wb") as file:
        file.write(b'"' + b"x" * 1_000_001 + b'"')
    args = [big if arg == "BIG" else arg for arg in args]
    defaults = [word for option, value in (("--topic", "t"), ("--type", "x")) if option not in args for word in (option, value)]
    refused((FAILED, USAGE), words, "--database", system.postgres.uri(system.bank.source, "txbtest_app"), "publish", *defaults, *args)


def test_one_bad_line_of_many_publishes_none(system):
    lines = [json.dumps({"topic": "t", "type": "x", "payload": i}) for i in range(5)] + ['{"topic": "t", "type": "x", "paylaod": 1}']
    refused((FAILED, USAGE), ["6", "paylaod", "payload"], "--database", system.postgres.uri(system.bank.source, "txbtest_app"), "publish", "--jsonl",
            stdin="\n".join(lines).encode())


# -- foreign messages ----------------------------------------------------------------------------------------------------------------------


def test_malformed_cloudevents_headers_of_a_foreign_producer_are_named_and_the_message_takes_effect(fresh):
    body = json.dumps({"from": 1, "to": 2, "amount": 3})
    producer = Producer({"bootstrap.servers": fresh.kafka.brokers})
    strange = [{}, {"ce_id": b"\xff\x00"}, {"ce_id": "not-a-uuid", "ce_source": "x"}, {"ce_time": "yesterday", "ce_specversion": "9.9", "ce_id": "1"},
               {"ce_type": b"\x00", "content-type": b"\xfe"}, {"ce_specversion": "1.0", "ce_id": "", "ce_source": "", "ce_type": ""}]
    for headers in strange:
        producer.produce(fresh.bank.topics[0], body, key=b"k\x00\xff" if not headers else b"k", headers=headers)
    assert producer.flush(60) == 0
    fresh.postgres.query(fresh.bank.target, "CREATE FUNCTION bank.apply_any(m txb.message) RETURNS txb.outcome LANGUAGE sql AS $$"
                          " INSERT INTO bank.applied (id, key, account, amount, topic, partition, \"offset\")"
                          " VALUES (m.id, encode(m.key, 'hex'), 2, 3, m.topic, m.partition, m.\"offset\"); SELECT txb.ok() $$")
    worker = fresh.worker(worker={"handler": {"kind": "sql", "function": "bank.apply_any"}})
    process.wait_for(lambda: fresh.bank.applied() >= len(strange), fresh.lag, 60, alive=worker.alive)
    fresh.wait_consumed()
    assert fresh.bank.applied() == len(strange)
    assert re.search(r"ce_(id|time|specversion)", worker.text()), worker.text()


# -- names ---------------------------------------------------------------------------------------------------------------------------------


def test_two_relays_with_one_name(fresh):
    lease = {"owner": "twin", "lease_ms": 6000}  # long enough that it never ends by itself: then the second would be the first's successor
    first = fresh.relay("first", relay=lease)
    process.wait_for(lambda: fresh.relay_row().get("owner") == "twin", fresh.lag, 60, alive=first.alive)
    epoch = fresh.relay_row()["epoch"]
    refused(SAFETY, ["twin", "owner"], "--config", fresh.config(relay=lease), "relay")
    assert first.running() and fresh.relay_row()["epoch"] == epoch
