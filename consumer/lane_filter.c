/* See lane_filter.h. */
#include "consumer/lane_filter.h"

#include "common/memory.h"

/* Of PostgreSQL's binary form of an array: dimensions, flags, type; of each dimension its size and first index; of each
 * element its size (-1: NULL) and bytes. */
#define HEAD_SIZE      12
#define DIMENSION_SIZE 8

static int compare(const void *a, const void *b) {
  const struct txb_slice *x = a, *y = b;
  size_t size = x->size < y->size ? x->size : y->size;
  int c = size > 0 ? memcmp(x->data, y->data, size) : 0;
  return c != 0 ? c : (x->size > y->size) - (x->size < y->size);
}

static int32_t number_at(const char *bytes, size_t at) {
  uint32_t v;
  memcpy(&v, bytes + at, sizeof v);
  return (int32_t)__builtin_bswap32(v);
}

static void collect(struct txb_lane_filter *f, size_t size, int32_t elements) {
  size_t at = HEAD_SIZE + DIMENSION_SIZE;
  for (int32_t i = 0; i < elements; i++) {
    TXB_ASSERT(at + 4 <= size);
    int32_t n = number_at(f->bytes, at);
    at += 4;
    if (n < 0)
      continue;
    TXB_ASSERT((size_t)n <= size - at);
    f->values[f->count++] = txb_slice_of(f->bytes + at, (size_t)n);
    at += (size_t)n;
  }
}

enum txb_rc txb_lane_filter_init(struct txb_lane_filter *f, struct txb_slice array, struct txb_error *err) {
  void *memory = NULL;
  *f = (struct txb_lane_filter){.all = array.data == NULL};
  if (f->all)
    return TXB_OK;
  TXB_ASSERT(array.size >= HEAD_SIZE);
  TXB_TRY(txb_alloc(array.size, &memory, err));
  f->bytes = memory;
  memcpy(f->bytes, array.data, array.size);
  int32_t dimensions = number_at(f->bytes, 0);
  TXB_ASSERT(dimensions == 0 || (dimensions == 1 && array.size >= HEAD_SIZE + DIMENSION_SIZE));
  int32_t elements = dimensions == 0 ? 0 : number_at(f->bytes, HEAD_SIZE);
  TXB_ASSERT(elements >= 0);
  TXB_TRY(txb_alloc_array((size_t)elements, sizeof *f->values, &memory, err));
  f->values = memory;
  collect(f, array.size, elements);
  qsort(f->values, f->count, sizeof *f->values, compare);
  return TXB_OK;
}

void txb_lane_filter_fini(struct txb_lane_filter *f) {
  txb_free(f->values);
  txb_free(f->bytes);
  *f = (struct txb_lane_filter){.all = false};
}

bool txb_lane_filter_passes(const struct txb_lane_filter *f, struct txb_slice value) {
  if (f->all)
    return true;
  return value.data != NULL && f->count > 0 && bsearch(&value, f->values, f->count, sizeof *f->values, compare) != NULL;
}
