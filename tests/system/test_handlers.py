"""What handlers answer and do: nothing is skipped, a message that can't be applied is set aside, holds its key, and goes on when the handler can."""

import json
import signal

import pytest
from confluent_kafka import Producer

from txbtest import process
from txbtest.bank import QUICK, Writers
from txbtest.plugin import build_plugin
from txbtest.program import command
from txbtest.verify import read_topic

RETRY = {"first_ms": 20, "cap_ms": 200}

MOODY = """
CREATE FUNCTION bank.moody(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
BEGIN
  IF convert_from(m.key, 'UTF8') = '7' THEN
    PERFORM bank.apply(m);  -- must be undone with the outcome
    %s
  END IF;
  RETURN bank.apply(m);
END $$"""


def failed(system):
    """(state, error class, SQLSTATE, error) of what failed itself and is not closed."""
    return system.target_postgres.query(system.bank.target, "SELECT state, error_class, sqlstate, error FROM txb.failed"
                                        " WHERE group_name = %s AND state IN ('retrying', 'dead') ORDER BY number", (system.group,))


def decide(system):
    """What `failed retry` does for all that is dead."""
    system.target_postgres.query(system.bank.target, "UPDATE txb.failed SET state = 'retrying', attempts = 0, next_attempt_at = now() WHERE state = 'dead';"
                                 " UPDATE txb.consumer_offset SET keys_version = keys_version + 1")


def wait_applied(system, count=None):
    """Nothing is set aside any more."""
    process.wait_for(lambda: system.target_postgres.value(system.bank.target, "SELECT count(*) FROM txb.failed WHERE state NOT IN ('resolved', 'discarded')") == 0
                     and (count is None or system.bank.applied() == count), system.lag, 60, alive=system.alive)


@pytest.mark.parametrize("answer,error_class", [
    ("RETURN txb.refuse('no such account');", "refuse"), ("RETURN txb.retry('10 ms', 'not now');", "retry"),
    ("RETURN txb.dead('never');", "dead"), ("RAISE EXCEPTION 'broken handler';", "error"), ("RETURN NULL;", "error")])
def test_a_message_that_is_not_applied_holds_its_key_and_nothing_else(answer, error_class, systems, postgres, kafka, seed):
    system = systems(postgres, kafka)
    postgres.query(system.bank.target, MOODY % answer)
    system.relay()
    system.worker(worker={"handler": {"kind": "sql", "function": "bank.moody"}, "retry": RETRY})
    Writers(system.bank, 2, seed, QUICK, operations=20).start().join()
    for account in range(1, 30):
        system.bank.transfer(account)
    system.wait_rest()
    assert [row[1] for row in failed(system)] == [error_class], failed(system)
    set_aside = postgres.value(system.bank.target, "SELECT count(*) FROM txb.failed")
    assert postgres.value(system.bank.target, "SELECT count(*) FROM bank.applied WHERE key = '7'") == 0
    assert system.bank.applied() + set_aside == system.bank.published()
    # Only then: an attempt that is under way while the function is replaced fails, too, and may be the last one after the decision.
    process.wait_for(lambda: [row[0] for row in failed(system)] == ["dead"], lambda: f"{failed(system)}\n{system.lag()}", 60, alive=system.alive)
    postgres.query(system.bank.target, "CREATE OR REPLACE FUNCTION bank.moody(m txb.message) RETURNS txb.outcome LANGUAGE sql AS 'SELECT bank.apply(m)'")
    decide(system)
    wait_applied(system)
    report = system.verify()
    assert report, report


def test_a_batch_handler_that_answers_too_few_outcomes_applies_nothing(systems, postgres, kafka, seed):
    system = systems(postgres, kafka)
    postgres.query(system.bank.target, "CREATE FUNCTION bank.short(m txb.message[]) RETURNS SETOF txb.outcome LANGUAGE plpgsql AS $$ BEGIN"
                   " PERFORM bank.apply_batch(m); RETURN QUERY SELECT (txb.ok()).* FROM generate_series(2, cardinality(m)); END $$")
    system.relay()
    worker = system.worker(worker={"handler": {"kind": "sql", "function": "bank.short", "per": "batch"}, "retry": RETRY})
    Writers(system.bank, 2, seed, QUICK, operations=10).start().join()
    process.wait_for(lambda: failed(system), system.lag, 60, alive=worker.alive)
    assert system.bank.applied() == 0
    postgres.query(system.bank.target, "CREATE OR REPLACE FUNCTION bank.short(m txb.message[]) RETURNS SETOF txb.outcome LANGUAGE sql AS"
                   " 'SELECT * FROM bank.apply_batch(m)'")
    decide(system)
    system.wait_rest()
    wait_applied(system)
    report = system.verify()
    assert report, report


@pytest.mark.parametrize("per,form,apply", [("message", "(m txb.message) RETURNS", "RETURN bank.apply(m)"),
                                            ("batch", "(m txb.message[]) RETURNS SETOF", "RETURN QUERY SELECT * FROM bank.apply_batch(m)")])
def test_batches_share_a_plan(per, form, apply, systems, postgres, kafka):
    """The server plans a statement for its parameters five times, then keeps the plan for all of them if it looks as cheap."""
    system = systems(postgres, kafka, worker={"batch_messages": 1})
    postgres.query(system.bank.target, f"""
        CREATE TABLE bank.plans (anew bigint, kept bigint); GRANT ALL ON bank.plans TO PUBLIC;
        CREATE FUNCTION bank.looking{form} txb.outcome LANGUAGE plpgsql AS $$
        BEGIN
          INSERT INTO bank.plans SELECT custom_plans, generic_plans FROM pg_prepared_statements WHERE statement LIKE '%looking%';
          {apply};
        END $$""")
    system.relay()
    system.worker(worker={"handler": {"kind": "sql", "function": "bank.looking", "per": per}})
    for account in range(1, 21):
        system.bank.transfer(account)
    system.wait_rest()
    (anew, kept), = postgres.query(system.bank.target, "SELECT max(anew), max(kept) FROM bank.plans")
    assert anew == 5 and kept > 0
    report = system.verify()
    assert report, report


def test_a_handler_that_changes_its_session_changes_it_for_nobody_else(systems, postgres, kafka):
    """W11: neither for what runs behind it in its transaction, nor for the next message."""
    system = systems(postgres, kafka, worker={"batch_messages": 1})
    postgres.query(system.bank.target, """
        CREATE ROLE %(role)s; GRANT %(role)s TO txbtest_worker;
        CREATE TABLE bank.seen (role text, idle text); GRANT ALL ON bank.seen TO PUBLIC;
        CREATE FUNCTION bank.changing(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
        DECLARE
          answer txb.outcome := bank.apply(m);
        BEGIN
          INSERT INTO bank.seen VALUES (current_setting('role'), current_setting('idle_in_transaction_session_timeout'));
          PERFORM set_config('idle_in_transaction_session_timeout', '0', false), set_config('role', '%(role)s', false);
          RETURN answer;
        END $$""" % {"role": f"{system.name}_other"})
    system.relay()
    system.worker(worker={"handler": {"kind": "sql", "function": "bank.changing"}, "retry": RETRY})
    for account in range(1, 21):
        system.bank.transfer(account)
    system.wait_rest()
    seen = postgres.query(system.bank.target, "SELECT DISTINCT role, idle = '0' FROM bank.seen")
    assert seen == [("none", False)]
    report = system.verify()
    assert report, report


@pytest.mark.parametrize("sqlstate", ["08001", "57P01", "25006"])
def test_an_error_about_another_server_is_the_message_s_and_not_the_connection_s(sqlstate, systems, postgres, kafka):
    """dblink and postgres_fdw raise what their server, or its absence, gave them."""
    system = systems(postgres, kafka)
    postgres.query(system.bank.target, MOODY % f"RAISE EXCEPTION 'billing is away' USING ERRCODE = '{sqlstate}';")
    system.relay()
    worker = system.worker(worker={"handler": {"kind": "sql", "function": "bank.moody"}, "retry": RETRY})
    for account in range(1, 30):
        system.bank.transfer(account)
    process.wait_for(lambda: failed(system), system.lag, 60, alive=system.alive)
    assert [row[1:] for row in failed(system)] == [("error", sqlstate, "billing is away")]
    assert "database away" not in worker.text()
    postgres.query(system.bank.target, "CREATE OR REPLACE FUNCTION bank.moody(m txb.message) RETURNS txb.outcome LANGUAGE sql AS 'SELECT bank.apply(m)'")
    decide(system)
    system.wait_rest()
    wait_applied(system)
    assert worker.text().count("partition taken") == system.partitions


def test_a_read_only_database_is_told_once_however_often_it_is_tried(systems, postgres, kafka):
    """It lets everybody in and refuses their first statement: that was a connection made and lost, each time, without a pause."""
    system = systems(postgres, kafka)
    system.relay()
    worker = system.worker()
    system.bank.transfer(1)
    system.wait_rest()
    target = system.bank.target
    postgres.query("postgres", f"ALTER DATABASE {target} SET default_transaction_read_only = on")

    def sessions():
        return postgres.value("postgres", "SELECT sessions FROM pg_stat_database WHERE datname = %s", (target,))

    before = sessions()
    postgres.query("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND usename = 'txbtest_worker'", (target,))
    process.wait_for(lambda: sessions() >= before + 5, worker.text, 60, alive=worker.alive)
    text = worker.text()
    assert text.count("connected to the database") == 0, text
    assert text.count("database away") == 2 and text.count("25006") == 1, text  # the ended session, and then the other reason
    postgres.query("postgres", f"ALTER DATABASE {target} RESET default_transaction_read_only")
    worker.wait_line("connected to the database")
    system.bank.transfer(2)
    system.wait_rest()


def test_a_worker_s_session_does_not_end_for_idleness_and_compiles_nothing(systems, postgres, kafka):
    system = systems(postgres, kafka, worker={"batch_messages": 1})
    postgres.query(system.bank.target, f"""
        CREATE TABLE bank.seen (idle text, jit text); GRANT ALL ON bank.seen TO PUBLIC;
        CREATE FUNCTION bank.looking(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$ BEGIN
          INSERT INTO bank.seen VALUES (current_setting('idle_session_timeout'), current_setting('jit')); RETURN bank.apply(m); END $$;
        ALTER ROLE txbtest_worker IN DATABASE {system.bank.target} SET idle_session_timeout = '10s';
        ALTER ROLE txbtest_worker IN DATABASE {system.bank.target} SET jit = on""")  # long: a limit that ends sessions would end the start's checks
    worker = system.worker(worker={"handler": {"kind": "sql", "function": "bank.looking"}, "retry": RETRY})
    system.relay()
    system.bank.transfer(1)
    system.bank.transfer(2)
    system.wait_rest()
    assert postgres.query(system.bank.target, "SELECT DISTINCT idle, jit FROM bank.seen") == [("0", "off")]
    assert "database away" not in worker.text()


@pytest.mark.parametrize("argument", ["session", "unread"])
def test_what_a_plugin_leaves_in_its_session_meets_nobody(argument, systems, postgres, kafka):
    """W11: each message is a batch, and sees what the one before it left; unread results are read, and cost no connection."""
    system = systems(postgres, kafka, partitions=1, worker={"batch_messages": 1})
    postgres.query(system.bank.target, "CREATE TABLE bank.seen (role text, datestyle text, listening boolean); GRANT ALL ON bank.seen TO PUBLIC")
    produce(system, 10)
    worker = system.worker(worker={"handler": {"kind": "plugin", "path": build_plugin("bank_plugin.c"), "argument": argument}, "retry": RETRY})
    process.wait_for(lambda: system.bank.applied() == 10, system.lag, 60, alive=worker.alive)
    seen = postgres.query(system.bank.target, "SELECT DISTINCT role, datestyle ~ 'German', listening FROM bank.seen")
    assert seen == ([("none", False, False)] if argument == "session" else [])
    assert "connecting again" not in worker.text() and "not applied" not in worker.text(), worker.text()


def test_a_stop_waits_for_one_call_of_a_plugin_and_undoes_its_batch(systems, postgres, kafka):
    system = systems(postgres, kafka, partitions=1)
    produce(system, 20)
    with postgres.session(system.bank.target, autocommit=False) as holder:
        holder.cursor().execute("SELECT pg_advisory_lock(7)")
        worker = system.worker(worker={"handler": {"kind": "plugin", "path": build_plugin("bank_plugin.c"), "argument": "wait"}, "retry": RETRY})
        process.wait_for(lambda: postgres.query(system.bank.target, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                                                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"),
                         "the first call to wait", 60, alive=worker.alive)
        worker.expected = False
        worker.process.send_signal(signal.SIGTERM)
        worker.wait_line("stopping")  # or all calls could be over before the signal is noticed: nobody waits in the others
        holder.cursor().execute("SELECT pg_advisory_unlock(7)")
    assert worker.wait_exit(60) == 0
    assert system.bank.applied() == 0
    assert owned(system) == 0, worker.text()  # given back, as after any stop
    system.worker(worker={"handler": {"kind": "plugin", "path": build_plugin("bank_plugin.c"), "argument": ""}, "retry": RETRY})
    process.wait_for(lambda: system.bank.applied() == 20, system.lag, 60, alive=system.alive)


def test_a_plugin_s_long_batch_keeps_no_partition_from_another_worker(systems, postgres, kafka):
    system = systems(postgres, kafka, partitions=2, worker={"session_timeout_ms": 6000})
    produce(system, 600)
    handler = {"handler": {"kind": "plugin", "path": build_plugin("bank_plugin.c"), "argument": "slow"}, "retry": RETRY}
    first = system.worker("first", worker=handler)
    first.wait_line("a batch takes long|partition taken", 60)
    process.wait_for(lambda: postgres.query(system.bank.target, "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
                                            " AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()"), "the batch to run", 60, alive=first.alive)
    second = system.worker("second", worker=handler)
    second.wait_line("partition taken", 60)
    assert "connection given up" not in first.text()


def produce(system, number):
    """Transfers without a source, in turn to all partitions."""
    producer = Producer({"bootstrap.servers": system.brokers})
    for n in range(number):
        producer.produce(system.bank.topics[0], json.dumps({"from": 1, "to": 2, "amount": 1, "n": n}), key="k", partition=n % system.partitions)
    assert producer.flush(60) == 0


def owned(system):
    return system.target_postgres.value(system.bank.target, "SELECT count(*) FROM txb.consumer_offset WHERE group_name = %s AND owner IS NOT NULL",
                                        (system.group,))


def test_deferred_triggers_see_the_settings_that_the_handler_made_for_its_transaction(systems, postgres, kafka):
    system = systems(postgres, kafka)
    postgres.query(system.bank.target, """
        CREATE TABLE bank.audit (who text, delivery boolean); GRANT ALL ON bank.audit TO PUBLIC;
        CREATE FUNCTION bank.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          INSERT INTO bank.audit VALUES (current_setting('app.user', true), current_setting('txb.delivery', true) <> ''); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER note AFTER INSERT ON bank.applied DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION bank.note();
        CREATE FUNCTION bank.named(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$ BEGIN
          PERFORM set_config('app.user', 'alice', true); RETURN bank.apply(m); END $$""")
    system.relay()
    system.worker(worker={"handler": {"kind": "sql", "function": "bank.named"}, "retry": RETRY})
    for account in range(1, 6):
        system.bank.transfer(account)
    system.wait_rest()
    assert postgres.query(system.bank.target, "SELECT DISTINCT who, delivery FROM bank.audit") == [("alice", True)]


def test_a_handler_that_waits_for_a_lock_keeps_no_partition_from_another_worker(systems, postgres, kafka):
    system = systems(postgres, kafka, worker={"session_timeout_ms": 6000})
    postgres.query(system.bank.target, """CREATE FUNCTION bank.waiting(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
        BEGIN
          IF convert_from(m.key, 'UTF8') = '7' THEN
            PERFORM pg_advisory_xact_lock(7);
          END IF;
          RETURN bank.apply(m);
        END $$""")
    handler = {"handler": {"kind": "sql", "function": "bank.waiting"}, "retry": RETRY}
    with postgres.session(system.bank.target, autocommit=False) as holder:
        holder.cursor().execute("SELECT pg_advisory_lock(7)")
        system.relay()
        first = system.worker("first", worker=handler)
        for account in range(1, 30):
            system.bank.transfer(account)
        first.wait_line("a batch takes long", 60)
        second = system.worker("second", worker=handler)
        second.wait_line("partition taken", 60)
        first.wait_line("connection given up")
        holder.cursor().execute("SELECT pg_advisory_unlock(7)")
    system.wait_rest()
    report = system.verify()
    assert report, report


@pytest.mark.parametrize("argument", ["", "commit", "rollback", "swallow", "role", "lock"])
def test_a_plugin_applies_everything_once_whatever_it_does_to_its_session(argument, systems, postgres, kafka, seed):
    """The arguments make the bank's plugin misbehave at first for one message in five: end the transaction, answer ok after an error, change the
    session (W11). Nothing of that may be committed, and the message is tried again."""
    system = systems(postgres, kafka)
    system.relay()
    system.worker(worker={"handler": {"kind": "plugin", "path": build_plugin("bank_plugin.c"), "argument": argument}, "batch_messages": 20, "retry": RETRY})
    Writers(system.bank, 4, seed, QUICK, operations=15).start().join()
    system.wait_rest()
    wait_applied(system)
    report = system.verify()
    assert report, report


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("deed,signal_number", [("die", signal.SIGSEGV), ("hang", signal.SIGABRT)])
def test_a_message_that_kills_its_worker_is_found_after_four_deaths_at_most(deed, signal_number, workers, systems, postgres, kafka):
    """Crash-poison (W10): the plugin kills the process at one message, or never comes back from it, so that the watchdog does. Restarted again and
    again, the workers find it and set it aside, and apply everything that does not stand behind it in its key."""
    system = systems(postgres, kafka, worker={"session_timeout_ms": 6000})
    producer = Producer({"bootstrap.servers": kafka.brokers})
    for partition in range(3):
        for number in range(30):
            key = "poison" if (partition, number) == (1, 10) else f"k{partition}"
            producer.produce(system.bank.topics[0], json.dumps({"from": 1, "to": 2, "amount": 1, "n": number}), key=key, partition=partition)
    assert producer.flush(60) == 0
    settings = {"handler": {"kind": "plugin", "path": build_plugin("bank_plugin.c"), "argument": deed, "timeout_ms": 1000}, "batch_messages": 5}
    deaths, crew = 0, []

    def start():
        crew.append(system.worker(worker=settings))
        crew[-1].expected = False

    for _ in range(workers):
        start()

    def says_who_hung(worker):
        where = {"group": system.group, "topic": system.bank.topics[0], "partition": 1, "offset": 10, "key": "poison", "timeout_ms": 1000}
        return any("can't be interrupted" in line and all(f'{name}={value}' in line for name, value in where.items()) for line in worker.text().splitlines())

    def all_but_poison():
        nonlocal deaths
        for worker in [each for each in crew if not each.running()]:
            assert worker.process.returncode == -signal_number, worker.text()
            assert deed == "die" or says_who_hung(worker), worker.text()
            deaths += 1
            crew.remove(worker)
            start()
        return system.bank.applied() == 89 and failed(system)

    process.wait_for(all_but_poison, system.lag, 180)
    assert [row[:2] for row in failed(system)] == [("dead", "crash")] and 2 <= deaths <= 4
    assert "longer than handler.timeout_ms" in failed(system)[0][3]
    for worker in crew:
        worker.kill9()
    worker = system.worker(worker={"handler": {"kind": "plugin", "path": build_plugin("bank_plugin.c")}, "batch_messages": 5})
    decide(system)
    wait_applied(system, 90)
    assert postgres.query(system.bank.target, "SELECT count(DISTINCT id) FROM bank.applied") == [(90,)]


def test_a_plugins_statement_that_waits_too_long_is_cancelled_and_kills_nobody(systems, postgres, kafka):
    """It fails as a message does, with the attempts that it has; also in a chunk behind one that went well, which has set the settings back."""
    system = systems(postgres, kafka, partitions=1)
    producer = Producer({"bootstrap.servers": kafka.brokers})
    for number in range(6):
        producer.produce(system.bank.topics[0], json.dumps({"from": 1, "to": 2, "amount": 1, "n": number}), key=f"k{number}", partition=0)
    assert producer.flush(60) == 0
    with postgres.session(system.bank.target, autocommit=False) as holder:
        holder.cursor().execute("SELECT pg_advisory_lock(7)")
        plugin = {"kind": "plugin", "path": build_plugin("bank_plugin.c"), "argument": "stall", "timeout_ms": 200}
        worker = system.worker(worker={"handler": plugin, "retry": {**RETRY, "attempts_max": 1000}})
        process.wait_for(lambda: len(failed(system)) == 2 and system.bank.applied() == 4, system.lag, 60, alive=worker.alive)
        assert {row[:2] for row in failed(system)} == {("retrying", "error")}
        holder.cursor().execute("SELECT pg_advisory_unlock(7)")
    wait_applied(system, 6)
    worker.alive()


KILLS = """
CREATE FUNCTION bank.kills(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF m.partition < 3 THEN
    PERFORM pg_terminate_backend(pg_backend_pid());
  END IF;
  RETURN bank.apply(m);
END $$"""
CURED = "CREATE OR REPLACE FUNCTION bank.kills(m txb.message) RETURNS txb.outcome LANGUAGE sql SECURITY DEFINER AS 'SELECT bank.apply(m)'"


def test_messages_that_kill_their_session_in_several_partitions_are_all_recorded(systems, postgres, kafka):
    """Crash-poison (W10): each takes the connection, and so what was not written down about the others."""
    system = systems(postgres, kafka, partitions=4)
    postgres.query(system.bank.target, KILLS)
    producer = Producer({"bootstrap.servers": kafka.brokers})
    for partition in range(4):
        for number in range(5):
            producer.produce(system.bank.topics[0], json.dumps({"from": 1, "to": 2, "amount": 1, "n": number}), key=f"k{partition}", partition=partition)
    assert producer.flush(60) == 0
    worker = system.worker(worker={"handler": {"kind": "sql", "function": "bank.kills"}, "batch_messages": 5, "retry": RETRY})

    process.wait_for(lambda: len(failed(system)) == 3 and system.bank.applied() == 5, system.lag, 60, alive=worker.alive)
    assert [row[:2] for row in failed(system)] == [("dead", "crash")] * 3
    postgres.query(system.bank.target, CURED)
    decide(system)
    wait_applied(system, 20)
    assert postgres.query(system.bank.target, "SELECT count(DISTINCT id) FROM bank.applied") == [(20,)]


def test_what_a_handler_publishes_appears_once_though_its_worker_is_killed(systems, postgres, kafka, seed):
    """An effect that is an intent of its own (W14): its id derives from the message, and it exists if and only if the effect does."""
    system = systems(postgres, kafka)
    answers = kafka.create_topic(f"{system.name}.answers", 3)
    postgres.query(system.bank.target, f"""
        CREATE FUNCTION bank.answering(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
        BEGIN
          PERFORM txb.publish('{answers}', convert_from(m.key, 'UTF8'), 'transfer.applied', jsonb_build_object('id', m.id));
          PERFORM txb.publish('{answers}', convert_from(m.key, 'UTF8'), 'transfer.applied', jsonb_build_object('id', m.id, 'second', true));
          RETURN bank.apply(m);
        END $$""")
    settings = {"handler": {"kind": "sql", "function": "bank.answering"}, "session_timeout_ms": 6000, "batch_messages": 20}
    system.relay()
    other = {"name": f"{system.name}_b", "database": postgres.uri(system.bank.target, "txbtest_relay")}
    system.start("relay", "answers", sources=[other])
    dying = system.worker(worker=settings, env={"TXB_FAILPOINT": "worker.in_commit:3"})
    Writers(system.bank, 2, seed, QUICK, operations=40).start().join()
    assert dying.wait_exit(60) == -9, dying.text()
    system.worker(worker=settings)
    system.wait_rest()
    report = system.verify()
    assert report, report
    intents = system.bank.published()
    process.wait_for(lambda: sum(end for _, end in kafka.ends(answers).values()) >= 2 * intents, system.lag, 60, alive=system.alive)
    records = read_topic(kafka.brokers, answers)
    assert len({record.id for record in records}) == 2 * intents
    assert len({json.loads(record.value)["id"] for record in records}) == intents
