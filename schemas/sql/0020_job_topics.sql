-- Replay jobs that read topics from Kafka itself, and jobs that write to a topic instead of running their group's handler.
--
--   txb.job_start(...as in 0014..., lane_topics text[] = null, lane_partitions int[] = null, lane_froms bigint[] = null,
--                 lane_tos bigint[] = null, cluster_id text = null, to_topic text = null, partitions int[] = null,
--                 lane_firsts bigint[] = null, lane_ids uuid[] = null,
--                 out number bigint, out existed boolean)
--   txb.job_refusal(...) returns problem, hint                 what txb.job_start would refuse, for a plan
--   txb.lane_claim(...) returns table, a row a lane            as in 0015, with the cluster, the partition, the target
--                                                            and the first message
--   txb.job_list(...), txb.job_show(...)                       as in 0014, with from_partition, cluster_id, to_topic
--
-- A job that reads Kafka has no source; it notes the cluster, and has a lane for each partition that holds something of
-- its range: seq_from, seq_to and the position are offsets there. All else of a lane is as it was: its position is a row
-- of txb.consumer_offset with partition = -lane, so a crash leaves of it what it leaves of any other. Kafka itself keeps
-- its range for nobody: there is no pin, and what retention takes before it was read is told by the lane. Nor does Kafka
-- tell a topic that was made anew: the first message that lay in each range when the job was started is noted, so that
-- another in its place is found also before the job has run any.
--
-- A start is one transaction with its row of txb.audit: a crash before its commit leaves nothing, after it the job.

SET LOCAL ROLE txb_owner;

ALTER TABLE txb.job
  ALTER COLUMN source DROP NOT NULL,
  ALTER COLUMN seq_from DROP NOT NULL,
  ADD COLUMN cluster_id text COLLATE "C",
  ADD COLUMN partitions int[],
  ADD COLUMN to_topic text COLLATE "C"
    CONSTRAINT job_to_topic CHECK (octet_length(to_topic) BETWEEN 1 AND 249),
  ADD CONSTRAINT job_source CHECK (num_nonnulls(source, cluster_id) = 1),
  ADD CONSTRAINT job_partitions CHECK (partitions IS NULL OR (source IS NULL AND cardinality(partitions) > 0)),
  DROP CONSTRAINT job_from,
  ADD CONSTRAINT job_from CHECK (CASE WHEN source IS NULL THEN seq_from IS NULL
                                      ELSE seq_from IS NOT NULL AND seq_from >= 0 END),
  DROP CONSTRAINT job_to,
  ADD CONSTRAINT job_to CHECK (CASE WHEN source IS NULL THEN seq_to IS NULL AND NOT then_live
                                    ELSE then_live = (seq_to IS NULL) END);
COMMENT ON TABLE txb.job IS
  'Replay jobs: messages of an outbox, or of Kafka topics, that are run again, on purpose, into a group or a topic';
COMMENT ON COLUMN txb.job.group_name IS
  'Kafka consumer group that the messages are run for, or whose workers write them to to_topic';
COMMENT ON COLUMN txb.job.source IS 'Source whose outbox is read; null: topics are read from Kafka itself';
COMMENT ON COLUMN txb.job.cluster_id IS 'Kafka cluster whose topics are read; null: a source''s outbox is read';
COMMENT ON COLUMN txb.job.partitions IS 'Only these Kafka partitions of each topic; null: all';
COMMENT ON COLUMN txb.job.to_topic IS
  'Topic that the messages are written to, through this database''s outbox; null: the group''s handler runs them';
COMMENT ON COLUMN txb.job.topics IS 'Topics, sorted; a lane each, or one for each of its Kafka partitions';
COMMENT ON COLUMN txb.job.time_from IS
  'Only intents written then or later; null: all. Of Kafka: the time that became the offsets of the lanes';
COMMENT ON COLUMN txb.job.time_to IS
  'Only intents written before; null: all. Of Kafka: the time that became the ends of the lanes';
COMMENT ON COLUMN txb.job.seq_from IS 'First number of the range; null: the lanes have offsets of Kafka';
COMMENT ON COLUMN txb.job.seq_to IS
  'First number behind the range; null: it ends where live begins, or the lanes have offsets of Kafka';
COMMENT ON COLUMN txb.job.run IS
  'Run in txb.inbox and txb.failed: the job''s number if it is forced or writes to a topic, else 0';
COMMENT ON CONSTRAINT job_source ON txb.job IS 'A source or a Kafka cluster';
COMMENT ON CONSTRAINT job_partitions ON txb.job IS 'Only a job that reads Kafka has partitions, at least one of them';
COMMENT ON CONSTRAINT job_to_topic ON txb.job IS 'to_topic: 1 to 249 bytes';
COMMENT ON CONSTRAINT job_from ON txb.job IS 'seq_from: not negative; only of an outbox';
COMMENT ON CONSTRAINT job_to ON txb.job IS
  'A job that goes on live has no end of its own; one that reads Kafka has the ends of its lanes';

ALTER TABLE txb.job_lane
  ADD COLUMN from_partition int NOT NULL DEFAULT -1
    CONSTRAINT job_lane_from_partition CHECK (from_partition >= -1),
  ADD COLUMN first_seq bigint,
  ADD COLUMN first_id uuid,
  ADD CONSTRAINT job_lane_first CHECK (num_nonnulls(first_seq, first_id) = 0
                                       OR (from_partition >= 0 AND first_id IS NOT NULL
                                           AND (first_seq >= seq_from AND first_seq < seq_to) IS TRUE)),
  DROP CONSTRAINT job_lane_topic,
  ADD CONSTRAINT job_lane_topic UNIQUE (job, topic, from_partition);
COMMENT ON TABLE txb.job_lane IS
  'One topic of a replay job, or one Kafka partition of it: its range, and who serves it. Its position is in '
  'txb.consumer_offset, with partition = -lane';
COMMENT ON COLUMN txb.job_lane.from_partition IS
  'Kafka partition that the lane reads: its numbers are offsets there; -1: it reads an outbox';
COMMENT ON COLUMN txb.job_lane.first_seq IS
  'Offset of the first message of the range when the job was started; null: an outbox, or there was none';
COMMENT ON COLUMN txb.job_lane.first_id IS 'Its id: another one in its place is of a topic that was made anew';
COMMENT ON COLUMN txb.job_lane.seq_from IS 'First number, or offset, of the range';
COMMENT ON CONSTRAINT job_lane_from_partition ON txb.job_lane IS 'from_partition: not negative, or -1';
COMMENT ON CONSTRAINT job_lane_first ON txb.job_lane IS 'Only a Kafka partition has a first message, in its range';
COMMENT ON CONSTRAINT job_lane_topic ON txb.job_lane IS 'One lane per job, topic and Kafka partition';
COMMENT ON INDEX txb.job_lane_topic IS 'One lane per job, topic and Kafka partition';
COMMENT ON COLUMN txb.consumer_offset.partition IS
  'Kafka partition; negative: a lane of a replay job (txb.job_lane), whose offsets are numbers of the source''s outbox, or '
  'offsets of the Kafka partition that it reads';
COMMENT ON COLUMN txb.failed."offset" IS
  'Kafka offset; of a lane, and of what it put behind a held key of a live partition: the intent''s number, or the offset '
  'in the Kafka partition that the lane reads';

CREATE TYPE txb.job_range AS (topic text COLLATE "C", from_partition int, seq_from bigint, seq_to bigint);
COMMENT ON TYPE txb.job_range IS 'What one lane of a replay job is to read';
COMMENT ON COLUMN txb.job_range.topic IS 'Kafka topic';
COMMENT ON COLUMN txb.job_range.from_partition IS 'Kafka partition; -1: an outbox';
COMMENT ON COLUMN txb.job_range.seq_from IS 'First number, or offset';
COMMENT ON COLUMN txb.job_range.seq_to IS 'The one behind the last';

-- Only a source has a pin.
CREATE OR REPLACE FUNCTION txb.job_pin(j txb.job) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT CASE WHEN (j).source IS NOT NULL
              THEN format('job %s %s %s', current_database(), (j).number,
                          to_char((j).created_at AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24MISS.US')) END
$$;
COMMENT ON FUNCTION txb.job_pin(txb.job) IS
  'The name of a job''s pin in the source (txb.outbox_pin); null: it reads Kafka, where nothing is kept for it';

-- ---- what a person decides ------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION txb.job_audit(action text, j txb.job, person text, reason text) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, txb, pg_temp
AS $$
  INSERT INTO txb.audit (person, action, filter, matched, changed, reason)
  VALUES (nullif(job_audit.person, ''), job_audit.action,
          jsonb_strip_nulls(jsonb_build_object(
            'job', (j).number, 'name', (j).name, 'group', (j).group_name, 'source', (j).source, 'topics', (j).topics,
            'keys', (SELECT jsonb_agg(txb.key_text(k)) FROM unnest((j).keys) AS k), 'types', (j).types,
            'time_from', (j).time_from, 'time_to', (j).time_to, 'seq_from', (j).seq_from, 'seq_to', (j).seq_to,
            'forced', (j).forced, 'then_live', (j).then_live, 'rate_max', (j).rate_max,
            'cluster_id', (j).cluster_id, 'partitions', (j).partitions, 'to_topic', (j).to_topic,
            'offsets', (SELECT jsonb_agg(jsonb_build_object('topic', l.topic, 'partition', l.from_partition,
                                                            'from', l.seq_from, 'to', l.seq_to) ORDER BY l.lane)
                          FROM txb.job_lane AS l WHERE l.job = (j).number AND (j).cluster_id IS NOT NULL))),
          1, 1, left(nullif(job_audit.reason, ''), 1000))
$$;

CREATE FUNCTION txb.topic_problem(topic text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
  WHEN octet_length(topic) NOT BETWEEN 1 AND 249
    THEN format('topic has %s bytes, allowed are 1 to 249', octet_length(topic))
  WHEN topic ~ '[^a-zA-Z0-9._-]' OR topic IN ('.', '..')
    THEN format('topic "%s" is not a Kafka topic name: letters, digits, ".", "_" and "-"', topic)
END;
COMMENT ON FUNCTION txb.topic_problem(text) IS 'What is wrong with the name of a topic; null: nothing';

-- What is wrong with a job by itself, whatever else there is.
CREATE OR REPLACE FUNCTION txb.job_problem(j txb.job) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT CASE
    WHEN coalesce((j).group_name, '') = '' OR octet_length((j).group_name) > 255 THEN 'the group is needed, of 1 to 255 bytes'
    WHEN (j).cluster_id IS NULL AND coalesce((j).source, '') = ''
      THEN 'the source is needed, or the cluster whose topics are read'
    WHEN num_nonnulls((j).cluster_id, (j).source) > 1
      THEN 'a job reads a source''s outbox or a Kafka cluster: give one of them'
    WHEN (j).cluster_id IS NOT NULL AND num_nonnulls((j).seq_from, (j).seq_to) > 0
      THEN 'a job that reads a Kafka cluster has offsets for each partition, and no numbers of an outbox'
    WHEN (j).cluster_id IS NOT NULL AND (j).then_live
      THEN 'a job that reads a Kafka cluster can''t go on live: a group begins live in Kafka by itself'
    WHEN (j).cluster_id IS NULL AND (j).partitions IS NOT NULL
      THEN 'only a job that reads a Kafka cluster takes partitions'
    WHEN cardinality((j).partitions) = 0 OR array_position((j).partitions, NULL) IS NOT NULL OR -1 >= ANY ((j).partitions)
      THEN 'the list of partitions is empty, or one of them is null or negative; leave it out to mean all'
    WHEN (j).to_topic IS NOT NULL AND txb.topic_problem((j).to_topic) IS NOT NULL THEN txb.topic_problem((j).to_topic)
    WHEN (j).to_topic IS NOT NULL AND (j).then_live
      THEN 'a job that goes on live runs its group''s handler: it can''t write to a topic'
    WHEN (j).to_topic IS NOT NULL AND (j).forced
      THEN 'a job that writes to a topic applies nothing: it can''t be forced'
    WHEN octet_length((j).name) NOT BETWEEN 1 AND 255 THEN 'the name has 1 to 255 bytes'
    WHEN (j).topics IS NULL THEN 'at least one topic is needed'
    WHEN array_position((j).topics, NULL) IS NOT NULL OR '' = ANY ((j).topics) THEN 'a topic is empty'
    WHEN cardinality((j).keys) = 0 OR array_position((j).keys, NULL) IS NOT NULL
      THEN 'the list of keys is empty, or one of them is null; leave it out to mean all'
    WHEN cardinality((j).types) = 0 OR array_position((j).types, NULL) IS NOT NULL
      THEN 'the list of types is empty, or one of them is null; leave it out to mean all'
    WHEN (j).time_from >= (j).time_to
      THEN format('the range of times is empty: it goes from %s to %s', txb.time_text((j).time_from), txb.time_text((j).time_to))
    WHEN (j).cluster_id IS NULL AND coalesce((j).seq_from, -1) < 0
      THEN 'the first number of the range is needed, and is not negative'
    WHEN (j).then_live AND (j).forced
      THEN 'a job that goes on live can''t be forced: what it applies, live messages must know as applied'
    WHEN (j).then_live AND num_nonnulls((j).keys, (j).types, (j).time_to) > 0
      THEN 'a job that goes on live takes no keys, types or end: what they leave out would never be applied'
    WHEN (j).cluster_id IS NULL AND NOT (j).then_live AND (j).seq_to IS NULL THEN 'the end of the range is needed'
    WHEN (j).seq_from >= (j).seq_to
      THEN format('the range is empty: it goes from %s to below %s', (j).seq_from, (j).seq_to)
    WHEN (j).rate_max < 1 THEN format('the rate is %s messages a second, at least 1 is needed', (j).rate_max)
    WHEN (j).forced AND coalesce((j).reason, '') !~ '\S'
      THEN 'a reason is needed for a forced job: it applies again what was applied'
  END
$$;

-- The lanes of a job that is to be started, in their order; empty ones are left out.
CREATE FUNCTION txb.job_ranges(j txb.job, topics text[], partitions int[], froms bigint[], tos bigint[])
  RETURNS txb.job_range[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  problem text;
  result txb.job_range[];
BEGIN
  IF (j).cluster_id IS NULL THEN
    IF num_nonnulls(topics, partitions, froms, tos) > 0 THEN
      RAISE EXCEPTION 'only a job that reads a Kafka cluster takes lanes of partitions' USING ERRCODE = '22023';
    END IF;
    RETURN ARRAY(SELECT ROW(u.topic, -1, (j).seq_from, coalesce((j).seq_to, (j).seq_from))::txb.job_range
                   FROM unnest((j).topics) WITH ORDINALITY AS u (topic, nth) ORDER BY u.nth);
  END IF;
  IF (cardinality(topics) = cardinality(partitions) AND cardinality(topics) = cardinality(froms)
      AND cardinality(topics) = cardinality(tos)) IS NOT TRUE THEN
    RAISE EXCEPTION 'each lane wants a topic, a partition, and the offsets from which and below which it goes'
      USING ERRCODE = '22023';
  END IF;
  SELECT CASE
           WHEN bool_or(num_nulls(u.topic, u.partition, u.seq_from, u.seq_to) > 0 OR u.partition < 0 OR u.seq_from < 0
                        OR u.seq_to < u.seq_from)
             THEN 'each lane wants a topic, a partition and offsets that are not negative, the first one not behind the end'
           WHEN bool_or(u.topic <> ALL ((j).topics)) THEN 'a lane is of a topic that is not among those of the job'
           WHEN bool_or(u.partition <> ALL ((j).partitions)) THEN 'a lane is of a partition that is not among those of the job'
           WHEN count(DISTINCT (u.topic, u.partition)) < count(*) THEN 'a partition of a topic has two lanes'
           WHEN bool_and(u.seq_from = u.seq_to) IS NOT FALSE THEN 'the range is empty: no partition holds anything of it'
         END
    INTO problem
    FROM unnest(topics, partitions, froms, tos) AS u (topic, partition, seq_from, seq_to);
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION '%', problem USING ERRCODE = '22023';
  END IF;
  SELECT array_agg(ROW(u.topic, u.partition, u.seq_from, u.seq_to)::txb.job_range
                   ORDER BY u.topic COLLATE "C", u.partition)
    INTO result
    FROM unnest(topics, partitions, froms, tos) AS u (topic, partition, seq_from, seq_to)
   WHERE u.seq_from < u.seq_to;
  RETURN result;
END
$$;
COMMENT ON FUNCTION txb.job_ranges(txb.job, text[], int[], bigint[], bigint[]) IS
  'What the lanes of a job are to read: its range in each topic of an outbox, or these offsets of Kafka; 22023: refused';

CREATE FUNCTION txb.job_firsts_problem(topics text[], froms bigint[], tos bigint[], firsts bigint[], ids uuid[])
  RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT CASE
    WHEN num_nonnulls(firsts, ids) > 0
         AND (cardinality(firsts) = cardinality(topics) AND cardinality(ids) = cardinality(topics)) IS NOT TRUE
      THEN 'each lane wants the offset and the id of its first message, both null when there is none'
    WHEN EXISTS (SELECT FROM unnest(froms, tos, firsts, ids) AS u (seq_from, seq_to, first, id)
                  WHERE num_nulls(u.first, u.id) = 1 OR u.first < u.seq_from OR u.first >= u.seq_to)
      THEN 'the first message of a lane has an offset of its range, and an id'
  END
$$;
COMMENT ON FUNCTION txb.job_firsts_problem(text[], bigint[], bigint[], bigint[], uuid[]) IS
  'What is wrong with the first messages of lanes that are to be started; null: nothing';

CREATE FUNCTION txb.job_ranges_of(number bigint) RETURNS txb.job_range[]
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT array_agg(ROW(l.topic, l.from_partition, l.seq_from, l.seq_to)::txb.job_range ORDER BY l.topic, l.from_partition)
    FROM txb.job_lane AS l WHERE l.job = job_ranges_of.number
$$;
COMMENT ON FUNCTION txb.job_ranges_of(bigint) IS 'What the lanes of a job are to read, in order';

DROP FUNCTION txb.job_obstacle(txb.job);
-- What stands against it in this database, now.
CREATE FUNCTION txb.job_obstacle(j txb.job, ranges txb.job_range[], OUT problem text, OUT hint text)
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
  IF (j).to_topic IS NOT NULL THEN
    IF NOT txb.outbox_served() THEN
      problem := 'no relay has served this database: intents written here would not be published';
      hint := 'Configure this database as a source, and start its relay.';
    END IF;
    RETURN; -- it runs no handler: the group's positions and what it has applied don't matter
  END IF;
  FOREACH topic IN ARRAY (j).topics LOOP
    IF NOT (j).then_live AND topic <> ALL (standing) THEN
      problem := format('group "%s" has no position in topic "%s"', (j).group_name, topic);
      hint := CASE WHEN (j).cluster_id IS NULL
                   THEN 'Start its worker first, or rebuild the group from the outbox with --then-live.'
                   ELSE 'Start its worker first; with start "latest" it leaves what there is to the job.' END;
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
     WHERE o.group_name = (j).group_name AND o.source IS NOT DISTINCT FROM (j).source
       AND o.cluster_id IS NOT DISTINCT FROM (j).cluster_id AND o.forced
       AND o.created_at > clock_timestamp() - interval '30 days'
       AND EXISTS (SELECT FROM txb.job_lane AS l
                     JOIN unnest(ranges) AS n (topic, from_partition, seq_from, seq_to)
                       ON l.topic = n.topic AND l.from_partition = n.from_partition
                    WHERE l.job = o.number AND l.seq_from < n.seq_to AND l.seq_to > n.seq_from);
    IF earlier >= 10 THEN
      problem := format('%s forced jobs have run messages of this range for group "%s" in the last 30 days: this looks '
                        'like a loop', earlier, (j).group_name);
      hint := 'Find out what starts them: txbroker audit list. Without --force, only what was never applied is applied.';
    END IF;
  END IF;
END
$$;
COMMENT ON FUNCTION txb.job_obstacle(txb.job, txb.job_range[]) IS
  'What stands against a job that is to be started, and what to do; null: nothing. With the lock of txb.jobs_lock';

CREATE FUNCTION txb.job_refusal(
  group_name text, source text, cluster_id text, topics text[], seq_from bigint, seq_to bigint, forced boolean,
  then_live boolean, to_topic text, lane_topics text[], lane_partitions int[], lane_froms bigint[], lane_tos bigint[],
  OUT problem text, OUT hint text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  j txb.job;
BEGIN
  j.group_name := job_refusal.group_name;
  j.source := job_refusal.source;
  j.cluster_id := job_refusal.cluster_id;
  j.topics := txb.sorted(job_refusal.topics);
  j.seq_from := job_refusal.seq_from;
  j.seq_to := job_refusal.seq_to;
  j.forced := job_refusal.forced;
  j.then_live := job_refusal.then_live;
  j.to_topic := job_refusal.to_topic;
  SELECT o.problem, o.hint INTO problem, hint
    FROM txb.job_obstacle(j, txb.job_ranges(j, lane_topics, lane_partitions, lane_froms, lane_tos)) AS o;
END
$$;
COMMENT ON FUNCTION txb.job_refusal(text, text, text, text[], bigint, bigint, boolean, boolean, text, text[], int[],
                                    bigint[], bigint[]) IS
  'Why txb.job_start would refuse such a job as this database is now, and what to do; null: it would not. Changes nothing';

DROP FUNCTION txb.job_start(text, text, text, text[], bytea[], text[], timestamptz, timestamptz, bigint, bigint, boolean,
                            boolean, bigint, text, text);
CREATE FUNCTION txb.job_start(
  name text, group_name text, source text, topics text[], keys bytea[], types text[], time_from timestamptz,
  time_to timestamptz, seq_from bigint, seq_to bigint, forced boolean, then_live boolean, rate_max bigint, reason text,
  person text, lane_topics text[] DEFAULT NULL, lane_partitions int[] DEFAULT NULL, lane_froms bigint[] DEFAULT NULL,
  lane_tos bigint[] DEFAULT NULL, cluster_id text DEFAULT NULL, to_topic text DEFAULT NULL, partitions int[] DEFAULT NULL,
  lane_firsts bigint[] DEFAULT NULL, lane_ids uuid[] DEFAULT NULL,
  OUT number bigint, OUT existed boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp SET lock_timeout = '5s'
AS $$
DECLARE
  j txb.job;
  was txb.job;
  ranges txb.job_range[];
  problem text;
  hint text;
BEGIN
  j.name := nullif(job_start.name, '');
  j.state := 'running';
  j.group_name := job_start.group_name;
  j.source := job_start.source;
  j.cluster_id := job_start.cluster_id;
  j.to_topic := job_start.to_topic;
  j.topics := txb.sorted(coalesce(job_start.topics, job_start.lane_topics));
  j.partitions := CASE WHEN cardinality(job_start.partitions) = 0 THEN '{}'
                       ELSE (SELECT array_agg(DISTINCT p ORDER BY p) FROM unnest(job_start.partitions) AS p) END;
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

  PERFORM pg_advisory_xact_lock(txb.jobs_lock());
  -- Compared before anything is checked: what the caller took from the job itself need not fit what it says now.
  SELECT o.* INTO was FROM txb.job AS o WHERE o.name = j.name;
  IF was.number IS NOT NULL THEN
    SELECT array_agg(ROW(u.topic, u.partition, u.seq_from, u.seq_to)::txb.job_range
                     ORDER BY u.topic COLLATE "C", u.partition) FILTER (WHERE (u.seq_from < u.seq_to) IS NOT FALSE)
      INTO ranges
      FROM unnest(lane_topics, lane_partitions, lane_froms, lane_tos) AS u (topic, partition, seq_from, seq_to);
    IF (was.group_name, was.source, was.topics, was.keys, was.types, was.time_from, was.time_to, was.seq_from,
        was.seq_to, was.forced, was.then_live, was.cluster_id, was.partitions, was.to_topic,
        CASE WHEN was.cluster_id IS NOT NULL THEN txb.job_ranges_of(was.number) END)
       IS DISTINCT FROM
       (j.group_name, j.source, j.topics, j.keys, j.types, j.time_from, j.time_to, j.seq_from, j.seq_to, j.forced,
        j.then_live, j.cluster_id, j.partitions, j.to_topic, CASE WHEN j.cluster_id IS NOT NULL THEN ranges END) THEN
      RAISE EXCEPTION 'the name "%" is taken by a job that says something else: %', j.name, txb.job_text(was)
        USING ERRCODE = '55000', HINT = 'Look at it with txbroker replay show ' || was.number || ', or take another name.';
    END IF;
    number := was.number;
    existed := true;
    RETURN;
  END IF;
  problem := txb.job_problem(j);
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION '%', problem USING ERRCODE = '22023';
  END IF;
  ranges := txb.job_ranges(j, lane_topics, lane_partitions, lane_froms, lane_tos);
  problem := txb.job_firsts_problem(lane_topics, lane_froms, lane_tos, lane_firsts, lane_ids);
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION '%', problem USING ERRCODE = '22023';
  END IF;
  SELECT o.problem, o.hint INTO problem, hint FROM txb.job_obstacle(j, ranges) AS o;
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION '%', problem USING ERRCODE = '55000', HINT = hint;
  END IF;

  number := nextval('txb.job_number_seq');
  existed := false;
  INSERT INTO txb.job AS o (number, name, group_name, source, topics, keys, types, time_from, time_to, seq_from, seq_to,
                            forced, run, then_live, rate_max, reason, os_user, state_by, cluster_id, partitions,
                            to_topic)
  OVERRIDING SYSTEM VALUE
  VALUES (job_start.number, j.name, j.group_name, j.source, j.topics, j.keys, j.types, j.time_from, j.time_to, j.seq_from,
          j.seq_to, j.forced, CASE WHEN j.forced OR j.to_topic IS NOT NULL THEN job_start.number ELSE 0 END, j.then_live,
          j.rate_max, j.reason, nullif(person, ''), txb.person_text(person), j.cluster_id, j.partitions, j.to_topic)
  RETURNING o.* INTO j;
  WITH made AS (
    INSERT INTO txb.job_lane AS l (job, topic, from_partition, seq_from, seq_to, pass_from, first_seq, first_id)
    SELECT j.number, u.topic, u.from_partition, u.seq_from, u.seq_to, u.seq_from, f.seq, f.id
      FROM unnest(ranges) WITH ORDINALITY AS u (topic, from_partition, seq_from, seq_to, nth)
      LEFT JOIN unnest(lane_topics, lane_partitions, lane_firsts, lane_ids) AS f (topic, partition, seq, id)
        ON f.topic COLLATE "C" = u.topic AND f.partition = u.from_partition
     ORDER BY u.nth
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
                                  boolean, boolean, bigint, text, text, text[], int[], bigint[], bigint[], text, text,
                                  int[], bigint[], uuid[]) IS
  'Starts a replay job and returns its number: of the numbers seq_from to below seq_to of a source, or of these offsets of '
  'the topics of a Kafka cluster; into a group, or into to_topic. existed: that name has started this very job already. '
  '22023, 55000: refused, with what to do';

-- ---- what a person asks ---------------------------------------------------------------------------------------------

DROP FUNCTION txb.job_lanes(bigint);
CREATE FUNCTION txb.job_lanes(job bigint) RETURNS TABLE (
  lane int, topic text, seq_from bigint, "position" bigint, seq_to bigint, pass_from bigint, passes int, consumed bigint,
  applied bigint, duplicate bigint, failed bigint, moved bigint, retrying bigint, held bigint, dead bigint, done boolean,
  owner text, lease_ms bigint, last_error text, error_age_ms bigint, stalled_offset bigint, attempts int,
  next_attempt_ms bigint, stalled_error text, updated_age_ms bigint, from_partition int)
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT l.lane, l.topic, l.seq_from, c.next_offset, l.seq_to, l.pass_from, l.passes, c.consumed, c.applied, c.duplicate,
         c.failed, l.moved, f.retrying, f.held, f.dead, l.done, l.owner, txb.due_ms(l.lease_until), l.last_error,
         -txb.due_ms(l.error_at), c.stalled_offset, c.attempts, txb.due_ms(c.next_attempt_at), c.last_error,
         -txb.due_ms(c.updated_at), l.from_partition
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

COMMENT ON FUNCTION txb.job_document(txb.job) IS
  'A job with its lanes and their sums, as JSON; span and covered count numbers of the outbox, or offsets of Kafka';

-- ---- what a worker does ---------------------------------------------------------------------------------------------

-- Workers of before know neither lanes of Kafka nor such that go to a topic: they would run the handler, with the number
-- of an outbox. They go on calling this, without the last parameter, and are given none of those, neither to read nor for
-- what failed in them; those who know them say so.
DROP FUNCTION txb.lane_claim(text, text, uuid, bigint, int);
CREATE FUNCTION txb.lane_claim(group_name text, owner text, instance uuid, lease_ms bigint, lanes_max int,
                               copies boolean DEFAULT false)
RETURNS TABLE (lane int, job bigint, topic text, source text, seq_to bigint, "position" bigint, run bigint,
               rate_max bigint, keys bytea[], types text[], time_from timestamptz, time_to timestamptz,
               then_live boolean, wants_pass boolean, job_lowest bigint, job_left int, pin text, cluster_id text,
               from_partition int, to_topic text, first_seq bigint, first_id uuid)
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
     WHERE j.group_name = lane_claim.group_name AND (copies OR (j.to_topic IS NULL AND j.cluster_id IS NULL))
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
         w.lowest, w.lanes, txb.job_pin(j), j.cluster_id, l.from_partition, j.to_topic,
         l.first_seq, l.first_id
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
COMMENT ON FUNCTION txb.lane_claim(text, text, uuid, bigint, int, boolean) IS
  'Renews the leases of a worker''s lanes and takes free ones up to lanes_max; returns all that it may serve from now on. '
  'What is not returned is not its own any more. Ends lanes and jobs that are read to their end. rate_max is the lane''s '
  'share; wants_pass: call txb.lane_pass; job_lowest: where the hindmost of the job''s lanes stands that are not done, of '
  'which there are job_left: retention must leave what lies above, by a pin of that name in the source. With a cluster_id '
  'there is no source: the lane reads from_partition there, and its numbers are offsets. to_topic: write there, instead of '
  'running the handler. Lanes with either of the two only for who knows them: copies. first_seq, first_id: the message that '
  'the partition must have there, if it has any';

REVOKE ALL ON TYPE txb.job_range FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
  txb.job_start(text, text, text, text[], bytea[], text[], timestamptz, timestamptz, bigint, bigint, boolean, boolean,
                bigint, text, text, text[], int[], bigint[], bigint[], text, text, int[], bigint[], uuid[])
TO txb_admin;
GRANT EXECUTE ON FUNCTION
  txb.job_refusal(text, text, text, text[], bigint, bigint, boolean, boolean, text, text[], int[], bigint[], bigint[])
TO txb_reader, txb_admin;
GRANT EXECUTE ON FUNCTION txb.lane_claim(text, text, uuid, bigint, int, boolean) TO txb_worker;

RESET ROLE;
