/* demo: money moves between two banks through outbox, Kafka and worker while relay and worker processes are killed; a
 * verifier counts.
 *
 *   cmd_demo.c     the story: servers, start, progress, end
 *   demo_stage.c   servers, databases, topics, processes
 *   demo_bank.c    the two banks, and the connections that make transfers
 *   demo_kill.c    relay and worker: killed while they have work, started again
 *   demo_verify.c  what was lost, doubled, misordered, by SQL of its own
 */
#ifndef TXB_BROKER_CLI_DEMO_H
#define TXB_BROKER_CLI_DEMO_H

#include <pthread.h>

#include "broker/cli/demo_stage.h"

#define TXB_DEMO_WRITERS_MAX  64
#define TXB_DEMO_ACCOUNTS     100
#define TXB_DEMO_ROLLBACK_PCT 10

struct txb_demo_bank {
  struct txb_stage_database *db;                                  /* named as its source */
  char group[80];                                                 /* that applies what arrives here */
  const char *topic;                                              /* of what arrives here */
  int64_t sent, credited, drawn, watermark, duplicate, published; /* when last looked at */
};

/* One connection that makes transfers out of one bank. */
struct txb_demo_writer {
  struct txb_demo *demo;
  int number;
  uint64_t random; /* state of its generator */
  pthread_t thread;
  bool started;
};

enum txb_demo_role { TXB_DEMO_RELAY, TXB_DEMO_WORKER, TXB_DEMO_ROLES };

struct txb_demo {
  struct txb_stage stage; /* its processes by enum txb_demo_role */
  int64_t transfers;
  int writers, kills_wanted;
  uint64_t seed;
  struct txb_demo_bank banks[2];
  int64_t started_us;

  /* between the writers and the main thread, under the mutex */
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  int64_t allowed, taken, committed, rolled_back;
  bool stopping, failed;
  struct txb_error failure;
  struct txb_demo_writer writer[TXB_DEMO_WRITERS_MAX];
};

/* Makes schema and accounts; money_out: what is in both together. */
enum txb_rc txb_demo_banks_open(struct txb_demo *demo, int64_t *money_out, struct txb_error *err) TXB_MUST_CHECK;
/* Looks at both banks. */
enum txb_rc txb_demo_look(struct txb_demo *demo, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_demo_money(struct txb_demo *demo, int64_t *out, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_demo_writers_start(struct txb_demo *demo, struct txb_error *err) TXB_MUST_CHECK;
/* How many transfers may have been begun from now on. */
void txb_demo_writers_allow(struct txb_demo *demo, int64_t allowed);
/* TXB_OK, or what went wrong in a writer. */
enum txb_rc txb_demo_writers_check(struct txb_demo *demo, struct txb_error *err) TXB_MUST_CHECK;
void txb_demo_writers_stop(struct txb_demo *demo);

enum txb_rc txb_demo_processes_start(struct txb_demo *demo, struct txb_error *err) TXB_MUST_CHECK;
/* Kills the next one in the plan if it has work under way, and starts it again. *killed_out: whether it was and still
 * had. */
enum txb_rc txb_demo_kill_next(struct txb_demo *demo, bool *killed_out, struct txb_error *err) TXB_MUST_CHECK;

struct txb_demo_verdict {
  int64_t transfers, published, applied, lost, doubled, misordered, altered, invented, unbalanced, money_before,
      money_after;
  bool ok;
};
enum txb_rc txb_demo_verify(struct txb_demo *demo, int64_t money_before, struct txb_demo_verdict *out,
                            struct txb_error *err) TXB_MUST_CHECK;
void txb_demo_print(const struct txb_demo *demo, const struct txb_demo_verdict *v);

/* demo saga (demo_saga.c): a story of its own. Gives the exit code. */
int txb_demo_saga(struct txb_cli *cli);

#endif
