/* Many threads of one application, each with a connection of its own: each starts a saga in its transaction and waits for its
 * end. What comes back must be its own. test_saga_library.py runs it.
 *
 *   saga_waits NAME THREADS     TXB_TEST_DATABASE: the coordinator's; prints "THREADS waited"; exit 1: something was wrong
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "txbroker/saga.h"

enum { THREADS_MAX = 64, WAIT_MS = 60000 };

struct caller {
  const char *name;
  int number;
  char problem[700];
};

static bool is_refused(const struct caller *c) {
  return c->number % 4 == 3;
}

static bool run(struct caller *c, PGconn *conn, const char *sql) {
  PGresult *r = PQexec(conn, sql);
  bool done = PQresultStatus(r) == PGRES_COMMAND_OK;
  if (!done)
    snprintf(c->problem, sizeof c->problem, "%s: %s", sql, PQresultErrorMessage(r));
  PQclear(r);
  return done;
}

static void start(struct caller *c, PGconn *conn, char id[37]) {
  char input[200], key[40];
  struct txb_error err;
  snprintf(input, sizeof input, "{\"amount\": 1, \"refuse\": \"%s\", \"echo\": {\"flight\": %d}}",
           is_refused(c) ? "payment" : "nobody", c->number);
  snprintf(key, sizeof key, "thread-%d", c->number);
  const struct txb_saga_order order = {.name = c->name, .input_json = input, .key = key};
  if (!run(c, conn, "BEGIN"))
    return;
  if (txb_saga_start(conn, &order, id, &err) != TXB_OK)
    snprintf(c->problem, sizeof c->problem, "start: %s", err.message);
  else
    (void)run(c, conn, "COMMIT");
}

static void check(struct caller *c, const struct txb_saga_result *result) {
  const char *output = txb_saga_result_output(result), *reason = txb_saga_result_reason(result);
  enum txb_saga_result_state state = txb_saga_result_state(result);
  char wanted[40];
  snprintf(wanted, sizeof wanted, "{\"echo\": %d}", c->number);
  bool right = is_refused(c)
                   ? state == TXB_SAGA_RESULT_COMPENSATED && output == NULL && strstr(reason, "payment") != NULL
                   : state == TXB_SAGA_RESULT_COMPLETED && reason == NULL && strcmp(output, wanted) == 0;
  if (!right)
    snprintf(c->problem, sizeof c->problem, "state %d, output %s, reason %s", (int)state,
             output != NULL ? output : "none", reason != NULL ? reason : "none");
}

static void *call(void *context) {
  struct caller *c = context;
  PGconn *conn = PQconnectdb(getenv("TXB_TEST_DATABASE"));
  struct txb_saga_result *result = NULL;
  struct txb_error err;
  char id[37] = "";
  if (PQstatus(conn) != CONNECTION_OK)
    snprintf(c->problem, sizeof c->problem, "%s", PQerrorMessage(conn));
  if (c->problem[0] == '\0')
    start(c, conn, id);
  if (c->problem[0] == '\0' && txb_saga_wait(conn, id, WAIT_MS, &result, &err) != TXB_OK)
    snprintf(c->problem, sizeof c->problem, "wait: %s", err.message);
  if (c->problem[0] == '\0')
    check(c, result);
  txb_saga_result_free(result);
  PQfinish(conn);
  return NULL;
}

int main(int argc, char **argv) {
  static struct caller callers[THREADS_MAX];
  pthread_t threads[THREADS_MAX];
  int count = argc == 3 ? (int)strtol(argv[2], NULL, 10) : 0, wrong = 0;
  if (count < 1 || count > THREADS_MAX || getenv("TXB_TEST_DATABASE") == NULL) {
    fprintf(stderr, "usage: TXB_TEST_DATABASE=URI saga_waits NAME THREADS\n");
    return 2;
  }
  for (int n = 0; n < count; n++) {
    callers[n] = (struct caller){.name = argv[1], .number = n + 1};
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
  printf("%d waited\n", count - wrong);
  return wrong == 0 ? 0 : 1;
}
