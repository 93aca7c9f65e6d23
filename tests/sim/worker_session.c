/* Sessions of the model: connections, locks, the statements of a transaction one by one, and its commit. See worker_model.h. */
#include "worker_session.h"

#include <string.h>

#include "consumer/partition_core.h"

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
  for (int p = 0; p < PLACES; p++)
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
  x->begun = x->transient = x->aside = false;
  x->failed_count = x->new_chunk = 0;
  x->due_ms = -1;
  x->driven = x->plugin || x->isolated || x->retry;
  memset(x->gained, 0, sizeof x->gained);
  if (x->isolated || x->retry)
    memcpy(x->script, isolated, sizeof isolated);
  else if (moves_first(m, x->partition) && !x->condemn)
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

void session_fail(struct model *m, int s, enum answer answer) {
  session_rollback(m, s);
  end_script(&m->sessions[s], answer);
}

static bool lock_row(struct model *m, int s, int place) {
  if (m->row_lock[place] >= 0 && m->row_lock[place] != s)
    return false;
  m->row_lock[place] = s;
  return true;
}

/* Its own, and of a lane then those of all live partitions (J1). False: it waits, with those that it has got. */
static bool lock_rows(struct model *m, int s, int place) {
  if (!lock_row(m, s, place))
    return false;
  for (int p = 0; p < m->partitions && is_lane(place) && !m->bugs.lane_no_fences; p++)
    if (!lock_row(m, s, p))
      return false;
  return true;
}

/* The compare-and-set. False: it waits for the lock. */
static bool open_batch(struct model *m, int s) {
  struct session *x = &m->sessions[s];
  struct row *r = &m->rows[x->partition];
  if (!lock_rows(m, s, x->partition))
    return false;
  bool rests = is_lane(x->partition) && !job_may_run(m, x->partition, !x->retry) && !m->bugs.lane_pause_ignored;
  x->opened_us = m->now_us;
  m->replayed[R_STOPPED] += rests;
  m->replayed[R_RETRIED] += is_lane(x->partition) && x->retry;
  bool fenced = r->epoch != x->epoch || rests ||
                (x->retry ? !r->suspect_marked && !m->bugs.retry_unmarked : r->next_offset != x->expected);
  bool unfenced = m->bugs.no_epoch_check || (x->retry && m->bugs.attempt_per_replica);
  if (fenced && !unfenced) {
    session_fail(m, s, A_FENCED);
    return true;
  }
  bool ignored = m->bugs.keys_version_ignored || unfenced;
  if (failed_keys_version(m, x->partition) != x->keys_version && !ignored) {
    say(m, "session %d: the keys have changed", s);
    session_fail(m, s, A_KEYS_CHANGED);
    return true;
  }
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
    session_fail(m, s, A_FAILED);
    return;
  }
  if (last && x->effect_count > 0 && chance(m, 2)) { /* an error that a handler swallowed left the transaction failed:
                                                        COMMIT says ROLLBACK */
    say(m, "session %d: COMMIT answers ROLLBACK", s);
    x->failed_class = TXB_CLASS_COUNT;
    session_fail(m, s, A_ROLLED_BACK_TAG);
    return;
  }
  bool row = x->holds_row;
  if (is_lane(x->partition))
    verify_lane(m, s);
  if (row)
    m->rows[x->partition] = x->staged;
  for (int i = 0; i < x->fresh_count; i++)
    m->inbox[x->fresh[i]] = true;
  if (moves_first(m, x->partition) && last && !row) { /* this order has its counters in two transactions */
    m->rows[x->partition].applied = x->staged.applied;
    m->rows[x->partition].duplicate = x->staged.duplicate;
    m->rows[x->partition].failed = x->staged.failed;
  }
  x->aside = x->add_count > 0;
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
    if (batch_insert_ids(m, s, x->allowed, &count)) {
      x->allowed_count = count;
      x->pc++;
    }
    break;
  }
  case S_OPEN:
    (void)open_batch(m, s);
    break;
  case S_APPLY:
    batch_apply(m, s);
    break;
  case S_ISOLATED:
    batch_isolated(m, s);
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
