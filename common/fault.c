/* Failpoints and planted bugs. The tables are in every build, for the campaign; the code behind them in test builds
 * only. */
#include "common/fault.h"

#include <stddef.h>

const char *const txb_failpoint_names[] = {
    "publish.before_insert",
    "publish.after_insert",
    "publish.before_commit",
    "publish.after_commit",
    "relay.after_acquire",
    "relay.after_poll",
    "relay.after_produce",
    "relay.after_ack",
    "relay.before_checkpoint",
    "relay.in_checkpoint",
    "relay.after_checkpoint",
    "relay.before_record_failed",
    "relay.after_record_failed",
    "relay.after_decisions",
    "relay.before_settle",
    "relay.after_settle",
    "relay.before_schedule_move",
    "relay.after_schedule_move",
    "worker.after_assign",
    "worker.after_take",
    "worker.after_open",
    "worker.after_apply",
    "worker.before_commit",
    "worker.in_commit",
    "worker.after_commit",
    "worker.after_kafka_commit",
    "worker.before_stall_record",
    "worker.after_stall_record",
    "worker.on_revoke",
    "worker.before_set_aside",
    "worker.after_set_aside",
    "worker.before_retry_mark",
    "worker.after_retry_mark",
    "worker.after_retry_open",
    "worker.before_retry_settle",
    "worker.after_retry_settle",
    "worker.before_condemn",
    "worker.after_condemn",
    "worker.before_command_answer",
    "lane.before_claim",
    "lane.after_claim",
    "lane.before_pass",
    "lane.after_pass",
    "lane.after_read",
    "lane.before_free",
    "coordinator.after_load",
    "coordinator.after_store",
    NULL,
};

const char *const txb_bug_names[] = {
    "relay_id_gt_last",
    "relay_no_lock_rule",
    "relay_holes_sometimes",
    "relay_holes_unordered",
    "relay_partition_unproven",
    "relay_holder_by_pid",
    "relay_position_before_ack",
    "relay_no_epoch_check",
    "relay_last_look_limited",
    "relay_flush_is_success",
    "relay_refused_skipped",
    "relay_hold_released_early",
    "relay_drain_overtaken",
    "relay_failed_read_again",
    "worker_offset_before_commit",
    "worker_inbox_outside",
    "worker_no_epoch_check",
    "worker_no_inbox",
    "worker_commit_tag_ignored",
    "worker_batch_duplicate_ids",
    "worker_error_skips",
    "worker_behind_applied",
    "worker_held_not_kept",
    "worker_failed_not_recorded",
    "worker_held_out_of_order",
    "worker_attempt_per_replica",
    "worker_keys_version_ignored",
    "worker_retry_unmarked",
    "lane_fence_ignored",
    "lane_held_ignored",
    "lane_run_ignored",
    "lane_position_before_effects",
    "saga_pivot_guessed",
    "saga_late_effect_ignored",
    "coordinator_timer_first",
    "saga_skip_guessed",
    "saga_lock_ignored",
    NULL,
};

#ifdef TXB_FAULTS

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct {
  char failpoint[64], bug[64]; /* "" : none */
  const char *log;
} armed;
static atomic_long passes_left;

static bool in_table(const char *const *table, const char *name) {
  for (; *table != NULL; table++)
    if (strcmp(*table, name) == 0)
      return true;
  return false;
}

/* A campaign with a misspelt name would run without its fault and prove nothing: end loudly. */
static _Noreturn void refuse(const char *variable, const char *value) {
  fprintf(stderr, "txbroker: %s=%s names nothing that exists\n", variable, value);
  abort();
}

static void arm(void) {
  const char *failpoint = getenv("TXB_FAILPOINT"), *bug = getenv("TXB_BUG");
  armed.log = getenv("TXB_FAULT_LOG");
  if (failpoint != NULL && failpoint[0] != '\0') {
    size_t size = strcspn(failpoint, ":");
    char *end = NULL;
    long nth = failpoint[size] == ':' ? strtol(failpoint + size + 1, &end, 10) : 1;
    if (size >= sizeof armed.failpoint || nth < 1 || (end != NULL && *end != '\0'))
      refuse("TXB_FAILPOINT", failpoint);
    memcpy(armed.failpoint, failpoint, size);
    if (!in_table(txb_failpoint_names, armed.failpoint))
      refuse("TXB_FAILPOINT", failpoint);
    atomic_store(&passes_left, nth);
  }
  if (bug != NULL && bug[0] != '\0') {
    if (!in_table(txb_bug_names, bug) || strlen(bug) >= sizeof armed.bug)
      refuse("TXB_BUG", bug);
    memcpy(armed.bug, bug, strlen(bug));
  }
}

static _Noreturn void die(const char *name) {
  if (armed.log != NULL) {
    int fd = open(armed.log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    char line[80];
    int size = snprintf(line, sizeof line, "%s\n", name);
    if (fd < 0 || write(fd, line, (size_t)size) != size)
      refuse("TXB_FAULT_LOG", armed.log);
  }
  for (;;) {
    kill(getpid(), SIGKILL);
    pause();
  }
}

void txb_failpoint(const char *name) {
  pthread_once(&once, arm);
  if (armed.failpoint[0] == '\0')
    return;
  TXB_ASSERT(in_table(txb_failpoint_names, name));
  if (strcmp(armed.failpoint, name) == 0 && atomic_fetch_sub(&passes_left, 1) == 1)
    die(name);
}

bool txb_bug(const char *name) {
  pthread_once(&once, arm);
  if (armed.bug[0] == '\0')
    return false;
  TXB_ASSERT(in_table(txb_bug_names, name));
  return strcmp(armed.bug, name) == 0;
}

#endif
