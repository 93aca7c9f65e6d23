"""A trip of three bookings in three databases, run by a coordinator in a fourth: the installation that the tests of sagas use."""

import json
import os

import psycopg2.extras

from txbtest import process
from txbtest.program import PARTITIONS, Program, System, command

WHATS = ("flight", "hotel", "payment")
HERE = os.path.dirname(os.path.abspath(__file__))
psycopg2.extras.register_uuid()


def step(name, kind, topic, **more):
    body = {"name": name, "kind": kind, "topic": topic, "type": f"{name}.book", "timeout": "30s", **more}
    if kind == "compensatable":
        body["compensation"] = {"type": f"{name}.cancel"}
    return body


class Travel:
    """Databases, topics, configuration and processes. name tells installations on shared servers apart."""

    def __init__(self, postgres, kafka, name, seed, partitions=2):
        self.postgres, self.kafka, self.name, self.seed, self.partitions = postgres, kafka, name, seed, partitions
        self.directory = process.TempDir("run")
        self.agency = f"{name}_agency"
        self.databases = {what: f"{name}_{what}" for what in WHATS}
        self.topics = {what: f"{name}.{what}" for what in WHATS}
        self.topic = f"{name}.sagas"
        self.programs = []
        self.create()

    def create(self):
        for database in (self.agency, *self.databases.values()):
            self.postgres.create_database(database)
            code, out, err = command("init", "--database", self.postgres.uri(database), *[f"--set=relay.{n}={v}" for n, v in PARTITIONS.items()])
            if code != 0:
                raise RuntimeError(f"init of {database} ended with {code}:\n{out}{err}")
        System.create_users(self.postgres)
        with open(os.path.join(HERE, "travel.sql"), encoding="utf-8") as file:
            script = file.read()
        for database in self.databases.values():
            with self.postgres.session(database) as connection, connection.cursor() as cursor:
                cursor.execute(script)
        for topic in (self.topic, *self.topics.values()):
            self.kafka.create_topic(topic, self.partitions)

    # -- configuration ---------------------------------------------------------------------------------------------

    def config(self, name="txbroker", group=None, **sections):
        uri, group = self.postgres.uri, group or {}
        common = {"batch_wait_ms": 0, **group}
        content = {
            "sources": [{"name": f"{self.name}.{d}", "database": uri(d, "txbtest_relay")} for d in (self.agency, *self.databases.values())],
            "kafka": {"brokers": self.kafka.brokers},
            "relay": {**PARTITIONS},
            "workers": [{"group": f"{self.name}.sagas", "topics": [self.topic], "database": uri(self.agency, "txbtest_worker"),
                         "handler": {"kind": "coordinator"}, **common}]
                       + [{"group": f"{self.name}.{what}", "topics": [self.topics[what]], "database": uri(self.databases[what], "txbtest_worker"),
                           "handler": {"kind": "sql", "function": "travel.handle"}, **common} for what in WHATS],
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
        path = self.config(name, **{"relay": {**PARTITIONS, "owner": f"{self.name}.{name}"}, **changes})
        program = Program(name, ["--config", path, role, *operands], self.directory, env)
        self.programs.append(program)
        return program

    def cli(self, *args, stdin=None):
        return command("--config", self.config("commands"), "--database", self.postgres.uri(self.agency), *args, stdin=stdin)

    def saga(self, *args, stdin=None):
        """A command of sagas with JSON for its result: (exit code, document or None, standard error)."""
        code, out, err = self.cli("saga", *args, "-o", "json", stdin=stdin)
        return code, json.loads(out) if out.strip() else None, err

    def deploy(self, definition):
        return self.saga("deploy", "-", stdin=json.dumps(definition).encode())

    def begin(self, count, inputs=None):
        """Starts so many in one transaction; their ids in order. inputs: of n, or of nothing much."""
        values = [json.dumps(inputs(n) if inputs else {"amount": 1 + n % 7}) for n in range(count)]
        with self.postgres.session(self.agency) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT txb.saga_start('trip', i::jsonb) FROM unnest(%s) WITH ORDINALITY AS u(i, n) ORDER BY n", (values,))
            return [row[0] for row in cursor.fetchall()]

    def states(self):
        """{state: how many}, with those that have not ended as None."""
        return dict(self.postgres.query(self.agency, "SELECT e.state, count(*) FROM txb.saga AS s LEFT JOIN txb.saga_end AS e ON e.saga_id = s.id GROUP BY 1"))

    def ended_all(self):
        return self.states().get(None, 0) == 0

    def wait_ended(self, deadline_s=60):
        process.wait_for(self.ended_all, lambda: f"all sagas to end: {self.states()}\n{self.logs_text()}", deadline_s, every_s=0.05, alive=self.alive)

    def bookings(self):
        """{saga: [what, ...]} of all three databases."""
        found = {}
        for what in WHATS:
            for (saga,) in self.postgres.query(self.databases[what], "SELECT saga FROM travel.booking WHERE what = %s", (what,)):
                found.setdefault(saga, []).append(what)
        return found

    def check(self):
        """Every saga that has ended has all of its bookings or none, no booking is anybody else's, and no money is lost."""
        ended = dict(self.postgres.query(self.agency, "SELECT saga_id, state FROM txb.saga_end"))
        found = self.bookings()
        wrong = [(saga, state, found.get(saga, [])) for saga, state in ended.items()
                 if sorted(found.get(saga, [])) != (sorted(WHATS) if state == "completed" else [])]
        wrong += [(saga, "no saga", what) for saga, what in found.items() if saga not in ended]
        assert not wrong, f"{len(wrong)} sagas, the first of them: {wrong[:5]} (TXB_SEED={self.seed})"
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
