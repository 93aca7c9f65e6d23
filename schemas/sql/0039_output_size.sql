-- An output that no answer can carry is a refusal: what its handler wrote is undone, and the sizes are the reason. It would be
-- the same at every attempt, so it is no error that is tried again. What a refusal becomes is as ever (0023): an action is
-- refused; what goes forward too, unrecorded, so that it can be tried again; a compensation has failed.
--
--   txb.output_problem(output jsonb) returns text
--       why it can't be answered with; null: it can. For handlers that are no function of the database: ask before the answer

SET LOCAL ROLE txb_owner;

-- What an intent's payload may have (0002), less the frame of the answer whose word is the longest.
CREATE FUNCTION txb.output_size_max() RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 1000000 - octet_length('{"answer": "compensated", "output": }');
COMMENT ON FUNCTION txb.output_size_max() IS 'Bytes, as JSON text, that the output of a command''s handler may have';

CREATE FUNCTION txb.output_problem(output jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN octet_length(output::text) > txb.output_size_max()
            THEN 'its output has ' || octet_length(output::text)::text || ' bytes, at most ' || txb.output_size_max()::text || ' are allowed' END;
COMMENT ON FUNCTION txb.output_problem(jsonb) IS 'Why a command can''t be answered with an output; null: it can';

CREATE FUNCTION txb.refusal(said txb.outcome) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE said.outcome WHEN 'refuse' THEN coalesce(said.reason, 'no reason given')
                         WHEN 'ok' THEN txb.output_problem(said.output) END;
COMMENT ON FUNCTION txb.refusal(txb.outcome) IS 'Why a command whose handler said that is refused; null: it isn''t';

-- As in 0023, but for what is a refusal.
CREATE OR REPLACE FUNCTION txb.command_apply(m txb.message, handler text, of_array boolean) RETURNS txb.outcome
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
    IF txb.refusal(said) IS NOT NULL THEN
      RAISE EXCEPTION USING ERRCODE = 'TXB06', MESSAGE = txb.refusal(said);
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

-- As in 0027, but for what is a refusal.
CREATE OR REPLACE FUNCTION txb.command_run(m txb.message, call text, delivery text) RETURNS void
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
    IF txb.refusal(one) IS NOT NULL THEN
      RAISE EXCEPTION USING ERRCODE = 'TXB06', MESSAGE = txb.refusal(one);
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

-- As in 0027, but for what is a refusal.
CREATE OR REPLACE FUNCTION txb.commands_apply(messages txb.message[], deliveries text[], handler text, of_array boolean) RETURNS int
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
        IF txb.refusal(one) IS NOT NULL THEN
          RAISE EXCEPTION USING ERRCODE = 'TXB06', MESSAGE = txb.refusal(one);
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

GRANT EXECUTE ON FUNCTION txb.output_problem(jsonb), txb.output_size_max(), txb.refusal(txb.outcome) TO txb_worker;

RESET ROLE;
