/* Drives the relay core by hand, for the tests of it: one step after the other, with what it sent, asked and stored
 * kept for looking at. Static, so that each test program has its own. */
#ifndef TXB_TESTS_UNIT_RELAY_KIT_H
#define TXB_TESTS_UNIT_RELAY_KIT_H

#include <criterion/criterion.h>
#include <string.h>

#include "common/memory.h"
#include "outbox/relay_core.h"

#define MS     1000
#define UNUSED __attribute__((unused))
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
static struct txb_relay_key_hold stored_keys[8];
static int64_t settled[8];

UNUSED static void step(struct txb_relay_event event) {
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
    for (size_t i = 0; i < stored.key_count; i++)
      stored_keys[i] = stored.keys[i];
    for (size_t i = 0; i < stored.settled_count; i++)
      settled[i] = stored.settled[i];
  }
}

UNUSED static void tick_after(int64_t us) {
  now_us += us;
  step((struct txb_relay_event){.kind = TXB_RELAY_TICK});
}

UNUSED static void acquire(struct txb_relay_position position) {
  position.epoch = 3;
  step((struct txb_relay_event){.kind = TXB_RELAY_ACQUIRED, .u.position = position});
}

/* By the key's letter. */
static uint32_t partition_of(struct txb_slice key, uint32_t partitions) {
  return (uint32_t)(*(const char *)key.data - 'a') % partitions;
}

UNUSED static void begin_with(struct txb_generation_policy policy) {
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
  o.proof_us = 1000 * MS;
  o.partition_of = partition_of;
  o.policy = policy;
  cr_assert_eq(txb_relay_core_init(&core, &o, NULL), TXB_OK);
  now_us = 1000 * MS;
  drawn = 0;
  xmax = 1000;
  xip_count = sent_count = 0;
}

UNUSED static void begin(void) {
  begin_with((struct txb_generation_policy){.ask_freely = 256, .quiet_min = 0, .look_ranges = 8, .generations_max = 8});
}

UNUSED static void end(void) {
  txb_relay_core_fini(&core);
}

/* Rows of a read: numbers ended by 0; topic T, key "k". */
struct rows {
  struct txb_relay_row rows[16];
  size_t count;
};

UNUSED static struct rows rows_of(uint32_t topic, const char *key, const int64_t *seqs) {
  struct rows r = {.count = 0};
  for (; *seqs != 0; seqs++)
    r.rows[r.count++] = (struct txb_relay_row){.seq = *seqs, .topic = topic, .key = txb_slice_text(key), .bytes = 10};
  return r;
}
#define ROWS(...) rows_of(T, "k", (const int64_t[]){__VA_ARGS__, 0})
#define NONE      ((struct rows){.count = 0})

UNUSED static struct txb_relay_event answer(const struct rows *holes, const struct rows *drain,
                                            const struct rows *tail) {
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
  a->tail =
      (struct txb_relay_read){.rows = tail->rows, .count = tail->count, .cut = tail->count >= poll_sent.tail_rows};
  return e;
}

/* The poll under way answers; one is sent first if none is. */
UNUSED static void polled_all(struct rows holes, struct rows drain, struct rows tail) {
  if (!core.poll_out)
    tick_after(MS);
  cr_assert(core.poll_out, "a poll is under way");
  struct txb_relay_event e = answer(&holes, &drain, &tail);
  step(e);
}

UNUSED static void polled(struct rows holes, struct rows tail) {
  polled_all(holes, NONE, tail);
}

UNUSED static void report(size_t i, enum txb_report_outcome outcome) {
  struct txb_report r = {.ticket = tickets[i], .outcome = outcome, .code = 10};
  step((struct txb_relay_event){.kind = TXB_RELAY_REPORTED, .u.reports = {&r, 1}});
}

/* Acknowledged, and told where it lies. */
UNUSED static void acked_in(size_t i, int32_t partition, int32_t partitions) {
  struct txb_report r = {
      .ticket = tickets[i], .outcome = TXB_REPORT_ACKED, .partition = partition, .partitions = partitions};
  step((struct txb_relay_event){.kind = TXB_RELAY_REPORTED, .u.reports = {&r, 1}});
}

UNUSED static void ack_all(void) {
  for (size_t i = 0; i < sent_count; i++)
    report(i, TXB_REPORT_ACKED);
}

UNUSED static void replaced(void) {
  step((struct txb_relay_event){.kind = TXB_RELAY_REPLACED});
}

UNUSED static void list(void) {
  for (int i = 0; i < 1000 && !core.list_out; i++)
    tick_after(MS);
  cr_assert(core.list_out, "a listing is under way");
}

UNUSED static void listed(size_t count, const struct txb_holder *holders) {
  struct txb_holder copy[8];
  for (size_t i = 0; i < count; i++)
    copy[i] = holders[i];
  if (!core.list_out)
    list();
  step((struct txb_relay_event){.kind = TXB_RELAY_LISTED, .u.listing = {copy, count}});
}

UNUSED static void looked(bool found) {
  cr_assert(core.look_out, "a last look is under way");
  step((struct txb_relay_event){.kind = TXB_RELAY_LOOKED, .u.look_found = found});
}

UNUSED static void checkpoint(void) {
  for (int i = 0; i < 1000 && !core.checkpoint_out; i++)
    tick_after(MS);
  cr_assert(core.checkpoint_out, "a checkpoint is under way");
  step((struct txb_relay_event){.kind = TXB_RELAY_CHECKPOINTED});
}

UNUSED static bool asks_for(int64_t seq) {
  for (size_t i = 0; i < poll_sent.hole_count; i++)
    if (asked[i].lo <= seq && seq <= asked[i].hi)
      return true;
  return false;
}

UNUSED static bool stores_hole(int64_t seq) {
  for (size_t i = 0; i < stored.range_count; i++)
    if (stored_ranges[i].lo <= seq && seq <= stored_ranges[i].hi)
      return true;
  return false;
}

UNUSED static void expect_sent(size_t from, const int64_t *seqs) {
  for (; *seqs != 0; seqs++, from++) {
    cr_assert_lt(from, sent_count, "%d is sent", (int)*seqs);
    cr_assert_eq(sent[from], *seqs, "%d is sent, not %d", (int)*seqs, (int)sent[from]);
  }
  cr_assert_eq(from, sent_count, "nothing else is sent");
}
#define EXPECT_SENT(from, ...) expect_sent((from), (const int64_t[]){__VA_ARGS__, 0})

UNUSED static const struct txb_holder open_tx = {.backend = 3, .local = 7, .xid = 900, .pid = 4711};
UNUSED static const struct txb_holder no_xid_yet = {.backend = 3, .local = 7, .xid = 0, .pid = 4711};
UNUSED static const struct txb_holder other_tx = {.backend = 4, .local = 1, .xid = 901, .pid = 4712};

/* The topic is known to take messages: its first message has been acknowledged. */
UNUSED static void prove_topic(void) {
  acquire((struct txb_relay_position){.highest = 0});
  polled(NONE, ROWS(1));
  ack_all();
  sent_count = 0;
}

#endif
