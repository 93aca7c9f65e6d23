-- The participants of the tests' sagas: one schema for all three, each database uses its part. A booking's effect is a row of
-- booking and a change of money; a compensation undoes both, so that what is left over shows.
CREATE SCHEMA travel;
GRANT USAGE ON SCHEMA travel TO PUBLIC;
CREATE TABLE travel.booking (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  saga uuid NOT NULL,
  what text NOT NULL,
  amount bigint NOT NULL
);
CREATE TABLE travel.account (name text PRIMARY KEY, balance bigint NOT NULL);
-- What the handlers are to do otherwise: refuse these sagas' action (by its input's refuse), or fail compensations so often.
CREATE TABLE travel.failed_once (saga uuid, what text, times int NOT NULL, PRIMARY KEY (saga, what));
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA travel TO PUBLIC;
INSERT INTO travel.account VALUES ('customer', 1000000000), ('shop', 0);

CREATE FUNCTION travel.move(amount bigint) RETURNS void LANGUAGE sql AS $$
  UPDATE travel.account SET balance = balance - amount WHERE name = 'customer';
  UPDATE travel.account SET balance = balance + amount WHERE name = 'shop';
$$;

-- The type of a command is WHAT.book or WHAT.cancel. The input: {"amount": n, "refuse": "WHAT", "stick": {"WHAT": times}}.
CREATE FUNCTION travel.handle(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
DECLARE
  what text := split_part(m.type, '.', 1);
  input jsonb := convert_from(m.payload, 'UTF8');
  saga uuid := m.headers ->> 'txb-saga';
  made bigint;
  gone travel.booking;
  times int;
BEGIN
  IF split_part(m.type, '.', 2) = 'book' THEN
    INSERT INTO travel.booking (saga, what, amount) VALUES (saga, what, (input ->> 'amount')::bigint) RETURNING number INTO made;
    PERFORM travel.move((input ->> 'amount')::bigint);
    IF input ->> 'refuse' = what THEN -- what it wrote must be undone
      RETURN txb.refuse('no ' || what || ' is left');
    END IF;
    RETURN txb.ok(jsonb_build_object('booking', made));
  END IF;
  times := coalesce((input -> 'stick' ->> what)::int, 0);
  IF times > 0 THEN
    INSERT INTO travel.failed_once AS f VALUES (saga, what, 0) ON CONFLICT DO NOTHING;
  END IF;
  DELETE FROM travel.booking AS b WHERE b.number = (m.headers -> 'txb-saga-output' ->> 'booking')::bigint RETURNING * INTO STRICT gone;
  PERFORM travel.move(-gone.amount);
  RETURN txb.ok();
END
$$;
