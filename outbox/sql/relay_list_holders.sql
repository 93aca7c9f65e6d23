-- Who can still fill a hole (R3): the virtual transactions that hold ROW EXCLUSIVE on txb.outbox, prepared ones
-- included, with the xid of their top level, which is the oldest of those that a virtual transaction holds. pg_locks
-- reads fast-path locks before the table that they may move to: none is missed.
WITH locks AS MATERIALIZED (
  SELECT l.locktype, l.virtualtransaction, l.transactionid, l.pid
    FROM pg_catalog.pg_locks AS l
   WHERE l.granted
     AND (l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.relation = 'txb.outbox'::pg_catalog.regclass
          AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
          OR l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock'))
SELECT h.virtualtransaction, x.xid, coalesce(h.pid, 0)
  FROM locks AS h
  LEFT JOIN (SELECT DISTINCT ON (t.virtualtransaction) t.virtualtransaction, t.transactionid::text::bigint AS xid
               FROM locks AS t
              WHERE t.locktype = 'transactionid'
              ORDER BY t.virtualtransaction, age(t.transactionid) DESC) AS x USING (virtualtransaction)
 WHERE h.locktype = 'relation'
