-- Takes the lease; no row: another relay holds the source.
-- $1 source, $2 owner, $3 instance, $4 lease_ms, $5 event_source
SELECT r.epoch, r.checkpoint, r.highest, r.watermark
  FROM txb.relay_acquire($1, $2, $3, $4, $5) AS r
