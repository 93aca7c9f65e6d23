/* Statements and pipelines. A connection that dies at any point here leaves what the server makes of it: its
 * transaction is rolled back, or, when the COMMIT had been sent, committed or not, which only the database can tell.
 *
 * A statement is prepared when it is first used. Inside a pipeline the preparation is queued ahead of it and its answer
 * swallowed. An error skips everything up to the next sync, preparations too, so a statement counts as prepared only
 * once that has been answered; until then it is used by its name only between the same two syncs, where a skipped
 * preparation skips the use as well.
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/loop.h"
#include "common/pg_internal.h"

#define STATEMENT_NAME_SIZE 96

/* What libpq wants of parameters. */
struct arguments {
  const char *values[TXB_PG_PARAMS_MAX];
  int lengths[TXB_PG_PARAMS_MAX], formats[TXB_PG_PARAMS_MAX];
  Oid types[TXB_PG_PARAMS_MAX];
  int count;
};

static void arguments_of(const struct txb_pg_params *p, struct arguments *a) {
  a->count = p == NULL ? 0 : p->count;
  for (int i = 0; i < a->count; i++) {
    a->values[i] = p->length[i] < 0 ? NULL : p->length[i] == 0 ? "" : p->bytes.data + p->start[i];
    a->lengths[i] = p->length[i] < 0 ? 0 : p->length[i];
    a->formats[i] = 1;
    a->types[i] = p->type[i];
  }
}

/* ---- prepared statements --------------------------------------------------------------------- */

static struct txb_pg_prepared *find_prepared(const struct txb_pg *pg, const struct txb_pg_statement *statement) {
  for (size_t i = 0; i < pg->prepared_count; i++)
    if (pg->prepared[i].statement == statement)
      return &pg->prepared[i];
  return NULL;
}

static enum txb_rc add_prepared(struct txb_pg *pg, const struct txb_pg_statement *statement, bool answered,
                                struct txb_error *err) {
  if (pg->prepared_count == pg->prepared_capacity) {
    void *p = pg->prepared;
    size_t capacity = pg->prepared_capacity == 0 ? 16 : pg->prepared_capacity * 2;
    TXB_TRY(txb_realloc_array(&p, capacity, sizeof *pg->prepared, err));
    pg->prepared = p;
    pg->prepared_capacity = capacity;
  }
  pg->prepared[pg->prepared_count++] =
      (struct txb_pg_prepared){.statement = statement, .answered = answered, .segment = pg->segment};
  return TXB_OK;
}

static void remove_prepared(struct txb_pg *pg, const struct txb_pg_statement *statement) {
  struct txb_pg_prepared *p = find_prepared(pg, statement);
  if (p != NULL)
    *p = pg->prepared[--pg->prepared_count];
}

/* Names of an older generation may still exist on the server with another plan: they are left alone. */
static void name_of(const struct txb_pg *pg, const struct txb_pg_statement *statement, char out[STATEMENT_NAME_SIZE]) {
  int size = pg->generation == 0 ? snprintf(out, STATEMENT_NAME_SIZE, "%s", statement->name)
                                 : snprintf(out, STATEMENT_NAME_SIZE, "%s#%u", statement->name, pg->generation);
  TXB_ASSERT(size > 0 && size < STATEMENT_NAME_SIZE);
}

/* ---- waiting --------------------------------------------------------------------------------- */

static void take_in(struct txb_pg *pg) {
  (void)PQconsumeInput(pg->conn); /* 0: lost; but answers that came before are still there: PQisBusy tells */
}

static enum txb_rc flush(struct txb_pg *pg, struct txb_error *err) {
  int left = PQflush(pg->conn);
  if (left < 0 && PQstatus(pg->conn) != CONNECTION_OK) { /* the server's last words may wait to be read */
    take_in(pg);
    pg->output_pending = false;
    return PQisBusy(pg->conn) ? txb_pg_fail_lost(pg, err) : TXB_OK;
  }
  pg->output_pending = left != 0;
  return TXB_OK;
}

/* Waits for the socket, at most until `until_us` (steady; < 0: no limit). *came_out false: time is up. */
static enum txb_rc wait_socket(struct txb_pg *pg, int64_t until_us, bool *came_out, struct txb_error *err) {
  struct pollfd fds[2] = {{.fd = PQsocket(pg->conn), .events = txb_pg_poll_events(pg)},
                          {.fd = pg->stop_fd, .events = POLLIN}};
  int64_t left = -1;
  if (until_us >= 0) {
    left = until_us - txb_clock_steady_us();
    left = left > 0 ? left : 0;
  }
  int ready;
  TXB_TRY(txb_wait(fds, 2, left, &ready, err));
  if (fds[1].revents != 0 && fds[0].revents == 0)
    return TXB_FAIL(err, TXB_RETRY, "stopping");
  *came_out = ready > 0;
  return TXB_OK;
}

/* Until PQgetResult has something to give without blocking. */
static enum txb_rc wait_result(struct txb_pg *pg, struct txb_error *err) {
  TXB_TRY(flush(pg, err));
  while (PQisBusy(pg->conn)) {
    if (PQstatus(pg->conn) != CONNECTION_OK)
      return txb_pg_fail_lost(pg, err);
    bool came;
    enum txb_rc rc = wait_socket(pg, -1, &came, err);
    if (rc != TXB_OK) {
      pg->broken = true; /* an answer is under way that nobody will read */
      return rc;
    }
    take_in(pg);
    TXB_TRY(flush(pg, err));
  }
  return TXB_OK;
}

static bool is_success(ExecStatusType status) {
  return status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK || status == PGRES_EMPTY_QUERY;
}

static bool is_copy(ExecStatusType status) {
  return status == PGRES_COPY_IN || status == PGRES_COPY_OUT || status == PGRES_COPY_BOTH;
}

/* ---- one statement at a time ----------------------------------------------------------------- */

/* Reads all results of what was sent: the first failure, or the last success in *out (may be NULL). */
static enum txb_rc collect(struct txb_pg *pg, const struct txb_pg_statement *statement, struct txb_pg_result **out,
                           struct txb_error *err) {
  PGresult *last = NULL, *res;
  enum txb_rc rc = TXB_OK;
  for (;;) {
    enum txb_rc waited = wait_result(pg, rc == TXB_OK ? err : NULL);
    if (waited != TXB_OK) {
      PQclear(last);
      return rc == TXB_OK ? waited : rc;
    }
    if ((res = PQgetResult(pg->conn)) == NULL)
      break;
    ExecStatusType status = PQresultStatus(res);
    if (is_copy(status)) {
      PQclear(res);
      PQclear(last);
      pg->broken = true; /* the server waits for data, or sends some, that nobody handles */
      return TXB_FAIL(err, TXB_REFUSED, "COPY is not possible here");
    }
    if (!is_success(status) && rc == TXB_OK)
      rc = txb_pg_fail_result(pg, res, statement, err);
    PQclear(last);
    last = res;
  }
  if (rc == TXB_OK && last == NULL)
    rc = txb_pg_fail_lost(pg, err);
  if (rc != TXB_OK || out == NULL)
    PQclear(last);
  else
    *out = txb_pg_result_wrap(last);
  return rc;
}

/* Whether a statement can be sent and waited for. A borrowed connection comes in any state its owner left it in. */
static enum txb_rc check_idle(struct txb_pg *pg, struct txb_error *err) {
  TXB_ASSERT(!pg->in_pipeline);
  if (!txb_pg_is_usable(pg))
    return txb_pg_fail_lost(pg, err);
  if (PQpipelineStatus(pg->conn) != PQ_PIPELINE_OFF)
    return TXB_FAIL(err, TXB_REFUSED, "the connection is in pipeline mode");
  if (PQtransactionStatus(pg->conn) == PQTRANS_ACTIVE)
    return TXB_FAIL(err, TXB_REFUSED, "the connection is still running another command");
  return TXB_OK;
}

static enum txb_rc sent(struct txb_pg *pg, int ok, struct txb_error *err) {
  pg->output_pending = true;
  if (ok)
    return TXB_OK;
  if (PQstatus(pg->conn) != CONNECTION_OK)
    return txb_pg_fail_lost(pg, err);
  char text[400];
  txb_pg_clean_text(PQerrorMessage(pg->conn), text, sizeof text);
  pg->broken = true;
  return TXB_FAIL(err, TXB_FATAL, "cannot send to %s: %s", pg->name, text);
}

static enum txb_rc prepare_now(struct txb_pg *pg, const struct txb_pg_statement *statement, const struct arguments *a,
                               struct txb_error *err) {
  struct txb_pg_prepared *known = find_prepared(pg, statement);
  if (known != NULL)
    return TXB_OK;
  char name[STATEMENT_NAME_SIZE];
  name_of(pg, statement, name);
  TXB_TRY(sent(pg, PQsendPrepare(pg->conn, name, statement->sql, a->count, a->types), err));
  TXB_TRY(collect(pg, statement, NULL, err));
  return add_prepared(pg, statement, true, err);
}

enum txb_rc txb_pg_query(struct txb_pg *pg, const struct txb_pg_statement *statement,
                         const struct txb_pg_params *params, struct txb_pg_result **out, struct txb_error *err) {
  struct arguments a;
  char name[STATEMENT_NAME_SIZE];
  if (params != NULL)
    TXB_TRY(txb_buffer_check(&params->bytes, err));
  TXB_TRY(check_idle(pg, err));
  arguments_of(params, &a);
  if (pg->borrowed) { /* unnamed: nothing is left behind */
    TXB_TRY(sent(pg, PQsendQueryParams(pg->conn, statement->sql, a.count, a.types, a.values, a.lengths, a.formats, 1),
                 err));
    return collect(pg, statement, out, err);
  }
  TXB_TRY(prepare_now(pg, statement, &a, err));
  name_of(pg, statement, name);
  TXB_TRY(sent(pg, PQsendQueryPrepared(pg->conn, name, a.count, a.values, a.lengths, a.formats, 1), err));
  return collect(pg, statement, out, err);
}

enum txb_rc txb_pg_script(struct txb_pg *pg, const char *sql, struct txb_error *err) {
  TXB_TRY(check_idle(pg, err));
  TXB_TRY(sent(pg, PQsendQuery(pg->conn, sql), err));
  return collect(pg, NULL, NULL, err);
}

/* ---- pipeline: sending ----------------------------------------------------------------------- */

enum txb_rc txb_pg_pipeline_begin(struct txb_pg *pg, struct txb_error *err) {
  TXB_ASSERT(!pg->borrowed);
  TXB_TRY(check_idle(pg, err));
  TXB_TRY(sent(pg, PQenterPipelineMode(pg->conn), err));
  pg->in_pipeline = true;
  pg->output_pending = false;
  return TXB_OK;
}

enum txb_rc txb_pg_pipeline_end(struct txb_pg *pg, struct txb_error *err) {
  TXB_ASSERT(pg->in_pipeline && pg->pending == 0);
  pg->in_pipeline = false;
  if (!txb_pg_is_usable(pg))
    return txb_pg_fail_lost(pg, err);
  return sent(pg, PQexitPipelineMode(pg->conn), err);
}

/* Makes room in the ring first, so that nothing is sent whose answer nobody would expect. */
static enum txb_rc reserve_expected(struct txb_pg *pg, size_t more, struct txb_error *err) {
  if (pg->expected_count + more <= pg->expected_capacity)
    return TXB_OK;
  size_t old = pg->expected_capacity, capacity = old == 0 ? 64 : old * 2;
  void *p = pg->expected;
  TXB_TRY(txb_realloc_array(&p, capacity, sizeof *pg->expected, err));
  pg->expected = p;
  pg->expected_capacity = capacity;
  if (pg->expected_first + pg->expected_count > old) { /* it went around the old end: that part moves behind the rest */
    size_t around = pg->expected_first + pg->expected_count - old;
    memcpy(pg->expected + old, pg->expected, around * sizeof *pg->expected);
  }
  return TXB_OK;
}

static void expect(struct txb_pg *pg, struct txb_pg_expected what) {
  TXB_ASSERT(pg->expected_count < pg->expected_capacity);
  pg->expected[(pg->expected_first + pg->expected_count++) % pg->expected_capacity] = what;
  if (what.kind != TXB_PG_EXPECT_PREPARE)
    pg->pending++;
}

static enum txb_rc send_prepare(struct txb_pg *pg, const struct txb_pg_statement *statement, const struct arguments *a,
                                struct txb_error *err) {
  char name[STATEMENT_NAME_SIZE];
  name_of(pg, statement, name);
  TXB_TRY(add_prepared(pg, statement, false, err));
  enum txb_rc rc = sent(pg, PQsendPrepare(pg->conn, name, statement->sql, a->count, a->types), err);
  if (rc != TXB_OK) {
    remove_prepared(pg, statement);
    return rc;
  }
  expect(pg,
         (struct txb_pg_expected){.kind = TXB_PG_EXPECT_PREPARE, .statement = statement, .generation = pg->generation});
  return TXB_OK;
}

enum txb_rc txb_pg_send(struct txb_pg *pg, const struct txb_pg_statement *statement, const struct txb_pg_params *params,
                        struct txb_error *err) {
  TXB_ASSERT(pg->in_pipeline);
  struct arguments a;
  char name[STATEMENT_NAME_SIZE];
  if (params != NULL)
    TXB_TRY(txb_buffer_check(&params->bytes, err));
  if (!txb_pg_is_usable(pg))
    return txb_pg_fail_lost(pg, err);
  TXB_TRY(reserve_expected(pg, 2, err));
  arguments_of(params, &a);
  const struct txb_pg_prepared *known = find_prepared(pg, statement);
  int ok;
  if (known != NULL && !known->answered && known->segment != pg->segment) {
    /* Its preparation lies before a sync and may be skipped by an error that has not come back yet. */
    ok = PQsendQueryParams(pg->conn, statement->sql, a.count, a.types, a.values, a.lengths, a.formats, 1);
  } else {
    if (known == NULL)
      TXB_TRY(send_prepare(pg, statement, &a, err));
    name_of(pg, statement, name);
    ok = PQsendQueryPrepared(pg->conn, name, a.count, a.values, a.lengths, a.formats, 1);
  }
  TXB_TRY(sent(pg, ok, err));
  expect(pg, (struct txb_pg_expected){
                 .kind = TXB_PG_EXPECT_STATEMENT, .statement = statement, .generation = pg->generation});
  return TXB_OK;
}

enum txb_rc txb_pg_sync(struct txb_pg *pg, struct txb_error *err) {
  TXB_ASSERT(pg->in_pipeline);
  if (!txb_pg_is_usable(pg))
    return txb_pg_fail_lost(pg, err);
  TXB_TRY(reserve_expected(pg, 1, err));
  TXB_TRY(sent(pg, PQpipelineSync(pg->conn), err));
  expect(pg, (struct txb_pg_expected){.kind = TXB_PG_EXPECT_SYNC});
  pg->segment++;
  return flush(pg, err);
}

enum txb_rc txb_pg_pump(struct txb_pg *pg, struct txb_error *err) {
  if (pg->broken)
    return txb_pg_fail_lost(pg, err);
  take_in(pg);
  if (PQstatus(pg->conn) != CONNECTION_OK)
    return PQisBusy(pg->conn) || pg->expected_count == 0 ? txb_pg_fail_lost(pg, err) : TXB_OK;
  return flush(pg, err);
}

short txb_pg_poll_events(const struct txb_pg *pg) {
  if (pg->connecting != 0)
    return pg->connecting;
  return (short)(pg->output_pending ? POLLIN | POLLOUT : POLLIN);
}

size_t txb_pg_pending(const struct txb_pg *pg) {
  return pg->pending;
}

/* ---- pipeline: answers ----------------------------------------------------------------------- */

static void pop_expected(struct txb_pg *pg) {
  if (pg->expected[pg->expected_first].kind != TXB_PG_EXPECT_PREPARE)
    pg->pending--;
  pg->expected_first = (pg->expected_first + 1) % pg->expected_capacity;
  pg->expected_count--;
}

/* A preparation's answer: remembered, or forgotten when it failed or was skipped. */
static void on_prepare_answer(struct txb_pg *pg, const struct txb_pg_expected *e, const PGresult *res) {
  struct txb_pg_prepared *p = e->generation == pg->generation ? find_prepared(pg, e->statement) : NULL;
  if (PQresultStatus(res) == PGRES_COMMAND_OK) {
    if (p != NULL)
      p->answered = true;
    return;
  }
  if (p != NULL)
    remove_prepared(pg, e->statement);
  if (PQresultStatus(res) == PGRES_FATAL_ERROR)
    (void)txb_pg_fail_result(pg, res, e->statement, &pg->prepare_error);
}

/* A statement's answer. */
static enum txb_pg_kind on_statement_answer(struct txb_pg *pg, const struct txb_pg_expected *e, PGresult *res,
                                            struct txb_pg_result **out, struct txb_error *err) {
  struct txb_error prepare_error = pg->prepare_error;
  pg->prepare_error.rc = TXB_OK;
  ExecStatusType status = PQresultStatus(res);
  if (is_success(status)) {
    *out = txb_pg_result_wrap(res);
    return TXB_PG_ROWS;
  }
  bool skipped = status == PGRES_PIPELINE_ABORTED;
  if (!skipped)
    (void)txb_pg_fail_result(pg, res, e->statement, err);
  else if (prepare_error.rc != TXB_OK && err != NULL)
    *err = prepare_error; /* its preparation failed: the error is this statement's */
  PQclear(res);
  return skipped && prepare_error.rc == TXB_OK ? TXB_PG_SKIPPED : TXB_PG_ERROR;
}

/* The next complete result, or TXB_AGAIN. */
static enum txb_rc next_result(struct txb_pg *pg, PGresult **out, struct txb_error *err) {
  if (PQisBusy(pg->conn)) {
    take_in(pg);
    if (PQisBusy(pg->conn))
      return PQstatus(pg->conn) != CONNECTION_OK ? txb_pg_fail_lost(pg, err) : TXB_AGAIN;
  }
  PGresult *res = PQgetResult(pg->conn);
  if (res == NULL)
    return txb_pg_fail_lost(pg, err);
  bool is_ours = PQresultErrorField(res, PG_DIAG_SQLSTATE) == NULL && PQresultStatus(res) == PGRES_FATAL_ERROR;
  if (is_ours && PQstatus(pg->conn) != CONNECTION_OK) { /* libpq's word that the server is gone */
    PQclear(res);
    return txb_pg_fail_lost(pg, err);
  }
  if (is_copy(PQresultStatus(res))) {
    PQclear(res);
    pg->broken = true;
    return TXB_FAIL(err, TXB_FATAL, "COPY is not possible in a pipeline");
  }
  *out = res;
  return TXB_OK;
}

enum txb_rc txb_pg_next(struct txb_pg *pg, enum txb_pg_kind *kind_out, struct txb_pg_result **out,
                        struct txb_error *err) {
  TXB_ASSERT(pg->in_pipeline && pg->expected_count > 0);
  if (pg->broken)
    return txb_pg_fail_lost(pg, err);
  for (;;) {
    PGresult *res = NULL;
    TXB_TRY(next_result(pg, &res, err));
    struct txb_pg_expected e = pg->expected[pg->expected_first];
    if (PQresultStatus(res) == PGRES_PIPELINE_SYNC) { /* the one answer that no NULL follows */
      PQclear(res);
      TXB_ASSERT(e.kind == TXB_PG_EXPECT_SYNC);
      pop_expected(pg);
      *kind_out = TXB_PG_SYNC;
      return TXB_OK;
    }
    PGresult *more = PQgetResult(pg->conn); /* the NULL behind an answer: there without waiting */
    TXB_ASSERT(more == NULL);
    if (e.kind == TXB_PG_EXPECT_PREPARE) {
      pop_expected(pg);
      on_prepare_answer(pg, &e, res);
      PQclear(res);
      continue;
    }
    if (e.kind == TXB_PG_EXPECT_SYNC) { /* the commit that a sync stands for failed; its SYNC follows */
      (void)txb_pg_fail_result(pg, res, NULL, err);
      PQclear(res);
      *kind_out = TXB_PG_ERROR;
      return TXB_OK;
    }
    pop_expected(pg);
    *kind_out = on_statement_answer(pg, &e, res, out, err);
    return TXB_OK;
  }
}

enum txb_rc txb_pg_next_wait(struct txb_pg *pg, int timeout_ms, enum txb_pg_kind *kind_out, struct txb_pg_result **out,
                             struct txb_error *err) {
  int64_t until = timeout_ms < 0 ? -1 : txb_clock_steady_us() + (int64_t)timeout_ms * 1000;
  for (;;) {
    enum txb_rc rc = txb_pg_next(pg, kind_out, out, err);
    if (rc != TXB_AGAIN)
      return rc;
    TXB_TRY(flush(pg, err));
    bool came;
    TXB_TRY(wait_socket(pg, until, &came, err));
    if (!came)
      return TXB_FAIL_FROM(err, TXB_RETRY, TXB_ORIGIN_POSTGRES, "no answer from %s within %d ms", pg->name, timeout_ms);
  }
}
