SELECT txb.inbox_partition_drop($1::bigint * interval '1 millisecond')
