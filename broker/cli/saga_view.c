/* One saga for people. See saga.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/cli/safe_text.h"
#include "broker/cli/saga.h"
#include "broker/saga/drawing.h"

#define TEXT_MAX 120 /* characters of a reason in a line */

/* ---- states, by replaying ------------------------------------------------------------------------------------ */

static struct txb_slice slice_of(const json_t *object, const char *name) {
  return txb_slice_text(txb_failed_text(object, name));
}

static enum txb_rc replay(const struct txb_saga_shown *shown, struct txb_saga_instance *i, struct txb_error *err) {
  const json_t *event;
  size_t n;
  *i = (struct txb_saga_instance){.definition = shown->definition,
                                  .started_us = txb_failed_integer(shown->saga, "started_us"),
                                  .deadline_us = txb_failed_integer(shown->saga, "deadline_us")};
  TXB_TRY(txb_saga_id_parse(txb_failed_text(shown->saga, "saga"), &i->id, err));
  txb_saga_instance_init(i);
  json_array_foreach(shown->events, n, event) {
    const struct txb_saga_past past = {
        .n = (int32_t)txb_failed_integer(event, "n"),
        .event = txb_failed_text(event, "event"),
        .step = slice_of(event, "step"),
        .sending = (int32_t)txb_failed_integer(event, "sending"),
        .at_us = txb_failed_integer(event, "at_us"),
        .timer_us = txb_failed_integer(event, "timer_us"),
        .reason = txb_failed_text(event, "reason"),
    };
    TXB_TRY(txb_saga_instance_replay(i, &past, err));
  }
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

enum txb_rc txb_saga_view_states(struct txb_saga_shown *shown, struct txb_error *err) {
  struct txb_saga_instance i;
  const struct txb_saga_definition *d = shown->definition;
  if (d == NULL)
    return TXB_OK;
  TXB_TRY(replay(shown, &i, err));
  json_t *steps = json_array();
  for (int rule = 0; rule < d->rules.count; rule++) {
    char name[TXB_SAGA_STEP_TEXT_SIZE];
    txb_saga_rule_text(d, rule, name);
    json_t *step =
        json_pack("{s:s, s:s, s:i}", "step", name, "state", txb_saga_step_state_name(i.state.steps[rule].state),
                  "sendings", (int)i.state.steps[rule].sendings);
    const char *reason = last_reason(shown, name);
    if (reason != NULL)
      (void)json_object_set_new(step, "reason", json_string(reason));
    (void)json_array_append_new(steps, step);
  }
  (void)json_object_set_new(shown->saga, "steps", steps);
  (void)json_object_set_new(shown->saga, "event", json_integer(i.n));
  if (txb_failed_text(shown->saga, "state") == NULL)
    (void)json_object_set_new(shown->saga, "state",
                              json_string(i.n == 0                          ? "starting"
                                          : !i.begun && i.waits_why != NULL ? "waiting"
                                          : txb_saga_is_stuck(&d->rules, &i.state)
                                              ? "stuck"
                                              : txb_saga_state_name(i.state.state)));
  return TXB_OK;
}

/* ---- text ------------------------------------------------------------------------------------------------------ */

static void add_safe(struct txb_buffer *out, const char *text, size_t most) {
  txb_safe_add(out, txb_slice_text(text), most, TXB_SAFE_LINE);
}

void txb_saga_view_event(const json_t *event, struct txb_buffer *out) {
  const char *step = txb_failed_text(event, "step"), *reason = txb_failed_text(event, "reason");
  const char *who = txb_failed_text(event, "who");
  const json_t *sent = json_object_get(event, "sent"), *one, *output = json_object_get(event, "output");
  size_t n;
  txb_buffer_addf(out, "%9.3f s  %4" JSON_INTEGER_FORMAT "  ", (double)txb_failed_integer(event, "ms") / 1000,
                  txb_failed_integer(event, "n"));
  if (step != NULL)
    txb_buffer_addf(out, "%s: ", step);
  txb_buffer_add_text(out, txb_failed_text(event, "event"));
  if (output != NULL) {
    char *text = json_dumps(output, JSON_COMPACT | JSON_ENCODE_ANY);
    txb_buffer_add_text(out, " ");
    add_safe(out, text != NULL ? text : "", TEXT_MAX);
    free(text);
  }
  json_array_foreach(sent, n, one) {
    txb_buffer_addf(out, "%s %s %s", n == 0 ? " ->" : ",", txb_failed_text(one, "operation"),
                    txb_failed_text(one, "step"));
    if (txb_failed_integer(one, "sending") > 1)
      txb_buffer_addf(out, " (sending %" JSON_INTEGER_FORMAT ")", txb_failed_integer(one, "sending"));
    if (txb_failed_text(one, "saga") != NULL)
      txb_buffer_addf(out, " (saga %s)", txb_failed_text(one, "saga"));
  }
  if (reason != NULL) {
    txb_buffer_add_text(out, ": ");
    add_safe(out, reason, TEXT_MAX);
  }
  if (who != NULL) {
    txb_buffer_add_text(out, ", says ");
    add_safe(out, who, TEXT_MAX);
  }
}

static enum txb_rc add_drawing(const struct txb_saga_shown *shown, enum txb_saga_drawing how, struct txb_buffer *out,
                               struct txb_error *err) {
  struct txb_saga_drawn_state states[TXB_SAGA_STEPS_MAX] = {{NULL, NULL}};
  const json_t *steps = json_object_get(shown->saga, "steps"), *step;
  size_t n;
  json_array_foreach(steps, n, step) states[n] =
      (struct txb_saga_drawn_state){txb_failed_text(step, "state"), txb_failed_text(step, "reason")};
  return txb_saga_draw(shown->definition, how, states, out, err);
}

/* "  holds        account:7", and what it waits for with its holder. */
static void add_locks(const struct txb_saga_shown *shown, struct txb_buffer *b) {
  const json_t *locks = json_object_get(shown->saga, "locks"), *lock;
  size_t n;
  json_array_foreach(locks, n, lock) {
    const char *holder = txb_failed_text(lock, "holder");
    txb_buffer_addf(b, "  %-12s ", holder != NULL ? "waits for" : "holds");
    add_safe(b, txb_failed_text(lock, "name"), TEXT_MAX);
    if (holder != NULL)
      txb_buffer_addf(b, ", which saga %s holds", holder);
    txb_buffer_add_text(b, "\n");
  }
}

static void print_head(const struct txb_cli *cli, const struct txb_saga_shown *shown) {
  static const struct {
    const char *title, *name;
  } lines[] = {{"started", "started_at"},   {"by", "started_by"},           {"key", "key"},      {"ended", "ended_at"},
               {"deadline", "deadline_at"}, {"end told to", "reply_topic"}, {"reason", "reason"}};
  static const struct { const char *title, *name; } values[] = {{"input", "input"}, {"output", "output"}};
  struct txb_buffer b;
  char age[24];
  const char *state = txb_failed_text(shown->saga, "state");
  txb_buffer_init(&b);
  txb_format_age(txb_failed_integer(shown->saga, "ms"), age);
  bool bad = state != NULL && (strcmp(state, "stuck") == 0 || strcmp(state, "refused") == 0);
  txb_buffer_addf(&b, "saga %s: %s, version %" JSON_INTEGER_FORMAT ", %s%s%s, %s\n",
                  txb_failed_text(shown->saga, "saga"), txb_failed_text(shown->saga, "name"),
                  txb_failed_integer(shown->saga, "version"), bad ? txb_color(cli, "31") : "",
                  state != NULL ? state : "starting", bad ? txb_color(cli, "0") : "", age);
  for (size_t l = 0; l < TXB_ARRAY_SIZE(lines); l++) {
    const char *text = txb_failed_text(shown->saga, lines[l].name);
    if (text == NULL)
      continue;
    txb_buffer_addf(&b, "  %-12s ", lines[l].title);
    add_safe(&b, text, 600);
    txb_buffer_add_text(&b, "\n");
  }
  for (size_t v = 0; v < TXB_ARRAY_SIZE(values); v++) {
    const json_t *value = json_object_get(shown->saga, values[v].name);
    char *text = value == NULL || json_is_null(value) ? NULL : json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    if (text == NULL)
      continue;
    txb_buffer_addf(&b, "  %-12s ", values[v].title);
    add_safe(&b, text, 600);
    txb_buffer_add_text(&b, "\n");
    free(text);
  }
  const json_t *parent = json_object_get(shown->saga, "parent");
  if (json_is_object(parent)) {
    txb_buffer_add_text(&b, "  step         ");
    add_safe(&b, txb_failed_text(parent, "step"), 80);
    txb_buffer_add_text(&b, " of saga ");
    add_safe(&b, txb_failed_text(parent, "saga"), 36);
    txb_buffer_add_text(&b, "\n");
  }
  add_locks(shown, &b);
  txb_print_buffer(&b);
  txb_buffer_fini(&b);
}

/* The sagas that its steps are, and the one that a step is at present; NULL: it is none, or has not begun. */
static void add_children(const struct txb_saga_shown *shown, struct txb_buffer *out) {
  const json_t *child;
  size_t n;
  json_array_foreach(json_object_get(shown->saga, "children"), n, child) {
    const char *reason = txb_failed_text(child, "reason");
    txb_buffer_addf(out, "%s  %s: saga %s, ", n == 0 ? "\n" : "", txb_failed_text(child, "step"),
                    txb_failed_text(child, "saga"));
    add_safe(out, txb_failed_text(child, "name"), TEXT_MAX);
    txb_buffer_addf(out, " version %" JSON_INTEGER_FORMAT ", %s%s", txb_failed_integer(child, "version"),
                    txb_failed_text(child, "state"), reason != NULL ? ": " : "");
    if (reason != NULL)
      add_safe(out, reason, TEXT_MAX);
    txb_buffer_add_text(out, "\n");
  }
}

static const char *child_of(const struct txb_saga_shown *shown, const char *step) {
  const json_t *child;
  const char *found = NULL;
  size_t n;
  json_array_foreach(json_object_get(shown->saga, "children"), n,
                     child) if (strcmp(txb_failed_text(child, "step"), step) == 0) found =
      txb_failed_text(child, "saga");
  return found;
}

static void print_next(const struct txb_cli *cli, const struct txb_saga_shown *shown) {
  const json_t *steps = json_object_get(shown->saga, "steps"), *step;
  const char *id = txb_failed_text(shown->saga, "saga");
  json_int_t at = txb_failed_integer(shown->saga, "event");
  size_t n;
  (void)cli;
  json_array_foreach(steps, n, step) {
    const char *state = txb_failed_text(step, "state"), *name = txb_failed_text(step, "step");
    if (strncmp(state, "stuck", 5) != 0)
      continue;
    txb_print("\n%s waits for a person:\n", name);
    if (child_of(shown, name) != NULL)
      txb_print("  txbroker saga show %s  # the saga that it is: its end ends this, too\n", child_of(shown, name));
    txb_print("  txbroker saga retry %s %s --at %" JSON_INTEGER_FORMAT " --reason '...'\n", id, name, at);
    if (strcmp(state, "stuck_settling") != 0) {
      txb_print("  txbroker saga edit %s %s --payload-file FILE --at %" JSON_INTEGER_FORMAT " --reason '...'\n", id,
                name, at);
      txb_print("  txbroker saga skip %s %s --at %" JSON_INTEGER_FORMAT " --reason '...'\n", id, name, at);
    }
    if (strcmp(state, "stuck_compensation") != 0)
      txb_print("  txbroker saga mark %s %s --done --at %" JSON_INTEGER_FORMAT " --reason '...'\n", id, name, at);
    if (strcmp(state, "stuck_action") != 0)
      txb_print("  txbroker saga mark %s %s --undone --at %" JSON_INTEGER_FORMAT " --reason '...'\n", id, name, at);
  }
}

enum txb_rc txb_saga_view_print(const struct txb_cli *cli, const struct txb_saga_shown *shown, struct txb_error *err) {
  const char *format = txb_args_text(&cli->args, "format");
  struct txb_buffer b TXB_CLEANUP(txb_buffer_fini);
  enum txb_saga_drawing how = TXB_SAGA_DRAWING_TEXT;
  const json_t *event;
  size_t n;
  txb_buffer_init(&b);
  if (cli->output != TXB_OUTPUT_TEXT && format == NULL) {
    json_t *document = json_copy(shown->saga);
    (void)json_object_set(document, "events", shown->events);
    txb_failed_print_json(cli, document);
    json_decref(document);
    return TXB_OK;
  }
  if (format != NULL)
    (void)txb_saga_drawing_of(format, &how);
  else
    print_head(cli, shown);
  if (shown->definition != NULL) {
    if (format == NULL)
      txb_buffer_add_text(&b, "\n");
    TXB_TRY(add_drawing(shown, how, &b, err));
  }
  if (format == NULL)
    add_children(shown, &b);
  if (format == NULL) {
    txb_buffer_add_text(&b, "\n");
    json_array_foreach(shown->events, n, event) {
      txb_saga_view_event(event, &b);
      txb_buffer_add_text(&b, "\n");
    }
  }
  TXB_TRY(txb_buffer_check(&b, err));
  txb_print_buffer(&b);
  if (format == NULL)
    print_next(cli, shown);
  return TXB_OK;
}
