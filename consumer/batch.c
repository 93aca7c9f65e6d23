/* A batch of messages as one transaction. For SQL handlers in one round trip:
 *
 *   BEGIN; batch_open (compare-and-set, W1); inbox and handler in one statement; batch_close; COMMIT; session set back
 *
 * for plugins in two, the handler's own between them:
 *
 *   BEGIN; batch_open; inbox | handler calls | session set back; batch_close; COMMIT
 *
 * A crash before COMMIT is answered leaves the transaction rolled back, or committed with all of it; the position in it
 * tells which.
 */
#include <inttypes.h>
#include <stdio.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/random.h"
#include "consumer/worker_internal.h"
#include "consumer_sql.h"

enum phase { PHASE_COMMIT = 0, PHASE_OPEN, PHASE_ROLLBACK, PHASE_PLANTED };

static const struct txb_pg_statement open_statement = {"txb_worker_open", txb_text_worker_open},
                                     unfenced = {"txb_worker_open_unfenced", txb_text_worker_open_unfenced},
                                     close_statement = {"txb_worker_close", txb_text_worker_close},
                                     inbox = {"txb_worker_inbox", txb_text_worker_inbox};

static bool is_sql(const txb_worker_t *w) {
  return w->settings->handler == TXB_HANDLER_SQL || w->settings->handler == TXB_HANDLER_SQL_BATCH;
}

/* W11: what a handler may have changed of the session is set back: the role before anything of ours runs behind it, the
 * settings before the next message. A rollback sets both back too, and a crash ends the session. */
static const struct txb_pg_statement reset = {"txb_worker_reset", txb_text_worker_reset},
                                     reset_role = {"txb_worker_reset_role", txb_text_worker_reset_role};

enum txb_rc txb_worker_reset_role(txb_worker_t *w, struct txb_error *err) {
  return txb_worker_send(w, &reset_role, NULL, err);
}

enum txb_rc txb_worker_reset_settings(txb_worker_t *w, struct txb_error *err) {
  return txb_worker_send(w, &reset, NULL, err);
}

static const struct txb_worker_record *record_at(const txb_worker_t *w, const struct txb_worker_batch *b, size_t i) {
  return txb_worker_core_running(&w->core, b->slot, b->base + (int32_t)i);
}

static const struct txb_worker_message *message_at(const txb_worker_t *w, const struct txb_worker_batch *b, size_t i) {
  return record_at(w, b, i)->ref;
}

/* ---- parameters ------------------------------------------------------------------------------ */

static enum txb_rc make_room(struct txb_worker_batch *b, size_t count, struct txb_error *err) {
  if (count <= b->room)
    return TXB_OK;
  void *order = b->order, *wanted = b->wanted, *first = b->first, *ids = b->ids;
  enum txb_rc rc = txb_realloc_array(&order, count, sizeof *b->order, err);
  b->order = order;
  if (rc == TXB_OK)
    rc = txb_realloc_array(&wanted, count, sizeof *b->wanted, err);
  b->wanted = wanted;
  if (rc == TXB_OK)
    rc = txb_realloc_array(&first, count, sizeof *b->first, err);
  b->first = first;
  if (rc == TXB_OK)
    rc = txb_realloc_array(&ids, count, sizeof *b->ids, err);
  b->ids = ids;
  b->room = rc == TXB_OK ? count : b->room;
  return rc;
}

static struct txb_slice bytes_of(const struct txb_uuid *id) {
  return txb_slice_of(id->bytes, sizeof id->bytes);
}

/* Sorted and distinct, so that two batches with ids in common meet them in one order. */
static void add_sorted_ids(struct txb_worker_batch *b) {
  txb_pg_array_begin(&b->apply, TXB_OID_UUID);
  for (int32_t i = 0; i < b->count; i++)
    if (b->first[b->order[i]])
      txb_pg_array_bytes(&b->apply, bytes_of(&b->ids[b->order[i]]));
  txb_pg_array_end(&b->apply);
}

enum column { COLUMN_ID, COLUMN_SOURCE, COLUMN_KEY, COLUMN_TYPE, COLUMN_PAYLOAD, COLUMN_CONTENT_TYPE };

static struct txb_slice column_of(const struct txb_worker_message *m, enum column column, const struct txb_uuid *id) {
  switch (column) {
  case COLUMN_ID:
    return bytes_of(id);
  case COLUMN_SOURCE:
    return m->event.source;
  case COLUMN_KEY:
    return m->record.key;
  case COLUMN_TYPE:
    return m->event.type;
  case COLUMN_PAYLOAD:
    return m->record.value;
  case COLUMN_CONTENT_TYPE:
    return m->event.content_type;
  }
  return txb_slice_of(NULL, 0);
}

static void add_column(const txb_worker_t *w, struct txb_worker_batch *b, enum column column, uint32_t oid) {
  txb_pg_array_begin(&b->apply, oid);
  for (int32_t i = 0; i < b->candidates; i++)
    txb_pg_array_bytes(&b->apply, column_of(message_at(w, b, b->wanted[i]), column, &b->ids[b->wanted[i]]));
  txb_pg_array_end(&b->apply);
}

static enum txb_rc add_headers(txb_worker_t *w, struct txb_worker_batch *b, struct txb_error *err) {
  txb_pg_array_begin(&b->apply, TXB_OID_JSONB);
  for (int32_t i = 0; i < b->candidates; i++) {
    const struct txb_worker_message *m = message_at(w, b, b->wanted[i]);
    struct txb_record record = m->record;
    TXB_TRY(txb_kafka_consumer_headers(w->kafka, m->kafka, &record, err));
    txb_buffer_clear(&w->text);
    txb_worker_headers_json(&record, &m->event, &w->text);
    TXB_TRY(txb_buffer_check(&w->text, err));
    txb_pg_array_jsonb(&b->apply, txb_slice_of(w->text.data, w->text.size));
  }
  txb_pg_array_end(&b->apply);
  return TXB_OK;
}

/* The group under which the inbox knows the batch. The planted bugs that go without it do so under a name that it meets
 * for the first time. */
static void add_group(const txb_worker_t *w, struct txb_worker_batch *b) {
  char unknown[40];
  if (!b->planted && !txb_bug("worker_no_inbox")) {
    txb_pg_add_text(&b->apply, txb_slice_text(w->settings->group));
    return;
  }
  snprintf(unknown, sizeof unknown, "none %" PRIu64, txb_random_u64());
  txb_pg_add_text(&b->apply, txb_slice_text(unknown));
}

/* The parameters of worker_apply_message.sql and worker_apply_batch.sql. */
static enum txb_rc add_messages(txb_worker_t *w, struct txb_worker_batch *b, int32_t attempt, struct txb_error *err) {
  const struct txb_worker_place *place = &w->places[b->slot];
  add_group(w, b);
  txb_pg_add_text(&b->apply, txb_slice_text(place->topic));
  txb_pg_add_int4(&b->apply, place->partition);
  txb_pg_add_int4(&b->apply, attempt);
  add_sorted_ids(b);
  add_column(w, b, COLUMN_ID, TXB_OID_UUID);
  txb_pg_array_begin(&b->apply, TXB_OID_INT8);
  for (int32_t i = 0; i < b->candidates; i++)
    txb_pg_array_int8(&b->apply, message_at(w, b, b->wanted[i])->record.offset);
  txb_pg_array_end(&b->apply);
  add_column(w, b, COLUMN_SOURCE, TXB_OID_TEXT);
  add_column(w, b, COLUMN_KEY, TXB_OID_BYTEA);
  add_column(w, b, COLUMN_TYPE, TXB_OID_TEXT);
  txb_pg_array_begin(&b->apply, TXB_OID_TIMESTAMPTZ);
  for (int32_t i = 0; i < b->candidates; i++)
    txb_pg_array_timestamptz(&b->apply, message_at(w, b, b->wanted[i])->event.time_us);
  txb_pg_array_end(&b->apply);
  add_column(w, b, COLUMN_PAYLOAD, TXB_OID_BYTEA);
  add_column(w, b, COLUMN_CONTENT_TYPE, TXB_OID_TEXT);
  TXB_TRY(add_headers(w, b, err));
  txb_pg_add_int4(&b->apply, 1);
  return txb_buffer_check(&b->apply.bytes, err);
}

/* Makes the batch of `count` records, of which `base` stand before it. */
static enum txb_rc make(txb_worker_t *w, struct txb_worker_batch *b, int slot, int32_t base, int32_t count,
                        int32_t attempt, struct txb_error *err) {
  b->slot = slot;
  b->base = base;
  b->serial = w->places[slot].serial;
  b->first_offset = record_at(w, b, 0)->offset;
  b->count = 0;
  b->planted = false;
  TXB_TRY(make_room(b, (size_t)count, err));
  for (size_t i = 0; i < (size_t)count; i++) {
    b->ids[i] = record_at(w, b, i)->id;
  }
  (void)txb_batch_candidates(b->ids, (size_t)count, b->order, b->first);
  b->candidates = 0;
  for (int32_t i = 0; i < count; i++)
    if (b->first[i] || txb_bug("worker_batch_duplicate_ids") || txb_bug("worker_no_inbox"))
      b->wanted[b->candidates++] = (uint32_t)i;
  b->count = count;
  txb_pg_params_clear(&b->apply);
  if (is_sql(w))
    return add_messages(w, b, attempt, err);
  add_group(w, b);
  add_sorted_ids(b);
  return txb_buffer_check(&b->apply.bytes, err);
}

static bool is_made(const txb_worker_t *w, const struct txb_worker_batch *b, int slot, int64_t first_offset,
                    int32_t count) {
  return b->count == count && b->slot == slot && b->serial == w->places[slot].serial && b->first_offset == first_offset;
}

enum txb_rc txb_worker_batch_ahead(txb_worker_t *w, struct txb_error *err) {
  int slot;
  int32_t base, count;
  if (!txb_worker_core_ahead(&w->core, &slot, &base, &count))
    return TXB_OK;
  int64_t first_offset = txb_worker_core_running(&w->core, slot, base)->offset;
  if (w->prepared >= 0 && is_made(w, &w->batches[w->prepared], slot, first_offset, count))
    return TXB_OK;
  int other = w->running == 0 ? 1 : 0;
  w->prepared = -1;
  TXB_TRY(make(w, &w->batches[other], slot, base, count, 1, err));
  w->prepared = other;
  return TXB_OK;
}

void txb_worker_batches_fini(txb_worker_t *w) {
  for (size_t i = 0; i < TXB_ARRAY_SIZE(w->batches); i++) {
    struct txb_worker_batch *b = &w->batches[i];
    txb_pg_params_fini(&b->apply);
    txb_free(b->order);
    txb_free(b->wanted);
    txb_free(b->first);
    txb_free(b->ids);
  }
}

/* ---- sending --------------------------------------------------------------------------------- */

static enum txb_rc send_open(txb_worker_t *w, const struct txb_worker_batch *b, struct txb_error *err) {
  const struct txb_worker_action *a = &w->operation.action;
  const struct txb_worker_record *last = record_at(w, b, (size_t)b->count - 1);
  txb_worker_params_place(w, a);
  txb_pg_add_int8(&w->params, a->epoch);
  txb_pg_add_int8(&w->params, a->expected_next);
  txb_pg_add_int8(&w->params, a->new_next);
  txb_pg_add_int4(&w->params, a->count);
  txb_pg_add_uuid(&w->params, &last->id);
  txb_pg_add_int8(&w->params, last->timestamp_ms);
  return txb_worker_send(w, txb_bug("worker_no_epoch_check") ? &unfenced : &open_statement, &w->params, err);
}

static enum txb_rc send_close(txb_worker_t *w, int64_t applied, struct txb_error *err) {
  txb_worker_params_place(w, &w->operation.action);
  txb_pg_add_int4(&w->params, w->operation.action.count);
  if (applied < 0)
    txb_pg_add_null(&w->params, TXB_OID_INT4);
  else
    txb_pg_add_int4(&w->params, (int32_t)applied);
  return txb_worker_send(w, &close_statement, &w->params, err);
}

enum txb_rc txb_worker_batch_close(txb_worker_t *w, int64_t applied, struct txb_error *err) {
  if (!txb_bug("worker_offset_before_commit"))
    TXB_TRY(send_close(w, applied, err));
#ifdef TXB_FAULTS
  TXB_TRY(txb_pg_pump(w->pg, err)); /* the server has everything but the COMMIT */
#endif
  /* A crash here: the server finds the connection gone and rolls back. */
  txb_failpoint("worker.before_commit");
  TXB_TRY(txb_worker_send(w, &txb_worker_commit_statement, NULL, err));
  w->operation.commit_answer = w->operation.sent - 1;
  /* Not before COMMIT: deferred triggers of the user's tables run there, and may read settings of the transaction. When
   * it fails, this is not run, and the rollback has done the same. */
  if (is_sql(w))
    TXB_TRY(txb_worker_reset_settings(w, err));
  TXB_TRY(txb_worker_sync(w, err));
  TXB_TRY(txb_pg_pump(w->pg, err));
  /* A crash here: committed or not. The next owner reads the position, which is in the same transaction. */
  txb_failpoint("worker.in_commit");
  return TXB_OK;
}

enum txb_rc txb_worker_batch_rollback(txb_worker_t *w, struct txb_error *err) {
  txb_worker_next_phase(w, PHASE_ROLLBACK);
  TXB_TRY(txb_worker_send(w, &txb_worker_rollback_statement, NULL, err));
  TXB_TRY(txb_worker_sync(w, err));
  if (is_sql(w))
    return TXB_OK;
  TXB_TRY(txb_worker_handler_plugin_reset(w, err));
  return txb_worker_sync(w, err);
}

static enum txb_rc send_batch(txb_worker_t *w, struct txb_worker_batch *b, struct txb_error *err) {
  TXB_TRY(txb_worker_send(w, &txb_worker_begin_statement, NULL, err));
  if (!txb_bug("worker_offset_before_commit"))
    TXB_TRY(send_open(w, b, err));
  if (w->operation.action.skip) { /* planted: worker_error_skips */
    w->operation.phase = PHASE_COMMIT;
    return txb_worker_batch_close(w, 0, err);
  }
  if (is_sql(w)) {
    TXB_TRY(txb_worker_send(w, &w->apply, &b->apply, err));
    TXB_TRY(txb_worker_reset_role(w, err));
    w->operation.phase = PHASE_COMMIT;
    return txb_worker_batch_close(w, -1, err);
  }
  w->operation.phase = PHASE_OPEN;
  TXB_TRY(txb_worker_send(w, &inbox, &b->apply, err));
  return txb_worker_sync(w, err);
}

/* Planted worker_inbox_outside: what the inbox took in its own transaction counts as new in the one that follows. */
static enum txb_rc make_planted(txb_worker_t *w, struct txb_worker_batch *b, struct txb_error *err) {
  const struct txb_pg_result *fresh = w->operation.results[1];
  struct txb_uuid id;
  int32_t kept = 0;
  for (int32_t i = 0; i < b->count; i++) {
    bool found = false;
    for (int row = 0; row < txb_pg_rows(fresh) && !found; row++) {
      txb_pg_uuid(fresh, row, 0, &id);
      found = b->first[i] && memcmp(&id, &b->ids[i], sizeof id) == 0;
    }
    b->first[i] = found;
    if (found)
      b->wanted[kept++] = (uint32_t)i;
  }
  b->candidates = kept;
  b->planted = true;
  txb_pg_params_clear(&b->apply);
  if (is_sql(w))
    return add_messages(w, b, w->operation.action.attempt, err);
  add_group(w, b);
  add_sorted_ids(b);
  return txb_buffer_check(&b->apply.bytes, err);
}

/* The two planted orders: the position, or the inbox, in a transaction of its own before the effects. */
static enum txb_rc send_planted(txb_worker_t *w, struct txb_worker_batch *b, struct txb_error *err) {
  w->operation.phase = PHASE_PLANTED;
  TXB_TRY(txb_worker_send(w, &txb_worker_begin_statement, NULL, err));
  if (txb_bug("worker_offset_before_commit")) {
    TXB_TRY(send_open(w, b, err));
    TXB_TRY(send_close(w, b->count, err));
  } else {
    txb_pg_params_clear(&w->params);
    txb_pg_add_text(&w->params, txb_slice_text(w->settings->group));
    txb_pg_array_begin(&w->params, TXB_OID_UUID);
    for (int32_t i = 0; i < b->count; i++)
      if (b->first[b->order[i]])
        txb_pg_array_bytes(&w->params, bytes_of(&b->ids[b->order[i]]));
    txb_pg_array_end(&w->params);
    TXB_TRY(txb_worker_send(w, &inbox, &w->params, err));
  }
  TXB_TRY(txb_worker_send(w, &txb_worker_commit_statement, NULL, err));
  return txb_worker_sync(w, err);
}

enum txb_rc txb_worker_batch_begin(txb_worker_t *w, struct txb_error *err) {
  const struct txb_worker_action *a = &w->operation.action;
  int64_t first_offset = txb_worker_core_running(&w->core, a->slot, 0)->offset;
  bool made =
      w->prepared >= 0 && a->attempt == 1 && is_made(w, &w->batches[w->prepared], a->slot, first_offset, a->count);
  if (made) {
    w->running = w->prepared;
    w->batches[w->running].base = 0;
    w->prepared = -1;
  } else {
    w->running = w->prepared == 0 ? 1 : 0;
    TXB_TRY(make(w, &w->batches[w->running], a->slot, 0, a->count, a->attempt, err));
  }
  struct txb_worker_batch *b = &w->batches[w->running];
  if (!a->skip && (txb_bug("worker_offset_before_commit") || txb_bug("worker_inbox_outside")))
    return send_planted(w, b, err);
  return send_batch(w, b, err);
}

/* ---- what became of it ----------------------------------------------------------------------- */

void txb_worker_batch_blame(txb_worker_t *w, enum txb_failure failure, int at, int64_t after_ms, const char *outcome,
                            const struct txb_error *why) {
  struct txb_worker_place *place = &w->places[w->operation.action.slot];
  w->verdict = txb_worker_event_now(TXB_WE_FAILED, w->operation.action.slot);
  w->verdict.failure = failure;
  w->verdict.at = at;
  w->verdict.after_ms = after_ms;
  place->error = *why;
  snprintf(place->outcome, sizeof place->outcome, "%s", outcome);
}

/* "offset=17 outcome=retry after_ms=5000: text", as txb.not_ok raises it. The text stays in the error. */
static void blame_outcome(txb_worker_t *w, const struct txb_error *error) {
  const struct txb_worker_batch *b = &w->batches[w->running];
  long long offset = -1, after_ms = 0;
  char outcome[16] = "error";
  int end = 0, at = -1;
  struct txb_error why = *error;
  if (sscanf(error->message, "offset=%lld outcome=%15s after_ms=%lld: %n", &offset, outcome, &after_ms, &end) == 3 &&
      end > 0)
    snprintf(why.message, sizeof why.message, "%s", error->message + end);
  for (int32_t i = 0; i < b->count && at < 0; i++)
    at = record_at(w, b, (size_t)i)->offset == offset ? i : -1;
  txb_worker_batch_blame(w, TXB_FAILURE_OUTCOME, at, after_ms, outcome, &why);
}

/* W7: what the inbox no longer remembers can't be told from a repetition, and its CHECK says so in its own way. */
static void explain(struct txb_error *error) {
  if (strcmp(error->sqlstate, "23514") == 0 && strstr(error->message, "\"inbox_horizon\"") != NULL)
    snprintf(
        error->message, sizeof error->message,
        "the message is older than what the inbox remembers (txb.inbox_horizon()), so it can't be told from one that "
        "was applied before; workers.inbox_keep_ms must be longer than the topic's retention");
}

/* Whether what failed ran behind BEGIN and batch_open, which are ours alone: the handler, or something that it changed.
 * Answers that failed or were skipped have no result. */
static bool is_handler_s(const txb_worker_t *w) {
  const struct txb_worker_operation *o = &w->operation;
  return o->phase == PHASE_COMMIT && (!is_sql(w) || (o->results[0] != NULL && o->results[1] != NULL));
}

/* Shutting down, read-only, session ended: a new connection. But the text of an SQLSTATE may be about another server: a
 * handler that asks one by dblink or postgres_fdw raises the same when that one is away. A connection of ours that is
 * over gives no answer to the sync behind the error, so one that still can be used was not meant. */
static bool is_away(const txb_worker_t *w, const struct txb_error *error) {
  bool resources = strncmp(error->sqlstate, "53", 2) == 0 || strncmp(error->sqlstate, "58", 2) == 0;
  if (error->rc != TXB_RETRY || error->origin != TXB_ORIGIN_POSTGRES || resources)
    return false;
  return !is_handler_s(w) || !txb_pg_is_usable(w->pg);
}

static enum txb_rc on_failed(txb_worker_t *w, struct txb_error *err) {
  struct txb_error *error = &w->operation.error;
  explain(error);
  bool conflict = strncmp(error->sqlstate, "40", 2) == 0 || strcmp(error->sqlstate, "26000") == 0 ||
                  strcmp(error->sqlstate, "0A000") == 0;
  if (is_away(w, error)) {
    *err = *error;
    return error->rc;
  }
  if (error->rc == TXB_FENCED) {
    const struct txb_worker_place *place = &w->places[w->operation.action.slot];
    txb_log(TXB_LOG_WARN, TXB_MSG("fenced: somebody else has this partition now; asking the group"),
            TXB_F("topic", place->topic), TXB_FI("partition", place->partition), TXB_F("error", error->message));
    w->verdict = txb_worker_event_now(TXB_WE_FENCED, w->operation.action.slot);
  } else if (error->rc == TXB_POISON) {
    blame_outcome(w, error);
  } else {
    txb_worker_batch_blame(w, conflict ? TXB_FAILURE_CONFLICT : TXB_FAILURE_ERROR, -1, 0, "error", error);
  }
  return txb_worker_batch_rollback(w, err);
}

static void on_committed(txb_worker_t *w) {
  const struct txb_worker_operation *o = &w->operation;
  const struct txb_worker_action *a = &o->action;
  struct txb_worker_event e = txb_worker_event_now(TXB_WE_COMMITTED, a->slot);
  const char *tag = txb_pg_tag(o->results[o->commit_answer]);
  e.tag_commit = strcmp(tag, "COMMIT") == 0;
  if (!e.tag_commit)
    (void)TXB_FAIL(&w->places[a->slot].error, TXB_REFUSED,
                   "COMMIT was answered with %s: the handler went on after an error of its transaction", tag);
  w->consumed += e.tag_commit ? a->count : 0;
  /* A crash here, or any later: the effects stand, and Kafka's copy of the offset is a little old. */
  txb_failpoint("worker.after_commit");
  txb_worker_step(w, &e);
}

/* The inbox has said what is new: the handler is called. */
static enum txb_rc on_opened(txb_worker_t *w, struct txb_error *err) {
  struct txb_worker_batch *b = &w->batches[w->running];
  int64_t applied = 0;
  txb_failpoint("worker.after_open");
  enum txb_rc rc = txb_worker_handler_plugin_run(w, b, w->operation.results[w->operation.answers - 1], &applied, err);
  if (rc == TXB_POISON)
    return txb_worker_batch_rollback(w, err);
  if (rc != TXB_OK)
    return rc;
  txb_failpoint("worker.after_apply");
  txb_worker_next_phase(w, PHASE_COMMIT);
  TXB_TRY(txb_worker_handler_plugin_reset(w, err));
  return txb_worker_batch_close(w, applied, err);
}

enum txb_rc txb_worker_batch_end(txb_worker_t *w, struct txb_error *err) {
  struct txb_worker_operation *o = &w->operation;
  if (o->failed && o->phase != PHASE_ROLLBACK)
    return on_failed(w, err);
  switch ((enum phase)o->phase) {
  case PHASE_COMMIT:
    on_committed(w);
    return TXB_OK;
  case PHASE_OPEN:
    return on_opened(w, err);
  case PHASE_ROLLBACK:
    txb_worker_step(w, &w->verdict);
    return TXB_OK;
  case PHASE_PLANTED:
    if (txb_bug("worker_inbox_outside"))
      TXB_TRY(make_planted(w, &w->batches[w->running], err));
    txb_worker_next_phase(w, PHASE_COMMIT);
    return send_batch(w, &w->batches[w->running], err);
  }
  return TXB_OK;
}
