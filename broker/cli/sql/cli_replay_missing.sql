-- The first of these topics of which an outbox holds nothing in a range: $1 first number, $2 the one behind the last, $3
-- topics.
SELECT t.topic
  FROM pg_catalog.unnest($3::text[]) WITH ORDINALITY AS t (topic, nth)
 WHERE NOT EXISTS (SELECT FROM txb.outbox AS o
                    WHERE o.seq >= $1::int8 AND o.seq < $2::int8 AND o.topic = t.topic COLLATE "C")
 ORDER BY t.nth
 LIMIT 1
