/* A relay's process around its core in the simulator: what the core wants, what it is answered, how it begins and ends. See
 * relay_world.h. */
#include "relay_world.h"

#include <string.h>

static int key_of(struct txb_slice key) {
  return *(const char *)key.data - 'a';
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

void forget(struct rm_model *m, struct relay *r) {
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

void step(struct rm_model *m, struct relay *r, struct txb_relay_event *event) {
  struct txb_relay_actions actions;
  struct txb_error err;
  event->now_us = m->now_us;
  if (txb_relay_core_step(&r->core, event, &actions, &err) != TXB_OK) {
    rm_fail(m, "the core fails: %s", err.message);
    return;
  }
  carry_out(m, r, &actions);
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
          decided[event.u.decisions.count++] = (struct txb_relay_key_hold){.topic = t, .key = {relay_keys[k], 1}};
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

void end_core(struct relay *r) {
  counts.polls += (uint64_t)r->core.polls;
  counts.thrown_away += (uint64_t)r->core.polls_thrown_away;
  txb_relay_core_fini(&r->core);
}

void relay_end(struct rm_model *m, struct relay *r) {
  carry_out_rest(m, r);
  if (r->producer.open)
    rm_producer_close(m, &r->producer);
  end_core(r);
  r->alive = r->held = false;
}

void relay_begin(struct world *w, struct relay *r) {
  struct txb_error err;
  if (txb_relay_core_init(&r->core, &w->options, &err) != TXB_OK)
    rm_fail(&w->m, "no memory");
  r->alive = true;
  r->held = r->zombie = r->replace = r->probe = r->idle = r->stopping = r->stopped = false;
  r->first = r->count = 0;
  r->producer.open = false;
}

void lose(struct rm_model *m, struct relay *r) {
  carry_out_rest(m, r);
  forget(m, r);
  step(m, r, &(struct txb_relay_event){.kind = TXB_RELAY_LOST});
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
            t, {relay_keys[k], 1}, s->key_lo[t][k], m->rows[first_row(m, s->key_lo[t][k])].failed.state != RM_DEAD};
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

static void hand_over(struct rm_model *m, struct relay *r) {
  uint64_t ticket;
  for (int n = 1 + (int)rm_random(m, 6); n > 0 && !r->replace && txb_relay_core_next_send(&r->core, &ticket); n--) {
    const struct txb_slot *slot = txb_relay_core_slot(&r->core, ticket);
    rm_trace(m, "epoch %lld sends %lld", (long long)r->epoch, (long long)slot->seq);
    bool current = m->stored.epoch == r->epoch && m->stored.instance == r->instance;
    rm_produce(m, &r->producer, ticket, (int)slot->row, current);
  }
}

void relay_step(struct world *w, struct relay *r) {
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
