-- Failed messages, of both sides, and what hangs on them: the relay's record of a refused intent, and retention.
--
--   txb.relay_record_failed(source text, epoch bigint, instance uuid, seq bigint, error_class text, error text)
--       returns bigint (number in txb.failed)
--   txb.partition_drop(source text, older_than interval, out statement text, out partition text)      described in 0003
--   txb.key_text(key bytea) returns text
--
-- A refused intent is recorded by reference to its seq: the outbox keeps the payload, and retention keeps the partition
-- as long as its key is held. Without a key nothing is held; when the partition is dropped, the payload moves into
-- txb.failed.

SET LOCAL ROLE txb_owner;

CREATE TABLE txb.failed (
  number bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT failed_number PRIMARY KEY,
  side text NOT NULL CONSTRAINT failed_side CHECK (side IN ('outbox', 'consumer')),
  state text NOT NULL CONSTRAINT failed_state CHECK (state IN ('retrying', 'held', 'dead', 'resolved', 'discarded')),
  run bigint NOT NULL DEFAULT 0,
  source text COLLATE "C",
  seq bigint,
  group_name text COLLATE "C",
  topic text COLLATE "C" NOT NULL,
  partition int,
  "offset" bigint,
  key bytea,
  id uuid,
  type text,
  "time" timestamptz,
  payload bytea,
  content_type text,
  headers jsonb,
  attempts int NOT NULL DEFAULT 0,
  next_attempt_at timestamptz,
  error_class text,
  sqlstate text,
  error text,
  handler text,
  history jsonb NOT NULL DEFAULT '[]',
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT failed_place CHECK (CASE side WHEN 'outbox' THEN source IS NOT NULL AND seq IS NOT NULL
                                           ELSE group_name IS NOT NULL AND partition IS NOT NULL
                                             AND "offset" IS NOT NULL END)
);
CREATE UNIQUE INDEX failed_intent ON txb.failed (source, seq) WHERE side = 'outbox';
CREATE UNIQUE INDEX failed_message ON txb.failed (group_name, topic, partition, "offset", run) WHERE side = 'consumer';
CREATE INDEX failed_open_key ON txb.failed (group_name, topic, partition, sha256(key), number)
  WHERE side = 'consumer' AND state IN ('retrying', 'held', 'dead');

COMMENT ON TABLE txb.failed IS
  'Failed messages of both sides: intents that Kafka refused, messages that could not be applied';
COMMENT ON COLUMN txb.failed.number IS 'Identity, for commands; within one key also the order';
COMMENT ON COLUMN txb.failed.side IS
  'outbox: an intent that could not be published; consumer: a message that could not be applied';
COMMENT ON COLUMN txb.failed.state IS 'retrying, held (behind a failed message of its key), dead, resolved, discarded';
COMMENT ON COLUMN txb.failed.run IS '0: live; else the replay job';
COMMENT ON COLUMN txb.failed.source IS 'Outbox side: the source. Consumer side: the CloudEvents source';
COMMENT ON COLUMN txb.failed.seq IS 'Outbox side: the intent';
COMMENT ON COLUMN txb.failed.group_name IS 'Consumer side: the group';
COMMENT ON COLUMN txb.failed.topic IS 'Kafka topic';
COMMENT ON COLUMN txb.failed.partition IS 'Kafka partition';
COMMENT ON COLUMN txb.failed."offset" IS 'Kafka offset';
COMMENT ON COLUMN txb.failed.key IS 'The key as bytes (W12); txb.key_text shows it';
COMMENT ON COLUMN txb.failed.id IS 'Message id';
COMMENT ON COLUMN txb.failed.type IS 'CloudEvents type';
COMMENT ON COLUMN txb.failed."time" IS 'CloudEvents time';
COMMENT ON COLUMN txb.failed.payload IS 'Consumer side: the value. Outbox side: null as long as the outbox keeps it';
COMMENT ON COLUMN txb.failed.content_type IS 'Media type of the payload';
COMMENT ON COLUMN txb.failed.headers IS 'Headers as JSON; a value that is not text is {"base64": "..."}';
COMMENT ON COLUMN txb.failed.attempts IS 'How often it was tried';
COMMENT ON COLUMN txb.failed.next_attempt_at IS 'When it is tried again; null: not by itself';
COMMENT ON COLUMN txb.failed.error_class IS 'Kafka error name, or what the handler answered';
COMMENT ON COLUMN txb.failed.sqlstate IS 'SQLSTATE of the last error';
COMMENT ON COLUMN txb.failed.error IS 'Text of the last error';
COMMENT ON COLUMN txb.failed.handler IS 'The handler that failed';
COMMENT ON COLUMN txb.failed.history IS 'Earlier attempts and decisions';
COMMENT ON COLUMN txb.failed.created_at IS 'When it failed first';
COMMENT ON COLUMN txb.failed.updated_at IS 'Last change';
COMMENT ON CONSTRAINT failed_number ON txb.failed IS 'Identity';
COMMENT ON INDEX txb.failed_number IS 'Identity';
COMMENT ON SEQUENCE txb.failed_number_seq IS 'Numbers of txb.failed';
COMMENT ON CONSTRAINT failed_side ON txb.failed IS 'side: outbox or consumer';
COMMENT ON CONSTRAINT failed_state ON txb.failed IS 'state: retrying, held, dead, resolved or discarded';
COMMENT ON CONSTRAINT failed_place ON txb.failed IS
  'An intent has source and seq, a message group, partition and offset';
COMMENT ON INDEX txb.failed_intent IS 'An intent fails once, though its record may be written twice after a crash';
COMMENT ON INDEX txb.failed_message IS 'A message fails once per run';
COMMENT ON INDEX txb.failed_open_key IS
  'The open failed messages of a key; by hash, since a foreign key may be longer than an index entry';

CREATE FUNCTION txb.key_text(key bytea) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  RETURN convert_from(key, 'UTF8');
EXCEPTION WHEN data_exception THEN
  RETURN '\x' || encode(key, 'hex'); -- a binary key of a foreign producer must not poison whoever only looks (W12)
END
$$;
COMMENT ON FUNCTION txb.key_text(bytea) IS 'A key as text: itself if it is UTF-8 without NUL, else \x and hexadecimal';

-- Written in the transaction of nothing else: when it has committed, the number counts as done. A crash before that
-- leaves the intent unacknowledged, so it is read, refused and recorded again; after it, the record is found and only
-- repeated.
CREATE FUNCTION txb.relay_record_failed(source text, epoch bigint, instance uuid, seq bigint, error_class text,
                                        error text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  intent txb.outbox;
  result bigint;
BEGIN
  PERFORM txb.relay_fence('txb.relay_record_failed', relay_record_failed.source, relay_record_failed.epoch,
                          relay_record_failed.instance);
  SELECT * INTO intent FROM txb.outbox AS o WHERE o.seq = relay_record_failed.seq;
  IF intent.seq IS NULL THEN
    RAISE EXCEPTION 'txb.relay_record_failed: there is no intent %', relay_record_failed.seq USING ERRCODE = 'TXB04';
  END IF;
  INSERT INTO txb.failed AS f (side, state, source, seq, topic, key, id, type, "time", content_type, headers, attempts,
                               error_class, error)
  VALUES ('outbox', 'dead', relay_record_failed.source, intent.seq, intent.topic, convert_to(intent.key, 'UTF8'),
          intent.id, intent.type, intent.created_at, intent.content_type, intent.headers, 1,
          relay_record_failed.error_class, relay_record_failed.error)
  ON CONFLICT (source, seq) WHERE side = 'outbox' DO UPDATE
     SET attempts = f.attempts + 1, error_class = excluded.error_class, error = excluded.error,
         updated_at = clock_timestamp()
  RETURNING f.number INTO result;
  IF intent.key IS NOT NULL THEN
    INSERT INTO txb.relay_hold AS h (source, kind, topic, key, lo, failed_id, error)
    VALUES (relay_record_failed.source, 'key', intent.topic, intent.key, intent.seq, result, relay_record_failed.error)
    ON CONFLICT (source, topic, key) WHERE kind = 'key' DO UPDATE
       SET lo = least(h.lo, excluded.lo),
           failed_id = CASE WHEN excluded.lo < h.lo THEN excluded.failed_id ELSE h.failed_id END;
  END IF;
  RETURN result;
END
$$;
COMMENT ON FUNCTION txb.relay_record_failed(text, bigint, uuid, bigint, text, text) IS
  'Records an intent that Kafka refused, and holds its key from there on; returns its number in txb.failed. Repeating'
  ' it changes nothing but the count';

CREATE FUNCTION txb.partition_drop(source text, older_than interval, OUT statement text, OUT partition text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp SET lock_timeout = '200ms'
AS $$
DECLARE
  loose text;
  one record;
  filled boolean;
  done bigint;  -- every intent up to it may go
  newest timestamptz;
BEGIN
  IF older_than IS NULL OR older_than < interval '0' THEN
    RAISE EXCEPTION 'txb.partition_drop: older_than is %, an interval that is not negative is needed', older_than
      USING ERRCODE = '22023';
  END IF;
  -- Two may call at once (an operator, a relay that has just lost its lease): one works, the other comes back later.
  IF NOT pg_try_advisory_xact_lock(1954049330, -1) THEN
    RETURN;
  END IF;

  -- What was detached earlier. Never one that has rows: somebody may have detached it by hand to keep it.
  FOR loose IN
    SELECT c.relname FROM pg_class AS c
     WHERE c.relnamespace = 'txb'::regnamespace AND c.relname ~ '^outbox_p\d{12,}$' AND c.relkind = 'r'
       AND NOT c.relispartition
     ORDER BY c.relname
  LOOP
    EXECUTE format('SELECT EXISTS (SELECT FROM txb.%I)', loose) INTO filled;
    IF NOT filled THEN
      EXECUTE format('DROP TABLE txb.%I', loose);
    END IF;
  END LOOP;

  SELECT format('ALTER TABLE txb.outbox DETACH PARTITION txb.%I FINALIZE', p.name), p.name INTO statement, partition
    FROM txb.outbox_partition AS p WHERE p.pending LIMIT 1;
  IF statement IS NOT NULL THEN
    RETURN;
  END IF;

  -- Below every source's watermark, and below everything that is held back by reference.
  SELECT least(min(r.watermark), (SELECT min(h.lo) - 1 FROM txb.relay_hold AS h)) INTO done FROM txb.relay AS r;
  IF done IS NULL OR NOT EXISTS (SELECT FROM txb.relay AS r WHERE r.source = partition_drop.source) THEN
    RETURN; -- nobody relays here: nothing is published
  END IF;
  FOR one IN
    SELECT p.name, p.first, p.past FROM txb.outbox_partition AS p WHERE p.past - 1 <= done ORDER BY p.first
  LOOP
    EXECUTE format('SELECT max(created_at) FROM txb.%1$I WHERE seq > (SELECT max(seq) - 1000 FROM txb.%1$I)', one.name)
      INTO newest;
    -- In order: what comes later was written later.
    EXIT WHEN newest > clock_timestamp() - older_than;
    -- A refused intent without a key holds nothing back; what waits for a decision takes its payload along,
    -- whichever source it is of.
    EXECUTE format($sql$
      UPDATE txb.failed AS f SET payload = o.payload, updated_at = clock_timestamp()
        FROM txb.%I AS o
       WHERE f.side = 'outbox' AND f.state IN ('retrying', 'held', 'dead') AND f.seq = o.seq$sql$,
      one.name);
    EXECUTE format('TRUNCATE TABLE txb.%I', one.name);
    statement := format('ALTER TABLE txb.outbox DETACH PARTITION txb.%I CONCURRENTLY', one.name);
    partition := one.name;
    RETURN;
  END LOOP;
END
$$;
COMMENT ON FUNCTION txb.partition_drop(text, interval) IS
  'One step of dropping a partition whose intents are all published and older; answers with the statement to send '
  'next, as txb_retention and outside a transaction';

REVOKE ALL ON TYPE txb.failed FROM PUBLIC;
GRANT SELECT ON txb.failed TO txb_reader, txb_relay;
GRANT EXECUTE ON FUNCTION txb.relay_record_failed(text, bigint, uuid, bigint, text, text) TO txb_relay;
-- Not to txb_admin, who can't do the second step, and would leave a partition empty and pending.
GRANT EXECUTE ON FUNCTION txb.partition_drop(text, interval) TO txb_relay;
GRANT EXECUTE ON FUNCTION txb.key_text(bytea) TO txb_relay, txb_worker, txb_reader, txb_admin, txb_app;

RESET ROLE;
