SELECT h.source, h.kind, h.topic, h.key, h.lo,
       (extract(epoch FROM pg_catalog.clock_timestamp() - h.since) * 1000)::int8 AS age_ms, h.error
  FROM txb.relay_hold AS h
 ORDER BY h.source, h.lo
 LIMIT 1000
