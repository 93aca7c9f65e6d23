/* What the files of the worker process share: worker.c (the loop), assignment.c (Kafka and the core), operation.c (one
 * database operation at a time), position.c (positions, markers, stalls), batch.c (a batch into a transaction),
 * message.c (a record as PostgreSQL gets it), handler_sql.c and handler_plugin.c (what is called), inbox_upkeep.c.
 *
 * Nothing here outlives the process, and nothing must: see worker.h.
 */
#ifndef TXB_CONSUMER_WORKER_INTERNAL_H
#define TXB_CONSUMER_WORKER_INTERNAL_H

#include "common/backoff.h"
#include "common/event.h"
#include "common/kafka_consumer.h"
#include "common/pg.h"
#include "consumer/worker.h"
#include "consumer/worker_core.h"

enum { TXB_OPERATION_RESULTS = 8 };

/* The partition behind a slot of the core. */
struct txb_worker_place {
  bool used;
  char *topic;
  int32_t partition;
  uint32_t serial;          /* tells answers of Kafka about an older assignment apart */
  bool giving_back;         /* part of the REVOKED or LOST notice at hand */
  struct txb_error error;   /* what went wrong with it last: for its stall record and the log */
  const char *told_problem; /* of a foreign message, for the log; static storage */
  char outcome[16];         /* likewise: error, refuse, retry, dead, crash */
};

/* A fetched record: what the core's ref points to. */
struct txb_worker_message {
  void *kafka;              /* keeps the bytes */
  struct txb_record record; /* headers not filled in */
  struct txb_event event;
};

/* A batch as it goes to the server: statements' parameters, made while the one before it still runs there. */
struct txb_worker_batch {
  int slot;
  uint32_t serial;
  int32_t base; /* records of the slot that stand before it */
  int64_t first_offset;
  int32_t count, candidates;
  bool planted;               /* a planted bug changed it */
  struct txb_pg_params apply; /* of the handler's statement, or the ids alone (plugins) */
  uint32_t *order, *wanted;   /* room for count: see txb_batch_candidates; indexes of the candidates in offset order */
  bool *first;
  struct txb_uuid *ids;
  size_t room;
};

/* The database operation under way. */
struct txb_worker_operation {
  bool active;
  struct txb_worker_action action; /* kind TXB_WA_NONE: upkeep of the inbox */
  int64_t began_us;
  bool told_slow;
  int phase; /* of those that take several round trips */
  int syncs; /* still to come */
  bool failed;
  struct txb_error error; /* the first */
  struct txb_pg_result *results[TXB_OPERATION_RESULTS];
  int answers;       /* so far, results and errors */
  int sent;          /* statements of this phase */
  int commit_answer; /* which of them is the COMMIT */
};

struct txb_worker_process_state {
  const struct txb_worker_settings *settings;
  struct txb_worker_core core;
  struct txb_kafka_consumer *kafka;
  struct txb_pg *pg;
  char name[120]; /* application_name */
  struct txb_uuid instance;
  struct txb_backoff reconnect;
  int64_t reconnect_us;       /* not before */
  struct txb_error told_away; /* what the log was told last of an outage */
  bool spoilt;                /* the handler left the connection unusable: the server is not to blame */
  int64_t look_us;            /* between a plugin's calls: when the loop's other work is due again */

  struct txb_worker_place *places; /* by slot of the core */
  size_t places_count;
  uint32_t serials;
  bool giving_back;         /* a REVOKED or LOST notice waits for its answer */
  int64_t give_back_due_us; /* then without the batch under way */

  struct txb_worker_operation operation;
  struct txb_pg_params params;
  struct txb_buffer text; /* scratch */
  struct txb_worker_batch batches[2];
  int running, prepared;           /* indexes: the batch on the server; the one made ahead, -1: none */
  struct txb_worker_event verdict; /* on the batch that is being rolled back */

  struct txb_pg_statement apply; /* handler_sql.c: the statement with the function's name in it */
  char *apply_sql;
  bool handler_checked;
  void *library; /* handler_plugin.c */
  const struct txb_plugin *plugin;
  void *plugin_context;
  bool plugin_open;

  int64_t upkeep_us;     /* when the inbox is looked after next */
  int64_t inbox_keep_ms; /* the longest wish of the database's groups */
  bool stopping, leaving, left;
  int64_t stop_deadline_us;
  int64_t consumed; /* since the start */
};
typedef struct txb_worker_process_state txb_worker_t;

/* ---- worker.c ---- */
struct txb_worker_event txb_worker_event_now(enum txb_worker_event_kind kind, int slot);
void txb_worker_step(txb_worker_t *w, const struct txb_worker_event *event);
/* The database did something for us: the pauses between attempts to connect begin small again. */
void txb_worker_connection_works(txb_worker_t *w);
/* Between two calls of a plugin's handler, which hold up the loop: takes in what Kafka has to tell. *end_out: the batch
 * is to be rolled back, for a stop or because the group does not wait any longer for its partitions. */
enum txb_rc txb_worker_between_calls(txb_worker_t *w, bool *end_out, struct txb_error *err) TXB_MUST_CHECK;
/* The connection is gone: everything is to be taken again once there is a new one. */
void txb_worker_connection_lost(txb_worker_t *w, const struct txb_error *why);

/* ---- assignment.c ---- */
/* Takes in what Kafka has to tell, up to a bound. *more_out: there may be more. */
enum txb_rc txb_worker_take_notices(txb_worker_t *w, bool *more_out, struct txb_error *err) TXB_MUST_CHECK;
/* Carries out an action that concerns Kafka or the log. */
enum txb_rc txb_worker_tell_kafka(txb_worker_t *w, const struct txb_worker_action *action,
                                  struct txb_error *err) TXB_MUST_CHECK;
/* What a call to the Kafka client came to: a failure that librdkafka tells is logged and no more, since it says that the
 * partition is not ours, or not any more, and its notice is on the way. Our own, no memory, ends the process. */
enum txb_rc txb_worker_only_fatal(enum txb_rc rc, const struct txb_error *error) TXB_MUST_CHECK;
void txb_worker_places_fini(txb_worker_t *w);
void txb_worker_drop_message(void *context, void *ref);

/* ---- operation.c ---- */
bool txb_worker_is_database_action(enum txb_worker_action_kind kind);
/* Sends it. TXB_RETRY: the connection is gone. */
enum txb_rc txb_worker_operation_begin(txb_worker_t *w, const struct txb_worker_action *action,
                                       struct txb_error *err) TXB_MUST_CHECK;
/* Takes in the answers that have come, and ends the operation when they are complete. TXB_RETRY: the connection is
 * gone. Else: the process must end. */
enum txb_rc txb_worker_operation_progress(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
void txb_worker_operation_clear(txb_worker_t *w);
/* One more statement, or sync, of the operation under way. */
enum txb_rc txb_worker_send(txb_worker_t *w, const struct txb_pg_statement *statement,
                            const struct txb_pg_params *params, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_worker_sync(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
/* Forgets the answers so far and goes to the next phase. */
void txb_worker_next_phase(txb_worker_t *w, int phase);
/* $1 group, $2 topic, $3 partition of the action's slot, in w->params. */
void txb_worker_params_place(txb_worker_t *w, const struct txb_worker_action *action);
extern const struct txb_pg_statement txb_worker_begin_statement, txb_worker_commit_statement,
    txb_worker_rollback_statement;

/* ---- position.c: LOOKUP, START, TAKE, EVICT, MARK, STALL, RELEASE ---- */
enum txb_rc txb_worker_position_begin(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_worker_position_end(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;

/* ---- batch.c: RUN ---- */
enum txb_rc txb_worker_batch_begin(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_worker_batch_end(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
/* While the server works: makes the batch that comes after it. */
enum txb_rc txb_worker_batch_ahead(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
void txb_worker_batches_fini(txb_worker_t *w);
/* The tail of the transaction: batch_close (applied -1: as counted by the apply statement) and COMMIT. */
enum txb_rc txb_worker_batch_close(txb_worker_t *w, int64_t applied, struct txb_error *err) TXB_MUST_CHECK;
/* RESET SESSION AUTHORIZATION (and so the role), and RESET ALL. */
enum txb_rc txb_worker_reset_role(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_worker_reset_settings(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_worker_batch_rollback(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
/* What a failed batch means to the core. */
void txb_worker_batch_blame(txb_worker_t *w, enum txb_failure failure, int at, int64_t after_ms, const char *outcome,
                            const struct txb_error *why);

/* ---- message.c ---- */
enum txb_rc txb_worker_message_new(void *kafka, const struct txb_record *record, struct txb_worker_message **out,
                                   struct txb_error *err) TXB_MUST_CHECK;
/* The headers that are not told elsewhere, as a JSON object, added to `out`. record->headers must be filled in. */
void txb_worker_headers_json(const struct txb_record *record, const struct txb_event *event, struct txb_buffer *out);

/* ---- handler_sql.c ---- */
/* Looks the function up and makes the apply statement. TXB_REFUSED: it is not there or does not fit; the message says
 * what to do. */
enum txb_rc txb_worker_handler_sql_open(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;

/* ---- handler_plugin.c: plugins and callbacks ---- */
enum txb_rc txb_worker_handler_plugin_open(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
void txb_worker_handler_plugin_close(txb_worker_t *w);
/* Calls the handler for those candidates of the batch that the inbox took (`fresh`, ids), on the connection's open
 * transaction. TXB_OK      all ok; *applied_out TXB_POISON  one was not: told to the core already
 * (txb_worker_batch_blame); the transaction is to be rolled back TXB_RETRY   the connection is gone or unusable */
enum txb_rc txb_worker_handler_plugin_run(txb_worker_t *w, struct txb_worker_batch *batch,
                                          const struct txb_pg_result *fresh, int64_t *applied_out,
                                          struct txb_error *err) TXB_MUST_CHECK;
/* What a plugin may have changed of the session is set back (W11): in its transaction, so that batch_close runs as the
 * worker again, and after a rollback. */
enum txb_rc txb_worker_handler_plugin_reset(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;

/* ---- inbox_upkeep.c ---- */
enum txb_rc txb_worker_upkeep_begin(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_worker_upkeep_end(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;

#endif
