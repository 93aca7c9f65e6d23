/* What the worker core is simulated against: a PostgreSQL of rows, locks and transactions, a Kafka of logs and one
 * consumer group, and the verifier that looks at every commit. No part of it uses the worker's own code, but for the
 * helper that picks candidates (W6). */
#ifndef TXB_TESTS_SIM_WORKER_MODEL_H
#define TXB_TESTS_SIM_WORKER_MODEL_H

#include <stdbool.h>
#include <stdint.h>

enum {
  PARTITIONS_MAX = 3,
  WORKERS = 3,
  RECORDS_MAX = 48,
  IDS_MAX = PARTITIONS_MAX * RECORDS_MAX,
  SESSIONS_MAX = 24,
  BATCH_MAX = 8,
  POISON_KILLS = 60,
  UNRECORDED_MAX = 12 /* kills of one message before it must be recorded (W10): batches that hold it shrink first */
};

/* The rules that may be broken on purpose. */
struct bugs {
  bool offset_before_commit, inbox_outside, no_epoch_check, no_inbox, commit_tag_ignored, batch_duplicate_ids,
      error_skips;
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
/* A message as the handler meets it; what is in here does not roll back. */
struct subject {
  int partition;
  int64_t first_offset;
  int fails_left, fails_kind; /* 0 raises, 1 answers refuse, 2 deadlocks, 3 answers retry with the index told */
  int poison_left;            /* kills the process (or the server, by the batch's kind) that many times */
  int unrecorded;             /* of its kills since the faults ended: those that no stall tells of */
  int effects;                /* committed */
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
  int64_t consumed, applied, duplicate;
};

enum statement { S_BEGIN, S_INBOX, S_OPEN, S_APPLY, S_CLOSE, S_COMMIT, S_END };
enum answer { A_NONE, A_COMMITTED, A_ROLLED_BACK_TAG, A_FENCED, A_FAILED };

struct session {
  bool used, connected; /* connected: a client is at the other end */
  int serial;           /* which connection this is: places are used again */
  bool plugin;          /* statements are sent one at a time; else all at once */
  enum statement script[8];
  int pc;
  enum answer answer;
  int failure, failed_at;
  /* the batch */
  int partition, count;
  int ids[BATCH_MAX];
  int64_t epoch, expected, new_next;
  bool skip;
  /* the transaction */
  bool in_transaction, holds_row;
  struct row staged;
  int fresh[BATCH_MAX], fresh_count; /* inbox rows of this transaction */
  int effects[BATCH_MAX], effect_count;
  int allowed[BATCH_MAX], allowed_count; /* planted inbox_outside: what the earlier transaction put in */
};

struct model {
  uint64_t rng;
  int serials;
  bool verbose;
  struct bugs bugs;
  int partitions;
  int64_t now_us;
  struct log logs[PARTITIONS_MAX];
  struct subject subjects[IDS_MAX];
  int ids;
  struct row rows[PARTITIONS_MAX];
  int row_lock[PARTITIONS_MAX]; /* session, -1 */
  bool inbox[IDS_MAX];
  int inbox_lock[IDS_MAX];
  struct session sessions[SESSIONS_MAX];
  bool healed;           /* no more faults */
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

void model_init(struct model *m, uint64_t seed, const struct bugs *bugs, bool verbose);
/* A new message, or a repetition of what was produced last. */
void model_produce(struct model *m);

int session_open(struct model *m);
void session_rollback(struct model *m, int s);
void session_close(struct model *m, int s);
/* Whether the session is free for a new statement. */
bool session_idle(const struct model *m, int s);
void session_run(struct model *m, int s, bool plugin);
/* Executes the next statement of the script, or waits for a lock. */
void session_advance(struct model *m, int s);
void model_crash_server(struct model *m);
/* The position is moved over offsets that hold nothing. */
void model_passed(struct model *m, int partition, int64_t new_next);
/* It is recorded that the message at this offset stands still. */
void model_stalled(struct model *m, int partition, int64_t offset);
/* Everything is applied exactly once, in order, and the counters agree. */
bool model_settled(const struct model *m);
void model_verify_end(struct model *m);

#endif
