-- How far a source's intents may be read, and what its messages say of where they come from. $1 source, $2 topic. The
-- highest number is of this statement's snapshot: whatever Kafka had before it lies at or below (J3).
SELECT g.watermark, g.highest, coalesce(r.event_source, 'txbroker:' || $1) AS event_source,
       (SELECT min(p.first) FROM txb.outbox_partition AS p) AS first, g.waits_from
  FROM txb.replay_range($1, ARRAY[$2]) AS g
  LEFT JOIN txb.relay AS r ON r.source = $1
