/* Keys that are held: (topic, key) -> the sequence number of the refused intent from which on nothing of that key is
 * published (R5), and how far it has been drained since somebody decided about that intent. A hash set. Pure. What it
 * holds is stored in txb.relay_hold in the transaction that records the refused intent, so a crash before or after
 * leaves both or neither. */
#ifndef TXB_OUTBOX_KEY_HOLDS_H
#define TXB_OUTBOX_KEY_HOLDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/slice.h"

enum txb_key_state {
  TXB_KEY_HELD,
  TXB_KEY_DRAINING, /* rows below lo have been read, those from lo on come by pages */
  TXB_KEY_ENDING,   /* all have been read; the stored hold ends when all are acknowledged */
};

struct txb_key_hold { /* where it is does not change as long as it is there */
  uint64_t hash;
  int64_t lo;        /* held from here on; while it is drained: the next number to drain */
  int64_t stored_lo; /* in txb.relay_hold; 0: not yet stored */
  uint32_t topic;
  uint32_t open; /* drained rows not yet done */
  enum txb_key_state state;
  bool wanted; /* somebody has decided about a failed intent of it: it is to be drained */
  bool listed; /* its drain has been begun, and a checkpoint has not yet said how it ended */
  struct txb_slice key;
};

struct txb_key_holds {         /* zeroed is empty */
  struct txb_key_hold **slots; /* open addressing; a power of two */
  size_t count, capacity;
  size_t wanted; /* how many are */
};

void txb_key_holds_fini(struct txb_key_holds *holds);
/* The hold of a key, made when there is none: then HELD with lo 0, for the caller to fill in. The key is copied. */
enum txb_rc txb_key_holds_add(struct txb_key_holds *holds, uint32_t topic, struct txb_slice key,
                              struct txb_key_hold **out, struct txb_error *err) TXB_MUST_CHECK;
/* NULL: this key is not held. */
struct txb_key_hold *txb_key_holds_find(const struct txb_key_holds *holds, uint32_t topic, struct txb_slice key);
/* Takes a hold out without freeing it: txb_key_hold_free does. */
void txb_key_holds_remove(struct txb_key_holds *holds, struct txb_key_hold *hold);
void txb_key_hold_free(struct txb_key_hold *hold);
void txb_key_holds_want(struct txb_key_holds *holds, struct txb_key_hold *hold, bool wanted);

#endif
