/* Simulates relays against a model of PostgreSQL and Kafka: open, slow, prepared and rolled-back transactions,
 * savepoints, skipped numbers, refused and lost messages, broken producers, topics that come and go, persons who decide
 * about failed messages at any moment (again, edited, discarded), server crashes, relays killed at every step and
 * zombies beside their successors. The real core decides; every append and every
 * checkpoint is verified, and at the end everything.
 *
 *   sim_relay [--seeds N] [--seed S] [--bug NAME]
 *
 * Exit 0: nothing found; 1: a violation, printed with its seed and history; 2: usage.
 *
 * With --bug relay_* the rule of that name is broken (builds with TXB_FAULTS only): then something must be found.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/fault.h"
#include "outbox/relay_core.h"
#include "relay_model.h"

enum { STEPS_FAULTY = 300, STEPS_MAX = 20000, REQUESTS_MAX = 16, RANGES_MAX = 512, READ_MAX = 16, RELAYS = 2 };

enum request_kind { Q_POLL, Q_LIST, Q_LOOK, Q_CHECKPOINT, Q_RENEW, Q_RECORD, Q_DECIDE };

struct request { /* in the pipeline of one connection: executed in order, answered in order */
  enum request_kind kind;
  bool begun, executed, accepted, found;
  /* what was asked */
  struct txb_relay_poll poll;
  struct txb_range ranges[RANGES_MAX];
  size_t range_count;
  int64_t number, highest, watermark;
  int64_t pages[RANGES_MAX];
  size_t page_count;
  struct rm_range holes[RANGES_MAX];
  size_t hole_count;
  int64_t topic_lo[RM_TOPICS], key_lo[RM_TOPICS][RM_KEYS];
  int64_t published[RM_ROWS];
  size_t published_count;
  int64_t drain_lo[RM_TOPICS][RM_KEYS]; /* of a page of keys; -1: not asked for */
  int row;
  /* what was answered */
  struct rm_snapshot snapshot;
  struct rm_record failed[RM_ROWS]; /* txb.failed as the snapshot shows it */
  bool keys[RM_TOPICS][RM_KEYS], loose;
  struct txb_relay_answer answer;
  struct txb_relay_row rows[3][READ_MAX];
  int64_t read_bytes;
  struct txb_holder holders[RM_TXS];
  size_t holder_count;
};

struct relay {
  bool alive, held, zombie, replace, stopping, stopped;
  struct txb_relay_core core;
  int64_t epoch;
  unsigned char instance;
  struct request requests[REQUESTS_MAX];
  size_t first, count;
  struct rm_producer producer;
  bool probe, idle;
  uint32_t probe_topic;
};

struct world {
  struct rm_model m;
  struct txb_relay_core_options options;
  struct relay places[RELAYS];
  struct relay *relay, *zombie; /* each one of the places */
  unsigned replace_percent;     /* how soon a new producer comes */
};

/* What the seeds of a run went through: a rule that nothing exercises is not tested. */
static struct {
  uint64_t polls, thrown_away, left_out, drained, refused, replaced, fenced, zombies, kills, stops, lost, retried,
      edited, discarded, keys_drained, loose, recorded;
} counts;

static const char *const keys[RM_KEYS] = {"a", "b", "c"};

static uint32_t partition_of(struct txb_slice key, uint32_t partitions) {
  return (uint32_t)(*(const char *)key.data - 'a') % partitions;
}

static int key_of(struct txb_slice key) {
  return *(const char *)key.data - 'a';
}

static struct txb_uuid instance_of(unsigned char byte) {
  return (struct txb_uuid){{byte}};
}

static struct request *request_at(struct relay *r, size_t i) {
  return &r->requests[(r->first + i) % REQUESTS_MAX];
}

/* ---- what the core wants ---------------------------------------------------------------------------------------- */

static struct request *push(struct relay *r, enum request_kind kind) {
  TXB_ASSERT(r->count < REQUESTS_MAX);
  struct request *q = request_at(r, r->count++);
  q->kind = kind;
  q->begun = q->executed = q->accepted = q->found = false;
  q->range_count = 0;
  return q;
}

static void copy_ranges(struct rm_model *m, struct request *q, const struct txb_range *ranges, size_t count) {
  if (count > RANGES_MAX) {
    rm_fail(m, "%zu ranges are too many for the model", count);
    count = RANGES_MAX;
  }
  for (q->range_count = 0; q->range_count < count; q->range_count++)
    q->ranges[q->range_count] = ranges[q->range_count];
}

static void push_checkpoint(struct rm_model *m, struct relay *r, const struct txb_relay_checkpoint *c) {
  struct request *q = push(r, Q_CHECKPOINT);
  q->number = c->number;
  q->highest = c->highest;
  q->watermark = c->watermark;
  q->page_count = q->hole_count = 0;
  for (int t = 0; t < RM_TOPICS; t++)
    q->topic_lo[t] = -1;
  for (size_t i = 0; i < c->hold_count; i++)
    q->topic_lo[c->holds[i].topic] = c->holds[i].lo;
  memset(q->key_lo, -1, sizeof q->key_lo);
  for (size_t i = 0; i < c->key_count; i++)
    q->key_lo[c->keys[i].topic][key_of(c->keys[i].key)] = c->keys[i].lo;
  for (q->published_count = 0; q->published_count < c->settled_count; q->published_count++)
    q->published[q->published_count] = c->settled[q->published_count];
  counts.keys_drained += c->key_count;
  for (size_t p = 0; p < c->page_count; p++) {
    q->pages[q->page_count++] = c->pages[p].page;
    for (size_t i = 0; i < c->pages[p].count; i++) {
      struct txb_range range = c->ranges[c->pages[p].first + i];
      if (q->hole_count == RANGES_MAX) {
        rm_fail(m, "too many ranges in a checkpoint for the model");
        return;
      }
      q->holes[q->hole_count++] = (struct rm_range){c->pages[p].page, range.lo, range.hi};
    }
  }
}

static void forget(struct rm_model *m, struct relay *r) {
  r->count = 0;
  r->held = r->probe = r->replace = r->idle = false;
  rm_producer_close(m, &r->producer);
}

static void carry_out(struct rm_model *m, struct relay *r, const struct txb_relay_actions *a) {
  if (a->alarm != TXB_RELAY_FINE) {
    if (a->alarm == TXB_RELAY_SEQUENCE_BEHIND)
      rm_fail(m, "alarm: the sequence is behind");
    rm_trace(m, "relay %d: epoch %lld ends with alarm %d", r->instance, (long long)r->epoch, a->alarm);
    forget(m, r);
    return;
  }
  if (a->poll) {
    struct request *q = push(r, Q_POLL);
    q->poll = a->read;
    copy_ranges(m, q, a->read.holes, a->read.hole_count);
    memset(q->drain_lo, -1, sizeof q->drain_lo);
    for (size_t i = 0; a->read.drain == TXB_DRAIN_KEYS && i < a->read.drain_key_count; i++) {
      const struct txb_key_hold *hold = a->read.drain_keys[i];
      if (hold->state == TXB_KEY_DRAINING)
        q->drain_lo[hold->topic][key_of(hold->key)] = hold->lo;
    }
  }
  if (a->list)
    push(r, Q_LIST);
  if (a->look)
    copy_ranges(m, push(r, Q_LOOK), a->look_ranges, a->look_count);
  if (a->checkpoint)
    push_checkpoint(m, r, a->position);
  if (a->renew)
    push(r, Q_RENEW);
  if (a->poll)
    for (size_t g = 0; g < r->core.generations.count; g++)
      counts.left_out += r->core.generations.items[g].left_out;
  counts.refused += a->record;
  if (a->record)
    push(r, Q_RECORD)->row = (int)txb_relay_core_slot(&r->core, a->record_ticket)->row;
  if (a->decide)
    push(r, Q_DECIDE);
  if (a->probe) {
    if (r->probe)
      rm_fail(m, "two probes at once");
    r->probe = true;
    r->probe_topic = a->probe_topic;
  }
  r->replace = a->replace_producer;
  r->idle = a->idle;
  r->stopped = a->stopped;
}

static void step(struct rm_model *m, struct relay *r, struct txb_relay_event *event) {
  struct txb_relay_actions actions;
  struct txb_error err;
  event->now_us = m->now_us;
  if (txb_relay_core_step(&r->core, event, &actions, &err) != TXB_OK) {
    rm_fail(m, "the core fails: %s", err.message);
    return;
  }
  carry_out(m, r, &actions);
}

/* ---- the server carries requests out ---------------------------------------------------------------------------- */

/* Index of the first row at or above seq. */
static int first_row(const struct rm_model *m, int64_t seq) {
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
        .key = {row->key < 0 ? NULL : keys[row->key], row->key < 0 ? 0 : 1},
        .bytes = row->bytes,
        .row = (uint32_t)id,
        .failed = verdict == TXB_VERDICT_NONE ? 0 : rm_failed_of(id),
        .verdict = verdict,
    };
    q->read_bytes += row->bytes;
    out->cut = out->count == q->poll.rows || q->read_bytes >= q->poll.bytes;
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

static void execute(struct rm_model *m, struct relay *r, struct request *q) {
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

/* ---- answers ---------------------------------------------------------------------------------------------------- */

static void answer(struct rm_model *m, struct relay *r) {
  struct request *q = request_at(r, 0); /* its place is taken again only after so many more */
  struct txb_relay_event event = {0};
  struct txb_relay_key_hold decided[RM_TOPICS * RM_KEYS];
  r->first++;
  r->count--;
  switch (q->kind) {
  case Q_POLL:
    event.kind = TXB_RELAY_POLLED;
    event.u.answer = q->answer;
    event.u.answer.snapshot.xip = q->snapshot.xip;
    event.u.answer.holes.rows = q->rows[0];
    event.u.answer.drain.rows = q->rows[1];
    event.u.answer.tail.rows = q->rows[2];
    break;
  case Q_LIST:
    event.kind = TXB_RELAY_LISTED;
    event.u.listing.holders = q->holders;
    event.u.listing.count = q->holder_count;
    break;
  case Q_LOOK:
    event.kind = TXB_RELAY_LOOKED;
    event.u.look_found = q->found;
    break;
  case Q_CHECKPOINT:
  case Q_RENEW:
  case Q_RECORD:
  case Q_DECIDE:
    if (!q->accepted) { /* TXB01: somebody else has the source */
      counts.fenced++;
      rm_trace(m, "epoch %lld is fenced", (long long)r->epoch);
      forget(m, r);
      event.kind = TXB_RELAY_LOST;
      break;
    }
    event.kind = q->kind == Q_CHECKPOINT ? TXB_RELAY_CHECKPOINTED
                 : q->kind == Q_RENEW    ? TXB_RELAY_RENEWED
                 : q->kind == Q_RECORD   ? TXB_RELAY_RECORDED
                                         : TXB_RELAY_DECIDED;
    if (q->kind != Q_DECIDE)
      break;
    event.u.decisions.keys = decided;
    event.u.decisions.loose = q->loose;
    for (uint32_t t = 0; t < RM_TOPICS; t++)
      for (int k = 0; k < RM_KEYS; k++)
        if (q->keys[t][k])
          decided[event.u.decisions.count++] = (struct txb_relay_key_hold){.topic = t, .key = {keys[k], 1}};
    break;
  }
  step(m, r, &event);
}

static void deliver_reports(struct rm_model *m, struct relay *r) {
  struct rm_producer *p = &r->producer;
  struct txb_report reports[8];
  size_t n = 1 + rm_random(m, 8);
  n = n < p->report_count ? n : p->report_count;
  for (size_t i = 0; i < n; i++) {
    const struct rm_report *report = &p->reports[p->report_first + i];
    reports[i] = (struct txb_report){.ticket = report->ticket,
                                     .outcome = (enum txb_report_outcome)report->outcome,
                                     .code = 3,
                                     .partition = report->partition,
                                     .partitions = RM_PARTS};
  }
  p->report_first += n;
  p->report_count -= n;
  if (p->report_count == 0)
    memset(p->unread_no_topic, 0, sizeof p->unread_no_topic);
  step(m, r, &(struct txb_relay_event){.kind = TXB_RELAY_REPORTED, .u.reports = {reports, n}});
}

/* ---- relays come and go ----------------------------------------------------------------------------------------- */

/* What was sent may still be carried out, in its order, and nobody reads the answers. */
static void carry_out_rest(struct rm_model *m, struct relay *r) {
  for (size_t i = 0; i < r->count && rm_chance(m, 60); i++)
    while (!request_at(r, i)->executed)
      execute(m, r, request_at(r, i));
}

static void end_core(struct relay *r) {
  counts.polls += (uint64_t)r->core.polls;
  counts.thrown_away += (uint64_t)r->core.polls_thrown_away;
  txb_relay_core_fini(&r->core);
}

static void relay_end(struct rm_model *m, struct relay *r) {
  carry_out_rest(m, r);
  if (r->producer.open)
    rm_producer_close(m, &r->producer);
  end_core(r);
  r->alive = r->held = false;
}

static void relay_begin(struct world *w, struct relay *r) {
  struct txb_error err;
  if (txb_relay_core_init(&r->core, &w->options, &err) != TXB_OK)
    rm_fail(&w->m, "no memory");
  r->alive = true;
  r->held = r->zombie = r->replace = r->probe = r->idle = r->stopping = r->stopped = false;
  r->first = r->count = 0;
  r->producer.open = false;
}

static void acquire(struct rm_model *m, struct relay *r) {
  static struct txb_range ranges[RM_STORED];
  struct txb_relay_topic_hold topics[RM_TOPICS];
  struct txb_relay_key_hold key_holds[RM_TOPICS * RM_KEYS];
  int64_t recorded[RM_ROWS];
  struct rm_stored *s = &m->stored;
  struct txb_relay_event event = {.kind = TXB_RELAY_ACQUIRED};
  struct txb_relay_position *p = &event.u.position;
  s->epoch++;
  s->instance = (unsigned char)(1 + rm_random(m, 255));
  for (size_t i = 0; i < s->hole_count; i++)
    ranges[i] = (struct txb_range){s->holes[i].lo, s->holes[i].hi};
  *p = (struct txb_relay_position){.epoch = s->epoch,
                                   .checkpoint = s->checkpoint,
                                   .highest = s->highest,
                                   .instance = instance_of(s->instance),
                                   .holes = ranges,
                                   .hole_count = s->hole_count,
                                   .topics = topics,
                                   .keys = key_holds,
                                   .recorded = recorded};
  for (uint32_t t = 0; t < RM_TOPICS; t++) {
    if (s->topic_lo[t] != 0)
      topics[p->topic_count++] = (struct txb_relay_topic_hold){.topic = t, .lo = s->topic_lo[t]};
    for (int k = 0; k < RM_KEYS; k++)
      if (s->key_lo[t][k] != 0)
        key_holds[p->key_count++] = (struct txb_relay_key_hold){
            t, {keys[k], 1}, s->key_lo[t][k], m->rows[first_row(m, s->key_lo[t][k])].failed.state != RM_DEAD};
  }
  for (int i = 0; i < m->row_count; i++)
    if (m->rows[i].failed.state != RM_FINE && (m->rows[i].seq > s->highest || rm_is_stored_hole(s, m->rows[i].seq)))
      recorded[p->recorded_count++] = m->rows[i].seq;
  counts.recorded += p->recorded_count;
  r->epoch = s->epoch;
  r->instance = s->instance;
  r->held = true;
  rm_producer_open(&r->producer);
  rm_trace(m, "epoch %lld begins at highest %lld with %zu ranges", (long long)r->epoch, (long long)s->highest,
           s->hole_count);
  step(m, r, &event);
}

static void disturb(struct world *w) {
  struct rm_model *m = &w->m;
  struct relay *r = w->relay, *z = w->zombie;
  struct rm_producer *const producers[] = {&r->producer, &z->producer};
  if (m->topic_trouble > 0 && rm_chance(m, m->topic_trouble))
    rm_topic_step(m, producers, RELAYS);
  if (rm_random(m, m->kill_every) == 0 && r->alive) {
    counts.kills++;
    rm_trace(m, "the relay of epoch %lld is killed", (long long)r->epoch);
    relay_end(m, r);
  }
  if (rm_random(m, 300) == 0 && r->held &&
      !z->alive) { /* its lease ran out: it becomes a zombie beside its successor */
    w->zombie = r;
    w->relay = z;
    r->zombie = true;
    counts.zombies++;
    rm_trace(m, "the relay of epoch %lld is a zombie", (long long)r->epoch);
    r = w->relay;
    z = w->zombie;
  }
  if (z->alive && (rm_random(m, 150) == 0 || !z->held))
    relay_end(m, z);
  if (rm_random(m, m->kill_every) == 0 && r->held) {
    rm_trace(m, "the relay of epoch %lld loses its connection", (long long)r->epoch);
    counts.lost++;
    carry_out_rest(m, r);
    forget(m, r);
    step(m, r, &(struct txb_relay_event){.kind = TXB_RELAY_LOST});
  }
  if (rm_random(m, 500) == 0 && r->held && !r->stopping) {
    rm_trace(m, "the relay of epoch %lld is asked to stop", (long long)r->epoch);
    r->stopping = true;
    step(m, r, &(struct txb_relay_event){.kind = TXB_RELAY_STOP});
  }
  if (rm_random(m, 600) == 0) {
    rm_server_crash(m);
    for (int i = 0; i < RELAYS; i++) {
      struct relay *any = &w->places[i];
      if (!any->held)
        continue;
      forget(m, any);
      step(m, any, &(struct txb_relay_event){.kind = TXB_RELAY_LOST});
    }
  }
}

static void hand_over(struct rm_model *m, struct relay *r) {
  uint64_t ticket;
  for (int n = 1 + (int)rm_random(m, 6); n > 0 && !r->replace && txb_relay_core_next_send(&r->core, &ticket); n--) {
    const struct txb_slot *slot = txb_relay_core_slot(&r->core, ticket);
    rm_trace(m, "epoch %lld sends %lld", (long long)r->epoch, (long long)slot->seq);
    bool current = m->stored.epoch == r->epoch && m->stored.instance == r->instance;
    rm_produce(m, &r->producer, ticket, (int)slot->row, current);
  }
}

static void relay_step(struct world *w, struct relay *r) {
  struct rm_model *m = &w->m;
  if (r->stopped) {
    counts.stops++;
    relay_end(m, r);
    return;
  }
  if (!r->held) {
    if (!r->zombie && rm_chance(m, 30))
      acquire(m, r);
    return;
  }
  if (r->replace && rm_chance(m, w->replace_percent)) {
    rm_producer_close(m, &r->producer);
    rm_producer_open(&r->producer);
    counts.replaced++;
    r->replace = false;
    step(m, r, &(struct txb_relay_event){.kind = TXB_RELAY_REPLACED});
    return;
  }
  if (r->probe && rm_chance(m, 40)) {
    r->probe = false;
    step(m, r,
         &(struct txb_relay_event){.kind = TXB_RELAY_PROBED,
                                   .u.probe = {r->probe_topic, m->topic_there[r->probe_topic]}});
    return;
  }
  if (r->core.send_count > 0 && !r->replace && rm_chance(m, 60)) {
    hand_over(m, r);
    return;
  }
  if (r->producer.report_count > 0 && rm_chance(m, 50)) {
    deliver_reports(m, r);
    return;
  }
  for (size_t i = 0; i < r->count; i++) {
    struct request *q = request_at(r, i);
    if (q->executed && (i > 0 || rm_chance(m, 40)))
      continue;
    if (q->executed)
      answer(m, r);
    else
      execute(m, r, q);
    return;
  }
  step(m, r, &(struct txb_relay_event){.kind = TXB_RELAY_TICK});
}

/* ---- one seed --------------------------------------------------------------------------------------------------- */

static void choose_options(struct world *w) {
  struct rm_model *m = &w->m;
  struct txb_relay_core_options *o = &w->options;
  txb_relay_core_options_init(o);
  o->partition_of = partition_of;
  o->read_rows = 2 + (uint32_t)rm_random(m, 6);
  o->inflight_rows = 32;
  o->read_bytes = 20 + (int64_t)rm_random(m, 100);
  o->inflight_bytes = 3 * o->read_bytes + (int64_t)rm_random(m, 300);
  o->lease_us = 40000 + (int64_t)rm_random(m, 200000);
  o->hole_ranges_max = rm_chance(m, 10) ? 2 + rm_random(m, 6) : 1000;
  w->replace_percent = rm_chance(m, 30) ? 8 : 50;
  o->checkpoint_us = (int64_t)rm_random(m, 20000);
  o->poll_busy_us = 1000;
  o->poll_idle_us = 1000 + (int64_t)rm_random(m, 8000);
  o->span = 4 + (int64_t)rm_random(m, 60);
  o->drain_span = 4 + (int64_t)rm_random(m, 60);
  o->drain_keys = 1 + (uint32_t)rm_random(m, 4);
  o->gap_max = 1 + (int64_t)rm_random(m, 12);
  o->list_first_us = (int64_t)rm_random(m, 8000);
  o->list_cap_us = 20000;
  o->probe_first_us = 2000;
  o->probe_cap_us = 20000;
  o->policy.ask_freely = rm_random(m, 3);
  o->policy.quiet_min = (uint32_t)rm_random(m, 2);
  o->policy.look_ranges = 1 + rm_random(m, 4);
  o->policy.generations_max = 2 + rm_random(m, 4);
}

static bool at_rest(struct world *w) {
  const struct rm_stored *s = &w->m.stored;
  for (int t = 0; t < RM_TOPICS; t++)
    if (s->topic_lo[t] != 0)
      return false;
  if (!rm_all_settled(&w->m))
    return false;
  return rm_applications_done(&w->m) && w->relay->held && w->relay->idle && s->highest == w->m.drawn &&
         s->hole_count == 0;
}

static bool simulate(uint64_t seed, bool verbose, char *violation, size_t size) {
  static struct world w;
  struct rm_model *m = &w.m;
  w.relay = &w.places[0];
  w.zombie = &w.places[1];
  for (int i = 0; i < RELAYS; i++)
    w.places[i].alive = w.places[i].held = w.places[i].zombie = w.places[i].producer.open = false;
  rm_init(m, seed, verbose);
  m->accepts_anybody = txb_bug("relay_no_epoch_check");
  choose_options(&w);
  relay_begin(&w, w.relay);
  int steps = STEPS_FAULTY / 2 + (int)rm_random(m, STEPS_FAULTY);
  for (int i = 0; i < STEPS_MAX && m->violation == NULL; i++) {
    if (i == steps) {
      m->healing = true;
      for (int t = 0; t < RM_TOPICS; t++)
        m->topic_there[t] = true;
      rm_trace(m, "---- no more faults");
      if (w.zombie->alive)
        relay_end(m, w.zombie);
    }
    if (m->healing && i % 16 == 0 && at_rest(&w))
      break;
    m->now_us += (int64_t)rm_random(m, m->healing ? 4000 : 1500);
    if (!w.relay->alive && rm_chance(m, 20))
      relay_begin(&w, w.relay);
    for (int n = (int)rm_random(m, 4); n > 0; n--)
      rm_applications_step(m);
    rm_person_step(m);
    for (int r = 0; r < RELAYS; r++) {
      struct relay *relay = r == 0 ? w.relay : w.zombie;
      for (int n = (int)rm_random(m, 4); n > 0 && relay->alive; n--)
        relay_step(&w, relay);
      rm_kafka_step(m, relay->alive ? &relay->producer : NULL);
    }
    if (!m->healing)
      disturb(&w);
  }
  if (m->violation == NULL)
    rm_verify_end(m);
  counts.retried += m->retried;
  counts.edited += m->edited;
  counts.discarded += m->discarded;
  for (int r = 0; r < RELAYS; r++)
    if (w.places[r].alive)
      end_core(&w.places[r]);
  snprintf(violation, size, "%s", m->violation == NULL ? "" : m->violation);
  return m->violation == NULL;
}

int main(int argc, char **argv) {
  uint64_t seeds = 1000, first = 1;
  char violation[256];
  for (int i = 1; i < argc; i += 2) {
    bool value = i + 1 < argc;
    if (value && strcmp(argv[i], "--seeds") == 0) {
      seeds = strtoull(argv[i + 1], NULL, 10);
    } else if (value && (strcmp(argv[i], "--seed") == 0 || strcmp(argv[i], "--first") == 0)) {
      first = strtoull(argv[i + 1], NULL, 10);
    } else if (value && strcmp(argv[i], "--bug") == 0 && strncmp(argv[i + 1], "relay_", 6) == 0) {
      setenv("TXB_BUG", argv[i + 1], 1);
    } else {
      fprintf(stderr, "usage: sim_relay [--seeds N] [--seed S] [--bug relay_NAME]\n");
      return 2;
    }
  }
  for (uint64_t seed = first; seed < first + seeds; seed++) {
    if (simulate(seed, false, violation, sizeof violation))
      continue;
    printf("seed %llu: %s\nhistory (ms):\n", (unsigned long long)seed, violation);
    (void)simulate(seed, true, violation, sizeof violation);
    printf("again: sim_relay --seeds 1 --seed %llu\n", (unsigned long long)seed);
    return 1;
  }
  printf("%llu seeds from %llu: nothing found\n", (unsigned long long)seeds, (unsigned long long)first);
  printf("%llu polls, %llu thrown away, %llu generations left out, %llu rows drained, %llu intents refused, %llu "
         "producers replaced, %llu fenced, "
         "%llu zombies, %llu kills, %llu stops, %llu connections lost, %llu retried, %llu edited, %llu discarded, %llu "
         "keys drained, %llu without a key, %llu failed ones read again\n",
         (unsigned long long)counts.polls, (unsigned long long)counts.thrown_away, (unsigned long long)counts.left_out,
         (unsigned long long)counts.drained, (unsigned long long)counts.refused, (unsigned long long)counts.replaced,
         (unsigned long long)counts.fenced, (unsigned long long)counts.zombies, (unsigned long long)counts.kills,
         (unsigned long long)counts.stops, (unsigned long long)counts.lost, (unsigned long long)counts.retried,
         (unsigned long long)counts.edited, (unsigned long long)counts.discarded,
         (unsigned long long)counts.keys_drained, (unsigned long long)counts.loose,
         (unsigned long long)counts.recorded);
  if (seeds >= 1000 &&
      (counts.thrown_away == 0 || counts.left_out == 0 || counts.drained == 0 || counts.refused == 0 ||
       counts.replaced == 0 || counts.fenced == 0 || counts.zombies == 0 || counts.kills == 0 || counts.stops == 0 ||
       counts.lost == 0 || counts.retried == 0 || counts.edited == 0 || counts.discarded == 0 ||
       counts.keys_drained == 0 || counts.loose == 0 || counts.recorded == 0)) {
    printf("something of that never happened: the seeds test less than they should\n");
    return 1;
  }
  return 0;
}
