/* Waiting in one place: poll(2) over sockets, eventfds, a timer and signals. One loop a thread. Nothing in txbroker
 * sleeps any other way. `stop` is an eventfd that stays readable once the process is asked to end; every wait includes
 * it, so that shutdown never waits for a server. */
#ifndef TXB_COMMON_LOOP_H
#define TXB_COMMON_LOOP_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* Blocks SIGINT, SIGTERM and SIGHUP for the calling thread (and those it starts later) and gives a signalfd for them.
 * Call first in main. SIGPIPE is ignored. */
enum txb_rc txb_signals_open(int *fd_out, struct txb_error *err) TXB_MUST_CHECK;
/* The next pending signal's number, or 0. */
int txb_signals_next(int fd);

/* An eventfd, non-blocking, close-on-exec. */
enum txb_rc txb_wake_open(int *fd_out, struct txb_error *err) TXB_MUST_CHECK;
void txb_wake_signal(int fd); /* any thread, async-signal-safe */
void txb_wake_clear(int fd);

/* Whether a stop eventfd has been signalled (does not clear it). -1 means: never. */
bool txb_stopped(int stop_fd);

/* Waits until one of the descriptors is ready or the time is up (timeout_us < 0: no limit; precision of ppoll(2)).
 * *ready_out (may be NULL): how many are ready; 0 when the time was up. EINTR is hidden. */
enum txb_rc txb_wait(struct pollfd *fds, size_t count, int64_t timeout_us, int *ready_out,
                     struct txb_error *err) TXB_MUST_CHECK;
/* Waits up to that long unless stop_fd is signalled; true when stopped. */
bool txb_pause(int stop_fd, int64_t timeout_us);

#endif
