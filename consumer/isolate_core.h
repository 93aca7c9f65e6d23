/* A batch run again in pieces, each under a savepoint, so that one bad message costs only itself (W5). Pure, without
 * memory of its own; serves live batches and retries, SQL handlers and plugins.
 *
 *   txb_isolate_init(...)
 *   while (txb_isolate_next(&iso, &segment, &count))
 *     SAVEPOINT; run the candidates segment[0 .. count - 1] in order; RELEASE, or ROLLBACK TO and RELEASE
 *     txb_isolate_answer(&iso, verdict, culprit)
 *   then settle the first iso.settled candidates by their items' states; the rest was not reached
 *
 * A piece that fails is split about 4 ways until a message fails alone: that one is to blame, and later ones of its key
 * are behind it and are not run. How large the next pieces are follows how often they fail, so that the messages run in
 * all stay within a small multiple of the batch. No piece is in the order of anything but offsets: what is settled is
 * always a prefix.
 */
#ifndef TXB_CONSUMER_ISOLATE_CORE_H
#define TXB_CONSUMER_ISOLATE_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/slice.h"

enum {
  TXB_ISOLATE_SAVEPOINTS = 60, /* subtransactions that survive in one transaction: above 64 every snapshot of the server
                                  becomes slower */
  TXB_ISOLATE_DEPTH = 20
};

enum txb_isolate_state {
  TXB_ISOLATE_NOT_REACHED = 0,
  TXB_ISOLATE_OK,
  TXB_ISOLATE_FAILED, /* alone, so it is to blame */
  TXB_ISOLATE_BEHIND, /* one of its key failed before it */
};

/* A candidate: in what the inbox and the held keys have left of the batch, in order. */
struct txb_isolate_item {
  uint32_t key_class; /* 0: no key; equal for equal keys, at most the number of candidates */
  enum txb_isolate_state state;
};

enum txb_isolate_verdict {
  TXB_ISOLATE_RAN = 0,   /* all ok */
  TXB_ISOLATE_COUNTS,    /* one failed, of TXB_CLASS_COUNT or TXB_CLASS_DEAD */
  TXB_ISOLATE_TRANSIENT, /* TXB_CLASS_FREE or TXB_CLASS_WAIT: split too, but a single one ends the run before it */
};

struct txb_isolate_options {
  uint32_t chunk;       /* size of the first piece; 0: everything */
  uint32_t savepoints;  /* that may survive, 1 .. TXB_ISOLATE_SAVEPOINTS */
  int32_t culprit;      /* a candidate that is known to fail, to be run alone; -1: none */
  bool bug_behind_runs; /* planted: what is behind a failed message is run all the same */
};

struct txb_isolate {
  struct txb_isolate_options options;
  struct txb_isolate_item *items;
  uint32_t *segment; /* the candidates of the piece under way */
  uint8_t *blocked;  /* by key class */
  uint32_t count;
  uint32_t at;      /* everything before it is settled */
  uint32_t end;     /* of the piece under way, in candidates */
  uint32_t reached; /* the farthest end of any */
  uint32_t run;     /* candidates in it */
  uint32_t chunk;   /* size of the next piece outside of any that is known to fail */
  int32_t culprit;
  uint32_t savepoints; /* that survive */
  struct {
    uint32_t end, piece;
  } bad[TXB_ISOLATE_DEPTH]; /* ranges from `at` on that failed as a whole, the innermost last */
  uint32_t depth;
  bool under_way, ended;

  /* the result */
  uint32_t settled; /* candidates from the first on whose state is final */
  uint32_t failed;  /* of those, FAILED; BEHIND are not counted */
  bool transient;   /* ended before a message that failed for a passing reason */
  uint64_t handled; /* candidates run, with repetitions */
};

/* The caller gives the room: `items` with their key classes, `segment` for count numbers, `blocked` for count + 1. */
void txb_isolate_init(struct txb_isolate *iso, const struct txb_isolate_options *options,
                      struct txb_isolate_item *items, uint32_t count, uint32_t *segment, uint8_t *blocked);
/* The next piece; false: the run is over. The list lives until the next call. */
bool txb_isolate_next(struct txb_isolate *iso, const uint32_t **segment_out, uint32_t *count_out);
/* What became of it. `culprit`: the candidate that failed, when the handler or the server named it, else -1. */
void txb_isolate_answer(struct txb_isolate *iso, enum txb_isolate_verdict verdict, int32_t culprit);
/* For the next run of this partition: the size of its first piece, as this one ended. */
uint32_t txb_isolate_chunk(const struct txb_isolate *iso);

/* Numbers equal keys alike, from 1 on, in `class_out` (room for count, as `order`); a message without a key (data NULL)
 * gets 0. Needs no memory. */
void txb_isolate_key_classes(const struct txb_slice *keys, uint32_t count, uint32_t *order, uint32_t *class_out);

#endif
