/* The verifier: what must hold at every commit, and at the end. See worker_model.h. */
#include "worker_session.h"

static void verify_key(struct model *m, int partition, int key) {
  int first = -1;
  for (int i = 0; i < m->failed_count; i++) {
    const struct failed *f = &m->failed[i];
    if (f->partition != partition || f->key != key || !f->holds)
      continue;
    if (!txb_failed_is_open(f->state))
      violated(m, "a key is held by a message that is closed");
    if (first < 0 || f->place < m->failed[first].place)
      first = i;
  }
  for (int i = 0; i < m->failed_count; i++) {
    const struct failed *f = &m->failed[i];
    if (f->partition == partition && f->key == key && f->state == TXB_FAILED_HELD && (first < 0 || first == i))
      violated(m, "a held message without a head");
    if (f->partition == partition && f->key == key && f->state == TXB_FAILED_RETRYING && f->holds && first != i)
      violated(m, "a message is retried that is not the first of its key");
  }
}

void failed_verify(struct model *m, int partition) {
  const struct row *r = &m->rows[partition];
  if (moves_first(m, partition))
    return;
  for (int key = keys_from(partition); key < keys_to(partition); key++)
    verify_key(m, partition, key);
  if (r->consumed != r->applied + r->duplicate + r->failed)
    violated(m, "Q: consumed is not applied + duplicate + failed");
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

static bool in_log(const struct log *l, int id) {
  for (int i = 0; i < l->count; i++)
    if (l->records[i].id == id)
      return true;
  return false;
}

/* Whether the order of two messages of a key and run says anything, `u` being applied as brought by a lane (-1: live). A job
 * that isn't forced may begin behind what live has still to do: then it overtakes, and only its own messages are in order.
 * A copy that was edited waits where it was set aside, live or in a lane, and the other goes on meanwhile. */
static bool is_comparable(const struct model *m, const struct subject *u, const struct subject *v, int lane) {
  bool overtakes = lane >= 0 && m->jobs[lane - PARTITIONS_MAX].run == 0 && !m->jobs[lane - PARTITIONS_MAX].ordered;
  bool overtook = v->applied_by >= 0 && m->jobs[v->applied_by - PARTITIONS_MAX].run == 0 &&
                  !m->jobs[v->applied_by - PARTITIONS_MAX].ordered && v->applied_by != lane;
  if ((v->copy && v->lane != lane) || (u->copy && v->effects > 0 && v->applied_by != lane))
    return false;
  if (overtakes && !v->copy && !in_log(&m->logs[lane], (int)(v - m->subjects)))
    return false;
  return !overtook;
}

/* O: in the order of first appearance within a key, and nothing before what stands ahead of it is done. */
static void verify_order(struct model *m, const struct subject *u, int lane) {
  for (int j = 0; j < m->ids && u->key >= 0 && !u->released; j++) {
    const struct subject *v = &m->subjects[j];
    if (v->key != u->key || v->run != u->run || v == u || v->released)
      continue;
    if (m->replays && !is_comparable(m, u, v, lane))
      continue;
    bool late = v->order > u->order && v->effects > 0, early = v->order < u->order && !is_done(v);
    if (late || early)
      say(m, "message %d, by lane %d, and %d, by lane %d", (int)(u - m->subjects), lane, j, v->applied_by);
    if (late)
      violated(m, "O: an effect happened after one of its key that stands behind it");
    if (early)
      violated(m, "O: an effect happened though one of its key that stands before it waits");
  }
}

void verify_lane(struct model *m, int s) {
  const struct session *x = &m->sessions[s];
  const struct job *j = job_of(m, x->partition);
  bool rests = j->state == TXB_JOB_PAUSED || (j->state == TXB_JOB_CANCELLED && !x->retry);
  if (rests && x->opened_us > j->state_us)
    violated(m, "a lane went on though its job rests");
  for (int p = 0; p < m->partitions && x->effect_count > 0 && !moves_first(m, x->partition); p++) {
    if (m->row_lock[p] >= 0 && m->row_lock[p] != s)
      violated(m, "J1: an effect of a lane beside an open batch of a live partition");
    for (int i = 0; i < x->effect_count && !x->retry; i++)
      if (failed_own_holding(m, p, m->subjects[x->effects[i]].key) > 0)
        violated(m, "J1: a lane passed a key that a live partition holds");
  }
}

/* Records below the position have their effect or are set aside; Q: they are counted, here or where they went. */
static void verify_position(struct model *m, int place) {
  const struct row *r = &m->rows[place];
  const struct log *l = &m->logs[place];
  int64_t below = 0;
  for (int i = 0; i < l->count; i++) {
    int id = l->records[i].id;
    bool passed = l->records[i].offset < r->next_offset;
    below += passed;
    if (passed && m->subjects[id].effects == 0 && !was_set_aside(m, id))
      violated(m, "L: the position went past a message without an effect");
  }
  if (r->consumed != (is_lane(place) ? below - r->moved : below + r->moved))
    violated(m, "Q: consumed is not the number of records below the position");
  failed_verify(m, place);
}

void verify_commit(struct model *m, struct session *x) {
  for (int i = 0; i < x->effect_count; i++) {
    struct subject *u = &m->subjects[x->effects[i]];
    if (++u->effects > 1)
      violated(m, "D: an effect happened twice");
    if (u->closed)
      violated(m, "D: an effect of a message that was discarded or replaced");
    u->applied_by = x->effect_lane[i];
    verify_order(m, u, x->effect_lane[i]);
  }
  if (!x->holds_row || moves_first(m, x->partition)) /* planted: let it show by what is lost, not by its form */
    return;
  verify_position(m, x->partition);
  for (int p = 0; p < m->partitions && is_lane(x->partition) && x->add_count > 0; p++)
    if (!moves_first(m, p))
      verify_position(m, p);
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
  return job_all_ended(m);
}

/* What stays failed is what was discarded, as it came or edited. */
static void failed_verify_end(struct model *m) {
  for (int p = 0; p < PLACES; p++) {
    int64_t discarded = 0;
    if (!is_place(m, p))
      continue;
    for (int i = 0; i < m->failed_count; i++)
      discarded += m->failed[i].partition == p && m->failed[i].state == TXB_FAILED_DISCARDED;
    if (m->rows[p].failed != discarded)
      violated(m, "Q: failed at the end");
    failed_verify(m, p);
  }
}

/* How often it shall have happened: what a forced job has not come to, before somebody cancelled it, not at all. */
static int wanted_effects(const struct model *m, const struct subject *u) {
  bool ahead = u->run > 0 && !u->copy && u->order >= m->rows[u->lane].next_offset;
  return u->closed || ahead ? 0 : 1;
}

void model_verify_end(struct model *m) {
  for (int i = 0; i < m->ids; i++) {
    const struct subject *u = &m->subjects[i];
    if (u->effects != wanted_effects(m, u))
      violated(m, u->effects == 0 ? "L: a message has no effect" : "D: an effect happened twice");
    if (u->effects == 1 && u->attempts != u->fails)
      violated(m, "attempts: not as many as it failed");
  }
  for (int p = 0; p < PLACES; p++) {
    if (!is_place(m, p))
      continue;
    verify_position(m, p);
    bool whole = !is_lane(p) || job_of(m, p)->state == TXB_JOB_DONE;
    int64_t there = is_lane(p) ? m->rows[p].consumed + m->rows[p].moved : m->rows[p].consumed - m->rows[p].moved;
    if (whole && there != m->logs[p].count)
      violated(m, "Q: consumed at the end");
  }
  failed_verify_end(m);
}
