/* See lane_rate.h. */
#include "consumer/lane_rate.h"

#define ONE            INT64_C(1000000)
#define SECOND_US      INT64_C(1000000)
#define PER_SECOND_MAX INT64_C(1000000000)

static int64_t at_least_one(int64_t amount) {
  return amount > ONE ? amount : ONE;
}

static int64_t bucket(const struct txb_lane_rate *r) {
  return at_least_one(r->per_second * (ONE / 4));
}

/* What comes in a hundredth of a second is waited for, so that messages don't go one by one, in batches of one. */
static int64_t handful(const struct txb_lane_rate *r) {
  return at_least_one(r->per_second * (ONE / 100));
}

void txb_lane_rate_set(struct txb_lane_rate *r, int64_t per_second, int64_t now_us) {
  per_second = per_second < PER_SECOND_MAX ? per_second : PER_SECOND_MAX;
  if (r->per_second == per_second)
    return;
  *r = (struct txb_lane_rate){.per_second = per_second, .filled_us = now_us, .empty = per_second > 0};
}

bool txb_lane_rate_take(struct txb_lane_rate *r, int64_t now_us) {
  if (r->per_second <= 0)
    return true;
  int64_t passed = now_us - r->filled_us;
  r->allowance += (passed < SECOND_US ? passed : SECOND_US) * r->per_second;
  r->allowance = r->allowance < bucket(r) ? r->allowance : bucket(r);
  r->filled_us = now_us;
  r->empty = r->allowance < ONE || (r->empty && r->allowance < handful(r));
  if (r->empty)
    return false;
  r->allowance -= ONE;
  return true;
}

int64_t txb_lane_rate_due_us(const struct txb_lane_rate *r) {
  if (r->per_second <= 0 || !r->empty)
    return r->filled_us;
  return r->filled_us + (handful(r) - r->allowance + r->per_second - 1) / r->per_second;
}
