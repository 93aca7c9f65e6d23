/* Time, read in one place. Steady time counts on through suspend (a lease runs on while the machine sleeps) and never
 * jumps. */
#ifndef TXB_COMMON_CLOCK_H
#define TXB_COMMON_CLOCK_H

#include <stdint.h>

/* CLOCK_BOOTTIME in microseconds: for leases, time-outs, backoff. */
int64_t txb_clock_steady_us(void);
/* CLOCK_REALTIME in microseconds since 1970: for what is written down. */
int64_t txb_clock_wall_us(void);
/* "2026-01-31T12:00:00.123456Z" (RFC 3339), 27 characters and a NUL. */
void txb_clock_format(int64_t wall_us, char out[28]);

#endif
