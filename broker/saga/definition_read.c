/* Reading a saga's definition: each object's keys, from tables. See definition.h. Pure. */
#include <stdint.h>
#include <string.h>

#include "broker/saga/definition_internal.h"
#include "common/event.h"
#include "common/settings.h"

#define TIMEOUT_MS        (60 * 1000)
#define RETRY_ATTEMPTS    5
#define RETRY_FACTOR      2
#define RETRY_FIRST_MS    200
#define RETRY_CAP_MS      (60 * 1000)
#define ATTEMPTS_MAX      1000
#define FACTOR_MAX        10
#define DURATION_ACCEPTED "must be a duration above 0 and at most 365d, such as \"1500ms\", \"30s\" or \"5m\""

struct key {
  const char *name;
  bool required;
  void (*read)(struct txb_saga_reader *r, json_t *value);
};
enum { KEYS_MAX = 16 };

/* ---- objects ----------------------------------------------------------------------------------------------- */

static void complain_unknown(struct txb_saga_reader *r, const char *name, const struct key *keys, size_t count) {
  const char *names[KEYS_MAX];
  char hint[100];
  TXB_ASSERT(count <= KEYS_MAX);
  for (size_t i = 0; i < count; i++)
    names[i] = keys[i].name;
  (void)txb_saga_did_you_mean(name, names, count, hint);
  txb_saga_complain(r, "unknown key \"%.100s\"%s", name, *hint != '\0' ? hint : "; leave it out");
}

static void read_object(struct txb_saga_reader *r, json_t *object, const struct key *keys, size_t count) {
  if (!json_is_object(object)) {
    txb_saga_complain(r, "must be an object, not %s", txb_json_kind_name(object));
    return;
  }
  const char *name;
  json_t *value;
  json_object_foreach(object, name, value) {
    size_t i = 0;
    while (i < count && strcmp(keys[i].name, name) != 0)
      i++;
    txb_saga_enter_key(r, name);
    if (i == count)
      complain_unknown(r, name, keys, count);
    else
      keys[i].read(r, value);
    txb_saga_leave(r);
  }
  for (size_t i = 0; i < count; i++)
    if (keys[i].required && json_object_get(object, keys[i].name) == NULL)
      txb_saga_complain(r, "%s is missing", keys[i].name);
}

/* ---- values ------------------------------------------------------------------------------------------------ */

static const char *read_text(struct txb_saga_reader *r, const json_t *value) {
  if (json_is_string(value))
    return json_string_value(value);
  txb_saga_complain(r, "must be a string, not %s", txb_json_kind_name(value));
  return NULL;
}

static const char *read_name(struct txb_saga_reader *r, const json_t *value) {
  const char *text = read_text(r, value);
  if (text == NULL)
    return NULL;
  bool fits = *text >= 'a' && *text <= 'z' && strlen(text) <= TXB_SAGA_NAME_SIZE_MAX &&
              text[strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_-")] == '\0';
  if (!fits)
    txb_saga_complain(r, "must begin with a small letter and have at most %d small letters, digits, '_' and '-'",
                      TXB_SAGA_NAME_SIZE_MAX);
  return fits ? text : NULL;
}

static const char *read_topic(struct txb_saga_reader *r, const json_t *value) {
  const char *text = read_text(r, value), *problem = text == NULL ? NULL : txb_topic_name_problem(text);
  if (problem != NULL)
    txb_saga_complain(r, "the name of a topic %s", problem);
  return text;
}

static const char *read_type(struct txb_saga_reader *r, const json_t *value) {
  const char *text = read_text(r, value);
  if (text != NULL && (*text == '\0' || strlen(text) > TXB_TYPE_SIZE_MAX))
    txb_saga_complain(r, "the type of a command must have 1 to %d bytes", TXB_TYPE_SIZE_MAX);
  return text;
}

static int64_t read_integer(struct txb_saga_reader *r, const json_t *value, int64_t max) {
  if (json_is_integer(value) && json_integer_value(value) >= 1 && json_integer_value(value) <= max)
    return json_integer_value(value);
  txb_saga_complain(r, "must be a whole number from 1 to %lld", (long long)max);
  return 1;
}

static int64_t read_duration(struct txb_saga_reader *r, const json_t *value) {
  int64_t ms = 1;
  if (!json_is_string(value) || !txb_saga_duration_parse(json_string_value(value), &ms))
    txb_saga_complain(r, DURATION_ACCEPTED);
  return ms;
}

static const json_t *read_schema(struct txb_saga_reader *r, const json_t *value) {
  if (!json_is_object(value))
    txb_saga_complain(r, "must be a JSON Schema, an object, not %s", txb_json_kind_name(value));
  return value;
}

/* ---- operations -------------------------------------------------------------------------------------------- */

static void operation_type(struct txb_saga_reader *r, json_t *value) {
  r->operation->type = read_type(r, value);
}

static void operation_input(struct txb_saga_reader *r, json_t *value) {
  r->operation->input = value;
}

static const struct key operation_keys[] = {{"type", true, operation_type}, {"input", false, operation_input}};

static void read_operation(struct txb_saga_reader *r, json_t *value, struct txb_saga_operation *out) {
  r->operation = out;
  read_object(r, value, operation_keys, TXB_ARRAY_SIZE(operation_keys));
}

/* ---- retry ------------------------------------------------------------------------------------------------- */

static void retry_attempts(struct txb_saga_reader *r, json_t *value) {
  r->step->retry.attempts = (int32_t)read_integer(r, value, ATTEMPTS_MAX);
}

static void retry_first(struct txb_saga_reader *r, json_t *value) {
  r->step->retry.first_ms = read_duration(r, value);
}

static void retry_factor(struct txb_saga_reader *r, json_t *value) {
  r->step->retry.factor = (int32_t)read_integer(r, value, FACTOR_MAX);
}

static void retry_cap(struct txb_saga_reader *r, json_t *value) {
  r->step->retry.cap_ms = read_duration(r, value);
}

static const struct key retry_keys[] = {{"attempts", false, retry_attempts},
                                        {"first", false, retry_first},
                                        {"factor", false, retry_factor},
                                        {"cap", false, retry_cap}};

/* ---- nested sagas ------------------------------------------------------------------------------------------ */

static void nested_name(struct txb_saga_reader *r, json_t *value) {
  r->step->nested = read_name(r, value);
}

static void nested_version(struct txb_saga_reader *r, json_t *value) {
  r->step->nested_version = (int32_t)read_integer(r, value, INT32_MAX);
}

static const struct key nested_keys[] = {{"name", true, nested_name}, {"version", false, nested_version}};

/* ---- steps ------------------------------------------------------------------------------------------------- */

static void step_name(struct txb_saga_reader *r, json_t *value) {
  r->step->name = read_name(r, value);
}

static void step_topic(struct txb_saga_reader *r, json_t *value) {
  r->step->topic = read_topic(r, value);
}

static void step_type(struct txb_saga_reader *r, json_t *value) {
  r->step->action.type = read_type(r, value);
}

static void step_kind(struct txb_saga_reader *r, json_t *value) {
  const char *text = read_text(r, value), *names[TXB_SAGA_STEP_KINDS];
  char hint[100];
  for (int kind = 0; kind < TXB_SAGA_STEP_KINDS; kind++) {
    names[kind] = txb_saga_step_kind_name((enum txb_saga_step_kind)kind);
    if (text != NULL && strcmp(names[kind], text) == 0) {
      r->step->kind = (enum txb_saga_step_kind)kind;
      r->kinds_known |= UINT64_C(1) << (r->step - r->definition->steps);
      return;
    }
  }
  if (text != NULL)
    txb_saga_complain(r, "must be compensatable, pivot, retriable or reserve%s",
                      txb_saga_did_you_mean(text, names, TXB_SAGA_STEP_KINDS, hint));
}

static void step_after(struct txb_saga_reader *r, json_t *value) {
  if (!json_is_array(value)) {
    r->graph_broken = true;
    txb_saga_complain(r, "must be an array of steps' names, not %s; [] is from the start", txb_json_kind_name(value));
  }
  for (size_t i = 0; i < json_array_size(value); i++) {
    txb_saga_enter_index(r, i);
    r->graph_broken |= read_text(r, json_array_get(value, i)) == NULL;
    txb_saga_leave(r);
  }
}

static void step_when(struct txb_saga_reader *r, json_t *value) {
  r->step->when = read_text(r, value);
}

static void step_input(struct txb_saga_reader *r, json_t *value) {
  r->step->action.input = value;
}

static void step_timeout(struct txb_saga_reader *r, json_t *value) {
  r->step->timeout_ms = read_duration(r, value);
}

static void step_retry(struct txb_saga_reader *r, json_t *value) {
  struct txb_saga_retry *retry = &r->step->retry;
  int problems = r->problems;
  read_object(r, value, retry_keys, TXB_ARRAY_SIZE(retry_keys));
  if (json_object_get(value, "cap") == NULL && retry->first_ms > retry->cap_ms)
    retry->cap_ms = retry->first_ms;
  if (r->problems == problems && retry->first_ms > retry->cap_ms)
    txb_saga_complain(r, "first is longer than cap");
}

static void step_compensation(struct txb_saga_reader *r, json_t *value) {
  read_operation(r, value, &r->step->undo);
}

static void step_confirm(struct txb_saga_reader *r, json_t *value) {
  read_operation(r, value, &r->step->confirm);
}

static void step_saga(struct txb_saga_reader *r, json_t *value) {
  read_object(r, value, nested_keys, TXB_ARRAY_SIZE(nested_keys));
}

static const struct key step_keys[] = {
    {"name", true, step_name},        {"topic", false, step_topic},
    {"type", false, step_type},       {"kind", true, step_kind},
    {"after", false, step_after},     {"when", false, step_when},
    {"input", false, step_input},     {"timeout", false, step_timeout},
    {"retry", false, step_retry},     {"compensation", false, step_compensation},
    {"confirm", false, step_confirm}, {"cancel", false, step_compensation},
    {"saga", false, step_saga},
};

/* What each kind of step needs, and why it may not have the others; NULL: it may have it. */
static const struct {
  const char *key;
  bool needed[TXB_SAGA_STEP_KINDS];
  const char *superfluous[TXB_SAGA_STEP_KINDS];
} of_kinds[] = {
    {"compensation",
     {[TXB_SAGA_STEP_COMPENSATABLE] = true},
     {[TXB_SAGA_STEP_PIVOT] = "behind a pivot there is no way back: leave it out, or make the step compensatable",
      [TXB_SAGA_STEP_RETRIABLE] = "a retriable step is never undone: leave it out, or make the step compensatable",
      [TXB_SAGA_STEP_RESERVE] = "a reserve step is undone by its cancel: leave it out"}},
    {"confirm",
     {[TXB_SAGA_STEP_RESERVE] = true},
     {[TXB_SAGA_STEP_COMPENSATABLE] = "only a reserve step is confirmed: leave it out, or make the step reserve",
      [TXB_SAGA_STEP_PIVOT] = "only a reserve step is confirmed: leave it out",
      [TXB_SAGA_STEP_RETRIABLE] = "only a reserve step is confirmed: leave it out"}},
    {"cancel",
     {[TXB_SAGA_STEP_RESERVE] = true},
     {[TXB_SAGA_STEP_COMPENSATABLE] = "only a reserve step is cancelled: name it compensation",
      [TXB_SAGA_STEP_PIVOT] = "only a reserve step is cancelled: leave it out",
      [TXB_SAGA_STEP_RETRIABLE] = "only a reserve step is cancelled: leave it out"}},
};

static void check_operations(struct txb_saga_reader *r, const json_t *object, bool nested) {
  enum txb_saga_step_kind kind = r->step->kind;
  for (size_t i = 0; i < TXB_ARRAY_SIZE(of_kinds); i++) {
    const char *key = of_kinds[i].key, *superfluous = of_kinds[i].superfluous[kind];
    if (nested)
      superfluous = "a step that is a saga is undone by its own steps: leave it out";
    if (json_object_get(object, key) == NULL) {
      if (of_kinds[i].needed[kind] && !nested)
        txb_saga_complain(r, "%s is missing: a %s step needs one", key, txb_saga_step_kind_name(kind));
    } else if (superfluous != NULL) {
      txb_saga_enter_key(r, key);
      txb_saga_complain(r, "%s", superfluous);
      txb_saga_leave(r);
    }
  }
}

/* A step is a command, by topic and type, or a saga. */
static void check_way(struct txb_saga_reader *r, const json_t *object, bool nested) {
  static const char *const keys[] = {"topic", "type"};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(keys); i++) {
    bool given = json_object_get(object, keys[i]) != NULL;
    if (!given && !nested)
      txb_saga_complain(r, "%s is missing: a step needs topic and type, or saga", keys[i]);
    if (!given || !nested)
      continue;
    txb_saga_enter_key(r, keys[i]);
    txb_saga_complain(r, "a step that is a saga has neither topic nor type: leave it out");
    txb_saga_leave(r);
  }
}

static void read_step(struct txb_saga_reader *r, json_t *value, struct txb_saga_step_definition *out) {
  *out = (struct txb_saga_step_definition){
      .timeout_ms = TIMEOUT_MS,
      .retry = {RETRY_ATTEMPTS, RETRY_FACTOR, RETRY_FIRST_MS, RETRY_CAP_MS},
      .confirm_rule = -1,
  };
  r->step = out;
  read_object(r, value, step_keys, TXB_ARRAY_SIZE(step_keys));
  bool kind_known = (r->kinds_known >> (out - r->definition->steps) & 1) != 0;
  r->names_broken |= out->name == NULL;
  r->graph_broken |= !kind_known || out->name == NULL;
  if (!json_is_object(value))
    return;
  bool nested = json_object_get(value, "saga") != NULL;
  check_way(r, value, nested);
  if (kind_known && nested && out->kind == TXB_SAGA_STEP_RESERVE) {
    r->graph_broken = true;
    txb_saga_complain(r, "a step that is a saga can't be reserve: make it compensatable, pivot or retriable");
  } else if (kind_known) {
    check_operations(r, value, nested);
  }
}

/* ---- the whole --------------------------------------------------------------------------------------------- */

static void saga_name(struct txb_saga_reader *r, json_t *value) {
  r->definition->name = read_name(r, value);
}

static void saga_version(struct txb_saga_reader *r, json_t *value) {
  r->definition->version = (int32_t)read_integer(r, value, INT32_MAX);
}

static void saga_description(struct txb_saga_reader *r, json_t *value) {
  r->definition->description = read_text(r, value);
}

static void saga_input(struct txb_saga_reader *r, json_t *value) {
  r->definition->input = read_schema(r, value);
}

static void saga_output(struct txb_saga_reader *r, json_t *value) {
  r->definition->output = value;
}

static void saga_output_schema(struct txb_saga_reader *r, json_t *value) {
  r->definition->output_schema = read_schema(r, value);
}

static void saga_deadline(struct txb_saga_reader *r, json_t *value) {
  r->definition->deadline_ms = read_duration(r, value);
}

static void saga_locks(struct txb_saga_reader *r, json_t *value) {
  if (!json_is_array(value)) {
    txb_saga_complain(r, "must be an array of strings, not %s", txb_json_kind_name(value));
    return;
  }
  r->definition->locks = value;
  if (json_array_size(value) > TXB_SAGA_LOCKS_MAX)
    txb_saga_complain(r, "a saga has at most %d locks", TXB_SAGA_LOCKS_MAX);
  for (size_t i = 0; i < json_array_size(value); i++) {
    txb_saga_enter_index(r, i);
    const char *text = read_text(r, json_array_get(value, i));
    if (text != NULL && *text == '\0')
      txb_saga_complain(r, "a lock needs a name, such as \"account:{input.from}\"");
    txb_saga_leave(r);
  }
}

static void saga_lock_conflict(struct txb_saga_reader *r, json_t *value) {
  const char *text = read_text(r, value);
  r->definition->locks_refuse = text != NULL && strcmp(text, "refuse") == 0;
  if (text != NULL && !r->definition->locks_refuse && strcmp(text, "wait") != 0)
    txb_saga_complain(r, "must be wait or refuse");
  if (json_array_size(json_object_get(r->definition->root, "locks")) == 0)
    txb_saga_complain(r, "there is nothing to lock: name it in locks, or leave this out");
}

static void saga_reply_topic(struct txb_saga_reader *r, json_t *value) {
  r->definition->reply_topic = read_topic(r, value);
}

static void saga_steps(struct txb_saga_reader *r, json_t *value) {
  size_t count = json_array_size(value);
  if (!json_is_array(value))
    txb_saga_complain(r, "must be an array of steps, not %s", txb_json_kind_name(value));
  else if (count == 0 || count > TXB_SAGA_STEPS_MAX)
    txb_saga_complain(r, "a saga has 1 to %d steps; a step may itself be a saga", TXB_SAGA_STEPS_MAX);
  r->names_broken |= count == 0 || count > TXB_SAGA_STEPS_MAX;
  r->graph_broken |= count == 0 || count > TXB_SAGA_STEPS_MAX;
  for (size_t i = 0; i < count && i < TXB_SAGA_STEPS_MAX; i++) {
    txb_saga_enter_index(r, i);
    read_step(r, json_array_get(value, i), &r->definition->steps[i]);
    r->definition->count++;
    txb_saga_leave(r);
  }
}

static const struct key saga_keys[] = {
    {"name", true, saga_name},
    {"version", true, saga_version},
    {"description", false, saga_description},
    {"input", false, saga_input},
    {"output", false, saga_output},
    {"output_schema", false, saga_output_schema},
    {"deadline", false, saga_deadline},
    {"locks", false, saga_locks},
    {"lock_conflict", false, saga_lock_conflict},
    {"steps", true, saga_steps},
    {"reply_topic", false, saga_reply_topic},
};

void txb_saga_read_definition(struct txb_saga_reader *r) {
  read_object(r, r->definition->root, saga_keys, TXB_ARRAY_SIZE(saga_keys));
}
