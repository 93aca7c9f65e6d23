-- How many sagas of $1 (null: any) are in each state.
SELECT coalesce(pg_catalog.jsonb_object_agg(c.state, c.count), '{}')
  FROM (SELECT s.state, count(*) AS count
          FROM (SELECT CASE WHEN e.state IS NOT NULL THEN e.state WHEN l.event = 'stuck' THEN 'stuck'
                            WHEN l.event = 'waits' THEN 'waiting' ELSE 'running' END AS state
                  FROM txb.saga AS g
                  LEFT JOIN txb.saga_end AS e ON e.saga_id = g.id AND e.started_at = g.started_at
                  LEFT JOIN LATERAL (SELECT v.event FROM txb.saga_event AS v
                                      WHERE e.state IS NULL AND v.saga_id = g.id AND v.started_at = g.started_at
                                        AND v.event IN ('stuck', 'waits')
                                        AND NOT EXISTS (SELECT FROM txb.saga_event AS x
                                                         WHERE x.saga_id = v.saga_id AND x.started_at = v.started_at AND x.n > v.n
                                                           AND x.event NOT IN ('ignored', 'timer')
                                                           AND (v.event = 'waits' OR x.step = v.step))
                                      ORDER BY v.event, v.n DESC LIMIT 1) AS l ON true
                 WHERE $1::text IS NULL OR g.name = $1) AS s
         GROUP BY s.state) AS c
