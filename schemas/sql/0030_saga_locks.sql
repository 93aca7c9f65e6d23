-- Semantic locks of sagas (S6): names, such as account:7, of which a saga holds what its definition lists, from its start to
-- its end, so that no other one that lists the same name runs meanwhile. Rows of the coordinator's database, without expiry.
--
--   txb.saga_lock(ids uuid[], starts timestamptz[], roots uuid[], names text[], waits boolean[], others uuid[])
--       returns (nth bigint, granted boolean, name text, holder uuid)
--       for sagas that would begin, one element for each name of each: takes them in the order of the names, up to the
--       first that is not to be had. waits: then the saga queues there; else it keeps nothing of this call. One row for
--       each saga, in their order; nth: its first element. others: roots whose locks may be given back in this transaction
--   txb.saga_unlock(ids uuid[], roots uuid[]) returns int
--       sagas that end, in the transaction that ends them: a root gives back all of its locks, a saga within it only the
--       places in queues where it waits. Who is first in a queue has the name from then on, and is sent txb.saga.wake.
--       Returns how many names passed on
--   txb.expect_version(what text, expected bigint, actual bigint) returns void
--       for handlers of commands: refuses when what was read is not what is there now
--
-- A root holds a name for itself and all sagas within it. A saga waits in one queue at a time, for the first name in their
-- order that it has not, and holds the names before it: so no two sagas wait for each other. A saga within another one asks
-- later than its root did, whatever the order of the names, and so never waits (broker/coordinator/locks.c): it is refused.
--
-- Who reads or writes rows of a name holds the advisory lock (1954049332, its hash) to the end of the transaction, and looks
-- only afterwards, in statements of their own, under READ COMMITTED: he sees all that others did. The two-part keys meet
-- neither those of one part (txb.order_lock, txb.jobs_lock) nor the other first parts in use (1954049330: sources, 1954049331:
-- migrations). Names of the same hash wait for each other for a transaction's time, and nothing else. A transaction takes
-- all of its advisory locks at once in their order: in saga_lock those of the names that it gives back later, too, which is
-- what `others` is for. Two coordinators can't deadlock, then, but where a batch is run in pieces, some of which failed: that
-- costs one of them another try.
--
-- A crash before COMMIT leaves nothing; after it a saga that holds and has begun, one that waits, or one that has ended, whose
-- locks are the next one's, and the message that wakes that one.

SET LOCAL ROLE txb_owner;

-- place has no index of its own: it would be as good as the queue's for whom most wait, and be taken for everybody.
CREATE TABLE txb.saga_lock (
  place bigint GENERATED ALWAYS AS IDENTITY,
  name text COLLATE "C" NOT NULL CONSTRAINT saga_lock_name CHECK (octet_length(name) BETWEEN 1 AND 1024),
  root uuid NOT NULL,
  saga_id uuid NOT NULL,
  started_at timestamptz NOT NULL,
  granted boolean NOT NULL,
  asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  granted_at timestamptz,
  CONSTRAINT saga_lock_once PRIMARY KEY (saga_id, name),
  CONSTRAINT saga_lock_since CHECK (granted = (granted_at IS NOT NULL))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
CREATE UNIQUE INDEX saga_lock_holder ON txb.saga_lock (name) WHERE granted;
CREATE INDEX saga_lock_queue ON txb.saga_lock (name, place) WHERE NOT granted;
CREATE INDEX saga_lock_root ON txb.saga_lock (root, name);
COMMENT ON SEQUENCE txb.saga_lock_place_seq IS 'Places in queues';
COMMENT ON TABLE txb.saga_lock IS 'Names that sagas hold or wait for: rows go when their sagas end, and never by time';
COMMENT ON COLUMN txb.saga_lock.place IS 'Who asked first is first in the queue';
COMMENT ON COLUMN txb.saga_lock.name IS 'What is locked, as its definition says';
COMMENT ON COLUMN txb.saga_lock.root IS 'The saga whose end gives it back: the outermost one that saga_id is within';
COMMENT ON COLUMN txb.saga_lock.saga_id IS 'The saga that asked for it';
COMMENT ON COLUMN txb.saga_lock.started_at IS 'When that was started';
COMMENT ON COLUMN txb.saga_lock.granted IS 'True: it is held. False: it is waited for';
COMMENT ON COLUMN txb.saga_lock.asked_at IS 'When it was asked for';
COMMENT ON COLUMN txb.saga_lock.granted_at IS 'Since when it is held';
COMMENT ON CONSTRAINT saga_lock_name ON txb.saga_lock IS 'name: 1 to 1024 bytes';
COMMENT ON CONSTRAINT saga_lock_once ON txb.saga_lock IS 'A saga asks for a name once';
COMMENT ON INDEX txb.saga_lock_once IS 'A saga asks for a name once';
COMMENT ON CONSTRAINT saga_lock_since ON txb.saga_lock IS 'granted_at is there if and only if it is granted';
COMMENT ON INDEX txb.saga_lock_holder IS 'One holder a name';
COMMENT ON INDEX txb.saga_lock_queue IS 'The queue of each name, in its order';
COMMENT ON INDEX txb.saga_lock_root IS 'What a root gives back';

COMMENT ON COLUMN txb.saga_event.event IS
  'start, waits, turn_back, undo, timer, ignored, end, or an event of a step (broker/saga/saga_core.h)';

-- All in one order. A batch of very many names has them all by one lock instead, which the others share: PostgreSQL's table
-- of locks has a few thousand places, and a batch that does not fit would fail whenever it is tried again.
CREATE FUNCTION txb.saga_lock_names(names text[]) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
  keys int[] := ARRAY(SELECT DISTINCT hashtext(u.name) FROM unnest(names) AS u (name) ORDER BY 1);
  key int;
BEGIN
  IF cardinality(keys) > 1000 THEN
    PERFORM pg_advisory_xact_lock(1954049333, 0);
    RETURN;
  END IF;
  PERFORM pg_advisory_xact_lock_shared(1954049333, 0);
  FOREACH key IN ARRAY keys LOOP
    PERFORM pg_advisory_xact_lock(1954049332, key);
  END LOOP;
END
$$;
COMMENT ON FUNCTION txb.saga_lock_names(text[]) IS
  'Takes the advisory locks of names of saga locks to the end of the transaction. (1954049333, 0): all names there are';

-- Where the name was, and is, the saga's, holder is null. made: the row that was inserted, granted or not.
CREATE FUNCTION txb.saga_lock_ask(id uuid, started_at timestamptz, root uuid, name text, waits boolean,
                                  OUT holder uuid, OUT made bigint)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
  first record;
BEGIN
  SELECT l.root, l.saga_id INTO first FROM txb.saga_lock AS l WHERE l.name = saga_lock_ask.name AND l.granted;
  IF NOT FOUND THEN
    SELECT l.root, l.saga_id INTO first FROM txb.saga_lock AS l
     WHERE l.name = saga_lock_ask.name AND NOT l.granted ORDER BY l.place LIMIT 1;
  END IF;
  IF NOT FOUND THEN
    INSERT INTO txb.saga_lock AS l (name, root, saga_id, started_at, granted, granted_at)
    VALUES (saga_lock_ask.name, saga_lock_ask.root, saga_lock_ask.id, saga_lock_ask.started_at, true, clock_timestamp())
    RETURNING l.place INTO made;
  ELSIF first.root = saga_lock_ask.root THEN
    UPDATE txb.saga_lock AS l SET granted = true, granted_at = clock_timestamp()
     WHERE l.saga_id = first.saga_id AND l.name = saga_lock_ask.name AND NOT l.granted;
  ELSE
    holder := first.saga_id;
    INSERT INTO txb.saga_lock AS l (name, root, saga_id, started_at, granted)
    SELECT saga_lock_ask.name, saga_lock_ask.root, saga_lock_ask.id, saga_lock_ask.started_at, false WHERE waits
    ON CONFLICT DO NOTHING
    RETURNING l.place INTO made;
  END IF;
END
$$;
COMMENT ON FUNCTION txb.saga_lock_ask(uuid, timestamptz, uuid, text, boolean) IS
  'A name for a saga, whose advisory lock is had: holder null: the saga has it; else who has it before';

CREATE FUNCTION txb.saga_lock(ids uuid[], starts timestamptz[], roots uuid[], names text[], waits boolean[],
                              others uuid[] DEFAULT '{}')
RETURNS TABLE (nth bigint, granted boolean, name text, holder uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
  s record;
  asked record;
  fresh bigint[];
BEGIN
  PERFORM txb.saga_lock_names(saga_lock.names || ARRAY(SELECT l.name FROM txb.saga_lock AS l WHERE l.root = ANY (others)));
  FOR s IN SELECT min(u.nth) AS nth, u.id, u.started_at, u.root, u.waits,
                  array_agg(DISTINCT u.name COLLATE "C" ORDER BY u.name COLLATE "C") AS names
             FROM unnest(saga_lock.ids, saga_lock.starts, saga_lock.roots, saga_lock.names, saga_lock.waits)
                    WITH ORDINALITY AS u (id, started_at, root, name, waits, nth)
            GROUP BY u.id, u.started_at, u.root, u.waits
            ORDER BY 1 LOOP
    nth := s.nth;
    holder := NULL;
    fresh := '{}';
    FOREACH name IN ARRAY s.names LOOP
      SELECT * INTO asked FROM txb.saga_lock_ask(s.id, s.started_at, s.root, name, s.waits);
      holder := asked.holder;
      fresh := fresh || asked.made;
      EXIT WHEN holder IS NOT NULL;
    END LOOP;
    granted := holder IS NULL;
    IF granted THEN
      name := NULL;
    ELSIF NOT s.waits THEN
      DELETE FROM txb.saga_lock AS l WHERE l.saga_id = s.id AND l.place = ANY (fresh);
    END IF;
    RETURN NEXT;
  END LOOP;
END
$$;
COMMENT ON FUNCTION txb.saga_lock(uuid[], timestamptz[], uuid[], text[], boolean[], uuid[]) IS
  'Takes the names that sagas lock, in the order of the names. One row a saga: whether it has all; if not, the first that it '
  'has not, and which saga has it before';

CREATE FUNCTION txb.saga_wake(id uuid, started_at timestamptz) RETURNS void
LANGUAGE sql VOLATILE
AS $$
  SELECT txb.publish((SELECT c.topic FROM txb.saga_coordinator AS c), saga_wake.id::text, 'txb.saga.wake', '{}'::jsonb,
                     txb.saga_reference(saga_wake.id, saga_wake.started_at))
$$;
COMMENT ON FUNCTION txb.saga_wake(uuid, timestamptz) IS 'Tells a saga''s coordinator that it has what it waited for';

CREATE FUNCTION txb.saga_unlock(ids uuid[], roots uuid[]) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
  freed text[];
  one record;
  also record;
  passed int := 0;
BEGIN
  -- Which names these are nobody else changes: a saga's rows are made, and go, in the hands of its own coordinator.
  PERFORM txb.saga_lock_names(ARRAY(SELECT l.name FROM txb.saga_lock AS l WHERE l.root = ANY (saga_unlock.roots)));
  WITH gone AS (
    DELETE FROM txb.saga_lock AS l USING unnest(saga_unlock.ids, saga_unlock.roots) AS u (id, root)
     WHERE l.root = u.root
       AND (u.id = u.root
            OR l.saga_id = u.id AND (NOT l.granted
                                     -- A step that a person marked may begin, and end, behind its root.
                                     OR EXISTS (SELECT FROM txb.saga_end AS e
                                                 WHERE e.saga_id = u.root AND e.started_at = l.started_at)))
    RETURNING l.name, l.granted)
  SELECT array_agg(g.name ORDER BY g.name) INTO freed FROM gone AS g WHERE g.granted;
  FOR one IN
    UPDATE txb.saga_lock AS l SET granted = true, granted_at = clock_timestamp()
      FROM unnest(freed) AS f (name)
      CROSS JOIN LATERAL (SELECT w.saga_id FROM txb.saga_lock AS w WHERE w.name = f.name AND NOT w.granted
                           ORDER BY w.place LIMIT 1) AS first
     WHERE l.saga_id = first.saga_id AND l.name = f.name
    RETURNING l.name, l.root, l.saga_id, l.started_at
  LOOP
    PERFORM txb.saga_wake(one.saga_id, one.started_at);
    -- Whoever else waits for it within the same root has it now, too.
    FOR also IN DELETE FROM txb.saga_lock AS l WHERE l.name = one.name AND l.root = one.root AND NOT l.granted
                RETURNING l.saga_id, l.started_at LOOP
      PERFORM txb.saga_wake(also.saga_id, also.started_at);
    END LOOP;
    passed := passed + 1;
  END LOOP;
  RETURN passed;
END
$$;
COMMENT ON FUNCTION txb.saga_unlock(uuid[], uuid[]) IS
  'Gives back the locks of sagas that end, passes each to the first in its queue and wakes that one; returns how many were '
  'passed on';

-- ---- for handlers --------------------------------------------------------------------------------------------------

CREATE FUNCTION txb.expect_version(what text, expected bigint, actual bigint) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
  IF expected = actual THEN
    RETURN;
  END IF;
  -- What txb.command_apply takes for txb.refuse, wherever in the handler it is raised.
  RAISE EXCEPTION USING ERRCODE = 'TXB06', MESSAGE = CASE
    WHEN actual IS NULL THEN coalesce(what, 'it') || ' is not there any more'
    WHEN expected IS NULL THEN 'at which version ' || coalesce(what, 'it') || ' was read was not said'
    ELSE format('%s was read at version %s and is at %s now: somebody has changed it since', coalesce(what, 'it'), expected,
                actual) END;
END
$$;
COMMENT ON FUNCTION txb.expect_version(text, bigint, bigint) IS
  'Refuses the command that is being handled, as txb.refuse does, unless what it read before (expected) is what is there now '
  '(actual; null: it is gone)';

REVOKE ALL ON TYPE txb.saga_lock FROM PUBLIC;
GRANT SELECT ON txb.saga_lock TO txb_worker, txb_reader;
GRANT EXECUTE ON FUNCTION
  txb.saga_lock(uuid[], timestamptz[], uuid[], text[], boolean[], uuid[]),
  txb.saga_unlock(uuid[], uuid[])
TO txb_worker;
GRANT EXECUTE ON FUNCTION txb.expect_version(text, bigint, bigint) TO txb_app, txb_worker, txb_admin;

RESET ROLE;
