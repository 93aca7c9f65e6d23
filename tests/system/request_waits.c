/* Many threads of one application, each with a connection of its own: each asks in its transaction and waits for the reply.
 * What comes back must be its own. test_requests.py runs it.
 *
 *   request_waits TOPIC THREADS     TXB_TEST_DATABASE: the caller's; prints "THREADS answered"; exit 1: something was wrong
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "txbroker/request.h"

enum { THREADS_MAX = 64, WAIT_MS = 60000 };

struct caller {
  const char *topic;
  int number;
  char problem[700];
};

static bool run(struct caller *c, PGconn *conn, const char *sql) {
  PGresult *r = PQexec(conn, sql);
  bool done = PQresultStatus(r) == PGRES_COMMAND_OK;
  if (!done)
    snprintf(c->problem, sizeof c->problem, "%s: %s", sql, PQresultErrorMessage(r));
  PQclear(r);
  return done;
}

static void ask(struct caller *c, PGconn *conn, char id[37]) {
  char input[40];
  struct txb_error err;
  snprintf(input, sizeof input, "{\"n\": %d}", c->number);
  const struct txb_request_order order = {
      .topic = c->topic, .type = "room.hold", .input_json = input, .timeout_ms = WAIT_MS};
  if (!run(c, conn, "BEGIN"))
    return;
  if (txb_request(conn, &order, id, &err) != TXB_OK)
    snprintf(c->problem, sizeof c->problem, "request: %s", err.message);
  else
    (void)run(c, conn, "COMMIT");
}

static bool is(const char *text, const char *wanted) {
  return text != NULL && strcmp(text, wanted) == 0;
}

/* Every fifth is refused. */
static void check(struct caller *c, const struct txb_reply *reply) {
  char output[40], reason[40];
  bool refused = c->number % 5 == 0;
  snprintf(output, sizeof output, "{\"n\": %d}", c->number);
  snprintf(reason, sizeof reason, "no room for %d", c->number);
  bool right = txb_reply_state(reply) == TXB_REPLY_ANSWERED &&
               is(txb_reply_answer(reply), refused ? "refused" : "ok") &&
               (refused ? is(txb_reply_reason(reply), reason) : is(txb_reply_output(reply), output));
  if (!right)
    snprintf(c->problem, sizeof c->problem, "state %d, answer %s", (int)txb_reply_state(reply),
             txb_reply_answer(reply) != NULL ? txb_reply_answer(reply) : "none");
}

static void *call(void *context) {
  struct caller *c = context;
  PGconn *conn = PQconnectdb(getenv("TXB_TEST_DATABASE"));
  struct txb_reply *reply = NULL;
  struct txb_error err;
  char id[37] = "";
  if (PQstatus(conn) != CONNECTION_OK)
    snprintf(c->problem, sizeof c->problem, "%s", PQerrorMessage(conn));
  if (c->problem[0] == '\0')
    ask(c, conn, id);
  if (c->problem[0] == '\0' && txb_request_wait(conn, id, &reply, &err) != TXB_OK)
    snprintf(c->problem, sizeof c->problem, "wait: %s", err.message);
  if (c->problem[0] == '\0')
    check(c, reply);
  txb_reply_free(reply);
  PQfinish(conn);
  return NULL;
}

int main(int argc, char **argv) {
  static struct caller callers[THREADS_MAX];
  pthread_t threads[THREADS_MAX];
  int count = argc == 3 ? (int)strtol(argv[2], NULL, 10) : 0, wrong = 0;
  if (count < 1 || count > THREADS_MAX || getenv("TXB_TEST_DATABASE") == NULL) {
    fprintf(stderr, "usage: TXB_TEST_DATABASE=URI request_waits TOPIC THREADS\n");
    return 2;
  }
  for (int n = 0; n < count; n++) {
    callers[n] = (struct caller){.topic = argv[1], .number = n + 1};
    if (pthread_create(&threads[n], NULL, call, &callers[n]) != 0)
      return 2;
  }
  for (int n = 0; n < count; n++) {
    (void)pthread_join(threads[n], NULL);
    if (callers[n].problem[0] == '\0')
      continue;
    printf("thread %d: %s\n", n + 1, callers[n].problem);
    wrong++;
  }
  printf("%d answered\n", count - wrong);
  return wrong == 0 ? 0 : 1;
}
