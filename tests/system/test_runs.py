"""Failed messages of a forced replay (a run): what its lane may not run behind a held key waits in the live partition that holds it, and is tried
again there, in its own run."""

import json

import pytest
from confluent_kafka import Producer

from txbtest import process
from txbtest.plugin import build_plugin

RETRY = {"first_ms": 20, "cap_ms": 200}
RUN = 17


def query(system, sql, *args):
    return system.target_postgres.query(system.bank.target, sql, args or None)


def wait(system, condition):
    process.wait_for(condition, system.lag, 60, alive=system.alive)


def send(system, numbers):
    producer = Producer({"bootstrap.servers": system.brokers})
    for n in numbers:
        producer.produce(system.bank.topics[0], json.dumps({"from": 1, "to": 2, "amount": 1, "n": n}), key="k", partition=0)
    assert producer.flush(60) == 0


def states(system):
    return dict(query(system, "SELECT state, count(*) FROM txb.failed GROUP BY state"))


def set_aside(systems, postgres, kafka, handler):
    """(system, ids) of four messages of one key that failed, or are held, under a handler that notes its deliveries."""
    system = systems(postgres, kafka, partitions=1)
    postgres.query(system.bank.target, """
        CREATE TABLE bank.noted (n serial, id uuid, delivery text); CREATE TABLE bank.broken (yes int); INSERT INTO bank.broken VALUES (1);
        GRANT ALL ON bank.noted, bank.broken TO PUBLIC; GRANT ALL ON ALL SEQUENCES IN SCHEMA bank TO PUBLIC;
        CREATE FUNCTION bank.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          IF EXISTS (SELECT FROM bank.broken) THEN RAISE EXCEPTION 'broken'; END IF;
          INSERT INTO bank.noted (id, delivery) VALUES (NEW.id, current_setting('txb.delivery')); RETURN NEW; END $$;
        CREATE TRIGGER note BEFORE INSERT ON bank.applied FOR EACH ROW EXECUTE FUNCTION bank.note()""")
    system.worker(worker={"handler": handler, "retry": {**RETRY, "attempts_max": 1000}})
    send(system, range(4))
    wait(system, lambda: states(system) == {"retrying": 1, "held": 3})
    return system, [row[0] for row in query(system, "SELECT id::text FROM txb.failed ORDER BY place")]


HANDLERS = {"message": lambda: {"kind": "sql", "function": "bank.apply"}, "batch": lambda: {"kind": "sql", "function": "bank.apply_batch", "per": "batch"},
            "plugin": lambda: {"kind": "plugin", "path": build_plugin("bank_plugin.c")}}


@pytest.mark.parametrize("kind", HANDLERS)
def test_a_failed_message_of_a_run_is_tried_again_in_its_run(kind, systems, postgres, kafka):
    """The second and third are the run's; the live copy of the second is applied already, and the run has the third done."""
    system, ids = set_aside(systems, postgres, kafka, HANDLERS[kind]())
    query(system, """UPDATE txb.failed SET run = %s WHERE id = ANY (%s::uuid[]);
                     INSERT INTO txb.inbox (group_name, run, message_id) VALUES (%s, 0, %s), (%s, %s, %s);
                     DELETE FROM bank.broken; UPDATE txb.consumer_offset SET keys_version = keys_version + 1""",
          RUN, ids[1:3], system.group, ids[1], system.group, RUN, ids[2])
    wait(system, lambda: states(system) == {"resolved": 4})
    assert query(system, "SELECT id::text, delivery FROM bank.noted ORDER BY n") == [
        (ids[0], f"{system.group}/{ids[0]}"), (ids[1], f"{system.group}/{RUN}/{ids[1]}"), (ids[3], f"{system.group}/{ids[3]}")]
    assert query(system, "SELECT run, message_id::text FROM txb.inbox WHERE group_name = %s ORDER BY run, message_id", system.group) == sorted(
        [(0, ids[0]), (0, ids[1]), (0, ids[3]), (RUN, ids[1]), (RUN, ids[2])])
    assert query(system, "SELECT consumed, applied, duplicate, failed FROM txb.consumer_offset") == [(4, 3, 1, 0)]


HELD, KEYS, EACH = "1", 4, 12


def forced_job(system):
    """Its number: everything once more."""
    return query(system, """SELECT number FROM txb.job_start('again', %s, %s, %s, NULL, NULL, NULL, NULL, 1, %s, true, false, NULL, 'a test', 'test')""",
                 system.group, system.name, [system.bank.topics[0]], KEYS * EACH + 1)[0][0]


@pytest.mark.parametrize("kind", HANDLERS)
def test_a_lane_sorts_out_what_live_holds_and_what_it_holds_itself(kind, systems, postgres, kafka):
    """Live, number 5 of key 1 fails; in the run, number 3 of key 2 does. Small batches: each meets keys that the one before it changed."""
    system = systems(postgres, kafka, partitions=1, worker={"batch_messages": 5})
    postgres.query(system.bank.target, """
        CREATE TABLE bank.noted (number serial, key text, n int, delivery text); CREATE TABLE bank.broken (key text, n int, run boolean);
        GRANT ALL ON bank.noted, bank.broken TO PUBLIC; GRANT ALL ON ALL SEQUENCES IN SCHEMA bank TO PUBLIC;
        INSERT INTO bank.broken VALUES ('1', 5, false), ('2', 3, true);
        CREATE FUNCTION bank.note() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE delivery text := current_setting('txb.delivery'); runs boolean := delivery LIKE '%/%/%';
        BEGIN
          IF EXISTS (SELECT FROM bank.broken AS b WHERE b.key = NEW.key AND b.n = NEW.n AND (b.run = runs OR NOT b.run)) THEN RAISE EXCEPTION 'broken'; END IF;
          INSERT INTO bank.noted (key, n, delivery) VALUES (NEW.key, NEW.n, delivery); RETURN NEW; END $$;
        CREATE TRIGGER note BEFORE INSERT ON bank.applied FOR EACH ROW EXECUTE FUNCTION bank.note()""")
    system.relay()
    postgres.query(system.bank.source, """SELECT count(txb.publish(%s, (i %% %s)::text, 'transfer.made', jsonb_build_object('to', 1, 'amount', 1, 'n', i / %s)))
                                          FROM generate_series(0, %s) AS i""", (system.bank.topics[0], KEYS, KEYS, KEYS * EACH - 1))
    system.wait_published()
    worker = system.worker(worker={"handler": HANDLERS[kind](), "retry": {**RETRY, "attempts_max": 1000}})
    behind = EACH - 5
    wait(system, lambda: states(system) == {"retrying": 1, "held": behind - 1})
    job = forced_job(system)
    wait(system, lambda: query(system, "SELECT partition < 0, run, state, count(*) FROM txb.failed GROUP BY 1, 2, 3 ORDER BY 1, 2, 3") == [
        (False, 0, "held", behind - 1), (False, 0, "retrying", 1), (False, job, "held", EACH),
        (True, job, "held", EACH - 4), (True, job, "retrying", 1)])
    wait(system, lambda: query(system, "SELECT next_offset FROM txb.consumer_offset WHERE partition < 0") == [(KEYS * EACH + 1,)])
    query(system, "DELETE FROM bank.broken")
    wait(system, lambda: set(states(system)) == {"resolved"})
    for key in map(str, range(KEYS)):
        of_key = query(system, "SELECT n, delivery LIKE '%%/%%/%%' FROM bank.noted WHERE key = %s ORDER BY number", key)
        live, again = ([n for n, runs in of_key if runs is which] for which in (False, True))
        assert live == again == list(range(EACH))
        assert key != HELD or of_key == [(n, runs) for runs in (False, True) for n in range(EACH)]
    assert query(system, "SELECT partition < 0, consumed, applied, duplicate, failed, held FROM txb.consumer_offset ORDER BY 1") == [
        (False, KEYS * EACH + EACH, KEYS * EACH + EACH, 0, 0, 0), (True, (KEYS - 1) * EACH, (KEYS - 1) * EACH, 0, 0, 0)]
    assert query(system, "SELECT run, count(*) FROM txb.inbox GROUP BY run ORDER BY run") == [(0, KEYS * EACH), (job, KEYS * EACH)]
    wait(system, lambda: query(system, "SELECT j.state, l.moved FROM txb.job AS j JOIN txb.job_lane AS l ON l.job = j.number") == [("done", EACH)])
    assert worker.stop() == 0, worker.text()
