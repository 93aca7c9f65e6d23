-- The publishing bank of the tests: accounts, and a journal of every transfer, written in the transaction that publishes it. The journal is the
-- verifier's truth: a transfer is in it if and only if its transaction committed. n numbers the transfers of one account in the order of their
-- commits, since it is drawn under the account's row lock; null where no order is claimed.
CREATE SCHEMA bank;
CREATE TABLE bank.account (id int PRIMARY KEY, topic text NOT NULL, balance bigint NOT NULL, opening bigint NOT NULL, n bigint NOT NULL DEFAULT 0)
  WITH (fillfactor = 50);
CREATE TABLE bank.journal (id uuid PRIMARY KEY, topic text NOT NULL, key text, n bigint, account int NOT NULL, amount bigint NOT NULL,
  mode text NOT NULL, due timestamptz, at timestamptz NOT NULL DEFAULT clock_timestamp(), txid xid8 NOT NULL DEFAULT pg_current_xact_id());

-- One transfer in the caller's transaction. The money leaves account p_from here and arrives in account p_to of the other bank.
--   row       the natural order: row lock first, then publish
--   strict    publish first, with strict_order: its lock gives the order
--   insert    row lock, then a plain INSERT into txb.outbox, as another language would do it
--   unkeyed   without a key: no order is claimed
--   later     scheduled: no order is claimed, but it must not come early
CREATE FUNCTION bank.transfer(p_from int, p_to int, p_amount bigint, p_mode text DEFAULT 'row', p_delay interval DEFAULT '300 ms') RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
  v_topic text := (SELECT topic FROM bank.account WHERE id = p_from);
  v_key text := CASE WHEN p_mode <> 'unkeyed' THEN p_from::text END;
  v_body jsonb := jsonb_build_object('from', p_from, 'to', p_to, 'amount', p_amount);
  v_id uuid;
  v_n bigint;
  v_due timestamptz := CASE WHEN p_mode = 'later' THEN clock_timestamp() + p_delay END;
BEGIN
  IF p_mode = 'strict' THEN
    v_id := txb.publish(v_topic, v_key, 'transfer.made', v_body, strict_order => true);
  END IF;
  UPDATE bank.account SET balance = balance - p_amount, n = n + CASE WHEN p_mode IN ('unkeyed', 'later') THEN 0 ELSE 1 END
   WHERE id = p_from RETURNING account.n INTO v_n;
  IF p_mode = 'insert' THEN
    v_id := txb.uuid_v7();
    INSERT INTO txb.outbox (id, topic, key, type, payload, content_type)
    VALUES (v_id, v_topic, v_key, 'transfer.made', convert_to((v_body || jsonb_build_object('n', v_n))::text, 'UTF8'), 'application/json');
  ELSIF p_mode = 'row' THEN
    v_id := txb.publish(v_topic, v_key, 'transfer.made', v_body || jsonb_build_object('n', v_n));
  ELSIF p_mode IN ('unkeyed', 'later') THEN
    v_n := NULL;
    v_id := txb.publish(v_topic, v_key, 'transfer.made', v_body, not_before => v_due);
  ELSIF p_mode <> 'strict' THEN
    RAISE EXCEPTION 'unknown mode %', p_mode;
  END IF;
  INSERT INTO bank.journal (id, topic, key, n, account, amount, mode, due) VALUES (v_id, v_topic, v_key, v_n, p_to, p_amount, p_mode, v_due);
  RETURN v_id;
END $$;

-- p_count transfers from one account in one statement.
CREATE FUNCTION bank.bulk(p_from int, p_to int, p_amount bigint, p_count int) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
  v_topic text;
  v_n bigint;
BEGIN
  UPDATE bank.account SET balance = balance - p_amount * p_count, n = n + p_count WHERE id = p_from RETURNING topic, account.n INTO v_topic, v_n;
  INSERT INTO bank.journal (id, topic, key, n, account, amount, mode)
  SELECT txb.publish(v_topic, p_from::text, 'transfer.made', jsonb_build_object('from', p_from, 'to', p_to, 'amount', p_amount, 'n', i)),
         v_topic, p_from::text, i, p_to, p_amount, 'bulk'
    FROM generate_series(v_n - p_count + 1, v_n) AS i;
  RETURN p_count;
END $$;
