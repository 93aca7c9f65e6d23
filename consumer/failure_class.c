/* See failure_class.h. */
#include "consumer/failure_class.h"

#include <string.h>

#include "common/error.h"

/* The first line that fits. SQLSTATEs about a server that is gone stand for a connection that is over only when it is. */
const struct txb_failure_rule txb_failure_rules[] = {
    {TXB_CAUSE_RETRY, "", TXB_CLASS_COUNT, "retry", "the handler asks for another attempt"},
    {TXB_CAUSE_REFUSE, "", TXB_CLASS_DEAD, "refuse", "the handler says no for good"},
    {TXB_CAUSE_DEAD, "", TXB_CLASS_DEAD, "dead", "the handler says that it never will"},
    {TXB_CAUSE_CRASH, "", TXB_CLASS_DEAD, "crash", "two deaths while it ran alone under its marker"},
    {TXB_CAUSE_CONFLICT, "", TXB_CLASS_COUNT, "conflict", "alone, and something was in its way each time"},
    {TXB_CAUSE_TIMEOUT, "", TXB_CLASS_COUNT, "timeout", "it takes too long"},
    {TXB_CAUSE_NO_OUTCOME, "", TXB_CLASS_COUNT, "error", "no outcome, or a harmed transaction"},
    {TXB_CAUSE_SQLSTATE, "40001", TXB_CLASS_FREE, "conflict", "serialization failure: the other transaction won"},
    {TXB_CAUSE_SQLSTATE, "40P01", TXB_CLASS_FREE, "conflict", "deadlock: the other transaction goes on"},
    {TXB_CAUSE_SQLSTATE, "55P03", TXB_CLASS_FREE, "conflict", "lock timeout: somebody holds the row"},
    {TXB_CAUSE_SQLSTATE, "26000", TXB_CLASS_FREE, "conflict", "our statement was deallocated; it is prepared again"},
    {TXB_CAUSE_SQLSTATE, "0A000", TXB_CLASS_FREE, "conflict",
     "a cached plan whose result changed its type (the text may be in any language); it is prepared again"},
    {TXB_CAUSE_SQLSTATE, "53", TXB_CLASS_WAIT, "error", "the server is out of something: memory, disk, connections"},
    {TXB_CAUSE_SQLSTATE, "58", TXB_CLASS_WAIT, "error", "the server's system: files, input and output"},
    {TXB_CAUSE_SQLSTATE, "08", TXB_CLASS_AWAY, "error", "the connection broke"},
    {TXB_CAUSE_SQLSTATE, "57P0", TXB_CLASS_AWAY, "error", "the server ends the session, shuts down or starts"},
    {TXB_CAUSE_SQLSTATE, "25P03", TXB_CLASS_AWAY, "error", "the session stood idle in its transaction and was ended"},
    {TXB_CAUSE_SQLSTATE, "25006", TXB_CLASS_AWAY, "error", "read-only: a standby until it is promoted"},
    {TXB_CAUSE_SQLSTATE, "57014", TXB_CLASS_COUNT, "timeout", "cancelled, by statement_timeout most likely"},
    {TXB_CAUSE_SQLSTATE, "", TXB_CLASS_COUNT, "error", "constraint, data, undefined function, raised by the handler"},
};
const size_t txb_failure_rules_count = TXB_ARRAY_SIZE(txb_failure_rules);

static bool fits(const struct txb_failure_rule *rule, enum txb_failure_cause cause, const char *sqlstate, bool usable) {
  if (rule->cause != cause || (rule->class == TXB_CLASS_AWAY && usable))
    return false;
  return strncmp(sqlstate, rule->sqlstate, strlen(rule->sqlstate)) == 0;
}

struct txb_failure_meaning txb_failure_of(enum txb_failure_cause cause, const char *sqlstate, bool usable) {
  const char *state = sqlstate == NULL ? "" : sqlstate;
  size_t i = 0;
  /* Without an answer there is no SQLSTATE, and the connection has nothing more to say. */
  if (cause == TXB_CAUSE_SQLSTATE && state[0] == '\0' && !usable)
    return (struct txb_failure_meaning){TXB_CLASS_AWAY, "error"};
  while (i + 1 < txb_failure_rules_count && !fits(&txb_failure_rules[i], cause, state, usable))
    i++;
  return (struct txb_failure_meaning){txb_failure_rules[i].class, txb_failure_rules[i].error_class};
}

enum txb_failure_cause txb_failure_cause_of(const char *outcome) {
  static const struct {
    const char *outcome;
    enum txb_failure_cause cause;
  } words[] = {{"retry", TXB_CAUSE_RETRY}, {"refuse", TXB_CAUSE_REFUSE}, {"dead", TXB_CAUSE_DEAD}};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(words); i++)
    if (strcmp(words[i].outcome, outcome) == 0)
      return words[i].cause;
  return TXB_CAUSE_NO_OUTCOME;
}
