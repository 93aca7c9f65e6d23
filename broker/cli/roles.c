/* Relays and workers as threads. They keep nothing in memory that a crash of this process would lose: see
 * outbox/relay.h and consumer/worker.h. */
#include "broker/cli/roles.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "broker/coordinator/coordinator.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/memory.h"
#include "common/random.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)
/* A role that is refused sooner than this at its first start was started wrong: tell the person who is looking. */
#define FIRST_LOOK_US (10 * 1000 * 1000LL)

enum txb_rc txb_roles_init(struct txb_roles *roles, size_t max, struct txb_error *err) {
  *roles = (struct txb_roles){.stop_fd = -1};
  void *items;
  TXB_TRY(txb_alloc_array(max, sizeof(struct txb_role), &items, err));
  roles->items = items;
  return txb_wake_open(&roles->stop_fd, err);
}

static void join(struct txb_role *role) {
  if (!role->running)
    return;
  (void)pthread_join(role->thread, NULL);
  role->running = false;
}

void txb_roles_fini(struct txb_roles *roles) {
  if (roles->stop_fd >= 0)
    txb_wake_signal(roles->stop_fd);
  for (size_t i = 0; i < roles->count; i++) {
    join(&roles->items[i]);
    (void)close(roles->items[i].ended_fd);
    if (roles->items[i].nudge_fd >= 0)
      (void)close(roles->items[i].nudge_fd);
  }
  if (roles->stop_fd >= 0)
    (void)close(roles->stop_fd);
  txb_free(roles->items);
  txb_free(roles->outboxes);
  *roles = (struct txb_roles){.stop_fd = -1};
}

static enum txb_rc add_role(struct txb_roles *roles, const struct txb_settings *s, enum txb_role_kind kind,
                            const char *name, struct txb_role **out, struct txb_error *err) {
  struct txb_role *role = &roles->items[roles->count];
  *role = (struct txb_role){.kind = kind,
                            .name = name,
                            .nudge_fd = -1,
                            .backoff = {.first_ms = s->retry.first_ms, .cap_ms = s->retry.cap_ms}};
  TXB_TRY(txb_wake_open(&role->ended_fd, err));
  char host[100] = "";
  if (gethostname(host, sizeof(host) - 1) != 0 || host[0] == '\0')
    memcpy(host, "host", 5);
  (void)snprintf(role->client_id, sizeof(role->client_id), "txbroker-%s-%s",
                 kind == TXB_ROLE_RELAY ? "relay" : "worker", name);
  (void)snprintf(role->owner, sizeof(role->owner), "%s-%d", host, (int)getpid());
  roles->count++;
  *out = role;
  return TXB_OK;
}

static struct txb_kafka_cluster cluster_of(const struct txb_settings *s, const struct txb_role *role) {
  return (struct txb_kafka_cluster){
      .brokers = s->kafka.brokers, .options = (const char *const *)s->kafka.client.items, .client_id = role->client_id};
}

enum txb_rc txb_roles_add_relay(struct txb_roles *roles, const struct txb_settings *s, const char *name,
                                const char *database, const char *event_source, struct txb_error *err) {
  struct txb_role *role;
  TXB_TRY(add_role(roles, s, TXB_ROLE_RELAY, name, &role, err));
  struct txb_relay_options *o = &role->options.relay;
  txb_relay_options_init(o);
  o->source = name;
  o->event_source = event_source;
  o->database = database;
  o->kafka = cluster_of(s, role);
  o->owner = s->relay.owner == NULL ? role->owner : s->relay.owner;
  o->stop_fd = roles->stop_fd;
  TXB_TRY(txb_wake_open(&role->nudge_fd, err));
  o->nudge_fd = role->nudge_fd;
  o->read_rows = (int)s->relay.read_rows;
  o->read_bytes = s->relay.read_bytes;
  o->inflight_rows = (int)s->relay.inflight_rows;
  o->inflight_bytes = s->relay.inflight_bytes;
  o->lease_ms = s->relay.lease_ms;
  o->checkpoint_ms = s->relay.checkpoint_ms;
  o->poll_busy_us = s->relay.poll_busy_us;
  o->poll_idle_ms = s->relay.poll_idle_ms;
  o->wait_flush = s->relay.wait_flush;
  o->retry_first_ms = s->retry.first_ms;
  o->retry_cap_ms = s->retry.cap_ms;
  o->partition_rows = s->relay.partition_rows;
  o->partitions_ahead = (int)s->relay.partitions_ahead;
  o->retention_ms = s->relay.retention_ms;
  o->failed_keep_ms = s->relay.failed_keep_ms;
  return TXB_OK;
}

static enum txb_start start_of(const char *name) {
  if (strcmp(name, "latest") == 0)
    return TXB_START_LATEST;
  return strcmp(name, "error") == 0 ? TXB_START_ERROR : TXB_START_EARLIEST;
}

/* Made once; names and connection strings stay with the settings. */
static enum txb_rc list_outboxes(struct txb_roles *roles, const struct txb_settings *s, struct txb_error *err) {
  void *memory;
  if (roles->outboxes != NULL)
    return TXB_OK;
  TXB_TRY(txb_alloc_array(s->sources.count + 1, sizeof *roles->outboxes, &memory, err));
  roles->outboxes = memory;
  for (size_t i = 0; i < s->sources.count; i++) {
    const struct txb_source_settings *source = txb_settings_source(s, i);
    if (source->database != NULL)
      roles->outboxes[roles->outbox_count++] =
          (struct txb_worker_outbox){.source = source->name, .database = source->database};
  }
  return TXB_OK;
}

static enum txb_handler_kind handler_of(const struct txb_group_settings *group) {
  if (strcmp(group->handler_kind, "coordinator") == 0)
    return TXB_HANDLER_ENGINE;
  if (strcmp(group->handler_kind, "plugin") == 0)
    return TXB_HANDLER_PLUGIN;
  return strcmp(group->handler_per, "batch") == 0 ? TXB_HANDLER_SQL_BATCH : TXB_HANDLER_SQL;
}

enum txb_rc txb_roles_add_worker(struct txb_roles *roles, const struct txb_settings *s,
                                 const struct txb_group_settings *group, const char *database, struct txb_error *err) {
  struct txb_role *role;
  TXB_TRY(add_role(roles, s, TXB_ROLE_WORKER, group->group, &role, err));
  struct txb_worker_settings *o = &role->options.worker;
  txb_worker_settings_init(o);
  o->group = group->group;
  o->topics = (const char *const *)group->topics.items;
  o->database = database;
  o->kafka = cluster_of(s, role);
  o->owner = role->owner;
  o->stop_fd = roles->stop_fd;
  o->start = start_of(group->start);
  o->handler = handler_of(group);
  o->engine = o->handler == TXB_HANDLER_ENGINE ? &txb_coordinator_engine : NULL;
  o->function = group->handler_function;
  o->plugin_path = group->handler_path;
  o->plugin_symbol = group->handler_symbol;
  o->plugin_argument = group->handler_argument;
  o->batch_messages = (int)group->batch_messages;
  o->batch_bytes = (int)group->batch_bytes;
  o->batch_wait_ms = (int)group->batch_wait_ms;
  o->session_timeout_ms = (int)group->session_timeout_ms;
  o->retry_first_ms = group->retry_first_ms;
  o->retry_cap_ms = group->retry_cap_ms;
  o->retry_factor = (int)group->retry_factor;
  o->retry_attempts_max = (int)group->retry_attempts_max;
  o->retry_on_dead = strcmp(group->retry_on_dead, "release") == 0 ? TXB_ON_DEAD_RELEASE : TXB_ON_DEAD_HOLD;
  o->retry_dead_letter_topic = group->retry_dead_letter_topic;
  o->handler_timeout_ms = group->handler_timeout_ms;
  o->held_per_key_max = group->held_per_key_max;
  o->held_per_group_max = group->held_per_group_max;
  o->inbox_keep_ms = group->inbox_keep_ms;
  o->failed_keep_ms = group->failed_keep_ms;
  o->saga_keep_ms = group->saga_keep_ms;
  TXB_TRY(list_outboxes(roles, s, err));
  o->outboxes = roles->outboxes;
  o->outbox_count = roles->outbox_count;
  return TXB_OK;
}

/* ---- running --------------------------------------------------------------------------------------------- */

static void *role_main(void *argument) {
  struct txb_role *role = argument;
  char name[16];
  (void)snprintf(name, sizeof(name), "%s", role->name);
  (void)pthread_setname_np(pthread_self(), name);
  if (role->kind == TXB_ROLE_RELAY)
    role->rc = txb_relay_run(&role->options.relay, &role->err);
  else
    role->rc = txb_worker_process(&role->options.worker, &role->err);
  txb_wake_signal(role->ended_fd);
  return NULL;
}

static enum txb_rc start(struct txb_role *role, struct txb_error *err) {
  role->err = (struct txb_error){.rc = TXB_OK};
  role->started_us = txb_clock_steady_us();
  role->restart_us = 0;
  role->lives++;
  int code = pthread_create(&role->thread, NULL, role_main, role);
  if (code != 0)
    return TXB_FAIL(err, TXB_FATAL, "can't start a thread: %s", strerror(code));
  role->running = true;
  return TXB_OK;
}

/* A worker's relay, if it is in this process: that of the same database, as whatever user each connects. */
static int nudge_fd_of(const struct txb_roles *roles, const struct txb_worker_settings *worker) {
  char name[300], other[300];
  txb_pg_describe_uri(worker->database, name, sizeof(name));
  for (size_t i = 0; i < roles->count; i++) {
    if (roles->items[i].kind != TXB_ROLE_RELAY)
      continue;
    txb_pg_describe_uri(roles->items[i].options.relay.database, other, sizeof(other));
    if (strcmp(name, other) == 0)
      return roles->items[i].nudge_fd;
  }
  return -1;
}

enum txb_rc txb_roles_start(struct txb_roles *roles, struct txb_error *err) {
  for (size_t i = 0; i < roles->count; i++)
    if (roles->items[i].kind == TXB_ROLE_WORKER)
      roles->items[i].options.worker.nudge_fd = nudge_fd_of(roles, &roles->items[i].options.worker);
  for (size_t i = 0; i < roles->count; i++)
    TXB_TRY(start(&roles->items[i], err));
  return TXB_OK;
}

static const char *kind_name(const struct txb_role *role) {
  return role->kind == TXB_ROLE_RELAY ? "relay" : "worker";
}

/* A role has ended by itself. Decides whether it comes back; true when the whole program is to end. */
static bool ended(struct txb_role *role, bool restart) {
  join(role);
  txb_wake_clear(role->ended_fd);
  if (role->rc == TXB_OK)
    return false;
  int64_t now = txb_clock_steady_us();
  bool looked_at = role->lives == 1 && now - role->started_us < FIRST_LOOK_US;
  bool asks_person = role->rc == TXB_REFUSED || role->rc == TXB_FENCED;
  if (!restart || (asks_person && looked_at))
    return true;
  if (now - role->started_us > role->backoff.cap_ms * 1000)
    txb_backoff_reset(&role->backoff);
  int64_t pause_ms = txb_backoff_next_ms(&role->backoff, txb_random_u64());
  role->restart_us = now + pause_ms * 1000;
  txb_log(TXB_LOG_ERROR, TXB_MSG("a role ended; it is started again"), TXB_F("role", kind_name(role)),
          TXB_F(role->kind == TXB_ROLE_RELAY ? "source" : "group", role->name), TXB_F("rc", txb_rc_name(role->rc)),
          TXB_F("error", role->err.message), TXB_FI("pause_ms", pause_ms));
  return false;
}

/* Microseconds until the next restart is due; -1: none is. */
static int64_t next_restart(const struct txb_roles *roles) {
  int64_t next = -1, now = txb_clock_steady_us();
  for (size_t i = 0; i < roles->count; i++) {
    int64_t due = roles->items[i].restart_us;
    if (due == 0)
      continue;
    int64_t left = due > now ? due - now : 0;
    next = next < 0 || left < next ? left : next;
  }
  return next;
}

static bool alive(const struct txb_roles *roles) {
  for (size_t i = 0; i < roles->count; i++)
    if (roles->items[i].running || roles->items[i].restart_us != 0)
      return true;
  return false;
}

static enum txb_rc restart_due(struct txb_roles *roles, struct txb_error *err) {
  int64_t now = txb_clock_steady_us();
  for (size_t i = 0; i < roles->count; i++)
    if (roles->items[i].restart_us != 0 && roles->items[i].restart_us <= now)
      TXB_TRY(start(&roles->items[i], err));
  return TXB_OK;
}

/* Waits for a role's end, a signal or a restart; gives the signal or 0. */
static enum txb_rc wait_for_something(const struct txb_roles *roles, struct pollfd *fds, int signal_fd, int *signal_out,
                                      struct txb_error *err) {
  for (size_t i = 0; i < roles->count; i++)
    fds[i] = (struct pollfd){.fd = roles->items[i].running ? roles->items[i].ended_fd : -1, .events = POLLIN};
  fds[roles->count] = (struct pollfd){.fd = signal_fd, .events = POLLIN};
  TXB_TRY(txb_wait(fds, roles->count + 1, next_restart(roles), NULL, err));
  *signal_out = txb_signals_next(signal_fd);
  return TXB_OK;
}

/* Stops all and waits for them; a signal meanwhile ends the process at once: what is under way is as after kill -9. */
static enum txb_rc stop_all(struct txb_roles *roles, struct pollfd *fds, int signal_fd, struct txb_error *err) {
  txb_wake_signal(roles->stop_fd);
  for (size_t i = 0; i < roles->count; i++)
    roles->items[i].restart_us = 0;
  while (alive(roles)) {
    int number = 0;
    TXB_TRY(wait_for_something(roles, fds, signal_fd, &number, err));
    if (number != 0)
      _exit(128 + number);
    for (size_t i = 0; i < roles->count; i++)
      if ((fds[i].revents & POLLIN) != 0)
        join(&roles->items[i]);
  }
  return TXB_OK;
}

static enum txb_rc watch(struct txb_roles *roles, struct pollfd *fds, int signal_fd, bool restart, int *signal_out,
                         struct txb_error *err) {
  const struct txb_role *culprit = NULL;
  while (alive(roles) && culprit == NULL) {
    TXB_TRY(wait_for_something(roles, fds, signal_fd, signal_out, err));
    if (*signal_out != 0) {
      txb_log(TXB_LOG_INFO, TXB_MSG("stopping"), TXB_F("signal", strsignal(*signal_out)));
      break;
    }
    for (size_t i = 0; i < roles->count; i++)
      if ((fds[i].revents & POLLIN) != 0 && ended(&roles->items[i], restart) && culprit == NULL)
        culprit = &roles->items[i];
    TXB_TRY(restart_due(roles, err));
  }
  TXB_TRY(stop_all(roles, fds, signal_fd, err));
  for (size_t i = 0; culprit == NULL && i < roles->count; i++)
    if (roles->items[i].rc != TXB_OK && roles->items[i].lives > 0)
      culprit = &roles->items[i];
  if (culprit == NULL)
    return TXB_OK;
  if (err != NULL) {
    *err = culprit->err;
    (void)txb_error_prefix(err, "%s %s", kind_name(culprit), culprit->name);
  }
  return culprit->rc;
}

enum txb_rc txb_roles_watch(struct txb_roles *roles, int signal_fd, bool restart, int *signal_out,
                            struct txb_error *err) {
  void *fds;
  *signal_out = 0;
  TXB_TRY(txb_alloc_array(roles->count + 1, sizeof(struct pollfd), &fds, err));
  enum txb_rc rc = watch(roles, fds, signal_fd, restart, signal_out, err);
  txb_free(fds);
  return rc;
}
