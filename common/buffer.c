/* A growing run of bytes. */
#include "common/buffer.h"

#include <stdio.h>

void txb_buffer_init(struct txb_buffer *b) {
  *b = (struct txb_buffer){0};
}

void txb_buffer_fini(struct txb_buffer *b) {
  txb_free(b->data);
  *b = (struct txb_buffer){0};
}

void txb_buffer_clear(struct txb_buffer *b) {
  b->size = 0;
  b->failed = false;
}

/* Room for `more` bytes behind the contents. */
static bool grow(struct txb_buffer *b, size_t more) {
  size_t want;
  if (b->failed || !txb_size_add(b->size, more, &want)) {
    b->failed = true;
    return false;
  }
  if (want <= b->capacity)
    return true;
  size_t capacity;
  if (!txb_size_mul(b->capacity, 2, &capacity) || capacity < want)
    capacity = want;
  if (capacity < 64)
    capacity = 64;
  void *data = b->data;
  if (txb_realloc_array(&data, capacity, 1, NULL) != TXB_OK) {
    b->failed = true;
    return false;
  }
  b->data = data;
  b->capacity = capacity;
  return true;
}

char *txb_buffer_reserve(struct txb_buffer *b, size_t size) {
  if (!grow(b, size == 0 ? 1 : size))
    return NULL;
  char *p = b->data + b->size;
  b->size += size;
  return p;
}

void txb_buffer_add(struct txb_buffer *b, const void *data, size_t size) {
  if (size == 0 || !grow(b, size))
    return;
  memcpy(b->data + b->size, data, size);
  b->size += size;
}

void txb_buffer_add_text(struct txb_buffer *b, const char *text) {
  txb_buffer_add(b, text, strlen(text));
}

void txb_buffer_vaddf(struct txb_buffer *b, const char *fmt, va_list args) {
  va_list again;
  va_copy(again, args);
  int n = vsnprintf(NULL, 0, fmt, args);
  if (n < 0 || !grow(b, (size_t)n + 1)) {
    b->failed = true;
  } else {
    vsnprintf(b->data + b->size, (size_t)n + 1, fmt, again);
    b->size += (size_t)n;
  }
  va_end(again);
}

void txb_buffer_addf(struct txb_buffer *b, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  txb_buffer_vaddf(b, fmt, args);
  va_end(args);
}

static void add_json_byte(struct txb_buffer *b, unsigned char c) {
  static const struct {
    unsigned char byte;
    char text[3];
  } shorts[] = {{'"', "\\\""}, {'\\', "\\\\"}, {'\n', "\\n"}, {'\r', "\\r"},
                {'\t', "\\t"}, {'\b', "\\b"},  {'\f', "\\f"}};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(shorts); i++)
    if (shorts[i].byte == c) {
      txb_buffer_add_text(b, shorts[i].text);
      return;
    }
  txb_buffer_addf(b, "\\u%04x", c);
}

void txb_buffer_add_json(struct txb_buffer *b, struct txb_slice text) {
  const unsigned char *p = text.data;
  size_t i = 0, plain = 0; /* from plain to i: bytes that stand for themselves */
  txb_buffer_add(b, "\"", 1);
  while (i < text.size) {
    bool special = p[i] < 0x20 || p[i] == '"' || p[i] == '\\';
    size_t size = special ? 1 : txb_utf8_character(txb_slice_of(p + i, text.size - i));
    if (!special && size > 0) {
      i += size;
      continue;
    }
    txb_buffer_add(b, p + plain, i - plain);
    if (special)
      add_json_byte(b, p[i]);
    else
      txb_buffer_add(b, "\xEF\xBF\xBD", 3);
    plain = ++i;
  }
  txb_buffer_add(b, p == NULL ? NULL : p + plain, i - plain);
  txb_buffer_add(b, "\"", 1);
}

void txb_buffer_add_u32(struct txb_buffer *b, uint32_t v) {
  v = __builtin_bswap32(v);
  txb_buffer_add(b, &v, sizeof v);
}

void txb_buffer_add_u64(struct txb_buffer *b, uint64_t v) {
  v = __builtin_bswap64(v);
  txb_buffer_add(b, &v, sizeof v);
}
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "binary values are turned around for a little-endian machine");

const char *txb_buffer_text(struct txb_buffer *b) {
  if (!grow(b, 1))
    return "";
  b->data[b->size] = '\0';
  return b->data;
}

enum txb_rc txb_buffer_check(const struct txb_buffer *b, struct txb_error *err) {
  if (b->failed)
    return TXB_FAIL(err, TXB_FATAL, "out of memory: a buffer of %zu bytes could not grow", b->size);
  return TXB_OK;
}
