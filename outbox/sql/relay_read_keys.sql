-- A page of keys that were held, in order: intents with what became of those that failed (0 never failed, 1 to be sent,
-- 2 done with, 3 waits for a person), and with the edition where there is one. Both bounds are plan-time constants, so
-- that only the partitions between them are read, along their index, up to the limit: as a join with the keys, the whole
-- range would be sorted for each page. The array is looked up by hash; records are looked up one by one (LIMIT keeps the
-- planner, which may know nothing of the table, from reading all of them). No topic's name has a slash.
-- $1 first, $2 last number of the page, $3 topic/key of each, $4 rows, $5 bytes, $6 source
SELECT w.seq, w.id, w.topic, w.key, w.type, w.payload, w.content_type, w.headers, w.created_at, w.size,
       w.origin, decode(w.origin ->> 'key', 'base64') AS kafka_key, w.failed, w.verdict
  FROM (SELECT o.*, sum(o.size) OVER (ORDER BY o.seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
          FROM (SELECT i.seq, CASE WHEN f.kept THEN f.id ELSE i.id END AS id, i.topic, i.key, i.type,
                       CASE WHEN v.verdict > 1 THEN NULL WHEN f.kept THEN f.payload ELSE i.payload END AS payload,
                       CASE WHEN f.kept THEN f.content_type ELSE i.content_type END AS content_type,
                       CASE WHEN f.kept THEN f.headers ELSE i.headers END AS headers, i.created_at,
                       CASE WHEN v.verdict > 1 THEN 0 WHEN f.kept THEN coalesce(octet_length(f.payload), 0)
                            ELSE coalesce(octet_length(i.payload), 0) END
                       + coalesce(pg_column_size(CASE WHEN f.kept THEN f.headers ELSE i.headers END), 0)
                       + coalesce(pg_column_size(i.origin), 0) AS size, i.origin,
                       coalesce(f.number, 0) AS failed, v.verdict
                  FROM (SELECT t.seq, t.id, t.topic, t.key, t.type, t.payload, t.content_type, t.headers, t.created_at,
                               t.origin
                          FROM txb.outbox AS t
                         WHERE t.seq BETWEEN $1 AND $2 AND t.topic || '/' || t.key COLLATE "C" = ANY ($3::text[])
                         ORDER BY t.seq
                         LIMIT $4) AS i
                  LEFT JOIN LATERAL (SELECT r.*
                                       FROM txb.failed AS r
                                      WHERE r.side = 'outbox' AND r.replaced_by IS NULL AND r.source = $6
                                        AND r.seq = i.seq
                                      LIMIT 1) AS f ON true
                 CROSS JOIN LATERAL (SELECT CASE f.state WHEN 'retrying' THEN 1 WHEN 'resolved' THEN 2
                                                         WHEN 'discarded' THEN 2 WHEN 'dead' THEN 3 WHEN 'held' THEN 3
                                                         ELSE 0 END AS verdict) AS v) AS o) AS w
 WHERE coalesce(w.before, 0) < $5
 ORDER BY w.seq
