-- Where this bank stands. What the relay has not written down as published is under way.
SELECT (SELECT count(*) FROM bank.transfer) AS sent,
       (SELECT count(*) FROM bank.credit) AS credited,
       s.last_value - CASE WHEN s.is_called THEN 0 ELSE 1 END AS drawn,
       coalesce((SELECT max(r.watermark) FROM txb.relay AS r), 0) AS watermark,
       (SELECT coalesce(sum(c.duplicate), 0)::int8 FROM txb.consumer_offset AS c) AS duplicate,
       (SELECT count(*) FROM txb.outbox AS o
         WHERE o.seq <= (SELECT max(r.watermark) FROM txb.relay AS r)) AS published
  FROM txb.outbox_seq_seq AS s
