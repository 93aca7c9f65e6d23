-- A negative partition is a lane of a replay job, which is told in its place, with the partition of Kafka that it reads
-- (null: an outbox).
SELECT pg_catalog.to_jsonb(f)
       || coalesce((SELECT pg_catalog.jsonb_build_object('partition', NULL, 'job', l.job, 'from_partition',
                                                           nullif(l.from_partition, -1))
                      FROM txb.job_lane AS l WHERE f.partition < 0 AND l.lane = -f.partition), '{}')
  FROM txb.failed_find($1::jsonb, $2::int8, $3::int4) AS f
