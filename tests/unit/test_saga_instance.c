/* One saga in the coordinator's hands: what its messages lead to, and that its entries make the same state again. */
#include "common/event.h"
#include "saga_instance_kit.h"
#include "saga_kit.h"

TestSuite(saga_instance, .init = setup, .fini = teardown);

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
