"""Replay jobs for the tests: groups with a topic or a history of their own on one System, jobs as a person starts them, and a verifier that shares no code
with txbroker: it knows what was published, and looks at what the handler wrote down.

Effects are rows of bank.note: which group, and the message as the handler got it. Nothing there hides a second application.
"""

import collections
import json

from txbtest import process
from txbtest.verify import Report

TABLES = """
CREATE TABLE bank.note (ord bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, who text NOT NULL, m txb.message NOT NULL, txid xid8 NOT NULL DEFAULT pg_current_xact_id());
CREATE TABLE bank.broken (who text, key text, n int);
CREATE TABLE bank.counter (who text, key text, value bigint NOT NULL DEFAULT 0);
GRANT ALL ON bank.note, bank.broken, bank.counter TO PUBLIC; GRANT ALL ON ALL SEQUENCES IN SCHEMA bank TO PUBLIC;
"""
# What stands in bank.broken fails; $then: what else it does.
HANDLER = """
CREATE FUNCTION $function(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
DECLARE
  v bigint;
BEGIN
  IF EXISTS (SELECT FROM bank.broken AS b WHERE b.who = '$who' AND b.key IS NOT DISTINCT FROM txb.key_text(m.key)) THEN
    v := (convert_from(m.payload, 'UTF8')::jsonb->>'n')::bigint;
    IF EXISTS (SELECT FROM bank.broken AS b WHERE b.who = '$who' AND b.key IS NOT DISTINCT FROM txb.key_text(m.key) AND b.n = v) THEN
      RAISE EXCEPTION 'no account % of %', v, txb.key_text(m.key);
    END IF;
  END IF;
  $then
  INSERT INTO bank.note (who, m) VALUES ('$who', m);
  RETURN txb.ok();
END $$
"""
PUBLISHES = """PERFORM txb.publish('answers', txb.key_text(m.key), 'made', jsonb_build_object('of', m.id), headers => '{"who": "$who"}');"""
# Without a lock of its own: right only where nobody else applies messages of that key at the same time.
COUNTS = """SELECT c.value INTO v FROM bank.counter AS c WHERE c.who = '$who' AND c.key = txb.key_text(m.key);
  UPDATE bank.counter AS c SET value = v + 1 WHERE c.who = '$who' AND c.key = txb.key_text(m.key);"""
FLAKY = """IF m."offset" % 23 = 3 AND m.attempt < 3 THEN RAISE EXCEPTION 'not yet'; END IF;"""

WORKER = {"session_timeout_ms": 6000, "batch_messages": 50, "retry": {"first_ms": 20, "cap_ms": 100}}
COLUMNS = ("next_offset", "consumed", "applied", "duplicate", "failed")
Message = collections.namedtuple("Message", "id key n")
Note = collections.namedtuple("Note", "ord id key n partition offset")


def prepare(system):
    """What the groups of a System need in the applying database."""
    system.target_postgres.query(system.bank.target, TABLES)


def history(system):
    """What the bank has published, by its journal; n is null where no order is claimed."""
    return [Message(*row) for row in system.postgres.query(system.bank.source, "SELECT id::text, key, n FROM bank.journal")]


class Group:
    """A worker group on a System, whose position in its topics is at their present ends unless `start` says "beginning" or "nowhere".

    topics: those of its messages, else one of its own; then: what its handler does besides noting; function: another handler
    """

    numbers = iter(range(1_000_000))

    def __init__(self, system, topics=None, then="", start="end", name=None, function=None):
        number = next(Group.numbers)
        self.system, self.name = system, name or f"{system.name}.g{number}"
        self.topics = list(topics or [system.kafka.create_topic(f"{self.name}.topic", system.partitions)])
        self.published, self.programs, self.jobs = [], [], []
        self.function = function or f"bank.see_{number}"
        if function is None:
            self.query(HANDLER.replace("$function", self.function).replace("$then", then).replace("$who", self.name))
        if start != "nowhere":
            self.register(start)

    def query(self, sql, *args):
        return self.system.target_postgres.query(self.system.bank.target, sql, args or None)

    def value(self, sql, *args):
        return self.system.target_postgres.value(self.system.bank.target, sql, args or None)

    def register(self, start="end"):
        for topic in self.topics:
            ends = sorted(self.system.kafka.ends(topic).items())
            self.query("SELECT txb.offset_register(%s, %s, %s, %s::bigint[], %s)", self.name, topic, [p for p, _ in ends],
                       [end if start == "end" else first for _, (first, end) in ends], self.system.kafka.cluster_id)

    # -- the source ------------------------------------------------------------------------------------------------------------

    def publish(self, messages, topic=None, wait=True):
        """(key, n) each, in one transaction, in this order; returns them, once the relay has passed them."""
        rows = self.system.postgres.query(
            self.system.bank.source, "SELECT txb.publish(%s, u.key, 'note.made', jsonb_build_object('n', u.n, 'to', 1, 'amount', 1))::text, u.key, u.n"
            " FROM unnest(%s::text[], %s::int[]) WITH ORDINALITY AS u (key, n, nth) ORDER BY u.nth", (topic or self.topics[0], *map(list, zip(*messages))))
        made = [Message(*row) for row in rows]
        self.published += made
        if wait:
            self.system.wait_published()
        return made

    def add_topic(self):
        """Another one that the group reads; it has no position there yet."""
        self.topics.append(self.system.kafka.create_topic(f"{self.name}.topic{len(self.topics)}", self.system.partitions))
        return self.topics[-1]

    def watermark(self):
        return self.system.relay_row()["watermark"]

    # -- workers ---------------------------------------------------------------------------------------------------------------

    def worker(self, env=None, sources=None, **settings):
        config = {**WORKER, "group": self.name, "topics": self.topics, "handler": {"kind": "sql", "function": self.function}, **settings}
        program = self.system.worker(f"{self.name}.w{len(self.programs)}", env, worker=config, **({"sources": sources} if sources else {}))
        self.programs.append(program)
        return program

    def running(self):
        return [program for program in self.programs if program.running()]

    def kill(self, *programs):
        """kill -9, and their leases are over at once, as if their time had passed."""
        for program in programs or self.running():
            program.kill9()
            self.query("UPDATE txb.job_lane SET lease_until = clock_timestamp() - interval '1 second' WHERE owner LIKE %s", f"%-{program.process.pid}")

    def stop(self):
        self.kill()
        self.system.programs = [program for program in self.system.programs if program not in self.programs]

    def alive(self):
        for program in self.programs:
            program.alive()

    # -- what is seen ----------------------------------------------------------------------------------------------------------

    def notes(self):
        return [Note(*row) for row in self.query(
            "SELECT ord, (m).id::text, txb.key_text((m).key), (convert_from((m).payload, 'UTF8')::jsonb->>'n')::int, (m).partition, (m).\"offset\" FROM bank.note"
            " WHERE who = %s ORDER BY ord", self.name)]

    def numbers_of(self, key):
        """What a key's messages say that they are, in the order of their effects."""
        return [note.n for note in self.notes() if note.key == key]

    def states(self):
        return dict(self.query("SELECT state, count(*) FROM txb.failed WHERE group_name = %s GROUP BY state", self.name))

    def failed(self, *states):
        return [row[0] for row in self.query("SELECT number FROM txb.failed WHERE group_name = %s AND state = ANY (%s) ORDER BY place", self.name, list(states))]

    def break_it(self, *messages):
        for key, n in messages:
            self.query("INSERT INTO bank.broken VALUES (%s, %s, %s)", self.name, key, n)

    def mend(self):
        self.query("DELETE FROM bank.broken WHERE who = %s", self.name)

    def edit(self, number, n):
        """Decides on a failed message that it says another n; returns the new id."""
        done, new = self.query("SELECT done, new_id::text FROM txb.failed_edit(%s, %s, 'application/json', NULL, 'test')", number, json.dumps({"n": n}).encode())[0]
        assert done
        return new

    def look(self):
        """The counters of each row add up whenever one looks (W15), and no job's position goes back. (topic, partition) -> row"""
        rows = {(row[0], row[1]): row[2:] for row in self.query(
            "SELECT topic, partition, next_offset, consumed, applied, duplicate, failed FROM txb.consumer_offset WHERE group_name = %s", self.name)}
        for place, (_, consumed, *parts) in rows.items():
            assert consumed == sum(parts) and min(parts) >= 0, (place, consumed, parts)
        for job in self.jobs:
            job.see(rows)
        return rows

    def total(self, column):
        return sum(row[COLUMNS.index(column)] for row in self.look().values())

    def lag(self):
        """What there is to say, for the message of a time-out."""
        rows = [f"{place}: next, consumed, applied, duplicate, failed = {row}" for place, row in sorted(self.look().items())]
        jobs = self.query("SELECT j::text FROM txb.job AS j WHERE group_name = %s", self.name) + self.query(
            "SELECT l::text FROM txb.job_lane AS l JOIN txb.job AS j ON j.number = l.job WHERE j.group_name = %s", self.name)
        failed = self.query("SELECT state, partition, run, count(*), max(error) FROM txb.failed WHERE group_name = %s GROUP BY 1, 2, 3", self.name)
        logs = [f"[{program.name}]\n{program.text()[-3000:]}" for program in self.programs[-3:]]
        return "\n".join(str(line) for line in [*rows, *jobs, *failed, *logs])

    def wait(self, condition, deadline_s=60):
        """With a look at the counters each time."""
        return process.wait_for(lambda: self.look() is not None and condition(), self.lag, deadline_s, alive=self.alive)

    # -- jobs ------------------------------------------------------------------------------------------------------------------

    def job(self, **options):
        job = Job(self, **options)
        if not job.existed:
            self.jobs.append(job)
        return job

    def check(self, expected=None, times=1, order=True):
        return verify(self, self.published if expected is None else expected, times, order)


class Job:
    """A replay job of the group's topics, by default of all that the relay has passed."""

    def __init__(self, group, name=None, topics=None, keys=None, types=None, seq_from=1, seq_to=None, forced=False, then_live=False, rate_max=None):
        self.group = group
        if seq_to is None and not then_live:
            seq_to = group.watermark() + 1
        self.number, self.existed = group.query(
            "SELECT number, existed FROM txb.job_start(%s, %s, %s, %s, %s::bytea[], %s::text[], NULL, NULL, %s, %s, %s, %s, %s, 'a test', 'test')", name, group.name,
            group.system.name, topics or group.topics, keys, types, seq_from, seq_to, forced, then_live, rate_max)[0]
        self.lanes = {row[0] for row in group.query("SELECT lane FROM txb.job_lane WHERE job = %s", self.number)}
        self.positions = {}

    @property
    def state(self):
        return self.group.value("SELECT state FROM txb.job WHERE number = %s", self.number)

    def sum(self, column):
        """Of a counter over all lanes."""
        return int(self.group.value(f"SELECT coalesce(sum(c.{column}), 0) FROM txb.job_lane AS l JOIN txb.job AS j ON j.number = l.job JOIN txb.consumer_offset AS c"
                                    " ON c.group_name = j.group_name AND c.topic = l.topic AND c.partition = -l.lane WHERE l.job = %s", self.number))

    def counts(self):
        """consumed, applied, duplicate, failed of its lanes"""
        return tuple(self.sum(column) for column in COLUMNS[1:])

    def moved(self):
        return int(self.group.value("SELECT sum(moved) FROM txb.job_lane WHERE job = %s", self.number))

    def handled(self):
        """How many messages the job has brought: to its own lanes, or behind a key that a live partition holds."""
        return self.sum("consumed") + self.moved()

    def see(self, rows):
        for place, row in rows.items():
            if -place[1] in self.lanes:
                before = self.positions.get(place, row[0])
                assert row[0] >= before, f"lane {-place[1]} of job {self.number} went back from {before} to {row[0]}"
                self.positions[place] = row[0]

    def owners(self):
        """The running programs that hold a lease of this job."""
        names = {row[0] for row in self.group.query("SELECT owner FROM txb.job_lane WHERE job = %s AND owner IS NOT NULL AND lease_until > clock_timestamp()",
                                                    self.number)}
        return [program for program in self.group.running() if any(name.endswith(f"-{program.process.pid}") for name in names)]

    def wait(self, state="done", deadline_s=60):
        self.group.wait(lambda: self.state == state, deadline_s)
        return self

    def wait_more(self, number):
        """Until it has brought so many more and is still at work."""
        goal = self.handled() + number
        self.group.wait(lambda: self.handled() >= goal or self.state != "running")
        assert self.state == "running", f"job {self.number} was over before it was disturbed: nothing was shown\n{self.group.lag()}"

    def wait_left(self):
        """Until nobody holds a lease of it."""
        self.group.wait(lambda: self.group.value("SELECT count(owner) FROM txb.job_lane WHERE job = %s", self.number) == 0)
        return self

    def pause(self):
        self.group.query("SELECT txb.job_pause(%s, 'test', 'a test')", self.number)

    def resume(self):
        self.group.query("SELECT txb.job_resume(%s, 'test', 'a test')", self.number)

    def cancel(self):
        self.group.query("SELECT txb.job_cancel(%s, 'test', 'a test')", self.number)

    def rate(self, rate_max):
        self.group.query("SELECT txb.job_rate(%s, %s, 'test')", self.number, rate_max)


def verify(group, expected, times=1, order=True):
    """Every message took effect `times` times, in the order of its key within each pass, which is all that came by Kafka, or by one lane.

    Letters as in txbtest.verify: L lost, P phantom, D doubled, O misordered, B broken, Q counters. True when nothing is wrong; printed."""
    report, notes = Report(group.system.seed), group.notes()
    known = {message.id: message for message in expected}
    count = collections.Counter(note.id for note in notes)
    for message in expected:
        if count[message.id] != times:
            report.add("L" if count[message.id] < times else "D", f"{message} took effect {count[message.id]} times instead of {times}",
                       lambda: [str(note) for note in notes if note.id == message.id])
    for note in notes:
        if note.id not in known:
            report.add("P", f"{note} was not published")
        elif note.key != known[note.id].key:
            report.add("B", f"{note} should have the key {known[note.id].key}")
    if order:
        _check_order(report, notes, known)
    _check_counters(report, group, notes)
    report.counts.update(expected=len(expected), effects=len(notes), times=times)
    print(report)
    return report


def _check_order(report, notes, known):
    last = {}
    for note in notes:
        message = known.get(note.id)
        if message is None or message.key is None or message.n is None:
            continue
        place = (message.key, min(note.partition, 0))
        if last.get(place, message.n) > message.n:
            report.add("O", f"{message} took effect after {last[place]} of its key: {note}",
                       lambda: [f"{other} n={known[other.id].n}" for other in notes if other.id in known and other.key == message.key])
        last[place] = message.n


def _check_counters(report, group, notes):
    rows = group.look()
    applied = sum(row[2] for row in rows.values())
    if applied != len(notes):
        report.add("Q", f"applied is {applied}, there are {len(notes)} effects")
    open_ones = sum(number for state, number in group.states().items() if state not in ("resolved", "discarded"))
    failed = sum(row[4] for row in rows.values())
    given_up = group.states().get("discarded", 0)
    if failed != open_ones + given_up:
        report.add("Q", f"failed is {failed}; {open_ones} are open, {given_up} discarded")
    inbox = group.value("SELECT count(*) FROM txb.inbox WHERE group_name = %s", group.name)
    if inbox < len(notes):
        report.add("Q", f"the inbox holds {inbox} ids for {len(notes)} effects")
