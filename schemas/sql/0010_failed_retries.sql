-- Failed messages tried again, by whoever owns their partition, under a committed marker (W10).
--
--   txb.retry_mark(group_name text, topic text, partition int, epoch bigint, rows_max int, bytes_max bigint,
--                  numbers bigint[] = null) returns the messages that are due, under a marker
--   txb.retry_open(group_name text, topic text, partition int, epoch bigint, keys_version bigint) returns void
--   txb.retry_settle(group_name text, topic text, partition int, numbers bigint[], verdicts text[], ...)
--       returns when the next is due, and the keys that are free
--   txb.failed_condemn(group_name text, topic text, partition int, epoch bigint, number bigint, error text,
--                      release boolean, worker text) returns the same
--
-- retry_mark is a transaction of its own; retry_open, the effects and retry_settle are another. A crash between them
-- leaves the marker, and who takes the partition then knows what ran (offset_take). TXB01 and TXB05 as in 0009.

SET LOCAL ROLE txb_owner;

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
  OUT "time" timestamptz, OUT payload bytea, OUT content_type text, OUT headers jsonb, OUT run bigint)
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
  one_run bigint; -- of all that are given out together
  picked bigint[] := '{}';
  bytes bigint := 0;
BEGIN
  SELECT * INTO was FROM txb.consumer_offset AS c
   WHERE c.group_name = retry_mark.group_name AND c.topic = retry_mark.topic AND c.partition = retry_mark.partition
     FOR UPDATE;
  IF was.epoch IS DISTINCT FROM retry_mark.epoch THEN
    PERFORM txb.fence_missed('txb.retry_mark', retry_mark.group_name, retry_mark.topic, retry_mark.partition);
  END IF;
  IF retry_mark.partition < 0 THEN
    PERFORM txb.lane_may_run('txb.retry_mark', retry_mark.partition, false);
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
      SELECT f.number, f.key, f.place, f.holds, f.attempts, f.run,
             coalesce(octet_length(f.payload), 0) + coalesce(pg_column_size(f.headers), 0) AS size
        FROM txb.failed AS f
       WHERE f.side = 'consumer' AND f.state = 'retrying' AND f.group_name = retry_mark.group_name
         AND f.topic = retry_mark.topic AND f.partition = retry_mark.partition AND f.next_attempt_at <= now_is
         AND (retry_mark.numbers IS NULL OR f.number = ANY (retry_mark.numbers))
       ORDER BY f.next_attempt_at LIMIT retry_mark.rows_max
    LOOP
      one_run := coalesce(one_run, head.run);
      CONTINUE heads WHEN head.run <> one_run;
      EXIT heads WHEN cardinality(picked) > 0
                  AND (cardinality(picked) >= retry_mark.rows_max OR bytes + head.size > retry_mark.bytes_max);
      picked := picked || head.number;
      bytes := bytes + head.size;
      CONTINUE heads WHEN NOT head.holds OR head.attempts > 0 OR cardinality(picked) >= retry_mark.rows_max;
      FOR follower IN
        SELECT f.number, f.state, f.suspect, f.run,
               coalesce(octet_length(f.payload), 0) + coalesce(pg_column_size(f.headers), 0) AS size
          FROM txb.failed AS f
         WHERE f.side = 'consumer' AND f.holds AND f.group_name = retry_mark.group_name AND f.topic = retry_mark.topic
           AND f.partition = retry_mark.partition AND sha256(f.key) = sha256(head.key) AND f.key = head.key
           AND f.place > head.place
         ORDER BY f.place LIMIT retry_mark.rows_max
      LOOP
        EXIT WHEN follower.suspect OR follower.state <> 'held' OR follower.run <> one_run;
        EXIT heads WHEN cardinality(picked) >= retry_mark.rows_max OR bytes + follower.size > retry_mark.bytes_max;
        picked := picked || follower.number;
        bytes := bytes + follower.size;
      END LOOP;
    END LOOP;
  END IF;
  keys_version := was.keys_version
                  + txb.live_keys_version(retry_mark.group_name, retry_mark.topic, retry_mark.partition);
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
    SELECT retry_mark.keys_version, NULL::bigint, f.number, f.attempts, f.deaths, f.state = 'held', f."offset", f.id,
           f.source, f.key, f.type, f."time", f.payload, f.content_type, f.headers, f.run
      FROM unnest(picked) WITH ORDINALITY AS p (number, nth)
           CROSS JOIN LATERAL (SELECT * FROM txb.failed AS t WHERE t.number = p.number OFFSET 0) AS f
     -- each by index: a plan that is kept knows not how many they are
     ORDER BY p.nth;
END
$$;
COMMENT ON FUNCTION txb.retry_mark(text, text, int, bigint, int, bigint, bigint[]) IS
  'Takes the failed messages that are due, each with what is held behind it, and notes them as the marker under which '
  'they run, to be committed before they do (W10). A suspect comes alone; all rows are of one run. One row without a '
  'number: none is due, or rows_max is 0; there is no marker, and an older one is taken in. TXB01: not the owner';

CREATE FUNCTION txb.retry_open(group_name text, topic text, partition int, epoch bigint, keys_version bigint)
  RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  live bigint := 0;
BEGIN
  IF retry_open.partition < 0 THEN
    live := txb.lane_fence('txb.retry_open', retry_open.group_name, retry_open.topic, retry_open.partition, false);
  END IF;
  UPDATE txb.consumer_offset AS c SET batch_open = true, updated_at = clock_timestamp()
   WHERE c.group_name = retry_open.group_name AND c.topic = retry_open.topic AND c.partition = retry_open.partition
     AND c.epoch = retry_open.epoch AND c.suspect_marked AND c.suspect_failed IS NOT NULL AND NOT c.batch_open
     AND c.keys_version + live = retry_open.keys_version;
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

CREATE FUNCTION txb.keys_freed(group_name text, topic text, partition int, freed bytea[]) RETURNS bytea[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  IF keys_freed.partition >= 0 OR freed IS NULL THEN
    RETURN freed;
  END IF;
  RETURN (SELECT array_agg(k.key) FROM unnest(freed) AS k (key)
           WHERE NOT EXISTS (SELECT FROM txb.consumer_offset AS c
                              CROSS JOIN LATERAL (SELECT FROM txb.failed AS f
                                                   WHERE f.side = 'consumer' AND f.holds
                                                     AND f.group_name = keys_freed.group_name
                                                     AND f.topic = keys_freed.topic AND f.partition = c.partition
                                                     AND sha256(f.key) = sha256(k.key) AND f.key = k.key LIMIT 1) AS f
                              WHERE c.group_name = keys_freed.group_name AND c.topic = keys_freed.topic
                                AND c.partition >= 0 AND c.failed > 0));
END
$$;
COMMENT ON FUNCTION txb.keys_freed(text, text, int, bytea[]) IS
  'Of the keys that nothing in a partition holds any more, those that are free; of a lane: that no live partition holds '
  'either';

CREATE FUNCTION txb.failed_left(group_name text, topic text, partition int, freed bytea[])
  RETURNS TABLE (next_due_ms bigint, held bigint, group_held bigint, key bytea)
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT txb.failed_next_due_ms(failed_left.group_name, failed_left.topic, failed_left.partition), c.held,
         (SELECT sum(o.held)::bigint FROM txb.consumer_offset AS o WHERE o.group_name = failed_left.group_name), k.key
    FROM txb.consumer_offset AS c
    LEFT JOIN unnest(txb.keys_freed(failed_left.group_name, failed_left.topic, failed_left.partition, freed)) AS k (key)
      ON true
   WHERE c.group_name = failed_left.group_name AND c.topic = failed_left.topic
     AND c.partition = failed_left.partition
$$;
COMMENT ON FUNCTION txb.failed_left(text, text, int, bytea[]) IS
  'When the next failed message of a partition is due, how many are held there and in the group, and the keys that '
  'nothing holds any more, a row each; at least one row. Of a lane: that no live partition holds either';

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
         keys_taken = c.keys_taken + (freed IS NOT NULL)::int,
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
     SET held = c.held - n_promoted, keys_taken = c.keys_taken + (freed IS NOT NULL)::int, suspect_failed = NULL,
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
         backend_pid = pg_backend_pid(), -- a lane's log is no Kafka cluster's
         cluster_id = CASE WHEN c.partition >= 0 THEN coalesce(c.cluster_id, nullif(offset_take.cluster_id, '')) END,
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
  keys_version := was.keys_version
                  + txb.live_keys_version(offset_take.group_name, offset_take.topic, offset_take.partition);
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
  IF offset_set.partition < 0 THEN
    RAISE EXCEPTION 'txb.offset_set: partition % is a lane of a replay job, which moves it itself', offset_set.partition
      USING ERRCODE = '22023', HINT = 'Cancel the job and start another one from where you want.';
  END IF;
  PERFORM txb.group_may_begin(offset_set.group_name, offset_set.topic);
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

GRANT EXECUTE ON FUNCTION
  txb.retry_mark(text, text, int, bigint, int, bigint, bigint[]),
  txb.retry_open(text, text, int, bigint, bigint),
  txb.retry_settle(text, text, int, bigint[], text[], bigint[], text[], text[], text[], boolean, text),
  txb.failed_condemn(text, text, int, bigint, bigint, text, boolean, text),
  txb.offset_take(text, text, int, text, uuid, text)
TO txb_worker;

RESET ROLE;
