/* A batch in pieces under savepoints: who is blamed, what is behind, what it costs. */
#include "consumer/isolate_core.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "common/random.h"

enum { MAX = 4096 };

enum how { FINE = 0, BAD, PASSES };

static struct txb_isolate iso;
static struct txb_isolate_item items[MAX];
static uint32_t room[MAX];
static uint8_t blocked[MAX + 1];
static enum how how[MAX]; /* each candidate's nature */
static int runs[MAX];     /* how often it was run to its end without a rollback */
static uint32_t pieces, survived;

static struct txb_isolate_options options(void) {
  return (struct txb_isolate_options){.savepoints = TXB_ISOLATE_SAVEPOINTS, .culprit = -1};
}

static void start(uint32_t count, const struct txb_isolate_options *o) {
  txb_isolate_init(&iso, o, items, count, room, blocked);
  pieces = survived = 0;
  memset(runs, 0, sizeof runs);
}

static void nature(uint32_t count) {
  memset(how, 0, sizeof how);
  for (uint32_t i = 0; i < count; i++)
    items[i] = (struct txb_isolate_item){0};
}

/* Runs a piece in order and answers. `names`: the handler tells which one failed. */
static bool piece(bool names) {
  const uint32_t *segment;
  uint32_t count;
  if (!txb_isolate_next(&iso, &segment, &count))
    return false;
  pieces++;
  cr_assert_gt(count, 0);
  for (uint32_t i = 0; i < count; i++) {
    cr_assert(i == 0 || segment[i] > segment[i - 1], "in order");
    if (how[segment[i]] == FINE)
      continue;
    bool passes = how[segment[i]] == PASSES;
    txb_isolate_answer(&iso, passes ? TXB_ISOLATE_TRANSIENT : TXB_ISOLATE_COUNTS, names ? (int32_t)segment[i] : -1);
    return true;
  }
  for (uint32_t i = 0; i < count; i++)
    runs[segment[i]]++;
  survived++;
  txb_isolate_answer(&iso, TXB_ISOLATE_RAN, -1);
  return true;
}

static void run_all(bool names) {
  while (piece(names))
    cr_assert_lt(pieces, 100000);
  cr_assert_leq(survived, iso.options.savepoints);
}

/* What must hold whatever happened. */
static void check(uint32_t count) {
  uint32_t failed = 0;
  cr_assert_leq(iso.settled, count);
  for (uint32_t i = 0; i < count; i++) {
    enum txb_isolate_state state = items[i].state;
    bool behind = false;
    for (uint32_t j = 0; j < i && items[i].key_class != 0; j++)
      behind = behind || (items[j].key_class == items[i].key_class && items[j].state == TXB_ISOLATE_FAILED);
    failed += state == TXB_ISOLATE_FAILED;
    cr_assert_eq(state == TXB_ISOLATE_NOT_REACHED, i >= iso.settled, "candidate %u", i);
    cr_assert_eq(runs[i], state == TXB_ISOLATE_OK ? 1 : 0, "candidate %u took effect %d times", i, runs[i]);
    if (i >= iso.settled)
      continue;
    cr_assert_eq(state == TXB_ISOLATE_BEHIND, behind, "candidate %u", i);
    cr_assert(state != TXB_ISOLATE_OK || how[i] == FINE);
    cr_assert(state != TXB_ISOLATE_FAILED || how[i] == BAD);
  }
  cr_assert_eq(failed, iso.failed);
}

Test(isolate_core, one_bad_message_in_a_thousand_costs_only_itself) {
  uint64_t handled = 0;
  for (uint32_t bad = 0; bad < 1000; bad += 37) {
    struct txb_isolate_options o = options();
    nature(1000);
    how[bad] = BAD;
    start(1000, &o);
    run_all(false);
    check(1000);
    cr_assert_eq(iso.settled, 1000);
    cr_assert_eq(iso.failed, 1);
    cr_assert_eq(items[bad].state, TXB_ISOLATE_FAILED);
    cr_assert_lt(pieces, 45, "%u pieces", pieces);
    cr_assert_lt(iso.handled, 4000, "%lu runs", (unsigned long)iso.handled);
    handled += iso.handled;
  }
  cr_assert_lt(handled / 28, 3000);
}

Test(isolate_core, a_named_message_is_run_alone_at_once) {
  struct txb_isolate_options o = options();
  o.culprit = 700;
  nature(1000);
  how[700] = BAD;
  start(1000, &o);
  run_all(false);
  check(1000);
  cr_assert_eq(iso.settled, 1000);
  cr_assert_leq(pieces, 4, "%u pieces", pieces);
}

/* Three quarters were fine: the last one need not be run to know that it fails. */
Test(isolate_core, what_is_known_to_fail_is_not_run_as_a_whole_again) {
  struct txb_isolate_options o = options();
  nature(16);
  how[15] = BAD;
  start(16, &o);
  run_all(false);
  check(16);
  cr_assert_eq(pieces, 1 + 3 + 3 + 1);
}

Test(isolate_core, a_handler_that_names_the_wrong_one_costs_little_more_than_one_that_names_none) {
  struct txb_isolate_options o = options();
  const uint32_t *segment;
  uint32_t count;
  nature(1000);
  how[0] = BAD;
  start(1000, &o);
  while (txb_isolate_next(&iso, &segment, &count)) {
    bool bad = segment[0] == 0;
    pieces++;
    txb_isolate_answer(&iso, bad ? TXB_ISOLATE_COUNTS : TXB_ISOLATE_RAN, bad ? (int32_t)segment[count - 1] : -1);
  }
  cr_assert_eq(iso.settled, 1000);
  cr_assert_eq(iso.failed, 1);
  cr_assert_lt(pieces, 40, "%u pieces", pieces);
}

Test(isolate_core, several_that_name_themselves_cost_a_few_pieces_each) {
  struct txb_isolate_options o = options();
  nature(1000);
  for (uint32_t i = 50; i < 1000; i += 200)
    how[i] = BAD;
  start(1000, &o);
  run_all(true);
  check(1000);
  cr_assert_eq(iso.failed, 5);
  cr_assert_lt(pieces, 30, "%u pieces", pieces);
}

Test(isolate_core, later_ones_of_a_failed_key_are_behind_it_and_those_before_it_are_not) {
  struct txb_isolate_options o = options();
  nature(8);
  for (uint32_t i = 0; i < 8; i++)
    items[i].key_class = 1 + i % 2;
  how[3] = BAD;
  start(8, &o);
  run_all(false);
  check(8);
  static const enum txb_isolate_state wanted[] = {TXB_ISOLATE_OK,     TXB_ISOLATE_OK,    TXB_ISOLATE_OK,
                                                  TXB_ISOLATE_FAILED, TXB_ISOLATE_OK,    TXB_ISOLATE_BEHIND,
                                                  TXB_ISOLATE_OK,     TXB_ISOLATE_BEHIND};
  for (uint32_t i = 0; i < 8; i++)
    cr_assert_eq(items[i].state, wanted[i]);
}

Test(isolate_core, messages_without_a_key_fail_alone) {
  struct txb_isolate_options o = options();
  nature(6);
  how[1] = how[4] = BAD;
  start(6, &o);
  run_all(false);
  check(6);
  cr_assert_eq(iso.settled, 6);
  cr_assert_eq(iso.failed, 2);
}

Test(isolate_core, a_passing_failure_of_several_is_split_and_of_one_ends_the_run_before_it) {
  struct txb_isolate_options o = options();
  nature(100);
  how[60] = PASSES;
  start(100, &o);
  run_all(false);
  check(100);
  cr_assert(iso.transient);
  cr_assert_eq(iso.settled, 60);
  cr_assert_eq(iso.failed, 0);
}

Test(isolate_core, a_passing_failure_of_the_first_settles_nothing) {
  struct txb_isolate_options o = options();
  nature(10);
  how[0] = PASSES;
  start(10, &o);
  run_all(false);
  check(10);
  cr_assert(iso.transient);
  cr_assert_eq(iso.settled, 0);
}

Test(isolate_core, what_is_behind_others_before_a_passing_failure_is_settled_too) {
  struct txb_isolate_options o = options();
  nature(4);
  items[0].key_class = items[1].key_class = items[3].key_class = 1;
  how[0] = BAD;
  how[2] = PASSES;
  start(4, &o);
  run_all(false);
  check(4);
  cr_assert_eq(iso.settled, 2);
  cr_assert_eq(items[1].state, TXB_ISOLATE_BEHIND);
}

Test(isolate_core, ends_where_its_savepoints_are_used_up) {
  struct txb_isolate_options o = options();
  o.savepoints = 5;
  o.chunk = 1;
  nature(1000);
  for (uint32_t i = 1; i < 1000; i += 2)
    how[i] = BAD;
  start(1000, &o);
  run_all(false);
  check(1000);
  cr_assert_eq(survived, 5);
  cr_assert_gt(iso.settled, 5);
  cr_assert_lt(iso.settled, 1000);
  cr_assert_not(iso.transient);
}

Test(isolate_core, when_all_fail_none_is_run_often) {
  struct txb_isolate_options o = options();
  nature(1000);
  for (uint32_t i = 0; i < 1000; i++)
    how[i] = BAD;
  start(1000, &o);
  run_all(false);
  check(1000);
  cr_assert_eq(iso.failed, 1000);
  cr_assert_lt(iso.handled, 5000, "%lu runs", (unsigned long)iso.handled);
}

Test(isolate_core, the_pieces_become_as_small_as_the_failures_are_close_and_large_again) {
  struct txb_isolate_options o = options();
  nature(1000);
  for (uint32_t i = 0; i < 500; i += 10)
    how[i] = BAD;
  start(1000, &o);
  run_all(false);
  check(1000);
  o.chunk = txb_isolate_chunk(&iso);
  cr_assert_lt(o.chunk, 200);
  nature(1000);
  start(1000, &o);
  run_all(false);
  cr_assert_eq(iso.settled, 1000);
  cr_assert_eq(txb_isolate_chunk(&iso), 1000);
}

Test(isolate_core, nothing_to_run_is_over_at_once) {
  struct txb_isolate_options o = options();
  start(0, &o);
  cr_assert_not(piece(false));
  cr_assert_eq(iso.settled, 0);
}

/* A handler that blames another one each time, and failures that come and go. */
Test(isolate_core, ends_whatever_is_answered) {
  uint64_t rng = 7;
  for (int round = 0; round < 3000; round++) {
    uint32_t count = 1 + (uint32_t)(txb_splitmix64(&rng) % 300);
    struct txb_isolate_options o = options();
    o.chunk = (uint32_t)(txb_splitmix64(&rng) % 40);
    const uint32_t *segment;
    uint32_t size;
    nature(count);
    start(count, &o);
    while (txb_isolate_next(&iso, &segment, &size)) {
      cr_assert_lt(pieces++, 20 * count + 100);
      enum txb_isolate_verdict verdict = (enum txb_isolate_verdict)(txb_splitmix64(&rng) % 3);
      txb_isolate_answer(&iso, verdict, (int32_t)(txb_splitmix64(&rng) % count));
    }
    cr_assert(iso.transient || iso.settled == count || iso.savepoints == o.savepoints);
  }
}

Test(isolate_core, every_mixture_is_settled_rightly) {
  uint64_t rng = 3;
  for (int round = 0; round < 4000; round++) {
    uint32_t count = 1 + (uint32_t)(txb_splitmix64(&rng) % 120), keys = 1 + (uint32_t)(txb_splitmix64(&rng) % count);
    uint64_t bad = txb_splitmix64(&rng) % 40, passes = txb_splitmix64(&rng) % 3;
    struct txb_isolate_options o = options();
    o.chunk = (uint32_t)(txb_splitmix64(&rng) % 50);
    o.savepoints = 1 + (uint32_t)(txb_splitmix64(&rng) % TXB_ISOLATE_SAVEPOINTS);
    o.culprit = (int32_t)(txb_splitmix64(&rng) % (2 * count)) - (int32_t)count;
    o.culprit = o.culprit < 0 ? -1 : o.culprit;
    nature(count);
    for (uint32_t i = 0; i < count; i++) {
      items[i].key_class = (uint32_t)(txb_splitmix64(&rng) % keys);
      how[i] = txb_splitmix64(&rng) % 100 < bad ? BAD : txb_splitmix64(&rng) % 100 < passes ? PASSES : FINE;
    }
    start(count, &o);
    run_all(round % 2 == 0);
    check(count);
    cr_assert(iso.settled == count || iso.transient || survived == o.savepoints);
    cr_assert_lt(iso.handled, 30 * (uint64_t)count + 100);
  }
}

Test(isolate_core, equal_keys_have_equal_classes_and_no_key_has_none) {
  struct txb_slice keys[] = {txb_slice_text("b"),     txb_slice_of(NULL, 0), txb_slice_text("a"),
                             txb_slice_text("b"),     txb_slice_text(""),    txb_slice_of(NULL, 0),
                             txb_slice_of("a\0x", 3), txb_slice_text("a"),   txb_slice_text("")};
  uint32_t order[9], class[9];
  txb_isolate_key_classes(keys, 9, order, class);
  cr_assert_eq(class[1], 0);
  cr_assert_eq(class[5], 0);
  cr_assert_eq(class[0], class[3]);
  cr_assert_eq(class[2], class[7]);
  cr_assert_eq(class[4], class[8]);
  uint32_t different[] = {class[0], class[2], class[4], class[6]};
  for (int i = 0; i < 4; i++) {
    cr_assert(different[i] >= 1 && different[i] <= 9);
    for (int j = 0; j < i; j++)
      cr_assert_neq(different[i], different[j]);
  }
}
