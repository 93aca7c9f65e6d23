/* The participants of a simulated saga: the barrier of schemas/sql/0023_commands.sql, one row a step, in one transaction with
 * the effect; handlers that fail, are tried again, are given up or say no; answers that come late or twice. */
#include "saga_world.h"

static bool is_forward(const struct saga_message_sim *m) {
  return m->operation == TXB_SAGA_OPERATION_FORWARD;
}

static void answer(struct saga_world *w, const struct saga_message_sim *command, const char *text) {
  const struct saga_participant *p = &w->participants[command->rule];
  struct saga_message_sim m = *command;
  bool effect = strcmp(text, "ok") == 0;
  m.kind = SIM_ANSWER;
  m.text = text;
  m.number = effect ? p->number : 0;
  m.id = w->ids++;
  if (effect && p->effects == p->undone)
    saga_violated(w, "B: an answer tells of an effect that does not stand");
  int64_t late = saga_some_time(w);
  saga_post(w, m, late);
  if (kit_chance(&w->kit, 5)) /* its relay died, and the successor sends again */
    saga_post(w, m, late + saga_some_time(w));
}

static const char *row_name(enum saga_row row) {
  static const char *const names[] = {"none", "never", "ok", "refused", "compensated"};
  return names[row];
}

/* After the pivot only forward; and each after all that came behind it. */
void saga_participant_check_order(struct saga_world *w, int rule) {
  const struct txb_saga_rules *r = &w->definition->rules;
  for (int i = 0; i < w->rules; i++) {
    const struct saga_participant *p = &w->participants[i];
    if (p->effects == p->undone || saga_was_left(w, i))
      continue;
    if (r->steps[i].kind != TXB_SAGA_COMPENSATABLE)
      saga_violated(w, "P: a step is undone after something that can't be");
    if ((r->behind[rule] & (UINT64_C(1) << i)) != 0)
      saga_violated(w, "S: a step is undone before what came behind it");
  }
}

/* What the effect of the step before gave must have come through, by however many processes. */
void saga_participant_check_input(struct saga_world *w, const struct saga_message_sim *m) {
  const struct txb_saga_rule_origin *origin = &w->definition->origin[m->rule];
  if (m->edit > 0) /* a person said what it is handed */
    return;
  int from = origin->confirm ? origin->step : w->kit.reads[origin->step];
  if (from < 0)
    return;
  int given = w->participants[from].effects > 0 ? w->participants[from].number : 0;
  if (w->participants[from].marked && m->of == 0)
    return;
  if (!m->reads || m->of != given)
    saga_violated(w, "V: a step is handed something else than an earlier one gave");
}

static bool handler_fails(struct saga_participant *p) {
  if (p->fails == 0)
    return false;
  p->fails--;
  return true;
}

/* S1: one that fails is tried again later, alone, and holds nothing. Its transaction is undone. */
static bool fails_for_now(struct saga_world *w, const struct saga_message_sim *m) {
  if (w->calm || !kit_chance(&w->kit, 15))
    return false;
  saga_post(w, *m, saga_some_time(w));
  return true;
}

static void run_compensation(struct saga_world *w, const struct saga_message_sim *m, struct saga_participant *p) {
  if (fails_for_now(w, m))
    return;
  if (handler_fails(p)) {
    answer(w, m, "failed");
    return;
  }
  p->undone++;
  p->row = ROW_COMPENSATED;
  saga_say(w, "rule %d is undone", m->rule);
  saga_participant_check_order(w, m->rule);
  answer(w, m, "compensated");
}

static void run_action(struct saga_world *w, const struct saga_message_sim *m, struct saga_participant *p) {
  if (fails_for_now(w, m))
    return;
  if (p->dies && w->bugs->key_held) {
    p->held = true;
    return;
  }
  if (is_forward(m) != (w->definition->rules.steps[m->rule].kind == TXB_SAGA_RETRIABLE))
    saga_violated(w, "S: the barrier would write down a refusal of what must succeed");
  saga_participant_check_input(w, m);
  if (p->refuses || p->dies || (is_forward(m) && handler_fails(p))) {
    p->row = is_forward(m) ? ROW_NONE : ROW_REFUSED; /* S4: of a retriable one only ok is recorded */
    answer(w, m, "refused");
    return;
  }
  p->effects++;
  p->number = 100 * (m->rule + 1) + p->effects;
  saga_say(w, "rule %d takes effect", m->rule);
  if (w->bugs->barrier_outside && kit_chance(&w->kit, 20)) { /* it died between the two, and comes again */
    saga_post(w, *m, saga_some_time(w));
    return;
  }
  p->row = ROW_OK;
  answer(w, m, "ok");
}

/* Planted: what the barrier knows is not looked at. True: it was answered. */
static bool is_planted(struct saga_world *w, const struct saga_message_sim *m, struct saga_participant *p) {
  bool acts = m->operation == TXB_SAGA_OPERATION_ACTION || is_forward(m);
  if (acts && p->row == ROW_COMPENSATED && w->bugs->hanging_action) {
    run_action(w, m, p);
    return true;
  }
  if (acts && p->row == ROW_COMPENSATED && w->bugs->repeated_says_ok) {
    answer(w, m, "ok");
    return true;
  }
  if (m->operation == TXB_SAGA_OPERATION_RESOLVE && p->row == ROW_NONE && w->bugs->resolve_guesses) {
    answer(w, m, "never"); /* it says so and writes nothing down */
    return true;
  }
  return false;
}

void saga_participant_take(struct saga_world *w, const struct saga_message_sim *m) {
  struct saga_participant *p = &w->participants[m->rule];
  bool compensates = m->operation == TXB_SAGA_OPERATION_COMPENSATION;
  if (p->held || is_planted(w, m, p))
    return;
  if (compensates && p->row != ROW_OK && p->row != ROW_COMPENSATED) /* the barrier makes it harmless */
    saga_violated(w, "S: a step is to be compensated that took no effect");
  if (p->row == ROW_NONE) {
    if (m->operation == TXB_SAGA_OPERATION_ACTION || is_forward(m)) {
      run_action(w, m, p);
      return;
    }
    p->row = ROW_NEVER;
    answer(w, m, compensates ? "compensated" : "never");
  } else if (compensates && p->row == ROW_OK) {
    run_compensation(w, m, p);
  } else {
    answer(w, m, compensates ? "compensated" : row_name(p->row));
  }
}
