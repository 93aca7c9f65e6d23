/* Randomness that needs no secrecy from the kernel's generator; seeded generator for simulations (xoshiro-like,
 * splitmix64). */
#ifndef TXB_COMMON_RANDOM_H
#define TXB_COMMON_RANDOM_H

#include <stddef.h>
#include <stdint.h>

uint64_t txb_random_u64(void); /* getrandom(2); any thread */
void txb_random_bytes(void *out, size_t size);
uint64_t txb_splitmix64(uint64_t *state); /* deterministic, for simulations and jitter */

#endif
