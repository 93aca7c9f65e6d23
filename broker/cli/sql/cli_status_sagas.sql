-- What the coordinator of this database has under way; no row: it has none.
SELECT pg_catalog.jsonb_build_object(
         'topic', c.topic, 'under_way', s.under_way, 'stuck', s.stuck, 'stuck_first', s.stuck_first,
         'stuck_age_ms', (extract(epoch FROM pg_catalog.clock_timestamp() - s.stuck_since) * 1000)::int8,
         'strays', s.strays)
  FROM txb.saga_coordinator AS c
 CROSS JOIN txb.sagas_seen() AS s
