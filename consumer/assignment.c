/* Between Kafka and the core: what is assigned, fetched, asked back, and what the core wants told.
 *
 * A crash here loses what was fetched, and nothing else: nothing is stored in Kafka that anything is read from.
 */
#include <stdio.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/memory.h"
#include "consumer/lane_page.h"
#include "consumer/worker_internal.h"

#define NOTICES_AT_ONCE   2000 /* then the database's answers are looked at again */
#define RECORD_OVERHEAD   800  /* bytes that librdkafka and we hold for a record beside key and value, roughly */
#define KAFKA_QUESTION_MS 2000

/* ---- places ---------------------------------------------------------------------------------- */

static int find_place(const txb_worker_t *w, const char *topic, int32_t partition) {
  for (size_t i = 0; i < w->places_count; i++)
    if (w->places[i].used && w->places[i].partition == partition && strcmp(w->places[i].topic, topic) == 0)
      return (int)i;
  return -1;
}

enum txb_rc txb_worker_add_place(txb_worker_t *w, const char *topic, int32_t partition, struct txb_lane *lane,
                                 int *slot_out, struct txb_error *err) {
  int slot = -1;
  char *name = NULL;
  TXB_TRY(txb_strdup(topic, &name, err));
  enum txb_rc rc = txb_worker_core_assign(&w->core, lane != NULL, txb_clock_steady_us(), &slot, err);
  if (rc == TXB_OK && (size_t)slot >= w->places_count) {
    void *grown = w->places;
    size_t count = (size_t)slot + 16;
    rc = txb_realloc_array(&grown, count, sizeof *w->places, err);
    w->places = grown;
    if (rc == TXB_OK) {
      memset(w->places + w->places_count, 0, (count - w->places_count) * sizeof *w->places);
      w->places_count = count;
    }
  }
  if (rc != TXB_OK) {
    txb_free(name);
    return rc;
  }
  w->places[slot] = (struct txb_worker_place){
      .used = true, .topic = name, .partition = partition, .serial = ++w->serials, .lane = lane};
  *slot_out = slot;
  return TXB_OK;
}

void txb_worker_remove_place(struct txb_worker_place *place) {
  txb_worker_keys_forget(place);
  txb_lane_free(place->lane);
  txb_free(place->topic);
  *place = (struct txb_worker_place){.used = false};
}

void txb_worker_places_fini(txb_worker_t *w) {
  for (size_t i = 0; i < w->places_count; i++)
    if (w->places[i].used)
      txb_worker_remove_place(&w->places[i]);
  txb_free(w->places);
  w->places = NULL;
  w->places_count = 0;
}

void txb_worker_drop_message(void *context, void *ref) {
  struct txb_worker_message *m = ref;
  (void)context;
  if (m->kafka == NULL) {
    txb_lane_message_release(m);
    return;
  }
  txb_kafka_consumer_release(m->kafka);
  txb_free(m);
}

/* ---- notices --------------------------------------------------------------------------------- */

/* The texts are static, so the pointer tells. */
void txb_worker_tell_problem(struct txb_worker_place *place, const struct txb_worker_message *m) {
  if (m->event.problem == NULL || m->event.problem == place->told_problem)
    return;
  txb_log(TXB_LOG_WARN, TXB_MSG("malformed CloudEvent, taken as a foreign message: its producer should be corrected"),
          TXB_F("topic", place->topic), TXB_FI("partition", place->partition), TXB_FI("offset", m->record.offset),
          TXB_F("problem", m->event.problem));
  place->told_problem = m->event.problem;
}

static enum txb_rc on_record(txb_worker_t *w, struct txb_kafka_notice *n, struct txb_error *err) {
  struct txb_worker_message *m = NULL;
  if (!w->places[n->place].used) { /* left, and not yet given back */
    txb_kafka_consumer_release(n->ref);
    return TXB_OK;
  }
  enum txb_rc rc = txb_worker_message_new(n->ref, &n->record, &m, err);
  if (rc != TXB_OK) {
    txb_kafka_consumer_release(n->ref);
    return rc;
  }
  struct txb_worker_record r = {.offset = n->offset,
                                .timestamp_ms = n->record.timestamp_ms,
                                .id = m->event.id,
                                .size = (int64_t)(n->record.key.size + n->record.value.size) + RECORD_OVERHEAD,
                                .ref = m};
  txb_worker_tell_problem(&w->places[n->place], m);
  rc = txb_worker_core_record(&w->core, n->place, &r, txb_clock_steady_us(), err);
  if (rc != TXB_OK)
    txb_worker_drop_message(NULL, m);
  return rc;
}

static enum txb_rc on_assigned(txb_worker_t *w, const struct txb_kafka_notice *n, struct txb_error *err) {
  for (size_t i = 0; i < n->count && !w->stopping; i++) {
    const char *topic;
    int32_t partition;
    txb_kafka_consumer_partition(w->kafka, i, &topic, &partition);
    int slot;
    TXB_TRY(txb_worker_add_place(w, topic, partition, NULL, &slot, err));
  }
  txb_log(TXB_LOG_INFO, TXB_MSG("partitions assigned"), TXB_F("group", w->settings->group), TXB_FI("count", n->count),
          TXB_FI("held", w->core.used));
  txb_failpoint("worker.after_assign");
  return TXB_OK;
}

enum txb_rc txb_worker_only_fatal(enum txb_rc rc, const struct txb_error *error) {
  if (rc == TXB_OK)
    return TXB_OK;
  txb_log(TXB_LOG_WARN, TXB_MSG("Kafka client"), TXB_F("error", error->message));
  return rc == TXB_FATAL && error->kafka_code == 0 ? rc : TXB_OK;
}

static bool is_giving_back(const txb_worker_t *w) {
  for (size_t i = 0; i < w->places_count; i++)
    if (w->places[i].used && w->places[i].giving_back)
      return true;
  return false;
}

/* The group's answer is due once the last of them is done with: running batches end first, so that the successor finds
 * them clean. */
static enum txb_rc answer_group(txb_worker_t *w, struct txb_error *err) {
  if (!w->giving_back || is_giving_back(w))
    return TXB_OK;
  w->giving_back = false;
  return txb_worker_only_fatal(txb_kafka_consumer_give_back(w->kafka, err), err);
}

static enum txb_rc on_revoked(txb_worker_t *w, const struct txb_kafka_notice *n, struct txb_error *err) {
  bool lost = n->kind == TXB_KAFKA_LOST;
  txb_log(lost ? TXB_LOG_WARN : TXB_LOG_INFO,
          TXB_MSG(lost ? "no longer counted by the group: others may have its partitions" : "partitions asked back"),
          TXB_F("group", w->settings->group), TXB_FI("count", n->count));
  txb_failpoint("worker.on_revoke");
  w->giving_back = true;
  w->give_back_due_us = txb_clock_steady_us() + (int64_t)w->settings->session_timeout_ms * 1000 / 3;
  for (size_t i = 0; i < n->count; i++) {
    const char *topic;
    int32_t partition;
    txb_kafka_consumer_partition(w->kafka, i, &topic, &partition);
    int slot = find_place(w, topic, partition);
    if (slot < 0)
      continue;
    w->places[slot].giving_back = true;
    struct txb_worker_event e = txb_worker_event_now(lost ? TXB_WE_LOST : TXB_WE_REVOKED, slot);
    txb_worker_step(w, &e);
  }
  return answer_group(w, err);
}

/* What was to be fetched is not there: deleted, or never was. Which of both, Kafka's first and last offset tell. */
static void on_range(txb_worker_t *w, const struct txb_kafka_notice *n) {
  struct txb_worker_place *place = &w->places[n->place];
  struct txb_error error;
  if (!place->used)
    return;
  struct txb_worker_event e = txb_worker_event_now(TXB_WE_RANGE, n->place);
  if (txb_kafka_consumer_range(w->kafka, n->topic, n->partition, KAFKA_QUESTION_MS, &e.low, &e.high, &error) !=
      TXB_OK) {
    txb_log(TXB_LOG_WARN, TXB_MSG("position out of range, asking again"), TXB_F("topic", n->topic),
            TXB_FI("partition", n->partition), TXB_F("error", error.message));
    e.low = e.high = -1;
  }
  txb_worker_step(w, &e);
}

/* A commit's token: which assignment of which slot, and whether it was the group that was asked (W4) or only the copy
 * for the lag tools. */
static uint64_t token_of(const txb_worker_t *w, int slot, bool confirm) {
  return (uint64_t)w->places[slot].serial << 32 | (uint64_t)(uint32_t)slot << 1 | (confirm ? 1 : 0);
}

static void on_committed(txb_worker_t *w, const struct txb_kafka_notice *n) {
  size_t slot = (size_t)((uint32_t)n->token >> 1);
  if ((n->token & 1) == 0) {
    if (n->rc != TXB_OK)
      txb_log(TXB_LOG_DEBUG, TXB_MSG("offset not copied to Kafka"), TXB_F("error", n->err.message));
    else
      txb_failpoint("worker.after_kafka_commit");
    return;
  }
  if (slot >= w->places_count || !w->places[slot].used || w->places[slot].serial != (uint32_t)(n->token >> 32))
    return;
  if (n->rc != TXB_OK)
    txb_log(TXB_LOG_INFO, TXB_MSG("the group did not confirm the partition, asking again"),
            TXB_F("group", w->settings->group), TXB_F("topic", w->places[slot].topic),
            TXB_FI("partition", w->places[slot].partition), TXB_F("error", n->err.message));
  struct txb_worker_event e = txb_worker_event_now(TXB_WE_CONFIRMED, (int)slot);
  e.found = n->rc == TXB_OK;
  txb_worker_step(w, &e);
}

static enum txb_rc on_down(txb_worker_t *w, const struct txb_kafka_notice *n, struct txb_error *err) {
  if (n->rc == TXB_FATAL) {
    *err = n->err;
    return TXB_FATAL;
  }
  txb_log(TXB_LOG_WARN, TXB_MSG("trouble with Kafka, librdkafka goes on trying"), TXB_F("group", w->settings->group),
          TXB_F("error", n->err.message));
  return TXB_OK;
}

static enum txb_rc on_notice(txb_worker_t *w, struct txb_kafka_notice *n, struct txb_error *err) {
  struct txb_worker_event e;
  switch (n->kind) {
  case TXB_KAFKA_RECORD:
    return on_record(w, n, err);
  case TXB_KAFKA_ASSIGNED:
    return on_assigned(w, n, err);
  case TXB_KAFKA_REVOKED:
  case TXB_KAFKA_LOST:
    return on_revoked(w, n, err);
  case TXB_KAFKA_END:
    e = txb_worker_event_now(TXB_WE_END, n->place);
    e.offset = n->offset;
    if (w->places[n->place].used)
      txb_worker_step(w, &e);
    return TXB_OK;
  case TXB_KAFKA_RANGE:
    on_range(w, n);
    return TXB_OK;
  case TXB_KAFKA_COMMITTED:
    on_committed(w, n);
    return TXB_OK;
  case TXB_KAFKA_LEFT:
    w->left = true;
    return TXB_OK;
  case TXB_KAFKA_DOWN:
    return on_down(w, n, err);
  case TXB_KAFKA_UP:
    txb_log(TXB_LOG_INFO, TXB_MSG("Kafka is back"), TXB_F("group", w->settings->group));
    return TXB_OK;
  }
  return TXB_OK;
}

enum txb_rc txb_worker_take_notices(txb_worker_t *w, bool *more_out, struct txb_error *err) {
  *more_out = w->kafka != NULL;
  for (int i = 0; w->kafka != NULL && i < NOTICES_AT_ONCE; i++) {
    struct txb_kafka_notice notice;
    enum txb_rc rc = txb_kafka_consumer_next(w->kafka, &notice, err);
    if (rc == TXB_AGAIN) {
      *more_out = false;
      return TXB_OK;
    }
    TXB_TRY(rc);
    TXB_TRY(on_notice(w, &notice, err));
  }
  return TXB_OK;
}

/* ---- what the core wants told ---------------------------------------------------------------- */

static void commit_failed(txb_worker_t *w, int slot, const struct txb_error *error) {
  txb_log(TXB_LOG_INFO, TXB_MSG("the group can't be asked now, asking again"), TXB_F("topic", w->places[slot].topic),
          TXB_FI("partition", w->places[slot].partition), TXB_F("error", error->message));
  struct txb_worker_event e = txb_worker_event_now(TXB_WE_CONFIRMED, slot);
  txb_worker_step(w, &e);
}

static enum txb_rc leave(txb_worker_t *w, int slot, struct txb_error *err) {
  struct txb_worker_place *place = &w->places[slot];
  txb_log(TXB_LOG_INFO, TXB_MSG("partition given back"), TXB_F("group", w->settings->group),
          TXB_F("topic", place->topic), TXB_FI("partition", place->partition));
  if (!place->giving_back)
    TXB_TRY(txb_worker_only_fatal(txb_kafka_consumer_unfetch(w->kafka, place->topic, place->partition, err), err));
  txb_worker_remove_place(place);
  return answer_group(w, err);
}

enum txb_rc txb_worker_tell_kafka(txb_worker_t *w, const struct txb_worker_action *a, struct txb_error *err) {
  struct txb_worker_place *place = &w->places[a->slot];
  if (place->lane != NULL)
    return txb_lanes_tell(w, a, err);
  switch ((int)a->kind) {
  case TXB_WA_CONFIRM:
    if (txb_kafka_consumer_commit(w->kafka, place->topic, place->partition, a->offset, token_of(w, a->slot, true),
                                  err) != TXB_OK)
      commit_failed(w, a->slot, err);
    return TXB_OK;
  case TXB_WA_COPY:
    return txb_worker_only_fatal(txb_kafka_consumer_commit(w->kafka, place->topic, place->partition, a->offset,
                                                           token_of(w, a->slot, false), err),
                                 err);
  case TXB_WA_FETCH:
    if (w->prepared >= 0 && w->batches[w->prepared].slot == a->slot)
      w->prepared = -1; /* made of records that are fetched again, and may be others now */
    return txb_worker_only_fatal(
        txb_kafka_consumer_fetch(w->kafka, place->topic, place->partition, a->offset, a->slot, err), err);
  case TXB_WA_UNFETCH:
    return txb_worker_only_fatal(txb_kafka_consumer_unfetch(w->kafka, place->topic, place->partition, err), err);
  case TXB_WA_PAUSE:
    return txb_worker_only_fatal(txb_kafka_consumer_pause(w->kafka, place->topic, place->partition, err), err);
  case TXB_WA_RESUME:
    return txb_worker_only_fatal(txb_kafka_consumer_resume(w->kafka, place->topic, place->partition, a->offset, err),
                                 err);
  case TXB_WA_LEAVE:
    return leave(w, a->slot, err);
  default: /* TXB_WA_TELL: the database could not be told */
    txb_log(TXB_LOG_ERROR, TXB_MSG("partition stopped: a person must decide"), TXB_F("group", w->settings->group),
            TXB_F("topic", place->topic), TXB_FI("partition", place->partition), TXB_F("error", place->error.message));
    return TXB_OK;
  }
}
