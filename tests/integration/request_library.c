/* include/txbroker/request.h on a real server, which test_saga_library.py starts: TXB_TEST_DATABASE is a migrated database
 * whose replies go to the topic `replies`. No worker runs: replies are taken by hand, as its handler does. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "txbroker/request.h"

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

static int number(PGconn *conn, const char *sql, const char *value) {
  PGresult *r = PQexecParams(conn, sql, value != NULL, NULL, &value, NULL, NULL, 0);
  cr_assert(PQresultStatus(r) == PGRES_TUPLES_OK && PQntuples(r) == 1, "%s", PQresultErrorMessage(r));
  int found = (int)strtol(PQgetvalue(r, 0, 0), NULL, 10);
  PQclear(r);
  return found;
}

static int requests(PGconn *conn) {
  return number(conn, "SELECT count(*) FROM txb.request", NULL);
}

static const struct txb_request_order room = {.topic = "rooms", .type = "room.hold", .input_json = "{\"nights\": 2}"};

static void ask(PGconn *conn, char id[37]) {
  cr_assert(txb_request(conn, &room, id, &err) == TXB_OK, "%s", err.message);
}

static void reply(PGconn *conn, const char *id, const char *body) {
  const char *values[] = {id, body};
  PGresult *r =
      PQexecParams(conn,
                   "SELECT txb.take_reply(ROW('bank', txb.uuid_v7(), 'replies', 0, 1, NULL, 'txb.reply', now(),"
                   " convert_to($2, 'UTF8'), 'application/json',"
                   " jsonb_build_object('txb-request', $1::text, 'txb-command-topic', 'rooms'), 1)::txb.message)",
                   2, NULL, values, NULL, NULL, 0);
  cr_assert(PQresultStatus(r) == PGRES_TUPLES_OK, "%s", PQresultErrorMessage(r));
  PQclear(r);
}

static struct txb_reply *wait_for(PGconn *conn, const char *id) {
  struct txb_reply *found = NULL;
  cr_assert(txb_request_wait(conn, id, &found, &err) == TXB_OK, "%s", err.message);
  cr_assert(found != NULL);
  return found;
}

static bool same(const char *a, const char *b) {
  return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static void becomes(PGconn *conn, const char *id, enum txb_reply_state state, const char *answer, const char *output,
                    const char *reason) {
  struct txb_reply *found = wait_for(conn, id);
  cr_assert_eq(txb_reply_state(found), state, "%d", (int)txb_reply_state(found));
  cr_assert(same(txb_reply_answer(found), answer) && same(txb_reply_output(found), output) &&
                same(txb_reply_reason(found), reason),
            "%s %s %s", txb_reply_answer(found), txb_reply_output(found), txb_reply_reason(found));
  txb_reply_free(found);
}

Test(request_library, a_request_is_made_once_its_transaction_is_committed) {
  PGconn *conn = connect_here(), *other = connect_here();
  char id[37] = "", gone[37] = "";
  run(conn, "BEGIN");
  ask(conn, id);
  becomes(other, id, TXB_REPLY_UNKNOWN, NULL, NULL, NULL);
  run(conn, "COMMIT");
  run(conn, "BEGIN");
  ask(conn, gone);
  run(conn, "ROLLBACK");
  cr_assert_eq(number(other,
                      "SELECT count(*) FROM txb.outbox WHERE topic = 'rooms' AND type = 'room.hold' AND key = $1"
                      " AND headers = jsonb_build_object('txb-request', $1, 'txb-reply-to', 'replies')",
                      id),
               1);
  cr_assert_eq(number(other, "SELECT count(*) FROM txb.outbox WHERE key = $1", gone), 0);
  becomes(other, gone, TXB_REPLY_UNKNOWN, NULL, NULL, NULL);
  reply(other, id, "{\"answer\": \"ok\", \"output\": {\"room\": 7}}");
  becomes(conn, id, TXB_REPLY_ANSWERED, "ok", "{\"room\": 7}", NULL);
  becomes(conn, id, TXB_REPLY_ANSWERED, "ok", "{\"room\": 7}", NULL);
  PQfinish(conn);
  PQfinish(other);
}

Test(request_library, a_refusal_says_why) {
  PGconn *conn = connect_here();
  char id[37] = "";
  ask(conn, id);
  reply(conn, id, "{\"answer\": \"refused\", \"reason\": \"no room\"}");
  becomes(conn, id, TXB_REPLY_ANSWERED, "refused", NULL, "no room");
  PQfinish(conn);
}

Test(request_library, a_repeated_request_with_a_key_is_the_first_one) {
  PGconn *conn = connect_here();
  struct txb_request_order order = room;
  char first[37] = "", second[37] = "";
  int before = requests(conn);
  order.key = "order-42";
  cr_assert(txb_request(conn, &order, first, &err) == TXB_OK, "%s", err.message);
  cr_assert(txb_request(conn, &order, second, &err) == TXB_OK, "%s", err.message);
  cr_assert_str_eq(first, second);
  cr_assert_eq(requests(conn), before + 1);
  cr_assert_eq(number(conn, "SELECT count(*) FROM txb.outbox WHERE key = 'order-42'", NULL), 1);
  PQfinish(conn);
}

/* Its own time ends the waiting, by the clock of the database. */
Test(request_library, whose_time_is_over_is_expired_and_a_late_reply_changes_nothing) {
  PGconn *conn = connect_here();
  struct txb_request_order order = room;
  char id[37] = "";
  int late = number(conn, "SELECT coalesce(sum(count), 0) FROM txb.reply_ignored WHERE why = 'late'", NULL);
  order.timeout_ms = 20;
  cr_assert(txb_request(conn, &order, id, &err) == TXB_OK, "%s", err.message);
  becomes(conn, id, TXB_REPLY_EXPIRED, NULL, NULL, NULL);
  reply(conn, id, "{\"answer\": \"ok\"}");
  becomes(conn, id, TXB_REPLY_EXPIRED, NULL, NULL, NULL);
  cr_assert_eq(number(conn, "SELECT sum(count) FROM txb.reply_ignored WHERE why = 'late'", NULL), late + 1);
  PQfinish(conn);
}

Test(request_library, an_order_has_half_a_minute_unless_it_says_otherwise) {
  PGconn *conn = connect_here();
  struct txb_request_order order = room;
  char id[37] = "";
  order.reply_to = "elsewhere";
  order.input_json = NULL;
  cr_assert(txb_request(conn, &order, id, &err) == TXB_OK, "%s", err.message);
  cr_assert_eq(
      number(conn, "SELECT extract(epoch FROM deadline_at - asked_at) FROM txb.request WHERE id = $1::uuid", id), 30);
  cr_assert_eq(number(conn,
                      "SELECT count(*) FROM txb.outbox WHERE key = $1 AND headers ->> 'txb-reply-to' = 'elsewhere'"
                      " AND payload = '{}'",
                      id),
               1);
  PQfinish(conn);
}

static char long_key[1026];

Test(request_library, a_bad_order_asks_nobody_and_the_error_names_what_is_bad) {
  memset(long_key, 'k', sizeof long_key - 1);
  const struct {
    struct txb_request_order order;
    const char *text;
  } rows[] = {
      {{.topic = NULL}, "topic: NULL"},
      {{.topic = "rooms"}, "type: NULL"},
      {{.topic = "a b", .type = "t"}, "topic"},
      {{.topic = "\xFF", .type = "t"}, "topic: not UTF-8"},
      {{.topic = "rooms", .type = ""}, "type"},
      {{.topic = "rooms", .type = "t", .input_json = "{"}, "json"},
      {{.topic = "rooms", .type = "t", .input_json = "\xFF"}, "input: not UTF-8"},
      {{.topic = "rooms", .type = "t", .key = ""}, "key has 0 bytes"},
      {{.topic = "rooms", .type = "t", .key = long_key}, "key has 1025 bytes"},
      {{.topic = "rooms", .type = "t", .timeout_ms = -1}, "timeout_ms: -1"},
      {{.topic = "rooms", .type = "t", .timeout_ms = INT64_C(40000000000)}, "timeout is"},
      {{.topic = "rooms", .type = "t", .reply_to = "a b"}, "reply_to"},
  };
  PGconn *conn = connect_here();
  int before = requests(conn), published = number(conn, "SELECT count(*) FROM txb.outbox", NULL);
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char id[37] = "untouched";
    enum txb_rc rc = txb_request(conn, &rows[i].order, id, &err);
    cr_assert(rc == TXB_REFUSED, "row %zu: %s", i, txb_rc_name(rc));
    cr_assert(strstr(err.message, rows[i].text) != NULL, "row %zu: %s", i, err.message);
    cr_assert_str_eq(id, "untouched");
  }
  cr_assert_eq(requests(conn), before);
  cr_assert_eq(number(conn, "SELECT count(*) FROM txb.outbox", NULL), published);
  PQfinish(conn);
}

static void is_refused(PGconn *conn, const char *id, const char *text) {
  struct txb_reply *found = NULL;
  enum txb_rc rc = txb_request_wait(conn, id, &found, &err);
  cr_assert(rc == TXB_REFUSED && found == NULL, "%s", txb_rc_name(rc));
  cr_assert(strstr(err.message, text) != NULL, "%s", err.message);
}

Test(request_library, waiting_where_nothing_could_be_seen_is_refused) {
  PGconn *conn = connect_here();
  is_refused(conn, "room-7", "id: no UUID");
  is_refused(conn, NULL, "id: no UUID");
  run(conn, "BEGIN");
  is_refused(conn, NOBODY, "the connection is in a transaction");
  run(conn, "ROLLBACK");
  becomes(conn, NOBODY, TXB_REPLY_UNKNOWN, NULL, NULL, NULL);
  txb_reply_free(NULL);
  PQfinish(conn);
}

/* ---- while another thread waits ------------------------------------------------------------------ */

struct waiting {
  PGconn *conn;
  const char *id;
  struct txb_reply *found;
  struct txb_error err;
  enum txb_rc rc;
};

static void *wait_long(void *context) {
  struct waiting *w = context;
  w->rc = txb_request_wait(w->conn, w->id, &w->found, &w->err);
  return NULL;
}

/* It waits, and has looked at least once. */
static void begin_waiting(struct waiting *w, PGconn *other, pthread_t *thread, char pid[16]) {
  snprintf(pid, 16, "%d", PQbackendPID(w->conn));
  cr_assert(pthread_create(thread, NULL, wait_long, w) == 0);
  while (number(other,
                "SELECT count(*) FROM pg_stat_activity WHERE pid = $1::int AND query LIKE '%txb.request_result(%'"
                " AND state = 'idle'",
                pid) == 0)
    ;
}

Test(request_library, waiting_gives_the_reply_when_it_comes) {
  PGconn *other = connect_here();
  char id[37] = "", pid[16];
  pthread_t thread;
  ask(other, id);
  struct waiting w = {.conn = connect_here(), .id = id};
  begin_waiting(&w, other, &thread, pid);
  reply(other, id, "{\"answer\": \"ok\"}");
  cr_assert(pthread_join(thread, NULL) == 0);
  cr_assert(w.rc == TXB_OK && txb_reply_state(w.found) == TXB_REPLY_ANSWERED, "%s", w.err.message);
  txb_reply_free(w.found);
  PQfinish(w.conn);
  PQfinish(other);
}

Test(request_library, who_waits_while_his_session_ends_is_told_to_call_again) {
  PGconn *other = connect_here();
  char id[37] = "", pid[16];
  pthread_t thread;
  ask(other, id);
  struct waiting w = {.conn = connect_here(), .id = id};
  begin_waiting(&w, other, &thread, pid);
  cr_assert_eq(number(other, "SELECT pg_terminate_backend($1::int)::int", pid), 1);
  cr_assert(pthread_join(thread, NULL) == 0);
  cr_assert(w.rc == TXB_RETRY && w.found == NULL, "%s: %s", txb_rc_name(w.rc), w.err.message);
  PQfinish(w.conn);
  PQfinish(other);
}
