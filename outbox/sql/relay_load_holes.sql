-- The stored holes as inclusive ranges, ascending. $1 source
SELECT lower(range) AS lo, upper(range) - 1 AS hi
  FROM txb.relay_holes AS h, unnest(h.holes) AS range
 WHERE h.source = $1
 ORDER BY 1
