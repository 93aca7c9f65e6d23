/* The worker core and failed messages: held keys, retries, their markers, and turns with live batches. */
#include "worker_kit.h"

TestSuite(worker_retry, .init = begin, .fini = end);

static void keys(int slot, int64_t version, int64_t due_ms) {
  struct txb_worker_event e = event(TXB_WE_KEYS, slot);
  e.keys_version = version;
  e.due_ms = due_ms;
  e.held_count = 2;
  txb_worker_core_step(&core, &e);
}

/* An owned partition with something due in due_ms. */
static int owned_due(int64_t due_ms) {
  keys_by_hand = true;
  int slot = owned(0);
  expect(TXB_WA_KEYS);
  keys(slot, 3, due_ms);
  return slot;
}

static void marked(int slot, int32_t count, int64_t number) {
  struct txb_worker_event e = event(TXB_WE_RETRY_MARKED, slot);
  e.count = count;
  e.number = number;
  e.keys_version = 3;
  txb_worker_core_step(&core, &e);
}

static void retried(int slot, int32_t settled, int32_t failed, int64_t due_ms) {
  struct txb_worker_event e = event(TXB_WE_RETRIED, slot);
  e.settled = settled;
  e.failed = failed;
  e.due_ms = due_ms;
  txb_worker_core_step(&core, &e);
}

/* Asks for the marker and has `count` rows under it. */
static struct txb_worker_action mark(int slot, int32_t count) {
  struct txb_worker_action a = expect(TXB_WA_RETRY_MARK);
  cr_assert_eq(a.slot, slot);
  marked(slot, count, 77);
  return a;
}

/* ---- keys ------------------------------------------------------------------------------------ */

Test(worker_retry, reads_the_held_keys_before_anything_runs) {
  keys_by_hand = true;
  int slot = owned(0);
  records(slot, 0, 8);
  expect(TXB_WA_KEYS);
  step_failed(slot, TXB_FAILURE_ERROR, -1);
  expect(TXB_WA_NONE);
  now_us = txb_worker_core_due_us(&core);
  expect(TXB_WA_KEYS);
  keys(slot, 3, -1);
  cr_assert_eq(run(8).keys_version, 3);
}

Test(worker_retry, reads_them_again_when_somebody_else_has_changed_them_and_runs_the_same_batch) {
  int slot = owned_due(-1);
  records(slot, 0, 8);
  run(8);
  step(TXB_WE_KEYS_CHANGED, slot);
  expect(TXB_WA_KEYS);
  keys(slot, 4, -1);
  struct txb_worker_action a = run(8);
  cr_assert_eq(a.expected_next, 0);
  cr_assert_eq(a.keys_version, 4);
  cr_assert_not(a.isolated, "nothing failed");
}

Test(worker_retry, an_idle_partition_reads_them_again_when_its_row_tells_another_version) {
  core.options.look_us = 1000 * MS;
  int slot = owned_due(-1);
  now_us = txb_worker_core_due_us(&core);
  expect(TXB_WA_LOOKUP);
  struct txb_worker_event e = event(TXB_WE_LOOKED_UP, slot);
  e.found = true;
  e.keys_version = 4;
  txb_worker_core_step(&core, &e);
  expect(TXB_WA_KEYS);
}

Test(worker_retry, a_partition_that_stands_still_looks_at_its_row_too) {
  core.options.look_us = 50 * MS;
  int slot = owned_due(-1);
  record(slot, 0);
  run(1);
  step_failed(slot, TXB_FAILURE_WAIT, -1);
  expect(TXB_WA_STALL);
  step(TXB_WE_STALLED, slot);
  now_us += 51 * MS;
  expect(TXB_WA_LOOKUP);
}

/* ---- retries --------------------------------------------------------------------------------- */

Test(worker_retry, retries_under_a_marker_when_something_is_due_and_not_before) { /* W10 */
  int slot = owned_due(500);
  expect(TXB_WA_NONE);
  cr_assert_eq(txb_worker_core_due_us(&core), now_us + 500 * MS);
  now_us += 500 * MS;
  cr_assert_eq(mark(slot, 5).count, 8, "as many as a batch");
  struct txb_worker_action a = expect(TXB_WA_RETRY);
  cr_assert_eq(a.count, 5);
  cr_assert_eq(a.epoch, 5);
  cr_assert_eq(a.keys_version, 3);
  retried(slot, 5, 1, 200);
  expect(TXB_WA_NONE);
  cr_assert_eq(txb_worker_core_due_us(&core), now_us + 200 * MS);
}

Test(worker_retry, what_a_batch_sets_aside_is_due_in_its_time) {
  int slot = owned_due(-1);
  records(slot, 0, 8);
  run(8);
  step_failed(slot, TXB_FAILURE_ERROR, -1);
  run(8);
  struct txb_worker_event e = event(TXB_WE_COMMITTED, slot);
  e.settled = 8;
  e.failed = 1;
  e.due_ms = 150;
  txb_worker_core_step(&core, &e);
  expect(TXB_WA_NONE);
  cr_assert_eq(txb_worker_core_due_us(&core), now_us + 150 * MS);
  now_us += 150 * MS;
  expect(TXB_WA_RETRY_MARK);
}

Test(worker_retry, no_marker_is_left_where_nothing_is_due) {
  int slot = owned_due(0), other = owned(0);
  expect(TXB_WA_KEYS);
  keys(other, 0, -1);
  records(other, 0, 8);
  expect(TXB_WA_RETRY_MARK);
  struct txb_worker_event e = event(TXB_WE_RETRY_MARKED, slot);
  e.keys_version = 3;
  e.due_ms = 900;
  txb_worker_core_step(&core, &e);
  cr_assert_eq(run(8).slot, other);
}

Test(worker_retry, nothing_else_runs_while_its_marker_is_out) { /* W10 */
  int slot = owned_due(0), other = owned(0);
  expect(TXB_WA_KEYS);
  keys(other, 0, -1);
  records(other, 0, 8);
  records(slot, 0, 8);
  mark(slot, 2);
  cr_assert_eq(expect(TXB_WA_RETRY).slot, slot);
  retried(slot, 2, 0, -1);
  cr_assert_eq(expect(TXB_WA_RUN).slot, other);
}

Test(worker_retry, retries_and_batches_take_turns) {
  int slot = owned_due(0);
  for (int i = 0; i < 3; i++) {
    records(slot, 8 * i, 8);
    mark(slot, 1);
    expect(TXB_WA_RETRY);
    retried(slot, 1, 1, 0);
    run(8);
    commit(slot);
  }
}

Test(worker_retry, a_retry_does_not_wait_for_records) {
  int slot = owned_due(0);
  for (int i = 0; i < 3; i++) {
    mark(slot, 1);
    expect(TXB_WA_RETRY);
    retried(slot, 1, 1, 0);
  }
}

Test(worker_retry, marks_anew_when_somebody_else_has_changed_what_is_marked) {
  int slot = owned_due(0);
  records(slot, 0, 8);
  mark(slot, 2);
  expect(TXB_WA_RETRY);
  step(TXB_WE_KEYS_CHANGED, slot);
  expect(TXB_WA_KEYS);
  keys(slot, 4, 100000); /* nothing is due any more, but the marker is out */
  struct txb_worker_action a = expect(TXB_WA_RETRY_MARK);
  cr_assert_eq(a.count, 0, "takes it in");
  struct txb_worker_event e = event(TXB_WE_RETRY_MARKED, slot);
  e.keys_version = 4;
  txb_worker_core_step(&core, &e);
  run(8);
}

Test(worker_retry, reads_the_keys_when_the_marker_met_another_version) {
  int slot = owned_due(0);
  expect(TXB_WA_RETRY_MARK);
  struct txb_worker_event e = event(TXB_WE_RETRY_MARKED, slot);
  e.count = 1;
  e.keys_version = 9;
  txb_worker_core_step(&core, &e);
  expect(TXB_WA_KEYS);
  keys(slot, 9, 0);
  cr_assert_eq(expect(TXB_WA_RETRY).keys_version, 9);
}

Test(worker_retry, a_conflict_is_retried_at_once_alone_and_counts_after_a_few) { /* W8 */
  int slot = owned_due(0);
  mark(slot, 5);
  for (int i = 0; i < 5; i++) {
    cr_assert_not(expect(TXB_WA_RETRY).patience_over);
    step_failed(slot, TXB_FAILURE_CONFLICT, 0);
    cr_assert_eq(mark(slot, 1).count, 1);
  }
  cr_assert(expect(TXB_WA_RETRY).patience_over);
  retried(slot, 1, 1, 0);
  cr_assert_eq(expect(TXB_WA_RETRY_MARK).count, 8);
}

Test(worker_retry, a_conflict_of_several_at_their_commit_makes_them_fewer_until_it_counts) { /* W8 */
  int slot = owned_due(0);
  for (int n = 8; n > 1; n /= 2) {
    cr_assert_eq(mark(slot, n).count, n);
    expect(TXB_WA_RETRY);
    step_failed(slot, TXB_FAILURE_CONFLICT, -1);
  }
  for (int i = 0; i < 5; i++) {
    cr_assert_eq(mark(slot, 1).count, 1);
    cr_assert_not(expect(TXB_WA_RETRY).patience_over);
    step_failed(slot, TXB_FAILURE_CONFLICT, -1);
  }
  mark(slot, 1);
  cr_assert(expect(TXB_WA_RETRY).patience_over);
}

Test(worker_retry, a_server_in_trouble_is_waited_for_without_the_marker) {
  int slot = owned_due(0);
  records(slot, 0, 8);
  mark(slot, 5);
  expect(TXB_WA_RETRY);
  step_failed(slot, TXB_FAILURE_WAIT, 0);
  cr_assert_eq(expect(TXB_WA_RETRY_MARK).count, 0);
  marked(slot, 0, 0);
  run(8);
  commit(slot);
  expect(TXB_WA_NONE);
  int64_t pause_us = txb_worker_core_due_us(&core) - now_us;
  cr_assert(pause_us >= 40 * MS && pause_us <= 100 * MS, "%ld us", (long)pause_us);
  now_us += pause_us;
  cr_assert_eq(expect(TXB_WA_RETRY_MARK).count, 8);
}

Test(worker_retry, a_retry_that_fails_as_a_whole_is_halved_down_to_the_message_which_is_settled) {
  int slot = owned_due(0);
  for (int n = 8; n > 1; n /= 2) {
    cr_assert_eq(mark(slot, n).count, n);
    expect(TXB_WA_RETRY);
    step_failed(slot, TXB_FAILURE_ERROR, -1);
  }
  mark(slot, 1);
  cr_assert_not(expect(TXB_WA_RETRY).condemn);
  step_failed(slot, TXB_FAILURE_ERROR, -1);
  struct txb_worker_action a = expect(TXB_WA_RETRY); /* its marker is still out */
  cr_assert(a.condemn);
  cr_assert_eq(a.failure, TXB_FAILURE_ERROR);
  retried(slot, 1, 1, 0);
  cr_assert_eq(mark(slot, 1).count, 2, "and they grow again");
  cr_assert_not(expect(TXB_WA_RETRY).condemn);
}

Test(worker_retry, a_fenced_retry_asks_the_group) { /* W4 */
  int slot = owned_due(0);
  mark(slot, 1);
  expect(TXB_WA_RETRY);
  step(TXB_WE_FENCED, slot);
  expect(TXB_WA_LOOKUP);
}

Test(worker_retry, a_partition_that_stops_between_marker_and_retry_does_not_stop_the_others) {
  int slot = owned_due(0), other = owned(0);
  expect(TXB_WA_KEYS);
  keys(other, 0, -1);
  records(other, 0, 8);
  mark(slot, 2);
  struct txb_worker_event e = event(TXB_WE_RANGE, slot);
  e.low = 5; /* Kafka has deleted what comes next */
  e.high = 9;
  txb_worker_core_step(&core, &e);
  expect(TXB_WA_UNFETCH);
  expect(TXB_WA_STALL);
  step(TXB_WE_STALLED, slot);
  cr_assert_eq(run(8).slot, other);
}

Test(worker_retry, nor_does_one_that_stops_while_the_marker_is_being_written) {
  keys_by_hand = true;
  step(TXB_WE_UP, 0);
  int slot = assign();
  struct txb_position p = plain(4);
  p.has_last = true;
  p.last_offset = 3;
  p.last_timestamp_ms = 3;
  p.last_id = id_of(99);
  own(slot, p);
  cr_assert_eq(expect(TXB_WA_FETCH).offset, 3);
  expect(TXB_WA_KEYS);
  keys(slot, 3, 0);
  int other = owned(0);
  expect(TXB_WA_KEYS);
  keys(other, 0, -1);
  records(other, 0, 8);
  expect(TXB_WA_RETRY_MARK);
  record(slot, 3); /* another one than was applied last */
  marked(slot, 2, 77);
  expect(TXB_WA_UNFETCH);
  expect(TXB_WA_STALL);
  step(TXB_WE_STALLED, slot);
  cr_assert_eq(run(8).slot, other);
}

Test(worker_retry, a_partition_that_may_hold_no_more_counts_anew_before_it_tries_again) {
  int slot = owned_due(-1);
  records(slot, 0, 8);
  run(8);
  step_failed(slot, TXB_FAILURE_LIMIT, 0);
  expect(TXB_WA_STALL);
  step(TXB_WE_STALLED, slot);
  for (int i = 0; i < 2; i++) {
    now_us = txb_worker_core_due_us(&core);
    expect(TXB_WA_KEYS); /* others of the group may have room now */
    keys(slot, 3, -1);
    expect(TXB_WA_RUN);
    step_failed(slot, TXB_FAILURE_LIMIT, 0);
    expect(TXB_WA_STALL);
    step(TXB_WE_STALLED, slot);
  }
}

/* ---- deaths (W10) ---------------------------------------------------------------------------- */

static int taken(struct txb_position p) {
  keys_by_hand = true;
  step(TXB_WE_UP, 0);
  int slot = assign();
  p.suspect = true;
  own(slot, p);
  expect(TXB_WA_FETCH);
  expect(TXB_WA_KEYS);
  keys(slot, 3, 0);
  return slot;
}

static struct txb_position died_retrying(int32_t count, int32_t deaths) {
  struct txb_position p = plain(0);
  p.suspect_failed_count = count;
  p.suspect_failed_number = 77;
  p.suspect_deaths = deaths;
  return p;
}

Test(worker_retry, goes_one_by_one_where_a_marker_over_several_retries_died) {
  int slot = taken(died_retrying(3, 0));
  records(slot, 0, 8);
  for (int i = 0; i < 3; i++) { /* before anything else, or their marker would be lost */
    struct txb_worker_action a = mark(slot, 1);
    cr_assert_eq(a.count, 1);
    cr_assert(a.suspect);
    expect(TXB_WA_RETRY);
    retried(slot, 1, 0, 0);
  }
  cr_assert_eq(expect(TXB_WA_MARK).count, 1); /* then the records, which are suspected as well */
}

Test(worker_retry, a_retry_that_died_twice_under_its_own_marker_is_condemned) {
  int slot = taken(died_retrying(1, 2));
  struct txb_worker_action a = expect(TXB_WA_CONDEMN);
  cr_assert_eq(a.number, 77);
  step(TXB_WE_CONDEMNED, slot);
  expect(TXB_WA_NONE);
}

Test(worker_retry, a_retry_that_died_once_under_its_own_marker_is_run_once_more) {
  int slot = taken(died_retrying(1, 1));
  mark(slot, 1);
  expect(TXB_WA_RETRY);
}

Test(worker_retry, a_retry_that_takes_the_connection_down_twice_alone_is_condemned) {
  int slot = owned_due(0);
  for (int i = 0; i < 2; i++) {
    mark(slot, 1);
    expect(TXB_WA_RETRY);
    step(TXB_WE_DOWN, 0);
    step(TXB_WE_UP, 0);
    own(slot, died_retrying(1, 0));
    expect(TXB_WA_KEYS);
    keys(slot, 3, 0);
  }
  cr_assert_eq(expect(TXB_WA_CONDEMN).number, 77);
}

Test(worker_retry, a_retry_that_waited_when_we_gave_the_connection_up_is_not_blamed) {
  int slot = owned_due(0);
  for (int i = 0; i < 3; i++) {
    mark(slot, 1);
    expect(TXB_WA_RETRY);
    step(TXB_WE_GIVEN_UP, 0);
    step(TXB_WE_UP, 0);
    own(slot, died_retrying(1, 0));
    expect(TXB_WA_KEYS);
    keys(slot, 3, 0);
  }
  mark(slot, 1);
}

/* A marker of retries would take the place of theirs, and their deaths be counted anew. */
Test(worker_retry, records_that_are_suspected_come_before_retries) {
  struct txb_position p = plain(0);
  p.suspect_offset = 0;
  p.suspect_count = 2;
  int slot = taken(p);
  now_us += 10 * MS;
  expect(TXB_WA_NONE); /* they are not fetched yet */
  records(slot, 0, 2);
  for (int i = 0; i < 2; i++) {
    cr_assert_eq(expect(TXB_WA_MARK).count, 1);
    step(TXB_WE_MARKED, slot);
    run(1);
    commit(slot);
  }
  expect(TXB_WA_NONE);
  step_found(TXB_WE_END, slot, true, 2); /* there are no others */
  expect(TXB_WA_RETRY_MARK);
}

Test(worker_retry, retries_that_are_suspected_are_handed_on_when_the_partition_is_asked_back) {
  int slot = taken(died_retrying(3, 0));
  mark(slot, 1);
  expect(TXB_WA_RETRY);
  retried(slot, 1, 0, 0);
  step(TXB_WE_REVOKED, slot);
  cr_assert_eq(mark(slot, 2).count, 2);
  expect(TXB_WA_RELEASE);
}

/* ---- ends ------------------------------------------------------------------------------------ */

Test(worker_retry, a_revoked_partition_ends_its_retry_and_starts_none) {
  int slot = owned_due(0);
  mark(slot, 1);
  expect(TXB_WA_RETRY);
  step(TXB_WE_REVOKED, slot);
  expect(TXB_WA_NONE);
  retried(slot, 1, 1, 0);
  expect(TXB_WA_RELEASE);
}

Test(worker_retry, is_idle_with_something_to_retry_later_and_not_with_a_marker_out) {
  int slot = owned_due(500);
  step_found(TXB_WE_END, slot, true, 0);
  cr_assert(txb_worker_core_idle(&core));
  now_us += 500 * MS;
  mark(slot, 1);
  cr_assert_not(txb_worker_core_idle(&core));
  expect(TXB_WA_RETRY);
  retried(slot, 1, 1, 500);
  cr_assert(txb_worker_core_idle(&core));
}

Test(worker_retry, does_not_wake_up_for_what_another_partition_s_marker_holds_back) {
  int slot = owned_due(0), other = owned(0);
  expect(TXB_WA_KEYS);
  keys(other, 0, 0);
  mark(slot, 1);
  expect(TXB_WA_RETRY);
  cr_assert_eq(txb_worker_core_due_us(&core), INT64_MAX);
}
