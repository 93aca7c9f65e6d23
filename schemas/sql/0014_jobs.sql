-- Replay jobs: a range of a source's outbox once more into a group. Their tables, and what persons decide and ask: the
-- functions behind `txbroker replay`.
--
--   txb.job_start(name text, group_name text, source text, topics text[], keys bytea[], types text[],
--                 time_from timestamptz, time_to timestamptz, seq_from bigint, seq_to bigint, forced boolean,
--                 then_live boolean, rate_max bigint, reason text, person text, out number bigint, out existed boolean)
--   txb.job_pause(number bigint, person text, reason text = null), txb.job_resume(...) returns void
--   txb.job_cancel(number bigint, person text, reason text) returns void
--   txb.job_rate(number bigint, rate_max bigint, person text) returns void
--   txb.job_list(after bigint = null, page int = 50) returns table (number bigint, job jsonb)
--   txb.job_show(number bigint) returns jsonb
--
-- A job has a lane for each of its topics, and a lane is a row of txb.consumer_offset whose partition is the lane's
-- number, negative. Its log is the outbox: offset = seq, next_offset = the lowest seq not looked at yet. So position,
-- inbox, failed messages, held keys and markers are those of any partition, and so is what a crash leaves. Workers serve
-- lanes by 0015.
--
-- A decision is one transaction with its row of txb.audit. It locks the job and nothing that a worker holds for long; a
-- worker notices when it opens its next batch, or renews its lease. A crash leaves all of it or nothing.

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
CREATE INDEX job_open ON txb.job (group_name) WHERE state IN ('running', 'paused');
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
COMMENT ON INDEX txb.job_open IS 'Those that are not over: every worker asks for them once a second';

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
CREATE INDEX failed_lane_again ON txb.failed (group_name)
  WHERE side = 'consumer' AND state = 'retrying' AND partition < 0;
COMMENT ON INDEX txb.failed_lane_again IS 'What is still to be tried again of a group''s lanes, ended ones among them';
CREATE INDEX job_lane_instance ON txb.job_lane (instance) WHERE instance IS NOT NULL;
COMMENT ON INDEX txb.job_lane_instance IS 'The lanes of a worker';

CREATE FUNCTION txb.job_text(j txb.job) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT format('job %s%s is %s since %s: %s', (j).number, coalesce(' ("' || (j).name || '")', ''), (j).state,
                txb.time_text((j).state_at), (j).state_by)
$$;
COMMENT ON FUNCTION txb.job_text(txb.job) IS 'A job''s state for a person: since when, by whom';

-- Databases of several servers may have one name, and a job of that number.
CREATE FUNCTION txb.job_pin(j txb.job) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT format('job %s %s %s', current_database(), (j).number,
                to_char((j).created_at AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24MISS.US'))
$$;
COMMENT ON FUNCTION txb.job_pin(txb.job) IS 'The name of a job''s pin in the source (txb.outbox_pin)';

CREATE FUNCTION txb.jobs_lock() RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN hashtextextended('txb.job', 1954049330);
COMMENT ON FUNCTION txb.jobs_lock() IS 'The advisory lock of whoever starts a job, or gives a group a position (shared)';

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
    WHEN (j).then_live AND num_nonnulls((j).keys, (j).types, (j).time_to) > 0
      THEN 'a job that goes on live takes no keys, types or end: what they leave out would never be applied'
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
        USING ERRCODE = '55000', HINT = 'Look at it with txbroker replay show ' || was.number || ', or take another name.';
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
  'this very job already. 22023, 55000: refused, with what to do';

-- Locks and reads a job that is to change.
CREATE FUNCTION txb.job_lock(number bigint) RETURNS txb.job
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp SET lock_timeout = '5s'
AS $$
DECLARE
  j txb.job;
BEGIN
  SELECT o.* INTO j FROM txb.job AS o WHERE o.number = job_lock.number FOR UPDATE;
  IF j.number IS NULL THEN
    RAISE EXCEPTION 'there is no job %', coalesce(job_lock.number::text, 'null')
      USING ERRCODE = 'P0002', HINT = 'txbroker replay list shows those of this database.';
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
                               'pin', txb.job_pin(j), 'age_ms', -txb.due_ms((j).created_at), 'state_age_ms', -txb.due_ms((j).state_at))
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
    RAISE EXCEPTION 'there is no job %', coalesce(job_show.number::text, 'null')
      USING ERRCODE = 'P0002', HINT = 'txbroker replay list shows those of this database.';
  END IF;
  RETURN result;
END
$$;
COMMENT ON FUNCTION txb.job_show(bigint) IS
  'A replay job: what it was given, its state, its lanes with their positions and results, and the sums of those; '
  'P0002: there is none';

REVOKE ALL ON TYPE txb.job, txb.job_lane FROM PUBLIC;
GRANT SELECT ON txb.job, txb.job_lane TO txb_reader;
GRANT EXECUTE ON FUNCTION
  txb.job_start(text, text, text, text[], bytea[], text[], timestamptz, timestamptz, bigint, bigint, boolean, boolean,
                bigint, text, text),
  txb.job_pause(bigint, text, text),
  txb.job_resume(bigint, text, text),
  txb.job_cancel(bigint, text, text),
  txb.job_rate(bigint, bigint, text)
TO txb_admin;
GRANT EXECUTE ON FUNCTION txb.job_list(bigint, int), txb.job_show(bigint) TO txb_reader, txb_admin;

RESET ROLE;
