-- Forced jobs are taken for a loop when ten have run messages that another one would run again (J2): messages, and not
-- numbers. One that reads other keys or other types over the same range runs none of these, nor does one that was cancelled
-- before it came to any.
--
--   txb.job_refusal(...as in 0020..., keys bytea[] = null, types text[] = null) returns problem, hint

SET LOCAL ROLE txb_owner;

-- As in 0020, but for which forced jobs count.
CREATE OR REPLACE FUNCTION txb.job_obstacle(j txb.job, ranges txb.job_range[], OUT problem text, OUT hint text)
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
    -- One that may still run some, running or paused, stands in the way already: it is at work on a topic of these.
    SELECT count(*) INTO earlier FROM txb.job AS o
     WHERE o.group_name = (j).group_name AND o.source IS NOT DISTINCT FROM (j).source
       AND o.cluster_id IS NOT DISTINCT FROM (j).cluster_id AND o.forced
       AND o.created_at > clock_timestamp() - interval '30 days'
       AND (o.keys IS NULL OR (j).keys IS NULL OR o.keys && (j).keys)
       AND (o.types IS NULL OR (j).types IS NULL OR o.types && (j).types)
       AND EXISTS (SELECT FROM txb.job_lane AS l
                     JOIN unnest(ranges) AS n (topic, from_partition, seq_from, seq_to)
                       ON l.topic = n.topic AND l.from_partition = n.from_partition
                     JOIN txb.consumer_offset AS c
                       ON c.group_name = o.group_name AND c.topic = l.topic AND c.partition = -l.lane
                    WHERE l.job = o.number AND l.seq_from < n.seq_to AND least(l.seq_to, c.next_offset) > n.seq_from
                      AND c.consumed + l.moved > 0);
    IF earlier >= 10 THEN
      problem := format('%s forced jobs have run messages of this range for group "%s" in the last 30 days: this looks '
                        'like a loop', earlier, (j).group_name);
      hint := 'Find out what starts them: txbroker audit list. Without --force, only what was never applied is applied.';
    END IF;
  END IF;
END
$$;

DROP FUNCTION txb.job_refusal(text, text, text, text[], bigint, bigint, boolean, boolean, text, text[], int[], bigint[],
                              bigint[]);
CREATE FUNCTION txb.job_refusal(
  group_name text, source text, cluster_id text, topics text[], seq_from bigint, seq_to bigint, forced boolean,
  then_live boolean, to_topic text, lane_topics text[], lane_partitions int[], lane_froms bigint[], lane_tos bigint[],
  keys bytea[] DEFAULT NULL, types text[] DEFAULT NULL, OUT problem text, OUT hint text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  j txb.job;
BEGIN
  j.group_name := job_refusal.group_name;
  j.source := job_refusal.source;
  j.cluster_id := job_refusal.cluster_id;
  j.topics := txb.sorted(job_refusal.topics);
  j.keys := job_refusal.keys;
  j.types := job_refusal.types;
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
                                    bigint[], bigint[], bytea[], text[]) IS
  'Why txb.job_start would refuse such a job as this database is now, and what to do; null: it would not. Changes nothing';
GRANT EXECUTE ON FUNCTION
  txb.job_refusal(text, text, text, text[], bigint, bigint, boolean, boolean, text, text[], int[], bigint[], bigint[],
                  bytea[], text[])
TO txb_reader, txb_admin;

RESET ROLE;
