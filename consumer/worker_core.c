/* See worker_core.h. Pure: no clock, no log, no libpq, no librdkafka. */
#include "consumer/worker_core.h"

#include <string.h>

#include "common/memory.h"

#define LOCKED_AGAIN_US 200000  /* between two tries to lock the row of a stopped owner */
#define STALLED_RECORDS 64      /* fetched behind a stalled message at most: each may keep a whole fetch in memory */
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

enum txb_rc txb_worker_core_assign(struct txb_worker_core *core, int64_t now_us, int *slot_out, struct txb_error *err) {
  size_t slot = 0;
  while (slot < core->slots && core->partitions[slot].used)
    slot++;
  if (slot == core->slots) {
    size_t size = core->slots == 0 ? 16 : core->slots * 2;
    void *grown = core->partitions;
    TXB_TRY(txb_realloc_array(&grown, size, sizeof *core->partitions, err));
    core->partitions = grown;
    memset(core->partitions + core->slots, 0, (size - core->slots) * sizeof *core->partitions);
    core->slots = size;
  }
  txb_partition_init(&core->partitions[slot], &core->options);
  core->partitions[slot].due_us = now_us;
  core->used++;
  *slot_out = (int)slot;
  return TXB_OK;
}

static struct txb_partition *slot_of(const struct txb_worker_core *core, int slot) {
  TXB_ASSERT(slot >= 0 && (size_t)slot < core->slots && core->partitions[slot].used);
  return &core->partitions[slot];
}

/* This partition's part of the buffer, which never is less than what one message may hold. */
static int64_t share(const struct txb_worker_core *core) {
  int64_t each = core->options.buffer_bytes / (int64_t)(core->used == 0 ? 1 : core->used);
  return each > 262144 ? each : 262144;
}

enum txb_rc txb_worker_core_record(struct txb_worker_core *core, int slot, const struct txb_worker_record *record,
                                   int64_t now_us, struct txb_error *err) {
  return txb_partition_push(slot_of(core, slot), &core->options, record, now_us, err);
}

const struct txb_worker_record *txb_worker_core_running(const struct txb_worker_core *core, int slot, int32_t index) {
  return txb_partition_record(slot_of(core, slot), (size_t)index);
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
  p->marked_offset = -1;
  p->stall_unrecorded = p->skip_head = false;
}

/* W9: what is buffered may be of another topic by the same name, and the fetch has ended. Taken anew, the record below
 * the position is compared. A batch that is under way ends first: its records are in the ring. */
static void doubt(struct txb_worker_core *core, struct txb_partition *p, int64_t now_us) {
  p->doubted = core->busy_slot >= 0 && slot_of(core, core->busy_slot) == p;
  if (p->doubted)
    return;
  txb_partition_pop(p, &core->options, p->count, now_us);
  p->fetching = p->paused = p->probing = false;
  ask_again(p, now_us);
}

static void down(struct txb_worker_core *core, bool given_up, int64_t now_us) {
  core->up = false;
  bool ran = core->busy_slot >= 0 && core->busy_kind == TXB_WA_RUN;
  if (ran && (!given_up || core->busy_count > 1))
    txb_partition_interrupted(slot_of(core, core->busy_slot), core->busy_count);
  core->busy_slot = core->exclusive = -1;
  for (size_t i = 0; i < core->slots; i++)
    if (core->partitions[i].used) {
      ask_again(&core->partitions[i], now_us);
      core->partitions[i].taken = false;
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
  bool busy = core->busy_slot >= 0 && slot_of(core, core->busy_slot) == p;
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

static void ended(struct txb_partition *p, int64_t offset) {
  if (!p->fetching || offset < p->fetch_offset)
    return;
  if (p->probing && offset >= p->next_offset) { /* the record below the position was compacted away and nothing follows
                                                 */
    p->probing = false;
    p->fetch_offset = p->next_offset;
  }
  p->end_offset = offset;
}

static void failed(struct txb_worker_core *core, struct txb_partition *p, const struct txb_worker_event *e, int kind) {
  switch (kind) {
  case TXB_WA_RUN:
    txb_partition_failed(p, &core->options, core->busy_count, e->failure, e->at, e->after_ms, e->now_us, e->random);
    break;
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
  if (!e->tag_commit && !core->options.bug_commit_tag_ignored) { /* W1: a failed transaction answers COMMIT with
                                                                    ROLLBACK and no error */
    txb_partition_failed(p, &core->options, core->busy_count, TXB_FAILURE_ERROR, -1, 0, e->now_us, e->random);
    return;
  }
  txb_partition_committed(p, &core->options, core->busy_count, core->busy_next, e->now_us);
}

/* Where the row stands. For an idle owner it should stand where we are: else an operator has set it, and has fenced us. */
static void looked_up(const struct txb_worker_core *core, struct txb_partition *p, const struct txb_worker_event *e) {
  if (p->own == TXB_OWN_OWNED && e->found && e->offset == p->next_offset) {
    p->look_us = e->now_us + core->options.look_us;
    return;
  }
  if (p->own == TXB_OWN_OWNED) {
    ask_again(p, e->now_us);
    return;
  }
  if (p->own != TXB_OWN_LOOKUP) /* stopped while the look was under way */
    return;
  p->own = e->found ? TXB_OWN_CONFIRM : TXB_OWN_START;
  p->confirm_offset = e->offset;
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
    txb_partition_taken(p, &core->options, &e->position, e->now_us, e->random);
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
  if (core->exclusive == e->slot && p->marked_offset < 0)
    core->exclusive = -1;
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
    slot_of(core, e->slot)->leaving = true;
    slot_of(core, e->slot)->lost = slot_of(core, e->slot)->lost || e->kind == TXB_WE_LOST;
    core->copy_due_us = e->now_us + core->options.copy_us; /* the group rebalances: see copies */
    return;
  case TXB_WE_CONFIRMED:
    confirmed(slot_of(core, e->slot), e->found, e->now_us);
    return;
  case TXB_WE_RANGE:
    out_of_range(core, slot_of(core, e->slot), e->low, e->high, e->now_us);
    return;
  case TXB_WE_END:
    ended(slot_of(core, e->slot), e->offset);
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
    answered(core, slot_of(core, e->slot), e);
    return;
  }
}

/* ---- actions --------------------------------------------------------------------------------- */

static bool give(struct txb_worker_action *out, enum txb_worker_action_kind kind, int slot,
                 const struct txb_partition *p) {
  *out = (struct txb_worker_action){.kind = kind, .slot = slot, .epoch = p->epoch, .offset = p->next_offset};
  return true;
}

static bool ask(struct txb_worker_core *core, struct txb_worker_action *out, enum txb_worker_action_kind kind,
                int slot) {
  struct txb_partition *p = slot_of(core, slot);
  core->busy_slot = slot;
  core->busy_kind = (int)kind;
  p->asked = true;
  return give(out, kind, slot, p);
}

static bool leave(struct txb_worker_core *core, int slot, struct txb_worker_action *out) {
  struct txb_partition *p = slot_of(core, slot);
  give(out, TXB_WA_LEAVE, slot, p);
  txb_partition_fini(p, &core->options);
  core->used--;
  if (core->exclusive == slot)
    core->exclusive = -1;
  return true;
}

/* Offsets are copied seldom and all at once, and not right after partitions were asked back: a commit that Kafka gets
 * while we join anew is answered only when the next generation has begun, as one of an old generation, and librdkafka
 * then gives up everything that it has. */
static bool copies(const struct txb_worker_core *core, const struct txb_partition *p, int64_t now_us) {
  return p->own == TXB_OWN_OWNED && p->taken && !p->lost && p->copied_offset != p->next_offset &&
         (now_us >= core->copy_due_us || p->leaving);
}

/* What only tells Kafka. */
static bool tell_kafka(struct txb_worker_core *core, int slot, int64_t now_us, struct txb_worker_action *out) {
  struct txb_partition *p = slot_of(core, slot);
  bool served = p->own != TXB_OWN_STOPPED && p->refusals == 0;
  if (!p->leaving && p->own == TXB_OWN_CONFIRM && !p->asked && now_us >= p->due_us && !core->stopping) {
    p->asked = true;
    give(out, TXB_WA_CONFIRM, slot, p);
    out->offset = p->confirm_offset;
    return true;
  }
  if (copies(core, p, now_us)) {
    p->copied_offset = p->next_offset;
    core->copying = true;
    return give(out, TXB_WA_COPY, slot, p);
  }
  if (p->leaving)
    return false;
  if (p->own == TXB_OWN_OWNED && !p->fetching) {
    p->fetching = true;
    p->paused = false;
    give(out, TXB_WA_FETCH, slot, p);
    out->offset = p->fetch_offset;
    return true;
  }
  if (!served && p->fetching) { /* stopped or given up: what was fetched is of no use */
    txb_partition_pop(p, &core->options, p->count, now_us);
    p->fetching = p->paused = false;
    return give(out, TXB_WA_UNFETCH, slot, p);
  }
  bool stalled = p->stalled_offset >= 0 && p->count >= STALLED_RECORDS;
  if (p->fetching && !p->paused && (p->bytes >= share(core) || stalled)) {
    p->paused = true;
    return give(out, TXB_WA_PAUSE, slot, p);
  }
  if (p->fetching && p->paused && p->bytes < share(core) / 2 && !stalled) {
    p->paused = false;
    p->end_offset = -1; /* told again behind what comes now */
    give(out, TXB_WA_RESUME, slot, p);
    out->offset = p->fetch_offset;
    return true;
  }
  return false;
}

static bool give_stall(struct txb_worker_core *core, int slot, struct txb_worker_action *out) {
  struct txb_partition *p = slot_of(core, slot);
  bool stopped = p->own == TXB_OWN_STOPPED;
  ask(core, out, TXB_WA_STALL, slot);
  out->offset = stopped ? p->next_offset : p->stalled_offset;
  out->attempts = stopped ? 0 : p->attempts;
  out->delay_ms = stopped ? -1 : p->stall_delay_ms;
  out->failure = p->stall_failure;
  out->stop = stopped ? p->stop : TXB_STOP_NONE;
  out->keep_suspect = !stopped && p->stall_failure == TXB_FAILURE_CRASH && p->suspect_offset == p->stalled_offset;
  return true;
}

/* A message stands still, and only we know. */
static bool holds_unrecorded(const struct txb_partition *p) {
  return p->stall_unrecorded && p->own == TXB_OWN_OWNED && !p->leaving;
}

/* Whether an idle partition is to look at its row. */
static bool looks(const struct txb_worker_core *core, const struct txb_partition *p, int64_t now_us) {
  return core->options.look_us > 0 && p->count == 0 && core->exclusive < 0 && now_us >= p->look_us;
}

/* The way to owning it, or out again. */
static bool work_on_ownership(struct txb_worker_core *core, int slot, int64_t now_us, struct txb_worker_action *out) {
  struct txb_partition *p = slot_of(core, slot);
  if (p->leaving && p->taken && core->up)
    return ask(core, out, TXB_WA_RELEASE, slot);
  if (p->leaving)
    return leave(core, slot, out);
  if (!core->up || now_us < p->due_us || p->asked)
    return false;
  switch (p->own) {
  case TXB_OWN_LOOKUP:
    return ask(core, out, TXB_WA_LOOKUP, slot);
  case TXB_OWN_START:
    return ask(core, out, TXB_WA_START, slot);
  case TXB_OWN_TAKE: {
    bool evict = p->take_since_us != 0 && now_us - p->take_since_us >= core->options.evict_us;
    return ask(core, out, evict ? TXB_WA_EVICT : TXB_WA_TAKE, slot);
  }
  case TXB_OWN_STOPPED:
    p->own = TXB_OWN_LOOKUP;
    return ask(core, out, TXB_WA_LOOKUP, slot);
  case TXB_OWN_OWNED:
    return looks(core, p, now_us) && ask(core, out, TXB_WA_LOOKUP, slot);
  case TXB_OWN_CONFIRM:
    return false;
  }
  return false;
}

static bool run(struct txb_worker_core *core, int slot, int64_t now_us, struct txb_worker_action *out) {
  struct txb_partition *p = slot_of(core, slot);
  if (p->leaving || p->own != TXB_OWN_OWNED || now_us < p->due_us || p->stall_unrecorded)
    return false;
  if (p->probing || !p->fetching)
    return false;
  if (txb_partition_passes(p)) {
    ask(core, out, TXB_WA_PASS, slot);
    out->expected_next = p->next_offset;
    out->new_next = core->busy_next = p->end_offset;
    return true;
  }
  int32_t n = txb_partition_batch(p, &core->options, now_us, share(core));
  if (n == 0)
    return false;
  const struct txb_worker_record *head = txb_partition_record(p, 0), *last = txb_partition_record(p, (size_t)n - 1);
  bool retried = head->offset == p->stalled_offset;
  bool marked = p->marked_offset == head->offset && p->marked_count >= n;
  if ((p->suspect_left > 0 || retried) && !marked) { /* W10: retries always run under a marker */
    ask(core, out, TXB_WA_MARK, slot);
    out->offset = p->marked_offset = head->offset;
    out->count = p->marked_count = n;
    core->exclusive = slot;
    return true;
  }
  ask(core, out, TXB_WA_RUN, slot);
  out->expected_next = p->next_offset;
  out->new_next = core->busy_next = last->offset + 1;
  out->count = core->busy_count = n;
  out->attempt = retried ? p->attempts + 1 : 1;
  out->skip = p->skip_head;
  return true;
}

bool txb_worker_core_next(struct txb_worker_core *core, int64_t now_us, struct txb_worker_action *out) {
  for (size_t i = 0; i < core->slots; i++)
    if (core->partitions[i].used && tell_kafka(core, (int)i, now_us, out))
      return true;
  if (core->copying) { /* all have had their turn */
    core->copying = false;
    core->copy_due_us = now_us + core->options.copy_us;
  }
  if (core->busy_slot >= 0)
    return false;
  for (size_t i = 0; i < core->slots; i++) {
    struct txb_partition *p = &core->partitions[i];
    if (!p->used)
      continue;
    bool untold = p->own == TXB_OWN_STOPPED && !p->stop_told && !p->leaving;
    if (untold && p->taken && core->up)
      return give_stall(core, (int)i, out);
    if (untold && !p->taken) {
      p->stop_told = true;
      give(out, TXB_WA_TELL, (int)i, p);
      out->stop = p->stop;
      return true;
    }
    /* Before anything runs: until it is recorded a stall lives in memory only, and the next batch, of whatever partition,
     * may take the connection or the process with it. */
    if (core->up && holds_unrecorded(p) && now_us >= p->due_us)
      return give_stall(core, (int)i, out);
    if (work_on_ownership(core, (int)i, now_us, out))
      return true;
  }
  if (!core->up || core->stopping)
    return false;
  if (core->exclusive >= 0)
    return run(core, core->exclusive, now_us, out);
  for (size_t i = 0; i < core->slots; i++) {
    size_t slot = (core->turn + i) % core->slots;
    if (core->partitions[slot].used && run(core, (int)slot, now_us, out)) {
      core->turn = slot + 1;
      return true;
    }
  }
  return false;
}

/* A guess, and nothing but time is lost when it is wrong: who runs is decided by next. */
bool txb_worker_core_ahead(const struct txb_worker_core *core, int *slot_out, int32_t *base_out, int32_t *count_out) {
  if (core->busy_slot < 0 || core->busy_kind != TXB_WA_RUN || core->exclusive >= 0 || core->stopping)
    return false;
  for (size_t i = 0; i < core->slots; i++) {
    size_t slot = (core->turn + i) % core->slots;
    const struct txb_partition *p = &core->partitions[slot];
    int32_t base = (int)slot == core->busy_slot ? core->busy_count : 0;
    if (!p->used || p->leaving || p->own != TXB_OWN_OWNED || p->probing || !p->fetching || p->suspect_left > 0)
      continue;
    int32_t count = txb_partition_full(p, &core->options, base);
    if (count == 0)
      continue;
    *slot_out = (int)slot;
    *base_out = base;
    *count_out = count;
    return true;
  }
  return false;
}

static int64_t earlier(int64_t a, int64_t b) {
  return a < b ? a : b;
}

int64_t txb_worker_core_due_us(const struct txb_worker_core *core) {
  int64_t due = INT64_MAX;
  for (size_t i = 0; i < core->slots; i++) {
    const struct txb_partition *p = &core->partitions[i];
    if (!p->used)
      continue;
    bool waits = (p->own != TXB_OWN_OWNED && !p->asked && (core->up || p->own == TXB_OWN_CONFIRM));
    if (waits && core->busy_slot < 0)
      due = earlier(due, p->due_us);
    if (p->own != TXB_OWN_OWNED)
      continue;
    if (p->taken && p->copied_offset != p->next_offset && !p->lost)
      due = earlier(due, core->copy_due_us);
    bool passes = txb_partition_passes(p) && !core->stopping && (core->exclusive < 0 || core->exclusive == (int)i);
    if ((holds_unrecorded(p) || passes) && core->up && core->busy_slot < 0)
      due = earlier(due, p->due_us);
    if (p->count == 0 && core->options.look_us > 0 && core->busy_slot < 0 && core->up && core->exclusive < 0)
      due = earlier(due, p->look_us > p->due_us ? p->look_us : p->due_us);
    bool others_turn = core->exclusive >= 0 && core->exclusive != (int)i;
    if (p->count == 0 || core->busy_slot >= 0 || !core->up || others_turn || p->stall_unrecorded)
      continue;
    bool stalled = txb_partition_record(p, 0)->offset == p->stalled_offset;
    int64_t runs_us = stalled ? p->stall_due_us : p->waiting_since_us + core->options.batch_wait_us;
    due = earlier(due, runs_us > p->due_us ? runs_us : p->due_us);
  }
  return due;
}

bool txb_worker_core_idle(const struct txb_worker_core *core) {
  for (size_t i = 0; i < core->slots; i++)
    if (core->partitions[i].used && !txb_partition_idle(&core->partitions[i]))
      return false;
  return core->used > 0 && core->busy_slot < 0;
}

int64_t txb_worker_core_bytes(const struct txb_worker_core *core) {
  int64_t bytes = 0;
  for (size_t i = 0; i < core->slots; i++)
    bytes += core->partitions[i].used ? core->partitions[i].bytes : 0;
  return bytes;
}
