-- A page of a lane's range, in the source's database: $1 from (inclusive), $2 to (exclusive), $3 topic, $4 keys, $5
-- types, $6 and $7 the times between which intents were written (each null: all), $8 rows at most, $9 source.
-- Fewer rows than asked for: nothing more lies below $2.
--
-- Left out: what was discarded, and what is not published yet, since it waits for a decision or for its topic: when that
-- is over it comes live. An edited copy takes the place of its original.
SELECT o.seq, coalesce(e.id, o.id) AS id, o.key, coalesce(e.type, o.type) AS type,
       CASE WHEN e.number IS NULL THEN o.payload ELSE e.payload END AS payload,
       CASE WHEN e.number IS NULL THEN o.content_type ELSE e.content_type END AS content_type,
       CASE WHEN e.number IS NULL THEN o.headers ELSE e.headers END AS headers, o.created_at
  FROM txb.outbox AS o
  LEFT JOIN txb.failed AS f
    ON f.side = 'outbox' AND f.replaced_by IS NULL AND f.source = $9::text AND f.seq = o.seq
  LEFT JOIN txb.failed AS e ON e.number = f.number AND e.replaces IS NOT NULL
 WHERE o.seq >= $1::bigint AND o.seq < $2::bigint AND o.topic = $3::text
   AND ($4::bytea[] IS NULL OR convert_to(o.key, 'UTF8') = ANY ($4::bytea[]))
   AND ($5::text[] IS NULL OR o.type = ANY ($5::text[]))
   AND ($6::timestamptz IS NULL OR o.created_at >= $6::timestamptz)
   AND ($7::timestamptz IS NULL OR o.created_at < $7::timestamptz)
   AND (f.number IS NULL OR f.state = 'resolved')
   AND NOT EXISTS (SELECT FROM txb.relay_hold AS h
                    WHERE h.source = $9::text AND h.topic = o.topic AND h.lo <= o.seq
                      AND (h.kind = 'topic' OR h.key = o.key))
 ORDER BY o.seq
 LIMIT $8::bigint
