/* What the coordinator's files share. */
#ifndef TXB_BROKER_COORDINATOR_COORDINATOR_INTERNAL_H
#define TXB_BROKER_COORDINATOR_COORDINATOR_INTERNAL_H

#include "broker/coordinator/coordinator.h"
#include "broker/saga/nested.h"
#include "common/pg.h"

/* ---- definitions.c: definitions that were met, by name and version; they never change ---- */
struct txb_definitions {
  struct txb_saga_definition **items; /* sorted by name and version */
  size_t count;
};
void txb_definitions_fini(struct txb_definitions *definitions);
/* NULL: it was not met yet. */
const struct txb_saga_definition *txb_definitions_find(const struct txb_definitions *definitions, const char *name,
                                                       int32_t version);
/* Reads it from the database, in the pipeline of an open transaction. TXB_REFUSED: it is not there, or this program can't
 * read it. */
enum txb_rc txb_definitions_load(struct txb_definitions *definitions, struct txb_pg *pg, const char *name,
                                 int32_t version, const struct txb_saga_definition **out,
                                 struct txb_error *err) TXB_MUST_CHECK;

/* ---- message.c: what a message says ---- */
enum txb_saga_message_kind {
  TXB_SAGA_MESSAGE_STRAY = 0, /* nothing that is meant for a coordinator */
  TXB_SAGA_MESSAGE_START,
  TXB_SAGA_MESSAGE_ANSWER,
  TXB_SAGA_MESSAGE_TIMER,
  TXB_SAGA_MESSAGE_DECISION,
  TXB_SAGA_MESSAGE_WAKE,   /* it has the lock that it waited for */
  TXB_SAGA_MESSAGE_SETTLE, /* of the saga that it is a step of, as the next */
  TXB_SAGA_MESSAGE_UNDO,
};
struct txb_saga_message {
  enum txb_saga_message_kind kind;
  const char *problem; /* of a stray: what is wrong with it; static storage */
  struct txb_uuid saga;
  int64_t started_us;
  json_t *headers, *body; /* objects */
  bool from_elsewhere;    /* with everything in it, since the row may not be there yet: of a start, a settle, an undo */
  bool has_parent;        /* from the saga that it is a step of */
  struct txb_saga_parent parent;
  size_t instance; /* which saga of the batch */
};
/* Never fails but for memory: what can't be read is a stray. To be freed by fini. */
enum txb_rc txb_saga_message_read(const struct txb_engine_message *message, struct txb_saga_message *out,
                                  struct txb_error *err) TXB_MUST_CHECK;
void txb_saga_message_fini(struct txb_saga_message *message);
/* A member that is text; NULL: there is none. */
const char *txb_saga_message_text(const json_t *object, const char *name);

/* ---- the batch ---- */
/* Whether a saga may begin, by what its definition locks. */
enum txb_saga_locks {
  TXB_SAGA_LOCKS_NOT_ASKED = 0, /* nothing is locked, or it is not about to begin */
  TXB_SAGA_LOCKS_HELD,
  TXB_SAGA_LOCKS_AWAITED,
  TXB_SAGA_LOCKS_REFUSED,
};
struct txb_saga_case { /* one saga of it */
  struct txb_saga_instance instance;
  bool found;
  bool begun;          /* by this batch, from a message */
  const char *problem; /* of one that was begun: why it is refused; NULL */
  const char *name;    /* the row's */
  int32_t version;
  const char *reply_topic; /* NULL: nobody is told of its end */
  bool was_ended, has_moved;
  struct txb_saga_parent parent; /* of one that is a step of another: instance.parent */
  int32_t ends_before;           /* how often it had ended before this batch */
  enum txb_saga_locks locks;
  const char *locks_why; /* of the last two; in the ledger's arena */
};
struct txb_saga_lock_wish { /* a name for a saga that would begin */
  struct txb_saga_case *of;
  const char *name; /* in the ledger's arena */
};
/* Whether it was refused, by this batch or before: it has no history. */
bool txb_saga_case_never_began(const struct txb_saga_case *of);

struct txb_coordinator {
  const char *topic;
  struct txb_definitions definitions;
  struct txb_saga_ledger ledger;
  struct txb_pg_params params;
  struct txb_buffer scratch;
  int64_t now_us; /* of the database, in this batch */

  struct txb_saga_message *messages;
  struct txb_saga_case *cases;
  size_t message_count, case_count, room;
  struct txb_saga_lock_wish *wishes;
  size_t wish_count, wish_room;
  struct txb_pg_result *begun, *loaded, *events; /* what texts of the batch lie in */
};

/* ---- nested.c: sagas that are steps of others ---- */
/* A start, a settle or an undo by the parent. */
enum txb_rc txb_coordinator_from_parent(struct txb_coordinator *c, struct txb_saga_message *m, struct txb_saga_case *of,
                                        const struct txb_saga_moment *moment, struct txb_error *err) TXB_MUST_CHECK;
/* A message's parent, if it has one. What is wrong with it, static; NULL: nothing. */
const char *txb_saga_message_parent(struct txb_saga_message *m);
/* The parent of a saga's row. */
enum txb_rc txb_saga_case_take_parent(struct txb_saga_case *of, struct txb_slice json,
                                      struct txb_error *err) TXB_MUST_CHECK;
/* Whether it had ended, and does not stand so any more: it was undone. */
bool txb_saga_case_reopens(const struct txb_saga_case *of);
/* Headers of an answer to the parent, for a message. */
void txb_saga_said_headers(const struct txb_saga_said *said, const char *topic, struct txb_buffer *out);

/* ---- coordinator.c ---- */
/* A start, or a wake: what it locks decides. */
enum txb_rc txb_coordinator_on_start(struct txb_coordinator *c, struct txb_saga_case *of,
                                     const struct txb_saga_moment *moment, struct txb_error *err) TXB_MUST_CHECK;

/* ---- load.c: what the database knows of the batch's sagas ---- */
enum txb_rc txb_coordinator_load(struct txb_coordinator *c, struct txb_pg *pg,
                                 const struct txb_engine_message *messages, size_t count,
                                 struct txb_error *err) TXB_MUST_CHECK;
/* ---- locks.c: what sagas lock from their start to their end (S6) ---- */
/* For those of the batch that would begin, one round trip: whether each of them has all of its locks. */
enum txb_rc txb_coordinator_lock(struct txb_coordinator *c, struct txb_pg *pg, struct txb_error *err) TXB_MUST_CHECK;
/* Gives back those of the sagas that have just ended: one more statement of what stores the batch. */
enum txb_rc txb_coordinator_send_unlock(struct txb_coordinator *c, struct txb_pg *pg,
                                        struct txb_error *err) TXB_MUST_CHECK;
/* ---- outputs.c: what sagas gave, by the schema of their definitions ---- */
/* For those of the batch that ended: what breaks its schema is taken back, and the reason says so. */
enum txb_rc txb_coordinator_check_outputs(struct txb_coordinator *c, struct txb_pg *pg,
                                          struct txb_error *err) TXB_MUST_CHECK;
/* ---- store.c: what came of it ---- */
enum txb_rc txb_coordinator_store(struct txb_coordinator *c, struct txb_pg *pg,
                                  const struct txb_engine_message *messages, struct txb_error *err) TXB_MUST_CHECK;
/* Reads the answers up to the sync that is on its way; results of rows go to out[], in their order, up to count (NULL: they are
 * thrown away). The first error is returned. */
enum txb_rc txb_coordinator_answers(struct txb_pg *pg, struct txb_pg_result **out[], size_t count,
                                    struct txb_error *err) TXB_MUST_CHECK;

#endif
