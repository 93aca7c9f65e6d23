/* A failed message as a state machine: which event leads from which state to which, when it is tried again, and what an
 * attempt that failed leads to. Pure: the rows are in txb.failed, and every change of one is a transition of this table.
 */
#ifndef TXB_CONSUMER_FAILED_CORE_H
#define TXB_CONSUMER_FAILED_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consumer/failure_class.h"

enum txb_failed_state {
  TXB_FAILED_NONE = 0, /* there is no row */
  TXB_FAILED_RETRYING,
  TXB_FAILED_HELD, /* behind an open message of its key */
  TXB_FAILED_DEAD,
  TXB_FAILED_RESOLVED,
  TXB_FAILED_DISCARDED,
};
enum { TXB_FAILED_STATES = TXB_FAILED_DISCARDED + 1 };

enum txb_failed_event {
  TXB_FAILED_ON_FAILED = 0, /* an attempt failed */
  TXB_FAILED_ON_BEHIND,     /* its key was held when it came */
  TXB_FAILED_ON_CRASHED,    /* two deaths under its own marker */
  TXB_FAILED_ON_APPLIED,
  TXB_FAILED_ON_DUPLICATE,  /* the inbox knew it */
  TXB_FAILED_ON_PUBLISHED,  /* an intent: Kafka has acknowledged it */
  TXB_FAILED_ON_AHEAD_DONE, /* everything before it in its key is closed */
  TXB_FAILED_ON_RETRY,      /* a person: again, from the first attempt on */
  TXB_FAILED_ON_EDIT,       /* a person: a changed copy takes its place */
  TXB_FAILED_ON_EDITED,     /* this is that copy */
  TXB_FAILED_ON_DISCARD,    /* a person: never */
  TXB_FAILED_ON_COPIED,     /* a person: a copy goes to a topic, and nothing changes */
};
enum { TXB_FAILED_EVENTS = TXB_FAILED_ON_COPIED + 1 };

struct txb_failed_transition {
  enum txb_failed_state from;
  enum txb_failed_event event;
  enum txb_failed_state to;
  const char *why; /* for the documentation */
};
extern const struct txb_failed_transition txb_failed_transitions[];
extern const size_t txb_failed_transitions_count;

/* The line of the table, NULL: refused. */
const struct txb_failed_transition *txb_failed_transition_of(enum txb_failed_state from, enum txb_failed_event event,
                                                             enum txb_failed_state to);
/* Whether the event may happen in that state at all. */
bool txb_failed_may(enum txb_failed_state from, enum txb_failed_event event);
/* retrying, held, dead: neither closed nor absent. */
bool txb_failed_is_open(enum txb_failed_state state);
/* As in txb.failed.state and txb.failed_history.event; static. */
const char *txb_failed_state_name(enum txb_failed_state state);
const char *txb_failed_event_name(enum txb_failed_event event);

struct txb_failed_policy {
  int32_t attempts_max; /* >= 1 */
  int64_t first_ms, cap_ms;
  int32_t factor; /* >= 1: each pause is so much longer than the one before */
  bool release;   /* a dead message lets its key go on */
};

/* The pause after attempt `attempts` (1 = the first) failed: first, first * factor, ... up to the cap, of which a
 * random half is taken off. `after_ms` > 0: the handler's own wish instead, at most 30 days. */
int64_t txb_failed_delay_ms(const struct txb_failed_policy *policy, int32_t attempts, int64_t after_ms,
                            uint64_t random);

struct txb_failed_result {
  enum txb_failed_state state; /* retrying or dead */
  int32_t attempts;            /* that failed, this one included */
  int64_t delay_ms;            /* of retrying; else 0 */
  bool holds;                  /* later messages of its key wait behind it */
};
/* What an attempt that failed leads to. `attempts`: those that had failed before. `class`: TXB_CLASS_COUNT or
 * TXB_CLASS_DEAD, nothing else is an attempt. */
struct txb_failed_result txb_failed_attempt(const struct txb_failed_policy *policy, int32_t attempts,
                                            enum txb_failure_class class, int64_t after_ms, bool has_key,
                                            uint64_t random);

#endif
