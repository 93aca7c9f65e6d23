/* Backoff: first, 2 * first, 4 * first, ... up to the cap; of each step a random half is taken off, so that many
 * callers don't come back together. */
#include "common/backoff.h"

int64_t txb_backoff_next_ms(struct txb_backoff *b, uint64_t random) {
  int64_t cap = b->cap_ms > 0 ? b->cap_ms : 1, step = b->first_ms > 0 ? b->first_ms : 1;
  for (uint32_t i = 0; i < b->failures && step < cap; i++)
    step = step > cap / 2 ? cap : step * 2;
  if (step > cap)
    step = cap;
  if (b->failures < UINT32_MAX)
    b->failures++;
  int64_t half = step / 2;
  return step - (int64_t)(random % (uint64_t)(half + 1));
}

void txb_backoff_reset(struct txb_backoff *b) {
  b->failures = 0;
}
