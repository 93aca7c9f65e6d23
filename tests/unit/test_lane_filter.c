/* What a lane that reads Kafka lets through: arrays as PostgreSQL gives them. */
#include <criterion/criterion.h>

#include "common/buffer.h"
#include "common/memory.h"
#include "consumer/lane_filter.h"

/* '{...}'::text[] of so many values; NULL: a null. */
static void array_of(const char *const *values, size_t count, struct txb_buffer *out) {
  txb_buffer_init(out);
  const uint32_t head[] = {count > 0, 1, 25, (uint32_t)count, 1};
  for (size_t i = 0; i < (count > 0 ? TXB_ARRAY_SIZE(head) : 3); i++)
    txb_buffer_add_u32(out, head[i]);
  for (size_t i = 0; i < count; i++) {
    txb_buffer_add_u32(out, values[i] != NULL ? (uint32_t)strlen(values[i]) : UINT32_MAX);
    if (values[i] != NULL)
      txb_buffer_add_text(out, values[i]);
  }
}

static struct txb_lane_filter filter_of(const char *const *values, size_t count) {
  struct txb_lane_filter f;
  struct txb_buffer b;
  array_of(values, count, &b);
  cr_assert(txb_lane_filter_init(&f, txb_slice_of(b.data, b.size), NULL) == TXB_OK);
  txb_buffer_fini(&b); /* it has a copy */
  return f;
}

static bool passes(const struct txb_lane_filter *f, const char *value) {
  return txb_lane_filter_passes(f, txb_slice_text(value));
}

Test(lane_filter, without_an_array_everything_passes) {
  struct txb_lane_filter f;
  cr_assert(txb_lane_filter_init(&f, txb_slice_of(NULL, 0), NULL) == TXB_OK);
  cr_assert(passes(&f, "a") && passes(&f, "") && passes(&f, NULL));
  txb_lane_filter_fini(&f);
}

Test(lane_filter, what_is_in_the_array_passes_and_nothing_else) {
  static const char *const values[] = {"m", "", "b", "mm", NULL, "z", "b", "\xff"};
  struct txb_lane_filter f = filter_of(values, TXB_ARRAY_SIZE(values));
  for (size_t i = 0; i < TXB_ARRAY_SIZE(values); i++)
    cr_assert(values[i] == NULL || passes(&f, values[i]), "%zu", i);
  cr_assert(!passes(&f, "a") && !passes(&f, "mmm") && !passes(&f, "bm") && !passes(&f, "\xfe"));
  cr_assert(!passes(&f, NULL)); /* no value is none of them, and not NULL either */
  txb_lane_filter_fini(&f);
}

Test(lane_filter, an_empty_array_lets_nothing_through) {
  struct txb_lane_filter f = filter_of(NULL, 0);
  cr_assert(!passes(&f, "a") && !passes(&f, "") && !passes(&f, NULL));
  txb_lane_filter_fini(&f);
}

Test(lane_filter, values_of_any_bytes_are_compared_whole) {
  struct txb_lane_filter f;
  struct txb_buffer b;
  static const uint32_t head[] = {1, 0, 17, 1, 1, 3};
  txb_buffer_init(&b);
  for (size_t i = 0; i < TXB_ARRAY_SIZE(head); i++)
    txb_buffer_add_u32(&b, head[i]);
  txb_buffer_add(&b, "a\0b", 3);
  cr_assert(txb_lane_filter_init(&f, txb_slice_of(b.data, b.size), NULL) == TXB_OK);
  cr_assert(txb_lane_filter_passes(&f, txb_slice_of("a\0b", 3)));
  cr_assert(!txb_lane_filter_passes(&f, txb_slice_of("a\0c", 3)) && !passes(&f, "a"));
  txb_lane_filter_fini(&f);
  txb_buffer_fini(&b);
}

Test(lane_filter, a_lack_of_memory_is_told_and_leaves_nothing) {
  static const char *const values[] = {"a", "b"};
  struct txb_buffer b;
  array_of(values, 2, &b);
  for (uint64_t nth = 1; nth <= 2; nth++) {
    struct txb_lane_filter f;
    struct txb_error err;
    txb_alloc_fail_at(nth);
    cr_assert(txb_lane_filter_init(&f, txb_slice_of(b.data, b.size), &err) == TXB_FATAL);
    txb_lane_filter_fini(&f);
  }
  txb_alloc_fail_at(0);
  txb_buffer_fini(&b);
}
