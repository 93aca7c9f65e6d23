-- Sagas that ended longer ago than $2 milliseconds, or than any other group wants, by the day; how many days went.
SELECT txb.saga_partition_drop(txb.saga_keep($1, $2::bigint::float8 * interval '1 millisecond'))
