"""pgbench's own TPC-B with a trigger on pgbench_history that calls txb.publish; an sql handler mirrors pgbench_accounts in another database, while relay
and worker are killed at random. At the end every account is equal."""

import os
import random
import subprocess

from txbtest import process

TRIGGER = """
CREATE FUNCTION mirror() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM txb.publish('%s', NEW.aid::text, 'history.added', jsonb_build_object('aid', NEW.aid, 'tid', NEW.tid, 'bid', NEW.bid, 'delta', NEW.delta));
  RETURN NULL;
END $$;
CREATE TRIGGER mirror AFTER INSERT ON pgbench_history FOR EACH ROW EXECUTE FUNCTION mirror();
"""
HANDLER = """
CREATE FUNCTION public.mirror(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
DECLARE
  body jsonb := convert_from(m.payload, 'UTF8')::jsonb;
BEGIN
  UPDATE pgbench_accounts SET abalance = abalance + (body->>'delta')::int WHERE aid = (body->>'aid')::int;
  INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES ((body->>'tid')::int, (body->>'bid')::int, (body->>'aid')::int, (body->>'delta')::int, now());
  RETURN txb.ok();
END $$;
GRANT ALL ON pgbench_accounts, pgbench_history TO PUBLIC;
"""


def test_every_account_of_pgbench_is_equal_in_the_mirror_while_processes_are_killed(systems, postgres, kafka, seed, tally):
    system = systems(postgres, kafka, relay={"checkpoint_ms": 20}, worker={"session_timeout_ms": 6000, "handler": {"kind": "sql", "function": "public.mirror"}})
    for database in (system.bank.source, system.bank.target):
        postgres.run("pgbench", "-i", "-q", "-s", "2", database)
    postgres.query(system.bank.source, TRIGGER % system.bank.topics[0])
    postgres.query(system.bank.target, HANDLER)
    chance = random.Random(seed)
    with subprocess.Popen([os.path.join(postgres.bin, "pgbench"), "-h", postgres.temp.path, "-p", str(postgres.port), "-U", "postgres", "-n", "-c", "6",
                           "-t", "1000", "--random-seed", str(seed), system.bank.source], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          preexec_fn=process.child_setup()) as pgbench:
        for number in range(4):
            relay, worker = system.relay(f"relay{number}"), system.worker(f"worker{number}")
            enough = mirrored(system) + chance.randint(50, 600)
            process.wait_for(lambda: mirrored(system) >= enough or pgbench.poll() is not None, system.lag, 60, alive=system.alive)
            for victim in chance.sample([relay, worker], 2):
                under_way = committed(system) > mirrored(system)
                victim.kill9()
                tally["kills"] += 1
                tally["kills at work"] += under_way
        output = pgbench.communicate(timeout=600)[0]
        assert pgbench.returncode == 0, output
    system.relay()
    system.worker()
    system.wait_rest()
    assert committed(system) == 6000
    for sql in ("SELECT aid, abalance FROM pgbench_accounts WHERE abalance <> 0 ORDER BY aid", "SELECT aid, tid, bid, delta FROM pgbench_history ORDER BY 1, 2, 3, 4"):
        assert postgres.query(system.bank.source, sql) == postgres.query(system.bank.target, sql), f"seed {seed}"


def committed(system):
    return system.postgres.value(system.bank.source, "SELECT count(*) FROM pgbench_history")


def mirrored(system):
    return system.postgres.value(system.bank.target, "SELECT count(*) FROM pgbench_history")
