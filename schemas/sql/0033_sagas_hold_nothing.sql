-- A saga's commands, timers and answers hold nothing when Kafka refuses them: with their saga's number for their key, a
-- compensation would wait for ever behind an action of the same topic that is too large for it, and the saga with it (S1).
-- They are recorded without a key, as what has no order; the relay gives them their key when it sends them
-- (outbox/relay_poll.c, outbox/sql/relay_read_loose.sql).

SET LOCAL ROLE txb_owner;

CREATE FUNCTION txb.keyed_by_its_saga(key text, headers jsonb, origin jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN origin IS NULL AND coalesce(key = headers ->> 'txb-saga', false);
COMMENT ON FUNCTION txb.keyed_by_its_saga(text, jsonb, jsonb) IS
  'Whether an intent is about the saga that its key names: it has no order, and holds nothing';

-- As in 0019, but for the key of such an intent.
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
    SELECT n.number, n.number, k.key IS NOT NULL, 'outbox', 'dead', relay_record_failed.source, i.seq, i.topic,
           convert_to(k.key, 'UTF8'), i.id, CASE WHEN i.origin IS NULL THEN i.type ELSE i.origin ->> 'type' END,
           coalesce((i.origin ->> 'time')::timestamptz, i.created_at), i.content_type, i.headers, i.origin, 1,
           relay_record_failed.error_class, relay_record_failed.error
      FROM (SELECT nextval('txb.failed_number_seq') AS number) AS n,
           txb.outbox AS i,
           LATERAL (SELECT CASE WHEN NOT txb.keyed_by_its_saga(i.key, i.headers, i.origin) THEN i.key END AS key) AS k
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

RESET ROLE;
