/* A relay and its surroundings in the simulator: the process around the core, its connection with what is asked of the
 * server. See sim_relay.c. */
#ifndef TXB_TESTS_SIM_RELAY_WORLD_H
#define TXB_TESTS_SIM_RELAY_WORLD_H

#include "common/error.h"
#include "outbox/relay_core.h"
#include "relay_model.h"

enum { REQUESTS_MAX = 16, RANGES_MAX = 512, READ_MAX = 16, RELAYS = 2 };

enum request_kind { Q_POLL, Q_LIST, Q_LOOK, Q_CHECKPOINT, Q_RENEW, Q_RECORD, Q_DECIDE };

struct request { /* in the pipeline of one connection: executed in order, answered in order */
  enum request_kind kind;
  bool begun, executed, accepted, found;
  /* what was asked */
  struct txb_relay_poll poll;
  struct txb_range ranges[RANGES_MAX];
  size_t range_count;
  int64_t number, highest, watermark;
  int64_t pages[RANGES_MAX];
  size_t page_count;
  struct rm_range holes[RANGES_MAX];
  size_t hole_count;
  int64_t topic_lo[RM_TOPICS], key_lo[RM_TOPICS][RM_KEYS];
  int64_t published[RM_ROWS];
  size_t published_count;
  int64_t drain_lo[RM_TOPICS][RM_KEYS]; /* of a page of keys; -1: not asked for */
  int row;
  /* what was answered */
  struct rm_snapshot snapshot;
  struct rm_record failed[RM_ROWS]; /* txb.failed as the snapshot shows it */
  bool keys[RM_TOPICS][RM_KEYS], loose;
  struct txb_relay_answer answer;
  struct txb_relay_row rows[3][READ_MAX];
  int64_t read_bytes;
  struct txb_holder holders[RM_TXS];
  size_t holder_count;
};

struct relay {
  bool alive, held, zombie, replace, stopping, stopped;
  struct txb_relay_core core;
  int64_t epoch;
  unsigned char instance;
  struct request requests[REQUESTS_MAX];
  size_t first, count;
  struct rm_producer producer;
  bool probe, idle;
  uint32_t probe_topic;
};

struct world {
  struct rm_model m;
  struct txb_relay_core_options options;
  struct relay places[RELAYS];
  struct relay *relay, *zombie; /* each one of the places */
  unsigned replace_percent;     /* how soon a new producer comes */
};

/* What the seeds of a run went through: a rule that nothing exercises is not tested. */
struct counts {
  uint64_t polls, thrown_away, left_out, drained, refused, replaced, fenced, zombies, kills, stops, lost, retried,
      edited, discarded, keys_drained, loose, recorded;
};
extern struct counts counts;

/* ---- the server carries requests out (relay_requests.c) ---- */
extern const char *const relay_keys[RM_KEYS];
/* Index of the first row at or above seq. */
int first_row(const struct rm_model *m, int64_t seq);
struct txb_uuid instance_of(unsigned char byte);
/* The next part of it: a poll has two. */
void execute(struct rm_model *m, struct relay *r, struct request *q);

/* ---- a relay's process (relay_process.c) ---- */
void relay_begin(struct world *w, struct relay *r);
void relay_end(struct rm_model *m, struct relay *r);
/* Its core is done with. */
void end_core(struct relay *r);
/* Its connection goes: what was sent may still be carried out, and nobody reads the answers. */
void lose(struct rm_model *m, struct relay *r);
/* What it had of its source is gone, with what was asked. */
void forget(struct rm_model *m, struct relay *r);
void step(struct rm_model *m, struct relay *r, struct txb_relay_event *event);
/* One turn of its loop. */
void relay_step(struct world *w, struct relay *r);

#endif
