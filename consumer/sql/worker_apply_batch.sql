-- Applies a batch by one call of @handler@ (the function's quoted name) with all new messages in their order;
-- parameters as in worker_apply_message.sql. No new message: no call. The answers must be as many as the messages; each
-- counts by its place. Commands come behind them, a call for each; where there are none, nothing is looked at for them.
WITH fresh AS MATERIALIZED (
  INSERT INTO txb.inbox (group_name, run, message_id) SELECT $1, $16::bigint, u.id FROM unnest((SELECT $5::uuid[])) AS u (id)
  ON CONFLICT DO NOTHING RETURNING message_id
), batch AS MATERIALIZED (
  SELECT array_agg(ROW(m.source, m.id, $2, $3, m.message_offset, m.key, m.type, m.happened_at, m.payload, m.content_type,
                       m.headers, $4)::txb.message) AS messages,
         array_agg(m.message_offset) AS offsets, (array_agg(m.id))[1] AS first_id, count(*) AS size
    -- Sorted once, here: each aggregate would sort for itself.
    FROM (SELECT u.*
            FROM (SELECT a.*
                    FROM unnest((SELECT $6::uuid[]), (SELECT $7::bigint[]), (SELECT $8::text[]), (SELECT $9::bytea[]),
                                (SELECT $10::text[]), (SELECT $11::timestamptz[]), (SELECT $12::bytea[]),
                                (SELECT $13::text[]), (SELECT $14::jsonb[])) WITH ORDINALITY
                         AS a (id, message_offset, source, key, type, happened_at, payload, content_type, headers, nth)
                   CROSS JOIN generate_series(1, (SELECT $15::int))
                  OFFSET 0) AS u
            JOIN fresh AS f ON f.message_id = u.id
           WHERE NOT (SELECT $17::boolean) OR (u.headers ? 'txb-reply-to') IS NOT TRUE
           ORDER BY u.nth
          OFFSET 0) AS m
  HAVING count(*) > 0
), command AS MATERIALIZED (
  SELECT array_agg(ROW(m.source, m.id, $2, $3, m.message_offset, m.key, m.type, m.happened_at, m.payload, m.content_type,
                       m.headers, $4)::txb.message) AS messages,
         array_agg(CASE WHEN $16::bigint = 0 THEN $1 ELSE $1 || '/' || $16::bigint::text END || '/' || m.id::text)
         AS deliveries
    FROM (SELECT u.*
            FROM (SELECT a.*
                    FROM unnest((SELECT $6::uuid[]), (SELECT $7::bigint[]), (SELECT $8::text[]), (SELECT $9::bytea[]),
                                (SELECT $10::text[]), (SELECT $11::timestamptz[]), (SELECT $12::bytea[]),
                                (SELECT $13::text[]), (SELECT $14::jsonb[])) WITH ORDINALITY
                         AS a (id, message_offset, source, key, type, happened_at, payload, content_type, headers, nth)
                   CROSS JOIN generate_series(1, (SELECT $15::int))
                   WHERE (SELECT $17::boolean)
                  OFFSET 0) AS u
            JOIN fresh AS f ON f.message_id = u.id
           WHERE u.headers ? 'txb-reply-to'
           ORDER BY u.nth
          OFFSET 0) AS m
)
SELECT set_config('txb.applied',
                  CASE WHEN c.answers = c.messages THEN c.applied + d.applied
                       ELSE txb.not_ok(-1, ROW('error', NULL, 'the handler gave ' || c.answers::text || ' outcomes for '
                                               || c.messages::text || ' messages: it must give one for each, in their order',
                                               NULL)::txb.outcome) END::text, true)
  FROM (SELECT count(a.place) AS answers, coalesce(max(a.messages), 0) AS messages,
               count(CASE WHEN a.place IS NULL THEN NULL WHEN (a.whole).outcome = 'ok' THEN 1
                          ELSE txb.not_ok(coalesce(a.message_offset, -1), a.whole) END) AS applied
          FROM (SELECT o.place, b.offsets[o.place] AS message_offset, b.size AS messages,
                       ROW(o.outcome, o.output, o.reason, o.after)::txb.outcome AS whole
                  FROM batch AS b
                  LEFT JOIN LATERAL @handler@(CASE WHEN set_config('txb.delivery',
                                                                    CASE WHEN $16::bigint = 0 THEN $1
                                                                         ELSE $1 || '/' || $16::bigint::text END
                                                                    || '/' || b.first_id::text, true) IS NOT NULL
                                                    AND set_config('txb.ordinal', '0', true) IS NOT NULL
                                                   THEN b.messages END)
                            WITH ORDINALITY AS o (outcome, output, reason, after, place) ON true
                OFFSET 0) AS a
       OFFSET 0) AS c
       CROSS JOIN LATERAL
       (SELECT CASE WHEN m.messages IS NULL OR c.applied IS NULL THEN 0
                    ELSE txb.commands_apply(m.messages, m.deliveries, @handler_text@, true) END AS applied
          FROM command AS m
        OFFSET 0) AS d
