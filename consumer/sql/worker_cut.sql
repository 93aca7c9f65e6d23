SELECT txb.batch_cut($1, $2, $3, $4, $5, $6, $7)
