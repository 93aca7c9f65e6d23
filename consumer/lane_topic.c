/* The reader of a lane whose log is one partition of a Kafka topic: see lane_reader.h. It fetches by itself, without a
 * place in the group, and what it reads is what a live worker would have read: ids, headers and foreign messages are those
 * of the record where it lies. Records that the filter leaves out move the position on.
 *
 * Records are copied as soon as they have passed the filter: librdkafka keeps a whole fetch for as long as one record of it
 * is out, and a filter that few pass would keep them all. So messages need no consumer, either, once they are read. What
 * the worker does not take yet stays in librdkafka's queue, which has a limit. A crash at any line loses what was read, and
 * nothing else. */
#include <inttypes.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/kafka_consumer.h"
#include "common/memory.h"
#include "consumer/lane_filter.h"
#include "consumer/lane_page.h"
#include "consumer/lane_reader_internal.h"
#include "consumer/worker_internal.h"

#define SECOND_US    INT64_C(1000000)
#define LOOK_AT_ONCE 2000 /* records; then the worker looks at what else there is to do */
#define QUESTION_MS                                                                                                    \
  2000 /* librdkafka has no such question without waiting; asked where it just said that a range is gone */
/* So much read in vain is worth a transaction that moves the position on. */
#define VAIN_RECORDS 20000
#define VAIN_BYTES   (INT64_C(64) << 20)
/* A partition that ends before the range does: it may be that a transaction is open, or that a new leader does not know yet
 * how far it may give. Told when it lasts. */
#define SHORT_US (5 * SECOND_US)

struct topic_reader {
  struct txb_lane_reader base; /* first: see of() */
  const struct txb_kafka_cluster *kafka;
  const char *group;
  char *topic, *cluster_id;
  int32_t partition, as_partition; /* Kafka's; and that of the lane's messages */
  struct txb_lane_filter keys, types;
  struct txb_buffer scratch;

  struct txb_kafka_consumer *consumer;
  bool drained; /* nothing more was there: the descriptor tells when there is */

  bool started;                     /* the consumer fetches */
  bool probing, probed;             /* it is asked for the message below (W9); it was, or there is none to ask for */
  bool doubted;                     /* brokers were away since: what is back may be another topic by the same name */
  struct txb_lane_last first;       /* of the range, when the job was started; -1: not known */
  struct txb_lane_last last, given; /* that was run before; that was given since, -1: none */
  int64_t next_seq;                 /* the first offset that was not looked at */
  int64_t end_seq;                  /* Kafka had nothing from there on, -1: not told */
  int64_t short_us;                 /* when it is to be told that this lies before the range's end */
  int64_t vain_records, vain_bytes;
  struct txb_worker_message *held; /* read, and not given yet */
  int64_t held_size;
};

static struct topic_reader *of(struct txb_lane_reader *reader) {
  return (struct topic_reader *)reader;
}

static const struct topic_reader *of_const(const struct txb_lane_reader *reader) {
  return (const struct topic_reader *)reader;
}

static void drop_held(struct topic_reader *r) {
  if (r->held != NULL)
    txb_lane_message_release(r->held);
  r->held = NULL;
}

static void disconnect(struct txb_lane_reader *reader) {
  struct topic_reader *r = of(reader);
  txb_kafka_consumer_close(txb_steal(r->consumer));
  r->started = r->probing = r->probed = r->doubted = r->drained = false;
}

/* ---- what the worker wants ------------------------------------------------------------------- */

static void reader_bound(struct txb_lane_reader *reader, int64_t seq_to, bool whole, int64_t rate_max) {
  struct topic_reader *r = of(reader);
  (void)whole; /* Kafka has what it has */
  r->base.seq_to = seq_to;
  txb_lane_rate_set(&r->base.rate, rate_max, txb_clock_steady_us());
}

static void begin(struct txb_lane_reader *reader, int64_t offset) {
  struct topic_reader *r = of(reader);
  drop_held(r);
  r->base.fetching = true;
  r->base.paused = r->started = r->probing = r->probed = r->doubted = r->base.tell_end = r->base.tell_range = false;
  r->next_seq = r->base.given_next = offset;
  r->given.seq = r->end_seq = r->base.told_end = -1;
  r->vain_records = r->vain_bytes = 0;
  r->short_us = INT64_MAX;
}

static void reader_fetch(struct txb_lane_reader *reader, int64_t offset, const struct txb_lane_last *last) {
  struct topic_reader *r = of(reader);
  r->last = *last;
  begin(reader, offset);
}

/* What is fetched all the same, when librdkafka does not let go of it, is dropped by the next start. */
static void stop(struct topic_reader *r) {
  struct txb_error ignored;
  enum txb_rc rc = TXB_OK;
  if (r->consumer != NULL)
    rc = txb_kafka_consumer_unfetch(r->consumer, r->topic, r->partition, &ignored);
  (void)rc;
  r->started = r->probing = false;
}

static void reader_unfetch(struct txb_lane_reader *reader) {
  struct topic_reader *r = of(reader);
  drop_held(r);
  stop(r);
  r->base.fetching = r->base.tell_end = r->base.tell_range = false;
}

/* ---- what Kafka tells ------------------------------------------------------------------------ */

static void note_range(struct topic_reader *r, int64_t low, int64_t high) {
  r->base.tell_range = true;
  r->base.low = low;
  r->base.high = high;
  stop(r);
}

/* The offsets of a job are those of one cluster. */
static enum txb_rc check_cluster(struct topic_reader *r, struct txb_error *err) {
  const char *id = txb_kafka_consumer_cluster_id(r->consumer);
  if (strcmp(id, r->cluster_id) == 0)
    return TXB_OK;
  if (id[0] == '\0')
    return TXB_FAIL_FROM(err, TXB_RETRY, TXB_ORIGIN_KAFKA, "Kafka at %s does not tell its cluster id",
                         r->kafka->brokers);
  return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_SAFETY,
                       "Kafka at %s is cluster %s, and the job reads cluster %s: let the worker have that cluster's "
                       "brokers, or cancel the job",
                       r->kafka->brokers, id, r->cluster_id);
}

/* The message that the probe is about: the latest that is known to lie below. */
static const struct txb_lane_last *below(const struct topic_reader *r) {
  if (r->given.seq >= 0 && r->given.seq < r->next_seq)
    return &r->given;
  if (r->last.seq >= 0 && r->last.seq < r->next_seq)
    return &r->last;
  return r->first.seq >= 0 && r->first.seq < r->next_seq ? &r->first : NULL;
}

/* The probe has its answer, or gets none: from now on it is read where the position is. */
static void probe_over(struct topic_reader *r, int64_t seen_next) {
  r->probing = false;
  r->probed = true;
  r->started = seen_next >= r->next_seq;
}

/* Whether another message has the place of the one that was run last, or of the first one of the range (W9). */
static bool differs(struct topic_reader *r, const struct txb_record *record) {
  const struct txb_lane_last *last = r->probing ? below(r) : NULL;
  struct txb_event event;
  if (last == NULL || record->offset != last->seq)
    last = &r->first;
  if (record->offset != last->seq)
    return false;
  txb_event_parse(record, &event);
  return memcmp(&event.id, &last->id, sizeof last->id) != 0;
}

/* Brokers are back: the probe comes once more, before anything that they say is believed. */
static bool begins_again(struct topic_reader *r) {
  bool again = r->doubted;
  if (again)
    r->started = r->probing = r->probed = false;
  r->doubted = false;
  return again;
}

static void count_vain(struct topic_reader *r, const struct txb_record *record) {
  r->vain_records++;
  r->vain_bytes += (int64_t)(record->key.size + record->value.size);
  if (r->vain_records < VAIN_RECORDS && r->vain_bytes < VAIN_BYTES)
    return;
  r->vain_records = r->vain_bytes = 0;
  txb_lane_note_end(&r->base, r->next_seq, true);
}

static enum txb_rc on_record(struct topic_reader *r, const struct txb_record *record, struct txb_error *err) {
  struct txb_event event;
  TXB_TRY(check_cluster(r, err));
  txb_lane_note_well(&r->base);
  if (begins_again(r))
    return TXB_OK;
  if (differs(r, record)) {
    note_range(r, 0, -1); /* nothing of what was read is there */
    return TXB_OK;
  }
  if (r->probing)
    probe_over(r, record->offset + 1);
  if (record->offset < r->next_seq)
    return TXB_OK;
  r->short_us = INT64_MAX;
  if (record->offset >= r->base.seq_to) { /* whatever lay between was compacted away */
    r->next_seq = r->base.seq_to;
    return TXB_OK;
  }
  r->next_seq = record->offset + 1;
  if (txb_lane_filter_passes(&r->keys, record->key)) {
    txb_event_parse(record, &event);
    if (txb_lane_filter_passes(&r->types, event.type)) {
      /* A crash here: what was read is read again, from the position. */
      txb_failpoint("lane.after_read");
      return txb_worker_message_copy(record, &event, &r->scratch, &r->held, &r->held_size, err);
    }
  }
  count_vain(r, record);
  return TXB_OK;
}

/* There is nothing from `offset` on, for now or for ever: to a reader of committed records it is the end of what may be
 * read. What lies right below it, and was not given, are ends of transactions, and what was aborted or compacted away. */
static void on_end(struct topic_reader *r, int64_t offset) {
  txb_lane_note_well(&r->base);
  if (begins_again(r))
    return;
  if (r->probing)
    probe_over(r, offset);
  if (!r->started || offset < r->next_seq)
    return;
  r->next_seq = r->end_seq = offset < r->base.seq_to ? offset : r->base.seq_to;
  r->short_us = txb_clock_steady_us() + SHORT_US;
}

/* The one place that waits, for QUESTION_MS at most; when it is in vain it is trouble, and tried on after a pause. */
static enum txb_rc on_range(struct topic_reader *r, struct txb_error *err) {
  int64_t low = 0, high = 0;
  if (r->probing) { /* only what was run already is gone, or all of it: then it is told again */
    probe_over(r, -1);
    return TXB_OK;
  }
  TXB_TRY(txb_kafka_consumer_range(r->consumer, r->topic, r->partition, QUESTION_MS, &low, &high, err));
  note_range(r, low, high);
  return TXB_OK;
}

static enum txb_rc on_down(struct topic_reader *r, const struct txb_kafka_notice *n, struct txb_error *err) {
  if (n->rc == TXB_FATAL) { /* the client is of no use any more */
    *err = n->err;
    return TXB_RETRY;
  }
  if (txb_kafka_consumer_cluster_id(r->consumer)[0] != '\0')
    TXB_TRY(check_cluster(r, err)); /* what another one says about a topic is beside the point */
  txb_lane_note_trouble(&r->base, &n->err);
  r->doubted = true;
  return TXB_OK;
}

static enum txb_rc on_notice(struct topic_reader *r, struct txb_kafka_notice *n, struct txb_error *err) {
  enum txb_rc rc;
  switch (n->kind) {
  case TXB_KAFKA_RECORD:
    rc = on_record(r, &n->record, err);
    txb_kafka_consumer_release(n->ref);
    return rc;
  case TXB_KAFKA_END:
    TXB_TRY(check_cluster(r, err));
    on_end(r, n->offset);
    return TXB_OK;
  case TXB_KAFKA_RANGE:
    TXB_TRY(check_cluster(r, err));
    return on_range(r, err);
  case TXB_KAFKA_DOWN:
    return on_down(r, n, err);
  case TXB_KAFKA_UP:
    txb_lane_note_well(&r->base);
    return TXB_OK;
  case TXB_KAFKA_ASSIGNED:
  case TXB_KAFKA_REVOKED:
  case TXB_KAFKA_LOST:
  case TXB_KAFKA_COMMITTED:
  case TXB_KAFKA_LEFT:
    return TXB_OK; /* a member's */
  }
  return TXB_OK;
}

/* ---- reading --------------------------------------------------------------------------------- */

static enum txb_rc start(struct topic_reader *r, struct txb_error *err) {
  const struct txb_lane_last *last = r->probed ? NULL : below(r);
  int64_t from = last != NULL ? last->seq : r->next_seq;
  TXB_TRY(txb_kafka_consumer_fetch(r->consumer, r->topic, r->partition, from, 0, err));
  r->started = true;
  r->probing = last != NULL;
  r->drained = false;
  return TXB_OK;
}

static enum txb_rc connect(struct topic_reader *r, struct txb_error *err) {
  struct txb_kafka_consumer_options options = {.cluster = *r->kafka, .group = r->group};
  return txb_kafka_consumer_open(&options, &r->consumer, err);
}

static bool wants_more(const struct topic_reader *r) {
  return r->base.fetching && !r->base.paused && !r->base.tell_range && r->held == NULL;
}

/* A later transaction, or the leader's next look, may move it on. */
static void tell_short(struct topic_reader *r, int64_t now_us) {
  struct txb_error news;
  if (now_us < r->short_us)
    return;
  r->short_us = r->base.in_trouble ? now_us + SHORT_US : INT64_MAX; /* while brokers are away that says enough */
  if (r->base.in_trouble)
    return;
  (void)TXB_FAIL_FROM(&news, TXB_REFUSED, TXB_ORIGIN_KAFKA,
                      "%s partition %d can be read up to offset %" PRId64 ", and the job reads up to %" PRId64
                      ": a transaction is open there, or the topic was made anew or truncated",
                      r->topic, (int)r->partition, r->end_seq, r->base.seq_to);
  txb_lane_note_trouble(&r->base, &news);
}

static enum txb_rc take_notices(struct topic_reader *r, struct txb_error *err) {
  for (int i = 0; i < LOOK_AT_ONCE; i++) {
    struct txb_kafka_notice notice;
    enum txb_rc rc = txb_kafka_consumer_next(r->consumer, &notice, err);
    r->drained = rc == TXB_AGAIN;
    TXB_TRY(rc);
    TXB_TRY(on_notice(r, &notice, err));
    if (!wants_more(r) || !r->started || r->base.tell_end || r->next_seq >= r->base.seq_to)
      return TXB_OK;
  }
  return TXB_OK;
}

static enum txb_rc progress(struct txb_lane_reader *reader, struct txb_error *err) {
  struct topic_reader *r = of(reader);
  int64_t now_us = txb_clock_steady_us();
  if (!wants_more(r))
    return TXB_AGAIN;
  if (r->next_seq < r->base.seq_to) {
    if (r->consumer == NULL && now_us < r->base.retry_us)
      return TXB_AGAIN;
    if (r->consumer == NULL)
      TXB_TRY(connect(r, err));
    if (!r->started)
      TXB_TRY(start(r, err));
    tell_short(r, now_us);
    enum txb_rc rc = take_notices(r, err);
    if (rc != TXB_OK && rc != TXB_AGAIN)
      return rc;
  }
  if (r->next_seq >= r->base.seq_to && r->started)
    stop(r);
  if (wants_more(r) && (r->next_seq >= r->base.seq_to || r->next_seq == r->end_seq))
    txb_lane_note_end(&r->base, r->next_seq, false);
  return TXB_OK;
}

/* ---- notices --------------------------------------------------------------------------------- */

static bool ready(const struct txb_lane_reader *reader) {
  return of_const(reader)->held != NULL;
}

static void give(struct txb_lane_reader *reader, struct txb_lane_notice *out) {
  struct topic_reader *r = of(reader);
  out->size = r->held_size;
  out->message = txb_steal(r->held);
  out->message->record.topic = txb_slice_text(r->topic);
  out->message->record.partition = r->as_partition;
  r->given = (struct txb_lane_last){.seq = out->message->record.offset, .id = out->message->event.id};
  r->vain_records = r->vain_bytes = 0;
}

static struct pollfd reader_pollfd(const struct txb_lane_reader *reader) {
  const struct topic_reader *r = of_const(reader);
  bool reads = r->consumer != NULL && wants_more(r) && r->started;
  return (struct pollfd){.fd = reads ? txb_kafka_consumer_fd(r->consumer) : -1, .events = POLLIN};
}

static int64_t reader_due_us(const struct txb_lane_reader *reader) {
  const struct topic_reader *r = of_const(reader);
  bool at_end = r->next_seq >= r->base.seq_to || r->next_seq == r->end_seq;
  if (txb_lane_may_give(reader))
    return txb_lane_rate_due_us(&r->base.rate);
  if (!wants_more(r))
    return INT64_MAX;
  if (at_end && !txb_lane_end_is_told(&r->base, r->next_seq, false))
    return 0;
  if (r->next_seq >= r->base.seq_to)
    return INT64_MAX;
  if (r->consumer == NULL)
    return r->base.retry_us;
  return r->started && r->drained ? r->short_us : 0;
}

/* ---- making and ending one ------------------------------------------------------------------- */

static void reader_free(struct txb_lane_reader *reader) {
  struct topic_reader *r = of(reader);
  drop_held(r);
  disconnect(reader);
  txb_lane_filter_fini(&r->keys);
  txb_lane_filter_fini(&r->types);
  txb_buffer_fini(&r->scratch);
  txb_free(r->topic);
  txb_free(r->cluster_id);
  txb_free(r);
}

static enum txb_rc fill(struct topic_reader *r, const struct txb_lane_reader_options *o, struct txb_error *err) {
  TXB_TRY(txb_strdup(o->topic, &r->topic, err));
  TXB_TRY(txb_strdup(o->cluster_id, &r->cluster_id, err));
  TXB_TRY(txb_lane_filter_init(&r->keys, o->keys, err));
  return txb_lane_filter_init(&r->types, o->types, err);
}

static const struct txb_lane_reader_kind kind = {.free = reader_free,
                                                 .bound = reader_bound,
                                                 .fetch = reader_fetch,
                                                 .unfetch = reader_unfetch,
                                                 .begin = begin,
                                                 .disconnect = disconnect,
                                                 .progress = progress,
                                                 .ready = ready,
                                                 .give = give,
                                                 .pollfd = reader_pollfd,
                                                 .due_us = reader_due_us};

enum txb_rc txb_lane_topic_new(const struct txb_lane_reader_options *options, struct txb_lane_reader **out,
                               struct txb_error *err) {
  void *memory = NULL;
  TXB_TRY(txb_alloc(sizeof(struct topic_reader), &memory, err));
  struct topic_reader *r = memory;
  *r = (struct topic_reader){.base = TXB_LANE_READER_OF(&kind),
                             .kafka = options->kafka,
                             .group = options->group,
                             .partition = options->from_partition,
                             .as_partition = -options->lane,
                             .first = {.seq = -1},
                             .short_us = INT64_MAX,
                             .end_seq = -1};
  if (options->first != NULL)
    r->first = *options->first;
  txb_buffer_init(&r->scratch);
  enum txb_rc rc = fill(r, options, err);
  if (rc != TXB_OK) {
    reader_free(&r->base);
    return rc;
  }
  *out = &r->base;
  return TXB_OK;
}
