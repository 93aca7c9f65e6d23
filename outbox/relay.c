/* The relay process from start to end: connect, take the lease or stand by, serve, begin again when a server was
 * away, give the lease back.
 *
 * Nothing is remembered from one connection to the next: whoever connects reads the position (R7), since a failover
 * may have taken it back.
 */
#include "outbox/relay.h"

#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/memory.h"
#include "common/random.h"
#include "outbox/relay_internal.h"
#include "outbox_sql.h"

#define REPORTS_AT_ONCE 1024

static const struct txb_pg_statement holder_statement = {"relay_holder", txb_text_relay_holder};

void txb_relay_options_init(struct txb_relay_options *options) {
  *options = (struct txb_relay_options){
      .owner = "relay",
      .stop_fd = -1,
      .read_rows = 4000,
      .read_bytes = 4 << 20,
      .inflight_rows = 16000,
      .inflight_bytes = 16 << 20,
      .lease_ms = 10000,
      .checkpoint_ms = 100,
      .nudge_fd = -1,
      .poll_busy_us = 2000,
      .poll_idle_ms = 50,
      .retry_first_ms = 100,
      .retry_cap_ms = 5000,
      .partition_rows = 1000000,
      .partitions_ahead = 64,
      .retention_ms = INT64_C(7) * 24 * 3600 * 1000,
      .failed_keep_ms = INT64_C(30) * 24 * 3600 * 1000,
  };
}

/* ---- standing by ------------------------------------------------------------------------------------------------ */

/* The holder as it was seen last. */
struct holder {
  int64_t epoch, lease_until_us;
};

/* A holder of our own name that renews its lease while we wait is a second relay by that name: each would take the
 * other for its own past. */
static enum txb_rc check_holder(struct txb_relay *r, struct holder *seen, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *result = NULL;
  struct txb_uuid instance;
  txb_pg_params_clear(&r->params);
  txb_pg_add_text(&r->params, txb_slice_text(r->o->source));
  TXB_TRY(txb_pg_query(r->pg, &holder_statement, &r->params, &result, err));
  if (txb_pg_rows(result) == 0)
    return TXB_OK;
  struct holder now = {txb_pg_int8(result, 0, 0), txb_pg_timestamptz_us(result, 0, 3)};
  txb_pg_uuid(result, 0, 2, &instance);
  bool renewed = seen->epoch == now.epoch && now.lease_until_us > seen->lease_until_us;
  bool other = memcmp(instance.bytes, r->instance.bytes, sizeof instance.bytes) != 0;
  if (seen->epoch != now.epoch)
    txb_log(TXB_LOG_INFO, TXB_MSG("standing by: another relay holds the source"), TXB_F("source", r->o->source),
            TXB_F("holder", txb_pg_text(result, 0, 1)), TXB_FI("epoch", now.epoch));
  *seen = now;
  if (renewed && other && strcmp(txb_pg_text(result, 0, 1), r->o->owner) == 0)
    return TXB_FAIL_FROM(
        err, TXB_FENCED, TXB_ORIGIN_SAFETY,
        "source %s is held by another running relay with the same name \"%s\": give each relay a name of its own "
        "(relay.owner)",
        r->o->source, r->o->owner);
  return TXB_OK;
}

/* Until the lease is ours. TXB_AGAIN: stopped while standing by. */
static enum txb_rc acquire(struct txb_relay *r, struct txb_error *err) {
  struct holder seen = {0};
  for (;;) {
    if (txb_stopped(r->o->stop_fd))
      return TXB_AGAIN;
    enum txb_rc rc = txb_relay_acquire(r, err);
    if (rc != TXB_AGAIN)
      return rc;
    TXB_TRY(check_holder(r, &seen, err));
    int64_t third_us = 1000 * r->o->lease_ms / 3;
    if (txb_pause(r->o->stop_fd, third_us / 2 + (int64_t)(txb_random_u64() % (uint64_t)(third_us / 2 + 1))))
      return TXB_AGAIN;
  }
}

/* ---- one connection --------------------------------------------------------------------------------------------- */

static enum txb_rc connect_server(struct txb_relay *r, struct txb_error *err) {
  char name[140], settings[400];
  snprintf(name, sizeof name, "txbroker relay %.100s", r->o->source);
  /* Bounds of a read are seen when it is planned, so that it touches the partitions between them only. Reads go
   * along the index: a partition without statistics is read by bitmap otherwise, and all rows between the bounds are
   * sorted for each read (measured: 17,000 rows a second instead of 102,000). A checkpoint that a crash of the
   * server takes back makes the next relay repeat, no more: its commit need not wait for the disk. A statement that
   * waits (for a lock on txb.outbox, say) is given up by the server when the relay gives it up: else every new
   * connection would leave one more server process behind in the queue. */
  snprintf(settings, sizeof settings,
           "-c plan_cache_mode=force_custom_plan -c enable_bitmapscan=off -c enable_seqscan=off -c jit=off "
           "-c statement_timeout=%lld -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 "
           "-c synchronous_commit=off",
           (long long)r->o->lease_ms);
  const struct txb_pg_options options = {
      .uri = r->o->database,
      .application_name = name,
      .stop_fd = r->o->stop_fd,
      .tcp_user_timeout_ms = (int)(r->o->lease_ms < 10000 ? r->o->lease_ms : 10000),
      .settings = settings,
      .builtins_only = true,
  };
  return txb_pg_open(&options, &r->pg, err);
}

/* The core forgets, Kafka's client goes, then the memory that it was sending from. */
static void disconnect(struct txb_relay *r) {
  struct txb_error err;
  struct txb_relay_actions actions;
  txb_relay_producer_close(r);
  if (txb_relay_core_step(&r->core, &(struct txb_relay_event){.kind = TXB_RELAY_LOST}, &actions, &err) == TXB_OK)
    txb_relay_results_released(r, actions.released_to);
  txb_relay_poll_drop(r);
  txb_relay_requests_drop(r);
  r->replace = r->probe = r->idle = false;
  r->told = false;
  txb_pg_close(txb_steal(r->pg));
}

static enum txb_rc serve(struct txb_relay *r, struct txb_relay_partitions *partitions, struct txb_error *err) {
  TXB_TRY(connect_server(r, err));
  TXB_TRY(txb_relay_producer_open(r, err));
  enum txb_rc rc = acquire(r, err);
  if (rc != TXB_OK)
    return rc == TXB_AGAIN ? TXB_OK : rc;
  if (r->server_gone)
    txb_log(TXB_LOG_INFO, TXB_MSG("PostgreSQL is back"), TXB_F("source", r->o->source),
            TXB_F("server", txb_pg_name(r->pg)));
  r->server_gone = false;
  r->told_sqlstate[0] = '\0';
  txb_relay_partitions_hold(partitions, true);
  rc = txb_relay_serve(r, err);
  txb_relay_partitions_hold(partitions, false);
  if (rc == TXB_OK && txb_relay_release(r, NULL))
    txb_log(TXB_LOG_INFO, TXB_MSG("lease given back"), TXB_F("source", r->o->source), TXB_FI("epoch", r->epoch),
            TXB_FI("published", r->core.published_total));
  else if (rc == TXB_REFUSED && txb_pg_is_usable(r->pg))
    (void)txb_relay_release(r, err->message);
  return rc;
}

/* Whether it is a server's own refusal, and not its going and coming (57P01 to 57P03, class 08). */
static bool has_answered(const struct txb_error *err) {
  return err->sqlstate[0] != '\0' && strncmp(err->sqlstate, "57P", 3) != 0 && strncmp(err->sqlstate, "08", 2) != 0;
}

/* Whether the log knows of this trouble. It is told once; but when a server that was away answers, and refuses (no
 * connection is free, it takes no writes), that is news: whoever read "connection lost" would look in the wrong
 * place. */
static bool is_told(struct txb_relay *r, const struct txb_error *err) {
  bool news = has_answered(err) && strcmp(err->sqlstate, r->told_sqlstate) != 0;
  bool told = r->server_gone && !news;
  if (!told)
    snprintf(r->told_sqlstate, sizeof r->told_sqlstate, "%s", err->sqlstate);
  r->server_gone = true;
  return told;
}

/* Whether a failure passes by itself; says so. */
static bool goes_on(struct txb_relay *r, enum txb_rc rc, const struct txb_error *err) {
  /* Replaced while it was stopped, or by a failover: that one goes on from the checkpoint. Only two relays by one
   * name need a person. */
  if (rc == TXB_FENCED && (err->origin != TXB_ORIGIN_SAFETY || strcmp(err->sqlstate, "TXB01") == 0)) {
    txb_log(TXB_LOG_WARN, TXB_MSG("lease lost, standing by"), TXB_F("source", r->o->source), TXB_FI("epoch", r->epoch),
            TXB_F("reason", err->message));
    return true;
  }
  if (rc != TXB_RETRY)
    return false;
  if (!is_told(r, err) && !txb_stopped(r->o->stop_fd))
    txb_log(
        TXB_LOG_WARN,
        TXB_MSG(has_answered(err) ? "PostgreSQL could not do it, trying again" : "PostgreSQL is away, trying again"),
        TXB_F("source", r->o->source), TXB_F("error", err->message));
  return true;
}

static enum txb_rc explain(enum txb_rc rc, const struct txb_relay *r, struct txb_error *err) {
  static const char *const missing[] = {"42883", "42P01", "3F000", "42703"};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(missing); i++)
    if (rc == TXB_REFUSED && strcmp(err->sqlstate, missing[i]) == 0) {
      err->origin = TXB_ORIGIN_SAFETY;
      return txb_error_prefix(err, "source %s: the schema txb is missing or of another version (txbroker init)",
                              r->o->source);
    }
  return rc;
}

/* ---- the process ------------------------------------------------------------------------------------------------ */

static enum txb_rc init(struct txb_relay *r, const struct txb_relay_options *o, struct txb_error *err) {
  struct txb_relay_core_options c;
  void *p;
  *r = (struct txb_relay){.o = o,
                          .wake_us = INT64_MAX,
                          .unsent = UINT64_MAX,
                          .retry = {.first_ms = o->retry_first_ms, .cap_ms = o->retry_cap_ms},
                          .replacing = {.first_ms = 50, .cap_ms = 5000}};
  if (o->event_source != NULL)
    snprintf(r->event_source, sizeof r->event_source, "%s", o->event_source);
  else
    snprintf(r->event_source, sizeof r->event_source, "txbroker:%s", o->source);
  txb_uuid_v7(txb_clock_wall_us(), &r->instance);
  txb_relay_core_options_init(&c);
  c.partition_of = txb_kafka_partition_of;
  c.read_rows = (uint32_t)o->read_rows;
  c.read_bytes = o->read_bytes;
  c.inflight_rows = (uint32_t)o->inflight_rows;
  c.inflight_bytes = o->inflight_bytes;
  c.lease_us = 1000 * o->lease_ms;
  c.checkpoint_us = 1000 * o->checkpoint_ms;
  c.poll_busy_us = o->poll_busy_us;
  c.poll_idle_us = 1000 * o->poll_idle_ms;
  c.span = o->partition_rows;
  txb_pg_params_init(&r->params);
  txb_buffer_init(&r->scratch);
  TXB_TRY(txb_relay_core_init(&r->core, &c, err));
  TXB_TRY(txb_alloc_array(REPORTS_AT_ONCE, sizeof *r->kafka_reports, &p, err));
  r->kafka_reports = p;
  TXB_TRY(txb_alloc_array(REPORTS_AT_ONCE, sizeof *r->reports, &p, err));
  r->reports = p;
  return TXB_OK;
}

static void fini(struct txb_relay *r) {
  txb_relay_core_fini(&r->core);
  txb_relay_topics_fini(&r->topics);
  txb_pg_params_fini(&r->params);
  txb_buffer_fini(&r->scratch);
  for (size_t i = 0; i < TXB_ARRAY_SIZE(r->rows); i++)
    txb_free(r->rows[i]);
  txb_free(r->xip);
  txb_free(r->holders);
  txb_free(r->kafka_reports);
  txb_free(r->reports);
}

enum txb_rc txb_relay_run(const struct txb_relay_options *options, struct txb_error *err) {
  struct txb_relay r;
  struct txb_relay_partitions *partitions = NULL;
  enum txb_rc rc = init(&r, options, err);
  if (rc == TXB_OK)
    rc = txb_relay_partitions_open(options, &partitions, err);
  while (rc == TXB_OK) {
    rc = serve(&r, partitions, err);
    disconnect(&r);
    if (rc == TXB_OK || !goes_on(&r, rc, err))
      break;
    rc = TXB_OK;
    if (txb_pause(options->stop_fd, 1000 * txb_backoff_next_ms(&r.retry, txb_random_u64())))
      break;
  }
  txb_relay_partitions_close(partitions);
  fini(&r);
  return explain(rc, &r, err);
}
