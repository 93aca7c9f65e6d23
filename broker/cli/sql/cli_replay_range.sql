-- What a source has. whole: its first partition is there, so nothing was ever dropped. No row: it was never relayed.
SELECT r.lowest_seq, r.lowest_time, r.watermark,
       EXISTS (SELECT FROM txb.outbox_partition AS p
                WHERE p.first <= 1 AND p.past > coalesce(r.lowest_seq, 1)) AS whole,
       r.waits_from
  FROM txb.replay_range($1::text, $2::text[]) AS r
 WHERE r.watermark IS NOT NULL
