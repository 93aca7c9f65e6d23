/* Drives one saga in the coordinator's hands, for the tests of it: a trip, or what else is defined, with what it entered and
 * sent kept for looking at. Static, so that each test program has its own. */
#ifndef TXB_TESTS_UNIT_SAGA_INSTANCE_KIT_H
#define TXB_TESTS_UNIT_SAGA_INSTANCE_KIT_H

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "broker/saga/instance.h"

#define UNUSED __attribute__((unused))

/* A definition of one step, x. */
#define ONE(kind, more)                                                                                                \
  "{\"name\":\"a\",\"version\":1,\"steps\":[{\"name\":\"x\",\"topic\":\"t\",\"type\":\"y\",\"kind\":\"" kind           \
  "\",\"retry\":{\"attempts\":2,\"first\":\"10ms\"}" more "}]}"

UNUSED static const char trip[] =
    "{\"name\":\"trip\",\"version\":2,\"output\":{\"flight\":\"{steps.flight.output.id}\"},\"steps\":["
    "{\"name\":\"flight\",\"topic\":\"flights\",\"type\":\"book\",\"kind\":\"compensatable\",\"after\":[],"
    "\"timeout\":\"30ms\",\"retry\":{\"attempts\":2,\"first\":\"10ms\"},\"compensation\":{\"type\":\"unbook\"}},"
    "{\"name\":\"hotel\",\"topic\":\"hotels\",\"type\":\"hold\",\"kind\":\"reserve\",\"after\":[],\"timeout\":\"50ms\","
    "\"when\":\"input.hotel?\",\"confirm\":{\"type\":\"take\",\"input\":{\"room\":\"{steps.hotel.output.room}\"}},"
    "\"cancel\":{\"type\":\"release\"}},"
    "{\"name\":\"pay\",\"topic\":\"payments\",\"type\":\"pay\",\"kind\":\"pivot\",\"after\":[\"flight\",\"hotel\"],"
    "\"timeout\":\"40ms\",\"retry\":{\"attempts\":1},\"input\":{\"sum\":\"{steps.flight.output.price}\"}},"
    "{\"name\":\"mail\",\"topic\":\"mails\",\"type\":\"send\",\"kind\":\"retriable\",\"after\":[\"pay\"],\"timeout\":"
    "\"40ms\","
    "\"retry\":{\"attempts\":2,\"first\":\"10ms\"},\"input\":{\"to\":\"{input.who}\"}}]}";
UNUSED static const char with_hotel[] = "{\"who\":\"Ann\",\"hotel\":true}", without_hotel[] = "{\"who\":\"Ann\"}";

static struct txb_saga_definition *d;
static struct txb_saga_instance saga;
static struct txb_saga_ledger ledger;
static struct txb_saga_moment moment;
static struct txb_error err;
static size_t told; /* entries that were looked at */

UNUSED static void setup(void) {
  txb_saga_ledger_init(&ledger);
}

UNUSED static void teardown(void) {
  txb_saga_instance_fini(&saga);
  txb_saga_ledger_fini(&ledger);
  txb_saga_definition_free(d);
  d = NULL;
}

UNUSED static struct txb_saga_instance fresh(const char *input) {
  struct txb_saga_instance i = {.definition = d,
                                .started_us = 1000,
                                .deadline_us = saga.deadline_us,
                                .key = txb_slice_text("order-1"),
                                .input = txb_slice_text(input),
                                .n = 77};
  cr_assert(txb_uuid_parse(txb_slice_text("01890000-0000-7000-8000-000000000001"), &i.id, NULL) == TXB_OK);
  txb_saga_instance_init(&i);
  return i;
}

UNUSED static void define(const char *definition, const char *input, int64_t deadline_us) {
  cr_assert(txb_saga_definition_parse("t.json", txb_slice_text(definition), &d, &err) == TXB_OK, "%s", err.message);
  saga.deadline_us = deadline_us;
  saga = fresh(input);
  moment.now_us = 1000000;
  told = 0;
}

UNUSED static void begin(const char *definition, const char *input, int64_t deadline_us) {
  define(definition, input, deadline_us);
  cr_assert(txb_saga_instance_on_start(&saga, &moment, &ledger, &err) == TXB_OK);
}

/* The entries since the last look, "step:event" each. */
UNUSED static void happened(const char *wanted) {
  char text[2000] = "";
  for (; told < ledger.entry_count; told++) {
    const struct txb_saga_entry *e = &ledger.entries[told];
    snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s%s%s", text[0] != '\0' ? " " : "", e->step,
             e->step[0] != '\0' ? ":" : "", e->event);
  }
  cr_assert_str_eq(text, wanted);
}

UNUSED static const struct txb_saga_entry *last(void) {
  return &ledger.entries[ledger.entry_count - 1];
}

UNUSED static void reasons(const char *wanted) {
  cr_assert(last()->reason != NULL && strstr(last()->reason, wanted) != NULL, "\"%s\" does not hold \"%s\"",
            last()->reason, wanted);
}

UNUSED static const struct txb_saga_entry *entry_of(const char *step, const char *event) {
  for (size_t n = ledger.entry_count; n > 0; n--)
    if (strcmp(ledger.entries[n - 1].step, step) == 0 && strcmp(ledger.entries[n - 1].event, event) == 0)
      return &ledger.entries[n - 1];
  cr_assert_fail("there is no entry %s:%s", step, event);
  return NULL;
}

/* The last command. */
UNUSED static void commanded(const char *step, enum txb_saga_operation_kind operation, const char *payload) {
  cr_assert_gt(ledger.command_count, 0);
  const struct txb_saga_command *c = &ledger.commands[ledger.command_count - 1];
  cr_assert_str_eq(c->step, step);
  cr_assert_eq(c->operation, operation);
  cr_assert(txb_slice_equal(c->payload, txb_slice_text(payload)), "%.*s", (int)c->payload.size,
            (const char *)c->payload.data);
}

UNUSED static const char *topic_of(const char *step) {
  int rule = txb_saga_rule_of(d, txb_slice_text(step));
  return rule < 0 ? "flights" : d->steps[d->origin[rule].step].topic;
}

UNUSED static void answer(const char *step, const char *operation, const char *said, const char *output) {
  json_t *value = output != NULL ? json_loads(output, JSON_DECODE_ANY, NULL) : NULL;
  int rule = txb_saga_rule_of(d, txb_slice_text(step));
  const struct txb_saga_answer a = {.step = txb_slice_text(step),
                                    .operation = txb_slice_text(operation),
                                    .sending = rule < 0 ? 0 : saga.state.steps[rule].sendings,
                                    .topic = txb_slice_text(topic_of(step)),
                                    .answer = said,
                                    .output = value};
  cr_assert(txb_saga_instance_on_answer(&saga, &a, &moment, &ledger, &err) == TXB_OK, "%s", err.message);
  json_decref(value);
}

UNUSED static void ok(const char *step, const char *output) {
  answer(step, "action", "ok", output);
}

UNUSED static void timer(int64_t due_us) {
  moment.now_us = due_us > moment.now_us ? due_us + 10 : moment.now_us;
  cr_assert(txb_saga_instance_on_timer(&saga, due_us, &moment, &ledger, &err) == TXB_OK);
}

UNUSED static void settled(int64_t timer_us) {
  txb_saga_instance_settle(&saga, &ledger);
  cr_assert_eq(saga.timer_us, timer_us, "%" PRId64, saga.timer_us);
}

UNUSED static void decide(const char *decision, const char *step) {
  const struct txb_saga_decision one = {decision, step, saga.n, "because", "ann", NULL};
  cr_assert(txb_saga_instance_on_decision(&saga, &one, &moment, &ledger, &err) == TXB_OK);
}

UNUSED static enum txb_saga_step_state state_of(const char *step) {
  return saga.state.steps[txb_saga_rule_of(d, txb_slice_text(step))].state;
}

UNUSED static bool same_state(const struct txb_saga *a, const struct txb_saga *b) {
  bool same = a->state == b->state;
  for (int rule = 0; rule < TXB_SAGA_STEPS_MAX; rule++) {
    const struct txb_saga_step *x = &a->steps[rule], *y = &b->steps[rule];
    same = same && x->state == y->state && x->asked == y->asked && x->attempts == y->attempts &&
           x->sendings == y->sendings;
  }
  return same;
}

UNUSED static void is_ignored(struct txb_saga_answer a, const char *why) {
  struct txb_saga before = saga.state;
  cr_assert(txb_saga_instance_on_answer(&saga, &a, &moment, &ledger, &err) == TXB_OK);
  cr_assert_str_eq(last()->event, "ignored");
  reasons(why);
  cr_assert(same_state(&before, &saga.state));
  cr_assert(txb_slice_is_text(txb_slice_text(last()->reason)));
}

#endif
