-- Replay jobs whose messages go to a topic (0020: txb.job.to_topic) and not to the group's handler: what their lanes do.
--
--   txb.job_republish(messages txb.message[]) returns setof txb.outcome
--   txb.lane_fence(...), txb.live_keys_version(...), txb.failed_keys(...), txb.lane_held_by(...), txb.keys_freed(...)
--   txb.failed_add(...)
--                                                         as before, described in 0009 and 0010
--
-- The group's workers run such a lane as any other, and in the place of the handler stands txb.job_republish, which writes
-- the messages into the outbox of this database. So they are there once, in the transaction that moves the lane's position:
-- a crash before its commit leaves neither, after it both, and the relay publishes them in their order. The inbox keeps the
-- ids under the job's number (J2).
--
-- Such a message is not run for the group. So what has failed in the group's live partitions does not hold it.

SET LOCAL ROLE txb_owner;

CREATE FUNCTION txb.lane_honours(partition int) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT lane_honours.partition < 0
     AND NOT EXISTS (SELECT FROM txb.job_lane AS l JOIN txb.job AS j ON j.number = l.job
                      WHERE l.lane = -lane_honours.partition AND j.to_topic IS NOT NULL)
$$;
COMMENT ON FUNCTION txb.lane_honours(int) IS
  'Whether a partition is a lane that honours what live partitions hold: its messages go to the group''s handler';

-- Nor is it a death of the group's.
CREATE OR REPLACE FUNCTION txb.failed_dead_target(f txb.failed) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT g.dead_letter_topic FROM txb.consumer_group AS g
   WHERE g.group_name = f.group_name AND (f.partition >= 0 OR txb.lane_honours(f.partition))
$$;

CREATE OR REPLACE FUNCTION txb.live_keys_version(group_name text, topic text, partition int) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT coalesce(sum(c.keys_version + c.keys_taken), 0)::bigint FROM txb.consumer_offset AS c
   WHERE live_keys_version.partition < 0 AND txb.lane_honours(live_keys_version.partition)
     AND c.group_name = live_keys_version.group_name AND c.topic = live_keys_version.topic AND c.partition >= 0
$$;

CREATE OR REPLACE FUNCTION txb.failed_keys(group_name text, topic text, partition int, keys_max int)
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
                                WHERE failed_keys.partition < 0 AND txb.lane_honours(failed_keys.partition)
                                  AND f.side = 'consumer' AND f.holds
                                  AND f.group_name = failed_keys.group_name AND f.topic = failed_keys.topic
                                  AND f.partition >= 0) AS h
                        GROUP BY h.key LIMIT failed_keys.keys_max) AS k ON true
   WHERE c.group_name = failed_keys.group_name AND c.topic = failed_keys.topic
     AND c.partition = failed_keys.partition
$$;

CREATE OR REPLACE FUNCTION txb.lane_fence(caller text, group_name text, topic text, partition int, ahead boolean)
  RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  honours boolean := txb.lane_honours(lane_fence.partition);
BEGIN
  PERFORM FROM txb.consumer_offset AS c
    WHERE c.group_name = lane_fence.group_name AND c.topic = lane_fence.topic
      AND (c.partition = lane_fence.partition OR (honours AND c.partition >= 0))
    ORDER BY c.partition
    FOR NO KEY UPDATE;
  PERFORM txb.lane_may_run(caller, lane_fence.partition, ahead);
  RETURN txb.live_keys_version(lane_fence.group_name, lane_fence.topic, lane_fence.partition); -- with a new snapshot (W2)
END
$$;

CREATE OR REPLACE FUNCTION txb.lane_held_by(group_name text, topic text, partition int, keys bytea[], states text[],
                                            holds boolean[]) RETURNS TABLE (nth bigint, live int)
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  WITH item AS MATERIALIZED (
    SELECT u.* FROM unnest(lane_held_by.keys, lane_held_by.states, lane_held_by.holds) WITH ORDINALITY
                    AS u (key, state, holds, nth)
     WHERE lane_held_by.partition < 0 AND txb.lane_honours(lane_held_by.partition) AND u.key IS NOT NULL
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

-- A lane that reads Kafka has its messages' own offsets. So one that would go behind a held key of a live partition may be
-- there already, and done with: discarded, edited, applied. Such a row stays closed, and the message is a duplicate, as it
-- would be if its key were free (the inbox). What is open there is not put behind itself either, as before.
CREATE OR REPLACE FUNCTION txb.failed_add(
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
  n_ended bigint; -- and those of them that were done with there before
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
      FROM (SELECT a.*, l.live,
                   l.live IS NOT NULL
                   AND EXISTS (SELECT FROM txb.failed AS o
                                WHERE o.side = 'consumer' AND o.state IN ('resolved', 'discarded')
                                  AND o."offset" = a."offset" AND o.partition = l.live AND o.topic = failed_add.topic
                                  AND o.group_name = failed_add.group_name AND o.run = lane_run AND o.id = a.id) AS ended
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
        OR NOT i.ended AND NOT EXISTS (SELECT FROM txb.failed AS o
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
         (SELECT count(*) FROM item AS i WHERE i.live IS NOT NULL AND NOT i.ended),
         (SELECT count(*) FROM item AS i WHERE i.ended),
         array_agg(a.partition) FILTER (WHERE a.partition <> failed_add.partition)
    INTO more_held, heads, keys_held, n_live, n_ended, moved_to
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
  -- batch_close counts them as failed, with the others.
  UPDATE txb.consumer_offset AS c SET duplicate = c.duplicate + n_ended, failed = c.failed - n_ended
   WHERE n_ended > 0 AND c.group_name = failed_add.group_name AND c.topic = failed_add.topic
     AND c.partition = failed_add.partition;
  SELECT sum(c.held) INTO result FROM txb.consumer_offset AS c WHERE c.group_name = failed_add.group_name;
  RETURN result;
END
$$;

CREATE OR REPLACE FUNCTION txb.keys_freed(group_name text, topic text, partition int, freed bytea[]) RETURNS bytea[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  IF keys_freed.partition >= 0 OR freed IS NULL OR NOT txb.lane_honours(keys_freed.partition) THEN
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

-- Only what a lane has taken goes there, so whoever may not run it now (the job is cancelled, another one owns it) can't
-- write: batch_open is only ever true in the transaction that opened the batch, or the retry.
--
-- The loop guard is here and not at the start of a job: only the messages know how often they went round.
CREATE FUNCTION txb.job_republish(messages txb.message[]) RETURNS SETOF txb.outcome
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  target text;
  owner_group text;
  is_open boolean;
  m txb.message;
  count int;
BEGIN
  IF coalesce(cardinality(messages), 0) = 0 THEN
    RETURN;
  END IF;
  SELECT j.to_topic, j.group_name, c.batch_open INTO target, owner_group, is_open
    FROM txb.job_lane AS l
    JOIN txb.job AS j ON j.number = l.job
    JOIN txb.consumer_offset AS c ON c.group_name = j.group_name AND c.topic = l.topic AND c.partition = -l.lane
   WHERE l.lane = -(messages[1]).partition;
  IF target IS NULL THEN
    RAISE EXCEPTION 'txb.job_republish: partition % is no lane of a job that goes to a topic', (messages[1]).partition
      USING ERRCODE = '22023';
  ELSIF NOT is_open THEN
    PERFORM txb.batch_not_open('txb.job_republish', owner_group, (messages[1]).topic, (messages[1]).partition);
  ELSIF EXISTS (SELECT FROM unnest(messages) AS o WHERE o.partition IS DISTINCT FROM (messages[1]).partition) THEN
    RAISE EXCEPTION 'txb.job_republish: messages of more than one partition' USING ERRCODE = '22023';
  END IF;
  FOREACH m IN ARRAY messages LOOP
    count := txb.replay_count(m.headers);
    IF count >= txb.replay_count_max() THEN
      RETURN NEXT txb.dead(format('it was replayed %s times already, and more is refused, since it may go in a circle: '
                                  'discard it; or, knowing that it becomes a new message for every reader, failed edit '
                                  '--set-header txb-replayed=0', count));
    ELSE
      PERFORM txb.outbox_copy(target, m.id, m.source, m.key, m.type, m."time", m.payload, m.content_type, m.headers,
                              jsonb_build_object('txb-replayed', (count + 1)::text));
      RETURN NEXT txb.ok();
    END IF;
  END LOOP;
END
$$;
COMMENT ON FUNCTION txb.job_republish(txb.message[]) IS
  'The handler of lanes whose job goes to a topic: writes the messages, as they were, into this database''s outbox';

GRANT EXECUTE ON FUNCTION txb.job_republish(txb.message[]) TO txb_worker;

RESET ROLE;
