-- The stock: a participant that reserves first and sells at the end, so that a saga which turns back has sold nothing.
--
--   stock.reserve  {"item", "count"}  keeps some; gives {"reservation": number, "price": cents for all of them}
--   stock.confirm  {"reservation"}    sells them, once nothing can refuse any more
--   stock.cancel                      lets them go
--
-- Run it in the stock's database, after `txbroker init`.
CREATE SCHEMA stock;

CREATE TABLE stock.item (
  name text PRIMARY KEY CHECK (name <> ''),
  price bigint NOT NULL CHECK (price > 0),
  on_hand bigint NOT NULL CHECK (on_hand >= 0),
  reserved bigint NOT NULL DEFAULT 0 CHECK (reserved BETWEEN 0 AND on_hand) -- of those on hand
);

CREATE TABLE stock.reservation (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  saga uuid NOT NULL,
  item text NOT NULL REFERENCES stock.item,
  count bigint NOT NULL CHECK (count > 0),
  state text NOT NULL DEFAULT 'reserved' CHECK (state IN ('reserved', 'sold'))
);

CREATE FUNCTION stock.handle(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
DECLARE
  input jsonb := convert_from(m.payload, 'UTF8');
  wanted bigint := input ->> 'count';
  found stock.item;
  made stock.reservation;
BEGIN
  CASE m.type
    WHEN 'stock.reserve' THEN
      SELECT i.* INTO found FROM stock.item AS i WHERE i.name = input ->> 'item' FOR UPDATE;
      IF found.name IS NULL THEN
        RETURN txb.refuse(format('no such item: %s', input ->> 'item'));
      ELSIF found.on_hand - found.reserved < wanted THEN
        RETURN txb.refuse(format('out of stock: %s wanted, %s left of %s', wanted, found.on_hand - found.reserved, found.name));
      END IF;
      UPDATE stock.item AS i SET reserved = i.reserved + wanted WHERE i.name = found.name;
      INSERT INTO stock.reservation (saga, item, count)
      VALUES ((m.headers ->> 'txb-saga')::uuid, found.name, wanted) RETURNING * INTO made;
      RETURN txb.ok(jsonb_build_object('reservation', made.number, 'price', found.price * wanted));

    WHEN 'stock.confirm' THEN
      -- A step of its own: which reservation it is, the definition says.
      UPDATE stock.reservation AS r SET state = 'sold'
       WHERE r.number = (input ->> 'reservation')::bigint AND r.state = 'reserved' RETURNING * INTO STRICT made;
      UPDATE stock.item AS i SET on_hand = i.on_hand - made.count, reserved = i.reserved - made.count WHERE i.name = made.item;
      RETURN txb.ok();

    WHEN 'stock.cancel' THEN
      -- Called only for a reservation that was made, and once: which one it was is in what stock.reserve gave.
      DELETE FROM stock.reservation AS r
       WHERE r.number = (m.headers -> 'txb-saga-output' ->> 'reservation')::bigint AND r.state = 'reserved'
      RETURNING * INTO STRICT made;
      UPDATE stock.item AS i SET reserved = i.reserved - made.count WHERE i.name = made.item;
      RETURN txb.ok();

    ELSE
      RETURN txb.dead(format('no command of the stock: %s', m.type));
  END CASE;
END
$$;

-- What the worker's user needs.
GRANT USAGE ON SCHEMA stock TO txb_worker;
GRANT SELECT, UPDATE ON stock.item TO txb_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON stock.reservation TO txb_worker;

INSERT INTO stock.item VALUES ('lamp', 1200, 5), ('piano', 90000, 1);
