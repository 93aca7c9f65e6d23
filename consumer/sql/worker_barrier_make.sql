-- The barrier's days, today's and those to come: $1 how many.
SELECT txb.barrier_partition_make(0, $1)
