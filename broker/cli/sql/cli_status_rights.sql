-- What this user may look at. A user of one role sees its own side only.
SELECT pg_catalog.has_table_privilege('txb.relay', 'SELECT') AS relay,
       pg_catalog.has_table_privilege('txb.consumer_offset', 'SELECT') AS consumer,
       pg_catalog.has_function_privilege('txb.outbox_holders()', 'EXECUTE') AS holders,
       current_user::text AS who,
       pg_catalog.has_table_privilege('txb.failed', 'SELECT')
         AND pg_catalog.has_function_privilege('txb.key_text(bytea)', 'EXECUTE') AS failed,
       pg_catalog.has_table_privilege('txb.job', 'SELECT')
         AND pg_catalog.has_function_privilege('txb.job_show(bigint)', 'EXECUTE') AS jobs,
       pg_catalog.has_function_privilege('txb.failed_job_running()', 'EXECUTE') AS failed_jobs,
       pg_catalog.has_table_privilege('txb.saga_coordinator', 'SELECT')
         AND pg_catalog.has_function_privilege('txb.sagas_seen()', 'EXECUTE') AS sagas
