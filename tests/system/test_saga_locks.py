"""Semantic locks of sagas (S6) on real servers: who locks one name never overlaps, nobody waits for ever, and nothing is left behind."""

import json
import re

import pytest

from txbtest import process
from txbtest.program import USAGE

GROUP = {"session_timeout_ms": 6000, "retry": {"first_ms": 20, "cap_ms": 100}}
ACCOUNT = ["account:{input.account}"]

# What a participant did for a saga, and when; all databases are of one server, and have one clock.
TRACE = """
    CREATE TABLE travel.trace (saga uuid NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
    GRANT ALL ON travel.trace TO PUBLIC;
    CREATE FUNCTION travel.note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      INSERT INTO travel.trace (saga) VALUES (coalesce(NEW.saga, OLD.saga));
      RETURN NULL;
    END
    $$;
    CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON travel.booking FOR EACH ROW EXECUTE FUNCTION travel.note();
"""


# Who has or waits for names.
ADVISORY = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 1954049332"


def trace(travel):
    for database in travel.databases.values():
        travel.postgres.query(database, TRACE)


def check_stretches(travel, accounts):
    """accounts: {saga: its account}. From its first effect to its last one a saga has its account for itself."""
    stretches = {}
    for database in travel.databases.values():
        for saga, first, last in travel.postgres.query(database, "SELECT saga, min(at), max(at) FROM travel.trace GROUP BY saga"):
            was = stretches.get(saga, (first, last))
            stretches[saga] = (min(first, was[0]), max(last, was[1]))
    for account in set(accounts.values()):
        ours = sorted(stretches[saga] for saga in accounts if accounts[saga] == account and saga in stretches)
        both = [(one, next) for one, next in zip(ours, ours[1:]) if next[0] < one[1]]
        assert not both, f"{len(both)} of {len(ours)} overlap on account {account}, the first: {both[0]} (TXB_SEED={travel.seed})"
    return len(stretches)


def locks(travel, account=""):
    """{name: [saga, ...]}, the holder first; of one account only."""
    found = {}
    for name, saga in travel.query("SELECT name, saga_id FROM txb.saga_lock WHERE name LIKE %s ORDER BY name, granted DESC, place", f"%:{account}" if account else "%"):
        found.setdefault(name, []).append(saga)
    return found


def wait_locks(travel, account, wanted):
    process.wait_for(lambda: locks(travel, account) == wanted, lambda: f"{wanted} instead of {locks(travel)}\n{travel.open_text()}\n{travel.logs_text()}", 60, alive=travel.alive)


def many(travel, count, accounts, name, more=None):
    """Starts so many on so many accounts: {saga: account}."""
    ids = travel.begin(count, lambda n: {"account": n % accounts, **(more(n) if more else {})}, name=name)
    return {saga: n % accounts for n, saga in enumerate(ids)}


def sent(travel, database):
    """Whether all that is due lies in Kafka."""
    return travel.postgres.query(database, "SELECT 1 FROM txb.relay WHERE watermark >= (SELECT max(seq) FROM txb.outbox)") != []


class Gate:
    """Holds up one participant."""

    def __init__(self, travel, what="payment"):
        self.travel, self.database = travel, travel.databases[what]

    def __enter__(self):
        self.session = self.travel.postgres.session(self.database)
        self.connection = self.session.__enter__()
        self.connection.cursor().execute("BEGIN; LOCK TABLE travel.account IN ACCESS EXCLUSIVE MODE")
        return self

    def open(self):
        self.connection.cursor().execute("ROLLBACK")

    def __exit__(self, *args):
        self.open()
        self.session.__exit__(*args)


# -- many ----------------------------------------------------------------------------------------------------------------------------


def crowd(travel, env=None):
    """200 sagas on 5 accounts by two coordinators. env: of these."""
    trace(travel)
    travel.relay()
    for what in travel.topics:
        travel.worker(what)
    for _ in range(2):
        travel.worker("sagas", env=env)
    accounts = many(travel, 200, 5, travel.deployed("locking", locks=ACCOUNT), lambda n: {"refuse": "payment"} if n % 7 == 0 else {})
    travel.wait_ended(list(accounts), deadline_s=120)
    assert check_stretches(travel, accounts) == 200
    assert travel.query("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(0,)]
    assert travel.states(list(accounts)) == {"completed": 171, "compensated": 29}
    assert locks(travel) == {}
    travel.check()


def test_sagas_that_lock_one_account_never_overlap_and_all_end(travels):
    travel = travels(partitions=4, group=GROUP)
    crowd(travel)
    waited = travel.query("SELECT count(DISTINCT saga_id), count(*) FROM txb.saga_event WHERE event = 'waits'")[0]
    assert waited[0] == waited[1] and waited[0] > 100, f"{waited}: few waited, or said so twice"
    assert travel.query("SELECT reason FROM txb.saga_stray") == []


def test_what_a_batch_gives_back_is_locked_with_what_it_takes(travels):
    """One batch in which a saga begins and another one ends waits for the lower of their names before it has the higher one."""
    travel = travels(partitions=1, group=GROUP)
    (low,), (high,) = travel.query("SELECT n FROM generate_series(1, 2) AS n ORDER BY hashtext('account:' || n)")
    travel.relay()
    for what in travel.topics:
        travel.worker(what)
    coordinator = travel.worker("sagas")
    name = travel.deployed("locking", locks=ACCOUNT)
    with Gate(travel) as gate:
        ending, = travel.begin(1, lambda n: {"account": low}, name=name)
        travel.wait_event([ending], "payment: begin")
        assert coordinator.stop() == 0
        gate.open()
    process.wait_for(lambda: ending in travel.bookings() and "payment" in travel.bookings()[ending], travel.logs_text, 60, alive=travel.alive)
    beginning, = travel.begin(1, lambda n: {"account": high}, name=name)
    process.wait_for(lambda: sent(travel, travel.agency) and sent(travel, travel.databases["payment"]), travel.logs_text, 60, alive=travel.alive)
    with travel.postgres.session(travel.agency) as holder:
        holder.cursor().execute("BEGIN; SELECT pg_advisory_xact_lock(1954049332, hashtext('account:' || %s))", (low,))
        travel.worker("sagas", group={"batch_wait_ms": 1000})
        process.wait_for(lambda: travel.query(ADVISORY + " AND NOT granted"), travel.logs_text, 60, alive=travel.alive)
        had = travel.query(ADVISORY + " AND granted AND objid::bigint::bit(32)::int = hashtext('account:' || %s)", high)
        holder.cursor().execute("ROLLBACK")
    assert had == []
    travel.wait_ended([ending, beginning])
    at = dict(travel.query("SELECT event, at FROM txb.saga_event WHERE (saga_id, event) IN ((%s, 'end'), (%s, 'start'))", ending, beginning))
    assert at["end"] == at["start"], "they were two batches"
    travel.check()


def test_several_names_are_taken_in_one_order_whatever_the_definition_says(travels):
    travel = travels(partitions=4, group=GROUP)
    trace(travel)
    travel.start("run")
    there = travel.deployed("there", locks=["account:{input.account}", "account:{input.other}"])
    back = travel.deployed("back", locks=["account:{input.other}", "account:{input.account}"])
    accounts = {**many(travel, 40, 2, there, lambda n: {"other": 1 - n % 2}), **many(travel, 40, 2, back, lambda n: {"other": 1 - n % 2})}
    travel.wait_ended(list(accounts))
    assert check_stretches(travel, dict.fromkeys(accounts, "both")) == 80
    assert travel.states() == {"completed": 80} and locks(travel) == {}
    travel.check()


# -- one by one ----------------------------------------------------------------------------------------------------------------------


def three(travel, account, name):
    """One that holds the account and can't go on, and two that wait for it, in this order."""
    first, = travel.begin(1, lambda n: {"account": account}, name=name)
    travel.wait_event([first], "payment: begin")
    second, = travel.begin(1, lambda n: {"account": account}, name=name)
    wait_locks(travel, account, {f"account:{account}": [first, second]})
    third, = travel.begin(1, lambda n: {"account": account}, name=name)
    wait_locks(travel, account, {f"account:{account}": [first, second, third]})
    return first, second, third


def test_who_waits_says_for_whom_and_comes_in_turn(travel):
    with Gate(travel) as gate:
        sagas = three(travel, 1, travel.deployed("turns", locks=ACCOUNT))
        assert travel.events(sagas[1]) == travel.events(sagas[2]) == ["waits"]
        assert travel.query("SELECT reason FROM txb.saga_event WHERE saga_id = %s", sagas[2]) == [(f"lock account:1 is held by saga {sagas[0]}",)]
        code, document, err = travel.saga("locks", "--name", "account:1")
        assert code == 0, err
        assert [(row["name"], row["held"], row["turn"], row["saga"], row["saga_name"]) for row in document["locks"]] == [
            ("account:1", saga == sagas[0], turn, str(saga), "turns") for saga, turn in zip(sagas, (None, 1, 2))]
        code, document, _ = travel.saga("locks", "--saga", str(sagas[2]))
        assert code == 0 and [row["turn"] for row in document["locks"]] == [2]
        assert [len(travel.saga("locks", "--name", name)[1]["locks"]) for name in ("account:1", "account", "account:11")] == [3, 3, 0]
        assert travel.cli("saga", "locks", "--name", "x")[1] == "no locks\n"
        code, out, err = travel.cli("saga", "locks", "--name", "account:1")
        assert code == 0 and re.search(rf"^account:1 +held +- +{sagas[0]} +turns ", out, re.M) and re.search(rf"^account:1 +waits +2 +{sagas[2]} +turns ", out, re.M), out + err
        code, out, _ = travel.cli("saga", "show", str(sagas[1]))
        assert code == 0 and ", version 1, waiting, " in out and f"  waits for    account:1, which saga {sagas[0]} holds\n" in out, out
        code, out, _ = travel.cli("saga", "show", str(sagas[0]))
        assert code == 0 and "  holds        account:1\n" in out, out
        assert travel.saga("show", str(sagas[1]))[1]["locks"][0]["holder"] == str(sagas[0])
        code, counts, _ = travel.saga("list", "--count", "--name", "turns")
        assert code == 0 and (counts["waiting"], counts["running"]) == (2, 1)
        code, document, _ = travel.saga("list", "--state", "waiting", "--name", "turns")
        assert code == 0 and [row["saga"] for row in document["sagas"]] == [str(sagas[2]), str(sagas[1])]
        assert document["sagas"][0]["reason"] == f"lock account:1 is held by saga {sagas[0]}"
        gate.open()
    travel.wait_ended(list(sagas))
    ends = dict(travel.query("SELECT saga_id, ended_at FROM txb.saga_end WHERE saga_id = ANY (%s)", list(sagas)))
    assert ends[sagas[0]] < ends[sagas[1]] < ends[sagas[2]]
    assert {travel.result(saga)["state"] for saga in sagas} == {"completed"} and locks(travel, 1) == {}
    assert "account:1\n" not in travel.cli("saga", "show", str(sagas[0]))[1]
    travel.check()


def test_who_does_not_want_to_wait_ends_at_once_with_nothing_done(travel):
    name = travel.deployed("impatient", locks=["a:{input.account}", *ACCOUNT], lock_conflict="refuse")
    with Gate(travel) as gate:
        first, = travel.begin(1, lambda n: {"account": 2}, name=travel.deployed("patient", locks=ACCOUNT))
        travel.wait_event([first], "payment: begin")
        code, result, _ = travel.saga("start", name, "--input", '{"amount": 5, "account": 2}', "--wait", "40s")
        assert code == 1 and (result["state"], result["reason"]) == ("compensated", f"lock account:2 is held by saga {first}")
        assert locks(travel, 2) == {"account:2": [first]}
        events = travel.query("SELECT event FROM txb.saga_event WHERE saga_id = %s ORDER BY n", result["saga"])
        assert events == [("turn_back",), ("end",)]
        gate.open()
    travel.wait_ended([first])
    code, result, _ = travel.saga("start", name, "--input", '{"amount": 5, "account": 2}', "--wait", "40s")
    assert (code, result["state"]) == (0, "completed") and locks(travel, 2) == {}
    travel.check()


def test_who_is_cancelled_or_too_late_while_it_waits_ends_and_lets_the_next_one_pass(travel):
    """And who is woken asks for the next of its names."""
    name = travel.deployed("leaving", locks=["a:{input.account}", *ACCOUNT])
    with Gate(travel) as gate:
        first, = travel.begin(1, lambda n: {"account": 3}, name=travel.deployed("staying", locks=ACCOUNT))
        travel.wait_event([first], "payment: begin")
        cancelled, = travel.begin(1, lambda n: {"account": 3}, name=name)
        wait_locks(travel, 3, {"account:3": [first, cancelled], "a:3": [cancelled]})
        woken, = travel.begin(1, lambda n: {"account": 3}, name=name)
        wait_locks(travel, 3, {"account:3": [first, cancelled], "a:3": [cancelled, woken]})
        code, _, err = travel.saga("cancel", str(cancelled), "--reason", "changed my mind")
        assert code == 0, err
        wait_locks(travel, 3, {"account:3": [first, woken], "a:3": [woken]})
        late, = travel.begin(1, lambda n: {"account": 3}, name=name, deadline="1s")
        travel.wait_ended([cancelled, late])
        wait_locks(travel, 3, {"account:3": [first, woken], "a:3": [woken]})
        gate.open()
    travel.wait_ended([first, woken])
    assert travel.result(cancelled)["reason"] == "changed my mind" and travel.events(cancelled) == ["waits", "turn_back", "end"]
    assert travel.result(late)["reason"] == "its deadline is over" and travel.events(late) == ["waits", "timer", "turn_back", "end"]
    assert travel.events(woken)[:3] == ["waits", "waits", "start"]
    assert travel.states([first, cancelled, woken, late]) == {"completed": 2, "compensated": 2} and locks(travel, 3) == {}
    travel.check()


def test_a_name_that_can_t_be_made_out_ends_the_saga_and_says_so(travel):
    name = travel.deployed("nameless", locks=["account:{input.nothing}"])
    saga, = travel.begin(1, name=name)
    travel.wait_ended([saga])
    assert travel.result(saga)["state"] == "compensated"
    assert travel.result(saga)["reason"].startswith("lock 1 can't be made out: input.nothing is absent")
    assert travel.events(saga) == ["turn_back", "end"]
    assert travel.query("SELECT 1 FROM txb.saga_lock WHERE saga_id = %s", saga) == []


def test_a_wake_that_nobody_waits_for_changes_nothing(travel):
    """Of one that has ended, one that has begun, one that locks nothing, and twice of one that waits."""
    with Gate(travel) as gate:
        sagas = three(travel, 4, travel.deployed("waking", locks=ACCOUNT))
        plain, = travel.begin(1, name=travel.deployed("plain"))
        travel.wait_event([plain], "payment: begin")
        ended, = travel.begin(1, lambda n: {"account": 40, "refuse": "flight"}, name="waking")
        travel.wait_ended([ended])
        before = {saga: travel.events(saga) for saga in (*sagas, plain, ended)}
        for saga in [*before, sagas[1]]:
            travel.query("SELECT txb.publish(%s, s.id::text, 'txb.saga.wake', '{}'::jsonb, txb.saga_reference(s.id, s.started_at)) FROM txb.saga AS s"
                         " WHERE s.id = %s", travel.topic, saga)
        process.wait_for(lambda: sent(travel, travel.agency) and travel.consumed("sagas"), travel.logs_text, 60, alive=travel.alive)
        assert {saga: travel.events(saga) for saga in before} == before
        assert locks(travel, 4) == {"account:4": list(sagas)} and locks(travel, 40) == {}
        gate.open()
    travel.wait_ended([*sagas, plain])
    assert travel.states([*sagas, plain]) == {"completed": 4} and locks(travel, 4) == {}
    assert travel.query("SELECT reason FROM txb.saga_stray") == []
    travel.check()


def test_a_definition_says_what_it_does_about_a_conflict(travel):
    code, document, err = travel.deploy(travel.definition(name="odd", lock_conflict="refuse"))
    assert (code, document) == (USAGE, None) and "lock_conflict: there is nothing to lock" in err
    code, document, err = travel.saga("deploy", "-", "--dry-run", stdin=json.dumps(travel.definition(name="even", locks=ACCOUNT, lock_conflict="wait")).encode())
    assert code == 0, err


def test_sagas_without_locks_ask_for_none(travels):
    """By the database's own count of calls, which shows those of a saga with locks."""
    travel = travels(group=GROUP)
    travel.query(f"ALTER DATABASE {travel.agency} SET track_functions = 'all'")
    travel.start("run")

    def called():
        return {name for name, in travel.query("SELECT funcname FROM pg_stat_user_functions WHERE schemaname = 'txb' AND calls > 0"
                                               " AND funcname IN ('saga_finish', 'saga_lock', 'saga_unlock')")}

    travel.wait_ended(travel.begin(50, name=travel.deployed("trip")))
    process.wait_for(called, travel.logs_text, 60, alive=travel.alive)
    assert called() == {"saga_finish"}
    travel.wait_ended(travel.begin(1, lambda n: {"account": 1}, name=travel.deployed("locking", locks=ACCOUNT)))
    process.wait_for(lambda: called() == {"saga_finish", "saga_lock", "saga_unlock"}, lambda: f"{called()}", 60, alive=travel.alive)


# -- kill -9 -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.crash
def test_a_coordinator_that_is_killed_while_some_wait_forgets_nobody(travels, tally):
    travel = travels(group=GROUP)
    trace(travel)
    travel.relay()
    for what in travel.topics:
        travel.worker(what)
    coordinator = travel.worker("sagas")
    with Gate(travel) as gate:
        accounts = many(travel, 60, 3, travel.deployed("locking", locks=ACCOUNT))
        process.wait_for(lambda: sum(map(len, locks(travel).values())) == 60, lambda: f"{locks(travel)}\n{travel.logs_text()}", 60, alive=travel.alive)
        assert travel.query("SELECT count(*) FROM txb.saga_lock WHERE granted") == [(3,)]
        coordinator.kill9()
        gate.open()
    tally["kills"] += 1
    tally["kills at work"] += 1  # three payments are under way, and their answers wait for the coordinator
    coordinator = travel.worker("sagas")
    travel.wait_ended(list(accounts))
    assert check_stretches(travel, accounts) == 60
    assert travel.states(list(accounts)) == {"completed": 60} and locks(travel) == {}
    travel.check()


@pytest.mark.crash
@pytest.mark.parametrize("point", ["coordinator.after_load", "coordinator.after_store", "worker.before_commit", "worker.after_commit"])
def test_kill_9_at_a_failpoint_of_the_coordinator_leaves_no_lock_and_no_saga_behind(point, travels, tally):
    """Again and again, in batches that take locks, wait for them, and give them back."""
    travel = travels(group={**GROUP, "batch_messages": 10})
    trace(travel)
    travel.relay()
    for what in travel.topics:
        travel.worker(what)
    accounts = many(travel, 90, 3, travel.deployed("locking", locks=ACCOUNT), lambda n: {"refuse": "hotel"} if n % 5 == 0 else {})
    for nth in (2, 6):
        victim = travel.worker("sagas", env={"TXB_FAILPOINT": f"{point}:{nth}"})
        assert victim.wait_exit(60) == -9, victim.text()
        tally["kills"] += 1
        tally["kills at work"] += 1
    travel.worker("sagas")
    travel.wait_ended(list(accounts), deadline_s=120)
    assert check_stretches(travel, accounts) == 90
    assert travel.states(list(accounts)) == {"completed": 72, "compensated": 18} and locks(travel) == {}
    travel.check()
