"""Commands of a batch together: the same effects, records and answers as one by one, whoever refuses, fails or comes twice."""

import json
import uuid

import pytest
from commandstest import OUTPUT_SIZE_MAX, headers_of, output_of, too_large, with_handler
from sqltest import refused

APPLY = """SELECT txb.commands_apply(array_agg(ROW('bank', u.id, 'pay', 3, u.n, NULL, 'pay.do', now(), convert_to(u.payload, 'UTF8'),
    'application/json', u.headers, 1)::txb.message ORDER BY u.n), array_agg('g/' || u.id::text ORDER BY u.n), %s, %s)
    FROM unnest(%s::uuid[], %s::text[], %s::jsonb[]) WITH ORDINALITY AS u (id, payload, headers, n)"""


@pytest.fixture
def db(bare):
    return with_handler(bare)


def saga(n):
    return str(uuid.UUID(int=n + (4 << 76) + (8 << 60)))


def command(n, operation="action", say="ok", output=None, **more):
    payload = {"say": say, "times": 1, **({} if output is None else {"output": output})}
    return json.dumps(payload), json.dumps(headers_of(operation, saga=saga(n), **more))


def v7():
    return "01900000" + str(uuid.uuid4())[8:14] + "7" + str(uuid.uuid4())[15:]


def handle(session, commands, handler="public.does", of_array=False):
    """They come as one batch."""
    return session.one(APPLY, handler, of_array, [v7() for _ in commands], [c[0] for c in commands], [c[1] for c in commands])


def answers(db):
    """[(saga, answer, output or reason)] in the order of publishing."""
    return [(headers["txb-saga"], payload["answer"], payload.get("output", payload.get("reason")))
            for payload, headers in db.root.do("SELECT convert_from(payload, 'UTF8')::jsonb, headers FROM txb.outbox ORDER BY seq")]


def states(db):
    return dict(db.root.do("SELECT saga_id::text, state FROM txb.barrier"))


def effects(db):
    return db.root.one("SELECT count(*) FROM public.effect")


@pytest.mark.parametrize("of_array", [False, True])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_all_of_a_batch_take_effect_and_are_answered_in_their_order(db, count, of_array):
    worker = db.session("worker")
    assert handle(worker, [command(n, output=n) for n in range(count)], "public.does_all" if of_array else "public.does", of_array) == count
    assert answers(db) == [(saga(n), "ok", n) for n in range(count)]
    assert set(states(db).values()) == {"ok"} and len(states(db)) == effects(db) == count
    assert db.root.one("SELECT count(DISTINCT id) FROM txb.outbox") == count


@pytest.mark.parametrize("of_array", [False, True])
@pytest.mark.parametrize("who", [0, 70, 149])
def test_who_refuses_is_undone_alone(db, who, of_array):
    """And nobody's effect is there twice, though some of the handlers ran twice."""
    batch = [command(n, say="refuse" if n == who else "ok") for n in range(150)]
    handle(db.session("worker"), batch, "public.does_all" if of_array else "public.does", of_array)
    found = answers(db)
    assert [one[0] for one in found] == [saga(n) for n in range(150)]
    assert [one for one in found if one[1] != "ok"] == [(saga(who), "refused", "no money")]
    assert effects(db) == 149 and states(db)[saga(who)] == "refused"


@pytest.mark.parametrize("of_array", [False, True])
@pytest.mark.parametrize("who,count", [(0, 1), (0, 3), (2, 3), (66, 70)])
def test_whose_output_is_too_large_is_refused_and_undone_alone(db, who, count, of_array):
    batch = [command(n, output=output_of(OUTPUT_SIZE_MAX + 1) if n == who else n) for n in range(count)]
    handle(db.session("worker"), batch, "public.does_all" if of_array else "public.does", of_array)
    assert answers(db) == [(saga(n), "refused", too_large(OUTPUT_SIZE_MAX + 1)) if n == who else (saga(n), "ok", n) for n in range(count)]
    assert states(db) == {saga(n): "refused" if n == who else "ok" for n in range(count)} and effects(db) == count - 1


def test_too_large_outputs_of_every_kind_in_one_batch(db):
    """Those behind the first are handled each for itself; a compensation and what goes forward are not refused for good."""
    large, plain = output_of(1_200_000), {name: None for name in ("saga", "saga_started", "saga_step", "saga_sending")}
    worker = db.session("worker")
    handle(worker, [command(1, output=7), command(2, output=output_of(OUTPUT_SIZE_MAX))])
    had = len(answers(db))
    handle(worker, [command(1, "compensation", output=large), command(3, output=large), command(4, "forward", output=large), command(5),
                    (json.dumps({"say": "ok", "output": large}), json.dumps(headers_of(None, request="r1", **plain))), command(4, "forward"),
                    command(1, "compensation"), command(3)])
    said = [payload for payload, in db.root.do("SELECT convert_from(payload, 'UTF8')::jsonb FROM txb.outbox ORDER BY seq")][had:]
    why = {"reason": too_large(1_200_000)}
    assert said == [{"answer": "failed", **why}, {"answer": "refused", **why}, {"answer": "refused", **why}, {"answer": "ok"}, {"answer": "refused", **why},
                    {"answer": "ok"}, {"answer": "compensated"}, {"answer": "refused", **why}]
    assert states(db) == {saga(1): "compensated", saga(2): "ok", saga(3): "refused", saga(4): "ok", saga(5): "ok"}
    assert db.root.do("SELECT operation FROM public.effect ORDER BY n") == [("action",), ("action",), ("action",), ("forward",), ("compensation",)]


def test_who_comes_alone_and_refuses_is_asked_once(db):
    """A sequence forgets nothing."""
    db.root.do("CREATE SEQUENCE public.calls; GRANT USAGE ON public.calls TO PUBLIC; CREATE FUNCTION public.counts(m txb.message) RETURNS txb.outcome"
               " LANGUAGE sql AS $$ SELECT txb.refuse('call ' || nextval('public.calls')) $$")
    handle(db.session("worker"), [command(1)], "public.counts")
    assert answers(db) == [(saga(1), "refused", "call 1")] and states(db) == {saga(1): "refused"}


def test_what_goes_forward_and_refuses_is_not_recorded(db):
    handle(db.session("worker"), [command(1), command(2, "forward", "refuse"), command(3, "forward")])
    assert [(of, said) for of, said, _ in answers(db)] == [(saga(1), "ok"), (saga(2), "refused"), (saga(3), "ok")]
    assert states(db) == {saga(1): "ok", saga(3): "ok"}


@pytest.mark.parametrize("say", ["retry", "dead", "none", "raise"])
def test_who_fails_fails_the_batch_and_is_named(db, say):
    worker = db.session("worker", transaction=True)
    with refused("22012" if say == "raise" else "TXB02", *([] if say == "raise" else ["offset=68 "])):
        handle(worker, [command(n, say=say if n == 67 else "ok") for n in range(100)])
    worker.do("ROLLBACK")
    assert (effects(db), states(db), answers(db)) == (0, {}, [])


def test_one_step_several_times_in_a_batch_goes_by_its_order(db):
    worker = db.session("worker")
    handle(worker, [command(1, output=7), command(2, "compensation"), command(1), command(1, "resolve"), command(2), command(1, "compensation"),
                    command(1), command(3), command(2, "resolve")])
    assert answers(db) == [(saga(1), "ok", 7), (saga(2), "compensated", None), (saga(1), "ok", 7), (saga(1), "ok", 7), (saga(2), "never", None),
                           (saga(1), "compensated", None), (saga(1), "compensated", None), (saga(3), "ok", None), (saga(2), "never", None)]
    assert db.root.do("SELECT operation, output FROM public.effect ORDER BY n") == [("action", None), ("compensation", 7), ("action", None)]
    assert states(db) == {saga(1): "compensated", saga(2): "never", saga(3): "ok"}


def test_what_came_before_is_answered_with_what_is_recorded(db):
    worker = db.session("worker")
    handle(worker, [command(n, output=n) for n in range(10)])
    handle(worker, [command(n, output="again") for n in range(5, 15)])
    assert answers(db)[10:] == [(saga(n), "ok", n if n < 10 else "again") for n in range(5, 15)]
    assert effects(db) == 15


def test_commands_without_a_saga_are_answered_too(db):
    plain = {name: None for name in ("saga", "saga_started", "saga_step", "saga_sending")}
    batch = [command(1), ('{"say": "ok", "output": 1}', json.dumps({**headers_of(None, request="r1", **plain)})),
             ('{"say": "refuse"}', json.dumps({**headers_of(None, request="r2", **plain)}))]
    handle(db.session("worker"), batch)
    assert [json.loads(payload) for payload, in db.root.do("SELECT convert_from(payload, 'UTF8') FROM txb.outbox ORDER BY seq")] == [
        {"answer": "ok"}, {"answer": "ok", "output": 1}, {"answer": "refused", "reason": "no money"}]
    assert states(db) == {saga(1): "ok"}


@pytest.mark.parametrize("output", [12345678901234567890, {"a": [{"b": -12345678901234567890}]}])
def test_an_output_that_a_saga_can_t_carry_fails_the_batch(db, output):
    with refused("22003", "has too many digits"):
        handle(db.session("worker"), [command(1), command(2, output=output)])
    assert effects(db) == 0


def test_digits_that_are_no_number_are_carried(db):
    handle(db.session("worker"), [command(1, output={"iban": "12345678901234567890", "n": 1234567890123456})])
    assert answers(db)[0][2] == {"iban": "12345678901234567890", "n": 1234567890123456}


def test_an_unreadable_command_is_refused_and_named(db):
    with refused("22023", "can't be read", "txb-saga is not a UUID"):
        db.session("worker").one(APPLY, "public.does", False, [v7(), v7()], ["{}", "{}"], [command(1)[1], json.dumps(headers_of("action", saga="x"))])


def test_a_handler_may_not_say_what_an_action_gave(db):
    """Only the barrier does."""
    handle(db.session("worker"), [command(1, saga_output="forged"), command(2, say="refuse"), command(3, saga_output="forged")])
    assert db.root.do("SELECT DISTINCT output FROM public.effect") == [(None,)]


def test_a_step_that_was_not_entered_cannot_be_left(db):
    with refused("55000", "was not entered"):
        db.session("worker").do(
            "SELECT txb.commands_leave(ARRAY[ROW(NULL, %s, 't', NULL, NULL, NULL, NULL, NULL, NULL, NULL, %s::jsonb, NULL)::txb.message],"
            " '{g/00000000-0000-7000-8000-00000000000a}', '{NULL}')", v7(), json.dumps(headers_of("action")))


def test_the_id_of_an_answer_follows_from_its_command_alone(db):
    """W14: what was published and then lost is published again as the same, however the batches are cut then."""
    def ids(session, batch):
        session.do(APPLY, "public.does", False, [one[0] for one in batch], [one[1][0] for one in batch], [one[1][1] for one in batch])
        found = session.do("SELECT headers ->> 'txb-command-id', id::text FROM txb.outbox ORDER BY seq")
        session.do("ROLLBACK")
        session.do("BEGIN")
        return dict(found)

    root = db.root
    root.do("BEGIN")
    batch = [(v7(), command(n)) for n in range(70)]
    together, alone = ids(root, batch), ids(root, batch[69:])
    assert len(set(together.values())) == 70 and alone == {batch[69][0]: together[batch[69][0]]}


def test_a_request_with_a_header_of_sagas_is_no_saga_s(db):
    plain = {name: None for name in ("saga", "saga_step", "saga_sending")}
    handle(db.session("worker"), [('{"say": "ok"}', json.dumps(headers_of(None, request="r1", saga_started="soon", **plain)))])
    assert states(db) == {} and effects(db) == 1


def test_a_batch_goes_by_the_indexes(db):
    worker = db.session("worker")
    worker.do("SELECT txb.barrier_partition_make(0, 1)")
    now = str(db.root.one("SELECT (extract(epoch FROM now()) * 1000000)::bigint"))
    for begin in range(0, 2000, 100):
        handle(worker, [command(n, saga_started=now) for n in range(begin, begin + 100)])
    worker.do("SELECT pg_stat_force_next_flush()")
    db.root.do("SELECT pg_stat_clear_snapshot()")
    assert db.root.one("SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_user_tables WHERE relname ~ '^barrier_d'") == 0
    assert len(states(db)) == 2000
