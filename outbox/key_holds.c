/* A hash set of held keys. */
#include "outbox/key_holds.h"

#include <string.h>

#include "common/memory.h"

void txb_key_holds_fini(struct txb_key_holds *holds) {
  for (size_t i = 0; i < holds->capacity; i++)
    txb_key_hold_free(holds->slots[i]);
  txb_free(holds->slots);
  *holds = (struct txb_key_holds){0};
}

void txb_key_hold_free(struct txb_key_hold *hold) {
  txb_free(hold);
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
    const struct txb_key_hold *s = holds->slots[i];
    if (s == NULL || (s->hash == hash && s->topic == topic && txb_slice_equal(s->key, key)))
      return i;
  }
}

static enum txb_rc grow(struct txb_key_holds *holds, struct txb_error *err) {
  struct txb_key_holds bigger = {
      .count = holds->count, .capacity = holds->capacity == 0 ? 16 : holds->capacity * 2, .wanted = holds->wanted};
  void *slots;
  TXB_TRY(txb_alloc_array(bigger.capacity, sizeof(void *), &slots, err));
  bigger.slots = slots;
  for (size_t i = 0; i < holds->capacity; i++) {
    struct txb_key_hold *s = holds->slots[i];
    if (s != NULL)
      bigger.slots[slot_of(&bigger, s->hash, s->topic, s->key)] = s;
  }
  txb_free(holds->slots);
  *holds = bigger;
  return TXB_OK;
}

enum txb_rc txb_key_holds_add(struct txb_key_holds *holds, uint32_t topic, struct txb_slice key,
                              struct txb_key_hold **out, struct txb_error *err) {
  TXB_ASSERT(key.data != NULL);
  if (holds->count * 2 >= holds->capacity)
    TXB_TRY(grow(holds, err));
  uint64_t hash = hash_of(topic, key);
  struct txb_key_hold **slot = &holds->slots[slot_of(holds, hash, topic, key)];
  if (*slot == NULL) {
    void *p;
    TXB_TRY(txb_alloc(sizeof **slot + key.size, &p, err));
    *slot = p;
    **slot = (struct txb_key_hold){.hash = hash, .topic = topic, .key = txb_slice_of(*slot + 1, key.size)};
    memcpy(*slot + 1, key.data, key.size);
    holds->count++;
  }
  *out = *slot;
  return TXB_OK;
}

struct txb_key_hold *txb_key_holds_find(const struct txb_key_holds *holds, uint32_t topic, struct txb_slice key) {
  if (holds->count == 0 || key.data == NULL)
    return NULL;
  return holds->slots[slot_of(holds, hash_of(topic, key), topic, key)];
}

/* What stands behind the freed slot moves up, as far as a search would otherwise end too early. */
void txb_key_holds_remove(struct txb_key_holds *holds, struct txb_key_hold *hold) {
  size_t mask = holds->capacity - 1, free = slot_of(holds, hold->hash, hold->topic, hold->key);
  TXB_ASSERT(holds->slots[free] == hold);
  txb_key_holds_want(holds, hold, false);
  for (size_t i = (free + 1) & mask; holds->slots[i] != NULL; i = (i + 1) & mask) {
    size_t wanted = (size_t)holds->slots[i]->hash & mask;
    if (((i - wanted) & mask) < ((i - free) & mask))
      continue;
    holds->slots[free] = holds->slots[i];
    free = i;
  }
  holds->slots[free] = NULL;
  holds->count--;
}

void txb_key_holds_want(struct txb_key_holds *holds, struct txb_key_hold *hold, bool wanted) {
  holds->wanted += (size_t)wanted - (size_t)hold->wanted;
  hold->wanted = wanted;
}
