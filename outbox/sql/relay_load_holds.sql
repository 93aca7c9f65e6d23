-- What is held back. $1 source
SELECT h.kind, h.topic, h.key, h.lo
  FROM txb.relay_hold AS h
 WHERE h.source = $1
 ORDER BY h.number
