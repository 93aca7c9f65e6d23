-- What the barrier knows of sagas that began longer ago than $2 milliseconds, or than any other group wants; how many days went.
SELECT txb.barrier_partition_drop(txb.saga_keep($1, $2::bigint::float8 * interval '1 millisecond'))
