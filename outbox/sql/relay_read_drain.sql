-- A page of a topic that was held, in order. What has failed is not in it: it waits for its key's drain, or is done
-- with. $1 first, $2 last number of the page, $3 topic, $4 rows, $5 bytes, $6 source
SELECT w.seq, w.id, w.topic, w.key, w.type, w.payload, w.content_type, w.headers, w.created_at, w.size,
       w.origin, decode(w.origin ->> 'key', 'base64') AS kafka_key
  FROM (SELECT o.*, sum(o.size) OVER (ORDER BY o.seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
          FROM (SELECT t.seq, t.id, t.topic, t.key, t.type, t.payload, t.content_type, t.headers, t.created_at,
                         coalesce(octet_length(t.payload), 0) + coalesce(pg_column_size(t.headers), 0)
                         + coalesce(pg_column_size(t.origin), 0) AS size, t.origin
                  FROM txb.outbox AS t
                 WHERE t.seq BETWEEN $1 AND $2 AND t.topic = $3
                   AND (SELECT f.number
                          FROM txb.failed AS f
                         WHERE f.side = 'outbox' AND f.replaced_by IS NULL AND f.source = $6 AND f.seq = t.seq
                         LIMIT 1) IS NULL
                 ORDER BY t.seq
                 LIMIT $4) AS o) AS w
 WHERE coalesce(w.before, 0) < $5
 ORDER BY w.seq
