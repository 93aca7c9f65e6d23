"""Running txbroker as its users run it: processes with a configuration file, their logs, kills and failpoints; and System, which is all of one
installation: two bank databases, topics, configuration, processes."""

import json
import os
import re
import signal
import subprocess

import psycopg2

from txbtest import process
from txbtest.bank import Bank
from txbtest.verify import Verifier

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
FAILED, USAGE, POSTGRES_GONE, KAFKA_GONE, SAFETY = 1, 2, 3, 4, 5  # exit codes
PARTITIONS = {"partition_rows": 5000, "partitions_ahead": 8}  # small ones, so that every run crosses some
USERS = {"txbtest_app": "txb_app", "txbtest_relay": "txb_relay", "txbtest_worker": "txb_worker", "txbtest_operator": "txb_admin"}


def build_dir():
    path = os.environ.get("TXB_BUILD", "build-dev")
    return path if os.path.isabs(path) else os.path.join(ROOT, path)


def binary():
    path = os.path.join(build_dir(), "txbroker")
    if not os.path.exists(path):
        raise RuntimeError(f"{path} is not built: make test builds it, TXB_BUILD names another build directory")
    return path


def fault_names(table):
    """The names in one of the tables of common/fault.c: "txb_failpoint_names" or "txb_bug_names"."""
    with open(os.path.join(ROOT, "common", "fault.c"), encoding="utf-8") as file:
        body = re.search(table + r"\[\] = \{(.*?)\};", file.read(), re.S).group(1)
    return re.findall(r'"([a-z_.]+)"', body)


def command(*args, env=None, stdin=None, timeout_s=60):
    """A command that ends by itself: (exit code, stdout, stderr)."""
    done = subprocess.run([binary(), *args], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout_s, check=False,
                          env={**os.environ, **(env or {})}, **({} if stdin is not None else {"stdin": subprocess.DEVNULL}))
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def create_installed(server, database, settings=()):
    """A database as `txbroker init` leaves a new one. settings: (name, value) of what decides how that is."""
    def init(template):
        code, out, err = command("init", "--database", server.uri(template), *[f"--set={name}={value}" for name, value in settings])
        if code != 0:
            raise RuntimeError(f"init of {template} ended with {code}:\n{out}{err}")

    return server.create_like(database, tuple(settings), init)


class Program:
    """One running txbroker. Its standard error is in `log`, for the tests and for the report of a failed one."""

    def __init__(self, name, args, directory, env=None):
        self.name, self.args = name, args
        self.log = os.path.join(directory.path, f"{name}.log")
        self.expected = True  # to be running; wait_for's alive() raises when it isn't
        with open(self.log, "ab") as log:
            self.start_of_log = log.tell()
            self.process = subprocess.Popen([binary(), *args], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                                            preexec_fn=process.child_setup(), env={**os.environ, **(env or {})})
        directory.note_pid(self.process.pid)

    def text(self):
        with open(self.log, "rb") as log:
            log.seek(self.start_of_log)
            return log.read().decode("utf-8", "replace")

    def wait_line(self, pattern, deadline_s=60):
        """Waits until a line of its log matches; returns the match."""
        expression = re.compile(pattern, re.M)
        return process.wait_for(lambda: expression.search(self.text()), lambda: f"{self.name} to log /{pattern}/:\n{self.text()}", deadline_s,
                                alive=self.alive)

    def alive(self):
        if self.expected and self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self.process.returncode}:\n{self.text()}")

    def running(self):
        return self.process.poll() is None

    def wait_exit(self, deadline_s=60):
        """Its exit code, negative for a signal."""
        self.expected = False
        process.wait_for(lambda: not self.running(), lambda: f"{self.name} to end:\n{self.text()}", deadline_s)
        return self.process.returncode

    def stop(self, deadline_s=30):
        """An orderly end; its exit code."""
        self.expected = False
        self.process.send_signal(signal.SIGTERM)
        return self.wait_exit(deadline_s)

    def kill9(self):
        self.expected = False
        if self.running():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def freeze(self):
        os.killpg(self.process.pid, signal.SIGSTOP)

    def thaw(self):
        os.killpg(self.process.pid, signal.SIGCONT)

    def peak_kb(self):
        """The most memory that it had resident so far."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii", errors="replace") as status:
            return int(re.search(r"VmHWM:\s+(\d+)", status.read()).group(1))


class System:
    """One installation on given servers, named so that many can share them.

    per        "message" or "batch": which form of the bank's sql handler the worker calls
    relay, worker, kafka_client: settings of those sections
    """

    def __init__(self, postgres, kafka, name, seed, target_postgres=None, topics=1, partitions=3, accounts=200, per="message", relay=None,
                 worker=None, kafka_client=None, brokers=None, create=True):
        self.postgres, self.kafka, self.name, self.seed, self.partitions = postgres, kafka, name, seed, partitions
        self.target_postgres = target_postgres or postgres
        self.directory = process.TempDir("run")
        self.group = f"{name}.ledger"
        self.brokers = brokers or kafka.brokers
        self.per, self.relay_settings, self.worker_settings, self.kafka_client = per, relay or {}, worker or {}, kafka_client or {}
        names = [f"{name}.transfers{number or ''}" for number in range(topics)]
        self.bank = Bank(postgres, f"{name}_a", f"{name}_b", names, self.target_postgres, accounts)
        self.programs = []
        self.kills = 0
        if create:
            self.create()

    def create(self):
        for server, database in ((self.postgres, self.bank.source), (self.target_postgres, self.bank.target)):
            self.create_database(server, database)
            self.create_users(server)
        self.bank.create_source()
        self.bank.create_target()
        for topic in self.bank.topics:
            self.kafka.create_topic(topic, self.partitions)

    def create_database(self, server, database):
        create_installed(server, database, [(f"relay.{name}", self.relay_settings.get(name, value)) for name, value in PARTITIONS.items()])

    @staticmethod
    def create_users(server):
        """The users that the processes connect as: each has one of txbroker's roles and nothing else. One after the other: campaigns make theirs at once,
        and the server lets nobody make or grant a role that another transaction is just about to."""
        with server.session("postgres") as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(1)")  # until the session ends
            for user, role in USERS.items():
                try:
                    cursor.execute(f"CREATE ROLE {user} LOGIN")
                except psycopg2.errors.DuplicateObject:
                    pass
                cursor.execute(f"GRANT {role} TO {user}")

    # -- configuration -----------------------------------------------------------------------------------------------------------

    def config(self, relay=None, worker=None, kafka_client=None, name="txbroker", **sections):
        """Writes a configuration file and returns its path."""
        content = {
            "sources": [{"name": self.name, "database": self.postgres.uri(self.bank.source, "txbtest_relay")}],
            "kafka": {"brokers": self.brokers, "client": {**self.kafka_client, **(kafka_client or {})}},
            "relay": {**PARTITIONS, **self.relay_settings, **(relay or {})},
            "workers": [{
                "group": self.group, "topics": self.bank.topics, "database": self.target_postgres.uri(self.bank.target, "txbtest_worker"),
                "handler": {"kind": "sql", "function": "bank.apply" if self.per == "message" else "bank.apply_batch", "per": self.per},
                **self.worker_settings, **(worker or {}),
            }],
            "retry": {"first_ms": 50, "cap_ms": 500},
            **sections,
        }
        path = os.path.join(self.directory.path, f"{name}.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
        return path

    # -- processes ---------------------------------------------------------------------------------------------------------------

    def start(self, role, name=None, env=None, **changes):
        """role: relay, worker or run; changes: of the configuration, as in config()."""
        name = name or f"{role}{len(self.programs)}"
        if role in ("relay", "run"):
            changes["relay"] = {"owner": f"{self.name}.{name}", **(changes.get("relay") or {})}
        program = Program(name, ["--config", self.config(name=name, **changes), role], self.directory, env)
        self.programs.append(program)
        return program

    def relay(self, name=None, env=None, **changes):
        return self.start("relay", name, env, **changes)

    def worker(self, name=None, env=None, **changes):
        return self.start("worker", name, env, **changes)

    def alive(self):
        """Raises when a process ended that should be running."""
        for program in self.programs:
            program.alive()

    def stop_all(self):
        for program in self.programs:
            if program.running():
                program.thaw()
                program.kill9()

    def close(self):
        self.stop_all()
        self.directory.remove()

    def logs(self):
        """(name, last lines) of every process, for the report of a failed test."""
        return [(program.name, program.text()[-6000:]) for program in self.programs]

    # -- conditions --------------------------------------------------------------------------------------------------------------

    def relay_row(self):
        """The row of txb.relay as a dict, or {}."""
        return self.postgres.row(self.bank.source, "SELECT * FROM txb.relay WHERE source = %s", (self.name,))

    def published_all(self):
        """Every committed intent lies below the watermark and no hole is left. Numbers at the end that were drawn and rolled back become holes once the
        relay has found nothing for a while: until it has passed them, what is seen here is not the last of it."""
        return self.postgres.value(self.bank.source, """
            SELECT r.watermark >= coalesce((SELECT max(seq) FROM txb.outbox), 0)
               AND r.highest >= coalesce(pg_sequence_last_value('txb.outbox_seq_seq'), 0)
               AND NOT EXISTS (SELECT FROM txb.relay_holes AS h WHERE h.source = r.source AND NOT isempty(h.holes))
               AND NOT EXISTS (SELECT FROM txb.scheduled)
              FROM txb.relay AS r WHERE r.source = %s""", (self.name,))

    def consumed_all(self):
        """The group's stored offsets are the ends of all partitions that hold messages."""
        stored = {(topic, partition): offset for topic, partition, offset in self.target_postgres.query(
            self.bank.target, "SELECT topic, partition, next_offset FROM txb.consumer_offset WHERE group_name = %s", (self.group,))}
        return all(stored.get((topic, partition), 0) >= end for topic in self.bank.topics for partition, (_, end) in self.kafka.ends(topic).items())

    def lag(self):
        """What there is to say about work not done, for the message of a time-out."""
        row = self.relay_row()
        return (f"published {self.bank.published()} applied {self.bank.applied()} watermark {row.get('watermark')} highest {row.get('highest')} "
                f"state {row.get('state')} error {row.get('last_error')} seed {self.seed}\n" + "\n".join(f"[{n}]\n{t}" for n, t in self.logs()))

    def wait_published(self, deadline_s=60):
        process.wait_for(self.published_all, lambda: "everything to be published: " + self.lag(), deadline_s, every_s=0.1, alive=self.alive)

    def wait_consumed(self, deadline_s=60):
        process.wait_for(self.consumed_all, lambda: "everything to be consumed: " + self.lag(), deadline_s, every_s=0.1, alive=self.alive)

    def wait_rest(self, deadline_s=60):
        """Invariant V: backlog zero within 60 s. Says nothing about what is right; that is the verifier's."""
        self.wait_published(deadline_s)
        self.wait_consumed(deadline_s)

    def verify(self, **parts):
        """The verifier's report; printed, so that a failed test shows it."""
        options = {key: parts.pop(key) for key in ("foreign_ok", "latest", "discarded") if key in parts}
        report = Verifier(self.bank, self.kafka, self.group, self.seed, partitions=self.partitions, **options).check(**parts)
        print(report)
        return report
