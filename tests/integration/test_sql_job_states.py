"""A job's states in SQL are those of the table in consumer/job_core.c, which `txbroker replay states` prints: every event in every state leads where the
table says, or is refused and changes nothing."""

import json

import psycopg2
import pytest
from jobstest import claim, expire, register, start
from txbtest.program import command

PERSON = {"pause": "SELECT txb.job_pause(%s, 'hal', 'why')", "resume": "SELECT txb.job_resume(%s, 'hal', 'why')",
          "cancel": "SELECT txb.job_cancel(%s, 'hal', 'why')"}
STATES = (None, "running", "paused", "cancelled", "done")
EVENTS = ("start", *PERSON, "finish")


@pytest.fixture(scope="module")
def table():
    """(from, event) -> to; from None: there is no job."""
    code, out, err = command("replay", "states", "-o", "json")
    assert code == 0, err
    lines = json.loads(out)["transitions"]
    table = {(line["from"], line["event"]): line["to"] for line in lines}
    assert len(table) == len(lines), "an event leads to two states"
    return table


class Job:
    """The one job of the database; every event as whoever makes it happen does."""

    def __init__(self, db):
        register(db.root)
        self.db, self.admin, self.worker = db, db.session("admin"), db.session("worker")
        self.number = 0  # there is none

    def row(self):
        return self.db.root.do("SELECT number, state, state_at, state_by, finished_at FROM txb.job")

    def state(self):
        rows = self.row()
        assert len(rows) <= 1
        return rows[0][1] if rows else None

    def happens(self, event):
        """None, or the SQLSTATE of the refusal."""
        try:
            if event == "start":
                self.number, _ = start(self.admin, name="one")
            elif event == "finish":
                self.db.root.do("UPDATE txb.consumer_offset SET next_offset = 100 WHERE partition < 0")
                expire(self.db)
                claim(self.worker)
            else:
                self.admin.do(PERSON[event], self.number)
        except psycopg2.Error as error:
            return error.pgcode
        return None

    def reach(self, table, wanted):
        """By the shortest way through the table."""
        ways = {None: []}
        while wanted not in ways:
            onward = {to: [*way, event] for here, way in ways.items() for (state, event), to in table.items() if state == here and to not in ways}
            assert onward, f"nothing leads to {wanted}"
            ways.update(onward)
        for event in ways[wanted]:
            assert self.happens(event) is None
        assert self.state() == wanted


def test_the_database_knows_the_states_of_the_table(db, table):
    rule = db.root.one("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'job_state'")
    states = {to for to in table.values()} | {state for state, _ in table if state is not None}
    assert states == set(STATES[1:]) and {event for _, event in table} == set(EVENTS)
    assert sorted(word for word in rule.split("'") if word.isalpha() and word != "text") == sorted(states)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", STATES)
def test_an_event_leads_where_the_table_says(db, table, state, event):
    job = Job(db)
    job.reach(table, state)
    before, audits = job.row(), db.root.one("SELECT count(*) FROM txb.audit")
    refusal = job.happens(event)
    wanted = table.get((state, event))
    actions = db.root.do("SELECT action FROM txb.audit OFFSET %s", audits)
    if wanted is None:
        assert job.row() == before and actions == []
        assert refusal == (("P0002" if state is None else "55000") if event in PERSON else None)
        return
    assert refusal is None and job.state() == wanted
    assert actions == [("replay done" if event == "finish" else f"replay {event}",)], "the audit says what a person did, and what became of it"
