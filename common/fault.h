/* Failpoints and planted bugs, compiled into test builds only (TXB_FAULTS); in a release build both vanish.
 *
 * TXB_FAILPOINT=name[:n] kills this process with SIGKILL the nth time (default 1) it passes txb_failpoint("name").
 * TXB_BUG=name switches one planted bug on: each is a rule broken on purpose, which the suite must catch.
 * TXB_FAULT_LOG=file: a line "name" is appended (O_APPEND) just before the kill, so that a campaign can count kills
 * that hit.
 */
#ifndef TXB_COMMON_FAULT_H
#define TXB_COMMON_FAULT_H

#include <stdbool.h>

#ifdef TXB_FAULTS
void txb_failpoint(const char *name);
bool txb_bug(const char *name);
#else
#define txb_failpoint(name) ((void)(name))
#define txb_bug(name)       (false)
#endif

/* The names in use, for the campaign to go through (NULL-ended); every txb_failpoint() and txb_bug() name must stand in
 * these tables. */
extern const char *const txb_failpoint_names[];
extern const char *const txb_bug_names[];

#endif
