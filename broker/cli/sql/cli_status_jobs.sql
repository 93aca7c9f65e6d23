-- Replay jobs that are at work or paused, and those that have failed messages left.
SELECT pg_catalog.to_jsonb(j) - 'keys' - 'run'
       || pg_catalog.jsonb_build_object(
            'keys', (SELECT pg_catalog.jsonb_agg(txb.key_text(k.key)) FROM pg_catalog.unnest(j.keys) AS k (key)))
  FROM (SELECT o.number FROM txb.job AS o WHERE o.state IN ('running', 'paused')
        UNION
        SELECT l.job FROM txb.failed AS f JOIN txb.job_lane AS l ON l.lane = -f.partition
         WHERE f.side = 'consumer' AND f.partition < 0 AND f.state IN ('retrying', 'held', 'dead')) AS n
 CROSS JOIN LATERAL txb.job_show(n.number) AS j
 ORDER BY j.number
