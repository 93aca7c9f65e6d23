"""Jobs that decide about many failed messages: a command that is killed is finished by the group's workers, and nothing is decided twice."""

import json
import subprocess

import pytest

from test_failed_messages import break_it, counters, handler, mend, one, prepare, query, seen, send, states, wait
from txbtest import process
from txbtest.program import binary, command

MESSAGES = 1200
GONE = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'txbroker failed retry')"


@pytest.fixture
def failed(systems, postgres, kafka):
    """A system with that many dead messages, of a key each, whose cause is mended; no worker runs."""
    system = prepare(systems, postgres, kafka)
    break_it(system, *((f"k{n}", 1) for n in range(MESSAGES)))
    worker = system.worker(worker=handler(retry={"attempts_max": 1}))
    send(system, [(f"k{n}", 1) for n in range(MESSAGES)])
    wait(system, lambda: states(system) == {"dead": MESSAGES}, deadline_s=120)
    worker.kill9()
    system.programs.clear()
    mend(system)
    return system


def uri(system):
    return system.target_postgres.uri(system.bank.target)


def workers(system, count):
    for _ in range(count):
        system.worker(worker=handler(retry={"attempts_max": 1}, session_timeout_ms=6000))


def job(system):
    [row] = query(system, "SELECT row_to_json(j) FROM txb.failed_job AS j")
    return row[0]


def check_each_once(system):
    """All of them were decided about, and applied, once."""
    assert query(system, "SELECT count(*), count(DISTINCT number) FROM txb.failed_history WHERE event = 'retry'") == [(MESSAGES, MESSAGES)]
    assert query(system, "SELECT count(*), count(DISTINCT key) FROM bank.seen WHERE key LIKE 'k%%'") == [(MESSAGES, MESSAGES)]


def test_workers_finish_the_job_of_a_command_that_was_killed(failed):
    system = failed
    (first, _), (_, row), *_ = query(system, "SELECT count(*), min(number) FROM txb.failed GROUP BY partition ORDER BY min(number)")
    assert 0 < first <= 500, "a step is about one partition"
    with system.target_postgres.session(system.bank.target, autocommit=False) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT 1 FROM txb.failed WHERE number = %s FOR UPDATE", (row,))
        running = subprocess.Popen([binary(), "-d", uri(system), "failed", "retry", "--group", system.group, "--yes", "--reason", "mended"])
        process.wait_for(lambda: query(system, "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"),
                         "the second step to wait", 60)
        running.kill()
        running.wait(60)
        query(system, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'txbroker failed retry' AND datname = current_database()")
        process.wait_for(lambda: one(system, GONE), "its session to end", 60)
        holder.rollback()
    assert (job(system)["state"], job(system)["done"]) == ("running", first)
    assert states(system) == {"retrying": first, "dead": MESSAGES - first}
    break_it(system, ("late", 1))
    send(system, [("late", 1)])
    workers(system, 2)
    wait(system, lambda: states(system) == {"resolved": MESSAGES, "dead": 1}, deadline_s=120)
    assert (job(system)["state"], job(system)["done"], job(system)["skipped"]) == ("done", MESSAGES, 0)
    assert job(system)["state_by"].startswith("worker ")
    assert query(system, "SELECT DISTINCT who FROM txb.failed_history WHERE event = 'retry'") == [
        (one(system, "SELECT created_by || ' (' || os_user || ')' FROM txb.failed_job"),)]
    check_each_once(system)
    assert seen(system, "late") == [] and counters(system)[:2] == (MESSAGES + 1, MESSAGES)


def test_workers_finish_an_edit_of_many_and_apply_the_editions_once(failed):
    system, sets = failed, ["--set-header", "mended=yes"]
    query(system, "ALTER TABLE bank.seen ADD COLUMN mended text")
    query(system, """CREATE OR REPLACE FUNCTION bank.see(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO bank.seen (key, id, mended) VALUES (txb.key_text(m.key), m.id, m.headers ->> 'mended'); RETURN txb.ok(); END $$""")
    with system.target_postgres.session(system.bank.target, autocommit=False) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT 1 FROM txb.failed WHERE number = (SELECT max(number) FROM txb.failed) FOR UPDATE")
        running = subprocess.Popen([binary(), "-d", uri(system), "failed", "edit", "--group", system.group, "--yes", *sets])
        process.wait_for(lambda: query(system, "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"),
                         "a step to wait", 60)
        running.kill()
        running.wait(60)
        query(system, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'txbroker failed edit' AND datname = current_database()")
        holder.rollback()
    workers(system, 2)
    wait(system, lambda: states(system) == {"resolved": 2 * MESSAGES}, deadline_s=120)
    assert (job(system)["state"], job(system)["verb"], job(system)["done"]) == ("done", "edit", MESSAGES)
    assert query(system, "SELECT count(*), count(DISTINCT key), count(DISTINCT id), count(mended) FROM bank.seen WHERE number IS NULL") == [(MESSAGES,) * 4]
    assert query(system, "SELECT count(*) FROM bank.seen AS s JOIN txb.failed AS f ON f.id = s.id WHERE f.replaced_by IS NOT NULL") == [(0,)]
    assert counters(system) == (MESSAGES, MESSAGES, 0, 0)


def test_commands_and_workers_at_one_job_decide_about_each_message_once(failed):
    system = failed
    code, out, err = command("-d", uri(system), "-o", "json", "failed", "retry", "--group", system.group, "--yes", "--detach")
    assert code == 0, err
    number = json.loads(out)["job"]
    workers(system, 2)
    at_once = [subprocess.Popen([binary(), "-d", uri(system), "failed", "resume", str(number)], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for running in at_once:
        assert running.communicate(timeout=120)[0] == f"retried {MESSAGES} of {MESSAGES} messages\n" and running.returncode == 0
    wait(system, lambda: states(system) == {"resolved": MESSAGES}, deadline_s=120)
    check_each_once(system)


def test_a_command_waits_on_for_a_batch_that_takes_longer_than_one_wait(failed):
    """Each wait of the server is of five seconds; a step that was refused is asked for again."""
    system = failed
    waiting = "SELECT query_start FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with system.target_postgres.session(system.bank.target, autocommit=False) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT 1 FROM txb.consumer_offset FOR UPDATE")
        running = subprocess.Popen([binary(), "-d", uri(system), "failed", "retry", "--group", system.group, "--yes"], stdout=subprocess.PIPE, text=True)
        began = process.wait_for(lambda: query(system, waiting), "a step to wait", 60)
        process.wait_for(lambda: query(system, waiting) not in ([], began), "the step to be asked for again", 60)
        holder.rollback()
    assert running.communicate(timeout=120)[0].endswith(f"retried {MESSAGES} of {MESSAGES} messages\n") and running.returncode == 0
    assert states(system) == {"retrying": MESSAGES}
