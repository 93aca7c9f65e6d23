/* The model of PostgreSQL and Kafka for sim_relay, and its verifier. */
#include "relay_model.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/random.h"
#include "outbox/relay_core.h"

void rm_init(struct rm_model *m, uint64_t seed, bool verbose) {
  memset(m, 0, sizeof *m);
  m->rng = seed * 0x2545F4914F6CDD1DU + 1;
  m->verbose = verbose;
  m->stored.instance = 0;
  m->next_xid = rm_chance(m, 30) ? 0xFFFFFFF0U : 700 + rm_random(m, 100);
  m->drawn = rm_chance(m, 30) ? 16370 : 0;
  m->stored.highest = m->stored.watermark = m->drawn;
  m->durable = m->stored;
  m->commit_weight = (unsigned)rm_random(m, 40) + 5;
  m->bad_percent = rm_chance(m, 30) ? (unsigned)rm_random(m, 12) : 0;
  m->topic_trouble = rm_chance(m, 40) ? 2 : 0;
  m->producer_trouble = rm_chance(m, 40) ? 3 : 0;
  m->kill_every = 300;
  m->decide_percent = rm_chance(m, 75) ? 1 + (unsigned)rm_random(m, 15) : 0;
  if (rm_chance(m, 15)) { /* little else than topics that come and go under relays that do */
    m->topic_trouble = 12;
    m->kill_every = 40;
  }
  for (int t = 0; t < RM_TOPICS; t++)
    m->topic_there[t] = m->topic_trouble == 0 || rm_chance(m, 50);
}

uint64_t rm_random(struct rm_model *m, uint64_t below) {
  return txb_splitmix64(&m->rng) % below;
}

bool rm_chance(struct rm_model *m, unsigned percent) {
  return rm_random(m, 100) < percent;
}

void rm_trace(const struct rm_model *m, const char *fmt, ...) {
  if (!m->verbose)
    return;
  va_list args;
  va_start(args, fmt);
  printf("%9.3f  ", (double)m->now_us / 1000);
  vprintf(fmt, args);
  printf("\n");
  va_end(args);
}

void rm_fail(struct rm_model *m, const char *fmt, ...) {
  if (m->violation != NULL)
    return;
  va_list args;
  va_start(args, fmt);
  vsnprintf(m->text, sizeof m->text, fmt, args);
  va_end(args);
  m->violation = m->text;
  rm_trace(m, "VIOLATION: %s", m->text);
}

/* ---- PostgreSQL: transactions ----------------------------------------------------------------------------------- */

static void tx_begin(struct rm_model *m) {
  if (m->tx_count == RM_TXS)
    return;
  struct rm_tx *tx = &m->txs[m->tx_count++];
  *tx = (struct rm_tx){.state = RM_OPEN, .running = true, .pid = 1000 + m->tx_count, .in_hand = -1};
  tx->rows_left = rm_chance(m, 10) ? 8 + (int)rm_random(m, 12) : 1 + (int)rm_random(m, 3);
  tx->slow = rm_chance(m, 15);
}

/* Everything committed so far is on disk. */
static void flush(struct rm_model *m) {
  m->durable = m->stored;
  for (int i = 0; i < m->row_count; i++)
    m->rows[i].failed_durable = m->rows[i].failed;
}

static void tx_end(struct rm_model *m, struct rm_tx *tx, bool commit) {
  if (commit)
    flush(m);
  tx->state = commit ? RM_COMMITTED : RM_ABORTED;
  tx->running = false;
  tx->ended = ++m->stamp;
  rm_trace(m, "tx %d %s", (int)(tx - m->txs), commit ? "commits" : "rolls back");
}

static void tx_draw(struct rm_model *m, struct rm_tx *tx, int id) {
  if (m->row_count == RM_ROWS)
    return;
  struct rm_row *row = &m->rows[m->row_count];
  *row = (struct rm_row){.seq = ++m->drawn, .tx = id, .drawn = m->stamp};
  row->topic = (uint32_t)rm_random(m, RM_TOPICS);
  row->key = (int)rm_random(m, RM_KEYS + 1) - 1;
  row->bad = rm_chance(m, m->bad_percent) ? ~0U : 0;
  row->bytes = 1 + (unsigned)rm_random(m, 20);
  tx->in_hand = m->row_count++;
  rm_trace(m, "tx %d draws %lld topic %u key %d%s", id, (long long)row->seq, row->topic, row->key,
           row->bad != 0 ? " bad" : "");
}

static void tx_work(struct rm_model *m, struct rm_tx *tx, int id) {
  if (!tx->locked) {
    tx->locked = true;
  } else if (tx->in_hand >= 0) {
    struct rm_row *row = &m->rows[tx->in_hand];
    tx->xid = tx->xid == 0 ? m->next_xid++ : tx->xid;
    tx->in_hand = -1;
    row->inserted = true;
    tx->rows_left--;
    if (rm_chance(m, 8)) { /* rolled back to a savepoint */
      row->undone = true;
      bool only = true; /* then the lock was taken inside the savepoint, and goes with it */
      for (int i = 0; i < m->row_count; i++)
        only &= m->rows[i].tx != id || m->rows[i].undone;
      tx->locked = !only;
      rm_trace(m, "tx %d undoes %lld", id, (long long)row->seq);
    }
  } else {
    tx_draw(m, tx, id);
  }
}

void rm_applications_step(struct rm_model *m) {
  if (!m->healing && rm_chance(m, 15))
    tx_begin(m);
  if (!m->healing && rm_chance(m, 1))
    m->drawn += (int64_t)rm_random(m, rm_chance(m, 20) ? 40000 : 5); /* numbers that nobody uses */
  if (m->tx_count == 0)
    return;
  int id = (int)rm_random(m, (uint64_t)m->tx_count);
  for (int i = 0; m->healing && i < m->tx_count && !m->txs[id].running && !m->txs[id].locked; i++)
    id = (id + 1) % m->tx_count;
  struct rm_tx *tx = &m->txs[id];
  switch (tx->state) {
  case RM_OPEN:
    if (tx->slow && !m->healing && rm_chance(m, 90))
      return;
    if (tx->in_hand < 0 && (tx->rows_left <= 0 || m->row_count == RM_ROWS || rm_chance(m, m->commit_weight))) {
      if (rm_chance(m, 12) && tx->xid != 0) {
        tx->state = RM_PREPARED;
        tx->pid = 0;
        rm_trace(m, "tx %d prepared", id);
        return;
      }
      tx_end(m, tx, !rm_chance(m, 20));
      return;
    }
    tx_work(m, tx, id);
    return;
  case RM_PREPARED:
    if (m->healing || rm_chance(m, 10))
      tx_end(m, tx, !rm_chance(m, 20));
    return;
  case RM_COMMITTED:
  case RM_ABORTED:
    tx->locked = false; /* locks go after the transaction has become visible */
    return;
  }
}

bool rm_applications_done(const struct rm_model *m) {
  for (int i = 0; i < m->tx_count; i++)
    if (m->txs[i].running || m->txs[i].locked)
      return false;
  return true;
}

void rm_snapshot_take(const struct rm_model *m, struct rm_snapshot *s) {
  s->stamp = m->stamp;
  s->xmax = m->next_xid;
  s->xip_count = 0;
  for (int i = 0; i < m->tx_count; i++) {
    if (!m->txs[i].running || m->txs[i].xid == 0)
      continue;
    size_t at = s->xip_count++;
    for (; at > 0 && s->xip[at - 1] > m->txs[i].xid; at--)
      s->xip[at] = s->xip[at - 1];
    s->xip[at] = m->txs[i].xid;
  }
}

bool rm_visible(const struct rm_model *m, const struct rm_row *row, const struct rm_snapshot *s) {
  const struct rm_tx *tx = &m->txs[row->tx];
  return row->inserted && !row->undone && tx->state == RM_COMMITTED && tx->ended <= s->stamp;
}

/* Whether the row is, or may still become, committed. */
static bool may_count(const struct rm_model *m, const struct rm_row *row) {
  return !row->undone && m->txs[row->tx].state != RM_ABORTED;
}

/* ---- PostgreSQL: what the relay writes -------------------------------------------------------------------------- */

bool rm_is_stored_hole(const struct rm_stored *s, int64_t seq) {
  for (size_t i = 0; i < s->hole_count; i++)
    if (s->holes[i].lo <= seq && seq <= s->holes[i].hi)
      return true;
  return false;
}

static bool is_held(const struct rm_stored *s, const struct rm_row *row) {
  int64_t topic = s->topic_lo[row->topic], key = row->key < 0 ? 0 : s->key_lo[row->topic][row->key];
  return (topic != 0 && topic <= row->seq) || (key != 0 && key <= row->seq);
}

/* R4: whoever begins from this position loses nothing. */
static void verify_stored(struct rm_model *m) {
  const struct rm_stored *s = &m->stored;
  for (int i = 0; i < m->row_count; i++) {
    const struct rm_row *row = &m->rows[i];
    bool open = row->failed.state == RM_DEAD || (row->failed.state == RM_RETRYING && !row->appended);
    if (!may_count(m, row) || is_held(s, row))
      continue;
    if (row->key >= 0 && open)
      rm_fail(m, "%lld has failed and is not yet published, and its key is not held", (long long)row->seq);
    if (row->appended || row->failed.state != RM_FINE)
      continue;
    if (row->seq <= s->highest && !rm_is_stored_hole(s, row->seq))
      rm_fail(m, "the checkpoint forgets %lld (highest %lld)", (long long)row->seq, (long long)s->highest);
    if (row->seq <= s->watermark)
      rm_fail(m, "the watermark %lld passes %lld", (long long)s->watermark, (long long)row->seq);
  }
}

void rm_server_crash(struct rm_model *m) {
  rm_trace(m, "server crash");
  for (int i = 0; i < m->tx_count; i++) {
    struct rm_tx *tx = &m->txs[i];
    if (tx->state == RM_OPEN)
      tx_end(m, tx, false);
    tx->locked = tx->state == RM_PREPARED;
  }
  m->drawn += (int64_t)rm_random(m, 33);
  m->stored = m->durable;
  for (int i = 0; i < m->row_count; i++)
    m->rows[i].failed = m->rows[i].failed_durable;
  verify_stored(m);
}

static bool fenced(const struct rm_model *m, int64_t epoch, unsigned char instance) {
  return !m->accepts_anybody && (m->stored.epoch != epoch || m->stored.instance != instance);
}

bool rm_checkpoint(struct rm_model *m, int64_t epoch, unsigned char instance, int64_t number, int64_t highest,
                   int64_t watermark, const int64_t *pages, size_t page_count, const struct rm_range *holes,
                   size_t hole_count, const int64_t topic_lo[RM_TOPICS]) {
  struct rm_stored *s = &m->stored;
  if (fenced(m, epoch, instance) || (!m->accepts_anybody && s->checkpoint != number))
    return false;
  if (!m->accepts_anybody && (highest < s->highest || watermark < s->watermark))
    rm_fail(m, "highest %lld or watermark %lld goes back", (long long)highest, (long long)watermark);
  size_t kept = 0;
  for (size_t i = 0; i < s->hole_count; i++) {
    bool replaced = false;
    for (size_t p = 0; p < page_count; p++)
      replaced |= pages[p] == s->holes[i].page;
    if (!replaced)
      s->holes[kept++] = s->holes[i];
  }
  s->hole_count = kept;
  for (size_t i = 0; i < hole_count; i++) {
    if (s->hole_count == RM_STORED) {
      rm_fail(m, "too many stored ranges for the model");
      return true;
    }
    if (holes[i].lo >> TXB_HOLE_PAGE_BITS != holes[i].page || holes[i].hi > highest)
      rm_fail(m, "%lld..%lld does not belong into page %lld", (long long)holes[i].lo, (long long)holes[i].hi,
              (long long)holes[i].page);
    s->holes[s->hole_count++] = holes[i];
  }
  for (int t = 0; t < RM_TOPICS; t++)
    if (topic_lo[t] >= 0)
      s->topic_lo[t] =
          topic_lo[t] == 0 || s->topic_lo[t] == 0 || topic_lo[t] < s->topic_lo[t] ? topic_lo[t] : s->topic_lo[t];
  s->checkpoint++;
  s->highest = highest;
  s->watermark = watermark;
  if (rm_chance(m, 30))
    flush(m);
  rm_trace(m, "checkpoint %lld by epoch %lld: highest %lld watermark %lld, %zu ranges", (long long)s->checkpoint,
           (long long)epoch, (long long)highest, (long long)watermark, s->hole_count);
  verify_stored(m);
  return true;
}

bool rm_record_failed(struct rm_model *m, int64_t epoch, unsigned char instance, int id) {
  struct rm_row *r = &m->rows[rm_row_of(id)];
  if (fenced(m, epoch, instance))
    return false;
  if (r->failed.state == RM_PUBLISHED || r->failed.state == RM_DISCARDED)
    return true;
  r->failed.state = RM_DEAD;
  if (r->key >= 0) {
    int64_t *lo = &m->stored.key_lo[r->topic][r->key];
    *lo = *lo == 0 || r->seq < *lo ? r->seq : *lo;
  }
  rm_trace(m, "recorded as failed: %lld", (long long)r->seq);
  return true;
}

void rm_settle(struct rm_model *m, int64_t epoch, unsigned char instance, int64_t number, const int64_t *published,
               size_t published_count, const int64_t key_lo[RM_TOPICS][RM_KEYS]) {
  struct rm_stored *s = &m->stored;
  if (fenced(m, epoch, instance) || (!m->accepts_anybody && s->checkpoint != number))
    return;
  for (size_t i = 0; i < published_count; i++) {
    int id = (int)(published[i] - 1);
    struct rm_row *row = &m->rows[rm_row_of(id)];
    rm_trace(m, "settled: %lld edition %u", (long long)row->seq, rm_edition_of(id));
    if (!row->appended)
      rm_fail(m, "%lld is settled and was never published", (long long)row->seq);
    if (row->failed.state == RM_RETRYING && row->failed.edition == rm_edition_of(id))
      row->failed.state = RM_PUBLISHED;
  }
  for (int t = 0; t < RM_TOPICS; t++)
    for (int k = 0; k < RM_KEYS; k++)
      if (key_lo[t][k] >= 0 && s->key_lo[t][k] != 0) {
        s->key_lo[t][k] = key_lo[t][k];
        bool begins_at_failed = key_lo[t][k] == 0;
        for (int i = 0; i < m->row_count; i++)
          begins_at_failed |= m->rows[i].seq == key_lo[t][k] && m->rows[i].failed.state != RM_FINE;
        if (!begins_at_failed)
          rm_fail(m, "a key is held from %lld on, which has not failed", (long long)key_lo[t][k]);
        rm_trace(m, "topic %d key %d is held from %lld on", t, k, (long long)key_lo[t][k]);
      }
}

bool rm_take_decisions(struct rm_model *m, int64_t epoch, unsigned char instance, bool keys[RM_TOPICS][RM_KEYS],
                       bool *loose) {
  memset(keys, 0, RM_TOPICS * sizeof keys[0]);
  *loose = false;
  if (fenced(m, epoch, instance))
    return false;
  for (int i = 0; i < m->row_count; i++) {
    struct rm_row *row = &m->rows[i];
    if (!row->failed.noted)
      continue;
    row->failed.noted = false;
    if (row->key >= 0)
      keys[row->topic][row->key] = true;
    else
      *loose = true;
  }
  return true;
}

/* Commits with everything before it on disk. What was refused may be taken now (a limit was raised), also what is
 * discarded: then it is the relay's part not to send it. */
void rm_person_step(struct rm_model *m) {
  if (m->decide_percent == 0 || m->row_count == 0 || !rm_chance(m, m->healing ? 60 : m->decide_percent))
    return;
  int first = (int)rm_random(m, (uint64_t)m->row_count);
  for (int n = 0; n < m->row_count; n++) {
    struct rm_row *row = &m->rows[(first + n) % m->row_count];
    if (row->failed.state != RM_DEAD)
      continue;
    if (m->healing || rm_chance(m, 60))
      row->bad = 0;
    row->failed.noted = true;
    switch (rm_random(m, 3)) {
    case 0:
      row->failed.state = RM_RETRYING;
      m->retried++;
      break;
    case 1:
      row->failed.state = RM_RETRYING;
      row->failed.edition++;
      m->edited++;
      break;
    default:
      row->failed.state = RM_DISCARDED;
      row->failed.noted = row->key >= 0;
      m->discarded++;
      break;
    }
    flush(m);
    rm_trace(m, "decided: %lld is %s, edition %u%s", (long long)row->seq,
             row->failed.state == RM_DISCARDED ? "discarded" : "sent again", row->failed.edition,
             row->bad != 0 ? ", still bad" : "");
    return;
  }
}

bool rm_all_settled(const struct rm_model *m) {
  for (int i = 0; i < m->row_count; i++) {
    enum rm_failed state = m->rows[i].failed.state;
    if (state == RM_RETRYING || (m->decide_percent > 0 && (state == RM_DEAD || m->rows[i].failed.noted)))
      return false;
  }
  for (int t = 0; t < RM_TOPICS; t++)
    for (int k = 0; k < RM_KEYS; k++)
      if (m->decide_percent > 0 && m->stored.key_lo[t][k] != 0)
        return false;
  return true;
}

/* ---- Kafka ------------------------------------------------------------------------------------------------------ */

/* O and P, looked at where a message appears for the first time. */
static void append(struct rm_model *m, int id) {
  struct rm_row *row = &m->rows[rm_row_of(id)];
  const struct rm_tx *tx = &m->txs[row->tx];
  if (row->undone || tx->state != RM_COMMITTED)
    rm_fail(m, "%lld is published and was not committed", (long long)row->seq);
  rm_trace(m, "appended %lld topic %u key %d%s", (long long)row->seq, row->topic, row->key,
           row->appended ? " (again)" : "");
  if (row->appended)
    return;
  row->appended = true;
  for (int i = 0; i < m->row_count && row->key >= 0; i++) {
    const struct rm_row *x = &m->rows[i];
    const struct rm_tx *xt = &m->txs[x->tx];
    if (x->topic != row->topic || x->key != row->key || x->undone || x->appended || xt->state != RM_COMMITTED ||
        xt->ended > row->drawn || x->failed.state == RM_DISCARDED)
      continue;
    rm_fail(m, "%lld is published before %lld, which was committed before it was written%s", (long long)row->seq,
            (long long)x->seq, x->failed.state != RM_FINE ? " and is a failed message: its key is held" : "");
  }
}

static bool is_bad(const struct rm_model *m, int id) {
  return (m->rows[rm_row_of(id)].bad >> rm_edition_of(id) & 1) != 0;
}

void rm_producer_open(struct rm_producer *p) {
  memset(p->first, 0, sizeof p->first);
  memset(p->count, 0, sizeof p->count);
  p->report_first = p->report_count = 0;
  memset(p->proven, 0, sizeof p->proven);
  memset(p->known, 0, sizeof p->known);
  memset(p->unread_no_topic, 0, sizeof p->unread_no_topic);
  p->open = true;
  p->fatal = false;
}

void rm_producer_close(struct rm_model *m, struct rm_producer *p) {
  p->open = false;
  for (int i = 0; i < RM_PARTITIONS; i++) {
    if (p->count[i] == 0 || m->ghost_count == RM_GHOSTS || !rm_chance(m, 40))
      continue;
    struct rm_ghost *ghost = &m->ghosts[m->ghost_count++];
    *ghost = (struct rm_ghost){.partition = i, .proven = p->proven[i / RM_PARTS]};
    while (ghost->count < 4 && ghost->count < p->count[i]) {
      int row = p->queue[i][p->first[i] + ghost->count].row;
      if (is_bad(m, row)) /* refused, and what follows has a gap before it */
        break;
      ghost->rows[ghost->count++] = row;
    }
  }
}

static void report(struct rm_model *m, struct rm_producer *p, uint64_t ticket, enum txb_report_outcome outcome,
                   int part) {
  if (p->report_first + p->report_count == RM_ROWS * 4) {
    memmove(p->reports, p->reports + p->report_first, p->report_count * sizeof *p->reports);
    p->report_first = 0;
  }
  if (p->report_count == RM_ROWS * 4) {
    rm_fail(m, "too many reports for the model");
    return;
  }
  p->reports[p->report_first + p->report_count++] = (struct rm_report){ticket, (int)outcome, part % RM_PARTS};
}

void rm_produce(struct rm_model *m, struct rm_producer *p, uint64_t ticket, int id, bool current) {
  const struct rm_row *row = &m->rows[rm_row_of(id)];
  int part = (int)row->topic * RM_PARTS + (row->key < 0 ? (int)rm_random(m, RM_PARTS) : row->key % RM_PARTS);
  if (current && row->failed.state == RM_DISCARDED)
    rm_fail(m, "%lld is sent, and was discarded", (long long)row->seq);
  if (current && row->failed.edition != rm_edition_of(id))
    rm_fail(m, "%lld is sent in edition %u, and was edited since", (long long)row->seq, rm_edition_of(id));
  if (p->fatal) {
    report(m, p, ticket, TXB_REPORT_LOST, part);
    return;
  }
  if (p->first[part] + p->count[part] == RM_ROWS * 2) {
    memmove(p->queue[part], p->queue[part] + p->first[part], p->count[part] * sizeof p->queue[part][0]);
    p->first[part] = 0;
  }
  if (p->count[part] == RM_ROWS * 2) {
    rm_fail(m, "too many messages for the model");
    return;
  }
  p->queue[part][p->first[part] + p->count[part]++] = (struct rm_message){ticket, id};
}

static struct rm_message pop(struct rm_producer *p, int part) {
  p->count[part]--;
  return p->queue[part][p->first[part]++];
}

static void break_producer(struct rm_model *m, struct rm_producer *p) {
  p->fatal = true;
  rm_trace(m, "producer is broken");
  for (int i = 0; i < RM_PARTITIONS; i++)
    while (p->count[i] > 0)
      report(m, p, pop(p, i).ticket, TXB_REPORT_LOST, i);
}

/* A batch was refused, and others of its partition were under way behind it. A broker that knows the producer there sees
 * a gap; one that has never seen it takes whatever comes first. */
static void follow_refused(struct rm_model *m, struct rm_producer *p, int part) {
  while (!p->known[part] && p->count[part] > 0 && rm_chance(m, 50)) {
    struct rm_message message = pop(p, part);
    if (is_bad(m, message.row)) {
      report(m, p, message.ticket, TXB_REPORT_REFUSED, part);
      continue;
    }
    append(m, message.row);
    report(m, p, message.ticket, TXB_REPORT_LOST, part);
    while (p->count[part] > 0 && rm_chance(m, 50) && !is_bad(m, p->queue[part][p->first[part]].row)) {
      message = pop(p, part);
      append(m, message.row);
      report(m, p, message.ticket, TXB_REPORT_LOST, part);
    }
    return;
  }
}

/* One request to one partition: appended as a whole, refused as a whole, or its topic is not there. */
static void deliver(struct rm_model *m, struct rm_producer *p, int part) {
  size_t n = 1 + rm_random(m, 4);
  bool bad = false;
  n = n < p->count[part] ? n : p->count[part];
  if (!m->topic_there[part / RM_PARTS]) {
    bool gap = rm_chance(m, 30); /* of one request only, as of a right that is missing: what follows is lost with it */
    for (size_t i = 0; p->count[part] > 0 && (!gap || i < n); i++) {
      report(m, p, pop(p, part).ticket, TXB_REPORT_NO_TOPIC, part);
      p->unread_no_topic[part / RM_PARTS] = true;
    }
    rm_trace(m, "topic %d is not there", part / RM_PARTS);
    if (gap)
      break_producer(m, p);
    return;
  }
  for (size_t i = 0; i < n; i++)
    bad |= is_bad(m, p->queue[part][p->first[part] + i].row);
  for (size_t i = 0; i < n; i++) {
    struct rm_message message = pop(p, part);
    if (!bad)
      append(m, message.row);
    else
      rm_trace(m, "refused with its batch: %lld", (long long)m->rows[rm_row_of(message.row)].seq);
    report(m, p, message.ticket, bad ? TXB_REPORT_REFUSED : TXB_REPORT_ACKED, part);
    p->proven[part / RM_PARTS] |= !bad;
  }
  if (bad) {
    follow_refused(m, p, part);
    break_producer(m, p); /* enable.gapless.guarantee */
  } else {
    p->known[part] = true;
  }
}

void rm_kafka_step(struct rm_model *m, struct rm_producer *p) {
  if (m->ghost_count > 0 && rm_chance(m, 30)) {
    size_t at = rm_random(m, m->ghost_count);
    struct rm_ghost *ghost = &m->ghosts[at];
    if (ghost->first == ghost->count || !m->topic_there[ghost->partition / RM_PARTS])
      *ghost = m->ghosts[--m->ghost_count];
    else
      append(m, ghost->rows[ghost->first++]);
    return;
  }
  if (p == NULL || !p->open || p->fatal)
    return;
  if (m->producer_trouble > 0 && !m->healing && rm_chance(m, m->producer_trouble) && rm_chance(m, 20)) {
    break_producer(m, p);
    return;
  }
  int part = (int)rm_random(m, RM_PARTITIONS);
  if (p->count[part] > 0)
    deliver(m, p, part);
}

/* ---- the end ---------------------------------------------------------------------------------------------------- */

void rm_verify_end(struct rm_model *m) {
  const struct rm_stored *s = &m->stored;
  for (int i = 0; i < m->row_count; i++) {
    const struct rm_row *row = &m->rows[i];
    if (may_count(m, row) && !row->appended && row->failed.state == RM_FINE && !is_held(s, row))
      rm_fail(m, "%lld was never published", (long long)row->seq);
    if (row->failed.state == RM_PUBLISHED && !row->appended)
      rm_fail(m, "%lld is resolved and was never published", (long long)row->seq);
  }
  if (s->hole_count > 0)
    rm_fail(m, "%lld is still a hole", (long long)s->holes[0].lo);
  if (s->highest != m->drawn || s->watermark != m->drawn)
    rm_fail(m, "highest is %lld, watermark %lld, drawn %lld", (long long)s->highest, (long long)s->watermark,
            (long long)m->drawn);
  for (int t = 0; t < RM_TOPICS; t++)
    if (s->topic_lo[t] != 0)
      rm_fail(m, "topic %d is still held", t);
  if (!rm_all_settled(m))
    rm_fail(m, "a failed message was decided about and is still open, or its key is held");
}

/* A topic comes and goes. One that is deleted and made anew while a producer that had used it has not yet heard of
 * the deletion, or while requests of such a producer that is gone are still on their way, can swap messages: that is a
 * window of the client, named in docs/failure-modes.md, and left out here. A topic that no message of this producer
 * ever reached has no such window. */
static bool may_come_back(const struct rm_model *m, struct rm_producer *const *producers, size_t count, size_t t) {
  for (size_t i = 0; i < m->ghost_count; i++)
    if (m->ghosts[i].proven && m->ghosts[i].partition / RM_PARTS == (int)t)
      return false;
  for (size_t i = 0; i < count; i++) {
    const struct rm_producer *p = producers[i];
    bool under_way = p->unread_no_topic[t];
    for (size_t part = 0; part < RM_PARTS; part++)
      under_way |= p->count[t * RM_PARTS + part] > 0;
    if (p->open && p->proven[t] && under_way)
      return false;
  }
  return true;
}

static void come_back(struct rm_model *m, struct rm_producer *const *producers, size_t count, size_t t) {
  if (m->topic_there[t] || !may_come_back(m, producers, count, t))
    return;
  m->topic_there[t] = true;
  rm_trace(m, "topic %zu is there now", t);
}

void rm_topic_step(struct rm_model *m, struct rm_producer *const *producers, size_t count) {
  size_t t = rm_random(m, RM_TOPICS);
  if (m->topic_there[t])
    m->topic_there[t] = !rm_chance(m, 30);
  else
    come_back(m, producers, count, t);
}

void rm_topics_heal(struct rm_model *m, struct rm_producer *const *producers, size_t count) {
  for (size_t t = 0; t < RM_TOPICS; t++)
    come_back(m, producers, count, t);
}
