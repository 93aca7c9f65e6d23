/* Sets of numbers as ranges, compared with a plain array of bits, and the pages they are stored in. */
#include <criterion/criterion.h>
#include <string.h>

#include "common/memory.h"
#include "common/random.h"
#include "outbox/holes.h"

enum { NUMBERS = 300 };

static void compare(const struct txb_holes *holes, const bool *model) {
  int64_t numbers = 0;
  for (int64_t n = 1; n < NUMBERS; n++) {
    cr_assert_eq(txb_holes_has(holes, n), model[n], "number %d", (int)n);
    numbers += model[n];
  }
  cr_assert_eq(holes->numbers, numbers);
  for (size_t i = 0; i < holes->count; i++) {
    cr_assert_leq(txb_holes_at(holes, i)->lo, txb_holes_at(holes, i)->hi);
    if (i > 0)
      cr_assert_gt(txb_holes_at(holes, i)->lo, txb_holes_at(holes, i - 1)->hi + 1, "ranges never touch");
  }
}

Test(holes, behave_as_a_set_of_numbers) {
  for (uint64_t seed = 1; seed <= 200; seed++) {
    struct txb_holes holes = {0};
    struct txb_pages moved = {0};
    bool model[NUMBERS] = {false};
    uint64_t rng = seed;
    for (int step = 0; step < 150; step++) {
      int64_t lo = 1 + (int64_t)(txb_splitmix64(&rng) % (NUMBERS - 30));
      uint64_t what = txb_splitmix64(&rng) % 10;
      if (what < 4) {
        int64_t hi = lo + (int64_t)(txb_splitmix64(&rng) % 30);
        cr_assert_eq(txb_holes_add(&holes, lo, hi, &moved, NULL), TXB_OK);
        memset(model + lo, 1, (size_t)(hi - lo + 1));
      } else if (what < 9) {
        struct txb_range was;
        cr_assert_eq(txb_holes_remove(&holes, lo, &was, NULL), TXB_OK);
        cr_assert_eq(was.lo <= was.hi, model[lo]);
        model[lo] = false;
      } else if (holes.count > 0) {
        memset(model, 0, (size_t)txb_holes_at(&holes, 0)->hi + 1);
        txb_holes_drop_first(&holes, 1);
      }
      compare(&holes, model);
    }
    txb_holes_fini(&holes);
    txb_pages_fini(&moved);
  }
}

Test(holes, of_any_length_cost_one_range) {
  struct txb_holes holes = {0};
  struct txb_pages moved = {0};
  struct txb_range was;
  cr_assert_eq(txb_holes_add(&holes, 10, INT64_C(4000000000000), &moved, NULL), TXB_OK);
  cr_assert_eq(holes.count, 1);
  cr_assert_eq(txb_holes_remove(&holes, 3000000, &was, NULL), TXB_OK);
  cr_assert_eq(holes.count, 2);
  cr_assert_eq(was.lo, 10);
  txb_holes_fini(&holes);
  txb_pages_fini(&moved);
}

/* Ranges that become one lie in the page of the first: the other's page must be written too. */
Test(holes, that_touch_over_a_page_name_both_pages) {
  struct txb_holes holes = {0};
  struct txb_pages moved = {0};
  const int64_t border = INT64_C(1) << TXB_HOLE_PAGE_BITS;
  cr_assert_eq(txb_holes_add(&holes, border, border + 5, &moved, NULL), TXB_OK);
  cr_assert_eq(moved.count, 0);
  cr_assert_eq(txb_holes_add(&holes, border - 3, border - 1, &moved, NULL), TXB_OK);
  cr_assert_eq(holes.count, 1);
  cr_assert_eq(moved.count, 2);
  cr_assert_eq(moved.items[0], 0);
  cr_assert_eq(moved.items[1], 1);
  txb_holes_fini(&holes);
  txb_pages_fini(&moved);
}

Test(holes, stay_as_they_were_when_memory_is_short) {
  struct txb_holes holes = {0};
  struct txb_pages moved = {0};
  for (int64_t n = 1; n <= 31; n += 2)
    cr_assert_eq(txb_holes_add(&holes, n, n, &moved, NULL), TXB_OK);
  cr_assert_eq(holes.count, holes.capacity);
  txb_alloc_fail_at(1);
  cr_assert_eq(txb_holes_add(&holes, 100, 100, &moved, NULL), TXB_FATAL);
  cr_assert_eq(holes.count, 16);
  cr_assert(!txb_holes_has(&holes, 100));
  txb_holes_fini(&holes);
  txb_pages_fini(&moved);
}
