/* See instance.h. Pure. */
#include "broker/saga/instance.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "broker/saga/expression.h"
#include "broker/saga/instance_internal.h"
#include "broker/saga/nested.h"
#include "common/event.h"

#define END_SIZE_MAX 16384 /* of a message about an end, beside the output: the key and the reason are the largest */

/* ---- rules and their names --------------------------------------------------------------------------------- */

static const struct txb_saga_step_definition *step_of(const struct txb_saga_instance *i, int rule) {
  return &i->definition->steps[i->definition->origin[rule].step];
}

void txb_saga_instance_init(struct txb_saga_instance *instance) {
  struct txb_saga_instance given = *instance;
  *instance = (struct txb_saga_instance){.definition = given.definition,
                                         .id = given.id,
                                         .started_us = given.started_us,
                                         .deadline_us = given.deadline_us,
                                         .key = given.key,
                                         .input = given.input,
                                         .bugs = given.bugs,
                                         .topic = given.topic,
                                         .parent = given.parent,
                                         .turned_rule = -1};
}

void txb_saga_instance_fini(struct txb_saga_instance *instance) {
  json_decref(instance->context);
  instance->context = NULL;
}

/* ---- what an entry makes of the state ---------------------------------------------------------------------- */

enum entry_kind {
  ENTRY_START = 0,
  ENTRY_TURN_BACK,
  ENTRY_UNDO,
  ENTRY_TIMER,
  ENTRY_IGNORED,
  ENTRY_STUCK,
  ENTRY_WAITS,
  ENTRY_END,
  ENTRY_STEP, /* and all behind it are events of a step */
};
static const char *const whole_names[ENTRY_STEP] = {"start",   "turn_back", "undo",  "timer",
                                                    "ignored", "stuck",     "waits", "end"};

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

/* False: it changes nothing. */
static bool change(struct txb_saga_instance *i, int kind, int rule, int32_t sending, int64_t at_us,
                   struct txb_saga_actions *actions) {
  const struct txb_saga_rules *rules = &i->definition->rules;
  bool changed = true;
  actions->count = 0;
  switch (kind) {
  case ENTRY_START:
    changed = !i->begun && !i->ended;
    if (changed)
      txb_saga_start(rules, &i->state, actions);
    i->begun = true;
    break;
  case ENTRY_TURN_BACK:
    changed = txb_saga_turn_back(rules, &i->state, i->bugs, actions);
    i->settle_sending = changed ? sending : i->settle_sending;
    break;
  case ENTRY_UNDO:
    changed = txb_saga_nested_undo(i, sending, actions);
    break;
  case ENTRY_TIMER:
    i->fired_us = i->timer_us;
    i->timer_us = 0;
    break;
  case ENTRY_IGNORED:
  case ENTRY_STUCK:
    break;
  case ENTRY_WAITS:
    changed = !i->begun && !i->ended;
    break;
  case ENTRY_END:
    changed = i->state.state == TXB_SAGA_COMPLETED || i->state.state == TXB_SAGA_COMPENSATED;
    i->ended = changed;
    i->ends += changed;
    break;
  default:
    changed = txb_saga_step_on(rules, &i->state, rule, (enum txb_saga_step_event)(kind - ENTRY_STEP), sending, i->bugs,
                               actions);
    if (changed && kind == ENTRY_STEP + TXB_STEP_ON_REFUSED)
      txb_saga_nested_refused(i, rule);
  }
  set_dues(i, actions, at_us);
  return changed;
}

/* Why it turned back is told at its end. */
static void note_turn(struct txb_saga_instance *i, enum txb_saga_state before, int rule, const char *why) {
  enum txb_saga_state now = i->state.state;
  bool turned = (before == TXB_SAGA_RUNNING || before == TXB_SAGA_COMPLETED) &&
                (now == TXB_SAGA_TURNING || now == TXB_SAGA_COMPENSATING || now == TXB_SAGA_COMPENSATED);
  if (!turned || i->turned_why != NULL)
    return;
  i->turned_rule = rule;
  i->turned_why = why;
}

/* So is what stands for all that. */
static void note_left(struct txb_saga_instance *i, int kind, int rule) {
  if (kind == ENTRY_STEP + TXB_STEP_ON_LEAVE && i->state.steps[rule].state == TXB_STEP_COMPENSATED)
    i->left |= UINT64_C(1) << rule;
}

enum txb_rc txb_saga_instance_replay(struct txb_saga_instance *instance, const struct txb_saga_past *p,
                                     struct txb_error *err) {
  struct txb_saga_actions actions;
  enum txb_saga_state before = instance->state.state;
  int kind = kind_of(p->event), rule = kind >= ENTRY_STEP ? txb_saga_rule_of(instance->definition, p->step) : 0;
  char id[37];
  if (kind < 0 || rule < 0 || p->n != instance->n + 1 ||
      !change(instance, kind, rule, p->sending, p->at_us, &actions)) {
    txb_uuid_format(&instance->id, id);
    return TXB_FAIL(err, TXB_REFUSED,
                    "saga %s: its entry %" PRId32 ", %.40s of %.*s, does not follow from what came before"
                    " by version %" PRId32 " of %s",
                    id, p->n, p->event, (int)p->step.size, (const char *)p->step.data, instance->definition->version,
                    instance->definition->name);
  }
  if (kind == ENTRY_STEP + TXB_STEP_ON_EFFECT)
    instance->outputs[rule] = p->output;
  if (kind == ENTRY_STEP + TXB_STEP_ON_EDIT)
    instance->edited[rule] = p->output;
  if (kind == ENTRY_END) {
    instance->output = p->output;
    instance->reason = p->reason;
  }
  if (p->timer_us != 0)
    instance->timer_us = p->timer_us;
  if (kind == ENTRY_WAITS)
    instance->waits_why = p->reason;
  note_turn(instance, before, kind >= ENTRY_STEP ? rule : -1, p->reason != NULL ? p->reason : p->event);
  note_left(instance, kind, rule);
  instance->n = p->n;
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
  TXB_TRY(txb_saga_keep_text(l, reason, &kept, err));
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
  return txb_saga_keep_text(t->ledger, who, &last_entry(t->ledger)->who, err);
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

/* A rule has one operation that can be edited: what goes forward, or a compensation. */
static bool is_edited(const struct txb_saga_instance *i, const struct txb_saga_action *a) {
  bool forgotten = i->bugs != NULL && i->bugs->edit_forgotten && a->attempts > 1;
  return i->edited[a->step].data != NULL && !is_resolve(a->kind) && !forgotten;
}

/* TXB_REFUSED: the template reads what is not there. A resolve is asked of the barrier alone, and says nothing. */
static enum txb_rc fill_payload(const struct turn *t, const struct txb_saga_action *a, struct txb_slice *out,
                                struct txb_error *err) {
  const struct txb_saga_operation *o = template_of(t->i, a);
  json_t *filled;
  *out = txb_slice_text("{}");
  if (step_of(t->i, a->step)->nested != NULL) {
    TXB_TRY(txb_saga_nested_payload(t->i, a, operation_of(t->i, a), t->ledger, out, err));
  } else if (is_resolve(a->kind)) {
    return TXB_OK;
  } else if (is_edited(t->i, a)) {
    *out = t->i->edited[a->step];
  } else if (o->input == NULL) {
    *out = t->i->input.data != NULL ? t->i->input : txb_slice_text("null");
  } else {
    TXB_TRY(txb_saga_context_make(t->i, err));
    TXB_TRY(txb_saga_template_fill(o->input, t->i->context, &filled, err));
    enum txb_rc rc = txb_saga_keep_json(t->ledger, filled, out, err);
    json_decref(filled);
    TXB_TRY(rc);
  }
  return out->size <= TXB_PAYLOAD_SIZE_MAX
             ? TXB_OK
             : TXB_FAIL(err, TXB_REFUSED, "it would have %zu bytes, and a message has at most %d", out->size,
                        TXB_PAYLOAD_SIZE_MAX);
}

/* Whether the step is to be run: its condition, or for a confirmation whether there is something to confirm. TXB_REFUSED: it
 * can't be told. */
static enum txb_rc is_wanted(const struct turn *t, int rule, bool *out, struct txb_error *err) {
  const struct txb_saga_rule_origin *origin = &t->i->definition->origin[rule];
  const char *when = t->i->definition->steps[origin->step].when;
  *out = !origin->confirm || t->i->state.steps[origin->step].state != TXB_STEP_SKIPPED;
  if (origin->confirm || when == NULL)
    return TXB_OK;
  enum txb_rc rc = txb_saga_context_make(t->i, err);
  rc = rc == TXB_OK ? txb_saga_condition_holds(when, t->i->context, out, err) : rc;
  if (rc == TXB_REFUSED)
    return txb_error_prefix(err, "whether it is to run could not be told");
  return rc;
}

/* An action whose condition could not be told was begun all the same, to be refused: it must not be sent after a pause. Unless
 * a person gave it a payload, which says that it is wanted. */
static enum txb_rc check_wanted(const struct turn *t, const struct txb_saga_action *a, struct txb_error *err) {
  bool wanted;
  if (a->kind != TXB_SAGA_SEND_ACTION || is_edited(t->i, a))
    return TXB_OK;
  TXB_TRY(is_wanted(t, a->step, &wanted, err));
  return wanted ? TXB_OK : TXB_FAIL(err, TXB_REFUSED, "its condition does not hold any more");
}

static enum txb_rc send_command(const struct turn *t, const struct txb_saga_action *a, struct txb_error *err) {
  struct txb_saga_ledger *l = t->ledger;
  struct txb_slice payload;
  TXB_TRY(check_wanted(t, a, err));
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
  if (step_of(t->i, a->step)->nested != NULL)
    txb_saga_nested_address(t->i, a->step, c);
  txb_saga_rule_text(t->i->definition, a->step, c->step);
  txb_uuid_v7(t->moment->now_us, &c->id);
  l->command_count++;
  last_entry(l)->command_count++;
  return TXB_OK;
}

static enum txb_rc tell(const struct turn *t, int kind, int rule, int32_t sending, const json_t *output,
                        const char *reason, const char *who, bool *changed_out, struct txb_error *err);

/* A command that can't be made is as good as one that was refused: it has had no effect. */
static enum txb_rc cannot_send(const struct turn *t, const struct txb_saga_action *a, const char *why,
                               struct txb_error *err) {
  char reason[500];
  bool changed;
  bool compensates = a->kind == TXB_SAGA_SEND_COMPENSATION;
  snprintf(reason, sizeof reason, "its %s could not be made: %.400s", compensates ? "compensation" : "command", why);
  return tell(t, ENTRY_STEP + (compensates ? TXB_STEP_ON_NOT_COMPENSATED : TXB_STEP_ON_REFUSED), a->step, 0, NULL,
              reason, NULL, &changed, err);
}

/* Where that can't be told it is begun, and refused at once: nothing is sent. */
static enum txb_rc ask(const struct turn *t, const struct txb_saga_action *a, struct txb_error *err) {
  struct txb_error why;
  bool wanted = true, changed;
  enum txb_rc rc = is_wanted(t, a->step, &wanted, &why);
  if (rc != TXB_OK && rc != TXB_REFUSED) {
    *err = why;
    return rc;
  }
  int kind = ENTRY_STEP + (wanted || rc == TXB_REFUSED ? TXB_STEP_ON_BEGIN : TXB_STEP_ON_SKIP);
  return tell(t, kind, a->step, 0, NULL, rc == TXB_REFUSED ? why.message : NULL, NULL, &changed, err);
}

static enum txb_rc why_compensated(const struct turn *t, const char **out, struct txb_error *err) {
  char text[1000];
  if (t->i->state.state != TXB_SAGA_COMPENSATED)
    return TXB_OK;
  txb_saga_why_compensated(t->i, text, sizeof text);
  return txb_saga_keep_text(t->ledger, text[0] != '\0' ? text : NULL, out, err);
}

/* TXB_REFUSED: it can't be made. */
static enum txb_rc make_output(const struct turn *t, struct txb_slice *out, struct txb_error *err) {
  struct txb_slice output;
  json_t *filled;
  TXB_TRY(txb_saga_context_make(t->i, err));
  TXB_TRY(txb_saga_template_fill(t->i->definition->output, t->i->context, &filled, err));
  enum txb_rc rc = txb_saga_keep_json(t->ledger, filled, &output, err);
  json_decref(filled);
  TXB_TRY(rc);
  if (output.size > TXB_PAYLOAD_SIZE_MAX - END_SIZE_MAX)
    return TXB_FAIL(err, TXB_REFUSED, "%zu bytes are more than a message can take", output.size);
  *out = output;
  return TXB_OK;
}

static enum txb_rc end_output(const struct turn *t, struct txb_error *err) {
  struct txb_saga_instance *i = t->i;
  struct txb_error why;
  char reason[600];
  if (i->state.state != TXB_SAGA_COMPLETED || i->definition->output == NULL)
    return TXB_OK;
  enum txb_rc rc = make_output(t, &i->output, &why);
  if (rc == TXB_REFUSED) {
    snprintf(reason, sizeof reason, "completed, but its output could not be made: %.400s", why.message);
    TXB_TRY(txb_saga_keep_text(t->ledger, reason, &i->reason, err));
  } else if (rc != TXB_OK) {
    *err = why;
    return rc;
  }
  last_entry(t->ledger)->output = i->output;
  last_entry(t->ledger)->reason = i->reason;
  return TXB_OK;
}

static enum txb_rc end(const struct turn *t, struct txb_error *err) {
  struct txb_saga_instance *i = t->i;
  i->output = txb_slice_of(NULL, 0);
  i->reason = NULL;
  TXB_TRY(why_compensated(t, &i->reason, err));
  TXB_TRY(add_entry(t, "end", -1, 0, i->reason, err));
  i->ended = true;
  i->ends++;
  TXB_TRY(end_output(t, err));
  return i->parent != NULL ? txb_saga_say_end(i, t->ledger, err) : TXB_OK;
}

static bool is_sending(enum txb_saga_action_kind kind) {
  return kind == TXB_SAGA_SEND_ACTION || kind == TXB_SAGA_SEND_RESOLVE || kind == TXB_SAGA_SEND_COMPENSATION;
}

/* Commands, which belong to the entry that led to them. failed[n] says why that one can't be made; NULL: it was. */
static enum txb_rc send_commands(const struct turn *t, const struct txb_saga_actions *actions,
                                 const char *failed[TXB_SAGA_ACTIONS_MAX], struct txb_error *err) {
  for (int n = 0; n < actions->count; n++) {
    struct txb_error why;
    failed[n] = NULL;
    enum txb_rc rc = is_sending(actions->items[n].kind) ? send_command(t, &actions->items[n], &why) : TXB_OK;
    if (rc == TXB_REFUSED) {
      TXB_TRY(txb_saga_keep_text(t->ledger, why.message, &failed[n], err));
    } else if (rc != TXB_OK) {
      *err = why;
      return rc;
    }
  }
  return TXB_OK;
}

/* What the core wants done, after the entry that led to it. */
static enum txb_rc act(const struct turn *t, const struct txb_saga_actions *actions, struct txb_error *err) {
  const char *failed[TXB_SAGA_ACTIONS_MAX];
  TXB_TRY(send_commands(t, actions, failed, err));
  for (int n = 0; n < actions->count; n++) {
    const struct txb_saga_action *a = &actions->items[n];
    if (a->kind == TXB_SAGA_ASK && t->i->state.steps[a->step].asked)
      TXB_TRY(ask(t, a, err));
    else if (a->kind == TXB_SAGA_CALL_PERSON)
      TXB_TRY(add_entry(t, "stuck", a->step, 0, "a person must decide: retry, or mark what has become of it", err));
    else if (a->kind == TXB_SAGA_END)
      TXB_TRY(end(t, err));
  }
  for (int n = 0; n < actions->count; n++)
    if (failed[n] != NULL)
      TXB_TRY(cannot_send(t, &actions->items[n], failed[n], err));
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
  TXB_TRY(txb_saga_keep_text(t->ledger, who, &e->who, err));
  if (kind == ENTRY_STEP + TXB_STEP_ON_EFFECT || kind == ENTRY_STEP + TXB_STEP_ON_EDIT) {
    if (output != NULL)
      TXB_TRY(txb_saga_keep_json(t->ledger, output, &e->output, err));
    *(kind == ENTRY_STEP + TXB_STEP_ON_EDIT ? &i->edited[rule] : &i->outputs[rule]) = e->output;
  }
  txb_saga_context_forget(i);
  note_turn(i, before, rule, e->reason != NULL ? e->reason : event);
  note_left(i, kind, rule);
  return act(t, &actions, err);
}

enum txb_rc txb_saga_tell(struct txb_saga_instance *instance, const char *event, int32_t sending, const char *reason,
                          const struct txb_saga_moment *moment, struct txb_saga_ledger *ledger, bool *changed_out,
                          struct txb_error *err) {
  const struct turn t = {instance, ledger, moment};
  return tell(&t, kind_of(event), -1, sending, NULL, reason, NULL, changed_out, err);
}

enum txb_rc txb_saga_ignore(struct txb_saga_instance *instance, const char *reason,
                            const struct txb_saga_moment *moment, struct txb_saga_ledger *ledger,
                            struct txb_error *err) {
  const struct turn t = {instance, ledger, moment};
  return ignore(&t, -1, NULL, err, "%s", reason);
}

/* ---- messages ----------------------------------------------------------------------------------------------- */

enum txb_rc txb_saga_instance_on_start(struct txb_saga_instance *instance, const struct txb_saga_moment *moment,
                                       struct txb_saga_ledger *ledger, struct txb_error *err) {
  const struct turn t = {instance, ledger, moment};
  bool changed;
  if (instance->begun || instance->ended) /* the latter: it was cancelled before */
    return TXB_OK;
  return tell(&t, ENTRY_START, -1, 0, NULL, NULL, NULL, &changed, err);
}

static int operation_called(struct txb_slice name) {
  for (int k = 0; k < TXB_SAGA_OPERATIONS; k++)
    if (txb_slice_equal(name, txb_slice_text(txb_saga_operation_name((enum txb_saga_operation_kind)k))))
      return k;
  return -1;
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
  int operation = operation_called(a->operation);
  bool compensation = operation == TXB_SAGA_OPERATION_COMPENSATION;
  if (operation < 0 || a->answer == NULL)
    return -1;
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
  char child[37];
  if (rule < 0)
    return ignore(&t, -1, NULL, err, "an answer about %.*s: version %" PRId32 " of %s has no such step",
                  (int)(answer->step.size < 100 ? answer->step.size : 100), (const char *)answer->step.data,
                  instance->definition->version, instance->definition->name);
  const struct txb_saga_step_definition *s = step_of(instance, rule);
  const char *topic = s->nested != NULL ? instance->topic : s->topic;
  if (topic == NULL || !txb_slice_equal(answer->topic, txb_slice_text(topic)))
    return ignore(&t, rule, NULL, err, "an answer from topic %.*s: its commands go to %s",
                  (int)(answer->topic.size < 250 ? answer->topic.size : 250), (const char *)answer->topic.data,
                  topic != NULL ? topic : "a saga");
  if (s->nested != NULL && !txb_saga_nested_is_from(instance, rule, answer, child))
    return ignore(&t, rule, NULL, err, "an answer of saga %.*s: the step is saga %s",
                  (int)(answer->child.size < 40 ? answer->child.size : 40), (const char *)answer->child.data, child);
  if (kind < 0)
    return ignore(&t, rule, NULL, err, "the answer %.40s to %.*s means nothing",
                  answer->answer != NULL ? answer->answer : "(none)",
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

/* An earlier one was set in its stead, and comes behind it: in a transaction that ended only after this one was due. It must
 * not be passed over: set again, it would have the same id, and be taken for a repetition. All that is due is over now, too,
 * and the earlier one will be passed over. */
static enum txb_rc skip_to(const struct turn *t, int64_t due_us, struct txb_error *err) {
  bool changed;
  if (due_us > t->moment->now_us)
    return TXB_OK;
  TXB_TRY(tell(t, ENTRY_TIMER, -1, 0, NULL, NULL, NULL, &changed, err));
  last_entry(t->ledger)->timer_us = t->i->timer_us = due_us;
  return TXB_OK;
}

enum txb_rc txb_saga_instance_on_timer(struct txb_saga_instance *instance, int64_t due_us,
                                       const struct txb_saga_moment *moment, struct txb_saga_ledger *ledger,
                                       struct txb_error *err) {
  const struct turn t = {instance, ledger, moment};
  bool changed;
  txb_saga_instance_settle(instance, ledger); /* what came before it in this batch counts */
  if (instance->ended || instance->timer_us == 0 || due_us < instance->timer_us)
    return TXB_OK;
  if (due_us > instance->timer_us)
    TXB_TRY(skip_to(&t, due_us, err));
  if (due_us != instance->timer_us)
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
  const struct turn t = {instance, ledger, moment};
  const char *who = decision->who;
  bool cancels = strcmp(decision->decision, "cancel") == 0, changed = false;
  int event = txb_saga_decision_event(decision->decision), rule = -1;
  if (!cancels && event < 0)
    return ignore(&t, -1, who, err, "the decision %.40s is not known", decision->decision);
  if (instance->ended)
    return ignore(&t, -1, who, err, "the decision %s came after the saga's end", decision->decision);
  if (decision->seen != instance->n)
    return ignore(&t, -1, who, err, "the decision %s was made at entry %" PRId32 "; the saga had gone on to %" PRId32,
                  decision->decision, decision->seen, instance->n);
  if (!cancels) {
    rule = decision->step != NULL ? txb_saga_rule_of(instance->definition, txb_slice_text(decision->step)) : -1;
    if (rule < 0)
      return ignore(&t, -1, who, err, "the decision %s is about %.80s: there is no such step", decision->decision,
                    decision->step != NULL ? decision->step : "no step");
  }
  if (event == TXB_STEP_ON_EDIT && decision->payload == NULL)
    return ignore(&t, rule, who, err, "the decision edit brings no payload");
  if (event == TXB_STEP_ON_EDIT && step_of(instance, rule)->nested != NULL &&
      instance->state.steps[rule].state == TXB_STEP_STUCK_COMPENSATION)
    return ignore(&t, rule, who, err, "a saga is undone by its own steps: edit what those are sent");
  TXB_TRY(tell(&t, cancels ? ENTRY_TURN_BACK : ENTRY_STEP + event, rule, 0, decision->payload, decision->reason, who,
               &changed, err));
  if (changed)
    return TXB_OK;
  if (rule < 0)
    return ignore(&t, -1, who, err, "cancelled too late: the saga is %s, and can't turn back any more",
                  txb_saga_state_name(instance->state.state));
  enum txb_saga_step_state state = instance->state.steps[rule].state;
  return ignore(&t, rule, who, err, "the decision %s does not fit a step that is %s%s", decision->decision,
                txb_saga_step_state_name(state), txb_saga_decision_advice(event, state));
}

/* ---- the timer ---------------------------------------------------------------------------------------------- */

static bool can_turn_back(const struct txb_saga_instance *i) {
  struct txb_saga tried = i->state;
  struct txb_saga_actions ignored;
  return txb_saga_turn_back(&i->definition->rules, &tried, NULL, &ignored);
}

int64_t txb_saga_instance_due(const struct txb_saga_instance *i, int *rule_out) {
  int64_t first = 0;
  *rule_out = -1;
  for (int rule = 0; rule < i->definition->rules.count; rule++)
    if (waits(i->state.steps[rule].state) && i->due_us[rule] != 0 && (first == 0 || i->due_us[rule] < first)) {
      first = i->due_us[rule];
      *rule_out = rule;
    }
  if (i->deadline_us <= i->fired_us || (first != 0 && first <= i->deadline_us) || !can_turn_back(i))
    return first;
  *rule_out = -1;
  return i->deadline_us;
}

void txb_saga_instance_settle(struct txb_saga_instance *instance, struct txb_saga_ledger *ledger) {
  if (instance->last_entry == 0 || instance->ended)
    return;
  int rule;
  int64_t due = txb_saga_instance_due(instance, &rule);
  if (due == 0 || (instance->timer_us != 0 && instance->timer_us <= due))
    return;
  ledger->entries[instance->last_entry - 1].timer_us = instance->timer_us = due;
}
