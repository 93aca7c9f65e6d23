-- The first statement of a poll. Its snapshot is the poll's; the sequence is read here, before the rows: whoever drew a number up to last_value held the
-- lock on txb.outbox by then (R1), and a number that is missing below it is a hole. The server must be the one that we know (R7).
-- $1 source, $2 whether the insert position is wanted (R8)
SELECT r.epoch, r.instance, r.checkpoint,
       pg_catalog.pg_current_snapshot()::text,
       pg_catalog.pg_is_in_recovery(),
       s.last_value, s.is_called,
       pg_catalog.current_setting('transaction_isolation'),
       CASE WHEN $2 AND NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_insert_lsn()::text END
  FROM txb.outbox_seq_seq AS s
  LEFT JOIN txb.relay AS r ON r.source = $1
