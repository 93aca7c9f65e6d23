-- Rows that have come in holes, in order. One index probe a range (R2: as a single OR this takes a hundred times
-- longer). The ranges come in order and apart from each other, so that reading one after the other gives order without
-- a sort, and the limit ends the reading: sorting by seq here would read every row of every range for each poll, and a
-- large transaction, whose rows all lie in holes when it commits, would take longer to read than the relay waits. The
-- reader checks the order.
-- $1 and $2 first and last numbers of the ranges, $3 lowest, $4 highest number of all (for planning), $5 rows, $6
-- bytes
SELECT w.seq, w.id, w.topic, w.key, w.type, w.payload, w.content_type, w.headers, w.created_at, w.size,
       w.origin, decode(w.origin ->> 'key', 'base64') AS kafka_key
  FROM (SELECT o.*, sum(o.size) OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
          FROM (SELECT r.*
                  FROM unnest($1, $2) WITH ORDINALITY AS h (lo, hi, n)
                 CROSS JOIN LATERAL
                       (SELECT t.seq, t.id, t.topic, t.key, t.type, t.payload, t.content_type, t.headers, t.created_at,
                                 coalesce(octet_length(t.payload), 0) + coalesce(pg_column_size(t.headers), 0)
                                 + coalesce(pg_column_size(t.origin), 0) AS size, t.origin
                          FROM txb.outbox AS t
                         WHERE t.seq BETWEEN h.lo AND h.hi AND t.seq BETWEEN $3 AND $4
                         ORDER BY t.seq
                         LIMIT $5) AS r
                 ORDER BY h.n
                 LIMIT $5) AS o) AS w
 WHERE coalesce(w.before, 0) < $6
