-- $1 name, $2 input, $3 key, $4 deadline in milliseconds, $5 reply topic, $6 coordinator
SELECT txb.saga_start($1, $2, $3, $4::int8 * interval '1 millisecond', $5, $6)
