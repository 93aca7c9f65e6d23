/* Drives the worker core by hand, for the tests of it: what it asks for, in which order. Static, so that each test
 * program has its own. */
#ifndef TXB_TESTS_UNIT_WORKER_KIT_H
#define TXB_TESTS_UNIT_WORKER_KIT_H

#include <criterion/criterion.h>
#include <string.h>

#include "common/memory.h"
#include "consumer/worker_core.h"

#define MS     1000
#define UNUSED __attribute__((unused))

static struct txb_worker_core core;
static int64_t now_us;
static int dropped;
static bool keys_by_hand; /* else KEYS is answered by the kit: nothing is held, nothing is due */

UNUSED static void drop(void *context, void *ref) {
  (void)context;
  (void)ref;
  dropped++;
}

UNUSED static struct txb_worker_core_options options(void) {
  return (struct txb_worker_core_options){.batch_messages = 8,
                                          .batch_bytes = 10000,
                                          .batch_wait_us = 5 * MS,
                                          .buffer_bytes = 1 << 20,
                                          .retry_first_ms = 100,
                                          .retry_cap_ms = 1000,
                                          .evict_us = 2000 * MS,
                                          .copy_us = 1000 * MS,
                                          .recheck_us = 10000 * MS,
                                          .drop = drop};
}

UNUSED static void begin(void) {
  struct txb_worker_core_options o = options();
  txb_worker_core_init(&core, &o);
  now_us = 1000000;
  dropped = 0;
  keys_by_hand = false;
}

UNUSED static void end(void) {
  txb_worker_core_fini(&core);
}

UNUSED static struct txb_worker_event event(enum txb_worker_event_kind kind, int slot) {
  return (struct txb_worker_event){.kind = kind,
                                   .slot = slot,
                                   .now_us = now_us,
                                   .random = 7,
                                   .at = -1,
                                   .tag_commit = true,
                                   .due_ms = -1,
                                   .held_count = -1,
                                   .position = {.suspect_offset = -1, .stalled_offset = -1}};
}

UNUSED static void step(enum txb_worker_event_kind kind, int slot) {
  struct txb_worker_event e = event(kind, slot);
  txb_worker_core_step(&core, &e);
}

UNUSED static void step_found(enum txb_worker_event_kind kind, int slot, bool found, int64_t offset) {
  struct txb_worker_event e = event(kind, slot);
  e.found = found;
  e.offset = offset;
  txb_worker_core_step(&core, &e);
}

UNUSED static void step_failed(int slot, enum txb_failure failure, int at) {
  struct txb_worker_event e = event(TXB_WE_FAILED, slot);
  e.failure = failure;
  e.at = at;
  txb_worker_core_step(&core, &e);
}

/* The next action that is not COPY, which may come at any time, nor KEYS. */
UNUSED static struct txb_worker_action next(void) {
  struct txb_worker_action a = {.kind = TXB_WA_NONE};
  bool passed;
  do {
    a.kind = TXB_WA_NONE;
    (void)txb_worker_core_next(&core, now_us, &a);
    bool keys = a.kind == TXB_WA_KEYS && !keys_by_hand;
    if (keys)
      step(TXB_WE_KEYS, a.slot);
    passed = keys || a.kind == TXB_WA_COPY;
  } while (passed);
  return a;
}

UNUSED static struct txb_worker_action expect(enum txb_worker_action_kind kind) {
  struct txb_worker_action a = next();
  cr_assert_eq(a.kind, kind, "wanted action %d, got %d", (int)kind, (int)a.kind);
  return a;
}

static int assign_as(bool lane) {
  int slot = -1;
  struct txb_error err;
  cr_assert_eq(txb_worker_core_assign(&core, lane, now_us, &slot, &err), TXB_OK);
  return slot;
}

UNUSED static int assign(void) {
  return assign_as(false);
}

UNUSED static struct txb_uuid id_of(int64_t offset) {
  struct txb_uuid id = {0};
  memcpy(id.bytes, &offset, sizeof offset);
  return id;
}

UNUSED static void record(int slot, int64_t offset) {
  struct txb_worker_record r = {.offset = offset, .timestamp_ms = offset, .id = id_of(offset), .size = 10};
  struct txb_error err;
  cr_assert_eq(txb_worker_core_record(&core, slot, &r, now_us, &err), TXB_OK);
}

/* Up to the answer of TAKE, whose position the caller brings. */
UNUSED static void own(int slot, struct txb_position position) {
  expect(TXB_WA_LOOKUP);
  step_found(TXB_WE_LOOKED_UP, slot, true, position.next_offset);
  expect(TXB_WA_CONFIRM);
  step_found(TXB_WE_CONFIRMED, slot, true, 0);
  expect(TXB_WA_TAKE);
  struct txb_worker_event e = event(TXB_WE_TAKEN, slot);
  e.position = position;
  txb_worker_core_step(&core, &e);
}

UNUSED static struct txb_position plain(int64_t next_offset) {
  return (struct txb_position){.epoch = 5, .next_offset = next_offset, .suspect_offset = -1, .stalled_offset = -1};
}

/* An owned partition that fetches from `offset`. */
UNUSED static int owned(int64_t offset) {
  if (!core.up)
    step(TXB_WE_UP, 0);
  int slot = assign();
  own(slot, plain(offset));
  cr_assert_eq(expect(TXB_WA_FETCH).offset, offset);
  return slot;
}

UNUSED static void records(int slot, int64_t from, int count) {
  for (int i = 0; i < count; i++)
    record(slot, from + i);
}

/* All of the batch under way. */
UNUSED static void commit(int slot) {
  struct txb_worker_event e = event(TXB_WE_COMMITTED, slot);
  e.settled = core.busy_count;
  txb_worker_core_step(&core, &e);
}

/* The first `settled` of it, of which `failed` were set aside. */
UNUSED static void commit_cut(int slot, int32_t settled, int32_t failed, bool transient) {
  struct txb_worker_event e = event(TXB_WE_COMMITTED, slot);
  e.settled = settled;
  e.failed = failed;
  e.transient = transient;
  txb_worker_core_step(&core, &e);
}

/* Runs at once whatever is buffered and expects `count`. */
UNUSED static struct txb_worker_action run(int32_t count) {
  now_us += 10 * MS;
  struct txb_worker_action a = expect(TXB_WA_RUN);
  cr_assert_eq(a.count, count, "wanted %d messages, got %d", count, a.count);
  return a;
}

/* A batch of eight that the server has no room for. Ends after the stall has been recorded. */
UNUSED static int stalled(void) {
  int slot = owned(0);
  records(slot, 0, 8);
  run(8);
  step_failed(slot, TXB_FAILURE_WAIT, -1);
  struct txb_worker_action a = expect(TXB_WA_STALL);
  cr_assert_eq(a.offset, 0);
  cr_assert_eq(a.attempts, 1);
  step(TXB_WE_STALLED, slot);
  return slot;
}

#endif
