-- Nested sagas: a step that is itself a saga (S7). Parent and child are sagas of one coordinator, each with its own id, key and
-- partition. Neither touches the other's rows: they talk by messages to the coordinator's topic, through its own outbox.
--
--   txb.saga_nested(body jsonb) returns (nested jsonb, depth int, problem text, advice text)
--       which sagas a definition's steps are, with the versions that it keeps for good; or why that can't be
--   txb.saga_reopen(ids uuid[], starts timestamptz[]) returns int
--       children that are undone after they had ended: they run again, and end anew
--
-- A child's row has `parent`: {"saga", "started", "step", "operation", "sending", "root"}, what the message that made the row
-- said. One that asks for the end of a child that never began (operation resolve or compensation) makes the row all the same, and
-- the child ends refused: whatever comes later finds that. root is the outermost saga.
--
-- A crash before COMMIT leaves nothing of a batch; after it, the reopened end, the events and the commands together.

SET LOCAL ROLE txb_owner;

ALTER TABLE txb.saga_definition
  ADD COLUMN nested jsonb,
  ADD COLUMN depth int NOT NULL DEFAULT 1 CONSTRAINT saga_definition_depth CHECK (depth BETWEEN 1 AND 8);
COMMENT ON COLUMN txb.saga_definition.nested IS
  'Steps that are sagas: {STEP: {"name": ..., "version": ...}}, as the newest were when this was deployed; null: there are none';
COMMENT ON COLUMN txb.saga_definition.depth IS 'How many sagas lie within each other: 1 without nested ones, 8 at most';
COMMENT ON CONSTRAINT saga_definition_depth ON txb.saga_definition IS 'depth: 1 to 8';
COMMENT ON COLUMN txb.saga.started_at IS 'When, by the clock of the database that started it; of a step of another saga: when that one was';
COMMENT ON COLUMN txb.saga.parent IS
  'What it is a step of: {saga, started, step, operation, sending, root}; null: it is none. operation resolve or compensation: it '
  'never began';
COMMENT ON COLUMN txb.saga_event.sent IS
  'The commands that follow: [{step, operation, sending, id, saga}]; saga: of a step that is one, the child that it went to';
COMMENT ON TABLE txb.saga_end IS
  'How sagas ended; one that is not in here is under way. Of a step of another saga that is undone the row is taken back, and set anew';

-- ---- deploying -----------------------------------------------------------------------------------------------------

-- A nested saga must be there before the one that it is in, and so none can be within itself. What can be undone as a whole has
-- only steps that can: a pivot, what comes behind it, and a confirmation are for good (S7). Of its own nested sagas that was
-- looked at when it was deployed. The program says the same, with lines; this is for whoever deploys without it.
CREATE FUNCTION txb.saga_nested(body jsonb, OUT nested jsonb, OUT depth int, OUT problem text, OUT advice text)
LANGUAGE plpgsql STABLE
AS $$
#variable_conflict use_column
DECLARE
  one record;
  d record;
  fixed text;
BEGIN
  depth := 1;
  FOR one IN SELECT 'steps[' || s.n - 1 || '].saga' AS place, s.value ->> 'name' AS step, s.value ->> 'kind' AS kind,
                    s.value -> 'saga' ->> 'name' AS name, (s.value -> 'saga' ->> 'version')::int AS version
               FROM jsonb_array_elements(CASE WHEN jsonb_typeof(body -> 'steps') = 'array' THEN body -> 'steps' ELSE '[]' END)
                    WITH ORDINALITY AS s (value, n)
              WHERE s.value ? 'saga' ORDER BY s.n LOOP
    SELECT f.version, f.body::jsonb AS body, f.depth INTO d FROM txb.saga_definition AS f
     WHERE f.name = one.name AND (one.version IS NULL OR f.version = one.version) ORDER BY f.version DESC LIMIT 1;
    IF NOT FOUND THEN
      problem := one.place || ': ' || coalesce('version ' || one.version || ' of saga ', 'saga ') || coalesce(one.name, '(none)')
                 || ' is not deployed';
      advice := 'Deploy the inner saga first, or correct its name or version.';
      RETURN;
    END IF;
    SELECT e.value ->> 'name' || ', ' || (e.value ->> 'kind') INTO fixed FROM jsonb_array_elements(d.body -> 'steps') AS e (value)
     WHERE e.value ->> 'kind' IS DISTINCT FROM 'compensatable' LIMIT 1;
    IF one.kind = 'compensatable' AND fixed IS NOT NULL THEN
      problem := one.place || ': version ' || d.version || ' of saga ' || one.name || ' has a step that can''t be undone ('
                 || fixed || ')';
      advice := 'A compensatable step needs a saga of compensatable steps only: make this step the pivot or retriable, or name '
                'another saga.';
      RETURN;
    ELSIF d.depth >= 8 THEN
      problem := one.place || ': with version ' || d.version || ' of saga ' || one.name || ' more than 8 sagas would lie within each '
                 'other';
      advice := 'Give the steps of one of them to the saga around it.';
      RETURN;
    END IF;
    depth := greatest(depth, d.depth + 1);
    nested := coalesce(nested, '{}') || jsonb_build_object(one.step, jsonb_build_object('name', one.name, 'version', d.version));
  END LOOP;
END
$$;
COMMENT ON FUNCTION txb.saga_nested(jsonb) IS
  'Which sagas the steps of a definition are, and in which versions; problem: why it can''t be deployed, and advice';

CREATE OR REPLACE FUNCTION txb.saga_deploy(name text, version int, body text, deadline_ms bigint, reply_topic text, topic text,
                                person text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  there txb.saga_definition;
  within jsonb;
  levels int := 1;
  advice text;
  problem text := txb.json_schema_unknown(saga_deploy.body::jsonb -> 'input', 'input');
BEGIN
  problem := coalesce(problem, txb.json_schema_unknown(saga_deploy.body::jsonb -> 'output_schema', 'output_schema'));
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION 'saga %: %', saga_deploy.name, problem USING ERRCODE = '22023';
  END IF;
  IF saga_deploy.topic IS NOT NULL THEN
    INSERT INTO txb.saga_coordinator (topic) VALUES (saga_deploy.topic) ON CONFLICT DO NOTHING;
  END IF;
  -- What is deployed already is not looked at again: newer versions may have come since.
  IF NOT EXISTS (SELECT FROM txb.saga_definition AS d WHERE d.name = saga_deploy.name AND d.version = saga_deploy.version) THEN
    SELECT n.nested, n.depth, n.problem, n.advice INTO within, levels, problem, advice
      FROM txb.saga_nested(saga_deploy.body::jsonb) AS n;
    IF problem IS NOT NULL THEN
      RAISE EXCEPTION 'saga %: %', saga_deploy.name, problem USING ERRCODE = '22023', HINT = advice;
    END IF;
  END IF;
  INSERT INTO txb.saga_definition (name, version, body, nested, depth, input_schema, deadline_ms, reply_topic, deployed_by)
  VALUES (saga_deploy.name, saga_deploy.version, saga_deploy.body, within, levels, saga_deploy.body::jsonb -> 'input',
          saga_deploy.deadline_ms, saga_deploy.reply_topic,
          session_user || coalesce(' (' || nullif(saga_deploy.person, '') || ')', ''))
  ON CONFLICT ON CONSTRAINT saga_definition_key DO NOTHING;
  IF FOUND THEN
    INSERT INTO txb.audit (person, action, filter, matched, changed)
    VALUES (nullif(saga_deploy.person, ''), 'saga deploy',
            jsonb_build_object('name', saga_deploy.name, 'version', saga_deploy.version), 1, 1);
    RETURN true;
  END IF;
  SELECT d.* INTO STRICT there FROM txb.saga_definition AS d
   WHERE d.name = saga_deploy.name AND d.version = saga_deploy.version;
  IF there.body <> saga_deploy.body THEN
    RAISE EXCEPTION 'version % of saga % was deployed at % by % and reads otherwise', saga_deploy.version, saga_deploy.name,
      there.deployed_at, there.deployed_by
      USING ERRCODE = '22023', HINT = format('Instances may run on it: give this one version %s.', (SELECT max(d.version) + 1 FROM txb.saga_definition AS d WHERE d.name = saga_deploy.name));
  END IF;
  RETURN false;
END
$$;

-- ---- for the coordinator -------------------------------------------------------------------------------------------

-- As in 0024, but that a step of another saga has its deadline from its own beginning, and that one whose end is asked for before
-- it began never does.
CREATE OR REPLACE FUNCTION txb.saga_begin(ids uuid[], starts timestamptz[], names text[], versions int[], keys text[], inputs jsonb[],
                               deadlines_ms bigint[], reply_topics text[], parents jsonb[])
RETURNS TABLE (id uuid, started_at timestamptz, problem text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  one record;
  d record;
  why text;
  began timestamptz; -- what its deadline counts from
BEGIN
  FOR one IN SELECT u.* FROM unnest(ids, starts, names, versions, keys, inputs, deadlines_ms, reply_topics, parents)
               AS u (id, started_at, name, version, key, input, deadline_ms, reply_topic, parent) LOOP
    IF one.key IS NOT NULL THEN
      INSERT INTO txb.saga_start_key AS k (id, started_at) VALUES (one.id, one.started_at) ON CONFLICT DO NOTHING;
      CONTINUE WHEN NOT FOUND; -- a repeated start
    END IF;
    SELECT f.version, f.input_schema, f.deadline_ms, f.reply_topic INTO d FROM txb.saga_definition AS f
     WHERE f.name = one.name AND (one.version IS NULL OR f.version = one.version) ORDER BY f.version DESC LIMIT 1;
    began := CASE WHEN one.parent IS NULL THEN one.started_at ELSE clock_timestamp() END;
    why := CASE WHEN one.parent ->> 'operation' IN ('resolve', 'compensation')
                  THEN 'it had not begun when its parent asked for its end, and never will'
                WHEN d.version IS NULL THEN 'there is no saga "' || coalesce(left(one.name, 100), '') || '"'
                WHEN txb.topic_problem(one.reply_topic) IS NOT NULL THEN 'reply_' || txb.topic_problem(one.reply_topic)
                WHEN octet_length(one.key) NOT BETWEEN 1 AND 1024
                  THEN 'key has ' || octet_length(one.key) || ' bytes, 1 to 1024 are allowed'
                WHEN one.deadline_ms NOT BETWEEN 1 AND 31536000000
                  THEN 'deadline_ms is ' || one.deadline_ms || ', it must be above 0 and at most a year'
                ELSE txb.json_schema_problem(d.input_schema, coalesce(one.input, 'null'), 'input') END;
    -- A refused one is told where it can be told, by a key that a message can have.
    INSERT INTO txb.saga AS s (id, started_at, name, version, key, input, deadline_at, reply_topic, parent, started_by)
    VALUES (one.id, one.started_at, coalesce(left(one.name, 100), ''), coalesce(d.version, 0),
            CASE WHEN octet_length(one.key) BETWEEN 1 AND 1024 THEN one.key END, coalesce(one.input, 'null'),
            CASE WHEN why IS NULL
                 THEN began + coalesce(one.deadline_ms, d.deadline_ms) * interval '1 millisecond' END,
            coalesce(CASE WHEN txb.topic_problem(one.reply_topic) IS NULL THEN one.reply_topic END, d.reply_topic), one.parent,
            'a message')
    ON CONFLICT DO NOTHING;
    CONTINUE WHEN NOT FOUND;
    id := one.id;
    started_at := one.started_at;
    problem := why;
    RETURN NEXT;
  END LOOP;
END
$$;

-- Its end comes anew, in a later row; who asks meanwhile is told that it runs.
CREATE FUNCTION txb.saga_reopen(ids uuid[], starts timestamptz[]) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp SET enable_seqscan = off SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
  reopened int;
BEGIN
  DELETE FROM txb.saga_end AS e USING unnest(ids, saga_reopen.starts) AS u (id, started_at)
   WHERE e.saga_id = u.id AND e.started_at = u.started_at;
  GET DIAGNOSTICS reopened = ROW_COUNT;
  RETURN reopened;
END
$$;
COMMENT ON FUNCTION txb.saga_reopen(uuid[], timestamptz[]) IS
  'Takes back how sagas ended that are undone by the ones that they are steps of; returns how many had ended';

GRANT EXECUTE ON FUNCTION txb.saga_reopen(uuid[], timestamptz[]) TO txb_worker;

RESET ROLE;
