-- $1 source, $2 epoch, $3 instance, $4 published, $5 topics, $6 keys, $7 from where each is held now, 0: no more
SELECT txb.relay_settle($1, $2, $3, $4, $5, $6, $7)
