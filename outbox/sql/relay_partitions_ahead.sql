SELECT txb.outbox_partitions_ahead()
