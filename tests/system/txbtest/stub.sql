-- Just enough of the schema txb for the verifier's own tests, which run without txbroker. Its outbox is one plain table.
CREATE SCHEMA txb;
CREATE TABLE txb.outbox (seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id uuid NOT NULL DEFAULT gen_random_uuid(), topic text NOT NULL, key text,
  type text NOT NULL, payload bytea, content_type text, created_at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE txb.relay (source text PRIMARY KEY, highest bigint NOT NULL, watermark bigint NOT NULL);
CREATE TABLE txb.relay_holes (source text, page bigint, holes int8multirange);
CREATE TABLE txb.consumer_offset (group_name text, topic text, partition int, next_offset bigint, consumed bigint, applied bigint, duplicate bigint, failed bigint);
CREATE FUNCTION txb.uuid_v7() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()';
CREATE FUNCTION txb.publish(topic text, key text, type text, payload jsonb, not_before timestamptz DEFAULT NULL, strict_order boolean DEFAULT false)
RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE v_id uuid;
BEGIN
  IF strict_order THEN
    PERFORM pg_advisory_xact_lock(hashtextextended(topic || chr(10) || key, 0));
  END IF;
  INSERT INTO txb.outbox (topic, key, type, payload, content_type) VALUES (topic, key, type, convert_to(payload::text, 'UTF8'), 'application/json')
  RETURNING id INTO v_id;
  RETURN v_id;
END $$;
