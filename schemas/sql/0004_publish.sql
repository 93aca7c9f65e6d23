-- Publishing: what applications and handlers call inside their own transaction.
--
--   txb.publish(topic text, key text, type text, payload jsonb, headers jsonb = null, id uuid = null,
--               not_before timestamptz = null, strict_order boolean = false) returns uuid
--   txb.publish(topic text, key text, type text, payload text, ...the same) returns uuid
--       JSON text, kept byte for byte
--   txb.publish(topic text, key text, type text, payload bytea, ...the same,
--               content_type text = 'application/octet-stream') returns uuid
--   txb.publish_many(topics text[], keys text[], types text[], payloads bytea[], content_types text[],
--                    headers jsonb[] = null, ids uuid[] = null, not_befores timestamptz[] = null,
--                    strict_orders boolean[] = null) returns setof uuid, in the order of the arrays
--
-- A literal without a type ('{"a": 1}') takes the text form; without that form it would be ambiguous. A null payload is
-- a message without a value. An argument that is wrong: SQLSTATE 22023 and a message that names the argument and the
-- limit; publish_many also names the row, counted from 1. What a handler publishes gets ids derived from its delivery
-- (W14): the worker says which, in the setting txb.delivery.
--
-- Never NOTIFY: it takes a cluster-wide lock at commit and cost applications two thirds of their throughput. The row's
-- sequence number is drawn under the ROW EXCLUSIVE lock on txb.outbox that the INSERT holds to the end of the
-- transaction: the relay's rule for dead holes rests on that (R3).
--
-- The three forms of txb.publish repeat a dozen lines instead of sharing a function: a nested call costs 4 us of the 17
-- that the application pays.

SET LOCAL ROLE txb_owner;

-- The cast is the only validator that every PostgreSQL since 14 has. A block with a handler is a subtransaction, but
-- one without an xid: it writes nothing.
CREATE FUNCTION txb.json_problem(payload bytea) RETURNS text
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
  PERFORM pg_catalog.convert_from(payload, 'UTF8')::pg_catalog.json;
  RETURN NULL;
EXCEPTION WHEN data_exception THEN
  RETURN 'payload is not valid JSON, which content_type application/json promises: ' || sqlerrm;
END
$$;
COMMENT ON FUNCTION txb.json_problem(bytea) IS 'Why a payload is not JSON; null: it is, or there is none';

-- Chained, not concatenated: ("a", "bc") and ("ab", "c") are two locks.
CREATE FUNCTION txb.order_lock(topic text, key text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hashtextextended(key, hashtextextended(topic, 1954049330));
COMMENT ON FUNCTION txb.order_lock(text, text) IS 'The advisory lock that strict_order takes for a topic and key';

-- After it, whoever else published this key in strict order has ended; the number drawn next is higher than his.
CREATE FUNCTION txb.intent_order(topic text, key text) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
  IF key IS NULL THEN
    PERFORM txb.intent_refuse('txb.publish', 'strict_order needs a key');
  END IF;
  PERFORM pg_catalog.pg_advisory_xact_lock(txb.order_lock(topic, key));
END
$$;
COMMENT ON FUNCTION txb.intent_order(text, text) IS
  'Takes the advisory lock of a topic and key to the end of the transaction';

-- W14. The message whose delivery publishes is in the setting txb.delivery as "group/message id"; txb.ordinal
-- counts what it published. Both are local to the transaction. The hash is that of common/uuid.c: SHA-256 over the
-- parts, each preceded by its length.
CREATE FUNCTION txb.uuid_v7_derive(base uuid, group_name text, message_id uuid, ordinal bigint) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT (substr(base::text, 1, 19) || to_hex(8 | (get_byte(h, 0) >> 4 & 3))
                || substr(encode(h, 'hex'), 2, 15))::uuid
          FROM (SELECT sha256(int8send(octet_length(group_name)) || convert_to(group_name, 'UTF8')
                              || int8send(36) || convert_to(message_id::text, 'UTF8')
                              || int8send(octet_length(ordinal::text)) || convert_to(ordinal::text, 'UTF8')
                             ) AS h) AS hash);
COMMENT ON FUNCTION txb.uuid_v7_derive(uuid, text, uuid, bigint) IS
  'The id of the ordinal-th intent published by the delivery of a message to a group, with the time of base: the same'
  ' whenever that delivery is run (W14)';

-- A scheduled intent's id carries its due time, or it would be older than the consumers' inboxes when it comes.
CREATE FUNCTION txb.intent_id(due timestamptz) RETURNS uuid
LANGUAGE plpgsql
AS $$
DECLARE
  delivery text := current_setting('txb.delivery', true);
  message_id uuid;
  ordinal bigint;
BEGIN
  IF coalesce(delivery, '') = '' THEN
    RETURN CASE WHEN due IS NULL THEN txb.uuid_v7() ELSE txb.uuid_v7_at(due) END;
  END IF;
  message_id := right(delivery, 36)::uuid;
  ordinal := coalesce(nullif(current_setting('txb.ordinal', true), '')::bigint, 0) + 1;
  PERFORM set_config('txb.ordinal', ordinal::text, true);
  RETURN txb.uuid_v7_derive(CASE WHEN due IS NULL THEN message_id ELSE txb.uuid_v7_at(due) END,
                            left(delivery, -37), message_id, ordinal);
END
$$;
COMMENT ON FUNCTION txb.intent_id(timestamptz) IS
  'The id of an intent that was given none: derived inside a delivery, else new; with a due time, of that time';

-- Centuries ahead is one unit mistaken for another, and does not fit the time of an id.
CREATE FUNCTION txb.intent_due_problem(not_before timestamptz, at timestamptz) RETURNS text
LANGUAGE sql STABLE
RETURN CASE WHEN not_before > at + interval '10 years'
            THEN 'not_before is ' || not_before || ', at most 10 years ahead are allowed' END;
COMMENT ON FUNCTION txb.intent_due_problem(timestamptz, timestamptz) IS
  'What is wrong with a due time, seen from a moment; null: nothing';

CREATE FUNCTION txb.intent_schedule(id uuid, topic text, key text, type text, payload bytea, content_type text,
                                    headers jsonb, due timestamptz) RETURNS uuid
LANGUAGE plpgsql
AS $$
DECLARE
  problem text := txb.intent_due_problem(due, clock_timestamp());
BEGIN
  IF problem IS NOT NULL THEN
    PERFORM txb.intent_refuse('txb.publish', problem);
  END IF;
  id := coalesce(id, txb.intent_id(due));
  INSERT INTO txb.scheduled (due, id, topic, key, type, payload, content_type, headers)
  VALUES (due, id, topic, key, type, payload, content_type, headers);
  RETURN id;
END
$$;
COMMENT ON FUNCTION txb.intent_schedule(uuid, text, text, text, bytea, text, jsonb, timestamptz) IS
  'Keeps an intent until its time; returns its id';

CREATE FUNCTION txb.publish(topic text, key text, type text, payload jsonb, headers jsonb DEFAULT NULL,
                            id uuid DEFAULT NULL, not_before timestamptz DEFAULT NULL,
                            strict_order boolean DEFAULT false) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  IF strict_order THEN
    PERFORM txb.intent_order(topic, key);
  END IF;
  IF not_before > clock_timestamp() THEN
    RETURN txb.intent_schedule(id, topic, key, type, convert_to(payload::text, 'UTF8'), 'application/json', headers,
                               not_before);
  END IF;
  IF id IS NULL THEN
    id := CASE WHEN coalesce(current_setting('txb.delivery', true), '') = ''
               THEN txb.uuid_v7() ELSE txb.intent_id(NULL) END;
  END IF;
  INSERT INTO txb.outbox (id, topic, key, type, payload, content_type, headers)
  VALUES (id, topic, key, type, convert_to(payload::text, 'UTF8'), 'application/json', headers);
  RETURN id;
END
$$;
COMMENT ON FUNCTION txb.publish(text, text, text, jsonb, jsonb, uuid, timestamptz, boolean) IS
  'Writes an intent with a JSON payload. It becomes a Kafka message if and only if the transaction commits. Returns '
  'the message id';

CREATE FUNCTION txb.publish(topic text, key text, type text, payload text, headers jsonb DEFAULT NULL,
                            id uuid DEFAULT NULL, not_before timestamptz DEFAULT NULL,
                            strict_order boolean DEFAULT false) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  BEGIN
    PERFORM payload::json;
  EXCEPTION WHEN data_exception THEN
    PERFORM txb.intent_refuse('txb.publish', txb.json_problem(convert_to(payload, 'UTF8')));
  END;
  IF strict_order THEN
    PERFORM txb.intent_order(topic, key);
  END IF;
  IF not_before > clock_timestamp() THEN
    RETURN txb.intent_schedule(id, topic, key, type, convert_to(payload, 'UTF8'), 'application/json', headers,
                               not_before);
  END IF;
  IF id IS NULL THEN
    id := CASE WHEN coalesce(current_setting('txb.delivery', true), '') = ''
               THEN txb.uuid_v7() ELSE txb.intent_id(NULL) END;
  END IF;
  INSERT INTO txb.outbox (id, topic, key, type, payload, content_type, headers)
  VALUES (id, topic, key, type, convert_to(payload, 'UTF8'), 'application/json', headers);
  RETURN id;
END
$$;
COMMENT ON FUNCTION txb.publish(text, text, text, text, jsonb, uuid, timestamptz, boolean) IS
  'Writes an intent with a payload of JSON text, which is checked and kept byte for byte. Returns the message id';

CREATE FUNCTION txb.publish(topic text, key text, type text, payload bytea, headers jsonb DEFAULT NULL,
                            id uuid DEFAULT NULL, not_before timestamptz DEFAULT NULL,
                            strict_order boolean DEFAULT false,
                            content_type text DEFAULT 'application/octet-stream') RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  IF content_type = 'application/json' THEN
    BEGIN
      PERFORM convert_from(payload, 'UTF8')::json;
    EXCEPTION WHEN data_exception THEN
      PERFORM txb.intent_refuse('txb.publish', txb.json_problem(payload));
    END;
  END IF;
  IF strict_order THEN
    PERFORM txb.intent_order(topic, key);
  END IF;
  IF not_before > clock_timestamp() THEN
    RETURN txb.intent_schedule(id, topic, key, type, payload, content_type, headers, not_before);
  END IF;
  IF id IS NULL THEN
    id := CASE WHEN coalesce(current_setting('txb.delivery', true), '') = ''
               THEN txb.uuid_v7() ELSE txb.intent_id(NULL) END;
  END IF;
  INSERT INTO txb.outbox (id, topic, key, type, payload, content_type, headers)
  VALUES (id, topic, key, type, payload, content_type, headers);
  RETURN id;
END
$$;
COMMENT ON FUNCTION txb.publish(text, text, text, bytea, jsonb, uuid, timestamptz, boolean, text) IS
  'Writes an intent with a payload of bytes; with content_type application/json they must be valid JSON. Returns the '
  'message id';

-- What is wrong with the first wrong one of many, as "row 3: ..."; null: nothing.
CREATE FUNCTION txb.intents_problem(topics text[], keys text[], types text[], payloads bytea[], content_types text[],
                                    headers jsonb[], ids uuid[], not_befores timestamptz[], strict_orders boolean[],
                                    at timestamptz)
RETURNS text
LANGUAGE sql VOLATILE
AS $$
  SELECT 'row ' || u.row || ': ' || p.problem
    FROM unnest(topics, keys, types, payloads, content_types, headers, ids, not_befores, strict_orders)
           WITH ORDINALITY AS u(topic, key, type, payload, content_type, headers, id, not_before, strict_order, row),
         LATERAL (SELECT coalesce(
           txb.intent_problem(u.topic, u.key, u.type, u.payload, u.content_type, u.headers, u.id),
           CASE WHEN u.strict_order AND u.key IS NULL THEN 'strict_order needs a key' END,
           txb.intent_due_problem(u.not_before, at),
           CASE WHEN u.content_type = 'application/json' THEN txb.json_problem(u.payload) END) AS problem OFFSET 0) AS p
   WHERE p.problem IS NOT NULL
   ORDER BY u.row LIMIT 1
$$;
COMMENT ON FUNCTION txb.intents_problem(text[], text[], text[], bytea[], text[], jsonb[], uuid[], timestamptz[],
                                        boolean[], timestamptz) IS
  'What is wrong with the first wrong one of many intents, and its row counted from 1; null: nothing';

CREATE FUNCTION txb.publish_many(topics text[], keys text[], types text[], payloads bytea[], content_types text[],
                                 headers jsonb[] DEFAULT NULL, ids uuid[] DEFAULT NULL,
                                 not_befores timestamptz[] DEFAULT NULL, strict_orders boolean[] DEFAULT NULL)
RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  count int := cardinality(topics);
  fits boolean;
  lock bigint;
  at timestamptz := clock_timestamp();
  derived boolean := coalesce(current_setting('txb.delivery', true), '') <> '';
  written uuid[];
BEGIN
  IF topics IS NULL OR keys IS NULL OR types IS NULL OR payloads IS NULL OR content_types IS NULL THEN
    RAISE EXCEPTION 'txb.publish_many: topics, keys, types, payloads and content_types are arrays, none of them null'
      USING ERRCODE = '22023';
  END IF;
  IF cardinality(keys) <> count OR cardinality(types) <> count OR cardinality(payloads) <> count
     OR cardinality(content_types) <> count OR cardinality(headers) <> count OR cardinality(ids) <> count
     OR cardinality(not_befores) <> count OR cardinality(strict_orders) <> count THEN
    RAISE EXCEPTION 'txb.publish_many: topics has % elements, every other array must have as many', count
      USING ERRCODE = '22023', HINT = 'headers, ids, not_befores and strict_orders may be null as a whole.';
  END IF;

  -- Cheaply over all; only when one is wrong, again to name it.
  BEGIN
    SELECT bool_and(coalesce(txb.intent_fits(u.topic, u.key, u.type, u.payload, u.content_type, u.headers, u.id), false)
                    AND NOT coalesce(u.strict_order AND u.key IS NULL OR u.not_before > at + interval '10 years', false)
                    AND (u.content_type IS DISTINCT FROM 'application/json' OR u.payload IS NULL
                         OR convert_from(u.payload, 'UTF8')::json IS NOT NULL))
      INTO fits
      FROM unnest(topics, keys, types, payloads, content_types, publish_many.headers, ids, not_befores, strict_orders)
             AS u(topic, key, type, payload, content_type, headers, id, not_before, strict_order);
  EXCEPTION WHEN data_exception THEN
    fits := false;
  END;
  IF NOT fits THEN
    PERFORM txb.intent_refuse('txb.publish_many',
      txb.intents_problem(topics, keys, types, payloads, content_types, publish_many.headers, ids,
                          not_befores, strict_orders, at));
  END IF;

  -- All locks before the first number is drawn, in one order for everybody, so that two of these can't deadlock.
  IF true = ANY (strict_orders) THEN
    FOR lock IN
      SELECT DISTINCT txb.order_lock(u.topic, u.key)
        FROM unnest(topics, keys, strict_orders) AS u(topic, key, strict_order)
       WHERE u.strict_order
       ORDER BY 1
    LOOP
      PERFORM pg_advisory_xact_lock(lock);
    END LOOP;
  END IF;

  written := ARRAY(
    SELECT CASE WHEN u.id IS NOT NULL THEN u.id
                WHEN derived OR u.not_before > at THEN txb.intent_id(CASE WHEN u.not_before > at THEN u.not_before END)
                ELSE txb.uuid_v7() END
      FROM unnest(topics, ids, not_befores) WITH ORDINALITY AS u(topic, id, not_before, row)
     ORDER BY u.row);

  IF at < ANY (not_befores) THEN
    INSERT INTO txb.scheduled (due, id, topic, key, type, payload, content_type, headers)
    SELECT u.not_before, u.id, u.topic, u.key, u.type, u.payload, u.content_type, u.headers
      FROM unnest(written, topics, keys, types, payloads, content_types, publish_many.headers, not_befores)
             WITH ORDINALITY AS u(id, topic, key, type, payload, content_type, headers, not_before, row)
     WHERE u.not_before > at
     ORDER BY u.row;
  END IF;
  -- The numbers are drawn above the sort: their order is the arrays'.
  INSERT INTO txb.outbox (id, topic, key, type, payload, content_type, headers)
  SELECT u.id, u.topic, u.key, u.type, u.payload, u.content_type, u.headers
    FROM unnest(written, topics, keys, types, payloads, content_types, publish_many.headers, not_befores)
           WITH ORDINALITY AS u(id, topic, key, type, payload, content_type, headers, not_before, row)
   WHERE u.not_before IS NULL OR u.not_before <= at
   ORDER BY u.row;

  RETURN QUERY SELECT unnest(written);
END
$$;
COMMENT ON FUNCTION txb.publish_many(text[], text[], text[], bytea[], text[], jsonb[], uuid[], timestamptz[],
                                     boolean[]) IS
  'Writes many intents in the order of the arrays, all or none; returns their ids in that order. An error names the '
  'row, counted from 1';

GRANT EXECUTE ON FUNCTION
  txb.publish(text, text, text, jsonb, jsonb, uuid, timestamptz, boolean),
  txb.publish(text, text, text, text, jsonb, uuid, timestamptz, boolean),
  txb.publish(text, text, text, bytea, jsonb, uuid, timestamptz, boolean, text),
  txb.publish_many(text[], text[], text[], bytea[], text[], jsonb[], uuid[], timestamptz[], boolean[])
TO txb_app, txb_worker, txb_admin;

RESET ROLE;
