-- Gives back the lock of cli_migration_lock.sql.
SELECT pg_catalog.pg_advisory_unlock(1954049331, 0)
