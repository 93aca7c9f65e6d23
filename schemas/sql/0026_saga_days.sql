-- How long sagas that ended, and what participants remember of them, are kept.
--
--   txb.saga_keep(group_name text, keep interval) returns interval
--       notes how long a group wants them kept, and returns the longest wish of all groups of the database
--   txb.saga_partition_drop(keep interval) returns int            in the coordinator's database; 55P03: try again
--       drops the days of which every saga ended longer ago than that; the number of days
--   txb.barrier_partition_drop(keep interval) returns int         in a participant's: described in 0023
--   txb.sagas_seen() returns one row                              how many are under way, and how many wait for a person
--
-- A day of sagas goes as a whole: instances, events, ends. It stays as long as one of its sagas has not ended; a nested one
-- lies in the day of its outermost saga, so that nobody is asked to undo what is not there any more. A start key is known
-- for as long as its saga. What comes afterwards for a saga that was dropped belongs to nothing, and is noted as such; a
-- start that is delivered again is refused by the inbox, by its id or by its age.
--
-- Each call is one transaction: a crash before its commit leaves the days, and whoever looks next drops them.

SET LOCAL ROLE txb_owner;

CREATE TABLE txb.saga_wish (
  group_name text COLLATE "C" CONSTRAINT saga_wish_key PRIMARY KEY,
  keep interval NOT NULL,
  said_at timestamptz NOT NULL
);
COMMENT ON TABLE txb.saga_wish IS 'How long each group wants ended sagas, or the barrier''s rows, kept; the longest counts, since a day is dropped for all';
COMMENT ON COLUMN txb.saga_wish.group_name IS 'Kafka consumer group';
COMMENT ON COLUMN txb.saga_wish.keep IS 'Its setting saga_keep_ms';
COMMENT ON COLUMN txb.saga_wish.said_at IS
  'When one of its workers said so last. A group that is silent for longer than it wants them kept counts no more';
COMMENT ON CONSTRAINT saga_wish_key ON txb.saga_wish IS 'One wish a group';
COMMENT ON INDEX txb.saga_wish_key IS 'One wish a group';

CREATE FUNCTION txb.saga_keep(group_name text, keep interval) RETURNS interval
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
  INSERT INTO txb.saga_wish AS w (group_name, keep, said_at)
  VALUES (saga_keep.group_name, saga_keep.keep, clock_timestamp())
  ON CONFLICT ON CONSTRAINT saga_wish_key DO UPDATE SET keep = excluded.keep, said_at = excluded.said_at;
  SELECT greatest(saga_keep.keep,
                  (SELECT max(w.keep) FROM txb.saga_wish AS w WHERE w.said_at > clock_timestamp() - w.keep))
$$;
COMMENT ON FUNCTION txb.saga_keep(text, interval) IS
  'Notes how long a group wants sagas kept, and returns the longest wish of the groups that still say theirs: what '
  'txb.saga_partition_drop and txb.barrier_partition_drop may be called with';

CREATE INDEX saga_start_key_day ON txb.saga_start_key (started_at);
COMMENT ON INDEX txb.saga_start_key_day IS 'Start keys by their day: those of days that were dropped go';
CREATE INDEX saga_started ON txb.saga (started_at);
COMMENT ON INDEX txb.saga_started IS 'Sagas by their start: the newest are listed first';
COMMENT ON INDEX txb.saga_default_started_at_idx IS 'As in txb.saga';
CREATE INDEX saga_event_stuck ON txb.saga_event (saga_id, n) WHERE event = 'stuck';
COMMENT ON INDEX txb.saga_event_stuck IS 'Where a person was asked for';
COMMENT ON INDEX txb.saga_event_default_saga_id_n_idx IS 'As in txb.saga_event';

CREATE FUNCTION txb.saga_days_over(before timestamptz, OUT first timestamptz, OUT past timestamptz) RETURNS SETOF record
LANGUAGE sql VOLATILE
AS $$
  SELECT p.first, p.past
    FROM txb.day_partitions('txb.saga') AS p
   WHERE p.past <= before
     AND NOT EXISTS (SELECT FROM txb.saga AS s
                      WHERE s.started_at >= p.first AND s.started_at < p.past
                        AND NOT EXISTS (SELECT FROM txb.saga_end AS e
                                         WHERE e.saga_id = s.id AND e.started_at = s.started_at AND e.ended_at < before))
   ORDER BY p.first
$$;
COMMENT ON FUNCTION txb.saga_days_over(timestamptz) IS 'The days of which every saga ended before that';

CREATE FUNCTION txb.saga_partition_drop(keep interval) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, txb, pg_temp SET lock_timeout = '200ms' SET jit = off
AS $$
DECLARE
  before timestamptz := clock_timestamp() - keep;
  days date[];
  day date;
  part text;
BEGIN
  IF keep IS NULL OR keep < interval '1 hour' THEN
    RAISE EXCEPTION 'txb.saga_partition_drop: keep is %, at least one hour is needed', keep USING ERRCODE = '22023';
  END IF;
  -- Two that look at once would wait for each other when they drop.
  IF NOT pg_try_advisory_xact_lock(1954049334, 0) THEN
    RETURN 0;
  END IF;
  -- Before the locks, since it reads the days.
  days := ARRAY(SELECT (d.first AT TIME ZONE 'UTC')::date FROM txb.saga_days_over(before) AS d);
  IF days <> '{}' THEN
    -- In the order in which they are made: the parents first, and the default behind its own.
    FOREACH part IN ARRAY ARRAY['saga', 'saga_event', 'saga_end'] LOOP
      EXECUTE format('LOCK TABLE ONLY txb.%I IN ACCESS EXCLUSIVE MODE', part);
      EXECUTE format('LOCK TABLE txb.%I IN ACCESS EXCLUSIVE MODE', part || '_default');
    END LOOP;
    -- Once more, now that nobody writes: a start that came late may have begun in one of them meanwhile. What has ended
    -- stays so, since an undo is asked for by a saga of the same day.
    days := ARRAY(SELECT (d.first AT TIME ZONE 'UTC')::date FROM txb.saga_days_over(before) AS d
                   WHERE (d.first AT TIME ZONE 'UTC')::date = ANY (days));
    FOREACH day IN ARRAY days LOOP
      FOREACH part IN ARRAY ARRAY['saga', 'saga_event', 'saga_end'] LOOP
        EXECUTE format('DROP TABLE IF EXISTS txb.%I', part || '_d' || to_char(day, 'YYYYMMDD'));
      END LOOP;
    END LOOP;
  END IF;
  -- Those of a fast or slow clock have no day; they are few.
  WITH gone AS (
    DELETE FROM txb.saga_default AS s USING txb.saga_end AS e
     WHERE e.saga_id = s.id AND e.started_at = s.started_at AND e.ended_at < before AND s.started_at < before
       AND NOT EXISTS (SELECT FROM txb.saga_default AS o
                        WHERE o.started_at = s.started_at
                          AND NOT EXISTS (SELECT FROM txb.saga_end AS f
                                           WHERE f.saga_id = o.id AND f.started_at = o.started_at))
    RETURNING s.id, s.started_at), ended AS (
    DELETE FROM txb.saga_end_default AS e USING gone AS g WHERE e.saga_id = g.id AND e.started_at = g.started_at)
  DELETE FROM txb.saga_event_default AS v USING gone AS g WHERE v.saga_id = g.id AND v.started_at = g.started_at;
  DELETE FROM txb.saga_start_key AS k
   WHERE k.started_at < before
     AND NOT EXISTS (SELECT FROM txb.saga AS s WHERE s.id = k.id AND s.started_at = k.started_at);
  DELETE FROM txb.saga_stray AS s WHERE s.at < before;
  RETURN cardinality(days);
END
$$;
COMMENT ON FUNCTION txb.saga_partition_drop(interval) IS
  'Drops the days of which every saga ended longer ago than keep, with start keys and strays that are as old. 55P03: try '
  'again. Returns the number of days dropped';

-- By counting, which an index does without the rows; and by the events that asked for a person.
CREATE FUNCTION txb.sagas_seen(OUT under_way bigint, OUT stuck bigint, OUT stuck_first uuid, OUT stuck_since timestamptz,
                               OUT strays bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp SET jit = off
AS $$
BEGIN
  SELECT (SELECT count(*) FROM txb.saga) - (SELECT count(*) FROM txb.saga_end) INTO under_way;
  SELECT count(*), (array_agg(w.saga_id ORDER BY w.at))[1], min(w.at) INTO stuck, stuck_first, stuck_since
    FROM (SELECT v.saga_id, max(v.at) AS at FROM txb.saga_event AS v
           WHERE v.event = 'stuck'
             -- A step stays stuck until something happens to itself, whatever its neighbours and the timer do meanwhile.
             AND NOT EXISTS (SELECT FROM txb.saga_event AS l
                              WHERE l.saga_id = v.saga_id AND l.started_at = v.started_at AND l.n > v.n
                                AND l.step = v.step AND l.event <> 'ignored')
           GROUP BY v.saga_id) AS w;
  SELECT count(*) INTO strays FROM txb.saga_stray;
END
$$;
COMMENT ON FUNCTION txb.sagas_seen() IS
  'How many sagas are under way, how many of them wait for a person, which one for the longest and since when, and how many '
  'messages belonged to none';

REVOKE ALL ON TYPE txb.saga_wish FROM PUBLIC;
GRANT EXECUTE ON FUNCTION txb.saga_keep(text, interval), txb.saga_partition_drop(interval) TO txb_worker;
GRANT EXECUTE ON FUNCTION txb.sagas_seen() TO txb_worker, txb_reader, txb_admin;

RESET ROLE;
