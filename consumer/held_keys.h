/* The held keys of one owned partition: which, and how many rows of txb.failed hold each. A hash set; pure.
 *
 * A copy of what the database says, read at one keys_version (txb.failed_keys) and kept up with what this worker itself
 * sets aside and resolves. Whatever somebody else changes raises the version, which every batch compares, so a stale
 * copy costs a rollback and never an order. A crash loses nothing.
 */
#ifndef TXB_CONSUMER_HELD_KEYS_H
#define TXB_CONSUMER_HELD_KEYS_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/slice.h"

struct txb_held_keys {        /* zeroed is empty */
  struct txb_held_key *slots; /* open addressing; a power of two */
  size_t count, capacity;     /* count: keys */
  int64_t rows;               /* of all keys */
};

void txb_held_keys_fini(struct txb_held_keys *keys);
/* Forgets all keys and keeps the table. */
void txb_held_keys_clear(struct txb_held_keys *keys);
/* `rows` (>= 1) more of this key, whose bytes are copied. TXB_FATAL: no memory, nothing changed. */
enum txb_rc txb_held_keys_add(struct txb_held_keys *keys, struct txb_slice key, int64_t rows,
                              struct txb_error *err) TXB_MUST_CHECK;
/* `rows` fewer, at most as many as there are; at none the key is forgotten. */
void txb_held_keys_remove(struct txb_held_keys *keys, struct txb_slice key, int64_t rows);
/* How many rows hold it; 0: it is free. A message without a key (data NULL) is never held; an empty key is a key. */
int64_t txb_held_keys_find(const struct txb_held_keys *keys, struct txb_slice key);

#endif
