/* Positions, epochs, markers and stalls: the small fenced transactions around the batches. Each is one statement in a
 * transaction of its own. */
#include <stdio.h>

#include "common/fault.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/random.h"
#include "consumer/worker_internal.h"
#include "consumer_sql.h"

#define TAKE_PATIENCE     "500" /* ms: the loop goes on meanwhile, but no batch runs */
#define KAFKA_QUESTION_MS 2000  /* librdkafka has no such question without waiting; asked once in a group's life */

static const struct txb_pg_statement lookup = {"txb_worker_lookup", txb_text_worker_lookup},
                                     start = {"txb_worker_register", txb_text_worker_register},
                                     patience = {"txb_worker_take_patience", txb_text_worker_take_patience},
                                     take = {"txb_worker_take", txb_text_worker_take},
                                     evict = {"txb_worker_evict", txb_text_worker_evict},
                                     release = {"txb_worker_release", txb_text_worker_release},
                                     pass = {"txb_worker_pass", txb_text_worker_pass},
                                     mark = {"txb_worker_mark", txb_text_worker_mark},
                                     stall = {"txb_worker_stall", txb_text_worker_stall},
                                     keys = {"txb_worker_keys", txb_text_worker_keys};

static const char *const stop_texts[] = {
    [TXB_STOP_NONE] = "",
    [TXB_STOP_DIFFERENT] =
        "the record below the position is not the one that was applied last: the topic was made anew or truncated",
    [TXB_STOP_DELETED] = "Kafka has deleted records that were not applied yet (retention)",
    [TXB_STOP_BEYOND] = "the topic ends before the position: it was made anew or truncated",
    [TXB_STOP_REFUSED] = "the database refuses to hand the partition over",
};

static const char *const lane_stop_texts[] = {
    [TXB_STOP_NONE] = "",
    [TXB_STOP_DIFFERENT] = "", /* Kafka's alone */
    [TXB_STOP_DELETED] = "the source's outbox has dropped intents of the replay that were not applied yet (retention)",
    [TXB_STOP_BEYOND] = "the source's outbox is not the one that was read so far: it was restored or made anew",
    [TXB_STOP_REFUSED] = "the database refuses to hand the lane over",
};

static const char *const topic_lane_stop_texts[] = {
    [TXB_STOP_NONE] = "",
    [TXB_STOP_DIFFERENT] = "", /* the live partitions' alone: a lane's reader tells it as a range */
    [TXB_STOP_DELETED] = "Kafka has deleted records of the replay that were not applied yet (retention)",
    [TXB_STOP_BEYOND] = "the topic is not the one that was read so far: it was made anew or truncated",
    [TXB_STOP_REFUSED] = "the database refuses to hand the lane over",
};

static const char *stop_text(const struct txb_worker_place *place, enum txb_stop stop) {
  if (place->lane == NULL)
    return stop_texts[stop];
  return place->lane->of_topic ? topic_lane_stop_texts[stop] : lane_stop_texts[stop];
}

#define DECIDE                                                                                                         \
  "decide where to go on: SELECT txb.offset_set(group, topic, partition, next_offset, cluster_id, reason) as "         \
  "txb_admin"
#define DECIDE_LANE "decide: cancel the job (txbroker replay cancel), and start another over what is there"

/* ---- where a new group begins ---------------------------------------------------------------- */

/* The start rule for all partitions of the topic at once: who comes later finds positions, and partitions added later
 * are told from those of a new group (W13). `only` >= 0: this one, from its beginning. */
static enum txb_rc start_offsets(txb_worker_t *w, const struct txb_worker_place *place, int only,
                                 struct txb_error *err) {
  const char *topic = place->topic;
  int count = 0;
  TXB_CLEANUP(txb_free_ptr) int64_t *offsets = NULL;
  void *memory = NULL;
  TXB_TRY(txb_kafka_consumer_partitions(w->kafka, topic, KAFKA_QUESTION_MS, &count, err));
  TXB_TRY(txb_alloc_array((size_t)(count > 0 ? count : 1), sizeof *offsets, &memory, err));
  offsets = memory;
  for (int p = 0; p < count; p++) {
    int64_t low = 0, high = 0;
    if (only >= 0 && p != only)
      continue;
    TXB_TRY(txb_kafka_consumer_range(w->kafka, topic, p, KAFKA_QUESTION_MS, &low, &high, err));
    offsets[p] = w->settings->start == TXB_START_LATEST && only < 0 ? high : low;
  }
  txb_pg_params_clear(&w->params);
  txb_pg_add_text(&w->params, txb_slice_text(w->settings->group));
  txb_pg_add_text(&w->params, txb_slice_text(topic));
  txb_pg_array_begin(&w->params, TXB_OID_INT4);
  for (int p = 0; p < count; p++)
    if (only < 0 || p == only)
      txb_pg_array_int4(&w->params, p);
  txb_pg_array_end(&w->params);
  txb_pg_array_begin(&w->params, TXB_OID_INT8);
  for (int p = 0; p < count; p++)
    if (only < 0 || p == only)
      txb_pg_array_int8(&w->params, offsets[p]);
  txb_pg_array_end(&w->params);
  txb_pg_add_text(&w->params, txb_slice_text(txb_kafka_consumer_cluster_id(w->kafka)));
  return TXB_OK;
}

/* The first phase asks once more who else stands in the topic; the second registers. */
static enum txb_rc register_start(txb_worker_t *w, int64_t known, struct txb_error *err) {
  const struct txb_worker_action *a = &w->operation.action;
  struct txb_worker_place *place = &w->places[a->slot];
  struct txb_error error = {.rc = TXB_OK};
  if (known == 0 && w->settings->start == TXB_START_ERROR)
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE,
                         "group %s has no position in topic %s, and its setting start is \"error\": set it to "
                         "\"earliest\" or \"latest\" for the first run",
                         w->settings->group, place->topic);
  if (known > 0)
    txb_log(TXB_LOG_WARN,
            TXB_MSG("partitions were added to the topic: keys that moved to another partition lose their order across "
                    "the change"),
            TXB_F("group", w->settings->group), TXB_F("topic", place->topic), TXB_FI("partition", place->partition),
            TXB_FI("known", known));
  enum txb_rc rc = start_offsets(w, place, known > 0 ? place->partition : -1, &error);
  if (rc != TXB_OK) {
    txb_log(TXB_LOG_WARN, TXB_MSG("no start position yet, asking Kafka again"), TXB_F("topic", place->topic),
            TXB_FI("partition", place->partition), TXB_F("error", error.message));
    struct txb_worker_event e = txb_worker_event_now(TXB_WE_STARTED, a->slot);
    txb_worker_step(w, &e);
    return TXB_OK;
  }
  txb_worker_next_phase(w, 1);
  TXB_TRY(txb_worker_send(w, &start, &w->params, err));
  return txb_worker_sync(w, err);
}

/* ---- sending --------------------------------------------------------------------------------- */

static const char *const failure_outcomes[] = {[TXB_FAILURE_ERROR] = "error",
                                               [TXB_FAILURE_CONFLICT] = "error",
                                               [TXB_FAILURE_WAIT] = "error",
                                               [TXB_FAILURE_LIMIT] = "held_limit",
                                               [TXB_FAILURE_CRASH] = "crash"};

/* Writes down what stands still and why; the log gets the same line. */
static void stall_params(txb_worker_t *w) {
  const struct txb_worker_action *a = &w->operation.action;
  const struct txb_worker_place *place = &w->places[a->slot];
  const char *outcome = failure_outcomes[a->failure], *text = place->error.message, *sqlstate = place->error.sqlstate;
  char stop[800];
  if (a->stop != TXB_STOP_NONE) {
    bool lane = place->partition < 0;
    snprintf(stop, sizeof stop, "%s; %s",
             a->stop == TXB_STOP_REFUSED ? place->error.message : stop_text(place, a->stop),
             lane ? DECIDE_LANE : DECIDE);
    outcome = "stopped";
    text = stop;
    sqlstate = "";
  }
  txb_log(a->stop != TXB_STOP_NONE ? TXB_LOG_ERROR : TXB_LOG_WARN,
          TXB_MSG(a->stop != TXB_STOP_NONE          ? "partition stopped: a person must decide"
                  : a->failure == TXB_FAILURE_LIMIT ? "partition waits: no more messages may be held behind failed ones"
                                                    : "message not applied: its partition waits and it is tried again"),
          TXB_F("group", w->settings->group), TXB_F("topic", place->topic), TXB_FI("partition", place->partition),
          TXB_FI("offset", a->offset), TXB_FI("attempts", a->attempts), TXB_FI("again_ms", a->delay_ms),
          TXB_F("outcome", outcome), TXB_F("sqlstate", sqlstate[0] != '\0' ? sqlstate : NULL), TXB_F("error", text));
  txb_pg_add_int8(&w->params, a->epoch);
  txb_pg_add_int8(&w->params, a->offset);
  txb_pg_add_int4(&w->params, a->attempts);
  if (a->delay_ms < 0)
    txb_pg_add_null(&w->params, TXB_OID_INT8);
  else
    txb_pg_add_int8(&w->params, a->delay_ms);
  txb_pg_add_text(&w->params, txb_slice_text(outcome));
  txb_pg_add_text(&w->params, txb_worker_safe_text(txb_slice_text(text), &w->text));
  txb_pg_add_text(&w->params, txb_slice_text(sqlstate[0] != '\0' ? sqlstate : NULL));
  txb_pg_add_bool(&w->params, a->keep_suspect);
}

static enum txb_rc send_take(txb_worker_t *w, struct txb_error *err) {
  txb_pg_params_clear(&w->params);
  txb_pg_add_text(&w->params, txb_slice_text(TAKE_PATIENCE));
  TXB_TRY(txb_worker_send(w, &patience, &w->params, err));
  bool lane = w->places[w->operation.action.slot].partition < 0; /* its position is in no Kafka cluster */
  txb_worker_params_place(w, &w->operation.action);
  txb_pg_add_text(&w->params, txb_slice_text(w->settings->owner));
  txb_pg_add_uuid(&w->params, &w->instance);
  txb_pg_add_text(&w->params, txb_slice_text(lane ? NULL : txb_kafka_consumer_cluster_id(w->kafka)));
  return txb_worker_send(w, &take, &w->params, err);
}

enum txb_rc txb_worker_position_begin(txb_worker_t *w, struct txb_error *err) {
  const struct txb_worker_action *a = &w->operation.action;
  const struct txb_pg_statement *statement = NULL;
  txb_worker_params_place(w, a);
  switch ((int)a->kind) {
  case TXB_WA_LOOKUP:
  case TXB_WA_START:
    statement = &lookup;
    break;
  case TXB_WA_TAKE:
    TXB_TRY(send_take(w, err));
    return txb_worker_sync(w, err);
  case TXB_WA_EVICT:
    statement = &evict;
    break;
  case TXB_WA_RELEASE:
    statement = &release;
    txb_pg_add_int8(&w->params, a->epoch);
    break;
  case TXB_WA_PASS: /* a crash before or after it: the offsets passed over hold nothing */
    statement = &pass;
    txb_pg_add_int8(&w->params, a->epoch);
    txb_pg_add_int8(&w->params, a->expected_next);
    txb_pg_add_int8(&w->params, a->new_next);
    break;
  case TXB_WA_KEYS:
    statement = &keys;
    txb_pg_add_int4(&w->params, INT32_MAX);
    break;
  case TXB_WA_MARK:
    statement = &mark;
    txb_pg_add_int8(&w->params, a->epoch);
    txb_pg_add_int8(&w->params, a->offset);
    txb_pg_add_int4(&w->params, a->count);
    break;
  default: /* TXB_WA_STALL. A crash before it leaves the attempt uncounted: the message is tried again at once. After
              it, it waits for its time */
    statement = &stall;
    stall_params(w);
    txb_failpoint("worker.before_stall_record");
  }
  TXB_TRY(txb_worker_send(w, statement, &w->params, err));
  return txb_worker_sync(w, err);
}

/* ---- answers --------------------------------------------------------------------------------- */

static int64_t int8_or(const struct txb_pg_result *r, int column, int64_t otherwise) {
  return txb_pg_is_null(r, 0, column) ? otherwise : txb_pg_int8(r, 0, column);
}

static void on_taken(txb_worker_t *w, const struct txb_pg_result *r) {
  const struct txb_worker_action *a = &w->operation.action;
  const struct txb_worker_place *place = &w->places[a->slot];
  if (txb_pg_rows(r) == 0) {
    struct txb_worker_event missing = txb_worker_event_now(TXB_WE_MISSING, a->slot);
    txb_worker_step(w, &missing);
    return;
  }
  struct txb_worker_event e = txb_worker_event_now(TXB_WE_TAKEN, a->slot);
  struct txb_position *p = &e.position;
  p->epoch = txb_pg_int8(r, 0, 0);
  p->next_offset = txb_pg_int8(r, 0, 1);
  p->has_last = !txb_pg_is_null(r, 0, 2) && !txb_pg_is_null(r, 0, 3) && !txb_pg_is_null(r, 0, 12);
  if (p->has_last) {
    p->last_offset = txb_pg_int8(r, 0, 12);
    txb_pg_uuid(r, 0, 2, &p->last_id);
    p->last_timestamp_ms = txb_pg_int8(r, 0, 3);
  }
  p->suspect = txb_pg_bool(r, 0, 4);
  p->suspect_offset = int8_or(r, 5, -1);
  p->suspect_count = txb_pg_int4(r, 0, 6);
  p->suspect_deaths = txb_pg_int4(r, 0, 7);
  p->suspect_died = txb_pg_bool(r, 0, 8);
  p->stalled_offset = int8_or(r, 9, -1);
  p->attempts = txb_pg_int4(r, 0, 10);
  p->due_ms = int8_or(r, 11, 0);
  p->keys_version = txb_pg_int8(r, 0, 13);
  p->suspect_failed_count = txb_pg_int4(r, 0, 14);
  p->suspect_failed_number = int8_or(r, 15, 0);
  txb_log(TXB_LOG_INFO,
          TXB_MSG(p->suspect ? "partition taken; its last owner died: going carefully" : "partition taken"),
          TXB_F("group", w->settings->group), TXB_F("topic", place->topic), TXB_FI("partition", place->partition),
          TXB_FI("offset", p->next_offset), TXB_FI("epoch", p->epoch));
  txb_worker_step(w, &e);
  txb_failpoint("worker.after_take");
}

/* A refusal that concerns the whole process, not one partition. */
static bool ends_the_process(const struct txb_error *error) {
  return error->rc == TXB_REFUSED && strncmp(error->sqlstate, "42", 2) == 0;
}

enum txb_rc txb_worker_position_failed(txb_worker_t *w, struct txb_error *err) {
  const struct txb_worker_action *a = &w->operation.action;
  const struct txb_error *error = &w->operation.error;
  struct txb_worker_event e = txb_worker_event_now(TXB_WE_FAILED, a->slot);
  if (ends_the_process(error)) {
    *err = *error;
    return error->rc;
  }
  w->places[a->slot].error = *error;
  if (error->origin == TXB_ORIGIN_POSTGRES && error->rc == TXB_RETRY) { /* shutting down, read-only, out of something: a
                                                                           new connection, later, which is told there */
    *err = *error;
    return error->rc;
  }
  if (error->rc == TXB_FENCED)
    e.kind = TXB_WE_FENCED;
  else if (a->kind == TXB_WA_TAKE && strcmp(error->sqlstate, "55P03") == 0)
    e.kind = TXB_WE_LOCKED;
  else if (error->rc == TXB_REFUSED && error->origin == TXB_ORIGIN_SAFETY)
    e.kind = TXB_WE_REFUSED;
  else
    txb_log(TXB_LOG_WARN, TXB_MSG("statement failed, trying again"), TXB_F("topic", w->places[a->slot].topic),
            TXB_FI("partition", w->places[a->slot].partition), TXB_F("sqlstate", error->sqlstate),
            TXB_F("error", error->message));
  txb_worker_step(w, &e);
  return TXB_OK;
}

static void on_evicted(txb_worker_t *w, const struct txb_pg_result *r) {
  const struct txb_worker_place *place = &w->places[w->operation.action.slot];
  bool ended = txb_pg_rows(r) == 1 && !txb_pg_is_null(r, 0, 0);
  txb_log(TXB_LOG_WARN,
          TXB_MSG(ended ? "ended the database session of a stopped owner"
                        : "waiting for the lock of an owner whose session can't be found"),
          TXB_F("topic", place->topic), TXB_FI("partition", place->partition),
          TXB_FI("pid", ended ? txb_pg_int4(r, 0, 0) : 0));
}

enum txb_rc txb_worker_position_end(txb_worker_t *w, struct txb_error *err) {
  static const enum txb_worker_event_kind plain_answers[] = {[TXB_WA_EVICT] = TXB_WE_EVICTED,
                                                             [TXB_WA_MARK] = TXB_WE_MARKED,
                                                             [TXB_WA_STALL] = TXB_WE_STALLED,
                                                             [TXB_WA_PASS] = TXB_WE_PASSED,
                                                             [TXB_WA_RELEASE] = TXB_WE_RELEASED};
  const struct txb_worker_operation *o = &w->operation;
  const struct txb_worker_action *a = &o->action;
  if (o->failed)
    return txb_worker_position_failed(w, err);
  const struct txb_pg_result *r = o->results[o->answers - 1];
  if (a->kind == TXB_WA_TAKE) {
    on_taken(w, r);
    return TXB_OK;
  }
  if (a->kind == TXB_WA_KEYS)
    return txb_worker_keys_end(w, err);
  if (a->kind == TXB_WA_START && o->phase == 0 && txb_pg_is_null(r, 0, 0))
    return register_start(w, txb_pg_int8(r, 0, 1), err);
  struct txb_worker_event e = txb_worker_event_now(TXB_WE_STARTED, a->slot);
  if (a->kind == TXB_WA_LOOKUP) {
    e.kind = TXB_WE_LOOKED_UP;
    e.found = !txb_pg_is_null(r, 0, 0);
    e.offset = e.found ? txb_pg_int8(r, 0, 0) : 0;
    e.keys_version = e.found ? txb_pg_int8(r, 0, 2) : 0;
  } else if (a->kind == TXB_WA_START) {
    e.found = true;
  } else {
    e.kind = plain_answers[a->kind];
  }
  if (a->kind == TXB_WA_EVICT)
    on_evicted(w, r);
  txb_worker_step(w, &e);
  if (a->kind == TXB_WA_STALL)
    txb_failpoint("worker.after_stall_record");
  return TXB_OK;
}
