/* Looking after the inbox: partitions for the days to come, and those dropped that no redelivery can reach any more.
 * Any worker may do it, and doing it twice does no harm. */
#include "common/clock.h"
#include "common/log.h"
#include "consumer/worker_internal.h"
#include "consumer_sql.h"

#define DAY_MS        INT64_C(86400000)
#define AGAIN_US      INT64_C(3600000000)
#define SOON_US       INT64_C(10000000) /* somebody held a lock: nobody waits behind us, so we try again */
#define DAYS_AHEAD    3
#define DAYS_BACK_MAX 60

static const struct txb_pg_statement make = {"txb_worker_inbox_make", txb_text_worker_inbox_make},
                                     drop = {"txb_worker_inbox_drop", txb_text_worker_inbox_drop};

enum txb_rc txb_worker_upkeep_begin(txb_worker_t *w, struct txb_error *err) {
  int64_t days = w->settings->inbox_keep_ms / DAY_MS + 1;
  txb_pg_params_clear(&w->params);
  txb_pg_add_int4(&w->params, (int32_t)(days < DAYS_BACK_MAX ? days : DAYS_BACK_MAX));
  txb_pg_add_int4(&w->params, DAYS_AHEAD);
  TXB_TRY(txb_worker_send(w, &make, &w->params, err));
  TXB_TRY(txb_worker_sync(w, err)); /* each in a transaction of its own: locks are held as shortly as can be */
  txb_pg_params_clear(&w->params);
  txb_pg_add_int8(&w->params, w->settings->inbox_keep_ms);
  TXB_TRY(txb_worker_send(w, &drop, &w->params, err));
  return txb_worker_sync(w, err);
}

void txb_worker_upkeep_end(txb_worker_t *w) {
  const struct txb_worker_operation *o = &w->operation;
  w->upkeep_us = txb_clock_steady_us() + (o->failed ? SOON_US : AGAIN_US);
  if (o->failed)
    txb_log(TXB_LOG_INFO, TXB_MSG("inbox upkeep put off"), TXB_F("group", w->settings->group),
            TXB_F("error", o->error.message));
  else
    txb_log(TXB_LOG_DEBUG, TXB_MSG("inbox looked after"), TXB_FI("made", txb_pg_int4(o->results[0], 0, 0)),
            TXB_FI("dropped", txb_pg_int4(o->results[1], 0, 0)));
}
