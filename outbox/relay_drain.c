/* What was held and goes out now. A poll has room for one page besides holes and tail: of a topic that is there again,
 * of held keys that somebody has decided about, or of failed messages without a key. Kinds take turns.
 *
 * A drain reads in the order of the numbers what was passed over, from where its hold begins up to the tail, and only
 * then the tail's own rows flow. Rows that come late out of holes meanwhile: one above the drain's place is there for
 * a page to find (it was visible to the read that brought it, so it is to every later one); one below it goes out at
 * once, before the page of its read. So none is lost, and none overtakes what was committed before it was written.
 *
 * A crash forgets how far a drain came: the stored hold begins where it began, or the record still says retrying, and
 * the next relay begins anew and repeats.
 */
#include "common/fault.h"
#include "common/memory.h"
#include "outbox/relay_core_internal.h"

#define SPAN_MAX ((int64_t)1 << 50)

static int64_t earlier(int64_t a, int64_t b) {
  return a < b ? a : b;
}

static enum txb_rc reserve(void **items, size_t *capacity, size_t count, size_t size, struct txb_error *err) {
  if (count < *capacity)
    return TXB_OK;
  size_t bigger = *capacity == 0 ? 64 : *capacity * 2;
  TXB_TRY(txb_realloc_array(items, bigger, size, err));
  *capacity = bigger;
  return TXB_OK;
}

/* ---- a topic ---------------------------------------------------------------------------------------------------- */

static bool choose_topic(struct txb_relay_core *core) {
  for (uint32_t id = 0; core->hold_count > 0 && id < core->topic_count; id++) {
    struct txb_topic *topic = &core->topics[id];
    if (topic->hold != TXB_TOPIC_DRAINING)
      continue;
    if (topic->lo > core->highest) { /* nothing of it is left below the tail that this poll reads */
      topic->hold = TXB_TOPIC_ENDING;
      core->dirty = true;
      continue;
    }
    core->read.drain_topic = id;
    core->read.drain_from = topic->lo;
    core->read.drain_to = earlier(core->highest, topic->lo + core->drain_span - 1);
    return true;
  }
  return false;
}

/* If the drain is still where it was when the poll was sent. */
static enum txb_rc take_topic(struct txb_relay_core *core, const struct txb_relay_read *read, bool *more_out,
                              struct txb_error *err) {
  uint32_t id = core->read.drain_topic;
  if (core->topics[id].hold != TXB_TOPIC_DRAINING || core->topics[id].lo != core->read.drain_from)
    return TXB_OK;
  for (size_t i = 0; i < read->count; i++)
    TXB_TRY(txb_flight_take(core, TXB_ROW_DRAIN, &read->rows[i], read->owner, err));
  struct txb_topic *topic = &core->topics[id];
  topic->lo = read->cut ? read->rows[read->count - 1].seq + 1 : core->read.drain_to + 1;
  core->drain_span = read->count == 0 ? earlier(core->drain_span * 2, SPAN_MAX) : core->options.drain_span;
  core->dirty = true;
  *more_out = topic->lo <= core->highest;
  if (!*more_out)
    topic->hold = TXB_TOPIC_ENDING; /* this poll's own tail rows of the topic follow in order */
  return TXB_OK;
}

/* ---- keys ------------------------------------------------------------------------------------------------------- */

/* What failed before this relay began is above its position or in its holes: until it has come by, a key's drain
 * could end below a failed message of it, and the tail would pass that over. */
static bool knows_all_failed(const struct txb_relay_core *core) {
  const struct txb_holes *recorded = &core->recorded;
  return recorded->count == 0 || txb_holes_at(recorded, recorded->count - 1)->hi <= core->highest;
}

static bool may_drain(const struct txb_relay_core *core, const struct txb_key_hold *hold) {
  return hold->wanted && hold->state == TXB_KEY_HELD && !hold->listed && hold->lo <= core->highest &&
         core->topics[hold->topic].hold == TXB_TOPIC_FREE;
}

/* A refusal that is not yet recorded would look like an intent that never failed. */
static bool may_begin_pass(const struct txb_relay_core *core) {
  return core->keys.wanted > 0 && core->record_ticket == UINT64_MAX && knows_all_failed(core);
}

static enum txb_rc begin_pass(struct txb_relay_core *core, struct txb_error *err) {
  core->pass_at = INT64_MAX;
  core->key_span = core->options.drain_span;
  for (size_t i = 0; i < core->keys.capacity && core->draining < core->options.drain_keys; i++) {
    struct txb_key_hold *hold = core->keys.slots[i];
    if (hold == NULL || !may_drain(core, hold))
      continue;
    void *items = core->drains;
    TXB_TRY(reserve(&items, &core->drain_capacity, core->drain_count, sizeof(void *), err));
    core->drains = items;
    core->drains[core->drain_count++] = hold;
    txb_key_holds_want(&core->keys, hold, false);
    hold->state = TXB_KEY_DRAINING;
    hold->listed = true;
    core->draining++;
    core->pass_at = earlier(core->pass_at, hold->lo);
  }
  return TXB_OK;
}

static void end_pass(struct txb_relay_core *core) {
  for (size_t i = 0; i < core->drain_count; i++)
    if (core->drains[i]->state == TXB_KEY_DRAINING)
      core->drains[i]->state = TXB_KEY_ENDING;
  core->draining = 0;
  core->dirty = true;
}

static enum txb_rc choose_keys(struct txb_relay_core *core, bool *chosen_out, struct txb_error *err) {
  if (core->draining == 0 && may_begin_pass(core))
    TXB_TRY(begin_pass(core, err));
  *chosen_out = core->draining > 0;
  if (!*chosen_out)
    return TXB_OK;
  core->read.drain_from = core->pass_at;
  core->read.drain_to = earlier(core->highest, core->pass_at + core->key_span - 1);
  core->read.drain_keys = core->drains;
  core->read.drain_key_count = core->drain_count;
  return TXB_OK;
}

static enum txb_rc take_key_row(struct txb_relay_core *core, const struct txb_relay_row *row, void *owner,
                                struct txb_error *err) {
  struct txb_key_hold *hold = txb_key_holds_find(&core->keys, row->topic, row->key);
  if (hold == NULL || hold->state != TXB_KEY_DRAINING || row->seq < hold->lo)
    return TXB_OK;
  switch (row->verdict) {
  case TXB_VERDICT_DEAD: /* the key waits again, from here on */
    hold->state = TXB_KEY_HELD;
    hold->lo = row->seq;
    core->draining--;
    return TXB_OK;
  case TXB_VERDICT_CLOSED:
    return TXB_OK;
  case TXB_VERDICT_NONE:
  case TXB_VERDICT_RETRY:
    break;
  }
  TXB_TRY(txb_flight_take(core, TXB_ROW_KEY, row, owner, err));
  txb_flight_slot(core, core->head - 1)->hold = hold;
  hold->open++;
  return TXB_OK;
}

static enum txb_rc take_keys(struct txb_relay_core *core, const struct txb_relay_read *read, bool *more_out,
                             struct txb_error *err) {
  for (size_t i = 0; i < read->count; i++)
    TXB_TRY(take_key_row(core, &read->rows[i], read->owner, err));
  core->pass_at = read->cut ? read->rows[read->count - 1].seq + 1 : core->read.drain_to + 1;
  core->key_span = read->count == 0 ? earlier(core->key_span * 2, SPAN_MAX) : core->options.drain_span;
  core->dirty = true;
  for (size_t i = 0; i < core->drain_count; i++)
    if (core->drains[i]->state == TXB_KEY_DRAINING && core->drains[i]->lo < core->pass_at)
      core->drains[i]->lo = core->pass_at;
  *more_out = core->draining > 0 && core->pass_at <= core->highest;
  if (!*more_out)
    end_pass(core); /* this poll's own tail rows of the keys follow in order */
  return TXB_OK;
}

/* The rows that were under way are kept by the stored hold, as all above it; also those that stood before a failed one
 * which the drain has come to. */
void txb_drain_revert(struct txb_relay_core *core, uint32_t topic) {
  for (size_t i = 0; i < core->drain_count; i++) {
    struct txb_key_hold *hold = core->drains[i];
    if (hold->topic != topic || (hold->state == TXB_KEY_HELD && hold->open == 0))
      continue;
    core->draining -= hold->state == TXB_KEY_DRAINING;
    hold->state = TXB_KEY_HELD;
    hold->lo = hold->stored_lo;
    txb_key_holds_want(&core->keys, hold, true);
    core->dirty = true;
  }
}

/* ---- failed messages without a key ------------------------------------------------------------------------------ */

/* What is to be sent again is found by its record's state. So a round begins when all of the last one has been
 * settled, or it would find them again. */
static bool choose_loose(struct txb_relay_core *core) {
  if (!core->loose_round && core->loose_wanted && core->loose_open == 0 && core->settled_count == 0 &&
      !core->checkpoint_out) {
    core->loose_wanted = false;
    core->loose_round = true;
    core->loose_after = 0;
  }
  core->read.drain_from = core->loose_after;
  return core->loose_round;
}

static enum txb_rc take_loose(struct txb_relay_core *core, const struct txb_relay_read *read, bool *more_out,
                              struct txb_error *err) {
  struct txb_topic *topic;
  for (size_t i = 0; i < read->count; i++) {
    const struct txb_relay_row *row = &read->rows[i];
    core->loose_after = row->seq;
    TXB_TRY(txb_flight_topic(core, row->topic, &topic, err));
    if (topic->hold == TXB_TOPIC_FREE || topic->hold == TXB_TOPIC_ENDING) /* else another round, when it is there */
      TXB_TRY(txb_flight_take(core, TXB_ROW_LOOSE, row, read->owner, err));
  }
  core->loose_round = read->cut;
  *more_out = read->cut;
  return TXB_OK;
}

/* ---- the page of a poll ----------------------------------------------------------------------------------------- */

enum txb_rc txb_drain_choose(struct txb_relay_core *core, struct txb_error *err) {
  bool chosen = false;
  core->read.drain = TXB_DRAIN_NONE;
  for (int turn = 1; turn <= 3 && !chosen; turn++) {
    enum txb_relay_drain kind =
        (enum txb_relay_drain)(((int)core->drained + turn - 1) % 3 + 1); /* the one after the last */
    if (kind == TXB_DRAIN_TOPIC)
      chosen = choose_topic(core);
    else if (kind == TXB_DRAIN_KEYS)
      TXB_TRY(choose_keys(core, &chosen, err));
    else
      chosen = choose_loose(core);
    if (chosen)
      core->read.drain = kind;
  }
  return TXB_OK;
}

enum txb_rc txb_drain_take(struct txb_relay_core *core, const struct txb_relay_read *read, bool *more_out,
                           struct txb_error *err) {
  uint64_t head = core->head;
  *more_out = false;
  if (core->read.drain != TXB_DRAIN_NONE)
    core->drained = core->read.drain;
  switch (core->read.drain) {
  case TXB_DRAIN_NONE:
    break;
  case TXB_DRAIN_TOPIC:
    TXB_TRY(take_topic(core, read, more_out, err));
    break;
  case TXB_DRAIN_KEYS:
    TXB_TRY(take_keys(core, read, more_out, err));
    break;
  case TXB_DRAIN_LOOSE:
    TXB_TRY(take_loose(core, read, more_out, err));
    break;
  }
  txb_flight_charge(core, read, head);
  return TXB_OK;
}

/* ---- decisions, and what became of them ------------------------------------------------------------------------- */

void txb_drain_decided(struct txb_relay_core *core, const struct txb_relay_key_hold *keys, size_t count, bool loose) {
  for (size_t i = 0; i < count; i++) {
    struct txb_key_hold *hold = txb_key_holds_find(&core->keys, keys[i].topic, keys[i].key);
    if (hold != NULL)
      txb_key_holds_want(&core->keys, hold, true);
  }
  core->loose_wanted = core->loose_wanted || loose;
}

bool txb_drain_is_pending(const struct txb_relay_core *core) {
  if (core->decided || core->decide_out || core->drain_count > 0 || core->loose_wanted || core->loose_round)
    return true;
  for (size_t i = 0; core->keys.wanted > 0 && i < core->keys.capacity; i++)
    if (core->keys.slots[i] != NULL && may_drain(core, core->keys.slots[i]))
      return true;
  return false;
}

enum txb_rc txb_drain_settle(struct txb_relay_core *core, int64_t failed, struct txb_error *err) {
  void *items = core->settled;
  TXB_TRY(reserve(&items, &core->settled_capacity, core->settled_count, sizeof *core->settled, err));
  core->settled = items;
  core->settled[core->settled_count++] = failed;
  return TXB_OK;
}

void txb_drain_reset(struct txb_relay_core *core) {
  for (; core->released_count > 0; core->released_count--)
    txb_key_hold_free(core->released[core->released_count - 1]);
  core->drain_count = core->draining = core->settled_count = 0;
  core->loose_wanted = core->loose_round = false;
  core->loose_open = 0;
}

void txb_drain_fini(struct txb_relay_core *core) {
  txb_drain_reset(core);
  txb_free(core->drains);
  txb_free(core->released);
  txb_free(core->settled);
  txb_free(core->view.settled);
}
