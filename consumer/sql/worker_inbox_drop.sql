SELECT txb.inbox_partition_drop($1::bigint::float8 * interval '1 millisecond')
