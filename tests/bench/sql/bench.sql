-- What the measurements add to a database that txbroker init made.
CREATE SCHEMA bench;
GRANT USAGE ON SCHEMA bench TO PUBLIC;

-- The effect of the worker's measurements, and the application's own work in the publishing ones.
CREATE TABLE bench.account (id bigint PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50);
INSERT INTO bench.account SELECT n, 0 FROM generate_series(0, 9999) AS n;

-- A table that an application would write anyway: what publishing costs stands beside it.
CREATE TABLE bench.plain (LIKE txb.outbox INCLUDING DEFAULTS, PRIMARY KEY (seq));
ALTER TABLE bench.plain ALTER seq ADD GENERATED ALWAYS AS IDENTITY;

-- Fills the outbox with `rows` intents of 200 bytes, `per_transaction` of them in each transaction; 0 keys: without one.
CREATE PROCEDURE bench.fill(topic text, rows bigint, per_transaction int, keys int) LANGUAGE plpgsql AS $$
DECLARE
  done bigint := 0;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', false);
  WHILE done < rows LOOP
    INSERT INTO txb.outbox (topic, key, type, payload, content_type)
    SELECT fill.topic, (n * 7919 % nullif(keys, 0))::text, 'bench.made',
           convert_to(rpad('{"n": ' || n || ', "pad": "', 198, 'x') || '"}', 'UTF8'), 'application/json'
    FROM generate_series(done, least(done + per_transaction, rows) - 1) AS n;
    done := done + per_transaction;
    COMMIT;
  END LOOP;
END
$$;

-- The worker's handlers: one UPDATE a message, and the same for a whole batch in one, in order of the rows' keys.
CREATE FUNCTION bench.apply_message(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
BEGIN
  UPDATE bench.account SET balance = balance + 1 WHERE id = convert_from(m.key, 'UTF8')::bigint;
  RETURN txb.ok();
END
$$;

CREATE FUNCTION bench.apply_batch(messages txb.message[]) RETURNS SETOF txb.outcome LANGUAGE plpgsql AS $$
BEGIN
  UPDATE bench.account a SET balance = balance + g.n
  FROM (SELECT convert_from(m.key, 'UTF8')::bigint AS id, count(*) AS n
        FROM unnest(messages) AS m GROUP BY 1 ORDER BY 1) AS g
  WHERE a.id = g.id;
  RETURN QUERY SELECT (txb.ok()).* FROM generate_series(1, cardinality(messages));
END
$$;

-- Messages in the order of their effects; nothing hides a second one.
CREATE TABLE bench.noted (ord bigint GENERATED ALWAYS AS IDENTITY, key bigint NOT NULL, n bigint NOT NULL);

-- The same as apply_message, for what can't be applied: the one that is numbered 50,000, none, or one in twenty in three
-- ways until bench.mended says otherwise. All of them look at the number, so that looking costs each the same. The effects of
-- that one's key, 0, are noted in their order.
CREATE FUNCTION bench.number_of(m txb.message) RETURNS bigint LANGUAGE sql IMMUTABLE
AS $$ SELECT split_part(split_part(convert_from(m.payload, 'UTF8'), ',', 1), ':', 2)::bigint $$;
CREATE FUNCTION bench.apply_but(m txb.message, bad bytea) RETURNS txb.outcome LANGUAGE plpgsql AS $$
BEGIN
  IF substr(m.payload, 1, length(bad)) = bad THEN
    RAISE EXCEPTION 'account % is closed', convert_from(m.key, 'UTF8');
  END IF;
  UPDATE bench.account SET balance = balance + 1 WHERE id = convert_from(m.key, 'UTF8')::bigint % 10000;
  IF m.key = '0' THEN
    INSERT INTO bench.noted (key, n) VALUES (0, bench.number_of(m));
  END IF;
  RETURN txb.ok();
END
$$;
CREATE FUNCTION bench.apply_one_bad(m txb.message) RETURNS txb.outcome LANGUAGE sql
AS $$ SELECT bench.apply_but(m, '{"n": 50000,') $$;
CREATE FUNCTION bench.apply_none_bad(m txb.message) RETURNS txb.outcome LANGUAGE sql
AS $$ SELECT bench.apply_but(m, '{"n": -----,') $$;

CREATE TABLE bench.mended (way int PRIMARY KEY);
CREATE FUNCTION bench.apply_some_bad(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
DECLARE
  n bigint := convert_from(m.key, 'UTF8')::bigint;
  wrong int := CASE WHEN n % 20 = 7 THEN n / 20 % 3 END;
BEGIN
  IF wrong IS NOT NULL AND NOT EXISTS (SELECT FROM bench.mended AS r WHERE r.way = wrong) THEN
    CASE wrong WHEN 0 THEN RAISE EXCEPTION 'account % is closed', n;
             WHEN 1 THEN PERFORM 1 / (wrong - 1);
             ELSE RETURN txb.retry(interval '1 hour', 'the bank of account ' || n || ' is on holiday'); END CASE;
  END IF;
  UPDATE bench.account SET balance = balance + 1 WHERE id = n % 10000;
  RETURN txb.ok();
END
$$;

CREATE FUNCTION bench.apply_noted(messages txb.message[]) RETURNS SETOF txb.outcome LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO bench.noted (key, n)
  SELECT convert_from(m.key, 'UTF8')::bigint,
         split_part(split_part(convert_from(m.payload, 'UTF8'), ',', 1), ' ', 2)::bigint
    FROM unnest(messages) WITH ORDINALITY AS m ORDER BY m.ordinality;
  RETURN QUERY SELECT (txb.ok()).* FROM generate_series(1, cardinality(messages));
END
$$;

-- One in a thousand, each of a key of its own.
CREATE FUNCTION bench.apply_few_bad(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
DECLARE
  n bigint := convert_from(m.key, 'UTF8')::bigint;
BEGIN
  IF n % 1000 = 7 THEN
    RAISE EXCEPTION 'account % is closed', n;
  END IF;
  UPDATE bench.account SET balance = balance + 1 WHERE id = n % 10000;
  RETURN txb.ok();
END
$$;

-- What the bare loops need.
CREATE SCHEMA bare;
CREATE TABLE bare.inbox (message_id uuid PRIMARY KEY);
CREATE TABLE bare.position (partition int PRIMARY KEY, next_offset bigint NOT NULL) WITH (fillfactor = 50);
INSERT INTO bare.position SELECT p, 0 FROM generate_series(0, 63) AS p;
