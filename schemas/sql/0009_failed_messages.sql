-- Failed messages of the consumer's side: what a worker could not apply is set aside, holds its key, and is tried again
-- by whoever owns the partition. Tables first, the worker's functions behind them.

SET LOCAL ROLE txb_owner;

-- What made two errors different that are the same to a person: numbers, ids, quoted values.
CREATE FUNCTION txb.error_pattern(error_class text, sqlstate text, error text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN concat_ws(' ', error_class, sqlstate,
                 left(regexp_replace(regexp_replace(regexp_replace(
                        regexp_replace(error, '[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}', '?', 'g'),
                        '"[^"]*"|''[^'']*''|\([^()]*\)', '?', 'g'), '\m\d[\d.,:]*', '?', 'g'), '\s+', ' ', 'g'), 300));
COMMENT ON FUNCTION txb.error_pattern(text, text, text) IS
  'An error without its numbers, ids and quoted values: failed messages with the same one are one group';

ALTER TABLE txb.failed
  DROP COLUMN history,
  ADD COLUMN place bigint,
  ADD COLUMN holds boolean NOT NULL DEFAULT false,
  ADD COLUMN deaths int NOT NULL DEFAULT 0,
  ADD COLUMN resolution text
    CONSTRAINT failed_resolution CHECK (resolution IN ('applied', 'duplicate', 'published', 'edited', 'discarded')),
  ADD COLUMN replaces bigint,
  ADD COLUMN replaced_by bigint,
  ADD COLUMN worker text,
  ADD COLUMN error_group text COLLATE "C" GENERATED ALWAYS AS (txb.error_pattern(error_class, sqlstate, error)) STORED;
-- Records of the publishing side that are there already: their keys are held.
UPDATE txb.failed AS f SET place = f.number, holds = f.key IS NOT NULL;
ALTER TABLE txb.failed
  ALTER COLUMN place SET NOT NULL,
  ADD CONSTRAINT failed_closed CHECK ((state IN ('resolved', 'discarded')) = (resolution IS NOT NULL)),
  ADD CONSTRAINT failed_holds CHECK (NOT holds OR (key IS NOT NULL AND state IN ('retrying', 'held', 'dead'))),
  ADD CONSTRAINT failed_due CHECK (state <> 'retrying' OR side = 'outbox' OR next_attempt_at IS NOT NULL);
DROP INDEX txb.failed_message;
DROP INDEX txb.failed_open_key;
CREATE UNIQUE INDEX failed_message ON txb.failed (group_name, topic, partition, "offset", run, id)
  WHERE side = 'consumer';
CREATE INDEX failed_open_key ON txb.failed (group_name, topic, partition, sha256(key), place)
  WHERE side = 'consumer' AND holds;
CREATE INDEX failed_next ON txb.failed (group_name, topic, partition, next_attempt_at)
  WHERE side = 'consumer' AND state = 'retrying';
CREATE INDEX failed_by_state ON txb.failed (state, number);
COMMENT ON COLUMN txb.failed.place IS
  'The order within a key: a message''s own number, or that of the message which it replaces';
COMMENT ON COLUMN txb.failed.holds IS
  'Later messages of its key wait behind it. False: it has no key, it is closed, or the group releases the keys of the dead';
COMMENT ON COLUMN txb.failed.deaths IS 'How often a process died while it alone ran (W10)';
COMMENT ON COLUMN txb.failed.resolution IS
  'How it ended: applied, duplicate (the inbox knew it), published, edited (see replaced_by), discarded';
COMMENT ON COLUMN txb.failed.replaces IS 'The message that this is an edited copy of';
COMMENT ON COLUMN txb.failed.replaced_by IS 'Its edited copy';
COMMENT ON COLUMN txb.failed.worker IS 'The worker that tried it last';
COMMENT ON COLUMN txb.failed.error_group IS 'The error without numbers, ids and quoted values';
COMMENT ON CONSTRAINT failed_resolution ON txb.failed IS
  'resolution: applied, duplicate, published, edited or discarded';
COMMENT ON CONSTRAINT failed_closed ON txb.failed IS 'What is closed says how it ended';
COMMENT ON CONSTRAINT failed_holds ON txb.failed IS 'Only an open message with a key can hold it';
COMMENT ON CONSTRAINT failed_due ON txb.failed IS 'A message that is retried has a time';
COMMENT ON INDEX txb.failed_message IS 'A message fails once per run, in an edition';
COMMENT ON INDEX txb.failed_open_key IS
  'The failed messages that hold a key, in order; by hash, since a foreign key may be longer than an index entry';
COMMENT ON INDEX txb.failed_next IS 'What is due in a partition';
COMMENT ON INDEX txb.failed_by_state IS 'For lists';

CREATE TABLE txb.failed_history (
  number bigint NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  event text NOT NULL,
  state text NOT NULL,
  attempt int,
  who text,
  error_class text,
  sqlstate text,
  error text
);
CREATE INDEX failed_history_number ON txb.failed_history (number, at);
COMMENT ON TABLE txb.failed_history IS 'Every change of a failed message, insert-only: an attempt, a decision, its end';
COMMENT ON COLUMN txb.failed_history.number IS 'The message, in txb.failed';
COMMENT ON COLUMN txb.failed_history.at IS 'When';
COMMENT ON COLUMN txb.failed_history.event IS 'An event of consumer/failed_core.h';
COMMENT ON COLUMN txb.failed_history.state IS 'The state that it led to';
COMMENT ON COLUMN txb.failed_history.attempt IS 'The number of the attempt that ended so; null: it was none';
COMMENT ON COLUMN txb.failed_history.who IS 'The worker, the relay, or the person: database role and system user';
COMMENT ON COLUMN txb.failed_history.error_class IS 'As in txb.failed';
COMMENT ON COLUMN txb.failed_history.sqlstate IS 'As in txb.failed';
COMMENT ON COLUMN txb.failed_history.error IS 'As in txb.failed; of a decision: its reason';
COMMENT ON INDEX txb.failed_history_number IS 'The history of a message';

-- Append-only: nobody but the owner may change or delete, and no function does.
CREATE TABLE txb.audit (
  number bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT audit_number PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  role text NOT NULL DEFAULT session_user,
  person text,
  action text NOT NULL,
  filter jsonb NOT NULL DEFAULT '{}',
  matched bigint NOT NULL,
  changed bigint NOT NULL,
  reason text
);
COMMENT ON TABLE txb.audit IS 'Who decided what about messages: append-only';
COMMENT ON COLUMN txb.audit.number IS 'Identity';
COMMENT ON COLUMN txb.audit.at IS 'When';
COMMENT ON COLUMN txb.audit.role IS 'The database role';
COMMENT ON COLUMN txb.audit.person IS 'The operating system''s user, as the program told it';
COMMENT ON COLUMN txb.audit.action IS 'The command';
COMMENT ON COLUMN txb.audit.filter IS 'What it was given';
COMMENT ON COLUMN txb.audit.matched IS 'How many messages it meant';
COMMENT ON COLUMN txb.audit.changed IS 'How many it changed';
COMMENT ON COLUMN txb.audit.reason IS 'Why';
COMMENT ON CONSTRAINT audit_number ON txb.audit IS 'Identity';
COMMENT ON INDEX txb.audit_number IS 'Identity';
COMMENT ON SEQUENCE txb.audit_number_seq IS 'Numbers of txb.audit';

ALTER TABLE txb.consumer_offset
  ADD COLUMN keys_version bigint NOT NULL DEFAULT 0,
  ADD COLUMN held bigint NOT NULL DEFAULT 0,
  ADD COLUMN suspect_failed bigint[];
COMMENT ON COLUMN txb.consumer_offset.keys_version IS
  'Grows whenever somebody else than the partition''s worker changes its failed messages: the worker reads them anew';
COMMENT ON COLUMN txb.consumer_offset.held IS 'Failed messages of this partition that are held behind another';
COMMENT ON COLUMN txb.consumer_offset.suspect_failed IS
  'The failed messages that run, or ran last, under a committed marker; null: the marker is about suspect_offset (W10)';

REVOKE ALL ON TYPE txb.failed_history, txb.audit FROM PUBLIC;
GRANT SELECT ON txb.failed_history, txb.audit TO txb_reader;

RESET ROLE;
