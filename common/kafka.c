/* Facts about a cluster: is it there, how many partitions has a topic, make a topic. Each call has a client of its own
 * and waits. */
#include "common/kafka.h"

#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/kafka_conf.h"
#include "common/memory.h"

#define ADMIN_SLACK_MS 1000
#define SLICE_MS       500 /* how often a wait looks for an error that waiting won't heal */
#define SLOW_TIMES     3   /* so many times longer is a broker waited for that is only slow */

/* The most telling error that librdkafka's threads reported: "broker transport failure" says less than the reason
 * before it. */
struct cause {
  rd_kafka_resp_err_t code;
  char text[256];
};

static bool is_final(rd_kafka_resp_err_t code) {
  return txb_kafka_rc(code, NULL) == TXB_REFUSED;
}

static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque) {
  struct cause *cause = opaque;
  (void)rk;
  if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN || is_final(cause->code))
    return;
  cause->code = (rd_kafka_resp_err_t)code;
  snprintf(cause->text, sizeof cause->text, "%s", reason);
}

/* A client for questions. A consumer, since its metadata requests don't create topics. `cause` must outlive it. */
static enum txb_rc ask_new(const struct txb_kafka_cluster *cluster, struct cause *cause, rd_kafka_t **out,
                           struct txb_error *err) {
  rd_kafka_conf_t *conf;
  cause->code = RD_KAFKA_RESP_ERR_NO_ERROR;
  cause->text[0] = '\0';
  TXB_TRY(txb_kafka_conf_new(cluster, &conf, err));
  rd_kafka_conf_set_opaque(conf, cause);
  rd_kafka_conf_set_error_cb(conf, on_error);
  return txb_kafka_client_new(RD_KAFKA_CONSUMER, conf, out, err);
}

static void client_free(rd_kafka_t **client) {
  if (*client != NULL)
    rd_kafka_destroy(*client);
}

static void metadata_free(const struct rd_kafka_metadata **metadata) {
  rd_kafka_metadata_destroy(*metadata);
}

static void topic_free(rd_kafka_topic_t **topic) {
  if (*topic != NULL)
    rd_kafka_topic_destroy(*topic);
}

/* Metadata of one topic, or of the cluster alone when topic is NULL. Brokers that refuse have `timeout_ms` to come up. Ones
 * of which nothing bad is known, only that they are slow, have more: a cluster that is making many topics answers nobody
 * for seconds, and who starts then should not give up. */
static enum txb_rc ask_metadata(rd_kafka_t *client, const struct cause *cause, const char *brokers,
                                rd_kafka_topic_t *topic, int timeout_ms, const struct rd_kafka_metadata **out,
                                struct txb_error *err) {
  int64_t until = txb_clock_steady_us() + (int64_t)timeout_ms * 1000, left_ms = timeout_ms;
  rd_kafka_resp_err_t code;
  bool extended = false;
  do {
    code = rd_kafka_metadata(client, 0, topic, out, (int)(left_ms < SLICE_MS ? left_ms : SLICE_MS));
    if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
      return TXB_OK;
    rd_kafka_poll(client, 0); /* error callbacks */
    left_ms = (until - txb_clock_steady_us()) / 1000;
    if (left_ms <= 0 && !extended && cause->code == RD_KAFKA_RESP_ERR_NO_ERROR) {
      extended = true;
      left_ms = timeout_ms * SLOW_TIMES;
      until += left_ms * 1000;
    }
  } while (left_ms > 0 && !is_final(code) && !is_final(cause->code));
  if (cause->code != RD_KAFKA_RESP_ERR_NO_ERROR)
    return TXB_KAFKA_FAIL(err, cause->code, cause->text, "Kafka at %s", brokers);
  return TXB_KAFKA_FAIL(err, code, NULL, "Kafka at %s does not answer", brokers);
}

enum txb_rc txb_kafka_probe(const struct txb_kafka_cluster *cluster, int timeout_ms, char **cluster_id_out,
                            struct txb_error *err) {
  struct cause cause;
  TXB_CLEANUP(client_free) rd_kafka_t *client = NULL;
  TXB_CLEANUP(metadata_free) const struct rd_kafka_metadata *metadata = NULL;
  TXB_TRY(ask_new(cluster, &cause, &client, err));
  TXB_TRY(ask_metadata(client, &cause, cluster->brokers, NULL, timeout_ms, &metadata, err));
  char *id = rd_kafka_clusterid(client, 0); /* came with the metadata */
  enum txb_rc rc = txb_strdup(id != NULL ? id : "", cluster_id_out, err);
  if (id != NULL)
    rd_kafka_mem_free(client, id);
  return rc;
}

enum txb_rc txb_kafka_topic_partitions(const struct txb_kafka_cluster *cluster, const char *topic, int timeout_ms,
                                       int *count_out, struct txb_error *err) {
  struct cause cause;
  TXB_CLEANUP(client_free) rd_kafka_t *client = NULL;
  TXB_CLEANUP(topic_free) rd_kafka_topic_t *handle = NULL;
  TXB_CLEANUP(metadata_free) const struct rd_kafka_metadata *metadata = NULL;
  TXB_TRY(ask_new(cluster, &cause, &client, err));
  handle = rd_kafka_topic_new(client, topic, NULL);
  if (handle == NULL)
    return TXB_KAFKA_FAIL(err, rd_kafka_last_error(), NULL, "topic %s", topic);
  TXB_TRY(ask_metadata(client, &cause, cluster->brokers, handle, timeout_ms, &metadata, err));
  if (metadata->topic_cnt != 1)
    return TXB_FAIL_FROM(err, TXB_RETRY, TXB_ORIGIN_KAFKA, "Kafka at %s said nothing about topic %s", cluster->brokers,
                         topic);
  rd_kafka_resp_err_t code = metadata->topics[0].err;
  if (code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || code == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC) {
    *count_out = -1;
    return TXB_OK;
  }
  if (code != RD_KAFKA_RESP_ERR_NO_ERROR && code != RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE)
    return TXB_KAFKA_FAIL(err, code, NULL, "topic %s", topic);
  *count_out = metadata->topics[0].partition_cnt;
  return TXB_OK;
}

/* ---- making a topic -------------------------------------------------------------------------- */

static void new_topic_free(rd_kafka_NewTopic_t **topic) {
  if (*topic != NULL)
    rd_kafka_NewTopic_destroy(*topic);
}

static void queue_free(rd_kafka_queue_t **queue) {
  if (*queue != NULL)
    rd_kafka_queue_destroy(*queue);
}

static void event_free(rd_kafka_event_t **event) {
  if (*event != NULL)
    rd_kafka_event_destroy(*event);
}

static enum txb_rc send_create(rd_kafka_t *client, rd_kafka_NewTopic_t *topic, rd_kafka_queue_t *queue, int timeout_ms,
                               struct txb_error *err) {
  char errstr[256];
  rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(client, RD_KAFKA_ADMIN_OP_CREATETOPICS);
  rd_kafka_resp_err_t code = rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, errstr, sizeof errstr);
  if (code == RD_KAFKA_RESP_ERR_NO_ERROR) /* how long the controller waits until all brokers know the topic */
    code = rd_kafka_AdminOptions_set_operation_timeout(options, timeout_ms, errstr, sizeof errstr);
  if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
    rd_kafka_CreateTopics(client, &topic, 1, options, queue);
  rd_kafka_AdminOptions_destroy(options);
  return code == RD_KAFKA_RESP_ERR_NO_ERROR ? TXB_OK : TXB_KAFKA_FAIL(err, code, errstr, "cannot ask for a topic");
}

/* The answer's verdict about the one topic. */
static enum txb_rc created(const rd_kafka_event_t *event, const struct cause *cause, const char *topic,
                           struct txb_error *err) {
  if (event == NULL || rd_kafka_event_error((rd_kafka_event_t *)(uintptr_t)event) != RD_KAFKA_RESP_ERR_NO_ERROR) {
    rd_kafka_event_t *failed = (rd_kafka_event_t *)(uintptr_t)event;
    if (cause->code != RD_KAFKA_RESP_ERR_NO_ERROR)
      return TXB_KAFKA_FAIL(err, cause->code, cause->text, "cannot create topic %s", topic);
    const char *text = failed != NULL ? rd_kafka_event_error_string(failed) : NULL;
    if (text != NULL && strstr(text, "waiting for controller") != NULL) /* brokers answer, but none leads */
      return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_KAFKA,
                           "cannot create topic %s: this cluster has no controller; the mock cluster of `txbroker dev` "
                           "can't make topics: leave --brokers out",
                           topic);
    return TXB_KAFKA_FAIL(err, failed != NULL ? rd_kafka_event_error(failed) : RD_KAFKA_RESP_ERR__TIMED_OUT, text,
                          "cannot create topic %s", topic);
  }
  size_t count;
  const rd_kafka_CreateTopics_result_t *result =
      rd_kafka_event_CreateTopics_result((rd_kafka_event_t *)(uintptr_t)event);
  const rd_kafka_topic_result_t *const *topics =
      result != NULL ? rd_kafka_CreateTopics_result_topics(result, &count) : NULL;
  if (topics == NULL || count != 1)
    return TXB_FAIL_FROM(err, TXB_RETRY, TXB_ORIGIN_KAFKA, "cannot create topic %s: the answer does not name it",
                         topic);
  rd_kafka_resp_err_t code = rd_kafka_topic_result_error(topics[0]);
  if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
    return TXB_OK;
  return TXB_KAFKA_FAIL(err, code, rd_kafka_topic_result_error_string(topics[0]), "cannot create topic %s", topic);
}

enum txb_rc txb_kafka_topic_create(const struct txb_kafka_cluster *cluster, const char *topic, int partitions,
                                   int replication, int timeout_ms, struct txb_error *err) {
  struct cause cause;
  char errstr[256];
  TXB_CLEANUP(client_free) rd_kafka_t *client = NULL;
  TXB_CLEANUP(queue_free) rd_kafka_queue_t *queue = NULL;
  TXB_CLEANUP(new_topic_free) rd_kafka_NewTopic_t *what = NULL;
  TXB_CLEANUP(event_free) rd_kafka_event_t *event = NULL;
  TXB_TRY(ask_new(cluster, &cause, &client, err));
  what = rd_kafka_NewTopic_new(topic, partitions, replication, errstr, sizeof errstr);
  if (what == NULL)
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "topic %s with %d partitions and %d replicas: %s", topic,
                         partitions, replication, errstr);
  queue = rd_kafka_queue_new(client);
  TXB_TRY(send_create(client, what, queue, timeout_ms, err));
  event = rd_kafka_queue_poll(queue, timeout_ms + ADMIN_SLACK_MS);
  rd_kafka_poll(client, 0);
  return created(event, &cause, topic, err);
}

const char *txb_kafka_library_version(void) {
  return rd_kafka_version_str();
}
