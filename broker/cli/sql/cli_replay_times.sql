-- The times of a command line, as the server reads them (UTC unless they say otherwise), and its own.
SELECT t.since, t.until, coalesce(pg_catalog.isfinite(t.since) AND t.since <= t.now, true) AS since_fits,
       coalesce(pg_catalog.isfinite(t.until) AND t.until <= t.now, true) AS until_fits
  FROM (SELECT $1::text::timestamptz AS since, $2::text::timestamptz AS until, pg_catalog.clock_timestamp() AS now) AS t
