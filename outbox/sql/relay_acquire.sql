-- Takes the lease; no row: another relay holds the source. The sequence must have CACHE 1. What is asked at each poll is
-- asked by a statement without parameters (relay_state.sql), which finds the source in the session.
-- $1 source, $2 owner, $3 instance, $4 lease_ms, $5 event_source
SELECT r.epoch, r.checkpoint, r.highest, r.watermark, s.seqcache,
       pg_catalog.set_config('txbroker.source', $1, false)
  FROM txb.relay_acquire($1, $2, $3, $4, $5) AS r,
       pg_catalog.pg_sequence AS s
 WHERE s.seqrelid = 'txb.outbox_seq_seq'::pg_catalog.regclass
