/* Sagas that are steps of others: what a parent and its child say to each other. Both are sagas of one coordinator, each with its
 * own id, events and partition; what the one asks and the other answers are messages to the coordinator's topic, keyed by whom
 * they are for. Pure.
 *
 *   parent to child   txb.saga.start, .settle, .undo: {"name", "version", "input", "parent": {"saga", "started", "step",
 *                     "operation", "sending", "root"}}, where the operation is action or forward, resolve, compensation
 *   child to parent   txb.reply, as of a participant, with the header txb-saga-child
 *
 * A child began, for all that is kept by the day, when its parent did: so its id and its time are known to the parent without
 * looking. A retriable step that was refused is tried again as another saga, whose id follows from how often that happened; the
 * answers of an earlier one count no more.
 */
#ifndef TXB_BROKER_SAGA_NESTED_H
#define TXB_BROKER_SAGA_NESTED_H

#include "broker/saga/instance.h"

/* Whether a step of it is a saga. */
bool txb_saga_has_nested(const struct txb_saga_definition *definition);

/* The type of the message that carries an operation; static. */
const char *txb_saga_nested_type(enum txb_saga_operation_kind operation);

/* The saga that a step is at present. */
void txb_saga_child_of(const struct txb_saga_instance *instance, int rule, struct txb_uuid *out);

/* Reads the member "parent" of a message's body, or of a row. False: it can't be read. */
bool txb_saga_parent_read(const json_t *object, struct txb_saga_parent *out);

/* Fills in which versions its steps that are sagas were pinned to when it was deployed: {STEP: {"name", "version"}}. TXB_REFUSED:
 * one is missing. */
enum txb_rc txb_saga_definition_pin(struct txb_saga_definition *definition, const json_t *pins,
                                    struct txb_error *err) TXB_MUST_CHECK;

#endif
