-- What a source has. whole: its first partition is there, so nothing was ever dropped. No row: it was never relayed.
SELECT r.lowest_seq, r.lowest_time, r.highest, r.watermark,
       EXISTS (SELECT FROM txb.outbox_partition AS p
                WHERE p.first <= 1 AND p.past > coalesce(r.lowest_seq, 1)) AS whole
  FROM txb.replay_range($1::text) AS r
 WHERE r.watermark IS NOT NULL
