/* Keys that are held: (topic, key) -> the sequence number of the refused intent from which on nothing of that key is
 * published (R5). A hash set. Pure. What it holds is stored in txb.relay_hold in the transaction that records the
 * refused intent, so a crash before or after leaves both or neither. */
#ifndef TXB_OUTBOX_KEY_HOLDS_H
#define TXB_OUTBOX_KEY_HOLDS_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/slice.h"

struct txb_key_holds {        /* zeroed is empty */
  struct txb_key_hold *slots; /* open addressing; a power of two */
  size_t count, capacity;
};

void txb_key_holds_fini(struct txb_key_holds *holds);
/* Adds a hold from lo on, or lowers the one that is there. The key is copied. */
enum txb_rc txb_key_holds_add(struct txb_key_holds *holds, uint32_t topic, struct txb_slice key, int64_t lo,
                              struct txb_error *err) TXB_MUST_CHECK;
/* From which number on this key is held; INT64_MAX: it is not. */
int64_t txb_key_holds_find(const struct txb_key_holds *holds, uint32_t topic, struct txb_slice key);

#endif
