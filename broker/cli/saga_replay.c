/* What follows from a saga's events, one after the other: the states of its steps, how long they took, and what it waits for.
 * See saga.h. */
#include <string.h>

#include "broker/cli/saga.h"

/* One operation of a step: from its first command to its outcome. */
struct spell {
  int attempts; /* commands; 0: none yet */
  int64_t first_us, over_us;
};

struct step_times {
  struct spell action, compensation;
  int resolves;
  bool pauses; /* what is due is not an answer, but its next command */
};

struct replay {
  struct txb_saga_instance i;
  struct step_times steps[TXB_SAGA_STEPS_MAX];
};

static bool is_open_action(enum txb_saga_step_state s) {
  return s == TXB_STEP_RUNNING || s == TXB_STEP_SETTLING || s == TXB_STEP_STUCK_ACTION || s == TXB_STEP_STUCK_SETTLING;
}

static bool is_open_compensation(enum txb_saga_step_state s) {
  return s == TXB_STEP_COMPENSATING || s == TXB_STEP_STUCK_COMPENSATION;
}

static struct txb_slice slice_of(const json_t *object, const char *name) {
  return txb_slice_text(txb_failed_text(object, name));
}

static void count(struct spell *spell, int64_t at_us) {
  if (spell->attempts++ == 0)
    spell->first_us = at_us;
}

/* The commands that followed from an event. */
static void note_sent(struct replay *r, const json_t *event, int64_t at_us) {
  const json_t *one;
  size_t n;
  json_array_foreach(json_object_get(event, "sent"), n, one) {
    int rule = txb_saga_rule_of(r->i.definition, slice_of(one, "step"));
    const char *operation = txb_failed_text(one, "operation");
    if (rule < 0 || operation == NULL)
      continue;
    r->steps[rule].pauses = false;
    if (strcmp(operation, txb_saga_operation_name(TXB_SAGA_OPERATION_RESOLVE)) == 0)
      r->steps[rule].resolves++;
    else if (strcmp(operation, txb_saga_operation_name(TXB_SAGA_OPERATION_COMPENSATION)) == 0)
      count(&r->steps[rule].compensation, at_us);
    else
      count(&r->steps[rule].action, at_us);
  }
}

/* True: the event is its outcome. */
static bool end_spell(struct spell *spell, bool open, int64_t at_us) {
  if (spell->attempts == 0 || spell->over_us != 0 || open)
    return false;
  spell->over_us = at_us;
  return true;
}

static json_int_t took_ms(const struct spell *spell, int64_t now_us) {
  return ((spell->over_us != 0 ? spell->over_us : now_us) - spell->first_us) / 1000;
}

static void note_outcomes(struct replay *r, json_t *event, int64_t at_us) {
  int of = txb_saga_rule_of(r->i.definition, slice_of(event, "step"));
  for (int rule = 0; rule < r->i.definition->rules.count; rule++) {
    struct step_times *t = &r->steps[rule];
    enum txb_saga_step_state state = r->i.state.steps[rule].state;
    const struct spell *ended = NULL;
    if (end_spell(&t->compensation, is_open_compensation(state), at_us))
      ended = &t->compensation;
    if (end_spell(&t->action, is_open_action(state), at_us))
      ended = &t->action;
    if (ended != NULL && rule == of)
      (void)json_object_set_new(event, "took_ms", json_integer(took_ms(ended, at_us)));
  }
}

static enum txb_rc replay_one(struct replay *r, json_t *event, struct txb_error *err) {
  int64_t dues_us[TXB_SAGA_STEPS_MAX], timer_us = r->i.timer_us;
  const struct txb_saga_past past = {
      .n = (int32_t)txb_failed_integer(event, "n"),
      .event = txb_failed_text(event, "event"),
      .step = slice_of(event, "step"),
      .sending = (int32_t)txb_failed_integer(event, "sending"),
      .at_us = txb_failed_integer(event, "at_us"),
      .timer_us = txb_failed_integer(event, "timer_us"),
      .reason = txb_failed_text(event, "reason"),
  };
  memcpy(dues_us, r->i.due_us, sizeof dues_us);
  TXB_TRY(txb_saga_instance_replay(&r->i, &past, err));
  for (int rule = 0; rule < r->i.definition->rules.count; rule++)
    if (r->i.due_us[rule] != dues_us[rule])
      r->steps[rule].pauses = true; /* unless something was sent: */
  note_sent(r, event, past.at_us);
  note_outcomes(r, event, past.at_us);
  if (strcmp(past.event, "timer") == 0 && timer_us != 0)
    (void)json_object_set_new(event, "late_ms", json_integer((past.at_us - timer_us) / 1000));
  if (past.timer_us != 0)
    (void)json_object_set_new(event, "timer_ms", json_integer((past.timer_us - r->i.started_us) / 1000));
  return TXB_OK;
}

static enum txb_rc replay(const struct txb_saga_shown *shown, struct replay *r, struct txb_error *err) {
  json_t *event;
  size_t n;
  *r = (struct replay){.i = {.definition = shown->definition,
                             .started_us = txb_failed_integer(shown->saga, "started_us"),
                             .deadline_us = txb_failed_integer(shown->saga, "deadline_us")}};
  TXB_TRY(txb_saga_id_parse(txb_failed_text(shown->saga, "saga"), &r->i.id, err));
  txb_saga_instance_init(&r->i);
  json_array_foreach(shown->events, n, event) TXB_TRY(replay_one(r, event, err));
  return TXB_OK;
}

/* What was said about a step last. */
static const char *last_reason(const struct txb_saga_shown *shown, const char *step) {
  const json_t *event;
  const char *found = NULL;
  size_t n;
  json_array_foreach(shown->events, n, event) {
    const char *of = txb_failed_text(event, "step"), *reason = txb_failed_text(event, "reason");
    if (of != NULL && strcmp(of, step) == 0 && reason != NULL &&
        strcmp(txb_failed_text(event, "event"), "ignored") != 0)
      found = strcmp(txb_failed_text(event, "event"), "stuck") == 0 && found != NULL ? found : reason;
  }
  return found;
}

static void set_spell(json_t *step, const char *name, const struct spell *spell, int64_t now_us) {
  if (spell->attempts > 0)
    (void)json_object_set_new(step, name,
                              json_pack("{s:i, s:I}", "attempts", spell->attempts,
                                        spell->over_us != 0 ? "took_ms" : "so_far_ms", took_ms(spell, now_us)));
}

static json_t *step_of(const struct txb_saga_shown *shown, const struct replay *r, int rule, int64_t now_us) {
  char name[TXB_SAGA_STEP_TEXT_SIZE];
  txb_saga_rule_text(shown->definition, rule, name);
  json_t *step =
      json_pack("{s:s, s:s, s:i}", "step", name, "state", txb_saga_step_state_name(r->i.state.steps[rule].state),
                "sendings", (int)r->i.state.steps[rule].sendings);
  const char *reason = last_reason(shown, name);
  set_spell(step, "action", &r->steps[rule].action, now_us);
  if (r->steps[rule].resolves > 0)
    (void)json_object_set_new(step, "resolves", json_integer(r->steps[rule].resolves));
  set_spell(step, "compensation", &r->steps[rule].compensation, now_us);
  if (reason != NULL)
    (void)json_object_set_new(step, "reason", json_string(reason));
  return step;
}

/* The timer may be earlier than what is due first: it stays set when the answer that it was set for has come. */
static json_t *next_timer(const struct txb_saga_shown *shown, const struct replay *r, int64_t now_us) {
  char name[TXB_SAGA_STEP_TEXT_SIZE];
  const char *at = NULL;
  const json_t *event;
  size_t n;
  int rule;
  int64_t due_us = txb_saga_instance_due(&r->i, &rule);
  if (r->i.ended || r->i.timer_us == 0)
    return NULL;
  json_array_foreach(shown->events, n, event) if (txb_failed_integer(event, "timer_us") == r->i.timer_us) at =
      txb_failed_text(event, "timer_at");
  json_t *timer =
      json_pack("{s:s?, s:I, s:n}", "at", at, "in_ms", (json_int_t)((r->i.timer_us - now_us) / 1000), "for");
  if (due_us == 0)
    return timer;
  (void)json_object_set_new(timer, "for",
                            json_string(rule < 0                ? "deadline"
                                        : r->steps[rule].pauses ? "pause"
                                                                : "answer"));
  if (rule >= 0) {
    txb_saga_rule_text(shown->definition, rule, name);
    (void)json_object_set_new(timer, "step", json_string(name));
  }
  (void)json_object_set_new(timer, "due_in_ms", json_integer((due_us - now_us) / 1000));
  return timer;
}

static const char *state_of(const struct txb_saga_shown *shown, const struct replay *r) {
  if (r->i.n == 0)
    return "starting";
  if (!r->i.begun && r->i.waits_why != NULL)
    return "waiting";
  return txb_saga_is_stuck(&shown->definition->rules, &r->i.state) ? "stuck" : txb_saga_state_name(r->i.state.state);
}

enum txb_rc txb_saga_view_states(struct txb_saga_shown *shown, struct txb_error *err) {
  struct replay r;
  if (shown->definition == NULL)
    return TXB_OK;
  TXB_TRY(replay(shown, &r, err));
  int64_t now_us = r.i.started_us + txb_failed_integer(shown->saga, "ms") * 1000;
  json_t *steps = json_array(), *timer = next_timer(shown, &r, now_us);
  for (int rule = 0; rule < shown->definition->rules.count; rule++)
    (void)json_array_append_new(steps, step_of(shown, &r, rule, now_us));
  (void)json_object_set_new(shown->saga, "steps", steps);
  (void)json_object_set_new(shown->saga, "event", json_integer(r.i.n));
  if (timer != NULL)
    (void)json_object_set_new(shown->saga, "next_timer", timer);
  if (txb_failed_text(shown->saga, "state") == NULL)
    (void)json_object_set_new(shown->saga, "state", json_string(state_of(shown, &r)));
  return TXB_OK;
}
