-- relay_read_tail.sql while little comes: so few rows that their sizes need not be added up. It takes half as long to
-- plan, which is most of what a poll for two or three rows costs. $1 highest, $2 bound, $3 rows
SELECT t.seq, t.id, t.topic, t.key, t.type, t.payload, t.content_type, t.headers, t.created_at,
       coalesce(octet_length(t.payload), 0) + coalesce(pg_column_size(t.headers), 0)
       + coalesce(pg_column_size(t.origin), 0) AS size,
       t.origin, decode(t.origin ->> 'key', 'base64') AS kafka_key
  FROM txb.outbox AS t
 WHERE t.seq > $1 AND t.seq <= $2
 ORDER BY t.seq
 LIMIT $3
