-- Failed messages of the consumer's side: what a worker could not apply is set aside, holds its key, and is tried again
-- by whoever owns the partition. Tables first, the worker's functions behind them.
--
--   txb.failed_keys(group_name text, topic text, partition int, keys_max int)
--       returns what is held and what is due in a partition, in one snapshot; at least one row
--   txb.batch_open(..., keys_version bigint) returns void
--       as before, and nobody may have changed the partition's failed messages: TXB05
--   txb.batch_cut(group_name text, topic text, partition int, new_next bigint, consumed int, last_id uuid,
--                 last_timestamp_ms bigint) returns void
--       the open batch ends earlier than it was opened for
--   txb.failed_add(group_name text, topic text, partition int, ...) returns bigint (held messages of the group)
--       sets messages of the open batch aside, in their order
--   txb.retry_mark(group_name text, topic text, partition int, epoch bigint, rows_max int, bytes_max bigint,
--                  numbers bigint[] = null) returns the messages that are due, under a marker (W10)
--   txb.retry_open(group_name text, topic text, partition int, epoch bigint, keys_version bigint) returns void
--   txb.retry_settle(group_name text, topic text, partition int, numbers bigint[], verdicts text[], ...)
--       returns when the next is due, and the keys that are free
--   txb.failed_condemn(group_name text, topic text, partition int, epoch bigint, number bigint, error text,
--                      release boolean, worker text) returns the same
--
-- SQLSTATE TXB05: the compare-and-set met epoch and position as expected, but somebody has changed the failed messages
-- of the partition: roll back and read them anew.
--
-- All of them lock the row of txb.consumer_offset first, or need it locked by txb.batch_open or txb.retry_open in the
-- same transaction; what depends on it is read by a later statement (W2). Of a key that is held, the first open message
-- in the order of place is retrying or dead, and all behind it are held.

SET LOCAL ROLE txb_owner;

-- What made two errors different that are the same to a person: numbers, ids, quoted values.
CREATE FUNCTION txb.error_pattern(error_class text, sqlstate text, error text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN concat_ws(' ', error_class, sqlstate,
                 left(regexp_replace(regexp_replace(regexp_replace(
                        regexp_replace(error, '[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}', '?', 'g'),
                        '"[^"]*"|''[^'']*''|\([^()]*\)', '?', 'g'), '\m\d[\d.,:]*', '?', 'g'), '\s+', ' ', 'g'), 300));
COMMENT ON FUNCTION txb.error_pattern(text, text, text) IS
  'An error without its numbers, ids and quoted values: failed messages with the same one are one group';

ALTER TABLE txb.failed
  DROP COLUMN history,
  ADD COLUMN place bigint,
  ADD COLUMN holds boolean NOT NULL DEFAULT false,
  ADD COLUMN deaths int NOT NULL DEFAULT 0,
  ADD COLUMN suspect boolean NOT NULL DEFAULT false,
  ADD COLUMN resolution text
    CONSTRAINT failed_resolution CHECK (resolution IN ('applied', 'duplicate', 'published', 'edited', 'discarded')),
  ADD COLUMN replaces bigint,
  ADD COLUMN replaced_by bigint,
  ADD COLUMN worker text,
  ADD COLUMN error_group text COLLATE "C" GENERATED ALWAYS AS (txb.error_pattern(error_class, sqlstate, error)) STORED;
-- Records of the publishing side that are there already: their keys are held.
UPDATE txb.failed AS f SET place = f.number, holds = f.key IS NOT NULL;
ALTER TABLE txb.failed
  ALTER COLUMN place SET NOT NULL,
  ADD CONSTRAINT failed_closed CHECK ((state IN ('resolved', 'discarded')) = (resolution IS NOT NULL)),
  ADD CONSTRAINT failed_holds CHECK (NOT holds OR (key IS NOT NULL AND state IN ('retrying', 'held', 'dead'))),
  ADD CONSTRAINT failed_due CHECK (state <> 'retrying' OR side = 'outbox' OR next_attempt_at IS NOT NULL);
DROP INDEX txb.failed_message;
DROP INDEX txb.failed_open_key;
-- The offset first: in a table without statistics an index that begins with the partition looks as good for one key as
-- failed_open_key, and then every key reads all of the partition.
CREATE UNIQUE INDEX failed_message ON txb.failed ("offset", partition, topic, group_name, run, id)
  WHERE side = 'consumer';
CREATE INDEX failed_open_key ON txb.failed (group_name, topic, partition, sha256(key), place)
  WHERE side = 'consumer' AND holds;
CREATE INDEX failed_next ON txb.failed (group_name, topic, partition, next_attempt_at)
  WHERE side = 'consumer' AND state = 'retrying';
CREATE INDEX failed_suspect ON txb.failed (group_name, topic, partition) WHERE suspect;
CREATE INDEX failed_by_state ON txb.failed (state, number);
COMMENT ON COLUMN txb.failed.place IS
  'The order within a key: a message''s own number, or that of the message which it replaces';
COMMENT ON COLUMN txb.failed.holds IS
  'Later messages of its key wait behind it. False: it has no key, it is closed, or the group lets go of the keys of '
  'the dead';
COMMENT ON COLUMN txb.failed.deaths IS 'How often a process died while it alone ran (W10)';
COMMENT ON COLUMN txb.failed.suspect IS
  'A process died while it ran, alone or among others: it is run alone until that has gone well (W10)';
COMMENT ON COLUMN txb.failed.resolution IS
  'How it ended: applied, duplicate (the inbox knew it), published, edited (see replaced_by), discarded';
COMMENT ON COLUMN txb.failed.replaces IS 'The message that this is an edited copy of';
COMMENT ON COLUMN txb.failed.replaced_by IS 'Its edited copy';
COMMENT ON COLUMN txb.failed.worker IS 'The worker that tried it last';
COMMENT ON COLUMN txb.failed.error_group IS 'The error without numbers, ids and quoted values';
COMMENT ON CONSTRAINT failed_resolution ON txb.failed IS
  'resolution: applied, duplicate, published, edited or discarded';
COMMENT ON CONSTRAINT failed_closed ON txb.failed IS 'What is closed says how it ended';
COMMENT ON CONSTRAINT failed_holds ON txb.failed IS 'Only an open message with a key can hold it';
COMMENT ON CONSTRAINT failed_due ON txb.failed IS 'A message that is retried has a time';
COMMENT ON INDEX txb.failed_message IS 'A message fails once per run, in an edition';
COMMENT ON INDEX txb.failed_open_key IS
  'The failed messages that hold a key, in order; by hash, since a foreign key may be longer than an index entry';
COMMENT ON INDEX txb.failed_next IS 'What is due in a partition';
COMMENT ON INDEX txb.failed_suspect IS 'What must run alone';
COMMENT ON INDEX txb.failed_by_state IS 'For lists';

CREATE TABLE txb.failed_history (
  number bigint NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  event text NOT NULL,
  state text NOT NULL,
  attempt int,
  who text,
  error_class text,
  sqlstate text,
  error text
);
CREATE INDEX failed_history_number ON txb.failed_history (number, at);
COMMENT ON TABLE txb.failed_history IS 'Every change of a failed message, insert-only: an attempt, a decision, its end';
COMMENT ON COLUMN txb.failed_history.number IS 'The message, in txb.failed';
COMMENT ON COLUMN txb.failed_history.at IS 'When';
COMMENT ON COLUMN txb.failed_history.event IS 'An event of consumer/failed_core.h';
COMMENT ON COLUMN txb.failed_history.state IS 'The state that it led to';
COMMENT ON COLUMN txb.failed_history.attempt IS 'The number of the attempt that ended so; null: it was none';
COMMENT ON COLUMN txb.failed_history.who IS 'The worker, the relay, or the person: database role and system user';
COMMENT ON COLUMN txb.failed_history.error_class IS 'As in txb.failed';
COMMENT ON COLUMN txb.failed_history.sqlstate IS 'As in txb.failed';
COMMENT ON COLUMN txb.failed_history.error IS 'As in txb.failed; of a decision: its reason';
COMMENT ON INDEX txb.failed_history_number IS 'The history of a message';

-- Append-only: nobody but the owner may change or delete, and no function does.
CREATE TABLE txb.audit (
  number bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT audit_number PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  role text NOT NULL DEFAULT session_user,
  person text,
  action text NOT NULL,
  filter jsonb NOT NULL DEFAULT '{}',
  matched bigint NOT NULL,
  changed bigint NOT NULL,
  reason text
);
COMMENT ON TABLE txb.audit IS 'Who decided what about messages: append-only';
COMMENT ON COLUMN txb.audit.number IS 'Identity';
COMMENT ON COLUMN txb.audit.at IS 'When';
COMMENT ON COLUMN txb.audit.role IS 'The database role';
COMMENT ON COLUMN txb.audit.person IS 'The operating system''s user, as the program told it';
COMMENT ON COLUMN txb.audit.action IS 'The command';
COMMENT ON COLUMN txb.audit.filter IS 'What it was given';
COMMENT ON COLUMN txb.audit.matched IS 'How many messages it meant';
COMMENT ON COLUMN txb.audit.changed IS 'How many it changed';
COMMENT ON COLUMN txb.audit.reason IS 'Why';
COMMENT ON CONSTRAINT audit_number ON txb.audit IS 'Identity';
COMMENT ON INDEX txb.audit_number IS 'Identity';
COMMENT ON SEQUENCE txb.audit_number_seq IS 'Numbers of txb.audit';

ALTER TABLE txb.consumer_offset
  ADD COLUMN keys_version bigint NOT NULL DEFAULT 0,
  ADD COLUMN held bigint NOT NULL DEFAULT 0,
  ADD COLUMN suspect_failed bigint[];
COMMENT ON COLUMN txb.consumer_offset.keys_version IS
  'Grows whenever somebody else than the partition''s worker changes its failed messages: the worker reads them anew';
COMMENT ON COLUMN txb.consumer_offset.held IS 'Failed messages of this partition that are held behind another';
COMMENT ON COLUMN txb.consumer_offset.suspect_failed IS
  'The failed messages that run under a committed marker; null: the marker is about suspect_offset (W10)';

-- ---- what is held and due -------------------------------------------------------------------------------------------

-- In milliseconds from now, rounded up; below zero: overdue.
CREATE FUNCTION txb.due_ms(at timestamptz) RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL SAFE SET search_path = pg_catalog, txb, pg_temp
RETURN ceil(extract(epoch FROM at - clock_timestamp()) * 1000)::bigint;
COMMENT ON FUNCTION txb.due_ms(timestamptz) IS 'How long from now, in milliseconds; null: never';

-- One statement, so one snapshot: version and keys belong together, and batch_open compares the version.
CREATE FUNCTION txb.failed_keys(group_name text, topic text, partition int, keys_max int)
  RETURNS TABLE (keys_version bigint, next_due_ms bigint, held bigint, group_held bigint, key bytea, messages bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT c.keys_version, d.due_ms, c.held,
         (SELECT sum(o.held)::bigint FROM txb.consumer_offset AS o WHERE o.group_name = failed_keys.group_name),
         k.key, k.messages
    FROM txb.consumer_offset AS c
    LEFT JOIN LATERAL (SELECT txb.due_ms(f.next_attempt_at) AS due_ms FROM txb.failed AS f
                        WHERE f.side = 'consumer' AND f.state = 'retrying' AND f.group_name = failed_keys.group_name
                          AND f.topic = failed_keys.topic AND f.partition = failed_keys.partition
                        ORDER BY f.next_attempt_at LIMIT 1) AS d ON true
    LEFT JOIN LATERAL (SELECT f.key, count(*) AS messages FROM txb.failed AS f
                        WHERE f.side = 'consumer' AND f.holds AND f.group_name = failed_keys.group_name
                          AND f.topic = failed_keys.topic AND f.partition = failed_keys.partition
                        GROUP BY f.key LIMIT failed_keys.keys_max) AS k ON true
   WHERE c.group_name = failed_keys.group_name AND c.topic = failed_keys.topic
     AND c.partition = failed_keys.partition
$$;
COMMENT ON FUNCTION txb.failed_keys(text, text, int, int) IS
  'The held keys of a partition with the number of messages that hold each, the version they belong to, when the next '
  'failed message is due (null: none is retried), and how many are held in the partition and in the group. A row '
  'without a key: nothing is held. No row: there is no position';

-- The first of each key becomes retrying when what stood before it is closed, or holds no longer.
CREATE FUNCTION txb.failed_promote(group_name text, topic text, partition int, keys bytea[], OUT promoted bigint,
                                   OUT freed bytea[])
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  WITH first AS MATERIALIZED (
    SELECT k.key, n.number, n.state
      FROM unnest(keys) AS k (key)
      LEFT JOIN LATERAL (SELECT f.number, f.state FROM txb.failed AS f
                          WHERE f.side = 'consumer' AND f.holds AND f.group_name = failed_promote.group_name
                            AND f.topic = failed_promote.topic AND f.partition = failed_promote.partition
                            AND sha256(f.key) = sha256(k.key) AND f.key = k.key
                          ORDER BY f.place LIMIT 1) AS n ON true
  ), moved AS (
    UPDATE txb.failed AS f
       SET state = 'retrying', attempts = 0, next_attempt_at = clock_timestamp(), updated_at = clock_timestamp()
      FROM first AS n WHERE f.number = n.number AND n.state = 'held'
    RETURNING f.number
  ), noted AS (
    INSERT INTO txb.failed_history (number, event, state) SELECT m.number, 'ahead_done', 'retrying' FROM moved AS m
  )
  SELECT (SELECT count(*) FROM moved), (SELECT array_agg(n.key) FROM first AS n WHERE n.number IS NULL)
    INTO promoted, freed;
END
$$;
COMMENT ON FUNCTION txb.failed_promote(text, text, int, bytea[]) IS
  'Of each of these keys the first open message that is held becomes retrying, due at once; returns how many did, and '
  'the keys that nothing holds any more. With the row of txb.consumer_offset locked; the caller counts held';

-- ---- the batch ------------------------------------------------------------------------------------------------------

CREATE FUNCTION txb.keys_changed(caller text, group_name text, topic text, partition int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  RAISE EXCEPTION '%: keys changed: somebody has changed the failed messages of group "%" in topic "%" partition %',
    caller, group_name, topic, partition
    USING ERRCODE = 'TXB05';
END
$$;
COMMENT ON FUNCTION txb.keys_changed(text, text, text, int) IS
  'Raises TXB05: what a worker knows of a partition''s failed messages is out of date';

DROP FUNCTION txb.batch_open(text, text, int, bigint, bigint, bigint, int, uuid, bigint);
CREATE FUNCTION txb.batch_open(group_name text, topic text, partition int, epoch bigint, expected_next bigint,
                               new_next bigint, consumed int, last_id uuid, last_timestamp_ms bigint,
                               keys_version bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  UPDATE txb.consumer_offset AS c
     SET next_offset = new_next, consumed = c.consumed + batch_open.consumed, last_id = batch_open.last_id,
         last_timestamp_ms = batch_open.last_timestamp_ms, last_offset = new_next - 1, batch_open = true,
         updated_at = clock_timestamp()
   WHERE c.group_name = batch_open.group_name AND c.topic = batch_open.topic AND c.partition = batch_open.partition
     AND c.epoch = batch_open.epoch AND c.next_offset = expected_next AND new_next > expected_next AND NOT c.batch_open
     AND c.keys_version = batch_open.keys_version;
  -- Raises: in a pipeline zero rows is no error, and a zombie's effects would be committed (W1).
  IF FOUND THEN
    RETURN;
  END IF;
  PERFORM FROM txb.consumer_offset AS c
    WHERE c.group_name = batch_open.group_name AND c.topic = batch_open.topic AND c.partition = batch_open.partition
      AND c.epoch = batch_open.epoch AND c.next_offset = expected_next AND new_next > expected_next
      AND NOT c.batch_open;
  IF FOUND THEN
    PERFORM txb.keys_changed('txb.batch_open', batch_open.group_name, batch_open.topic, batch_open.partition);
  END IF;
  PERFORM txb.fence_missed('txb.batch_open', batch_open.group_name, batch_open.topic, batch_open.partition);
END
$$;
COMMENT ON FUNCTION txb.batch_open(text, text, int, bigint, bigint, bigint, int, uuid, bigint, bigint) IS
  'Moves the position if epoch, next offset and version of the held keys are as expected, and locks it to the '
  'transaction''s end; raises TXB01 otherwise (W1), TXB05 when only the keys have changed. A statement of its own (W2)';

CREATE FUNCTION txb.batch_not_open(caller text, group_name text, topic text, partition int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  RAISE EXCEPTION '%: no batch of group "%" is open in topic "%" partition % in this transaction',
    caller, group_name, topic, partition
    USING ERRCODE = 'TXB03', HINT = 'A handler must not end the transaction that it runs in.';
END
$$;
COMMENT ON FUNCTION txb.batch_not_open(text, text, text, int) IS
  'Raises TXB03: the transaction of the batch is over (W11)';

CREATE FUNCTION txb.batch_cut(group_name text, topic text, partition int, new_next bigint, consumed int, last_id uuid,
                              last_timestamp_ms bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  -- What the open batch consumes is what the counters don't add up to yet.
  UPDATE txb.consumer_offset AS c
     SET next_offset = new_next, consumed = c.applied + c.duplicate + c.failed + batch_cut.consumed,
         last_id = batch_cut.last_id, last_timestamp_ms = batch_cut.last_timestamp_ms, last_offset = new_next - 1,
         updated_at = clock_timestamp()
   WHERE c.group_name = batch_cut.group_name AND c.topic = batch_cut.topic AND c.partition = batch_cut.partition
     AND c.batch_open AND c.suspect_failed IS NULL AND new_next < c.next_offset AND batch_cut.consumed > 0
     AND batch_cut.consumed < c.consumed - c.applied - c.duplicate - c.failed;
  IF NOT FOUND THEN
    PERFORM txb.batch_not_open('txb.batch_cut', batch_cut.group_name, batch_cut.topic, batch_cut.partition);
  END IF;
END
$$;
COMMENT ON FUNCTION txb.batch_cut(text, text, int, bigint, int, uuid, bigint) IS
  'The open batch ends below where it was opened for, with so many messages: the rest is run later. TXB03: '
  'none is open, or it would not become smaller';

-- A message that is here already (its position was set back by hand) stays as it is while it is open; a closed one is
-- opened again, behind what its key has. Its inbox entry, if any, makes it a duplicate when it runs.
CREATE FUNCTION txb.failed_add(
  group_name text, topic text, partition int, offsets bigint[], ids uuid[], sources text[], keys bytea[], types text[],
  times timestamptz[], payloads bytea[], content_types text[], headers jsonb[], states text[], attempts int[],
  delays_ms bigint[], holds boolean[], error_classes text[], sqlstates text[], errors text[], handler text, worker text)
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  more_held bigint;
  keys_held bytea[];
  result bigint;
BEGIN
  PERFORM FROM txb.consumer_offset AS c
    WHERE c.group_name = failed_add.group_name AND c.topic = failed_add.topic AND c.partition = failed_add.partition
      AND c.batch_open;
  IF NOT FOUND THEN
    PERFORM txb.batch_not_open('txb.failed_add', failed_add.group_name, failed_add.topic, failed_add.partition);
  END IF;
  IF EXISTS (SELECT FROM unnest(states) AS u (state)
              WHERE u.state IS NULL OR u.state NOT IN ('retrying', 'held', 'dead')) THEN
    RAISE EXCEPTION 'txb.failed_add: a message is set aside as retrying, held or dead' USING ERRCODE = '22023';
  END IF;
  WITH item AS MATERIALIZED (
    SELECT nextval('txb.failed_number_seq') AS number, u.*
      FROM (SELECT * FROM unnest(offsets, ids, sources, keys, types, times, payloads, content_types, headers, states,
                                 attempts, delays_ms, holds, error_classes, sqlstates, errors) WITH ORDINALITY
                          AS a ("offset", id, source, key, type, "time", payload, content_type, headers, state,
                                attempts, delay_ms, holds, error_class, sqlstate, error, nth)
             ORDER BY a.nth OFFSET 0) AS u
  ), added AS (
    INSERT INTO txb.failed AS f (number, place, side, state, group_name, topic, partition, "offset", source, key, id,
                                 type, "time", payload, content_type, headers, attempts, next_attempt_at, holds, deaths,
                                 error_class, sqlstate, error, handler, worker)
    OVERRIDING SYSTEM VALUE
    SELECT i.number, i.number, 'consumer', i.state, failed_add.group_name, failed_add.topic, failed_add.partition,
           i."offset", i.source, i.key, i.id, i.type, i."time", i.payload, i.content_type, i.headers, i.attempts,
           CASE WHEN i.state = 'retrying'
                THEN clock_timestamp() + coalesce(i.delay_ms, 0)::float8 * interval '1 millisecond' END,
           i.holds AND i.key IS NOT NULL, CASE WHEN i.error_class = 'crash' THEN 2 ELSE 0 END,
           i.error_class, i.sqlstate, left(i.error, 4000), failed_add.handler, failed_add.worker
      FROM item AS i
     ORDER BY i.nth
    ON CONFLICT (group_name, topic, partition, "offset", run, id) WHERE side = 'consumer' DO UPDATE
       SET place = excluded.place, state = excluded.state, attempts = excluded.attempts, holds = excluded.holds,
           next_attempt_at = excluded.next_attempt_at, deaths = excluded.deaths, suspect = false,
           error_class = excluded.error_class, sqlstate = excluded.sqlstate, error = excluded.error, resolution = NULL,
           handler = excluded.handler, worker = excluded.worker, updated_at = clock_timestamp()
     WHERE f.state IN ('resolved', 'discarded')
    RETURNING f.number, f.place, f.state, f.attempts, f.holds, f.key, f.error_class, f.sqlstate, f.error
  ), noted AS (
    INSERT INTO txb.failed_history (number, event, state, attempt, who, error_class, sqlstate, error)
    SELECT a.number,
           CASE WHEN a.state = 'held' THEN 'behind' WHEN a.error_class = 'crash' THEN 'crashed' ELSE 'failed' END,
           a.state, CASE WHEN a.state <> 'held' THEN a.attempts END, failed_add.worker, a.error_class, a.sqlstate,
           a.error
      FROM added AS a ORDER BY a.place
  )
  SELECT count(*) FILTER (WHERE a.state = 'held'),
         array_agg(DISTINCT a.key) FILTER (WHERE a.state = 'held')
    INTO more_held, keys_held
    FROM added AS a;
  -- Nothing is held behind nothing: where the group lets go of the keys of the dead, what came behind one in this very
  -- batch goes on.
  IF keys_held IS NOT NULL THEN
    SELECT more_held - p.promoted INTO more_held
      FROM txb.failed_promote(failed_add.group_name, failed_add.topic, failed_add.partition, keys_held) AS p;
  END IF;
  UPDATE txb.consumer_offset AS c SET held = c.held + more_held
   WHERE more_held <> 0 AND c.group_name = failed_add.group_name AND c.topic = failed_add.topic
     AND c.partition = failed_add.partition;
  SELECT sum(c.held) INTO result FROM txb.consumer_offset AS c WHERE c.group_name = failed_add.group_name;
  RETURN result;
END
$$;
COMMENT ON FUNCTION txb.failed_add(text, text, int, bigint[], uuid[], text[], bytea[], text[], timestamptz[], bytea[],
                                   text[], jsonb[], text[], int[], bigint[], boolean[], text[], text[], text[], text,
                                   text) IS
  'Sets messages of the open batch aside, in order: retrying (again after delay_ms), held (behind another of its key) '
  'or dead. Returns how many are held in the group. TXB03: no batch is open';

-- ---- trying again ---------------------------------------------------------------------------------------------------

CREATE FUNCTION txb.failed_next_due_ms(group_name text, topic text, partition int) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT txb.due_ms(f.next_attempt_at) FROM txb.failed AS f
   WHERE f.side = 'consumer' AND f.state = 'retrying' AND f.group_name = failed_next_due_ms.group_name
     AND f.topic = failed_next_due_ms.topic AND f.partition = failed_next_due_ms.partition
   ORDER BY f.next_attempt_at LIMIT 1
$$;
COMMENT ON FUNCTION txb.failed_next_due_ms(text, text, int) IS
  'When the next failed message of a partition is due, in milliseconds from now; null: none is retried';

-- Behind a message that has failed before nothing is taken along: most likely it fails again, and what waits behind it
-- may be much. Once it is resolved, the next one has no attempts yet, and all behind that come with it.
CREATE FUNCTION txb.retry_mark(
  group_name text, topic text, partition int, epoch bigint, rows_max int, bytes_max bigint,
  numbers bigint[] DEFAULT NULL,
  OUT keys_version bigint, OUT next_due_ms bigint, OUT number bigint, OUT attempts int, OUT deaths int,
  OUT held boolean, OUT "offset" bigint, OUT id uuid, OUT source text, OUT key bytea, OUT type text,
  OUT "time" timestamptz, OUT payload bytea, OUT content_type text, OUT headers jsonb)
RETURNS SETOF record
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  was txb.consumer_offset;
  now_is timestamptz;
  alone bigint;
  head record;
  follower record;
  picked bigint[] := '{}';
  bytes bigint := 0;
BEGIN
  SELECT * INTO was FROM txb.consumer_offset AS c
   WHERE c.group_name = retry_mark.group_name AND c.topic = retry_mark.topic AND c.partition = retry_mark.partition
     FOR UPDATE;
  IF was.epoch IS DISTINCT FROM retry_mark.epoch THEN
    PERFORM txb.fence_missed('txb.retry_mark', retry_mark.group_name, retry_mark.topic, retry_mark.partition);
  END IF;
  now_is := clock_timestamp();
  SELECT f.number INTO alone FROM txb.failed AS f
   WHERE f.suspect AND f.group_name = retry_mark.group_name AND f.topic = retry_mark.topic
     AND f.partition = retry_mark.partition AND f.side = 'consumer' AND f.state = 'retrying'
     AND f.next_attempt_at <= now_is AND (retry_mark.numbers IS NULL OR f.number = ANY (retry_mark.numbers))
   ORDER BY f.next_attempt_at LIMIT 1;
  IF retry_mark.rows_max <= 0 THEN
    NULL; -- only an older marker is to be taken in
  ELSIF alone IS NOT NULL THEN
    picked := ARRAY[alone];
  ELSE
    <<heads>>
    FOR head IN
      SELECT f.number, f.key, f.place, f.holds, f.attempts,
             coalesce(octet_length(f.payload), 0) + coalesce(pg_column_size(f.headers), 0) AS size
        FROM txb.failed AS f
       WHERE f.side = 'consumer' AND f.state = 'retrying' AND f.group_name = retry_mark.group_name
         AND f.topic = retry_mark.topic AND f.partition = retry_mark.partition AND f.next_attempt_at <= now_is
         AND (retry_mark.numbers IS NULL OR f.number = ANY (retry_mark.numbers))
       ORDER BY f.next_attempt_at LIMIT retry_mark.rows_max
    LOOP
      EXIT heads WHEN cardinality(picked) > 0
                  AND (cardinality(picked) >= retry_mark.rows_max OR bytes + head.size > retry_mark.bytes_max);
      picked := picked || head.number;
      bytes := bytes + head.size;
      CONTINUE heads WHEN NOT head.holds OR head.attempts > 0 OR cardinality(picked) >= retry_mark.rows_max;
      FOR follower IN
        SELECT f.number, f.state, f.suspect,
               coalesce(octet_length(f.payload), 0) + coalesce(pg_column_size(f.headers), 0) AS size
          FROM txb.failed AS f
         WHERE f.side = 'consumer' AND f.holds AND f.group_name = retry_mark.group_name AND f.topic = retry_mark.topic
           AND f.partition = retry_mark.partition AND sha256(f.key) = sha256(head.key) AND f.key = head.key
           AND f.place > head.place
         ORDER BY f.place LIMIT retry_mark.rows_max
      LOOP
        EXIT WHEN follower.suspect OR follower.state <> 'held';
        EXIT heads WHEN cardinality(picked) >= retry_mark.rows_max OR bytes + follower.size > retry_mark.bytes_max;
        picked := picked || follower.number;
        bytes := bytes + follower.size;
      END LOOP;
    END LOOP;
  END IF;
  keys_version := was.keys_version;
  IF cardinality(picked) = 0 THEN
    -- A marker whose messages somebody has changed meanwhile: nothing runs under it.
    UPDATE txb.consumer_offset AS c SET suspect_failed = NULL, suspect_marked = false, updated_at = clock_timestamp()
     WHERE was.suspect_failed IS NOT NULL AND c.group_name = retry_mark.group_name AND c.topic = retry_mark.topic
       AND c.partition = retry_mark.partition;
    next_due_ms := txb.failed_next_due_ms(retry_mark.group_name, retry_mark.topic, retry_mark.partition);
    RETURN NEXT;
    RETURN;
  END IF;
  UPDATE txb.consumer_offset AS c
     SET suspect_failed = picked, suspect_marked = true, updated_at = clock_timestamp()
   WHERE c.group_name = retry_mark.group_name AND c.topic = retry_mark.topic AND c.partition = retry_mark.partition;
  -- Deaths of an earlier time, before a person let it run again.
  UPDATE txb.failed AS f SET deaths = 0 WHERE f.number = ANY (picked) AND NOT f.suspect AND f.deaths <> 0;
  RETURN QUERY
    SELECT was.keys_version, NULL::bigint, f.number, f.attempts, f.deaths, f.state = 'held', f."offset", f.id, f.source,
           f.key, f.type, f."time", f.payload, f.content_type, f.headers
      FROM unnest(picked) WITH ORDINALITY AS p (number, nth)
           CROSS JOIN LATERAL (SELECT * FROM txb.failed AS t WHERE t.number = p.number OFFSET 0) AS f
     -- each by index: a plan that is kept knows not how many they are
     ORDER BY p.nth;
END
$$;
COMMENT ON FUNCTION txb.retry_mark(text, text, int, bigint, int, bigint, bigint[]) IS
  'Takes the failed messages that are due, each with what is held behind it, and notes them as the marker under which '
  'they run, to be committed before they do (W10). A suspect comes alone. One row without a number: none is due, '
  'or rows_max is 0; there is no marker, and an older one is taken in. TXB01: not the owner';

CREATE FUNCTION txb.retry_open(group_name text, topic text, partition int, epoch bigint, keys_version bigint)
  RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  UPDATE txb.consumer_offset AS c SET batch_open = true, updated_at = clock_timestamp()
   WHERE c.group_name = retry_open.group_name AND c.topic = retry_open.topic AND c.partition = retry_open.partition
     AND c.epoch = retry_open.epoch AND c.suspect_marked AND c.suspect_failed IS NOT NULL AND NOT c.batch_open
     AND c.keys_version = retry_open.keys_version;
  IF FOUND THEN
    RETURN;
  END IF;
  PERFORM FROM txb.consumer_offset AS c
    WHERE c.group_name = retry_open.group_name AND c.topic = retry_open.topic AND c.partition = retry_open.partition
      AND c.epoch = retry_open.epoch AND c.suspect_marked AND c.suspect_failed IS NOT NULL AND NOT c.batch_open;
  IF FOUND THEN
    PERFORM txb.keys_changed('txb.retry_open', retry_open.group_name, retry_open.topic, retry_open.partition);
  END IF;
  PERFORM txb.fence_missed('txb.retry_open', retry_open.group_name, retry_open.topic, retry_open.partition);
END
$$;
COMMENT ON FUNCTION txb.retry_open(text, text, int, bigint, bigint) IS
  'Opens the transaction in which marked messages are tried again; nobody may have changed the failed messages since: '
  'TXB05. TXB01: not the owner, or the marker is not out. A statement of its own (W2)';

CREATE FUNCTION txb.failed_left(group_name text, topic text, partition int, freed bytea[])
  RETURNS TABLE (next_due_ms bigint, held bigint, group_held bigint, key bytea)
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT txb.failed_next_due_ms(failed_left.group_name, failed_left.topic, failed_left.partition), c.held,
         (SELECT sum(o.held)::bigint FROM txb.consumer_offset AS o WHERE o.group_name = failed_left.group_name), k.key
    FROM txb.consumer_offset AS c
    LEFT JOIN unnest(freed) AS k (key) ON true
   WHERE c.group_name = failed_left.group_name AND c.topic = failed_left.topic
     AND c.partition = failed_left.partition
$$;
COMMENT ON FUNCTION txb.failed_left(text, text, int, bytea[]) IS
  'When the next failed message of a partition is due, how many are held there and in the group, and the keys that '
  'nothing holds any more, a row each; at least one row';

CREATE FUNCTION txb.retry_settle(
  group_name text, topic text, partition int, numbers bigint[], verdicts text[], delays_ms bigint[],
  error_classes text[], sqlstates text[], errors text[], release boolean, worker text)
RETURNS TABLE (next_due_ms bigint, held bigint, group_held bigint, key bytea)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, txb, pg_temp SET plan_cache_mode = force_custom_plan -- for as many as there are
AS $$
#variable_conflict use_column
DECLARE
  marked bigint[];
  n_applied bigint;
  n_duplicate bigint;
  n_ran bigint; -- that were held before
  touched bytea[];
  freed bytea[];
  n_promoted bigint;
BEGIN
  SELECT c.suspect_failed INTO marked FROM txb.consumer_offset AS c
   WHERE c.group_name = retry_settle.group_name AND c.topic = retry_settle.topic
     AND c.partition = retry_settle.partition AND c.batch_open;
  IF marked IS NULL THEN
    PERFORM txb.batch_not_open('txb.retry_settle', retry_settle.group_name, retry_settle.topic, retry_settle.partition);
  END IF;
  IF EXISTS (SELECT FROM unnest(verdicts) AS u (verdict)
              WHERE u.verdict IS NULL OR u.verdict NOT IN ('applied', 'duplicate', 'retrying', 'dead', 'untouched'))
     OR EXISTS (SELECT unnest(numbers) EXCEPT SELECT unnest(marked))
  THEN
    RAISE EXCEPTION 'txb.retry_settle: a message of the marker was applied, a duplicate, is retrying, dead or untouched'
      USING ERRCODE = '22023';
  END IF;
  WITH verdict AS MATERIALIZED (
    SELECT u.*, f.state AS was, f.holds AS held_it
      FROM unnest(numbers, verdicts, delays_ms, error_classes, sqlstates, errors) WITH ORDINALITY
           AS u (number, verdict, delay_ms, error_class, sqlstate, error, nth)
           CROSS JOIN LATERAL (SELECT t.state, t.holds FROM txb.failed AS t WHERE t.number = u.number OFFSET 0) AS f
     WHERE u.verdict <> 'untouched' AND f.state IN ('retrying', 'held')
  ), changed AS (
    UPDATE txb.failed AS f
       SET state = CASE WHEN v.verdict IN ('applied', 'duplicate') THEN 'resolved' ELSE v.verdict END,
           resolution = CASE WHEN v.verdict IN ('applied', 'duplicate') THEN v.verdict END,
           attempts = f.attempts + (v.verdict <> 'duplicate')::int,
           next_attempt_at = CASE WHEN v.verdict = 'retrying' THEN
             clock_timestamp() + coalesce(v.delay_ms, 0)::float8 * interval '1 millisecond' END,
           holds = f.holds AND (v.verdict = 'retrying' OR (v.verdict = 'dead' AND NOT retry_settle.release)),
           suspect = false,
           error_class = CASE WHEN v.verdict IN ('retrying', 'dead') THEN v.error_class ELSE f.error_class END,
           sqlstate = CASE WHEN v.verdict IN ('retrying', 'dead') THEN v.sqlstate ELSE f.sqlstate END,
           error = CASE WHEN v.verdict IN ('retrying', 'dead') THEN left(v.error, 4000) ELSE f.error END,
           worker = retry_settle.worker, updated_at = clock_timestamp()
      FROM verdict AS v WHERE f.number = v.number
    RETURNING f.number, v.nth, v.was, v.held_it, v.verdict, f.state, f.attempts, f.key, v.error_class, v.sqlstate,
              left(v.error, 4000) AS error
  ), noted AS (
    INSERT INTO txb.failed_history (number, event, state, attempt, who, error_class, sqlstate, error)
    SELECT h.number, h.event, h.state, h.attempt, h.who, h.error_class, h.sqlstate, h.error
      FROM (SELECT c.number, c.nth, 0 AS step, 'ahead_done' AS event, 'retrying' AS state, NULL::int AS attempt,
                   NULL::text AS who, NULL::text AS error_class, NULL::text AS sqlstate, NULL::text AS error
              FROM changed AS c WHERE c.was = 'held' AND c.verdict IN ('retrying', 'dead')
            UNION ALL
            SELECT c.number, c.nth, 1,
                   CASE WHEN c.verdict IN ('applied', 'duplicate') THEN c.verdict
                        WHEN c.error_class = 'crash' THEN 'crashed' ELSE 'failed' END,
                   c.state, CASE WHEN c.verdict <> 'duplicate' THEN c.attempts END, retry_settle.worker,
                   CASE WHEN c.verdict IN ('retrying', 'dead') THEN c.error_class END,
                   CASE WHEN c.verdict IN ('retrying', 'dead') THEN c.sqlstate END,
                   CASE WHEN c.verdict IN ('retrying', 'dead') THEN c.error END
              FROM changed AS c) AS h
     ORDER BY h.nth, h.step
  )
  SELECT count(*) FILTER (WHERE c.verdict = 'applied'), count(*) FILTER (WHERE c.verdict = 'duplicate'),
         count(*) FILTER (WHERE c.was = 'held'), array_agg(DISTINCT c.key) FILTER (WHERE c.held_it)
    INTO n_applied, n_duplicate, n_ran, touched
    FROM changed AS c;
  SELECT p.promoted, p.freed INTO n_promoted, freed
    FROM txb.failed_promote(retry_settle.group_name, retry_settle.topic, retry_settle.partition, touched) AS p;
  UPDATE txb.consumer_offset AS c
     SET applied = c.applied + n_applied, duplicate = c.duplicate + n_duplicate,
         failed = c.failed - n_applied - n_duplicate, held = c.held - n_ran - n_promoted,
         suspect_failed = NULL, suspect_marked = false, batch_open = false, updated_at = clock_timestamp()
   WHERE c.group_name = retry_settle.group_name AND c.topic = retry_settle.topic
     AND c.partition = retry_settle.partition;
  RETURN QUERY
    SELECT * FROM txb.failed_left(retry_settle.group_name, retry_settle.topic, retry_settle.partition, freed);
END
$$;
COMMENT ON FUNCTION txb.retry_settle(text, text, int, bigint[], text[], bigint[], text[], text[], text[], boolean,
                                     text) IS
  'What became of marked messages: applied, duplicate, retrying (again after delay_ms), dead, or untouched. Closes the '
  'transaction that txb.retry_open opened and takes the marker in; the next of each key follows. Returns what is left, '
  'as txb.failed_left. release: the dead let go of their keys. TXB03: nothing is open';

CREATE FUNCTION txb.failed_condemn(
  group_name text, topic text, partition int, epoch bigint, number bigint, error text, release boolean, worker text)
RETURNS TABLE (next_due_ms bigint, held bigint, group_held bigint, key bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  was txb.consumer_offset;
  touched bytea;
  freed bytea[];
  n_promoted bigint := 0;
BEGIN
  SELECT * INTO was FROM txb.consumer_offset AS c
   WHERE c.group_name = failed_condemn.group_name AND c.topic = failed_condemn.topic
     AND c.partition = failed_condemn.partition
     FOR UPDATE;
  IF was.epoch IS DISTINCT FROM failed_condemn.epoch THEN
    PERFORM txb.fence_missed('txb.failed_condemn', failed_condemn.group_name, failed_condemn.topic,
                             failed_condemn.partition);
  END IF;
  -- Somebody may have decided about it meanwhile.
  WITH changed AS (
    UPDATE txb.failed AS f
       SET state = 'dead', attempts = f.attempts + 1, next_attempt_at = NULL, suspect = false,
           holds = f.holds AND NOT failed_condemn.release, error_class = 'crash', sqlstate = NULL,
           error = left(failed_condemn.error, 4000), worker = failed_condemn.worker, updated_at = clock_timestamp()
     WHERE f.number = failed_condemn.number AND f.side = 'consumer' AND f.state = 'retrying'
       AND f.group_name = failed_condemn.group_name AND f.topic = failed_condemn.topic
       AND f.partition = failed_condemn.partition
    RETURNING f.number, f.attempts, f.key, f.error
  ), noted AS (
    INSERT INTO txb.failed_history (number, event, state, attempt, who, error_class, error)
    SELECT c.number, 'crashed', 'dead', c.attempts, failed_condemn.worker, 'crash', c.error FROM changed AS c
  )
  SELECT c.key INTO touched FROM changed AS c WHERE c.key IS NOT NULL;
  IF touched IS NOT NULL THEN
    SELECT p.promoted, p.freed INTO n_promoted, freed
      FROM txb.failed_promote(failed_condemn.group_name, failed_condemn.topic, failed_condemn.partition,
                              ARRAY[touched]) AS p;
  END IF;
  UPDATE txb.consumer_offset AS c
     SET held = c.held - n_promoted, suspect_failed = NULL,
         suspect_marked = c.suspect_marked AND c.suspect_failed IS NULL, updated_at = clock_timestamp()
   WHERE c.group_name = failed_condemn.group_name AND c.topic = failed_condemn.topic
     AND c.partition = failed_condemn.partition;
  RETURN QUERY SELECT * FROM txb.failed_left(failed_condemn.group_name, failed_condemn.topic, failed_condemn.partition,
                                             freed);
END
$$;
COMMENT ON FUNCTION txb.failed_condemn(text, text, int, bigint, bigint, text, boolean, text) IS
  'A failed message that killed twice under its own marker is dead (W10); takes the marker in. Returns what is left, '
  'as txb.failed_left. TXB01: not the owner';

-- ---- what other functions know of failed messages -------------------------------------------------------------------

DROP FUNCTION txb.offset_take(text, text, int, text, uuid, text);
CREATE FUNCTION txb.offset_take(
  group_name text, topic text, partition int, owner text, instance uuid, cluster_id text,
  OUT epoch bigint, OUT next_offset bigint, OUT last_id uuid, OUT last_timestamp_ms bigint,
  OUT suspect boolean, OUT suspect_offset bigint, OUT suspect_count int, OUT suspect_deaths int,
  OUT suspect_died boolean, OUT stalled_offset bigint, OUT attempts int, OUT due_ms bigint, OUT last_offset bigint,
  OUT keys_version bigint, OUT suspect_failed bigint[])
RETURNS SETOF record
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  was txb.consumer_offset;
  died boolean;
  failed_died boolean;
BEGIN
  SELECT * INTO was FROM txb.consumer_offset AS c
   WHERE c.group_name = offset_take.group_name AND c.topic = offset_take.topic AND c.partition = offset_take.partition
     FOR UPDATE;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  IF was.cluster_id <> nullif(offset_take.cluster_id, '') THEN
    RAISE EXCEPTION 'group "%" has its position in topic "%" partition % for Kafka cluster %, but this is cluster %',
      offset_take.group_name, offset_take.topic, offset_take.partition, was.cluster_id, offset_take.cluster_id
      USING ERRCODE = 'TXB04',
            HINT = 'If the topic was moved to this cluster, decide where to go on with txb.offset_set().';
  END IF;
  -- The same instance that comes back (its connection was lost) has not died.
  died := was.busy AND was.instance IS DISTINCT FROM offset_take.instance;
  failed_died := died AND was.suspect_marked AND was.suspect_failed IS NOT NULL;
  suspect_offset := was.suspect_offset;
  suspect_count := was.suspect_count;
  suspect_died := died AND was.suspect_marked
                  AND CASE WHEN failed_died THEN cardinality(was.suspect_failed) ELSE was.suspect_count END = 1;
  suspect_deaths := was.suspect_deaths + (suspect_died AND NOT failed_died)::int;
  -- Any death goes on carefully, whatever its owner had done before: who kills must not do so again and again.
  suspect := died OR was.suspect_offset IS NOT NULL OR was.suspect_failed IS NOT NULL;
  UPDATE txb.consumer_offset AS c
     SET epoch = c.epoch + 1, owner = offset_take.owner, instance = offset_take.instance,
         backend_pid = pg_backend_pid(), cluster_id = coalesce(c.cluster_id, nullif(offset_take.cluster_id, '')),
         busy = true, taken_offset = c.next_offset, taken_at = clock_timestamp(),
         suspect_marked = false, suspect_failed = NULL, suspect_deaths = offset_take.suspect_deaths,
         updated_at = clock_timestamp()
   WHERE c.group_name = offset_take.group_name AND c.topic = offset_take.topic AND c.partition = offset_take.partition;
  -- What a marker says about failed messages is kept with them: txb.retry_mark gives each of them out alone. Who left
  -- it behind may have died, given the partition back, or lost its connection, be it by one of them: only a death of a
  -- process counts.
  IF was.suspect_failed IS NOT NULL THEN
    UPDATE txb.failed AS f SET suspect = true, deaths = f.deaths + (failed_died AND suspect_died)::int
     WHERE f.number = ANY (was.suspect_failed) AND f.state IN ('retrying', 'held');
  END IF;
  IF failed_died THEN
    suspect_offset := NULL;
    suspect_count := cardinality(was.suspect_failed);
    SELECT coalesce(max(f.deaths), 0) INTO suspect_deaths FROM txb.failed AS f
     WHERE suspect_died AND f.number = ANY (was.suspect_failed) AND f.state = 'retrying';
  END IF;
  epoch := was.epoch + 1;
  next_offset := was.next_offset;
  last_id := was.last_id;
  last_timestamp_ms := was.last_timestamp_ms;
  last_offset := was.last_offset;
  stalled_offset := was.stalled_offset;
  attempts := was.attempts;
  due_ms := greatest(0, ceil(extract(epoch FROM was.next_attempt_at - clock_timestamp()) * 1000));
  keys_version := was.keys_version;
  suspect_failed := was.suspect_failed;
  RETURN NEXT;
END
$$;
COMMENT ON FUNCTION txb.offset_take(text, text, int, text, uuid, text) IS
  'Makes the caller the owner: raises the epoch, marks the partition busy, tells what its last owner left. With '
  'suspect_failed the suspects are these failed messages, and count and deaths are theirs. No row: there is no '
  'position yet';

CREATE OR REPLACE FUNCTION txb.offset_set(group_name text, topic text, partition int, next_offset bigint,
                                          cluster_id text, reason text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  result bigint;
BEGIN
  IF coalesce(offset_set.reason, '') = '' THEN
    RAISE EXCEPTION 'txb.offset_set: a reason is needed' USING ERRCODE = '22023';
  END IF;
  INSERT INTO txb.consumer_offset AS c (group_name, topic, partition, next_offset, taken_offset, epoch, cluster_id,
                                        last_error)
  VALUES (offset_set.group_name, offset_set.topic, offset_set.partition, offset_set.next_offset, offset_set.next_offset,
          1, offset_set.cluster_id, format('position set by %s: %s', session_user, offset_set.reason))
  ON CONFLICT ON CONSTRAINT consumer_offset_key DO UPDATE
     SET epoch = c.epoch + 1, next_offset = excluded.next_offset, taken_offset = excluded.next_offset,
         cluster_id = excluded.cluster_id, owner = NULL, instance = NULL, backend_pid = NULL, busy = false,
         last_id = NULL, last_timestamp_ms = NULL, last_offset = NULL, suspect_offset = NULL, suspect_count = 0,
         suspect_marked = false, suspect_deaths = 0, suspect_failed = NULL, stalled_offset = NULL, stalled_since = NULL,
         attempts = 0, next_attempt_at = NULL, last_error = excluded.last_error, last_sqlstate = NULL,
         last_outcome = NULL, updated_at = clock_timestamp()
  RETURNING c.epoch INTO result;
  RETURN result;
END
$$;

CREATE OR REPLACE FUNCTION txb.suspect_mark(group_name text, topic text, partition int, epoch bigint,
                                            suspect_offset bigint, suspect_count int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  deaths int;
BEGIN
  UPDATE txb.consumer_offset AS c
     SET suspect_deaths = CASE WHEN c.suspect_offset = suspect_mark.suspect_offset THEN c.suspect_deaths ELSE 0 END,
         suspect_offset = suspect_mark.suspect_offset, suspect_count = suspect_mark.suspect_count,
         suspect_marked = true, suspect_failed = NULL, updated_at = clock_timestamp()
   WHERE c.group_name = suspect_mark.group_name AND c.topic = suspect_mark.topic
     AND c.partition = suspect_mark.partition AND c.epoch = suspect_mark.epoch
     AND c.next_offset <= suspect_mark.suspect_offset
  RETURNING c.suspect_deaths INTO deaths;
  IF deaths IS NULL THEN
    PERFORM txb.fence_missed('txb.suspect_mark', suspect_mark.group_name, suspect_mark.topic, suspect_mark.partition);
  END IF;
  RETURN deaths;
END
$$;

CREATE OR REPLACE FUNCTION txb.relay_record_failed(source text, epoch bigint, instance uuid, seq bigint,
                                                   error_class text, error text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  intent txb.outbox;
  result bigint;
BEGIN
  PERFORM txb.relay_fence('txb.relay_record_failed', relay_record_failed.source, relay_record_failed.epoch,
                          relay_record_failed.instance);
  SELECT * INTO intent FROM txb.outbox AS o WHERE o.seq = relay_record_failed.seq;
  IF intent.seq IS NULL THEN
    RAISE EXCEPTION 'txb.relay_record_failed: there is no intent %', relay_record_failed.seq USING ERRCODE = 'TXB04';
  END IF;
  INSERT INTO txb.failed AS f (number, place, holds, side, state, source, seq, topic, key, id, type, "time",
                               content_type, headers, attempts, error_class, error)
  OVERRIDING SYSTEM VALUE
  SELECT n.number, n.number, intent.key IS NOT NULL, 'outbox', 'dead', relay_record_failed.source, intent.seq,
         intent.topic, convert_to(intent.key, 'UTF8'), intent.id, intent.type, intent.created_at, intent.content_type,
         intent.headers, 1, relay_record_failed.error_class, relay_record_failed.error
    FROM (SELECT nextval('txb.failed_number_seq') AS number) AS n
  ON CONFLICT (source, seq) WHERE side = 'outbox' DO UPDATE
     SET attempts = f.attempts + 1, error_class = excluded.error_class, error = excluded.error,
         updated_at = clock_timestamp()
  RETURNING f.number INTO result;
  IF intent.key IS NOT NULL THEN
    INSERT INTO txb.relay_hold AS h (source, kind, topic, key, lo, failed_id, error)
    VALUES (relay_record_failed.source, 'key', intent.topic, intent.key, intent.seq, result, relay_record_failed.error)
    ON CONFLICT (source, topic, key) WHERE kind = 'key' DO UPDATE
       SET lo = least(h.lo, excluded.lo),
           failed_id = CASE WHEN excluded.lo < h.lo THEN excluded.failed_id ELSE h.failed_id END;
  END IF;
  RETURN result;
END
$$;
REVOKE ALL ON TYPE txb.failed_history, txb.audit FROM PUBLIC;
GRANT SELECT ON txb.failed_history, txb.audit TO txb_reader;
GRANT EXECUTE ON FUNCTION
  txb.failed_keys(text, text, int, int),
  txb.batch_open(text, text, int, bigint, bigint, bigint, int, uuid, bigint, bigint),
  txb.batch_cut(text, text, int, bigint, int, uuid, bigint),
  txb.failed_add(text, text, int, bigint[], uuid[], text[], bytea[], text[], timestamptz[], bytea[], text[], jsonb[],
                 text[], int[], bigint[], boolean[], text[], text[], text[], text, text),
  txb.retry_mark(text, text, int, bigint, int, bigint, bigint[]),
  txb.retry_open(text, text, int, bigint, bigint),
  txb.retry_settle(text, text, int, bigint[], text[], bigint[], text[], text[], text[], boolean, text),
  txb.failed_condemn(text, text, int, bigint, bigint, text, boolean, text),
  txb.offset_take(text, text, int, text, uuid, text)
TO txb_worker;

RESET ROLE;
