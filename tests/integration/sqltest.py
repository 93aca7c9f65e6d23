"""What the tests of the SQL schema share: migrating as the program does, one login per role, sessions that know whether
they wait."""

import contextlib
import glob
import hashlib
import os
import threading
import uuid

import psycopg2
import psycopg2.extras
from txbtest import process

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ROLES = ("app", "relay", "worker", "admin", "reader")
V7 = "0190163d-8694-739b-aea5-966c26f8ad91"

psycopg2.extras.register_uuid()


def migrations():
    """(version, name, text) in order."""
    found = sorted(glob.glob(os.path.join(ROOT, "schemas", "sql", "[0-9]*.sql")))
    for version, path in enumerate(found, 1):
        name = os.path.basename(path)
        assert int(name[:4]) == version, f"{name} leaves a gap"
        with open(path, encoding="utf-8") as text:
            yield version, name, text.read()


def migrate(server, database, user=None):
    """Each file in a transaction of its own, recorded in it."""
    with server.session(database, autocommit=False, user=user) as connection:
        for version, name, text in migrations():
            with connection.cursor() as cursor:
                cursor.execute(text)
                cursor.execute(
                    "INSERT INTO txb.schema_migration (version, name, sha256) VALUES (%s, %s, %s)",
                    (version, name, hashlib.sha256(text.encode()).hexdigest()),
                )
            connection.commit()


def make_logins(server):
    """login_app is a member of txb_app, and so on; login_nobody of none."""
    with server.session("postgres") as connection, connection.cursor() as cursor:
        for role in ROLES:
            cursor.execute(f"CREATE ROLE login_{role} LOGIN IN ROLE txb_{role}")
        cursor.execute("CREATE ROLE login_nobody LOGIN")


class Session:
    """A connection. `do` runs a statement and returns its rows; `start` runs it in a thread and returns a Running."""

    def __init__(self, connection):
        self.connection = connection
        self.pid = connection.get_backend_pid()

    def do(self, sql, *args):
        with self.connection.cursor() as cursor:
            cursor.execute(sql, args or None)
            return cursor.fetchall() if cursor.description else []

    def one(self, sql, *args):
        rows = self.do(sql, *args)
        return rows[0][0] if rows else None

    def row(self, sql, *args):
        """The only row as a dictionary; None without a row."""
        with self.connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
            cursor.execute(sql, args or None)
            rows = cursor.fetchall()
        assert len(rows) <= 1
        return dict(rows[0]) if rows else None

    def start(self, sql, *args):
        return Running(self, sql, args)

    def close(self):
        self.connection.close()


class Running:
    """A statement under way in a thread."""

    def __init__(self, session, sql, args):
        self.session, self.result, self.error = session, None, None
        self.thread = threading.Thread(target=self._run, args=(sql, args), daemon=True)
        self.thread.start()

    def _run(self, sql, args):
        try:
            self.result = self.session.do(sql, *args)
        except psycopg2.Error as error:
            self.error = error

    def finish(self, deadline_s=120):
        self.thread.join(deadline_s)
        assert not self.thread.is_alive(), "the statement is still running"
        if self.error:
            raise self.error
        return self.result


class Database:
    """A test's database: sessions by role, and the superuser's view of it."""

    def __init__(self, server, name):
        self.server, self.name, self.sessions = server, name, []
        self.root = self.session()

    def session(self, role=None, transaction=False, database=None):
        """A connection; role "app" logs in as login_app. In a transaction: ended by do("COMMIT")."""
        connection = self.server.connect(database or self.name, user=role and f"login_{role}")
        session = Session(connection)
        self.sessions.append(session)
        if transaction:
            session.do("BEGIN")
        return session

    def waiting(self, session):
        """Whether a session waits for a lock."""
        return self.root.one("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s", session.pid)

    def wait_until_waiting(self, session):
        process.wait_for(lambda: self.waiting(session), "a session to wait for a lock", 60)

    def wait_until_gone(self, session):
        process.wait_for(
            lambda: not self.root.do("SELECT 1 FROM pg_stat_activity WHERE pid = %s", session.pid), "a session to end", 60
        )

    def close(self):
        for session in self.sessions:
            session.close()

    # -- shorthands -------------------------------------------------------------------------------

    def publish(self, session, payload="{}", topic="t", key="k"):
        return session.one("SELECT txb.publish(%s, %s, 'made', %s::jsonb)", topic, key, payload)

    def payloads(self):
        return [row[0] for row in self.root.do("SELECT convert_from(payload, 'UTF8') FROM txb.outbox ORDER BY seq")]

    def acquire(
        self, session, owner="r1", instance="00000000-0000-4000-8000-000000000001", lease_ms=30000, source="bank"
    ):
        return session.row(
            "SELECT * FROM txb.relay_acquire(%s, %s, %s, %s, 'txbroker:bank')", source, owner, instance, lease_ms
        )

    def take(self, session, partition=0, owner="w1", start=0, cluster="c1", instance=None):
        """As a new life of a worker, unless an instance is given; the topic is registered at `start` first, unless that
        is None."""
        if start is not None:
            session.do("SELECT txb.offset_register('g', 't', %s, %s, %s)", [partition], [start], cluster)
        return session.row(
            "SELECT * FROM txb.offset_take('g', 't', %s, %s, %s, %s)",
            partition,
            owner,
            instance or uuid.uuid4(),
            cluster,
        )


def stored(db, partition=0):
    return db.root.row("SELECT * FROM txb.consumer_offset WHERE partition = %s", partition)


@contextlib.contextmanager
def refused(sqlstate, *words):
    """The block must raise that SQLSTATE with all of these words in its message, detail or hint."""
    try:
        yield
    except psycopg2.Error as error:
        text = str(error)
        assert error.pgcode == sqlstate, f"{error.pgcode} instead of {sqlstate}: {text}"
        for word in words:
            assert word in text, f"{word!r} is not in: {text}"
    else:
        raise AssertionError(f"was not refused with {sqlstate}")
