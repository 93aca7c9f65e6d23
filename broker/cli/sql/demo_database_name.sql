-- Where a connection string leads in the end.
SELECT pg_catalog.current_database()::text
