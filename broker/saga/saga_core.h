/* A saga as a state machine: which step runs, settles or is compensated when, and how the whole ends. Pure: what happened is
 * told by events, what is to be done is answered as actions, and both lie in txb.saga_event and the outbox.
 *
 * The rules behind it (PROTOCOLS S1 to S4, S7):
 *   - An outcome that is not known is settled at the participant's barrier and never guessed: after a time-out, a deadline, a
 *     cancel, another step's refusal or a person's wish to go on without the step the operation `resolve` is sent, and what it
 *     answers is what happened.
 *   - Exactly the steps that took effect are compensated, each after all that came behind it, side by side where the graph
 *     allows. An action that succeeds late counts as one that succeeded.
 *   - Once the pivot took effect there is no way back. What comes behind it is tried until it succeeds, or a person is asked.
 *   - A timer says which sending it belongs to: one that comes after an answer, or after another sending, changes nothing.
 */
#ifndef TXB_BROKER_SAGA_CORE_H
#define TXB_BROKER_SAGA_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TXB_SAGA_STEPS_MAX = 64 };

/* ---- what a definition says -------------------------------------------------------------------------------- */

enum txb_saga_kind {
  TXB_SAGA_COMPENSATABLE = 0,
  TXB_SAGA_PIVOT,
  TXB_SAGA_RETRIABLE,
};
enum { TXB_SAGA_KINDS = TXB_SAGA_RETRIABLE + 1 };

struct txb_saga_rule {
  enum txb_saga_kind kind;
  uint64_t after;       /* bit n: step n must be done, or skipped, before */
  int32_t attempts_max; /* of one operation, >= 1, before a person is asked */
};

struct txb_saga_rules {
  int count; /* of steps, 1 to TXB_SAGA_STEPS_MAX */
  const struct txb_saga_rule *steps;
  uint64_t before[TXB_SAGA_STEPS_MAX], behind[TXB_SAGA_STEPS_MAX]; /* all of them, near and far: made by prepare */
  int pivot;                                                       /* -1: none */
};

/* What can't be run safely; NULL: nothing, and `rules` is ready. `step_out`: which step is meant, -1: the whole. The text is
 * static. */
const char *txb_saga_rules_prepare(struct txb_saga_rules *rules, int *step_out);

/* ---- a step ------------------------------------------------------------------------------------------------ */

enum txb_saga_step_state {
  TXB_STEP_IDLE = 0,
  TXB_STEP_SKIPPED,      /* its condition was false, or a person left it out: no effect, and none will come */
  TXB_STEP_RUNNING,      /* its action was sent */
  TXB_STEP_SETTLING,     /* whether it took effect is asked at the barrier */
  TXB_STEP_DONE,         /* it took effect */
  TXB_STEP_REFUSED,      /* it said no: no effect */
  TXB_STEP_NEVER,        /* the barrier: it did not run, and never will */
  TXB_STEP_COMPENSATING, /* its compensation was sent */
  TXB_STEP_COMPENSATED,
  TXB_STEP_STUCK_ACTION, /* a retriable one that does not succeed: a person is asked, as with those below */
  TXB_STEP_STUCK_SETTLING,
  TXB_STEP_STUCK_COMPENSATION,
};
enum { TXB_STEP_STATES = TXB_STEP_STUCK_COMPENSATION + 1 };

enum txb_saga_step_event {
  TXB_STEP_ON_BEGIN = 0,   /* all before it is done, and its condition holds */
  TXB_STEP_ON_SKIP,        /* its condition does not hold */
  TXB_STEP_ON_EFFECT,      /* a participant: the action took effect; told by the action's answer or by resolve's */
  TXB_STEP_ON_REFUSED,     /* a participant: the action said no, and had no effect; or it ran out of attempts there */
  TXB_STEP_ON_NEVER,       /* a participant, asked to resolve: the action has not run, and will not */
  TXB_STEP_ON_UNDONE,      /* a participant, about an action: it was compensated before */
  TXB_STEP_ON_COMPENSATED, /* a participant: the compensation took effect */
  TXB_STEP_ON_NOT_COMPENSATED, /* a participant: the compensation failed */
  TXB_STEP_ON_TIME,            /* the timer of the last sending, or of a pause; or the command could not be published */
  TXB_STEP_ON_BACK,            /* the saga turns back, or asks whether it can */
  TXB_STEP_ON_COMPENSATE,      /* all behind it is undone */
  TXB_STEP_ON_RETRY,           /* a person: again, with all its attempts */
  TXB_STEP_ON_MARK_DONE,       /* a person: it took effect */
  TXB_STEP_ON_MARK_UNDONE,     /* a person: it has no effect, or not any more */
  TXB_STEP_ON_LEAVE, /* a person: on without it; what is not known is settled first, what stands is let stand */
  TXB_STEP_ON_EDIT,  /* a person: again, with all its attempts and another payload */
};
enum { TXB_STEP_EVENTS = TXB_STEP_ON_EDIT + 1 };

enum txb_saga_action_kind {
  TXB_SAGA_NOTHING = 0,
  TXB_SAGA_ASK,               /* step: does its condition hold? Answer with ON_BEGIN or ON_SKIP */
  TXB_SAGA_SEND_ACTION,       /* step, sending: and set its timer */
  TXB_SAGA_SEND_RESOLVE,      /* likewise */
  TXB_SAGA_SEND_COMPENSATION, /* likewise */
  TXB_SAGA_PAUSE,             /* step, sending: set its timer to a pause after so many attempts */
  TXB_SAGA_CALL_PERSON,       /* step: it is stuck */
  TXB_SAGA_END,               /* the saga's state tells how */
};

/* Whether attempts are left matters to some lines. */
enum txb_saga_attempts { TXB_SAGA_ANY = 0, TXB_SAGA_LEFT, TXB_SAGA_OVER };

struct txb_saga_transition {
  enum txb_saga_step_state from;
  enum txb_saga_step_event event;
  unsigned kinds; /* bit n: of enum txb_saga_kind */
  enum txb_saga_attempts attempts;
  enum txb_saga_step_state to;
  enum txb_saga_action_kind action;
  bool turns_back; /* the saga can't go on: it turns back, where it still can */
  const char *why; /* for the documentation */
};
extern const struct txb_saga_transition txb_saga_transitions[];
extern const size_t txb_saga_transitions_count;

/* The line of the table, NULL: the event changes nothing in that state. */
const struct txb_saga_transition *txb_saga_transition_of(enum txb_saga_step_state from, enum txb_saga_step_event event,
                                                         enum txb_saga_kind kind, bool attempts_left);
/* As in txb.saga_event; static. */
const char *txb_saga_step_state_name(enum txb_saga_step_state state);
const char *txb_saga_step_event_name(enum txb_saga_step_event event);

/* ---- a saga ------------------------------------------------------------------------------------------------ */

enum txb_saga_state {
  TXB_SAGA_RUNNING = 0,
  TXB_SAGA_TURNING, /* it is to turn back, and asks first whether the pivot took effect */
  TXB_SAGA_COMPENSATING,
  TXB_SAGA_COMPLETED,
  TXB_SAGA_COMPENSATED,
};
enum { TXB_SAGA_STATES = TXB_SAGA_COMPENSATED + 1 };
const char *txb_saga_state_name(enum txb_saga_state state);

struct txb_saga_step {
  enum txb_saga_step_state state;
  bool asked;       /* whether its condition holds is being asked */
  int32_t attempts; /* of the present operation */
  int32_t sendings; /* of all; the number of the last one */
};

struct txb_saga {
  enum txb_saga_state state;
  struct txb_saga_step steps[TXB_SAGA_STEPS_MAX];
};

struct txb_saga_action {
  enum txb_saga_action_kind kind;
  int step;         /* -1: the saga */
  int32_t sending;  /* which one the timer belongs to */
  int32_t attempts; /* of this operation, this one included */
};
enum { TXB_SAGA_ACTIONS_MAX = 2 * TXB_SAGA_STEPS_MAX + 2 };
struct txb_saga_actions {
  int count;
  struct txb_saga_action items[TXB_SAGA_ACTIONS_MAX];
};

/* Rules broken on purpose, for the simulator; all false otherwise. */
struct txb_saga_bugs {
  bool late_effect_ignored, compensates_all, timer_unchecked, pivot_guessed, order_ignored, skip_guessed,
      edit_forgotten;
  bool child_says_early, child_undo_unheard, child_again, child_unchecked; /* of nested sagas */
};

/* A new one: its first steps are asked for. `out` is filled anew by each of these. */
void txb_saga_start(const struct txb_saga_rules *rules, struct txb_saga *saga, struct txb_saga_actions *out);
/* What happened to a step. sending: of ON_TIME, which one its timer belongs to; else 0. False: it changes nothing, being late,
 * repeated or out of place; the caller notes it. */
bool txb_saga_step_on(const struct txb_saga_rules *rules, struct txb_saga *saga, int step,
                      enum txb_saga_step_event event, int32_t sending, const struct txb_saga_bugs *bugs,
                      struct txb_saga_actions *out);
/* Its deadline is over, or somebody cancels it. False: too late for that, it goes forward to its end, or has ended. */
bool txb_saga_turn_back(const struct txb_saga_rules *rules, struct txb_saga *saga, const struct txb_saga_bugs *bugs,
                        struct txb_saga_actions *out);
/* A saga that was a step of another one, and is completed, is undone: all its steps can be compensated. False: it can't. */
bool txb_saga_undo(const struct txb_saga_rules *rules, struct txb_saga *saga, const struct txb_saga_bugs *bugs,
                   struct txb_saga_actions *out);
/* Whether a person is asked, and nothing else goes on. */
bool txb_saga_is_stuck(const struct txb_saga_rules *rules, const struct txb_saga *saga);

#endif
