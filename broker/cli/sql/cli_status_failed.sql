-- The open failed messages of each group and source: how many in which state, what is due, the key that is held longest.
SELECT CASE f.side WHEN 'consumer' THEN f.group_name ELSE f.source END AS name,
       f.side = 'consumer' AS consumer,
       count(*) FILTER (WHERE f.state = 'retrying') AS retrying,
       count(*) FILTER (WHERE f.state = 'held') AS held,
       count(*) FILTER (WHERE f.state = 'dead') AS dead,
       count(*) FILTER (WHERE f.state = 'retrying' AND f.next_attempt_at <= pg_catalog.clock_timestamp()) AS due,
       (extract(epoch FROM min(f.next_attempt_at) FILTER (WHERE f.state = 'retrying') - pg_catalog.clock_timestamp())
        * 1000)::int8 AS next_due_in_ms,
       min(f.number) FILTER (WHERE f.holds AND f.state <> 'held') AS oldest_number
  FROM txb.failed AS f
 WHERE f.state IN ('retrying', 'held', 'dead')
 GROUP BY 1, 2
 ORDER BY 1, 2
