-- Whether any of these numbers is there now. Sent after the answer that showed all who could fill them gone, in a
-- snapshot of its own; false: none of them ever comes (R3). $1 and $2 first and last numbers of the ranges, $3 lowest,
-- $4 highest number of all (for planning)
SELECT EXISTS (
  SELECT FROM unnest($1, $2) AS h (lo, hi)
   CROSS JOIN LATERAL (SELECT FROM txb.outbox AS t WHERE t.seq BETWEEN h.lo AND h.hi AND t.seq BETWEEN $3 AND $4 LIMIT 1) AS r)
