-- What the user may do in schema txb.
SELECT pg_catalog.pg_has_role(current_user, 'txb_relay', 'MEMBER') AS relay,
       pg_catalog.pg_has_role(current_user, 'txb_worker', 'MEMBER') AS worker,
       pg_catalog.has_table_privilege('txb.relay', 'SELECT') AS reads_sources,
       pg_catalog.has_table_privilege('txb.consumer_offset', 'SELECT') AS reads_groups,
       pg_catalog.has_function_privilege('txb.outbox_partitions_ahead()', 'EXECUTE') AS reads_partitions,
       pg_catalog.pg_has_role(current_user, 'txb_reader', 'MEMBER') AS reader,
       pg_catalog.has_table_privilege('txb.job', 'SELECT') AS reads_jobs
