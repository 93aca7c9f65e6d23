-- Two more things to do with failed messages, one or many: an edit that is the same for all of them, and a copy to a topic.
--
--   txb.failed_edit_many(numbers bigint[], changes jsonb, person text, reason text = null, filter jsonb = null) returns table
--       per number: done, or why not, and the new edition
--   txb.failed_copy(numbers bigint[], to_topic text, person text, reason text = null, filter jsonb = null) returns table
--       per number: done, or why not
--   txb.failed_job_start(verb text, filter jsonb, reason text, person text, changes jsonb = null, to_topic text = null,
--                        out number bigint, out messages bigint, out served boolean)
--       as in 0017, with the verbs edit (of changes) and copy (to to_topic); served: a worker that may run it is there now
--   txb.failed_changes_check(changes jsonb) returns void                  22023: they can be made to no message
--   txb.failed_job_running() returns table (number bigint, job jsonb)           those that are not over, for `status`
--   txb.failed_edit(...), txb.failed_job_step(...), failed_job_work(...), ...   as before, described in 0012 and 0017
--
-- changes is a JSON object of what is to be different: headers {name: value}, unset [name, ...], content_type, payload
-- (base64; null: no value). What it doesn't name stays as it is.
--
-- A copy is an intent of this database's outbox, in the transaction of the step that takes the message out of the job: a
-- crash before the commit leaves no copy, after it one, which the relay publishes. The failed message stays as it is. A
-- copy carries its message's id, so whoever has applied it takes the copy for a duplicate; and it counts in a header how
-- often it was sent round, which ends at txb.replay_count_max().

SET LOCAL ROLE txb_owner;

-- ---- a copy changes nothing -----------------------------------------------------------------------------------------

-- It has a row in the history, though, which is not what the message's state comes from.
CREATE FUNCTION txb.failed_last(number bigint) RETURNS txb.failed_history
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT h.* FROM txb.failed_history AS h
   WHERE h.number = failed_last.number AND h.event <> 'copied' ORDER BY h.at DESC LIMIT 1
$$;
COMMENT ON FUNCTION txb.failed_last(bigint) IS 'The last row of a failed message''s history that is about its state';

CREATE OR REPLACE FUNCTION txb.failed_closed_text(f txb.failed) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT format('is %s%s since %s%s', (f).state,
                CASE (f).resolution WHEN 'discarded' THEN '' WHEN 'edited' THEN format(' (edited: see %s)', (f).replaced_by)
                                    ELSE format(' (%s)', (f).resolution) END,
                txb.time_text(coalesce(h.at, (f).updated_at)), coalesce(', by ' || h.who, ''))
    FROM txb.failed_last((f).number) AS h
$$;

CREATE OR REPLACE FUNCTION txb.outbox_not_dead(f txb.failed) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT format('%s since %s%s',
                CASE f.state WHEN 'retrying' THEN 'is being published' WHEN 'discarded' THEN 'is discarded'
                             ELSE format('is %s (%s)', f.state,
                                         CASE f.resolution WHEN 'edited' THEN format('edited: see %s', f.replaced_by)
                                                           ELSE f.resolution END) END,
                txb.time_text(coalesce(h.at, f.updated_at)), coalesce(', by ' || h.who, ''))
    FROM txb.failed_last(f.number) AS h
$$;

CREATE OR REPLACE FUNCTION txb.failed_retry_one(number bigint, who text, reason text, OUT state text, OUT why text)
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  f txb.failed := txb.failed_read(failed_retry_one.number);
  last txb.failed_history := txb.failed_last(failed_retry_one.number);
BEGIN
  state := f.state;
  IF f.number IS NULL THEN
    why := 'does not exist';
  ELSIF f.state IN ('resolved', 'discarded') THEN
    why := txb.failed_closed_text(f);
  ELSIF f.state = 'retrying' AND last.event = 'retry' THEN
    why := format('is due already since %s: %s asked for it', txb.time_text(last.at), coalesce(last.who, 'somebody'));
  ELSIF f.side = 'outbox' THEN
    why := txb.outbox_decide(f.number, 'retry', NULL, NULL, NULL, who, reason);
  ELSE
    IF f.state = 'held' THEN
      why := (SELECT format('is held behind %s: retry that one, and it follows', o.number)
                FROM txb.failed_in_key(f) AS o WHERE o.place < f.place ORDER BY o.place LIMIT 1);
    END IF;
    IF why IS NULL THEN -- also what is held behind nothing, which must not be, and is mended so
      PERFORM txb.failed_due(f);
      PERFORM txb.failed_note(f.number, 'retry', 'retrying', who, reason);
    END IF;
  END IF;
  IF why IS NULL THEN
    state := (SELECT t.state FROM txb.failed AS t WHERE t.number = f.number);
  END IF;
END
$$;

-- ---- what a decision has ended is no suspect any more ---------------------------------------------------------------

-- It never runs again under its number, and one that comes again begins anew (failed_add). As a suspect it would be kept
-- for ever (failed_expire).
CREATE OR REPLACE FUNCTION txb.failed_close(f txb.failed, state text, resolution text, replaced_by bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  next txb.failed;
BEGIN
  UPDATE txb.failed AS t
     SET state = failed_close.state, resolution = failed_close.resolution, replaced_by = failed_close.replaced_by,
         holds = false, suspect = false, next_attempt_at = NULL, updated_at = clock_timestamp()
   WHERE t.number = f.number;
  PERFORM txb.failed_forget(f.group_name, f.run, f.id);
  IF failed_close.replaced_by IS NULL AND f.holds THEN
    SELECT * INTO next FROM txb.failed_in_key(f) AS o ORDER BY o.place LIMIT 1;
    IF next.state = 'held' THEN
      PERFORM txb.failed_due(next);
      PERFORM txb.failed_note(next.number, 'ahead_done', 'retrying', NULL, NULL);
    END IF;
  END IF;
  IF failed_close.replaced_by IS NULL AND f.state = 'held' THEN
    UPDATE txb.consumer_offset AS c SET held = greatest(0, c.held - 1)
     WHERE c.group_name = f.group_name AND c.topic = f.topic AND c.partition = f.partition;
  END IF;
END
$$;
UPDATE txb.failed AS f SET suspect = false WHERE f.suspect AND f.state IN ('resolved', 'discarded');

-- ---- an edit --------------------------------------------------------------------------------------------------------

-- problem: what it would be is beyond a limit.
CREATE FUNCTION txb.failed_edit_one(f txb.failed, payload bytea, content_type text, headers jsonb, who text, reason text,
                                    OUT state text, OUT why text, OUT problem text, OUT new_number bigint, OUT new_id uuid)
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  headers := nullif(headers, '{}');
  state := f.state;
  IF f.state IN ('resolved', 'discarded') THEN
    why := txb.failed_closed_text(f);
    RETURN;
  END IF;
  problem := coalesce(txb.failed_edit_problem(f, payload, content_type, headers),
                      CASE WHEN f.side = 'outbox' AND f.origin IS NULL -- as outbox_edition, which raises
                           THEN txb.intent_problem(f.topic, txb.key_text(f.key), f.type, payload, content_type, headers, NULL)
                           END);
  IF problem IS NOT NULL THEN
    RETURN;
  END IF;
  IF payload IS NOT DISTINCT FROM txb.failed_payload(f) AND content_type IS NOT DISTINCT FROM f.content_type
     AND headers IS NOT DISTINCT FROM nullif(f.headers, '{}') THEN
    why := 'is the same as before: nothing was changed';
  ELSIF f.side = 'outbox' THEN
    why := txb.outbox_decide(f.number, 'edit', payload, content_type, headers, who, reason);
    SELECT n.number, n.id, coalesce(n.state, t.state) INTO new_number, new_id, state
      FROM txb.failed AS t LEFT JOIN txb.failed AS n ON n.number = t.replaced_by WHERE t.number = f.number;
  ELSE
    INSERT INTO txb.failed (side, state, run, source, group_name, topic, partition, "offset", key, id, type, "time",
                            payload, content_type, headers, attempts, next_attempt_at, handler, place, holds, replaces)
    VALUES (f.side, CASE WHEN f.state = 'held' THEN 'held' ELSE 'retrying' END, f.run, f.source, f.group_name,
            f.topic, f.partition, f."offset", f.key, txb.uuid_v7(), f.type, f."time", payload, content_type, headers,
            0, CASE WHEN f.state <> 'held' THEN clock_timestamp() END, f.handler, f.place, f.holds, f.number)
    RETURNING txb.failed.number, txb.failed.id, txb.failed.state INTO new_number, new_id, state;
    PERFORM txb.failed_close(f, 'resolved', 'edited', new_number);
    PERFORM txb.failed_note(f.number, 'edit', 'resolved', who, reason);
    PERFORM txb.failed_note(new_number, 'edited', state, who, reason);
  END IF;
END
$$;
COMMENT ON FUNCTION txb.failed_edit_one(txb.failed, bytea, text, jsonb, text, text) IS
  'Puts an edition in the place of a message whose partition is locked; why or problem: nothing was changed';

CREATE OR REPLACE FUNCTION txb.failed_edit(number bigint, payload bytea, content_type text, headers jsonb, person text,
                                           reason text DEFAULT NULL, filter jsonb DEFAULT NULL)
RETURNS TABLE (done boolean, state text, why text, new_number bigint, new_id uuid)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  f txb.failed;
  problem text;
BEGIN
  PERFORM txb.failed_lock(ARRAY[failed_edit.number]);
  f := txb.failed_read(failed_edit.number);
  IF f.number IS NULL THEN
    RAISE EXCEPTION 'there is no failed message %', failed_edit.number USING ERRCODE = 'P0002';
  END IF;
  SELECT e.state, e.why, e.problem, e.new_number, e.new_id INTO state, why, problem, new_number, new_id
    FROM txb.failed_edit_one(f, payload, content_type, headers, txb.person_text(person), reason) AS e;
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION '%; nothing was changed', problem USING ERRCODE = '22023';
  END IF;
  done := why IS NULL;
  PERFORM txb.failed_decided('failed edit', ARRAY[failed_edit.number],
                             CASE WHEN done THEN ARRAY[failed_edit.number] ELSE '{}' END, person, reason, filter);
  RETURN NEXT;
END
$$;

CREATE FUNCTION txb.failed_changes_payload(changes jsonb) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  RETURN decode(changes ->> 'payload', 'base64');
EXCEPTION WHEN data_exception THEN
  RAISE EXCEPTION 'changes: payload is not base64' USING ERRCODE = '22023';
END
$$;
COMMENT ON FUNCTION txb.failed_changes_payload(jsonb) IS 'The payload that changes say, as bytes; null: none';

-- What breaks a limit in any message is refused before there is a job.
CREATE FUNCTION txb.failed_changes_check(changes jsonb) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  name text;
  value jsonb;
  payload bytea;
  problem text;
BEGIN
  IF changes IS NULL OR jsonb_typeof(changes) <> 'object' OR changes = '{}' THEN
    RAISE EXCEPTION 'changes are a JSON object of headers, unset, content_type or payload, for example '
                    '{"headers": {"tenant": "7"}}' USING ERRCODE = '22023';
  END IF;
  FOR name, value IN SELECT e.key, e.value FROM jsonb_each(changes) AS e LOOP
    PERFORM txb.word_check('changes', name, '{headers,unset,content_type,payload}');
    IF (CASE name WHEN 'headers' THEN jsonb_typeof(value) <> 'object'
                  WHEN 'unset' THEN jsonb_typeof(value) <> 'array' OR value @? '$[*] ? (@.type() != "string")'
                  WHEN 'content_type' THEN jsonb_typeof(value) <> 'string'
                  ELSE jsonb_typeof(value) NOT IN ('string', 'null') END) THEN
      RAISE EXCEPTION 'changes: % is not %', name,
        CASE name WHEN 'headers' THEN 'an object of strings' WHEN 'unset' THEN 'a list of header names'
                  WHEN 'content_type' THEN 'a text' ELSE 'base64, or null' END
        USING ERRCODE = '22023';
    END IF;
  END LOOP;
  name := (SELECT min(u) FROM jsonb_array_elements_text(changes -> 'unset') AS u
            WHERE u = '' OR u ~ '[\x01-\x1f\x7f]' OR changes -> 'headers' ? u);
  IF name IS NOT NULL THEN
    RAISE EXCEPTION 'changes: unset has a name that %; nothing was changed',
      CASE WHEN name = '' THEN 'is empty' WHEN changes -> 'headers' ? name THEN format('is in headers too: %s', name)
           ELSE 'has control characters' END
      USING ERRCODE = '22023';
  END IF;
  payload := txb.failed_changes_payload(changes);
  problem := coalesce(
    txb.intent_problem('t', NULL, 't', payload, changes ->> 'content_type', changes -> 'headers', NULL),
    CASE WHEN txb.says_json(changes ->> 'content_type')
         THEN replace(txb.json_problem(payload), 'application/json', changes ->> 'content_type') END);
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION '%; nothing was changed', problem USING ERRCODE = '22023';
  END IF;
END
$$;
COMMENT ON FUNCTION txb.failed_changes_check(jsonb) IS 'Raises 22023 for changes that can be made to no message';

-- Without the payload, which may be large, and which the editions have.
CREATE FUNCTION txb.failed_changes_shown(changes jsonb) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT CASE WHEN changes ? 'payload'
              THEN (changes - 'payload')
                   || jsonb_build_object('payload_bytes', octet_length(txb.failed_changes_payload(changes)))
              ELSE changes END
$$;
COMMENT ON FUNCTION txb.failed_changes_shown(jsonb) IS 'Changes as they are shown, and kept once they are made';

CREATE FUNCTION txb.failed_change_one(number bigint, changes jsonb, who text, reason text, OUT state text, OUT why text,
                                      OUT new_number bigint, OUT new_id uuid)
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  f txb.failed := txb.failed_read(failed_change_one.number);
  problem text;
BEGIN
  IF f.number IS NULL THEN
    why := 'does not exist';
    RETURN;
  END IF;
  SELECT e.state, e.why, e.problem, e.new_number, e.new_id INTO state, why, problem, new_number, new_id
    FROM txb.failed_edit_one(
           f, CASE WHEN changes ? 'payload' THEN txb.failed_changes_payload(changes) ELSE txb.failed_payload(f) END,
           coalesce(changes ->> 'content_type', f.content_type),
           (coalesce(f.headers, '{}') - ARRAY(SELECT jsonb_array_elements_text(changes -> 'unset')))
           || coalesce(changes -> 'headers', '{}'), who, reason) AS e;
  IF problem IS NOT NULL THEN
    why := 'can''t be edited so: ' || problem;
  END IF;
END
$$;
COMMENT ON FUNCTION txb.failed_change_one(bigint, jsonb, text, text) IS
  'Makes changes to a message whose partition is locked; its state or its edition''s, and why nothing was done (null: it '
  'was)';

CREATE FUNCTION txb.failed_edit_many(numbers bigint[], changes jsonb, person text, reason text DEFAULT NULL,
                                     filter jsonb DEFAULT NULL)
RETURNS TABLE (number bigint, done boolean, state text, why text, new_number bigint, new_id uuid)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  wanted bigint[] := ARRAY(SELECT DISTINCT n FROM unnest(numbers) AS n ORDER BY n);
  changed bigint[] := '{}';
  who text := txb.person_text(person);
BEGIN
  PERFORM txb.failed_changes_check(changes);
  PERFORM txb.failed_lock(numbers);
  FOREACH number IN ARRAY wanted LOOP
    SELECT o.state, o.why, o.new_number, o.new_id INTO state, why, new_number, new_id
      FROM txb.failed_change_one(failed_edit_many.number, changes, who, reason) AS o;
    done := why IS NULL;
    changed := CASE WHEN done THEN changed || number ELSE changed END;
    RETURN NEXT;
  END LOOP;
  PERFORM txb.failed_decided('failed edit', wanted, changed, person, reason, filter);
END
$$;
COMMENT ON FUNCTION txb.failed_edit_many(bigint[], jsonb, text, text, jsonb) IS
  'Makes the same changes to failed messages, each as txb.failed_edit does; per number done with the new edition, or why '
  'not. 22023: they can be made to none';

-- ---- a copy ---------------------------------------------------------------------------------------------------------

CREATE FUNCTION txb.failed_copy_check(to_topic text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  problem text := txb.intent_problem(to_topic, NULL, 't', NULL, NULL, NULL, NULL);
BEGIN
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION '%; nothing was copied', problem USING ERRCODE = '22023';
  END IF;
  IF NOT txb.outbox_served() THEN
    RAISE EXCEPTION 'no relay has ever served this database: copies written here would not be published; configure it as a '
                    'source and start its relay' USING ERRCODE = '55000';
  END IF;
END
$$;
COMMENT ON FUNCTION txb.failed_copy_check(text) IS
  'Raises when nothing can be copied to a topic: 22023 for its name, 55000 when nobody would publish it';

-- A copy waits for no batch: it only keeps its messages from being deleted meanwhile (failed_expire). All of them are
-- locked first, in the order in which decisions lock them.
CREATE FUNCTION txb.failed_copy_lock(numbers bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp SET lock_timeout = '5s'
AS $$
BEGIN
  IF numbers IS NULL OR cardinality(numbers) NOT BETWEEN 1 AND 10000 OR array_position(numbers, NULL) IS NOT NULL THEN
    RAISE EXCEPTION 'give the numbers of 1 to 10000 failed messages' USING ERRCODE = '22023';
  END IF;
  PERFORM FROM txb.failed AS f WHERE f.number = ANY (numbers) ORDER BY f.number FOR KEY SHARE;
EXCEPTION WHEN lock_not_available THEN
  RAISE EXCEPTION 'somebody has been deciding about one of these messages for more than five seconds: nothing was copied; '
                  'try again' USING ERRCODE = '55P03';
END
$$;
COMMENT ON FUNCTION txb.failed_copy_lock(bigint[]) IS
  'Keeps these messages from being deleted, a statement of its own (W2); 55P03: try again';

CREATE FUNCTION txb.failed_copy_one(number bigint, to_topic text, who text, reason text, OUT state text, OUT why text)
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  f txb.failed;
  before int;
BEGIN
  SELECT * INTO f FROM txb.failed AS t WHERE t.number = failed_copy_one.number;
  state := f.state;
  before := txb.replay_count(f.headers);
  IF f.number IS NULL THEN
    why := 'does not exist';
  ELSIF f.side = 'outbox' AND NOT f.kept AND NOT EXISTS (SELECT FROM txb.outbox AS o WHERE o.seq = f.seq) THEN
    why := 'is not kept any more: its payload was in a partition of the outbox that was dropped';
  ELSIF before >= txb.replay_count_max() THEN
    why := format('was copied or replayed to a topic %s times already, and %s are allowed, since it may go in a circle: leave '
                  'it; or, knowing that it becomes a new message for every reader, edit it first: failed edit '
                  '--unset-header txb-replayed', before, txb.replay_count_max());
  ELSE
    IF f.origin IS NOT NULL THEN -- a copy that Kafka refused: of the message, not of its stand-ins
      f.source := f.origin ->> 'source';
      f.key := coalesce(decode(f.origin ->> 'key', 'base64'), f.key);
      f."time" := (f.origin ->> 'time')::timestamptz;
    ELSIF f.side = 'outbox' THEN -- as its relay would publish it
      f.source := coalesce((SELECT r.event_source FROM txb.relay AS r WHERE r.source = f.source), 'txbroker:' || f.source);
    END IF;
    PERFORM txb.outbox_copy(failed_copy_one.to_topic, f.id, f.source, f.key, f.type, f."time", txb.failed_payload(f),
                            f.content_type, f.headers, jsonb_build_object('txb-replayed', (before + 1)::text));
    PERFORM txb.failed_note(f.number, 'copied', f.state, who, concat_ws(': ', 'to ' || to_topic, nullif(reason, '')));
  END IF;
END
$$;
COMMENT ON FUNCTION txb.failed_copy_one(bigint, text, text, text) IS
  'Copies a message that is locked to a topic, by the outbox of this database, and leaves it as it is; its state, and why '
  'nothing was done (null: it was)';

CREATE FUNCTION txb.failed_copy(numbers bigint[], to_topic text, person text, reason text DEFAULT NULL,
                                filter jsonb DEFAULT NULL)
RETURNS TABLE (number bigint, done boolean, state text, why text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  copied bigint := 0;
  who text := txb.person_text(person);
BEGIN
  PERFORM txb.failed_copy_check(to_topic);
  PERFORM txb.failed_copy_lock(numbers);
  FOR number IN
    SELECT n FROM (SELECT DISTINCT n FROM unnest(numbers) AS n) AS u LEFT JOIN txb.failed AS f ON f.number = u.n
     ORDER BY f.place, n -- an edited copy stands where the first of its editions stood
  LOOP
    SELECT o.state, o.why INTO state, why FROM txb.failed_copy_one(failed_copy.number, to_topic, who, reason) AS o;
    done := why IS NULL;
    copied := copied + done::int;
    RETURN NEXT;
  END LOOP;
  INSERT INTO txb.audit (person, action, filter, matched, changed, reason)
  VALUES (nullif(failed_copy.person, ''), 'failed copy',
          coalesce(failed_copy.filter, jsonb_build_object('numbers', numbers)) || jsonb_build_object('to_topic', to_topic),
          (SELECT count(DISTINCT n) FROM unnest(numbers) AS n), copied, left(nullif(failed_copy.reason, ''), 1000));
END
$$;
COMMENT ON FUNCTION txb.failed_copy(bigint[], text, text, text, jsonb) IS
  'Copies failed messages to a topic, by the outbox of this database, and leaves them as they are; per number done, or why '
  'not. 55000: no relay would publish them';

-- ---- jobs -----------------------------------------------------------------------------------------------------------

ALTER TABLE txb.failed_job
  DROP CONSTRAINT failed_job_verb,
  ADD CONSTRAINT failed_job_verb CHECK (verb IN ('retry', 'discard', 'edit', 'copy')),
  ADD COLUMN changes jsonb,
  ADD COLUMN to_topic text COLLATE "C",
  ADD CONSTRAINT failed_job_given CHECK ((verb = 'edit') = (changes IS NOT NULL) AND (verb = 'copy') = (to_topic IS NOT NULL));
COMMENT ON COLUMN txb.failed_job.verb IS 'retry, discard, edit or copy';
COMMENT ON COLUMN txb.failed_job.changes IS
  'Of an edit: what is to be different in each message. Its payload goes when the job is over, and its size stays';
COMMENT ON COLUMN txb.failed_job.to_topic IS 'Of a copy: where to';
COMMENT ON CONSTRAINT failed_job_verb ON txb.failed_job IS 'verb: retry, discard, edit or copy';
COMMENT ON CONSTRAINT failed_job_given ON txb.failed_job IS 'An edit has changes, a copy a topic, and nothing else has';

CREATE OR REPLACE FUNCTION txb.failed_job_document(j txb.failed_job) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT to_jsonb(j) || jsonb_build_object('left', CASE (j).state WHEN 'running' THEN (j).messages - (j).done - (j).skipped
                                                                  ELSE 0 END,
                                           'changes', txb.failed_changes_shown((j).changes),
                                           'age_ms', -txb.due_ms((j).created_at), 'state_age_ms', -txb.due_ms((j).state_at))
$$;

CREATE OR REPLACE FUNCTION txb.failed_job_audit(action text, j txb.failed_job) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, txb, pg_temp
AS $$
  INSERT INTO txb.audit (role, person, action, filter, matched, changed, reason)
  VALUES ((j).created_by, (j).os_user, failed_job_audit.action,
          (j).filter || jsonb_strip_nulls(jsonb_build_object('job', (j).number, 'to_topic', (j).to_topic)),
          (j).messages, (j).done, (j).reason)
$$;

-- A worker that holds a position, and whose session is there.
CREATE FUNCTION txb.failed_job_served(group_name text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT EXISTS (SELECT FROM txb.consumer_offset AS c JOIN pg_stat_activity AS a ON a.pid = c.backend_pid
                  WHERE c.owner IS NOT NULL AND a.datname = current_database()
                    AND coalesce(failed_job_served.group_name, c.group_name) = c.group_name)
$$;
COMMENT ON FUNCTION txb.failed_job_served(text) IS
  'Whether a worker of that group (null: of any) is at work in this database now, which goes on with its jobs';

DROP FUNCTION txb.failed_job_start(text, jsonb, text, text);
CREATE FUNCTION txb.failed_job_start(verb text, filter jsonb, reason text, person text, changes jsonb DEFAULT NULL,
                                     to_topic text DEFAULT NULL,
                                     OUT number bigint, OUT messages bigint, OUT served boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, txb, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off
AS $$
DECLARE
  p txb.failed_filter := txb.failed_filter_of(filter);
  j txb.failed_job;
BEGIN
  PERFORM txb.failed_job_check(verb, reason, changes, to_topic);
  number := nextval('txb.job_number_seq');
  -- A copy keeps the order of keys, in which an edited message stands where the first of its editions stood.
  WITH meant AS (
    SELECT f.number, CASE failed_job_start.verb WHEN 'copy' THEN f.place ELSE f.number END AS nth,
           dense_rank() OVER (ORDER BY f.group_name, f.topic, f.partition) AS log
      FROM txb.failed_matching(p) AS f
  ), chunked AS (
    SELECT m.*, (row_number() OVER (PARTITION BY m.log ORDER BY m.nth, m.number) - 1) / 500 AS chunk FROM meant AS m
  ), parts AS (
    INSERT INTO txb.failed_job_part AS n (job, part, numbers)
    SELECT failed_job_start.number, row_number() OVER (ORDER BY min(m.nth), m.chunk),
           array_agg(m.number ORDER BY m.nth, m.number)
      FROM chunked AS m GROUP BY m.log, m.chunk
    RETURNING n.numbers
  )
  SELECT sum(cardinality(n.numbers)) INTO messages FROM parts AS n;
  IF messages IS NULL THEN
    RAISE EXCEPTION 'no failed message is like that' USING ERRCODE = 'P0002';
  END IF;
  INSERT INTO txb.failed_job AS o (number, verb, group_name, filter, reason, messages, os_user, state_by, changes, to_topic)
  VALUES (failed_job_start.number, failed_job_start.verb, p.group_name, failed_job_start.filter,
          left(nullif(failed_job_start.reason, ''), 1000), failed_job_start.messages, nullif(person, ''),
          txb.person_text(person), failed_job_start.changes, failed_job_start.to_topic)
  RETURNING o.* INTO j;
  served := txb.failed_job_served(j.group_name);
  PERFORM txb.failed_job_audit('failed ' || verb, j);
END
$$;
COMMENT ON FUNCTION txb.failed_job_start(text, jsonb, text, text, jsonb, text) IS
  'Starts a job that retries, discards, edits (changes) or copies (to_topic) the messages that a filter means now; P0002: '
  'there are none. Its steps are run by whoever calls failed_job_step, and by workers, if there are any (served)';

CREATE FUNCTION txb.failed_job_check(verb text, reason text, changes jsonb, to_topic text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  PERFORM txb.word_check('verb', coalesce(verb, ''), '{retry,discard,edit,copy}');
  IF verb = 'discard' AND coalesce(reason, '') !~ '\S' THEN
    RAISE EXCEPTION 'to discard messages a reason is needed' USING ERRCODE = '22023';
  END IF;
  IF verb = 'edit' THEN
    PERFORM txb.failed_changes_check(changes);
  ELSIF changes IS NOT NULL THEN
    RAISE EXCEPTION 'changes are for the verb edit, not for %', verb USING ERRCODE = '22023';
  END IF;
  IF verb = 'copy' THEN
    PERFORM txb.failed_copy_check(to_topic);
  ELSIF to_topic IS NOT NULL THEN
    RAISE EXCEPTION 'a topic is for the verb copy, not for %', verb USING ERRCODE = '22023';
  END IF;
END
$$;
COMMENT ON FUNCTION txb.failed_job_check(text, text, jsonb, text) IS 'Raises what stands against a job of that kind';

-- What is done with one message. A discard and an edit are final, and a job may come to a message long after it was
-- started: who has asked for another try meanwhile is not overruled by what somebody wanted before.
CREATE FUNCTION txb.failed_job_one(j txb.failed_job, number bigint, who text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  why text := CASE WHEN (j).verb IN ('discard', 'edit') THEN txb.failed_asked_since(number, (j).created_at) END;
BEGIN
  IF why IS NOT NULL THEN
    RETURN why;
  END IF;
  CASE (j).verb
    WHEN 'retry' THEN SELECT o.why INTO why FROM txb.failed_retry_one(number, who, (j).reason) AS o;
    WHEN 'discard' THEN SELECT o.why INTO why FROM txb.failed_discard_one(number, who, (j).reason) AS o;
    WHEN 'edit' THEN SELECT o.why INTO why FROM txb.failed_change_one(number, (j).changes, who, (j).reason) AS o;
    WHEN 'copy' THEN SELECT o.why INTO why FROM txb.failed_copy_one(number, (j).to_topic, who, (j).reason) AS o;
  END CASE;
  RETURN why;
END
$$;
COMMENT ON FUNCTION txb.failed_job_one(txb.failed_job, bigint, text) IS
  'Does what a job is for with one of its messages, which is locked; why not, null: it is done';

CREATE OR REPLACE FUNCTION txb.failed_job_decide(j txb.failed_job, next txb.failed_job_part, runner text)
RETURNS txb.failed_job
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  who text := (j).created_by || coalesce(' (' || (j).os_user || ')', '');
  one bigint;
  why text;
  changed bigint[] := '{}';
  told jsonb := (j).refused;
  result txb.failed_job;
BEGIN
  FOREACH one IN ARRAY next.numbers LOOP
    why := txb.failed_job_one(j, one, who);
    IF why IS NULL THEN
      changed := changed || one;
    ELSIF jsonb_array_length(told) < 10 THEN
      told := told || jsonb_build_object('number', one, 'why', why);
    END IF;
  END LOOP;
  IF j.verb <> 'copy' THEN
    PERFORM txb.failed_noticed(changed);
  END IF;
  DELETE FROM txb.failed_job_part AS p WHERE p.job = j.number AND p.part = next.part;
  UPDATE txb.failed_job AS o
     SET done = o.done + cardinality(changed), skipped = o.skipped + cardinality(next.numbers) - cardinality(changed),
         refused = told
   WHERE o.number = j.number
  RETURNING o.* INTO result;
  IF NOT EXISTS (SELECT FROM txb.failed_job_part AS p WHERE p.job = j.number) THEN
    UPDATE txb.failed_job AS o
       SET state = 'done', state_at = clock_timestamp(), state_by = runner, changes = txb.failed_changes_shown(o.changes)
     WHERE o.number = j.number
    RETURNING o.* INTO result;
    PERFORM txb.failed_job_audit(format('failed %s done', j.verb), result);
  END IF;
  RETURN result;
END
$$;

CREATE OR REPLACE FUNCTION txb.failed_job_step(number bigint, person text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  j txb.failed_job := txb.failed_job_lock(failed_job_step.number);
  next txb.failed_job_part;
BEGIN
  IF j.state = 'running' THEN
    next := txb.failed_job_next(j.number); -- a statement after the lock: what it shows is this step's
    IF j.verb = 'copy' THEN
      PERFORM txb.failed_copy_lock(next.numbers);
    ELSE
      PERFORM txb.failed_lock(next.numbers);
    END IF;
    j := txb.failed_job_decide(j, next, txb.person_text(person));
  END IF;
  RETURN txb.failed_job_document(j);
END
$$;

CREATE OR REPLACE FUNCTION txb.failed_job_work(group_name text, owner text)
RETURNS TABLE (number bigint, verb text, state text, done bigint, skipped bigint, messages bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp SET lock_timeout = '500ms'
AS $$
#variable_conflict use_column
DECLARE
  j txb.failed_job;
  next txb.failed_job_part;
BEGIN
  SELECT o.* INTO j FROM txb.failed_job AS o
   WHERE o.state = 'running' AND coalesce(o.group_name, failed_job_work.group_name) = failed_job_work.group_name
   ORDER BY random() LIMIT 1
     FOR UPDATE SKIP LOCKED;
  IF j.number IS NULL THEN
    RETURN;
  END IF;
  next := txb.failed_job_next(j.number);
  IF j.verb = 'copy' THEN
    PERFORM FROM txb.failed AS f WHERE f.number = ANY (next.numbers) ORDER BY f.number FOR KEY SHARE;
  ELSE
    PERFORM txb.failed_fence(next.numbers);
    -- outbox_decide would wait for five seconds.
    PERFORM FROM txb.failed AS f
      WHERE f.number = ANY (next.numbers) AND f.side = 'outbox' AND f.state = 'dead' ORDER BY f.number FOR UPDATE;
  END IF;
  j := txb.failed_job_decide(j, next, 'worker ' || failed_job_work.owner);
  RETURN QUERY SELECT j.number, j.verb, j.state, j.done, j.skipped, j.messages;
END
$$;

CREATE OR REPLACE FUNCTION txb.failed_job_cancel(number bigint, person text, reason text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  j txb.failed_job;
BEGIN
  IF coalesce(reason, '') !~ '\S' THEN
    RAISE EXCEPTION 'to cancel a job a reason is needed' USING ERRCODE = '22023';
  END IF;
  j := txb.failed_job_lock(failed_job_cancel.number);
  IF j.state <> 'running' THEN
    RAISE EXCEPTION '%', txb.failed_job_text(j) USING ERRCODE = '55000', HINT = 'It is finished: start another one.';
  END IF;
  DELETE FROM txb.failed_job_part AS p WHERE p.job = j.number;
  UPDATE txb.failed_job AS o
     SET state = 'cancelled', state_at = clock_timestamp(), state_by = txb.person_text(person),
         changes = txb.failed_changes_shown(o.changes)
   WHERE o.number = j.number;
  INSERT INTO txb.audit (person, action, filter, matched, changed, reason)
  VALUES (nullif(failed_job_cancel.person, ''), 'failed cancel', j.filter || jsonb_build_object('job', j.number),
          j.messages, j.done, left(failed_job_cancel.reason, 1000));
END
$$;

CREATE FUNCTION txb.failed_job_running() RETURNS TABLE (number bigint, job jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT j.number, txb.failed_job_document(j) || jsonb_build_object('served', txb.failed_job_served(j.group_name))
    FROM txb.failed_job AS j WHERE j.state = 'running' ORDER BY j.number
$$;
COMMENT ON FUNCTION txb.failed_job_running() IS
  'Jobs about failed messages that are not over, the oldest first, each with whether a worker is there to go on with it';

GRANT EXECUTE ON FUNCTION
  txb.failed_edit_many(bigint[], jsonb, text, text, jsonb),
  txb.failed_copy(bigint[], text, text, text, jsonb),
  txb.failed_job_start(text, jsonb, text, text, jsonb, text)
TO txb_admin;
GRANT EXECUTE ON FUNCTION txb.failed_job_running(), txb.failed_changes_check(jsonb) TO txb_reader, txb_admin;

RESET ROLE;
