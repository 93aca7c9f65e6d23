/* What the database knows of the sagas that a batch is about: one round trip, and one more for each definition that is met
 * for the first time. See coordinator_internal.h. */
#include <inttypes.h>
#include <stdlib.h>

#include "broker/coordinator/coordinator_internal.h"
#include "common/fault.h"
#include "coordinator_sql.h"

static const struct txb_pg_statement begin = {"txb_saga_begin", txb_text_saga_begin},
                                     load = {"txb_saga_load", txb_text_saga_load},
                                     events = {"txb_saga_events", txb_text_saga_events};

enum {
  LOAD_NTH,
  LOAD_NAME,
  LOAD_VERSION,
  LOAD_KEY,
  LOAD_INPUT,
  LOAD_DEADLINE,
  LOAD_REPLY_TOPIC,
  LOAD_PARENT,
  LOAD_ENDED,
  LOAD_NOW
};
enum { EVENT_NTH, EVENT_N, EVENT_AT, EVENT_EVENT, EVENT_STEP, EVENT_SENDING, EVENT_OUTPUT, EVENT_REASON, EVENT_TIMER };

enum txb_rc txb_coordinator_answers(struct txb_pg *pg, struct txb_pg_result **out[], size_t count,
                                    struct txb_error *err) {
  struct txb_error failed = {.rc = TXB_OK}, one;
  for (size_t n = 0;;) {
    enum txb_pg_kind kind;
    struct txb_pg_result *r = NULL;
    enum txb_rc rc = txb_pg_next_wait(pg, -1, &kind, &r, &one);
    if (rc != TXB_OK) {
      *err = one;
      return rc;
    }
    if (kind == TXB_PG_SYNC)
      break;
    if (kind == TXB_PG_ERROR && failed.rc == TXB_OK)
      failed = one;
    if (kind == TXB_PG_ROWS && n < count && out[n] != NULL)
      *out[n++] = r;
    else
      txb_pg_result_free(r);
  }
  if (failed.rc == TXB_OK)
    return TXB_OK;
  *err = failed;
  return failed.rc;
}

/* ---- which sagas -------------------------------------------------------------------------------------------- */

static int by_saga(const void *a, const void *b) {
  const struct txb_saga_message *x = *(const struct txb_saga_message *const *)a;
  const struct txb_saga_message *y = *(const struct txb_saga_message *const *)b;
  int by_id = memcmp(&x->saga, &y->saga, sizeof x->saga);
  return by_id != 0 ? by_id : (x->started_us > y->started_us) - (x->started_us < y->started_us);
}

/* Planted: rules of the state machine broken on purpose. */
static const struct txb_saga_bugs *planted(void) {
  static const struct txb_saga_bugs guesses = {.pivot_guessed = true}, forgets = {.late_effect_ignored = true},
                                    skips = {.skip_guessed = true};
  if (txb_bug("saga_skip_guessed"))
    return &skips;
  return txb_bug("saga_pivot_guessed") ? &guesses : txb_bug("saga_late_effect_ignored") ? &forgets : NULL;
}

static enum txb_rc find_cases(struct txb_coordinator *c, struct txb_error *err) {
  TXB_CLEANUP(txb_free_ptr) struct txb_saga_message **sorted = NULL;
  size_t count = 0;
  TXB_TRY(txb_regrow_array(&sorted, c->message_count + 1, sizeof(void *), err));
  for (size_t m = 0; m < c->message_count; m++)
    if (c->messages[m].kind != TXB_SAGA_MESSAGE_STRAY)
      sorted[count++] = &c->messages[m];
  qsort(sorted, count, sizeof(void *), by_saga);
  c->case_count = 0;
  for (size_t s = 0; s < count; s++) {
    if (s == 0 || by_saga(&sorted[s - 1], &sorted[s]) != 0)
      c->cases[c->case_count++] = (struct txb_saga_case){
          .instance = {
              .id = sorted[s]->saga, .started_us = sorted[s]->started_us, .bugs = planted(), .topic = c->topic}};
    sorted[s]->instance = c->case_count - 1;
  }
  return TXB_OK;
}

/* ---- asking ------------------------------------------------------------------------------------------------- */

static void add_text(struct txb_pg_params *p, const char *text) {
  txb_pg_array_bytes(p, txb_slice_text(text));
}

static enum txb_rc add_json(struct txb_pg_params *p, const json_t *value, struct txb_error *err) {
  if (value == NULL || json_is_null(value)) {
    txb_pg_array_jsonb(p, txb_slice_of(NULL, 0));
    return TXB_OK;
  }
  char *text = txb_saga_json_text(value);
  if (text == NULL)
    return TXB_FAIL(err, TXB_FATAL, "no memory for a saga's input");
  txb_pg_array_jsonb(p, txb_slice_text(text));
  free(text);
  return TXB_OK;
}

static void add_integer(struct txb_pg_params *p, const json_t *value, bool wide) {
  if (!json_is_integer(value))
    txb_pg_array_bytes(p, txb_slice_of(NULL, 0));
  else if (wide)
    txb_pg_array_int8(p, json_integer_value(value));
  else
    txb_pg_array_int4(p, (int32_t)json_integer_value(value));
}

enum begin_column {
  BEGIN_ID,
  BEGIN_TIME,
  BEGIN_NAME,
  BEGIN_VERSION,
  BEGIN_KEY,
  BEGIN_INPUT,
  BEGIN_DEADLINE,
  BEGIN_REPLY_TOPIC,
  BEGIN_PARENT,
  BEGIN_COLUMNS
};
static const struct {
  uint32_t oid;
  const char *member;
} begin_columns[BEGIN_COLUMNS] = {
    {TXB_OID_UUID, NULL},          {TXB_OID_TIMESTAMPTZ, NULL},   {TXB_OID_TEXT, "name"},
    {TXB_OID_INT4, "version"},     {TXB_OID_TEXT, "key"},         {TXB_OID_JSONB, "input"},
    {TXB_OID_INT8, "deadline_ms"}, {TXB_OID_TEXT, "reply_topic"}, {TXB_OID_JSONB, "parent"}};

static enum txb_rc add_begin(struct txb_coordinator *c, enum begin_column column, const struct txb_saga_message *m,
                             struct txb_error *err) {
  struct txb_pg_params *p = &c->params;
  const json_t *value =
      begin_columns[column].member != NULL ? json_object_get(m->body, begin_columns[column].member) : NULL;
  switch (column) {
  case BEGIN_ID:
    txb_pg_array_bytes(p, txb_slice_of(m->saga.bytes, sizeof m->saga.bytes));
    break;
  case BEGIN_TIME:
    txb_pg_array_timestamptz(p, m->started_us);
    break;
  case BEGIN_NAME:
  case BEGIN_KEY:
  case BEGIN_REPLY_TOPIC:
    add_text(p, json_string_value(value));
    break;
  case BEGIN_VERSION:
  case BEGIN_DEADLINE:
    add_integer(p, value, column == BEGIN_DEADLINE);
    break;
  case BEGIN_INPUT: /* of no input at all the schema has to say what it thinks */
    if (value != NULL && !json_is_null(value))
      return add_json(p, value, err);
    txb_pg_array_jsonb(p, txb_slice_text("null"));
    break;
  case BEGIN_PARENT:
    return add_json(p, value, err);
  case BEGIN_COLUMNS:
    break;
  }
  return TXB_OK;
}

static enum txb_rc send_begin(struct txb_coordinator *c, struct txb_pg *pg, bool *sent_out, struct txb_error *err) {
  *sent_out = false;
  for (size_t m = 0; m < c->message_count; m++)
    *sent_out = *sent_out || c->messages[m].from_elsewhere;
  if (!*sent_out)
    return TXB_OK;
  txb_pg_params_clear(&c->params);
  for (int column = 0; column < BEGIN_COLUMNS; column++) {
    txb_pg_array_begin(&c->params, begin_columns[column].oid);
    for (size_t m = 0; m < c->message_count; m++)
      if (c->messages[m].from_elsewhere)
        TXB_TRY(add_begin(c, (enum begin_column)column, &c->messages[m], err));
    txb_pg_array_end(&c->params);
  }
  return txb_pg_send(pg, &begin, &c->params, err);
}

static enum txb_rc send_load(struct txb_coordinator *c, struct txb_pg *pg, struct txb_error *err) {
  txb_pg_params_clear(&c->params);
  txb_pg_array_begin(&c->params, TXB_OID_UUID);
  for (size_t n = 0; n < c->case_count; n++)
    txb_pg_array_bytes(&c->params, txb_slice_of(c->cases[n].instance.id.bytes, sizeof c->cases[n].instance.id.bytes));
  txb_pg_array_end(&c->params);
  txb_pg_array_begin(&c->params, TXB_OID_TIMESTAMPTZ);
  for (size_t n = 0; n < c->case_count; n++)
    txb_pg_array_timestamptz(&c->params, c->cases[n].instance.started_us);
  txb_pg_array_end(&c->params);
  TXB_TRY(txb_pg_send(pg, &load, &c->params, err));
  return txb_pg_send(pg, &events, &c->params, err);
}

/* ---- taking it in ------------------------------------------------------------------------------------------- */

static void note_begun(struct txb_coordinator *c) {
  for (int row = 0; c->begun != NULL && row < txb_pg_rows(c->begun); row++) {
    struct txb_uuid id;
    txb_pg_uuid(c->begun, row, 0, &id);
    for (size_t n = 0; n < c->case_count; n++)
      if (memcmp(&c->cases[n].instance.id, &id, sizeof id) == 0) {
        c->cases[n].begun = true;
        c->cases[n].problem = txb_pg_text(c->begun, row, 1);
      }
  }
}

static enum txb_rc take_definition(struct txb_coordinator *c, struct txb_pg *pg, struct txb_saga_case *of,
                                   struct txb_error *err) {
  if (of->version == 0) /* refused: it has none */
    return TXB_OK;
  of->instance.definition = txb_definitions_find(&c->definitions, of->name, of->version);
  if (of->instance.definition != NULL)
    return TXB_OK;
  return txb_definitions_load(&c->definitions, pg, of->name, of->version, &of->instance.definition, err);
}

static enum txb_rc take_rows(struct txb_coordinator *c, struct txb_pg *pg, struct txb_error *err) {
  const struct txb_pg_result *r = c->loaded;
  for (int row = 0; row < txb_pg_rows(r); row++) {
    struct txb_saga_case *of = &c->cases[txb_pg_int8(r, row, LOAD_NTH) - 1];
    of->found = true;
    of->name = txb_pg_text(r, row, LOAD_NAME);
    of->version = txb_pg_int4(r, row, LOAD_VERSION);
    of->reply_topic = txb_pg_text(r, row, LOAD_REPLY_TOPIC);
    of->was_ended = txb_pg_bool(r, row, LOAD_ENDED);
    of->instance.key = txb_pg_bytes(r, row, LOAD_KEY);
    of->instance.input = txb_pg_jsonb(r, row, LOAD_INPUT);
    of->instance.deadline_us = txb_pg_is_null(r, row, LOAD_DEADLINE) ? 0 : txb_pg_timestamptz_us(r, row, LOAD_DEADLINE);
    c->now_us = txb_pg_timestamptz_us(r, row, LOAD_NOW);
    TXB_TRY(txb_saga_case_take_parent(of, txb_pg_jsonb(r, row, LOAD_PARENT), err));
    TXB_TRY(take_definition(c, pg, of, err));
    txb_saga_instance_init(&of->instance);
  }
  return TXB_OK;
}

static int64_t time_or_none(const struct txb_pg_result *r, int row, int column) {
  return txb_pg_is_null(r, row, column) ? 0 : txb_pg_timestamptz_us(r, row, column);
}

static enum txb_rc take_events(struct txb_coordinator *c, struct txb_error *err) {
  const struct txb_pg_result *r = c->events;
  for (int row = 0; row < txb_pg_rows(r); row++) {
    struct txb_saga_case *of = &c->cases[txb_pg_int8(r, row, EVENT_NTH) - 1];
    if (of->instance.definition == NULL)
      continue;
    const struct txb_saga_past past = {
        .n = txb_pg_int4(r, row, EVENT_N),
        .event = txb_pg_text(r, row, EVENT_EVENT),
        .step = txb_pg_bytes(r, row, EVENT_STEP),
        .sending = txb_pg_is_null(r, row, EVENT_SENDING) ? 0 : txb_pg_int4(r, row, EVENT_SENDING),
        .at_us = txb_pg_timestamptz_us(r, row, EVENT_AT),
        .timer_us = time_or_none(r, row, EVENT_TIMER),
        .output = txb_pg_jsonb(r, row, EVENT_OUTPUT),
        .reason = txb_pg_text(r, row, EVENT_REASON),
    };
    TXB_TRY(txb_saga_instance_replay(&of->instance, &past, err));
    of->ends_before = of->instance.ends;
  }
  return TXB_OK;
}

static enum txb_rc read_messages(struct txb_coordinator *c, const struct txb_engine_message *messages, size_t count,
                                 struct txb_error *err) {
  for (c->message_count = 0; c->message_count < count; c->message_count++)
    TXB_TRY(txb_saga_message_read(&messages[c->message_count], &c->messages[c->message_count], err));
  return TXB_OK;
}

enum txb_rc txb_coordinator_load(struct txb_coordinator *c, struct txb_pg *pg,
                                 const struct txb_engine_message *messages, size_t count, struct txb_error *err) {
  bool begins;
  TXB_TRY(read_messages(c, messages, count, err));
  TXB_TRY(find_cases(c, err));
  if (c->case_count == 0)
    return TXB_OK;
  TXB_TRY(send_begin(c, pg, &begins, err));
  TXB_TRY(send_load(c, pg, err));
  TXB_TRY(txb_pg_sync(pg, err));
  struct txb_pg_result **out[] = {&c->begun, &c->loaded, &c->events};
  TXB_TRY(txb_coordinator_answers(pg, begins ? out : out + 1, begins ? 3 : 2, err));
  note_begun(c);
  TXB_TRY(take_rows(c, pg, err));
  return take_events(c, err);
}
