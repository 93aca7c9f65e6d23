/* Chance, history, Kafka's logs and the server as a whole. See worker_model.h. */
#include "worker_model.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/random.h"

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
  m->replays = seed % REPLAY_EVERY == 0;
  m->seq = 1;
  for (int p = 0; p < PLACES; p++)
    model_init_place(m, p);
  for (int i = 0; i < MESSAGES_MAX; i++)
    m->inbox_lock[i] = -1;
}

void model_init_place(struct model *m, int place) {
  m->rows[place] =
      (struct row){.last_id = -1, .suspect_offset = -1, .stalled_offset = -1, .taken_offset = -1, .instance = -1};
  m->row_lock[place] = -1;
}

static void append(struct model *m, int p, int id) {
  struct log *l = &m->logs[p];
  l->records[l->count++] = (struct log_record){.offset = l->end, .id = id};
  l->end += chance(m, 10) ? 2 : 1; /* the end of a Kafka transaction, or compaction */
}

void model_draw_nature(struct model *m, struct subject *s, bool poisons) {
  if (m->poisoned && poisons) {
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
  if (l->count >= RECORDS_MAX || m->ids >= MESSAGES_MAX || m->outbox_count >= IDS_MAX)
    return;
  struct subject *s = &m->subjects[m->ids];
  int key = (int)roll(m, KEYS_EACH + 1) - 1;
  *s = (struct subject){.partition = p,
                        .order = l->end,
                        .key = key < 0 ? -1 : keys_from(p) + key,
                        .of = m->ids,
                        .lane = -1,
                        .applied_by = -1};
  model_draw_nature(m, s, l->count == 3);
  m->outbox[m->outbox_count++] = (struct intent){.seq = m->seq, .id = m->ids};
  m->seq += m->ids % 7 == 0 ? 3 : 1; /* another topic's, or holes */
  append(m, p, m->ids++);
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
