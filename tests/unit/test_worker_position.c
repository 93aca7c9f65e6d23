/* The worker core where Kafka or the database is not what it was: a topic made anew, cut or compacted, a position that
 * an operator has set. */
#include "worker_kit.h"

TestSuite(worker_position, .init = begin, .fini = end);

/* ---- the topic that is not the same any more (W9) -------------------------------------------- */

/* Of which the last is known. */
static struct txb_position applied_up_to(int64_t next_offset) {
  struct txb_position p = plain(next_offset);
  p.has_last = true;
  p.last_id = id_of(next_offset - 1);
  p.last_timestamp_ms = next_offset - 1;
  p.last_offset = next_offset - 1;
  return p;
}

static int probing(int64_t next_offset) {
  step(TXB_WE_UP, 0);
  int slot = assign();
  own(slot, applied_up_to(next_offset));
  cr_assert_eq(expect(TXB_WA_FETCH).offset, next_offset - 1);
  return slot;
}

/* What Kafka has, told because something else was asked for. */
static void range(int slot, int64_t low, int64_t high) {
  struct txb_worker_event e = event(TXB_WE_RANGE, slot);
  e.low = low;
  e.high = high;
  txb_worker_core_step(&core, &e);
}

/* A record of a topic that is not the one it was. */
static void other_record(int slot, int64_t offset) {
  struct txb_worker_record r = {.offset = offset, .timestamp_ms = offset, .id = id_of(77), .size = 10};
  struct txb_error err;
  cr_assert_eq(txb_worker_core_record(&core, slot, &r, now_us, &err), TXB_OK);
}

Test(worker_position, goes_on_when_the_record_below_the_position_is_the_one_applied_last) {
  int slot = probing(10);
  records(slot, 9, 3);
  cr_assert_eq(dropped, 1);
  struct txb_worker_action a = run(2);
  cr_assert_eq(a.expected_next, 10);
  cr_assert_eq(a.new_next, 12);
}

Test(worker_position, stops_a_partition_whose_record_below_the_position_is_another) {
  int slot = probing(10);
  other_record(slot, 9);
  expect(TXB_WA_UNFETCH);
  struct txb_worker_action a = expect(TXB_WA_STALL);
  cr_assert_eq(a.stop, TXB_STOP_DIFFERENT);
  cr_assert_eq(a.delay_ms, -1);
  step(TXB_WE_STALLED, slot);
  records(slot, 10, 3);
  now_us += 100 * MS;
  expect(TXB_WA_NONE);
  now_us = txb_worker_core_due_us(&core); /* has a person decided? */
  expect(TXB_WA_LOOKUP);
}

/* A topic made anew may hold the same messages, sent again. */
Test(worker_position, stops_a_partition_whose_record_below_the_position_has_another_time) {
  int slot = probing(10);
  struct txb_worker_record r = {.offset = 9, .timestamp_ms = 1234, .id = id_of(9), .size = 10};
  struct txb_error err;
  cr_assert_eq(txb_worker_core_record(&core, slot, &r, now_us, &err), TXB_OK);
  expect(TXB_WA_UNFETCH);
  cr_assert_eq(expect(TXB_WA_STALL).stop, TXB_STOP_DIFFERENT);
}

Test(worker_position, stops_a_partition_whose_unread_records_were_deleted) {
  int slot = probing(10);
  range(slot, 15, 30);
  expect(TXB_WA_UNFETCH);
  cr_assert_eq(expect(TXB_WA_STALL).stop, TXB_STOP_DELETED);
}

Test(worker_position, stops_a_partition_that_ends_before_the_position) {
  int slot = probing(10);
  range(slot, 0, 4);
  expect(TXB_WA_UNFETCH);
  cr_assert_eq(expect(TXB_WA_STALL).stop, TXB_STOP_BEYOND);
}

Test(worker_position, goes_on_when_only_applied_records_were_deleted) {
  int slot = probing(10);
  range(slot, 10, 12);
  cr_assert_eq(expect(TXB_WA_FETCH).offset, 10);
  records(slot, 10, 2);
  cr_assert_eq(run(2).expected_next, 10);
}

/* The topic was made anew while the partition stood still: Kafka's end lies below what was fetched, not below the
 * position. */
Test(worker_position, takes_a_partition_anew_when_what_was_fetched_lies_beyond_the_end) {
  int slot = probing(10);
  records(slot, 9, 4);
  range(slot, 0, 11);
  expect(TXB_WA_LOOKUP); /* nothing of it is applied; the record below the position will be compared */
}

Test(worker_position, fetches_again_what_went_out_of_range_while_the_database_was_away) {
  int slot = probing(10);
  records(slot, 11, 1);
  step(TXB_WE_DOWN, slot);
  range(slot, 0, 3);
  cr_assert_not(core.partitions[slot].fetching, "Kafka sends nothing for it any more");
  cr_assert_eq(core.partitions[slot].count, 0);
}

Test(worker_position, goes_on_when_the_record_below_the_position_was_compacted_away) {
  int slot = probing(10);
  records(slot, 11, 1);
  struct txb_worker_action a = run(1);
  cr_assert_eq(a.expected_next, 10);
  cr_assert_eq(a.new_next, 12);
}

/* ---- offsets that hold no record: ends of transactions, aborted records ---------------------- */

/* Applied 0 to 3, and Kafka ends at 6. */
static int before_markers(void) {
  int slot = owned(0);
  records(slot, 0, 4);
  run(4);
  commit(slot);
  step_found(TXB_WE_END, slot, true, 6);
  return slot;
}

Test(worker_position, moves_over_what_holds_no_record_once_everything_before_it_is_applied) {
  int slot = owned(0);
  records(slot, 0, 4);
  step_found(TXB_WE_END, slot, true, 6);
  run(4);
  commit(slot);
  cr_assert_not(txb_worker_core_idle(&core));
  struct txb_worker_action a = expect(TXB_WA_PASS);
  cr_assert_eq(a.expected_next, 4);
  cr_assert_eq(a.new_next, 6);
  cr_assert_eq(a.epoch, 5);
  step(TXB_WE_PASSED, slot);
  cr_assert(txb_worker_core_idle(&core));
  expect(TXB_WA_NONE);
  record(slot, 6);
  cr_assert_eq(run(1).expected_next, 6);
}

Test(worker_position, moves_over_nothing_when_a_record_has_come_or_the_partition_is_asked_back) {
  int slot = before_markers();
  record(slot, 6);
  cr_assert_eq(run(1).expected_next, 4);
  commit(slot);
  step_found(TXB_WE_END, slot, true, 8);
  step(TXB_WE_REVOKED, slot);
  expect(TXB_WA_RELEASE);
}

Test(worker_position, moves_over_nothing_on_the_word_of_an_end_that_was_told_before_it_resumed) {
  int slot = owned(0);
  core.options.buffer_bytes = 1; /* the share is 256 kB then */
  struct txb_worker_record r = {.offset = 0, .size = 300000};
  struct txb_error err;
  cr_assert_eq(txb_worker_core_record(&core, slot, &r, now_us, &err), TXB_OK);
  expect(TXB_WA_PAUSE);
  run(1);
  step_found(TXB_WE_END, slot, true, 6);
  commit(slot);
  cr_assert_eq(expect(TXB_WA_RESUME).offset, 1);
  expect(TXB_WA_NONE);
}

Test(worker_position, moves_over_it_later_when_the_database_could_not_now) {
  int slot = before_markers();
  expect(TXB_WA_PASS);
  step_failed(slot, TXB_FAILURE_ERROR, -1);
  expect(TXB_WA_NONE);
  now_us = txb_worker_core_due_us(&core);
  expect(TXB_WA_PASS);
  step(TXB_WE_FENCED, slot);
  expect(TXB_WA_LOOKUP);
}

Test(worker_position, fetches_the_record_applied_last_though_ends_of_transactions_follow_it) { /* W9 */
  core.options.quiet_us = 1000 * MS;
  int slot = before_markers();
  expect(TXB_WA_PASS);
  step(TXB_WE_PASSED, slot);
  now_us += core.options.quiet_us;
  record(slot, 6);
  cr_assert_eq(expect(TXB_WA_FETCH).offset, 3);
  record(slot, 3);
  record(slot, 6);
  cr_assert_eq(run(1).expected_next, 6);
}

/* Taken at 6, of which 3 was applied last. */
static int taken_behind_markers(void) {
  struct txb_position p = applied_up_to(4);
  p.next_offset = 6;
  step(TXB_WE_UP, 0);
  int slot = assign();
  own(slot, p);
  cr_assert_eq(expect(TXB_WA_FETCH).offset, 3);
  return slot;
}

Test(worker_position, stops_where_a_record_lies_between_the_one_applied_last_and_the_position) { /* W9 */
  int slot = taken_behind_markers();
  record(slot, 3);
  record(slot, 5);
  expect(TXB_WA_UNFETCH);
  cr_assert_eq(expect(TXB_WA_STALL).stop, TXB_STOP_DIFFERENT);
}

Test(worker_position, stops_where_another_record_stands_for_the_one_applied_last) { /* W9 */
  int slot = taken_behind_markers();
  other_record(slot, 3);
  expect(TXB_WA_UNFETCH);
  cr_assert_eq(expect(TXB_WA_STALL).stop, TXB_STOP_DIFFERENT);
}

Test(worker_position, goes_on_at_the_end_when_everything_was_deleted) {
  int slot = taken_behind_markers();
  range(slot, 6, 6);
  cr_assert_eq(expect(TXB_WA_FETCH).offset, 6);
  record(slot, 6);
  cr_assert_eq(run(1).expected_next, 6);
}

/* An owned partition that has applied 0 to 7 and was quiet for longer than a topic is made anew in. */
static int quiet(void) {
  core.options.quiet_us = 1000 * MS;
  int slot = owned(0);
  records(slot, 0, 8);
  run(8);
  commit(slot);
  now_us += core.options.quiet_us;
  return slot;
}

Test(worker_position, compares_the_record_below_before_the_first_one_after_a_quiet_time) {
  int slot = quiet();
  record(slot, 8);
  cr_assert_eq(expect(TXB_WA_FETCH).offset, 7);
  records(slot, 7, 2);
  cr_assert_eq(run(1).expected_next, 8);
  commit(slot);
  now_us += 900 * MS;
  record(slot, 9);
  cr_assert_eq(run(1).expected_next, 9);
}

Test(worker_position, compares_once_only_though_fetching_anew_takes_its_time) {
  int slot = quiet();
  record(slot, 8);
  cr_assert_eq(expect(TXB_WA_FETCH).offset, 7);
  records(slot, 7, 1);
  now_us += core.options.quiet_us;
  record(slot, 8);
  cr_assert_eq(run(1).expected_next, 8);
}

Test(worker_position, stops_a_partition_that_was_made_anew_and_filled_in_a_quiet_time) {
  int slot = quiet();
  record(slot, 8);
  expect(TXB_WA_FETCH);
  other_record(slot, 7);
  record(slot, 8);
  expect(TXB_WA_UNFETCH);
  cr_assert_eq(expect(TXB_WA_STALL).stop, TXB_STOP_DIFFERENT);
}

Test(worker_position, compares_also_what_came_while_the_database_was_away) {
  int slot = quiet();
  step(TXB_WE_DOWN, slot);
  record(slot, 8); /* of another topic, perhaps */
  step(TXB_WE_UP, slot);
  own(slot, applied_up_to(8));
  cr_assert_eq(expect(TXB_WA_FETCH).offset, 7);
}

Test(worker_position, taking_it_anew_does_not_end_a_quiet_time) {
  int slot = quiet();
  step(TXB_WE_DOWN, slot);
  step(TXB_WE_UP, slot);
  own(slot, applied_up_to(8));
  expect(TXB_WA_NONE);
  record(slot, 8);
  cr_assert_eq(expect(TXB_WA_FETCH).offset, 7);
}

Test(worker_position, is_not_idle_with_a_record_that_it_has_seen) {
  int slot = quiet();
  step_found(TXB_WE_END, slot, true, 8);
  cr_assert(txb_worker_core_idle(&core));
  record(slot, 8);
  expect(TXB_WA_FETCH);
  record(slot, 7);
  cr_assert_not(txb_worker_core_idle(&core));
}

/* ---- an operator sets the position ----------------------------------------------------------- */

Test(worker_position, an_idle_owner_looks_at_its_row_and_goes_on_when_it_stands_there) {
  core.options.look_us = 1000 * MS;
  int slot = owned(5);
  expect(TXB_WA_NONE); /* the keys are read */
  now_us = txb_worker_core_due_us(&core);
  expect(TXB_WA_LOOKUP);
  step_found(TXB_WE_LOOKED_UP, slot, true, 5);
  expect(TXB_WA_NONE);
  record(slot, 5);
  run(1);
}

Test(worker_position, a_stop_while_an_idle_owner_looks_is_told_at_once) {
  core.options.look_us = 1000 * MS;
  int slot = quiet();
  record(slot, 8);
  expect(TXB_WA_FETCH);
  expect(TXB_WA_LOOKUP);
  other_record(slot, 7);
  expect(TXB_WA_UNFETCH);
  step_found(TXB_WE_LOOKED_UP, slot, true, 8);
  cr_assert_eq(expect(TXB_WA_STALL).stop, TXB_STOP_DIFFERENT);
}

Test(worker_position, an_idle_owner_takes_anew_what_an_operator_has_set) {
  core.options.look_us = 1000 * MS;
  int slot = owned(5);
  now_us += core.options.look_us;
  expect(TXB_WA_LOOKUP);
  step_found(TXB_WE_LOOKED_UP, slot, true, 2);
  now_us = txb_worker_core_due_us(&core);
  own(slot, plain(2));
  cr_assert_eq(expect(TXB_WA_FETCH).offset, 2);
}
