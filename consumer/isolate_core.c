/* See isolate_core.h. Pure: no clock, no log, no libpq, no allocation. */
#include "consumer/isolate_core.h"

#include <string.h>

#include "common/error.h"

#define WAYS 4 /* a piece that failed is split so */

void txb_isolate_init(struct txb_isolate *iso, const struct txb_isolate_options *options,
                      struct txb_isolate_item *items, uint32_t count, uint32_t *segment, uint8_t *blocked) {
  TXB_ASSERT(options->savepoints >= 1 && options->savepoints <= TXB_ISOLATE_SAVEPOINTS);
  TXB_ASSERT(options->culprit < 0 || (uint32_t)options->culprit < count);
  *iso = (struct txb_isolate){.options = *options,
                              .items = items,
                              .segment = segment,
                              .blocked = blocked,
                              .count = count,
                              .chunk = options->chunk == 0 || options->chunk > count ? count : options->chunk,
                              .culprit = options->culprit};
  if (iso->chunk == 0)
    iso->chunk = 1;
  memset(blocked, 0, (size_t)count + 1);
  for (uint32_t i = 0; i < count; i++) {
    TXB_ASSERT(items[i].key_class <= count);
    items[i].state = TXB_ISOLATE_NOT_REACHED;
  }
}

static bool is_behind(const struct txb_isolate *iso, uint32_t i) {
  return iso->items[i].key_class != 0 && iso->blocked[iso->items[i].key_class] != 0 && !iso->options.bug_behind_runs;
}

static uint32_t part(uint32_t size) {
  return (size + WAYS - 1) / WAYS;
}

/* Where the next piece ends. Within a range that failed: a part of it; when all the others were fine, it is the last one
 * that fails, and it is split before it is tried. A known culprit is run alone. */
static uint32_t piece_end(struct txb_isolate *iso) {
  uint32_t size = iso->chunk, limit = iso->count;
  if (iso->depth > 0) {
    limit = iso->bad[iso->depth - 1].end;
    if (limit - iso->at <= iso->bad[iso->depth - 1].piece)
      iso->bad[iso->depth - 1].piece = part(limit - iso->at);
    size = iso->bad[iso->depth - 1].piece;
  }
  uint32_t end = size < limit - iso->at ? iso->at + size : limit;
  if (iso->culprit < 0 || (uint32_t)iso->culprit < iso->at || (uint32_t)iso->culprit >= end)
    return end;
  return (uint32_t)iso->culprit > iso->at ? (uint32_t)iso->culprit : iso->at + 1;
}

/* Everything before `to` is settled: ranges that end there are through. */
static void advance(struct txb_isolate *iso, uint32_t to) {
  iso->at = to;
  while (iso->depth > 0 && iso->bad[iso->depth - 1].end <= to)
    iso->depth--;
}

static void end_run(struct txb_isolate *iso) {
  iso->ended = true;
  iso->settled = iso->at;
  for (uint32_t i = iso->at; i < iso->reached; i++) /* seen to be behind others, in pieces that failed */
    iso->items[i].state = TXB_ISOLATE_NOT_REACHED;
}

bool txb_isolate_next(struct txb_isolate *iso, const uint32_t **segment_out, uint32_t *count_out) {
  TXB_ASSERT(!iso->under_way);
  while (!iso->ended) {
    if (iso->at == iso->count || iso->savepoints >= iso->options.savepoints) {
      end_run(iso);
      break;
    }
    iso->end = piece_end(iso);
    iso->reached = iso->end > iso->reached ? iso->end : iso->reached;
    iso->run = 0;
    for (uint32_t i = iso->at; i < iso->end; i++) {
      if (is_behind(iso, i))
        iso->items[i].state = TXB_ISOLATE_BEHIND;
      else
        iso->segment[iso->run++] = i;
    }
    if (iso->run > 0) {
      iso->under_way = true;
      *segment_out = iso->segment;
      *count_out = iso->run;
      return true;
    }
    advance(iso, iso->end);
  }
  return false;
}

static void ran(struct txb_isolate *iso) {
  bool known_bad = iso->depth > 0;
  for (uint32_t i = 0; i < iso->run; i++)
    iso->items[iso->segment[i]].state = TXB_ISOLATE_OK;
  iso->savepoints++;
  advance(iso, iso->end);
  if (!known_bad)
    iso->chunk = iso->chunk > iso->count / 2 ? iso->count : iso->chunk * 2;
}

/* It failed alone. Why the ranges around it failed is known now, and what is left of them may be good. */
static void blame(struct txb_isolate *iso) {
  uint32_t i = iso->segment[0];
  iso->items[i].state = TXB_ISOLATE_FAILED;
  iso->failed++;
  if (iso->items[i].key_class != 0)
    iso->blocked[iso->items[i].key_class] = 1;
  iso->depth = 0;
  iso->chunk = iso->chunk > 1 ? iso->chunk / 2 : 1;
  /* Those up to the end of its piece that are not behind anything were none, so nothing is passed over. */
  advance(iso, iso->end);
}

/* More than one ran, and one of them failed; `culprit` as told, which need not be true: pieces become smaller all the
 * same. */
static void split(struct txb_isolate *iso, int32_t culprit) {
  iso->culprit = culprit;
  if (iso->depth == 0 || iso->bad[iso->depth - 1].end != iso->end) {
    TXB_ASSERT(iso->depth < TXB_ISOLATE_DEPTH); /* each is at most a fourth of the one around it */
    iso->depth++;
  }
  iso->bad[iso->depth - 1].end = iso->end;
  iso->bad[iso->depth - 1].piece = part(iso->end - iso->at);
}

/* It failed alone, for a passing reason. Those before it in its piece are behind others, and settled. */
static void stop_before(struct txb_isolate *iso) {
  iso->at = iso->segment[0];
  iso->transient = true;
  end_run(iso);
}

void txb_isolate_answer(struct txb_isolate *iso, enum txb_isolate_verdict verdict, int32_t culprit) {
  TXB_ASSERT(iso->under_way);
  iso->under_way = false;
  iso->handled += iso->run;
  switch (verdict) {
  case TXB_ISOLATE_RAN:
    ran(iso);
    return;
  case TXB_ISOLATE_COUNTS:
    if (iso->run == 1)
      blame(iso);
    else
      split(iso, culprit);
    return;
  case TXB_ISOLATE_TRANSIENT:
    iso->chunk = iso->chunk > 1 ? iso->chunk / 2 : 1;
    if (iso->run == 1)
      stop_before(iso);
    else
      split(iso, culprit);
    return;
  }
}

uint32_t txb_isolate_chunk(const struct txb_isolate *iso) {
  return iso->chunk;
}

/* ---- equal keys ------------------------------------------------------------------------------ */

static int compare(struct txb_slice a, struct txb_slice b) {
  if (a.data == NULL || b.data == NULL)
    return (a.data != NULL) - (b.data != NULL);
  size_t size = a.size < b.size ? a.size : b.size;
  int c = size == 0 ? 0 : memcmp(a.data, b.data, size);
  return c != 0 ? c : (a.size > b.size) - (a.size < b.size);
}

/* A heap sort of indexes by key, since it needs neither memory nor luck. */
static void sift(const struct txb_slice *keys, uint32_t *order, size_t root, size_t end) {
  for (size_t child; (child = 2 * root + 1) < end; root = child) {
    if (child + 1 < end && compare(keys[order[child]], keys[order[child + 1]]) < 0)
      child++;
    if (compare(keys[order[root]], keys[order[child]]) >= 0)
      return;
    uint32_t swap = order[root];
    order[root] = order[child];
    order[child] = swap;
  }
}

void txb_isolate_key_classes(const struct txb_slice *keys, uint32_t count, uint32_t *order, uint32_t *class_out) {
  for (uint32_t i = 0; i < count; i++)
    order[i] = i;
  for (size_t i = count / 2; i-- > 0;)
    sift(keys, order, i, count);
  for (size_t end = count; end-- > 1;) {
    uint32_t swap = order[0];
    order[0] = order[end];
    order[end] = swap;
    sift(keys, order, 0, end);
  }
  uint32_t class = 0;
  for (uint32_t i = 0; i < count; i++) {
    bool absent = keys[order[i]].data == NULL;
    class += !absent && (i == 0 || compare(keys[order[i - 1]], keys[order[i]]) != 0);
    class_out[order[i]] = absent ? 0 : class;
  }
}
