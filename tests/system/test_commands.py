"""The commands as people use them: init twice at once, publish and tail, status and doctor with servers missing, dev and demo with everything private."""

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading

import psycopg2
import pytest

from txbtest import process
from txbtest.program import FAILED, KAFKA_GONE, POSTGRES_GONE, SAFETY, USAGE, Program, binary, command


MIGRATION_LOCK = 1954049331


def ok(*args, **more):
    """A command that must succeed; its standard output."""
    code, out, err = command(*args, **more)
    assert code == 0, f"exit {code}\n{out}{err}"
    return out


@pytest.fixture
def directory():
    made = process.TempDir("commands")
    yield made
    made.remove()


# -- init ----------------------------------------------------------------------------------------------------------------------------------


def test_inits_at_once_apply_each_migration_once(postgres):
    for database in ("init_one", "init_two"):
        postgres.create_database(database)
    uris = [postgres.uri(database) for database in ("init_one", "init_two") for _ in range(3)]
    running = [subprocess.Popen([binary(), "-d", uri, "-o", "json", "init"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) for uri in uris]
    reports = []
    for one in running:
        out, err = one.communicate(timeout=120)
        assert one.returncode == 0, err.decode()
        reports.append(json.loads(out))
    migrations = postgres.value("init_one", "SELECT count(*) FROM txb.schema_migration")
    for first in (0, 3):
        assert sorted(len(report["applied"]) for report in reports[first:first + 3]) == [0, 0, migrations]
        assert sum(report["partitions"] for report in reports[first:first + 3]) == reports[0]["partitions"] + reports[1]["partitions"] + reports[2]["partitions"]
    assert postgres.value("init_two", "SELECT count(*) FROM txb.schema_migration") == migrations


def test_init_grants_a_role_once_and_refuses_what_is_none(postgres):
    postgres.create_database("init_roles")
    postgres.query("postgres", 'DROP ROLE IF EXISTS "Odd; name"; CREATE ROLE "Odd; name" LOGIN')
    uri = postgres.uri("init_roles")
    assert json.loads(ok("-d", uri, "-o", "json", "init", "--role", "Odd; name=txb_app"))["granted"] == ["Odd; name=txb_app"]
    assert json.loads(ok("-d", uri, "-o", "json", "init", "--role", "Odd; name=txb_app"))["granted"] == []
    assert postgres.value("postgres", "SELECT pg_has_role('Odd; name', 'txb_app', 'MEMBER')")
    for wish, words in (("nobody_there=txb_app", "nobody_there"), ("Odd; name=postgres", "txb_reader"), ("x", "USER=ROLE")):
        code, _, err = command("-d", uri, "init", "--role", wish)
        assert code == 2 and words in err


@contextlib.contextmanager
def held_migration_lock(postgres, database):
    """The lock of an init that is under way."""
    with postgres.session(database) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s, 0)", (MIGRATION_LOCK,))
        yield cursor


def test_init_says_that_another_one_is_under_way(postgres, directory):
    postgres.create_database("init_held")
    with held_migration_lock(postgres, "init_held") as holder:
        program = Program("init", ["-d", postgres.uri("init_held"), "init"], directory)
        program.wait_line("init_held: another init is under way")
        assert program.running()
        holder.execute("SELECT pg_advisory_unlock_all()")
        assert program.wait_exit() == 0


SQL = pathlib.Path(__file__).parents[2] / "schemas" / "sql"


def migrate_up_to(postgres, database, version):
    """As an older program left it."""
    postgres.create_database(database)
    with postgres.session(database) as connection, connection.cursor() as cursor:
        for path in sorted(SQL.glob("[0-9]*.sql"))[:version]:
            cursor.execute("BEGIN")
            cursor.execute(path.read_text())
            cursor.execute("INSERT INTO txb.schema_migration (version, name, sha256) VALUES (%s, %s, %s)",
                           (int(path.name[:4]), path.name, hashlib.sha256(path.read_bytes()).hexdigest()))
            cursor.execute("COMMIT")
        cursor.execute("SELECT txb.partition_make(1000, 2)")


def test_init_lets_publishers_through_while_one_of_them_keeps_it_waiting(postgres, directory):
    migrate_up_to(postgres, "init_waits", 18)
    publish = "INSERT INTO txb.outbox (topic, type) VALUES ('t', 'made')"
    with postgres.session("init_waits", autocommit=False) as first, postgres.session("init_waits") as second, first.cursor() as one, second.cursor() as other:
        one.execute("SET application_name = 'a till'")
        one.execute(publish)
        program = Program("init", ["-d", postgres.uri("init_waits"), "init"], directory)
        program.wait_line(rf"migration 0019_outbox_origin.sql waits for a lock.*process {first.get_backend_pid()}, application \"a till\".*pg_terminate_backend")
        other.execute("SET statement_timeout = '60s'")  # what waits behind an init that waits never ends
        for _ in range(20):
            other.execute(publish)
        assert program.running()
        first.commit()
        assert program.wait_exit() == 0
    assert postgres.value("init_waits", "SELECT count(*) FROM txb.outbox WHERE origin IS NULL") == 21


def messages(kafka, topic):
    return sum(end - begin for begin, end in kafka.ends(topic).values())


# -- publish and tail ----------------------------------------------------------------------------------------------------------------------


def test_what_tail_prints_publish_takes(systems, postgres, kafka):
    first, second = systems(postgres, kafka), systems(postgres, kafka)
    topic, copy = first.bank.topics[0], second.bank.topics[0]
    lines = [{"topic": topic, "key": "k", "type": "a.b", "payload": {"n": 1}, "headers": {"trace": 'a"b'}}, {"topic": topic, "type": "c", "payload_text": "a\nb"},
             {"topic": topic, "type": "d", "payload_base64": "/wA="}, {"topic": topic, "key": "ü", "type": "e"}]
    raw = '{"topic":"' + topic + '","key":"k","type":"f","payload":{"amount": 1.10, "big": 123456789012345678901234567890}}'
    ids = ok("-d", postgres.uri(first.bank.source), "publish", "--jsonl", stdin="\n".join([*map(json.dumps, lines), "", raw]).encode()).split()
    assert len(ids) == 5
    relays = [first.relay(), second.relay()]
    process.wait_for(lambda: messages(kafka, topic) == 5, first.lag, 60, alive=relays[0].alive)
    printed = ok("-b", kafka.brokers, "tail", topic)
    assert '"payload":{"amount": 1.10, "big": 123456789012345678901234567890}' in printed
    again = ok("-d", postgres.uri(second.bank.source), "publish", "--jsonl", "-o", "jsonl", stdin=printed.replace(topic, copy).encode())
    assert sorted(json.loads(line)["id"] for line in again.splitlines()) == sorted(ids)
    process.wait_for(lambda: messages(kafka, copy) == 5, second.lag, 60, alive=relays[1].alive)
    places = ("topic", "partition", "offset", "timestamp", "time", "source")
    contents = [sorted(json.dumps({k: v for k, v in json.loads(line).items() if k not in places}, sort_keys=True) for line in text.splitlines())
                for text in (printed, ok("-b", kafka.brokers, "tail", copy))]
    assert contents[0] == contents[1]


def test_tail_begins_where_it_is_told_and_ends_after_a_count(systems, postgres, kafka):
    system = systems(postgres, kafka, partitions=1)
    topic = system.bank.topics[0]
    ok("-d", postgres.uri(system.bank.source), "publish", "--jsonl",
       stdin="".join(json.dumps({"topic": topic, "type": "x", "payload": n}) + "\n" for n in range(10)).encode())
    relay = system.relay()
    process.wait_for(lambda: messages(kafka, topic) == 10, system.lag, 60, alive=relay.alive)

    def numbers(*args):
        return [json.loads(line)["payload"] for line in ok("-b", kafka.brokers, "tail", topic, *args).splitlines()]

    assert numbers() == list(range(10))
    assert numbers("--from", "7") == [7, 8, 9]
    assert numbers("--from", "beginning", "--count", "2") == [0, 1]
    waiting = subprocess.Popen([binary(), "-b", kafka.brokers, "tail", topic, "--from", "end", "-n", "1"], stdout=subprocess.PIPE)
    later = itertools.count(10)

    def ended():  # it prints the first one that comes once it has looked where the end is
        ok("-d", postgres.uri(system.bank.source), "publish", "-t", topic, "--type", "x", "-p", str(next(later)))
        return waiting.poll() is not None

    process.wait_for(ended, "tail to end with a message that came after its start", 60, alive=relay.alive)
    assert json.loads(waiting.communicate(timeout=60)[0])["payload"] >= 10


def test_a_scheduled_intent_comes_when_it_is_due(systems, postgres, kafka):
    system = systems(postgres, kafka)
    topic = system.bank.topics[0]
    relay = system.relay()
    due = postgres.value("postgres", "SELECT to_char(date_trunc('milliseconds', clock_timestamp() + interval '2 s') AT TIME ZONE 'UTC',"
                         " 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
    for kind, when in (("never", ["--not-before", "+3600"]), ("late", ["--not-before", due]), ("soon", [])):
        ok("-d", postgres.uri(system.bank.source), "publish", "-t", topic, "--type", kind, "-p", "1", *when)
    process.wait_for(lambda: messages(kafka, topic) == 2, system.lag, 60, alive=relay.alive)
    printed = {line["type"]: line["timestamp"] for line in map(json.loads, ok("-b", kafka.brokers, "tail", topic).splitlines())}
    assert set(printed) == {"late", "soon"} and printed["late"] >= due, printed


# -- status and doctor ---------------------------------------------------------------------------------------------------------------------


def test_status_shows_what_it_can_reach_and_says_what_it_cannot(systems, postgres, kafka):
    system = systems(postgres, kafka)
    system.relay()
    worker = system.worker()
    for i in range(20):
        system.bank.transfer(1 + i, 2 + i, 3)
    process.wait_for(lambda: system.bank.applied() == 20, system.lag, 60, alive=worker.alive)
    everything = json.loads(ok("-c", system.config(name="status"), "-o", "json", "status"))
    group = everything["groups"][0]
    assert everything["problems"] == [] and group["group"] == system.group and group["lag"] == 0
    assert sum(partition["applied"] for partition in group["partitions"]) == 20
    assert everything["sources"][0]["state"] == "running"

    port = process.free_port()
    gone = [{"name": "gone", "database": f"postgresql://127.0.0.1:{port}/x"}, {"name": system.name, "database": postgres.uri(system.bank.source)}]
    code, out, err = command("-c", system.config(name="status", sources=gone), "status")
    assert code == POSTGRES_GONE and str(port) in err and system.name in out and system.group in out
    code, out, err = command("-c", system.config(name="status", kafka={"brokers": f"127.0.0.1:{port}"}), "status", "--timeout", "4")
    assert code == KAFKA_GONE and str(port) in err and system.name in out and system.group in out


def test_status_shows_the_side_that_its_user_may_look_at(systems, postgres, kafka):
    system = systems(postgres, kafka)
    worker = system.worker()
    process.wait_for(lambda: postgres.value(system.bank.target, "SELECT count(*) FROM txb.consumer_offset") > 0, system.lag, 60, alive=worker.alive)
    code, out, err = command("-d", postgres.uri(system.bank.target, "txbtest_worker"), "-o", "json", "status")
    shown = json.loads(out)
    assert code == SAFETY and [group["group"] for group in shown["groups"]] == [system.group] and shown["sources"] == []
    assert len(shown["problems"]) == 1 and "user txbtest_worker may not look at its sources" in err and "--role txbtest_worker=txb_reader" in err


def test_status_asks_without_compiling_its_questions(systems, postgres, kafka):
    system = systems(postgres, kafka)
    system.relay()
    process.wait_for(lambda: system.relay_row().get("state") == "running", system.lag, 60)
    postgres.query(system.bank.source, "ALTER DATABASE %s SET jit = on" % system.bank.source)
    postgres.query("postgres", "DROP ROLE IF EXISTS jit_reader; CREATE ROLE jit_reader LOGIN IN ROLE txb_reader")
    # Who compiles sees no row.
    postgres.query(system.bank.source, "ALTER TABLE txb.relay ENABLE ROW LEVEL SECURITY;"
                   "CREATE POLICY others ON txb.relay TO txb_relay USING (true);"
                   "CREATE POLICY readers ON txb.relay TO jit_reader USING (current_setting('jit') = 'off')")
    document = json.loads(ok("-c", system.config(name="jit", sources=[{"name": system.name, "database": postgres.uri(system.bank.source, "jit_reader")}]),
                             "-o", "json", "status"))
    assert document["sources"][0]["state"] == "running"


def test_a_question_that_runs_into_its_time_names_the_server_and_what_to_do(systems, postgres, kafka):
    system = systems(postgres, kafka)
    database = f"{system.bank.source} did not answer within 3 s \\(a lock, or load\\); give a longer --timeout"
    with postgres.session(system.bank.source, autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLE txb.relay")
        code, _, err = command("-d", postgres.uri(system.bank.source), "status", "--timeout", "3")
        assert code == POSTGRES_GONE and re.search(database, err), err
        code, out, _ = command("-d", postgres.uri(system.bank.source), "-o", "json", "doctor", "--timeout", "3")
        failed = [check for check in json.loads(out)["checks"] if check["check"] == "questions"]
        assert code == FAILED and re.search(database, failed[0]["found"]) and "pg_locks" in failed[0]["remedy"]


def test_a_group_whose_topic_is_gone_is_told_so(systems, postgres, kafka):
    system = systems(postgres, kafka)
    worker = system.worker()
    stored = "SELECT count(*) FROM txb.consumer_offset"
    process.wait_for(lambda: postgres.value(system.bank.target, stored) > 0, system.lag, 60, alive=worker.alive)
    assert worker.stop() == 0
    postgres.query(system.bank.target, "UPDATE txb.consumer_offset SET topic = 'nosuch.topic' WHERE partition = 0")
    code, out, err = command("-c", system.config(name="gone"), "-o", "json", "status")
    words = f"group {system.group}: topic nosuch.topic does not exist at {kafka.brokers}; create it, or correct workers.{system.group}.topics"
    assert code == USAGE and json.loads(out)["problems"] == [words] and words in err
    postgres.query(system.bank.target, f"UPDATE txb.consumer_offset SET topic = '{system.bank.topics[0]}', partition = 99 WHERE topic = 'nosuch.topic'")
    code, out, err = command("-c", system.config(name="gone"), "-o", "json", "status")
    assert code == USAGE and "there is no 99" in err


def checks(config, timeout_s=30):
    """What doctor finds; a server that is there has that long to answer."""
    code, out, err = command("-c", config, "-o", "json", "doctor", "--timeout", str(timeout_s))
    document = json.loads(out)
    assert document["ok"] == (code == 0), err
    return code, {(check["check"], check["of"]): check for check in document["checks"]}


def test_doctor_finds_nothing_wrong_with_a_healthy_system(systems, postgres, kafka):
    system = systems(postgres, kafka)
    system.relay()
    worker = system.worker()
    system.bank.transfer(1, 2, 3)
    process.wait_for(lambda: system.bank.applied() == 1, system.lag, 60, alive=worker.alive)
    code, found = checks(system.config(name="doctor"))
    assert code == 0, found
    names = {name for name, _ in found}
    assert {"connection", "server version", "primary", "schema", "permission", "outbox partitions", "sequence", "relay", "Kafka", "librdkafka", "handler", "topic",
            "message size", "retention", "partition growth", "connections", "prepared transactions", "idle transactions", "durability"} <= names


def test_doctor_notices_a_user_whose_transactions_only_read(systems, postgres, kafka):
    system = systems(postgres, kafka)
    postgres.query("postgres", "DROP ROLE IF EXISTS only_reading; CREATE ROLE only_reading LOGIN IN ROLE txb_relay;"
                   "ALTER ROLE only_reading SET default_transaction_read_only = on")
    code, found = checks(system.config(name="doctor", sources=[{"name": system.name, "database": postgres.uri(system.bank.source, "only_reading")}]))
    primary = next(check for (name, of), check in found.items() if name == "primary" and of.endswith(system.bank.source))
    assert code == 1 and primary["result"] == "fail" and "only_reading" in primary["found"] and "default_transaction_read_only" in primary["remedy"]


def failures(found):
    return {name: check for (name, _), check in found.items() if check["result"] == "fail"}


def test_doctor_says_what_is_wrong_and_what_to_do(systems, postgres, kafka):
    system = systems(postgres, kafka)
    postgres.create_database(f"{system.name}_bare")
    code, found = checks(system.config(name="doctor", sources=[{"name": system.name, "database": postgres.uri(f"{system.name}_bare")}]))
    assert code == 1 and "init" in failures(found)["schema"]["remedy"]

    port = process.free_port()
    code, found = checks(system.config(name="doctor", kafka={"brokers": f"127.0.0.1:{port}"},
                                       sources=[{"name": system.name, "database": f"postgresql://127.0.0.1:{port}/x"}]), 2)
    assert code == 1 and {"connection", "Kafka"} <= set(failures(found))

    kafka.configure_topic(system.bank.topics[0], **{"max.message.bytes": "1000", "retention.ms": "-1"})
    worker = {"handler": {"kind": "sql", "function": "bank.nosuch"}, "topics": [system.bank.topics[0], "nosuch.topic"],
              "database": postgres.uri(system.bank.target, "txbtest_app")}
    code, found = checks(system.config(name="doctor", worker=worker))
    assert code == 1
    assert "bank.nosuch" in failures(found)["handler"]["found"] and "nosuch.topic" in str(failures(found)["topic"])
    assert "txb_worker" in failures(found)["permission"]["remedy"]
    assert "inbox_keep_ms" in failures(found)["retention"]["remedy"]
    assert found["message size", system.bank.topics[0]]["result"] == "warn"

    postgres.query(system.bank.target, "CREATE FUNCTION bank.wrong(m txb.message) RETURNS int LANGUAGE sql AS 'SELECT 1'")
    code, found = checks(system.config(name="doctor", worker={"handler": {"kind": "sql", "function": "bank.wrong"}}))
    assert code == 1 and "returns txb.outcome" in failures(found)["handler"]["found"]


def private_handler(system):
    """A handler in a schema that nobody but its owner may use; the worker's setting for it."""
    system.postgres.query(system.bank.target, "CREATE SCHEMA private; CREATE FUNCTION private.apply(m txb.message) RETURNS txb.outcome LANGUAGE sql "
                          "AS 'SELECT txb.ok()'")
    return {"handler": {"kind": "sql", "function": "private.apply"}}


def test_doctor_of_a_user_who_only_looks_warns_of_rights_that_others_need(systems, postgres, kafka):
    system = systems(postgres, kafka)
    system.relay()
    worker = system.worker()
    system.bank.transfer(1, 2, 3)
    process.wait_for(lambda: system.bank.applied() == 1, system.lag, 60, alive=worker.alive)
    function = private_handler(system)
    for role in ("txb_reader", "txb_admin", "txb_app"):
        user = f"looking_{role}"
        postgres.query("postgres", f"DROP ROLE IF EXISTS {user}; CREATE ROLE {user} LOGIN IN ROLE {role}")
        code, found = checks(system.config(name="doctor", sources=[{"name": system.name, "database": postgres.uri(system.bank.source, user)}],
                                           worker={"database": postgres.uri(system.bank.target, user), **function}))
        permissions = [check for (name, _), check in found.items() if name == "permission"]
        assert len(permissions) == 2
        if role == "txb_app":
            assert code == 1 and {check["result"] for check in permissions} == {"fail"}
        else:
            assert code == 0 and {check["result"] for check in permissions} == {"warn"}, found
            assert not any("--role" in check["remedy"] for check in permissions)
            handler = next(check for (name, _), check in found.items() if name == "handler")
            assert handler["result"] == "warn" and "worker's user" in handler["remedy"]


def test_doctor_tells_what_a_worker_lacks_at_its_handler(systems, postgres, kafka):
    system = systems(postgres, kafka)
    postgres.query("postgres", "DROP ROLE IF EXISTS strange_worker; CREATE ROLE strange_worker LOGIN PASSWORD 'x' IN ROLE txb_worker")
    worker = {"database": postgres.uri(system.bank.target, "strange_worker"), **private_handler(system)}
    code, found = checks(system.config(name="doctor", worker=worker))
    assert code == 1 and "GRANT USAGE ON SCHEMA" in failures(found)["handler"]["remedy"]


def test_doctor_notices_positions_that_do_not_fit(systems, postgres, kafka):
    system = systems(postgres, kafka)
    system.relay()
    worker = system.worker()
    system.bank.transfer(1, 2, 3)
    process.wait_for(lambda: system.bank.applied() == 1, system.lag, 60, alive=worker.alive)
    assert worker.stop() == 0
    kafka.grow_topic(system.bank.topics[0], system.partitions + 2)
    postgres.query(system.bank.target, "UPDATE txb.consumer_offset SET next_offset = next_offset + 1000 WHERE partition = 0")
    code, found = checks(system.config(name="doctor"))
    assert code == 1 and "Kafka ends at" in failures(found)["position"]["found"]
    assert [check["result"] for (name, _), check in found.items() if name == "partition growth"] == ["warn"]


# -- run -----------------------------------------------------------------------------------------------------------------------------------


def test_run_ends_with_a_signal_and_tells_which_role_could_not_start(systems, postgres, kafka):
    system = systems(postgres, kafka)
    program = system.start("run")
    process.wait_for(lambda: system.relay_row().get("state") == "running", system.lag, 60, alive=program.alive)
    assert program.stop() == 0
    code, _, err = command("-c", system.config(worker={"handler": {"kind": "sql", "function": "bank.nosuch"}}), "run", timeout_s=90)
    last = err.strip().splitlines()[-1]
    assert code == 2 and system.group in last and "bank.nosuch" in last


# -- dev and demo --------------------------------------------------------------------------------------------------------------------------


def start_dev(directory, *args):
    """A running `dev` and what it printed: addresses as JSON."""
    program = Program(f"dev{len(os.listdir(directory.path))}", ["-o", "jsonl", "dev", *args], directory)
    found = program.wait_line(r'^(\{.*"brokers".*\})$', 90)
    return program, json.loads(found.group(1))


def private_directory(addresses):
    return os.path.dirname(re.search(r"host=([^&]+)", addresses["socket"]).group(1))


def notes(addresses):
    connection = psycopg2.connect(addresses["postgresql"])
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT body FROM dev.note ORDER BY applied_at")
        found = [body for (body,) in cursor.fetchall()]
    connection.close()
    return found


def test_dev_applies_a_note_and_leaves_nothing(directory):
    program, addresses = start_dev(directory)
    ok("-d", addresses["postgresql"], "publish", "-t", addresses["topic"], "-k", "me", "--type", "note.made", "-p", '{"text": "hello"}')
    process.wait_for(lambda: notes(addresses) == ['{"text": "hello"}'], "the note to arrive", 60, alive=program.alive)

    def backlog_and_lag():
        status = json.loads(ok("-d", addresses["postgresql"], "-b", addresses["brokers"], "-o", "json", "status"))
        return status["sources"][0]["backlog"], status["groups"][0]["lag"]

    # A note may be applied before the relay's next checkpoint says that it is published.
    process.wait_for(lambda: backlog_and_lag() == (0, 0), lambda: f"(0, 0): {backlog_and_lag()}", 60, alive=program.alive)
    where = private_directory(addresses)
    assert os.path.isdir(where)
    program.expected = False
    program.process.send_signal(signal.SIGINT)
    assert program.wait_exit() == 0
    assert not os.path.exists(where)


def test_the_next_start_removes_what_a_killed_one_left(directory):
    program, addresses = start_dev(directory)
    where = private_directory(addresses)
    with open(os.path.join(where, "data", "postmaster.pid"), encoding="ascii") as file:
        postmaster = int(file.readline())
    began = process.start_time(postmaster)
    program.kill9()
    program, addresses = start_dev(directory)
    assert not os.path.exists(where)
    assert process.start_time(postmaster) != began
    assert program.stop() == 0
    assert not os.path.exists(private_directory(addresses))


def test_dev_keeps_data_that_it_is_told_to_keep(directory):
    # Every user on the way to it must be let through: as root the server runs as another one.
    os.chmod(directory.path, 0o755)
    kept = os.path.join(directory.path, "kept")
    for number in (1, 2):
        program, addresses = start_dev(directory, "--data", kept)
        ok("-d", addresses["postgresql"], "publish", "-t", addresses["topic"], "--type", "note.made", "-p", str(number))
        process.wait_for(lambda: len(notes(addresses)) == number, "the note to arrive", 60, alive=program.alive)
        if number == 2:
            code, _, err = command("dev", "--data", kept)
            assert code == 2 and "in use" in err
        assert program.stop() == 0
    assert os.path.isdir(kept) and not os.path.exists(private_directory(addresses))


def test_dev_can_be_stopped_while_it_sets_up(directory):
    os.chmod(directory.path, 0o755)
    kept = os.path.join(directory.path, "kept")
    program, addresses = start_dev(directory, "--data", kept)
    connection = psycopg2.connect(addresses["postgresql"])
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, 0)", (MIGRATION_LOCK,))
        cursor.execute("PREPARE TRANSACTION 'an init that does not end'")
    connection.close()
    assert program.stop() == 0
    program = Program("again", ["dev", "--data", kept], directory)
    program.wait_line("another init is under way")
    assert program.stop() == FAILED and "stopped before everything was up" in program.text()


def test_dev_leaves_the_user_s_files_alone_and_takes_no_password_but_its_own(directory):
    os.chmod(directory.path, 0o755)
    kept = os.path.join(directory.path, "kept")
    theirs, ours = (os.path.join(kept, name) for name in ("password", ".txbroker-password"))
    for _ in range(2):
        program, addresses = start_dev(directory, "--data", kept)
        assert notes(addresses) == []
        assert program.stop() == 0
        with open(theirs, "w", encoding="ascii") as file:
            file.write("the user's own")
    with open(theirs, encoding="ascii") as file:
        assert file.read() == "the user's own"
    with open(ours, encoding="ascii") as file:
        password = file.read()
    assert re.fullmatch("[0-9a-f]{32}", password) and os.stat(ours).st_mode & 0o777 == 0o600
    for text in (password[:31], password + "0", password[:31] + "@", "", None):
        os.unlink(ours)
        if text is not None:
            with open(ours, "w", encoding="ascii") as file:
                file.write(text)
        code, _, err = command("dev", "--data", kept)
        assert code == USAGE and ours in err and os.path.exists(ours) == (text is not None)


def test_dev_says_why_a_port_or_a_directory_cannot_be_used(directory):
    os.chmod(directory.path, 0o755)

    def dev(*args):
        code, _, err = command("dev", *args)
        assert code == USAGE, err
        return err

    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert f"port {port} of 127.0.0.1 can't be used: Address already in use; choose another with --port" in dev("--port", str(port))
    foreign, file, closed = (os.path.join(directory.path, name) for name in ("foreign", "file", "closed"))
    os.mkdir(foreign)
    for path in (os.path.join(foreign, "letter"), file):
        with open(path, "w", encoding="ascii"):
            pass
    assert "holds files that txbroker dev did not make" in dev("--data", foreign) and os.listdir(foreign) == ["letter"]
    assert f"--data wants a directory: {file} is none" in dev("--data", file)
    assert "--data is empty" in dev("--data", "")
    os.mkdir(closed, 0o700)
    if os.geteuid() == 0:  # the server runs as another user, who can't pass through
        inside = os.path.join(closed, "data")
        assert "choose a --data directory that every user may pass through to" in dev("--data", inside)
    else:
        os.chmod(closed, 0o500)
        assert f"can't use {closed}: Permission denied" in dev("--data", closed)
    assert os.listdir(closed) == []


def test_dev_names_the_owner_of_a_directory_that_is_somebody_else_s():
    """/usr is root's, and nobody else's to write to."""
    somebody = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
    done = subprocess.run([binary(), "dev", "--data", "/usr"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, check=False, **somebody)
    assert done.returncode == USAGE and b"/usr belongs to user root" in done.stderr, done.stderr


def test_demo_says_that_dev_s_cluster_makes_no_topics(directory):
    program, addresses = start_dev(directory)
    code, _, err = command("-b", addresses["brokers"], "demo")
    assert code == KAFKA_GONE and "the mock cluster of `txbroker dev` can't make topics: leave --brokers out" in err, err
    assert program.stop() == 0


def demo(*args, env=None):
    verdict = json.loads(ok("demo", "-o", "json", "--transfers", "600", "--kills", "3", *args, env=env, timeout_s=180))
    assert verdict == {"transfers": 600, "applied": 600, "lost": 0, "doubled": 0, "misordered": 0, "kills": 3, "money_before": 2000000,
                       "money_after": 2000000, "ok": True}


def test_demo_with_everything_private():
    demo(env={"TXB_SOURCES_BANK_A_DATABASE": "postgresql://127.0.0.1:1/not_meant_here"})


def databases(postgres):
    return postgres.query("postgres", "SELECT datname FROM pg_database ORDER BY datname")


def test_demo_on_servers_of_the_user_s(postgres, kafka):
    before, topics = databases(postgres), set(kafka.admin().list_topics(timeout=30).topics)
    uri = postgres.uri("postgres", password="what?", application_name="long" * 200)
    demo("--brokers", kafka.brokers, "--database", uri, "--set", "kafka.client.sasl.password=env:TXB_PASSWORD", env={"TXB_PASSWORD": "a secret"})
    assert databases(postgres) == before
    assert postgres.value("postgres", "SELECT to_regnamespace('bank') IS NULL AND to_regnamespace('txb') IS NULL")
    process.wait_for(lambda: set(kafka.admin().list_topics(timeout=30).topics) - {"__consumer_offsets"} <= topics, "the topics to go", 60)


def test_demo_works_in_no_database_but_its_own(postgres):
    postgres.create_database("precious")
    before = databases(postgres)
    # The backslash takes the space that follows it into the password, and all of dbname with it.
    code, _, err = command("demo", "--database", postgres.dsn("precious").replace("'", "") + " password=x\\")
    assert code == USAGE and "leads to database precious" in err
    assert databases(postgres) == before
    assert postgres.value("precious", "SELECT to_regnamespace('bank') IS NULL AND to_regnamespace('txb') IS NULL")


def test_demo_under_way_keeps_no_init_waiting_and_ends_with_a_signal(postgres, directory):
    before = databases(postgres)
    program = Program("demo", ["demo", "--database", postgres.uri("postgres"), "--transfers", "1000000"], directory)
    program.wait_line("PostgreSQL of yours")
    made = [name for (name,) in databases(postgres) if (name,) not in before]
    assert len(made) == 2
    for name in made:
        with postgres.session(name) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s, 0)", (MIGRATION_LOCK,))
            assert cursor.fetchone() == (True,)
    assert program.stop() == FAILED and "stopped before the end" in program.text()
    assert databases(postgres) == before


CREATES = """SELECT a.pid FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
              WHERE NOT l.granted AND l.relation = 'pg_database'::regclass AND a.query LIKE 'CREATE DATABASE%'"""


def is_connected(postgres, pid):
    return postgres.value("postgres", "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)", (pid,))


def test_demo_can_be_stopped_while_it_sets_up(postgres, directory):
    before = databases(postgres)
    with postgres.session("postgres", autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLE pg_database IN SHARE MODE")
        program = Program("demo", ["demo", "--database", postgres.uri("postgres")], directory)
        pid = process.wait_for(lambda: postgres.value("postgres", CREATES), program.text, 60, alive=program.alive)
        program.expected = False
        program.process.send_signal(signal.SIGINT)
        process.wait_for(lambda: not is_connected(postgres, pid), program.text)  # what it waited for must not happen later
        connection.rollback()
        assert program.wait_exit() == FAILED and "stopped before the end" in program.text()
    assert databases(postgres) == before


def test_demo_drops_the_first_database_when_there_is_no_second(postgres, directory):
    before = databases(postgres)

    def lock(connection):
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE pg_database IN SHARE MODE")

    # The first is closed first, whatever happens: the second waits for it in a thread.
    with postgres.session("postgres", autocommit=False) as second, postgres.session("postgres", autocommit=False) as first:
        lock(first)
        program = Program("demo", ["demo", "--database", postgres.uri("postgres")], directory)
        process.wait_for(lambda: postgres.value("postgres", CREATES), program.text, 60, alive=program.alive)
        between = threading.Thread(target=lock, args=(second,), daemon=True)  # it comes before the second CREATE DATABASE: locks are given in order
        between.start()
        process.wait_for(lambda: postgres.value("postgres", "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = %s)",
                                                (second.info.backend_pid,)), program.text, 60, alive=program.alive)
        first.rollback()
        between.join()
        pid = process.wait_for(lambda: postgres.value("postgres", CREATES), program.text, 60, alive=program.alive)
        assert len(databases(postgres)) == len(before) + 1
        postgres.value("postgres", "SELECT pg_cancel_backend(%s)", (pid,))
        program.expected = False
        process.wait_for(lambda: not is_connected(postgres, pid), program.text)
        second.rollback()
        assert program.wait_exit() == FAILED
    assert databases(postgres) == before
    assert re.search(r"_bank_a is dropped again.*\n.*database txbroker_demo_\w+_bank_b: .*cancel", program.text())


# -- what is printed from the tables -------------------------------------------------------------------------------------------------------


def test_help_and_completion_cover_every_command():
    commands = re.findall(r"^  (\w+) ", ok("--help").partition("Options")[0], re.M)
    assert {"init", "doctor", "status", "config", "dev", "demo", "relay", "worker", "run", "publish", "tail", "completion", "man", "version"} <= set(commands)
    scripts = {shell: ok("completion", shell) for shell in ("bash", "zsh", "fish")}
    page = ok("man")
    for name in commands:
        assert f"usage: txbroker {name}" in ok(name, "--help")
        assert all(name in script for script in scripts.values()) and f".SS txbroker {name}" in page
    assert subprocess.run(["bash", "-n"], input=scripts["bash"].encode(), check=False).returncode == 0

    def completed(*words):
        line = f'\nCOMP_WORDS=(txbroker {" ".join(words)}); COMP_CWORD={len(words)}; _txbroker; echo "${{COMPREPLY[@]}}"'
        return subprocess.run(["bash", "-c", scripts["bash"] + line], stdout=subprocess.PIPE, check=True).stdout.decode().split()

    assert completed("tail", "--fr") == ["--from"]
    assert completed("tail", "--from", "b") == ["beginning"]
    assert completed("help", "pu") == ["publish"]
    assert completed("replay", "st") == ["start", "states"] and completed("replay", "start", "--then") == ["--then-live"]
    assert completed("replay", "plan", "--from", "b") == ["beginning"]
    assert completed("--set", "relay.lea") == ["relay.lease_ms="] and completed("--set", "wor") == ["workers."]
    assert page.count("May be given more than once.") == 18


def test_config_says_in_every_form_where_a_setting_came_from():
    more = ["--set", "relay.lease_ms=5000"]
    document = json.loads(ok(*more, "-o", "json", "config", env={"TXB_LOG_LEVEL": "warn"}))
    assert document["relay"]["lease_ms"] == 5000 and document["from"]["relay.lease_ms"] == "flag" and document["from"]["log.level"] == "environment"
    lines = [json.loads(line) for line in ok(*more, "-o", "jsonl", "config").splitlines()]
    assert {"setting": "relay.lease_ms", "value": "5000", "from": "flag"} in lines
    keys = json.loads(ok("-o", "json", "config", "--keys"))
    assert any(key["section"] == "relay" and key["key"] == "lease_ms" and key["min"] == 1000 for key in keys)
    assert [json.loads(line) for line in ok("-o", "jsonl", "config", "--keys").splitlines()] == keys
    assert json.loads(ok("-o", "json", "config", "--check")) == {"ok": True}


def test_no_color_and_pipes_get_no_escapes():
    for args in (["--help"], ["config"], ["config", "--keys"]):
        assert "\033" not in ok(*args)


def test_what_is_in_force_is_shown_for_groups_of_the_command_line():
    group = ["--set", "workers.ledger.topics=transfers", "--set", "workers.ledger.handler.function=ledger.apply"]
    code, out, err = command("-d", "postgresql:///ledger", *group, "-o", "json", "config")
    assert code == 0, err
    shown = json.loads(out)
    assert shown["workers"][0]["database"] == "postgresql:///ledger" and shown["sources"] == []
    assert command(*group, "config")[0] == 2
