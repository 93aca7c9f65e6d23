/* Reading a saga's definition: whether it can be run safely. See definition.h. Pure. */
#include <string.h>

#include "broker/saga/definition_internal.h"
#include "broker/saga/expression_path.h"

static uint64_t bit(int n) {
  return UINT64_C(1) << n;
}

static json_t *step_json(const struct txb_saga_reader *r, int step) {
  return json_array_get(json_object_get(r->definition->root, "steps"), (size_t)step);
}

static void enter_step(struct txb_saga_reader *r, int step) {
  txb_saga_enter_key(r, "steps");
  txb_saga_enter_index(r, (size_t)step);
}

static void leave_step(struct txb_saga_reader *r) {
  txb_saga_leave(r);
  txb_saga_leave(r);
}

static const char *nearest_step(const struct txb_saga_reader *r, const char *name, char hint[100]) {
  const char *names[TXB_SAGA_STEPS_MAX];
  size_t count = 0;
  for (int i = 0; i < r->definition->count; i++)
    if (r->definition->steps[i].name != NULL)
      names[count++] = r->definition->steps[i].name;
  return txb_saga_did_you_mean(name, names, count, hint);
}

/* ---- order ------------------------------------------------------------------------------------------------- */

static void check_name(struct txb_saga_reader *r, int step) {
  const char *name = r->definition->steps[step].name;
  int first = name == NULL ? step : txb_saga_definition_step(r->definition, txb_slice_text(name));
  if (first == step)
    return;
  r->graph_broken = true;
  txb_saga_enter_key(r, "name");
  txb_saga_complain(r, "steps[%d] is already named %s; give each step a name of its own", first, name);
  txb_saga_leave(r);
}

static void read_after_name(struct txb_saga_reader *r, int step, const char *name) {
  char hint[100];
  int other = txb_saga_definition_step(r->definition, txb_slice_text(name));
  uint64_t *after = &r->definition->steps[step].after;
  if (other < 0) {
    r->graph_broken = true;
    if (!r->names_broken)
      txb_saga_complain(r, "there is no step \"%.100s\"%s", name, nearest_step(r, name, hint));
  } else if ((*after & bit(other)) != 0) {
    txb_saga_complain(r, "%s stands here twice; once is enough", name);
  } else {
    *after |= bit(other);
  }
}

static void read_after(struct txb_saga_reader *r, int step) {
  const json_t *after = json_object_get(step_json(r, step), "after");
  if (after == NULL) {
    r->definition->steps[step].after = step == 0 ? 0 : bit(step - 1);
    return;
  }
  txb_saga_enter_key(r, "after");
  for (size_t i = 0; i < json_array_size(after); i++) {
    txb_saga_enter_index(r, i);
    if (json_is_string(json_array_get(after, i)))
      read_after_name(r, step, json_string_value(json_array_get(after, i)));
    txb_saga_leave(r);
  }
  txb_saga_leave(r);
}

/* ---- rules ------------------------------------------------------------------------------------------------- */

static enum txb_saga_kind kind_of(enum txb_saga_step_kind kind) {
  switch (kind) {
  case TXB_SAGA_STEP_PIVOT:
    return TXB_SAGA_PIVOT;
  case TXB_SAGA_STEP_RETRIABLE:
    return TXB_SAGA_RETRIABLE;
  case TXB_SAGA_STEP_COMPENSATABLE:
  case TXB_SAGA_STEP_RESERVE:
    break;
  }
  return TXB_SAGA_COMPENSATABLE;
}

/* The rules of the steps themselves; gives what a confirm comes after: all that might still refuse. */
static uint64_t add_actions(struct txb_saga_definition *d) {
  uint64_t may_refuse = 0;
  for (int i = 0; i < d->count; i++) {
    const struct txb_saga_step_definition *s = &d->steps[i];
    d->rule[i] = (struct txb_saga_rule){kind_of(s->kind), s->after, s->retry.attempts};
    d->origin[i] = (struct txb_saga_rule_origin){.step = i};
    may_refuse |= d->rule[i].kind == TXB_SAGA_RETRIABLE ? 0 : bit(i);
  }
  d->rules = (struct txb_saga_rules){.count = d->count, .steps = d->rule};
  return may_refuse;
}

/* False: they are too many. */
static bool add_confirms(struct txb_saga_definition *d, uint64_t after) {
  for (int i = 0; i < d->count; i++) {
    struct txb_saga_step_definition *s = &d->steps[i];
    if (s->kind != TXB_SAGA_STEP_RESERVE)
      continue;
    int rule = d->rules.count;
    if (rule >= TXB_SAGA_STEPS_MAX)
      return false;
    d->rule[rule] = (struct txb_saga_rule){TXB_SAGA_RETRIABLE, after, s->retry.attempts};
    d->origin[rule] = (struct txb_saga_rule_origin){.step = i, .confirm = true};
    s->confirm_rule = rule;
    d->rules.count++;
  }
  return true;
}

static void make_rules(struct txb_saga_reader *r) {
  struct txb_saga_definition *d = r->definition;
  if (!add_confirms(d, add_actions(d))) {
    r->graph_broken = true;
    txb_saga_enter_key(r, "steps");
    txb_saga_complain(r,
                      "more than %d operations: a reserve step counts twice, for its try and its confirm; a step may "
                      "itself be a saga",
                      TXB_SAGA_STEPS_MAX);
    txb_saga_leave(r);
    return;
  }
  int rule;
  const char *problem = txb_saga_rules_prepare(&d->rules, &rule);
  if (problem == NULL)
    return;
  int step = rule < 0 ? 0 : d->origin[rule].step;
  enter_step(r, step);
  txb_saga_complain(r, "step %s %s; change its after or its kind", d->steps[step].name, problem);
  leave_step(r);
}

void txb_saga_read_graph(struct txb_saga_reader *r) {
  for (int i = 0; i < r->definition->count; i++) {
    enter_step(r, i);
    check_name(r, i);
    read_after(r, i);
    leave_step(r);
  }
  if (!r->graph_broken)
    make_rules(r);
}

/* ---- references -------------------------------------------------------------------------------------------- */

enum reader_of { ACTION, UNDO, CONFIRM, OUTPUT, LOCK };

/* Who reads. */
struct use {
  struct txb_saga_reader *r;
  enum reader_of of;
  int step; /* -1: none, for OUTPUT and LOCK */
};

static enum txb_rc refuse_own_output(const struct txb_saga_reference *ref, struct txb_error *err) {
  return TXB_FAIL(
      err, TXB_REFUSED,
      "%.*s is what the step itself gives: its participant's barrier hands it to the handler that undoes it; "
      "leave it out",
      txb_saga_path_shown(ref), (const char *)ref->path.data);
}

/* Whether what is read is there by then: its step is before the reader, near or far. */
static enum txb_rc check_order(const struct use *use, const struct txb_saga_reference *ref, int other,
                               struct txb_error *err) {
  const struct txb_saga_definition *d = use->r->definition;
  if (use->of == OUTPUT)
    return TXB_OK;
  const struct txb_saga_step_definition *step = &d->steps[use->step];
  int rule = use->of == CONFIRM ? step->confirm_rule : use->step;
  if ((d->rules.before[rule] & bit(other)) != 0)
    return TXB_OK;
  if (other == use->step)
    return TXB_FAIL(err, TXB_REFUSED, "%.*s is what step %s itself gives, which is not there before it ran",
                    txb_saga_path_shown(ref), (const char *)ref->path.data, step->name);
  return TXB_FAIL(err, TXB_REFUSED, "%.*s: step %s is not before step %s; name it in after of %s",
                  txb_saga_path_shown(ref), (const char *)ref->path.data, d->steps[other].name, step->name, step->name);
}

static enum txb_rc check_step_reference(const struct use *use, const struct txb_saga_reference *ref, int other,
                                        struct txb_error *err) {
  const struct txb_saga_step_definition *given = &use->r->definition->steps[other];
  if (use->of == UNDO && other == use->step)
    return refuse_own_output(ref, err);
  if (use->r->graph_broken)
    return TXB_OK;
  TXB_TRY(check_order(use, ref, other, err));
  /* A confirm is run only if its try was. */
  bool may_be_skipped = given->when != NULL && other != use->step;
  if (may_be_skipped && !ref->optional)
    return TXB_FAIL(err, TXB_REFUSED, "%.*s: step %s has a when, and may be skipped; write %.*s?",
                    txb_saga_path_shown(ref), (const char *)ref->path.data, given->name, txb_saga_path_shown(ref),
                    (const char *)ref->path.data);
  return TXB_OK;
}

static enum txb_rc refuse_unknown(const struct use *use, const struct txb_saga_reference *ref, struct txb_error *err) {
  char name[TXB_SAGA_NAME_SIZE_MAX + 1], hint[100];
  size_t size = ref->step.size < sizeof name ? ref->step.size : sizeof name - 1;
  memcpy(name, ref->step.data, size);
  name[size] = '\0';
  return TXB_FAIL(err, TXB_REFUSED, "%.*s: there is no step \"%s\"%s", txb_saga_path_shown(ref),
                  (const char *)ref->path.data, name, nearest_step(use->r, name, hint));
}

/* Past the pivot, and on the way back, a command that can't be made leaves the saga stuck: nothing else can be done in its place.
 * Any other step is refused then, and the saga turns back. */
static bool must_be_made(const struct use *use) {
  switch (use->of) {
  case UNDO:
  case CONFIRM:
    return true;
  case ACTION:
    return use->r->definition->steps[use->step].kind == TXB_SAGA_STEP_RETRIABLE;
  case OUTPUT:
  case LOCK:
    break;
  }
  return false;
}

/* What a saga has from its start: whether it is sure to be there. */
static enum txb_rc check_start(const struct use *use, const struct txb_saga_reference *ref, struct txb_error *err) {
  char why[TXB_SAGA_WHY_SIZE];
  if (!use->r->is_new || ref->optional || ref->tested || !must_be_made(use))
    return TXB_OK;
  int size = txb_saga_path_shown(ref);
  const char *path = (const char *)ref->path.data;
  if (ref->root == TXB_SAGA_FROM_INPUT && !txb_saga_input_has(use->r->definition->input, ref, why))
    return TXB_FAIL(
        err, TXB_REFUSED,
        "%.*s may be absent (%s), and the saga would be stuck here, where it can't go back; make it required "
        "in the schema of the input, or write %.*s?",
        size, path, why, size, path);
  if (ref->root == TXB_SAGA_FROM_SAGA && txb_slice_equal(ref->path, txb_slice_text("saga.key")))
    return TXB_FAIL(
        err, TXB_REFUSED,
        "saga.key may be absent (a saga may be started without one), and the saga would be stuck here, where "
        "it can't go back; write saga.key?");
  return TXB_OK;
}

static enum txb_rc check_reference(void *arg, const struct txb_saga_reference *ref, struct txb_error *err) {
  const struct use *use = arg;
  if (ref->root != TXB_SAGA_FROM_STEP)
    return check_start(use, ref, err);
  if (use->of == LOCK)
    return TXB_FAIL(err, TXB_REFUSED, "%.*s: locks are taken at the start, before any step; read input or saga",
                    txb_saga_path_shown(ref), (const char *)ref->path.data);
  int other = txb_saga_definition_step(use->r->definition, ref->step);
  if (other >= 0)
    return check_step_reference(use, ref, other, err);
  return use->r->names_broken ? TXB_OK : refuse_unknown(use, ref, err);
}

static void check_template(struct use *use, json_t *template);

static void check_members(struct use *use, json_t *template) {
  const char *name;
  json_t *member;
  json_object_foreach(template, name, member) {
    txb_saga_enter_key(use->r, name);
    check_template(use, member);
    txb_saga_leave(use->r);
  }
  for (size_t i = 0; i < json_array_size(template); i++) {
    txb_saga_enter_index(use->r, i);
    check_template(use, json_array_get(template, i));
    txb_saga_leave(use->r);
  }
}

static void check_template(struct use *use, json_t *template) {
  struct txb_error err;
  if (json_is_string(template)) {
    if (txb_saga_template_check(json_string_value(template), check_reference, use, &err) != TXB_OK)
      txb_saga_complain(use->r, "%s", err.message);
  } else if ((json_is_object(template) || json_is_array(template)) && use->r->depth >= TXB_SAGA_PATH_MAX) {
    txb_saga_complain(use->r, "nested too deep; a definition has at most %d levels", TXB_SAGA_PATH_MAX);
  } else {
    check_members(use, template);
  }
}

/* The template that stands under these keys, if there is one. */
static void check_input(struct use *use, const char *of, json_t *object, const char *key) {
  json_t *operation = of == NULL ? object : json_object_get(object, of);
  json_t *template = json_object_get(operation, key);
  if (template == NULL)
    return;
  if (of != NULL)
    txb_saga_enter_key(use->r, of);
  txb_saga_enter_key(use->r, key);
  check_template(use, template);
  txb_saga_leave(use->r);
  if (of != NULL)
    txb_saga_leave(use->r);
}

static void check_condition(struct use *use) {
  const char *when = use->r->definition->steps[use->step].when;
  struct txb_error err;
  if (when == NULL || txb_saga_condition_check(when, check_reference, use, &err) == TXB_OK)
    return;
  txb_saga_enter_key(use->r, "when");
  txb_saga_complain(use->r, "%s", err.message);
  txb_saga_leave(use->r);
}

static void check_step(struct txb_saga_reader *r, int step) {
  struct use action = {r, ACTION, step}, undo = {r, UNDO, step}, confirm = {r, CONFIRM, step};
  json_t *object = step_json(r, step);
  enter_step(r, step);
  check_condition(&action);
  check_input(&action, NULL, object, "input");
  check_input(&undo, "compensation", object, "input");
  check_input(&undo, "cancel", object, "input");
  check_input(&confirm, "confirm", object, "input");
  leave_step(r);
}

void txb_saga_read_references(struct txb_saga_reader *r) {
  struct use output = {r, OUTPUT, -1}, lock = {r, LOCK, -1};
  for (int i = 0; i < r->definition->count; i++)
    check_step(r, i);
  check_input(&output, NULL, r->definition->root, "output");
  check_input(&lock, NULL, r->definition->root, "locks");
}
