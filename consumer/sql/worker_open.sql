-- The compare-and-set. A statement of its own: what comes after it sees what it waited for (W2).
SELECT txb.batch_open($1, $2, $3, $4, $5, $6, $7, $8, $9)
