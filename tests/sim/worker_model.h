/* What the worker core is simulated against: a PostgreSQL of rows, locks and transactions, a Kafka of logs and one
 * consumer group, and the verifier that looks at every commit. No part of it uses the worker's own code, but for what the
 * process calls in a transaction too: the helper that picks candidates (W6), isolate_core, failed_core and job_core.
 *
 * Where rows of txb.consumer_offset are, there are places: first the partitions, then a lane for each replay job. A lane's
 * log is what its job reads of the outbox, in its order. */
#ifndef TXB_TESTS_SIM_WORKER_MODEL_H
#define TXB_TESTS_SIM_WORKER_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "common/uuid.h"
#include "consumer/failed_core.h"
#include "consumer/isolate_core.h"
#include "consumer/job_core.h"

enum {
  PARTITIONS_MAX = 3,
  JOBS_MAX = 2,
  PLACES = PARTITIONS_MAX + JOBS_MAX,
  REPLAY_EVERY = 3, /* seeds: in one of so many there are replay jobs */
  WORKERS = 3,
  RECORDS_MAX = 48,
  IDS_MAX = PARTITIONS_MAX * RECORDS_MAX,
  MESSAGES_MAX = 340, /* with those of forced runs and edited copies */
  FAILED_MAX = 700,
  KEYS_EACH = 4, /* of a partition */
  KEYS = PARTITIONS_MAX * KEYS_EACH,
  SESSIONS_MAX = 24,
  BATCH_MAX = 8,
  POISON_KILLS = 60,
  DEATHS_MAX = 4, /* of one message before it is dead (W10) */
  DEATHS_MIXED_MAX =
      7, /* when processes and servers die by it in turn: the row counts the one, the process the other */
  FOR_EVER = 1000
};

/* The rules that may be broken on purpose. */
struct bugs {
  bool offset_before_commit, inbox_outside, no_epoch_check, no_inbox, commit_tag_ignored, batch_duplicate_ids,
      error_skips, held_out_of_order, attempt_per_replica, keys_version_ignored, retry_unmarked, behind_applied,
      retry_before_due, held_not_kept, failed_not_recorded, attempts_forgotten, lane_position_first, lane_no_fences,
      lane_keys_ignored, lane_two_owners, lane_pause_ignored, run_not_in_inbox, edit_keeps_id;
};

/* ---- Kafka: logs ----------------------------------------------------------------------------- */
struct log_record {
  int64_t offset;
  int id;
};
struct log {
  struct log_record records[RECORDS_MAX];
  int count;
  int64_t end; /* next offset */
};
/* How a message fails. The first three do until it has had as many attempts, by the history; the others pass. */
enum fails { FAILS_RAISE, FAILS_RETRY_NAMED, FAILS_REFUSE, FAILS_AT_COMMIT, PASSES_CONFLICT, PASSES_WAIT, FAILS_KINDS };

/* A message of one run, as the handler meets it; what is in here does not roll back. */
struct subject {
  int partition, key; /* key -1: none */
  int64_t order;      /* offset of its first appearance, in a forced run its seq; an edited copy has that of what it
                         replaces */
  int run;            /* 0: live, and jobs that are not forced */
  int of;             /* the message that a forced run repeats; else itself */
  int lane;           /* place: the forced job's, or that in which an edited copy waits; -1 */
  bool copy;          /* edited */
  int applied_by;     /* place of the lane that brought it; -1: live */
  int replays;        /* jobs that are not forced and read it too */
  enum fails kind;
  int fails;    /* so many attempts; FOR_EVER */
  int attempts; /* by the history */
  int passing_left;
  int poison_left;   /* kills the process (or the server, by the batch's kind) that many times */
  bool poison_later; /* not before it has failed once */
  int deaths;        /* since the faults ended, or since it was dead or a person touched it */
  int effects;       /* committed */
  bool closed;       /* discarded, or replaced by an edited copy */
  bool released;     /* dead, and its key went on: it has no place in an order any more */
};

/* ---- PostgreSQL ------------------------------------------------------------------------------ */
struct row { /* of txb.consumer_offset */
  int64_t epoch, next_offset, taken_offset;
  int instance;
  bool busy;
  int last_id; /* -1: none */
  int64_t last_offset;
  int64_t suspect_offset;
  int suspect_count, suspect_deaths;
  bool suspect_marked;
  int64_t stalled_offset, due_us;
  int attempts;
  int64_t consumed, applied, duplicate, failed;
  int64_t keys_version, keys_taken;
  int64_t moved; /* of a lane: gone to live partitions; of a partition: come from lanes */
  int suspect_failed[BATCH_MAX], suspect_failed_count;
};

struct failed { /* a row of txb.failed; its index is its number */
  int partition, id, key;
  int lane; /* that set it aside, perhaps behind a live partition's; -1 */
  int64_t offset, place, due_us;
  enum txb_failed_state state;
  int attempts;
  int tried;        /* attempts by the history, since it was set aside or a person wanted it again */
  bool holds, copy; /* copy: of an edit */
  int acts;         /* of persons */
  bool suspect;     /* was under a marker when somebody died, or the connection went: it is run alone (W10) */
  int deaths;       /* alone */
};
/* What a transaction will write of it. */
struct staged_add {
  int id;
  int64_t offset;
  struct txb_failed_result result; /* state held: attempts 0 */
  bool attempt, counts;            /* counts: its handler said no just now */
  bool suspect;                    /* under the partition's marker */
};
struct staged_settle {
  int number;
  enum { V_UNTOUCHED, V_APPLIED, V_DUPLICATE, V_FAILED } verdict;
  struct txb_failed_result result;
  bool counts;
};

enum statement { S_BEGIN, S_INBOX, S_OPEN, S_APPLY, S_ISOLATED, S_CLOSE, S_COMMIT, S_END };
enum answer { A_NONE, A_COMMITTED, A_ROLLED_BACK_TAG, A_FENCED, A_FAILED, A_KEYS_CHANGED };

struct session {
  bool used, connected; /* connected: a client is at the other end */
  int serial;           /* which connection this is: places are used again */
  bool plugin;          /* its handler runs in the client: what kills, kills that */
  bool driven;          /* statements are sent one at a time; else all at once */
  enum statement script[8];
  int pc;
  enum answer answer;
  int failure, failed_at;
  enum txb_failure_class failed_class;
  /* the batch, or the retry */
  bool retry, isolated, condemn, patience_over, crash;
  int partition, count;
  int ids[BATCH_MAX];
  int64_t offsets[BATCH_MAX];
  int numbers[BATCH_MAX]; /* of a retry */
  int64_t marked_us;
  int64_t epoch, expected, new_next, keys_version;
  bool held[KEYS];
  bool skip;
  int chunk, at;
  enum txb_failure_class condemn_class;
  int limit_settled; /* the batch is cut there since a key would have too many */
  /* the transaction */
  bool in_transaction, holds_row;
  int64_t opened_us;
  struct row staged;
  int fresh[2 * BATCH_MAX], fresh_count;                                /* inbox rows of this transaction */
  int effects[2 * BATCH_MAX], effect_lane[2 * BATCH_MAX], effect_count; /* lane: that the message came by, or -1 */
  int allowed[BATCH_MAX], allowed_count; /* planted inbox_outside: what the earlier transaction put in */
  struct staged_add adds[BATCH_MAX];
  int add_count;
  struct staged_settle settles[BATCH_MAX];
  int settle_count;
  /* isolated */
  bool begun;
  struct txb_isolate iso;
  struct txb_isolate_item items[BATCH_MAX];
  uint32_t segment[BATCH_MAX];
  uint8_t blocked[BATCH_MAX + 1];
  int candidates[BATCH_MAX]; /* their indexes in the batch */
  enum txb_failure_class classes[BATCH_MAX];
  /* what the answer tells */
  int settled, failed_count;
  int64_t due_ms;
  bool transient, aside; /* aside: messages were set aside */
  int new_chunk;
  int gained[KEYS]; /* rows that hold the key; lost: negative */
};

/* ---- replay jobs ----------------------------------------------------------------------------- */
struct intent { /* of the outbox */
  int64_t seq;
  int id;
};

struct job { /* a row of txb.job, and of txb.job_lane: all is one topic */
  enum txb_job_state state;
  int run;      /* 0: not forced */
  bool ordered; /* not forced, all of each key from before what live has still to do: so one order with live */
  int instance; /* that has the lease; -1: nobody */
  int64_t lease_until_us, state_us;
  bool through;
  /* of the verifier */
  int granted_to;
  int64_t granted_until_us;
};

/* What the jobs of a run went through: a rule that nothing exercises is not tested. */
enum replayed {
  R_STARTED,
  R_FORCED,
  R_ORDERED,
  R_PAUSED,
  R_RESUMED,
  R_CANCELLED,
  R_DONE,
  R_TAKEN_OVER, /* leases that had run out */
  R_MOVED,      /* messages that a live partition got */
  R_KNOWN,      /* those that it had already */
  R_RETRIED,    /* transactions of retries */
  R_STOPPED,    /* transactions that did not open since the job rests */
  R_COUNT
};

struct model {
  uint64_t rng;
  int serials;
  bool verbose;
  struct bugs bugs;
  int partitions;
  bool replays; /* there are jobs in this seed */
  struct job jobs[JOBS_MAX];
  int job_count;
  uint64_t replayed[R_COUNT];
  struct intent outbox[IDS_MAX];
  int outbox_count;
  int64_t seq; /* the next */
  int64_t now_us;
  struct log logs[PLACES];
  struct subject subjects[MESSAGES_MAX];
  int ids;
  struct failed failed[FAILED_MAX];
  int failed_count;
  struct txb_failed_policy policy;
  int held_max;           /* of a key */
  int32_t batch_messages; /* of all workers: suspicion reaches as far as a batch of the one that died (W10) */
  struct row rows[PLACES];
  int row_lock[PLACES]; /* session, -1 */
  bool inbox[MESSAGES_MAX];
  int inbox_lock[MESSAGES_MAX];
  struct session sessions[SESSIONS_MAX];
  bool healed;           /* no more faults */
  bool calm;             /* and the group knows who is dead */
  bool poisoned;         /* every partition has a message that kills again and again */
  int plugin_percent;    /* of the batches; in a poisoned world all or none: what kills, kills in the same way */
  const char *violation; /* NULL: none so far */
  int killed_worker;     /* set by a poison: the worker of this session index dies; -1 */
  bool server_crashed;   /* set by a poison in a statement */
};

uint64_t roll(struct model *m, uint64_t sides); /* 0 .. sides - 1 */
bool chance(struct model *m, int percent);
void say(struct model *m, const char *format, ...) __attribute__((format(printf, 2, 3)));
void violated(struct model *m, const char *what);

static inline bool is_lane(int place) {
  return place >= PARTITIONS_MAX;
}
static inline bool is_place(const struct model *m, int place) {
  return place < m->partitions || (is_lane(place) && place < PARTITIONS_MAX + m->job_count);
}
static inline int lane_of(int place) {
  return is_lane(place) ? place : -1;
}
static inline struct txb_uuid model_uuid(int id) {
  return (struct txb_uuid){.bytes = {[14] = (unsigned char)(id >> 8), [15] = (unsigned char)id}};
}
static inline int model_id(const struct txb_uuid *uuid) {
  return uuid->bytes[14] << 8 | uuid->bytes[15];
}
static inline struct job *job_of(struct model *m, int lane) {
  return &m->jobs[lane - PARTITIONS_MAX];
}
/* The keys of a place are numbers from the one up to the other. */
static inline int keys_from(int place) {
  return is_lane(place) ? 0 : place * KEYS_EACH;
}
static inline int keys_to(int place) {
  return is_lane(place) ? KEYS : (place + 1) * KEYS_EACH;
}

void model_init(struct model *m, uint64_t seed, const struct bugs *bugs, bool verbose);
/* A row without a history. */
void model_init_place(struct model *m, int place);
/* How a message will behave; `poisons`: of a poisoned world it is the one that kills. */
void model_draw_nature(struct model *m, struct subject *s, bool poisons);
/* A new message, or a repetition of what was produced last. */
void model_produce(struct model *m);

int session_open(struct model *m);
void session_rollback(struct model *m, int s);
void session_close(struct model *m, int s);
/* Whether the session is free for a new statement. */
bool session_idle(const struct model *m, int s);
/* What it runs is told in its fields; those of the transaction are made empty. */
void session_run(struct model *m, int s);
/* Executes the next statement of the script, or waits for a lock. */
void session_advance(struct model *m, int s);
void model_crash_server(struct model *m);
/* The position is moved over offsets that hold nothing. */
void model_passed(struct model *m, int partition, int64_t new_next);

/* ---- failed messages (worker_failed.c) ---- */
/* Rows that hold a key in a place, in a lane those of live partitions too; 0 for key -1. */
int failed_holding(const struct model *m, int place, int key);
/* Of the place alone. */
int failed_own_holding(const struct model *m, int place, int key);
int failed_held(const struct model *m, int partition);
/* Milliseconds until something is due; -1: nothing. */
int64_t failed_due_ms(const struct model *m, int partition);
/* The version of what is held there: of a lane with those of the live partitions. */
int64_t failed_keys_version(const struct model *m, int place);
/* Rows for a retry: heads that are due and what is held behind each. */
int failed_pick(const struct model *m, int partition, int rows_max, int *numbers);
/* A new owner: what is under a marker that is still out is suspected. */
void failed_taken(struct model *m, int partition, bool died);
/* What the transaction of a session has staged, at its commit. */
void failed_commit(struct model *m, struct session *x);
void failed_condemn(struct model *m, int partition, int number);
/* The first open row of a key that is only held goes on. */
void failed_promote(struct model *m, int partition, int key);
/* Its table has that line. */
void failed_check_transition(struct model *m, enum txb_failed_state from, enum txb_failed_event event,
                             enum txb_failed_state to);
/* A person does something to some row, when the partition's lock is free (worker_person.c). */
void failed_person(struct model *m);

/* ---- replay jobs (worker_job.c) ---- */
/* A person starts one, pauses it, lets it go on, or cancels it. */
void job_person(struct model *m);
/* txb.lane_claim: which lanes this instance has from now on. */
void job_claim(struct model *m, int instance, int64_t lease_us, int lanes_max, bool mine[PLACES]);
void job_free(struct model *m, int lane, int instance);
/* Whether the transaction of a lane may open; ahead: it would move the position. */
bool job_may_run(struct model *m, int lane, bool ahead);
bool job_all_ended(const struct model *m);

/* ---- the verifier (worker_verify.c) ---- */
/* No held row without a head, no key held by nothing, counters. */
void failed_verify(struct model *m, int partition);
/* Everything is applied exactly once, in order, and the counters agree. */
bool model_settled(const struct model *m);
void model_verify_end(struct model *m);

#endif
