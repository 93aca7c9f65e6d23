/* The public txb_worker_*: the worker process in an application's thread, with its own handler. See
 * txbroker/consumer.h. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/memory.h"
#include "common/pg.h"
#include "consumer/worker.h"

#define PROBE_MS 5000

struct txb_worker {
  struct txb_worker_settings settings;
  int stop_fd;
  pid_t pid; /* a forked child has the same event descriptor, and must not stop its parent's worker */
  struct txb_log_outlet log;
  char *strings[4];                    /* group, database, brokers, dead-letter topic */
  char **topics, **options, **sources; /* NULL-ended copies */
  struct txb_worker_outbox *outboxes;  /* made of sources */
  char owner[80];
};

static enum txb_rc copy_list(const char *const *list, char ***out, struct txb_error *err) {
  size_t count = 0;
  void *memory = NULL;
  while (list != NULL && list[count] != NULL)
    count++;
  TXB_TRY(txb_alloc_array(count + 1, sizeof **out, &memory, err));
  *out = memory; /* zeroed: ended by NULL at any time */
  for (size_t i = 0; i < count; i++)
    TXB_TRY(txb_strdup(list[i], &(*out)[i], err));
  return TXB_OK;
}

static void free_list(char **list) {
  for (size_t i = 0; list != NULL && list[i] != NULL; i++)
    txb_free(list[i]);
  txb_free(list);
}

void txb_worker_free(struct txb_worker *worker) {
  if (worker == NULL)
    return;
  if (worker->stop_fd >= 0)
    close(worker->stop_fd);
  for (size_t i = 0; i < TXB_ARRAY_SIZE(worker->strings); i++)
    txb_free(worker->strings[i]);
  free_list(worker->topics);
  free_list(worker->options);
  free_list(worker->sources);
  txb_free(worker->outboxes);
  txb_free(worker);
}

static void free_ptr(struct txb_worker **worker) {
  txb_worker_free(*worker);
}

static int given_or(int value, int otherwise) {
  return value != 0 ? value : otherwise;
}

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

/* Whether the caller was compiled with these at the end of its options. */
#define KNOWS(o, field) ((o)->struct_size >= offsetof(struct txb_worker_options, field) + sizeof(o)->field)

static bool knows_log(const struct txb_worker_options *o) {
  return KNOWS(o, log_level);
}

static enum txb_rc check(const struct txb_worker_options *o, txb_handler_fn handler, struct txb_worker **out,
                         struct txb_error *err) {
  if (o == NULL || out == NULL)
    return REFUSE(err, "txb_worker_new needs options and a place for the worker");
  size_t needed = offsetof(struct txb_worker_options, retry_cap_ms) + sizeof o->retry_cap_ms;
  if (o->struct_size < needed)
    return REFUSE(err, "txb_worker_options.struct_size is %zu: set it to sizeof(struct txb_worker_options)",
                  o->struct_size);
  if (handler == NULL)
    return REFUSE(err, "a worker needs a handler");
  if (o->group == NULL || o->topics == NULL || o->database == NULL || o->brokers == NULL)
    return REFUSE(err, "a worker needs group, topics, database and brokers");
  if (o->start != TXB_START_EARLIEST && o->start != TXB_START_LATEST && o->start != TXB_START_ERROR)
    return REFUSE(err, "txb_worker_options.start is %d, which is none of enum txb_start", (int)o->start);
  if (KNOWS(o, held_per_group_max) && o->retry_on_dead != TXB_ON_DEAD_HOLD && o->retry_on_dead != TXB_ON_DEAD_RELEASE)
    return REFUSE(err, "txb_worker_options.retry_on_dead is %d, which is none of enum txb_on_dead",
                  (int)o->retry_on_dead);
  if (knows_log(o) && ((int)o->log_level < 0 || o->log_level > TXB_LOG_NONE))
    return REFUSE(err, "txb_worker_options.log_level is %d, which is none of enum txb_log_level", (int)o->log_level);
  return TXB_OK;
}

static void take_failure_options(const struct txb_worker_options *o, struct txb_worker_settings *s) {
  if (!KNOWS(o, held_per_group_max))
    return;
  s->retry_factor = given_or(o->retry_factor, s->retry_factor);
  s->retry_attempts_max = given_or(o->retry_attempts_max, s->retry_attempts_max);
  s->retry_on_dead = o->retry_on_dead;
  s->held_per_key_max = o->held_per_key_max != 0 ? o->held_per_key_max : s->held_per_key_max;
  s->held_per_group_max = o->held_per_group_max != 0 ? o->held_per_group_max : s->held_per_group_max;
}

static enum txb_rc take_sources(struct txb_worker *worker, const struct txb_worker_options *o, struct txb_error *err) {
  size_t count = 0;
  void *memory = NULL;
  if (!KNOWS(o, sources) || o->sources == NULL)
    return TXB_OK;
  TXB_TRY(copy_list(o->sources, &worker->sources, err));
  while (worker->sources[count] != NULL)
    count++;
  if (count % 2 != 0)
    return REFUSE(err, "txb_worker_options.sources ends with %s: a connection string must follow each name",
                  worker->sources[count - 1]);
  TXB_TRY(txb_alloc_array(count / 2 + 1, sizeof *worker->outboxes, &memory, err));
  worker->outboxes = memory;
  for (size_t i = 0; i < count / 2; i++)
    worker->outboxes[i] =
        (struct txb_worker_outbox){.source = worker->sources[2 * i], .database = worker->sources[2 * i + 1]};
  worker->settings.outboxes = worker->outboxes;
  worker->settings.outbox_count = count / 2;
  return TXB_OK;
}

static enum txb_rc copy(struct txb_worker *worker, const struct txb_worker_options *o, txb_handler_fn handler,
                        void *context, struct txb_error *err) {
  struct txb_worker_settings *s = &worker->settings;
  TXB_TRY(txb_strdup(o->group, &worker->strings[0], err));
  TXB_TRY(txb_strdup(o->database, &worker->strings[1], err));
  TXB_TRY(txb_strdup(o->brokers, &worker->strings[2], err));
  TXB_TRY(copy_list(o->topics, &worker->topics, err));
  TXB_TRY(copy_list(o->kafka_options, &worker->options, err));
  TXB_TRY(txb_wake_open(&worker->stop_fd, err));
  char host[48] = "";
  (void)gethostname(host, sizeof host - 1);
  worker->pid = getpid();
  snprintf(worker->owner, sizeof worker->owner, "%s/%ld", host, (long)worker->pid);
  worker->log = (struct txb_log_outlet){.level = TXB_LOG_INFO};
  if (knows_log(o)) {
    worker->log.write = o->log;
    worker->log.context = o->log_context;
    worker->log.level = o->log_level != TXB_LOG_DEFAULT ? o->log_level : TXB_LOG_INFO;
  }
  txb_worker_settings_init(s);
  s->group = worker->strings[0];
  s->database = worker->strings[1];
  s->topics = (const char *const *)worker->topics;
  s->kafka = (struct txb_kafka_cluster){
      .brokers = worker->strings[2], .options = (const char *const *)worker->options, .client_id = "txbroker-worker"};
  s->owner = worker->owner;
  s->stop_fd = worker->stop_fd;
  s->start = o->start;
  s->handler = TXB_HANDLER_CALLBACK;
  s->callback = handler;
  s->callback_context = context;
  s->batch_messages = given_or(o->batch_messages, s->batch_messages);
  s->batch_bytes = given_or(o->batch_bytes, s->batch_bytes);
  s->batch_wait_ms = given_or(o->batch_wait_ms, s->batch_wait_ms);
  s->session_timeout_ms = given_or(o->session_timeout_ms, s->session_timeout_ms);
  s->retry_first_ms = o->retry_first_ms != 0 ? o->retry_first_ms : s->retry_first_ms;
  s->retry_cap_ms = o->retry_cap_ms != 0 ? o->retry_cap_ms : s->retry_cap_ms;
  take_failure_options(o, s);
  if (KNOWS(o, retry_dead_letter_topic) && o->retry_dead_letter_topic != NULL)
    TXB_TRY(txb_strdup(o->retry_dead_letter_topic, &worker->strings[3], err));
  s->retry_dead_letter_topic = worker->strings[3];
  s->inbox_keep_ms = KNOWS(o, inbox_keep_ms) && o->inbox_keep_ms != 0 ? o->inbox_keep_ms : s->inbox_keep_ms;
  s->failed_keep_ms = KNOWS(o, failed_keep_ms) && o->failed_keep_ms != 0 ? o->failed_keep_ms : s->failed_keep_ms;
  s->saga_keep_ms = KNOWS(o, saga_keep_ms) && o->saga_keep_ms != 0 ? o->saga_keep_ms : s->saga_keep_ms;
  return take_sources(worker, o, err);
}

static enum txb_rc ask_servers(const struct txb_worker_settings *s, struct txb_error *err) {
  TXB_CLEANUP(txb_free_ptr) char *cluster_id = NULL;
  TXB_TRY(txb_worker_database_check(s, err));
  return txb_kafka_probe(&s->kafka, PROBE_MS, &cluster_id, err);
}

enum txb_rc txb_worker_new(const struct txb_worker_options *options, txb_handler_fn handler, void *context,
                           struct txb_worker **out, struct txb_error *err) {
  TXB_CLEANUP(free_ptr) struct txb_worker *worker = NULL;
  struct txb_error local;
  void *memory = NULL;
  if (err == NULL)
    err = &local;
  TXB_TRY(check(options, handler, out, err));
  TXB_TRY(txb_alloc(sizeof *worker, &memory, err));
  worker = memory;
  worker->stop_fd = -1;
  TXB_TRY(copy(worker, options, handler, context, err));
  TXB_TRY(txb_worker_settings_check(&worker->settings, err));
  TXB_TRY(txb_kafka_options_check(worker->settings.kafka.options, err));
  const struct txb_log_outlet *old = txb_log_divert(&worker->log);
  enum txb_rc rc = ask_servers(&worker->settings, err);
  txb_log_divert(old);
  TXB_TRY(rc);
  *out = txb_steal(worker);
  return TXB_OK;
}

/* The loop reads the error that it goes on after: it always has one. */
enum txb_rc txb_worker_run(struct txb_worker *worker, struct txb_error *err) {
  struct txb_error local;
  const struct txb_log_outlet *old = txb_log_divert(&worker->log);
  enum txb_rc rc = txb_worker_process(&worker->settings, err != NULL ? err : &local);
  txb_log_divert(old);
  return rc;
}

void txb_worker_stop(struct txb_worker *worker) {
  if (worker != NULL && worker->pid == getpid())
    txb_wake_signal(worker->stop_fd);
}
