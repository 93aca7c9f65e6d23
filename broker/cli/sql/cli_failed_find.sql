SELECT pg_catalog.to_jsonb(f) FROM txb.failed_find($1::jsonb, $2::int8, $3::int4) AS f
