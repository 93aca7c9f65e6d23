-- Why such a job would be refused, and what to do; null: it would not be.
-- $1 group, $2 source, $3 cluster, $4 topics, $5 $6 numbers, $7 forced, $8 then live, $9 target, $10 to $13 lanes of Kafka, $14
-- keys, $15 types
SELECT r.problem, r.hint
  FROM txb.job_refusal($1::text, $2::text, $3::text, $4::text[], $5::int8, $6::int8, $7::bool, $8::bool, $9::text,
                       nullif($10::text[], '{}'), nullif($11::int4[], '{}'), nullif($12::int8[], '{}'),
                       nullif($13::int8[], '{}'), nullif($14::bytea[], '{}'), nullif($15::text[], '{}')) AS r
