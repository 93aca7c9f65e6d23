/* Base64 (RFC 4648 section 4). Pure. */
#include "common/base64.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void txb_base64_encode(struct txb_slice bytes, struct txb_buffer *out) {
  const unsigned char *from = bytes.data;
  for (size_t i = 0; i < bytes.size; i += 3) {
    size_t n = bytes.size - i < 3 ? bytes.size - i : 3;
    uint32_t v = (uint32_t)from[i] << 16 | (n > 1 ? (uint32_t)from[i + 1] << 8 : 0) | (n > 2 ? from[i + 2] : 0);
    char quad[4] = {alphabet[v >> 18], alphabet[v >> 12 & 63], n > 1 ? alphabet[v >> 6 & 63] : '=',
                    n > 2 ? alphabet[v & 63] : '='};
    txb_buffer_add(out, quad, sizeof(quad));
  }
}

/* -1: not in the alphabet. */
static int value_of(char c) {
  if (c >= 'A' && c <= 'Z')
    return c - 'A';
  if (c >= 'a' && c <= 'z')
    return c - 'a' + 26;
  if (c >= '0' && c <= '9')
    return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool txb_base64_decode(struct txb_slice text, struct txb_buffer *out) {
  const char *from = text.data;
  if (text.size % 4 != 0)
    return false;
  for (size_t i = 0; i < text.size; i += 4) {
    size_t pad = 0;
    if (i + 4 == text.size && from[i + 3] == '=')
      pad = from[i + 2] == '=' ? 2 : 1;
    uint32_t v = 0;
    for (size_t j = 0; j < 4; j++) {
      int digit = j >= 4 - pad ? 0 : value_of(from[i + j]);
      if (digit < 0)
        return false;
      v = v << 6 | (uint32_t)digit;
    }
    char bytes[3] = {(char)(v >> 16), (char)(v >> 8 & 0xFF), (char)(v & 0xFF)};
    txb_buffer_add(out, bytes, 3 - pad);
  }
  return true;
}
