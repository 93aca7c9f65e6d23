/* The position and everything else that a relay writes into the source's database. Every write compares epoch and
 * instance there: one that lost its lease changes nothing. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/memory.h"
#include "outbox/relay_internal.h"
#include "outbox_sql.h"

#define RELATION_BYTES_FINE   ((int64_t)2 << 20)
#define CHECKPOINT_MOST_MS    5000
#define STATUS_EVERY_US       1000000
#define STATUS_AT_LEAST_US    30000000
#define HOLE_WORTH_TELLING_US 1000000
#define RELEASE_WAIT_US       2000000

static const struct txb_pg_statement acquire_statement = {"relay_acquire", txb_text_relay_acquire};
static const struct txb_pg_statement load_holes_statement = {"relay_load_holes", txb_text_relay_load_holes};
static const struct txb_pg_statement load_recorded_statement = {"relay_load_recorded", txb_text_relay_load_recorded};
static const struct txb_pg_statement load_holds_statement = {"relay_load_holds", txb_text_relay_load_holds};
static const struct txb_pg_statement checkpoint_statement = {"relay_checkpoint", txb_text_relay_checkpoint};
static const struct txb_pg_statement renew_statement = {"relay_renew", txb_text_relay_renew};
static const struct txb_pg_statement hold_set_statement = {"relay_hold_set", txb_text_relay_hold_set};
static const struct txb_pg_statement hold_release_statement = {"relay_hold_release", txb_text_relay_hold_release};
static const struct txb_pg_statement record_statement = {"relay_record_failed", txb_text_relay_record_failed};
static const struct txb_pg_statement release_statement = {"relay_release", txb_text_relay_release};
static const struct txb_pg_statement due_statement = {"relay_schedule_due", txb_text_relay_schedule_due};
static const struct txb_pg_statement move_statement = {"relay_schedule_move", txb_text_relay_schedule_move};

struct txb_pg_params *txb_relay_fenced_params(struct txb_relay *r) {
  txb_pg_params_clear(&r->params);
  txb_pg_add_text(&r->params, txb_slice_text(r->o->source));
  txb_pg_add_int8(&r->params, r->epoch);
  txb_pg_add_uuid(&r->params, &r->instance);
  return &r->params;
}

/* ---- taking the lease ------------------------------------------------------------------------------------------- */

static enum txb_rc load_holes(struct txb_relay *r, struct txb_relay_position *p, struct txb_range **out,
                              struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *result = NULL;
  void *ranges;
  txb_pg_params_clear(&r->params);
  txb_pg_add_text(&r->params, txb_slice_text(r->o->source));
  TXB_TRY(txb_pg_query(r->pg, &load_holes_statement, &r->params, &result, err));
  p->hole_count = (size_t)txb_pg_rows(result);
  TXB_TRY(txb_alloc_array(p->hole_count, sizeof **out, &ranges, err));
  *out = ranges;
  for (size_t i = 0; i < p->hole_count; i++)
    (*out)[i] = (struct txb_range){txb_pg_int8(result, (int)i, 0), txb_pg_int8(result, (int)i, 1)};
  p->holes = *out;
  return TXB_OK;
}

static enum txb_rc load_recorded(struct txb_relay *r, struct txb_relay_position *p, int64_t **out,
                                 struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *result = NULL;
  void *numbers;
  txb_pg_params_clear(&r->params);
  txb_pg_add_text(&r->params, txb_slice_text(r->o->source));
  txb_pg_add_int8(&r->params, p->highest);
  TXB_TRY(txb_pg_query(r->pg, &load_recorded_statement, &r->params, &result, err));
  p->recorded_count = (size_t)txb_pg_rows(result);
  TXB_TRY(txb_alloc_array(p->recorded_count, sizeof **out, &numbers, err));
  *out = numbers;
  for (size_t i = 0; i < p->recorded_count; i++)
    (*out)[i] = txb_pg_int8(result, (int)i, 0);
  p->recorded = *out;
  return TXB_OK;
}

struct loaded_holds {
  struct txb_pg_result *result; /* the keys' bytes */
  struct txb_relay_topic_hold *topics;
  struct txb_relay_key_hold *keys;
};

static void loaded_holds_fini(struct loaded_holds *l) {
  txb_pg_result_free(l->result);
  txb_free(l->topics);
  txb_free(l->keys);
}

static enum txb_rc load_holds(struct txb_relay *r, struct txb_relay_position *p, struct loaded_holds *l,
                              struct txb_error *err) {
  void *topics, *keys;
  txb_pg_params_clear(&r->params);
  txb_pg_add_text(&r->params, txb_slice_text(r->o->source));
  TXB_TRY(txb_pg_query(r->pg, &load_holds_statement, &r->params, &l->result, err));
  size_t count = (size_t)txb_pg_rows(l->result);
  TXB_TRY(txb_alloc_array(count, sizeof *l->topics, &topics, err));
  l->topics = topics;
  TXB_TRY(txb_alloc_array(count, sizeof *l->keys, &keys, err));
  l->keys = keys;
  p->topics = l->topics;
  p->keys = l->keys;
  for (int i = 0; i < (int)count; i++) {
    uint32_t topic;
    int64_t lo = txb_pg_int8(l->result, i, 3);
    TXB_TRY(txb_relay_topics_number(&r->topics, txb_pg_bytes(l->result, i, 1), &topic, err));
    if (strcmp(txb_pg_text(l->result, i, 0), "topic") == 0) {
      l->topics[p->topic_count++] = (struct txb_relay_topic_hold){.topic = topic, .lo = lo};
      r->topics.items[topic].told_held = true;
    } else {
      l->keys[p->key_count++] = (struct txb_relay_key_hold){
          .topic = topic, .key = txb_pg_bytes(l->result, i, 2), .lo = lo, .decided = txb_pg_bool(l->result, i, 4)};
    }
  }
  return TXB_OK;
}

static enum txb_rc ask_for_lease(struct txb_relay *r, struct txb_pg_result **result_out, struct txb_error *err) {
  struct txb_error failed;
  enum txb_rc rc = txb_pg_query(r->pg, &acquire_statement, &r->params, result_out, &failed);
  if (rc == TXB_OK)
    return TXB_OK;
  if (strcmp(failed.sqlstate, "42501") == 0)
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_SAFETY,
                         "%s: user %s may not relay (%.200s); an administrator can allow it: `txbroker init --role "
                         "%s=txb_relay`",
                         txb_pg_name(r->pg), txb_pg_user(r->pg), failed.message, txb_pg_user(r->pg));
  *err = failed;
  return rc;
}

enum txb_rc txb_relay_acquire(struct txb_relay *r, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *result = NULL;
  TXB_CLEANUP(txb_free_ptr) struct txb_range *ranges = NULL;
  TXB_CLEANUP(txb_free_ptr) int64_t *recorded = NULL;
  TXB_CLEANUP(loaded_holds_fini) struct loaded_holds holds = {0};
  struct txb_relay_event event = {.kind = TXB_RELAY_ACQUIRED};
  struct txb_relay_position *p = &event.u.position;
  int64_t asked_us = txb_clock_steady_us(); /* the lease counts from before it was given */
  txb_pg_params_clear(&r->params);
  txb_pg_add_text(&r->params, txb_slice_text(r->o->source));
  txb_pg_add_text(&r->params, txb_slice_text(r->o->owner));
  txb_pg_add_uuid(&r->params, &r->instance);
  txb_pg_add_int8(&r->params, r->o->lease_ms);
  txb_pg_add_text(&r->params, txb_slice_text(r->event_source));
  TXB_TRY(ask_for_lease(r, &result, err));
  if (txb_pg_rows(result) == 0)
    return TXB_AGAIN;
  if (txb_pg_int8(result, 0, 4) !=
      1) /* then numbers are used long after they were drawn, and nobody's lock tells of them */
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_SAFETY,
                         "source %s: the sequence of txb.outbox has CACHE %lld; rows would be lost. ALTER SEQUENCE "
                         "txb.outbox_seq_seq CACHE 1",
                         r->o->source, (long long)txb_pg_int8(result, 0, 4));
  /* A crash here leaves the lease with a process that is gone: its connection's advisory lock is free, the next
   * takes it. */
  txb_failpoint("relay.after_acquire");
  *p = (struct txb_relay_position){.epoch = txb_pg_int8(result, 0, 0),
                                   .checkpoint = txb_pg_int8(result, 0, 1),
                                   .highest = txb_pg_int8(result, 0, 2),
                                   .instance = r->instance};
  TXB_TRY(load_holes(r, p, &ranges, err));
  TXB_TRY(load_holds(r, p, &holds, err));
  TXB_TRY(load_recorded(r, p, &recorded, err));
  r->epoch = p->epoch;
  txb_log(TXB_LOG_INFO, TXB_MSG("lease taken"), TXB_F("source", r->o->source), TXB_F("owner", r->o->owner),
          TXB_FI("epoch", r->epoch), TXB_FI("highest", p->highest), TXB_FI("watermark", txb_pg_int8(result, 0, 3)),
          TXB_FI("holes", p->hole_count), TXB_FI("held_topics", p->topic_count), TXB_FI("held_keys", p->key_count));
  TXB_TRY(txb_pg_script(r->pg, txb_text_relay_transactions, err));
  TXB_TRY(txb_pg_pipeline_begin(r->pg, err));
  event.now_us = asked_us;
  return txb_relay_step(r, &event, err);
}

/* ---- checkpoints ------------------------------------------------------------------------------------------------ */

/* A held topic is stored in the same transaction as the position that passes its rows. */
static enum txb_rc send_hold(struct txb_relay *r, const struct txb_relay_topic_hold *hold, struct txb_error *err) {
  struct txb_relay_topic_name *topic = &r->topics.items[hold->topic];
  struct txb_pg_params *p = txb_relay_fenced_params(r);
  txb_pg_add_text(p, txb_slice_of(topic->name, topic->size));
  if (hold->lo == 0) {
    txb_log(TXB_LOG_INFO, TXB_MSG("topic is no longer held"), TXB_F("source", r->o->source),
            TXB_F("topic", topic->name));
    topic->told_held = topic->told_there = false;
    return txb_pg_send(r->pg, &hold_release_statement, p, err);
  }
  /* A hold that was loaded keeps the error that it was stored with. */
  const char *text = hold->code == 0 ? NULL : txb_kafka_code_text(hold->code);
  if (!topic->told_held)
    txb_log(TXB_LOG_WARN, TXB_MSG("topic is held, looking for it from time to time; other topics go on"),
            TXB_F("source", r->o->source), TXB_F("topic", topic->name), TXB_FI("from_seq", hold->lo),
            TXB_F("error", text));
  topic->told_held = true;
  txb_pg_add_int8(p, hold->lo);
  txb_pg_add_text(p, txb_slice_text(text));
  return txb_pg_send(r->pg, &hold_set_statement, p, err);
}

/* The page's ranges as text of an int8multirange. */
static void page_text(struct txb_buffer *b, const struct txb_relay_checkpoint *c, const struct txb_hole_page *page) {
  txb_buffer_clear(b);
  txb_buffer_add(b, "{", 1);
  for (size_t i = 0; i < page->count; i++) {
    const struct txb_range *range = &c->ranges[page->first + i];
    txb_buffer_addf(b, "%s[%" PRId64 ",%" PRId64 "]", i == 0 ? "" : ",", range->lo, range->hi);
  }
  txb_buffer_add(b, "}", 1);
}

enum txb_rc txb_relay_send_checkpoint(struct txb_relay *r, const struct txb_relay_checkpoint *c,
                                      struct txb_error *err) {
  /* Before: what was published since the last checkpoint is published again, in the same order, after a crash. */
  txb_failpoint("relay.before_checkpoint");
  for (size_t i = 0; i < c->hold_count; i++)
    TXB_TRY(send_hold(r, &c->holds[i], err));
  TXB_TRY(txb_relay_send_settle(r, c, err));
  struct txb_pg_params *p = txb_relay_fenced_params(r);
  txb_pg_add_int8(p, c->number);
  txb_pg_add_int8(p, c->highest);
  txb_pg_add_int8(p, c->watermark);
  txb_pg_add_int8(p, c->published);
  txb_pg_add_int8(p, r->o->lease_ms);
  txb_pg_array_begin(p, TXB_OID_INT8);
  for (size_t i = 0; i < c->page_count; i++)
    txb_pg_array_int8(p, c->pages[i].page);
  txb_pg_array_end(p);
  txb_pg_array_begin(p, TXB_OID_TEXT);
  for (size_t i = 0; i < c->page_count; i++) {
    page_text(&r->scratch, c, &c->pages[i]);
    TXB_TRY(txb_buffer_check(&r->scratch, err));
    txb_pg_array_bytes(p, txb_slice_of(r->scratch.data, r->scratch.size));
  }
  txb_pg_array_end(p);
  TXB_TRY(txb_pg_send(r->pg, &checkpoint_statement, p, err));
  TXB_TRY(txb_relay_request_sent(r, TXB_REQUEST_CHECKPOINT, err));
  /* Sent: whether it is committed only the database knows; both are fine to begin from. */
  txb_failpoint("relay.in_checkpoint");
  return TXB_OK;
}

/* Each checkpoint leaves a dead version of the row. An old snapshot somewhere (a forgotten prepared transaction, a
 * replication slot) keeps VACUUM from them, and every poll reads past them: then checkpoints become fewer as they
 * pile up. */
void txb_relay_choose_checkpoint(struct txb_relay *r, int64_t relation_bytes) {
  int64_t wanted_us = 1000 * r->o->checkpoint_ms;
  if (relation_bytes > RELATION_BYTES_FINE)
    wanted_us = wanted_us * (relation_bytes / (RELATION_BYTES_FINE / 8)) / 8;
  int64_t most_us = 1000 * (r->o->checkpoint_ms > CHECKPOINT_MOST_MS ? r->o->checkpoint_ms : CHECKPOINT_MOST_MS);
  r->core.options.checkpoint_us = wanted_us < most_us ? wanted_us : most_us;
}

enum txb_rc txb_relay_send_record(struct txb_relay *r, uint64_t ticket, struct txb_error *err) {
  const struct txb_slot *slot = txb_relay_core_slot(&r->core, ticket);
  const char *topic = r->topics.items[slot->topic].name;
  txb_log(TXB_LOG_WARN,
          TXB_MSG(slot->key.data == NULL
                      ? "Kafka refuses an intent for good: it is a failed message now"
                      : "Kafka refuses an intent for good: it is a failed message now and holds its key"),
          TXB_F("source", r->o->source), TXB_FI("seq", slot->seq), TXB_F("topic", topic),
          TXB_F("error", txb_kafka_code_text(slot->code)));
  /* Before: the intent is read, refused and recorded again. */
  txb_failpoint("relay.before_record_failed");
  struct txb_pg_params *p = txb_relay_fenced_params(r);
  txb_pg_add_int8(p, slot->seq);
  txb_pg_add_text(p, txb_slice_text(txb_kafka_code_name(slot->code)));
  txb_pg_add_text(p, txb_slice_text(txb_kafka_code_text(slot->code)));
  TXB_TRY(txb_pg_send(r->pg, &record_statement, p, err));
  return txb_relay_request_sent(r, TXB_REQUEST_RECORD, err);
}

/* ---- what status shows ------------------------------------------------------------------------------------------ */

static int64_t hole_worth_telling(const struct txb_relay *r, int64_t now_us, int64_t *noted_us_out) {
  int64_t hole = txb_generations_lowest(&r->core.generations, noted_us_out);
  return hole != 0 && now_us - *noted_us_out >= HOLE_WORTH_TELLING_US ? hole : 0;
}

static const char *error_now(const struct txb_relay *r) {
  return r->kafka_error[0] != '\0' ? r->kafka_error : r->watch_error;
}

bool txb_relay_status_is_due(const struct txb_relay *r, int64_t now_us) {
  int64_t noted_us;
  if (r->status_out || now_us < r->status_us + STATUS_EVERY_US)
    return false;
  /* After taking over from a stopped relay this also gets that one's session lock, once it is free. */
  if (now_us >= r->status_us + STATUS_AT_LEAST_US)
    return true;
  int64_t hole = hole_worth_telling(r, now_us, &noted_us);
  /* While there is one its holders are told anew every second. */
  return !r->told || hole != 0 || r->told_hole != 0 || strcmp(r->told_error, error_now(r)) != 0;
}

static enum txb_rc send_renew(struct txb_relay *r, const char *state, const char *last_error, struct txb_error *err) {
  int64_t now_us = txb_clock_steady_us(), noted_us = 0, hole = hole_worth_telling(r, now_us, &noted_us);
  struct txb_pg_params *p = txb_relay_fenced_params(r);
  txb_pg_add_int8(p, r->o->lease_ms);
  txb_pg_add_text(p, txb_slice_text(state));
  txb_pg_add_text(p, txb_slice_text(last_error));
  if (hole == 0) {
    txb_pg_add_null(p, TXB_OID_INT8);
    txb_pg_add_null(p, TXB_OID_TIMESTAMPTZ);
  } else {
    txb_pg_add_int8(p, hole);
    txb_pg_add_timestamptz(p, txb_clock_wall_us() - (now_us - noted_us));
  }
  r->status_us = now_us;
  r->told = true;
  r->told_hole = hole;
  snprintf(r->told_error, sizeof r->told_error, "%s", last_error);
  return txb_pg_send(r->pg, &renew_statement, p, err);
}

enum txb_rc txb_relay_send_renew(struct txb_relay *r, enum txb_relay_request_kind kind, struct txb_error *err) {
  r->status_out = r->status_out || kind == TXB_REQUEST_STATUS;
  TXB_TRY(send_renew(r, "running", error_now(r), err));
  return txb_relay_request_sent(r, kind, err);
}

/* ---- scheduled intents ------------------------------------------------------------------------------------------ */

enum txb_rc txb_relay_send_due(struct txb_relay *r, struct txb_error *err) {
  r->due_out = true;
  r->due_us = txb_clock_steady_us();
  TXB_TRY(txb_pg_send(r->pg, &due_statement, NULL, err));
  return txb_relay_request_sent(r, TXB_REQUEST_DUE, err);
}

enum txb_rc txb_relay_send_move(struct txb_relay *r, struct txb_error *err) {
  r->move_out = true;
  r->move_more = false;
  txb_failpoint("relay.before_schedule_move");
  struct txb_pg_params *p = txb_relay_fenced_params(r);
  txb_pg_add_int4(p, TXB_RELAY_MOVE_ROWS);
  TXB_TRY(txb_pg_send(r->pg, &move_statement, p, err));
  return txb_relay_request_sent(r, TXB_REQUEST_MOVE, err);
}

/* ---- giving back ------------------------------------------------------------------------------------------------ */

static enum txb_rc release(struct txb_relay *r, const char *stopped_because, struct txb_error *err) {
  if (stopped_because != NULL)
    TXB_TRY(send_renew(r, "stopped", stopped_because, err));
  TXB_TRY(txb_pg_send(r->pg, &release_statement, txb_relay_fenced_params(r), err));
  r->releasing = r->release_out = true;
  TXB_TRY(txb_relay_request_sent(r, TXB_REQUEST_RELEASE, err));
  int64_t until_us = txb_clock_steady_us() + RELEASE_WAIT_US;
  while (r->release_out) {
    enum txb_rc rc = txb_relay_request_next(r, err);
    if (rc == TXB_OK)
      continue;
    if (rc != TXB_AGAIN)
      return rc;
    struct pollfd fd = {.fd = txb_pg_socket(r->pg), .events = txb_pg_poll_events(r->pg)};
    int64_t left_us = until_us - txb_clock_steady_us();
    if (left_us <= 0)
      return TXB_FAIL(err, TXB_RETRY, "no answer");
    TXB_TRY(txb_wait(&fd, 1, left_us, NULL, err));
    TXB_TRY(txb_pg_pump(r->pg, err));
  }
  return TXB_OK;
}

bool txb_relay_release(struct txb_relay *r, const char *stopped_because) {
  struct txb_error err;
  if (release(r, stopped_because, &err) == TXB_OK)
    return true;
  /* The connection ends now, and its advisory lock with it, so the next relay need not wait either. */
  txb_log(TXB_LOG_WARN, TXB_MSG("lease not given back, it ends with the connection"), TXB_F("source", r->o->source),
          TXB_F("error", err.message));
  return false;
}
