-- bare_relay reads one table: the partition that holds the whole backlog. Found by size, not by reading it: a row
-- that was read once is cheaper to read again (its hint bits are set), and a relay finds rows that nobody has read.
DO $$
DECLARE
  parts regclass[] := (SELECT array_agg(inhrelid::regclass) FROM pg_inherits
                       WHERE inhparent = 'txb.outbox'::regclass AND pg_relation_size(inhrelid) > 0);
BEGIN
  IF cardinality(parts) <> 1 THEN
    RAISE 'the backlog lies in more than one partition: measure with fewer rows';
  END IF;
  EXECUTE format('CREATE VIEW bare.outbox AS SELECT * FROM %s', parts[1]);
END
$$;
