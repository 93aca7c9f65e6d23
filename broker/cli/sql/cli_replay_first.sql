-- When the first intent of a range was written; parameters as in cli_replay_count.sql.
SELECT i.created_at
  FROM txb.outbox AS i
 WHERE i.seq >= $2::int8 AND i.seq < $3::int8 AND i.topic = ANY ($4::text[]) AND $1::text IS NOT NULL
   AND (cardinality($5::bytea[]) = 0
        OR coalesce(decode(i.origin ->> 'key', 'base64'), convert_to(i.key, 'UTF8')) = ANY ($5::bytea[]))
   AND (cardinality($6::text[]) = 0
        OR CASE WHEN i.origin IS NULL THEN i.type ELSE i.origin ->> 'type' END = ANY ($6::text[]))
   AND ($7::timestamptz IS NULL OR i.created_at >= $7::timestamptz)
   AND ($8::timestamptz IS NULL OR i.created_at < $8::timestamptz)
 ORDER BY i.seq
 LIMIT 1
