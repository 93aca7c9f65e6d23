-- The consumer's side: progress per partition, the fence of every batch, what handlers get and answer.
--
--   txb.offset_register(group_name text, topic text, partitions int[], offsets bigint[], cluster_id text)
--       returns int (rows made)
--   txb.offset_take(group_name text, topic text, partition int, owner text, instance uuid, cluster_id text)
--       returns one row, the position and what is open, or none: there is no position yet
--   txb.offset_pass(group_name text, topic text, partition int, epoch bigint, expected_next bigint, new_next bigint)
--       returns void: nothing for the group lies between
--   txb.offset_release(group_name text, topic text, partition int, epoch bigint) returns boolean
--   txb.offset_evict(group_name text, topic text, partition int) returns int (pid)
--       ends the backend of a stopped owner (W3)
--   txb.offset_set(group_name text, topic text, partition int, next_offset bigint, cluster_id text, reason text)
--       returns bigint (epoch): the operator's decision
--   txb.batch_open(group_name text, topic text, partition int, epoch bigint, expected_next bigint, new_next bigint,
--                  consumed int, last_id uuid, last_timestamp_ms bigint) returns void
--   txb.batch_close(group_name text, topic text, partition int, applied int, duplicate int, failed int = 0)
--       returns void
--   txb.batch_stall(group_name text, topic text, partition int, epoch bigint, stalled_offset bigint, attempts int,
--                   delay_ms bigint, last_outcome text, last_error text, last_sqlstate text, keep_suspect boolean)
--       returns void
--   txb.suspect_mark(group_name text, topic text, partition int, epoch bigint, suspect_offset bigint,
--                    suspect_count int) returns int (deaths)
--   txb.not_ok(message_offset bigint, answer txb.outcome) returns bigint: raises TXB02
--   txb.ok([output jsonb]), txb.refuse(reason text), txb.retry(after interval, reason text), txb.dead(reason text)
--       returns txb.outcome
--
-- SQLSTATEs: TXB01 the compare-and-set missed: another owner, or another position; roll back and ask the group (W4).
-- TXB02 an outcome other than ok, raised by the worker's statement. TXB03 a commit while a batch is open (W11). TXB04
-- the position can't be used as it is: another cluster, an unknown topic.
--
-- A batch is one transaction: batch_open moves next_offset and locks the row, then come inbox and effects, then
-- batch_close. Committed: all of it, and next_offset tells so. Anything else: none of it, and the batch is fetched
-- again from next_offset.

SET LOCAL ROLE txb_owner;

CREATE TYPE txb.message AS (
  source text,
  id uuid,
  topic text,
  partition int,
  "offset" bigint,
  key bytea,
  type text,
  "time" timestamptz,
  payload bytea,
  content_type text,
  headers jsonb,
  attempt int
);
COMMENT ON TYPE txb.message IS 'What a handler gets. The key as bytes: txb.key_text((m).key) shows it';
COMMENT ON COLUMN txb.message.source IS 'CloudEvents source; null for a message without CloudEvents headers';
COMMENT ON COLUMN txb.message.id IS 'Message id, UUIDv7; a foreign message''s is derived (W7)';
COMMENT ON COLUMN txb.message.topic IS 'Kafka topic';
COMMENT ON COLUMN txb.message.partition IS 'Kafka partition';
COMMENT ON COLUMN txb.message."offset" IS 'Kafka offset';
COMMENT ON COLUMN txb.message.key IS 'The key as bytes; null: none';
COMMENT ON COLUMN txb.message.type IS 'CloudEvents type';
COMMENT ON COLUMN txb.message."time" IS 'CloudEvents time, else the record''s';
COMMENT ON COLUMN txb.message.payload IS 'The value as it lies in Kafka; null: none';
COMMENT ON COLUMN txb.message.content_type IS 'Media type of the payload';
COMMENT ON COLUMN txb.message.headers IS 'The other headers; a value that is not text is {"base64": "..."}';
COMMENT ON COLUMN txb.message.attempt IS '1: the first';

CREATE TYPE txb.outcome AS (outcome text, output jsonb, reason text, after interval);
COMMENT ON TYPE txb.outcome IS 'What a handler answers; made by txb.ok, txb.refuse, txb.retry, txb.dead';
COMMENT ON COLUMN txb.outcome.outcome IS 'ok, refuse (a business no, final), retry (not now), dead (never)';
COMMENT ON COLUMN txb.outcome.output IS 'ok: what the step gives back';
COMMENT ON COLUMN txb.outcome.reason IS 'Why not';
COMMENT ON COLUMN txb.outcome.after IS 'retry: not before this; null: by the policy';

CREATE FUNCTION txb.ok(output jsonb DEFAULT NULL) RETURNS txb.outcome
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ROW('ok', output, NULL, NULL)::txb.outcome;
COMMENT ON FUNCTION txb.ok(jsonb) IS 'The message is applied';

CREATE FUNCTION txb.refuse(reason text) RETURNS txb.outcome
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ROW('refuse', NULL, reason, NULL)::txb.outcome;
COMMENT ON FUNCTION txb.refuse(text) IS 'A business no: final';

CREATE FUNCTION txb.retry(after interval DEFAULT NULL, reason text DEFAULT NULL) RETURNS txb.outcome
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ROW('retry', NULL, reason, after)::txb.outcome;
COMMENT ON FUNCTION txb.retry(interval, text) IS 'Not now; again after a while';

CREATE FUNCTION txb.dead(reason text) RETURNS txb.outcome
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ROW('dead', NULL, reason, NULL)::txb.outcome;
COMMENT ON FUNCTION txb.dead(text) IS 'Never';

CREATE TABLE txb.consumer_offset (
  group_name text COLLATE "C" CONSTRAINT consumer_offset_group CHECK (octet_length(group_name) BETWEEN 1 AND 255),
  topic text COLLATE "C",
  partition int CONSTRAINT consumer_offset_partition CHECK (partition >= 0),
  next_offset bigint NOT NULL CONSTRAINT consumer_offset_next CHECK (next_offset >= 0),
  epoch bigint NOT NULL,
  cluster_id text,
  owner text,
  instance uuid,
  backend_pid int,
  last_id uuid,
  last_timestamp_ms bigint,
  last_offset bigint,
  busy boolean NOT NULL DEFAULT false,
  taken_offset bigint,
  taken_at timestamptz,
  suspect_offset bigint,
  suspect_count int NOT NULL DEFAULT 0,
  suspect_marked boolean NOT NULL DEFAULT false,
  suspect_deaths int NOT NULL DEFAULT 0,
  consumed bigint NOT NULL DEFAULT 0,
  applied bigint NOT NULL DEFAULT 0,
  duplicate bigint NOT NULL DEFAULT 0,
  failed bigint NOT NULL DEFAULT 0,
  stalled_offset bigint,
  stalled_since timestamptz,
  attempts int NOT NULL DEFAULT 0,
  next_attempt_at timestamptz,
  last_error text,
  last_sqlstate text,
  last_outcome text,
  batch_open boolean NOT NULL DEFAULT false,
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT consumer_offset_key PRIMARY KEY (group_name, topic, partition),
  CONSTRAINT consumer_offset_balance CHECK (batch_open OR consumed = applied + duplicate + failed)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE txb.consumer_offset IS
  'The truth about progress: where each group stands in each partition, and the fence that every batch locks first. '
  'The offsets in Kafka are a copy';
COMMENT ON COLUMN txb.consumer_offset.group_name IS 'Kafka consumer group';
COMMENT ON COLUMN txb.consumer_offset.topic IS 'Kafka topic';
COMMENT ON COLUMN txb.consumer_offset.partition IS 'Kafka partition';
COMMENT ON COLUMN txb.consumer_offset.next_offset IS 'Every message below it has been consumed';
COMMENT ON COLUMN txb.consumer_offset.epoch IS 'Fencing token: grows with every owner';
COMMENT ON COLUMN txb.consumer_offset.cluster_id IS 'Kafka cluster that the offsets belong to';
COMMENT ON COLUMN txb.consumer_offset.owner IS 'Worker that took the partition last; null: it gave it back';
COMMENT ON COLUMN txb.consumer_offset.instance IS
  'Which life of that worker: the same one that comes back has not died (W10)';
COMMENT ON COLUMN txb.consumer_offset.backend_pid IS
  'Server process of its connection: a successor blocked by it may end it (W3)';
COMMENT ON COLUMN txb.consumer_offset.last_id IS
  'Id of the last message consumed, compared with Kafka''s at assignment (W9)';
COMMENT ON COLUMN txb.consumer_offset.last_timestamp_ms IS 'Its record timestamp (W9)';
COMMENT ON COLUMN txb.consumer_offset.last_offset IS
  'Its offset: below next_offset - 1 where the end of Kafka transactions follows it (W9)';
COMMENT ON COLUMN txb.consumer_offset.busy IS 'Taken and not given back in good order (W10)';
COMMENT ON COLUMN txb.consumer_offset.taken_offset IS
  'next_offset when the owner took it: busy at an unmoved offset means go carefully (W10)';
COMMENT ON COLUMN txb.consumer_offset.taken_at IS 'When it did';
COMMENT ON COLUMN txb.consumer_offset.suspect_offset IS
  'The first message of those that run, or ran last, under a committed marker (W10)';
COMMENT ON COLUMN txb.consumer_offset.suspect_count IS 'How many they are';
COMMENT ON COLUMN txb.consumer_offset.suspect_marked IS 'The marker is out: whoever dies now died under it';
COMMENT ON COLUMN txb.consumer_offset.suspect_deaths IS
  'How often an owner died while that message ran alone under its marker';
COMMENT ON COLUMN txb.consumer_offset.consumed IS 'Messages consumed = applied + duplicate + failed (W15)';
COMMENT ON COLUMN txb.consumer_offset.applied IS 'Messages whose handler ran and whose effect is committed';
COMMENT ON COLUMN txb.consumer_offset.duplicate IS 'Messages that the inbox knew already';
COMMENT ON COLUMN txb.consumer_offset.failed IS 'Messages set aside';
COMMENT ON COLUMN txb.consumer_offset.stalled_offset IS
  'The message that could not be applied and is retried in place; null: none';
COMMENT ON COLUMN txb.consumer_offset.stalled_since IS 'Since when';
COMMENT ON COLUMN txb.consumer_offset.attempts IS 'How often it was tried';
COMMENT ON COLUMN txb.consumer_offset.next_attempt_at IS 'When it is tried again';
COMMENT ON COLUMN txb.consumer_offset.last_error IS 'Text of its last error';
COMMENT ON COLUMN txb.consumer_offset.last_sqlstate IS 'SQLSTATE of its last error';
COMMENT ON COLUMN txb.consumer_offset.last_outcome IS
  'error, crash, what its handler answered (refuse, retry, dead), or stopped: a person must decide';
COMMENT ON COLUMN txb.consumer_offset.batch_open IS
  'A batch is under way in this very transaction: never true in a committed row (W11)';
COMMENT ON COLUMN txb.consumer_offset.updated_at IS 'Last change';
COMMENT ON CONSTRAINT consumer_offset_key ON txb.consumer_offset IS 'One row per group, topic and partition';
COMMENT ON INDEX txb.consumer_offset_key IS 'One row per group, topic and partition';
COMMENT ON CONSTRAINT consumer_offset_group ON txb.consumer_offset IS 'group_name: 1 to 255 bytes';
COMMENT ON CONSTRAINT consumer_offset_partition ON txb.consumer_offset IS 'partition: not negative';
COMMENT ON CONSTRAINT consumer_offset_next ON txb.consumer_offset IS 'next_offset: not negative';
COMMENT ON CONSTRAINT consumer_offset_balance ON txb.consumer_offset IS
  'Invariant Q: consumed = applied + duplicate + failed whenever no batch is open';

-- W11. A handler that commits or rolls back by itself would leave half a batch behind. SET CONSTRAINTS can only make
-- the check come earlier.
CREATE FUNCTION txb.batch_is_closed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  PERFORM FROM txb.consumer_offset AS c
    WHERE c.group_name = NEW.group_name AND c.topic = NEW.topic AND c.partition = NEW.partition AND c.batch_open;
  IF FOUND THEN
    RAISE EXCEPTION 'txb: the transaction of an open batch can''t be committed (group %, topic %, partition %)',
      NEW.group_name, NEW.topic, NEW.partition
      USING ERRCODE = 'TXB03',
            DETAIL = 'The batch was opened by txb.batch_open and not closed by txb.batch_close.',
            HINT = 'A handler must not end the transaction that it runs in, nor say SET CONSTRAINTS ALL IMMEDIATE:'
                   ' name the constraints.';
  END IF;
  RETURN NULL;
END
$$;
COMMENT ON FUNCTION txb.batch_is_closed() IS 'Refuses the commit of a batch that was not closed (W11)';

CREATE CONSTRAINT TRIGGER batch_is_closed AFTER INSERT OR UPDATE ON txb.consumer_offset DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (NEW.batch_open) EXECUTE FUNCTION txb.batch_is_closed();
COMMENT ON TRIGGER batch_is_closed ON txb.consumer_offset IS 'Refuses the commit of a batch that was not closed (W11)';
COMMENT ON CONSTRAINT batch_is_closed ON txb.consumer_offset IS
  'Refuses the commit of a batch that was not closed (W11)';

CREATE FUNCTION txb.offset_register(group_name text, topic text, partitions int[], offsets bigint[], cluster_id text)
  RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  made int;
BEGIN
  IF cardinality(partitions) IS DISTINCT FROM cardinality(offsets) THEN
    RAISE EXCEPTION 'txb.offset_register: % partitions and % offsets', cardinality(partitions), cardinality(offsets)
      USING ERRCODE = '22023';
  END IF;
  -- Several workers of a new group may come here at once: the first one's positions stand.
  INSERT INTO txb.consumer_offset AS c (group_name, topic, partition, next_offset, epoch, cluster_id)
  SELECT offset_register.group_name, offset_register.topic, u.partition, u.next_offset, 0,
         nullif(offset_register.cluster_id, '')
    FROM unnest(partitions, offsets) AS u (partition, next_offset)
   ORDER BY u.partition
  ON CONFLICT ON CONSTRAINT consumer_offset_key DO NOTHING;
  GET DIAGNOSTICS made = ROW_COUNT;
  RETURN made;
END
$$;
COMMENT ON FUNCTION txb.offset_register(text, text, int[], bigint[], text) IS
  'Where a group begins in a topic''s partitions; positions that exist stay as they are. Returns the number made';

CREATE FUNCTION txb.offset_take(
  group_name text, topic text, partition int, owner text, instance uuid, cluster_id text,
  OUT epoch bigint, OUT next_offset bigint, OUT last_id uuid, OUT last_timestamp_ms bigint,
  OUT suspect boolean, OUT suspect_offset bigint, OUT suspect_count int, OUT suspect_deaths int,
  OUT suspect_died boolean, OUT stalled_offset bigint, OUT attempts int, OUT due_ms bigint, OUT last_offset bigint)
RETURNS SETOF record
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  was txb.consumer_offset;
  died boolean;
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
  suspect_died := died AND was.suspect_marked AND was.suspect_count = 1;
  suspect := (died AND was.next_offset = was.taken_offset) OR was.suspect_offset IS NOT NULL;
  suspect_deaths := was.suspect_deaths + suspect_died::int;
  UPDATE txb.consumer_offset AS c
     SET epoch = c.epoch + 1, owner = offset_take.owner, instance = offset_take.instance,
         backend_pid = pg_backend_pid(), cluster_id = coalesce(c.cluster_id, nullif(offset_take.cluster_id, '')),
         busy = true, taken_offset = c.next_offset, taken_at = clock_timestamp(),
         suspect_marked = false, suspect_deaths = offset_take.suspect_deaths, updated_at = clock_timestamp()
   WHERE c.group_name = offset_take.group_name AND c.topic = offset_take.topic AND c.partition = offset_take.partition;
  epoch := was.epoch + 1;
  next_offset := was.next_offset;
  last_id := was.last_id;
  last_timestamp_ms := was.last_timestamp_ms;
  last_offset := was.last_offset;
  suspect_offset := was.suspect_offset;
  suspect_count := was.suspect_count;
  stalled_offset := was.stalled_offset;
  attempts := was.attempts;
  due_ms := greatest(0, ceil(extract(epoch FROM was.next_attempt_at - clock_timestamp()) * 1000));
  RETURN NEXT;
END
$$;
COMMENT ON FUNCTION txb.offset_take(text, text, int, text, uuid, text) IS
  'Makes the caller the owner: raises the epoch, marks the partition busy, tells what its last owner left. No row: '
  'there is no position yet';

CREATE FUNCTION txb.offset_evict(group_name text, topic text, partition int) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  pid int;
BEGIN
  -- Only the backend that took the partition, and only a worker's of the same role: a pid is used again.
  SELECT a.pid INTO pid
    FROM txb.consumer_offset AS c
    JOIN pg_stat_activity AS a ON a.pid = c.backend_pid
   WHERE c.group_name = offset_evict.group_name AND c.topic = offset_evict.topic
     AND c.partition = offset_evict.partition AND a.usename = current_user AND a.pid <> pg_backend_pid()
     AND a.application_name LIKE 'txbroker worker%' AND a.backend_start <= c.taken_at;
  IF pid IS NOT NULL THEN
    PERFORM pg_terminate_backend(pid);
  END IF;
  RETURN pid;
END
$$;
COMMENT ON FUNCTION txb.offset_evict(text, text, int) IS
  'Ends the backend of the partition''s owner, which was stopped in the middle of a transaction (W3); null: it is '
  'gone. With the caller''s own rights';

CREATE FUNCTION txb.offset_release(group_name text, topic text, partition int, epoch bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  UPDATE txb.consumer_offset AS c
     SET busy = false, owner = NULL, instance = NULL, backend_pid = NULL, suspect_marked = false,
         updated_at = clock_timestamp()
   WHERE c.group_name = offset_release.group_name AND c.topic = offset_release.topic
     AND c.partition = offset_release.partition AND c.epoch = offset_release.epoch;
  RETURN FOUND;
END
$$;
COMMENT ON FUNCTION txb.offset_release(text, text, int, bigint) IS
  'Gives a partition back in good order; false: another owner has it already';

CREATE FUNCTION txb.offset_set(group_name text, topic text, partition int, next_offset bigint, cluster_id text,
                               reason text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  result bigint;
BEGIN
  IF coalesce(offset_set.reason, '') = '' THEN
    RAISE EXCEPTION 'txb.offset_set: a reason is needed' USING ERRCODE = '22023';
  END IF;
  INSERT INTO txb.consumer_offset AS c (group_name, topic, partition, next_offset, taken_offset, epoch, cluster_id,
                                        last_error)
  VALUES (offset_set.group_name, offset_set.topic, offset_set.partition, offset_set.next_offset, offset_set.next_offset,
          1, offset_set.cluster_id, format('position set by %s: %s', session_user, offset_set.reason))
  ON CONFLICT ON CONSTRAINT consumer_offset_key DO UPDATE
     SET epoch = c.epoch + 1, next_offset = excluded.next_offset, taken_offset = excluded.next_offset,
         cluster_id = excluded.cluster_id, owner = NULL, instance = NULL, backend_pid = NULL, busy = false,
         last_id = NULL, last_timestamp_ms = NULL, last_offset = NULL, suspect_offset = NULL, suspect_count = 0, suspect_marked = false,
         suspect_deaths = 0, stalled_offset = NULL, stalled_since = NULL, attempts = 0, next_attempt_at = NULL,
         last_error = excluded.last_error, last_sqlstate = NULL, last_outcome = NULL, updated_at = clock_timestamp()
  RETURNING c.epoch INTO result;
  RETURN result;
END
$$;
COMMENT ON FUNCTION txb.offset_set(text, text, int, bigint, text, text) IS
  'The operator''s decision where a group goes on in a partition (W9); whoever owns it is fenced and asks again. '
  'Returns the epoch';

CREATE FUNCTION txb.fence_missed(caller text, group_name text, topic text, partition int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  now_is txb.consumer_offset;
BEGIN
  SELECT * INTO now_is FROM txb.consumer_offset AS c
   WHERE c.group_name = fence_missed.group_name AND c.topic = fence_missed.topic
     AND c.partition = fence_missed.partition;
  RAISE EXCEPTION '%: group "%" does not stand in topic "%" partition % as this worker expects',
    caller, group_name, topic, partition
    USING ERRCODE = 'TXB01',
    DETAIL = CASE WHEN now_is.topic IS NULL THEN 'It has no position there.'
                  ELSE format('It has epoch %s, next offset %s, owner %s.', now_is.epoch, now_is.next_offset,
                              coalesce(now_is.owner, 'none')) END;
END
$$;
COMMENT ON FUNCTION txb.fence_missed(text, text, text, int) IS
  'Raises TXB01: the compare-and-set of a worker missed (W1)';

CREATE FUNCTION txb.batch_open(group_name text, topic text, partition int, epoch bigint, expected_next bigint,
                               new_next bigint, consumed int, last_id uuid, last_timestamp_ms bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  UPDATE txb.consumer_offset AS c
     SET next_offset = new_next, consumed = c.consumed + batch_open.consumed, last_id = batch_open.last_id,
         last_timestamp_ms = batch_open.last_timestamp_ms, last_offset = new_next - 1, batch_open = true, updated_at = clock_timestamp()
   WHERE c.group_name = batch_open.group_name AND c.topic = batch_open.topic AND c.partition = batch_open.partition
     AND c.epoch = batch_open.epoch AND c.next_offset = expected_next AND new_next > expected_next AND NOT c.batch_open;
  -- Raises: in a pipeline zero rows is no error, and a zombie's effects would be committed (W1).
  IF NOT FOUND THEN
    PERFORM txb.fence_missed('txb.batch_open', batch_open.group_name, batch_open.topic, batch_open.partition);
  END IF;
END
$$;
COMMENT ON FUNCTION txb.batch_open(text, text, int, bigint, bigint, bigint, int, uuid, bigint) IS
  'Moves the position if epoch and next offset are as expected, and locks it to the transaction''s end; raises TXB01 '
  'otherwise (W1). A statement of its own (W2)';

-- Ends of Kafka transactions and aborted messages take offsets too. A position left in front of them would look like
-- unread messages once retention has deleted them.
CREATE FUNCTION txb.offset_pass(group_name text, topic text, partition int, epoch bigint, expected_next bigint,
                                new_next bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  -- taken_offset goes along: this is no progress that would clear a dead owner (W10).
  UPDATE txb.consumer_offset AS c
     SET next_offset = new_next,
         taken_offset = CASE WHEN c.taken_offset = c.next_offset THEN new_next ELSE c.taken_offset END,
         updated_at = clock_timestamp()
   WHERE c.group_name = offset_pass.group_name AND c.topic = offset_pass.topic AND c.partition = offset_pass.partition
     AND c.epoch = offset_pass.epoch AND c.next_offset = expected_next AND new_next > expected_next
     AND NOT c.batch_open AND c.stalled_offset IS NULL AND NOT c.suspect_marked;
  IF NOT FOUND THEN
    PERFORM txb.fence_missed('txb.offset_pass', offset_pass.group_name, offset_pass.topic, offset_pass.partition);
  END IF;
END
$$;
COMMENT ON FUNCTION txb.offset_pass(text, text, int, bigint, bigint, bigint) IS
  'Moves the position over offsets that hold no message for the group, if epoch and next offset are as expected and '
  'nothing stalls; raises TXB01 otherwise';

CREATE FUNCTION txb.batch_close(group_name text, topic text, partition int, applied int, duplicate int,
                                failed int DEFAULT 0) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  -- The CHECK consumer_offset_balance compares with what batch_open consumed.
  UPDATE txb.consumer_offset AS c
     SET applied = c.applied + batch_close.applied, duplicate = c.duplicate + batch_close.duplicate,
         failed = c.failed + batch_close.failed, batch_open = false,
         stalled_offset = NULL, stalled_since = NULL, attempts = 0, next_attempt_at = NULL,
         last_error = NULL, last_sqlstate = NULL, last_outcome = NULL,
         suspect_offset = NULL, suspect_count = 0, suspect_marked = false, suspect_deaths = 0,
         updated_at = clock_timestamp()
   WHERE c.group_name = batch_close.group_name AND c.topic = batch_close.topic AND c.partition = batch_close.partition
     AND c.batch_open;
  -- Another transaction than the one that opened the batch: that one rolled back, or its commit was refused (W11).
  IF NOT FOUND THEN
    RAISE EXCEPTION 'txb.batch_close: no batch of group "%" is open in topic "%" partition % in this transaction',
      batch_close.group_name, batch_close.topic, batch_close.partition
      USING ERRCODE = 'TXB03', HINT = 'A handler must not end the transaction that it runs in.';
  END IF;
END
$$;
COMMENT ON FUNCTION txb.batch_close(text, text, int, int, int, int) IS
  'Counts what became of the batch and lets the transaction commit; clears a stall. The counts must add up to what '
  'batch_open was told';

CREATE FUNCTION txb.batch_stall(group_name text, topic text, partition int, epoch bigint, stalled_offset bigint,
                                attempts int, delay_ms bigint, last_outcome text, last_error text,
                                last_sqlstate text, keep_suspect boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  UPDATE txb.consumer_offset AS c
     SET stalled_since = CASE WHEN c.stalled_offset = batch_stall.stalled_offset
                              THEN c.stalled_since ELSE clock_timestamp() END,
         stalled_offset = batch_stall.stalled_offset, attempts = batch_stall.attempts,
         next_attempt_at = clock_timestamp() + delay_ms * interval '1 millisecond',
         last_outcome = batch_stall.last_outcome, last_error = left(batch_stall.last_error, 4000),
         last_sqlstate = batch_stall.last_sqlstate,
         suspect_marked = false, suspect_offset = CASE WHEN keep_suspect THEN c.suspect_offset END,
         suspect_count = CASE WHEN keep_suspect THEN c.suspect_count ELSE 0 END,
         suspect_deaths = CASE WHEN keep_suspect THEN c.suspect_deaths ELSE 0 END, updated_at = clock_timestamp()
   WHERE c.group_name = batch_stall.group_name AND c.topic = batch_stall.topic AND c.partition = batch_stall.partition
     AND c.epoch = batch_stall.epoch AND c.next_offset <= batch_stall.stalled_offset;
  IF NOT FOUND THEN
    PERFORM txb.fence_missed('txb.batch_stall', batch_stall.group_name, batch_stall.topic, batch_stall.partition);
  END IF;
END
$$;
COMMENT ON FUNCTION txb.batch_stall(text, text, int, bigint, bigint, int, bigint, text, text, text, boolean) IS
  'Records the message that could not be applied and when it is tried again (delay_ms null: a person must decide); '
  'takes the marker in. TXB01: not the owner';

CREATE FUNCTION txb.suspect_mark(group_name text, topic text, partition int, epoch bigint, suspect_offset bigint,
                                 suspect_count int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  deaths int;
BEGIN
  UPDATE txb.consumer_offset AS c
     SET suspect_deaths = CASE WHEN c.suspect_offset = suspect_mark.suspect_offset THEN c.suspect_deaths ELSE 0 END,
         suspect_offset = suspect_mark.suspect_offset, suspect_count = suspect_mark.suspect_count,
         suspect_marked = true, updated_at = clock_timestamp()
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
COMMENT ON FUNCTION txb.suspect_mark(text, text, int, bigint, bigint, int) IS
  'The marker under which messages run that may kill, committed before they run (W10); offset_take counts who died '
  'under it. Returns the deaths so far';

-- The worker's statements call it for an outcome other than ok, so that the whole batch is undone (W5). The worker
-- reads the message's form.
CREATE FUNCTION txb.not_ok(message_offset bigint, answer txb.outcome) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  RAISE EXCEPTION 'offset=% outcome=% after_ms=%: %', message_offset, coalesce(answer.outcome, 'null'),
    greatest(0, coalesce(floor(extract(epoch FROM answer.after) * 1000)::bigint, 0)),
    coalesce(answer.reason, CASE WHEN answer.outcome IS NULL THEN 'the handler returned no outcome: return txb.ok()'
             ELSE 'no reason given' END)
    USING ERRCODE = 'TXB02';
END
$$;
COMMENT ON FUNCTION txb.not_ok(bigint, txb.outcome) IS
  'Raises TXB02: the message at that offset was answered with something else than ok';

REVOKE ALL ON TYPE txb.consumer_offset, txb.message, txb.outcome FROM PUBLIC;
-- Whoever writes a handler names these types in its signature.
GRANT USAGE ON TYPE txb.message, txb.outcome TO txb_app, txb_worker, txb_admin;
GRANT SELECT ON txb.consumer_offset TO txb_worker, txb_reader;
GRANT EXECUTE ON FUNCTION txb.ok(jsonb), txb.refuse(text), txb.retry(interval, text), txb.dead(text)
TO txb_app, txb_worker, txb_admin;
GRANT EXECUTE ON FUNCTION
  txb.offset_register(text, text, int[], bigint[], text),
  txb.offset_take(text, text, int, text, uuid, text),
  txb.offset_evict(text, text, int),
  txb.offset_release(text, text, int, bigint),
  txb.offset_pass(text, text, int, bigint, bigint, bigint),
  txb.batch_open(text, text, int, bigint, bigint, bigint, int, uuid, bigint),
  txb.batch_close(text, text, int, int, int, int),
  txb.batch_stall(text, text, int, bigint, bigint, int, bigint, text, text, text, boolean),
  txb.suspect_mark(text, text, int, bigint, bigint, int),
  txb.not_ok(bigint, txb.outcome)
TO txb_worker;
GRANT EXECUTE ON FUNCTION txb.offset_set(text, text, int, bigint, text, text) TO txb_admin;

RESET ROLE;
