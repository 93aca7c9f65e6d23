/* What a worker does next: a pure state machine over its assigned partitions. Events come in with their time, actions
 * are asked for one by one.
 *
 * One database operation runs at a time (one connection, one thread): LOOKUP, START, TAKE, EVICT, KEYS, MARK, RUN,
 * RETRY_MARK, RETRY, CONDEMN, STALL, PASS, RELEASE. Kafka's (CONFIRM, FETCH, UNFETCH, PAUSE, RESUME, COPY, LEAVE) are told and not waited for, but for CONFIRM,
 * which is answered by an event.
 *
 *   assigned -> LOOKUP -> [START] -> CONFIRM -> TAKE -> KEYS, FETCH -> (MARK) RUN, RUN, ... -> revoked -> RELEASE -> LEAVE
 *                                                        RETRY_MARK, RETRY, between them when something is due
 *
 * A batch runs fast first. When it fails it is run again isolated (consumer/isolate_core.h): what failed, and what is
 * behind that in its key, goes to txb.failed and the partition goes on. Retries of those belong to whoever owns the
 * partition, always under a marker (W10). Only what is nobody's fault (WAIT) or can't be set aside (LIMIT) stands still
 * in place.
 *
 * A crash between any two actions leaves rows that the next owner can go on from: see partition_core.h.
 */
#ifndef TXB_CONSUMER_WORKER_CORE_H
#define TXB_CONSUMER_WORKER_CORE_H

#include "consumer/partition_core.h"

struct txb_worker_core {
  struct txb_worker_core_options options;
  struct txb_partition *partitions; /* by slot */
  size_t slots, used, lanes;        /* lanes: of the used ones */
  bool up;                          /* there is a connection to the database */
  bool stopping;
  int64_t copy_due_us; /* when offsets may be copied to Kafka next; all at once */
  bool copying;        /* some have been */
  int busy_slot;       /* of the database operation under way, -1: none */
  int busy_kind;       /* enum txb_worker_action_kind */
  int32_t busy_count;
  bool busy_isolated, busy_condemn;
  int64_t busy_next; /* new position of a RUN or PASS */
  int exclusive;     /* this slot has a committed marker out: no other may run (W10); -1: none */
  size_t turn;       /* the slot of a partition that may run next; `slots`: this round is over, a lane comes */
  size_t lane_turn;  /* of the lanes the one that comes next */
};

enum txb_worker_event_kind {
  TXB_WE_TIME = 0,     /* only the time has passed */
  TXB_WE_UP,           /* connected to the database */
  TXB_WE_DOWN,         /* the connection is gone: the operation under way has no answer, every epoch is doubtful */
  TXB_WE_GIVEN_UP,     /* the same by our own doing: no message is to blame for it */
  TXB_WE_REVOKED,      /* slot: the group wants it back */
  TXB_WE_LOST,         /* slot: another may own it already */
  TXB_WE_STOP,         /* give everything back */
  TXB_WE_LOOKED_UP,    /* slot, found, offset, keys_version */
  TXB_WE_STARTED,      /* slot, found: positions are registered (look up again), or not now */
  TXB_WE_CONFIRMED,    /* slot, found: accepted, or refused */
  TXB_WE_TAKEN,        /* slot, position */
  TXB_WE_LOCKED,       /* slot: TAKE waited for its lock in vain */
  TXB_WE_MISSING,      /* slot: TAKE found no row */
  TXB_WE_REFUSED,      /* slot: the operation under way needs a person */
  TXB_WE_EVICTED,      /* slot */
  TXB_WE_RANGE,        /* slot, low, high: what was asked for lies outside of what Kafka has */
  TXB_WE_END,          /* slot, offset: nothing more there for now; more: of a lane, that is read on behind it */
  TXB_WE_MARKED,       /* slot */
  TXB_WE_COMMITTED,    /* slot, tag_commit: COMMIT was answered without an error. settled, failed, due_ms, held_count,
                       transient, chunk, aside */
  TXB_WE_FAILED,       /* slot, failure, at, after_ms: RUN or RETRY rolled back. Of the others: not now */
  TXB_WE_FENCED,       /* slot: a compare-and-set missed; rolled back */
  TXB_WE_STALLED,      /* slot: recorded */
  TXB_WE_PASSED,       /* slot */
  TXB_WE_RELEASED,     /* slot */
  TXB_WE_KEYS,         /* slot, keys_version, due_ms, held_count: the set of held keys is that of this version */
  TXB_WE_KEYS_CHANGED, /* slot: RUN or RETRY met another keys_version (TXB05); rolled back */
  TXB_WE_RETRY_MARKED, /* slot, count, number (of the first row), keys_version; count 0: nothing is due, no marker is out,
                          due_ms */
  TXB_WE_RETRIED,      /* slot, settled, failed, due_ms, held_count, transient: committed, the marker is in */
  TXB_WE_CONDEMNED,    /* slot, due_ms, held_count: committed, the marker is in */
};

struct txb_worker_event {
  enum txb_worker_event_kind kind;
  int slot;
  int64_t now_us;  /* steady */
  uint64_t random; /* for jitter */
  bool found, tag_commit, more;
  bool aside; /* something was set aside, failed or held */
  int64_t offset, low, high;
  enum txb_failure failure;
  int32_t at; /* index of the record or row to blame; -1: unknown. Of an isolated RUN, or of RETRY: 0 says that the
                       first one met it alone */
  int64_t after_ms; /* the handler's own wish; 0: none */
  struct txb_position position;
  int64_t keys_version;
  int64_t
      due_ms; /* until something is due for a retry; -1: nothing. Of COMMITTED: of what was set aside just now; else of
                     the whole partition */
  int64_t held_count;     /* held rows of this partition; -1: not told */
  int32_t count, settled; /* rows under the marker; records or rows that are done with: of COMMITTED a prefix of the
                              batch, at least 1, less than count when it was cut */
  int32_t failed;         /* failed messages among the settled (not those behind them) */
  bool transient;         /* cut before one that failed for a passing reason */
  int32_t chunk;          /* of an isolated COMMITTED: txb_isolate_chunk; 0: not told */
  int64_t number;
};

enum txb_worker_action_kind {
  TXB_WA_NONE = 0,
  /* database: each is answered, or the connection is gone */
  TXB_WA_LOOKUP,
  TXB_WA_START, /* register the start positions of its topic */
  TXB_WA_TAKE,
  TXB_WA_EVICT, /* end the backend that holds the row (W3) */
  TXB_WA_MARK,  /* epoch, offset, count: commit the marker */
  TXB_WA_RUN, /* epoch, expected_next, new_next, count, attempt (always 1), keys_version, isolated, chunk, at, condemn,
                     failure, after_ms, patience_over, skip. Answered by COMMITTED, FAILED, KEYS_CHANGED, FENCED */
  TXB_WA_STALL,   /* epoch, offset, attempts, delay_ms (-1: needs a person), failure (WAIT, LIMIT) or stop, keep_suspect
                     (false since nothing that died stands still) */
  TXB_WA_PASS,    /* epoch, expected_next, new_next: no record lies between */
  TXB_WA_RELEASE, /* epoch */
  TXB_WA_KEYS,    /* read txb.failed_keys. Answered by KEYS or FAILED */
  TXB_WA_RETRY_MARK, /* epoch, count (rows at most: 1 = one head alone, 0 = only take an older marker in), suspect.
                        Commits the marker and remembers the rows. Answered by RETRY_MARKED, FAILED, FENCED */
  TXB_WA_RETRY,   /* epoch, keys_version, count, chunk, patience_over; condemn, failure, after_ms: the row (it is one)
                        failed already, and is settled without being run. Answered by RETRIED, FAILED, KEYS_CHANGED,
                        FENCED. Where nothing is settled: rolled back, FAILED */
  TXB_WA_CONDEMN, /* epoch, number: that row died twice alone; dead. Answered by CONDEMNED, FAILED, FENCED */
  /* Kafka */
  TXB_WA_CONFIRM, /* offset: commit it and tell whether the group accepted */
  TXB_WA_FETCH,   /* offset: fetch from there, whatever was fetched before is void */
  TXB_WA_UNFETCH,
  TXB_WA_PAUSE,
  TXB_WA_RESUME, /* offset: fetch from there */
  TXB_WA_COPY,   /* offset: for the lag tools */
  TXB_WA_LEAVE,  /* the slot is free from now on */
  /* the log */
  TXB_WA_TELL, /* stop: a person must decide; at most once until the reason changes */
};

struct txb_worker_action {
  enum txb_worker_action_kind kind;
  int slot;
  int64_t epoch, offset;
  int64_t expected_next, new_next;
  int32_t count, attempt;
  bool skip; /* planted bug */
  int32_t attempts;
  int64_t delay_ms;
  enum txb_failure failure;
  enum txb_stop stop;
  bool keep_suspect;
  int64_t keys_version; /* to be compared when the transaction opens */
  bool isolated;        /* under savepoints */
  int32_t chunk;        /* the first piece's size */
  int32_t at;           /* index of a record that is known to fail; -1: none */
  bool condemn; /* the record (it is one) is set aside without being run, because of `failure`: CRASH, dead; ERROR, an
                   attempt that failed with the error told last, and after_ms */
  int64_t after_ms;
  bool patience_over; /* a TXB_CLASS_FREE failure of the first record or row, alone, counts now (TXB_CAUSE_CONFLICT) */
  bool suspect;       /* of RETRY_MARK: the rows of suspect_failed come first */
  int64_t number;
};

void txb_worker_core_init(struct txb_worker_core *core, const struct txb_worker_core_options *options);
void txb_worker_core_fini(struct txb_worker_core *core);
/* A partition was assigned, or the lease of a lane was got: a slot for it, until its LEAVE. TXB_FATAL: no memory, nothing
 * changed. For a lane of a replay the same is asked for as for a partition, with these differences:
 *
 *   START, COPY    never come. Where LOOKUP finds no row it is looked for again a little later
 *   CONFIRM        renew the lease, and answer CONFIRMED; or LOST, when it is another's
 *   FETCH          from `offset` on exactly: nothing below it is looked at (W9 is Kafka's)
 *   PAUSE, RESUME  as for Kafka: END is to be told again after RESUME, when it is so
 *   END            nothing more of this lane lies below `offset`: the position goes there (PASS) when all before it is
 *                  applied. To be told at the end of what may be read for now; with `more` also wherever much was read in
 *                  vain
 *   KEYS           follows everything by which failed messages of the lane came or went: what a live partition holds it has
 *                  to mind as well (J1), and which key belongs to whom the database alone knows
 *   RANGE          the outbox has lost intents at or above the position (low: the lowest there is), or ends below it
 *   LEAVE          free the lease
 */
enum txb_rc txb_worker_core_assign(struct txb_worker_core *core, bool lane, int64_t now_us, int *slot_out,
                                   struct txb_error *err) TXB_MUST_CHECK;
/* A record was fetched. TXB_OK: its ref is the core's and comes back through drop. TXB_FATAL: no memory, it is still
 * the caller's. */
enum txb_rc txb_worker_core_record(struct txb_worker_core *core, int slot, const struct txb_worker_record *record,
                                   int64_t now_us, struct txb_error *err) TXB_MUST_CHECK;
void txb_worker_core_step(struct txb_worker_core *core, const struct txb_worker_event *event);
/* The next thing to do at `now_us`, if any; to be called until it gives none. What it gives is under way from then on.
 */
bool txb_worker_core_next(struct txb_worker_core *core, int64_t now_us, struct txb_worker_action *out);
/* When next may give something without an event before; INT64_MAX: never. */
int64_t txb_worker_core_due_us(const struct txb_worker_core *core);
/* Record `index` of a slot's RUN. */
const struct txb_worker_record *txb_worker_core_running(const struct txb_worker_core *core, int slot, int32_t index);
/* While a RUN is under way: the batch that will most likely follow it, `base` records behind the head of its slot.
 * False: none that is full. */
bool txb_worker_core_ahead(const struct txb_worker_core *core, int *slot_out, int32_t *base_out, int32_t *count_out);
/* Everything assigned is applied, or set aside, to the end that Kafka told, and at least one partition is assigned. What
 * was set aside and is to be retried later is not waited for. A lane counts while it has something to apply, not when it
 * waits at the end that it was told, or for a person; lanes alone are not idle. */
bool txb_worker_core_idle(const struct txb_worker_core *core);
/* Everything below it is applied; -1: the slot is not owned now. */
int64_t txb_worker_core_position(const struct txb_worker_core *core, int slot);
/* Offset of the last message that was consumed, and its id; -1: none was. Of a slot that is owned. */
int64_t txb_worker_core_last(const struct txb_worker_core *core, int slot, struct txb_uuid *id_out);
/* For status: what this slot's fetched records hold. */
int64_t txb_worker_core_bytes(const struct txb_worker_core *core);

#endif
