/* What the worker core asks for next, and when. Part of worker_core.h. Pure. */
#include "consumer/worker_core_internal.h"

#define STALLED_RECORDS 64 /* fetched behind a stalled message at most: each may keep a whole fetch in memory */

/* This partition's part of the buffer, which never is less than what one message may hold. */
static int64_t share(const struct txb_worker_core *core) {
  int64_t each = core->options.buffer_bytes / (int64_t)(core->used == 0 ? 1 : core->used);
  return each > 262144 ? each : 262144;
}

static bool give(struct txb_worker_action *out, enum txb_worker_action_kind kind, int slot,
                 const struct txb_partition *p) {
  *out = (struct txb_worker_action){.kind = kind, .slot = slot, .epoch = p->epoch, .offset = p->next_offset};
  return true;
}

static bool ask(struct txb_worker_core *core, struct txb_worker_action *out, enum txb_worker_action_kind kind,
                int slot) {
  struct txb_partition *p = txb_worker_core_slot(core, slot);
  core->busy_slot = slot;
  core->busy_kind = (int)kind;
  core->busy_count = 0;
  core->busy_isolated = core->busy_condemn = false;
  p->asked = true;
  return give(out, kind, slot, p);
}

static bool leave(struct txb_worker_core *core, int slot, struct txb_worker_action *out) {
  struct txb_partition *p = txb_worker_core_slot(core, slot);
  give(out, TXB_WA_LEAVE, slot, p);
  core->lanes -= p->lane;
  txb_partition_fini(p, &core->options);
  core->used--;
  if (core->exclusive == slot)
    core->exclusive = -1;
  return true;
}

/* Whether Kafka is told where this one stands; what a lane's seqs are it would not know. */
static bool differs_from_copy(const struct txb_partition *p) {
  return !p->lane && p->taken && !p->lost && p->copied_offset != p->next_offset;
}

/* Offsets are copied seldom and all at once, and not right after partitions were asked back: a commit that Kafka gets
 * while we join anew is answered only when the next generation has begun, as one of an old generation, and librdkafka
 * then gives up everything that it has. */
static bool copies(const struct txb_worker_core *core, const struct txb_partition *p, int64_t now_us) {
  return p->own == TXB_OWN_OWNED && differs_from_copy(p) && (now_us >= core->copy_due_us || p->leaving);
}

/* What only tells Kafka. */
static bool tell_kafka(struct txb_worker_core *core, int slot, int64_t now_us, struct txb_worker_action *out) {
  struct txb_partition *p = txb_worker_core_slot(core, slot);
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
  struct txb_partition *p = txb_worker_core_slot(core, slot);
  bool stopped = p->own == TXB_OWN_STOPPED;
  ask(core, out, TXB_WA_STALL, slot);
  out->offset = stopped ? p->next_offset : p->stalled_offset;
  out->attempts = stopped ? 0 : p->attempts;
  out->delay_ms = stopped ? -1 : p->stall_delay_ms;
  out->failure = p->stall_failure;
  out->stop = stopped ? p->stop : TXB_STOP_NONE;
  return true;
}

/* A message stands still, and only we know. */
static bool holds_unrecorded(const struct txb_partition *p) {
  return p->stall_unrecorded && p->own == TXB_OWN_OWNED && !p->leaving;
}

/* When a partition that runs nothing is to look at its row; INT64_MAX: it needs not. */
static int64_t look_us(const struct txb_worker_core *core, const struct txb_partition *p) {
  bool still = p->count == 0 || p->stalled_offset >= 0;
  if (core->options.look_us == 0 || !still || core->exclusive >= 0)
    return INT64_MAX;
  return p->look_us > p->due_us ? p->look_us : p->due_us;
}

/* What is given back while something of it is suspected (W10): the next owner must know, or the same message has its
 * deaths anew there. What is known goes on as a marker, which RELEASE takes in but doesn't forget; what isn't, by leaving
 * without RELEASE, as if we had died. */
static bool give_back(struct txb_worker_core *core, int slot, struct txb_worker_action *out) {
  struct txb_partition *p = txb_worker_core_slot(core, slot);
  bool ours = p->own == TXB_OWN_OWNED && !p->lost, marks = ours && !p->handed_on;
  p->handed_on = true;
  if (marks && p->singles_left > 0) {
    int64_t first = p->count > 0 ? txb_partition_record(p, 0)->offset : p->next_offset;
    ask(core, out, TXB_WA_MARK, slot);
    out->offset = p->marked_offset = p->suspect_offset >= 0 ? p->suspect_offset : first; /* its deaths are kept */
    out->count = p->marked_count = p->singles_left;
    return true;
  }
  if (marks && p->retry_singles > 0 && !p->retry_mark_out) {
    ask(core, out, TXB_WA_RETRY_MARK, slot);
    out->count = core->busy_count = p->retry_singles;
    out->suspect = true;
    return true;
  }
  if (ours && p->suspects && p->marked_offset < 0 && !p->retry_mark_out && p->condemned_offset < 0)
    return leave(core, slot, out);
  return ask(core, out, TXB_WA_RELEASE, slot);
}

/* The way to owning it, or out again. */
static bool work_on_ownership(struct txb_worker_core *core, int slot, int64_t now_us, struct txb_worker_action *out) {
  struct txb_partition *p = txb_worker_core_slot(core, slot);
  if (p->leaving && p->taken && core->up)
    return give_back(core, slot, out);
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
    if (!p->keys_known)
      return ask(core, out, TXB_WA_KEYS, slot);
    return now_us >= look_us(core, p) && ask(core, out, TXB_WA_LOOKUP, slot);
  case TXB_OWN_CONFIRM:
    return false;
  }
  return false;
}

/* Always under a marker (W10), and alone: no other partition runs while it is out. */
static bool retry(struct txb_worker_core *core, int slot, int64_t now_us, struct txb_worker_action *out) {
  struct txb_partition *p = txb_worker_core_slot(core, slot);
  if (p->retry_condemned >= 0) {
    ask(core, out, TXB_WA_CONDEMN, slot);
    out->number = p->retry_condemned;
    return true;
  }
  if (p->retry_marked == 0) {
    ask(core, out, TXB_WA_RETRY_MARK, slot);
    out->count = core->busy_count = txb_partition_retry_rows(p, now_us);
    out->suspect = p->retry_suspects;
    core->exclusive = slot;
    return true;
  }
  ask(core, out, TXB_WA_RETRY, slot);
  out->count = core->busy_count = p->retry_marked;
  out->keys_version = p->retry_version;
  out->patience_over = txb_partition_impatient(p->retry_conflicts);
  out->condemn = core->busy_condemn = p->retry_condemn_attempt;
  out->failure = TXB_FAILURE_ERROR;
  out->after_ms = p->retry_after_ms;
  return true;
}

/* A batch, in one of four ways: fast; isolated, when such a one failed or the message at the head met others alone too
 * often; condemned, without a call; under a marker first. */
static bool live(struct txb_worker_core *core, int slot, int32_t n, struct txb_worker_action *out) {
  struct txb_partition *p = txb_worker_core_slot(core, slot);
  const struct txb_worker_record *head = txb_partition_record(p, 0), *last = txb_partition_record(p, (size_t)n - 1);
  bool condemned = head->offset == p->condemned_offset;
  bool marked = p->marked_offset == head->offset && p->marked_count >= n;
  /* What became free in other partitions, or among the followers of a key, nobody has told us. */
  if (head->offset == p->stalled_offset && p->stall_failure == TXB_FAILURE_LIMIT && !p->limit_looked)
    return ask(core, out, TXB_WA_KEYS, slot);
  if (p->suspect_left > 0 && !marked && !condemned) {
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
  out->attempt = 1;
  out->at = -1;
  out->keys_version = p->keys_version;
  out->patience_over = txb_partition_impatient(p->conflicts);
  out->condemn = core->busy_condemn = condemned;
  out->failure = condemned ? p->condemned_failure : TXB_FAILURE_ERROR;
  out->after_ms = condemned ? p->condemned_after_ms : 0;
  out->isolated = core->busy_isolated = !condemned && (out->patience_over || (p->isolated_left > 0 && n > 1));
  out->chunk = p->chunk > 0 && p->chunk < n ? p->chunk : n;
  for (int32_t i = 0; i < n && p->culprit_offset >= 0 && out->at < 0; i++)
    out->at = txb_partition_record(p, (size_t)i)->offset == p->culprit_offset ? i : -1;
  out->skip = p->skip_head;
  return true;
}

static bool run(struct txb_worker_core *core, int slot, int64_t now_us, struct txb_worker_action *out) {
  struct txb_partition *p = txb_worker_core_slot(core, slot);
  if (p->leaving || p->own != TXB_OWN_OWNED || now_us < p->due_us || p->stall_unrecorded || !p->keys_known)
    return false;
  if (txb_partition_retry_first(p))
    return retry(core, slot, now_us, out);
  bool fetches = p->fetching && !p->probing;
  if (fetches && txb_partition_passes(p)) {
    ask(core, out, TXB_WA_PASS, slot);
    out->expected_next = p->next_offset;
    out->new_next = core->busy_next = p->end_offset;
    return true;
  }
  if (fetches && p->count > 0 && p->condemned_offset >= 0 && txb_partition_record(p, 0)->offset > p->condemned_offset)
    p->condemned_offset = -1; /* Kafka has it no more */
  int32_t n = fetches ? txb_partition_batch(p, &core->options, now_us, share(core)) : 0;
  bool due = now_us >= txb_partition_retry_us(p);
  if (due && (n == 0 || !p->live_turn)) /* they take turns, so that neither starves */
    return retry(core, slot, now_us, out);
  return n > 0 && live(core, slot, n, out);
}

/* The slot that is asked as number k whether it has something to run; -1: nobody there. Partitions come in rounds, and one
 * lane at the end of each: a partition waits for one lane's batch at most, however many lanes there are, and a lane for
 * one round. Where no lane has anything, the next round begins at once. */
static int in_turn(const struct txb_worker_core *core, size_t k) {
  size_t left = core->slots - core->turn, lanes = core->lanes > 0 ? core->slots : 0; /* left: of this round */
  bool lane = k >= left && k < left + lanes;
  size_t slot = k < left ? core->turn + k : lane ? (core->lane_turn + k - left) % core->slots : k - left - lanes;
  const struct txb_partition *p = &core->partitions[slot];
  return p->used && p->lane == lane ? (int)slot : -1;
}

static size_t turns(const struct txb_worker_core *core) {
  return core->lanes > 0 ? 2 * core->slots : core->slots;
}

static void had_turn(struct txb_worker_core *core, int slot) {
  bool lane = txb_worker_core_slot(core, slot)->lane;
  core->lane_turn = lane ? (size_t)slot + 1 : core->lane_turn;
  core->turn = lane ? 0 : (size_t)slot + 1;
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
  for (size_t k = 0; k < turns(core); k++) {
    int slot = in_turn(core, k);
    if (slot >= 0 && run(core, slot, now_us, out)) {
      had_turn(core, slot);
      return true;
    }
  }
  return false;
}

/* A guess, and nothing but time is lost when it is wrong: who runs is decided by next. */
bool txb_worker_core_ahead(const struct txb_worker_core *core, int *slot_out, int32_t *base_out, int32_t *count_out) {
  if (core->busy_slot < 0 || core->busy_kind != TXB_WA_RUN || core->exclusive >= 0 || core->stopping)
    return false;
  for (size_t k = 0; k < turns(core); k++) {
    int slot = in_turn(core, k);
    if (slot < 0)
      continue;
    const struct txb_partition *p = &core->partitions[slot];
    int32_t base = slot == core->busy_slot ? core->busy_count : 0;
    bool unsure = base > 0 && (core->busy_isolated || core->busy_condemn);
    bool careful = p->suspect_left > 0 || p->isolated_left > 0 || p->conflicts > 0 || !p->keys_known || unsure;
    if (p->leaving || p->own != TXB_OWN_OWNED || p->probing || !p->fetching || careful)
      continue;
    int32_t count = txb_partition_full(p, &core->options, base);
    if (count == 0)
      continue;
    *slot_out = slot;
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
    if (differs_from_copy(p))
      due = earlier(due, core->copy_due_us);
    bool passes = txb_partition_passes(p) && !core->stopping && (core->exclusive < 0 || core->exclusive == (int)i);
    if ((holds_unrecorded(p) || passes) && core->up && core->busy_slot < 0)
      due = earlier(due, p->due_us);
    if (core->busy_slot >= 0 || !core->up || p->leaving)
      continue;
    due = earlier(due, p->keys_known ? look_us(core, p) : p->due_us);
    bool others_turn = core->exclusive >= 0 && core->exclusive != (int)i;
    if (others_turn || p->stall_unrecorded || !p->keys_known || core->stopping)
      continue;
    int64_t retry_us = txb_partition_retry_us(p);
    due = earlier(due, retry_us > p->due_us ? retry_us : p->due_us);
    if (p->count == 0 || !p->fetching || p->probing || txb_partition_retry_first(p))
      continue;
    bool stalled = txb_partition_record(p, 0)->offset == p->stalled_offset;
    int64_t runs_us = stalled ? p->stall_due_us : p->waiting_since_us + core->options.batch_wait_us;
    due = earlier(due, runs_us > p->due_us ? runs_us : p->due_us);
  }
  return due;
}
