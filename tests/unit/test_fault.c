/* Failpoints: the tables, the kill, its count, and that a misspelt name is never silent. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/error.h"
#include "common/fault.h"

static size_t count_of(const char *const *names) {
  size_t n = 0;
  while (names[n] != NULL)
    n++;
  return n;
}

Test(fault, tables_hold_each_name_once_and_well_formed) {
  static const char *const *const tables[] = {txb_failpoint_names, txb_bug_names};
  for (size_t t = 0; t < TXB_ARRAY_SIZE(tables); t++) {
    size_t n = count_of(tables[t]);
    cr_assert(n >= 16);
    for (size_t i = 0; i < n; i++) {
      cr_assert(strspn(tables[t][i], "abcdefghijklmnopqrstuvwxyz_.") == strlen(tables[t][i]), "%s", tables[t][i]);
      cr_assert(strlen(tables[t][i]) < 64);
      cr_assert((strchr(tables[t][i], '.') != NULL) == (t == 0), "a failpoint is role.place, a bug is a word");
      for (size_t k = 0; k < i; k++)
        cr_assert(strcmp(tables[t][i], tables[t][k]) != 0, "%s twice", tables[t][i]);
    }
  }
}

#ifdef TXB_FAULTS
/* Passes the points in a child with this environment; its wait status. */
static int status_of(const char *variable, const char *value, const char *const *points, const char *log) {
  pid_t child = fork();
  cr_assert(child >= 0);
  if (child == 0) {
    struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    if (freopen("/dev/null", "w", stderr) == NULL)
      _exit(9);
    setenv(variable, value, 1);
    if (log != NULL)
      setenv("TXB_FAULT_LOG", log, 1);
    for (; *points != NULL; points++)
      txb_failpoint(*points);
    _exit(txb_bug("relay_no_lock_rule") ? 3 : 0);
  }
  int status = 0;
  cr_assert(waitpid(child, &status, 0) == child);
  return status;
}

static bool killed(int status, int signal) {
  return WIFSIGNALED(status) && WTERMSIG(status) == signal;
}

static const char *const thrice[] = {"relay.after_poll", "relay.after_ack", "relay.after_poll", "relay.after_poll",
                                     NULL};

Test(fault, kills_at_the_nth_pass_of_its_point_only) {
  cr_assert(killed(status_of("TXB_FAILPOINT", "relay.after_poll", thrice, NULL), SIGKILL));
  cr_assert(killed(status_of("TXB_FAILPOINT", "relay.after_poll:3", thrice, NULL), SIGKILL));
  cr_assert(status_of("TXB_FAILPOINT", "relay.after_poll:4", thrice, NULL) == 0);
  cr_assert(status_of("TXB_FAILPOINT", "worker.after_apply", thrice, NULL) == 0);
  cr_assert(status_of("TXB_FAILPOINT", "", thrice, NULL) == 0);
}

Test(fault, writes_a_line_for_each_kill_that_hit) {
  char path[] = "/tmp/txb_fault_XXXXXX", text[100] = "";
  int fd = mkstemp(path);
  cr_assert(fd >= 0);
  cr_assert(killed(status_of("TXB_FAILPOINT", "relay.after_poll:2", thrice, path), SIGKILL));
  cr_assert(status_of("TXB_FAILPOINT", "relay.after_poll:9", thrice, path) == 0);
  cr_assert(killed(status_of("TXB_FAILPOINT", "relay.after_ack", thrice, path), SIGKILL));
  cr_assert(read(fd, text, sizeof text - 1) > 0);
  cr_assert_str_eq(text, "relay.after_poll\nrelay.after_ack\n");
  close(fd);
  unlink(path);
}

Test(fault, switches_one_bug_on) {
  static const char *const none[] = {NULL};
  cr_assert(WEXITSTATUS(status_of("TXB_BUG", "relay_no_lock_rule", none, NULL)) == 3);
  cr_assert(status_of("TXB_BUG", "relay_id_gt_last", none, NULL) == 0);
}

Test(fault, ends_loudly_when_a_name_is_misspelt) {
  static const char *const wrong[] = {"relay.after_poll:0", "relay.after_poll:x", "relay.after_poll:1x",
                                      "relay.afterpoll", ":"};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(wrong); i++)
    cr_assert(killed(status_of("TXB_FAILPOINT", wrong[i], thrice, NULL), SIGABRT), "%s", wrong[i]);
  cr_assert(killed(status_of("TXB_BUG", "relay_nolockrule", thrice, NULL), SIGABRT));
  static const char *const unknown[] = {"relay.somewhere", NULL};
  cr_assert(killed(status_of("TXB_FAILPOINT", "relay.after_poll", unknown, NULL), SIGABRT),
            "a point that no table holds");
}
#endif
