/* Questions to a cluster over one connection. A consumer without a group: its metadata requests make no topics. */
#include "common/kafka_inspect.h"

#include <stdio.h>
#include <string.h>

#include "common/kafka_conf.h"
#include "common/memory.h"

struct txb_kafka_inspect {
  rd_kafka_t *client;
  int timeout_ms;
  int brokers;
  char *cluster_id;
};

static enum txb_rc metadata(struct txb_kafka_inspect *k, rd_kafka_topic_t *topic, const struct rd_kafka_metadata **out,
                            struct txb_error *err) {
  rd_kafka_resp_err_t code = rd_kafka_metadata(k->client, 0, topic, out, k->timeout_ms);
  return code == RD_KAFKA_RESP_ERR_NO_ERROR ? TXB_OK : TXB_KAFKA_FAIL(err, code, NULL, "Kafka does not answer");
}

static enum txb_rc open_all(struct txb_kafka_inspect *k, const struct txb_kafka_cluster *cluster, int timeout_ms,
                            struct txb_error *err) {
  rd_kafka_conf_t *conf;
  /* The probe tells best why a cluster can't be reached. */
  TXB_TRY(txb_kafka_probe(cluster, timeout_ms, &k->cluster_id, err));
  TXB_TRY(txb_kafka_conf_new(cluster, &conf, err));
  TXB_TRY(txb_kafka_client_new(RD_KAFKA_CONSUMER, conf, &k->client, err));
  k->timeout_ms = timeout_ms;
  const struct rd_kafka_metadata *told;
  TXB_TRY(metadata(k, NULL, &told, err));
  k->brokers = told->broker_cnt;
  rd_kafka_metadata_destroy(told);
  return TXB_OK;
}

enum txb_rc txb_kafka_inspect_open(const struct txb_kafka_cluster *cluster, int timeout_ms,
                                   struct txb_kafka_inspect **out, struct txb_error *err) {
  void *memory;
  TXB_TRY(txb_alloc(sizeof(struct txb_kafka_inspect), &memory, err));
  enum txb_rc rc = open_all(memory, cluster, timeout_ms, err);
  if (rc == TXB_OK)
    *out = memory;
  else
    txb_kafka_inspect_close(memory);
  return rc;
}

void txb_kafka_inspect_close(struct txb_kafka_inspect *k) {
  if (k == NULL)
    return;
  if (k->client != NULL)
    rd_kafka_destroy(k->client);
  txb_free(k->cluster_id);
  txb_free(k);
}

const char *txb_kafka_inspect_cluster_id(const struct txb_kafka_inspect *k) {
  return k->cluster_id;
}

int txb_kafka_inspect_brokers(const struct txb_kafka_inspect *k) {
  return k->brokers;
}

enum txb_rc txb_kafka_inspect_partitions(struct txb_kafka_inspect *k, const char *topic, int *count_out,
                                         struct txb_error *err) {
  rd_kafka_topic_t *handle = rd_kafka_topic_new(k->client, topic, NULL);
  if (handle == NULL)
    return TXB_KAFKA_FAIL(err, rd_kafka_last_error(), NULL, "topic %s", topic);
  const struct rd_kafka_metadata *told = NULL;
  enum txb_rc rc = metadata(k, handle, &told, err);
  rd_kafka_topic_destroy(handle);
  TXB_TRY(rc);
  rd_kafka_resp_err_t code = told->topic_cnt == 1 ? told->topics[0].err : RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
  if (code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || code == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC)
    *count_out = -1;
  else if (code == RD_KAFKA_RESP_ERR_NO_ERROR || code == RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE)
    *count_out = told->topics[0].partition_cnt;
  else
    rc = TXB_KAFKA_FAIL(err, code, NULL, "topic %s", topic);
  rd_kafka_metadata_destroy(told);
  return rc;
}

enum txb_rc txb_kafka_inspect_offsets(struct txb_kafka_inspect *k, const char *topic, int partition, int64_t *low_out,
                                      int64_t *high_out, struct txb_error *err) {
  int64_t low, high;
  rd_kafka_resp_err_t code = rd_kafka_query_watermark_offsets(k->client, topic, partition, &low, &high, k->timeout_ms);
  if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
    return TXB_KAFKA_FAIL(err, code, NULL, "topic %s partition %d", topic, partition);
  *low_out = low;
  *high_out = high;
  return TXB_OK;
}

enum txb_rc txb_kafka_inspect_offset_at(struct txb_kafka_inspect *k, const char *topic, int partition, int64_t wall_ms,
                                        int64_t *offset_out, struct txb_error *err) {
  rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
  rd_kafka_topic_partition_list_add(list, topic, partition)->offset = wall_ms;
  rd_kafka_resp_err_t code = rd_kafka_offsets_for_times(k->client, list, k->timeout_ms);
  if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
    code = list->elems[0].err;
  *offset_out = list->elems[0].offset < 0 ? -1 : list->elems[0].offset;
  rd_kafka_topic_partition_list_destroy(list);
  return code == RD_KAFKA_RESP_ERR_NO_ERROR
             ? TXB_OK
             : TXB_KAFKA_FAIL(err, code, NULL, "topic %s partition %d", topic, partition);
}

/* ---- settings of a topic
 * ------------------------------------------------------------------------------------------------------------------ */

static rd_kafka_event_t *describe(struct txb_kafka_inspect *k, const char *topic) {
  char ignored[128];
  rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(k->client, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
  rd_kafka_ConfigResource_t *resource = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, topic);
  rd_kafka_queue_t *queue = rd_kafka_queue_new(k->client);
  (void)rd_kafka_AdminOptions_set_request_timeout(options, k->timeout_ms, ignored, sizeof(ignored));
  rd_kafka_DescribeConfigs(k->client, &resource, 1, options, queue);
  rd_kafka_event_t *event = rd_kafka_queue_poll(queue, k->timeout_ms + 1000);
  rd_kafka_queue_destroy(queue);
  rd_kafka_ConfigResource_destroy(resource);
  rd_kafka_AdminOptions_destroy(options);
  return event;
}

static bool find_setting(const rd_kafka_ConfigResource_t *resource, const char *name, int64_t *out) {
  size_t count;
  const rd_kafka_ConfigEntry_t **entries = rd_kafka_ConfigResource_configs(resource, &count);
  for (size_t i = 0; i < count; i++) {
    const char *value = rd_kafka_ConfigEntry_value(entries[i]);
    if (strcmp(rd_kafka_ConfigEntry_name(entries[i]), name) != 0 || value == NULL)
      continue;
    *out = strtoll(value, NULL, 10);
    return true;
  }
  return false;
}

enum txb_rc txb_kafka_inspect_settings(struct txb_kafka_inspect *k, const char *topic, const char *const *names,
                                       size_t count, int64_t *values_out, struct txb_error *err) {
  rd_kafka_event_t *event = describe(k, topic);
  if (event == NULL)
    return TXB_FAIL(err, TXB_REFUSED, "topic %s: the cluster tells no settings", topic);
  const rd_kafka_DescribeConfigs_result_t *result = rd_kafka_event_DescribeConfigs_result(event);
  size_t resources = 0;
  const rd_kafka_ConfigResource_t **list =
      result == NULL ? NULL : rd_kafka_DescribeConfigs_result_resources(result, &resources);
  enum txb_rc rc = TXB_OK;
  if (rd_kafka_event_error(event) != RD_KAFKA_RESP_ERR_NO_ERROR || resources != 1 ||
      rd_kafka_ConfigResource_error(list[0]) != RD_KAFKA_RESP_ERR_NO_ERROR)
    rc = TXB_FAIL(err, TXB_REFUSED, "topic %s: the cluster tells no settings", topic);
  for (size_t i = 0; rc == TXB_OK && i < count; i++)
    if (!find_setting(list[0], names[i], &values_out[i]))
      rc = TXB_FAIL(err, TXB_REFUSED, "topic %s: the cluster does not tell %s", topic, names[i]);
  rd_kafka_event_destroy(event);
  return rc;
}

/* ---- removing a topic ------------------------------------------------------------------------------------ */

static rd_kafka_event_t *ask_delete(rd_kafka_t *client, const char *topic, int timeout_ms) {
  char ignored[128];
  rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(client, RD_KAFKA_ADMIN_OP_DELETETOPICS);
  rd_kafka_DeleteTopic_t *what = rd_kafka_DeleteTopic_new(topic);
  rd_kafka_queue_t *queue = rd_kafka_queue_new(client);
  (void)rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, ignored, sizeof(ignored));
  rd_kafka_DeleteTopics(client, &what, 1, options, queue);
  rd_kafka_event_t *event = rd_kafka_queue_poll(queue, timeout_ms + 1000);
  rd_kafka_queue_destroy(queue);
  rd_kafka_DeleteTopic_destroy(what);
  rd_kafka_AdminOptions_destroy(options);
  return event;
}

static rd_kafka_resp_err_t deleted(rd_kafka_event_t *event) {
  size_t count = 0;
  if (event == NULL)
    return RD_KAFKA_RESP_ERR__TIMED_OUT;
  if (rd_kafka_event_error(event) != RD_KAFKA_RESP_ERR_NO_ERROR)
    return rd_kafka_event_error(event);
  const rd_kafka_DeleteTopics_result_t *result = rd_kafka_event_DeleteTopics_result(event);
  const rd_kafka_topic_result_t **topics = result == NULL ? NULL : rd_kafka_DeleteTopics_result_topics(result, &count);
  return count == 1 ? rd_kafka_topic_result_error(topics[0]) : RD_KAFKA_RESP_ERR__BAD_MSG;
}

enum txb_rc txb_kafka_topic_delete(const struct txb_kafka_cluster *cluster, const char *topic, int timeout_ms,
                                   struct txb_error *err) {
  rd_kafka_conf_t *conf;
  rd_kafka_t *client;
  TXB_TRY(txb_kafka_conf_new(cluster, &conf, err));
  TXB_TRY(txb_kafka_client_new(RD_KAFKA_CONSUMER, conf, &client, err));
  rd_kafka_event_t *event = ask_delete(client, topic, timeout_ms);
  rd_kafka_resp_err_t code = deleted(event);
  if (event != NULL)
    rd_kafka_event_destroy(event);
  rd_kafka_destroy(client);
  return code == RD_KAFKA_RESP_ERR_NO_ERROR ? TXB_OK : TXB_KAFKA_FAIL(err, code, NULL, "can't remove topic %s", topic);
}
