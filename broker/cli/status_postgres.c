/* status: what the databases say. */
#include <string.h>

#include "broker/cli/failed.h"
#include "broker/cli/status.h"
#include "cli_sql.h"

static const struct txb_pg_statement rights_statement = {"cli_status_rights", txb_text_cli_status_rights};
static const struct txb_pg_statement sources_statement = {"cli_status_sources", txb_text_cli_status_sources};
static const struct txb_pg_statement outbox_statement = {"cli_status_outbox", txb_text_cli_status_outbox};
static const struct txb_pg_statement holders_statement = {"cli_status_holders", txb_text_cli_status_holders};
static const struct txb_pg_statement holds_statement = {"cli_status_holds", txb_text_cli_status_holds};
static const struct txb_pg_statement failed_statement = {"cli_status_failed", txb_text_cli_status_failed};
static const struct txb_pg_statement failed_key_statement = {"cli_status_failed_key", txb_text_cli_status_failed_key};
static const struct txb_pg_statement jobs_statement = {"cli_status_jobs", txb_text_cli_status_jobs};
static const struct txb_pg_statement failed_jobs_statement = {"cli_status_failed_jobs",
                                                              txb_text_cli_status_failed_jobs};
static const struct txb_pg_statement groups_statement = {"cli_status_groups", txb_text_cli_status_groups};

/* ---- cells to JSON --------------------------------------------------------------------------------------- */

struct cells {
  const struct txb_pg_result *rows;
  int row, column;
};

static void put(json_t *object, const char *name, json_t *value) {
  (void)json_object_set_new(object, name, value == NULL ? json_null() : value);
}

static void put_int8(json_t *object, const char *name, struct cells *c) {
  bool null = txb_pg_is_null(c->rows, c->row, c->column);
  put(object, name, null ? NULL : json_integer(txb_pg_int8(c->rows, c->row, c->column)));
  c->column++;
}

static void put_int4(json_t *object, const char *name, struct cells *c) {
  bool null = txb_pg_is_null(c->rows, c->row, c->column);
  put(object, name, null ? NULL : json_integer(txb_pg_int4(c->rows, c->row, c->column)));
  c->column++;
}

static void put_text(json_t *object, const char *name, struct cells *c) {
  const char *text = txb_pg_text(c->rows, c->row, c->column);
  put(object, name, text == NULL ? NULL : json_string(text));
  c->column++;
}

static void put_bool(json_t *object, const char *name, struct cells *c) {
  put(object, name, json_boolean(txb_pg_bool(c->rows, c->row, c->column)));
  c->column++;
}

static void put_jsonb(json_t *object, const char *name, struct cells *c) {
  struct txb_slice text = txb_pg_jsonb(c->rows, c->row, c->column++);
  json_error_t ignored;
  put(object, name, text.data == NULL ? NULL : json_loadb(text.data, text.size, JSON_DECODE_ANY, &ignored));
}

/* ---- sources --------------------------------------------------------------------------------------------- */

/* Who may fill a hole now, for a source whose relay does not say. */
static enum txb_rc live_holders(struct txb_pg *pg, json_t **out, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *rows = NULL;
  TXB_TRY(txb_pg_query(pg, &holders_statement, NULL, &rows, err));
  json_t *list = json_array();
  for (int i = 0; i < txb_pg_rows(rows); i++) {
    json_t *holder = json_object();
    struct cells c = {rows, i, 0};
    put_int4(holder, "pid", &c);
    put_text(holder, "gid", &c);
    put_text(holder, "user", &c);
    put_text(holder, "application", &c);
    put_text(holder, "state", &c);
    put_text(holder, "query", &c);
    put_int8(holder, "transaction_age_ms", &c);
    put_int8(holder, "query_age_ms", &c);
    (void)json_array_append_new(list, holder);
  }
  *out = list;
  return TXB_OK;
}

static json_t *source_of_row(const struct txb_pg_result *rows, int row, const char *database) {
  json_t *source = json_object(), *hole = json_object();
  struct cells c = {rows, row, 0};
  put_text(source, "source", &c);
  put(source, "database", json_string(database));
  put_text(source, "state", &c);
  put_text(source, "owner", &c);
  put_int8(source, "epoch", &c);
  put_int8(source, "lease_left_ms", &c);
  put_text(source, "lane", &c);
  put_int8(source, "sequence", &c);
  put_int8(source, "highest", &c);
  put_int8(source, "watermark", &c);
  put_int8(source, "published", &c);
  put_int8(source, "checkpoint", &c);
  put_int8(source, "holes", &c);
  put_int8(hole, "seq", &c);
  put_int8(hole, "age_ms", &c);
  put_jsonb(hole, "holders", &c);
  put_text(source, "last_error", &c);
  put_int8(source, "refused", &c);
  put_int8(source, "scheduled", &c);
  put_int4(source, "partitions_ahead", &c);
  put_int8(hole, "lowest", &c);
  put_int8(source, "updated_age_ms", &c);
  json_int_t drawn = json_integer_value(json_object_get(source, "sequence")),
             highest = json_integer_value(json_object_get(source, "highest"));
  json_int_t holes = json_integer_value(json_object_get(source, "holes"));
  put(source, "backlog", json_integer((drawn > highest ? drawn - highest : 0) + holes));
  if (drawn < highest) {
    /* Never a silence: the server lost what was published (restored from a backup, or failed over to a standby that
     * was behind). */
    put(source, "alarm",
        json_sprintf("the sequence of txb.outbox stands at %" JSON_INTEGER_FORMAT
                     ", behind the relay's position %" JSON_INTEGER_FORMAT
                     ": this database was restored or lost commits in a failover",
                     drawn, highest));
  }
  put(source, "oldest_hole", hole);
  put(source, "holds", json_array());
  put(source, "failed_messages", NULL);
  return source;
}

/* The relay writes down the oldest hole when it is older than a second; without a running relay the lowest stored one
 * counts, with whoever is there. */
static enum txb_rc settle_hole(struct txb_pg *pg, json_t *source, bool may_list, struct txb_error *err) {
  json_t *hole = json_object_get(source, "oldest_hole"), *lowest = json_object_get(hole, "lowest");
  if (json_is_null(json_object_get(hole, "seq")) && json_is_integer(lowest) && may_list) {
    json_t *holders;
    TXB_TRY(live_holders(pg, &holders, err));
    if (json_array_size(holders) > 0) {
      (void)json_object_set(hole, "seq", lowest);
      put(hole, "holders", holders);
    } else {
      json_decref(holders);
    }
  }
  (void)json_object_del(hole, "lowest");
  if (json_is_null(json_object_get(hole, "seq")))
    put(source, "oldest_hole", NULL);
  return TXB_OK;
}

static enum txb_rc add_holds(struct txb_pg *pg, json_t *sources, size_t first, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *rows = NULL;
  TXB_TRY(txb_pg_query(pg, &holds_statement, NULL, &rows, err));
  for (int i = 0; i < txb_pg_rows(rows); i++) {
    json_t *hold = json_object();
    struct cells c = {rows, i, 1};
    put_text(hold, "kind", &c);
    put_text(hold, "topic", &c);
    put_text(hold, "key", &c);
    put_int8(hold, "from", &c);
    put_int8(hold, "age_ms", &c);
    put_text(hold, "error", &c);
    for (size_t s = first; s < json_array_size(sources); s++) {
      json_t *source = json_array_get(sources, s);
      if (strcmp(json_string_value(json_object_get(source, "source")), txb_pg_text(rows, i, 0)) == 0)
        (void)json_array_append(json_object_get(source, "holds"), hold);
    }
    json_decref(hold);
  }
  return TXB_OK;
}

/* A source that no relay has taken yet. */
static enum txb_rc add_unknown_source(struct txb_status *status, struct txb_pg *pg, const char *name,
                                      struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  TXB_TRY(txb_pg_query(pg, &outbox_statement, NULL, &row, err));
  json_t *source = json_object();
  struct cells c = {row, 0, 0};
  put(source, "source", json_string(name));
  put(source, "database", json_string(txb_pg_name(pg)));
  put(source, "state", json_string("never relayed"));
  put_int8(source, "sequence", &c);
  put_int8(source, "scheduled", &c);
  put_int4(source, "partitions_ahead", &c);
  (void)json_object_set(source, "backlog", json_object_get(source, "sequence"));
  put(source, "holds", json_array());
  (void)json_array_append_new(status->sources, source);
  return TXB_OK;
}

static bool has_row(const struct txb_pg_result *rows, const char *name) {
  for (int i = 0; i < txb_pg_rows(rows); i++)
    if (strcmp(txb_pg_text(rows, i, 0), name) == 0)
      return true;
  return false;
}

/* Every source that has a row, configured here or not, and those configured that have none. */
static enum txb_rc add_sources(struct txb_status *status, struct txb_pg *pg, const struct txb_status_target *target,
                               bool may_list, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *rows = NULL;
  TXB_TRY(txb_pg_query(pg, &sources_statement, NULL, &rows, err));
  size_t first = json_array_size(status->sources);
  for (int i = 0; i < txb_pg_rows(rows); i++) {
    json_t *source = source_of_row(rows, i, txb_pg_name(pg));
    (void)json_array_append_new(status->sources, source);
    TXB_TRY(settle_hole(pg, source, may_list, err));
  }
  for (size_t i = 0; i < target->source_count; i++)
    if (!has_row(rows, target->sources[i]))
      TXB_TRY(add_unknown_source(status, pg, target->sources[i], err));
  return add_holds(pg, status->sources, first, err);
}

/* ---- groups ---------------------------------------------------------------------------------------------- */

static json_t *stall_of_row(struct cells *c) {
  json_t *stall = json_object();
  put_int8(stall, "offset", c);
  put_int8(stall, "age_ms", c);
  put_int4(stall, "attempts", c);
  put_int8(stall, "next_attempt_in_ms", c);
  put_text(stall, "error", c);
  put_text(stall, "sqlstate", c);
  put_text(stall, "outcome", c);
  return stall;
}

static json_t *partition_of_row(const struct txb_pg_result *rows, int row) {
  json_t *partition = json_object(), *suspect = json_object();
  struct cells c = {rows, row, 1};
  put_text(partition, "topic", &c);
  put_int4(partition, "partition", &c);
  put_int8(partition, "next_offset", &c);
  put_int8(partition, "epoch", &c);
  put_text(partition, "owner", &c);
  put_bool(partition, "busy", &c);
  put_int8(partition, "consumed", &c);
  put_int8(partition, "applied", &c);
  put_int8(partition, "duplicate", &c);
  put_int8(partition, "failed", &c);
  json_t *stall = stall_of_row(&c);
  put_int8(suspect, "offset", &c);
  put_int4(suspect, "deaths", &c);
  put_int8(partition, "updated_age_ms", &c);
  put_jsonb(partition, "replies_ignored", &c); /* of a topic with replies to requests */
  bool stalled = !json_is_null(json_object_get(stall, "offset")),
       suspected = !json_is_null(json_object_get(suspect, "offset"));
  bool owned = !json_is_null(json_object_get(partition, "owner"));
  put(partition, "state", json_string(stalled ? "stalled" : suspected ? "suspect" : owned ? "owned" : "free"));
  put(partition, "stall", stalled ? stall : NULL);
  put(partition, "suspect", suspected ? suspect : NULL);
  if (!stalled)
    json_decref(stall);
  if (!suspected)
    json_decref(suspect);
  put(partition, "end_offset", NULL);
  put(partition, "lag", NULL);
  return partition;
}

static enum txb_rc add_groups(struct txb_status *status, struct txb_pg *pg, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *rows = NULL;
  TXB_TRY(txb_pg_query(pg, &groups_statement, NULL, &rows, err));
  json_t *group = NULL;
  for (int i = 0; i < txb_pg_rows(rows); i++) {
    const char *name = txb_pg_text(rows, i, 0);
    if (group == NULL || strcmp(json_string_value(json_object_get(group, "group")), name) != 0) {
      group = json_object();
      put(group, "group", json_string(name));
      put(group, "database", json_string(txb_pg_name(pg)));
      put(group, "lag", NULL);
      put(group, "failed_messages", NULL);
      put(group, "partitions", json_array());
      (void)json_array_append_new(status->groups, group);
    }
    if (!txb_pg_is_null(rows, i, 1))
      (void)json_array_append_new(json_object_get(group, "partitions"), partition_of_row(rows, i));
  }
  return TXB_OK;
}

static enum txb_rc add_jobs(json_t *jobs, const struct txb_pg_statement *statement, struct txb_pg *pg,
                            struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *rows = NULL;
  TXB_TRY(txb_pg_query(pg, statement, NULL, &rows, err));
  for (int i = 0; i < txb_pg_rows(rows); i++) {
    json_t *job = txb_failed_json(rows, i, 0);
    put(job, "server", json_string(txb_pg_name(pg)));
    (void)json_array_append_new(jobs, job);
  }
  return TXB_OK;
}

/* ---- failed messages ------------------------------------------------------------------------------------- */

static json_t *entry_named(const json_t *list, size_t first, const char *kind, const char *name) {
  for (size_t i = first; i < json_array_size(list); i++) {
    json_t *entry = json_array_get(list, i);
    if (strcmp(json_string_value(json_object_get(entry, kind)), name) == 0)
      return entry;
  }
  return NULL;
}

/* The key whose head failed longest ago. */
static enum txb_rc oldest_key(struct txb_pg *pg, json_t *failed, int64_t number, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_int8(&params, number);
  enum txb_rc rc = txb_pg_query(pg, &failed_key_statement, &params, &row, err);
  txb_pg_params_fini(&params);
  if (rc != TXB_OK || txb_pg_rows(row) == 0) /* it was closed since */
    return rc;
  json_t *key = json_object();
  struct cells c = {row, 0, 0};
  put(key, "number", json_integer(number));
  put_text(key, "topic", &c);
  put_text(key, "key", &c);
  put_text(key, "state", &c);
  put_int8(key, "age_ms", &c);
  put(failed, "oldest_key", key);
  return TXB_OK;
}

/* What is open of each group and source shown here, from their places `groups` and `sources` on. */
static enum txb_rc add_failed(struct txb_status *status, struct txb_pg *pg, size_t groups, size_t sources,
                              struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *rows = NULL;
  TXB_TRY(txb_pg_query(pg, &failed_statement, NULL, &rows, err));
  for (int i = 0; i < txb_pg_rows(rows); i++) {
    const char *name = txb_pg_text(rows, i, 0);
    json_t *entry = txb_pg_bool(rows, i, 1) ? entry_named(status->groups, groups, "group", name)
                                            : entry_named(status->sources, sources, "source", name);
    if (entry == NULL)
      continue;
    json_t *failed = json_object();
    struct cells c = {rows, i, 2};
    put_int8(failed, "retrying", &c);
    put_int8(failed, "held", &c);
    put_int8(failed, "dead", &c);
    put_int8(failed, "due", &c);
    put_int8(failed, "next_due_in_ms", &c);
    put(failed, "oldest_key", NULL);
    put(entry, "failed_messages", failed);
    if (!txb_pg_is_null(rows, i, c.column))
      TXB_TRY(oldest_key(pg, failed, txb_pg_int8(rows, i, c.column), err));
  }
  return TXB_OK;
}

/* A user may look at one side and not at the other: the side that it may is shown all the same. */
static void tell_no_right(struct txb_status *status, struct txb_pg *pg, const struct txb_pg_result *rights,
                          const char *what) {
  struct txb_error err;
  const char *who = txb_pg_text(rights, 0, 3);
  (void)TXB_FAIL_FROM(&err, TXB_REFUSED, TXB_ORIGIN_SAFETY,
                      "%s: user %s may not look at its %s; allow it: `txbroker init --role %s=txb_reader`",
                      txb_pg_name(pg), who, what, who);
  txb_status_problem(status, &err);
}

enum txb_rc txb_status_database(struct txb_status *status, struct txb_pg *pg, const struct txb_status_target *target,
                                struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *rights = NULL;
  TXB_TRY(txb_pg_query(pg, &rights_statement, NULL, &rights, err));
  bool sources = txb_pg_bool(rights, 0, 0), groups = txb_pg_bool(rights, 0, 1);
  size_t first_group = json_array_size(status->groups), first_source = json_array_size(status->sources);
  if (target->source_count > 0 && !sources)
    tell_no_right(status, pg, rights, "sources");
  if (target->worker && !groups)
    tell_no_right(status, pg, rights, "groups");
  if (target->source_count > 0 && sources)
    TXB_TRY(add_sources(status, pg, target, txb_pg_bool(rights, 0, 2), err));
  if (target->groups && groups)
    TXB_TRY(add_groups(status, pg, err));
  if (target->groups && txb_pg_bool(rights, 0, 5))
    TXB_TRY(add_jobs(status->jobs, &jobs_statement, pg, err));
  if (txb_pg_bool(rights, 0, 6)) /* also a source's database has them */
    TXB_TRY(add_jobs(status->failed_jobs, &failed_jobs_statement, pg, err));
  if (target->groups && txb_pg_bool(rights, 0, 7))
    TXB_TRY(txb_status_sagas_add(status, pg, err));
  return txb_pg_bool(rights, 0, 4) ? add_failed(status, pg, first_group, first_source, err) : TXB_OK;
}
