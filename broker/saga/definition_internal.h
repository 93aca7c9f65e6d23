/* What the parts that read a definition share: not for others. */
#ifndef TXB_BROKER_SAGA_DEFINITION_INTERNAL_H
#define TXB_BROKER_SAGA_DEFINITION_INTERNAL_H

#include "broker/saga/definition.h"
#include "broker/saga/expression.h"
#include "common/json_place.h"

enum {
  TXB_SAGA_PATH_MAX = 60,
  TXB_SAGA_WHY_SIZE = 200,
};

/* Goes through a definition and keeps the problem that stands first in the file. */
struct txb_saga_reader {
  struct txb_json_document document;
  struct txb_json_step path[TXB_SAGA_PATH_MAX]; /* of the value at hand */
  size_t depth;
  struct txb_saga_definition *definition;
  struct txb_saga_step_definition *step; /* at hand */
  struct txb_saga_operation *operation;  /* at hand */
  uint64_t kinds_known;                  /* bit n: the kind of step n could be read */
  bool is_new;                           /* it is yet to be deployed: see txb_saga_definition_parse_new */
  bool names_broken;                     /* not all steps' names can be read: whether there is a step isn't known */
  bool graph_broken;                     /* the steps' names, kinds or order can't be read */
  int problems;
  size_t position; /* in the text, of the problem kept */
  struct txb_error problem;
};

/* Notes a problem of the value at hand. */
void txb_saga_complain(struct txb_saga_reader *r, const char *fmt, ...) TXB_PRINTF(2, 3);
/* The value at hand becomes a member or element of the present one. */
void txb_saga_enter_key(struct txb_saga_reader *r, const char *key);
void txb_saga_enter_index(struct txb_saga_reader *r, size_t index);
void txb_saga_leave(struct txb_saga_reader *r);
/* For "%s" behind the words "unknown ...": "; did you mean x?", or "" when nothing is near. */
const char *txb_saga_did_you_mean(const char *word, const char *const *names, size_t count, char out[100]);

/* Keys, kinds of values, names, limits: what each object of the file holds, one by one. */
void txb_saga_read_definition(struct txb_saga_reader *r);
/* The order of the steps, and whether they can be run safely. */
void txb_saga_read_graph(struct txb_saga_reader *r);
/* What templates and conditions read. */
void txb_saga_read_references(struct txb_saga_reader *r);
/* Whether every input that the schema (NULL: there is none) lets pass holds what a path into the input leads to; false: `why` says
 * what is lacking. */
bool txb_saga_input_has(const json_t *schema, const struct txb_saga_reference *reference, char why[TXB_SAGA_WHY_SIZE]);

#endif
