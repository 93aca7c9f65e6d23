/* What templates and conditions of a saga read: its input and what its steps gave. See expression.h. Pure. */
#include <stdio.h>

#include "broker/saga/instance_internal.h"

/* PostgreSQL's JSON has numbers that this program's has not, and any depth: TXB_REFUSED then, and not a lack of memory. */
static enum txb_rc parse(struct txb_slice text, const char *whose, json_t **out, struct txb_error *err) {
  json_error_t why = {.line = -1};
  json_t *value =
      text.data == NULL ? json_null() : json_loadb(text.data, text.size, JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
  if (value == NULL && (json_error_code(&why) == json_error_out_of_memory || why.text[0] == '\0'))
    return TXB_FAIL(err, TXB_FATAL, "no memory for what a saga knows");
  if (value == NULL)
    return TXB_FAIL(err, TXB_REFUSED, "%s can't be read: %s", whose, why.text);
  *out = value;
  return TXB_OK;
}

static int add_output(json_t *steps, const char *name, json_t *output) {
  json_t *step = json_object();
  int failed = json_object_set_new(step, "output", output);
  return json_object_set_new(steps, name, step) != 0 ? -1 : failed;
}

static enum txb_rc add_outputs(const struct txb_saga_instance *i, json_t *steps, struct txb_error *err) {
  for (int rule = 0; rule < i->definition->count; rule++) {
    char whose[TXB_SAGA_STEP_TEXT_SIZE + 20];
    json_t *output;
    if (i->state.steps[rule].state != TXB_STEP_DONE)
      continue;
    snprintf(whose, sizeof whose, "the output of %s", i->definition->steps[rule].name);
    TXB_TRY(parse(i->outputs[rule], whose, &output, err));
    if (add_output(steps, i->definition->steps[rule].name, output) != 0)
      return TXB_FAIL(err, TXB_FATAL, "no memory for what a saga knows");
  }
  return TXB_OK;
}

static json_t *about(const struct txb_saga_instance *i) {
  char id[37];
  txb_uuid_format(&i->id, id);
  json_t *saga = json_object();
  int failed = json_object_set_new(saga, "id", json_string(id));
  failed |= json_object_set_new(saga, "name", json_string(i->definition->name));
  if (i->key.data != NULL)
    failed |= json_object_set_new(saga, "key", json_stringn(i->key.data, i->key.size));
  if (failed == 0)
    return saga;
  json_decref(saga);
  return NULL;
}

static enum txb_rc fill_context(const struct txb_saga_instance *i, json_t *context, struct txb_error *err) {
  json_t *input, *steps = json_object();
  int failed = json_object_set_new(context, "steps", steps);
  failed |= json_object_set_new(context, "saga", about(i));
  if (failed != 0)
    return TXB_FAIL(err, TXB_FATAL, "no memory for what a saga knows");
  TXB_TRY(add_outputs(i, steps, err));
  TXB_TRY(parse(i->input, "the saga's input", &input, err));
  if (json_object_set_new(context, "input", input) != 0)
    return TXB_FAIL(err, TXB_FATAL, "no memory for what a saga knows");
  return TXB_OK;
}

/* TXB_REFUSED: something of it can't be read. */
enum txb_rc txb_saga_context_make(struct txb_saga_instance *i, struct txb_error *err) {
  if (i->context != NULL)
    return TXB_OK;
  json_t *context = json_object();
  enum txb_rc rc = fill_context(i, context, err);
  if (rc == TXB_OK)
    i->context = context;
  else
    json_decref(context);
  return rc;
}

void txb_saga_context_forget(struct txb_saga_instance *i) {
  json_decref(i->context);
  i->context = NULL;
}
