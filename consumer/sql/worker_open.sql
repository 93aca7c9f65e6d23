-- The compare-and-set. A statement of its own: what comes after it sees what it waited for (W2). From the next one on a
-- statement may take $11, to the end of this transaction.
SELECT txb.batch_open($1, $2, $3, $4, $5, $6, $7, $8, $9, $10), set_config('statement_timeout', $11, true)
