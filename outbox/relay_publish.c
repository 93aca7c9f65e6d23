/* Rows to messages, and what Kafka says about them. What is in flight when the process dies is in Kafka or not; the
 * next relay sends it in any case. */
#include <jansson.h>
#include <string.h>

#include "common/clock.h"
#include "common/event.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/random.h"
#include "outbox/relay_internal.h"
#include "outbox/relay_origin.h"

#define SLICE_ROWS       256 /* then the server's next answer is taken off the socket */
#define REPORTS_AT_ONCE  1024
#define PROBE_TIMEOUT_MS 100     /* nothing else goes on meanwhile */
#define BATCH_BYTES      1000000 /* librdkafka's default */
#define BATCH_BYTES_MIN  16384

/* ---- results: kept while rows of them are under way ------------------------------------------------------------- */

void txb_relay_results_kept(struct txb_relay *r, uint64_t from) {
  for (uint64_t t = from; t < r->core.head; t++)
    ((struct txb_relay_result *)txb_relay_core_slot(&r->core, t)->owner)->refs++;
}

void txb_relay_results_released(struct txb_relay *r, uint64_t to) {
  for (; r->released < to; r->released++)
    txb_relay_result_unref(txb_relay_core_slot(&r->core, r->released)->owner);
}

/* ---- producers -------------------------------------------------------------------------------------------------- */

enum txb_rc txb_relay_producer_open(struct txb_relay *r, struct txb_error *err) {
  const struct txb_kafka_producer_options options = {.cluster = &r->o->kafka, .batch_bytes = r->batch_bytes};
  return txb_kafka_producer_open(&options, &r->producer, err);
}

void txb_relay_producer_close(struct txb_relay *r) {
  txb_kafka_producer_close(txb_steal(r->producer));
  txb_relay_topics_drop_handles(&r->topics);
  r->unsent = UINT64_MAX;
}

enum txb_rc txb_relay_replace_producer(struct txb_relay *r, struct txb_error *err) {
  txb_relay_producer_close(r);
  TXB_TRY(txb_relay_producer_open(r, err));
  r->replace = false;
  r->replace_us = txb_clock_steady_us() + 1000 * txb_backoff_next_ms(&r->replacing, txb_random_u64());
  return txb_relay_step(r, &(struct txb_relay_event){.kind = TXB_RELAY_REPLACED}, err);
}

enum txb_rc txb_relay_probe(struct txb_relay *r, struct txb_error *err) {
  struct txb_kafka_topic *topic;
  struct txb_error answer;
  const char *name = r->topics.items[r->probe_topic].name;
  struct txb_relay_event event = {.kind = TXB_RELAY_PROBED, .u.probe = {.topic = r->probe_topic}};
  r->probe = false;
  enum txb_rc rc = txb_kafka_producer_topic(r->producer, name, &topic, &answer);
  if (rc == TXB_OK)
    rc = txb_kafka_producer_probe(r->producer, topic, PROBE_TIMEOUT_MS, &answer);
  if (rc == TXB_FATAL && answer.kafka_code == 0) {
    *err = answer;
    return rc;
  }
  event.u.probe.there = rc == TXB_OK;
  /* Once a hold: a topic that is there and may not be written to is found there again and again. */
  if (rc == TXB_OK && !r->topics.items[r->probe_topic].told_there)
    txb_log(TXB_LOG_INFO, TXB_MSG("topic is there, its held intents go out now"), TXB_F("source", r->o->source),
            TXB_F("topic", name));
  r->topics.items[event.u.probe.topic].told_there |= rc == TXB_OK;
  return txb_relay_step(r, &event, err);
}

/* ---- a row as a message ----------------------------------------------------------------------------------------- */

struct message_headers {
  struct txb_header items[TXB_HEADERS_MAX + 6];
  size_t count;
  char id[37], time[28];
  json_t *own; /* the intent's own headers, whose strings the items borrow */
};

static void message_headers_fini(struct message_headers *h) {
  json_decref(h->own);
}

static void add_header(struct message_headers *h, const char *name, struct txb_slice value) {
  TXB_ASSERT(h->count < TXB_ARRAY_SIZE(h->items));
  h->items[h->count++] = (struct txb_header){.name = txb_slice_text(name), .value = value};
}

/* The database checks that they are a JSON object of at most TXB_HEADERS_MAX strings. One that is not, put there by
 * a superuser, is left out: the message matters more. */
static void add_own_headers(struct message_headers *h, struct txb_slice text) {
  const char *name;
  json_t *value;
  if (text.data == NULL)
    return;
  h->own = json_loadb(text.data, text.size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
  json_object_foreach(h->own, name, value) {
    if (json_is_string(value) && h->count < TXB_ARRAY_SIZE(h->items))
      add_header(h, name, txb_slice_of(json_string_value(value), json_string_length(value)));
  }
}

/* ce_time. Rows of a read are mostly of one second: only its microseconds are written anew. */
static void format_time(struct txb_relay *r, int64_t wall_us, char out[28]) {
  int64_t second = wall_us / 1000000, rest = wall_us % 1000000;
  if (wall_us < 0) {
    txb_clock_format(wall_us, out);
    return;
  }
  if (second != r->time_second || r->time_text[0] == '\0')
    txb_clock_format(wall_us, r->time_text);
  r->time_second = second;
  memcpy(out, r->time_text, sizeof r->time_text);
  for (int i = 25; i >= 20; i--, rest /= 10) /* "2026-01-31T12:00:00.123456Z" */
    out[i] = (char)('0' + rest % 10);
}

/* CloudEvents 1.0 in Kafka's binary mode (protocol binding 3.2). */
static void build_headers(struct txb_relay *r, const struct txb_pg_result *result, int row, struct message_headers *h) {
  struct txb_uuid id;
  struct txb_slice content_type = txb_pg_bytes(result, row, 6);
  h->count = 0;
  h->own = NULL;
  txb_pg_uuid(result, row, 1, &id);
  txb_uuid_format(&id, h->id);
  format_time(r, txb_pg_timestamptz_us(result, row, 8), h->time);
  add_header(h, "ce_specversion", txb_slice_of("1.0", 3));
  add_header(h, "ce_id", txb_slice_of(h->id, 36));
  add_header(h, "ce_source", txb_slice_text(r->event_source));
  add_header(h, "ce_type", txb_pg_bytes(result, row, 4));
  add_header(h, "ce_time", txb_slice_of(h->time, 27));
  if (content_type.data != NULL)
    add_header(h, "content-type", content_type);
  if (!txb_pg_is_null(result, row, 7))
    add_own_headers(h, txb_pg_jsonb(result, row, 7));
}

static enum txb_rc topic_handle(struct txb_relay *r, uint32_t number, struct txb_kafka_topic **out,
                                struct txb_error *err) {
  struct txb_relay_topic_name *topic = &r->topics.items[number];
  if (topic->handle == NULL)
    TXB_TRY(txb_kafka_producer_topic(r->producer, topic->name, &topic->handle, err));
  *out = topic->handle;
  return TXB_OK;
}

static enum txb_rc send_copy(struct txb_relay *r, struct txb_kafka_outgoing *message, const struct txb_slot *slot,
                             const struct txb_pg_result *result, struct txb_error *err) {
  TXB_CLEANUP(txb_copy_headers_fini) struct txb_copy_headers headers;
  struct txb_uuid id;
  struct txb_copy copy = {.id = &id,
                          .content_type = txb_pg_bytes(result, (int)slot->row, 6),
                          .headers = txb_pg_jsonb(result, (int)slot->row, 7),
                          .origin = txb_pg_jsonb(result, (int)slot->row, 10)};
  txb_pg_uuid(result, (int)slot->row, 1, &id);
  txb_copy_headers_init(&headers);
  TXB_TRY(txb_copy_headers_make(&headers, &copy, err));
  message->headers = headers.items;
  message->header_count = headers.count;
  return txb_kafka_producer_send(r->producer, message, err);
}

static enum txb_rc send_one(struct txb_relay *r, uint64_t ticket, const struct txb_slot *slot, struct txb_error *err) {
  const struct txb_pg_result *result = ((const struct txb_relay_result *)slot->owner)->result;
  TXB_CLEANUP(message_headers_fini) struct message_headers headers;
  struct txb_kafka_outgoing message = {.key = slot->sent_key.data != NULL ? slot->sent_key : slot->key,
                                       .value = txb_pg_bytes(result, (int)slot->row, 5),
                                       .ticket = ticket};
  headers.own = NULL;
  TXB_TRY(topic_handle(r, slot->topic, &message.topic, err));
  if (!txb_pg_is_null(result, (int)slot->row, 10))
    return send_copy(r, &message, slot, result, err);
  build_headers(r, result, (int)slot->row, &headers);
  message.headers = headers.items;
  message.header_count = headers.count;
  return txb_kafka_producer_send(r->producer, &message, err);
}

static enum txb_report_outcome outcome_of(int code) {
  switch (txb_kafka_outcome_of(code)) {
  case TXB_KAFKA_ACKED:
    return TXB_REPORT_ACKED;
  case TXB_KAFKA_REFUSED:
    return TXB_REPORT_REFUSED;
  case TXB_KAFKA_NO_TOPIC:
    return TXB_REPORT_NO_TOPIC;
  case TXB_KAFKA_LOST:
    return TXB_REPORT_LOST;
  }
  return TXB_REPORT_LOST;
}

bool txb_relay_can_produce(const struct txb_relay *r) {
  return r->core.send_count > 0 && !r->replace && r->unsent == UINT64_MAX;
}

static bool next_ticket(struct txb_relay *r, uint64_t *out) {
  if (r->unsent == UINT64_MAX)
    return txb_relay_core_next_send(&r->core, out);
  *out = r->unsent;
  r->unsent = UINT64_MAX;
  return true;
}

enum txb_rc txb_relay_produce(struct txb_relay *r, bool *more_out, struct txb_error *err) {
  uint64_t ticket;
  int n = 0;
  *more_out = false;
  while (n < SLICE_ROWS && !r->replace && next_ticket(r, &ticket)) {
    struct txb_error refusal;
    enum txb_rc rc = send_one(r, ticket, txb_relay_core_slot(&r->core, ticket), &refusal);
    n++;
    if (rc == TXB_OK)
      continue;
    if (rc == TXB_AGAIN) { /* the client's queue is full: its reports make room */
      r->unsent = ticket;
      return TXB_OK;
    }
    if (rc == TXB_FATAL && refusal.kafka_code == 0) {
      *err = refusal;
      return rc;
    }
    /* What stands behind it must not go out before the core has decided. */
    struct txb_report report = {
        .ticket = ticket, .outcome = outcome_of(refusal.kafka_code), .code = refusal.kafka_code};
    return txb_relay_step(
        r, &(struct txb_relay_event){.kind = TXB_RELAY_REPORTED, .u.reports = {.items = &report, .count = 1}}, err);
  }
  if (n > 0)
    /* A crash here leaves messages that may or may not be in Kafka, all above the stored position or in its holes. */
    txb_failpoint("relay.after_produce");
  *more_out = txb_relay_can_produce(r);
  return TXB_OK;
}

/* ---- reports ---------------------------------------------------------------------------------------------------- */

/* A batch may be refused because its messages add up to too much: the next producers make smaller ones. When it was
 * one message's fault after all, the size goes back. */
static void choose_batch_bytes(struct txb_relay *r, const struct txb_report *report) {
  const struct txb_slot *slot = txb_relay_core_slot(&r->core, report->ticket);
  int64_t now = r->batch_bytes == 0 ? BATCH_BYTES : r->batch_bytes;
  if (slot->suspect) {
    r->batch_bytes = 0;
    return;
  }
  r->batch_bytes = now / 4 > BATCH_BYTES_MIN ? now / 4 : BATCH_BYTES_MIN;
  txb_log(TXB_LOG_INFO, TXB_MSG("Kafka refuses a batch: its messages are sent again one at a time"),
          TXB_F("source", r->o->source), TXB_F("topic", r->topics.items[slot->topic].name),
          TXB_F("error", txb_kafka_code_text(report->code)));
}

static void tell_news(struct txb_relay *r) {
  struct txb_error news;
  switch (txb_kafka_producer_news(r->producer, &news)) {
  case TXB_KAFKA_NO_NEWS:
    return;
  case TXB_KAFKA_TROUBLE:
    txb_log(TXB_LOG_WARN, TXB_MSG("Kafka is in trouble, trying on"), TXB_F("source", r->o->source),
            TXB_F("error", news.message));
    snprintf(r->kafka_error, sizeof r->kafka_error, "%.399s", news.message);
    return;
  case TXB_KAFKA_BACK:
    txb_log(TXB_LOG_INFO, TXB_MSG("Kafka is back"), TXB_F("source", r->o->source));
    r->kafka_error[0] = '\0';
    return;
  }
}

enum txb_rc txb_relay_reports(struct txb_relay *r, bool *some_out, struct txb_error *err) {
  size_t count;
  bool refused = false, acked = false;
  *some_out = false;
  txb_kafka_producer_reports(r->producer, r->kafka_reports, REPORTS_AT_ONCE, &count);
  tell_news(r);
  for (size_t i = 0; i < count; i++) {
    const struct txb_kafka_report *k = &r->kafka_reports[i];
    r->reports[i] = (struct txb_report){.ticket = k->ticket,
                                        .outcome = outcome_of(k->code),
                                        .code = k->code,
                                        .partition = k->partition,
                                        .partitions = k->partitions};
    acked |= k->outcome == TXB_KAFKA_ACKED;
    if (k->outcome == TXB_KAFKA_REFUSED && !refused)
      choose_batch_bytes(r, &r->reports[i]);
    refused |= k->outcome == TXB_KAFKA_REFUSED;
  }
  if (acked) {
    txb_backoff_reset(&r->replacing);
    r->kafka_error[0] = '\0';
    /* A crash here: acknowledged, and above the stored position, so sent once more. */
    txb_failpoint("relay.after_ack");
  }
  bool broken = txb_kafka_producer_is_broken(r->producer) && !r->replace;
  if (count == 0 && !broken)
    return TXB_OK;
  *some_out = true;
  TXB_TRY(txb_relay_step(
      r, &(struct txb_relay_event){.kind = TXB_RELAY_REPORTED, .u.reports = {.items = r->reports, .count = count}},
      err));
  r->replace = r->replace || broken;
  return TXB_OK;
}
