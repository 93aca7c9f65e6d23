-- The booking of deliveries: a participant with an action and its compensation. participant.c does the same in C, with
-- these tables.
--
--   booking.book    {"slot", "address"}  takes a place in a van; gives {"delivery": number}
--   booking.cancel                       gives the place back
--
-- Run it in the booking's database, after `txbroker init`.
CREATE SCHEMA booking;

CREATE TABLE booking.slot (
  name text PRIMARY KEY CHECK (name <> ''),
  places bigint NOT NULL CHECK (places >= 0) -- that are free
);

CREATE TABLE booking.delivery (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  saga uuid NOT NULL,
  slot text NOT NULL REFERENCES booking.slot,
  address text NOT NULL CHECK (address <> '')
);

CREATE FUNCTION booking.handle(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
DECLARE
  input jsonb := convert_from(m.payload, 'UTF8');
  made booking.delivery;
BEGIN
  CASE m.type
    WHEN 'booking.book' THEN
      UPDATE booking.slot AS s SET places = s.places - 1 WHERE s.name = input ->> 'slot' AND s.places > 0;
      IF NOT FOUND THEN
        RETURN txb.refuse(format('no van is free: %s', input ->> 'slot'));
      END IF;
      INSERT INTO booking.delivery (saga, slot, address)
      VALUES ((m.headers ->> 'txb-saga')::uuid, input ->> 'slot', input ->> 'address') RETURNING * INTO made;
      RETURN txb.ok(jsonb_build_object('delivery', made.number));

    WHEN 'booking.cancel' THEN
      -- Called only for a delivery that was booked, and once: which one it was is in what booking.book gave.
      DELETE FROM booking.delivery AS d WHERE d.number = (m.headers -> 'txb-saga-output' ->> 'delivery')::bigint
      RETURNING * INTO STRICT made;
      UPDATE booking.slot AS s SET places = s.places + 1 WHERE s.name = made.slot;
      RETURN txb.ok();

    ELSE
      RETURN txb.dead(format('no command of the booking: %s', m.type));
  END CASE;
END
$$;

-- What the worker's user needs.
GRANT USAGE ON SCHEMA booking TO txb_worker;
GRANT SELECT, UPDATE ON booking.slot TO txb_worker;
GRANT SELECT, INSERT, DELETE ON booking.delivery TO txb_worker;

INSERT INTO booking.slot VALUES ('monday', 10), ('tuesday', 0);
