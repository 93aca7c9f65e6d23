-- Failed messages that a relay which begins at the stored position will read: above its highest, or in its holes. They
-- are done with. $1 source, $2 highest
SELECT f.seq
  FROM txb.failed AS f
 WHERE f.side = 'outbox' AND f.replaced_by IS NULL AND f.source = $1 AND f.seq > $2
UNION
SELECT f.seq
  FROM txb.relay_holes AS h
 CROSS JOIN LATERAL unnest(h.holes) AS range
 CROSS JOIN LATERAL (SELECT r.seq
                       FROM txb.failed AS r
                      WHERE r.side = 'outbox' AND r.replaced_by IS NULL AND r.source = $1 AND r.seq >= lower(range)
                        AND r.seq < upper(range)
                     OFFSET 0) AS f
 WHERE h.source = $1
 ORDER BY 1
