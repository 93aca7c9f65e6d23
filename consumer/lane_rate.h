/* At most so many messages a second: a bucket of allowances that fills by the steady clock, up to what comes in a quarter
 * of a second. Pure; nothing of it is kept, so a worker that is started again begins with an empty one. */
#ifndef TXB_CONSUMER_LANE_RATE_H
#define TXB_CONSUMER_LANE_RATE_H

#include <stdbool.h>
#include <stdint.h>

struct txb_lane_rate {
  int64_t per_second; /* 0: no limit */
  int64_t allowance;  /* in millionths of a message */
  int64_t filled_us;
  bool empty; /* until a handful is allowed at once */
};

/* per_second 0: no limit. One that differs from the present begins with nothing. */
void txb_lane_rate_set(struct txb_lane_rate *rate, int64_t per_second, int64_t now_us);
/* Whether one may go now; it is taken off. */
bool txb_lane_rate_take(struct txb_lane_rate *rate, int64_t now_us);
/* When take may say yes again, after it said no. */
int64_t txb_lane_rate_due_us(const struct txb_lane_rate *rate);

#endif
