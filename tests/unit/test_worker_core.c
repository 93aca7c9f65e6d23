/* The worker core, rule by rule: what it asks for, in which order, and what it never does. */
#include "worker_kit.h"

TestSuite(worker_core, .init = begin, .fini = end);

/* ---- the way to owning ----------------------------------------------------------------------- */

Test(worker_core, takes_a_partition_only_after_the_group_accepted_a_commit) { /* W4 */
  step(TXB_WE_UP, 0);
  int slot = assign();
  expect(TXB_WA_LOOKUP);
  step_found(TXB_WE_LOOKED_UP, slot, true, 7);
  cr_assert_eq(expect(TXB_WA_CONFIRM).offset, 7);
  expect(TXB_WA_NONE);
  step_found(TXB_WE_CONFIRMED, slot, true, 0);
  expect(TXB_WA_TAKE);
}

Test(worker_core, gives_a_partition_up_when_the_group_refuses_and_asks_again_later) { /* W4 */
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

Test(worker_core, after_a_missed_compare_and_set_asks_the_group_before_it_raises_the_epoch_again) { /* W4 */
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

Test(worker_core, drops_what_it_fetched_when_the_group_refuses_after_a_missed_compare_and_set) { /* W4 */
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

Test(worker_core, goes_on_with_what_it_fetched_when_the_position_lies_within) {
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
Test(worker_core, goes_on_with_what_it_fetched_when_there_is_a_gap_before_it) {
  int slot = owned(0);
  record(slot, 3);
  run(1);
  step(TXB_WE_FENCED, slot);
  own(slot, plain(0));
  cr_assert_eq(dropped, 0);
  cr_assert_eq(run(1).new_next, 4);
}

Test(worker_core, fetches_anew_when_the_position_lies_elsewhere) {
  int slot = owned(10);
  records(slot, 10, 2);
  run(2);
  step(TXB_WE_FENCED, slot);
  own(slot, plain(4));
  cr_assert_eq(expect(TXB_WA_FETCH).offset, 4);
  record(slot, 4);
  run(1);
}

Test(worker_core, registers_start_positions_and_looks_again_when_there_is_no_row) {
  step(TXB_WE_UP, 0);
  int slot = assign();
  expect(TXB_WA_LOOKUP);
  step_found(TXB_WE_LOOKED_UP, slot, false, 0);
  expect(TXB_WA_START);
  step_found(TXB_WE_STARTED, slot, true, 0);
  expect(TXB_WA_LOOKUP);
}

Test(worker_core, asks_the_server_to_end_a_stopped_owner_after_a_while) { /* W3 */
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

Test(worker_core, does_nothing_in_the_database_without_a_connection) {
  assign();
  expect(TXB_WA_NONE);
}

/* ---- batches --------------------------------------------------------------------------------- */

Test(worker_core, waits_for_an_incomplete_batch_no_longer_than_asked) {
  int slot = owned(0);
  record(slot, 0);
  expect(TXB_WA_NONE);
  cr_assert_eq(txb_worker_core_due_us(&core), now_us + 5 * MS);
  now_us += 5 * MS;
  cr_assert_eq(expect(TXB_WA_RUN).count, 1);
}

Test(worker_core, runs_a_full_batch_at_once_and_one_at_a_time) {
  int slot = owned(0);
  records(slot, 0, 12);
  struct txb_worker_action a = expect(TXB_WA_RUN);
  cr_assert_eq(a.count, 8);
  cr_assert_eq(a.expected_next, 0);
  cr_assert_eq(a.new_next, 8);
  cr_assert_eq(a.epoch, 5);
  expect(TXB_WA_NONE);
  commit(slot);
  cr_assert_eq(dropped, 8);
  cr_assert_eq(run(4).expected_next, 8);
}

Test(worker_core, passes_gaps_in_the_offsets) {
  int slot = owned(0);
  record(slot, 3);
  record(slot, 9);
  struct txb_worker_action a = run(2);
  cr_assert_eq(a.expected_next, 0);
  cr_assert_eq(a.new_next, 10);
}

Test(worker_core, drops_records_that_come_again_from_an_older_fetch) {
  int slot = owned(5);
  records(slot, 3, 3);
  run(1);
  cr_assert_eq(dropped, 2);
}

Test(worker_core, ends_a_batch_by_its_bytes) {
  int slot = owned(0);
  struct txb_error err;
  for (int i = 0; i < 3; i++) {
    struct txb_worker_record r = {.offset = i, .size = 6000};
    cr_assert_eq(txb_worker_core_record(&core, slot, &r, now_us, &err), TXB_OK);
  }
  cr_assert_eq(expect(TXB_WA_RUN).count, 1);
}

Test(worker_core, a_commit_counts_only_if_its_tag_says_so) { /* W1 */
  int slot = owned(0);
  records(slot, 0, 8);
  run(8);
  struct txb_worker_event e = event(TXB_WE_COMMITTED, slot);
  e.tag_commit = false;
  txb_worker_core_step(&core, &e);
  cr_assert_eq(dropped, 0);
  struct txb_worker_action a = run(8);
  cr_assert_eq(a.expected_next, 0);
  cr_assert(a.isolated);
}

Test(worker_core, of_equal_ids_in_a_batch_only_the_first_is_a_candidate) { /* W6 */
  struct txb_uuid ids[6] = {id_of(5), id_of(3), id_of(5), id_of(1), id_of(3), id_of(9)};
  uint32_t order[6];
  bool first[6];
  cr_assert_eq(txb_batch_candidates(ids, 6, order, first), 4);
  bool wanted[6] = {true, true, false, true, false, true};
  cr_assert_arr_eq(first, wanted, sizeof wanted);
  for (int i = 1; i < 6; i++)
    cr_assert_leq(memcmp(&ids[order[i - 1]], &ids[order[i]], 16), 0);
}

Test(worker_core, serves_its_partitions_in_turn) {
  int a = owned(0), b = owned(0);
  records(a, 0, 16);
  records(b, 0, 16);
  for (int i = 0; i < 4; i++) {
    struct txb_worker_action r = run(8);
    cr_assert_eq(r.slot, i % 2 == 0 ? a : b);
    commit(r.slot);
  }
}

/* ---- failures -------------------------------------------------------------------------------- */

Test(worker_core, runs_a_failing_batch_again_isolated_and_then_fast_again) { /* W5 */
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

Test(worker_core, tells_the_isolated_run_which_message_is_known_to_fail) { /* W5 */
  int slot = owned(0);
  records(slot, 0, 8);
  run(8);
  step_failed(slot, TXB_FAILURE_ERROR, 3);
  struct txb_worker_action a = run(8);
  cr_assert(a.isolated);
  cr_assert_eq(a.at, 3);
}

Test(worker_core, goes_on_behind_what_an_isolated_run_has_settled) {
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

Test(worker_core, a_group_that_fails_often_stays_isolated) { /* W5 */
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

Test(worker_core, a_group_that_does_not_fail_any_more_is_fast_again) { /* W5 */
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

Test(worker_core, the_next_isolated_run_begins_with_pieces_of_the_size_that_was_found) {
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

Test(worker_core, sets_a_message_aside_that_failed_alone_without_calling_it_again) {
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
Test(worker_core, halves_an_isolated_batch_that_fails_as_a_whole_down_to_the_message) {
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

Test(worker_core, a_message_that_can_not_even_be_set_aside_stands_still) {
  int slot = owned(0);
  record(slot, 0);
  run(1);
  step_failed(slot, TXB_FAILURE_ERROR, -1);
  cr_assert(run(1).condemn);
  step_failed(slot, TXB_FAILURE_ERROR, -1);
  cr_assert_eq(expect(TXB_WA_STALL).failure, TXB_FAILURE_WAIT);
}

Test(worker_core, waits_in_place_when_the_server_is_in_trouble_and_longer_each_time) {
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

Test(worker_core, waits_in_place_for_a_key_that_has_too_many_held_and_looks_when_some_went) {
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

Test(worker_core, a_stalled_partition_does_not_hold_the_others) {
  int bad = stalled(), good = owned(0);
  records(good, 0, 8);
  cr_assert_eq(run(8).slot, good);
  commit(good);
  (void)bad;
}

Test(worker_core, attempts_and_due_time_outlive_the_owner) {
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

Test(worker_core, a_conflict_is_run_again_at_once_at_half_the_size_and_grows_back_slowly) { /* W8 */
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

Test(worker_core, a_message_alone_is_run_again_at_once_after_a_conflict_but_not_for_ever) { /* W8 */
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

Test(worker_core, runs_the_message_alone_that_cut_a_batch_short_for_a_passing_reason) { /* W8 */
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

Test(worker_core, a_group_that_fails_again_grows_back_more_slowly) { /* W5 */
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
Test(worker_core, small_batches_do_not_let_it_grow_back) { /* W8 */
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

Test(worker_core, a_stall_that_can_not_be_recorded_still_stands) {
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

Test(worker_core, records_a_stall_that_could_not_be_recorded_at_first) {
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
Test(worker_core, fetches_little_behind_a_stalled_message) {
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

/* ---- leaving, losing, ending ----------------------------------------------------------------- */

Test(worker_core, a_revoked_partition_ends_its_batch_is_marked_clean_and_given_back) {
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

Test(worker_core, a_revoked_partition_starts_nothing_more) {
  int slot = owned(0);
  records(slot, 0, 8);
  step(TXB_WE_REVOKED, slot);
  expect(TXB_WA_RELEASE);
  step(TXB_WE_RELEASED, slot);
  expect(TXB_WA_LEAVE);
  expect(TXB_WA_NONE);
}

Test(worker_core, a_lost_partition_copies_no_offset) {
  int slot = owned(0);
  records(slot, 0, 8);
  run(8);
  step(TXB_WE_LOST, slot);
  commit(slot);
  struct txb_worker_action a;
  cr_assert(txb_worker_core_next(&core, now_us, &a));
  cr_assert_eq(a.kind, TXB_WA_RELEASE);
}

Test(worker_core, copies_no_offset_while_the_group_rebalances) {
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

Test(worker_core, does_not_wake_up_to_copy_what_it_has_lost) {
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

Test(worker_core, a_message_that_waited_when_we_gave_the_connection_up_is_not_blamed) {
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

Test(worker_core, gives_back_at_once_when_the_database_is_gone) {
  int slot = owned(0);
  step(TXB_WE_DOWN, 0);
  step(TXB_WE_REVOKED, slot);
  expect(TXB_WA_LEAVE);
}

Test(worker_core, takes_everything_again_after_the_connection_was_lost_and_keeps_what_it_fetched) {
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

Test(worker_core, a_late_answer_of_the_group_to_a_question_before_the_loss_counts_for_nothing) {
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

Test(worker_core, gives_everything_back_when_stopped) {
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

Test(worker_core, pauses_a_partition_whose_share_of_the_buffer_is_full_and_resumes_it) {
  struct txb_worker_core_options o = options();
  o.batch_bytes = 200000;
  txb_worker_core_init(&core, &o);
  int slot = owned(0);
  struct txb_error err;
  for (int i = 0; i < 12; i++) {
    struct txb_worker_record r = {.offset = i, .size = 100000};
    cr_assert_eq(txb_worker_core_record(&core, slot, &r, now_us, &err), TXB_OK);
  }
  expect(TXB_WA_PAUSE);
  for (int i = 0; i < 3; i++) {
    run(2);
    commit(slot);
  }
  run(2);
  commit(slot);
  expect(TXB_WA_RESUME);
}

Test(worker_core, is_idle_only_at_the_end_that_kafka_told) {
  int slot = owned(0);
  cr_assert_not(txb_worker_core_idle(&core));
  records(slot, 0, 2);
  step_found(TXB_WE_END, slot, true, 2);
  cr_assert_not(txb_worker_core_idle(&core));
  run(2);
  commit(slot);
  cr_assert(txb_worker_core_idle(&core));
  record(slot, 2);
  cr_assert_not(txb_worker_core_idle(&core));
}

Test(worker_core, keeps_its_state_when_memory_is_short) {
  int slot = owned(0);
  struct txb_error err;
  txb_alloc_fail_at(1);
  struct txb_worker_record r = {.offset = 0, .size = 10};
  cr_assert_eq(txb_worker_core_record(&core, slot, &r, now_us, &err), TXB_FATAL);
  cr_assert_eq(dropped, 0);
  record(slot, 0);
  run(1);
}
