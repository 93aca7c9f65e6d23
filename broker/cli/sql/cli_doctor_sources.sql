SELECT r.source, r.state, r.highest, s.last_value - CASE WHEN s.is_called THEN 0 ELSE 1 END AS drawn,
       nullif(r.last_error, '') AS last_error,
       r.lease_until < pg_catalog.clock_timestamp() AS lease_expired,
       (SELECT count(*) FROM txb.relay_hold AS h WHERE h.source = r.source) AS holds,
       (SELECT pg_catalog.min(h.error) FROM txb.relay_hold AS h WHERE h.source = r.source) AS hold_error
  FROM txb.relay AS r
 CROSS JOIN txb.outbox_seq_seq AS s
 ORDER BY r.source
