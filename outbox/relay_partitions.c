/* Partitions of txb.outbox: made ahead, dropped when everything in them is published and old enough (R9); and records of
 * refused intents that ended long ago and whose intents are gone, deleted a chunk at a time. A thread
 * and a connection of their own, because a statement on a table may wait for others, and polls must not wait for it.
 * Every step has a short lock_timeout and is tried again; the functions behind them go on from wherever a crash left
 * them.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/memory.h"
#include "outbox/relay_internal.h"
#include "outbox_sql.h"

#define LOOK_EVERY_US   1000000
#define DROP_EVERY      10 /* looks */
#define EXPIRE_AGAIN_US INT64_C(3600000000)
#define EXPIRE_ROWS     1000
#define PATIENCE_US                                                                                                    \
  60000000 /* a lock that was not to be had is everyday life; a step that has not succeeded for so long is told */

static const struct txb_pg_statement ahead_statement = {"relay_partitions_ahead", txb_text_relay_partitions_ahead};
static const struct txb_pg_statement make_statement = {"relay_partition_make", txb_text_relay_partition_make};
static const struct txb_pg_statement drop_statement = {"relay_partition_drop", txb_text_relay_partition_drop};
static const struct txb_pg_statement expire_statement = {"relay_failed_expire", txb_text_relay_failed_expire};

/* One of the things to do, and how it goes. */
struct upkeep {
  const char *trouble; /* what the log says when it does not succeed */
  int64_t success_us;  /* when it did last, or began to be tried */
  bool told;
};

struct txb_relay_partitions {
  const struct txb_relay_options *o;
  pthread_t thread;
  int end_fd;
  atomic_bool held;
  struct txb_pg *pg;
  struct txb_pg_params params;
  bool few_told; /* the log knows */
  struct upkeep make, drop, expire;
  int64_t expire_us; /* when it is looked for old records again */
};

static enum txb_rc connect_server(struct txb_relay_partitions *p, struct txb_error *err) {
  const struct txb_pg_options options = {
      .uri = p->o->database,
      .application_name = "txbroker partitions",
      .stop_fd = p->end_fd,
      .settings = "-c lock_timeout=500 -c statement_timeout=60000 -c idle_in_transaction_session_timeout=60000",
      .builtins_only = true,
  };
  if (p->pg != NULL && txb_pg_is_usable(p->pg))
    return TXB_OK;
  txb_pg_close(txb_steal(p->pg));
  return txb_pg_open(&options, &p->pg, err);
}

static enum txb_rc count_ahead(struct txb_relay_partitions *p, int *out, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *result = NULL;
  TXB_TRY(txb_pg_query(p->pg, &ahead_statement, NULL, &result, err));
  *out = txb_pg_int4(result, 0, 0);
  return TXB_OK;
}

static void tell_few(struct txb_relay_partitions *p, int ahead) {
  bool few = ahead <= p->o->partitions_ahead / 8 + 1;
  if (few && !p->few_told)
    txb_log(TXB_LOG_ERROR,
            TXB_MSG("few partitions of txb.outbox are left: publishing fails when none is; making more is tried again"),
            TXB_F("source", p->o->source), TXB_FI("ahead", ahead), TXB_FI("wanted", p->o->partitions_ahead));
  if (!few && p->few_told)
    txb_log(TXB_LOG_INFO, TXB_MSG("enough partitions of txb.outbox again"), TXB_F("source", p->o->source),
            TXB_FI("ahead", ahead));
  p->few_told = few;
}

static enum txb_rc make(struct txb_relay_partitions *p, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *result = NULL;
  int ahead;
  TXB_TRY(count_ahead(p, &ahead, err));
  if (ahead < p->o->partitions_ahead) {
    txb_pg_params_clear(&p->params);
    txb_pg_add_int8(&p->params, p->o->partition_rows);
    txb_pg_add_int4(&p->params, p->o->partitions_ahead);
    enum txb_rc rc = txb_pg_query(p->pg, &make_statement, &p->params, &result, err);
    if (rc == TXB_OK)
      TXB_TRY(count_ahead(p, &ahead, err));
    tell_few(p, ahead);
    return rc;
  }
  tell_few(p, ahead);
  return TXB_OK;
}

/* One partition: emptied by the function, detached by the statement that it answers, dropped by its next call. */
static enum txb_rc drop_one(struct txb_relay_partitions *p, bool *done_out, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *result = NULL;
  txb_pg_params_clear(&p->params);
  txb_pg_add_text(&p->params, txb_slice_text(p->o->source));
  txb_pg_add_int8(&p->params, p->o->retention_ms);
  TXB_TRY(txb_pg_query(p->pg, &drop_statement, &p->params, &result, err));
  const char *statement = txb_pg_rows(result) == 1 ? txb_pg_text(result, 0, 0) : NULL;
  *done_out = statement == NULL;
  if (statement == NULL)
    return TXB_OK;
  /* A text of the server's function; PostgreSQL takes it neither in a function nor in a transaction. */
  TXB_TRY(txb_pg_script(p->pg, "SET ROLE txb_retention", err));
  enum txb_rc rc = txb_pg_script(p->pg, statement, err), reset = TXB_OK;
  if (txb_pg_is_usable(p->pg))
    reset = txb_pg_script(p->pg, "RESET ROLE", rc == TXB_OK ? err : NULL);
  if (rc == TXB_OK)
    txb_log(TXB_LOG_INFO, TXB_MSG("partition dropped: published and past its retention"), TXB_F("source", p->o->source),
            TXB_F("partition", txb_pg_text(result, 0, 1)));
  return rc == TXB_OK ? reset : rc;
}

static enum txb_rc drop(struct txb_relay_partitions *p, struct txb_error *err) {
  bool done = false;
  while (!done && atomic_load(&p->held) && !txb_stopped(p->end_fd))
    TXB_TRY(drop_one(p, &done, err));
  return TXB_OK;
}

/* A crash between two chunks leaves the rest for the next look. */
static enum txb_rc expire(struct txb_relay_partitions *p, struct txb_error *err) {
  int64_t count = 0;
  for (int n = EXPIRE_ROWS; n >= EXPIRE_ROWS && atomic_load(&p->held) && !txb_stopped(p->end_fd); count += n) {
    TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *result = NULL;
    txb_pg_params_clear(&p->params);
    txb_pg_add_text(&p->params, txb_slice_text(p->o->source));
    txb_pg_add_int8(&p->params, p->o->failed_keep_ms);
    txb_pg_add_int4(&p->params, EXPIRE_ROWS);
    TXB_TRY(txb_pg_query(p->pg, &expire_statement, &p->params, &result, err));
    n = txb_pg_int4(result, 0, 0);
  }
  if (count > 0)
    txb_log(TXB_LOG_INFO, TXB_MSG("records of refused intents that ended long ago deleted"),
            TXB_F("source", p->o->source), TXB_FI("count", count));
  p->expire_us = txb_clock_steady_us() + EXPIRE_AGAIN_US;
  return TXB_OK;
}

static void tell(struct txb_relay_partitions *p, struct upkeep *upkeep, enum txb_rc rc, const struct txb_error *err) {
  int64_t now_us = txb_clock_steady_us();
  if (rc == TXB_OK) {
    if (upkeep->told)
      txb_log(TXB_LOG_INFO, TXB_MSG("upkeep of partitions goes on"), TXB_F("source", p->o->source));
    upkeep->told = false;
    upkeep->success_us = now_us;
    return;
  }
  bool passes = rc == TXB_RETRY && now_us - upkeep->success_us < PATIENCE_US;
  if (upkeep->told || passes || txb_stopped(p->end_fd))
    return;
  upkeep->told = true;
  txb_log(TXB_LOG_ERROR, TXB_MSG(upkeep->trouble), TXB_F("source", p->o->source), TXB_F("error", err->message));
}

static void look(struct txb_relay_partitions *p, bool with_drop) {
  struct txb_error err;
  enum txb_rc rc = connect_server(p, &err);
  tell(p, &p->make, rc == TXB_OK ? make(p, &err) : rc, &err);
  if (!with_drop)
    return;
  if (rc == TXB_OK)
    rc = connect_server(p, &err); /* the first may have cost the connection */
  tell(p, &p->drop, rc == TXB_OK ? drop(p, &err) : rc, &err);
  int64_t now_us = txb_clock_steady_us();
  if (now_us < p->expire_us)
    return;
  if (p->expire.success_us < p->expire_us) /* that was an hour ago: patience begins with the first look that fails */
    p->expire.success_us = now_us;
  rc = connect_server(p, &err);
  tell(p, &p->expire, rc == TXB_OK ? expire(p, &err) : rc, &err);
}

static void *run(void *argument) {
  struct txb_relay_partitions *p = argument;
  for (int n = 0; !txb_pause(p->end_fd, n == 0 ? 0 : LOOK_EVERY_US); n++) {
    if (atomic_load(&p->held)) {
      look(p, n % DROP_EVERY == 0);
      continue;
    }
    txb_pg_close(txb_steal(p->pg));
    p->make.success_us = p->drop.success_us = p->expire.success_us = txb_clock_steady_us();
  }
  txb_pg_close(p->pg);
  return NULL;
}

enum txb_rc txb_relay_partitions_open(const struct txb_relay_options *o, struct txb_relay_partitions **out,
                                      struct txb_error *err) {
  void *memory;
  TXB_TRY(txb_alloc(sizeof **out, &memory, err));
  struct txb_relay_partitions *p = memory;
  p->o = o;
  p->make.trouble = "partitions of txb.outbox cannot be made: publishing fails when the last one is full; trying again";
  p->drop.trouble = "partitions of txb.outbox cannot be dropped: the disk fills; trying again";
  p->expire.trouble = "records of refused intents that ended long ago cannot be deleted; trying again";
  txb_pg_params_init(&p->params);
  enum txb_rc rc = txb_wake_open(&p->end_fd, err);
  if (rc != TXB_OK)
    goto err_memory;
  if (pthread_create(&p->thread, NULL, run, p) != 0) {
    rc = TXB_FAIL(err, TXB_FATAL, "cannot start a thread");
    goto err_wake;
  }
  *out = p;
  return TXB_OK;

err_wake:
  close(p->end_fd);
err_memory:
  txb_free(p);
  return rc;
}

void txb_relay_partitions_hold(struct txb_relay_partitions *p, bool held) {
  atomic_store(&p->held, held);
}

void txb_relay_partitions_close(struct txb_relay_partitions *p) {
  if (p == NULL)
    return;
  txb_wake_signal(p->end_fd);
  pthread_join(p->thread, NULL);
  close(p->end_fd);
  txb_pg_params_fini(&p->params);
  txb_free(p);
}
