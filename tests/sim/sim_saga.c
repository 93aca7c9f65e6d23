/* Simulates sagas of random definitions: the real instance with its entries, commands and timers, against a model of
 * participants with a barrier. Messages come late, twice or in another order than they were sent, participants fail, are tried
 * again, give up or say no, the coordinator is away, dies and replays, deadlines come, people cancel, retry, edit, skip and
 * mark. Some lock a name that another saga holds for a while. At the end each saga has ended, and what stands is what its
 * state promises.
 *
 *   sim_saga [--seeds N] [--seed S] [--bug NAME]     exit 0: nothing found; 1: a violation, printed with its seed and history;
 * 2: usage
 *
 * Every batch of the coordinator is one transaction, and loads the saga anew from its entries, as the program does; that this
 * makes the same state is compared each time. In one seed of three, steps are sagas, whose steps may be sagas, too: each is
 * verified by itself, and what it left standing is its parent's effect.
 * A participant's command is one transaction, too, unless a planted bug takes the
 * barrier out of it.
 */
#include <stdarg.h>
#include <stdlib.h>

#include "saga_world.h"

uint64_t saga_seen[SEEN];

void saga_say(const struct saga_world *w, const char *format, ...) {
  va_list args;
  if (!w->talk)
    return;
  printf("  %9" PRId64 "  ", w->now_us);
  if (w->family != NULL)
    printf("[%d] ", w->self);
  va_start(args, format);
  vprintf(format, args);
  va_end(args);
  printf("\n");
}

void saga_violated(struct saga_world *w, const char *what) {
  if (w->violation == NULL)
    w->violation = what;
}

bool saga_has_ended(const struct saga_world *w) {
  return w->live.ended;
}

/* ---- messages under way ------------------------------------------------------------------------- */

void saga_post(struct saga_world *w, struct saga_message_sim m, int64_t delay_us) {
  if (w->way_count == MESSAGES_MAX || w->ids >= MESSAGES_MAX - 2) {
    saga_violated(w, "V: messages without end");
    return;
  }
  m.at_us = w->now_us + delay_us;
  m.order = w->orders++;
  w->way[w->way_count++] = m;
}

int64_t saga_some_time(struct saga_world *w) {
  if (w->calm)
    return 1000;
  return (int64_t)(kit_chance(&w->kit, 10) ? kit_roll(&w->kit, 400000) : kit_roll(&w->kit, 20000));
}

size_t saga_earliest(const struct saga_world *w) {
  size_t best = 0;
  for (size_t n = 1; n < w->way_count; n++) {
    const struct saga_message_sim *m = &w->way[n], *b = &w->way[best];
    best = m->at_us < b->at_us || (m->at_us == b->at_us && m->order < b->order) ? n : best;
  }
  return best;
}

/* The other one ends: its transaction passes the name on, and wakes who waits for it. */
static void release(struct saga_world *w) {
  struct saga_message_sim wake = {.kind = SIM_WAKE, .rule = -1};
  w->others = false;
  if (w->lock != LOCK_AWAITED)
    return;
  w->lock = LOCK_HELD;
  saga_say(w, "the name that it waits for is its own");
  if (w->bugs->wake_lost)
    return;
  wake.id = w->ids++;
  saga_post(w, wake, saga_some_time(w));
  if (kit_chance(&w->kit, 10)) /* the relay died, and its successor sends again */
    saga_post(w, wake, saga_some_time(w));
}

void saga_arrive(struct saga_world *w) {
  size_t at = saga_earliest(w);
  struct saga_message_sim m = w->way[at];
  w->way[at] = w->way[--w->way_count];
  w->now_us = m.at_us > w->now_us ? m.at_us : w->now_us;
  if (m.kind == SIM_COMMAND) {
    saga_participant_take(w, &m);
    return;
  }
  if (m.kind == SIM_RELEASE) {
    release(w);
    return;
  }
  if (w->partition_count == MESSAGES_MAX) {
    saga_violated(w, "V: messages without end");
    return;
  }
  m.at_us = w->now_us;
  w->partition[w->partition_count++] = m;
}

/* ---- people ------------------------------------------------------------------------------------- */

static void decide(struct saga_world *w, const char *decision, int rule) {
  const struct saga_message_sim m = {.kind = SIM_DECISION,
                                     .id = w->ids++,
                                     .rule = rule,
                                     .text = decision,
                                     .edit = strcmp(decision, "edit") == 0 ? ++w->edits : 0,
                                     .seen = (int32_t)w->stored_count};
  saga_say(w, "a person: %s, rule %d", decision, rule);
  w->decided = true;
  saga_post(w, m, saga_some_time(w));
}

/* Whoever marks a step has seen to it, at the participant and its barrier. */
static const char *marked(struct saga_world *w, int rule, enum txb_saga_step_state state) {
  struct saga_participant *p = &w->participants[rule];
  if (state == TXB_STEP_STUCK_COMPENSATION) {
    p->undone += p->row == ROW_OK;
    p->row = p->row == ROW_OK ? ROW_COMPENSATED : p->row;
    saga_participant_check_order(w, rule);
    return "mark_undone";
  }
  if (state == TXB_STEP_STUCK_ACTION && p->row == ROW_NONE) {
    p->effects++;
    p->row = ROW_OK;
  }
  p->row = p->row == ROW_NONE ? ROW_NEVER : p->row;
  p->marked = p->marked || p->row == ROW_OK;
  return p->row == ROW_OK ? "mark_done" : "mark_undone";
}

/* Of a step that is a saga the truth is known when that has ended; else it is asked again. */
static const char *marked_nested(struct saga_world *w, int rule, enum txb_saga_step_state state) {
  struct saga_participant *p = &w->participants[rule];
  if (p->row == ROW_OK && state != TXB_STEP_STUCK_COMPENSATION) {
    p->marked = true;
    return "mark_done";
  }
  bool gone = p->row == ROW_COMPENSATED || p->row == ROW_REFUSED;
  return gone && state != TXB_STEP_STUCK_ACTION ? "mark_undone" : "retry";
}

/* A person looks at what is stuck, and mostly wants it tried again, as it was or with another payload; marks are told the
 * truth. */
void saga_operate(struct saga_world *w) {
  for (int rule = 0; rule < w->rules; rule++) {
    enum txb_saga_step_state state = w->live.state.steps[rule].state;
    if (state < TXB_STEP_STUCK_ACTION)
      continue;
    bool settles = state == TXB_STEP_STUCK_SETTLING, held = w->participants[rule].held;
    uint64_t chance = kit_roll(&w->kit, 100);
    w->participants[rule].fails = 0;
    if (w->definition->steps[w->definition->origin[rule].step].nested != NULL)
      decide(w, chance < 30 && !held ? marked_nested(w, rule, state) : "retry", rule);
    else if (chance < 20 && !held)
      decide(w, marked(w, rule, state), rule);
    else if (chance < 40 && !held && !settles)
      decide(w, "skip", rule);
    else
      decide(w, chance < 60 && !settles ? "edit" : "retry", rule);
    return;
  }
}

void saga_interfere(struct saga_world *w) {
  if (w->calm || saga_has_ended(w))
    return;
  if (kit_chance(&w->kit, 1))
    decide(w, "cancel", -1);
  if (kit_chance(&w->kit, 1)) {
    w->away_until_us = w->now_us + (int64_t)kit_roll(&w->kit, 300000);
    saga_say(w, "the coordinator is away until %" PRId64, w->away_until_us);
  }
}

/* ---- the loop ----------------------------------------------------------------------------------- */

static bool turn(struct saga_world *w) {
  bool waits = w->partition_next < w->partition_count;
  bool stuck = w->loaded && !w->decided && txb_saga_is_stuck(&w->definition->rules, &w->live.state);
  if (waits && w->away_until_us <= w->now_us && kit_chance(&w->kit, 70)) {
    saga_coordinator_take(w);
    return true;
  }
  if (stuck && !waits && (w->way_count == 0 || kit_chance(&w->kit, 20))) {
    saga_operate(w);
    return true;
  }
  if (w->way_count > 0) {
    saga_arrive(w);
    return true;
  }
  w->now_us = w->away_until_us > w->now_us ? w->away_until_us : w->now_us;
  return waits;
}

static void run(struct saga_world *w) {
  const struct saga_message_sim start = {.kind = SIM_START, .id = w->ids++, .rule = -1};
  saga_post(w, start, 0);
  if (w->family != NULL) {
    saga_family_run(w->family);
    return;
  }
  if (w->others) {
    const struct saga_message_sim over = {.kind = SIM_RELEASE, .rule = -1};
    saga_post(w, over, (int64_t)kit_roll(&w->kit, 300000));
  }
  for (int n = 0; n < TURNS_MAX && w->violation == NULL; n++) {
    w->calm = n > 1000;
    if (!turn(w))
      break;
    saga_interfere(w);
  }
}

/* ---- what must hold ----------------------------------------------------------------------------- */

static void verify_rule(struct saga_world *w, int rule) {
  const struct saga_participant *p = &w->participants[rule];
  int standing = p->effects - p->undone;
  enum txb_saga_step_state state = w->live.state.steps[rule].state;
  bool left = saga_was_left(w, rule), left_out = left && state == TXB_STEP_SKIPPED;
  bool runs = !left_out && w->kit.runs[w->definition->origin[rule].step];
  if (p->effects > 1 || p->undone > 1)
    saga_violated(w, "D: an effect twice");
  if (p->undone > p->effects)
    saga_violated(w, "S: a step was compensated that took no effect");
  if (w->live.state.state == TXB_SAGA_COMPLETED && standing != (runs ? 1 : 0))
    saga_violated(w, "S: it is completed, and what stands is not what was to be done");
  if (state == TXB_STEP_SKIPPED && standing != 0)
    saga_violated(w, "S: a step was left out, and its effect stands");
  saga_seen[SEEN_LET_STAND] += left && state == TXB_STEP_COMPENSATED && standing != 0;
  if (w->live.state.state == TXB_SAGA_COMPENSATED && standing != 0 && !left)
    saga_violated(w, "S: it is compensated, and a step's effect stands");
}

/* What the whole gave is what its last step gave. */
static void verify_output(struct saga_world *w) {
  const struct saga_participant *p = &w->participants[w->kit.count - 1];
  const char *output = NULL;
  for (size_t n = 0; n < w->stored_count; n++)
    if (strcmp(w->stored[n].event, "end") == 0) /* the last one: what is undone ends anew */
      output = w->stored[n].has_output ? w->stored[n].output : NULL;
  if (w->live.state.state != TXB_SAGA_COMPLETED) {
    if (output != NULL)
      saga_violated(w, "V: a saga that was compensated gives something");
    return;
  }
  const char *number = output != NULL ? strchr(output, ':') : NULL;
  bool same = number != NULL && strtol(number + 1, NULL, 10) == (p->effects > 0 ? p->number : 0);
  if (!same && !p->marked)
    saga_violated(w, "V: it gives something else than its last step gave");
}

void saga_verify(struct saga_world *w) {
  if (w->violation != NULL)
    return;
  if (!saga_has_ended(w)) {
    saga_violated(w, "S: it does not end");
    return;
  }
  if (w->ends != 1 + w->live.undo_asked && w->ends != 1)
    saga_violated(w, "S: it ends twice");
  if (w->lock != LOCK_NONE)
    saga_violated(w, "L: it has ended, and holds what it locked");
  for (int rule = 0; rule < w->rules; rule++)
    verify_rule(w, rule);
  verify_output(w);
}

/* ---- worlds ------------------------------------------------------------------------------------- */

/* Everything but the places that are counted: they are large. */
void saga_reset(struct saga_world *w, uint64_t random, const struct saga_bugs *bugs, bool talk) {
  w->kit = (struct saga_kit){.random = random};
  w->family = NULL;
  w->self = w->mother_rule = 0;
  w->mother = -1;
  w->id = (struct txb_uuid){{0}};
  w->row = CHILD_NONE;
  w->stands = w->willing = false;
  w->bugs = bugs;
  w->talk = talk;
  w->calm = w->loaded = w->decided = false;
  w->edits = w->sent_edit = 0;
  w->way_count = w->partition_count = w->partition_next = w->stored_count = w->timers_met_count = 0;
  w->now_us = 1000000;
  w->away_until_us = w->orders = w->set_us = w->fired_at_us = 0;
  w->ids = 0;
  w->ends = 0;
  w->locks = w->refuses = w->others = false;
  w->lock = LOCK_NONE;
  w->violation = NULL;
  memset(w->inbox, 0, sizeof w->inbox);
  memset(w->participants, 0, sizeof w->participants);
}

/* willing: nobody refuses. */
void saga_make_participants(struct saga_world *w, bool willing) {
  struct saga_kit *k = &w->kit;
  for (int rule = 0; rule < w->rules; rule++) {
    bool retriable = w->definition->rules.steps[rule].kind == TXB_SAGA_RETRIABLE;
    w->participants[rule] = (struct saga_participant){.refuses = !willing && !retriable && kit_chance(k, 10),
                                                      .dies = !willing && !retriable && kit_chance(k, 5),
                                                      .fails = kit_chance(k, 30) ? (int)kit_roll(k, 6) : 0};
  }
}

static const char *simulate(uint64_t seed, const struct saga_bugs *bugs, bool talk) {
  static struct saga_world w;
  static struct saga_family family;
  struct txb_error err;
  saga_reset(&w, seed * UINT64_C(0x2545f4914f6cdd1d), bugs, talk);
  if (seed % 3 == 0 && !saga_family_make(&family, &w))
    return "V: a definition of the library is refused";
  kit_make(&w.kit);
  if (talk)
    printf("  %s\n  %s\n", w.kit.definition, w.kit.input);
  if (txb_saga_definition_parse("random", txb_slice_text(w.kit.definition), &w.definition, &err) != TXB_OK) {
    printf("%s\n", err.message);
    return "V: the definition is refused";
  }
  w.rules = w.definition->rules.count;
  saga_make_participants(&w, false);
  w.live = (struct txb_saga_instance){.definition = w.definition};
  if (kit_chance(&w.kit, 30))
    w.live.deadline_us = w.now_us + (int64_t)kit_roll(&w.kit, 300000);
  int64_t deadline_us = w.live.deadline_us;
  w.locks = w.family == NULL && kit_chance(&w.kit, 30); /* sagas within each other lock nothing here */
  w.refuses = w.locks && kit_chance(&w.kit, 20);
  w.others = w.locks && kit_chance(&w.kit, 80);
  txb_saga_instance_init(&w.live);
  txb_saga_ledger_init(&w.ledger);
  run(&w);
  if (w.family != NULL)
    saga_family_verify(&family);
  saga_verify(&w);
  saga_seen[w.live.state.state == TXB_SAGA_COMPLETED ? SEEN_COMPLETED : SEEN_COMPENSATED]++;
  saga_seen[SEEN_TOO_LATE] += deadline_us != 0 && w.live.fired_us >= deadline_us && w.live.turned_why == NULL;
  txb_saga_instance_fini(&w.live);
  txb_saga_ledger_fini(&w.ledger);
  txb_saga_definition_free(w.definition);
  if (w.family != NULL)
    saga_family_free(&family);
  return w.violation;
}

static bool plant(struct saga_bugs *b, const char *name) {
  const struct {
    const char *name;
    bool *flag;
  } table[] = {{"saga_late_effect_ignored", &b->core.late_effect_ignored},
               {"saga_compensates_all", &b->core.compensates_all},
               {"saga_timer_unchecked", &b->core.timer_unchecked},
               {"saga_pivot_guessed", &b->core.pivot_guessed},
               {"saga_order_ignored", &b->core.order_ignored},
               {"saga_skip_guessed", &b->core.skip_guessed},
               {"saga_edit_forgotten", &b->core.edit_forgotten},
               {"saga_child_says_early", &b->core.child_says_early},
               {"saga_child_undo_unheard", &b->core.child_undo_unheard},
               {"saga_child_again", &b->core.child_again},
               {"saga_child_unchecked", &b->core.child_unchecked},
               {"saga_child_forgets_never", &b->child_forgets_never},
               {"saga_barrier_outside", &b->barrier_outside},
               {"saga_hanging_action", &b->hanging_action},
               {"saga_repeated_says_ok", &b->repeated_says_ok},
               {"saga_resolve_guesses", &b->resolve_guesses},
               {"saga_key_held", &b->key_held},
               {"saga_timer_before_replies", &b->timer_before_replies},
               {"saga_timer_passed_over", &b->timer_passed_over},
               {"saga_entries_without_commands", &b->entries_without_commands},
               {"saga_reload_without_timer", &b->reload_without_timer},
               {"saga_reload_without_outputs", &b->reload_without_outputs},
               {"saga_lock_ignored", &b->lock_ignored},
               {"saga_wake_lost", &b->wake_lost},
               {"saga_lock_kept", &b->lock_kept}};
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
                                          "deadlines too late to turn back",
                                          "steps skipped",
                                          "reservations confirmed",
                                          "new processes",
                                          "transactions lost",
                                          "timers replaced",
                                          "messages ignored",
                                          "marks",
                                          "undeliverable",
                                          "timers that were met twice at once",
                                          "commands that could not be made",
                                          "steps left out",
                                          "steps to be left out that had taken effect",
                                          "effects let stand",
                                          "payloads edited",
                                          "edited payloads sent again",
                                          "woken",
                                          "turned away",
                                          "ended while they waited",
                                          "nested sagas",
                                          "within those",
                                          "undone",
                                          "settled under way",
                                          "that never began",
                                          "begun anew"};
  bool all = true;
  for (int i = 0; i < SEEN; i++) {
    printf("%s%" PRIu64 " %s", i == 0 ? "" : ", ", saga_seen[i], names[i]);
    all = all && saga_seen[i] > 0;
  }
  printf("\n");
  return all;
}

int main(int argc, char **argv) {
  struct saga_bugs bugs = {0};
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
    printf("seed %" PRIu64 ": %s\nhistory:\n", seed, violation);
    (void)simulate(seed, &bugs, true);
    printf("again: sim_saga --seeds 1 --seed %" PRIu64 "\n", seed);
    return 1;
  }
  printf("%" PRIu64 " seeds from %" PRIu64 ": nothing found\n", seeds, first);
  if (!print_seen() && seeds >= 1000) {
    printf("something of that never happened: the seeds test less than they should\n");
    return 1;
  }
  return 0;
}
