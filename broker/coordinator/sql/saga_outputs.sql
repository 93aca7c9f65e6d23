-- Which outputs of sagas that end break the schema of their definition: $1 schemas, $2 outputs.
SELECT p.nth, p.problem FROM txb.saga_output_problems($1::jsonb[], $2::jsonb[]) AS p
