/* See job_core.h. Pure. */
#include "consumer/job_core.h"

#include <inttypes.h>
#include <stdio.h>

#include "common/error.h"

#define NONE      TXB_JOB_NONE
#define RUNNING   TXB_JOB_RUNNING
#define PAUSED    TXB_JOB_PAUSED
#define CANCELLED TXB_JOB_CANCELLED
#define DONE      TXB_JOB_DONE

const struct txb_job_transition txb_job_transitions[] = {
    {NONE, TXB_JOB_ON_START, RUNNING, "a person starts it; its lanes are made in the same transaction"},
    {RUNNING, TXB_JOB_ON_PAUSE, PAUSED, "a person wants it to rest: its lanes are let go, its retries rest too"},
    {RUNNING, TXB_JOB_ON_CANCEL, CANCELLED,
     "a person decided that it shall go no further; what it did stays, its failed messages stay open"},
    {RUNNING, TXB_JOB_ON_FINISH, DONE, "every lane has come to its end; failed messages may still be open"},
    {PAUSED, TXB_JOB_ON_RESUME, RUNNING, "a person wants it to go on from where it stood"},
    {PAUSED, TXB_JOB_ON_CANCEL, CANCELLED, "a person decided that it shall not go on"},
};
const size_t txb_job_transitions_count = TXB_ARRAY_SIZE(txb_job_transitions);

enum txb_job_state txb_job_next(enum txb_job_state from, enum txb_job_event event) {
  for (size_t i = 0; i < txb_job_transitions_count; i++)
    if (txb_job_transitions[i].from == from && txb_job_transitions[i].event == event)
      return txb_job_transitions[i].to;
  return NONE;
}

bool txb_job_is_open(enum txb_job_state state) {
  return state == RUNNING || state == PAUSED;
}

bool txb_job_serves(enum txb_job_state state, bool through, bool retries) {
  return txb_job_reads(state, through) || (retries && state != PAUSED && state != NONE);
}

bool txb_job_reads(enum txb_job_state state, bool through) {
  return state == RUNNING && !through;
}

void txb_job_pin_what(const char *database, const char *group, int64_t job, char out[TXB_JOB_PIN_WHAT_SIZE]) {
  (void)snprintf(out, TXB_JOB_PIN_WHAT_SIZE, "replay job %" PRId64 " into group %s of database %s", job, group,
                 database);
}

const char *txb_job_state_name(enum txb_job_state state) {
  static const char *const names[TXB_JOB_STATES] = {"", "running", "paused", "cancelled", "done"};
  return names[state];
}

const char *txb_job_event_name(enum txb_job_event event) {
  static const char *const names[TXB_JOB_EVENTS] = {"start", "pause", "resume", "cancel", "finish"};
  return names[event];
}
