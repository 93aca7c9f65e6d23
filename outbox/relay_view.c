/* What a checkpoint says, so that whoever begins from it loses nothing (R4):
 *
 *   highest   one below the lowest tail row that is not done, else the highest read: all above it is read again
 *   holes     those at or below it, and the rows of holes that were read and are not done
 *   topics    a held topic from the lowest row on that was passed over or drained and is not done
 *   keys      holds that were drained: gone, or from the next refused intent on, once all before is acknowledged
 *   settled   failed messages that were sent again and acknowledged
 *
 * A number at or below `highest` that is in no hole is acknowledged by Kafka, dead, recorded as failed, or at or
 * above the hold of its topic or key.
 */
#include <stdlib.h>

#include "common/fault.h"
#include "common/memory.h"
#include "outbox/relay_core_internal.h"

static bool is_open(const struct txb_slot *slot) {
  if (txb_bug("relay_position_before_ack") || (txb_bug("relay_flush_is_success") && slot->state == TXB_SLOT_SENT))
    return false;
  return slot->state != TXB_SLOT_DONE;
}

static int64_t highest_of(struct txb_relay_core *core) {
  for (; core->lowest_tail < core->head; core->lowest_tail++) {
    const struct txb_slot *slot = txb_flight_slot(core, core->lowest_tail);
    if (slot->kind == TXB_ROW_TAIL && is_open(slot))
      return slot->seq - 1;
  }
  return core->highest;
}

static enum txb_rc grow(void **items, size_t *capacity, size_t count, size_t size, struct txb_error *err) {
  if (count < *capacity)
    return TXB_OK;
  size_t bigger = *capacity == 0 ? 64 : *capacity * 2;
  TXB_TRY(txb_realloc_array(items, bigger, size, err));
  *capacity = bigger;
  return TXB_OK;
}

static enum txb_rc add_range(struct txb_relay_checkpoint *view, int64_t lo, int64_t hi, struct txb_error *err) {
  void *items = view->ranges;
  TXB_TRY(grow(&items, &view->range_capacity, view->range_count, sizeof *view->ranges, err));
  view->ranges = items;
  view->ranges[view->range_count++] = (struct txb_range){lo, hi};
  return TXB_OK;
}

static enum txb_rc add_hold(struct txb_relay_checkpoint *view, struct txb_relay_topic_hold hold,
                            struct txb_error *err) {
  void *items = view->holds;
  TXB_TRY(grow(&items, &view->hold_capacity, view->hold_count, sizeof *view->holds, err));
  view->holds = items;
  view->holds[view->hold_count++] = hold;
  return TXB_OK;
}

static int by_number(const void *a, const void *b) {
  int64_t x = ((const struct txb_range *)a)->lo, y = ((const struct txb_range *)b)->lo;
  return (x > y) - (x < y);
}

/* Rows of holes that were read and are not done, ascending, at the front of view->ranges; *count_out of them. */
static enum txb_rc open_holes(struct txb_relay_core *core, size_t *count_out, struct txb_error *err) {
  struct txb_relay_checkpoint *view = &core->view;
  for (uint64_t t = core->tail; t < core->head && core->open_holes > 0; t++) {
    const struct txb_slot *slot = txb_flight_slot(core, t);
    if (slot->kind == TXB_ROW_HOLE && is_open(slot) && slot->seq <= view->highest)
      TXB_TRY(add_range(view, slot->seq, slot->seq, err));
  }
  *count_out = view->range_count;
  if (view->range_count > 0)
    qsort(view->ranges, view->range_count, sizeof *view->ranges, by_number);
  return TXB_OK;
}

/* The ranges of one generation that begin in the page, up to `highest`. None goes on above it: the number behind it
 * is a row under way, or not yet read. */
static enum txb_rc page_of_generation(struct txb_relay_checkpoint *view, const struct txb_holes *holes, int64_t page,
                                      struct txb_error *err) {
  int64_t first = page << TXB_HOLE_PAGE_BITS, end = (page + 1) << TXB_HOLE_PAGE_BITS;
  for (size_t i = txb_holes_find(holes, first); i < holes->count; i++) {
    const struct txb_range *r = txb_holes_at(holes, i);
    if (r->lo < first)
      continue;
    if (r->lo >= end || r->lo > view->highest)
      break;
    TXB_ASSERT(r->hi <= view->highest);
    TXB_TRY(add_range(view, r->lo, r->hi, err));
  }
  return TXB_OK;
}

/* Writes the changed pages at or below `highest`. A page that may hold something above it stays changed. */
static enum txb_rc changed_pages(struct txb_relay_core *core, size_t open_count, struct txb_error *err) {
  struct txb_relay_checkpoint *view = &core->view;
  struct txb_pages *changed = &core->generations.changed;
  size_t kept = 0, open = 0;
  for (size_t i = 0; i < changed->count; i++) {
    int64_t page = changed->items[i];
    if (page <= txb_hole_page(view->highest)) {
      void *items = view->pages;
      TXB_TRY(grow(&items, &view->page_capacity, view->page_count, sizeof *view->pages, err));
      view->pages = items;
      struct txb_hole_page *out = &view->pages[view->page_count++];
      *out = (struct txb_hole_page){.page = page, .first = view->range_count};
      for (size_t g = 0; g < core->generations.count; g++)
        TXB_TRY(page_of_generation(view, &core->generations.items[g].holes, page, err));
      for (; open < open_count && txb_hole_page(view->ranges[open].lo) <= page; open++)
        if (txb_hole_page(view->ranges[open].lo) == page)
          TXB_TRY(add_range(view, view->ranges[open].lo, view->ranges[open].hi, err));
      out->count = view->range_count - out->first;
    }
    if (page >= txb_hole_page(view->highest))
      changed->items[kept++] = page;
  }
  changed->count = kept;
  return TXB_OK;
}

static int64_t lowest_draining(const struct txb_relay_core *core, uint32_t topic, int64_t lo) {
  for (uint64_t t = core->tail; t < core->head; t++) {
    const struct txb_slot *slot = txb_flight_slot(core, t);
    if (slot->kind == TXB_ROW_DRAIN && slot->topic == topic && is_open(slot) && slot->seq < lo)
      lo = slot->seq;
  }
  return lo;
}

static enum txb_rc changed_holds(struct txb_relay_core *core, struct txb_error *err) {
  for (uint32_t id = 0; core->hold_count > 0 && id < core->topic_count; id++) {
    struct txb_topic *topic = &core->topics[id];
    if (topic->hold == TXB_TOPIC_FREE)
      continue;
    int64_t lo = topic->lo;
    if (topic->hold == TXB_TOPIC_ENDING && topic->draining == 0) {
      lo = 0;
      topic->hold = TXB_TOPIC_FREE;
      core->hold_count--;
      core->loose_wanted = true; /* some of this topic may have been passed over */
    } else if (topic->draining > 0) {
      lo = lowest_draining(core, id, lo);
    }
    /* What is stored keeps the lowest: a drain that a crash cuts short begins anew, and repeats. */
    if (lo == 0 ? topic->stored_lo == 0 : topic->stored_lo != 0 && lo >= topic->stored_lo)
      continue;
    topic->stored_lo = lo;
    TXB_TRY(add_hold(&core->view, (struct txb_relay_topic_hold){id, lo, topic->code}, err));
  }
  return TXB_OK;
}

static enum txb_rc add_key(struct txb_relay_checkpoint *view, const struct txb_key_hold *hold, int64_t lo,
                           struct txb_error *err) {
  void *items = view->keys;
  TXB_TRY(grow(&items, &view->key_capacity, view->key_count, sizeof *view->keys, err));
  view->keys = items;
  view->keys[view->key_count++] = (struct txb_relay_key_hold){.topic = hold->topic, .key = hold->key, .lo = lo};
  return TXB_OK;
}

/* How drains of keys ended. A hold stays as it is stored until all that was drained is acknowledged: a crash before
 * that begins the drain anew, and repeats. */
static enum txb_rc changed_keys(struct txb_relay_core *core, struct txb_error *err) {
  size_t kept = 0;
  for (; core->released_count > 0; core->released_count--)
    txb_key_hold_free(core->released[core->released_count - 1]);
  for (size_t i = 0; i < core->drain_count; i++) {
    struct txb_key_hold *hold = core->drains[i];
    if (hold->state == TXB_KEY_ENDING && hold->open > 0 && txb_bug("relay_hold_released_early"))
      TXB_TRY(add_key(&core->view, hold, 0, err));
    if (hold->state == TXB_KEY_DRAINING || hold->open > 0) {
      core->drains[kept++] = hold;
      continue;
    }
    hold->listed = false;
    if (hold->state == TXB_KEY_ENDING) {
      void *items = core->released;
      TXB_TRY(grow(&items, &core->released_capacity, core->released_count, sizeof(void *), err));
      core->released = items;
      TXB_TRY(add_key(&core->view, hold, 0, err));
      txb_key_holds_remove(&core->keys, hold);
      core->released[core->released_count++] = hold;
    } else if (hold->lo > hold->stored_lo) {
      hold->stored_lo = hold->lo;
      TXB_TRY(add_key(&core->view, hold, hold->lo, err));
    }
  }
  core->drain_count = kept;
  return TXB_OK;
}

/* The list changes hands: the view's is that of the last checkpoint, and empty now. */
static void settled(struct txb_relay_core *core) {
  struct txb_relay_checkpoint *view = &core->view;
  int64_t *items = view->settled;
  size_t capacity = view->settled_capacity;
  view->settled = core->settled;
  view->settled_count = core->settled_count;
  view->settled_capacity = core->settled_capacity;
  core->settled = items;
  core->settled_capacity = capacity;
  core->settled_count = 0;
}

enum txb_rc txb_view_build(struct txb_relay_core *core, struct txb_error *err) {
  struct txb_relay_checkpoint *view = &core->view;
  size_t open_count;
  int64_t noted_us, lowest;
  view->range_count = view->page_count = view->hold_count = view->key_count = 0;
  view->number = core->checkpoint++;
  view->highest = highest_of(core);
  view->published = core->published;
  core->published_total += core->published;
  core->published = 0;
  TXB_TRY(open_holes(core, &open_count, err));
  lowest = txb_generations_lowest(&core->generations, &noted_us);
  if (lowest == 0 || lowest > view->highest)
    lowest = view->highest + 1;
  if (open_count > 0 && view->ranges[0].lo < lowest)
    lowest = view->ranges[0].lo;
  view->watermark = lowest - 1;
  TXB_TRY(changed_pages(core, open_count, err));
  TXB_TRY(changed_holds(core, err));
  TXB_TRY(changed_keys(core, err));
  settled(core);
  core->dirty = false;
  return TXB_OK;
}
