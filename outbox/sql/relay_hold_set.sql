-- $1 source, $2 epoch, $3 instance, $4 topic, $5 lo, $6 error
SELECT txb.relay_hold_set($1, $2, $3, 'topic', $4, NULL, $5, $6)
