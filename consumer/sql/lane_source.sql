-- How far a source's intents may be read, and what its messages say of where they come from. $1 source, $2 topic. The
-- highest number is of this statement's snapshot: whatever Kafka had before it lies at or below (J3). $3, $4: the last
-- message that was run, null: none; same: this is the outbox that it was read from, as far as can be told. What retention
-- has dropped can't be compared, and of what failed there are several editions.
SELECT g.watermark, g.highest, coalesce(r.event_source, 'txbroker:' || $1) AS event_source,
       (SELECT min(p.first) FROM txb.outbox_partition AS p) AS first, g.waits_from,
       $3::bigint IS NULL OR g.lowest_seq IS NULL OR $3::bigint < g.lowest_seq
       OR EXISTS (SELECT FROM txb.outbox AS o WHERE o.seq = $3::bigint AND o.id = $4::uuid)
       OR EXISTS (SELECT FROM txb.failed AS f WHERE f.side = 'outbox' AND f.source = $1 AND f.seq = $3::bigint) AS same
  FROM txb.replay_range($1, ARRAY[$2]) AS g
  LEFT JOIN txb.relay AS r ON r.source = $1
