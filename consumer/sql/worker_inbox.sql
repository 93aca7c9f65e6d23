-- Which of the ids ($2, sorted and distinct) are new to the group, in the run $3 (0: live). Sorted, so that two batches
-- with ids in common don't deadlock. What a plugin's handler publishes through txb.publish gets its ids from the first
-- new message (W14), and from the run as in worker_apply_message.sql: a repetition's id was the delivery of an earlier
-- batch, and would give the same ids again.
WITH fresh AS (
  INSERT INTO txb.inbox (group_name, run, message_id) SELECT $1, $3::bigint, u.id FROM unnest($2::uuid[]) AS u (id)
  ON CONFLICT DO NOTHING RETURNING message_id
), delivery AS MATERIALIZED (
  SELECT set_config('txb.delivery', CASE WHEN $3::bigint = 0 THEN $1 ELSE $1 || '/' || $3::bigint::text END
                                    || '/' || f.message_id::text, true), set_config('txb.ordinal', '0', true)
    FROM (SELECT n.message_id FROM fresh AS n ORDER BY n.message_id LIMIT 1) AS f
)
SELECT f.message_id FROM fresh AS f CROSS JOIN delivery
