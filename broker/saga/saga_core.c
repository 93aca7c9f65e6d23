/* See saga_core.h. Pure. */
#include "broker/saga/saga_core.h"

#include <string.h>

#include "common/error.h"

/* ---- the table --------------------------------------------------------------------------------------------- */

#define C   (1U << TXB_SAGA_COMPENSATABLE)
#define P   (1U << TXB_SAGA_PIVOT)
#define R   (1U << TXB_SAGA_RETRIABLE)
#define ALL (C | P | R)

#define IDLE         TXB_STEP_IDLE
#define SKIPPED      TXB_STEP_SKIPPED
#define RUNNING      TXB_STEP_RUNNING
#define SETTLING     TXB_STEP_SETTLING
#define DONE         TXB_STEP_DONE
#define REFUSED      TXB_STEP_REFUSED
#define NEVER        TXB_STEP_NEVER
#define COMPENSATING TXB_STEP_COMPENSATING
#define COMPENSATED  TXB_STEP_COMPENSATED
#define STUCK_A      TXB_STEP_STUCK_ACTION
#define STUCK_S      TXB_STEP_STUCK_SETTLING
#define STUCK_C      TXB_STEP_STUCK_COMPENSATION

#define ANY  TXB_SAGA_ANY
#define LEFT TXB_SAGA_LEFT
#define OVER TXB_SAGA_OVER

#define NOTHING TXB_SAGA_NOTHING
#define ACTION  TXB_SAGA_SEND_ACTION
#define RESOLVE TXB_SAGA_SEND_RESOLVE
#define UNDO    TXB_SAGA_SEND_COMPENSATION
#define PAUSE   TXB_SAGA_PAUSE
#define PERSON  TXB_SAGA_CALL_PERSON

#define ON(event) TXB_STEP_ON_##event

const struct txb_saga_transition txb_saga_transitions[] = {
    {IDLE, ON(BEGIN), ALL, ANY, RUNNING, ACTION, false, "all before it is done: its action is sent"},
    {IDLE, ON(SKIP), ALL, ANY, SKIPPED, NOTHING, false, "its condition does not hold"},

    {RUNNING, ON(EFFECT), ALL, ANY, DONE, NOTHING, false, "its action took effect"},
    {RUNNING, ON(REFUSED), C | P, ANY, REFUSED, NOTHING, true,
     "it said no: nothing of it stands, and the saga turns back"},
    {RUNNING, ON(REFUSED), R, LEFT, RUNNING, PAUSE, false, "there is no way back: again after a pause"},
    {RUNNING, ON(REFUSED), R, OVER, STUCK_A, PERSON, false, "there is no way back, and it does not succeed"},
    {RUNNING, ON(UNDONE), C | P, ANY, COMPENSATED, NOTHING, true,
     "it was undone before it was asked for: somebody's work by hand"},
    {RUNNING, ON(TIME), C | P, ANY, SETTLING, RESOLVE, false,
     "no answer came in time: the barrier knows whether it took effect"},
    {RUNNING, ON(TIME), R, LEFT, RUNNING, ACTION, false, "asked again: the barrier lets it take effect once"},
    {RUNNING, ON(TIME), R, OVER, STUCK_A, PERSON, false, "no answer comes"},
    {RUNNING, ON(BACK), C | P, ANY, SETTLING, RESOLVE, false,
     "the saga turns back: the barrier knows whether it took effect"},

    {SETTLING, ON(EFFECT), ALL, ANY, DONE, NOTHING, false, "it took effect: late, or its answer was lost"},
    {SETTLING, ON(REFUSED), C | P, ANY, REFUSED, NOTHING, true, "it had said no"},
    {SETTLING, ON(NEVER), C | P, ANY, NEVER, NOTHING, true, "it had not run, and the barrier won't let it any more"},
    {SETTLING, ON(UNDONE), C | P, ANY, COMPENSATED, NOTHING, true, "it was undone before: somebody's work by hand"},
    {SETTLING, ON(NEVER), R, ANY, SKIPPED, NOTHING, false,
     "left out: it has not run, and the barrier won't let it any more"},
    {SETTLING, ON(UNDONE), R, ANY, SKIPPED, NOTHING, false, "left out: it was undone before, somebody's work by hand"},
    {SETTLING, ON(TIME), ALL, LEFT, SETTLING, RESOLVE, false, "no answer came in time: asked again"},
    {SETTLING, ON(TIME), ALL, OVER, STUCK_S, PERSON, false, "nobody tells whether it took effect"},

    {DONE, ON(COMPENSATE), C, ANY, COMPENSATING, UNDO, false, "all behind it is undone: its compensation is sent"},

    {COMPENSATING, ON(COMPENSATED), C, ANY, COMPENSATED, NOTHING, false, "nothing of it stands any more"},
    {COMPENSATING, ON(NOT_COMPENSATED), C, LEFT, COMPENSATING, PAUSE, false,
     "its effect must not stay: again after a pause"},
    {COMPENSATING, ON(NOT_COMPENSATED), C, OVER, STUCK_C, PERSON, false, "its effect stands, and can't be undone"},
    {COMPENSATING, ON(TIME), C, LEFT, COMPENSATING, UNDO, false, "asked again: the barrier lets it take effect once"},
    {COMPENSATING, ON(TIME), C, OVER, STUCK_C, PERSON, false, "no answer comes"},

    {STUCK_A, ON(EFFECT), R, ANY, DONE, NOTHING, false, "an answer came at last: it took effect"},
    {STUCK_A, ON(RETRY), R, ANY, RUNNING, ACTION, false, "a person wants it tried again"},
    {STUCK_A, ON(EDIT), R, ANY, RUNNING, ACTION, false, "a person wants it tried again with another payload"},
    {STUCK_A, ON(MARK_DONE), R, ANY, DONE, NOTHING, false, "a person did it, or says that it is not needed"},
    {STUCK_A, ON(LEAVE), R, ANY, SETTLING, RESOLVE, false,
     "a person goes on without it: the barrier knows whether it took effect, else it never will"},
    {STUCK_S, ON(EFFECT), ALL, ANY, DONE, NOTHING, false, "an answer came at last: it took effect"},
    {STUCK_S, ON(REFUSED), C | P, ANY, REFUSED, NOTHING, true, "an answer came at last: it had said no"},
    {STUCK_S, ON(NEVER), C | P, ANY, NEVER, NOTHING, true, "an answer came at last: it had not run, and never will"},
    {STUCK_S, ON(UNDONE), C | P, ANY, COMPENSATED, NOTHING, true, "an answer came at last: it was undone before"},
    {STUCK_S, ON(NEVER), R, ANY, SKIPPED, NOTHING, false,
     "an answer came at last: it had not run, and never will, and is left out"},
    {STUCK_S, ON(UNDONE), R, ANY, SKIPPED, NOTHING, false,
     "an answer came at last: it was undone before, and is left out"},
    {STUCK_S, ON(RETRY), ALL, ANY, SETTLING, RESOLVE, false, "a person wants the barrier asked again"},
    {STUCK_S, ON(MARK_DONE), ALL, ANY, DONE, NOTHING, false, "a person has seen its effect"},
    {STUCK_S, ON(MARK_UNDONE), C | P, ANY, NEVER, NOTHING, true,
     "a person has seen that it has none, and that it can't come any more"},
    {STUCK_S, ON(MARK_UNDONE), R, ANY, SKIPPED, NOTHING, false,
     "a person has seen that it has none, and that it can't come any more: it is left out"},
    {STUCK_C, ON(COMPENSATED), C, ANY, COMPENSATED, NOTHING, false, "an answer came at last: it is undone"},
    {STUCK_C, ON(RETRY), C, ANY, COMPENSATING, UNDO, false, "a person wants it tried again"},
    {STUCK_C, ON(EDIT), C, ANY, COMPENSATING, UNDO, false, "a person wants it tried again with another payload"},
    {STUCK_C, ON(MARK_UNDONE), C, ANY, COMPENSATED, NOTHING, false, "a person undid it"},
    {STUCK_C, ON(LEAVE), C, ANY, COMPENSATED, NOTHING, false, "a person lets its effect stand, and goes on without it"},
};
const size_t txb_saga_transitions_count = TXB_ARRAY_SIZE(txb_saga_transitions);

const struct txb_saga_transition *txb_saga_transition_of(enum txb_saga_step_state from, enum txb_saga_step_event event,
                                                         enum txb_saga_kind kind, bool attempts_left) {
  for (size_t i = 0; i < txb_saga_transitions_count; i++) {
    const struct txb_saga_transition *t = &txb_saga_transitions[i];
    bool fits = t->attempts == ANY || (t->attempts == LEFT) == attempts_left;
    if (t->from == from && t->event == event && (t->kinds & (1U << kind)) != 0 && fits)
      return t;
  }
  return NULL;
}

const char *txb_saga_step_state_name(enum txb_saga_step_state state) {
  static const char *const names[TXB_STEP_STATES] = {
      "idle",  "skipped",      "running",     "settling",     "done",           "refused",
      "never", "compensating", "compensated", "stuck_action", "stuck_settling", "stuck_compensation"};
  return names[state];
}

const char *txb_saga_step_event_name(enum txb_saga_step_event event) {
  static const char *const names[TXB_STEP_EVENTS] = {
      "begin", "skip", "effect",     "refused", "never",     "undone",      "compensated", "not_compensated",
      "time",  "back", "compensate", "retry",   "mark_done", "mark_undone", "leave",       "edit"};
  return names[event];
}

const char *txb_saga_state_name(enum txb_saga_state state) {
  static const char *const names[TXB_SAGA_STATES] = {"running", "turning", "compensating", "completed", "compensated"};
  return names[state];
}

/* ---- definitions ------------------------------------------------------------------------------------------- */

static uint64_t bit(int step) {
  return UINT64_C(1) << step;
}

/* All that lies before a step, near and far; a step that lies before itself is a cycle's. */
static void close_over(struct txb_saga_rules *r) {
  for (int i = 0; i < r->count; i++)
    r->before[i] = r->steps[i].after;
  for (int via = 0; via < r->count; via++)
    for (int i = 0; i < r->count; i++)
      if ((r->before[i] & bit(via)) != 0)
        r->before[i] |= r->before[via];
  for (int i = 0; i < r->count; i++) {
    r->behind[i] = 0;
    for (int j = 0; j < r->count; j++)
      r->behind[i] |= (r->before[j] & bit(i)) != 0 ? bit(j) : 0;
  }
}

static uint64_t of_kind(const struct txb_saga_rules *r, enum txb_saga_kind kind) {
  uint64_t set = 0;
  for (int i = 0; i < r->count; i++)
    set |= r->steps[i].kind == kind ? bit(i) : 0;
  return set;
}

/* What can be undone must be settled before anything is done that can't: else a saga may find itself with one step that
 * can't be undone and another one that refused. */
static const char *problem_of(const struct txb_saga_rules *r, int step) {
  const struct txb_saga_rule *s = &r->steps[step];
  uint64_t undoable = of_kind(r, TXB_SAGA_COMPENSATABLE), all = r->count == 64 ? UINT64_MAX : bit(r->count) - 1;
  if ((s->after & ~all) != 0)
    return "comes after a step that there is not";
  if ((r->before[step] & bit(step)) != 0)
    return "comes after itself: a cycle";
  if (s->attempts_max < 1)
    return "has no attempt";
  if (s->kind == TXB_SAGA_PIVOT && step != r->pivot)
    return "is a second pivot: there is one point of no return";
  if (s->kind == TXB_SAGA_COMPENSATABLE && r->pivot >= 0 && (r->before[step] & bit(r->pivot)) != 0)
    return "can be compensated and comes after the pivot, behind which there is no way back";
  if (s->kind != TXB_SAGA_COMPENSATABLE && (undoable & ~r->before[step]) != 0)
    return "can't be compensated, and does not come after all steps that can: one of those might still refuse";
  if (s->kind == TXB_SAGA_RETRIABLE && r->pivot >= 0 && (r->before[step] & bit(r->pivot)) == 0)
    return "is retriable and does not come after the pivot, which might still refuse";
  return NULL;
}

const char *txb_saga_rules_prepare(struct txb_saga_rules *rules, int *step_out) {
  *step_out = -1;
  if (rules->count < 1)
    return "has no steps";
  if (rules->count > TXB_SAGA_STEPS_MAX)
    return "has more than 64 steps";
  rules->pivot = -1;
  for (int i = rules->count - 1; i >= 0; i--)
    rules->pivot = rules->steps[i].kind == TXB_SAGA_PIVOT ? i : rules->pivot;
  close_over(rules);
  for (int i = 0; i < rules->count; i++) {
    const char *problem = problem_of(rules, i);
    *step_out = i;
    if (problem != NULL)
      return problem;
  }
  *step_out = -1;
  return NULL;
}

/* ---- one step ---------------------------------------------------------------------------------------------- */

static void act(struct txb_saga_actions *out, enum txb_saga_action_kind kind, int step, const struct txb_saga_step *s) {
  TXB_ASSERT(out->count < TXB_SAGA_ACTIONS_MAX);
  out->items[out->count++] = (struct txb_saga_action){
      .kind = kind, .step = step, .sending = s == NULL ? 0 : s->sendings, .attempts = s == NULL ? 0 : s->attempts};
}

static bool is_sending(enum txb_saga_action_kind kind) {
  return kind == ACTION || kind == RESOLVE || kind == UNDO;
}

/* A pause takes a number too: the timer of the sending that failed must not end it. */
static void do_action(const struct txb_saga_transition *t, struct txb_saga_step *s, int step,
                      struct txb_saga_actions *out) {
  if (t->to != t->from)
    s->attempts = 0;
  s->state = t->to;
  s->asked = false;
  s->attempts += is_sending(t->action);
  s->sendings += is_sending(t->action) || t->action == PAUSE;
  if (t->action != NOTHING)
    act(out, t->action, step, s);
}

static const struct txb_saga_transition *line_of(const struct txb_saga_rules *r, const struct txb_saga *saga, int step,
                                                 enum txb_saga_step_event event) {
  const struct txb_saga_step *s = &saga->steps[step];
  return txb_saga_transition_of(s->state, event, r->steps[step].kind, s->attempts < r->steps[step].attempts_max);
}

static bool step_on(const struct txb_saga_rules *r, struct txb_saga *saga, int step, enum txb_saga_step_event event,
                    bool *turns_back_out, struct txb_saga_actions *out) {
  const struct txb_saga_transition *t = line_of(r, saga, step, event);
  if (t == NULL)
    return false;
  do_action(t, &saga->steps[step], step, out);
  *turns_back_out = *turns_back_out || t->turns_back;
  return true;
}

/* ---- the whole --------------------------------------------------------------------------------------------- */

static bool is_unsettled(enum txb_saga_step_state s) {
  return s == RUNNING || s == SETTLING || s == STUCK_S;
}

/* Whether something of it stands, or may. */
static bool may_stand(enum txb_saga_step_state s) {
  return is_unsettled(s) || s == DONE || s == COMPENSATING || s == STUCK_A || s == STUCK_C;
}

static uint64_t steps_with(const struct txb_saga_rules *r, const struct txb_saga *saga,
                           bool (*has)(enum txb_saga_step_state)) {
  uint64_t set = 0;
  for (int i = 0; i < r->count; i++)
    set |= has(saga->steps[i].state) ? bit(i) : 0;
  return set;
}

static bool is_passed(enum txb_saga_step_state s) {
  return s == DONE || s == SKIPPED;
}

/* Behind it there is no way back: the pivot took effect, or something was begun that can't be undone. */
static bool is_beyond(const struct txb_saga_rules *r, const struct txb_saga *saga) {
  if (r->pivot >= 0 && is_passed(saga->steps[r->pivot].state))
    return true;
  for (int i = 0; i < r->count; i++)
    if (r->steps[i].kind == TXB_SAGA_RETRIABLE && saga->steps[i].state != IDLE)
      return true;
  return false;
}

static void end(struct txb_saga *saga, enum txb_saga_state state, struct txb_saga_actions *out) {
  saga->state = state;
  act(out, TXB_SAGA_END, -1, NULL);
}

/* Steps whose turn has come are asked for. */
static void go_forward(const struct txb_saga_rules *r, struct txb_saga *saga, struct txb_saga_actions *out) {
  uint64_t passed = steps_with(r, saga, is_passed);
  for (int i = 0; i < r->count; i++) {
    struct txb_saga_step *s = &saga->steps[i];
    if (s->state != IDLE || s->asked || (r->steps[i].after & ~passed) != 0)
      continue;
    s->asked = true;
    act(out, TXB_SAGA_ASK, i, s);
  }
  if (passed == (r->count == 64 ? UINT64_MAX : bit(r->count) - 1))
    end(saga, TXB_SAGA_COMPLETED, out);
}

static void go_back(const struct txb_saga_rules *r, struct txb_saga *saga, const struct txb_saga_bugs *bugs,
                    struct txb_saga_actions *out) {
  bool ignored = false;
  uint64_t standing = steps_with(r, saga, may_stand);
  for (int i = 0; i < r->count; i++) {
    struct txb_saga_step *s = &saga->steps[i];
    bool planted = bugs->compensates_all && r->steps[i].kind == TXB_SAGA_COMPENSATABLE &&
                   (s->state == REFUSED || s->state == NEVER);
    if (planted)
      s->state = DONE;
    if (s->state == DONE && (bugs->order_ignored || (r->behind[i] & standing) == 0))
      (void)step_on(r, saga, i, ON(COMPENSATE), &ignored, out);
  }
  if (steps_with(r, saga, may_stand) == 0)
    end(saga, TXB_SAGA_COMPENSATED, out);
}

/* Everything that was sent and is not answered is settled; the pivot first of all, which decides. */
static void turn_back(const struct txb_saga_rules *r, struct txb_saga *saga, const struct txb_saga_bugs *bugs,
                      struct txb_saga_actions *out) {
  bool ignored = false;
  bool open = r->pivot >= 0 && is_unsettled(saga->steps[r->pivot].state);
  saga->state = open && !bugs->pivot_guessed ? TXB_SAGA_TURNING : TXB_SAGA_COMPENSATING;
  for (int i = 0; i < r->count; i++) {
    if (open && bugs->pivot_guessed && i == r->pivot)
      saga->steps[i].state = NEVER;
    saga->steps[i].asked = false;
    (void)step_on(r, saga, i, ON(BACK), &ignored, out);
  }
}

/* What follows from what has just happened. */
static void advance(const struct txb_saga_rules *r, struct txb_saga *saga, bool turns_back,
                    const struct txb_saga_bugs *bugs, struct txb_saga_actions *out) {
  if (saga->state == TXB_SAGA_TURNING && !is_unsettled(saga->steps[r->pivot].state))
    saga->state = saga->steps[r->pivot].state == DONE ? TXB_SAGA_RUNNING : TXB_SAGA_COMPENSATING;
  else if (saga->state == TXB_SAGA_RUNNING && turns_back)
    turn_back(r, saga, bugs, out);
  if (saga->state == TXB_SAGA_RUNNING)
    go_forward(r, saga, out);
  else if (saga->state == TXB_SAGA_COMPENSATING)
    go_back(r, saga, bugs, out);
}

void txb_saga_start(const struct txb_saga_rules *rules, struct txb_saga *saga, struct txb_saga_actions *out) {
  static const struct txb_saga_bugs none;
  out->count = 0;
  memset(saga, 0, sizeof *saga);
  advance(rules, saga, false, &none, out);
}

static bool is_open(const struct txb_saga *saga) {
  return saga->state != TXB_SAGA_COMPLETED && saga->state != TXB_SAGA_COMPENSATED;
}

bool txb_saga_step_on(const struct txb_saga_rules *rules, struct txb_saga *saga, int step,
                      enum txb_saga_step_event event, int32_t sending, const struct txb_saga_bugs *bugs,
                      struct txb_saga_actions *out) {
  static const struct txb_saga_bugs none;
  const struct txb_saga_bugs *b = bugs == NULL ? &none : bugs;
  bool turns_back = false;
  out->count = 0;
  TXB_ASSERT(step >= 0 && step < rules->count);
  struct txb_saga_step *s = &saga->steps[step];
  if (!is_open(saga) || (event == ON(TIME) && sending != s->sendings && !b->timer_unchecked))
    return false;
  if (b->late_effect_ignored && event == ON(EFFECT) && s->state == SETTLING)
    event = ON(NEVER);
  if (b->skip_guessed && event == ON(LEAVE) && s->state == STUCK_A) {
    s->state = SKIPPED;
    advance(rules, saga, false, b, out);
    return true;
  }
  if ((event == ON(BEGIN) || event == ON(SKIP)) && !s->asked)
    return false;
  if (!step_on(rules, saga, step, event, &turns_back, out))
    return false;
  advance(rules, saga, turns_back, b, out);
  return true;
}

bool txb_saga_turn_back(const struct txb_saga_rules *rules, struct txb_saga *saga, const struct txb_saga_bugs *bugs,
                        struct txb_saga_actions *out) {
  static const struct txb_saga_bugs none;
  out->count = 0;
  if (saga->state != TXB_SAGA_RUNNING || is_beyond(rules, saga))
    return false;
  advance(rules, saga, true, bugs == NULL ? &none : bugs, out);
  return true;
}

bool txb_saga_undo(const struct txb_saga_rules *rules, struct txb_saga *saga, const struct txb_saga_bugs *bugs,
                   struct txb_saga_actions *out) {
  static const struct txb_saga_bugs none;
  out->count = 0;
  if (saga->state != TXB_SAGA_COMPLETED || is_beyond(rules, saga))
    return false;
  saga->state = TXB_SAGA_COMPENSATING;
  advance(rules, saga, false, bugs == NULL ? &none : bugs, out);
  return true;
}

bool txb_saga_is_stuck(const struct txb_saga_rules *rules, const struct txb_saga *saga) {
  bool stuck = false;
  for (int i = 0; i < rules->count; i++) {
    enum txb_saga_step_state s = saga->steps[i].state;
    if (saga->steps[i].asked || s == RUNNING || s == SETTLING || s == COMPENSATING)
      return false;
    stuck = stuck || s == STUCK_A || s == STUCK_S || s == STUCK_C;
  }
  return stuck && is_open(saga);
}
