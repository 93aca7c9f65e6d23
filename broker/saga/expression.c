/* Templates: texts with values in them. See expression.h. Pure. */
#include "broker/saga/expression.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/saga/expression_path.h"
#include "common/buffer.h"
#include "common/json_place.h"

#define REFUSE(err, ...) TXB_SAGA_REFUSE((err), __VA_ARGS__)

static enum txb_rc no_memory(struct txb_error *err) {
  return TXB_FAIL(err, TXB_FATAL, "out of memory for a saga's values");
}

/* ---- pieces ------------------------------------------------------------------------------------------------ */

/* A string of a template is a row of these. */
struct piece {
  struct txb_slice text; /* as it stands; absent: a reference */
  struct txb_saga_reference reference;
};

/* The piece that a text which is not empty begins with, and where it ends. */
static enum txb_rc take_piece(const char **at, struct piece *out, struct txb_error *err) {
  const char *from = *at, *end;
  if (*from != '{' || from[1] == '{') {
    bool brace = *from == '{';
    end = brace ? from + 2 : from + strcspn(from, "{");
    *out = (struct piece){.text = txb_slice_of(from, brace ? 1 : (size_t)(end - from))};
    *at = end;
    return TXB_OK;
  }
  struct piece piece = {.text = {NULL, 0}};
  const char *problem = txb_saga_path_read(from + 1, &piece.reference, &end);
  if (problem == NULL && *end != '}')
    problem = "a '}' must follow the path; write {{ for a brace that is text";
  if (problem != NULL)
    return REFUSE(err, "\"%.100s\": %s", from, problem);
  *out = piece;
  *at = end + 1;
  return TXB_OK;
}

enum txb_rc txb_saga_template_check(const char *text, txb_saga_visit visit, void *arg, struct txb_error *err) {
  while (*text != '\0') {
    struct piece piece;
    TXB_TRY(take_piece(&text, &piece, err));
    if (piece.text.data == NULL && visit != NULL)
      TXB_TRY(visit(arg, &piece.reference, err));
  }
  return TXB_OK;
}

/* ---- values within a text ---------------------------------------------------------------------------------- */

/* The shortest text that gives the same number again. */
static void add_real(struct txb_buffer *out, double value) {
  char text[40];
  for (int digits = 15; digits <= 17; digits++) {
    (void)snprintf(text, sizeof text, "%.*g", digits, value);
    if (!(strtod(text, NULL) < value) && !(strtod(text, NULL) > value))
      break;
  }
  txb_buffer_add_text(out, text);
}

static enum txb_rc add_value(const json_t *value, const struct txb_saga_reference *reference, struct txb_buffer *out,
                             struct txb_error *err) {
  if (json_is_string(value))
    txb_buffer_add(out, json_string_value(value), json_string_length(value));
  else if (json_is_integer(value))
    txb_buffer_addf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
  else if (json_is_real(value))
    add_real(out, json_real_value(value));
  else if (json_is_boolean(value))
    txb_buffer_add_text(out, json_is_true(value) ? "true" : "false");
  else if (json_is_null(value) && reference->optional)
    return TXB_OK;
  else
    return REFUSE(err, "%.*s is %s, which can't stand within a text%s", txb_saga_path_shown(reference),
                  (const char *)reference->path.data, txb_json_kind_name(value),
                  json_is_null(value) ? "; write a \"?\" behind the path where it may be" : "");
  return TXB_OK;
}

static enum txb_rc add_piece(const struct piece *piece, const json_t *context, struct txb_buffer *out,
                             struct txb_error *err) {
  if (piece->text.data != NULL) {
    txb_buffer_add(out, piece->text.data, piece->text.size);
    return TXB_OK;
  }
  const json_t *value = txb_saga_path_follow(&piece->reference, context);
  if (value != NULL)
    return add_value(value, &piece->reference, out, err);
  return piece->reference.optional ? TXB_OK : txb_saga_path_absent(&piece->reference, err);
}

static enum txb_rc add_pieces(const char *text, const json_t *context, struct txb_buffer *out, struct txb_error *err) {
  while (*text != '\0') {
    struct piece piece;
    TXB_TRY(take_piece(&text, &piece, err));
    TXB_TRY(add_piece(&piece, context, out, err));
  }
  return txb_buffer_check(out, err);
}

/* ---- whole templates --------------------------------------------------------------------------------------- */

static enum txb_rc give(json_t *value, json_t **out, struct txb_error *err) {
  if (value == NULL)
    return no_memory(err);
  *out = value;
  return TXB_OK;
}

/* "{path}" and nothing else. */
static bool is_value(const char *text, struct txb_saga_reference *out) {
  struct piece piece;
  if (*text != '{' || take_piece(&text, &piece, NULL) != TXB_OK || piece.text.data != NULL || *text != '\0')
    return false;
  *out = piece.reference;
  return true;
}

static enum txb_rc fill_text(const json_t *template, const json_t *context, json_t **out, struct txb_error *err) {
  struct txb_saga_reference reference;
  if (is_value(json_string_value(template), &reference)) {
    const json_t *value = txb_saga_path_follow(&reference, context);
    if (value == NULL && !reference.optional)
      return txb_saga_path_absent(&reference, err);
    return give(value == NULL ? json_null() : json_deep_copy(value), out, err);
  }
  struct txb_buffer text;
  txb_buffer_init(&text);
  enum txb_rc rc = add_pieces(json_string_value(template), context, &text, err);
  if (rc == TXB_OK)
    rc = give(json_stringn(text.size == 0 ? "" : text.data, text.size), out, err);
  txb_buffer_fini(&text);
  return rc;
}

static enum txb_rc fill_array(const json_t *template, const json_t *context, json_t *filled, struct txb_error *err) {
  for (size_t i = 0; i < json_array_size(template); i++) {
    json_t *item = NULL;
    TXB_TRY(txb_saga_template_fill(json_array_get(template, i), context, &item, err));
    if (json_array_append_new(filled, item) != 0)
      return no_memory(err);
  }
  return TXB_OK;
}

/* Iterators want a json_t that is not const, although they change nothing. */
static json_t *unconst(const json_t *value) {
  union {
    const json_t *from;
    json_t *to;
  } same = {.from = value};
  return same.to;
}

static enum txb_rc fill_object(const json_t *template, const json_t *context, json_t *filled, struct txb_error *err) {
  const char *name;
  json_t *member;
  json_object_foreach(unconst(template), name, member) {
    json_t *item = NULL;
    TXB_TRY(txb_saga_template_fill(member, context, &item, err));
    if (json_object_set_new(filled, name, item) != 0)
      return no_memory(err);
  }
  return TXB_OK;
}

enum txb_rc txb_saga_template_fill(const json_t *template, const json_t *context, json_t **out, struct txb_error *err) {
  if (json_is_string(template))
    return fill_text(template, context, out, err);
  if (!json_is_array(template) && !json_is_object(template))
    return give(json_deep_copy(template), out, err);
  json_t *filled = json_is_array(template) ? json_array() : json_object();
  if (filled == NULL)
    return no_memory(err);
  enum txb_rc rc = json_is_array(template) ? fill_array(template, context, filled, err)
                                           : fill_object(template, context, filled, err);
  if (rc == TXB_OK)
    *out = filled;
  else
    json_decref(filled);
  return rc;
}
