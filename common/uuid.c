/* UUID version 7. Layout: 48 bits of milliseconds, version, 12 bits of the fraction of the millisecond (in 1/4096),
 * variant, 62 bits. */
#define OPENSSL_API_COMPAT 0x10101000L /* OpenSSL 3 still has SHA256_*, and would rather have one call EVP */
#include "common/uuid.h"

#include <openssl/sha.h>
#include <string.h>

#include "common/random.h"

static void put_time(int64_t wall_us, struct txb_uuid *id) {
  if (wall_us < 0)
    wall_us = 0;
  uint64_t ms = (uint64_t)wall_us / 1000, fraction = (uint64_t)wall_us % 1000 * 4096 / 1000;
  if (ms >> 48 != 0)
    ms = (UINT64_C(1) << 48) - 1;
  for (int i = 0; i < 6; i++)
    id->bytes[i] = (unsigned char)(ms >> (40 - 8 * i));
  id->bytes[6] = (unsigned char)(0x70 | (fraction >> 8));
  id->bytes[7] = (unsigned char)fraction;
}

static void put_tail(const unsigned char tail[8], struct txb_uuid *id) {
  memcpy(id->bytes + 8, tail, 8);
  id->bytes[8] = (unsigned char)(0x80 | (id->bytes[8] & 0x3F));
}

void txb_uuid_v7(int64_t wall_us, struct txb_uuid *out) {
  unsigned char tail[8];
  txb_random_bytes(tail, sizeof tail);
  put_time(wall_us, out);
  put_tail(tail, out);
}

/* The functions that work on the stack, since those of EVP can run out of memory, and there is no id to go on with: another
 * one would let a message through twice. */
void txb_uuid_v7_derive(int64_t wall_us, const struct txb_slice *parts, size_t count, struct txb_uuid *out) {
  SHA256_CTX hash;
  SHA256_Init(&hash);
  for (size_t i = 0; i < count; i++) {
    unsigned char size[8]; /* without it, ("ab", "c") and ("a", "bc") would be one message */
    for (int j = 0; j < 8; j++)
      size[j] = (unsigned char)((uint64_t)parts[i].size >> (56 - 8 * j));
    SHA256_Update(&hash, size, sizeof size);
    if (parts[i].size > 0)
      SHA256_Update(&hash, parts[i].data, parts[i].size);
  }
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256_Final(digest, &hash);
  put_time(wall_us, out);
  put_tail(digest, out);
}

int64_t txb_uuid_v7_ms(const struct txb_uuid *id) {
  uint64_t ms = 0;
  for (int i = 0; i < 6; i++)
    ms = ms << 8 | id->bytes[i];
  return (int64_t)ms;
}

bool txb_uuid_is_v7(const struct txb_uuid *id) {
  return (id->bytes[6] & 0xF0) == 0x70 && (id->bytes[8] & 0xC0) == 0x80;
}

static bool is_dash_position(size_t i) {
  return i == 8 || i == 13 || i == 18 || i == 23;
}

void txb_uuid_format(const struct txb_uuid *id, char out[37]) {
  static const char digits[] = "0123456789abcdef";
  size_t byte = 0;
  for (size_t i = 0; i < 36; i++) {
    if (is_dash_position(i)) {
      out[i] = '-';
      continue;
    }
    out[i++] = digits[id->bytes[byte] >> 4];
    out[i] = digits[id->bytes[byte++] & 0xF];
  }
  out[36] = '\0';
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9')
    return c - '0';
  if (c >= 'a' && c <= 'f')
    return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

enum txb_rc txb_uuid_parse(struct txb_slice text, struct txb_uuid *out, struct txb_error *err) {
  const char *p = text.data;
  struct txb_uuid id;
  size_t byte = 0;
  if (text.size != 36)
    return TXB_FAIL(err, TXB_REFUSED, "not a UUID: it has %zu characters, not 36", text.size);
  for (size_t i = 0; i < 36; i++) {
    if (is_dash_position(i)) {
      if (p[i] != '-')
        return TXB_FAIL(err, TXB_REFUSED, "not a UUID: no dash at character %zu", i + 1);
      continue;
    }
    int high = hex_digit(p[i]), low = hex_digit(p[i + 1]);
    if (high < 0 || low < 0)
      return TXB_FAIL(err, TXB_REFUSED, "not a UUID: no hexadecimal digit at character %zu", high < 0 ? i + 1 : i + 2);
    id.bytes[byte++] = (unsigned char)(high << 4 | low);
    i++;
  }
  *out = id;
  return TXB_OK;
}
