-- What a saga gives is looked at as what it is started with: by the schema of its definition, when it ends. It has happened
-- by then, and nothing is undone: the saga is completed, without an output, and says what is wrong with it.

SET LOCAL ROLE txb_owner;

CREATE FUNCTION txb.saga_output_problems(schemas jsonb[], outputs jsonb[]) RETURNS TABLE (nth bigint, problem text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT p.nth, p.problem
    FROM (SELECT u.nth, txb.json_schema_problem(u.schema, u.output, 'output') AS problem
            FROM unnest(schemas, outputs) WITH ORDINALITY AS u (schema, output, nth)) AS p
   WHERE p.problem IS NOT NULL
$$;
COMMENT ON FUNCTION txb.saga_output_problems(jsonb[], jsonb[]) IS
  'Which of the outputs break their schema, from 1, and how';
GRANT EXECUTE ON FUNCTION txb.saga_output_problems(jsonb[], jsonb[]) TO txb_worker;

RESET ROLE;
