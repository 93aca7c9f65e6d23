/* The relay core, rule by rule (PROTOCOLS R4 and R5): what a checkpoint says, refused messages, held keys and
 * topics. */
#include "relay_kit.h"

TestSuite(relay_delivery, .init = begin, .fini = end);

/* ---- R4: what a checkpoint says --------------------------------------------------------------------------------- */

Test(relay_delivery, checkpoints_nothing_that_kafka_has_not_acknowledged) {
  prove_topic();
  polled(NONE, ROWS(2, 3, 4));
  report(1, TXB_REPORT_ACKED); /* 3 */
  report(2, TXB_REPORT_ACKED); /* 4 */
  checkpoint();
  cr_assert_eq(stored.highest, 1, "2 is under way: all above is read again");
  report(0, TXB_REPORT_ACKED);
  checkpoint();
  cr_assert_eq(stored.highest, 4);
  cr_assert_eq(stored.watermark, 4);
  cr_assert_eq(stored.published, 1);
}

Test(relay_delivery, stores_a_hole_row_as_a_hole_until_it_is_acknowledged) {
  prove_topic();
  polled(NONE, ROWS(3));
  report(0, TXB_REPORT_ACKED);
  polled(ROWS(2), NONE);
  checkpoint();
  cr_assert_eq(stored.highest, 3);
  cr_assert(stores_hole(2));
  cr_assert_eq(stored.watermark, 1);
  report(1, TXB_REPORT_ACKED);
  checkpoint();
  cr_assert(!stores_hole(2));
  cr_assert_eq(stored.page_count, 1, "its page is emptied");
  cr_assert_eq(stored_pages[0].count, 0);
  cr_assert_eq(stored.watermark, 3);
}

Test(relay_delivery, cuts_stored_holes_at_the_stored_highest_and_writes_the_rest_later) {
  prove_topic();
  polled(NONE, ROWS(2, 9)); /* holes 3 to 8 */
  report(0, TXB_REPORT_ACKED);
  checkpoint();
  cr_assert_eq(stored.highest, 8, "9 is under way");
  cr_assert(stores_hole(3) && stores_hole(8));
  report(1, TXB_REPORT_ACKED);
  polled(NONE, ROWS(12));
  checkpoint();
  cr_assert_eq(stored.highest, 11);
  cr_assert(stores_hole(10) && stores_hole(11) && stores_hole(3), "the page is written whole");
}

Test(relay_delivery, writes_only_pages_that_changed) {
  const struct txb_range holes[] = {{5, 5}, {40000, 40000}, {70000, 70000}};
  acquire((struct txb_relay_position){.highest = 80000, .holes = holes, .hole_count = 3});
  drawn = 80000;
  polled(NONE, NONE);
  core.dirty = true;
  checkpoint(); /* once after a restart */
  polled(rows_of(T, "k", (const int64_t[]){40000, 0}), NONE);
  ack_all();
  checkpoint();
  for (size_t i = 0; i < stored.page_count; i++)
    cr_assert(stored_pages[i].page == txb_hole_page(40000) || stored_pages[i].page == txb_hole_page(80000));
}

Test(relay_delivery, stores_a_range_in_the_page_of_its_first_number) {
  prove_topic();
  ack_all();
  drawn = 1000;
  for (int i = 0; i < 8 && core.highest < 50000; i++) {
    drawn = 50000;
    polled(NONE, NONE);
  }
  checkpoint();
  cr_assert_eq(stored.range_count, 1);
  cr_assert_eq(stored_ranges[0].lo, 2);
  cr_assert_eq(stored_pages[0].page, 0);
  cr_assert_eq(stored_pages[0].count, 1);
}

/* Drawn numbers without rows up to `top`. */
static void gap_up_to(int64_t top) {
  for (int i = 0; i < 100 && core.highest < top; i++) {
    drawn = top;
    polled(NONE, NONE);
  }
  cr_assert_eq(core.highest, top);
}

Test(relay_delivery, writes_the_page_of_a_long_range_again_when_the_position_moves_on_in_it) {
  prove_topic();
  gap_up_to(20000);
  polled(NONE, ROWS(20001)); /* unacknowledged: the position stays below it */
  gap_up_to(50000);
  checkpoint();
  cr_assert_eq(stored.highest, 20000);
  report(0, TXB_REPORT_ACKED);
  checkpoint();
  cr_assert_eq(stored.highest, 50000);
  cr_assert(stores_hole(20002) && stores_hole(50000));
  polled(ROWS(30000), NONE); /* out of the middle: the page where the range begins changes too */
  report(1, TXB_REPORT_ACKED);
  checkpoint();
  cr_assert(!stores_hole(30000));
  cr_assert(stores_hole(29999) && stores_hole(30001));
}

Test(relay_delivery, writes_a_range_again_that_the_position_had_cut_in_an_earlier_page) {
  const struct txb_range hole = {2, 60000};
  acquire((struct txb_relay_position){.highest = 60000, .holes = &hole, .hole_count = 1});
  drawn = 60000;
  polled(NONE, NONE);
  core.dirty = true;
  checkpoint();
  polled(ROWS(40000), NONE);
  report(0, TXB_REPORT_ACKED);
  checkpoint();
  bool first = false;
  for (size_t i = 0; i < stored.page_count; i++)
    first |= stored_pages[i].page == 0;
  cr_assert(first, "the range in page 0 ends at 39999 now");
  cr_assert(stores_hole(39999) && !stores_hole(40000) && stores_hole(40001));
}

/* ---- R5: refused messages, held keys and topics ----------------------------------------------------------------- */

Test(relay_delivery, sends_the_messages_of_a_refused_batch_again_one_at_a_time) {
  prove_topic();
  polled(NONE, ROWS(2, 3));
  report(0, TXB_REPORT_REFUSED);
  report(1, TXB_REPORT_REFUSED);
  cr_assert(actions.replace_producer);
  cr_assert(!actions.record, "only what is refused alone is refused");
  sent_count = 0;
  replaced();
  EXPECT_SENT(0, 2);
  report(0, TXB_REPORT_ACKED);
  EXPECT_SENT(0, 2, 3);
  report(1, TXB_REPORT_ACKED);
  checkpoint();
  cr_assert_eq(stored.highest, 3);
}

Test(relay_delivery, records_what_is_refused_alone_and_holds_its_key_from_there_on) {
  prove_topic();
  polled(NONE, ROWS(2, 3));
  report(0, TXB_REPORT_REFUSED);
  report(1, TXB_REPORT_LOST);
  replaced();
  EXPECT_SENT(2, 2);
  report(2, TXB_REPORT_REFUSED);
  cr_assert(actions.record);
  cr_assert_eq(txb_relay_core_slot(&core, actions.record_ticket)->seq, 2);
  replaced();
  EXPECT_SENT(3, 0); /* 3 has its key */
  for (int i = 0; i < 300; i++) {
    tick_after(MS);
    cr_assert(!actions.checkpoint, "it would say that 3 is done before the hold that keeps it is stored");
  }
  step((struct txb_relay_event){.kind = TXB_RELAY_RECORDED});
  checkpoint();
  cr_assert_eq(stored.highest, 3);
  struct rows other = rows_of(T, "another key", (const int64_t[]){5, 0}), tail = ROWS(4);
  tail.rows[tail.count++] = other.rows[0];
  polled(NONE, tail);
  EXPECT_SENT(3, 5);
}

Test(relay_delivery, lets_late_rows_below_a_held_key_go_out) {
  const struct txb_relay_key_hold hold = {.topic = T, .key = {"k", 1}, .lo = 5};
  const struct txb_range hole = {3, 3};
  acquire((struct txb_relay_position){.highest = 9, .holes = &hole, .hole_count = 1, .keys = &hold, .key_count = 1});
  drawn = 9;
  polled(ROWS(3), ROWS(10));
  EXPECT_SENT(0, 3);
}

Test(relay_delivery, records_one_refusal_after_the_other) {
  prove_topic();
  struct rows tail = ROWS(2), other = rows_of(T, "b", (const int64_t[]){3, 0});
  tail.rows[tail.count++] = other.rows[0];
  polled(NONE, tail);
  report(0, TXB_REPORT_REFUSED);
  report(1, TXB_REPORT_REFUSED);
  replaced();
  report(2, TXB_REPORT_REFUSED);
  uint64_t first = actions.record_ticket;
  cr_assert(actions.record);
  replaced();
  EXPECT_SENT(3, 0); /* 3 waits: its refusal would be taken for the answer about 2 */
  step((struct txb_relay_event){.kind = TXB_RELAY_RECORDED});
  EXPECT_SENT(3, 3);
  report(3, TXB_REPORT_REFUSED);
  cr_assert(actions.record);
  cr_assert_neq(actions.record_ticket, first);
}

Test(relay_delivery, sends_the_first_message_of_a_topic_alone_of_its_topic) {
  acquire((struct txb_relay_position){.highest = 0});
  struct rows tail = ROWS(1, 2), other = rows_of(U, "k", (const int64_t[]){3, 0});
  tail.rows[tail.count++] = other.rows[0];
  polled(NONE, tail);
  EXPECT_SENT(0, 1, 3); /* other topics do not wait for it */
  report(0, TXB_REPORT_ACKED);
  EXPECT_SENT(0, 1, 3, 2);
}

Test(relay_delivery, sends_what_waited_for_a_topics_first_message_in_its_order) {
  acquire((struct txb_relay_position){.highest = 0});
  polled(NONE, ROWS(1, 2, 3));
  polled(NONE, ROWS(4));
  EXPECT_SENT(0, 1);
  report(0, TXB_REPORT_LOST);
  replaced();
  EXPECT_SENT(1, 1);
  polled(NONE, ROWS(5));
  report(1, TXB_REPORT_ACKED);
  EXPECT_SENT(1, 1, 2, 3, 4, 5);
}

/* One row a letter, which is its key; '-': none. */
static struct rows rows_by_key(int64_t first, const char *keys) {
  struct rows all = {.count = 0};
  for (size_t i = 0; keys[i] != '\0'; i++)
    all.rows[all.count++] =
        (struct txb_relay_row){.seq = first + (int64_t)i,
                               .topic = T,
                               .key = txb_slice_of(keys[i] == '-' ? NULL : &keys[i], keys[i] != '-'),
                               .bytes = 10};
  return all;
}

Test(relay_delivery, sends_the_first_message_of_a_partition_alone_of_its_partition) {
  acquire((struct txb_relay_position){.highest = 0});
  polled(NONE, rows_by_key(1, "abbab"));
  EXPECT_SENT(0, 1);
  acked_in(0, 0, 2);
  EXPECT_SENT(0, 1, 2, 4); /* of "b" nothing is known yet but where it goes */
  acked_in(2, 0, 2);
  EXPECT_SENT(0, 1, 2, 4);
  acked_in(1, 1, 2);
  EXPECT_SENT(0, 1, 2, 4, 3, 5);
}

Test(relay_delivery, sends_a_message_without_a_key_beside_those_that_wait_for_their_partition) {
  acquire((struct txb_relay_position){.highest = 0});
  polled(NONE, rows_by_key(1, "ab-b-"));
  acked_in(0, 0, 2);
  EXPECT_SENT(0, 1, 2, 3, 5);
}

/* Else it would wait for the acknowledgement of a partition that it never goes to, and so would all behind it. */
Test(relay_delivery, looks_for_a_copy_where_the_key_goes_that_is_sent) {
  acquire((struct txb_relay_position){.highest = 0});
  struct rows rows = rows_by_key(1, "abaa");
  rows.rows[2].sent_key = txb_slice_text("b");
  polled(NONE, rows);
  acked_in(0, 0, 2);
  EXPECT_SENT(0, 1, 2, 4);
  acked_in(1, 1, 2);
  EXPECT_SENT(0, 1, 2, 4, 3);
}

Test(relay_delivery, lets_nothing_follow_a_partitions_first_message_that_is_refused) {
  acquire((struct txb_relay_position){.highest = 0});
  polled(NONE, rows_by_key(1, "abbb"));
  acked_in(0, 0, 2);
  EXPECT_SENT(0, 1, 2);
  report(1, TXB_REPORT_REFUSED);
  replaced();
  EXPECT_SENT(2, 2); /* to be sure, alone */
  report(2, TXB_REPORT_REFUSED);
  replaced();
  EXPECT_SENT(3, 0); /* its key is held */
}

static void prove_two_partitions(void) {
  acquire((struct txb_relay_position){.highest = 0});
  polled(NONE, rows_by_key(1, "ab"));
  acked_in(0, 0, 2);
  acked_in(1, 1, 2);
}

Test(relay_delivery, proves_every_partition_anew_with_a_new_producer) {
  prove_two_partitions();
  polled(NONE, rows_by_key(3, "bb"));
  EXPECT_SENT(2, 3, 4);
  report(2, TXB_REPORT_LOST);
  replaced();
  EXPECT_SENT(4, 3);
  acked_in(4, 1, 2);
  EXPECT_SENT(5, 4);
}

Test(relay_delivery, proves_a_partition_again_that_was_silent_for_longer_than_brokers_surely_remember) {
  prove_two_partitions();
  tick_after(1001 * MS);
  polled(NONE, rows_by_key(3, "bb"));
  EXPECT_SENT(2, 3);
  acked_in(2, 1, 2);
  EXPECT_SENT(2, 3, 4);
}

Test(relay_delivery, knows_nothing_of_any_partition_when_their_number_has_changed) {
  acquire((struct txb_relay_position){.highest = 0});
  polled(NONE, rows_by_key(1, "ab"));
  acked_in(0, 0, 2);
  acked_in(1, 1, 3);
  polled(NONE, rows_by_key(3, "bbc"));
  EXPECT_SENT(2, 3, 5);
}

Test(relay_delivery, leaves_nothing_waiting_for_a_partition_that_was_proven_when_their_number_changed) {
  acquire((struct txb_relay_position){.highest = 0});
  polled(NONE, rows_by_key(1, "abb"));
  acked_in(0, 0, 2);
  EXPECT_SENT(0, 1, 2);
  acked_in(1, 1, 3);
  EXPECT_SENT(0, 1, 2, 3);
}

Test(relay_delivery, holds_a_missing_topic_by_reference_and_goes_on_with_the_others) {
  acquire((struct txb_relay_position){.highest = 0});
  struct rows tail = ROWS(1, 2), other = rows_of(U, "k", (const int64_t[]){3, 0});
  tail.rows[tail.count++] = other.rows[0];
  polled(NONE, tail);
  report(0, TXB_REPORT_NO_TOPIC);
  EXPECT_SENT(0, 1, 3);
  report(1, TXB_REPORT_ACKED);
  checkpoint();
  cr_assert_eq(stored.highest, 3);
  cr_assert_eq(stored.hold_count, 1);
  cr_assert_eq(stored_holds[0].topic, T);
  cr_assert_eq(stored_holds[0].lo, 1);
  polled(NONE, ROWS(4));
  EXPECT_SENT(2, 0);
}

Test(relay_delivery, lowers_a_hold_to_a_late_row_below_it) {
  const struct txb_relay_topic_hold hold = {.topic = T, .lo = 5};
  const struct txb_range hole = {3, 3};
  acquire(
      (struct txb_relay_position){.highest = 9, .holes = &hole, .hole_count = 1, .topics = &hold, .topic_count = 1});
  drawn = 9;
  polled(ROWS(3), NONE);
  EXPECT_SENT(0, 0);
  checkpoint();
  cr_assert_eq(stored_holds[0].lo, 3);
}

/* A topic held from 2 on, known to be there again; highest 12. */
static void begin_drain(void) {
  const struct txb_relay_topic_hold hold = {.topic = T, .lo = 2};
  const struct txb_range holes[] = {{1, 1}, {6, 6}};
  acquire(
      (struct txb_relay_position){.highest = 12, .holes = holes, .hole_count = 2, .topics = &hold, .topic_count = 1});
  drawn = 12;
  cr_assert(actions.probe);
  step((struct txb_relay_event){.kind = TXB_RELAY_PROBED, .u.probe = {T, true}});
  polled(NONE, NONE); /* the poll that was under way */
  tick_after(MS);
  cr_assert(actions.poll && poll_sent.drain);
  cr_assert_eq(poll_sent.drain_from, 2);
  cr_assert_eq(poll_sent.drain_to, 12);
}

Test(relay_delivery, drains_a_topic_in_order_and_then_its_tail) {
  begin_drain();
  polled_all(NONE, ROWS(2, 4, 7), ROWS(13));
  EXPECT_SENT(0, 2); /* the first one alone */
  report(0, TXB_REPORT_ACKED);
  EXPECT_SENT(0, 2, 4, 7, 13);
  checkpoint();
  cr_assert_eq(stored.hold_count, 0, "4 is under way");
  ack_all();
  checkpoint();
  cr_assert_eq(stored.hold_count, 1);
  cr_assert_eq(stored_holds[0].lo, 0, "the hold ends when all is acknowledged");
}

Test(relay_delivery, leaves_a_late_row_to_the_page_that_will_find_it) {
  begin_drain();
  /* 1 lies below the page: nothing that waits comes before it. 6 lies in it. */
  polled_all(ROWS(1, 6), ROWS(2, 6, 7), NONE);
  EXPECT_SENT(0, 1);
  report(0, TXB_REPORT_ACKED);
  EXPECT_SENT(0, 1, 2, 6, 7);
}

Test(relay_delivery, keeps_the_tail_of_a_topic_back_until_its_pages_reach_it) {
  begin_drain();
  polled_all(NONE, ROWS(2, 3, 4, 5, 7, 8, 9, 10), ROWS(13)); /* cut off by the limit */
  report(0, TXB_REPORT_ACKED);
  EXPECT_SENT(0, 2, 3, 4, 5, 7, 8, 9, 10);
  cr_assert(poll_sent.drain);
  cr_assert_eq(poll_sent.drain_from, 11);
  cr_assert_eq(poll_sent.drain_to, 13);
  polled_all(NONE, ROWS(11, 13), ROWS(14));
  EXPECT_SENT(8, 11, 13, 14);
}

/* 5 was unacknowledged when 6 was refused and the hold stored: the position lies below the hold. */
Test(relay_delivery, takes_a_drain_back_to_a_tail_row_below_the_stored_hold) {
  const struct txb_relay_topic_hold hold = {.topic = T, .lo = 6};
  acquire((struct txb_relay_position){.highest = 4, .topics = &hold, .topic_count = 1});
  drawn = 6;
  step((struct txb_relay_event){.kind = TXB_RELAY_PROBED, .u.probe = {T, true}});
  polled(NONE, ROWS(5, 6)); /* the poll that was under way when the topic was found */
  EXPECT_SENT(0, 0);
  tick_after(MS);
  cr_assert(poll_sent.drain);
  cr_assert_eq(poll_sent.drain_from, 5);
  polled_all(NONE, ROWS(5, 6), NONE);
  report(0, TXB_REPORT_ACKED);
  EXPECT_SENT(0, 5, 6);
}

Test(relay_delivery, holds_a_topic_again_from_the_first_row_that_failed) {
  begin_drain();
  polled_all(NONE, ROWS(2, 4, 7), NONE);
  report(0, TXB_REPORT_ACKED);
  report(1, TXB_REPORT_NO_TOPIC);
  cr_assert(actions.replace_producer, "what follows of the topic must not get through before");
  replaced();
  EXPECT_SENT(3, 0);
  for (int i = 0; i < 3000 && !actions.probe; i++)
    tick_after(MS);
  step((struct txb_relay_event){.kind = TXB_RELAY_PROBED, .u.probe = {T, true}});
  polled(NONE, NONE);
  tick_after(MS);
  cr_assert(poll_sent.drain);
  cr_assert_eq(poll_sent.drain_from, 4);
}

Test(relay_delivery, sends_nothing_of_a_held_topic_that_was_lost_or_in_a_refused_batch_before_it_is_there_again) {
  prove_topic();
  polled(NONE, ROWS(2, 3, 4));
  EXPECT_SENT(0, 2, 3, 4);
  report(0, TXB_REPORT_NO_TOPIC);
  report(1, TXB_REPORT_LOST);
  report(2, TXB_REPORT_REFUSED);
  cr_assert(actions.replace_producer);
  replaced();
  EXPECT_SENT(3, 0);
  checkpoint();
  cr_assert_eq(stored.hold_count, 1);
  cr_assert_eq(stored_holds[0].lo, 2);
}

Test(relay_delivery, probes_one_held_topic_after_the_other) {
  const struct txb_relay_topic_hold holds[] = {{.topic = T, .lo = 2}, {.topic = U, .lo = 3}};
  acquire((struct txb_relay_position){.highest = 4, .topics = holds, .topic_count = 2});
  drawn = 4;
  cr_assert(actions.probe);
  uint32_t first = actions.probe_topic;
  polled(NONE, NONE);
  cr_assert_not(actions.probe, "the first one is not answered yet");
  step((struct txb_relay_event){.kind = TXB_RELAY_PROBED, .u.probe = {first, false}});
  cr_assert(actions.probe);
  cr_assert_neq(actions.probe_topic, first);
}

Test(relay_delivery, counts_rows_passed_over_with_the_row_that_keeps_their_memory) {
  const struct txb_relay_topic_hold hold = {.topic = U, .lo = 1};
  acquire((struct txb_relay_position){.highest = 0, .topics = &hold, .topic_count = 1});
  struct rows tail = rows_of(U, "k", (const int64_t[]){1, 2, 3, 0}), other = ROWS(4);
  tail.rows[tail.count++] = other.rows[0];
  polled(NONE, tail);
  EXPECT_SENT(0, 4);
  cr_assert_eq(core.bytes, 40);
  report(0, TXB_REPORT_ACKED);
  cr_assert_eq(core.bytes, 0);
}

Test(relay_delivery, sends_what_a_broken_producer_had_again_in_the_same_order) {
  prove_topic();
  polled(NONE, ROWS(2, 3, 4));
  report(1, TXB_REPORT_ACKED);
  report(0, TXB_REPORT_LOST);
  cr_assert(actions.replace_producer);
  sent_count = 0;
  replaced();
  EXPECT_SENT(0, 2);
  report(0, TXB_REPORT_ACKED);
  EXPECT_SENT(0, 2, 4);
}

Test(relay_delivery, ignores_reports_of_a_producer_that_is_gone) {
  prove_topic();
  polled(NONE, ROWS(2));
  step((struct txb_relay_event){.kind = TXB_RELAY_LOST});
  report(0, TXB_REPORT_ACKED);
  cr_assert_eq(core.published, 0);
}
