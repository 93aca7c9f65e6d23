-- $4: messages consumed but for those that were set aside, $5: applied; null: as many as the apply statement counted in
-- this transaction; $6: set aside.
SELECT txb.batch_close($1, $2, $3, a.applied, $4 - a.applied, $6)
  FROM (SELECT coalesce($5::int, current_setting('txb.applied')::int) AS applied) AS a
