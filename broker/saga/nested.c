/* See nested.h. Pure. */
#include "broker/saga/nested.h"

#include <inttypes.h>
#include <stdio.h>

#include "broker/saga/expression.h"
#include "broker/saga/instance_internal.h"
#include "common/buffer.h"

bool txb_saga_has_nested(const struct txb_saga_definition *definition) {
  for (int i = 0; i < definition->count; i++)
    if (definition->steps[i].nested != NULL)
      return true;
  return false;
}

const char *txb_saga_nested_type(enum txb_saga_operation_kind operation) {
  static const char *const types[TXB_SAGA_OPERATIONS] = {"txb.saga.start", "txb.saga.start", "txb.saga.settle",
                                                         "txb.saga.undo"};
  return types[operation];
}

/* ---- who is whose ------------------------------------------------------------------------------------------- */

void txb_saga_child_of(const struct txb_saga_instance *instance, int rule, struct txb_uuid *out) {
  char step[TXB_SAGA_STEP_TEXT_SIZE], nth[12];
  txb_saga_rule_text(instance->definition, rule, step);
  snprintf(nth, sizeof nth, "%" PRId32, instance->refusals[rule]);
  const struct txb_slice parts[] = {txb_slice_text("txb.saga.child"),
                                    txb_slice_of(instance->id.bytes, sizeof instance->id.bytes), txb_slice_text(step),
                                    txb_slice_text(nth)};
  txb_uuid_v7_derive(instance->started_us, parts, TXB_ARRAY_SIZE(parts), out);
}

static bool read_id(const json_t *object, const char *name, struct txb_uuid *out) {
  const char *text = json_string_value(json_object_get(object, name));
  return text != NULL && txb_uuid_parse(txb_slice_text(text), out, NULL) == TXB_OK;
}

static bool read_operation(const json_t *object, enum txb_saga_operation_kind *out) {
  const char *text = json_string_value(json_object_get(object, "operation"));
  for (int k = 0; text != NULL && k < TXB_SAGA_OPERATIONS; k++) {
    *out = (enum txb_saga_operation_kind)k;
    if (strcmp(text, txb_saga_operation_name(*out)) == 0)
      return true;
  }
  return false;
}

/* Names of steps are small letters, digits, '_' and '-', so that they stand in headers as they are. */
static bool is_step(const char *text) {
  size_t size = text == NULL ? 0 : strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_-");
  return size > 0 && size <= TXB_SAGA_NAME_SIZE_MAX && text[size] == '\0';
}

bool txb_saga_parent_read(const json_t *object, struct txb_saga_parent *out) {
  struct txb_saga_parent p = {.sending = 0};
  const json_t *started = json_object_get(object, "started"), *sending = json_object_get(object, "sending");
  const char *step = json_string_value(json_object_get(object, "step"));
  json_int_t n = json_integer_value(sending);
  if (!read_id(object, "saga", &p.saga) || !read_id(object, "root", &p.root) || !read_operation(object, &p.operation))
    return false;
  if (!is_step(step) || !json_is_integer(started) || json_integer_value(started) < 0 || n < 1 || n > INT32_MAX)
    return false;
  snprintf(p.step, sizeof p.step, "%s", step);
  p.started_us = json_integer_value(started);
  p.sending = (int32_t)n;
  *out = p;
  return true;
}

enum txb_rc txb_saga_definition_pin(struct txb_saga_definition *definition, const json_t *pins, struct txb_error *err) {
  for (int i = 0; i < definition->count; i++) {
    struct txb_saga_step_definition *s = &definition->steps[i];
    if (s->nested == NULL)
      continue;
    json_int_t version = json_integer_value(json_object_get(json_object_get(pins, s->name), "version"));
    if (version < 1 || version > INT32_MAX)
      return TXB_FAIL(err, TXB_REFUSED,
                      "version %" PRId32 " of saga %s: which version of saga %s its step %s is was not kept",
                      definition->version, definition->name, s->nested, s->name);
    s->nested_version = (int32_t)version;
  }
  return TXB_OK;
}

/* ---- the parent ---------------------------------------------------------------------------------------- */

static json_t *reference(const struct txb_saga_instance *i, int rule, enum txb_saga_operation_kind operation,
                         int32_t sending) {
  char id[37], root[37], step[TXB_SAGA_STEP_TEXT_SIZE];
  txb_uuid_format(&i->id, id);
  txb_uuid_format(i->parent != NULL ? &i->parent->root : &i->id, root);
  txb_saga_rule_text(i->definition, rule, step);
  return json_pack("{s:s, s:I, s:s, s:s, s:i, s:s}", "saga", id, "started", (json_int_t)i->started_us, "step", step,
                   "operation", txb_saga_operation_name(operation), "sending", (int)sending, "root", root);
}

void txb_saga_nested_refused(struct txb_saga_instance *i, int rule) {
  bool planted = i->bugs != NULL && i->bugs->child_again;
  i->refusals[rule] += !planted && i->definition->rules.steps[rule].kind == TXB_SAGA_RETRIABLE;
}

void txb_saga_nested_address(const struct txb_saga_instance *i, int rule, struct txb_saga_command *command) {
  command->nested = true;
  command->topic = i->topic;
  command->type = txb_saga_nested_type(command->operation);
  txb_saga_child_of(i, rule, &command->child);
}

static const struct txb_saga_step_definition *step_of(const struct txb_saga_instance *i, int rule) {
  return &i->definition->steps[i->definition->origin[rule].step];
}

static enum txb_rc make_input(struct txb_saga_instance *i, int rule, json_t **out, struct txb_error *err) {
  const json_t *template = step_of(i, rule)->action.input;
  const struct txb_slice edited = i->edited[rule];
  if (edited.data != NULL) {
    *out = json_loadb(edited.data, edited.size, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    return *out != NULL ? TXB_OK : TXB_FAIL(err, TXB_FATAL, "no memory for a command to a nested saga");
  }
  TXB_TRY(txb_saga_context_make(i, err));
  if (template != NULL)
    return txb_saga_template_fill(template, i->context, out, err);
  *out = json_incref(json_object_get(i->context, "input"));
  return TXB_OK;
}

/* An input is told when it is to begin; all else even where that was lost. */
enum txb_rc txb_saga_nested_payload(struct txb_saga_instance *i, const struct txb_saga_action *a,
                                    enum txb_saga_operation_kind operation, struct txb_saga_ledger *ledger,
                                    struct txb_slice *out, struct txb_error *err) {
  const struct txb_saga_step_definition *s = step_of(i, a->step);
  json_t *input = NULL;
  if (a->kind == TXB_SAGA_SEND_ACTION)
    TXB_TRY(make_input(i, a->step, &input, err));
  json_t *body = json_pack("{s:s, s:i, s:o*, s:o*}", "name", s->nested, "version", (int)s->nested_version, "parent",
                           reference(i, a->step, operation, a->sending), "input", input);
  bool failed = json_object_get(body, "parent") == NULL;
  enum txb_rc rc = failed ? TXB_FAIL(err, TXB_FATAL, "no memory for a command to a nested saga")
                          : txb_saga_keep_json(ledger, body, out, err);
  json_decref(body);
  return rc;
}

bool txb_saga_nested_is_from(const struct txb_saga_instance *i, int rule, const struct txb_saga_answer *answer,
                             char child_out[37]) {
  struct txb_uuid child;
  txb_saga_child_of(i, rule, &child);
  txb_uuid_format(&child, child_out);
  bool planted = i->bugs != NULL && i->bugs->child_unchecked;
  return planted || txb_slice_equal(answer->child, txb_slice_text(child_out));
}

/* ---- what a child says ----------------------------------------------------------------------------------------- */

enum txb_rc txb_saga_said_make(struct txb_saga_said *said, const char *reason, struct txb_saga_ledger *l,
                               struct txb_error *err) {
  struct txb_buffer b TXB_CLEANUP(txb_buffer_fini);
  txb_buffer_init(&b);
  txb_buffer_addf(&b, "{\"answer\":\"%s\"", said->answer);
  if (said->output.data != NULL) {
    txb_buffer_add_text(&b, ",\"output\":");
    txb_buffer_add(&b, said->output.data, said->output.size);
  }
  if (reason != NULL) {
    txb_buffer_add_text(&b, ",\"reason\":");
    txb_buffer_add_json(&b, txb_slice_text(reason));
  }
  txb_buffer_add_text(&b, "}");
  TXB_TRY(txb_buffer_check(&b, err));
  return txb_saga_keep_bytes(l, txb_slice_of(b.data, b.size), &said->payload, err);
}

static enum txb_rc add_said(struct txb_saga_ledger *l, const struct txb_saga_said *said, const char *reason,
                            struct txb_error *err) {
  if (l->said_count == l->said_room) {
    size_t room = l->said_room == 0 ? 16 : 2 * l->said_room;
    TXB_TRY(txb_regrow_array(&l->said, room, sizeof *l->said, err));
    l->said_room = room;
  }
  l->said[l->said_count] = *said;
  TXB_TRY(txb_saga_said_make(&l->said[l->said_count], reason, l, err));
  l->said_count++;
  return TXB_OK;
}

/* Planted bugs say what is not so. */
static bool is_completed(const struct txb_saga_instance *i, bool of_undo) {
  if (i->bugs != NULL && i->bugs->child_undo_unheard && of_undo)
    return false;
  return i->state.state == TXB_SAGA_COMPLETED || (i->bugs != NULL && i->bugs->child_says_early && !i->ended);
}

/* Whoever leaves out what is tried until it succeeds asks whether it ever will: a refusal by itself might be tried again. */
static const char *no_effect(const struct txb_saga_instance *i, enum txb_saga_operation_kind operation) {
  bool left_out = operation == TXB_SAGA_OPERATION_RESOLVE && i->parent->operation == TXB_SAGA_OPERATION_FORWARD;
  return left_out ? "never" : "refused";
}

static enum txb_rc say(const struct txb_saga_instance *i, enum txb_saga_operation_kind operation, int32_t sending,
                       struct txb_saga_ledger *ledger, struct txb_error *err) {
  bool of_undo = operation == TXB_SAGA_OPERATION_COMPENSATION, completed = is_completed(i, of_undo);
  struct txb_saga_said said = {.instance = i, .operation = operation, .sending = sending};
  const char *reason = i->reason;
  if (of_undo)
    said.answer = completed ? "failed" : "compensated";
  else if (completed)
    said.answer = "ok";
  else
    said.answer = i->undo_asked ? "compensated" : no_effect(i, operation);
  if (of_undo && completed)
    reason = "it is completed, and has a step that can't be undone";
  if (completed && !of_undo)
    said.output = i->output;
  return add_said(ledger, &said, reason, err);
}

enum txb_rc txb_saga_say_end(const struct txb_saga_instance *i, struct txb_saga_ledger *ledger, struct txb_error *err) {
  if (i->undo_asked)
    return say(i, TXB_SAGA_OPERATION_COMPENSATION, i->undo_sending, ledger, err);
  if (i->settle_sending > 0)
    return say(i, TXB_SAGA_OPERATION_RESOLVE, i->settle_sending, ledger, err);
  return say(i, i->parent->operation, i->parent->sending, ledger, err);
}

enum txb_rc txb_saga_say_never(const struct txb_saga_instance *i, const struct txb_saga_parent *asked,
                               const char *reason, struct txb_saga_ledger *ledger, struct txb_error *err) {
  struct txb_saga_said said = {.instance = i, .operation = asked->operation, .sending = asked->sending};
  bool unheard_of = i->parent->operation == TXB_SAGA_OPERATION_RESOLVE ||
                    i->parent->operation == TXB_SAGA_OPERATION_COMPENSATION; /* before its start came */
  if (asked->operation == TXB_SAGA_OPERATION_COMPENSATION)
    said.answer = "compensated";
  else
    said.answer =
        asked->operation == TXB_SAGA_OPERATION_RESOLVE && unheard_of ? "never" : no_effect(i, asked->operation);
  return add_said(ledger, &said, reason, err);
}

/* ---- what a child is told ------------------------------------------------------------------------------------ */

/* One that is completed goes back from its end, one that is under way turns back; one that can't do either goes on, and its end
 * tells. */
bool txb_saga_nested_undo(struct txb_saga_instance *i, int32_t sending, struct txb_saga_actions *actions) {
  const struct txb_saga_rules *rules = &i->definition->rules;
  if (i->undo_asked)
    return false;
  i->undo_asked = true;
  i->undo_sending = sending;
  if (!txb_saga_undo(rules, &i->state, i->bugs, actions)) {
    (void)txb_saga_turn_back(rules, &i->state, i->bugs, actions);
    return true;
  }
  i->ended = false;
  i->timer_us = 0; /* it was taken back at the end */
  return true;
}

/* What is under way turns back where it can; its end tells what became of it. */
static enum txb_rc settle(struct txb_saga_instance *i, int32_t sending, const struct txb_saga_moment *moment,
                          struct txb_saga_ledger *ledger, struct txb_error *err) {
  char reason[120];
  bool changed;
  if (i->ended)
    return TXB_OK;
  TXB_TRY(txb_saga_tell(i, "turn_back", sending, "its parent asks to settle", moment, ledger, &changed, err));
  if (changed)
    return TXB_OK;
  snprintf(reason, sizeof reason, "its parent asks to settle: it is %s, and goes on to its end",
           txb_saga_state_name(i->state.state));
  return txb_saga_ignore(i, reason, moment, ledger, err);
}

static enum txb_rc undo(struct txb_saga_instance *i, int32_t sending, const struct txb_saga_moment *moment,
                        struct txb_saga_ledger *ledger, struct txb_error *err) {
  char reason[120];
  bool changed, planted = i->bugs != NULL && i->bugs->child_undo_unheard;
  if (i->ended && (planted || i->state.state == TXB_SAGA_COMPENSATED))
    return TXB_OK;
  TXB_TRY(txb_saga_tell(i, "undo", sending, "its parent undoes it", moment, ledger, &changed, err));
  if (changed || i->ended)
    return TXB_OK;
  snprintf(reason, sizeof reason, "its parent undoes it again: it is %s already", txb_saga_state_name(i->state.state));
  return txb_saga_ignore(i, reason, moment, ledger, err);
}

enum txb_rc txb_saga_instance_on_parent(struct txb_saga_instance *instance, enum txb_saga_operation_kind operation,
                                        int32_t sending, const struct txb_saga_moment *moment,
                                        struct txb_saga_ledger *ledger, struct txb_error *err) {
  int32_t ends = instance->ends;
  bool early = instance->bugs != NULL && instance->bugs->child_says_early;
  TXB_ASSERT(instance->parent != NULL);
  switch (operation) {
  case TXB_SAGA_OPERATION_ACTION:
  case TXB_SAGA_OPERATION_FORWARD:
    TXB_TRY(txb_saga_instance_on_start(instance, moment, ledger, err));
    break;
  case TXB_SAGA_OPERATION_RESOLVE:
    TXB_TRY(settle(instance, sending, moment, ledger, err));
    break;
  case TXB_SAGA_OPERATION_COMPENSATION:
    TXB_TRY(undo(instance, sending, moment, ledger, err));
    break;
  }
  if ((instance->ended || early) && instance->ends == ends) /* an end that has just come has told itself */
    return say(instance, operation, sending, ledger, err);
  return TXB_OK;
}
