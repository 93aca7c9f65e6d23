"""A trip of three bookings in three databases, run by a coordinator in a fourth: the installation that the tests of sagas use."""

import itertools
import json
import os

import psycopg2.extras

from txbtest import process
from txbtest.program import PARTITIONS, Program, System, command, create_installed

WHATS = ("flight", "hotel", "payment")
HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = itertools.count()  # the servers are shared by all modules
psycopg2.extras.register_uuid()


def step(name, kind, topic, **more):
    body = {"name": name, "kind": kind, "topic": topic, "type": f"{name}.book", "timeout": "60s", **more}
    if kind == "compensatable":
        body["compensation"] = {"type": f"{name}.cancel"}
    if kind == "reserve":
        body.update(type=f"{name}.try", confirm={"type": f"{name}.confirm"}, cancel={"type": f"{name}.cancel"})
    return body


class Travel:
    """Databases, topics, configuration and processes. group: settings of all worker groups; relay: of all relays."""

    def __init__(self, postgres, kafka, seed, partitions=2, group=None, relay=None):
        name = f"t{next(NAMES)}"
        self.postgres, self.kafka, self.name, self.seed, self.partitions = postgres, kafka, name, seed, partitions
        self.group, self.relay_settings = group or {}, {**PARTITIONS, **(relay or {})}
        self.directory = process.TempDir("run")
        self.agency = f"{name}_agency"
        self.databases = {what: f"{name}_{what}" for what in WHATS}
        self.topics = {what: f"{name}.{what}" for what in WHATS}
        self.topic = f"{name}.sagas"
        self.programs = []
        self.wants = {}  # {saga: [what, ...]} of those that end with other bookings than all or none
        self.commands = None  # the configuration of commands
        self.sources = [self.agency, *self.databases.values()]
        self.handlers = {what: {"kind": "sql", "function": "travel.handle"} for what in WHATS}
        self.create()

    def create(self):
        for database in self.sources:
            self.create_database(database)
        System.create_users(self.postgres)
        with open(os.path.join(HERE, "travel.sql"), encoding="utf-8") as file:
            script = file.read()
        for database in self.databases.values():
            with self.postgres.session(database) as connection, connection.cursor() as cursor:
                cursor.execute(script)
        for topic in (self.topic, *self.topics.values()):
            self.kafka.create_topic(topic, self.partitions)

    def create_database(self, database):
        create_installed(self.postgres, database, [(f"relay.{name}", value) for name, value in PARTITIONS.items()])

    # -- configuration ---------------------------------------------------------------------------------------------

    def config(self, name="txbroker", group=None, **sections):
        uri, common = self.postgres.uri, {"batch_wait_ms": 0, **self.group, **(group or {})}
        content = {
            "sources": [{"name": f"{self.name}.{d}", "database": uri(d, "txbtest_relay")} for d in self.sources],
            "kafka": {"brokers": self.kafka.brokers},
            "relay": self.relay_settings,
            "workers": [{"group": f"{self.name}.sagas", "topics": [self.topic], "database": uri(self.agency, "txbtest_worker"),
                         "handler": {"kind": "coordinator"}, **common}]
                       + [{"group": f"{self.name}.{what}", "topics": [self.topics[what]], "database": uri(self.databases[what], "txbtest_worker"),
                           "handler": self.handlers[what], **common} for what in WHATS],
            "retry": {"first_ms": 50, "cap_ms": 500},
            **sections,
        }
        path = os.path.join(self.directory.path, f"{name}.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
        return path

    def definition(self, version=1, **changes):
        body = {
            "name": "trip", "version": version,
            "input": {"type": "object", "required": ["amount"], "properties": {"amount": {"type": "integer", "minimum": 1}}},
            "output": {"flight": "{steps.flight.output.booking}", "hotel": "{steps.hotel.output.booking}",
                       "payment": "{steps.payment.output.booking}"},
            "steps": [step("flight", "compensatable", self.topics["flight"]), step("hotel", "compensatable", self.topics["hotel"]),
                      step("payment", "pivot", self.topics["payment"])],
        }
        body.update(changes)
        return body

    # -- processes and commands ---------------------------------------------------------------------------------------

    def start(self, role, *operands, name=None, env=None, **changes):
        name = name or f"{role}{len(self.programs)}"
        path = self.config(name, **{"relay": {**self.relay_settings, "owner": f"{self.name}.{name}"}, **changes})
        program = Program(name, ["--config", path, role, *operands], self.directory, env)
        self.programs.append(program)
        return program

    def worker(self, what, **more):
        """A participant alone, or the coordinator: what is "sagas"."""
        return self.start("worker", f"{self.name}.{what}", **more)

    def relay(self, *databases, **more):
        return self.start("relay", *[f"{self.name}.{database}" for database in databases], **more)

    def cli(self, *args, stdin=None):
        self.commands = self.commands or self.config("commands")
        return command("--config", self.commands, "--database", self.postgres.uri(self.agency), *args, stdin=stdin)

    def saga(self, *args, stdin=None):
        """A command of sagas with JSON for its result: (exit code, document or None, standard error)."""
        code, out, err = self.cli("saga", *args, "-o", "json", stdin=stdin)
        return code, json.loads(out) if out.strip() else None, err

    def deploy(self, definition):
        return self.saga("deploy", "-", stdin=json.dumps(definition).encode())

    def deployed(self, name, steps=None, **changes):
        """Deploys a definition of that name, which must work, and returns the name."""
        code, _, err = self.deploy(self.definition(name=name, **changes, **({} if steps is None else {"steps": steps, "output": {}})))
        assert code == 0, err
        return name

    def step(self, name, kind="compensatable", what=None, **more):
        """A step of a definition; what: whose topic its commands go to, if that is not its name."""
        return step(name, kind, self.topics[what or name], **more)

    def begin(self, count, inputs=None, name="trip", deadline=None, reply_topic=None):
        """Starts so many in one transaction; their ids in order. inputs: of n, or of nothing much."""
        values = [json.dumps({"amount": 1 + n % 7, **(inputs(n) if inputs else {})}) for n in range(count)]
        with self.postgres.session(self.agency, user="txbtest_app") as connection, connection.cursor() as cursor:
            cursor.execute("SELECT txb.saga_start(%s, i::jsonb, NULL, %s::interval, %s) FROM unnest(%s::text[]) WITH ORDINALITY AS u(i, n) ORDER BY n",
                           (name, deadline, reply_topic, values))
            return [row[0] for row in cursor.fetchall()]

    # -- what has become of them --------------------------------------------------------------------------------------

    def query(self, sql, *args):
        return self.postgres.query(self.agency, sql, args or None)

    def states(self, ids=None):
        """{state: how many}, with those that have not ended as None."""
        return dict(self.query("SELECT e.state, count(*) FROM txb.saga AS s LEFT JOIN txb.saga_end AS e ON e.saga_id = s.id"
                               " WHERE %s::uuid[] IS NULL OR s.id = ANY (%s) GROUP BY 1", ids, ids))

    def ended_all(self):
        return self.states().get(None, 0) == 0

    def wait_ended(self, ids=None, deadline_s=60):
        process.wait_for(lambda: self.states(ids).get(None, 0) == 0, lambda: f"all sagas to end: {self.states(ids)}\n{self.open_text()}\n{self.logs_text()}",
                         deadline_s, every_s=0.05, alive=self.alive)

    def result(self, saga):
        return self.postgres.row(self.agency, "SELECT * FROM txb.saga_result(%s)", (saga,))

    def events(self, saga):
        """["step: event" or "event", ...] in order."""
        return [f"{step}: {event}" if step else event for step, event in
                self.query("SELECT step, event FROM txb.saga_event WHERE saga_id = %s ORDER BY n", saga)]

    def wait_event(self, ids, *events, deadline_s=60):
        """Until each of the sagas has had one of the events, written as in events()."""
        def missing():
            found = self.query("SELECT DISTINCT saga_id FROM txb.saga_event WHERE saga_id = ANY (%s) AND concat_ws(': ', step, event) = ANY (%s)",
                               list(ids), list(events))
            return set(ids) - {saga for (saga,) in found}

        process.wait_for(lambda: not missing(), lambda: f"{events} of {missing()}\n{self.open_text()}\n{self.logs_text()}", deadline_s, alive=self.alive)

    def open_text(self):
        """The events of some sagas that have not ended, for a message."""
        return "\n".join(f"{saga}: {self.events(saga)}" for (saga,) in self.query(
            "SELECT s.id FROM txb.saga AS s WHERE NOT EXISTS (SELECT FROM txb.saga_end AS e WHERE e.saga_id = s.id) LIMIT 5"))

    def bookings(self):
        """{saga: [what, ...]} of all three databases; what is not confirmed as "WHAT?"."""
        found = {}
        for database in self.databases.values():
            for saga, what, firm in self.postgres.query(database, "SELECT saga, what, firm FROM travel.booking"):
                found.setdefault(saga, []).append(what if firm else what + "?")
        return found

    def published(self, *databases):
        """Whether nothing is scheduled in these databases, and every intent lies in Kafka."""
        return all(self.postgres.value(database, """
            SELECT r.watermark >= coalesce((SELECT max(seq) FROM txb.outbox), 0) AND NOT EXISTS (SELECT FROM txb.scheduled)
              FROM txb.relay AS r WHERE r.source = %s""", (f"{self.name}.{database}",)) for database in databases)

    def consumed(self, what):
        """Whether all that lies in a group's topic is done or set aside."""
        database, topic = (self.agency, self.topic) if what == "sagas" else (self.databases[what], self.topics[what])
        stored = dict(self.postgres.query(database, "SELECT partition, next_offset FROM txb.consumer_offset WHERE group_name = %s", (f"{self.name}.{what}",)))
        return all(stored.get(partition, 0) >= end for partition, (_, end) in self.kafka.ends(topic).items())

    def failed(self, what, columns="state"):
        return self.postgres.query(self.databases[what], f"SELECT {columns} FROM txb.failed ORDER BY number")

    def check(self):
        """Every saga that has ended has all of its bookings or none (or those of self.wants), no booking is anybody else's, and no money is lost."""
        ended = dict(self.query("SELECT saga_id, state FROM txb.saga_end"))
        found = self.bookings()
        wrong = [(saga, state, found.get(saga, [])) for saga, state in ended.items()
                 if sorted(found.get(saga, [])) != sorted(self.wants.get(saga, WHATS if state == "completed" else []))]
        wrong += [(saga, "no saga", what) for saga, what in found.items() if saga not in ended]
        assert not wrong, (f"{len(wrong)} sagas, the first of them: {wrong[:5]} (TXB_SEED={self.seed})\n" +
                           "\n".join(f"{saga}: {self.events(saga)}" for saga, *_ in wrong[:5]))
        for what in WHATS:
            sold = self.postgres.value(self.databases[what], "SELECT coalesce(sum(amount), 0) FROM travel.booking")
            accounts = dict(self.postgres.query(self.databases[what], "SELECT name, balance FROM travel.account"))
            assert accounts == {"customer": 1000000000 - sold, "shop": sold}, f"{what}: {accounts}, sold {sold} (TXB_SEED={self.seed})"

    def alive(self):
        for program in self.programs:
            program.alive()

    def logs_text(self):
        return "\n".join(f"[{p.name}]\n{p.text()[-3000:]}" for p in self.programs)

    def logs(self):
        return [(p.name, p.text()[-6000:]) for p in self.programs]

    def close(self):
        for program in self.programs:
            if program.running():
                program.thaw()
                program.kill9()
        self.directory.remove()
