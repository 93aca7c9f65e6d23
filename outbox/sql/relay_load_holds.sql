-- What is held back, and whether somebody has decided about the failed intent at the head of a key. $1 source
SELECT h.kind, h.topic, h.key, h.lo, coalesce(f.state <> 'dead', false)
  FROM txb.relay_hold AS h
  LEFT JOIN txb.failed AS f
    ON h.kind = 'key' AND f.source = h.source AND f.seq = h.lo AND f.side = 'outbox' AND f.replaced_by IS NULL
 WHERE h.source = $1
 ORDER BY h.number
