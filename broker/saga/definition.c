/* Reading a saga's definition: the whole, and where problems are kept. See definition.h. Pure. */
#include "broker/saga/definition.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "broker/saga/definition_internal.h"
#include "common/memory.h"
#include "common/nearest.h"

enum {
  PROBLEMS_MAX = 100, /* looking for the first of more would take too long in a file made of nothing else */
};
#define DURATION_MS_MAX (INT64_C(365) * 86400 * 1000)

/* ---- problems ---------------------------------------------------------------------------------------------- */

/* Where the value at hand begins, or the nearest one around it that is found. */
static size_t position_of(const struct txb_saga_reader *r) {
  for (size_t depth = r->depth; depth > 0; depth--) {
    struct txb_slice span = txb_json_span(r->document.text, r->path, depth);
    if (span.data != NULL)
      return (size_t)((const char *)span.data - (const char *)r->document.text.data);
  }
  return 0;
}

void txb_saga_complain(struct txb_saga_reader *r, const char *fmt, ...) {
  if (r->problems >= PROBLEMS_MAX)
    return;
  size_t position = position_of(r);
  if (r->problems++ > 0 && position >= r->position)
    return;
  r->position = position;
  char where[TXB_JSON_WHERE_SIZE], text[sizeof r->problem.message];
  txb_json_describe(&r->document, r->path, r->depth, where);
  va_list args;
  va_start(args, fmt);
  (void)vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  (void)TXB_FAIL_FROM(&r->problem, TXB_REFUSED, TXB_ORIGIN_USAGE, "%s: %s", where, text);
}

const char *txb_saga_did_you_mean(const char *word, const char *const *names, size_t count, char out[100]) {
  const char *nearest = txb_nearest(word, names, count);
  out[0] = '\0';
  if (nearest != NULL)
    (void)snprintf(out, 100, "; did you mean %s?", nearest);
  return out;
}

static void enter(struct txb_saga_reader *r, struct txb_json_step step) {
  TXB_ASSERT(r->depth < TXB_SAGA_PATH_MAX);
  r->path[r->depth++] = step;
}

void txb_saga_enter_key(struct txb_saga_reader *r, const char *key) {
  enter(r, (struct txb_json_step){.key = key});
}

void txb_saga_enter_index(struct txb_saga_reader *r, size_t index) {
  enter(r, (struct txb_json_step){.index = index});
}

void txb_saga_leave(struct txb_saga_reader *r) {
  r->depth--;
}

/* ---- the whole --------------------------------------------------------------------------------------------- */

static enum txb_rc read_all(const char *file_name, struct txb_slice text, bool is_new, struct txb_saga_definition *d,
                            struct txb_error *err) {
  struct txb_saga_reader r = {.document = {file_name, text}, .definition = d, .is_new = is_new};
  TXB_TRY(txb_json_parse(&r.document, &d->root, err));
  txb_saga_read_definition(&r);
  txb_saga_read_graph(&r);
  txb_saga_read_references(&r);
  if (r.problems == 0)
    return TXB_OK;
  if (err != NULL)
    *err = r.problem;
  return TXB_REFUSED;
}

static enum txb_rc parse(const char *file_name, struct txb_slice text, bool is_new, struct txb_saga_definition **out,
                         struct txb_error *err) {
  if (text.size > TXB_SAGA_DEFINITION_SIZE_MAX)
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE,
                         "%s: %zu bytes are more than a saga's definition can have (%d)", file_name, text.size,
                         TXB_SAGA_DEFINITION_SIZE_MAX);
  void *memory;
  TXB_TRY(txb_alloc(sizeof(struct txb_saga_definition), &memory, err));
  enum txb_rc rc = read_all(file_name, text, is_new, memory, err);
  if (rc == TXB_OK)
    *out = memory;
  else
    txb_saga_definition_free(memory);
  return rc;
}

enum txb_rc txb_saga_definition_parse(const char *file_name, struct txb_slice text, struct txb_saga_definition **out,
                                      struct txb_error *err) {
  return parse(file_name, text, false, out, err);
}

enum txb_rc txb_saga_definition_parse_new(const char *file_name, struct txb_slice text,
                                          struct txb_saga_definition **out, struct txb_error *err) {
  return parse(file_name, text, true, out, err);
}

void txb_saga_definition_free(struct txb_saga_definition *definition) {
  if (definition == NULL)
    return;
  json_decref(definition->root);
  txb_free(definition);
}

int txb_saga_definition_step(const struct txb_saga_definition *definition, struct txb_slice name) {
  for (int i = 0; i < definition->count; i++) {
    const char *of_step = definition->steps[i].name;
    if (of_step != NULL && txb_slice_equal(txb_slice_text(of_step), name))
      return i;
  }
  return -1;
}

bool txb_saga_duration_parse(const char *text, int64_t *ms_out) {
  static const struct {
    const char *unit;
    int64_t ms;
  } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60 * 1000}, {"h", 3600 * 1000}, {"d", 86400 * 1000}};
  int64_t n = 0;
  const char *at = text;
  for (; *at >= '0' && *at <= '9' && n <= DURATION_MS_MAX; at++)
    n = 10 * n + (*at - '0');
  for (size_t i = 0; at > text && i < TXB_ARRAY_SIZE(units); i++)
    if (strcmp(at, units[i].unit) == 0 && n > 0 && n <= DURATION_MS_MAX / units[i].ms) {
      *ms_out = n * units[i].ms;
      return true;
    }
  return false;
}

const char *txb_saga_step_kind_name(enum txb_saga_step_kind kind) {
  static const char *const names[TXB_SAGA_STEP_KINDS] = {"compensatable", "pivot", "retriable", "reserve"};
  return names[kind];
}
