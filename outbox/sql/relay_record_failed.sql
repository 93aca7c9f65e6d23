-- $1 source, $2 epoch, $3 instance, $4 seq, $5 error_class, $6 error
SELECT txb.relay_record_failed($1, $2, $3, $4, $5, $6)
