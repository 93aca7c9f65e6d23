-- A negative partition is a lane of a replay job, which is told in its place, with the partition of Kafka that it reads
-- (null: an outbox).
SELECT s.message
       || coalesce((SELECT pg_catalog.jsonb_build_object('partition', NULL, 'job', l.job, 'from_partition',
                                                           nullif(l.from_partition, -1))
                      FROM txb.job_lane AS l
                     WHERE (s.message ->> 'partition')::int4 < 0 AND l.lane = -(s.message ->> 'partition')::int4),
                   '{}'),
       s.key, s.payload, s.history, s.editions, s.head, s.behind, s.behind_first, s.waits_in_outbox
  FROM txb.failed_show($1::int8) AS s
