-- What became of a replay job stands in txb.audit, as that of a job of `failed` does.
--
--   'replay done'    written by txb.job_finish, in the name of who started the job
--   'replay cancel'  as before, and with the same counts
--
-- Their filter has "results": the counters of all lanes, and the failed messages that are open, as txb.job_show tells them;
-- matched is what was consumed, changed what was applied. What starts, pauses, resumes or slows down a job changes no
-- message, and how many it means is not known before it ends: null.
--
-- Both are written in the transaction that ends the job. A crash before its commit leaves the job running without a row, and
-- whoever serves its lanes next ends it and writes one; behind it there are both. Whoever comes second finds the job
-- ended and writes none. A batch that is under way when a job is cancelled may commit after the row and is not in its counts:
-- txb.job_show has it.

SET LOCAL ROLE txb_owner;

ALTER TABLE txb.audit ALTER COLUMN matched DROP NOT NULL;
COMMENT ON COLUMN txb.audit.matched IS 'How many messages it meant; null: not known, of a replay job that had not ended';

CREATE FUNCTION txb.job_results(j txb.job) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT jsonb_build_object('consumed', sum(n.consumed), 'applied', sum(n.applied), 'duplicate', sum(n.duplicate),
                            'failed', sum(n.failed), 'moved', sum(n.moved), 'retrying', sum(n.retrying),
                            'held', sum(n.held), 'dead', sum(n.dead))
    FROM txb.job_lanes((j).number) AS n
$$;
COMMENT ON FUNCTION txb.job_results(txb.job) IS 'What has become of the messages of a job so far, by outcome';

CREATE OR REPLACE FUNCTION txb.job_audit(action text, j txb.job, person text, reason text) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, txb, pg_temp
AS $$
  INSERT INTO txb.audit (role, person, action, filter, matched, changed, reason)
  SELECT CASE WHEN (j).state = 'done' THEN (j).created_by ELSE session_user END, nullif(job_audit.person, ''),
         job_audit.action,
         jsonb_strip_nulls(jsonb_build_object(
           'job', (j).number, 'name', (j).name, 'group', (j).group_name, 'source', (j).source, 'topics', (j).topics,
           'keys', (SELECT jsonb_agg(txb.key_text(k)) FROM unnest((j).keys) AS k), 'types', (j).types,
           'time_from', (j).time_from, 'time_to', (j).time_to, 'seq_from', (j).seq_from, 'seq_to', (j).seq_to,
           'forced', (j).forced, 'then_live', (j).then_live, 'rate_max', (j).rate_max,
           'cluster_id', (j).cluster_id, 'partitions', (j).partitions, 'to_topic', (j).to_topic,
           'offsets', (SELECT jsonb_agg(jsonb_build_object('topic', l.topic, 'partition', l.from_partition,
                                                           'from', l.seq_from, 'to', l.seq_to) ORDER BY l.lane)
                         FROM txb.job_lane AS l WHERE l.job = (j).number AND (j).cluster_id IS NOT NULL),
           'results', r.results)),
         (r.results ->> 'consumed')::bigint, coalesce((r.results ->> 'applied')::bigint, 0),
         left(nullif(job_audit.reason, ''), 1000)
    FROM (SELECT CASE WHEN (j).state IN ('cancelled', 'done') THEN txb.job_results(j) END AS results) AS r
$$;
COMMENT ON FUNCTION txb.job_audit(text, txb.job, text, text) IS
  'The audit row of a command about a job, or of its end, with what became of its messages';

-- Each waits for the jobs' rows, and then sees what others have made of their other lanes: the last one ends the job.
CREATE OR REPLACE FUNCTION txb.job_finish(numbers bigint[], who text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  j txb.job;
BEGIN
  PERFORM FROM txb.job AS o WHERE o.number = ANY (numbers) ORDER BY o.number FOR NO KEY UPDATE;
  FOR j IN
    UPDATE txb.job AS o
       SET state = 'done', state_at = clock_timestamp(), state_by = who, finished_at = clock_timestamp()
     WHERE o.number = ANY (numbers) AND o.state = 'running'
       AND NOT EXISTS (SELECT FROM txb.job_lane AS l WHERE l.job = o.number AND NOT l.done)
    RETURNING o.*
  LOOP
    PERFORM txb.job_audit('replay done', j, j.os_user, j.reason);
  END LOOP;
END
$$;
COMMENT ON FUNCTION txb.job_finish(bigint[], text) IS
  'Those of these jobs whose lanes are all done are done, with an audit row each';

RESET ROLE;
