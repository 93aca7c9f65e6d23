-- Children that are undone: $1 ids, $2 when they began.
SELECT txb.saga_reopen($1::uuid[], $2::timestamptz[])
