-- Intents: txb.outbox, where applications write, and txb.scheduled, where intents wait for their time.
--
--   txb.uuid_v7() returns uuid                           a new id
--   txb.uuid_v7_at(at timestamptz) returns uuid          the same with another time in it
--   txb.uuid_v7_floor(at timestamptz) returns uuid       lower than every id of that millisecond: a bound, not an id
--   txb.uuid_v7_time(id uuid) returns timestamptz        the millisecond in an id
--
-- An intent is written once and never updated or deleted: no dead tuples, so that a long transaction elsewhere can't make the outbox grow. Partitions whose
-- intents are all published and old enough are dropped whole (0003). A crash of the server leaves the committed intents; the sequence may then skip up
-- to 32 numbers, which become holes that die.

SET LOCAL ROLE txb_owner;

-- One expression in the form that the planner inlines (RETURN, no SET clause, the clock read once): measured 2.3 us, of which gen_random_uuid takes 1.3;
-- the same in plpgsql 2.9. The fraction of the millisecond in 1/4096 fills the 12 bits behind the version, as common/uuid.c does.
CREATE FUNCTION txb.uuid_v7() RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN overlay(lpad(to_hex((date_part('epoch', clock_timestamp()) * 1000000)::bigint * 512 / 125), 15, '0')
               || substr(gen_random_uuid()::text, 20) PLACING '7' FROM 13 FOR 0)::uuid;
COMMENT ON FUNCTION txb.uuid_v7() IS 'A new UUID version 7 (RFC 9562): milliseconds, 12 bits of fraction, 62 random bits';

CREATE FUNCTION txb.uuid_v7_at(at timestamptz) RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN overlay(lpad(to_hex((date_part('epoch', at) * 1000000)::bigint * 512 / 125), 15, '0')
               || substr(gen_random_uuid()::text, 20) PLACING '7' FROM 13 FOR 0)::uuid;
COMMENT ON FUNCTION txb.uuid_v7_at(timestamptz) IS
  'A new UUID version 7 of a given time: a scheduled intent carries its due time, so that it is not older than a consumer''s inbox when it comes';

CREATE FUNCTION txb.uuid_v7_floor(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (lpad(to_hex(floor(date_part('epoch', at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;
COMMENT ON FUNCTION txb.uuid_v7_floor(timestamptz) IS 'The bound below every UUIDv7 of that millisecond; itself not a version 7 id';

CREATE FUNCTION txb.uuid_v7_time(id uuid) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN to_timestamp(('x' || lpad(substr(replace(id::text, '-', ''), 1, 12), 16, '0'))::bit(64)::bigint / 1000.0::double precision);
COMMENT ON FUNCTION txb.uuid_v7_time(uuid) IS 'The time in a UUIDv7, to the millisecond';

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
  CONSTRAINT outbox_seq PRIMARY KEY (seq),
  -- The limits of common/event.h. Built-in functions only, in an order that answers cheaply for what is usual.
  CONSTRAINT outbox_topic_name CHECK (octet_length(topic) BETWEEN 1 AND 249 AND topic !~ '[^a-zA-Z0-9._-]' AND topic NOT IN ('.', '..')),
  CONSTRAINT outbox_key_size CHECK (octet_length(key) <= 1024),
  CONSTRAINT outbox_type_size CHECK (octet_length(type) BETWEEN 1 AND 255),
  CONSTRAINT outbox_payload_size CHECK (octet_length(payload) <= 1000000),
  CONSTRAINT outbox_content_type_size CHECK (octet_length(content_type) BETWEEN 1 AND 255),
  CONSTRAINT outbox_headers_size CHECK (octet_length(headers::text) <= 16384),
  CONSTRAINT outbox_headers_object CHECK (headers IS NULL OR jsonb_typeof(headers) = 'object'
    AND NOT headers @? 'lax $.keyvalue() ? (@.value.type() != "string" || !(@.key like_regex "^[a-z0-9][a-z0-9_-]*$")
                        || @.key starts with "ce_" || @.key == "content-type")'
    AND jsonb_array_length(jsonb_path_query_array(headers, '$.keyvalue()')) <= 32),
  CONSTRAINT outbox_id_is_uuid_v7 CHECK (get_byte(uuid_send(id), 6) >> 4 = 7 AND get_byte(uuid_send(id), 8) >> 6 = 2)
) PARTITION BY RANGE (seq);

-- Not compressed: what is published is read once by the relay at full speed, and the processor time would be the application's.
ALTER TABLE txb.outbox ALTER COLUMN payload SET STORAGE EXTERNAL;

COMMENT ON TABLE txb.outbox IS
  'Intents: each becomes a Kafka message if and only if its transaction commits. Insert-only. Applications insert into this table, never into a partition.';
COMMENT ON COLUMN txb.outbox.seq IS 'Order of publishing; drawn by the database, never given by the application';
COMMENT ON COLUMN txb.outbox.id IS 'Message id, UUIDv7; consumers deduplicate by it';
COMMENT ON COLUMN txb.outbox.topic IS 'Kafka topic';
COMMENT ON COLUMN txb.outbox.key IS 'Intents of one topic and key arrive in order; null: no order, any partition';
COMMENT ON COLUMN txb.outbox.type IS 'CloudEvents type';
COMMENT ON COLUMN txb.outbox.payload IS 'The message''s value as it goes to Kafka; null: a message without a value';
COMMENT ON COLUMN txb.outbox.content_type IS 'Media type of the payload';
COMMENT ON COLUMN txb.outbox.headers IS 'Further Kafka headers: a JSON object of strings';
COMMENT ON COLUMN txb.outbox.created_at IS 'When the row was written; travels as ce_time. Applications can''t write it (R6)';
COMMENT ON CONSTRAINT outbox_seq ON txb.outbox IS 'The only index: what the application pays per intent counts';
COMMENT ON INDEX txb.outbox_seq IS 'The only index: what the application pays per intent counts';
COMMENT ON CONSTRAINT outbox_topic_name ON txb.outbox IS 'topic: 1 to 249 of [a-zA-Z0-9._-], not "." or ".."';
COMMENT ON CONSTRAINT outbox_key_size ON txb.outbox IS 'key: at most 1,024 bytes';
COMMENT ON CONSTRAINT outbox_type_size ON txb.outbox IS 'type: 1 to 255 bytes';
COMMENT ON CONSTRAINT outbox_payload_size ON txb.outbox IS 'payload: at most 1,000,000 bytes';
COMMENT ON CONSTRAINT outbox_content_type_size ON txb.outbox IS 'content_type: 1 to 255 bytes';
COMMENT ON CONSTRAINT outbox_headers_size ON txb.outbox IS 'headers: at most 16,384 bytes as JSON text';
COMMENT ON CONSTRAINT outbox_headers_object ON txb.outbox IS
  'headers: an object of at most 32 strings, names ^[a-z0-9][a-z0-9_-]*$, not starting with ce_ and not content-type';
COMMENT ON CONSTRAINT outbox_id_is_uuid_v7 ON txb.outbox IS 'id: a UUID of version 7, which the inbox is partitioned by (W7)';

COMMENT ON SEQUENCE txb.outbox_seq_seq IS 'Numbers of txb.outbox. A relay compares it with its position: behind it means intents were lost by a failover';

CREATE TABLE txb.scheduled (
  number bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT scheduled_number PRIMARY KEY,
  due timestamptz NOT NULL,
  LIKE txb.outbox INCLUDING STORAGE INCLUDING CONSTRAINTS
) WITH (fillfactor = 100, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE txb.scheduled DROP COLUMN seq;
ALTER TABLE txb.scheduled ALTER COLUMN created_at SET DEFAULT clock_timestamp();
CREATE INDEX scheduled_due ON txb.scheduled (due, number);

COMMENT ON TABLE txb.scheduled IS 'Intents with a due time; the relay moves them into txb.outbox when it has come, in (due, number) order (R10)';
COMMENT ON COLUMN txb.scheduled.number IS 'Order among intents of equal due time';
COMMENT ON COLUMN txb.scheduled.due IS 'Not published before';
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

-- The children's constraints keep their comments by INCLUDING COMMENTS in 0003; the ones of txb.scheduled are told here.
DO $$
DECLARE
  name text;
BEGIN
  FOR name IN
    SELECT c.conname FROM pg_catalog.pg_constraint AS c WHERE c.conrelid = 'txb.scheduled'::regclass AND c.contype = 'c'
  LOOP
    EXECUTE format('COMMENT ON CONSTRAINT %I ON txb.scheduled IS %L', name, 'As in txb.outbox: an intent that could not be published is refused now');
  END LOOP;
END
$$;

REVOKE ALL ON TYPE txb.outbox, txb.scheduled FROM PUBLIC;

-- An identity column asks for no right on its sequence. No SELECT, so no RETURNING id either: who needs the id takes it from txb.uuid_v7() first, or
-- publishes by txb.publish(), which returns it. SELECT (id) would let every application read the ids of all others.
-- Workers have no INSERT: handlers publish by txb.publish(), which derives the id from the delivery (W14).
GRANT INSERT (id, topic, key, type, payload, content_type, headers) ON txb.outbox TO txb_app;
GRANT EXECUTE ON FUNCTION txb.uuid_v7() TO txb_app, txb_relay, txb_worker, txb_admin;
GRANT EXECUTE ON FUNCTION txb.uuid_v7_at(timestamptz) TO txb_app, txb_worker;
GRANT EXECUTE ON FUNCTION txb.uuid_v7_floor(timestamptz), txb.uuid_v7_time(uuid) TO txb_app, txb_relay, txb_worker, txb_admin, txb_reader;

GRANT SELECT ON txb.outbox TO txb_relay, txb_reader;
GRANT SELECT ON SEQUENCE txb.outbox_seq_seq TO txb_relay, txb_reader, txb_admin;
GRANT SELECT ON txb.scheduled TO txb_relay, txb_reader;

-- A new owner needs CREATE on the schema at this moment, and never again.
GRANT CREATE ON SCHEMA txb TO txb_retention;
ALTER TABLE txb.outbox OWNER TO txb_retention;
REVOKE CREATE ON SCHEMA txb FROM txb_retention;

RESET ROLE;
