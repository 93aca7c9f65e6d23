/* doctor: the cluster, its topics, and how they fit to groups. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "broker/cli/doctor.h"
#include "cli_sql.h"
#include "common/event.h"

static const struct txb_pg_statement offsets_statement = {"cli_doctor_offsets", txb_text_cli_doctor_offsets};

/* Payload, key, headers and the record's own frame at their largest. */
#define MESSAGE_BYTES_MAX (TXB_PAYLOAD_SIZE_MAX + TXB_KEY_SIZE_MAX + TXB_HEADERS_SIZE_MAX + 2048)

static void check_library(struct txb_doctor *d) {
  const char *version = txb_kafka_library_version();
  int major = 0, minor = 0;
  if (sscanf(version, "%d.%d", &major, &minor) == 2 && (major > 2 || (major == 2 && minor >= 5)))
    txb_doctor_add(d, TXB_HEALTH_OK, "librdkafka", version, NULL, "no known defect that matters here");
  else
    txb_doctor_add(d, TXB_HEALTH_WARN, "librdkafka", version, "2.5 or newer is calmer; nothing is lost with this one",
                   "below 2.5 an idempotent producer can end with a spurious fatal error; the relay answers with a new "
                   "producer and the checkpoint");
}

void txb_doctor_kafka(struct txb_doctor *d) {
  struct txb_error err;
  check_library(d);
  const char *brokers = d->cli->settings.kafka.brokers;
  if (brokers == NULL) {
    txb_doctor_add(d, TXB_HEALTH_WARN, "Kafka", "-", "give --brokers, or set kafka.brokers",
                   "no brokers are configured: nothing about topics was checked");
    return;
  }
  struct txb_kafka_cluster cluster = txb_cli_cluster(d->cli, "txbroker-doctor");
  if (txb_kafka_inspect_open(&cluster, d->timeout_ms, &d->kafka, &err) != TXB_OK) {
    txb_doctor_add_error(d, "Kafka", brokers, &err);
    return;
  }
  txb_doctor_add(d, TXB_HEALTH_OK, "Kafka", brokers, NULL, "cluster %s with %d brokers",
                 txb_kafka_inspect_cluster_id(d->kafka), txb_kafka_inspect_brokers(d->kafka));
}

/* ---- topics ---------------------------------------------------------------------------------------------- */

static void check_settings(struct txb_doctor *d, const char *topic, int64_t keep_ms) {
  static const char *const names[] = {"max.message.bytes", "retention.ms"};
  int64_t values[TXB_ARRAY_SIZE(names)];
  struct txb_error err;
  if (txb_kafka_inspect_settings(d->kafka, topic, names, TXB_ARRAY_SIZE(names), values, &err) != TXB_OK) {
    txb_doctor_add(d, TXB_HEALTH_OK, "topic settings", topic, NULL, "not told by this cluster: not compared");
    return;
  }
  if (values[0] < MESSAGE_BYTES_MAX)
    txb_doctor_add(d, TXB_HEALTH_WARN, "message size", topic,
                   "raise the topic's max.message.bytes, or keep payloads small",
                   "max.message.bytes is %" PRId64 ", an intent can take %d: a larger one is refused and holds its key",
                   values[0], MESSAGE_BYTES_MAX);
  else
    txb_doctor_add(d, TXB_HEALTH_OK, "message size", topic, NULL, "max.message.bytes is %" PRId64, values[0]);
  if (keep_ms == 0)
    return;
  if (values[1] < 0 || values[1] >= keep_ms)
    txb_doctor_add(d, TXB_HEALTH_FAIL, "retention", topic,
                   "raise workers.GROUP.inbox_keep_ms above the topic's retention.ms, or lower that",
                   "retention.ms is %" PRId64 "%s, but the inbox forgets ids after %" PRId64
                   " ms: an older message could not be told from a repetition",
                   values[1], values[1] < 0 ? " (for ever)" : "", keep_ms);
  else
    txb_doctor_add(d, TXB_HEALTH_OK, "retention", topic, NULL,
                   "retention.ms is %" PRId64 ", the inbox keeps ids for %" PRId64 " ms", values[1], keep_ms);
}

void txb_doctor_topic(struct txb_doctor *d, const char *topic, const char *of, int64_t keep_ms) {
  struct txb_error err;
  int partitions = 0;
  if (d->kafka == NULL)
    return;
  if (txb_kafka_inspect_partitions(d->kafka, topic, &partitions, &err) != TXB_OK) {
    txb_doctor_add_error(d, "topic", topic, &err);
    return;
  }
  if (partitions < 0) {
    txb_doctor_add(d, TXB_HEALTH_FAIL, "topic", topic, "create it, or correct its name", "does not exist; %s needs it",
                   of);
    return;
  }
  txb_doctor_add(d, TXB_HEALTH_OK, "topic", topic, NULL, "%d partitions (%s)", partitions, of);
  check_settings(d, topic, keep_ms);
}

/* ---- positions of a group -------------------------------------------------------------------------------- */

static void check_position(struct txb_doctor *d, const char *group, const struct txb_pg_result *rows, int i) {
  const char *topic = txb_pg_text(rows, i, 0), *stored = txb_pg_text(rows, i, 3),
             *cluster = txb_kafka_inspect_cluster_id(d->kafka);
  int32_t partition = txb_pg_int4(rows, i, 1);
  int64_t next = txb_pg_int8(rows, i, 2), low, high;
  struct txb_error err;
  char of[400];
  (void)snprintf(of, sizeof(of), "%.150s, %.150s/%d", group, topic, (int)partition);
  const char *why = txb_pg_text(rows, i, 5) == NULL ? "-" : txb_pg_text(rows, i, 5);
  bool stopped = !txb_pg_is_null(rows, i, 7) && txb_pg_bool(rows, i, 7);
  if (!txb_pg_is_null(rows, i, 4) && stopped)
    txb_doctor_add(d, TXB_HEALTH_FAIL, "stall", of, "decide where to go on with SELECT txb.offset_set(...)",
                   "stopped at offset %" PRId64 ": %s", txb_pg_int8(rows, i, 4), why);
  else if (!txb_pg_is_null(rows, i, 4))
    txb_doctor_add(d, TXB_HEALTH_WARN, "stall", of, "correct the handler or its data; it is tried again by itself",
                   "offset %" PRId64 " after %d attempts: %s", txb_pg_int8(rows, i, 4), (int)txb_pg_int4(rows, i, 6),
                   why);
  if (stored != NULL && *cluster != '\0' && strcmp(stored, cluster) != 0) {
    txb_doctor_add(d, TXB_HEALTH_FAIL, "position", of,
                   "if the topic was moved here, decide with SELECT txb.offset_set(...)",
                   "it belongs to Kafka cluster %s, this is %s", stored, cluster);
    return;
  }
  if (txb_kafka_inspect_offsets(d->kafka, topic, partition, &low, &high, &err) != TXB_OK)
    txb_doctor_add_error(d, "position", of, &err);
  else if (next < low)
    txb_doctor_add(d, TXB_HEALTH_FAIL, "position", of,
                   "messages are gone unread: decide where to go on with SELECT txb.offset_set(...)",
                   "at %" PRId64 ", but Kafka begins at %" PRId64, next, low);
  else if (next > high)
    txb_doctor_add(d, TXB_HEALTH_FAIL, "position", of,
                   "the topic was made anew or truncated: decide with SELECT txb.offset_set(...)",
                   "at %" PRId64 ", but Kafka ends at %" PRId64, next, high);
}

/* W13: more partitions than the group has positions for. */
static void check_growth(struct txb_doctor *d, const struct txb_group_settings *group, const char *topic,
                         const struct txb_pg_result *rows) {
  int known = 0, partitions = 0;
  struct txb_error err;
  char of[400];
  for (int i = 0; i < txb_pg_rows(rows); i++)
    known += strcmp(txb_pg_text(rows, i, 0), topic) == 0;
  if (known == 0 || txb_kafka_inspect_partitions(d->kafka, topic, &partitions, &err) != TXB_OK || partitions < 0)
    return;
  (void)snprintf(of, sizeof(of), "%.150s, %.150s", group->group, topic);
  if (partitions > known)
    txb_doctor_add(d, TXB_HEALTH_WARN, "partition growth", of,
                   "messages of one key written before and after lie in different partitions: order across that "
                   "change is lost; let the group finish the old ones before publishing on",
                   "Kafka has %d partitions, the group has positions in %d", partitions, known);
  else if (partitions < known)
    txb_doctor_add(d, TXB_HEALTH_FAIL, "partition growth", of,
                   "the topic was made anew: decide with SELECT txb.offset_set(...)",
                   "Kafka has %d partitions, the group has positions in %d", partitions, known);
  else
    txb_doctor_add(d, TXB_HEALTH_OK, "partition growth", of, NULL, "positions in all %d partitions", partitions);
}

void txb_doctor_positions(struct txb_doctor *d, const struct txb_group_settings *group, struct txb_pg *pg) {
  struct txb_pg_params params;
  struct txb_error err;
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *rows = NULL;
  if (d->kafka == NULL)
    return;
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text(group->group));
  enum txb_rc rc = txb_pg_query(pg, &offsets_statement, &params, &rows, &err);
  txb_pg_params_fini(&params);
  if (rc != TXB_OK) {
    txb_doctor_add_error(d, "position", group->group, &err);
    return;
  }
  for (int i = 0; i < txb_pg_rows(rows); i++)
    check_position(d, group->group, rows, i);
  for (size_t i = 0; i < group->topics.count; i++)
    check_growth(d, group, group->topics.items[i], rows);
}
