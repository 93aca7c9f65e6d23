-- What lies in a range, in one look over it: all, and by topic, type and key. What lanes leave out (lane_read.sql) is
-- counted apart: discarded intents, and those that wait to be published, which the group will get through Kafka.
-- $1 source, $2 first number, $3 the one behind the last, $4 topics, $5 keys, $6 types (empty: all), $7 not before, $8
-- before, $9 keys that the group holds, $10 whether it goes to a topic
WITH look AS MATERIALIZED (
  SELECT GROUPING(i.topic, i.type, i.key) AS which, i.topic, i.type, i.key,
         count(*) FILTER (WHERE i.goes) AS messages,
         count(*) FILTER (WHERE i.state = 'discarded') AS discarded,
         count(*) FILTER (WHERE NOT i.goes AND i.state IS DISTINCT FROM 'discarded') AS waiting,
         count(*) FILTER (WHERE i.goes AND i.kept) AS edited,
         count(*) FILTER (WHERE i.goes AND i.held) AS behind,
         count(*) FILTER (WHERE i.goes AND i.circles) AS circling,
         min(i.created_at) FILTER (WHERE i.goes) AS first_at, max(i.created_at) FILTER (WHERE i.goes) AS last_at
    FROM (SELECT o.topic, CASE WHEN o.origin IS NULL THEN o.type ELSE o.origin ->> 'type' END AS type,
                 o.key, o.created_at, f.state, coalesce(f.kept, false) AS kept,
                 coalesce(decode(o.origin ->> 'key', 'base64'), convert_to(o.key, 'UTF8'))
                 = ANY ($9::bytea[]) AS held,
                 $10::bool AND txb.replay_count(CASE WHEN f.kept THEN f.headers ELSE o.headers END)
                               >= txb.replay_count_max() AS circles,
                 coalesce(f.state = 'resolved', true)
                 AND NOT EXISTS (SELECT FROM txb.relay_hold AS h
                                  WHERE h.source = $1::text AND h.topic = o.topic AND h.lo <= o.seq
                                    AND (h.kind = 'topic' OR h.key = o.key COLLATE "C")) AS goes
            FROM txb.outbox AS o
            LEFT JOIN txb.failed AS f
                   ON f.side = 'outbox' AND f.replaced_by IS NULL AND f.source = $1::text AND f.seq = o.seq
           WHERE o.seq >= $2::int8 AND o.seq < $3::int8 AND o.topic = ANY ($4::text[])
             AND (cardinality($5::bytea[]) = 0
                  OR coalesce(decode(o.origin ->> 'key', 'base64'), convert_to(o.key, 'UTF8')) = ANY ($5::bytea[]))
             AND (cardinality($6::text[]) = 0
                  OR CASE WHEN o.origin IS NULL THEN o.type ELSE o.origin ->> 'type' END = ANY ($6::text[]))
             AND ($7::timestamptz IS NULL OR o.created_at >= $7::timestamptz)
             AND ($8::timestamptz IS NULL OR o.created_at < $8::timestamptz)) AS i
   GROUP BY GROUPING SETS ((), (i.topic), (i.type), (i.key))
)
SELECT jsonb_build_object(
         'messages', a.messages, 'discarded', a.discarded, 'waiting', a.waiting, 'edited', a.edited,
         'behind_held', a.behind, 'circling', a.circling, 'first_at', a.first_at, 'last_at', a.last_at,
         'by_topic', (SELECT coalesce(jsonb_agg(jsonb_build_object('value', t.topic, 'messages', t.messages)
                                                ORDER BY t.messages DESC, t.topic), '[]')
                        FROM look AS t WHERE t.which = 3 AND t.messages > 0),
         'by_type', (SELECT coalesce(jsonb_agg(jsonb_build_object('value', t.type, 'messages', t.messages)
                                               ORDER BY t.messages DESC, t.type), '[]')
                       FROM look AS t WHERE t.which = 5 AND t.messages > 0),
         'key_count', (SELECT count(*) FROM look AS t WHERE t.which = 6 AND t.messages > 0 AND t.key IS NOT NULL),
         'by_key', (SELECT coalesce(jsonb_agg(jsonb_build_object('value', t.key, 'messages', t.messages)
                                              ORDER BY t.messages DESC, t.key), '[]')
                      FROM (SELECT k.key, k.messages FROM look AS k WHERE k.which = 6 AND k.messages > 0
                             ORDER BY k.messages DESC, k.key LIMIT 10) AS t))
  FROM look AS a
 WHERE a.which = 7
