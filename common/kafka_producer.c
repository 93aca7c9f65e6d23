/* librdkafka's producer. Reports come as events of the main queue, which writes to an eventfd when it stops being
 * empty; nothing is done in callbacks. */
#include "common/kafka_producer.h"

#include <string.h>
#include <unistd.h>

#include "common/event.h"
#include "common/kafka_conf.h"
#include "common/loop.h"
#include "common/memory.h"

#define MESSAGE_BYTES_MAX 10000000 /* of the client: well above what an intent can be, so that the broker decides */

struct txb_kafka_topic {
  struct txb_kafka_topic *next;
  rd_kafka_topic_t *native;
  _Atomic int32_t partitions; /* as the client chose among them last, in whichever of its threads; 0: not yet */
  char name[];                /* with its NUL */
};

struct txb_kafka_producer {
  rd_kafka_t *client;
  rd_kafka_queue_t *queue;
  rd_kafka_event_t *reports; /* the event being read, or NULL */
  struct txb_kafka_topic *topics;
  int wake_fd;
  bool broken;
  struct txb_kafka_weather weather;
  enum txb_kafka_news news;
  struct txb_error trouble;
};

static bool user_sets(const struct txb_kafka_cluster *cluster, const char *name) {
  for (const char *const *o = cluster->options; o != NULL && o[0] != NULL; o += 2)
    if (strcmp(o[0], name) == 0)
      return true;
  return false;
}

/* What delivery rests on comes last, so that nothing undoes it. */
static enum txb_rc configure(rd_kafka_conf_t *conf, const struct txb_kafka_producer_options *options,
                             struct txb_error *err) {
  static const char *const always[][2] = {
      {"enable.idempotence", "true"},
      {"acks", "all"},
      {"enable.gapless.guarantee", "true"}, /* R5: a refused message is not passed by */
      {"message.timeout.ms", "0"},          /* sent until Kafka has it */
      {"allow.auto.create.topics", "false"},
      {"topic.metadata.propagation.max.ms", "1000"}, /* then a missing topic is held, and looked for again */
      {"queue.buffering.max.messages", "0"},         /* the relay bounds what is in flight */
      {"queue.buffering.max.kbytes", "2147483647"},
  };
  /* While requests are under way messages gather for the next: a busy producer gets its batches without waiting for
   * them, and a quiet one waits for nothing. Messages without a key would each get a partition of their own by that, since
   * the client derives from linger.ms how long they go to the same one: that is set to its usual 10 ms, which delays
   * none. */
  if (!user_sets(options->cluster, "linger.ms")) {
    TXB_TRY(txb_kafka_conf_set(conf, "linger.ms", "0", err));
    if (!user_sets(options->cluster, "sticky.partitioning.linger.ms"))
      TXB_TRY(txb_kafka_conf_set(conf, "sticky.partitioning.linger.ms", "10", err));
  }
  if (!user_sets(options->cluster, "socket.nagle.disable"))
    TXB_TRY(txb_kafka_conf_set(conf, "socket.nagle.disable", "true", err));
  if (options->batch_bytes > 0)
    TXB_TRY(txb_kafka_conf_set_int(conf, "batch.size", options->batch_bytes, err));
  TXB_TRY(txb_kafka_conf_set_int(conf, "message.max.bytes", MESSAGE_BYTES_MAX, err));
  for (size_t i = 0; i < TXB_ARRAY_SIZE(always); i++)
    TXB_TRY(txb_kafka_conf_set(conf, always[i][0], always[i][1], err));
  rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR);
  return TXB_OK;
}

static void close_ptr(struct txb_kafka_producer **producer) {
  txb_kafka_producer_close(*producer);
}

enum txb_rc txb_kafka_producer_open(const struct txb_kafka_producer_options *options, struct txb_kafka_producer **out,
                                    struct txb_error *err) {
  rd_kafka_conf_t *conf;
  void *p;
  TXB_TRY(txb_alloc(sizeof **out, &p, err));
  TXB_CLEANUP(close_ptr) struct txb_kafka_producer *producer = p;
  producer->wake_fd = -1;
  TXB_TRY(txb_wake_open(&producer->wake_fd, err));
  TXB_TRY(txb_kafka_conf_new(options->cluster, &conf, err));
  enum txb_rc rc = configure(conf, options, err);
  if (rc != TXB_OK) {
    rd_kafka_conf_destroy(conf);
    return rc;
  }
  TXB_TRY(txb_kafka_client_new(RD_KAFKA_PRODUCER, conf, &producer->client, err));
  producer->queue = rd_kafka_queue_get_main(producer->client);
  const uint64_t one = 1; /* what an eventfd takes */
  rd_kafka_queue_io_event_enable(producer->queue, producer->wake_fd, &one, sizeof one);
  *out = txb_steal(producer);
  return TXB_OK;
}

void txb_kafka_producer_close(struct txb_kafka_producer *producer) {
  if (producer == NULL)
    return;
  if (producer->reports != NULL)
    rd_kafka_event_destroy(producer->reports);
  for (struct txb_kafka_topic *topic = producer->topics, *next; topic != NULL; topic = next) {
    next = topic->next;
    rd_kafka_topic_destroy(topic->native);
    txb_free(topic);
  }
  if (producer->queue != NULL) {
    rd_kafka_queue_io_event_enable(producer->queue, -1, NULL, 0);
    rd_kafka_queue_destroy(producer->queue);
  }
  if (producer->client != NULL) {
    rd_kafka_destroy(producer->client);
  }
  if (producer->wake_fd >= 0)
    close(producer->wake_fd);
  txb_free(producer);
}

int txb_kafka_producer_fd(const struct txb_kafka_producer *producer) {
  return producer->wake_fd;
}

bool txb_kafka_producer_is_broken(const struct txb_kafka_producer *producer) {
  return producer->broken;
}

uint32_t txb_kafka_partition_of(struct txb_slice key, uint32_t partitions) {
  TXB_ASSERT(partitions > 0 && partitions <= INT32_MAX);
  return (uint32_t)rd_kafka_msg_partitioner_murmur2(NULL, key.data, key.size, (int32_t)partitions, NULL, NULL);
}

/* As Java producers do; and the client tells nowhere else among how many it chooses. */
static int32_t choose_partition(const rd_kafka_topic_t *native, const void *key, size_t key_size, int32_t partitions,
                                void *topic, void *message) {
  ((struct txb_kafka_topic *)topic)->partitions = partitions;
  return rd_kafka_msg_partitioner_murmur2_random(native, key, key_size, partitions, topic, message);
}

static rd_kafka_topic_t *native_topic(rd_kafka_t *client, struct txb_kafka_topic *topic) {
  rd_kafka_topic_conf_t *conf = rd_kafka_default_topic_conf_dup(client);
  rd_kafka_topic_conf_set_opaque(conf, topic);
  rd_kafka_topic_conf_set_partitioner_cb(conf, choose_partition);
  return rd_kafka_topic_new(client, topic->name, conf); /* which takes the conf, also when it fails */
}

enum txb_rc txb_kafka_producer_topic(struct txb_kafka_producer *producer, const char *name,
                                     struct txb_kafka_topic **out, struct txb_error *err) {
  for (struct txb_kafka_topic *topic = producer->topics; topic != NULL; topic = topic->next)
    if (strcmp(topic->name, name) == 0) {
      *out = topic;
      return TXB_OK;
    }
  size_t size = strlen(name) + 1;
  void *p;
  TXB_TRY(txb_alloc(sizeof(struct txb_kafka_topic) + size, &p, err));
  struct txb_kafka_topic *topic = p;
  memcpy(topic->name, name, size);
  topic->native = native_topic(producer->client, topic);
  if (topic->native == NULL) {
    rd_kafka_resp_err_t code = rd_kafka_last_error();
    txb_free(topic);
    return TXB_KAFKA_FAIL(err, code, NULL, "topic %s", name);
  }
  topic->next = producer->topics;
  producer->topics = topic;
  *out = topic;
  return TXB_OK;
}

enum txb_kafka_outcome txb_kafka_outcome_of(int code) {
  switch (code) {
  case RD_KAFKA_RESP_ERR_NO_ERROR:
    return TXB_KAFKA_ACKED;
  case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
  case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
  case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
  case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
  case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
    return TXB_KAFKA_NO_TOPIC;
  case RD_KAFKA_RESP_ERR_POLICY_VIOLATION: /* a broker's own rule for records */
    return TXB_KAFKA_REFUSED;
  default:
    return txb_kafka_rc((rd_kafka_resp_err_t)code, NULL) == TXB_POISON ? TXB_KAFKA_REFUSED : TXB_KAFKA_LOST;
  }
}

const char *txb_kafka_code_name(int code) {
  return rd_kafka_err2name((rd_kafka_resp_err_t)code);
}

const char *txb_kafka_code_text(int code) {
  return rd_kafka_err2str((rd_kafka_resp_err_t)code);
}

/* ---- sending ---------------------------------------------------------------------------------------------------- */

static rd_kafka_headers_t *native_headers(const struct txb_header *headers, size_t count) {
  rd_kafka_headers_t *native = rd_kafka_headers_new(count);
  for (size_t i = 0; native != NULL && i < count; i++) {
    const struct txb_header *h = &headers[i];
    if (rd_kafka_header_add(native, h->name.data, (ssize_t)h->name.size, h->value.data,
                            h->value.data == NULL ? 0 : (ssize_t)h->value.size) != RD_KAFKA_RESP_ERR_NO_ERROR) {
      rd_kafka_headers_destroy(native);
      return NULL;
    }
  }
  return native;
}

static enum txb_rc send_failed(struct txb_kafka_producer *producer, rd_kafka_resp_err_t code, const char *name,
                               struct txb_error *err) {
  if (code == RD_KAFKA_RESP_ERR__FATAL) {
    producer->broken = true;
    txb_error_set(err, TXB_RETRY, TXB_ORIGIN_KAFKA, __FILE__, __LINE__, "the Kafka producer is broken");
    err->kafka_code = code;
    return TXB_RETRY;
  }
  return TXB_KAFKA_FAIL(err, code, NULL, "cannot send to topic %s", name);
}

enum txb_rc txb_kafka_producer_send(struct txb_kafka_producer *producer, const struct txb_kafka_outgoing *message,
                                    struct txb_error *err) {
  rd_kafka_headers_t *headers = native_headers(message->headers, message->header_count);
  if (headers == NULL)
    return TXB_FAIL(err, TXB_FATAL, "out of memory: headers of a message");
  const rd_kafka_vu_t arguments[] = {
      {.vtype = RD_KAFKA_VTYPE_RKT, .u.rkt = message->topic->native},
      {.vtype = RD_KAFKA_VTYPE_PARTITION, .u.i32 = RD_KAFKA_PARTITION_UA},
      /* No flags: librdkafka neither copies nor frees the payload. */
      {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {(void *)(uintptr_t)message->value.data, message->value.size}},
      {.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {(void *)(uintptr_t)message->key.data, message->key.size}},
      {.vtype = RD_KAFKA_VTYPE_OPAQUE, .u.ptr = (void *)(uintptr_t)message->ticket},
      {.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = headers},
  };
  rd_kafka_error_t *error = rd_kafka_produceva(producer->client, arguments, TXB_ARRAY_SIZE(arguments));
  if (error == NULL)
    return TXB_OK;
  rd_kafka_resp_err_t code = rd_kafka_error_code(error);
  rd_kafka_error_destroy(error);
  rd_kafka_headers_destroy(headers); /* taken on success only */
  return send_failed(producer, code, message->topic->name, err);
}
_Static_assert(sizeof(void *) >= sizeof(uint64_t), "a ticket travels as an opaque pointer");

/* ---- reports ---------------------------------------------------------------------------------------------------- */

static void take_error(struct txb_kafka_producer *producer, rd_kafka_event_t *event) {
  rd_kafka_resp_err_t code = rd_kafka_event_error(event);
  const char *text = rd_kafka_event_error_string(event);
  char fatal[400];
  if (code == RD_KAFKA_RESP_ERR__FATAL) {
    code = rd_kafka_fatal_error(producer->client, fatal, sizeof fatal);
    text = fatal;
    producer->broken = true;
  }
  bool gap = code == RD_KAFKA_RESP_ERR__GAPLESS_GUARANTEE; /* the reports say which messages were refused */
  if (gap || !txb_kafka_weather_error(&producer->weather, code, text))
    return;
  (void)txb_kafka_weather_fail(&producer->weather, code, text, &producer->trouble);
  producer->news = TXB_KAFKA_TROUBLE;
}

static bool next_event(struct txb_kafka_producer *producer) {
  for (;;) {
    rd_kafka_event_t *event = rd_kafka_queue_poll(producer->queue, 0);
    if (event == NULL)
      return false;
    if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_DR) {
      producer->reports = event;
      return true;
    }
    if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_ERROR)
      take_error(producer, event);
    rd_kafka_event_destroy(event);
  }
}

void txb_kafka_producer_reports(struct txb_kafka_producer *producer, struct txb_kafka_report *out, size_t max,
                                size_t *count_out) {
  size_t count = 0;
  txb_wake_clear(producer->wake_fd); /* before looking: what comes after is signalled again */
  while (count < max && (producer->reports != NULL || next_event(producer))) {
    const rd_kafka_message_t *message = rd_kafka_event_message_next(producer->reports);
    if (message == NULL) {
      rd_kafka_event_destroy(producer->reports);
      producer->reports = NULL;
      continue;
    }
    enum txb_kafka_outcome outcome = txb_kafka_outcome_of(message->err);
    const struct txb_kafka_topic *topic = rd_kafka_topic_opaque(message->rkt);
    out[count++] = (struct txb_kafka_report){.ticket = (uint64_t)(uintptr_t)message->_private,
                                             .outcome = outcome,
                                             .code = message->err,
                                             .partition = message->partition,
                                             .partitions = topic->partitions};
    if (outcome == TXB_KAFKA_ACKED && txb_kafka_weather_fair(&producer->weather))
      producer->news = TXB_KAFKA_BACK;
  }
  if (count == max)
    txb_wake_signal(producer->wake_fd); /* there may be more */
  *count_out = count;
}

enum txb_kafka_news txb_kafka_producer_news(struct txb_kafka_producer *producer, struct txb_error *err) {
  enum txb_kafka_news news = producer->news;
  if (news == TXB_KAFKA_TROUBLE)
    *err = producer->trouble;
  producer->news = TXB_KAFKA_NO_NEWS;
  return news;
}

enum txb_rc txb_kafka_producer_probe(struct txb_kafka_producer *producer, struct txb_kafka_topic *topic, int timeout_ms,
                                     struct txb_error *err) {
  const struct rd_kafka_metadata *metadata;
  rd_kafka_resp_err_t code = rd_kafka_metadata(producer->client, 0, topic->native, &metadata, timeout_ms);
  if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
    return TXB_KAFKA_FAIL(err, code, NULL, "looking for topic %s", topic->name);
  code = metadata->topic_cnt == 1 ? metadata->topics[0].err : RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
  if (code == RD_KAFKA_RESP_ERR_NO_ERROR && metadata->topics[0].partition_cnt == 0)
    code = RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
  rd_kafka_metadata_destroy(metadata);
  if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
    return TXB_KAFKA_FAIL(err, code, NULL, "topic %s", topic->name);
  return TXB_OK;
}
