-- Commands: messages that want an answer. A saga's are done at most once whatever comes twice, late or in another order:
-- the barrier, in the database of the participant, in the transaction of the effect.
--
--   txb.command_apply(m txb.message, handler text, of_array boolean) returns txb.outcome
--       calls the handler where the barrier lets it, and publishes the answer; the worker's statements call it for a
--       message with a header txb-reply-to. Always ok, or an error: then the message fails as any other
--   txb.command_enter(headers jsonb) returns (runs boolean, answer text, output jsonb, reason text)
--   txb.command_leave(m txb.message, said text, output jsonb, reason text, ran boolean) returns void
--       the two halves, for handlers that are no function of the database (plugins)
--   txb.barrier_partition_make(days_back int, days_ahead int) returns int     the number made; 55P03: try again
--   txb.barrier_partition_drop(keep interval) returns int                     the number dropped; 55P03: try again
--   txb.barrier_horizon() returns timestamptz
--       commands of sagas that began before it are refused; -infinity: nothing was dropped yet
--
-- A command's headers (texts all): txb-reply-to, a topic, and either txb-request, an id that is given back, or
--
--   txb-saga            id of the saga; also the key of the command and of its answer
--   txb-saga-started    when it began, microseconds since 1970: which partition of the barrier is its
--   txb-saga-step       which step
--   txb-saga-operation  action, forward (an action behind the point of no return), resolve, compensation
--   txb-saga-sending    which sending of the step; given back
--
-- The answer is published in the same transaction, with these headers but txb-reply-to, with txb-command-id and
-- txb-command-topic, type txb.reply and the payload {"answer": ..., "output": ..., "reason": ...}:
--
--   ok           the action took effect; output is what its handler gave, be it long ago
--   refused      it said no, and had no effect; or it ran out of attempts
--   never        it has not run, and will not: somebody asked to resolve it, or to compensate it, before it came
--   compensated  about an action: it was compensated since. About a compensation: nothing of the action stands
--   failed       the compensation said no, or ran out of attempts: the effect stands
--   undeliverable  Kafka does not take the command: nobody has seen it, unless a person has it published after all
--
-- The barrier has one row for a step. Who inserts it has it to himself until the transaction ends: an action and its
-- compensation that come at once wait for each other there. What is recorded (S4): of an action ok or refused, of what
-- goes forward and of a compensation only that it succeeded, so that it can be tried again.
--
-- A crash before COMMIT leaves neither effect nor record nor answer, and the command comes again. After it: all three.

SET LOCAL ROLE txb_owner;

CREATE TABLE txb.barrier (
  started_at timestamptz NOT NULL,
  saga_id uuid NOT NULL,
  step text COLLATE "C" NOT NULL CONSTRAINT barrier_step CHECK (octet_length(step) BETWEEN 1 AND 255),
  state text NOT NULL DEFAULT 'never'
    CONSTRAINT barrier_state CHECK (state IN ('never', 'ok', 'refused', 'compensated')),
  output jsonb,
  reason text,
  CONSTRAINT barrier_key PRIMARY KEY (saga_id, step, started_at)
) PARTITION BY RANGE (started_at);
COMMENT ON TABLE txb.barrier IS 'What became of each step of a saga in this database: nothing is done twice, or after it was undone';
COMMENT ON COLUMN txb.barrier.started_at IS 'When the saga began';
COMMENT ON COLUMN txb.barrier.saga_id IS 'The saga';
COMMENT ON COLUMN txb.barrier.step IS 'Its step';
COMMENT ON COLUMN txb.barrier.state IS
  'ok: the action took effect. refused: it said no. compensated: it took effect and was undone. never: it has not run, '
  'and will not';
COMMENT ON COLUMN txb.barrier.output IS 'What the action gave; its compensation is handed it';
COMMENT ON COLUMN txb.barrier.reason IS 'Why it was refused';
COMMENT ON CONSTRAINT barrier_key ON txb.barrier IS 'One row a step';
COMMENT ON INDEX txb.barrier_key IS 'One row a step';
COMMENT ON CONSTRAINT barrier_step ON txb.barrier IS 'step: 1 to 255 bytes';
COMMENT ON CONSTRAINT barrier_state ON txb.barrier IS 'state: never, ok, refused or compensated';

-- Rows are inserted and updated once, in one transaction: the room keeps that within the page, and away from the index.
CREATE TABLE txb.barrier_default PARTITION OF txb.barrier DEFAULT WITH (fillfactor = 60);
COMMENT ON TABLE txb.barrier_default IS 'Sagas of days that have no partition';
COMMENT ON COLUMN txb.barrier_default.started_at IS 'As in txb.barrier';
COMMENT ON COLUMN txb.barrier_default.saga_id IS 'As in txb.barrier';
COMMENT ON COLUMN txb.barrier_default.step IS 'As in txb.barrier';
COMMENT ON COLUMN txb.barrier_default.state IS 'As in txb.barrier';
COMMENT ON COLUMN txb.barrier_default.output IS 'As in txb.barrier';
COMMENT ON COLUMN txb.barrier_default.reason IS 'As in txb.barrier';
COMMENT ON CONSTRAINT barrier_default_pkey ON txb.barrier_default IS 'As in txb.barrier';
COMMENT ON INDEX txb.barrier_default_pkey IS 'As in txb.barrier';
COMMENT ON CONSTRAINT barrier_step ON txb.barrier_default IS 'As in txb.barrier';
COMMENT ON CONSTRAINT barrier_state ON txb.barrier_default IS 'As in txb.barrier';

CREATE TABLE txb.barrier_horizon (
  one boolean DEFAULT true CONSTRAINT barrier_horizon_one PRIMARY KEY CONSTRAINT barrier_horizon_is_one CHECK (one),
  at timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO txb.barrier_horizon DEFAULT VALUES;
COMMENT ON TABLE txb.barrier_horizon IS 'One row: how far back the barrier remembers';
COMMENT ON COLUMN txb.barrier_horizon.one IS 'Always true';
COMMENT ON COLUMN txb.barrier_horizon.at IS 'Sagas that began before it were dropped, and their commands are refused';
COMMENT ON CONSTRAINT barrier_horizon_one ON txb.barrier_horizon IS 'One row';
COMMENT ON INDEX txb.barrier_horizon_one IS 'One row';
COMMENT ON CONSTRAINT barrier_horizon_is_one ON txb.barrier_horizon IS 'One row';

CREATE FUNCTION txb.barrier_horizon() RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$ SELECT h.at FROM txb.barrier_horizon AS h $$;
COMMENT ON FUNCTION txb.barrier_horizon() IS
  'Commands of sagas that began before this are refused; -infinity: nothing was dropped yet';

-- ---- days ----------------------------------------------------------------------------------------------------------

-- Bounds are read from the catalog: FOR VALUES FROM ('2026-01-31 00:00:00+00') TO (...). In what zone they are shown
-- does not matter to the cast.
CREATE FUNCTION txb.day_partitions(parent regclass) RETURNS TABLE (name text, first timestamptz, past timestamptz)
LANGUAGE sql STABLE
AS $$
  SELECT c.relname::text,
         (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''([^'']+)''\)'))[1]::timestamptz,
         (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']+)''\)'))[1]::timestamptz
    FROM pg_catalog.pg_inherits AS i
    JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
   WHERE i.inhparent = parent
$$;
COMMENT ON FUNCTION txb.day_partitions(regclass) IS
  'The partitions of a table that is partitioned by the day; the default has no bounds';

CREATE FUNCTION txb.days_missing(parent text, first date, last date, horizon timestamptz) RETURNS TABLE (day date)
LANGUAGE sql VOLATILE
AS $$
  SELECT d.at::date FROM generate_series(first::timestamp, last::timestamp, interval '1 day') AS d (at)
   WHERE d.at AT TIME ZONE 'UTC' >= horizon
     AND NOT EXISTS (SELECT FROM txb.day_partitions(format('txb.%I', parent)::regclass) AS p
                      WHERE p.first = d.at AT TIME ZONE 'UTC')
$$;
COMMENT ON FUNCTION txb.days_missing(text, date, date, timestamptz) IS
  'The days from first to last, not below the horizon, for which a table has no partition';

-- As txb.inbox_partition_make, for a table that is partitioned by its column started_at; stored as its default is.
CREATE FUNCTION txb.day_partitions_make(parent text, days_back int, days_ahead int, horizon timestamptz) RETURNS int
LANGUAGE plpgsql SET lock_timeout = '200ms'
AS $$
DECLARE
  day date;
  today date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
  first timestamptz;
  past timestamptz;
  name text;
  made int := 0;
  options text := (SELECT ' WITH (' || array_to_string(c.reloptions, ', ') || ')' FROM pg_catalog.pg_class AS c
                    WHERE c.oid = format('txb.%I', parent || '_default')::regclass);
BEGIN
  IF days_back IS NULL OR days_back NOT BETWEEN 0 AND 366 OR days_ahead IS NULL OR days_ahead NOT BETWEEN 0 AND 366 THEN
    RAISE EXCEPTION 'txb.%_partition_make: days_back and days_ahead are 0 to 366', parent USING ERRCODE = '22023';
  END IF;
  IF NOT EXISTS (SELECT FROM txb.days_missing(parent, today - days_back, today + days_ahead, horizon)) THEN
    RETURN 0;
  END IF;
  -- Against everybody: who has planned a query without the new partition, and waits for the default, would afterwards find
  -- the rows that are moved in neither. The parent first and the default last, as ATTACH does: an order that dropping keeps.
  EXECUTE format('LOCK TABLE ONLY txb.%I IN ACCESS EXCLUSIVE MODE', parent);
  FOR day IN SELECT m.day FROM txb.days_missing(parent, today - days_back, today + days_ahead, horizon) AS m LOOP
    first := day::timestamp AT TIME ZONE 'UTC';
    past := (day + 1)::timestamp AT TIME ZONE 'UTC';
    name := parent || '_d' || to_char(day, 'YYYYMMDD');
    EXECUTE format('CREATE TABLE txb.%I (LIKE txb.%I INCLUDING DEFAULTS INCLUDING INDEXES INCLUDING CONSTRAINTS'
                   ' INCLUDING STORAGE INCLUDING COMMENTS)%s', name, parent, options);
    EXECUTE format('COMMENT ON TABLE txb.%I IS %L', name,
                   'Partition of txb.' || parent || ': sagas that began on that day, UTC');
    EXECUTE format('REVOKE ALL ON TYPE txb.%I FROM PUBLIC', name);
    -- Rows of this day in the default would make ATTACH fail for ever, and one saga from a fast clock is enough (W7).
    EXECUTE format('LOCK TABLE txb.%I IN ACCESS EXCLUSIVE MODE', parent || '_default');
    EXECUTE format('WITH moved AS (DELETE FROM txb.%I AS d WHERE d.started_at >= $1 AND d.started_at < $2 RETURNING d.*)'
                   ' INSERT INTO txb.%I SELECT m.* FROM moved AS m', parent || '_default', name) USING first, past;
    EXECUTE format('ALTER TABLE txb.%I ATTACH PARTITION txb.%I FOR VALUES FROM (%L) TO (%L)', parent, name, first, past);
    made := made + 1;
  END LOOP;
  RETURN made;
END
$$;
COMMENT ON FUNCTION txb.day_partitions_make(text, int, int, timestamptz) IS
  'Makes the daily partitions of a table that are missing around today and not below the horizon, and moves the '
  'default''s rows of those days there';

CREATE FUNCTION txb.barrier_partition_make(days_back int, days_ahead int) RETURNS int
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$ SELECT txb.day_partitions_make('barrier', days_back, days_ahead, txb.barrier_horizon()) $$;
COMMENT ON FUNCTION txb.barrier_partition_make(int, int) IS
  'Makes the daily partitions of txb.barrier that are missing around today. 55P03: try again. Returns the number made';

CREATE FUNCTION txb.barrier_partition_drop(keep interval) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp SET lock_timeout = '200ms'
AS $$
DECLARE
  limit_at timestamptz;
  one record;
  dropped int := 0;
BEGIN
  IF keep IS NULL OR keep < interval '1 hour' THEN
    RAISE EXCEPTION 'txb.barrier_partition_drop: keep is %, at least one hour is needed', keep USING ERRCODE = '22023';
  END IF;
  -- Whole days only.
  limit_at := date_trunc('day', (clock_timestamp() - keep) AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
  IF limit_at <= txb.barrier_horizon() THEN
    RETURN 0;
  END IF;
  LOCK TABLE ONLY txb.barrier IN ACCESS EXCLUSIVE MODE;
  LOCK TABLE txb.barrier_default IN ACCESS EXCLUSIVE MODE;
  -- Once more under the lock: another one, with a shorter keep, may have raised the horizon meanwhile. It never sinks.
  IF limit_at <= txb.barrier_horizon() THEN
    RETURN 0;
  END IF;
  FOR one IN SELECT p.name FROM txb.day_partitions('txb.barrier') AS p WHERE p.past <= limit_at ORDER BY p.first LOOP
    EXECUTE format('DROP TABLE txb.%I', one.name);
    dropped := dropped + 1;
  END LOOP;
  DELETE FROM txb.barrier_default AS d WHERE d.started_at < limit_at;
  UPDATE txb.barrier_horizon AS h SET at = limit_at;
  RETURN dropped;
END
$$;
COMMENT ON FUNCTION txb.barrier_partition_drop(interval) IS
  'Drops the days that are over for longer than keep, and refuses commands of their sagas from then on. 55P03: try '
  'again. Returns the number dropped';

-- ---- the barrier ---------------------------------------------------------------------------------------------------

-- Both halves go by the index, whatever the planner knew when their statements were planned: a day grows from none to a
-- million rows while a worker's session lasts. A scan that has no index looks dear then, and must not be compiled (20 ms).

CREATE FUNCTION txb.saga_time(headers jsonb) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '1970-01-01 00:00:00+00'::timestamptz + (headers ->> 'txb-saga-started')::bigint * interval '1 microsecond';
COMMENT ON FUNCTION txb.saga_time(jsonb) IS 'When the saga of a command began';

-- What gets through here can be answered: a command that is given up is, in a trigger that must not fail.
CREATE FUNCTION txb.command_problem(headers jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
  WHEN coalesce(headers ->> 'txb-reply-to', '') !~ '^[a-zA-Z0-9._-]{1,249}$' OR headers ->> 'txb-reply-to' IN ('.', '..')
    THEN 'txb-reply-to is not a topic'
  WHEN coalesce(jsonb_typeof(headers -> 'txb-request'), 'string') <> 'string'
       OR octet_length(headers ->> 'txb-request') > 1024
    THEN 'txb-request is not a text of at most 1024 bytes'
  WHEN NOT headers ? 'txb-saga' THEN NULL
  WHEN coalesce(headers ->> 'txb-saga', '') !~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN 'txb-saga is not a UUID'
  WHEN coalesce(headers ->> 'txb-saga-started', '') !~ '^[0-9]{1,18}$'
       OR jsonb_typeof(headers -> 'txb-saga-started') <> 'string'
    THEN 'txb-saga-started is not a number of microseconds'
  WHEN octet_length(coalesce(headers ->> 'txb-saga-step', '')) NOT BETWEEN 1 AND 255
       OR jsonb_typeof(headers -> 'txb-saga-step') <> 'string'
    THEN 'txb-saga-step is not a text of 1 to 255 bytes'
  WHEN coalesce(headers ->> 'txb-saga-operation', '') NOT IN ('action', 'forward', 'resolve', 'compensation')
    THEN 'txb-saga-operation is not action, forward, resolve or compensation'
  WHEN coalesce(jsonb_typeof(headers -> 'txb-saga-sending'), 'string') <> 'string'
       OR octet_length(headers ->> 'txb-saga-sending') > 255
    THEN 'txb-saga-sending is not a text of at most 255 bytes'
END;
COMMENT ON FUNCTION txb.command_problem(jsonb) IS 'What is wrong with a command''s headers; null: nothing';

CREATE FUNCTION txb.command_enter(headers jsonb, OUT runs boolean, OUT answer text, OUT output jsonb, OUT reason text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp SET enable_seqscan = off SET jit = off
AS $$
#variable_conflict use_column
DECLARE
  started timestamptz;
  saga uuid;
  named text := headers ->> 'txb-saga-step';
  operation text := headers ->> 'txb-saga-operation';
  is_first boolean;
  was record;
BEGIN
  IF txb.command_problem(headers) IS NOT NULL THEN
    RAISE EXCEPTION 'a command that can''t be read: %', txb.command_problem(headers)
      USING ERRCODE = '22023', HINT = 'Commands of sagas are made by the coordinator; what else wants an answer has no header txb-saga.';
  END IF;
  runs := true;
  IF NOT headers ? 'txb-saga' THEN
    RETURN;
  END IF;
  started := txb.saga_time(headers);
  saga := headers ->> 'txb-saga';
  -- Who finds the row there waits for the transaction that made it.
  INSERT INTO txb.barrier AS b (started_at, saga_id, step) VALUES (started, saga, named) ON CONFLICT DO NOTHING;
  is_first := FOUND;
  -- Not before: only now nobody drops a day any more. Whose day was dropped while it waited would else be the first.
  IF started < (SELECT h.at FROM txb.barrier_horizon AS h) THEN
    RAISE EXCEPTION 'saga % began at %, which is before what the barrier remembers: whether this was done is not known',
      saga, started USING ERRCODE = 'TXB04', HINT = 'Look at the effects, then tell the coordinator: txbroker saga mark.';
  END IF;
  IF is_first THEN
    runs := operation IN ('action', 'forward');
    answer := CASE operation WHEN 'resolve' THEN 'never' WHEN 'compensation' THEN 'compensated' END;
    RETURN;
  END IF;
  SELECT b.state, b.output, b.reason INTO STRICT was
    FROM txb.barrier AS b WHERE b.saga_id = saga AND b.step = named AND b.started_at = started FOR UPDATE;
  runs := operation = 'compensation' AND was.state = 'ok';
  answer := CASE WHEN runs THEN NULL WHEN operation = 'compensation' THEN 'compensated' ELSE was.state END;
  IF operation <> 'compensation' AND was.state = 'ok' OR runs THEN
    output := was.output;
  ELSIF operation <> 'compensation' AND was.state = 'refused' THEN
    reason := was.reason;
  END IF;
END
$$;
COMMENT ON FUNCTION txb.command_enter(jsonb) IS
  'Takes the step of a command to the end of the transaction. runs: its handler is to be called, a compensation''s with '
  'the output of its action; else the answer is known. Without a saga: it runs. TXB04: its saga is older than the barrier';

-- The coordinator carries numbers as integers of 64 bits and as binary fractions. Others would come out of it as other
-- numbers, or not at all; amounts of money are among them.
CREATE FUNCTION txb.json_number_problem(value jsonb, path text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE SET extra_float_digits = 1
AS $$
  SELECT path || ' holds the number ' || left(n.v::text, 40) || ', which has too many digits: give it as a text'
    FROM (SELECT q.v::numeric AS v FROM jsonb_path_query(value, 'strict $.** ? (@.type() == "number")') AS q (v)) AS n
   WHERE NOT CASE WHEN scale(n.v) = 0 THEN n.v BETWEEN -9223372036854775808 AND 9223372036854775807
                  WHEN abs(n.v) NOT BETWEEN 1e-300 AND 1e300 THEN n.v = 0
                  ELSE n.v::float8::text::numeric = n.v END
   LIMIT 1
$$;
COMMENT ON FUNCTION txb.json_number_problem(jsonb, text) IS
  'The first number in a JSON value that a saga can''t carry; null: it carries all of them. path: what the value is called';

-- The row is the caller's, by txb.command_enter in the same transaction, when a handler ran.
CREATE FUNCTION txb.command_leave(m txb.message, said text, output jsonb, reason text, ran boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp SET enable_seqscan = off SET jit = off
AS $$
#variable_conflict use_column
DECLARE
  h jsonb := m.headers;
  operation text := h ->> 'txb-saga-operation';
  answer text := CASE WHEN NOT ran OR operation IS DISTINCT FROM 'compensation' THEN said
                      WHEN said = 'ok' THEN 'compensated' ELSE 'failed' END;
  key text := coalesce(h ->> 'txb-saga', txb.key_text(m.key));
BEGIN
  IF ran AND h ? 'txb-saga' THEN
    IF txb.json_number_problem(command_leave.output, 'the output') IS NOT NULL THEN
      RAISE EXCEPTION '%', txb.json_number_problem(command_leave.output, 'the output') USING ERRCODE = '22003';
    END IF;
    IF operation = 'forward' AND answer <> 'ok' THEN
      DELETE FROM txb.barrier AS b
       WHERE b.saga_id = (h ->> 'txb-saga')::uuid AND b.step = h ->> 'txb-saga-step' AND b.started_at = txb.saga_time(h);
    ELSIF answer <> 'failed' THEN
      UPDATE txb.barrier AS b
         SET state = answer, output = CASE WHEN answer = 'ok' THEN command_leave.output ELSE b.output END,
             reason = command_leave.reason
       WHERE b.saga_id = (h ->> 'txb-saga')::uuid AND b.step = h ->> 'txb-saga-step' AND b.started_at = txb.saga_time(h);
    END IF;
    IF answer <> 'failed' AND NOT FOUND THEN
      RAISE EXCEPTION 'txb.command_leave: step % of saga % was not entered in this transaction', h ->> 'txb-saga-step',
        h ->> 'txb-saga' USING ERRCODE = '55000';
    END IF;
  END IF;
  -- A foreign key may be longer than ours; its answer goes without.
  PERFORM txb.publish(h ->> 'txb-reply-to', CASE WHEN octet_length(key) <= 1024 THEN key END, 'txb.reply',
    jsonb_strip_nulls(jsonb_build_object('answer', answer, 'reason', left(reason, 4000)))
      || CASE WHEN output IS NULL THEN '{}' ELSE jsonb_build_object('output', output) END,
    jsonb_strip_nulls(jsonb_build_object(
      'txb-saga', h -> 'txb-saga', 'txb-saga-started', h -> 'txb-saga-started', 'txb-saga-step', h -> 'txb-saga-step',
      'txb-saga-operation', h -> 'txb-saga-operation', 'txb-saga-sending', h -> 'txb-saga-sending',
      'txb-request', h -> 'txb-request', 'txb-command-id', m.id, 'txb-command-topic', m.topic)));
END
$$;
COMMENT ON FUNCTION txb.command_leave(txb.message, text, jsonb, text, boolean) IS
  'Publishes the answer to a command. said: when its handler ran, ok or refused, which is recorded at the barrier; else '
  'the answer that txb.command_enter knew';

-- The handler runs with the rights of the worker, as everywhere. What it wrote before it refused is undone, and only that:
-- the barrier's row stays.
CREATE FUNCTION txb.command_apply(m txb.message, handler text, of_array boolean) RETURNS txb.outcome
LANGUAGE plpgsql
AS $$
DECLARE
  entered record;
  said txb.outcome;
  count int;
BEGIN
  SELECT * INTO entered FROM txb.command_enter(m.headers);
  IF NOT entered.runs THEN
    PERFORM txb.command_leave(m, entered.answer, entered.output, entered.reason, false);
    RETURN txb.ok();
  END IF;
  m.headers := m.headers - 'txb-saga-output'; -- the barrier says it, and nobody else
  IF entered.output IS NOT NULL THEN
    m.headers := m.headers || pg_catalog.jsonb_build_object('txb-saga-output', entered.output);
  END IF;
  BEGIN
    IF of_array THEN
      EXECUTE 'SELECT (h).* FROM ' || handler || '(ARRAY[$1]) AS h LIMIT 2' INTO said USING m;
      GET DIAGNOSTICS count = ROW_COUNT;
      IF count <> 1 THEN
        said := ROW('error', NULL, 'the handler gave ' || count::text || ' outcomes for 1 message: it must give one for each', NULL);
      END IF;
    ELSE
      EXECUTE 'SELECT (h).* FROM ' || handler || '($1) AS h' INTO said USING m;
    END IF;
    IF said.outcome = 'refuse' THEN
      RAISE EXCEPTION USING ERRCODE = 'TXB06', MESSAGE = coalesce(said.reason, 'no reason given');
    END IF;
  EXCEPTION WHEN SQLSTATE 'TXB06' THEN
    said := ROW('refuse', NULL, sqlerrm, NULL);
  END;
  CASE said.outcome
    WHEN 'ok' THEN
      PERFORM txb.command_leave(m, 'ok', said.output, NULL, true);
    WHEN 'refuse' THEN
      PERFORM txb.command_leave(m, 'refused', NULL, said.reason, true);
    ELSE
      PERFORM txb.not_ok(m."offset", said);
  END CASE;
  RETURN txb.ok();
END
$$;
COMMENT ON FUNCTION txb.command_apply(txb.message, text, boolean) IS
  'Calls the handler (a quoted name, of a message or of an array of them) for a command where the barrier lets it, and '
  'publishes the answer';

-- ---- commands that fail --------------------------------------------------------------------------------------------

-- S1. A command that is given up is answered in the transaction that gives it up, by whatever way it comes to that: else
-- its saga waits for a time-out and then for a person. One that is older than the barrier is not: what happened to it is
-- not known. On the publishing side it has not come to anybody; what was asked for is asked again, or settled.
CREATE FUNCTION txb.command_given_up() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  entered record;
  why text := concat_ws(' ', CASE NEW.state WHEN 'discarded' THEN 'discarded by a person' ELSE 'given up' END
                             || ' after ' || NEW.attempts || ' attempts:', NEW.error);
  m txb.message := ROW(NEW.source, NEW.id, NEW.topic, NEW.partition, NEW."offset", NEW.key, NEW.type, NEW."time",
                       NEW.payload, NEW.content_type, NEW.headers, NEW.attempts);
BEGIN
  IF txb.command_problem(NEW.headers) IS NOT NULL THEN
    RETURN NULL;
  ELSIF NEW.side = 'outbox' THEN
    PERFORM txb.command_leave(m, 'undeliverable', NULL, why, false);
    RETURN NULL;
  ELSIF NEW.headers ? 'txb-saga' AND txb.saga_time(NEW.headers) < txb.barrier_horizon() THEN
    RETURN NULL;
  END IF;
  SELECT * INTO entered FROM txb.command_enter(NEW.headers);
  IF NOT entered.runs THEN
    PERFORM txb.command_leave(m, entered.answer, entered.output, entered.reason, false);
  ELSE
    PERFORM txb.command_leave(m, 'refused', NULL, why, true);
  END IF;
  RETURN NULL;
END
$$;
COMMENT ON FUNCTION txb.command_given_up() IS 'Answers a command that is dead or discarded (S1)';

CREATE TRIGGER command_dies AFTER INSERT ON txb.failed FOR EACH ROW
WHEN (NEW.state = 'dead' AND NEW.run = 0 AND NEW.headers ? 'txb-reply-to') EXECUTE FUNCTION txb.command_given_up();
CREATE TRIGGER command_given_up AFTER UPDATE OF state ON txb.failed FOR EACH ROW
WHEN (NEW.state IN ('dead', 'discarded') AND OLD.state NOT IN ('dead', 'discarded') AND NEW.run = 0
      AND NEW.headers ? 'txb-reply-to') EXECUTE FUNCTION txb.command_given_up();
COMMENT ON TRIGGER command_dies ON txb.failed IS 'Answers a command that is dead at once (S1)';
COMMENT ON TRIGGER command_given_up ON txb.failed IS 'Answers a command that is given up (S1)';

REVOKE ALL ON TYPE txb.barrier, txb.barrier_default, txb.barrier_horizon FROM PUBLIC;
GRANT SELECT ON txb.barrier, txb.barrier_horizon TO txb_worker, txb_reader;
GRANT EXECUTE ON FUNCTION txb.barrier_horizon() TO txb_worker, txb_reader, txb_admin;
GRANT EXECUTE ON FUNCTION
  txb.command_apply(txb.message, text, boolean),
  txb.command_enter(jsonb),
  txb.command_leave(txb.message, text, jsonb, text, boolean),
  txb.barrier_partition_make(int, int),
  txb.barrier_partition_drop(interval)
TO txb_worker;

RESET ROLE;
