-- What became of the messages that were tried again: numbers, verdicts, delays, errors. Returns what is left: a row for
-- each key that is free now, or one without a key.
SELECT s.next_due_ms, s.held, s.group_held, s.key
  FROM txb.retry_settle($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) AS s
