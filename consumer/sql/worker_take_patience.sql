-- How long the next statement may wait for the row of a stopped owner; to the end of this transaction.
SELECT set_config('lock_timeout', $1, true)
