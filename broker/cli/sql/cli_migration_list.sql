SELECT version, name, sha256 FROM txb.schema_migration ORDER BY version
