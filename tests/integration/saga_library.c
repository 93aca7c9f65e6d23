/* include/txbroker/saga.h on a real server, which test_saga_library.py starts: TXB_TEST_DATABASE is a migrated database with
 * a saga `trip`, and no coordinator runs: sagas are ended by hand, as one would. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "txbroker/saga.h"

#define NOBODY "0190163d-8694-739b-aea5-966c26f8ad91"

static struct txb_error err;

static PGconn *connect_here(void) {
  const char *uri = getenv("TXB_TEST_DATABASE");
  cr_assert(uri != NULL, "test_saga_library.py runs this");
  PGconn *conn = PQconnectdb(uri);
  cr_assert(PQstatus(conn) == CONNECTION_OK, "%s", PQerrorMessage(conn));
  return conn;
}

static void run(PGconn *conn, const char *sql) {
  PGresult *r = PQexec(conn, sql);
  cr_assert(PQresultStatus(r) == PGRES_COMMAND_OK || PQresultStatus(r) == PGRES_TUPLES_OK, "%s",
            PQresultErrorMessage(r));
  PQclear(r);
}

/* One value of one parameter, as a number. */
static int number(PGconn *conn, const char *sql, const char *value) {
  PGresult *r = PQexecParams(conn, sql, value != NULL, NULL, &value, NULL, NULL, 0);
  cr_assert(PQresultStatus(r) == PGRES_TUPLES_OK && PQntuples(r) == 1, "%s", PQresultErrorMessage(r));
  int found = (int)strtol(PQgetvalue(r, 0, 0), NULL, 10);
  PQclear(r);
  return found;
}

static int sagas(PGconn *conn) {
  return number(conn, "SELECT count(*) FROM txb.saga", NULL);
}

static const struct txb_saga_order trip = {.name = "trip", .input_json = "{\"amount\": 1}"};

static void start(PGconn *conn, char id[37]) {
  cr_assert(txb_saga_start(conn, &trip, id, &err) == TXB_OK, "%s", err.message);
}

static void finish(PGconn *conn, const char *id, const char *state) {
  const char *values[] = {id, state};
  PGresult *r =
      PQexecParams(conn,
                   "SELECT txb.saga_finish(ARRAY[s.id], ARRAY[s.started_at], ARRAY[now()], ARRAY[$2],"
                   " ARRAY[CASE $2 WHEN 'completed' THEN '{\"seat\": \"12\u00e4\"}'::jsonb END],"
                   " ARRAY[CASE WHEN $2 <> 'completed' THEN 'no money' END]) FROM txb.saga AS s WHERE s.id = $1::uuid",
                   2, NULL, values, NULL, NULL, 0);
  cr_assert(PQresultStatus(r) == PGRES_TUPLES_OK && PQntuples(r) == 1, "%s", PQresultErrorMessage(r));
  PQclear(r);
}

/* What a look says; it is freed by the caller. */
static struct txb_saga_result *look(PGconn *conn, const char *id, int timeout_ms) {
  struct txb_saga_result *result = NULL;
  cr_assert(txb_saga_wait(conn, id, timeout_ms, &result, &err) == TXB_OK, "%s", err.message);
  cr_assert(result != NULL);
  return result;
}

static void is_state(PGconn *conn, const char *id, int timeout_ms, enum txb_saga_result_state state) {
  struct txb_saga_result *result = look(conn, id, timeout_ms);
  cr_assert_eq(txb_saga_result_state(result), state, "%d", (int)txb_saga_result_state(result));
  txb_saga_result_free(result);
}

/* ---- starting ----------------------------------------------------------------------------------- */

Test(saga_library, a_saga_is_there_once_its_transaction_is_committed) {
  PGconn *conn = connect_here(), *other = connect_here();
  char id[37] = "";
  run(conn, "BEGIN");
  start(conn, id);
  cr_assert_eq(strlen(id), 36);
  is_state(other, id, 0, TXB_SAGA_RESULT_UNKNOWN);
  cr_assert_eq(PQtransactionStatus(conn), PQTRANS_INTRANS, "it is the caller's to end");
  run(conn, "COMMIT");
  is_state(other, id, 0, TXB_SAGA_RESULT_RUNNING);
  cr_assert_eq(number(other, "SELECT count(*) FROM txb.outbox WHERE type = 'txb.saga.start' AND key = $1", id), 1);
  PQfinish(conn);
  PQfinish(other);
}

Test(saga_library, a_transaction_that_is_rolled_back_has_started_nothing) {
  PGconn *conn = connect_here();
  char id[37] = "";
  int before = sagas(conn);
  run(conn, "BEGIN");
  start(conn, id);
  run(conn, "ROLLBACK");
  cr_assert_eq(sagas(conn), before);
  cr_assert_eq(number(conn, "SELECT count(*) FROM txb.outbox WHERE key = $1", id), 0);
  is_state(conn, id, 0, TXB_SAGA_RESULT_UNKNOWN);
  PQfinish(conn);
}

Test(saga_library, a_repeated_start_with_a_key_gives_the_first_ones_id) {
  PGconn *conn = connect_here();
  struct txb_saga_order order = trip;
  char first[37] = "", second[37] = "", other[37] = "", none[37] = "";
  int before = sagas(conn);
  order.key = "order-42 \xE2\x82\xAC";
  cr_assert(txb_saga_start(conn, &order, first, &err) == TXB_OK, "%s", err.message);
  cr_assert(txb_saga_start(conn, &order, second, &err) == TXB_OK, "%s", err.message);
  cr_assert_str_eq(first, second);
  cr_assert_eq(sagas(conn), before + 1);
  order.key = "order-43";
  cr_assert(txb_saga_start(conn, &order, other, &err) == TXB_OK, "%s", err.message);
  order.key = NULL;
  cr_assert(txb_saga_start(conn, &order, none, &err) == TXB_OK, "%s", err.message);
  cr_assert(strcmp(first, other) != 0 && strcmp(first, none) != 0);
  cr_assert_eq(sagas(conn), before + 3);
  PQfinish(conn);
}

Test(saga_library, what_an_order_says_is_what_the_saga_has) {
  PGconn *conn = connect_here();
  const struct txb_saga_order order = {.name = "trip",
                                       .input_json = "{\"amount\": 9007199254740993}",
                                       .key = "all",
                                       .deadline_ms = 90000,
                                       .reply_topic = "ends"};
  char id[37] = "";
  cr_assert(txb_saga_start(conn, &order, id, &err) == TXB_OK, "%s", err.message);
  cr_assert_eq(number(conn,
                      "SELECT count(*) FROM txb.saga WHERE id = $1::uuid AND name = 'trip' AND key = 'all'"
                      " AND input = '{\"amount\": 9007199254740993}' AND reply_topic = 'ends'"
                      " AND deadline_at = started_at + interval '90 s'",
                      id),
               1);
  PQfinish(conn);
}

Test(saga_library, a_start_at_a_coordinator_elsewhere_travels_through_the_outbox) {
  PGconn *conn = connect_here();
  const struct txb_saga_order order = {.name = "cruise", .coordinator = "far.sagas"};
  char id[37] = "";
  int before = sagas(conn);
  cr_assert(txb_saga_start(conn, &order, id, &err) == TXB_OK, "%s", err.message);
  cr_assert_eq(sagas(conn), before);
  cr_assert_eq(number(conn,
                      "SELECT count(*) FROM txb.outbox WHERE topic = 'far.sagas' AND key = $1"
                      " AND convert_from(payload, 'UTF8')::jsonb @> '{\"name\": \"cruise\", \"input\": {}}'",
                      id),
               1);
  PQfinish(conn);
}

static char long_key[1026];

Test(saga_library, a_bad_order_starts_nothing_and_the_error_names_what_is_bad) {
  memset(long_key, 'k', sizeof long_key - 1);
  const struct {
    struct txb_saga_order order;
    const char *text;
  } rows[] = {
      {{.name = NULL}, "name: NULL"},
      {{.name = "cruise"}, "there is no saga \"cruise\""},
      {{.name = "tr\xFFp"}, "name: not UTF-8"},
      {{.name = "trip"}, "input.amount is missing"},
      {{.name = "trip", .input_json = "{\"amount\": 0}"}, "input.amount is 0, it must be at least 1"},
      {{.name = "trip", .input_json = "{\"amount\": 1"}, "input"},
      {{.name = "trip", .input_json = "\xFF"}, "input: not UTF-8"},
      {{.name = "trip", .input_json = "{\"amount\": 1.23456789012345678901}"}, "input holds the number"},
      {{.name = "trip", .input_json = "{\"amount\": 1}", .key = ""}, "key has 0 bytes"},
      {{.name = "trip", .input_json = "{\"amount\": 1}", .key = long_key}, "key has 1025 bytes"},
      {{.name = "trip", .input_json = "{\"amount\": 1}", .key = "\xC3"}, "key: not UTF-8"},
      {{.name = "trip", .input_json = "{\"amount\": 1}", .deadline_ms = -1}, "deadline_ms: -1"},
      {{.name = "trip", .input_json = "{\"amount\": 1}", .reply_topic = "a b"}, "reply_topic \"a b\""},
      {{.name = "trip", .input_json = "{\"amount\": 1}", .coordinator = "a b"}, "a b"},
  };
  PGconn *conn = connect_here();
  int before = sagas(conn), published = number(conn, "SELECT count(*) FROM txb.outbox", NULL);
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char id[37] = "untouched";
    enum txb_rc rc = txb_saga_start(conn, &rows[i].order, id, &err);
    cr_assert(rc == TXB_REFUSED, "row %zu: %s", i, txb_rc_name(rc));
    cr_assert(strstr(err.message, rows[i].text) != NULL, "row %zu: %s", i, err.message);
    cr_assert_str_eq(id, "untouched");
  }
  cr_assert_eq(sagas(conn), before);
  cr_assert_eq(number(conn, "SELECT count(*) FROM txb.outbox", NULL), published);
  PQfinish(conn);
}

/* ---- waiting ------------------------------------------------------------------------------------ */

struct waiting {
  PGconn *conn;
  const char *id;
  struct txb_saga_result *result;
  struct txb_error err;
  enum txb_rc rc;
};

static void *wait_long(void *context) {
  struct waiting *w = context;
  w->rc = txb_saga_wait(w->conn, w->id, 100000, &w->result, &w->err);
  return NULL;
}

/* It waits, and has looked at least once. */
static void begin_waiting(struct waiting *w, PGconn *other, pthread_t *thread) {
  char pid[16];
  snprintf(pid, sizeof pid, "%d", PQbackendPID(w->conn));
  run(w->conn, "SELECT 1");
  cr_assert(pthread_create(thread, NULL, wait_long, w) == 0);
  while (number(other,
                "SELECT count(*) FROM pg_stat_activity WHERE pid = $1::int AND query LIKE '%txb.saga_result(%'"
                " AND state = 'idle'",
                pid) == 0)
    ;
}

Test(saga_library, waiting_gives_the_result_when_it_comes) {
  PGconn *other = connect_here();
  char id[37] = "";
  pthread_t thread;
  start(other, id);
  struct waiting w = {.conn = connect_here(), .id = id};
  begin_waiting(&w, other, &thread);
  finish(other, id, "completed");
  cr_assert(pthread_join(thread, NULL) == 0);
  cr_assert(w.rc == TXB_OK, "%s", w.err.message);
  cr_assert_eq(txb_saga_result_state(w.result), TXB_SAGA_RESULT_COMPLETED);
  cr_assert_str_eq(txb_saga_result_output(w.result), "{\"seat\": \"12\u00e4\"}");
  cr_assert_null(txb_saga_result_reason(w.result));
  txb_saga_result_free(w.result);
  PQfinish(w.conn);
  PQfinish(other);
}

static void ends(PGconn *conn, const char *state, enum txb_saga_result_state wanted) {
  char id[37] = "";
  start(conn, id);
  finish(conn, id, state);
  struct txb_saga_result *result = look(conn, id, 0);
  cr_assert_eq(txb_saga_result_state(result), wanted);
  cr_assert_null(txb_saga_result_output(result));
  cr_assert_str_eq(txb_saga_result_reason(result), "no money");
  txb_saga_result_free(result);
}

Test(saga_library, an_end_without_an_effect_says_why) {
  PGconn *conn = connect_here();
  ends(conn, "compensated", TXB_SAGA_RESULT_COMPENSATED);
  ends(conn, "refused", TXB_SAGA_RESULT_REFUSED);
  PQfinish(conn);
}

Test(saga_library, whose_time_is_over_hears_that_it_still_runs_and_later_the_result_by_the_same_id) {
  PGconn *conn = connect_here();
  char id[37] = "";
  start(conn, id);
  is_state(conn, id, 0, TXB_SAGA_RESULT_RUNNING);
  is_state(conn, id, -5, TXB_SAGA_RESULT_RUNNING);
  struct txb_saga_result *result = look(conn, id, 30);
  cr_assert_eq(txb_saga_result_state(result), TXB_SAGA_RESULT_RUNNING);
  cr_assert(txb_saga_result_output(result) == NULL && txb_saga_result_reason(result) == NULL);
  txb_saga_result_free(result);
  finish(conn, id, "completed");
  is_state(conn, id, 30, TXB_SAGA_RESULT_COMPLETED);
  PQfinish(conn);
}

Test(saga_library, nobody_knows_an_id_that_is_nobodys) {
  PGconn *conn = connect_here();
  is_state(conn, NOBODY, 0, TXB_SAGA_RESULT_UNKNOWN);
  is_state(conn, NOBODY, 20, TXB_SAGA_RESULT_UNKNOWN);
  PQfinish(conn);
}

static void is_refused(PGconn *conn, const char *id, const char *text) {
  struct txb_saga_result *result = NULL;
  enum txb_rc rc = txb_saga_wait(conn, id, 0, &result, &err);
  cr_assert(rc == TXB_REFUSED && result == NULL, "%s", txb_rc_name(rc));
  cr_assert(strstr(err.message, text) != NULL, "%s", err.message);
}

Test(saga_library, waiting_where_nothing_could_be_seen_is_refused) {
  PGconn *conn = connect_here();
  is_refused(conn, "trip-42", "id: no UUID");
  is_refused(conn, "", "id: no UUID");
  is_refused(conn, NULL, "id: no UUID");
  run(conn, "BEGIN");
  is_refused(conn, NOBODY, "the connection is in a transaction");
  run(conn, "ROLLBACK");
  cr_assert(PQenterPipelineMode(conn) == 1);
  is_refused(conn, NOBODY, "pipeline");
  cr_assert(PQexitPipelineMode(conn) == 1);
  is_state(conn, NOBODY, 0, TXB_SAGA_RESULT_UNKNOWN);
  PQfinish(conn);
}

Test(saga_library, who_waits_while_his_session_ends_is_told_to_call_again_and_does_so_on_a_new_one) {
  PGconn *other = connect_here();
  char id[37] = "", pid[16];
  pthread_t thread;
  start(other, id);
  struct waiting w = {.conn = connect_here(), .id = id};
  begin_waiting(&w, other, &thread);
  snprintf(pid, sizeof pid, "%d", PQbackendPID(w.conn));
  cr_assert_eq(number(other, "SELECT pg_terminate_backend($1::int)::int", pid), 1);
  cr_assert(pthread_join(thread, NULL) == 0);
  cr_assert(w.rc == TXB_RETRY && w.result == NULL, "%s: %s", txb_rc_name(w.rc), w.err.message);
  PQfinish(w.conn);
  w.conn = connect_here();
  finish(other, id, "completed");
  is_state(w.conn, id, 0, TXB_SAGA_RESULT_COMPLETED);
  PQfinish(w.conn);
  PQfinish(other);
}

Test(saga_library, a_start_on_a_connection_that_is_gone_is_no_start) {
  PGconn *conn = connect_here(), *other = connect_here();
  char id[37] = "", pid[16];
  int before = sagas(other);
  snprintf(pid, sizeof pid, "%d", PQbackendPID(conn));
  run(conn, "BEGIN");
  cr_assert_eq(number(other, "SELECT pg_terminate_backend($1::int)::int", pid), 1);
  enum txb_rc rc = txb_saga_start(conn, &trip, id, &err);
  cr_assert(rc == TXB_RETRY && err.message[0] != '\0' && id[0] == '\0', "%s", txb_rc_name(rc));
  cr_assert_eq(sagas(other), before);
  PQfinish(conn);
  PQfinish(other);
}

Test(saga_library, text_of_another_encoding_is_refused_in_both) {
  PGconn *conn = connect_here();
  char id[37] = "";
  cr_assert(PQsetClientEncoding(conn, "LATIN1") == 0);
  cr_assert(txb_saga_start(conn, &trip, id, &err) == TXB_REFUSED && strstr(err.message, "LATIN1") != NULL, "%s",
            err.message);
  is_refused(conn, NOBODY, "LATIN1");
  PQfinish(conn);
}

Test(saga_library, nothing_is_freed_as_nothing) {
  txb_saga_result_free(NULL);
}
