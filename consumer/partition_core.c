/* See partition_core.h. Pure: no clock, no log, no libpq, no librdkafka; memory only through the failable allocator. */
#include "consumer/partition_core.h"

#include <string.h>

#include "common/memory.h"

#define RECHECK_MAX 3u /* doublings of the pause of a stopped partition */

void txb_partition_init(struct txb_partition *p, const struct txb_worker_core_options *o, bool lane) {
  *p = (struct txb_partition){.used = true,
                              .lane = lane,
                              .probed_next = -1,
                              .end_offset = -1,
                              .limit = o->batch_messages,
                              .grow_after = TXB_PARTITION_GROW_AFTER,
                              .culprit_offset = -1,
                              .condemned_offset = -1,
                              .retry_due_us = INT64_MAX,
                              .retry_condemned = -1,
                              .retry_limit = o->batch_messages,
                              .lost_alone_offset = -1,
                              .stalled_offset = -1,
                              .suspect_offset = -1,
                              .lost_next = -1,
                              .marked_offset = -1,
                              .copied_offset = -1};
}

void txb_partition_fini(struct txb_partition *p, const struct txb_worker_core_options *o) {
  txb_partition_pop(p, o, p->count, 0);
  txb_free(p->ring);
  *p = (struct txb_partition){.used = false};
}

static struct txb_worker_record *at(const struct txb_partition *p, size_t index) {
  TXB_ASSERT(index < p->count);
  return &p->ring[(p->head + index) & (p->ring_size - 1)];
}

const struct txb_worker_record *txb_partition_record(const struct txb_partition *p, size_t index) {
  return at(p, index);
}

void txb_partition_pop(struct txb_partition *p, const struct txb_worker_core_options *o, size_t n, int64_t now_us) {
  TXB_ASSERT(n <= p->count);
  for (size_t i = 0; i < n; i++) {
    struct txb_worker_record *r = at(p, 0);
    p->bytes -= r->size;
    if (o->drop != NULL)
      o->drop(o->drop_context, r->ref);
    p->head = (p->head + 1) & (p->ring_size - 1);
    p->count--;
  }
  if (p->count == 0)
    p->waiting_since_us = now_us;
}

static enum txb_rc grow(struct txb_partition *p, struct txb_error *err) {
  size_t size = p->ring_size == 0 ? 64 : p->ring_size * 2;
  void *fresh = NULL;
  TXB_TRY(txb_alloc_array(size, sizeof *p->ring, &fresh, err));
  struct txb_worker_record *ring = fresh;
  for (size_t i = 0; i < p->count; i++)
    ring[i] = *at(p, i);
  txb_free(p->ring);
  p->ring = ring;
  p->ring_size = size;
  p->head = 0;
  return TXB_OK;
}

/* W9: a record below the position must be the one that was applied last: between that one and the position none was. True
 * when fetching may go on. */
static bool probe(struct txb_partition *p, const struct txb_worker_core_options *o, const struct txb_worker_record *r,
                  int64_t now_us) {
  p->probing = false;
  p->heard_us = now_us;
  if (r->offset >= p->next_offset) /* compacted, or the end of a Kafka transaction: nothing to compare with */
    return true;
  bool same = r->offset == p->last_offset && memcmp(&r->id, &p->last_id, sizeof r->id) == 0 &&
              r->timestamp_ms == p->last_timestamp_ms;
  if (!same)
    txb_partition_stop(p, o, TXB_STOP_DIFFERENT, now_us);
  return same;
}

/* W9: a topic that is deleted and made anew by the same name tells nobody (librdkafka 2.0.2 knows no topic ids), and a
 * new record may lie where the next one was awaited. Between two records that follow each other closely there is no time
 * for that. */
static bool was_quiet(const struct txb_partition *p, const struct txb_worker_core_options *o, int64_t now_us) {
  return o->quiet_us > 0 && !p->lane && p->count == 0 && p->has_last && p->probed_next != p->next_offset &&
         now_us - p->heard_us >= o->quiet_us;
}

enum txb_rc txb_partition_push(struct txb_partition *p, const struct txb_worker_core_options *o,
                               const struct txb_worker_record *record, int64_t now_us, struct txb_error *err) {
  bool wanted = p->fetching && !p->leaving && record->offset >= p->fetch_offset;
  if (wanted && (p->probing || record->offset < p->next_offset))
    wanted = probe(p, o, record, now_us);
  if (wanted && record->offset < p->next_offset) { /* the probed record itself: applied already */
    p->fetch_offset = record->offset + 1;
    wanted = false;
  }
  if (wanted && was_quiet(p, o, now_us)) { /* it comes again, behind the one that it is to follow */
    p->fetching = p->paused = false;
    p->probing = true;
    p->probed_next = p->next_offset;
    p->fetch_offset = p->last_offset;
    p->end_offset = -1; /* there is something behind it */
    wanted = false;
  }
  if (!wanted) {
    if (o->drop != NULL)
      o->drop(o->drop_context, record->ref);
    return TXB_OK;
  }
  p->heard_us = now_us;
  if (p->count == p->ring_size)
    TXB_TRY(grow(p, err));
  if (p->count == 0)
    p->waiting_since_us = now_us;
  p->count++;
  *at(p, p->count - 1) = *record;
  p->bytes += record->size;
  p->fetch_offset = record->offset + 1;
  if (record->offset >= p->end_offset)
    p->end_offset = -1;
  return TXB_OK;
}

/* Records from index `base` on, at most max: as many as the bytes allow, and none from a condemned one on unless it
 * stands first. */
static int32_t cut(const struct txb_partition *p, const struct txb_worker_core_options *o, int32_t base, int32_t max,
                   int64_t *bytes, bool *full) {
  int32_t n = 0;
  while (!*full && n < max && (size_t)(base + n) < p->count) {
    const struct txb_worker_record *r = at(p, (size_t)(base + n));
    *full = n > 0 && (r->offset == p->condemned_offset || *bytes + r->size > o->batch_bytes);
    if (!*full) {
      *bytes += r->size;
      n++;
    }
  }
  *full = *full || n == max;
  return n;
}

int32_t txb_partition_full(const struct txb_partition *p, const struct txb_worker_core_options *o, int32_t base) {
  bool special = (size_t)base >= p->count || at(p, (size_t)base)->offset == p->stalled_offset ||
                 at(p, (size_t)base)->offset == p->condemned_offset;
  int64_t bytes = 0;
  bool full = false;
  int32_t n = special ? 0 : cut(p, o, base, p->limit, &bytes, &full);
  return full ? n : 0;
}

int32_t txb_partition_batch(const struct txb_partition *p, const struct txb_worker_core_options *o, int64_t now_us,
                            int64_t share) {
  if (p->count == 0)
    return 0;
  int64_t head = at(p, 0)->offset;
  if (head == p->stalled_offset)
    return now_us >= p->stall_due_us ? 1 : 0;
  if (head == p->condemned_offset)
    return 1;
  int32_t max = p->conflicts > 0 ? 1 : p->limit;
  if (p->suspect_left > 0) {
    int32_t step = p->singles_left > 0 ? 1 : p->suspect_step;
    max = step < max ? step : max;
  }
  int64_t bytes = 0;
  bool full = false;
  int32_t n = cut(p, o, 0, max, &bytes, &full);
  full = full || p->paused || bytes >= share;
  return full || now_us - p->waiting_since_us >= o->batch_wait_us ? n : 0;
}

void txb_partition_stop(struct txb_partition *p, const struct txb_worker_core_options *o, enum txb_stop why,
                        int64_t now_us) {
  txb_partition_pop(p, o, p->count, now_us);
  p->stop_told = p->stop_told && p->stop == why;
  p->stop = why;
  p->stall_tries = 0;
  p->own = TXB_OWN_STOPPED;
  p->asked = false;
  p->probing = false;
  p->retry_marked = 0; /* the stored marker stays out, for who takes it next; but nobody here waits for it any more */
  p->retry_mark_out = p->retry_condemn_attempt = false;
  p->due_us = now_us + (o->recheck_us << (p->refusals < RECHECK_MAX ? p->refusals : RECHECK_MAX));
  p->refusals++;
}

bool txb_partition_idle(const struct txb_partition *p) {
  return p->own == TXB_OWN_OWNED && !p->leaving && p->fetching && !p->probing && p->count == 0 && p->end_offset >= 0 &&
         p->next_offset >= p->end_offset && !p->more;
}

bool txb_partition_passes(const struct txb_partition *p) {
  return p->own == TXB_OWN_OWNED && !p->leaving && p->fetching && !p->paused && !p->probing && !p->doubted &&
         p->count == 0 && p->stalled_offset < 0 && p->end_offset > p->next_offset && p->fetch_offset <= p->end_offset;
}

void txb_partition_passed(struct txb_partition *p, int64_t new_next) {
  p->next_offset = new_next;
  if (p->fetching && !p->probing && p->fetch_offset < new_next)
    p->fetch_offset = new_next;
}

/* Sorts indexes by id, and by position among equal ids: a heap sort, since it needs neither memory nor luck. */
static bool before(const struct txb_uuid *ids, uint32_t a, uint32_t b) {
  int c = memcmp(&ids[a], &ids[b], sizeof ids[a]);
  return c < 0 || (c == 0 && a < b);
}

static void sift(const struct txb_uuid *ids, uint32_t *order, size_t root, size_t end) {
  for (size_t child; (child = 2 * root + 1) < end; root = child) {
    if (child + 1 < end && before(ids, order[child], order[child + 1]))
      child++;
    if (!before(ids, order[root], order[child]))
      return;
    uint32_t swap = order[root];
    order[root] = order[child];
    order[child] = swap;
  }
}

size_t txb_batch_candidates(const struct txb_uuid *ids, size_t count, uint32_t *order, bool *first) {
  bool sorted = true;
  for (size_t i = 0; i < count; i++) {
    order[i] = (uint32_t)i;
    sorted = sorted && (i == 0 || before(ids, (uint32_t)i - 1, (uint32_t)i));
  }
  for (size_t i = count / 2; !sorted && i-- > 0;)
    sift(ids, order, i, count);
  for (size_t end = count; !sorted && end-- > 1;) {
    uint32_t swap = order[0];
    order[0] = order[end];
    order[end] = swap;
    sift(ids, order, 0, end);
  }
  size_t candidates = 0;
  for (size_t i = 0; i < count; i++) {
    first[order[i]] = i == 0 || memcmp(&ids[order[i]], &ids[order[i - 1]], sizeof ids[0]) != 0;
    candidates += first[order[i]];
  }
  return candidates;
}
