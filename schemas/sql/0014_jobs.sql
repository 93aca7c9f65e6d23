-- Replay jobs: a range of a source's outbox once more into a group, in lanes; and what a lane needs of everything else.
--
-- In the database that consumes:
--   txb.job_start(name text, group_name text, source text, topics text[], keys bytea[], types text[],
--                 time_from timestamptz, time_to timestamptz, seq_from bigint, seq_to bigint, forced boolean,
--                 then_live boolean, rate_max bigint, reason text, person text, out number bigint, out existed boolean)
--   txb.job_pause(number bigint, person text, reason text), txb.job_resume(...), txb.job_cancel(...) returns void
--   txb.job_rate(number bigint, rate_max bigint, person text) returns void
--   txb.job_list(after bigint = null, page int = 50), txb.job_show(number bigint) returns table, a row a job
--   txb.lane_claim(group_name text, owner text, instance uuid, lease_ms bigint, lanes_max int) returns table, a row a lane
--   txb.lane_pass(lane int, instance uuid, partitions int[], offsets bigint[], cluster_id text, highest bigint)
--       returns text                                             'next' or 'done'
--   txb.lane_free(lane int, instance uuid), txb.lane_error(lane int, instance uuid, error text) returns void
--   txb.group_waits(group_name text) returns boolean
-- In the database that publishes:
--   txb.outbox_pin_set(name text, lo bigint, what text) returns void, txb.outbox_unpin(name text) returns boolean
--   txb.replay_range(source text, topics text[] = null) returns one row
--
-- A lane is one topic of a job, and a row of txb.consumer_offset whose partition is the lane's number, negative. Its
-- log is the outbox: offset = seq, next_offset = the lowest seq not looked at yet. So position, inbox, failed messages,
-- held keys and markers are those of any partition, and so is what a crash leaves. Who may serve a lane is said by a
-- lease here; that only the last one who took it can write is said by the epoch of its position, as everywhere.
--
-- Locks, in this order: positions in the order of their partitions (a lane's before the live ones), lanes, their jobs. A
-- claim or a pass is one transaction: a crash before leaves the lane as it was, after it what was decided.

SET LOCAL ROLE txb_owner;

-- ---- jobs and lanes -------------------------------------------------------------------------------------------------

CREATE TABLE txb.job (
  number bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT job_number PRIMARY KEY,
  name text COLLATE "C" CONSTRAINT job_name UNIQUE
    CONSTRAINT job_name_size CHECK (octet_length(name) BETWEEN 1 AND 255),
  state text NOT NULL DEFAULT 'running'
    CONSTRAINT job_state CHECK (state IN ('running', 'paused', 'cancelled', 'done')),
  group_name text COLLATE "C" NOT NULL CONSTRAINT job_group CHECK (octet_length(group_name) BETWEEN 1 AND 255),
  source text COLLATE "C" NOT NULL,
  topics text[] COLLATE "C" NOT NULL CONSTRAINT job_topics CHECK (cardinality(topics) > 0),
  keys bytea[],
  types text[],
  time_from timestamptz,
  time_to timestamptz,
  seq_from bigint NOT NULL CONSTRAINT job_from CHECK (seq_from >= 0),
  seq_to bigint CONSTRAINT job_to CHECK (then_live = (seq_to IS NULL)),
  forced boolean NOT NULL,
  run bigint NOT NULL,
  then_live boolean NOT NULL,
  rate_max bigint CONSTRAINT job_rate CHECK (rate_max > 0),
  reason text,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  created_by text NOT NULL DEFAULT session_user,
  os_user text,
  state_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  state_by text NOT NULL,
  finished_at timestamptz CONSTRAINT job_finished CHECK ((finished_at IS NOT NULL) = (state IN ('cancelled', 'done')))
);
CREATE INDEX job_by_group ON txb.job (group_name, number);
COMMENT ON TABLE txb.job IS 'Replay jobs: messages of an outbox that are run again, on purpose, into a group';
COMMENT ON COLUMN txb.job.number IS 'Identity';
COMMENT ON COLUMN txb.job.name IS 'Given at the start, so that starting twice makes one job; null: none';
COMMENT ON COLUMN txb.job.state IS 'running, paused, cancelled (what is done stays done), done';
COMMENT ON COLUMN txb.job.group_name IS 'Kafka consumer group that the messages are run for';
COMMENT ON COLUMN txb.job.source IS 'Source whose outbox is read';
COMMENT ON COLUMN txb.job.topics IS 'Topics, sorted; a lane each';
COMMENT ON COLUMN txb.job.keys IS 'Only messages with one of these keys; null: all';
COMMENT ON COLUMN txb.job.types IS 'Only messages of one of these types; null: all';
COMMENT ON COLUMN txb.job.time_from IS 'Only intents written then or later; null: all';
COMMENT ON COLUMN txb.job.time_to IS 'Only intents written before; null: all';
COMMENT ON COLUMN txb.job.seq_from IS 'First number of the range';
COMMENT ON COLUMN txb.job.seq_to IS 'First number behind the range; null: it ends where live begins';
COMMENT ON COLUMN txb.job.forced IS 'What was applied before is applied again, once in this job (J2)';
COMMENT ON COLUMN txb.job.run IS 'Run in txb.inbox and txb.failed: the job''s number if it is forced, else 0';
COMMENT ON COLUMN txb.job.then_live IS 'Rebuilds a group from nothing: when all is replayed, its workers go on live (J3)';
COMMENT ON COLUMN txb.job.rate_max IS 'At most so many messages a second; null: as fast as can be';
COMMENT ON COLUMN txb.job.reason IS 'Why';
COMMENT ON COLUMN txb.job.created_at IS 'When it was started';
COMMENT ON COLUMN txb.job.created_by IS 'The database role that started it';
COMMENT ON COLUMN txb.job.os_user IS 'The operating system''s user, as the program told it';
COMMENT ON COLUMN txb.job.state_at IS 'When the state was reached';
COMMENT ON COLUMN txb.job.state_by IS 'Who made it so: database role and system user, or a worker';
COMMENT ON COLUMN txb.job.finished_at IS 'When it was cancelled or done';
COMMENT ON CONSTRAINT job_number ON txb.job IS 'Identity';
COMMENT ON INDEX txb.job_number IS 'Identity';
COMMENT ON SEQUENCE txb.job_number_seq IS 'Numbers of txb.job';
COMMENT ON CONSTRAINT job_name ON txb.job IS 'One job a name, whatever became of it';
COMMENT ON INDEX txb.job_name IS 'One job a name, whatever became of it';
COMMENT ON CONSTRAINT job_name_size ON txb.job IS 'name: 1 to 255 bytes';
COMMENT ON CONSTRAINT job_state ON txb.job IS 'state: running, paused, cancelled or done';
COMMENT ON CONSTRAINT job_group ON txb.job IS 'group_name: 1 to 255 bytes';
COMMENT ON CONSTRAINT job_topics ON txb.job IS 'At least one topic';
COMMENT ON CONSTRAINT job_from ON txb.job IS 'seq_from: not negative';
COMMENT ON CONSTRAINT job_to ON txb.job IS 'A job that goes on live has no end of its own';
COMMENT ON CONSTRAINT job_rate ON txb.job IS 'rate_max: at least 1';
COMMENT ON CONSTRAINT job_finished ON txb.job IS 'What is cancelled or done says since when';
COMMENT ON INDEX txb.job_by_group IS 'The jobs of a group';

CREATE TABLE txb.job_lane (
  lane int GENERATED ALWAYS AS IDENTITY CONSTRAINT job_lane_number PRIMARY KEY,
  job bigint NOT NULL,
  topic text COLLATE "C" NOT NULL,
  seq_from bigint NOT NULL,
  seq_to bigint NOT NULL,
  pass_from bigint NOT NULL,
  passes int NOT NULL DEFAULT 0,
  ends_partitions int[],
  ends_offsets bigint[],
  ends_cluster text,
  moved bigint NOT NULL DEFAULT 0,
  owner text,
  instance uuid,
  lease_until timestamptz,
  done boolean NOT NULL DEFAULT false,
  last_error text,
  error_at timestamptz,
  error_instance uuid,
  CONSTRAINT job_lane_topic UNIQUE (job, topic)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE txb.job_lane IS
  'One topic of a replay job: its range, and who serves it. Its position is in txb.consumer_offset, with partition = '
  '-lane';
COMMENT ON COLUMN txb.job_lane.lane IS 'Identity; negative it is the partition of its position and its failed messages';
COMMENT ON COLUMN txb.job_lane.job IS 'The job, in txb.job';
COMMENT ON COLUMN txb.job_lane.topic IS 'Kafka topic';
COMMENT ON COLUMN txb.job_lane.seq_from IS 'First number of the range';
COMMENT ON COLUMN txb.job_lane.seq_to IS 'First number behind what is to be read; grows by passes where the job goes on live';
COMMENT ON COLUMN txb.job_lane.pass_from IS 'Where the pass under way began (J3)';
COMMENT ON COLUMN txb.job_lane.passes IS 'How many passes were begun (J3)';
COMMENT ON COLUMN txb.job_lane.ends_partitions IS 'Partitions of the topic when the pass under way began';
COMMENT ON COLUMN txb.job_lane.ends_offsets IS 'Their end offsets then: where the group goes on live if this pass is the last';
COMMENT ON COLUMN txb.job_lane.ends_cluster IS 'The Kafka cluster that they belong to';
COMMENT ON COLUMN txb.job_lane.moved IS
  'Messages handed to live partitions, behind what holds their key there; they are counted there';
COMMENT ON COLUMN txb.job_lane.owner IS 'Worker that serves it; null: none';
COMMENT ON COLUMN txb.job_lane.instance IS 'Which life of that worker';
COMMENT ON COLUMN txb.job_lane.lease_until IS 'An owner that has not renewed by then is replaced; by this server''s clock';
COMMENT ON COLUMN txb.job_lane.done IS 'The range is read to its end; failed messages may be left';
COMMENT ON COLUMN txb.job_lane.last_error IS 'Why it does not go on; null: nothing is wrong';
COMMENT ON COLUMN txb.job_lane.error_at IS 'When that was said';
COMMENT ON COLUMN txb.job_lane.error_instance IS 'By which worker: it does not claim the lane again at once';
COMMENT ON CONSTRAINT job_lane_number ON txb.job_lane IS 'Identity';
COMMENT ON INDEX txb.job_lane_number IS 'Identity';
COMMENT ON SEQUENCE txb.job_lane_lane_seq IS 'Numbers of txb.job_lane';
COMMENT ON CONSTRAINT job_lane_topic ON txb.job_lane IS 'One lane per job and topic';
COMMENT ON INDEX txb.job_lane_topic IS 'One lane per job and topic';

ALTER TABLE txb.consumer_offset
  DROP CONSTRAINT consumer_offset_partition,
  ADD CONSTRAINT consumer_offset_partition CHECK (partition >= 0 OR cluster_id IS NULL);
COMMENT ON CONSTRAINT consumer_offset_partition ON txb.consumer_offset IS
  'partition: not negative, or a lane of a replay job, which belongs to no Kafka cluster';
COMMENT ON COLUMN txb.consumer_offset.partition IS
  'Kafka partition; negative: a lane of a replay job (txb.job_lane), whose offsets are numbers of the source''s outbox';
COMMENT ON COLUMN txb.failed.partition IS 'Kafka partition; negative: a lane of a replay job';
COMMENT ON COLUMN txb.failed."offset" IS
  'Kafka offset; of a lane, and of what it put behind a held key of a live partition: the intent''s number';
CREATE INDEX failed_lane ON txb.failed (partition, state) WHERE side = 'consumer' AND partition < 0;
COMMENT ON INDEX txb.failed_lane IS 'What is left of a lane';

-- ---- who may run ----------------------------------------------------------------------------------------------------

CREATE FUNCTION txb.job_text(j txb.job) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT format('job %s%s is %s since %s: %s', (j).number, coalesce(' ("' || (j).name || '")', ''), (j).state,
                txb.time_text((j).state_at), (j).state_by)
$$;
COMMENT ON FUNCTION txb.job_text(txb.job) IS 'A job''s state for a person: since when, by whom';

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

CREATE FUNCTION txb.jobs_lock() RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN hashtextextended('txb.job', 1954049330);
COMMENT ON FUNCTION txb.jobs_lock() IS 'The advisory lock of whoever starts a job, or gives a group a position (shared)';

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

-- ---- what a person decides ------------------------------------------------------------------------------------------

CREATE FUNCTION txb.job_audit(action text, j txb.job, person text, reason text) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, txb, pg_temp
AS $$
  INSERT INTO txb.audit (person, action, filter, matched, changed, reason)
  VALUES (nullif(job_audit.person, ''), job_audit.action,
          jsonb_strip_nulls(jsonb_build_object(
            'job', (j).number, 'name', (j).name, 'group', (j).group_name, 'source', (j).source, 'topics', (j).topics,
            'keys', (SELECT jsonb_agg(txb.key_text(k)) FROM unnest((j).keys) AS k), 'types', (j).types,
            'time_from', (j).time_from, 'time_to', (j).time_to, 'seq_from', (j).seq_from, 'seq_to', (j).seq_to,
            'forced', (j).forced, 'then_live', (j).then_live, 'rate_max', (j).rate_max)),
          1, 1, left(nullif(job_audit.reason, ''), 1000))
$$;
COMMENT ON FUNCTION txb.job_audit(text, txb.job, text, text) IS 'The audit row of a command about a job';

CREATE FUNCTION txb.sorted(list text[]) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT array_agg(DISTINCT u.one ORDER BY u.one) FROM unnest(list) AS u (one));
COMMENT ON FUNCTION txb.sorted(text[]) IS 'A list in order, each once; null: it is empty';

-- What is wrong with a job by itself, whatever else there is.
CREATE FUNCTION txb.job_problem(j txb.job) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT CASE
    WHEN coalesce((j).group_name, '') = '' OR octet_length((j).group_name) > 255 THEN 'the group is needed, of 1 to 255 bytes'
    WHEN coalesce((j).source, '') = '' THEN 'the source is needed'
    WHEN octet_length((j).name) NOT BETWEEN 1 AND 255 THEN 'the name has 1 to 255 bytes'
    WHEN (j).topics IS NULL THEN 'at least one topic is needed'
    WHEN array_position((j).topics, NULL) IS NOT NULL OR '' = ANY ((j).topics) THEN 'a topic is empty'
    WHEN cardinality((j).keys) = 0 OR array_position((j).keys, NULL) IS NOT NULL
      THEN 'the list of keys is empty, or one of them is null; leave it out to mean all'
    WHEN cardinality((j).types) = 0 OR array_position((j).types, NULL) IS NOT NULL
      THEN 'the list of types is empty, or one of them is null; leave it out to mean all'
    WHEN (j).time_from >= (j).time_to
      THEN format('the range of times is empty: it goes from %s to %s', txb.time_text((j).time_from), txb.time_text((j).time_to))
    WHEN (j).seq_from IS NULL OR (j).seq_from < 0 THEN 'the first number of the range is needed, and is not negative'
    WHEN (j).then_live AND (j).forced
      THEN 'a job that goes on live can''t be forced: what it applies, live messages must know as applied'
    WHEN NOT (j).then_live AND (j).seq_to IS NULL THEN 'the end of the range is needed'
    WHEN (j).seq_from >= (j).seq_to
      THEN format('the range is empty: it goes from %s to below %s', (j).seq_from, (j).seq_to)
    WHEN (j).rate_max < 1 THEN format('the rate is %s messages a second, at least 1 is needed', (j).rate_max)
    WHEN (j).forced AND coalesce((j).reason, '') !~ '\S'
      THEN 'a reason is needed for a forced job: it applies again what was applied'
  END
$$;
COMMENT ON FUNCTION txb.job_problem(txb.job) IS 'What is wrong with a job that is to be started; null: nothing';

-- What stands against it in this database, now.
CREATE FUNCTION txb.job_obstacle(j txb.job, OUT problem text, OUT hint text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  topic text;
  standing text[] := ARRAY(SELECT DISTINCT c.topic FROM txb.consumer_offset AS c
                            WHERE c.group_name = (j).group_name AND c.topic = ANY ((j).topics) AND c.partition >= 0);
  other txb.job;
  earlier bigint;
BEGIN
  SELECT o.* INTO other FROM txb.job AS o
   WHERE o.group_name = (j).group_name AND o.state IN ('running', 'paused') AND o.topics && (j).topics
   ORDER BY o.number LIMIT 1;
  IF other.number IS NOT NULL THEN
    problem := format('another job of group "%s" is at work on topic "%s": %s', (j).group_name,
                      (SELECT min(t) FROM unnest(other.topics) AS t WHERE t = ANY ((j).topics)), txb.job_text(other));
    hint := 'Wait for it, or cancel it: txbroker replay cancel ' || other.number || ' --reason ...';
    RETURN;
  END IF;
  FOREACH topic IN ARRAY (j).topics LOOP
    IF NOT (j).then_live AND topic <> ALL (standing) THEN
      problem := format('group "%s" has no position in topic "%s"', (j).group_name, topic);
      hint := 'Start its worker first, or rebuild the group from the outbox with --then-live.';
      RETURN;
    ELSIF (j).then_live AND topic = ANY (standing) THEN
      problem := format('group "%s" has a position in topic "%s" already: it can''t be rebuilt from nothing',
                        (j).group_name, topic);
      hint := 'Give the rebuilt group another name, or replay without --then-live: what was applied stays applied.';
      RETURN;
    END IF;
  END LOOP;
  IF (j).forced THEN
    SELECT count(*) INTO earlier FROM txb.job AS o
     WHERE o.group_name = (j).group_name AND o.source = (j).source AND o.forced AND o.topics && (j).topics
       AND o.seq_from < (j).seq_to AND o.seq_to > (j).seq_from AND o.created_at > clock_timestamp() - interval '30 days';
    IF earlier >= 10 THEN
      problem := format('%s forced jobs have run messages of this range for group "%s" in the last 30 days: this looks '
                        'like a loop', earlier, (j).group_name);
      hint := 'Find out what starts them: txbroker audit list. Without --force, only what was never applied is applied.';
    END IF;
  END IF;
END
$$;
COMMENT ON FUNCTION txb.job_obstacle(txb.job) IS
  'What stands against a job that is to be started, and what to do; null: nothing. With the lock of txb.jobs_lock';

CREATE FUNCTION txb.job_start(
  name text, group_name text, source text, topics text[], keys bytea[], types text[], time_from timestamptz,
  time_to timestamptz, seq_from bigint, seq_to bigint, forced boolean, then_live boolean, rate_max bigint, reason text,
  person text, OUT number bigint, OUT existed boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp SET lock_timeout = '5s'
AS $$
DECLARE
  j txb.job;
  was txb.job;
  problem text;
  hint text;
BEGIN
  j.name := nullif(job_start.name, '');
  j.state := 'running';
  j.group_name := job_start.group_name;
  j.source := job_start.source;
  j.topics := txb.sorted(job_start.topics);
  j.keys := CASE WHEN cardinality(job_start.keys) = 0 THEN '{}'
                 ELSE (SELECT array_agg(DISTINCT k ORDER BY k) FROM unnest(job_start.keys) AS k) END;
  j.types := CASE WHEN cardinality(job_start.types) = 0 THEN '{}' ELSE txb.sorted(job_start.types) END;
  j.time_from := job_start.time_from;
  j.time_to := job_start.time_to;
  j.seq_from := job_start.seq_from;
  j.then_live := coalesce(job_start.then_live, false);
  j.seq_to := CASE WHEN NOT j.then_live THEN job_start.seq_to END;
  j.forced := coalesce(job_start.forced, false);
  j.rate_max := job_start.rate_max;
  j.reason := left(nullif(job_start.reason, ''), 1000);
  problem := txb.job_problem(j);
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION '%', problem USING ERRCODE = '22023';
  END IF;

  PERFORM pg_advisory_xact_lock(txb.jobs_lock());
  SELECT o.* INTO was FROM txb.job AS o WHERE o.name = j.name;
  IF was.number IS NOT NULL THEN
    IF (was.group_name, was.source, was.topics, was.keys, was.types, was.time_from, was.time_to, was.seq_from,
        was.seq_to, was.forced, was.then_live)
       IS DISTINCT FROM
       (j.group_name, j.source, j.topics, j.keys, j.types, j.time_from, j.time_to, j.seq_from, j.seq_to, j.forced,
        j.then_live) THEN
      RAISE EXCEPTION 'the name "%" is taken by a job that says something else: %', j.name, txb.job_text(was)
        USING ERRCODE = '42710', HINT = 'Look at it with txbroker replay show ' || was.number || ', or take another name.';
    END IF;
    number := was.number;
    existed := true;
    RETURN;
  END IF;
  SELECT o.problem, o.hint INTO problem, hint FROM txb.job_obstacle(j) AS o;
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION '%', problem USING ERRCODE = '55000', HINT = hint;
  END IF;

  number := nextval('txb.job_number_seq');
  existed := false;
  INSERT INTO txb.job AS o (number, name, group_name, source, topics, keys, types, time_from, time_to, seq_from, seq_to,
                            forced, run, then_live, rate_max, reason, os_user, state_by)
  OVERRIDING SYSTEM VALUE
  VALUES (job_start.number, j.name, j.group_name, j.source, j.topics, j.keys, j.types, j.time_from, j.time_to, j.seq_from,
          j.seq_to, j.forced, CASE WHEN j.forced THEN job_start.number ELSE 0 END, j.then_live, j.rate_max, j.reason,
          nullif(person, ''), txb.person_text(person))
  RETURNING o.* INTO j;
  WITH made AS (
    INSERT INTO txb.job_lane AS l (job, topic, seq_from, seq_to, pass_from)
    SELECT j.number, t.topic, j.seq_from, coalesce(j.seq_to, j.seq_from), j.seq_from FROM unnest(j.topics) AS t (topic)
    RETURNING l.lane, l.topic, l.seq_from
  )
  INSERT INTO txb.consumer_offset (group_name, topic, partition, next_offset, taken_offset, epoch)
  SELECT j.group_name, m.topic, -m.lane, m.seq_from, m.seq_from, 0 FROM made AS m;
  PERFORM txb.job_audit('replay start', j, person, j.reason);
EXCEPTION WHEN lock_not_available THEN
  RAISE EXCEPTION 'somebody has been starting a job for more than five seconds: nothing was changed; try again'
    USING ERRCODE = '55P03';
END
$$;
COMMENT ON FUNCTION txb.job_start(text, text, text, text[], bytea[], text[], timestamptz, timestamptz, bigint, bigint,
                                  boolean, boolean, bigint, text, text) IS
  'Starts a replay job of the numbers seq_from to below seq_to, and returns its number; existed: that name has started '
  'this very job already. 22023, 55000, 42710: refused, with what to do';

-- Locks and reads a job that is to change.
CREATE FUNCTION txb.job_lock(number bigint) RETURNS txb.job
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp SET lock_timeout = '5s'
AS $$
DECLARE
  j txb.job;
BEGIN
  SELECT o.* INTO j FROM txb.job AS o WHERE o.number = job_lock.number FOR UPDATE;
  IF j.number IS NULL THEN
    RAISE EXCEPTION 'there is no job %', coalesce(job_lock.number::text, 'null') USING ERRCODE = 'P0002';
  END IF;
  RETURN j;
EXCEPTION WHEN lock_not_available THEN
  RAISE EXCEPTION 'somebody has been deciding about job % for more than five seconds: nothing was changed; try again',
    job_lock.number USING ERRCODE = '55P03';
END
$$;
COMMENT ON FUNCTION txb.job_lock(bigint) IS 'A job to decide about, locked; P0002: there is none';

CREATE FUNCTION txb.job_change(number bigint, person text, reason text, command text, wanted text, from_states text[])
  RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  j txb.job := txb.job_lock(job_change.number);
BEGIN
  IF j.state <> ALL (from_states) THEN
    RAISE EXCEPTION '%', txb.job_text(j) USING ERRCODE = '55000',
      HINT = CASE WHEN j.state IN ('cancelled', 'done') THEN 'It is finished: start another one.'
                  WHEN j.state = wanted THEN 'Nothing is to be done.' END;
  END IF;
  UPDATE txb.job AS o
     SET state = wanted, state_at = clock_timestamp(), state_by = txb.person_text(person),
         finished_at = CASE WHEN wanted = 'cancelled' THEN clock_timestamp() END
   WHERE o.number = j.number
  RETURNING o.* INTO j;
  PERFORM txb.job_audit('replay ' || command, j, person, reason);
END
$$;
COMMENT ON FUNCTION txb.job_change(bigint, text, text, text, text, text[]) IS
  'Moves a job to another state, from one of these, with its audit row; 55000 says who was first';

CREATE FUNCTION txb.job_pause(number bigint, person text, reason text DEFAULT NULL) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$ SELECT txb.job_change(job_pause.number, person, reason, 'pause', 'paused', '{running}') $$;
COMMENT ON FUNCTION txb.job_pause(bigint, text, text) IS
  'Nothing of a job runs any more, its retries neither, once what is under way has ended';

CREATE FUNCTION txb.job_resume(number bigint, person text, reason text DEFAULT NULL) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$ SELECT txb.job_change(job_resume.number, person, reason, 'resume', 'running', '{paused}') $$;
COMMENT ON FUNCTION txb.job_resume(bigint, text, text) IS 'A paused job goes on where it was';

CREATE FUNCTION txb.job_cancel(number bigint, person text, reason text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  IF coalesce(reason, '') !~ '\S' THEN
    RAISE EXCEPTION 'to cancel a job a reason is needed' USING ERRCODE = '22023';
  END IF;
  PERFORM txb.job_change(job_cancel.number, person, reason, 'cancel', 'cancelled', '{running,paused}');
END
$$;
COMMENT ON FUNCTION txb.job_cancel(bigint, text, text) IS
  'Ends a job, for a reason: what was applied stays applied, and what has failed is tried again still';

CREATE FUNCTION txb.job_rate(number bigint, rate_max bigint, person text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  j txb.job;
BEGIN
  IF job_rate.rate_max < 1 THEN
    RAISE EXCEPTION 'the rate is % messages a second, at least 1 is needed', job_rate.rate_max USING ERRCODE = '22023';
  END IF;
  j := txb.job_lock(job_rate.number);
  IF j.state IN ('cancelled', 'done') THEN
    RAISE EXCEPTION '%', txb.job_text(j) USING ERRCODE = '55000', HINT = 'It is finished: there is nothing to slow down.';
  END IF;
  UPDATE txb.job AS o SET rate_max = job_rate.rate_max WHERE o.number = j.number RETURNING o.* INTO j;
  PERFORM txb.job_audit('replay rate', j, person, NULL);
END
$$;
COMMENT ON FUNCTION txb.job_rate(bigint, bigint, text) IS
  'How many messages a second a job may run at most, all its lanes together; null: as many as can be';

-- ---- what a person asks ---------------------------------------------------------------------------------------------

CREATE FUNCTION txb.job_lanes(job bigint) RETURNS TABLE (
  lane int, topic text, seq_from bigint, "position" bigint, seq_to bigint, pass_from bigint, passes int, consumed bigint,
  applied bigint, duplicate bigint, failed bigint, moved bigint, retrying bigint, held bigint, dead bigint, done boolean,
  owner text, lease_ms bigint, last_error text, error_age_ms bigint, stalled_offset bigint, attempts int,
  next_attempt_ms bigint, stalled_error text, updated_age_ms bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT l.lane, l.topic, l.seq_from, c.next_offset, l.seq_to, l.pass_from, l.passes, c.consumed, c.applied, c.duplicate,
         c.failed, l.moved, f.retrying, f.held, f.dead, l.done, l.owner, txb.due_ms(l.lease_until), l.last_error,
         -txb.due_ms(l.error_at), c.stalled_offset, c.attempts, txb.due_ms(c.next_attempt_at), c.last_error,
         -txb.due_ms(c.updated_at)
    FROM txb.job_lane AS l
    JOIN txb.job AS j ON j.number = l.job
    JOIN txb.consumer_offset AS c ON c.group_name = j.group_name AND c.topic = l.topic AND c.partition = -l.lane
    CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE t.state = 'retrying') AS retrying,
                               count(*) FILTER (WHERE t.state = 'held') AS held,
                               count(*) FILTER (WHERE t.state = 'dead') AS dead
                          FROM txb.failed AS t
                         WHERE t.side = 'consumer' AND t.partition < 0 AND t.partition = -l.lane
                           AND t.state IN ('retrying', 'held', 'dead')) AS f
   WHERE l.job = job_lanes.job
$$;
COMMENT ON FUNCTION txb.job_lanes(bigint) IS
  'The lanes of a job: range, position, results, failed messages that are open, who serves it, what is wrong';

-- span and covered count numbers of the outbox, of all lanes: the progress. The other counters count messages.
CREATE FUNCTION txb.job_document(j txb.job) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT to_jsonb(j) - 'keys'
         || jsonb_build_object('keys', (SELECT jsonb_agg(txb.key_text(k)) FROM unnest((j).keys) AS k),
                               'age_ms', -txb.due_ms((j).created_at), 'state_age_ms', -txb.due_ms((j).state_at))
         || (SELECT jsonb_build_object(
                      'span', sum(n.seq_to - n.seq_from), 'covered', sum(least(n."position", n.seq_to) - n.seq_from),
                      'consumed', sum(n.consumed), 'applied', sum(n.applied), 'duplicate', sum(n.duplicate),
                      'failed', sum(n.failed), 'moved', sum(n.moved), 'retrying', sum(n.retrying), 'held', sum(n.held),
                      'dead', sum(n.dead), 'lanes', jsonb_agg(to_jsonb(n) ORDER BY n.lane))
               FROM txb.job_lanes((j).number) AS n)
$$;
COMMENT ON FUNCTION txb.job_document(txb.job) IS 'A job with its lanes and their sums, as JSON';

CREATE FUNCTION txb.job_list(after bigint DEFAULT NULL, page int DEFAULT 50) RETURNS TABLE (number bigint, job jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
BEGIN
  IF page IS NULL OR page NOT BETWEEN 1 AND 10000 THEN
    RAISE EXCEPTION 'a page has 1 to 10000 jobs, not %', coalesce(page::text, 'null') USING ERRCODE = '22023';
  END IF;
  RETURN QUERY
  SELECT j.number, txb.job_document(j)
    FROM (SELECT o.* FROM txb.job AS o WHERE after IS NULL OR o.number < after ORDER BY o.number DESC LIMIT page) AS j
   ORDER BY j.number DESC;
END
$$;
COMMENT ON FUNCTION txb.job_list(bigint, int) IS 'Replay jobs as of txb.job_show, the newest first, a page after a number';

CREATE FUNCTION txb.job_show(number bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  result jsonb;
BEGIN
  SELECT txb.job_document(j) INTO result FROM txb.job AS j WHERE j.number = job_show.number;
  IF result IS NULL THEN
    RAISE EXCEPTION 'there is no job %', coalesce(job_show.number::text, 'null') USING ERRCODE = 'P0002';
  END IF;
  RETURN result;
END
$$;
COMMENT ON FUNCTION txb.job_show(bigint) IS
  'A replay job: what it was given, its state, its lanes with their positions and results, and the sums of those; '
  'P0002: there is none';

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
               then_live boolean, wants_pass boolean, job_lowest bigint, job_left int)
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
            AND ((NOT l.done AND j.state = 'running') OR txb.lane_goes_on(j.state, l.done, l.topic, l.lane))))
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
         CASE WHEN j.rate_max IS NOT NULL THEN greatest(1, j.rate_max / greatest(1, w.lanes)) END,
         j.keys, j.types, j.time_from, j.time_to, j.then_live,
         j.then_live AND j.state = 'running' AND NOT l.done AND c.next_offset >= l.seq_to
           AND NOT txb.lane_left(l.topic, l.lane),
         w.lowest, w.lanes
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
  'share; wants_pass: call txb.lane_pass';

CREATE FUNCTION txb.lane_pass(lane int, instance uuid, partitions int[], offsets bigint[], cluster_id text, highest bigint)
  RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  l txb.job_lane;
  j txb.job;
  at bigint;
  made int;
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
  -- A message that is still to be tried again holds its key here only, so live waits for it too.
  IF l.passes > 0 AND l.seq_to - l.pass_from <= 10000 AND NOT txb.lane_left(l.topic, l.lane)
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
         ends_cluster = nullif(lane_pass.cluster_id, '')
   WHERE o.lane = l.lane;
  RETURN 'next';
END
$$;
COMMENT ON FUNCTION txb.lane_pass(int, uuid, int[], bigint[], text, bigint) IS
  'A pass of a lane that goes on live is read to its end. With the end offsets of the topic, noted first, and the highest '
  'number of the outbox, read after them: done (the group goes on live at the ends noted before this pass), or next. '
  'TXB01: another serves the lane';

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

-- ---- in the database that publishes ----------------------------------------------------------------------------------

CREATE TABLE txb.outbox_pin (
  name text COLLATE "C" CONSTRAINT outbox_pin_name PRIMARY KEY
    CONSTRAINT outbox_pin_name_size CHECK (octet_length(name) BETWEEN 1 AND 255),
  lo bigint NOT NULL CONSTRAINT outbox_pin_lo CHECK (lo >= 0),
  what text NOT NULL,
  made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
COMMENT ON TABLE txb.outbox_pin IS 'What retention must leave, since a replay job has still to read it (J1)';
COMMENT ON COLUMN txb.outbox_pin.name IS 'Who needs it: a job of another database, or a command that starts one';
COMMENT ON COLUMN txb.outbox_pin.lo IS 'Intents from this number on are kept';
COMMENT ON COLUMN txb.outbox_pin.what IS 'What for, for people';
COMMENT ON COLUMN txb.outbox_pin.made_at IS 'Since when';
COMMENT ON COLUMN txb.outbox_pin.seen_at IS 'When it was set last: one that nobody renews holds for seven days';
COMMENT ON CONSTRAINT outbox_pin_name ON txb.outbox_pin IS 'One pin a name';
COMMENT ON INDEX txb.outbox_pin_name IS 'One pin a name';
COMMENT ON CONSTRAINT outbox_pin_name_size ON txb.outbox_pin IS 'name: 1 to 255 bytes';
COMMENT ON CONSTRAINT outbox_pin_lo ON txb.outbox_pin IS 'lo: not negative';

CREATE FUNCTION txb.outbox_pin_set(name text, lo bigint, what text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  UPDATE txb.outbox_pin AS p SET lo = outbox_pin_set.lo, what = outbox_pin_set.what, seen_at = clock_timestamp()
   WHERE p.name = outbox_pin_set.name AND p.lo <= outbox_pin_set.lo
     AND p.seen_at > clock_timestamp() - interval '6 days';
  IF FOUND THEN
    RETURN;
  END IF;
  -- New, lower, or about to end: a partition that is being dropped just now was chosen without it. Once this lock is
  -- had, what is there stays there.
  PERFORM pg_advisory_xact_lock_shared(1954049330, -1);
  INSERT INTO txb.outbox_pin AS p (name, lo, what) VALUES (outbox_pin_set.name, outbox_pin_set.lo, outbox_pin_set.what)
  ON CONFLICT ON CONSTRAINT outbox_pin_name DO UPDATE
     SET lo = excluded.lo, what = excluded.what, seen_at = excluded.seen_at;
  DELETE FROM txb.outbox_pin AS p WHERE p.seen_at < clock_timestamp() - interval '30 days';
END
$$;
COMMENT ON FUNCTION txb.outbox_pin_set(text, bigint, text) IS
  'Keeps intents from a number on out of retention, for seven days from now; look after it what is there. The same name '
  'moves its pin';

CREATE FUNCTION txb.outbox_unpin(name text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  DELETE FROM txb.outbox_pin AS p WHERE p.name = outbox_unpin.name;
  RETURN FOUND;
END
$$;
COMMENT ON FUNCTION txb.outbox_unpin(text) IS 'Takes a pin away; false: there was none';

-- What Kafka has at this moment was committed here before, so it lies at or below the highest number that can be seen
-- now. The relay's own row lags: it is written after the acknowledgements.
CREATE FUNCTION txb.replay_range(source text, topics text[] DEFAULT NULL, OUT lowest_seq bigint,
                                 OUT lowest_time timestamptz, OUT highest bigint, OUT watermark bigint,
                                 OUT waits_from bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  SELECT r.highest, r.watermark INTO highest, watermark FROM txb.relay AS r WHERE r.source = replay_range.source;
  highest := greatest(highest, (SELECT max(o.seq) FROM txb.outbox AS o), 0);
  SELECT o.seq, o.created_at INTO lowest_seq, lowest_time FROM txb.outbox AS o ORDER BY o.seq LIMIT 1;
  waits_from := least(
    (SELECT min(h.lo) FROM txb.relay_hold AS h
      WHERE h.source = replay_range.source AND (topics IS NULL OR h.topic = ANY (topics))),
    (SELECT min(f.seq) FROM txb.failed AS f
      WHERE f.side = 'outbox' AND f.source = replay_range.source AND f.state IN ('retrying', 'held', 'dead')
        AND (topics IS NULL OR f.topic = ANY (topics))));
END
$$;
COMMENT ON FUNCTION txb.replay_range(text, text[]) IS
  'What of an outbox can be replayed: the lowest number that is there and when it was written, the highest that can be '
  'seen, the watermark (null: no relay has served the source), and the lowest number of these topics that waits for '
  'a decision, or for its topic, and is not published yet (null: none)';

REVOKE ALL ON TYPE txb.job, txb.job_lane, txb.outbox_pin FROM PUBLIC;
GRANT SELECT ON txb.job, txb.job_lane TO txb_reader;
GRANT SELECT ON txb.outbox_pin TO txb_relay, txb_reader;
GRANT EXECUTE ON FUNCTION
  txb.job_start(text, text, text, text[], bytea[], text[], timestamptz, timestamptz, bigint, bigint, boolean, boolean,
                bigint, text, text),
  txb.job_pause(bigint, text, text),
  txb.job_resume(bigint, text, text),
  txb.job_cancel(bigint, text, text),
  txb.job_rate(bigint, bigint, text)
TO txb_admin;
GRANT EXECUTE ON FUNCTION txb.job_list(bigint, int), txb.job_show(bigint) TO txb_reader, txb_admin;
GRANT EXECUTE ON FUNCTION
  txb.lane_claim(text, text, uuid, bigint, int),
  txb.lane_pass(int, uuid, int[], bigint[], text, bigint),
  txb.lane_free(int, uuid),
  txb.lane_error(int, uuid, text),
  txb.group_waits(text)
TO txb_worker;
GRANT EXECUTE ON FUNCTION txb.outbox_pin_set(text, bigint, text), txb.outbox_unpin(text) TO txb_relay, txb_admin;
GRANT EXECUTE ON FUNCTION txb.replay_range(text, text[]) TO txb_relay, txb_reader, txb_admin;

RESET ROLE;
