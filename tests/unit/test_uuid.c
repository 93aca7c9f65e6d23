/* Ids: layout, order, and derivation that must never change, since stored inboxes rest on it. */
#include <criterion/criterion.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "common/uuid.h"

#define PART(text)                                                                                                     \
  { "" text, sizeof(text) - 1 }

static void check(int64_t us, const struct txb_slice *parts, size_t count, const char *want) {
  struct txb_uuid id;
  char text[37];
  txb_uuid_v7_derive(us, parts, count, &id);
  txb_uuid_format(&id, text);
  cr_assert_str_eq(text, want);
  cr_assert(txb_uuid_is_v7(&id));
}

/* Made by another implementation (SHA-256 of 8 bytes of length, big-endian, and the bytes, for each part). */
Test(uuid, derives_the_same_id_for_ever) {
  const struct txb_slice event[] = {PART("urn:shop"), PART("order-1")};
  const struct txb_slice shifted[] = {PART("urn:shoporder-"), PART("1")};
  const struct txb_slice place[] = {PART("cluster"), PART("orders"), PART("3"), PART("42")};
  const struct txb_slice bytes[] = {PART(""), PART("\0\xFF")};
  const struct txb_slice absent[] = {{NULL, 0}, PART("\0\xFF")};
  check(INT64_C(1769860800123456), event, 2, "019c13ec-9e7b-774b-b733-378b62825f2e");
  check(INT64_C(1769860800123456), shifted, 2, "019c13ec-9e7b-774b-bd00-e074e86ac15d");
  check(0, NULL, 0, "00000000-0000-7000-a3b0-c44298fc1c14");
  check(INT64_C(1700000000000000), place, 4, "018bcfe5-6800-7000-9f0c-c9485cf052fe");
  check(INT64_C(1769860800123999), bytes, 2, "019c13ec-9e7b-7ffb-842d-7ccaf6119f83");
  check(INT64_C(1769860800123999), absent, 2, "019c13ec-9e7b-7ffb-842d-7ccaf6119f83");
}

static bool watched, no_memory;

static void *fail_or_malloc(size_t size, const char *file, int line) {
  (void)file;
  (void)line;
  return no_memory ? NULL : malloc(size);
}

static void *fail_or_realloc(void *old, size_t size, const char *file, int line) {
  (void)file;
  (void)line;
  return no_memory ? NULL : realloc(old, size);
}

static void give_back(void *memory, const char *file, int line) {
  (void)file;
  (void)line;
  free(memory);
}

/* OpenSSL takes this only before its first allocation. */
__attribute__((constructor)) static void watch_openssl(void) {
  watched = CRYPTO_set_mem_functions(fail_or_malloc, fail_or_realloc, give_back) == 1;
}

/* An application's worker must not end it. */
Test(uuid, derives_an_id_though_openssl_has_no_memory) {
  const struct txb_slice event[] = {PART("urn:shop"), PART("order-1")};
  cr_assert(watched);
  no_memory = true;
  check(INT64_C(1769860800123456), event, 2, "019c13ec-9e7b-774b-b733-378b62825f2e");
}

Test(uuid, sorts_by_time_to_the_microsecond) {
  struct txb_uuid last, next;
  int64_t us = INT64_C(1769860800123000);
  txb_uuid_v7(us, &last);
  for (int i = 1; i < 3000; i++) {
    txb_uuid_v7(us + i, &next);
    cr_assert(memcmp(&last, &next, 8) < 0, "microsecond %d", i);
    cr_assert(txb_uuid_is_v7(&next) && txb_uuid_v7_ms(&next) == (us + i) / 1000);
    last = next;
  }
}

Test(uuid, keeps_version_and_variant_at_extreme_times) {
  static const int64_t times[] = {INT64_MIN, -1, 0, INT64_MAX};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(times); i++) {
    struct txb_uuid id;
    txb_uuid_v7(times[i], &id);
    cr_assert(txb_uuid_is_v7(&id));
    cr_assert(txb_uuid_v7_ms(&id) == (times[i] <= 0 ? 0 : (INT64_C(1) << 48) - 1));
  }
}

Test(uuid, reads_what_it_writes_in_either_case) {
  struct txb_uuid id, again;
  char text[37], upper[37];
  txb_uuid_v7(INT64_C(1769860800123456), &id);
  txb_uuid_format(&id, text);
  for (size_t i = 0; i <= 36; i++)
    upper[i] = text[i] >= 'a' && text[i] <= 'f' ? (char)(text[i] - 'a' + 'A') : text[i];
  cr_assert(txb_uuid_parse(txb_slice_text(text), &again, NULL) == TXB_OK && memcmp(&id, &again, 16) == 0);
  cr_assert(txb_uuid_parse(txb_slice_text(upper), &again, NULL) == TXB_OK && memcmp(&id, &again, 16) == 0);
}

Test(uuid, refuses_every_single_wrong_character) {
  static const char good[] = "019c13ec-9e7b-774b-b733-378b62825f2e";
  static const char wrong[] = {'g', 'G', '-', ' ', '\0', '/', ':', '@', '`', (char)0xC3};
  for (size_t at = 0; at < 36; at++)
    for (size_t w = 0; w < sizeof wrong; w++) {
      char text[37];
      struct txb_uuid out;
      struct txb_error err;
      memcpy(text, good, sizeof text);
      if (text[at] == wrong[w])
        continue;
      text[at] = wrong[w];
      memset(&out, 7, sizeof out);
      cr_assert(txb_uuid_parse(txb_slice_of(text, 36), &out, &err) == TXB_REFUSED, "%zu %zu", at, w);
      cr_assert(out.bytes[0] == 7 && out.bytes[15] == 7, "the output is untouched");
    }
  struct txb_uuid out;
  cr_assert(txb_uuid_parse(txb_slice_of(good, 35), &out, NULL) == TXB_REFUSED);
  cr_assert(txb_uuid_parse(txb_slice_of(NULL, 0), &out, NULL) == TXB_REFUSED);
  cr_assert(txb_uuid_parse(txb_slice_text("019c13ec9e7b774bb733378b62825f2e0000"), &out, NULL) == TXB_REFUSED);
}

Test(uuid, tells_version_7_from_the_others) {
  static const struct {
    const char *text;
    bool is_v7;
  } rows[] = {
      {"019c13ec-9e7b-774b-8733-378b62825f2e", true},  {"019c13ec-9e7b-774b-b733-378b62825f2e", true},
      {"019c13ec-9e7b-474b-b733-378b62825f2e", false}, {"019c13ec-9e7b-774b-c733-378b62825f2e", false},
      {"019c13ec-9e7b-774b-7733-378b62825f2e", false}, {"00000000-0000-0000-0000-000000000000", false},
  };
  for (size_t i = 0; i < TXB_ARRAY_SIZE(rows); i++) {
    struct txb_uuid id;
    cr_assert(txb_uuid_parse(txb_slice_text(rows[i].text), &id, NULL) == TXB_OK);
    cr_assert(txb_uuid_is_v7(&id) == rows[i].is_v7);
  }
}
