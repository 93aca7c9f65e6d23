-- What a database has against a definition, before it is deployed: the program asks for it and tells it by line.
--
--   txb.saga_problem(body jsonb, topic text) returns (problem text, advice text)
--       why the definition can't be deployed here, beginning with the place in it; problem null: nothing is known against it.
--       topic: the coordinator's, as who asks knows it; null: only the database's own word counts

SET LOCAL ROLE txb_owner;

CREATE FUNCTION txb.saga_problem(body jsonb, topic text, OUT problem text, OUT advice text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  own text[] := array_remove(ARRAY[saga_problem.topic, (SELECT c.topic FROM txb.saga_coordinator AS c)], NULL);
BEGIN
  problem := coalesce(txb.json_schema_unknown(saga_problem.body -> 'input', 'input'),
                      txb.json_schema_unknown(saga_problem.body -> 'output_schema', 'output_schema'));
  IF problem IS NOT NULL THEN
    RETURN;
  END IF;
  -- What a coordinator finds in its own topic that is neither a start nor an answer belongs to no saga.
  SELECT 'steps[' || s.n - 1 || '].topic: ' || (s.value ->> 'topic') || ' is the coordinator''s own topic, where a command '
         'reaches no participant' INTO problem
    FROM jsonb_array_elements(CASE WHEN jsonb_typeof(saga_problem.body -> 'steps') = 'array' THEN saga_problem.body -> 'steps'
                              ELSE '[]' END) WITH ORDINALITY AS s (value, n)
   WHERE s.value ->> 'topic' = ANY (own) ORDER BY s.n LIMIT 1;
  IF problem IS NOT NULL THEN
    advice := 'Name the topic that the participant''s group reads.';
  ELSIF saga_problem.body ->> 'reply_topic' = ANY (own) THEN
    problem := 'reply_topic: ' || (saga_problem.body ->> 'reply_topic') || ' is the coordinator''s own topic, where the end of a saga '
               'reaches nobody';
    advice := 'Name a topic that whoever waits for the end reads, or leave it out.';
  END IF;
END
$$;
COMMENT ON FUNCTION txb.saga_problem(jsonb, text) IS
  'Why a definition can''t be deployed here, beginning with the place in it, and what to do; null: nothing is known against it';

-- As in 0031, but that it asks txb.saga_problem, which knows the coordinator's topic.
CREATE OR REPLACE FUNCTION txb.saga_deploy(name text, version int, body text, deadline_ms bigint, reply_topic text, topic text,
                                person text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  there txb.saga_definition;
  within jsonb;
  levels int := 1;
  advice text;
  problem text;
BEGIN
  IF saga_deploy.topic IS NOT NULL THEN
    INSERT INTO txb.saga_coordinator (topic) VALUES (saga_deploy.topic) ON CONFLICT DO NOTHING;
  END IF;
  -- What is deployed already is not looked at again: newer versions may have come since.
  IF NOT EXISTS (SELECT FROM txb.saga_definition AS d WHERE d.name = saga_deploy.name AND d.version = saga_deploy.version) THEN
    SELECT p.problem, p.advice INTO problem, advice FROM txb.saga_problem(saga_deploy.body::jsonb, saga_deploy.topic) AS p;
    IF problem IS NULL THEN
      SELECT n.nested, n.depth, n.problem, n.advice INTO within, levels, problem, advice
        FROM txb.saga_nested(saga_deploy.body::jsonb) AS n;
    END IF;
    IF problem IS NOT NULL THEN
      RAISE EXCEPTION 'saga %: %', saga_deploy.name, problem USING ERRCODE = '22023', HINT = coalesce(advice, '');
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

GRANT EXECUTE ON FUNCTION txb.saga_problem(jsonb, text) TO txb_admin;

RESET ROLE;
