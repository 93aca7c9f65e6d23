/* The buffer: what it builds, and that running out of memory at any growth is one sticky failure. */
#include <criterion/criterion.h>
#include <jansson.h>
#include <string.h>

#include "common/buffer.h"

static void fill(struct txb_buffer *b) {
  txb_buffer_add_text(b, "name=");
  txb_buffer_addf(b, "%d %s", 42, "a text that is longer than the first allocation of the buffer by some way");
  txb_buffer_add_json(b, txb_slice_text("quote \" and \\ and \n"));
  for (int i = 0; i < 100; i++)
    txb_buffer_add_u64(b, (uint64_t)i);
  char *room = txb_buffer_reserve(b, 1000);
  if (room != NULL)
    memset(room, 'r', 1000);
  txb_buffer_add_u32(b, 2);
}

Test(buffer, fails_once_and_for_all_at_every_growth) {
  struct txb_buffer whole;
  txb_buffer_init(&whole);
  fill(&whole);
  cr_assert(txb_buffer_check(&whole, NULL) == TXB_OK);
  uint64_t failures = 0;
  for (uint64_t nth = 1; nth < 100; nth++) {
    struct txb_buffer b;
    struct txb_error err;
    txb_buffer_init(&b);
    txb_alloc_fail_at(nth);
    fill(&b);
    txb_alloc_fail_at(0);
    if (!b.failed) {
      cr_assert(b.size == whole.size && memcmp(b.data, whole.data, b.size) == 0);
      txb_buffer_fini(&b);
      break;
    }
    failures++;
    cr_assert(txb_buffer_check(&b, &err) == TXB_FATAL && err.rc == TXB_FATAL);
    cr_assert_str_eq(txb_buffer_text(&b), "");
    txb_buffer_clear(&b);
    fill(&b);
    cr_assert(txb_buffer_check(&b, NULL) == TXB_OK && b.size == whole.size, "after clear it works again");
    txb_buffer_fini(&b);
  }
  cr_assert(failures >= 3);
  txb_buffer_fini(&whole);
}

Test(buffer, writes_network_byte_order) {
  struct txb_buffer b;
  txb_buffer_init(&b);
  txb_buffer_add_u32(&b, 0x01020304);
  txb_buffer_add_u64(&b, UINT64_C(0x05060708090A0B0C));
  cr_assert(b.size == 12);
  for (size_t i = 0; i < 12; i++)
    cr_assert(b.data[i] == (char)(i + 1));
  txb_buffer_fini(&b);
}

Test(buffer, is_a_c_string_whenever_asked) {
  struct txb_buffer b;
  txb_buffer_init(&b);
  cr_assert_str_eq(txb_buffer_text(&b), "");
  for (int i = 0; i < 300; i++) {
    txb_buffer_add(&b, "x", 1);
    cr_assert(strlen(txb_buffer_text(&b)) == (size_t)i + 1);
  }
  txb_buffer_fini(&b);
}

/* jansson is the judge: what comes out is JSON, and reads back as the same text. */
Test(buffer, writes_json_strings_that_read_back) {
  char all[0x120 * 2];
  size_t size = 0;
  for (unsigned c = 1; c < 0x80; c++)
    all[size++] = (char)c;
  memcpy(all + size, "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", 9);
  size += 9;
  struct txb_buffer b;
  txb_buffer_init(&b);
  txb_buffer_add_json(&b, txb_slice_of(all, size));
  json_t *json = json_loadb(b.data, b.size, JSON_DECODE_ANY, NULL);
  cr_assert(json != NULL && json_string_length(json) == size && memcmp(json_string_value(json), all, size) == 0);
  json_decref(json);
  txb_buffer_fini(&b);
}

Test(buffer, replaces_in_json_what_is_no_utf8) {
  static const struct {
    const char *bytes;
    size_t size;
    const char *json;
  } rows[] = {
      {"", 0, "\"\""},
      {"a\xFF"
       "b",
       3,
       "\"a\xEF\xBF\xBD"
       "b\""},
      {"\xE2\x82", 2, "\"\xEF\xBF\xBD\xEF\xBF\xBD\""},
      {"\0", 1, "\"\\u0000\""},
      {"\xED\xA0\x80", 3, "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""},
      {"\"\\\b\f\n\r\t\x01\x1F", 9, "\"\\\"\\\\\\b\\f\\n\\r\\t\\u0001\\u001f\""},
  };
  for (size_t i = 0; i < TXB_ARRAY_SIZE(rows); i++) {
    struct txb_buffer b;
    txb_buffer_init(&b);
    txb_buffer_add_json(&b, txb_slice_of(rows[i].bytes, rows[i].size));
    cr_assert_str_eq(txb_buffer_text(&b), rows[i].json, "row %zu", i);
    txb_buffer_fini(&b);
  }
}
