"""A private PostgreSQL: own data directory, free loopback port and unix socket, settings near production, killable with -9.

The data survives kill9() as on a machine whose power stays on; what a power cut would lose is played with a base backup (see basebackup, adopt).
"""

import contextlib
import glob
import os
import re
import shutil
import signal
import subprocess
import threading

import psycopg2
import psycopg2.extensions

from txbtest import process

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "64MB",
    "max_connections": "200",
    "max_prepared_transactions": "200",
    "wal_level": "replica",
    "max_wal_senders": "4",
    "max_wal_size": "512MB",
    "checkpoint_timeout": "5min",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] %q%a ",
    "lc_messages": "C",
    "timezone": "UTC",
}


def bindir():
    """The directory of initdb and postgres: PG_BINDIR, or the newest that Debian installed."""
    given = os.environ.get("PG_BINDIR")
    if given:
        return given
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: int(path.split("/")[4]))
    if found:
        return os.path.dirname(found[-1])
    inpath = shutil.which("initdb")
    if inpath:
        return os.path.dirname(os.path.realpath(inpath))
    raise RuntimeError("no PostgreSQL server is installed: run make deps, or set PG_BINDIR")


def _ask(connection, sql, args):
    """(names of the columns, rows) of one statement."""
    with connection.cursor() as cursor:
        cursor.execute(sql, args)
        return ([column.name for column in cursor.description], cursor.fetchall()) if cursor.description else ([], [])


class Postgres:
    """One server. Connections are made as its superuser over the unix socket, or over TCP with `tcp=True` uris (network faults)."""

    superuser = "postgres"

    def __init__(self, settings=None, start=True, port=None, memory=False):
        process.sweep()
        self.user = process.unprivileged_user()
        self.bin = bindir()
        self.port = port or process.free_port()
        self.temp = process.TempDir("pg", self.user, memory)
        self.data = os.path.join(self.temp.path, "data")
        self.log = os.path.join(self.temp.path, "log")
        self.settings = dict(SETTINGS, **(settings or {}))
        self.process = None
        self._templates, self._templates_lock = {}, threading.Lock()
        self.run("initdb", "-D", self.data, "-U", self.superuser, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        self._configure()
        if start:
            self.start()

    def _configure(self):
        with open(os.path.join(self.data, "postgresql.conf"), "a", encoding="utf-8") as conf:
            conf.write("include 'txbtest.conf'\n")
        with open(os.path.join(self.data, "pg_hba.conf"), "w", encoding="utf-8") as hba:
            # Members of password_users, a role that a test may create, need their password; everybody else is trusted.
            hba.write("host all +password_users 127.0.0.1/32 scram-sha-256\nlocal all all trust\nhost all all 127.0.0.1/32 trust\n"
                      "local replication all trust\nhost replication all 127.0.0.1/32 trust\n")
        self.write_settings()

    def write_settings(self, **changes):
        """Takes effect at the next start (or reload, for those that can be reloaded)."""
        self.settings.update(changes)
        path = os.path.join(self.data, "txbtest.conf")
        with open(path, "w", encoding="utf-8") as conf:
            for name, value in self.settings.items():
                conf.write(f"{name} = '{value}'\n")
            conf.write(f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{self.temp.path}'\n")
        if self.user is not None:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)

    # -- running -----------------------------------------------------------------------------------------------------------------

    def run(self, program, *args, timeout_s=300):
        """One of PostgreSQL's own programs, as the server's user."""
        env = {**os.environ, "PGHOST": self.temp.path, "PGPORT": str(self.port), "PGUSER": self.superuser, "PGDATABASE": "postgres"}
        return process.run([os.path.join(self.bin, program), *args], self.user, timeout_s, env=env, cwd=self.temp.path)

    def start(self, wait=True, deadline_s=120):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([os.path.join(self.bin, "postgres"), "-D", self.data], stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, cwd=self.temp.path, start_new_session=True,
                                            preexec_fn=process.child_setup(self.user, signal.SIGQUIT))
        self.temp.note_pid(self.process.pid)
        if wait:
            self.wait_ready(deadline_s)
        return self

    def wait_ready(self, deadline_s=120):
        process.wait_for(self._ready, "PostgreSQL to accept connections", deadline_s, alive=self._check_alive)

    def _ready(self):
        try:
            psycopg2.connect(self.dsn("postgres")).close()
            return True
        except psycopg2.OperationalError:
            return False

    def _check_alive(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"PostgreSQL ended with {self.process.returncode}:\n{self.log_tail()}")

    def stop(self, mode="fast", deadline_s=60):
        """mode: smart, fast or immediate, as pg_ctl has them."""
        if self.process is None:
            return
        number = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]
        process.kill_quietly(self.process.pid, number)
        self.process.wait(deadline_s)
        self.process = None

    def kill9(self):
        """The whole server at once, none of its processes gets to tidy up."""
        family = [self.process.pid] + process.children(self.process.pid)
        os.kill(self.process.pid, signal.SIGSTOP)  # no new children meanwhile
        for pid in set(family + process.children(self.process.pid)):
            process.kill_quietly(pid, signal.SIGKILL)
        self.process.wait(30)
        process.wait_for(lambda: all(process.start_time(pid) is None for pid in family), "the server's processes to end", 30)
        self.process = None

    def restart(self, mode="fast"):
        self.stop(mode)
        return self.start()

    def running(self):
        return self.process is not None and self.process.poll() is None

    def close(self):
        if self.running():
            self.stop("immediate")
        self.temp.remove()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def log_tail(self, lines=30):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-lines:])

    # -- connecting --------------------------------------------------------------------------------------------------------------

    def dsn(self, database, user=None, tcp=False, **more):
        """A libpq connection string of keywords, for this test's own connections."""
        host = "127.0.0.1" if tcp else self.temp.path
        words = {"host": host, "port": self.port, "dbname": database, "user": user or self.superuser, **more}
        return " ".join(f"{k}='{v}'" for k, v in words.items())

    def uri(self, database, user=None, password=None, **more):
        """A postgresql:// uri over TCP: what a configuration file holds."""
        secret = f":{password}" if password else ""
        query = "?" + "&".join(f"{k}={v}" for k, v in more.items()) if more else ""
        return f"postgresql://{user or self.superuser}{secret}@127.0.0.1:{self.port}/{database}{query}"

    def connect(self, database, autocommit=True, user=None, **more):
        connection = psycopg2.connect(self.dsn(database, user, **more))
        connection.autocommit = autocommit
        return connection

    @contextlib.contextmanager
    def session(self, database, **more):
        """A connection that is closed at the end of the block (psycopg2's own context manager only ends the transaction)."""
        connection = self.connect(database, **more)
        try:
            yield connection
        finally:
            connection.close()

    def ask(self, database, sql, args=None, user=None):
        """(names of the columns, rows) of one statement on a connection of its own. While somebody waits (process.wait_for) it is kept for the next look: a
        new one costs the server a process, a hundred times what the statement does, and fifty looks a second by several tests left none of the machine
        for what they waited for."""
        kept = process.kept_while_waiting()
        if kept is None:
            with self.session(database, user=user) as connection:
                return _ask(connection, sql, args)
        name = self.dsn(database, user)
        connection, answer = kept.pop(name, None), None
        try:
            if connection is not None:
                answer = _ask(connection, sql, args)
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            connection.close()
            if error.pgcode and not error.pgcode.startswith("57P"):  # an answer (a lock that was waited for, a deadlock), and the caller's
                raise
        if answer is None:  # none was kept, or the server was away since the last look
            connection = self.connect(database, user=user)
            answer = _ask(connection, sql, args)
        kept[name] = connection
        return answer

    def query(self, database, sql, args=None, user=None):
        """Rows of one statement."""
        return self.ask(database, sql, args, user)[1]

    def row(self, database, sql, args=None):
        """First row as a dict, {} without a row."""
        names, rows = self.ask(database, sql, args)
        return dict(zip(names, rows[0])) if rows else {}

    def value(self, database, sql, args=None):
        """First column of the first row, None without a row."""
        rows = self.query(database, sql, args)
        return rows[0][0] if rows else None

    # -- databases ---------------------------------------------------------------------------------------------------------------

    def create_database(self, name, template=None):
        if not re.fullmatch(r"[a-z_][a-z0-9_]*", name):
            raise ValueError(f"not a plain database name: {name}")
        self.run("createdb", *(["-T", template] if template else []), name)
        return name

    def create_like(self, name, kind, prepare):
        """A database as prepare(name) leaves one. It does so for the first of a kind; all are copies of that, which takes a fifth of the time of the
        migrations."""
        with self._templates_lock:
            if kind not in self._templates:
                template = self.create_database(f"template_{len(self._templates)}_of_{os.getpid()}")
                prepare(template)
                self._templates[kind] = template
        return self.create_database(name, self._templates[kind])

    def drop_database(self, name):
        self.run("dropdb", "--if-exists", "--force", name)

    # -- copies ------------------------------------------------------------------------------------------------------------------

    def basebackup(self):
        """A base backup in a directory of its own; `adopt` makes a server of it."""
        copy = process.TempDir("backup", self.user)
        path = os.path.join(copy.path, "data")
        self.run("pg_basebackup", "-D", path, "-X", "stream", "-c", "fast", "--no-sync")
        return path

    def adopt(self, backup):
        """The stopped server's data is replaced by a base backup: same address, earlier time."""
        if self.running():
            raise RuntimeError("stop the server first")
        shutil.rmtree(self.data)
        shutil.move(backup, self.data)
        self._templates.clear()  # it may be older than they are
        self.write_settings()

    def dump(self, database):
        """pg_dump of one database in custom format, and the roles of the whole server; returns both paths."""
        dump, roles = (os.path.join(self.temp.path, f"{database}.{kind}") for kind in ("dump", "roles.sql"))
        self.run("pg_dump", "-Fc", "-f", dump, database)
        self.run("pg_dumpall", "--roles-only", "-f", roles)
        return dump, roles

    def restore(self, database, dump, roles):
        """Into this server, where the superuser exists already (psql reports that and goes on)."""
        self.run("psql", "-q", "-X", "-f", roles)
        self.create_database(database)
        self.run("pg_restore", "--exit-on-error", "-d", database, dump)
