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
  for (int p = 0; p < PARTITIONS_MAX; p++) {
    m->rows[p] =
        (struct row){.last_id = -1, .suspect_offset = -1, .stalled_offset = -1, .taken_offset = -1, .instance = -1};
    m->row_lock[p] = -1;
  }
  for (int i = 0; i < IDS_MAX; i++)
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
  *s = (struct subject){.partition = p, .first_offset = l->end};
  if (m->poisoned && l->count == 3) {
    s->poison_left = POISON_KILLS;
  } else if (chance(m, 8)) {
    s->fails_left = 1 + (int)roll(m, 4);
    s->fails_kind = (int)roll(m, 4);
  } else if (chance(m, 2)) {
    s->poison_left = 1 + (int)roll(m, 5);
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
  x->fresh_count = x->effect_count = 0;
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

void session_run(struct model *m, int s, bool plugin) {
  static const enum statement plain[] = {S_BEGIN, S_OPEN, S_APPLY, S_CLOSE, S_COMMIT, S_END};
  static const enum statement position_first[] = {S_BEGIN, S_OPEN, S_COMMIT, S_BEGIN, S_APPLY, S_COMMIT, S_END};
  static const enum statement inbox_first[] = {S_BEGIN, S_INBOX, S_COMMIT, S_BEGIN, S_OPEN, S_APPLY, S_COMMIT, S_END};
  struct session *x = &m->sessions[s];
  x->plugin = plugin;
  x->pc = 0;
  x->answer = A_NONE;
  x->allowed_count = -1;
  if (m->bugs.offset_before_commit)
    memcpy(x->script, position_first, sizeof position_first);
  else if (m->bugs.inbox_outside)
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
  if (!m->bugs.no_epoch_check && (r->epoch != x->epoch || r->next_offset != x->expected)) {
    fail(m, s, A_FENCED);
    return true;
  }
  m->row_lock[x->partition] = s;
  x->holds_row = true;
  x->staged = *r;
  x->staged.next_offset = x->new_next;
  x->staged.consumed += x->count;
  x->staged.last_id = x->ids[x->count - 1];
  x->staged.last_offset = x->new_next - 1;
  x->pc++;
  return true;
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
    if (!first[i] && !m->bugs.batch_duplicate_ids)
      continue;
    if (m->inbox[id] && !m->bugs.no_inbox)
      continue;
    candidates[(*count)++] = i;
    if (first[i]) {
      x->fresh[x->fresh_count++] = id;
      m->inbox_lock[id] = s;
    }
  }
  return true;
}

/* Runs the handler for one message. True: it is fine. */
static bool handle(struct model *m, int s, int index) {
  struct session *x = &m->sessions[s];
  struct subject *u = &m->subjects[x->ids[index]];
  if (u->poison_left > 0) {
    u->poison_left--;
    u->unrecorded += m->healed;
    if (u->unrecorded > UNRECORDED_MAX)
      violated(m, "W10: a message kills on and on and no stall tells of it");
    say(m, "session %d: message %d kills", s, x->ids[index]);
    if (x->plugin)
      m->killed_worker = s;
    else
      m->server_crashed = true;
    return false;
  }
  if (u->fails_left > 0) {
    u->fails_left--;
    x->failure = u->fails_kind == 2   ? TXB_FAILURE_CONFLICT
                 : u->fails_kind == 0 ? TXB_FAILURE_ERROR
                                      : TXB_FAILURE_OUTCOME;
    x->failed_at = u->fails_kind == 3 ? index : -1;
    fail(m, s, A_FAILED);
    return false;
  }
  x->effects[x->effect_count++] = x->ids[index];
  return true;
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
  for (int i = 0; i < count; i++)
    if (!handle(m, s, candidates[i]))
      return;
  x->staged.applied += count;
  x->staged.duplicate += x->count - count;
  x->pc++;
}

/* The verifier at a commit: no effect twice, in the order of first appearance, and all below the position. */
static void verify_commit(struct model *m, struct session *x) {
  for (int i = 0; i < x->effect_count; i++) {
    struct subject *u = &m->subjects[x->effects[i]];
    if (++u->effects > 1)
      violated(m, "D: an effect happened twice");
    for (int j = 0; j < m->ids; j++)
      if (m->subjects[j].partition == u->partition && m->subjects[j].first_offset > u->first_offset &&
          m->subjects[j].effects > 0)
        violated(m, "O: an effect happened after one that stands behind it");
  }
  if (!x->holds_row || m->bugs.offset_before_commit) /* planted: let it show by what is lost, not by its form */
    return;
  const struct row *r = &m->rows[x->partition];
  const struct log *l = &m->logs[x->partition];
  int64_t below = 0;
  for (int i = 0; i < l->count; i++) {
    below += l->records[i].offset < r->next_offset;
    if (l->records[i].offset < r->next_offset && m->subjects[l->records[i].id].effects == 0)
      violated(m, "L: the position went past a message without an effect");
  }
  if (r->consumed != below)
    violated(m, "Q: consumed is not the number of records below the position");
  if (r->consumed != r->applied + r->duplicate)
    violated(m, "Q: consumed is not applied + duplicate");
}

static void commit(struct model *m, int s) {
  struct session *x = &m->sessions[s];
  bool last = x->script[x->pc + 1] == S_END;
  if (last && chance(m, 2)) { /* an error that a handler swallowed left the transaction failed: COMMIT says ROLLBACK */
    say(m, "session %d: COMMIT answers ROLLBACK", s);
    fail(m, s, A_ROLLED_BACK_TAG);
    return;
  }
  bool row = x->holds_row;
  if (row)
    m->rows[x->partition] = x->staged;
  for (int i = 0; i < x->fresh_count; i++)
    m->inbox[x->fresh[i]] = true;
  if (m->bugs.offset_before_commit && last) { /* this order has its counters in two transactions */
    m->rows[x->partition].applied = x->staged.applied;
    m->rows[x->partition].duplicate = x->staged.duplicate;
  }
  if (last || row)
    verify_commit(m, x);
  say(m, "session %d: commits partition %d up to %lld, %d effects", s, x->partition,
      (long long)(row ? x->new_next : -1), x->effect_count);
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
  case S_CLOSE:
    x->staged.stalled_offset = x->staged.suspect_offset = -1;
    x->staged.attempts = x->staged.suspect_deaths = 0;
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

void model_stalled(struct model *m, int partition, int64_t offset) {
  const struct log *l = &m->logs[partition];
  for (int i = 0; i < l->count; i++)
    if (l->records[i].offset == offset)
      m->subjects[l->records[i].id].unrecorded = 0;
}

bool model_settled(const struct model *m) {
  for (int p = 0; p < m->partitions; p++) {
    const struct log *l = &m->logs[p];
    if (l->count > 0 && m->rows[p].next_offset <= l->records[l->count - 1].offset)
      return false;
  }
  return true;
}

void model_verify_end(struct model *m) {
  for (int i = 0; i < m->ids; i++)
    if (m->subjects[i].effects != 1)
      violated(m, m->subjects[i].effects == 0 ? "L: a message has no effect" : "D: an effect happened twice");
  for (int p = 0; p < m->partitions; p++) {
    const struct row *r = &m->rows[p];
    int64_t ids = 0;
    for (int i = 0; i < m->ids; i++)
      ids += m->subjects[i].partition == p;
    if (r->consumed != m->logs[p].count || r->applied != ids || r->consumed != r->applied + r->duplicate)
      violated(m, "Q: the counters at the end");
  }
}
