-- One saga, with everything that happened to it, its definition, and the sagas that its steps are: the ids of those are in its
-- events. No row: there is none.
SELECT pg_catalog.jsonb_build_object(
         'saga', s.id, 'name', s.name, 'version', s.version, 'key', s.key, 'input', s.input, 'started_at', s.started_at,
         'started_by', s.started_by, 'deadline_at', s.deadline_at, 'reply_topic', s.reply_topic, 'state', e.state,
         'ended_at', e.ended_at, 'output', e.output, 'reason', e.reason,
         'parent', s.parent, 'children', coalesce(k.children, '[]'),
         'ms', (extract(epoch FROM coalesce(e.ended_at, pg_catalog.clock_timestamp()) - s.started_at) * 1000)::int8,
         'started_us', (extract(epoch FROM s.started_at) * 1000000)::int8,
         'deadline_us', (extract(epoch FROM s.deadline_at) * 1000000)::int8,
         'locks', coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
                                     'name', l.name, 'held', l.granted, 'since', coalesce(l.granted_at, l.asked_at),
                                     'holder', CASE WHEN NOT l.granted THEN
                                                 (SELECT h.saga_id FROM txb.saga_lock AS h WHERE h.name = l.name AND h.granted) END))
                                   ORDER BY l.name)
                              FROM txb.saga_lock AS l WHERE l.saga_id = s.id), '[]')),
       d.body,
       coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
                          'n', v.n, 'at', v.at, 'event', v.event, 'step', v.step, 'sending', v.sending, 'reason', v.reason,
                          'who', v.who, 'sent', v.sent, 'timer_at', v.timer_at, 'message_id', v.message_id,
                          'partition', v.message_partition, 'offset', v.message_offset,
                          'at_us', (extract(epoch FROM v.at) * 1000000)::int8,
                          'timer_us', (extract(epoch FROM v.timer_at) * 1000000)::int8,
                          'ms', (extract(epoch FROM v.at - s.started_at) * 1000)::int8))
                          || CASE WHEN v.output IS NULL THEN '{}' ELSE pg_catalog.jsonb_build_object('output', v.output) END
                        ORDER BY v.n)
                   FROM txb.saga_event AS v WHERE v.saga_id = s.id AND v.started_at = s.started_at), '[]'),
       d.nested
  FROM txb.saga AS s
  LEFT JOIN txb.saga_end AS e ON e.saga_id = s.id AND e.started_at = s.started_at
  LEFT JOIN txb.saga_definition AS d ON d.name = s.name AND d.version = s.version
  LEFT JOIN LATERAL (
    SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
             'saga', c.id, 'step', i.step, 'name', c.name, 'version', c.version,
             'state', CASE WHEN f.state IS NOT NULL THEN f.state WHEN l.event = 'stuck' THEN 'stuck' ELSE 'running' END,
             'reason', f.reason) ORDER BY i.n) AS children
      FROM (SELECT x.value ->> 'saga' AS id, pg_catalog.min(x.value ->> 'step') AS step, pg_catalog.min(v.n) AS n
              FROM txb.saga_event AS v CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(v.sent) AS x (value)
             WHERE v.saga_id = s.id AND v.started_at = s.started_at AND x.value ? 'saga' GROUP BY 1) AS i
      JOIN txb.saga AS c ON c.id = i.id::uuid AND c.started_at = s.started_at
      LEFT JOIN txb.saga_end AS f ON f.saga_id = c.id AND f.started_at = c.started_at
      LEFT JOIN LATERAL (SELECT v.event FROM txb.saga_event AS v
                          WHERE f.state IS NULL AND v.saga_id = c.id AND v.started_at = c.started_at
                            AND v.event IN ('stuck', 'waits')
                            AND NOT EXISTS (SELECT FROM txb.saga_event AS x
                                             WHERE x.saga_id = v.saga_id AND x.started_at = v.started_at AND x.n > v.n
                                               AND x.event NOT IN ('ignored', 'timer')
                                               AND (v.event = 'waits' OR x.step = v.step))
                          ORDER BY v.event, v.n DESC LIMIT 1) AS l ON true) AS k ON true
 WHERE s.id = $1
