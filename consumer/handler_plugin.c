/* Plugins and callbacks: C code that gets the connection of the delivery's transaction. It is called between two
 * pipelines, on a connection in blocking mode, and is trusted to write; what it may have done to the transaction or the
 * session is looked at after every call, and set back before anything of ours runs behind it (W11). A handler that
 * crashes takes the process with it: see W10. A plugin that hangs is made to (watchdog.h); an application's callback is
 * the application's own affair, since a library ends no process.
 */
#include <dlfcn.h>
#include <libpq-fe.h>
#include <stdio.h>

#include "common/memory.h"
#include "consumer/worker_internal.h"
#include "consumer_sql.h"

static const struct txb_pg_statement unlisten = {"txb_worker_unlisten", txb_text_worker_unlisten};

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

/* ---- loading --------------------------------------------------------------------------------- */

static enum txb_rc check_plugin(const struct txb_plugin *plugin, const char *path, const char *symbol,
                                struct txb_error *err) {
  if (plugin->struct_size < offsetof(struct txb_plugin, close) + sizeof plugin->close)
    return REFUSE(err, "plugin %s: %s.struct_size is %zu, which is too small: set it to sizeof(struct txb_plugin)",
                  path, symbol, plugin->struct_size);
  if (plugin->abi != TXB_PLUGIN_ABI)
    return REFUSE(
        err, "plugin %s was built for plugin ABI %u, this is %u: build it against this version's txbroker/consumer.h",
        path, (unsigned)plugin->abi, (unsigned)TXB_PLUGIN_ABI);
  if (plugin->handle == NULL)
    return REFUSE(err, "plugin %s: %s.handle is NULL", path, symbol);
  return TXB_OK;
}

enum txb_rc txb_worker_handler_plugin_open(txb_worker_t *w, struct txb_error *err) {
  const char *path = w->settings->plugin_path;
  const char *symbol = w->settings->plugin_symbol != NULL && w->settings->plugin_symbol[0] != '\0'
                           ? w->settings->plugin_symbol
                           : "txb_plugin";
  if (w->settings->handler == TXB_HANDLER_ENGINE)
    return txb_worker_handler_engine_open(w, err);
  if (w->settings->handler == TXB_HANDLER_CALLBACK)
    return w->settings->callback != NULL ? TXB_OK : REFUSE(err, "group %s has no handler", w->settings->group);
  if (path == NULL || path[0] == '\0')
    return REFUSE(err, "group %s has a plugin handler without a file: set handler.path", w->settings->group);
  w->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (w->library == NULL) /* the text names file and reason */
    return REFUSE(err,
                  "plugin %s can't be loaded: %s (a path without \"/\" is looked for in the system's library folders)",
                  path, dlerror());
  w->plugin = dlsym(w->library, symbol);
  if (w->plugin == NULL)
    return REFUSE(err,
                  "plugin %s exports no \"%s\": declare `const struct txb_plugin %s` there, or correct handler.symbol",
                  path, symbol, symbol);
  TXB_TRY(check_plugin(w->plugin, path, symbol, err));
  int code = w->plugin->open != NULL ? w->plugin->open(w->settings->plugin_argument, &w->plugin_context) : 0;
  if (code != 0)
    return REFUSE(err, "plugin %s refused to open: its open() gave %d for the text in handler.argument", path, code);
  w->plugin_open = true;
  return w->settings->handler_timeout_ms > 0 ? txb_watchdog_open(w->settings->handler_timeout_ms, &w->watchdog, err)
                                             : TXB_OK;
}

void txb_worker_handler_plugin_close(txb_worker_t *w) {
  txb_worker_handler_engine_close(w);
  txb_watchdog_close(w->watchdog);
  w->watchdog = NULL;
  if (w->plugin_open && w->plugin->close != NULL)
    w->plugin->close(w->plugin_context);
  w->plugin_open = false;
  if (w->library != NULL)
    dlclose(w->library);
  w->library = NULL;
}

/* ---- calling --------------------------------------------------------------------------------- */

static const char *const outcome_names[] = {[TXB_OUTCOME_OK] = "ok",
                                            [TXB_OUTCOME_REFUSE] = "refuse",
                                            [TXB_OUTCOME_RETRY] = "retry",
                                            [TXB_OUTCOME_DEAD] = "dead"};

/* Each message has its own time, in a batch as in a chunk or alone. A crash in it, or the watchdog's: the transaction rolls
 * back, and the partition stays busy, with its marker if there is one. */
static enum txb_outcome handle_watched(txb_worker_t *w, PGconn *conn, const struct txb_message *message,
                                       struct txb_answer *answer) {
  const struct txb_watched watched = {.group = w->settings->group,
                                      .topic = message->topic,
                                      .id = message->id,
                                      .partition = message->partition,
                                      .offset = message->offset,
                                      .key = message->key};
  txb_watchdog_arm(w->watchdog, &watched);
  enum txb_outcome outcome = w->plugin->handle(conn, message, answer, w->plugin_context);
  txb_watchdog_disarm(w->watchdog);
  return outcome;
}

/* A compensation is handed what its action gave, as one header more. */
static void add_output(struct txb_buffer *headers, struct txb_slice output) {
  while (headers->size > 0 && headers->data[headers->size - 1] != '}')
    headers->size--;
  headers->size -= headers->size > 0;
  bool empty = headers->size < 2 || headers->data[headers->size - 1] == '{';
  txb_buffer_add_text(headers, empty ? "\"txb-saga-output\": " : ", \"txb-saga-output\": ");
  txb_buffer_add(headers, output.data, output.size);
  txb_buffer_add_text(headers, "}");
}

static enum txb_rc call(txb_worker_t *w, const struct txb_worker_source *source, uint32_t i, PGconn *conn,
                        struct txb_slice output, struct txb_answer *answer, enum txb_outcome *out,
                        struct txb_error *err) {
  struct txb_worker_item item;
  struct txb_slice json;
  char id[37];
  txb_worker_item_of(w, source, i, &item);
  TXB_TRY(txb_worker_item_headers(w, source, i, &json, err));
  if (source->rows != NULL) { /* ended by a NUL already, but not for sure by what comes */
    txb_buffer_clear(&w->text);
    txb_buffer_add(&w->text, json.data, json.size);
  }
  if (output.data != NULL)
    add_output(&w->text, output);
  const char *headers = txb_buffer_text(&w->text);
  TXB_TRY(txb_buffer_check(&w->text, err));
  txb_uuid_format(&item.id, id);
  const struct txb_worker_place *place = &w->places[w->operation.action.slot];
  struct txb_message message = {.struct_size = sizeof message,
                                .id = id,
                                .source = item.source,
                                .type = item.type,
                                .content_type = item.content_type,
                                .topic = place->topic,
                                .partition = place->partition,
                                .offset = item.offset,
                                .time_us = item.time_us,
                                .key = item.key,
                                .payload = item.payload,
                                .headers_json = headers,
                                .attempt = txb_worker_attempt_of(source, i)};
  *answer = (struct txb_answer){.struct_size = sizeof *answer};
  if (w->settings->handler == TXB_HANDLER_CALLBACK)
    *out = w->settings->callback(conn, &message, answer, w->settings->callback_context);
  else
    *out = handle_watched(w, conn, &message, answer);
  answer->reason[sizeof answer->reason - 1] = '\0';
  return TXB_OK;
}

/* Results that the handler left unread, and a pipeline that it left open. False: the connection can't be used any more.
 */
static bool tidy(PGconn *conn) {
  if (PQtransactionStatus(conn) == PQTRANS_ACTIVE && PQpipelineStatus(conn) == PQ_PIPELINE_OFF) {
    for (PGresult *r; (r = PQgetResult(conn)) != NULL; PQclear(r))
      if (PQresultStatus(r) == PGRES_COPY_IN || PQresultStatus(r) == PGRES_COPY_OUT ||
          PQresultStatus(r) == PGRES_COPY_BOTH) {
        PQclear(r);
        return false;
      }
  }
  if (PQpipelineStatus(conn) != PQ_PIPELINE_OFF && PQexitPipelineMode(conn) != 1)
    return false;
  return PQstatus(conn) == CONNECTION_OK;
}

/* NULL: the transaction is as it was. Else what the handler did to it. */
static const char *harm_done(PGconn *conn) {
  switch (PQtransactionStatus(conn)) {
  case PQTRANS_INTRANS:
    return NULL;
  case PQTRANS_INERROR:
    return "the handler answered ok after an error in its transaction";
  case PQTRANS_IDLE:
    return "the handler ended the transaction: it must not say COMMIT or ROLLBACK";
  case PQTRANS_ACTIVE:
  case PQTRANS_UNKNOWN:
    break;
  }
  return "the handler left a command running";
}

static void fresh_fini(struct txb_fresh_ids *f) {
  txb_free(f->ids);
}

static enum txb_rc fresh_init(const struct txb_pg_result *result, struct txb_fresh_ids *f, struct txb_error *err) {
  void *memory = NULL;
  f->count = (size_t)txb_pg_rows(result);
  TXB_TRY(txb_alloc_array(f->count + 1, sizeof *f->ids, &memory, err));
  f->ids = memory;
  for (size_t row = 0; row < f->count; row++)
    txb_pg_uuid(result, (int)row, 0, &f->ids[row]);
  txb_worker_sort_ids(f->ids, f->count);
  return TXB_OK;
}

bool txb_fresh_ids_has(const struct txb_fresh_ids *f, const struct txb_uuid *id) {
  size_t low = 0, high = f->count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (memcmp(&f->ids[middle], id, sizeof *id) < 0)
      low = middle + 1;
    else
      high = middle;
  }
  return low < f->count && memcmp(&f->ids[low], id, sizeof *id) == 0;
}

static enum txb_rc blame(uint32_t i, enum txb_outcome outcome, const struct txb_answer *answer, const char *harm,
                         PGconn *conn, struct txb_worker_verdict *out) {
  bool known = outcome >= TXB_OUTCOME_OK && outcome <= TXB_OUTCOME_DEAD;
  *out = (struct txb_worker_verdict){.at = (int32_t)i, .outcome = "error"};
  if (known && outcome != TXB_OUTCOME_OK) {
    (void)TXB_FAIL(&out->why, TXB_POISON, "%s", answer->reason[0] != '\0' ? answer->reason : "no reason given");
    out->after_ms = answer->retry_after_ms > 0 ? answer->retry_after_ms : 0;
    snprintf(out->outcome, sizeof out->outcome, "%s", outcome_names[outcome]);
    return TXB_POISON;
  }
  const char *last = PQerrorMessage(conn);
  if (!known)
    (void)TXB_FAIL(&out->why, TXB_POISON, "the handler answered %d, which is no outcome", (int)outcome);
  else
    (void)TXB_FAIL(&out->why, TXB_POISON, "%s%s%.300s", harm, last != NULL && last[0] != '\0' ? ": " : "",
                   last != NULL ? last : "");
  return TXB_POISON;
}

/* Nobody is to blame: the batch is undone as after a deadlock, and who runs its messages next has not seen them. */
static enum txb_rc put_off(struct txb_worker_verdict *out) {
  *out = (struct txb_worker_verdict){.at = -1, .outcome = "error", .put_off = true};
  (void)TXB_FAIL(&out->why, TXB_POISON,
                 "the batch was put off, for a stop or because the group asks for partitions back");
  return TXB_POISON;
}

/* One message. TXB_RETRY: the connection is gone or unusable. */
static enum txb_rc run_one(txb_worker_t *w, const struct txb_worker_source *source, uint32_t i, PGconn *conn,
                           struct txb_slice output, struct txb_answer *answer, struct txb_worker_verdict *out,
                           struct txb_error *err) {
  enum txb_outcome outcome = TXB_OUTCOME_OK;
  TXB_TRY(call(w, source, i, conn, output, answer, &outcome, err));
  w->spoilt = !tidy(conn);
  if (w->spoilt) {
    w->spoilt = PQstatus(conn) == CONNECTION_OK;
    return TXB_FAIL_FROM(err, TXB_RETRY, TXB_ORIGIN_POSTGRES,
                         "the connection to %s was lost or left unusable by the handler: %.200s", txb_pg_name(w->pg),
                         PQerrorMessage(conn));
  }
  const char *harm = harm_done(conn);
  if (outcome != TXB_OUTCOME_OK || harm != NULL)
    return blame(i, outcome, answer, harm, conn, out);
  return TXB_OK;
}

/* One that wants an answer. TXB_POISON: it failed, which is not a no of its handler. */
static enum txb_rc run_command(txb_worker_t *w, const struct txb_worker_source *source, uint32_t i,
                               const struct txb_worker_item *item, struct txb_slice headers, PGconn *conn,
                               struct txb_worker_verdict *out, struct txb_error *err) {
  TXB_CLEANUP(txb_worker_command_fini) struct txb_worker_command command = {.runs = false};
  struct txb_answer answer;
  TXB_TRY(txb_worker_command_enter(w, headers, &command, err));
  if (!command.runs)
    return txb_worker_command_known(w, item, headers, &command, err);
  enum txb_rc rc = run_one(w, source, i, conn, command.output, &answer, out, err);
  if (rc == TXB_POISON && strcmp(out->outcome, outcome_names[TXB_OUTCOME_REFUSE]) == 0 &&
      PQtransactionStatus(conn) != PQTRANS_IDLE)
    return txb_worker_command_refused(w, item, headers, txb_slice_text(out->why.message), err);
  TXB_TRY(rc);
  struct txb_slice output = answer.output_json != NULL ? txb_slice_text(answer.output_json) : txb_slice_of(NULL, 0);
  return txb_worker_command_done(w, item, headers, output, err);
}

/* What a statement of ours said is the message's failure, unless the connection is gone with it. */
static enum txb_rc try_command(txb_worker_t *w, const struct txb_worker_source *source, uint32_t i,
                               const struct txb_worker_item *item, PGconn *conn, struct txb_worker_verdict *out,
                               struct txb_error *err) {
  struct txb_buffer headers TXB_CLEANUP(txb_buffer_fini);
  struct txb_slice json;
  txb_buffer_init(&headers);
  TXB_TRY(txb_worker_item_headers(w, source, i, &json, err));
  txb_buffer_add(&headers, json.data, json.size); /* it lies in w->text, which is used again */
  TXB_TRY(txb_buffer_check(&headers, err));
  *out = (struct txb_worker_verdict){.at = -1};
  enum txb_rc rc = run_command(w, source, i, item, txb_slice_of(headers.data, headers.size), conn, out, err);
  bool theirs = rc == TXB_OK || (rc == TXB_POISON && out->at >= 0);
  bool said = err->sqlstate[0] != '\0'; /* the origin tells less: most of what a server says has none */
  if (theirs || !said || w->spoilt || txb_worker_is_away(w, err) || PQstatus(conn) != CONNECTION_OK)
    return rc;
  *out = (struct txb_worker_verdict){.at = (int32_t)i, .outcome = "error", .why = *err};
  return TXB_POISON;
}

static enum txb_rc run_all(txb_worker_t *w, const struct txb_worker_source *source, const uint32_t *which, int32_t n,
                           const struct txb_fresh_ids *fresh, int64_t *applied_out, struct txb_worker_verdict *out,
                           struct txb_error *err) {
  PGconn *conn = txb_pg_native(w->pg);
  for (int32_t k = 0; k < n; k++) {
    struct txb_worker_item item;
    txb_worker_item_of(w, source, which[k], &item);
    if (!txb_fresh_ids_has(fresh, &item.id))
      continue;
    bool end = false; /* not before the first call: a batch that is rolled back again and again gets nowhere */
    if (w->operation.called++ > 0)
      TXB_TRY(txb_worker_between_calls(w, &end, err));
    if (end)
      return put_off(out);
    struct txb_answer answer;
    TXB_TRY(item.is_command ? try_command(w, source, which[k], &item, conn, out, err)
                            : run_one(w, source, which[k], conn, txb_slice_of(NULL, 0), &answer, out, err));
    ++*applied_out;
  }
  return TXB_OK;
}

enum txb_rc txb_worker_handler_plugin_run(txb_worker_t *w, const struct txb_worker_source *source,
                                          const uint32_t *which, int32_t n, const struct txb_pg_result *result,
                                          int64_t *applied_out, struct txb_worker_verdict *out, struct txb_error *err) {
  PGconn *conn = txb_pg_native(w->pg);
  TXB_CLEANUP(fresh_fini) struct txb_fresh_ids fresh = {.ids = NULL};
  int64_t applied = 0;
  TXB_TRY(fresh_init(result, &fresh, err));
  if (w->settings->handler == TXB_HANDLER_ENGINE)
    return txb_worker_handler_engine_run(w, source, which, n, &fresh, applied_out, out, err);
  TXB_TRY(txb_pg_pipeline_end(w->pg, err));
  if (PQsetnonblocking(conn, 0) != 0)
    return TXB_FAIL_FROM(err, TXB_RETRY, TXB_ORIGIN_POSTGRES, "connection to %s can't be made blocking",
                         txb_pg_name(w->pg));
  enum txb_rc rc = run_all(w, source, which, n, &fresh, &applied, out, err);
  if (rc != TXB_OK && rc != TXB_POISON)
    return rc;
  if (PQsetnonblocking(conn, 1) != 0)
    return TXB_FAIL_FROM(err, TXB_RETRY, TXB_ORIGIN_POSTGRES, "connection to %s can't be made non-blocking",
                         txb_pg_name(w->pg));
  TXB_TRY(txb_pg_pipeline_begin(w->pg, err));
  *applied_out = applied;
  return rc;
}

enum txb_rc txb_worker_handler_plugin_reset(txb_worker_t *w, struct txb_error *err) {
  TXB_TRY(txb_worker_reset_role(w, err));
  TXB_TRY(txb_worker_reset_settings(w, err));
  return txb_worker_send(w, &unlisten, NULL, err);
}
