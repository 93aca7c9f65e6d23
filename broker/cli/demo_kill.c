/* demo: relay and worker as child processes that are killed while they have work.
 *
 * A kill counts only if the tables show work under way before it and still show it once the process is gone: then
 * nothing but a successor can do it.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "broker/cli/demo.h"
#include "common/memory.h"

#define STOP_MS 20000

/* ---- configuration --------------------------------------------------------------------------------------- */

static json_t *group_of(const struct txb_demo_bank *bank) {
  return json_pack("{s:s, s:[s], s:s, s:{s:s, s:s}, s:i, s:{s:i, s:i}}", "group", bank->group, "topics", bank->topic,
                   "database", bank->uri, "handler", "kind", "sql", "function", "bank.apply", "session_timeout_ms",
                   6000, "retry", "first_ms", 50, "cap_ms", 1000);
}

static json_t *client_options(const struct txb_demo *demo) {
  const struct txb_texts *client = &demo->cli->settings.kafka.client;
  json_t *object = json_object();
  for (size_t i = 0; i + 1 < client->count; i += 2)
    (void)json_object_set_new(object, client->items[i], json_string(client->items[i + 1]));
  return object;
}

/* By file, not by flags: command lines are there for everybody to read. */
static enum txb_rc write_config(struct txb_demo *demo, struct txb_error *err) {
  const struct txb_demo_bank *a = &demo->banks[0], *b = &demo->banks[1];
  json_t *config =
      json_pack("{s:[{s:s, s:s}, {s:s, s:s}], s:{s:s, s:o}, s:{s:i, s:i, s:i}, s:[o, o], s:{s:i, s:i}}", "sources",
                "name", a->name, "database", a->uri, "name", b->name, "database", b->uri, "kafka", "brokers",
                demo->brokers, "client", client_options(demo), "relay", "lease_ms", 5000, "checkpoint_ms", 100,
                "partitions_ahead", 2, "workers", group_of(a), group_of(b), "retry", "first_ms", 50, "cap_ms", 1000);
  char *text = config == NULL ? NULL : json_dumps(config, JSON_INDENT(2));
  json_decref(config);
  if (text == NULL)
    return TXB_FAIL(err, TXB_FATAL, "out of memory");
  (void)snprintf(demo->config, sizeof(demo->config), "%s/demo.json", demo->base);
  int fd = open(demo->config, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  size_t size = strlen(text);
  bool written = fd >= 0 && write(fd, text, size) == (ssize_t)size;
  free(text);
  if (fd >= 0 && close(fd) != 0)
    written = false;
  return written ? TXB_OK : TXB_FAIL(err, TXB_REFUSED, "can't write %s: %s", demo->config, strerror(errno));
}

/* ---- processes ------------------------------------------------------------------------------------------- */

/* What the kind has done so far, by the tables. */
static int64_t progress_of(const struct txb_demo *demo, enum txb_demo_role role) {
  const struct txb_demo_bank *b = demo->banks;
  return role == TXB_DEMO_RELAY ? b[0].watermark + b[1].watermark : b[0].credited + b[1].credited;
}

/* Relay: intents written and not known to be published. Worker: transfers committed in one bank and not applied in
 * the other. */
static int64_t work_of(const struct txb_demo *demo, enum txb_demo_role role) {
  const struct txb_demo_bank *b = demo->banks;
  if (role == TXB_DEMO_RELAY)
    return b[0].drawn - b[0].watermark + b[1].drawn - b[1].watermark;
  return b[0].sent - b[1].credited + b[1].sent - b[0].credited;
}

/* This very file, also when it was replaced meanwhile; without /proc, by the name that we were called by. */
static const char *own_program(void) {
  return access("/proc/self/exe", X_OK) == 0 ? "/proc/self/exe" : program_invocation_name;
}

static enum txb_rc start(struct txb_demo *demo, enum txb_demo_role role, struct txb_error *err) {
  struct txb_demo_process *p = &demo->processes[role];
  const char *const argv[] = {"txbroker", "--config", demo->config, p->name, NULL};
  int log_fd = open(p->log, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (log_fd < 0)
    return TXB_FAIL(err, TXB_REFUSED, "can't write %s: %s", p->log, strerror(errno));
  struct txb_child_options options = {
      .path = own_program(), .argv = argv, .output_fd = log_fd, .death_signal = SIGKILL};
  enum txb_rc rc = txb_child_start(&options, &p->child, err);
  (void)close(log_fd);
  p->progress_at_start = progress_of(demo, role);
  return rc;
}

enum txb_rc txb_demo_processes_start(struct txb_demo *demo, struct txb_error *err) {
  static const char *const names[TXB_DEMO_ROLES] = {[TXB_DEMO_RELAY] = "relay", [TXB_DEMO_WORKER] = "worker"};
  TXB_TRY(write_config(demo, err));
  for (int role = 0; role < TXB_DEMO_ROLES; role++) {
    struct txb_demo_process *p = &demo->processes[role];
    p->name = names[role];
    (void)snprintf(p->log, sizeof(p->log), "%s/%s.log", demo->base, p->name);
    TXB_TRY(start(demo, (enum txb_demo_role)role, err));
  }
  return TXB_OK;
}

/* The last line that a process left. */
static void last_line(const char *path, char *out, size_t out_size) {
  char text[4096];
  int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  off_t size = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
  ssize_t n =
      fd < 0 ? 0
             : pread(fd, text, sizeof(text) - 1, size > (off_t)sizeof(text) - 1 ? size - (off_t)sizeof(text) + 1 : 0);
  if (fd >= 0)
    (void)close(fd);
  while (n > 0 && text[n - 1] == '\n')
    n--;
  text[n > 0 ? n : 0] = '\0';
  const char *newline = strrchr(text, '\n');
  (void)snprintf(out, out_size, "%.*s", (int)out_size - 1, newline == NULL ? text : newline + 1);
}

enum txb_rc txb_demo_processes_check(struct txb_demo *demo, struct txb_error *err) {
  for (int role = 0; role < TXB_DEMO_ROLES; role++) {
    struct txb_demo_process *p = &demo->processes[role];
    char line[400];
    if (!txb_child_wait(&p->child, 0))
      continue;
    last_line(p->log, line, sizeof(line));
    return TXB_FAIL(err, TXB_REFUSED, "the %s process ended by itself: %s", p->name, line);
  }
  return TXB_OK;
}

/* Relay, worker, relay, relay, worker, relay, ...: a worker's successor waits for the session timeout of the dead
 * member, a relay's does not. */
static enum txb_demo_role victim_of(int number) {
  return number % 3 == 1 ? TXB_DEMO_WORKER : TXB_DEMO_RELAY;
}

enum txb_rc txb_demo_kill_next(struct txb_demo *demo, bool *killed_out, struct txb_error *err) {
  enum txb_demo_role role = victim_of(demo->kills);
  struct txb_demo_process *p = &demo->processes[role];
  *killed_out = false;
  if (work_of(demo, role) <= 0 || progress_of(demo, role) <= p->progress_at_start)
    return TXB_OK;
  txb_child_signal(&p->child, SIGKILL);
  (void)txb_child_wait(&p->child, -1);
  TXB_TRY(txb_demo_look(demo, err));
  int64_t left = work_of(demo, role);
  TXB_TRY(start(demo, role, err));
  if (left <= 0)
    return TXB_OK;
  p->kills++;
  demo->kills++;
  *killed_out = true;
  txb_progress(demo->cli, NULL);
  txb_say("killed the %s with kill -9, %lld %s", p->name, (long long)left,
          role == TXB_DEMO_RELAY ? "intents not yet known to be published" : "transfers not yet applied");
  return TXB_OK;
}

void txb_demo_processes_stop(struct txb_demo *demo) {
  for (int role = 0; role < TXB_DEMO_ROLES; role++)
    txb_child_signal(&demo->processes[role].child, SIGTERM);
  for (int role = 0; role < TXB_DEMO_ROLES; role++)
    txb_child_stop(&demo->processes[role].child, SIGTERM, STOP_MS);
}
