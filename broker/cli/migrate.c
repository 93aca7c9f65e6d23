/* Applying the embedded migrations. */
#include "broker/cli/migrate.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "broker/cli/cli.h"
#include "broker/cli/safe_text.h"
#include "cli_sql.h"
#include "common/clock.h"
#include "common/loop.h"
#include "migrations.h"

#define SERVER_VERSION_MIN 140000
#define LOCK_TRIES         50
#define LOCK_PAUSE_US      (100 * 1000)
#define TURN_PAUSE_US      (1000 * 1000) /* for who waited behind a migration that gave way */
#define TELL_US            (3 * 1000 * 1000)
#define TELL_AGAIN_US      (30 * 1000 * 1000)

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)
#define UNSAFE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_SAFETY, __VA_ARGS__)

static const struct txb_pg_statement try_lock_statement = {"cli_migration_try_lock", txb_text_cli_migration_try_lock};
static const struct txb_pg_statement unlock_statement = {"cli_migration_unlock", txb_text_cli_migration_unlock};
static const struct txb_pg_statement lock_statement = {"cli_migration_lock", txb_text_cli_migration_lock};
static const struct txb_pg_statement table_statement = {"cli_migration_table", txb_text_cli_migration_table};
static const struct txb_pg_statement list_statement = {"cli_migration_list", txb_text_cli_migration_list};
static const struct txb_pg_statement hash_statement = {"cli_migration_hash", txb_text_cli_migration_hash};
static const struct txb_pg_statement record_statement = {"cli_migration_record", txb_text_cli_migration_record};
static const struct txb_pg_statement holder_statement = {"cli_migration_holder", txb_text_cli_migration_holder};
static const struct txb_pg_statement target_statement = {"cli_grant_target", txb_text_cli_grant_target};
static const struct txb_pg_statement outbox_statement = {"cli_partition_make", txb_text_cli_partition_make};
static const struct txb_pg_statement inbox_statement = {"cli_inbox_partition_make", txb_text_cli_inbox_partition_make};

static const char *const group_roles[] = {"txb_app", "txb_relay", "txb_worker", "txb_admin", "txb_reader"};

/* "0003_partitions.sql" -> 3 */
static int version_of(const char *name) {
  return (int)strtol(name, NULL, 10);
}

static int program_version(void) {
  int version = 0;
  for (const struct txb_embedded_file *f = txb_migrations_files; f->name != NULL; f++)
    version = version_of(f->name);
  return version;
}

static enum txb_rc hash(struct txb_pg *pg, const struct txb_embedded_file *file, char out[65], struct txb_error *err) {
  struct txb_pg_params params;
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *result = NULL;
  txb_pg_params_init(&params);
  txb_pg_add_bytea(&params, txb_slice_of(file->text, file->size));
  enum txb_rc rc = txb_pg_query(pg, &hash_statement, &params, &result, err);
  txb_pg_params_fini(&params);
  if (rc == TXB_OK)
    (void)snprintf(out, 65, "%s", txb_pg_text(result, 0, 0));
  return rc;
}

/* ---- looking --------------------------------------------------------------------------------------------- */

/* Compares what is recorded with what this program has. */
static enum txb_rc compare(struct txb_pg *pg, struct txb_schema *out, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *rows = NULL;
  TXB_TRY(txb_pg_query(pg, &list_statement, NULL, &rows, err));
  for (int i = 0; i < txb_pg_rows(rows); i++)
    out->version = txb_pg_int4(rows, i, 0);
  out->state = out->version < out->program   ? TXB_SCHEMA_OLDER
               : out->version > out->program ? TXB_SCHEMA_NEWER
                                             : TXB_SCHEMA_CURRENT;
  if (out->state == TXB_SCHEMA_NEWER)
    return TXB_OK;
  const struct txb_embedded_file *file = txb_migrations_files;
  for (int i = 0; i < txb_pg_rows(rows); i++, file++) {
    char mine[65] = "";
    TXB_TRY(hash(pg, file, mine, err));
    if (strcmp(mine, txb_pg_text(rows, i, 2)) == 0)
      continue;
    out->state = TXB_SCHEMA_DIFFERENT;
    (void)snprintf(out->which, sizeof(out->which), "%s", txb_pg_text(rows, i, 1));
    return TXB_OK;
  }
  return TXB_OK;
}

enum txb_rc txb_schema_look(struct txb_pg *pg, struct txb_schema *out, struct txb_error *err) {
  *out = (struct txb_schema){.program = program_version()};
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  TXB_TRY(txb_pg_query(pg, &table_statement, NULL, &row, err));
  out->recovery = txb_pg_bool(row, 0, 2);
  (void)snprintf(out->user, sizeof(out->user), "%s", txb_pg_text(row, 0, 3));
  if (!txb_pg_bool(row, 0, 0)) {
    out->state = TXB_SCHEMA_MISSING;
    return TXB_OK;
  }
  if (!txb_pg_bool(row, 0, 1)) {
    out->state = TXB_SCHEMA_HIDDEN;
    return TXB_OK;
  }
  return compare(pg, out, err);
}

/* What forbids to go on; OLDER and MISSING don't forbid an init. */
static enum txb_rc refuse_state(struct txb_pg *pg, const struct txb_schema *s, bool init, struct txb_error *err) {
  const char *name = txb_pg_name(pg);
  switch (s->state) {
  case TXB_SCHEMA_MISSING:
    return init ? TXB_OK : UNSAFE(err, "%s has no schema txb; make it with `txbroker init --database URI`", name);
  case TXB_SCHEMA_HIDDEN:
    return UNSAFE(err,
                  "%s: user %s has no right on schema txb; an administrator can grant one: `txbroker init --role "
                  "%s=txb_app` (or txb_relay, txb_worker, "
                  "txb_reader)",
                  name, s->user, s->user);
  case TXB_SCHEMA_OLDER:
    return init ? TXB_OK
                : UNSAFE(err,
                         "%s: schema txb has version %d, this program needs %d; migrate it with `txbroker init "
                         "--database URI`",
                         name, s->version, s->program);
  case TXB_SCHEMA_CURRENT:
    return TXB_OK;
  case TXB_SCHEMA_NEWER:
    return UNSAFE(
        err,
        "%s: schema txb has version %d, made by a newer txbroker; this program knows only %d: install the newer one",
        name, s->version, s->program);
  case TXB_SCHEMA_DIFFERENT:
    return UNSAFE(err,
                  "%s: migration %s was applied in another form than this program has: it belongs to another build; "
                  "nothing was changed",
                  name, s->which);
  }
  return TXB_OK;
}

enum txb_rc txb_schema_need(struct txb_pg *pg, struct txb_error *err) {
  struct txb_schema schema;
  TXB_TRY(txb_schema_look(pg, &schema, err));
  return refuse_state(pg, &schema, false, err);
}

/* ---- applying -------------------------------------------------------------------------------------------- */

static enum txb_rc record(struct txb_pg *pg, const struct txb_embedded_file *file, struct txb_error *err) {
  char mine[65] = "";
  TXB_TRY(hash(pg, file, mine, err));
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_int4(&params, version_of(file->name));
  txb_pg_add_text(&params, txb_slice_text(file->name));
  txb_pg_add_text(&params, txb_slice_text(mine));
  enum txb_rc rc = txb_pg_query(pg, &record_statement, &params, NULL, err);
  txb_pg_params_fini(&params);
  return rc;
}

static enum txb_rc apply_inside(struct txb_pg *pg, const struct txb_embedded_file *file, struct txb_error *err) {
  TXB_TRY(txb_pg_script(pg, file->text, err));
  TXB_TRY(record(pg, file, err));
  return txb_pg_script(pg, "COMMIT", err);
}

/* One migration in one transaction. A crash before its COMMIT leaves nothing of it; after it, it is recorded. */
static enum txb_rc apply_once(struct txb_pg *pg, const struct txb_embedded_file *file, struct txb_error *err) {
  /* What a migration names is the server's own, whatever somebody has made in schema public: init runs as a superuser,
   * and what is bound here is called with the rights of txb_owner ever after. */
  TXB_TRY(
      txb_pg_script(pg, "BEGIN; SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL lock_timeout = '200ms'", err));
  enum txb_rc rc = apply_inside(pg, file, err);
  if (rc == TXB_OK)
    return TXB_OK;
  struct txb_error ignored;
  if (txb_pg_is_usable(pg) && txb_pg_script(pg, "ROLLBACK", &ignored) != TXB_OK)
    rc = err->rc; /* the connection is gone, and the transaction with it */
  if (strcmp(err->sqlstate, "42501") == 0)
    (void)txb_error_prefix(
        err,
        "init needs a user that may create roles and schemas (a superuser, or CREATEROLE and CREATE on the database)");
  (void)txb_error_prefix(err, "migration %s", file->name);
  return rc;
}

static enum txb_rc tell_holder(struct txb_pg *pg, const struct txb_embedded_file *file, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  TXB_TRY(txb_pg_query(pg, &holder_statement, NULL, &row, err));
  if (txb_pg_rows(row) == 0) {
    txb_say("%s: migration %s waits for its turn at locks that others have", txb_pg_name(pg), file->name);
    return TXB_OK;
  }
  char pid[100] = "roll it back, or commit it";
  TXB_CLEANUP(txb_buffer_fini) struct txb_buffer who = {0};
  txb_safe_add(&who, txb_slice_text(txb_pg_text(row, 0, 0)), 0, TXB_SAFE_LINE);
  TXB_TRY(txb_buffer_check(&who, err));
  if (txb_pg_int4(row, 0, 1) != 0)
    (void)snprintf(pid, sizeof(pid), "end its transaction, or SELECT pg_terminate_backend(%d)", txb_pg_int4(row, 0, 1));
  txb_say(
      "%s: migration %s waits for a lock; the longest has one %s: %s. Nobody waits behind this; it goes on by itself",
      txb_pg_name(pg), file->name, txb_buffer_text(&who), pid);
  return TXB_OK;
}

/* A migration that waits for a lock on a table has everybody wait behind it who comes to the table. So it waits for a
 * moment only, leaves nothing, lets them through and begins again, as long as it takes. */
static enum txb_rc apply(struct txb_pg *pg, const struct txb_embedded_file *file, struct txb_error *err) {
  int64_t tell_us = txb_clock_steady_us() + TELL_US;
  for (;;) {
    enum txb_rc rc = apply_once(pg, file, err);
    if (rc == TXB_OK || !txb_pg_is_usable(pg))
      return rc;
    if (strcmp(err->sqlstate, "55P03") != 0 && strcmp(err->sqlstate, "40P01") != 0)
      return rc;
    *err = (struct txb_error){.rc = TXB_OK};
    if (txb_clock_steady_us() >= tell_us) {
      TXB_TRY(tell_holder(pg, file, err));
      tell_us = txb_clock_steady_us() + TELL_AGAIN_US;
    }
    (void)txb_pause(-1, TURN_PAUSE_US);
  }
}

/* Calls a function that makes partitions until it has nothing left to make; its short lock_timeout makes it give way
 * to publishers. */
static enum txb_rc make_partitions(struct txb_pg *pg, const struct txb_pg_statement *statement,
                                   const struct txb_pg_params *params, int *made_out, struct txb_error *err) {
  int tries = 0, total = 0;
  for (;;) {
    TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
    enum txb_rc rc = txb_pg_query(pg, statement, params, &row, err);
    if (rc == TXB_RETRY && txb_pg_is_usable(pg) && tries++ < LOCK_TRIES) {
      (void)txb_pause(-1, LOCK_PAUSE_US);
      continue;
    }
    TXB_TRY(rc);
    int made = txb_pg_int4(row, 0, 0);
    total += made;
    if (made == 0)
      break;
  }
  *made_out = total;
  return TXB_OK;
}

static enum txb_rc first_partitions(struct txb_pg *pg, const struct txb_migrate_options *options, json_t *report,
                                    struct txb_error *err) {
  struct txb_pg_params params;
  int made = 0;
  txb_pg_params_init(&params);
  txb_pg_add_int8(&params, options->partition_rows);
  txb_pg_add_int4(&params, options->partitions_ahead);
  enum txb_rc rc = make_partitions(pg, &outbox_statement, &params, &made, err);
  txb_pg_params_fini(&params);
  if (rc != TXB_OK)
    return txb_error_prefix(err, "partitions of txb.outbox");
  (void)json_object_set_new(report, "partitions", json_integer(made));
  if (make_partitions(pg, &inbox_statement, NULL, &made, err) != TXB_OK)
    return txb_error_prefix(err, "partitions of txb.inbox");
  (void)json_object_set_new(report, "inbox_partitions", json_integer(made));
  return TXB_OK;
}

/* ---- roles ----------------------------------------------------------------------------------------------- */

static bool is_group_role(const char *name) {
  for (size_t i = 0; i < TXB_ARRAY_SIZE(group_roles); i++)
    if (strcmp(group_roles[i], name) == 0)
      return true;
  return false;
}

static enum txb_rc grant_inside(struct txb_pg *pg, const char *user, const char *role, bool *changed,
                                struct txb_error *err) {
  struct txb_pg_params params;
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text(user));
  txb_pg_add_text(&params, txb_slice_text(role));
  enum txb_rc rc = txb_pg_query(pg, &target_statement, &params, &row, err);
  txb_pg_params_fini(&params);
  TXB_TRY(rc);
  if (!txb_pg_bool(row, 0, 0))
    return REFUSE(err, "--role %s=%s: the server has no user \"%s\"; make it with CREATE ROLE ... LOGIN", user, role,
                  user);
  *changed = !txb_pg_bool(row, 0, 1);
  if (*changed)
    TXB_TRY(txb_pg_script(pg, txb_text_cli_grant, err));
  return txb_pg_script(pg, "COMMIT", err);
}

static enum txb_rc grant(struct txb_pg *pg, const char *wish, json_t *granted, struct txb_error *err) {
  char user[64] = "";
  const char *equals = strrchr(wish, '=');
  if (equals == NULL || equals == wish || (size_t)(equals - wish) >= sizeof(user) || !is_group_role(equals + 1))
    return REFUSE(
        err, "--role %s: must be USER=ROLE, ROLE one of txb_app, txb_relay, txb_worker, txb_admin, txb_reader", wish);
  memcpy(user, wish, (size_t)(equals - wish));
  bool changed = false;
  TXB_TRY(txb_pg_script(pg, "BEGIN", err));
  enum txb_rc rc = grant_inside(pg, user, equals + 1, &changed, err);
  struct txb_error ignored;
  if (rc != TXB_OK && txb_pg_is_usable(pg) && txb_pg_script(pg, "ROLLBACK", &ignored) != TXB_OK)
    rc = err->rc;
  if (rc == TXB_OK && changed)
    (void)json_array_append_new(granted, json_string(wish));
  return rc;
}

static enum txb_rc migrate_locked(struct txb_pg *pg, const struct txb_migrate_options *options, json_t *report,
                                  struct txb_error *err) {
  struct txb_schema schema;
  TXB_TRY(txb_schema_look(pg, &schema, err));
  if (schema.recovery)
    return UNSAFE(err, "%s is a standby: run init on its primary", txb_pg_name(pg));
  TXB_TRY(refuse_state(pg, &schema, true, err));
  json_t *applied = json_array(), *granted = json_array();
  (void)json_object_set_new(report, "version", json_integer(schema.program));
  (void)json_object_set_new(report, "applied", applied);
  (void)json_object_set_new(report, "granted", granted);
  for (const struct txb_embedded_file *f = txb_migrations_files; f->name != NULL; f++) {
    if (version_of(f->name) <= schema.version)
      continue;
    TXB_TRY(apply(pg, f, err));
    (void)json_array_append_new(applied, json_string(f->name));
  }
  TXB_TRY(first_partitions(pg, options, report, err));
  for (const char *const *wish = options->grants; wish != NULL && *wish != NULL; wish++)
    TXB_TRY(grant(pg, *wish, granted, err));
  return TXB_OK;
}

/* Waits as long as it takes, but says so. */
static enum txb_rc lock(struct txb_pg *pg, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  TXB_TRY(txb_pg_query(pg, &try_lock_statement, NULL, &row, err));
  if (txb_pg_bool(row, 0, 0))
    return TXB_OK;
  txb_say("%s: another init is under way; waiting for its end", txb_pg_name(pg));
  return txb_pg_query(pg, &lock_statement, NULL, NULL, err);
}

enum txb_rc txb_migrate(struct txb_pg *pg, const struct txb_migrate_options *options, json_t *report,
                        struct txb_error *err) {
  int version = txb_pg_server_version(pg);
  if (version < SERVER_VERSION_MIN)
    return UNSAFE(err, "%s is PostgreSQL %d; txbroker needs 14 or newer", txb_pg_name(pg), version / 10000);
  /* The lock ends with the session at the latest: a crashed init keeps nobody out. */
  TXB_TRY(lock(pg, err));
  enum txb_rc rc = migrate_locked(pg, options, report, err);
  if (rc == TXB_OK)
    return txb_pg_query(pg, &unlock_statement, NULL, NULL, err);
  struct txb_error ignored;
  if (txb_pg_is_usable(pg) && txb_pg_query(pg, &unlock_statement, NULL, NULL, &ignored) != TXB_OK)
    rc = err->rc; /* the connection is gone, and the lock with it */
  return rc;
}
