SELECT txb.partition_make($1::int8, $2::int4)
