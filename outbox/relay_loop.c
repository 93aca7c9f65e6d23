/* Serving a source: events to the core, its actions to the servers, and one place to wait. */
#include <inttypes.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/loop.h"
#include "outbox/relay_internal.h"

#define DUE_EVERY_US    100000  /* looks at txb.scheduled */
#define STOP_WAIT_US    5000000 /* for reports, at a stop */
#define IDLE_FOREVER_US 3600000000

/* ---- one step --------------------------------------------------------------------------------------------------- */

static enum txb_rc carry_out(struct txb_relay *r, const struct txb_relay_actions *a, struct txb_error *err) {
  r->replace = r->replace || a->replace_producer;
  r->idle = a->idle;
  r->stopped = a->stopped;
  r->wake_us = a->wake_us;
  if (a->probe) {
    r->probe = true;
    r->probe_topic = a->probe_topic;
  }
  if (a->poll)
    TXB_TRY(txb_relay_send_poll(r, &a->read, err));
  if (a->list)
    TXB_TRY(txb_relay_send_list(r, err));
  if (a->look)
    TXB_TRY(txb_relay_send_look(r, a->look_ranges, a->look_count, err));
  if (a->checkpoint)
    TXB_TRY(txb_relay_send_checkpoint(r, a->position, err));
  if (a->renew)
    TXB_TRY(txb_relay_send_renew(r, TXB_REQUEST_RENEW, err));
  if (a->decide)
    TXB_TRY(txb_relay_send_decide(r, err));
  if (a->record)
    TXB_TRY(txb_relay_send_record(r, a->record_ticket, err));
  return TXB_OK;
}

static enum txb_rc alarm_raised(struct txb_relay *r, enum txb_relay_alarm alarm, int64_t highest,
                                struct txb_error *err) {
  switch (alarm) {
  case TXB_RELAY_FINE:
    return TXB_OK;
  case TXB_RELAY_POSITION_CHANGED:
    return TXB_FAIL_FROM(
        err, TXB_FENCED, TXB_ORIGIN_NONE,
        "the stored position of source %s is not the one written by this relay: another relay has taken over, or "
        "this is another server than before",
        r->o->source);
  case TXB_RELAY_RECOVERING:
    return TXB_FAIL_FROM(err, TXB_RETRY, TXB_ORIGIN_POSTGRES, "%s is in recovery, a standby now", txb_pg_name(r->pg));
  case TXB_RELAY_SEQUENCE_AT_END:
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_SAFETY,
                         "source %s: the sequence of txb.outbox is at %" PRId64
                         ", at the end of its numbers: somebody has set it. Set it back: SELECT "
                         "setval('txb.outbox_seq_seq', %" PRId64
                         "); delete intents with higher numbers than that and write them again",
                         r->o->source, r->answer.drawn, highest > 0 ? highest : 1);
  case TXB_RELAY_SEQUENCE_BEHIND:
    return TXB_FAIL_FROM(
        err, TXB_REFUSED, TXB_ORIGIN_SAFETY,
        "source %s: the sequence of txb.outbox is at %" PRId64 ", behind the relay's position %" PRId64
        ": this server has lost intents that were published (a failover to an old replica, or a restore). New intents "
        "would get "
        "numbers that count as published. Look what was lost, then set the sequence above the position: "
        "SELECT setval('txb.outbox_seq_seq', %" PRId64 ")",
        r->o->source, r->answer.drawn, highest, highest);
  }
  return TXB_OK;
}

enum txb_rc txb_relay_step(struct txb_relay *r, struct txb_relay_event *event, struct txb_error *err) {
  struct txb_relay_actions actions;
  uint64_t head = r->core.head;
  int64_t highest = r->core.highest;
  if (event->now_us == 0)
    event->now_us = txb_clock_steady_us();
  enum txb_rc rc = txb_relay_core_step(&r->core, event, &actions, err);
  txb_relay_results_kept(r, head); /* of a step that failed too: what it took is released with the rest */
  if (rc != TXB_OK)
    return rc;
  if (actions.alarm != TXB_RELAY_FINE || !r->core.held)
    txb_relay_producer_close(r); /* before the rows' memory goes: it sends out of it */
  txb_relay_results_released(r, actions.released_to);
  TXB_TRY(alarm_raised(r, actions.alarm, highest, err));
  return carry_out(r, &actions, err);
}

/* ---- the loop --------------------------------------------------------------------------------------------------- */

static int64_t min(int64_t a, int64_t b) {
  return a < b ? a : b;
}

static enum txb_rc answers(struct txb_relay *r, bool *some_out, struct txb_error *err) {
  *some_out = false;
  TXB_TRY(txb_pg_pump(r->pg, err));
  for (;;) {
    enum txb_rc rc = txb_relay_request_next(r, err);
    if (rc == TXB_AGAIN)
      return TXB_OK;
    if (rc != TXB_OK)
      return rc;
    *some_out = true;
  }
}

/* What is due by its own clock. */
static enum txb_rc timers(struct txb_relay *r, struct txb_error *err) {
  int64_t now_us = txb_clock_steady_us();
  if (r->replace && now_us >= r->replace_us)
    TXB_TRY(txb_relay_replace_producer(r, err));
  if (r->probe)
    TXB_TRY(txb_relay_probe(r, err));
  if (now_us >= r->wake_us)
    TXB_TRY(txb_relay_step(r, &(struct txb_relay_event){.kind = TXB_RELAY_TICK}, err));
  if (r->flush_us != 0 && now_us >= r->flush_us)
    TXB_TRY(txb_relay_send_flushed(r, err));
  if (r->stopping)
    return TXB_OK;
  txb_relay_watch(r, now_us);
  if (txb_relay_status_is_due(r, now_us))
    TXB_TRY(txb_relay_send_renew(r, TXB_REQUEST_STATUS, err));
  if (r->move_more && !r->move_out)
    TXB_TRY(txb_relay_send_move(r, err));
  else if (!r->due_out && !r->move_out && now_us >= r->due_us + DUE_EVERY_US)
    TXB_TRY(txb_relay_send_due(r, err));
  if (r->request_count > 0 && now_us - r->requests[r->request_first].sent_us > 1000 * r->o->lease_ms)
    return TXB_FAIL_FROM(err, TXB_RETRY, TXB_ORIGIN_POSTGRES, "%s has not answered for %lld ms", txb_pg_name(r->pg),
                         (long long)r->o->lease_ms);
  return TXB_OK;
}

static int64_t next_timer(const struct txb_relay *r) {
  int64_t now_us = txb_clock_steady_us(), at_us = min(r->wake_us, now_us + IDLE_FOREVER_US);
  if (r->replace)
    at_us = min(at_us, r->replace_us);
  if (r->flush_us != 0)
    at_us = min(at_us, r->flush_us);
  if (r->stop_until_us != 0)
    at_us = min(at_us, r->stop_until_us);
  if (!r->stopping) {
    at_us = min(at_us, r->due_us + DUE_EVERY_US > now_us ? r->due_us + DUE_EVERY_US : now_us + DUE_EVERY_US);
    if (txb_relay_status_is_due(r, INT64_MAX))
      at_us = min(at_us, r->status_us + 1000000 > now_us ? r->status_us + 1000000 : now_us + DUE_EVERY_US);
  }
  return at_us > now_us ? at_us - now_us : 0;
}

static enum txb_rc wait(struct txb_relay *r, struct txb_error *err) {
  struct pollfd fds[] = {
      {.fd = txb_pg_socket(r->pg), .events = txb_pg_poll_events(r->pg)},
      {.fd = txb_kafka_producer_fd(r->producer), .events = POLLIN},
      {.fd = r->stopping ? -1 : r->o->stop_fd, .events = POLLIN},
      {.fd = r->stopping ? -1 : r->o->nudge_fd, .events = POLLIN},
  };
  TXB_TRY(txb_wait(fds, TXB_ARRAY_SIZE(fds), next_timer(r), NULL, err));
  if ((fds[3].revents & POLLIN) == 0)
    return TXB_OK;
  txb_wake_clear(r->o->nudge_fd);
  int64_t now_us = txb_clock_steady_us();
  txb_relay_core_nudge(&r->core, now_us);
  r->wake_us = min(r->wake_us, now_us);
  return TXB_OK;
}

static enum txb_rc begin_stop(struct txb_relay *r, struct txb_error *err) {
  if (r->stopping || !(txb_stopped(r->o->stop_fd) || (r->o->exit_when_idle && r->idle)))
    return TXB_OK;
  r->stopping = true;
  r->stop_until_us = txb_clock_steady_us() + STOP_WAIT_US;
  return txb_relay_step(r, &(struct txb_relay_event){.kind = TXB_RELAY_STOP}, err);
}

static bool is_stopped(struct txb_relay *r) {
  if (!r->stopping)
    return false;
  if (!r->stopped && txb_clock_steady_us() >= r->stop_until_us) {
    txb_log(TXB_LOG_WARN, TXB_MSG("stopping without all reports: what has none is published again by the next relay"),
            TXB_F("source", r->o->source), TXB_FI("unreported", r->core.sent));
    return true;
  }
  return r->stopped;
}

enum txb_rc txb_relay_serve(struct txb_relay *r, struct txb_error *err) {
  bool answered, reported, more;
  while (!is_stopped(r)) {
    TXB_TRY(answers(r, &answered, err));
    TXB_TRY(txb_relay_reports(r, &reported, err));
    TXB_TRY(txb_relay_produce(r, &more, err));
    TXB_TRY(timers(r, err));
    TXB_TRY(begin_stop(r, err));
    /* What timers and stops have made the core want does not wait either. */
    if (!answered && !reported && !more && !r->stopped && !r->probe && !txb_relay_can_produce(r))
      TXB_TRY(wait(r, err));
  }
  return TXB_OK;
}
