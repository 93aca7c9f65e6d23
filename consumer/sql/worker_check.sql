-- What is missing for a worker in this database, as one text; null: nothing.
SELECT CASE WHEN to_regnamespace('txb') IS NULL THEN 'the schema txb does not exist'
            WHEN NOT has_schema_privilege('txb', 'USAGE') THEN 'no right to use the schema txb'
            ELSE (SELECT min(CASE WHEN to_regprocedure(f.name) IS NULL THEN f.name || ' does not exist'
                                  ELSE 'no right to call ' || f.name END)
                         || CASE WHEN count(*) > 1 THEN ' and ' || (count(*) - 1)::text || ' more' ELSE '' END
                    FROM unnest(ARRAY['txb.offset_register(text,text,int[],bigint[],text)',
                                      'txb.offset_take(text,text,int,text,uuid,text)',
                                      'txb.group_register(text,text)',
                                      'txb.offset_release(text,text,int,bigint)',
                                      'txb.offset_pass(text,text,int,bigint,bigint,bigint)',
                                      'txb.batch_open(text,text,int,bigint,bigint,bigint,int,uuid,bigint,bigint)',
                                      'txb.batch_cut(text,text,int,bigint,int,uuid,bigint)',
                                      'txb.batch_close(text,text,int,int,int,int)',
                                      'txb.failed_add(text,text,int,bigint[],uuid[],text[],bytea[],text[],'
                                      'timestamptz[],bytea[],text[],jsonb[],text[],int[],bigint[],boolean[],text[],'
                                      'text[],text[],text,text)',
                                      'txb.failed_condemn(text,text,int,bigint,bigint,text,boolean,text)',
                                      'txb.failed_keys(text,text,int,int)',
                                      'txb.retry_mark(text,text,int,bigint,int,bigint,bigint[])',
                                      'txb.retry_open(text,text,int,bigint,bigint)',
                                      'txb.retry_settle(text,text,int,bigint[],text[],bigint[],text[],text[],text[],'
                                      'boolean,text)',
                                      'txb.batch_stall(text,text,int,bigint,bigint,int,bigint,text,text,text,boolean)',
                                      'txb.suspect_mark(text,text,int,bigint,bigint,int)',
                                      'txb.not_ok(bigint,txb.outcome)', 'txb.group_waits(text)',
                                      'txb.lane_claim(text,text,uuid,bigint,int,boolean)',
                                      'txb.job_republish(txb.message[])',
                                      'txb.lane_pass(int,uuid,int[],bigint[],text,bigint)',
                                      'txb.lane_free(int,uuid)', 'txb.lane_error(int,uuid,text)',
                                      'txb.failed_job_open(text)', 'txb.failed_job_work(text,text)',
                                      'txb.inbox_keep(text,interval)',
                                      'txb.failed_expire(text,text,interval,int)',
                                      'txb.inbox_partition_make(int,int)',
                                      'txb.inbox_partition_drop(interval)']) AS f (name)
                   WHERE to_regprocedure(f.name) IS NULL
                      OR NOT has_function_privilege(to_regprocedure(f.name), 'EXECUTE'))
       END AS missing,
       pg_is_in_recovery() AS standby, current_user::text AS role, current_database()::text AS database
