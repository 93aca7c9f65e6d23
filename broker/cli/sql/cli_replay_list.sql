SELECT l.job || pg_catalog.jsonb_build_object(
         'database', pg_catalog.current_database(),
         'run_ms', (extract(epoch FROM coalesce((l.job ->> 'finished_at')::timestamptz, pg_catalog.clock_timestamp())
                                       - (l.job ->> 'created_at')::timestamptz) * 1000)::int8)
  FROM txb.job_list($1::int8, $2::int4) AS l
