/* The worker process: Kafka to effects in one PostgreSQL database, on the calling thread, until stopped. The public
 * txb_worker_* wrap this.
 *
 * A crash at any line leaves: for each partition a committed next_offset with the effects, inbox rows and counters of
 * exactly the messages below it; whatever was under way rolls back with its connection.
 */
#ifndef TXB_CONSUMER_WORKER_H
#define TXB_CONSUMER_WORKER_H

#include "common/kafka.h"
#include "common/uuid.h"
#include "txbroker/consumer.h"

enum txb_handler_kind {
  TXB_HANDLER_SQL,
  TXB_HANDLER_SQL_BATCH,
  TXB_HANDLER_PLUGIN,
  TXB_HANDLER_CALLBACK,
  TXB_HANDLER_ENGINE,
};

/* A message as an engine gets it. Borrowed for the call. */
struct txb_engine_message {
  struct txb_uuid id;
  int32_t partition;
  int64_t offset, time_us;
  struct txb_slice key, type, payload; /* absent: none */
  struct txb_slice headers;            /* a JSON object */
};

struct txb_pg;
struct txb_worker_settings;

/* A handler of the program's own that takes a batch as a whole: sagas' coordinator. All functions are called on the
 * worker's thread; the connection is in a pipeline with nothing under way, and is to be left so. */
struct txb_engine {
  const char *name; /* for txb.failed */
  /* Once, before everything else. TXB_REFUSED: it can't work with these settings. */
  enum txb_rc (*open)(const struct txb_worker_settings *settings, void **context, struct txb_error *err);
  /* With every new connection, outside of a transaction and of a pipeline. */
  enum txb_rc (*connected)(void *context, struct txb_pg *pg, struct txb_error *err);
  /* Applies messages that are new, in the order of their partition, in the transaction that is open. TXB_RETRY: the
   * connection is gone; TXB_FATAL: no memory; anything else: all of it is undone, and done again in smaller pieces. */
  enum txb_rc (*apply)(void *context, struct txb_pg *pg, const struct txb_engine_message *messages, size_t count,
                       struct txb_error *err);
  const struct txb_pg_statement *upkeep; /* run once an hour in a transaction of its own; NULL: nothing */
  const struct txb_pg_statement
      *expire; /* likewise, of the group and saga_keep_ms; returns how much it dropped; NULL */
  void (*close)(void *context);
};

/* A source whose outbox replays of the group may read. */
struct txb_worker_outbox {
  const char *source, *database;
};

struct txb_worker_settings {
  const char *group;
  const char *const *topics; /* NULL-ended */
  const char *database;
  struct txb_kafka_cluster kafka;
  const char *owner; /* name of this worker in txb.consumer_offset */
  int stop_fd;
  enum txb_start start;
  enum txb_handler_kind handler;
  const char *function; /* SQL: "schema.name" or "name" */
  const char *plugin_path, *plugin_symbol, *plugin_argument;
  txb_handler_fn callback;
  void *callback_context;
  const struct txb_engine *engine;
  int nudge_fd; /* eventfd of the relay of this database in this process: signalled when commands were answered; -1: none */
  int batch_messages, batch_bytes, batch_wait_ms;
  int session_timeout_ms;
  int64_t retry_first_ms, retry_cap_ms;
  int retry_factor, retry_attempts_max;
  enum txb_on_dead retry_on_dead;
  const char *retry_dead_letter_topic; /* NULL: none */
  int64_t handler_timeout_ms;          /* of a statement of the handler, and of a plugin's call; 0: none */
  int64_t held_per_key_max, held_per_group_max;
  int64_t inbox_keep_ms;  /* how long ids are remembered; must exceed the topics' retention (doctor compares) */
  int64_t failed_keep_ms; /* how long failed messages that have ended are kept */
  int64_t
      saga_keep_ms; /* how long a coordinator keeps sagas that have ended, and a participant what it knows of them */
  const struct txb_worker_outbox *outboxes; /* a job of any other source is left to other workers */
  size_t outbox_count;
  bool exit_when_idle; /* tests and benchmarks: end once every assigned partition is applied to its end */
};
void txb_worker_settings_init(struct txb_worker_settings *settings);

/* Whether the settings make sense by themselves. TXB_REFUSED (TXB_ORIGIN_USAGE) names the wrong one. */
enum txb_rc txb_worker_settings_check(const struct txb_worker_settings *settings, struct txb_error *err) TXB_MUST_CHECK;
/* Whether the database is there, has the schema and the rights, and the handler can be called: what the process checks
 * before it joins the group. TXB_REFUSED: something must be changed, and the message says what. TXB_RETRY: unreachable,
 * or a standby. */
enum txb_rc txb_worker_database_check(const struct txb_worker_settings *settings, struct txb_error *err) TXB_MUST_CHECK;

/* Runs until stop_fd is signalled (TXB_OK) or something needs a person (TXB_REFUSED: unknown function, no permission,
 * wrong schema; TXB_FATAL). */
enum txb_rc txb_worker_process(const struct txb_worker_settings *settings, struct txb_error *err) TXB_MUST_CHECK;

#endif
