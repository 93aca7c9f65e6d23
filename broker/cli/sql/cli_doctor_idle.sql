-- The oldest session that is idle inside a transaction with a transaction number.
SELECT a.pid, a.application_name,
       (extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start) * 1000)::int8 AS age_ms
  FROM pg_catalog.pg_stat_activity AS a
 WHERE a.datname = pg_catalog.current_database() AND a.state LIKE 'idle in transaction%' AND a.backend_xid IS NOT NULL
   AND a.xact_start < pg_catalog.clock_timestamp() - interval '1 minute'
 ORDER BY a.xact_start
 LIMIT 1
