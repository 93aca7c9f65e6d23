/* The worker's loop: one thread, one connection, one member of the group. It waits in one place, for the database's
 * socket, Kafka's descriptor, the next due time and the stop descriptor. */
#include "consumer/worker.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/memory.h"
#include "common/random.h"
#include "common/settings.h"
#include "consumer/worker_internal.h"
#include "consumer_sql.h"

#define MS                   1000
#define BUFFER_BYTES         (INT64_C(16) << 20) /* fetched and waiting, over all partitions */
#define STOP_PATIENCE_MS     20000               /* a stop waits so long for the batch under way */
#define LEAVE_PATIENCE_MS    5000
#define LEAVE_LOOK_MS        10
#define BETWEEN_CALLS_MS     100
#define ROLLBACK_PATIENCE_MS 1000
#define COPY_MS              5000 /* as often as Kafka's own consumers commit */
#define QUIET_MS             1000 /* less than it takes to delete a topic, to make it anew and to fill it */
#define LOOK_MS              10000
#define RECHECK_MS           10000

static const struct txb_pg_statement check_statement = {"txb_worker_check", txb_text_worker_check};
static const struct txb_pg_statement group_statement = {"txb_worker_group", txb_text_worker_group};

void txb_worker_settings_init(struct txb_worker_settings *s) {
  *s = (struct txb_worker_settings){.owner = "worker",
                                    .stop_fd = -1,
                                    .nudge_fd = -1,
                                    .batch_messages = 1000,
                                    .batch_bytes = 4 << 20,
                                    .batch_wait_ms = 5,
                                    .session_timeout_ms = 45000,
                                    .retry_first_ms = 200,
                                    .retry_cap_ms = 60000,
                                    .retry_factor = 2,
                                    .retry_attempts_max = 8,
                                    .handler_timeout_ms = 60000,
                                    .held_per_key_max = 10000,
                                    .held_per_group_max = 100000,
                                    .inbox_keep_ms = INT64_C(14) * 86400000,
                                    .failed_keep_ms = INT64_C(30) * 86400000,
                                    .saga_keep_ms = INT64_C(30) * 86400000};
}

struct txb_worker_event txb_worker_event_now(enum txb_worker_event_kind kind, int slot) {
  return (struct txb_worker_event){
      .kind = kind, .slot = slot, .now_us = txb_clock_steady_us(), .random = txb_random_u64(), .at = -1};
}

void txb_worker_step(txb_worker_t *w, const struct txb_worker_event *event) {
  txb_worker_core_step(&w->core, event);
}

/* ---- the connection -------------------------------------------------------------------------- */

/* The group wants partitions back, and has waited long enough for the statement under way. */
static bool must_give_back(const txb_worker_t *w) {
  return w->giving_back && w->operation.active && txb_clock_steady_us() >= w->give_back_due_us;
}

static const char *what_happened(const txb_worker_t *w, bool given_up) {
  if (given_up)
    return "connection given up, connecting again";
  return w->spoilt ? "the handler left its connection unusable, connecting again" : "database away, connecting again";
}

void txb_worker_nudge(txb_worker_t *w) {
  if (w->published && w->settings->nudge_fd >= 0)
    txb_wake_signal(w->settings->nudge_fd);
  w->published = false;
}

void txb_worker_connection_works(txb_worker_t *w) {
  if (w->reconnect.failures > 0)
    txb_log(TXB_LOG_INFO, TXB_MSG("connected to the database"), TXB_F("group", w->settings->group),
            TXB_F("database", txb_pg_name(w->pg)));
  txb_backoff_reset(&w->reconnect);
}

void txb_worker_connection_lost(txb_worker_t *w, const struct txb_error *why) {
  bool given_up = must_give_back(w);
  int64_t pause_ms = txb_backoff_next_ms(&w->reconnect, txb_random_u64());
  bool told = w->reconnect.failures > 1 && strcmp(w->told_away.sqlstate, why->sqlstate) == 0 &&
              strcmp(w->told_away.message, why->message) == 0;
  if (!told)
    txb_log(TXB_LOG_WARN, TXB_MSG(what_happened(w, given_up)), TXB_F("group", w->settings->group),
            TXB_F("sqlstate", why->sqlstate[0] != '\0' ? why->sqlstate : NULL), TXB_F("error", why->message));
  w->told_away = *why;
  w->spoilt = false;
  w->reconnect_us = txb_clock_steady_us() + pause_ms * MS;
  txb_pg_close(w->pg);
  w->pg = NULL;
  txb_worker_operation_clear(w);
  struct txb_worker_event e = txb_worker_event_now(given_up ? TXB_WE_GIVEN_UP : TXB_WE_DOWN, -1);
  txb_worker_step(w, &e);
}

/* Whether this database can be worked in at all; every connection, since the address may lead to another server now. */
static enum txb_rc check_database(txb_worker_t *w, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *r = NULL;
  TXB_TRY(txb_pg_query(w->pg, &check_statement, NULL, &r, err));
  if (txb_pg_bool(r, 0, 1))
    return TXB_FAIL_FROM(err, TXB_RETRY, TXB_ORIGIN_POSTGRES, "%s is a standby: waiting until it is promoted",
                         txb_pg_name(w->pg));
  if (!txb_pg_is_null(r, 0, 0))
    return TXB_FAIL_FROM(
        err, TXB_REFUSED, TXB_ORIGIN_SAFETY,
        "%s is not ready for workers of user %s: %.240s; an administrator can mend it: `txbroker init --role "
        "%s=txb_worker`",
        txb_pg_name(w->pg), txb_pg_text(r, 0, 2), txb_pg_text(r, 0, 0), txb_pg_text(r, 0, 2));
  if (w->handler_checked)
    return TXB_OK;
  bool sql = w->settings->handler == TXB_HANDLER_SQL || w->settings->handler == TXB_HANDLER_SQL_BATCH;
  TXB_TRY(sql ? txb_worker_handler_sql_open(w, err) : txb_worker_handler_plugin_open(w, err));
  TXB_TRY(txb_worker_copy_open(w, err));
  w->handler_checked = true;
  return TXB_OK;
}

/* A stopped or cut off worker must let go of the row that it locked before others wait for it in earnest (W3): the
 * server ends a session that stands idle in a transaction before the group's time-out, and notices a client that is
 * gone while a statement runs. The server's own limit on idle sessions is not for a worker, which may wait long for
 * messages; and compiling statements (jit) costs more than such short ones can gain by it. */
static enum txb_rc open_connection(txb_worker_t *w, struct txb_error *err) {
  char settings[300];
  int idle_ms = w->settings->session_timeout_ms * 2 / 3;
  snprintf(settings, sizeof settings,
           "-c idle_in_transaction_session_timeout=%d -c client_connection_check_interval=%d "
           "-c idle_session_timeout=0 -c jit=off",
           idle_ms, idle_ms / 4);
  struct txb_pg_options options = {.uri = w->settings->database,
                                   .application_name = w->name,
                                   .stop_fd = w->settings->stop_fd,
                                   .settings = settings,
                                   .tcp_user_timeout_ms = idle_ms};
  TXB_TRY(txb_pg_open(&options, &w->pg, err));
  TXB_TRY(check_database(w, err));
  return txb_worker_handler_engine_connected(w, err);
}

/* Tells the database what it does for the group by itself: where its dead go. With every connection, since the address may
 * lead to another server now. A crash before it is answered: the next one tells it again. */
static enum txb_rc register_group(txb_worker_t *w, struct txb_error *err) {
  txb_pg_params_clear(&w->params);
  txb_pg_add_text(&w->params, txb_slice_text(w->settings->group));
  txb_pg_add_text(&w->params, txb_slice_text(w->settings->retry_dead_letter_topic));
  return txb_pg_query(w->pg, &group_statement, &w->params, NULL, err);
}

static enum txb_rc connect_to_work(txb_worker_t *w, struct txb_error *err) {
  TXB_TRY(open_connection(w, err));
  TXB_TRY(register_group(w, err));
  return txb_pg_pipeline_begin(w->pg, err);
}

static enum txb_rc connect_when_due(txb_worker_t *w, struct txb_error *err) {
  if (w->pg != NULL || txb_clock_steady_us() < w->reconnect_us || w->stopping)
    return TXB_OK;
  enum txb_rc rc = connect_to_work(w, err);
  if (rc == TXB_RETRY && txb_stopped(w->settings->stop_fd)) {
    txb_pg_close(w->pg);
    w->pg = NULL;
    return TXB_OK;
  }
  if (rc == TXB_RETRY) {
    txb_worker_connection_lost(w, err);
    return TXB_OK;
  }
  TXB_TRY(rc);
  /* Connecting proves little: a read-only database lets everybody in, and refuses the first statement. */
  if (w->core.used == 0)
    txb_worker_connection_works(w);
  struct txb_worker_event e = txb_worker_event_now(TXB_WE_UP, -1);
  txb_worker_step(w, &e);
  return TXB_OK;
}

/* ---- one round of the loop ------------------------------------------------------------------- */

static enum txb_rc progress(txb_worker_t *w, struct txb_error *err) {
  if (w->pg == NULL)
    return TXB_OK;
  enum txb_rc rc = txb_pg_pump(w->pg, err);
  if (rc == TXB_OK)
    rc = txb_worker_operation_progress(w, err);
  return rc;
}

static bool upkeep_runs(const txb_worker_t *w) {
  return w->operation.active && w->operation.action.kind == TXB_WA_NONE;
}

static bool upkeep_may_run(const txb_worker_t *w) {
  return w->pg != NULL && !w->operation.active && !w->stopping && w->core.busy_slot < 0 && w->core.exclusive < 0;
}

/* A lease is renewed while a marker is out, too, and what is to be said of lanes is said before the process ends. */
static bool lanes_may_run(const txb_worker_t *w) {
  return w->pg != NULL && !w->operation.active && w->core.busy_slot < 0;
}

static enum txb_rc act(txb_worker_t *w, struct txb_error *err) {
  struct txb_worker_action action = {.kind = TXB_WA_NONE};
  if (lanes_may_run(w) && txb_clock_steady_us() >= txb_lanes_due_us(w))
    TXB_TRY(txb_worker_operation_begin_side(w, TXB_SIDE_LANES, err));
  if (upkeep_may_run(w) && txb_clock_steady_us() >= w->upkeep_us)
    TXB_TRY(txb_worker_operation_begin_side(w, TXB_SIDE_INBOX, err));
  if (upkeep_may_run(w) && txb_clock_steady_us() >= txb_decisions_due_us(w))
    TXB_TRY(txb_worker_operation_begin_side(w, TXB_SIDE_DECISIONS, err));
  while (!upkeep_runs(w) && txb_worker_core_next(&w->core, txb_clock_steady_us(), &action)) {
    if (txb_worker_is_database_action(action.kind))
      TXB_TRY(txb_worker_operation_begin(w, &action, err));
    else
      TXB_TRY(txb_worker_tell_kafka(w, &action, err));
  }
  if (w->operation.active && w->operation.action.kind == TXB_WA_RUN)
    return txb_worker_batch_ahead(w, err);
  return TXB_OK;
}

static void begin_stop(txb_worker_t *w) {
  if (w->stopping)
    return;
  w->stopping = true;
  w->stop_deadline_us = txb_clock_steady_us() + STOP_PATIENCE_MS * MS;
  struct txb_worker_event e = txb_worker_event_now(TXB_WE_STOP, -1);
  txb_worker_step(w, &e);
}

/* Everything is given back: the group is left. */
static enum txb_rc leave_when_done(txb_worker_t *w, struct txb_error *err) {
  if (!w->stopping || w->leaving || w->core.used > 0 || w->operation.active || txb_lanes_have_words(w))
    return TXB_OK;
  w->leaving = true;
  w->left = w->kafka == NULL;
  if (w->left)
    return TXB_OK;
  w->stop_deadline_us = txb_clock_steady_us() + LEAVE_PATIENCE_MS * MS;
  return txb_kafka_consumer_leave(w->kafka, err);
}

static bool is_over(txb_worker_t *w) {
  if (!w->stopping)
    return false;
  if (w->left)
    return true;
  bool late = txb_clock_steady_us() >= w->stop_deadline_us;
  if (late) /* as after a kill: the batch rolls back, the group times us out */
    txb_log(TXB_LOG_WARN, TXB_MSG("ending without waiting any longer"), TXB_F("group", w->settings->group),
            TXB_F("for", w->leaving ? "the group" : "the batch under way"));
  return late;
}

static int64_t slow_us(const txb_worker_t *w) {
  return w->operation.began_us + (int64_t)w->settings->session_timeout_ms * MS;
}

/* A handler that waits for a lock holds all partitions of its process: that is told, and the group, which may have
 * asked for some of them, does not wait for it. The connection is given up then; position and epoch make it as safe as
 * losing it. */
static enum txb_rc watch_operation(txb_worker_t *w, struct txb_error *err) {
  int64_t now_us = txb_clock_steady_us();
  struct txb_worker_operation *o = &w->operation;
  if (!o->active)
    return TXB_OK;
  if (must_give_back(w))
    return TXB_FAIL_FROM(err, TXB_RETRY, TXB_ORIGIN_POSTGRES,
                         "the group asks for partitions back, and the statement under way does not end");
  if ((o->action.kind != TXB_WA_RUN && o->action.kind != TXB_WA_RETRY) || o->told_slow || now_us < slow_us(w))
    return TXB_OK;
  const struct txb_worker_place *place = &w->places[o->action.slot];
  o->told_slow = true;
  txb_log(TXB_LOG_WARN,
          TXB_MSG("a batch takes long: its handler works or waits for a lock, and everything of this process with it"),
          TXB_F("group", w->settings->group), TXB_F("topic", place->topic), TXB_FI("partition", place->partition),
          TXB_FI("offset", o->action.expected_next), TXB_FI("messages", o->action.count),
          TXB_FI("for_ms", (now_us - o->began_us) / MS));
  return TXB_OK;
}

enum txb_rc txb_worker_between_calls(txb_worker_t *w, bool *end_out, struct txb_error *err) {
  int64_t now_us = txb_clock_steady_us();
  bool more = false;
  struct txb_worker_action action = {.kind = TXB_WA_NONE};
  *end_out = txb_stopped(w->settings->stop_fd);
  if (*end_out || now_us < w->look_us)
    return TXB_OK;
  w->look_us = now_us + BETWEEN_CALLS_MS * MS;
  TXB_TRY(txb_worker_take_notices(w, &more, err));
  while (txb_worker_core_next(&w->core, now_us, &action)) { /* for Kafka alone, while a batch is under way */
    TXB_ASSERT(!txb_worker_is_database_action(action.kind));
    TXB_TRY(txb_worker_tell_kafka(w, &action, err));
  }
  *end_out = must_give_back(w);
  if (*end_out) /* the rollback needs its time, too */
    w->give_back_due_us = now_us + ROLLBACK_PATIENCE_MS * MS;
  return TXB_OK;
}

static int64_t earlier(int64_t a, int64_t b) {
  return a < b ? a : b;
}

static int64_t pause_us(txb_worker_t *w) {
  int64_t due = upkeep_runs(w) ? INT64_MAX : txb_worker_core_due_us(&w->core);
  enum txb_worker_action_kind kind = w->operation.action.kind;
  if (w->operation.active && (kind == TXB_WA_RUN || kind == TXB_WA_RETRY) && !w->operation.told_slow)
    due = earlier(due, slow_us(w));
  if (w->operation.active && w->giving_back)
    due = earlier(due, w->give_back_due_us);
  if (w->pg == NULL && !w->stopping)
    due = earlier(due, w->reconnect_us);
  if (upkeep_may_run(w))
    due = earlier(due, earlier(w->upkeep_us, txb_decisions_due_us(w)));
  if (lanes_may_run(w))
    due = earlier(due, txb_lanes_due_us(w));
  due = earlier(due, txb_lanes_readers_due_us(w));
  if (w->stopping)
    due = earlier(due, w->stop_deadline_us);
  if (w->leaving) /* that the group is left comes without a sign on the descriptor */
    due = earlier(due, txb_clock_steady_us() + LEAVE_LOOK_MS * MS);
  if (due == INT64_MAX)
    return -1;
  int64_t left = due - txb_clock_steady_us();
  return left > 0 ? left : 0;
}

static enum txb_rc wait_for_news(txb_worker_t *w, bool again, struct txb_error *err) {
  struct pollfd fds[3 + TXB_LANES_AT_ONCE] = {
      {.fd = w->kafka != NULL ? txb_kafka_consumer_fd(w->kafka) : -1, .events = POLLIN},
      {.fd = w->pg != NULL ? txb_pg_socket(w->pg) : -1, .events = w->pg != NULL ? txb_pg_poll_events(w->pg) : (short)0},
      {.fd = w->stopping ? -1 : w->settings->stop_fd, .events = POLLIN}};
  size_t count = 3 + txb_lanes_pollfds(w, fds + 3, TXB_LANES_AT_ONCE);
  return txb_wait(fds, count, again ? 0 : pause_us(w), NULL, err);
}

static bool wants_end(const txb_worker_t *w) {
  return txb_stopped(w->settings->stop_fd) ||
         (w->settings->exit_when_idle && txb_worker_core_idle(&w->core) && !w->decisions.wanted);
}

/* One round. The last look at the database's answers stands right before the waiting: sending takes in what has come
 * meanwhile, and what lies in memory already makes no descriptor readable. */
static enum txb_rc go_around(txb_worker_t *w, bool *again_out, struct txb_error *err) {
  enum txb_rc rc = progress(w, err);
  if (rc == TXB_OK)
    rc = watch_operation(w, err);
  if (rc == TXB_OK)
    rc = act(w, err);
  bool active = w->operation.active;
  if (rc == TXB_OK && active)
    rc = txb_worker_operation_progress(w, err);
  *again_out = *again_out || (active && !w->operation.active);
  return rc;
}

static enum txb_rc loop(txb_worker_t *w, struct txb_error *err) {
  while (!is_over(w)) {
    bool again = false;
    if (wants_end(w))
      begin_stop(w);
    TXB_TRY(connect_when_due(w, err));
    TXB_TRY(txb_worker_take_notices(w, &again, err));
    TXB_TRY(txb_lanes_take_notices(w, &again, err));
    enum txb_rc rc = go_around(w, &again, err);
    if (rc == TXB_RETRY) {
      txb_worker_connection_lost(w, err);
      continue;
    }
    TXB_TRY(rc);
    TXB_TRY(leave_when_done(w, err));
    again = again || (!w->stopping && wants_end(w));
    TXB_TRY(wait_for_news(w, again, err));
  }
  return TXB_OK;
}

/* Ending for a reason that a person must see: the group shall not wait for us until the session's time is over. */
static void leave_at_once(txb_worker_t *w) {
  struct txb_error ignored;
  struct txb_worker_event e = txb_worker_event_now(TXB_WE_DOWN, -1);
  txb_pg_close(w->pg);
  w->pg = NULL;
  txb_worker_operation_clear(w);
  txb_worker_step(w, &e);
  begin_stop(w);
  (void)loop(w, &ignored);
}

/* ---- the process ----------------------------------------------------------------------------- */

/* The limits stand in the table of settings, for programs and applications alike. */
static const struct txb_setting *setting_of(const char *key) {
  const struct txb_setting *found = NULL;
  for (const struct txb_section *section = txb_sections; section->name != NULL; section++)
    for (size_t i = 0; strcmp(section->name, "workers") == 0 && i < section->count; i++)
      if (strcmp(section->settings[i].key, key) == 0)
        found = &section->settings[i];
  TXB_ASSERT(found != NULL);
  return found;
}

static enum txb_rc check_name(const char *key, const char *name, struct txb_error *err) {
  const char *wrong = setting_of(key)->check(name);
  if (wrong == NULL)
    return TXB_OK;
  bool shown = strlen(name) <= 249 && txb_slice_is_text(txb_slice_text(name));
  return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "%s%s%s: %s", key, shown ? " " : "", shown ? name : "",
                       wrong);
}

static enum txb_rc check_dead_letters(const struct txb_worker_settings *s, struct txb_error *err) {
  if (s->retry_dead_letter_topic == NULL)
    return TXB_OK;
  TXB_TRY(check_name("retry.dead_letter_topic", s->retry_dead_letter_topic, err));
  for (const char *const *topic = s->topics; *topic != NULL; topic++)
    if (strcmp(*topic, s->retry_dead_letter_topic) == 0)
      return TXB_FAIL_FROM(
          err, TXB_REFUSED, TXB_ORIGIN_USAGE,
          "group %s: retry.dead_letter_topic is %s, one of its own topics: it would read what it could "
          "not apply; name another",
          s->group, *topic);
  return TXB_OK;
}

enum txb_rc txb_worker_settings_check(const struct txb_worker_settings *s, struct txb_error *err) {
  const struct {
    const char *key;
    int64_t value;
  } numbers[] = {
      {"batch_messages", s->batch_messages},
      {"batch_bytes", s->batch_bytes},
      {"batch_wait_ms", s->batch_wait_ms},
      {"session_timeout_ms", s->session_timeout_ms},
      {"inbox_keep_ms", s->inbox_keep_ms},
      {"failed_keep_ms", s->failed_keep_ms},
      {"saga_keep_ms", s->saga_keep_ms},
      {"retry.first_ms", s->retry_first_ms},
      {"retry.cap_ms", s->retry_cap_ms},
      {"retry.factor", s->retry_factor},
      {"retry.attempts_max", s->retry_attempts_max},
      {"handler.timeout_ms", s->handler_timeout_ms},
      {"held_per_key_max", s->held_per_key_max},
      {"held_per_group_max", s->held_per_group_max},
  };
  if (s->group == NULL)
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "a worker needs a group of 1 to 255 bytes");
  TXB_TRY(check_name("group", s->group, err));
  if (s->topics == NULL || s->topics[0] == NULL)
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "group %s has no topics", s->group);
  for (const char *const *topic = s->topics; *topic != NULL; topic++)
    TXB_TRY(check_name("topics", *topic, err)); /* librdkafka would take ^a for a pattern */
  TXB_TRY(check_dead_letters(s, err));
  if (s->database == NULL)
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "group %s has no database", s->group);
  for (size_t i = 0; i < TXB_ARRAY_SIZE(numbers); i++) {
    const struct txb_setting *setting = setting_of(numbers[i].key);
    if (numbers[i].value < setting->min || numbers[i].value > setting->max)
      return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE,
                           "group %s: %s is %" PRId64 ", and may be %" PRId64 " to %" PRId64 " %s", s->group,
                           setting->key, numbers[i].value, setting->min, setting->max, setting->unit);
  }
  if (s->retry_cap_ms < s->retry_first_ms)
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "group %s: retry.first_ms is longer than retry.cap_ms",
                         s->group);
  return TXB_OK;
}

static void process_init(txb_worker_t *w, const struct txb_worker_settings *s) {
  *w = (txb_worker_t){.settings = s, .prepared = -1, .reconnect = {.first_ms = 100, .cap_ms = 5000}};
  struct txb_worker_core_options options = {.batch_messages = s->batch_messages,
                                            .batch_bytes = s->batch_bytes,
                                            .batch_wait_us = (int64_t)s->batch_wait_ms * MS,
                                            .buffer_bytes = BUFFER_BYTES,
                                            .retry_first_ms = s->retry_first_ms,
                                            .retry_cap_ms = s->retry_cap_ms,
                                            .evict_us = (int64_t)s->session_timeout_ms * MS / 3,
                                            .copy_us = COPY_MS * MS,
                                            .quiet_us = QUIET_MS * MS,
                                            .look_us = LOOK_MS * MS,
                                            .recheck_us = RECHECK_MS * MS,
                                            .drop = txb_worker_drop_message,
                                            .bug_error_skips = txb_bug("worker_error_skips"),
                                            .bug_commit_tag_ignored = txb_bug("worker_commit_tag_ignored")};
  txb_worker_core_init(&w->core, &options);
  txb_random_bytes(w->instance.bytes, sizeof w->instance.bytes);
  snprintf(w->name, sizeof w->name, "txbroker worker %s", s->group);
  txb_pg_params_init(&w->params);
  txb_buffer_init(&w->text);
  for (size_t i = 0; i < TXB_ARRAY_SIZE(w->batches); i++)
    txb_pg_params_init(&w->batches[i].apply);
  for (size_t i = 0; i < TXB_ARRAY_SIZE(w->batches); i++)
    txb_pg_params_init(&w->batches[i].add);
  txb_worker_isolated_init(&w->isolated);
}

static void process_fini(txb_worker_t *w) {
  txb_worker_core_fini(&w->core); /* its records before the consumer that they came from */
  txb_lanes_fini(w);
  txb_kafka_consumer_close(w->kafka);
  txb_worker_operation_clear(w);
  txb_pg_close(w->pg);
  txb_worker_places_fini(w);
  txb_worker_handler_plugin_close(w);
  txb_worker_batches_fini(w);
  txb_worker_isolated_fini(&w->isolated);
  txb_worker_retry_fini(w);
  txb_pg_params_fini(&w->params);
  txb_buffer_fini(&w->text);
  txb_free(w->apply_sql);
  txb_free(w->copy_sql);
}

enum txb_rc txb_worker_join(txb_worker_t *w, struct txb_error *err) {
  struct txb_kafka_consumer_options options = {.cluster = w->settings->kafka,
                                               .group = w->settings->group,
                                               .topics = w->settings->topics,
                                               .session_timeout_ms = w->settings->session_timeout_ms};
  TXB_TRY(txb_kafka_consumer_open(&options, &w->kafka, err));
  txb_log(TXB_LOG_INFO, TXB_MSG("waiting for the group"), TXB_F("group", w->settings->group));
  return TXB_OK;
}

/* Kafka's group is joined by the first claim of lanes that meets no replay which is to come before (lanes.c). */
static enum txb_rc run(txb_worker_t *w, struct txb_error *err) {
  /* The database first: what is wrong with the handler is said before the group is disturbed. */
  while (w->pg == NULL && !txb_stopped(w->settings->stop_fd)) {
    TXB_TRY(connect_when_due(w, err));
    if (w->pg == NULL)
      (void)txb_pause(w->settings->stop_fd, pause_us(w));
  }
  if (w->pg == NULL)
    return TXB_OK;
  txb_log(TXB_LOG_INFO, TXB_MSG("worker started"), TXB_F("group", w->settings->group),
          TXB_F("owner", w->settings->owner), TXB_F("database", txb_pg_name(w->pg)));
  enum txb_rc rc = loop(w, err);
  if (rc == TXB_REFUSED)
    leave_at_once(w);
  TXB_TRY(rc);
  txb_log(TXB_LOG_INFO, TXB_MSG("worker stopped"), TXB_F("group", w->settings->group), TXB_FI("consumed", w->consumed));
  return TXB_OK;
}

enum txb_rc txb_worker_process(const struct txb_worker_settings *settings, struct txb_error *err) {
  txb_worker_t w;
  TXB_TRY(txb_worker_settings_check(settings, err));
  process_init(&w, settings);
  enum txb_rc rc = run(&w, err);
  process_fini(&w);
  return rc;
}

enum txb_rc txb_worker_database_check(const struct txb_worker_settings *settings, struct txb_error *err) {
  txb_worker_t w;
  TXB_TRY(txb_worker_settings_check(settings, err));
  process_init(&w, settings);
  enum txb_rc rc = open_connection(&w, err);
  process_fini(&w);
  return rc;
}
