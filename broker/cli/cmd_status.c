/* status: where everything stands. Shows what can be reached, and says what can't. */
#include <string.h>

#include "broker/cli/failed.h"
#include "broker/cli/migrate.h"
#include "broker/cli/status.h"
#include "broker/cli/targets.h"
#include "common/kafka_inspect.h"

static void status_init(struct txb_status *status) {
  status->document = json_object();
  status->sources = json_array();
  status->groups = json_array();
  status->jobs = json_array();
  status->failed_jobs = json_array();
  status->sagas = json_array();
  status->problems = json_array();
  status->code = TXB_EXIT_DONE;
  (void)json_object_set_new(status->document, "sources", status->sources);
  (void)json_object_set_new(status->document, "groups", status->groups);
  (void)json_object_set_new(status->document, "jobs", status->jobs);
  (void)json_object_set_new(status->document, "failed_jobs", status->failed_jobs);
  (void)json_object_set_new(status->document, "sagas", status->sagas);
  (void)json_object_set_new(status->document, "problems", status->problems);
}

void txb_status_problem(struct txb_status *status, const struct txb_error *err) {
  if (status->code == TXB_EXIT_DONE)
    status->code = txb_error_exit_code(err);
  (void)json_array_append_new(status->problems, json_string(err->message));
  txb_say("%s", err->message);
}

static enum txb_rc look(struct txb_status *status, const struct txb_cli *cli, const struct txb_status_target *target,
                        int timeout_ms, struct txb_error *err) {
  struct txb_pg *pg = NULL;
  TXB_TRY(txb_target_connect(cli, target->uri, timeout_ms, &pg, err));
  enum txb_rc rc = txb_schema_need(pg, err);
  if (rc == TXB_OK)
    rc = txb_status_database(status, pg, target, err);
  if (rc != TXB_OK)
    rc = txb_target_explain(txb_pg_name(pg), timeout_ms, err);
  txb_pg_close(pg);
  return rc;
}

/* TXB_REFUSED when the topic is not what the group's position is of. The simple question for offsets answers neither
 * "no topic" nor "no partition" so that one can tell which. */
static enum txb_rc check_topic(struct txb_kafka_inspect *kafka, const struct txb_status *status, const json_t *group,
                               const char *topic, int *partitions_out, struct txb_error *err) {
  const char *name = json_string_value(json_object_get(group, "group"));
  TXB_TRY(txb_kafka_inspect_partitions(kafka, topic, partitions_out, err));
  if (*partitions_out >= 0)
    return TXB_OK;
  return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE,
                       "group %s: topic %s does not exist at %s; create it, or correct workers.%s.topics", name, topic,
                       status->brokers, name);
}

/* End and lag of one partition; *total_inout grows by the lag. */
static enum txb_rc lag_of_partition(struct txb_kafka_inspect *kafka, json_t *partition, int partitions,
                                    json_int_t *total_inout, struct txb_error *err) {
  int64_t low, high;
  json_int_t next = json_integer_value(json_object_get(partition, "next_offset"));
  const char *topic = json_string_value(json_object_get(partition, "topic"));
  int number = (int)json_integer_value(json_object_get(partition, "partition"));
  if (number >= partitions)
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE,
                         "topic %s has %d partitions, numbered from 0: there is no %d, of which a position is stored",
                         topic, partitions, number);
  TXB_TRY(txb_kafka_inspect_offsets(kafka, topic, number, &low, &high, err));
  json_int_t lag = high > next ? high - next : 0;
  (void)json_object_set_new(partition, "end_offset", json_integer(high));
  (void)json_object_set_new(partition, "lag", json_integer(lag));
  *total_inout += lag;
  return TXB_OK;
}

static enum txb_rc lag_of_group(struct txb_status *status, struct txb_kafka_inspect *kafka, json_t *group,
                                struct txb_error *err) {
  json_t *partition;
  const char *seen = NULL; /* the topic that was asked about last: they come sorted */
  json_int_t total = 0;
  int partitions = 0;
  bool gone = false;
  size_t i;
  json_array_foreach(json_object_get(group, "partitions"), i, partition) {
    const char *topic = json_string_value(json_object_get(partition, "topic"));
    enum txb_rc rc = TXB_OK;
    if (seen == NULL || strcmp(seen, topic) != 0) {
      seen = topic;
      rc = check_topic(kafka, status, group, topic, &partitions, err);
      gone = rc != TXB_OK;
    } else if (gone) {
      continue;
    }
    if (rc == TXB_OK)
      rc = lag_of_partition(kafka, partition, partitions, &total, err);
    if (rc == TXB_RETRY)
      return rc;
    if (rc != TXB_OK) { /* one topic that is gone hides nobody else's lag, and is told once */
      txb_status_problem(status, err);
      gone = true;
    }
  }
  (void)json_object_set_new(group, "lag", json_integer(total));
  return TXB_OK;
}

static enum txb_rc add_lag(struct txb_status *status, struct txb_kafka_inspect *kafka, struct txb_error *err) {
  json_t *group;
  size_t i;
  json_array_foreach(status->groups, i, group) {
    TXB_TRY(lag_of_group(status, kafka, group, err));
  }
  return TXB_OK;
}

static void look_at_kafka(struct txb_status *status, const struct txb_cli *cli, int timeout_ms) {
  struct txb_error err;
  struct txb_kafka_inspect *kafka = NULL;
  if (cli->settings.kafka.brokers == NULL || json_array_size(status->groups) == 0)
    return;
  struct txb_kafka_cluster cluster = txb_cli_cluster(cli, "txbroker-status");
  status->brokers = cluster.brokers;
  enum txb_rc rc = txb_kafka_inspect_open(&cluster, timeout_ms, &kafka, &err);
  if (rc == TXB_OK)
    rc = add_lag(status, kafka, &err);
  txb_kafka_inspect_close(kafka);
  if (rc != TXB_OK)
    txb_status_problem(status, &err);
}

static void print_lines(const struct txb_cli *cli, const struct txb_status *status) {
  const json_t *item;
  size_t i;
  json_array_foreach(status->sources, i, item) {
    txb_failed_print_json(cli, item);
  }
  json_array_foreach(status->groups, i, item) {
    txb_failed_print_json(cli, item);
  }
  json_array_foreach(status->jobs, i, item) {
    txb_failed_print_json(cli, item);
  }
  json_array_foreach(status->failed_jobs, i, item) {
    txb_failed_print_json(cli, item);
  }
  json_array_foreach(status->sagas, i, item) {
    txb_failed_print_json(cli, item);
  }
}

int txb_cmd_status(struct txb_cli *cli) {
  struct txb_error err;
  struct txb_targets targets = {NULL, 0};
  int timeout_ms = 0;
  enum txb_rc rc = txb_targets_timeout(cli, &timeout_ms, &err);
  if (rc == TXB_OK)
    rc = txb_targets_init(&targets, cli, &err);
  if (rc != TXB_OK) {
    txb_targets_fini(&targets);
    return txb_fail(&err);
  }
  struct txb_status status;
  status_init(&status);
  for (size_t i = 0; i < targets.count; i++)
    if (look(&status, cli, &targets.items[i], timeout_ms, &err) != TXB_OK)
      txb_status_problem(&status, &err);
  look_at_kafka(&status, cli, timeout_ms);
  if (cli->output == TXB_OUTPUT_TEXT)
    txb_status_print(&status, cli);
  else if (cli->output == TXB_OUTPUT_JSONL)
    print_lines(cli, &status);
  else
    txb_failed_print_json(cli, status.document);
  json_decref(status.document);
  txb_targets_fini(&targets);
  return status.code;
}
