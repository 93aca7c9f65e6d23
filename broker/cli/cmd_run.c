/* relay, worker, run: the roles of a configuration in this process until it is told to stop. */
#include <string.h>
#include <unistd.h>

#include "broker/cli/migrate.h"
#include "broker/cli/roles.h"
#include "common/kafka_inspect.h"
#include "common/loop.h"
#include "common/nearest.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)
#define CONNECT_MS       10000

static bool is_chosen(const struct txb_cli *cli, const char *name) {
  for (size_t i = 0; i < cli->args.operand_count; i++)
    if (strcmp(cli->args.operands[i], name) == 0)
      return true;
  return cli->args.operand_count == 0;
}

static enum txb_rc check_chosen(const struct txb_cli *cli, const char *what, const char *const *names, size_t count,
                                struct txb_error *err) {
  for (size_t i = 0; i < cli->args.operand_count; i++) {
    const char *wanted = cli->args.operands[i];
    bool known = false;
    for (size_t j = 0; j < count; j++)
      known = known || strcmp(names[j], wanted) == 0;
    if (known)
      continue;
    const char *nearest = txb_nearest(wanted, names, count);
    if (nearest != NULL)
      return REFUSE(err, "the configuration has no %s \"%s\"; did you mean \"%s\"?", what, wanted, nearest);
    return REFUSE(err, "the configuration has no %s \"%s\"; `txbroker config` shows what it has", what, wanted);
  }
  return TXB_OK;
}

static enum txb_rc check_names(const struct txb_cli *cli, bool relays, struct txb_error *err) {
  const struct txb_settings *s = &cli->settings;
  const char *names[256];
  size_t count = 0, all = relays ? s->sources.count : s->workers.count;
  for (size_t i = 0; i < all && count < TXB_ARRAY_SIZE(names); i++)
    names[count++] = relays ? txb_settings_source(s, i)->name : txb_settings_group(s, i)->group;
  return all > TXB_ARRAY_SIZE(names) ? TXB_OK : check_chosen(cli, relays ? "source" : "group", names, count, err);
}

static enum txb_rc add_relays(struct txb_roles *roles, const struct txb_cli *cli, struct txb_error *err) {
  const struct txb_settings *s = &cli->settings;
  for (size_t i = 0; i < s->sources.count; i++) {
    const struct txb_source_settings *source = txb_settings_source(s, i);
    if (is_chosen(cli, source->name))
      TXB_TRY(txb_roles_add_relay(roles, s, source->name, source->database, source->event_source, err));
  }
  return TXB_OK;
}

static enum txb_rc add_workers(struct txb_roles *roles, const struct txb_cli *cli, struct txb_error *err) {
  const struct txb_settings *s = &cli->settings;
  for (size_t i = 0; i < s->workers.count; i++) {
    const struct txb_group_settings *group = txb_settings_group(s, i);
    if (is_chosen(cli, group->group))
      TXB_TRY(txb_roles_add_worker(roles, s, group, group->database, err));
  }
  return TXB_OK;
}

static enum txb_rc prepare(struct txb_cli *cli, struct txb_roles *roles, bool relays, bool workers,
                           struct txb_error *err) {
  const struct txb_settings *s = &cli->settings;
  if (relays && !workers && s->sources.count == 0)
    return REFUSE(err, "no source to relay: give --database URI, or a configuration with sources (`txbroker config "
                       "--sample` shows one)");
  if (workers && !relays && s->workers.count == 0)
    return REFUSE(err,
                  "no group to work for: the configuration has no workers (`txbroker config --sample` shows some)");
  if (s->sources.count == 0 && s->workers.count == 0)
    return REFUSE(
        err,
        "nothing to run: the configuration has neither sources nor workers (`txbroker config --sample` shows some)");
  if (txb_args_has(&cli->args, "database") && (relays ? s->sources.count : s->workers.count) > 1)
    return REFUSE(err,
                  "--database names one database, but the configuration has several; use --set %s.NAME.database=URI",
                  relays ? "sources" : "workers");
  TXB_TRY(txb_cli_need_brokers(cli, err));
  if (relays != workers)
    TXB_TRY(check_names(cli, relays, err));
  TXB_TRY(txb_roles_init(roles, s->sources.count + s->workers.count, err));
  if (relays)
    TXB_TRY(add_relays(roles, cli, err));
  if (workers)
    TXB_TRY(add_workers(roles, cli, err));
  bool idle = txb_args_has(&cli->args, "exit-when-idle");
  for (size_t i = 0; i < roles->count; i++) {
    if (roles->items[i].kind == TXB_ROLE_RELAY)
      roles->items[i].options.relay.exit_when_idle = idle;
    else
      roles->items[i].options.worker.exit_when_idle = idle;
  }
  return TXB_OK;
}

/* What must be there before anything starts: a server that is down at the start is a mistake to be told; one that
 * goes away later is waited for. */
static enum txb_rc check_database(const struct txb_cli *cli, const char *uri, struct txb_error *err) {
  struct txb_pg *pg = NULL;
  TXB_TRY(txb_cli_connect(cli, uri, &pg, err));
  enum txb_rc rc = txb_schema_need(pg, err);
  txb_pg_close(pg);
  return rc;
}

static enum txb_rc check_topics(struct txb_kafka_inspect *kafka, const struct txb_cli *cli,
                                const struct txb_worker_settings *worker, struct txb_error *err) {
  for (const char *const *topic = worker->topics; *topic != NULL; topic++) {
    int partitions = 0;
    TXB_TRY(txb_kafka_inspect_partitions(kafka, *topic, &partitions, err));
    if (partitions < 0)
      return REFUSE(err, "topic %s does not exist at %s; create it, or correct workers.%s.topics", *topic,
                    cli->settings.kafka.brokers, worker->group);
  }
  return TXB_OK;
}

static enum txb_rc check_kafka(const struct txb_cli *cli, const struct txb_roles *roles, struct txb_error *err) {
  struct txb_kafka_inspect *kafka = NULL;
  struct txb_kafka_cluster cluster = txb_cli_cluster(cli, "txbroker-start");
  enum txb_rc rc = txb_kafka_inspect_open(&cluster, CONNECT_MS, &kafka, err);
  for (size_t i = 0; rc == TXB_OK && i < roles->count; i++)
    if (roles->items[i].kind == TXB_ROLE_WORKER)
      rc = check_topics(kafka, cli, &roles->items[i].options.worker, err);
  txb_kafka_inspect_close(kafka);
  return rc;
}

static enum txb_rc check_servers(const struct txb_cli *cli, const struct txb_roles *roles, struct txb_error *err) {
  for (size_t i = 0; i < roles->count; i++) {
    const struct txb_role *role = &roles->items[i];
    bool relay = role->kind == TXB_ROLE_RELAY;
    if (check_database(cli, relay ? role->options.relay.database : role->options.worker.database, err) != TXB_OK)
      return txb_error_prefix(err, "%s %s", relay ? "source" : "group", role->name);
  }
  return check_kafka(cli, roles, err);
}

static int run_roles(struct txb_cli *cli, bool relays, bool workers) {
  struct txb_error err;
  struct txb_roles roles = {.stop_fd = -1};
  int signal_fd = -1, signal_number = 0;
  enum txb_rc rc = prepare(cli, &roles, relays, workers, &err);
  if (rc == TXB_OK)
    rc = check_servers(cli, &roles, &err);
  if (rc == TXB_OK)
    rc = txb_signals_open(&signal_fd, &err);
  if (rc == TXB_OK)
    rc = txb_roles_start(&roles, &err);
  if (rc == TXB_OK)
    rc = txb_roles_watch(&roles, signal_fd, relays && workers, &signal_number, &err);
  txb_roles_fini(&roles);
  if (signal_fd >= 0)
    (void)close(signal_fd);
  return rc == TXB_OK ? TXB_EXIT_DONE : txb_fail(&err);
}

int txb_cmd_relay(struct txb_cli *cli) {
  return run_roles(cli, true, false);
}

int txb_cmd_worker(struct txb_cli *cli) {
  return run_roles(cli, false, true);
}

int txb_cmd_run(struct txb_cli *cli) {
  return run_roles(cli, true, true);
}
