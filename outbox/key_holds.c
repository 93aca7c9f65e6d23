/* A hash set of held keys. */
#include "outbox/key_holds.h"

#include <string.h>

#include "common/memory.h"

struct txb_key_hold {
  int64_t lo; /* 0: free */
  uint64_t hash;
  char *key;
  size_t key_size;
  uint32_t topic;
};

void txb_key_holds_fini(struct txb_key_holds *holds) {
  for (size_t i = 0; i < holds->capacity; i++)
    txb_free(holds->slots[i].key);
  txb_free(holds->slots);
  *holds = (struct txb_key_holds){0};
}

/* FNV-1a; the last step spreads it over the low bits, which choose the slot. */
static uint64_t hash_of(uint32_t topic, struct txb_slice key) {
  const unsigned char *p = key.data;
  uint64_t h = 0xcbf29ce484222325U ^ topic;
  for (size_t i = 0; i < key.size; i++)
    h = (h ^ p[i]) * 0x100000001b3U;
  return h ^ h >> 29;
}

/* The slot of this key, or the free one where it belongs. */
static size_t slot_of(const struct txb_key_holds *holds, uint64_t hash, uint32_t topic, struct txb_slice key) {
  size_t i = (size_t)hash & (holds->capacity - 1);
  for (;; i = (i + 1) & (holds->capacity - 1)) {
    const struct txb_key_hold *s = &holds->slots[i];
    if (s->lo == 0)
      return i;
    if (s->hash == hash && s->topic == topic && s->key_size == key.size && memcmp(s->key, key.data, key.size) == 0)
      return i;
  }
}

static enum txb_rc grow(struct txb_key_holds *holds, struct txb_error *err) {
  struct txb_key_holds bigger = {.count = holds->count, .capacity = holds->capacity == 0 ? 16 : holds->capacity * 2};
  void *slots;
  TXB_TRY(txb_alloc_array(bigger.capacity, sizeof *bigger.slots, &slots, err));
  bigger.slots = slots;
  for (size_t i = 0; i < holds->capacity; i++) {
    const struct txb_key_hold *s = &holds->slots[i];
    if (s->lo != 0)
      bigger.slots[slot_of(&bigger, s->hash, s->topic, txb_slice_of(s->key, s->key_size))] = *s;
  }
  txb_free(holds->slots);
  *holds = bigger;
  return TXB_OK;
}

enum txb_rc txb_key_holds_add(struct txb_key_holds *holds, uint32_t topic, struct txb_slice key, int64_t lo,
                              struct txb_error *err) {
  TXB_ASSERT(lo > 0 && key.data != NULL);
  if (holds->count * 2 >= holds->capacity)
    TXB_TRY(grow(holds, err));
  uint64_t hash = hash_of(topic, key);
  struct txb_key_hold *s = &holds->slots[slot_of(holds, hash, topic, key)];
  if (s->lo != 0) {
    s->lo = lo < s->lo ? lo : s->lo;
    return TXB_OK;
  }
  void *copy;
  TXB_TRY(txb_alloc(key.size, &copy, err));
  memcpy(copy, key.data, key.size);
  *s = (struct txb_key_hold){.lo = lo, .hash = hash, .key = copy, .key_size = key.size, .topic = topic};
  holds->count++;
  return TXB_OK;
}

int64_t txb_key_holds_find(const struct txb_key_holds *holds, uint32_t topic, struct txb_slice key) {
  if (holds->count == 0 || key.data == NULL)
    return INT64_MAX;
  const struct txb_key_hold *s = &holds->slots[slot_of(holds, hash_of(topic, key), topic, key)];
  return s->lo == 0 ? INT64_MAX : s->lo;
}
