/* What the relay core is simulated against: a PostgreSQL of transactions, locks, numbers and snapshots, a Kafka of
 * partitions that refuse, lose answers and break producers, and the verifier that looks at every append and every
 * checkpoint. No part of it uses the relay's own code. */
#ifndef TXB_TESTS_SIM_RELAY_MODEL_H
#define TXB_TESTS_SIM_RELAY_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  RM_TXS = 96,
  RM_ROWS = 360,
  RM_TOPICS = 3,
  RM_KEYS = 3,
  RM_PARTS = 2, /* partitions a topic */
  RM_PARTITIONS = RM_TOPICS * RM_PARTS,
  RM_STORED = 512,
  RM_GHOSTS = 12,
};

enum rm_tx_state { RM_OPEN, RM_PREPARED, RM_COMMITTED, RM_ABORTED };
struct rm_tx {
  enum rm_tx_state state;
  bool locked;    /* RowExclusiveLock on txb.outbox; kept a moment longer than the transaction is seen as running */
  bool running;   /* in progress for snapshots */
  uint64_t xid;   /* 0: none yet */
  int pid;        /* 0: prepared */
  uint64_t ended; /* stamp of its end */
  int in_hand;    /* row whose number is drawn and which is not yet inserted, or -1 */
  int rows_left;
  bool slow;
};

enum rm_failed { RM_FINE, RM_DEAD, RM_RETRYING, RM_PUBLISHED, RM_DISCARDED };
struct rm_record { /* txb.failed, and the note of a decision beside it */
  enum rm_failed state;
  unsigned edition; /* 0: as it was written */
  bool noted;
};

struct rm_row {
  int64_t seq;
  int tx;
  uint32_t topic;
  int key; /* -1: none */
  bool inserted, undone;
  unsigned bad;   /* a bit for each edition that Kafka refuses */
  uint64_t drawn; /* stamp when its number was drawn */
  bool appended;
  struct rm_record failed, failed_durable;
  unsigned bytes;
};

struct rm_range {
  int64_t page, lo, hi;
};

struct rm_stored { /* txb.relay and its side tables */
  int64_t epoch, checkpoint, highest, watermark;
  unsigned char instance; /* of the uuid: the first byte is enough */
  struct rm_range holes[RM_STORED];
  size_t hole_count;
  int64_t topic_lo[RM_TOPICS], key_lo[RM_TOPICS][RM_KEYS]; /* 0: no hold */
};

struct rm_snapshot {
  uint64_t stamp, xmax;
  uint64_t xip[RM_TXS];
  size_t xip_count;
};

struct rm_message {
  uint64_t ticket;
  int row; /* rm_row_id */
};
struct rm_report {
  uint64_t ticket;
  int outcome; /* enum txb_report_outcome */
  int partition;
};
struct rm_producer {
  bool open, fatal;
  bool proven[RM_TOPICS], unread_no_topic[RM_TOPICS];
  bool known[RM_PARTITIONS]; /* to the broker: a batch was appended there */
  struct rm_message queue[RM_PARTITIONS][RM_ROWS * 2];
  size_t first[RM_PARTITIONS], count[RM_PARTITIONS];
  struct rm_report reports[RM_ROWS * 4];
  size_t report_first, report_count;
};
struct rm_ghost { /* requests of a producer that is gone, still on their way to one partition */
  int partition;
  bool proven; /* its producer had got a message into that topic */
  int rows[4];
  size_t first, count;
};

struct rm_model {
  uint64_t rng;
  bool verbose;
  const char *violation;
  char text[200];
  /* what this seed does */
  unsigned commit_weight, bad_percent, topic_trouble, producer_trouble;
  unsigned kill_every;     /* steps, about */
  unsigned decide_percent; /* 0: nobody decides about failed messages */
  uint64_t retried, edited, discarded;
  bool healing;
  /* PostgreSQL */
  int64_t now_us, drawn;
  uint64_t stamp, next_xid;
  struct rm_tx txs[RM_TXS];
  int tx_count;
  struct rm_row rows[RM_ROWS];
  int row_count;
  struct rm_stored stored,
      durable;          /* durable: what a crash of the server leaves; a relay commits without waiting for the disk */
  bool accepts_anybody; /* planted: epochs are not compared */
  /* Kafka */
  bool topic_there[RM_TOPICS];
  struct rm_ghost ghosts[RM_GHOSTS];
  size_t ghost_count;
};

void rm_init(struct rm_model *m, uint64_t seed, bool verbose);
uint64_t rm_random(struct rm_model *m, uint64_t below);
bool rm_chance(struct rm_model *m, unsigned percent);
void rm_fail(struct rm_model *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void rm_trace(const struct rm_model *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A row in an edition, as a reader and Kafka's queue name it. */
static inline int rm_row_id(int index, unsigned edition) {
  return index | (int)(edition << 16);
}
static inline int rm_row_of(int id) {
  return id & 0xffff;
}
static inline unsigned rm_edition_of(int id) {
  return (unsigned)id >> 16;
}
/* Its number in txb.failed. */
static inline int64_t rm_failed_of(int id) {
  return id + 1;
}

/* PostgreSQL */
void rm_applications_step(struct rm_model *m); /* one step of one transaction */
bool rm_applications_done(const struct rm_model *m);
void rm_server_crash(struct rm_model *m); /* open transactions are gone, prepared ones stay, numbers are skipped */
void rm_snapshot_take(const struct rm_model *m, struct rm_snapshot *s);
bool rm_visible(const struct rm_model *m, const struct rm_row *row, const struct rm_snapshot *s);
/* The checkpoint as a transaction: true if it was accepted. `pages` are replaced by `holes`; topic_lo: -1 leaves a
 * hold, 0 ends it. */
bool rm_checkpoint(struct rm_model *m, int64_t epoch, unsigned char instance, int64_t number, int64_t highest,
                   int64_t watermark, const int64_t *pages, size_t page_count, const struct rm_range *holes,
                   size_t hole_count, const int64_t topic_lo[RM_TOPICS]);
bool rm_record_failed(struct rm_model *m, int64_t epoch, unsigned char instance, int id);
/* A person decides about a failed message, at some moments. */
void rm_person_step(struct rm_model *m);
/* The part of a checkpoint's transaction about failed messages, before it: `number` as in rm_checkpoint. key_lo: -1
 * leaves a hold, 0 ends it. */
void rm_settle(struct rm_model *m, int64_t epoch, unsigned char instance, int64_t number, const int64_t *published,
               size_t published_count, const int64_t key_lo[RM_TOPICS][RM_KEYS]);
/* Takes the notes of decisions: which keys, and whether some are without a key. */
bool rm_take_decisions(struct rm_model *m, int64_t epoch, unsigned char instance, bool keys[RM_TOPICS][RM_KEYS],
                       bool *loose);
bool rm_is_stored_hole(const struct rm_stored *s, int64_t seq);
bool rm_all_settled(const struct rm_model *m); /* nobody has anything left to decide, or to carry out */

/* Kafka */
void rm_producer_open(struct rm_producer *p);
void rm_producer_close(struct rm_model *m, struct rm_producer *p); /* some of its requests may still arrive */
/* current: by the relay that holds the source. */
void rm_produce(struct rm_model *m, struct rm_producer *p, uint64_t ticket, int id, bool current);
void rm_kafka_step(struct rm_model *m, struct rm_producer *p); /* p may be NULL */

void rm_topic_step(struct rm_model *m, struct rm_producer *const *producers, size_t count);
/* Every topic that is away comes back, as soon as it may. */
void rm_topics_heal(struct rm_model *m, struct rm_producer *const *producers, size_t count);

/* At the end: everything committed is published or discarded, or failed, or behind a failed one, where nobody decides;
 * nothing is left open. */
void rm_verify_end(struct rm_model *m);

#endif
