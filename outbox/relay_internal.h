/* What the files of the relay process share, and nobody else includes.
 *
 *   relay.c           from start to end: connect, take the lease, stand by, serve, give back
 *   relay_loop.c      serving: one step of the core after another, and the waiting between them
 *   relay_requests.c  the pipeline to PostgreSQL: what is under way, and its answers
 *   relay_poll.c      polls, listings, last looks
 *   relay_store.c     position, checkpoints, refused intents, what status shows
 *   relay_decisions.c what persons decide about failed messages
 *   relay_publish.c   rows to messages, reports, producers
 *   relay_origin.c    the headers of a copied message
 *   relay_watch.c     what would go wrong in silence
 *   relay_topics.c    numbers for topic names
 *   relay_partitions.c  partitions ahead and retention, on a thread and a connection of their own
 *
 * Everything that a crash must not lose is in txb.relay and its side tables; all of this may vanish at any line.
 */
#ifndef TXB_OUTBOX_RELAY_INTERNAL_H
#define TXB_OUTBOX_RELAY_INTERNAL_H

#include "common/backoff.h"
#include "common/kafka_producer.h"
#include "common/pg.h"
#include "outbox/relay.h"
#include "outbox/relay_core.h"

/* ---- relay_topics.c --------------------------------------------------------------------------------------------- */

struct txb_relay_topic_name {
  char *name;
  size_t size;
  struct txb_kafka_topic *handle; /* of the present producer, or NULL */
  bool told_held, told_there;     /* the log knows */
};
struct txb_relay_topics {
  struct txb_relay_topic_name *items;
  uint32_t count, capacity;
  uint32_t *slots; /* hash table of index + 1; a power of two */
  uint32_t slot_count;
  uint32_t last; /* the one found last: most rows have the topic of the row before */
};
void txb_relay_topics_fini(struct txb_relay_topics *topics);
/* The number of a name, given at its first use. */
enum txb_rc txb_relay_topics_number(struct txb_relay_topics *topics, struct txb_slice name, uint32_t *out,
                                    struct txb_error *err) TXB_MUST_CHECK;
/* The producer is gone, and its handles with it. */
void txb_relay_topics_drop_handles(struct txb_relay_topics *topics);

/* ---- results ---------------------------------------------------------------------------------------------------- */

/* A read's rows, kept until the last row of it is done: Kafka sends out of its memory. */
struct txb_relay_result {
  struct txb_pg_result *result;
  uint32_t refs;
};

/* ---- requests: what is under way to PostgreSQL, answered in order ----------------------------------------------- */

enum txb_relay_request_kind {
  TXB_REQUEST_POLL,
  TXB_REQUEST_FLUSHED, /* R8 */
  TXB_REQUEST_LIST,
  TXB_REQUEST_LOOK,
  TXB_REQUEST_CHECKPOINT,
  TXB_REQUEST_RENEW,  /* wanted by the core */
  TXB_REQUEST_STATUS, /* the same statement, for people */
  TXB_REQUEST_RECORD,
  TXB_REQUEST_DECIDE,
  TXB_REQUEST_DUE,
  TXB_REQUEST_MOVE,
  TXB_REQUEST_RELEASE,
};
struct txb_relay_request {
  enum txb_relay_request_kind kind;
  int64_t sent_us;
  int answers; /* statements answered so far */
};
#define TXB_RELAY_REQUESTS_MAX 32
#define TXB_RELAY_MOVE_ROWS    1000 /* scheduled intents moved at once */

struct txb_relay {
  const struct txb_relay_options *o;
  char event_source[300];
  struct txb_uuid instance;
  struct txb_relay_core core;
  struct txb_backoff retry; /* reconnecting */
  bool server_gone;         /* the log knows */
  char told_sqlstate[6];    /* what it was told last, or "" */
  /* PostgreSQL */
  struct txb_pg *pg;
  struct txb_pg_params params;
  int64_t epoch;
  struct txb_relay_request requests[TXB_RELAY_REQUESTS_MAX];
  size_t request_first, request_count;
  struct txb_pg_result *decisions; /* taken, not yet committed */
  bool settling;                   /* the checkpoint under way tells what became of some */
  bool status_out, due_out, move_out, move_more, releasing, release_out;
  int64_t status_us, due_us; /* when the last was sent */
  bool told;                 /* since the lease was taken */
  int64_t told_hole;         /* what txb.relay says; 0: nothing */
  char told_error[400];
  char kafka_error[400], watch_error[400]; /* what it should say: "" when all is well */
  bool told_waiting, told_holes;           /* the log knows */
  int64_t watch_us;
  /* a poll's answer as it comes */
  struct txb_relay_poll poll;
  struct txb_relay_answer answer;
  struct txb_relay_result *poll_results[3]; /* holes, drain, tail */
  struct txb_relay_row *rows[3];
  size_t rows_capacity[3];
  uint64_t *xip;
  size_t xip_capacity;
  char lsn[32];     /* R8: the poll's insert position, "" when not wanted */
  int64_t flush_us; /* R8: when to ask again; 0: nothing waits */
  struct txb_holder *holders;
  size_t holder_capacity;
  /* Kafka */
  struct txb_kafka_producer *producer;
  struct txb_relay_topics topics;
  uint64_t unsent;   /* a ticket that the client had no room for; UINT64_MAX: none */
  uint64_t released; /* tickets below it hold no result any more */
  bool replace;
  int64_t replace_us; /* not before */
  struct txb_backoff replacing;
  int64_t batch_bytes; /* 0: as configured; smaller after a batch was refused as a whole */
  struct txb_kafka_report *kafka_reports;
  struct txb_report *reports;
  struct txb_buffer scratch;
  int64_t time_second; /* the second that time_text shows */
  char time_text[28];
  /* the loop */
  bool probe;
  uint32_t probe_topic;
  bool stopping, idle, stopped;
  int64_t stop_until_us; /* 0: not stopping */
  int64_t wake_us;
};

/* ---- relay_loop.c ----------------------------------------------------------------------------------------------- */
/* Serves until the lease or the connection is lost (TXB_RETRY, TXB_FENCED), a stop is done (TXB_OK), or a person is
 * needed. */
enum txb_rc txb_relay_serve(struct txb_relay *r, struct txb_error *err) TXB_MUST_CHECK;
/* One event to the core, and what it then wants. */
enum txb_rc txb_relay_step(struct txb_relay *r, struct txb_relay_event *event, struct txb_error *err) TXB_MUST_CHECK;

/* ---- relay_requests.c ------------------------------------------------------------------------------------------- */
/* Queues the end of a request whose statements have been sent. */
enum txb_rc txb_relay_request_sent(struct txb_relay *r, enum txb_relay_request_kind kind,
                                   struct txb_error *err) TXB_MUST_CHECK;
/* Takes in one complete answer: TXB_AGAIN when there is none. */
enum txb_rc txb_relay_request_next(struct txb_relay *r, struct txb_error *err) TXB_MUST_CHECK;
void txb_relay_requests_drop(struct txb_relay *r);

/* ---- relay_poll.c ----------------------------------------------------------------------------------------------- */
enum txb_rc txb_relay_send_poll(struct txb_relay *r, const struct txb_relay_poll *poll,
                                struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_relay_send_list(struct txb_relay *r, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_relay_send_look(struct txb_relay *r, const struct txb_range *ranges, size_t count,
                                struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_relay_send_flushed(struct txb_relay *r, struct txb_error *err) TXB_MUST_CHECK;
/* A statement's answer; take_* own the result. */
enum txb_rc txb_relay_take_poll(struct txb_relay *r, int statement, struct txb_pg_result *taken,
                                struct txb_error *err) TXB_MUST_CHECK;
/* All of a poll is there: to the core, unless R8 makes it wait. */
enum txb_rc txb_relay_poll_done(struct txb_relay *r, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_relay_take_flushed(struct txb_relay *r, const struct txb_pg_result *result,
                                   struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_relay_take_list(struct txb_relay *r, const struct txb_pg_result *result,
                                struct txb_error *err) TXB_MUST_CHECK;
void txb_relay_poll_drop(struct txb_relay *r);
void txb_relay_result_unref(struct txb_relay_result *result);

/* ---- relay_store.c ---------------------------------------------------------------------------------------------- */
/* Takes the lease, reads the position, begins the pipeline and the core's work. TXB_AGAIN: another relay holds the
 * source. */
enum txb_rc txb_relay_acquire(struct txb_relay *r, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_relay_send_checkpoint(struct txb_relay *r, const struct txb_relay_checkpoint *c,
                                      struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_relay_send_renew(struct txb_relay *r, enum txb_relay_request_kind kind,
                                 struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_relay_send_record(struct txb_relay *r, uint64_t ticket, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_relay_send_due(struct txb_relay *r, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_relay_send_move(struct txb_relay *r, struct txb_error *err) TXB_MUST_CHECK;
/* How often a checkpoint is worth it, by the size of txb.relay. */
void txb_relay_choose_checkpoint(struct txb_relay *r, int64_t relation_bytes);
/* Whether txb.relay should be told something now. */
bool txb_relay_status_is_due(const struct txb_relay *r, int64_t now_us);
/* Gives the source back at an end; with a reason: marked as stopped by it. Whether that got through. */
bool txb_relay_release(struct txb_relay *r, const char *stopped_because);

/* $1 source, $2 epoch, $3 instance: what every write begins with. */
struct txb_pg_params *txb_relay_fenced_params(struct txb_relay *r);

/* ---- relay_decisions.c ------------------------------------------------------------------------------------------ */
enum txb_rc txb_relay_send_decide(struct txb_relay *r, struct txb_error *err) TXB_MUST_CHECK;
/* Owns the result. */
void txb_relay_take_decisions(struct txb_relay *r, struct txb_pg_result *taken);
/* They are committed: to the core. */
enum txb_rc txb_relay_decisions_done(struct txb_relay *r, struct txb_error *err) TXB_MUST_CHECK;
/* A poll's page of held keys, or of failed messages without a key. */
enum txb_rc txb_relay_send_keys_page(struct txb_relay *r, const struct txb_relay_poll *poll,
                                     struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_relay_send_loose_page(struct txb_relay *r, const struct txb_relay_poll *poll,
                                      struct txb_error *err) TXB_MUST_CHECK;
/* The part of a checkpoint's transaction that is about them, if there is one. */
enum txb_rc txb_relay_send_settle(struct txb_relay *r, const struct txb_relay_checkpoint *c,
                                  struct txb_error *err) TXB_MUST_CHECK;

/* ---- relay_watch.c ---------------------------------------------------------------------------------------------- */
void txb_relay_watch(struct txb_relay *r, int64_t now_us);

/* ---- relay_publish.c -------------------------------------------------------------------------------------------- */
enum txb_rc txb_relay_producer_open(struct txb_relay *r, struct txb_error *err) TXB_MUST_CHECK;
void txb_relay_producer_close(struct txb_relay *r);
/* New tickets were taken from these reads. */
void txb_relay_results_kept(struct txb_relay *r, uint64_t from);
void txb_relay_results_released(struct txb_relay *r, uint64_t to);
bool txb_relay_can_produce(const struct txb_relay *r);
/* Hands a slice of what waits over to Kafka. *more_out: some is left and can go. */
enum txb_rc txb_relay_produce(struct txb_relay *r, bool *more_out, struct txb_error *err) TXB_MUST_CHECK;
/* Reports to the core. *some_out: there were some. */
enum txb_rc txb_relay_reports(struct txb_relay *r, bool *some_out, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_relay_replace_producer(struct txb_relay *r, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_relay_probe(struct txb_relay *r, struct txb_error *err) TXB_MUST_CHECK;

/* ---- relay_partitions.c ----------------------------------------------------------------------------------------- */
struct txb_relay_partitions;
/* Starts the thread. It works only while it is told that the lease is held. */
enum txb_rc txb_relay_partitions_open(const struct txb_relay_options *o, struct txb_relay_partitions **out,
                                      struct txb_error *err) TXB_MUST_CHECK;
void txb_relay_partitions_hold(struct txb_relay_partitions *p, bool held);
void txb_relay_partitions_close(struct txb_relay_partitions *p);

#endif
