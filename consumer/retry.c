/* Failed messages that are due, tried again. Two transactions: the marker is committed before any of them runs (W10);
 * then, in chunks under savepoints as in aside.c,
 *
 *   BEGIN; retry_open; which are applied already | chunks | retry_settle; COMMIT
 *
 * A crash between the two, or before COMMIT is answered, leaves the marker out: the next owner knows whose death it was.
 * After it: states, counters, effects and inbox, all of them.
 */
#include "common/fault.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/random.h"
#include "consumer/worker_internal.h"
#include "consumer_sql.h"

/* The columns of worker_retry_mark.sql that are read here. */
enum { MARK_VERSION = 0, MARK_DUE, MARK_NUMBER, MARK_ATTEMPTS, MARK_DEATHS };

static const struct txb_pg_statement mark = {"txb_worker_retry_mark", txb_text_worker_retry_mark},
                                     open_statement = {"txb_worker_retry_open", txb_text_worker_retry_open},
                                     known_statement = {"txb_worker_known", txb_text_worker_known},
                                     settle = {"txb_worker_settle", txb_text_worker_settle},
                                     condemn = {"txb_worker_condemn", txb_text_worker_condemn};

static struct txb_worker_place *place_of(const txb_worker_t *w) {
  return &w->places[w->operation.action.slot];
}

static struct txb_worker_source source_of(const txb_worker_t *w) {
  return (struct txb_worker_source){.rows = place_of(w)->retry};
}

static bool releases(const txb_worker_t *w) {
  return w->settings->retry_on_dead == TXB_ON_DEAD_RELEASE;
}

/* As many as a batch may be, and every partition has its own. */
static void forget_rows(struct txb_worker_place *place) {
  txb_pg_result_free(place->retry);
  place->retry = NULL;
}

/* ---- RETRY_MARK ------------------------------------------------------------------------------ */

static enum txb_rc mark_begin(txb_worker_t *w, struct txb_error *err) {
  const struct txb_worker_action *a = &w->operation.action;
  forget_rows(place_of(w));
  txb_worker_params_place(w, a);
  txb_pg_add_int8(&w->params, a->epoch);
  txb_pg_add_int4(&w->params, a->count);
  txb_pg_add_int8(&w->params, w->settings->batch_bytes);
  txb_failpoint("worker.before_retry_mark");
  TXB_TRY(txb_worker_send(w, &mark, &w->params, err));
  return txb_worker_sync(w, err);
}

static enum txb_rc mark_end(txb_worker_t *w) {
  struct txb_worker_operation *o = &w->operation;
  struct txb_pg_result *r = o->results[o->answers - 1];
  struct txb_worker_event e = txb_worker_event_now(TXB_WE_RETRY_MARKED, o->action.slot);
  e.keys_version = txb_pg_int8(r, 0, MARK_VERSION);
  e.due_ms = -1;
  if (!txb_pg_is_null(r, 0, MARK_NUMBER)) {
    e.count = txb_pg_rows(r);
    e.number = txb_pg_int8(r, 0, MARK_NUMBER);
    place_of(w)->retry = r;
    o->results[o->answers - 1] = NULL;
  } else if (!txb_pg_is_null(r, 0, MARK_DUE)) {
    e.due_ms = txb_pg_int8(r, 0, MARK_DUE) > 0 ? txb_pg_int8(r, 0, MARK_DUE) : 0;
  }
  txb_failpoint("worker.after_retry_mark");
  txb_worker_step(w, &e);
  return TXB_OK;
}

/* ---- CONDEMN --------------------------------------------------------------------------------- */

static enum txb_rc condemn_begin(txb_worker_t *w, int64_t number, struct txb_error *err) {
  const struct txb_worker_action *a = &w->operation.action;
  txb_worker_params_place(w, a);
  txb_pg_add_int8(&w->params, a->epoch);
  txb_pg_add_int8(&w->params, number);
  txb_pg_add_text(&w->params, txb_slice_text(txb_worker_died(w)));
  txb_pg_add_bool(&w->params, releases(w));
  txb_pg_add_text(&w->params, txb_slice_text(w->settings->owner));
  txb_failpoint("worker.before_condemn");
  TXB_TRY(txb_worker_send(w, &condemn, &w->params, err));
  return txb_worker_sync(w, err);
}

static enum txb_rc condemn_end(txb_worker_t *w) {
  struct txb_worker_operation *o = &w->operation;
  const struct txb_worker_place *place = place_of(w);
  bool within = o->action.kind == TXB_WA_RETRY;
  struct txb_worker_event e = txb_worker_event_now(within ? TXB_WE_RETRIED : TXB_WE_CONDEMNED, o->action.slot);
  txb_failpoint("worker.after_condemn");
  txb_log(TXB_LOG_ERROR, TXB_MSG("message set aside for good: it killed its worker twice"),
          TXB_F("group", w->settings->group), TXB_F("topic", place->topic), TXB_FI("partition", place->partition),
          TXB_FI("number", within ? txb_pg_int8(place->retry, 0, MARK_NUMBER) : o->action.number));
  e.due_ms = txb_worker_keys_left(w, o->results[o->answers - 1]);
  e.held_count = place->held;
  e.settled = 1;
  txb_worker_step(w, &e);
  return TXB_OK;
}

/* ---- settling -------------------------------------------------------------------------------- */

static bool is_known(const txb_worker_t *w, int32_t row) {
  return w->retry.known[row];
}

static struct txb_worker_retry_verdict failed_row(txb_worker_t *w, int32_t row, enum txb_failure_class class,
                                                  int64_t after_ms, const char *error_class, const char *sqlstate,
                                                  const char *error) {
  const struct txb_pg_result *rows = place_of(w)->retry;
  struct txb_worker_source source = source_of(w);
  struct txb_failed_policy policy = txb_worker_policy(w);
  struct txb_worker_item item;
  txb_worker_item_of(w, &source, (uint32_t)row, &item);
  int32_t before = txb_bug("worker_attempt_per_replica") ? 0 : txb_pg_int4(rows, row, MARK_ATTEMPTS);
  struct txb_failed_result r =
      txb_failed_attempt(&policy, before, class, after_ms, txb_worker_held_key(&item).data != NULL, txb_random_u64());
  return (struct txb_worker_retry_verdict){.verdict = txb_failed_state_name(r.state),
                                           .error_class = error_class,
                                           .sqlstate = sqlstate != NULL && sqlstate[0] != '\0' ? sqlstate : NULL,
                                           .error = error,
                                           .delay_ms = r.delay_ms,
                                           .attempts = r.attempts};
}

/* A row whose id another row of the same go has: done with it. */
static bool is_double_of_done(const txb_worker_t *w, int32_t row, const struct txb_worker_retry_verdict *verdicts) {
  int32_t first = w->retry.first_of[row];
  return first != row && strcmp(verdicts[first].verdict, "applied") == 0;
}

static void judge_all(txb_worker_t *w, struct txb_worker_retry_verdict *verdicts, int32_t n) {
  const struct txb_worker_isolated *o = &w->isolated;
  for (int32_t row = 0; row < n; row++)
    verdicts[row] = (struct txb_worker_retry_verdict){.verdict = is_known(w, row) ? "duplicate" : "untouched"};
  for (uint32_t i = 0; i < o->core.settled; i++) {
    int32_t row = (int32_t)o->candidates[i];
    const struct txb_worker_failure *f = txb_worker_isolated_failure(o, i);
    if (o->items[i].state == TXB_ISOLATE_OK)
      verdicts[row].verdict = "applied";
    else if (o->items[i].state == TXB_ISOLATE_FAILED)
      verdicts[row] =
          failed_row(w, row, f->class, f->after_ms, f->error_class, f->sqlstate, txb_worker_isolated_error(o, f));
  }
  for (int32_t row = 0; row < n; row++)
    if (is_double_of_done(w, row, verdicts))
      verdicts[row].verdict = "duplicate";
}

enum text { TEXT_VERDICT, TEXT_CLASS, TEXT_SQLSTATE, TEXT_ERROR };

static void add_texts(txb_worker_t *w, const struct txb_worker_retry_verdict *v, int32_t n, enum text which) {
  txb_pg_array_begin(&w->params, TXB_OID_TEXT);
  for (int32_t i = 0; i < n; i++) {
    const char *text = which == TEXT_VERDICT    ? v[i].verdict
                       : which == TEXT_CLASS    ? v[i].error_class
                       : which == TEXT_SQLSTATE ? v[i].sqlstate
                                                : v[i].error;
    txb_pg_array_bytes(&w->params, txb_worker_safe_text(txb_slice_text(text), &w->text));
  }
  txb_pg_array_end(&w->params);
}

/* The tail: the transaction is closed by what is settled in it. */
static enum txb_rc send_settle(txb_worker_t *w, const struct txb_worker_retry_verdict *v, int32_t n,
                               struct txb_error *err) {
  const struct txb_pg_result *rows = place_of(w)->retry;
  txb_worker_params_place(w, &w->operation.action);
  txb_pg_array_begin(&w->params, TXB_OID_INT8);
  for (int32_t i = 0; i < n; i++)
    txb_pg_array_int8(&w->params, txb_pg_int8(rows, i, MARK_NUMBER));
  txb_pg_array_end(&w->params);
  add_texts(w, v, n, TEXT_VERDICT);
  txb_pg_array_begin(&w->params, TXB_OID_INT8);
  for (int32_t i = 0; i < n; i++)
    txb_pg_array_int8(&w->params, v[i].delay_ms);
  txb_pg_array_end(&w->params);
  add_texts(w, v, n, TEXT_CLASS);
  add_texts(w, v, n, TEXT_SQLSTATE);
  add_texts(w, v, n, TEXT_ERROR);
  txb_pg_add_bool(&w->params, releases(w));
  txb_pg_add_text(&w->params, txb_slice_text(w->settings->owner));
  TXB_TRY(txb_buffer_check(&w->params.bytes, err));
  w->operation.phase = TXB_PHASE_COMMIT;
  w->operation.own = true;
  txb_failpoint("worker.before_retry_settle");
  TXB_TRY(txb_worker_send(w, &settle, &w->params, err));
  w->operation.add_answer = w->operation.sent - 1;
  return txb_worker_commit(w, err);
}

static void count_done(struct txb_worker_retry *retry, const struct txb_worker_retry_verdict *v, int32_t n) {
  retry->settled = retry->failed = 0;
  for (int32_t i = 0; i < n; i++) {
    retry->settled += strcmp(v[i].verdict, "untouched") != 0;
    retry->failed += v[i].error_class != NULL;
  }
}

static enum txb_rc give_up(txb_worker_t *w, struct txb_error *err) {
  const struct txb_worker_isolated *o = &w->isolated;
  w->verdict = txb_worker_event_now(TXB_WE_FAILED, w->operation.action.slot);
  w->verdict.failure = o->put_off ? TXB_FAILURE_CONFLICT : o->trouble;
  w->verdict.at = o->put_off ? -1 : 0;
  return txb_worker_batch_rollback(w, err);
}

static enum txb_rc finish(txb_worker_t *w, struct txb_error *err) {
  int32_t n = txb_pg_rows(place_of(w)->retry);
  judge_all(w, w->retry.verdicts, n);
  count_done(&w->retry, w->retry.verdicts, n);
  if (w->retry.settled == 0)
    return give_up(w, err);
  return send_settle(w, w->retry.verdicts, n, err);
}

/* ---- RETRY ----------------------------------------------------------------------------------- */

static enum txb_rc send_open(txb_worker_t *w, struct txb_error *err) {
  const struct txb_worker_action *a = &w->operation.action;
  TXB_TRY(txb_worker_send(w, &txb_worker_begin_statement, NULL, err));
  txb_worker_params_place(w, a);
  txb_pg_add_int8(&w->params, a->epoch);
  txb_pg_add_int8(&w->params, a->keys_version);
  txb_worker_params_timeout(w);
  return txb_worker_send(w, &open_statement, &w->params, err);
}

/* It failed at its COMMIT, where nothing can be undone for itself: its attempt is counted without another one. */
static enum txb_rc settle_unrun(txb_worker_t *w, struct txb_error *err) {
  const struct txb_worker_action *a = &w->operation.action;
  const struct txb_worker_place *place = place_of(w);
  bool dead = place->error_class != NULL && place->failure_class == TXB_CLASS_DEAD;
  w->condemned = place->error;
  w->retry.verdicts[0] = failed_row(w, 0, dead ? TXB_CLASS_DEAD : TXB_CLASS_COUNT, a->after_ms,
                                    place->error_class != NULL ? place->error_class : "error", w->condemned.sqlstate,
                                    w->condemned.message);
  w->retry.settled = w->retry.failed = 1;
  TXB_TRY(send_open(w, err));
  return send_settle(w, w->retry.verdicts, 1, err);
}

static enum txb_rc make_room(struct txb_worker_retry *r, size_t n, struct txb_error *err) {
  if (n <= r->room)
    return TXB_OK;
  TXB_TRY(txb_regrow_array(&r->known, n, sizeof *r->known, err));
  TXB_TRY(txb_regrow_array(&r->first_of, n, sizeof *r->first_of, err));
  TXB_TRY(txb_regrow_array(&r->which, n, sizeof *r->which, err));
  TXB_TRY(txb_regrow_array(&r->ids, n, sizeof *r->ids, err));
  TXB_TRY(txb_regrow_array(&r->order, n, sizeof *r->order, err));
  TXB_TRY(txb_regrow_array(&r->first, n, sizeof *r->first, err));
  TXB_TRY(txb_regrow_array(&r->verdicts, n, sizeof *r->verdicts, err));
  r->room = n;
  return TXB_OK;
}

void txb_worker_retry_fini(txb_worker_t *w) {
  txb_free(w->retry.known);
  txb_free(w->retry.first_of);
  txb_free(w->retry.which);
  txb_free(w->retry.ids);
  txb_free(w->retry.order);
  txb_free(w->retry.first);
  txb_free(w->retry.verdicts);
}

static enum txb_rc retry_begin(txb_worker_t *w, struct txb_error *err) {
  const struct txb_pg_result *rows = place_of(w)->retry;
  TXB_ASSERT(rows != NULL);
  int32_t n = txb_pg_rows(rows);
  struct txb_worker_source source = source_of(w);
  TXB_TRY(make_room(&w->retry, (size_t)n, err));
  if (w->operation.action.condemn)
    return settle_unrun(w, err);
  if (n == 1 && txb_pg_int4(rows, 0, MARK_DEATHS) >= 2 && !txb_bug("worker_retry_unmarked"))
    return condemn_begin(w, txb_pg_int8(rows, 0, MARK_NUMBER), err);
  for (int32_t i = 0; i < n; i++)
    w->retry.which[i] = (uint32_t)i;
  TXB_TRY(send_open(w, err));
  txb_pg_params_clear(&w->params);
  txb_pg_add_text(&w->params, txb_slice_text(w->settings->group));
  TXB_TRY(txb_worker_apply_ids(w, &source, w->retry.which, n, &w->params, err));
  txb_pg_add_int8(&w->params, txb_worker_run_of(w, &source));
  w->operation.phase = TXB_PHASE_OPEN;
  TXB_TRY(txb_worker_send(w, &known_statement, &w->params, err));
  return txb_worker_sync(w, err);
}

static enum txb_rc next_chunk(txb_worker_t *w, struct txb_error *err) {
  bool done;
  TXB_TRY(txb_worker_isolated_next(w, &done, err));
  return done ? finish(w, err) : TXB_OK;
}

/* Marks the rows whose id is among the known ones; `order` has the rows by id. */
static enum txb_rc note_known(struct txb_worker_retry *r, int32_t n, const struct txb_pg_result *known,
                              struct txb_error *err) {
  TXB_CLEANUP(txb_free_ptr) struct txb_uuid *ids = NULL;
  void *memory = NULL;
  size_t count = (size_t)txb_pg_rows(known), at = 0;
  TXB_TRY(txb_alloc_array(count + 1, sizeof *ids, &memory, err));
  ids = memory;
  for (size_t row = 0; row < count; row++)
    txb_pg_uuid(known, (int)row, 0, &ids[row]);
  txb_worker_sort_ids(ids, count);
  for (int32_t i = 0; i < n; i++) {
    uint32_t row = r->order[i];
    while (at < count && memcmp(&ids[at], &r->ids[row], sizeof *ids) < 0)
      at++;
    r->known[row] = at < count && memcmp(&ids[at], &r->ids[row], sizeof *ids) == 0;
  }
  return TXB_OK;
}

/* The rows that are to be run: not applied already, and of equal ids the first (W6). */
static enum txb_rc choose(txb_worker_t *w, const struct txb_pg_result *known, int32_t *chosen_out,
                          struct txb_error *err) {
  struct txb_worker_source source = source_of(w);
  struct txb_worker_retry *r = &w->retry;
  int32_t n = txb_pg_rows(source.rows), chosen = 0, first = 0;
  for (int32_t i = 0; i < n; i++) {
    struct txb_worker_item item;
    txb_worker_item_of(w, &source, (uint32_t)i, &item);
    r->ids[i] = item.id;
  }
  (void)txb_batch_candidates(r->ids, (size_t)n, r->order, r->first);
  TXB_TRY(note_known(r, n, known, err));
  for (int32_t i = 0; i < n; i++) {
    first = r->first[r->order[i]] ? (int32_t)r->order[i] : first;
    r->first_of[r->order[i]] = first;
  }
  for (int32_t i = 0; i < n; i++)
    if (!r->known[i] && r->first[i])
      r->which[chosen++] = (uint32_t)i;
  for (int32_t i = 0; txb_bug("worker_held_out_of_order") && i < chosen / 2; i++) {
    uint32_t swap = r->which[i];
    r->which[i] = r->which[chosen - 1 - i];
    r->which[chosen - 1 - i] = swap;
  }
  *chosen_out = chosen;
  return TXB_OK;
}

static enum txb_rc on_opened(txb_worker_t *w, struct txb_error *err) {
  struct txb_worker_source source = source_of(w);
  int32_t n;
  TXB_TRY(choose(w, w->operation.results[w->operation.answers - 1], &n, err));
  TXB_TRY(txb_worker_isolated_begin(w, &source, w->retry.which, n, -1, err));
  txb_failpoint("worker.after_retry_open");
  txb_worker_next_phase(w, TXB_PHASE_CHUNK);
  return next_chunk(w, err);
}

/* Not before it is committed: what is refused with it has not happened. */
static void tell_failed(txb_worker_t *w) {
  struct txb_worker_source source = source_of(w);
  int32_t n = w->operation.action.condemn ? 1 : txb_pg_rows(source.rows);
  for (int32_t row = 0; row < n; row++) {
    const struct txb_worker_retry_verdict *v = &w->retry.verdicts[row];
    struct txb_worker_item item;
    if (v->error_class == NULL)
      continue;
    txb_worker_item_of(w, &source, (uint32_t)row, &item);
    txb_worker_tell_aside(w, &item, v->verdict, v->attempts, v->error_class, v->error);
  }
}

static enum txb_rc on_committed(txb_worker_t *w) {
  const struct txb_worker_operation *o = &w->operation;
  struct txb_worker_place *place = place_of(w);
  const char *tag = txb_pg_tag(o->results[o->commit_answer]);
  struct txb_worker_event e = txb_worker_event_now(TXB_WE_RETRIED, o->action.slot);
  txb_failpoint("worker.after_retry_settle");
  if (strcmp(tag, "COMMIT") != 0) {
    e.kind = TXB_WE_FAILED;
    e.failure = TXB_FAILURE_ERROR;
    e.at = 0;
    (void)TXB_FAIL(&place->error, TXB_REFUSED, "COMMIT was answered with %s", tag);
    txb_worker_step(w, &e);
    return TXB_OK;
  }
  e.due_ms = txb_worker_keys_left(w, o->results[o->add_answer]);
  e.held_count = place->held;
  e.settled = w->retry.settled;
  e.failed = w->retry.failed;
  e.transient = !o->action.condemn && w->isolated.core.transient;
  tell_failed(w);
  txb_worker_nudge(w);
  forget_rows(place);
  txb_worker_step(w, &e);
  return TXB_OK;
}

/* ---- what operation.c calls ------------------------------------------------------------------ */

enum txb_rc txb_worker_retry_begin(txb_worker_t *w, struct txb_error *err) {
  if (w->operation.action.kind == TXB_WA_RETRY_MARK)
    return mark_begin(w, err);
  if (w->operation.action.kind == TXB_WA_CONDEMN)
    return condemn_begin(w, w->operation.action.number, err);
  return retry_begin(w, err);
}

static bool is_condemning(const txb_worker_t *w) {
  const struct txb_worker_operation *o = &w->operation;
  return o->action.kind == TXB_WA_CONDEMN ||
         (o->action.kind == TXB_WA_RETRY && o->phase == TXB_PHASE_COMMIT && !o->own);
}

static enum txb_rc retry_end(txb_worker_t *w, struct txb_error *err) {
  struct txb_worker_operation *o = &w->operation;
  struct txb_worker_source source = source_of(w);
  if (o->phase == TXB_PHASE_ROLLBACK) {
    txb_worker_step(w, &w->verdict);
    return TXB_OK;
  }
  if (o->failed && (o->phase != TXB_PHASE_CHUNK || o->failed_answer < w->isolated.first_answer)) {
    TXB_TRY(txb_worker_failed(w, &source, err));
    if (o->action.condemn && w->verdict.kind == TXB_WE_FAILED)
      txb_worker_tell_unsettled(w, place_of(w));
    return TXB_OK;
  }
  if (o->phase == TXB_PHASE_COMMIT)
    return on_committed(w);
  if (o->phase == TXB_PHASE_OPEN)
    return on_opened(w, err);
  TXB_TRY(txb_worker_isolated_answer(w, err));
  if (w->isolated.put_off)
    return give_up(w, err);
  txb_worker_next_phase(w, TXB_PHASE_CHUNK);
  return next_chunk(w, err);
}

enum txb_rc txb_worker_retry_end(txb_worker_t *w, struct txb_error *err) {
  struct txb_worker_operation *o = &w->operation;
  bool single = o->action.kind == TXB_WA_RETRY_MARK || is_condemning(w);
  if (single && o->failed)
    return txb_worker_position_failed(w, err);
  if (o->action.kind == TXB_WA_RETRY_MARK)
    return mark_end(w);
  return single ? condemn_end(w) : retry_end(w, err);
}
