/* When a call of a plugin is late. Pure; that it ends the process is shown in tests/system/test_handlers.py. */
#include <criterion/criterion.h>

#include "consumer/watchdog.h"

#define SECOND INT64_C(1000000)
#define LIMIT  (5 * SECOND)

Test(watchdog, looks_once_within_a_calls_time_while_nothing_is_called) {
  struct txb_watch watch = {.limit_us = LIMIT};
  for (int64_t now = SECOND; now < 100 * SECOND; now = watch.due_us) {
    cr_assert_not(txb_watch_look(&watch, now));
    cr_assert_eq(watch.due_us, now + LIMIT);
  }
}

Test(watchdog, finds_a_call_late_when_its_time_is_over_whenever_it_began) {
  for (int64_t began = SECOND; began < SECOND + LIMIT; began += SECOND / 7) {
    struct txb_watch watch = {.limit_us = LIMIT};
    cr_assert_not(txb_watch_look(&watch, SECOND));
    watch.began_us = began;
    while (watch.due_us < began + LIMIT)
      cr_assert_not(txb_watch_look(&watch, watch.due_us));
    cr_assert_eq(watch.due_us, began + LIMIT);
    cr_assert(txb_watch_look(&watch, began + LIMIT));
  }
}

Test(watchdog, each_call_has_its_own_time) {
  struct txb_watch watch = {.limit_us = LIMIT};
  cr_assert_not(txb_watch_look(&watch, SECOND));
  for (int64_t now = SECOND; now < 100 * SECOND; now += LIMIT - 1) { /* each call is nearly late */
    watch.began_us = now;
    while (watch.due_us < now + LIMIT - 1)
      cr_assert_not(txb_watch_look(&watch, watch.due_us));
    watch.began_us = 0;
  }
}

Test(watchdog, blames_no_call_for_a_time_in_which_the_process_stood_still) {
  struct txb_watch watch = {.limit_us = LIMIT};
  cr_assert_not(txb_watch_look(&watch, SECOND));
  watch.began_us = 2 * SECOND;
  cr_assert_not(txb_watch_look(&watch, 600 * SECOND));
  cr_assert_eq(watch.due_us, 600 * SECOND + LIMIT);
  cr_assert(txb_watch_look(&watch, watch.due_us));
}
