/* The relay core, rule by rule (PROTOCOLS R1 to R7): what it asks for, in which order it sends, what a checkpoint says, and what it never does. Directed
 * interleavings; tests/sim has the random ones. */
#include <criterion/criterion.h>
#include <string.h>

#include "common/memory.h"
#include "outbox/relay_core.h"

#define MS 1000
enum { T = 0, U = 1 }; /* topics */

static struct txb_relay_core core;
static struct txb_relay_actions actions; /* of the last step */
static int64_t now_us, drawn;
static uint64_t xmax;
static uint64_t xip[8];
static size_t xip_count;
static struct txb_relay_poll poll_sent; /* the last one, its ranges copied */
static struct txb_range asked[64];
static int64_t sent[64]; /* numbers given to the producer, in order */
static uint64_t tickets[64];
static size_t sent_count;
static struct txb_relay_checkpoint stored; /* the last one sent, its arrays copied */
static struct txb_hole_page stored_pages[16];
static struct txb_range stored_ranges[64];
static struct txb_relay_topic_hold stored_holds[8];

static void step(struct txb_relay_event event) {
  struct txb_error err;
  event.now_us = now_us;
  cr_assert_eq(txb_relay_core_step(&core, &event, &actions, &err), TXB_OK, "%s", err.message);
  for (uint64_t t; txb_relay_core_next_send(&core, &t);) {
    sent[sent_count] = txb_relay_core_slot(&core, t)->seq;
    tickets[sent_count++] = t;
  }
  if (actions.poll) {
    poll_sent = actions.read;
    for (size_t i = 0; i < poll_sent.hole_count; i++)
      asked[i] = actions.read.holes[i];
  }
  if (actions.checkpoint) {
    stored = *actions.position;
    for (size_t i = 0; i < stored.page_count; i++)
      stored_pages[i] = stored.pages[i];
    for (size_t i = 0; i < stored.range_count; i++)
      stored_ranges[i] = stored.ranges[i];
    for (size_t i = 0; i < stored.hold_count; i++)
      stored_holds[i] = stored.holds[i];
  }
}

static void tick_after(int64_t us) {
  now_us += us;
  step((struct txb_relay_event){.kind = TXB_RELAY_TICK});
}

static void acquire(struct txb_relay_position position) {
  position.epoch = 3;
  step((struct txb_relay_event){.kind = TXB_RELAY_ACQUIRED, .u.position = position});
}

static void begin_with(struct txb_generation_policy policy) {
  struct txb_relay_core_options o;
  txb_relay_core_fini(&core); /* a test's own init comes behind that of the suite */
  txb_relay_core_options_init(&o);
  o.read_rows = 8;
  o.inflight_rows = 32;
  o.span = 1000;
  o.gap_max = 50;
  o.checkpoint_us = 100 * MS;
  o.poll_busy_us = o.poll_idle_us = MS;
  o.lease_us = 9000 * MS;
  o.policy = policy;
  cr_assert_eq(txb_relay_core_init(&core, &o, NULL), TXB_OK);
  now_us = 1000 * MS;
  drawn = 0;
  xmax = 1000;
  xip_count = sent_count = 0;
}

static void begin(void) {
  begin_with((struct txb_generation_policy){.ask_freely = 256, .quiet_min = 0, .look_ranges = 8, .generations_max = 8});
}

static void end(void) {
  txb_relay_core_fini(&core);
}

TestSuite(relay_core, .init = begin, .fini = end);

/* Rows of a read: numbers ended by 0; topic T, key "k". */
struct rows {
  struct txb_relay_row rows[16];
  size_t count;
};

static struct rows rows_of(uint32_t topic, const char *key, const int64_t *seqs) {
  struct rows r = {.count = 0};
  for (; *seqs != 0; seqs++)
    r.rows[r.count++] = (struct txb_relay_row){.seq = *seqs, .topic = topic, .key = txb_slice_text(key), .bytes = 10};
  return r;
}
#define ROWS(...) rows_of(T, "k", (const int64_t[]){__VA_ARGS__, 0})
#define NONE      ((struct rows){.count = 0})

static struct txb_relay_event answer(const struct rows *holes, const struct rows *drain, const struct rows *tail) {
  struct txb_relay_event e = {.kind = TXB_RELAY_POLLED};
  struct txb_relay_answer *a = &e.u.answer;
  a->poll = poll_sent.number;
  a->epoch = core.epoch;
  a->checkpoint = (int64_t)core.poll_checkpoint;
  a->instance = core.instance;
  int64_t last = tail->count > 0 ? tail->rows[tail->count - 1].seq : 0;
  drawn = last > drawn ? last : drawn;
  a->drawn = drawn;
  a->snapshot = (struct txb_snapshot){xmax, xip, xip_count};
  a->holes = (struct txb_relay_read){.rows = holes->rows, .count = holes->count, .cut = holes->count >= 8};
  a->drain = (struct txb_relay_read){.rows = drain->rows, .count = drain->count, .cut = drain->count >= 8};
  a->tail = (struct txb_relay_read){.rows = tail->rows, .count = tail->count, .cut = tail->count >= 8};
  return e;
}

/* The poll under way answers; one is sent first if none is. */
static void polled_all(struct rows holes, struct rows drain, struct rows tail) {
  if (!core.poll_out)
    tick_after(MS);
  cr_assert(core.poll_out, "a poll is under way");
  struct txb_relay_event e = answer(&holes, &drain, &tail);
  step(e);
}

static void polled(struct rows holes, struct rows tail) {
  polled_all(holes, NONE, tail);
}

static void report(size_t i, enum txb_report_outcome outcome) {
  struct txb_report r = {.ticket = tickets[i], .outcome = outcome, .code = 10};
  step((struct txb_relay_event){.kind = TXB_RELAY_REPORTED, .u.reports = {&r, 1}});
}

static void ack_all(void) {
  for (size_t i = 0; i < sent_count; i++)
    report(i, TXB_REPORT_ACKED);
}

static void replaced(void) {
  step((struct txb_relay_event){.kind = TXB_RELAY_REPLACED});
}

static void list(void) {
  for (int i = 0; i < 1000 && !core.list_out; i++)
    tick_after(MS);
  cr_assert(core.list_out, "a listing is under way");
}

static void listed(size_t count, const struct txb_holder *holders) {
  struct txb_holder copy[8];
  for (size_t i = 0; i < count; i++)
    copy[i] = holders[i];
  if (!core.list_out)
    list();
  step((struct txb_relay_event){.kind = TXB_RELAY_LISTED, .u.listing = {copy, count}});
}

static void looked(bool found) {
  cr_assert(core.look_out, "a last look is under way");
  step((struct txb_relay_event){.kind = TXB_RELAY_LOOKED, .u.look_found = found});
}

static void checkpoint(void) {
  for (int i = 0; i < 1000 && !core.checkpoint_out; i++)
    tick_after(MS);
  cr_assert(core.checkpoint_out, "a checkpoint is under way");
  step((struct txb_relay_event){.kind = TXB_RELAY_CHECKPOINTED});
}

static bool asks_for(int64_t seq) {
  for (size_t i = 0; i < poll_sent.hole_count; i++)
    if (asked[i].lo <= seq && seq <= asked[i].hi)
      return true;
  return false;
}

static bool stores_hole(int64_t seq) {
  for (size_t i = 0; i < stored.range_count; i++)
    if (stored_ranges[i].lo <= seq && seq <= stored_ranges[i].hi)
      return true;
  return false;
}

static void expect_sent(size_t from, const int64_t *seqs) {
  for (; *seqs != 0; seqs++, from++) {
    cr_assert_lt(from, sent_count, "%d is sent", (int)*seqs);
    cr_assert_eq(sent[from], *seqs, "%d is sent, not %d", (int)*seqs, (int)sent[from]);
  }
  cr_assert_eq(from, sent_count, "nothing else is sent");
}
#define EXPECT_SENT(from, ...) expect_sent((from), (const int64_t[]){__VA_ARGS__, 0})

static const struct txb_holder open_tx = {.backend = 3, .local = 7, .xid = 900, .pid = 4711};
static const struct txb_holder no_xid_yet = {.backend = 3, .local = 7, .xid = 0, .pid = 4711};
static const struct txb_holder other_tx = {.backend = 4, .local = 1, .xid = 901, .pid = 4712};

/* The topic is known to take messages: its first message has been acknowledged. */
static void prove_topic(void) {
  acquire((struct txb_relay_position){.highest = 0});
  polled(NONE, ROWS(1));
  ack_all();
  sent_count = 0;
}

/* ---- R1, R2: holes in polls ------------------------------------------------------------------------------------------------------- */

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

/* ---- R3: when a hole is dead ---------------------------------------------------------------------------------------------------------- */

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

/* ---- R4: what a checkpoint says ----------------------------------------------------------------------------------------------------------- */

Test(relay_core, checkpoints_nothing_that_kafka_has_not_acknowledged) {
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

Test(relay_core, stores_a_hole_row_as_a_hole_until_it_is_acknowledged) {
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

Test(relay_core, cuts_stored_holes_at_the_stored_highest_and_writes_the_rest_later) {
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

Test(relay_core, writes_only_pages_that_changed) {
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

Test(relay_core, stores_a_range_in_the_page_of_its_first_number) {
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

/* ---- R5: refused messages, held keys and topics ------------------------------------------------------------------------------------------- */

Test(relay_core, sends_the_messages_of_a_refused_batch_again_one_at_a_time) {
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

Test(relay_core, records_what_is_refused_alone_and_holds_its_key_from_there_on) {
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

Test(relay_core, lets_late_rows_below_a_held_key_go_out) {
  const struct txb_relay_key_hold hold = {.topic = T, .key = {"k", 1}, .lo = 5};
  const struct txb_range hole = {3, 3};
  acquire((struct txb_relay_position){.highest = 9, .holes = &hole, .hole_count = 1, .keys = &hold, .key_count = 1});
  drawn = 9;
  polled(ROWS(3), ROWS(10));
  EXPECT_SENT(0, 3);
}

Test(relay_core, records_one_refusal_after_the_other) {
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

Test(relay_core, sends_the_first_message_of_a_topic_alone_of_its_topic) {
  acquire((struct txb_relay_position){.highest = 0});
  struct rows tail = ROWS(1, 2), other = rows_of(U, "k", (const int64_t[]){3, 0});
  tail.rows[tail.count++] = other.rows[0];
  polled(NONE, tail);
  EXPECT_SENT(0, 1, 3); /* other topics do not wait for it */
  report(0, TXB_REPORT_ACKED);
  EXPECT_SENT(0, 1, 3, 2);
}

Test(relay_core, sends_what_waited_for_a_topics_first_message_in_its_order) {
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

Test(relay_core, holds_a_missing_topic_by_reference_and_goes_on_with_the_others) {
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

Test(relay_core, lowers_a_hold_to_a_late_row_below_it) {
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

Test(relay_core, drains_a_topic_in_order_and_then_its_tail) {
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

Test(relay_core, leaves_a_late_row_to_the_page_that_will_find_it) {
  begin_drain();
  /* 1 lies below the page: nothing that waits comes before it. 6 lies in it. */
  polled_all(ROWS(1, 6), ROWS(2, 6, 7), NONE);
  EXPECT_SENT(0, 1);
  report(0, TXB_REPORT_ACKED);
  EXPECT_SENT(0, 1, 2, 6, 7);
}

Test(relay_core, keeps_the_tail_of_a_topic_back_until_its_pages_reach_it) {
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
Test(relay_core, takes_a_drain_back_to_a_tail_row_below_the_stored_hold) {
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

Test(relay_core, holds_a_topic_again_from_the_first_row_that_failed) {
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

Test(relay_core, probes_one_held_topic_after_the_other) {
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

Test(relay_core, counts_rows_passed_over_with_the_row_that_keeps_their_memory) {
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

Test(relay_core, sends_what_a_broken_producer_had_again_in_the_same_order) {
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

Test(relay_core, ignores_reports_of_a_producer_that_is_gone) {
  prove_topic();
  polled(NONE, ROWS(2));
  step((struct txb_relay_event){.kind = TXB_RELAY_LOST});
  report(0, TXB_REPORT_ACKED);
  cr_assert_eq(core.published, 0);
}

/* ---- R7: the same server? ------------------------------------------------------------------------------------------------------------------- */

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

/* ---- lease, room, end --------------------------------------------------------------------------------------------------------------------- */

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
