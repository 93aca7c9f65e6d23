SELECT txb.saga_deploy($1, $2, $3, $4, $5, $6, $7)
