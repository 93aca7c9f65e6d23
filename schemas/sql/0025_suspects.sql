-- A failed message that is tried again alone, by chance, is not yet under suspicion: the first death of a worker makes it
-- suspect, and deaths count from there on (W10). Before, two kills from outside that each met the same one condemned it; and
-- they meet it easily, since a suspect is what a successor runs first.

SET LOCAL ROLE txb_owner;

CREATE OR REPLACE FUNCTION txb.offset_take(
  group_name text, topic text, partition int, owner text, instance uuid, cluster_id text,
  OUT epoch bigint, OUT next_offset bigint, OUT last_id uuid, OUT last_timestamp_ms bigint,
  OUT suspect boolean, OUT suspect_offset bigint, OUT suspect_count int, OUT suspect_deaths int,
  OUT suspect_died boolean, OUT stalled_offset bigint, OUT attempts int, OUT due_ms bigint, OUT last_offset bigint,
  OUT keys_version bigint, OUT suspect_failed bigint[])
RETURNS SETOF record
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  was txb.consumer_offset;
  died boolean;
  failed_died boolean;
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
  failed_died := died AND was.suspect_marked AND was.suspect_failed IS NOT NULL;
  suspect_offset := was.suspect_offset;
  suspect_count := was.suspect_count;
  suspect_died := died AND was.suspect_marked
                  AND CASE WHEN failed_died THEN cardinality(was.suspect_failed) ELSE was.suspect_count END = 1;
  suspect_deaths := was.suspect_deaths + (suspect_died AND NOT failed_died)::int;
  -- Any death goes on carefully, whatever its owner had done before: who kills must not do so again and again.
  suspect := died OR was.suspect_offset IS NOT NULL OR was.suspect_failed IS NOT NULL;
  UPDATE txb.consumer_offset AS c
     SET epoch = c.epoch + 1, owner = offset_take.owner, instance = offset_take.instance,
         backend_pid = pg_backend_pid(), -- a lane's log is no Kafka cluster's
         cluster_id = CASE WHEN c.partition >= 0 THEN coalesce(c.cluster_id, nullif(offset_take.cluster_id, '')) END,
         busy = true, taken_offset = c.next_offset, taken_at = clock_timestamp(),
         suspect_marked = false, suspect_failed = NULL, suspect_deaths = offset_take.suspect_deaths,
         updated_at = clock_timestamp()
   WHERE c.group_name = offset_take.group_name AND c.topic = offset_take.topic AND c.partition = offset_take.partition;
  -- What a marker says about failed messages is kept with them: txb.retry_mark gives each of them out alone. Who left
  -- it behind may have died, given the partition back, or lost its connection, be it by one of them: only a death of a
  -- process counts, and only one that met a message which was suspect already. One that happened to be due alone when
  -- somebody killed the worker is only looked at from then on.
  IF was.suspect_failed IS NOT NULL THEN
    UPDATE txb.failed AS f SET suspect = true, deaths = f.deaths + (failed_died AND suspect_died AND f.suspect)::int
     WHERE f.number = ANY (was.suspect_failed) AND f.state IN ('retrying', 'held');
  END IF;
  IF failed_died THEN
    suspect_offset := NULL;
    suspect_count := cardinality(was.suspect_failed);
    SELECT coalesce(max(f.deaths), 0) INTO suspect_deaths FROM txb.failed AS f
     WHERE suspect_died AND f.number = ANY (was.suspect_failed) AND f.state = 'retrying';
  END IF;
  epoch := was.epoch + 1;
  next_offset := was.next_offset;
  last_id := was.last_id;
  last_timestamp_ms := was.last_timestamp_ms;
  last_offset := was.last_offset;
  stalled_offset := was.stalled_offset;
  attempts := was.attempts;
  due_ms := greatest(0, ceil(extract(epoch FROM was.next_attempt_at - clock_timestamp()) * 1000));
  keys_version := was.keys_version
                  + txb.live_keys_version(offset_take.group_name, offset_take.topic, offset_take.partition);
  suspect_failed := was.suspect_failed;
  RETURN NEXT;
END
$$;

-- What is set aside under a marker, held behind its key or because its handler failed, was suspected with the others, and stays
-- so: otherwise its deaths would be counted anew.
CREATE FUNCTION txb.failed_suspected() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  NEW.suspect := EXISTS (SELECT FROM txb.consumer_offset AS c
                          WHERE c.group_name = NEW.group_name AND c.topic = NEW.topic AND c.partition = NEW.partition
                            AND c.batch_open AND NEW."offset" >= c.suspect_offset
                            AND NEW."offset" < c.suspect_offset + c.suspect_count);
  RETURN NEW;
END
$$;
COMMENT ON FUNCTION txb.failed_suspected() IS 'A message that is set aside under a marker stays suspect (W10)';
CREATE TRIGGER failed_suspected BEFORE INSERT ON txb.failed FOR EACH ROW
WHEN (NEW.side = 'consumer' AND NEW.state IN ('retrying', 'held')) EXECUTE FUNCTION txb.failed_suspected();
COMMENT ON TRIGGER failed_suspected ON txb.failed IS 'A message that is set aside under a marker stays suspect (W10)';

RESET ROLE;
