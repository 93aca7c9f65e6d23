SELECT pg_catalog.encode(pg_catalog.sha256($1::bytea), 'hex')
