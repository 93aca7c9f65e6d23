/* Results: libpq's own object behind an opaque type. A value of another type or size than the caller expects is a bug
 * in a .sql file. */
#include <string.h>

#include "common/pg_internal.h"

#define POSTGRES_EPOCH_US INT64_C(946684800000000)

void txb_pg_result_free(struct txb_pg_result *r) {
  PQclear((PGresult *)r);
}

void txb_pg_result_free_ptr(struct txb_pg_result **r) {
  txb_pg_result_free(*r);
}

int txb_pg_rows(const struct txb_pg_result *r) {
  return PQntuples(txb_pg_result_native(r));
}

const char *txb_pg_tag(const struct txb_pg_result *r) {
  return PQcmdStatus((PGresult *)(uintptr_t)r); /* libpq's signature lacks a const */
}

bool txb_pg_is_null(const struct txb_pg_result *r, int row, int column) {
  TXB_ASSERT(row >= 0 && row < txb_pg_rows(r) && column >= 0 && column < PQnfields(txb_pg_result_native(r)));
  return PQgetisnull(txb_pg_result_native(r), row, column) != 0;
}

/* A value that is not NULL, of this type and size. */
static const char *value(const struct txb_pg_result *r, int row, int column, Oid type, int size) {
  const PGresult *res = txb_pg_result_native(r);
  TXB_ASSERT(!txb_pg_is_null(r, row, column));
  TXB_ASSERT(PQftype(res, column) == type && PQfformat(res, column) == 1 && PQgetlength(res, row, column) == size);
  return PQgetvalue(res, row, column);
}

static int64_t value_u64(const struct txb_pg_result *r, int row, int column, Oid type) {
  uint64_t v;
  memcpy(&v, value(r, row, column, type, sizeof v), sizeof v);
  return (int64_t)__builtin_bswap64(v);
}

int64_t txb_pg_int8(const struct txb_pg_result *r, int row, int column) {
  return value_u64(r, row, column, TXB_OID_INT8);
}

int32_t txb_pg_int4(const struct txb_pg_result *r, int row, int column) {
  uint32_t v;
  memcpy(&v, value(r, row, column, TXB_OID_INT4, sizeof v), sizeof v);
  return (int32_t)__builtin_bswap32(v);
}

bool txb_pg_bool(const struct txb_pg_result *r, int row, int column) {
  return *value(r, row, column, TXB_OID_BOOL, 1) != 0;
}

int64_t txb_pg_timestamptz_us(const struct txb_pg_result *r, int row, int column) {
  int64_t v = value_u64(r, row, column, TXB_OID_TIMESTAMPTZ), wall_us;
  if (v == INT64_MIN || __builtin_add_overflow(v, POSTGRES_EPOCH_US, &wall_us)) /* -infinity and infinity stay the
                                                                                   outermost */
    return v;
  return wall_us;
}

struct txb_slice txb_pg_bytes(const struct txb_pg_result *r, int row, int column) {
  const PGresult *res = txb_pg_result_native(r);
  if (txb_pg_is_null(r, row, column))
    return txb_slice_of(NULL, 0);
  return txb_slice_of(PQgetvalue(res, row, column), (size_t)PQgetlength(res, row, column));
}

struct txb_slice txb_pg_jsonb(const struct txb_pg_result *r, int row, int column) {
  struct txb_slice s = txb_pg_bytes(r, row, column);
  if (s.data == NULL)
    return s;
  const char *bytes = s.data;
  TXB_ASSERT(PQftype(txb_pg_result_native(r), column) == TXB_OID_JSONB && s.size > 0 && bytes[0] == 1);
  return txb_slice_of(bytes + 1, s.size - 1);
}

void txb_pg_uuid(const struct txb_pg_result *r, int row, int column, struct txb_uuid *out) {
  memcpy(out->bytes, value(r, row, column, TXB_OID_UUID, sizeof out->bytes), sizeof out->bytes);
}

const char *txb_pg_text(const struct txb_pg_result *r, int row, int column) {
  return txb_pg_is_null(r, row, column) ? NULL : PQgetvalue(txb_pg_result_native(r), row, column);
}
