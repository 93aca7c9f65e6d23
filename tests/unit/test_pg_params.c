/* Binary parameters, byte by byte, and with each allocation failing in turn. */
#include <criterion/criterion.h>
#include <string.h>

#include "common/pg.h"

static struct txb_pg_params p;

static void begin(void) {
  txb_pg_params_init(&p);
}

static void end(void) {
  txb_pg_params_fini(&p);
}

TestSuite(pg_params, .init = begin, .fini = end);

#define CHECK(i, oid, bytes) check((i), (oid), bytes, sizeof(bytes) - 1)
static void check(int i, uint32_t oid, const char *bytes, size_t size) {
  cr_assert(p.type[i] == oid, "parameter %d: type %u", i, p.type[i]);
  cr_assert(p.length[i] == (int)size, "parameter %d: %d bytes", i, p.length[i]);
  cr_assert(memcmp(p.bytes.data + p.start[i], bytes, size) == 0, "parameter %d", i);
}

Test(pg_params, encodes_scalars_in_network_order) {
  struct txb_uuid id = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}};
  txb_pg_add_int8(&p, INT64_C(0x0102030405060708));
  txb_pg_add_int8(&p, -1);
  txb_pg_add_int4(&p, INT32_MIN);
  txb_pg_add_bool(&p, true);
  txb_pg_add_bool(&p, false);
  txb_pg_add_text(&p, txb_slice_text("h\xC3\xA9"));
  txb_pg_add_bytea(&p, txb_slice_of("a\0b", 3));
  txb_pg_add_jsonb(&p, txb_slice_text("{}"));
  txb_pg_add_uuid(&p, &id);
  txb_pg_add_timestamptz(&p, INT64_C(946684800000001));
  cr_assert(p.count == 10 && txb_buffer_check(&p.bytes, NULL) == TXB_OK);
  CHECK(0, TXB_OID_INT8, "\1\2\3\4\5\6\7\10");
  CHECK(1, TXB_OID_INT8, "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF");
  CHECK(2, TXB_OID_INT4, "\x80\0\0\0");
  CHECK(3, TXB_OID_BOOL, "\1");
  CHECK(4, TXB_OID_BOOL, "\0");
  CHECK(5, TXB_OID_TEXT, "h\xC3\xA9");
  CHECK(6, TXB_OID_BYTEA, "a\0b");
  CHECK(7, TXB_OID_JSONB, "\1{}");
  CHECK(8, TXB_OID_UUID, "\0\1\2\3\4\5\6\7\x08\x09\x0A\x0B\x0C\x0D\x0E\x0F");
  CHECK(9, TXB_OID_TIMESTAMPTZ, "\0\0\0\0\0\0\0\1");
}

Test(pg_params, encodes_a_time_before_the_year_2000) {
  txb_pg_add_timestamptz(&p, 0);
  CHECK(0, TXB_OID_TIMESTAMPTZ, "\xFF\xFC\xA2\xFE\xC4\xC8\x20\x00");
}

Test(pg_params, tells_null_from_empty) {
  txb_pg_add_text(&p, txb_slice_of(NULL, 0));
  txb_pg_add_text(&p, txb_slice_of("", 0));
  txb_pg_add_bytea(&p, txb_slice_of(NULL, 0));
  txb_pg_add_jsonb(&p, txb_slice_of(NULL, 0));
  txb_pg_add_uuid(&p, NULL);
  txb_pg_add_null(&p, TXB_OID_INT8);
  cr_assert(p.length[0] == -1 && p.length[1] == 0 && p.length[2] == -1 && p.length[3] == -1 && p.length[4] == -1);
  cr_assert(p.length[5] == -1 && p.type[5] == TXB_OID_INT8 && p.type[4] == TXB_OID_UUID);
}

Test(pg_params, encodes_arrays) {
  txb_pg_array_begin(&p, TXB_OID_INT8);
  txb_pg_array_int8(&p, 1);
  txb_pg_array_int8(&p, -2);
  txb_pg_array_end(&p);
  CHECK(0, 1016,
        "\0\0\0\1"
        "\0\0\0\0"
        "\0\0\0\x14"
        "\0\0\0\2"
        "\0\0\0\1"
        "\0\0\0\x08"
        "\0\0\0\0\0\0\0\1"
        "\0\0\0\x08"
        "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFE");
  txb_pg_array_begin(&p, TXB_OID_TEXT);
  txb_pg_array_bytes(&p, txb_slice_text("ab"));
  txb_pg_array_bytes(&p, txb_slice_of(NULL, 0));
  txb_pg_array_bytes(&p, txb_slice_of("", 0));
  txb_pg_array_end(&p);
  CHECK(1, 1009,
        "\0\0\0\1"
        "\0\0\0\1"
        "\0\0\0\x19"
        "\0\0\0\3"
        "\0\0\0\1"
        "\0\0\0\2"
        "ab"
        "\xFF\xFF\xFF\xFF"
        "\0\0\0\0");
  txb_pg_array_begin(&p, TXB_OID_JSONB);
  txb_pg_array_jsonb(&p, txb_slice_text("1"));
  txb_pg_array_jsonb(&p, txb_slice_of(NULL, 0));
  txb_pg_array_end(&p);
  CHECK(2, 3807,
        "\0\0\0\1"
        "\0\0\0\1"
        "\0\0\x0E\xDA"
        "\0\0\0\2"
        "\0\0\0\1"
        "\0\0\0\2"
        "\1"
        "1"
        "\xFF\xFF\xFF\xFF");
  txb_pg_array_begin(&p, TXB_OID_INT4);
  txb_pg_array_int4(&p, 5);
  txb_pg_array_end(&p);
  CHECK(3, 1007,
        "\0\0\0\1"
        "\0\0\0\0"
        "\0\0\0\x17"
        "\0\0\0\1"
        "\0\0\0\1"
        "\0\0\0\4"
        "\0\0\0\5");
  txb_pg_array_begin(&p, TXB_OID_TIMESTAMPTZ);
  txb_pg_array_timestamptz(&p, INT64_C(946684800000000));
  txb_pg_array_end(&p);
  CHECK(4, 1185,
        "\0\0\0\1"
        "\0\0\0\0"
        "\0\0\x04\xA0"
        "\0\0\0\1"
        "\0\0\0\1"
        "\0\0\0\x08"
        "\0\0\0\0\0\0\0\0");
}

Test(pg_params, encodes_an_empty_array_without_a_dimension) {
  static const struct {
    uint32_t element, array;
  } types[] = {{TXB_OID_BOOL, 1000}, {TXB_OID_BYTEA, 1001}, {TXB_OID_INT2, 1005},
               {TXB_OID_JSON, 199},  {TXB_OID_UUID, 2951},  {TXB_OID_INT8MULTIRANGE, 6157}};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(types); i++) {
    txb_pg_array_begin(&p, types[i].element);
    txb_pg_array_end(&p);
    cr_assert(p.type[i] == types[i].array && p.length[i] == 12);
    cr_assert(memcmp(p.bytes.data + p.start[i], "\0\0\0\0\0\0\0\0", 8) == 0);
  }
  txb_pg_add_int4(&p, 9);
  CHECK((int)TXB_ARRAY_SIZE(types), TXB_OID_INT4, "\0\0\0\x09");
}

Test(pg_params, starts_over_after_clear) {
  txb_pg_add_text(&p, txb_slice_text("gone"));
  txb_pg_params_clear(&p);
  cr_assert(p.count == 0);
  txb_pg_add_int4(&p, 1);
  CHECK(0, TXB_OID_INT4, "\0\0\0\1");
}

static void fill(void) {
  txb_pg_add_int8(&p, 1);
  txb_pg_array_begin(&p, TXB_OID_BYTEA);
  for (int i = 0; i < 50; i++) {
    txb_pg_array_bytes(&p, txb_slice_text("some bytes that take some room"));
    txb_pg_array_bytes(&p, txb_slice_of(NULL, 0));
  }
  txb_pg_array_end(&p);
  txb_pg_array_begin(&p, TXB_OID_INT8);
  txb_pg_array_end(&p);
  txb_pg_add_text(&p, txb_slice_text("behind"));
}

Test(pg_params, fails_once_at_every_allocation) {
  fill();
  size_t size = p.bytes.size;
  uint64_t failures = 0;
  for (uint64_t nth = 1;; nth++) {
    txb_pg_params_fini(&p);
    txb_pg_params_init(&p);
    txb_alloc_fail_at(nth);
    fill();
    txb_alloc_fail_at(0);
    if (!p.bytes.failed)
      break;
    failures++;
    cr_assert(p.count == 4, "it goes through the motions");
    cr_assert(txb_buffer_check(&p.bytes, NULL) == TXB_FATAL);
  }
  cr_assert(failures >= 4 && p.bytes.size == size);
}
