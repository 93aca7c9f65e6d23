-- A page of keys that were held, in order, each from its own number on: intents with what became of those that failed
-- (0 never failed, 1 to be sent, 2 done with, 3 waits for a person), and with the edition where there is one. Both bounds
-- are plan-time constants, so that only the partitions between them are read.
-- $1 first, $2 last number of the page, $3 topics, $4 keys, $5 the number from which on each is held, $6 rows, $7 bytes,
-- $8 source
SELECT w.seq, w.id, w.topic, w.key, w.type, w.payload, w.content_type, w.headers, w.created_at, w.size, w.failed,
       w.verdict
  FROM (SELECT o.*, sum(o.size) OVER (ORDER BY o.seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
          FROM (SELECT v.seq, v.id, v.topic, v.key, v.type, CASE WHEN v.verdict < 2 THEN v.payload END AS payload,
                       v.content_type, v.headers, v.created_at,
                       CASE WHEN v.verdict < 2 THEN coalesce(octet_length(v.payload), 0) ELSE 0 END
                       + coalesce(pg_column_size(v.headers), 0) AS size, v.failed, v.verdict
                  FROM (SELECT t.seq, CASE WHEN f.kept THEN f.id ELSE t.id END AS id, t.topic, t.key, t.type,
                               CASE WHEN f.kept THEN f.payload ELSE t.payload END AS payload,
                               CASE WHEN f.kept THEN f.content_type ELSE t.content_type END AS content_type,
                               CASE WHEN f.kept THEN f.headers ELSE t.headers END AS headers, t.created_at,
                               coalesce(f.number, 0) AS failed,
                               CASE f.state WHEN 'retrying' THEN 1 WHEN 'resolved' THEN 2 WHEN 'discarded' THEN 2
                                            WHEN 'dead' THEN 3 WHEN 'held' THEN 3 ELSE 0 END AS verdict
                          FROM txb.outbox AS t
                          JOIN unnest($3, $4, $5) AS k (topic, key, lo) ON k.topic = t.topic AND k.key = t.key
                          LEFT JOIN txb.failed AS f
                            ON f.side = 'outbox' AND f.replaced_by IS NULL AND f.source = $8 AND f.seq = t.seq
                         WHERE t.seq BETWEEN $1 AND $2 AND t.seq >= k.lo
                         ORDER BY t.seq
                         LIMIT $6) AS v) AS o) AS w
 WHERE coalesce(w.before, 0) < $7
 ORDER BY w.seq
