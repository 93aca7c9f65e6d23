"""Where the measurements stand: a private PostgreSQL and Kafka, the program under test and its peers."""

import contextlib
import json
import os
import platform
import shutil
import subprocess
import time

from confluent_kafka import Consumer, TopicPartition

from txbtest import process
from txbtest.kafka import Kafka
from txbtest.postgres import Postgres

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROOT = os.path.dirname(os.path.dirname(HERE))
PARTITIONS = 4
POSTGRES_SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "15min"}
# What Kafka's own start script gives a broker. Those of the tests would put pauses of 10 to 20 ms of their collector into
# every latency, and cost half a core more than a broker in service does.
KAFKA_JAVA_OPTIONS = [
    "-server",
    "-Xms1G",
    "-Xmx1G",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Djava.awt.headless=true",
]
KAFKA_SETTINGS = {"log.segment.delete.delay.ms": 1000, "log.retention.check.interval.ms": 5000}


class Lost(Exception):
    """Messages are missing or too many, or a process died: the run is wrong, whatever its figures."""


class Child:
    """A process of the measurement: its output in a file of the run's directory, ended with the block."""

    def __init__(self, name, args, log, stdin=None):
        self.name, self.log = name, log
        self.out = open(log + ".out", "w+", encoding="utf-8")
        self.err = open(log + ".err", "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            args,
            stdin=stdin or subprocess.DEVNULL,
            stdout=self.out,
            stderr=self.err,
            text=True,
            preexec_fn=process.child_setup(),
        )
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.out.close()
        self.err.close()

    def text(self):
        with open(self.log + ".out", encoding="utf-8") as out:
            return out.read()

    def complain(self, what):
        with open(self.log + ".err", encoding="utf-8") as err:
            return Lost(f"{self.name} {what}:\n{err.read()[-2000:]}")

    def check_alive(self):
        """A peer that is done is no accident: only a bad end is."""
        if self.process.poll() not in (None, 0):
            raise self.complain(f"ended with {self.process.returncode}")

    def finish(self, deadline_s=120):
        """Waits for its own end; what it printed last, as JSON."""
        try:
            self.process.wait(deadline_s)
        except subprocess.TimeoutExpired as error:
            raise self.complain(f"did not end within {deadline_s} s") from error
        self.check_alive()
        return json.loads(self.text().splitlines()[-1])

    def stop(self, deadline_s=60):
        """An orderly end by SIGTERM, which must be clean."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(deadline_s)
        except subprocess.TimeoutExpired as error:
            raise self.complain(f"did not stop within {deadline_s} s") from error
        self.check_alive()

    def peak_kib(self):
        """VmHWM: the most memory it ever held."""
        with open(f"/proc/{self.pid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1])
        raise self.complain("is gone")


class Place:
    """Both servers and everything that is named by the run."""

    partitions = PARTITIONS

    def __init__(self, txbroker, peers, log):
        self.txbroker, self.peers, self.say = txbroker, peers, log
        self.temp = process.TempDir("bench")
        self.kafka = Kafka(KAFKA_SETTINGS, start=False, java_options=KAFKA_JAVA_OPTIONS).start(wait=False)
        self.postgres = Postgres(POSTGRES_SETTINGS)
        self.kafka.wait_ready()
        self.count = 0
        self.watcher = Consumer({"bootstrap.servers": self.kafka.brokers, "group.id": "bench-ends", "log_level": 0})

    def close(self):
        self.watcher.close()
        self.kafka.close()
        self.postgres.close()
        self.temp.remove()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def check_servers(self):
        for name, server in (("PostgreSQL", self.postgres), ("Kafka", self.kafka)):
            if not server.running():
                raise Lost(f"{name} died:\n{server.log_tail()}")

    def settle(self):
        """Gigabytes that the measurement before has left to be written would make every commit of the next one wait."""
        self.postgres.query("postgres", "CHECKPOINT")
        os.sync()

    def wait(self, condition, child, deadline_s=300):
        process.wait_for(condition, child.name, deadline_s, 0.05, child.check_alive)

    def fresh(self, stem):
        """A name that was not used before in this run."""
        self.count += 1
        return f"{stem}_{self.count}"

    def path(self, name):
        return os.path.join(self.temp.path, name)

    # -- databases ---------------------------------------------------------------------------------------------------

    def sql_path(self, name):
        """A file of tests/bench/sql where the server's user can read it, wherever the source tree lies."""
        return shutil.copy(os.path.join(HERE, "sql", name), self.path(name))

    def script(self, database, name):
        """A file of tests/bench/sql, statement by statement in transactions of its own."""
        self.postgres.run("psql", "-q", "-X", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", self.sql_path(name))

    def migrated(self, name):
        """A database with txbroker's schema and what the measurements add to it."""
        self.postgres.create_database(name)
        process.run([self.txbroker, "--database", self.postgres.uri(name), "init"])
        self.script(name, "bench.sql")
        return name

    def copy(self, template):
        """A copy, block by block: no row of it was ever read, as a relay finds its backlog."""
        name = self.fresh("run")
        whole = (
            " STRATEGY file_copy" if int(self.postgres.value("postgres", "SHOW server_version_num")) >= 150000 else ""
        )
        self.postgres.query("postgres", f"CREATE DATABASE {name} TEMPLATE {template}{whole}")
        return name

    @contextlib.contextmanager
    def without_autovacuum(self):
        """It would read a backlog before the relay does, and make the relay's first read cheaper than it is in life."""
        self._autovacuum("off")
        try:
            yield
        finally:
            self._autovacuum("on")

    def _autovacuum(self, value):
        self.postgres.write_settings(autovacuum=value)
        self.postgres.value("postgres", "SELECT pg_reload_conf()")

    # -- topics ------------------------------------------------------------------------------------------------------

    def topic(self):
        return self.kafka.create_topic(self.fresh("bench"), PARTITIONS)

    def published(self, topic):
        """How many messages the topic holds: none of its partitions was ever cut."""
        return sum(
            self.watcher.get_watermark_offsets(TopicPartition(topic, p), timeout=30)[1] for p in range(PARTITIONS)
        )

    # -- processes ---------------------------------------------------------------------------------------------------

    def child(self, name, args, stdin=None):
        return Child(name, args, self.path(self.fresh(name)), stdin)

    def peer(self, name, stdin=None, **options):
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        return self.child(name, [os.path.join(self.peers, f"bench_{name}"), *words], stdin)

    def configuration(self, source=None, worker=None, **sections):
        """A configuration file; returns its path."""
        content = {"kafka": {"brokers": self.kafka.brokers}, "log": {"level": "warn"}, **sections}
        if source:
            content["sources"] = [{"name": "bench", "database": self.postgres.uri(source)}]
        if worker:
            content["workers"] = [worker]
        path = self.path(self.fresh("txbroker") + ".json")
        with open(path, "w", encoding="ascii") as file:
            json.dump(content, file)
        return path

    def relay(self, database, **sections):
        return self.child(
            "relay", [self.txbroker, "--config", self.configuration(source=database, **sections), "relay"]
        )

    def worker(self, source=None, **worker):
        """source: the database that its replay jobs read."""
        configuration = self.configuration(source=source, worker=worker)
        return self.child("worker", [self.txbroker, "--config", configuration, "worker"])


def watch(read, total, child, deadline_s=900, every_s=0.05):
    """Waits until read() says `total`; returns things a second from the first seen to the last, and the time before.

    So the start of a process is not in the rate, for ours and for the bare loop alike.
    """
    begun = time.monotonic()
    first = None

    def step():
        nonlocal first
        count, now = read(), time.monotonic()
        if first is None and count > 0:
            first = (now, count)
        return (now, count) if count >= total else None

    end, count = process.wait_for(
        step, lambda: f"{total:,} from {child.name} (now {read():,})", deadline_s, every_s, child.check_alive
    )
    if end == first[0]:
        raise Lost(f"{child.name}: too few ({total:,}) to measure a rate: all came at once")
    return (count - first[1]) / (end - first[0]), first[0] - begun


def machine(place):
    """What the figures stand on."""
    model = "unknown"
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as info:
        for line in info:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    with open("/proc/meminfo", encoding="ascii") as info:
        memory_gib = int(info.readline().split()[1]) / 1024 / 1024
    version = process.run([place.txbroker, "--version"]).strip().splitlines()[0]
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory_gib, 1),
        "kernel": platform.release(),
        "postgresql": place.postgres.value("postgres", "SHOW server_version"),
        "kafka": os.path.basename(place.kafka.home),
        "txbroker": version,
        "load_before": os.getloadavg()[0],
        "kafka_options": " ".join(KAFKA_JAVA_OPTIONS),
        "partitions": PARTITIONS,
        "postgresql_settings": " ".join(f"{k}={v}" for k, v in POSTGRES_SETTINGS.items()),
    }
