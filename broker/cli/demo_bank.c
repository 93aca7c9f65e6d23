/* demo: the two banks and the connections that make transfers. */
#include <stdio.h>
#include <string.h>

#include "broker/cli/demo.h"
#include "cli_sql.h"
#include "common/clock.h"
#include "common/random.h"

static const struct txb_pg_statement debit_statement = {"demo_debit", txb_text_demo_debit};
static const struct txb_pg_statement record_statement = {"demo_record", txb_text_demo_record};
static const struct txb_pg_statement publish_statement = {"demo_publish", txb_text_demo_publish};
static const struct txb_pg_statement progress_statement = {"demo_progress", txb_text_demo_progress};
static const struct txb_pg_statement money_statement = {"demo_money", txb_text_demo_money};

/* ---- banks ----------------------------------------------------------------------------------------------- */

enum txb_rc txb_demo_banks_open(struct txb_demo *demo, int64_t *money_out, struct txb_error *err) {
  for (int i = 0; i < 2; i++)
    TXB_TRY(txb_pg_script(demo->banks[i].db->pg, txb_text_demo_bank, err));
  return txb_demo_money(demo, money_out, err);
}

enum txb_rc txb_demo_look(struct txb_demo *demo, struct txb_error *err) {
  for (int i = 0; i < 2; i++) {
    struct txb_demo_bank *bank = &demo->banks[i];
    TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
    TXB_TRY(txb_pg_query(bank->db->pg, &progress_statement, NULL, &row, err));
    bank->sent = txb_pg_int8(row, 0, 0);
    bank->credited = txb_pg_int8(row, 0, 1);
    bank->drawn = txb_pg_int8(row, 0, 2);
    bank->watermark = txb_pg_int8(row, 0, 3);
    bank->duplicate = txb_pg_int8(row, 0, 4);
    bank->published = txb_pg_int8(row, 0, 5);
  }
  return TXB_OK;
}

enum txb_rc txb_demo_money(struct txb_demo *demo, int64_t *out, struct txb_error *err) {
  int64_t sum = 0;
  for (int i = 0; i < 2; i++) {
    TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
    TXB_TRY(txb_pg_query(demo->banks[i].db->pg, &money_statement, NULL, &row, err));
    sum += txb_pg_int8(row, 0, 0);
  }
  *out = sum;
  return TXB_OK;
}

/* ---- writers --------------------------------------------------------------------------------------------- */

struct transfer {
  struct txb_uuid id;
  int from, to;
  int64_t amount, number;
};

/* Takes the account's row lock and its next number; *enough: whether the money was there. */
static enum txb_rc debit(struct txb_pg *pg, struct transfer *t, bool *enough, struct txb_error *err) {
  struct txb_pg_params params;
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  txb_pg_params_init(&params);
  txb_pg_add_int4(&params, t->from);
  txb_pg_add_int8(&params, t->amount);
  enum txb_rc rc = txb_pg_query(pg, &debit_statement, &params, &row, err);
  txb_pg_params_fini(&params);
  TXB_TRY(rc);
  *enough = txb_pg_rows(row) == 1;
  if (*enough)
    t->number = txb_pg_int8(row, 0, 0);
  return TXB_OK;
}

static enum txb_rc record(struct txb_pg *pg, const struct transfer *t, struct txb_error *err) {
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_uuid(&params, &t->id);
  txb_pg_add_int4(&params, t->from);
  txb_pg_add_int4(&params, t->to);
  txb_pg_add_int8(&params, t->amount);
  txb_pg_add_int8(&params, t->number);
  enum txb_rc rc = txb_pg_query(pg, &record_statement, &params, NULL, err);
  txb_pg_params_fini(&params);
  return rc;
}

static enum txb_rc publish(struct txb_pg *pg, const struct transfer *t, const char *topic, struct txb_error *err) {
  struct txb_pg_params params;
  char key[16];
  (void)snprintf(key, sizeof(key), "%d", t->from);
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text(topic));
  txb_pg_add_text(&params, txb_slice_text(key));
  txb_pg_add_uuid(&params, &t->id);
  txb_pg_add_int4(&params, t->from);
  txb_pg_add_int4(&params, t->to);
  txb_pg_add_int8(&params, t->amount);
  txb_pg_add_int8(&params, t->number);
  enum txb_rc rc = txb_pg_query(pg, &publish_statement, &params, NULL, err);
  txb_pg_params_fini(&params);
  return rc;
}

/* One transaction: the money leaves and the intent is published, or neither. *done: it was committed. */
static enum txb_rc transfer(struct txb_demo_writer *w, struct txb_pg *pg, const char *topic, bool *done,
                            struct txb_error *err) {
  struct transfer t = {.from = 1 + (int)(txb_splitmix64(&w->random) % TXB_DEMO_ACCOUNTS),
                       .to = 1 + (int)(txb_splitmix64(&w->random) % TXB_DEMO_ACCOUNTS),
                       .amount = 1 + (int64_t)(txb_splitmix64(&w->random) % 100)};
  bool change_mind = txb_splitmix64(&w->random) % 100 < TXB_DEMO_ROLLBACK_PCT, enough = false;
  txb_uuid_v7(txb_clock_wall_us(), &t.id);
  TXB_TRY(txb_pg_script(pg, "BEGIN", err));
  TXB_TRY(debit(pg, &t, &enough, err));
  if (enough) {
    TXB_TRY(record(pg, &t, err));
    TXB_TRY(publish(pg, &t, topic, err));
  }
  *done = enough && !change_mind;
  return txb_pg_script(pg, *done ? "COMMIT" : "ROLLBACK", err);
}

/* Waits until one more transfer may be begun; false at the end. */
static bool may_begin(struct txb_demo *demo) {
  (void)pthread_mutex_lock(&demo->mutex);
  while (!demo->stopping && demo->taken >= demo->allowed && demo->taken < demo->transfers)
    (void)pthread_cond_wait(&demo->changed, &demo->mutex);
  bool go = !demo->stopping && demo->taken < demo->transfers;
  demo->taken += go;
  (void)pthread_mutex_unlock(&demo->mutex);
  return go;
}

/* Counts an attempt; false when the demo is stopping. */
static bool count(struct txb_demo *demo, bool done) {
  (void)pthread_mutex_lock(&demo->mutex);
  demo->committed += done;
  demo->rolled_back += !done;
  bool go_on = !demo->stopping;
  (void)pthread_mutex_unlock(&demo->mutex);
  return go_on;
}

static enum txb_rc write_all(struct txb_demo_writer *w, struct txb_pg *pg, struct txb_error *err) {
  struct txb_demo *demo = w->demo;
  const char *topic = demo->banks[1 - w->number % 2].topic;
  while (may_begin(demo)) {
    bool done = false, go_on = true;
    while (!done && go_on) {
      TXB_TRY(transfer(w, pg, topic, &done, err));
      go_on = count(demo, done);
    }
  }
  return TXB_OK;
}

static void *writer_main(void *argument) {
  struct txb_demo_writer *w = argument;
  struct txb_demo *demo = w->demo;
  struct txb_error err;
  struct txb_pg *pg = NULL;
  enum txb_rc rc =
      txb_cli_connect_as(demo->banks[w->number % 2].db->uri, "txbroker demo writer", demo->stage.stop_fd, &pg, &err);
  if (rc == TXB_OK)
    rc = write_all(w, pg, &err);
  txb_pg_close(pg);
  if (rc == TXB_OK)
    return NULL;
  (void)pthread_mutex_lock(&demo->mutex);
  demo->failed = true;
  demo->failure = err;
  (void)pthread_mutex_unlock(&demo->mutex);
  return NULL;
}

enum txb_rc txb_demo_writers_start(struct txb_demo *demo, struct txb_error *err) {
  for (int i = 0; i < demo->writers; i++) {
    struct txb_demo_writer *w = &demo->writer[i];
    *w = (struct txb_demo_writer){.demo = demo, .number = i, .random = demo->seed + (uint64_t)i};
    if (pthread_create(&w->thread, NULL, writer_main, w) != 0)
      return TXB_FAIL(err, TXB_FATAL, "can't start a thread");
    w->started = true;
  }
  return TXB_OK;
}

void txb_demo_writers_allow(struct txb_demo *demo, int64_t allowed) {
  (void)pthread_mutex_lock(&demo->mutex);
  if (allowed > demo->allowed)
    demo->allowed = allowed;
  (void)pthread_cond_broadcast(&demo->changed);
  (void)pthread_mutex_unlock(&demo->mutex);
}

enum txb_rc txb_demo_writers_check(struct txb_demo *demo, struct txb_error *err) {
  (void)pthread_mutex_lock(&demo->mutex);
  bool failed = demo->failed;
  if (failed && err != NULL)
    *err = demo->failure;
  (void)pthread_mutex_unlock(&demo->mutex);
  return failed ? txb_error_prefix(err, "a writer") : TXB_OK;
}

void txb_demo_writers_stop(struct txb_demo *demo) {
  (void)pthread_mutex_lock(&demo->mutex);
  demo->stopping = true;
  (void)pthread_cond_broadcast(&demo->changed);
  (void)pthread_mutex_unlock(&demo->mutex);
  for (int i = 0; i < demo->writers; i++) {
    if (demo->writer[i].started)
      (void)pthread_join(demo->writer[i].thread, NULL);
    demo->writer[i].started = false;
  }
}
