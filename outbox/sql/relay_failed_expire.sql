-- Refused intents of a source that were decided about longer ago than $2 milliseconds, at most $3; how many went.
SELECT txb.failed_expire('outbox', $1, $2::bigint::float8 * interval '1 millisecond', $3)
