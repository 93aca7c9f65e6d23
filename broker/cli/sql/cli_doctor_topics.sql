-- Topics that were published to lately, and those that are held.
SELECT o.topic FROM (SELECT topic FROM txb.outbox WHERE seq > (SELECT last_value FROM txb.outbox_seq_seq) - 1000) AS o
UNION
SELECT h.topic FROM txb.relay_hold AS h WHERE h.kind = 'topic'
UNION
SELECT s.topic FROM (SELECT topic FROM txb.scheduled LIMIT 1000) AS s
ORDER BY 1
