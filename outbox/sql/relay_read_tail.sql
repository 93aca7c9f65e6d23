-- Rows above the highest number read, in order. Both bounds are plan-time constants (plan_cache_mode =
-- force_custom_plan), so that planning leaves only the partitions between them. The size of a stored value is known
-- without reading its TOAST. One row always passes: a read was cut off if it has $3 rows, or if its sizes add up to $4
-- or more.
-- $1 highest, $2 bound, $3 rows, $4 bytes
SELECT w.seq, w.id, w.topic, w.key, w.type, w.payload, w.content_type, w.headers, w.created_at, w.size,
       w.origin, decode(w.origin ->> 'key', 'base64') AS kafka_key
  FROM (SELECT o.*, sum(o.size) OVER (ORDER BY o.seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
          FROM (SELECT t.seq, t.id, t.topic, t.key, t.type, t.payload, t.content_type, t.headers, t.created_at,
                         coalesce(octet_length(t.payload), 0) + coalesce(pg_column_size(t.headers), 0)
                         + coalesce(pg_column_size(t.origin), 0) AS size, t.origin
                  FROM txb.outbox AS t
                 WHERE t.seq > $1 AND t.seq <= $2
                 ORDER BY t.seq
                 LIMIT $3) AS o) AS w
 WHERE coalesce(w.before, 0) < $4
 ORDER BY w.seq
