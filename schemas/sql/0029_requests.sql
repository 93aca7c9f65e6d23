-- Requests: one command, one reply, without a saga. A request is an intent that wants an answer (0023_commands.sql); its
-- reply comes back through a topic of the caller's, whose worker group has the handler txb.take_reply.
--
--   txb.request(topic text, type text, input jsonb, key text = null, timeout interval = 30 s, reply_to text = null)
--       returns uuid
--       asks, if and only if the transaction commits; the request's id. With a key that was used for that topic already:
--       the id of the first one, and nothing is sent. reply_to: null, or another topic than txb.reply_topic_set has said
--   txb.request_result(id uuid) returns (state text, answer text, output jsonb, reason text, ended_at timestamptz)
--       state is unknown, waiting, answered or expired; answer is what the participant said: ok, refused, or
--       undeliverable when Kafka did not take the request
--   txb.reply_topic_set(topic text) returns void
--   txb.take_reply(m txb.message) returns txb.outcome            the handler; always ok
--   txb.request_expire(keep interval, most int) returns int      forgets those whose time was over so long ago
--
-- The participant's inbox makes the effect happen once: a request is one message, whatever Kafka or a relay does with it,
-- and its effect and its reply are one transaction. A request ends once, answered or expired. A reply that comes after
-- that, a second time, or to a request that is not known, changes nothing and is counted in txb.reply_ignored.

SET LOCAL ROLE txb_owner;

CREATE TABLE txb.reply_topic (
  one boolean DEFAULT true CONSTRAINT reply_topic_one PRIMARY KEY CONSTRAINT reply_topic_is_one CHECK (one),
  topic text COLLATE "C" NOT NULL CONSTRAINT reply_topic_topic CHECK (topic ~ '^[a-zA-Z0-9._-]{1,249}$')
);
COMMENT ON TABLE txb.reply_topic IS 'One row: where replies to this database''s requests go';
COMMENT ON COLUMN txb.reply_topic.one IS 'Always true';
COMMENT ON COLUMN txb.reply_topic.topic IS 'The topic of the group whose handler is txb.take_reply';
COMMENT ON CONSTRAINT reply_topic_one ON txb.reply_topic IS 'One row';
COMMENT ON INDEX txb.reply_topic_one IS 'One row';
COMMENT ON CONSTRAINT reply_topic_is_one ON txb.reply_topic IS 'One row';
COMMENT ON CONSTRAINT reply_topic_topic ON txb.reply_topic IS 'topic: 1 to 249 of [a-zA-Z0-9._-]';

CREATE TABLE txb.request (
  id uuid CONSTRAINT request_id PRIMARY KEY,
  topic text COLLATE "C" NOT NULL,
  type text NOT NULL,
  key text,
  asked_at timestamptz NOT NULL,
  deadline_at timestamptz NOT NULL,
  state text COLLATE "C" NOT NULL DEFAULT 'waiting'
    CONSTRAINT request_state CHECK (state IN ('waiting', 'answered', 'expired')),
  answer text,
  output jsonb,
  reason text,
  ended_at timestamptz
) WITH (fillfactor = 80);
CREATE INDEX request_deadline ON txb.request (deadline_at);
COMMENT ON TABLE txb.request IS 'What was asked, and what was answered';
COMMENT ON COLUMN txb.request.id IS 'Identity, in the header txb-request of the command and of its reply; with a key derived from topic and key';
COMMENT ON COLUMN txb.request.topic IS 'Where it was asked';
COMMENT ON COLUMN txb.request.type IS 'The command''s type';
COMMENT ON COLUMN txb.request.key IS 'What makes a repeated request the same';
COMMENT ON COLUMN txb.request.asked_at IS 'When';
COMMENT ON COLUMN txb.request.deadline_at IS 'Then it is expired, and a reply is too late';
COMMENT ON COLUMN txb.request.state IS 'waiting, answered or expired; the last two are final';
COMMENT ON COLUMN txb.request.answer IS 'What the participant said: ok, refused; undeliverable: Kafka did not take the request';
COMMENT ON COLUMN txb.request.output IS 'What its handler gave';
COMMENT ON COLUMN txb.request.reason IS 'Why it was refused';
COMMENT ON COLUMN txb.request.ended_at IS 'When it was answered, or was found to be expired';
COMMENT ON CONSTRAINT request_id ON txb.request IS 'One row a request';
COMMENT ON INDEX txb.request_id IS 'One row a request';
COMMENT ON INDEX txb.request_deadline IS 'Those that are to be forgotten';
COMMENT ON CONSTRAINT request_state ON txb.request IS 'state: waiting, answered or expired';

-- A row for a partition, which has one owner at a time: counting makes nobody wait.
CREATE TABLE txb.reply_ignored (
  topic text COLLATE "C" NOT NULL,
  partition int NOT NULL,
  why text COLLATE "C" NOT NULL
    CONSTRAINT reply_ignored_why CHECK (why IN ('late', 'repeated', 'unknown', 'unreadable')),
  count bigint NOT NULL,
  last_at timestamptz NOT NULL,
  last_offset bigint NOT NULL,
  CONSTRAINT reply_ignored_key PRIMARY KEY (topic, partition, why)
);
COMMENT ON TABLE txb.reply_ignored IS 'Replies that changed nothing, counted';
COMMENT ON COLUMN txb.reply_ignored.topic IS 'Where they lie';
COMMENT ON COLUMN txb.reply_ignored.partition IS 'In which partition';
COMMENT ON COLUMN txb.reply_ignored.why IS
  'late: its request was expired. repeated: it was answered. unknown: there is none, or it was forgotten. unreadable: it is no reply';
COMMENT ON COLUMN txb.reply_ignored.count IS 'How many';
COMMENT ON COLUMN txb.reply_ignored.last_at IS 'When the last one came';
COMMENT ON COLUMN txb.reply_ignored.last_offset IS 'Where that one lies';
COMMENT ON CONSTRAINT reply_ignored_key ON txb.reply_ignored IS 'One row a partition and reason';
COMMENT ON INDEX txb.reply_ignored_key IS 'One row a partition and reason';
COMMENT ON CONSTRAINT reply_ignored_why ON txb.reply_ignored IS 'why: late, repeated, unknown or unreadable';

CREATE FUNCTION txb.reply_topic_set(topic text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  IF topic IS NULL OR txb.topic_problem(topic) IS NOT NULL THEN
    RAISE EXCEPTION 'txb.reply_topic_set: %', coalesce(txb.topic_problem(topic), 'topic is null') USING ERRCODE = '22023';
  END IF;
  INSERT INTO txb.reply_topic AS t (topic) VALUES (reply_topic_set.topic)
  ON CONFLICT ON CONSTRAINT reply_topic_one DO UPDATE SET topic = excluded.topic;
END
$$;
COMMENT ON FUNCTION txb.reply_topic_set(text) IS 'Says where replies to this database''s requests go';

CREATE FUNCTION txb.request(topic text, type text, input jsonb, key text DEFAULT NULL, timeout interval DEFAULT '30 s',
                            reply_to text DEFAULT NULL) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
<<this>>
DECLARE
  -- A topic has no blanks, and so the name is no saga's and no other topic's.
  id uuid := CASE WHEN key IS NULL THEN txb.uuid_v7() ELSE txb.saga_id('request ' || topic, key) END;
  now timestamptz := clock_timestamp();
  back text := coalesce(request.reply_to, (SELECT t.topic FROM txb.reply_topic AS t));
BEGIN
  IF topic IS NULL OR type IS NULL OR input IS NULL OR timeout IS NULL THEN
    RAISE EXCEPTION 'txb.request: % is null', CASE WHEN topic IS NULL THEN 'topic' WHEN type IS NULL THEN 'type'
                                                   WHEN input IS NULL THEN 'input' ELSE 'timeout' END
      USING ERRCODE = '22023', HINT = 'An input is any JSON value, be it {}.';
  ELSIF timeout <= interval '0' OR timeout > interval '1 year' THEN
    RAISE EXCEPTION 'txb.request: timeout is %, it must be above 0 and at most a year', timeout USING ERRCODE = '22023';
  ELSIF octet_length(key) NOT BETWEEN 1 AND 1024 THEN
    RAISE EXCEPTION 'txb.request: key has % bytes, 1 to 1024 are allowed', octet_length(key) USING ERRCODE = '22023';
  ELSIF back IS NULL THEN
    RAISE EXCEPTION 'txb.request: nobody has said where replies go' USING ERRCODE = '55000',
      HINT = 'A group with the function txb.take_reply takes them; say its topic once: SELECT txb.reply_topic_set(...).';
  ELSIF txb.topic_problem(back) IS NOT NULL THEN
    RAISE EXCEPTION 'txb.request: reply_to: %', txb.topic_problem(back) USING ERRCODE = '22023';
  END IF;
  INSERT INTO txb.request AS r (id, topic, type, key, asked_at, deadline_at)
  VALUES (this.id, request.topic, request.type, request.key, now, now + timeout) ON CONFLICT DO NOTHING;
  IF FOUND THEN
    PERFORM txb.publish(topic, coalesce(key, id::text), type, input,
                        jsonb_build_object('txb-reply-to', back, 'txb-request', id::text));
  END IF;
  RETURN id;
END
$$;
COMMENT ON FUNCTION txb.request(text, text, jsonb, text, interval, text) IS
  'Asks a participant if and only if the transaction commits; returns the request''s id. With a key that was used already: '
  'the id of the first one, and nothing is sent';

-- Whoever is told that it is expired must never find it answered: so that is written down, or waits for the transaction that
-- is about to store an answer. One that may not write looks only.
CREATE FUNCTION txb.request_result(id uuid, OUT state text, OUT answer text, OUT output jsonb, OUT reason text,
                                   OUT ended_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  r txb.request;
BEGIN
  SELECT t.* INTO r FROM txb.request AS t WHERE t.id = request_result.id;
  IF r.state = 'waiting' AND r.deadline_at <= clock_timestamp() THEN
    IF NOT current_setting('transaction_read_only')::boolean THEN
      UPDATE txb.request AS t SET state = 'expired', ended_at = clock_timestamp()
       WHERE t.id = request_result.id AND t.state = 'waiting';
      SELECT t.* INTO r FROM txb.request AS t WHERE t.id = request_result.id;
    ELSE
      r.state := 'expired';
    END IF;
  END IF;
  state := coalesce(r.state, 'unknown');
  answer := r.answer;
  output := r.output;
  reason := r.reason;
  ended_at := r.ended_at;
END
$$;
COMMENT ON FUNCTION txb.request_result(uuid) IS
  'What became of a request: waiting, answered or expired; unknown: there is none, or it was forgotten';

CREATE FUNCTION txb.request_expire(keep interval, most int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  gone int;
BEGIN
  IF keep IS NULL OR keep < interval '1 hour' OR most IS NULL OR most < 1 THEN
    RAISE EXCEPTION 'txb.request_expire: keep is at least one hour, and most 1 or more' USING ERRCODE = '22023';
  END IF;
  WITH old AS MATERIALIZED (
    SELECT t.id FROM txb.request AS t WHERE t.deadline_at < clock_timestamp() - keep
     ORDER BY t.deadline_at LIMIT most FOR UPDATE SKIP LOCKED)
  DELETE FROM txb.request AS r USING old WHERE r.id = old.id;
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN gone;
END
$$;
COMMENT ON FUNCTION txb.request_expire(interval, int) IS
  'Forgets requests whose time was over so long ago, at most so many; returns how many. txb.take_reply does so after a week';

CREATE FUNCTION txb.reply_body(payload bytea) RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $$
DECLARE
  body jsonb;
BEGIN
  body := convert_from(payload, 'UTF8')::jsonb;
  RETURN CASE WHEN jsonb_typeof(body) = 'object' AND jsonb_typeof(body -> 'answer') = 'string' THEN body END;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
  RETURN NULL;
END
$$;
COMMENT ON FUNCTION txb.reply_body(bytea) IS 'What a reply says; null: it is none';

-- It never fails because of what it is given: a reply holds nothing up (S1).
CREATE FUNCTION txb.take_reply(m txb.message) RETURNS txb.outcome
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  body jsonb := txb.reply_body(m.payload);
  named text := m.headers ->> 'txb-request';
  problem text;
BEGIN
  IF m.type IS DISTINCT FROM 'txb.reply' OR body IS NULL
     OR coalesce(named, '') !~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
    problem := 'unreadable';
  ELSE
    UPDATE txb.request AS r
       SET state = 'answered', answer = body ->> 'answer', output = body -> 'output', reason = body ->> 'reason',
           ended_at = clock_timestamp()
     WHERE r.id = named::uuid AND r.state = 'waiting' AND r.deadline_at > clock_timestamp();
    IF NOT FOUND THEN
      UPDATE txb.request AS r SET state = 'expired', ended_at = clock_timestamp()
       WHERE r.id = named::uuid AND r.state = 'waiting';
      problem := coalesce((SELECT CASE r.state WHEN 'answered' THEN 'repeated' ELSE 'late' END
                             FROM txb.request AS r WHERE r.id = named::uuid), 'unknown');
    END IF;
  END IF;
  IF problem IS NOT NULL THEN
    INSERT INTO txb.reply_ignored AS i (topic, partition, why, count, last_at, last_offset)
    VALUES (m.topic, m.partition, problem, 1, clock_timestamp(), m."offset")
    ON CONFLICT ON CONSTRAINT reply_ignored_key
    DO UPDATE SET count = i.count + 1, last_at = excluded.last_at, last_offset = excluded.last_offset;
  END IF;
  PERFORM txb.request_expire(interval '7 days', 2);
  RETURN txb.ok();
END
$$;
COMMENT ON FUNCTION txb.take_reply(txb.message) IS 'The handler of a group that takes replies to requests';

REVOKE ALL ON TYPE txb.reply_topic, txb.request, txb.reply_ignored FROM PUBLIC;
GRANT SELECT ON txb.reply_topic, txb.request TO txb_reader;
GRANT SELECT ON txb.reply_ignored TO txb_worker, txb_reader;
GRANT EXECUTE ON FUNCTION
  txb.request(text, text, jsonb, text, interval, text),
  txb.request_result(uuid)
TO txb_app, txb_worker, txb_admin;
GRANT EXECUTE ON FUNCTION txb.take_reply(txb.message) TO txb_worker;
GRANT EXECUTE ON FUNCTION txb.request_expire(interval, int) TO txb_worker, txb_admin;
GRANT EXECUTE ON FUNCTION txb.reply_topic_set(text) TO txb_admin;

RESET ROLE;
