-- Roles, the schema, and the record of migrations.
--
-- How a migration is run: each file in one transaction of its own, under a lock that keeps a second `init` of this
-- database out. The file does its work as txb_owner (SET LOCAL ROLE) and goes back; the runner then adds the row to
-- txb.schema_migration in the same transaction. A crash leaves a file either applied and recorded, or neither. It takes
-- a superuser, or a role with CREATEROLE and CREATE on the database.
--
-- Roles belong to the whole server, not to a database: a second database finds them there, and two `init` of two
-- databases may run at once. Whoever comes second waits at CREATE ROLE for the first one's commit and then takes the
-- roles as they are.
--
--   txb_owner      owns the schema and what is in it; nobody logs in as it
--   txb_app        publishes: INSERT on the allowed columns of txb.outbox, txb.publish, txb.publish_many, txb.uuid_v7
--   txb_relay      reads the outbox, keeps its position through functions
--   txb_worker     applies messages: inbox, consumer_offset through functions; publishes too, since handlers run as it
--   txb_reader     SELECT on everything, changes nothing
--   txb_admin      txb_reader and the operator's functions
--   txb_retention  owns the table txb.outbox and nothing else: a relay takes this role (SET ROLE) for one statement,
--                  ALTER TABLE txb.outbox DETACH PARTITION ... CONCURRENTLY, which PostgreSQL allows neither inside a
--                  function nor to anybody but the table's owner
--
-- All are NOLOGIN; login roles are made members of them: GRANT txb_app TO shop.

DO $$
DECLARE
  made record;
BEGIN
  FOR made IN
    SELECT * FROM (VALUES
      ('txb_owner', true, 'txbroker: owns the schema txb; nobody logs in as it'),
      ('txb_retention', true,
       'txbroker: owns the table txb.outbox; a relay takes this role to detach a partition, and for nothing else'),
      ('txb_app', true, 'txbroker: may publish intents'),
      -- NOINHERIT: what txb_retention may do is out of a relay's reach until it says SET ROLE.
      ('txb_relay', false, 'txbroker: reads the outbox and keeps its position'),
      ('txb_worker', true, 'txbroker: applies messages'),
      ('txb_reader', true, 'txbroker: may look at everything and change nothing'),
      ('txb_admin', true, 'txbroker: the operator: looks at everything and decides what waits for a person')
    ) AS v(name, inherits, about)
  LOOP
    -- The test lets an init without CREATEROLE pass where the roles are there already.
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.rolname = made.name) THEN
      BEGIN
        EXECUTE format('CREATE ROLE %I NOLOGIN %s', made.name,
                       CASE WHEN made.inherits THEN 'INHERIT' ELSE 'NOINHERIT' END);
        EXECUTE format('COMMENT ON ROLE %I IS %L', made.name, made.about);
      EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL; -- another init has committed it just now
      END;
    END IF;
  END LOOP;
END
$$;

-- Memberships. Where they are as they should be, an init needs no right over the roles; the handler is for two inits at
-- once.
DO $$
DECLARE
  wish record;
  -- Since version 16 who makes a role is its member, but one that can't become it.
  has text := CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END;
BEGIN
  FOR wish IN
    SELECT * FROM (VALUES
      (current_user::text, 'txb_owner'), -- to become the owner in every migration
      ('txb_owner', 'txb_retention'),    -- to attach partitions to the table that txb_retention owns
      ('txb_relay', 'txb_retention'),    -- to detach them
      ('txb_admin', 'txb_reader'),
      ('txb_owner', 'pg_read_all_stats') -- txb.outbox_holders() names the statement that keeps a hole open
    ) AS v(member, role)
  LOOP
    IF pg_catalog.pg_has_role(wish.member::name, wish.role::name, has) THEN
      CONTINUE;
    END IF;
    BEGIN
      EXECUTE format('GRANT %I TO %I', wish.role, wish.member);
    EXCEPTION
      WHEN unique_violation OR internal_error THEN
        IF NOT pg_catalog.pg_has_role(wish.member::name, wish.role::name, has) THEN
          RAISE; -- not the race with another init
        END IF;
      WHEN insufficient_privilege THEN
        IF wish.role <> 'pg_read_all_stats' THEN
          RAISE;
        END IF;
        RAISE WARNING 'txb_owner is not a member of pg_read_all_stats' USING
          DETAIL = 'Status will not show the statements of sessions that keep holes open.',
          HINT = 'A superuser can grant it: GRANT pg_read_all_stats TO txb_owner';
    END;
  END LOOP;
END
$$;

CREATE SCHEMA IF NOT EXISTS txb AUTHORIZATION txb_owner;

SET LOCAL ROLE txb_owner;

COMMENT ON SCHEMA txb IS 'txbroker: transactional outbox and inbox. Changed by migrations only (txbroker init).';
REVOKE ALL ON SCHEMA txb FROM PUBLIC;
GRANT USAGE ON SCHEMA txb TO txb_app, txb_relay, txb_worker, txb_admin, txb_reader, txb_retention;

-- Nothing that a migration or a function of ours makes is open to everybody, not even for the moment between CREATE and
-- REVOKE. PostgreSQL takes away what PUBLIC has by its built-in defaults only where the default is changed for the
-- whole database, not for one schema.
ALTER DEFAULT PRIVILEGES FOR ROLE txb_owner REVOKE ALL ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE txb_owner REVOKE ALL ON TYPES FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE txb_owner REVOKE ALL ON TABLES FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE txb_owner REVOKE ALL ON SEQUENCES FROM PUBLIC;

CREATE TABLE IF NOT EXISTS txb.schema_migration (
  version int CONSTRAINT schema_migration_key PRIMARY KEY,
  name text NOT NULL,
  sha256 text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  applied_by text NOT NULL DEFAULT session_user
);
COMMENT ON TABLE txb.schema_migration IS
  'Which migrations this database has. Programs of another version refuse to work on it.';
COMMENT ON COLUMN txb.schema_migration.version IS 'Number of the file, from 1 on without gaps';
COMMENT ON COLUMN txb.schema_migration.name IS 'Name of the file';
COMMENT ON COLUMN txb.schema_migration.sha256 IS 'Hash of the file as it was applied: a changed file is noticed';
COMMENT ON COLUMN txb.schema_migration.applied_at IS 'When';
COMMENT ON COLUMN txb.schema_migration.applied_by IS 'The login role that ran it';
COMMENT ON CONSTRAINT schema_migration_key ON txb.schema_migration IS 'A migration is applied once';
COMMENT ON INDEX txb.schema_migration_key IS 'A migration is applied once';

REVOKE ALL ON TYPE txb.schema_migration FROM PUBLIC;
-- Every program compares versions when it starts.
GRANT SELECT ON txb.schema_migration TO txb_app, txb_relay, txb_worker, txb_admin, txb_reader;

RESET ROLE;
