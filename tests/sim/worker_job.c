/* Replay jobs in the model: what a person does with them, and who has the lease of a lane. See worker_model.h. */
#include "worker_model.h"

static struct row *row_of(struct model *m, const struct job *j) {
  return &m->rows[PARTITIONS_MAX + (int)(j - m->jobs)];
}

static bool has_retries(const struct model *m, int lane) {
  for (int i = 0; i < m->failed_count; i++)
    if (m->failed[i].partition == lane && m->failed[i].state == TXB_FAILED_RETRYING)
      return true;
  return false;
}

static void change(struct model *m, struct job *j, enum txb_job_event event) {
  enum txb_job_state to = txb_job_next(j->state, event);
  if (to == TXB_JOB_NONE)
    violated(m, "a transition of a job that its table refuses");
  j->state = to;
  j->state_us = m->now_us;
  m->replayed[R_STARTED] += event == TXB_JOB_ON_START;
  m->replayed[R_PAUSED] += event == TXB_JOB_ON_PAUSE;
  m->replayed[R_RESUMED] += event == TXB_JOB_ON_RESUME;
  m->replayed[R_CANCELLED] += event == TXB_JOB_ON_CANCEL;
  m->replayed[R_DONE] += event == TXB_JOB_ON_FINISH;
  say(m, "job %d is %s", (int)(j - m->jobs), txb_job_state_name(to));
}

/* The next owner of the lane begins anew with what kills: the last one had to let go in the middle of that, alive. */
static void forget_deaths(struct model *m, const struct job *j) {
  const struct log *l = &m->logs[PARTITIONS_MAX + (int)(j - m->jobs)];
  for (int i = 0; i < l->count; i++)
    m->subjects[l->records[i].id].deaths = 0;
}

/* ---- a person -------------------------------------------------------------------------------- */

/* Which messages of the outbox: a part of it, perhaps only some keys, or some types. */
struct range {
  int from, to;
  unsigned keys; /* a bit each */
  bool types;
};

static bool reads(struct model *m, const struct range *r, int id) {
  int key = m->subjects[id].key;
  return (key < 0 || (r->keys >> key & 1) != 0) && !(r->types && chance(m, 40));
}

/* A copy of the message that a forced run handles as if it were another one. */
static int repeated(struct model *m, const struct intent *intent, int run, int lane) {
  const struct subject *was = &m->subjects[intent->id];
  struct subject *s = &m->subjects[m->ids];
  *s = (struct subject){.partition = was->partition,
                        .key = was->key,
                        .order = intent->seq,
                        .run = run,
                        .of = intent->id,
                        .lane = lane,
                        .applied_by = -1};
  model_draw_nature(m, s, m->logs[lane].count == 3);
  return m->ids++;
}

/* Whether live still has to do something that stands before the range: then a key may be overtaken. */
static bool begins_in_time(const struct model *m, int from) {
  for (int i = 0; i < from; i++) {
    const struct subject *u = &m->subjects[m->outbox[i].id];
    if (u->order >= m->rows[u->partition].next_offset)
      return false;
  }
  return true;
}

static void start(struct model *m) {
  int n = m->outbox_count, number = m->job_count, lane = PARTITIONS_MAX + number;
  if (n < 4 || m->ids + RECORDS_MAX > MESSAGES_MAX - 20)
    return;
  struct range r = {.keys = chance(m, 25) ? (unsigned)roll(m, 1u << KEYS) : ~0u, .types = chance(m, 20)};
  r.from = chance(m, 50) ? 0 : (int)roll(m, (uint64_t)n - 2);
  r.to = chance(m, 60) ? n : r.from + 1 + (int)roll(m, (uint64_t)(n - r.from));
  r.from = r.to - r.from > RECORDS_MAX ? r.to - RECORDS_MAX : r.from;
  bool forced = chance(m, 50);
  struct job *j = &m->jobs[m->job_count++];
  *j = (struct job){.run = forced ? number + 1 : 0,
                    .ordered = !forced && !r.types && begins_in_time(m, r.from),
                    .instance = -1,
                    .granted_to = -1};
  change(m, j, TXB_JOB_ON_START);
  m->replayed[R_FORCED] += forced;
  m->replayed[R_ORDERED] += j->ordered;
  struct log *l = &m->logs[lane];
  for (int i = r.from; i < r.to; i++) {
    const struct intent *intent = &m->outbox[i];
    if (!reads(m, &r, intent->id))
      continue;
    int id = forced ? repeated(m, intent, j->run, lane) : intent->id;
    m->subjects[intent->id].replays += !forced;
    l->records[l->count++] = (struct log_record){.offset = intent->seq, .id = id};
  }
  l->end = r.to == n ? m->seq : m->outbox[r.to].seq; /* not above the watermark */
  model_init_place(m, lane);
  m->rows[lane].next_offset = m->outbox[r.from].seq;
  say(m, "a person starts job %d: %lld to %lld, %d messages%s%s", number, (long long)m->rows[lane].next_offset,
      (long long)l->end, l->count, forced ? ", forced" : "", j->ordered ? ", in order with live" : "");
}

void job_person(struct model *m) {
  if (!m->replays)
    return;
  struct job *j = m->job_count == 0 ? NULL : &m->jobs[m->job_count - 1];
  if (j == NULL || !txb_job_is_open(j->state)) {
    bool wants = j == NULL && m->healed ? true : chance(m, 4);
    if (wants && m->job_count < JOBS_MAX)
      start(m);
  } else if (j->state == TXB_JOB_PAUSED) {
    if (chance(m, 10))
      change(m, j, chance(m, 90) ? TXB_JOB_ON_RESUME : TXB_JOB_ON_CANCEL);
  } else if (chance(m, 1)) {
    change(m, j, chance(m, 85) ? TXB_JOB_ON_PAUSE : TXB_JOB_ON_CANCEL);
  }
}

/* ---- leases ---------------------------------------------------------------------------------- */

static bool goes_on(const struct model *m, const struct job *j, int lane) {
  return txb_job_serves(j->state, j->through, has_retries(m, lane));
}

/* Taken from a living owner, whose marker says nothing any more. */
static void clean(struct model *m, int lane, int instance) {
  struct row *r = &m->rows[lane];
  if (m->row_lock[lane] >= 0 || r->instance != instance)
    return;
  r->busy = r->suspect_marked = false;
  r->instance = -1;
}

static void grant(struct model *m, struct job *j, int instance, int64_t lease_us) {
  if (j->granted_to >= 0 && j->granted_to != instance && m->now_us < j->granted_until_us)
    violated(m, "F: a lane has two owners");
  if (!txb_job_serves(j->state, j->through, true))
    violated(m, "a lane of a paused job was given out");
  m->replayed[R_TAKEN_OVER] += j->instance >= 0 && j->instance != instance;
  if (j->instance != instance)
    say(m, "lane %d is leased to instance %d", (int)(j - m->jobs), instance);
  j->instance = j->granted_to = instance;
  j->lease_until_us = j->granted_until_us = m->now_us + lease_us;
}

void job_claim(struct model *m, int instance, int64_t lease_us, int lanes_max, bool mine[PLACES]) {
  bool touched[JOBS_MAX] = {false};
  int have = 0;
  for (int i = 0; i < m->job_count; i++) {
    struct job *j = &m->jobs[i];
    int lane = PARTITIONS_MAX + i;
    bool free = j->instance < 0 || j->lease_until_us <= m->now_us || m->bugs.lane_two_owners;
    mine[lane] = false;
    touched[i] = j->instance == instance || (free && goes_on(m, j, lane));
    if (touched[i] && !j->through && j->state == TXB_JOB_RUNNING && row_of(m, j)->next_offset >= m->logs[lane].end) {
      j->through = true;
      change(m, j, TXB_JOB_ON_FINISH);
    }
    if (touched[i] && j->instance == instance && !goes_on(m, j, lane)) {
      j->instance = j->granted_to = -1;
      clean(m, lane, instance);
      forget_deaths(m, j);
    }
    have += j->instance == instance;
  }
  for (int i = 0; i < m->job_count; i++) { /* first those that it has */
    struct job *j = &m->jobs[i];
    if (touched[i] && j->instance == instance)
      grant(m, j, instance, lease_us);
  }
  for (int i = 0; i < m->job_count; i++) {
    struct job *j = &m->jobs[i];
    if (touched[i] && j->instance != instance && goes_on(m, j, PARTITIONS_MAX + i) && have < lanes_max) {
      grant(m, j, instance, lease_us);
      have++;
    }
    mine[PARTITIONS_MAX + i] = touched[i] && j->instance == instance;
  }
}

void job_free(struct model *m, int lane, int instance) {
  struct job *j = job_of(m, lane);
  if (j->instance == instance)
    j->instance = j->granted_to = -1;
}

bool job_may_run(struct model *m, int lane, bool ahead) {
  enum txb_job_state state = job_of(m, lane)->state;
  return state != TXB_JOB_PAUSED && (!ahead || state == TXB_JOB_RUNNING);
}

bool job_all_ended(const struct model *m) {
  for (int i = 0; i < m->job_count; i++)
    if (txb_job_is_open(m->jobs[i].state))
      return false;
  return !m->replays || m->job_count > 0 || m->outbox_count < 4;
}
