SELECT pg_catalog.to_jsonb(a) FROM txb.audit_list($1::int8, $2::int4) AS a
