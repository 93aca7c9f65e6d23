/* Consuming: a worker that applies each Kafka message exactly once to a PostgreSQL database.
 *
 * The same worker that `txbroker worker` runs, for an application that brings its own handler, and the interface of plugin handlers. The handler gets
 * the connection of the delivery's transaction; what it writes there commits together with the message's deduplication and the offset, or not at all.
 */
#ifndef TXBROKER_CONSUMER_H
#define TXBROKER_CONSUMER_H

#include <libpq-fe.h>
#include <stdint.h>

#include "txbroker/error.h"
#include "txbroker/log.h"
#include "txbroker/slice.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A delivery. Everything is borrowed and valid until the handler returns. Slices: absent means null. */
struct txb_message {
  size_t struct_size; /* sizeof(struct txb_message) of the caller: fields may be added at the end */
  const char *id;     /* UUIDv7, 36 characters */
  struct txb_slice source, type, content_type;
  const char *topic;
  int32_t partition; /* of a replay below 0: no partition of Kafka */
  int64_t offset;    /* then the number of the intent in its source's outbox */
  int64_t time_us;   /* of the event, microseconds since 1970 */
  struct txb_slice key, payload;
  const char *headers_json; /* JSON object; a value that is not text is {"base64": "..."} */
  int32_t attempt;          /* 1 = first */
};

/* What a handler answers. */
enum txb_outcome {
  TXB_OUTCOME_OK = 0,
  TXB_OUTCOME_REFUSE, /* a business no, final */
  TXB_OUTCOME_RETRY,  /* not now */
  TXB_OUTCOME_DEAD,   /* never */
};

/* Where a handler puts its reason: copied up to 400 bytes. May be left alone. */
struct txb_answer {
  size_t struct_size;
  char reason[400];
  int64_t retry_after_ms; /* for RETRY; 0: by the policy */
  /* For OK, of a command: what goes back with the answer, JSON text ended by a NUL; NULL: nothing. The handler's own; it
   * must stay until the next call. */
  const char *output_json;
};

/* Applies one message on `conn`, inside a transaction that the worker began and will end: never BEGIN, COMMIT or ROLLBACK there (the worker refuses
 * the commit if you do), savepoints are fine. Called from the worker's thread, one at a time. */
typedef enum txb_outcome (*txb_handler_fn)(PGconn *conn, const struct txb_message *message, struct txb_answer *answer,
                                           void *context);

/* A plugin: a shared object that exports `const struct txb_plugin txb_plugin` (or another symbol named in the configuration). */
#define TXB_PLUGIN_ABI 1
struct txb_plugin {
  size_t struct_size; /* sizeof(struct txb_plugin) */
  uint32_t abi;       /* TXB_PLUGIN_ABI */
  const char *name;
  int (*open)(const char *argument, void **context); /* 0 = fine; may be NULL; argument comes from the configuration */
  txb_handler_fn handle;
  void (*close)(void *context); /* may be NULL */
};

/* What a partition without a stored position does, and one whose stored position Kafka no longer has. */
enum txb_start {
  TXB_START_EARLIEST =
      0, /* a new group reads the topic from its beginning; a lost position is an error that stops the partition */
  TXB_START_LATEST, /* a new group reads what comes from now on */
  TXB_START_ERROR,  /* a new group is refused: positions must exist */
};

/* What becomes of the later messages of a key whose message is dead. */
enum txb_on_dead {
  TXB_ON_DEAD_HOLD = 0, /* they wait until a person has decided about it */
  TXB_ON_DEAD_RELEASE,  /* they go on without it */
};

struct txb_worker_options {
  size_t struct_size;        /* sizeof(struct txb_worker_options) */
  const char *group;         /* 1 to 255 of [a-zA-Z0-9._-] */
  const char *const *topics; /* NULL-ended; names, never patterns: 1 to 249 of [a-zA-Z0-9._-] */
  const char *database;      /* libpq connection string; where effects, inbox and offsets live */
  const char *brokers;       /* "host:port,..." */
  const char *const
      *kafka_options; /* NULL, or name, value, name, value, ..., NULL: librdkafka options from the allow-list */
  enum txb_start start;
  /* The limits are those of the settings of `txbroker worker` (docs/reference-settings.md). */
  int batch_messages;                   /* 0: 1000; up to 100,000 */
  int batch_bytes;                      /* 0: 4 MiB; 1 KiB to 256 MiB */
  int batch_wait_ms;                    /* 0: 5; up to a minute: how long an incomplete batch may wait for more */
  int session_timeout_ms;               /* 0: 45000; 6 s to 30 min: how long a stopped member keeps its partitions */
  int64_t retry_first_ms, retry_cap_ms; /* 0: 200 and 60000; up to an hour and a day */
  int64_t
      inbox_keep_ms; /* 0: 14 days; an hour at least: how long applied ids are remembered, longer than the topics' retention */
  txb_log_fn log;               /* NULL: lines with time and level go to standard error */
  void *log_context;            /* must live as long as the worker */
  enum txb_log_level log_level; /* the least that is logged; 0: TXB_LOG_INFO */
  int retry_factor;             /* 0: 2; up to 10: each pause is so many times as long as the one before it */
  int retry_attempts_max;       /* 0: 8; up to 1000: a message that has failed so often is dead */
  enum txb_on_dead retry_on_dead;
  int64_t handler_timeout_ms; /* of no meaning here: a callback is not interrupted */
  int64_t held_per_key_max;   /* 0: 10,000; so many messages may wait behind a failed one of their key */
  int64_t held_per_group_max; /* 0: 100,000; the same for all keys of the group together */
  /* NULL, or name, connection string, name, connection string, ..., NULL: whose outboxes replay jobs into the group may read
   * here; jobs of other sources are left to other workers. */
  const char *const *sources;
  int64_t failed_keep_ms; /* 0: 30 days; an hour at least: how long failed messages that have ended are kept */
  /* NULL, or a topic, none of `topics`: what becomes dead is copied into it, through the outbox of `database`, which a
   * relay must serve. */
  const char *retry_dead_letter_topic;
  int64_t
      saga_keep_ms; /* 0: 30 days; an hour at least: how long what is known of sagas' commands is kept (txb.barrier) */
};

struct txb_worker;
/* Checks the options, connects to both servers, checks the schema. The options are copied. *out is the caller's; free with txb_worker_free. `context`
 * must live as long as txb_worker_run.
 *   TXB_REFUSED  an option is wrong, no permission, the schema is not this version's: change it
 *   TXB_RETRY    a server is unreachable: call again later
 *   TXB_FATAL    out of memory */
TXB_EXPORT enum txb_rc txb_worker_new(const struct txb_worker_options *options, txb_handler_fn handler, void *context,
                                      struct txb_worker **out, struct txb_error *err) TXB_MUST_CHECK;
/* Works until txb_worker_stop, in the calling thread, which the handler is called in; waits for servers that go away. One thread at a time; may be
 * called again after it failed.
 *   TXB_OK       stopped
 *   TXB_REFUSED  a right, a table or a setting is wrong (it may have become so while it ran): change it
 *   TXB_FATAL    out of memory, or librdkafka gave up: free the worker and make a new one
 *   TXB_RETRY, TXB_FENCED  librdkafka did not let it join or leave the group: call it again. Everything else of this kind it goes on after by itself
 * No other code. A message that is TXB_POISON is set aside, and the worker goes on.
 * Whatever it returns, what was committed stays, and everything else will be delivered again. */
TXB_EXPORT enum txb_rc txb_worker_run(struct txb_worker *worker, struct txb_error *err) TXB_MUST_CHECK;
/* Any thread, async-signal-safe: run gives its partitions back and returns. A handler's call that is under way can't be interrupted and is waited for;
 * the batch is rolled back behind it, and delivered again to whoever comes next. All else takes 25 s at the latest. Before run: run returns at once. It
 * stays stopped. NULL is allowed. In a child process forked after txb_worker_new it does nothing: the worker is its parent's. */
TXB_EXPORT void txb_worker_stop(struct txb_worker *worker);
/* After run has returned. NULL is allowed. */
TXB_EXPORT void txb_worker_free(struct txb_worker *worker);

#ifdef __cplusplus
}
#endif
#endif
