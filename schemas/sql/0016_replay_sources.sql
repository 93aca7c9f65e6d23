-- What replay jobs need where messages are published: intents that retention leaves for them, and what there is.
--
--   txb.outbox_pin_set(name text, lo bigint, what text) returns void
--   txb.outbox_unpin(name text) returns boolean
--   txb.replay_range(source text, topics text[] = null, out lowest_seq bigint, out lowest_time timestamptz,
--                    out highest bigint, out watermark bigint, out waits_from bigint)
--
-- Who wants to read pins first, then looks what is there: from then on it stays there. A crash leaves the pin, which holds
-- for seven days. partition_drop (0013) asks for pins.

SET LOCAL ROLE txb_owner;

CREATE TABLE txb.outbox_pin (
  name text COLLATE "C" CONSTRAINT outbox_pin_name PRIMARY KEY
    CONSTRAINT outbox_pin_name_size CHECK (octet_length(name) BETWEEN 1 AND 255),
  lo bigint NOT NULL CONSTRAINT outbox_pin_lo CHECK (lo >= 0),
  what text NOT NULL,
  made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
COMMENT ON TABLE txb.outbox_pin IS 'What retention must leave, since a replay job has still to read it (J1)';
COMMENT ON COLUMN txb.outbox_pin.name IS 'Who needs it: a job of another database, or a command that starts one';
COMMENT ON COLUMN txb.outbox_pin.lo IS 'Intents from this number on are kept';
COMMENT ON COLUMN txb.outbox_pin.what IS 'What for, for people';
COMMENT ON COLUMN txb.outbox_pin.made_at IS 'Since when';
COMMENT ON COLUMN txb.outbox_pin.seen_at IS 'When it was set last: one that nobody renews holds for seven days';
COMMENT ON CONSTRAINT outbox_pin_name ON txb.outbox_pin IS 'One pin a name';
COMMENT ON INDEX txb.outbox_pin_name IS 'One pin a name';
COMMENT ON CONSTRAINT outbox_pin_name_size ON txb.outbox_pin IS 'name: 1 to 255 bytes';
COMMENT ON CONSTRAINT outbox_pin_lo ON txb.outbox_pin IS 'lo: not negative';

CREATE FUNCTION txb.outbox_pin_set(name text, lo bigint, what text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  UPDATE txb.outbox_pin AS p SET lo = outbox_pin_set.lo, what = outbox_pin_set.what, seen_at = clock_timestamp()
   WHERE p.name = outbox_pin_set.name AND p.lo <= outbox_pin_set.lo
     AND p.seen_at > clock_timestamp() - interval '6 days';
  IF FOUND THEN
    RETURN;
  END IF;
  -- New, lower, or about to end: a partition that is being dropped just now was chosen without it. Once this lock is
  -- had, what is there stays there.
  PERFORM pg_advisory_xact_lock_shared(1954049330, -1);
  INSERT INTO txb.outbox_pin AS p (name, lo, what) VALUES (outbox_pin_set.name, outbox_pin_set.lo, outbox_pin_set.what)
  ON CONFLICT ON CONSTRAINT outbox_pin_name DO UPDATE
     SET lo = excluded.lo, what = excluded.what, seen_at = excluded.seen_at;
  DELETE FROM txb.outbox_pin AS p WHERE p.seen_at < clock_timestamp() - interval '30 days';
END
$$;
COMMENT ON FUNCTION txb.outbox_pin_set(text, bigint, text) IS
  'Keeps intents from a number on out of retention, for seven days from now; look after it what is there. The same name '
  'moves its pin';

CREATE FUNCTION txb.outbox_unpin(name text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  DELETE FROM txb.outbox_pin AS p WHERE p.name = outbox_unpin.name;
  RETURN FOUND;
END
$$;
COMMENT ON FUNCTION txb.outbox_unpin(text) IS 'Takes a pin away; false: there was none';

-- What Kafka has at this moment was committed here before, so it lies at or below the highest number that can be seen
-- now. The relay's own row lags: it is written after the acknowledgements.
CREATE FUNCTION txb.replay_range(source text, topics text[] DEFAULT NULL, OUT lowest_seq bigint,
                                 OUT lowest_time timestamptz, OUT highest bigint, OUT watermark bigint,
                                 OUT waits_from bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  SELECT r.highest, r.watermark INTO highest, watermark FROM txb.relay AS r WHERE r.source = replay_range.source;
  highest := greatest(highest, (SELECT max(o.seq) FROM txb.outbox AS o), 0);
  SELECT o.seq, o.created_at INTO lowest_seq, lowest_time FROM txb.outbox AS o ORDER BY o.seq LIMIT 1;
  waits_from := least(
    (SELECT min(h.lo) FROM txb.relay_hold AS h
      WHERE h.source = replay_range.source AND (topics IS NULL OR h.topic = ANY (topics))),
    (SELECT min(f.seq) FROM txb.failed AS f
      WHERE f.side = 'outbox' AND f.source = replay_range.source AND f.state IN ('retrying', 'held', 'dead')
        AND (topics IS NULL OR f.topic = ANY (topics))));
END
$$;
COMMENT ON FUNCTION txb.replay_range(text, text[]) IS
  'What of an outbox can be replayed: the lowest number that is there and when it was written, the highest that can be '
  'seen, the watermark (null: no relay has served the source), and the lowest number of these topics that waits for '
  'a decision, or for its topic, and is not published yet (null: none)';

REVOKE ALL ON TYPE txb.outbox_pin FROM PUBLIC;
GRANT SELECT ON txb.outbox_pin TO txb_relay, txb_reader;
GRANT EXECUTE ON FUNCTION txb.outbox_pin_set(text, bigint, text), txb.outbox_unpin(text) TO txb_relay, txb_admin;
GRANT EXECUTE ON FUNCTION txb.replay_range(text, text[]) TO txb_relay, txb_reader, txb_admin;

RESET ROLE;
