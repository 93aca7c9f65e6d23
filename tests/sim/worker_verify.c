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
  if (m->bugs.offset_before_commit)
    return;
  for (int key = 0; key < KEYS; key++)
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

void verify_commit(struct model *m, struct session *x) {
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

/* What stays failed is what was discarded, as it came or edited. */
static void failed_verify_end(struct model *m) {
  for (int p = 0; p < m->partitions; p++) {
    int64_t discarded = 0;
    for (int i = 0; i < m->failed_count; i++)
      discarded += m->failed[i].partition == p && m->failed[i].state == TXB_FAILED_DISCARDED;
    if (m->rows[p].failed != discarded)
      violated(m, "Q: failed at the end");
    failed_verify(m, p);
  }
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
