/* A replay job as a state machine: which event leads from which state to which, and what of its lanes may be served. Pure:
 * the rows are in txb.job, and every change of one's state is a transition of this table.
 */
#ifndef TXB_CONSUMER_JOB_CORE_H
#define TXB_CONSUMER_JOB_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum txb_job_state {
  TXB_JOB_NONE = 0, /* there is no row */
  TXB_JOB_RUNNING,
  TXB_JOB_PAUSED,
  TXB_JOB_CANCELLED,
  TXB_JOB_DONE,
};
enum { TXB_JOB_STATES = TXB_JOB_DONE + 1 };

enum txb_job_event {
  TXB_JOB_ON_START = 0, /* a person */
  TXB_JOB_ON_PAUSE,     /* a person */
  TXB_JOB_ON_RESUME,    /* a person */
  TXB_JOB_ON_CANCEL,    /* a person */
  TXB_JOB_ON_FINISH,    /* a worker: the last of its lanes is through */
};
enum { TXB_JOB_EVENTS = TXB_JOB_ON_FINISH + 1 };

struct txb_job_transition {
  enum txb_job_state from;
  enum txb_job_event event;
  enum txb_job_state to;
  const char *why; /* for the documentation */
};
extern const struct txb_job_transition txb_job_transitions[];
extern const size_t txb_job_transitions_count;

/* Where the event leads; TXB_JOB_NONE: it is refused in that state. */
enum txb_job_state txb_job_next(enum txb_job_state from, enum txb_job_event event);
/* running, paused: neither final nor absent. */
bool txb_job_is_open(enum txb_job_state state);
/* Whether a worker may hold the lease of a lane: of a running job while there is something to read or to retry; of one that
 * is done or cancelled while failed messages of the lane are still to be retried; never of a paused one, whose retries
 * rest too. `through`: the lane's position has reached its end for good; `retries`: it has failed messages to be retried. */
bool txb_job_serves(enum txb_job_state state, bool through, bool retries);
/* Whether the lane's position may move: what is cancelled is read no further, though its retries go on. */
bool txb_job_reads(enum txb_job_state state, bool through);
/* What the pin says by which a job keeps its range in the source (txb.outbox_pin; its name is txb.job_pin's): whoever
 * starts the job sets the one that its workers renew and take away. `database`: the consuming one. */
enum { TXB_JOB_PIN_WHAT_SIZE = 420 };
void txb_job_pin_what(const char *database, const char *group, int64_t job, char out[TXB_JOB_PIN_WHAT_SIZE]);
/* As in txb.job.state, and as the commands call it; static. */
const char *txb_job_state_name(enum txb_job_state state);
const char *txb_job_event_name(enum txb_job_event event);

#endif
