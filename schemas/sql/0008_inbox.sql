-- The inbox: which messages a group has applied. Range-partitioned on the id, which carries its time, so that one
-- message always falls into one partition.
--
--   txb.inbox
--       workers INSERT (group_name, run, message_id) sorted, ON CONFLICT DO NOTHING RETURNING message_id
--   txb.inbox_partition_make(days_back int, days_ahead int) returns int
--       the number made; 55P03: try again
--   txb.inbox_keep(group_name text, keep interval) returns interval
--       notes how long a group wants ids remembered; the longest wish of the groups that still say theirs
--   txb.inbox_partition_drop(keep interval) returns int
--       the number dropped; 55P03: try again
--   txb.inbox_horizon() returns timestamptz
--       ids older than it are refused; -infinity: nothing was dropped yet
--
-- Ids out of the days that have a partition (a fast clock, an old topic) go to txb.inbox_default; whoever makes the
-- partition moves them (W7). An id below the horizon can't be told from a repetition. Constraint inbox_horizon refuses
-- it: 23514, whatever the worker had seen before, so that a message is never applied twice silently. A crash in the
-- middle of making or dropping leaves nothing of it, since each is one transaction.

SET LOCAL ROLE txb_owner;

CREATE TABLE txb.inbox (
  group_name text COLLATE "C" NOT NULL,
  run bigint NOT NULL DEFAULT 0,
  message_id uuid NOT NULL,
  CONSTRAINT inbox_key PRIMARY KEY (group_name, run, message_id)
) PARTITION BY RANGE (message_id);
COMMENT ON TABLE txb.inbox IS 'Messages applied, per group: what is in here is not applied again';
COMMENT ON COLUMN txb.inbox.group_name IS 'Kafka consumer group';
COMMENT ON COLUMN txb.inbox.run IS '0: live; else the replay job (J2)';
COMMENT ON COLUMN txb.inbox.message_id IS 'Message id, UUIDv7';
COMMENT ON CONSTRAINT inbox_key ON txb.inbox IS 'A message is applied once per group and run';
COMMENT ON INDEX txb.inbox_key IS 'A message is applied once per group and run';

CREATE TABLE txb.inbox_default PARTITION OF txb.inbox DEFAULT;
COMMENT ON TABLE txb.inbox_default IS 'Ids of days that have no partition';
COMMENT ON COLUMN txb.inbox_default.group_name IS 'As in txb.inbox';
COMMENT ON COLUMN txb.inbox_default.run IS 'As in txb.inbox';
COMMENT ON COLUMN txb.inbox_default.message_id IS 'As in txb.inbox';
COMMENT ON CONSTRAINT inbox_default_pkey ON txb.inbox_default IS 'As in txb.inbox';
COMMENT ON INDEX txb.inbox_default_pkey IS 'As in txb.inbox';

CREATE TABLE txb.inbox_state (
  one boolean DEFAULT true CONSTRAINT inbox_state_one PRIMARY KEY CONSTRAINT inbox_state_is_one CHECK (one),
  horizon timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO txb.inbox_state DEFAULT VALUES;
COMMENT ON TABLE txb.inbox_state IS 'One row: how far back the inbox remembers';
COMMENT ON COLUMN txb.inbox_state.one IS 'Always true';
COMMENT ON COLUMN txb.inbox_state.horizon IS 'Ids older than it were dropped, and are refused';
COMMENT ON CONSTRAINT inbox_state_one ON txb.inbox_state IS 'One row';
COMMENT ON INDEX txb.inbox_state_one IS 'One row';
COMMENT ON CONSTRAINT inbox_state_is_one ON txb.inbox_state IS 'One row';

CREATE TABLE txb.inbox_wish (
  group_name text COLLATE "C" CONSTRAINT inbox_wish_key PRIMARY KEY,
  keep interval NOT NULL,
  said_at timestamptz NOT NULL
);
COMMENT ON TABLE txb.inbox_wish IS 'How long each group wants ids remembered; the longest counts, since a day is dropped for all';
COMMENT ON COLUMN txb.inbox_wish.group_name IS 'Kafka consumer group';
COMMENT ON COLUMN txb.inbox_wish.keep IS 'Its setting inbox_keep_ms';
COMMENT ON COLUMN txb.inbox_wish.said_at IS
  'When one of its workers said so last. A group that is silent for longer than it wants ids kept counts no more';
COMMENT ON CONSTRAINT inbox_wish_key ON txb.inbox_wish IS 'One wish a group';
COMMENT ON INDEX txb.inbox_wish_key IS 'One wish a group';

CREATE FUNCTION txb.inbox_keep(group_name text, keep interval) RETURNS interval
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
  INSERT INTO txb.inbox_wish AS w (group_name, keep, said_at)
  VALUES (inbox_keep.group_name, inbox_keep.keep, clock_timestamp())
  ON CONFLICT ON CONSTRAINT inbox_wish_key DO UPDATE SET keep = excluded.keep, said_at = excluded.said_at;
  SELECT greatest(inbox_keep.keep,
                  (SELECT max(w.keep) FROM txb.inbox_wish AS w WHERE w.said_at > clock_timestamp() - w.keep))
$$;
COMMENT ON FUNCTION txb.inbox_keep(text, interval) IS
  'Notes how long a group wants ids remembered, and returns the longest wish of the groups that still say theirs: what '
  'txb.inbox_partition_drop may be called with';

CREATE FUNCTION txb.inbox_horizon() RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$ SELECT s.horizon FROM txb.inbox_state AS s $$;
COMMENT ON FUNCTION txb.inbox_horizon() IS 'Ids older than this are refused; -infinity: nothing was dropped yet';

-- Bounds are read from the catalog: FOR VALUES FROM ('018f...') TO ('018f...').
CREATE VIEW txb.inbox_partition AS
SELECT c.oid::regclass AS partition,
       c.relname::text AS name,
       (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''([0-9a-f-]{36})''\)'))[1]::uuid AS first,
       (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([0-9a-f-]{36})''\)'))[1]::uuid AS past
  FROM pg_catalog.pg_inherits AS i
  JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'txb.inbox'::regclass;
COMMENT ON VIEW txb.inbox_partition IS 'The partitions of txb.inbox; the default has no bounds';
COMMENT ON COLUMN txb.inbox_partition.partition IS 'The table';
COMMENT ON COLUMN txb.inbox_partition.name IS 'Its name';
COMMENT ON COLUMN txb.inbox_partition.first IS 'Lowest id that belongs to it';
COMMENT ON COLUMN txb.inbox_partition.past IS 'First id above it';

CREATE FUNCTION txb.inbox_partition_make(days_back int, days_ahead int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp SET lock_timeout = '200ms'
AS $$
DECLARE
  day date;
  today date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
  first uuid;
  past uuid;
  name text;
  made int := 0;
  horizon timestamptz;
BEGIN
  IF days_back IS NULL OR days_back NOT BETWEEN 0 AND 366 OR days_ahead IS NULL OR days_ahead NOT BETWEEN 0 AND 366 THEN
    RAISE EXCEPTION 'txb.inbox_partition_make: days_back and days_ahead are 0 to 366' USING ERRCODE = '22023';
  END IF;
  -- The parent first and the default last, as ATTACH does: an order that dropping keeps as well.
  LOCK TABLE ONLY txb.inbox IN SHARE UPDATE EXCLUSIVE MODE;
  SELECT s.horizon INTO horizon FROM txb.inbox_state AS s;
  FOR day IN
    SELECT today + n FROM generate_series(-days_back, days_ahead) AS n
     WHERE NOT EXISTS (SELECT FROM txb.inbox_partition AS p
                        WHERE p.first = txb.uuid_v7_floor((today + n)::timestamp AT TIME ZONE 'UTC'))
       AND (today + n)::timestamp AT TIME ZONE 'UTC' >= horizon
  LOOP
    first := txb.uuid_v7_floor(day::timestamp AT TIME ZONE 'UTC');
    past := txb.uuid_v7_floor((day + 1)::timestamp AT TIME ZONE 'UTC');
    name := 'inbox_d' || to_char(day, 'YYYYMMDD');
    EXECUTE format('CREATE TABLE txb.%I (LIKE txb.inbox INCLUDING DEFAULTS INCLUDING INDEXES INCLUDING COMMENTS)'
                   ' WITH (autovacuum_vacuum_insert_threshold = -1)', name);
    EXECUTE format('COMMENT ON TABLE txb.%I IS %L', name, 'Partition of txb.inbox: ids of that day, UTC');
    EXECUTE format('REVOKE ALL ON TYPE txb.%I FROM PUBLIC', name);
    -- W7: rows of this day in the default would make ATTACH fail for ever, and one message from a fast clock is enough.
    LOCK TABLE txb.inbox_default IN ACCESS EXCLUSIVE MODE;
    EXECUTE format($sql$
      WITH moved AS (DELETE FROM txb.inbox_default AS d WHERE d.message_id >= $1 AND d.message_id < $2 RETURNING d.*)
      INSERT INTO txb.%I (group_name, run, message_id) SELECT m.group_name, m.run, m.message_id FROM moved AS m$sql$,
      name) USING first, past;
    EXECUTE format('ALTER TABLE txb.inbox ATTACH PARTITION txb.%I FOR VALUES FROM (%L) TO (%L)', name, first, past);
    made := made + 1;
  END LOOP;
  RETURN made;
END
$$;
COMMENT ON FUNCTION txb.inbox_partition_make(int, int) IS
  'Makes the daily partitions that are missing around today and moves the default''s rows of those days there (W7). '
  '55P03: try again. Returns the number made';

CREATE FUNCTION txb.inbox_partition_drop(keep interval) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp SET lock_timeout = '200ms'
AS $$
DECLARE
  limit_at timestamptz;
  horizon timestamptz;
  floor_id uuid;
  one record;
  dropped int := 0;
BEGIN
  IF keep IS NULL OR keep < interval '1 hour' THEN
    RAISE EXCEPTION 'txb.inbox_partition_drop: keep is %, at least one hour is needed', keep USING ERRCODE = '22023';
  END IF;
  -- Whole days only.
  limit_at := date_trunc('day', (clock_timestamp() - keep) AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
  SELECT s.horizon INTO horizon FROM txb.inbox_state AS s;
  IF limit_at <= horizon THEN
    RETURN 0;
  END IF;
  floor_id := txb.uuid_v7_floor(limit_at);
  -- Dropping a partition locks the parent against everybody. Batches are short; if one is not, the lock_timeout ends
  -- the waiting of those behind us.
  LOCK TABLE ONLY txb.inbox IN ACCESS EXCLUSIVE MODE;
  LOCK TABLE txb.inbox_default IN ACCESS EXCLUSIVE MODE;
  -- Once more under the lock: another one, with a shorter keep, may have raised the horizon meanwhile. It never sinks.
  SELECT s.horizon INTO horizon FROM txb.inbox_state AS s;
  IF limit_at <= horizon THEN
    RETURN 0;
  END IF;
  FOR one IN SELECT p.name FROM txb.inbox_partition AS p WHERE p.past <= floor_id ORDER BY p.first LOOP
    EXECUTE format('DROP TABLE txb.%I', one.name);
    dropped := dropped + 1;
  END LOOP;
  DELETE FROM txb.inbox_default AS d WHERE d.message_id < floor_id;
  -- From now on these ids would fall into the default, and be new there.
  ALTER TABLE txb.inbox_default DROP CONSTRAINT IF EXISTS inbox_horizon;
  EXECUTE format('ALTER TABLE txb.inbox_default ADD CONSTRAINT inbox_horizon CHECK (message_id >= %L)', floor_id);
  COMMENT ON CONSTRAINT inbox_horizon ON txb.inbox_default IS
    'Ids below were dropped: such a message can''t be told from a repetition, and is refused';
  UPDATE txb.inbox_state AS s SET horizon = limit_at;
  RETURN dropped;
END
$$;
COMMENT ON FUNCTION txb.inbox_partition_drop(interval) IS
  'Drops the days that are over for longer than keep, and refuses their ids from then on. 55P03: try again. Returns '
  'the number dropped';

REVOKE ALL ON TYPE txb.inbox, txb.inbox_default, txb.inbox_state, txb.inbox_wish, txb.inbox_partition FROM PUBLIC;
-- Directly: a function around it costs more than the insert. RETURNING asks for SELECT.
GRANT INSERT (group_name, run, message_id), SELECT ON txb.inbox TO txb_worker;
GRANT SELECT ON txb.inbox TO txb_reader;
GRANT SELECT ON txb.inbox_state, txb.inbox_wish, txb.inbox_partition TO txb_worker, txb_reader;
GRANT EXECUTE ON FUNCTION txb.inbox_horizon() TO txb_worker, txb_reader, txb_admin;
GRANT EXECUTE ON FUNCTION
  txb.inbox_keep(text, interval),
  txb.inbox_partition_make(int, int),
  txb.inbox_partition_drop(interval)
TO txb_worker, txb_admin;

RESET ROLE;
