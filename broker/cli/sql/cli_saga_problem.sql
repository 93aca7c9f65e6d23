-- Why a definition can't be deployed here: $1 its text, $2 the coordinator's topic as the configuration has it, null: it has none.
SELECT p.problem, p.advice FROM txb.saga_problem($1::jsonb, $2) AS p
