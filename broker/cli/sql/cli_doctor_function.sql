-- The handler: its name resolved as the worker does it, what it takes and gives, and whether this user may call it.
SELECT p.oid IS NOT NULL AS present,
       coalesce(pg_catalog.format_type(p.prorettype, NULL) = 'txb.outcome', false) AS gives_outcome,
       coalesce(p.proretset, false) AS gives_set,
       coalesce(pg_catalog.has_function_privilege(p.oid, 'EXECUTE'), false) AS may_call,
       (SELECT pg_catalog.string_agg(pg_catalog.format('%s(%s) returns %s', o.proname,
                                                       pg_catalog.pg_get_function_identity_arguments(o.oid),
                                                       pg_catalog.pg_get_function_result(o.oid)), '; ')
          FROM pg_catalog.pg_proc AS o
         WHERE o.proname = pg_catalog.split_part($1::text, '.',
                                                 CASE WHEN pg_catalog.strpos($1::text, '.') > 0 THEN 2 ELSE 1 END)) AS others
  FROM (SELECT) AS one
  LEFT JOIN pg_catalog.pg_proc AS p
    ON p.oid = pg_catalog.to_regprocedure($1::text || CASE WHEN $2::bool THEN '(txb.message[])' ELSE '(txb.message)' END)
