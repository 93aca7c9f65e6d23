/* Simulates sagas over random graphs against a model of participants with a barrier: messages that come late, twice or in
 * another order than they were sent, participants that fail, are tried again, give up or say no, timers that race with
 * answers, deadlines, cancels, operators. The real core decides; at the end each saga has ended, and what stands is what its
 * state promises.
 *
 *   sim_saga [--seeds N] [--seed S] [--bug NAME]     exit 0: nothing found; 1: a violation, printed with its seed and history;
 * 2: usage
 *
 * The coordinator's step is one transaction: answers in, events and commands out. So its crash is a repetition that its inbox
 * drops, and has no place of its own here. A participant's is one, too, unless a planted bug takes the barrier out of it.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/saga/saga_core.h"
#include "common/error.h"

enum { STEPS_MAX = 10, MESSAGES_MAX = 2000, TURNS_MAX = 20000 };

enum operation { OP_ACTION, OP_RESOLVE, OP_COMPENSATION, OPS };

/* What the barrier has written of a step's action, and of its compensation. */
enum recorded { NOTHING, OK, REFUSED, NEVER };

struct bugs {
  struct txb_saga_bugs core;
  bool barrier_outside, hanging_action, repeated_says_ok, timer_before_replies, key_held, resolve_guesses;
};

struct participant {
  enum recorded action;
  bool compensated;
  int effects, undone; /* how often its handlers did something */
  bool refuses;        /* by its nature */
  bool runs;           /* its condition holds */
  bool dies;           /* its action fails until its attempts are over */
  bool held;           /* planted: what follows that waits behind it for ever */
  int fails;           /* attempts of its compensation, or of a retriable action, that fail first */
};

struct message {
  bool command, timer;
  int step;
  enum operation operation;
  enum txb_saga_step_event answer;
  int32_t sending;
  int64_t due, order;
};

struct world {
  uint64_t random;
  const struct bugs *bugs;
  bool talk;
  struct txb_saga_rule steps[STEPS_MAX];
  struct txb_saga_rules rules;
  struct txb_saga saga;
  struct participant participants[STEPS_MAX];
  struct message messages[MESSAGES_MAX];
  size_t count;
  int64_t now, orders;
  bool deadline, calm;
  const char *violation;
  int ends;
};

/* What the seeds have met: whatever never happens is not tested. */
enum { SEEN_COMPLETED, SEEN_COMPENSATED, SEEN_STUCK, SEEN_LATE, SEEN_NEVER, SEEN_PIVOT_KEPT, SEEN_TOO_LATE, SEEN };
static uint64_t seen[SEEN];

/* ---- chance ------------------------------------------------------------------------------------- */

static uint64_t next_random(struct world *w) {
  uint64_t z = (w->random += UINT64_C(0x9e3779b97f4a7c15));
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

static uint64_t roll(struct world *w, uint64_t n) {
  return next_random(w) % n;
}

static bool chance(struct world *w, unsigned percent) {
  return roll(w, 100) < percent;
}

static void say(const struct world *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(const struct world *w, const char *format, ...) {
  va_list args;
  if (!w->talk)
    return;
  printf("  %6" PRId64 "  ", w->now);
  va_start(args, format);
  vprintf(format, args);
  va_end(args);
  printf("\n");
}

static void violated(struct world *w, const char *what) {
  if (w->violation == NULL)
    w->violation = what;
}

/* ---- messages ----------------------------------------------------------------------------------- */

static void post(struct world *w, struct message m, int64_t delay) {
  if (w->count == MESSAGES_MAX) {
    violated(w, "V: messages without end");
    return;
  }
  m.due = w->now + delay;
  m.order = w->orders++;
  w->messages[w->count++] = m;
}

/* How long a message, or a retry at a participant, takes; some very long. */
static int64_t some_time(struct world *w) {
  return w->calm ? 1 : (int64_t)(chance(w, 10) ? roll(w, 400) : roll(w, 20));
}

static void act(struct world *w, const struct txb_saga_actions *actions);

static void step_event(struct world *w, int step, enum txb_saga_step_event event, int32_t sending) {
  struct txb_saga_actions out;
  enum txb_saga_step_state before = w->saga.steps[step].state;
  bool turning = w->saga.state == TXB_SAGA_TURNING;
  bool stale = event == TXB_STEP_ON_TIME && sending != w->saga.steps[step].sendings;
  bool changed = txb_saga_step_on(&w->rules, &w->saga, step, event, sending, &w->bugs->core, &out);
  say(w, "step %d %s: %s -> %s%s", step, txb_saga_step_event_name(event), txb_saga_step_state_name(before),
      txb_saga_step_state_name(w->saga.steps[step].state), changed ? "" : " (nothing changes)");
  enum txb_saga_step_state after = w->saga.steps[step].state;
  seen[SEEN_LATE] += before == TXB_STEP_SETTLING && after == TXB_STEP_DONE;
  seen[SEEN_NEVER] += before == TXB_STEP_SETTLING && after == TXB_STEP_NEVER;
  seen[SEEN_PIVOT_KEPT] += turning && w->saga.state == TXB_SAGA_RUNNING;
  if (stale && changed)
    violated(w, "T: a timer of an older sending changes something");
  act(w, &out);
}

static void send_command(struct world *w, const struct txb_saga_action *a, enum operation operation, int64_t patience) {
  struct message command = {.command = true, .step = a->step, .operation = operation};
  struct message timer = {.timer = true, .step = a->step, .sending = a->sending};
  post(w, command, some_time(w));
  if (chance(w, 5)) /* the relay died, and its successor sends again */
    post(w, command, some_time(w));
  post(w, timer, patience);
}

static void act(struct world *w, const struct txb_saga_actions *actions) {
  for (int i = 0; i < actions->count; i++) {
    const struct txb_saga_action *a = &actions->items[i];
    int64_t patience = w->calm ? 50 : 5 + (int64_t)roll(w, 60);
    struct message timer = {.timer = true, .step = a->step, .sending = a->sending};
    switch (a->kind) {
    case TXB_SAGA_ASK:
      step_event(w, a->step, w->participants[a->step].runs ? TXB_STEP_ON_BEGIN : TXB_STEP_ON_SKIP, 0);
      break;
    case TXB_SAGA_SEND_ACTION:
      send_command(w, a, OP_ACTION, patience);
      break;
    case TXB_SAGA_SEND_RESOLVE:
      send_command(w, a, OP_RESOLVE, patience);
      break;
    case TXB_SAGA_SEND_COMPENSATION:
      send_command(w, a, OP_COMPENSATION, patience);
      break;
    case TXB_SAGA_PAUSE:
      post(w, timer, patience);
      break;
    case TXB_SAGA_CALL_PERSON:
      seen[SEEN_STUCK]++;
      say(w, "step %d is stuck: %s", a->step, txb_saga_step_state_name(w->saga.steps[a->step].state));
      break;
    case TXB_SAGA_END:
      say(w, "the saga ends: %s", txb_saga_state_name(w->saga.state));
      w->ends++;
      break;
    case TXB_SAGA_NOTHING:
      break;
    }
  }
}

/* ---- a participant ------------------------------------------------------------------------------ */

static void answer(struct world *w, int step, enum txb_saga_step_event event) {
  struct message m = {.step = step, .answer = event};
  const struct participant *p = &w->participants[step];
  if (event == TXB_STEP_ON_EFFECT && p->effects == p->undone)
    violated(w, "B: an answer tells of an effect that does not stand");
  post(w, m, some_time(w));
  if (chance(w, 5))
    post(w, m, some_time(w));
}

/* What the barrier knows of the action, as an answer. */
static enum txb_saga_step_event outcome_of(const struct participant *p) {
  if (p->compensated)
    return TXB_STEP_ON_UNDONE;
  return p->action == OK ? TXB_STEP_ON_EFFECT : p->action == NEVER ? TXB_STEP_ON_NEVER : TXB_STEP_ON_REFUSED;
}

/* S1: a command that fails is tried again later, alone, and holds nothing; out of attempts it answers `refuse`. */
static bool fails_for_now(struct world *w, const struct message *m) {
  if (w->calm || !chance(w, 15))
    return false;
  post(w, *m, some_time(w));
  return true;
}

static void do_action(struct world *w, const struct message *m, struct participant *p) {
  bool retriable = w->rules.steps[m->step].kind == TXB_SAGA_RETRIABLE;
  if (p->compensated && w->bugs->repeated_says_ok) {
    answer(w, m->step, TXB_STEP_ON_EFFECT);
    return;
  }
  if (p->compensated && !w->bugs->hanging_action) {
    answer(w, m->step, TXB_STEP_ON_UNDONE);
    return;
  }
  if (p->action != NOTHING && !(w->bugs->barrier_outside && p->action == OK) && !p->compensated) {
    answer(w, m->step, outcome_of(p));
    return;
  }
  if (fails_for_now(w, m))
    return;
  if (p->dies && w->bugs->key_held) {
    p->held = true;
    return;
  }
  if (p->refuses || p->dies || (retriable && p->fails > 0)) {
    p->fails -= p->fails > 0;
    if (!retriable) /* S4: of a retriable one only ok is recorded */
      p->action = REFUSED;
    answer(w, m->step, TXB_STEP_ON_REFUSED);
    return;
  }
  p->action = OK;
  p->effects++;
  say(w, "step %d takes effect", m->step);
  answer(w, m->step, TXB_STEP_ON_EFFECT);
}

static void do_resolve(struct world *w, const struct message *m, struct participant *p) {
  if (p->action == NOTHING && !p->compensated && !w->bugs->resolve_guesses)
    p->action = NEVER;
  if (p->action == NOTHING && w->bugs->resolve_guesses) { /* it says so and writes nothing down */
    answer(w, m->step, TXB_STEP_ON_NEVER);
    return;
  }
  answer(w, m->step, outcome_of(p));
}

static bool stands_behind(const struct world *w, int step) {
  for (int i = 0; i < w->rules.count; i++)
    if ((w->rules.behind[step] & (UINT64_C(1) << i)) != 0 && w->participants[i].effects > w->participants[i].undone)
      return true;
  return false;
}

static void do_compensation(struct world *w, const struct message *m, struct participant *p) {
  if (!p->compensated && p->action == OK) {
    if (fails_for_now(w, m))
      return;
    if (p->fails > 0) {
      p->fails--;
      answer(w, m->step, TXB_STEP_ON_NOT_COMPENSATED);
      return;
    }
    p->undone++;
    say(w, "step %d is undone", m->step);
    if (stands_behind(w, m->step))
      violated(w, "S: a step is undone before what came behind it");
  } else if (p->action != OK) { /* the barrier makes it harmless; all the same nobody should ask for it */
    violated(w, "S: a step is to be compensated that took no effect");
  }
  p->compensated = true;
  answer(w, m->step, TXB_STEP_ON_COMPENSATED);
}

static void take_command(struct world *w, const struct message *m) {
  struct participant *p = &w->participants[m->step];
  if (p->held)
    return;
  switch (m->operation) {
  case OP_ACTION:
    do_action(w, m, p);
    break;
  case OP_RESOLVE:
    do_resolve(w, m, p);
    break;
  case OP_COMPENSATION:
    do_compensation(w, m, p);
    break;
  case OPS:
    break;
  }
}

/* ---- the loop ----------------------------------------------------------------------------------- */

/* S8: commands of one step lie in one partition. So an action that has not been looked at comes before what was sent after it;
 * but one that failed stands aside (S1), and then what follows overtakes it. */
static size_t earliest(struct world *w) {
  size_t best = 0;
  bool away = !w->calm && chance(w, 10); /* the coordinator was: what came meanwhile is taken up in any order */
  for (size_t i = 1; i < w->count; i++) {
    if (away && !w->messages[i].command && w->messages[i].due <= w->now)
      return i;
    const struct message *m = &w->messages[i], *b = &w->messages[best];
    best = m->due < b->due || (m->due == b->due && m->order < b->order) ? i : best;
  }
  return best;
}

/* S2: whether answers wait that came before a timer was due. The coordinator may have been away when both came. */
static bool answers_wait(const struct world *w, const struct message *timer) {
  for (size_t i = 0; i < w->count; i++)
    if (!w->messages[i].timer && !w->messages[i].command && w->messages[i].due <= timer->due)
      return true;
  return false;
}

static void take_timer(struct world *w, const struct message *m) {
  bool wait = answers_wait(w, m);
  if (wait && !w->bugs->timer_before_replies) {
    post(w, *m, 1);
    return;
  }
  if (wait)
    violated(w, "T: a timer overtakes an answer that was there before it");
  step_event(w, m->step, TXB_STEP_ON_TIME, m->sending);
}

static void turn(struct world *w) {
  size_t at = earliest(w);
  struct message m = w->messages[at];
  w->messages[at] = w->messages[--w->count];
  w->now = m.due > w->now ? m.due : w->now;
  if (m.command) {
    take_command(w, &m);
  } else if (m.timer) {
    take_timer(w, &m);
  } else {
    step_event(w, m.step, m.answer, 0);
  }
}

static bool has_ended(const struct world *w) {
  return w->saga.state == TXB_SAGA_COMPLETED || w->saga.state == TXB_SAGA_COMPENSATED;
}

static void interfere(struct world *w) {
  struct txb_saga_actions out;
  if (w->deadline || w->calm || !chance(w, 2))
    return;
  w->deadline = true;
  bool turned = txb_saga_turn_back(&w->rules, &w->saga, &w->bugs->core, &out);
  say(w, "deadline: %s", turned ? "it turns back" : "too late to turn back");
  seen[SEEN_TOO_LATE] += !turned && !has_ended(w);
  act(w, &out);
}

/* A person looks at what is stuck, and mostly wants it tried again; marks are told the truth. */
static void operate(struct world *w) {
  for (int i = 0; i < w->rules.count; i++) {
    enum txb_saga_step_state s = w->saga.steps[i].state;
    struct participant *p = &w->participants[i];
    if (s < TXB_STEP_STUCK_ACTION)
      continue;
    p->fails = 0;
    if (s == TXB_STEP_STUCK_SETTLING && !p->held && chance(w, 30)) {
      bool stands = p->action == OK && !p->compensated;
      if (!stands) /* made sure of by hand, at the barrier */
        p->action = p->action == NOTHING ? NEVER : p->action;
      step_event(w, i, stands ? TXB_STEP_ON_MARK_DONE : TXB_STEP_ON_MARK_UNDONE, 0);
    } else {
      step_event(w, i, TXB_STEP_ON_RETRY, 0);
    }
    return;
  }
}

static void run(struct world *w) {
  struct txb_saga_actions out;
  txb_saga_start(&w->rules, &w->saga, &out);
  act(w, &out);
  for (int i = 0; i < TURNS_MAX && w->violation == NULL; i++) {
    w->calm = i > TURNS_MAX / 4;
    if (w->count > 0)
      turn(w);
    else if (txb_saga_is_stuck(&w->rules, &w->saga))
      operate(w);
    else
      break;
    interfere(w);
    if (w->count > 0 && !has_ended(w) && txb_saga_is_stuck(&w->rules, &w->saga) && chance(w, 20))
      operate(w);
  }
}

/* ---- what must hold ----------------------------------------------------------------------------- */

static void verify(struct world *w) {
  if (w->violation != NULL)
    return;
  if (!has_ended(w)) {
    violated(w, "S: it does not end");
    return;
  }
  if (w->ends != 1)
    violated(w, "S: it ends twice");
  for (int i = 0; i < w->rules.count; i++) {
    const struct participant *p = &w->participants[i];
    int standing = p->effects - p->undone;
    if (p->effects > 1 || p->undone > 1)
      violated(w, "D: an effect twice");
    if (p->undone > p->effects)
      violated(w, "S: a step was compensated that took no effect");
    if (w->saga.state == TXB_SAGA_COMPLETED && standing != (p->runs ? 1 : 0))
      violated(w, "S: it is completed, and a step's effect does not stand");
    if (w->saga.state == TXB_SAGA_COMPENSATED && standing != 0)
      violated(w, "S: it is compensated, and a step's effect stands");
  }
}

/* ---- worlds ------------------------------------------------------------------------------------- */

static void make_graph(struct world *w) {
  int count = 1 + (int)roll(w, STEPS_MAX), undoable = (int)roll(w, (uint64_t)count + 1);
  bool pivot = undoable < count && chance(w, 60);
  for (int i = 0; i < count; i++) {
    struct txb_saga_rule *s = &w->steps[i];
    uint64_t all = (UINT64_C(1) << i) - 1;
    *s = (struct txb_saga_rule){.kind = i < undoable             ? TXB_SAGA_COMPENSATABLE
                                        : pivot && i == undoable ? TXB_SAGA_PIVOT
                                                                 : TXB_SAGA_RETRIABLE,
                                .attempts_max = 1 + (int32_t)roll(w, 4)};
    if (i < undoable)
      s->after = next_random(w) & next_random(w) & all;
    else if (i == undoable || !pivot)
      s->after = ((UINT64_C(1) << undoable) - 1) | (i > undoable ? next_random(w) & all : 0);
    else
      s->after = (UINT64_C(1) << undoable) | (next_random(w) & all);
    w->participants[i] = (struct participant){
        .runs = !chance(w, 10),
        .refuses = s->kind != TXB_SAGA_RETRIABLE && chance(w, 12),
        .dies = s->kind != TXB_SAGA_RETRIABLE && chance(w, 5),
        .fails = chance(w, 30) ? (int)roll(w, 6) : 0,
    };
  }
  w->rules = (struct txb_saga_rules){.count = count, .steps = w->steps};
}

static const char *simulate(uint64_t seed, const struct bugs *bugs, bool talk) {
  static struct world w;
  int step;
  memset(&w, 0, sizeof w);
  w.random = seed * UINT64_C(0x2545f4914f6cdd1d);
  w.bugs = bugs;
  w.talk = talk;
  make_graph(&w);
  const char *problem = txb_saga_rules_prepare(&w.rules, &step);
  if (problem != NULL)
    return problem;
  run(&w);
  verify(&w);
  seen[w.saga.state == TXB_SAGA_COMPLETED ? SEEN_COMPLETED : SEEN_COMPENSATED]++;
  return w.violation;
}

static bool plant(struct bugs *b, const char *name) {
  const struct {
    const char *name;
    bool *flag;
  } table[] = {{"saga_late_effect_ignored", &b->core.late_effect_ignored},
               {"saga_compensates_all", &b->core.compensates_all},
               {"saga_timer_unchecked", &b->core.timer_unchecked},
               {"saga_pivot_guessed", &b->core.pivot_guessed},
               {"saga_barrier_outside", &b->barrier_outside},
               {"saga_order_ignored", &b->core.order_ignored},
               {"saga_hanging_action", &b->hanging_action},
               {"saga_repeated_says_ok", &b->repeated_says_ok},
               {"saga_resolve_guesses", &b->resolve_guesses},
               {"saga_timer_before_replies", &b->timer_before_replies},
               {"saga_key_held", &b->key_held}};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(table); i++)
    if (strcmp(table[i].name, name) == 0)
      return *table[i].flag = true;
  return false;
}

/* False: something never happened. */
static bool print_seen(void) {
  static const char *const names[SEEN] = {"completed",
                                          "compensated",
                                          "stuck steps",
                                          "effects that came late",
                                          "steps that never ran",
                                          "pivots that had taken effect",
                                          "deadlines too late to turn back"};
  bool all = true;
  for (int i = 0; i < SEEN; i++) {
    printf("%s%llu %s", i == 0 ? "" : ", ", (unsigned long long)seen[i], names[i]);
    all = all && seen[i] > 0;
  }
  printf("\n");
  return all;
}

int main(int argc, char **argv) {
  struct bugs bugs = {0};
  uint64_t seeds = 1000, first = 1;
  for (int i = 1; i < argc; i += 2) {
    bool value = i + 1 < argc;
    if (value && strcmp(argv[i], "--seeds") == 0)
      seeds = strtoull(argv[i + 1], NULL, 10);
    else if (value && strcmp(argv[i], "--seed") == 0)
      first = strtoull(argv[i + 1], NULL, 10);
    else if (!value || strcmp(argv[i], "--bug") != 0 || !plant(&bugs, argv[i + 1])) {
      fprintf(stderr, "usage: sim_saga [--seeds N] [--seed S] [--bug saga_NAME]\n");
      return 2;
    }
  }
  for (uint64_t seed = first; seed < first + seeds; seed++) {
    const char *violation = simulate(seed, &bugs, false);
    if (violation == NULL)
      continue;
    printf("seed %llu: %s\nhistory:\n", (unsigned long long)seed, violation);
    (void)simulate(seed, &bugs, true);
    printf("again: sim_saga --seeds 1 --seed %llu\n", (unsigned long long)seed);
    return 1;
  }
  printf("%llu seeds from %llu: nothing found\n", (unsigned long long)seeds, (unsigned long long)first);
  if (!print_seen() && seeds >= 1000) {
    printf("something of that never happened: the seeds test less than they should\n");
    return 1;
  }
  return 0;
}
