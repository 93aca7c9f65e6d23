/* The set of held keys. */
#include "consumer/held_keys.h"

#include <criterion/criterion.h>
#include <stdio.h>

#include "common/memory.h"
#include "common/random.h"

static struct txb_held_keys keys;

static void end(void) {
  txb_held_keys_fini(&keys);
}

TestSuite(held_keys, .fini = end);

static void add(const char *key, int64_t rows) {
  struct txb_error err;
  cr_assert_eq(txb_held_keys_add(&keys, txb_slice_text(key), rows, &err), TXB_OK);
}

static int64_t rows_of(const char *key) {
  return txb_held_keys_find(&keys, txb_slice_text(key));
}

Test(held_keys, counts_the_rows_of_each_key) {
  cr_assert_eq(rows_of("a"), 0);
  add("a", 1);
  add("b", 3);
  add("a", 1);
  cr_assert_eq(rows_of("a"), 2);
  cr_assert_eq(rows_of("b"), 3);
  cr_assert_eq(rows_of("c"), 0);
  cr_assert_eq(keys.count, 2);
  cr_assert_eq(keys.rows, 5);
}

Test(held_keys, forgets_a_key_with_its_last_row) {
  add("a", 2);
  txb_held_keys_remove(&keys, txb_slice_text("a"), 1);
  cr_assert_eq(rows_of("a"), 1);
  txb_held_keys_remove(&keys, txb_slice_text("a"), 5);
  txb_held_keys_remove(&keys, txb_slice_text("unheard of"), 1);
  cr_assert_eq(rows_of("a"), 0);
  cr_assert_eq(keys.count, 0);
  cr_assert_eq(keys.rows, 0);
}

Test(held_keys, a_message_without_a_key_is_never_held_and_an_empty_key_is_one) {
  add("", 1);
  cr_assert_eq(rows_of(""), 1);
  cr_assert_eq(txb_held_keys_find(&keys, txb_slice_of(NULL, 0)), 0);
}

Test(held_keys, keys_are_bytes) {
  struct txb_error err;
  cr_assert_eq(txb_held_keys_add(&keys, txb_slice_of("a\0b", 3), 1, &err), TXB_OK);
  cr_assert_eq(txb_held_keys_find(&keys, txb_slice_of("a\0b", 3)), 1);
  cr_assert_eq(txb_held_keys_find(&keys, txb_slice_of("a\0c", 3)), 0);
  cr_assert_eq(rows_of("a"), 0);
}

Test(held_keys, starts_anew_when_cleared) {
  add("a", 2);
  txb_held_keys_clear(&keys);
  cr_assert_eq(rows_of("a"), 0);
  cr_assert_eq(keys.rows, 0);
  add("a", 1);
  cr_assert_eq(rows_of("a"), 1);
}

/* Removing closes the gaps: else what stands behind one is not found any more. */
Test(held_keys, says_the_same_as_a_plain_table_whatever_comes_and_goes) {
  enum { KEYS = 300, STEPS = 20000 };
  int64_t table[KEYS] = {0}, rows = 0;
  uint64_t rng = 1;
  char key[16];
  for (int i = 0; i < STEPS; i++) {
    int k = (int)(txb_splitmix64(&rng) % KEYS);
    int64_t n = 1 + (int64_t)(txb_splitmix64(&rng) % 3);
    snprintf(key, sizeof key, "key %d", k);
    if (txb_splitmix64(&rng) % 2 == 0) {
      add(key, n);
      table[k] += n;
      rows += n;
    } else {
      txb_held_keys_remove(&keys, txb_slice_text(key), n);
      int64_t fewer = n < table[k] ? n : table[k];
      table[k] -= fewer;
      rows -= fewer;
    }
    cr_assert_eq(keys.rows, rows);
    int other = (int)(txb_splitmix64(&rng) % KEYS);
    snprintf(key, sizeof key, "key %d", other);
    cr_assert_eq(rows_of(key), table[other]);
  }
  for (int k = 0; k < KEYS; k++) {
    snprintf(key, sizeof key, "key %d", k);
    cr_assert_eq(rows_of(key), table[k]);
  }
}

Test(held_keys, keeps_its_state_when_memory_is_short) {
  struct txb_error err;
  char key[16];
  for (int i = 0; i < 100; i++) {
    snprintf(key, sizeof key, "key %d", i);
    for (uint64_t nth = 1; nth <= 2; nth++) {
      size_t count = keys.count;
      txb_alloc_fail_at(nth);
      enum txb_rc rc = txb_held_keys_add(&keys, txb_slice_text(key), 1, &err);
      txb_alloc_fail_at(0);
      if (rc == TXB_OK) {
        txb_held_keys_remove(&keys, txb_slice_text(key), 1);
        continue;
      }
      cr_assert_eq(rc, TXB_FATAL);
      cr_assert_eq(keys.count, count);
      cr_assert_eq(rows_of(key), 0);
    }
    add(key, 1);
  }
  for (int i = 0; i < 100; i++) {
    snprintf(key, sizeof key, "key %d", i);
    cr_assert_eq(rows_of(key), 1);
  }
}
