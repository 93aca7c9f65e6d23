/* A batch whose run failed, once more: in chunks under savepoints (isolated.c), so that what fails goes to txb.failed and
 * its good neighbours are applied, all in one transaction:
 *
 *   BEGIN; batch_open | chunks | failed_add; [batch_cut]; batch_close; COMMIT
 *
 * And a single message that is known to fail: set aside without being run. A crash before COMMIT is answered leaves the
 * transaction rolled back, or committed with all of it.
 */
#include "common/fault.h"
#include "common/memory.h"
#include "common/random.h"
#include "consumer/worker_internal.h"
#include "consumer_sql.h"

static const struct txb_pg_statement cut_statement = {"txb_worker_cut", txb_text_worker_cut};

/* ---- set aside without being run ------------------------------------------------------------- */

static void condemned(txb_worker_t *w, const struct txb_worker_batch *b, struct txb_worker_aside *out) {
  const struct txb_worker_action *a = &w->operation.action;
  const struct txb_worker_place *place = &w->places[b->slot];
  struct txb_failed_policy policy = txb_worker_policy(w);
  struct txb_worker_source source = {.batch = b};
  struct txb_worker_item item;
  bool crash = a->failure == TXB_FAILURE_CRASH;
  txb_worker_item_of(w, &source, 0, &item);
  bool dead = crash || (place->error_class != NULL && place->failure_class == TXB_CLASS_DEAD);
  struct txb_failed_result r = txb_failed_attempt(&policy, 0, dead ? TXB_CLASS_DEAD : TXB_CLASS_COUNT, a->after_ms,
                                                  txb_worker_held_key(&item).data != NULL, txb_random_u64());
  w->condemned = place->error;
  *out = (struct txb_worker_aside){.index = 0,
                                   .state = r.state == TXB_FAILED_DEAD ? TXB_ASIDE_DEAD : TXB_ASIDE_RETRYING,
                                   .holds = r.holds,
                                   .delay_ms = r.delay_ms,
                                   .error_class = crash                        ? "crash"
                                                  : place->error_class != NULL ? place->error_class
                                                                               : "error",
                                   .sqlstate = crash ? NULL : w->condemned.sqlstate,
                                   .error = crash ? txb_worker_died(w) : w->condemned.message};
}

static enum txb_rc condemn(txb_worker_t *w, struct txb_worker_batch *b, struct txb_error *err) {
  struct txb_worker_source source = {.batch = b};
  if (b->aside_count == 0) { /* else its key is held */
    condemned(w, b, &b->aside[0]);
    b->aside_count = 1;
    TXB_TRY(txb_worker_aside_params(w, &source, b->aside, 1, &b->add, err));
  }
  w->operation.own = true;
  TXB_TRY(txb_worker_send(w, &txb_worker_begin_statement, NULL, err));
  TXB_TRY(txb_worker_batch_open(w, b, err));
  TXB_TRY(txb_worker_batch_add(w, b, err));
  return txb_worker_batch_close(w, b, 0, err);
}

/* ---- the end of a run ------------------------------------------------------------------------ */

static struct txb_worker_aside failed_one(const txb_worker_t *w, uint32_t candidate) {
  const struct txb_worker_isolated *o = &w->isolated;
  const struct txb_worker_failure *f = txb_worker_isolated_failure(o, candidate);
  struct txb_failed_policy policy = txb_worker_policy(w);
  TXB_ASSERT(f != NULL);
  struct txb_failed_result r =
      txb_failed_attempt(&policy, 0, f->class, f->after_ms, o->keys[candidate].data != NULL, txb_random_u64());
  return (struct txb_worker_aside){.index = o->candidates[candidate],
                                   .state = r.state == TXB_FAILED_DEAD ? TXB_ASIDE_DEAD : TXB_ASIDE_RETRYING,
                                   .holds = r.holds,
                                   .delay_ms = r.delay_ms,
                                   .error_class = f->error_class,
                                   .sqlstate = f->sqlstate,
                                   .error = txb_worker_isolated_error(o, f)};
}

/* Those of held keys that came with the batch, and what the run has found, in the order of the records below `cut`. */
static enum txb_rc gather(txb_worker_t *w, struct txb_worker_batch *b, uint32_t cut, struct txb_error *err) {
  const struct txb_worker_isolated *o = &w->isolated;
  TXB_CLEANUP(txb_free_ptr) struct txb_worker_aside *held = NULL;
  void *memory = NULL;
  int32_t held_count = b->aside_count, next = 0;
  TXB_TRY(txb_alloc_array((size_t)held_count + 1, sizeof *held, &memory, err));
  held = memory;
  memcpy(held, b->aside, (size_t)held_count * sizeof *held);
  b->aside_count = 0;
  for (uint32_t i = 0; i <= o->core.settled; i++) {
    uint32_t index = i < o->core.settled ? o->candidates[i] : cut;
    for (; next < held_count && held[next].index < index; next++)
      b->aside[b->aside_count++] = held[next];
    if (i == o->core.settled)
      break;
    if (o->items[i].state == TXB_ISOLATE_FAILED)
      b->aside[b->aside_count++] = failed_one(w, i);
    else if (o->items[i].state == TXB_ISOLATE_BEHIND)
      b->aside[b->aside_count++] = (struct txb_worker_aside){.index = index, .state = TXB_ASIDE_HELD, .holds = true};
  }
  return TXB_OK;
}

static enum txb_rc send_cut(txb_worker_t *w, const struct txb_worker_batch *b, struct txb_error *err) {
  const struct txb_worker_record *last = txb_worker_core_running(&w->core, b->slot, b->count - 1);
  txb_worker_params_place(w, &w->operation.action);
  txb_pg_add_int8(&w->params, last->offset + 1);
  txb_pg_add_int4(&w->params, b->count);
  txb_pg_add_uuid(&w->params, &last->id);
  txb_pg_add_int8(&w->params, last->timestamp_ms);
  return txb_worker_send(w, &cut_statement, &w->params, err);
}

/* Nothing can be settled: all of it is as it was. */
static enum txb_rc give_up(txb_worker_t *w, struct txb_error *err) {
  struct txb_worker_isolated *o = &w->isolated;
  w->verdict = txb_worker_event_now(TXB_WE_FAILED, w->operation.action.slot);
  w->verdict.failure = o->put_off ? TXB_FAILURE_CONFLICT : o->trouble;
  w->verdict.at = o->put_off ? -1 : 0;
  return txb_worker_batch_rollback(w, err);
}

static enum txb_rc finish(txb_worker_t *w, struct txb_worker_batch *b, struct txb_error *err) {
  struct txb_worker_isolated *o = &w->isolated;
  int32_t opened = b->count;
  int32_t cut = o->core.settled < o->core.count ? (int32_t)o->candidates[o->core.settled] : b->count;
  struct txb_worker_source source = {.batch = b};
  if (cut == 0)
    return give_up(w, err);
  TXB_TRY(gather(w, b, (uint32_t)cut, err));
  b->count = cut;
  if (b->aside_count > 0)
    TXB_TRY(txb_worker_aside_params(w, &source, b->aside, b->aside_count, &b->add, err));
  w->operation.phase = TXB_PHASE_COMMIT;
  w->operation.own = true;
  TXB_TRY(txb_worker_batch_add(w, b, err));
  if (cut < opened)
    TXB_TRY(send_cut(w, b, err));
  return txb_worker_batch_close(w, b, o->applied, err);
}

/* ---- the run --------------------------------------------------------------------------------- */

static enum txb_rc next_chunk(txb_worker_t *w, struct txb_worker_batch *b, struct txb_error *err) {
  bool done;
  TXB_TRY(txb_worker_isolated_next(w, &done, err));
  return done ? finish(w, b, err) : TXB_OK;
}

enum txb_rc txb_worker_aside_begin(txb_worker_t *w, struct txb_worker_batch *b, struct txb_error *err) {
  const struct txb_worker_action *a = &w->operation.action;
  struct txb_worker_source source = {.batch = b};
  int32_t culprit = -1;
  if (a->condemn)
    return condemn(w, b, err);
  for (int32_t i = 0; a->at >= 0 && i < b->candidates; i++)
    culprit = b->wanted[i] == (uint32_t)a->at ? i : culprit;
  TXB_TRY(txb_worker_isolated_begin(w, &source, b->wanted, b->candidates, culprit, err));
  w->operation.phase = TXB_PHASE_CHUNK;
  TXB_TRY(txb_worker_send(w, &txb_worker_begin_statement, NULL, err));
  TXB_TRY(txb_worker_batch_open(w, b, err));
  return next_chunk(w, b, err);
}

enum txb_rc txb_worker_aside_end(txb_worker_t *w, struct txb_worker_batch *b, struct txb_error *err) {
  struct txb_worker_operation *o = &w->operation;
  struct txb_worker_source source = {.batch = b};
  if (o->failed && o->failed_answer < w->isolated.first_answer) /* the fence, or what ends a chunk */
    return txb_worker_failed(w, &source, err);
  TXB_TRY(txb_worker_isolated_answer(w, err));
  if (w->isolated.put_off)
    return give_up(w, err);
  txb_worker_next_phase(w, TXB_PHASE_CHUNK);
  return next_chunk(w, b, err);
}
