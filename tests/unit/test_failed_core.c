/* Failed messages: the table of transitions, the pauses, and what an attempt that failed leads to. */
#include "consumer/failed_core.h"

#include <criterion/criterion.h>
#include <string.h>

static struct txb_failed_policy policy(void) {
  return (struct txb_failed_policy){.attempts_max = 3, .first_ms = 200, .cap_ms = 60000, .factor = 2};
}

/* What the table says, told a second time and by rule, for every state and event. */
static bool wanted(enum txb_failed_state from, enum txb_failed_event event, enum txb_failed_state to) {
  bool set_aside = to == TXB_FAILED_RETRYING || to == TXB_FAILED_DEAD;
  bool runs = from == TXB_FAILED_RETRYING || from == TXB_FAILED_HELD;
  switch (event) {
  case TXB_FAILED_ON_FAILED:
    return set_aside && (from == TXB_FAILED_NONE || runs);
  case TXB_FAILED_ON_BEHIND:
    return from == TXB_FAILED_NONE && to == TXB_FAILED_HELD;
  case TXB_FAILED_ON_CRASHED:
    return (from == TXB_FAILED_NONE || from == TXB_FAILED_RETRYING) && to == TXB_FAILED_DEAD;
  case TXB_FAILED_ON_APPLIED:
  case TXB_FAILED_ON_DUPLICATE:
    return runs && to == TXB_FAILED_RESOLVED;
  case TXB_FAILED_ON_PUBLISHED:
    return from == TXB_FAILED_RETRYING && to == TXB_FAILED_RESOLVED;
  case TXB_FAILED_ON_AHEAD_DONE:
    return from == TXB_FAILED_HELD && to == TXB_FAILED_RETRYING;
  case TXB_FAILED_ON_RETRY:
    return (from == TXB_FAILED_RETRYING || from == TXB_FAILED_DEAD) && to == TXB_FAILED_RETRYING;
  case TXB_FAILED_ON_EDIT:
    return txb_failed_is_open(from) && to == TXB_FAILED_RESOLVED;
  case TXB_FAILED_ON_EDITED:
    return from == TXB_FAILED_NONE && (to == TXB_FAILED_RETRYING || to == TXB_FAILED_HELD);
  case TXB_FAILED_ON_DISCARD:
    return txb_failed_is_open(from) && to == TXB_FAILED_DISCARDED;
  case TXB_FAILED_ON_COPIED:
    return from != TXB_FAILED_NONE && to == from;
  }
  return false;
}

Test(failed_core, every_pair_of_state_and_event_is_in_the_table_or_refused) {
  size_t found = 0;
  for (int from = 0; from < TXB_FAILED_STATES; from++)
    for (int event = 0; event < TXB_FAILED_EVENTS; event++) {
      bool any = false;
      for (int to = 0; to < TXB_FAILED_STATES; to++) {
        bool in_table = txb_failed_transition_of((enum txb_failed_state)from, (enum txb_failed_event)event,
                                                 (enum txb_failed_state)to) != NULL;
        cr_assert_eq(
            in_table, wanted((enum txb_failed_state)from, (enum txb_failed_event)event, (enum txb_failed_state)to),
            "%s on %s to %s", txb_failed_state_name((enum txb_failed_state)from),
            txb_failed_event_name((enum txb_failed_event)event), txb_failed_state_name((enum txb_failed_state)to));
        any = any || in_table;
        found += in_table;
      }
      cr_assert_eq(txb_failed_may((enum txb_failed_state)from, (enum txb_failed_event)event), any);
    }
  cr_assert_eq(found, txb_failed_transitions_count, "a line stands twice in the table");
}

Test(failed_core, what_is_closed_stays_closed_and_everything_open_can_be_closed) {
  bool closes[TXB_FAILED_STATES] = {false};
  for (size_t i = 0; i < txb_failed_transitions_count; i++) {
    const struct txb_failed_transition *t = &txb_failed_transitions[i];
    cr_assert(t->from == TXB_FAILED_NONE || txb_failed_is_open(t->from) || t->to == t->from);
    cr_assert_neq(t->to, TXB_FAILED_NONE);
    cr_assert_gt(strlen(t->why), 0);
    closes[t->from] = closes[t->from] || (t->from != t->to && !txb_failed_is_open(t->to));
  }
  cr_assert(closes[TXB_FAILED_RETRYING] && closes[TXB_FAILED_HELD] && closes[TXB_FAILED_DEAD]);
}

Test(failed_core, the_words_are_those_of_the_database) {
  static const char *const states[] = {"", "retrying", "held", "dead", "resolved", "discarded"};
  static const char *const events[] = {"failed",     "behind", "crashed", "applied", "duplicate", "published",
                                       "ahead_done", "retry",  "edit",    "edited",  "discard",   "copied"};
  for (int i = 0; i < TXB_FAILED_STATES; i++)
    cr_assert_str_eq(txb_failed_state_name((enum txb_failed_state)i), states[i]);
  for (int i = 0; i < TXB_FAILED_EVENTS; i++)
    cr_assert_str_eq(txb_failed_event_name((enum txb_failed_event)i), events[i]);
}

Test(failed_core, the_pauses_grow_by_the_factor_up_to_the_cap) {
  struct txb_failed_policy p = policy();
  p.factor = 3;
  p.cap_ms = 5000;
  static const int64_t steps[] = {200, 600, 1800, 5000, 5000};
  for (int32_t i = 0; i < 5; i++)
    cr_assert_eq(txb_failed_delay_ms(&p, i + 1, 0, 0), steps[i]);
  p.factor = 1;
  cr_assert_eq(txb_failed_delay_ms(&p, 1000, 0, 0), 200);
  p.factor = 10;
  p.cap_ms = INT64_MAX;
  cr_assert_eq(txb_failed_delay_ms(&p, INT32_MAX, 0, 0), INT64_MAX, "and never wrap");
}

Test(failed_core, chance_takes_off_at_most_half_of_a_pause) {
  struct txb_failed_policy p = policy();
  bool shortest = false, longest = false;
  for (uint64_t random = 0; random < 500; random++) {
    int64_t ms = txb_failed_delay_ms(&p, 1, 0, random);
    cr_assert(ms >= 100 && ms <= 200);
    shortest = shortest || ms == 100;
    longest = longest || ms == 200;
  }
  cr_assert(shortest && longest);
}

Test(failed_core, the_handler_s_own_wish_stands_before_the_policy_and_is_no_longer_than_thirty_days) {
  struct txb_failed_policy p = policy();
  cr_assert_eq(txb_failed_delay_ms(&p, 1, 123456, 7), 123456);
  cr_assert_eq(txb_failed_delay_ms(&p, 1, INT64_MAX, 7), INT64_C(30) * 24 * 3600 * 1000);
  cr_assert_leq(txb_failed_delay_ms(&p, 1, -5, 7), 200);
}

Test(failed_core, the_last_attempt_that_fails_makes_it_dead) {
  struct txb_failed_policy p = policy();
  for (int32_t before = 0; before < 3; before++) {
    struct txb_failed_result r = txb_failed_attempt(&p, before, TXB_CLASS_COUNT, 0, true, 0);
    cr_assert_eq(r.attempts, before + 1);
    cr_assert_eq(r.state, before < 2 ? TXB_FAILED_RETRYING : TXB_FAILED_DEAD);
    cr_assert_eq(r.delay_ms > 0, before < 2);
    cr_assert(r.holds);
  }
}

Test(failed_core, an_answer_that_is_final_makes_it_dead_at_once) {
  struct txb_failed_policy p = policy();
  struct txb_failed_result r = txb_failed_attempt(&p, 0, TXB_CLASS_DEAD, 5000, true, 0);
  cr_assert_eq(r.state, TXB_FAILED_DEAD);
  cr_assert_eq(r.attempts, 1);
  cr_assert_eq(r.delay_ms, 0);
}

Test(failed_core, a_dead_message_holds_its_key_unless_the_group_releases_it) {
  struct txb_failed_policy p = policy();
  cr_assert(txb_failed_attempt(&p, 0, TXB_CLASS_DEAD, 0, true, 0).holds);
  p.release = true;
  cr_assert_not(txb_failed_attempt(&p, 0, TXB_CLASS_DEAD, 0, true, 0).holds);
  cr_assert(txb_failed_attempt(&p, 0, TXB_CLASS_COUNT, 0, true, 0).holds, "while it is retried it does");
}

Test(failed_core, a_message_without_a_key_holds_nothing) {
  struct txb_failed_policy p = policy();
  cr_assert_not(txb_failed_attempt(&p, 0, TXB_CLASS_COUNT, 0, false, 0).holds);
}
