/* The worker's process around its core in the simulator: its loop, its connection, what it fetches, how it dies. See worker_world.h. */
#include "worker_world.h"

#include <stdlib.h>
#include <string.h>

static bool connected(const struct world *w, const struct worker *k) {
  return k->session >= 0 && w->m.sessions[k->session].used && w->m.sessions[k->session].serial == k->session_serial;
}

struct worker *running_in(struct world *w, int session) {
  for (int i = 0; i < WORKERS; i++)
    if (w->workers[i].alive && w->workers[i].session == session && connected(w, &w->workers[i]))
      return &w->workers[i];
  return NULL;
}

void start_worker(struct world *w, int index) {
  struct worker *k = &w->workers[index];
  memset(k, 0, sizeof *k);
  k->alive = true;
  k->index = index;
  k->instance = ++w->instances;
  k->session = -1;
  for (int p = 0; p < PLACES; p++)
    k->slot[p] = -1, k->position[p] = -1;
  struct txb_worker_core_options o = {.batch_messages = w->m.batch_messages,
                                      .batch_bytes = 1000,
                                      .batch_wait_us = 5000,
                                      .buffer_bytes = 1 << 20,
                                      .retry_first_ms = 50,
                                      .retry_cap_ms = 1000,
                                      .evict_us = 1500000,
                                      .copy_us = 100000,
                                      .quiet_us = 100000,
                                      /* looking would heal that bug sooner or later */
                                      .look_us = w->m.bugs.commit_tag_ignored ? 0 : 300000,
                                      .recheck_us = 1000000,
                                      .bug_error_skips = w->m.bugs.error_skips,
                                      .bug_commit_tag_ignored = w->m.bugs.commit_tag_ignored};
  txb_worker_core_init(&k->core, &o);
  say(&w->m, "worker %d starts as instance %d, batches of %d", index, k->instance, o.batch_messages);
}

void kill_worker(struct world *w, struct worker *k) {
  say(&w->m, "worker %d is killed", k->index);
  if (connected(w, k)) {
    struct session *x = &w->m.sessions[k->session];
    x->connected = false;
    bool goes_on = !x->driven && !session_idle(&w->m, k->session) && chance(&w->m, 60); /* all was sent: the server may
                                                                                           not notice */
    if (!goes_on)
      session_close(&w->m, k->session);
  }
  txb_worker_core_fini(&k->core);
  k->alive = false;
  k->session = -1;
}

static void handle_kafka(struct world *w, struct worker *k) {
  struct kafka_event e = k->events[0];
  memmove(k->events, k->events + 1, (size_t)--k->event_count * sizeof e);
  int slot = k->slot[e.partition];
  switch (e.kind) {
  case K_ASSIGN: {
    struct txb_error err;
    if (txb_worker_core_assign(&k->core, false, w->m.now_us, &slot, &err) != TXB_OK)
      abort();
    k->slot[e.partition] = slot;
    k->partition_of[slot] = e.partition;
    k->serial[e.partition]++;
    break;
  }
  case K_REVOKE:
  case K_LOST:
    if (slot >= 0)
      step(w, k, e.kind == K_REVOKE ? TXB_WE_REVOKED : TXB_WE_LOST, slot);
    break;
  case K_CONFIRMED:
    if (slot >= 0 && e.serial == k->serial[e.partition])
      found(w, k, TXB_WE_CONFIRMED, slot, e.accepted, 0);
    break;
  }
}

/* One record to the core, if there is one. */
static void fetch(struct world *w, struct worker *k) {
  for (int p = 0; p < PLACES; p++) {
    if (k->slot[p] < 0 || k->position[p] < 0 || k->paused[p] || chance(&w->m, 30))
      continue;
    const struct log *l = &w->m.logs[p];
    int64_t end = is_lane(p) ? k->lane_end[p] : l->end;
    int i = 0;
    while (i < l->count && l->records[i].offset < k->position[p])
      i++;
    if (i == l->count || l->records[i].offset >= end) {
      found(w, k, TXB_WE_END, k->slot[p], true, end);
      continue;
    }
    if (is_lane(p) && l->records[i].offset > k->position[p] && chance(&w->m, 50)) { /* read in vain so far */
      struct txb_worker_event e = event_of(w, TXB_WE_END, k->slot[p]);
      e.offset = l->records[i].offset;
      e.more = true;
      txb_worker_core_step(&k->core, &e);
    }
    struct txb_worker_record r = {.offset = l->records[i].offset,
                                  .timestamp_ms = l->records[i].id,
                                  .id = model_uuid(l->records[i].id),
                                  .size = 100};
    k->position[p] = r.offset + 1;
    struct txb_error err;
    if (txb_worker_core_record(&k->core, k->slot[p], &r, w->m.now_us, &err) != TXB_OK)
      abort();
  }
}

static void leave(struct world *w, struct worker *k, int p) {
  k->slot[p] = -1;
  k->position[p] = -1;
  k->confirming[p] = false;
  if (is_lane(p)) {
    if (connected(w, k))
      job_free(&w->m, p, k->instance);
    return;
  }
  if (w->owner[p] == k->index && w->in_group[k->index]) {
    w->owner[p] = -1;
    w->revoking[p] = false;
    rebalance(w);
  }
}

/* Carries out one action. False: it waits for a lock, and is to be tried again. */
static bool carry_out(struct world *w, struct worker *k, const struct txb_worker_action *a) {
  int p = k->partition_of[a->slot];
  switch (a->kind) {
  case TXB_WA_LOOKUP:
  case TXB_WA_TAKE:
  case TXB_WA_EVICT:
  case TXB_WA_MARK:
  case TXB_WA_STALL:
  case TXB_WA_PASS:
  case TXB_WA_RELEASE:
  case TXB_WA_RETRY_MARK:
  case TXB_WA_CONDEMN:
  case TXB_WA_KEYS:
  case TXB_WA_RUN:
  case TXB_WA_RETRY:
    return ask_database(w, k, a, p);
  case TXB_WA_CONFIRM: {
    if (is_lane(p)) {
      k->confirming[p] = true;
      break;
    }
    bool accepted = k->member && w->in_group[k->index] && k->generation == w->generation;
    tell(k, (struct kafka_event){.kind = K_CONFIRMED, .partition = p, .serial = k->serial[p], .accepted = accepted});
    break;
  }
  case TXB_WA_FETCH:
    if (is_lane(p) && a->offset != k->core.partitions[a->slot].next_offset)
      violated(&w->m, "a lane is not read from its position on");
    k->position[p] = a->offset;
    k->paused[p] = false;
    break;
  case TXB_WA_UNFETCH:
    k->position[p] = -1;
    break;
  case TXB_WA_PAUSE:
  case TXB_WA_RESUME:
    k->paused[p] = a->kind == TXB_WA_PAUSE;
    break;
  case TXB_WA_LEAVE:
    leave(w, k, p);
    break;
  case TXB_WA_TELL:
    violated(&w->m, "a partition was stopped without a reason");
    break;
  case TXB_WA_START:
  case TXB_WA_COPY:
    if (is_lane(p))
      violated(&w->m, "what is Kafka's alone was asked for a lane");
    break;
  case TXB_WA_NONE:
    break;
  }
  return true;
}

/* The answer to a RUN or RETRY, if it has come. */
static void collect(struct world *w, struct worker *k) {
  struct session *x = &w->m.sessions[k->session];
  if (x->driven && !session_idle(&w->m, k->session))
    session_advance(&w->m, k->session); /* the client sends the next statement */
  if (!session_idle(&w->m, k->session) || x->answer == A_NONE)
    return;
  int p = x->partition;
  struct txb_worker_event e = event_of(w, x->retry ? TXB_WE_RETRIED : TXB_WE_COMMITTED, k->awaiting_slot);
  e.tag_commit = x->answer == A_COMMITTED;
  e.settled = x->settled;
  e.failed = x->failed_count;
  e.due_ms = x->due_ms;
  e.held_count = failed_held(&w->m, p);
  e.transient = x->transient;
  e.chunk = x->new_chunk;
  e.aside = e.tag_commit && x->aside;
  for (int key = keys_from(p); key < keys_to(p) && e.tag_commit && !is_lane(p); key++) /* a lane's are asked for */
    k->held[p][key] += x->gained[key];
  if (x->answer == A_FENCED)
    e.kind = TXB_WE_FENCED;
  if (x->answer == A_KEYS_CHANGED)
    e.kind = TXB_WE_KEYS_CHANGED;
  bool rolled_back = x->answer == A_FAILED || (x->answer == A_ROLLED_BACK_TAG && x->retry);
  if (rolled_back) {
    e.kind = TXB_WE_FAILED;
    e.failure = x->answer == A_FAILED ? (enum txb_failure)x->failure : TXB_FAILURE_ERROR;
    e.at = x->answer == A_FAILED ? x->failed_at : -1;
  }
  if (rolled_back || x->answer == A_ROLLED_BACK_TAG)
    k->verdict[p] = x->failed_class == TXB_CLASS_DEAD ? TXB_CLASS_DEAD : TXB_CLASS_COUNT;
  k->awaiting = false;
  x->answer = A_NONE;
  txb_worker_core_step(&k->core, &e);
}

/* A loop that waits until due_us, and finds something to do then: neither later than it might, nor in vain. */
static bool wakes(struct world *w, struct worker *k) {
  int64_t due_us = txb_worker_core_due_us(&k->core);
  bool wakes = k->quiet && txb_worker_core_next(&k->core, w->m.now_us, &k->action);
  if (wakes && w->m.now_us < due_us)
    violated(&w->m, "V: something was due before the time that was told");
  if (k->quiet && !wakes && w->m.now_us >= due_us)
    violated(&w->m, "V: nothing is due at the time that was told");
  k->quiet = false;
  return wakes;
}

/* One turn of a worker's loop. */
void turn(struct world *w, struct worker *k) {
  if (k->session >= 0 && !connected(w, k)) { /* the connection is gone */
    say(&w->m, "worker %d finds its connection gone", k->index);
    k->session = -1;
    k->awaiting = k->waiting = k->quiet = false;
    memset(k->confirming, 0, sizeof k->confirming);
    step(w, k, TXB_WE_DOWN, 0);
    return;
  }
  if (wakes(w, k)) {
    k->waiting = !carry_out(w, k, &k->action);
    return;
  }
  if (k->session < 0 && chance(&w->m, 50) && (k->session = session_open(&w->m)) >= 0) {
    k->session_serial = w->m.sessions[k->session].serial;
    step(w, k, TXB_WE_UP, 0);
  }
  bool noticed = !w->in_group[k->index] && k->member && chance(&w->m, 30);
  if (noticed) { /* the heartbeat was answered: unknown member */
    k->member = false;
    k->event_count = 0;
    for (int p = 0; p < w->m.partitions; p++)
      if (k->slot[p] >= 0)
        tell(k, (struct kafka_event){.kind = K_LOST, .partition = p});
  }
  if (w->in_group[k->index] && k->member) {
    w->seen_us[k->index] = w->m.now_us;
    if (chance(&w->m, 70))
      k->generation = w->generation;
  }
  if (!k->member && !w->in_group[k->index] && k->core.used == k->core.lanes &&
      k->event_count == 0) /* its last life must have been
                                                                                           timed out */
    join_group(w, k);
  if (k->event_count > 0 && chance(&w->m, 70))
    handle_kafka(w, k);
  claim_lanes(w, k);
  fetch(w, k);
  if (k->awaiting) {
    collect(w, k);
    return;
  }
  if (k->waiting || txb_worker_core_next(&k->core, w->m.now_us, &k->action))
    k->waiting = !carry_out(w, k, &k->action);
  else
    k->quiet = true;
}
