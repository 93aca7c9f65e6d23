-- Facts about the server and this session.
SELECT current_user::text AS who,
       r.rolsuper AS superuser,
       pg_catalog.pg_is_in_recovery() AS recovery,
       pg_catalog.current_setting('max_connections')::int4 AS max_connections,
       pg_catalog.current_setting('superuser_reserved_connections')::int4 AS reserved,
       (SELECT count(*)::int4 FROM pg_catalog.pg_stat_activity AS a
         WHERE a.backend_type = 'client backend') AS connections,
       pg_catalog.current_setting('synchronous_commit') AS synchronous_commit,
       pg_catalog.current_setting('fsync') AS fsync,
       pg_catalog.current_setting('full_page_writes') AS full_page_writes,
       pg_catalog.current_setting('transaction_read_only')::bool AS read_only
  FROM pg_catalog.pg_roles AS r
 WHERE r.rolname = current_user
