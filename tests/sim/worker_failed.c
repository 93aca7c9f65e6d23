/* Failed messages in the model: rows, and what a transaction does to them. See worker_model.h. */
#include "worker_model.h"

int failed_own_holding(const struct model *m, int place, int key) {
  int rows = 0;
  for (int i = 0; i < m->failed_count; i++)
    rows += m->failed[i].partition == place && m->failed[i].key == key && m->failed[i].holds;
  return key < 0 ? 0 : rows;
}

int failed_holding(const struct model *m, int place, int key) {
  int rows = failed_own_holding(m, place, key);
  for (int p = 0; p < m->partitions && is_lane(place); p++)
    rows += failed_own_holding(m, p, key);
  return rows;
}

int64_t failed_keys_version(const struct model *m, int place) {
  int64_t version = m->rows[place].keys_version;
  for (int p = 0; p < m->partitions && is_lane(place) && !m->bugs.lane_keys_ignored; p++)
    version += m->rows[p].keys_version + m->rows[p].keys_taken;
  return version;
}

int failed_held(const struct model *m, int partition) {
  int rows = 0;
  for (int i = 0; i < m->failed_count; i++)
    rows += m->failed[i].partition == partition && m->failed[i].state == TXB_FAILED_HELD;
  return rows;
}

int64_t failed_due_ms(const struct model *m, int partition) {
  int64_t due = -1;
  for (int i = 0; i < m->failed_count; i++) {
    const struct failed *f = &m->failed[i];
    if (f->partition != partition || f->state != TXB_FAILED_RETRYING)
      continue;
    int64_t ms = f->due_us > m->now_us ? (f->due_us - m->now_us + 999) / 1000 : 0;
    due = due < 0 || ms < due ? ms : due;
  }
  return due;
}

/* ---- retries --------------------------------------------------------------------------------- */

static bool is_picked(const int *numbers, int count, int number) {
  for (int i = 0; i < count; i++)
    if (numbers[i] == number)
      return true;
  return false;
}

static int run_of(const struct model *m, int number) {
  return m->subjects[m->failed[number].id].run;
}

/* The next held row behind place `after`; with the planted bug the last one. */
static int follower(const struct model *m, const struct failed *head, const int *numbers, int count) {
  int best = -1;
  for (int i = 0; i < m->failed_count; i++) {
    const struct failed *f = &m->failed[i];
    if (f->partition != head->partition || f->key != head->key || f->state != TXB_FAILED_HELD ||
        is_picked(numbers, count, i))
      continue;
    bool later = best >= 0 && f->place > m->failed[best].place;
    if (best < 0 || later == m->bugs.held_out_of_order)
      best = i;
  }
  return best;
}

int failed_pick(const struct model *m, int partition, int rows_max, int *numbers) {
  int count = 0;
  for (int i = 0; i < m->failed_count && rows_max > 0; i++) {
    const struct failed *f = &m->failed[i];
    if (f->suspect && f->partition == partition && f->state == TXB_FAILED_RETRYING && f->due_us <= m->now_us) {
      numbers[0] = i;
      return 1;
    }
  }
  while (count < rows_max) { /* all are of one run */
    int head = -1;
    for (int i = 0; i < m->failed_count; i++) {
      const struct failed *f = &m->failed[i];
      bool due = f->due_us <= m->now_us || m->bugs.retry_before_due;
      if (f->partition != partition || f->state != TXB_FAILED_RETRYING || !due || is_picked(numbers, count, i))
        continue;
      if (count > 0 && run_of(m, i) != run_of(m, numbers[0]))
        continue;
      head = head < 0 || f->due_us < m->failed[head].due_us ? i : head;
    }
    if (head < 0)
      break;
    numbers[count++] = head;
    while (count < rows_max && m->failed[head].key >= 0 && m->failed[head].holds) {
      int next = follower(m, &m->failed[head], numbers, count);
      if (next < 0 || m->failed[next].suspect || run_of(m, next) != run_of(m, head))
        break;
      numbers[count++] = next;
    }
  }
  return count;
}

void failed_promote(struct model *m, int partition, int key) {
  int first = -1;
  for (int i = 0; i < m->failed_count && key >= 0; i++) {
    const struct failed *f = &m->failed[i];
    if (f->partition != partition || f->key != key || !f->holds)
      continue;
    bool later = first >= 0 && f->place > m->failed[first].place;
    if (first < 0 || (m->bugs.held_out_of_order ? later : f->place < m->failed[first].place))
      first = i;
  }
  if (first < 0 || m->failed[first].state != TXB_FAILED_HELD)
    return;
  m->failed[first].state = TXB_FAILED_RETRYING;
  m->failed[first].attempts = m->failed[first].tried = 0;
  m->failed[first].due_us = m->now_us;
  say(m, "failed %d (message %d) goes on", first, m->failed[first].id);
}

/* ---- what a transaction staged --------------------------------------------------------------- */

void failed_check_transition(struct model *m, enum txb_failed_state from, enum txb_failed_event event,
                             enum txb_failed_state to) {
  if (txb_failed_transition_of(from, event, to) == NULL)
    violated(m, "a transition of a failed message that its table refuses");
}

static void count_attempt(struct model *m, int id, bool counts) {
  struct subject *u = &m->subjects[id];
  u->attempts += counts;
  if (u->attempts > u->fails)
    violated(m, "attempts: one more than it failed");
}

static void die(struct model *m, int id, bool released) {
  m->subjects[id].deaths = 0;
  m->subjects[id].released = m->subjects[id].released || released;
}

/* Where a message of a lane waits whose key is held: behind what the lane holds itself, else behind a live partition's. */
static int waits_in(const struct model *m, int lane, int key) {
  for (int p = 0; p < m->partitions && failed_own_holding(m, lane, key) == 0; p++)
    if (failed_own_holding(m, p, key) > 0)
      return p;
  return lane;
}

static bool is_open_in(const struct model *m, int place, int id) {
  for (int i = 0; i < m->failed_count; i++)
    if (m->failed[i].partition == place && m->failed[i].id == id && m->failed[i].holds)
      return true;
  return false;
}

/* It is counted there, and the lane knows already what it holds there. False: it waits there itself, and needs no row. */
static bool move(struct model *m, int lane, int to, int id) {
  bool needs = !is_open_in(m, to, id);
  m->replayed[R_MOVED] += needs;
  m->replayed[R_KNOWN] += !needs;
  m->rows[lane].consumed--;
  m->rows[lane].failed--;
  m->rows[lane].moved++;
  if (needs) {
    m->rows[to].consumed++;
    m->rows[to].failed++;
    m->rows[to].moved++;
    m->rows[to].keys_version++;
    m->rows[lane].keys_version--;
  }
  say(m, "message %d of lane %d goes behind what partition %d holds%s", id, lane - PARTITIONS_MAX, to,
      needs ? "" : ", where it is already");
  return needs;
}

static void commit_add(struct model *m, struct session *x, const struct staged_add *a) {
  int place = x->partition;
  const struct subject *u = &m->subjects[a->id];
  enum txb_failed_event event = a->result.state == TXB_FAILED_HELD ? TXB_FAILED_ON_BEHIND
                                : a->attempt                       ? TXB_FAILED_ON_FAILED
                                                                   : TXB_FAILED_ON_CRASHED;
  failed_check_transition(m, TXB_FAILED_NONE, event, a->result.state);
  if (m->failed_count == FAILED_MAX) {
    violated(m, "the model has too few rows");
    return;
  }
  if (is_lane(place) && a->result.state == TXB_FAILED_HELD && u->key >= 0)
    place = waits_in(m, place, u->key);
  if (place != x->partition && !move(m, x->partition, place, a->id))
    return;
  if (a->attempt && a->result.state != TXB_FAILED_HELD)
    count_attempt(m, a->id, a->counts);
  if (a->result.state == TXB_FAILED_DEAD)
    die(m, a->id, u->key >= 0 && !a->result.holds);
  struct failed *f = &m->failed[m->failed_count++];
  *f = (struct failed){.partition = place,
                       .lane = lane_of(x->partition),
                       .id = a->id,
                       .key = u->key,
                       .offset = a->offset,
                       .place = m->failed_count,
                       .due_us = m->now_us + a->result.delay_ms * 1000,
                       .state = a->result.state,
                       .attempts = a->attempt ? a->result.attempts : 0,
                       .tried = a->attempt && a->result.state != TXB_FAILED_HELD,
                       .holds = u->key >= 0 && a->result.holds,
                       .suspect = a->suspect && place == x->partition && txb_failed_is_open(a->result.state)};
  if (f->holds)
    x->gained[f->key]++;
  if (f->state == TXB_FAILED_RETRYING && (x->due_ms < 0 || a->result.delay_ms < x->due_ms))
    x->due_ms = a->result.delay_ms;
  say(m, "failed %d is message %d of partition %d at %lld, key %d, %s, attempts %d", m->failed_count - 1, f->id,
      f->partition, (long long)f->offset, f->key, txb_failed_state_name(f->state), f->attempts);
}

static void commit_settle(struct model *m, struct session *x, const struct staged_settle *v) {
  struct failed *f = &m->failed[v->number];
  struct row *r = &m->rows[x->partition];
  bool held_before = f->holds;
  if (v->verdict == V_UNTOUCHED)
    return;
  f->suspect = false;
  f->deaths = 0;
  if (v->verdict == V_FAILED) {
    failed_check_transition(m, f->state, TXB_FAILED_ON_FAILED, v->result.state);
    if (f->state == TXB_FAILED_RETRYING && f->due_us > x->marked_us)
      violated(m, "attempts: one before it was due");
    count_attempt(m, f->id, v->counts);
    f->tried = f->state == TXB_FAILED_HELD ? 1 : f->tried + 1;
    f->state = v->result.state;
    f->attempts = v->result.attempts;
    f->due_us = m->now_us + v->result.delay_ms * 1000;
    f->holds = f->holds && v->result.holds;
    if (f->state == TXB_FAILED_DEAD)
      die(m, f->id, f->key >= 0 && !f->holds);
  } else {
    bool applied = v->verdict == V_APPLIED;
    failed_check_transition(m, f->state, applied ? TXB_FAILED_ON_APPLIED : TXB_FAILED_ON_DUPLICATE,
                            TXB_FAILED_RESOLVED);
    f->state = TXB_FAILED_RESOLVED;
    f->holds = false;
    r->failed--;
    r->applied += applied;
    r->duplicate += !applied;
  }
  if (f->tried > m->policy.attempts_max || f->tried != f->attempts)
    violated(m, "attempts: more than the policy says");
  if (held_before && !f->holds)
    x->gained[f->key]--;
  say(m, "failed %d (message %d) is %s, attempts %d", v->number, f->id, txb_failed_state_name(f->state), f->attempts);
}

/* Which keys its own worker holds in a partition: lanes read them anew when that changes. */
static unsigned own_keys(const struct model *m, int place) {
  unsigned keys = 0;
  for (int i = 0; i < m->failed_count; i++)
    if (m->failed[i].partition == place && m->failed[i].holds)
      keys |= 1u << m->failed[i].key;
  return keys;
}

void failed_commit(struct model *m, struct session *x) {
  bool touched[KEYS] = {false}, any = x->retry;
  unsigned keys = m->replays ? own_keys(m, x->partition) : 0;
  for (int i = 0; i < x->add_count && !m->bugs.failed_not_recorded; i++) {
    commit_add(m, x, &x->adds[i]);
    int key = m->subjects[x->adds[i].id].key;
    if (key >= 0 && x->adds[i].result.state == TXB_FAILED_DEAD && !x->adds[i].result.holds)
      touched[key] = true;
  }
  for (int i = 0; i < x->settle_count; i++) {
    commit_settle(m, x, &x->settles[i]);
    if (m->failed[x->settles[i].number].key >= 0)
      touched[m->failed[x->settles[i].number].key] = true;
  }
  for (int key = keys_from(x->partition); key < keys_to(x->partition); key++)
    if (touched[key]) {
      failed_promote(m, x->partition, key);
      any = true;
    }
  m->rows[x->partition].keys_taken += m->replays && own_keys(m, x->partition) != keys;
  if (any)
    x->due_ms = failed_due_ms(m, x->partition);
}

void failed_taken(struct model *m, int partition, bool died) {
  const struct row *r = &m->rows[partition];
  for (int i = 0; i < r->suspect_failed_count; i++) {
    struct failed *f = &m->failed[r->suspect_failed[i]];
    f->deaths += died && r->suspect_marked && r->suspect_failed_count == 1 && f->suspect;
    f->suspect = txb_failed_is_open(f->state);
  }
}

void failed_condemn(struct model *m, int partition, int number) {
  struct failed *f = &m->failed[number];
  struct row *r = &m->rows[partition];
  unsigned keys = own_keys(m, partition);
  if (f->state == TXB_FAILED_RETRYING) {
    failed_check_transition(m, f->state, TXB_FAILED_ON_CRASHED, TXB_FAILED_DEAD);
    f->state = TXB_FAILED_DEAD;
    f->holds = f->holds && !m->policy.release;
    f->suspect = false;
    f->deaths = 0;
    die(m, f->id, f->key >= 0 && !f->holds);
    failed_promote(m, partition, f->key);
  }
  r->keys_taken += own_keys(m, partition) != keys;
  r->suspect_marked = false;
  r->suspect_failed_count = r->suspect_deaths = 0;
  failed_verify(m, partition);
}
