/* Whether a saga's input is sure to hold what a template reads: what runs when there is no way back must not depend on luck.
 * Only what txb.json_schema_problem (schemas/sql/0024_sagas.sql) checks at the start of a saga counts: type, required,
 * properties, additionalProperties, items and minItems. Pure. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/saga/definition_internal.h"

/* Nothing but that kind: with others beside it, or none said, the value may be one that holds nothing. */
static bool is_only(const json_t *schema, const char *kind) {
  const json_t *type = json_object_get(schema, "type");
  if (json_is_array(type) && json_array_size(type) == 1)
    type = json_array_get(type, 0);
  return json_is_string(type) && strcmp(json_string_value(type), kind) == 0;
}

static bool requires(const json_t *schema, const char *name) {
  const json_t *required = json_object_get(schema, "required");
  for (size_t i = 0; i < json_array_size(required); i++) {
    const json_t *one = json_array_get(required, i);
    if (json_is_string(one) && strcmp(json_string_value(one), name) == 0)
      return true;
  }
  return false;
}

static const json_t *schema_of_member(const json_t *schema, const char *name) {
  const json_t *of_name = json_object_get(json_object_get(schema, "properties"), name);
  return of_name != NULL ? of_name : json_object_get(schema, "additionalProperties");
}

/* How a path is read, part by part: what came before the part at hand is sure to be there. */
struct walk {
  const char *path, *at, *end;
  const json_t *schema; /* of the value so far; NULL: none */
  char *why;
};

/* "its schema ... PATH", with the path up to `end`. */
static void complain(struct walk *w, const char *what, const char *end) {
  ptrdiff_t size = end - w->path;
  (void)snprintf(w->why, TXB_SAGA_WHY_SIZE, "its schema %s %.*s", what, size < 100 ? (int)size : 100, w->path);
}

static bool member_is_there(struct walk *w) {
  char name[TXB_SAGA_WORD_SIZE_MAX + 1];
  const char *from = w->at + 1, *end = from;
  while (end < w->end && *end != '.' && *end != '[')
    end++;
  (void)snprintf(name, sizeof name, "%.*s", (int)(end - from), from);
  if (!is_only(w->schema, "object"))
    complain(w, "does not say \"type\": \"object\" of", w->at);
  else if (!requires(w->schema, name))
    complain(w, "does not require", end);
  w->at = end;
  w->schema = schema_of_member(w->schema, name);
  return *w->why == '\0';
}

static bool element_is_there(struct walk *w) {
  char *end;
  unsigned long n = strtoul(w->at + 1, &end, 10);
  if (!is_only(w->schema, "array"))
    complain(w, "does not say \"type\": \"array\" of", w->at);
  else if (json_number_value(json_object_get(w->schema, "minItems")) <= (double)n)
    complain(w, "has no minItems that makes sure of", end + 1);
  w->at = end + 1;
  w->schema = json_object_get(w->schema, "items");
  return *w->why == '\0';
}

bool txb_saga_input_has(const json_t *schema, const struct txb_saga_reference *reference, char why[TXB_SAGA_WHY_SIZE]) {
  const char *path = (const char *)reference->path.data;
  struct walk w = {path, path + strlen("input"), path + reference->path.size, schema, why};
  *why = '\0';
  if (w.at < w.end && schema == NULL) {
    (void)snprintf(why, TXB_SAGA_WHY_SIZE, "the definition has no schema of its input");
    return false;
  }
  while (w.at < w.end)
    if (!(*w.at == '[' ? element_is_there(&w) : member_is_there(&w)))
      return false;
  return true;
}
