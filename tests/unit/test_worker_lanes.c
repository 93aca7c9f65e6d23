/* Lanes of replays in the worker core: what is as for partitions, what is Kafka's alone, and who runs when. */
#include "worker_kit.h"

TestSuite(worker_lanes, .init = begin, .fini = end);

static int assign_lane(void) {
  return assign_as(true);
}

/* What applied a record or more before: a partition would first compare the last of them (W9). */
static struct txb_position gone_on(int64_t next_offset) {
  struct txb_position p = plain(next_offset);
  p.has_last = true;
  p.last_offset = next_offset - 3; /* behind it lie intents of other topics */
  p.last_id = id_of(p.last_offset);
  p.last_timestamp_ms = p.last_offset;
  return p;
}

static int owned_lane(int64_t offset) {
  if (!core.up)
    step(TXB_WE_UP, 0);
  int slot = assign_lane();
  own(slot, gone_on(offset));
  cr_assert_eq(expect(TXB_WA_FETCH).offset, offset);
  return slot;
}

static void step_end(int slot, int64_t offset, bool more) {
  struct txb_worker_event e = event(TXB_WE_END, slot);
  e.offset = offset;
  e.more = more;
  txb_worker_core_step(&core, &e);
}

static void with_options(const struct txb_worker_core_options *o) {
  txb_worker_core_fini(&core);
  txb_worker_core_init(&core, o);
}

/* The next action, COPY too. */
static enum txb_worker_action_kind next_kind(void) {
  struct txb_worker_action a = {.kind = TXB_WA_NONE};
  (void)txb_worker_core_next(&core, now_us, &a);
  return a.kind;
}

/* ---- owning ---------------------------------------------------------------------------------- */

Test(worker_lanes, a_lane_is_taken_only_after_its_lease_was_renewed) {
  step(TXB_WE_UP, 0);
  int slot = assign_lane();
  expect(TXB_WA_LOOKUP);
  step_found(TXB_WE_LOOKED_UP, slot, true, 700);
  cr_assert_eq(expect(TXB_WA_CONFIRM).offset, 700);
  expect(TXB_WA_NONE);
  step_found(TXB_WE_CONFIRMED, slot, true, 0);
  expect(TXB_WA_TAKE);
}

Test(worker_lanes, a_lane_whose_lease_is_anothers_is_left_and_nothing_of_it_is_written) {
  step(TXB_WE_UP, 0);
  int slot = assign_lane();
  expect(TXB_WA_LOOKUP);
  step_found(TXB_WE_LOOKED_UP, slot, true, 700);
  expect(TXB_WA_CONFIRM);
  step(TXB_WE_LOST, slot);
  expect(TXB_WA_LEAVE);
  expect(TXB_WA_NONE);
  cr_assert_eq(core.used, 0);
}

Test(worker_lanes, after_a_missed_compare_and_set_the_lease_is_renewed_before_the_epoch_is_raised_again) { /* W4 */
  int slot = owned_lane(700);
  records(slot, 700, 3);
  run(3);
  step(TXB_WE_FENCED, slot);
  expect(TXB_WA_LOOKUP);
  step_found(TXB_WE_LOOKED_UP, slot, true, 701);
  expect(TXB_WA_CONFIRM);
  step_found(TXB_WE_CONFIRMED, slot, true, 0);
  expect(TXB_WA_TAKE);
}

Test(worker_lanes, after_a_lost_connection_the_lease_is_renewed_first) {
  int slot = owned_lane(700);
  step(TXB_WE_DOWN, -1);
  step(TXB_WE_UP, -1);
  own(slot, gone_on(700));
  expect(TXB_WA_NONE); /* what it reads goes on being right */
  cr_assert(core.partitions[slot].fetching);
}

/* The start rule is the topic's: it would put the group at the beginning of partitions. */
Test(worker_lanes, where_there_is_no_row_no_start_position_is_made_and_it_looks_again_later) {
  step(TXB_WE_UP, 0);
  int slot = assign_lane();
  expect(TXB_WA_LOOKUP);
  step_found(TXB_WE_LOOKED_UP, slot, false, 0);
  expect(TXB_WA_NONE);
  int64_t due_us = txb_worker_core_due_us(&core);
  cr_assert_gt(due_us, now_us);
  now_us = due_us;
  expect(TXB_WA_LOOKUP);
}

Test(worker_lanes, a_row_that_is_gone_at_its_taking_is_looked_for_again) {
  step(TXB_WE_UP, 0);
  int slot = assign_lane();
  expect(TXB_WA_LOOKUP);
  step_found(TXB_WE_LOOKED_UP, slot, true, 700);
  expect(TXB_WA_CONFIRM);
  step_found(TXB_WE_CONFIRMED, slot, true, 0);
  expect(TXB_WA_TAKE);
  step(TXB_WE_MISSING, slot);
  expect(TXB_WA_LOOKUP);
  step_found(TXB_WE_LOOKED_UP, slot, false, 0);
  expect(TXB_WA_NONE);
}

/* ---- reading --------------------------------------------------------------------------------- */

Test(worker_lanes, reading_begins_exactly_at_the_position) {
  step(TXB_WE_UP, 0);
  int slot = assign_lane();
  own(slot, gone_on(700));
  cr_assert_eq(expect(TXB_WA_FETCH).offset, 700);
  record(slot, 700);
  cr_assert_eq(run(1).expected_next, 700);
}

Test(worker_lanes, reading_begins_anew_at_the_position_when_that_lies_elsewhere) {
  int slot = owned_lane(700);
  records(slot, 700, 2);
  run(2);
  step(TXB_WE_FENCED, slot);
  own(slot, gone_on(650));
  cr_assert_eq(dropped, 2);
  cr_assert_eq(expect(TXB_WA_FETCH).offset, 650);
}

/* A topic that was made anew shows so; an outbox has no such thing (W9). */
Test(worker_lanes, what_comes_after_a_long_silence_is_not_doubted) {
  struct txb_worker_core_options o = options();
  o.quiet_us = 1000 * MS;
  with_options(&o);
  int slot = owned_lane(700);
  record(slot, 700);
  run(1);
  commit(slot);
  now_us += 5000 * MS;
  record(slot, 800);
  cr_assert_eq(run(1).new_next, 801);
}

Test(worker_lanes, what_lies_below_the_position_is_dropped_and_stops_nothing) {
  int slot = owned_lane(700);
  record(slot, 699);
  cr_assert_eq(dropped, 1);
  record(slot, 700);
  run(1);
}

Test(worker_lanes, the_position_passes_over_what_the_replay_leaves_out) {
  int slot = owned_lane(700);
  record(slot, 720);
  record(slot, 731);
  struct txb_worker_action a = run(2);
  cr_assert_eq(a.expected_next, 700);
  cr_assert_eq(a.new_next, 732);
  commit(slot);
  step_end(slot, 900, false);
  a = expect(TXB_WA_PASS);
  cr_assert_eq(a.expected_next, 732);
  cr_assert_eq(a.new_next, 900);
  step(TXB_WE_PASSED, slot);
  expect(TXB_WA_NONE);
}

Test(worker_lanes, the_position_goes_on_while_much_is_read_in_vain) {
  int slot = owned_lane(700);
  for (int64_t at = 10000; at <= 30000; at += 10000) {
    step_end(slot, at, true);
    cr_assert_eq(expect(TXB_WA_PASS).new_next, at);
    step(TXB_WE_PASSED, slot);
  }
  record(slot, 30000);
  cr_assert_eq(run(1).expected_next, 30000);
}

Test(worker_lanes, a_lane_whose_reader_is_ahead_is_paused_and_goes_on_where_it_was) {
  struct txb_worker_core_options o = options();
  o.buffer_bytes = 262144;
  o.batch_bytes = 262144;
  with_options(&o);
  int slot = owned_lane(700);
  struct txb_error err;
  for (int i = 0; i < 4; i++) {
    struct txb_worker_record r = {.offset = 700 + i, .size = 100000};
    cr_assert_eq(txb_worker_core_record(&core, slot, &r, now_us, &err), TXB_OK);
  }
  expect(TXB_WA_PAUSE);
  run(2);
  commit(slot);
  run(2);
  commit(slot);
  cr_assert_eq(expect(TXB_WA_RESUME).offset, 704);
}

/* Kept longer than any outbox should need, a range may still be gone: that must not look like one without intents. */
Test(worker_lanes, a_lane_whose_intents_are_gone_stops_and_a_person_is_told) {
  int slot = owned_lane(700);
  struct txb_worker_event e = event(TXB_WE_RANGE, slot);
  e.low = 900;
  e.high = 2000;
  txb_worker_core_step(&core, &e);
  expect(TXB_WA_UNFETCH);
  struct txb_worker_action a = expect(TXB_WA_STALL);
  cr_assert_eq(a.stop, TXB_STOP_DELETED);
  cr_assert_eq(a.delay_ms, -1);
}

Test(worker_lanes, a_lane_that_must_begin_again_keeps_nothing_it_read) {
  int slot = owned_lane(700);
  records(slot, 700, 2);
  struct txb_worker_event e = event(TXB_WE_RANGE, slot);
  e.low = e.high = -1;
  txb_worker_core_step(&core, &e);
  cr_assert_eq(dropped, 2);
  own(slot, gone_on(700));
  cr_assert_eq(expect(TXB_WA_FETCH).offset, 700);
}

/* ---- Kafka's alone --------------------------------------------------------------------------- */

Test(worker_lanes, kafka_is_not_told_where_a_lane_stands) {
  int slot = owned_lane(700);
  records(slot, 700, 8);
  run(8);
  commit(slot);
  now_us += 5000 * MS;
  cr_assert_eq(next_kind(), TXB_WA_NONE);
  cr_assert_eq(txb_worker_core_due_us(&core), INT64_MAX); /* else the loop would turn and find nothing to do */
  step(TXB_WE_REVOKED, slot);
  cr_assert_eq(next_kind(), TXB_WA_RELEASE);
}

Test(worker_lanes, a_lane_that_is_given_back_puts_no_partitions_copy_off) {
  int slot = owned(0), lane = owned_lane(700);
  record(slot, 0);
  run(1);
  commit(slot);
  cr_assert_eq(next_kind(), TXB_WA_COPY); /* the first, after which the others wait */
  expect(TXB_WA_NONE);
  int64_t due_us = core.copy_due_us;
  now_us += 10 * MS;
  step(TXB_WE_REVOKED, lane);
  cr_assert_eq(core.copy_due_us, due_us);
}

/* ---- giving back ----------------------------------------------------------------------------- */

Test(worker_lanes, a_lane_is_released_before_its_lease_is_freed) {
  int slot = owned_lane(700);
  records(slot, 700, 3);
  run(3);
  step(TXB_WE_REVOKED, slot);
  expect(TXB_WA_NONE); /* the batch ends first */
  commit(slot);
  cr_assert_eq(expect(TXB_WA_RELEASE).epoch, 5);
  step(TXB_WE_RELEASED, slot);
  expect(TXB_WA_LEAVE);
}

Test(worker_lanes, a_stop_gives_lanes_back_too) {
  int lane = owned_lane(700), slot = owned(0);
  step(TXB_WE_STOP, -1);
  cr_assert_eq(expect(TXB_WA_RELEASE).slot, lane);
  step(TXB_WE_RELEASED, lane);
  cr_assert_eq(expect(TXB_WA_LEAVE).slot, lane);
  cr_assert_eq(expect(TXB_WA_RELEASE).slot, slot);
  step(TXB_WE_RELEASED, slot);
  expect(TXB_WA_LEAVE);
}

/* W10: else each owner of the lane has its first death of the same message. */
Test(worker_lanes, what_is_suspected_of_a_lane_is_handed_on_as_a_marker) {
  step(TXB_WE_UP, 0);
  int slot = assign_lane();
  struct txb_position p = gone_on(700);
  p.suspect = true;
  p.suspect_offset = 700;
  p.suspect_count = 3;
  own(slot, p);
  expect(TXB_WA_FETCH);
  records(slot, 700, 5);
  step(TXB_WE_REVOKED, slot);
  struct txb_worker_action a = expect(TXB_WA_MARK);
  cr_assert_eq(a.offset, 700);
  cr_assert_eq(a.count, 3);
  step(TXB_WE_MARKED, slot);
  expect(TXB_WA_RELEASE);
}

Test(worker_lanes, a_slot_that_a_lane_had_is_a_partitions_the_next_time) {
  int slot = owned_lane(700);
  step(TXB_WE_REVOKED, slot);
  expect(TXB_WA_RELEASE);
  step(TXB_WE_RELEASED, slot);
  expect(TXB_WA_LEAVE);
  cr_assert_eq(assign(), slot);
  expect(TXB_WA_LOOKUP);
  step_found(TXB_WE_LOOKED_UP, slot, false, 0);
  expect(TXB_WA_START);
}

/* ---- whose turn it is ------------------------------------------------------------------------ */

enum { ROUNDS = 12 };

/* The slots of the next batches, all of them full. */
static void turns(int *out, int count, const int *slots, int slots_count) {
  int64_t at[8];
  for (int i = 0; i < slots_count; i++)
    at[i] = core.partitions[slots[i]].fetch_offset;
  for (int i = 0; i < count; i++) {
    for (int k = 0; k < slots_count; k++)
      for (; core.partitions[slots[k]].count < 16; at[k]++)
        record(slots[k], at[k]);
    struct txb_worker_action a = expect(TXB_WA_RUN);
    out[i] = a.slot;
    commit(a.slot);
  }
}

static int times(const int *got, int count, int slot) {
  int n = 0;
  for (int i = 0; i < count; i++)
    n += got[i] == slot;
  return n;
}

Test(worker_lanes, a_lane_has_its_turn_beside_a_partition) {
  int slots[2] = {owned(0), owned_lane(700)}, got[ROUNDS];
  turns(got, ROUNDS, slots, 2);
  for (int i = 0; i < ROUNDS; i++)
    cr_assert_eq(got[i], slots[i % 2]);
}

Test(worker_lanes, many_lanes_starve_no_partition_and_each_has_its_turn) {
  int slots[4] = {owned_lane(700), owned_lane(700), owned(0), owned_lane(700)}, got[ROUNDS];
  turns(got, ROUNDS, slots, 4);
  cr_assert_eq(times(got, ROUNDS, slots[2]), ROUNDS / 2);
  for (int i = 1; i < ROUNDS; i++)
    cr_assert(got[i] == slots[2] || got[i - 1] == slots[2]);
  cr_assert_eq(times(got, ROUNDS, slots[0]), ROUNDS / 6);
  cr_assert_eq(times(got, ROUNDS, slots[1]), ROUNDS / 6);
  cr_assert_eq(times(got, ROUNDS, slots[3]), ROUNDS / 6);
}

Test(worker_lanes, many_partitions_starve_no_lane_and_each_has_its_turn) {
  int slots[4] = {owned(0), owned_lane(700), owned(0), owned(0)}, got[ROUNDS];
  turns(got, ROUNDS, slots, 4);
  for (int i = 0; i < 4; i++)
    cr_assert_eq(times(got, ROUNDS, slots[i]), ROUNDS / 4);
}

Test(worker_lanes, lanes_alone_take_turns) {
  int slots[2] = {owned_lane(700), owned_lane(700)}, got[ROUNDS];
  turns(got, ROUNDS, slots, 2);
  cr_assert_eq(times(got, ROUNDS, slots[0]), ROUNDS / 2);
  cr_assert_eq(times(got, ROUNDS, slots[1]), ROUNDS / 2);
}

Test(worker_lanes, a_partition_whose_turn_is_over_runs_again_when_nobody_else_has_anything) {
  int first = owned(0), second = owned(0);
  owned_lane(700);
  records(second, 0, 8);
  cr_assert_eq(run(8).slot, second);
  commit(second);
  records(first, 0, 8);
  cr_assert_eq(run(8).slot, first);
}

/* The batch that is made ahead is of whoever comes next. */
Test(worker_lanes, the_batch_behind_a_partitions_is_a_lanes_when_its_turn_comes) {
  int slot = owned(0), lane = owned_lane(700), ahead = -1;
  int32_t base = -1, count = 0;
  records(slot, 0, 16);
  records(lane, 700, 16);
  cr_assert_eq(expect(TXB_WA_RUN).slot, slot);
  cr_assert(txb_worker_core_ahead(&core, &ahead, &base, &count));
  cr_assert_eq(ahead, lane);
  cr_assert_eq(base, 0);
  cr_assert_eq(count, 8);
  commit(slot);
  cr_assert_eq(expect(TXB_WA_RUN).slot, lane);
  cr_assert(txb_worker_core_ahead(&core, &ahead, &base, &count));
  cr_assert_eq(ahead, slot);
}

/* Every batch of the partition sets something aside, by which the lane's keys are others than it read. */
Test(worker_lanes, a_lane_that_met_other_keys_comes_first_once_it_has_read_them) {
  int slot = owned(0), lane = owned_lane(700);
  records(slot, 0, 16);
  records(lane, 700, 16);
  cr_assert_eq(expect(TXB_WA_RUN).slot, slot);
  commit(slot);
  cr_assert_eq(expect(TXB_WA_RUN).slot, lane);
  keys_by_hand = true;
  step(TXB_WE_KEYS_CHANGED, lane);
  cr_assert_eq(expect(TXB_WA_KEYS).slot, lane);
  struct txb_worker_event e = event(TXB_WE_KEYS, lane);
  e.keys_version = 1;
  txb_worker_core_step(&core, &e);
  struct txb_worker_action a = expect(TXB_WA_RUN);
  cr_assert_eq(a.slot, lane);
  cr_assert_eq(a.keys_version, 1);
  commit(lane);
  cr_assert_eq(expect(TXB_WA_RUN).slot, slot);
}

/* And every batch of the lane puts something behind what the partition holds. */
Test(worker_lanes, a_partition_that_met_other_keys_comes_first_once_it_has_read_them) {
  int first = owned(0), slot = owned(0), lane = owned_lane(700);
  records(first, 0, 16);
  records(slot, 0, 16);
  records(lane, 700, 16);
  cr_assert_eq(expect(TXB_WA_RUN).slot, first);
  commit(first);
  cr_assert_eq(expect(TXB_WA_RUN).slot, slot);
  step(TXB_WE_KEYS_CHANGED, slot);
  cr_assert_eq(expect(TXB_WA_RUN).slot, slot);
  commit(slot);
  cr_assert_eq(expect(TXB_WA_RUN).slot, lane);
}

/* W10: under a marker nothing else may run, a lane as little as a partition. */
Test(worker_lanes, nothing_runs_beside_a_lanes_marker) {
  step(TXB_WE_UP, 0);
  int lane = assign_lane();
  struct txb_position p = gone_on(700);
  p.suspect = true;
  own(lane, p);
  expect(TXB_WA_FETCH);
  int slot = owned(0);
  records(lane, 700, 8);
  cr_assert_eq(expect(TXB_WA_MARK).slot, lane);
  step(TXB_WE_MARKED, lane);
  records(slot, 0, 8);
  cr_assert_eq(run(1).slot, lane);
  commit(lane);
  cr_assert_eq(expect(TXB_WA_RUN).slot, slot);
}

Test(worker_lanes, failed_messages_of_a_lane_are_tried_again_between_its_batches) {
  int slot = owned(0), lane = owned_lane(700);
  records(slot, 0, 8);
  cr_assert_eq(run(8).slot, slot);
  commit(slot);
  records(lane, 700, 8);
  cr_assert_eq(run(8).slot, lane);
  struct txb_worker_event e = event(TXB_WE_COMMITTED, lane);
  e.settled = 8;
  e.failed = 1;
  e.due_ms = 100;
  txb_worker_core_step(&core, &e);
  now_us += 100 * MS;
  cr_assert_eq(expect(TXB_WA_RETRY_MARK).slot, lane);
}

/* ---- idle ------------------------------------------------------------------------------------ */

static int idle_partition(void) {
  int slot = owned(0);
  step_end(slot, 0, false);
  cr_assert(txb_worker_core_idle(&core));
  return slot;
}

Test(worker_lanes, a_lane_that_has_something_to_apply_is_work) {
  idle_partition();
  int lane = owned_lane(700);
  cr_assert_not(txb_worker_core_idle(&core)); /* what comes is not known */
  record(lane, 700);
  step_end(lane, 701, false);
  cr_assert_not(txb_worker_core_idle(&core));
  run(1);
  commit(lane);
  cr_assert(txb_worker_core_idle(&core));
}

Test(worker_lanes, a_lane_that_read_in_vain_and_reads_on_is_work) {
  idle_partition();
  int lane = owned_lane(700);
  step_end(lane, 10000, true);
  expect(TXB_WA_PASS);
  step(TXB_WE_PASSED, lane);
  cr_assert_not(txb_worker_core_idle(&core));
  step_end(lane, 20000, false);
  expect(TXB_WA_PASS);
  step(TXB_WE_PASSED, lane);
  cr_assert(txb_worker_core_idle(&core));
}

Test(worker_lanes, a_lane_that_waits_for_a_person_is_not_waited_for) {
  idle_partition();
  int lane = owned_lane(700);
  struct txb_worker_event e = event(TXB_WE_RANGE, lane);
  e.low = e.high = 900;
  txb_worker_core_step(&core, &e);
  expect(TXB_WA_UNFETCH);
  expect(TXB_WA_STALL);
  step(TXB_WE_STALLED, lane);
  cr_assert(txb_worker_core_idle(&core));
}

/* The group's own partitions are yet to come. */
Test(worker_lanes, lanes_alone_are_not_idle) {
  int lane = owned_lane(700);
  step_end(lane, 700, false);
  expect(TXB_WA_NONE);
  cr_assert_not(txb_worker_core_idle(&core));
}

/* ---- held keys (J1) -------------------------------------------------------------------------- */

/* What a batch of a lane set aside may have gone to the live partition that holds its key. */
static void commit_aside(int slot, bool aside) {
  struct txb_worker_event e = event(TXB_WE_COMMITTED, slot);
  e.settled = core.busy_count;
  e.aside = aside;
  txb_worker_core_step(&core, &e);
}

static void answer_keys(int slot, int64_t version, int64_t due_ms) {
  struct txb_worker_event e = event(TXB_WE_KEYS, slot);
  e.keys_version = version;
  e.due_ms = due_ms;
  txb_worker_core_step(&core, &e);
}

Test(worker_lanes, the_keys_are_read_anew_after_a_batch_that_set_something_aside) {
  int lane = owned_lane(700);
  keys_by_hand = true;
  cr_assert_eq(expect(TXB_WA_KEYS).slot, lane);
  answer_keys(lane, 3, -1);
  records(lane, 700, 16);
  cr_assert_eq(expect(TXB_WA_RUN).keys_version, 3);
  commit_aside(lane, true);
  int slot;
  int32_t base, count;
  cr_assert_not(txb_worker_core_ahead(&core, &slot, &base, &count));
  expect(TXB_WA_KEYS);
  expect(TXB_WA_NONE); /* nothing runs before the answer */
  answer_keys(lane, 4, -1);
  cr_assert_eq(expect(TXB_WA_RUN).keys_version, 4);
}

Test(worker_lanes, the_keys_stay_as_they_are_after_a_batch_that_was_applied_whole) {
  int lane = owned_lane(700);
  records(lane, 700, 16);
  expect(TXB_WA_RUN);
  keys_by_hand = true;
  commit_aside(lane, false);
  expect(TXB_WA_RUN);
}

/* It knows what it set aside itself, and nobody else adds to it without a new version. */
Test(worker_lanes, a_partition_keeps_its_keys_after_a_batch_that_set_something_aside) {
  int slot = owned(0);
  records(slot, 0, 16);
  expect(TXB_WA_RUN);
  keys_by_hand = true;
  commit_aside(slot, true);
  expect(TXB_WA_RUN);
}

Test(worker_lanes, the_keys_are_read_anew_after_a_retry) {
  int lane = owned_lane(700);
  keys_by_hand = true;
  expect(TXB_WA_KEYS);
  answer_keys(lane, 3, 0);
  expect(TXB_WA_RETRY_MARK);
  struct txb_worker_event e = event(TXB_WE_RETRY_MARKED, lane);
  e.count = 1;
  e.keys_version = 3;
  txb_worker_core_step(&core, &e);
  expect(TXB_WA_RETRY);
  e = event(TXB_WE_RETRIED, lane);
  e.settled = 1;
  txb_worker_core_step(&core, &e);
  expect(TXB_WA_KEYS);
}

Test(worker_lanes, the_keys_are_read_anew_after_a_message_was_condemned) { /* W10 */
  step(TXB_WE_UP, 0);
  int lane = assign_lane();
  struct txb_position p = gone_on(700);
  p.suspect = true;
  p.suspect_failed_count = 1;
  p.suspect_failed_number = 42;
  p.suspect_deaths = 2;
  own(lane, p);
  expect(TXB_WA_FETCH);
  keys_by_hand = true;
  expect(TXB_WA_KEYS);
  answer_keys(lane, 3, -1);
  cr_assert_eq(expect(TXB_WA_CONDEMN).number, 42);
  step(TXB_WE_CONDEMNED, lane);
  expect(TXB_WA_KEYS);
}

/* What was decided about failed messages, and what live partitions hold: nothing of the lane's own runs that would tell. */
Test(worker_lanes, an_idle_lane_looks_whether_its_keys_are_others_now) {
  struct txb_worker_core_options o = options();
  o.look_us = 500 * MS;
  with_options(&o);
  int lane = owned_lane(700);
  expect(TXB_WA_NONE);
  now_us += 500 * MS;
  expect(TXB_WA_LOOKUP);
  struct txb_worker_event e = event(TXB_WE_LOOKED_UP, lane);
  e.found = true;
  e.offset = 700;
  e.keys_version = 1;
  keys_by_hand = true;
  txb_worker_core_step(&core, &e);
  expect(TXB_WA_KEYS);
  answer_keys(lane, 1, -1);
  expect(TXB_WA_NONE);
}
