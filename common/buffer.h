/* A growing run of bytes for building text, JSON lines and binary parameters. The first failure sticks: check once, at
 * the end. */
#ifndef TXB_COMMON_BUFFER_H
#define TXB_COMMON_BUFFER_H

#include <stdarg.h>

#include "common/memory.h"
#include "common/slice.h"

struct txb_buffer {
  char *data; /* not NUL-ended; txb_buffer_text ends it */
  size_t size, capacity;
  bool failed; /* an allocation failed; what was added since is missing */
};

void txb_buffer_init(struct txb_buffer *b);
void txb_buffer_fini(struct txb_buffer *b);
void txb_buffer_clear(struct txb_buffer *b); /* keeps the memory */
void txb_buffer_add(struct txb_buffer *b, const void *data, size_t size);
void txb_buffer_add_text(struct txb_buffer *b, const char *text);
void txb_buffer_addf(struct txb_buffer *b, const char *fmt, ...) TXB_PRINTF(2, 3);
void txb_buffer_vaddf(struct txb_buffer *b, const char *fmt, va_list args) TXB_PRINTF(2, 0);
/* A JSON string with its quotes; bytes that are not UTF-8 become U+FFFD. */
void txb_buffer_add_json(struct txb_buffer *b, struct txb_slice text);
/* Network byte order, as PostgreSQL's binary format has it. */
void txb_buffer_add_u32(struct txb_buffer *b, uint32_t v);
void txb_buffer_add_u64(struct txb_buffer *b, uint64_t v);
/* `size` bytes to be filled by the caller, or NULL when memory is short (and failed is set). */
char *txb_buffer_reserve(struct txb_buffer *b, size_t size);
/* The contents as a C string, borrowed until the next call on b; "" when it failed. */
const char *txb_buffer_text(struct txb_buffer *b);
/* TXB_FATAL if any call since clear found no memory. */
enum txb_rc txb_buffer_check(const struct txb_buffer *b, struct txb_error *err) TXB_MUST_CHECK;

#endif
