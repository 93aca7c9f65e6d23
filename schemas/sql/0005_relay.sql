-- The relay's position: one row per source, its holes in pages, what it holds back. Same database as the intents: a
-- failover that loses rows loses the position with them.
--
--   txb.relay_acquire(source text, owner text, instance uuid, lease_ms bigint, event_source text)
--       returns setof txb.relay: the row, or none, held by another
--   txb.relay_renew(source text, epoch bigint, instance uuid, lease_ms bigint, state text = null,
--                   last_error text = null, oldest_hole bigint = null, oldest_hole_since timestamptz = null,
--                   oldest_hole_holders jsonb = null) returns timestamptz (lease_until)
--   txb.relay_checkpoint(source text, epoch bigint, instance uuid, checkpoint bigint, highest bigint,
--                        watermark bigint, published bigint, lease_ms bigint, pages bigint[], holes text[])
--       returns bigint (the new checkpoint number)
--   txb.relay_release(source text, epoch bigint, instance uuid) returns boolean
--       clean end; false: it was not held any more
--   txb.relay_hold_set(source text, epoch bigint, instance uuid, kind text, topic text, key text, lo bigint,
--                      error text) returns bigint (number)
--   txb.relay_hold_release(source text, epoch bigint, instance uuid, kind text, topic text, key text) returns boolean
--   txb.scheduled_move(source text, epoch bigint, instance uuid, max_rows int) returns int
--   txb.outbox_holders() returns table(virtualtransaction text, xid xid, pid int, usename text,
--                                      application_name text, state text, query text, query_start timestamptz,
--                                      xact_start timestamptz, gid text)
--
-- Everything that a relay changes compares epoch and instance with the row under its lock, the checkpoint also its
-- number (R7), and raises TXB01 when they differ: then another relay holds the source, or this is another server than
-- before. Published is a delta; pages are seq >> 14, with the holes of each page as text of an int8multirange
-- ('{[5,6),[9,12)}'); '{}' removes the page. A range belongs to the page in which it begins, however far it goes: a gap
-- of a billion numbers is one range in one page. Holes are what R4 says: numbers not seen, and numbers read but not
-- acknowledged.

SET LOCAL ROLE txb_owner;

CREATE TABLE txb.relay (
  source text COLLATE "C" CONSTRAINT relay_source PRIMARY KEY
    CONSTRAINT relay_source_name CHECK (source ~ '^[a-zA-Z0-9._-]{1,100}$'),
  epoch bigint NOT NULL DEFAULT 0,
  owner text,
  instance uuid,
  lease_until timestamptz NOT NULL DEFAULT '-infinity',
  lane text NOT NULL DEFAULT 'poll' CONSTRAINT relay_lane CHECK (lane IN ('poll', 'wal')),
  checkpoint bigint NOT NULL DEFAULT 0,
  highest bigint NOT NULL DEFAULT 0,
  watermark bigint NOT NULL DEFAULT 0 CONSTRAINT relay_watermark CHECK (watermark <= highest),
  published bigint NOT NULL DEFAULT 0,
  backend_pid int,
  session_locked boolean NOT NULL DEFAULT false,
  event_source text,
  oldest_hole bigint,
  oldest_hole_since timestamptz,
  oldest_hole_holders jsonb,
  state text NOT NULL DEFAULT 'free' CONSTRAINT relay_state CHECK (state IN ('free', 'running', 'stopped')),
  last_error text,
  acquired_at timestamptz,
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
COMMENT ON TABLE txb.relay IS
  'Sources: who relays each, and how far it came. Changed by the txb.relay_* functions only';
COMMENT ON COLUMN txb.relay.source IS 'Name of the source';
COMMENT ON COLUMN txb.relay.epoch IS 'Fencing token: grows with every holder';
COMMENT ON COLUMN txb.relay.owner IS 'Name of the relay that holds the source; null: none';
COMMENT ON COLUMN txb.relay.instance IS
  'Random id of the holding process: tells the same server from another one behind the same address (R7)';
COMMENT ON COLUMN txb.relay.lease_until IS 'A holder that has not renewed by then is replaced; by this server''s clock';
COMMENT ON COLUMN txb.relay.lane IS 'How the source is read: poll or wal';
COMMENT ON COLUMN txb.relay.checkpoint IS 'Number of the last checkpoint, compared by the next (R7)';
COMMENT ON COLUMN txb.relay.highest IS
  'Every number up to it is published, refused, held (txb.relay_hold), dead, or in txb.relay_holes';
COMMENT ON COLUMN txb.relay.watermark IS
  'Every number up to it is published, refused, held (txb.relay_hold), or dead';
COMMENT ON COLUMN txb.relay.published IS 'Count of intents published, repetitions after a crash included';
COMMENT ON COLUMN txb.relay.backend_pid IS 'Server process of the holder''s connection';
COMMENT ON COLUMN txb.relay.session_locked IS
  'The holder''s connection keeps the advisory lock of the source: when that is free, the holder is gone';
COMMENT ON COLUMN txb.relay.event_source IS 'CloudEvents source of its messages';
COMMENT ON COLUMN txb.relay.oldest_hole IS
  'Lowest hole that a running transaction may still fill, when older than a second';
COMMENT ON COLUMN txb.relay.oldest_hole_since IS 'Since when';
COMMENT ON COLUMN txb.relay.oldest_hole_holders IS 'The sessions that may fill it';
COMMENT ON COLUMN txb.relay.state IS 'free, running, or stopped (waits for a person; see last_error)';
COMMENT ON COLUMN txb.relay.last_error IS 'What went wrong last';
COMMENT ON COLUMN txb.relay.acquired_at IS 'When the holder got it';
COMMENT ON COLUMN txb.relay.updated_at IS 'Last change';
COMMENT ON CONSTRAINT relay_source ON txb.relay IS 'One row per source';
COMMENT ON INDEX txb.relay_source IS 'One row per source';
COMMENT ON CONSTRAINT relay_source_name ON txb.relay IS 'source: 1 to 100 of [a-zA-Z0-9._-]';
COMMENT ON CONSTRAINT relay_lane ON txb.relay IS 'lane: poll or wal';
COMMENT ON CONSTRAINT relay_watermark ON txb.relay IS 'The watermark lies at or below the highest';
COMMENT ON CONSTRAINT relay_state ON txb.relay IS 'state: free, running or stopped';

CREATE TABLE txb.relay_holes (
  source text COLLATE "C" NOT NULL,
  page bigint NOT NULL,
  holes int8multirange NOT NULL CONSTRAINT relay_holes_in_page
    CHECK (NOT isempty(holes) AND lower(holes) >= page << 14 AND lower(holes) < (page + 1) << 14),
  CONSTRAINT relay_holes_key PRIMARY KEY (source, page)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE txb.relay_holes IS
  'Numbers up to the highest that are not known to be published or dead, in pages of 16,384, so that a checkpoint '
  'writes only what changed';
COMMENT ON COLUMN txb.relay_holes.source IS 'Name of the source';
COMMENT ON COLUMN txb.relay_holes.page IS 'seq >> 14';
COMMENT ON COLUMN txb.relay_holes.holes IS 'The numbers';
COMMENT ON CONSTRAINT relay_holes_key ON txb.relay_holes IS 'One row per page';
COMMENT ON INDEX txb.relay_holes_key IS 'One row per page';
COMMENT ON CONSTRAINT relay_holes_in_page ON txb.relay_holes IS 'Holes that begin in that page only, and at least one';

CREATE TABLE txb.relay_hold (
  number bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT relay_hold_number PRIMARY KEY,
  source text COLLATE "C" NOT NULL,
  kind text NOT NULL CONSTRAINT relay_hold_kind CHECK (kind IN ('topic', 'key')),
  topic text COLLATE "C" NOT NULL,
  key text COLLATE "C",
  lo bigint NOT NULL,
  failed_id bigint,
  error text NOT NULL,
  since timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT relay_hold_key CHECK ((kind = 'key') = (key IS NOT NULL))
);
CREATE UNIQUE INDEX relay_hold_one_topic ON txb.relay_hold (source, topic) WHERE kind = 'topic';
CREATE UNIQUE INDEX relay_hold_one_key ON txb.relay_hold (source, topic, key) WHERE kind = 'key';
COMMENT ON TABLE txb.relay_hold IS
  'What is not published for now, by reference to seq: a topic that is missing or forbidden, a key behind an intent '
  'that Kafka refused. Retention keeps the intents';
COMMENT ON COLUMN txb.relay_hold.number IS 'Identity';
COMMENT ON COLUMN txb.relay_hold.source IS 'Name of the source';
COMMENT ON COLUMN txb.relay_hold.kind IS 'topic: probed and released by the relay; key: waits for an operator';
COMMENT ON COLUMN txb.relay_hold.topic IS 'Kafka topic';
COMMENT ON COLUMN txb.relay_hold.key IS 'The key; null for a whole topic';
COMMENT ON COLUMN txb.relay_hold.lo IS 'Intents of that topic or key are held from this number on';
COMMENT ON COLUMN txb.relay_hold.failed_id IS 'The row of txb.failed at the head';
COMMENT ON COLUMN txb.relay_hold.error IS 'Why';
COMMENT ON COLUMN txb.relay_hold.since IS 'Since when';
COMMENT ON CONSTRAINT relay_hold_number ON txb.relay_hold IS 'Identity';
COMMENT ON INDEX txb.relay_hold_number IS 'Identity';
COMMENT ON SEQUENCE txb.relay_hold_number_seq IS 'Numbers of txb.relay_hold';
COMMENT ON CONSTRAINT relay_hold_kind ON txb.relay_hold IS 'kind: topic or key';
COMMENT ON CONSTRAINT relay_hold_key ON txb.relay_hold IS 'A hold of a key names it, one of a topic does not';
COMMENT ON INDEX txb.relay_hold_one_topic IS 'One hold per topic';
COMMENT ON INDEX txb.relay_hold_one_key IS 'One hold per key';

-- The holder's session keeps this lock: a crashed holder's connection is gone and with it the lock, so that its
-- successor need not wait for the lease.
CREATE FUNCTION txb.relay_session_lock(source text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  -- Taken once a session: the lock counts, and an unlock would take back only one.
  RETURN EXISTS (SELECT FROM pg_locks AS l
                  WHERE l.locktype = 'advisory' AND l.pid = pg_backend_pid() AND l.classid = 1954049330::oid
                    AND l.objid = (hashtext(source)::bigint & 4294967295)::oid AND l.objsubid = 2
                    AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()))
         OR pg_try_advisory_lock(1954049330, hashtext(source));
END
$$;
COMMENT ON FUNCTION txb.relay_session_lock(text) IS
  'Takes the source''s session-level advisory lock, if free; true: this session has it';

CREATE FUNCTION txb.relay_acquire(source text, owner text, instance uuid, lease_ms bigint, event_source text)
  RETURNS SETOF txb.relay
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp SET lock_timeout = '2s'
AS $$
DECLARE
  was txb.relay;
  locked boolean;
BEGIN
  IF pg_is_in_recovery() THEN
    RAISE EXCEPTION 'txb.relay_acquire: this server is in recovery, a standby; relays work on the primary'
      USING ERRCODE = '25006';
  END IF;
  IF owner IS NULL OR instance IS NULL OR lease_ms IS NULL OR lease_ms NOT BETWEEN 100 AND 3600000 THEN
    RAISE EXCEPTION 'txb.relay_acquire: owner and instance are needed, and a lease_ms of 100 to 3600000'
      USING ERRCODE = '22023';
  END IF;
  INSERT INTO txb.relay AS r (source) VALUES (relay_acquire.source) ON CONFLICT DO NOTHING;
  SELECT * INTO STRICT was FROM txb.relay AS r WHERE r.source = relay_acquire.source FOR UPDATE;
  locked := txb.relay_session_lock(relay_acquire.source);
  -- Held: the lease runs, it is not our own, and its holder's session is alive. (Without session_locked the free lock
  -- proves nothing: the holder took over from one that was only stopped, and whose session kept the lock.)
  IF was.owner IS NOT NULL AND was.lease_until > clock_timestamp()
     AND was.instance IS DISTINCT FROM relay_acquire.instance AND NOT (locked AND was.session_locked) THEN
    IF locked THEN
      PERFORM pg_advisory_unlock(1954049330, hashtext(relay_acquire.source));
    END IF;
    RETURN;
  END IF;
  RETURN QUERY
  UPDATE txb.relay AS r
     SET epoch = r.epoch + 1, owner = relay_acquire.owner, instance = relay_acquire.instance,
         lease_until = clock_timestamp() + relay_acquire.lease_ms * interval '1 millisecond',
         backend_pid = pg_backend_pid(), session_locked = locked, event_source = relay_acquire.event_source,
         state = 'running', oldest_hole = NULL, oldest_hole_since = NULL, oldest_hole_holders = NULL,
         acquired_at = clock_timestamp(), updated_at = clock_timestamp()
   WHERE r.source = relay_acquire.source
  RETURNING r.*;
END
$$;
COMMENT ON FUNCTION txb.relay_acquire(text, text, uuid, bigint, text) IS
  'Takes a source that is free, whose lease is over, or whose holder''s connection is gone; raises its epoch and '
  'returns its row. No row: another relay holds it';

CREATE FUNCTION txb.relay_fence_missed(caller text, source text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  now_is txb.relay;
BEGIN
  SELECT * INTO now_is FROM txb.relay AS r WHERE r.source = relay_fence_missed.source;
  RAISE EXCEPTION '%: source "%" is not held by this relay at this checkpoint any more', caller, source USING
    ERRCODE = 'TXB01',
    DETAIL = CASE WHEN now_is.source IS NULL THEN 'It has no row here: this may be another server.'
                  ELSE format('It has epoch %s, checkpoint %s, owner %s.', now_is.epoch, now_is.checkpoint,
                              coalesce(now_is.owner, 'none')) END;
END
$$;
COMMENT ON FUNCTION txb.relay_fence_missed(text, text) IS 'Raises TXB01: the compare-and-set of a relay missed';

-- Locks the row and compares. Whatever a relay writes besides its checkpoint goes through it.
CREATE FUNCTION txb.relay_fence(caller text, source text, epoch bigint, instance uuid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  PERFORM FROM txb.relay AS r
    WHERE r.source = relay_fence.source AND r.epoch = relay_fence.epoch AND r.instance = relay_fence.instance
      AND r.owner IS NOT NULL
    FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    PERFORM txb.relay_fence_missed(caller, relay_fence.source);
  END IF;
END
$$;
COMMENT ON FUNCTION txb.relay_fence(text, text, bigint, uuid) IS
  'Locks a source''s row for its holder; raises TXB01 for anybody else';

CREATE FUNCTION txb.relay_renew(source text, epoch bigint, instance uuid, lease_ms bigint, state text DEFAULT NULL,
                                last_error text DEFAULT NULL, oldest_hole bigint DEFAULT NULL,
                                oldest_hole_since timestamptz DEFAULT NULL, oldest_hole_holders jsonb DEFAULT NULL)
RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  until timestamptz;
BEGIN
  UPDATE txb.relay AS r
     SET lease_until = clock_timestamp() + relay_renew.lease_ms * interval '1 millisecond',
         backend_pid = pg_backend_pid(),
         -- One that took over from a stopped relay gets the lock when that one's session ends.
         session_locked = CASE WHEN r.session_locked AND r.backend_pid = pg_backend_pid()
                               THEN true ELSE txb.relay_session_lock(r.source) END,
         state = coalesce(relay_renew.state, r.state),
         last_error = coalesce(relay_renew.last_error, r.last_error),
         oldest_hole = relay_renew.oldest_hole, oldest_hole_since = relay_renew.oldest_hole_since,
         oldest_hole_holders = relay_renew.oldest_hole_holders, updated_at = clock_timestamp()
   WHERE r.source = relay_renew.source AND r.epoch = relay_renew.epoch AND r.instance = relay_renew.instance
     AND r.owner IS NOT NULL
  RETURNING r.lease_until INTO until;
  IF until IS NULL THEN
    PERFORM txb.relay_fence_missed('txb.relay_renew', relay_renew.source);
  END IF;
  RETURN until;
END
$$;
COMMENT ON FUNCTION txb.relay_renew(text, bigint, uuid, bigint, text, text, bigint, timestamptz, jsonb) IS
  'Renews the lease and tells the oldest hole (null: none worth telling); an empty last_error clears it. Raises TXB01'
  ' when the source is held by another';

CREATE FUNCTION txb.relay_checkpoint(source text, epoch bigint, instance uuid, checkpoint bigint, highest bigint,
                                     watermark bigint, published bigint, lease_ms bigint, pages bigint[],
                                     holes text[]) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  number bigint;
BEGIN
  -- Highest and watermark never go back: retention has relied on them. A relay that asks for it has a bug, or talks to
  -- another server.
  UPDATE txb.relay AS r
     SET checkpoint = r.checkpoint + 1, highest = relay_checkpoint.highest, watermark = relay_checkpoint.watermark,
         published = r.published + relay_checkpoint.published,
         lease_until = clock_timestamp() + relay_checkpoint.lease_ms * interval '1 millisecond',
         updated_at = clock_timestamp()
   WHERE r.source = relay_checkpoint.source AND r.epoch = relay_checkpoint.epoch
     AND r.instance = relay_checkpoint.instance AND r.checkpoint = relay_checkpoint.checkpoint AND r.owner IS NOT NULL
     AND r.highest <= relay_checkpoint.highest AND r.watermark <= relay_checkpoint.watermark
  RETURNING r.checkpoint INTO number;
  IF number IS NULL THEN
    PERFORM txb.relay_fence('txb.relay_checkpoint', relay_checkpoint.source, relay_checkpoint.epoch,
                            relay_checkpoint.instance);
    PERFORM FROM txb.relay AS r WHERE r.source = relay_checkpoint.source AND r.checkpoint = relay_checkpoint.checkpoint;
    IF NOT FOUND THEN
      PERFORM txb.relay_fence_missed('txb.relay_checkpoint', relay_checkpoint.source);
    END IF;
    RAISE EXCEPTION 'txb.relay_checkpoint: highest % and watermark % would go back', highest, watermark
      USING ERRCODE = 'TXB04';
  END IF;
  IF cardinality(pages) > 0 THEN
    IF cardinality(pages) IS DISTINCT FROM cardinality(relay_checkpoint.holes) THEN
      RAISE EXCEPTION 'txb.relay_checkpoint: % pages but % hole sets', cardinality(pages), cardinality(holes)
        USING ERRCODE = '22023';
    END IF;
    DELETE FROM txb.relay_holes AS h
     USING unnest(pages, relay_checkpoint.holes) AS u(page, holes)
     WHERE h.source = relay_checkpoint.source AND h.page = u.page AND u.holes = '{}';
    INSERT INTO txb.relay_holes AS h (source, page, holes)
    SELECT relay_checkpoint.source, u.page, u.holes::int8multirange
      FROM unnest(pages, relay_checkpoint.holes) AS u(page, holes)
     WHERE u.holes <> '{}'
    ON CONFLICT ON CONSTRAINT relay_holes_key DO UPDATE SET holes = excluded.holes;
  END IF;
  RETURN number;
END
$$;
COMMENT ON FUNCTION txb.relay_checkpoint(text, bigint, uuid, bigint, bigint, bigint, bigint, bigint, bigint[],
                                         text[]) IS
  'Moves the position, writes the changed pages of holes, renews the lease; returns the new checkpoint number. Raises'
  ' TXB01 when epoch, instance or number differ';

CREATE FUNCTION txb.relay_release(source text, epoch bigint, instance uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  done boolean;
BEGIN
  UPDATE txb.relay AS r
     SET owner = NULL, lease_until = clock_timestamp(), backend_pid = NULL, session_locked = false,
         state = CASE r.state WHEN 'running' THEN 'free' ELSE r.state END,
         oldest_hole = NULL, oldest_hole_since = NULL, oldest_hole_holders = NULL, updated_at = clock_timestamp()
   WHERE r.source = relay_release.source AND r.epoch = relay_release.epoch AND r.instance = relay_release.instance
     AND r.owner IS NOT NULL;
  done := FOUND;
  IF txb.relay_session_lock(relay_release.source) THEN
    PERFORM pg_advisory_unlock(1954049330, hashtext(relay_release.source));
  END IF;
  RETURN done;
END
$$;
COMMENT ON FUNCTION txb.relay_release(text, bigint, uuid) IS
  'Gives a source back at a clean end: the next relay takes it at once. False: it was not held any more';

CREATE FUNCTION txb.relay_hold_set(source text, epoch bigint, instance uuid, kind text, topic text, key text, lo bigint,
                                   error text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  result bigint;
BEGIN
  PERFORM txb.relay_fence('txb.relay_hold_set', relay_hold_set.source, relay_hold_set.epoch, relay_hold_set.instance);
  UPDATE txb.relay_hold AS h SET lo = least(h.lo, relay_hold_set.lo), error = coalesce(relay_hold_set.error, h.error)
   WHERE h.source = relay_hold_set.source AND h.kind = relay_hold_set.kind AND h.topic = relay_hold_set.topic
     AND h.key IS NOT DISTINCT FROM relay_hold_set.key
  RETURNING h.number INTO result;
  IF result IS NULL THEN
    INSERT INTO txb.relay_hold AS h (source, kind, topic, key, lo, error)
    VALUES (relay_hold_set.source, relay_hold_set.kind, relay_hold_set.topic, relay_hold_set.key, relay_hold_set.lo,
            relay_hold_set.error)
    RETURNING h.number INTO result;
  END IF;
  RETURN result;
END
$$;
COMMENT ON FUNCTION txb.relay_hold_set(text, bigint, uuid, text, text, text, bigint, text) IS
  'Holds a topic, or a key of it, from lo on; a hold that is there keeps the lower lo. Raises TXB01 when the source '
  'is held by another';

CREATE FUNCTION txb.relay_hold_release(source text, epoch bigint, instance uuid, kind text, topic text, key text)
  RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  PERFORM txb.relay_fence('txb.relay_hold_release', relay_hold_release.source, relay_hold_release.epoch,
                          relay_hold_release.instance);
  DELETE FROM txb.relay_hold AS h
   WHERE h.source = relay_hold_release.source AND h.kind = relay_hold_release.kind
     AND h.topic = relay_hold_release.topic AND h.key IS NOT DISTINCT FROM relay_hold_release.key;
  RETURN FOUND;
END
$$;
COMMENT ON FUNCTION txb.relay_hold_release(text, bigint, uuid, text, text, text) IS
  'Ends a hold; false: there was none. Raises TXB01 when the source is held by another';

CREATE FUNCTION txb.scheduled_move(source text, epoch bigint, instance uuid, max_rows int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  moved int;
BEGIN
  -- The row's lock, kept to the end of the transaction, makes one mover: two would each move in order and interleave
  -- (R10).
  PERFORM txb.relay_fence('txb.scheduled_move', scheduled_move.source, scheduled_move.epoch, scheduled_move.instance);
  WITH due AS (
    DELETE FROM txb.scheduled AS s
     WHERE s.number IN (SELECT d.number FROM txb.scheduled AS d WHERE d.due <= statement_timestamp()
                         ORDER BY d.due, d.number LIMIT max_rows)
    RETURNING s.*)
  INSERT INTO txb.outbox (id, topic, key, type, payload, content_type, headers)
  SELECT d.id, d.topic, d.key, d.type, d.payload, d.content_type, d.headers FROM due AS d ORDER BY d.due, d.number;
  GET DIAGNOSTICS moved = ROW_COUNT;
  RETURN moved;
END
$$;
COMMENT ON FUNCTION txb.scheduled_move(text, bigint, uuid, int) IS
  'Moves intents whose time has come into the outbox, in (due, number) order; returns how many. Raises TXB01 when the'
  ' source is held by another';

-- R3: a holder is a virtual transaction with ROW EXCLUSIVE on txb.outbox, never a pid: a prepared transaction has none.
-- pg_stat_activity is asked by txb_owner, who may read all of it, so that the relay itself sees the statements of these
-- sessions and of no others.
CREATE FUNCTION txb.outbox_holders()
RETURNS TABLE (virtualtransaction text, xid xid, pid int, usename text, application_name text, state text, query text,
               query_start timestamptz, xact_start timestamptz, gid text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
  WITH locks AS MATERIALIZED (
    SELECT l.locktype, l.virtualtransaction, l.transactionid, l.pid, l.mode, l.relation
      FROM pg_locks AS l
     WHERE l.granted AND (l.locktype = 'relation' AND l.relation = 'txb.outbox'::regclass
                          AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
                          AND l.mode = 'RowExclusiveLock'
                          OR l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock'))
  -- Of a statement what stands before its first literal text: this is shown to more people than pg_stat_activity.
  SELECT h.virtualtransaction, x.xid, h.pid, a.usename::text, a.application_name, a.state,
         substring(a.query from '^[^''$]{0,200}'),
         a.query_start, a.xact_start, p.gid
    FROM locks AS h
    -- The top level's own xid is the oldest of those that its virtual transaction holds: a subtransaction's is drawn
    -- after its parent's.
    LEFT JOIN LATERAL (SELECT t.transactionid AS xid FROM locks AS t
                        WHERE t.locktype = 'transactionid' AND t.virtualtransaction = h.virtualtransaction
                        ORDER BY age(t.transactionid) DESC LIMIT 1) AS x ON true
    LEFT JOIN pg_stat_activity AS a ON a.pid = h.pid
    LEFT JOIN pg_prepared_xacts AS p ON h.pid IS NULL AND p.transaction = x.xid
   WHERE h.locktype = 'relation'
$$;
COMMENT ON FUNCTION txb.outbox_holders() IS
  'Transactions that have drawn numbers of txb.outbox or may: whoever can still fill a hole is among them, prepared '
  'transactions included';

REVOKE ALL ON TYPE txb.relay, txb.relay_holes, txb.relay_hold, txb.outbox_partition, txb.schema_migration FROM PUBLIC;
GRANT SELECT ON txb.relay, txb.relay_holes, txb.relay_hold TO txb_relay, txb_reader;
GRANT EXECUTE ON FUNCTION
  txb.relay_acquire(text, text, uuid, bigint, text),
  txb.relay_renew(text, bigint, uuid, bigint, text, text, bigint, timestamptz, jsonb),
  txb.relay_checkpoint(text, bigint, uuid, bigint, bigint, bigint, bigint, bigint, bigint[], text[]),
  txb.relay_release(text, bigint, uuid),
  txb.relay_hold_set(text, bigint, uuid, text, text, text, bigint, text),
  txb.relay_hold_release(text, bigint, uuid, text, text, text),
  txb.scheduled_move(text, bigint, uuid, int)
TO txb_relay;
GRANT EXECUTE ON FUNCTION txb.outbox_holders() TO txb_relay, txb_admin;

RESET ROLE;
