/* Plugins and callbacks: C code that gets the connection of the delivery's transaction. It is called between two
 * pipelines, on a connection in blocking mode, and is trusted to write; what it may have done to the transaction or the
 * session is looked at after every call, and set back before anything of ours runs behind it (W11). A handler that
 * crashes takes the process with it: see W10.
 */
#include <dlfcn.h>
#include <libpq-fe.h>
#include <stdio.h>

#include "common/fault.h"
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
  return TXB_OK;
}

void txb_worker_handler_plugin_close(txb_worker_t *w) {
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

static const struct txb_worker_message *message_at(const txb_worker_t *w, const struct txb_worker_batch *b,
                                                   uint32_t i) {
  return txb_worker_core_running(&w->core, b->slot, b->base + (int32_t)i)->ref;
}

static enum txb_rc call(txb_worker_t *w, const struct txb_worker_batch *b, uint32_t i, PGconn *conn,
                        struct txb_answer *answer, enum txb_outcome *out, struct txb_error *err) {
  const struct txb_worker_message *m = message_at(w, b, i);
  struct txb_record record = m->record;
  char id[37];
  TXB_TRY(txb_kafka_consumer_headers(w->kafka, m->kafka, &record, err));
  txb_buffer_clear(&w->text);
  txb_worker_headers_json(&record, &m->event, &w->text);
  const char *headers = txb_buffer_text(&w->text);
  TXB_TRY(txb_buffer_check(&w->text, err));
  txb_uuid_format(&b->ids[i], id);
  struct txb_message message = {.struct_size = sizeof message,
                                .id = id,
                                .source = m->event.source,
                                .type = m->event.type,
                                .content_type = m->event.content_type,
                                .topic = w->places[b->slot].topic,
                                .partition = m->record.partition,
                                .offset = m->record.offset,
                                .time_us = m->event.time_us,
                                .key = m->record.key,
                                .payload = m->record.value,
                                .headers_json = headers,
                                .attempt = w->operation.action.attempt};
  *answer = (struct txb_answer){.struct_size = sizeof *answer};
  if (w->settings->handler == TXB_HANDLER_CALLBACK)
    *out = w->settings->callback(conn, &message, answer, w->settings->callback_context);
  else
    *out = w->plugin->handle(conn, &message, answer, w->plugin_context);
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

/* The inbox's answer, as flags on the batch's records: only the new ones are handled. */
static void flag_fresh(struct txb_worker_batch *b, const struct txb_pg_result *fresh) {
  memset(b->first, 0, (size_t)b->count * sizeof *b->first);
  for (int row = 0; row < txb_pg_rows(fresh); row++) {
    struct txb_uuid id;
    int32_t low = 0, high = b->count;
    txb_pg_uuid(fresh, row, 0, &id);
    while (low < high) { /* the first of equal ids: `order` is sorted by id, then by place */
      int32_t middle = low + (high - low) / 2;
      if (memcmp(&b->ids[b->order[middle]], &id, sizeof id) < 0)
        low = middle + 1;
      else
        high = middle;
    }
    TXB_ASSERT(low < b->count);
    b->first[b->order[low]] = true;
    bool all = txb_bug("worker_batch_duplicate_ids") || txb_bug("worker_no_inbox");
    for (int32_t i = low + 1; all && i < b->count && memcmp(&b->ids[b->order[i]], &id, sizeof id) == 0; i++)
      b->first[b->order[i]] = true;
  }
}

static enum txb_rc blame(txb_worker_t *w, uint32_t i, enum txb_outcome outcome, const struct txb_answer *answer,
                         const char *harm, PGconn *conn) {
  struct txb_error why = {.rc = TXB_OK};
  bool known = outcome >= TXB_OUTCOME_OK && outcome <= TXB_OUTCOME_DEAD;
  if (known && outcome != TXB_OUTCOME_OK) {
    (void)TXB_FAIL(&why, TXB_POISON, "%s", answer->reason[0] != '\0' ? answer->reason : "no reason given");
    txb_worker_batch_blame(w, TXB_FAILURE_OUTCOME, (int)i, answer->retry_after_ms > 0 ? answer->retry_after_ms : 0,
                           outcome_names[outcome], &why);
    return TXB_POISON;
  }
  const char *last = PQerrorMessage(conn);
  if (!known)
    (void)TXB_FAIL(&why, TXB_POISON, "the handler answered %d, which is no outcome", (int)outcome);
  else
    (void)TXB_FAIL(&why, TXB_POISON, "%s%s%.300s", harm, last != NULL && last[0] != '\0' ? ": " : "",
                   last != NULL ? last : "");
  txb_worker_batch_blame(w, TXB_FAILURE_ERROR, (int)i, 0, "error", &why);
  return TXB_POISON;
}

/* Nobody is to blame: the batch is undone as after a deadlock, and who runs its messages next has not seen them. */
static enum txb_rc put_off(txb_worker_t *w) {
  struct txb_error why = {.rc = TXB_OK};
  (void)TXB_FAIL(&why, TXB_POISON, "the batch was put off, for a stop or because the group asks for partitions back");
  txb_worker_batch_blame(w, TXB_FAILURE_CONFLICT, -1, 0, "error", &why);
  return TXB_POISON;
}

enum txb_rc txb_worker_handler_plugin_run(txb_worker_t *w, struct txb_worker_batch *b,
                                          const struct txb_pg_result *fresh, int64_t *applied_out,
                                          struct txb_error *err) {
  PGconn *conn = txb_pg_native(w->pg);
  int64_t applied = 0, called = 0;
  enum txb_rc rc = TXB_OK;
  flag_fresh(b, fresh);
  TXB_TRY(txb_pg_pipeline_end(w->pg, err));
  if (PQsetnonblocking(conn, 0) != 0)
    return TXB_FAIL_FROM(err, TXB_RETRY, TXB_ORIGIN_POSTGRES, "connection to %s can't be made blocking",
                         txb_pg_name(w->pg));
  for (uint32_t i = 0; rc == TXB_OK && i < (uint32_t)b->count; i++) {
    struct txb_answer answer;
    enum txb_outcome outcome = TXB_OUTCOME_OK;
    if (!b->first[i])
      continue;
    bool end = false; /* not before the first call: a batch that is rolled back again and again gets nowhere */
    if (called++ > 0)
      TXB_TRY(txb_worker_between_calls(w, &end, err));
    if (end) {
      rc = put_off(w);
      break;
    }
    TXB_TRY(call(w, b, i, conn, &answer, &outcome, err));
    w->spoilt = !tidy(conn);
    if (w->spoilt) {
      w->spoilt = PQstatus(conn) == CONNECTION_OK;
      return TXB_FAIL_FROM(err, TXB_RETRY, TXB_ORIGIN_POSTGRES,
                           "the connection to %s was lost or left unusable by the handler: %.200s", txb_pg_name(w->pg),
                           PQerrorMessage(conn));
    }
    const char *harm = harm_done(conn);
    if (outcome != TXB_OUTCOME_OK || harm != NULL)
      rc = blame(w, i, outcome, &answer, harm, conn);
    else
      applied++;
  }
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
