SELECT txb.saga_partition_make(0, 3)
