/* See worker_model.h. */
#include "worker_model.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/random.h"
#include "consumer/partition_core.h"

uint64_t roll(struct model *m, uint64_t sides) {
  return txb_splitmix64(&m->rng) % sides;
}

bool chance(struct model *m, int percent) {
  return roll(m, 100) < (uint64_t)percent;
}

void say(struct model *m, const char *format, ...) {
  if (!m->verbose)
    return;
  va_list args;
  va_start(args, format);
  printf("%8lld  ", (long long)(m->now_us / 1000));
  vprintf(format, args);
  printf("\n");
  va_end(args);
}

void violated(struct model *m, const char *what) {
  if (m->violation == NULL)
    m->violation = what;
  say(m, "VIOLATION %s", what);
}

void model_init(struct model *m, uint64_t seed, const struct bugs *bugs, bool verbose) {
  memset(m, 0, sizeof *m);
  m->rng = seed;
  m->bugs = *bugs;
  m->verbose = verbose;
  m->killed_worker = -1;
  m->poisoned = chance(m, 15);
  m->partitions = m->poisoned ? PARTITIONS_MAX : 1 + (int)roll(m, PARTITIONS_MAX);
  m->plugin_percent = !m->poisoned ? 40 : chance(m, 50) ? 100 : 0;
  m->policy = (struct txb_failed_policy){
      .attempts_max = 1 + (int32_t)roll(m, 4), .first_ms = 50, .cap_ms = 1000, .factor = 2, .release = chance(m, 20)};
  m->batch_messages = 1 + (int32_t)roll(m, BATCH_MAX);
  m->held_max = chance(m, 20) ? 3 : RECORDS_MAX;
  for (int p = 0; p < PARTITIONS_MAX; p++) {
    m->rows[p] =
        (struct row){.last_id = -1, .suspect_offset = -1, .stalled_offset = -1, .taken_offset = -1, .instance = -1};
    m->row_lock[p] = -1;
  }
  for (int i = 0; i < MESSAGES_MAX; i++)
    m->inbox_lock[i] = -1;
}

static void append(struct model *m, int p, int id) {
  struct log *l = &m->logs[p];
  l->records[l->count++] = (struct log_record){.offset = l->end, .id = id};
  l->end += chance(m, 10) ? 2 : 1; /* the end of a Kafka transaction, or compaction */
}

void model_produce(struct model *m) {
  int p = (int)roll(m, (uint64_t)m->partitions);
  struct log *l = &m->logs[p];
  if (l->count > 0 && chance(m, 15)) { /* a relay starts again and repeats its last messages in their order */
    int n = 1 + (int)roll(m, 3), from = l->count > n ? l->count - n : 0, to = l->count;
    for (int i = from; i < to && l->count < RECORDS_MAX; i++)
      append(m, p, l->records[i].id);
    return;
  }
  if (l->count >= RECORDS_MAX || m->ids >= IDS_MAX)
    return;
  struct subject *s = &m->subjects[m->ids];
  *s = (struct subject){.partition = p, .order = l->end, .key = (int)roll(m, KEYS + 1) - 1};
  if (m->poisoned && l->count == 3) {
    s->poison_left = POISON_KILLS;
    s->poison_later = chance(m, 40);
    s->fails = s->poison_later;
  } else if (chance(m, 12)) {
    s->kind = (enum fails)roll(m, FAILS_KINDS);
    s->passing_left = s->kind >= PASSES_CONFLICT ? 1 + (int)roll(m, 8) : 0;
    s->fails = s->kind >= PASSES_CONFLICT ? 0 : chance(m, 25) ? FOR_EVER : 1 + (int)roll(m, 3);
  } else if (chance(m, 2)) {
    s->poison_left = 1 + (int)roll(m, 5);
    s->poison_later = chance(m, 40);
    s->fails = s->poison_later;
  }
  append(m, p, m->ids++);
}

/* ---- sessions -------------------------------------------------------------------------------- */

int session_open(struct model *m) {
  for (int s = 0; s < SESSIONS_MAX; s++)
    if (!m->sessions[s].used) {
      m->sessions[s] = (struct session){.used = true, .connected = true, .serial = ++m->serials, .script = {S_END}};
      return s;
    }
  return -1;
}

void session_rollback(struct model *m, int s) {
  struct session *x = &m->sessions[s];
  for (int p = 0; p < m->partitions; p++)
    if (m->row_lock[p] == s)
      m->row_lock[p] = -1;
  for (int i = 0; i < x->fresh_count; i++)
    m->inbox_lock[x->fresh[i]] = -1;
  x->fresh_count = x->effect_count = x->add_count = x->settle_count = 0;
  x->in_transaction = x->holds_row = false;
}

void session_close(struct model *m, int s) {
  session_rollback(m, s);
  m->sessions[s].used = false;
}

bool session_idle(const struct model *m, int s) {
  const struct session *x = &m->sessions[s];
  return x->script[x->pc] == S_END;
}

void session_run(struct model *m, int s) {
  static const enum statement plain[] = {S_BEGIN, S_OPEN, S_APPLY, S_CLOSE, S_COMMIT, S_END};
  static const enum statement isolated[] = {S_BEGIN, S_OPEN, S_ISOLATED, S_CLOSE, S_COMMIT, S_END};
  static const enum statement position_first[] = {S_BEGIN, S_OPEN, S_COMMIT, S_BEGIN, S_APPLY, S_COMMIT, S_END};
  static const enum statement inbox_first[] = {S_BEGIN, S_INBOX, S_COMMIT, S_BEGIN, S_OPEN, S_APPLY, S_COMMIT, S_END};
  struct session *x = &m->sessions[s];
  x->pc = 0;
  x->answer = A_NONE;
  x->allowed_count = -1;
  x->begun = x->transient = false;
  x->failed_count = x->new_chunk = 0;
  x->due_ms = -1;
  x->driven = x->plugin || x->isolated || x->retry;
  memset(x->gained, 0, sizeof x->gained);
  if (x->isolated || x->retry)
    memcpy(x->script, isolated, sizeof isolated);
  else if (m->bugs.offset_before_commit && !x->condemn)
    memcpy(x->script, position_first, sizeof position_first);
  else if (m->bugs.inbox_outside && !x->condemn)
    memcpy(x->script, inbox_first, sizeof inbox_first);
  else
    memcpy(x->script, plain, sizeof plain);
}

static void end_script(struct session *x, enum answer answer) {
  x->answer = answer;
  x->pc = 0;
  x->script[0] = S_END;
}

static void fail(struct model *m, int s, enum answer answer) {
  session_rollback(m, s);
  end_script(&m->sessions[s], answer);
}

/* The compare-and-set. False: it waits for the lock. */
static bool open_batch(struct model *m, int s) {
  struct session *x = &m->sessions[s];
  struct row *r = &m->rows[x->partition];
  if (m->row_lock[x->partition] >= 0 && m->row_lock[x->partition] != s)
    return false;
  bool fenced = r->epoch != x->epoch ||
                (x->retry ? !r->suspect_marked && !m->bugs.retry_unmarked : r->next_offset != x->expected);
  bool unfenced = m->bugs.no_epoch_check || (x->retry && m->bugs.attempt_per_replica);
  if (fenced && !unfenced) {
    fail(m, s, A_FENCED);
    return true;
  }
  bool ignored = m->bugs.keys_version_ignored || unfenced;
  if (r->keys_version != x->keys_version && !ignored) {
    say(m, "session %d: the keys have changed", s);
    fail(m, s, A_KEYS_CHANGED);
    return true;
  }
  m->row_lock[x->partition] = s;
  x->holds_row = true;
  x->staged = *r;
  x->pc++;
  if (x->retry)
    return true;
  x->settled = x->count;
  x->staged.next_offset = x->new_next;
  x->staged.consumed += x->count;
  x->staged.last_id = x->ids[x->count - 1];
  x->staged.last_offset = x->new_next - 1;
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

static bool is_held(const struct model *m, const struct session *x, int i) {
  int key = m->subjects[x->ids[i]].key;
  return key >= 0 && x->held[key] && !x->skip && !x->retry && !m->bugs.held_not_kept;
}

/* INSERT ... ON CONFLICT DO NOTHING of the ids. False: it waits for another transaction that has one of them. */
static bool insert_ids(struct model *m, int s, int *candidates, int *count) {
  struct session *x = &m->sessions[s];
  for (int i = 0; i < x->count; i++)
    if (m->inbox_lock[x->ids[i]] >= 0 && m->inbox_lock[x->ids[i]] != s)
      return false;
  struct txb_uuid ids[BATCH_MAX] = {0};
  uint32_t order[BATCH_MAX];
  bool first[BATCH_MAX];
  for (int i = 0; i < x->count; i++)
    ids[i].bytes[15] = (unsigned char)x->ids[i];
  (void)txb_batch_candidates(ids, (size_t)x->count, order, first);
  *count = 0;
  for (int i = 0; i < x->count && !x->skip; i++) {
    int id = x->ids[i];
    if (is_held(m, x, i))
      continue;
    if (!first[i] && !m->bugs.batch_duplicate_ids)
      continue;
    if (m->inbox[id] && !m->bugs.no_inbox)
      continue;
    candidates[(*count)++] = i;
    if (first[i] && !x->isolated && !x->retry && !x->condemn) {
      x->fresh[x->fresh_count++] = id;
      m->inbox_lock[id] = s;
    }
  }
  return true;
}

static bool fails_now(const struct subject *u) {
  return u->attempts < u->fails;
}

/* Runs the handler for one message: how it fails. OK: *class_out is untouched. */
enum handled { H_OK, H_FAILED, H_KILLED };
static enum handled handle(struct model *m, int s, int index, enum txb_failure_class *class_out) {
  struct session *x = &m->sessions[s];
  struct subject *u = &m->subjects[x->ids[index]];
  if (u->poison_left > 0 && !(u->poison_later && u->attempts == 0)) {
    u->poison_left--;
    u->deaths += m->calm;
    if (u->deaths > (m->poisoned ? DEATHS_MAX : DEATHS_MIXED_MAX))
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
  x->effects[x->effect_count++] = x->ids[index];
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
  *a = (struct staged_add){.id = x->ids[i], .offset = x->offsets[i], .result = {.state = state, .holds = key >= 0}};
  if (state == TXB_FAILED_HELD)
    return;
  a->result = txb_failed_attempt(&m->policy, 0, class, 0, key >= 0, roll(m, 1u << 30));
  a->attempt = !x->crash;
  a->counts = counts;
  x->failed_count++;
}

static void apply(struct model *m, int s) {
  struct session *x = &m->sessions[s];
  int candidates[BATCH_MAX], count;
  if (x->allowed_count >= 0) {
    count = x->allowed_count;
    memcpy(candidates, x->allowed, sizeof candidates);
  } else if (!insert_ids(m, s, candidates, &count)) {
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
      fail(m, s, A_FAILED);
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
  if (!insert_ids(m, s, x->candidates, &count))
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
      x->fresh[x->fresh_count++] = x->ids[index];
      m->inbox_lock[x->ids[index]] = s;
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
    } else if (!candidate && (m->inbox[f->id] || is_applied(m, x, f->id))) {
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

static void isolated(struct model *m, int s) {
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
    fail(m, s, A_FAILED);
    return;
  }
  if (!x->retry)
    settle_live(m, s);
  x->driven = false; /* the rest goes to the server at once */
  x->pc++;
}

/* Whether nothing of the key needs to wait for it any more. */
static bool is_done(const struct subject *u) {
  return u->effects > 0 || u->closed || u->released;
}

static bool was_set_aside(const struct model *m, int id) {
  for (int i = 0; i < m->failed_count; i++)
    if (m->failed[i].id == id)
      return true;
  return false;
}

/* O: in the order of first appearance within a key, and nothing before what stands ahead of it is done. */
static void verify_order(struct model *m, const struct subject *u) {
  for (int j = 0; j < m->ids && u->key >= 0 && !u->released; j++) {
    const struct subject *v = &m->subjects[j];
    if (v->partition != u->partition || v->key != u->key || v == u || v->released)
      continue;
    if (v->order > u->order && v->effects > 0)
      violated(m, "O: an effect happened after one of its key that stands behind it");
    if (v->order < u->order && !is_done(v))
      violated(m, "O: an effect happened though one of its key that stands before it waits");
  }
}

/* The verifier at a commit: no effect twice, in order, and what is below the position has its effect or is set aside. */
static void verify_commit(struct model *m, struct session *x) {
  for (int i = 0; i < x->effect_count; i++) {
    struct subject *u = &m->subjects[x->effects[i]];
    if (++u->effects > 1)
      violated(m, "D: an effect happened twice");
    if (u->closed)
      violated(m, "D: an effect of a message that was discarded or replaced");
    verify_order(m, u);
  }
  if (!x->holds_row || m->bugs.offset_before_commit) /* planted: let it show by what is lost, not by its form */
    return;
  const struct row *r = &m->rows[x->partition];
  const struct log *l = &m->logs[x->partition];
  int64_t below = 0;
  for (int i = 0; i < l->count; i++) {
    int id = l->records[i].id;
    bool passed = l->records[i].offset < r->next_offset;
    below += passed;
    if (passed && m->subjects[id].effects == 0 && !was_set_aside(m, id))
      violated(m, "L: the position went past a message without an effect");
  }
  if (r->consumed != below)
    violated(m, "Q: consumed is not the number of records below the position");
  failed_verify(m, x->partition);
}

/* A deferred constraint. */
static bool fails_at_commit(const struct model *m, const struct session *x) {
  for (int i = 0; i < x->effect_count; i++) {
    const struct subject *u = &m->subjects[x->effects[i]];
    if (u->kind == FAILS_AT_COMMIT && fails_now(u))
      return true;
  }
  return false;
}

static void commit(struct model *m, int s) {
  struct session *x = &m->sessions[s];
  bool last = x->script[x->pc + 1] == S_END;
  if (last && fails_at_commit(m, x)) {
    x->failure = TXB_FAILURE_ERROR;
    x->failed_class = TXB_CLASS_COUNT;
    x->failed_at = -1;
    fail(m, s, A_FAILED);
    return;
  }
  if (last && x->effect_count > 0 && chance(m, 2)) { /* an error that a handler swallowed left the transaction failed:
                                                        COMMIT says ROLLBACK */
    say(m, "session %d: COMMIT answers ROLLBACK", s);
    x->failed_class = TXB_CLASS_COUNT;
    fail(m, s, A_ROLLED_BACK_TAG);
    return;
  }
  bool row = x->holds_row;
  if (row)
    m->rows[x->partition] = x->staged;
  for (int i = 0; i < x->fresh_count; i++)
    m->inbox[x->fresh[i]] = true;
  if (m->bugs.offset_before_commit && last && !row) { /* this order has its counters in two transactions */
    m->rows[x->partition].applied = x->staged.applied;
    m->rows[x->partition].duplicate = x->staged.duplicate;
    m->rows[x->partition].failed = x->staged.failed;
  }
  if (last)
    failed_commit(m, x);
  if (last || row)
    verify_commit(m, x);
  if (x->retry)
    say(m, "session %d: commits a retry of %d in partition %d, %d effects", s, x->count, x->partition, x->effect_count);
  else
    say(m, "session %d: commits partition %d up to %lld, %d effects, %d set aside", s, x->partition,
        (long long)(row ? x->staged.next_offset : -1), x->effect_count, x->add_count);
  session_rollback(m, s);
  x->pc++;
  if (x->script[x->pc] == S_END)
    end_script(x, A_COMMITTED);
}

void session_advance(struct model *m, int s) {
  struct session *x = &m->sessions[s];
  switch (x->script[x->pc]) {
  case S_BEGIN:
    x->in_transaction = true;
    x->pc++;
    break;
  case S_INBOX: {
    int count;
    if (insert_ids(m, s, x->allowed, &count)) {
      x->allowed_count = count;
      x->pc++;
    }
    break;
  }
  case S_OPEN:
    (void)open_batch(m, s);
    break;
  case S_APPLY:
    apply(m, s);
    break;
  case S_ISOLATED:
    isolated(m, s);
    break;
  case S_CLOSE:
    if (!x->retry) {
      x->staged.stalled_offset = -1;
      x->staged.attempts = 0;
    }
    x->staged.suspect_offset = -1;
    x->staged.suspect_deaths = x->staged.suspect_failed_count = 0;
    x->staged.suspect_marked = false;
    x->pc++;
    break;
  case S_COMMIT:
    commit(m, s);
    break;
  case S_END:
    break;
  }
}

void model_crash_server(struct model *m) {
  say(m, "the server crashes");
  for (int s = 0; s < SESSIONS_MAX; s++)
    if (m->sessions[s].used) {
      session_rollback(m, s);
      if (m->sessions[s].connected)
        m->sessions[s].used = false; /* its client finds out */
      else
        session_close(m, s);
    }
}

void model_passed(struct model *m, int partition, int64_t new_next) {
  struct row *r = &m->rows[partition];
  const struct log *l = &m->logs[partition];
  for (int i = 0; i < l->count; i++)
    if (l->records[i].offset >= r->next_offset && l->records[i].offset < new_next)
      violated(m, "L: the position was moved over a message");
  r->taken_offset = r->taken_offset == r->next_offset ? new_next : r->taken_offset;
  r->next_offset = new_next;
}

bool model_settled(const struct model *m) {
  for (int p = 0; p < m->partitions; p++) {
    const struct log *l = &m->logs[p];
    if (l->count > 0 && m->rows[p].next_offset <= l->records[l->count - 1].offset)
      return false;
  }
  for (int i = 0; i < m->failed_count; i++)
    if (txb_failed_is_open(m->failed[i].state))
      return false;
  return true;
}

void model_verify_end(struct model *m) {
  for (int i = 0; i < m->ids; i++) {
    const struct subject *u = &m->subjects[i];
    if (u->effects != (u->closed ? 0 : 1))
      violated(m, u->effects == 0 ? "L: a message has no effect" : "D: an effect happened twice");
    if (u->effects == 1 && u->attempts != u->fails)
      violated(m, "attempts: not as many as it failed");
  }
  for (int p = 0; p < m->partitions; p++)
    if (m->rows[p].consumed != m->logs[p].count)
      violated(m, "Q: consumed at the end");
  failed_verify_end(m);
}
