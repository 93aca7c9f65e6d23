SELECT txb.inbox_partition_make($1, $2)
