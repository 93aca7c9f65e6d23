/* Generations of holes. */
#include "outbox/generations.h"

#include <stdlib.h>
#include <string.h>

#include "common/fault.h"
#include "common/memory.h"

#define NUMBERS_PER_COST                                                                                               \
  64 /* scanning so many index entries of a running transaction costs about as much as asking for one more range */

bool txb_snapshot_is_running(const struct txb_snapshot *snapshot, uint32_t xid) {
  if (xid == 0)
    return false;
  /* Listed xids are the low halves: the nearest full number to xmax is meant, since running transactions are within
   * 2^31 of it. */
  uint64_t full = snapshot->xmax + (uint64_t)(int64_t)(int32_t)(xid - (uint32_t)snapshot->xmax);
  if (full >= snapshot->xmax)
    return true;
  size_t lo = 0, hi = snapshot->xip_count;
  while (lo < hi) {
    size_t mid = lo + (hi - lo) / 2;
    if (snapshot->xip[mid] < full)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo < snapshot->xip_count && snapshot->xip[lo] == full;
}

static void generation_fini(struct txb_generation *gen) {
  txb_holes_fini(&gen->holes);
  txb_free(gen->holders);
  *gen = (struct txb_generation){0};
}

void txb_generations_init(struct txb_generations *g, const struct txb_generation_policy *policy) {
  *g = (struct txb_generations){.policy = *policy};
}

void txb_generations_clear(struct txb_generations *g) {
  for (size_t i = 0; i < g->count; i++)
    generation_fini(&g->items[i]);
  g->count = 0;
  g->changed.count = 0;
  g->asked_count = g->look_count = 0;
}

void txb_generations_fini(struct txb_generations *g) {
  txb_generations_clear(g);
  txb_pages_fini(&g->changed);
  txb_free(g->items);
  txb_free(g->asked);
  txb_free(g->look);
  *g = (struct txb_generations){0};
}

size_t txb_generations_ranges(const struct txb_generations *g) {
  size_t n = 0;
  for (size_t i = 0; i < g->count; i++)
    n += g->items[i].holes.count;
  return n;
}

int64_t txb_generations_lowest(const struct txb_generations *g, int64_t *noted_us_out) {
  int64_t lowest = 0;
  for (size_t i = 0; i < g->count; i++) {
    const struct txb_generation *gen = &g->items[i];
    if (gen->holes.count == 0 || (lowest != 0 && txb_holes_at(&gen->holes, 0)->lo > lowest))
      continue;
    lowest = txb_holes_at(&gen->holes, 0)->lo;
    *noted_us_out = gen->noted_us;
  }
  return lowest;
}

static void drop_at(struct txb_generations *g, size_t i) {
  generation_fini(&g->items[i]);
  memmove(&g->items[i], &g->items[i + 1], (g->count - i - 1) * sizeof *g->items);
  g->count--;
}

static void drop_empty(struct txb_generations *g) {
  for (size_t i = g->count; i-- > 0;)
    if (g->items[i].holes.count == 0 && !g->items[i].judging)
      drop_at(g, i);
}

/* ---- noting and removing ---------------------------------------------------------------------------------------- */

static enum txb_rc open_generation(struct txb_generations *g, int64_t now_us, struct txb_generation **out,
                                   struct txb_error *err) {
  if (g->count == 0 || g->items[g->count - 1].closed) {
    if (g->count == g->capacity) {
      size_t capacity = g->capacity == 0 ? 8 : g->capacity * 2;
      void *items = g->items;
      TXB_TRY(txb_realloc_array(&items, capacity, sizeof *g->items, err));
      g->items = items;
      g->capacity = capacity;
    }
    g->items[g->count++] = (struct txb_generation){.noted_us = now_us};
  }
  *out = &g->items[g->count - 1];
  return TXB_OK;
}

enum txb_rc txb_generations_note(struct txb_generations *g, int64_t lo, int64_t hi, int64_t now_us,
                                 struct txb_error *err) {
  struct txb_generation *gen;
  TXB_TRY(open_generation(g, now_us, &gen, err));
  TXB_TRY(txb_holes_add(&gen->holes, lo, hi, &g->changed, err));
  return txb_pages_add(&g->changed, txb_hole_page(txb_holes_at(&gen->holes, txb_holes_find(&gen->holes, lo))->lo), err);
}

enum txb_rc txb_generations_remove(struct txb_generations *g, int64_t seq, struct txb_range *was_out,
                                   struct txb_error *err) {
  *was_out = (struct txb_range){1, 0};
  for (size_t i = 0; i < g->count; i++) {
    struct txb_generation *gen = &g->items[i];
    TXB_TRY(txb_holes_remove(&gen->holes, seq, was_out, err));
    if (was_out->lo > was_out->hi)
      continue;
    /* A range lies in the page of its first number: what stands behind seq may have moved to another page. */
    TXB_TRY(txb_pages_add(&g->changed, txb_hole_page(was_out->lo), err));
    TXB_TRY(txb_pages_add(&g->changed, txb_hole_page(seq), err));
    if (seq < was_out->hi)
      TXB_TRY(txb_pages_add(&g->changed, txb_hole_page(seq + 1), err));
    if (gen->holes.count == 0 && !gen->judging)
      drop_at(g, i);
    return TXB_OK;
  }
  return TXB_OK;
}

/* ---- listings --------------------------------------------------------------------------------------------------- */

void txb_generations_list_sent(struct txb_generations *g) {
  if (g->count > 0)
    g->items[g->count - 1].closed = true;
}

static int compare_holders(const void *a, const void *b) {
  const struct txb_holder *x = a, *y = b;
  if (x->backend != y->backend)
    return x->backend < y->backend ? -1 : 1;
  return (x->local > y->local) - (x->local < y->local);
}

static void sort_holders(struct txb_holder *holders, size_t count) {
  size_t sorted = 1;
  while (sorted < count && compare_holders(&holders[sorted - 1], &holders[sorted]) <= 0)
    sorted++;
  if (sorted < count)
    qsort(holders, count, sizeof *holders, compare_holders);
}

/* By its virtual transaction; servers that give a prepared one another number still show its xid. */
static const struct txb_holder *find_holder(const struct txb_holder *holders, size_t count,
                                            const struct txb_holder *wanted) {
  bool by_pid = txb_bug("relay_holder_by_pid");
  const struct txb_holder *found =
      count == 0 || by_pid ? NULL : bsearch(wanted, holders, count, sizeof *holders, compare_holders);
  for (size_t i = 0; found == NULL && i < count && (by_pid || wanted->xid != 0); i++)
    if (by_pid ? holders[i].pid == wanted->pid : holders[i].xid == wanted->xid)
      found = &holders[i];
  return found;
}

static enum txb_rc first_listing(struct txb_generation *gen, const struct txb_holder *holders, size_t count,
                                 uint64_t next_poll, struct txb_error *err) {
  void *copy;
  TXB_TRY(txb_alloc_array(count, sizeof *holders, &copy, err));
  gen->holders = copy;
  for (size_t i = 0; i < count; i++) {
    if (txb_bug("relay_no_lock_rule") || (txb_bug("relay_holder_by_pid") && holders[i].pid == 0))
      continue;
    gen->holders[gen->holder_count++] = holders[i];
  }
  gen->listed = true;
  gen->looked = false;
  gen->counts_from = next_poll;
  return TXB_OK;
}

/* Who has ended since? What they committed has not been looked for yet. */
static bool intersect(struct txb_generation *gen, const struct txb_holder *holders, size_t count, uint64_t next_poll) {
  size_t kept = 0;
  bool changed = false;
  for (size_t i = 0; i < gen->holder_count; i++) {
    const struct txb_holder *now = find_holder(holders, count, &gen->holders[i]);
    if (now == NULL)
      continue;
    changed |= gen->holders[i].xid != now->xid;
    gen->holders[kept++] = *now;
  }
  sort_holders(gen->holders, kept);
  if (kept < gen->holder_count) {
    gen->holder_count = kept;
    gen->looked = false;
    gen->counts_from = next_poll;
    changed = true;
  }
  gen->quiet = changed ? 0 : gen->quiet + 1;
  return changed;
}

static bool same_holders(const struct txb_generation *a, const struct txb_generation *b) {
  if (a->holder_count != b->holder_count)
    return false;
  for (size_t i = 0; i < a->holder_count; i++)
    if (compare_holders(&a->holders[i], &b->holders[i]) != 0)
      return false;
  return true;
}

/* Makes b part of a. The union of the holders is stricter for both: left out only while all of them run, judged only
 * when all are gone. */
static enum txb_rc merge(struct txb_generations *g, size_t ai, size_t bi, struct txb_error *err) {
  struct txb_generation *a = &g->items[ai], *b = &g->items[bi];
  void *holders = a->holders;
  TXB_TRY(txb_realloc_array(&holders, a->holder_count + b->holder_count, sizeof *a->holders, err));
  a->holders = holders;
  TXB_TRY(txb_holes_add_all(&a->holes, &b->holes, &g->changed, err));
  size_t own = a->holder_count;
  for (size_t i = 0; i < b->holder_count; i++)
    if (find_holder(a->holders, own, &b->holders[i]) == NULL)
      a->holders[a->holder_count++] = b->holders[i];
  sort_holders(a->holders, a->holder_count);
  a->looked = a->looked && b->looked;
  a->row_waits = a->row_waits || b->row_waits;
  a->left_out = a->left_out || b->left_out;
  a->counts_from = a->counts_from > b->counts_from ? a->counts_from : b->counts_from;
  /* Of equal holders the longer time without a change: else each new generation that joins an old and large one, behind
   * a transaction that stays open, would have all of it asked for again. */
  bool same = a->holder_count == own && b->holder_count == own;
  uint32_t least = a->quiet < b->quiet ? a->quiet : b->quiet, most = a->quiet > b->quiet ? a->quiet : b->quiet;
  a->quiet = same ? most : least;
  a->noted_us = a->noted_us < b->noted_us ? a->noted_us : b->noted_us;
  drop_at(g, bi);
  return TXB_OK;
}

static bool may_merge(const struct txb_generation *a, const struct txb_generation *b) {
  return a->listed && b->listed && !a->judging && !b->judging;
}

static enum txb_rc merge_equal(struct txb_generations *g, struct txb_error *err) {
  for (size_t a = 0; a < g->count; a++)
    for (size_t b = g->count; b-- > a + 1;)
      if (may_merge(&g->items[a], &g->items[b]) && same_holders(&g->items[a], &g->items[b]) &&
          (g->items[a].looked == g->items[b].looked || g->items[a].holder_count == 0))
        TXB_TRY(merge(g, a, b, err));
  /* Too many different lists: the two oldest share one. */
  for (size_t a = 0; g->count > g->policy.generations_max && a + 1 < g->count;) {
    if (may_merge(&g->items[a], &g->items[a + 1]))
      TXB_TRY(merge(g, a, a + 1, err));
    else
      a++;
  }
  return TXB_OK;
}

enum txb_rc txb_generations_listed(struct txb_generations *g, struct txb_holder *holders, size_t count,
                                   uint64_t next_poll, bool *changed_out, struct txb_error *err) {
  bool changed = false;
  sort_holders(holders, count);
  for (size_t i = 0; i < g->count; i++) {
    struct txb_generation *gen = &g->items[i];
    if (gen->listed) {
      changed |= intersect(gen, holders, count, next_poll);
    } else if (gen->closed) {
      TXB_TRY(first_listing(gen, holders, count, next_poll, err));
      changed = true;
    }
  }
  *changed_out = changed;
  return merge_equal(g, err);
}

/* ---- polls ------------------------------------------------------------------------------------------------------ */

static size_t cost(const struct txb_generation *gen) {
  return gen->holes.count + (size_t)(gen->holes.numbers / NUMBERS_PER_COST);
}

static bool may_be_left_out(const struct txb_generation *gen) {
  if (!gen->looked || gen->holder_count == 0)
    return false;
  for (size_t i = 0; i < gen->holder_count; i++)
    if (gen->holders[i].xid == 0)
      return false;
  return true;
}

static enum txb_rc ranges_reserve(struct txb_range **ranges, size_t *capacity, size_t wanted, struct txb_error *err) {
  if (wanted <= *capacity)
    return TXB_OK;
  size_t bigger = *capacity * 2 > wanted ? *capacity * 2 : wanted;
  void *p = *ranges;
  TXB_TRY(txb_realloc_array(&p, bigger, sizeof **ranges, err));
  *ranges = p;
  *capacity = bigger;
  return TXB_OK;
}

/* Adds ranges in order to others in order. Generations are noted in order of their numbers, but those that merged may
 * enclose another: mostly this is a copy. */
static void merge_ranges(struct txb_range *into, size_t *count, const struct txb_range *more, size_t more_count) {
  size_t a = *count, b = more_count, to = a + b;
  *count = to;
  while (b > 0) {
    bool from_into = a > 0 && into[a - 1].lo > more[b - 1].lo && !txb_bug("relay_holes_unordered");
    into[--to] = from_into ? into[--a] : more[--b];
  }
}

enum txb_rc txb_generations_poll_sent(struct txb_generations *g, uint64_t poll, bool everything,
                                      struct txb_error *err) {
  size_t total = 0;
  TXB_TRY(ranges_reserve(&g->asked, &g->asked_capacity, txb_generations_ranges(g), err));
  for (size_t i = 0; i < g->count; i++)
    total += cost(&g->items[i]);
  g->asked_count = 0;
  for (size_t i = 0; i < g->count; i++) {
    struct txb_generation *gen = &g->items[i];
    gen->left_out =
        !everything && total > g->policy.ask_freely && gen->quiet >= g->policy.quiet_min && may_be_left_out(gen);
    if (txb_bug("relay_holes_sometimes"))
      gen->left_out = poll * 0x9e3779b97f4a7c15U >> 63 != 0;
    if (gen->left_out)
      continue;
    merge_ranges(g->asked, &g->asked_count, gen->holes.items + gen->holes.first, gen->holes.count);
  }
  return TXB_OK;
}

bool txb_generations_poll_is_usable(struct txb_generations *g, const struct txb_snapshot *snapshot) {
  bool usable = true;
  if (txb_bug("relay_holes_sometimes"))
    return true;
  for (size_t i = 0; i < g->count; i++) {
    struct txb_generation *gen = &g->items[i];
    bool running = !gen->left_out || may_be_left_out(gen); /* not so: a listing since then showed a holder gone */
    for (size_t h = 0; gen->left_out && running && h < gen->holder_count; h++)
      running = txb_snapshot_is_running(snapshot, gen->holders[h].xid);
    if (running)
      continue;
    gen->quiet = 0; /* asked for until listings have told who is left */
    usable = false;
  }
  return usable;
}

void txb_generations_looked(struct txb_generations *g, uint64_t poll) {
  for (size_t i = 0; i < g->count; i++) {
    struct txb_generation *gen = &g->items[i];
    if (!gen->listed || gen->left_out || poll < gen->counts_from)
      continue;
    gen->looked = true;
    gen->row_waits = false;
  }
}

/* ---- the last look ---------------------------------------------------------------------------------------------- */

static struct txb_generation *judged(const struct txb_generations *g) {
  for (size_t i = 0; i < g->count; i++)
    if (g->items[i].judging)
      return &g->items[i];
  return NULL;
}

enum txb_rc txb_generations_look_begin(struct txb_generations *g, bool *begun_out, struct txb_error *err) {
  *begun_out = false;
  if (judged(g) != NULL)
    return TXB_OK;
  for (size_t i = 0; i < g->count; i++) {
    struct txb_generation *gen = &g->items[i];
    if (!gen->listed || gen->holder_count > 0 || gen->holes.count == 0 || gen->row_waits)
      continue;
    size_t n = gen->holes.count < g->policy.look_ranges ? gen->holes.count : g->policy.look_ranges;
    TXB_TRY(ranges_reserve(&g->look, &g->look_capacity, n, err));
    memcpy(g->look, gen->holes.items + gen->holes.first, n * sizeof *g->look);
    g->look_count = n;
    gen->judging = true;
    *begun_out = true;
    return TXB_OK;
  }
  return TXB_OK;
}

enum txb_rc txb_generations_look_end(struct txb_generations *g, bool found, uint64_t next_poll, struct txb_error *err) {
  struct txb_generation *gen = judged(g);
  if (gen == NULL)
    return TXB_OK; /* everything was forgotten meanwhile */
  gen->judging = false;
  if (found) {
    gen->looked = false;
    gen->counts_from = next_poll;
    gen->row_waits = true;
  } else {
    /* Polls may have taken single numbers out meanwhile, and split ranges: the last one asked for says how far the
     * look went. */
    int64_t hi = g->look[g->look_count - 1].hi;
    size_t n = 0;
    for (; n < gen->holes.count && txb_holes_at(&gen->holes, n)->hi <= hi; n++)
      TXB_TRY(txb_pages_add(&g->changed, txb_hole_page(txb_holes_at(&gen->holes, n)->lo), err));
    txb_holes_drop_first(&gen->holes, n);
  }
  drop_empty(g);
  return TXB_OK;
}
