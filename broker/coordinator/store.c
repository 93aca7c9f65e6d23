/* What came of a batch: entries, commands, timers, ends and strays, in one round trip. See coordinator_internal.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "broker/coordinator/coordinator_internal.h"
#include "common/event.h"
#include "coordinator_sql.h"

static const struct txb_pg_statement append = {"txb_saga_append", txb_text_saga_append},
                                     finish = {"txb_saga_finish", txb_text_saga_finish},
                                     publish = {"txb_saga_publish", txb_text_saga_publish},
                                     stray = {"txb_saga_stray", txb_text_saga_stray},
                                     reopen = {"txb_saga_reopen", txb_text_saga_reopen},
                                     timer_drop = {"txb_saga_timer_drop", txb_text_saga_timer_drop};

/* ---- columns ------------------------------------------------------------------------------------------------ */

static void add_uuid(struct txb_pg_params *p, const struct txb_uuid *id) {
  txb_pg_array_bytes(p, txb_slice_of(id->bytes, sizeof id->bytes));
}

static void add_null(struct txb_pg_params *p) {
  txb_pg_array_bytes(p, txb_slice_of(NULL, 0));
}

static void add_text(struct txb_pg_params *p, const char *text) {
  txb_pg_array_bytes(p, txb_slice_text(text));
}

static void add_time(struct txb_pg_params *p, int64_t us) {
  if (us == 0)
    add_null(p);
  else
    txb_pg_array_timestamptz(p, us);
}

/* ---- entries ------------------------------------------------------------------------------------------------ */

enum entry_column {
  ENTRY_SAGA,
  ENTRY_STARTED,
  ENTRY_N,
  ENTRY_AT,
  ENTRY_EVENT,
  ENTRY_STEP,
  ENTRY_SENDING,
  ENTRY_OUTPUT,
  ENTRY_REASON,
  ENTRY_WHO,
  ENTRY_SENT,
  ENTRY_TIMER,
  ENTRY_MESSAGE,
  ENTRY_PARTITION,
  ENTRY_OFFSET,
  ENTRY_COLUMNS
};
static const uint32_t entry_oids[ENTRY_COLUMNS] = {
    TXB_OID_UUID,  TXB_OID_TIMESTAMPTZ, TXB_OID_INT4,  TXB_OID_TIMESTAMPTZ, TXB_OID_TEXT,
    TXB_OID_TEXT,  TXB_OID_INT4,        TXB_OID_JSONB, TXB_OID_TEXT,        TXB_OID_TEXT,
    TXB_OID_JSONB, TXB_OID_TIMESTAMPTZ, TXB_OID_UUID,  TXB_OID_INT4,        TXB_OID_INT8};

/* Names of steps and operations need no escapes in JSON. */
static struct txb_slice sent_of(struct txb_coordinator *c, const struct txb_saga_entry *e) {
  struct txb_buffer *b = &c->scratch;
  if (e->command_count == 0)
    return txb_slice_of(NULL, 0);
  txb_buffer_clear(b);
  for (size_t n = 0; n < e->command_count; n++) {
    const struct txb_saga_command *command = &c->ledger.commands[e->first_command + n];
    char id[37];
    txb_uuid_format(&command->id, id);
    txb_buffer_addf(b, "%s{\"step\":\"%s\",\"operation\":\"%s\",\"sending\":%" PRId32 ",\"id\":\"%s\"",
                    n == 0 ? "[" : ",", command->step, txb_saga_operation_name(command->operation), command->sending,
                    id);
    txb_uuid_format(&command->child, id);
    if (command->nested)
      txb_buffer_addf(b, ",\"saga\":\"%s\"", id);
    txb_buffer_add_text(b, "}");
  }
  txb_buffer_add_text(b, "]");
  return txb_slice_of(b->data, b->size);
}

static void add_entry(struct txb_coordinator *c, enum entry_column column, const struct txb_saga_entry *e,
                      const struct txb_engine_message *m) {
  struct txb_pg_params *p = &c->params;
  switch (column) {
  case ENTRY_SAGA:
    add_uuid(p, &e->instance->id);
    break;
  case ENTRY_STARTED:
    txb_pg_array_timestamptz(p, e->instance->started_us);
    break;
  case ENTRY_N:
    txb_pg_array_int4(p, e->n);
    break;
  case ENTRY_AT:
    txb_pg_array_timestamptz(p, e->at_us);
    break;
  case ENTRY_EVENT:
    add_text(p, e->event);
    break;
  case ENTRY_STEP:
    add_text(p, e->step[0] != '\0' ? e->step : NULL);
    break;
  case ENTRY_SENDING:
    if (e->sending == 0)
      add_null(p);
    else
      txb_pg_array_int4(p, e->sending);
    break;
  case ENTRY_OUTPUT:
    txb_pg_array_jsonb(p, e->output);
    break;
  case ENTRY_REASON:
    add_text(p, e->reason);
    break;
  case ENTRY_WHO:
    add_text(p, e->who);
    break;
  case ENTRY_SENT:
    txb_pg_array_jsonb(p, sent_of(c, e));
    break;
  case ENTRY_TIMER:
    add_time(p, e->timer_us);
    break;
  case ENTRY_MESSAGE:
    add_uuid(p, &m->id);
    break;
  case ENTRY_PARTITION:
    txb_pg_array_int4(p, m->partition);
    break;
  case ENTRY_OFFSET:
    txb_pg_array_int8(p, m->offset);
    break;
  case ENTRY_COLUMNS:
    break;
  }
}

static enum txb_rc send_entries(struct txb_coordinator *c, struct txb_pg *pg, const struct txb_engine_message *messages,
                                struct txb_error *err) {
  if (c->ledger.entry_count == 0)
    return TXB_OK;
  txb_pg_params_clear(&c->params);
  for (int column = 0; column < ENTRY_COLUMNS; column++) {
    txb_pg_array_begin(&c->params, entry_oids[column]);
    for (size_t n = 0; n < c->ledger.entry_count; n++) {
      const struct txb_saga_entry *e = &c->ledger.entries[n];
      add_entry(c, (enum entry_column)column, e, &messages[e->message]);
    }
    txb_pg_array_end(&c->params);
  }
  TXB_TRY(txb_buffer_check(&c->scratch, err));
  return txb_pg_send(pg, &append, &c->params, err);
}

/* ---- ends --------------------------------------------------------------------------------------------------- */

static bool is_refused(const struct txb_saga_case *of) {
  return of->begun && of->problem != NULL;
}

static bool has_just_ended(const struct txb_saga_case *of) {
  return of->found && (is_refused(of) || (of->instance.ended && of->instance.ends > of->ends_before));
}

static const char *end_state(const struct txb_saga_case *of) {
  return is_refused(of) ? "refused" : txb_saga_state_name(of->instance.state.state);
}

static const char *end_reason(const struct txb_saga_case *of) {
  return is_refused(of) ? of->problem : of->instance.reason;
}

enum end_column { END_SAGA, END_STARTED, END_AT, END_STATE, END_OUTPUT, END_REASON, END_COLUMNS };
static const uint32_t end_oids[END_COLUMNS] = {TXB_OID_UUID, TXB_OID_TIMESTAMPTZ, TXB_OID_TIMESTAMPTZ,
                                               TXB_OID_TEXT, TXB_OID_JSONB,       TXB_OID_TEXT};

static void add_end(struct txb_coordinator *c, enum end_column column, const struct txb_saga_case *of) {
  struct txb_pg_params *p = &c->params;
  switch (column) {
  case END_SAGA:
    add_uuid(p, &of->instance.id);
    break;
  case END_STARTED:
    txb_pg_array_timestamptz(p, of->instance.started_us);
    break;
  case END_AT:
    txb_pg_array_timestamptz(p, c->now_us);
    break;
  case END_STATE:
    add_text(p, end_state(of));
    break;
  case END_OUTPUT:
    txb_pg_array_jsonb(p, of->instance.output);
    break;
  case END_REASON:
    add_text(p, end_reason(of));
    break;
  case END_COLUMNS:
    break;
  }
}

static enum txb_rc send_ends(struct txb_coordinator *c, struct txb_pg *pg, struct txb_error *err) {
  bool any = false;
  for (size_t n = 0; n < c->case_count; n++)
    any = any || has_just_ended(&c->cases[n]);
  if (!any)
    return TXB_OK;
  txb_pg_params_clear(&c->params);
  for (int column = 0; column < END_COLUMNS; column++) {
    txb_pg_array_begin(&c->params, end_oids[column]);
    for (size_t n = 0; n < c->case_count; n++)
      if (has_just_ended(&c->cases[n]))
        add_end(c, (enum end_column)column, &c->cases[n]);
    txb_pg_array_end(&c->params);
  }
  return txb_pg_send(pg, &finish, &c->params, err);
}

/* Before the ends: one that was undone within this batch ends anew. */
static enum txb_rc send_reopen(struct txb_coordinator *c, struct txb_pg *pg, struct txb_error *err) {
  bool any = false;
  for (size_t n = 0; n < c->case_count; n++)
    any = any || txb_saga_case_reopens(&c->cases[n]);
  if (!any)
    return TXB_OK;
  txb_pg_params_clear(&c->params);
  txb_pg_array_begin(&c->params, TXB_OID_UUID);
  for (size_t n = 0; n < c->case_count; n++)
    if (txb_saga_case_reopens(&c->cases[n]))
      add_uuid(&c->params, &c->cases[n].instance.id);
  txb_pg_array_end(&c->params);
  txb_pg_array_begin(&c->params, TXB_OID_TIMESTAMPTZ);
  for (size_t n = 0; n < c->case_count; n++)
    if (txb_saga_case_reopens(&c->cases[n]))
      txb_pg_array_timestamptz(&c->params, c->cases[n].instance.started_us);
  txb_pg_array_end(&c->params);
  return txb_pg_send(pg, &reopen, &c->params, err);
}

static bool leaves_timer(const struct txb_saga_case *of) {
  return has_just_ended(of) && of->instance.timer_us != 0;
}

static enum txb_rc send_timer_drop(struct txb_coordinator *c, struct txb_pg *pg, struct txb_error *err) {
  bool any = false;
  for (size_t n = 0; n < c->case_count; n++)
    any = any || leaves_timer(&c->cases[n]);
  if (!any)
    return TXB_OK;
  txb_pg_params_clear(&c->params);
  txb_pg_array_begin(&c->params, TXB_OID_TIMESTAMPTZ);
  for (size_t n = 0; n < c->case_count; n++)
    if (leaves_timer(&c->cases[n]))
      txb_pg_array_timestamptz(&c->params, c->cases[n].instance.timer_us);
  txb_pg_array_end(&c->params);
  txb_pg_array_begin(&c->params, TXB_OID_UUID);
  for (size_t n = 0; n < c->case_count; n++) {
    struct txb_uuid id;
    if (!leaves_timer(&c->cases[n]))
      continue;
    txb_saga_timer_id(&c->cases[n].instance.id, c->cases[n].instance.timer_us, &id);
    add_uuid(&c->params, &id);
  }
  txb_pg_array_end(&c->params);
  return txb_pg_send(pg, &timer_drop, &c->params, err);
}

/* ---- what is published --------------------------------------------------------------------------------------- */

/* One of the four kinds: a command, a saga's timer, its end, or what it answers the saga that it is a step of. */
struct outgoing {
  const struct txb_saga_command *command;
  const struct txb_saga_instance *instance;
  int64_t timer_us;                  /* of a timer */
  const struct txb_saga_case *ended; /* of an end */
  const struct txb_saga_said *said;  /* of an answer */
};

enum publish_column {
  PUBLISH_TOPIC,
  PUBLISH_KEY,
  PUBLISH_TYPE,
  PUBLISH_PAYLOAD,
  PUBLISH_CONTENT_TYPE,
  PUBLISH_HEADERS,
  PUBLISH_ID,
  PUBLISH_NOT_BEFORE,
  PUBLISH_COLUMNS
};
static const uint32_t publish_oids[PUBLISH_COLUMNS] = {TXB_OID_TEXT, TXB_OID_TEXT,  TXB_OID_TEXT, TXB_OID_BYTEA,
                                                       TXB_OID_TEXT, TXB_OID_JSONB, TXB_OID_UUID, TXB_OID_TIMESTAMPTZ};

static bool is_nested(const struct outgoing *o) {
  return o->command != NULL && o->command->nested;
}

/* The saga that it is about: a child began when its parent did. */
static void add_reference(struct txb_buffer *b, const struct outgoing *o) {
  char id[37];
  txb_uuid_format(is_nested(o) ? &o->command->child : &o->instance->id, id);
  txb_buffer_addf(b, "{\"txb-saga\":\"%s\",\"txb-saga-started\":\"%" PRId64 "\"", id, o->instance->started_us);
}

static struct txb_slice headers_of(struct txb_coordinator *c, const struct outgoing *o) {
  struct txb_buffer *b = &c->scratch;
  txb_buffer_clear(b);
  if (o->said != NULL) {
    txb_saga_said_headers(o->said, c->topic, b);
    return txb_slice_of(b->data, b->size);
  }
  add_reference(b, o);
  if (o->command != NULL && !is_nested(o))
    txb_buffer_addf(b,
                    ",\"txb-saga-step\":\"%s\",\"txb-saga-operation\":\"%s\",\"txb-saga-sending\":\"%" PRId32
                    "\",\"txb-reply-to\":\"%s\"",
                    o->command->step, txb_saga_operation_name(o->command->operation), o->command->sending, c->topic);
  txb_buffer_add_text(b, "}");
  return txb_slice_of(b->data, b->size);
}

static struct txb_slice payload_of_end(struct txb_coordinator *c, const struct txb_saga_case *of) {
  struct txb_buffer *b = &c->scratch;
  char id[37];
  txb_uuid_format(&of->instance.id, id);
  txb_buffer_clear(b);
  txb_buffer_addf(b, "{\"saga\":\"%s\",\"name\":", id);
  txb_buffer_add_json(b, txb_slice_text(of->name));
  txb_buffer_addf(b, ",\"version\":%" PRId32 ",\"state\":\"%s\"", of->version, end_state(of));
  if (of->instance.key.data != NULL) {
    txb_buffer_add_text(b, ",\"key\":");
    txb_buffer_add_json(b, of->instance.key);
  }
  if (of->instance.output.data != NULL) {
    txb_buffer_add_text(b, ",\"output\":");
    txb_buffer_add(b, of->instance.output.data, of->instance.output.size);
  }
  if (end_reason(of) != NULL) {
    txb_buffer_add_text(b, ",\"reason\":");
    txb_buffer_add_json(b, txb_slice_text(end_reason(of)));
  }
  txb_buffer_add_text(b, "}");
  return txb_slice_of(b->data, b->size);
}

static struct txb_slice payload_of(struct txb_coordinator *c, const struct outgoing *o) {
  if (o->command != NULL)
    return o->command->payload;
  if (o->said != NULL)
    return o->said->payload;
  if (o->ended != NULL)
    return payload_of_end(c, o->ended);
  txb_buffer_clear(&c->scratch);
  txb_buffer_addf(&c->scratch, "{\"due_us\":%" PRId64 "}", o->timer_us);
  return txb_slice_of(c->scratch.data, c->scratch.size);
}

static const char *type_of(const struct outgoing *o) {
  if (o->command != NULL)
    return o->command->type;
  if (o->said != NULL)
    return "txb.reply";
  if (o->ended == NULL)
    return "txb.saga.timer";
  return is_refused(o->ended)                                   ? "txb.saga.refused"
         : o->ended->instance.state.state == TXB_SAGA_COMPLETED ? "txb.saga.completed"
                                                                : "txb.saga.compensated";
}

static void add_id(struct txb_coordinator *c, const struct outgoing *o) {
  struct txb_uuid id;
  if (o->ended != NULL || o->said != NULL) { /* a new one: it comes about once */
    add_null(&c->params);
    return;
  }
  if (o->command == NULL)
    txb_saga_timer_id(&o->instance->id, o->timer_us, &id);
  add_uuid(&c->params, o->command != NULL ? &o->command->id : &id);
}

static void add_key(struct txb_coordinator *c, const struct outgoing *o) {
  char id[37];
  if (o->ended != NULL && o->instance->key.data != NULL) {
    txb_pg_array_bytes(&c->params, o->instance->key);
    return;
  }
  const struct txb_uuid *about = is_nested(o) ? &o->command->child : &o->instance->id;
  txb_uuid_format(o->said != NULL ? &o->instance->parent->saga : about, id);
  add_text(&c->params, id);
}

static void add_outgoing(struct txb_coordinator *c, enum publish_column column, const struct outgoing *o) {
  struct txb_pg_params *p = &c->params;
  switch (column) {
  case PUBLISH_TOPIC:
    add_text(p, o->command != NULL ? o->command->topic : o->ended != NULL ? o->ended->reply_topic : c->topic);
    break;
  case PUBLISH_KEY:
    add_key(c, o);
    break;
  case PUBLISH_TYPE:
    add_text(p, type_of(o));
    break;
  case PUBLISH_PAYLOAD:
    txb_pg_array_bytes(p, payload_of(c, o));
    break;
  case PUBLISH_CONTENT_TYPE:
    add_text(p, "application/json");
    break;
  case PUBLISH_HEADERS:
    txb_pg_array_jsonb(p, headers_of(c, o));
    break;
  case PUBLISH_ID:
    add_id(c, o);
    break;
  case PUBLISH_NOT_BEFORE:
    add_time(p, o->timer_us);
    break;
  case PUBLISH_COLUMNS:
    break;
  }
}

static size_t add_column(struct txb_coordinator *c, enum publish_column column) {
  size_t count = c->ledger.command_count;
  for (size_t n = 0; n < c->ledger.command_count; n++) {
    const struct outgoing o = {.command = &c->ledger.commands[n], .instance = c->ledger.commands[n].instance};
    add_outgoing(c, column, &o);
  }
  for (size_t n = 0; n < c->ledger.entry_count; n++) {
    const struct outgoing o = {.instance = c->ledger.entries[n].instance, .timer_us = c->ledger.entries[n].timer_us};
    if (o.timer_us == 0)
      continue;
    add_outgoing(c, column, &o);
    count++;
  }
  for (size_t n = 0; n < c->case_count; n++) {
    const struct outgoing o = {.instance = &c->cases[n].instance, .ended = &c->cases[n]};
    if (!has_just_ended(&c->cases[n]) || c->cases[n].reply_topic == NULL)
      continue;
    add_outgoing(c, column, &o);
    count++;
  }
  for (size_t n = 0; n < c->ledger.said_count; n++) {
    const struct outgoing o = {.said = &c->ledger.said[n], .instance = c->ledger.said[n].instance};
    add_outgoing(c, column, &o);
  }
  return count + c->ledger.said_count;
}

static enum txb_rc send_publish(struct txb_coordinator *c, struct txb_pg *pg, struct txb_error *err) {
  size_t count = 0;
  txb_pg_params_clear(&c->params);
  for (int column = 0; column < PUBLISH_COLUMNS; column++) {
    txb_pg_array_begin(&c->params, publish_oids[column]);
    count = add_column(c, (enum publish_column)column);
    txb_pg_array_end(&c->params);
  }
  TXB_TRY(txb_buffer_check(&c->scratch, err));
  return count > 0 ? txb_pg_send(pg, &publish, &c->params, err) : TXB_OK;
}

/* ---- strays --------------------------------------------------------------------------------------------------- */

enum stray_column { STRAY_ID, STRAY_PARTITION, STRAY_OFFSET, STRAY_TYPE, STRAY_KEY, STRAY_REASON, STRAY_COLUMNS };
static const uint32_t stray_oids[STRAY_COLUMNS] = {TXB_OID_UUID, TXB_OID_INT4, TXB_OID_INT8,
                                                   TXB_OID_TEXT, TXB_OID_TEXT, TXB_OID_TEXT};

static struct txb_slice text_or_none(struct txb_slice text) {
  return txb_slice_is_text(text) ? text : txb_slice_of(NULL, 0);
}

static void add_stray(struct txb_coordinator *c, enum stray_column column, const struct txb_engine_message *m,
                      const char *problem) {
  switch (column) {
  case STRAY_ID:
    add_uuid(&c->params, &m->id);
    break;
  case STRAY_PARTITION:
    txb_pg_array_int4(&c->params, m->partition);
    break;
  case STRAY_OFFSET:
    txb_pg_array_int8(&c->params, m->offset);
    break;
  case STRAY_TYPE:
    txb_pg_array_bytes(&c->params, text_or_none(m->type));
    break;
  case STRAY_KEY:
    txb_pg_array_bytes(&c->params, text_or_none(m->key));
    break;
  case STRAY_REASON:
    add_text(&c->params, problem);
    break;
  case STRAY_COLUMNS:
    break;
  }
}

static enum txb_rc send_strays(struct txb_coordinator *c, struct txb_pg *pg, const struct txb_engine_message *messages,
                               struct txb_error *err) {
  bool any = false;
  for (size_t m = 0; m < c->message_count; m++)
    any = any || c->messages[m].problem != NULL;
  if (!any)
    return TXB_OK;
  txb_pg_params_clear(&c->params);
  for (int column = 0; column < STRAY_COLUMNS; column++) {
    txb_pg_array_begin(&c->params, stray_oids[column]);
    for (size_t m = 0; m < c->message_count; m++)
      if (c->messages[m].problem != NULL)
        add_stray(c, (enum stray_column)column, &messages[m], c->messages[m].problem);
    txb_pg_array_end(&c->params);
  }
  return txb_pg_send(pg, &stray, &c->params, err);
}

enum txb_rc txb_coordinator_store(struct txb_coordinator *c, struct txb_pg *pg,
                                  const struct txb_engine_message *messages, struct txb_error *err) {
  TXB_TRY(send_entries(c, pg, messages, err));
  TXB_TRY(send_reopen(c, pg, err));
  TXB_TRY(send_ends(c, pg, err));
  TXB_TRY(send_timer_drop(c, pg, err));
  TXB_TRY(txb_coordinator_send_unlock(c, pg, err));
  TXB_TRY(send_publish(c, pg, err));
  TXB_TRY(send_strays(c, pg, messages, err));
  if (txb_pg_pending(pg) == 0)
    return TXB_OK;
  TXB_TRY(txb_pg_sync(pg, err));
  return txb_coordinator_answers(pg, NULL, 0, err);
}
