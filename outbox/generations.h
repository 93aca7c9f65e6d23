/* Generations of holes: which sessions could still fill which hole (R1, R3). Pure; after a crash or reconnect all
 * stored holes are one new generation.
 *
 * Holes that were noted since the last listing form the open generation. Then, for each:
 *   noted   asked for in every poll
 *   listed  after its noting, the holders of RowExclusiveLock on txb.outbox were listed. Whoever could fill it held
 *           that lock since before it drew the number; so it is on the list, or ended before the listing. Asked for in
 *           every poll.
 *   looked  one whole poll, begun after that listing, has asked for all of it: what those who had ended committed has
 *           been read. Now only transactions on the list can fill it, so a poll may leave it out, if each of them was
 *           still running in that poll's own snapshot. Otherwise the poll is thrown away: a row of the generation might
 *           be visible in it, and might come before a row that the poll did read.
 *   When a listing shows a holder gone, what it committed has not been looked for: back to listed.
 *   When all are gone, one last look of its own: numbers that are not there then are dead.
 *
 * A holder is its virtual transaction, never its pid (PREPARE TRANSACTION keeps the first and drops the second). Its
 * xid also identifies it.
 */
#ifndef TXB_OUTBOX_GENERATIONS_H
#define TXB_OUTBOX_GENERATIONS_H

#include "outbox/holes.h"

/* Someone who holds RowExclusiveLock on txb.outbox. */
struct txb_holder {
  int32_t backend; /* virtualtransaction "backend/local" */
  uint32_t local;
  uint32_t xid; /* top-level transaction id; 0: none yet */
  int32_t pid;  /* 0: a prepared transaction. For people only */
};

/* A poll's own snapshot, as pg_current_snapshot() prints it. */
struct txb_snapshot {
  uint64_t xmax;       /* from here on everything is running or unborn */
  const uint64_t *xip; /* below it, still running; ascending */
  size_t xip_count;
};
/* Whether nothing of this transaction is visible in the snapshot. A xid of 0 (none seen yet) is never running: it
 * counts as ended. */
bool txb_snapshot_is_running(const struct txb_snapshot *snapshot, uint32_t xid);

struct txb_generation {
  struct txb_holes holes;
  struct txb_holder *holders; /* those of its listing that have not ended since; sorted by (backend, local) */
  size_t holder_count;
  int64_t noted_us; /* steady time when its first hole was noted */
  bool closed;      /* a listing was sent after its last hole: nothing is added any more */
  bool listed, looked;
  bool left_out;        /* of the poll that is under way */
  bool judging;         /* a last look is under way */
  bool row_waits;       /* a last look found a row: no other look before polls have asked for all of it again */
  uint64_t counts_from; /* the first poll that counts as a look */
  uint32_t quiet;       /* listings in a row that changed nothing */
};

/* When a generation is left out. Safety does not depend on these. */
struct txb_generation_policy {
  size_t ask_freely;      /* cost of asking (a range, or 64 numbers) up to which everything is asked for */
  uint32_t quiet_min;     /* listings without a change before one is left out */
  size_t look_ranges;     /* ranges a last look has at most */
  size_t generations_max; /* more are merged */
};

struct txb_generations {
  struct txb_generation *items; /* in the order of their noting; the open one is last */
  size_t count, capacity;
  struct txb_generation_policy policy;
  struct txb_pages changed; /* pages whose holes differ from what is stored; its user clears what it has stored */
  struct txb_range *asked;  /* what the last poll asked for, in order: valid until the next one is sent */
  size_t asked_count, asked_capacity;
  struct txb_range *look; /* what the last look asked for, likewise */
  size_t look_count, look_capacity;
};

void txb_generations_init(struct txb_generations *g, const struct txb_generation_policy *policy);
void txb_generations_fini(struct txb_generations *g);
void txb_generations_clear(struct txb_generations *g);
size_t txb_generations_ranges(const struct txb_generations *g); /* of all together: memory */
/* The lowest hole, and when its generation was noted; 0 when there is none. */
int64_t txb_generations_lowest(const struct txb_generations *g, int64_t *noted_us_out);

/* Notes lo..hi in the open generation. */
enum txb_rc txb_generations_note(struct txb_generations *g, int64_t lo, int64_t hi, int64_t now_us,
                                 struct txb_error *err) TXB_MUST_CHECK;
/* A hole's row has come: takes the number out. was_out as in txb_holes_remove. */
enum txb_rc txb_generations_remove(struct txb_generations *g, int64_t seq, struct txb_range *was_out,
                                   struct txb_error *err) TXB_MUST_CHECK;

/* A listing is sent now: the open generation ends here, because only who drew a number before the listing is on it. */
void txb_generations_list_sent(struct txb_generations *g);
/* Its answer, which gets sorted. next_poll is the number of the first poll that begins after it. *changed_out:
 * something moved, list again soon. */
enum txb_rc txb_generations_listed(struct txb_generations *g, struct txb_holder *holders, size_t count,
                                   uint64_t next_poll, bool *changed_out, struct txb_error *err) TXB_MUST_CHECK;

/* A poll is sent now: g->asked gets the ranges to ask for; everything: leave nothing out (the poll before was thrown
 * away). */
enum txb_rc txb_generations_poll_sent(struct txb_generations *g, uint64_t poll, bool everything,
                                      struct txb_error *err) TXB_MUST_CHECK;
/* Its answer came: false if it must be thrown away. */
bool txb_generations_poll_is_usable(struct txb_generations *g, const struct txb_snapshot *snapshot);
/* It was used, and nothing of it was cut off by a limit: it was a look at all that it asked for. */
void txb_generations_looked(struct txb_generations *g, uint64_t poll);

/* Begins a last look if one is due and none is under way: g->look gets its ranges. */
enum txb_rc txb_generations_look_begin(struct txb_generations *g, bool *begun_out,
                                       struct txb_error *err) TXB_MUST_CHECK;
/* Its answer. found: one of the numbers is there, polls will read it. Otherwise they are dead and taken out. */
enum txb_rc txb_generations_look_end(struct txb_generations *g, bool found, uint64_t next_poll,
                                     struct txb_error *err) TXB_MUST_CHECK;

#endif
