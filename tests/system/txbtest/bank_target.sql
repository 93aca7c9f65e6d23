-- The applying bank of the tests. Nothing here hides a second application of a message: bank.applied has no unique constraint, and the money of a
-- doubled transfer arrives twice.
CREATE SCHEMA bank;
CREATE TABLE bank.credit (account int PRIMARY KEY, balance bigint NOT NULL DEFAULT 0) WITH (fillfactor = 50);
CREATE TABLE bank.applied (ord bigint GENERATED ALWAYS AS IDENTITY, id uuid NOT NULL, key text, n bigint, account int NOT NULL, amount bigint NOT NULL,
  topic text NOT NULL, partition int NOT NULL, "offset" bigint NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp(),
  txid xid8 NOT NULL DEFAULT pg_current_xact_id());
