-- Failed messages of the consumer's side: what a worker could not apply is set aside and holds its key. Tables first,
-- then what belongs to a batch; trying again is in 0010.
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
--
-- SQLSTATE TXB05: the compare-and-set met epoch and position as expected, but somebody has changed the failed messages
-- of the partition: roll back and read them anew.
--
-- A lane of a replay job (0014, 0015) is one more partition, with a negative number. Its transactions lock the rows of all live
-- partitions of the topic too, and honour the keys that are held there (J1).
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
  ADD COLUMN keys_taken bigint NOT NULL DEFAULT 0,
  ADD COLUMN held bigint NOT NULL DEFAULT 0,
  ADD COLUMN suspect_failed bigint[];
COMMENT ON COLUMN txb.consumer_offset.keys_version IS
  'Grows whenever somebody else than the partition''s worker changes its failed messages: the worker reads them anew';
COMMENT ON COLUMN txb.consumer_offset.keys_taken IS
  'Grows whenever the partition''s own worker takes a key or lets go of one: lanes read the keys anew then too';
COMMENT ON COLUMN txb.consumer_offset.held IS 'Failed messages of this partition that are held behind another';
COMMENT ON COLUMN txb.consumer_offset.suspect_failed IS
  'The failed messages that run under a committed marker; null: the marker is about suspect_offset (W10)';

-- ---- what is held and due -------------------------------------------------------------------------------------------

-- In milliseconds from now, rounded up; below zero: overdue.
CREATE FUNCTION txb.due_ms(at timestamptz) RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL SAFE SET search_path = pg_catalog, txb, pg_temp
RETURN ceil(extract(epoch FROM at - clock_timestamp()) * 1000)::bigint;
COMMENT ON FUNCTION txb.due_ms(timestamptz) IS 'How long from now, in milliseconds; null: never';

CREATE FUNCTION txb.live_keys_version(group_name text, topic text, partition int) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT coalesce(sum(c.keys_version + c.keys_taken), 0)::bigint FROM txb.consumer_offset AS c
   WHERE live_keys_version.partition < 0 AND c.group_name = live_keys_version.group_name
     AND c.topic = live_keys_version.topic AND c.partition >= 0
$$;
COMMENT ON FUNCTION txb.live_keys_version(text, text, int) IS
  'What a lane adds to its own keys_version: those of the live partitions, whose keys it honours. 0 for a live partition';

-- One statement, so one snapshot: version and keys belong together, and batch_open compares the version.
CREATE FUNCTION txb.failed_keys(group_name text, topic text, partition int, keys_max int)
  RETURNS TABLE (keys_version bigint, next_due_ms bigint, held bigint, group_held bigint, key bytea, messages bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT c.keys_version + txb.live_keys_version(c.group_name, c.topic, c.partition), d.due_ms, c.held,
         (SELECT sum(o.held)::bigint FROM txb.consumer_offset AS o WHERE o.group_name = failed_keys.group_name),
         k.key, k.messages
    FROM txb.consumer_offset AS c
    LEFT JOIN LATERAL (SELECT txb.due_ms(f.next_attempt_at) AS due_ms FROM txb.failed AS f
                        WHERE f.side = 'consumer' AND f.state = 'retrying' AND f.group_name = failed_keys.group_name
                          AND f.topic = failed_keys.topic AND f.partition = failed_keys.partition
                        ORDER BY f.next_attempt_at LIMIT 1) AS d ON true
    LEFT JOIN LATERAL (SELECT h.key, count(*) AS messages
                         FROM (SELECT f.key FROM txb.failed AS f
                                WHERE f.side = 'consumer' AND f.holds AND f.group_name = failed_keys.group_name
                                  AND f.topic = failed_keys.topic AND f.partition = failed_keys.partition
                               UNION ALL
                               SELECT f.key FROM txb.failed AS f
                                WHERE failed_keys.partition < 0 AND f.side = 'consumer' AND f.holds
                                  AND f.group_name = failed_keys.group_name AND f.topic = failed_keys.topic
                                  AND f.partition >= 0) AS h
                        GROUP BY h.key LIMIT failed_keys.keys_max) AS k ON true
   WHERE c.group_name = failed_keys.group_name AND c.topic = failed_keys.topic
     AND c.partition = failed_keys.partition
$$;
COMMENT ON FUNCTION txb.failed_keys(text, text, int, int) IS
  'The held keys of a partition with the number of messages that hold each, the version they belong to, when the next '
  'failed message is due (null: none is retried), and how many are held in the partition and in the group. A row '
  'without a key: nothing is held. No row: there is no position. A lane gets the keys that are held in live partitions '
  'of its topic as well';

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

-- Its own row, then those of the live partitions: the order in which everybody locks them. Nothing of a paused job runs,
-- and a cancelled one reads nothing more; what was opened before goes to its end.
CREATE FUNCTION txb.lane_fence(caller text, group_name text, topic text, partition int, ahead boolean) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  PERFORM FROM txb.consumer_offset AS c
    WHERE c.group_name = lane_fence.group_name AND c.topic = lane_fence.topic
      AND (c.partition = lane_fence.partition OR c.partition >= 0)
    ORDER BY c.partition
    FOR NO KEY UPDATE;
  PERFORM txb.lane_may_run(caller, lane_fence.partition, ahead);
  RETURN txb.live_keys_version(lane_fence.group_name, lane_fence.topic, lane_fence.partition); -- with a new snapshot (W2)
END
$$;
COMMENT ON FUNCTION txb.lane_fence(text, text, text, int, boolean) IS
  'Locks a lane''s position and those of the live partitions of its topic (J1); returns what they add to its '
  'keys_version. ahead: messages that were not looked at yet are to be run. TXB01: its job does not go on';

DROP FUNCTION txb.batch_open(text, text, int, bigint, bigint, bigint, int, uuid, bigint);
CREATE FUNCTION txb.batch_open(group_name text, topic text, partition int, epoch bigint, expected_next bigint,
                               new_next bigint, consumed int, last_id uuid, last_timestamp_ms bigint,
                               keys_version bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  live bigint := 0;
BEGIN
  IF batch_open.partition < 0 THEN
    live := txb.lane_fence('txb.batch_open', batch_open.group_name, batch_open.topic, batch_open.partition, true);
  END IF;
  UPDATE txb.consumer_offset AS c
     SET next_offset = new_next, consumed = c.consumed + batch_open.consumed, last_id = batch_open.last_id,
         last_timestamp_ms = batch_open.last_timestamp_ms, last_offset = new_next - 1, batch_open = true,
         updated_at = clock_timestamp()
   WHERE c.group_name = batch_open.group_name AND c.topic = batch_open.topic AND c.partition = batch_open.partition
     AND c.epoch = batch_open.epoch AND c.next_offset = expected_next AND new_next > expected_next AND NOT c.batch_open
     AND c.keys_version + live = batch_open.keys_version;
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
  'transaction''s end; raises TXB01 otherwise (W1), TXB05 when only the keys have changed. Of a lane it locks the live '
  'partitions of the topic as well (J1). A statement of its own (W2)';

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

-- Where a lane's messages go that came behind a key which a live partition holds, and the lane itself does not: behind
-- what is held there. Null: they stay. Growing a topic may leave a key in two partitions (W13): the lower one.
CREATE FUNCTION txb.lane_held_by(group_name text, topic text, partition int, keys bytea[], states text[],
                                 holds boolean[]) RETURNS TABLE (nth bigint, live int)
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  WITH item AS MATERIALIZED (
    SELECT u.* FROM unnest(lane_held_by.keys, lane_held_by.states, lane_held_by.holds) WITH ORDINALITY
                    AS u (key, state, holds, nth)
     WHERE lane_held_by.partition < 0 AND u.key IS NOT NULL
  ), held AS MATERIALIZED (
    SELECT i.key, min(i.nth) FILTER (WHERE i.state <> 'held' AND i.holds) AS head -- in this very batch
      FROM item AS i GROUP BY i.key HAVING bool_or(i.state = 'held')
  ), partitions AS MATERIALIZED (
    SELECT c.partition FROM txb.consumer_offset AS c
     WHERE c.group_name = lane_held_by.group_name AND c.topic = lane_held_by.topic
       AND (c.partition >= 0 AND c.failed > 0 OR c.partition = lane_held_by.partition)
  ), held_by AS MATERIALIZED (
    SELECT h.key, h.head, min(p.partition) AS holder -- the lane's own number is the lowest
      FROM held AS h
      LEFT JOIN partitions AS p
        ON EXISTS (SELECT FROM txb.failed AS f
                    WHERE f.side = 'consumer' AND f.holds AND f.group_name = lane_held_by.group_name
                      AND f.topic = lane_held_by.topic AND f.partition = p.partition
                      AND sha256(f.key) = sha256(h.key) AND f.key = h.key)
     GROUP BY h.key, h.head
  )
  SELECT i.nth, b.holder
    FROM item AS i JOIN held_by AS b ON b.key = i.key
   WHERE i.state = 'held' AND b.holder >= 0 AND (b.head IS NULL OR i.nth < b.head)
$$;
COMMENT ON FUNCTION txb.lane_held_by(text, text, int, bytea[], text[], boolean[]) IS
  'Which of a lane''s messages, by their place in the arrays, are held by a live partition. With the rows of '
  'txb.consumer_offset locked';

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
  lane_run bigint := 0;
  more_held bigint;
  heads bigint;
  keys_held bytea[];
  n_live bigint; -- of a lane, that go to live partitions
  moved_to int[];
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
  IF failed_add.partition < 0 THEN
    SELECT j.run INTO STRICT lane_run FROM txb.job_lane AS l JOIN txb.job AS j ON j.number = l.job
     WHERE l.lane = -failed_add.partition;
  END IF;
  WITH live AS MATERIALIZED (
    SELECT h.nth, h.live
      FROM txb.lane_held_by(failed_add.group_name, failed_add.topic, failed_add.partition, keys, states, holds) AS h
     WHERE failed_add.partition < 0
  ), item AS MATERIALIZED (
    SELECT nextval('txb.failed_number_seq') AS number, u.*
      FROM (SELECT a.*, l.live
              FROM unnest(offsets, ids, sources, keys, types, times, payloads, content_types, headers, states,
                          attempts, delays_ms, holds, error_classes, sqlstates, errors) WITH ORDINALITY
                   AS a ("offset", id, source, key, type, "time", payload, content_type, headers, state,
                         attempts, delay_ms, holds, error_class, sqlstate, error, nth)
              LEFT JOIN live AS l ON l.nth = a.nth
             ORDER BY a.nth OFFSET 0) AS u
  ), added AS (
    INSERT INTO txb.failed AS f (number, place, side, state, run, group_name, topic, partition, "offset", source, key,
                                 id, type, "time", payload, content_type, headers, attempts, next_attempt_at, holds,
                                 deaths, error_class, sqlstate, error, handler, worker)
    OVERRIDING SYSTEM VALUE
    SELECT i.number, i.number, 'consumer', i.state, lane_run, failed_add.group_name, failed_add.topic,
           coalesce(i.live, failed_add.partition),
           i."offset", i.source, i.key, i.id, i.type, i."time", i.payload, i.content_type, i.headers, i.attempts,
           CASE WHEN i.state = 'retrying'
                THEN clock_timestamp() + coalesce(i.delay_ms, 0)::float8 * interval '1 millisecond' END,
           i.holds AND i.key IS NOT NULL, CASE WHEN i.error_class = 'crash' THEN 2 ELSE 0 END,
           i.error_class, i.sqlstate, left(i.error, 4000), failed_add.handler, failed_add.worker
      FROM item AS i
     -- What waits in the live partition itself already is not put behind itself.
     WHERE i.live IS NULL
        OR NOT EXISTS (SELECT FROM txb.failed AS o
                        WHERE o.side = 'consumer' AND o.holds AND o.group_name = failed_add.group_name
                          AND o.topic = failed_add.topic AND o.partition = i.live AND sha256(o.key) = sha256(i.key)
                          AND o.key = i.key AND o.id = i.id AND o.run = lane_run)
     ORDER BY i.nth
    ON CONFLICT (group_name, topic, partition, "offset", run, id) WHERE side = 'consumer' DO UPDATE
       SET place = excluded.place, state = excluded.state, attempts = excluded.attempts, holds = excluded.holds,
           next_attempt_at = excluded.next_attempt_at, deaths = excluded.deaths, suspect = false,
           error_class = excluded.error_class, sqlstate = excluded.sqlstate, error = excluded.error, resolution = NULL,
           handler = excluded.handler, worker = excluded.worker, updated_at = clock_timestamp()
     WHERE f.state IN ('resolved', 'discarded')
    RETURNING f.number, f.place, f.partition, f.state, f.attempts, f.holds, f.key, f.error_class, f.sqlstate, f.error
  ), noted AS (
    INSERT INTO txb.failed_history (number, event, state, attempt, who, error_class, sqlstate, error)
    SELECT a.number,
           CASE WHEN a.state = 'held' THEN 'behind' WHEN a.error_class = 'crash' THEN 'crashed' ELSE 'failed' END,
           a.state, CASE WHEN a.state <> 'held' THEN a.attempts END, failed_add.worker, a.error_class, a.sqlstate,
           a.error
      FROM added AS a ORDER BY a.place
  )
  SELECT count(*) FILTER (WHERE a.state = 'held' AND a.partition = failed_add.partition),
         count(*) FILTER (WHERE a.state <> 'held' AND a.holds),
         array_agg(DISTINCT a.key) FILTER (WHERE a.state = 'held' AND a.partition = failed_add.partition),
         (SELECT count(*) FROM live), array_agg(a.partition) FILTER (WHERE a.partition <> failed_add.partition)
    INTO more_held, heads, keys_held, n_live, moved_to
    FROM added AS a;
  -- Nothing is held behind nothing: where the group lets go of the keys of the dead, what came behind one in this very
  -- batch goes on.
  IF keys_held IS NOT NULL THEN
    SELECT more_held - p.promoted, heads + p.promoted INTO more_held, heads
      FROM txb.failed_promote(failed_add.group_name, failed_add.topic, failed_add.partition, keys_held) AS p;
  END IF;
  UPDATE txb.consumer_offset AS c SET held = c.held + more_held, keys_taken = c.keys_taken + (heads > 0)::int
   WHERE (more_held <> 0 OR heads > 0) AND c.group_name = failed_add.group_name AND c.topic = failed_add.topic
     AND c.partition = failed_add.partition;
  IF n_live > 0 THEN
    PERFORM txb.lane_moved(failed_add.group_name, failed_add.topic, failed_add.partition, n_live, moved_to);
  END IF;
  SELECT sum(c.held) INTO result FROM txb.consumer_offset AS c WHERE c.group_name = failed_add.group_name;
  RETURN result;
END
$$;
COMMENT ON FUNCTION txb.failed_add(text, text, int, bigint[], uuid[], text[], bytea[], text[], timestamptz[], bytea[],
                                   text[], jsonb[], text[], int[], bigint[], boolean[], text[], text[], text[], text,
                                   text) IS
  'Sets messages of the open batch aside, in order: retrying (again after delay_ms), held (behind another of its key) '
  'or dead. Returns how many are held in the group. Of a lane, what is held by a live partition goes behind what is held '
  'there, and is counted there. TXB03: no batch is open';

REVOKE ALL ON TYPE txb.failed_history, txb.audit FROM PUBLIC;
GRANT SELECT ON txb.failed_history, txb.audit TO txb_reader;
GRANT EXECUTE ON FUNCTION
  txb.failed_keys(text, text, int, int),
  txb.batch_open(text, text, int, bigint, bigint, bigint, int, uuid, bigint, bigint),
  txb.batch_cut(text, text, int, bigint, int, uuid, bigint),
  txb.failed_add(text, text, int, bigint[], uuid[], text[], bytea[], text[], timestamptz[], bytea[], text[], jsonb[],
                 text[], int[], bigint[], boolean[], text[], text[], text[], text, text)
TO txb_worker;

RESET ROLE;
