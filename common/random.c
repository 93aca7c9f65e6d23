/* Randomness. */
#include "common/random.h"

#include <errno.h>
#include <sys/random.h>

#include "common/error.h"

void txb_random_bytes(void *out, size_t size) {
  char *p = out;
  while (size > 0) {
    ssize_t n = getrandom(p, size > 256 ? 256 : size, 0); /* up to 256 bytes come whole */
    TXB_ASSERT(n > 0 || errno == EINTR);
    if (n <= 0)
      continue;
    p += n;
    size -= (size_t)n;
  }
}

uint64_t txb_random_u64(void) {
  uint64_t v;
  txb_random_bytes(&v, sizeof v);
  return v;
}

/* Vigna's splitmix64 (public domain): one addition and a mix, every seed is fine. */
uint64_t txb_splitmix64(uint64_t *state) {
  uint64_t z = (*state += UINT64_C(0x9E3779B97F4A7C15));
  z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
  return z ^ (z >> 31);
}
