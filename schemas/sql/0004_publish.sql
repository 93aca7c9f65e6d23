-- Publishing: what applications and handlers call inside their own transaction.
--
--   txb.publish(topic text, key text, type text, payload jsonb, headers jsonb = null, id uuid = null, not_before timestamptz = null,
--               strict_order boolean = false) returns uuid
--   txb.publish(topic text, key text, type text, payload text, ...the same) returns uuid      JSON text, kept byte for byte
--   txb.publish(topic text, key text, type text, payload bytea, ...the same, content_type text = 'application/octet-stream') returns uuid
--   txb.publish_many(topics text[], keys text[], types text[], payloads bytea[], content_types text[], headers jsonb[] = null, ids uuid[] = null,
--                    not_befores timestamptz[] = null, strict_orders boolean[] = null) returns setof uuid, in the order of the arrays
-- What a handler publishes gets ids derived from its delivery (W14): txb.deliver in 0007 sets it up.
--
-- An argument that is wrong: SQLSTATE 22023, a message that names the argument and the limit; publish_many also names the row, counted from 1.
-- An unquoted-type literal ('{"a": 1}') resolves to the text form. NULL payload is a message without a value.
--
-- Never NOTIFY: it takes a cluster-wide lock at commit and cost applications two thirds of their throughput. The row's sequence number is drawn under the
-- ROW EXCLUSIVE lock on txb.outbox that the INSERT holds to the end of the transaction: the relay's rule for dead holes rests on that (R3).

SET LOCAL ROLE txb_owner;

-- What is wrong with an intent, or null. One expression, inlined where it is called; the table's constraints say the same to plain INSERTs.
CREATE FUNCTION txb.intent_problem(topic text, key text, type text, payload bytea, content_type text, headers jsonb, id uuid) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
  WHEN topic IS NULL THEN 'topic is null'
  WHEN octet_length(topic) NOT BETWEEN 1 AND 249 THEN format('topic has %s bytes, allowed are 1 to 249', octet_length(topic))
  WHEN topic ~ '[^a-zA-Z0-9._-]' OR topic IN ('.', '..') THEN format('topic "%s" is not a Kafka topic name: letters, digits, ".", "_" and "-"', topic)
  WHEN octet_length(key) > 1024 THEN format('key has %s bytes, at most 1024 are allowed', octet_length(key))
  WHEN type IS NULL THEN 'type is null'
  WHEN octet_length(type) NOT BETWEEN 1 AND 255 THEN format('type has %s bytes, allowed are 1 to 255', octet_length(type))
  WHEN octet_length(payload) > 1000000 THEN format('payload has %s bytes, at most 1000000 are allowed', octet_length(payload))
  WHEN octet_length(content_type) NOT BETWEEN 1 AND 255 THEN format('content_type has %s bytes, allowed are 1 to 255', octet_length(content_type))
  WHEN get_byte(uuid_send(id), 6) >> 4 <> 7 OR get_byte(uuid_send(id), 8) >> 6 <> 2 THEN format('id %s is not a UUID of version 7', id)
  WHEN headers IS NOT NULL THEN CASE
    WHEN jsonb_typeof(headers) <> 'object' THEN format('headers is a JSON %s, not an object of strings', jsonb_typeof(headers))
    WHEN octet_length(headers::text) > 16384 THEN format('headers has %s bytes as JSON text, at most 16384 are allowed', octet_length(headers::text))
    WHEN jsonb_array_length(jsonb_path_query_array(headers, '$.keyvalue()')) > 32
      THEN format('headers has %s entries, at most 32 are allowed', jsonb_array_length(jsonb_path_query_array(headers, '$.keyvalue()')))
    WHEN headers @? '$.keyvalue() ? (@.value.type() != "string")'
      THEN format('headers: the value of %s is not a string', jsonb_path_query_first(headers, '$.keyvalue() ? (@.value.type() != "string").key'))
    WHEN headers @? '$.keyvalue() ? (!(@.key like_regex "^[a-z0-9][a-z0-9_-]*$"))'
      THEN format('headers: %s is not a header name, which is of lower-case letters, digits, "_" and "-"',
                  jsonb_path_query_first(headers, '$.keyvalue() ? (!(@.key like_regex "^[a-z0-9][a-z0-9_-]*$")).key'))
    WHEN headers @? '$.keyvalue() ? (@.key starts with "ce_" || @.key == "content-type")'
      THEN format('headers: %s is reserved',
                  jsonb_path_query_first(headers, '$.keyvalue() ? (@.key starts with "ce_" || @.key == "content-type").key'))
  END
END;
COMMENT ON FUNCTION txb.intent_problem(text, text, text, bytea, text, jsonb, uuid) IS 'What is wrong with an intent, naming argument and limit; null: nothing';

CREATE FUNCTION txb.intent_refuse(caller text, problem text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  RAISE EXCEPTION '%: %', caller, problem USING
    ERRCODE = '22023',
    DETAIL = 'The intent was not written; the transaction is aborted.',
    HINT = CASE (regexp_match(problem, '(topic|key|type|payload|content_type|headers|id|not_before|strict_order)\M'))[1]
      WHEN 'payload' THEN 'Put what is larger elsewhere and publish a reference to it; a payload that is not JSON needs another content_type.'
      WHEN 'headers' THEN 'Headers are a JSON object of strings, for example {"trace-id": "7"}.'
      WHEN 'id' THEN 'Leave id out, or take it from txb.uuid_v7().'
      WHEN 'strict_order' THEN 'Give a key, or leave strict_order out: intents without a key have no order.'
      ELSE 'The limits are in the comments of table txb.outbox.'
    END;
END
$$;
COMMENT ON FUNCTION txb.intent_refuse(text, text) IS 'Raises 22023 for a problem that txb.intent_problem found';

-- The cast is the only validator that every PostgreSQL since 14 has; a block with a handler costs a subtransaction, which stays without an xid since
-- nothing is written in it.
CREATE FUNCTION txb.json_problem(payload bytea) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  PERFORM convert_from(payload, 'UTF8')::json;
  RETURN NULL;
EXCEPTION WHEN data_exception THEN
  RETURN 'payload is not valid JSON, which its content_type application/json promises: ' || sqlerrm;
END
$$;
COMMENT ON FUNCTION txb.json_problem(bytea) IS 'Why a payload is not JSON; null: it is, or there is none';

-- The lock's number is chained, not concatenated: ("a", "bc") and ("ab", "c") are two locks.
CREATE FUNCTION txb.order_lock(topic text, key text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hashtextextended(key, hashtextextended(topic, 1954049330));
COMMENT ON FUNCTION txb.order_lock(text, text) IS 'The advisory lock that strict_order takes for a topic and key';

-- W14. The message whose delivery publishes is in txb.delivery as "group/message id", set by txb.deliver(); txb.ordinal counts what it published. Both are
-- local to the transaction. The hash is that of common/uuid.c: SHA-256 over the parts, each preceded by its length.
CREATE FUNCTION txb.uuid_v7_derive(base uuid, group_name text, message_id uuid, ordinal bigint) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT (substr(base::text, 1, 19) || to_hex(8 | (get_byte(h, 0) >> 4 & 3)) || substr(encode(h, 'hex'), 2, 15))::uuid
          FROM (SELECT sha256(int8send(octet_length(group_name)) || convert_to(group_name, 'UTF8')
                              || int8send(36) || convert_to(message_id::text, 'UTF8')
                              || int8send(octet_length(ordinal::text)) || convert_to(ordinal::text, 'UTF8')) AS h) AS hash);
COMMENT ON FUNCTION txb.uuid_v7_derive(uuid, text, uuid, bigint) IS
  'The id of the ordinal-th intent published by the delivery of a message to a group, with the time of base: the same whenever that delivery is run (W14)';

-- The id of an intent without one: derived inside a delivery, else new. A scheduled one carries its due time, or it would be older than the consumers'
-- inboxes when it comes.
CREATE FUNCTION txb.intent_id(not_before timestamptz) RETURNS uuid
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  delivery text := current_setting('txb.delivery', true);
  message_id uuid;
  ordinal bigint;
BEGIN
  IF delivery IS NULL OR delivery = '' THEN
    RETURN CASE WHEN not_before IS NULL THEN txb.uuid_v7() ELSE txb.uuid_v7_at(greatest(not_before, clock_timestamp())) END;
  END IF;
  message_id := right(delivery, 36)::uuid;
  ordinal := coalesce(nullif(current_setting('txb.ordinal', true), '')::bigint, 0) + 1;
  PERFORM set_config('txb.ordinal', ordinal::text, true);
  RETURN txb.uuid_v7_derive(
    CASE WHEN not_before > txb.uuid_v7_time(message_id) THEN txb.uuid_v7_at(not_before) ELSE message_id END,
    left(delivery, -37), message_id, ordinal);
END
$$;
COMMENT ON FUNCTION txb.intent_id(timestamptz) IS 'The id of an intent that was given none';

CREATE FUNCTION txb.intent_write(topic text, key text, type text, payload bytea, content_type text, headers jsonb, id uuid, not_before timestamptz,
                                 strict_order boolean) RETURNS uuid
LANGUAGE plpgsql
AS $$
DECLARE
  problem text := txb.intent_problem(topic, key, type, payload, content_type, headers, id);
BEGIN
  IF problem IS NULL AND strict_order AND key IS NULL THEN
    problem := 'strict_order needs a key';
  END IF;
  IF problem IS NOT NULL THEN
    PERFORM txb.intent_refuse('txb.publish', problem);
  END IF;
  IF id IS NULL THEN
    id := txb.intent_id(not_before);
  END IF;
  -- A commit of another transaction of this key lies before, or waits behind, the number drawn below.
  IF strict_order THEN
    PERFORM pg_advisory_xact_lock(txb.order_lock(topic, key));
  END IF;
  IF not_before > clock_timestamp() THEN
    INSERT INTO txb.scheduled (due, id, topic, key, type, payload, content_type, headers)
    VALUES (not_before, id, topic, key, type, payload, content_type, headers);
  ELSE
    INSERT INTO txb.outbox (id, topic, key, type, payload, content_type, headers)
    VALUES (id, topic, key, type, payload, content_type, headers);
  END IF;
  RETURN id;
END
$$;
COMMENT ON FUNCTION txb.intent_write(text, text, text, bytea, text, jsonb, uuid, timestamptz, boolean) IS
  'Writes one intent for the txb.publish functions, whose caller''s rights and search_path it runs with';

CREATE FUNCTION txb.publish(topic text, key text, type text, payload jsonb, headers jsonb DEFAULT NULL, id uuid DEFAULT NULL,
                            not_before timestamptz DEFAULT NULL, strict_order boolean DEFAULT false) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  RETURN txb.intent_write(topic, key, type, convert_to(payload::text, 'UTF8'), 'application/json', headers, id, not_before, strict_order);
END
$$;
COMMENT ON FUNCTION txb.publish(text, text, text, jsonb, jsonb, uuid, timestamptz, boolean) IS
  'Writes an intent with a JSON payload. It becomes a Kafka message if and only if the transaction commits. Returns the message id';

CREATE FUNCTION txb.publish(topic text, key text, type text, payload text, headers jsonb DEFAULT NULL, id uuid DEFAULT NULL,
                            not_before timestamptz DEFAULT NULL, strict_order boolean DEFAULT false) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  bytes bytea := convert_to(payload, 'UTF8');
  problem text := txb.json_problem(bytes);
BEGIN
  IF problem IS NOT NULL THEN
    PERFORM txb.intent_refuse('txb.publish', problem);
  END IF;
  RETURN txb.intent_write(topic, key, type, bytes, 'application/json', headers, id, not_before, strict_order);
END
$$;
COMMENT ON FUNCTION txb.publish(text, text, text, text, jsonb, uuid, timestamptz, boolean) IS
  'Writes an intent with a payload of JSON text, which is checked and kept byte for byte. Returns the message id';

CREATE FUNCTION txb.publish(topic text, key text, type text, payload bytea, headers jsonb DEFAULT NULL, id uuid DEFAULT NULL,
                            not_before timestamptz DEFAULT NULL, strict_order boolean DEFAULT false,
                            content_type text DEFAULT 'application/octet-stream') RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  problem text;
BEGIN
  IF content_type = 'application/json' THEN
    problem := txb.json_problem(payload);
    IF problem IS NOT NULL THEN
      PERFORM txb.intent_refuse('txb.publish', problem);
    END IF;
  END IF;
  RETURN txb.intent_write(topic, key, type, payload, content_type, headers, id, not_before, strict_order);
END
$$;
COMMENT ON FUNCTION txb.publish(text, text, text, bytea, jsonb, uuid, timestamptz, boolean, text) IS
  'Writes an intent with a payload of bytes; with content_type application/json they must be valid JSON. Returns the message id';

CREATE FUNCTION txb.publish_many(topics text[], keys text[], types text[], payloads bytea[], content_types text[], headers jsonb[] DEFAULT NULL,
                                 ids uuid[] DEFAULT NULL, not_befores timestamptz[] DEFAULT NULL, strict_orders boolean[] DEFAULT NULL)
RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  count int := cardinality(topics);
  bad record;
  lock bigint;
  at timestamptz := clock_timestamp();
  written uuid[];
BEGIN
  IF topics IS NULL OR keys IS NULL OR types IS NULL OR payloads IS NULL OR content_types IS NULL THEN
    RAISE EXCEPTION 'txb.publish_many: topics, keys, types, payloads and content_types are arrays, none of them null' USING ERRCODE = '22023';
  END IF;
  IF cardinality(keys) <> count OR cardinality(types) <> count OR cardinality(payloads) <> count OR cardinality(content_types) <> count
     OR cardinality(headers) <> count OR cardinality(ids) <> count OR cardinality(not_befores) <> count OR cardinality(strict_orders) <> count THEN
    RAISE EXCEPTION 'txb.publish_many: topics has % elements; every other array must have as many, or be null where it is optional', count
      USING ERRCODE = '22023';
  END IF;

  SELECT u.row, p.problem INTO bad
    FROM unnest(topics, keys, types, payloads, content_types, headers, ids, strict_orders)
           WITH ORDINALITY AS u(topic, key, type, payload, content_type, headers, id, strict_order, row),
         LATERAL (SELECT coalesce(txb.intent_problem(u.topic, u.key, u.type, u.payload, u.content_type, u.headers, u.id),
                                  CASE WHEN u.strict_order AND u.key IS NULL THEN 'strict_order needs a key' END)) AS p(problem)
   WHERE p.problem IS NOT NULL
   ORDER BY u.row LIMIT 1;
  IF bad.row IS NOT NULL THEN
    PERFORM txb.intent_refuse('txb.publish_many: row ' || bad.row, bad.problem);
  END IF;

  -- All payloads in one block with a handler; only when one is wrong, one by one to name it.
  BEGIN
    PERFORM count(convert_from(u.payload, 'UTF8')::json)
       FROM unnest(payloads, content_types) AS u(payload, content_type)
      WHERE u.content_type = 'application/json';
  EXCEPTION WHEN data_exception THEN
    SELECT u.row, txb.json_problem(u.payload) AS problem INTO bad
      FROM unnest(payloads, content_types) WITH ORDINALITY AS u(payload, content_type, row)
     WHERE u.content_type = 'application/json' AND txb.json_problem(u.payload) IS NOT NULL
     ORDER BY u.row LIMIT 1;
    PERFORM txb.intent_refuse('txb.publish_many: row ' || bad.row, bad.problem);
  END;

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
    SELECT coalesce(u.id, txb.intent_id(u.not_before))
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
COMMENT ON FUNCTION txb.publish_many(text[], text[], text[], bytea[], text[], jsonb[], uuid[], timestamptz[], boolean[]) IS
  'Writes many intents in the order of the arrays, all or none; returns their ids in that order. An error names the row, counted from 1';

GRANT EXECUTE ON FUNCTION
  txb.publish(text, text, text, jsonb, jsonb, uuid, timestamptz, boolean),
  txb.publish(text, text, text, text, jsonb, uuid, timestamptz, boolean),
  txb.publish(text, text, text, bytea, jsonb, uuid, timestamptz, boolean, text),
  txb.publish_many(text[], text[], text[], bytea[], text[], jsonb[], uuid[], timestamptz[], boolean[])
TO txb_app, txb_worker, txb_admin;

RESET ROLE;
