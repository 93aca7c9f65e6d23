/* Lanes of a worker: what of the group's replay jobs it reads (see lane_reader.h for how), and by which right. To the core
 * a lane is one more partition, numbered -lane; here stands what is different.
 *
 * A lane belongs to who holds its lease in the consuming database (txb.lane_claim); what fences its batches is the epoch
 * of its position, as for every partition. So a lease that ran out unnoticed costs a rollback and never an effect. A crash
 * loses all of this: the lease runs out, and another claims the lane at its position.
 */
#ifndef TXB_CONSUMER_LANES_H
#define TXB_CONSUMER_LANES_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct txb_worker_process_state;
struct txb_worker_action;
struct txb_lane_reader;
struct txb_kafka_inspect;

enum {
  TXB_LANES_MAX = 8,      /* that one worker holds: it runs one batch at a time anyway, and others shall have some */
  TXB_LANES_AT_ONCE = 16, /* with those that it is giving back */
  TXB_LANES_ERROR_SIZE = 600
};

/* How far it is on the way to the next pass over what came meanwhile (J3), or to being done. */
enum txb_lane_pass {
  TXB_PASS_NONE = 0,
  TXB_PASS_ENDS,    /* Kafka is to be asked where the topic ends */
  TXB_PASS_HIGHEST, /* then the source, how far it is */
  TXB_PASS_READY,   /* both go to the database */
};

struct txb_lane {
  int32_t number;
  int64_t job, seq_to;
  bool then_live, of_topic; /* of_topic: it reads a Kafka partition, not an outbox */
  int32_t job_left;         /* lanes of its job that are not done, this one among them */
  struct txb_lane_reader *reader;
  bool confirm;         /* the core waits to be told that it is ours (W4) */
  bool seen;            /* in the answer at hand */
  bool leaving;         /* the core was told to give it back */
  bool done;            /* the group goes on live (J3) */
  int64_t end_asked_at; /* its end for which a claim was sent at once */

  enum txb_lane_pass pass;
  int64_t pass_us; /* not before */
  int32_t partitions;
  int64_t *ends;
  char cluster[80];
  int64_t highest, highest_passed; /* of this pass; of the one before, -1: none by us */
};

/* Something to be written to a lane's row. */
struct txb_lane_word {
  int32_t lane;
  bool frees;
  char error[TXB_LANES_ERROR_SIZE]; /* "": none any more */
};

struct txb_lanes {
  int64_t claim_us;             /* when the next claim is due */
  int64_t claimed_us, lease_us; /* when the last one was sent; until when the leases hold */
  enum { TXB_LANES_CLAIM, TXB_LANES_PASS, TXB_LANES_WORD } under_way;
  int32_t under_way_lane;
  struct txb_lane_word words[2 * TXB_LANES_AT_ONCE];
  size_t word_count;
  struct {
    int32_t lane;
    int64_t until_us;
  } strange[TXB_LANES_AT_ONCE]; /* of sources that this worker does not know: what the log was told, until when */
  struct txb_kafka_inspect *inspect;
  bool told_waits;
};

/* All of these are called by the worker's thread alone. TXB_RETRY, TXB_REFUSED: the session is lost, or a right is missing,
 * as of every operation of the worker; TXB_FATAL: no memory. What goes wrong with a source or with Kafka is logged, written
 * to the lane's row and tried again here. */
void txb_lanes_fini(struct txb_worker_process_state *w);
/* The place of a slot is given up; its reader ends. NULL is fine. */
void txb_lane_free(struct txb_lane *lane);
/* When (steady clock) something is to be sent to the database, INT64_MAX: nothing; the sending, as an operation of the
 * worker (operation.c); and what came of it. */
int64_t txb_lanes_due_us(struct txb_worker_process_state *w);
enum txb_rc txb_lanes_begin(struct txb_worker_process_state *w, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_lanes_end(struct txb_worker_process_state *w, struct txb_error *err) TXB_MUST_CHECK;
/* Whether something is still to be written down before the process ends. */
bool txb_lanes_have_words(const struct txb_worker_process_state *w);
/* Takes in what the readers have, up to a bound. *more_out: there may be more. */
enum txb_rc txb_lanes_take_notices(struct txb_worker_process_state *w, bool *more_out,
                                   struct txb_error *err) TXB_MUST_CHECK;
/* What the core wants of a lane. */
enum txb_rc txb_lanes_tell(struct txb_worker_process_state *w, const struct txb_worker_action *action,
                           struct txb_error *err) TXB_MUST_CHECK;
/* What to wait for before notices are taken again: the readers' descriptors, at most `room` of them (returns how many),
 * and a steady time (INT64_MAX: none). */
size_t txb_lanes_pollfds(const struct txb_worker_process_state *w, struct pollfd *fds, size_t room);
int64_t txb_lanes_readers_due_us(const struct txb_worker_process_state *w);

#endif
