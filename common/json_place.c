/* Where something stands in a JSON text. It reads only within the text whatever that holds, but finds things only in
 * valid JSON. */
#include "common/json_place.h"

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
