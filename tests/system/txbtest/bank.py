"""The workload: two banks. Writers move money out of accounts of one, messages bring it into accounts of the other, and a journal written in the
publishing transactions says what must have arrived, in which order.

Writers do everything that makes an outbox lose or swap rows: long, idle and prepared transactions, savepoints, rollbacks, statements that fail,
bulk inserts, and locks taken in every supported way. Each writer has its own random generator made of the seed that is printed.
"""

import collections
import contextlib
import os
import random
import threading

import psycopg2
import psycopg2.errors

from txbtest import process

HERE = os.path.dirname(os.path.abspath(__file__))

# Weights of what a writer does next.
EVERYTHING = {"plain": 40, "insert": 8, "strict": 6, "unkeyed": 4, "later": 2, "several": 10, "savepoint": 8, "rollback": 12, "failing": 2,
              "held": 5, "prepared": 3, "idle": 1, "bulk": 1}
PLAIN = {"plain": 1}
QUICK = {"plain": 40, "insert": 8, "strict": 6, "unkeyed": 4, "several": 10, "savepoint": 8, "rollback": 12, "bulk": 0.2}

STRICT_EVERY = 10  # transfers out of every tenth account use strict_order

# What a writer's transaction may run into when others hold its rows; anything else is a failure of the test.
EXPECTED = (psycopg2.errors.LockNotAvailable, psycopg2.errors.DeadlockDetected, psycopg2.errors.DivisionByZero,
            psycopg2.errors.SerializationFailure)


def sql_file(name):
    with open(os.path.join(HERE, name), encoding="utf-8") as file:
        return file.read()


class Bank:
    """The two databases. `postgres` holds the source, `target_postgres` (the same by default) the target."""

    def __init__(self, postgres, source, target, topics, target_postgres=None, accounts=200, opening=1_000_000):
        self.postgres, self.target_postgres = postgres, target_postgres or postgres
        self.source, self.target, self.topics, self.accounts, self.opening = source, target, list(topics), accounts, opening

    def create_source(self):
        with self.postgres.session(self.source) as connection, connection.cursor() as cursor:
            cursor.execute(sql_file("bank_source.sql"))
            cursor.execute("INSERT INTO bank.account (id, topic, balance, opening)"
                           " SELECT i, (%(topics)s::text[])[1 + i %% cardinality(%(topics)s::text[])], %(opening)s, %(opening)s"
                           " FROM generate_series(1, %(accounts)s) AS i", vars(self))
            cursor.execute("GRANT USAGE ON SCHEMA bank TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA bank TO PUBLIC")

    def create_target(self, handlers=True):
        with self.target_postgres.session(self.target) as connection, connection.cursor() as cursor:
            cursor.execute(sql_file("bank_target.sql"))
            if handlers:
                cursor.execute(sql_file("bank_handlers.sql"))
            cursor.execute("INSERT INTO bank.credit (account) SELECT generate_series(1, %s)", (self.accounts,))
            cursor.execute("GRANT USAGE ON SCHEMA bank TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA bank TO PUBLIC;"
                           " GRANT USAGE ON ALL SEQUENCES IN SCHEMA bank TO PUBLIC")

    def published(self):
        """How many transfers were committed."""
        return self.postgres.value(self.source, "SELECT count(*) FROM bank.journal")

    def applied(self):
        """How many applications of transfers were committed, doubles included."""
        return self.target_postgres.value(self.target, "SELECT count(*) FROM bank.applied")

    def missing(self):
        """How many transfers have no application yet."""
        ids = {row[0] for row in self.postgres.query(self.source, "SELECT id FROM bank.journal")}
        ids.difference_update(row[0] for row in self.target_postgres.query(self.target, "SELECT id FROM bank.applied"))
        return len(ids)

    def transfer(self, account=1, to=1, amount=1, mode="row", user=None):
        """One transfer in a transaction of its own; its id."""
        with self.postgres.session(self.source, user=user) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT bank.transfer(%s, %s, %s, %s)", (account, to, amount, mode))
            return str(cursor.fetchone()[0])

    def bulk(self, transfers, per_statement=1000):
        """Many transfers at once, spread over the accounts, in statements of `per_statement` on one connection. Not from the accounts of strict_order:
        who publishes in strict order draws its number before it has the account's row, so the row does not order it among those who don't."""
        givers = [account for account in range(1, self.accounts + 1) if account % STRICT_EVERY]
        with self.postgres.session(self.source, options="-c lock_timeout=60s") as connection, connection.cursor() as cursor:
            for number in range(0, transfers, per_statement):
                account = givers[number // per_statement % len(givers)]
                cursor.execute("SELECT bank.bulk(%s, %s, 1, %s)", (account, account, min(per_statement, transfers - number)))


@contextlib.contextmanager
def open_transactions(bank, user=None):
    """Two transactions stay open for the block: one that is idle with an xid, one that has published (it commits at the end). Everybody else's intents
    must not notice. Yields the application names, which `status` should tell."""
    with bank.postgres.session(bank.source, user=user, application_name="open-idle") as idle:
        with bank.postgres.session(bank.source, user=user, application_name="open-publisher") as publisher:
            idle.cursor().execute("BEGIN; SELECT pg_current_xact_id()")
            publisher.cursor().execute("BEGIN; SELECT bank.transfer(1, 1, 1)")
            yield "open-idle", "open-publisher"
            publisher.cursor().execute("COMMIT")
            idle.cursor().execute("ROLLBACK")


class Writers:
    """`count` threads that write until stop() or until each has done `operations`. Outages of the server are waited for when `outages` is set."""

    def __init__(self, bank, count, seed, mix=None, operations=None, outages=False, pause_s=0.0, held_s=0.3, user=None):
        self.bank, self.seed, self.operations, self.outages = bank, seed, operations, outages
        self.mix, self.pause_s, self.held_s, self.user = mix or EVERYTHING, pause_s, held_s, user
        self.stopping = threading.Event()
        self.totals = collections.Counter()
        self.errors = []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self._run, args=(number,), name=f"writer-{number}", daemon=True) for number in range(count)]

    def start(self):
        for thread in self.threads:
            thread.start()
        return self

    def stop(self, deadline_s=120):
        """Ends the writers, settles prepared transactions left open, and raises the first error that was no part of the play."""
        self.stopping.set()
        return self.join(deadline_s)

    def join(self, deadline_s=300):
        for thread in self.threads:
            thread.join(deadline_s)
            if thread.is_alive():
                raise process.Timeout(f"{thread.name} did not end within {deadline_s} s (seed {self.seed})")
        self._settle_rest()
        if self.errors:
            raise self.errors[0]
        return self

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        self.stopping.set()
        if kind is None:
            self.join()

    def alive(self):
        """For wait_for: waiting is useless once a writer broke."""
        if self.errors:
            raise self.errors[0]

    def _run(self, number):
        writer = _Writer(self, number)
        try:
            writer.run()
        except Exception as error:  # pylint: disable=broad-except; it is raised again in join
            self.errors.append(error)
            self.stopping.set()
        finally:
            writer.close()
            with self.lock:
                self.totals.update(writer.totals)

    def _settle_rest(self):
        with self.bank.postgres.session(self.bank.source) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND gid LIKE 'txbtest-%'")
            for (gid,) in cursor.fetchall():
                cursor.execute(f"{'COMMIT' if gid.endswith('-c') else 'ROLLBACK'} PREPARED %s", (gid,))


class _Writer:
    """One thread. Each operation is a method op_<name>; it returns with no transaction open."""

    def __init__(self, crew, number):
        self.crew, self.number = crew, number
        self.random = random.Random(crew.seed * 1000 + number)
        self.totals = collections.Counter()
        self.prepared = collections.deque()
        self.prepared_count = 0
        self.connection = self.cursor = None

    def run(self):
        names, weights = zip(*self.crew.mix.items())
        done = 0
        while not self.crew.stopping.is_set() and (self.crew.operations is None or done < self.crew.operations):
            name = self.random.choices(names, weights)[0]
            try:
                if self.connection is None:
                    self._connect()
                if len(self.prepared) >= 2 or self.prepared and self.random.random() < 0.3:
                    self._settle()
                getattr(self, "op_" + name)()
                self.totals[name] += 1
                done += 1
            except EXPECTED as error:
                self.totals[type(error).__name__] += 1
                self._rollback()
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                # The server went away; whether the last commit happened, the journal knows.
                if not self.crew.outages:
                    raise
                self.totals["outage"] += 1
                self.close()
                self.crew.stopping.wait(0.1)
            if self.crew.pause_s:
                self.crew.stopping.wait(self.random.uniform(0, 2 * self.crew.pause_s))

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _connect(self):
        self.connection = self.crew.bank.postgres.connect(self.crew.bank.source, user=self.crew.user, application_name=f"writer-{self.number}",
                                                          options="-c lock_timeout=500ms")
        self.cursor = self.connection.cursor()

    def _sql(self, text, *args):
        self.cursor.execute(text, args or None)

    def _rollback(self):
        try:
            self._sql("ROLLBACK")
        except psycopg2.Error:
            self.close()

    def _accounts(self, count):
        """In ascending order, so that writers don't deadlock more than they must."""
        return sorted(self.random.sample(range(1, self.crew.bank.accounts + 1), count))

    def _transfer(self, account, mode="row"):
        # One discipline for one key: whoever mixes the row lock and strict_order on a key has been promised nothing.
        if account % STRICT_EVERY == 0 and mode in ("row", "insert"):
            mode = "strict"
        to = self.random.randint(1, self.crew.bank.accounts)
        self._sql("SELECT bank.transfer(%s, %s, %s, %s)", account, to, self.random.randint(1, 100), mode)

    def _hold(self, most_s):
        """The transaction stays open for a while, on the server."""
        self._sql("SELECT pg_sleep(%s)", self.random.uniform(0, most_s))

    def op_plain(self):
        self._transfer(*self._accounts(1))

    def op_insert(self):
        self._transfer(*self._accounts(1), "insert")

    def op_strict(self):
        self._transfer(self.random.randint(1, self.crew.bank.accounts // STRICT_EVERY) * STRICT_EVERY)

    def op_unkeyed(self):
        self._transfer(*self._accounts(1), "unkeyed")

    def op_later(self):
        self._transfer(*self._accounts(1), "later")

    def op_several(self):
        self._sql("BEGIN")
        for account in self._accounts(self.random.randint(2, 4)):
            self._transfer(account, self.random.choice(("row", "row", "insert")))
        self._sql("COMMIT")

    def op_savepoint(self):
        first, second, third = self._accounts(3)
        self._sql("BEGIN")
        self._transfer(first)
        self._sql("SAVEPOINT one")
        self._transfer(second)
        if self.random.random() < 0.5:
            self._sql("ROLLBACK TO one")
        elif self.random.random() < 0.5:
            self._sql("RELEASE one")
        self._transfer(third)
        self._sql("COMMIT")

    def _rollback_after(self, ending):
        self._sql("BEGIN")
        for account in self._accounts(self.random.randint(1, 3)):
            self._transfer(account)
        if self.random.random() < 0.2:
            self._hold(self.crew.held_s / 4)
        self._sql(ending)

    def op_failing(self):
        self._rollback_after("SELECT 1 / 0")

    def op_held(self):
        self._sql("BEGIN")
        self._transfer(*self._accounts(1))
        self._hold(self.crew.held_s)
        if self.random.random() < 0.3:
            self._sql("ROLLBACK")
        else:
            self._sql("COMMIT")

    def op_long(self):
        self._sql("BEGIN")
        self._transfer(*self._accounts(1))
        self._sql("SELECT pg_sleep(2)")
        self._sql("COMMIT")

    def op_idle(self):
        self._sql("BEGIN")
        self._sql("SELECT pg_current_xact_id()")
        self._hold(self.crew.held_s)
        self._sql("ROLLBACK")

    def op_bulk(self):
        (account,) = self._accounts(1)
        if account % STRICT_EVERY == 0:
            account -= 1
        self._sql("SELECT bank.bulk(%s, %s, 1, %s)", account, self.random.randint(1, self.crew.bank.accounts), self.random.randint(10, 400))

    def op_prepared(self):
        """Leaves its transaction prepared, with its rows locked, for a few operations (see _settle)."""
        self.prepared_count += 1
        ending = self.random.choice("ccr")
        gid = f"txbtest-{self.crew.seed}-{self.number}-{self.prepared_count}-{ending}"
        self._sql("BEGIN")
        self._transfer(*self._accounts(1))
        self._sql("PREPARE TRANSACTION %s", gid)
        self.prepared.append(gid)

    def _settle(self):
        gid = self.prepared.popleft()
        self._sql(f"{'COMMIT' if gid.endswith('-c') else 'ROLLBACK'} PREPARED %s", gid)
        self.totals["settled"] += 1

    def op_rollback(self):
        self._rollback_after("ROLLBACK")

