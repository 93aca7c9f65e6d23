-- One row per source of this database. Ages are computed here: clocks of two machines differ.
SELECT r.source,
       CASE WHEN r.state = 'running' AND r.lease_until < pg_catalog.clock_timestamp() THEN 'lease expired' ELSE r.state END AS state,
       r.owner,
       r.epoch,
       CASE WHEN pg_catalog.isfinite(r.lease_until)
            THEN greatest(0, extract(epoch FROM r.lease_until - pg_catalog.clock_timestamp()) * 1000)::int8 END AS lease_left_ms,
       r.lane,
       s.last_value - CASE WHEN s.is_called THEN 0 ELSE 1 END AS drawn,
       r.highest,
       r.watermark,
       r.published,
       r.checkpoint,
       coalesce(h.numbers, 0)::int8 AS holes,
       r.oldest_hole,
       (extract(epoch FROM pg_catalog.clock_timestamp() - r.oldest_hole_since) * 1000)::int8 AS oldest_hole_age_ms,
       r.oldest_hole_holders,
       r.last_error,
       (SELECT count(*) FROM txb.failed AS f
         WHERE f.side = 'outbox' AND f.source = r.source AND f.state IN ('dead', 'held', 'retrying')) AS refused,
       (SELECT count(*) FROM txb.scheduled) AS scheduled,
       txb.outbox_partitions_ahead() AS partitions_ahead,
       -- What no running relay has judged: the lowest number that is in no row.
       (SELECT min(pg_catalog.lower(u.r))
          FROM txb.relay_holes AS p, pg_catalog.unnest(p.holes) AS u(r)
         WHERE p.source = r.source AND NOT EXISTS (SELECT FROM txb.outbox AS o WHERE o.seq = pg_catalog.lower(u.r))) AS lowest_hole,
       (extract(epoch FROM pg_catalog.clock_timestamp() - r.updated_at) * 1000)::int8 AS updated_age_ms
  FROM txb.relay AS r
 CROSS JOIN txb.outbox_seq_seq AS s
  LEFT JOIN LATERAL (SELECT sum(pg_catalog.upper(u.r) - pg_catalog.lower(u.r)) AS numbers
                       FROM txb.relay_holes AS p, pg_catalog.unnest(p.holes) AS u(r) WHERE p.source = r.source) AS h ON true
 ORDER BY r.source
