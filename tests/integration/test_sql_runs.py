"""The worker's own statements in a run of a forced replay: once in itself, and what a handler publishes there is not what
the live delivery published (J2, W14)."""

import os

import pytest
from sqltest import ROOT

TYPES = "text, text, int, int, uuid[], uuid[], bigint[], text[], bytea[], text[], timestamptz[], bytea[], text[], jsonb[], int, bigint, boolean"


def statement(name, handler=None):
    with open(os.path.join(ROOT, "consumer", "sql", f"{name}.sql"), encoding="utf-8") as file:
        return file.read().replace("@handler@", handler or "").replace("@handler_text@", f"'{handler}'")


@pytest.fixture
def worker(db):
    """With a handler in both forms that publishes, and the worker's statements prepared."""
    db.root.do(
        """CREATE SCHEMA shop; GRANT ALL ON SCHEMA shop TO login_worker;
           CREATE TABLE shop.seen (n serial, id uuid, delivery text, published uuid);
           GRANT ALL ON ALL TABLES IN SCHEMA shop TO login_worker; GRANT ALL ON ALL SEQUENCES IN SCHEMA shop TO login_worker"""
    )
    session = db.session("worker")
    session.do(
        """CREATE FUNCTION shop.one(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO shop.seen (id, delivery, published) VALUES (m.id, current_setting('txb.delivery'), txb.publish('t', 'k', 'made', '1'));
             RETURN txb.ok(); END $$;
           CREATE FUNCTION shop.many(m txb.message[]) RETURNS SETOF txb.outcome LANGUAGE plpgsql AS $$ BEGIN
             RETURN QUERY SELECT (r.answer).* FROM (SELECT shop.one(o) AS answer FROM unnest(m) AS o OFFSET 0) AS r; END $$"""
    )
    for name, handler in (("message", "shop.one"), ("batch", "shop.many")):
        session.do(f"PREPARE {name} ({TYPES}) AS {statement('worker_apply_' + name, handler)}")
    session.do(f"PREPARE inbox (text, uuid[], bigint) AS {statement('worker_inbox')}")
    session.do(f"PREPARE known (text, uuid[], bigint) AS {statement('worker_known')}")
    return session


def apply(session, form, ids, run):
    """How many were new."""
    n = len(ids)
    session.do("BEGIN")
    applied = session.one(
        f"EXECUTE {form} ('g', 't', 0, 1, %s::uuid[], %s::uuid[], %s, array_fill('s'::text, ARRAY[%s]), array_fill('k'::bytea, ARRAY[%s]),"
        " array_fill('made'::text, ARRAY[%s]), array_fill(now(), ARRAY[%s]), array_fill('1'::bytea, ARRAY[%s]),"
        " array_fill('text/plain'::text, ARRAY[%s]), array_fill('{}'::jsonb, ARRAY[%s]), 1, %s, false)",
        sorted(ids), ids, list(range(n)), n, n, n, n, n, n, n, run)
    session.do("COMMIT")
    return int(applied)


def ids_of(db, count):
    return [row[0] for row in db.root.do("SELECT txb.uuid_v7() FROM generate_series(1, %s)", count)]


def seen(db):
    return db.root.do("SELECT id, delivery, published FROM shop.seen ORDER BY n")


@pytest.mark.parametrize("form", ["message", "batch"])
def test_a_run_applies_once_what_was_applied_already(db, worker, form):
    ids = ids_of(db, 3)
    assert [apply(worker, form, ids, run) for run in (0, 0, 17, 17, 18)] == [3, 0, 3, 0, 3]
    assert [row[0] for row in seen(db)] == ids * 3
    assert db.root.do("SELECT run, count(*) FROM txb.inbox WHERE group_name = 'g' GROUP BY run ORDER BY run") == [(0, 3), (17, 3), (18, 3)]


@pytest.mark.parametrize("form", ["message", "batch"])
def test_what_a_run_publishes_has_ids_of_the_run(db, worker, form):
    ids = ids_of(db, 2)
    for run in (0, 17):
        apply(worker, form, ids, run)
    of_batch = [ids[0], ids[0]] if form == "batch" else ids
    assert [row[1] for row in seen(db)] == [f"g/{i}" for i in of_batch] + [f"g/17/{i}" for i in of_batch]
    assert len({row[2] for row in seen(db)}) == 4
    # the delivery of the run once more, as after a crash before its COMMIT: the same ids (W14)
    assert [row[2] for row in seen(db)[2:]] == db.root.one(
        "SELECT array_agg(txb.uuid_v7_derive(u.id, 'g/17', u.id, u.ordinal) ORDER BY u.nth) FROM unnest(%s::uuid[], %s::bigint[]) WITH ORDINALITY"
        " AS u (id, ordinal, nth)", of_batch, [1, 2] if form == "batch" else [1, 1])


def test_what_a_plugin_publishes_in_a_run_has_ids_of_the_run(db, worker):
    ids = ids_of(db, 2)
    found = []
    for run in (0, 17, 17):
        worker.do("BEGIN")
        fresh = worker.do("EXECUTE inbox ('g', %s::uuid[], %s)", sorted(ids), run)
        found.append((len(fresh), worker.one("SELECT current_setting('txb.delivery', true)")))
        worker.do("COMMIT")
    assert found[:2] == [(2, f"g/{min(ids)}"), (2, f"g/17/{min(ids)}")] and found[2][0] == 0


def test_a_failed_message_is_known_in_its_own_run_alone(db, worker):
    ids = ids_of(db, 2)
    apply(worker, "message", ids[:1], 0)
    apply(worker, "message", ids[1:], 17)
    assert [worker.do("EXECUTE known ('g', %s::uuid[], %s)", ids, run) for run in (0, 17, 18)] == [[(ids[0],)], [(ids[1],)], []]
