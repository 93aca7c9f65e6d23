/* Simulates workers of one group against a model of PostgreSQL and Kafka: kills at every step, stopped members that
 * wake as zombies, rebalances, server crashes, failing and killing messages, repetitions in the topic. The real core
 * decides; every commit is verified, and at the end everything.
 *
 *   sim_worker [--seeds N] [--seed S] [--bug NAME]     exit 0: nothing found; 1: a violation, printed with its seed and
 * history; 2: usage
 *
 * With --bug worker_* the rule of that name is broken: then something must be found.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consumer/worker_core.h"
#include "worker_model.h"

enum { STEPS_FAULTY = 260, STEPS_MAX = 30000, EVENTS_MAX = 32, SESSION_TIMEOUT_US = 3000000 };

struct kafka_event {
  enum { K_ASSIGN, K_REVOKE, K_LOST, K_CONFIRMED } kind;
  int partition, serial;
  bool accepted;
};

struct worker {
  bool alive, stopped, member;
  int index, instance, session, session_serial, generation;
  int64_t stopped_since_us, rejoin_us;
  struct txb_worker_core core;
  int slot[PARTITIONS_MAX];   /* -1 */
  int serial[PARTITIONS_MAX]; /* counts assignments: an answer to an older one is void */
  int partition_of[64];
  int64_t position[PARTITIONS_MAX]; /* of the fetcher; -1: not fetching */
  bool paused[PARTITIONS_MAX];
  struct kafka_event events[EVENTS_MAX];
  int event_count;
  bool awaiting; /* a RUN or RETRY has been sent */
  int awaiting_slot;
  int held[PARTITIONS_MAX][KEYS]; /* rows that hold each key, as far as it knows */
  enum txb_failure_class verdict[PARTITIONS_MAX];
  int marked[PARTITIONS_MAX][BATCH_MAX]; /* the rows of its RETRY_MARK */
  int64_t marked_us[PARTITIONS_MAX];
  bool waiting; /* `action` waits for a lock */
  bool quiet;   /* it had nothing to do, and nothing has happened since */
  struct txb_worker_action action;
};

struct world {
  struct model m;
  struct worker workers[WORKERS];
  int generation, owner[PARTITIONS_MAX], revoking[PARTITIONS_MAX];
  int64_t seen_us[WORKERS]; /* last heartbeat of a member */
  bool in_group[WORKERS];
  int instances, rotation;
};

static bool connected(const struct world *w, const struct worker *k) {
  return k->session >= 0 && w->m.sessions[k->session].used && w->m.sessions[k->session].serial == k->session_serial;
}

static struct worker *running_in(struct world *w, int session) {
  for (int i = 0; i < WORKERS; i++)
    if (w->workers[i].alive && w->workers[i].session == session && connected(w, &w->workers[i]))
      return &w->workers[i];
  return NULL;
}

/* ---- the group ------------------------------------------------------------------------------- */

static void tell(struct worker *k, struct kafka_event e) {
  if (!k->member && e.kind != K_LOST && e.kind != K_CONFIRMED) /* meant for its last life */
    return;
  TXB_ASSERT(k->event_count < EVENTS_MAX);
  k->events[k->event_count++] = e;
}

static void rebalance(struct world *w) {
  int members[WORKERS], n = 0;
  for (int i = 0; i < WORKERS; i++)
    if (w->in_group[i])
      members[n++] = i;
  for (int p = 0; p < w->m.partitions && n > 0; p++) {
    int target = members[(p + w->rotation) % n];
    int owner = w->owner[p];
    if (owner == target || w->revoking[p])
      continue;
    if (owner < 0) {
      w->owner[p] = target;
      say(&w->m, "group: partition %d to worker %d", p, target);
      tell(&w->workers[target], (struct kafka_event){.kind = K_ASSIGN, .partition = p});
    } else if (w->workers[owner].alive) {
      w->revoking[p] = true;
      tell(&w->workers[owner], (struct kafka_event){.kind = K_REVOKE, .partition = p});
    }
  }
}

static void leave_group(struct world *w, int index) {
  if (!w->in_group[index])
    return;
  say(&w->m, "group: worker %d is out", index);
  w->in_group[index] = false;
  w->generation++;
  for (int p = 0; p < w->m.partitions; p++)
    if (w->owner[p] == index) {
      w->owner[p] = -1;
      w->revoking[p] = false;
    }
  rebalance(w);
}

static void join_group(struct world *w, struct worker *k) {
  say(&w->m, "group: worker %d joins", k->index);
  k->member = w->in_group[k->index] = true;
  w->seen_us[k->index] = w->m.now_us;
  w->generation++;
  w->rotation = (int)roll(&w->m, WORKERS);
  rebalance(w);
}

static void expire_members(struct world *w) {
  for (int i = 0; i < WORKERS; i++)
    if (w->in_group[i] && w->m.now_us - w->seen_us[i] > SESSION_TIMEOUT_US)
      leave_group(w, i);
}

/* ---- a worker -------------------------------------------------------------------------------- */

static void start_worker(struct world *w, int index) {
  struct worker *k = &w->workers[index];
  memset(k, 0, sizeof *k);
  k->alive = true;
  k->index = index;
  k->instance = ++w->instances;
  k->session = -1;
  for (int p = 0; p < PARTITIONS_MAX; p++)
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

static void kill_worker(struct world *w, struct worker *k) {
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

static struct txb_worker_event event_of(struct world *w, enum txb_worker_event_kind kind, int slot) {
  return (struct txb_worker_event){
      .kind = kind, .slot = slot, .now_us = w->m.now_us, .random = roll(&w->m, 1u << 30), .at = -1};
}

static void step(struct world *w, struct worker *k, enum txb_worker_event_kind kind, int slot) {
  struct txb_worker_event e = event_of(w, kind, slot);
  txb_worker_core_step(&k->core, &e);
}

static void found(struct world *w, struct worker *k, enum txb_worker_event_kind kind, int slot, bool yes,
                  int64_t offset) {
  struct txb_worker_event e = event_of(w, kind, slot);
  e.found = yes;
  e.offset = offset;
  txb_worker_core_step(&k->core, &e);
}

static void looked_up(struct world *w, struct worker *k, int slot, int p) {
  struct txb_worker_event e = event_of(w, TXB_WE_LOOKED_UP, slot);
  e.found = true;
  e.offset = w->m.rows[p].next_offset;
  e.keys_version = w->m.rows[p].keys_version;
  txb_worker_core_step(&k->core, &e);
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
  for (int p = 0; p < w->m.partitions; p++) {
    if (k->slot[p] < 0 || k->position[p] < 0 || k->paused[p] || chance(&w->m, 30))
      continue;
    const struct log *l = &w->m.logs[p];
    int i = 0;
    while (i < l->count && l->records[i].offset < k->position[p])
      i++;
    if (i == l->count) {
      found(w, k, TXB_WE_END, k->slot[p], true, l->end);
      continue;
    }
    struct txb_worker_record r = {.offset = l->records[i].offset, .timestamp_ms = l->records[i].id, .size = 100};
    r.id.bytes[15] = (unsigned char)l->records[i].id;
    k->position[p] = r.offset + 1;
    struct txb_error err;
    if (txb_worker_core_record(&k->core, k->slot[p], &r, w->m.now_us, &err) != TXB_OK)
      abort();
  }
}

static bool locked_by_other(struct world *w, struct worker *k, int p) {
  return w->m.row_lock[p] >= 0 && w->m.row_lock[p] != k->session;
}

static void take(struct world *w, struct worker *k, int slot, int p) {
  struct row *r = &w->m.rows[p];
  if (locked_by_other(w, k, p)) {
    step(w, k, TXB_WE_LOCKED, slot);
    return;
  }
  struct txb_worker_event e = event_of(w, TXB_WE_TAKEN, slot);
  bool died = r->busy && r->instance != k->instance;
  e.position = (struct txb_position){.next_offset = r->next_offset,
                                     .has_last = r->last_id >= 0,
                                     .last_timestamp_ms = r->last_id,
                                     .last_offset = r->last_offset,
                                     .suspect = died || r->suspect_offset >= 0 || r->suspect_failed_count > 0,
                                     .suspect_offset = r->suspect_offset,
                                     .suspect_count = r->suspect_count,
                                     .suspect_died = died && r->suspect_marked && r->suspect_count == 1,
                                     .stalled_offset = r->stalled_offset,
                                     .attempts = r->attempts,
                                     .keys_version = r->keys_version,
                                     .suspect_failed_count = r->suspect_failed_count,
                                     .suspect_failed_number = r->suspect_failed[0],
                                     .due_ms = r->due_us > w->m.now_us ? (r->due_us - w->m.now_us) / 1000 : 0};
  e.position.last_id.bytes[15] = (unsigned char)r->last_id;
  failed_taken(&w->m, p, died);
  r->suspect_deaths += e.position.suspect_died && r->suspect_failed_count == 0;
  e.position.suspect_deaths =
      r->suspect_failed_count == 1 ? w->m.failed[r->suspect_failed[0]].deaths : r->suspect_deaths;
  e.position.epoch = ++r->epoch;
  r->instance = k->instance;
  r->busy = true;
  r->taken_offset = r->next_offset;
  r->suspect_marked = false;
  say(&w->m, "worker %d takes partition %d at %lld, epoch %lld%s", k->index, p, (long long)r->next_offset,
      (long long)r->epoch, e.position.suspect ? ", suspect" : "");
  txb_worker_core_step(&k->core, &e);
}

static void evict(struct world *w, struct worker *k, int slot, int p) {
  int holder = w->m.row_lock[p];
  if (holder >= 0 && holder != k->session) {
    say(&w->m, "worker %d ends the backend that holds partition %d", k->index, p);
    session_rollback(&w->m, holder);
    w->m.sessions[holder].used = false;
  }
  step(w, k, TXB_WE_EVICTED, slot);
}

static void keys(struct world *w, struct worker *k, int slot, int p) {
  struct txb_worker_event e = event_of(w, TXB_WE_KEYS, slot);
  for (int key = 0; key < KEYS; key++)
    k->held[p][key] = failed_holding(&w->m, p, key);
  e.keys_version = w->m.rows[p].keys_version;
  e.due_ms = failed_due_ms(&w->m, p);
  e.held_count = failed_held(&w->m, p);
  say(&w->m, "worker %d reads the keys of partition %d, version %lld", k->index, p, (long long)e.keys_version);
  txb_worker_core_step(&k->core, &e);
}

static void retry_mark(struct world *w, struct worker *k, const struct txb_worker_action *a, int p) {
  struct row *r = &w->m.rows[p];
  struct txb_worker_event e = event_of(w, TXB_WE_RETRY_MARKED, a->slot);
  e.count = failed_pick(&w->m, p, a->count < BATCH_MAX ? a->count : BATCH_MAX, k->marked[p]);
  e.number = k->marked[p][0];
  e.keys_version = r->keys_version;
  e.due_ms = failed_due_ms(&w->m, p);
  e.held_count = failed_held(&w->m, p);
  k->marked_us[p] = w->m.now_us;
  r->suspect_marked = false;
  if (!w->m.bugs.retry_unmarked) {
    r->suspect_deaths = 0;
    for (int i = 0; i < e.count; i++)
      if (!w->m.failed[k->marked[p][i]].suspect)
        w->m.failed[k->marked[p][i]].deaths = 0;
    memcpy(r->suspect_failed, k->marked[p], sizeof r->suspect_failed);
    r->suspect_failed_count = e.count;
    r->suspect_offset = -1;
    r->suspect_count = e.count;
    r->suspect_marked = e.count > 0;
  }
  say(&w->m, "worker %d marks %d failed of partition %d, asked for %d", k->index, e.count, p, a->count);
  txb_worker_core_step(&k->core, &e);
}

static void condemn(struct world *w, struct worker *k, const struct txb_worker_action *a, int p) {
  int key = w->m.failed[a->number].key;
  failed_condemn(&w->m, p, (int)a->number);
  if (key >= 0)
    k->held[p][key] = failed_holding(&w->m, p, key);
  struct txb_worker_event e = event_of(w, TXB_WE_CONDEMNED, a->slot);
  e.due_ms = failed_due_ms(&w->m, p);
  e.held_count = failed_held(&w->m, p);
  say(&w->m, "worker %d condemns failed %lld of partition %d", k->index, (long long)a->number, p);
  txb_worker_core_step(&k->core, &e);
}

/* MARK, STALL and RELEASE and the like: small fenced transactions. False: waits for the lock. */
static bool small(struct world *w, struct worker *k, const struct txb_worker_action *a, int p) {
  struct row *r = &w->m.rows[p];
  if (locked_by_other(w, k, p))
    return false;
  bool ours = r->epoch == a->epoch && (a->kind != TXB_WA_PASS || r->next_offset == a->expected_next);
  if (!ours && a->kind != TXB_WA_RELEASE) {
    step(w, k, TXB_WE_FENCED, a->slot);
    return true;
  }
  if (a->kind == TXB_WA_MARK) {
    r->suspect_deaths = r->suspect_offset == a->offset && r->suspect_failed_count == 0 ? r->suspect_deaths : 0;
    r->suspect_failed_count = 0;
    r->suspect_offset = a->offset;
    r->suspect_count = a->count;
    r->suspect_marked = true;
    say(&w->m, "worker %d marks partition %d at %lld, %d messages", k->index, p, (long long)a->offset, a->count);
    step(w, k, TXB_WE_MARKED, a->slot);
  } else if (a->kind == TXB_WA_PASS) {
    say(&w->m, "worker %d passes partition %d to %lld", k->index, p, (long long)a->new_next);
    model_passed(&w->m, p, a->new_next);
    step(w, k, TXB_WE_PASSED, a->slot);
  } else if (a->kind == TXB_WA_RETRY_MARK) {
    retry_mark(w, k, a, p);
  } else if (a->kind == TXB_WA_CONDEMN) {
    condemn(w, k, a, p);
  } else if (a->kind == TXB_WA_STALL) {
    r->stalled_offset = a->offset;
    r->attempts = a->attempts;
    r->due_us = w->m.now_us + a->delay_ms * 1000;
    r->suspect_marked = false;
    if (!a->keep_suspect) {
      r->suspect_offset = -1;
      r->suspect_deaths = 0;
    }
    say(&w->m, "worker %d stalls partition %d at %lld, attempt %d, %lld ms", k->index, p, (long long)a->offset,
        a->attempts, (long long)a->delay_ms);
    if (a->stop == TXB_STOP_NONE && a->failure != TXB_FAILURE_WAIT && a->failure != TXB_FAILURE_LIMIT)
      violated(&w->m, "a message stands still that could be set aside");
    if (a->stop != TXB_STOP_NONE)
      violated(&w->m, "W9: a partition was stopped though its topic is the same");
    step(w, k, TXB_WE_STALLED, a->slot);
  } else {
    r->busy = ours ? false : r->busy;
    r->suspect_marked = ours ? false : r->suspect_marked;
    step(w, k, TXB_WE_RELEASED, a->slot);
  }
  return true;
}

/* Where the batch must be cut because the next one would be one too many of its key. */
static int limited(const struct world *w, const struct worker *k, const struct session *x, int p) {
  int more[KEYS] = {0};
  for (int i = 0; i < x->count; i++) {
    int key = w->m.subjects[x->ids[i]].key;
    if (key >= 0 && k->held[p][key] > 0 && k->held[p][key] + ++more[key] > w->m.held_max)
      return i;
  }
  return x->count;
}

static void run(struct world *w, struct worker *k, const struct txb_worker_action *a, int p) {
  struct session *x = &w->m.sessions[k->session];
  x->retry = false;
  x->partition = p;
  x->count = a->count;
  x->epoch = a->epoch;
  x->expected = a->expected_next;
  x->new_next = a->new_next;
  x->keys_version = a->keys_version;
  x->isolated = a->isolated;
  x->condemn = a->condemn;
  x->patience_over = a->patience_over;
  x->chunk = a->chunk;
  x->at = a->at;
  x->crash = a->condemn && a->failure == TXB_FAILURE_CRASH;
  x->condemn_class = x->crash ? TXB_CLASS_DEAD : k->verdict[p];
  x->skip = a->skip;
  for (int i = 0; i < a->count; i++) {
    const struct txb_worker_record *r = txb_worker_core_running(&k->core, a->slot, i);
    x->ids[i] = r->id.bytes[15];
    x->offsets[i] = r->offset;
  }
  for (int key = 0; key < KEYS; key++)
    x->held[key] = k->held[p][key] > 0;
  int settled = limited(w, k, x, p);
  if (settled == 0) {
    struct txb_worker_event e = event_of(w, TXB_WE_FAILED, a->slot);
    e.failure = TXB_FAILURE_LIMIT;
    e.at = 0;
    txb_worker_core_step(&k->core, &e);
    return;
  }
  if (settled < x->count) {
    x->count = settled;
    x->new_next = x->offsets[settled - 1] + 1;
    x->at = a->at < settled ? a->at : -1;
  }
  x->plugin = chance(&w->m, w->m.plugin_percent);
  session_run(&w->m, k->session);
  k->awaiting = true;
  k->awaiting_slot = a->slot;
  say(&w->m, "worker %d runs partition %d from %lld, %d messages, epoch %lld%s%s%s", k->index, p,
      (long long)a->expected_next, x->count, (long long)a->epoch, x->plugin ? ", plugin" : "",
      x->isolated ? ", isolated" : "", x->condemn ? ", condemned" : "");
}

static void retry(struct world *w, struct worker *k, const struct txb_worker_action *a, int p) {
  struct session *x = &w->m.sessions[k->session];
  x->retry = true;
  x->isolated = x->crash = x->skip = false;
  x->partition = p;
  x->count = a->count;
  x->epoch = a->epoch;
  x->keys_version = a->keys_version;
  x->condemn = a->condemn;
  x->patience_over = a->patience_over;
  x->chunk = 0;
  x->at = -1;
  x->marked_us = k->marked_us[p];
  memset(x->held, 0, sizeof x->held);
  for (int i = 0; i < a->count; i++) {
    x->numbers[i] = k->marked[p][i];
    x->ids[i] = w->m.failed[x->numbers[i]].id;
    x->offsets[i] = w->m.failed[x->numbers[i]].offset;
  }
  x->plugin = chance(&w->m, w->m.plugin_percent);
  session_run(&w->m, k->session);
  k->awaiting = true;
  k->awaiting_slot = a->slot;
  say(&w->m, "worker %d retries %d of partition %d, epoch %lld%s%s", k->index, a->count, p, (long long)a->epoch,
      x->plugin ? ", plugin" : "", x->condemn ? ", condemned" : "");
}

static void leave(struct world *w, struct worker *k, int p) {
  k->slot[p] = -1;
  k->position[p] = -1;
  if (w->owner[p] == k->index && w->in_group[k->index]) {
    w->owner[p] = -1;
    w->revoking[p] = false;
    rebalance(w);
  }
}

/* What may fail for a passing reason, and be rolled back: everything but RUN, whose failures session_run plays. */
static bool is_small(enum txb_worker_action_kind kind) {
  return kind == TXB_WA_LOOKUP || kind == TXB_WA_TAKE || kind == TXB_WA_EVICT || kind == TXB_WA_MARK ||
         kind == TXB_WA_STALL || kind == TXB_WA_PASS || kind == TXB_WA_RELEASE || kind == TXB_WA_KEYS ||
         kind == TXB_WA_RETRY_MARK || kind == TXB_WA_CONDEMN;
}

/* Carries out one action. False: it waits for a lock, and is to be tried again. */
static bool carry_out(struct world *w, struct worker *k, const struct txb_worker_action *a) {
  int p = k->partition_of[a->slot];
  if (is_small(a->kind) && chance(&w->m, 2)) {
    say(&w->m, "worker %d: action %d on partition %d fails", k->index, (int)a->kind, p);
    step(w, k, TXB_WE_FAILED, a->slot);
    return true;
  }
  switch (a->kind) {
  case TXB_WA_LOOKUP:
    looked_up(w, k, a->slot, p);
    break;
  case TXB_WA_TAKE:
    take(w, k, a->slot, p);
    break;
  case TXB_WA_EVICT:
    evict(w, k, a->slot, p);
    break;
  case TXB_WA_MARK:
  case TXB_WA_STALL:
  case TXB_WA_PASS:
  case TXB_WA_RELEASE:
  case TXB_WA_RETRY_MARK:
  case TXB_WA_CONDEMN:
    return small(w, k, a, p);
  case TXB_WA_KEYS:
    keys(w, k, a->slot, p);
    break;
  case TXB_WA_RUN:
    run(w, k, a, p);
    break;
  case TXB_WA_RETRY:
    retry(w, k, a, p);
    break;
  case TXB_WA_CONFIRM: {
    bool accepted = k->member && w->in_group[k->index] && k->generation == w->generation;
    tell(k, (struct kafka_event){.kind = K_CONFIRMED, .partition = p, .serial = k->serial[p], .accepted = accepted});
    break;
  }
  case TXB_WA_FETCH:
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
  case TXB_WA_NONE:
  case TXB_WA_START:
  case TXB_WA_COPY:
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
  for (int key = 0; key < KEYS && e.tag_commit; key++)
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
static void turn(struct world *w, struct worker *k) {
  if (k->session >= 0 && !connected(w, k)) { /* the connection is gone */
    say(&w->m, "worker %d finds its connection gone", k->index);
    k->session = -1;
    k->awaiting = k->waiting = k->quiet = false;
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
  if (!k->member && !w->in_group[k->index] && k->core.used == 0 && k->event_count == 0) /* its last life must have been
                                                                                           timed out */
    join_group(w, k);
  if (k->event_count > 0 && chance(&w->m, 70))
    handle_kafka(w, k);
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

/* ---- faults ---------------------------------------------------------------------------------- */

static void poison(struct world *w) {
  if (w->m.server_crashed) {
    w->m.server_crashed = false;
    model_crash_server(&w->m);
  }
  if (w->m.killed_worker >= 0) {
    struct worker *k = running_in(w, w->m.killed_worker);
    w->m.killed_worker = -1;
    if (k != NULL)
      kill_worker(w, k);
  }
}

static void fault(struct world *w) {
  struct worker *k = &w->workers[roll(&w->m, WORKERS)];
  switch (roll(&w->m, 24)) {
  case 0:
    if (k->alive)
      kill_worker(w, k);
    break;
  case 1:
  case 2:
    if (k->alive && !k->stopped) {
      say(&w->m, "worker %d is stopped", k->index);
      k->stopped = true;
    }
    break;
  case 3:
    if (chance(&w->m, 30))
      model_crash_server(&w->m);
    break;
  case 4:
    w->rotation = (int)roll(&w->m, WORKERS);
    w->generation++;
    rebalance(w);
    break;
  case 5: { /* W3: the server ends a session that stands idle in a transaction */
    int s = (int)roll(&w->m, SESSIONS_MAX);
    if (w->m.sessions[s].used && w->m.sessions[s].driven && w->m.sessions[s].in_transaction &&
        running_in(w, s) != NULL && running_in(w, s)->stopped) {
      session_rollback(&w->m, s);
      w->m.sessions[s].used = false;
    }
    break;
  }
  case 6:
  case 7:
    if (k->alive && k->stopped) {
      say(&w->m, "worker %d wakes", k->index);
      k->stopped = false;
    }
    break;
  case 8:
    w->m.now_us += SESSION_TIMEOUT_US / 2;
    break;
  default:
    break;
  }
}

static void advance_servers(struct world *w) {
  for (int s = 0; s < SESSIONS_MAX; s++) {
    struct session *x = &w->m.sessions[s];
    if (!x->used || x->driven || session_idle(&w->m, s) || chance(&w->m, 25))
      continue;
    session_advance(&w->m, s);
    poison(w);
    if (x->used && !x->connected && session_idle(&w->m, s))
      session_close(&w->m, s);
  }
}

/* When servers are killed every worker loses its connection, and which partition goes where after that is chance: then
 * one worker has all that kills. */
static bool is_alone(const struct world *w) {
  return w->m.poisoned && w->m.plugin_percent == 0;
}

static void tick(struct world *w, bool faulty) {
  w->m.now_us += 1000 + (int64_t)roll(&w->m, faulty ? 30000 : 60000);
  if (faulty && chance(&w->m, 25))
    model_produce(&w->m);
  if (faulty)
    fault(w);
  if (chance(&w->m, 4))
    failed_person(&w->m);
  expire_members(w);
  advance_servers(w);
  bool alone = !faulty && is_alone(w);
  for (int i = 0; i < WORKERS; i++) {
    struct worker *k = &w->workers[i];
    if (k->alive && !k->stopped && (!faulty || chance(&w->m, 60)))
      turn(w, k);
    else if (!k->alive && !(alone && i > 0) && (!faulty || chance(&w->m, 8)))
      start_worker(w, i);
    poison(w);
  }
}

static const char *simulate(uint64_t seed, const struct bugs *bugs, bool verbose) {
  struct world w = {0};
  model_init(&w.m, seed, bugs, verbose);
  for (int p = 0; p < PARTITIONS_MAX; p++)
    w.owner[p] = -1;
  for (int i = 0; i < WORKERS; i++)
    start_worker(&w, i);
  for (int i = 0; i < STEPS_FAULTY && w.m.violation == NULL; i++)
    tick(&w, true);
  say(&w.m, "no more faults");
  w.m.healed = true;
  for (int i = 0; i < WORKERS; i++) {
    w.workers[i].stopped = false;
    if (is_alone(&w) && i > 0 && w.workers[i].alive)
      kill_worker(&w, &w.workers[i]);
  }
  int64_t calm_us = w.m.now_us + 3 * SESSION_TIMEOUT_US;
  int steps = 0;
  while (w.m.violation == NULL && !model_settled(&w.m) && steps++ < STEPS_MAX) {
    w.m.calm = w.m.now_us >= calm_us;
    tick(&w, false);
  }
  for (int p = 0; p < w.m.partitions; p++)
    say(&w.m, "partition %d: position %lld of %lld, owner %d", p, (long long)w.m.rows[p].next_offset,
        (long long)w.m.logs[p].end, w.owner[p]);
  if (w.m.violation == NULL && !model_settled(&w.m))
    violated(&w.m, "V: it never gets to the end");
  if (w.m.violation == NULL)
    model_verify_end(&w.m);
  for (int i = 0; i < WORKERS; i++)
    if (w.workers[i].alive)
      txb_worker_core_fini(&w.workers[i].core);
  return w.m.violation;
}

static bool plant(struct bugs *bugs, const char *name) {
  const struct {
    const char *name;
    bool *flag;
  } table[] = {{"worker_offset_before_commit", &bugs->offset_before_commit},
               {"worker_inbox_outside", &bugs->inbox_outside},
               {"worker_no_epoch_check", &bugs->no_epoch_check},
               {"worker_no_inbox", &bugs->no_inbox},
               {"worker_commit_tag_ignored", &bugs->commit_tag_ignored},
               {"worker_batch_duplicate_ids", &bugs->batch_duplicate_ids},
               {"worker_error_skips", &bugs->error_skips},
               {"worker_held_out_of_order", &bugs->held_out_of_order},
               {"worker_attempt_per_replica", &bugs->attempt_per_replica},
               {"worker_retry_before_due", &bugs->retry_before_due},
               {"worker_keys_version_ignored", &bugs->keys_version_ignored},
               {"worker_retry_unmarked", &bugs->retry_unmarked},
               {"worker_held_not_kept", &bugs->held_not_kept},
               {"worker_failed_not_recorded", &bugs->failed_not_recorded},
               {"worker_attempts_forgotten", &bugs->attempts_forgotten},
               {"worker_behind_applied", &bugs->behind_applied}};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(table); i++)
    if (strcmp(table[i].name, name) == 0)
      return *table[i].flag = true;
  return false;
}

int main(int argc, char **argv) {
  struct bugs bugs = {0};
  uint64_t seeds = 1000, first = 1;
  for (int i = 1; i < argc; i += 2) {
    bool value = i + 1 < argc;
    if (value && strcmp(argv[i], "--seeds") == 0)
      seeds = strtoull(argv[i + 1], NULL, 10);
    else if (value && (strcmp(argv[i], "--seed") == 0 || strcmp(argv[i], "--first") == 0))
      first = strtoull(argv[i + 1], NULL, 10);
    else if (!value || strcmp(argv[i], "--bug") != 0 || !plant(&bugs, argv[i + 1])) {
      fprintf(stderr, "usage: sim_worker [--seeds N] [--seed S] [--bug worker_NAME]\n");
      return 2;
    }
  }
  for (uint64_t seed = first; seed < first + seeds; seed++) {
    const char *violation = simulate(seed, &bugs, false);
    if (violation == NULL)
      continue;
    printf("seed %llu: %s\nhistory (ms):\n", (unsigned long long)seed, violation);
    (void)simulate(seed, &bugs, true);
    printf("again: sim_worker --seeds 1 --seed %llu\n", (unsigned long long)seed);
    return 1;
  }
  printf("%llu seeds from %llu: nothing found\n", (unsigned long long)seeds, (unsigned long long)first);
  return 0;
}
