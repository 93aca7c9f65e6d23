/* See lanes.h. Claims, and whatever else concerns a lane's row, are single statements in transactions of their own, between
 * the worker's operations. A crash before one: the next owner does it; after it: the next owner goes on from there. */
#include "consumer/lanes.h"

#include <stdio.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/kafka_inspect.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/random.h"
#include "consumer/job_core.h"
#include "consumer/lane_page.h"
#include "consumer/lane_reader.h"
#include "consumer/lanes_internal.h"
#include "consumer_sql.h"

#define MS              INT64_C(1000)
#define CLAIM_US        (1000 * MS)  /* how soon a job that was started, paused or changed is heard of, at the latest */
#define TELL_AGAIN_US   (60000 * MS) /* of a source that this worker does not know */
#define NOTICES_AT_ONCE 2000         /* then the database's answers are looked at again */

/* The columns of lane_claim.sql. */
enum {
  ROW_WAITS,
  ROW_LANE,
  ROW_JOB,
  ROW_TOPIC,
  ROW_SOURCE,
  ROW_SEQ_TO,
  ROW_POSITION,
  ROW_RUN,
  ROW_RATE_MAX,
  ROW_KEYS,
  ROW_TYPES,
  ROW_TIME_FROM,
  ROW_TIME_TO,
  ROW_THEN_LIVE,
  ROW_WANTS_PASS,
  ROW_JOB_LOWEST,
  ROW_JOB_LEFT,
  ROW_DATABASE,
  ROW_PIN,
  ROW_DECIDES,
  ROW_CLUSTER,
  ROW_FROM_PARTITION,
  ROW_TO_TOPIC,
  ROW_FIRST_SEQ,
  ROW_FIRST_ID
};

static const struct txb_pg_statement claim_statement = {"txb_lane_claim", txb_text_lane_claim},
                                     free_statement = {"txb_lane_free", txb_text_lane_free},
                                     error_statement = {"txb_lane_error", txb_text_lane_error};

/* ---- places of lanes ------------------------------------------------------------------------- */

struct txb_lane *txb_lanes_at(const txb_worker_t *w, size_t slot) {
  return w->places[slot].used ? w->places[slot].lane : NULL;
}

int txb_lanes_find(const txb_worker_t *w, int32_t number) {
  for (size_t i = 0; i < w->places_count; i++)
    if (txb_lanes_at(w, i) != NULL && txb_lanes_at(w, i)->number == number)
      return (int)i;
  return -1;
}

static int32_t count_lanes(const txb_worker_t *w, bool leaving_too) {
  int32_t n = 0;
  for (size_t i = 0; i < w->places_count; i++)
    n += txb_lanes_at(w, i) != NULL && (leaving_too || !txb_lanes_at(w, i)->leaving);
  return n;
}

void txb_lane_free(struct txb_lane *lane) {
  if (lane == NULL)
    return;
  txb_lane_reader_free(lane->reader);
  txb_free(lane->ends);
  txb_free(lane);
}

void txb_lanes_fini(txb_worker_t *w) {
  txb_kafka_inspect_close(txb_steal(w->lanes.inspect));
}

static void tell_core(txb_worker_t *w, enum txb_worker_event_kind kind, int slot) {
  struct txb_worker_event e = txb_worker_event_now(kind, slot);
  e.found = kind == TXB_WE_CONFIRMED;
  txb_worker_step(w, &e);
}

static void give_up(txb_worker_t *w, int slot, bool lost) {
  struct txb_lane *lane = txb_lanes_at(w, (size_t)slot);
  lane->leaving = true;
  lane->confirm = false;
  txb_lane_reader_pin_not(lane->reader);
  tell_core(w, lost ? TXB_WE_LOST : TXB_WE_REVOKED, slot);
}

/* ---- words ----------------------------------------------------------------------------------- */

void txb_lanes_add_word(txb_worker_t *w, int32_t lane, bool frees, const char *error) {
  struct txb_lanes *l = &w->lanes;
  if (l->word_count == TXB_ARRAY_SIZE(l->words))
    return;
  struct txb_lane_word *word = &l->words[l->word_count++];
  *word = (struct txb_lane_word){.lane = lane, .frees = frees};
  snprintf(word->error, sizeof word->error, "%s", error);
}

static enum txb_rc send_word(txb_worker_t *w, struct txb_error *err) {
  const struct txb_lane_word *word = &w->lanes.words[0];
  w->lanes.under_way = TXB_LANES_WORD;
  txb_pg_params_clear(&w->params);
  txb_pg_add_int4(&w->params, word->lane);
  txb_pg_add_uuid(&w->params, &w->instance);
  if (word->frees) {
    /* A crash here: the lease runs out, and another worker takes the lane then. */
    txb_failpoint("lane.before_free");
    return txb_worker_send(w, &free_statement, &w->params, err);
  }
  txb_pg_add_text(&w->params, word->error[0] == '\0' ? txb_slice_of(NULL, 0)
                                                     : txb_worker_safe_text(txb_slice_text(word->error), &w->text));
  return txb_worker_send(w, &error_statement, &w->params, err);
}

bool txb_lanes_have_words(const txb_worker_t *w) {
  return w->pg != NULL && w->lanes.word_count > 0;
}

/* ---- taking a lane on ------------------------------------------------------------------------ */

static const struct txb_worker_outbox *find_outbox(const txb_worker_t *w, const char *source) {
  for (size_t i = 0; i < w->settings->outbox_count; i++)
    if (strcmp(w->settings->outboxes[i].source, source) == 0)
      return &w->settings->outboxes[i];
  return NULL;
}

/* Said once a while, not at every claim that meets it. */
static bool is_news(struct txb_lanes *l, int32_t lane, int64_t now_us) {
  size_t oldest = 0;
  for (size_t i = 0; i < TXB_ARRAY_SIZE(l->strange); i++) {
    if (l->strange[i].lane == lane && now_us < l->strange[i].until_us)
      return false;
    oldest = l->strange[i].until_us < l->strange[oldest].until_us ? i : oldest;
  }
  l->strange[oldest].lane = lane;
  l->strange[oldest].until_us = now_us + TELL_AGAIN_US;
  return true;
}

/* Others may know its source: whoever says what stands in the way and frees a lane gets it again after a while only. */
static void refuse_lane(txb_worker_t *w, int32_t number, const char *source) {
  char text[TXB_LANES_ERROR_SIZE];
  snprintf(text, sizeof text, "worker %s has no source \"%s\": add sources.%s.database to its configuration",
           w->settings->owner, source, source);
  if (is_news(&w->lanes, number, txb_clock_steady_us()))
    txb_log(TXB_LOG_WARN, TXB_MSG("a replay's source is unknown here: its lane is left to other workers"),
            TXB_F("group", w->settings->group), TXB_FI("lane", number), TXB_F("error", text));
  txb_lanes_add_word(w, number, false, text);
  txb_lanes_add_word(w, number, true, "");
}

static enum txb_rc open_topic_reader(txb_worker_t *w, const struct txb_pg_result *r, int row, struct txb_lane *lane,
                                     struct txb_error *err) {
  struct txb_lane_last first;
  bool has_first = !txb_pg_is_null(r, row, ROW_FIRST_SEQ);
  if (has_first) {
    first.seq = txb_pg_int8(r, row, ROW_FIRST_SEQ);
    txb_pg_uuid(r, row, ROW_FIRST_ID, &first.id);
  }
  struct txb_lane_reader_options options = {.topic = txb_pg_text(r, row, ROW_TOPIC),
                                            .lane = lane->number,
                                            .keys = txb_pg_bytes(r, row, ROW_KEYS),
                                            .types = txb_pg_bytes(r, row, ROW_TYPES),
                                            .first = has_first ? &first : NULL,
                                            .cluster_id = txb_pg_text(r, row, ROW_CLUSTER),
                                            .from_partition = txb_pg_int4(r, row, ROW_FROM_PARTITION),
                                            .kafka = &w->settings->kafka,
                                            .group = w->settings->group};
  return txb_lane_reader_new(&options, &lane->reader, err);
}

static enum txb_rc open_reader(txb_worker_t *w, const struct txb_pg_result *r, int row,
                               const struct txb_worker_outbox *outbox, struct txb_lane *lane, struct txb_error *err) {
  char what[TXB_JOB_PIN_WHAT_SIZE], name[120];
  txb_job_pin_what(txb_pg_text(r, row, ROW_DATABASE), w->settings->group, lane->job, what);
  snprintf(name, sizeof name, "txbroker replay %s", w->settings->group);
  struct txb_lane_reader_options options = {.source = outbox->source,
                                            .uri = outbox->database,
                                            .name = name,
                                            .topic = txb_pg_text(r, row, ROW_TOPIC),
                                            .lane = lane->number,
                                            .pin = txb_pg_text(r, row, ROW_PIN),
                                            .pin_what = what,
                                            .keys = txb_pg_bytes(r, row, ROW_KEYS),
                                            .types = txb_pg_bytes(r, row, ROW_TYPES),
                                            .time_from = txb_pg_bytes(r, row, ROW_TIME_FROM),
                                            .time_to = txb_pg_bytes(r, row, ROW_TIME_TO)};
  return txb_lane_reader_new(&options, &lane->reader, err);
}

static void tell_claimed(const txb_worker_t *w, const struct txb_pg_result *r, int row, const struct txb_lane *lane) {
  char partition[16] = "";
  if (lane->of_topic)
    snprintf(partition, sizeof partition, "%d", (int)txb_pg_int4(r, row, ROW_FROM_PARTITION));
  txb_log(TXB_LOG_INFO, TXB_MSG("lane of a replay claimed"), TXB_F("group", w->settings->group),
          TXB_FI("job", lane->job), TXB_FI("lane", lane->number), TXB_F("topic", txb_pg_text(r, row, ROW_TOPIC)),
          TXB_F("source", txb_pg_text(r, row, ROW_SOURCE)), TXB_F("from_partition", lane->of_topic ? partition : NULL),
          TXB_FI("from", txb_pg_int8(r, row, ROW_POSITION)), TXB_FI("to", txb_pg_int8(r, row, ROW_SEQ_TO)));
}

static enum txb_rc add_lane(txb_worker_t *w, const struct txb_pg_result *r, int row, int *slot_out,
                            struct txb_error *err) {
  int32_t number = txb_pg_int4(r, row, ROW_LANE);
  const char *source = txb_pg_text(r, row, ROW_SOURCE), *topic = txb_pg_text(r, row, ROW_TOPIC);
  bool of_topic = !txb_pg_is_null(r, row, ROW_CLUSTER);
  const struct txb_worker_outbox *outbox = of_topic ? NULL : find_outbox(w, source);
  void *memory = NULL;
  *slot_out = -1;
  if (outbox == NULL && !of_topic) {
    refuse_lane(w, number, source);
    return TXB_OK;
  }
  if (count_lanes(w, true) >= TXB_LANES_AT_ONCE)
    return TXB_OK; /* at the next claim: some are being given back */
  TXB_TRY(txb_alloc(sizeof(struct txb_lane), &memory, err));
  struct txb_lane *lane = memory;
  *lane = (struct txb_lane){.number = number,
                            .job = txb_pg_int8(r, row, ROW_JOB),
                            .of_topic = of_topic,
                            .end_asked_at = -1,
                            .highest_passed = -1};
  enum txb_rc rc = of_topic ? open_topic_reader(w, r, row, lane, err) : open_reader(w, r, row, outbox, lane, err);
  if (rc == TXB_OK)
    rc = txb_worker_add_place(w, topic, -number, lane, slot_out, err);
  if (rc != TXB_OK) {
    txb_lane_free(lane);
    return rc;
  }
  w->places[*slot_out].run = txb_bug("lane_run_ignored") ? 0 : txb_pg_int8(r, row, ROW_RUN);
  w->places[*slot_out].copies = !txb_pg_is_null(r, row, ROW_TO_TOPIC);
  tell_claimed(w, r, row, lane);
  return TXB_OK;
}

/* ---- claims ---------------------------------------------------------------------------------- */

static int64_t lease_ms(const txb_worker_t *w) {
  return w->settings->session_timeout_ms;
}

static enum txb_rc send_claim(txb_worker_t *w, struct txb_error *err) {
  struct txb_lanes *l = &w->lanes;
  int32_t held = count_lanes(w, false);
  l->under_way = TXB_LANES_CLAIM;
  l->claimed_us = txb_clock_steady_us();
  txb_pg_params_clear(&w->params);
  txb_pg_add_text(&w->params, txb_slice_text(w->settings->group));
  txb_pg_add_text(&w->params, txb_slice_text(w->settings->owner));
  txb_pg_add_uuid(&w->params, &w->instance);
  txb_pg_add_int8(&w->params, lease_ms(w));
  /* One more at a time, so that all workers of the group get some. */
  txb_pg_add_int4(&w->params, held < TXB_LANES_MAX ? held + 1 : held);
  txb_pg_add_bool(&w->params, w->kafka == NULL);
  /* A crash here: what is held runs out; what is free stays so. */
  txb_failpoint("lane.before_claim");
  return txb_worker_send(w, &claim_statement, &w->params, err);
}

/* Whether there is, or may be, something to read. Of a cancelled job only what has failed goes on, and its lanes end where
 * they stand: its pin is not renewed, and whoever cancelled it has taken it away. */
static bool reads(const struct txb_lane *lane, int64_t position) {
  return lane->then_live || position < lane->seq_to;
}

static void renew(txb_worker_t *w, const struct txb_pg_result *r, int row, int slot) {
  struct txb_lane *lane = txb_lanes_at(w, (size_t)slot);
  lane->seen = true;
  if (lane->leaving) /* freed once it has left; then it may be claimed anew */
    return;
  int64_t seq_to = txb_pg_int8(r, row, ROW_SEQ_TO);
  /* Cancelled, and only its failed messages go on: what the core has of it must not be run, and can't be taken back. It
   * comes again with nothing. */
  if (seq_to < lane->seq_to) {
    give_up(w, slot, true);
    return;
  }
  lane->seq_to = seq_to;
  lane->then_live = txb_pg_bool(r, row, ROW_THEN_LIVE);
  lane->job_left = txb_pg_int4(r, row, ROW_JOB_LEFT);
  int64_t rate_max = txb_pg_is_null(r, row, ROW_RATE_MAX) ? 0 : txb_pg_int8(r, row, ROW_RATE_MAX);
  txb_lane_reader_bound(lane->reader, lane->seq_to, lane->then_live, rate_max);
  if (!txb_pg_is_null(r, row, ROW_JOB_LOWEST) && reads(lane, txb_pg_int8(r, row, ROW_POSITION)))
    txb_lane_reader_pin(lane->reader, txb_pg_int8(r, row, ROW_JOB_LOWEST));
  if (txb_pg_bool(r, row, ROW_WANTS_PASS) && lane->pass == TXB_PASS_NONE)
    lane->pass = TXB_PASS_ENDS;
  if (lane->confirm) {
    lane->confirm = false;
    tell_core(w, TXB_WE_CONFIRMED, slot);
  }
}

static bool is_at_end(const txb_worker_t *w, size_t slot) {
  return txb_worker_core_position(&w->core, (int)slot) >= txb_lanes_at(w, slot)->seq_to;
}

static bool is_done(const txb_worker_t *w, size_t slot) {
  const struct txb_lane *lane = txb_lanes_at(w, slot);
  return lane->done || (!lane->then_live && is_at_end(w, slot));
}

/* Whether nobody has to read for its job any more, as far as this worker knows: it ends with those that end here now.
 * Where others end at the same moment the pin stays until it runs out. */
static bool ends_its_job(const txb_worker_t *w, size_t slot) {
  const struct txb_lane *lane = txb_lanes_at(w, slot);
  int32_t ending = 0;
  for (size_t i = 0; i < w->places_count; i++) {
    const struct txb_lane *other = txb_lanes_at(w, i);
    ending += other != NULL && other->job == lane->job && !other->seen && !other->leaving && is_done(w, i);
  }
  return is_done(w, slot) && ending >= lane->job_left;
}

static void unpin_ended(txb_worker_t *w) {
  for (size_t i = 0; i < w->places_count; i++) {
    const struct txb_lane *lane = txb_lanes_at(w, i);
    if (lane != NULL && !lane->seen && !lane->leaving && ends_its_job(w, i))
      txb_lane_reader_unpin(lane->reader);
  }
}

/* Paused, cancelled, done; or another's, when the lease ran out. */
static void leave_unseen(txb_worker_t *w, bool expired) {
  for (size_t i = 0; i < w->places_count; i++) {
    struct txb_lane *lane = txb_lanes_at(w, i);
    if (lane == NULL || lane->seen || lane->leaving)
      continue;
    txb_log(TXB_LOG_INFO, TXB_MSG(expired ? "the lease of a lane ran out: another may have it" : "lane asked back"),
            TXB_F("group", w->settings->group), TXB_FI("job", lane->job), TXB_FI("lane", lane->number));
    give_up(w, (int)i, expired);
  }
}

static enum txb_rc join_when_free(txb_worker_t *w, bool waits, struct txb_error *err) {
  if (w->kafka != NULL || w->stopping)
    return TXB_OK;
  if (!waits) {
    txb_kafka_inspect_close(txb_steal(w->lanes.inspect));
    return txb_worker_join(w, err);
  }
  if (!w->lanes.told_waits)
    txb_log(TXB_LOG_INFO,
            TXB_MSG("a replay builds the group's state (then_live): Kafka's group is joined when it is done"),
            TXB_F("group", w->settings->group));
  w->lanes.told_waits = true;
  return TXB_OK;
}

static enum txb_rc on_claimed(txb_worker_t *w, struct txb_error *err) {
  const struct txb_pg_result *r = w->operation.results[0];
  struct txb_lanes *l = &w->lanes;
  bool expired = txb_clock_steady_us() >= l->lease_us, any = !txb_pg_is_null(r, 0, ROW_LANE);
  l->lease_us = l->claimed_us + lease_ms(w) * MS;
  l->claim_us = l->claimed_us + CLAIM_US - (int64_t)(txb_random_u64() % (CLAIM_US / 4)); /* many ask the same server */
  for (size_t i = 0; i < w->places_count; i++)
    if (txb_lanes_at(w, i) != NULL)
      txb_lanes_at(w, i)->seen = false;
  if (txb_pg_bool(r, 0, ROW_DECIDES))
    txb_decisions_wanted(w);
  /* A crash here: lanes are ours that nobody serves, until the lease runs out. */
  if (any)
    txb_failpoint("lane.after_claim");
  for (int row = 0; any && row < txb_pg_rows(r); row++) {
    int slot = txb_lanes_find(w, txb_pg_int4(r, row, ROW_LANE));
    if (slot < 0)
      TXB_TRY(add_lane(w, r, row, &slot, err));
    if (slot >= 0)
      renew(w, r, row, slot);
  }
  unpin_ended(w);
  leave_unseen(w, expired);
  return join_when_free(w, txb_pg_bool(r, 0, ROW_WAITS), err);
}

/* ---- as an operation of the worker ----------------------------------------------------------- */

/* The position came to where the lane ends: whether it is done is to be known at once. */
static bool came_to_end(txb_worker_t *w) {
  bool any = false;
  for (size_t i = 0; i < w->places_count; i++) {
    struct txb_lane *lane = txb_lanes_at(w, i);
    if (lane == NULL || lane->leaving || lane->seq_to == lane->end_asked_at || !is_at_end(w, i))
      continue;
    lane->end_asked_at = lane->seq_to;
    any = true;
  }
  return any;
}

int64_t txb_lanes_due_us(txb_worker_t *w) {
  struct txb_lanes *l = &w->lanes;
  if (l->word_count > 0)
    return 0;
  if (w->stopping)
    return INT64_MAX;
  if (came_to_end(w))
    l->claim_us = 0;
  return txb_lanes_ready_slot(w) >= 0 ? 0 : l->claim_us;
}

enum txb_rc txb_lanes_begin(txb_worker_t *w, struct txb_error *err) {
  int slot = txb_lanes_ready_slot(w);
  if (w->lanes.word_count > 0)
    TXB_TRY(send_word(w, err));
  else if (slot >= 0)
    TXB_TRY(txb_lanes_send_pass(w, slot, err));
  else
    TXB_TRY(send_claim(w, err));
  return txb_worker_sync(w, err);
}

static void drop_word(struct txb_lanes *l) {
  memmove(l->words, l->words + 1, --l->word_count * sizeof *l->words);
}

/* A claim, or a word, that failed is tried again, or made up for by the next one; what is no right of ours ends the
 * process, as everywhere. */
static enum txb_rc on_failed(txb_worker_t *w, struct txb_error *err) {
  const struct txb_error *error = &w->operation.error;
  struct txb_lanes *l = &w->lanes;
  int slot = l->under_way == TXB_LANES_PASS ? txb_lanes_find(w, l->under_way_lane) : -1;
  bool refused = error->rc == TXB_REFUSED && strncmp(error->sqlstate, "42", 2) == 0;
  if (refused || (error->rc == TXB_RETRY && error->origin == TXB_ORIGIN_POSTGRES)) {
    *err = *error;
    return error->rc;
  }
  if (l->under_way == TXB_LANES_WORD)
    drop_word(l);
  l->claim_us = txb_clock_steady_us() + CLAIM_US;
  txb_log(TXB_LOG_WARN, TXB_MSG("statement about lanes failed, trying again"), TXB_F("group", w->settings->group),
          TXB_F("sqlstate", error->sqlstate), TXB_F("error", error->message));
  if (slot >= 0 && error->rc == TXB_FENCED)
    give_up(w, slot, true);
  else if (slot >= 0) {
    txb_lanes_at(w, (size_t)slot)->pass_us = txb_clock_steady_us() + TXB_LANES_PASS_AGAIN_US;
    txb_lanes_add_word(w, l->under_way_lane, false, error->message);
  }
  return TXB_OK;
}

enum txb_rc txb_lanes_end(txb_worker_t *w, struct txb_error *err) {
  if (w->operation.failed)
    return on_failed(w, err);
  switch (w->lanes.under_way) {
  case TXB_LANES_CLAIM:
    return on_claimed(w, err);
  case TXB_LANES_PASS:
    txb_lanes_on_passed(w);
    return TXB_OK;
  case TXB_LANES_WORD:
    drop_word(&w->lanes);
    return TXB_OK;
  }
  return TXB_OK;
}

/* ---- readers --------------------------------------------------------------------------------- */

static void tell_trouble(txb_worker_t *w, const struct txb_lane *lane, const struct txb_error *trouble) {
  txb_log(TXB_LOG_WARN, TXB_MSG("trouble with a replay's source, trying on"), TXB_F("group", w->settings->group),
          TXB_FI("job", lane->job), TXB_FI("lane", lane->number),
          TXB_F("sqlstate", trouble->sqlstate[0] != '\0' ? trouble->sqlstate : NULL), TXB_F("error", trouble->message));
  txb_lanes_add_word(w, lane->number, false, trouble->message);
}

static enum txb_rc on_record(txb_worker_t *w, int slot, struct txb_lane_notice *n, struct txb_error *err) {
  const struct txb_worker_message *m = n->message;
  struct txb_worker_record r = {.offset = n->offset,
                                .timestamp_ms = m->record.timestamp_ms,
                                .id = m->event.id,
                                .size = n->size,
                                .ref = n->message};
  txb_worker_tell_problem(&w->places[slot], m);
  enum txb_rc rc = txb_worker_core_record(&w->core, slot, &r, txb_clock_steady_us(), err);
  if (rc != TXB_OK)
    txb_lane_message_release(n->message);
  return rc;
}

static enum txb_rc on_notice(txb_worker_t *w, int slot, struct txb_lane_notice *n, struct txb_error *err) {
  struct txb_lane *lane = txb_lanes_at(w, (size_t)slot);
  struct txb_worker_event e;
  switch (n->kind) {
  case TXB_LANE_RECORD:
    return on_record(w, slot, n, err);
  case TXB_LANE_END:
    e = txb_worker_event_now(TXB_WE_END, slot);
    e.offset = n->offset;
    e.more = n->more;
    txb_worker_step(w, &e);
    return TXB_OK;
  case TXB_LANE_RANGE:
    e = txb_worker_event_now(TXB_WE_RANGE, slot);
    e.low = n->offset;
    e.high = n->high;
    txb_worker_step(w, &e);
    return TXB_OK;
  case TXB_LANE_HIGHEST:
    if (lane->pass == TXB_PASS_HIGHEST) {
      lane->highest = n->offset;
      lane->pass = TXB_PASS_READY;
    }
    return TXB_OK;
  case TXB_LANE_TROUBLE:
    tell_trouble(w, lane, &n->err);
    return TXB_OK;
  case TXB_LANE_WELL:
    txb_log(TXB_LOG_INFO, TXB_MSG("a replay's source is back"), TXB_F("group", w->settings->group),
            TXB_FI("job", lane->job), TXB_FI("lane", lane->number));
    txb_lanes_add_word(w, lane->number, false, "");
    return TXB_OK;
  }
  return TXB_OK;
}

static enum txb_rc take_notices_of(txb_worker_t *w, int slot, bool *more_out, struct txb_error *err) {
  struct txb_lane *lane = txb_lanes_at(w, (size_t)slot);
  for (int i = 0; i < NOTICES_AT_ONCE; i++) {
    struct txb_lane_notice notice;
    enum txb_rc rc = txb_lane_reader_next(lane->reader, &notice, err);
    if (rc == TXB_AGAIN)
      return TXB_OK;
    TXB_TRY(rc);
    TXB_TRY(on_notice(w, slot, &notice, err));
  }
  *more_out = true;
  return TXB_OK;
}

enum txb_rc txb_lanes_take_notices(txb_worker_t *w, bool *more_out, struct txb_error *err) {
  for (size_t i = 0; i < w->places_count; i++) {
    if (txb_lanes_at(w, i) == NULL)
      continue;
    TXB_TRY(take_notices_of(w, (int)i, more_out, err));
    TXB_TRY(txb_lanes_prepare_pass(w, i, err));
  }
  return TXB_OK;
}

static void leave(txb_worker_t *w, int slot) {
  struct txb_worker_place *place = &w->places[slot];
  txb_log(TXB_LOG_INFO, TXB_MSG("lane given back"), TXB_F("group", w->settings->group), TXB_FI("job", place->lane->job),
          TXB_FI("lane", place->lane->number), TXB_F("topic", place->topic));
  txb_lanes_add_word(w, place->lane->number, true, "");
  txb_worker_remove_place(place);
}

enum txb_rc txb_lanes_tell(txb_worker_t *w, const struct txb_worker_action *a, struct txb_error *err) {
  struct txb_worker_place *place = &w->places[a->slot];
  struct txb_lane *lane = place->lane;
  struct txb_lane_last last;
  (void)err;
  switch ((int)a->kind) {
  case TXB_WA_CONFIRM:
    lane->confirm = true;
    w->lanes.claim_us = 0;
    return TXB_OK;
  case TXB_WA_FETCH:
    last.seq = txb_worker_core_last(&w->core, a->slot, &last.id);
    if (w->prepared >= 0 && w->batches[w->prepared].slot == a->slot)
      w->prepared = -1; /* made of messages that are read again */
    txb_lane_reader_fetch(lane->reader, a->offset, &last);
    return TXB_OK;
  case TXB_WA_UNFETCH:
    txb_lane_reader_unfetch(lane->reader);
    return TXB_OK;
  case TXB_WA_PAUSE:
    txb_lane_reader_pause(lane->reader);
    return TXB_OK;
  case TXB_WA_RESUME:
    txb_lane_reader_resume(lane->reader, a->offset);
    return TXB_OK;
  case TXB_WA_LEAVE:
    leave(w, a->slot);
    return TXB_OK;
  case TXB_WA_TELL:
    txb_log(TXB_LOG_ERROR, TXB_MSG("lane stopped: a person must decide"), TXB_F("group", w->settings->group),
            TXB_FI("job", lane->job), TXB_FI("lane", lane->number), TXB_F("error", place->error.message));
    txb_lanes_add_word(w, lane->number, false, place->error.message);
    return TXB_OK;
  default: /* TXB_WA_COPY is Kafka's */
    return TXB_OK;
  }
}

size_t txb_lanes_pollfds(const txb_worker_t *w, struct pollfd *fds, size_t room) {
  size_t n = 0;
  for (size_t i = 0; i < w->places_count && n < room; i++)
    if (txb_lanes_at(w, i) != NULL)
      fds[n++] = txb_lane_reader_pollfd(txb_lanes_at(w, i)->reader);
  return n;
}

static int64_t earlier(int64_t a, int64_t b) {
  return a < b ? a : b;
}

int64_t txb_lanes_readers_due_us(const txb_worker_t *w) {
  int64_t due = INT64_MAX;
  for (size_t i = 0; i < w->places_count; i++) {
    const struct txb_lane *lane = txb_lanes_at(w, i);
    if (lane == NULL)
      continue;
    due = earlier(due, txb_lane_reader_due_us(lane->reader));
    if (lane->pass == TXB_PASS_ENDS && !lane->leaving && !w->operation.active)
      due = earlier(due, lane->pass_us);
  }
  return due;
}
