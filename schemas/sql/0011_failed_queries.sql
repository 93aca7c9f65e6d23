-- What a person asks about failed messages: the functions behind `txbroker failed list` and `failed show`.
--
--   txb.failed_find(filter jsonb, after bigint = null, page int = 50) returns table, a page in the filter's order
--   txb.failed_count(filter jsonb, by text, top int = 100) returns table, one row a value, the most frequent first
--   txb.failed_show(number bigint) returns one row: the message, its bytes, history, editions, what waits behind it
--
-- A filter is a JSON object; all of its keys must hold: number, numbers, side (outbox, consumer), state (a name, a list
-- of them, "open", "any"), group, topic, partition, key, type, id, error (a group of equal errors: its text or its
-- eight digits), error_class, source, text (part of the error), older_than, newer_than (a span since it failed first),
-- order (oldest, newest, changed, due, attempts). Without state, number, numbers and id: the open ones.

SET LOCAL ROLE txb_owner;

CREATE INDEX failed_open ON txb.failed (number) WHERE state IN ('retrying', 'held', 'dead');
COMMENT ON INDEX txb.failed_open IS 'The open failed messages in order, for lists that are read page by page';

-- ---- words --------------------------------------------------------------------------------------------------------

CREATE FUNCTION txb.nearest(word text, known text[]) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  other text;
  best text;
  lowest int := greatest(1, (length(word) + 1) / 3); -- farther away, another word was meant
  above int[];
  line int[];
BEGIN
  FOREACH other IN ARRAY known LOOP
    above := ARRAY(SELECT n FROM generate_series(0, length(other)) AS n);
    FOR i IN 1 .. length(word) LOOP
      line := ARRAY[i];
      FOR j IN 1 .. length(other) LOOP
        line := line || least(above[j + 1] + 1, line[j] + 1,
                              above[j] + CASE WHEN lower(substr(word, i, 1)) = substr(other, j, 1) THEN 0 ELSE 1 END);
      END LOOP;
      above := line;
    END LOOP;
    IF above[length(other) + 1] < lowest OR (best IS NULL AND above[length(other) + 1] = lowest) THEN
      lowest := above[length(other) + 1];
      best := other;
    END IF;
  END LOOP;
  RETURN best;
END
$$;
COMMENT ON FUNCTION txb.nearest(text, text[]) IS
  'The known word that the fewest changes lead to; null: none is near enough to be meant';

CREATE FUNCTION txb.word_check(what text, word text, known text[]) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  near text;
BEGIN
  IF word = ANY (known) THEN
    RETURN;
  END IF;
  near := txb.nearest(left(word, 40), known);
  RAISE EXCEPTION '%', format('%s "%s" is unknown; %s', what, left(word, 40),
                              CASE WHEN near IS NULL THEN 'there are ' || array_to_string(known, ', ')
                                   ELSE format('did you mean "%s"?', near) END)
    USING ERRCODE = '22023';
END
$$;
COMMENT ON FUNCTION txb.word_check(text, text, text[]) IS 'Raises 22023, with the nearest word, for one that is unknown';

CREATE FUNCTION txb.error_group_id(error_group text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN left(encode(sha256(convert_to(nullif(error_group, ''), 'UTF8')), 'hex'), 8);
COMMENT ON FUNCTION txb.error_group_id(text) IS
  'A group of equal errors in eight digits, for a command line; null: there is no error';

CREATE FUNCTION txb.person_text(person text) RETURNS text
LANGUAGE sql STABLE
RETURN session_user || coalesce(' (' || nullif(person, '') || ')', '');
COMMENT ON FUNCTION txb.person_text(text) IS 'The database role of the session, and the system user';

CREATE FUNCTION txb.time_text(at timestamptz) RETURNS text
LANGUAGE sql STABLE
RETURN to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"');
COMMENT ON FUNCTION txb.time_text(timestamptz) IS 'A time for a message to a person';

-- ---- the filter ---------------------------------------------------------------------------------------------------

CREATE TYPE txb.failed_filter AS (
  numbers bigint[],
  side text,
  states text[],
  group_name text,
  topic text,
  partition int,
  keys bytea[],
  type text,
  id uuid,
  error text,
  error_id text,
  error_class text,
  source text,
  text text,
  before timestamptz,
  since timestamptz,
  sort text
);
COMMENT ON TYPE txb.failed_filter IS 'A filter of failed messages, read: what is null asks for nothing';
COMMENT ON COLUMN txb.failed_filter.numbers IS 'number, numbers';
COMMENT ON COLUMN txb.failed_filter.side IS 'side';
COMMENT ON COLUMN txb.failed_filter.states IS 'state';
COMMENT ON COLUMN txb.failed_filter.group_name IS 'group';
COMMENT ON COLUMN txb.failed_filter.topic IS 'topic';
COMMENT ON COLUMN txb.failed_filter.partition IS 'partition';
COMMENT ON COLUMN txb.failed_filter.keys IS 'key: as text, and if it is \x and hexadecimal also those bytes';
COMMENT ON COLUMN txb.failed_filter.type IS 'type';
COMMENT ON COLUMN txb.failed_filter.id IS 'id';
COMMENT ON COLUMN txb.failed_filter.error IS 'error: the group''s text';
COMMENT ON COLUMN txb.failed_filter.error_id IS 'error: the group''s eight digits';
COMMENT ON COLUMN txb.failed_filter.error_class IS 'error_class';
COMMENT ON COLUMN txb.failed_filter.source IS 'source';
COMMENT ON COLUMN txb.failed_filter.text IS 'text';
COMMENT ON COLUMN txb.failed_filter.before IS 'older_than';
COMMENT ON COLUMN txb.failed_filter.since IS 'newer_than';
COMMENT ON COLUMN txb.failed_filter.sort IS 'order';

CREATE FUNCTION txb.failed_filter_of(filter jsonb) RETURNS txb.failed_filter
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  p txb.failed_filter;
  name text;
  value jsonb;
  word text;
  words text[];
  stated boolean := false;
BEGIN
  IF filter IS NULL OR jsonb_typeof(filter) <> 'object' THEN
    RAISE EXCEPTION 'a filter is a JSON object, for example {"group": "ledger", "state": "dead"}'
      USING ERRCODE = '22023';
  END IF;
  p.sort := 'oldest';
  FOR name, value IN SELECT e.key, e.value FROM jsonb_each(filter) AS e LOOP
    PERFORM txb.word_check('filter', name, '{number,numbers,side,state,group,topic,partition,key,type,id,error,'
                           'error_class,source,text,older_than,newer_than,order}');
    IF jsonb_typeof(value) NOT IN ('string', 'number')
       AND NOT (jsonb_typeof(value) = 'array' AND name IN ('state', 'numbers')) THEN
      RAISE EXCEPTION 'filter "%" is a JSON %, a text or number is needed', name, jsonb_typeof(value)
        USING ERRCODE = '22023';
    END IF;
    word := value #>> '{}';
    IF word = '' AND name IN ('group', 'topic', 'type', 'error', 'error_class', 'source', 'text') THEN
      RAISE EXCEPTION 'filter "%" is empty', name USING ERRCODE = '22023'; -- a variable that was never set: not all
    END IF;
    words := CASE WHEN jsonb_typeof(value) = 'array' THEN ARRAY(SELECT jsonb_array_elements_text(value))
                  ELSE ARRAY[word] END;
    CASE name
      WHEN 'number', 'numbers' THEN p.numbers := words::bigint[];
      WHEN 'side' THEN
        PERFORM txb.word_check('side', word, '{outbox,consumer}');
        p.side := word;
      WHEN 'state' THEN
        stated := true;
        FOREACH word IN ARRAY words LOOP
          PERFORM txb.word_check('state', word, '{retrying,held,dead,resolved,discarded,open,any}');
        END LOOP;
        p.states := CASE WHEN 'any' = ANY (words) THEN NULL
                         WHEN 'open' = ANY (words) THEN words || '{retrying,held,dead}'::text[] ELSE words END;
      WHEN 'group' THEN p.group_name := word;
      WHEN 'topic' THEN p.topic := word;
      WHEN 'partition' THEN p.partition := word::int;
      WHEN 'key' THEN
        p.keys := ARRAY[convert_to(word, 'UTF8')];
        IF word ~ '^\\x([0-9a-fA-F]{2})+$' THEN
          p.keys := p.keys || decode(substr(word, 3), 'hex');
        END IF;
      WHEN 'type' THEN p.type := word;
      WHEN 'id' THEN p.id := word::uuid;
      WHEN 'error' THEN
        IF word ~ '^[0-9a-f]{8}$' THEN
          p.error_id := word;
        ELSE
          p.error := word;
        END IF;
      WHEN 'error_class' THEN p.error_class := word;
      WHEN 'source' THEN p.source := word;
      WHEN 'text' THEN p.text := lower(word);
      WHEN 'older_than', 'newer_than' THEN
        IF word::interval < interval '0' THEN
          RAISE invalid_datetime_format; -- what failed before a time to come is everything
        ELSIF name = 'older_than' THEN
          p.before := clock_timestamp() - word::interval;
        ELSE
          p.since := clock_timestamp() - word::interval;
        END IF;
      WHEN 'order' THEN
        PERFORM txb.word_check('order', word, '{oldest,newest,changed,due,attempts}');
        p.sort := word;
    END CASE;
  END LOOP;
  IF NOT stated AND p.numbers IS NULL AND p.id IS NULL THEN
    p.states := '{retrying,held,dead}';
  END IF;
  RETURN p;
EXCEPTION WHEN invalid_text_representation OR numeric_value_out_of_range OR datetime_field_overflow
               OR invalid_datetime_format OR interval_field_overflow THEN
  RAISE EXCEPTION 'filter "%": "%" is not %', name, left(word, 40),
    CASE name WHEN 'id' THEN 'a UUID' WHEN 'older_than' THEN 'a span of time, as 90s, 30min, 2h or 3 days'
              WHEN 'newer_than' THEN 'a span of time, as 90s, 30min, 2h or 3 days' ELSE 'a whole number' END
    USING ERRCODE = '22023';
END
$$;
COMMENT ON FUNCTION txb.failed_filter_of(jsonb) IS
  'Reads a filter; 22023 names what is wrong with it and the nearest known word';

-- Inlined where it is called: what the filter does not ask for falls out of the plan.
CREATE FUNCTION txb.failed_matching(p txb.failed_filter) RETURNS SETOF txb.failed
LANGUAGE sql STABLE
AS $$
  SELECT f.* FROM txb.failed AS f
   WHERE ((p).numbers IS NULL OR f.number = ANY ((p).numbers))
     AND ((p).side IS NULL OR f.side = (p).side)
     AND ((p).states IS NULL OR f.state = ANY ((p).states))
     AND ((p).group_name IS NULL OR f.group_name = (p).group_name)
     AND ((p).topic IS NULL OR f.topic = (p).topic)
     AND ((p).partition IS NULL OR f.partition = (p).partition)
     AND ((p).keys IS NULL OR f.key = ANY ((p).keys))
     AND ((p).type IS NULL OR f.type = (p).type)
     AND ((p).id IS NULL OR f.id = (p).id)
     AND ((p).error IS NULL OR f.error_group = (p).error)
     AND ((p).error_id IS NULL OR txb.error_group_id(f.error_group) = (p).error_id)
     AND ((p).error_class IS NULL OR f.error_class = (p).error_class)
     AND ((p).source IS NULL OR f.source = (p).source)
     AND ((p).text IS NULL OR strpos(lower(f.error), (p).text) > 0)
     AND ((p).before IS NULL OR f.created_at <= (p).before)
     AND ((p).since IS NULL OR f.created_at >= (p).since)
$$;
COMMENT ON FUNCTION txb.failed_matching(txb.failed_filter) IS 'The failed messages that a filter means';

-- ---- looking ------------------------------------------------------------------------------------------------------

CREATE FUNCTION txb.failed_find(filter jsonb, after bigint DEFAULT NULL, page int DEFAULT 50)
RETURNS TABLE (number bigint, side text, state text, group_name text, source text, topic text, partition int,
               "offset" bigint, seq bigint, key text, id uuid, type text, "time" timestamptz, attempts int,
               next_attempt_at timestamptz, due_in_ms bigint, error_group text, error_class text, sqlstate text,
               error text, resolution text, replaces bigint, replaced_by bigint, created_at timestamptz,
               age_ms bigint, updated_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, txb, pg_temp SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
  p txb.failed_filter := txb.failed_filter_of(filter);
  one txb.failed;
  last txb.failed;
BEGIN
  IF page IS NULL OR page NOT BETWEEN 1 AND 10000 THEN
    RAISE EXCEPTION 'a page has 1 to 10000 messages, not %', coalesce(page::text, 'null') USING ERRCODE = '22023';
  END IF;
  IF p.sort IN ('changed', 'due', 'attempts') AND after IS NOT NULL THEN
    SELECT * INTO last FROM txb.failed AS f WHERE f.number = after;
    IF last.number IS NULL THEN
      RAISE EXCEPTION 'there is no failed message % to go on after', after USING ERRCODE = '22023';
    END IF;
  END IF;
  FOR one IN EXECUTE
    CASE p.sort -- each its own statement: the index on number serves the first two
      WHEN 'oldest' THEN 'SELECT * FROM txb.failed_matching($1) AS f WHERE $2 IS NULL OR f.number > $2'
                         ' ORDER BY f.number LIMIT $3'
      WHEN 'newest' THEN 'SELECT * FROM txb.failed_matching($1) AS f WHERE $2 IS NULL OR f.number < $2'
                         ' ORDER BY f.number DESC LIMIT $3'
      WHEN 'changed' THEN 'SELECT * FROM txb.failed_matching($1) AS f'
                          ' WHERE $2 IS NULL OR (f.updated_at, f.number) < (($4).updated_at, $2)'
                          ' ORDER BY f.updated_at DESC, f.number DESC LIMIT $3'
      WHEN 'due' THEN 'SELECT * FROM txb.failed_matching($1) AS f WHERE $2 IS NULL'
                      ' OR (coalesce(f.next_attempt_at, ''infinity''), f.number)'
                      '    > (coalesce(($4).next_attempt_at, ''infinity''), $2)'
                      ' ORDER BY coalesce(f.next_attempt_at, ''infinity''), f.number LIMIT $3'
      ELSE 'SELECT * FROM txb.failed_matching($1) AS f WHERE $2 IS NULL OR (f.attempts, f.number) < (($4).attempts, $2)'
           ' ORDER BY f.attempts DESC, f.number DESC LIMIT $3'
    END
    USING p, after, page, last
  LOOP
    number := one.number;
    side := one.side;
    state := one.state;
    group_name := one.group_name;
    source := one.source;
    topic := one.topic;
    partition := one.partition;
    "offset" := one."offset";
    seq := one.seq;
    key := txb.key_text(one.key);
    id := one.id;
    type := one.type;
    "time" := one."time";
    attempts := one.attempts;
    next_attempt_at := one.next_attempt_at;
    due_in_ms := floor(extract(epoch FROM one.next_attempt_at - clock_timestamp()) * 1000);
    error_group := txb.error_group_id(one.error_group);
    error_class := one.error_class;
    sqlstate := one.sqlstate;
    error := one.error;
    resolution := one.resolution;
    replaces := one.replaces;
    replaced_by := one.replaced_by;
    created_at := one.created_at;
    age_ms := floor(extract(epoch FROM clock_timestamp() - one.created_at) * 1000);
    updated_at := one.updated_at;
    RETURN NEXT;
  END LOOP;
END
$$;
COMMENT ON FUNCTION txb.failed_find(jsonb, bigint, int) IS
  'A page of the failed messages that a filter means, in its order, after the message that ended the last page';

CREATE FUNCTION txb.failed_count(filter jsonb, by text, top int DEFAULT 100)
RETURNS TABLE (value text, error_group text, messages bigint, oldest timestamptz, newest timestamptz, age_ms bigint,
               example bigint, "values" bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, txb, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off
AS $$
#variable_conflict use_column
DECLARE
  p txb.failed_filter := txb.failed_filter_of(filter);
BEGIN
  PERFORM txb.word_check('group by', coalesce(by, ''), '{state,error,type,topic,key,group,source}');
  IF top IS NULL OR top NOT BETWEEN 1 AND 10000 THEN
    RAISE EXCEPTION '1 to 10000 values can be counted at once, not %', coalesce(top::text, 'null')
      USING ERRCODE = '22023';
  END IF;
  RETURN QUERY
  SELECT CASE WHEN by = 'key' THEN txb.key_text(g.key) ELSE g.value END,
         CASE WHEN by = 'error' THEN txb.error_group_id(g.value) END,
         g.messages, g.oldest, g.newest,
         floor(extract(epoch FROM clock_timestamp() - g.oldest) * 1000)::bigint, g.example, g.all_values
    FROM (SELECT CASE by WHEN 'state' THEN f.state WHEN 'error' THEN nullif(f.error_group, '') WHEN 'type' THEN f.type
                         WHEN 'topic' THEN f.topic WHEN 'group' THEN f.group_name
                         WHEN 'source' THEN f.source END AS value,
                 CASE WHEN by = 'key' THEN f.key END AS key,
                 count(*) AS messages, min(f.created_at) AS oldest, max(f.created_at) AS newest,
                 min(f.number) AS example, count(*) OVER () AS all_values
            FROM txb.failed_matching(p) AS f
           GROUP BY 1, 2
           ORDER BY 3 DESC, 1, 2
           LIMIT top) AS g
   ORDER BY g.messages DESC, 1;
END
$$;
COMMENT ON FUNCTION txb.failed_count(jsonb, text, int) IS
  'How many failed messages a filter means, by state, error, type, topic, key, group or source: the most frequent '
  'values, with an example of each; a null error is that of messages that only wait behind another';

-- What stands before a message in its key, and what behind it.
CREATE FUNCTION txb.failed_in_key(f txb.failed) RETURNS SETOF txb.failed
LANGUAGE sql STABLE
AS $$
  SELECT o.* FROM txb.failed AS o
   WHERE (f).side = 'consumer' AND o.side = 'consumer' AND o.holds
     AND o.group_name = (f).group_name AND o.topic = (f).topic AND o.partition = (f).partition
     AND sha256(o.key) = sha256((f).key) AND o.key = (f).key
$$;
COMMENT ON FUNCTION txb.failed_in_key(txb.failed) IS
  'The open failed messages that hold the same key, of whichever run: a lane''s wait behind the live ones';

CREATE FUNCTION txb.failed_show(number bigint)
RETURNS TABLE (message jsonb, key bytea, payload bytea, history jsonb, editions jsonb, head bigint, behind bigint,
               behind_first jsonb, waits_in_outbox boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  f txb.failed;
BEGIN
  SELECT * INTO f FROM txb.failed AS t WHERE t.number = failed_show.number;
  IF f.number IS NULL THEN
    RAISE EXCEPTION 'there is no failed message %', coalesce(failed_show.number::text, 'null') USING ERRCODE = 'P0002';
  END IF;
  message := to_jsonb(f) - '{key,payload,error_group}'::text[]
             || jsonb_build_object('key', txb.key_text(f.key), 'error_group', txb.error_group_id(f.error_group),
                                   'error_pattern', nullif(f.error_group, ''),
                                   'age_ms', floor(extract(epoch FROM clock_timestamp() - f.created_at) * 1000),
                                   'due_in_ms', floor(extract(epoch FROM f.next_attempt_at - clock_timestamp()) * 1000));
  key := f.key;
  payload := txb.failed_payload(f);
  SELECT coalesce(jsonb_agg(to_jsonb(h) - 'number' ORDER BY h.at), '[]') INTO history
    FROM txb.failed_history AS h WHERE h.number = f.number;
  WITH RECURSIVE
    older AS (SELECT f.replaces AS number
              UNION SELECT t.replaces FROM older AS o JOIN txb.failed AS t ON t.number = o.number),
    newer AS (SELECT f.replaced_by AS number
              UNION SELECT t.replaced_by FROM newer AS n JOIN txb.failed AS t ON t.number = n.number)
  SELECT coalesce(jsonb_agg(jsonb_build_object('number', t.number, 'id', t.id, 'state', t.state,
                                               'resolution', t.resolution, 'created_at', t.created_at)
                            ORDER BY t.number), '[]') INTO editions
    FROM txb.failed AS t
   WHERE t.number IN (SELECT o.number FROM older AS o UNION SELECT n.number FROM newer AS n);
  SELECT o.number INTO head FROM txb.failed_in_key(f) AS o
   WHERE o.place < f.place AND f.state = 'held' ORDER BY o.place LIMIT 1;
  SELECT count(*) INTO behind FROM txb.failed_in_key(f) AS o WHERE o.place > f.place AND f.holds;
  SELECT coalesce(jsonb_agg(jsonb_build_object('number', b.number, 'id', b.id, 'type', b.type, 'offset', b."offset",
                                               'created_at', b.created_at) ORDER BY b.place), '[]') INTO behind_first
    FROM (SELECT * FROM txb.failed_in_key(f) AS o
           WHERE o.place > f.place AND f.holds ORDER BY o.place LIMIT 10) AS b;
  waits_in_outbox := EXISTS (SELECT FROM txb.relay_hold AS h
                              WHERE f.side = 'outbox' AND f.holds AND h.source = f.source AND h.kind = 'key'
                                AND h.topic = f.topic AND h.key = txb.key_text(f.key));
  RETURN NEXT;
END
$$;
COMMENT ON FUNCTION txb.failed_show(bigint) IS
  'Everything about a failed message: itself, its bytes, its history, its editions, the message that it waits behind, '
  'how many wait behind it and the first ten; P0002: there is none';

REVOKE ALL ON TYPE txb.failed_filter FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
  txb.failed_find(jsonb, bigint, int),
  txb.failed_count(jsonb, text, int),
  txb.failed_show(bigint)
TO txb_reader, txb_admin;

RESET ROLE;
