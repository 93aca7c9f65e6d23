/* UTF-8 as RFC 3629 defines it (table 3-7 of the Unicode standard): the same that PostgreSQL accepts. */
#include "common/slice.h"

/* The range of the second byte depends on the first: that is what keeps overlong forms, surrogates and numbers above
 * U+10FFFF out. */
static size_t multibyte(const unsigned char *p, size_t left) {
  size_t size = p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
  if (p[0] < 0xC2 || p[0] > 0xF4 || left < size)
    return 0;
  unsigned char low = p[0] == 0xE0 ? 0xA0 : p[0] == 0xF0 ? 0x90 : 0x80;
  unsigned char high = p[0] == 0xED ? 0x9F : p[0] == 0xF4 ? 0x8F : 0xBF;
  if (p[1] < low || p[1] > high)
    return 0;
  for (size_t i = 2; i < size; i++)
    if ((p[i] & 0xC0) != 0x80)
      return 0;
  return size;
}

size_t txb_utf8_character(struct txb_slice s) {
  const unsigned char *p = s.data;
  if (s.size == 0)
    return 0;
  return p[0] < 0x80 ? 1 : multibyte(p, s.size);
}

bool txb_slice_is_text(struct txb_slice s) {
  const unsigned char *p = s.data;
  size_t i = 0;
  while (i < s.size) {
    if (p[i] == 0)
      return false;
    size_t size = p[i] < 0x80 ? 1 : multibyte(p + i, s.size - i);
    if (size == 0)
      return false;
    i += size;
  }
  return true;
}
