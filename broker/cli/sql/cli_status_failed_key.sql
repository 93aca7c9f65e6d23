SELECT f.topic, txb.key_text(f.key) AS key, f.state,
       (extract(epoch FROM pg_catalog.clock_timestamp() - f.created_at) * 1000)::int8 AS age_ms
  FROM txb.failed AS f
 WHERE f.number = $1::int8
