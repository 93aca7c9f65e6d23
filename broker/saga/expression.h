/* What a saga's definition says about values: templates, which make a step's input out of the saga's input and earlier
 * outputs, and conditions, which tell whether a step is run at all. Pure: what they read lies in a context,
 *
 *   {"input": ..., "steps": {NAME: {"output": ...}, ...}, "saga": {"id": ..., "key": ..., "name": ...}}
 *
 * A template is any JSON. A string in it that is "{path}" and nothing else stands for the value itself, of any kind;
 * "text {path} text" is a text that holds the value, which then must be a text, a number, true or false. "{{" is one
 * brace. Members' names are taken as they are.
 *
 * A path is input, steps.NAME.output, saga.id, saga.key or saga.name; behind the first two follow .FIELD and [N], as often
 * as needed. FIELD has letters, digits, '_' and '-'. A value that is absent is an error, unless a "?" stands behind the path:
 * then it is null, or nothing within a text. A value of null is not absent, but within a text it needs the "?" too.
 *
 * A condition compares (== != < <= > >=) paths, numbers, 'text' (two quotes are one), true, false and null, joined by and,
 * or, not and parentheses; `and` binds closer than `or`. A path alone holds when it is there, and neither null nor false.
 * What decides already, decides: behind a false `and` nothing is read. Numbers are ordered by size, texts by their
 * characters' codes; null is in no order to anything, so that < and the like do not hold; other kinds can't be ordered, which
 * is an error. Equal are values of the same kind and content; 1 and 1.0 are equal.
 */
#ifndef TXB_BROKER_SAGA_EXPRESSION_H
#define TXB_BROKER_SAGA_EXPRESSION_H

#include <jansson.h>
#include <stdbool.h>

#include "common/error.h"
#include "common/slice.h"

enum {
  TXB_SAGA_CONDITION_SIZE_MAX = 4000, /* bytes */
  TXB_SAGA_CONDITION_DEPTH_MAX = 32,  /* parentheses and nots within each other */
  TXB_SAGA_WORD_SIZE_MAX = 200,       /* bytes of a field's name */
};

enum txb_saga_root {
  TXB_SAGA_FROM_INPUT = 0,
  TXB_SAGA_FROM_STEP,
  TXB_SAGA_FROM_SAGA,
};

/* What a template or condition reads. Borrowed from its text. */
struct txb_saga_reference {
  enum txb_saga_root root;
  struct txb_slice path; /* as written, without the "?" */
  struct txb_slice step; /* whose output, else absent */
  bool optional;         /* with "?" */
  bool tested;           /* alone in a condition, which may be about whether it is there at all */
};
/* Told of each reference in the order of the text; what it returns other than TXB_OK ends the check. */
typedef enum txb_rc (*txb_saga_visit)(void *arg, const struct txb_saga_reference *reference, struct txb_error *err);

/* Whether a string of a template can be read. TXB_REFUSED, with the piece that can't; or what `visit` (may be NULL)
 * returned. */
enum txb_rc txb_saga_template_check(const char *text, txb_saga_visit visit, void *arg,
                                    struct txb_error *err) TXB_MUST_CHECK;
/* The same for a condition. */
enum txb_rc txb_saga_condition_check(const char *text, txb_saga_visit visit, void *arg,
                                     struct txb_error *err) TXB_MUST_CHECK;

/* The template with the context's values in it: a new value, the caller's, which shares nothing with either. TXB_REFUSED,
 * with the path, when a value is absent or can't stand where it is wanted; TXB_FATAL: no memory. */
enum txb_rc txb_saga_template_fill(const json_t *template, const json_t *context, json_t **out,
                                   struct txb_error *err) TXB_MUST_CHECK;
/* Whether the condition holds; failures likewise. */
enum txb_rc txb_saga_condition_holds(const char *text, const json_t *context, bool *out,
                                     struct txb_error *err) TXB_MUST_CHECK;

#endif
