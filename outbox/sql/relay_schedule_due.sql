-- Whether a scheduled intent's time has come. Stable, so that the index on due answers: clock_timestamp() would read the whole table each time.
SELECT EXISTS (SELECT FROM txb.scheduled AS s WHERE s.due <= pg_catalog.statement_timestamp())
