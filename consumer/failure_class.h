/* What a failure of a message means: one table of causes. Pure.
 *
 * A handler's answer, an SQLSTATE, a death: each has a class, which says what is done about it, and an error class, the
 * word under which people find it in txb.failed.
 */
#ifndef TXB_CONSUMER_FAILURE_CLASS_H
#define TXB_CONSUMER_FAILURE_CLASS_H

#include <stdbool.h>
#include <stddef.h>

enum txb_failure_class {
  TXB_CLASS_FREE = 0, /* somebody else's transaction was in the way: again at once, smaller, not counted. A message that
                         meets it alone again and again is counted in the end (action.patience_over) */
  TXB_CLASS_WAIT,     /* the server is in trouble, no message is at fault: waits in place, nothing is set aside */
  TXB_CLASS_AWAY,     /* the connection is over */
  TXB_CLASS_COUNT,    /* an attempt of the message that failed */
  TXB_CLASS_DEAD,     /* no further attempt would help */
};

enum txb_failure_cause {
  TXB_CAUSE_SQLSTATE = 0, /* a statement raised; `sqlstate` tells */
  TXB_CAUSE_RETRY,        /* the handler's answers */
  TXB_CAUSE_REFUSE,
  TXB_CAUSE_DEAD,
  TXB_CAUSE_NO_OUTCOME, /* it answered nothing that is an outcome, or harmed its transaction */
  TXB_CAUSE_TIMEOUT,    /* it took longer than handler.timeout_ms, told by other means than an SQLSTATE */
  TXB_CAUSE_CRASH,      /* died twice, alone (W10) */
  TXB_CAUSE_CONFLICT,   /* a FREE one whose patience is over */
};

struct txb_failure_meaning {
  enum txb_failure_class class;
  const char *error_class; /* error, timeout, retry, refuse, dead, crash, conflict; static */
};

/* `sqlstate` (five characters; NULL or "": none) is read for TXB_CAUSE_SQLSTATE alone. `usable`: the connection still
 * can be used: then an SQLSTATE about a lost server was about another one (dblink, a foreign table), and counts. */
struct txb_failure_meaning txb_failure_of(enum txb_failure_cause cause, const char *sqlstate, bool usable);
/* The cause behind a handler's word: retry, refuse, dead; anything else is no outcome. */
enum txb_failure_cause txb_failure_cause_of(const char *outcome);

/* The table, for documentation and tests; its order is that of the search, and the last line takes everything. */
struct txb_failure_rule {
  enum txb_failure_cause cause;
  const char *sqlstate; /* "": any; else how it begins */
  enum txb_failure_class class;
  const char *error_class, *why;
};
extern const struct txb_failure_rule txb_failure_rules[];
extern const size_t txb_failure_rules_count;

#endif
