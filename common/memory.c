/* The one allocator. All of the project allocates here, so that a test can fail each allocation in turn. */
#include "common/memory.h"

#include <string.h>

#include "common/slice.h"

static _Thread_local uint64_t fail_countdown; /* 0: off; 1: the next one fails */

static bool fails_now(void) {
  return fail_countdown != 0 && --fail_countdown == 0;
}

void txb_alloc_fail_at(uint64_t nth) {
  fail_countdown = nth;
}

enum txb_rc txb_alloc(size_t size, void **out, struct txb_error *err) {
  void *p = fails_now() ? NULL : calloc(1, size == 0 ? 1 : size);
  if (p == NULL)
    return TXB_FAIL(err, TXB_FATAL, "out of memory: %zu bytes wanted", size);
  *out = p;
  return TXB_OK;
}

enum txb_rc txb_alloc_array(size_t count, size_t size, void **out, struct txb_error *err) {
  size_t total;
  if (!txb_size_mul(count, size, &total))
    return TXB_FAIL(err, TXB_FATAL, "out of memory: %zu times %zu bytes wanted", count, size);
  return txb_alloc(total, out, err);
}

enum txb_rc txb_realloc_array(void **inout, size_t count, size_t size, struct txb_error *err) {
  size_t total;
  if (!txb_size_mul(count, size, &total))
    return TXB_FAIL(err, TXB_FATAL, "out of memory: %zu times %zu bytes wanted", count, size);
  void *p = fails_now() ? NULL : realloc(*inout, total == 0 ? 1 : total);
  if (p == NULL)
    return TXB_FAIL(err, TXB_FATAL, "out of memory: %zu bytes wanted", total);
  *inout = p;
  return TXB_OK;
}

enum txb_rc txb_regrow_array(void *pointer, size_t count, size_t size, struct txb_error *err) {
  void *memory;
  memcpy(&memory, pointer, sizeof memory);
  TXB_TRY(txb_realloc_array(&memory, count, size, err));
  memcpy(pointer, &memory, sizeof memory);
  return TXB_OK;
}

enum txb_rc txb_strdup(const char *text, char **out, struct txb_error *err) {
  size_t size = strlen(text) + 1;
  void *p;
  TXB_TRY(txb_alloc(size, &p, err));
  memcpy(p, text, size);
  *out = p;
  return TXB_OK;
}

void txb_free(void *p) {
  free(p);
}

void txb_free_ptr(void *pointer_to_pointer) {
  void *p;
  memcpy(&p, pointer_to_pointer, sizeof p);
  txb_free(p);
}

#define ARENA_ALIGN ((size_t)16)

struct txb_arena_block {
  struct txb_arena_block *next;
  size_t capacity, used; /* of the bytes that follow */
  size_t unused_;        /* keeps what follows aligned */
};
_Static_assert(sizeof(struct txb_arena_block) % 16 == 0, "what follows a block's head is aligned");

void txb_arena_init(struct txb_arena *arena, size_t block_bytes) {
  TXB_ASSERT(block_bytes > 0);
  *arena = (struct txb_arena){.block_bytes = block_bytes};
}

void txb_arena_fini(struct txb_arena *arena) {
  struct txb_arena_block *next;
  for (struct txb_arena_block *block = arena->blocks; block != NULL; block = next) {
    next = block->next;
    txb_free(block);
  }
  arena->blocks = NULL;
  arena->used = 0;
}

void txb_arena_reset(struct txb_arena *arena) {
  struct txb_arena_block *keep = arena->blocks, *next;
  for (struct txb_arena_block *block = arena->blocks; block != NULL; block = block->next)
    if (block->capacity > keep->capacity)
      keep = block;
  for (struct txb_arena_block *block = arena->blocks; block != NULL; block = next) {
    next = block->next;
    if (block != keep)
      txb_free(block);
  }
  /* The next round may need as much as this one: then it gets it in one block, which the reset after it keeps. */
  if (keep != NULL && arena->used > arena->block_bytes)
    arena->block_bytes = arena->used;
  arena->blocks = keep;
  if (keep != NULL) {
    keep->next = NULL;
    keep->used = 0;
  }
  arena->used = 0;
}

enum txb_rc txb_arena_alloc(struct txb_arena *arena, size_t size, void **out, struct txb_error *err) {
  size_t rounded;
  if (!txb_size_add(size == 0 ? 1 : size, ARENA_ALIGN - 1, &rounded))
    return TXB_FAIL(err, TXB_FATAL, "out of memory: %zu bytes wanted", size);
  rounded &= ~(ARENA_ALIGN - 1);
  struct txb_arena_block *block = arena->blocks;
  if (block == NULL || block->capacity - block->used < rounded) {
    size_t capacity = rounded > arena->block_bytes ? rounded : arena->block_bytes, total;
    if (!txb_size_add(capacity, sizeof *block, &total))
      return TXB_FAIL(err, TXB_FATAL, "out of memory: %zu bytes wanted", size);
    void *p;
    TXB_TRY(txb_alloc(total, &p, err));
    block = p;
    block->capacity = capacity;
    block->next = arena->blocks;
    arena->blocks = block;
  }
  *out = (char *)(block + 1) + block->used;
  block->used += rounded;
  arena->used += rounded;
  return TXB_OK;
}
