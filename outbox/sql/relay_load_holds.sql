-- What is held back, and whether somebody has decided about the failed intent at the head of a key. $1 source
SELECT h.kind, h.topic, h.key, h.lo,
       h.kind = 'key'
       AND coalesce((SELECT f.state <> 'dead'
                       FROM txb.failed AS f
                      WHERE f.side = 'outbox' AND f.replaced_by IS NULL AND f.source = h.source AND f.seq = h.lo
                      LIMIT 1), false)
  FROM txb.relay_hold AS h
 WHERE h.source = $1
 ORDER BY h.number
