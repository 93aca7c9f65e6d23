-- $4: messages consumed, $5: applied; null: as many as the apply statement counted in this transaction.
SELECT txb.batch_close($1, $2, $3, a.applied, $4 - a.applied)
  FROM (SELECT coalesce($5::int, current_setting('txb.applied')::int) AS applied) AS a
