/* Questions to a cluster over one connection, for `status`, `doctor` and `replay`: topics, offsets, topic settings. */
#ifndef TXB_COMMON_KAFKA_INSPECT_H
#define TXB_COMMON_KAFKA_INSPECT_H

#include "common/kafka.h"

struct txb_kafka_inspect;
/* Connects and waits for a first answer. TXB_RETRY (TXB_ORIGIN_KAFKA): none within the time, which also bounds each
 * question below. */
enum txb_rc txb_kafka_inspect_open(const struct txb_kafka_cluster *cluster, int timeout_ms,
                                   struct txb_kafka_inspect **out, struct txb_error *err) TXB_MUST_CHECK;
void txb_kafka_inspect_close(struct txb_kafka_inspect *k); /* NULL is fine */
/* "" when the cluster tells none. Borrowed. */
const char *txb_kafka_inspect_cluster_id(const struct txb_kafka_inspect *k);
int txb_kafka_inspect_brokers(const struct txb_kafka_inspect *k);
/* -1: there is no such topic. */
enum txb_rc txb_kafka_inspect_partitions(struct txb_kafka_inspect *k, const char *topic, int *count_out,
                                         struct txb_error *err) TXB_MUST_CHECK;
/* The first offset there is, and the one that the next message gets. */
enum txb_rc txb_kafka_inspect_offsets(struct txb_kafka_inspect *k, const char *topic, int partition, int64_t *low_out,
                                      int64_t *high_out, struct txb_error *err) TXB_MUST_CHECK;
/* The offset of the first message with that timestamp, in milliseconds, or a later one; -1: there is none. */
enum txb_rc txb_kafka_inspect_offset_at(struct txb_kafka_inspect *k, const char *topic, int partition, int64_t wall_ms,
                                        int64_t *offset_out, struct txb_error *err) TXB_MUST_CHECK;
/* Settings of a topic that are whole numbers: values_out[i] for names[i]. TXB_REFUSED: the cluster tells no settings
 * (no right, or the mock cluster). */
enum txb_rc txb_kafka_inspect_settings(struct txb_kafka_inspect *k, const char *topic, const char *const *names,
                                       size_t count, int64_t *values_out, struct txb_error *err) TXB_MUST_CHECK;

/* Removes a topic with all its messages: for what a demo made itself. */
enum txb_rc txb_kafka_topic_delete(const struct txb_kafka_cluster *cluster, const char *topic, int timeout_ms,
                                   struct txb_error *err) TXB_MUST_CHECK;

#endif
