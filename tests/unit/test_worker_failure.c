/* The worker core where a batch fails: isolated, set aside, halved, or standing still in place. */
#include "worker_kit.h"

TestSuite(worker_failure, .init = begin, .fini = end);

Test(worker_failure, runs_a_failing_batch_again_isolated_and_then_fast_again) { /* W5 */
  int slot = owned(0);
  records(slot, 0, 24);
  cr_assert_not(run(8).isolated);
  step_failed(slot, TXB_FAILURE_ERROR, -1);
  struct txb_worker_action a = run(8);
  cr_assert(a.isolated);
  cr_assert_eq(a.chunk, 8);
  cr_assert_eq(a.at, -1);
  cr_assert_eq(a.attempt, 1);
  commit_cut(slot, 8, 1, false);
  cr_assert_not(run(8).isolated);
}

Test(worker_failure, tells_the_isolated_run_which_message_is_known_to_fail) { /* W5 */
  int slot = owned(0);
  records(slot, 0, 8);
  run(8);
  step_failed(slot, TXB_FAILURE_ERROR, 3);
  struct txb_worker_action a = run(8);
  cr_assert(a.isolated);
  cr_assert_eq(a.at, 3);
}

Test(worker_failure, goes_on_behind_what_an_isolated_run_has_settled) {
  int slot = owned(0);
  records(slot, 0, 8);
  run(8);
  step_failed(slot, TXB_FAILURE_ERROR, -1);
  run(8);
  commit_cut(slot, 5, 1, false);
  cr_assert_eq(dropped, 5);
  struct txb_worker_action a = run(3);
  cr_assert_eq(a.expected_next, 5);
  cr_assert_eq(a.new_next, 8);
  cr_assert(a.isolated, "the batch is not through");
}

Test(worker_failure, a_group_that_fails_often_stays_isolated) { /* W5 */
  int slot = owned(0), fast = 0, isolated = 0;
  for (int i = 0; i < 40; i++) {
    records(slot, 8 * i, 8);
    struct txb_worker_action a = run(8);
    if (!a.isolated) {
      fast++;
      step_failed(slot, TXB_FAILURE_ERROR, -1);
      a = run(8);
    }
    isolated += a.isolated;
    commit_cut(slot, 8, 1, false);
  }
  cr_assert_eq(isolated, 40);
  cr_assert_leq(fast, 3, "%d batches ran in vain", fast);
}

Test(worker_failure, a_group_that_does_not_fail_any_more_is_fast_again) { /* W5 */
  int slot = owned(0);
  int64_t offset = 0;
  for (int i = 0; i < 6; i++) {
    records(slot, offset, 8);
    offset += 8;
    if (!run(8).isolated) {
      step_failed(slot, TXB_FAILURE_ERROR, -1);
      run(8);
    }
    commit_cut(slot, 8, 1, false);
  }
  bool isolated = true;
  for (int i = 0; i < 70 && isolated; i++) {
    records(slot, offset, 8);
    offset += 8;
    isolated = run(8).isolated;
    commit(slot);
  }
  cr_assert_not(isolated);
}

Test(worker_failure, the_next_isolated_run_begins_with_pieces_of_the_size_that_was_found) {
  int slot = owned(0);
  for (int i = 0; i < 3; i++) {
    records(slot, 8 * i, 8);
    if (!run(8).isolated) {
      step_failed(slot, TXB_FAILURE_ERROR, -1);
      run(8);
    }
    struct txb_worker_event e = event(TXB_WE_COMMITTED, slot);
    e.settled = 8;
    e.failed = 2;
    e.chunk = 3;
    txb_worker_core_step(&core, &e);
  }
  records(slot, 24, 8);
  struct txb_worker_action a = run(8);
  cr_assert(a.isolated);
  cr_assert_eq(a.chunk, 3);
}

Test(worker_failure, sets_a_message_aside_that_failed_alone_without_calling_it_again) {
  int slot = owned(0);
  record(slot, 0);
  run(1);
  struct txb_worker_event e = event(TXB_WE_FAILED, slot);
  e.at = 0;
  e.after_ms = 12345;
  txb_worker_core_step(&core, &e);
  struct txb_worker_action a = run(1);
  cr_assert(a.condemn);
  cr_assert_not(a.isolated);
  cr_assert_eq(a.failure, TXB_FAILURE_ERROR);
  cr_assert_eq(a.after_ms, 12345, "the handler's own wish");
  commit_cut(slot, 1, 1, false);
  record(slot, 1);
  cr_assert_not(run(1).condemn);
}

/* A deferred constraint: nothing tells which message it was. */
Test(worker_failure, halves_an_isolated_batch_that_fails_as_a_whole_down_to_the_message) {
  int slot = owned(0);
  records(slot, 0, 8);
  run(8);
  step_failed(slot, TXB_FAILURE_ERROR, -1);
  for (int n = 8; n > 1; n /= 2) {
    cr_assert(run(n).isolated);
    step_failed(slot, TXB_FAILURE_ERROR, -1);
  }
  cr_assert_not(run(1).condemn);
  step_failed(slot, TXB_FAILURE_ERROR, -1);
  cr_assert(run(1).condemn);
}

Test(worker_failure, a_message_that_can_not_even_be_set_aside_stands_still) {
  int slot = owned(0);
  record(slot, 0);
  run(1);
  step_failed(slot, TXB_FAILURE_ERROR, -1);
  cr_assert(run(1).condemn);
  step_failed(slot, TXB_FAILURE_ERROR, -1);
  cr_assert_eq(expect(TXB_WA_STALL).failure, TXB_FAILURE_WAIT);
}

Test(worker_failure, waits_in_place_when_the_server_is_in_trouble_and_longer_each_time) {
  int slot = stalled();
  expect(TXB_WA_NONE);
  now_us = txb_worker_core_due_us(&core);
  struct txb_worker_action a = expect(TXB_WA_RUN);
  cr_assert_eq(a.count, 1);
  cr_assert_eq(a.attempt, 1, "it is nobody's fault");
  step_failed(slot, TXB_FAILURE_WAIT, -1);
  a = expect(TXB_WA_STALL);
  cr_assert_eq(a.failure, TXB_FAILURE_WAIT);
  cr_assert_eq(a.attempts, 2);
  cr_assert_geq(a.delay_ms, 100);
  cr_assert_leq(a.delay_ms, 200);
  cr_assert_not(a.keep_suspect);
  step(TXB_WE_STALLED, slot);
  now_us = txb_worker_core_due_us(&core);
  run(1);
  commit(slot);
  run(7);
}

Test(worker_failure, waits_in_place_for_a_key_that_has_too_many_held_and_looks_when_some_went) {
  int slot = owned(0);
  record(slot, 0);
  run(1);
  step_failed(slot, TXB_FAILURE_LIMIT, 0);
  cr_assert_eq(expect(TXB_WA_STALL).failure, TXB_FAILURE_LIMIT);
  step(TXB_WE_STALLED, slot);
  expect(TXB_WA_NONE);
  core.partitions[slot].keys_known = false; /* as after TXB05 */
  keys_by_hand = true;
  expect(TXB_WA_KEYS);
  struct txb_worker_event e = event(TXB_WE_KEYS, slot);
  e.keys_version = 1;
  txb_worker_core_step(&core, &e);
  cr_assert_eq(expect(TXB_WA_RUN).count, 1);
}

Test(worker_failure, a_stalled_partition_does_not_hold_the_others) {
  int bad = stalled(), good = owned(0);
  records(good, 0, 8);
  cr_assert_eq(run(8).slot, good);
  commit(good);
  (void)bad;
}

Test(worker_failure, attempts_and_due_time_outlive_the_owner) {
  step(TXB_WE_UP, 0);
  int slot = assign();
  struct txb_position p = plain(4);
  p.stalled_offset = 4;
  p.attempts = 3;
  p.due_ms = 500;
  own(slot, p);
  expect(TXB_WA_FETCH);
  records(slot, 4, 8);
  now_us += 400 * MS;
  expect(TXB_WA_NONE);
  now_us += 200 * MS;
  run(1);
  step_failed(slot, TXB_FAILURE_WAIT, -1);
  cr_assert_eq(expect(TXB_WA_STALL).attempts, 4);
}

Test(worker_failure, a_conflict_is_run_again_at_once_at_half_the_size_and_grows_back_slowly) { /* W8 */
  int slot = owned(0);
  records(slot, 0, 64);
  run(8);
  step_failed(slot, TXB_FAILURE_CONFLICT, -1);
  int batches = 0;
  for (int32_t n = 4; n == 4; batches++) {
    struct txb_worker_action a = expect(TXB_WA_RUN);
    n = a.count;
    commit(slot);
  }
  cr_assert_gt(batches, 4);
  cr_assert_lt(batches, 16);
}

Test(worker_failure, a_message_alone_is_run_again_at_once_after_a_conflict_but_not_for_ever) { /* W8 */
  int slot = owned(0);
  record(slot, 0);
  now_us += 10 * MS;
  for (int i = 0; i < 5; i++) { /* no time passes */
    struct txb_worker_action a = expect(TXB_WA_RUN);
    cr_assert_not(a.patience_over);
    step_failed(slot, TXB_FAILURE_CONFLICT, -1);
  }
  struct txb_worker_action a = expect(TXB_WA_RUN);
  cr_assert(a.patience_over);
  cr_assert(a.isolated, "so that it can be set aside where it fails");
  commit_cut(slot, 1, 1, false);
  record(slot, 1);
  cr_assert_not(run(1).patience_over);
}

Test(worker_failure, runs_the_message_alone_that_cut_a_batch_short_for_a_passing_reason) { /* W8 */
  int slot = owned(0);
  records(slot, 0, 8);
  run(8);
  step_failed(slot, TXB_FAILURE_ERROR, -1);
  run(8);
  commit_cut(slot, 3, 0, true);
  cr_assert_eq(run(1).expected_next, 3);
  for (int i = 0; i < 4; i++) {
    step_failed(slot, TXB_FAILURE_CONFLICT, -1);
    cr_assert_eq(expect(TXB_WA_RUN).patience_over, i == 3);
  }
}

/* Full batches that commit until one is larger than `size`. */
static int commits_at(int slot, int32_t size, int64_t *offset) {
  for (int n = 0;; n++) {
    while (core.partitions[slot].count < 16)
      record(slot, (*offset)++);
    struct txb_worker_action a = expect(TXB_WA_RUN);
    if (a.count > size)
      return n;
    cr_assert_eq(a.count, size);
    commit(slot);
  }
}

Test(worker_failure, a_group_that_fails_again_grows_back_more_slowly) { /* W5 */
  int slot = owned(0), before = 0;
  int64_t offset = 0;
  for (int i = 0; i < 3; i++) {
    if (i == 0) {
      records(slot, 0, 16);
      offset = 16;
      run(8);
    }
    step_failed(slot, TXB_FAILURE_CONFLICT, -1);
    int commits = commits_at(slot, 4, &offset);
    cr_assert_geq(commits, 2 * before, "%d commits at half the size, %d the time before", commits, before);
    cr_assert_gt(commits, before);
    before = commits;
  }
}

/* Of which a slow topic has many: they say nothing about a batch of the size that failed. */
Test(worker_failure, small_batches_do_not_let_it_grow_back) { /* W8 */
  int slot = owned(0);
  records(slot, 0, 8);
  run(8);
  step_failed(slot, TXB_FAILURE_CONFLICT, -1);
  for (int i = 0; i < 2; i++) {
    run(4);
    commit(slot);
  }
  for (int i = 0; i < 20; i++) {
    record(slot, 8 + i);
    run(1);
    commit(slot);
  }
  records(slot, 28, 8);
  run(4);
}

Test(worker_failure, a_stall_that_can_not_be_recorded_still_stands) {
  int slot = owned(0);
  record(slot, 0);
  run(1);
  step_failed(slot, TXB_FAILURE_WAIT, -1);
  for (int i = 0; i < 5; i++) {
    expect(TXB_WA_STALL);
    step_failed(slot, TXB_FAILURE_ERROR, -1);
    expect(TXB_WA_NONE);
    now_us = txb_worker_core_due_us(&core);
  }
  expect(TXB_WA_RUN);
}

Test(worker_failure, records_a_stall_that_could_not_be_recorded_at_first) {
  int slot = owned(0);
  record(slot, 0);
  run(1);
  step_failed(slot, TXB_FAILURE_WAIT, -1);
  expect(TXB_WA_STALL);
  step_failed(slot, TXB_FAILURE_ERROR, -1);
  now_us = txb_worker_core_due_us(&core);
  cr_assert_eq(expect(TXB_WA_STALL).attempts, 1);
  step(TXB_WE_STALLED, slot);
  expect(TXB_WA_RUN);
}

/* A fetched record may keep the whole answer of Kafka in memory that brought it. */
Test(worker_failure, fetches_little_behind_a_stalled_message) {
  int slot = stalled();
  records(slot, 8, 55);
  expect(TXB_WA_NONE);
  records(slot, 63, 1);
  expect(TXB_WA_PAUSE);
  records(slot, 64, 1); /* was on its way */
  now_us = txb_worker_core_due_us(&core);
  run(1);
  commit(slot);
  cr_assert_eq(expect(TXB_WA_RESUME).offset, 65);
}
