/* What common/ promises for any thread, under the thread sanitizer: log lines stay whole, ids differ, faults are armed once, a stop wakes everybody. */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/memory.h"
#include "common/uuid.h"

#define THREADS 4
#define ROUNDS  2000

static atomic_int lines, torn;
static struct txb_uuid ids[THREADS][ROUNDS];
static int stop_fd;

#define CHECK(condition)                                                                                               \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                                  \
      exit(1);                                                                                                         \
    }                                                                                                                  \
  } while (0)

static void count_line(const char *line, size_t size) {
  atomic_fetch_add(&lines, 1);
  if (size < 2 || line[size - 1] != '\n' || memchr(line, '\n', size - 1) != NULL)
    atomic_fetch_add(&torn, 1);
}

static void *work(void *argument) {
  struct txb_uuid *mine = argument;
  struct txb_error err;
  for (int i = 0; i < ROUNDS; i++) {
    void *piece;
    CHECK(txb_alloc(64, &piece, &err) == TXB_OK);
    txb_free(piece);
    txb_uuid_v7(1700000000000000, &mine[i]);
    txb_failpoint("relay.after_poll");
    CHECK(!txb_bug("relay_id_gt_last"));
    txb_log(TXB_LOG_INFO, TXB_MSG("round"), TXB_FI("n", i));
    CHECK(TXB_FAIL(&err, TXB_RETRY, "round %d", i) == TXB_RETRY);
  }
  /* Waits for the stop without a limit: a lost wake-up would hang here until the runner's time is up. */
  CHECK(txb_pause(stop_fd, 60 * 1000 * 1000));
  return NULL;
}

static int compare(const void *a, const void *b) {
  return memcmp(a, b, sizeof(struct txb_uuid));
}

int main(void) {
  struct txb_error err;
  pthread_t threads[THREADS];
  txb_log_setup(TXB_LOG_INFO, TXB_LOG_JSON, count_line);
  CHECK(txb_wake_open(&stop_fd, &err) == TXB_OK);
  for (int t = 0; t < THREADS; t++)
    CHECK(pthread_create(&threads[t], NULL, work, ids[t]) == 0);
  txb_wake_signal(stop_fd);
  for (int t = 0; t < THREADS; t++)
    CHECK(pthread_join(threads[t], NULL) == 0);
  CHECK(atomic_load(&lines) == THREADS * ROUNDS && atomic_load(&torn) == 0);
  struct txb_uuid *all = &ids[0][0];
  qsort(all, (size_t)THREADS * ROUNDS, sizeof *all, compare);
  for (size_t i = 1; i < (size_t)THREADS * ROUNDS; i++)
    CHECK(compare(&all[i - 1], &all[i]) != 0);
  printf("%d threads, %d rounds each\n", THREADS, ROUNDS);
  return 0;
}
