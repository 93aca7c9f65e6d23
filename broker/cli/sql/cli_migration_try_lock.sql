-- The lock of cli_migration_lock.sql, unless another session has it.
SELECT pg_catalog.pg_try_advisory_lock(1954049331, 0)
