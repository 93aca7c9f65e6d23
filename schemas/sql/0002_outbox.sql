-- Intents: txb.outbox, where applications write, and txb.scheduled, where intents wait for their time.
--
--   txb.uuid_v7() returns uuid                           a new id
--   txb.uuid_v7_at(at timestamptz) returns uuid          the same with another time in it
--   txb.uuid_v7_floor(at timestamptz) returns uuid       lower than every id of that millisecond: a bound, not an id
--   txb.uuid_v7_time(id uuid) returns timestamptz        the millisecond in an id
--   txb.intent_fits(...), txb.intent_problem(...), txb.intent_refuse(...)      the limits, for the trigger and for 0004
--
-- An intent is written once and never updated or deleted: no dead tuples, so that a long transaction elsewhere can't
-- make the outbox grow. Partitions whose intents are all published and old enough are dropped whole (0003). A crash of
-- the server leaves the committed intents; the sequence may then skip up to 32 numbers, which become holes that die.

SET LOCAL ROLE txb_owner;

-- One expression in the form that the planner inlines (RETURN, no SET clause, the clock read once): measured 2.3 us, of
-- which gen_random_uuid takes 1.3; the same in plpgsql 2.9. The fraction of the millisecond in 1/4096 fills the 12 bits
-- behind the version, as common/uuid.c does.
CREATE FUNCTION txb.uuid_v7() RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN overlay(lpad(to_hex((date_part('epoch', clock_timestamp()) * 1000000)::bigint * 512 / 125), 15, '0')
               || substr(gen_random_uuid()::text, 20) PLACING '7' FROM 13 FOR 0)::uuid;
COMMENT ON FUNCTION txb.uuid_v7() IS
  'A new UUID version 7 (RFC 9562): milliseconds, 12 bits of fraction, 62 random bits';

CREATE FUNCTION txb.uuid_v7_at(at timestamptz) RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN overlay(lpad(to_hex((date_part('epoch', at) * 1000000)::bigint * 512 / 125), 15, '0')
               || substr(gen_random_uuid()::text, 20) PLACING '7' FROM 13 FOR 0)::uuid;
COMMENT ON FUNCTION txb.uuid_v7_at(timestamptz) IS
  'A new UUID version 7 of a given time: a scheduled intent carries its due time, so that it is not older than a '
  'consumer''s inbox when it comes';

CREATE FUNCTION txb.uuid_v7_floor(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (lpad(to_hex(floor(date_part('epoch', at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;
COMMENT ON FUNCTION txb.uuid_v7_floor(timestamptz) IS
  'The bound below every UUIDv7 of that millisecond; itself not a version 7 id';

CREATE FUNCTION txb.uuid_v7_time(id uuid) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN to_timestamp(('x0000' || substr(replace(id::text, '-', ''), 1, 12))::bit(64)::bigint / 1000.0::float8);
COMMENT ON FUNCTION txb.uuid_v7_time(uuid) IS 'The time in a UUIDv7, to the millisecond';

-- The limits of common/event.h: first whether an intent keeps them (inlined where it is called, about a microsecond),
-- then what is wrong, in words. Bodies in the RETURN form are bound to the built-in operators when they are created:
-- whatever search_path an application has, they mean the same.
CREATE FUNCTION txb.intent_fits(topic text, key text, type text, payload bytea, content_type text, headers jsonb,
                                id uuid) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN octet_length(topic) BETWEEN 1 AND 249 AND topic !~ '[^a-zA-Z0-9._-]' AND topic NOT IN ('.', '..')
  AND (key IS NULL OR octet_length(key) <= 1024)
  AND octet_length(type) BETWEEN 1 AND 255
  AND (payload IS NULL OR octet_length(payload) <= 1000000)
  AND (content_type IS NULL OR octet_length(content_type) BETWEEN 1 AND 255)
  AND (id IS NULL OR get_byte(uuid_send(id), 6) >> 4 = 7 AND get_byte(uuid_send(id), 8) >> 6 = 2)
  AND (headers IS NULL OR jsonb_typeof(headers) = 'object' AND octet_length(headers::text) <= 16384
       AND jsonb_array_length(jsonb_path_query_array(headers, '$.keyvalue()')) <= 32
       AND NOT headers @? '$.keyvalue() ? (@.value.type() != "string" || !(@.key like_regex "^[a-z0-9][a-z0-9_-]*$")
                           || @.key starts with "ce_" || @.key == "content-type")');
COMMENT ON FUNCTION txb.intent_fits(text, text, text, bytea, text, jsonb, uuid) IS
  'Whether an intent is within the limits; not true: txb.intent_problem tells why';

CREATE FUNCTION txb.intent_problem(topic text, key text, type text, payload bytea, content_type text, headers jsonb,
                                   id uuid) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
  WHEN topic IS NULL THEN 'topic is null'
  WHEN octet_length(topic) NOT BETWEEN 1 AND 249
    THEN format('topic has %s bytes, allowed are 1 to 249', octet_length(topic))
  WHEN topic ~ '[^a-zA-Z0-9._-]' OR topic IN ('.', '..')
    THEN format('topic "%s" is not a Kafka topic name: letters, digits, ".", "_" and "-"', topic)
  WHEN octet_length(key) > 1024 THEN format('key has %s bytes, at most 1024 are allowed', octet_length(key))
  WHEN type IS NULL THEN 'type is null'
  WHEN octet_length(type) NOT BETWEEN 1 AND 255
    THEN format('type has %s bytes, allowed are 1 to 255', octet_length(type))
  WHEN octet_length(payload) > 1000000
    THEN format('payload has %s bytes, at most 1000000 are allowed', octet_length(payload))
  WHEN octet_length(content_type) NOT BETWEEN 1 AND 255
    THEN format('content_type has %s bytes, allowed are 1 to 255', octet_length(content_type))
  WHEN get_byte(uuid_send(id), 6) >> 4 <> 7 OR get_byte(uuid_send(id), 8) >> 6 <> 2
    THEN format('id %s is not a UUID of version 7', id)
  WHEN headers IS NULL THEN NULL
  WHEN jsonb_typeof(headers) <> 'object'
    THEN format('headers is a JSON %s, not an object of strings', jsonb_typeof(headers))
  WHEN octet_length(headers::text) > 16384
    THEN format('headers has %s bytes as JSON text, at most 16384 are allowed', octet_length(headers::text))
  WHEN jsonb_array_length(jsonb_path_query_array(headers, '$.keyvalue()')) > 32
    THEN format('headers has %s entries, at most 32 are allowed',
                jsonb_array_length(jsonb_path_query_array(headers, '$.keyvalue()')))
  WHEN headers @? '$.keyvalue() ? (@.value.type() != "string")'
    THEN format('headers: the value of %s is not a string',
                jsonb_path_query_first(headers, '$.keyvalue() ? (@.value.type() != "string").key'))
  WHEN headers @? '$.keyvalue() ? (!(@.key like_regex "^[a-z0-9][a-z0-9_-]*$"))'
    THEN format('headers: %s is not a header name, which is of lower-case letters, digits, "_" and "-"',
                jsonb_path_query_first(headers, '$.keyvalue() ? (!(@.key like_regex "^[a-z0-9][a-z0-9_-]*$")).key'))
  WHEN headers @? '$.keyvalue() ? (@.key starts with "ce_" || @.key == "content-type")'
    THEN format('headers: %s is reserved',
                jsonb_path_query_first(
                  headers, '$.keyvalue() ? (@.key starts with "ce_" || @.key == "content-type").key'))
END;
COMMENT ON FUNCTION txb.intent_problem(text, text, text, bytea, text, jsonb, uuid) IS
  'What is wrong with an intent, naming the column and the limit; null: nothing';

CREATE FUNCTION txb.intent_refuse(caller text, problem text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  argument text := (regexp_match(problem, '^(?:row \d+: )?(\w+)'))[1];
BEGIN
  RAISE EXCEPTION '%: %', caller, problem USING
    ERRCODE = '22023',
    SCHEMA = 'txb', TABLE = 'outbox', COLUMN = argument,
    DETAIL = 'The intent was not written; the transaction is aborted.',
    HINT = CASE argument
      WHEN 'payload' THEN 'Publish a reference to what is larger; what is not JSON needs another content_type.'
      WHEN 'headers' THEN 'Headers are a JSON object of strings, for example {"trace-id": "7"}.'
      WHEN 'id' THEN 'Leave id out, or take it from txb.uuid_v7().'
      WHEN 'not_before' THEN 'Give a time that is at most 10 years ahead; seconds and milliseconds are easily mixed up.'
      WHEN 'strict_order' THEN 'Give a key, or leave strict_order out: intents without a key have no order.'
      ELSE 'The limits are in the comments of table txb.outbox.'
    END;
END
$$;
COMMENT ON FUNCTION txb.intent_refuse(text, text) IS
  'Raises 22023 for a problem that txb.intent_problem found; the column is named in the error''s fields too';

-- A trigger, not CHECK constraints: PostgreSQL reads and prepares every CHECK expression anew for every INSERT
-- statement. Measured per one-row INSERT: 9 us without checks, 43 us with one CHECK for each of these limits, 14 us
-- with one CHECK that calls a function, 12 us with this trigger. It runs with the inserter's rights and refuses in the
-- same words as txb.publish.
CREATE FUNCTION txb.intent_check() RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
  problem text;
BEGIN
  IF txb.intent_fits(NEW.topic, NEW.key, NEW.type, NEW.payload, NEW.content_type, NEW.headers, NEW.id) THEN
    RETURN NEW;
  END IF;
  problem := txb.intent_problem(NEW.topic, NEW.key, NEW.type, NEW.payload, NEW.content_type, NEW.headers, NEW.id);
  IF problem IS NOT NULL THEN
    PERFORM txb.intent_refuse('txb.outbox', problem);
  END IF;
  RETURN NEW;
END
$$;
COMMENT ON FUNCTION txb.intent_check() IS
  'Refuses an intent that is beyond a limit, and names the column and the limit';

CREATE TABLE txb.outbox (
  seq bigint GENERATED ALWAYS AS IDENTITY (CACHE 1),
  id uuid NOT NULL DEFAULT txb.uuid_v7(),
  topic text NOT NULL,
  key text,
  type text NOT NULL,
  payload bytea,
  content_type text,
  headers jsonb,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT outbox_seq PRIMARY KEY (seq)
) PARTITION BY RANGE (seq);
CREATE TRIGGER intent_check BEFORE INSERT ON txb.outbox FOR EACH ROW EXECUTE FUNCTION txb.intent_check();
COMMENT ON TRIGGER intent_check ON txb.outbox IS 'The limits of an intent';

COMMENT ON TABLE txb.outbox IS
  'Intents: each becomes a Kafka message if and only if its transaction commits. Insert-only. Applications insert '
  'into this table, never into a partition.';
COMMENT ON COLUMN txb.outbox.seq IS 'Order of publishing; drawn by the database, never given by the application';
COMMENT ON COLUMN txb.outbox.id IS 'Message id, UUID version 7; consumers deduplicate by it';
COMMENT ON COLUMN txb.outbox.topic IS 'Kafka topic: 1 to 249 of [a-zA-Z0-9._-], not "." or ".."';
COMMENT ON COLUMN txb.outbox.key IS
  'Intents of one topic and key arrive in order; null: no order, any partition. At most 1,024 bytes';
COMMENT ON COLUMN txb.outbox.type IS 'CloudEvents type, 1 to 255 bytes';
COMMENT ON COLUMN txb.outbox.payload IS
  'The message''s value as it goes to Kafka; null: a message without a value. At most 1,000,000 bytes';
COMMENT ON COLUMN txb.outbox.content_type IS 'Media type of the payload, 1 to 255 bytes';
COMMENT ON COLUMN txb.outbox.headers IS
  'Further Kafka headers: a JSON object of at most 32 strings and 16,384 bytes; names ^[a-z0-9][a-z0-9_-]*$, not '
  'starting with ce_ and not content-type';
COMMENT ON COLUMN txb.outbox.created_at IS
  'When the row was written; travels as ce_time. Applications can''t write it (R6)';
COMMENT ON CONSTRAINT outbox_seq ON txb.outbox IS 'The only index: what the application pays per intent counts';
COMMENT ON INDEX txb.outbox_seq IS 'The only index: what the application pays per intent counts';

COMMENT ON SEQUENCE txb.outbox_seq_seq IS
  'Numbers of txb.outbox. A relay compares it with its position: behind it means intents were lost by a failover';

CREATE TABLE txb.scheduled (
  number bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT scheduled_number PRIMARY KEY,
  due timestamptz NOT NULL,
  id uuid NOT NULL,
  topic text NOT NULL,
  key text,
  type text NOT NULL,
  payload bytea,
  content_type text,
  headers jsonb,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE TRIGGER intent_check BEFORE INSERT ON txb.scheduled FOR EACH ROW EXECUTE FUNCTION txb.intent_check();
COMMENT ON TRIGGER intent_check ON txb.scheduled IS
  'The limits of an intent: one that could not be published is refused now, not when it is due';
CREATE INDEX scheduled_due ON txb.scheduled (due, number);

COMMENT ON TABLE txb.scheduled IS
  'Intents with a due time; the relay moves them into txb.outbox when it has come, in (due, number) order (R10)';
COMMENT ON COLUMN txb.scheduled.number IS 'Order among intents of equal due time';
COMMENT ON COLUMN txb.scheduled.due IS 'Not published before; at most 10 years ahead when it is scheduled';
COMMENT ON COLUMN txb.scheduled.id IS 'Message id; it is kept when the intent moves';
COMMENT ON COLUMN txb.scheduled.topic IS 'As in txb.outbox';
COMMENT ON COLUMN txb.scheduled.key IS 'As in txb.outbox';
COMMENT ON COLUMN txb.scheduled.type IS 'As in txb.outbox';
COMMENT ON COLUMN txb.scheduled.payload IS 'As in txb.outbox';
COMMENT ON COLUMN txb.scheduled.content_type IS 'As in txb.outbox';
COMMENT ON COLUMN txb.scheduled.headers IS 'As in txb.outbox';
COMMENT ON COLUMN txb.scheduled.created_at IS 'When it was scheduled; the outbox row gets the time of the move';
COMMENT ON CONSTRAINT scheduled_number ON txb.scheduled IS 'Identity of a scheduled intent';
COMMENT ON INDEX txb.scheduled_number IS 'Identity of a scheduled intent';
COMMENT ON INDEX txb.scheduled_due IS 'The order in which intents are moved';
COMMENT ON SEQUENCE txb.scheduled_number_seq IS 'Numbers of txb.scheduled';

-- Payloads above 2 kB with lz4: measured for JSON of 7 and 100 kB per INSERT 25 and 343 us, against 32 and 426 us
-- uncompressed and 71 and 1994 us with the default pglz, at 57 % of the WAL and read back faster than either. A server
-- built without lz4 stores them uncompressed.
DO $$
BEGIN
  ALTER TABLE txb.outbox ALTER COLUMN payload SET COMPRESSION lz4;
  ALTER TABLE txb.scheduled ALTER COLUMN payload SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
  ALTER TABLE txb.outbox ALTER COLUMN payload SET STORAGE EXTERNAL;
  ALTER TABLE txb.scheduled ALTER COLUMN payload SET STORAGE EXTERNAL;
END
$$;

REVOKE ALL ON TYPE txb.outbox, txb.scheduled FROM PUBLIC;

-- An identity column asks for no right on its sequence. No SELECT, so no RETURNING id either: who needs the id takes it
-- from txb.uuid_v7() first, or publishes by txb.publish(), which returns it. SELECT (id) would let every application
-- read the ids of all others. Workers have no INSERT: handlers publish by txb.publish(), which derives the id from the
-- delivery (W14).
GRANT INSERT (id, topic, key, type, payload, content_type, headers) ON txb.outbox TO txb_app;
GRANT EXECUTE ON FUNCTION txb.uuid_v7() TO txb_app, txb_relay, txb_worker, txb_admin;
GRANT EXECUTE ON FUNCTION
  txb.intent_fits(text, text, text, bytea, text, jsonb, uuid),
  txb.intent_problem(text, text, text, bytea, text, jsonb, uuid),
  txb.intent_refuse(text, text)
TO txb_app; -- the trigger runs with the inserter's rights; these only compute
GRANT EXECUTE ON FUNCTION txb.uuid_v7_floor(timestamptz), txb.uuid_v7_time(uuid)
TO txb_app, txb_relay, txb_worker, txb_admin, txb_reader;

GRANT SELECT ON txb.outbox TO txb_relay, txb_reader;
GRANT SELECT ON SEQUENCE txb.outbox_seq_seq TO txb_relay, txb_reader, txb_admin;
GRANT SELECT ON txb.scheduled TO txb_relay, txb_reader;

-- A new owner needs CREATE on the schema at this moment, and never again.
GRANT CREATE ON SCHEMA txb TO txb_retention;
ALTER TABLE txb.outbox OWNER TO txb_retention;
REVOKE CREATE ON SCHEMA txb FROM txb_retention;

RESET ROLE;
