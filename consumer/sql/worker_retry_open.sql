-- As worker_open.sql, for messages that are tried again: the fence without a new position.
SELECT txb.retry_open($1, $2, $3, $4, $5), set_config('statement_timeout', $6, true)
