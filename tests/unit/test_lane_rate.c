/* How many messages a second a lane gives. Pure. */
#include <criterion/criterion.h>

#include "consumer/lane_rate.h"

#define SECOND INT64_C(1000000)

static int64_t taken(struct txb_lane_rate *rate, int64_t from_us, int64_t to_us) {
  int64_t n = 0;
  for (int64_t now = from_us; now < to_us;) {
    if (txb_lane_rate_take(rate, now)) {
      n++;
      continue;
    }
    int64_t due = txb_lane_rate_due_us(rate);
    cr_assert_gt(due, now); /* or its loop would spin */
    now = due;
  }
  return n;
}

Test(lane_rate, gives_as_many_a_second_as_it_may) {
  static const int64_t rates[] = {1, 3, 100, 4321, 70000};
  for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
    struct txb_lane_rate rate = {.per_second = 0};
    txb_lane_rate_set(&rate, rates[i], 5 * SECOND);
    int64_t n = taken(&rate, 5 * SECOND, 15 * SECOND);
    cr_assert(n >= 10 * rates[i] - rates[i] / 50 - 1 && n <= 10 * rates[i], "%lld at %lld", (long long)n,
              (long long)rates[i]);
  }
}

Test(lane_rate, saves_up_no_more_than_a_quarter_of_a_second) {
  struct txb_lane_rate rate = {.per_second = 0};
  txb_lane_rate_set(&rate, 1000, SECOND);
  int64_t n = 0;
  while (txb_lane_rate_take(&rate, 100 * SECOND))
    n++;
  cr_assert_eq(n, 250);
}

Test(lane_rate, lets_everything_pass_without_a_limit) {
  struct txb_lane_rate rate = {.per_second = 0};
  for (int i = 0; i < 100000; i++)
    cr_assert(txb_lane_rate_take(&rate, SECOND));
}

Test(lane_rate, begins_with_nothing_when_it_changes_and_goes_on_when_it_does_not) {
  struct txb_lane_rate rate = {.per_second = 0};
  txb_lane_rate_set(&rate, 1000, SECOND);
  cr_assert_not(txb_lane_rate_take(&rate, SECOND));
  cr_assert(txb_lane_rate_take(&rate, 2 * SECOND));
  txb_lane_rate_set(&rate, 1000, 2 * SECOND);
  cr_assert(txb_lane_rate_take(&rate, 2 * SECOND));
  txb_lane_rate_set(&rate, 500, 2 * SECOND);
  cr_assert_not(txb_lane_rate_take(&rate, 2 * SECOND));
  txb_lane_rate_set(&rate, 0, 2 * SECOND);
  cr_assert(txb_lane_rate_take(&rate, 2 * SECOND));
}
