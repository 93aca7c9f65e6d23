/* Where something stands in a JSON text. It reads only within the text whatever that holds, but finds things only in
 * valid JSON. */
#include "common/json_place.h"

#include <stdio.h>
#include <string.h>

#define DEPTH_MAX 64

struct cursor {
  const char *at, *end;
  int line;
};

static char peek(const struct cursor *c) {
  return c->at < c->end ? *c->at : '\0';
}

static void advance(struct cursor *c) {
  if (c->at < c->end && *c->at++ == '\n')
    c->line++;
}

static void skip_space(struct cursor *c) {
  while (peek(c) == ' ' || peek(c) == '\t' || peek(c) == '\r' || peek(c) == '\n')
    advance(c);
}

static void skip_string(struct cursor *c) {
  advance(c);
  while (c->at < c->end && peek(c) != '"') {
    if (peek(c) == '\\')
      advance(c);
    advance(c);
  }
  advance(c);
}

/* Skips a value; brackets only need counting, since those inside strings are skipped with them. */
static void skip_value(struct cursor *c) {
  int open = 0;
  do {
    skip_space(c);
    char first = peek(c);
    if (first == '"') {
      skip_string(c);
    } else {
      open += first == '{' || first == '[';
      open -= first == '}' || first == ']';
      bool word = strchr("{}[],:", first) == NULL;
      advance(c);
      while (word && c->at < c->end && strchr("{}[],: \t\r\n\"", peek(c)) == NULL)
        advance(c);
    }
  } while (open > 0 && c->at < c->end);
}

/* Moves the cursor to the value at the end of the path and gives the line of its key or element; 0: not found. */
static int find(struct cursor *c, const struct txb_json_step *path, size_t depth);

static int find_member(struct cursor *c, const struct txb_json_step *path, size_t depth) {
  advance(c);
  for (;;) {
    skip_space(c);
    if (peek(c) != '"')
      return 0;
    int line = c->line;
    const char *key = c->at + 1;
    skip_string(c);
    bool same = txb_slice_equal(txb_slice_of(key, (size_t)(c->at - 1 - key)), txb_slice_text(path->key));
    skip_space(c);
    advance(c); /* the colon */
    if (same)
      return depth == 1 ? line : find(c, path + 1, depth - 1);
    skip_value(c);
    skip_space(c);
    if (peek(c) != ',')
      return 0;
    advance(c);
  }
}

static int find_element(struct cursor *c, const struct txb_json_step *path, size_t depth) {
  advance(c);
  for (size_t i = 0;; i++) {
    skip_space(c);
    if (c->at >= c->end || peek(c) == ']')
      return 0;
    if (i == path->index)
      return depth == 1 ? c->line : find(c, path + 1, depth - 1);
    skip_value(c);
    skip_space(c);
    if (peek(c) != ',')
      return 0;
    advance(c);
  }
}

static int find(struct cursor *c, const struct txb_json_step *path, size_t depth) {
  skip_space(c);
  if (path->key != NULL && peek(c) == '{')
    return find_member(c, path, depth);
  if (path->key == NULL && peek(c) == '[')
    return find_element(c, path, depth);
  return 0;
}

int txb_json_line(struct txb_slice text, const struct txb_json_step *path, size_t depth) {
  if (depth == 0 || depth > DEPTH_MAX || text.data == NULL)
    return 0;
  struct cursor c = {text.data, (const char *)text.data + text.size, 1};
  return find(&c, path, depth);
}

struct txb_slice txb_json_span(struct txb_slice text, const struct txb_json_step *path, size_t depth) {
  if (depth == 0 || depth > DEPTH_MAX || text.data == NULL)
    return (struct txb_slice){NULL, 0};
  struct cursor c = {text.data, (const char *)text.data + text.size, 1};
  if (find(&c, path, depth) == 0)
    return (struct txb_slice){NULL, 0};
  skip_space(&c);
  const char *from = c.at;
  skip_value(&c);
  return txb_slice_of(from, (size_t)(c.at - from));
}

enum txb_rc txb_json_parse(const struct txb_json_document *document, json_t **out, struct txb_error *err) {
  json_error_t problem;
  json_t *root = json_loadb(document->text.data, document->text.size, JSON_REJECT_DUPLICATES, &problem);
  if (root == NULL) {
    /* What follows " near " is a piece of the file: it could be a password. */
    char *near = strstr(problem.text, " near ");
    if (near != NULL)
      *near = '\0';
    char *option = strstr(problem.text, " without JSON_ALLOW_NUL"); /* jansson's advice to who calls it */
    if (option != NULL)
      *option = '\0';
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "%s:%d:%d: not valid JSON: %s", document->name,
                         problem.line, problem.column, problem.text);
  }
  *out = root;
  return TXB_OK;
}

void txb_json_describe(const struct txb_json_document *document, const struct txb_json_step *path, size_t depth,
                       char out[TXB_JSON_WHERE_SIZE]) {
  char keys[TXB_JSON_WHERE_SIZE / 2] = "";
  size_t used = 0;
  for (size_t i = 0; i < depth && used < sizeof(keys); i++) {
    int n = path[i].key == NULL ? snprintf(keys + used, sizeof(keys) - used, "[%zu]", path[i].index)
                                : snprintf(keys + used, sizeof(keys) - used, "%s%s", i == 0 ? "" : ".", path[i].key);
    used += n < 0 ? 0 : (size_t)n;
  }
  int line = 0; /* of the nearest thing around it, where the key is written with escapes */
  for (size_t i = depth; i > 0 && line == 0; i--)
    line = txb_json_line(document->text, path, i);
  if (depth == 0)
    (void)snprintf(out, TXB_JSON_WHERE_SIZE, "%s:1", document->name);
  else if (line > 0)
    (void)snprintf(out, TXB_JSON_WHERE_SIZE, "%s:%d: %s", document->name, line, keys);
  else
    (void)snprintf(out, TXB_JSON_WHERE_SIZE, "%s: %s", document->name, keys);
}

const char *txb_json_kind_name(const json_t *value) {
  switch (json_typeof(value)) {
  case JSON_OBJECT:
    return "an object";
  case JSON_ARRAY:
    return "an array";
  case JSON_STRING:
    return "a string";
  case JSON_INTEGER:
  case JSON_REAL:
    return "a number";
  case JSON_TRUE:
  case JSON_FALSE:
    return "true or false";
  case JSON_NULL:
    return "null";
  }
  return "something else";
}
