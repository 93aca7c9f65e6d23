/* Child processes: started with few surprises, watched by a descriptor, killed by their own number only. */
#ifndef TXB_BROKER_CLI_CHILD_H
#define TXB_BROKER_CLI_CHILD_H

#include <sys/types.h>

#include "common/error.h"

struct txb_child {
  pid_t pid;  /* 0: none */
  int pidfd;  /* readable when it has ended; -1: this kernel has none, txb_child_wait looks now and then */
  int status; /* of waitpid, once it has ended */
};

struct txb_child_options {
  const char *path;
  const char *const *argv; /* NULL-ended, argv[0] included */
  int output_fd;           /* its standard output and error; -1: ours */
  uid_t uid;               /* what it runs as, when we are root; 0: as we do */
  gid_t gid;
  int death_signal; /* that it gets when the thread that started it ends; 0: none */
};

/* Standard input is /dev/null, the signal mask is empty, and it is a session of its own. TXB_REFUSED when the program
 * can't be started. */
enum txb_rc txb_child_start(const struct txb_child_options *options, struct txb_child *out,
                            struct txb_error *err) TXB_MUST_CHECK;
/* Sends a signal unless it has ended. */
void txb_child_signal(struct txb_child *child, int number);
/* Waits up to timeout_ms (0: only looks; < 0: for ever); true when it has ended, with its status, and pid is 0 from
 * then on. */
bool txb_child_wait(struct txb_child *child, int timeout_ms);
/* A signal, a while to obey it, then SIGKILL. Gone afterwards. */
void txb_child_stop(struct txb_child *child, int number, int patience_ms);
/* Runs it to its end; its output (up to output_size - 1 bytes, the last ones) into output. TXB_REFUSED when it does
 * not end with 0. */
enum txb_rc txb_child_run(const struct txb_child_options *options, char *output, size_t output_size,
                          struct txb_error *err) TXB_MUST_CHECK;

#endif
