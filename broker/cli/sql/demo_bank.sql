-- One bank of the demo. No unique constraint on what arrives: a doubled credit must show, not be refused.
CREATE SCHEMA bank;

CREATE TABLE bank.account (
  id int PRIMARY KEY,
  opening bigint NOT NULL,
  balance bigint NOT NULL CHECK (balance >= 0),
  sent bigint NOT NULL DEFAULT 0
);
COMMENT ON COLUMN bank.account.sent IS 'How many transfers left it: numbers them';

CREATE TABLE bank.transfer (
  id uuid PRIMARY KEY,
  account int NOT NULL,
  to_account int NOT NULL,
  amount bigint NOT NULL,
  number bigint NOT NULL
);
COMMENT ON TABLE bank.transfer IS 'Money that left this bank';

CREATE TABLE bank.credit (
  arrival bigint GENERATED ALWAYS AS IDENTITY,
  transfer uuid NOT NULL,
  from_account int NOT NULL,
  account int NOT NULL,
  amount bigint NOT NULL,
  number bigint NOT NULL
);
COMMENT ON TABLE bank.credit IS 'Money that arrived from the other bank, in the order in which it was applied';

INSERT INTO bank.account (id, opening, balance) SELECT n, 10000, 10000 FROM generate_series(1, 100) AS n;

-- The handler: what a message does here, inside the worker's transaction.
CREATE FUNCTION bank.apply(m txb.message) RETURNS txb.outcome
LANGUAGE plpgsql
AS $$
DECLARE
  t jsonb := convert_from(m.payload, 'UTF8')::jsonb;
BEGIN
  UPDATE bank.account SET balance = balance + (t->>'amount')::bigint WHERE id = (t->>'to')::int;
  IF NOT FOUND THEN
    RETURN txb.dead('there is no account ' || (t->>'to'));
  END IF;
  INSERT INTO bank.credit (transfer, from_account, account, amount, number)
  VALUES ((t->>'transfer')::uuid, (t->>'from')::int, (t->>'to')::int, (t->>'amount')::bigint, (t->>'number')::bigint);
  RETURN txb.ok();
END
$$;
