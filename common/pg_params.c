/* Parameters in PostgreSQL's binary format (src/backend/utils/adt/..., the *_recv functions; arrays: array_recv). */
#include <limits.h>

#include "common/pg.h"

/* Microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL's timestamps begin. */
#define POSTGRES_EPOCH_US INT64_C(946684800000000)

/* An array's head: dimensions, flag for NULLs, element type, count, lower bound; four bytes each. */
enum { HEAD_NULLS = 4, HEAD_COUNT = 12, HEAD_SIZE_EMPTY = 12 };

void txb_pg_params_init(struct txb_pg_params *p) {
  txb_buffer_init(&p->bytes);
  p->count = 0;
}

void txb_pg_params_fini(struct txb_pg_params *p) {
  txb_buffer_fini(&p->bytes);
  p->count = 0;
}

void txb_pg_params_clear(struct txb_pg_params *p) {
  txb_buffer_clear(&p->bytes);
  p->count = 0;
}

static void begin(struct txb_pg_params *p, uint32_t type_oid) {
  TXB_ASSERT(p->count < TXB_PG_PARAMS_MAX);
  p->start[p->count] = p->bytes.size;
  p->type[p->count] = type_oid;
}

static void end(struct txb_pg_params *p) {
  size_t size = p->bytes.size - p->start[p->count];
  if (size > INT_MAX) { /* the protocol's limit; the server would not take it either */
    p->bytes.failed = true;
    size = 0;
  }
  p->length[p->count++] = (int)size;
}

void txb_pg_add_null(struct txb_pg_params *p, uint32_t type_oid) {
  begin(p, type_oid);
  p->length[p->count++] = -1;
}

void txb_pg_add_int8(struct txb_pg_params *p, int64_t v) {
  begin(p, TXB_OID_INT8);
  txb_buffer_add_u64(&p->bytes, (uint64_t)v);
  end(p);
}

void txb_pg_add_int4(struct txb_pg_params *p, int32_t v) {
  begin(p, TXB_OID_INT4);
  txb_buffer_add_u32(&p->bytes, (uint32_t)v);
  end(p);
}

void txb_pg_add_bool(struct txb_pg_params *p, bool v) {
  begin(p, TXB_OID_BOOL);
  txb_buffer_add(&p->bytes, v ? "\1" : "\0", 1);
  end(p);
}

static void add_bytes(struct txb_pg_params *p, uint32_t type_oid, struct txb_slice v) {
  if (v.data == NULL) {
    txb_pg_add_null(p, type_oid);
    return;
  }
  begin(p, type_oid);
  txb_buffer_add(&p->bytes, v.data, v.size);
  end(p);
}

void txb_pg_add_raw(struct txb_pg_params *p, uint32_t type_oid, struct txb_slice v) {
  add_bytes(p, type_oid, v);
}

void txb_pg_add_text(struct txb_pg_params *p, struct txb_slice v) {
  add_bytes(p, TXB_OID_TEXT, v);
}

void txb_pg_add_bytea(struct txb_pg_params *p, struct txb_slice v) {
  add_bytes(p, TXB_OID_BYTEA, v);
}

void txb_pg_add_jsonb(struct txb_pg_params *p, struct txb_slice v) {
  if (v.data == NULL) {
    txb_pg_add_null(p, TXB_OID_JSONB);
    return;
  }
  begin(p, TXB_OID_JSONB);
  txb_buffer_add(&p->bytes, "\1", 1); /* version of jsonb's binary form; text follows */
  txb_buffer_add(&p->bytes, v.data, v.size);
  end(p);
}

void txb_pg_add_uuid(struct txb_pg_params *p, const struct txb_uuid *v) {
  add_bytes(p, TXB_OID_UUID, txb_slice_of(v == NULL ? NULL : v->bytes, sizeof v->bytes));
}

static uint64_t to_postgres_us(int64_t wall_us) {
  return (uint64_t)wall_us - (uint64_t)POSTGRES_EPOCH_US;
}

void txb_pg_add_timestamptz(struct txb_pg_params *p, int64_t wall_us) {
  begin(p, TXB_OID_TIMESTAMPTZ);
  txb_buffer_add_u64(&p->bytes, to_postgres_us(wall_us));
  end(p);
}

/* pg_type.typarray */
static uint32_t array_oid(uint32_t element_oid) {
  static const struct {
    uint32_t element, array;
  } types[] = {
      {TXB_OID_BOOL, 1000},  {TXB_OID_BYTEA, 1001},          {TXB_OID_INT8, 1016},
      {TXB_OID_INT2, 1005},  {TXB_OID_INT4, 1007},           {TXB_OID_TEXT, 1009},
      {TXB_OID_JSON, 199},   {TXB_OID_TIMESTAMPTZ, 1185},    {TXB_OID_UUID, 2951},
      {TXB_OID_JSONB, 3807}, {TXB_OID_INT8MULTIRANGE, 6157},
  };
  for (size_t i = 0; i < TXB_ARRAY_SIZE(types); i++)
    if (types[i].element == element_oid)
      return types[i].array;
  bool type_is_in_the_table = false;
  TXB_ASSERT(type_is_in_the_table);
  return 0;
}

void txb_pg_array_begin(struct txb_pg_params *p, uint32_t element_oid) {
  begin(p, array_oid(element_oid));
  txb_buffer_add_u32(&p->bytes, 1);
  txb_buffer_add_u32(&p->bytes, 0);
  txb_buffer_add_u32(&p->bytes, element_oid);
  txb_buffer_add_u32(&p->bytes, 0);
  txb_buffer_add_u32(&p->bytes, 1);
}

/* Where a field of the open array's head lies. The buffer must not have failed. */
static char *head(struct txb_pg_params *p, size_t field) {
  return p->bytes.data + p->start[p->count] + field;
}

static uint32_t head_count(struct txb_pg_params *p) {
  uint32_t v;
  memcpy(&v, head(p, HEAD_COUNT), sizeof v);
  return __builtin_bswap32(v);
}

static void set_head(struct txb_pg_params *p, size_t field, uint32_t v) {
  v = __builtin_bswap32(v);
  memcpy(head(p, field), &v, sizeof v);
}

/* The next element's length; false when there is no memory: nothing more is written then. */
static bool element(struct txb_pg_params *p, size_t size) {
  if (size > INT_MAX)
    p->bytes.failed = true;
  txb_buffer_add_u32(&p->bytes, (uint32_t)size);
  if (p->bytes.failed)
    return false;
  set_head(p, HEAD_COUNT, head_count(p) + 1);
  return true;
}

static void null_element(struct txb_pg_params *p) {
  txb_buffer_add_u32(&p->bytes, UINT32_MAX);
  if (p->bytes.failed)
    return;
  set_head(p, HEAD_COUNT, head_count(p) + 1);
  set_head(p, HEAD_NULLS, 1);
}

void txb_pg_array_int8(struct txb_pg_params *p, int64_t v) {
  if (element(p, 8))
    txb_buffer_add_u64(&p->bytes, (uint64_t)v);
}

void txb_pg_array_int4(struct txb_pg_params *p, int32_t v) {
  if (element(p, 4))
    txb_buffer_add_u32(&p->bytes, (uint32_t)v);
}

void txb_pg_array_bytes(struct txb_pg_params *p, struct txb_slice v) {
  if (v.data == NULL)
    null_element(p);
  else if (element(p, v.size))
    txb_buffer_add(&p->bytes, v.data, v.size);
}

void txb_pg_array_jsonb(struct txb_pg_params *p, struct txb_slice v) {
  if (v.data == NULL) {
    null_element(p);
  } else if (element(p, v.size + 1)) {
    txb_buffer_add(&p->bytes, "\1", 1);
    txb_buffer_add(&p->bytes, v.data, v.size);
  }
}

void txb_pg_array_timestamptz(struct txb_pg_params *p, int64_t wall_us) {
  if (element(p, 8))
    txb_buffer_add_u64(&p->bytes, to_postgres_us(wall_us));
}

void txb_pg_array_end(struct txb_pg_params *p) {
  if (!p->bytes.failed && head_count(p) == 0) { /* an empty array has no dimension */
    set_head(p, 0, 0);
    p->bytes.size = p->start[p->count] + HEAD_SIZE_EMPTY;
  }
  end(p);
}
