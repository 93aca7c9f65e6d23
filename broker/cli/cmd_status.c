/* status: where everything stands. Shows what can be reached, and says what can't. */
#include <string.h>

#include "broker/cli/migrate.h"
#include "broker/cli/status.h"
#include "broker/cli/targets.h"

static void status_init(struct txb_status *status) {
  status->document = json_object();
  status->sources = json_array();
  status->groups = json_array();
  status->problems = json_array();
  status->code = TXB_EXIT_DONE;
  (void)json_object_set_new(status->document, "sources", status->sources);
  (void)json_object_set_new(status->document, "groups", status->groups);
  (void)json_object_set_new(status->document, "problems", status->problems);
}

/* The first problem decides the exit code. */
static void add_problem(struct txb_status *status, const struct txb_error *err) {
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
  txb_pg_close(pg);
  return rc;
}

static enum txb_rc lag_of_group(struct txb_status *status, struct txb_kafka_inspect *kafka, json_t *group,
                                struct txb_error *err) {
  json_t *partition;
  const char *gone = NULL;
  json_int_t total = 0;
  size_t i;
  json_array_foreach(json_object_get(group, "partitions"), i, partition) {
    int64_t low, high;
    json_int_t next = json_integer_value(json_object_get(partition, "next_offset"));
    const char *topic = json_string_value(json_object_get(partition, "topic"));
    int number = (int)json_integer_value(json_object_get(partition, "partition"));
    enum txb_rc rc = txb_kafka_inspect_offsets(kafka, topic, number, &low, &high, err);
    if (rc == TXB_RETRY)
      return rc;
    if (rc != TXB_OK) { /* one topic that is gone hides nobody else's lag, and is told once */
      if (gone == NULL || strcmp(gone, topic) != 0)
        add_problem(status, err);
      gone = topic;
      continue;
    }
    (void)json_object_set_new(partition, "end_offset", json_integer(high));
    (void)json_object_set_new(partition, "lag", json_integer(high > next ? high - next : 0));
    total += high > next ? high - next : 0;
  }
  (void)json_object_set_new(group, "lag", json_integer(total));
  return TXB_OK;
}

enum txb_rc txb_status_lag(struct txb_status *status, struct txb_kafka_inspect *kafka, struct txb_error *err) {
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
  enum txb_rc rc = txb_kafka_inspect_open(&cluster, timeout_ms, &kafka, &err);
  if (rc == TXB_OK)
    rc = txb_status_lag(status, kafka, &err);
  txb_kafka_inspect_close(kafka);
  if (rc != TXB_OK)
    add_problem(status, &err);
}

static void print_lines(const struct txb_cli *cli, const struct txb_status *status) {
  const json_t *item;
  size_t i;
  json_array_foreach(status->sources, i, item) {
    txb_print_json(cli, item);
  }
  json_array_foreach(status->groups, i, item) {
    txb_print_json(cli, item);
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
      add_problem(&status, &err);
  look_at_kafka(&status, cli, timeout_ms);
  if (cli->output == TXB_OUTPUT_TEXT)
    txb_status_print(&status, cli);
  else if (cli->output == TXB_OUTPUT_JSONL)
    print_lines(cli, &status);
  else
    txb_print_json(cli, status.document);
  json_decref(status.document);
  txb_targets_fini(&targets);
  return status.code;
}
