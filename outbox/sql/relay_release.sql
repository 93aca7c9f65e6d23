-- $1 source, $2 epoch, $3 instance
SELECT txb.relay_release($1, $2, $3)
