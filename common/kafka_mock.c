/* librdkafka's mock cluster: it lives in a client of its own that talks to nobody. Its brokers listen on loopback
 * ports, so other processes reach them. */
#include "common/kafka_mock.h"

#include "common/kafka_conf.h"
#include "common/memory.h"

#include <librdkafka/rdkafka_mock.h> /* wants rdkafka.h before it */

struct txb_kafka_mock {
  rd_kafka_t *client;
  rd_kafka_mock_cluster_t *cluster;
};

enum txb_rc txb_kafka_mock_open(int brokers, struct txb_kafka_mock **out, struct txb_error *err) {
  const struct txb_kafka_cluster nowhere = {.brokers = "127.0.0.1:9", .client_id = "txbroker-mock"};
  TXB_CLEANUP(txb_free_ptr) void *memory = NULL;
  rd_kafka_conf_t *conf;
  TXB_TRY(txb_alloc(sizeof(struct txb_kafka_mock), &memory, err));
  struct txb_kafka_mock *mock = memory;
  TXB_TRY(txb_kafka_conf_new(&nowhere, &conf, err));
  TXB_TRY(txb_kafka_client_new(RD_KAFKA_PRODUCER, conf, &mock->client, err));
  mock->cluster = rd_kafka_mock_cluster_new(mock->client, brokers);
  if (mock->cluster == NULL) {
    rd_kafka_destroy(mock->client);
    return TXB_FAIL(err, TXB_FATAL, "cannot start a mock cluster of %d brokers", brokers);
  }
  *out = txb_steal(memory);
  return TXB_OK;
}

const char *txb_kafka_mock_brokers(const struct txb_kafka_mock *mock) {
  return rd_kafka_mock_cluster_bootstraps(mock->cluster);
}

enum txb_rc txb_kafka_mock_topic(struct txb_kafka_mock *mock, const char *topic, int partitions,
                                 struct txb_error *err) {
  rd_kafka_resp_err_t code = rd_kafka_mock_topic_create(mock->cluster, topic, partitions, 1);
  return code == RD_KAFKA_RESP_ERR_NO_ERROR ? TXB_OK : TXB_KAFKA_FAIL(err, code, NULL, "mock topic %s", topic);
}

void txb_kafka_mock_close(struct txb_kafka_mock *mock) {
  if (mock == NULL)
    return;
  rd_kafka_mock_cluster_destroy(mock->cluster);
  rd_kafka_destroy(mock->client);
  txb_free(mock);
}
