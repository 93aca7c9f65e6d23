-- One init at a time in this database. Kept by the session until it unlocks or ends.
SELECT pg_catalog.pg_advisory_lock(1954049331, 0)
