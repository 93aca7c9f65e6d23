-- Sagas, in the database of their coordinator: what was deployed, what was started, everything that happened, and how it
-- ended. All insert-only but for what is waited for.
--
--   txb.saga_start(name text, input jsonb, key text = null, deadline interval = null, reply_topic text = null,
--                  coordinator text = null) returns uuid
--       starts a saga if and only if the transaction commits; its id. With a key that was used for that name already:
--       the id of the first one, and nothing is started. coordinator: null, or the topic of a coordinator whose database
--       is another one: then the start travels through the outbox, and what is wrong with it is told by the saga's end
--   txb.saga_result(id uuid) returns (state text, output jsonb, reason text, ended_at timestamptz)
--       state is unknown, running, or how it ended: completed, compensated, refused
--   txb.saga_deploy(name text, version int, body text, deadline_ms bigint, reply_topic text, topic text, person text)
--       returns boolean; true: it is there now; false: it was, word for word. topic: where messages to the coordinator go, if
--       it has not said so itself yet; null: not known
--   txb.saga_decide(id uuid, decision text, step text, expected int, reason text, person text) returns uuid
--       a person's decision, on its way to the coordinator: retry, mark_done, mark_undone, cancel
--
-- and for the coordinator, in the transaction of its batch:
--
--   txb.saga_coordinator_set(topic text) returns void
--   txb.saga_begin(...) returns (id uuid, started_at timestamptz, problem text)      starts that come from elsewhere
--   txb.saga_load(ids uuid[], starts timestamptz[]) returns one row a saga that is there
--   txb.saga_events(ids uuid[], starts timestamptz[]) returns their events in order
--   txb.saga_append(...) returns void                         events; 23505: somebody else wrote the same number
--   txb.saga_finish(...) returns void
--   txb.saga_stray_add(...) returns void                      messages that belong to nothing
--   txb.saga_timer_drop(dues timestamptz[], ids uuid[]) returns int
--
-- A saga's state is what its events make of it, one after the other (broker/saga/saga_core.h). Its messages, starts,
-- answers, timers and decisions, lie in one partition of the coordinator's topic, since its id is their key: who owns
-- that partition is the only one to write about it, and the event's number makes sure. A crash before COMMIT leaves
-- nothing of a batch, and its messages come again; after it, all: events, commands in the outbox, timers, ends.

SET LOCAL ROLE txb_owner;

CREATE TABLE txb.saga_coordinator (
  one boolean DEFAULT true CONSTRAINT saga_coordinator_one PRIMARY KEY CONSTRAINT saga_coordinator_is_one CHECK (one),
  topic text COLLATE "C" NOT NULL CONSTRAINT saga_coordinator_topic CHECK (topic ~ '^[a-zA-Z0-9._-]{1,249}$')
);
COMMENT ON TABLE txb.saga_coordinator IS 'One row: where messages to this database''s coordinator go';
COMMENT ON COLUMN txb.saga_coordinator.one IS 'Always true';
COMMENT ON COLUMN txb.saga_coordinator.topic IS 'Its topic: starts, answers, timers and decisions';
COMMENT ON CONSTRAINT saga_coordinator_one ON txb.saga_coordinator IS 'One row';
COMMENT ON INDEX txb.saga_coordinator_one IS 'One row';
COMMENT ON CONSTRAINT saga_coordinator_is_one ON txb.saga_coordinator IS 'One row';
COMMENT ON CONSTRAINT saga_coordinator_topic ON txb.saga_coordinator IS 'topic: 1 to 249 of [a-zA-Z0-9._-]';

CREATE TABLE txb.saga_definition (
  name text COLLATE "C" NOT NULL CONSTRAINT saga_definition_name CHECK (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
  version int NOT NULL CONSTRAINT saga_definition_version CHECK (version >= 1),
  body text NOT NULL,
  input_schema jsonb,
  deadline_ms bigint CONSTRAINT saga_definition_deadline CHECK (deadline_ms BETWEEN 1 AND 3155760000000),
  reply_topic text COLLATE "C" CONSTRAINT saga_definition_reply_topic CHECK (reply_topic ~ '^[a-zA-Z0-9._-]{1,249}$'),
  deployed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  deployed_by text NOT NULL DEFAULT session_user,
  CONSTRAINT saga_definition_key PRIMARY KEY (name, version)
);
COMMENT ON TABLE txb.saga_definition IS 'Sagas as they were deployed; instances keep the version that they began with';
COMMENT ON COLUMN txb.saga_definition.name IS 'Name of the saga';
COMMENT ON COLUMN txb.saga_definition.version IS 'A start takes the highest';
COMMENT ON COLUMN txb.saga_definition.body IS 'The definition: schemas/json/saga.schema.json';
COMMENT ON COLUMN txb.saga_definition.input_schema IS 'JSON Schema of the input; null: anything';
COMMENT ON COLUMN txb.saga_definition.deadline_ms IS 'How long an instance may take before it turns back; null: as long as it takes';
COMMENT ON COLUMN txb.saga_definition.reply_topic IS 'Where the end is told; null: nowhere, unless the start says so';
COMMENT ON COLUMN txb.saga_definition.deployed_at IS 'When';
COMMENT ON COLUMN txb.saga_definition.deployed_by IS 'Database role, and the operating system''s user when the program told it';
COMMENT ON CONSTRAINT saga_definition_key ON txb.saga_definition IS 'A version is deployed once';
COMMENT ON INDEX txb.saga_definition_key IS 'A version is deployed once';
COMMENT ON CONSTRAINT saga_definition_name ON txb.saga_definition IS 'name: a letter, then up to 62 of [a-z0-9_-]';
COMMENT ON CONSTRAINT saga_definition_version ON txb.saga_definition IS 'version: 1 or more';
COMMENT ON CONSTRAINT saga_definition_reply_topic ON txb.saga_definition IS 'reply_topic: 1 to 249 of [a-zA-Z0-9._-]';
COMMENT ON CONSTRAINT saga_definition_deadline ON txb.saga_definition IS 'deadline_ms: 1 to a hundred years';

CREATE TABLE txb.saga (
  id uuid NOT NULL,
  started_at timestamptz NOT NULL,
  name text COLLATE "C" NOT NULL,
  version int NOT NULL,
  key text,
  input jsonb NOT NULL,
  deadline_at timestamptz,
  reply_topic text COLLATE "C",
  parent jsonb,
  started_by text NOT NULL DEFAULT session_user,
  CONSTRAINT saga_key PRIMARY KEY (id, started_at)
) PARTITION BY RANGE (started_at);
COMMENT ON TABLE txb.saga IS 'Instances: what each was started with; never changed';
COMMENT ON COLUMN txb.saga.id IS 'Identity; of a start with a key derived from name and key';
COMMENT ON COLUMN txb.saga.started_at IS 'When, by the clock of the database that started it';
COMMENT ON COLUMN txb.saga.name IS 'Name of its definition';
COMMENT ON COLUMN txb.saga.version IS 'Version of its definition; 0: refused, there was none';
COMMENT ON COLUMN txb.saga.key IS 'What makes a repeated start the same';
COMMENT ON COLUMN txb.saga.input IS 'What it was given';
COMMENT ON COLUMN txb.saga.deadline_at IS 'Then it turns back, unless its pivot took effect; null: never';
COMMENT ON COLUMN txb.saga.reply_topic IS 'Where its end is told; null: nowhere';
COMMENT ON COLUMN txb.saga.parent IS 'The headers of the command that it is, as a step of another saga; null: it is none';
COMMENT ON COLUMN txb.saga.started_by IS 'Database role';
COMMENT ON CONSTRAINT saga_key ON txb.saga IS 'One row an instance';
COMMENT ON INDEX txb.saga_key IS 'One row an instance';

CREATE TABLE txb.saga_default PARTITION OF txb.saga DEFAULT;
COMMENT ON TABLE txb.saga_default IS 'Sagas of days that have no partition';
COMMENT ON COLUMN txb.saga_default.id IS 'As in txb.saga';
COMMENT ON COLUMN txb.saga_default.started_at IS 'As in txb.saga';
COMMENT ON COLUMN txb.saga_default.name IS 'As in txb.saga';
COMMENT ON COLUMN txb.saga_default.version IS 'As in txb.saga';
COMMENT ON COLUMN txb.saga_default.key IS 'As in txb.saga';
COMMENT ON COLUMN txb.saga_default.input IS 'As in txb.saga';
COMMENT ON COLUMN txb.saga_default.deadline_at IS 'As in txb.saga';
COMMENT ON COLUMN txb.saga_default.reply_topic IS 'As in txb.saga';
COMMENT ON COLUMN txb.saga_default.parent IS 'As in txb.saga';
COMMENT ON COLUMN txb.saga_default.started_by IS 'As in txb.saga';
COMMENT ON CONSTRAINT saga_default_pkey ON txb.saga_default IS 'As in txb.saga';
COMMENT ON INDEX txb.saga_default_pkey IS 'As in txb.saga';

CREATE TABLE txb.saga_start_key (
  id uuid CONSTRAINT saga_start_key_id PRIMARY KEY,
  started_at timestamptz NOT NULL
);
COMMENT ON TABLE txb.saga_start_key IS 'Instances that were started with a key: a repeated start finds the first one, on whatever day that was';
COMMENT ON COLUMN txb.saga_start_key.id IS 'The instance';
COMMENT ON COLUMN txb.saga_start_key.started_at IS 'When it was started';
COMMENT ON CONSTRAINT saga_start_key_id ON txb.saga_start_key IS 'One start a key';
COMMENT ON INDEX txb.saga_start_key_id IS 'One start a key';

CREATE TABLE txb.saga_event (
  saga_id uuid NOT NULL,
  started_at timestamptz NOT NULL,
  n int NOT NULL,
  at timestamptz NOT NULL,
  event text COLLATE "C" NOT NULL,
  step text COLLATE "C",
  sending int,
  output jsonb,
  reason text,
  who text,
  sent jsonb,
  timer_at timestamptz,
  message_id uuid,
  message_partition int,
  message_offset bigint,
  CONSTRAINT saga_event_key PRIMARY KEY (saga_id, n, started_at)
) PARTITION BY RANGE (started_at);
COMMENT ON TABLE txb.saga_event IS 'Everything that happened to sagas: insert-only, and their state follows from it';
COMMENT ON COLUMN txb.saga_event.saga_id IS 'The saga';
COMMENT ON COLUMN txb.saga_event.started_at IS 'When it was started';
COMMENT ON COLUMN txb.saga_event.n IS 'Its events in order, from 1: who writes the same number came second';
COMMENT ON COLUMN txb.saga_event.at IS 'When, by the coordinator''s database; time-outs run from here';
COMMENT ON COLUMN txb.saga_event.event IS
  'start, turn_back, undo, timer, ignored, end, or an event of a step (broker/saga/saga_core.h)';
COMMENT ON COLUMN txb.saga_event.step IS 'The step; NAME/confirm of a reservation''s confirmation';
COMMENT ON COLUMN txb.saga_event.sending IS 'Which sending of the step it answers, or whose time is over';
COMMENT ON COLUMN txb.saga_event.output IS 'What the step gave';
COMMENT ON COLUMN txb.saga_event.reason IS 'Why';
COMMENT ON COLUMN txb.saga_event.who IS 'The person who decided';
COMMENT ON COLUMN txb.saga_event.sent IS 'The commands that follow: [{step, operation, sending, id}]';
COMMENT ON COLUMN txb.saga_event.timer_at IS 'The time for which it set the saga''s timer';
COMMENT ON COLUMN txb.saga_event.message_id IS 'The message that told it';
COMMENT ON COLUMN txb.saga_event.message_partition IS 'Where in the coordinator''s topic that lies';
COMMENT ON COLUMN txb.saga_event.message_offset IS 'At which offset';
COMMENT ON CONSTRAINT saga_event_key ON txb.saga_event IS 'One event a number: the compare-and-set of everything that happens';
COMMENT ON INDEX txb.saga_event_key IS 'One event a number: the compare-and-set of everything that happens';

CREATE TABLE txb.saga_event_default PARTITION OF txb.saga_event DEFAULT;
COMMENT ON TABLE txb.saga_event_default IS 'Sagas of days that have no partition';
COMMENT ON COLUMN txb.saga_event_default.saga_id IS 'As in txb.saga_event';
COMMENT ON COLUMN txb.saga_event_default.started_at IS 'As in txb.saga_event';
COMMENT ON COLUMN txb.saga_event_default.n IS 'As in txb.saga_event';
COMMENT ON COLUMN txb.saga_event_default.at IS 'As in txb.saga_event';
COMMENT ON COLUMN txb.saga_event_default.event IS 'As in txb.saga_event';
COMMENT ON COLUMN txb.saga_event_default.step IS 'As in txb.saga_event';
COMMENT ON COLUMN txb.saga_event_default.sending IS 'As in txb.saga_event';
COMMENT ON COLUMN txb.saga_event_default.output IS 'As in txb.saga_event';
COMMENT ON COLUMN txb.saga_event_default.reason IS 'As in txb.saga_event';
COMMENT ON COLUMN txb.saga_event_default.who IS 'As in txb.saga_event';
COMMENT ON COLUMN txb.saga_event_default.sent IS 'As in txb.saga_event';
COMMENT ON COLUMN txb.saga_event_default.timer_at IS 'As in txb.saga_event';
COMMENT ON COLUMN txb.saga_event_default.message_id IS 'As in txb.saga_event';
COMMENT ON COLUMN txb.saga_event_default.message_partition IS 'As in txb.saga_event';
COMMENT ON COLUMN txb.saga_event_default.message_offset IS 'As in txb.saga_event';
COMMENT ON CONSTRAINT saga_event_default_pkey ON txb.saga_event_default IS 'As in txb.saga_event';
COMMENT ON INDEX txb.saga_event_default_pkey IS 'As in txb.saga_event';

CREATE TABLE txb.saga_end (
  saga_id uuid NOT NULL,
  started_at timestamptz NOT NULL,
  ended_at timestamptz NOT NULL,
  state text COLLATE "C" NOT NULL CONSTRAINT saga_end_state CHECK (state IN ('completed', 'compensated', 'refused')),
  output jsonb,
  reason text,
  CONSTRAINT saga_end_key PRIMARY KEY (saga_id, started_at)
) PARTITION BY RANGE (started_at);
COMMENT ON TABLE txb.saga_end IS 'How sagas ended; one that is not in here is under way';
COMMENT ON COLUMN txb.saga_end.saga_id IS 'The saga';
COMMENT ON COLUMN txb.saga_end.started_at IS 'When it was started';
COMMENT ON COLUMN txb.saga_end.ended_at IS 'When it ended';
COMMENT ON COLUMN txb.saga_end.state IS 'completed, compensated, or refused: it was not begun';
COMMENT ON COLUMN txb.saga_end.output IS 'What it gave';
COMMENT ON COLUMN txb.saga_end.reason IS 'Why it was compensated or refused';
COMMENT ON CONSTRAINT saga_end_key ON txb.saga_end IS 'A saga ends once';
COMMENT ON INDEX txb.saga_end_key IS 'A saga ends once';
COMMENT ON CONSTRAINT saga_end_state ON txb.saga_end IS 'state: completed, compensated or refused';

CREATE TABLE txb.saga_end_default PARTITION OF txb.saga_end DEFAULT;
COMMENT ON TABLE txb.saga_end_default IS 'Sagas of days that have no partition';
COMMENT ON COLUMN txb.saga_end_default.saga_id IS 'As in txb.saga_end';
COMMENT ON COLUMN txb.saga_end_default.started_at IS 'As in txb.saga_end';
COMMENT ON COLUMN txb.saga_end_default.ended_at IS 'As in txb.saga_end';
COMMENT ON COLUMN txb.saga_end_default.state IS 'As in txb.saga_end';
COMMENT ON COLUMN txb.saga_end_default.output IS 'As in txb.saga_end';
COMMENT ON COLUMN txb.saga_end_default.reason IS 'As in txb.saga_end';
COMMENT ON CONSTRAINT saga_end_default_pkey ON txb.saga_end_default IS 'As in txb.saga_end';
COMMENT ON INDEX txb.saga_end_default_pkey IS 'As in txb.saga_end';
COMMENT ON CONSTRAINT saga_end_state ON txb.saga_end_default IS 'As in txb.saga_end';

CREATE TABLE txb.saga_stray (
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  message_id uuid NOT NULL,
  message_partition int NOT NULL,
  message_offset bigint NOT NULL,
  type text,
  key text,
  reason text NOT NULL
);
COMMENT ON TABLE txb.saga_stray IS 'Messages in the coordinator''s topic that belong to no saga: insert-only';
COMMENT ON COLUMN txb.saga_stray.at IS 'When it was met';
COMMENT ON COLUMN txb.saga_stray.message_id IS 'The message';
COMMENT ON COLUMN txb.saga_stray.message_partition IS 'Where it lies';
COMMENT ON COLUMN txb.saga_stray.message_offset IS 'At which offset';
COMMENT ON COLUMN txb.saga_stray.type IS 'Its type';
COMMENT ON COLUMN txb.saga_stray.key IS 'Its key';
COMMENT ON COLUMN txb.saga_stray.reason IS 'Why it was put aside';

-- ---- what a definition's schemas ask for ---------------------------------------------------------------------------

-- The part of JSON Schema 2020-12 that is checked; deploying refuses what is not known here, so that nobody believes in a
-- rule that nobody looks at. And what is known but can't be used: it would stop every start, and with starts that come as
-- messages the coordinator.
CREATE FUNCTION txb.json_schema_fits(keyword text, value jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
  kind text := jsonb_typeof(value);
BEGIN
  CASE
    WHEN keyword IN ('properties', '$defs') THEN
      RETURN kind = 'object';
    WHEN keyword = 'type' THEN
      RETURN kind IN ('string', 'array')
             AND value <@ '["null", "boolean", "object", "array", "number", "string", "integer"]';
    WHEN keyword = 'required' THEN
      RETURN kind = 'array'
             AND NOT EXISTS (SELECT FROM jsonb_array_elements(value) AS e (one) WHERE jsonb_typeof(e.one) <> 'string');
    WHEN keyword = 'enum' THEN
      RETURN kind = 'array';
    WHEN keyword = 'uniqueItems' THEN
      RETURN kind = 'boolean';
    WHEN keyword = 'pattern' AND kind = 'string' THEN
      RETURN '' ~ (value #>> '{}') IS NOT NULL;
    WHEN keyword IN ('minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum') THEN
      RETURN kind = 'number';
    WHEN keyword = 'multipleOf' THEN
      RETURN kind = 'number' AND value > '0';
    WHEN keyword ~ '^(min|max)(Length|Items|Properties)$' THEN
      RETURN kind = 'number' AND value >= '0' AND (value #>> '{}')::numeric % 1 = 0;
    ELSE
      RETURN keyword <> 'pattern';
  END CASE;
EXCEPTION WHEN invalid_regular_expression THEN
  RETURN false;
END
$$;
COMMENT ON FUNCTION txb.json_schema_fits(text, jsonb) IS 'Whether a value can be that of a keyword of JSON Schema';

CREATE FUNCTION txb.json_schema_unknown(schema jsonb, path text) RETURNS text
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
  one record;
  part record;
  found text;
BEGIN
  IF schema IS NULL OR jsonb_typeof(schema) = 'boolean' THEN
    RETURN NULL;
  ELSIF jsonb_typeof(schema) <> 'object' THEN
    RETURN path || ' is no schema: an object, true or false';
  END IF;
  FOR one IN SELECT e.key, e.value FROM jsonb_each(schema) AS e LOOP
    IF NOT txb.json_schema_fits(one.key, one.value) THEN
      RETURN path || '.' || one.key || ' can''t be ' || left(one.value::text, 80);
    ELSIF one.key IN ('properties', '$defs') THEN
      FOR part IN SELECT p.key, p.value FROM jsonb_each(one.value) AS p LOOP
        found := txb.json_schema_unknown(part.value, path || '.' || one.key || '.' || part.key);
        EXIT WHEN found IS NOT NULL;
      END LOOP;
    ELSIF one.key IN ('items', 'additionalProperties') THEN
      found := txb.json_schema_unknown(one.value, path || '.' || one.key);
    ELSIF one.key NOT IN ('$schema', '$id', '$comment', 'title', 'description', 'examples', 'default', 'type', 'required',
                          'enum', 'const', 'minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum', 'multipleOf',
                          'minLength', 'maxLength', 'pattern', 'minItems', 'maxItems', 'uniqueItems', 'minProperties',
                          'maxProperties') THEN
      found := path || '.' || one.key || ' is not checked here; leave it out, or say it with type, properties, required, '
               'additionalProperties, items, enum, const, pattern and limits';
    END IF;
    IF found IS NOT NULL THEN
      RETURN found;
    END IF;
  END LOOP;
  RETURN NULL;
END
$$;
COMMENT ON FUNCTION txb.json_schema_unknown(jsonb, text) IS
  'The first thing in a JSON Schema that txb.json_schema_problem does not check; null: it checks all of it';

CREATE FUNCTION txb.json_schema_problem(schema jsonb, value jsonb, path text) RETURNS text
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
  kind text := jsonb_typeof(value);
  kinds jsonb := schema -> 'type';
  said text := path || ' is ' || left(value::text, 80);
  one record;
  found text;
  size int;
BEGIN
  IF schema = 'false' THEN
    RETURN path || ' must not be there';
  ELSIF schema IS NULL OR jsonb_typeof(schema) <> 'object' THEN
    RETURN NULL;
  END IF;
  IF kinds IS NOT NULL AND NOT (to_jsonb(kind) <@ kinds OR kind = 'number' AND '"integer"' <@ kinds
                                AND (value #>> '{}')::numeric % 1 = 0) THEN
    RETURN said || ', which is no ' || CASE jsonb_typeof(kinds) WHEN 'string' THEN kinds #>> '{}' ELSE kinds::text END;
  ELSIF schema ? 'const' AND value <> schema -> 'const' THEN
    RETURN said || ', it must be ' || (schema -> 'const')::text;
  ELSIF schema ? 'enum' AND NOT EXISTS (SELECT FROM jsonb_array_elements(schema -> 'enum') AS e (one) WHERE e.one = value) THEN
    RETURN said || ', it must be one of ' || (schema -> 'enum')::text;
  END IF;
  CASE kind
    WHEN 'number' THEN
      found := CASE
        WHEN (value #>> '{}')::numeric < (schema ->> 'minimum')::numeric THEN 'at least ' || (schema ->> 'minimum')
        WHEN (value #>> '{}')::numeric > (schema ->> 'maximum')::numeric THEN 'at most ' || (schema ->> 'maximum')
        WHEN (value #>> '{}')::numeric <= (schema ->> 'exclusiveMinimum')::numeric
          THEN 'above ' || (schema ->> 'exclusiveMinimum')
        WHEN (value #>> '{}')::numeric >= (schema ->> 'exclusiveMaximum')::numeric
          THEN 'below ' || (schema ->> 'exclusiveMaximum')
        WHEN (value #>> '{}')::numeric % (schema ->> 'multipleOf')::numeric <> 0
          THEN 'a multiple of ' || (schema ->> 'multipleOf') END;
    WHEN 'string' THEN
      size := length(value #>> '{}');
      found := CASE
        WHEN size < (schema ->> 'minLength')::numeric THEN 'at least ' || (schema ->> 'minLength') || ' characters long'
        WHEN size > (schema ->> 'maxLength')::numeric THEN 'at most ' || (schema ->> 'maxLength') || ' characters long'
        WHEN (value #>> '{}') !~ (schema ->> 'pattern') THEN 'like ' || (schema ->> 'pattern') END;
    WHEN 'array' THEN
      size := jsonb_array_length(value);
      found := CASE
        WHEN size < (schema ->> 'minItems')::numeric THEN 'at least ' || (schema ->> 'minItems') || ' long'
        WHEN size > (schema ->> 'maxItems')::numeric THEN 'at most ' || (schema ->> 'maxItems') || ' long'
        WHEN (schema ->> 'uniqueItems')::boolean
             AND size > (SELECT count(DISTINCT e.one) FROM jsonb_array_elements(value) AS e (one))
          THEN 'without equal elements' END;
    WHEN 'object' THEN
      size := (SELECT count(*) FROM jsonb_object_keys(value));
      found := CASE
        WHEN size < (schema ->> 'minProperties')::numeric THEN 'of at least ' || (schema ->> 'minProperties') || ' members'
        WHEN size > (schema ->> 'maxProperties')::numeric THEN 'of at most ' || (schema ->> 'maxProperties') || ' members' END;
    ELSE
      NULL;
  END CASE;
  IF found IS NOT NULL THEN
    RETURN said || ', it must be ' || found;
  END IF;
  IF kind = 'array' AND schema ? 'items' THEN
    FOR one IN SELECT e.value, e.ordinality - 1 AS n FROM jsonb_array_elements(value) WITH ORDINALITY AS e LOOP
      found := txb.json_schema_problem(schema -> 'items', one.value, path || '[' || one.n || ']');
      IF found IS NOT NULL THEN
        RETURN found;
      END IF;
    END LOOP;
  ELSIF kind = 'object' THEN
    SELECT r.name INTO found FROM jsonb_array_elements_text(schema -> 'required') AS r (name) WHERE NOT value ? r.name LIMIT 1;
    IF found IS NOT NULL THEN
      RETURN path || '.' || found || ' is missing';
    END IF;
    FOR one IN SELECT e.key, e.value FROM jsonb_each(value) AS e LOOP
      IF schema -> 'properties' ? one.key THEN
        found := txb.json_schema_problem(schema -> 'properties' -> one.key, one.value, path || '.' || one.key);
      ELSIF schema -> 'additionalProperties' = 'false' THEN
        found := path || '.' || left(one.key, 80) || ' is not known';
      ELSE
        found := txb.json_schema_problem(schema -> 'additionalProperties', one.value, path || '.' || one.key);
      END IF;
      IF found IS NOT NULL THEN
        RETURN found;
      END IF;
    END LOOP;
  END IF;
  RETURN NULL;
END
$$;
COMMENT ON FUNCTION txb.json_schema_problem(jsonb, jsonb, text) IS
  'Where a value breaks a JSON Schema, and how; null: it keeps it. path: what the value is called';

-- ---- deploying -----------------------------------------------------------------------------------------------------

CREATE FUNCTION txb.saga_coordinator_set(topic text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
  INSERT INTO txb.saga_coordinator AS c (topic) VALUES (saga_coordinator_set.topic)
  ON CONFLICT ON CONSTRAINT saga_coordinator_one DO UPDATE SET topic = excluded.topic WHERE c.topic <> excluded.topic
$$;
COMMENT ON FUNCTION txb.saga_coordinator_set(text) IS 'Says where messages to this database''s coordinator go';

CREATE FUNCTION txb.saga_deploy(name text, version int, body text, deadline_ms bigint, reply_topic text, topic text,
                                person text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  there txb.saga_definition;
  problem text := txb.json_schema_unknown(saga_deploy.body::jsonb -> 'input', 'input');
BEGIN
  problem := coalesce(problem, txb.json_schema_unknown(saga_deploy.body::jsonb -> 'output_schema', 'output_schema'));
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION 'saga %: %', saga_deploy.name, problem USING ERRCODE = '22023';
  END IF;
  IF saga_deploy.topic IS NOT NULL THEN
    INSERT INTO txb.saga_coordinator (topic) VALUES (saga_deploy.topic) ON CONFLICT DO NOTHING;
  END IF;
  INSERT INTO txb.saga_definition (name, version, body, input_schema, deadline_ms, reply_topic, deployed_by)
  VALUES (saga_deploy.name, saga_deploy.version, saga_deploy.body, saga_deploy.body::jsonb -> 'input',
          saga_deploy.deadline_ms, saga_deploy.reply_topic,
          session_user || coalesce(' (' || nullif(saga_deploy.person, '') || ')', ''))
  ON CONFLICT ON CONSTRAINT saga_definition_key DO NOTHING;
  IF FOUND THEN
    INSERT INTO txb.audit (person, action, filter, matched, changed)
    VALUES (nullif(saga_deploy.person, ''), 'saga deploy',
            jsonb_build_object('name', saga_deploy.name, 'version', saga_deploy.version), 1, 1);
    RETURN true;
  END IF;
  SELECT d.* INTO STRICT there FROM txb.saga_definition AS d
   WHERE d.name = saga_deploy.name AND d.version = saga_deploy.version;
  IF there.body <> saga_deploy.body THEN
    RAISE EXCEPTION 'version % of saga % was deployed at % by % and reads otherwise', saga_deploy.version, saga_deploy.name,
      there.deployed_at, there.deployed_by
      USING ERRCODE = '22023', HINT = format('Instances may run on it: give this one version %s.', (SELECT max(d.version) + 1 FROM txb.saga_definition AS d WHERE d.name = saga_deploy.name));
  END IF;
  RETURN false;
END
$$;
COMMENT ON FUNCTION txb.saga_deploy(text, int, text, bigint, text, text, text) IS
  'Keeps a definition that the program has checked. True: it is there now; false: it was, word for word';

-- ---- starting ------------------------------------------------------------------------------------------------------

-- S7. Version 8 of RFC 9562: bits of our own making.
CREATE FUNCTION txb.saga_id(name text, key text) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT (substr(h.hex, 1, 12) || '8' || substr(h.hex, 14, 3) || to_hex(8 | (get_byte(h.hash, 0) & 3))
                || substr(h.hex, 18, 15))::uuid
          FROM (SELECT g.hash, encode(g.hash, 'hex') AS hex
                  FROM (SELECT sha256(int8send(octet_length(name)) || convert_to(name, 'UTF8') || convert_to(key, 'UTF8'))
                               AS hash) AS g) AS h);
COMMENT ON FUNCTION txb.saga_id(text, text) IS 'The id of the saga that is started by that name with that key (S7)';

CREATE FUNCTION txb.saga_reference(id uuid, started_at timestamptz) RETURNS jsonb
LANGUAGE sql STABLE
RETURN jsonb_build_object('txb-saga', id::text,
                          'txb-saga-started', (extract(epoch FROM started_at) * 1000000)::bigint::text);
COMMENT ON FUNCTION txb.saga_reference(uuid, timestamptz) IS 'The headers of messages to the coordinator about a saga';

CREATE FUNCTION txb.saga_start(name text, input jsonb, key text DEFAULT NULL, deadline interval DEFAULT NULL,
                               reply_topic text DEFAULT NULL, coordinator text DEFAULT NULL) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
<<this>>
DECLARE
  d record;
  problem text;
  id uuid := CASE WHEN key IS NULL THEN txb.uuid_v7() ELSE txb.saga_id(name, key) END;
  started timestamptz := clock_timestamp();
  topic text := coalesce(saga_start.coordinator, (SELECT c.topic FROM txb.saga_coordinator AS c));
BEGIN
  IF deadline <= interval '0' THEN
    RAISE EXCEPTION 'txb.saga_start: deadline is %, it must be above 0', deadline USING ERRCODE = '22023';
  ELSIF octet_length(key) NOT BETWEEN 1 AND 1024 THEN
    RAISE EXCEPTION 'txb.saga_start: key has % bytes, 1 to 1024 are allowed', octet_length(key) USING ERRCODE = '22023';
  ELSIF name IS NULL OR input IS NULL THEN
    RAISE EXCEPTION 'txb.saga_start: % is null', CASE WHEN name IS NULL THEN 'name' ELSE 'input' END
      USING ERRCODE = '22023', HINT = 'Name a saga that is deployed; an input is any JSON value, be it {}.';
  ELSIF txb.json_number_problem(input, 'input') IS NOT NULL THEN
    RAISE EXCEPTION 'txb.saga_start: %', txb.json_number_problem(input, 'input') USING ERRCODE = '22023';
  ELSIF txb.topic_problem(saga_start.reply_topic) IS NOT NULL THEN
    RAISE EXCEPTION 'txb.saga_start: reply_%', txb.topic_problem(saga_start.reply_topic) USING ERRCODE = '22023';
  END IF;
  IF saga_start.coordinator IS NOT NULL THEN
    PERFORM txb.publish(topic, id::text, 'txb.saga.start',
      jsonb_build_object('name', name, 'input', input, 'key', key,
                         'deadline_ms', (extract(epoch FROM deadline) * 1000)::bigint, 'reply_topic', reply_topic),
      txb.saga_reference(id, started));
    RETURN id;
  END IF;
  -- Before anything that may have changed since: who asks again gets the same answer.
  IF EXISTS (SELECT FROM txb.saga_start_key AS k WHERE key IS NOT NULL AND k.id = this.id) THEN
    RETURN id;
  END IF;
  SELECT f.version, f.input_schema, f.deadline_ms, f.reply_topic INTO d FROM txb.saga_definition AS f
   WHERE f.name = saga_start.name ORDER BY f.version DESC LIMIT 1;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'there is no saga "%"', left(name, 100) USING ERRCODE = '22023', HINT = CASE
      WHEN topic IS NULL THEN 'Deploy it (txbroker saga deploy), or name the topic of the coordinator that knows it.'
      ELSE coalesce('Deployed are: ' || (SELECT string_agg(DISTINCT f.name, ', ') FROM txb.saga_definition AS f) || '.',
                    'Nothing is deployed: txbroker saga deploy.') END;
  END IF;
  problem := txb.json_schema_problem(d.input_schema, input, 'input');
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION 'saga % (version %) takes another input: %', name, d.version, problem USING ERRCODE = '22023';
  ELSIF topic IS NULL THEN
    RAISE EXCEPTION 'no coordinator has run on this database: nobody would take the saga up'
      USING ERRCODE = '55000', HINT = 'Start one: a group with handler.kind coordinator, and txbroker run.';
  END IF;
  IF key IS NOT NULL THEN
    INSERT INTO txb.saga_start_key AS k (id, started_at) VALUES (this.id, started) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
      RETURN id;
    END IF;
  END IF;
  INSERT INTO txb.saga (id, started_at, name, version, key, input, deadline_at, reply_topic)
  VALUES (id, started, saga_start.name, d.version, saga_start.key, saga_start.input,
          started + coalesce(deadline, d.deadline_ms * interval '1 millisecond'),
          coalesce(saga_start.reply_topic, d.reply_topic));
  PERFORM txb.publish(topic, id::text, 'txb.saga.start', '{}'::jsonb, txb.saga_reference(id, started));
  RETURN id;
END
$$;
COMMENT ON FUNCTION txb.saga_start(text, jsonb, text, interval, text, text) IS
  'Starts a saga if and only if the transaction commits; returns its id. With a key that was used already: the id of the '
  'first one, and nothing is started';

CREATE FUNCTION txb.saga_result(id uuid, OUT state text, OUT output jsonb, OUT reason text, OUT ended_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  SELECT e.state, e.output, e.reason, e.ended_at INTO state, output, reason, ended_at
    FROM txb.saga_end AS e WHERE e.saga_id = saga_result.id;
  IF state IS NULL THEN
    state := CASE WHEN EXISTS (SELECT FROM txb.saga AS s WHERE s.id = saga_result.id) THEN 'running' ELSE 'unknown' END;
  END IF;
END
$$;
COMMENT ON FUNCTION txb.saga_result(uuid) IS
  'How a saga ended, and what it gave: completed, compensated or refused; running: ask again; unknown: there is none, or '
  'its start has not come here yet';

-- ---- for the coordinator -------------------------------------------------------------------------------------------

CREATE FUNCTION txb.saga_begin(ids uuid[], starts timestamptz[], names text[], versions int[], keys text[], inputs jsonb[],
                               deadlines_ms bigint[], reply_topics text[], parents jsonb[])
RETURNS TABLE (id uuid, started_at timestamptz, problem text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  one record;
  d record;
  why text;
BEGIN
  FOR one IN SELECT u.* FROM unnest(ids, starts, names, versions, keys, inputs, deadlines_ms, reply_topics, parents)
               AS u (id, started_at, name, version, key, input, deadline_ms, reply_topic, parent) LOOP
    IF one.key IS NOT NULL THEN
      INSERT INTO txb.saga_start_key AS k (id, started_at) VALUES (one.id, one.started_at) ON CONFLICT DO NOTHING;
      CONTINUE WHEN NOT FOUND; -- a repeated start
    END IF;
    SELECT f.version, f.input_schema, f.deadline_ms, f.reply_topic INTO d FROM txb.saga_definition AS f
     WHERE f.name = one.name AND (one.version IS NULL OR f.version = one.version) ORDER BY f.version DESC LIMIT 1;
    why := CASE WHEN d.version IS NULL THEN 'there is no saga "' || coalesce(left(one.name, 100), '') || '"'
                WHEN txb.topic_problem(one.reply_topic) IS NOT NULL THEN 'reply_' || txb.topic_problem(one.reply_topic)
                WHEN octet_length(one.key) NOT BETWEEN 1 AND 1024
                  THEN 'key has ' || octet_length(one.key) || ' bytes, 1 to 1024 are allowed'
                WHEN one.deadline_ms NOT BETWEEN 1 AND 31536000000
                  THEN 'deadline_ms is ' || one.deadline_ms || ', it must be above 0 and at most a year'
                ELSE txb.json_schema_problem(d.input_schema, coalesce(one.input, 'null'), 'input') END;
    -- A refused one is told where it can be told, by a key that a message can have.
    INSERT INTO txb.saga AS s (id, started_at, name, version, key, input, deadline_at, reply_topic, parent, started_by)
    VALUES (one.id, one.started_at, coalesce(left(one.name, 100), ''), coalesce(d.version, 0),
            CASE WHEN octet_length(one.key) BETWEEN 1 AND 1024 THEN one.key END, coalesce(one.input, 'null'),
            CASE WHEN why IS NULL
                 THEN one.started_at + coalesce(one.deadline_ms, d.deadline_ms) * interval '1 millisecond' END,
            coalesce(CASE WHEN txb.topic_problem(one.reply_topic) IS NULL THEN one.reply_topic END, d.reply_topic), one.parent,
            'a message')
    ON CONFLICT DO NOTHING;
    CONTINUE WHEN NOT FOUND;
    id := one.id;
    started_at := one.started_at;
    problem := why;
    RETURN NEXT;
  END LOOP;
END
$$;
COMMENT ON FUNCTION txb.saga_begin(uuid[], timestamptz[], text[], int[], text[], jsonb[], bigint[], text[], jsonb[]) IS
  'Starts that came as messages: keeps each, once, and returns those that are new, with what is wrong with them';

-- By the index, whatever the planner knew when the statement was planned: a table grows from none to a million rows while
-- the coordinator's session lasts. And without compiling what looks dear for the number of its partitions, nor planning
-- anew each time, which costs more than what is planned.
CREATE FUNCTION txb.saga_load(ids uuid[], starts timestamptz[])
RETURNS TABLE (nth bigint, started_at timestamptz, name text, version int, key text, input jsonb, deadline_at timestamptz,
               reply_topic text, parent jsonb, ended boolean, now timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp SET enable_seqscan = off SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
    SELECT u.nth, s.started_at, s.name, s.version, s.key, s.input, s.deadline_at, s.reply_topic, s.parent,
           EXISTS (SELECT FROM txb.saga_end AS e WHERE e.saga_id = u.id AND e.started_at = s.started_at), clock_timestamp()
      FROM unnest(saga_load.ids, saga_load.starts) WITH ORDINALITY AS u (id, started_at, nth)
      CROSS JOIN LATERAL (SELECT t.* FROM txb.saga AS t WHERE t.id = u.id AND t.started_at = u.started_at OFFSET 0) AS s
     ORDER BY u.nth;
END
$$;
COMMENT ON FUNCTION txb.saga_load(uuid[], timestamptz[]) IS 'The sagas of those ids, by their place in the arrays; one that is not there has no row';

CREATE FUNCTION txb.saga_events(ids uuid[], starts timestamptz[])
RETURNS TABLE (nth bigint, n int, at timestamptz, event text, step text, sending int, output jsonb, reason text,
               timer_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp SET enable_seqscan = off SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
    SELECT u.nth, e.n, e.at, e.event, e.step, e.sending, e.output, e.reason, e.timer_at
      FROM unnest(saga_events.ids, saga_events.starts) WITH ORDINALITY AS u (id, started_at, nth)
      CROSS JOIN LATERAL (SELECT t.* FROM txb.saga_event AS t
                           WHERE t.saga_id = u.id AND t.started_at = u.started_at ORDER BY t.n) AS e
     ORDER BY u.nth, e.n;
END
$$;
COMMENT ON FUNCTION txb.saga_events(uuid[], timestamptz[]) IS 'The events of those sagas, in their order';

CREATE FUNCTION txb.saga_append(ids uuid[], starts timestamptz[], ns int[], ats timestamptz[], events text[], steps text[],
                                sendings int[], outputs jsonb[], reasons text[], whos text[], sents jsonb[],
                                timers timestamptz[], message_ids uuid[], message_partitions int[], message_offsets bigint[])
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  INSERT INTO txb.saga_event (saga_id, started_at, n, at, event, step, sending, output, reason, who, sent, timer_at,
                              message_id, message_partition, message_offset)
  SELECT u.* FROM unnest(ids, starts, ns, ats, events, steps, sendings, outputs, reasons, whos, sents, timers, message_ids,
                         message_partitions, message_offsets) AS u;
END
$$;
COMMENT ON FUNCTION txb.saga_append(uuid[], timestamptz[], int[], timestamptz[], text[], text[], int[], jsonb[], text[],
                                    text[], jsonb[], timestamptz[], uuid[], int[], bigint[]) IS
  'What happened to sagas. 23505: somebody else wrote an event of that number';

CREATE FUNCTION txb.saga_finish(ids uuid[], starts timestamptz[], ats timestamptz[], states text[], outputs jsonb[],
                                reasons text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
BEGIN
  INSERT INTO txb.saga_end (saga_id, started_at, ended_at, state, output, reason)
  SELECT u.* FROM unnest(ids, starts, ats, states, outputs, reasons) AS u;
END
$$;
COMMENT ON FUNCTION txb.saga_finish(uuid[], timestamptz[], timestamptz[], text[], jsonb[], text[]) IS 'Sagas that ended';

CREATE FUNCTION txb.saga_stray_add(message_ids uuid[], partitions int[], offsets bigint[], types text[], keys text[],
                                   reasons text[]) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
  INSERT INTO txb.saga_stray (message_id, message_partition, message_offset, type, key, reason)
  SELECT u.* FROM unnest(message_ids, partitions, offsets, types, keys, reasons) AS u
$$;
COMMENT ON FUNCTION txb.saga_stray_add(uuid[], int[], bigint[], text[], text[], text[]) IS
  'Messages in the coordinator''s topic that belong to no saga';

-- A timer that has been moved to the outbox meanwhile comes, and changes nothing.
CREATE FUNCTION txb.saga_timer_drop(dues timestamptz[], ids uuid[]) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp SET enable_seqscan = off SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
  dropped int;
BEGIN
  DELETE FROM txb.scheduled AS s USING unnest(dues, saga_timer_drop.ids) AS u (due, id)
   WHERE s.due = u.due AND s.id = u.id AND s.type = 'txb.saga.timer';
  GET DIAGNOSTICS dropped = ROW_COUNT;
  RETURN dropped;
END
$$;
COMMENT ON FUNCTION txb.saga_timer_drop(timestamptz[], uuid[]) IS
  'Takes back timers of sagas that ended; returns how many were still there';

-- ---- people --------------------------------------------------------------------------------------------------------

CREATE FUNCTION txb.saga_decide(id uuid, decision text, step text, expected int, reason text, person text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  s record;
  e record;
  seen int;
BEGIN
  IF decision IS NULL OR decision NOT IN ('retry', 'mark_done', 'mark_undone', 'cancel') THEN
    RAISE EXCEPTION 'txb.saga_decide: decision is %, it must be retry, mark_done, mark_undone or cancel',
      coalesce(decision, 'null') USING ERRCODE = '22023';
  ELSIF coalesce(saga_decide.reason, '') = '' THEN
    RAISE EXCEPTION 'txb.saga_decide: a reason is needed' USING ERRCODE = '22023';
  ELSIF (decision = 'cancel') <> (saga_decide.step IS NULL) THEN
    RAISE EXCEPTION 'txb.saga_decide: %', CASE WHEN decision = 'cancel' THEN 'cancel is about the whole saga, not about a step'
                                               ELSE decision || ' needs the name of a step' END USING ERRCODE = '22023';
  END IF;
  SELECT g.id, g.started_at, g.name INTO s FROM txb.saga AS g WHERE g.id = saga_decide.id;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'there is no saga %', saga_decide.id USING ERRCODE = '22023';
  END IF;
  SELECT d.state, d.ended_at INTO e FROM txb.saga_end AS d WHERE d.saga_id = s.id AND d.started_at = s.started_at;
  IF FOUND THEN
    RAISE EXCEPTION 'saga % has ended at %: it is %', s.id, e.ended_at, e.state USING ERRCODE = '55000';
  END IF;
  SELECT coalesce(max(v.n), 0) INTO seen FROM txb.saga_event AS v WHERE v.saga_id = s.id AND v.started_at = s.started_at;
  IF expected <> seen THEN
    RAISE EXCEPTION 'saga % has gone on since: it is at event %, not at %', s.id, seen, expected
      USING ERRCODE = '55000', HINT = 'Look at it again: txbroker saga show.';
  END IF;
  INSERT INTO txb.audit (person, action, filter, matched, changed, reason)
  VALUES (nullif(saga_decide.person, ''), 'saga ' || decision,
          jsonb_strip_nulls(jsonb_build_object('saga', s.id, 'step', saga_decide.step, 'event', seen)), 1, 1, saga_decide.reason);
  RETURN txb.publish((SELECT c.topic FROM txb.saga_coordinator AS c), s.id::text, 'txb.saga.decision',
    jsonb_strip_nulls(jsonb_build_object('decision', decision, 'step', saga_decide.step, 'seen', seen,
      'reason', saga_decide.reason,
      'who', session_user || coalesce(' (' || nullif(saga_decide.person, '') || ')', ''))),
    txb.saga_reference(s.id, s.started_at));
END
$$;
COMMENT ON FUNCTION txb.saga_decide(uuid, text, text, int, text, text) IS
  'Sends a person''s decision to the coordinator; returns the id of that message. expected: the number of the last event '
  'that the person has seen; null: whatever happened since';

-- ---- days ----------------------------------------------------------------------------------------------------------

CREATE FUNCTION txb.saga_partition_make(days_back int, days_ahead int) RETURNS int
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
  SELECT txb.day_partitions_make('saga', days_back, days_ahead, '-infinity')
         + txb.day_partitions_make('saga_event', days_back, days_ahead, '-infinity')
         + txb.day_partitions_make('saga_end', days_back, days_ahead, '-infinity')
$$;
COMMENT ON FUNCTION txb.saga_partition_make(int, int) IS
  'Makes the daily partitions of the sagas'' tables that are missing around today. 55P03: try again. Returns the number made';

REVOKE ALL ON TYPE txb.saga_coordinator, txb.saga_definition, txb.saga, txb.saga_default, txb.saga_start_key,
  txb.saga_event, txb.saga_event_default, txb.saga_end, txb.saga_end_default, txb.saga_stray FROM PUBLIC;
GRANT SELECT ON txb.saga_coordinator, txb.saga_definition, txb.saga, txb.saga_event, txb.saga_end, txb.saga_stray
TO txb_worker, txb_reader;
GRANT EXECUTE ON FUNCTION
  txb.saga_start(text, jsonb, text, interval, text, text),
  txb.saga_result(uuid)
TO txb_app, txb_worker, txb_admin;
GRANT EXECUTE ON FUNCTION txb.saga_id(text, text) TO txb_app, txb_worker, txb_admin, txb_reader;
GRANT EXECUTE ON FUNCTION
  txb.saga_coordinator_set(text),
  txb.saga_begin(uuid[], timestamptz[], text[], int[], text[], jsonb[], bigint[], text[], jsonb[]),
  txb.saga_load(uuid[], timestamptz[]),
  txb.saga_events(uuid[], timestamptz[]),
  txb.saga_append(uuid[], timestamptz[], int[], timestamptz[], text[], text[], int[], jsonb[], text[], text[], jsonb[],
                  timestamptz[], uuid[], int[], bigint[]),
  txb.saga_finish(uuid[], timestamptz[], timestamptz[], text[], jsonb[], text[]),
  txb.saga_stray_add(uuid[], int[], bigint[], text[], text[], text[]),
  txb.saga_timer_drop(timestamptz[], uuid[]),
  txb.saga_partition_make(int, int)
TO txb_worker;
GRANT EXECUTE ON FUNCTION
  txb.saga_deploy(text, int, text, bigint, text, text, text),
  txb.saga_decide(uuid, text, text, int, text, text)
TO txb_admin;

RESET ROLE;
