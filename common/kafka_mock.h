/* librdkafka's mock cluster inside this process, for `dev` and unit tests. It forgets everything at exit and never
 * proves a delivery claim. */
#ifndef TXB_COMMON_KAFKA_MOCK_H
#define TXB_COMMON_KAFKA_MOCK_H

#include "common/error.h"

struct txb_kafka_mock;
enum txb_rc txb_kafka_mock_open(int brokers, struct txb_kafka_mock **out, struct txb_error *err) TXB_MUST_CHECK;
/* "127.0.0.1:40001,..." borrowed */
const char *txb_kafka_mock_brokers(const struct txb_kafka_mock *mock);
enum txb_rc txb_kafka_mock_topic(struct txb_kafka_mock *mock, const char *topic, int partitions,
                                 struct txb_error *err) TXB_MUST_CHECK;
void txb_kafka_mock_close(struct txb_kafka_mock *mock);

#endif
