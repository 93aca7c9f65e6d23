-- $1 numbers a partition, $2 how many ahead
SELECT txb.partition_make($1, $2)
