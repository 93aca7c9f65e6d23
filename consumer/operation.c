/* One database operation at a time, on a pipeline that the loop polls: statements go out, answers are taken in as they
 * come, and the last of them ends the operation. What an operation means is with position.c, batch.c, retry.c, lanes.c,
 * decisions.c and inbox_upkeep.c.
 *
 * A connection that dies under an operation leaves it done or not done; nobody guesses: every partition is taken again,
 * from what is stored.
 */
#include "common/clock.h"
#include "consumer/worker_internal.h"
#include "consumer_sql.h"

const struct txb_pg_statement txb_worker_begin_statement = {"txb_worker_begin", txb_text_worker_begin};
const struct txb_pg_statement txb_worker_commit_statement = {"txb_worker_commit", txb_text_worker_commit};
const struct txb_pg_statement txb_worker_rollback_statement = {"txb_worker_rollback", txb_text_worker_rollback};

bool txb_worker_is_database_action(enum txb_worker_action_kind kind) {
  return kind >= TXB_WA_LOOKUP && kind <= TXB_WA_CONDEMN;
}

enum txb_rc txb_worker_send(txb_worker_t *w, const struct txb_pg_statement *statement,
                            const struct txb_pg_params *params, struct txb_error *err) {
  TXB_TRY(txb_pg_send(w->pg, statement, params, err));
  w->operation.sent++;
  return TXB_OK;
}

enum txb_rc txb_worker_sync(txb_worker_t *w, struct txb_error *err) {
  TXB_TRY(txb_pg_sync(w->pg, err));
  w->operation.syncs++;
  return TXB_OK;
}

static void forget_answers(struct txb_worker_operation *o) {
  for (int i = 0; i < TXB_OPERATION_RESULTS; i++) {
    txb_pg_result_free(o->results[i]);
    o->results[i] = NULL;
  }
  o->answers = o->sent = 0;
  o->add_answer = -1;
  o->failed = false;
}

void txb_worker_next_phase(txb_worker_t *w, int phase) {
  forget_answers(&w->operation);
  w->operation.phase = phase;
}

void txb_worker_operation_clear(txb_worker_t *w) {
  forget_answers(&w->operation);
  w->operation = (struct txb_worker_operation){.active = false};
}

void txb_worker_params_place(txb_worker_t *w, const struct txb_worker_action *action) {
  const struct txb_worker_place *place = &w->places[action->slot];
  txb_pg_params_clear(&w->params);
  txb_pg_add_text(&w->params, txb_slice_text(w->settings->group));
  txb_pg_add_text(&w->params, txb_slice_text(place->topic));
  txb_pg_add_int4(&w->params, place->partition);
}

static bool is_retry(enum txb_worker_action_kind kind) {
  return kind == TXB_WA_RETRY_MARK || kind == TXB_WA_RETRY || kind == TXB_WA_CONDEMN;
}

static enum txb_rc begin_side(txb_worker_t *w, struct txb_error *err) {
  switch (w->operation.side) {
  case TXB_SIDE_INBOX:
    return txb_worker_upkeep_begin(w, err);
  case TXB_SIDE_LANES:
    return txb_lanes_begin(w, err);
  case TXB_SIDE_DECISIONS:
    return txb_decisions_begin(w, err);
  }
  return TXB_OK;
}

static enum txb_rc begin(txb_worker_t *w, struct txb_error *err) {
  if (w->operation.action.kind == TXB_WA_RUN)
    return txb_worker_batch_begin(w, err);
  if (w->operation.action.kind == TXB_WA_NONE)
    return begin_side(w, err);
  if (is_retry(w->operation.action.kind))
    return txb_worker_retry_begin(w, err);
  return txb_worker_position_begin(w, err);
}

static enum txb_rc begin_any(txb_worker_t *w, const struct txb_worker_action *action, enum txb_worker_side side,
                             struct txb_error *err) {
  TXB_ASSERT(!w->operation.active && txb_pg_pending(w->pg) == 0);
  w->operation = (struct txb_worker_operation){
      .active = true, .action = *action, .side = side, .began_us = txb_clock_steady_us(), .add_answer = -1};
  TXB_TRY(begin(w, err));
  if (w->operation.syncs == 0) /* answered without the database */
    txb_worker_operation_clear(w);
  return TXB_OK;
}

enum txb_rc txb_worker_operation_begin(txb_worker_t *w, const struct txb_worker_action *action, struct txb_error *err) {
  return begin_any(w, action, TXB_SIDE_INBOX, err);
}

enum txb_rc txb_worker_operation_begin_side(txb_worker_t *w, enum txb_worker_side side, struct txb_error *err) {
  const struct txb_worker_action none = {.kind = TXB_WA_NONE, .slot = -1};
  return begin_any(w, &none, side, err);
}

static enum txb_rc end_side(txb_worker_t *w, struct txb_error *err) {
  switch (w->operation.side) {
  case TXB_SIDE_INBOX:
    return txb_worker_upkeep_end(w, err);
  case TXB_SIDE_LANES:
    return txb_lanes_end(w, err);
  case TXB_SIDE_DECISIONS:
    return txb_decisions_end(w, err);
  }
  return TXB_OK;
}

static enum txb_rc end(txb_worker_t *w, struct txb_error *err) {
  if (w->operation.action.kind == TXB_WA_RUN)
    return txb_worker_batch_end(w, err);
  if (is_retry(w->operation.action.kind))
    return txb_worker_retry_end(w, err);
  return w->operation.action.kind == TXB_WA_NONE ? end_side(w, err) : txb_worker_position_end(w, err);
}

static void answered(struct txb_worker_operation *o, enum txb_pg_kind kind, struct txb_pg_result *result,
                     const struct txb_error *error) {
  if (kind == TXB_PG_ERROR && !o->failed) {
    o->failed = true;
    o->failed_answer = o->answers;
    o->error = *error;
  }
  if (o->answers < TXB_OPERATION_RESULTS) /* a chunk may have more statements than anybody asks the answers of */
    o->results[o->answers] = result;
  else
    txb_pg_result_free(result);
  o->answers++;
}

enum txb_rc txb_worker_operation_progress(txb_worker_t *w, struct txb_error *err) {
  struct txb_worker_operation *o = &w->operation;
  while (o->active) {
    enum txb_pg_kind kind = TXB_PG_SYNC;
    struct txb_pg_result *result = NULL;
    struct txb_error error = {.rc = TXB_OK};
    TXB_ASSERT(o->syncs > 0);
    enum txb_rc rc = txb_pg_next(w->pg, &kind, &result, &error);
    if (rc == TXB_AGAIN)
      return TXB_OK;
    if (rc != TXB_OK) {
      *err = error;
      return rc;
    }
    if (kind != TXB_PG_SYNC) {
      answered(o, kind, result, &error);
      continue;
    }
    if (--o->syncs > 0)
      continue;
    TXB_TRY(end(w, err)); /* may begin another phase */
    if (o->syncs > 0)
      continue;
    /* A lookup only reads, as a claim and a look for decisions may, which a database that is read-only lets through. */
    bool undone = o->phase == TXB_PHASE_ROLLBACK && o->action.kind != TXB_WA_NONE;
    if (!o->failed && !undone && o->action.kind != TXB_WA_LOOKUP &&
        (o->action.kind != TXB_WA_NONE || o->side == TXB_SIDE_INBOX))
      txb_worker_connection_works(w);
    txb_worker_operation_clear(w);
  }
  return TXB_OK;
}
