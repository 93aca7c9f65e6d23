/* The port to librdkafka, what producer and consumer share: client configuration, error codes, cluster facts. */
#ifndef TXB_COMMON_KAFKA_H
#define TXB_COMMON_KAFKA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/slice.h"

/* What a user may set under kafka.client (librdkafka names); everything that delivery rests on (acks, idempotence,
 * retries, partitioner, offsets) is not in this list and is refused by name. Secrets (sasl.password, ssl.key.password,
 * ...) may be given as "env:NAME" or "file:PATH" and are masked everywhere. */
struct txb_kafka_option {
  const char *name;
  bool secret;
};
extern const struct txb_kafka_option txb_kafka_options_allowed[]; /* NULL-ended by name */
bool txb_kafka_option_is_allowed(const char *name);

/* How to reach a cluster. Strings are borrowed for the call. */
struct txb_kafka_cluster {
  const char *brokers;        /* bootstrap list */
  const char *const *options; /* NULL, or name, value, ..., NULL from the allow-list */
  const char *client_id;      /* "txbroker-relay-bank_a" */
};

/* Checks names and values without connecting. TXB_REFUSED names the wrong one and the nearest allowed. */
enum txb_rc txb_kafka_options_check(const char *const *options, struct txb_error *err) TXB_MUST_CHECK;

/* Whether the cluster answers within the time; cluster_id_out gets its id ("" when it tells none), to be freed by the
 * caller. TXB_RETRY with TXB_ORIGIN_KAFKA when not. */
enum txb_rc txb_kafka_probe(const struct txb_kafka_cluster *cluster, int timeout_ms, char **cluster_id_out,
                            struct txb_error *err) TXB_MUST_CHECK;

/* Partition counts of topics: count_out -1 when the topic does not exist. */
enum txb_rc txb_kafka_topic_partitions(const struct txb_kafka_cluster *cluster, const char *topic, int timeout_ms,
                                       int *count_out, struct txb_error *err) TXB_MUST_CHECK;
/* Creates a topic if it is missing (admin API; not on the mock cluster, which creates on use). TXB_DUPLICATE when it is
 * there. */
enum txb_rc txb_kafka_topic_create(const struct txb_kafka_cluster *cluster, const char *topic, int partitions,
                                   int replication, int timeout_ms, struct txb_error *err) TXB_MUST_CHECK;

/* "2.0.2" */
const char *txb_kafka_library_version(void);

#endif
