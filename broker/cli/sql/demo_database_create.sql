-- A statement with a name that can't be a parameter, quoted by the server.
SELECT pg_catalog.format('CREATE DATABASE %I', $1::text)
