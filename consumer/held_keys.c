/* A hash set of held keys, with how many rows hold each. */
#include "consumer/held_keys.h"

#include <string.h>

#include "common/memory.h"

struct txb_held_key {
  int64_t rows; /* 0: free */
  uint64_t hash;
  void *key;
  size_t key_size;
};

void txb_held_keys_clear(struct txb_held_keys *keys) {
  for (size_t i = 0; i < keys->capacity; i++) {
    txb_free(keys->slots[i].key);
    keys->slots[i] = (struct txb_held_key){0};
  }
  keys->count = 0;
  keys->rows = 0;
}

void txb_held_keys_fini(struct txb_held_keys *keys) {
  txb_held_keys_clear(keys);
  txb_free(keys->slots);
  *keys = (struct txb_held_keys){0};
}

/* FNV-1a; the last step spreads it over the low bits, which choose the slot. */
static uint64_t hash_of(struct txb_slice key) {
  const unsigned char *p = key.data;
  uint64_t h = 0xcbf29ce484222325U;
  for (size_t i = 0; i < key.size; i++)
    h = (h ^ p[i]) * 0x100000001b3U;
  return h ^ h >> 29;
}

/* The slot of this key, or the free one where it belongs. */
static size_t slot_of(const struct txb_held_keys *keys, uint64_t hash, struct txb_slice key) {
  for (size_t i = (size_t)hash & (keys->capacity - 1);; i = (i + 1) & (keys->capacity - 1)) {
    const struct txb_held_key *s = &keys->slots[i];
    if (s->rows == 0)
      return i;
    if (s->hash == hash && s->key_size == key.size && memcmp(s->key, key.data, key.size) == 0)
      return i;
  }
}

static enum txb_rc grow(struct txb_held_keys *keys, struct txb_error *err) {
  struct txb_held_keys bigger = {.capacity = keys->capacity == 0 ? 16 : keys->capacity * 2};
  void *slots;
  TXB_TRY(txb_alloc_array(bigger.capacity, sizeof *bigger.slots, &slots, err));
  bigger.slots = slots;
  for (size_t i = 0; i < keys->capacity; i++) {
    const struct txb_held_key *s = &keys->slots[i];
    if (s->rows != 0)
      bigger.slots[slot_of(&bigger, s->hash, txb_slice_of(s->key, s->key_size))] = *s;
  }
  txb_free(keys->slots);
  keys->slots = bigger.slots;
  keys->capacity = bigger.capacity;
  return TXB_OK;
}

enum txb_rc txb_held_keys_add(struct txb_held_keys *keys, struct txb_slice key, int64_t rows, struct txb_error *err) {
  TXB_ASSERT(rows > 0 && key.data != NULL);
  if (keys->count * 2 >= keys->capacity)
    TXB_TRY(grow(keys, err));
  uint64_t hash = hash_of(key);
  struct txb_held_key *s = &keys->slots[slot_of(keys, hash, key)];
  if (s->rows == 0) {
    void *copy;
    TXB_TRY(txb_alloc(key.size, &copy, err));
    memcpy(copy, key.data, key.size);
    *s = (struct txb_held_key){.hash = hash, .key = copy, .key_size = key.size};
    keys->count++;
  }
  s->rows += rows;
  keys->rows += rows;
  return TXB_OK;
}

/* Frees a slot and moves up those behind it that would not be found any more: no search may end at a gap too early. */
static void forget(struct txb_held_keys *keys, size_t gap) {
  size_t mask = keys->capacity - 1;
  txb_free(keys->slots[gap].key);
  for (size_t i = (gap + 1) & mask; keys->slots[i].rows != 0; i = (i + 1) & mask) {
    size_t home = (size_t)keys->slots[i].hash & mask;
    if (((i - home) & mask) < ((i - gap) & mask))
      continue;
    keys->slots[gap] = keys->slots[i];
    gap = i;
  }
  keys->slots[gap] = (struct txb_held_key){0};
  keys->count--;
}

void txb_held_keys_remove(struct txb_held_keys *keys, struct txb_slice key, int64_t rows) {
  if (keys->count == 0 || key.data == NULL || rows <= 0)
    return;
  size_t i = slot_of(keys, hash_of(key), key);
  struct txb_held_key *s = &keys->slots[i];
  if (s->rows == 0)
    return;
  int64_t fewer = rows < s->rows ? rows : s->rows;
  keys->rows -= fewer;
  if (fewer == s->rows)
    forget(keys, i);
  else
    s->rows -= fewer;
}

int64_t txb_held_keys_find(const struct txb_held_keys *keys, struct txb_slice key) {
  if (keys->count == 0 || key.data == NULL)
    return 0;
  return keys->slots[slot_of(keys, hash_of(key), key)].rows;
}
