/* What a batch and a retry do in their transaction: fast, isolated, condemned. See worker_session.h. */
#include "worker_session.h"

#include <string.h>

#include "consumer/partition_core.h"

static bool is_held(const struct model *m, const struct session *x, int i) {
  int key = m->subjects[x->ids[i]].key;
  return key >= 0 && x->held[key] && !x->skip && !x->retry && !m->bugs.held_not_kept;
}

/* INSERT ... ON CONFLICT DO NOTHING of the ids. False: it waits for another transaction that has one of them. */
bool batch_insert_ids(struct model *m, int s, int *candidates, int *count) {
  struct session *x = &m->sessions[s];
  for (int i = 0; i < x->count; i++)
    if (m->inbox_lock[inbox_of(m, x->ids[i])] >= 0 && m->inbox_lock[inbox_of(m, x->ids[i])] != s)
      return false;
  struct txb_uuid ids[BATCH_MAX] = {0};
  uint32_t order[BATCH_MAX];
  bool first[BATCH_MAX];
  for (int i = 0; i < x->count; i++)
    ids[i] = model_uuid(x->ids[i]);
  (void)txb_batch_candidates(ids, (size_t)x->count, order, first);
  *count = 0;
  for (int i = 0; i < x->count && !x->skip; i++) {
    int known = inbox_of(m, x->ids[i]);
    if (is_held(m, x, i))
      continue;
    if (!first[i] && !m->bugs.batch_duplicate_ids)
      continue;
    if (m->inbox[known] && !m->bugs.no_inbox)
      continue;
    candidates[(*count)++] = i;
    if (first[i] && !x->isolated && !x->retry && !x->condemn) {
      x->fresh[x->fresh_count++] = known;
      m->inbox_lock[known] = s;
    }
  }
  return true;
}

/* Runs the handler for one message: how it fails. OK: *class_out is untouched. */
enum handled { H_OK, H_FAILED, H_KILLED };
static enum handled handle(struct model *m, int s, int index, enum txb_failure_class *class_out) {
  struct session *x = &m->sessions[s];
  struct subject *u = &m->subjects[x->ids[index]];
  if (u->poison_left > 0 && !(u->poison_later && u->attempts == 0)) {
    u->poison_left--;
    u->deaths += m->calm;
    if (u->deaths > (m->poisoned ? DEATHS_MAX : DEATHS_MIXED_MAX) * (1 + u->replays))
      violated(m, "W10: a message kills on and on and is not set aside");
    say(m, "session %d: message %d kills", s, x->ids[index]);
    if (x->plugin)
      m->killed_worker = s;
    else
      m->server_crashed = true;
    return H_KILLED;
  }
  x->failed_at = -1;
  if (u->passing_left > 0) {
    u->passing_left--;
    *class_out = u->kind == PASSES_WAIT ? TXB_CLASS_WAIT : TXB_CLASS_FREE;
    return H_FAILED;
  }
  if (fails_now(u) && u->kind != FAILS_AT_COMMIT) {
    x->failed_at = u->kind == FAILS_RETRY_NAMED ? index : -1;
    *class_out = u->kind == FAILS_REFUSE ? TXB_CLASS_DEAD : TXB_CLASS_COUNT;
    return H_FAILED;
  }
  x->effects[x->effect_count] = x->ids[index];
  x->effect_lane[x->effect_count++] = x->retry ? m->failed[x->numbers[index]].lane : lane_of(x->partition);
  return H_OK;
}

static int failure_of(enum txb_failure_class class) {
  return class == TXB_CLASS_FREE   ? TXB_FAILURE_CONFLICT
         : class == TXB_CLASS_WAIT ? TXB_FAILURE_WAIT
                                   : TXB_FAILURE_ERROR;
}

static void add(struct model *m, struct session *x, int i, enum txb_failed_state state, enum txb_failure_class class,
                bool counts) {
  int key = m->subjects[x->ids[i]].key;
  struct staged_add *a = &x->adds[x->add_count++];
  const struct row *r = &m->rows[x->partition];
  *a = (struct staged_add){.id = x->ids[i],
                           .offset = x->offsets[i],
                           .result = {.state = state, .holds = key >= 0},
                           .suspect = r->suspect_offset >= 0 && x->offsets[i] >= r->suspect_offset &&
                                      x->offsets[i] < r->suspect_offset + r->suspect_count};
  if (state == TXB_FAILED_HELD)
    return;
  a->result = txb_failed_attempt(&m->policy, 0, class, 0, key >= 0, roll(m, 1u << 30));
  a->attempt = !x->crash;
  a->counts = counts;
  x->failed_count++;
}

void batch_apply(struct model *m, int s) {
  struct session *x = &m->sessions[s];
  int candidates[BATCH_MAX], count;
  if (x->allowed_count >= 0) {
    count = x->allowed_count;
    memcpy(candidates, x->allowed, sizeof candidates);
  } else if (!batch_insert_ids(m, s, candidates, &count)) {
    return;
  }
  for (int i = 0; i < x->count; i++)
    if (is_held(m, x, i))
      add(m, x, i, TXB_FAILED_HELD, TXB_CLASS_COUNT, false);
  if (x->condemn && count > 0)
    add(m, x, 0, TXB_FAILED_DEAD, x->condemn_class, fails_now(&m->subjects[x->ids[0]]));
  for (int i = 0; i < count && !x->condemn; i++) {
    enum handled how = handle(m, s, candidates[i], &x->failed_class);
    if (how == H_KILLED)
      return;
    if (how == H_FAILED) {
      x->failure = failure_of(x->failed_class);
      session_fail(m, s, A_FAILED);
      return;
    }
  }
  x->staged.applied += x->condemn ? 0 : count;
  x->staged.failed += x->add_count;
  x->staged.duplicate += x->count - (x->condemn ? 0 : count) - x->add_count;
  x->pc++;
}

/* ---- isolated: live batches and retries ------------------------------------------------------ */

static void begin_isolated(struct model *m, int s) {
  struct session *x = &m->sessions[s];
  int count;
  if (!batch_insert_ids(m, s, x->candidates, &count))
    return;
  for (int i = 0; i < count; i++) { /* classes are numbers up to the count */
    int key = m->subjects[x->ids[x->candidates[i]]].key;
    x->items[i].key_class = key < 0 ? 0 : (uint32_t)i + 1;
    for (int j = 0; j < i && key >= 0; j++)
      if (m->subjects[x->ids[x->candidates[j]]].key == key) {
        x->items[i].key_class = x->items[j].key_class;
        break;
      }
  }
  struct txb_isolate_options o = {.chunk = (uint32_t)x->chunk,
                                  .savepoints = (uint32_t)(chance(m, 20) ? 2 : TXB_ISOLATE_SAVEPOINTS),
                                  .culprit = -1,
                                  .bug_behind_runs = m->bugs.behind_applied};
  for (int i = 0; i < count; i++)
    o.culprit = x->candidates[i] == x->at ? i : o.culprit;
  txb_isolate_init(&x->iso, &o, x->items, (uint32_t)count, x->segment, x->blocked);
  x->begun = true;
}

/* One piece under its savepoint. False: the transaction is over with it. */
static bool run_piece(struct model *m, int s, const uint32_t *segment, uint32_t count) {
  struct session *x = &m->sessions[s];
  int effects = x->effect_count, fresh = x->fresh_count;
  for (uint32_t i = 0; i < count; i++) {
    int index = x->candidates[segment[i]];
    enum txb_failure_class class = TXB_CLASS_COUNT;
    enum handled how = handle(m, s, index, &class);
    if (how == H_KILLED)
      return false;
    if (how == H_OK) {
      x->fresh[x->fresh_count++] = inbox_of(m, x->ids[index]);
      m->inbox_lock[inbox_of(m, x->ids[index])] = s;
      continue;
    }
    for (; x->fresh_count > fresh; x->fresh_count--)
      m->inbox_lock[x->fresh[x->fresh_count - 1]] = -1;
    x->effect_count = effects;
    if (class == TXB_CLASS_FREE && x->patience_over && count == 1 && segment[0] == 0)
      class = TXB_CLASS_COUNT;
    x->failed_class = x->classes[segment[i]] = class;
    bool passes = class == TXB_CLASS_FREE || class == TXB_CLASS_WAIT;
    txb_isolate_answer(&x->iso, passes ? TXB_ISOLATE_TRANSIENT : TXB_ISOLATE_COUNTS,
                       x->failed_at >= 0 ? (int32_t)segment[i] : -1);
    return true;
  }
  txb_isolate_answer(&x->iso, TXB_ISOLATE_RAN, -1);
  return true;
}

/* The position moves only behind the first `settled`. */
static void cut_batch(struct session *x, int settled) {
  x->settled = settled;
  if (settled == x->count)
    return;
  x->staged.consumed -= x->count - settled;
  x->staged.last_id = x->ids[settled - 1];
  x->staged.next_offset = x->offsets[settled - 1] + 1;
  x->staged.last_offset = x->staged.next_offset - 1;
}

static void settle_live(struct model *m, int s) {
  struct session *x = &m->sessions[s];
  int settled = x->iso.settled < x->iso.count ? x->candidates[x->iso.settled] : x->count, applied = 0;
  uint32_t c = 0;
  for (int i = 0; i < settled; i++) {
    bool candidate = c < x->iso.count && x->candidates[c] == i;
    if (is_held(m, x, i) || (candidate && x->items[c].state == TXB_ISOLATE_BEHIND))
      add(m, x, i, TXB_FAILED_HELD, TXB_CLASS_COUNT, false);
    else if (candidate && x->items[c].state == TXB_ISOLATE_FAILED)
      add(m, x, i, TXB_FAILED_DEAD, x->classes[c], fails_now(&m->subjects[x->ids[i]]));
    applied += candidate && x->items[c].state == TXB_ISOLATE_OK;
    c += candidate;
  }
  cut_batch(x, settled);
  x->staged.applied += applied;
  x->staged.failed += x->add_count;
  x->staged.duplicate += settled - applied - x->add_count;
}

/* Whether an earlier row of this retry is of the same message, which came twice, and has been applied. */
static bool is_applied(const struct model *m, const struct session *x, int id) {
  for (int i = 0; i < x->settle_count; i++)
    if (m->failed[x->settles[i].number].id == id && x->settles[i].verdict == V_APPLIED)
      return true;
  return false;
}

static void settle_retry(struct model *m, int s) {
  struct session *x = &m->sessions[s];
  uint32_t c = 0;
  x->settled = 0;
  for (int i = 0; i < x->count; i++) {
    struct failed *f = &m->failed[x->numbers[i]];
    struct staged_settle *v = &x->settles[x->settle_count++];
    *v = (struct staged_settle){.number = x->numbers[i]};
    bool candidate = c < x->iso.count && x->candidates[c] == i;
    enum txb_isolate_state state = candidate ? x->items[c].state : TXB_ISOLATE_NOT_REACHED;
    if (candidate && state == TXB_ISOLATE_OK) {
      v->verdict = V_APPLIED;
    } else if (candidate && state == TXB_ISOLATE_FAILED) {
      v->verdict = V_FAILED;
      v->counts = fails_now(&m->subjects[f->id]);
      v->result =
          txb_failed_attempt(&m->policy, f->state == TXB_FAILED_HELD || m->bugs.attempts_forgotten ? 0 : f->attempts,
                             x->classes[c], 0, f->key >= 0, roll(m, 1u << 30));
      x->failed_count++;
    } else if (!candidate && (m->inbox[inbox_of(m, f->id)] || is_applied(m, x, f->id))) {
      v->verdict = V_DUPLICATE;
    }
    c += candidate;
    x->settled += v->verdict != V_UNTOUCHED;
  }
}

/* A row that failed at its COMMIT, alone: that is settled without running it. */
static void condemn_retry(struct model *m, int s) {
  struct session *x = &m->sessions[s];
  struct failed *f = &m->failed[x->numbers[0]];
  x->settles[x->settle_count++] =
      (struct staged_settle){.number = x->numbers[0],
                             .verdict = V_FAILED,
                             .counts = fails_now(&m->subjects[f->id]),
                             .result = txb_failed_attempt(&m->policy, f->attempts, TXB_CLASS_COUNT, 0, f->key >= 0, 0)};
  x->settled = 1;
}

void batch_isolated(struct model *m, int s) {
  struct session *x = &m->sessions[s];
  const uint32_t *segment;
  uint32_t count;
  if (x->retry && x->condemn) {
    condemn_retry(m, s);
    x->pc++;
    return;
  }
  if (!x->begun) {
    begin_isolated(m, s);
    return;
  }
  if (txb_isolate_next(&x->iso, &segment, &count)) {
    (void)run_piece(m, s, segment, count);
    return;
  }
  x->transient = x->iso.transient;
  x->new_chunk = (int)txb_isolate_chunk(&x->iso);
  if (x->retry)
    settle_retry(m, s);
  bool nothing = x->retry ? x->settled == 0 : x->iso.settled < x->iso.count && x->candidates[x->iso.settled] == 0;
  if (nothing && x->transient) {
    x->failure = failure_of(x->failed_class);
    x->failed_at = 0;
    session_fail(m, s, A_FAILED);
    return;
  }
  if (!x->retry)
    settle_live(m, s);
  x->driven = false; /* the rest goes to the server at once */
  x->pc++;
}
