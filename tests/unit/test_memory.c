/* The allocator and the arena, with each allocation failing in turn. */
#include <criterion/criterion.h>
#include <string.h>

#include "common/memory.h"

Test(memory, is_zeroed_and_never_of_size_zero) {
  void *p = NULL;
  cr_assert(txb_alloc(0, &p, NULL) == TXB_OK && p != NULL);
  txb_free(p);
  cr_assert(txb_alloc_array(100, 8, &p, NULL) == TXB_OK);
  for (size_t i = 0; i < 800; i++)
    cr_assert(((char *)p)[i] == 0);
  txb_free(p);
}

Test(memory, refuses_a_product_that_wraps_and_leaves_the_output_alone) {
  struct txb_error err;
  void *p = &err;
  cr_assert(txb_alloc_array(SIZE_MAX / 2, 3, &p, &err) == TXB_FATAL);
  cr_assert(p == &err && err.rc == TXB_FATAL);
  cr_assert(txb_realloc_array(&p, SIZE_MAX / 2, 3, &err) == TXB_FATAL && p == &err);
}

Test(memory, fails_the_nth_allocation_once) {
  void *p = NULL;
  txb_alloc_fail_at(2);
  cr_assert(txb_alloc(1, &p, NULL) == TXB_OK);
  txb_free(p);
  p = NULL;
  cr_assert(txb_alloc(1, &p, NULL) == TXB_FATAL && p == NULL);
  cr_assert(txb_alloc(1, &p, NULL) == TXB_OK);
  txb_free(p);
  txb_alloc_fail_at(1);
  txb_alloc_fail_at(0);
  char *text = NULL;
  cr_assert(txb_strdup("abc", &text, NULL) == TXB_OK);
  cr_assert_str_eq(text, "abc");
  txb_free(text);
}

Test(memory, keeps_the_contents_when_growing_fails) {
  void *p = NULL;
  cr_assert(txb_alloc(4, &p, NULL) == TXB_OK);
  memcpy(p, "abcd", 4);
  txb_alloc_fail_at(1);
  void *before = p;
  cr_assert(txb_realloc_array(&p, 100, 1, NULL) == TXB_FATAL && p == before);
  cr_assert(memcmp(p, "abcd", 4) == 0);
  txb_free(p);
}

Test(memory, cleans_up_at_the_end_of_a_scope_unless_handed_over) {
  char *handed = NULL;
  {
    TXB_CLEANUP(txb_free_ptr) char *kept = NULL;
    TXB_CLEANUP(txb_free_ptr) char *given = NULL;
    cr_assert(txb_strdup("kept", &kept, NULL) == TXB_OK && txb_strdup("given", &given, NULL) == TXB_OK);
    handed = txb_steal(given);
    cr_assert(given == NULL);
  }
  cr_assert_str_eq(handed, "given");
  txb_free(handed);
}

Test(arena, hands_out_aligned_pieces_that_do_not_overlap) {
  struct txb_arena arena;
  txb_arena_init(&arena, 256);
  char *pieces[100];
  for (size_t i = 0; i < 100; i++) {
    void *p;
    cr_assert(txb_arena_alloc(&arena, i * 3, &p, NULL) == TXB_OK);
    cr_assert((uintptr_t)p % 16 == 0);
    memset(p, (int)i, i * 3);
    pieces[i] = p;
  }
  for (size_t i = 0; i < 100; i++)
    for (size_t k = 0; k < i * 3; k++)
      cr_assert((unsigned char)pieces[i][k] == i);
  txb_arena_fini(&arena);
}

/* Failing the allocation would show any: after the first rounds there is none. */
Test(arena, allocates_nothing_in_a_steady_state) {
  struct txb_arena arena;
  txb_arena_init(&arena, 128);
  for (int round = 0; round < 10; round++) {
    if (round == 3)
      txb_alloc_fail_at(1);
    for (int i = 0; i < 50; i++) {
      void *p;
      cr_assert(txb_arena_alloc(&arena, 100, &p, NULL) == TXB_OK, "round %d", round);
    }
    cr_assert(arena.used == (size_t)50 * 112);
    txb_arena_reset(&arena);
    cr_assert(arena.used == 0);
  }
  txb_alloc_fail_at(0);
  txb_arena_fini(&arena);
}

Test(arena, fails_cleanly_at_every_block) {
  for (uint64_t nth = 1; nth <= 4; nth++) {
    struct txb_arena arena;
    struct txb_error err = {.rc = TXB_OK};
    txb_arena_init(&arena, 64);
    txb_alloc_fail_at(nth);
    enum txb_rc rc = TXB_OK;
    uint64_t good = 0;
    for (int i = 0; i < 4 && rc == TXB_OK; i++) {
      void *p = NULL;
      rc = txb_arena_alloc(&arena, 64, &p, &err);
      good += rc == TXB_OK;
      cr_assert((rc == TXB_OK) == (p != NULL));
    }
    cr_assert(rc == TXB_FATAL && good == nth - 1);
    void *p;
    cr_assert(txb_arena_alloc(&arena, 64, &p, NULL) == TXB_OK, "it goes on afterwards");
    txb_alloc_fail_at(0);
    txb_arena_fini(&arena);
  }
}

Test(arena, refuses_a_size_that_wraps) {
  struct txb_arena arena;
  txb_arena_init(&arena, 64);
  void *p = NULL;
  cr_assert(txb_arena_alloc(&arena, SIZE_MAX, &p, NULL) == TXB_FATAL && p == NULL);
  cr_assert(txb_arena_alloc(&arena, SIZE_MAX - 31, &p, NULL) == TXB_FATAL && p == NULL);
  txb_arena_reset(&arena);
  txb_arena_fini(&arena);
}
