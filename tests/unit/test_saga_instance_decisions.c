/* What people decide about one saga: which decisions fit, cancelling it, and retrying or marking what is stuck. */
#include "saga_instance_kit.h"

TestSuite(saga_instance_decisions, .init = setup, .fini = teardown);

static void is_refused(const char *decision, const char *step, int32_t seen, const char *why) {
  const struct txb_saga_decision one = {decision, step, seen, "because", "ann", NULL};
  struct txb_saga before = saga.state;
  cr_assert(txb_saga_instance_on_decision(&saga, &one, &moment, &ledger, &err) == TXB_OK);
  cr_assert_str_eq(last()->event, "ignored");
  cr_assert_str_eq(last()->who, "ann");
  reasons(why);
  cr_assert(same_state(&before, &saga.state));
}

Test(saga_instance_decisions, decisions_that_do_not_fit_are_ignored_and_say_why) {
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

Test(saga_instance_decisions, a_cancel_turns_back_with_the_persons_reason) {
  begin(trip, without_hotel, 0);
  decide("cancel", NULL);
  happened("start flight:begin hotel:skip turn_back");
  answer("flight", "resolve", "never", NULL);
  happened("flight:never end");
  cr_assert_str_eq(saga.reason, "because");
}

Test(saga_instance_decisions, what_was_cancelled_before_its_start_never_begins_but_what_was_ignored_does) {
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

Test(saga_instance_decisions, a_person_can_retry_or_mark_what_is_stuck) {
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
