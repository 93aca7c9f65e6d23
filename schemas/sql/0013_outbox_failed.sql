-- Decisions about intents that Kafka refused, and how the relay carries them out (R5).
--
--   txb.outbox_decide(number bigint, action text, payload bytea, content_type text, headers jsonb, who text, reason text)
--       returns text                   null: done; else why not. Granted to nobody: txb.failed_retry, failed_edit and
--       failed_discard call it, which say who it was themselves and write the audit
--   txb.relay_decisions_take(source text, epoch bigint, instance uuid) returns table(topic text, key text)
--       key null: something without a key is to be sent again
--   txb.relay_settle(source text, epoch bigint, instance uuid, published bigint[], topics text[], keys text[], los bigint[])
--       returns void
--   txb.relay_record_failed(...), txb.partition_drop(...)                     as before, described in 0006
--
-- A decision is one transaction of a person: it changes the record's state and leaves a note in txb.relay_decision. It
-- locks nothing that a relay writes (a record is dead until it is decided about, and then the relay's): a session that
-- decides and stays open stops nobody. Every poll looks whether there is a note; taking them only wakes the relay, since
-- what is to be done stands in the records themselves, where a relay that begins looks too. So a crash forgets none.
--
-- What is retrying has been decided about and is not yet published. The relay sends it from the outbox, or from its
-- record where that keeps the intent (an edited copy; one whose partition was dropped). Acknowledged, it is resolved in
-- the transaction of a checkpoint; refused again, it is dead with one attempt more. The hold of a key ends, or begins at
-- the next refused intent, in the checkpoint after everything before it is acknowledged: a crash before that repeats, in
-- order.

SET LOCAL ROLE txb_owner;

ALTER TABLE txb.failed ADD COLUMN kept boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN txb.failed.kept IS
  'Outbox side: this row keeps the whole intent (an edited copy, or one whose partition was dropped); false: the outbox '
  'does';
UPDATE txb.failed AS f SET kept = true
 WHERE f.side = 'outbox' AND (f.payload IS NOT NULL OR NOT EXISTS (SELECT FROM txb.outbox AS o WHERE o.seq = f.seq));

DROP INDEX txb.failed_intent;
CREATE UNIQUE INDEX failed_intent ON txb.failed (source, seq) WHERE side = 'outbox' AND replaced_by IS NULL;
CREATE INDEX failed_loose ON txb.failed (source, seq) WHERE side = 'outbox' AND state = 'retrying' AND key IS NULL;
COMMENT ON INDEX txb.failed_intent IS
  'An intent fails once, in its last edition, though its record may be written twice after a crash';
COMMENT ON INDEX txb.failed_loose IS 'Intents without a key that are to be sent again';

CREATE TABLE txb.relay_decision (
  number bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT relay_decision_number PRIMARY KEY,
  source text COLLATE "C" NOT NULL,
  failed_id bigint NOT NULL,
  topic text COLLATE "C" NOT NULL,
  key text COLLATE "C",
  at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
CREATE INDEX relay_decision_source ON txb.relay_decision (source);
COMMENT ON TABLE txb.relay_decision IS
  'Notes to the relay: somebody has decided about a failed intent. Deleted when it has seen them; what was decided stands '
  'in txb.failed';
COMMENT ON COLUMN txb.relay_decision.number IS 'Identity';
COMMENT ON COLUMN txb.relay_decision.source IS 'Name of the source';
COMMENT ON COLUMN txb.relay_decision.failed_id IS 'The row of txb.failed';
COMMENT ON COLUMN txb.relay_decision.topic IS 'Kafka topic';
COMMENT ON COLUMN txb.relay_decision.key IS 'The key that goes on; null: the intent has none';
COMMENT ON COLUMN txb.relay_decision.at IS 'When';
COMMENT ON CONSTRAINT relay_decision_number ON txb.relay_decision IS 'Identity';
COMMENT ON INDEX txb.relay_decision_number IS 'Identity';
COMMENT ON INDEX txb.relay_decision_source IS 'Every poll asks whether a source has one';
COMMENT ON SEQUENCE txb.relay_decision_number_seq IS 'Numbers of txb.relay_decision';

-- ---- what a person decides ------------------------------------------------------------------------------------------

CREATE FUNCTION txb.outbox_not_dead(f txb.failed) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT format('%s since %s%s',
                CASE f.state WHEN 'retrying' THEN 'is being published' WHEN 'discarded' THEN 'is discarded'
                             ELSE format('is %s (%s)', f.state,
                                         CASE f.resolution WHEN 'edited' THEN format('edited: see %s', f.replaced_by)
                                                           ELSE f.resolution END) END,
                to_char(coalesce(h.at, f.updated_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"'),
                coalesce(', by ' || h.who, ''))
    FROM (VALUES (1)) AS one (row)
    LEFT JOIN LATERAL (SELECT h.at, h.who FROM txb.failed_history AS h WHERE h.number = f.number
                        ORDER BY h.at DESC LIMIT 1) AS h ON true
$$;
COMMENT ON FUNCTION txb.outbox_not_dead(txb.failed) IS
  'Why a failed intent can''t be decided about: what it is, since when, by whom';

CREATE FUNCTION txb.outbox_edition(f txb.failed, payload bytea, content_type text, headers jsonb) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  edition bigint := nextval('txb.failed_number_seq');
  problem text := coalesce(
    txb.intent_problem(f.topic, convert_from(f.key, 'UTF8'), f.type, payload, content_type, headers, NULL),
    CASE WHEN content_type = 'application/json' THEN txb.json_problem(payload) END);
BEGIN
  IF problem IS NOT NULL THEN
    PERFORM txb.intent_refuse('txb.outbox_decide', problem);
  END IF;
  UPDATE txb.failed AS o
     SET state = 'resolved', resolution = 'edited', holds = false, replaced_by = edition,
         updated_at = clock_timestamp()
   WHERE o.number = f.number;
  INSERT INTO txb.failed (number, place, replaces, side, state, holds, kept, source, seq, topic, key, id, type, "time",
                          payload, content_type, headers, error_class, sqlstate, error)
  OVERRIDING SYSTEM VALUE
  VALUES (edition, f.place, f.number, f.side, 'retrying', f.key IS NOT NULL, true, f.source, f.seq,
          f.topic, f.key, txb.uuid_v7(), f.type, f."time", payload, content_type, headers, f.error_class, f.sqlstate,
          f.error);
  RETURN edition;
END
$$;
COMMENT ON FUNCTION txb.outbox_edition(txb.failed, bytea, text, jsonb) IS
  'Puts an edited copy with an id of its own into the place of a failed intent; returns its number';

CREATE FUNCTION txb.outbox_decide(number bigint, action text, payload bytea, content_type text, headers jsonb, who text,
                                  reason text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp SET lock_timeout = '5s'
AS $$
DECLARE
  f txb.failed;
  edition bigint;
BEGIN
  IF action IS NULL OR action NOT IN ('retry', 'edit', 'discard') THEN
    RAISE EXCEPTION 'txb.outbox_decide: action is %, one of retry, edit and discard is needed', coalesce(action, 'null')
      USING ERRCODE = '22023';
  END IF;
  SELECT * INTO f FROM txb.failed AS o WHERE o.number = outbox_decide.number AND o.side = 'outbox';
  IF f.number IS NULL THEN
    RETURN 'is no failed message of an outbox';
  END IF;
  -- Only what is dead is locked: a record that is being published is the relay's, which would wait for whoever looks.
  IF f.state = 'dead' THEN
    SELECT * INTO f FROM txb.failed AS o WHERE o.number = outbox_decide.number FOR UPDATE SKIP LOCKED;
    IF f.number IS NULL THEN -- only then a block of its own: each is a subtransaction, and a command has hundreds
      BEGIN
        SELECT * INTO f FROM txb.failed AS o WHERE o.number = outbox_decide.number FOR UPDATE;
      EXCEPTION WHEN lock_not_available THEN
        RAISE EXCEPTION 'somebody has been deciding about message % for more than five seconds: nothing was changed; '
                        'try again', outbox_decide.number USING ERRCODE = '55P03';
      END;
    END IF;
  END IF;
  IF f.state <> 'dead' THEN
    RETURN txb.outbox_not_dead(f);
  END IF;
  IF action = 'edit' THEN
    edition := txb.outbox_edition(f, payload, content_type, headers);
    INSERT INTO txb.failed_history (number, event, state, who, error)
    VALUES (f.number, 'edit', 'resolved', outbox_decide.who, outbox_decide.reason),
           (edition, 'edited', 'retrying', outbox_decide.who, outbox_decide.reason);
  ELSE
    UPDATE txb.failed AS o
       SET state = CASE action WHEN 'retry' THEN 'retrying' ELSE 'discarded' END,
           resolution = CASE action WHEN 'discard' THEN 'discarded' END,
           holds = o.holds AND action = 'retry', updated_at = clock_timestamp()
     WHERE o.number = f.number;
    INSERT INTO txb.failed_history (number, event, state, who, error)
    VALUES (f.number, action, CASE action WHEN 'retry' THEN 'retrying' ELSE 'discarded' END, outbox_decide.who,
            outbox_decide.reason);
  END IF;
  IF f.key IS NOT NULL OR action <> 'discard' THEN
    INSERT INTO txb.relay_decision (source, failed_id, topic, key)
    VALUES (f.source, coalesce(edition, f.number), f.topic, convert_from(f.key, 'UTF8'));
  END IF;
  RETURN NULL;
END
$$;
COMMENT ON FUNCTION txb.outbox_decide(bigint, text, bytea, text, jsonb, text, text) IS
  'A decision about an intent that Kafka refused: retry, edit (payload, content type and headers as they are to be) or '
  'discard. Null: done, the relay carries it out; else why not; 55P03: try again';

-- ---- what the relay does --------------------------------------------------------------------------------------------

CREATE FUNCTION txb.relay_decisions_take(source text, epoch bigint, instance uuid)
RETURNS TABLE (topic text, key text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  PERFORM txb.relay_fence('txb.relay_decisions_take', relay_decisions_take.source, relay_decisions_take.epoch,
                          relay_decisions_take.instance);
  RETURN QUERY
  WITH taken AS (
    DELETE FROM txb.relay_decision AS d
     WHERE d.number IN (SELECT n.number FROM txb.relay_decision AS n WHERE n.source = relay_decisions_take.source
                         ORDER BY n.number LIMIT 5000)
    RETURNING d.topic, d.key)
  SELECT DISTINCT CASE WHEN t.key IS NOT NULL THEN t.topic END, t.key FROM taken AS t;
END
$$;
COMMENT ON FUNCTION txb.relay_decisions_take(text, bigint, uuid) IS
  'Takes notes of decisions: the keys to be drained, and a null key when something without a key is to be sent again. '
  'Raises TXB01 when the source is held by another';

CREATE FUNCTION txb.relay_settle(source text, epoch bigint, instance uuid, published bigint[], topics text[], keys text[],
                                 los bigint[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  PERFORM txb.relay_fence('txb.relay_settle', relay_settle.source, relay_settle.epoch, relay_settle.instance);
  WITH done AS (
    UPDATE txb.failed AS f
       SET state = 'resolved', resolution = 'published', holds = false, attempts = f.attempts + 1,
           updated_at = clock_timestamp()
     WHERE f.number = ANY (published) AND f.side = 'outbox' AND f.source = relay_settle.source AND f.state = 'retrying'
    RETURNING f.number, f.attempts)
  INSERT INTO txb.failed_history (number, event, state, attempt, who)
  SELECT d.number, 'published', 'resolved', d.attempts, 'relay ' || r.owner
    FROM done AS d, txb.relay AS r
   WHERE r.source = relay_settle.source;
  DELETE FROM txb.relay_hold AS h
   USING unnest(topics, keys, los) AS u (topic, key, lo)
   WHERE h.source = relay_settle.source AND h.kind = 'key' AND h.topic = u.topic AND h.key = u.key AND u.lo = 0;
  UPDATE txb.relay_hold AS h
     SET lo = u.lo, failed_id = f.number, error = coalesce(f.error, h.error), since = coalesce(f.updated_at, h.since)
    FROM unnest(topics, keys, los) AS u (topic, key, lo)
    LEFT JOIN LATERAL (SELECT r.number, r.error, r.updated_at
                         FROM txb.failed AS r
                        WHERE r.source = relay_settle.source AND r.seq = u.lo AND r.side = 'outbox'
                          AND r.replaced_by IS NULL
                        LIMIT 1) AS f ON true
   WHERE h.source = relay_settle.source AND h.kind = 'key' AND h.topic = u.topic AND h.key = u.key AND u.lo > 0;
END
$$;
COMMENT ON FUNCTION txb.relay_settle(text, bigint, uuid, bigint[], text[], text[], bigint[]) IS
  'Failed intents that were published are resolved; holds of keys that were drained end (lo 0) or begin later. Raises '
  'TXB01 when the source is held by another';

CREATE OR REPLACE FUNCTION txb.relay_record_failed(source text, epoch bigint, instance uuid, seq bigint,
                                                   error_class text, error text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  f txb.failed;
BEGIN
  PERFORM txb.relay_fence('txb.relay_record_failed', relay_record_failed.source, relay_record_failed.epoch,
                          relay_record_failed.instance);
  SELECT * INTO f FROM txb.failed AS o
   WHERE o.source = relay_record_failed.source AND o.seq = relay_record_failed.seq AND o.side = 'outbox'
     AND o.replaced_by IS NULL;
  IF f.state IN ('resolved', 'discarded') THEN
    RETURN f.number; -- done with, whoever sent it
  ELSIF f.number IS NOT NULL THEN
    UPDATE txb.failed AS o
       SET state = 'dead', attempts = o.attempts + 1, error_class = relay_record_failed.error_class,
           error = relay_record_failed.error, updated_at = clock_timestamp()
     WHERE o.number = f.number
    RETURNING o.* INTO f;
  ELSE
    INSERT INTO txb.failed AS o (number, place, holds, side, state, source, seq, topic, key, id, type, "time",
                                 content_type, headers, attempts, error_class, error)
    OVERRIDING SYSTEM VALUE
    SELECT n.number, n.number, i.key IS NOT NULL, 'outbox', 'dead', relay_record_failed.source, i.seq, i.topic,
           convert_to(i.key, 'UTF8'), i.id, i.type, i.created_at, i.content_type, i.headers, 1,
           relay_record_failed.error_class, relay_record_failed.error
      FROM (SELECT nextval('txb.failed_number_seq') AS number) AS n,
           txb.outbox AS i
     WHERE i.seq = relay_record_failed.seq
    RETURNING o.* INTO f;
  END IF;
  IF f.number IS NULL THEN
    RAISE EXCEPTION 'txb.relay_record_failed: there is no intent %', relay_record_failed.seq USING ERRCODE = 'TXB04';
  END IF;
  INSERT INTO txb.failed_history (number, event, state, attempt, who, error_class, error)
  SELECT f.number, 'failed', 'dead', f.attempts, 'relay ' || r.owner, f.error_class, f.error
    FROM txb.relay AS r
   WHERE r.source = relay_record_failed.source;
  IF f.key IS NOT NULL THEN
    INSERT INTO txb.relay_hold AS h (source, kind, topic, key, lo, failed_id, error)
    VALUES (f.source, 'key', f.topic, convert_from(f.key, 'UTF8'), f.seq, f.number, f.error)
    ON CONFLICT (source, topic, key) WHERE kind = 'key' DO UPDATE
       SET lo = least(h.lo, excluded.lo),
           failed_id = CASE WHEN excluded.lo < h.lo THEN excluded.failed_id ELSE h.failed_id END;
  END IF;
  RETURN f.number;
END
$$;
COMMENT ON FUNCTION txb.relay_record_failed(text, bigint, uuid, bigint, text, text) IS
  'Records an intent that Kafka refused, and holds its key from there on; returns its number in txb.failed. One that was '
  'sent again is dead again. Repeating it changes nothing but the count';

CREATE OR REPLACE FUNCTION txb.partition_drop(source text, older_than interval, OUT statement text, OUT partition text)
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

  -- Below every source's watermark, below everything that is held back by reference, and below what a replay job still
  -- has to read (J1). A pin that nobody has renewed for a week holds nothing any more: its owner is gone.
  SELECT least(min(r.watermark), (SELECT min(h.lo) - 1 FROM txb.relay_hold AS h),
               (SELECT min(p.lo) - 1 FROM txb.outbox_pin AS p WHERE p.seen_at > clock_timestamp() - interval '7 days'))
    INTO done FROM txb.relay AS r;
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
    -- A refused intent without a key holds nothing back; what waits for a decision, or to be sent again, takes its
    -- payload along, whichever source it is of. An edited copy has its own.
    EXECUTE format($sql$
      UPDATE txb.failed AS f SET payload = o.payload, kept = true, updated_at = clock_timestamp()
        FROM txb.%I AS o
       WHERE f.side = 'outbox' AND f.state IN ('retrying', 'held', 'dead') AND f.seq = o.seq AND NOT f.kept$sql$,
      one.name);
    EXECUTE format('TRUNCATE TABLE txb.%I', one.name);
    statement := format('ALTER TABLE txb.outbox DETACH PARTITION txb.%I CONCURRENTLY', one.name);
    partition := one.name;
    RETURN;
  END LOOP;
END
$$;
COMMENT ON FUNCTION txb.partition_drop(text, interval) IS
  'One step of dropping a partition whose intents are all published, older and not pinned; answers with the statement to send '
  'next, as txb_retention and outside a transaction';

REVOKE ALL ON TYPE txb.relay_decision FROM PUBLIC;
GRANT SELECT ON txb.relay_decision TO txb_relay, txb_reader;
GRANT EXECUTE ON FUNCTION
  txb.relay_decisions_take(text, bigint, uuid),
  txb.relay_settle(text, bigint, uuid, bigint[], text[], text[], bigint[])
TO txb_relay;

RESET ROLE;
