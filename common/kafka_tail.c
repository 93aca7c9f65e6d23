/* Reading a topic without a consumer group: librdkafka's simple consumer, all partitions into one queue. */
#include "common/kafka_tail.h"

#include <inttypes.h>
#include <string.h>

#include "common/kafka_conf.h"
#include "common/memory.h"

#define ASK_MS   5000
#define LEFT_OUT (-1)

struct part {
  int64_t from; /* where it was begun */
  bool started, ended;
};

struct txb_tail {
  rd_kafka_t *client;
  rd_kafka_topic_t *topic;
  rd_kafka_queue_t *queue;
  rd_kafka_message_t *message; /* of the last answer */
  char *cluster_id;            /* NULL when the cluster tells none */
  char *name;
  int first, count;   /* partitions */
  struct part *parts; /* by partition, from first */
  struct txb_header headers[TXB_EVENT_HEADERS_MAX];
};

static enum txb_rc client_open(struct txb_tail *tail, const struct txb_tail_options *options, struct txb_error *err) {
  rd_kafka_conf_t *conf;
  TXB_TRY(txb_kafka_conf_new(&options->kafka, &conf, err));
  enum txb_rc rc = txb_kafka_conf_set(conf, "enable.partition.eof", "true", err);
  if (rc == TXB_OK)
    rc = txb_kafka_conf_set(conf, "auto.offset.reset", "error", err);
  if (rc != TXB_OK) {
    rd_kafka_conf_destroy(conf);
    return rc;
  }
  TXB_TRY(txb_kafka_client_new(RD_KAFKA_CONSUMER, conf, &tail->client, err));
  tail->topic = rd_kafka_topic_new(tail->client, options->topic, NULL);
  if (tail->topic == NULL)
    return TXB_KAFKA_FAIL(err, rd_kafka_last_error(), NULL, "topic %s", options->topic);
  tail->queue = rd_kafka_queue_new(tail->client);
  return TXB_OK;
}

static int64_t start_of(const struct txb_tail_options *options, size_t partition) {
  switch (options->from) {
  case TXB_TAIL_BEGINNING:
    return RD_KAFKA_OFFSET_BEGINNING;
  case TXB_TAIL_END:
    return RD_KAFKA_OFFSET_END;
  case TXB_TAIL_OFFSETS:
    return partition < options->offset_count ? options->offsets[partition] : LEFT_OUT;
  case TXB_TAIL_OFFSET:
  default:
    return options->offset;
  }
}

static enum txb_rc start(struct txb_tail *tail, const struct txb_tail_options *options, struct txb_error *err) {
  for (int i = 0; i < tail->count; i++) {
    struct part *part = &tail->parts[i];
    part->from = start_of(options, (size_t)(tail->first + i));
    part->ended = options->from == TXB_TAIL_OFFSETS && part->from == LEFT_OUT;
    if (part->ended)
      continue;
    if (rd_kafka_consume_start_queue(tail->topic, tail->first + i, part->from, tail->queue) != 0)
      return TXB_KAFKA_FAIL(err, rd_kafka_last_error(), NULL, "topic %s partition %d", options->topic, tail->first + i);
    part->started = true;
  }
  return TXB_OK;
}

static enum txb_rc open_all(struct txb_tail *tail, const struct txb_tail_options *options, struct txb_error *err) {
  int partitions = 0;
  TXB_TRY(txb_kafka_topic_partitions(&options->kafka, options->topic, options->timeout_ms, &partitions, err));
  if (partitions < 0)
    return TXB_FAIL(err, TXB_REFUSED, "Kafka at %s has no topic %s", options->kafka.brokers, options->topic);
  if (options->partition >= partitions)
    return TXB_FAIL(err, TXB_REFUSED, "topic %s has %d partitions, numbered from 0: there is no %d", options->topic,
                    partitions, options->partition);
  tail->first = options->partition < 0 ? 0 : options->partition;
  tail->count = options->partition < 0 ? partitions : 1;
  void *parts;
  TXB_TRY(txb_alloc_array((size_t)tail->count, sizeof(struct part), &parts, err));
  tail->parts = parts;
  TXB_TRY(txb_strdup(options->topic, &tail->name, err));
  TXB_TRY(client_open(tail, options, err));
  return start(tail, options, err);
}

enum txb_rc txb_tail_open(const struct txb_tail_options *options, struct txb_tail **out, struct txb_error *err) {
  void *memory;
  TXB_TRY(txb_alloc(sizeof(struct txb_tail), &memory, err));
  enum txb_rc rc = open_all(memory, options, err);
  if (rc == TXB_OK)
    *out = memory;
  else
    txb_tail_close(memory);
  return rc;
}

static void forget_message(struct txb_tail *tail) {
  if (tail->message != NULL)
    rd_kafka_message_destroy(tail->message);
  tail->message = NULL;
}

void txb_tail_close(struct txb_tail *tail) {
  if (tail == NULL)
    return;
  forget_message(tail);
  for (int i = 0; tail->parts != NULL && i < tail->count; i++)
    if (tail->parts[i].started)
      (void)rd_kafka_consume_stop(tail->topic, tail->first + i);
  if (tail->queue != NULL)
    rd_kafka_queue_destroy(tail->queue);
  if (tail->topic != NULL)
    rd_kafka_topic_destroy(tail->topic);
  if (tail->cluster_id != NULL)
    rd_kafka_mem_free(tail->client, tail->cluster_id);
  if (tail->client != NULL)
    rd_kafka_destroy(tail->client);
  txb_free(tail->parts);
  txb_free(tail->name);
  txb_free(tail);
}

static size_t take_headers(struct txb_tail *tail) {
  rd_kafka_headers_t *headers;
  size_t count = 0;
  if (rd_kafka_message_headers(tail->message, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR)
    return 0;
  const char *name;
  const void *value;
  size_t size;
  while (count < TXB_EVENT_HEADERS_MAX &&
         rd_kafka_header_get_all(headers, count, &name, &value, &size) == RD_KAFKA_RESP_ERR_NO_ERROR)
    tail->headers[count++] = (struct txb_header){txb_slice_text(name), txb_slice_of(value, size)};
  return count;
}

static void describe(struct txb_tail *tail, struct txb_record *out) {
  const rd_kafka_message_t *m = tail->message;
  rd_kafka_timestamp_type_t kind;
  int64_t timestamp = rd_kafka_message_timestamp(m, &kind);
  if (tail->cluster_id == NULL)
    tail->cluster_id = rd_kafka_clusterid(tail->client, 0);
  *out = (struct txb_record){.cluster = txb_slice_text(tail->cluster_id),
                             .topic = txb_slice_text(tail->name),
                             .partition = m->partition,
                             .offset = m->offset,
                             .timestamp_ms = kind == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE ? -1 : timestamp,
                             .key = txb_slice_of(m->key, m->key_len),
                             .value = txb_slice_of(m->payload, m->len),
                             .headers = tail->headers};
  out->header_count = take_headers(tail);
}

static struct part *part_of(const struct txb_tail *tail, int32_t partition) {
  return partition < tail->first || partition >= tail->first + tail->count ? NULL
                                                                           : &tail->parts[partition - tail->first];
}

static enum txb_rc told_error(struct txb_tail *tail, struct txb_error *err) {
  const rd_kafka_message_t *m = tail->message;
  struct part *part = part_of(tail, m->partition);
  if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
    if (part != NULL)
      part->ended = true;
    return TXB_AGAIN;
  }
  if (m->err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET || m->err == RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE) {
    /* What there is, as far as the cluster tells: the position was a number that somebody typed. */
    int64_t low, high;
    if (rd_kafka_query_watermark_offsets(tail->client, tail->name, m->partition, &low, &high, ASK_MS) ==
        RD_KAFKA_RESP_ERR_NO_ERROR)
      return TXB_FAIL(err, TXB_REFUSED, "topic %s: partition %d has offsets %" PRId64 " to %" PRId64 ", not %" PRId64,
                      tail->name, (int)m->partition, low, high, part == NULL ? -1 : part->from);
  }
  return TXB_KAFKA_FAIL(err, m->err, rd_kafka_message_errstr(m), "topic %s", tail->name);
}

enum txb_rc txb_tail_next(struct txb_tail *tail, int timeout_ms, struct txb_record *out, struct txb_error *err) {
  forget_message(tail);
  tail->message = rd_kafka_consume_queue(tail->queue, timeout_ms);
  if (tail->message == NULL)
    return TXB_AGAIN;
  if (tail->message->err != RD_KAFKA_RESP_ERR_NO_ERROR)
    return told_error(tail, err);
  struct part *part = part_of(tail, tail->message->partition);
  if (part == NULL || !part->started)
    return TXB_AGAIN; /* stopped meanwhile */
  part->ended = false;
  describe(tail, out);
  return TXB_OK;
}

void txb_tail_stop(struct txb_tail *tail, int32_t partition) {
  struct part *part = part_of(tail, partition);
  if (part == NULL)
    return;
  if (part->started)
    (void)rd_kafka_consume_stop(tail->topic, partition);
  part->started = false;
  part->ended = true;
}

bool txb_tail_at_end(const struct txb_tail *tail) {
  for (int i = 0; i < tail->count; i++)
    if (!tail->parts[i].ended)
      return false;
  return true;
}
