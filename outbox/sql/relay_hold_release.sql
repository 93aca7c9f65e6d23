-- $1 source, $2 epoch, $3 instance, $4 topic
SELECT txb.relay_hold_release($1, $2, $3, 'topic', $4, NULL)
