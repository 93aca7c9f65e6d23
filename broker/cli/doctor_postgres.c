/* doctor: what one database says. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "broker/cli/doctor.h"
#include "broker/cli/migrate.h"
#include "broker/cli/targets.h"
#include "cli_sql.h"

#define SERVER_VERSION_MIN 140000
#define CONNECTIONS_WANTED 5 /* a relay and a worker take two each, an operator one */

static const struct txb_pg_statement database_statement = {"cli_doctor_database", txb_text_cli_doctor_database};
static const struct txb_pg_statement jobs_statement = {"cli_doctor_jobs", txb_text_cli_doctor_jobs};
static const struct txb_pg_statement roles_statement = {"cli_doctor_roles", txb_text_cli_doctor_roles};
static const struct txb_pg_statement partitions_statement = {"cli_doctor_partitions", txb_text_cli_doctor_partitions};
static const struct txb_pg_statement sources_statement = {"cli_doctor_sources", txb_text_cli_doctor_sources};
static const struct txb_pg_statement topics_statement = {"cli_doctor_topics", txb_text_cli_doctor_topics};
static const struct txb_pg_statement prepared_statement = {"cli_doctor_prepared", txb_text_cli_doctor_prepared};
static const struct txb_pg_statement idle_statement = {"cli_doctor_idle", txb_text_cli_doctor_idle};
static const struct txb_pg_statement served_statement = {"cli_doctor_served", txb_text_cli_doctor_served};

/* ---- the server ------------------------------------------------------------------------------------------ */

static void check_durability(struct txb_doctor *d, const char *of, const char *synchronous, const char *fsync,
                             const char *pages, bool source) {
  if (strcmp(fsync, "on") != 0 || strcmp(pages, "on") != 0)
    txb_doctor_add(d, TXB_HEALTH_WARN, "durability", of, "set fsync and full_page_writes to on where money is kept",
                   "fsync is %s, full_page_writes is %s: a crash of the machine can lose or damage what was committed",
                   fsync, pages);
  else if (source && strcmp(synchronous, "off") == 0 && !d->cli->settings.relay.wait_flush)
    txb_doctor_add(d, TXB_HEALTH_WARN, "durability", of, "set relay.wait_flush to true, or synchronous_commit to on",
                   "synchronous_commit is off: a commit can be published and then be lost by a crash of the server");
  else
    txb_doctor_add(d, TXB_HEALTH_OK, "durability", of, NULL, "synchronous_commit is %s", synchronous);
}

static enum txb_rc check_server(struct txb_doctor *d, struct txb_pg *pg, bool source, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  const char *of = txb_pg_name(pg);
  int version = txb_pg_server_version(pg);
  TXB_TRY(txb_pg_query(pg, &database_statement, NULL, &row, err));
  if (version < SERVER_VERSION_MIN)
    txb_doctor_add(d, TXB_HEALTH_FAIL, "server version", of, "upgrade the server to PostgreSQL 14 or newer",
                   "PostgreSQL %d", version / 10000);
  else
    txb_doctor_add(d, TXB_HEALTH_OK, "server version", of, NULL, "PostgreSQL %d.%d", version / 10000, version % 10000);
  if (txb_pg_bool(row, 0, 2))
    txb_doctor_add(d, TXB_HEALTH_FAIL, "primary", of,
                   "point the connection string at the primary, or add target_session_attrs=read-write",
                   "the server is a standby: it takes no writes");
  else if (txb_pg_bool(row, 0, 9)) /* of the user, of the database or of the connection string */
    txb_doctor_add(d, TXB_HEALTH_FAIL, "primary", of,
                   "set default_transaction_read_only to off for this user and database (ALTER ROLE, ALTER DATABASE)",
                   "the server takes writes, but transactions of user %s are read-only", txb_pg_text(row, 0, 0));
  else
    txb_doctor_add(d, TXB_HEALTH_OK, "primary", of, NULL, "takes writes");
  int32_t max = txb_pg_int4(row, 0, 3) - txb_pg_int4(row, 0, 4), used = txb_pg_int4(row, 0, 5);
  txb_doctor_add(d, max - used < CONNECTIONS_WANTED ? TXB_HEALTH_WARN : TXB_HEALTH_OK, "connections", of,
                 max - used < CONNECTIONS_WANTED ? "raise max_connections, or close what is not used" : NULL,
                 "%d of %d are in use", (int)used, (int)max);
  check_durability(d, of, txb_pg_text(row, 0, 6), txb_pg_text(row, 0, 7), txb_pg_text(row, 0, 8), source);
  return TXB_OK;
}

static enum txb_rc check_transactions(struct txb_doctor *d, struct txb_pg *pg, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *prepared = NULL;
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *idle = NULL;
  const char *of = txb_pg_name(pg);
  char age[24];
  TXB_TRY(txb_pg_query(pg, &prepared_statement, NULL, &prepared, err));
  TXB_TRY(txb_pg_query(pg, &idle_statement, NULL, &idle, err));
  int64_t count = txb_pg_int8(prepared, 0, 0);
  if (count > 0) {
    txb_format_age(txb_pg_int8(prepared, 0, 2), age);
    txb_doctor_add(d, TXB_HEALTH_WARN, "prepared transactions", of,
                   "decide them with COMMIT PREPARED or ROLLBACK PREPARED",
                   "%" PRId64 " in doubt, the oldest for %s (%s): their intents stay holes, their rows stay locked",
                   count, age, txb_pg_text(prepared, 0, 1));
  } else {
    txb_doctor_add(d, TXB_HEALTH_OK, "prepared transactions", of, NULL, "none in doubt");
  }
  if (txb_pg_rows(idle) > 0) {
    txb_format_age(txb_pg_int8(idle, 0, 2), age);
    txb_doctor_add(d, TXB_HEALTH_WARN, "idle transactions", of,
                   "end it: SELECT pg_terminate_backend(pid); set idle_in_transaction_session_timeout",
                   "session %d (%s) is idle in a transaction for %s: VACUUM waits for it", (int)txb_pg_int4(idle, 0, 0),
                   txb_pg_text(idle, 0, 1), age);
  } else {
    txb_doctor_add(d, TXB_HEALTH_OK, "idle transactions", of, NULL, "none for longer than a minute");
  }
  return TXB_OK;
}

/* ---- schema and rights ----------------------------------------------------------------------------------- */

/* True when the other checks of schema txb can be made. */
static bool check_schema(struct txb_doctor *d, struct txb_pg *pg, const struct txb_schema *schema) {
  const char *of = txb_pg_name(pg), *check = "schema";
  switch (schema->state) {
  case TXB_SCHEMA_MISSING:
    txb_doctor_add(d, TXB_HEALTH_FAIL, check, of, "txbroker init --database URI", "there is no schema txb");
    return false;
  case TXB_SCHEMA_HIDDEN:
    txb_doctor_add(d, TXB_HEALTH_FAIL, check, of,
                   "txbroker init --role USER=txb_relay (or txb_worker, txb_app, txb_reader), as an administrator",
                   "user %s has no right on schema txb", schema->user);
    return false;
  case TXB_SCHEMA_OLDER:
    txb_doctor_add(d, TXB_HEALTH_FAIL, check, of, "txbroker init --database URI", "version %d, this program needs %d",
                   schema->version, schema->program);
    return false;
  case TXB_SCHEMA_NEWER:
    txb_doctor_add(d, TXB_HEALTH_FAIL, check, of, "install the newer txbroker",
                   "version %d, this program knows only %d", schema->version, schema->program);
    return false;
  case TXB_SCHEMA_DIFFERENT:
    txb_doctor_add(d, TXB_HEALTH_FAIL, check, of, "use the build that made it, or restore the database",
                   "migration %s was applied in another form", schema->which);
    return false;
  case TXB_SCHEMA_CURRENT:
    txb_doctor_add(d, TXB_HEALTH_OK, check, of, NULL, "version %d", schema->version);
    return true;
  }
  return false;
}

static bool only_looks(const struct txb_pg_result *roles) {
  return txb_pg_bool(roles, 0, 5) && !txb_pg_bool(roles, 0, 0) && !txb_pg_bool(roles, 0, 1);
}

bool txb_doctor_only_looks(struct txb_pg *pg) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  struct txb_error ignored;
  return txb_pg_is_usable(pg) && txb_pg_query(pg, &roles_statement, NULL, &row, &ignored) == TXB_OK && only_looks(row);
}

static void check_role(struct txb_doctor *d, const char *of, const char *user, const char *role, const char *what,
                       bool has, bool looks) {
  struct txb_buffer remedy;
  txb_buffer_init(&remedy);
  txb_buffer_addf(&remedy, "txbroker init --role %s=%s", user, role);
  if (has)
    txb_doctor_add(d, TXB_HEALTH_OK, "permission", of, NULL, "user %s may %s (%s)", user, what, role);
  else if (looks)
    txb_doctor_add(d, TXB_HEALTH_WARN, "permission", of, "run doctor as the user who does that, to check its rights",
                   "user %s only looks, it may not %s (%s)", user, what, role);
  else
    txb_doctor_add(d, TXB_HEALTH_FAIL, "permission", of, txb_buffer_text(&remedy),
                   "user %s may not %s: it is not in %s", user, what, role);
  txb_buffer_fini(&remedy);
}

/* ---- sources --------------------------------------------------------------------------------------------- */

static enum txb_rc check_partitions(struct txb_doctor *d, struct txb_pg *pg, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  TXB_TRY(txb_pg_query(pg, &partitions_statement, NULL, &row, err));
  int32_t ahead = txb_pg_int4(row, 0, 0);
  int64_t wanted = d->cli->settings.relay.partitions_ahead;
  enum txb_health health = ahead < 1 ? TXB_HEALTH_FAIL : ahead < wanted / 4 ? TXB_HEALTH_WARN : TXB_HEALTH_OK;
  txb_doctor_add(d, health, "outbox partitions", txb_pg_name(pg),
                 health == TXB_HEALTH_OK ? NULL : "run a relay, which makes them, or txbroker init now",
                 "%d empty ones are ready%s", (int)ahead,
                 ahead < 1 ? ": publishing fails when the current one is full" : "");
  return TXB_OK;
}

static void check_source(struct txb_doctor *d, const struct txb_pg_result *rows, int i) {
  const char *source = txb_pg_text(rows, i, 0), *state = txb_pg_text(rows, i, 1), *error = txb_pg_text(rows, i, 4);
  int64_t highest = txb_pg_int8(rows, i, 2), drawn = txb_pg_int8(rows, i, 3), holds = txb_pg_int8(rows, i, 6);
  bool expired = txb_pg_bool(rows, i, 5);
  if (drawn < highest)
    txb_doctor_add(d, TXB_HEALTH_FAIL, "sequence", source,
                   "this server lost commits (restored from a backup, failed over); see docs/guides/operating.md "
                   "before relaying on",
                   "the sequence of txb.outbox stands at %" PRId64 ", behind the position %" PRId64
                   " up to which intents were published",
                   drawn, highest);
  else
    txb_doctor_add(d, TXB_HEALTH_OK, "sequence", source, NULL, "at %" PRId64 ", position %" PRId64, drawn, highest);
  if (strcmp(state, "stopped") == 0)
    txb_doctor_add(d, TXB_HEALTH_FAIL, "relay", source, "remove the cause, then start the relay again", "stopped: %s",
                   error == NULL ? "no reason given" : error);
  else if (strcmp(state, "running") != 0 || expired)
    txb_doctor_add(d, TXB_HEALTH_WARN, "relay", source, "start `txbroker relay` or `txbroker run`",
                   "no relay holds this source");
  else
    txb_doctor_add(d, TXB_HEALTH_OK, "relay", source, NULL, "running");
  if (holds > 0)
    txb_doctor_add(d, TXB_HEALTH_WARN, "held intents", source,
                   "`txbroker status` shows them; a missing topic is noticed when it was made",
                   "%" PRId64 " topics or keys are held: %s", holds, txb_pg_text(rows, i, 7));
}

static enum txb_rc check_sources(struct txb_doctor *d, struct txb_pg *pg, const struct txb_status_target *target,
                                 struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *rows = NULL;
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *topics = NULL;
  TXB_TRY(check_partitions(d, pg, err));
  TXB_TRY(txb_pg_query(pg, &sources_statement, NULL, &rows, err));
  for (int i = 0; i < txb_pg_rows(rows); i++)
    check_source(d, rows, i);
  for (size_t s = 0; s < target->source_count; s++) {
    bool found = false;
    for (int i = 0; i < txb_pg_rows(rows); i++)
      found = found || strcmp(txb_pg_text(rows, i, 0), target->sources[s]) == 0;
    if (!found)
      txb_doctor_add(d, TXB_HEALTH_WARN, "relay", target->sources[s], "start `txbroker relay` or `txbroker run`",
                     "this source was never relayed");
  }
  TXB_TRY(txb_pg_query(pg, &topics_statement, NULL, &topics, err));
  for (int i = 0; i < txb_pg_rows(topics); i++)
    (void)json_object_set_new(d->topics, txb_pg_text(topics, i, 0), json_string(txb_pg_name(pg)));
  return TXB_OK;
}

/* Lanes of replay jobs that nobody serves, or that say why they don't go on. */
static enum txb_rc check_jobs(struct txb_doctor *d, struct txb_pg *pg, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *rows = NULL;
  TXB_TRY(txb_pg_query(pg, &jobs_statement, NULL, &rows, err));
  for (int i = 0; i < txb_pg_rows(rows); i++) {
    char of[300];
    const char *error = txb_pg_text(rows, i, 2);
    (void)snprintf(of, sizeof(of), "job %" PRId64 ", %.200s", txb_pg_int8(rows, i, 0), txb_pg_text(rows, i, 1));
    if (error != NULL)
      txb_doctor_add(d, TXB_HEALTH_WARN, "replay", of, "remove the cause; it is tried again by itself", "%s", error);
    else if (!txb_pg_bool(rows, i, 3))
      txb_doctor_add(d, TXB_HEALTH_WARN, "replay", of, "start `txbroker worker` or `txbroker run`",
                     "no worker of group %s serves it", txb_pg_text(rows, i, 4));
    else
      txb_doctor_add(d, TXB_HEALTH_OK, "replay", of, NULL, "served by a worker");
  }
  return TXB_OK;
}

static enum txb_rc served(struct txb_pg *pg, const char *group, struct txb_pg_result **row_out, struct txb_error *err) {
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text(group));
  enum txb_rc rc = txb_pg_query(pg, &served_statement, &params, row_out, err);
  txb_pg_params_fini(&params);
  return rc;
}

/* The last worker that began has told its topic: that one is in force, whatever is configured now. */
static void check_in_force(struct txb_doctor *d, const struct txb_group_settings *group,
                           const struct txb_pg_result *row) {
  const char *wanted = group->retry_dead_letter_topic, *used = txb_pg_text(row, 0, 1), *since = txb_pg_text(row, 0, 2);
  if (wanted == used || (wanted != NULL && used != NULL && strcmp(wanted, used) == 0))
    return;
  txb_doctor_add(d, TXB_HEALTH_WARN, "dead letters in force", group->group,
                 "restart the group's workers with this configuration, all of them",
                 "dead messages are copied to %s%s%s; configured is %s", used != NULL ? used : "no topic",
                 since != NULL ? ", as a worker told at " : "", since != NULL ? since : "",
                 wanted != NULL ? wanted : "none");
}

/* A group's dead messages are copied through this database's outbox. */
static enum txb_rc check_dead_letters(struct txb_doctor *d, struct txb_pg *pg, const struct txb_status_target *target,
                                      struct txb_error *err) {
  const struct txb_settings *s = &d->cli->settings;
  for (size_t i = 0; i < s->workers.count; i++) {
    TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
    const struct txb_group_settings *group = txb_settings_group(s, i);
    if (strcmp(group->database, target->uri) != 0)
      continue;
    TXB_TRY(served(pg, group->group, &row, err));
    check_in_force(d, group, row);
    if (group->retry_dead_letter_topic == NULL)
      continue;
    (void)json_object_set_new(d->topics, group->retry_dead_letter_topic, json_string(group->group));
    if (txb_pg_bool(row, 0, 0))
      txb_doctor_add(d, TXB_HEALTH_OK, "dead letters", group->group, NULL, "copied to %s",
                     group->retry_dead_letter_topic);
    else
      txb_doctor_add(d, TXB_HEALTH_WARN, "dead letters", group->group,
                     "add the group's database to sources, and start `txbroker relay` or `txbroker run`",
                     "no relay has ever served %s: copies for %s stay in its outbox", txb_pg_name(pg),
                     group->retry_dead_letter_topic);
  }
  return TXB_OK;
}

static enum txb_rc check_txb(struct txb_doctor *d, struct txb_pg *pg, const struct txb_status_target *target,
                             struct txb_error *err) {
  struct txb_schema schema;
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  TXB_TRY(txb_schema_look(pg, &schema, err));
  if (!check_schema(d, pg, &schema))
    return TXB_REFUSED;
  TXB_TRY(txb_pg_query(pg, &roles_statement, NULL, &row, err));
  bool relay = txb_pg_bool(row, 0, 0), worker = txb_pg_bool(row, 0, 1);
  if (target->source_count > 0)
    check_role(d, txb_pg_name(pg), schema.user, "txb_relay", "relay", relay, only_looks(row));
  if (target->worker)
    check_role(d, txb_pg_name(pg), schema.user, "txb_worker", "work", worker, only_looks(row));
  if (target->source_count > 0 && txb_pg_bool(row, 0, 2) && txb_pg_bool(row, 0, 4))
    TXB_TRY(check_sources(d, pg, target, err));
  if (target->worker && (worker || relay || txb_pg_bool(row, 0, 5))) /* who may ask for it */
    TXB_TRY(check_dead_letters(d, pg, target, err));
  if (target->worker && (worker || txb_pg_bool(row, 0, 5)))
    TXB_TRY(txb_doctor_sagas(d, pg, target->uri, err));
  return target->groups && txb_pg_bool(row, 0, 6) ? check_jobs(d, pg, err) : TXB_OK;
}

void txb_doctor_database(struct txb_doctor *d, const struct txb_status_target *target, struct txb_pg **pg_out) {
  struct txb_error err = {.rc = TXB_OK};
  struct txb_pg *pg = NULL;
  char name[300];
  txb_pg_describe_uri(target->uri, name, sizeof(name));
  *pg_out = NULL;
  if (txb_target_connect(d->cli, target->uri, d->timeout_ms, &pg, &err) != TXB_OK) {
    txb_doctor_add_error(d, "connection", name, &err);
    return;
  }
  txb_doctor_add(d, TXB_HEALTH_OK, "connection", txb_pg_name(pg), NULL, "reached");
  enum txb_rc rc = check_server(d, pg, target->source_count > 0, &err);
  if (rc == TXB_OK)
    rc = check_transactions(d, pg, &err);
  if (rc == TXB_OK)
    rc = check_txb(d, pg, target, &err);
  if (rc == TXB_OK) {
    *pg_out = pg;
    return;
  }
  if (err.rc != TXB_OK)
    txb_doctor_add_error(d, "questions", txb_pg_name(pg), &err);
  txb_pg_close(pg);
}
