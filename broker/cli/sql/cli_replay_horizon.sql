-- Since when the inbox remembers; null: since ever.
SELECT CASE WHEN pg_catalog.isfinite(h.horizon) THEN h.horizon END FROM txb.inbox_horizon() AS h (horizon)
