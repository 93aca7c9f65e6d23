-- The first statement of a poll. Its snapshot is the poll's; the sequence is read here, before the rows: whoever drew
-- a number up to its last value held the lock on txb.outbox by then (R1), and a number that is missing below it is a
-- hole. The server must be the one that we know (R7). And whether somebody has decided about failed messages, and the
-- insert position (R8).
--
-- It has no parameters, and so is planned once: the source is a setting of the session, made by relay_acquire.sql.
-- Without it there is no row, as if the position had been deleted.
--
-- The sequence is asked by function, never read as a table: nextval() writes a value that is 32 too high into the page
-- while it logs, and a scan, which takes no lock on the page, sees it. Numbers that nobody has drawn yet would become
-- holes and die before their owner holds the lock, and the next poll would take the sequence for one that went back.
SELECT r.epoch, r.instance, r.checkpoint,
       pg_catalog.pg_current_snapshot()::text,
       pg_catalog.pg_is_in_recovery(),
       CASE WHEN NOT pg_catalog.pg_is_in_recovery()
            THEN coalesce(pg_catalog.pg_sequence_last_value('txb.outbox_seq_seq'::pg_catalog.regclass), 0) ELSE 0 END,
       pg_catalog.current_setting('transaction_isolation'),
       CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_insert_lsn()::text END,
       EXISTS (SELECT FROM txb.relay_decision AS d WHERE d.of_source = s.name),
       s.name
  FROM (VALUES (pg_catalog.current_setting('txbroker.source', true))) AS s (name)
  LEFT JOIN txb.relay AS r ON r.source = s.name
