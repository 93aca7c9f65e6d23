/* Sorted, disjoint ranges of sequence numbers. */
#include "outbox/holes.h"

#include <string.h>

#include "common/memory.h"

void txb_holes_fini(struct txb_holes *holes) {
  txb_free(holes->items);
  *holes = (struct txb_holes){0};
}

void txb_holes_clear(struct txb_holes *holes) {
  holes->first = holes->count = 0;
  holes->numbers = 0;
}

size_t txb_holes_find(const struct txb_holes *holes, int64_t seq) {
  size_t lo = 0, hi = holes->count;
  while (lo < hi) {
    size_t mid = lo + (hi - lo) / 2;
    if (txb_holes_at(holes, mid)->hi < seq)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

bool txb_holes_has(const struct txb_holes *holes, int64_t seq) {
  size_t i = txb_holes_find(holes, seq);
  return i < holes->count && txb_holes_at(holes, i)->lo <= seq;
}

/* No overflow anywhere: numbers are 1 or more, and ranges are disjoint. */
static int64_t length(int64_t lo, int64_t hi) {
  return hi - lo + 1;
}

/* Room for one more range at the end of the array. Space in front is used again once it is half of it: each move
 * then pays for as many drops. */
static enum txb_rc reserve_one(struct txb_holes *holes, struct txb_error *err) {
  if (holes->first + holes->count < holes->capacity)
    return TXB_OK;
  if (holes->first > holes->capacity / 2) {
    memmove(holes->items, holes->items + holes->first, holes->count * sizeof *holes->items);
    holes->first = 0;
    return TXB_OK;
  }
  size_t capacity = holes->capacity == 0 ? 16 : holes->capacity * 2;
  void *items = holes->items;
  TXB_TRY(txb_realloc_array(&items, capacity, sizeof *holes->items, err));
  holes->items = items;
  holes->capacity = capacity;
  return TXB_OK;
}

/* Makes room before range i by moving the shorter side. */
static enum txb_rc open_at(struct txb_holes *holes, size_t i, struct txb_error *err) {
  if (holes->first > 0 && i < holes->count - i) {
    struct txb_range *start = holes->items + holes->first;
    memmove(start - 1, start, i * sizeof *start);
    holes->first--;
  } else {
    TXB_TRY(reserve_one(holes, err));
    struct txb_range *at = holes->items + holes->first + i;
    memmove(at + 1, at, (holes->count - i) * sizeof *at);
  }
  holes->count++;
  return TXB_OK;
}

/* Takes ranges i .. i + n - 1 out by moving the shorter side. */
static void close_at(struct txb_holes *holes, size_t i, size_t n) {
  struct txb_range *start = holes->items + holes->first;
  size_t behind = holes->count - i - n;
  if (i <= behind) {
    memmove(start + n, start, i * sizeof *start);
    holes->first += n;
  } else {
    memmove(start + i, start + i + n, behind * sizeof *start);
  }
  holes->count -= n;
  if (holes->count == 0)
    holes->first = 0;
}

static enum txb_rc move_page(struct txb_pages *moved, int64_t from_lo, int64_t to_lo, struct txb_error *err) {
  if (txb_hole_page(from_lo) == txb_hole_page(to_lo))
    return TXB_OK;
  TXB_TRY(txb_pages_add(moved, txb_hole_page(from_lo), err));
  return txb_pages_add(moved, txb_hole_page(to_lo), err);
}

enum txb_rc txb_holes_add(struct txb_holes *holes, int64_t lo, int64_t hi, struct txb_pages *moved,
                          struct txb_error *err) {
  TXB_ASSERT(1 <= lo && lo <= hi && hi < INT64_MAX);
  size_t i = txb_holes_find(holes, lo - 1), end = i; /* i: the first that overlaps or touches, or stands behind */
  int64_t new_lo = lo, new_hi = hi, old = 0;
  if (i < holes->count && txb_holes_at(holes, i)->lo < lo)
    new_lo = txb_holes_at(holes, i)->lo;
  TXB_TRY(move_page(moved, lo, new_lo, err));
  for (; end < holes->count && txb_holes_at(holes, end)->lo <= hi + 1; end++) {
    const struct txb_range *r = txb_holes_at(holes, end);
    TXB_TRY(move_page(moved, r->lo, new_lo, err));
    new_hi = r->hi > new_hi ? r->hi : new_hi;
    old += length(r->lo, r->hi);
  }
  if (end == i)
    TXB_TRY(open_at(holes, i, err));
  else if (end - i > 1)
    close_at(holes, i + 1, end - i - 1);
  holes->items[holes->first + i] = (struct txb_range){new_lo, new_hi};
  holes->numbers += length(new_lo, new_hi) - old;
  return TXB_OK;
}

enum txb_rc txb_holes_add_all(struct txb_holes *holes, const struct txb_holes *other, struct txb_pages *moved,
                              struct txb_error *err) {
  for (size_t i = 0; i < other->count; i++)
    TXB_TRY(txb_holes_add(holes, txb_holes_at(other, i)->lo, txb_holes_at(other, i)->hi, moved, err));
  return TXB_OK;
}

enum txb_rc txb_holes_remove(struct txb_holes *holes, int64_t seq, struct txb_range *was_out, struct txb_error *err) {
  size_t i = txb_holes_find(holes, seq);
  struct txb_range was = {1, 0};
  if (i < holes->count && txb_holes_at(holes, i)->lo <= seq) {
    was = *txb_holes_at(holes, i);
    if (was.lo == was.hi) {
      close_at(holes, i, 1);
    } else if (was.lo == seq) {
      holes->items[holes->first + i].lo = seq + 1;
    } else if (was.hi == seq) {
      holes->items[holes->first + i].hi = seq - 1;
    } else {
      TXB_TRY(open_at(holes, i, err));
      holes->items[holes->first + i] = (struct txb_range){was.lo, seq - 1};
      holes->items[holes->first + i + 1] = (struct txb_range){seq + 1, was.hi};
    }
    holes->numbers--;
  }
  if (was_out != NULL)
    *was_out = was;
  return TXB_OK;
}

void txb_holes_drop_first(struct txb_holes *holes, size_t n) {
  for (size_t i = 0; i < n; i++)
    holes->numbers -= length(txb_holes_at(holes, i)->lo, txb_holes_at(holes, i)->hi);
  holes->first += n;
  holes->count -= n;
  if (holes->count == 0)
    txb_holes_clear(holes);
}

void txb_pages_fini(struct txb_pages *pages) {
  txb_free(pages->items);
  *pages = (struct txb_pages){0};
}

enum txb_rc txb_pages_add(struct txb_pages *pages, int64_t page, struct txb_error *err) {
  size_t i = 0, end = pages->count;
  while (i < end) {
    size_t mid = i + (end - i) / 2;
    if (pages->items[mid] < page)
      i = mid + 1;
    else
      end = mid;
  }
  if (i < pages->count && pages->items[i] == page)
    return TXB_OK;
  if (pages->count == pages->capacity) {
    size_t capacity = pages->capacity == 0 ? 16 : pages->capacity * 2;
    void *items = pages->items;
    TXB_TRY(txb_realloc_array(&items, capacity, sizeof *pages->items, err));
    pages->items = items;
    pages->capacity = capacity;
  }
  memmove(pages->items + i + 1, pages->items + i, (pages->count - i) * sizeof *pages->items);
  pages->items[i] = page;
  pages->count++;
  return TXB_OK;
}
