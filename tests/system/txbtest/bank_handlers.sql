-- The handlers of the applying bank; apart from its tables, because they need txb's types.
CREATE FUNCTION bank.apply(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
DECLARE
  body jsonb := convert_from(m.payload, 'UTF8')::jsonb;
BEGIN
  INSERT INTO bank.applied (id, key, n, account, amount, topic, partition, "offset")
  VALUES (m.id, convert_from(m.key, 'UTF8'), (body->>'n')::bigint, (body->>'to')::int, (body->>'amount')::bigint, m.topic, m.partition, m."offset");
  UPDATE bank.credit SET balance = balance + (body->>'amount')::bigint WHERE account = (body->>'to')::int;
  RETURN txb.ok();
END $$;

CREATE FUNCTION bank.apply_batch(m txb.message[]) RETURNS SETOF txb.outcome LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO bank.applied (id, key, n, account, amount, topic, partition, "offset")
  SELECT b.id, convert_from(b.key, 'UTF8'), (b.body->>'n')::bigint, (b.body->>'to')::int, (b.body->>'amount')::bigint, b.topic, b.partition, b."offset"
    FROM (SELECT e.*, convert_from(e.payload, 'UTF8')::jsonb AS body FROM unnest(m) WITH ORDINALITY AS e) AS b ORDER BY b.ordinality;
  PERFORM 1 FROM bank.credit WHERE account IN (SELECT (convert_from(e.payload, 'UTF8')::jsonb->>'to')::int FROM unnest(m) AS e) ORDER BY account FOR UPDATE;
  UPDATE bank.credit AS c SET balance = balance + s.amount
    FROM (SELECT (body->>'to')::int AS account, sum((body->>'amount')::bigint) AS amount
            FROM (SELECT convert_from(e.payload, 'UTF8')::jsonb AS body FROM unnest(m) AS e) AS b GROUP BY 1) AS s
   WHERE c.account = s.account;
  RETURN QUERY SELECT (txb.ok()).* FROM unnest(m);
END $$;

-- Fails at first for one message in seven: it is set aside, and applied when it is tried again.
CREATE FUNCTION bank.apply_flaky(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
BEGIN
  IF m."offset" % 7 = 3 AND m.attempt < 3 THEN
    RAISE EXCEPTION 'not yet: % % attempt %', m.partition, m."offset", m.attempt;
  END IF;
  RETURN bank.apply(m);
END $$;

-- The server is out of something now and then: nothing is set aside, the partition waits and goes on by itself.
CREATE FUNCTION bank.apply_scarce(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
BEGIN
  IF m."offset" % 7 = 3 AND random() < 0.7 THEN
    RAISE EXCEPTION 'disk full' USING ERRCODE = '53100';
  END IF;
  RETURN bank.apply(m);
END $$;

-- Fails at first for the key '7', and then ends its session whenever it is tried again.
CREATE FUNCTION bank.apply_killing(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF convert_from(m.key, 'UTF8') = '7' AND m.attempt = 1 THEN
    RAISE EXCEPTION 'not yet';
  ELSIF convert_from(m.key, 'UTF8') = '7' THEN
    PERFORM pg_terminate_backend(pg_backend_pid());
  END IF;
  RETURN bank.apply(m);
END $$;
