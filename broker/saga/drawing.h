/* A saga's definition as a drawing: text for a terminal, dot for Graphviz, mermaid for pages; with the states of one
 * instance, where they are given. Each rule is drawn, so that a reserve step is seen twice, with its confirm. An arrow that
 * others say already is left out. Names and texts are escaped, so that none of them ends what it stands in. Pure.
 *
 *   saga trip, version 3
 *
 *    1  flight: compensatable [done: seat 12A]
 *    2    payment: pivot; after flight
 *    3      ticket: retriable; after payment; if input.paper
 *
 * The number is the layer: what stands in one layer may run side by side. Lines have 80 characters at most, and go on below,
 * further in; whatever is not in the text's letters, such as a line's end, is a space.
 */
#ifndef TXB_BROKER_SAGA_DRAWING_H
#define TXB_BROKER_SAGA_DRAWING_H

#include "broker/saga/definition.h"
#include "common/buffer.h"

enum txb_saga_drawing {
  TXB_SAGA_DRAWING_TEXT = 0,
  TXB_SAGA_DRAWING_DOT,
  TXB_SAGA_DRAWING_MERMAID,
};
/* By its name on the command line: text, dot or mermaid. False: there is none of that name. */
bool txb_saga_drawing_of(const char *name, enum txb_saga_drawing *out);

/* What to say of a rule. */
struct txb_saga_drawn_state {
  const char *state; /* txb_saga_step_state_name; NULL: nothing is said */
  const char *text;  /* more about it, such as the error; NULL: nothing */
};

/* Adds the drawing to `out`. states: one for each rule (definition->rules.count), or NULL. TXB_FATAL: no memory. */
enum txb_rc txb_saga_draw(const struct txb_saga_definition *definition, enum txb_saga_drawing how,
                          const struct txb_saga_drawn_state *states, struct txb_buffer *out,
                          struct txb_error *err) TXB_MUST_CHECK;

#endif
