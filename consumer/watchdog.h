/* Ends the process when one call of a plugin takes longer than it may: C code can't be interrupted safely, and while it
 * runs nothing else of this worker does. That is a death like any other. The marker that was committed before the call
 * is still out, so the message is found and set aside as one that kills its worker (W10).
 *
 * A thread of its own, asleep until the earliest moment at which a call may be late: within a call's time it wakes once
 * at most. Arming costs an uncontended mutex and no system call.
 */
#ifndef TXB_CONSUMER_WATCHDOG_H
#define TXB_CONSUMER_WATCHDOG_H

#include <stdbool.h>

#include "common/error.h"
#include "common/slice.h"

/* ---- when a call is late: pure ---- */

struct txb_watch {
  int64_t limit_us;
  int64_t began_us; /* of the call under way; 0: none */
  int64_t due_us;   /* when it must be looked at next */
};

/* Looks at it. True: the call under way is late. A look that comes much later than it was due says that the process or
 * the machine stood still (SIGSTOP, a debugger, a paused machine); then nothing is known about the call, and it gets
 * its whole time anew. */
bool txb_watch_look(struct txb_watch *watch, int64_t now_us);

/* ---- the thread ---- */

struct txb_watchdog;

/* What the log says of the call. Borrowed until it is disarmed. */
struct txb_watched {
  const char *group, *topic, *id;
  int32_t partition;
  int64_t offset;
  struct txb_slice key;
};

/* timeout_ms: the group's handler.timeout_ms, above 0; a call may take TXB_WATCHDOG_GRACE_MS longer, in which a statement
 * that the server has cancelled at that time is answered for. *out is the caller's. TXB_FATAL: no memory, descriptor or
 * thread. */
enum txb_rc txb_watchdog_open(int64_t timeout_ms, struct txb_watchdog **out, struct txb_error *err) TXB_MUST_CHECK;
/* NULL is fine. */
void txb_watchdog_close(struct txb_watchdog *dog);
/* Around one call, by one thread. dog NULL: nothing. */
void txb_watchdog_arm(struct txb_watchdog *dog, const struct txb_watched *call);
void txb_watchdog_disarm(struct txb_watchdog *dog);

enum { TXB_WATCHDOG_GRACE_MS = 1000 };

#endif
