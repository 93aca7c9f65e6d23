/* The worker core and who owns a partition: the way to owning it, and leaving, losing and ending. */
#include "worker_kit.h"

TestSuite(worker_owner, .init = begin, .fini = end);

/* ---- the way to owning ----------------------------------------------------------------------- */

Test(worker_owner, takes_a_partition_only_after_the_group_accepted_a_commit) { /* W4 */
  step(TXB_WE_UP, 0);
  int slot = assign();
  expect(TXB_WA_LOOKUP);
  step_found(TXB_WE_LOOKED_UP, slot, true, 7);
  cr_assert_eq(expect(TXB_WA_CONFIRM).offset, 7);
  expect(TXB_WA_NONE);
  step_found(TXB_WE_CONFIRMED, slot, true, 0);
  expect(TXB_WA_TAKE);
}

Test(worker_owner, gives_a_partition_up_when_the_group_refuses_and_asks_again_later) { /* W4 */
  step(TXB_WE_UP, 0);
  int slot = assign();
  expect(TXB_WA_LOOKUP);
  step_found(TXB_WE_LOOKED_UP, slot, true, 7);
  expect(TXB_WA_CONFIRM);
  step_found(TXB_WE_CONFIRMED, slot, false, 0);
  expect(TXB_WA_NONE);
  now_us = txb_worker_core_due_us(&core);
  expect(TXB_WA_LOOKUP);
}

Test(worker_owner, after_a_missed_compare_and_set_asks_the_group_before_it_raises_the_epoch_again) { /* W4 */
  int slot = owned(0);
  records(slot, 0, 3);
  run(3);
  step(TXB_WE_FENCED, slot);
  expect(TXB_WA_LOOKUP);
  step_found(TXB_WE_LOOKED_UP, slot, true, 1);
  expect(TXB_WA_CONFIRM);
  step_found(TXB_WE_CONFIRMED, slot, true, 0);
  expect(TXB_WA_TAKE);
}

Test(worker_owner, drops_what_it_fetched_when_the_group_refuses_after_a_missed_compare_and_set) { /* W4 */
  int slot = owned(0);
  records(slot, 0, 3);
  run(3);
  step(TXB_WE_FENCED, slot);
  expect(TXB_WA_LOOKUP);
  step_found(TXB_WE_LOOKED_UP, slot, true, 1);
  expect(TXB_WA_CONFIRM);
  step_found(TXB_WE_CONFIRMED, slot, false, 0);
  expect(TXB_WA_UNFETCH);
  cr_assert_eq(dropped, 3);
  expect(TXB_WA_NONE);
}

Test(worker_owner, goes_on_with_what_it_fetched_when_the_position_lies_within) {
  int slot = owned(0);
  records(slot, 0, 6);
  run(6);
  step(TXB_WE_FENCED, slot);
  own(slot, plain(4));
  struct txb_worker_action a = run(2);
  cr_assert_eq(a.expected_next, 4);
  cr_assert_eq(a.new_next, 6);
}

/* Else a message behind a gap that kills its connection would never be seen to have done so twice. */
Test(worker_owner, goes_on_with_what_it_fetched_when_there_is_a_gap_before_it) {
  int slot = owned(0);
  record(slot, 3);
  run(1);
  step(TXB_WE_FENCED, slot);
  own(slot, plain(0));
  cr_assert_eq(dropped, 0);
  cr_assert_eq(run(1).new_next, 4);
}

Test(worker_owner, fetches_anew_when_the_position_lies_elsewhere) {
  int slot = owned(10);
  records(slot, 10, 2);
  run(2);
  step(TXB_WE_FENCED, slot);
  own(slot, plain(4));
  cr_assert_eq(expect(TXB_WA_FETCH).offset, 4);
  record(slot, 4);
  run(1);
}

Test(worker_owner, registers_start_positions_and_looks_again_when_there_is_no_row) {
  step(TXB_WE_UP, 0);
  int slot = assign();
  expect(TXB_WA_LOOKUP);
  step_found(TXB_WE_LOOKED_UP, slot, false, 0);
  expect(TXB_WA_START);
  step_found(TXB_WE_STARTED, slot, true, 0);
  expect(TXB_WA_LOOKUP);
}

Test(worker_owner, asks_the_server_to_end_a_stopped_owner_after_a_while) { /* W3 */
  step(TXB_WE_UP, 0);
  int slot = assign();
  expect(TXB_WA_LOOKUP);
  step_found(TXB_WE_LOOKED_UP, slot, true, 7);
  expect(TXB_WA_CONFIRM);
  step_found(TXB_WE_CONFIRMED, slot, true, 0);
  expect(TXB_WA_TAKE);
  step(TXB_WE_LOCKED, slot);
  expect(TXB_WA_NONE);
  now_us += 300 * MS;
  expect(TXB_WA_TAKE);
  step(TXB_WE_LOCKED, slot);
  now_us += 2000 * MS;
  expect(TXB_WA_EVICT);
  step(TXB_WE_EVICTED, slot);
  expect(TXB_WA_TAKE);
}

Test(worker_owner, does_nothing_in_the_database_without_a_connection) {
  assign();
  expect(TXB_WA_NONE);
}

/* ---- leaving, losing, ending ----------------------------------------------------------------- */

Test(worker_owner, a_revoked_partition_ends_its_batch_is_marked_clean_and_given_back) {
  int slot = owned(0);
  records(slot, 0, 8);
  run(8);
  step(TXB_WE_REVOKED, slot);
  expect(TXB_WA_NONE);
  commit(slot);
  struct txb_worker_action a;
  cr_assert(txb_worker_core_next(&core, now_us, &a));
  cr_assert_eq(a.kind, TXB_WA_COPY);
  cr_assert_eq(a.offset, 8);
  cr_assert_eq(expect(TXB_WA_RELEASE).epoch, 5);
  step(TXB_WE_RELEASED, slot);
  expect(TXB_WA_LEAVE);
  cr_assert_eq(core.used, 0);
}

Test(worker_owner, a_revoked_partition_starts_nothing_more) {
  int slot = owned(0);
  records(slot, 0, 8);
  step(TXB_WE_REVOKED, slot);
  expect(TXB_WA_RELEASE);
  step(TXB_WE_RELEASED, slot);
  expect(TXB_WA_LEAVE);
  expect(TXB_WA_NONE);
}

Test(worker_owner, a_lost_partition_copies_no_offset) {
  int slot = owned(0);
  records(slot, 0, 8);
  run(8);
  step(TXB_WE_LOST, slot);
  commit(slot);
  struct txb_worker_action a;
  cr_assert(txb_worker_core_next(&core, now_us, &a));
  cr_assert_eq(a.kind, TXB_WA_RELEASE);
}

Test(worker_owner, copies_no_offset_while_the_group_rebalances) {
  int stays = owned(0), goes = owned(0);
  records(stays, 0, 8);
  run(8);
  commit(stays);
  step(TXB_WE_REVOKED, goes);
  struct txb_worker_action a;
  cr_assert(txb_worker_core_next(&core, now_us, &a));
  cr_assert_eq(a.kind, TXB_WA_RELEASE);
  step(TXB_WE_RELEASED, goes);
  cr_assert(txb_worker_core_next(&core, now_us, &a));
  cr_assert_eq(a.kind, TXB_WA_LEAVE);
  cr_assert_not(txb_worker_core_next(&core, now_us, &a));
  now_us = txb_worker_core_due_us(&core);
  cr_assert(txb_worker_core_next(&core, now_us, &a));
  cr_assert_eq(a.kind, TXB_WA_COPY);
  cr_assert_eq(a.offset, 8);
}

Test(worker_owner, does_not_wake_up_to_copy_what_it_has_lost) {
  int slot = owned(0);
  records(slot, 0, 24);
  for (int i = 0; i < 2; i++) { /* the first is copied at once, the second is to wait */
    run(8);
    commit(slot);
  }
  run(8);
  cr_assert_lt(txb_worker_core_due_us(&core), INT64_MAX);
  step(TXB_WE_LOST, slot);
  cr_assert_eq(txb_worker_core_due_us(&core), INT64_MAX);
}

Test(worker_owner, a_message_that_waited_when_we_gave_the_connection_up_is_not_blamed) {
  int slot = owned(0);
  record(slot, 0);
  for (int i = 0; i < 3; i++) {
    run(1);
    step(TXB_WE_GIVEN_UP, 0);
    step(TXB_WE_UP, 0);
    own(slot, plain(0));
  }
  run(1); /* and not set aside */
}

Test(worker_owner, gives_back_at_once_when_the_database_is_gone) {
  int slot = owned(0);
  step(TXB_WE_DOWN, 0);
  step(TXB_WE_REVOKED, slot);
  expect(TXB_WA_LEAVE);
}

Test(worker_owner, takes_everything_again_after_the_connection_was_lost_and_keeps_what_it_fetched) {
  int slot = owned(0);
  records(slot, 0, 8);
  run(8);
  step(TXB_WE_DOWN, 0);
  expect(TXB_WA_NONE);
  cr_assert_eq(dropped, 0);
  step(TXB_WE_UP, 0);
  own(slot, plain(8)); /* the COMMIT had got through */
  cr_assert_eq(dropped, 8);
  record(slot, 8);
  cr_assert_eq(run(1).expected_next, 8);
}

Test(worker_owner, a_late_answer_of_the_group_to_a_question_before_the_loss_counts_for_nothing) {
  step(TXB_WE_UP, 0);
  int slot = assign();
  expect(TXB_WA_LOOKUP);
  step_found(TXB_WE_LOOKED_UP, slot, true, 7);
  expect(TXB_WA_CONFIRM);
  step(TXB_WE_DOWN, 0);
  step_found(TXB_WE_CONFIRMED, slot, true, 0);
  step(TXB_WE_UP, 0);
  expect(TXB_WA_LOOKUP);
}

Test(worker_owner, gives_everything_back_when_stopped) {
  int a = owned(0), b = owned(0);
  records(a, 0, 8);
  records(b, 0, 8);
  run(8);
  step(TXB_WE_STOP, 0);
  expect(TXB_WA_NONE); /* the batch under way ends first */
  commit(a);
  for (int i = 0; i < 2; i++) {
    struct txb_worker_action released = expect(TXB_WA_RELEASE);
    cr_assert_eq(released.slot, i == 0 ? a : b);
    step(TXB_WE_RELEASED, released.slot);
    expect(TXB_WA_LEAVE);
  }
  expect(TXB_WA_NONE);
  cr_assert_eq(core.used, 0);
}
