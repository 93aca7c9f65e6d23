/* One assigned partition as the worker sees it: who owns it, what was fetched of it, how many messages go into a
 * transaction, and what went wrong. Pure.
 *
 * A lane is one, too: what a replay reads of the source's outbox, with the seq as offset. All that is Kafka's alone is not
 * for lanes: no topic by the same name (W9), no start rule, no copy of the offset. Its seqs have gaps for good, since other
 * topics' intents and those that the replay leaves out lie between.
 *
 * The truth is the row in txb.consumer_offset; this is what is known of it. A crash loses all of it and nothing else:
 * the successor reads the row. Only consumer/worker_core.c and the tests touch the fields.
 */
#ifndef TXB_CONSUMER_PARTITION_CORE_H
#define TXB_CONSUMER_PARTITION_CORE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/uuid.h"

enum { TXB_PARTITION_GROW_AFTER = 4 }; /* commits at a reduced size before it doubles, at first (W8) */

struct txb_worker_core_options {
  int32_t batch_messages; /* of one transaction, at most; >= 1 */
  int64_t batch_bytes;    /* likewise; a single message may be larger */
  int64_t batch_wait_us;  /* how long an incomplete batch waits for more */
  int64_t buffer_bytes;   /* fetched and not applied, over all partitions: each has its share, above which its fetching
                             pauses */
  int64_t retry_first_ms, retry_cap_ms;
  int64_t evict_us;   /* how long a take waits for the lock of a stopped owner before it asks the server to end that
                         owner's backend (W3) */
  int64_t copy_us;    /* at most one copy of an offset to Kafka in this time */
  int64_t quiet_us;   /* a partition that was quiet for so long may be of another topic by the same name (W9) */
  int64_t look_us;    /* how often an idle partition looks at its row */
  int64_t recheck_us; /* a stopped partition looks whether a person has decided, first after this */
  void (*drop)(void *context, void *ref); /* a record is done with */
  void *drop_context;
  bool bug_error_skips;        /* planted: a message that fails is passed over */
  bool bug_commit_tag_ignored; /* planted: COMMIT counts whatever it answered (W1) */
};

/* What the core knows of a fetched record. */
struct txb_worker_record {
  int64_t offset;
  int64_t timestamp_ms;
  struct txb_uuid id;
  int64_t size; /* bytes that it holds in memory */
  void *ref;    /* the process's own */
};

/* The way to owning a partition; every arrow needs an answer from outside. */
enum txb_ownership {
  TXB_OWN_LOOKUP = 0, /* the stored position is to be read */
  TXB_OWN_START,      /* there is none: positions of the topic are to be registered by the start rule */
  TXB_OWN_CONFIRM,    /* the group must accept an offset commit under the present generation (W4) */
  TXB_OWN_TAKE,       /* it did: the epoch is to be raised */
  TXB_OWN_OWNED,      /* batches may run */
  TXB_OWN_STOPPED,    /* a person must decide; looks again now and then */
};

/* Why a partition needs a person. */
enum txb_stop {
  TXB_STOP_NONE = 0,
  TXB_STOP_DIFFERENT, /* W9: the record below the position is not the one applied last: the topic was made anew or
                         truncated */
  TXB_STOP_DELETED,   /* Kafka deleted records that were not applied yet */
  TXB_STOP_BEYOND,    /* the topic ends before the position */
  TXB_STOP_REFUSED,   /* the database refused to hand it over: another cluster (TXB04), no permission */
};

/* So many connections lost in a row while one message ran alone condemn it (W10): few where the server stayed, many where
 * it went too, since that is seldom a message's doing, and whoever restarts a server twice must not set messages aside. */
enum { TXB_LOST_SESSIONS = 2, TXB_LOST_SERVERS = 8 };

/* Why a batch did not commit. */
enum txb_failure {
  TXB_FAILURE_ERROR = 0, /* one that counts (TXB_CLASS_COUNT, TXB_CLASS_DEAD): the batch is run again isolated (W5), a
                            message that ran alone is set aside */
  TXB_FAILURE_CONFLICT,  /* TXB_CLASS_FREE: at once again, smaller (W8); alone a few times, then it counts */
  TXB_FAILURE_WAIT,      /* TXB_CLASS_WAIT: the server is in trouble; waits in place */
  TXB_FAILURE_LIMIT, /* the message at the head may not be held: its key, or the group, has too many; waits in place */
  TXB_FAILURE_CRASH, /* the process or its backend died under it, twice (W10) */
};

struct txb_partition {
  bool used, lane;
  enum txb_ownership own;
  bool asked;     /* an answer for `own` is under way */
  int64_t due_us; /* nothing is done for it before */

  bool leaving, lost; /* the group wants it back, or has given it to another already */
  bool taken;         /* epoch is ours as far as we know: to be released */
  int64_t epoch;
  int64_t next_offset; /* everything below is applied */
  int64_t confirm_offset;
  int64_t take_since_us; /* waiting for a stopped owner's lock; 0: not */
  uint32_t refusals;     /* of CONFIRM or STOPPED, in a row: the pauses grow */
  enum txb_stop stop;
  bool stop_told;

  bool fetching, paused;
  bool doubted;         /* W9: to be taken anew once the operation under way has ended */
  int64_t fetch_offset; /* the next that Kafka shall give; everything below was buffered or is applied */
  bool probing;         /* W9: the record applied last has been asked for */
  int64_t probed_next;  /* the position for which it was compared last; -1: none */
  int64_t heard_us;     /* when the last record came, or was compared */
  int64_t look_us;      /* an idle partition looks at its row then: an operator may have set its position */
  int64_t end_offset;   /* Kafka said that nothing lies at or above it; -1: not yet */
  bool more;            /* of a lane: nothing below it, and more may come without being waited for */
  bool has_last;
  struct txb_uuid last_id;
  int64_t last_timestamp_ms, last_offset;

  struct txb_worker_record *ring;
  size_t ring_size, head, count; /* ring_size is a power of two */
  int64_t bytes;
  int64_t waiting_since_us; /* arrival of the oldest record that waits */

  int32_t limit, good, grow_after; /* messages a batch; commits since it changed; commits until it doubles */
  int32_t lost_alone;              /* connections lost in a row while one message ran alone */
  int64_t lost_alone_offset;
  bool lost_with_server; /* in one of those cases no new connection could be made either: that may be anybody's doing */
  int32_t conflicts;     /* of the message at the head, alone, in a row */

  /* Isolated (W5): after a batch failed, and for a while longer the more often it does. */
  int32_t isolated_left;    /* batches still to run so */
  bool isolated_again;      /* the batch that failed is not through yet: its own failures are no news */
  int32_t isolated_stay;    /* how many the next failure makes */
  int32_t chunk;            /* the first piece's size */
  int64_t culprit_offset;   /* is known to fail: run alone; -1: none */
  int64_t condemned_offset; /* set aside without being run; -1: none */
  enum txb_failure condemned_failure;
  int64_t condemned_after_ms; /* its handler's own wish */

  /* Standing still in place: WAIT and LIMIT. */
  int64_t stalled_offset; /* -1: none */
  int32_t attempts;
  int64_t stall_due_us;
  bool stall_unrecorded;
  int32_t stall_tries; /* to record it */
  enum txb_failure stall_failure;
  int64_t stall_delay_ms;
  bool skip_head;    /* bug_error_skips */
  bool limit_looked; /* LIMIT: how many are held was read anew since */

  /* Failed messages: what is held, and what is tried again when. */
  bool keys_known; /* as of keys_version; else KEYS comes first */
  int64_t keys_version;
  int64_t held_count;                   /* rows of this partition that are held */
  int64_t retry_due_us;                 /* INT64_MAX: nothing is to be retried */
  int32_t retry_marked;                 /* rows under a committed marker now; 0: none */
  bool retry_mark_out;                  /* a marker of retries may be out, whatever became of its rows */
  int64_t retry_version;                /* keys_version as the marker saw it */
  int64_t retry_number;                 /* of the row when it is one */
  int32_t retry_singles;                /* rows still to be run one at a time */
  bool retry_suspects;                  /* those that the last owner died on come first */
  int32_t retry_conflicts, retry_waits; /* in a row */
  int32_t retry_lost_alone;             /* connections lost in a row while one row ran alone */
  int64_t retry_lost_number;
  bool retry_lost_with_server;
  int64_t retry_condemned;    /* a row that is to be set dead without being run; -1: none */
  bool retry_condemn_attempt; /* the row under the marker failed at its COMMIT: settle it without running it */
  int64_t retry_after_ms;
  int32_t retry_limit; /* rows a retry, at most */
  bool live_turn;      /* a batch goes before the next retry */

  int32_t suspect_left; /* suspect mode: records still to be gone through under markers */
  int32_t singles_left; /* of those, to be run one at a time */
  int32_t suspect_step; /* records under the next marker */
  int64_t suspect_offset;
  bool suspects;     /* an owner died, or a connection was lost while a batch ran, and that is not gone through yet */
  int64_t lost_next; /* the position when that connection went, if nothing was suspected before; else -1 */
  int64_t marked_offset; /* under a committed marker now; -1: none */
  int32_t marked_count;

  bool handed_on; /* what is suspected was marked for the next owner */

  int64_t copied_offset;
};

void txb_partition_init(struct txb_partition *p, const struct txb_worker_core_options *o, bool lane);
/* Drops all records and gives the memory back. */
void txb_partition_fini(struct txb_partition *p, const struct txb_worker_core_options *o);

const struct txb_worker_record *txb_partition_record(const struct txb_partition *p, size_t index);
/* A record from Kafka at `now_us`. Old news is dropped. TXB_FATAL: no memory, and the record is still the caller's. */
enum txb_rc txb_partition_push(struct txb_partition *p, const struct txb_worker_core_options *o,
                               const struct txb_worker_record *record, int64_t now_us,
                               struct txb_error *err) TXB_MUST_CHECK;
/* Drops the first n records. */
void txb_partition_pop(struct txb_partition *p, const struct txb_worker_core_options *o, size_t n, int64_t now_us);
/* How many records the next transaction takes; 0: it waits for more. `share` is this partition's part of the buffer. */
int32_t txb_partition_batch(const struct txb_partition *p, const struct txb_worker_core_options *o, int64_t now_us,
                            int64_t share);

/* How many records a full batch behind the first `base` takes; 0: there are not enough for a full one. */
int32_t txb_partition_full(const struct txb_partition *p, const struct txb_worker_core_options *o, int32_t base);

/* What the stored row said. */
struct txb_position {
  int64_t epoch, next_offset;
  bool has_last;
  struct txb_uuid last_id;
  int64_t last_timestamp_ms, last_offset;
  bool suspect;           /* its last owner died on it, or a suspect is still open */
  int64_t suspect_offset; /* -1: none */
  int32_t suspect_count, suspect_deaths;
  bool suspect_died;      /* a death was added by this take */
  int64_t stalled_offset; /* -1: none */
  int32_t attempts;
  int64_t due_ms; /* until the next attempt */
  int64_t keys_version;
  int32_t suspect_failed_count;  /* the marker was about so many failed messages; 0: about records, or there was none */
  int64_t suspect_failed_number; /* that one, when it is one */
};
void txb_partition_taken(struct txb_partition *p, const struct txb_worker_core_options *o,
                         const struct txb_position *row, int64_t now_us);
/* The connection is gone, the epoch doubtful, or somebody else wrote: nothing is known of what is held, marked or due. */
void txb_partition_forget(struct txb_partition *p);

/* How a batch was run and what came of it. */
struct txb_partition_ran {
  int32_t count; /* records that it took */
  bool isolated, condemn;
  /* committed */
  int32_t settled, failed; /* a prefix of it; failed messages in that */
  int64_t new_next;        /* behind the settled */
  int64_t due_ms, held_count;
  bool transient;
  int32_t chunk;
  /* rolled back */
  enum txb_failure failure;
  int32_t at; /* index of the record to blame; -1: unknown */
  int64_t after_ms;
};
void txb_partition_committed(struct txb_partition *p, const struct txb_worker_core_options *o,
                             const struct txb_partition_ran *ran, int64_t now_us);
void txb_partition_failed(struct txb_partition *p, const struct txb_worker_core_options *o,
                          const struct txb_partition_ran *ran, int64_t now_us, uint64_t random);
/* The connection went while `count` records ran: nobody knows whose fault, or whether they are committed. `given_up`: by
 * our own doing. */
void txb_partition_interrupted(struct txb_partition *p, int32_t count, bool given_up);
/* Whether a message that met only passing failures, alone, has used up its patience: from then on they count. */
bool txb_partition_impatient(int32_t conflicts);

/* ---- retries (partition_retry_core.c) ---- */
/* Which keys are held is known, as of a version; something is due in due_ms (-1: nothing). */
void txb_partition_keys(struct txb_partition *p, int64_t keys_version, int64_t due_ms, int64_t held_count,
                        int64_t now_us);
/* Something of a retry must be done before anything else of this partition. */
bool txb_partition_retry_first(const struct txb_partition *p);
/* When a retry may begin; INT64_MAX: not, or not before an event. */
int64_t txb_partition_retry_us(const struct txb_partition *p);
/* Rows that the next marker takes: 0 takes in an older one. */
int32_t txb_partition_retry_rows(const struct txb_partition *p, int64_t now_us);
/* `asked`: the rows of the mark. */
void txb_partition_retry_marked(struct txb_partition *p, int32_t asked, int32_t count, int64_t number,
                                int64_t keys_version, int64_t due_ms, int64_t now_us);
void txb_partition_retried(struct txb_partition *p, const struct txb_worker_core_options *o,
                           const struct txb_partition_ran *ran, int64_t now_us);
void txb_partition_retry_failed(struct txb_partition *p, const struct txb_worker_core_options *o,
                                const struct txb_partition_ran *ran, int64_t now_us, uint64_t random);
/* The keys were changed by somebody else: what was marked is to be marked anew. */
void txb_partition_retry_again(struct txb_partition *p);
/* The connection went while a single row ran. */
void txb_partition_retry_interrupted(struct txb_partition *p);
void txb_partition_condemned(struct txb_partition *p, int64_t due_ms, int64_t held_count, int64_t now_us);
/* What the row of a new owner says of retries. */
void txb_partition_retry_taken(struct txb_partition *p, const struct txb_position *row);
void txb_partition_due(struct txb_partition *p, int64_t due_ms, int64_t now_us);
/* A partition that stands still because too many are held looks again: some went. */
void txb_partition_released(struct txb_partition *p, int64_t now_us);

void txb_partition_stop(struct txb_partition *p, const struct txb_worker_core_options *o, enum txb_stop why,
                        int64_t now_us);
/* Kafka has told an end that lies above the position, and every record below it is applied: what is left are ends of
 * transactions and aborted records. Told to a reader of committed records, the end is where the first open transaction
 * begins, so nothing that may still be committed is below it. */
bool txb_partition_passes(const struct txb_partition *p);
void txb_partition_passed(struct txb_partition *p, int64_t new_next);
/* Whether every record below Kafka's end is applied, and the position stands there. */
bool txb_partition_idle(const struct txb_partition *p);

/* W6: of equal ids in one batch only the first is a candidate for the handler; the rest are duplicates. ids are sorted
 * by value in `order` (indexes, room for count); first[i] tells for each. Needs no memory. Returns the number of
 * candidates. */
size_t txb_batch_candidates(const struct txb_uuid *ids, size_t count, uint32_t *order, bool *first);

#endif
