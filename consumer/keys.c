/* The held keys of the partitions that this worker owns: read whole, and kept up with what it does itself. A copy that is
 * too small would let a message pass its failed predecessor, so every batch compares the version; a crash loses the copy
 * alone. A lane's are also those of the live partitions of its topic, and are read whole each time that it changes any. */
#include <limits.h>

#include "consumer/worker_internal.h"

/* The columns of worker_keys.sql. */
enum { KEYS_VERSION = 0, KEYS_DUE, KEYS_HELD, KEYS_GROUP_HELD, KEYS_KEY, KEYS_MESSAGES };
/* Those of worker_settle.sql and worker_condemn.sql. */
enum { LEFT_DUE = 0, LEFT_HELD, LEFT_GROUP_HELD, LEFT_KEY };

static int64_t due_of(const struct txb_pg_result *r, int column) {
  if (txb_pg_is_null(r, 0, column))
    return -1;
  int64_t due = txb_pg_int8(r, 0, column);
  return due > 0 ? due : 0;
}

enum txb_rc txb_worker_keys_end(txb_worker_t *w, struct txb_error *err) {
  const struct txb_pg_result *r = w->operation.results[w->operation.answers - 1];
  struct txb_worker_place *place = &w->places[w->operation.action.slot];
  struct txb_worker_event e = txb_worker_event_now(TXB_WE_KEYS, w->operation.action.slot);
  txb_held_keys_clear(&place->keys);
  place->keys_change++;
  if (txb_pg_rows(r) == 0) { /* deleted by hand */
    e.kind = TXB_WE_FAILED;
    e.failure = TXB_FAILURE_WAIT;
    txb_worker_step(w, &e);
    return TXB_OK;
  }
  for (int row = 0; row < txb_pg_rows(r); row++)
    if (!txb_pg_is_null(r, row, KEYS_KEY))
      TXB_TRY(txb_held_keys_add(&place->keys, txb_pg_bytes(r, row, KEYS_KEY), txb_pg_int8(r, row, KEYS_MESSAGES), err));
  place->keys_version = txb_pg_int8(r, 0, KEYS_VERSION);
  place->held = txb_pg_int8(r, 0, KEYS_HELD);
  place->group_held = txb_pg_int8(r, 0, KEYS_GROUP_HELD);
  e.keys_version = place->keys_version;
  e.due_ms = due_of(r, KEYS_DUE);
  e.held_count = place->held;
  txb_worker_step(w, &e);
  return TXB_OK;
}

enum txb_rc txb_worker_keys_added(txb_worker_t *w, const struct txb_worker_batch *b, struct txb_error *err) {
  struct txb_worker_place *place = &w->places[b->slot];
  struct txb_worker_source source = {.batch = b};
  if (place->partition < 0) /* some of it may have gone to a live partition: they are read anew */
    return TXB_OK;
  for (int32_t i = 0; i < b->aside_count; i++) {
    struct txb_worker_item item;
    place->held += b->aside[i].state == TXB_ASIDE_HELD;
    if (!b->aside[i].holds)
      continue;
    txb_worker_item_of(w, &source, b->aside[i].index, &item);
    if (txb_held_keys_find(&place->keys, item.key) == 0)
      place->keys_change++; /* what was made ahead may hold messages of it */
    TXB_TRY(txb_held_keys_add(&place->keys, item.key, 1, err));
  }
  return TXB_OK;
}

int64_t txb_worker_keys_left(txb_worker_t *w, const struct txb_pg_result *left) {
  struct txb_worker_place *place = &w->places[w->operation.action.slot];
  for (int row = 0; row < txb_pg_rows(left); row++) {
    struct txb_slice key = txb_pg_bytes(left, row, LEFT_KEY);
    int64_t rows = key.data != NULL ? txb_held_keys_find(&place->keys, key) : 0;
    if (rows == 0)
      continue;
    txb_held_keys_remove(&place->keys, key, rows);
    place->keys_change++;
  }
  if (txb_pg_rows(left) == 0)
    return -1;
  place->held = txb_pg_int8(left, 0, LEFT_HELD);
  place->group_held = txb_pg_int8(left, 0, LEFT_GROUP_HELD);
  return due_of(left, LEFT_DUE);
}

void txb_worker_keys_forget(struct txb_worker_place *place) {
  txb_held_keys_fini(&place->keys);
  txb_pg_result_free(place->retry);
  place->retry = NULL;
}
