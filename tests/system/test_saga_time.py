"""Sagas and time: what was done in time counts however late it is heard of, and what became of a step is asked, never guessed (S2, S3)."""

import pytest

from txbtest import process
from txbtest.travel import Travel
from txbtest.verify import read_topic

GROUP = {"session_timeout_ms": 6000, "retry": {"first_ms": 60000, "cap_ms": 60000}}


# -- the coordinator away ------------------------------------------------------------------------------------------------------


def test_answers_that_waited_for_the_coordinator_come_before_the_time_outs(travels):
    outage(travels(group=GROUP))


def outage(travel, env=None):
    """S2. env: of the coordinator."""
    travel.relay()
    coordinator = travel.worker("sagas", env=env)
    ids = (travel.begin(100, name=travel.deployed("timed", [travel.step("flight", timeout="4s")]))
           + travel.begin(100, name=travel.deployed("dated", [travel.step("flight")]), deadline="4s"))
    with travel.postgres.session(travel.databases["flight"]) as gate:
        gate.cursor().execute("BEGIN; LOCK TABLE travel.account IN ACCESS EXCLUSIVE MODE")
        travel.worker("flight")
        travel.wait_event(ids, "flight: begin")
        assert coordinator.stop() == 0
        gate.cursor().execute("ROLLBACK")
    process.wait_for(lambda: set(ids) <= set(travel.bookings()), lambda: f"flights\n{travel.logs_text()}", 60, alive=travel.alive)
    # Nothing is scheduled any more: all those times are over, and lie in the topic behind the answers.
    process.wait_for(lambda: travel.published(travel.agency, travel.databases["flight"]), lambda: f"timers\n{travel.logs_text()}", 60, alive=travel.alive)
    # On a slow machine the time of some may have been over before they answered.
    first = {}
    for record in read_topic(travel.kafka.brokers, travel.topic):
        if record.headers["ce_type"] != b"txb.saga.start":
            first.setdefault(record.key.decode(), record.headers["ce_type"])
    waiting = [saga for saga in ids if first[str(saga)] == b"txb.reply"]
    assert len(waiting) >= 50
    travel.worker("sagas", env=env)
    travel.wait_ended(ids)
    wrong = {saga: events for saga, events in ((saga, travel.events(saga)) for saga in waiting) if events != ["start", "flight: begin", "flight: effect", "end"]}
    assert not wrong, f"{len(wrong)} did not hear the answer first: {list(wrong.items())[:3]}"
    assert travel.states(waiting) == {"completed": len(waiting)}
    travel.wants.update({saga: ["flight"] for saga, state in travel.query("SELECT saga_id, state FROM txb.saga_end") if state == "completed"})
    travel.check()


@pytest.mark.parametrize("how", ["stop", "kill9"])
def test_a_coordinator_that_was_away_longer_than_all_time_outs_compensates_nothing(how, travels):
    travel = travels(group=GROUP)
    travel.relay()
    for what in ("flight", "hotel", "payment"):
        travel.worker(what)
    coordinator = travel.worker("sagas")
    steps = [travel.step(what, kind, timeout="1s", retry={"attempts": 100}) for what, kind in
             (("flight", "compensatable"), ("hotel", "compensatable"), ("payment", "pivot"))]
    name = travel.deployed("brief", steps)
    ids = travel.begin(200, name=name)
    travel.wait_event(ids[:1], "flight: begin")
    getattr(coordinator, how)()
    process.wait_for(lambda: travel.published(*travel.sources), lambda: f"time-outs to be over\n{travel.logs_text()}", 60, alive=travel.alive)
    travel.worker("sagas")
    travel.wait_ended(ids)
    assert travel.states(ids) == {"completed": 200}
    assert travel.query("SELECT 1 FROM txb.scheduled") == []
    travel.check()


def asked_again(travel, env=None):
    """S4: a step behind the pivot and a compensation whose participant is away are asked for again and again; each is done once. env: of the coordinator."""
    travel.relay()
    for what in ("flight", "payment"):
        travel.worker(what)
    travel.worker("sagas", env=env)
    often = {"attempts": 1000, "first": "20ms", "cap": "100ms"}
    name = travel.deployed("insisting", [travel.step("flight"), travel.step("payment", "pivot"),
                                         travel.step("hotel", "retriable", timeout="200ms", retry=often)])
    ids = travel.begin(20, name=name)
    travel.wait_event(ids, "hotel: time")
    travel.worker("hotel")
    travel.wait_ended(ids)
    hotel, topic = travel.databases["hotel"], travel.topics["hotel"]
    process.wait_for(lambda: travel.consumed("hotel"), lambda: f"the rest of {topic}\n{travel.logs_text()}", 60, alive=travel.alive)
    assert travel.postgres.value(hotel, "SELECT sum(consumed) FROM txb.consumer_offset") >= 2 * len(ids)
    assert travel.states(ids) == {"completed": len(ids)}
    travel.check()


def test_what_is_asked_for_again_and_again_takes_effect_once(travels):
    asked_again(travels(group=GROUP))


# -- the participant of the pivot away -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(postgres, kafka, seed):
    """All but what has to do with the payment."""
    travel = Travel(postgres, kafka, seed, group=GROUP)
    try:
        travel.relay(travel.agency, travel.databases["flight"])
        for what in ("sagas", "flight"):
            travel.worker(what)
        travel.deployed("patient", [travel.step("flight"), travel.step("payment", "pivot")])
        travel.deployed("hasty", [travel.step("flight"), travel.step("payment", "pivot", timeout="1s", retry={"attempts": 1000})])
        yield travel
    finally:
        travel.close()


class Pivots:
    """Sagas whose pivot is under way when their time-out or deadline is over, or somebody cancels them."""

    def __init__(self, travel, **given):
        self.travel = travel
        self.late, = travel.begin(1, lambda n: given, name="hasty")
        self.overdue, self.cancelled = travel.begin(1, lambda n: given, name="patient", deadline="5s") + travel.begin(1, lambda n: given, name="patient")
        self.ids = [self.late, self.overdue, self.cancelled]

    def wait(self, condition, what):
        process.wait_for(condition, lambda: f"{what}\n{self.travel.open_text()}\n{self.travel.logs_text()}", 60, alive=self.travel.alive)

    def begun(self):
        self.travel.wait_event(self.ids, "payment: begin")

    def turn(self):
        """Until each of them asks the barrier."""
        code, document, err = self.travel.saga("cancel", str(self.cancelled), "--reason", "a test")
        assert code == 0 and document["event"]["event"] == "turn_back", (document, err)
        self.travel.wait_event([self.late], "payment: time")
        self.travel.wait_event([self.overdue], "turn_back")

    def end(self, state, wants=()):
        self.travel.wait_ended(self.ids)
        self.travel.wants.update({saga: list(wants) for saga in self.ids})
        assert self.travel.states(self.ids) == {state: 3}, [self.travel.events(saga) for saga in self.ids]


@pytest.fixture
def payment(request, parts):
    """Starts worker and relay of the payment, which end with the test."""
    request.node.systems = [parts]
    started = []

    def start(role):
        started.append(parts.worker("payment") if role == "worker" else parts.relay(parts.databases["payment"]))
        return started[-1]

    yield start
    for program in started:
        if program.running():
            assert program.stop() == 0, program.text()


def test_a_pivot_that_comes_late_decides(parts, payment):
    payment("relay")
    paid, refused = Pivots(parts), Pivots(parts, refuse="payment")
    for pivots in (paid, refused):
        pivots.begun()
        pivots.turn()
    payment("worker")
    paid.end("completed", ["flight", "payment"])
    refused.end("compensated")
    parts.check()


def test_a_pivot_that_had_taken_effect_before_anybody_asked_decides(parts, payment):
    worker = payment("worker")
    paid, refused = Pivots(parts), Pivots(parts, refuse="payment")
    answered = "SELECT count(*) FROM txb.barrier WHERE saga_id = ANY (%s) AND state <> 'never'"
    for pivots in (paid, refused):
        pivots.wait(lambda ids=pivots.ids: parts.postgres.value(parts.databases["payment"], answered, (ids,)) == 3, "payments")
    assert worker.stop() == 0
    for pivots in (paid, refused):
        pivots.turn()
    payment("relay")
    payment("worker")
    paid.end("completed", ["flight", "payment"])
    refused.end("compensated")
    parts.check()


def test_a_pivot_that_had_not_taken_effect_when_the_barrier_was_asked_never_will(parts, payment):
    payment("relay")
    payment("worker")
    database = parts.databases["payment"]
    pivots = Pivots(parts, fail={"payment": 1})
    pivots.wait(lambda: parts.failed("payment").count(("retrying",)) == 3, "payments to be set aside")
    pivots.turn()
    pivots.end("compensated")
    # The second attempt would work, and finds the door closed.
    parts.postgres.query(database, "UPDATE txb.failed SET next_attempt_at = now() WHERE state = 'retrying';"
                                   " UPDATE txb.consumer_offset SET keys_version = keys_version + 1")
    pivots.wait(lambda: parts.failed("payment") == 3 * [("resolved",)], f"them to be answered: {parts.failed('payment')}")
    assert {state for state, in parts.postgres.query(database, "SELECT state FROM txb.barrier WHERE saga_id = ANY (%s)", (pivots.ids,))} == {"never"}
    parts.check()
