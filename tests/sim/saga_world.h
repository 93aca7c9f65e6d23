/* What the files of the sagas' simulator share: one saga from its start to its end in a world of its own. */
#ifndef TXB_TESTS_SIM_SAGA_WORLD_H
#define TXB_TESTS_SIM_SAGA_WORLD_H

#include "../unit/saga_kit.h"
#include "broker/saga/nested.h"

enum {
  RULES_MAX = 2 * KIT_STEPS_MAX,
  MESSAGES_MAX = 2000,
  ENTRIES_MAX = 1000,
  TURNS_MAX = 20000,
  NAME_MAX_ = TXB_SAGA_STEP_TEXT_SIZE,
};

struct saga_bugs {
  struct txb_saga_bugs core;
  /* Of participants. */
  bool barrier_outside, hanging_action, repeated_says_ok, key_held, resolve_guesses;
  /* Of the coordinator around the instance. */
  bool timer_before_replies, timer_passed_over, entries_without_commands, reload_without_timer, reload_without_outputs;
  /* Of what it locks. */
  bool lock_ignored, wake_lost, lock_kept;
  bool child_forgets_never;
};

/* A row of txb.saga_lock, this saga's. */
enum saga_lock { LOCK_NONE = 0, LOCK_AWAITED, LOCK_HELD };

/* A row of the barrier: schemas/sql/0023_commands.sql. */
enum saga_row { ROW_NONE = 0, ROW_NEVER, ROW_OK, ROW_REFUSED, ROW_COMPENSATED };

struct saga_participant {
  enum saga_row row;
  int effects, undone; /* how often its handlers did something */
  bool refuses;        /* by its nature */
  bool dies;           /* its action fails until its attempts are over */
  bool held;           /* planted: what follows that waits behind it for ever */
  int fails;           /* attempts of its compensation, or of a retriable action, that fail first */
  int number;          /* what its effect gave */
  bool marked;         /* a person told of its effect, and not what it gave */
};

enum saga_message_kind {
  SIM_COMMAND = 0,
  SIM_ANSWER,
  SIM_TIMER,
  SIM_DECISION,
  SIM_START,
  SIM_WAKE,
  SIM_RELEASE,
  SIM_FROM_PARENT,
};

/* On its way to a participant or into the partition, or lying there. */
struct saga_message_sim {
  enum saga_message_kind kind;
  int32_t id; /* equal ones are repetitions, which the inbox drops; of a timer its time tells */
  int rule;
  enum txb_saga_operation_kind operation;
  int32_t sending, seen;
  const char *text; /* the answer, or the decision */
  int number;       /* of an effect; 0: none */
  int edit;         /* which of a person's payloads a command brings, or a decision gives; 0: none */
  bool reads;       /* of an action: it is handed `of` */
  int of;
  int64_t at_us, order, due_us; /* when it comes; in that order; of a timer */
  int child;                    /* of an answer of a nested saga: which one of the family */
};

/* A row of txb.saga, of a step of another saga. */
enum saga_child_row { CHILD_NONE = 0, CHILD_BEGUN, CHILD_NEVER };

/* An entry as it is stored. */
struct saga_stored {
  const char *event; /* static */
  char step[NAME_MAX_], output[40], reason[120];
  bool has_output, has_reason;
  int32_t sending;
  int64_t at_us, timer_us;
};

struct saga_world {
  struct saga_kit kit; /* chance comes from here, too */
  const struct saga_bugs *bugs;
  bool talk, calm, deadline;
  struct txb_saga_definition *definition;
  int rules;
  struct saga_participant participants[RULES_MAX];

  /* Under way, and what lies in the saga's partition. */
  struct saga_message_sim way[MESSAGES_MAX], partition[MESSAGES_MAX];
  size_t way_count, partition_count, partition_next;
  int64_t now_us, orders, away_until_us;
  int32_t ids;

  /* The coordinator: what its process holds, and what its database does. */
  struct txb_saga_instance live;
  struct txb_saga_ledger ledger;
  bool loaded;
  struct saga_stored stored[ENTRIES_MAX];
  size_t stored_count;
  bool inbox[MESSAGES_MAX];
  int64_t timers_met[MESSAGES_MAX], set_us, fired_at_us; /* the latter: when the last entry was a timer's; 0 */
  size_t timers_met_count;
  int ends;
  bool locks, refuses; /* it locks a name; where that is held it does not wait */
  bool others;         /* another saga holds it */
  enum saga_lock lock;
  bool decided;  /* a person's decision is under way */
  int edits;     /* payloads that people gave */
  int sent_edit; /* which of them the last command brought; 0 */

  /* Among sagas within each other: saga_family.c. */
  struct saga_family *family; /* NULL: it is alone */
  int self, mother, mother_rule;
  struct txb_uuid id;
  enum saga_child_row row;
  struct txb_saga_parent parent;
  bool stands;  /* it is completed, and not undone */
  bool willing; /* its participants refuse nothing */

  const char *violation;
};

/* What the seeds have met: whatever never happens is not tested. */
enum {
  SEEN_COMPLETED,
  SEEN_COMPENSATED,
  SEEN_STUCK,
  SEEN_LATE,
  SEEN_NEVER,
  SEEN_PIVOT_KEPT,
  SEEN_TOO_LATE,
  SEEN_SKIPPED,
  SEEN_CONFIRMED,
  SEEN_RELOADED,
  SEEN_LOST,
  SEEN_REPLACED,
  SEEN_IGNORED,
  SEEN_MARKED,
  SEEN_UNDELIVERABLE,
  SEEN_STOOD,
  SEEN_NOT_MADE,
  SEEN_LEFT_OUT,
  SEEN_LEFT_DONE,
  SEEN_LET_STAND,
  SEEN_EDITED,
  SEEN_EDITED_AGAIN,
  SEEN_WOKEN,
  SEEN_TURNED_AWAY,
  SEEN_GAVE_UP,
  SEEN_CHILDREN,
  SEEN_GRANDCHILDREN,
  SEEN_CHILDREN_UNDONE,
  SEEN_CHILDREN_SETTLED,
  SEEN_CHILDREN_NEVER,
  SEEN_CHILDREN_AGAIN,
  SEEN
};
extern uint64_t saga_seen[SEEN];

#define SIM_TOPIC "sagas"

/* Sagas within each other, each with a world of its own and one time for all. */
enum { FAMILY_MAX = 60 };
struct saga_family {
  struct saga_kit library[KIT_LIBRARY_MAX];
  struct txb_saga_definition *definitions[KIT_LIBRARY_MAX];
  struct saga_world *members[FAMILY_MAX]; /* the first is the outermost */
  int count;
  int64_t now_us;
  bool calm;
};

void saga_say(const struct saga_world *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
void saga_violated(struct saga_world *w, const char *what);
/* On its way; it comes after delay_us. */
void saga_post(struct saga_world *w, struct saga_message_sim m, int64_t delay_us);
/* How long a message, or a retry at a participant, takes; some very long. */
int64_t saga_some_time(struct saga_world *w);
bool saga_has_ended(const struct saga_world *w);

/* sim_saga.c, for families */
void saga_reset(struct saga_world *w, uint64_t random, const struct saga_bugs *bugs, bool talk);
void saga_make_participants(struct saga_world *w, bool willing);
void saga_arrive(struct saga_world *w);
void saga_operate(struct saga_world *w);
void saga_interfere(struct saga_world *w);
size_t saga_earliest(const struct saga_world *w);
void saga_verify(struct saga_world *w);

/* saga_family.c */
/* False: the library can't be made. */
bool saga_family_make(struct saga_family *f, struct saga_world *top);
void saga_family_free(struct saga_family *f);
void saga_family_run(struct saga_family *f);
void saga_family_verify(struct saga_family *f);
/* A command of w to a saga that its step is, which is there from then on. */
void saga_family_send(struct saga_world *w, const struct txb_saga_command *c, int64_t delay_us);
/* From the parent: in w's transaction. */
enum txb_rc saga_family_from_parent(struct saga_world *w, const struct saga_message_sim *m,
                                    const struct txb_saga_moment *moment, struct txb_error *err);
/* After w's transaction: what it answers, and what ended. */
void saga_family_commit(struct saga_world *w, int ends, int64_t delay_us);
void saga_family_child_text(const struct saga_world *w, int child, char out[37]);

/* saga_participant.c */
void saga_participant_check_order(struct saga_world *w, int rule); /* of what is being undone */
void saga_participant_take(struct saga_world *w, const struct saga_message_sim *m);
void saga_participant_check_input(struct saga_world *w, const struct saga_message_sim *m);
/* saga_coordinator.c: takes some of what lies in the partition, in one transaction. */
void saga_coordinator_take(struct saga_world *w);
/* Whether a person went on without that step, as it is stored. */
bool saga_was_left(const struct saga_world *w, int rule);

#endif
