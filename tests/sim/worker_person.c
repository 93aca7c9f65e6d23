/* Persons in the model, who decide about failed messages at any moment: again, edited, discarded. See worker_model.h. */
#include "worker_session.h"

static void edit(struct model *m, struct failed *old) {
  int number = m->failed_count, id = m->ids;
  enum txb_failed_state state = old->state == TXB_FAILED_HELD ? TXB_FAILED_HELD : TXB_FAILED_RETRYING;
  failed_check_transition(m, old->state, TXB_FAILED_ON_EDIT, TXB_FAILED_RESOLVED);
  failed_check_transition(m, TXB_FAILED_NONE, TXB_FAILED_ON_EDITED, state);
  struct subject *u = &m->subjects[m->ids++], *was = &m->subjects[old->id];
  *u = (struct subject){.partition = was->partition,
                        .key = was->key,
                        .order = old->lane < 0 ? old->offset : was->order,
                        .run = was->run,
                        .of = id,
                        .lane = old->lane,
                        .copy = true,
                        .applied_by = -1,
                        .released = was->released};
  u->fails = chance(m, 20);
  m->failed[m->failed_count++] = (struct failed){.partition = old->partition,
                                                 .lane = old->lane,
                                                 .id = m->bugs.edit_keeps_id ? old->id : id,
                                                 .key = old->key,
                                                 .offset = old->offset,
                                                 .place = old->place,
                                                 .due_us = m->now_us,
                                                 .state = state,
                                                 .holds = old->holds,
                                                 .copy = true};
  was->closed = true;
  m->inbox[inbox_of(m, old->id)] = true;
  old->state = TXB_FAILED_RESOLVED;
  old->holds = false;
  say(m, "a person: failed %d is message %d edited", number, id);
}

static void discard(struct model *m, struct failed *f) {
  failed_check_transition(m, f->state, TXB_FAILED_ON_DISCARD, TXB_FAILED_DISCARDED);
  m->subjects[f->id].closed = true;
  m->inbox[inbox_of(m, f->id)] = true;
  f->state = TXB_FAILED_DISCARDED;
  f->holds = false;
}

/* A message that lies there twice, since it came twice or a lane brought it too: an edited copy would take one of its
 * places, perhaps the later one. */
static bool is_elsewhere(const struct model *m, const struct failed *f) {
  for (int i = 0; i < m->failed_count; i++) {
    const struct failed *o = &m->failed[i];
    if (o != f && o->id == f->id && txb_failed_is_open(o->state))
      return true;
  }
  return false;
}

/* Some place runs it just now, and the lock of this one says nothing of that: a decision waits for the inbox's row. */
static bool is_under_way(const struct model *m, const struct failed *f) {
  for (int s = 0; s < SESSIONS_MAX; s++)
    for (int i = 0; i < m->sessions[s].count && m->sessions[s].used && m->sessions[s].in_transaction; i++)
      if (m->sessions[s].ids[i] == f->id)
        return true;
  return false;
}

void failed_person(struct model *m) {
  if (m->failed_count == 0)
    return;
  int number = (int)roll(m, (uint64_t)m->failed_count);
  for (int i = 0; i < m->failed_count && m->healed; i++, number = (number + 1) % m->failed_count)
    if (m->failed[number].state == TXB_FAILED_DEAD)
      break;
  struct failed *f = &m->failed[number];
  struct row *r = &m->rows[f->partition];
  if (!txb_failed_is_open(f->state) || m->row_lock[f->partition] >= 0)
    return;
  if (m->replays && is_under_way(m, f))
    return;
  bool applied = m->subjects[f->id].effects > 0 || m->subjects[f->id].closed; /* by another copy of it */
  bool may_retry = txb_failed_may(f->state, TXB_FAILED_ON_RETRY) && (f->acts < 3 || applied);
  bool edits =
      m->ids < MESSAGES_MAX && m->failed_count < FAILED_MAX - 1 && chance(m, 50) && !(m->replays && is_elsewhere(m, f));
  if (f->state != TXB_FAILED_DEAD && chance(m, 70))
    return;
  f->acts++;
  r->keys_version++;
  for (int i = 0; i < m->ids; i++) /* what is suspected may not be what it was */
    if (m->subjects[i].partition == m->subjects[f->id].partition && m->subjects[i].key == m->subjects[f->id].key)
      m->subjects[i].deaths = 0;
  if (may_retry && chance(m, 60)) {
    failed_check_transition(m, f->state, TXB_FAILED_ON_RETRY, TXB_FAILED_RETRYING);
    f->state = TXB_FAILED_RETRYING;
    f->attempts = f->tried = 0;
    f->due_us = m->now_us;
    say(m, "a person: failed %d (message %d) again", number, f->id);
  } else if (applied) {
    return;
  } else if (edits) {
    edit(m, f);
  } else {
    discard(m, f);
    say(m, "a person: failed %d (message %d) is discarded", number, f->id);
  }
  failed_promote(m, f->partition, f->key);
  failed_verify(m, f->partition);
}
