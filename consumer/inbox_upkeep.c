/* Looking after the inbox: partitions for the days to come, and those dropped that no redelivery can reach any more. Then the
 * days of sagas that ended, or of the barrier. And failed messages of the group that ended long ago, a chunk at a time. Any
 * worker may do it, and doing it twice does no harm. Each statement is a transaction of its own: a crash between two leaves
 * the wish noted, the old days and the old messages there, and whoever looks next drops them. */
#include "common/clock.h"
#include "common/log.h"
#include "consumer/worker_internal.h"
#include "consumer_sql.h"

#define DAY_MS        INT64_C(86400000)
#define AGAIN_US      INT64_C(3600000000)
#define SOON_US       INT64_C(10000000) /* somebody held a lock: nobody waits behind us, so we try again */
#define MORE_US       INT64_C(1000000)  /* there is more to delete: batches come in between */
#define EXPIRE_ROWS   1000
#define DAYS_AHEAD    3
#define DAYS_BACK_MAX 60

enum phase { PHASE_MAKE = 0, PHASE_OLD, PHASE_DROP, PHASE_SAGAS, PHASE_EXPIRE };

static const struct txb_pg_statement make = {"txb_worker_inbox_make", txb_text_worker_inbox_make},
                                     keep = {"txb_worker_inbox_keep", txb_text_worker_inbox_keep},
                                     old = {"txb_worker_inbox_old", txb_text_worker_inbox_old},
                                     drop = {"txb_worker_inbox_drop", txb_text_worker_inbox_drop},
                                     barrier = {"txb_worker_barrier_make", txb_text_worker_barrier_make},
                                     barrier_drop = {"txb_worker_barrier_drop", txb_text_worker_barrier_drop},
                                     expire = {"txb_worker_failed_expire", txb_text_worker_failed_expire};

/* The lowest id of the day before which everything is dropped: the time in its first 48 bits, and nothing behind. */
static void lowest_id(int64_t keep_ms, struct txb_uuid *out) {
  int64_t ms = txb_clock_wall_us() / 1000 - keep_ms;
  ms = ms > 0 ? ms - ms % DAY_MS : 0;
  memset(out->bytes, 0, sizeof out->bytes);
  for (int i = 0; i < 6; i++)
    out->bytes[i] = (unsigned char)(ms >> (40 - 8 * i));
}

void txb_worker_serves_commands(txb_worker_t *w) {
  if (!w->serves_commands)
    w->upkeep_us = txb_clock_steady_us(); /* at once: in an hour the default would be full of them */
  w->serves_commands = w->published = true;
}

enum txb_rc txb_worker_upkeep_begin(txb_worker_t *w, struct txb_error *err) {
  w->upkeep_soon = false;
  int64_t days = w->settings->inbox_keep_ms / DAY_MS;
  txb_pg_params_clear(&w->params);
  txb_pg_add_int4(&w->params, (int32_t)(days < DAYS_BACK_MAX ? days : DAYS_BACK_MAX));
  txb_pg_add_int4(&w->params, DAYS_AHEAD);
  TXB_TRY(txb_worker_send(w, &make, &w->params, err));
  TXB_TRY(txb_worker_sync(w, err)); /* each in a transaction of its own: locks are held as shortly as can be */
  txb_pg_params_clear(&w->params);
  txb_pg_add_text(&w->params, txb_slice_text(w->settings->group));
  txb_pg_add_int8(&w->params, w->settings->inbox_keep_ms);
  TXB_TRY(txb_worker_send(w, &keep, &w->params, err));
  TXB_TRY(txb_worker_sync(w, err));
  if (w->serves_commands) {
    txb_pg_params_clear(&w->params);
    txb_pg_add_int4(&w->params, DAYS_AHEAD);
    TXB_TRY(txb_worker_send(w, &barrier, &w->params, err));
    TXB_TRY(txb_worker_sync(w, err));
  }
  if (w->settings->engine == NULL || w->settings->engine->upkeep == NULL)
    return TXB_OK;
  TXB_TRY(txb_worker_send(w, w->settings->engine->upkeep, NULL, err));
  return txb_worker_sync(w, err);
}

/* A day is dropped for all groups of the database: the longest wish counts. */
static enum txb_rc look_for_old(txb_worker_t *w, struct txb_error *err) {
  struct txb_uuid lowest;
  w->inbox_keep_ms = txb_pg_int8(w->operation.results[1], 0, 0);
  lowest_id(w->inbox_keep_ms, &lowest);
  txb_worker_next_phase(w, PHASE_OLD);
  txb_pg_params_clear(&w->params);
  txb_pg_add_uuid(&w->params, &lowest);
  TXB_TRY(txb_worker_send(w, &old, &w->params, err));
  return txb_worker_sync(w, err);
}

static enum txb_rc drop_old(txb_worker_t *w, struct txb_error *err) {
  txb_worker_next_phase(w, PHASE_DROP);
  txb_pg_params_clear(&w->params);
  txb_pg_add_int8(&w->params, w->inbox_keep_ms);
  TXB_TRY(txb_worker_send(w, &drop, &w->params, err));
  return txb_worker_sync(w, err);
}

/* NULL: the group has nothing to do with sagas, or has not seen a command yet. */
static const struct txb_pg_statement *sagas_statement(const txb_worker_t *w) {
  if (w->settings->engine != NULL)
    return w->settings->engine->expire;
  return w->serves_commands ? &barrier_drop : NULL;
}

static enum txb_rc drop_sagas(txb_worker_t *w, struct txb_error *err) {
  txb_worker_next_phase(w, PHASE_SAGAS);
  txb_pg_params_clear(&w->params);
  txb_pg_add_text(&w->params, txb_slice_text(w->settings->group));
  txb_pg_add_int8(&w->params, w->settings->saga_keep_ms);
  TXB_TRY(txb_worker_send(w, sagas_statement(w), &w->params, err));
  return txb_worker_sync(w, err);
}

static enum txb_rc expire_failed(txb_worker_t *w, struct txb_error *err) {
  txb_worker_next_phase(w, PHASE_EXPIRE);
  txb_pg_params_clear(&w->params);
  txb_pg_add_text(&w->params, txb_slice_text(w->settings->group));
  txb_pg_add_int8(&w->params, w->settings->failed_keep_ms);
  txb_pg_add_int4(&w->params, EXPIRE_ROWS);
  TXB_TRY(txb_worker_send(w, &expire, &w->params, err));
  return txb_worker_sync(w, err);
}

static void tell_dropped(const txb_worker_t *w) {
  int32_t count = txb_pg_int4(w->operation.results[0], 0, 0);
  if (w->operation.phase == PHASE_DROP)
    txb_log(TXB_LOG_INFO, TXB_MSG("days of the inbox dropped"), TXB_F("group", w->settings->group),
            TXB_FI("count", count));
  else if (count > 0)
    txb_log(TXB_LOG_INFO, TXB_MSG("days of sagas dropped"), TXB_F("group", w->settings->group), TXB_FI("count", count));
}

static void tell_put_off(const txb_worker_t *w) {
  txb_log(TXB_LOG_INFO, TXB_MSG("inbox upkeep put off"), TXB_F("group", w->settings->group),
          TXB_F("error", w->operation.error.message));
}

/* When it is looked after next. */
static int64_t pause_after(const txb_worker_t *w) {
  const struct txb_worker_operation *o = &w->operation;
  if (o->failed) {
    tell_put_off(w);
    return SOON_US;
  }
  int32_t expired = txb_pg_int4(o->results[0], 0, 0);
  if (expired > 0)
    txb_log(TXB_LOG_INFO, TXB_MSG("failed messages that ended long ago deleted"), TXB_F("group", w->settings->group),
            TXB_FI("count", expired));
  if (expired >= EXPIRE_ROWS)
    return MORE_US;
  return w->upkeep_soon ? SOON_US : AGAIN_US;
}

enum txb_rc txb_worker_upkeep_end(txb_worker_t *w, struct txb_error *err) {
  const struct txb_worker_operation *o = &w->operation;
  if (!o->failed && o->phase == PHASE_MAKE)
    return look_for_old(w, err);
  if (!o->failed && o->phase == PHASE_OLD && txb_pg_bool(o->results[0], 0, 0))
    return drop_old(w, err);
  if (!o->failed && (o->phase == PHASE_DROP || o->phase == PHASE_SAGAS))
    tell_dropped(w);
  if (o->failed && o->phase == PHASE_SAGAS) { /* a busy coordinator: the failed messages don't wait for its days */
    tell_put_off(w);
    w->upkeep_soon = true;
    return expire_failed(w, err);
  }
  if (!o->failed && o->phase < PHASE_SAGAS && sagas_statement(w) != NULL)
    return drop_sagas(w, err);
  if (!o->failed && o->phase != PHASE_EXPIRE)
    return expire_failed(w, err);
  w->upkeep_us = txb_clock_steady_us() + pause_after(w);
  return TXB_OK;
}
