/* See coordinator.h. */
#include "broker/coordinator/coordinator.h"

#include <stdlib.h>

#include "broker/coordinator/coordinator_internal.h"
#include "common/fault.h"
#include "common/log.h"
#include "coordinator_sql.h"

static const struct txb_pg_statement topic_statement = {"txb_saga_topic", txb_text_saga_topic},
                                     upkeep_statement = {"txb_saga_upkeep", txb_text_saga_upkeep},
                                     expire_statement = {"txb_saga_expire", txb_text_saga_expire};

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

static void close_coordinator(void *context) {
  struct txb_coordinator *c = context;
  if (c == NULL)
    return;
  txb_definitions_fini(&c->definitions);
  txb_saga_ledger_fini(&c->ledger);
  txb_pg_params_fini(&c->params);
  txb_buffer_fini(&c->scratch);
  txb_free(c->messages);
  txb_free(c->cases);
  txb_free(c->wishes);
  txb_free(c);
}

static enum txb_rc open_coordinator(const struct txb_worker_settings *settings, void **context, struct txb_error *err) {
  void *memory;
  if (settings->topics[0] == NULL || settings->topics[1] != NULL)
    return REFUSE(err, "group %s is a coordinator: it has one topic, that of its sagas", settings->group);
  TXB_TRY(txb_alloc(sizeof(struct txb_coordinator), &memory, err));
  struct txb_coordinator *c = memory;
  c->topic = settings->topics[0];
  txb_saga_ledger_init(&c->ledger);
  txb_pg_params_init(&c->params);
  txb_buffer_init(&c->scratch);
  *context = c;
  return TXB_OK;
}

static enum txb_rc connected(void *context, struct txb_pg *pg, struct txb_error *err) {
  struct txb_coordinator *c = context;
  txb_pg_params_clear(&c->params);
  txb_pg_add_text(&c->params, txb_slice_text(c->topic));
  return txb_pg_query(pg, &topic_statement, &c->params, NULL, err);
}

/* ---- messages ------------------------------------------------------------------------------------------------ */

static struct txb_slice header(const struct txb_saga_message *m, const char *name) {
  return txb_slice_text(txb_saga_message_text(m->headers, name));
}

static int32_t number_of(const char *text) {
  long n = text != NULL ? strtol(text, NULL, 10) : 0;
  return n > 0 && n <= INT32_MAX ? (int32_t)n : 0;
}

static enum txb_rc on_answer(struct txb_coordinator *c, const struct txb_saga_message *m, struct txb_saga_case *of,
                             const struct txb_saga_moment *moment, struct txb_error *err) {
  const struct txb_saga_answer answer = {
      .step = header(m, "txb-saga-step"),
      .operation = header(m, "txb-saga-operation"),
      .sending = number_of(txb_saga_message_text(m->headers, "txb-saga-sending")),
      .topic = header(m, "txb-command-topic"),
      .child = header(m, "txb-saga-child"),
      .answer = txb_saga_message_text(m->body, "answer"),
      .output = json_object_get(m->body, "output"),
      .reason = txb_saga_message_text(m->body, "reason"),
  };
  return txb_saga_instance_on_answer(&of->instance, &answer, moment, &c->ledger, err);
}

static enum txb_rc on_decision(struct txb_coordinator *c, const struct txb_saga_message *m, struct txb_saga_case *of,
                               const struct txb_saga_moment *moment, struct txb_error *err) {
  const struct txb_saga_decision decision = {
      .decision = txb_saga_message_text(m->body, "decision"),
      .step = txb_saga_message_text(m->body, "step"),
      .seen = (int32_t)json_integer_value(json_object_get(m->body, "seen")),
      .reason = txb_saga_message_text(m->body, "reason"),
      .who = txb_saga_message_text(m->body, "who"),
      .payload = json_object_get(m->body, "payload"),
  };
  return txb_saga_instance_on_decision(&of->instance, &decision, moment, &c->ledger, err);
}

/* Or it was woken: what it locks decides. */
enum txb_rc txb_coordinator_on_start(struct txb_coordinator *c, struct txb_saga_case *of,
                                     const struct txb_saga_moment *moment, struct txb_error *err) {
  switch (of->locks) {
  case TXB_SAGA_LOCKS_NOT_ASKED:
  case TXB_SAGA_LOCKS_HELD:
    break;
  case TXB_SAGA_LOCKS_AWAITED:
    return txb_saga_instance_on_wait(&of->instance, of->locks_why, moment, &c->ledger, err);
  case TXB_SAGA_LOCKS_REFUSED:
    return txb_saga_instance_on_turned_away(&of->instance, of->locks_why, moment, &c->ledger, err);
  }
  return txb_saga_instance_on_start(&of->instance, moment, &c->ledger, err);
}

static enum txb_rc handle(struct txb_coordinator *c, size_t n, struct txb_error *err) {
  struct txb_saga_message *m = &c->messages[n];
  struct txb_saga_case *of = m->kind != TXB_SAGA_MESSAGE_STRAY ? &c->cases[m->instance] : NULL;
  const struct txb_saga_moment moment = {.now_us = c->now_us, .message = n};
  if (of == NULL || (!of->found && m->from_elsewhere)) /* the latter: a start with a key that was used already */
    return TXB_OK;
  if (!of->found) {
    m->problem = "there is no such saga";
    return TXB_OK;
  }
  if (m->has_parent)
    return txb_coordinator_from_parent(c, m, of, &moment, err);
  if (txb_saga_case_never_began(of)) {
    if (m->kind != TXB_SAGA_MESSAGE_START)
      m->problem = "its saga was refused, and never began";
    return TXB_OK;
  }
  switch (m->kind) {
  case TXB_SAGA_MESSAGE_START:
  case TXB_SAGA_MESSAGE_WAKE:
    return txb_coordinator_on_start(c, of, &moment, err);
  case TXB_SAGA_MESSAGE_ANSWER:
    return on_answer(c, m, of, &moment, err);
  case TXB_SAGA_MESSAGE_TIMER:
    return txb_saga_instance_on_timer(&of->instance, json_integer_value(json_object_get(m->body, "due_us")), &moment,
                                      &c->ledger, err);
  case TXB_SAGA_MESSAGE_DECISION:
    return on_decision(c, m, of, &moment, err);
  case TXB_SAGA_MESSAGE_SETTLE: /* these are only ever from a parent */
  case TXB_SAGA_MESSAGE_UNDO:
  case TXB_SAGA_MESSAGE_STRAY:
    break;
  }
  return TXB_OK;
}

/* A planted bug: whoever looks at the clock fires timers before the answers that were there first (S2). */
static enum txb_rc fire_timers(struct txb_coordinator *c, struct txb_error *err) {
  for (size_t m = 0; m < c->message_count; m++) {
    const struct txb_saga_moment moment = {.now_us = c->now_us, .message = m};
    if (c->messages[m].kind == TXB_SAGA_MESSAGE_STRAY)
      continue;
    struct txb_saga_case *of = &c->cases[c->messages[m].instance];
    if (of->found && of->instance.definition != NULL && of->instance.timer_us != 0 &&
        of->instance.timer_us <= c->now_us)
      TXB_TRY(txb_saga_instance_on_timer(&of->instance, of->instance.timer_us, &moment, &c->ledger, err));
  }
  return TXB_OK;
}

static enum txb_rc make_room(struct txb_coordinator *c, size_t count, struct txb_error *err) {
  if (count <= c->room)
    return TXB_OK;
  TXB_TRY(txb_regrow_array(&c->messages, count, sizeof *c->messages, err));
  TXB_TRY(txb_regrow_array(&c->cases, count, sizeof *c->cases, err));
  c->room = count;
  return TXB_OK;
}

static void forget_batch(struct txb_coordinator *c) {
  for (size_t m = 0; m < c->message_count; m++)
    txb_saga_message_fini(&c->messages[m]);
  for (size_t n = 0; n < c->case_count; n++)
    txb_saga_instance_fini(&c->cases[n].instance);
  c->message_count = c->case_count = 0;
  txb_saga_ledger_clear(&c->ledger);
  txb_pg_result_free(txb_steal(c->begun));
  txb_pg_result_free(txb_steal(c->loaded));
  txb_pg_result_free(txb_steal(c->events));
}

static enum txb_rc run(struct txb_coordinator *c, struct txb_pg *pg, const struct txb_engine_message *messages,
                       size_t count, struct txb_error *err) {
  TXB_TRY(make_room(c, count, err));
  TXB_TRY(txb_coordinator_load(c, pg, messages, count, err));
  TXB_TRY(txb_coordinator_lock(c, pg, err));
  txb_failpoint("coordinator.after_load");
  if (txb_bug("coordinator_timer_first"))
    TXB_TRY(fire_timers(c, err));
  for (size_t n = 0; n < count; n++)
    TXB_TRY(handle(c, n, err));
  for (size_t n = 0; n < c->case_count; n++)
    if (c->cases[n].instance.last_entry > 0)
      txb_saga_instance_settle(&c->cases[n].instance, &c->ledger);
  TXB_TRY(txb_coordinator_check_outputs(c, pg, err));
  TXB_TRY(txb_coordinator_store(c, pg, messages, err));
  txb_failpoint("coordinator.after_store");
  return TXB_OK;
}

/* Whatever was sent is read to its end: the pipeline is the worker's again. */
static enum txb_rc drain(struct txb_pg *pg, struct txb_error *err) {
  if (!txb_pg_is_usable(pg) || txb_pg_pending(pg) == 0)
    return TXB_OK;
  struct txb_error ignored;
  TXB_TRY(txb_pg_sync(pg, err));
  while (txb_pg_pending(pg) > 0)
    if (txb_coordinator_answers(pg, NULL, 0, &ignored) != TXB_OK && !txb_pg_is_usable(pg))
      break;
  return TXB_OK;
}

static enum txb_rc apply(void *context, struct txb_pg *pg, const struct txb_engine_message *messages, size_t count,
                         struct txb_error *err) {
  struct txb_coordinator *c = context;
  struct txb_error second;
  enum txb_rc rc = run(c, pg, messages, count, err);
  if (rc != TXB_OK)
    (void)drain(pg, &second);
  forget_batch(c);
  return rc;
}

const struct txb_engine txb_coordinator_engine = {
    .name = "coordinator",
    .open = open_coordinator,
    .connected = connected,
    .apply = apply,
    .upkeep = &upkeep_statement,
    .expire = &expire_statement,
    .close = close_coordinator,
};
