-- Below which number no intent of that time or later lies: by halves between $2 and $3, each step one look into the
-- index. Numbers are drawn in the order of time, up to the little by which sessions overtake one another: the caller
-- goes back by more than that, and the lanes compare times themselves.
WITH RECURSIVE halves (low, high) AS (
  SELECT $2::int8, $3::int8
  UNION ALL
  SELECT CASE WHEN o.created_at < $1::timestamptz THEN o.seq + 1 ELSE h.low END,
         CASE WHEN o.created_at < $1::timestamptz THEN h.high ELSE h.low + (h.high - h.low) / 2 END
    FROM halves AS h
    LEFT JOIN LATERAL (SELECT i.seq, i.created_at FROM txb.outbox AS i
                        WHERE i.seq >= h.low + (h.high - h.low) / 2 AND i.seq < h.high
                        ORDER BY i.seq LIMIT 1) AS o ON true
   WHERE h.low < h.high
)
SELECT h.low FROM halves AS h WHERE h.low >= h.high LIMIT 1
