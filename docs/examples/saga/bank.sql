-- The bank: a participant with an action and its compensation.
--
--   bank.pay     {"from", "to", "amount"}  moves money; gives {"payment": number}
--   bank.refund                            moves it back and forgets the payment
--
-- Amounts are whole cents. Run it in the bank's database, after `txbroker init`.
CREATE SCHEMA bank;

CREATE TABLE bank.account (
  name text PRIMARY KEY CHECK (name <> ''),
  balance bigint NOT NULL CHECK (balance >= 0)
);

CREATE TABLE bank.payment (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  saga uuid NOT NULL,
  payer text NOT NULL REFERENCES bank.account,
  payee text NOT NULL REFERENCES bank.account CHECK (payee <> payer),
  amount bigint NOT NULL CHECK (amount > 0)
);

-- Takes from one account and gives to another, if the first has enough; says whether it did. Both are locked first, in the
-- order of their names, so that two of them don't deadlock.
CREATE FUNCTION bank.move(payer text, payee text, amount bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM bank.account AS a WHERE a.name IN (payer, payee) ORDER BY a.name FOR UPDATE;
  UPDATE bank.account AS a SET balance = a.balance - amount WHERE a.name = payer AND a.balance >= amount;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  UPDATE bank.account AS a SET balance = a.balance + amount WHERE a.name = payee;
  RETURN true;
END
$$;

CREATE FUNCTION bank.handle(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
DECLARE
  input jsonb := convert_from(m.payload, 'UTF8');
  payer text := input ->> 'from';
  payee text := input ->> 'to';
  amount bigint := input ->> 'amount';
  made bank.payment;
BEGIN
  CASE m.type
    WHEN 'bank.pay' THEN
      IF (SELECT count(*) FROM bank.account AS a WHERE a.name IN (payer, payee)) <> 2 THEN
        RETURN txb.refuse(format('no two accounts: %s, %s', payer, payee));
      END IF;
      IF NOT bank.move(payer, payee, amount) THEN
        RETURN txb.refuse(format('%s has less than %s', payer, amount));
      END IF;
      INSERT INTO bank.payment (saga, payer, payee, amount)
      VALUES ((m.headers ->> 'txb-saga')::uuid, payer, payee, amount) RETURNING * INTO made;
      RETURN txb.ok(jsonb_build_object('payment', made.number));

    WHEN 'bank.refund' THEN
      -- Called only for a payment that was made, and once: which one it was is in what bank.pay gave.
      DELETE FROM bank.payment AS p WHERE p.number = (m.headers -> 'txb-saga-output' ->> 'payment')::bigint
      RETURNING * INTO STRICT made;
      IF NOT bank.move(made.payee, made.payer, made.amount) THEN
        -- The payee has spent it. It is tried again for a while, then the saga waits for a person, with this reason.
        RETURN txb.retry(NULL, format('%s can''t give %s back', made.payee, made.amount));
      END IF;
      RETURN txb.ok();

    ELSE
      RETURN txb.dead(format('no command of the bank: %s', m.type));
  END CASE;
END
$$;

-- What the worker's user needs.
GRANT USAGE ON SCHEMA bank TO txb_worker;
GRANT SELECT, UPDATE ON bank.account TO txb_worker;
GRANT SELECT, INSERT, DELETE ON bank.payment TO txb_worker;

INSERT INTO bank.account VALUES ('ann', 10000), ('ben', 500), ('shop', 0);
