-- Commands of a batch together: what txb.command_apply does for one (0023), with a statement for all of them where that is
-- the same. Most are actions that come for the first time, and whose handlers say ok.
--
--   txb.commands_apply(messages txb.message[], deliveries text[], handler text, of_array boolean) returns int
--       handles commands in their order, answers them, and returns how many there were. deliveries: what is set as
--       txb.delivery while each of them is handled. Always all of them, or an error, as of txb.command_apply
--   txb.commands_enter(headers jsonb[]) returns boolean[]
--       takes those steps to the end of the transaction that are new; true: the handler is to be called, and its ok told to
--       txb.commands_leave; false: the command is one for txb.command_enter, when its turn comes
--   txb.commands_leave(messages txb.message[], deliveries text[], outputs jsonb[]) returns void
--       records and answers commands that were entered so, and whose handlers said ok. An answer's id follows from its
--       command's delivery (W14), with the ordinal 0, which nothing else has
--
-- Handlers run in one subtransaction for many, until one of them refuses: what they did is undone then, and from there on
-- each has its own, as in txb.command_apply. A handler may so be called twice for a command that does not come alone, and
-- its first call leaves nothing.
--
-- A crash before COMMIT leaves neither effects nor records nor answers of the batch, and its commands come again; after it:
-- all of them.

SET LOCAL ROLE txb_owner;

-- STABLE, as the sum of a time and an interval is: declared as more, it would not be inlined, and be parsed at each call.
CREATE OR REPLACE FUNCTION txb.saga_time(headers jsonb) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
RETURN '1970-01-01 00:00:00+00'::timestamptz + (headers ->> 'txb-saga-started')::bigint * interval '1 microsecond';

-- As in 0004, for the same reason: as a query it would be parsed at each call.
CREATE OR REPLACE FUNCTION txb.uuid_v7_derive(base uuid, group_name text, message_id uuid, ordinal bigint) RETURNS uuid
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
  h bytea := sha256(int8send(octet_length(group_name)) || convert_to(group_name, 'UTF8')
                    || int8send(36) || convert_to(message_id::text, 'UTF8')
                    || int8send(octet_length(ordinal::text)) || convert_to(ordinal::text, 'UTF8'));
BEGIN
  RETURN (substr(base::text, 1, 19) || to_hex(8 | (get_byte(h, 0) >> 4 & 3)) || substr(encode(h, 'hex'), 2, 15))::uuid;
END
$$;

CREATE FUNCTION txb.commands_enter(headers jsonb[]) RETURNS boolean[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp SET jit = off
AS $$
#variable_conflict use_column
DECLARE
  problem text;
  fresh boolean[];
BEGIN
  SELECT txb.command_problem(u.h) INTO problem FROM unnest(headers) AS u (h) WHERE txb.command_problem(u.h) IS NOT NULL LIMIT 1;
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION 'a command that can''t be read: %', problem
      USING ERRCODE = '22023', HINT = 'Commands of sagas are made by the coordinator; what else wants an answer has no header txb-saga.';
  END IF;
  -- Sorted, so that two batches with steps in common don't deadlock (S8). Only the first of a step: what the others are to
  -- do follows from it.
  WITH command AS MATERIALIZED (
    SELECT u.nth, u.h ? 'txb-saga' AS of_saga, u.h ->> 'txb-saga-operation' AS operation,
           CASE WHEN u.h ? 'txb-saga' THEN txb.saga_time(u.h) END AS started_at, (u.h ->> 'txb-saga')::uuid AS saga_id, u.h ->> 'txb-saga-step' AS step
      FROM unnest(headers) WITH ORDINALITY AS u (h, nth)
  ), wanted AS MATERIALIZED (
    SELECT f.*
      FROM (SELECT DISTINCT ON (c.saga_id, c.step, c.started_at) c.*
              FROM command AS c WHERE c.of_saga ORDER BY c.saga_id, c.step, c.started_at, c.nth) AS f
     WHERE f.operation IN ('action', 'forward')
  ), entered AS (
    INSERT INTO txb.barrier AS b (started_at, saga_id, step)
    SELECT w.started_at, w.saga_id, w.step FROM wanted AS w ORDER BY w.saga_id, w.step, w.started_at
    ON CONFLICT DO NOTHING RETURNING b.started_at, b.saga_id, b.step
  ), new AS (
    SELECT w.nth FROM wanted AS w JOIN entered AS e ON e.saga_id = w.saga_id AND e.step = w.step COLLATE "C" AND e.started_at = w.started_at
  )
  SELECT array_agg(NOT c.of_saga OR n.nth IS NOT NULL ORDER BY c.nth) INTO fresh
    FROM command AS c LEFT JOIN new AS n ON n.nth = c.nth;
  -- As in txb.command_enter: not before, since only now nobody drops a day any more.
  SELECT u.h ->> 'txb-saga' INTO problem
    FROM unnest(headers) AS u (h)
   WHERE CASE WHEN u.h ? 'txb-saga' THEN txb.saga_time(u.h) END < (SELECT o.at FROM txb.barrier_horizon AS o) LIMIT 1;
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION 'saga % began before what the barrier remembers: whether this was done is not known', problem
      USING ERRCODE = 'TXB04', HINT = 'Look at the effects, then tell the coordinator: txbroker saga mark.';
  END IF;
  RETURN fresh;
END
$$;
COMMENT ON FUNCTION txb.commands_enter(jsonb[]) IS
  'Takes the steps of commands that come for the first time to the end of the transaction; true: its handler is to be '
  'called. The others are left to txb.command_enter. TXB04: a saga is older than the barrier';

CREATE FUNCTION txb.commands_leave(messages txb.message[], deliveries text[], outputs jsonb[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp SET jit = off
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
  problem text;
  recorded int;
BEGIN
  -- Sixteen digits are the fewest that may be too many.
  SELECT txb.json_number_problem(u.output, 'the output') INTO problem
    FROM unnest(messages, outputs) AS u (source, id, topic, partition, "offset", key, type, "time", payload, content_type, headers, attempt, output)
   WHERE u.headers ? 'txb-saga' AND u.output::text ~ '[0-9.]{16}' AND txb.json_number_problem(u.output, 'the output') IS NOT NULL LIMIT 1;
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION '%', problem USING ERRCODE = '22003';
  END IF;
  UPDATE txb.barrier AS b
     SET state = 'ok', output = d.output
    FROM (SELECT (u.headers ->> 'txb-saga')::uuid AS saga_id, u.headers ->> 'txb-saga-step' AS step,
                 CASE WHEN u.headers ? 'txb-saga' THEN txb.saga_time(u.headers) END AS started_at, u.output
            FROM unnest(messages, outputs) AS u (source, id, topic, partition, "offset", key, type, "time", payload, content_type, headers, attempt, output)
           WHERE u.headers ? 'txb-saga' OFFSET 0) AS d
   WHERE b.saga_id = d.saga_id AND b.step = d.step AND b.started_at = d.started_at AND b.state = 'never';
  GET DIAGNOSTICS recorded = ROW_COUNT;
  IF recorded <> (SELECT count(*) FROM unnest(messages) AS u WHERE u.headers ? 'txb-saga') THEN
    RAISE EXCEPTION 'txb.commands_leave: a step was not entered in this transaction' USING ERRCODE = '55000';
  END IF;
  -- Straight into the outbox, whose trigger looks at the limits: nothing here has a time, an order or a missing id, which is
  -- what txb.publish_many is there for. The numbers are drawn above the sort.
  INSERT INTO txb.outbox (id, topic, key, type, payload, content_type, headers)
  SELECT a.id, a.topic, a.key, 'txb.reply', a.payload, 'application/json', a.headers
    FROM (SELECT txb.uuid_v7_derive(u.id, left(u.delivery, -37), u.id, 0) AS id, u.headers ->> 'txb-reply-to' AS topic,
                 -- A foreign key may be longer than ours; its answer goes without.
                 CASE WHEN u.headers ? 'txb-saga' THEN u.headers ->> 'txb-saga'
                      WHEN octet_length(txb.key_text(u.key)) <= 1024 THEN txb.key_text(u.key) END AS key,
                 convert_to((CASE WHEN u.output IS NULL THEN jsonb_build_object('answer', 'ok')
                                  ELSE jsonb_build_object('answer', 'ok', 'output', u.output) END)::text, 'UTF8') AS payload,
                 jsonb_strip_nulls(jsonb_build_object(
                   'txb-saga', u.headers -> 'txb-saga', 'txb-saga-started', u.headers -> 'txb-saga-started',
                   'txb-saga-step', u.headers -> 'txb-saga-step', 'txb-saga-operation', u.headers -> 'txb-saga-operation',
                   'txb-saga-sending', u.headers -> 'txb-saga-sending', 'txb-request', u.headers -> 'txb-request',
                   'txb-command-id', u.id, 'txb-command-topic', u.topic)) AS headers
            FROM unnest(messages, outputs, deliveries) WITH ORDINALITY
                 AS u (source, id, topic, partition, "offset", key, type, "time", payload, content_type, headers, attempt,
                       output, delivery, nth)
           ORDER BY u.nth) AS a;
END
$$;
COMMENT ON FUNCTION txb.commands_leave(txb.message[], text[], jsonb[]) IS
  'Records at the barrier, and answers, commands that txb.commands_enter let run and whose handlers said ok';

-- The text that calls a handler for each of the messages $1, in their order, with the deliveries $2. In plpgsql, since a query
-- would be planned at each call.
CREATE FUNCTION txb.commands_call_text(handler text, of_array boolean) RETURNS text
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
  called CONSTANT text := 'CASE WHEN pg_catalog.set_config(''txb.delivery'', $2[g.n], true) IS NOT NULL'
                          ' AND pg_catalog.set_config(''txb.ordinal'', ''0'', true) IS NOT NULL THEN $1[g.n] END';
BEGIN
  RETURN 'SELECT pg_catalog.array_agg(s.said) FROM (SELECT '
      || CASE WHEN of_array THEN format(
           '(SELECT CASE WHEN pg_catalog.count(*) = 1 THEN (pg_catalog.array_agg(h))[1] ELSE ROW(''error'', NULL, ''the handler gave '' || pg_catalog.count(*)'
           ' || '' outcomes for 1 message: it must give one for each'', NULL)::txb.outcome END FROM %s(ARRAY[%s]) AS h)', handler, called)
              ELSE format('%s(%s)', handler, called) END
      || ' AS said FROM pg_catalog.generate_series(1, pg_catalog.cardinality($1)) AS g (n) OFFSET 0) AS s';
END
$$;
COMMENT ON FUNCTION txb.commands_call_text(text, boolean) IS
  'The statement that calls a handler for each of many commands, within its delivery (W14)';

-- One that was entered already. What its handler wrote before it refused is undone, and only that.
CREATE FUNCTION txb.command_run(m txb.message, call text, delivery text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
  said txb.outcome[];
  one txb.outcome;
BEGIN
  m.headers := m.headers - 'txb-saga-output'; -- the barrier says it, and nobody else
  BEGIN
    EXECUTE call INTO said USING ARRAY[m], ARRAY[delivery];
    one := said[1];
    IF one.outcome = 'refuse' THEN
      RAISE EXCEPTION USING ERRCODE = 'TXB06', MESSAGE = coalesce(one.reason, 'no reason given');
    END IF;
  EXCEPTION WHEN SQLSTATE 'TXB06' THEN
    one := ROW('refuse', NULL, sqlerrm, NULL);
  END;
  CASE one.outcome
    WHEN 'ok' THEN
      PERFORM txb.command_leave(m, 'ok', one.output, NULL, true);
    WHEN 'refuse' THEN
      PERFORM txb.command_leave(m, 'refused', NULL, one.reason, true);
    ELSE
      PERFORM txb.not_ok(m."offset", one);
  END CASE;
END
$$;
COMMENT ON FUNCTION txb.command_run(txb.message, text, text) IS
  'Calls the handler for one command that txb.commands_enter let run, undoes what it wrote if it refuses, and answers it';

-- As txb.command_apply, the handler runs with the rights of the worker.
CREATE FUNCTION txb.commands_apply(messages txb.message[], deliveries text[], handler text, of_array boolean) RETURNS int
LANGUAGE plpgsql
AS $$
DECLARE
  together CONSTANT int := 64; -- so much is done twice, at most, when one refuses
  call text := txb.commands_call_text(handler, of_array);
  fresh boolean[] := txb.commands_enter(ARRAY(SELECT m.headers FROM pg_catalog.unnest(messages) AS m));
  total int := pg_catalog.cardinality(messages);
  first int := 1;
  past int;
  part txb.message[];
  said txb.outcome[];
  one txb.outcome;
  m txb.message;
  refused boolean := false;
BEGIN
  WHILE first <= total LOOP
    IF NOT fresh[first] OR refused THEN
      PERFORM pg_catalog.set_config('txb.delivery', deliveries[first], true), pg_catalog.set_config('txb.ordinal', '0', true);
      IF NOT fresh[first] THEN
        PERFORM txb.command_apply(messages[first], handler, of_array);
      ELSE
        PERFORM txb.command_run(messages[first], call, deliveries[first]);
      END IF;
      first := first + 1;
      CONTINUE;
    END IF;
    past := first + 1;
    WHILE past <= total AND past - first < together AND fresh[past] LOOP
      past := past + 1;
    END LOOP;
    part := ARRAY(SELECT ROW(u.source, u.id, u.topic, u.partition, u."offset", u.key, u.type, u."time", u.payload, u.content_type,
                             u.headers - 'txb-saga-output', u.attempt)::txb.message
                    FROM pg_catalog.unnest(messages[first : past - 1]) AS u);
    BEGIN
      EXECUTE call INTO said USING part, deliveries[first : past - 1];
      FOR i IN 1 .. pg_catalog.cardinality(part) LOOP
        one := said[i];
        IF one.outcome = 'refuse' THEN
          RAISE EXCEPTION USING ERRCODE = 'TXB06', MESSAGE = coalesce(one.reason, 'no reason given');
        ELSIF one.outcome IS DISTINCT FROM 'ok' THEN
          m := part[i];
          PERFORM txb.not_ok(m."offset", one);
        END IF;
      END LOOP;
      PERFORM txb.commands_leave(part, deliveries[first : past - 1], ARRAY(SELECT s.output FROM pg_catalog.unnest(said) AS s));
      first := past;
    EXCEPTION WHEN SQLSTATE 'TXB06' THEN
      IF past - first = 1 THEN -- it is known who
        PERFORM pg_catalog.set_config('txb.delivery', deliveries[first], true), pg_catalog.set_config('txb.ordinal', '0', true);
        PERFORM txb.command_leave(part[1], 'refused', NULL, sqlerrm, true);
        first := past;
      ELSE
        refused := true; -- each for itself from here on
      END IF;
    END;
  END LOOP;
  RETURN total;
END
$$;
COMMENT ON FUNCTION txb.commands_apply(txb.message[], text[], text, boolean) IS
  'Calls the handler (a quoted name, of a message or of an array of them) for commands where the barrier lets it, in '
  'their order, and publishes the answers; returns how many there were';

GRANT EXECUTE ON FUNCTION
  txb.commands_apply(txb.message[], text[], text, boolean),
  txb.commands_call_text(text, boolean),
  txb.command_run(txb.message, text, text),
  txb.commands_enter(jsonb[]),
  txb.commands_leave(txb.message[], text[], jsonb[])
TO txb_worker;

RESET ROLE;
