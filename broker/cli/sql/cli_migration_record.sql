INSERT INTO txb.schema_migration (version, name, sha256) VALUES ($1::int4, $2::text, $3::text)
