-- Copies of messages: intents that become, in Kafka, the message that they were made from. And what copies the dead.
--
--   txb.outbox_copy(target text, id uuid, source text, key bytea, type text, "time" timestamptz, payload bytea,
--                   content_type text, headers jsonb, extra jsonb) returns void
--       writes the intent of a copy into the topic `target`; `extra`: further headers, or null. Granted to nobody: what
--       is granted and copies calls it with the rights of txb_owner
--   txb.replay_count(headers jsonb) returns int         how often a message was replayed into a topic, by its header
--   txb.replay_count_max() returns int                  more often than that nothing is: who copies refuses it
--   txb.group_register(group_name text, dead_letter_topic text) returns void
--       a worker that begins says where its group's dead messages are copied to; null: nowhere
--   txb.group_registered(group_name text) returns table (dead_letter_topic text, since timestamptz)
--       what is in force by that; no row: no worker has told anything but the default
--   txb.outbox_served() returns boolean                 whether a relay has ever served this outbox
--
-- An ordinary intent says what its message is to be, and the relay adds the rest. A copy has been a message before, maybe
-- a foreign one: its key may be no text, it may have no type, headers without a value, more of everything than an intent
-- may have. It goes through the outbox all the same, so that it is there if and only if what it stands for has committed,
-- in order, and once. What the columns can't say is in txb.outbox.origin, by which the relay knows a copy:
--
--   source, type, time   the CloudEvents attributes as they were, the time in RFC 3339; absent: it had none
--   key                  the key in base64, where column key, being text of at most 1,024 bytes, only stands in for it
--
-- Its headers are in column headers, in the form of txb.failed.headers and txb.message.headers. A consumer gives the copy
-- the id of column id, which is the original's: a group that had the one knows the other (outbox/relay_origin.c).
--
-- A copy is bound by none of the limits of intents. What Kafka refuses of it, its size above all, is a failed message of
-- the publishing side like any other (R5).

SET LOCAL ROLE txb_owner;

-- ---- relays of before -----------------------------------------------------------------------------------------------

-- They would publish a copy as an ordinary intent, under its stand-ins. The first statement of each poll asks this table
-- for `source`: since it isn't called so any more, no relay of before reads another intent once this has committed, and
-- each ends with the line that the schema is of another version. A poll under way is waited for.
ALTER TABLE txb.relay_decision RENAME COLUMN source TO of_source;

CREATE OR REPLACE FUNCTION txb.outbox_decide(number bigint, action text, payload bytea, content_type text, headers jsonb, who text,
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
    INSERT INTO txb.relay_decision (of_source, failed_id, topic, key)
    VALUES (f.source, coalesce(edition, f.number), f.topic, convert_from(f.key, 'UTF8'));
  END IF;
  RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION txb.relay_decisions_take(source text, epoch bigint, instance uuid)
RETURNS TABLE (topic text, key text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  PERFORM txb.relay_fence('txb.relay_decisions_take', relay_decisions_take.source, relay_decisions_take.epoch,
                          relay_decisions_take.instance);
  RETURN QUERY
  WITH taken AS (
    DELETE FROM txb.relay_decision AS d
     WHERE d.number IN (SELECT n.number FROM txb.relay_decision AS n WHERE n.of_source = relay_decisions_take.source
                         ORDER BY n.number LIMIT 5000)
    RETURNING d.topic, d.key)
  SELECT DISTINCT CASE WHEN t.key IS NOT NULL THEN t.topic END, t.key FROM taken AS t;
END
$$;

-- ---- what a copy has ------------------------------------------------------------------------------------------------

ALTER TABLE txb.outbox ADD COLUMN origin jsonb;
COMMENT ON COLUMN txb.outbox.origin IS
  'Of a copy: what the message was and the columns can''t say; null: an ordinary intent. Applications can''t write it';
ALTER TABLE txb.failed ADD COLUMN origin jsonb;
COMMENT ON COLUMN txb.failed.origin IS 'Outbox side: as in txb.outbox. Its type is in column type already';

-- ---- the limits -----------------------------------------------------------------------------------------------------

-- As txb.intent_check, which stays the one of txb.scheduled: a copy has no due time.
CREATE FUNCTION txb.outbox_check() RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
  problem text;
BEGIN
  IF NEW.origin IS NOT NULL THEN
    problem := txb.intent_problem(NEW.topic, NULL, '-', NULL, NULL, NULL, NEW.id);
  ELSIF txb.intent_fits(NEW.topic, NEW.key, NEW.type, NEW.payload, NEW.content_type, NEW.headers, NEW.id) THEN
    RETURN NEW;
  ELSE
    problem := txb.intent_problem(NEW.topic, NEW.key, NEW.type, NEW.payload, NEW.content_type, NEW.headers, NEW.id);
  END IF;
  IF problem IS NOT NULL THEN
    PERFORM txb.intent_refuse('txb.outbox', problem);
  END IF;
  RETURN NEW;
END
$$;
COMMENT ON FUNCTION txb.outbox_check() IS
  'Refuses an intent that is beyond a limit, and names the column and the limit; of a copy only topic and id are limited';
DROP TRIGGER intent_check ON txb.outbox;
CREATE TRIGGER intent_check BEFORE INSERT ON txb.outbox FOR EACH ROW EXECUTE FUNCTION txb.outbox_check();
COMMENT ON TRIGGER intent_check ON txb.outbox IS 'The limits of an intent';

-- ---- copying --------------------------------------------------------------------------------------------------------

CREATE FUNCTION txb.outbox_copy(target text, id uuid, source text, key bytea, type text, "time" timestamptz,
                                payload bytea, content_type text, headers jsonb, extra jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  -- The same for the same key, since order and holds go by it, and short enough for their index. A text that reads like
  -- what stands in for another key shares its holds, and nothing else.
  standin text := encode(key, 'escape'); -- itself, if it is ASCII without a backslash
BEGIN
  IF jsonb_typeof(headers) <> 'object' OR jsonb_typeof(extra) <> 'object' THEN
    RAISE EXCEPTION 'txb.outbox_copy: headers and extra are JSON objects, or null' USING ERRCODE = '22023';
  END IF;
  IF octet_length(standin) <> octet_length(key) THEN
    standin := txb.key_text(key);
  END IF;
  IF octet_length(standin) > 1024 THEN
    standin := left(standin, 200) || ' sha256:' || encode(sha256(key), 'hex');
  END IF;
  INSERT INTO txb.outbox (id, topic, key, type, payload, content_type, headers, origin)
  VALUES (id, target, standin, coalesce(nullif(type, ''), '-'), payload, content_type,
          nullif(coalesce(headers, '{}') || coalesce(extra, '{}'), '{}'),
          jsonb_strip_nulls(jsonb_build_object(
            'source', source, 'type', type,
            'time', CASE WHEN "time" >= '0001-01-02Z' AND "time" < '9999-12-31Z'
                         THEN to_char("time" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') END,
            'key', CASE WHEN convert_to(standin, 'UTF8') <> key THEN translate(encode(key, 'base64'), E'\n', '') END)));
END
$$;
COMMENT ON FUNCTION txb.outbox_copy(text, uuid, text, bytea, text, timestamptz, bytea, text, jsonb, jsonb) IS
  'Writes an intent that becomes, in a topic, the message which it is told of, with further headers; a null payload is '
  'none. Published if and only if the transaction commits';

-- Whoever copies sets it to one more than it was; a number that is too long to be one is none of ours, and ends it.
CREATE FUNCTION txb.replay_count(headers jsonb) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN headers ->> 'txb-replayed' ~ '^[0-9]{1,9}$' THEN (headers ->> 'txb-replayed')::int
            WHEN headers ->> 'txb-replayed' ~ '^[0-9]+$' THEN 999999999
            ELSE 0 END;
COMMENT ON FUNCTION txb.replay_count(jsonb) IS
  'How often a message was replayed into a topic: header txb-replayed; 0: never, or that is no number';

CREATE FUNCTION txb.replay_count_max() RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 10;
COMMENT ON FUNCTION txb.replay_count_max() IS
  'A message that was replayed into topics so often goes into none any more: somebody reads what he writes';

-- ---- copies that Kafka refuses (R5) ---------------------------------------------------------------------------------

-- An edition has an id of its own: where the headers hold the original's, the relay puts it in their place.
CREATE OR REPLACE FUNCTION txb.outbox_edition(f txb.failed, payload bytea, content_type text, headers jsonb)
RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  edition bigint := nextval('txb.failed_number_seq');
  -- What a copy came with may break the limits of intents: what is new may not.
  problem text := coalesce(
    CASE WHEN f.origin IS NULL
         THEN txb.intent_problem(f.topic, convert_from(f.key, 'UTF8'), f.type, payload, content_type, headers, NULL)
         ELSE txb.failed_edit_problem(f, payload, content_type, headers) END,
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
                          payload, content_type, headers, origin, error_class, sqlstate, error)
  OVERRIDING SYSTEM VALUE
  VALUES (edition, f.place, f.number, f.side, 'retrying', f.key IS NOT NULL, true, f.source, f.seq,
          f.topic, f.key, txb.uuid_v7(), f.type, f."time", payload, content_type, headers, f.origin, f.error_class,
          f.sqlstate, f.error);
  RETURN edition;
END
$$;

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
                                 content_type, headers, origin, attempts, error_class, error)
    OVERRIDING SYSTEM VALUE
    SELECT n.number, n.number, i.key IS NOT NULL, 'outbox', 'dead', relay_record_failed.source, i.seq, i.topic,
           convert_to(i.key, 'UTF8'), i.id, CASE WHEN i.origin IS NULL THEN i.type ELSE i.origin ->> 'type' END,
           coalesce((i.origin ->> 'time')::timestamptz, i.created_at), i.content_type, i.headers, i.origin, 1,
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

-- ---- the dead -------------------------------------------------------------------------------------------------------

CREATE TABLE txb.consumer_group (
  group_name text COLLATE "C" CONSTRAINT consumer_group_name PRIMARY KEY
    CONSTRAINT consumer_group_size CHECK (octet_length(group_name) BETWEEN 1 AND 255),
  dead_letter_topic text COLLATE "C",
  registered_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE txb.consumer_group IS
  'What the workers of a group have told when they began; no row: nothing that is not the default';
COMMENT ON COLUMN txb.consumer_group.group_name IS 'Kafka consumer group';
COMMENT ON COLUMN txb.consumer_group.dead_letter_topic IS
  'Kafka topic into which its messages are copied that become dead; null: none';
COMMENT ON COLUMN txb.consumer_group.registered_at IS 'Since when it is so';
COMMENT ON CONSTRAINT consumer_group_name ON txb.consumer_group IS 'One row per group';
COMMENT ON INDEX txb.consumer_group_name IS 'One row per group';
COMMENT ON CONSTRAINT consumer_group_size ON txb.consumer_group IS 'group_name: 1 to 255 bytes';

CREATE FUNCTION txb.group_register(group_name text, dead_letter_topic text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  problem text := txb.intent_problem(coalesce(dead_letter_topic, '-'), NULL, '-', NULL, NULL, NULL, NULL);
BEGIN
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION 'txb.group_register: dead letter %', problem USING ERRCODE = '22023';
  END IF;
  -- Nothing is written where nothing changes: workers begin often, and most have no such topic.
  IF group_register.dead_letter_topic IS NOT DISTINCT FROM
     (SELECT g.dead_letter_topic FROM txb.consumer_group AS g WHERE g.group_name = group_register.group_name) THEN
    RETURN;
  END IF;
  INSERT INTO txb.consumer_group AS g (group_name, dead_letter_topic)
  VALUES (group_register.group_name, group_register.dead_letter_topic)
  ON CONFLICT ON CONSTRAINT consumer_group_name DO UPDATE
     SET dead_letter_topic = excluded.dead_letter_topic, registered_at = excluded.registered_at
   WHERE g.dead_letter_topic IS DISTINCT FROM excluded.dead_letter_topic;
END
$$;
COMMENT ON FUNCTION txb.group_register(text, text) IS
  'Where the dead messages of a group are copied to; null: nowhere. The last worker that began is right';

CREATE FUNCTION txb.failed_dead_target(f txb.failed) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT g.dead_letter_topic FROM txb.consumer_group AS g WHERE g.group_name = f.group_name
$$;
COMMENT ON FUNCTION txb.failed_dead_target(txb.failed) IS
  'The topic into which a message of a group is copied when it becomes dead; null: none';

-- A trigger, since a message becomes dead in several places and none may be forgotten: set aside as dead at once
-- (failed_add), at its last attempt (retry_settle), condemned for what it has killed (failed_condemn). The copy is
-- written in the transaction that makes it dead: a crash before its COMMIT leaves neither, after it both, and the relay
-- of this database publishes the one copy.
CREATE FUNCTION txb.failed_dead() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  target text := txb.failed_dead_target(NEW);
  -- Of an earlier death, of a copy that came back: what is not told of this one must not show.
  headers jsonb := NEW.headers - ARRAY['txb-group', 'txb-topic', 'txb-partition', 'txb-offset', 'txb-failed', 'txb-attempts',
                                       'txb-error-class', 'txb-error-sqlstate', 'txb-error', 'txb-dead-at'];
BEGIN
  IF target IS NOT NULL THEN
    PERFORM txb.outbox_copy(
      target, NEW.id, NEW.source, NEW.key, NEW.type, NEW."time", NEW.payload, NEW.content_type, headers,
      jsonb_strip_nulls(jsonb_build_object(
        'txb-group', NEW.group_name, 'txb-topic', NEW.topic, 'txb-partition',
        coalesce((SELECT nullif(l.from_partition, -1) FROM txb.job_lane AS l WHERE l.lane = -NEW.partition),
                 NEW.partition)::text,
        'txb-offset', NEW."offset"::text, 'txb-failed', NEW.number::text, 'txb-attempts', NEW.attempts::text,
        'txb-error-class', NEW.error_class, 'txb-error-sqlstate', NEW.sqlstate, 'txb-error', left(NEW.error, 1000),
        'txb-dead-at', to_char(NEW.updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))));
  END IF;
  RETURN NULL;
END
$$;
COMMENT ON FUNCTION txb.failed_dead() IS
  'Copies a message of a group that has become dead into the group''s dead-letter topic, if it has one';
CREATE TRIGGER failed_dead AFTER INSERT ON txb.failed FOR EACH ROW
  WHEN (NEW.state = 'dead' AND NEW.side = 'consumer' AND NEW.id IS NOT NULL) EXECUTE FUNCTION txb.failed_dead();
CREATE TRIGGER failed_dead_later AFTER UPDATE OF state ON txb.failed FOR EACH ROW
  WHEN (NEW.state = 'dead' AND OLD.state <> 'dead' AND NEW.side = 'consumer' AND NEW.id IS NOT NULL)
  EXECUTE FUNCTION txb.failed_dead();
COMMENT ON TRIGGER failed_dead ON txb.failed IS 'A copy for the group''s dead-letter topic: dead at once';
COMMENT ON TRIGGER failed_dead_later ON txb.failed IS
  'A copy for the group''s dead-letter topic: each time that it becomes dead';

CREATE FUNCTION txb.group_registered(group_name text) RETURNS TABLE (dead_letter_topic text, since timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT g.dead_letter_topic, g.registered_at FROM txb.consumer_group AS g WHERE g.group_name = group_registered.group_name
$$;
COMMENT ON FUNCTION txb.group_registered(text) IS
  'Where the dead messages of a group are copied to, and since when; no row: nowhere, and no worker ever said otherwise';

CREATE FUNCTION txb.outbox_served() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
RETURN EXISTS (SELECT FROM txb.relay AS r WHERE r.epoch > 0);
COMMENT ON FUNCTION txb.outbox_served() IS
  'Whether a relay has ever served the outbox of this database: if not, copies of dead messages stay in it';

REVOKE ALL ON TYPE txb.consumer_group FROM PUBLIC;
GRANT SELECT ON txb.consumer_group TO txb_reader;
GRANT EXECUTE ON FUNCTION txb.group_register(text, text) TO txb_worker;
GRANT EXECUTE ON FUNCTION txb.group_registered(text), txb.outbox_served() TO txb_relay, txb_worker, txb_reader, txb_admin;
GRANT EXECUTE ON FUNCTION txb.replay_count(jsonb), txb.replay_count_max() TO txb_worker, txb_reader, txb_admin;

RESET ROLE;
