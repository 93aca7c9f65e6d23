-- Why a command can't be answered with an output: $1 the output (text).
SELECT txb.output_problem($1::text::jsonb)
