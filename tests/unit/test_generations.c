/* Generations of holes where the relay core seldom takes them: lists that are merged because they are too many. */
#include <criterion/criterion.h>

#include "outbox/generations.h"

static struct txb_generations g;

static void begin(void) {
  const struct txb_generation_policy policy = {.ask_freely = 0, .quiet_min = 0, .look_ranges = 8, .generations_max = 1};
  txb_generations_init(&g, &policy);
}

static void end(void) {
  txb_generations_fini(&g);
}

TestSuite(generations, .init = begin, .fini = end);

static const struct txb_holder a = {.backend = 1, .local = 1, .xid = 101}, b = {.backend = 2, .local = 1, .xid = 102};

static void listed(uint64_t next_poll, size_t count, const struct txb_holder *holders) {
  struct txb_holder copy[4];
  bool changed;
  for (size_t i = 0; i < count; i++)
    copy[i] = holders[i];
  txb_generations_list_sent(&g);
  cr_assert_eq(txb_generations_listed(&g, copy, count, next_poll, &changed, NULL), TXB_OK);
}

static void poll_sent(uint64_t number, bool everything) {
  cr_assert_eq(txb_generations_poll_sent(&g, number, everything, NULL), TXB_OK);
}

static bool usable(size_t count, const uint64_t *xips) {
  const struct txb_snapshot snapshot = {.xmax = 200, .xip = xips, .xip_count = count};
  return txb_generations_poll_is_usable(&g, &snapshot);
}

/* A looked generation of holder a, then one of holder b that no poll has looked at; the limit of one makes them one. */
static void merge_looked_with_unlooked(void) {
  const struct txb_holder both[] = {a, b};
  cr_assert_eq(txb_generations_note(&g, 5, 5, 1, NULL), TXB_OK);
  listed(1, 1, &a);
  poll_sent(1, false);
  txb_generations_looked(&g, 1);
  cr_assert(g.items[0].looked);
  cr_assert_eq(txb_generations_note(&g, 8, 8, 2, NULL), TXB_OK);
  listed(2, 2, both);
  cr_assert_eq(g.count, 1);
}

Test(generations, merged_are_asked_for_until_a_poll_has_looked_at_all_of_them) {
  merge_looked_with_unlooked();
  cr_assert(!g.items[0].looked);
  poll_sent(2, false);
  cr_assert_eq(g.asked_count, 2);
}

Test(generations, merged_have_the_holders_of_both) {
  const uint64_t first_only[] = {101}, both[] = {101, 102};
  merge_looked_with_unlooked();
  cr_assert_eq(g.items[0].holder_count, 2);
  poll_sent(2, false);
  txb_generations_looked(&g, 2);
  poll_sent(3, false);
  cr_assert_eq(g.asked_count, 0);
  cr_assert(usable(2, both));
  cr_assert(!usable(1, first_only), "102 has ended: its row of either may be visible");
}

Test(generations, merged_while_one_was_left_out_of_the_poll_under_way_count_as_left_out) {
  const uint64_t running[] = {102};
  g.policy.generations_max = 2;
  cr_assert_eq(txb_generations_note(&g, 5, 5, 1, NULL), TXB_OK);
  listed(1, 1, &a);
  cr_assert_eq(txb_generations_note(&g, 8, 8, 2, NULL), TXB_OK);
  listed(2, 1, &b); /* the first has no holder any more: it is asked for until a last look */
  poll_sent(2, true);
  txb_generations_looked(&g, 2);
  poll_sent(3, false);
  cr_assert(!g.items[0].left_out && g.items[1].left_out);
  g.policy.generations_max = 1;
  listed(4, 1, &b);
  cr_assert_eq(g.count, 1);
  cr_assert(usable(1, running));
  cr_assert(!usable(0, NULL), "102 has ended in that poll's snapshot");
}

Test(generations, that_merge_forget_no_hole) {
  merge_looked_with_unlooked();
  cr_assert(txb_holes_has(&g.items[0].holes, 5) && txb_holes_has(&g.items[0].holes, 8));
  cr_assert_eq(txb_generations_ranges(&g), 2);
}

/* Behind a transaction that stays open, new holes join the old ones with every listing. The old ones, which may be many,
 * were looked at long ago: they stay left out. */
Test(generations, that_join_old_ones_of_the_same_holders_do_not_have_them_asked_for_again) {
  g.policy.quiet_min = 2;
  g.policy.generations_max = 8;
  cr_assert_eq(txb_generations_note(&g, 5, 5, 1, NULL), TXB_OK);
  listed(1, 1, &a);
  poll_sent(1, false);
  txb_generations_looked(&g, 1);
  listed(2, 1, &a);
  listed(3, 1, &a); /* nothing has changed for two of them */
  poll_sent(3, false);
  cr_assert_eq(g.asked_count, 0);
  cr_assert_eq(txb_generations_note(&g, 8, 8, 2, NULL), TXB_OK);
  listed(4, 1, &a);
  poll_sent(4, false);
  cr_assert_eq(g.asked_count, 1, "the new one only");
  txb_generations_looked(&g, 4);
  listed(5, 1, &a);
  cr_assert_eq(g.count, 1);
  poll_sent(5, false);
  cr_assert_eq(g.asked_count, 0);
}

/* A read stops at its limit, and what it leaves must lie above what it gave. */
Test(generations, that_enclose_another_are_asked_for_in_order) {
  const struct txb_holder both[] = {a, b};
  g.policy.generations_max = 8;
  cr_assert_eq(txb_generations_note(&g, 5, 5, 1, NULL), TXB_OK);
  listed(1, 1, &a);
  cr_assert_eq(txb_generations_note(&g, 8, 8, 2, NULL), TXB_OK);
  listed(2, 2, both);
  cr_assert_eq(txb_generations_note(&g, 11, 11, 3, NULL), TXB_OK);
  g.items[1].judging = true; /* does not merge now */
  listed(3, 0, NULL);
  cr_assert_eq(g.count, 2);
  cr_assert_eq(g.items[0].holes.count, 2);
  poll_sent(3, true);
  cr_assert_eq(g.asked_count, 3);
  cr_assert(g.asked[0].lo == 5 && g.asked[1].lo == 8 && g.asked[2].lo == 11);
}
