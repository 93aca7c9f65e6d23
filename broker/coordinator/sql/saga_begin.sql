-- Starts that came as messages: columns of $1 ids, $2 times, $3 names, $4 versions, $5 keys, $6 inputs, $7 deadlines, $8 reply
-- topics, $9 parents.
SELECT b.id, b.problem FROM txb.saga_begin($1::uuid[], $2::timestamptz[], $3::text[], $4::int[], $5::text[], $6::jsonb[],
                                           $7::bigint[], $8::text[], $9::jsonb[]) AS b
