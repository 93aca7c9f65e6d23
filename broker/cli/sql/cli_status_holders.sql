-- Sessions and prepared transactions that may fill a hole, this one aside.
SELECT h.pid, h.gid, h.usename, h.application_name, h.state, h.query,
       (extract(epoch FROM pg_catalog.clock_timestamp() - h.xact_start) * 1000)::int8 AS transaction_age_ms,
       (extract(epoch FROM pg_catalog.clock_timestamp() - h.query_start) * 1000)::int8 AS query_age_ms
  FROM txb.outbox_holders() AS h
 WHERE h.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
 ORDER BY h.xact_start NULLS FIRST
