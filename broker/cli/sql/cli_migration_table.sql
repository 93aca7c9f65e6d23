-- Whether there is a schema at all, whether this user may read its record, and whether the server takes writes. By the
-- catalog alone: to_regclass fails for a user without USAGE on the schema.
SELECT c.oid IS NOT NULL AS present,
       coalesce(pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                AND pg_catalog.has_table_privilege(c.oid, 'SELECT'), false) AS readable,
       pg_catalog.pg_is_in_recovery() AS recovery,
       current_user::text AS who
  FROM (SELECT) AS one
  LEFT JOIN pg_catalog.pg_namespace AS n ON n.nspname = 'txb'
  LEFT JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = 'schema_migration'
