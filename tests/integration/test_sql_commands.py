"""Commands behind the barrier: what each operation does in each state, what is recorded and answered; commands that fail;
days."""

import json
import random
import threading
import uuid

import pytest
from sqltest import V7, refused
from test_sql_failed import OPEN, add, aside, failed, item, mark, settle

SAGA = "00000000-0000-4000-8000-00000000000a"
# What it was told in its payload: an effect in a table, unless it is told otherwise, and then an answer.
HANDLER = """
CREATE TABLE public.effect (n int GENERATED ALWAYS AS IDENTITY, operation text, output jsonb);
GRANT INSERT ON public.effect TO PUBLIC;
CREATE FUNCTION public.does(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
DECLARE
  say text := convert_from(m.payload, 'UTF8')::jsonb ->> 'say';
BEGIN
  INSERT INTO public.effect (operation, output)
  VALUES (m.headers ->> 'txb-saga-operation', m.headers -> 'txb-saga-output');
  IF say = 'raise' THEN
    RAISE division_by_zero;
  END IF;
  RETURN CASE say WHEN 'refuse' THEN txb.refuse('no money') WHEN 'retry' THEN txb.retry(interval '2 s', 'busy')
                  WHEN 'dead' THEN txb.dead('broken') WHEN 'none' THEN NULL
                  ELSE txb.ok(convert_from(m.payload, 'UTF8')::jsonb -> 'output') END;
END $$;
CREATE FUNCTION public.does_all(ms txb.message[]) RETURNS SETOF txb.outcome LANGUAGE sql AS
  $$ SELECT public.does(m) FROM unnest(ms) AS m, generate_series(1, (convert_from(m.payload, 'UTF8')::jsonb ->> 'times')::int) $$;
"""
APPLY = (
    "SELECT CASE txb.commands_apply(ARRAY[ROW('bank', %s, 'pay', 3, 70, %s, 'pay.do', now(), %s, 'application/json', %s::jsonb, 1)"
    "::txb.message], ARRAY['g/00000000-0000-7000-8000-00000000000a'], %s, %s) WHEN 1 THEN 'ok' END"
)


@pytest.fixture
def db(bare):
    bare.root.do("SELECT txb.partition_make(1000000, 1)")
    bare.root.do(HANDLER)
    return bare


def headers_of(operation, **more):
    """A value of None: without that header."""
    headers = {
        "txb-reply-to": "answers",
        "txb-saga": SAGA,
        "txb-saga-started": "1700000000000000",
        "txb-saga-step": "pay",
        "txb-saga-operation": operation,
        "txb-saga-sending": "1",
        **{"txb-" + name.replace("_", "-"): value for name, value in more.items()},
    }
    return {name: value for name, value in headers.items() if value is not None}


def send(session, operation, say="ok", output=None, handler="public.does", key=SAGA.encode(), **more):
    """A command comes, and is handled."""
    payload = json.dumps({"say": say, **({} if output is None else {"output": output})})
    headers = json.dumps(headers_of(operation, **more))
    assert session.one(APPLY, V7, key, payload.encode(), headers, handler, False) == "ok"


def answers(db):
    """All that were published, in order."""
    return [
        json.loads(payload) for (payload,) in db.root.do("SELECT convert_from(payload, 'UTF8') FROM txb.outbox ORDER BY seq")
    ]


def answer(db):
    """The last one."""
    return answers(db)[-1]


def effects(db):
    return [row[0] for row in db.root.do("SELECT operation FROM public.effect ORDER BY n")]


def recorded(db):
    row = db.root.do("SELECT state, output, reason FROM txb.barrier")
    assert len(row) <= 1
    return row[0] if row else None


def bring_to(session, state):
    if state == "never":
        send(session, "resolve")
    elif state == "refused":
        send(session, "action", "refuse")
    elif state in ("ok", "compensated"):
        send(session, "action", output={"id": 7})
    if state == "compensated":
        send(session, "compensation")


OUTPUT, REASON = {"output": {"id": 7}}, {"reason": "no money"}
# (state, operation) -> (its answer, whether the handler ran, the state then)
TABLE = {
    ("none", "action"): ({"answer": "ok"}, True, "ok"),
    ("none", "forward"): ({"answer": "ok"}, True, "ok"),
    ("none", "resolve"): ({"answer": "never"}, False, "never"),
    ("none", "compensation"): ({"answer": "compensated"}, False, "never"),
    ("never", "action"): ({"answer": "never"}, False, "never"),
    ("never", "forward"): ({"answer": "never"}, False, "never"),
    ("never", "resolve"): ({"answer": "never"}, False, "never"),
    ("never", "compensation"): ({"answer": "compensated"}, False, "never"),
    ("ok", "action"): ({"answer": "ok", **OUTPUT}, False, "ok"),
    ("ok", "forward"): ({"answer": "ok", **OUTPUT}, False, "ok"),
    ("ok", "resolve"): ({"answer": "ok", **OUTPUT}, False, "ok"),
    ("ok", "compensation"): ({"answer": "compensated"}, True, "compensated"),
    ("refused", "action"): ({"answer": "refused", **REASON}, False, "refused"),
    ("refused", "forward"): ({"answer": "refused", **REASON}, False, "refused"),
    ("refused", "resolve"): ({"answer": "refused", **REASON}, False, "refused"),
    ("refused", "compensation"): ({"answer": "compensated"}, False, "refused"),
    ("compensated", "action"): ({"answer": "compensated"}, False, "compensated"),
    ("compensated", "forward"): ({"answer": "compensated"}, False, "compensated"),
    ("compensated", "resolve"): ({"answer": "compensated"}, False, "compensated"),
    ("compensated", "compensation"): ({"answer": "compensated"}, False, "compensated"),
}


# ---- the barrier ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state,operation", list(TABLE))
def test_each_operation_in_each_state(db, state, operation):
    worker = db.session("worker")
    bring_to(worker, state)
    before = effects(db)
    send(worker, operation)
    expected, ran, then = TABLE[state, operation]
    assert answer(db) == expected
    assert effects(db) == before + ([operation] if ran else [])
    assert recorded(db)[0] == then


def test_what_an_answer_looks_like(db):
    send(db.session("worker"), "action", output=[1, None], saga_sending="4")
    row = db.root.row("SELECT topic, key, type, content_type, headers FROM txb.outbox")
    assert row == {
        "topic": "answers",
        "key": SAGA,
        "type": "txb.reply",
        "content_type": "application/json",
        "headers": {
            "txb-saga": SAGA,
            "txb-saga-started": "1700000000000000",
            "txb-saga-step": "pay",
            "txb-saga-operation": "action",
            "txb-saga-sending": "4",
            "txb-command-id": V7,
            "txb-command-topic": "pay",
        },
    }
    assert answer(db) == {"answer": "ok", "output": [1, None]}
    assert recorded(db) == ("ok", [1, None], None)


@pytest.mark.parametrize("operation,before", [("action", "none"), ("forward", "none"), ("compensation", "ok")])
def test_what_a_handler_wrote_before_it_refused_is_undone_and_nothing_else(db, operation, before):
    worker = db.session("worker")
    bring_to(worker, before)
    had = effects(db)
    worker.do("BEGIN")
    worker.do("INSERT INTO public.effect (operation) VALUES ('another one of the batch')")
    send(worker, operation, "refuse")
    worker.do("COMMIT")
    assert effects(db) == had + ["another one of the batch"]
    assert answer(db) == {"answer": "failed" if operation == "compensation" else "refused", **REASON}


def test_a_refusal_of_an_action_is_recorded(db):
    send(db.session("worker"), "action", "refuse")
    assert recorded(db) == ("refused", None, "no money")


def test_what_goes_forward_records_only_success_and_can_be_tried_again(db):
    worker = db.session("worker")
    for sending in ("1", "2"):
        send(worker, "forward", "refuse", saga_sending=sending)
        assert recorded(db) is None and answer(db)["answer"] == "refused"
    send(worker, "forward", output=1)
    assert recorded(db) == ("ok", 1, None) and effects(db) == ["forward"]
    send(worker, "forward", "refuse")
    assert answer(db) == {"answer": "ok", "output": 1}


def test_a_compensation_records_only_success_and_can_be_tried_again(db):
    worker = db.session("worker")
    bring_to(worker, "ok")
    send(worker, "compensation", "refuse")
    assert answer(db) == {"answer": "failed", **REASON} and recorded(db) == ("ok", {"id": 7}, None)
    send(worker, "action")
    assert answer(db) == {"answer": "ok", **OUTPUT}, "it still stands"
    send(worker, "compensation", output="undone")
    assert answer(db) == {"answer": "compensated", "output": "undone"}
    assert recorded(db) == ("compensated", {"id": 7}, None) and effects(db) == ["action", "compensation"]


def test_what_goes_forward_and_is_to_be_left_out_is_settled_and_never_runs_any_more(db):
    """Nobody knows whether one of its sendings is still to come."""
    worker = db.session("worker")
    send(worker, "forward", "refuse", saga_sending="1")
    send(worker, "resolve", saga_sending="2")
    assert answer(db) == {"answer": "never"} and recorded(db) == ("never", None, None)
    send(worker, "forward", saga_sending="1")
    assert answer(db) == {"answer": "never"} and effects(db) == []


@pytest.mark.parametrize("say,settled", [("ok", {"answer": "ok", "output": 1}), ("refuse", {"answer": "never"})])
def test_who_asks_what_became_of_what_goes_forward_waits_for_its_end(db, say, settled):
    one, other = db.session("worker", transaction=True), db.session("worker")
    send(one, "forward", say, output=1)
    running = other.start(APPLY, V7, b"k", b"{}", json.dumps(headers_of("resolve")), "public.does", False)
    db.wait_until_waiting(other)
    one.do("COMMIT")
    running.finish()
    assert answer(db) == settled and effects(db) == (["forward"] if say == "ok" else [])


def test_a_command_with_another_payload_is_the_same_operation(db):
    """A person edits what has not taken effect; what has is not done again, whatever it says."""
    worker = db.session("worker")
    send(worker, "forward", "refuse", saga_sending="1")
    send(worker, "forward", output="edited", saga_sending="2")
    assert answer(db) == {"answer": "ok", "output": "edited"} and effects(db) == ["forward"]
    send(worker, "forward", output="edited again", saga_sending="3")
    send(worker, "forward", "refuse", saga_sending="1")
    assert answers(db)[-2:] == 2 * [{"answer": "ok", "output": "edited"}] and effects(db) == ["forward"]


def test_a_compensation_with_another_payload_is_the_same_operation(db):
    worker = db.session("worker")
    bring_to(worker, "ok")
    send(worker, "compensation", "refuse", saga_sending="2")
    send(worker, "compensation", output="edited", saga_sending="3")
    assert answer(db) == {"answer": "compensated", "output": "edited"} and recorded(db)[0] == "compensated"
    send(worker, "compensation", "raise", saga_sending="2")
    assert answer(db) == {"answer": "compensated"} and effects(db) == ["action", "compensation"]


@pytest.mark.parametrize("output", [{"id": 7}, [1], "text", 0, False, None])
def test_a_compensation_is_handed_the_output_of_its_action(db, output):
    """By the barrier: nobody else may say what is to be undone (S4)."""
    worker = db.session("worker")
    send(worker, "action", output=output)
    send(worker, "compensation", saga_output="forged")
    assert db.root.one("SELECT output FROM public.effect WHERE operation = 'compensation'") == output


def test_an_action_and_its_compensation_in_one_transaction(db):
    """As in one batch of a worker, with a repetition of each."""
    worker = db.session("worker", transaction=True)
    for operation in ("action", "action", "compensation", "action", "compensation"):
        send(worker, operation)
    worker.do("COMMIT")
    assert effects(db) == ["action", "compensation"]
    assert [one["answer"] for one in answers(db)] == ["ok", "ok", "compensated", "compensated", "compensated"]


def test_steps_and_sagas_do_not_know_each_other(db):
    worker = db.session("worker")
    for more in ({}, {"saga_step": "Pay"}, {"saga": SAGA[:-1] + "b"}, {"saga_started": "1700000000000001"}):
        send(worker, "action", **more)
    assert len(effects(db)) == 4
    assert {one["answer"] for one in answers(db)} == {"ok"}


@pytest.mark.parametrize("first,second", [("action", "action"), ("action", "compensation"), ("compensation", "action")])
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_the_second_of_two_at_once_waits_for_the_end_of_the_first(db, first, second, end):
    one, other = db.session("worker", transaction=True), db.session("worker")
    send(one, first)
    payload, headers = b"{}", json.dumps(headers_of(second))
    running = other.start(APPLY, V7, b"k", payload, headers, "public.does", False)
    db.wait_until_waiting(other)
    one.do(end)
    running.finish()
    last = answer(db)["answer"]
    if end == "ROLLBACK":
        assert effects(db) == ([second] if second == "action" else [])
        assert last == ("ok" if second == "action" else "compensated")
    elif (first, second) == ("action", "compensation"):
        assert effects(db) == ["action", "compensation"] and last == "compensated"
    else:
        assert effects(db) == (["action"] if first == "action" else [])
        assert last == ("ok" if first == "action" else "never")


def test_a_transaction_that_does_not_commit_leaves_nothing(db):
    worker = db.session("worker", transaction=True)
    send(worker, "action")
    worker.do("ROLLBACK")
    assert effects(db) == [] and recorded(db) is None and answers(db) == []


NULL = []  # stands for a JSON null
BAD = [
    ("txb-reply-to", ""),
    ("txb-reply-to", "a b"),
    ("txb-reply-to", ".."),
    ("txb-reply-to", "a" * 250),
    ("txb-reply-to", {"base64": "AA=="}),
    ("txb-request", {"base64": "AA=="}),
    ("txb-request", "x" * 1025),
    ("txb-saga", ""),
    ("txb-saga", "A" + SAGA[1:]),
    ("txb-saga", {"base64": "AA=="}),
    ("txb-saga-started", None),
    ("txb-saga-started", ""),
    ("txb-saga-started", "-1"),
    ("txb-saga-started", "1.5"),
    ("txb-saga-started", "\u0661"),
    ("txb-saga-started", "1" * 19),
    ("txb-saga-started", 5),
    ("txb-saga-step", None),
    ("txb-saga-step", ""),
    ("txb-saga-step", "ä" * 128),
    ("txb-saga-step", 5),
    ("txb-saga-operation", None),
    ("txb-saga-operation", "Action"),
    ("txb-saga-sending", 1),
    ("txb-saga-sending", "1" * 256),
    *[(name, NULL) for name in ("txb-reply-to", "txb-request", "txb-saga", "txb-saga-started", "txb-saga-step")],
]


def bad_headers():
    for name, value in BAD:
        headers = headers_of("action")
        headers[name] = None if value is NULL else value
        if value is None:
            del headers[name]
        yield name, headers


def test_a_header_that_cannot_be_read_is_named(db):
    worker = db.session("worker")
    for name, headers in bad_headers():
        with refused("22023", name + " is not"):
            worker.do(APPLY, V7, b"k", b"{}", json.dumps(headers), "public.does", False)
    assert effects(db) == [] and recorded(db) is None


def test_what_an_answer_has_to_carry_fits_at_its_widest(db):
    """Whatever gets through at the barrier can be answered: a command that is given up is answered in a trigger."""
    wide = {"saga_step": "\x01" * 255, "saga_sending": "\x01" * 255, "request": "\x01" * 1024, "reply_to": "a" * 249}
    send(db.session("worker"), "action", key=b"\xff" * 600, **wide)
    send(db.session("worker"), None, key=b"\xff" * 600, saga=None, saga_started=None, saga_step=None, saga_sending=None)
    assert db.root.do("SELECT key FROM txb.outbox ORDER BY seq") == [(SAGA,), (None,)]


@pytest.mark.parametrize(
    "say,words", [("retry", "outcome=retry after_ms=2000: busy"), ("dead", "outcome=dead"), ("none", "outcome=null")]
)
def test_another_outcome_is_the_workers_and_leaves_nothing(db, say, words):
    worker = db.session("worker")
    with refused("TXB02", "offset=70 " + words):
        send(worker, "action", say)
    assert effects(db) == [] and recorded(db) is None and answers(db) == []


def test_an_exception_of_a_handler_is_the_workers_and_leaves_nothing(db):
    worker = db.session("worker")
    with refused("22012"):
        send(worker, "action", "raise")
    assert effects(db) == [] and recorded(db) is None and answers(db) == []
    bring_to(worker, "ok")
    with refused("22012"):
        send(worker, "compensation", "raise")
    assert effects(db) == ["action"] and recorded(db)[0] == "ok"


@pytest.mark.parametrize("times", [0, 1, 2])
def test_a_handler_of_a_batch_gets_one_command_and_gives_one_outcome(db, times):
    worker = db.session("worker")
    payload, headers = json.dumps({"times": times}).encode(), json.dumps(headers_of("action"))
    if times == 1:
        assert worker.one(APPLY, V7, b"k", payload, headers, "public.does_all", True) == "ok"
        assert effects(db) == ["action"] and recorded(db)[0] == "ok"
        return
    with refused("TXB02", f"outcome=error after_ms=0: the handler gave {times} outcomes for 1 message"):
        worker.do(APPLY, V7, b"k", payload, headers, "public.does_all", True)
    assert effects(db) == [] and recorded(db) is None


def test_what_is_not_of_a_saga_is_answered_each_time(db):
    worker = db.session("worker")
    plain = {name: None for name in ("saga", "saga_started", "saga_step", "saga_sending")}
    send(worker, None, output=1, request="r1", key=b"a", **plain)
    send(worker, None, "refuse", request="r2", key=b"\xff", **plain)
    send(worker, None, key=None, **plain)
    assert answers(db) == [{"answer": "ok", "output": 1}, {"answer": "refused", **REASON}, {"answer": "ok"}]
    common = {"txb-command-id": V7, "txb-command-topic": "pay"}
    assert db.root.do("SELECT key, headers FROM txb.outbox ORDER BY seq") == [
        ("a", {"txb-request": "r1", **common}),
        ("\\xff", {"txb-request": "r2", **common}),
        (None, common),
    ]
    assert len(effects(db)) == 2 and recorded(db) is None


def test_the_handler_has_the_rights_of_the_worker_and_its_search_path(db):
    db.root.do(
        "CREATE FUNCTION public.who(m txb.message) RETURNS txb.outcome LANGUAGE sql AS "
        "$$ SELECT txb.ok(to_jsonb(current_user || ' ' || current_setting('search_path'))) $$"
    )
    worker = db.session("worker")
    worker.do("SET search_path = shop, public")
    send(worker, "action", handler="public.who")
    assert answer(db)["output"] == "login_worker shop, public"


def test_operators_of_others_in_the_search_path_are_not_taken(db):
    """A more exact one than pg_catalog's would be, with the worker's rights."""
    db.root.do(
        "CREATE FUNCTION public.evil(text, int) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'evil'; END $$;"
        "CREATE OPERATOR public.|| (LEFTARG = text, RIGHTARG = int, FUNCTION = public.evil)"
    )
    with refused("TXB02", "the handler gave 2 outcomes"):
        db.session("worker").do(APPLY, V7, b"k", b'{"times": 2}', json.dumps(headers_of("action")), "public.does_all", True)


def test_a_step_that_was_not_entered_cannot_be_left(db):
    """Else an effect without a record commits."""
    with refused("55000", "was not entered"):
        db.session("worker").do(
            "SELECT txb.command_leave(ROW(NULL, %s, 't', NULL, NULL, NULL, NULL, NULL, NULL, NULL, %s::jsonb, NULL)"
            "::txb.message, 'ok', NULL, NULL, true)",
            V7,
            json.dumps(headers_of("action")),
        )


def test_the_barrier_goes_by_its_index_though_it_was_planned_when_it_was_empty(db):
    worker = db.session("worker")
    db.root.do("SELECT txb.barrier_partition_make(0, 1)")
    db.root.do("ANALYZE txb.barrier")
    now = db.root.one("SELECT (extract(epoch FROM now()) * 1000000)::bigint::text")
    for n in range(12):
        for operation in ("action", "compensation"):
            send(worker, operation, saga_started=now, saga_step=f"s{n}")
    scans = "SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_user_tables WHERE relname ~ '^barrier_d'"
    worker.do("SELECT pg_stat_force_next_flush()")
    db.root.do("SELECT pg_stat_clear_snapshot()")
    assert db.root.one(scans) == 0


# ---- at once --------------------------------------------------------------------------------------------------------

ROUNDS = """
CREATE TABLE public.stock (saga uuid, delta int);
GRANT INSERT, SELECT ON public.stock TO PUBLIC;
CREATE FUNCTION public.move(m txb.message) RETURNS txb.outcome LANGUAGE sql AS $$
  INSERT INTO public.stock (saga, delta) VALUES ((m.headers ->> 'txb-saga')::uuid,
    CASE m.headers ->> 'txb-saga-operation' WHEN 'action' THEN 1 ELSE -1 END)
  RETURNING txb.ok(to_jsonb(delta)) $$;
CREATE FUNCTION public.move_once(saga uuid, operation text) RETURNS void LANGUAGE sql AS $$
  SELECT txb.commands_apply(ARRAY[ROW('bank', txb.uuid_v7(), 'move', 0, 0, NULL, 'move', now(), '', NULL,
    jsonb_build_object('txb-reply-to', 'answers', 'txb-saga', saga, 'txb-saga-started', '1700000000000000',
                       'txb-saga-step', 'move', 'txb-saga-operation', operation), 1)::txb.message], ARRAY['g/' || txb.uuid_v7()],
    'public.move', false) $$;
-- Each in a transaction of its own; one whose worker dies before the COMMIT comes again.
CREATE PROCEDURE public.rounds(sagas uuid[], operations text[], dies boolean[]) LANGUAGE plpgsql AS $$
BEGIN
  FOR n IN 1 .. cardinality(sagas) LOOP
    IF dies[n] THEN
      PERFORM public.move_once(sagas[n], operations[n]);
      ROLLBACK;
    END IF;
    PERFORM public.move_once(sagas[n], operations[n]);
    COMMIT;
  END LOOP;
END $$;
"""
COMMANDS = ("action", "action", "compensation", "compensation")
SIZE, BATCH = 10000, 250


def run_rounds(sessions, batches):
    """batches: for each, and for each session, the arguments of public.rounds. All sessions begin a batch together."""
    gate, errors = threading.Barrier(len(sessions)), []

    def run(place):
        try:
            for batch in batches:
                gate.wait(60)
                sessions[place].do("CALL public.rounds(%s::uuid[], %s, %s)", *batch[place])
        except Exception as error:  # pylint: disable=broad-except
            errors.append(error)
            gate.abort()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(sessions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_an_effect_at_most_once_and_never_left_standing_in_all_orders_at_once(db):
    """Action, duplicate, compensation and duplicate of 10,000 sagas, one each in four sessions that race through them."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    db.root.do(ROUNDS)
    sessions = [db.session("worker") for _ in COMMANDS]
    batches = []
    for _ in range(SIZE // BATCH):
        sagas = [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(BATCH)]
        orders = [rng.sample(COMMANDS, len(COMMANDS)) for _ in sagas]
        batches.append(
            [(sagas, [order[place] for order in orders], [rng.random() < 0.1 for _ in sagas]) for place in range(4)]
        )
    run_rounds(sessions, batches)
    db.root.do("ANALYZE")
    assert db.root.one("SELECT count(*) FROM txb.outbox") == 4 * SIZE
    assert db.root.one("SELECT count(*) FROM txb.barrier") == SIZE
    moved = "SELECT saga FROM public.stock GROUP BY saga"
    assert db.root.do(moved + " HAVING count(*) FILTER (WHERE delta = 1) <> 1") == [], "an effect twice, or undone without one"
    assert db.root.do(moved + " HAVING sum(delta) <> 0") == [], "an effect is left standing"
    # The barrier's lock is held from before an answer gets its number to the commit: a saga's answers lie in their order.
    wrong = db.root.do(
        """
        SELECT key, array_agg(operation || '=' || answer ORDER BY seq)
          FROM (SELECT seq, key, headers ->> 'txb-saga-operation' AS operation,
                       convert_from(payload, 'UTF8')::jsonb ->> 'answer' AS answer FROM txb.outbox) AS o
          LEFT JOIN (SELECT DISTINCT saga::text FROM public.stock) AS s ON s.saga = o.key
         GROUP BY key, s.saga
        HAVING NOT array_to_string(array_agg(operation || '=' || answer ORDER BY seq), ' ') ~
          CASE WHEN s.saga IS NULL
               THEN '^compensation=compensated( action=never| compensation=compensated){3}$'
               ELSE '^action=ok( action=ok)?( compensation=compensated)( action=compensated| compensation=compensated)*$' END"""
    )
    assert wrong == []
    first = dict(db.root.do("SELECT state, count(*) FROM txb.barrier GROUP BY state"))
    assert set(first) == {"never", "compensated"} and min(first.values()) > SIZE // 10, first


# ---- commands that fail ---------------------------------------------------------------------------------------------


def command_item(offset, operation="action", state="dead", **more):
    headers = more.pop("headers", None) or headers_of(operation)
    return item(offset, key=b"k", state=state, holds=False, headers=json.dumps(headers), **more)


def test_a_command_that_is_dead_at_once_is_answered_with_it(db):
    worker = db.session("worker")
    db.take(worker)
    aside(worker, 1, command_item(0))
    assert answers(db) == [{"answer": "refused", "reason": "given up after 1 attempts: no money"}]
    assert recorded(db) == ("refused", None, "given up after 1 attempts: no money")
    row = db.root.row("SELECT topic, key, headers FROM txb.outbox")
    assert row["topic"] == "answers" and row["key"] == SAGA
    assert row["headers"]["txb-command-id"] == str(item(0)["id"]) and row["headers"]["txb-command-topic"] == "t"


def test_a_batch_that_is_rolled_back_answers_nothing(db):
    worker = db.session("worker", transaction=True)
    db.take(worker)
    worker.do(OPEN, 1, 0, 1, 1, V7, 0)
    add(worker, command_item(0))
    worker.do("ROLLBACK")
    assert answers(db) == [] and recorded(db) is None


@pytest.mark.parametrize(
    "before,operation,expected,then",
    [
        ("none", "action", "refused", "refused"),
        ("none", "forward", "refused", None),
        ("none", "compensation", "compensated", "never"),
        ("ok", "action", "ok", "ok"),
        ("ok", "compensation", "failed", "ok"),
        ("compensated", "action", "compensated", "compensated"),
        ("never", "action", "never", "never"),
    ],
)
def test_what_a_command_that_is_given_up_answers(db, before, operation, expected, then):
    """At its last attempt: what is recorded already, else that it took no effect; a compensation, that the effect stands."""
    worker = db.session("worker")
    bring_to(worker, before)
    count = len(answers(db))
    db.take(worker)
    aside(worker, 1, command_item(0, operation, "retrying"))
    assert len(answers(db)) == count, "it is tried again"
    assert mark(worker) == [0]
    settle(worker, db, {0: "dead"})
    assert [one["answer"] for one in answers(db)[count:]] == [expected]
    assert recorded(db) == then if then is None else recorded(db)[0] == then


@pytest.mark.parametrize("state", ["retrying", "dead"])
def test_a_command_that_is_discarded_is_answered_once(db, state):
    worker, admin = db.session("worker"), db.session("admin")
    db.take(worker)
    aside(worker, 1, command_item(0, state=state))
    assert len(answers(db)) == (state == "dead")
    number = db.root.one("SELECT number FROM txb.failed")
    admin.do("SELECT txb.failed_discard(ARRAY[%s]::bigint[], 'hal', 'no use')", number)
    reason = "given up" if state == "dead" else "discarded by a person"
    assert answers(db) == [{"answer": "refused", "reason": reason + " after 1 attempts: no money"}]


def test_a_command_that_is_retried_after_it_was_given_up_answers_what_is_recorded(db):
    worker, admin = db.session("worker"), db.session("admin")
    db.take(worker)
    aside(worker, 1, command_item(0))
    admin.do("SELECT txb.failed_retry(ARRAY(SELECT number FROM txb.failed), 'hal')")
    send(worker, "action")
    assert answers(db)[0] == answers(db)[1] and effects(db) == []
    # Should it die once more, it says so once more.
    assert mark(worker) == [0]
    settle(worker, db, {0: "dead"}, version=db.root.one("SELECT keys_version FROM txb.consumer_offset"))
    assert [one["reason"] for one in answers(db)] == ["given up after 1 attempts: no money"] * 3


def test_a_compensation_that_is_retried_after_it_was_given_up_runs(db):
    worker = db.session("worker")
    bring_to(worker, "ok")
    db.take(worker)
    aside(worker, 1, command_item(0, "compensation"))
    send(worker, "compensation")
    assert [one["answer"] for one in answers(db)] == ["ok", "failed", "compensated"]
    assert effects(db) == ["action", "compensation"]


def test_what_cannot_be_answered_does_not_keep_a_message_from_dying(db):
    """Else one message from anybody stops its partition for ever."""
    worker = db.session("worker")
    db.take(worker)
    aside(worker, 1, *[command_item(n, headers=headers) for n, (_, headers) in enumerate(bad_headers())])
    assert answers(db) == [] and set(failed(db).values()) == {"dead"} and len(failed(db)) == len(BAD)


def test_messages_that_want_no_answer_die_as_ever(db):
    worker = db.session("worker")
    db.take(worker)
    aside(worker, 1, item(0, state="dead"), item(1, key=None, state="dead", headers=None))
    assert answers(db) == []


def test_a_request_that_is_given_up_is_answered(db):
    worker = db.session("worker")
    db.take(worker)
    aside(worker, 1, command_item(0, headers={"txb-reply-to": "r", "txb-request": "7"}))
    assert answers(db) == [{"answer": "refused", "reason": "given up after 1 attempts: no money"}]
    assert recorded(db) is None


def test_a_command_that_kafka_does_not_take_is_told_as_undeliverable(db):
    relay, app = db.session("relay"), db.session("app")
    db.acquire(relay)
    app.do("SELECT txb.publish('pay', %s, 'pay.do', '{}'::jsonb, %s::jsonb)", SAGA, json.dumps(headers_of("action")))
    fail = "SELECT txb.relay_record_failed('bank', 1, '00000000-0000-4000-8000-000000000001', 1, 'MSG_SIZE_TOO_LARGE', 'big')"
    relay.do(fail)
    relay.do(fail)
    found = [one for one in answers(db) if "answer" in one]
    assert found == [{"answer": "undeliverable", "reason": "given up after 1 attempts: big"}]
    assert recorded(db) is None, "nobody has seen it"


# ---- days -----------------------------------------------------------------------------------------------------------


def started(db, day):
    """Noon of a day from today, as in the header."""
    return db.root.one(
        "SELECT (extract(epoch FROM date_trunc('day', now(), 'UTC') + (%s + 0.5) * interval '1 day') * 1000000)::bigint::text", day
    )


def days(db):
    """The partitions' days from today, the default left out."""
    return [
        row[0]
        for row in db.root.do(
            "SELECT round(extract(epoch FROM first - date_trunc('day', now(), 'UTC')) / 86400)::int "
            "FROM txb.day_partitions('txb.barrier') WHERE first IS NOT NULL ORDER BY first"
        )
    ]


def where(db, day):
    return db.root.one(
        "SELECT tableoid::regclass::text FROM txb.barrier WHERE started_at = txb.saga_time(jsonb_build_object("
        "'txb-saga-started', %s::text))",
        started(db, day),
    )


def test_sagas_fall_into_their_days_and_others_into_the_default(db):
    worker = db.session("worker")
    assert worker.one("SELECT txb.barrier_partition_make(2, 2)") == 5
    assert worker.one("SELECT txb.barrier_partition_make(2, 2)") == 0
    assert days(db) == [-2, -1, 0, 1, 2]
    for day in (-400, -2, 0, 2, 400):
        send(worker, "action", saga_started=started(db, day))
        assert (where(db, day) == "txb.barrier_default") == (abs(day) > 2)


def test_a_day_that_is_made_later_takes_over_its_rows_and_they_are_still_known(db):
    worker = db.session("worker")
    db.root.do("SET timezone = 'Asia/Kathmandu'")
    for day in (4, 9):
        send(worker, "action", saga_started=started(db, day), output=day)
    worker.do("SET timezone = 'America/St_Johns'")
    assert worker.one("SELECT txb.barrier_partition_make(0, 5)") == 6
    assert days(db) == [0, 1, 2, 3, 4, 5]
    assert where(db, 4) != "txb.barrier_default" == where(db, 9)
    send(worker, "action", saga_started=started(db, 4))
    assert answer(db) == {"answer": "ok", "output": 4} and len(effects(db)) == 2


def test_a_partition_is_stored_as_the_default_is(db):
    db.root.do("SELECT txb.barrier_partition_make(0, 0), txb.saga_partition_make(0, 0)")
    rows = db.root.do("SELECT relname, reloptions FROM pg_class WHERE relname ~ '_d[0-9]{8}$' AND relkind = 'r'")
    assert {name[:-10]: options for name, options in rows} == {
        "barrier": ["fillfactor=60"],
        "saga": None,
        "saga_event": None,
        "saga_end": None,
    }


def test_making_and_dropping_come_back_later_when_a_batch_is_open(db):
    batch, other = db.session("worker", transaction=True), db.session("worker")
    send(batch, "action")
    with refused("55P03"):
        other.do("SELECT txb.barrier_partition_make(0, 1)")
    with refused("55P03"):
        other.do("SELECT txb.barrier_partition_drop(interval '2 days')")
    batch.do("COMMIT")
    assert other.one("SELECT txb.barrier_partition_make(0, 1)") == 2


def test_old_days_are_dropped_and_commands_of_their_sagas_refused(db):
    worker = db.session("worker")
    worker.do("SELECT txb.barrier_partition_make(10, 1)")
    assert worker.one("SELECT txb.barrier_horizon()::text") == "-infinity"
    for day in (-300, -9, -7):
        send(worker, "action", saga_started=started(db, day))
    assert worker.one("SELECT txb.barrier_partition_drop(interval '8 days')") == 2
    assert days(db)[0] == -8
    assert db.root.one("SELECT txb.barrier_horizon() = date_trunc('day', now(), 'UTC') - interval '8 days'")
    count = len(answers(db))
    for day in (-300, -9, -20):
        for operation in ("action", "forward", "resolve", "compensation"):
            with refused("TXB04", "before what the barrier remembers", "saga mark"):
                send(worker, operation, saga_started=started(db, day))
    assert len(answers(db)) == count and db.root.one("SELECT count(*) FROM txb.barrier") == 1 and len(effects(db)) == 3
    send(worker, "action", saga_started=started(db, -7))
    assert len(effects(db)) == 3, "still known"
    assert worker.one("SELECT txb.barrier_partition_drop(interval '8 days')") == 0
    assert worker.one("SELECT txb.barrier_partition_drop(interval '30 days')") == 0, "the horizon never sinks"
    assert worker.one("SELECT txb.barrier_partition_make(10, 1)") == 0, "nothing is made below the horizon again"


def test_a_command_that_waits_while_its_day_is_dropped_is_refused(db):
    """It would be the first in the default, and take its effect a second time."""
    worker, dropper = db.session("worker"), db.session("worker", transaction=True)
    worker.do("SELECT txb.barrier_partition_make(10, 1)")
    send(worker, "action", saga_started=started(db, -9))
    dropper.do("SELECT txb.barrier_partition_drop(interval '8 days')")
    headers = json.dumps(headers_of("action", saga_started=started(db, -9)))
    running = worker.start(APPLY, V7, b"k", b"{}", headers, "public.does", False)
    db.wait_until_waiting(worker)
    dropper.do("COMMIT")
    with refused("TXB04"):
        running.finish()
    assert effects(db) == ["action"] and recorded(db) is None


def test_a_command_older_than_the_barrier_dies_without_an_answer(db):
    """What happened to it is not known, and must not be said."""
    worker = db.session("worker")
    worker.do("SELECT txb.barrier_partition_drop(interval '8 days')")
    db.take(worker)
    aside(worker, 1, command_item(0, headers=headers_of("action", saga_started=started(db, -20))))
    assert answers(db) == [] and recorded(db) is None


@pytest.mark.parametrize("back,ahead", [(-1, 1), (1, -1), (367, 1), (None, 1)])
def test_days_are_checked(db, back, ahead):
    with refused("22023", "txb.barrier_partition_make: days_back and days_ahead"):
        db.root.do("SELECT txb.barrier_partition_make(%s, %s)", back, ahead)


def test_a_shorter_keep_is_refused(db):
    for keep in ("1 minute", None):
        with refused("22023", "at least one hour"):
            db.root.do("SELECT txb.barrier_partition_drop(%s::interval)", keep)
