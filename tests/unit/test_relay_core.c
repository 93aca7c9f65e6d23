/* The relay core, rule by rule (PROTOCOLS R1 to R3 and R7): what it asks for, when a hole is dead, when it stops.
 * Directed interleavings; tests/sim has the random ones. */
#include "relay_kit.h"

TestSuite(relay_core, .init = begin, .fini = end);

/* ---- R1, R2: holes in polls ------------------------------------------------------------------------------------- */

Test(relay_core, notes_the_numbers_that_a_read_passes_over_and_asks_for_them_in_every_poll) {
  prove_topic();
  polled(NONE, ROWS(2, 5, 6));
  EXPECT_SENT(0, 2, 5, 6);
  for (int i = 0; i < 5; i++) {
    polled(NONE, NONE);
    tick_after(MS);
    cr_assert(asks_for(3) && asks_for(4));
    cr_assert_eq(poll_sent.after, 6);
  }
}

Test(relay_core, sends_a_late_row_before_the_rows_that_its_writer_could_have_seen) {
  prove_topic();
  polled(NONE, ROWS(3));
  tick_after(MS);
  polled(ROWS(2), ROWS(4));
  EXPECT_SENT(0, 3, 2, 4);
}

Test(relay_core, reads_no_tail_row_beside_hole_rows_that_a_limit_cut_off) {
  prove_topic();
  polled(NONE, ROWS(20));
  tick_after(MS);
  polled(ROWS(2, 3, 4, 5, 6, 7, 8, 9), ROWS(21));
  EXPECT_SENT(0, 20, 2, 3, 4, 5, 6, 7, 8, 9);
  cr_assert_eq(core.highest, 20, "21 might come after row 10, which was cut off");
}

Test(relay_core, asks_for_a_few_rows_while_no_more_come_and_at_once_for_the_others_when_they_do) {
  core.options.few_rows = 3;
  prove_topic();
  cr_assert(!poll_sent.tail_few && poll_sent.tail_rows == 8, "of a backlog nobody knows how long it is");
  polled(NONE, ROWS(2, 3));
  tick_after(MS);
  cr_assert(core.poll_out && poll_sent.tail_few && poll_sent.tail_rows == 3);
  polled(NONE, ROWS(4, 5, 6));
  cr_assert(core.poll_out, "there may be more, and they don't wait");
  cr_assert(!poll_sent.tail_few && poll_sent.tail_rows == 8);
  polled(NONE, ROWS(7, 8, 9, 10));
  tick_after(MS);
  cr_assert(!poll_sent.tail_few, "what brings more than a few is asked for all");
  polled(NONE, NONE);
  tick_after(MS);
  cr_assert(poll_sent.tail_few);
}

/* Everything is left out as soon as it may. */
static void begin_leaving_out(void) {
  begin_with((struct txb_generation_policy){.ask_freely = 0, .quiet_min = 0, .look_ranges = 8, .generations_max = 8});
}

Test(relay_core, leaves_holes_out_only_after_a_whole_poll_begun_after_the_listing, .init = begin_leaving_out) {
  prove_topic();
  xip[0] = 900;
  xip_count = 1;
  polled(NONE, ROWS(3));
  list();
  tick_after(MS);
  cr_assert(core.poll_out);
  listed(1, &open_tx);
  polled(NONE, NONE); /* begun before the listing: who had ended by then is not asked for */
  tick_after(MS);
  cr_assert(asks_for(2));
  polled(NONE, NONE); /* this one counts */
  tick_after(MS);
  cr_assert(!asks_for(2));
}

Test(relay_core, does_not_leave_out_holes_of_a_session_without_an_xid, .init = begin_leaving_out) {
  prove_topic();
  polled(NONE, ROWS(3));
  listed(1, &no_xid_yet);
  for (int i = 0; i < 3; i++) {
    polled(NONE, NONE);
    tick_after(MS);
    cr_assert(asks_for(2));
  }
}

Test(relay_core, throws_a_poll_away_when_a_holder_of_left_out_holes_has_ended_in_its_snapshot,
     .init = begin_leaving_out) {
  prove_topic();
  xip[0] = 900;
  xip_count = 1;
  polled(NONE, ROWS(3));
  listed(1, &open_tx);
  polled(NONE, NONE);
  polled(NONE, NONE);
  tick_after(MS);
  cr_assert(!asks_for(2));
  xip_count = 0; /* transaction 900 has committed row 2; row 4 was written by someone who saw it */
  polled(NONE, ROWS(4));
  EXPECT_SENT(0, 3);
  cr_assert(core.poll_out, "read again at once");
  cr_assert(asks_for(2));
  polled(ROWS(2), ROWS(4));
  EXPECT_SENT(0, 3, 2, 4);
}

Test(relay_core, asks_again_after_a_listing_showed_one_of_two_holders_gone, .init = begin_leaving_out) {
  const struct txb_holder both[] = {open_tx, other_tx};
  prove_topic();
  xip[0] = 900;
  xip[1] = 901;
  xip_count = 2;
  polled(NONE, ROWS(4));
  listed(2, both);
  polled(NONE, NONE);
  polled(NONE, NONE);
  tick_after(MS);
  cr_assert(!asks_for(2));
  xip[0] = 901;
  xip_count = 1;
  listed(1, &other_tx); /* what 900 committed has not been looked for */
  polled(NONE, ROWS(5));
  EXPECT_SENT(0, 4);
  cr_assert(asks_for(2), "the poll that left it out was thrown away");
}

Test(relay_core, compares_xids_across_their_wraparound) {
  const uint64_t xips[] = {UINT64_C(0x1FFFFFFF0), UINT64_C(0x200000003)};
  const struct txb_snapshot s = {UINT64_C(0x200000005), xips, 2};
  cr_assert(txb_snapshot_is_running(&s, 0xFFFFFFF0U));
  cr_assert(!txb_snapshot_is_running(&s, 0xFFFFFFF1U));
  cr_assert(txb_snapshot_is_running(&s, 3));
  cr_assert(!txb_snapshot_is_running(&s, 4));
  cr_assert(txb_snapshot_is_running(&s, 5));
  cr_assert(!txb_snapshot_is_running(&s, 0));
}

Test(relay_core, passes_a_gap_of_any_size_in_few_polls) {
  prove_topic();
  drawn = INT64_C(1000000000000);
  int polls = 0;
  for (; core.highest < drawn && polls < 100; polls++)
    polled(NONE, NONE);
  cr_assert_lt(polls, 60);
  cr_assert_eq(txb_generations_ranges(&core.generations), 1);
}

Test(relay_core, takes_the_numbers_of_a_bulk_insert_as_holes_before_a_row_stands_behind_them) {
  prove_topic();
  drawn = 700;
  polled(NONE, NONE);
  cr_assert_eq(core.highest, 700, "else every poll reads over its rows again");
}

/* ---- R3: when a hole is dead ------------------------------------------------------------------------------------ */

Test(relay_core, lets_a_hole_die_after_its_holders_are_gone_and_a_last_look_found_nothing) {
  prove_topic();
  polled(NONE, ROWS(3));
  listed(1, &open_tx);
  cr_assert(!actions.look);
  listed(1, &open_tx);
  cr_assert(!actions.look, "it may still commit");
  listed(0, NULL);
  cr_assert(actions.look);
  cr_assert_eq(actions.look_ranges[0].lo, 2);
  looked(false);
  polled(NONE, NONE);
  tick_after(MS);
  cr_assert_eq(poll_sent.hole_count, 0);
}

Test(relay_core, keeps_a_hole_whose_row_the_last_look_found) {
  prove_topic();
  polled(NONE, ROWS(3));
  listed(0, NULL); /* its holder committed between the poll and the listing */
  looked(true);
  polled(NONE, NONE);
  tick_after(MS);
  cr_assert(asks_for(2));
  polled(ROWS(2), NONE);
  EXPECT_SENT(0, 3, 2);
}

Test(relay_core, does_not_look_again_before_a_poll_has_asked_for_the_row_that_was_found) {
  prove_topic();
  polled(NONE, ROWS(3));
  tick_after(MS);
  listed(0, NULL);
  looked(true);
  cr_assert(!actions.look);
  polled(NONE, NONE); /* begun before that look */
  cr_assert(!actions.look);
}

Test(relay_core, counts_a_prepared_transaction_as_a_holder) {
  const struct txb_holder prepared = {.backend = open_tx.backend, .local = open_tx.local, .xid = open_tx.xid, .pid = 0};
  prove_topic();
  polled(NONE, ROWS(3));
  listed(1, &open_tx);
  listed(1, &prepared);
  cr_assert(!actions.look, "PREPARE TRANSACTION drops the pid and nothing else");
}

Test(relay_core, knows_a_prepared_transaction_by_its_xid_where_the_server_renumbers_it) {
  const struct txb_holder prepared = {.backend = -1, .local = open_tx.xid, .xid = open_tx.xid, .pid = 0};
  prove_topic();
  polled(NONE, ROWS(3));
  listed(1, &open_tx);
  listed(1, &prepared);
  cr_assert(!actions.look);
}

Test(relay_core, lists_anew_for_holes_noted_after_a_listing_was_sent) {
  prove_topic();
  polled(NONE, ROWS(3));
  list();
  polled(NONE, ROWS(5)); /* 4 is a hole now; the listing under way says nothing about it */
  listed(0, NULL);
  cr_assert(actions.look);
  cr_assert_eq(actions.look_count, 1);
  cr_assert_eq(actions.look_ranges[0].hi, 2);
  looked(false);
  tick_after(MS);
  cr_assert(asks_for(4) || core.poll_out);
}

Test(relay_core, treats_all_stored_holes_as_unlisted_after_a_restart) {
  const struct txb_range holes[] = {{4, 6}, {9, 9}};
  acquire((struct txb_relay_position){.highest = 10, .holes = holes, .hole_count = 2});
  drawn = 10;
  cr_assert(actions.poll);
  cr_assert(asks_for(5) && asks_for(9));
  cr_assert(!core.generations.items[0].listed);
}

/* ---- R7: the same server? --------------------------------------------------------------------------------------- */

static enum txb_relay_alarm alarm_of(void (*change)(struct txb_relay_answer *)) {
  const struct rows none = NONE;
  struct txb_relay_event e = answer(&none, &none, &none);
  change(&e.u.answer);
  step(e);
  return actions.alarm;
}

static void another_epoch(struct txb_relay_answer *a) {
  a->epoch++;
}
static void another_instance(struct txb_relay_answer *a) {
  a->instance.bytes[3] ^= 1;
}
static void another_checkpoint(struct txb_relay_answer *a) {
  a->checkpoint--;
}
static void in_recovery(struct txb_relay_answer *a) {
  a->recovering = true;
}
static void sequence_behind(struct txb_relay_answer *a) {
  a->drawn = 4;
}
static void sequence_at_end(struct txb_relay_answer *a) {
  a->drawn = INT64_MAX - 30000;
}

#define R7_TEST(name, change, expected)                                                                                \
  Test(relay_core, name) {                                                                                             \
    acquire((struct txb_relay_position){.highest = 5, .checkpoint = 8});                                               \
    drawn = 5;                                                                                                         \
    cr_assert_eq(alarm_of(change), expected);                                                                          \
    cr_assert(!core.held);                                                                                             \
    cr_assert(!actions.poll && !actions.checkpoint);                                                                   \
  }
R7_TEST(forgets_all_when_the_epoch_is_anothers, another_epoch, TXB_RELAY_POSITION_CHANGED)
R7_TEST(forgets_all_when_the_instance_is_anothers, another_instance, TXB_RELAY_POSITION_CHANGED)
R7_TEST(forgets_all_when_the_checkpoint_went_back, another_checkpoint, TXB_RELAY_POSITION_CHANGED)
R7_TEST(refuses_a_server_in_recovery, in_recovery, TXB_RELAY_RECOVERING)
R7_TEST(stops_when_the_sequence_is_behind_the_position, sequence_behind, TXB_RELAY_SEQUENCE_BEHIND)
R7_TEST(stops_when_the_sequence_is_at_its_end, sequence_at_end, TXB_RELAY_SEQUENCE_AT_END)

/* ---- lease, room, end ------------------------------------------------------------------------------------------- */

Test(relay_core, sends_nothing_after_two_thirds_of_a_lease_that_was_not_renewed) {
  prove_topic();
  polled(NONE, NONE);
  tick_after(3000 * MS);
  cr_assert(core.renew_out || core.checkpoint_out, "a third is over");
  cr_assert(core.poll_out);
  now_us += 3001 * MS;
  struct rows none = NONE, tail = ROWS(2);
  struct txb_relay_event e = answer(&none, &none, &tail);
  step(e);
  EXPECT_SENT(0, 0);
  cr_assert(!actions.poll);
  step((struct txb_relay_event){.kind = core.renew_out ? TXB_RELAY_RENEWED : TXB_RELAY_CHECKPOINTED});
  cr_assert(!actions.poll, "the renewal counts from its sending, which is a third ago");
}

Test(relay_core, reads_nothing_without_room_for_a_whole_read) {
  prove_topic();
  for (int64_t n = 2; n < 100 && core.head - core.tail <= 16; n += 8) {
    polled(NONE, ROWS(n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6, n + 7));
    tick_after(MS);
  }
  for (int i = 0; i < 3 && core.poll_out; i++)
    polled(NONE, ROWS(core.highest + 1));
  tick_after(10 * MS);
  cr_assert(!core.poll_out);
  cr_assert_gt(actions.wake_us, now_us, "reports wake it, no clock");
  ack_all();
  cr_assert(core.poll_out);
}

Test(relay_core, writes_a_last_checkpoint_at_a_stop) {
  prove_topic();
  polled(NONE, ROWS(2, 3));
  step((struct txb_relay_event){.kind = TXB_RELAY_STOP});
  cr_assert(!actions.stopped);
  report(0, TXB_REPORT_ACKED);
  cr_assert(!actions.checkpoint);
  report(1, TXB_REPORT_ACKED);
  cr_assert(actions.checkpoint);
  cr_assert_eq(stored.highest, 3);
  step((struct txb_relay_event){.kind = TXB_RELAY_CHECKPOINTED});
  cr_assert(actions.stopped);
}

Test(relay_core, survives_or_reports_every_failed_allocation) {
  for (uint64_t nth = 1; nth < 60; nth++) {
    struct txb_relay_core c;
    struct txb_relay_core_options o;
    struct txb_relay_actions a;
    struct txb_error err;
    const struct txb_range holes[] = {{2, 5}, {7, 7}};
    const struct txb_relay_key_hold hold = {.topic = 3, .key = {"k", 1}, .lo = 9};
    struct txb_relay_event e = {.kind = TXB_RELAY_ACQUIRED, .now_us = 1};
    e.u.position = (struct txb_relay_position){
        .epoch = 1, .highest = 20, .holes = holes, .hole_count = 2, .keys = &hold, .key_count = 1};
    txb_relay_core_options_init(&o);
    txb_alloc_fail_at(nth);
    enum txb_rc rc = txb_relay_core_init(&c, &o, &err);
    if (rc == TXB_OK)
      rc = txb_relay_core_step(&c, &e, &a, &err);
    txb_alloc_fail_at(0);
    cr_assert(rc == TXB_OK || rc == TXB_FATAL);
    txb_relay_core_fini(&c);
  }
}
