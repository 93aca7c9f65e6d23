/* Time as text. */
#include <criterion/criterion.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"

Test(clock, writes_rfc_3339) {
  static const struct {
    int64_t us;
    const char *text;
  } rows[] = {
      {0, "1970-01-01T00:00:00.000000Z"},
      {-1, "1969-12-31T23:59:59.999999Z"},
      {INT64_C(951782400000001), "2000-02-29T00:00:00.000001Z"},
      {INT64_C(1769860800123456), "2026-01-31T12:00:00.123456Z"},
      {INT64_C(253402300799999999), "9999-12-31T23:59:59.999999Z"},
      {INT64_MAX, "9999-12-31T23:59:59.999999Z"},
      {INT64_MIN, "0001-01-01T00:00:00.000000Z"},
  };
  for (size_t i = 0; i < TXB_ARRAY_SIZE(rows); i++) {
    char text[28];
    txb_clock_format(rows[i].us, text);
    cr_assert_str_eq(text, rows[i].text);
  }
}

Test(clock, runs_forward) {
  int64_t last = txb_clock_steady_us();
  cr_assert(last > 0 && txb_clock_wall_us() > INT64_C(1700000000000000));
  for (int i = 0; i < 1000; i++) {
    int64_t now = txb_clock_steady_us();
    cr_assert(now >= last);
    last = now;
  }
}
