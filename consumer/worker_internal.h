/* What the files of the worker process share: worker.c (the loop), assignment.c (Kafka and the core), operation.c (one
 * database operation at a time), position.c (positions, markers, stalls), keys.c (held keys), batch.c (a batch into a
 * transaction), isolated.c (chunks under savepoints), aside.c (a batch run again so), retry.c (failed messages tried
 * again so), apply.c (messages as parameters), message.c (a record as PostgreSQL gets it), handler_sql.c and
 * handler_plugin.c (what is called), watchdog.c (calls that hang), decisions.c (jobs about failed messages),
 * inbox_upkeep.c.
 *
 * Nothing here outlives the process, and nothing must: see worker.h.
 */
#ifndef TXB_CONSUMER_WORKER_INTERNAL_H
#define TXB_CONSUMER_WORKER_INTERNAL_H

#include "common/backoff.h"
#include "common/event.h"
#include "common/kafka_consumer.h"
#include "common/pg.h"
#include "consumer/failed_core.h"
#include "consumer/failure_class.h"
#include "consumer/held_keys.h"
#include "consumer/isolate_core.h"
#include "consumer/lanes.h"
#include "consumer/watchdog.h"
#include "consumer/worker.h"
#include "consumer/worker_core.h"

enum { TXB_OPERATION_RESULTS = 16 };

/* The partition behind a slot of the core. */
struct txb_worker_place {
  bool used;
  char *topic;
  int32_t partition;        /* below 0: -lane, of a replay */
  int64_t run;              /* under which the inbox takes its messages (J2): 0, or a forced replay's job */
  uint32_t serial;          /* tells answers of Kafka about an older assignment apart */
  struct txb_lane *lane;    /* what a replay's is beside that; NULL: a partition of Kafka's */
  bool copies;              /* a lane whose messages go to a topic, and to no handler of the group */
  bool giving_back;         /* part of the REVOKED or LOST notice at hand */
  struct txb_error error;   /* what went wrong with it last: for its stall record and the log */
  const char *told_problem; /* of a foreign message, for the log; static storage */
  char outcome[16];         /* likewise: error, refuse, retry, dead, crash, held_limit */
  const char *error_class;  /* likewise, as in txb.failed; static storage; NULL: nothing went wrong yet */
  enum txb_failure_class failure_class;

  struct txb_held_keys keys;   /* of this partition; only this worker adds to it, or its version changes */
  int64_t keys_version;        /* that it belongs to */
  uint32_t keys_change;        /* how often it changed: a batch made ahead goes by it */
  int64_t held, group_held;    /* held messages, here and in the whole group, when it was told last */
  struct txb_pg_result *retry; /* the failed messages under the marker; NULL: none */
};

/* Where messages come from: a batch of records, or rows of txb.failed that are tried again. */
struct txb_worker_source {
  const struct txb_worker_batch *batch;
  const struct txb_pg_result *rows;
};

/* A message as handlers and txb.failed get it. Borrowed from its source. */
struct txb_worker_item {
  struct txb_uuid id;
  int64_t offset, time_us;
  struct txb_slice source, key, type, payload, content_type;
  bool is_command; /* it fails alone, and nothing waits behind it (S1) */
};
/* The key that later messages wait behind; absent: none. */
static inline struct txb_slice txb_worker_held_key(const struct txb_worker_item *item) {
  return item->is_command ? txb_slice_of(NULL, 0) : item->key;
}

/* What becomes of a message that is not applied. */
struct txb_worker_aside {
  uint32_t index; /* in its source */
  enum { TXB_ASIDE_RETRYING, TXB_ASIDE_HELD, TXB_ASIDE_DEAD } state;
  bool holds; /* later messages of its key wait */
  int64_t delay_ms;
  const char *error_class, *sqlstate, *error; /* NULL: none; borrowed */
};

/* Why a handler's message, or a whole statement, failed. */
struct txb_worker_verdict {
  int32_t at;       /* index in the source; -1: unknown */
  bool put_off;     /* nobody's fault: the process has something else to do */
  int64_t after_ms; /* the handler's wish; 0: none */
  char outcome[16]; /* error, refuse, retry, dead */
  struct txb_error why;
};

/* A fetched record: what the core's ref points to. Who keeps its bytes: Kafka's client (kafka), or, of a lane's, a page, or
 * the message itself (neither). */
struct txb_worker_message {
  void *kafka;
  struct txb_lane_page *page;
  struct txb_record record; /* headers not filled in */
  struct txb_event event;
  struct txb_slice headers; /* of a lane's: as JSON; absent: none */
};

/* A batch as it goes to the server: statements' parameters, made while the one before it still runs there. */
struct txb_worker_batch {
  int slot;
  uint32_t serial;
  int32_t base; /* records of the slot that stand before it */
  int64_t first_offset;
  int32_t asked, count, candidates; /* records of the action; of those, what the limits on held messages leave */
  bool planted;                     /* a planted bug changed it */
  uint32_t keys_change;             /* of the place, when it was made */
  struct txb_worker_aside *aside;   /* messages of held keys, or all that an isolated run sets aside */
  int32_t aside_count;
  struct txb_pg_params add;   /* of txb.failed_add, when there are any */
  struct txb_pg_params apply; /* of the handler's statement, or the ids alone (plugins) */
  uint32_t *order, *wanted;   /* room for count: see txb_batch_candidates; indexes of the candidates in offset order */
  bool *first;
  struct txb_uuid *ids;
  size_t room;
};

/* Operations that are about no partition that the core knows. */
enum txb_worker_side {
  TXB_SIDE_INBOX = 0, /* its upkeep */
  TXB_SIDE_LANES,
  TXB_SIDE_DECISIONS
};

/* The database operation under way. */
struct txb_worker_operation {
  bool active;
  struct txb_worker_action action; /* kind TXB_WA_NONE: what `side` says */
  enum txb_worker_side side;
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
  int add_answer;    /* and which is that of txb.failed_add, -1: none */
  int failed_answer; /* which failed first */
  int called;        /* plugin: calls so far */
  bool own;          /* of the tail of the transaction, only COMMIT runs what is the handler's */
};

/* A message that failed in an isolated run. */
struct txb_worker_failure {
  uint32_t candidate;
  enum txb_failure_class class;
  int64_t after_ms;        /* the handler's wish; 0: none */
  const char *error_class; /* static storage */
  char sqlstate[6];
  size_t error_at; /* in `texts`, ended by a NUL */
};

/* A run in chunks under savepoints: isolated.c. */
struct txb_worker_isolated {
  struct txb_isolate core;
  struct txb_worker_source source;
  uint32_t *candidates; /* indexes in the source */
  uint32_t *chunk;      /* likewise, of the chunk under way */
  int32_t chunk_count;
  int32_t alone;    /* the candidate, when it is one; else -1 */
  bool open, fine;  /* there is a savepoint; its chunk went well */
  int first_answer; /* of the chunk's own statements, in the phase under way */
  int64_t applied;
  bool put_off;             /* the process has something else to do: all of it is rolled back */
  enum txb_failure trouble; /* why it ended early */
  struct txb_worker_failure *failures;
  int32_t failure_count;
  struct txb_buffer texts;
  struct txb_pg_params apply;
  uint32_t *segment; /* room of the core */
  struct txb_isolate_item *items;
  struct txb_slice *keys;
  uint8_t *blocked;
  size_t room;
};

/* What becomes of a row that is tried again. Texts are borrowed until its COMMIT is answered: constants, those of
 * `isolated`, or of `condemned`. */
struct txb_worker_retry_verdict {
  const char *verdict, *error_class, *sqlstate, *error;
  int64_t delay_ms;
  int32_t attempts; /* with this one, if it failed */
};

/* The retry under way: retry.c. */
struct txb_worker_retry {
  bool *known;       /* by row: applied already */
  int32_t *first_of; /* the row that has the same id and comes first */
  uint32_t *which;   /* the rows to be run */
  struct txb_uuid *ids;
  uint32_t *order; /* the rows by id */
  bool *first;     /* of those that have its id */
  struct txb_worker_retry_verdict *verdicts;
  size_t room;
  int32_t settled, failed; /* rows that are done with when it commits; those that failed once more */
};

/* What is known of jobs about failed messages: decisions.c. */
struct txb_decisions {
  bool wanted;    /* there is one, as far as this worker knows */
  int64_t due_us; /* its next step, not before */
};

/* The phases of operations that take several round trips. */
enum txb_worker_phase {
  TXB_PHASE_COMMIT = 0, /* everything up to COMMIT is on its way */
  TXB_PHASE_OPEN,       /* plugins: opened, the inbox asked */
  TXB_PHASE_ROLLBACK,
  TXB_PHASE_PLANTED,
  TXB_PHASE_CHUNK, /* an isolated run */
};

struct txb_worker_process_state {
  const struct txb_worker_settings *settings;
  struct txb_worker_core core;
  struct txb_kafka_consumer *kafka; /* NULL: the group is not joined yet */
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
  struct txb_worker_isolated isolated;
  struct txb_worker_retry retry;
  struct txb_error condemned; /* why the message under way is set aside without being run; places move meanwhile */
  int64_t told_unsettled_us;  /* when the log was told last that what became of a failed message can't be stored */
  int64_t told_aside_us; /* when the log was told last that messages were set aside, and how many have been since */
  int64_t untold_aside;

  struct txb_pg_statement apply, copy; /* handler_sql.c: the statements with a function's name in them */
  char *apply_sql, *copy_sql;
  bool handler_checked;
  void *library; /* handler_plugin.c */
  const struct txb_plugin *plugin;
  void *plugin_context;
  bool plugin_open;
  void *engine_context; /* handler_engine.c */
  bool engine_open;
  bool serves_commands; /* it has met one: the barrier needs its days */
  bool published;       /* the transaction under way has, as far as is known: the relay need not find it by chance */
  struct txb_watchdog *watchdog; /* NULL: a plugin's calls may take as long as they like */

  struct txb_lanes lanes;
  struct txb_decisions decisions;
  int64_t upkeep_us;     /* when the inbox is looked after next */
  bool upkeep_soon;      /* something of it was put off */
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

/* Joins Kafka's group: no replay is to come first. */
enum txb_rc txb_worker_join(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;

/* ---- assignment.c ---- */
/* A slot of the core and the place behind it; lane: NULL, or the place's from now on. */
enum txb_rc txb_worker_add_place(txb_worker_t *w, const char *topic, int32_t partition, struct txb_lane *lane,
                                 int *slot_out, struct txb_error *err) TXB_MUST_CHECK;
void txb_worker_remove_place(struct txb_worker_place *place);
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
/* What is malformed in a message: told once, not for each one of a producer that does it wrong. */
void txb_worker_tell_problem(struct txb_worker_place *place, const struct txb_worker_message *m);

/* ---- operation.c ---- */
bool txb_worker_is_database_action(enum txb_worker_action_kind kind);
/* Sends it. TXB_RETRY: the connection is gone. */
enum txb_rc txb_worker_operation_begin(txb_worker_t *w, const struct txb_worker_action *action,
                                       struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_worker_operation_begin_side(txb_worker_t *w, enum txb_worker_side side,
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
    txb_worker_rollback_statement, txb_worker_inbox_statement;

/* After COMMIT: tells the relay of this process, if there is something for it. */
void txb_worker_nudge(txb_worker_t *w);

/* ---- position.c: LOOKUP, START, TAKE, EVICT, KEYS, MARK, STALL, RELEASE ---- */
/* A statement in a transaction of its own failed. */
enum txb_rc txb_worker_position_failed(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_worker_position_begin(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_worker_position_end(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;

/* ---- keys.c: KEYS, and what this worker changes of them itself ---- */
enum txb_rc txb_worker_keys_end(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
/* After COMMIT: what was set aside holds its keys from now on. */
enum txb_rc txb_worker_keys_added(txb_worker_t *w, const struct txb_worker_batch *b,
                                  struct txb_error *err) TXB_MUST_CHECK;
/* Takes in the rows of txb.failed_left: the keys that are free, and what is held. Returns when the next message is due;
 * -1: none. */
int64_t txb_worker_keys_left(txb_worker_t *w, const struct txb_pg_result *left);
void txb_worker_keys_forget(struct txb_worker_place *place);

/* ---- batch.c: RUN ---- */
enum txb_rc txb_worker_batch_begin(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_worker_batch_end(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
/* While the server works: makes the batch that comes after it. */
enum txb_rc txb_worker_batch_ahead(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
void txb_worker_batches_fini(txb_worker_t *w);
/* What handles the messages of a replay that go to a topic. */
#define TXB_COPY_FUNCTION "txb.job_republish"
/* Whether the messages of a slot are handled by a statement: by the group's SQL handler, or by the one that copies. */
bool txb_worker_is_sql(const txb_worker_t *w, int slot);
/* That statement. */
const struct txb_pg_statement *txb_worker_apply_statement(const txb_worker_t *w, int slot);
/* The handler's name, for txb.failed. */
const char *txb_worker_handler_name(const txb_worker_t *w, int slot);
/* How long a statement of the handler may take: one more parameter. A callback's take as long as the application likes. */
void txb_worker_params_timeout(txb_worker_t *w);
/* BEGIN and batch_open, for the records that b has. */
enum txb_rc txb_worker_batch_open(txb_worker_t *w, const struct txb_worker_batch *b,
                                  struct txb_error *err) TXB_MUST_CHECK;
/* What goes aside, if anything. */
enum txb_rc txb_worker_batch_add(txb_worker_t *w, const struct txb_worker_batch *b,
                                 struct txb_error *err) TXB_MUST_CHECK;
/* The tail of the transaction: batch_close (applied -1: as counted by the apply statement) and COMMIT. */
enum txb_rc txb_worker_batch_close(txb_worker_t *w, const struct txb_worker_batch *b, int64_t applied,
                                   struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_worker_commit(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
/* RESET SESSION AUTHORIZATION (and so the role), and RESET ALL. */
enum txb_rc txb_worker_reset_role(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_worker_reset_settings(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_worker_batch_rollback(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;

/* ---- failure.c: what an error means ---- */
/* Whether the connection is to be given up for it. */
bool txb_worker_is_away(const txb_worker_t *w, const struct txb_error *error);
/* What the server said about a handler's statement. */
void txb_worker_verdict_of(const txb_worker_t *w, const struct txb_worker_source *source, const struct txb_error *error,
                           struct txb_worker_verdict *out);
struct txb_failure_meaning txb_worker_meaning(const txb_worker_t *w, const struct txb_worker_verdict *v);
/* Tells the core with w->verdict, once all is rolled back. */
void txb_worker_blame(txb_worker_t *w, const struct txb_worker_verdict *v);
/* A RUN or RETRY failed: rolls back, or gives the connection up. */
enum txb_rc txb_worker_failed(txb_worker_t *w, const struct txb_worker_source *source,
                              struct txb_error *err) TXB_MUST_CHECK;
/* What txb.failed says of a message that died twice, alone (W10). */
const char *txb_worker_died(const txb_worker_t *w);
struct txb_failed_policy txb_worker_policy(const txb_worker_t *w);
/* A line in the log about a message that was set aside, or one a second about many. */
void txb_worker_tell_aside(txb_worker_t *w, const struct txb_worker_item *item, const char *state, int32_t attempt,
                           const char *error_class, const char *error);
/* The same about a retry whose outcome can't be stored: its dead letter is refused, say. That is not the message's fault;
 * it waits, and its key with it. */
void txb_worker_tell_unsettled(txb_worker_t *w, const struct txb_worker_place *place);

/* ---- isolated.c ---- */
void txb_worker_isolated_init(struct txb_worker_isolated *o);
void txb_worker_isolated_fini(struct txb_worker_isolated *o);
/* `which`: the candidates, as indexes of the source; culprit: one of them (its place in `which`) that is known to fail,
 * or -1. */
enum txb_rc txb_worker_isolated_begin(txb_worker_t *w, const struct txb_worker_source *source, const uint32_t *which,
                                      int32_t n, int32_t culprit, struct txb_error *err) TXB_MUST_CHECK;
/* Sends the end of the last chunk, the next one and a sync; *done_out: there is none, and no sync either. */
enum txb_rc txb_worker_isolated_next(txb_worker_t *w, bool *done_out, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_worker_isolated_end_chunk(txb_worker_t *w, bool last, struct txb_error *err) TXB_MUST_CHECK;
/* What came of the chunk. TXB_RETRY: the connection is to be given up. */
enum txb_rc txb_worker_isolated_answer(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
/* Why a candidate failed; NULL: it did not, alone. */
const struct txb_worker_failure *txb_worker_isolated_failure(const struct txb_worker_isolated *o, uint32_t candidate);
const char *txb_worker_isolated_error(const struct txb_worker_isolated *o, const struct txb_worker_failure *f);

/* ---- aside.c: a batch run again in chunks, or set aside unrun ---- */
enum txb_rc txb_worker_aside_begin(txb_worker_t *w, struct txb_worker_batch *b, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_worker_aside_end(txb_worker_t *w, struct txb_worker_batch *b, struct txb_error *err) TXB_MUST_CHECK;

/* ---- retry.c: RETRY_MARK, RETRY, CONDEMN ---- */
enum txb_rc txb_worker_retry_begin(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_worker_retry_end(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
void txb_worker_retry_fini(txb_worker_t *w);

/* ---- apply.c: messages as parameters ---- */
void txb_worker_item_of(const txb_worker_t *w, const struct txb_worker_source *s, uint32_t i,
                        struct txb_worker_item *out);
/* The run (J2) of all of them. */
int64_t txb_worker_run_of(const txb_worker_t *w, const struct txb_worker_source *s);
/* The attempt that it is at now. */
int32_t txb_worker_attempt_of(const struct txb_worker_source *s, uint32_t i);
/* The headers as JSON; lives until w->text is used again. */
enum txb_rc txb_worker_item_headers(txb_worker_t *w, const struct txb_worker_source *s, uint32_t i,
                                    struct txb_slice *out, struct txb_error *err) TXB_MUST_CHECK;
/* The ids of those messages, sorted: one parameter. */
enum txb_rc txb_worker_apply_ids(txb_worker_t *w, const struct txb_worker_source *s, const uint32_t *which, int32_t n,
                                 struct txb_pg_params *p, struct txb_error *err) TXB_MUST_CHECK;
/* $6 and all behind it of worker_apply_message.sql and worker_apply_batch.sql. */
enum txb_rc txb_worker_apply_columns(txb_worker_t *w, const struct txb_worker_source *s, const uint32_t *which,
                                     int32_t n, struct txb_pg_params *p, struct txb_error *err) TXB_MUST_CHECK;
/* All of worker_failed_add.sql. */
enum txb_rc txb_worker_aside_params(txb_worker_t *w, const struct txb_worker_source *s,
                                    const struct txb_worker_aside *a, int32_t n, struct txb_pg_params *p,
                                    struct txb_error *err) TXB_MUST_CHECK;
/* Text as PostgreSQL takes it: what is not UTF-8 becomes a question mark. Borrowed from `text` or `scratch`. */
struct txb_slice txb_worker_safe_text(struct txb_slice text, struct txb_buffer *scratch);
void txb_worker_sort_ids(struct txb_uuid *ids, size_t n);

/* ---- message.c ---- */
enum txb_rc txb_worker_message_new(void *kafka, const struct txb_record *record, struct txb_worker_message **out,
                                   struct txb_error *err) TXB_MUST_CHECK;
/* A message with bytes of its own, but for the topic's name. record->headers must be filled in; *size_out: what it holds. To
 * be freed by txb_free. */
enum txb_rc txb_worker_message_copy(const struct txb_record *record, const struct txb_event *event,
                                    struct txb_buffer *scratch, struct txb_worker_message **out, int64_t *size_out,
                                    struct txb_error *err) TXB_MUST_CHECK;
/* The headers that are not told elsewhere, as a JSON object, added to `out`. record->headers must be filled in. */
void txb_worker_headers_json(const struct txb_record *record, const struct txb_event *event, struct txb_buffer *out);

/* ---- handler_sql.c ---- */
/* Looks the function up and makes the apply statement. TXB_REFUSED: it is not there or does not fit; the message says
 * what to do. */
enum txb_rc txb_worker_handler_sql_open(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
/* Makes the statement that writes a replay's messages to a topic, whatever the group's handler is. */
enum txb_rc txb_worker_copy_open(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;

struct txb_fresh_ids;
/* ---- handler_engine.c ---- */
enum txb_rc txb_worker_handler_engine_open(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_worker_handler_engine_connected(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
void txb_worker_handler_engine_close(txb_worker_t *w);
/* As txb_worker_handler_plugin_run, which is called for every handler that is not SQL. */
enum txb_rc txb_worker_handler_engine_run(txb_worker_t *w, const struct txb_worker_source *source,
                                          const uint32_t *which, int32_t n, const struct txb_fresh_ids *fresh,
                                          int64_t *applied_out, struct txb_worker_verdict *out,
                                          struct txb_error *err) TXB_MUST_CHECK;

/* ---- command.c: commands of plugins and callbacks ---- */
/* What the barrier says about one. */
struct txb_worker_command {
  struct txb_pg_result *entered;
  bool runs; /* its handler is to be called, under a savepoint that is set; else its answer is known */
  struct txb_slice
      output; /* a compensation's: of its action, JSON text; else of the answer; absent: none. Of `entered` */
};
/* All of these run statements and wait for them, on a connection that is in no pipeline. headers: of the message, JSON. */
enum txb_rc txb_worker_command_enter(txb_worker_t *w, struct txb_slice headers, struct txb_worker_command *out,
                                     struct txb_error *err) TXB_MUST_CHECK;
void txb_worker_command_fini(struct txb_worker_command *command);
/* It does not run. */
enum txb_rc txb_worker_command_known(txb_worker_t *w, const struct txb_worker_item *item, struct txb_slice headers,
                                     const struct txb_worker_command *command, struct txb_error *err) TXB_MUST_CHECK;
/* Its handler answered ok, and gave that (JSON text; absent: nothing). What is too large for an answer is refused. */
enum txb_rc txb_worker_command_done(txb_worker_t *w, const struct txb_worker_item *item, struct txb_slice headers,
                                    struct txb_slice output, struct txb_error *err) TXB_MUST_CHECK;
/* Its handler refused: what it wrote is undone. */
enum txb_rc txb_worker_command_refused(txb_worker_t *w, const struct txb_worker_item *item, struct txb_slice headers,
                                       struct txb_slice reason, struct txb_error *err) TXB_MUST_CHECK;

/* ---- handler_plugin.c: plugins and callbacks ---- */
/* What the inbox took, sorted: only that is handled. */
struct txb_fresh_ids {
  struct txb_uuid *ids;
  size_t count;
};
bool txb_fresh_ids_has(const struct txb_fresh_ids *fresh, const struct txb_uuid *id);

enum txb_rc txb_worker_handler_plugin_open(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
void txb_worker_handler_plugin_close(txb_worker_t *w);
/* Calls the handler for those of the messages that the inbox took (`result`, ids), on the connection's open transaction.
 *   TXB_OK      all ok; *applied_out
 *   TXB_POISON  one was not, and *out says which and why: to be rolled back
 *   TXB_RETRY   the connection is gone or unusable */
enum txb_rc txb_worker_handler_plugin_run(txb_worker_t *w, const struct txb_worker_source *source,
                                          const uint32_t *which, int32_t n, const struct txb_pg_result *result,
                                          int64_t *applied_out, struct txb_worker_verdict *out,
                                          struct txb_error *err) TXB_MUST_CHECK;
/* What a plugin may have changed of the session is set back (W11): in its transaction, so that batch_close runs as the
 * worker again, and after a rollback. */
enum txb_rc txb_worker_handler_plugin_reset(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;

/* ---- decisions.c: steps of jobs about failed messages ---- */
/* The claim of lanes met such a job. */
void txb_decisions_wanted(txb_worker_t *w);
/* When (steady clock) the next step may be run, INT64_MAX: there is none. */
int64_t txb_decisions_due_us(const txb_worker_t *w);
enum txb_rc txb_decisions_begin(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_decisions_end(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;

/* ---- inbox_upkeep.c ---- */
enum txb_rc txb_worker_upkeep_begin(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_worker_upkeep_end(txb_worker_t *w, struct txb_error *err) TXB_MUST_CHECK;
/* A batch has commands, whose answers it publishes: from the first one on the barrier's days are looked after. */
void txb_worker_serves_commands(txb_worker_t *w);

#endif
