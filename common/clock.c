/* Time. The only file that reads a clock. */
#include "common/clock.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/error.h"

static int64_t read_clock(clockid_t id) {
  struct timespec now;
  int failed = clock_gettime(id, &now);
  TXB_ASSERT(failed == 0); /* both clocks exist since Linux 2.6.39 */
  return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t txb_clock_steady_us(void) {
  return read_clock(CLOCK_BOOTTIME);
}

int64_t txb_clock_wall_us(void) {
  return read_clock(CLOCK_REALTIME);
}

void txb_clock_format(int64_t wall_us, char out[28]) {
  const int64_t first = INT64_C(-62135596800000000), last = INT64_C(253402300799999999); /* the years 0001 to 9999 */
  if (wall_us < first)
    wall_us = first;
  if (wall_us > last)
    wall_us = last;
  int64_t fraction = wall_us % 1000000;
  if (fraction < 0)
    fraction += 1000000;
  time_t seconds = (time_t)((wall_us - fraction) / 1000000);
  struct tm t;
  struct tm *found = gmtime_r(&seconds, &t);
  TXB_ASSERT(found != NULL);
  char text[80];
  snprintf(text, sizeof text, "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ", t.tm_year + 1900, t.tm_mon + 1, t.tm_mday,
           t.tm_hour, t.tm_min, t.tm_sec, (int)fraction);
  memcpy(out, text, 27);
  out[27] = '\0';
}
