/* See failed_core.h. Pure. */
#include "consumer/failed_core.h"

#include "common/error.h"

#define AFTER_MAX_MS (INT64_C(30) * 24 * 3600 * 1000) /* a handler's word may be any number */

#define NONE      TXB_FAILED_NONE
#define RETRYING  TXB_FAILED_RETRYING
#define HELD      TXB_FAILED_HELD
#define DEAD      TXB_FAILED_DEAD
#define RESOLVED  TXB_FAILED_RESOLVED
#define DISCARDED TXB_FAILED_DISCARDED

const struct txb_failed_transition txb_failed_transitions[] = {
    {NONE, TXB_FAILED_ON_FAILED, RETRYING, "its first attempt failed and set it aside"},
    {NONE, TXB_FAILED_ON_FAILED, DEAD, "its first attempt failed, and the policy or the answer allows no other"},
    {NONE, TXB_FAILED_ON_BEHIND, HELD, "its key was held when it came"},
    {NONE, TXB_FAILED_ON_CRASHED, DEAD, "it killed whoever ran it, twice alone under its own marker"},
    {NONE, TXB_FAILED_ON_EDITED, RETRYING, "a changed copy, first in its key"},
    {NONE, TXB_FAILED_ON_EDITED, HELD, "a changed copy, behind another of its key"},
    {RETRYING, TXB_FAILED_ON_FAILED, RETRYING, "one more attempt failed"},
    {RETRYING, TXB_FAILED_ON_FAILED, DEAD, "the last attempt failed, or the answer allows no other"},
    {RETRYING, TXB_FAILED_ON_CRASHED, DEAD, "it killed whoever ran it, twice alone under its own marker"},
    {RETRYING, TXB_FAILED_ON_APPLIED, RESOLVED, "its effect is there"},
    {RETRYING, TXB_FAILED_ON_DUPLICATE, RESOLVED, "its effect was there already"},
    {RETRYING, TXB_FAILED_ON_PUBLISHED, RESOLVED, "an intent: it is in Kafka"},
    {RETRYING, TXB_FAILED_ON_RETRY, RETRYING, "a person wants it tried at once, from the first attempt on"},
    {RETRYING, TXB_FAILED_ON_EDIT, RESOLVED, "a changed copy takes its place"},
    {RETRYING, TXB_FAILED_ON_DISCARD, DISCARDED, "a person decided that it shall have no effect"},
    {HELD, TXB_FAILED_ON_AHEAD_DONE, RETRYING, "everything before it in its key is closed: it is due"},
    {HELD, TXB_FAILED_ON_APPLIED, RESOLVED, "applied in the same go as what it waited for"},
    {HELD, TXB_FAILED_ON_DUPLICATE, RESOLVED, "its effect was there already, seen in the same go"},
    {HELD, TXB_FAILED_ON_FAILED, RETRYING, "tried in the same go as what it waited for, and failed"},
    {HELD, TXB_FAILED_ON_FAILED, DEAD, "likewise, and the policy or the answer allows no other attempt"},
    {HELD, TXB_FAILED_ON_EDIT, RESOLVED, "a changed copy takes its place"},
    {HELD, TXB_FAILED_ON_DISCARD, DISCARDED, "a person decided that it shall have no effect"},
    {DEAD, TXB_FAILED_ON_RETRY, RETRYING, "a person wants it tried again, from the first attempt on"},
    {DEAD, TXB_FAILED_ON_EDIT, RESOLVED, "a changed copy takes its place"},
    {DEAD, TXB_FAILED_ON_DISCARD, DISCARDED, "a person decided that it shall have no effect"},
    {RETRYING, TXB_FAILED_ON_COPIED, RETRYING, "a copy goes to a topic"},
    {HELD, TXB_FAILED_ON_COPIED, HELD, "a copy goes to a topic"},
    {DEAD, TXB_FAILED_ON_COPIED, DEAD, "a copy goes to a topic"},
    {RESOLVED, TXB_FAILED_ON_COPIED, RESOLVED, "a copy goes to a topic"},
    {DISCARDED, TXB_FAILED_ON_COPIED, DISCARDED, "a copy goes to a topic"},
};
const size_t txb_failed_transitions_count = TXB_ARRAY_SIZE(txb_failed_transitions);

const struct txb_failed_transition *txb_failed_transition_of(enum txb_failed_state from, enum txb_failed_event event,
                                                             enum txb_failed_state to) {
  for (size_t i = 0; i < txb_failed_transitions_count; i++) {
    const struct txb_failed_transition *t = &txb_failed_transitions[i];
    if (t->from == from && t->event == event && t->to == to)
      return t;
  }
  return NULL;
}

bool txb_failed_may(enum txb_failed_state from, enum txb_failed_event event) {
  for (size_t i = 0; i < txb_failed_transitions_count; i++)
    if (txb_failed_transitions[i].from == from && txb_failed_transitions[i].event == event)
      return true;
  return false;
}

bool txb_failed_is_open(enum txb_failed_state state) {
  return state == RETRYING || state == HELD || state == DEAD;
}

const char *txb_failed_state_name(enum txb_failed_state state) {
  static const char *const names[TXB_FAILED_STATES] = {"", "retrying", "held", "dead", "resolved", "discarded"};
  return names[state];
}

const char *txb_failed_event_name(enum txb_failed_event event) {
  static const char *const names[TXB_FAILED_EVENTS] = {"failed",    "behind",    "crashed",    "applied",
                                                       "duplicate", "published", "ahead_done", "retry",
                                                       "edit",      "edited",    "discard",    "copied"};
  return names[event];
}

int64_t txb_failed_delay_ms(const struct txb_failed_policy *policy, int32_t attempts, int64_t after_ms,
                            uint64_t random) {
  if (after_ms > 0)
    return after_ms < AFTER_MAX_MS ? after_ms : AFTER_MAX_MS;
  int64_t cap = policy->cap_ms > 0 ? policy->cap_ms : 1, step = policy->first_ms > 0 ? policy->first_ms : 1;
  int64_t factor = policy->factor > 1 ? policy->factor : 1;
  for (int32_t i = 1; i < attempts && factor > 1 && step < cap; i++)
    step = step > cap / factor ? cap : step * factor;
  step = step < cap ? step : cap;
  return step - (int64_t)(random % (uint64_t)(step / 2 + 1));
}

struct txb_failed_result txb_failed_attempt(const struct txb_failed_policy *policy, int32_t attempts,
                                            enum txb_failure_class class, int64_t after_ms, bool has_key,
                                            uint64_t random) {
  TXB_ASSERT(class == TXB_CLASS_COUNT || class == TXB_CLASS_DEAD);
  struct txb_failed_result r = {.state = DEAD, .attempts = attempts < INT32_MAX ? attempts + 1 : attempts};
  if (class == TXB_CLASS_COUNT && r.attempts < policy->attempts_max)
    r.state = RETRYING;
  if (r.state == RETRYING)
    r.delay_ms = txb_failed_delay_ms(policy, r.attempts, after_ms, random);
  r.holds = has_key && !(r.state == DEAD && policy->release);
  return r;
}
