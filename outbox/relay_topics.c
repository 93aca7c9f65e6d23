/* Numbers for topic names: a row's topic is compared once, then it is an index. */
#include <string.h>

#include "common/memory.h"
#include "outbox/relay_internal.h"

void txb_relay_topics_fini(struct txb_relay_topics *topics) {
  for (uint32_t i = 0; i < topics->count; i++)
    txb_free(topics->items[i].name);
  txb_free(topics->items);
  txb_free(topics->slots);
  *topics = (struct txb_relay_topics){0};
}

void txb_relay_topics_drop_handles(struct txb_relay_topics *topics) {
  for (uint32_t i = 0; i < topics->count; i++)
    topics->items[i].handle = NULL;
}

static bool is_named(const struct txb_relay_topic_name *topic, struct txb_slice name) {
  return topic->size == name.size && memcmp(topic->name, name.data, name.size) == 0;
}

/* FNV-1a */
static uint32_t slot_of(const struct txb_relay_topics *topics, struct txb_slice name) {
  const unsigned char *p = name.data;
  uint32_t h = 0x811c9dc5U;
  for (size_t i = 0; i < name.size; i++)
    h = (h ^ p[i]) * 0x01000193U;
  uint32_t slot = h & (topics->slot_count - 1);
  while (topics->slots[slot] != 0 && !is_named(&topics->items[topics->slots[slot] - 1], name))
    slot = (slot + 1) & (topics->slot_count - 1);
  return slot;
}

static enum txb_rc grow(struct txb_relay_topics *topics, struct txb_error *err) {
  uint32_t capacity = topics->capacity == 0 ? 16 : topics->capacity * 2;
  void *items = topics->items, *slots;
  TXB_TRY(txb_realloc_array(&items, capacity, sizeof *topics->items, err));
  topics->items = items;
  TXB_TRY(txb_alloc_array((size_t)capacity * 2, sizeof *topics->slots, &slots, err));
  txb_free(topics->slots);
  topics->slots = slots;
  topics->slot_count = capacity * 2;
  topics->capacity = capacity;
  for (uint32_t i = 0; i < topics->count; i++)
    topics->slots[slot_of(topics, txb_slice_of(topics->items[i].name, topics->items[i].size))] = i + 1;
  return TXB_OK;
}

enum txb_rc txb_relay_topics_number(struct txb_relay_topics *topics, struct txb_slice name, uint32_t *out,
                                    struct txb_error *err) {
  if (topics->last < topics->count && is_named(&topics->items[topics->last], name)) {
    *out = topics->last;
    return TXB_OK;
  }
  if (topics->count == topics->capacity)
    TXB_TRY(grow(topics, err));
  uint32_t slot = slot_of(topics, name);
  if (topics->slots[slot] == 0) {
    void *copy;
    TXB_TRY(txb_alloc(name.size + 1, &copy, err)); /* zeroed: ends with a NUL */
    memcpy(copy, name.data, name.size);
    topics->items[topics->count] = (struct txb_relay_topic_name){.name = copy, .size = name.size};
    topics->slots[slot] = ++topics->count;
  }
  *out = topics->last = topics->slots[slot] - 1;
  return TXB_OK;
}
