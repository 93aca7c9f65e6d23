-- Something that a message can do, for trying things out. Kept data may have it already.
CREATE SCHEMA IF NOT EXISTS dev;

CREATE TABLE IF NOT EXISTS dev.note (
  id uuid,
  key text,
  type text,
  body text,
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE OR REPLACE FUNCTION dev.apply(m txb.message) RETURNS txb.outcome
LANGUAGE plpgsql
AS $$
BEGIN
  INSERT INTO dev.note (id, key, type, body)
  VALUES (m.id, txb.key_text(m.key), m.type, convert_from(m.payload, 'UTF8'));
  RETURN txb.ok();
END
$$;

-- The mock cluster forgets all messages when it ends: positions in an earlier one mean nothing.
DELETE FROM txb.consumer_offset;
