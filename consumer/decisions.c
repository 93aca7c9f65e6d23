/* Jobs that decide about many failed messages (txb.failed_job): whoever started one may be gone, so workers go on with it, a
 * step between their batches. That there is one comes with the claim of lanes, once a second, and costs no question of its
 * own. A step is one statement and one transaction: a crash before its commit leaves it undone, after it done, and the
 * next one goes on from there, by whomever. */
#include "common/clock.h"
#include "common/log.h"
#include "consumer/worker_internal.h"
#include "consumer_sql.h"

#define PUT_OFF_US INT64_C(10000000) /* a step may have waited half a second for a batch, and batches for it */

/* The columns of failed_job_work.sql. */
enum { ROW_NUMBER, ROW_VERB, ROW_STATE, ROW_DONE, ROW_SKIPPED, ROW_MESSAGES };

static const struct txb_pg_statement work = {"txb_failed_job_work", txb_text_failed_job_work};

void txb_decisions_wanted(txb_worker_t *w) {
  w->decisions.wanted = true;
}

int64_t txb_decisions_due_us(const txb_worker_t *w) {
  return w->decisions.wanted ? w->decisions.due_us : INT64_MAX;
}

enum txb_rc txb_decisions_begin(txb_worker_t *w, struct txb_error *err) {
  txb_pg_params_clear(&w->params);
  txb_pg_add_text(&w->params, txb_slice_text(w->settings->group));
  txb_pg_add_text(&w->params, txb_slice_text(w->settings->owner));
  TXB_TRY(txb_worker_send(w, &work, &w->params, err));
  return txb_worker_sync(w, err);
}

static void tell_step(const txb_worker_t *w, const struct txb_pg_result *r) {
  bool over = strcmp(txb_pg_text(r, 0, ROW_STATE), "running") != 0;
  txb_log(over ? TXB_LOG_INFO : TXB_LOG_DEBUG,
          TXB_MSG(over ? "a job about failed messages is done" : "a step of a job about failed messages is done"),
          TXB_F("group", w->settings->group), TXB_FI("job", txb_pg_int8(r, 0, ROW_NUMBER)),
          TXB_F("verb", txb_pg_text(r, 0, ROW_VERB)), TXB_FI("done", txb_pg_int8(r, 0, ROW_DONE)),
          TXB_FI("skipped", txb_pg_int8(r, 0, ROW_SKIPPED)), TXB_FI("messages", txb_pg_int8(r, 0, ROW_MESSAGES)));
}

/* What stands in the way of a step stands in no batch's way: it is put off, whatever it is. */
enum txb_rc txb_decisions_end(txb_worker_t *w, struct txb_error *err) {
  const struct txb_worker_operation *o = &w->operation;
  struct txb_decisions *d = &w->decisions;
  int64_t now_us = txb_clock_steady_us();
  (void)err;
  if (o->failed) {
    d->due_us = now_us + PUT_OFF_US;
    txb_log(TXB_LOG_INFO, TXB_MSG("step of a job about failed messages put off"), TXB_F("group", w->settings->group),
            TXB_F("sqlstate", o->error.sqlstate), TXB_F("error", o->error.message));
    return TXB_OK;
  }
  const struct txb_pg_result *r = o->results[0];
  if (txb_pg_rows(r) == 0) { /* done, or somebody else is at it: the next claim tells */
    d->wanted = false;
    return TXB_OK;
  }
  d->due_us = now_us + (now_us - o->began_us); /* half of the time is the batches' */
  tell_step(w, r);
  return TXB_OK;
}
