-- Decisions about many failed messages, as jobs: what `txbroker failed retry` and `discard` do when more are meant than one
-- transaction takes.
--
--   txb.failed_job_start(verb text, filter jsonb, reason text, person text, out number bigint, out messages bigint)
--   txb.failed_job_step(number bigint, person text) returns jsonb   one step, for a command; the job as of failed_job_list
--   txb.failed_job_work(group_name text, owner text) returns table  one step of whichever job is free, for a worker
--   txb.failed_job_open(group_name text) returns boolean            whether there may be something for that
--   txb.failed_job_cancel(number bigint, person text, reason text) returns void
--   txb.failed_job_list(after bigint = null, page int = 50) returns table (number bigint, job jsonb)
--   txb.failed_retry(...), txb.failed_discard(...)                  as before, described in 0012
--
-- A job is about the messages that its filter meant when it started: their numbers are written down, in parts of 500 at
-- most. What fails later, or comes into one of the filter's states later, is not among them: nobody was asked about it.
--
-- A part is of one partition, so a step waits for the batches of that one only: one that needed many would hardly ever
-- find all of them free. It locks the job, then the partition's position, as every decision does (0012), and takes the part away in the same transaction: a crash before its commit leaves the step undone, after it
-- done, and whoever steps next goes on from there. The lock on the job's row is the lease: it ends with the session.

SET LOCAL ROLE txb_owner;

-- Numbers are those of replay jobs too: one number, one job.
CREATE TABLE txb.failed_job (
  number bigint NOT NULL DEFAULT nextval('txb.job_number_seq') CONSTRAINT failed_job_number PRIMARY KEY,
  state text NOT NULL DEFAULT 'running' CONSTRAINT failed_job_state CHECK (state IN ('running', 'cancelled', 'done')),
  verb text NOT NULL CONSTRAINT failed_job_verb CHECK (verb IN ('retry', 'discard')),
  group_name text COLLATE "C",
  filter jsonb NOT NULL,
  reason text,
  messages bigint NOT NULL CONSTRAINT failed_job_messages CHECK (messages > 0),
  done bigint NOT NULL DEFAULT 0,
  skipped bigint NOT NULL DEFAULT 0,
  refused jsonb NOT NULL DEFAULT '[]',
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  created_by text NOT NULL DEFAULT session_user,
  os_user text,
  state_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  state_by text NOT NULL,
  CONSTRAINT failed_job_counts CHECK (CASE state WHEN 'done' THEN done + skipped = messages
                                                 ELSE done + skipped <= messages END)
) WITH (fillfactor = 50);
CREATE INDEX failed_job_open ON txb.failed_job (number) WHERE state = 'running';
COMMENT ON TABLE txb.failed_job IS 'Jobs that decide about many failed messages';
COMMENT ON COLUMN txb.failed_job.number IS 'Identity; no replay job has the same';
COMMENT ON COLUMN txb.failed_job.state IS 'running, cancelled (what is done stays done), done';
COMMENT ON COLUMN txb.failed_job.verb IS 'retry or discard';
COMMENT ON COLUMN txb.failed_job.group_name IS
  'The filter''s group, whose workers go on with it; null: any worker of this database';
COMMENT ON COLUMN txb.failed_job.filter IS 'Which messages were meant, as of txb.failed_find';
COMMENT ON COLUMN txb.failed_job.reason IS 'Why';
COMMENT ON COLUMN txb.failed_job.messages IS 'How many the filter meant when the job started';
COMMENT ON COLUMN txb.failed_job.done IS 'How many of them were changed';
COMMENT ON COLUMN txb.failed_job.skipped IS
  'How many could not be: somebody else had decided since the start, or they were applied meanwhile';
COMMENT ON COLUMN txb.failed_job.refused IS 'The first ten of those: number and why';
COMMENT ON COLUMN txb.failed_job.created_at IS 'When it was started';
COMMENT ON COLUMN txb.failed_job.created_by IS 'The database role that started it';
COMMENT ON COLUMN txb.failed_job.os_user IS 'The operating system''s user, as the program told it';
COMMENT ON COLUMN txb.failed_job.state_at IS 'When the state was reached';
COMMENT ON COLUMN txb.failed_job.state_by IS 'Who made it so: database role and system user, or a worker';
COMMENT ON CONSTRAINT failed_job_number ON txb.failed_job IS 'Identity';
COMMENT ON INDEX txb.failed_job_number IS 'Identity';
COMMENT ON CONSTRAINT failed_job_state ON txb.failed_job IS 'state: running, cancelled or done';
COMMENT ON CONSTRAINT failed_job_verb ON txb.failed_job IS 'verb: retry or discard';
COMMENT ON CONSTRAINT failed_job_messages ON txb.failed_job IS 'A job is about at least one message';
COMMENT ON CONSTRAINT failed_job_counts ON txb.failed_job IS 'Each message is counted once; all of them when it is done';
COMMENT ON INDEX txb.failed_job_open IS 'Those that are not over: every worker asks for them once a second';

CREATE TABLE txb.failed_job_part (
  job bigint NOT NULL,
  part int NOT NULL,
  numbers bigint[] NOT NULL CONSTRAINT failed_job_part_size CHECK (cardinality(numbers) BETWEEN 1 AND 500),
  CONSTRAINT failed_job_part_number PRIMARY KEY (job, part)
);
COMMENT ON TABLE txb.failed_job_part IS 'What a job has still to decide about: a row a step, taken away by it';
COMMENT ON COLUMN txb.failed_job_part.job IS 'The job, in txb.failed_job';
COMMENT ON COLUMN txb.failed_job_part.part IS 'The order of the steps';
COMMENT ON COLUMN txb.failed_job_part.numbers IS 'Numbers of txb.failed, in order';
COMMENT ON CONSTRAINT failed_job_part_size ON txb.failed_job_part IS 'numbers: 1 to 500, one transaction''s';
COMMENT ON CONSTRAINT failed_job_part_number ON txb.failed_job_part IS 'One row a step';
COMMENT ON INDEX txb.failed_job_part_number IS 'One row a step';

-- ---- one message ----------------------------------------------------------------------------------------------------

CREATE FUNCTION txb.failed_fence(numbers bigint[]) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT FROM txb.consumer_offset AS c
   WHERE (c.group_name, c.topic, c.partition) IN (SELECT f.group_name, f.topic, f.partition FROM txb.failed AS f
                                                   WHERE f.number = ANY (numbers) AND f.side = 'consumer')
   ORDER BY c.group_name, c.topic, c.partition
   FOR UPDATE
$$;
COMMENT ON FUNCTION txb.failed_fence(bigint[]) IS
  'Locks the positions of these messages'' partitions in their order, with the lock_timeout of who calls it';

CREATE OR REPLACE FUNCTION txb.failed_lock(numbers bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp SET lock_timeout = '5s'
AS $$
BEGIN
  IF numbers IS NULL OR cardinality(numbers) NOT BETWEEN 1 AND 10000 OR array_position(numbers, NULL) IS NOT NULL THEN
    RAISE EXCEPTION 'give the numbers of 1 to 10000 failed messages' USING ERRCODE = '22023';
  END IF;
  PERFORM txb.failed_fence(numbers);
EXCEPTION WHEN lock_not_available THEN
  RAISE EXCEPTION 'a batch of that partition is under way for more than five seconds: nothing was changed; try again'
    USING ERRCODE = '55P03';
END
$$;

CREATE FUNCTION txb.failed_retry_one(number bigint, who text, reason text, OUT state text, OUT why text)
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  f txb.failed := txb.failed_read(failed_retry_one.number);
  last txb.failed_history;
BEGIN
  SELECT * INTO last FROM txb.failed_history AS h
   WHERE h.number = failed_retry_one.number ORDER BY h.at DESC LIMIT 1;
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
COMMENT ON FUNCTION txb.failed_retry_one(bigint, text, text) IS
  'Makes a message whose partition is locked due now; its state afterwards, and why nothing was done (null: it was)';

CREATE FUNCTION txb.failed_discard_one(number bigint, who text, reason text, OUT state text, OUT why text)
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  f txb.failed := txb.failed_read(failed_discard_one.number);
BEGIN
  state := f.state;
  IF f.number IS NULL THEN
    why := 'does not exist';
  ELSIF f.state IN ('resolved', 'discarded') THEN
    why := txb.failed_closed_text(f);
  ELSIF f.side = 'outbox' THEN
    why := txb.outbox_decide(f.number, 'discard', NULL, NULL, NULL, who, reason);
  ELSE
    PERFORM txb.failed_close(f, 'discarded', 'discarded', NULL);
    PERFORM txb.failed_note(f.number, 'discard', 'discarded', who, reason);
  END IF;
  IF why IS NULL THEN
    state := (SELECT t.state FROM txb.failed AS t WHERE t.number = f.number);
  END IF;
END
$$;
COMMENT ON FUNCTION txb.failed_discard_one(bigint, text, text) IS
  'Gives a message whose partition is locked up; its state afterwards, and why nothing was done (null: it was)';

CREATE FUNCTION txb.failed_noticed(changed bigint[]) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, txb, pg_temp
AS $$
  UPDATE txb.consumer_offset AS c SET keys_version = c.keys_version + 1
    FROM (SELECT DISTINCT f.group_name, f.topic, f.partition FROM txb.failed AS f
           WHERE f.number = ANY (changed) AND f.side = 'consumer') AS p
   WHERE c.group_name = p.group_name AND c.topic = p.topic AND c.partition = p.partition
$$;
COMMENT ON FUNCTION txb.failed_noticed(bigint[]) IS 'The workers of the partitions of what was changed notice';

CREATE OR REPLACE FUNCTION txb.failed_decided(action text, numbers bigint[], changed bigint[], person text, reason text,
                                              filter jsonb) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT txb.failed_noticed(changed);
  INSERT INTO txb.audit (person, action, filter, matched, changed, reason)
  VALUES (nullif(failed_decided.person, ''), failed_decided.action,
          coalesce(failed_decided.filter, jsonb_build_object('numbers', failed_decided.numbers)),
          cardinality(numbers), cardinality(failed_decided.changed), nullif(failed_decided.reason, ''))
$$;

CREATE OR REPLACE FUNCTION txb.failed_retry(numbers bigint[], person text, reason text DEFAULT NULL,
                                            filter jsonb DEFAULT NULL)
RETURNS TABLE (number bigint, done boolean, state text, why text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  wanted bigint[] := ARRAY(SELECT DISTINCT n FROM unnest(numbers) AS n ORDER BY n);
  changed bigint[] := '{}';
  who text := txb.person_text(person);
BEGIN
  PERFORM txb.failed_lock(numbers);
  FOREACH number IN ARRAY wanted LOOP
    SELECT o.state, o.why INTO state, why FROM txb.failed_retry_one(failed_retry.number, who, reason) AS o;
    done := why IS NULL;
    changed := CASE WHEN done THEN changed || number ELSE changed END;
    RETURN NEXT;
  END LOOP;
  PERFORM txb.failed_decided('failed retry', wanted, changed, person, reason, filter);
END
$$;

CREATE OR REPLACE FUNCTION txb.failed_discard(numbers bigint[], person text, reason text, filter jsonb DEFAULT NULL)
RETURNS TABLE (number bigint, done boolean, state text, why text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  wanted bigint[] := ARRAY(SELECT DISTINCT n FROM unnest(numbers) AS n ORDER BY n);
  changed bigint[] := '{}';
  who text := txb.person_text(person);
BEGIN
  IF coalesce(reason, '') !~ '\S' THEN
    RAISE EXCEPTION 'to discard a message a reason is needed' USING ERRCODE = '22023';
  END IF;
  PERFORM txb.failed_lock(numbers);
  FOREACH number IN ARRAY wanted LOOP
    SELECT o.state, o.why INTO state, why FROM txb.failed_discard_one(failed_discard.number, who, reason) AS o;
    done := why IS NULL;
    changed := CASE WHEN done THEN changed || number ELSE changed END;
    RETURN NEXT;
  END LOOP;
  PERFORM txb.failed_decided('failed discard', wanted, changed, person, reason, filter);
END
$$;

-- ---- jobs -----------------------------------------------------------------------------------------------------------

CREATE FUNCTION txb.failed_job_text(j txb.failed_job) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT format('job %s is %s since %s: %s', (j).number, (j).state, txb.time_text((j).state_at), (j).state_by)
$$;
COMMENT ON FUNCTION txb.failed_job_text(txb.failed_job) IS 'A job''s state for a person: since when, by whom';

CREATE FUNCTION txb.failed_job_document(j txb.failed_job) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT to_jsonb(j) || jsonb_build_object('left', CASE (j).state WHEN 'running' THEN (j).messages - (j).done - (j).skipped
                                                                  ELSE 0 END,
                                           'age_ms', -txb.due_ms((j).created_at), 'state_age_ms', -txb.due_ms((j).state_at))
$$;
COMMENT ON FUNCTION txb.failed_job_document(txb.failed_job) IS 'A job as JSON';

-- A row at the start, and one at the end, whose changed is all that the job has changed: as the person who started it, since
-- whoever runs the steps decides nothing.
CREATE FUNCTION txb.failed_job_audit(action text, j txb.failed_job) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, txb, pg_temp
AS $$
  INSERT INTO txb.audit (role, person, action, filter, matched, changed, reason)
  VALUES ((j).created_by, (j).os_user, failed_job_audit.action, (j).filter || jsonb_build_object('job', (j).number),
          (j).messages, (j).done, (j).reason)
$$;
COMMENT ON FUNCTION txb.failed_job_audit(text, txb.failed_job) IS 'An audit row about a job, in the name of who started it';

CREATE FUNCTION txb.failed_job_start(verb text, filter jsonb, reason text, person text, OUT number bigint, OUT messages bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, txb, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off
AS $$
DECLARE
  p txb.failed_filter := txb.failed_filter_of(filter);
  j txb.failed_job;
BEGIN
  PERFORM txb.word_check('verb', coalesce(verb, ''), '{retry,discard}');
  IF verb = 'discard' AND coalesce(reason, '') !~ '\S' THEN
    RAISE EXCEPTION 'to discard messages a reason is needed' USING ERRCODE = '22023';
  END IF;
  number := nextval('txb.job_number_seq');
  WITH meant AS (
    SELECT f.number, dense_rank() OVER (ORDER BY f.group_name, f.topic, f.partition) AS place,
           (row_number() OVER (PARTITION BY f.group_name, f.topic, f.partition ORDER BY f.number) - 1) / 500 AS chunk
      FROM txb.failed_matching(p) AS f
  ), parts AS (
    INSERT INTO txb.failed_job_part AS n (job, part, numbers)
    SELECT failed_job_start.number, row_number() OVER (ORDER BY min(m.number)), array_agg(m.number ORDER BY m.number)
      FROM meant AS m GROUP BY m.place, m.chunk
    RETURNING n.numbers
  )
  SELECT sum(cardinality(n.numbers)) INTO messages FROM parts AS n;
  IF messages IS NULL THEN
    RAISE EXCEPTION 'no failed message is like that' USING ERRCODE = 'P0002';
  END IF;
  INSERT INTO txb.failed_job AS o (number, verb, group_name, filter, reason, messages, os_user, state_by)
  VALUES (failed_job_start.number, failed_job_start.verb, p.group_name, failed_job_start.filter,
          left(nullif(failed_job_start.reason, ''), 1000), failed_job_start.messages, nullif(person, ''),
          txb.person_text(person))
  RETURNING o.* INTO j;
  PERFORM txb.failed_job_audit('failed ' || verb, j);
END
$$;
COMMENT ON FUNCTION txb.failed_job_start(text, jsonb, text, text) IS
  'Starts a job that retries or discards the messages that a filter means now; P0002: there are none. Its steps are run by '
  'whoever calls failed_job_step, and by workers';

-- A discard is final, and a job may come to a message long after it was started: who has asked for another try meanwhile is
-- not overruled by what somebody wanted before. (A retry after a retry is refused by failed_retry_one.)
CREATE FUNCTION txb.failed_asked_since(number bigint, since timestamptz) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT format('is to be tried again: %s asked for it at %s, after the job was started', coalesce(h.who, 'somebody'),
                txb.time_text(h.at))
    FROM txb.failed_history AS h
   WHERE h.number = failed_asked_since.number AND h.event = 'retry' AND h.at > since
   ORDER BY h.at DESC LIMIT 1
$$;
COMMENT ON FUNCTION txb.failed_asked_since(bigint, timestamptz) IS
  'Who has asked for another try of a message since then, for a person; null: nobody';

-- With the job and the position of its next part locked. A crash before the commit leaves the part to be decided about;
-- after it, it is gone, and so is each message's place in the job.
CREATE FUNCTION txb.failed_job_decide(j txb.failed_job, next txb.failed_job_part, runner text) RETURNS txb.failed_job
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
    why := CASE j.verb WHEN 'retry' THEN (SELECT o.why FROM txb.failed_retry_one(one, who, j.reason) AS o)
                       ELSE txb.failed_asked_since(one, j.created_at) END;
    IF j.verb = 'discard' AND why IS NULL THEN
      why := (SELECT o.why FROM txb.failed_discard_one(one, who, j.reason) AS o);
    END IF;
    IF why IS NULL THEN
      changed := changed || one;
    ELSIF jsonb_array_length(told) < 10 THEN
      told := told || jsonb_build_object('number', one, 'why', why);
    END IF;
  END LOOP;
  PERFORM txb.failed_noticed(changed);
  DELETE FROM txb.failed_job_part AS p WHERE p.job = j.number AND p.part = next.part;
  UPDATE txb.failed_job AS o
     SET done = o.done + cardinality(changed), skipped = o.skipped + cardinality(next.numbers) - cardinality(changed),
         refused = told
   WHERE o.number = j.number
  RETURNING o.* INTO result;
  IF NOT EXISTS (SELECT FROM txb.failed_job_part AS p WHERE p.job = j.number) THEN
    UPDATE txb.failed_job AS o SET state = 'done', state_at = clock_timestamp(), state_by = runner
     WHERE o.number = j.number
    RETURNING o.* INTO result;
    PERFORM txb.failed_job_audit(format('failed %s done', j.verb), result);
  END IF;
  RETURN result;
END
$$;
COMMENT ON FUNCTION txb.failed_job_decide(txb.failed_job, txb.failed_job_part, text) IS
  'Carries one part of a job out, in the name of who started it, and ends the job with its last; with all of that locked';

CREATE FUNCTION txb.failed_job_lock(number bigint) RETURNS txb.failed_job
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp SET lock_timeout = '5s'
AS $$
DECLARE
  j txb.failed_job;
BEGIN
  SELECT o.* INTO j FROM txb.failed_job AS o WHERE o.number = failed_job_lock.number FOR UPDATE;
  IF j.number IS NULL THEN
    RAISE EXCEPTION 'there is no job % about failed messages', coalesce(failed_job_lock.number::text, 'null')
      USING ERRCODE = 'P0002', HINT = 'txbroker failed jobs shows those of this database.';
  END IF;
  RETURN j;
EXCEPTION WHEN lock_not_available THEN
  RAISE EXCEPTION 'a step of job % is under way for more than five seconds: nothing was changed; try again',
    failed_job_lock.number USING ERRCODE = '55P03';
END
$$;
COMMENT ON FUNCTION txb.failed_job_lock(bigint) IS 'A job, locked; P0002: there is none';

CREATE FUNCTION txb.failed_job_next(job bigint) RETURNS txb.failed_job_part
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT p.* FROM txb.failed_job_part AS p WHERE p.job = failed_job_next.job ORDER BY p.part LIMIT 1
$$;
COMMENT ON FUNCTION txb.failed_job_next(bigint) IS 'The part of a job that is next';

CREATE FUNCTION txb.failed_job_step(number bigint, person text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  j txb.failed_job := txb.failed_job_lock(failed_job_step.number);
  next txb.failed_job_part;
BEGIN
  IF j.state = 'running' THEN
    next := txb.failed_job_next(j.number); -- a statement after the lock: what it shows is this step's
    PERFORM txb.failed_lock(next.numbers);
    j := txb.failed_job_decide(j, next, txb.person_text(person));
  END IF;
  RETURN txb.failed_job_document(j);
END
$$;
COMMENT ON FUNCTION txb.failed_job_step(bigint, text) IS
  'One step of a job that is running, 500 messages at most, and the job as it is then; waits for another''s step. P0002: '
  'there is none; 55P03: a batch is under way for long, try again';

CREATE FUNCTION txb.failed_job_open(group_name text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT EXISTS (SELECT FROM txb.failed_job AS j
                  WHERE j.state = 'running' AND coalesce(j.group_name, failed_job_open.group_name) = failed_job_open.group_name)
$$;
COMMENT ON FUNCTION txb.failed_job_open(text) IS 'Whether a worker of that group has jobs about failed messages to go on with';

-- A worker's batches wait while it waits here, so it gives up soon: 55P03, and the step is undone. Any of the jobs: one
-- whose steps fail again and again must not keep the others waiting.
CREATE FUNCTION txb.failed_job_work(group_name text, owner text)
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
  PERFORM txb.failed_fence(next.numbers);
  -- outbox_decide would wait for five seconds.
  PERFORM FROM txb.failed AS f
    WHERE f.number = ANY (next.numbers) AND f.side = 'outbox' AND f.state = 'dead' ORDER BY f.number FOR UPDATE;
  j := txb.failed_job_decide(j, next, 'worker ' || failed_job_work.owner);
  RETURN QUERY SELECT j.number, j.verb, j.state, j.done, j.skipped, j.messages;
END
$$;
COMMENT ON FUNCTION txb.failed_job_work(text, text) IS
  'One step of one of the jobs that a worker of that group may run and that nobody else is at; no row: there is none. '
  '55P03: a batch is under way, or somebody decides about the same, nothing was changed';

CREATE FUNCTION txb.failed_job_cancel(number bigint, person text, reason text) RETURNS void
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
  UPDATE txb.failed_job AS o SET state = 'cancelled', state_at = clock_timestamp(), state_by = txb.person_text(person)
   WHERE o.number = j.number;
  INSERT INTO txb.audit (person, action, filter, matched, changed, reason)
  VALUES (nullif(failed_job_cancel.person, ''), 'failed cancel', j.filter || jsonb_build_object('job', j.number),
          j.messages, j.done, left(failed_job_cancel.reason, 1000));
END
$$;
COMMENT ON FUNCTION txb.failed_job_cancel(bigint, text, text) IS
  'Ends a job, for a reason: what is done stays done, the rest is left as it is. 55000 says who was first';

CREATE FUNCTION txb.failed_job_list(after bigint DEFAULT NULL, page int DEFAULT 50)
RETURNS TABLE (number bigint, job jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
BEGIN
  IF page IS NULL OR page NOT BETWEEN 1 AND 10000 THEN
    RAISE EXCEPTION 'a page has 1 to 10000 jobs, not %', coalesce(page::text, 'null') USING ERRCODE = '22023';
  END IF;
  RETURN QUERY
  SELECT j.number, txb.failed_job_document(j) FROM txb.failed_job AS j
   WHERE after IS NULL OR j.number < after ORDER BY j.number DESC LIMIT page;
END
$$;
COMMENT ON FUNCTION txb.failed_job_list(bigint, int) IS
  'Jobs about failed messages, the newest first, a page after a number: what they were given, their state and counts';

REVOKE ALL ON TYPE txb.failed_job, txb.failed_job_part FROM PUBLIC;
GRANT SELECT ON txb.failed_job, txb.failed_job_part TO txb_reader;
GRANT EXECUTE ON FUNCTION
  txb.failed_job_start(text, jsonb, text, text),
  txb.failed_job_step(bigint, text),
  txb.failed_job_cancel(bigint, text, text)
TO txb_admin;
GRANT EXECUTE ON FUNCTION txb.failed_job_list(bigint, int) TO txb_reader, txb_admin;
GRANT EXECUTE ON FUNCTION txb.failed_job_open(text), txb.failed_job_work(text, text) TO txb_worker;

RESET ROLE;
