/* What became of a batch: a commit, a failure, a lost connection, the death of an owner. Part of partition_core.h.
 * Pure. */
#include <string.h>

#include "common/backoff.h"
#include "consumer/partition_core.h"

#define GROW_AFTER_MAX 64 /* commits */
#define ISOLATED_MAX   64 /* batches that a group which fails often stays isolated (W5) */
#define CONFLICTS_FREE 5  /* times that a message alone is run again at once after a passing failure */

static const struct txb_worker_record *head_of(const struct txb_partition *p) {
  return txb_partition_record(p, 0);
}

bool txb_partition_impatient(int32_t conflicts) {
  return conflicts >= CONFLICTS_FREE;
}

/* Nobody's fault, or no place for it: the partition stands still until it is due again. */
static void stall(struct txb_partition *p, const struct txb_worker_core_options *o, enum txb_failure failure,
                  int64_t now_us, uint64_t random) {
  int64_t head = head_of(p)->offset;
  p->attempts = p->stalled_offset == head && p->attempts < INT32_MAX ? p->attempts + 1 : 1;
  struct txb_backoff pause = {
      .first_ms = o->retry_first_ms, .cap_ms = o->retry_cap_ms, .failures = (uint32_t)p->attempts - 1};
  p->stalled_offset = head;
  p->stall_failure = failure;
  p->limit_looked = false;
  p->stall_delay_ms = txb_backoff_next_ms(&pause, random);
  p->stall_due_us = now_us + p->stall_delay_ms * 1000;
  p->stall_unrecorded = true;
  p->stall_tries = 0;
}

/* ---- committed ------------------------------------------------------------------------------- */

static void grow(struct txb_partition *p, const struct txb_worker_core_options *o, int32_t count) {
  /* Only a batch of about the present size says anything about it. */
  if (count < p->limit / 2)
    return;
  p->good++;
  if (p->limit < o->batch_messages && p->good >= p->grow_after) {
    p->limit = p->limit > o->batch_messages / 2 ? o->batch_messages : p->limit * 2;
    p->good = 0;
  } else if (p->limit == o->batch_messages && p->good >= GROW_AFTER_MAX) {
    p->grow_after = TXB_PARTITION_GROW_AFTER;
    p->good = 0;
  }
}

static void went_carefully(struct txb_partition *p, const struct txb_worker_core_options *o, int32_t count) {
  if (p->suspect_left == 0)
    return;
  bool doubles = p->singles_left == 0 && p->suspect_step <= o->batch_messages / 2;
  p->suspect_step = doubles ? p->suspect_step * 2 : p->suspect_step;
  p->singles_left = p->singles_left > count ? p->singles_left - count : 0;
  p->suspect_left = p->suspect_left > count ? p->suspect_left - count : 0;
  p->suspects = p->suspect_left > 0;
  p->lost_next = -1;
  p->suspect_offset = -1;
}

/* W5: it stays isolated the longer the more often a fast batch fails, and the first piece is as large as its failures
 * allow. */
static void went_isolated(struct txb_partition *p, const struct txb_partition_ran *ran) {
  if (!ran->isolated) {
    p->isolated_stay -= p->isolated_stay > 0 && !ran->condemn;
    return;
  }
  p->chunk = ran->chunk > 0 ? ran->chunk : p->chunk;
  if (ran->failed > 0 && !p->isolated_again)
    p->isolated_left = 1 + p->isolated_stay;
  if (ran->settled < ran->count)
    return;
  p->isolated_again = false;
  if (p->isolated_left > 0 && --p->isolated_left == 0)
    p->chunk = 0;
}

void txb_partition_committed(struct txb_partition *p, const struct txb_worker_core_options *o,
                             const struct txb_partition_ran *ran, int64_t now_us) {
  TXB_ASSERT(ran->settled >= 1 && ran->settled <= ran->count);
  const struct txb_worker_record *last = txb_partition_record(p, (size_t)ran->settled - 1);
  p->has_last = true;
  p->last_id = last->id;
  p->last_timestamp_ms = last->timestamp_ms;
  p->last_offset = last->offset;
  p->look_us = now_us + o->look_us;
  txb_partition_pop(p, o, (size_t)ran->settled, now_us);
  p->next_offset = ran->new_next;
  if (p->fetch_offset < ran->new_next)
    p->fetch_offset = ran->new_next;
  p->stalled_offset = p->marked_offset = -1;
  p->attempts = p->lost_alone = 0;
  p->conflicts = ran->transient ? 1 : 0;
  p->stall_unrecorded = p->skip_head = false;
  if (p->condemned_offset < ran->new_next)
    p->condemned_offset = -1;
  if (p->culprit_offset < ran->new_next)
    p->culprit_offset = -1;
  p->live_turn = false;
  txb_partition_due(p, ran->due_ms, now_us);
  if (ran->held_count >= 0)
    p->held_count = ran->held_count;
  went_isolated(p, ran);
  went_carefully(p, o, ran->settled);
  grow(p, o, ran->settled);
}

/* ---- rolled back ----------------------------------------------------------------------------- */

static void halve(struct txb_partition *p, int32_t count) {
  p->limit = count > 1 ? count / 2 : 1;
  p->good = 0;
  p->grow_after = p->grow_after < GROW_AFTER_MAX / 2 ? p->grow_after * 2 : GROW_AFTER_MAX;
}

/* Somebody else's transaction was in the way, which has gone on by now. */
static void conflict(struct txb_partition *p, const struct txb_partition_ran *ran) {
  bool alone = ran->count == 1 || (ran->isolated && ran->at == 0);
  bool known = alone && p->conflicts > 0;
  p->conflicts += alone && p->conflicts < INT32_MAX;
  if (!known)
    halve(p, ran->count);
}

static void isolate(struct txb_partition *p, const struct txb_partition_ran *ran) {
  if (ran->at >= 0)
    p->culprit_offset = txb_partition_record(p, (size_t)ran->at)->offset;
  p->isolated_again = true;
  p->isolated_left = 1 + p->isolated_stay;
  p->isolated_stay = p->isolated_stay == 0                 ? 1
                     : p->isolated_stay < ISOLATED_MAX / 2 ? p->isolated_stay * 2
                                                           : ISOLATED_MAX;
}

static void error(struct txb_partition *p, const struct txb_worker_core_options *o, const struct txb_partition_ran *ran,
                  int64_t now_us, uint64_t random) {
  if (ran->condemn) { /* it can't even be set aside: that is nothing that it did */
    stall(p, o, TXB_FAILURE_WAIT, now_us, random);
  } else if (ran->count == 1 && o->bug_error_skips) {
    p->skip_head = true;
  } else if (ran->count == 1) { /* alone, so it is this message */
    p->condemned_offset = head_of(p)->offset;
    p->condemned_failure = TXB_FAILURE_ERROR;
    p->condemned_after_ms = ran->after_ms;
  } else if (ran->isolated || o->bug_error_skips) { /* it failed as a whole, at its COMMIT */
    halve(p, ran->count);
  } else {
    isolate(p, ran);
  }
}

void txb_partition_failed(struct txb_partition *p, const struct txb_worker_core_options *o,
                          const struct txb_partition_ran *ran, int64_t now_us, uint64_t random) {
  TXB_ASSERT(ran->count >= 1 && (size_t)ran->count <= p->count && ran->at < ran->count);
  switch (ran->failure) {
  case TXB_FAILURE_CONFLICT:
    conflict(p, ran);
    return;
  case TXB_FAILURE_WAIT:
  case TXB_FAILURE_LIMIT:
    stall(p, o, ran->failure, now_us, random);
    return;
  case TXB_FAILURE_ERROR:
  case TXB_FAILURE_CRASH:
    error(p, o, ran, now_us, random);
    return;
  }
}

void txb_partition_interrupted(struct txb_partition *p, int32_t count, bool given_up) {
  int64_t head = p->count == 0 ? -1 : head_of(p)->offset;
  if (count == 1) {
    p->lost_alone = p->lost_alone_offset == head ? p->lost_alone + 1 : 1;
    p->lost_with_server = p->lost_with_server && p->lost_alone > 1;
    p->lost_alone_offset = head;
  } else if (!given_up) {
    p->lost_next = p->suspects ? -1 : p->next_offset;
    p->suspects = true;
  }
  halve(p, count);
}

/* ---- a new owner ----------------------------------------------------------------------------- */

/* Suspect mode (W10): the last owner died on this partition, whatever it had got done before. It is gone through under
 * markers that are committed before the messages run: one by one where a marker over several is known to have died,
 * else in doubling steps. */
static void suspect(struct txb_partition *p, const struct txb_worker_core_options *o, const struct txb_position *row) {
  bool marker = row->suspect && row->suspect_failed_count == 0 && row->suspect_offset >= 0;
  if (p->lost_next >= 0 && row->next_offset > p->lost_next) /* its COMMIT had got through */
    p->suspects = false;
  p->lost_next = row->suspect ? -1 : p->lost_next;
  p->suspects = p->suspects || row->suspect; /* until gone through: this connection may go before that */
  p->suspect_left = p->suspects ? o->batch_messages : 0;
  p->suspect_offset = marker ? row->suspect_offset : -1;
  p->suspect_step = 1;
  p->singles_left = marker ? row->suspect_count : 0;
}

static void condemn(struct txb_partition *p, int64_t offset) {
  p->condemned_offset = offset;
  p->condemned_failure = TXB_FAILURE_CRASH;
  p->condemned_after_ms = 0;
}

/* What is buffered goes on being right when the position lies within it: records don't change. Else Kafka is asked from
 * the position on, and first for the record below it (W9). Below a lane's position there may be nothing for ever. */
static void keep_fetched(struct txb_partition *p, const struct txb_worker_core_options *o,
                         const struct txb_position *row, int64_t now_us) {
  int64_t from = p->count > 0 ? p->next_offset : p->fetch_offset; /* there may be a gap before the first record */
  bool within = p->fetching && !p->probing && row->next_offset >= from && row->next_offset <= p->fetch_offset;
  size_t old = 0;
  while (old < p->count && (!within || txb_partition_record(p, old)->offset < row->next_offset))
    old++;
  txb_partition_pop(p, o, old, now_us);
  p->next_offset = row->next_offset;
  if (!within) {
    p->heard_us = now_us;
    p->fetching = p->paused = false; /* worker_core asks for it */
    p->probing = row->has_last && !p->lane;
    p->fetch_offset = p->probing ? row->last_offset : row->next_offset;
    p->end_offset = -1;
  }
}

void txb_partition_taken(struct txb_partition *p, const struct txb_worker_core_options *o,
                         const struct txb_position *row, int64_t now_us) {
  p->own = TXB_OWN_OWNED;
  p->taken = true;
  p->epoch = row->epoch;
  p->due_us = p->take_since_us = 0;
  p->refusals = 0;
  p->look_us = now_us + o->look_us;
  p->has_last = row->has_last;
  p->last_id = row->last_id;
  p->last_timestamp_ms = row->last_timestamp_ms;
  p->last_offset = row->last_offset;
  txb_partition_forget(p);
  p->stalled_offset = row->stalled_offset;
  p->attempts = row->stalled_offset >= 0 ? row->attempts : 0;
  p->stall_due_us = now_us + (row->stalled_offset >= 0 ? row->due_ms * 1000 : 0);
  suspect(p, o, row);
  txb_partition_retry_taken(p, row);
  keep_fetched(p, o, row, now_us);
  /* lost_alone counts on until that is recorded: this connection may go too. */
  int32_t enough = p->lost_with_server ? TXB_LOST_SERVERS : TXB_LOST_SESSIONS;
  if (p->count > 0 && p->lost_alone >= enough && head_of(p)->offset == p->lost_alone_offset)
    condemn(p, p->lost_alone_offset);
  else if (p->suspect_offset >= 0 && row->suspect_count == 1 && row->suspect_deaths >= 2)
    condemn(p, row->suspect_offset);
}

void txb_partition_forget(struct txb_partition *p) {
  p->marked_offset = p->condemned_offset = p->culprit_offset = p->retry_condemned = -1;
  p->stall_unrecorded = p->skip_head = false;
  p->keys_known = false;
  p->retry_due_us = INT64_MAX;
  p->retry_marked = p->retry_conflicts = p->retry_waits = 0;
  p->handed_on = false;
  p->retry_mark_out = p->retry_suspects = p->retry_condemn_attempt = false;
}
