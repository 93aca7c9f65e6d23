-- Sagas, the newest first: $1 of this name, $2 in this state, $3 with this key (null: any), $4 begun before, $5 how many,
-- $6 steps of this one. A step stays stuck until something happens to itself, whatever its neighbours do meanwhile.
SELECT pg_catalog.jsonb_build_object(
         'saga', s.id, 'name', s.name, 'version', s.version, 'key', s.key, 'state', s.state, 'started_at', s.started_at,
         'ended_at', s.ended_at, 'reason', s.reason,
         'ms', (extract(epoch FROM coalesce(s.ended_at, pg_catalog.clock_timestamp()) - s.started_at) * 1000)::int8)
  FROM (SELECT g.id, g.name, g.version, g.key, g.started_at, e.ended_at, coalesce(e.reason, l.reason) AS reason,
               CASE WHEN e.state IS NOT NULL THEN e.state WHEN l.event = 'stuck' THEN 'stuck' WHEN l.event = 'waits' THEN 'waiting'
                    ELSE 'running' END AS state
          FROM txb.saga AS g
          LEFT JOIN txb.saga_end AS e ON e.saga_id = g.id AND e.started_at = g.started_at
          LEFT JOIN LATERAL (SELECT v.event, pg_catalog.concat_ws(': ', v.step, v.reason) AS reason FROM txb.saga_event AS v
                              WHERE e.state IS NULL AND v.saga_id = g.id AND v.started_at = g.started_at
                                AND v.event IN ('stuck', 'waits')
                                AND NOT EXISTS (SELECT FROM txb.saga_event AS x
                                                 WHERE x.saga_id = v.saga_id AND x.started_at = v.started_at AND x.n > v.n
                                                   AND x.event NOT IN ('ignored', 'timer')
                                                   AND (v.event = 'waits' OR x.step = v.step))
                              ORDER BY v.event, v.n DESC LIMIT 1) AS l ON true
         WHERE ($1::text IS NULL OR g.name = $1) AND ($3::text IS NULL OR g.key = $3)
           AND ($4::text IS NULL OR g.started_at < $4::text::timestamptz)
           AND ($6::uuid IS NULL OR g.parent ->> 'saga' = $6::uuid::text
                                    AND g.started_at = (SELECT p.started_at FROM txb.saga AS p WHERE p.id = $6::uuid))) AS s
 WHERE $2::text IS NULL OR s.state = $2
 ORDER BY s.started_at DESC, s.id DESC
 LIMIT $5
