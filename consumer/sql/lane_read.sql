-- A page of a lane: what was published of a topic, in order. A copy (txb.outbox_copy) is the message that it was made from,
-- with the headers that the copy was given. What failed to be published is in it once it was published
-- after all, as its last edition and in the place of the first; what was discarded is not, nor what still waits, a key's
-- or a topic's held intents with it: they reach the group through Kafka later, and read here they would overtake what
-- holds them. The records of what failed are looked up one by one, and only where there is one in the range.
-- Both bounds are plan-time constants (plan_cache_mode = force_custom_plan): only the partitions between them are read,
-- along their index, up to the limit. One row always passes: a page was cut off if it has $8 rows, or if its sizes add up
-- to $10 or more.
-- $1 first number, $2 the one behind the last, $3 topic; $4 keys, $5 types, $6 and $7 the times between which intents were
-- written (each null: all); $8 rows, $9 source, $10 bytes
SELECT w.seq, w.id, w.key, w.type, w.payload, w.content_type, w.headers, w.created_at, w.size,
       w.origin IS NOT NULL AS copied, w.origin ->> 'source' AS copied_source,
       decode(w.origin ->> 'key', 'base64') AS copied_key
  FROM (SELECT o.*, sum(o.size) OVER (ORDER BY o.seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
          FROM (SELECT i.seq, CASE WHEN f.kept THEN f.id ELSE i.id END AS id, i.key,
                       CASE WHEN i.origin IS NULL THEN i.type ELSE i.origin ->> 'type' END AS type,
                       CASE WHEN f.kept THEN f.payload ELSE i.payload END AS payload,
                       CASE WHEN f.kept THEN f.content_type ELSE i.content_type END AS content_type,
                       CASE WHEN f.kept THEN f.headers ELSE i.headers END AS headers,
                       CASE WHEN i.origin IS NULL THEN i.created_at
                            ELSE coalesce((i.origin ->> 'time')::timestamptz, to_timestamp(0)) END AS created_at,
                       CASE WHEN f.kept THEN coalesce(octet_length(f.payload), 0)
                            ELSE coalesce(octet_length(i.payload), 0) END
                       + coalesce(pg_column_size(CASE WHEN f.kept THEN f.headers ELSE i.headers END), 0)
                       + coalesce(pg_column_size(i.origin), 0) AS size, i.origin
                  FROM txb.outbox AS i
                  LEFT JOIN LATERAL (SELECT r.state, r.kept, r.id, r.payload, r.content_type, r.headers
                                       FROM txb.failed AS r
                                      WHERE (SELECT EXISTS (SELECT FROM txb.failed AS a
                                                             WHERE a.side = 'outbox' AND a.replaced_by IS NULL
                                                               AND a.source = $9 AND a.seq >= $1 AND a.seq < $2))
                                        AND r.side = 'outbox' AND r.replaced_by IS NULL AND r.source = $9
                                        AND r.seq = i.seq
                                      LIMIT 1) AS f ON true
                 WHERE i.seq >= $1 AND i.seq < $2 AND i.topic = $3
                   AND (f.state IS NULL OR f.state = 'resolved')
                   AND i.seq < coalesce((SELECT min(h.lo) FROM txb.relay_hold AS h
                                          WHERE h.kind = 'topic' AND h.source = $9 AND h.topic = $3),
                                        9223372036854775807)
                   AND CASE WHEN (SELECT EXISTS (SELECT FROM txb.relay_hold AS h
                                                  WHERE h.kind = 'key' AND h.source = $9 AND h.topic = $3))
                            THEN NOT EXISTS (SELECT FROM txb.relay_hold AS h
                                              WHERE h.kind = 'key' AND h.source = $9 AND h.topic = $3
                                                AND h.key = i.key COLLATE "C" AND h.lo <= i.seq)
                            ELSE true END
                   AND ($4::bytea[] IS NULL
                        OR coalesce(decode(i.origin ->> 'key', 'base64'), convert_to(i.key, 'UTF8')) = ANY ($4::bytea[]))
                   AND ($5::text[] IS NULL
                        OR CASE WHEN i.origin IS NULL THEN i.type ELSE i.origin ->> 'type' END = ANY ($5::text[]))
                   AND ($6::timestamptz IS NULL OR i.created_at >= $6::timestamptz)
                   AND ($7::timestamptz IS NULL OR i.created_at < $7::timestamptz)
                 ORDER BY i.seq
                 LIMIT $8) AS o) AS w
 WHERE coalesce(w.before, 0) < $10
 ORDER BY w.seq
