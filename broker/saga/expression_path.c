/* See expression_path.h. Pure. */
#include "broker/saga/expression_path.h"

#include <string.h>

enum { INDEX_DIGITS_MAX = 9, WORD_SIZE_MAX = TXB_SAGA_WORD_SIZE_MAX, PATH_SHOWN_MAX = 100 };

static bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

bool txb_saga_is_word(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '-' ||
         (unsigned char)c >= 0x80;
}

static const char *word_end(const char *text) {
  while (txb_saga_is_word(*text))
    text++;
  return text;
}

static bool is_word_of(struct txb_slice word, const char *name) {
  return txb_slice_equal(word, txb_slice_text(name));
}

/* A word, with what must stand before it ('.', or nothing: '\0'); absent when there is none. */
static struct txb_slice take_word(const char **at, char before) {
  const char *from = *at + (before != '\0');
  const char *end = before == '\0' || **at == before ? word_end(from) : from;
  if (end == from || end - from > WORD_SIZE_MAX)
    return (struct txb_slice){NULL, 0};
  *at = end;
  return txb_slice_of(from, (size_t)(end - from));
}

/* [N], with N in *out; false: it is none. */
static bool take_index(const char **at, size_t *out) {
  const char *c = *at + 1;
  size_t n = 0;
  for (; is_digit(*c) && c - *at <= INDEX_DIGITS_MAX; c++)
    n = 10 * n + (size_t)(*c - '0');
  if (**at != '[' || c == *at + 1 || *c != ']')
    return false;
  *at = c + 1;
  *out = n;
  return true;
}

/* What follows input or steps.NAME.output. */
static const char *read_parts(const char **at) {
  for (;;) {
    size_t index;
    if (**at == '.') {
      if (take_word(at, '.').data == NULL)
        return "a field's name must follow the '.': at most 200 letters, digits, '_' and '-'";
    } else if (**at == '[') {
      if (!take_index(at, &index))
        return "a whole number and ']' must follow the '[': [0] is the first element";
    } else {
      return NULL;
    }
  }
}

static const char *read_step(const char **at, struct txb_slice *step_out) {
  static const char problem[] = "a step's output is steps.NAME.output";
  *step_out = take_word(at, '.');
  if (step_out->data == NULL || !is_word_of(take_word(at, '.'), "output"))
    return problem;
  return read_parts(at);
}

static const char *read_saga(const char **at) {
  struct txb_slice field = take_word(at, '.');
  bool known = is_word_of(field, "id") || is_word_of(field, "key") || is_word_of(field, "name");
  return known && **at != '.' && **at != '[' ? NULL : "of the saga there are saga.id, saga.key and saga.name";
}

const char *txb_saga_path_read(const char *text, struct txb_saga_reference *out, const char **end_out) {
  struct txb_saga_reference reference = {.root = TXB_SAGA_FROM_INPUT};
  const char *at = text, *problem;
  struct txb_slice root = take_word(&at, '\0');
  if (is_word_of(root, "input")) {
    problem = read_parts(&at);
  } else if (is_word_of(root, "steps")) {
    reference.root = TXB_SAGA_FROM_STEP;
    problem = read_step(&at, &reference.step);
  } else if (is_word_of(root, "saga")) {
    reference.root = TXB_SAGA_FROM_SAGA;
    problem = read_saga(&at);
  } else {
    problem = "a path begins with input, steps.NAME.output or saga";
  }
  if (problem != NULL)
    return problem;
  reference.path = txb_slice_of(text, (size_t)(at - text));
  reference.optional = *at == '?';
  *out = reference;
  *end_out = at + reference.optional;
  return NULL;
}

static json_t *member(const json_t *object, struct txb_slice name) {
  char text[WORD_SIZE_MAX + 1];
  if (name.data == NULL)
    return NULL;
  memcpy(text, name.data, name.size);
  text[name.size] = '\0';
  return json_object_get(object, text);
}

json_t *txb_saga_path_follow(const struct txb_saga_reference *reference, const json_t *context) {
  const char *at = reference->path.data, *end = at + reference->path.size;
  struct txb_slice root = take_word(&at, '\0');
  json_t *value = member(context, root);
  while (value != NULL && at < end) {
    size_t index;
    if (*at == '[') {
      value = take_index(&at, &index) ? json_array_get(value, index) : NULL;
    } else {
      value = member(value, take_word(&at, '.'));
    }
  }
  return value;
}

int txb_saga_path_shown(const struct txb_saga_reference *reference) {
  return reference->path.size < PATH_SHOWN_MAX ? (int)reference->path.size : PATH_SHOWN_MAX;
}

enum txb_rc txb_saga_path_absent(const struct txb_saga_reference *reference, struct txb_error *err) {
  return TXB_SAGA_REFUSE(err, "%.*s is absent; write %.*s? where it may be", txb_saga_path_shown(reference),
                         (const char *)reference->path.data, txb_saga_path_shown(reference),
                         (const char *)reference->path.data);
}
