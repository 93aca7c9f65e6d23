/* Raising errors and giving them context. See txbroker/error.h for what the codes mean. */
#ifndef TXB_COMMON_ERROR_H
#define TXB_COMMON_ERROR_H

#include <stdbool.h>
#include <stdlib.h>

#include "txbroker/error.h"

/* Sets *err (may be NULL) and gives rc back, so that a failure is one line: `return TXB_FAIL(err, TXB_REFUSED, "topic
 * %s ...", t);` A new failure overwrites an old one. Text longer than the field is cut at a character's border. */
#define TXB_FAIL(err, rc, ...) TXB_FAIL_FROM((err), (rc), TXB_ORIGIN_NONE, __VA_ARGS__)
#define TXB_FAIL_FROM(err, rc, origin, ...)                                                                            \
  txb_rc_as_given((rc), txb_error_set((err), (rc), (origin), __FILE__, __LINE__, __VA_ARGS__))

/* txb_error_set gives back what it got; said here again in sight of compilers and analysers, which then know that a
 * failure isn't TXB_OK. */
static inline enum txb_rc txb_rc_as_given(enum txb_rc rc, enum txb_rc set) {
  (void)set;
  return rc;
}

enum txb_rc txb_error_set(struct txb_error *err, enum txb_rc rc, enum txb_origin origin, const char *file, int line,
                          const char *fmt, ...) TXB_PRINTF(6, 7);

/* Puts "text: " before the message: context on the way up. Returns err->rc (err must not be NULL here: make a local
 * one). */
enum txb_rc txb_error_prefix(struct txb_error *err, const char *fmt, ...) TXB_PRINTF(2, 3);

/* The program's exit code for an error: DESIGN 11. */
int txb_error_exit_code(const struct txb_error *err);

/* The one macro that hides a return. */
#define TXB_TRY(expr)                                                                                                  \
  do {                                                                                                                 \
    enum txb_rc txb_try_rc_ = (expr);                                                                                  \
    if (txb_try_rc_ != TXB_OK)                                                                                         \
      return txb_try_rc_;                                                                                              \
  } while (0)

/* A bug, never something that can happen at run time. On in release: a broken invariant must not go on moving money. */
#define TXB_ASSERT(condition)                                                                                          \
  do {                                                                                                                 \
    if (!(condition))                                                                                                  \
      txb_assert_failed(#condition, __FILE__, __LINE__);                                                               \
  } while (0)
_Noreturn void txb_assert_failed(const char *condition, const char *file, int line);

#define TXB_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#endif
