/* What people decide about a stuck step of a saga: going on without it, and sending it something else. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "broker/saga/instance.h"

static const char trip[] =
    "{\"name\":\"trip\",\"version\":2,\"steps\":["
    "{\"name\":\"flight\",\"topic\":\"t\",\"type\":\"book\",\"kind\":\"compensatable\",\"compensation\":{\"type\":"
    "\"unbook\"}},"
    "{\"name\":\"pay\",\"topic\":\"t\",\"type\":\"pay\",\"kind\":\"pivot\"},"
    "{\"name\":\"mail\",\"topic\":\"t\",\"type\":\"send\",\"kind\":\"retriable\",\"timeout\":\"40ms\","
    "\"retry\":{\"attempts\":2,\"first\":\"10ms\"},\"input\":{\"to\":\"{input.who}\"}}]}";

#define ONE(kind, more)                                                                                                \
  "{\"name\":\"a\",\"version\":1,\"steps\":[{\"name\":\"x\",\"topic\":\"t\",\"type\":\"y\",\"kind\":\"" kind           \
  "\",\"retry\":{\"attempts\":2,\"first\":\"10ms\"}" more "}]}"

static struct txb_saga_definition *d;
static struct txb_saga_instance saga;
static struct txb_saga_ledger ledger;
static struct txb_saga_moment moment;
static struct txb_error err;
static size_t told; /* entries that were looked at */

static void setup(void) {
  txb_saga_ledger_init(&ledger);
}

static void teardown(void) {
  txb_saga_instance_fini(&saga);
  txb_saga_ledger_fini(&ledger);
  txb_saga_definition_free(d);
}

TestSuite(saga_decisions, .init = setup, .fini = teardown);

static void begin(const char *definition, const char *input) {
  cr_assert(txb_saga_definition_parse("t.json", txb_slice_text(definition), &d, &err) == TXB_OK, "%s", err.message);
  saga = (struct txb_saga_instance){.definition = d, .started_us = 1000, .input = txb_slice_text(input)};
  txb_saga_instance_init(&saga);
  moment.now_us = 1000000;
  cr_assert(txb_saga_instance_on_start(&saga, &moment, &ledger, &err) == TXB_OK);
}

static const struct txb_saga_entry *last(void) {
  return &ledger.entries[ledger.entry_count - 1];
}

/* The entries since the last look, "step:event" each. */
static void happened(const char *wanted) {
  char text[2000] = "";
  for (; told < ledger.entry_count; told++) {
    const struct txb_saga_entry *e = &ledger.entries[told];
    snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s%s%s", text[0] != '\0' ? " " : "", e->step,
             e->step[0] != '\0' ? ":" : "", e->event);
  }
  cr_assert_str_eq(text, wanted);
}

static void reasons(const char *wanted) {
  cr_assert(last()->reason != NULL && strstr(last()->reason, wanted) != NULL, "\"%s\" does not hold \"%s\"",
            last()->reason, wanted);
}

/* The last command. */
static void commanded(const char *step, enum txb_saga_operation_kind operation, const char *payload) {
  cr_assert_gt(ledger.command_count, 0);
  const struct txb_saga_command *c = &ledger.commands[ledger.command_count - 1];
  cr_assert(strcmp(c->step, step) == 0 && c->operation == operation, "%s", c->step);
  cr_assert(txb_slice_equal(c->payload, txb_slice_text(payload)), "%.*s", (int)c->payload.size,
            (const char *)c->payload.data);
}

static int rule_of(const char *step) {
  return txb_saga_rule_of(d, txb_slice_text(step));
}

static enum txb_saga_step_state state_of(const char *step) {
  return saga.state.steps[rule_of(step)].state;
}

static void answer(const char *step, const char *operation, const char *said, const char *output) {
  json_t *value = output != NULL ? json_loads(output, JSON_DECODE_ANY, NULL) : NULL;
  const struct txb_saga_answer a = {.step = txb_slice_text(step),
                                    .operation = txb_slice_text(operation),
                                    .sending = saga.state.steps[rule_of(step)].sendings,
                                    .topic = txb_slice_text("t"),
                                    .answer = said,
                                    .output = value};
  cr_assert(txb_saga_instance_on_answer(&saga, &a, &moment, &ledger, &err) == TXB_OK, "%s", err.message);
  json_decref(value);
}

static void ok(const char *step, const char *output) {
  answer(step, "action", "ok", output);
}

/* Whatever is due next is due. */
static void timer(void) {
  txb_saga_instance_settle(&saga, &ledger);
  moment.now_us = saga.timer_us > moment.now_us ? saga.timer_us + 10 : moment.now_us;
  cr_assert(txb_saga_instance_on_timer(&saga, saga.timer_us, &moment, &ledger, &err) == TXB_OK);
}

static void decide(const char *decision, const char *step) {
  const struct txb_saga_decision one = {decision, step, saga.n, "because", "ann", NULL};
  cr_assert(txb_saga_instance_on_decision(&saga, &one, &moment, &ledger, &err) == TXB_OK);
}

/* Its entries make the same of a new one. */
static void replays_to_the_same(void) {
  struct txb_saga_instance again = {.definition = d, .id = saga.id, .started_us = saga.started_us, .input = saga.input};
  txb_saga_instance_init(&again);
  for (size_t n = 0; n < ledger.entry_count; n++) {
    const struct txb_saga_entry *e = &ledger.entries[n];
    const struct txb_saga_past past = {.n = e->n,
                                       .event = e->event,
                                       .step = txb_slice_text(e->step),
                                       .sending = e->sending,
                                       .at_us = e->at_us,
                                       .timer_us = e->timer_us,
                                       .output = e->output,
                                       .reason = e->reason};
    cr_assert(txb_saga_instance_replay(&again, &past, &err) == TXB_OK, "%s", err.message);
  }
  cr_assert(again.state.state == saga.state.state && again.left == saga.left && again.ended == saga.ended);
  for (int rule = 0; rule < d->rules.count; rule++)
    cr_assert(txb_slice_equal(again.edited[rule], saga.edited[rule]) &&
              txb_slice_equal(again.outputs[rule], saga.outputs[rule]) &&
              again.state.steps[rule].state == saga.state.steps[rule].state &&
              again.state.steps[rule].sendings == saga.state.steps[rule].sendings);
}

static void edit(const char *step, const char *payload) {
  json_t *value = json_loads(payload, JSON_DECODE_ANY, NULL);
  const struct txb_saga_decision one = {"edit", step, saga.n, "because", "ann", value};
  cr_assert(txb_saga_instance_on_decision(&saga, &one, &moment, &ledger, &err) == TXB_OK);
  json_decref(value);
}

/* Behind the pivot, and nobody answers. */
static void stick_mail(const char *input) {
  begin(trip, input);
  ok("flight", "{\"price\":1,\"id\":1}");
  ok("pay", NULL);
  for (int n = 0; n < 4 && state_of("mail") != TXB_STEP_STUCK_ACTION; n++) {
    timer();
  }
  cr_assert_eq(state_of("mail"), TXB_STEP_STUCK_ACTION);
  told = ledger.entry_count;
}

Test(saga_decisions, a_step_is_skipped_once_the_barrier_says_that_it_never_runs) {
  stick_mail("{\"who\":\"Ann\"}");
  decide("skip", "mail");
  happened("mail:leave");
  commanded("mail", TXB_SAGA_OPERATION_RESOLVE, "{}");
  cr_assert(strcmp(last()->who, "ann") == 0 && strcmp(last()->reason, "because") == 0);
  answer("mail", "forward", "refused", NULL);
  happened("mail:ignored");
  replays_to_the_same();
  answer("mail", "resolve", "never", NULL);
  happened("mail:never end");
  cr_assert(saga.state.state == TXB_SAGA_COMPLETED && state_of("mail") == TXB_STEP_SKIPPED);
  replays_to_the_same();
}

Test(saga_decisions, a_step_that_took_effect_after_all_is_not_skipped) {
  stick_mail("{\"who\":\"Ann\"}");
  decide("skip", "mail");
  answer("mail", "resolve", "ok", "5");
  happened("mail:leave mail:effect end");
  cr_assert_eq(state_of("mail"), TXB_STEP_DONE);
}

Test(saga_decisions, a_step_that_nobody_tells_about_is_marked_and_neither_skipped_nor_edited) {
  stick_mail("{\"who\":\"Ann\"}");
  decide("skip", "mail");
  for (int n = 0; n < 4 && state_of("mail") != TXB_STEP_STUCK_SETTLING; n++) {
    timer();
  }
  happened("mail:leave timer mail:time timer mail:time mail:stuck");
  decide("skip", "mail");
  reasons(
      "the decision skip does not fit a step that is stuck_settling: whether it took effect is not known; mark says "
      "what became of it");
  edit("mail", "1");
  reasons("the decision edit does not fit a step that is stuck_settling: its participant is asked what became of it");
  decide("retry", "mail");
  commanded("mail", TXB_SAGA_OPERATION_RESOLVE, "{}");
  replays_to_the_same();
}

static void stick_compensation(void) {
  begin(ONE("compensatable", ",\"compensation\":{\"type\":\"z\"}"), "{\"a\":1}");
  told = ledger.entry_count;
  decide("cancel", NULL);
  answer("x", "resolve", "ok", NULL);
  commanded("x", TXB_SAGA_OPERATION_COMPENSATION, "{\"a\":1}");
  answer("x", "compensation", "failed", NULL);
  timer();
  answer("x", "compensation", "failed", NULL);
  happened("turn_back x:effect x:not_compensated timer x:time x:not_compensated x:stuck");
}

Test(saga_decisions, an_effect_that_a_person_lets_stand_is_told_at_the_end) {
  stick_compensation();
  decide("skip", "x");
  happened("x:leave end");
  cr_assert(saga.state.state == TXB_SAGA_COMPENSATED && state_of("x") == TXB_STEP_COMPENSATED);
  cr_assert_str_eq(saga.reason, "because; the effect of x was let stand");
  replays_to_the_same();
}

Test(saga_decisions, an_edited_payload_is_sent_now_and_at_every_later_sending) {
  stick_compensation();
  edit("x", "{\"b\":[0.1,null]}");
  happened("x:edit");
  cr_assert(txb_slice_equal(last()->output, txb_slice_text("{\"b\":[0.1,null]}")));
  commanded("x", TXB_SAGA_OPERATION_COMPENSATION, "{\"b\":[0.1,null]}");
  replays_to_the_same();
  size_t before = ledger.command_count;
  answer("x", "compensation", "failed", NULL);
  timer();
  cr_assert_eq(ledger.command_count, before + 1);
  commanded("x", TXB_SAGA_OPERATION_COMPENSATION, "{\"b\":[0.1,null]}");
  answer("x", "compensation", "failed", NULL);
  edit("x", "null");
  commanded("x", TXB_SAGA_OPERATION_COMPENSATION, "null");
  replays_to_the_same();
}

Test(saga_decisions, an_edit_helps_where_the_command_could_not_be_made) {
  stick_mail("{}");
  cr_assert_eq(ledger.command_count, 2, "flight and pay; mail could never be made");
  edit("mail", "{\"to\":\"Bob\"}");
  commanded("mail", TXB_SAGA_OPERATION_FORWARD, "{\"to\":\"Bob\"}");
  answer("mail", "forward", "ok", NULL);
  cr_assert_eq(saga.state.state, TXB_SAGA_COMPLETED);
}

Test(saga_decisions, an_edit_says_that_a_step_is_wanted_whose_condition_could_not_be_told) {
  begin(ONE("retriable", ",\"when\":\"input.n > 1\""), "{\"n\":[]}");
  timer();
  edit("x", "7");
  commanded("x", TXB_SAGA_OPERATION_FORWARD, "7");
}

Test(saga_decisions, an_edit_without_a_payload_or_of_a_step_that_is_not_stuck_changes_nothing) {
  stick_mail("{\"who\":\"Ann\"}");
  decide("edit", "mail");
  reasons("the decision edit brings no payload");
  edit("pay", "1");
  reasons("the decision edit does not fit a step that is done");
  decide("skip", "pay");
  reasons("the decision skip does not fit a step that is done");
  cr_assert(saga.edited[txb_saga_rule_of(d, txb_slice_text("pay"))].data == NULL);
}
