/* Bytes with their size, and sums and products of sizes that can't wrap. Payloads, keys and headers are slices, never C
 * strings. */
#ifndef TXB_COMMON_SLICE_H
#define TXB_COMMON_SLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "txbroker/slice.h"

static inline struct txb_slice txb_slice_of(const void *data, size_t size) {
  return (struct txb_slice){data, size};
}

/* A C string's bytes without its NUL; NULL gives the absent slice. */
static inline struct txb_slice txb_slice_text(const char *text) {
  return (struct txb_slice){text, text == NULL ? 0 : strlen(text)};
}

static inline bool txb_slice_equal(struct txb_slice a, struct txb_slice b) {
  return a.size == b.size && (a.data == NULL) == (b.data == NULL) &&
         (a.size == 0 || a.data == NULL || memcmp(a.data, b.data, a.size) == 0);
}

/* True and *out set if the result fits; false and *out untouched if not. */
static inline bool txb_size_add(size_t a, size_t b, size_t *out) {
  size_t r;
  if (__builtin_add_overflow(a, b, &r))
    return false;
  *out = r;
  return true;
}

static inline bool txb_size_mul(size_t a, size_t b, size_t *out) {
  size_t r;
  if (__builtin_mul_overflow(a, b, &r))
    return false;
  *out = r;
  return true;
}

/* Whether the bytes are well-formed UTF-8 without NUL, as PostgreSQL's text wants it (RFC 3629: no surrogates, no
 * overlong forms). */
bool txb_slice_is_text(struct txb_slice s);
/* The size of the well-formed UTF-8 character that s begins with (a NUL byte is one of 1), or 0 when there is none. */
size_t txb_utf8_character(struct txb_slice s);

#endif
