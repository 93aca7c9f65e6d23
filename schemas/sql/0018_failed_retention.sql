-- How long ended failed messages are kept, of both sides, with their history.
--
--   txb.failed_expire(side text, owner text, keep interval, rows_max int) returns int
--       deletes at most about rows_max ended messages of a group (side consumer) or a source (side outbox) that were ended
--       longer ago than that; returns how many it deleted: 0, nothing is left for now
--
-- Only what is ended goes: resolved or discarded. A message and its edited copies go together, when the last of them has
-- ended so long ago and none of them is open. What somebody still needs stays:
--   - the record of an intent that the outbox still has: a replay leaves out what was discarded, and takes an edited copy,
--     by that record (J1); a relay that reads it again knows by it that it is done with
--   - a record whose key is held: the relay's hold names its first record
--   - a message under a marker, or one that a process died on and that has not run alone since (W10)
-- Each call is one transaction: a crash before its commit leaves all of it, after it what is left is for the next call.
-- Two may call at once; each skips what the other has locked.

SET LOCAL ROLE txb_owner;

CREATE INDEX failed_ended_message ON txb.failed (group_name, updated_at)
  WHERE side = 'consumer' AND state IN ('resolved', 'discarded') AND replaced_by IS NULL;
CREATE INDEX failed_ended_intent ON txb.failed (source, updated_at, seq)
  WHERE side = 'outbox' AND state IN ('resolved', 'discarded') AND replaced_by IS NULL;
COMMENT ON INDEX txb.failed_ended_message IS 'Messages that ended, by when: what a group need not keep any longer';
COMMENT ON INDEX txb.failed_ended_intent IS 'Intents that ended, by when: what a source need not keep any longer';
COMMENT ON TABLE txb.failed_history IS
  'Every change of a failed message, insert-only: an attempt, a decision, its end. It goes with its message '
  '(txb.failed_expire)';

-- The last editions that may go, locked, the oldest first.
CREATE FUNCTION txb.failed_expired(side text, owner text, before timestamptz, rows_max int) RETURNS bigint[]
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  lowest bigint; -- of the outbox: the records of intents below it are needed by nobody any more
BEGIN
  IF side = 'consumer' THEN
    RETURN ARRAY(
      SELECT f.number FROM txb.failed AS f
       WHERE f.side = 'consumer' AND f.state IN ('resolved', 'discarded') AND f.replaced_by IS NULL
         AND f.group_name = failed_expired.owner AND f.updated_at < failed_expired.before AND NOT f.suspect
         AND NOT EXISTS (SELECT FROM txb.consumer_offset AS c
                          WHERE c.group_name = f.group_name AND c.topic = f.topic AND c.partition = f.partition
                            AND f.number = ANY (c.suspect_failed))
       ORDER BY f.updated_at LIMIT rows_max
         FOR UPDATE OF f SKIP LOCKED);
  END IF;
  -- A partition that was dropped lies below the watermark; so does all of an outbox that is empty.
  SELECT least(r.watermark + 1, (SELECT o.seq FROM txb.outbox AS o ORDER BY o.seq LIMIT 1)) INTO lowest
    FROM txb.relay AS r WHERE r.source = failed_expired.owner;
  RETURN ARRAY(
    SELECT f.number FROM txb.failed AS f
     WHERE f.side = 'outbox' AND f.state IN ('resolved', 'discarded') AND f.replaced_by IS NULL
       AND f.source = failed_expired.owner AND f.updated_at < failed_expired.before AND f.seq < lowest
       AND NOT EXISTS (SELECT FROM txb.relay_hold AS h
                        WHERE h.source = f.source AND h.kind = 'key' AND h.topic = f.topic
                          AND h.key = txb.key_text(f.key) COLLATE "C"
                       OFFSET 0) -- along its index: held keys may be many
     ORDER BY f.updated_at LIMIT rows_max
       FOR UPDATE OF f SKIP LOCKED);
END
$$;
COMMENT ON FUNCTION txb.failed_expired(text, text, timestamptz, int) IS
  'Ended failed messages that are not needed any more, without the ones that an edited copy replaced; locked';

CREATE FUNCTION txb.failed_expire(side text, owner text, keep interval, rows_max int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, txb, pg_temp SET lock_timeout = '200ms' SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
  before timestamptz := clock_timestamp() - keep;
  ends bigint[];
  gone bigint[];
  result int;
BEGIN
  IF side IS NULL OR side NOT IN ('consumer', 'outbox') OR owner IS NULL THEN
    RAISE EXCEPTION 'txb.failed_expire: side is %, owner is %: consumer and a group, or outbox and a source, are needed',
                    coalesce(side, 'null'), coalesce(owner, 'null') USING ERRCODE = '22023';
  END IF;
  IF keep IS NULL OR keep < interval '1 hour' OR rows_max IS NULL OR rows_max NOT BETWEEN 1 AND 10000 THEN
    RAISE EXCEPTION 'txb.failed_expire: keep is at least one hour, rows_max 1 to 10000' USING ERRCODE = '22023';
  END IF;
  ends := txb.failed_expired(side, owner, before, rows_max);
  IF ends = '{}' THEN
    RETURN 0;
  END IF;
  -- What was edited goes with its last copy. A message that came again after its end may be open once more (failed_add):
  -- then all of its editions stay.
  WITH RECURSIVE edition (last, number, replaces, ended) AS (
    SELECT f.number, f.number, f.replaces, true FROM txb.failed AS f WHERE f.number = ANY (ends)
    UNION ALL
    SELECT e.last, f.number, f.replaces, f.state IN ('resolved', 'discarded')
      FROM edition AS e
     CROSS JOIN LATERAL (SELECT o.number, o.replaces, o.state FROM txb.failed AS o
                          WHERE o.number = e.replaces AND o.number < e.number
                         OFFSET 0) AS f) -- one by one, along the index: nobody knows how few they are
  SELECT array_agg(e.number) INTO gone
    FROM edition AS e WHERE e.last NOT IN (SELECT o.last FROM edition AS o WHERE NOT o.ended);
  WITH deleted AS (
    DELETE FROM txb.failed AS f WHERE f.number = ANY (gone) AND f.state IN ('resolved', 'discarded') RETURNING f.number)
  SELECT array_agg(d.number), count(*) INTO gone, result FROM deleted AS d;
  DELETE FROM txb.failed_history AS h WHERE h.number = ANY (gone);
  RETURN result;
END
$$;
COMMENT ON FUNCTION txb.failed_expire(text, text, interval, int) IS
  'Deletes failed messages of a group or a source that ended longer ago than that, with their edited copies and history, '
  'a chunk at a time; returns how many. Never an open one, nor what a replay, a relay or a marker still needs';

GRANT EXECUTE ON FUNCTION txb.failed_expire(text, text, interval, int) TO txb_worker, txb_relay, txb_admin;

RESET ROLE;
