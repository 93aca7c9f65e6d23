-- $1 source, $2 epoch, $3 instance, $4 rows at most
SELECT txb.scheduled_move($1, $2, $3, $4)
