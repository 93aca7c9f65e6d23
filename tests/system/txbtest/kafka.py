"""A real Kafka: one KRaft process, broker and controller at once, on free loopback ports in a temp directory, killable with -9.

Its jars are fetched once by Maven into the user's cache, outside the source tree. Topics are never made by accident (auto-creation is off): a test
about a missing topic must find it missing.
"""

import base64
import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import uuid

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic

from txbtest import process

VERSION = "3.9.1"
POM = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "kafka", "pom.xml")
# A broker of tests: little memory, and no time spent on making a process fast that lives for seconds.
JAVA_OPTIONS = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Djava.awt.headless=true"]
NO_LEADER = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN,
             KafkaError._TIMED_OUT, KafkaError._UNKNOWN_PARTITION)  # the last: metadata of a topic just made, or of a frozen broker
LOG4J = """log4j.rootLogger=WARN, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d{ISO8601} %p %c{1}: %m%n
log4j.logger.kafka.server.KafkaRaftServer=INFO
"""


def jars():
    """The directory of Kafka's jars; fetched under a lock and put in place by rename, so two test runs may start at once on a new machine."""
    home = os.path.join(cache(), f"kafka-{VERSION}")
    if os.path.isdir(home):
        return home
    with locked():
        if not os.path.isdir(home):
            fetched = tempfile.mkdtemp(prefix=".fetch-", dir=cache())
            try:
                _fetch(fetched)
                os.rename(fetched, home)
            finally:
                shutil.rmtree(fetched, ignore_errors=True)
    return home


def cache():
    path = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "txbroker")
    os.makedirs(path, exist_ok=True)
    return path


@contextlib.contextmanager
def locked():
    with open(os.path.join(cache(), ".lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@functools.cache
def archive():
    """Options that give Java the classes of a running broker as it keeps them (class data sharing): a start takes half of the processor time. Made once, by a
    broker that does nothing else; none for a Java that makes none, and one that it can't use it leaves alone."""
    jars()
    path = os.path.join(cache(), f"kafka-{VERSION}-java-{hashlib.sha256(process.run(['java', '-version']).encode()).hexdigest()[:16]}.jsa")
    with locked():
        if not os.path.exists(path):
            with Kafka(java_options=[*JAVA_OPTIONS, f"-XX:ArchiveClassesAtExit={path}.new"]) as broker:
                broker.stop()
            if os.path.exists(f"{path}.new"):
                os.rename(f"{path}.new", path)
    return [f"-XX:SharedArchiveFile={path}"] if os.path.exists(path) else []


def _fetch(directory):
    if shutil.which("mvn") is None or shutil.which("java") is None:
        raise RuntimeError("the tests need Java and Maven for a real Kafka: run make deps")
    process.run(["mvn", "-q", "-B", "-f", POM, "dependency:copy-dependencies", f"-DoutputDirectory={directory}"], timeout_s=600)
    if not os.path.exists(os.path.join(directory, f"kafka_2.13-{VERSION}.jar")):
        raise RuntimeError(f"Maven ended without an error, but there is no Kafka in {directory}")


def watermarks(consumer, topic):
    """{partition: (first offset, end offset)} of an existing topic, None while its partitions have no leaders."""
    known = consumer.list_topics(topic, timeout=30).topics[topic]
    try:
        if known.error is not None:
            raise KafkaException(known.error)
        return {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=30) for p in known.partitions}
    except KafkaException as error:
        if error.args[0].code() in NO_LEADER:
            return None
        raise


class Kafka:
    """One broker. `brokers` is its bootstrap address. With `sasl` = {user: password} a second listener (`sasl_brokers`) demands them, and every
    right must be granted to them by ACL; the plain listener's anonymous user may do everything."""

    def __init__(self, config=None, sasl=None, start=True, java_options=None):
        process.sweep()
        self.java_options = java_options or [*JAVA_OPTIONS, *archive()]
        self.home = jars()
        self.temp = process.TempDir("kafka")
        self.port, self.controller_port, self.sasl_port = process.free_port(), process.free_port(), process.free_port()
        self.brokers = f"127.0.0.1:{self.port}"
        self.sasl_brokers = f"127.0.0.1:{self.sasl_port}"
        self.log = os.path.join(self.temp.path, "log")
        self.cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        self.process = None
        self._admin = self._probe = None
        self._write("server.properties", "".join(f"{k}={v}\n" for k, v in {**self._properties(sasl), **(config or {})}.items()))
        self._write("log4j.properties", LOG4J)
        process.run([*self._java(), "kafka.tools.StorageTool", "format", f"--cluster-id={self.cluster_id}", "-c", self._path("server.properties")])
        if start:
            self.start()

    def _path(self, name):
        return os.path.join(self.temp.path, name)

    def _write(self, name, text):
        with open(self._path(name), "w", encoding="ascii") as file:
            file.write(text)

    def _java(self):
        return ["java", *self.java_options, f"-Dlog4j.configuration=file:{self._path('log4j.properties')}", "-cp", os.path.join(self.home, "*")]

    def _properties(self, sasl):
        listeners = {"PLAINTEXT": (self.port, "PLAINTEXT"), "CONTROLLER": (self.controller_port, "PLAINTEXT")}
        more = {}
        if sasl:
            listeners["SASL"] = (self.sasl_port, "SASL_PLAINTEXT")
            users = " ".join(f'user_{name}="{password}"' for name, password in sasl.items())
            more = {
                "sasl.enabled.mechanisms": "PLAIN",
                "listener.name.sasl.plain.sasl.jaas.config":
                    f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};",
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",
            }
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, (port, _) in listeners.items()),
            "advertised.listeners": ",".join(f"{n}://127.0.0.1:{p}" for n, (p, _) in listeners.items() if n != "CONTROLLER"),
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, (_, kind) in listeners.items()),
            "log.dirs": self._path("data"),
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": 1,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            # A broker killed with -9 is let in again only when its last session ended: the default makes every restart wait nine seconds.
            "broker.session.timeout.ms": 1500,
            "broker.heartbeat.interval.ms": 300,
            "log.retention.check.interval.ms": 1000,
            "log.initial.task.delay.ms": 1000,
            "num.network.threads": 2,
            "num.io.threads": 4,
            "log.cleaner.dedupe.buffer.size": 2 * 1024 * 1024,
            **more,
        }

    # -- running -----------------------------------------------------------------------------------------------------------------

    def start(self, wait=True, deadline_s=120):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([*self._java(), "kafka.Kafka", self._path("server.properties")], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, cwd=self.temp.path, start_new_session=True,
                                            preexec_fn=process.child_setup())
        self.temp.note_pid(self.process.pid)
        if wait:
            self.wait_ready(deadline_s)
        return self

    def wait_ready(self, deadline_s=120):
        process.wait_for(self._ready, "Kafka to answer", deadline_s, every_s=0.1, alive=self._check_alive)

    def _ready(self):
        try:
            return len(self.admin().list_topics(timeout=2).brokers) > 0
        except KafkaException:
            return False

    def _check_alive(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"Kafka ended with {self.process.returncode}:\n{self.log_tail()}")

    def kill9(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
        self.process = None

    def stop(self, deadline_s=60):
        """An orderly end, which takes its time; tests that don't care use close."""
        self.process.terminate()
        self.process.wait(deadline_s)
        self.process = None

    def restart(self):
        self.kill9()
        return self.start()

    def freeze(self):
        """SIGSTOP: connections stay, nothing answers."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def thaw(self):
        os.killpg(self.process.pid, signal.SIGCONT)

    def running(self):
        return self.process is not None and self.process.poll() is None

    def close(self):
        self._admin = self._probe = None
        if self.running():
            self.kill9()
        self.temp.remove()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def log_tail(self, lines=30):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-lines:])

    # -- topics ------------------------------------------------------------------------------------------------------------------

    def admin(self):
        if self._admin is None:
            self._admin = AdminClient({"bootstrap.servers": self.brokers, "log_level": 0, "reconnect.backoff.max.ms": 200})
        return self._admin

    def create_topic(self, name, partitions=1, **config):
        """Settings with dots are given with underscores: max_message_bytes=20000. Returns once every partition has a leader."""
        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=settings)
        self.admin().create_topics([topic], operation_timeout=30)[name].result(60)
        process.wait_for(lambda: self._has_leaders(name, partitions), f"leaders of topic {name}", 60)
        return name

    def _has_leaders(self, name, partitions):
        known = self.admin().list_topics(name, timeout=10).topics[name]
        if known.error is not None or len(known.partitions) != partitions or any(p.leader < 0 for p in known.partitions.values()):
            return False
        return len(self.ends(name)) == partitions  # metadata may name a leader before the broker knows that it is one

    def delete_topic(self, name):
        self.admin().delete_topics([name], operation_timeout=30)[name].result(60)
        process.wait_for(lambda: name not in self.admin().list_topics(timeout=10).topics, f"topic {name} to go", 60)

    def grow_topic(self, name, partitions):
        self.admin().create_partitions([NewPartitions(name, partitions)])[name].result(60)
        process.wait_for(lambda: self._has_leaders(name, partitions), f"leaders of topic {name}", 60)

    def configure_topic(self, name, **config):
        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        resource = ConfigResource(ConfigResource.Type.TOPIC, name, set_config=settings)
        self.admin().alter_configs([resource])[resource].result(60)

    def ends(self, topic):
        """{partition: (first offset, end offset)}"""
        if self._probe is None:
            self._probe = Consumer({"bootstrap.servers": self.brokers, "group.id": "txbtest-ends", "log_level": 0, "reconnect.backoff.max.ms": 200})
        return process.wait_for(lambda: watermarks(self._probe, topic), f"the ends of topic {topic}", 60, every_s=0.1)

    def tool(self, main, *args, timeout_s=120):
        """One of Kafka's own command line classes, for what the client library can't do (ACLs)."""
        return process.run([*self._java(), main, "--bootstrap-server", self.brokers, *args], timeout_s=timeout_s)
