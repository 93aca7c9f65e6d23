-- Whether a scheduled intent's time has come. statement_timestamp() is stable, so that the index on due answers:
-- clock_timestamp() would read the whole table each time. And the size of txb.relay, by which the relay chooses how
-- often it writes there.
SELECT EXISTS (SELECT FROM txb.scheduled AS s WHERE s.due <= pg_catalog.statement_timestamp()),
       pg_catalog.pg_relation_size('txb.relay'::pg_catalog.regclass)
