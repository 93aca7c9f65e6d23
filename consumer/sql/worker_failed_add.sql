-- Messages that are set aside in the open batch, in their order; returns how many are held in the group.
SELECT txb.failed_add($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)
