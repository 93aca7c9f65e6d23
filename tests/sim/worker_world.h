/* A worker and its surroundings in the simulator: the process around the core, and Kafka's group. See sim_worker.c. */
#ifndef TXB_TESTS_SIM_WORKER_WORLD_H
#define TXB_TESTS_SIM_WORKER_WORLD_H

#include "consumer/worker_core.h"
#include "worker_model.h"

enum { EVENTS_MAX = 32, SESSION_TIMEOUT_US = 3000000 };

struct kafka_event {
  enum { K_ASSIGN, K_REVOKE, K_LOST, K_CONFIRMED } kind;
  int partition, serial;
  bool accepted;
};

struct worker {
  bool alive, stopped, member;
  int index, instance, session, session_serial, generation;
  int64_t stopped_since_us, rejoin_us;
  struct txb_worker_core core;
  int slot[PLACES];         /* -1 */
  int serial[PLACES];       /* counts assignments: an answer to an older one is void */
  int partition_of[64];     /* the place of a slot */
  int64_t position[PLACES]; /* of the fetcher; -1: not fetching */
  bool paused[PLACES];
  struct kafka_event events[EVENTS_MAX];
  int event_count;
  bool awaiting; /* a RUN or RETRY has been sent */
  int awaiting_slot;
  int held[PLACES][KEYS]; /* rows that hold each key, as far as it knows */
  enum txb_failure_class verdict[PLACES];
  int marked[PLACES][BATCH_MAX]; /* the rows of its RETRY_MARK */
  int64_t marked_us[PLACES];
  int64_t claim_us;        /* when it claims lanes next */
  bool confirming[PLACES]; /* its core waits for the lease of that lane */
  int64_t lane_end[PLACES];
  bool waiting; /* `action` waits for a lock */
  bool quiet;   /* it had nothing to do, and nothing has happened since */
  struct txb_worker_action action;
};

struct world {
  struct model m;
  struct worker workers[WORKERS];
  int generation, owner[PARTITIONS_MAX], revoking[PARTITIONS_MAX];
  int64_t seen_us[WORKERS]; /* last heartbeat of a member */
  bool in_group[WORKERS];
  int instances, rotation;
};

/* ---- the group (worker_group.c) ---- */
void tell(struct worker *k, struct kafka_event e);
void rebalance(struct world *w);
void leave_group(struct world *w, int index);
void join_group(struct world *w, struct worker *k);
void expire_members(struct world *w);

/* ---- lanes (worker_lane.c) ---- */
/* Renews and claims, when it is time and the connection is free. */
void claim_lanes(struct world *w, struct worker *k);

/* ---- a worker's process (worker_process.c) ---- */
void start_worker(struct world *w, int index);
void kill_worker(struct world *w, struct worker *k);
/* The worker at the other end of a session; NULL: none any more. */
struct worker *running_in(struct world *w, int session);
/* One turn of its loop. */
void turn(struct world *w, struct worker *k);

/* ---- what its core is told, and what it asks of the database (worker_actions.c) ---- */
struct txb_worker_event event_of(struct world *w, enum txb_worker_event_kind kind, int slot);
void step(struct world *w, struct worker *k, enum txb_worker_event_kind kind, int slot);
void found(struct world *w, struct worker *k, enum txb_worker_event_kind kind, int slot, bool yes, int64_t offset);
/* Carries out an action on partition p. False: it waits for a lock, and is to be tried again. */
bool ask_database(struct world *w, struct worker *k, const struct txb_worker_action *a, int p);

#endif
