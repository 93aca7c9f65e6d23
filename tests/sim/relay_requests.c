/* What the server answers a relay in the simulator: polls with their snapshots, listings, checkpoints. See relay_world.h. */
#include "relay_world.h"

const char *const relay_keys[RM_KEYS] = {"a", "b", "c"};

struct txb_uuid instance_of(unsigned char byte) {
  return (struct txb_uuid){{byte}};
}

int first_row(const struct rm_model *m, int64_t seq) {
  int lo = 0, hi = m->row_count;
  while (lo < hi) {
    int mid = lo + (hi - lo) / 2;
    if (m->rows[mid].seq < seq)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

/* Whether a branch reads a row, and what it says about it. */
static bool is_read(const struct request *q, int branch, const struct rm_row *row, const struct rm_record *failed,
                    enum txb_relay_verdict *verdict_out) {
  static const enum txb_relay_verdict verdicts[] = {TXB_VERDICT_NONE, TXB_VERDICT_DEAD, TXB_VERDICT_RETRY,
                                                    TXB_VERDICT_CLOSED, TXB_VERDICT_CLOSED};
  *verdict_out = TXB_VERDICT_NONE;
  if (branch != 1)
    return true;
  switch (q->poll.drain) {
  case TXB_DRAIN_NONE:
    return false;
  case TXB_DRAIN_TOPIC:
    return row->topic == q->poll.drain_topic && failed->state == RM_FINE;
  case TXB_DRAIN_KEYS:
    *verdict_out = verdicts[failed->state];
    return row->key >= 0 && q->drain_lo[row->topic][row->key] >= 0 && q->drain_lo[row->topic][row->key] <= row->seq;
  case TXB_DRAIN_LOOSE:
    *verdict_out = TXB_VERDICT_RETRY;
    return row->key < 0 && failed->state == RM_RETRYING;
  }
  return false;
}

static void read_range(struct rm_model *m, struct request *q, int branch, int64_t from, int64_t to,
                       struct txb_relay_read *out) {
  for (int i = first_row(m, from); i < m->row_count && m->rows[i].seq <= to && !out->cut; i++) {
    const struct rm_row *row = &m->rows[i];
    const struct rm_record *failed = &q->failed[i];
    enum txb_relay_verdict verdict;
    if (!rm_visible(m, row, &q->snapshot) || !is_read(q, branch, row, failed, &verdict))
      continue;
    int id = rm_row_id(i, verdict == TXB_VERDICT_NONE ? 0 : failed->edition);
    q->rows[branch][out->count++] = (struct txb_relay_row){
        .seq = row->seq,
        .topic = row->topic,
        .key = {row->key < 0 ? NULL : relay_keys[row->key], row->key < 0 ? 0 : 1},
        .bytes = row->bytes,
        .row = (uint32_t)id,
        .failed = verdict == TXB_VERDICT_NONE ? 0 : rm_failed_of(id),
        .verdict = verdict,
    };
    q->read_bytes += row->bytes;
    out->cut = out->count == (branch == 2 ? q->poll.tail_rows : q->poll.rows) ||
               (q->read_bytes >= q->poll.bytes && !(branch == 2 && q->poll.tail_few));
  }
}

/* Holes are read in the order in which they are asked for, up to the limit. */
static void read_branch(struct rm_model *m, struct request *q, int branch, struct txb_relay_read *out) {
  *out = (struct txb_relay_read){.rows = q->rows[branch]};
  q->read_bytes = 0;
  for (size_t i = 0; branch == 0 && i < q->range_count; i++) {
    if (i > 0 && q->ranges[i].lo <= q->ranges[i - 1].hi)
      rm_fail(m, "holes are asked for out of order: %lld after %lld", (long long)q->ranges[i].lo,
              (long long)q->ranges[i - 1].hi);
    read_range(m, q, branch, q->ranges[i].lo, q->ranges[i].hi, out);
  }
  if (branch == 1 && q->poll.drain == TXB_DRAIN_LOOSE)
    read_range(m, q, branch, q->poll.drain_from + 1, INT64_MAX, out);
  else if (branch == 1 && q->poll.drain != TXB_DRAIN_NONE)
    read_range(m, q, branch, q->poll.drain_from, q->poll.drain_to, out);
  if (branch == 2)
    read_range(m, q, branch, q->poll.after + 1, q->poll.bound, out);
}

/* The snapshot is taken first, the sequence read a moment later, then the rows. */
static void execute_poll(struct rm_model *m, struct request *q) {
  struct txb_relay_answer *a = &q->answer;
  if (!q->begun) {
    rm_snapshot_take(m, &q->snapshot);
    a->poll = q->poll.number;
    a->epoch = m->stored.epoch;
    a->checkpoint = m->stored.checkpoint;
    a->instance = instance_of(m->stored.instance);
    a->recovering = a->decided = false;
    for (int i = 0; i < m->row_count; i++) {
      q->failed[i] = m->rows[i].failed;
      a->decided |= q->failed[i].noted;
    }
    q->begun = true;
    return;
  }
  a->drawn = m->drawn;
  a->snapshot = (struct txb_snapshot){q->snapshot.xmax, q->snapshot.xip, q->snapshot.xip_count};
  read_branch(m, q, 0, &a->holes);
  read_branch(m, q, 1, &a->drain);
  counts.drained += a->drain.count;
  counts.loose += q->poll.drain == TXB_DRAIN_LOOSE ? a->drain.count : 0;
  read_branch(m, q, 2, &a->tail);
  q->executed = true;
  rm_trace(m, "poll %llu: asked %zu ranges, got %zu holes%s %zu drained%s %zu tail%s (%lld, %lld]",
           (unsigned long long)a->poll, q->range_count, a->holes.count, a->holes.cut ? " cut" : "", a->drain.count,
           a->drain.cut ? " cut" : "", a->tail.count, a->tail.cut ? " cut" : "", (long long)q->poll.after,
           (long long)q->poll.bound);
}

static void execute_list(struct rm_model *m, struct request *q) {
  q->holder_count = 0;
  for (int i = 0; i < m->tx_count; i++) {
    const struct rm_tx *tx = &m->txs[i];
    if (tx->locked) /* one that is just ending may have let go of its xid's lock first */
      q->holders[q->holder_count++] =
          (struct txb_holder){.backend = i % 7,
                              .local = (uint32_t)i,
                              .xid = tx->running || rm_chance(m, 50) ? (uint32_t)tx->xid : 0,
                              .pid = tx->pid};
  }
  q->executed = true;
  rm_trace(m, "listing: %zu holders", q->holder_count);
}

static void execute_look(struct rm_model *m, struct request *q) {
  struct rm_snapshot now;
  rm_snapshot_take(m, &now);
  for (size_t r = 0; r < q->range_count; r++)
    for (int i = first_row(m, q->ranges[r].lo); i < m->row_count && m->rows[i].seq <= q->ranges[r].hi; i++)
      q->found |= rm_visible(m, &m->rows[i], &now);
  q->executed = true;
  rm_trace(m, "last look at %lld..%lld: %s", (long long)q->ranges[0].lo, (long long)q->ranges[q->range_count - 1].hi,
           q->found ? "found" : "dead");
}

void execute(struct rm_model *m, struct relay *r, struct request *q) {
  bool is_ours = m->stored.epoch == r->epoch && m->stored.instance == r->instance;
  switch (q->kind) {
  case Q_POLL:
    execute_poll(m, q);
    return;
  case Q_LIST:
    execute_list(m, q);
    return;
  case Q_LOOK:
    execute_look(m, q);
    return;
  case Q_CHECKPOINT:
    rm_settle(m, r->epoch, r->instance, q->number, q->published, q->published_count,
              (const int64_t(*)[RM_KEYS])q->key_lo);
    q->accepted = rm_checkpoint(m, r->epoch, r->instance, q->number, q->highest, q->watermark, q->pages, q->page_count,
                                q->holes, q->hole_count, q->topic_lo);
    break;
  case Q_RENEW:
    q->accepted = is_ours || m->accepts_anybody;
    break;
  case Q_RECORD:
    q->accepted = rm_record_failed(m, r->epoch, r->instance, q->row);
    break;
  case Q_DECIDE:
    q->accepted = rm_take_decisions(m, r->epoch, r->instance, q->keys, &q->loose);
    break;
  }
  q->executed = true;
}
