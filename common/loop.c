/* Waiting: ppoll(2), eventfd(2), signalfd(2). */
#include "common/loop.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"

enum txb_rc txb_signals_open(int *fd_out, struct txb_error *err) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGHUP);
  int failed = pthread_sigmask(SIG_BLOCK, &set, NULL);
  if (failed != 0)
    return TXB_FAIL(err, TXB_FATAL, "cannot block signals: %s", strerror(failed));
  struct sigaction ignore = {.sa_handler = SIG_IGN};
  if (sigaction(SIGPIPE, &ignore, NULL) != 0)
    return TXB_FAIL(err, TXB_FATAL, "cannot ignore SIGPIPE: %s", strerror(errno));
  int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  if (fd < 0)
    return TXB_FAIL(err, TXB_FATAL, "cannot open a signal descriptor: %s", strerror(errno));
  *fd_out = fd;
  return TXB_OK;
}

int txb_signals_next(int fd) {
  struct signalfd_siginfo info;
  ssize_t n;
  do
    n = read(fd, &info, sizeof info);
  while (n < 0 && errno == EINTR);
  return n == (ssize_t)sizeof info ? (int)info.ssi_signo : 0;
}

enum txb_rc txb_wake_open(int *fd_out, struct txb_error *err) {
  int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (fd < 0)
    return TXB_FAIL(err, TXB_FATAL, "cannot open an event descriptor: %s", strerror(errno));
  *fd_out = fd;
  return TXB_OK;
}

void txb_wake_signal(int fd) {
  int saved = errno; /* a signal handler may be the caller */
  uint64_t one = 1;
  ssize_t n;
  do
    n = write(fd, &one, sizeof one);
  while (n < 0 && errno == EINTR); /* EAGAIN: the counter is full, so it is readable already */
  errno = saved;
}

void txb_wake_clear(int fd) {
  uint64_t count;
  ssize_t n;
  do
    n = read(fd, &count, sizeof count);
  while (n < 0 && errno == EINTR);
}

bool txb_stopped(int stop_fd) {
  if (stop_fd < 0)
    return false;
  struct pollfd p = {.fd = stop_fd, .events = POLLIN};
  int n;
  do
    n = poll(&p, 1, 0);
  while (n < 0 && errno == EINTR);
  return n > 0;
}

enum txb_rc txb_wait(struct pollfd *fds, size_t count, int64_t timeout_us, int *ready_out, struct txb_error *err) {
  int64_t until = timeout_us < 0 ? 0 : txb_clock_steady_us() + timeout_us, left = timeout_us;
  for (;;) {
    struct timespec limit = {.tv_sec = (time_t)(left / 1000000), .tv_nsec = (long)(left % 1000000) * 1000};
    int n = ppoll(fds, count, timeout_us < 0 ? NULL : &limit, NULL);
    if (n >= 0) {
      if (ready_out != NULL)
        *ready_out = n;
      return TXB_OK;
    }
    if (errno != EINTR)
      return TXB_FAIL(err, TXB_FATAL, "cannot wait for descriptors: %s", strerror(errno));
    if (timeout_us >= 0) {
      left = until - txb_clock_steady_us();
      if (left < 0)
        left = 0;
    }
  }
}

bool txb_pause(int stop_fd, int64_t timeout_us) {
  struct pollfd p = {.fd = stop_fd, .events = POLLIN}; /* -1: ppoll passes it over */
  int ready = 0;
  if (txb_wait(&p, 1, timeout_us < 0 ? 0 : timeout_us, &ready, NULL) != TXB_OK)
    return txb_stopped(stop_fd);
  return ready > 0;
}
