-- What RESET ALL has taken back: how long a statement may run, to the end of this transaction.
SELECT set_config('statement_timeout', $1, true)
