/* The one allocator: can be told to fail the Nth call (tests), and an arena that a batch resets after its
 * commit. */
#ifndef TXB_COMMON_MEMORY_H
#define TXB_COMMON_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* Gives zeroed memory of `size` bytes (0 counts as 1) in *out; TXB_FATAL when there is none. Free with txb_free. Any
 * thread. */
enum txb_rc txb_alloc(size_t size, void **out, struct txb_error *err) TXB_MUST_CHECK;
/* The same for `count` things of `size` bytes, the product checked. */
enum txb_rc txb_alloc_array(size_t count, size_t size, void **out, struct txb_error *err) TXB_MUST_CHECK;
/* Grows or shrinks *inout to count * size bytes (contents kept, new bytes not zeroed); on failure *inout stays as it
 * was. */
enum txb_rc txb_realloc_array(void **inout, size_t count, size_t size, struct txb_error *err) TXB_MUST_CHECK;
/* The same for a pointer of any type: `pointer` is where it stands. */
enum txb_rc txb_regrow_array(void *pointer, size_t count, size_t size, struct txb_error *err) TXB_MUST_CHECK;
/* A NUL-ended copy of a C string. */
enum txb_rc txb_strdup(const char *text, char **out, struct txb_error *err) TXB_MUST_CHECK;
void txb_free(void *p); /* NULL is fine */

/* Tests: the nth allocation from now (1 = the next) of this thread fails, once; 0 switches it off. */
void txb_alloc_fail_at(uint64_t nth);

/* An arena: many small pieces, freed together, aligned to 16. They live until reset or fini. Not thread-safe. */
struct txb_arena {
  struct txb_arena_block *blocks;
  size_t used;        /* bytes handed out since the last reset */
  size_t block_bytes; /* size of an ordinary block */
};
void txb_arena_init(struct txb_arena *arena, size_t block_bytes);
void txb_arena_fini(struct txb_arena *arena);
/* Gives everything back but one block, so that a steady state allocates nothing. */
void txb_arena_reset(struct txb_arena *arena);
/* Memory is not zeroed. */
enum txb_rc txb_arena_alloc(struct txb_arena *arena, size_t size, void **out, struct txb_error *err) TXB_MUST_CHECK;

/* Clean-up at the end of a scope: `TXB_CLEANUP(txb_free_ptr) char *text = NULL;` hand it over with txb_steal. */
#define TXB_CLEANUP(fn) __attribute__((cleanup(fn)))
void txb_free_ptr(void *pointer_to_pointer);
#define txb_steal(p)                                                                                                   \
  __extension__({                                                                                                      \
    __typeof__(p) txb_stolen_ = (p);                                                                                   \
    (p) = NULL;                                                                                                        \
    txb_stolen_;                                                                                                       \
  })

#endif
