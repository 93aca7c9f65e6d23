"""The barrier: what each operation of a command does in each state, what is recorded and answered, and many at once."""

import json
import random
import threading
import uuid

import pytest
from commandstest import (APPLY, OUTPUT_SIZE_MAX, SAGA, answer, answers, bad_headers, bring_to, effects, headers_of, output_of, recorded, send,
                          too_large, with_handler)
from sqltest import V7, refused


@pytest.fixture
def db(bare):
    return with_handler(bare)


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


@pytest.mark.parametrize("operation,before,said,then", [
    ("action", "none", "refused", ("refused", None, too_large(OUTPUT_SIZE_MAX + 1))),
    ("forward", "none", "refused", None),
    ("compensation", "ok", "failed", ("ok", {"id": 7}, None)),
])
def test_an_output_that_no_answer_can_carry_is_a_refusal(db, operation, before, said, then):
    worker = db.session("worker")
    bring_to(worker, before)
    had = effects(db)
    send(worker, operation, output=output_of(OUTPUT_SIZE_MAX + 1))
    assert answer(db) == {"answer": said, "reason": too_large(OUTPUT_SIZE_MAX + 1)}
    assert effects(db) == had and recorded(db) == then
    send(worker, operation)
    assert answer(db)["answer"] == {"action": "refused", "forward": "ok", "compensation": "compensated"}[operation], "an action's is for good"


@pytest.mark.parametrize("operation,before,said", [("action", "none", "ok"), ("forward", "none", "ok"), ("compensation", "ok", "compensated")])
def test_the_largest_output_is_answered_with_and_recorded(db, operation, before, said):
    worker, largest = db.session("worker"), output_of(OUTPUT_SIZE_MAX)
    bring_to(worker, before)
    send(worker, operation, output=largest)
    assert answer(db) == {"answer": said, "output": largest}
    assert recorded(db)[1] == (largest if operation != "compensation" else {"id": 7})
    send(worker, "action")
    assert answer(db) == {"answer": said, **({"output": largest} if operation != "compensation" else {})}


def test_an_output_is_measured_as_an_answer_carries_it(db):
    """Seven bytes become a hundred thousand digits."""
    db.root.do("CREATE FUNCTION public.counts(m txb.message) RETURNS txb.outcome LANGUAGE sql AS"
               " $$ SELECT txb.ok(jsonb_agg('1e99999'::numeric)) FROM generate_series(1, 10) $$")
    plain = {name: None for name in ("saga", "saga_started", "saga_step", "saga_sending")}
    send(db.session("worker"), None, handler="public.counts", request="r1", **plain)
    assert answer(db) == {"answer": "refused", "reason": too_large(10 * 100_000 + 9 * 2 + 2)}


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
    send(worker, None, output=output_of(1_200_000), request="r4", **plain)
    assert answer(db) == {"answer": "refused", "reason": too_large(1_200_000)} and len(effects(db)) == 2
    send(worker, None, output=output_of(OUTPUT_SIZE_MAX), request="r5", **plain)
    assert answer(db) == {"answer": "ok", "output": output_of(OUTPUT_SIZE_MAX)}


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
