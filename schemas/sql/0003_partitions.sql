-- Partitions of txb.outbox (R9): made far ahead, dropped whole when published and old enough.
--
--   txb.outbox_partition
--       view: name, first, past (bounds), pending (detach begun, not finished)
--   txb.outbox_partitions_ahead() returns int
--       how many lie wholly above the sequence: the number to raise an alarm by
--   txb.partition_make(rows bigint, ahead int) returns int
--       makes what is missing, at most 128 in one call; the number made
--   txb.partition_drop(source text, older_than interval, out statement text, out partition text)
--       one step of dropping; the statement to send next, or null when nothing is left to do
--
-- Why not CREATE TABLE ... PARTITION OF and DROP TABLE: both lock txb.outbox ACCESS EXCLUSIVE, wait behind a publisher
-- whose transaction is open, and every other publisher then queues behind them. CREATE + ATTACH takes SHARE UPDATE
-- EXCLUSIVE, which does not conflict with publishing. The new table is empty, so the scan that ATTACH makes reads no
-- page, and no CHECK is needed to avoid it (one would be evaluated for every insert from then on). Many are kept ahead,
-- also because a session that holds its lock on txb.outbox hears of a new partition only when it next takes another
-- lock: a transaction that was open before a partition was made, and gets its numbers, may be told once that the
-- partition is missing.
--
-- Dropping one partition, which the relay does on a connection outside the way of its polls:
--
--   1  SELECT * FROM txb.partition_drop($1, $2)
--      empties one (TRUNCATE of the child), and answers with the statement for step 2
--   2  SET ROLE txb_retention
--      ALTER TABLE txb.outbox DETACH PARTITION txb.outbox_p... CONCURRENTLY       (or ... FINALIZE)
--      RESET ROLE
--   3  SELECT * FROM txb.partition_drop($1, $2)
--      drops what is detached and empty, and goes on with the next
--
-- Step 2 is sent as the text that step 1 answered, by itself, outside any transaction; PostgreSQL refuses it inside a
-- function. It waits for the transactions that were open on txb.outbox when it began, and nobody waits for it. With a
-- lock_timeout it may end with 55P03 and leave the partition pending: the next call answers FINALIZE. Errors 55P03 and
-- 55006 mean: later. A crash after any step leaves a state from which the next call goes on.

SET LOCAL ROLE txb_owner;

-- Bounds are read from the catalog: pg_get_expr answers FOR VALUES FROM ('1') TO ('1000001').
CREATE VIEW txb.outbox_partition AS
SELECT c.oid::regclass AS partition,
       c.relname::text AS name,
       (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''?(\d+)''?\)'))[1]::bigint AS first,
       (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''?(\d+)''?\)'))[1]::bigint AS past,
       i.inhdetachpending AS pending
  FROM pg_catalog.pg_inherits AS i
  JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'txb.outbox'::regclass;
COMMENT ON VIEW txb.outbox_partition IS 'The partitions of txb.outbox';
COMMENT ON COLUMN txb.outbox_partition.partition IS 'The table';
COMMENT ON COLUMN txb.outbox_partition.name IS 'Its name';
COMMENT ON COLUMN txb.outbox_partition.first IS 'Lowest sequence number that belongs to it';
COMMENT ON COLUMN txb.outbox_partition.past IS 'First number above it';
COMMENT ON COLUMN txb.outbox_partition.pending IS 'A DETACH CONCURRENTLY was begun and has to be finalized';

CREATE FUNCTION txb.outbox_partitions_ahead() RETURNS int
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT count(*)::int
    FROM txb.outbox_partition AS p, txb.outbox_seq_seq AS s
   WHERE NOT p.pending AND p.first > s.last_value + CASE WHEN s.is_called THEN 1 ELSE 0 END
$$;
COMMENT ON FUNCTION txb.outbox_partitions_ahead() IS
  'How many partitions lie wholly above the next number. At zero, publishing fails as soon as the last partition is '
  'full';

CREATE FUNCTION txb.partition_make(rows bigint, ahead int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp SET lock_timeout = '200ms'
AS $$
DECLARE
  next bigint;  -- the number that the next intent gets
  first bigint;
  enough int;
  covered boolean;
  made int := 0;
  name text;
BEGIN
  IF partition_make.rows IS NULL OR partition_make.rows NOT BETWEEN 1000 AND 1000000000 THEN
    RAISE EXCEPTION 'txb.partition_make: rows is %, allowed are 1000 to 1000000000', partition_make.rows
      USING ERRCODE = '22023';
  END IF;
  IF partition_make.ahead IS NULL OR partition_make.ahead NOT BETWEEN 1 AND 10000 THEN
    RAISE EXCEPTION 'txb.partition_make: ahead is %, allowed are 1 to 10000', partition_make.ahead
      USING ERRCODE = '22023';
  END IF;
  -- One maker at a time; it conflicts with DETACH, ATTACH and VACUUM, never with publishers or readers.
  LOCK TABLE ONLY txb.outbox IN SHARE UPDATE EXCLUSIVE MODE;
  SELECT s.last_value + CASE WHEN s.is_called THEN 1 ELSE 0 END INTO next FROM txb.outbox_seq_seq AS s;
  SELECT count(*) FILTER (WHERE p.first > next), greatest(max(p.past), next),
         coalesce(bool_or(next >= p.first AND next < p.past), false)
    INTO enough, first, covered
    FROM txb.outbox_partition AS p;
  -- Not covered: there are none yet, or all are used up. Then numbers were drawn and refused ("no partition of
  -- relation"), and nothing can lie there any more; the first one made is the one being written, not one ahead.
  IF NOT covered THEN
    enough := enough - 1;
  END IF;
  WHILE enough < partition_make.ahead AND made < 128 LOOP
    name := 'outbox_p' || lpad(first::text, greatest(12, length(first::text)), '0');
    -- Insert-only and soon dropped: VACUUM has nothing to do there unless transactions roll back.
    EXECUTE format('CREATE TABLE txb.%I (LIKE txb.outbox INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE'
                   ' INCLUDING COMPRESSION INCLUDING INDEXES INCLUDING COMMENTS)'
                   ' WITH (autovacuum_vacuum_insert_threshold = -1)', name);
    EXECUTE format('COMMENT ON TABLE txb.%I IS %L', name,
                   'Partition of txb.outbox; never written to or read from by its own name');
    EXECUTE format('REVOKE ALL ON TYPE txb.%I FROM PUBLIC', name);
    EXECUTE format('ALTER TABLE txb.outbox ATTACH PARTITION txb.%I FOR VALUES FROM (%s) TO (%s)',
                   name, first, first + partition_make.rows);
    first := first + partition_make.rows;
    enough := enough + 1;
    made := made + 1;
  END LOOP;
  RETURN made;
END
$$;
COMMENT ON FUNCTION txb.partition_make(bigint, int) IS
  'Makes partitions of txb.outbox until so many lie wholly above the next number, at most 128 in one call. 55P03 '
  'means: try again. Returns the number made';

GRANT SELECT ON txb.outbox_partition TO txb_relay, txb_reader, txb_admin;
GRANT EXECUTE ON FUNCTION txb.outbox_partitions_ahead() TO txb_relay, txb_reader, txb_admin;
GRANT EXECUTE ON FUNCTION txb.partition_make(bigint, int) TO txb_relay, txb_admin;

RESET ROLE;
