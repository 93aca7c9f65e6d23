-- What sagas hold and wait for, by name, the holder first: $1 names that begin so, $2 of this saga or what is within it (null:
-- any), $3 how many.
SELECT pg_catalog.jsonb_build_object(
         'name', l.name, 'held', l.granted, 'turn', l.turn, 'saga', l.saga_id, 'saga_name', s.name, 'root', l.root,
         'since', l.since, 'ms', (extract(epoch FROM pg_catalog.clock_timestamp() - l.since) * 1000)::int8)
  FROM (SELECT k.name, k.granted, k.saga_id, k.started_at, k.root, coalesce(k.granted_at, k.asked_at) AS since,
               CASE WHEN NOT k.granted THEN pg_catalog.row_number() OVER (PARTITION BY k.name, k.granted ORDER BY k.place) END AS turn
          FROM txb.saga_lock AS k
         WHERE $1::text IS NULL OR pg_catalog.starts_with(k.name, $1)) AS l
  LEFT JOIN txb.saga AS s ON s.id = l.saga_id AND s.started_at = l.started_at
 WHERE $2::uuid IS NULL OR l.saga_id = $2 OR l.root = $2
 ORDER BY l.name, l.turn NULLS FIRST
 LIMIT $3
