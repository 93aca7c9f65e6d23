-- Applies a batch message by message; @handler@ stands for the function's quoted name. $1 group, $2 topic, $3
-- partition, $4 attempt, $5 the candidates' ids sorted, $6 to $14 the candidates in their order, $15 the number 1, $16
-- the run (0: live; else a forced replay's, which is once in itself: J2), $17 whether there are commands among them. An
-- outcome other than ok raises TXB02, so that the COMMIT behind it does not happen.
--
-- The inbox decides which are new. They are sorted, and the handler is called one level above the sort, so it meets
-- them in the order of the arrays (not of their offsets: behind a held key those of Kafka and numbers of an outbox stand
-- mixed); OFFSET 0 keeps the answer from being computed twice. What the handler publishes gets its ids from the delivery
-- that is set just before the call (W14): group/message id, of a run group/run/message id, or what it publishes would
-- pass for what the live delivery published.
-- Commands, which say where their answer goes, are handled behind the barrier (schemas/sql/0027_command_batches.sql), and
-- behind the other messages of the batch.
-- The series of $15 numbers is there for the planner: it takes an array that it can't see for 10 rows and a series for
-- 1,000. 10 rows it might join with the 10 of the inbox by a nested loop, which for a full batch takes a million steps;
-- 10,000 it hashes. It can't see them since each stands in a query of its own: else a plan for this batch's sizes would
-- always look cheaper than the one for all, and each batch would be planned anew (0.6 ms, as much as a small batch's
-- other statements together).
WITH fresh AS MATERIALIZED (
  INSERT INTO txb.inbox (group_name, run, message_id) SELECT $1, $16::bigint, u.id FROM unnest((SELECT $5::uuid[])) AS u (id)
  ON CONFLICT DO NOTHING RETURNING message_id
), message AS (
  SELECT u.id, u.message_offset,
         CASE WHEN $16::bigint = 0 THEN $1 ELSE $1 || '/' || $16::bigint::text END || '/' || u.id::text AS delivery,
         ROW(u.source, u.id, $2, $3, u.message_offset, u.key, u.type, u.happened_at, u.payload, u.content_type,
             u.headers, $4)::txb.message AS whole
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
SELECT set_config('txb.applied', (c.applied + d.applied)::text, true)
  FROM (SELECT count(CASE WHEN (h.answer).outcome = 'ok' THEN 1 ELSE txb.not_ok(h.message_offset, h.answer) END)
               AS applied
          FROM (SELECT m.message_offset,
                       @handler@(CASE WHEN set_config('txb.delivery', m.delivery, true) IS NOT NULL
                                       AND set_config('txb.ordinal', '0', true) IS NOT NULL
                                      THEN m.whole END) AS answer
                  FROM message AS m
                OFFSET 0) AS h
       OFFSET 0) AS c
       CROSS JOIN LATERAL
       (SELECT CASE WHEN m.messages IS NULL OR c.applied IS NULL THEN 0
                    ELSE txb.commands_apply(m.messages, m.deliveries, @handler_text@, false) END AS applied
          FROM command AS m
        OFFSET 0) AS d
