-- Whether a scheduled intent's time has come.
SELECT EXISTS (SELECT FROM txb.scheduled AS s WHERE s.due <= pg_catalog.clock_timestamp())
