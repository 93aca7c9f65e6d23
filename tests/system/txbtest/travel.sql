-- The participants of the tests' sagas: one schema for all three, each database uses its part. A booking's effect is a row of
-- booking and a change of money; a compensation undoes both, so that what is left over shows.
CREATE SCHEMA travel;
GRANT USAGE ON SCHEMA travel TO PUBLIC;
CREATE TABLE travel.booking (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  saga uuid NOT NULL,
  what text NOT NULL,
  amount bigint NOT NULL,
  firm boolean NOT NULL
);
CREATE TABLE travel.account (name text PRIMARY KEY, balance bigint NOT NULL);
INSERT INTO travel.account VALUES ('customer', 1000000000), ('shop', 0);
-- What keeps a handler from its work is mended for these sagas.
CREATE TABLE travel.mended (saga uuid PRIMARY KEY);
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA travel TO PUBLIC;

CREATE FUNCTION travel.move(amount bigint) RETURNS void LANGUAGE sql AS $$
  UPDATE travel.account SET balance = balance - amount WHERE name = 'customer';
  UPDATE travel.account SET balance = balance + amount WHERE name = 'shop';
$$;

CREATE FUNCTION travel.book(saga uuid, what text, amount bigint, firm boolean) RETURNS bigint LANGUAGE sql AS $$
  SELECT travel.move(amount);
  INSERT INTO travel.booking (saga, what, amount, firm) VALUES (saga, what, amount, firm) RETURNING number;
$$;

CREATE FUNCTION travel.cancel(made bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  gone travel.booking;
BEGIN
  DELETE FROM travel.booking AS b WHERE b.number = made RETURNING * INTO STRICT gone;
  PERFORM travel.move(-gone.amount);
END
$$;

-- The type of a command is WHAT.OPERATION: book or try, confirm, cancel. The input:
--
--   {"amount": n, "refuse": "WHAT", "no": {"WHAT": times}, "fail": {"WHAT": times}, "stick": {"WHAT": times}}
--
-- refuse: its booking says no. no: it says so to the first sendings of its command (a pause takes a number too). fail: the first attempts of a booking are
-- errors. echo: {"WHAT": number}, which is given back. bulk: {"WHAT": bytes}, so many more in its output. stick: those of a cancel are. It is the worker that counts them, in transactions that survive.
CREATE FUNCTION travel.handle(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
<<command>>
DECLARE
  what text := split_part(m.type, '.', 1);
  operation text := split_part(m.type, '.', 2);
  input jsonb := convert_from(m.payload, 'UTF8');
  saga uuid := m.headers ->> 'txb-saga';
  made bigint;
BEGIN
  IF m.attempt <= (input -> CASE operation WHEN 'cancel' THEN 'stick' ELSE 'fail' END ->> what)::int
     AND NOT EXISTS (SELECT FROM travel.mended AS t WHERE t.saga = command.saga) THEN
    RAISE EXCEPTION 'the % office is closed', what;
  END IF;
  CASE operation
    WHEN 'cancel' THEN
      PERFORM travel.cancel((m.headers -> 'txb-saga-output' ->> 'booking')::bigint);
      RETURN txb.ok();
    WHEN 'confirm' THEN
      UPDATE travel.booking AS b SET firm = true WHERE b.saga = command.saga AND b.what = command.what AND NOT b.firm RETURNING b.number INTO STRICT made;
    ELSE
      made := travel.book(saga, what, (input ->> 'amount')::bigint, operation = 'book');
  END CASE;
  -- What it wrote must be undone.
  IF input ->> 'refuse' = what AND operation <> 'confirm' OR (m.headers ->> 'txb-saga-sending')::int <= (input -> 'no' ->> what)::int THEN
    RETURN txb.refuse('no ' || what || ' is left');
  END IF;
  RETURN txb.ok(jsonb_strip_nulls(jsonb_build_object('booking', made, 'echo', (input -> 'echo' ->> what)::numeric, 'bulk', repeat('x', (input -> 'bulk' ->> what)::int))));
END
$$;
