-- Intents without an order that failed and are to be sent again. Where neither the outbox nor the record has one, its
-- partition is being dropped this moment: a later snapshot finds it in the record. $1 after this number, $2 rows, $3
-- bytes, $4 source. What has its saga's number for its key goes to the saga's partition (0033_sagas_hold_nothing.sql).
SELECT w.seq, w.id, w.topic, w.key, w.type, w.payload, w.content_type, w.headers, w.created_at, w.size,
       w.origin, CASE WHEN w.origin IS NULL THEN convert_to(w.headers ->> 'txb-saga', 'UTF8') END AS kafka_key, w.failed, 1
  FROM (SELECT o.*, sum(o.size) OVER (ORDER BY o.seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
          FROM (SELECT f.seq, f.id, f.topic, NULL::text AS key, f.type, i.payload, f.content_type, f.headers,
                       f."time" AS created_at,
                       coalesce(octet_length(i.payload), 0) + coalesce(pg_column_size(f.headers), 0)
                       + coalesce(pg_column_size(f.origin), 0) AS size, f.origin,
                       f.number AS failed
                  FROM txb.failed AS f
                 CROSS JOIN LATERAL (SELECT f.payload WHERE f.kept
                                     UNION ALL
                                     SELECT t.payload FROM txb.outbox AS t WHERE NOT f.kept AND t.seq = f.seq) AS i
                 WHERE f.side = 'outbox' AND f.source = $4 AND f.state = 'retrying' AND f.key IS NULL AND f.seq > $1
                 ORDER BY f.seq
                 LIMIT $2) AS o) AS w
 WHERE coalesce(w.before, 0) < $3
 ORDER BY w.seq
