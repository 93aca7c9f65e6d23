-- A page of the ids that a range would bring, to ask the inbox about; parameters as in cli_replay_count.sql, and $9 rows.
SELECT i.seq, CASE WHEN f.kept THEN f.id ELSE i.id END AS id
  FROM txb.outbox AS i
  LEFT JOIN LATERAL (SELECT r.state, r.kept, r.id FROM txb.failed AS r
                      WHERE r.side = 'outbox' AND r.replaced_by IS NULL AND r.source = $1::text AND r.seq = i.seq
                      LIMIT 1) AS f ON true
 WHERE i.seq >= $2::int8 AND i.seq < $3::int8 AND i.topic = ANY ($4::text[])
   AND (cardinality($5::bytea[]) = 0
        OR coalesce(decode(i.origin ->> 'key', 'base64'), convert_to(i.key, 'UTF8')) = ANY ($5::bytea[]))
   AND (cardinality($6::text[]) = 0
        OR CASE WHEN i.origin IS NULL THEN i.type ELSE i.origin ->> 'type' END = ANY ($6::text[]))
   AND ($7::timestamptz IS NULL OR i.created_at >= $7::timestamptz)
   AND ($8::timestamptz IS NULL OR i.created_at < $8::timestamptz)
   AND coalesce(f.state = 'resolved', true)
   AND NOT EXISTS (SELECT FROM txb.relay_hold AS h
                    WHERE h.source = $1::text AND h.topic = i.topic AND h.lo <= i.seq
                      AND (h.kind = 'topic' OR h.key = i.key COLLATE "C"))
 ORDER BY i.seq
 LIMIT $9::int4
