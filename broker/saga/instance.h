/* One saga in the coordinator's hands: its definition, its state, and what its steps gave. What happens to it becomes
 * entries (rows of txb.saga_event) and commands; replaying the entries makes the same state again, whatever the program
 * that wrote them decided and why. Pure: no database, no Kafka, no clock.
 *
 *   load:  txb_saga_instance_init, then txb_saga_instance_replay for each entry in its order
 *   then:  one of the txb_saga_instance_on_... for each message, in the order of the partition; what follows lies in the ledger
 *   end:   txb_saga_instance_settle once, which sets the timer if it has to be earlier, or is to be taken back
 *
 * A saga has one timer at a time, for what is due first. What else becomes due is looked at when it comes. It is a message
 * in the saga's own partition that is published when it is due, so that every answer that was there before is met first (S2).
 */
#ifndef TXB_BROKER_SAGA_INSTANCE_H
#define TXB_BROKER_SAGA_INSTANCE_H

#include <jansson.h>

#include "broker/saga/definition.h"
#include "common/memory.h"
#include "common/uuid.h"

/* "NAME" or "NAME/confirm". */
enum { TXB_SAGA_STEP_TEXT_SIZE = TXB_SAGA_NAME_SIZE_MAX + 10 };

enum txb_saga_operation_kind {
  TXB_SAGA_OPERATION_ACTION = 0,
  TXB_SAGA_OPERATION_FORWARD, /* an action that is tried until it succeeds */
  TXB_SAGA_OPERATION_RESOLVE,
  TXB_SAGA_OPERATION_COMPENSATION,
};
enum { TXB_SAGA_OPERATIONS = TXB_SAGA_OPERATION_COMPENSATION + 1 };
const char *txb_saga_operation_name(enum txb_saga_operation_kind kind); /* as in the header txb-saga-operation */

/* A row of txb.saga_event. Texts lie in the ledger's arena. */
struct txb_saga_entry {
  struct txb_saga_instance *instance;
  int32_t n;
  const char *event;
  char step[TXB_SAGA_STEP_TEXT_SIZE]; /* "": none */
  int32_t sending;                    /* 0: none */
  struct txb_slice output;            /* JSON text: what the step gave, or what an edit has it sent; absent: none */
  const char *reason, *who;           /* NULL: none */
  int64_t at_us, timer_us;            /* the latter 0: it sets none */
  size_t message;                     /* which one of the batch told it */
  size_t first_command, command_count;
};

struct txb_saga_command {
  struct txb_saga_instance *instance;
  char step[TXB_SAGA_STEP_TEXT_SIZE];
  enum txb_saga_operation_kind operation;
  int32_t sending;
  const char *topic, *type; /* of the definition; to a nested saga the coordinator's topic */
  struct txb_slice payload; /* JSON text */
  struct txb_uuid id;
  bool nested;           /* it is for a nested saga: */
  struct txb_uuid child; /* this one, which began when its parent did */
};

/* What a saga is a step of: nested.h. */
struct txb_saga_parent {
  struct txb_uuid saga, root; /* the latter the outermost one */
  int64_t started_us;
  char step[TXB_SAGA_STEP_TEXT_SIZE];
  enum txb_saga_operation_kind operation; /* of the message that told it */
  int32_t sending;                        /* likewise */
};

/* An answer of a saga to the one that it is a step of. */
struct txb_saga_said {
  const struct txb_saga_instance *instance; /* who answers; to its parent */
  enum txb_saga_operation_kind operation;
  int32_t sending;
  const char *answer;       /* static */
  struct txb_slice output;  /* JSON text: what the whole gave; absent: nothing */
  struct txb_slice payload; /* JSON text: all of it */
};

/* What a batch leads to. Zeroed is empty, but for the arena. */
struct txb_saga_ledger {
  struct txb_arena arena;
  struct txb_saga_entry *entries;
  size_t entry_count, entry_room;
  struct txb_saga_command *commands;
  size_t command_count, command_room;
  struct txb_saga_said *said;
  size_t said_count, said_room;
};
void txb_saga_ledger_init(struct txb_saga_ledger *ledger);
void txb_saga_ledger_clear(struct txb_saga_ledger *ledger); /* keeps the memory */
void txb_saga_ledger_fini(struct txb_saga_ledger *ledger);

/* JSON text, for free(); NULL: no memory. */
char *txb_saga_json_text(const json_t *value);

struct txb_saga_instance {
  /* Given. All borrowed, for as long as the instance lives. */
  const struct txb_saga_definition *definition;
  struct txb_uuid id;
  int64_t started_us, deadline_us;  /* the latter 0: none */
  struct txb_slice key, input;      /* JSON text the latter; the key may be absent */
  const struct txb_saga_bugs *bugs; /* NULL: none; for the simulator */
  const char *topic; /* the coordinator's; NULL: not known, where nothing is to be sent to a nested saga */
  const struct txb_saga_parent *parent; /* NULL: it is no step of another one */

  /* Follows from its entries. */
  struct txb_saga state;
  int32_t n; /* of the last entry; 0: there is none */
  bool begun, ended;
  int64_t due_us[TXB_SAGA_STEPS_MAX];           /* of the last sending or pause of each rule; 0: none */
  int64_t timer_us;                             /* what the timer is set to; 0: it is not */
  int64_t fired_us;                             /* what it was set to when it came last */
  struct txb_slice outputs[TXB_SAGA_STEPS_MAX]; /* JSON texts of what the rules gave; absent: nothing */
  struct txb_slice edited[TXB_SAGA_STEPS_MAX]; /* what a person has them sent instead of their input; absent: nothing */
  uint64_t left;                               /* bit n: a person let rule n's effect stand, though all is undone */
  int turned_rule;                             /* which one made it turn back; -1: none, its time or a person did */
  const char *turned_why;                      /* NULL: it did not turn back */
  const char *waits_why;                       /* what it said last, not having begun; NULL: it has not waited */
  int32_t refusals[TXB_SAGA_STEPS_MAX];        /* of what is tried until it succeeds */
  int32_t ends;            /* how often it ended: again after it was undone as a step of another one */
  bool undo_asked;         /* by its parent */
  int32_t settle_sending;  /* by which its parent had it turn back; 0: it did not */
  int32_t undo_sending;    /* then: by which sending */
  struct txb_slice output; /* what the whole gave, when it has ended completed: JSON text; absent: nothing */
  const char *reason;      /* then: why it was compensated, or what is wrong with its output; NULL */

  /* Of this batch. */
  json_t *context;   /* made at first use */
  size_t last_entry; /* in the ledger, from 1; 0: none */
};

/* The fields under "given" are filled in; the rest is made. */
void txb_saga_instance_init(struct txb_saga_instance *instance);
void txb_saga_instance_fini(struct txb_saga_instance *instance);

/* An entry that is stored already, as far as the state follows from it. Texts must live as long as the instance. */
struct txb_saga_past {
  int32_t n;
  const char *event;
  struct txb_slice step; /* absent or empty: none */
  int32_t sending;       /* 0: none */
  int64_t at_us, timer_us;
  struct txb_slice output; /* JSON text; absent: none */
  const char *reason;      /* NULL: none */
};
/* TXB_REFUSED: the definition knows no such step, or the entry can't follow what came before: the history is not this
 * definition's. */
enum txb_rc txb_saga_instance_replay(struct txb_saga_instance *instance, const struct txb_saga_past *past,
                                     struct txb_error *err) TXB_MUST_CHECK;

/* Where and when something is told. */
struct txb_saga_moment {
  int64_t now_us; /* of the coordinator's database */
  size_t message; /* index in the batch, for the entries */
};

/* All of these: TXB_FATAL: no memory. What does not change anything becomes an entry "ignored" with the reason, unless it is
 * said otherwise. */

/* Its start has come: the first steps are begun. A start that comes again is passed over. */
enum txb_rc txb_saga_instance_on_start(struct txb_saga_instance *instance, const struct txb_saga_moment *moment,
                                       struct txb_saga_ledger *ledger, struct txb_error *err) TXB_MUST_CHECK;

/* What its definition locks, sorted, each once; texts in the ledger. They follow from what it was started with, and so are
 * the same whenever they are asked for. TXB_REFUSED: they can't be made out, and it can't begin. */
struct txb_saga_lock_names {
  const char *items[TXB_SAGA_LOCKS_MAX];
  size_t count;
};
enum txb_rc txb_saga_instance_locks(struct txb_saga_instance *instance, struct txb_saga_ledger *ledger,
                                    struct txb_saga_lock_names *out, struct txb_error *err) TXB_MUST_CHECK;
/* It can't begin yet: an entry "waits", unless its last one said the same. Passed over once it has begun or ended. */
enum txb_rc txb_saga_instance_on_wait(struct txb_saga_instance *instance, const char *why,
                                      const struct txb_saga_moment *moment, struct txb_saga_ledger *ledger,
                                      struct txb_error *err) TXB_MUST_CHECK;
/* It can't begin at all: it ends compensated, nothing having been done. Passed over likewise. */
enum txb_rc txb_saga_instance_on_turned_away(struct txb_saga_instance *instance, const char *why,
                                             const struct txb_saga_moment *moment, struct txb_saga_ledger *ledger,
                                             struct txb_error *err) TXB_MUST_CHECK;

/* What a participant, or txb.failed, said about a step. */
struct txb_saga_answer {
  struct txb_slice step;      /* as in the header */
  struct txb_slice operation; /* likewise */
  int32_t sending;            /* of the command; 0: not told */
  struct txb_slice topic;     /* where the command lay: an answer to a command from elsewhere is forged */
  struct txb_slice child;     /* the nested saga that answers; absent: a participant */
  const char *answer;         /* ok, refused, never, compensated, failed, undeliverable */
  json_t *output;             /* NULL: none; borrowed */
  const char *reason;         /* NULL: none; borrowed */
};
enum txb_rc txb_saga_instance_on_answer(struct txb_saga_instance *instance, const struct txb_saga_answer *answer,
                                        const struct txb_saga_moment *moment, struct txb_saga_ledger *ledger,
                                        struct txb_error *err) TXB_MUST_CHECK;

/* What the saga that it is a step of wants: to begin it, to settle what becomes of it, to undo it. Its end is answered; one that
 * has ended already answers at once. Only where instance->parent is given. */
enum txb_rc txb_saga_instance_on_parent(struct txb_saga_instance *instance, enum txb_saga_operation_kind operation,
                                        int32_t sending, const struct txb_saga_moment *moment,
                                        struct txb_saga_ledger *ledger, struct txb_error *err) TXB_MUST_CHECK;
/* The answer of one that never began, and never will; it has no definition. */
enum txb_rc txb_saga_say_never(const struct txb_saga_instance *instance, const struct txb_saga_parent *asked,
                               const char *reason, struct txb_saga_ledger *ledger,
                               struct txb_error *err) TXB_MUST_CHECK;

/* The timer that was set to due_us has come. One that is earlier than the present one is passed over; a later one, which an
 * earlier one has replaced but not overtaken, stands for both. */
enum txb_rc txb_saga_instance_on_timer(struct txb_saga_instance *instance, int64_t due_us,
                                       const struct txb_saga_moment *moment, struct txb_saga_ledger *ledger,
                                       struct txb_error *err) TXB_MUST_CHECK;

/* What a person decided, having seen the entries up to `seen`. */
struct txb_saga_decision {
  const char *decision; /* retry, mark_done, mark_undone, cancel, skip, edit */
  const char *step;     /* NULL for cancel */
  int32_t seen;
  const char *reason, *who;
  const json_t *payload; /* of an edit: what its command says from then on; borrowed. NULL for all others */
};
enum txb_rc txb_saga_instance_on_decision(struct txb_saga_instance *instance, const struct txb_saga_decision *decision,
                                          const struct txb_saga_moment *moment, struct txb_saga_ledger *ledger,
                                          struct txb_error *err) TXB_MUST_CHECK;

/* What an end of this batch gave (its entry in the ledger) breaks the schema of its definition: whoever was told it is told why
 * there is none instead. TXB_FATAL: no memory. */
enum txb_rc txb_saga_take_back_output(struct txb_saga_ledger *ledger, size_t entry, const char *problem,
                                      struct txb_error *err) TXB_MUST_CHECK;

/* After the last message of a batch: sets timer_us in its last entry to what is due first, if that is earlier than what it
 * is set to. */
void txb_saga_instance_settle(struct txb_saga_instance *instance, struct txb_saga_ledger *ledger);

/* What is due first, whether the timer is set to it or will be; 0: nothing. rule_out: whose answer or pause, -1: the saga's
 * deadline. */
int64_t txb_saga_instance_due(const struct txb_saga_instance *instance, int *rule_out);

/* The rule that a step's name in a message or an entry means; -1: none. */
int txb_saga_rule_of(const struct txb_saga_definition *definition, struct txb_slice step);
void txb_saga_rule_text(const struct txb_saga_definition *definition, int rule, char out[TXB_SAGA_STEP_TEXT_SIZE]);
/* The id of the timer that is set to due_us. */
void txb_saga_timer_id(const struct txb_uuid *saga, int64_t due_us, struct txb_uuid *out);

#endif
