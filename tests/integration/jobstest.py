"""What the tests of replay jobs share: a group with two live partitions, jobs, lanes, batches of either."""

import uuid

from failedtest import item
from sqltest import V7

START = (
    "SELECT number, existed FROM txb.job_start(%(name)s, %(group_name)s, %(source)s, %(topics)s::text[], %(keys)s::bytea[], "
    "%(types)s::text[], %(time_from)s::timestamptz, %(time_to)s::timestamptz, %(seq_from)s, %(seq_to)s, %(forced)s, "
    "%(then_live)s, %(rate_max)s, %(reason)s, %(person)s, %(lane_topics)s::text[], %(lane_partitions)s::int[], "
    "%(lane_froms)s::bigint[], %(lane_tos)s::bigint[], %(cluster_id)s, %(to_topic)s, %(partitions)s::int[], "
    "%(lane_firsts)s::bigint[], %(lane_ids)s::uuid[])"
)
ONE, TWO = uuid.UUID(int=1), uuid.UUID(int=2)
LEASE_MS = 30000
OPEN = "SELECT txb.batch_open('g', %s, %s, %s, %s, %s, %s, %s, 1700000000000, %s)"
CLOSE = "SELECT txb.batch_close('g', %s, %s, %s, %s, %s)"
ADD = (
    "SELECT txb.failed_add('g', %s, %s, %s::bigint[], %s::uuid[], %s::text[], %s::bytea[], %s::text[], "
    "%s::timestamptz[], %s::bytea[], %s::text[], %s::jsonb[], %s::text[], %s::int[], %s::bigint[], %s::boolean[], "
    "%s::text[], %s::text[], %s::text[], 'shop.apply', 'w1')"
)
MARK = "SELECT * FROM txb.retry_mark('g', %s, %s, %s, %s, 1048576)"
RETRY_OPEN = "SELECT txb.retry_open('g', %s, %s, %s, %s)"
SETTLE = (
    "SELECT next_due_ms, held, key FROM txb.retry_settle('g', %s, %s, %s::bigint[], %s::text[], %s::bigint[], "
    "%s::text[], %s::text[], %s::text[], %s, 'w2')"
)
COLUMNS = (
    "offset id source key type time payload content_type headers state attempts delay_ms holds error_class sqlstate error"
).split()


KAFKA = (
    *("lane_topics", "lane_partitions", "lane_froms", "lane_tos", "cluster_id", "to_topic", "partitions"),
    *("lane_firsts", "lane_ids"),
)


def start(session, **more):
    """(number, existed) of a job of topic t, numbers 1 to 99."""
    job = {
        "name": None,
        "group_name": "g",
        "source": "bank",
        "topics": ["t"],
        "keys": None,
        "types": None,
        "time_from": None,
        "time_to": None,
        "seq_from": 1,
        "seq_to": 100,
        "forced": False,
        "then_live": False,
        "rate_max": None,
        "reason": "lost",
        "person": "hal",
        **dict.fromkeys(KAFKA),
        **more,
    }
    with session.connection.cursor() as cursor:
        cursor.execute(START, job)
        return cursor.fetchone()


def start_kafka(session, *ranges, **more):
    """(number, existed) of a job that reads these of Kafka: (topic, partition, from, to) each."""
    columns = dict(zip(KAFKA, [list(column) for column in zip(*ranges)])) if ranges else {}
    none = dict.fromkeys(("source", "topics", "seq_from", "seq_to"))
    return start(session, **{**none, **columns, "cluster_id": "c1", **more})


def job(db, number):
    return db.root.row("SELECT * FROM txb.job WHERE number = %s", number)


def end(db, admin, number, messages=1, moved=0, position=None):
    """A job is cancelled at that position of each of its lanes (the end), and has run so many messages in each."""
    db.root.do(
        "UPDATE txb.consumer_offset AS c SET next_offset = coalesce(%s, l.seq_to), consumed = %s, applied = %s FROM txb.job_lane AS l "
        "WHERE l.job = %s AND c.topic = l.topic AND c.partition = -l.lane",
        position,
        messages,
        messages,
        number,
    )
    db.root.do("UPDATE txb.job_lane SET moved = %s WHERE job = %s", moved, number)
    admin.do("SELECT txb.job_cancel(%s, 'hal', 'enough')", number)


def audit(db):
    return db.root.do("SELECT action, person, reason FROM txb.audit ORDER BY number")


def register(session, topic="t", partitions=2):
    session.do(
        "SELECT txb.offset_register('g', %s, %s, %s, 'c1')", topic, list(range(partitions)), [0] * partitions
    )


def claim(session, instance=ONE, lanes_max=10, owner="w1", group="g", copies=True):
    """The rows, as dictionaries."""
    names = (
        "lane job topic source seq_to position run rate_max keys types time_from time_to then_live wants_pass "
        "job_lowest job_left pin cluster_id from_partition to_topic first_seq first_id"
    ).split()
    given = [group, owner, instance, LEASE_MS, lanes_max] + [True] * copies  # workers of before tell five
    rows = session.do(f"SELECT * FROM txb.lane_claim({', '.join(['%s'] * len(given))})", *given)
    return [dict(zip(names, row)) for row in rows]


def lanes(session, *args, **more):
    return [row["lane"] for row in claim(session, *args, **more)]


def expire(db, lane=None):
    db.root.do(
        "UPDATE txb.job_lane SET lease_until = now() - interval '1 s' WHERE lane = coalesce(%s, lane) AND owner IS NOT NULL",
        lane,
    )


class Part:
    """A partition of topic t that its worker has taken, live or a lane."""

    def __init__(self, session, partition, topic="t", instance=None):
        self.session, self.partition, self.topic = session, partition, topic
        self.take(instance)

    def take(self, instance=None):
        row = self.session.row(
            "SELECT * FROM txb.offset_take('g', %s, %s, 'w1', %s, 'c1')",
            self.topic,
            self.partition,
            instance or uuid.uuid4(),
        )
        self.epoch, self.next, self.version = row["epoch"], row["next_offset"], row["keys_version"]
        return row

    def keys(self):
        """key -> rows, and the version is known from then on."""
        rows = self.session.do(
            "SELECT keys_version, key, messages FROM txb.failed_keys('g', %s, %s, 1000)", self.topic, self.partition
        )
        self.version = rows[0][0]
        return {bytes(key): messages for _, key, messages in rows if key is not None}

    def open(self, new_next, consumed):
        self.session.do("BEGIN")
        return self.session.start(
            OPEN, self.topic, self.partition, self.epoch, self.next, new_next, consumed, V7, self.version
        )

    def add(self, *items):
        return self.session.one(ADD, self.topic, self.partition, *[[one[c] for one in items] for c in COLUMNS])

    def close(self, new_next, applied, failed, duplicate=0):
        self.session.do(CLOSE, self.topic, self.partition, applied, duplicate, failed)
        self.session.do("COMMIT")
        self.next = new_next

    def batch(self, new_next, *items, applied=0):
        """A batch of what is set aside and what is applied, committed."""
        self.open(new_next, len(items) + applied).finish()
        if items:
            self.add(*items)
        self.close(new_next, applied, len(items))

    def mark(self, rows=1000):
        """(offset, run) of what is given out; remembered for `settle`."""
        names = [d[0] for d in self._mark(rows)]
        self.marked = [dict(zip(names, row)) for row in self.rows if row[2] is not None]
        self.marked_version = self.rows[0][0]
        return [(row["offset"], row["run"]) for row in self.marked]

    def _mark(self, rows):
        with self.session.connection.cursor() as cursor:
            cursor.execute(MARK, (self.topic, self.partition, self.epoch, rows))
            self.rows = cursor.fetchall()
            return cursor.description

    def settle(self, verdict="applied"):
        """The keys that are free."""
        self.session.do("BEGIN")
        self.session.do(RETRY_OPEN, self.topic, self.partition, self.epoch, self.marked_version)
        count = len(self.marked)
        rows = self.session.do(
            SETTLE,
            self.topic,
            self.partition,
            [row["number"] for row in self.marked],
            [verdict] * count,
            [60000] * count,
            ["error"] * count,
            ["P0001"] * count,
            ["again"] * count,
            False,
        )
        self.session.do("COMMIT")
        return {bytes(row[2]) for row in rows if row[2] is not None}


def counters(db, partition, topic="t"):
    """consumed, applied, duplicate, failed, held; they balance, and held is what is held."""
    row = db.root.row(
        "SELECT consumed, applied, duplicate, failed, held FROM txb.consumer_offset WHERE group_name = 'g' AND topic = %s "
        "AND partition = %s",
        topic,
        partition,
    )
    assert row["consumed"] == row["applied"] + row["duplicate"] + row["failed"]
    assert row["held"] == db.root.one(
        "SELECT count(*) FROM txb.failed WHERE state = 'held' AND topic = %s AND partition = %s", topic, partition
    )
    return tuple(row.values())


def failed(db, partition):
    """(offset, state, run) in order."""
    return db.root.do(
        'SELECT "offset", state, run FROM txb.failed WHERE partition = %s AND state IN (\'retrying\', \'held\', \'dead\') '
        "ORDER BY place",
        partition,
    )


def moved(db, lane):
    return db.root.one("SELECT moved FROM txb.job_lane WHERE lane = %s", lane)


def aside(offset, key=b"k", state="retrying", **more):
    """A message to be set aside; of a lane, its id is that of its number."""
    return item(offset, key, state, **more)
