/* Sets of sequence numbers as sorted, disjoint ranges, and the pages in which the relay stores them. Pure: memory
 * only, nothing survives a crash.
 *
 * A hole is a number that a poll did not see. Holes come in runs (a bulk insert, numbers lost by a server crash), so
 * a range costs 16 bytes whatever its length. Stored they are split into pages (R2): a range belongs to the page of
 * its first number, so that a range of a billion numbers is one entry, and a checkpoint writes only pages that
 * changed.
 */
#ifndef TXB_OUTBOX_HOLES_H
#define TXB_OUTBOX_HOLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct txb_range {
  int64_t lo, hi; /* both belong to it */
};

#define TXB_HOLE_PAGE_BITS 14
static inline int64_t txb_hole_page(int64_t seq) {
  return seq >> TXB_HOLE_PAGE_BITS;
}

/* A sorted set of page numbers: those that differ from what is stored. Zeroed is empty. */
struct txb_pages {
  int64_t *items;
  size_t count, capacity;
};
void txb_pages_fini(struct txb_pages *pages);
enum txb_rc txb_pages_add(struct txb_pages *pages, int64_t page, struct txb_error *err) TXB_MUST_CHECK;

/* Zeroed is empty. Ranges are disjoint, ascending and never touch. They are items[first] .. items[first + count -
 * 1]: holes come at the end and go at the front most of the time, and neither moves the rest. */
struct txb_holes {
  struct txb_range *items;
  size_t first, count, capacity;
  int64_t numbers; /* the sum of the ranges' lengths */
};

void txb_holes_fini(struct txb_holes *holes);
void txb_holes_clear(struct txb_holes *holes);
/* Range number i, in order. */
static inline const struct txb_range *txb_holes_at(const struct txb_holes *holes, size_t i) {
  return &holes->items[holes->first + i];
}
/* Adds lo..hi (1 <= lo <= hi); numbers that are in already stay. Ranges that touch become one: where that moves
 * numbers to another page, both pages are added to `moved`. FATAL: out of memory. */
enum txb_rc txb_holes_add(struct txb_holes *holes, int64_t lo, int64_t hi, struct txb_pages *moved,
                          struct txb_error *err) TXB_MUST_CHECK;
/* Adds all of `other`. */
enum txb_rc txb_holes_add_all(struct txb_holes *holes, const struct txb_holes *other, struct txb_pages *moved,
                              struct txb_error *err) TXB_MUST_CHECK;
/* Takes one number out; *was_out (may be NULL) gets the range it stood in, or lo > hi when it was in none. */
enum txb_rc txb_holes_remove(struct txb_holes *holes, int64_t seq, struct txb_range *was_out,
                             struct txb_error *err) TXB_MUST_CHECK;
/* Takes the first n ranges out. */
void txb_holes_drop_first(struct txb_holes *holes, size_t n);
/* Index of the first range that ends at or above seq; count when there is none. */
size_t txb_holes_find(const struct txb_holes *holes, int64_t seq);
bool txb_holes_has(const struct txb_holes *holes, int64_t seq);

#endif
