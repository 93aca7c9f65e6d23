-- What a person decides about failed messages: the functions behind `txbroker failed retry`, `edit`, `discard`, and
-- `txbroker audit list`.
--
--   txb.failed_retry(numbers bigint[], person text, reason text = null, filter jsonb = null) returns table
--   txb.failed_discard(numbers bigint[], person text, reason text, filter jsonb = null) returns table
--   txb.failed_edit(number bigint, payload bytea, content_type text, headers jsonb, person text, reason text = null,
--                   filter jsonb = null) returns table: the whole of the new edition
--       per number: done, or why not; filter is for the audit
--   txb.audit_list(after bigint = null, page int = 50) returns setof txb.audit, the newest first
--
-- A decision is one transaction: it locks the positions of the partitions that it touches, in their order (the fence of
-- every batch), and a later statement reads the messages (W2). It changes the message, its history, what follows it in
-- its key, the counter of held ones and the version of the partition's keys, by which the worker notices; and it writes
-- one row of txb.audit. A crash leaves all of that or nothing. The publishing side's are handed to txb.outbox_decide.

SET LOCAL ROLE txb_owner;

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
CREATE FUNCTION txb.failed_forget(group_name text, run bigint, id uuid) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, txb, pg_temp
AS $$
  INSERT INTO txb.inbox (group_name, run, message_id)
  SELECT failed_forget.group_name, failed_forget.run, failed_forget.id
    FROM txb.inbox_state AS s
   WHERE failed_forget.run <> 0
      OR CASE WHEN isfinite(s.horizon) THEN failed_forget.id >= txb.uuid_v7_floor(s.horizon) ELSE true END
  ON CONFLICT DO NOTHING
$$;
COMMENT ON FUNCTION txb.failed_forget(text, bigint, uuid) IS
  'From now on a later copy of that message is a duplicate for the group, in that run';

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
  PERFORM txb.failed_forget(f.group_name, f.run, f.id);
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

GRANT EXECUTE ON FUNCTION txb.audit_list(bigint, int) TO txb_reader, txb_admin;
GRANT EXECUTE ON FUNCTION
  txb.failed_retry(bigint[], text, text, jsonb),
  txb.failed_discard(bigint[], text, text, jsonb),
  txb.failed_edit(bigint, bytea, text, jsonb, text, text, jsonb)
TO txb_admin;

RESET ROLE;
