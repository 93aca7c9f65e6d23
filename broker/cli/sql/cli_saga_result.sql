SELECT pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object('saga', $1::uuid, 'state', r.state, 'reason', r.reason,
                                                                  'ended_at', r.ended_at))
       || CASE WHEN r.output IS NULL THEN '{}' ELSE pg_catalog.jsonb_build_object('output', r.output) END
  FROM txb.saga_result($1) AS r
