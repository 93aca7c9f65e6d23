/* What a worker's core is told in the simulator, and its database operations. See worker_world.h. */
#include "worker_world.h"

#include <string.h>

struct txb_worker_event event_of(struct world *w, enum txb_worker_event_kind kind, int slot) {
  return (struct txb_worker_event){
      .kind = kind, .slot = slot, .now_us = w->m.now_us, .random = roll(&w->m, 1u << 30), .at = -1};
}

void step(struct world *w, struct worker *k, enum txb_worker_event_kind kind, int slot) {
  struct txb_worker_event e = event_of(w, kind, slot);
  txb_worker_core_step(&k->core, &e);
}

void found(struct world *w, struct worker *k, enum txb_worker_event_kind kind, int slot, bool yes, int64_t offset) {
  struct txb_worker_event e = event_of(w, kind, slot);
  e.found = yes;
  e.offset = offset;
  txb_worker_core_step(&k->core, &e);
}

static void looked_up(struct world *w, struct worker *k, int slot, int p) {
  struct txb_worker_event e = event_of(w, TXB_WE_LOOKED_UP, slot);
  e.found = true;
  e.offset = w->m.rows[p].next_offset;
  e.keys_version = failed_keys_version(&w->m, p);
  txb_worker_core_step(&k->core, &e);
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
                                     .keys_version = failed_keys_version(&w->m, p),
                                     .suspect_failed_count = r->suspect_failed_count,
                                     .suspect_failed_number = r->suspect_failed[0],
                                     .due_ms = r->due_us > w->m.now_us ? (r->due_us - w->m.now_us) / 1000 : 0};
  e.position.last_id = model_uuid(r->last_id);
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
  int holder = w->m.row_lock[p]; /* whose backend the row tells, if it is its own, and not a lane's that fences it */
  if (holder >= 0 && holder != k->session && w->m.sessions[holder].partition == p) {
    say(&w->m, "worker %d ends the backend that holds partition %d", k->index, p);
    session_rollback(&w->m, holder);
    w->m.sessions[holder].used = false;
  }
  step(w, k, TXB_WE_EVICTED, slot);
}

static void keys(struct world *w, struct worker *k, int slot, int p) {
  struct txb_worker_event e = event_of(w, TXB_WE_KEYS, slot);
  for (int key = keys_from(p); key < keys_to(p); key++)
    k->held[p][key] = failed_holding(&w->m, p, key);
  e.keys_version = failed_keys_version(&w->m, p);
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
  e.keys_version = failed_keys_version(&w->m, p);
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
  if (is_lane(p) && a->kind == TXB_WA_RETRY_MARK)
    ours = ours && job_may_run(&w->m, p, false);
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
    x->ids[i] = model_id(&r->id);
    x->offsets[i] = r->offset;
  }
  for (int key = keys_from(p); key < keys_to(p); key++)
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

/* What may fail for a passing reason, and be rolled back: everything but RUN, whose failures session_run plays. */
static bool is_small(enum txb_worker_action_kind kind) {
  return kind == TXB_WA_LOOKUP || kind == TXB_WA_TAKE || kind == TXB_WA_EVICT || kind == TXB_WA_MARK ||
         kind == TXB_WA_STALL || kind == TXB_WA_PASS || kind == TXB_WA_RELEASE || kind == TXB_WA_KEYS ||
         kind == TXB_WA_RETRY_MARK || kind == TXB_WA_CONDEMN;
}

bool ask_database(struct world *w, struct worker *k, const struct txb_worker_action *a, int p) {
  if (is_small(a->kind) && chance(&w->m, 2)) {
    say(&w->m, "worker %d: action %d on partition %d fails", k->index, (int)a->kind, p);
    step(w, k, TXB_WE_FAILED, a->slot);
    return true;
  }
  switch ((int)a->kind) {
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
  default:
    violated(&w->m, "the database is asked for something that it doesn't know");
  }
  return true;
}
