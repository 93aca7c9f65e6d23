/* Retries of a partition's failed messages, as its owner sees them: when something is due, what is under the marker, how
 * many rows at once. Part of partition_core.h. Pure.
 *
 * Each retry is RETRY_MARK, which commits the marker and reads the rows, and RETRY, whose transaction takes the marker
 * in. A death between them is told by the marker that is still out (W10): then the rows go one at a time.
 */
#include "common/backoff.h"
#include "consumer/partition_core.h"

void txb_partition_released(struct txb_partition *p, int64_t now_us) {
  if (p->stalled_offset >= 0 && p->stall_failure == TXB_FAILURE_LIMIT && p->stall_due_us > now_us)
    p->stall_due_us = now_us;
}

void txb_partition_due(struct txb_partition *p, int64_t due_ms, int64_t now_us) {
  if (due_ms < 0)
    return;
  int64_t due_us = now_us + due_ms * 1000;
  p->retry_due_us = due_us < p->retry_due_us ? due_us : p->retry_due_us;
}

static void set_due(struct txb_partition *p, int64_t due_ms, int64_t held_count, int64_t now_us) {
  p->retry_due_us = INT64_MAX;
  txb_partition_due(p, due_ms, now_us);
  if (held_count >= 0)
    p->held_count = held_count;
}

void txb_partition_keys(struct txb_partition *p, int64_t keys_version, int64_t due_ms, int64_t held_count,
                        int64_t now_us) {
  bool changed = p->keys_version != keys_version;
  p->keys_known = p->limit_looked = true;
  p->keys_version = keys_version;
  set_due(p, due_ms, held_count, now_us);
  if (changed)
    txb_partition_released(p, now_us);
}

bool txb_partition_retry_first(const struct txb_partition *p) {
  return p->retry_marked > 0 || p->retry_mark_out || p->retry_suspects || p->retry_condemned >= 0;
}

/* What killed the last owner may be among the records that it had not marked, or had: a marker of retries would take the
 * place of theirs, and their deaths would be counted anew. So those are gone through first, unless there are none. */
static bool suspects_come_first(const struct txb_partition *p) {
  bool none_there = txb_partition_idle(p) || p->stalled_offset >= 0;
  return p->marked_offset >= 0 || ((p->condemned_offset >= 0 || p->suspect_left > 0) && !none_there);
}

int64_t txb_partition_retry_us(const struct txb_partition *p) {
  if (txb_partition_retry_first(p))
    return 0;
  return suspects_come_first(p) ? INT64_MAX : p->retry_due_us;
}

int32_t txb_partition_retry_rows(const struct txb_partition *p, int64_t now_us) {
  if (p->retry_mark_out && now_us < p->retry_due_us)
    return 0;
  return p->retry_singles > 0 || p->retry_conflicts > 0 ? 1 : p->retry_limit;
}

void txb_partition_retry_marked(struct txb_partition *p, int32_t asked, int32_t count, int64_t number,
                                int64_t keys_version, int64_t due_ms, int64_t now_us) {
  p->retry_marked = count;
  p->retry_mark_out = count > 0;
  p->retry_number = number;
  p->retry_version = keys_version;
  p->retry_condemn_attempt = false;
  p->keys_known = p->keys_known && keys_version == p->keys_version;
  if (count > 0)
    return;
  p->live_turn = true;
  if (asked == 0) /* the marker is in: what it was about waits for its time */
    return;
  p->retry_suspects = false; /* not due now, or held behind one that failed: still one at a time when they come */
  set_due(p, due_ms == 0 ? 1 : due_ms, -1, now_us);
}

void txb_partition_retried(struct txb_partition *p, const struct txb_worker_core_options *o,
                           const struct txb_partition_ran *ran, int64_t now_us) {
  int32_t closed = ran->settled - ran->failed;
  p->retry_marked = 0;
  p->retry_mark_out = p->retry_condemn_attempt = false;
  p->retry_conflicts = ran->transient ? 1 : 0;
  p->retry_waits = p->retry_lost_alone = 0;
  p->retry_singles = p->retry_singles > closed ? p->retry_singles - closed : 0;
  p->retry_suspects = p->retry_suspects && p->retry_singles > 0;
  p->retry_limit = p->retry_limit > o->batch_messages / 2 ? o->batch_messages : p->retry_limit * 2;
  p->live_turn = true;
  set_due(p, ran->due_ms, ran->held_count, now_us);
  txb_partition_released(p, now_us);
}

void txb_partition_retry_again(struct txb_partition *p) {
  p->retry_marked = 0;
  p->retry_condemn_attempt = false;
}

static void put_off(struct txb_partition *p, const struct txb_worker_core_options *o, int64_t now_us, uint64_t random) {
  struct txb_backoff pause = {
      .first_ms = o->retry_first_ms, .cap_ms = o->retry_cap_ms, .failures = (uint32_t)p->retry_waits};
  p->retry_waits++;
  p->retry_due_us = now_us + txb_backoff_next_ms(&pause, random) * 1000;
  p->retry_suspects = false;
  txb_partition_retry_again(p);
}

void txb_partition_retry_failed(struct txb_partition *p, const struct txb_worker_core_options *o,
                                const struct txb_partition_ran *ran, int64_t now_us, uint64_t random) {
  bool alone = ran->count == 1;
  switch (ran->failure) {
  case TXB_FAILURE_CONFLICT:
    p->retry_conflicts += (alone || ran->at == 0) && p->retry_conflicts < INT32_MAX;
    if (!alone && ran->at != 0) /* as a whole, at its COMMIT: smaller, or it would meet the same again and again */
      p->retry_limit = ran->count / 2;
    txb_partition_retry_again(p);
    return;
  case TXB_FAILURE_WAIT:
  case TXB_FAILURE_LIMIT:
    put_off(p, o, now_us, random);
    return;
  case TXB_FAILURE_ERROR:
  case TXB_FAILURE_CRASH:
    if (ran->condemn) {
      put_off(p, o, now_us, random);
    } else if (alone) { /* at its COMMIT: the marker is still out over this one, and that is settled */
      p->retry_condemn_attempt = true;
      p->retry_after_ms = ran->after_ms;
    } else {
      p->retry_limit = ran->count / 2;
      txb_partition_retry_again(p);
    }
    return;
  }
}

void txb_partition_retry_interrupted(struct txb_partition *p) {
  p->retry_lost_alone = p->retry_lost_number == p->retry_number ? p->retry_lost_alone + 1 : 1;
  p->retry_lost_with_server = p->retry_lost_with_server && p->retry_lost_alone > 1;
  p->retry_lost_number = p->retry_number;
}

void txb_partition_condemned(struct txb_partition *p, int64_t due_ms, int64_t held_count, int64_t now_us) {
  p->retry_condemned = -1;
  p->retry_lost_alone = 0;
  p->retry_singles = p->retry_marked = 0;
  p->retry_mark_out = p->retry_suspects = false;
  set_due(p, due_ms, held_count, now_us);
}

void txb_partition_retry_taken(struct txb_partition *p, const struct txb_position *row) {
  if (row->suspect_failed_count >
      p->retry_singles) /* what is known of others counts on: this connection may have gone */
    p->retry_singles = row->suspect_failed_count;
  p->retry_suspects = row->suspect_failed_count > 0;
  bool alone = row->suspect_failed_count == 1;
  int32_t enough = p->retry_lost_with_server ? TXB_LOST_SERVERS : TXB_LOST_SESSIONS;
  bool lost = p->retry_lost_alone >= enough && p->retry_lost_number == row->suspect_failed_number;
  if (alone && (row->suspect_deaths >= 2 || lost))
    p->retry_condemned = row->suspect_failed_number;
}
