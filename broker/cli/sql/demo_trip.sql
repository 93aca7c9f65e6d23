-- One participant of the saga demo: bookings and the money that they cost. Nothing here knows of repetitions, of late
-- commands or of kills: what were done twice, or stood after its compensation, would show.
CREATE SCHEMA trip;

CREATE TABLE trip.account (name text PRIMARY KEY, balance bigint NOT NULL);
INSERT INTO trip.account VALUES ('travellers', 1000000), ('house', 0);

CREATE TABLE trip.booking (
  number bigint GENERATED ALWAYS AS IDENTITY,
  saga uuid NOT NULL,
  amount bigint NOT NULL
);

CREATE FUNCTION trip.pay(amount bigint) RETURNS void LANGUAGE sql AS $$
  UPDATE trip.account SET balance = balance + CASE name WHEN 'house' THEN amount ELSE -amount END
$$;

-- A booking writes first and looks then: what a refusal leaves behind would show as well.
CREATE FUNCTION trip.handle(m txb.message) RETURNS txb.outcome
LANGUAGE plpgsql
AS $$
DECLARE
  input jsonb := convert_from(m.payload, 'UTF8');
  made bigint;
  gone trip.booking;
BEGIN
  IF m.type LIKE '%.book' THEN
    INSERT INTO trip.booking (saga, amount) VALUES ((m.headers ->> 'txb-saga')::uuid, (input ->> 'amount')::bigint)
    RETURNING number INTO made;
    PERFORM trip.pay((input ->> 'amount')::bigint);
    IF m.type = 'payment.book' AND (input ->> 'declined')::boolean THEN
      RETURN txb.refuse('the card is declined');
    END IF;
    RETURN txb.ok(jsonb_build_object('booking', made));
  END IF;
  DELETE FROM trip.booking AS b WHERE b.number = (m.headers -> 'txb-saga-output' ->> 'booking')::bigint
  RETURNING * INTO STRICT gone;
  PERFORM trip.pay(-gone.amount);
  RETURN txb.ok();
END
$$;
