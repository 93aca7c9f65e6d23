-- What the configured function is: $1 its name as the user wrote it, $2 its argument's type.
SELECT quote_ident(n.nspname) || '.' || quote_ident(p.proname) AS name,
       has_function_privilege(p.oid, 'EXECUTE') AS callable,
       has_schema_privilege(n.oid, 'USAGE') AS reachable,
       n.nspname::text AS schema,
       format_type(p.prorettype, NULL) AS result,
       p.prorettype = 'txb.outcome'::regtype AS result_fits,
       p.proretset AS is_set,
       p.provolatile = 'v' AS is_volatile,
       p.prokind = 'f' AS is_function,
       current_user::text AS role,
       (SELECT string_agg(o.oid::regprocedure::text, ', ' ORDER BY o.oid) FROM pg_catalog.pg_proc AS o
         WHERE o.proname = lower(regexp_replace($1, '^.*\.', ''))) AS others
  FROM (VALUES (to_regprocedure($1 || '(' || $2 || ')'))) AS f (oid)
  LEFT JOIN pg_catalog.pg_proc AS p ON p.oid = f.oid
  LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
