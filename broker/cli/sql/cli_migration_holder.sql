-- Whoever has been in a transaction longest that has a lock on something of schema txb, as a text; no row: nobody.
SELECT CASE WHEN h.pid IS NOT NULL
            THEN pg_catalog.format('process %s%s%s%s', h.pid, ', application "' || nullif(a.application_name, '') || '"',
                                   ', user ' || a.usename, ', in a transaction since ' || a.xact_start::timestamptz(0)::text)
            ELSE coalesce('the prepared transaction "' || p.gid || '"', 'a transaction') END,
       coalesce(h.pid, 0)
  FROM (SELECT DISTINCT l.pid, l.virtualtransaction FROM pg_catalog.pg_locks AS l
          JOIN pg_catalog.pg_class AS c ON c.oid = l.relation
         WHERE l.granted AND l.locktype = 'relation' AND c.relnamespace = pg_catalog.to_regnamespace('txb')
           AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
           AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()) AS h
  LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = h.pid
  LEFT JOIN pg_catalog.pg_prepared_xacts AS p ON h.virtualtransaction = '-1/' || p.transaction::text
 ORDER BY coalesce(a.xact_start, p.prepared) NULLS LAST
 LIMIT 1
