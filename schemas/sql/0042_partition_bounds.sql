-- The bounds of partitions are read of our own tables only. Whoever asked which of them lie before a time or a number had that
-- asked of every partition of the database where the planner joined in that order, and a bound that is no time, number or
-- id, of another table of ours or of the application's, was an error: no day was made or dropped until it planned otherwise.
-- OFFSET 0 keeps conditions out: what is inside is done first.

SET LOCAL ROLE txb_owner;

CREATE FUNCTION txb.partition_bounds(parent regclass)
RETURNS TABLE (partition oid, name text, low text, high text, pending boolean)
LANGUAGE sql STABLE
AS $$
  SELECT p.oid, p.name, (regexp_match(p.bounds, 'FROM \(''?([^'')]+)''?\)'))[1],
         (regexp_match(p.bounds, 'TO \(''?([^'')]+)''?\)'))[1], p.pending
    FROM (SELECT c.oid, c.relname::text AS name, pg_get_expr(c.relpartbound, c.oid) AS bounds, i.inhdetachpending AS pending
            FROM pg_catalog.pg_inherits AS i
            JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
           WHERE i.inhparent = parent
          OFFSET 0) AS p
$$;
COMMENT ON FUNCTION txb.partition_bounds(regclass) IS
  'The partitions of a table that is partitioned by one column, and their bounds as the catalog says them; the default has none';
-- A view asks for the right to its functions, whoever owns it.
GRANT EXECUTE ON FUNCTION txb.partition_bounds(regclass) TO txb_relay, txb_worker, txb_reader, txb_admin;

CREATE OR REPLACE VIEW txb.outbox_partition AS
SELECT b.partition::regclass AS partition, b.name COLLATE "C" AS name, b.low::bigint AS first, b.high::bigint AS past, b.pending
  FROM txb.partition_bounds('txb.outbox'::regclass) AS b;

CREATE OR REPLACE VIEW txb.inbox_partition AS
SELECT b.partition::regclass AS partition, b.name COLLATE "C" AS name, b.low::uuid AS first, b.high::uuid AS past
  FROM txb.partition_bounds('txb.inbox'::regclass) AS b;

CREATE OR REPLACE FUNCTION txb.day_partitions(parent regclass) RETURNS TABLE (name text, first timestamptz, past timestamptz)
LANGUAGE sql STABLE
AS $$
  SELECT b.name, b.low::timestamptz, b.high::timestamptz FROM txb.partition_bounds(parent) AS b
$$;

RESET ROLE;
