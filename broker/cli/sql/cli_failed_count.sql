SELECT pg_catalog.to_jsonb(c) FROM txb.failed_count($1::jsonb, $2::text, $3::int4) AS c
