SELECT txb.saga_timer_drop($1::timestamptz[], $2::uuid[])
