/* See instance.h. Pure. */
#include "broker/saga/instance.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "broker/saga/expression.h"
#include "common/event.h"
#include "common/fault.h"

#define CONFIRM      "/confirm"
#define END_SIZE_MAX 16384 /* of a message about an end, beside the output: the key and the reason are the largest */

const char *txb_saga_operation_name(enum txb_saga_operation_kind kind) {
  static const char *const names[TXB_SAGA_OPERATIONS] = {"action", "forward", "resolve", "compensation"};
  return names[kind];
}

/* ---- the ledger -------------------------------------------------------------------------------------------- */

void txb_saga_ledger_init(struct txb_saga_ledger *ledger) {
  *ledger = (struct txb_saga_ledger){.entries = NULL};
  txb_arena_init(&ledger->arena, 64 * 1024);
}

void txb_saga_ledger_clear(struct txb_saga_ledger *ledger) {
  txb_arena_reset(&ledger->arena);
  ledger->entry_count = ledger->command_count = 0;
}

void txb_saga_ledger_fini(struct txb_saga_ledger *ledger) {
  txb_arena_fini(&ledger->arena);
  txb_free(ledger->entries);
  txb_free(ledger->commands);
  ledger->entries = NULL;
  ledger->commands = NULL;
}

static enum txb_rc keep(struct txb_saga_ledger *ledger, const char *text, size_t size, const char **out,
                        struct txb_error *err) {
  void *memory;
  TXB_TRY(txb_arena_alloc(&ledger->arena, size + 1, &memory, err));
  memcpy(memory, text, size);
  ((char *)memory)[size] = '\0';
  *out = memory;
  return TXB_OK;
}

static enum txb_rc keep_text(struct txb_saga_ledger *ledger, const char *text, const char **out,
                             struct txb_error *err) {
  *out = NULL;
  return text != NULL ? keep(ledger, text, strlen(text), out, err) : TXB_OK;
}

static enum txb_rc keep_json(struct txb_saga_ledger *ledger, const json_t *value, struct txb_slice *out,
                             struct txb_error *err) {
  const char *kept;
  char *text = txb_saga_json_text(value);
  if (text == NULL)
    return TXB_FAIL(err, TXB_FATAL, "no memory for a saga's JSON");
  size_t size = strlen(text);
  enum txb_rc rc = keep(ledger, text, size, &kept, err);
  free(text);
  if (rc == TXB_OK)
    *out = txb_slice_of(kept, size);
  return rc;
}

/* ---- rules and their names --------------------------------------------------------------------------------- */

int txb_saga_rule_of(const struct txb_saga_definition *definition, struct txb_slice step) {
  static const size_t size = sizeof CONFIRM - 1;
  bool confirms = step.size > size && memcmp((const char *)step.data + step.size - size, CONFIRM, size) == 0;
  int n = txb_saga_definition_step(definition, txb_slice_of(step.data, step.size - (confirms ? size : 0)));
  return n < 0 || !confirms ? n : definition->steps[n].confirm_rule;
}

void txb_saga_rule_text(const struct txb_saga_definition *definition, int rule, char out[TXB_SAGA_STEP_TEXT_SIZE]) {
  const struct txb_saga_rule_origin *origin = &definition->origin[rule];
  snprintf(out, TXB_SAGA_STEP_TEXT_SIZE, "%s%s", definition->steps[origin->step].name, origin->confirm ? CONFIRM : "");
}

static const struct txb_saga_step_definition *step_of(const struct txb_saga_instance *i, int rule) {
  return &i->definition->steps[i->definition->origin[rule].step];
}

void txb_saga_timer_id(const struct txb_uuid *saga, int64_t due_us, struct txb_uuid *out) {
  const struct txb_slice parts[] = {txb_slice_text("txb.saga.timer"), txb_slice_of(saga->bytes, sizeof saga->bytes)};
  txb_uuid_v7_derive(due_us, parts, TXB_ARRAY_SIZE(parts), out);
}

/* ---- what its steps gave ----------------------------------------------------------------------------------- */

void txb_saga_instance_init(struct txb_saga_instance *instance) {
  struct txb_saga_instance given = *instance;
  *instance = (struct txb_saga_instance){.definition = given.definition,
                                         .id = given.id,
                                         .started_us = given.started_us,
                                         .deadline_us = given.deadline_us,
                                         .key = given.key,
                                         .input = given.input,
                                         .turned_rule = -1};
}

void txb_saga_instance_fini(struct txb_saga_instance *instance) {
  json_decref(instance->context);
  instance->context = NULL;
}

static json_t *parsed(struct txb_slice text) {
  return text.data == NULL ? json_null() : json_loadb(text.data, text.size, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
}

static int add_output(const struct txb_saga_instance *i, json_t *steps, int rule) {
  json_t *step = json_object();
  json_t *output = parsed(i->outputs[rule]);
  if (output == NULL || json_object_set_new(step, "output", output) != 0) {
    json_decref(step);
    return -1;
  }
  return json_object_set_new(steps, i->definition->steps[rule].name, step);
}

static enum txb_rc make_context(struct txb_saga_instance *i, struct txb_error *err) {
  char id[37];
  int failed = 0;
  if (i->context != NULL)
    return TXB_OK;
  txb_uuid_format(&i->id, id);
  json_t *context = json_object(), *steps = json_object(), *saga = json_object();
  for (int rule = 0; rule < i->definition->count; rule++)
    if (i->state.steps[rule].state == TXB_STEP_DONE)
      failed |= add_output(i, steps, rule);
  failed |= json_object_set_new(saga, "id", json_string(id));
  failed |= json_object_set_new(saga, "name", json_string(i->definition->name));
  if (i->key.data != NULL)
    failed |= json_object_set_new(saga, "key", json_stringn(i->key.data, i->key.size));
  failed |= json_object_set_new(context, "input", parsed(i->input));
  failed |= json_object_set_new(context, "steps", steps);
  failed |= json_object_set_new(context, "saga", saga);
  if (failed != 0) {
    json_decref(context);
    return TXB_FAIL(err, TXB_FATAL, "no memory for what saga %s knows", id);
  }
  i->context = context;
  return TXB_OK;
}

static void forget_context(struct txb_saga_instance *i) {
  json_decref(i->context);
  i->context = NULL;
}

/* ---- what an entry makes of the state ---------------------------------------------------------------------- */

enum entry_kind {
  ENTRY_START = 0,
  ENTRY_TURN_BACK,
  ENTRY_UNDO,
  ENTRY_TIMER,
  ENTRY_IGNORED,
  ENTRY_STUCK,
  ENTRY_END,
  ENTRY_STEP, /* and all behind it are events of a step */
};
static const char *const whole_names[ENTRY_STEP] = {"start", "turn_back", "undo", "timer", "ignored", "stuck", "end"};

static int kind_of(const char *event) {
  for (int k = 0; k < ENTRY_STEP; k++)
    if (strcmp(event, whole_names[k]) == 0)
      return k;
  for (int k = 0; k < TXB_STEP_EVENTS; k++)
    if (strcmp(event, txb_saga_step_event_name((enum txb_saga_step_event)k)) == 0)
      return ENTRY_STEP + k;
  return -1;
}

static int64_t pause_us(const struct txb_saga_retry *retry, int32_t attempts) {
  int64_t ms = retry->first_ms;
  for (int32_t n = 1; n < attempts && ms < retry->cap_ms; n++)
    ms *= retry->factor;
  return (ms < retry->cap_ms ? ms : retry->cap_ms) * 1000;
}

static void set_dues(struct txb_saga_instance *i, const struct txb_saga_actions *actions, int64_t at_us) {
  for (int a = 0; a < actions->count; a++) {
    const struct txb_saga_action *action = &actions->items[a];
    if (action->step < 0)
      continue;
    const struct txb_saga_step_definition *s = step_of(i, action->step);
    switch (action->kind) {
    case TXB_SAGA_SEND_ACTION:
    case TXB_SAGA_SEND_RESOLVE:
    case TXB_SAGA_SEND_COMPENSATION:
      i->due_us[action->step] = at_us + s->timeout_ms * 1000;
      break;
    case TXB_SAGA_PAUSE:
      i->due_us[action->step] = at_us + pause_us(&s->retry, action->attempts);
      break;
    case TXB_SAGA_NOTHING:
    case TXB_SAGA_ASK:
    case TXB_SAGA_CALL_PERSON:
    case TXB_SAGA_END:
      break;
    }
  }
}

static const struct txb_saga_bugs *bugs(void) {
  static const struct txb_saga_bugs guesses = {.pivot_guessed = true}, forgets = {.late_effect_ignored = true};
  return txb_bug("saga_pivot_guessed") ? &guesses : txb_bug("saga_late_effect_ignored") ? &forgets : NULL;
}

/* False: it changes nothing. */
static bool change(struct txb_saga_instance *i, int kind, int rule, int32_t sending, int64_t at_us,
                   struct txb_saga_actions *actions) {
  const struct txb_saga_rules *rules = &i->definition->rules;
  bool changed = true;
  actions->count = 0;
  switch (kind) {
  case ENTRY_START:
    txb_saga_start(rules, &i->state, actions);
    break;
  case ENTRY_TURN_BACK:
    changed = txb_saga_turn_back(rules, &i->state, bugs(), actions);
    break;
  case ENTRY_UNDO:
    changed = txb_saga_undo(rules, &i->state, NULL, actions);
    i->ended = i->ended && !changed;
    break;
  case ENTRY_TIMER:
    i->fired_us = i->timer_us;
    i->timer_us = 0;
    break;
  case ENTRY_IGNORED:
  case ENTRY_STUCK:
    break;
  case ENTRY_END:
    i->ended = true;
    break;
  default:
    changed =
        txb_saga_step_on(rules, &i->state, rule, (enum txb_saga_step_event)(kind - ENTRY_STEP), sending, bugs(), actions);
  }
  set_dues(i, actions, at_us);
  return changed;
}

/* Why it turned back is told at its end. */
static void note_turn(struct txb_saga_instance *i, enum txb_saga_state before, int rule, const char *why) {
  enum txb_saga_state now = i->state.state;
  bool turned = before == TXB_SAGA_RUNNING &&
                (now == TXB_SAGA_TURNING || now == TXB_SAGA_COMPENSATING || now == TXB_SAGA_COMPENSATED);
  if (!turned || i->turned_why != NULL)
    return;
  i->turned_rule = rule;
  i->turned_why = why;
}

enum txb_rc txb_saga_instance_replay(struct txb_saga_instance *instance, int32_t n, const char *event,
                                     struct txb_slice step, int32_t sending, int64_t at_us, int64_t timer_us,
                                     struct txb_slice output, const char *reason, struct txb_error *err) {
  struct txb_saga_actions actions;
  enum txb_saga_state before = instance->state.state;
  int kind = kind_of(event), rule = kind >= ENTRY_STEP ? txb_saga_rule_of(instance->definition, step) : 0;
  char id[37];
  if (kind < 0 || rule < 0 || !change(instance, kind, rule, sending, at_us, &actions)) {
    txb_uuid_format(&instance->id, id);
    return TXB_FAIL(err, TXB_REFUSED,
                    "saga %s: its entry %" PRId32 ", %.40s of %.*s, does not follow from what came before"
                    " by version %" PRId32 " of %s",
                    id, n, event, (int)step.size, (const char *)step.data, instance->definition->version,
                    instance->definition->name);
  }
  if (kind == ENTRY_STEP + TXB_STEP_ON_EFFECT)
    instance->outputs[rule] = output;
  if (timer_us != 0)
    instance->timer_us = timer_us;
  note_turn(instance, before, kind >= ENTRY_STEP ? rule : -1, reason != NULL ? reason : event);
  instance->n = n;
  return TXB_OK;
}

/* ---- what happens becomes entries and commands -------------------------------------------------------------- */

/* One message's way through: who hands what to whom. */
struct turn {
  struct txb_saga_instance *i;
  struct txb_saga_ledger *ledger;
  const struct txb_saga_moment *moment;
};

static enum txb_rc add_entry(const struct turn *t, const char *event, int rule, int32_t sending, const char *reason,
                             struct txb_error *err) {
  struct txb_saga_ledger *l = t->ledger;
  if (l->entry_count == l->entry_room) {
    size_t room = l->entry_room == 0 ? 64 : 2 * l->entry_room;
    TXB_TRY(txb_regrow_array(&l->entries, room, sizeof *l->entries, err));
    l->entry_room = room;
  }
  const char *kept;
  TXB_TRY(keep_text(l, reason, &kept, err));
  struct txb_saga_entry *e = &l->entries[l->entry_count];
  *e = (struct txb_saga_entry){.instance = t->i,
                               .n = t->i->n + 1,
                               .event = event,
                               .sending = sending,
                               .reason = kept,
                               .at_us = t->moment->now_us,
                               .message = t->moment->message,
                               .first_command = l->command_count};
  if (rule >= 0)
    txb_saga_rule_text(t->i->definition, rule, e->step);
  l->entry_count++;
  t->i->last_entry = l->entry_count;
  t->i->n++;
  return TXB_OK;
}

static struct txb_saga_entry *last_entry(const struct txb_saga_ledger *l) {
  return &l->entries[l->entry_count - 1];
}

static enum txb_rc ignore(const struct turn *t, int rule, const char *who, struct txb_error *err, const char *fmt, ...)
    TXB_PRINTF(5, 6);
static enum txb_rc ignore(const struct turn *t, int rule, const char *who, struct txb_error *err, const char *fmt,
                          ...) {
  char reason[600];
  va_list args;
  va_start(args, fmt);
  vsnprintf(reason, sizeof reason, fmt, args);
  va_end(args);
  TXB_TRY(add_entry(t, "ignored", rule, 0, reason, err));
  return keep_text(t->ledger, who, &last_entry(t->ledger)->who, err);
}

static bool is_resolve(enum txb_saga_action_kind kind) {
  return kind == TXB_SAGA_SEND_RESOLVE;
}

static enum txb_saga_operation_kind operation_of(const struct txb_saga_instance *i, const struct txb_saga_action *a) {
  if (is_resolve(a->kind))
    return TXB_SAGA_OPERATION_RESOLVE;
  if (a->kind == TXB_SAGA_SEND_COMPENSATION)
    return TXB_SAGA_OPERATION_COMPENSATION;
  return i->definition->rules.steps[a->step].kind == TXB_SAGA_RETRIABLE ? TXB_SAGA_OPERATION_FORWARD
                                                                        : TXB_SAGA_OPERATION_ACTION;
}

static const struct txb_saga_operation *template_of(const struct txb_saga_instance *i,
                                                    const struct txb_saga_action *a) {
  const struct txb_saga_step_definition *s = step_of(i, a->step);
  if (a->kind == TXB_SAGA_SEND_COMPENSATION)
    return &s->undo;
  return i->definition->origin[a->step].confirm ? &s->confirm : &s->action;
}

/* TXB_REFUSED: the template reads what is not there. A resolve is asked of the barrier alone, and says nothing. */
static enum txb_rc fill_payload(const struct turn *t, const struct txb_saga_action *a, struct txb_slice *out,
                                struct txb_error *err) {
  const struct txb_saga_operation *o = template_of(t->i, a);
  json_t *filled;
  *out = txb_slice_text("{}");
  if (is_resolve(a->kind))
    return TXB_OK;
  if (o->input == NULL) {
    *out = t->i->input;
    return TXB_OK;
  }
  TXB_TRY(make_context(t->i, err));
  TXB_TRY(txb_saga_template_fill(o->input, t->i->context, &filled, err));
  enum txb_rc rc = keep_json(t->ledger, filled, out, err);
  json_decref(filled);
  TXB_TRY(rc);
  return out->size <= TXB_PAYLOAD_SIZE_MAX
             ? TXB_OK
             : TXB_FAIL(err, TXB_REFUSED, "it would have %zu bytes, and a message has at most %d", out->size,
                        TXB_PAYLOAD_SIZE_MAX);
}

static enum txb_rc send_command(const struct turn *t, const struct txb_saga_action *a, struct txb_error *err) {
  struct txb_saga_ledger *l = t->ledger;
  struct txb_slice payload;
  TXB_TRY(fill_payload(t, a, &payload, err));
  if (l->command_count == l->command_room) {
    size_t room = l->command_room == 0 ? 64 : 2 * l->command_room;
    TXB_TRY(txb_regrow_array(&l->commands, room, sizeof *l->commands, err));
    l->command_room = room;
  }
  struct txb_saga_command *c = &l->commands[l->command_count];
  *c = (struct txb_saga_command){.instance = t->i,
                                 .operation = operation_of(t->i, a),
                                 .sending = a->sending,
                                 .topic = step_of(t->i, a->step)->topic,
                                 .type = template_of(t->i, a)->type,
                                 .payload = payload};
  txb_saga_rule_text(t->i->definition, a->step, c->step);
  txb_uuid_v7(t->moment->now_us, &c->id);
  l->command_count++;
  last_entry(l)->command_count++;
  return TXB_OK;
}

static enum txb_rc tell(const struct turn *t, int kind, int rule, int32_t sending, const json_t *output,
                        const char *reason, const char *who, bool *changed_out, struct txb_error *err);

/* A command that can't be made is as good as one that was refused: it has had no effect. */
static enum txb_rc cannot_send(const struct turn *t, const struct txb_saga_action *a, const struct txb_error *why,
                               struct txb_error *err) {
  char reason[500];
  bool changed;
  bool compensates = a->kind == TXB_SAGA_SEND_COMPENSATION;
  snprintf(reason, sizeof reason, "its %s could not be made: %.400s", compensates ? "compensation" : "command",
           why->message);
  return tell(t, ENTRY_STEP + (compensates ? TXB_STEP_ON_NOT_COMPENSATED : TXB_STEP_ON_REFUSED), a->step, 0, NULL,
              reason, NULL, &changed, err);
}

/* Whether the step is run: its condition, or for a confirmation whether there is something to confirm. */
static enum txb_rc ask(const struct turn *t, const struct txb_saga_action *a, struct txb_error *err) {
  const struct txb_saga_rule_origin *origin = &t->i->definition->origin[a->step];
  const char *when = t->i->definition->steps[origin->step].when;
  struct txb_error why;
  bool holds = true, changed;
  if (origin->confirm) {
    holds = t->i->state.steps[origin->step].state != TXB_STEP_SKIPPED;
  } else if (when != NULL) {
    TXB_TRY(make_context(t->i, err));
    enum txb_rc rc = txb_saga_condition_holds(when, t->i->context, &holds, &why);
    if (rc == TXB_FATAL) {
      *err = why;
      return rc;
    }
    if (rc != TXB_OK) { /* begun, and refused at once: nothing is sent */
      char reason[500];
      snprintf(reason, sizeof reason, "whether it is to run could not be told: %.400s", why.message);
      return tell(t, ENTRY_STEP + TXB_STEP_ON_BEGIN, a->step, 0, NULL, reason, NULL, &changed, err);
    }
  }
  return tell(t, ENTRY_STEP + (holds ? TXB_STEP_ON_BEGIN : TXB_STEP_ON_SKIP), a->step, 0, NULL, NULL, NULL, &changed,
              err);
}

static enum txb_rc why_compensated(const struct turn *t, const char **out, struct txb_error *err) {
  const struct txb_saga_instance *i = t->i;
  char text[600], step[TXB_SAGA_STEP_TEXT_SIZE] = "";
  if (i->state.state != TXB_SAGA_COMPENSATED || i->turned_why == NULL)
    return TXB_OK;
  if (i->turned_rule >= 0)
    txb_saga_rule_text(i->definition, i->turned_rule, step);
  snprintf(text, sizeof text, "%s%s%.500s", step, step[0] != '\0' ? ": " : "", i->turned_why);
  return keep_text(t->ledger, text, out, err);
}

static enum txb_rc end(const struct turn *t, struct txb_error *err) {
  struct txb_saga_instance *i = t->i;
  struct txb_error why;
  json_t *filled = NULL;
  char reason[600];
  TXB_TRY(why_compensated(t, &i->reason, err));
  TXB_TRY(add_entry(t, "end", -1, 0, i->reason, err));
  i->ended = true;
  if (i->state.state != TXB_SAGA_COMPLETED || i->definition->output == NULL)
    return TXB_OK;
  TXB_TRY(make_context(i, err));
  enum txb_rc rc = txb_saga_template_fill(i->definition->output, i->context, &filled, &why);
  if (rc == TXB_OK) {
    rc = keep_json(t->ledger, filled, &i->output, err);
    json_decref(filled);
    last_entry(t->ledger)->output = i->output;
    TXB_TRY(rc);
    if (i->output.size <= TXB_PAYLOAD_SIZE_MAX - END_SIZE_MAX)
      return TXB_OK;
    (void)TXB_FAIL(&why, TXB_REFUSED, "%zu bytes are more than a message can take", i->output.size);
    last_entry(t->ledger)->output = i->output = txb_slice_of(NULL, 0);
  }
  if (rc == TXB_FATAL) {
    *err = why;
    return rc;
  }
  snprintf(reason, sizeof reason, "completed, but its output could not be made: %.400s", why.message);
  TXB_TRY(keep_text(t->ledger, reason, &i->reason, err));
  last_entry(t->ledger)->reason = i->reason;
  return TXB_OK;
}

/* What the core wants done, after the entry that led to it. `blocked`: that entry says why its command can't be sent. */
static enum txb_rc act(const struct turn *t, const struct txb_saga_actions *actions, bool blocked,
                       struct txb_error *err) {
  struct txb_error why = {.rc = TXB_OK};
  int failed[TXB_SAGA_ACTIONS_MAX], failed_count = 0;
  for (int n = 0; n < actions->count; n++) { /* first what belongs to this entry */
    const struct txb_saga_action *a = &actions->items[n];
    if (a->kind != TXB_SAGA_SEND_ACTION && a->kind != TXB_SAGA_SEND_RESOLVE && a->kind != TXB_SAGA_SEND_COMPENSATION)
      continue;
    enum txb_rc rc = blocked && a->kind == TXB_SAGA_SEND_ACTION ? TXB_REFUSED : send_command(t, a, &why);
    if (rc == TXB_FATAL) {
      *err = why;
      return rc;
    }
    if (rc != TXB_OK)
      failed[failed_count++] = n;
  }
  for (int n = 0; n < actions->count; n++) {
    const struct txb_saga_action *a = &actions->items[n];
    if (a->kind == TXB_SAGA_ASK && t->i->state.steps[a->step].asked)
      TXB_TRY(ask(t, a, err));
    else if (a->kind == TXB_SAGA_CALL_PERSON)
      TXB_TRY(add_entry(t, "stuck", a->step, 0, "a person must decide: retry, or mark what has become of it", err));
    else if (a->kind == TXB_SAGA_END)
      TXB_TRY(end(t, err));
  }
  for (int n = 0; n < failed_count; n++) {
    if (blocked)
      (void)TXB_FAIL(&why, TXB_REFUSED, "%s", last_entry(t->ledger)->reason);
    TXB_TRY(cannot_send(t, &actions->items[failed[n]], &why, err));
  }
  return TXB_OK;
}

static enum txb_rc tell(const struct turn *t, int kind, int rule, int32_t sending, const json_t *output,
                        const char *reason, const char *who, bool *changed_out, struct txb_error *err) {
  struct txb_saga_instance *i = t->i;
  struct txb_saga_actions actions;
  enum txb_saga_state before = i->state.state;
  *changed_out = change(i, kind, rule, sending, t->moment->now_us, &actions);
  if (!*changed_out)
    return TXB_OK;
  const char *event =
      kind < ENTRY_STEP ? whole_names[kind] : txb_saga_step_event_name((enum txb_saga_step_event)(kind - ENTRY_STEP));
  TXB_TRY(add_entry(t, event, rule, sending, reason, err));
  struct txb_saga_entry *e = last_entry(t->ledger);
  TXB_TRY(keep_text(t->ledger, who, &e->who, err));
  if (kind == ENTRY_STEP + TXB_STEP_ON_EFFECT) {
    if (output != NULL)
      TXB_TRY(keep_json(t->ledger, output, &e->output, err));
    i->outputs[rule] = e->output;
  }
  forget_context(i);
  note_turn(i, before, rule, e->reason != NULL ? e->reason : event);
  return act(t, &actions, kind == ENTRY_STEP + TXB_STEP_ON_BEGIN && reason != NULL, err);
}

/* ---- messages ----------------------------------------------------------------------------------------------- */

enum txb_rc txb_saga_instance_on_start(struct txb_saga_instance *instance, const struct txb_saga_moment *moment,
                                       struct txb_saga_ledger *ledger, struct txb_error *err) {
  const struct turn t = {instance, ledger, moment};
  bool changed;
  if (instance->n > 0)
    return TXB_OK;
  return tell(&t, ENTRY_START, -1, 0, NULL, NULL, NULL, &changed, err);
}

/* What an answer means, by what was asked; -1: nothing. */
static int event_of(const struct txb_saga_answer *a) {
  static const struct {
    bool of_compensation;
    const char *answer;
    enum txb_saga_step_event event;
  } meanings[] = {
      {false, "ok", TXB_STEP_ON_EFFECT},
      {false, "refused", TXB_STEP_ON_REFUSED},
      {false, "never", TXB_STEP_ON_NEVER},
      {false, "compensated", TXB_STEP_ON_UNDONE},
      {false, "undeliverable", TXB_STEP_ON_TIME},
      {true, "compensated", TXB_STEP_ON_COMPENSATED},
      {true, "failed", TXB_STEP_ON_NOT_COMPENSATED},
      {true, "undeliverable", TXB_STEP_ON_TIME},
  };
  bool compensation = txb_slice_equal(a->operation, txb_slice_text("compensation"));
  for (size_t m = 0; m < TXB_ARRAY_SIZE(meanings); m++)
    if (meanings[m].of_compensation == compensation && strcmp(meanings[m].answer, a->answer) == 0)
      return ENTRY_STEP + (int)meanings[m].event;
  return -1;
}

enum txb_rc txb_saga_instance_on_answer(struct txb_saga_instance *instance, const struct txb_saga_answer *answer,
                                        const struct txb_saga_moment *moment, struct txb_saga_ledger *ledger,
                                        struct txb_error *err) {
  const struct turn t = {instance, ledger, moment};
  int rule = txb_saga_rule_of(instance->definition, answer->step), kind = event_of(answer);
  bool changed = false;
  if (rule < 0)
    return ignore(&t, -1, NULL, err, "an answer about %.*s: version %" PRId32 " of %s has no such step",
                  (int)(answer->step.size < 100 ? answer->step.size : 100), (const char *)answer->step.data,
                  instance->definition->version, instance->definition->name);
  const char *topic = step_of(instance, rule)->topic;
  if (topic == NULL || !txb_slice_equal(answer->topic, txb_slice_text(topic)))
    return ignore(&t, rule, NULL, err, "an answer from topic %.*s: its commands go to %s",
                  (int)(answer->topic.size < 250 ? answer->topic.size : 250), (const char *)answer->topic.data,
                  topic != NULL ? topic : "a saga");
  if (kind < 0)
    return ignore(&t, rule, NULL, err, "the answer %.40s to %.*s means nothing", answer->answer,
                  (int)(answer->operation.size < 40 ? answer->operation.size : 40),
                  (const char *)answer->operation.data);
  enum txb_saga_step_state state = instance->state.steps[rule].state;
  TXB_TRY(tell(&t, kind, rule, answer->sending, answer->output, answer->reason, NULL, &changed, err));
  if (changed)
    return TXB_OK;
  return ignore(&t, rule, NULL, err, "the answer %s to %.*s came when the step was %s: nothing follows from it",
                answer->answer, (int)(answer->operation.size < 40 ? answer->operation.size : 40),
                (const char *)answer->operation.data, txb_saga_step_state_name(state));
}

static bool waits(enum txb_saga_step_state s) {
  return s == TXB_STEP_RUNNING || s == TXB_STEP_SETTLING || s == TXB_STEP_COMPENSATING;
}

enum txb_rc txb_saga_instance_on_timer(struct txb_saga_instance *instance, int64_t due_us,
                                       const struct txb_saga_moment *moment, struct txb_saga_ledger *ledger,
                                       struct txb_error *err) {
  const struct turn t = {instance, ledger, moment};
  bool changed;
  if (instance->ended || due_us != instance->timer_us)
    return TXB_OK;
  TXB_TRY(tell(&t, ENTRY_TIMER, -1, 0, NULL, NULL, NULL, &changed, err));
  if (instance->deadline_us != 0 && instance->deadline_us <= due_us)
    TXB_TRY(tell(&t, ENTRY_TURN_BACK, -1, 0, NULL, "its deadline is over", NULL, &changed, err));
  for (int rule = 0; rule < instance->definition->rules.count; rule++) {
    const struct txb_saga_step *s = &instance->state.steps[rule];
    if (waits(s->state) && instance->due_us[rule] != 0 && instance->due_us[rule] <= due_us)
      TXB_TRY(tell(&t, ENTRY_STEP + TXB_STEP_ON_TIME, rule, s->sendings, NULL, NULL, NULL, &changed, err));
  }
  return TXB_OK;
}

enum txb_rc txb_saga_instance_on_decision(struct txb_saga_instance *instance, const struct txb_saga_decision *decision,
                                          const struct txb_saga_moment *moment, struct txb_saga_ledger *ledger,
                                          struct txb_error *err) {
  static const struct {
    const char *decision;
    int kind;
  } kinds[] = {{"cancel", ENTRY_TURN_BACK},
               {"retry", ENTRY_STEP + TXB_STEP_ON_RETRY},
               {"mark_done", ENTRY_STEP + TXB_STEP_ON_MARK_DONE},
               {"mark_undone", ENTRY_STEP + TXB_STEP_ON_MARK_UNDONE}};
  const struct turn t = {instance, ledger, moment};
  const char *who = decision->who;
  int kind = -1, rule = -1;
  bool changed = false;
  for (size_t k = 0; k < TXB_ARRAY_SIZE(kinds); k++)
    kind = strcmp(kinds[k].decision, decision->decision) == 0 ? kinds[k].kind : kind;
  if (kind < 0)
    return ignore(&t, -1, who, err, "the decision %.40s is not known", decision->decision);
  if (instance->ended)
    return ignore(&t, -1, who, err, "the decision %s came after the saga's end", decision->decision);
  if (decision->seen != instance->n)
    return ignore(&t, -1, who, err, "the decision %s was made at entry %" PRId32 "; the saga had gone on to %" PRId32,
                  decision->decision, decision->seen, instance->n);
  if (kind >= ENTRY_STEP) {
    rule = decision->step != NULL ? txb_saga_rule_of(instance->definition, txb_slice_text(decision->step)) : -1;
    if (rule < 0)
      return ignore(&t, -1, who, err, "the decision %s is about %.80s: there is no such step", decision->decision,
                    decision->step != NULL ? decision->step : "no step");
  }
  TXB_TRY(tell(&t, kind, rule, 0, NULL, decision->reason, who, &changed, err));
  if (changed)
    return TXB_OK;
  if (rule < 0)
    return ignore(&t, -1, who, err, "cancelled too late: the saga is %s, and can't turn back any more",
                  txb_saga_state_name(instance->state.state));
  return ignore(&t, rule, who, err, "the decision %s does not fit a step that is %s", decision->decision,
                txb_saga_step_state_name(instance->state.steps[rule].state));
}

/* ---- the timer ---------------------------------------------------------------------------------------------- */

static int64_t first_due(const struct txb_saga_instance *i) {
  int64_t first = 0;
  for (int rule = 0; rule < i->definition->rules.count; rule++)
    if (waits(i->state.steps[rule].state) && i->due_us[rule] != 0 && (first == 0 || i->due_us[rule] < first))
      first = i->due_us[rule];
  bool deadline = i->deadline_us > i->fired_us && i->state.state == TXB_SAGA_RUNNING;
  return deadline && (first == 0 || i->deadline_us < first) ? i->deadline_us : first;
}

void txb_saga_instance_settle(struct txb_saga_instance *instance, struct txb_saga_ledger *ledger) {
  int64_t due = instance->ended ? 0 : first_due(instance);
  if (due == 0 || (instance->timer_us != 0 && instance->timer_us <= due))
    return;
  if (instance->last_entry > 0)
    ledger->entries[instance->last_entry - 1].timer_us = instance->timer_us = due;
}
