/* Text is what PostgreSQL takes as text: well-formed UTF-8 without NUL. */
#include <criterion/criterion.h>

#include "common/error.h"
#include "common/slice.h"

#define BYTES(text) txb_slice_of("" text, sizeof(text) - 1)

Test(slice, takes_the_border_cases_of_utf8) {
  static const struct {
    const char *text;
    size_t size;
  } good[] = {
      {"", 0},
      {"\x7F", 1},
      {"\xC2\x80", 2},         /* U+0080, the first of two bytes */
      {"\xDF\xBF", 2},         /* U+07FF */
      {"\xE0\xA0\x80", 3},     /* U+0800 */
      {"\xED\x9F\xBF", 3},     /* U+D7FF, just below the surrogates */
      {"\xEE\x80\x80", 3},     /* U+E000, just above */
      {"\xEF\xBF\xBF", 3},     /* U+FFFF */
      {"\xF0\x90\x80\x80", 4}, /* U+10000 */
      {"\xF4\x8F\xBF\xBF", 4}, /* U+10FFFF, the last */
  };
  for (size_t i = 0; i < TXB_ARRAY_SIZE(good); i++) {
    struct txb_slice s = txb_slice_of(good[i].text, good[i].size);
    cr_assert(txb_slice_is_text(s), "row %zu", i);
    cr_assert(txb_utf8_character(s) == good[i].size, "row %zu", i);
  }
}

Test(slice, refuses_what_is_no_text) {
  static const struct {
    const char *text;
    size_t size;
  } bad[] = {
      {"\0", 1}, /* a NUL: PostgreSQL's text can't hold it */
      {"ab\0c", 4},
      {"\x80", 1}, /* a continuation alone */
      {"\xBF", 1},
      {"\xC0\x80", 2},         /* overlong NUL */
      {"\xC1\xBF", 2},         /* overlong U+007F */
      {"\xE0\x9F\xBF", 3},     /* overlong U+07FF */
      {"\xF0\x8F\xBF\xBF", 4}, /* overlong U+FFFF */
      {"\xED\xA0\x80", 3},     /* surrogates */
      {"\xED\xBF\xBF", 3},
      {"\xF4\x90\x80\x80", 4}, /* above U+10FFFF */
      {"\xF5\x80\x80\x80", 4},
      {"\xFF", 1},
      {"\xC3", 1}, /* ends inside a character */
      {"\xE2\x82", 2},
      {"\xF0\x9F\x98", 3},
      {"\xC3x", 2}, /* continuation missing */
      {"\xE2\x82x", 3},
      {"\xF0\x9F\x98x", 4},
      {"fine \xE2\x28\xA1 not", 12},
  };
  for (size_t i = 0; i < TXB_ARRAY_SIZE(bad); i++)
    cr_assert(!txb_slice_is_text(txb_slice_of(bad[i].text, bad[i].size)), "row %zu", i);
}

/* All two-byte and all three-byte combinations against the definition by code point. */
Test(slice, agrees_with_the_definition_for_every_short_sequence) {
  for (unsigned v = 0; v < 1u << 16; v++) {
    unsigned char two[2] = {(unsigned char)(v >> 8), (unsigned char)v};
    bool both_ascii = two[0] != 0 && two[1] != 0 && two[0] < 0x80 && two[1] < 0x80;
    unsigned code = (two[0] & 0x1Fu) << 6 | (two[1] & 0x3Fu);
    bool pair = (two[0] & 0xE0) == 0xC0 && (two[1] & 0xC0) == 0x80 && code >= 0x80;
    cr_assert(txb_slice_is_text(txb_slice_of(two, 2)) == (both_ascii || pair), "%04x", v);
  }
  for (unsigned v = 0xE00000; v < 0xF00000; v++) {
    unsigned char three[3] = {(unsigned char)(v >> 16), (unsigned char)(v >> 8), (unsigned char)v};
    unsigned code = (three[0] & 0xFu) << 12 | (three[1] & 0x3Fu) << 6 | (three[2] & 0x3Fu);
    bool good =
        (three[1] & 0xC0) == 0x80 && (three[2] & 0xC0) == 0x80 && code >= 0x800 && (code < 0xD800 || code > 0xDFFF);
    if (txb_slice_is_text(txb_slice_of(three, 3)) != good)
      cr_assert_fail("%06x", v);
  }
}

Test(slice, tells_absent_from_empty) {
  cr_assert(!txb_slice_equal(txb_slice_of(NULL, 0), txb_slice_of("", 0)));
  cr_assert(txb_slice_equal(txb_slice_of(NULL, 0), txb_slice_text(NULL)));
  cr_assert(txb_slice_equal(BYTES("a\0b"), BYTES("a\0b")));
  cr_assert(!txb_slice_equal(BYTES("a\0b"), BYTES("a\0c")));
  cr_assert(!txb_slice_equal(BYTES("ab"), BYTES("abc")));
}

Test(slice, checks_sums_and_products) {
  size_t out = 7;
  cr_assert(!txb_size_add(SIZE_MAX, 1, &out) && out == 7);
  cr_assert(!txb_size_mul(SIZE_MAX / 2 + 1, 2, &out) && out == 7);
  cr_assert(txb_size_add(SIZE_MAX - 1, 1, &out) && out == SIZE_MAX);
  cr_assert(txb_size_mul(SIZE_MAX, 1, &out) && out == SIZE_MAX);
}
