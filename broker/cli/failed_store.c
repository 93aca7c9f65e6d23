/* What the commands about failed messages ask the server. Every decision is one transaction of the server's functions:
 * a crash in between leaves it done or not. */
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "broker/cli/failed.h"
#include "broker/cli/migrate.h"
#include "cli_sql.h"
#include "common/memory.h"

static const struct txb_pg_statement find_statement = {"cli_failed_find", txb_text_cli_failed_find};
static const struct txb_pg_statement numbers_statement = {"cli_failed_numbers", txb_text_cli_failed_numbers};
static const struct txb_pg_statement count_statement = {"cli_failed_count", txb_text_cli_failed_count};
static const struct txb_pg_statement show_statement = {"cli_failed_show", txb_text_cli_failed_show};
static const struct txb_pg_statement retry_statement = {"cli_failed_retry", txb_text_cli_failed_retry};
static const struct txb_pg_statement discard_statement = {"cli_failed_discard", txb_text_cli_failed_discard};
static const struct txb_pg_statement check_statement = {"cli_failed_changes_check", txb_text_cli_failed_changes_check};
static const struct txb_pg_statement edit_many_statement = {"cli_failed_edit_many", txb_text_cli_failed_edit_many};
static const struct txb_pg_statement copy_statement = {"cli_failed_copy", txb_text_cli_failed_copy};
static const struct txb_pg_statement edit_statement = {"cli_failed_edit", txb_text_cli_failed_edit};
static const struct txb_pg_statement job_start_statement = {"cli_failed_job_start", txb_text_cli_failed_job_start};
static const struct txb_pg_statement job_step_statement = {"cli_failed_job_step", txb_text_cli_failed_job_step};
static const struct txb_pg_statement job_cancel_statement = {"cli_failed_job_cancel", txb_text_cli_failed_job_cancel};
static const struct txb_pg_statement job_list_statement = {"cli_failed_job_list", txb_text_cli_failed_job_list};
static const struct txb_pg_statement audit_statement = {"cli_audit_list", txb_text_cli_audit_list};

enum txb_rc txb_failed_connect(const struct txb_cli *cli, const char *uri, struct txb_pg **out, struct txb_error *err) {
  return txb_failed_connect_until(cli, uri, -1, out, err);
}

enum txb_rc txb_failed_connect_until(const struct txb_cli *cli, const char *uri, int stop_fd, struct txb_pg **out,
                                     struct txb_error *err) {
  char name[64];
  (void)snprintf(name, sizeof(name), "txbroker %s", cli->args.command->name);
  struct txb_pg_options options = {.uri = uri,
                                   .application_name = name,
                                   .stop_fd = stop_fd,
                                   .settings = "-c TimeZone=UTC -c jit=off",
                                   .builtins_only = true};
  struct txb_pg *pg = NULL;
  TXB_TRY(txb_pg_open(&options, &pg, err));
  enum txb_rc rc = txb_schema_need(pg, err);
  if (rc != TXB_OK)
    txb_pg_close(pg);
  else
    *out = pg;
  return rc;
}

/* What the server refuses is what it was asked for; a missing right names who could have it. */
static enum txb_rc explain(struct txb_pg *pg, const char *role, struct txb_error *err) {
  if (strcmp(err->sqlstate, "42501") == 0)
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_SAFETY,
                         "%s: user %s may not do that; allow it: `txbroker init --role %s=%s`", txb_pg_name(pg),
                         txb_pg_user(pg), txb_pg_user(pg), role);
  if (err->rc == TXB_REFUSED && err->origin == TXB_ORIGIN_NONE && strncmp(err->sqlstate, "22", 2) == 0)
    err->origin = TXB_ORIGIN_USAGE;
  return err->rc;
}

enum txb_rc txb_failed_ask(struct txb_pg *pg, const struct txb_pg_statement *statement, struct txb_pg_params *params,
                           const char *role, struct txb_pg_result **out, struct txb_error *err) {
  enum txb_rc rc = txb_buffer_check(&params->bytes, err);
  if (rc == TXB_OK) {
    rc = txb_pg_query(pg, statement, params, out, err);
    if (rc != TXB_OK)
      rc = explain(pg, role, err);
  }
  txb_pg_params_fini(params);
  return rc;
}

static void add_json(struct txb_pg_params *params, const json_t *value) {
  char *text = value == NULL ? NULL : json_dumps(value, JSON_COMPACT);
  txb_pg_add_jsonb(params, txb_slice_text(text));
  free(text);
}

void txb_failed_add_after(struct txb_pg_params *params, int64_t after) {
  if (after > 0)
    txb_pg_add_int8(params, after);
  else
    txb_pg_add_null(params, TXB_OID_INT8);
}

json_t *txb_failed_json(const struct txb_pg_result *rows, int row, int column) {
  struct txb_slice text = txb_pg_jsonb(rows, row, column);
  json_error_t ignored;
  json_t *value =
      text.data == NULL ? NULL : json_loadb(text.data, text.size, JSON_DECODE_ANY | JSON_ALLOW_NUL, &ignored);
  return value == NULL ? json_null() : value;
}

json_t *txb_failed_json_rows(const struct txb_pg_result *rows) {
  json_t *list = json_array();
  for (int i = 0; i < txb_pg_rows(rows); i++)
    (void)json_array_append_new(list, txb_failed_json(rows, i, 0));
  return list;
}

enum txb_rc txb_failed_find(struct txb_pg *pg, const json_t *filter, int64_t after, int page, json_t **out,
                            struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *rows = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  add_json(&params, filter);
  txb_failed_add_after(&params, after);
  txb_pg_add_int4(&params, page);
  TXB_TRY(txb_failed_ask(pg, &find_statement, &params, "txb_reader", &rows, err));
  *out = txb_failed_json_rows(rows);
  return TXB_OK;
}

typedef enum txb_rc ask_page(struct txb_pg *pg, const json_t *filter, int64_t after, int page, json_t **out,
                             struct txb_error *err);

/* Whether more follow is told by one row more than was asked for. Where the server gives no more at once, the first one
 * of the next page is looked for. */
static enum txb_rc page_of(ask_page *ask, struct txb_pg *pg, const json_t *filter, int64_t after, int page,
                           json_t **out, bool *more_out, struct txb_error *err) {
  size_t wanted = (size_t)page;
  TXB_TRY(ask(pg, filter, after, page < TXB_FAILED_PAGE_MAX ? page + 1 : page, out, err));
  *more_out = json_array_size(*out) > wanted;
  if (*more_out)
    (void)json_array_remove(*out, wanted);
  if (*more_out || page < TXB_FAILED_PAGE_MAX || json_array_size(*out) < wanted)
    return TXB_OK;
  json_t *next = NULL;
  enum txb_rc rc = ask(pg, filter, txb_failed_integer(json_array_get(*out, wanted - 1), "number"), 1, &next, err);
  *more_out = json_array_size(next) > 0;
  json_decref(next);
  if (rc != TXB_OK)
    json_decref(*out);
  return rc;
}

enum txb_rc txb_failed_find_page(struct txb_pg *pg, const json_t *filter, int64_t after, int page, json_t **out,
                                 bool *more_out, struct txb_error *err) {
  return page_of(txb_failed_find, pg, filter, after, page, out, more_out, err);
}

enum txb_rc txb_failed_count(struct txb_pg *pg, const json_t *filter, const char *by, int top, json_t **out,
                             struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *rows = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  add_json(&params, filter);
  txb_pg_add_text(&params, txb_slice_text(by));
  txb_pg_add_int4(&params, top);
  TXB_TRY(txb_failed_ask(pg, &count_statement, &params, "txb_reader", &rows, err));
  *out = txb_failed_json_rows(rows);
  return TXB_OK;
}

enum txb_rc txb_failed_states(struct txb_pg *pg, const json_t *filter, json_t **out, int64_t *total_out,
                              struct txb_error *err) {
  json_t *rows, *row;
  size_t i;
  TXB_TRY(txb_failed_count(pg, filter, "state", 10, &rows, err));
  json_t *states = json_object();
  *total_out = 0;
  json_array_foreach(rows, i, row) {
    json_t *messages = json_object_get(row, "messages");
    (void)json_object_set(states, json_string_value(json_object_get(row, "value")), messages);
    *total_out += json_integer_value(messages);
  }
  json_decref(rows);
  *out = states;
  return TXB_OK;
}

enum txb_rc txb_failed_all_numbers(struct txb_pg *pg, const json_t *filter, int64_t **out, size_t *count_out,
                                   struct txb_error *err) {
  enum { PAGE = 10000 };
  void *memory = NULL;
  size_t count = 0;
  for (int got = PAGE; got == PAGE;) {
    TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *rows = NULL;
    struct txb_pg_params params;
    txb_pg_params_init(&params);
    add_json(&params, filter);
    txb_failed_add_after(&params, count == 0 ? 0 : ((int64_t *)memory)[count - 1]);
    txb_pg_add_int4(&params, PAGE);
    enum txb_rc rc = txb_failed_ask(pg, &numbers_statement, &params, "txb_reader", &rows, err);
    got = rc == TXB_OK ? txb_pg_rows(rows) : 0;
    if (rc == TXB_OK)
      rc = txb_realloc_array(&memory, count + (size_t)got + 1, sizeof(int64_t), err);
    if (rc != TXB_OK) {
      txb_free(memory);
      return rc;
    }
    for (int i = 0; i < got; i++)
      ((int64_t *)memory)[count++] = txb_pg_int8(rows, i, 0);
  }
  *out = memory;
  *count_out = count;
  return TXB_OK;
}

enum txb_rc txb_failed_show(struct txb_pg *pg, int64_t number, struct txb_failed_message *out, struct txb_error *err) {
  struct txb_pg_result *row = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_int8(&params, number);
  TXB_TRY(txb_failed_ask(pg, &show_statement, &params, "txb_reader", &row, err));
  *out = (struct txb_failed_message){.message = txb_failed_json(row, 0, 0),
                                     .key = txb_pg_bytes(row, 0, 1),
                                     .payload = txb_pg_bytes(row, 0, 2),
                                     .history = txb_failed_json(row, 0, 3),
                                     .editions = txb_failed_json(row, 0, 4),
                                     .head = txb_pg_is_null(row, 0, 5) ? 0 : txb_pg_int8(row, 0, 5),
                                     .behind = txb_pg_int8(row, 0, 6),
                                     .behind_first = txb_failed_json(row, 0, 7),
                                     .waits_in_outbox = txb_pg_bool(row, 0, 8),
                                     .row = row};
  return TXB_OK;
}

void txb_failed_message_fini(struct txb_failed_message *m) {
  json_decref(m->message);
  json_decref(m->history);
  json_decref(m->editions);
  json_decref(m->behind_first);
  txb_pg_result_free(m->row);
  *m = (struct txb_failed_message){0};
}

static json_t *text_or_null(const struct txb_pg_result *rows, int row, int column) {
  const char *text = txb_pg_text(rows, row, column);
  return text == NULL ? json_null() : json_string(text);
}

static json_t *id_or_null(const struct txb_pg_result *rows, int row, int column) {
  char id[37];
  struct txb_uuid uuid;
  if (txb_pg_is_null(rows, row, column))
    return json_null();
  txb_pg_uuid(rows, row, column, &uuid);
  txb_uuid_format(&uuid, id);
  return json_string(id);
}

/* "done", "state", "why" from a column on; of an edit also "new_number" and "new_id". */
static json_t *result_of_row(const struct txb_pg_result *rows, int row, int column, int64_t number, bool edited) {
  json_t *result =
      json_pack("{s:I, s:b, s:o, s:o}", "number", (json_int_t)number, "done", txb_pg_bool(rows, row, column), "state",
                text_or_null(rows, row, column + 1), "why", text_or_null(rows, row, column + 2));
  if (edited) {
    bool none = txb_pg_is_null(rows, row, column + 3);
    (void)json_object_set_new(result, "new_number",
                              none ? json_null() : json_integer(txb_pg_int8(rows, row, column + 3)));
    (void)json_object_set_new(result, "new_id", id_or_null(rows, row, column + 4));
  }
  return result;
}

/* The numbers, and what is to be done with them if the verb doesn't say it all. */
static const struct txb_pg_statement *add_decision(struct txb_pg_params *params, const struct txb_failed_decision *d,
                                                   const int64_t *numbers, size_t count) {
  txb_pg_array_begin(params, TXB_OID_INT8);
  for (size_t i = 0; i < count; i++)
    txb_pg_array_int8(params, numbers[i]);
  txb_pg_array_end(params);
  switch (d->verb) {
  case TXB_FAILED_RETRY:
    return &retry_statement;
  case TXB_FAILED_DISCARD:
    return &discard_statement;
  case TXB_FAILED_EDIT:
    add_json(params, d->changes);
    return &edit_many_statement;
  case TXB_FAILED_COPY:
    txb_pg_add_text(params, txb_slice_text(d->to_topic));
    return &copy_statement;
  }
  return NULL;
}

enum txb_rc txb_failed_decide(struct txb_pg *pg, const struct txb_failed_decision *d, const int64_t *numbers,
                              size_t count, json_t *results, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *rows = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  const struct txb_pg_statement *statement = add_decision(&params, d, numbers, count);
  txb_pg_add_text(&params, txb_slice_text(d->person));
  txb_pg_add_text(&params, txb_slice_text(d->reason));
  add_json(&params, d->filter);
  TXB_TRY(txb_failed_ask(pg, statement, &params, "txb_admin", &rows, err));
  for (int i = 0; i < txb_pg_rows(rows); i++) {
    json_t *result = result_of_row(rows, i, 1, txb_pg_int8(rows, i, 0), d->verb == TXB_FAILED_EDIT);
    if (d->to_topic != NULL)
      (void)json_object_set_new(result, "to_topic", json_string(d->to_topic));
    (void)json_array_append_new(results, result);
  }
  return TXB_OK;
}

enum txb_rc txb_failed_check_changes(struct txb_pg *pg, const json_t *changes, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  add_json(&params, changes);
  return txb_failed_ask(pg, &check_statement, &params, "txb_reader", &row, err);
}

enum txb_rc txb_failed_edit(struct txb_pg *pg, int64_t number, const struct txb_failed_edition *edition,
                            json_t *results, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_int8(&params, number);
  txb_pg_add_bytea(&params, edition->payload);
  txb_pg_add_text(&params, txb_slice_text(edition->content_type));
  add_json(&params, edition->headers);
  txb_pg_add_text(&params, txb_slice_text(edition->person));
  txb_pg_add_text(&params, txb_slice_text(edition->reason));
  add_json(&params, edition->filter);
  TXB_TRY(txb_failed_ask(pg, &edit_statement, &params, "txb_admin", &row, err));
  (void)json_array_append_new(results, result_of_row(row, 0, 0, number, true));
  return TXB_OK;
}

/* ---- jobs ------------------------------------------------------------------------------------------------- */

enum txb_rc txb_failed_job_start(struct txb_pg *pg, const struct txb_failed_decision *d, struct txb_failed_begun *out,
                                 struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text(txb_failed_words_of(d->verb)->verb));
  add_json(&params, d->filter);
  txb_pg_add_text(&params, txb_slice_text(d->reason));
  txb_pg_add_text(&params, txb_slice_text(d->person));
  add_json(&params, d->changes);
  txb_pg_add_text(&params, txb_slice_text(d->to_topic));
  TXB_TRY(txb_failed_ask(pg, &job_start_statement, &params, "txb_admin", &row, err));
  *out = (struct txb_failed_begun){
      .number = txb_pg_int8(row, 0, 0), .messages = txb_pg_int8(row, 0, 1), .served = txb_pg_bool(row, 0, 2)};
  return TXB_OK;
}

enum txb_rc txb_failed_job_step(struct txb_pg *pg, int64_t number, json_t **job_out, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_int8(&params, number);
  txb_pg_add_text(&params, txb_slice_text(txb_person()));
  TXB_TRY(txb_failed_ask(pg, &job_step_statement, &params, "txb_admin", &row, err));
  *job_out = txb_failed_json(row, 0, 0);
  return TXB_OK;
}

enum txb_rc txb_failed_job_cancel(struct txb_pg *pg, int64_t number, const char *reason, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_int8(&params, number);
  txb_pg_add_text(&params, txb_slice_text(txb_person()));
  txb_pg_add_text(&params, txb_slice_text(reason));
  return txb_failed_ask(pg, &job_cancel_statement, &params, "txb_admin", &row, err);
}

enum txb_rc txb_failed_job_list(struct txb_pg *pg, int64_t after, int page, json_t **out, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *rows = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_failed_add_after(&params, after);
  txb_pg_add_int4(&params, page);
  TXB_TRY(txb_failed_ask(pg, &job_list_statement, &params, "txb_reader", &rows, err));
  *out = txb_failed_json_rows(rows);
  return TXB_OK;
}

static enum txb_rc find_audit(struct txb_pg *pg, const json_t *filter, int64_t after, int page, json_t **out,
                              struct txb_error *err) {
  (void)filter;
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *rows = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_failed_add_after(&params, after);
  txb_pg_add_int4(&params, page);
  TXB_TRY(txb_failed_ask(pg, &audit_statement, &params, "txb_reader", &rows, err));
  *out = txb_failed_json_rows(rows);
  return TXB_OK;
}

enum txb_rc txb_audit_list(struct txb_pg *pg, int64_t after, int page, json_t **out, bool *more_out,
                           struct txb_error *err) {
  return page_of(find_audit, pg, NULL, after, page, out, more_out, err);
}

const char *txb_person(void) {
  static char name[64];
  const struct passwd *user = getpwuid(getuid());
  if (user != NULL && txb_slice_is_text(txb_slice_text(user->pw_name)))
    (void)snprintf(name, sizeof(name), "%s", user->pw_name);
  else
    (void)snprintf(name, sizeof(name), "uid %ld", (long)getuid());
  return name;
}
