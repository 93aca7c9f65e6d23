/* Which values a lane reads, where its reader has to choose itself: an array as the server gave it. Pure. */
#ifndef TXB_CONSUMER_LANE_FILTER_H
#define TXB_CONSUMER_LANE_FILTER_H

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"
#include "common/slice.h"

struct txb_lane_filter {
  bool all;                 /* there is no filter */
  char *bytes;              /* a copy of the array */
  struct txb_slice *values; /* in it, sorted */
  size_t count;
};

/* `array`: bytea[] or text[] in the server's binary form, of one dimension at most; absent: everything passes. TXB_FATAL: no
 * memory, and *f may be ended all the same. */
enum txb_rc txb_lane_filter_init(struct txb_lane_filter *f, struct txb_slice array,
                                 struct txb_error *err) TXB_MUST_CHECK;
void txb_lane_filter_fini(struct txb_lane_filter *f);
/* An absent value passes only where there is no filter, as in SQL. */
bool txb_lane_filter_passes(const struct txb_lane_filter *f, struct txb_slice value);

#endif
