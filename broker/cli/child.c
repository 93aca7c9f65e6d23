/* Child processes. A crash of this process takes them along where a death signal was asked for. */
#include "broker/cli/child.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/loop.h"

#define LOOK_US (20 * 1000)

/* Between fork and exec: async-signal-safe calls only. */
static _Noreturn void become(const struct txb_child_options *o, pid_t parent) {
  sigset_t none;
  (void)sigemptyset(&none);
  (void)sigprocmask(SIG_SETMASK, &none, NULL);
  (void)signal(SIGPIPE, SIG_DFL);
  (void)setsid(); /* a terminal's Ctrl-C is for us: we end it in our order */
  int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null_fd >= 0)
    (void)dup2(null_fd, STDIN_FILENO);
  if (o->output_fd >= 0 && (dup2(o->output_fd, STDOUT_FILENO) < 0 || dup2(o->output_fd, STDERR_FILENO) < 0))
    _exit(127);
  if (o->uid != 0 && (setgroups(0, NULL) != 0 || setgid(o->gid) != 0 || setuid(o->uid) != 0))
    _exit(127);
  /* After setuid, which clears it. The parent may have died before it was set. */
  if (o->death_signal != 0 && prctl(PR_SET_PDEATHSIG, o->death_signal) != 0)
    _exit(127);
  if (o->death_signal != 0 && getppid() != parent)
    _exit(127);
  /* exec wants char *const *, and changes nothing. */
  union {
    const char *const *in;
    char *const *out;
  } argv = {.in = o->argv};
  (void)execv(o->path, argv.out);
  _exit(127);
}

enum txb_rc txb_child_start(const struct txb_child_options *options, struct txb_child *out, struct txb_error *err) {
  pid_t parent = getpid();
  if (access(options->path, X_OK) != 0)
    return TXB_FAIL(err, TXB_REFUSED, "can't run %s: %s", options->path, strerror(errno));
  pid_t pid = fork();
  if (pid < 0)
    return TXB_FAIL(err, TXB_FATAL, "can't start a process: %s", strerror(errno));
  if (pid == 0)
    become(options, parent);
  *out = (struct txb_child){.pid = pid, .pidfd = (int)syscall(SYS_pidfd_open, pid, 0)};
  if (out->pidfd >= 0)
    (void)fcntl(out->pidfd, F_SETFD, FD_CLOEXEC);
  return TXB_OK;
}

void txb_child_signal(struct txb_child *child, int number) {
  if (child->pid > 0)
    (void)kill(child->pid, number); /* not yet waited for: the number is still its own */
}

static bool reap(struct txb_child *child) {
  int status = 0;
  if (waitpid(child->pid, &status, WNOHANG) == 0)
    return false;
  child->status = status;
  child->pid = 0;
  if (child->pidfd >= 0)
    (void)close(child->pidfd);
  child->pidfd = -1;
  return true;
}

bool txb_child_wait(struct txb_child *child, int timeout_ms) {
  int64_t until = txb_clock_steady_us() + (int64_t)timeout_ms * 1000;
  while (child->pid > 0 && !reap(child)) {
    int64_t left = timeout_ms < 0 ? LOOK_US : until - txb_clock_steady_us();
    if (left <= 0)
      return false;
    struct pollfd fd = {.fd = child->pidfd, .events = POLLIN};
    if (child->pidfd < 0)
      (void)txb_pause(-1, left < LOOK_US ? left : LOOK_US);
    else if (txb_wait(&fd, 1, timeout_ms < 0 ? -1 : left, NULL, NULL) != TXB_OK)
      return false;
  }
  return true;
}

void txb_child_stop(struct txb_child *child, int number, int patience_ms) {
  txb_child_signal(child, number);
  if (txb_child_wait(child, patience_ms))
    return;
  txb_child_signal(child, SIGKILL);
  (void)txb_child_wait(child, -1);
}

/* Keeps the last bytes of what comes. */
static void read_tail(int fd, char *output, size_t output_size) {
  size_t used = 0;
  for (;;) {
    char chunk[1024];
    ssize_t n = read(fd, chunk, sizeof(chunk));
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      break;
    size_t size = (size_t)n < output_size - 1 ? (size_t)n : output_size - 1;
    const char *from = chunk + ((size_t)n - size);
    if (used + size > output_size - 1) {
      size_t drop = used + size - (output_size - 1);
      memmove(output, output + drop, used - drop);
      used -= drop;
    }
    memcpy(output + used, from, size);
    used += size;
  }
  output[used] = '\0';
}

enum txb_rc txb_child_run(const struct txb_child_options *options, char *output, size_t output_size,
                          struct txb_error *err) {
  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) != 0)
    return TXB_FAIL(err, TXB_FATAL, "can't make a pipe: %s", strerror(errno));
  struct txb_child_options mine = *options;
  struct txb_child child = {0};
  mine.output_fd = pipe_fds[1];
  enum txb_rc rc = txb_child_start(&mine, &child, err);
  (void)close(pipe_fds[1]);
  if (rc == TXB_OK) {
    read_tail(pipe_fds[0], output, output_size);
    (void)txb_child_wait(&child, -1);
    if (!WIFEXITED(child.status) || WEXITSTATUS(child.status) != 0)
      rc = TXB_FAIL(err, TXB_REFUSED, "%s failed: %s", options->path, output);
  }
  (void)close(pipe_fds[0]);
  return rc;
}
