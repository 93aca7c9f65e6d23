/* Sagas that are steps of others, on the coordinator's side: from whom a message comes, and what an answer looks like. What follows
 * from it is the instance's (broker/saga/nested.h). See coordinator_internal.h. */
#include <inttypes.h>

#include "broker/coordinator/coordinator_internal.h"

/* ---- messages ----------------------------------------------------------------------------------------------- */

static bool fits(enum txb_saga_message_kind kind, enum txb_saga_operation_kind operation) {
  switch (operation) {
  case TXB_SAGA_OPERATION_ACTION:
  case TXB_SAGA_OPERATION_FORWARD:
    return kind == TXB_SAGA_MESSAGE_START;
  case TXB_SAGA_OPERATION_RESOLVE:
    return kind == TXB_SAGA_MESSAGE_SETTLE;
  case TXB_SAGA_OPERATION_COMPENSATION:
    return kind == TXB_SAGA_MESSAGE_UNDO;
  }
  return false;
}

const char *txb_saga_message_parent(struct txb_saga_message *m) {
  const json_t *parent = json_object_get(m->body, "parent"), *version = json_object_get(m->body, "version");
  bool needed = m->kind == TXB_SAGA_MESSAGE_SETTLE || m->kind == TXB_SAGA_MESSAGE_UNDO;
  if (!needed && (m->kind != TXB_SAGA_MESSAGE_START || parent == NULL || json_is_null(parent)))
    return NULL;
  if (!txb_saga_parent_read(parent, &m->parent) || m->parent.started_us != m->started_us)
    return "what it says of the saga that it is a step of can't be read";
  if (!fits(m->kind, m->parent.operation))
    return "its type is not that of the operation that its parent names";
  if (txb_saga_message_text(m->body, "name") == NULL || !json_is_integer(version) || json_integer_value(version) < 1 ||
      json_integer_value(version) > INT32_MAX)
    return "a step of another saga without name and version";
  m->has_parent = true;
  return NULL;
}

/* ---- cases -------------------------------------------------------------------------------------------------- */

bool txb_saga_case_never_began(const struct txb_saga_case *of) {
  return of->instance.definition == NULL || (of->begun && of->problem != NULL) ||
         (of->was_ended && of->ends_before == 0);
}

bool txb_saga_case_reopens(const struct txb_saga_case *of) {
  const struct txb_saga_instance *i = &of->instance;
  return of->found && of->was_ended && of->ends_before > 0 && (!i->ended || i->ends > of->ends_before);
}

/* What can't be read is as good as none: nobody asks then. */
enum txb_rc txb_saga_case_take_parent(struct txb_saga_case *of, struct txb_slice json, struct txb_error *err) {
  json_error_t why = {.line = -1};
  if (json.data == NULL)
    return TXB_OK;
  json_t *parent = json_loadb(json.data, json.size, 0, &why);
  if (parent == NULL && (json_error_code(&why) == json_error_out_of_memory || why.text[0] == '\0'))
    return TXB_FAIL(err, TXB_FATAL, "no memory for what a saga is a step of");
  if (txb_saga_parent_read(parent, &of->parent))
    of->instance.parent = &of->parent;
  json_decref(parent);
  return TXB_OK;
}

static bool is_same(const struct txb_saga_parent *a, const struct txb_saga_parent *b) {
  return memcmp(&a->saga, &b->saga, sizeof a->saga) == 0 && a->started_us == b->started_us &&
         strcmp(a->step, b->step) == 0;
}

enum txb_rc txb_coordinator_from_parent(struct txb_coordinator *c, struct txb_saga_message *m, struct txb_saga_case *of,
                                        const struct txb_saga_moment *moment, struct txb_error *err) {
  struct txb_saga_instance *i = &of->instance;
  if (i->parent == NULL || !is_same(i->parent, &m->parent)) {
    m->problem = "it is not from the saga that this one is a step of";
    return TXB_OK;
  }
  if (txb_saga_case_never_began(of))
    return txb_saga_say_never(i, &m->parent, of->problem != NULL ? of->problem : "it was refused, and never began",
                              &c->ledger, err);
  if (m->kind == TXB_SAGA_MESSAGE_START && !i->begun && !i->ended)
    return txb_coordinator_on_start(c, of, moment, err);
  return txb_saga_instance_on_parent(i, m->parent.operation, m->parent.sending, moment, &c->ledger, err);
}

/* ---- answers ------------------------------------------------------------------------------------------------- */

void txb_saga_said_headers(const struct txb_saga_said *said, const char *topic, struct txb_buffer *out) {
  const struct txb_saga_parent *to = said->instance->parent;
  char parent[37], child[37];
  txb_uuid_format(&to->saga, parent);
  txb_uuid_format(&said->instance->id, child);
  txb_buffer_addf(out,
                  "{\"txb-saga\":\"%s\",\"txb-saga-started\":\"%" PRId64 "\",\"txb-saga-step\":\"%s\","
                  "\"txb-saga-operation\":\"%s\",\"txb-saga-sending\":\"%" PRId32 "\",\"txb-saga-child\":\"%s\","
                  "\"txb-command-topic\":\"%s\"}",
                  parent, to->started_us, to->step, txb_saga_operation_name(said->operation), said->sending, child,
                  topic);
}
