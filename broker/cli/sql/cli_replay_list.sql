SELECT pg_catalog.to_jsonb(j) - 'keys' - 'run'
       || pg_catalog.jsonb_build_object(
            'database', pg_catalog.current_database(),
            'keys', (SELECT pg_catalog.jsonb_agg(txb.key_text(k.key)) FROM pg_catalog.unnest(j.keys) AS k (key)),
            'run_ms', (extract(epoch FROM coalesce(j.finished_at, pg_catalog.clock_timestamp()) - j.created_at)
                       * 1000)::int8)
  FROM txb.job_list($1::int8, $2::int4) AS j
