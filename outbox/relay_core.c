/* The relay core: events, and what is due after each. */
#include "outbox/relay_core.h"

#include <string.h>

#include "common/fault.h"
#include "common/memory.h"
#include "outbox/relay_core_internal.h"

#define SPAN_MAX ((int64_t)1 << 50)

void txb_relay_core_options_init(struct txb_relay_core_options *options) {
  *options = (struct txb_relay_core_options){
      .read_rows = 4000,
      .read_bytes = 4 << 20,
      .few_rows = 8,
      .few_bytes = 9000000, /* an intent has at most 1 MB and its headers */
      .inflight_rows = 16000,
      .inflight_bytes = 16 << 20,
      .lease_us = 15000000,
      .checkpoint_us = 100000,
      .poll_busy_us = 2000,
      .poll_idle_us = 20000,
      .span = 1000000,
      .drain_span = 200000,
      .drain_keys = 1000,
      .gap_max = 1000,
      .list_first_us = 20000,
      .list_cap_us = 250000,
      .probe_first_us = 1000000,
      .probe_cap_us = 30000000,
      .proof_us = INT64_C(3600000000), /* brokers remember for a day (producer.id.expiration.ms) */
      .hole_ranges_max = 1000000,
      .policy = {.ask_freely = 32, .quiet_min = 2, .look_ranges = 20000, .generations_max = 64},
  };
}

static int64_t earlier(int64_t a, int64_t b) {
  return a < b ? a : b;
}

static void forget(struct txb_relay_core *core) {
  txb_flight_reset(core);
  txb_generations_clear(&core->generations);
  core->held = core->dirty = core->everything = core->came_up = core->few = false;
  core->poll_out = core->list_out = core->look_out = core->checkpoint_out = core->renew_out = core->probe_out = false;
  core->decided = core->decide_out = false;
  core->published = 0;
}

enum txb_rc txb_relay_core_init(struct txb_relay_core *core, const struct txb_relay_core_options *options,
                                struct txb_error *err) {
  uint64_t capacity = 16;
  void *slots;
  *core = (struct txb_relay_core){.options = *options};
  while (capacity < options->inflight_rows)
    capacity *= 2;
  core->options.inflight_rows = (uint32_t)capacity;
  if (core->options.read_rows > capacity / 3)
    core->options.read_rows = (uint32_t)(capacity / 3);
  TXB_TRY(txb_alloc_array((size_t)capacity, sizeof *core->slots, &slots, err));
  core->slots = slots;
  TXB_TRY(txb_alloc_array((size_t)capacity, sizeof *core->sends, &slots, err));
  core->sends = slots;
  core->mask = capacity - 1;
  txb_generations_init(&core->generations, &options->policy);
  forget(core);
  return TXB_OK;
}

void txb_relay_core_fini(struct txb_relay_core *core) {
  txb_generations_fini(&core->generations);
  txb_drain_fini(core);
  txb_key_holds_fini(&core->keys);
  txb_holes_fini(&core->recorded);
  txb_free(core->slots);
  txb_free(core->sends);
  for (size_t i = 0; i < core->topic_count; i++)
    txb_free(core->topics[i].partitions);
  txb_free(core->topics);
  txb_free(core->view.pages);
  txb_free(core->view.ranges);
  txb_free(core->view.holds);
  txb_free(core->view.keys);
  *core = (struct txb_relay_core){0};
}

/* ---- the position ----------------------------------------------------------------------------------------------- */

static enum txb_rc load_holds(struct txb_relay_core *core, const struct txb_relay_position *p, int64_t now_us,
                              struct txb_error *err) {
  struct txb_topic *topic;
  struct txb_key_hold *hold;
  for (size_t i = 0; i < p->topic_count; i++) {
    TXB_TRY(txb_flight_topic(core, p->topics[i].topic, &topic, err));
    topic->hold = TXB_TOPIC_HELD;
    topic->lo = topic->stored_lo = p->topics[i].lo;
    topic->pause_us = core->options.probe_first_us;
    topic->probe_us = now_us;
    core->hold_count++;
  }
  for (size_t i = 0; i < p->key_count; i++) {
    TXB_TRY(txb_flight_topic(core, p->keys[i].topic, &topic, err));
    TXB_TRY(txb_key_holds_add(&core->keys, p->keys[i].topic, p->keys[i].key, &hold, err));
    hold->lo = hold->stored_lo = p->keys[i].lo;
    txb_key_holds_want(&core->keys, hold, p->keys[i].decided);
  }
  return TXB_OK;
}

static enum txb_rc acquired(struct txb_relay_core *core, const struct txb_relay_event *event, struct txb_error *err) {
  const struct txb_relay_position *p = &event->u.position;
  forget(core);
  core->epoch = p->epoch;
  core->instance = p->instance;
  core->checkpoint = p->checkpoint;
  core->highest = p->highest;
  core->span = core->options.span;
  core->drain_span = core->key_span = core->options.drain_span;
  core->loose_wanted = true;
  for (size_t i = 0; i < p->hole_count; i++)
    TXB_TRY(txb_generations_note(&core->generations, p->holes[i].lo, p->holes[i].hi, event->now_us, err));
  for (size_t i = 0; i < p->recorded_count; i++)
    TXB_TRY(txb_holes_add(&core->recorded, p->recorded[i], p->recorded[i], NULL, err));
  TXB_TRY(load_holds(core, p, event->now_us, err));
  core->lease_us = core->lease_sent_us = core->checkpoint_us = event->now_us;
  core->poll_us = event->now_us;
  core->pause_us = core->options.poll_busy_us;
  core->list_us = event->now_us;
  core->list_pause_us = core->options.list_first_us;
  core->held = true;
  return TXB_OK;
}

/* ---- what a poll brought ---------------------------------------------------------------------------------------- */

static enum txb_relay_alarm check_server(const struct txb_relay_core *core, const struct txb_relay_answer *a) {
  if (a->recovering)
    return TXB_RELAY_RECOVERING;
  if ((a->epoch != core->epoch || a->checkpoint != (int64_t)core->poll_checkpoint ||
       memcmp(a->instance.bytes, core->instance.bytes, sizeof a->instance.bytes) != 0) &&
      !txb_bug("relay_no_epoch_check"))
    return TXB_RELAY_POSITION_CHANGED;
  if (a->drawn > TXB_RELAY_NUMBER_MAX)
    return TXB_RELAY_SEQUENCE_AT_END;
  /* Whatever was visible had been drawn before: only a server that lost commits, or another one, is behind. */
  return a->drawn < core->highest ? TXB_RELAY_SEQUENCE_BEHIND : TXB_RELAY_FINE;
}

static enum txb_rc note(struct txb_relay_core *core, int64_t lo, int64_t hi, int64_t now_us, struct txb_error *err) {
  if (lo > hi || txb_bug("relay_id_gt_last"))
    return TXB_OK;
  core->list_pause_us = core->options.list_first_us;
  return txb_generations_note(&core->generations, lo, hi, now_us, err);
}

static enum txb_rc take_holes(struct txb_relay_core *core, const struct txb_relay_read *read, struct txb_error *err) {
  uint64_t head = core->head;
  for (size_t i = 0; i < read->count; i++) {
    struct txb_range was_out;
    TXB_TRY(txb_generations_remove(&core->generations, read->rows[i].seq, &was_out, err));
    if (was_out.lo > was_out.hi)
      core->unasked_rows++;
    else
      TXB_TRY(txb_flight_take(core, TXB_ROW_HOLE, &read->rows[i], read->owner, err));
  }
  txb_flight_charge(core, read, head);
  return TXB_OK;
}

static enum txb_rc take_tail(struct txb_relay_core *core, const struct txb_relay_answer *a, int64_t now_us,
                             struct txb_error *err) {
  int64_t expected = core->read.after + 1, bound = core->read.bound;
  uint64_t head = core->head;
  if (bound == core->read.after)
    return TXB_OK;
  for (size_t i = 0; i < a->tail.count; i++) {
    const struct txb_relay_row *row = &a->tail.rows[i];
    TXB_ASSERT(row->seq >= expected && row->seq <= bound);
    TXB_TRY(note(core, expected, row->seq - 1, now_us, err));
    TXB_TRY(txb_flight_take(core, TXB_ROW_TAIL, row, a->tail.owner, err));
    expected = row->seq + 1;
  }
  txb_flight_charge(core, &a->tail, head);
  bool whole_span = !a->tail.cut && a->drawn >= bound;
  int64_t top = earlier(a->drawn, bound);
  /* Numbers up to `drawn` were drawn by sessions that held the lock by then: they may be holes although no row
   * stands behind them. */
  bool quiet =
      a->tail.count == 0 && core->came_up; /* nothing for two polls: let rolled-back numbers at the end die too */
  if (whole_span || (!a->tail.cut && (quiet || top - expected >= core->options.gap_max))) {
    TXB_TRY(note(core, expected, top, now_us, err));
    expected = top + 1;
  }
  core->span = whole_span && a->tail.count == 0 ? earlier(core->span * 2, SPAN_MAX) : core->options.span;
  core->dirty = core->dirty || core->highest != expected - 1;
  core->highest = expected - 1;
  return TXB_OK;
}

void txb_relay_core_nudge(struct txb_relay_core *core, int64_t now_us) {
  core->pause_us = core->options.poll_busy_us;
  core->poll_us = earlier(core->poll_us, now_us);
}

static void pause_polls(struct txb_relay_core *core, bool more, bool read_some, int64_t now_us) {
  const struct txb_relay_core_options *o = &core->options;
  if (read_some || more)
    core->pause_us = o->poll_busy_us;
  else
    core->pause_us =
        earlier(core->pause_us * 2 > o->poll_busy_us ? core->pause_us * 2 : o->poll_busy_us, o->poll_idle_us);
  core->poll_us = more ? now_us : now_us + core->pause_us;
}

static enum txb_rc polled(struct txb_relay_core *core, const struct txb_relay_event *event,
                          struct txb_relay_actions *actions, struct txb_error *err) {
  const struct txb_relay_answer *a = &event->u.answer;
  bool drain_more = false, span_more;
  if (!core->poll_out || a->poll != core->poll_number)
    return TXB_OK;
  core->poll_out = false;
  core->polls++;
  actions->alarm = check_server(core, a);
  if (actions->alarm != TXB_RELAY_FINE) {
    forget(core);
    return TXB_OK;
  }
  if (!txb_generations_poll_is_usable(&core->generations, &a->snapshot)) {
    /* A holder of a generation that was left out has ended: one of its rows may be visible, and come before a row
     * that was read. */
    core->polls_thrown_away++;
    core->everything = true;
    core->list_pause_us = core->options.list_first_us;
    core->poll_us = event->now_us;
    return TXB_OK;
  }
  core->everything = false;
  core->decided = core->decided || (a->decided && a->poll > core->decide_poll);
  TXB_TRY(take_holes(core, &a->holes, err));
  if (a->holes.cut) {
    /* The rest of this answer may come after hole rows that were cut off. */
    pause_polls(core, true, true, event->now_us);
    return TXB_OK;
  }
  txb_generations_looked(&core->generations, a->poll);
  TXB_TRY(txb_drain_take(core, &a->drain, &drain_more, err));
  span_more = a->drawn >= core->read.bound && core->read.bound > core->read.after;
  TXB_TRY(take_tail(core, a, event->now_us, err));
  core->few = !a->tail.cut && a->tail.count < core->options.few_rows;
  size_t rows = a->holes.count + a->drain.count + a->tail.count;
  core->came_up = rows == 0 && !drain_more && !span_more && core->read.bound > core->read.after;
  pause_polls(core, a->tail.cut || drain_more || span_more, rows > 0, event->now_us);
  return TXB_OK;
}

/* ---- what is due ------------------------------------------------------------------------------------------------ */

static bool lease_is_fresh(const struct txb_relay_core *core, int64_t now_us) {
  return now_us < core->lease_us + core->options.lease_us / 3 * 2;
}

static enum txb_rc due_poll(struct txb_relay_core *core, int64_t now_us, struct txb_relay_actions *actions,
                            struct txb_error *err) {
  if (core->poll_out || core->stopping || now_us < core->poll_us)
    return TXB_OK;
  TXB_TRY(txb_drain_choose(core, err));
  uint32_t branches = 1U + (core->generations.count > 0) + (core->read.drain != TXB_DRAIN_NONE);
  core->full = !txb_flight_has_room(core, branches);
  if (core->full)
    return TXB_OK;
  TXB_TRY(txb_generations_poll_sent(&core->generations, ++core->poll_number, core->everything, err));
  core->read.number = core->poll_number;
  core->read.rows = core->options.read_rows;
  core->read.bytes = core->options.read_bytes;
  core->read.tail_few = core->few && core->options.few_rows < core->read.rows &&
                        core->bytes + core->options.few_bytes <= core->options.inflight_bytes;
  core->read.tail_rows = core->read.tail_few ? core->options.few_rows : core->read.rows;
  core->read.holes = core->generations.asked;
  core->read.hole_count = core->generations.asked_count;
  core->read.after = core->read.bound = core->highest;
  if (txb_generations_ranges(&core->generations) < core->options.hole_ranges_max)
    core->read.bound = (core->highest / core->span + 1) * core->span; /* ends where a partition ends */
  core->poll_checkpoint = (uint64_t)core->checkpoint;
  core->poll_out = actions->poll = true;
  actions->read = core->read;
  return TXB_OK;
}

static bool wants_listing(const struct txb_relay_core *core) {
  for (size_t i = 0; i < core->generations.count; i++)
    if (!core->generations.items[i].listed || core->generations.items[i].holder_count > 0)
      return true;
  return false;
}

static void due_listing(struct txb_relay_core *core, int64_t now_us, struct txb_relay_actions *actions) {
  if (core->list_out || core->stopping || now_us < core->list_us + core->list_pause_us || !wants_listing(core))
    return;
  txb_generations_list_sent(&core->generations);
  core->list_us = now_us;
  core->list_out = actions->list = true;
}

static enum txb_rc due_look(struct txb_relay_core *core, struct txb_relay_actions *actions, struct txb_error *err) {
  if (core->look_out || core->stopping)
    return TXB_OK;
  TXB_TRY(txb_generations_look_begin(&core->generations, &core->look_out, err));
  if (core->look_out && txb_bug("relay_last_look_limited")) {
    core->look_out = false;
    core->dirty = true;
    return txb_generations_look_end(&core->generations, false, core->poll_number + 1, err);
  }
  actions->look = core->look_out;
  actions->look_ranges = core->generations.look;
  actions->look_count = core->generations.look_count;
  return TXB_OK;
}

/* A checkpoint renews the lease as well. None goes out while a refusal is being recorded: it would say that what
 * stands behind the refused intent is done, before the hold that keeps it is stored. */
static enum txb_rc due_checkpoint(struct txb_relay_core *core, int64_t now_us, struct txb_relay_actions *actions,
                                  struct txb_error *err) {
  if (core->checkpoint_out || core->renew_out)
    return TXB_OK;
  bool renew = now_us >= core->lease_sent_us + core->options.lease_us / 3;
  bool last = core->stopping && core->sent == 0;
  if (core->dirty && core->record_ticket == UINT64_MAX &&
      (renew || last || now_us >= core->checkpoint_us + core->options.checkpoint_us)) {
    TXB_TRY(txb_view_build(core, err));
    core->checkpoint_us = core->lease_sent_us = now_us;
    core->checkpoint_out = actions->checkpoint = true;
    actions->position = &core->view;
  } else if (renew) {
    core->lease_sent_us = now_us;
    core->renew_out = actions->renew = true;
  }
  return TXB_OK;
}

/* After the poll, which may still show what is taken now. */
static void due_decisions(struct txb_relay_core *core, struct txb_relay_actions *actions) {
  if (!core->decided || core->decide_out || core->stopping)
    return;
  core->decided = false;
  core->decide_poll = core->poll_number;
  core->decide_out = actions->decide = true;
}

static void due_probe(struct txb_relay_core *core, int64_t now_us, struct txb_relay_actions *actions) {
  if (core->probe_out) /* one at a time: the process has one place for it */
    return;
  for (uint32_t id = 0; core->hold_count > 0 && !core->replace && !core->stopping && id < core->topic_count; id++) {
    struct txb_topic *topic = &core->topics[id];
    if (topic->hold != TXB_TOPIC_HELD || topic->probe_us > now_us)
      continue;
    topic->probe_us = INT64_MAX;
    core->probe_out = actions->probe = true;
    actions->probe_topic = id;
    return;
  }
}

static void probed(struct txb_relay_core *core, uint32_t id, bool there, int64_t now_us) {
  if (id >= core->topic_count || core->topics[id].hold != TXB_TOPIC_HELD)
    return;
  struct txb_topic *topic = &core->topics[id];
  if (there && !core->replace) {
    topic->hold = TXB_TOPIC_DRAINING;
    core->poll_us = now_us;
    return;
  }
  topic->probe_us = now_us + topic->pause_us;
  topic->pause_us = earlier(topic->pause_us * 2, core->options.probe_cap_us);
}

/* When something will be due that no other event brings. What waits for an answer, for a report or for room is woken
 * by that. */
static int64_t wake_time(const struct txb_relay_core *core, int64_t now_us) {
  int64_t wake = INT64_MAX;
  if (!core->checkpoint_out && !core->renew_out) {
    wake = core->lease_sent_us + core->options.lease_us / 3;
    if (core->dirty && core->record_ticket == UINT64_MAX)
      wake = earlier(wake, core->checkpoint_us + core->options.checkpoint_us);
  }
  if (core->stopping)
    return wake;
  if (!core->poll_out && !core->full && lease_is_fresh(core, now_us))
    wake = earlier(wake, core->poll_us);
  if (!core->list_out && wants_listing(core))
    wake = earlier(wake, core->list_us + core->list_pause_us);
  for (size_t id = 0; core->hold_count > 0 && !core->replace && !core->probe_out && id < core->topic_count; id++)
    if (core->topics[id].hold == TXB_TOPIC_HELD)
      wake = earlier(wake, core->topics[id].probe_us);
  return wake;
}

static enum txb_rc due(struct txb_relay_core *core, int64_t now_us, struct txb_relay_actions *actions,
                       struct txb_error *err) {
  txb_flight_trim(core);
  actions->released_to = core->tail;
  if (lease_is_fresh(core, now_us)) {
    txb_flight_send(core, now_us);
    TXB_TRY(due_poll(core, now_us, actions, err));
  }
  due_listing(core, now_us, actions);
  TXB_TRY(due_look(core, actions, err));
  TXB_TRY(due_checkpoint(core, now_us, actions, err));
  due_probe(core, now_us, actions);
  due_decisions(core, actions);
  actions->replace_producer = core->replace;
  if (core->record_ticket != UINT64_MAX && !core->record_out) {
    core->record_out = actions->record = true;
    actions->record_ticket = core->record_ticket;
  }
  bool quiet = !core->dirty && !core->checkpoint_out && core->record_ticket == UINT64_MAX;
  actions->idle = quiet && core->came_up && core->tail == core->head && !txb_drain_is_pending(core);
  actions->stopped = quiet && core->stopping && core->sent == 0;
  actions->wake_us = wake_time(core, now_us);
  return TXB_OK;
}

/* ---- one step --------------------------------------------------------------------------------------------------- */

static enum txb_rc take_event(struct txb_relay_core *core, const struct txb_relay_event *event,
                              struct txb_relay_actions *actions, struct txb_error *err) {
  bool changed;
  switch (event->kind) {
  case TXB_RELAY_ACQUIRED:
    return acquired(core, event, err);
  case TXB_RELAY_LOST:
    forget(core);
    return TXB_OK;
  case TXB_RELAY_POLLED:
    return polled(core, event, actions, err);
  case TXB_RELAY_LISTED:
    core->list_out = false;
    TXB_TRY(txb_generations_listed(&core->generations, event->u.listing.holders, event->u.listing.count,
                                   core->poll_number + 1, &changed, err));
    core->list_pause_us =
        changed ? core->options.list_first_us : earlier(core->list_pause_us * 2, core->options.list_cap_us);
    return TXB_OK;
  case TXB_RELAY_LOOKED:
    core->look_out = false;
    core->dirty = true;
    return txb_generations_look_end(&core->generations, event->u.look_found, core->poll_number + 1, err);
  case TXB_RELAY_REPORTED:
    return txb_flight_reports(core, event->u.reports.items, event->u.reports.count, event->now_us, err);
  case TXB_RELAY_REPLACED:
    return txb_flight_replaced(core, err);
  case TXB_RELAY_CHECKPOINTED:
    core->checkpoint_out = false;
    core->lease_us = core->lease_sent_us;
    return TXB_OK;
  case TXB_RELAY_RENEWED:
    core->renew_out = false;
    core->lease_us = core->lease_sent_us;
    return TXB_OK;
  case TXB_RELAY_RECORDED:
    return txb_flight_recorded(core, err);
  case TXB_RELAY_PROBED:
    core->probe_out = false;
    probed(core, event->u.probe.topic, event->u.probe.there, event->now_us);
    return TXB_OK;
  case TXB_RELAY_DECIDED:
    core->decide_out = false;
    txb_drain_decided(core, event->u.decisions.keys, event->u.decisions.count, event->u.decisions.loose);
    core->poll_us = event->now_us;
    return TXB_OK;
  case TXB_RELAY_TICK:
    return TXB_OK;
  case TXB_RELAY_STOP:
    core->stopping = true;
    return TXB_OK;
  }
  return TXB_OK;
}

enum txb_rc txb_relay_core_step(struct txb_relay_core *core, const struct txb_relay_event *event,
                                struct txb_relay_actions *actions, struct txb_error *err) {
  *actions = (struct txb_relay_actions){.wake_us = INT64_MAX};
  TXB_TRY(take_event(core, event, actions, err));
  actions->released_to = core->head; /* of what was forgotten nothing is kept */
  if (!core->held) {
    actions->stopped = core->stopping;
    return TXB_OK;
  }
  return due(core, event->now_us, actions, err);
}
