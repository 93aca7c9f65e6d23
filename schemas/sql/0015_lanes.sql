-- Lanes of replay jobs (0014): who serves them, what they owe to the live partitions, how a rebuilt group goes on live.
--
--   txb.lane_claim(group_name text, owner text, instance uuid, lease_ms bigint, lanes_max int) returns table, a row a lane
--   txb.lane_pass(lane int, instance uuid, partitions int[], offsets bigint[], cluster_id text, highest bigint)
--       returns text                                             'next' or 'done'
--   txb.lane_free(lane int, instance uuid), txb.lane_error(lane int, instance uuid, error text) returns void
--   txb.group_waits(group_name text) returns boolean
--   txb.offset_register(...), txb.inbox_partition_drop(...)      as before, described in 0007 and 0008
--
-- Who may serve a lane is said by a lease in txb.job_lane; that only the last one who took it can write is said by the
-- epoch of its position, as everywhere. Locks, in this order: positions in the order of their partitions (a lane's before
-- the live ones), lanes, their jobs. A claim or a pass is one transaction: a crash before leaves the lane as it was, after
-- it what was decided.

SET LOCAL ROLE txb_owner;

-- ---- what may run ---------------------------------------------------------------------------------------------------

CREATE FUNCTION txb.lane_may_run(caller text, partition int, ahead boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  j txb.job;
BEGIN
  SELECT o.* INTO j FROM txb.job_lane AS l JOIN txb.job AS o ON o.number = l.job WHERE l.lane = -lane_may_run.partition;
  IF j.number IS NULL OR j.state = 'paused' OR (ahead AND j.state <> 'running') THEN
    RAISE EXCEPTION '%: lane % does not go on: %', caller, -lane_may_run.partition,
      CASE WHEN j.number IS NULL THEN 'there is no such lane' ELSE txb.job_text(j) END
      USING ERRCODE = 'TXB01';
  END IF;
END
$$;
COMMENT ON FUNCTION txb.lane_may_run(text, int, boolean) IS
  'Raises TXB01 when a lane''s job is paused, or does not go ahead any more';

CREATE FUNCTION txb.lane_moved(group_name text, topic text, partition int, messages bigint, moved_to int[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  changed bigint;
BEGIN
  UPDATE txb.consumer_offset AS c
     SET consumed = c.consumed + n.messages, failed = c.failed + n.messages, held = c.held + n.messages,
         keys_version = c.keys_version + 1, updated_at = clock_timestamp()
    FROM (SELECT u.partition, count(*) AS messages FROM unnest(moved_to) AS u (partition) GROUP BY u.partition) AS n
   WHERE c.group_name = lane_moved.group_name AND c.topic = lane_moved.topic AND c.partition = n.partition;
  GET DIAGNOSTICS changed = ROW_COUNT;
  -- The lane has changed those versions itself and knows what it did: to it their sum stays as it was. batch_close adds
  -- the messages to failed with the others, so they are taken off before.
  UPDATE txb.consumer_offset AS c
     SET consumed = c.consumed - lane_moved.messages, failed = c.failed - lane_moved.messages,
         keys_version = c.keys_version - changed
   WHERE c.group_name = lane_moved.group_name AND c.topic = lane_moved.topic AND c.partition = lane_moved.partition;
  UPDATE txb.job_lane AS l SET moved = l.moved + lane_moved.messages WHERE l.lane = -lane_moved.partition;
END
$$;
COMMENT ON FUNCTION txb.lane_moved(text, text, int, bigint, int[]) IS
  'Counts so many messages of an open batch of a lane as moved, and those that were put behind a held key to its live '
  'partition';

-- ---- a group that is rebuilt has no position yet ---------------------------------------------------------------------

CREATE FUNCTION txb.group_may_begin(group_name text, topic text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  j txb.job;
BEGIN
  PERFORM pg_advisory_xact_lock_shared(txb.jobs_lock());
  SELECT o.* INTO j FROM txb.job AS o
   WHERE o.group_name = group_may_begin.group_name AND o.then_live AND o.state IN ('running', 'paused')
     AND group_may_begin.topic = ANY (o.topics)
   LIMIT 1;
  IF j.number IS NOT NULL THEN
    RAISE EXCEPTION 'group "%" gets its position in topic "%" from a replay job: %', group_may_begin.group_name,
      group_may_begin.topic, txb.job_text(j)
      USING ERRCODE = '55006', HINT = 'It goes on live when that job is done, or cancelled.';
  END IF;
END
$$;
COMMENT ON FUNCTION txb.group_may_begin(text, text) IS
  'Raises 55006 for a group that is being rebuilt: a position made meanwhile would leave messages out (J3)';

CREATE FUNCTION txb.offset_make(group_name text, topic text, partitions int[], offsets bigint[], cluster_id text)
  RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  made int;
BEGIN
  -- Several workers of a new group may come here at once: the first one's positions stand.
  INSERT INTO txb.consumer_offset AS c (group_name, topic, partition, next_offset, epoch, cluster_id)
  SELECT offset_make.group_name, offset_make.topic, u.partition, u.next_offset, 0, nullif(offset_make.cluster_id, '')
    FROM unnest(partitions, offsets) AS u (partition, next_offset)
   ORDER BY u.partition
  ON CONFLICT ON CONSTRAINT consumer_offset_key DO NOTHING;
  GET DIAGNOSTICS made = ROW_COUNT;
  RETURN made;
END
$$;
COMMENT ON FUNCTION txb.offset_make(text, text, int[], bigint[], text) IS
  'Positions where there are none yet; returns the number made';

CREATE OR REPLACE FUNCTION txb.offset_register(group_name text, topic text, partitions int[], offsets bigint[],
                                               cluster_id text) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  IF cardinality(partitions) IS DISTINCT FROM cardinality(offsets) THEN
    RAISE EXCEPTION 'txb.offset_register: % partitions and % offsets', cardinality(partitions), cardinality(offsets)
      USING ERRCODE = '22023';
  END IF;
  IF EXISTS (SELECT FROM unnest(partitions) AS u (partition) WHERE u.partition < 0) THEN
    RAISE EXCEPTION 'txb.offset_register: a partition is negative; lanes of replay jobs begin with their job'
      USING ERRCODE = '22023';
  END IF;
  PERFORM txb.group_may_begin(offset_register.group_name, offset_register.topic);
  RETURN txb.offset_make(offset_register.group_name, offset_register.topic, partitions, offsets,
                         offset_register.cluster_id);
END
$$;

CREATE FUNCTION txb.group_waits(group_name text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT EXISTS (SELECT FROM txb.job AS j
                  WHERE j.group_name = group_waits.group_name AND j.then_live AND j.state IN ('running', 'paused'))
$$;
COMMENT ON FUNCTION txb.group_waits(text) IS
  'Whether a group is being rebuilt: its workers serve lanes only, and join the Kafka group when that is over (J3)';

-- ---- what a worker does ---------------------------------------------------------------------------------------------

CREATE FUNCTION txb.lane_left(topic text, lane int) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT EXISTS (SELECT FROM txb.failed AS f
                  WHERE f.side = 'consumer' AND f.partition < 0 AND f.partition = -lane_left.lane
                    AND f.state = 'retrying' AND f.topic = lane_left.topic)
$$;
COMMENT ON FUNCTION txb.lane_left(text, int) IS 'Whether a lane has failed messages that are tried again by themselves';

CREATE FUNCTION txb.lane_goes_on(state text, done boolean, topic text, lane int) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT CASE WHEN state = 'paused' THEN false
              WHEN state = 'running' AND NOT done THEN true
              ELSE txb.lane_left(lane_goes_on.topic, lane_goes_on.lane) END
$$;
COMMENT ON FUNCTION txb.lane_goes_on(text, boolean, text, int) IS
  'Whether a lane of a job in that state is to be served: there is something to read, or to be tried again';

-- Each waits for the jobs' rows, and then sees what others have made of their other lanes: the last one ends the job.
CREATE FUNCTION txb.job_finish(numbers bigint[], who text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  PERFORM FROM txb.job AS j WHERE j.number = ANY (numbers) ORDER BY j.number FOR NO KEY UPDATE;
  UPDATE txb.job AS j
     SET state = 'done', state_at = clock_timestamp(), state_by = who, finished_at = clock_timestamp()
   WHERE j.number = ANY (numbers) AND j.state = 'running'
     AND NOT EXISTS (SELECT FROM txb.job_lane AS l WHERE l.job = j.number AND NOT l.done);
END
$$;
COMMENT ON FUNCTION txb.job_finish(bigint[], text) IS 'Those of these jobs whose lanes are all done are done';

-- What an owner leaves that has not died: its successor need not go carefully (W10). Only where nothing is under way.
CREATE FUNCTION txb.lane_clean(group_name text, lanes int[], instance uuid) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, txb, pg_temp
AS $$
  WITH free AS MATERIALIZED (
    SELECT c.topic, c.partition FROM txb.consumer_offset AS c
     WHERE c.group_name = lane_clean.group_name AND c.partition < 0 AND -c.partition = ANY (lanes)
       AND c.instance = lane_clean.instance
     ORDER BY c.partition
       FOR NO KEY UPDATE SKIP LOCKED
  )
  UPDATE txb.consumer_offset AS c
     SET busy = false, owner = NULL, instance = NULL, backend_pid = NULL, suspect_marked = false,
         updated_at = clock_timestamp()
    FROM free AS f
   WHERE c.group_name = lane_clean.group_name AND c.topic = f.topic AND c.partition = f.partition
$$;
COMMENT ON FUNCTION txb.lane_clean(text, int[], uuid) IS 'The positions of lanes that are taken from a living owner';

CREATE FUNCTION txb.lane_claim(group_name text, owner text, instance uuid, lease_ms bigint, lanes_max int)
RETURNS TABLE (lane int, job bigint, topic text, source text, seq_to bigint, "position" bigint, run bigint,
               rate_max bigint, keys bytea[], types text[], time_from timestamptz, time_to timestamptz,
               then_live boolean, wants_pass boolean, job_lowest bigint, job_left int, pin text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  now_is timestamptz;
  touched int[]; -- lanes of ours, and those that nobody serves; all locked
  ended bigint[];
  dropped int[];
BEGIN
  IF coalesce(lane_claim.group_name, '') = '' OR coalesce(lane_claim.owner, '') = '' OR lane_claim.instance IS NULL
     OR lease_ms IS NULL OR lease_ms NOT BETWEEN 100 AND 3600000 OR lanes_max IS NULL OR lanes_max < 0 THEN
    RAISE EXCEPTION 'txb.lane_claim: group, owner and instance are needed, a lease_ms of 100 to 3600000, and a lanes_max '
                    'that is not negative' USING ERRCODE = '22023';
  END IF;
  -- Every worker asks once a second, and mostly there is nothing: told by three looks into indexes.
  IF NOT EXISTS (SELECT FROM txb.job AS j WHERE j.group_name = lane_claim.group_name AND j.state IN ('running', 'paused'))
     AND NOT EXISTS (SELECT FROM txb.job_lane AS l WHERE l.instance = lane_claim.instance)
     AND NOT EXISTS (SELECT FROM txb.failed AS f
                      WHERE f.side = 'consumer' AND f.state = 'retrying' AND f.partition < 0
                        AND f.group_name = lane_claim.group_name) THEN
    RETURN;
  END IF;
  -- Waited for: ours, which somebody may be taking over just now. Not waited for: all others.
  PERFORM FROM txb.job_lane AS l JOIN txb.job AS j ON j.number = l.job
    WHERE j.group_name = lane_claim.group_name AND l.instance = lane_claim.instance
    ORDER BY l.lane
    FOR NO KEY UPDATE OF l;
  now_is := clock_timestamp();
  touched := ARRAY(
    SELECT l.lane FROM txb.job_lane AS l JOIN txb.job AS j ON j.number = l.job
     WHERE j.group_name = lane_claim.group_name
       AND (l.instance = lane_claim.instance OR ((l.instance IS NULL OR l.lease_until <= now_is)
            AND ((NOT l.done AND j.state = 'running')
                 OR l.lane IN (SELECT -f.partition FROM txb.failed AS f -- once, not for each lane that ever was
                                WHERE f.side = 'consumer' AND f.partition < 0 AND f.state = 'retrying'
                                  AND f.group_name = lane_claim.group_name))))
     ORDER BY l.lane
       FOR NO KEY UPDATE OF l SKIP LOCKED);

  WITH done AS (
    UPDATE txb.job_lane AS l
       SET done = true, last_error = NULL, error_at = NULL, error_instance = NULL
      FROM txb.job AS j, txb.consumer_offset AS c
     WHERE l.lane = ANY (touched) AND NOT l.done AND j.number = l.job AND j.state = 'running' AND NOT j.then_live
       AND c.group_name = j.group_name AND c.topic = l.topic AND c.partition = -l.lane AND c.next_offset >= l.seq_to
    RETURNING l.job)
  SELECT array_agg(DISTINCT d.job) INTO ended FROM done AS d;
  -- Also what was paused when its last lane ended, and goes on now.
  SELECT array_agg(j.number) INTO ended FROM txb.job AS j
   WHERE j.group_name = lane_claim.group_name AND j.state = 'running'
     AND (j.number = ANY (ended) OR NOT EXISTS (SELECT FROM txb.job_lane AS l WHERE l.job = j.number AND NOT l.done));
  IF ended IS NOT NULL THEN
    PERFORM txb.job_finish(ended, 'worker ' || lane_claim.owner);
  END IF;

  WITH gone AS (
    UPDATE txb.job_lane AS l SET owner = NULL, instance = NULL, lease_until = NULL
      FROM txb.job AS j
     WHERE l.lane = ANY (touched) AND l.instance = lane_claim.instance AND j.number = l.job
       AND NOT txb.lane_goes_on(j.state, l.done, l.topic, l.lane)
    RETURNING l.lane)
  SELECT array_agg(g.lane) INTO dropped FROM gone AS g;
  IF dropped IS NOT NULL THEN
    PERFORM txb.lane_clean(lane_claim.group_name, dropped, lane_claim.instance);
  END IF;

  UPDATE txb.job_lane AS l
     SET owner = lane_claim.owner, instance = lane_claim.instance,
         lease_until = now_is + lease_ms * interval '1 millisecond'
   WHERE l.lane IN (
     SELECT o.lane FROM txb.job_lane AS o JOIN txb.job AS j ON j.number = o.job
      WHERE o.lane = ANY (touched) AND txb.lane_goes_on(j.state, o.done, o.topic, o.lane)
        -- Whoever could not serve it lets others try first.
        AND (o.instance = lane_claim.instance OR o.error_instance IS DISTINCT FROM lane_claim.instance
             OR o.error_at <= now_is - interval '10 s')
      ORDER BY o.instance = lane_claim.instance DESC NULLS LAST, o.lane
      LIMIT greatest(lanes_max, (SELECT count(*) FROM txb.job_lane AS n
                                  WHERE n.lane = ANY (touched) AND n.instance = lane_claim.instance)));
  RETURN QUERY
  SELECT l.lane, j.number, l.topic, j.source,
         CASE WHEN j.state = 'running' THEN l.seq_to ELSE least(l.seq_to, c.next_offset) END, c.next_offset, j.run,
         CASE WHEN j.rate_max > 0 THEN greatest(1, j.rate_max / greatest(1, w.lanes)) END,
         j.keys, j.types, j.time_from, j.time_to, j.then_live,
         j.then_live AND j.state = 'running' AND NOT l.done AND c.next_offset >= l.seq_to
           AND NOT txb.lane_left(l.topic, l.lane),
         w.lowest, w.lanes, txb.job_pin(j)
    FROM txb.job_lane AS l
    JOIN txb.job AS j ON j.number = l.job
   CROSS JOIN LATERAL (SELECT count(*)::int AS lanes, min(o.next_offset) AS lowest
                         FROM txb.job_lane AS n
                         JOIN txb.consumer_offset AS o
                           ON o.group_name = j.group_name AND o.topic = n.topic AND o.partition = -n.lane
                        WHERE n.job = j.number AND NOT n.done) AS w
    JOIN txb.consumer_offset AS c ON c.group_name = j.group_name AND c.topic = l.topic AND c.partition = -l.lane
   WHERE l.lane = ANY (touched) AND l.instance = lane_claim.instance
   ORDER BY l.lane;
END
$$;
COMMENT ON FUNCTION txb.lane_claim(text, text, uuid, bigint, int) IS
  'Renews the leases of a worker''s lanes and takes free ones up to lanes_max; returns all that it may serve from now on. '
  'What is not returned is not its own any more. Ends lanes and jobs that are read to their end. rate_max is the lane''s '
  'share; wants_pass: call txb.lane_pass; job_lowest: where the hindmost of the job''s lanes stands that are not done, of '
  'which there are job_left: retention must leave what lies above, by a pin of that name in the source';

CREATE FUNCTION txb.lane_pass(lane int, instance uuid, partitions int[], offsets bigint[], cluster_id text, highest bigint)
  RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  l txb.job_lane;
  j txb.job;
  at bigint;
  made int;
  waiting text;
BEGIN
  SELECT o.* INTO l FROM txb.job_lane AS o WHERE o.lane = lane_pass.lane FOR NO KEY UPDATE;
  IF l.lane IS NULL OR l.instance IS DISTINCT FROM lane_pass.instance THEN
    RAISE EXCEPTION 'txb.lane_pass: lane % is not this worker''s', lane_pass.lane
      USING ERRCODE = 'TXB01', DETAIL = format('It is served by %s.', coalesce(l.owner, 'nobody'));
  END IF;
  SELECT o.* INTO j FROM txb.job AS o WHERE o.number = l.job;
  IF j.state <> 'running' OR l.done THEN
    RAISE EXCEPTION 'txb.lane_pass: lane % does not go on: %', l.lane,
      CASE WHEN l.done THEN 'it is done' ELSE txb.job_text(j) END USING ERRCODE = 'TXB01';
  END IF;
  SELECT c.next_offset INTO at FROM txb.consumer_offset AS c
   WHERE c.group_name = j.group_name AND c.topic = l.topic AND c.partition = -l.lane;
  IF NOT j.then_live OR at < l.seq_to OR lane_pass.highest IS NULL OR cardinality(lane_pass.partitions) IS NULL
     OR cardinality(lane_pass.partitions) = 0
     OR cardinality(lane_pass.partitions) IS DISTINCT FROM cardinality(lane_pass.offsets)
     OR EXISTS (SELECT FROM unnest(lane_pass.partitions, lane_pass.offsets) AS u (partition, next_offset)
                 WHERE u.partition IS NULL OR u.partition < 0 OR u.next_offset IS NULL OR u.next_offset < 0) THEN
    RAISE EXCEPTION 'txb.lane_pass: lane % stands at % of %, and % partitions and % offsets were given: a pass begins when '
                    'the one before is read to its end, with an offset for every partition', l.lane, at, l.seq_to,
      cardinality(lane_pass.partitions), cardinality(lane_pass.offsets) USING ERRCODE = '22023';
  END IF;
  -- J3. The pass that was just read began after these ends were noted, and was read to the end: every message below them
  -- lies in it or before it. Not if partitions were added since, or it is another cluster: then the ends are noted anew.
  -- What has failed holds its key in the lane only: live messages of that key would overtake it. So live waits until
  -- nothing holds, and for what is dead that takes a person, who is told.
  waiting := (SELECT CASE WHEN count(*) > 0
                          THEN format('goes live when no failed message holds a key any more: %s do, of which %s dead; decide '
                                      'about those: txbroker failed list', count(*),
                                      count(*) FILTER (WHERE f.state = 'dead')) END
                FROM txb.failed AS f
               WHERE f.side = 'consumer' AND f.holds AND f.group_name = j.group_name AND f.topic = l.topic
                 AND f.partition = -l.lane);
  IF l.passes > 0 AND l.seq_to - l.pass_from <= 10000 AND waiting IS NULL AND NOT txb.lane_left(l.topic, l.lane)
     AND l.ends_cluster IS NOT DISTINCT FROM nullif(lane_pass.cluster_id, '')
     AND (SELECT array_agg(u.p ORDER BY u.p) FROM unnest(l.ends_partitions) AS u (p))
         = (SELECT array_agg(u.p ORDER BY u.p) FROM unnest(lane_pass.partitions) AS u (p)) THEN
    made := txb.offset_make(j.group_name, l.topic, l.ends_partitions, l.ends_offsets, l.ends_cluster);
    IF made <> cardinality(l.ends_partitions) THEN
      RAISE EXCEPTION 'group "%" has got a position in topic "%" while it was rebuilt', j.group_name, l.topic
        USING ERRCODE = 'TXB04', HINT = 'Cancel the job: where live goes on stands in txb.consumer_offset already.';
    END IF;
    UPDATE txb.job_lane AS o SET done = true, last_error = NULL, error_at = NULL, error_instance = NULL
     WHERE o.lane = l.lane;
    PERFORM txb.job_finish(ARRAY[l.job], 'worker ' || l.owner);
    RETURN 'done';
  END IF;
  UPDATE txb.job_lane AS o
     SET pass_from = at, seq_to = greatest(at, lane_pass.highest + 1), passes = o.passes + 1,
         ends_partitions = lane_pass.partitions, ends_offsets = lane_pass.offsets,
         ends_cluster = nullif(lane_pass.cluster_id, ''), last_error = waiting,
         error_at = CASE WHEN waiting IS NOT NULL THEN clock_timestamp() END, error_instance = NULL
   WHERE o.lane = l.lane;
  RETURN 'next';
END
$$;
COMMENT ON FUNCTION txb.lane_pass(int, uuid, int[], bigint[], text, bigint) IS
  'A pass of a lane that goes on live is read to its end. With the end offsets of the topic, noted first, and the highest '
  'number of the outbox, read after them: done (the group goes on live at the ends noted before this pass), or next: also '
  'while failed messages hold keys, which live would overtake. TXB01: another serves the lane';

CREATE FUNCTION txb.lane_free(lane int, instance uuid) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
  UPDATE txb.job_lane AS l SET owner = NULL, instance = NULL, lease_until = NULL
   WHERE l.lane = lane_free.lane AND l.instance = lane_free.instance
$$;
COMMENT ON FUNCTION txb.lane_free(int, uuid) IS 'Gives a lane back: whoever claims next takes it at once';

CREATE FUNCTION txb.lane_error(lane int, instance uuid, error text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
  UPDATE txb.job_lane AS l
     SET last_error = left(nullif(lane_error.error, ''), 4000),
         error_at = CASE WHEN coalesce(lane_error.error, '') <> '' THEN clock_timestamp() END,
         error_instance = CASE WHEN coalesce(lane_error.error, '') <> '' THEN lane_error.instance END
   WHERE l.lane = lane_error.lane AND l.instance = lane_error.instance
$$;
COMMENT ON FUNCTION txb.lane_error(int, uuid, text) IS
  'Why a lane does not go on, said by its owner; null: it goes on again. Who then frees it does not get it back for ten '
  'seconds, so that another worker may try';

-- ---- the inbox and runs ---------------------------------------------------------------------------------------------

-- Below the horizon an id can't be told from a repetition, but for two: a forced run applies again whatever was applied,
-- once; and a group that is rebuilt has applied nothing. For those the row is kept in the default, as of any other day
-- without a partition. batch_open is only ever true in the transaction that opened the batch: what stands there is about
-- this very insert.
CREATE FUNCTION txb.inbox_too_old() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  PERFORM FROM txb.consumer_offset AS c
    JOIN txb.job_lane AS l ON l.lane = -c.partition
    JOIN txb.job AS j ON j.number = l.job
   WHERE c.group_name = NEW.group_name AND c.partition < 0 AND c.batch_open AND j.then_live;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'message % is older than what the inbox remembers: it violates "inbox_horizon"', NEW.message_id
      USING ERRCODE = '23514', SCHEMA = 'txb', TABLE = 'inbox_default', CONSTRAINT = 'inbox_horizon';
  END IF;
  RETURN NEW;
END
$$;
COMMENT ON FUNCTION txb.inbox_too_old() IS
  'Refuses an id that was forgotten, unless the group can''t have applied it before';

-- A trigger in place of the CHECK constraint of 0008, which can't look at a job. The bound stands in its condition, so
-- that whatever is younger pays nothing.
CREATE FUNCTION txb.inbox_horizon_set(floor_id uuid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  ALTER TABLE txb.inbox_default DROP CONSTRAINT IF EXISTS inbox_horizon;
  DROP TRIGGER IF EXISTS inbox_horizon ON txb.inbox_default;
  EXECUTE format('CREATE TRIGGER inbox_horizon BEFORE INSERT ON txb.inbox_default FOR EACH ROW'
                 ' WHEN (NEW.run = 0 AND NEW.message_id < %L) EXECUTE FUNCTION txb.inbox_too_old()', floor_id);
  COMMENT ON TRIGGER inbox_horizon ON txb.inbox_default IS
    'Ids below were dropped: such a message can''t be told from a repetition, and is refused';
END
$$;
COMMENT ON FUNCTION txb.inbox_horizon_set(uuid) IS 'From now on ids below are refused. With the inbox locked';

DO $$
BEGIN
  PERFORM txb.inbox_horizon_set(txb.uuid_v7_floor(s.horizon)) FROM txb.inbox_state AS s WHERE isfinite(s.horizon);
END
$$;

CREATE OR REPLACE FUNCTION txb.inbox_partition_drop(keep interval) RETURNS int
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
  IF limit_at <= horizon OR txb.inbox_in_use() THEN
    RETURN 0;
  END IF;
  floor_id := txb.uuid_v7_floor(limit_at);
  -- Dropping a partition locks the parent against everybody. Batches are short; if one is not, the lock_timeout ends
  -- the waiting of those behind us.
  LOCK TABLE ONLY txb.inbox IN ACCESS EXCLUSIVE MODE;
  LOCK TABLE txb.inbox_default IN ACCESS EXCLUSIVE MODE;
  -- Once more under the lock: another one, with a shorter keep, may have raised the horizon meanwhile. It never sinks.
  SELECT s.horizon INTO horizon FROM txb.inbox_state AS s;
  IF limit_at <= horizon OR txb.inbox_in_use() THEN
    RETURN 0;
  END IF;
  FOR one IN SELECT p.name FROM txb.inbox_partition AS p WHERE p.past <= floor_id ORDER BY p.first LOOP
    EXECUTE format('DROP TABLE txb.%I', one.name);
    dropped := dropped + 1;
  END LOOP;
  DELETE FROM txb.inbox_default AS d WHERE d.message_id < floor_id;
  -- From now on these ids would fall into the default, and be new there.
  PERFORM txb.inbox_horizon_set(floor_id);
  UPDATE txb.inbox_state AS s SET horizon = limit_at;
  RETURN dropped;
END
$$;
COMMENT ON FUNCTION txb.inbox_partition_drop(interval) IS
  'Drops the days that are over for longer than keep, and refuses their ids from then on; not while a replay job needs '
  'them. 55P03: try again. Returns the number dropped';

-- A job that was served within a week, or begun, still asks for old days, and remembers in them what it has applied.
CREATE FUNCTION txb.inbox_in_use() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT EXISTS (SELECT FROM txb.job AS j JOIN txb.job_lane AS l ON l.job = j.number
                  WHERE j.state IN ('running', 'paused')
                    AND greatest(j.created_at, j.state_at, l.lease_until) > clock_timestamp() - interval '7 days')
$$;
COMMENT ON FUNCTION txb.inbox_in_use() IS 'Whether a replay job relies on the old days of the inbox';

GRANT EXECUTE ON FUNCTION
  txb.lane_claim(text, text, uuid, bigint, int),
  txb.lane_pass(int, uuid, int[], bigint[], text, bigint),
  txb.lane_free(int, uuid),
  txb.lane_error(int, uuid, text),
  txb.group_waits(text)
TO txb_worker;

RESET ROLE;
