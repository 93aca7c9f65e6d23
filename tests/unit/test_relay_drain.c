/* The relay core: held keys and failed messages that somebody has decided about (PROTOCOLS R5). */
#include <stdio.h>

#include "relay_kit.h"

TestSuite(relay_drain, .init = begin, .fini = end);

enum { RETRY = TXB_VERDICT_RETRY, CLOSED = TXB_VERDICT_CLOSED, DEAD = TXB_VERDICT_DEAD };

/* The row with this number has failed: its number in txb.failed is a hundred more. */
static struct rows failed(struct rows rows, int64_t seq, int verdict) {
  for (size_t i = 0; i < rows.count; i++)
    if (rows.rows[i].seq == seq) {
      rows.rows[i].verdict = (enum txb_relay_verdict)verdict;
      rows.rows[i].failed = 100 + seq;
    }
  return rows;
}

/* Topic T, key "k" held from 2 on; highest 12. */
static const struct txb_relay_key_hold held = {.topic = T, .key = {"k", 1}, .lo = 2};

static void begin_held(void) {
  const struct txb_range holes[] = {{1, 1}, {6, 6}};
  acquire((struct txb_relay_position){.highest = 12, .holes = holes, .hole_count = 2, .keys = &held, .key_count = 1});
  drawn = 12;
  polled(NONE, NONE); /* looks at failed messages without a key, and finds none */
  cr_assert_eq(core.loose_round, false);
}

static void decide(void) {
  if (!core.poll_out)
    tick_after(MS);
  struct rows none = NONE;
  struct txb_relay_event e = answer(&none, &none, &none);
  e.u.answer.decided = true;
  step(e);
  cr_assert(actions.decide);
  step((struct txb_relay_event){.kind = TXB_RELAY_DECIDED, .u.decisions = {&held, 1, false}});
}

static void begin_drain(void) {
  begin_held();
  decide();
  if (poll_sent.drain == TXB_DRAIN_NONE)
    polled(NONE, NONE); /* the poll that was under way */
  tick_after(MS);
  cr_assert_eq(poll_sent.drain, TXB_DRAIN_KEYS);
  cr_assert_eq(poll_sent.drain_from, 2);
  cr_assert_eq(poll_sent.drain_to, 12);
  cr_assert_eq(poll_sent.drain_key_count, 1);
  sent_count = 0;
}

Test(relay_drain, holds_a_key_until_somebody_decides) {
  begin_held();
  for (int i = 0; i < 20; i++) {
    polled(NONE, ROWS(13 + i));
    cr_assert_eq(poll_sent.drain, TXB_DRAIN_NONE);
    cr_assert(!actions.decide);
  }
  EXPECT_SENT(0, 0);
}

Test(relay_drain, asks_once_for_what_was_decided) {
  begin_held();
  decide();
  cr_assert(!actions.decide);
  if (!core.poll_out)
    tick_after(MS);
  polled(NONE, NONE);
  cr_assert(!actions.decide);
}

Test(relay_drain, does_not_take_the_notes_of_an_older_poll_for_new_ones) {
  begin_held();
  tick_after(MS);
  struct rows none = NONE, tail = ROWS(13, 14, 15, 16, 17, 18, 19, 20); /* cut off: the next poll goes out at once */
  struct txb_relay_event e = answer(&none, &none, &tail);
  e.u.answer.decided = true;
  step(e);
  cr_assert(actions.poll && actions.decide);
  step((struct txb_relay_event){.kind = TXB_RELAY_DECIDED, .u.decisions = {&held, 1, false}});
  e = answer(&none, &none, &none);
  e.u.answer.decided = true;
  step(e);
  cr_assert(!actions.decide, "it was sent before they were taken");
  tick_after(MS);
  e = answer(&none, &none, &none);
  e.u.answer.decided = true;
  step(e);
  cr_assert(actions.decide);
}

Test(relay_drain, drains_a_key_in_order_and_then_its_tail) {
  begin_drain();
  polled_all(NONE, failed(ROWS(2, 4, 7), 2, RETRY), ROWS(13));
  EXPECT_SENT(0, 2); /* the topic's first one alone */
  report(0, TXB_REPORT_ACKED);
  EXPECT_SENT(0, 2, 4, 7, 13);
  checkpoint();
  cr_assert_eq(stored.settled_count, 1);
  cr_assert_eq(settled[0], 102);
  cr_assert_eq(stored.key_count, 0, "4 is under way: a crash begins the drain anew");
  ack_all();
  checkpoint();
  cr_assert_eq(stored.key_count, 1);
  cr_assert_eq(stored_keys[0].lo, 0);
  cr_assert_eq(stored.highest, 13);
  polled(NONE, ROWS(14));
  EXPECT_SENT(4, 14);
  cr_assert_eq(core.keys.count, 0);
}

Test(relay_drain, leaves_a_late_row_to_the_page_that_will_find_it) {
  begin_drain();
  /* 1 lies below the hold: nothing that waits comes before it. 6 lies in the page. */
  polled_all(ROWS(1, 6), failed(ROWS(2, 6, 7), 2, RETRY), NONE);
  EXPECT_SENT(0, 1);
  report(0, TXB_REPORT_ACKED);
  EXPECT_SENT(0, 1, 2, 6, 7);
}

Test(relay_drain, lets_a_late_row_go_out_that_the_pages_have_passed) {
  begin_drain();
  polled_all(NONE, failed(ROWS(2, 3, 4, 5, 7, 8, 9, 10), 2, RETRY), ROWS(13)); /* cut off by the limit */
  report(0, TXB_REPORT_ACKED);
  EXPECT_SENT(0, 2, 3, 4, 5, 7, 8, 9, 10);
  cr_assert_eq(poll_sent.drain_from, 11);
  polled_all(ROWS(6), ROWS(11, 13), ROWS(14));
  EXPECT_SENT(8, 6, 11, 13, 14);
}

Test(relay_drain, keeps_the_tail_of_a_key_back_until_its_pages_reach_it) {
  begin_drain();
  polled_all(NONE, failed(ROWS(2, 3, 4, 5, 7, 8, 9, 10), 2, RETRY), ROWS(13));
  report(0, TXB_REPORT_ACKED);
  EXPECT_SENT(0, 2, 3, 4, 5, 7, 8, 9, 10);
  cr_assert_eq(poll_sent.drain_from, 11);
  cr_assert_eq(poll_sent.drain_to, 13);
  polled_all(NONE, ROWS(11, 13), ROWS(14));
  EXPECT_SENT(8, 11, 13, 14);
}

Test(relay_drain, sends_nothing_of_what_was_discarded) {
  begin_drain();
  polled_all(NONE, failed(ROWS(2, 4), 2, CLOSED), NONE);
  EXPECT_SENT(0, 4);
}

Test(relay_drain, holds_the_key_from_the_next_failed_one_that_nobody_has_decided_about) {
  begin_drain();
  polled_all(NONE, failed(failed(ROWS(2, 4, 5, 7), 2, RETRY), 5, DEAD), ROWS(13));
  report(0, TXB_REPORT_ACKED);
  EXPECT_SENT(0, 2, 4);
  core.dirty = true;
  checkpoint();
  cr_assert_eq(stored.key_count, 0, "4 is under way");
  report(1, TXB_REPORT_ACKED);
  checkpoint();
  cr_assert_eq(stored.key_count, 1);
  cr_assert_eq(stored_keys[0].lo, 5);
  polled(NONE, ROWS(14));
  EXPECT_SENT(2, 0);
}

Test(relay_drain, holds_the_key_again_from_what_is_refused_again) {
  begin_drain();
  polled_all(NONE, failed(failed(ROWS(2, 4, 7), 2, RETRY), 4, RETRY), NONE);
  report(0, TXB_REPORT_ACKED);
  EXPECT_SENT(0, 2, 4, 7);
  report(1, TXB_REPORT_REFUSED);
  report(2, TXB_REPORT_LOST);
  replaced();
  EXPECT_SENT(3, 4); /* alone */
  report(3, TXB_REPORT_REFUSED);
  cr_assert(actions.record);
  cr_assert_eq(txb_relay_core_slot(&core, actions.record_ticket)->seq, 4);
  replaced();
  EXPECT_SENT(4, 0); /* 7 waits behind it */
  step((struct txb_relay_event){.kind = TXB_RELAY_RECORDED});
  checkpoint();
  cr_assert_eq(stored.settled_count, 1);
  cr_assert_eq(settled[0], 102);
  cr_assert_eq(stored.key_count, 1);
  cr_assert_eq(stored_keys[0].lo, 4);
  sent_count = 0;
  decide();
  for (int i = 0; i < 5 && poll_sent.drain != TXB_DRAIN_KEYS; i++)
    polled(NONE, NONE), tick_after(MS);
  cr_assert_eq(poll_sent.drain_from, 4);
}

Test(relay_drain, holds_the_key_again_from_a_refused_one_of_its_tail) {
  begin_drain();
  polled_all(NONE, failed(ROWS(2), 2, RETRY), ROWS(13));
  report(0, TXB_REPORT_ACKED);
  report(1, TXB_REPORT_ACKED);
  polled(NONE, ROWS(14, 15, 16));
  report(2, TXB_REPORT_ACKED);
  report(3, TXB_REPORT_REFUSED);
  report(4, TXB_REPORT_LOST);
  replaced();
  report(5, TXB_REPORT_REFUSED);
  step((struct txb_relay_event){.kind = TXB_RELAY_RECORDED});
  checkpoint();
  cr_assert_eq(stored.key_count, 1);
  cr_assert_eq(stored_keys[0].lo, 15, "a hold begins at a failed message: else nobody can decide about it");
}

Test(relay_drain, begins_no_drain_while_a_refusal_is_being_recorded) {
  begin_held();
  sent_count = 0;
  polled(NONE, rows_of(T, "other", (const int64_t[]){13, 0}));
  report(0, TXB_REPORT_REFUSED);
  replaced();
  report(1, TXB_REPORT_REFUSED);
  cr_assert(actions.record);
  decide();
  for (int i = 0; i < 5; i++) {
    polled(NONE, NONE);
    tick_after(MS);
    cr_assert_neq(poll_sent.drain, TXB_DRAIN_KEYS);
  }
  step((struct txb_relay_event){.kind = TXB_RELAY_RECORDED});
  polled(NONE, NONE);
  tick_after(MS);
  cr_assert_eq(poll_sent.drain, TXB_DRAIN_KEYS);
}

/* ---- beginning anew --------------------------------------------------------------------------------------------- */

Test(relay_drain, passes_over_what_has_failed_before_it_began) {
  const int64_t recorded[] = {2, 13};
  const struct txb_range hole = {2, 2};
  acquire((struct txb_relay_position){
      .highest = 12, .holes = &hole, .hole_count = 1, .recorded = recorded, .recorded_count = 2});
  drawn = 12;
  polled(ROWS(2), ROWS(13, 14));
  EXPECT_SENT(0, 14);
  report(0, TXB_REPORT_ACKED);
  checkpoint();
  cr_assert_eq(stored.highest, 14);
  cr_assert(!stores_hole(2));
}

Test(relay_drain, begins_no_drain_below_a_failed_one_that_it_has_yet_to_read) {
  const int64_t recorded[] = {13};
  struct txb_relay_key_hold decided = held;
  decided.decided = true;
  acquire((struct txb_relay_position){
      .highest = 12, .keys = &decided, .key_count = 1, .recorded = recorded, .recorded_count = 1});
  drawn = 12;
  polled(NONE, NONE);
  tick_after(MS);
  cr_assert_neq(poll_sent.drain, TXB_DRAIN_KEYS, "its pages would end below 13, and the tail pass that over");
  polled(NONE, ROWS(13, 14));
  tick_after(MS);
  cr_assert_eq(poll_sent.drain, TXB_DRAIN_KEYS);
  cr_assert_eq(poll_sent.drain_to, 14);
  polled_all(NONE, failed(failed(ROWS(2, 3, 13, 14), 2, RETRY), 13, DEAD), NONE);
  report(0, TXB_REPORT_ACKED);
  EXPECT_SENT(0, 2, 3);
}

Test(relay_drain, drains_anew_when_its_topic_is_there_again) {
  begin_drain();
  polled_all(NONE, failed(ROWS(2, 4, 7), 2, RETRY), NONE);
  report(0, TXB_REPORT_ACKED);
  EXPECT_SENT(0, 2, 4, 7);
  report(1, TXB_REPORT_NO_TOPIC);
  cr_assert(actions.replace_producer);
  replaced();
  EXPECT_SENT(3, 0);
  checkpoint();
  cr_assert_eq(stored.hold_count, 1);
  cr_assert_eq(stored_holds[0].lo, 13, "what is kept by the hold of its key is not drained with the topic");
  cr_assert_eq(stored.key_count, 0);
  for (int i = 0; i < 3000 && !actions.probe; i++)
    tick_after(MS);
  step((struct txb_relay_event){.kind = TXB_RELAY_PROBED, .u.probe = {T, true}});
  for (int i = 0; i < 300 && poll_sent.drain != TXB_DRAIN_KEYS; i++) {
    polled(NONE, NONE);
    tick_after(MS);
    if (core.checkpoint_out)
      step((struct txb_relay_event){.kind = TXB_RELAY_CHECKPOINTED});
  }
  cr_assert_eq(poll_sent.drain, TXB_DRAIN_KEYS);
  cr_assert_eq(poll_sent.drain_from, 2);
}

Test(relay_drain, drains_anew_what_stood_before_a_failed_one_when_its_topic_is_there_again) {
  begin_drain();
  polled_all(NONE, failed(failed(ROWS(2, 4, 5, 7), 2, RETRY), 5, DEAD), NONE);
  EXPECT_SENT(0, 2);
  report(0, TXB_REPORT_NO_TOPIC);
  checkpoint();
  cr_assert_eq(stored.key_count, 0, "2 and 4 are in no topic: the hold stays where it was");
  for (int i = 0; i < 3000 && !actions.probe; i++)
    tick_after(MS);
  step((struct txb_relay_event){.kind = TXB_RELAY_PROBED, .u.probe = {T, true}});
  for (int i = 0; i < 300 && poll_sent.drain != TXB_DRAIN_KEYS; i++) {
    polled(NONE, NONE);
    tick_after(MS);
    if (core.checkpoint_out)
      step((struct txb_relay_event){.kind = TXB_RELAY_CHECKPOINTED});
  }
  cr_assert_eq(poll_sent.drain, TXB_DRAIN_KEYS);
  cr_assert_eq(poll_sent.drain_from, 2);
}

Test(relay_drain, is_not_idle_before_the_drain_is_stored) {
  begin_drain();
  polled_all(NONE, failed(ROWS(2), 2, RETRY), NONE);
  report(0, TXB_REPORT_ACKED);
  for (int i = 0; i < 20; i++) {
    polled(NONE, NONE);
    cr_assert(!actions.idle || core.drain_count == 0);
  }
  checkpoint();
  polled(NONE, NONE);
  polled(NONE, NONE);
  tick_after(MS);
  cr_assert(actions.idle);
}

/* ---- failed messages without a key ------------------------------------------------------------------------------ */

static struct rows loose(const int64_t *seqs) {
  struct rows rows = rows_of(T, NULL, seqs);
  for (size_t i = 0; i < rows.count; i++)
    rows = failed(rows, rows.rows[i].seq, RETRY);
  return rows;
}

static void decide_loose(void) {
  step((struct txb_relay_event){.kind = TXB_RELAY_DECIDED, .u.decisions = {NULL, 0, true}});
}

Test(relay_drain, sends_what_has_no_key_once_for_a_decision) {
  begin_held();
  sent_count = 0;
  decide_loose();
  for (int i = 0; i < 3 && poll_sent.drain != TXB_DRAIN_LOOSE; i++)
    polled(NONE, NONE), tick_after(MS);
  cr_assert_eq(poll_sent.drain, TXB_DRAIN_LOOSE);
  polled_all(NONE, loose((const int64_t[]){5, 9, 0}), NONE);
  EXPECT_SENT(0, 5);
  report(0, TXB_REPORT_ACKED);
  EXPECT_SENT(0, 5, 9);
  decide_loose();
  for (int i = 0; i < 10; i++) {
    polled(NONE, NONE);
    tick_after(MS);
    cr_assert_neq(poll_sent.drain, TXB_DRAIN_LOOSE, "it would find 9 again");
  }
  report(1, TXB_REPORT_ACKED);
  for (int i = 0; i < 300 && !core.checkpoint_out; i++) {
    polled(NONE, NONE);
    tick_after(MS);
    cr_assert_neq(poll_sent.drain, TXB_DRAIN_LOOSE, "its record still says that it is to be sent");
  }
  polled(NONE, NONE);
  tick_after(MS);
  cr_assert_neq(poll_sent.drain, TXB_DRAIN_LOOSE, "nor is it committed that it does not");
  cr_assert_eq(stored.settled_count, 2);
  step((struct txb_relay_event){.kind = TXB_RELAY_CHECKPOINTED});
  polled(NONE, NONE);
  tick_after(MS);
  cr_assert_eq(poll_sent.drain, TXB_DRAIN_LOOSE);
}

Test(relay_drain, looks_again_for_what_has_no_key_when_a_topic_is_there_again) {
  const struct txb_relay_topic_hold hold = {.topic = T, .lo = 13};
  acquire((struct txb_relay_position){.highest = 12, .topics = &hold, .topic_count = 1});
  drawn = 12;
  cr_assert_eq(poll_sent.drain, TXB_DRAIN_LOOSE);
  polled_all(NONE, loose((const int64_t[]){5, 0}), NONE);
  EXPECT_SENT(0, 0);
  step((struct txb_relay_event){.kind = TXB_RELAY_PROBED, .u.probe = {T, true}});
  for (int i = 0; i < 300 && !(poll_sent.drain == TXB_DRAIN_LOOSE && core.poll_out); i++) {
    polled(NONE, NONE);
    tick_after(MS);
    if (core.checkpoint_out)
      step((struct txb_relay_event){.kind = TXB_RELAY_CHECKPOINTED});
  }
  polled_all(NONE, loose((const int64_t[]){5, 0}), NONE);
  EXPECT_SENT(0, 5);
}

/* ---- the set of held keys --------------------------------------------------------------------------------------- */

Test(relay_drain, finds_every_key_that_is_left_when_others_are_taken_out) {
  struct txb_key_holds holds = {0};
  struct txb_key_hold *hold;
  struct txb_error err;
  char key[16];
  for (int i = 0; i < 500; i++) {
    snprintf(key, sizeof key, "key%d", i);
    cr_assert_eq(txb_key_holds_add(&holds, T, txb_slice_text(key), &hold, &err), TXB_OK);
    hold->lo = i + 1;
  }
  for (int i = 0; i < 500; i += 2) {
    snprintf(key, sizeof key, "key%d", i);
    hold = txb_key_holds_find(&holds, T, txb_slice_text(key));
    txb_key_holds_remove(&holds, hold);
    txb_key_hold_free(hold);
  }
  for (int i = 0; i < 500; i++) {
    snprintf(key, sizeof key, "key%d", i);
    hold = txb_key_holds_find(&holds, T, txb_slice_text(key));
    cr_assert_eq(hold != NULL, i % 2 == 1);
    cr_assert(hold == NULL || hold->lo == i + 1);
    cr_assert_null(txb_key_holds_find(&holds, U, txb_slice_text(key)));
  }
  cr_assert_eq(holds.count, 250);
  txb_key_holds_fini(&holds);
}
