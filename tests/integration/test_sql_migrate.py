"""The migrations themselves: two at once, without superuser, through dump and restore."""

import threading

import pytest
from sqltest import Database, make_logins, migrate, migrations
from txbtest.postgres import Postgres


@pytest.fixture
def fresh():
    """A server without any of our roles."""
    with Postgres() as running:
        yield running


def migrate_in_threads(server, names, **more):
    errors = []
    gate = threading.Barrier(len(names))

    def run(name):
        try:
            gate.wait()
            migrate(server, name, **more)
        except Exception as error:  # pylint: disable=broad-except
            errors.append(f"{name}: {error}")

    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return errors


def test_two_databases_can_be_migrated_at_once_on_a_server_without_roles(fresh):
    names = [fresh.create_database(f"d{n}") for n in range(4)]
    assert migrate_in_threads(fresh, names) == []
    for name in names:
        assert fresh.value(name, "SELECT count(*) FROM txb.schema_migration") == len(list(migrations()))
        assert fresh.value(name, "SELECT txb.partition_make(1000, 1)") == 2
        assert fresh.value(name, "SELECT txb.publish('t', 'k', 'made', '1') IS NOT NULL")
    assert fresh.value("postgres", "SELECT count(*) FROM pg_roles WHERE rolname ~ '^txb_'") == 7
    assert (
        fresh.value(
            "postgres",
            "SELECT count(*) FROM pg_roles WHERE rolname ~ '^txb_' AND shobj_description(oid, 'pg_authid') IS NULL",
        )
        == 0
    )
    assert fresh.query(
        "postgres",
        "SELECT roleid::regrole::text, member::regrole::text FROM pg_auth_members WHERE roleid::regrole::text ~ "
        "'^txb_' ORDER BY 1, 2",
    ) == [("txb_reader", "txb_admin"), ("txb_retention", "txb_owner"), ("txb_retention", "txb_relay")]


def test_a_role_that_may_make_roles_can_migrate_its_own_database(fresh):
    fresh.query("postgres", "CREATE ROLE deployer LOGIN CREATEROLE CREATEDB")
    fresh.create_database("mine")
    fresh.query("mine", "ALTER DATABASE mine OWNER TO deployer")
    migrate(fresh, "mine", user="deployer")
    make_logins(fresh)
    # The next database of the same deployer finds the roles and needs no right over them but membership.
    fresh.create_database("next")
    fresh.query("next", "ALTER DATABASE next OWNER TO deployer")
    fresh.query("postgres", "ALTER ROLE deployer NOCREATEROLE")
    migrate(fresh, "next", user="deployer")
    for name in ("mine", "next"):
        fresh.query(name, "SELECT txb.partition_make(1000, 1)")
        fresh.query(name, "SELECT txb.publish('t', 'k', 'made', '1')", user="login_app")
        assert fresh.value(name, "SELECT count(*) FROM txb.outbox") == 1


def test_a_migration_that_fails_leaves_nothing(fresh):
    """Each file is one transaction: no schema, and no roles either."""
    fresh.create_database("broken")
    with fresh.session("broken", autocommit=False) as connection:
        with connection.cursor() as cursor:
            for _, _, text in migrations():
                cursor.execute(text)
        connection.rollback()
    assert fresh.value("broken", "SELECT count(*) FROM pg_namespace WHERE nspname = 'txb'") == 0
    assert fresh.value("broken", "SELECT count(*) FROM pg_roles WHERE rolname ~ '^txb_'") == 0


def test_the_runner_is_itself_again_after_each_file(fresh):
    fresh.create_database("d")
    with fresh.session("d", autocommit=False) as connection, connection.cursor() as cursor:
        for _, _, text in migrations():
            cursor.execute(text)
            cursor.execute("SELECT current_user")
            assert cursor.fetchone() == ("postgres",)


def test_dump_and_restore_keep_everything_working(server, template, fresh):
    """Into another server: rows, position, holes, offsets, inbox, rights, limits, and the sequence, which goes on where
    it was."""
    server.create_database("dumped", template)
    db = Database(server, "dumped")
    for n in range(1500):  # two partitions
        db.publish(db.root, str(n))
    db.root.do("SELECT txb.publish('t', 'k', 'made', '1', not_before => now() + interval '1 h')")
    relay, worker = db.session("relay"), db.session("worker")
    row = db.acquire(relay)
    relay.do(
        "SELECT txb.relay_checkpoint('bank', %s, %s, 0, 1200, 900, 1000, 30000, '{0}', '{\"{[901,905)}\"}')",
        row["epoch"],
        row["instance"],
    )
    relay.do(
        "SELECT txb.relay_record_failed('bank', %s, %s, 903, 'MSG_SIZE_TOO_LARGE', 'too large')",
        row["epoch"],
        row["instance"],
    )
    db.take(worker)
    worker.do("BEGIN; SELECT txb.batch_open('g', 't', 0, 1, 0, 1, 1, txb.uuid_v7(), 7, 0)")
    worker.do(
        "INSERT INTO txb.inbox (group_name, message_id) SELECT 'g', id FROM unnest(ARRAY[txb.uuid_v7(), "
        "txb.uuid_v7_floor('2000-01-01')]) AS id"
    )
    worker.do("SELECT txb.batch_close('g', 't', 0, 1, 0); COMMIT")
    shapes = {}
    tables = [
        r[0]
        for r in db.root.do(
            "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'txb'::regnamespace AND relkind IN ('r', "
            "'p') ORDER BY 1"
        )
    ]
    for table in tables:
        shapes[table] = db.root.one(
            f"SELECT md5(coalesce(string_agg(t::text, chr(10) ORDER BY t::text), '')) FROM {table} AS t"
        )
    db.close()

    dump, roles = server.dump("dumped")
    server.drop_database("dumped")
    fresh.restore("dumped", dump, roles)
    db = Database(fresh, "dumped")
    for table in tables:
        assert (
            db.root.one(f"SELECT md5(coalesce(string_agg(t::text, chr(10) ORDER BY t::text), '')) FROM {table} AS t")
            == shapes[table]
        ), table
    app, relay, worker = db.session("app"), db.session("relay"), db.session("worker")
    db.publish(app, "1500")
    assert db.root.one("SELECT max(seq) FROM txb.outbox") == 1501
    # The lease came along with the dump, its holder's session did not.
    again = db.acquire(relay, instance="00000000-0000-4000-8000-000000000002")
    assert (again["epoch"], again["highest"], again["watermark"], again["checkpoint"]) == (
        row["epoch"] + 1,
        1200,
        900,
        1,
    )
    assert relay.one("SELECT holes::text FROM txb.relay_holes") == "{[901,905)}"
    assert relay.one("SELECT txb.partition_make(1000, 20)") > 0
    worker.do(
        "BEGIN; SELECT txb.batch_open('g', 't', 0, 1, 1, 2, 1, txb.uuid_v7(), 7, 0); SELECT txb.batch_close('g', 't', 0, "
        "1, 0); COMMIT"
    )
    assert worker.one("SELECT consumed FROM txb.consumer_offset") == 2
    assert worker.one("SELECT txb.inbox_partition_make(3, 3)") >= 2
    db.close()
