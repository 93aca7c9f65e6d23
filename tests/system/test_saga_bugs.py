"""Rules of sagas broken on purpose: what looks for it in the other tests finds it, and finds nothing without it."""

import pytest
import test_saga_locks
import test_saga_time

from txbtest import process

GROUP = {**test_saga_time.GROUP, "batch_messages": 20}


def cancelled_at_the_pivot(travel, env=None):
    """S3: the payment, which was under way, takes effect after all."""
    travel.relay()
    for what in ("flight", "hotel"):
        travel.worker(what)
    travel.worker("sagas", env=env)
    saga, = travel.begin(1, name=travel.deployed("trip"))
    travel.wait_event([saga], "payment: begin")
    code, _, err = travel.saga("cancel", str(saga), "--reason", "a test")
    assert code == 0, err
    travel.worker("payment")
    travel.wait_ended([saga])
    settle(travel)
    travel.check()


def settle(travel):
    """Until nothing is under way."""
    process.wait_for(lambda: travel.published(*travel.sources) and all(travel.consumed(what) for what in travel.topics) and travel.consumed("sagas")
                     and travel.published(*travel.sources), lambda: f"rest\n{travel.logs_text()}", 60, alive=travel.alive)


def late_answer(travel, env=None):
    """S3: what the barrier says took effect did."""
    travel.relay(travel.agency, travel.databases["hotel"], travel.databases["payment"])
    for what in ("flight", "payment"):
        travel.worker(what)
    travel.worker("sagas", env=env)
    ids = travel.begin(10, name=travel.deployed("pair", [travel.step("flight", timeout="300ms", retry={"attempts": 1000}), travel.step("payment", "pivot")]))
    travel.wants.update({saga: ["flight", "payment"] for saga in ids})
    travel.wait_event(ids, "flight: time")
    travel.relay(travel.databases["flight"])
    travel.wait_ended(ids)
    settle(travel)
    found = travel.states(ids)
    travel.wants.update({saga: [] for saga in ids if travel.result(saga)["state"] != "completed"})
    travel.check()
    assert found == {"completed": 10}


def skipped_under_way(travel, env=None):
    """S3: a step that a person skips takes effect after all, and then it is done."""
    travel.relay()
    for what in travel.topics:
        travel.worker(what)
    travel.worker("sagas", env=env)
    letter = travel.step("letter", "retriable", what="hotel", timeout="200ms", retry={"attempts": 1})
    name = travel.deployed("letters", [travel.step("flight"), travel.step("payment", "pivot"), letter])
    with travel.postgres.session(travel.databases["hotel"]) as gate:
        gate.cursor().execute("BEGIN; LOCK TABLE travel.account IN ACCESS EXCLUSIVE MODE")
        saga, = travel.begin(1, name=name)
        travel.wait_event([saga], "letter: stuck")
        code, _, err = travel.saga("skip", str(saga), "letter", "--reason", "a test")
        assert code == 0, err
        gate.cursor().execute("ROLLBACK")
    travel.wait_ended([saga])
    settle(travel)
    travel.wants[saga] = ["flight", "payment", *(["letter"] if "letter: effect" in travel.events(saga) else [])]
    travel.check()


def killed_coordinator(travel, env=None):
    """A batch of starts is killed before its commit, and comes again."""
    travel.relay()
    for what in travel.topics:
        travel.worker(what)
    dying = travel.worker("sagas", env={**(env or {}), "TXB_FAILPOINT": "worker.before_commit:2"})
    ids = travel.begin(100, name=travel.deployed("trip"))
    assert dying.wait_exit(60) == -9, dying.text()
    travel.worker("sagas")
    process.wait_for(lambda: travel.consumed("sagas"), lambda: f"rest\n{travel.logs_text()}", 60, alive=travel.alive)
    begun = {saga for saga, in travel.query("SELECT DISTINCT saga_id FROM txb.saga_event")}
    assert begun >= set(ids), f"{len(set(ids) - begun)} starts are lost"
    travel.wait_ended(ids)
    travel.check()


# Each with what is found, and broken in which program: the coordinator's, or a function of the database.
SCENARIOS = {
    cancelled_at_the_pivot: {"saga_pivot_guessed": "sagas, the first of them"},
    late_answer: {"saga_late_effect_ignored": "sagas, the first of them"},
    skipped_under_way: {"saga_skip_guessed": "sagas, the first of them"},
    test_saga_time.outage: {"coordinator_timer_first": "did not hear the answer first"},
    killed_coordinator: {"worker_offset_before_commit": "starts are lost"},
    test_saga_locks.crowd: {"saga_lock_ignored": "overlap on account"},
    test_saga_time.asked_again: {"barrier_ignored": "sagas, the first of them"},
}
IN_SQL = {"barrier_ignored": ("txb.command_enter", "runs := operation = 'compensation' AND was.state = 'ok';",
                              "runs := operation IN ('action', 'forward') OR operation = 'compensation' AND was.state = 'ok';")}
BUGS = [bug for bugs in SCENARIOS.values() for bug in bugs if bug not in IN_SQL]
TESTED = (test_saga_locks.crowd, test_saga_time.outage, test_saga_time.asked_again)  # without a bug in their own module


def break_function(travel, name, words, instead):
    for database in travel.sources:
        text = travel.postgres.value(database, "SELECT pg_get_functiondef(%s::regproc)", (name,))
        assert words in text
        travel.postgres.query(database, text.replace(words, instead))


@pytest.mark.parametrize("scenario", [scenario for scenario in SCENARIOS if scenario not in TESTED], ids=lambda scenario: scenario.__name__)
def test_nothing_is_found_without_a_bug(scenario, travels):
    scenario(travels(group=GROUP))


@pytest.mark.parametrize("scenario,bug", [(scenario, bug) for scenario, bugs in SCENARIOS.items() for bug in bugs],
                         ids=[f"{scenario.__name__}-{bug}" for scenario, bugs in SCENARIOS.items() for bug in bugs])
def test_a_planted_bug_is_caught(scenario, bug, travels):
    travel = travels(group=GROUP)
    if bug in IN_SQL:
        break_function(travel, *IN_SQL[bug])
    with pytest.raises(AssertionError, match=SCENARIOS[scenario][bug]):
        scenario(travel, None if bug in IN_SQL else {"TXB_BUG": bug})
