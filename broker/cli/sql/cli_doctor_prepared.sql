-- Prepared transactions that nobody has decided for a minute: they keep locks, holes and dead rows.
SELECT count(*), min(p.gid), (extract(epoch FROM pg_catalog.clock_timestamp() - min(p.prepared)) * 1000)::int8 AS age_ms
  FROM pg_catalog.pg_prepared_xacts AS p
 WHERE p.database = pg_catalog.current_database() AND p.prepared < pg_catalog.clock_timestamp() - interval '1 minute'
