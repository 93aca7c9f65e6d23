-- Applies a batch by one call of @handler@ (the function's quoted name) with all new messages in offset order; parameters as in worker_apply_message.sql.
-- No new message: no call. The answers must be as many as the messages; each counts by its place.
WITH fresh AS MATERIALIZED (
  INSERT INTO txb.inbox (group_name, message_id) SELECT $1, u.id FROM unnest($5::uuid[]) AS u (id)
  ON CONFLICT DO NOTHING RETURNING message_id
), batch AS MATERIALIZED (
  SELECT array_agg(ROW(m.source, m.id, $2, $3, m.message_offset, m.key, m.type, m.happened_at, m.payload, m.content_type, m.headers, $4)::txb.message
                   ORDER BY m.message_offset) AS messages,
         array_agg(m.message_offset ORDER BY m.message_offset) AS offsets,
         (array_agg(m.id ORDER BY m.message_offset))[1] AS first_id
    FROM (SELECT u.*
            FROM unnest($6::uuid[], $7::bigint[], $8::text[], $9::bytea[], $10::text[], $11::timestamptz[], $12::bytea[], $13::text[],
                        $14::jsonb[]) AS u (id, message_offset, source, key, type, happened_at, payload, content_type, headers)
           CROSS JOIN generate_series(1, $15::int)
          OFFSET 0) AS m
    JOIN fresh AS f ON f.message_id = m.id
  HAVING count(*) > 0
)
SELECT set_config('txb.applied', CASE WHEN a.answers = a.messages THEN a.applied
                                      ELSE txb.not_ok(-1, ROW('error', NULL, 'the handler gave ' || a.answers || ' outcomes for ' || a.messages
                                                              || ' messages: it must give one for each, in their order', NULL)::txb.outcome) END::text, true)
  FROM (SELECT count(h.place) AS answers, coalesce(max(cardinality(h.offsets)), 0) AS messages,
               count(CASE WHEN h.place IS NULL THEN NULL WHEN (h.answer).outcome = 'ok' THEN 1
                          ELSE txb.not_ok(coalesce(h.offsets[h.place], -1), h.answer) END) AS applied
          FROM (SELECT b.offsets, o.place, ROW(o.outcome, o.output, o.reason, o.after)::txb.outcome AS answer
                  FROM batch AS b
                  LEFT JOIN LATERAL @handler@(CASE WHEN set_config('txb.delivery', $1 || '/' || b.first_id, true) IS NOT NULL
                                                    AND set_config('txb.ordinal', '0', true) IS NOT NULL THEN b.messages END)
                            WITH ORDINALITY AS o (outcome, output, reason, after, place) ON true
                OFFSET 0) AS h) AS a
