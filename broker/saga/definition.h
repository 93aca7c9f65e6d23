/* What a saga is: its steps, their order and kinds, what each is told, and how long anything may take. A definition is a
 * JSON file (schemas/json/saga.schema.json); here it is read, and refused when it can't be run safely. Pure.
 *
 * Of the problems in a file the first in its order is told, with its line. Problems that need the steps' names, kinds and
 * order are looked for only when those can be read.
 *
 * A step of kind `reserve` is two rules for the state machine: its try, which its cancel compensates, and its confirm, which
 * is tried until it succeeds, once all that can be compensated is done and the pivot, if there is one, took effect.
 * Whoever is behind a reserve step is behind its try.
 */
#ifndef TXB_BROKER_SAGA_DEFINITION_H
#define TXB_BROKER_SAGA_DEFINITION_H

#include <jansson.h>
#include <stdint.h>

#include "broker/saga/saga_core.h"
#include "common/error.h"
#include "common/slice.h"

enum {
  TXB_SAGA_DEFINITION_SIZE_MAX = 256 * 1024, /* bytes of its file */
  TXB_SAGA_NAME_SIZE_MAX = 63,               /* of sagas and steps */
  TXB_SAGA_LOCKS_MAX = 64,
  TXB_SAGA_DEPTH_MAX = 8, /* sagas within each other, as in schemas/sql/0031_nested_sagas.sql */
};

enum txb_saga_step_kind {
  TXB_SAGA_STEP_COMPENSATABLE = 0,
  TXB_SAGA_STEP_PIVOT,
  TXB_SAGA_STEP_RETRIABLE,
  TXB_SAGA_STEP_RESERVE,
};
enum { TXB_SAGA_STEP_KINDS = TXB_SAGA_STEP_RESERVE + 1 };
/* As in a definition; static. */
const char *txb_saga_step_kind_name(enum txb_saga_step_kind kind);

/* A command to a participant. */
struct txb_saga_operation {
  const char *type;    /* NULL: there is no such command */
  const json_t *input; /* a template; NULL: the saga's input as it is */
};

struct txb_saga_retry {
  int32_t attempts; /* of one operation, the first included */
  int32_t factor;   /* by which the pause grows */
  int64_t first_ms, cap_ms;
};

struct txb_saga_step_definition {
  const char *name;
  enum txb_saga_step_kind kind;
  const char *topic;                /* of all its commands; NULL: a nested saga */
  struct txb_saga_operation action; /* or the try; of a nested saga only the input */
  struct txb_saga_operation undo;   /* compensation or cancel; none for a nested saga, which undoes its own steps */
  struct txb_saga_operation confirm;
  const char *nested;     /* the saga that the step is; NULL: a command */
  int32_t nested_version; /* 0: the newest when it is deployed, which is kept with it */
  const char *when;       /* a condition; NULL: always */
  int64_t timeout_ms;
  struct txb_saga_retry retry;
  uint64_t after;   /* bit n: step n */
  int confirm_rule; /* -1: it has none */
};

struct txb_saga_rule_origin {
  int step;     /* rule n is step n, as long as there are steps; behind them are the confirms */
  bool confirm; /* to be skipped when the try was */
};

/* All texts and JSON live as long as the definition. */
struct txb_saga_definition {
  const char *name, *description; /* the latter may be NULL */
  int32_t version;
  const json_t *input;         /* schema of the saga's input, an object; NULL: anything */
  const json_t *output;        /* template of what the saga gives; NULL: nothing */
  const json_t *output_schema; /* schema of that, an object; NULL: anything */
  const json_t *locks;         /* array of templates, each a text that reads the input or the saga; NULL: none */
  bool locks_refuse;           /* one that another saga holds ends this one; false: it waits for its turn */
  const char *reply_topic;     /* where its end is told; NULL: nowhere, unless the start says so */
  int64_t deadline_ms;         /* 0: none */
  int count;                   /* of steps */
  struct txb_saga_step_definition steps[TXB_SAGA_STEPS_MAX];
  struct txb_saga_rules rules; /* prepared */
  struct txb_saga_rule rule[TXB_SAGA_STEPS_MAX];
  struct txb_saga_rule_origin origin[TXB_SAGA_STEPS_MAX]; /* of rules.count rules */
  json_t *root;                                           /* what the texts lie in */
};

/* Reads and checks a definition. file_name stands in messages only. TXB_OK: *out is the caller's, to be freed.
 * TXB_REFUSED, an error of usage: "trip.json:12: steps[1].kind: ..." says what is wrong, where, and what to do about it.
 * TXB_FATAL: no memory. */
enum txb_rc txb_saga_definition_parse(const char *file_name, struct txb_slice text, struct txb_saga_definition **out,
                                      struct txb_error *err) TXB_MUST_CHECK;
/* The same for one that is yet to be deployed, of which more is asked: what is sent when there is no way back (compensation,
 * cancel, confirm, a retriable step) must not read what the saga may have begun without, for then it could never be sent. One that
 * was deployed before that was asked stays readable, since instances may run on it. */
enum txb_rc txb_saga_definition_parse_new(const char *file_name, struct txb_slice text,
                                          struct txb_saga_definition **out, struct txb_error *err) TXB_MUST_CHECK;
void txb_saga_definition_free(struct txb_saga_definition *definition); /* NULL is fine */

/* The number of the step of that name, -1: there is none. */
int txb_saga_definition_step(const struct txb_saga_definition *definition, struct txb_slice name);
/* "30s" and the like: a whole number above 0 with ms, s, m, h or d, at most 365 days. False: it is none. */
bool txb_saga_duration_parse(const char *text, int64_t *ms_out);

#endif
