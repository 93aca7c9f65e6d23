"""What the tests of commands share: a handler that does as its payload says, commands that come to it, and what the barrier
recorded and answered."""

import json

from sqltest import V7

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


def with_handler(db):
    """A database without partitions becomes one for commands."""
    db.root.do("SELECT txb.partition_make(1000000, 1)")
    db.root.do(HANDLER)
    return db


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


OUTPUT_SIZE_MAX = 999_963  # bytes of an output's JSON text, as the guide says


def output_of(size):
    """An output whose JSON text has so many bytes, and fewer characters."""
    return {"é": "ü" * ((size - 10) // 2) + "x" * (size % 2)}


def too_large(size):
    return f"its output has {size} bytes, at most {OUTPUT_SIZE_MAX} are allowed"


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


def started(db, day):
    """Noon of a day from today, as in the header."""
    return db.root.one(
        "SELECT (extract(epoch FROM date_trunc('day', now(), 'UTC') + (%s + 0.5) * interval '1 day') * 1000000)::bigint::text", day
    )
