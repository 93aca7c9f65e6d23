"""What the tests of failed messages of the consumer's side share: messages to be set aside, batches of them, trying them again."""

import uuid

from sqltest import V7, stored

OPEN = "SELECT txb.batch_open('g', 't', 0, %s, %s, %s, %s, %s, 1700000000000, %s)"
CLOSE = "SELECT txb.batch_close('g', 't', 0, %s, %s, %s)"
ADD = (
    "SELECT txb.failed_add('g', 't', 0, %s::bigint[], %s::uuid[], %s::text[], %s::bytea[], %s::text[], "
    "%s::timestamptz[], %s::bytea[], %s::text[], %s::jsonb[], %s::text[], %s::int[], %s::bigint[], %s::boolean[], "
    "%s::text[], %s::text[], %s::text[], 'shop.apply', 'w1')"
)
MARK = "SELECT * FROM txb.retry_mark('g', 't', 0, %s, %s, %s)"
RETRY_OPEN = "SELECT txb.retry_open('g', 't', 0, %s, %s)"
SETTLE = (
    "SELECT next_due_ms, held, key FROM txb.retry_settle('g', 't', 0, %s::bigint[], %s::text[], %s::bigint[], "
    "%s::text[], %s::text[], %s::text[], %s, 'w2')"
)
KEYS = "SELECT keys_version, next_due_ms, held, group_held, key, messages FROM txb.failed_keys('g', 't', 0, 1000)"
CONDEMN = "SELECT next_due_ms, held, key FROM txb.failed_condemn('g', 't', 0, %s, %s, 'died twice', %s, 'w2')"
PLENTY = (1000, 1 << 20)


def item(offset, key=b"k", state="retrying", **more):
    """A message to be set aside."""
    return {
        "offset": offset,
        "id": uuid.UUID(int=(0x0190 << 112) | (7 << 76) | (8 << 60) | offset),
        "source": "bank",
        "key": key,
        "type": "made",
        "time": "2024-06-14 00:00:00+00",
        "payload": b"p%d" % offset,
        "content_type": "application/json",
        "headers": "{}",
        "state": state,
        "attempts": 0 if state == "held" else 1,
        "delay_ms": 0 if state == "retrying" else None,
        "holds": key is not None,
        "error_class": None if state == "held" else "error",
        "sqlstate": None if state == "held" else "P0001",
        "error": None if state == "held" else "no money",
        **more,
    }


def add(session, *items):
    """The held messages of the group."""
    columns = (
        "offset id source key type time payload content_type headers state attempts delay_ms holds error_class sqlstate"
        " error"
    ).split()
    return session.one(ADD, *[[one[column] for one in items] for column in columns])


def aside(session, epoch, *items, version=0, extra=0):
    """A batch of nothing but failed messages (and `extra` applied ones behind them), committed."""
    first = stored_next(session)
    count = len(items) + extra
    session.do("BEGIN")
    session.do(OPEN, epoch, first, first + count, count, V7, version)
    held = add(session, *items)
    session.do(CLOSE, extra, 0, len(items))
    session.do("COMMIT")
    return held


def stored_next(session):
    return session.one("SELECT next_offset FROM txb.consumer_offset WHERE partition = 0")


def failed(db):
    """state by offset, in order."""
    return dict(db.root.do('SELECT "offset", state FROM txb.failed ORDER BY place'))


def history(db, offset):
    return db.root.do(
        'SELECT h.event, h.state, h.attempt FROM txb.failed_history AS h JOIN txb.failed AS f USING (number) '
        'WHERE f."offset" = %s ORDER BY h.at',
        offset,
    )


def counters(db):
    row = stored(db)
    assert row["consumed"] == row["applied"] + row["duplicate"] + row["failed"]
    assert row["held"] == db.root.one("SELECT count(*) FROM txb.failed WHERE state = 'held'")
    return row["consumed"], row["applied"], row["duplicate"], row["failed"]


def mark(session, epoch=1, rows=PLENTY[0], size=PLENTY[1]):
    """The offsets that were given out."""
    return [row[6] for row in session.do(MARK, epoch, rows, size) if row[2] is not None]


def settle(session, db, verdicts, epoch=1, version=0, release=False, delay_ms=60000, error_class="error"):
    """offset -> verdict, of the messages that are marked."""
    numbers = dict(db.root.do('SELECT "offset", number FROM txb.failed'))
    session.do("BEGIN")
    session.do(RETRY_OPEN, epoch, version)
    count = len(verdicts)
    result = session.do(
        SETTLE,
        [numbers[offset] for offset in verdicts],
        list(verdicts.values()),
        [delay_ms] * count,
        [error_class] * count,
        ["P0001"] * count,
        ["again"] * count,
        release,
    )
    session.do("COMMIT")
    return result


def owner(db):
    """A session that owns the partition at offset 0, in epoch 1."""
    session = db.session("worker")
    db.take(session)
    return session
