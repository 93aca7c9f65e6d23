-- Renews the lease and tells the oldest hole with the sessions that may fill it.
-- $1 source, $2 epoch, $3 instance, $4 lease_ms, $5 state, $6 last_error, $7 oldest hole, $8 since
SELECT txb.relay_renew($1, $2, $3, $4, $5, $6, $7, $8,
                       CASE WHEN $7 IS NOT NULL
                            THEN (SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(h)) FROM txb.outbox_holders() AS h) END)
