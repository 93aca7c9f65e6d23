/* One saga for people. See saga.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/cli/safe_text.h"
#include "broker/cli/saga.h"
#include "broker/saga/drawing.h"

#define TEXT_MAX  120 /* characters of a reason in a line */
#define ID_COLUMN 64  /* where a message's id begins, so that a line with one has 100 characters */

static void add_safe(struct txb_buffer *out, const char *text, size_t most) {
  txb_safe_add(out, txb_slice_text(text), most, TXB_SAFE_LINE);
}

static bool has(const json_t *object, const char *name) {
  return json_is_integer(json_object_get(object, name));
}

static void add_sent(const json_t *event, struct txb_buffer *out) {
  const json_t *one;
  size_t n;
  json_array_foreach(json_object_get(event, "sent"), n, one) {
    txb_buffer_addf(out, "%s %s %s", n == 0 ? " ->" : ",", txb_failed_text(one, "operation"),
                    txb_failed_text(one, "step"));
    if (txb_failed_integer(one, "sending") > 1)
      txb_buffer_addf(out, " (sending %" JSON_INTEGER_FORMAT ")", txb_failed_integer(one, "sending"));
    if (txb_failed_text(one, "saga") != NULL)
      txb_buffer_addf(out, " (saga %s)", txb_failed_text(one, "saga"));
  }
}

/* Where the message that told it lies, and how long after the start. */
static void add_place(const json_t *event, struct txb_buffer *out) {
  char place[48] = "";
  if (has(event, "partition"))
    (void)snprintf(place, sizeof place, "%" JSON_INTEGER_FORMAT "@%" JSON_INTEGER_FORMAT,
                   txb_failed_integer(event, "partition"), txb_failed_integer(event, "offset"));
  txb_buffer_addf(out, "%9.3f s  %4" JSON_INTEGER_FORMAT "  %-8s  ", (double)txb_failed_integer(event, "ms") / 1000,
                  txb_failed_integer(event, "n"), place);
}

/* One message may lead to several events: its id is told with the first. */
static void add_message(const json_t *event, const json_t *before, size_t from, struct txb_buffer *out) {
  const char *id = txb_failed_text(event, "message_id");
  const char *line = txb_buffer_text(out) + from;
  int wide = 0;
  if (id == NULL || (before != NULL && txb_failed_text(before, "message_id") != NULL &&
                     strcmp(txb_failed_text(before, "message_id"), id) == 0))
    return;
  for (; *line != '\0'; line++)
    wide += ((unsigned char)*line & 0xC0) != 0x80; /* characters, not bytes */
  if (wide > ID_COLUMN - 2) {
    txb_buffer_add_text(out, "\n");
    wide = 0;
  }
  txb_buffer_addf(out, "%*s%s", ID_COLUMN - wide, "", id);
}

void txb_saga_view_event(const json_t *event, const json_t *before, struct txb_buffer *out) {
  const char *step = txb_failed_text(event, "step"), *reason = txb_failed_text(event, "reason");
  const char *who = txb_failed_text(event, "who");
  const json_t *output = json_object_get(event, "output");
  size_t from = out->size;
  char age[24];
  add_place(event, out);
  if (step != NULL)
    txb_buffer_addf(out, "%s: ", step);
  txb_buffer_add_text(out, txb_failed_text(event, "event"));
  txb_format_age(txb_failed_integer(event, has(event, "took_ms") ? "took_ms" : "late_ms"), age);
  if (has(event, "took_ms") || has(event, "late_ms"))
    txb_buffer_addf(out, " (%s%s)", age, has(event, "took_ms") ? "" : " late");
  if (output != NULL) {
    char *text = json_dumps(output, JSON_COMPACT | JSON_ENCODE_ANY);
    txb_buffer_add_text(out, " ");
    add_safe(out, text != NULL ? text : "", TEXT_MAX);
    free(text);
  }
  add_sent(event, out);
  if (has(event, "timer_ms"))
    txb_buffer_addf(out, "; timer at %.3f s", (double)txb_failed_integer(event, "timer_ms") / 1000);
  if (reason != NULL) {
    txb_buffer_add_text(out, ": ");
    add_safe(out, reason, TEXT_MAX);
  }
  if (who != NULL) {
    txb_buffer_add_text(out, ", says ");
    add_safe(out, who, TEXT_MAX);
  }
  add_message(event, before, from, out);
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

/* "  next timer   2026-11-30T22:03:01.5+00:00, in 29.1 s, for hotel: no answer by 30.012 s", times as in the timeline. */
static void add_timer(const struct txb_saga_shown *shown, struct txb_buffer *b) {
  const json_t *timer = json_object_get(shown->saga, "next_timer");
  const char *what = txb_failed_text(timer, "for"), *step = txb_failed_text(timer, "step");
  json_int_t in_ms = txb_failed_integer(timer, "in_ms");
  double due_s = (double)(txb_failed_integer(shown->saga, "ms") + txb_failed_integer(timer, "due_in_ms")) / 1000;
  char age[24];
  if (timer == NULL)
    return;
  txb_format_age(in_ms < 0 ? -in_ms : in_ms, age);
  txb_buffer_addf(b, "  next timer   %s, %s%s%s, for ", txb_failed_text(timer, "at"), in_ms < 0 ? "" : "in ", age,
                  in_ms < 0 ? " ago" : "");
  if (what == NULL)
    txb_buffer_add_text(b, "nothing that still waits\n");
  else if (step == NULL)
    txb_buffer_addf(b, "the deadline at %.3f s\n", due_s);
  else
    txb_buffer_addf(b, "%s: %s %.3f s\n", step, strcmp(what, "pause") == 0 ? "again at" : "no answer by", due_s);
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
                  txb_failed_integer(shown->saga, "version"), bad ? txb_color(cli, "\033[31m") : "",
                  state != NULL ? state : "starting", bad ? txb_color(cli, "\033[0m") : "", age);
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
  add_timer(shown, &b);
  txb_print_buffer(&b);
  txb_buffer_fini(&b);
}

/* "2", and "12 ms", or "> 3.1 s" of what goes on still. */
static void add_cells(struct txb_table *table, const json_t *operation) {
  char age[24];
  if (operation == NULL) {
    txb_table_cell(table, NULL);
    txb_table_cell(table, NULL);
    return;
  }
  bool over = has(operation, "took_ms");
  txb_format_age(txb_failed_integer(operation, over ? "took_ms" : "so_far_ms"), age);
  txb_table_cellf(table, "%" JSON_INTEGER_FORMAT, txb_failed_integer(operation, "attempts"));
  txb_table_cellf(table, "%s%s", over ? "" : "> ", age);
}

/* The steps that something was sent for: how often, and how long that took. */
static void print_steps(const struct txb_cli *cli, const struct txb_saga_shown *shown) {
  static const struct txb_column columns[] = {{"STEP", TXB_LEFT},           {"ATTEMPTS", TXB_RIGHT},
                                              {"TOOK", TXB_RIGHT},          {"RESOLVES", TXB_RIGHT},
                                              {"COMPENSATIONS", TXB_RIGHT}, {"TOOK", TXB_RIGHT}};
  struct txb_table table;
  const json_t *step;
  size_t n;
  bool any = false;
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  json_array_foreach(json_object_get(shown->saga, "steps"), n, step) {
    const json_t *action = json_object_get(step, "action"), *compensation = json_object_get(step, "compensation");
    if (action == NULL && compensation == NULL)
      continue;
    any = true;
    txb_table_cell(&table, txb_failed_text(step, "step"));
    add_cells(&table, action);
    if (has(step, "resolves"))
      txb_table_cellf(&table, "%" JSON_INTEGER_FORMAT, txb_failed_integer(step, "resolves"));
    else
      txb_table_cell(&table, NULL);
    add_cells(&table, compensation);
  }
  if (any) {
    txb_print("\n");
    txb_table_print(&table, cli, 2);
  }
  txb_table_fini(&table);
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

static void print_events(const struct txb_saga_shown *shown) {
  const json_t *event, *before = NULL;
  struct txb_buffer b;
  size_t n;
  txb_buffer_init(&b);
  txb_buffer_add_text(&b, "\n");
  json_array_foreach(shown->events, n, event) {
    txb_saga_view_event(event, before, &b);
    txb_buffer_add_text(&b, "\n");
    before = event;
  }
  txb_print_buffer(&b);
  txb_buffer_fini(&b);
}

enum txb_rc txb_saga_view_print(const struct txb_cli *cli, const struct txb_saga_shown *shown, struct txb_error *err) {
  const char *format = txb_args_text(&cli->args, "format");
  struct txb_buffer b TXB_CLEANUP(txb_buffer_fini);
  enum txb_saga_drawing how = TXB_SAGA_DRAWING_TEXT;
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
  TXB_TRY(txb_buffer_check(&b, err));
  txb_print_buffer(&b);
  if (format != NULL)
    return TXB_OK;
  print_steps(cli, shown);
  print_events(shown);
  print_next(cli, shown);
  return TXB_OK;
}
