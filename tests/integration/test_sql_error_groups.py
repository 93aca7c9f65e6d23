"""Which errors are one group: a person sees three causes, and not one for each message."""

import psycopg2
import pytest
from sqltest import V7, migrations

PATTERN = "SELECT txb.error_pattern(%s, %s, %s)"


@pytest.mark.parametrize("errors, pattern", [
    (["order ORD17 is not there", "order ORD4711 is not there", "order 17 is not there"], "order ? is not there"),
    (["key k17 of c17", "key k1 of c99"], "key ? of ?"),
    (["no object deadbeef01", "no object 01deadbeef", "no object a1b2c3", "no object 01a225d99fd675959742471ef865c713"], "no object ?"),
    (["account 17 is closed", "account 4711, is closed"], "account ? is closed"),
    (["balance 1.200,50 is too low", "balance 7.00 is too low", "balance 12,5 is too low"], "balance ? is too low"),
    (["it costs $17.50 (17 of 20)", "it costs $9 (9 of 9)"], "it costs $? ?"),
    (["-5 is below zero", "-17 is below zero"], "-? is below zero"),
    ([f"message {V7} is unknown", "message 01A225D9-9FD6-7595-9742-471EF865C713 is unknown"], "message ? is unknown"),
    ([f"message m_{V7}: no", "message m_01a225d9-9fd6-7595-9742-471ef865c713: no"], "message m_?: no"),
    (['account 17 of "bob" is closed', 'account 4 of "alice 7" is closed'], "account ? of ? is closed"),
    (["value 'x17' is bad", "value 'y' is bad"], "value ? is bad"),
    (["server 10.0.0.1:5432 is away", "server 10.0.0.27:6432 is away", "server fe80::1 is away"], "server ? is away"),
    (["server [::1]:5432 is away"], "server [::?]:? is away"),
    (["server web7.example.com is away", "server web12.example.org: is away"], "server ? is away"),
    (["no file7.txt", "no file12.json", "no file7"], "no ?"),
    (["order ORD17. Again", "order ORD4, Again", "order 17: Again"], "order ? Again"),
    (["version v1.2.3 is too old", "version v10.0 is too old", "version 1.2.3 is too old"], "version ? is too old"),
    (["at 2026-12-01T00:41:10.123Z it ended", "at 2025-01-31T23:59:59.5Z it ended"], "at ?-?-? it ended"),
    (["at 2026-12-01 00:41:10+00", "at 2025-01-31 23:59:59+02"], "at ?-?-? ?+?"),
    (["order_17_missing", "order_4_missing"], "?"),
    (["ORA-00942: table is not there", "ORA-01400: table is not there"], "ORA-? table is not there"),
    (["заказ17 не найден", "заказ4 не найден"], "заказ? не найден"),
    (["订单17不存在", "订单4711不存在"], "订单?不存在"),
    (["step 3\n  of\tx9", "step 12 of x10"], "step ? of ?"),
])
def test_errors_that_differ_in_words_with_a_digit_are_equal(db, errors, pattern):
    found = {db.root.one(PATTERN, None, None, error) for error in errors}
    assert found == {pattern}


@pytest.mark.parametrize("one, other", [
    ("account 17 is closed", "account 17 is poor"),
    ("order ORD17 is not there", "invoice ORD17 is not there"),
    ("apply.sql:17:syntax", "apply.sql:17:overflow"),
    ("row 3,missing", "row 3,double"),
    ("订单17不存在", "订单17已关闭"),
    ("no account bob", "no account alice"),  # nothing says that a name is none of the cause
])
def test_what_may_be_the_cause_stays(db, one, other):
    assert db.root.one(PATTERN, None, None, one) != db.root.one(PATTERN, None, None, other)


def test_class_and_sqlstate_tell_equal_texts_apart_and_stay_whole(db):
    assert db.root.one(PATTERN, "error", "22P02", "bad 7") == "error 22P02 bad ?"
    assert db.root.one(PATTERN, "error", "23505", "bad 7") == "error 23505 bad ?"
    assert db.root.one(PATTERN, None, None, None) == ""


def test_a_group_does_not_depend_on_the_collation(db):
    for text in ("straße17", "İ17 ı8 x", "é1a"):
        found = db.root.do(
            "SELECT txb.error_pattern(NULL, NULL, %s COLLATE \"C\"), txb.error_pattern(NULL, NULL, %s)", text, text
        )
        assert found[0][0] == found[0][1]


def test_an_error_is_cut_to_300_characters_after_its_words_were_replaced(db):
    assert db.root.one(PATTERN, None, None, "order ORD17 " * 100) == ("order ? " * 100)[:300]


def test_rows_of_before_get_the_group_that_new_ones_get(server):
    """Open and closed ones, of both sides, and nothing else of a row changes; a group that stays the same is not written."""
    steps = [text for _, _, text in migrations()]
    first = next(n for n, text in enumerate(steps) if "words that hold a digit" in text)
    name = server.create_database("before_words")
    with server.session(name, autocommit=False) as connection, connection.cursor() as cursor:
        for text in steps[:first]:
            cursor.execute(text)
        cursor.execute("RESET ROLE; INSERT INTO txb.consumer_offset (group_name, topic, partition, next_offset, epoch) VALUES ('g', 't', 0, 9, 1)")

        def add(state, error, side="consumer"):
            cursor.execute(
                """INSERT INTO txb.failed (side, state, group_name, source, topic, partition, "offset", seq, key, id, type, attempts,
                     error_class, sqlstate, error, holds, place, resolution, next_attempt_at)
                   VALUES (%(side)s, %(state)s, CASE %(side)s WHEN 'consumer' THEN 'g' END, 'shop', 't',
                     CASE %(side)s WHEN 'consumer' THEN 0 END, CASE %(side)s WHEN 'consumer' THEN (SELECT count(*) FROM txb.failed) END,
                     CASE %(side)s WHEN 'outbox' THEN (SELECT count(*) FROM txb.failed) END, 'k', txb.uuid_v7(), 'made', 1, 'error', 'P0001', %(error)s,
                     %(state)s <> 'resolved', 0, CASE %(state)s WHEN 'resolved' THEN 'applied' END,
                     CASE %(state)s WHEN 'retrying' THEN now() END)
                   RETURNING number""",
                {"side": side, "state": state, "error": error},
            )
            return cursor.fetchone()[0]

        words = [add("dead", "order ORD17 is not there"), add("retrying", "order ORD18 is not there"), add("resolved", "order ORD19 is not there"),
                 add("dead", "order ORD20 is not there", side="outbox")]
        plain, held = add("dead", "account 17 is closed"), add("held", None)
        rows = "SELECT to_jsonb(f) - 'error_group' FROM txb.failed AS f ORDER BY f.number"
        cursor.execute(rows)
        before = cursor.fetchall()
        cursor.execute("SELECT ctid::text FROM txb.failed WHERE number IN (%s, %s) ORDER BY number", (plain, held))
        places = cursor.fetchall()
        cursor.execute("SELECT count(DISTINCT error_group) FROM txb.failed WHERE number = ANY (%s)", (words,))
        assert cursor.fetchone() == (4,)
        connection.commit()
        for text in steps[first:]:
            cursor.execute(text)
        connection.commit()
        cursor.execute(rows)
        assert cursor.fetchall() == before
        cursor.execute("SELECT ctid::text FROM txb.failed WHERE number IN (%s, %s) ORDER BY number", (plain, held))
        assert cursor.fetchall() == places
        later = add("dead", "order ORD21 is not there")
        cursor.execute("""SELECT value, messages, error_group FROM txb.failed_count('{"state": "any"}', 'error')""")
        counted = cursor.fetchall()
        assert [row[:2] for row in counted] == [("error P0001 order ? is not there", 5), ("error P0001", 1), ("error P0001 account ? is closed", 1)]
        cursor.execute("SELECT number FROM txb.failed_find(%s)", (f'{{"state": "any", "error": "{counted[0][2]}"}}',))
        assert [row[0] for row in cursor.fetchall()] == words + [later]
        cursor.execute("SELECT count(*) FROM txb.failed_history")
        assert cursor.fetchone() == (0,)
        connection.commit()
    server.drop_database(name)


def test_a_writer_under_way_is_waited_for(server):
    """What it inserts is computed by the function of before, and recomputed."""
    steps = [text for _, _, text in migrations()]
    first = next(n for n, text in enumerate(steps) if "words that hold a digit" in text)
    name = server.create_database("under_way")
    with server.session(name, autocommit=False) as writer, server.session(name, autocommit=False) as migrator:
        with migrator.cursor() as cursor:
            for text in steps[:first]:
                cursor.execute(text)
        migrator.commit()
        with writer.cursor() as cursor:
            cursor.execute(
                """INSERT INTO txb.failed (side, state, source, topic, seq, error, place) VALUES ('outbox', 'dead', 'shop', 't', 1, 'no ORD17', 0)"""
            )
        with migrator.cursor() as cursor:
            cursor.execute("SET lock_timeout = '1ms'")
            with pytest.raises(psycopg2.errors.LockNotAvailable):
                cursor.execute(steps[first])
            migrator.rollback()
            writer.commit()
            cursor.execute(steps[first])
            cursor.execute("SELECT error_group FROM txb.failed")
            assert cursor.fetchall() == [("no ?",)]
        migrator.commit()
    server.drop_database(name)
