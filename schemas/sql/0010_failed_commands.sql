-- What a person asks and decides about failed messages: the functions behind `txbroker failed` and `txbroker audit`.
--
--   txb.failed_find(filter jsonb, after bigint = null, page int = 50) returns table, a page in the filter's order
--   txb.failed_count(filter jsonb, by text, top int = 100) returns table, one row a value, the most frequent first
--   txb.failed_show(number bigint) returns one row: the message, its bytes, history, editions, what waits behind it
--   txb.failed_retry(numbers bigint[], person text, reason text = null, filter jsonb = null) returns table
--   txb.failed_discard(numbers bigint[], person text, reason text, filter jsonb = null) returns table
--   txb.failed_edit(number bigint, payload bytea, content_type text, headers jsonb, person text, reason text = null,
--                   filter jsonb = null) returns table: the whole of the new edition
--       per number: done, or why not
--   txb.audit_list(after bigint = null, page int = 50) returns setof txb.audit, the newest first
--
-- A filter is a JSON object; all of its keys must hold: number, numbers, side (outbox, consumer), state (a name, a list
-- of them, "open", "any"), group, topic, partition, key, type, id, error (a group of equal errors: its text or its
-- eight digits), error_class, source, text (part of the error), older_than, newer_than (a span since it failed first),
-- order (oldest, newest, changed, due, attempts). Without state, number, numbers and id: the open ones.
--
-- A decision is one transaction: it locks the positions of the partitions that it touches, in their order (the fence of
-- every batch), and a later statement reads the messages (W2). It changes the message, its history, what follows it in
-- its key, the counter of held ones and the version of the partition's keys, by which the worker notices; and it writes
-- one row of txb.audit. A crash leaves all of that or nothing. The publishing side's are handed to txb.outbox_decide.

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
   WHERE (f).side = 'consumer' AND o.side = 'consumer' AND o.holds AND o.run = (f).run
     AND o.group_name = (f).group_name AND o.topic = (f).topic AND o.partition = (f).partition
     AND sha256(o.key) = sha256((f).key) AND o.key = (f).key
$$;
COMMENT ON FUNCTION txb.failed_in_key(txb.failed) IS 'The open failed messages that hold the same key';

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

-- ---- deciding -----------------------------------------------------------------------------------------------------

CREATE FUNCTION txb.failed_lock(numbers bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp SET lock_timeout = '5s'
AS $$
BEGIN
  IF numbers IS NULL OR cardinality(numbers) NOT BETWEEN 1 AND 10000 OR array_position(numbers, NULL) IS NOT NULL THEN
    RAISE EXCEPTION 'give the numbers of 1 to 10000 failed messages' USING ERRCODE = '22023';
  END IF;
  PERFORM FROM txb.consumer_offset AS c
    WHERE (c.group_name, c.topic, c.partition) IN (SELECT f.group_name, f.topic, f.partition FROM txb.failed AS f
                                                    WHERE f.number = ANY (numbers) AND f.side = 'consumer')
    ORDER BY c.group_name, c.topic, c.partition
    FOR UPDATE;
EXCEPTION WHEN lock_not_available THEN
  RAISE EXCEPTION 'a batch of that partition is under way for more than five seconds: nothing was changed; try again'
    USING ERRCODE = '55P03';
END
$$;
COMMENT ON FUNCTION txb.failed_lock(bigint[]) IS
  'Locks the positions of these messages'' partitions in their order, a statement of its own (W2); 55P03: try again';

-- Rows of the publishing side are not locked here: a relay writes them, and must not wait for a session that decides and
-- stays open. txb.outbox_decide locks what it may.
CREATE FUNCTION txb.failed_read(number bigint) RETURNS txb.failed
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  f txb.failed;
BEGIN
  SELECT * INTO f FROM txb.failed AS t WHERE t.number = failed_read.number AND t.side = 'consumer' FOR UPDATE;
  IF f.number IS NULL THEN
    SELECT * INTO f FROM txb.failed AS t WHERE t.number = failed_read.number AND t.side = 'outbox';
  END IF;
  RETURN f;
END
$$;
COMMENT ON FUNCTION txb.failed_read(bigint) IS 'A failed message to decide on, as it is now; null: there is none';

-- The whole of a refused intent stays in the outbox; an edition of one keeps its own.
CREATE FUNCTION txb.failed_payload(f txb.failed) RETURNS bytea
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT CASE WHEN (f).side = 'outbox' AND (f).payload IS NULL AND (f).replaces IS NULL
              THEN (SELECT o.payload FROM txb.outbox AS o WHERE o.seq = (f).seq)
              ELSE (f).payload END
$$;
COMMENT ON FUNCTION txb.failed_payload(txb.failed) IS 'The payload of a failed message, wherever it is kept';

CREATE FUNCTION txb.failed_closed_text(f txb.failed) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT format('is %s%s since %s%s', (f).state,
                CASE (f).resolution WHEN 'discarded' THEN '' WHEN 'edited' THEN format(' (edited: see %s)', (f).replaced_by)
                                    ELSE format(' (%s)', (f).resolution) END,
                txb.time_text(coalesce(h.at, (f).updated_at)), coalesce(', by ' || h.who, ''))
    FROM (SELECT 1) AS one
    LEFT JOIN LATERAL (SELECT h.at, h.who FROM txb.failed_history AS h
                        WHERE h.number = (f).number ORDER BY h.at DESC LIMIT 1) AS h ON true
$$;
COMMENT ON FUNCTION txb.failed_closed_text(txb.failed) IS 'Why a closed message can''t be decided on: how it ended, when, by whom';

CREATE FUNCTION txb.failed_note(number bigint, event text, state text, who text, reason text) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, txb, pg_temp
AS $$
  INSERT INTO txb.failed_history (number, event, state, who, error)
  VALUES (failed_note.number, failed_note.event, failed_note.state, failed_note.who,
          left(nullif(failed_note.reason, ''), 1000))
$$;
COMMENT ON FUNCTION txb.failed_note(bigint, text, text, text, text) IS 'One row of a failed message''s history';

-- An id older than what the inbox remembers is refused as it is, so it needs no row.
CREATE FUNCTION txb.failed_forget(group_name text, id uuid) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, txb, pg_temp
AS $$
  INSERT INTO txb.inbox (group_name, run, message_id)
  SELECT failed_forget.group_name, 0, failed_forget.id
    FROM txb.inbox_state AS s
   WHERE CASE WHEN isfinite(s.horizon) THEN failed_forget.id >= txb.uuid_v7_floor(s.horizon) ELSE true END
  ON CONFLICT DO NOTHING
$$;
COMMENT ON FUNCTION txb.failed_forget(text, uuid) IS 'From now on a later copy of that message is a duplicate for the group';

CREATE FUNCTION txb.failed_due(f txb.failed) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, txb, pg_temp
AS $$
  UPDATE txb.failed AS t
     SET state = 'retrying', attempts = 0, next_attempt_at = clock_timestamp(), updated_at = clock_timestamp()
   WHERE t.number = (f).number;
  UPDATE txb.consumer_offset AS c SET held = greatest(0, c.held - 1)
   WHERE (f).state = 'held' AND c.group_name = (f).group_name AND c.topic = (f).topic AND c.partition = (f).partition
$$;
COMMENT ON FUNCTION txb.failed_due(txb.failed) IS
  'Makes a message of the consumer''s side due now, with all its attempts before it';

-- Closes a message of the consumer''s side whose partition is locked. What becomes the first of its key runs next,
-- unless another edition takes the place.
CREATE FUNCTION txb.failed_close(f txb.failed, state text, resolution text, replaced_by bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  next txb.failed;
BEGIN
  UPDATE txb.failed AS t
     SET state = failed_close.state, resolution = failed_close.resolution, replaced_by = failed_close.replaced_by,
         holds = false, next_attempt_at = NULL, updated_at = clock_timestamp()
   WHERE t.number = f.number;
  PERFORM txb.failed_forget(f.group_name, f.id);
  IF failed_close.replaced_by IS NULL AND f.holds THEN
    SELECT * INTO next FROM txb.failed_in_key(f) AS o ORDER BY o.place LIMIT 1;
    IF next.state = 'held' THEN
      PERFORM txb.failed_due(next);
      PERFORM txb.failed_note(next.number, 'ahead_done', 'retrying', NULL, NULL);
    END IF;
  END IF;
  IF failed_close.replaced_by IS NULL AND f.state = 'held' THEN
    UPDATE txb.consumer_offset AS c SET held = greatest(0, c.held - 1)
     WHERE c.group_name = f.group_name AND c.topic = f.topic AND c.partition = f.partition;
  END IF;
END
$$;
COMMENT ON FUNCTION txb.failed_close(txb.failed, text, text, bigint) IS
  'Ends a failed message by a decision; the first one left of its key becomes due';

CREATE FUNCTION txb.failed_decided(action text, numbers bigint[], changed bigint[], person text, reason text,
                                   filter jsonb) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, txb, pg_temp
AS $$
  UPDATE txb.consumer_offset AS c SET keys_version = c.keys_version + 1
    FROM (SELECT DISTINCT f.group_name, f.topic, f.partition FROM txb.failed AS f
           WHERE f.number = ANY (changed) AND f.side = 'consumer') AS p
   WHERE c.group_name = p.group_name AND c.topic = p.topic AND c.partition = p.partition;
  INSERT INTO txb.audit (person, action, filter, matched, changed, reason)
  VALUES (nullif(failed_decided.person, ''), failed_decided.action,
          coalesce(failed_decided.filter, jsonb_build_object('numbers', failed_decided.numbers)),
          cardinality(numbers), cardinality(failed_decided.changed), nullif(failed_decided.reason, ''))
$$;
COMMENT ON FUNCTION txb.failed_decided(text, bigint[], bigint[], text, text, jsonb) IS
  'What every decision ends with: the workers of the partitions notice, and the audit row';

CREATE FUNCTION txb.failed_retry(numbers bigint[], person text, reason text DEFAULT NULL, filter jsonb DEFAULT NULL)
RETURNS TABLE (number bigint, done boolean, state text, why text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  wanted bigint[] := ARRAY(SELECT DISTINCT n FROM unnest(numbers) AS n ORDER BY n);
  changed bigint[] := '{}';
  who text := txb.person_text(person);
  f txb.failed;
  last txb.failed_history;
BEGIN
  PERFORM txb.failed_lock(numbers);
  FOREACH number IN ARRAY wanted LOOP
    f := txb.failed_read(failed_retry.number);
    SELECT * INTO last FROM txb.failed_history AS h WHERE h.number = failed_retry.number ORDER BY h.at DESC LIMIT 1;
    state := f.state;
    why := NULL;
    IF f.number IS NULL THEN
      why := 'does not exist';
    ELSIF f.state IN ('resolved', 'discarded') THEN
      why := txb.failed_closed_text(f);
    ELSIF f.state = 'retrying' AND last.event = 'retry' THEN
      why := format('is due already since %s: %s asked for it', txb.time_text(last.at), coalesce(last.who, 'somebody'));
    ELSIF f.side = 'outbox' THEN
      why := txb.outbox_decide(f.number, 'retry', NULL, NULL, NULL, who, reason);
    ELSE
      IF f.state = 'held' THEN
        why := (SELECT format('is held behind %s: retry that one, and it follows', o.number)
                  FROM txb.failed_in_key(f) AS o WHERE o.place < f.place ORDER BY o.place LIMIT 1);
      END IF;
      IF why IS NULL THEN -- also what is held behind nothing, which must not be, and is mended so
        PERFORM txb.failed_due(f);
        PERFORM txb.failed_note(f.number, 'retry', 'retrying', who, reason);
      END IF;
    END IF;
    done := why IS NULL;
    IF done THEN
      changed := changed || number;
      state := (SELECT t.state FROM txb.failed AS t WHERE t.number = f.number);
    END IF;
    RETURN NEXT;
  END LOOP;
  PERFORM txb.failed_decided('failed retry', wanted, changed, person, reason, filter);
END
$$;
COMMENT ON FUNCTION txb.failed_retry(bigint[], text, text, jsonb) IS
  'Makes failed messages due now, with all their attempts before them; per number done, or why not';

CREATE FUNCTION txb.failed_discard(numbers bigint[], person text, reason text, filter jsonb DEFAULT NULL)
RETURNS TABLE (number bigint, done boolean, state text, why text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  wanted bigint[] := ARRAY(SELECT DISTINCT n FROM unnest(numbers) AS n ORDER BY n);
  changed bigint[] := '{}';
  who text := txb.person_text(person);
  f txb.failed;
BEGIN
  IF coalesce(reason, '') !~ '\S' THEN
    RAISE EXCEPTION 'to discard a message a reason is needed' USING ERRCODE = '22023';
  END IF;
  PERFORM txb.failed_lock(numbers);
  FOREACH number IN ARRAY wanted LOOP
    f := txb.failed_read(failed_discard.number);
    state := f.state;
    why := NULL;
    IF f.number IS NULL THEN
      why := 'does not exist';
    ELSIF f.state IN ('resolved', 'discarded') THEN
      why := txb.failed_closed_text(f);
    ELSIF f.side = 'outbox' THEN
      why := txb.outbox_decide(f.number, 'discard', NULL, NULL, NULL, who, reason);
    ELSE
      PERFORM txb.failed_close(f, 'discarded', 'discarded', NULL);
      PERFORM txb.failed_note(f.number, 'discard', 'discarded', who, reason);
    END IF;
    done := why IS NULL;
    IF done THEN
      changed := changed || number;
      state := (SELECT t.state FROM txb.failed AS t WHERE t.number = f.number);
    END IF;
    RETURN NEXT;
  END LOOP;
  PERFORM txb.failed_decided('failed discard', wanted, changed, person, reason, filter);
END
$$;
COMMENT ON FUNCTION txb.failed_discard(bigint[], text, text, jsonb) IS
  'Gives failed messages up, for a reason; what waits behind them goes on. Per number done, or why not';

CREATE FUNCTION txb.says_json(content_type text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN lower(btrim(split_part(content_type, ';', 1))) ~ '^((application|text)/json|[^/]+/[^/]+\+json)$';
COMMENT ON FUNCTION txb.says_json(text) IS 'Whether a media type promises JSON';

-- Headers that the message came with may break the limits of intents (another producer made them): what is new may not.
CREATE FUNCTION txb.failed_edit_problem(f txb.failed, payload bytea, content_type text, headers jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT coalesce(
    txb.intent_problem('t', NULL, 't', payload, content_type,
      CASE WHEN jsonb_typeof(headers) = 'object'
           THEN (SELECT coalesce(jsonb_object_agg(h.key, h.value), '{}') FROM jsonb_each(headers) AS h
                  WHERE h.value IS DISTINCT FROM coalesce((f).headers, '{}') -> h.key)
           ELSE headers END, NULL),
    CASE WHEN jsonb_typeof(headers) = 'object' AND headers IS DISTINCT FROM (f).headers
         THEN CASE WHEN octet_length(headers::text) > 16384
                   THEN format('headers has %s bytes as JSON text, at most 16384 are allowed', octet_length(headers::text))
                   WHEN jsonb_array_length(jsonb_path_query_array(headers, '$.keyvalue()')) > 32
                   THEN 'headers has more than 32 entries' END END,
    CASE WHEN txb.says_json(content_type)
         THEN replace(txb.json_problem(payload), 'application/json', content_type) END)
$$;
COMMENT ON FUNCTION txb.failed_edit_problem(txb.failed, bytea, text, jsonb) IS
  'What is wrong with an edition, by the limits of txb.publish; null: nothing';

CREATE FUNCTION txb.failed_edit(number bigint, payload bytea, content_type text, headers jsonb, person text,
                                reason text DEFAULT NULL, filter jsonb DEFAULT NULL)
RETURNS TABLE (done boolean, state text, why text, new_number bigint, new_id uuid)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  who text := txb.person_text(person);
  f txb.failed;
  problem text;
BEGIN
  PERFORM txb.failed_lock(ARRAY[failed_edit.number]);
  f := txb.failed_read(failed_edit.number);
  IF f.number IS NULL THEN
    RAISE EXCEPTION 'there is no failed message %', failed_edit.number USING ERRCODE = 'P0002';
  END IF;
  headers := nullif(headers, '{}');
  state := f.state;
  IF f.state IN ('resolved', 'discarded') THEN
    why := txb.failed_closed_text(f);
  ELSE
    problem := txb.failed_edit_problem(f, payload, content_type, headers);
    IF problem IS NOT NULL THEN
      RAISE EXCEPTION '%; nothing was changed', problem USING ERRCODE = '22023';
    END IF;
    IF payload IS NOT DISTINCT FROM txb.failed_payload(f) AND content_type IS NOT DISTINCT FROM f.content_type
       AND headers IS NOT DISTINCT FROM nullif(f.headers, '{}') THEN
      why := 'is the same as before: nothing was changed';
    ELSIF f.side = 'outbox' THEN
      why := txb.outbox_decide(f.number, 'edit', payload, content_type, headers, who, reason);
      SELECT n.number, n.id, coalesce(n.state, t.state) INTO new_number, new_id, state
        FROM txb.failed AS t LEFT JOIN txb.failed AS n ON n.number = t.replaced_by WHERE t.number = f.number;
    ELSE
      INSERT INTO txb.failed (side, state, run, source, group_name, topic, partition, "offset", key, id, type, "time",
                              payload, content_type, headers, attempts, next_attempt_at, handler, place, holds, replaces)
      VALUES (f.side, CASE WHEN f.state = 'held' THEN 'held' ELSE 'retrying' END, f.run, f.source, f.group_name,
              f.topic, f.partition, f."offset", f.key, txb.uuid_v7(), f.type, f."time", payload, content_type, headers,
              0, CASE WHEN f.state <> 'held' THEN clock_timestamp() END, f.handler, f.place, f.holds, f.number)
      RETURNING txb.failed.number, txb.failed.id, txb.failed.state INTO new_number, new_id, state;
      PERFORM txb.failed_close(f, 'resolved', 'edited', new_number);
      PERFORM txb.failed_note(f.number, 'edit', 'resolved', who, reason);
      PERFORM txb.failed_note(new_number, 'edited', state, who, reason);
    END IF;
  END IF;
  done := why IS NULL;
  PERFORM txb.failed_decided('failed edit', ARRAY[failed_edit.number],
                             CASE WHEN done THEN ARRAY[failed_edit.number] ELSE '{}' END, person, reason, filter);
  RETURN NEXT;
END
$$;
COMMENT ON FUNCTION txb.failed_edit(bigint, bytea, text, jsonb, text, text, jsonb) IS
  'Puts another payload, content type and headers, all of them given, in the place of a failed message: a new message '
  'with a new id, linked to the old one; done, or why not. 22023: it breaks a limit or is no JSON';

CREATE FUNCTION txb.audit_list(after bigint DEFAULT NULL, page int DEFAULT 50) RETURNS SETOF txb.audit
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  IF page IS NULL OR page NOT BETWEEN 1 AND 10000 THEN
    RAISE EXCEPTION 'a page has 1 to 10000 rows, not %', coalesce(page::text, 'null') USING ERRCODE = '22023';
  END IF;
  RETURN QUERY SELECT a.* FROM txb.audit AS a WHERE after IS NULL OR a.number < after ORDER BY a.number DESC LIMIT page;
END
$$;
COMMENT ON FUNCTION txb.audit_list(bigint, int) IS 'Who decided what, the newest first, a page after a number';

REVOKE ALL ON TYPE txb.failed_filter FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
  txb.failed_find(jsonb, bigint, int),
  txb.failed_count(jsonb, text, int),
  txb.failed_show(bigint),
  txb.audit_list(bigint, int)
TO txb_reader, txb_admin;
GRANT EXECUTE ON FUNCTION
  txb.failed_retry(bigint[], text, text, jsonb),
  txb.failed_discard(bigint[], text, text, jsonb),
  txb.failed_edit(bigint, bytea, text, jsonb, text, text, jsonb)
TO txb_admin;

RESET ROLE;
