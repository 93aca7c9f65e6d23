-- $1 topic, $2 type, $3 input, $4 key, $5 time-out in milliseconds, $6 topic of the reply
SELECT txb.request($1, $2, $3, $4, $5::int8 * interval '1 millisecond', $6)
