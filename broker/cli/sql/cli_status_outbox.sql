-- What waits in a database whose source was never relayed.
SELECT s.last_value - CASE WHEN s.is_called THEN 0 ELSE 1 END AS drawn,
       (SELECT count(*) FROM txb.scheduled) AS scheduled,
       txb.outbox_partitions_ahead() AS partitions_ahead
  FROM txb.outbox_seq_seq AS s
