/* One saga's time: the timer that is set to what is due first, what is not answered in time, and the deadline of the whole. */
#include "saga_instance_kit.h"

TestSuite(saga_instance_time, .init = setup, .fini = teardown);

Test(saga_instance_time, what_could_not_be_published_counts_as_time_for_its_own_sending) {
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

Test(saga_instance_time, one_timer_is_set_to_what_is_due_first) {
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

Test(saga_instance_time, a_timer_is_set_anew_only_when_it_is_to_be_earlier) {
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

Test(saga_instance_time, a_compensation_that_is_not_answered_is_sent_again) {
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

Test(saga_instance_time, an_earlier_timer_replaces_a_later_one) {
  begin(trip, with_hotel, 0);
  answer("flight", "action", "ok", "{\"price\":1,\"id\":1}");
  settled(1050000);
  moment.now_us = 1005000;
  answer("hotel", "action", "ok", "{\"room\":1}");
  settled(1045000);
  cr_assert_eq(last()->timer_us, 1045000);
}

/* Both were published while the coordinator was away, and lie in one batch, or in two. */
Test(saga_instance_time, a_timer_that_was_replaced_counts_again_behind_the_one_that_replaced_it) {
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
Test(saga_instance_time, a_later_timer_that_comes_first_stands_for_both) {
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

Test(saga_instance_time, a_deadline_turns_back_what_can_still_turn) {
  begin(trip, without_hotel, 1010000);
  settled(1010000);
  timer(1010000);
  happened("start flight:begin hotel:skip timer turn_back");
  commanded("flight", TXB_SAGA_OPERATION_RESOLVE, "{}");
  settled(1040010);
}

Test(saga_instance_time, a_deadline_behind_the_pivot_changes_nothing_and_sets_no_timer) {
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

Test(saga_instance_time, nothing_sets_a_timer_once_it_has_ended) {
  begin(ONE("pivot", ""), "{}", 2000000);
  settled(2000000);
  ok("x", NULL);
  settled(2000000);
  told = ledger.entry_count;
  timer(2000000);
  happened("");
}

Test(saga_instance_time, pauses_grow_to_their_cap) {
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
