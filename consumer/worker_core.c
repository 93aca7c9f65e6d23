/* See worker_core.h. Pure: no clock, no log, no libpq, no librdkafka. */
#include "consumer/worker_core.h"

#include <string.h>

#include "common/memory.h"
#include "consumer/worker_core_internal.h"

#define LOCKED_AGAIN_US 200000  /* between two tries to lock the row of a stopped owner */
#define STALL_TRIES     5       /* to record a stall */
#define LATER_US        1000000 /* what did not work for a passing reason is tried again after this */

void txb_worker_core_init(struct txb_worker_core *core, const struct txb_worker_core_options *options) {
  *core = (struct txb_worker_core){.options = *options, .busy_slot = -1, .exclusive = -1};
  TXB_ASSERT(options->batch_messages >= 1 && options->batch_bytes >= 1);
}

void txb_worker_core_fini(struct txb_worker_core *core) {
  for (size_t i = 0; i < core->slots; i++)
    if (core->partitions[i].used)
      txb_partition_fini(&core->partitions[i], &core->options);
  txb_free(core->partitions);
  *core = (struct txb_worker_core){.busy_slot = -1, .exclusive = -1};
}

enum txb_rc txb_worker_core_assign(struct txb_worker_core *core, bool lane, int64_t now_us, int *slot_out,
                                   struct txb_error *err) {
  size_t slot = 0;
  while (slot < core->slots && core->partitions[slot].used)
    slot++;
  if (slot == core->slots) {
    size_t size = core->slots == 0 ? 4 : core->slots * 2;
    void *grown = core->partitions;
    TXB_TRY(txb_realloc_array(&grown, size, sizeof *core->partitions, err));
    core->partitions = grown;
    memset(core->partitions + core->slots, 0, (size - core->slots) * sizeof *core->partitions);
    core->slots = size;
  }
  txb_partition_init(&core->partitions[slot], &core->options, lane);
  core->partitions[slot].due_us = now_us;
  core->used++;
  core->lanes += lane;
  *slot_out = (int)slot;
  return TXB_OK;
}

struct txb_partition *txb_worker_core_slot(const struct txb_worker_core *core, int slot) {
  TXB_ASSERT(slot >= 0 && (size_t)slot < core->slots && core->partitions[slot].used);
  return &core->partitions[slot];
}

enum txb_rc txb_worker_core_record(struct txb_worker_core *core, int slot, const struct txb_worker_record *record,
                                   int64_t now_us, struct txb_error *err) {
  return txb_partition_push(txb_worker_core_slot(core, slot), &core->options, record, now_us, err);
}

const struct txb_worker_record *txb_worker_core_running(const struct txb_worker_core *core, int slot, int32_t index) {
  return txb_partition_record(txb_worker_core_slot(core, slot), (size_t)index);
}

/* ---- events ---------------------------------------------------------------------------------- */

/* W4: nothing is known any more about who owns it. What was fetched stays: if the position turns out to lie within, it
 * goes on from there. */
static void ask_again(struct txb_partition *p, int64_t due_us) {
  if (p->own == TXB_OWN_STOPPED)
    return;
  p->own = TXB_OWN_LOOKUP;
  p->asked = false;
  p->taken = false;
  p->due_us = due_us;
  txb_partition_forget(p);
}

/* W9: what is buffered may be of another topic by the same name, and the fetch has ended. Taken anew, the record below
 * the position is compared. A batch that is under way ends first: its records are in the ring. */
static void doubt(struct txb_worker_core *core, struct txb_partition *p, int64_t now_us) {
  p->doubted = core->busy_slot >= 0 && txb_worker_core_slot(core, core->busy_slot) == p;
  if (p->doubted)
    return;
  txb_partition_pop(p, &core->options, p->count, now_us);
  p->fetching = p->paused = p->probing = false;
  ask_again(p, now_us);
}

static void down(struct txb_worker_core *core, bool given_up, int64_t now_us) {
  bool server_away = !core->up; /* a new connection could not be made */
  core->up = false;
  bool ran = core->busy_slot >= 0 && !core->busy_condemn && (!given_up || core->busy_count > 1);
  if (ran && core->busy_kind == TXB_WA_RUN)
    txb_partition_interrupted(txb_worker_core_slot(core, core->busy_slot), core->busy_count, given_up);
  if (ran && core->busy_kind == TXB_WA_RETRY && core->busy_count == 1)
    txb_partition_retry_interrupted(txb_worker_core_slot(core, core->busy_slot));
  core->busy_slot = core->exclusive = -1;
  for (size_t i = 0; i < core->slots; i++)
    if (core->partitions[i].used) {
      ask_again(&core->partitions[i], now_us);
      core->partitions[i].taken = false;
      core->partitions[i].lost_with_server |= server_away && core->partitions[i].lost_alone > 0;
      core->partitions[i].retry_lost_with_server |= server_away && core->partitions[i].retry_lost_alone > 0;
      if (core->partitions[i].doubted)
        doubt(core, &core->partitions[i], now_us);
    }
}

static void confirmed(struct txb_partition *p, bool accepted, int64_t now_us) {
  if (p->own != TXB_OWN_CONFIRM || !p->asked) /* an answer from before the connection was lost */
    return;
  p->asked = false;
  if (accepted) {
    p->own = TXB_OWN_TAKE;
    p->copied_offset = p->confirm_offset;
    return;
  }
  /* Refused: another may own it. Given up until the group says so or accepts us again; nobody is served from here
   * meanwhile. */
  p->own = TXB_OWN_LOOKUP;
  p->due_us = now_us + LATER_US;
  p->refusals++;
}

/* Kafka does not have what it was asked for; low < 0: it could not be asked what it has. */
static void out_of_range(struct txb_worker_core *core, struct txb_partition *p, int64_t low, int64_t high,
                         int64_t now_us) {
  if (p->own == TXB_OWN_STOPPED || !p->fetching)
    return;
  bool busy = core->busy_slot >= 0 && txb_worker_core_slot(core, core->busy_slot) == p;
  if (p->own != TXB_OWN_OWNED || busy || low < 0) {
    doubt(core, p, now_us);
  } else if (p->next_offset < low) {
    txb_partition_stop(p, &core->options, TXB_STOP_DELETED, now_us);
  } else if (p->next_offset > high) {
    txb_partition_stop(p, &core->options, TXB_STOP_BEYOND, now_us);
  } else if (p->probing) { /* only the record below the position is gone, and Kafka may delete that: nothing to compare
                              with. FETCH follows */
    p->fetching = p->probing = false;
    txb_partition_pop(p, &core->options, p->count, now_us);
    p->fetch_offset = p->next_offset;
    p->end_offset = -1;
  } else { /* what was fetched lay above Kafka's end, though the position does not: truncated, or made anew */
    doubt(core, p, now_us);
  }
}

static void ended(struct txb_partition *p, int64_t offset, bool more) {
  if (!p->fetching || offset < p->fetch_offset)
    return;
  if (p->probing && offset >= p->next_offset) { /* the record below the position was compacted away and nothing follows
                                                 */
    p->probing = false;
    p->fetch_offset = p->next_offset;
  }
  p->end_offset = offset;
  p->more = more && p->lane;
}

/* How what was under way was run, and what the event says of it. */
static struct txb_partition_ran ran_as(const struct txb_worker_core *core, const struct txb_worker_event *e) {
  return (struct txb_partition_ran){.count = core->busy_count,
                                    .isolated = core->busy_isolated,
                                    .condemn = core->busy_condemn,
                                    .settled = e->settled,
                                    .failed = e->failed,
                                    .due_ms = e->due_ms,
                                    .held_count = e->held_count,
                                    .transient = e->transient,
                                    .chunk = e->chunk,
                                    .failure = e->failure,
                                    .at = e->at,
                                    .after_ms = e->after_ms};
}

static void failed(struct txb_worker_core *core, struct txb_partition *p, const struct txb_worker_event *e, int kind) {
  switch (kind) {
  case TXB_WA_RUN: {
    struct txb_partition_ran ran = ran_as(core, e);
    txb_partition_failed(p, &core->options, &ran, e->now_us, e->random);
    break;
  }
  case TXB_WA_RETRY: {
    struct txb_partition_ran ran = ran_as(core, e);
    txb_partition_retry_failed(p, &core->options, &ran, e->now_us, e->random);
    break;
  }
  case TXB_WA_STALL: /* it stands still all the same; what was not written down is written later, or given up */
    p->stall_tries++;
    p->stall_unrecorded = p->stall_unrecorded && p->stall_tries < STALL_TRIES;
    if (p->own == TXB_OWN_STOPPED)
      p->stop_told = p->stall_tries >= STALL_TRIES;
    else
      p->due_us = e->now_us + LATER_US;
    p->marked_offset = p->stall_unrecorded ? p->marked_offset : -1;
    break;
  case TXB_WA_MARK:
    p->marked_offset = -1;
    p->due_us = e->now_us + LATER_US;
    break;
  case TXB_WA_RELEASE: /* the successor finds it busy and goes carefully; its epoch fences us anyway */
    p->taken = false;
    p->marked_offset = -1;
    break;
  default:
    p->due_us = e->now_us + LATER_US;
  }
}

static void committed(struct txb_worker_core *core, struct txb_partition *p, const struct txb_worker_event *e) {
  struct txb_partition_ran ran = ran_as(core, e);
  if (!e->tag_commit && !core->options.bug_commit_tag_ignored) { /* W1: a failed transaction answers COMMIT with
                                                                    ROLLBACK and no error */
    ran.failure = TXB_FAILURE_ERROR;
    ran.at = -1;
    ran.after_ms = 0;
    txb_partition_failed(p, &core->options, &ran, e->now_us, e->random);
    return;
  }
  p->keys_known = p->keys_known && !(p->lane && e->aside);
  bool whole = ran.settled == ran.count;
  ran.new_next = whole ? core->busy_next : txb_partition_record(p, (size_t)ran.settled - 1)->offset + 1;
  txb_partition_committed(p, &core->options, &ran, e->now_us);
}

/* Where the row stands. For an idle owner it should stand where we are: else an operator has set it, and has fenced us. */
static void looked_up(const struct txb_worker_core *core, struct txb_partition *p, const struct txb_worker_event *e) {
  if (p->own == TXB_OWN_OWNED && e->found && e->offset == p->next_offset) {
    p->look_us = e->now_us + core->options.look_us;
    p->keys_known = p->keys_known && e->keys_version == p->keys_version;
    return;
  }
  if (p->own == TXB_OWN_OWNED) {
    ask_again(p, e->now_us);
    return;
  }
  if (p->own != TXB_OWN_LOOKUP) /* stopped while the look was under way */
    return;
  if (p->lane && !e->found) { /* its job makes the row; without one there is nothing to begin at */
    p->due_us = e->now_us + LATER_US;
    return;
  }
  p->own = e->found ? TXB_OWN_CONFIRM : TXB_OWN_START;
  p->confirm_offset = e->offset;
}

/* A batch that met other held keys than it was made for comes first once they are read. A lane and the partitions of its
 * group change each other's whenever they set something aside: if everybody else had a turn in between, a batch might
 * never find the keys that it was made for. */
static void give_turn_back(struct txb_worker_core *core, const struct txb_partition *p, size_t slot) {
  core->turn = p->lane ? core->slots : slot;
  core->lane_turn = p->lane ? slot : core->lane_turn;
}

/* Those that are about failed messages. */
static void answered_on_failed(struct txb_worker_core *core, struct txb_partition *p, const struct txb_worker_event *e,
                               int kind) {
  switch ((int)e->kind) {
  case TXB_WE_KEYS:
    txb_partition_keys(p, e->keys_version, e->due_ms, e->held_count, e->now_us);
    break;
  case TXB_WE_KEYS_CHANGED:
    p->keys_known = false;
    if (kind == TXB_WA_RETRY)
      txb_partition_retry_again(p);
    else
      give_turn_back(core, p, (size_t)e->slot);
    break;
  case TXB_WE_RETRY_MARKED:
    if (p->own != TXB_OWN_STOPPED) /* meanwhile; the marker is for who takes it next */
      txb_partition_retry_marked(p, core->busy_count, e->count, e->number, e->keys_version, e->due_ms, e->now_us);
    break;
  case TXB_WE_RETRIED: {
    struct txb_partition_ran ran = ran_as(core, e);
    txb_partition_retried(p, &core->options, &ran, e->now_us);
    p->keys_known = p->keys_known && !p->lane;
    break;
  }
  default: /* TXB_WE_CONDEMNED */
    txb_partition_condemned(p, e->due_ms, e->held_count, e->now_us);
    p->keys_known = p->keys_known && !p->lane;
  }
}

/* Answers to the database operation under way. */
static void answered(struct txb_worker_core *core, struct txb_partition *p, const struct txb_worker_event *e) {
  TXB_ASSERT(core->busy_slot == e->slot);
  int kind = core->busy_kind;
  core->busy_slot = -1;
  p->asked = false;
  switch ((int)e->kind) {
  case TXB_WE_LOOKED_UP:
    looked_up(core, p, e);
    break;
  case TXB_WE_STARTED:
    p->own = TXB_OWN_LOOKUP;
    p->due_us = e->found ? 0 : e->now_us + LATER_US;
    break;
  case TXB_WE_TAKEN:
    txb_partition_taken(p, &core->options, &e->position, e->now_us);
    break;
  case TXB_WE_LOCKED:
    p->take_since_us = p->take_since_us == 0 ? e->now_us : p->take_since_us;
    p->due_us = e->now_us + LOCKED_AGAIN_US;
    break;
  case TXB_WE_EVICTED:
    p->take_since_us = e->now_us;
    break;
  case TXB_WE_MISSING:
    ask_again(p, e->now_us);
    break;
  case TXB_WE_REFUSED:
    p->taken = p->taken && kind != TXB_WA_RELEASE;
    p->marked_offset = -1;
    txb_partition_stop(p, &core->options, TXB_STOP_REFUSED, e->now_us);
    break;
  case TXB_WE_MARKED:
    break;
  case TXB_WE_COMMITTED:
    committed(core, p, e);
    break;
  case TXB_WE_FAILED:
    failed(core, p, e, kind);
    break;
  case TXB_WE_PASSED:
    txb_partition_passed(p, core->busy_next);
    break;
  case TXB_WE_KEYS:
  case TXB_WE_KEYS_CHANGED:
  case TXB_WE_RETRY_MARKED:
  case TXB_WE_RETRIED:
  case TXB_WE_CONDEMNED:
    answered_on_failed(core, p, e, kind);
    break;
  case TXB_WE_FENCED:
    p->marked_offset = -1;
    if (kind == TXB_WA_RELEASE || p->own == TXB_OWN_STOPPED)
      p->taken = false;
    else
      ask_again(p, e->now_us);
    break;
  case TXB_WE_STALLED:
    p->stall_unrecorded = false;
    p->lost_alone = 0;
    p->stop_told = p->own == TXB_OWN_STOPPED;
    p->marked_offset = -1;
    break;
  default: /* TXB_WE_RELEASED */
    p->taken = false;
    p->marked_offset = -1;
  }
  if (p->doubted)
    doubt(core, p, e->now_us);
  if (core->exclusive == e->slot && p->marked_offset < 0 && !p->retry_mark_out)
    core->exclusive = -1;
}

static void asked_back(struct txb_worker_core *core, struct txb_partition *p, const struct txb_worker_event *e) {
  p->leaving = true;
  p->lost = p->lost || e->kind == TXB_WE_LOST;
  if (!p->lane)
    core->copy_due_us = e->now_us + core->options.copy_us; /* the group rebalances: see copies */
}

void txb_worker_core_step(struct txb_worker_core *core, const struct txb_worker_event *e) {
  switch (e->kind) {
  case TXB_WE_TIME:
    return;
  case TXB_WE_UP:
    core->up = true;
    return;
  case TXB_WE_DOWN:
  case TXB_WE_GIVEN_UP:
    down(core, e->kind == TXB_WE_GIVEN_UP, e->now_us);
    return;
  case TXB_WE_STOP:
    core->stopping = true;
    for (size_t i = 0; i < core->slots; i++)
      core->partitions[i].leaving = core->partitions[i].used;
    return;
  case TXB_WE_REVOKED:
  case TXB_WE_LOST:
    asked_back(core, txb_worker_core_slot(core, e->slot), e);
    return;
  case TXB_WE_CONFIRMED:
    confirmed(txb_worker_core_slot(core, e->slot), e->found, e->now_us);
    return;
  case TXB_WE_RANGE:
    out_of_range(core, txb_worker_core_slot(core, e->slot), e->low, e->high, e->now_us);
    return;
  case TXB_WE_END:
    ended(txb_worker_core_slot(core, e->slot), e->offset, e->more);
    return;
  case TXB_WE_LOOKED_UP:
  case TXB_WE_STARTED:
  case TXB_WE_TAKEN:
  case TXB_WE_LOCKED:
  case TXB_WE_MISSING:
  case TXB_WE_REFUSED:
  case TXB_WE_EVICTED:
  case TXB_WE_MARKED:
  case TXB_WE_COMMITTED:
  case TXB_WE_FAILED:
  case TXB_WE_FENCED:
  case TXB_WE_STALLED:
  case TXB_WE_PASSED:
  case TXB_WE_RELEASED:
  case TXB_WE_KEYS:
  case TXB_WE_KEYS_CHANGED:
  case TXB_WE_RETRY_MARKED:
  case TXB_WE_RETRIED:
  case TXB_WE_CONDEMNED:
    answered(core, txb_worker_core_slot(core, e->slot), e);
    return;
  }
}

bool txb_worker_core_idle(const struct txb_worker_core *core) {
  bool any = false;
  for (size_t i = 0; i < core->slots; i++) {
    const struct txb_partition *p = &core->partitions[i];
    bool waits = txb_partition_idle(p) || (p->lane && p->own == TXB_OWN_STOPPED);
    if (p->used && !waits)
      return false;
    any = any || (p->used && !p->lane);
  }
  return any && core->busy_slot < 0 && core->exclusive < 0;
}

int64_t txb_worker_core_position(const struct txb_worker_core *core, int slot) {
  const struct txb_partition *p = txb_worker_core_slot(core, slot);
  return p->own == TXB_OWN_OWNED ? p->next_offset : -1;
}

int64_t txb_worker_core_last(const struct txb_worker_core *core, int slot, struct txb_uuid *id_out) {
  const struct txb_partition *p = txb_worker_core_slot(core, slot);
  *id_out = p->last_id;
  return p->has_last ? p->last_offset : -1;
}

int64_t txb_worker_core_bytes(const struct txb_worker_core *core) {
  int64_t bytes = 0;
  for (size_t i = 0; i < core->slots; i++)
    bytes += core->partitions[i].used ? core->partitions[i].bytes : 0;
  return bytes;
}
