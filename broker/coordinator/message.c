/* What a message in the coordinator's topic says. See coordinator_internal.h. */
#include <stdlib.h>

#include "broker/coordinator/coordinator_internal.h"

static const struct {
  const char *type;
  enum txb_saga_message_kind kind;
} types[] = {{"txb.saga.start", TXB_SAGA_MESSAGE_START},   {"txb.reply", TXB_SAGA_MESSAGE_ANSWER},
             {"txb.saga.timer", TXB_SAGA_MESSAGE_TIMER},   {"txb.saga.decision", TXB_SAGA_MESSAGE_DECISION},
             {"txb.saga.settle", TXB_SAGA_MESSAGE_SETTLE}, {"txb.saga.undo", TXB_SAGA_MESSAGE_UNDO},
             {"txb.saga.wake", TXB_SAGA_MESSAGE_WAKE}};

const char *txb_saga_message_text(const json_t *object, const char *name) {
  return json_string_value(json_object_get(object, name));
}

static enum txb_saga_message_kind kind_of(struct txb_slice type) {
  for (size_t t = 0; t < TXB_ARRAY_SIZE(types); t++)
    if (txb_slice_equal(type, txb_slice_text(types[t].type)))
      return types[t].kind;
  return TXB_SAGA_MESSAGE_STRAY;
}

/* Microseconds since 1970 as text. */
static bool read_time(const char *text, int64_t *out) {
  int64_t us = 0;
  size_t n = text == NULL ? 0 : strlen(text);
  if (n == 0 || n > 18 || strspn(text, "0123456789") != n)
    return false;
  for (size_t i = 0; i < n; i++)
    us = 10 * us + (text[i] - '0');
  *out = us;
  return true;
}

static const char *problem_of_body(const json_error_t *why) {
  return json_error_code(why) == json_error_numeric_overflow
             ? "its payload has a number that does not fit into 64 bits: such are written as text"
             : "its payload is no JSON object";
}

/* Other ways to write the id would lie in another partition. */
static bool is_key_of(struct txb_slice key, const struct txb_uuid *saga) {
  char id[37];
  txb_uuid_format(saga, id);
  return txb_slice_equal(key, txb_slice_text(id));
}

/* NULL: it can be used. `why`: of a body that could not be read. */
static const char *problem_of(const struct txb_engine_message *m, const json_error_t *why,
                              struct txb_saga_message *out) {
  const char *id = txb_saga_message_text(out->headers, "txb-saga");
  if (out->kind == TXB_SAGA_MESSAGE_STRAY)
    return "its type is none that a coordinator knows";
  if (id == NULL || txb_uuid_parse(txb_slice_text(id), &out->saga, NULL) != TXB_OK)
    return "it names no saga: the header txb-saga is missing, or no UUID";
  if (!read_time(txb_saga_message_text(out->headers, "txb-saga-started"), &out->started_us))
    return "the header txb-saga-started is missing, or no number of microseconds";
  if (!json_is_object(out->body))
    return problem_of_body(why);
  if (!is_key_of(m->key, &out->saga))
    return "its key is not the saga's id: it may lie in a partition where it overtakes others";
  if (out->kind == TXB_SAGA_MESSAGE_ANSWER && txb_saga_message_text(out->body, "answer") == NULL)
    return "an answer without an answer";
  if (out->kind == TXB_SAGA_MESSAGE_TIMER && !json_is_integer(json_object_get(out->body, "due_us")))
    return "a timer without a time";
  if (out->kind == TXB_SAGA_MESSAGE_DECISION && txb_saga_message_text(out->body, "decision") == NULL)
    return "a decision without a decision";
  return txb_saga_message_parent(out);
}

/* NULL in *out: it can't be read; why tells the reason. TXB_FATAL: no memory. */
static enum txb_rc read_json(struct txb_slice text, json_t **out, json_error_t *why, struct txb_error *err) {
  *why = (json_error_t){.line = -1};
  *out = text.size > 0 ? json_loadb(text.data, text.size, 0, why) : NULL;
  if (text.size > 0 && *out == NULL && (json_error_code(why) == json_error_out_of_memory || why->text[0] == '\0'))
    return TXB_FAIL(err, TXB_FATAL, "no memory for a message of %zu bytes", text.size);
  return TXB_OK;
}

enum txb_rc txb_saga_message_read(const struct txb_engine_message *message, struct txb_saga_message *out,
                                  struct txb_error *err) {
  json_error_t why;
  *out = (struct txb_saga_message){.kind = kind_of(message->type)};
  enum txb_rc rc = read_json(message->headers, &out->headers, &why, err);
  rc = rc == TXB_OK ? read_json(message->payload, &out->body, &why, err) : rc;
  if (rc != TXB_OK) {
    txb_saga_message_fini(out);
    return rc;
  }
  out->problem = problem_of(message, &why, out);
  if (out->problem != NULL) {
    out->kind = TXB_SAGA_MESSAGE_STRAY;
    out->has_parent = false;
  }
  out->from_elsewhere = out->has_parent || (out->kind == TXB_SAGA_MESSAGE_START && json_object_size(out->body) > 0);
  return TXB_OK;
}

void txb_saga_message_fini(struct txb_saga_message *message) {
  json_decref(message->headers);
  json_decref(message->body);
  message->headers = message->body = NULL;
}
