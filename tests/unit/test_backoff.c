/* Backoff: doubles, jitters downwards, never exceeds its cap, never overflows. Randomness. */
#include <criterion/criterion.h>

#include "common/backoff.h"
#include "common/error.h"
#include "common/random.h"

Test(backoff, doubles_up_to_the_cap_without_jitter) {
  struct txb_backoff b = {.first_ms = 200, .cap_ms = 3000};
  static const int64_t steps[] = {200, 400, 800, 1600, 3000, 3000, 3000};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(steps); i++)
    cr_assert(txb_backoff_next_ms(&b, 0) == steps[i]);
  txb_backoff_reset(&b);
  cr_assert(txb_backoff_next_ms(&b, 0) == 200);
}

Test(backoff, stays_between_half_a_step_and_a_step) {
  uint64_t seed = 1;
  for (int64_t cap = 1; cap < INT64_MAX / 3; cap *= 3) {
    struct txb_backoff b = {.first_ms = 100, .cap_ms = cap};
    int64_t lowest = INT64_MAX, highest = 0;
    for (int i = 0; i < 200; i++) {
      int64_t pause = txb_backoff_next_ms(&b, txb_splitmix64(&seed));
      cr_assert(pause > 0 && pause <= cap);
      if (i >= 100) {
        lowest = pause < lowest ? pause : lowest;
        highest = pause > highest ? pause : highest;
      }
    }
    cr_assert(lowest >= cap / 2 || b.failures < 64);
    cr_assert(highest >= lowest);
  }
}

Test(backoff, survives_extreme_policies) {
  struct txb_backoff b = {.first_ms = INT64_MAX, .cap_ms = INT64_MAX, .failures = UINT32_MAX};
  cr_assert(txb_backoff_next_ms(&b, 0) == INT64_MAX);
  cr_assert(txb_backoff_next_ms(&b, UINT64_MAX) > 0 && b.failures == UINT32_MAX);
  b = (struct txb_backoff){.first_ms = 0, .cap_ms = 0};
  cr_assert(txb_backoff_next_ms(&b, UINT64_MAX) == 1);
  b = (struct txb_backoff){.first_ms = 5000, .cap_ms = 100};
  cr_assert(txb_backoff_next_ms(&b, 0) == 100);
}

/* Vectors of the reference implementation for seed 1234567. */
Test(random, splitmix64_is_the_reference) {
  static const uint64_t values[] = {UINT64_C(6457827717110365317), UINT64_C(3203168211198807973),
                                    UINT64_C(9817491932198370423), UINT64_C(4593380528125082431),
                                    UINT64_C(16408922859458223821)};
  uint64_t state = 1234567;
  for (size_t i = 0; i < TXB_ARRAY_SIZE(values); i++)
    cr_assert(txb_splitmix64(&state) == values[i]);
}

Test(random, fills_every_byte) {
  unsigned char seen[1000] = {0};
  for (int round = 0; round < 8; round++) {
    unsigned char bytes[1000];
    txb_random_bytes(bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++)
      seen[i] |= bytes[i];
  }
  for (size_t i = 0; i < sizeof seen; i++)
    cr_assert(seen[i] != 0);
  cr_assert(txb_random_u64() != txb_random_u64());
}
