/* The databases of a configuration, each once. */
#include "broker/cli/targets.h"

#include <stdio.h>
#include <string.h>

#include "common/kafka_inspect.h"
#include "common/memory.h"

#define KAFKA_MS 10000

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

static struct txb_status_target *target_of(struct txb_targets *targets, const char *uri) {
  for (size_t i = 0; i < targets->count; i++)
    if (strcmp(targets->items[i].uri, uri) == 0)
      return &targets->items[i];
  struct txb_status_target *target = &targets->items[targets->count++];
  *target = (struct txb_status_target){.uri = uri};
  return target;
}

static enum txb_rc add_all(struct txb_targets *targets, const struct txb_settings *s, struct txb_error *err) {
  for (size_t i = 0; i < s->sources.count; i++) {
    const struct txb_source_settings *source = txb_settings_source(s, i);
    struct txb_status_target *target = target_of(targets, source->database);
    void *names = target->sources;
    TXB_TRY(txb_realloc_array(&names, target->source_count + 1, sizeof(char *), err));
    target->sources = names;
    target->sources[target->source_count++] = source->name;
    target->groups = target->groups || s->workers.count == 0;
  }
  for (size_t i = 0; i < s->workers.count; i++) {
    struct txb_status_target *target = target_of(targets, txb_settings_group(s, i)->database);
    target->worker = target->groups = true;
  }
  return TXB_OK;
}

enum txb_rc txb_targets_init(struct txb_targets *targets, const struct txb_cli *cli, struct txb_error *err) {
  const struct txb_settings *s = &cli->settings;
  *targets = (struct txb_targets){NULL, 0};
  if (s->sources.count + s->workers.count == 0)
    return REFUSE(err, "no database: give --database URI, or a configuration with sources or workers");
  void *items;
  TXB_TRY(txb_alloc_array(s->sources.count + s->workers.count, sizeof(struct txb_status_target), &items, err));
  targets->items = items;
  return add_all(targets, s, err);
}

enum txb_rc txb_targets_one(struct txb_targets *targets, const char *uri, struct txb_error *err) {
  void *items;
  *targets = (struct txb_targets){NULL, 0};
  TXB_TRY(txb_alloc_array(1, sizeof(struct txb_status_target), &items, err));
  targets->items = items;
  targets->items[0] = (struct txb_status_target){.uri = uri};
  targets->count = 1;
  return TXB_OK;
}

void txb_targets_merge(struct txb_targets *targets) {
  char name[300], other[300];
  size_t kept = 0;
  for (size_t i = 0; i < targets->count; i++) {
    bool seen = false;
    txb_pg_describe_uri(targets->items[i].uri, name, sizeof(name));
    for (size_t k = 0; k < kept && !seen; k++) {
      txb_pg_describe_uri(targets->items[k].uri, other, sizeof(other));
      seen = strcmp(name, other) == 0;
    }
    if (seen)
      txb_free(targets->items[i].sources);
    else
      targets->items[kept++] = targets->items[i];
  }
  targets->count = kept;
}

const struct txb_group_settings *txb_targets_group(const struct txb_settings *settings, const char *name) {
  for (size_t i = 0; i < settings->workers.count; i++)
    if (strcmp(txb_settings_group(settings, i)->group, name) == 0)
      return txb_settings_group(settings, i);
  return NULL;
}

const struct txb_source_settings *txb_targets_source(const struct txb_settings *settings, const char *name) {
  for (size_t i = 0; i < settings->sources.count; i++)
    if (strcmp(txb_settings_source(settings, i)->name, name) == 0)
      return txb_settings_source(settings, i);
  return NULL;
}

void txb_targets_fini(struct txb_targets *targets) {
  for (size_t i = 0; i < targets->count; i++)
    txb_free(targets->items[i].sources);
  txb_free(targets->items);
  *targets = (struct txb_targets){NULL, 0};
}

static enum txb_rc connect_target(const struct txb_cli *cli, const char *uri, int timeout_ms, bool builtins_only,
                                  struct txb_pg **out, struct txb_error *err) {
  char name[64], settings[120];
  (void)snprintf(name, sizeof(name), "txbroker %s", cli->args.command->name);
  /* Each question is asked once: compiling it takes longer than answering it, over a second with many partitions. */
  (void)snprintf(settings, sizeof(settings), "-c statement_timeout=%d -c lock_timeout=%d -c jit=off", timeout_ms,
                 timeout_ms);
  struct txb_pg_options options = {.uri = uri,
                                   .application_name = name,
                                   .connect_timeout_ms = timeout_ms,
                                   .stop_fd = -1,
                                   .settings = settings,
                                   .builtins_only = builtins_only};
  return txb_pg_open(&options, out, err);
}

enum txb_rc txb_target_connect(const struct txb_cli *cli, const char *uri, int timeout_ms, struct txb_pg **out,
                               struct txb_error *err) {
  return connect_target(cli, uri, timeout_ms, true, out, err);
}

enum txb_rc txb_target_connect_as_worker(const struct txb_cli *cli, const char *uri, int timeout_ms,
                                         struct txb_pg **out, struct txb_error *err) {
  return connect_target(cli, uri, timeout_ms, false, out, err);
}

bool txb_target_timed_out(const struct txb_error *err) {
  return strcmp(err->sqlstate, "57014") == 0 || strcmp(err->sqlstate, "55P03") == 0;
}

enum txb_rc txb_target_explain(const char *database, int timeout_ms, struct txb_error *err) {
  if (txb_target_timed_out(err)) {
    char sqlstate[sizeof(err->sqlstate)];
    memcpy(sqlstate, err->sqlstate, sizeof(sqlstate));
    enum txb_rc rc = TXB_FAIL_FROM(err, TXB_RETRY, TXB_ORIGIN_POSTGRES,
                                   "%s did not answer within %d s (a lock, or load); give a longer --timeout", database,
                                   timeout_ms / 1000);
    memcpy(err->sqlstate, sqlstate, sizeof(sqlstate));
    return rc;
  }
  return strstr(err->message, database) == NULL ? txb_error_prefix(err, "%s", database) : err->rc;
}

enum txb_rc txb_target_topic(const struct txb_cli *cli, const char *client, const char *topic, struct txb_error *err) {
  struct txb_kafka_cluster cluster = txb_cli_cluster(cli, client);
  struct txb_kafka_inspect *kafka = NULL;
  int partitions = 0;
  if (cluster.brokers == NULL)
    return TXB_OK;
  TXB_TRY(txb_kafka_inspect_open(&cluster, KAFKA_MS, &kafka, err));
  enum txb_rc rc = txb_kafka_inspect_partitions(kafka, topic, &partitions, err);
  txb_kafka_inspect_close(kafka);
  if (rc != TXB_OK || partitions >= 0)
    return rc;
  return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE,
                       "Kafka at %s has no topic %s: create it, or correct --to-topic", cluster.brokers, topic);
}

enum txb_rc txb_targets_timeout(const struct txb_cli *cli, int *timeout_ms_out, struct txb_error *err) {
  long long seconds = 5;
  TXB_TRY(txb_args_integer(&cli->args, "timeout", 1, 3600, &seconds, err));
  *timeout_ms_out = (int)seconds * 1000;
  return TXB_OK;
}
