/* The pipeline to PostgreSQL. Each request is a few statements and a sync: one transaction. Answers come in the
 * order of sending, so that whatever is answered later was executed later. */
#include <string.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/memory.h"
#include "outbox/relay_internal.h"

enum txb_rc txb_relay_request_sent(struct txb_relay *r, enum txb_relay_request_kind kind, struct txb_error *err) {
  TXB_ASSERT(r->request_count < TXB_RELAY_REQUESTS_MAX);
  TXB_TRY(txb_pg_sync(r->pg, err));
  r->requests[(r->request_first + r->request_count++) % TXB_RELAY_REQUESTS_MAX] =
      (struct txb_relay_request){.kind = kind, .sent_us = txb_clock_steady_us()};
  return TXB_OK;
}

void txb_relay_requests_drop(struct txb_relay *r) {
  r->request_count = 0;
  r->status_out = r->due_out = r->move_out = r->move_more = r->releasing = r->release_out = false;
  r->settling = false;
  txb_relay_take_decisions(r, NULL);
  r->flush_us = 0;
}

static enum txb_rc event(struct txb_relay *r, enum txb_relay_event_kind kind, struct txb_error *err) {
  return txb_relay_step(r, &(struct txb_relay_event){.kind = kind}, err);
}

/* A statement's answer. Owns the result. */
static enum txb_rc take(struct txb_relay *r, const struct txb_relay_request *request, struct txb_pg_result *taken,
                        struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *result = taken;
  if (r->releasing) /* what is still answered concerns nobody any more */
    return TXB_OK;
  switch (request->kind) {
  case TXB_REQUEST_POLL:
    return txb_relay_take_poll(r, request->answers - 1, txb_steal(result), err);
  case TXB_REQUEST_FLUSHED:
    return txb_relay_take_flushed(r, result, err);
  case TXB_REQUEST_LIST:
    return txb_relay_take_list(r, result, err);
  case TXB_REQUEST_LOOK:
    return txb_relay_step(
        r, &(struct txb_relay_event){.kind = TXB_RELAY_LOOKED, .u.look_found = txb_pg_bool(result, 0, 0)}, err);
  case TXB_REQUEST_DUE:
    r->move_more = txb_pg_bool(result, 0, 0);
    txb_relay_choose_checkpoint(r, txb_pg_int8(result, 0, 1));
    return TXB_OK;
  case TXB_REQUEST_MOVE:
    r->move_more = txb_pg_int4(result, 0, 0) == TXB_RELAY_MOVE_ROWS;
    return TXB_OK;
  case TXB_REQUEST_DECIDE:
    txb_relay_take_decisions(r, txb_steal(result));
    return TXB_OK;
  case TXB_REQUEST_CHECKPOINT:
  case TXB_REQUEST_RENEW:
  case TXB_REQUEST_STATUS:
  case TXB_REQUEST_RECORD:
  case TXB_REQUEST_RELEASE:
    return TXB_OK; /* what they say counts when it is committed: at the sync */
  }
  return TXB_OK;
}

/* A request's sync: what it wrote is committed. */
static enum txb_rc done(struct txb_relay *r, enum txb_relay_request_kind kind, struct txb_error *err) {
  if (r->releasing && kind != TXB_REQUEST_RELEASE)
    return TXB_OK;
  switch (kind) {
  case TXB_REQUEST_POLL:
    return txb_relay_poll_done(r, err);
  case TXB_REQUEST_FLUSHED:
  case TXB_REQUEST_LIST:
  case TXB_REQUEST_LOOK:
    return TXB_OK;
  case TXB_REQUEST_CHECKPOINT:
    /* A crash from here on begins at the new position. */
    txb_failpoint("relay.after_checkpoint");
    if (r->settling)
      /* A crash here: what was decided about is resolved, and the holds that it leaves are stored. */
      txb_failpoint("relay.after_settle");
    r->settling = false;
    return event(r, TXB_RELAY_CHECKPOINTED, err);
  case TXB_REQUEST_RENEW:
    return event(r, TXB_RELAY_RENEWED, err);
  case TXB_REQUEST_STATUS:
    r->status_out = false;
    return TXB_OK;
  case TXB_REQUEST_RECORD:
    /* A crash here finds the intent recorded and its key held, though no checkpoint has passed it: it is read again,
     * and passed over by its own hold. */
    txb_failpoint("relay.after_record_failed");
    txb_backoff_reset(&r->replacing); /* that was progress */
    r->replace_us = 0;
    return event(r, TXB_RELAY_RECORDED, err);
  case TXB_REQUEST_DECIDE:
    return txb_relay_decisions_done(r, err);
  case TXB_REQUEST_DUE:
    r->due_out = false;
    return TXB_OK;
  case TXB_REQUEST_MOVE:
    /* A crash here finds them in the outbox, as if they had been published there. */
    txb_failpoint("relay.after_schedule_move");
    r->move_out = false;
    return TXB_OK;
  case TXB_REQUEST_RELEASE:
    r->release_out = false;
    return TXB_OK;
  }
  return TXB_OK;
}

/* A request's statement failed. Nothing of the request is committed. */
static enum txb_rc failed(struct txb_relay *r, const struct txb_relay_request *request, struct txb_error *err) {
  if (strcmp(err->sqlstate, "57014") == 0) /* somebody's pg_cancel_backend: no reason to give up for good */
    err->rc = TXB_RETRY;
  if (err->rc == TXB_FENCED)
    err->origin = TXB_ORIGIN_NONE; /* another relay took over: everyday life, no reason to end */
  if (request->kind == TXB_REQUEST_MOVE && err->rc == TXB_REFUSED) {
    /* No partition, perhaps: nothing moves until there is one, and all else goes on. */
    txb_log(TXB_LOG_WARN, TXB_MSG("scheduled intents cannot be moved, trying again"), TXB_F("source", r->o->source),
            TXB_F("error", err->message));
    r->move_more = false;
    r->due_us = txb_clock_steady_us() + 5000000;
    return TXB_OK;
  }
  return err->rc;
}

enum txb_rc txb_relay_request_next(struct txb_relay *r, struct txb_error *err) {
  enum txb_pg_kind kind;
  struct txb_pg_result *result = NULL;
  if (r->request_count == 0)
    return TXB_AGAIN;
  TXB_TRY(txb_pg_next(r->pg, &kind, &result, err));
  struct txb_relay_request *request = &r->requests[r->request_first];
  switch (kind) {
  case TXB_PG_ROWS:
    request->answers++;
    return take(r, request, result, err);
  case TXB_PG_SYNC:
    r->request_first = (r->request_first + 1) % TXB_RELAY_REQUESTS_MAX;
    r->request_count--;
    return done(r, request->kind, err);
  case TXB_PG_ERROR:
    return failed(r, request, err);
  case TXB_PG_SKIPPED:
    return TXB_OK;
  }
  return TXB_OK;
}
