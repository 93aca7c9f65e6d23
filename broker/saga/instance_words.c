/* Names: of operations, of rules, of timers; what a person's decision means, and what is told about a saga. See instance.h.
 * Pure. */
#include <stdio.h>

#include "broker/saga/instance_internal.h"

#define CONFIRM "/confirm"

const char *txb_saga_operation_name(enum txb_saga_operation_kind kind) {
  static const char *const names[TXB_SAGA_OPERATIONS] = {"action", "forward", "resolve", "compensation"};
  return names[kind];
}

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

void txb_saga_timer_id(const struct txb_uuid *saga, int64_t due_us, struct txb_uuid *out) {
  const struct txb_slice parts[] = {txb_slice_text("txb.saga.timer"), txb_slice_of(saga->bytes, sizeof saga->bytes)};
  txb_uuid_v7_derive(due_us, parts, TXB_ARRAY_SIZE(parts), out);
}

int txb_saga_decision_event(const char *decision) {
  static const struct {
    const char *decision;
    enum txb_saga_step_event event;
  } events[] = {{"retry", TXB_STEP_ON_RETRY},
                {"edit", TXB_STEP_ON_EDIT},
                {"skip", TXB_STEP_ON_LEAVE},
                {"mark_done", TXB_STEP_ON_MARK_DONE},
                {"mark_undone", TXB_STEP_ON_MARK_UNDONE}};
  for (size_t n = 0; n < TXB_ARRAY_SIZE(events); n++)
    if (strcmp(events[n].decision, decision) == 0)
      return (int)events[n].event;
  return -1;
}

const char *txb_saga_decision_advice(int event, enum txb_saga_step_state state) {
  if (state == TXB_STEP_STUCK_SETTLING && event == TXB_STEP_ON_LEAVE)
    return ": whether it took effect is not known; mark says what became of it";
  if (state == TXB_STEP_STUCK_SETTLING && event == TXB_STEP_ON_EDIT)
    return ": its participant is asked what became of it, and told nothing else";
  return "";
}

static void add_left(const struct txb_saga_instance *i, char *text, size_t size) {
  char step[TXB_SAGA_STEP_TEXT_SIZE];
  for (int rule = 0; rule < i->definition->rules.count; rule++) {
    size_t used = strlen(text);
    if ((i->left & (UINT64_C(1) << rule)) == 0)
      continue;
    txb_saga_rule_text(i->definition, rule, step);
    snprintf(text + used, size - used, "%sthe effect of %s was let stand", used > 0 ? "; " : "", step);
  }
}

void txb_saga_why_compensated(const struct txb_saga_instance *instance, char *out, size_t size) {
  char step[TXB_SAGA_STEP_TEXT_SIZE] = "";
  out[0] = '\0';
  if (instance->turned_rule >= 0)
    txb_saga_rule_text(instance->definition, instance->turned_rule, step);
  if (instance->turned_why != NULL)
    snprintf(out, size, "%s%s%.500s", step, step[0] != '\0' ? ": " : "", instance->turned_why);
  add_left(instance, out, size);
}
