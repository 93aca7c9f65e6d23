-- Failed messages of a group that ended longer ago than $2 milliseconds, at most $3; how many went.
SELECT txb.failed_expire('consumer', $1, $2::bigint::float8 * interval '1 millisecond', $3)
