-- One row per source of this database. Ages are computed here: clocks of two machines differ.
SELECT r.source,
       CASE WHEN r.state = 'running' AND r.lease_until < pg_catalog.clock_timestamp() THEN 'lease expired'
            ELSE r.state END AS state,
       r.owner,
       r.epoch,
       CASE WHEN pg_catalog.isfinite(r.lease_until)
            THEN greatest(0, extract(epoch FROM r.lease_until - pg_catalog.clock_timestamp()) * 1000)::int8
            END AS lease_left_ms,
       r.lane,
       s.last_value - CASE WHEN s.is_called THEN 0 ELSE 1 END AS drawn,
       r.highest,
       r.watermark,
       r.published,
       r.checkpoint,
       coalesce(h.numbers, 0)::int8 AS holes,
       r.oldest_hole,
       (extract(epoch FROM pg_catalog.clock_timestamp() - r.oldest_hole_since) * 1000)::int8 AS oldest_hole_age_ms,
       -- Only transactions that are as old as the hole can fill it; those that came later are left out, unless the
       -- clocks make that all of them.
       coalesce(f.holders, f.everybody) AS oldest_hole_holders,
       nullif(r.last_error, '') AS last_error,
       (SELECT count(*) FROM txb.failed AS f
         WHERE f.side = 'outbox' AND f.source = r.source AND f.state IN ('dead', 'held', 'retrying')) AS refused,
       (SELECT count(*) FROM txb.scheduled) AS scheduled,
       txb.outbox_partitions_ahead() AS partitions_ahead,
       -- What no running relay has judged: the lowest number that is in no row.
       (SELECT min(pg_catalog.lower(u.r))
          FROM txb.relay_holes AS p, pg_catalog.unnest(p.holes) AS u(r)
         WHERE p.source = r.source
           AND NOT EXISTS (SELECT FROM txb.outbox AS o WHERE o.seq = pg_catalog.lower(u.r))) AS lowest_hole,
       (extract(epoch FROM pg_catalog.clock_timestamp() - r.updated_at) * 1000)::int8 AS updated_age_ms
  FROM txb.relay AS r
 CROSS JOIN txb.outbox_seq_seq AS s
  LEFT JOIN LATERAL (SELECT sum(pg_catalog.upper(u.r) - pg_catalog.lower(u.r)) AS numbers
                       FROM txb.relay_holes AS p, pg_catalog.unnest(p.holes) AS u(r)
                      WHERE p.source = r.source) AS h ON true
  LEFT JOIN LATERAL (
    SELECT pg_catalog.jsonb_agg(e.holder) FILTER (WHERE e.began IS NULL OR e.began <= r.oldest_hole_since) AS holders,
           pg_catalog.jsonb_agg(e.holder) AS everybody
      FROM (SELECT (h->>'xact_start')::timestamptz AS began,
                   pg_catalog.jsonb_build_object(
                     'pid', h->'pid', 'gid', h->'gid', 'user', h->'usename', 'application', h->'application_name',
                     'state', h->'state', 'query', h->'query',
                     'transaction_age_ms',
                     (extract(epoch FROM pg_catalog.clock_timestamp()
                                         - coalesce((h->>'xact_start')::timestamptz,
                                                    (SELECT p.prepared FROM pg_catalog.pg_prepared_xacts AS p
                                                      WHERE p.gid = h->>'gid'))) * 1000)::int8,
                     'query_age_ms',
                     (extract(epoch FROM pg_catalog.clock_timestamp() - (h->>'query_start')::timestamptz) * 1000)::int8) AS holder
              FROM pg_catalog.jsonb_array_elements(r.oldest_hole_holders) AS h) AS e) AS f ON true
 ORDER BY r.source
