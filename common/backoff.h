/* Exponential backoff with full jitter and a cap (Brooker, "Exponential Backoff And Jitter"). Pure: the caller brings
 * randomness. */
#ifndef TXB_COMMON_BACKOFF_H
#define TXB_COMMON_BACKOFF_H

#include <stdint.h>

struct txb_backoff {
  int64_t first_ms, cap_ms; /* the policy */
  uint32_t failures;        /* in a row */
};
/* The pause before the next try, between half of the step and the whole step; counts one more failure. */
int64_t txb_backoff_next_ms(struct txb_backoff *b, uint64_t random);
void txb_backoff_reset(struct txb_backoff *b);

#endif
