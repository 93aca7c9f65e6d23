/* One saga in the coordinator's hands: what its messages lead to, and that its entries make the same state again. */
#include "broker/saga/instance.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "common/event.h"
#include "saga_kit.h"

static const char trip[] =
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
static const char with_hotel[] = "{\"who\":\"Ann\",\"hotel\":true}", without_hotel[] = "{\"who\":\"Ann\"}";

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
  d = NULL;
}

TestSuite(saga_instance, .init = setup, .fini = teardown);

static struct txb_saga_instance fresh(const char *input) {
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

static void define(const char *definition, const char *input, int64_t deadline_us) {
  cr_assert(txb_saga_definition_parse("t.json", txb_slice_text(definition), &d, &err) == TXB_OK, "%s", err.message);
  saga.deadline_us = deadline_us;
  saga = fresh(input);
  moment.now_us = 1000000;
  told = 0;
}

static void begin(const char *definition, const char *input, int64_t deadline_us) {
  define(definition, input, deadline_us);
  cr_assert(txb_saga_instance_on_start(&saga, &moment, &ledger, &err) == TXB_OK);
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

static const struct txb_saga_entry *last(void) {
  return &ledger.entries[ledger.entry_count - 1];
}

static void reasons(const char *wanted) {
  cr_assert(last()->reason != NULL && strstr(last()->reason, wanted) != NULL, "\"%s\" does not hold \"%s\"",
            last()->reason, wanted);
}

static const struct txb_saga_entry *entry_of(const char *step, const char *event) {
  for (size_t n = ledger.entry_count; n > 0; n--)
    if (strcmp(ledger.entries[n - 1].step, step) == 0 && strcmp(ledger.entries[n - 1].event, event) == 0)
      return &ledger.entries[n - 1];
  cr_assert_fail("there is no entry %s:%s", step, event);
  return NULL;
}

/* The last command. */
static void commanded(const char *step, enum txb_saga_operation_kind operation, const char *payload) {
  cr_assert_gt(ledger.command_count, 0);
  const struct txb_saga_command *c = &ledger.commands[ledger.command_count - 1];
  cr_assert_str_eq(c->step, step);
  cr_assert_eq(c->operation, operation);
  cr_assert(txb_slice_equal(c->payload, txb_slice_text(payload)), "%.*s", (int)c->payload.size,
            (const char *)c->payload.data);
}

static const char *topic_of(const char *step) {
  int rule = txb_saga_rule_of(d, txb_slice_text(step));
  return rule < 0 ? "flights" : d->steps[d->origin[rule].step].topic;
}

static void answer(const char *step, const char *operation, const char *said, const char *output) {
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

static void ok(const char *step, const char *output) {
  answer(step, "action", "ok", output);
}

static void timer(int64_t due_us) {
  moment.now_us = due_us > moment.now_us ? due_us + 10 : moment.now_us;
  cr_assert(txb_saga_instance_on_timer(&saga, due_us, &moment, &ledger, &err) == TXB_OK);
}

static void settled(int64_t timer_us) {
  txb_saga_instance_settle(&saga, &ledger);
  cr_assert_eq(saga.timer_us, timer_us, "%" PRId64, saga.timer_us);
}

static void decide(const char *decision, const char *step) {
  const struct txb_saga_decision one = {decision, step, saga.n, "because", "ann", NULL};
  cr_assert(txb_saga_instance_on_decision(&saga, &one, &moment, &ledger, &err) == TXB_OK);
}

static enum txb_saga_step_state state_of(const char *step) {
  return saga.state.steps[txb_saga_rule_of(d, txb_slice_text(step))].state;
}

/* ---- forward ------------------------------------------------------------------------------------ */

Test(saga_instance, a_start_begins_the_first_steps_once) {
  begin(trip, with_hotel, 0);
  happened("start flight:begin hotel:begin");
  cr_assert(saga.n == 3 && ledger.command_count == 2 && ledger.entries[1].first_command == 0 &&
            ledger.entries[1].command_count == 1 && ledger.entries[0].command_count == 0);
  cr_assert_str_eq(ledger.commands[0].topic, "flights");
  cr_assert_str_eq(ledger.commands[0].type, "book");
  commanded("hotel", TXB_SAGA_OPERATION_ACTION, with_hotel);
  cr_assert(txb_saga_instance_on_start(&saga, &moment, &ledger, &err) == TXB_OK);
  happened("");
}

Test(saga_instance, effects_feed_the_steps_behind_and_the_end) {
  begin(trip, with_hotel, 0);
  ok("flight", "{\"price\":12.1,\"id\":\"F\\u00e4\"}");
  ok("hotel", "{\"room\":7}");
  happened("start flight:begin hotel:begin flight:effect hotel:effect pay:begin");
  commanded("pay", TXB_SAGA_OPERATION_ACTION, "{\"sum\":12.1}");
  ok("pay", NULL);
  happened("pay:effect mail:begin hotel/confirm:begin");
  commanded("hotel/confirm", TXB_SAGA_OPERATION_FORWARD, "{\"room\":7}");
  answer("hotel/confirm", "forward", "ok", "[1]");
  answer("mail", "forward", "ok", NULL);
  happened("hotel/confirm:effect mail:effect end");
  cr_assert(saga.ended && saga.state.state == TXB_SAGA_COMPLETED && saga.reason == NULL);
  cr_assert(txb_slice_equal(saga.output, txb_slice_text("{\"flight\":\"F\xc3\xa4\"}")));
  cr_assert(txb_slice_equal(last()->output, saga.output));
}

static void is_handed_on(const char *price, const char *as) {
  char output[200], payload[200];
  begin(trip, without_hotel, 0);
  snprintf(output, sizeof output, "{\"price\":%s}", price);
  snprintf(payload, sizeof payload, "{\"sum\":%s}", as);
  ok("flight", output);
  commanded("pay", TXB_SAGA_OPERATION_ACTION, payload);
  txb_saga_instance_fini(&saga);
  txb_saga_definition_free(d);
  d = NULL;
}

Test(saga_instance, numbers_are_handed_on_as_they_were_written) {
  is_handed_on("9007199254740993", "9007199254740993");
  is_handed_on("[0.1,{\"x\":19.99},-1.5,1e30]", "[0.1,{\"x\":19.99},-1.5,1e30]");
  is_handed_on("0.30000000000000004", "0.30000000000000004");
}

Test(saga_instance, a_condition_that_does_not_hold_skips_and_there_is_nothing_to_confirm) {
  begin(trip, without_hotel, 0);
  happened("start flight:begin hotel:skip");
  ok("flight", "{\"price\":1,\"id\":1}");
  ok("pay", NULL);
  answer("mail", "forward", "ok", NULL);
  happened("flight:effect pay:begin pay:effect mail:begin hotel/confirm:skip mail:effect end");
}

/* ---- what can't be made ------------------------------------------------------------------------- */

Test(saga_instance, a_command_that_can_t_be_made_refuses_the_action) {
  begin(trip, with_hotel, 0);
  ok("hotel", "{\"room\":7}");
  told = ledger.entry_count;
  ok("flight", "{\"id\":1}");
  happened("flight:effect pay:begin pay:refused");
  cr_assert_eq(entry_of("pay", "begin")->command_count, 0);
  cr_assert(strstr(entry_of("pay", "refused")->reason,
                   "its command could not be made: steps.flight.output.price is absent") != NULL);
  cr_assert(state_of("flight") == TXB_STEP_COMPENSATING && state_of("hotel") == TXB_STEP_COMPENSATING);
  answer("flight", "compensation", "compensated", NULL);
  answer("hotel", "compensation", "compensated", NULL);
  happened("flight:compensated hotel:compensated end");
  cr_assert(saga.state.state == TXB_SAGA_COMPENSATED && saga.output.data == NULL);
  cr_assert_str_eq(saga.reason, "pay: its command could not be made: steps.flight.output.price is absent; write "
                                "steps.flight.output.price? where it may be");
}

Test(saga_instance, a_retriable_that_can_t_be_made_pauses_and_sticks) {
  begin(trip, "{}", 0);
  ok("flight", "{\"price\":1,\"id\":1}");
  told = ledger.entry_count;
  ok("pay", NULL);
  happened("pay:effect mail:begin mail:refused hotel/confirm:skip");
  settled(1010000);
  timer(1010000);
  happened("timer mail:time mail:refused mail:stuck");
  cr_assert(state_of("mail") == TXB_STEP_STUCK_ACTION && ledger.command_count == 2);
  cr_assert(strstr(entry_of("mail", "refused")->reason, "input.who is absent") != NULL);
  decide("mark_done", "mail");
  happened("mail:mark_done end");
  cr_assert_str_eq(entry_of("mail", "mark_done")->who, "ann");
}

#define ONE(kind, more)                                                                                                \
  "{\"name\":\"a\",\"version\":1,\"steps\":[{\"name\":\"x\",\"topic\":\"t\",\"type\":\"y\",\"kind\":\"" kind           \
  "\",\"retry\":{\"attempts\":2,\"first\":\"10ms\"}" more "}]}"

Test(saga_instance, a_condition_that_can_t_be_told_refuses_what_could_be_undone) {
  begin(ONE("compensatable", ",\"compensation\":{\"type\":\"z\"},\"when\":\"input.n > 1\""), "{\"n\":[]}", 0);
  happened("start x:begin x:refused end");
  cr_assert(ledger.command_count == 0 && saga.state.state == TXB_SAGA_COMPENSATED);
  cr_assert(strstr(saga.reason, "x: its command could not be made: whether it is to run could not be told: ") != NULL,
            "%s", saga.reason);
  cr_assert(strstr(entry_of("x", "begin")->reason, "whether it is to run could not be told: ") != NULL);
}

Test(saga_instance, a_condition_that_can_t_be_told_never_lets_a_retriable_run) {
  begin(ONE("retriable", ",\"when\":\"input.n > 1\""), "{\"n\":[]}", 0);
  happened("start x:begin x:refused");
  settled(1010000);
  timer(1010000);
  happened("timer x:time x:refused x:stuck");
  decide("retry", "x");
  happened("x:retry x:refused");
  cr_assert_eq(ledger.command_count, 0);
}

Test(saga_instance, compensations_that_can_t_be_made_stick_each_with_its_own_reason) {
  begin("{\"name\":\"a\",\"version\":1,\"steps\":["
        "{\"name\":\"x\",\"topic\":\"t\",\"type\":\"y\",\"kind\":\"compensatable\",\"after\":[],\"retry\":{"
        "\"attempts\":1},"
        "\"compensation\":{\"type\":\"z\",\"input\":\"{input.foo}\"}},"
        "{\"name\":\"v\",\"topic\":\"t\",\"type\":\"y\",\"kind\":\"compensatable\",\"after\":[],\"retry\":{"
        "\"attempts\":1},"
        "\"compensation\":{\"type\":\"z\",\"input\":\"{input.bar}\"}},"
        "{\"name\":\"w\",\"topic\":\"t\",\"type\":\"y\",\"kind\":\"compensatable\",\"after\":[\"x\",\"v\"],"
        "\"compensation\":{\"type\":\"z\"}}]}",
        "{}", 0);
  ok("x", NULL);
  ok("v", NULL);
  told = ledger.entry_count;
  answer("w", "action", "refused", NULL);
  happened("w:refused x:not_compensated x:stuck v:not_compensated v:stuck");
  cr_assert(strstr(entry_of("x", "not_compensated")->reason,
                   "its compensation could not be made: input.foo is absent") != NULL);
  cr_assert(strstr(entry_of("v", "not_compensated")->reason, "input.bar is absent") != NULL);
  cr_assert(txb_saga_is_stuck(&d->rules, &saga.state));
  decide("mark_undone", "x");
  decide("mark_undone", "v");
  happened("x:mark_undone v:mark_undone end");
  cr_assert_str_eq(saga.reason, "w: refused");
}

static const char *large(size_t size) {
  static char text[TXB_PAYLOAD_SIZE_MAX + 100];
  snprintf(text, sizeof text, "{\"s\":\"%*s\"}", (int)size - 8, "");
  return text;
}

Test(saga_instance, a_command_that_is_too_large_can_t_be_made) {
  begin(ONE("pivot", ",\"input\":[\"{input.s}\",\"{input.s}\"]"), large(600000), 0);
  happened("start x:begin x:refused end");
  cr_assert(strstr(saga.reason, "it would have 1199991 bytes") != NULL, "%s", saga.reason);
}

Test(saga_instance, an_input_that_is_too_large_as_it_is_can_t_be_sent) {
  begin(ONE("pivot", ""), large(TXB_PAYLOAD_SIZE_MAX + 1), 0);
  happened("start x:begin x:refused end");
  cr_assert(strstr(saga.reason, "it would have 1000001 bytes") != NULL, "%s", saga.reason);
}

Test(saga_instance, an_input_with_a_number_that_is_too_large_refuses_who_reads_it) {
  begin(ONE("pivot", ",\"input\":\"{saga.id}\""), "{\"n\":123456789012345678901234567890}", 0);
  happened("start x:begin x:refused end");
  cr_assert(strstr(saga.reason, "the saga's input can't be read: ") != NULL, "%s", saga.reason);
}

Test(saga_instance, an_output_that_can_t_be_made_is_told_and_the_saga_is_completed) {
  begin(trip, without_hotel, 0);
  ok("flight", "{\"price\":1}");
  ok("pay", NULL);
  answer("mail", "forward", "ok", NULL);
  cr_assert(saga.ended && saga.state.state == TXB_SAGA_COMPLETED && saga.output.data == NULL);
  cr_assert(strstr(saga.reason, "completed, but its output could not be made: steps.flight.output.id is absent") !=
            NULL);
  cr_assert_str_eq(last()->reason, saga.reason);
}

Test(saga_instance, an_output_that_is_too_large_is_none) {
  begin("{\"name\":\"a\",\"version\":1,\"output\":\"{input.s}\",\"steps\":["
        "{\"name\":\"x\",\"topic\":\"t\",\"type\":\"y\",\"kind\":\"pivot\",\"input\":1}]}",
        large(TXB_PAYLOAD_SIZE_MAX), 0);
  ok("x", NULL);
  happened("start x:begin x:effect end");
  cr_assert(saga.output.data == NULL && last()->output.data == NULL);
  cr_assert(strstr(saga.reason, "bytes are more than a message can take") != NULL);
}

/* ---- answers that change nothing ---------------------------------------------------------------- */

static bool same_state(const struct txb_saga *a, const struct txb_saga *b) {
  bool same = a->state == b->state;
  for (int rule = 0; rule < TXB_SAGA_STEPS_MAX; rule++) {
    const struct txb_saga_step *x = &a->steps[rule], *y = &b->steps[rule];
    same = same && x->state == y->state && x->asked == y->asked && x->attempts == y->attempts &&
           x->sendings == y->sendings;
  }
  return same;
}

static void is_ignored(struct txb_saga_answer a, const char *why) {
  struct txb_saga before = saga.state;
  cr_assert(txb_saga_instance_on_answer(&saga, &a, &moment, &ledger, &err) == TXB_OK);
  cr_assert_str_eq(last()->event, "ignored");
  reasons(why);
  cr_assert(same_state(&before, &saga.state));
  cr_assert(txb_slice_is_text(txb_slice_text(last()->reason)));
}

Test(saga_instance, what_is_no_answer_is_ignored_and_says_why) {
  begin(trip, without_hotel, 0);
  const struct txb_saga_answer good = {.step = txb_slice_text("flight"),
                                       .operation = txb_slice_text("action"),
                                       .sending = 1,
                                       .topic = txb_slice_text("flights"),
                                       .answer = "ok"};
  struct txb_saga_answer a = good;
  a.step = txb_slice_text("fly");
  is_ignored(a, "an answer about fly: version 2 of trip has no such step");
  a.step = txb_slice_of(NULL, 0);
  is_ignored(a, "has no such step");
  a.step = txb_slice_text("flight/confirm");
  is_ignored(a, "an answer about flight/confirm: version 2 of trip has no such step");
  a = good;
  a.topic = txb_slice_text("hotels");
  is_ignored(a, "an answer from topic hotels: its commands go to flights");
  a.topic = txb_slice_of(NULL, 0);
  is_ignored(a, "its commands go to flights");
  a = good;
  a.answer = "failed";
  is_ignored(a, "the answer failed to action means nothing");
  a.answer = NULL;
  is_ignored(a, "means nothing");
  a = good;
  a.operation = txb_slice_text("delete");
  is_ignored(a, "the answer ok to delete means nothing");
  a.operation = txb_slice_of(NULL, 0);
  is_ignored(a, "means nothing");
  a.operation = txb_slice_text("compensation");
  is_ignored(a, "the answer ok to compensation means nothing");
  a.answer = "compensated";
  is_ignored(a, "the answer compensated to compensation came when the step was running: nothing follows from it");
  a = good;
  a.step = txb_slice_text("mail");
  a.topic = txb_slice_text("mails");
  is_ignored(a, "came when the step was idle");
  ok("flight", "{\"price\":1}");
  is_ignored(good, "the answer ok to action came when the step was done");
  cr_assert_str_eq(last()->step, "flight");
}

Test(saga_instance, a_reason_is_cut_between_characters) {
  static char step[200], why[2000];
  begin(ONE("pivot", ""), "{}", 0);
  for (int offset = 0; offset < 3; offset++) {
    memset(step, 'x', 3);
    for (size_t n = (size_t)offset; n + 3 < sizeof step; n += 3)
      memcpy(step + n, "\xe2\x82\xac", 4);
    is_ignored((struct txb_saga_answer){.step = txb_slice_text(step), .answer = "ok"}, "no such step");
  }
  for (size_t n = 1; n + 3 < sizeof why; n += 3)
    memcpy(why + n, "\xe2\x82\xac", 4);
  why[0] = 'y';
  const struct txb_saga_answer refused = {.step = txb_slice_text("x"),
                                          .operation = txb_slice_text("action"),
                                          .topic = txb_slice_text("t"),
                                          .answer = "refused",
                                          .reason = why};
  cr_assert(txb_saga_instance_on_answer(&saga, &refused, &moment, &ledger, &err) == TXB_OK);
  cr_assert(saga.ended && txb_slice_is_text(txb_slice_text(saga.reason)) && strlen(saga.reason) > 400);
  cr_assert_str_eq(entry_of("x", "refused")->reason, why);
}

/* ---- time --------------------------------------------------------------------------------------- */

Test(saga_instance, what_could_not_be_published_counts_as_time_for_its_own_sending) {
  begin(trip, without_hotel, 0);
  answer("flight", "action", "undeliverable", NULL);
  happened("start flight:begin hotel:skip flight:time");
  commanded("flight", TXB_SAGA_OPERATION_RESOLVE, "{}");
  is_ignored((struct txb_saga_answer){.step = txb_slice_text("flight"),
                                      .operation = txb_slice_text("action"),
                                      .sending = 1,
                                      .topic = txb_slice_text("flights"),
                                      .answer = "undeliverable"},
             "the answer undeliverable to action came when the step was settling");
}

Test(saga_instance, one_timer_is_set_to_what_is_due_first) {
  begin(trip, with_hotel, 0);
  settled(1030000);
  cr_assert_eq(last()->timer_us, 1030000);
  cr_assert(ledger.entries[0].timer_us == 0 && ledger.entries[1].timer_us == 0);
  told = ledger.entry_count;
  moment.now_us = 1002000;
  ok("flight", "{\"price\":1}");
  settled(1030000); /* the hotel's time, 1050000, is later: what is set comes first, and looks */
  cr_assert_eq(last()->timer_us, 0);
  timer(1029999); /* a stale one */
  happened("flight:effect");
  timer(1030000);
  happened("timer");
  settled(1050000);
  timer(1030000);
  happened("");
  timer(1050000);
  happened("timer hotel:time");
  commanded("hotel", TXB_SAGA_OPERATION_RESOLVE, "{}");
  settled(1100010);
  cr_assert_eq(entry_of("hotel", "time")->sending, 1);
}

Test(saga_instance, a_timer_is_set_anew_only_when_it_is_to_be_earlier) {
  begin(trip, without_hotel, 1035000);
  settled(1030000);
  moment.now_us = 1001000;
  ok("flight", "{\"price\":1}");
  settled(1030000);
  timer(1030000);
  settled(1035000); /* the deadline is before the payment's 1041000 */
  timer(1035000);
  happened("start flight:begin hotel:skip flight:effect pay:begin timer timer turn_back");
  cr_assert_str_eq(last()->reason, "its deadline is over");
  cr_assert_eq(saga.state.state, TXB_SAGA_TURNING);
  answer("pay", "resolve", "never", NULL);
  happened("pay:never");
  answer("flight", "compensation", "compensated", NULL);
  cr_assert_str_eq(saga.reason, "its deadline is over");
}

Test(saga_instance, a_compensation_that_is_not_answered_is_sent_again) {
  begin(trip, without_hotel, 0);
  ok("flight", "{\"price\":1,\"id\":1}");
  decide("cancel", NULL);
  answer("pay", "resolve", "never", NULL);
  told = ledger.entry_count;
  size_t sent = ledger.command_count;
  cr_assert_eq(state_of("flight"), TXB_STEP_COMPENSATING);
  settled(1030000);
  timer(1030000);
  happened("timer flight:time");
  cr_assert_eq(ledger.command_count, sent + 1);
  commanded("flight", TXB_SAGA_OPERATION_COMPENSATION, without_hotel);
  settled(1060010);
  timer(1060010);
  happened("timer flight:time flight:stuck");
  decide("retry", "flight");
  answer("flight", "compensation", "compensated", NULL);
  happened("flight:retry flight:compensated end");
}

Test(saga_instance, an_earlier_timer_replaces_a_later_one) {
  begin(trip, with_hotel, 0);
  answer("flight", "action", "ok", "{\"price\":1,\"id\":1}");
  settled(1050000);
  moment.now_us = 1005000;
  answer("hotel", "action", "ok", "{\"room\":1}");
  settled(1045000);
  cr_assert_eq(last()->timer_us, 1045000);
}

/* Both were published while the coordinator was away, and lie in one batch, or in two. */
Test(saga_instance, a_timer_that_was_replaced_counts_again_behind_the_one_that_replaced_it) {
  begin(trip, with_hotel, 0);
  answer("flight", "action", "ok", "{\"price\":1,\"id\":1}");
  settled(1050000);
  moment.now_us = 1005000;
  answer("hotel", "action", "ok", "{\"room\":1}");
  settled(1045000);
  told = ledger.entry_count;
  saga.deadline_us = 1050000;
  timer(1045000);
  happened("timer pay:time");
  moment.now_us = 1060000;
  timer(1050000); /* in the same batch: nothing was settled */
  happened("timer turn_back");
  cr_assert(saga.timer_us == 0 && saga.fired_us == 1050000);
}

/* The transaction that replaced it ended only when the later one had been published. */
Test(saga_instance, a_later_timer_that_comes_first_stands_for_both) {
  begin(trip, with_hotel, 0);
  answer("flight", "action", "ok", "{\"price\":1,\"id\":1}");
  settled(1050000);
  moment.now_us = 1005000;
  answer("hotel", "action", "ok", "{\"room\":1}");
  settled(1045000);
  told = ledger.entry_count;
  moment.now_us = 1049000;
  cr_assert(txb_saga_instance_on_timer(&saga, 1050000, &moment, &ledger, &err) == TXB_OK);
  happened(""); /* it is not over: nobody published that */
  timer(1050000);
  happened("timer timer pay:time");
  timer(1045000);
  happened("");
  settled(1090010);
}

Test(saga_instance, a_deadline_turns_back_what_can_still_turn) {
  begin(trip, without_hotel, 1010000);
  settled(1010000);
  timer(1010000);
  happened("start flight:begin hotel:skip timer turn_back");
  commanded("flight", TXB_SAGA_OPERATION_RESOLVE, "{}");
  settled(1040010);
}

Test(saga_instance, a_deadline_behind_the_pivot_changes_nothing_and_sets_no_timer) {
  begin(trip, without_hotel, 1035000);
  ok("flight", "{\"price\":1,\"id\":1}");
  settled(1035000);
  ok("pay", NULL);
  told = ledger.entry_count;
  timer(1035000);
  happened("timer");
  settled(1040000);
  cr_assert_eq(saga.state.state, TXB_SAGA_RUNNING);
  txb_saga_definition_free(d);
  begin(trip, without_hotel, 1035000);
  ok("flight", "{\"price\":1,\"id\":1}");
  ok("pay", NULL);
  settled(1040000);
}

Test(saga_instance, nothing_sets_a_timer_once_it_has_ended) {
  begin(ONE("pivot", ""), "{}", 2000000);
  settled(2000000);
  ok("x", NULL);
  settled(2000000);
  told = ledger.entry_count;
  timer(2000000);
  happened("");
}

Test(saga_instance, pauses_grow_to_their_cap) {
  begin(
      "{\"name\":\"a\",\"version\":1,\"steps\":[{\"name\":\"x\",\"topic\":\"t\",\"type\":\"y\",\"kind\":\"retriable\","
      "\"retry\":{\"attempts\":9,\"first\":\"10ms\",\"factor\":3,\"cap\":\"50ms\"}}]}",
      "{}", 0);
  static const int64_t pauses_us[] = {10000, 30000, 50000, 50000};
  for (size_t n = 0; n < sizeof pauses_us / sizeof pauses_us[0]; n++) {
    answer("x", "forward", "refused", NULL);
    cr_assert_eq(saga.due_us[0], moment.now_us + pauses_us[n]);
    txb_saga_instance_settle(&saga, &ledger);
    timer(saga.timer_us);
  }
}

/* ---- decisions ---------------------------------------------------------------------------------- */

static void is_refused(const char *decision, const char *step, int32_t seen, const char *why) {
  const struct txb_saga_decision one = {decision, step, seen, "because", "ann", NULL};
  struct txb_saga before = saga.state;
  cr_assert(txb_saga_instance_on_decision(&saga, &one, &moment, &ledger, &err) == TXB_OK);
  cr_assert_str_eq(last()->event, "ignored");
  cr_assert_str_eq(last()->who, "ann");
  reasons(why);
  cr_assert(same_state(&before, &saga.state));
}

Test(saga_instance, decisions_that_do_not_fit_are_ignored_and_say_why) {
  begin(trip, without_hotel, 0);
  is_refused("dance", "flight", saga.n, "the decision dance is not known");
  is_refused("retry", "flight", saga.n - 1, "the decision retry was made at entry 3; the saga had gone on to 4");
  is_refused("retry", "fly", saga.n, "the decision retry is about fly: there is no such step");
  is_refused("retry", NULL, saga.n, "the decision retry is about no step");
  is_refused("mark_done", "flight", saga.n, "the decision mark_done does not fit a step that is running");
  ok("flight", "{\"price\":1,\"id\":1}");
  ok("pay", NULL);
  is_refused("cancel", NULL, saga.n, "cancelled too late: the saga is running");
  answer("mail", "forward", "ok", NULL);
  is_refused("cancel", NULL, saga.n, "the decision cancel came after the saga's end");
}

Test(saga_instance, a_cancel_turns_back_with_the_persons_reason) {
  begin(trip, without_hotel, 0);
  decide("cancel", NULL);
  happened("start flight:begin hotel:skip turn_back");
  answer("flight", "resolve", "never", NULL);
  happened("flight:never end");
  cr_assert_str_eq(saga.reason, "because");
}

Test(saga_instance, what_was_cancelled_before_its_start_never_begins_but_what_was_ignored_does) {
  define(trip, without_hotel, 0);
  answer("flight", "action", "ok", NULL);
  cr_assert(txb_saga_instance_on_start(&saga, &moment, &ledger, &err) == TXB_OK);
  happened("flight:ignored start flight:begin hotel:skip");
  txb_saga_instance_fini(&saga);
  txb_saga_definition_free(d);
  define(trip, without_hotel, 0);
  told = ledger.entry_count;
  decide("cancel", NULL);
  cr_assert(txb_saga_instance_on_start(&saga, &moment, &ledger, &err) == TXB_OK);
  happened("turn_back end");
  cr_assert_eq(saga.state.state, TXB_SAGA_COMPENSATED);
}

static void stick_settling(void) {
  txb_saga_instance_fini(&saga);
  txb_saga_definition_free(d);
  begin(ONE("pivot", ""), "{}", 0);
  for (int n = 0; n < 3; n++)
    answer("x", n == 0 ? "action" : "resolve", "undeliverable", NULL);
  cr_assert_eq(state_of("x"), TXB_STEP_STUCK_SETTLING);
  told = ledger.entry_count;
}

Test(saga_instance, a_person_can_retry_or_mark_what_is_stuck) {
  stick_settling();
  decide("retry", "x");
  happened("x:retry");
  commanded("x", TXB_SAGA_OPERATION_RESOLVE, "{}");
  stick_settling();
  decide("mark_done", "x");
  happened("x:mark_done end");
  cr_assert_eq(saga.state.state, TXB_SAGA_COMPLETED);
  stick_settling();
  decide("mark_undone", "x");
  happened("x:mark_undone end");
  cr_assert_str_eq(saga.reason, "x: because");
}

/* ---- replay ------------------------------------------------------------------------------------- */

static enum txb_rc replay_entry(struct txb_saga_instance *i, const struct txb_saga_entry *e) {
  const struct txb_saga_past past = {.n = e->n,
                                     .event = e->event,
                                     .step = txb_slice_text(e->step),
                                     .sending = e->sending,
                                     .at_us = e->at_us,
                                     .timer_us = e->timer_us,
                                     .output = e->output,
                                     .reason = e->reason};
  return txb_saga_instance_replay(i, &past, &err);
}

static bool same_text(const char *a, const char *b) {
  return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static void replays_to_the_same(const char *input) {
  struct txb_saga_instance again = fresh(input);
  for (size_t n = 0; n < ledger.entry_count; n++)
    cr_assert(replay_entry(&again, &ledger.entries[n]) == TXB_OK, "%s", err.message);
  cr_assert(same_state(&again.state, &saga.state));
  cr_assert(memcmp(again.due_us, saga.due_us, sizeof saga.due_us) == 0);
  cr_assert(again.n == saga.n && again.ended == saga.ended && again.begun == saga.begun);
  cr_assert(again.timer_us == saga.timer_us && again.fired_us == saga.fired_us);
  cr_assert(again.turned_rule == saga.turned_rule && same_text(again.turned_why, saga.turned_why));
  for (int rule = 0; rule < TXB_SAGA_STEPS_MAX; rule++)
    cr_assert(txb_slice_equal(again.outputs[rule], saga.outputs[rule]) &&
              txb_slice_equal(again.edited[rule], saga.edited[rule]));
  cr_assert_eq(again.left, saga.left);
}

/* Any answer to any command, timers, and a person who tries everything. */
static void something(struct saga_kit *k) {
  static const char *const answers[] = {"ok", "ok", "ok", "refused", "never", "compensated", "failed", "undeliverable"};
  static const char *const decisions[] = {"retry", "mark_done", "mark_undone", "skip", "edit", "cancel"};
  const struct txb_saga_command *c = &ledger.commands[kit_roll(k, ledger.command_count)];
  json_t *output = kit_chance(k, 50) ? json_pack("{s:i}", "n", (int)kit_roll(k, 100)) : NULL;
  const struct txb_saga_decision decision = {decisions[kit_roll(k, kit_chance(k, 90) ? 5 : 6)],
                                             d->steps[kit_roll(k, (uint64_t)d->count)].name,
                                             saga.n,
                                             "because",
                                             "ann",
                                             output};
  const struct txb_saga_answer a = {
      .step = txb_slice_text(c->step),
      .operation = txb_slice_text(txb_saga_operation_name(c->operation)),
      .sending = c->sending,
      .topic = txb_slice_text(c->topic),
      .answer = c->operation == TXB_SAGA_OPERATION_COMPENSATION ? answers[5 + kit_roll(k, 3)] : answers[kit_roll(k, 8)],
      .output = output};
  enum txb_rc rc = kit_chance(k, 70)   ? txb_saga_instance_on_answer(&saga, &a, &moment, &ledger, &err)
                   : kit_chance(k, 70) ? txb_saga_instance_on_timer(&saga, saga.timer_us, &moment, &ledger, &err)
                                       : txb_saga_instance_on_decision(&saga, &decision, &moment, &ledger, &err);
  json_decref(output);
  cr_assert(rc == TXB_OK);
}

Test(saga_instance, whatever_happens_its_entries_make_the_same_state_again) {
  int ends[TXB_SAGA_STATES] = {0};
  for (uint64_t seed = 1; seed <= 400; seed++) {
    struct saga_kit k = {.random = seed};
    kit_make(&k);
    begin(k.definition, k.input, kit_chance(&k, 30) ? 1000000 + (int64_t)kit_roll(&k, 200000) : 0);
    for (int n = 0; n < 200 && !saga.ended && ledger.command_count > 0; n++) {
      moment.now_us += (int64_t)kit_roll(&k, 20000);
      something(&k);
      if (kit_chance(&k, 50))
        txb_saga_instance_settle(&saga, &ledger);
      if (kit_chance(&k, 20))
        replays_to_the_same(k.input);
    }
    replays_to_the_same(k.input);
    ends[saga.state.state]++;
    txb_saga_instance_fini(&saga);
    txb_saga_ledger_clear(&ledger);
    txb_saga_definition_free(d);
    d = NULL;
  }
  cr_assert(ends[TXB_SAGA_COMPLETED] > 20 && ends[TXB_SAGA_COMPENSATED] > 20, "%d %d", ends[TXB_SAGA_COMPLETED],
            ends[TXB_SAGA_COMPENSATED]);
}

static void does_not_follow(int32_t n, const char *event, const char *step) {
  err.message[0] = '\0';
  const struct txb_saga_past past = {.n = n, .event = event, .step = txb_slice_text(step), .at_us = 1};
  cr_assert(txb_saga_instance_replay(&saga, &past, &err) == TXB_REFUSED);
  cr_assert(strstr(err.message, "does not follow from what came before by version 2 of trip") != NULL, "%s",
            err.message);
}

Test(saga_instance, a_history_that_is_not_the_definitions_is_refused) {
  begin(trip, without_hotel, 0);
  does_not_follow(saga.n + 1, "begin", "pay");
  does_not_follow(saga.n + 1, "effect", "fly");
  does_not_follow(saga.n + 1, "effect", "mail");
  does_not_follow(saga.n + 1, "dance", "flight");
  does_not_follow(saga.n + 1, "start", "");
  does_not_follow(saga.n + 1, "end", "");
  does_not_follow(saga.n + 2, "effect", "flight");
  does_not_follow(saga.n, "effect", "flight");
}

/* ---- memory ------------------------------------------------------------------------------------- */

static enum txb_rc whole_life(void) {
  struct txb_saga_answer a = {.step = txb_slice_text("flight"),
                              .operation = txb_slice_text("action"),
                              .topic = txb_slice_text("flights"),
                              .answer = "ok"};
  TXB_TRY(txb_saga_instance_on_start(&saga, &moment, &ledger, &err));
  json_t *output = json_pack("{s:s, s:f}", "id", large(90000), "price", 0.5);
  a.output = output;
  enum txb_rc rc = output == NULL ? TXB_FATAL : txb_saga_instance_on_answer(&saga, &a, &moment, &ledger, &err);
  json_decref(output);
  TXB_TRY(rc);
  a = (struct txb_saga_answer){.step = txb_slice_text("pay"),
                               .operation = txb_slice_text("action"),
                               .topic = txb_slice_text("payments"),
                               .answer = "ok"};
  TXB_TRY(txb_saga_instance_on_answer(&saga, &a, &moment, &ledger, &err));
  const struct txb_saga_decision decision = {"dance", "x", saga.n, large(80000), "ann", NULL};
  for (int n = 0; n < 70; n++)
    TXB_TRY(txb_saga_instance_on_decision(&saga, &decision, &moment, &ledger, &err));
  TXB_TRY(txb_saga_instance_on_timer(&saga, saga.timer_us, &moment, &ledger, &err));
  a = (struct txb_saga_answer){.step = txb_slice_text("mail"),
                               .operation = txb_slice_text("forward"),
                               .topic = txb_slice_text("mails"),
                               .answer = "ok"};
  return txb_saga_instance_on_answer(&saga, &a, &moment, &ledger, &err);
}

Test(saga_instance, every_lack_of_memory_is_an_error) {
  enum txb_rc rc = TXB_FATAL;
  int failures = 0;
  for (uint64_t nth = 1; rc != TXB_OK && nth < 500; nth++, failures++) {
    define(trip, without_hotel, 0);
    txb_alloc_fail_at(nth);
    rc = whole_life();
    txb_alloc_fail_at(0);
    cr_assert(rc == TXB_OK || rc == TXB_FATAL);
    teardown();
    setup();
  }
  cr_assert(rc == TXB_OK && failures > 5, "%d", failures);
}

static int allocations_left;

static void *scarce(size_t size) {
  return allocations_left-- > 0 ? malloc(size) : NULL;
}

Test(saga_instance, a_lack_of_memory_for_json_is_an_error_or_a_refusal) {
  bool over = false;
  for (int allowed = 0; !over && allowed < 3000; allowed++) {
    define(trip, without_hotel, 0);
    allocations_left = allowed;
    json_set_alloc_funcs(scarce, free);
    enum txb_rc rc = whole_life();
    json_set_alloc_funcs(malloc, free);
    over = allocations_left >= 0;
    cr_assert(rc == TXB_OK || rc == TXB_FATAL, "%d", rc);
    teardown();
    setup();
  }
  cr_assert(over);
}
