/* dev: a private PostgreSQL, the mock cluster, and every role in this process, until Ctrl-C. A crash ends the server
 * (death signal); the next start removes what is on disk, but for a directory given with --data. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "broker/cli/migrate.h"
#include "broker/cli/private_postgres.h"
#include "broker/cli/roles.h"
#include "cli_sql.h"
#include "common/kafka_mock.h"
#include "common/log.h"
#include "common/loop.h"

#define TOPIC      "notes"
#define PARTITIONS 4

struct dev {
  struct txb_cli *cli;
  int stop_fd; /* a signal ends every wait */
  struct txb_private_postgres postgres;
  struct txb_kafka_mock *mock;
  struct txb_roles roles;
  char uri[300], address[300]; /* by the socket, by TCP */
};

static const struct txb_pg_statement exists_statement = {"dev_database", txb_text_dev_database};

static enum txb_rc make_database(struct dev *dev, struct txb_error *err) {
  char uri[300];
  struct txb_pg *pg = NULL;
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  txb_private_postgres_uri(&dev->postgres, "postgres", uri, sizeof(uri));
  TXB_TRY(txb_cli_connect_as(uri, "txbroker dev", dev->stop_fd, &pg, err));
  enum txb_rc rc = txb_pg_query(pg, &exists_statement, NULL, &row, err);
  if (rc == TXB_OK && !txb_pg_bool(row, 0, 0))
    rc = txb_pg_script(pg, "CREATE DATABASE dev", err);
  txb_pg_close(pg);
  return rc;
}

static enum txb_rc fill_database(struct dev *dev, struct txb_error *err) {
  const struct txb_settings *s = &dev->cli->settings;
  struct txb_migrate_options options = {.partition_rows = s->relay.partition_rows,
                                        .partitions_ahead = (int)s->relay.partitions_ahead};
  struct txb_pg *pg = NULL;
  txb_private_postgres_uri(&dev->postgres, "dev", dev->uri, sizeof(dev->uri));
  txb_private_postgres_tcp_uri(&dev->postgres, "dev", dev->address, sizeof(dev->address));
  TXB_TRY(make_database(dev, err));
  TXB_TRY(txb_cli_connect_as(dev->uri, "txbroker dev", dev->stop_fd, &pg, err));
  json_t *report = json_object();
  enum txb_rc rc = txb_migrate(pg, &options, report, err);
  if (rc == TXB_OK)
    rc = txb_pg_script(pg, txb_text_dev_schema, err);
  json_decref(report);
  txb_pg_close(pg);
  return rc;
}

/* The configuration that dev brings itself: whatever file or environment say about servers is not meant here. */
static enum txb_rc configure(struct dev *dev, struct txb_error *err) {
  struct txb_settings *s = &dev->cli->settings;
  const struct txb_section *kafka = txb_settings_section("kafka"), *workers = txb_settings_section("workers");
  const struct txb_section *sources = txb_settings_section("sources");
  void *group, *source;
  TXB_TRY(txb_settings_put(&s->kafka, kafka, txb_settings_key(kafka, "brokers"), txb_kafka_mock_brokers(dev->mock),
                           TXB_FROM_FLAG, "dev", err));
  TXB_TRY(txb_settings_entry(s, sources, "dev", TXB_FROM_FLAG, "dev", &source, err)); /* for replays */
  TXB_TRY(
      txb_settings_put(source, sources, txb_settings_key(sources, "database"), dev->uri, TXB_FROM_FLAG, "dev", err));
  TXB_TRY(txb_settings_entry(s, workers, "dev", TXB_FROM_FLAG, "dev", &group, err));
  TXB_TRY(txb_settings_put(group, workers, txb_settings_key(workers, "database"), dev->uri, TXB_FROM_FLAG, "dev", err));
  TXB_TRY(txb_settings_load_flag(s, "workers.dev.topics=" TOPIC, err));
  TXB_TRY(txb_settings_load_flag(s, "workers.dev.handler.function=dev.apply", err));
  return txb_settings_load_flag(s, "workers.dev.session_timeout_ms=6000", err);
}

static const struct txb_group_settings *dev_group(const struct txb_settings *s) {
  for (size_t i = 0; i < s->workers.count; i++)
    if (strcmp(txb_settings_group(s, i)->group, "dev") == 0)
      return txb_settings_group(s, i);
  return NULL;
}

static enum txb_rc start_roles(struct dev *dev, struct txb_error *err) {
  const struct txb_settings *s = &dev->cli->settings;
  TXB_TRY(configure(dev, err));
  TXB_TRY(txb_roles_init(&dev->roles, 2, err));
  TXB_TRY(txb_roles_add_relay(&dev->roles, s, "dev", dev->uri, NULL, err));
  TXB_TRY(txb_roles_add_worker(&dev->roles, s, dev_group(s), dev->uri, err));
  return txb_roles_start(&dev->roles, err);
}

/* Servers of the user's would be silently left aside, as if dev had worked on them. */
static enum txb_rc check_flags(const struct txb_cli *cli, struct txb_error *err) {
  static const char *const servers[] = {"database", "brokers"};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(servers); i++)
    if (txb_args_has(&cli->args, servers[i]))
      return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE,
                           "dev starts a PostgreSQL and a Kafka of its own: leave --%s out; for servers of yours use "
                           "`txbroker run`",
                           servers[i]);
  return TXB_OK;
}

static enum txb_rc open_all(struct dev *dev, struct txb_error *err) {
  long long port = 0;
  TXB_TRY(txb_args_integer(&dev->cli->args, "port", 1, 65535, &port, err));
  struct txb_private_postgres_options options = {
      .data = txb_args_text(&dev->cli->args, "data"), .port = (int)port, .stop_fd = dev->stop_fd};
  TXB_TRY(txb_kafka_mock_open(1, &dev->mock, err));
  TXB_TRY(txb_kafka_mock_topic(dev->mock, TOPIC, PARTITIONS, err));
  TXB_TRY(txb_private_postgres_open(&options, &dev->postgres, err));
  TXB_TRY(fill_database(dev, err));
  return start_roles(dev, err);
}

static void print_addresses(const struct dev *dev) {
  const char *bold = txb_color(dev->cli, "\033[1m"), *plain = txb_color(dev->cli, "\033[0m"),
             *program = program_invocation_name;
  const char *brokers = txb_kafka_mock_brokers(dev->mock);
  if (dev->cli->output != TXB_OUTPUT_TEXT) {
    json_t *object = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "postgresql", dev->address, "socket", dev->uri,
                               "version", dev->postgres.version, "brokers", brokers, "topic", TOPIC, "group", "dev");
    txb_print_json(dev->cli, object);
    json_decref(object);
    return;
  }
  txb_print("%sPostgreSQL%s  %s   (version %s%s)\n", bold, plain, dev->address, dev->postgres.version,
            dev->postgres.kept ? ", kept" : ", private, gone at the end");
  txb_print("%sKafka%s       %s   (librdkafka's mock cluster: forgets everything at the end)\n", bold, plain, brokers);
  txb_print("%sRelay%s       source dev: txb.outbox of database dev\n", bold, plain);
  txb_print("%sWorker%s      group dev: topic " TOPIC ", function dev.apply, table dev.note\n", bold, plain);
  txb_print("\n%sTry next%s\n", bold, plain);
  txb_print("  %s -d '%s' publish --topic " TOPIC " --key me --type note.made --payload '{\"text\": \"hello\"}'\n",
            program, dev->address);
  txb_print("  psql '%s' -c 'SELECT * FROM dev.note'\n", dev->address);
  txb_print("  %s -d '%s' -b %s status\n", program, dev->address, brokers);
  txb_print("\nCtrl-C ends it.\n");
}

static void close_all(struct dev *dev) {
  txb_roles_fini(&dev->roles);
  txb_private_postgres_close(&dev->postgres);
  txb_kafka_mock_close(dev->mock);
}

int txb_cmd_dev(struct txb_cli *cli) {
  struct txb_error err;
  struct dev dev = {.cli = cli, .stop_fd = -1, .roles.stop_fd = -1};
  int number = 0;
  dev.postgres = (struct txb_private_postgres){.directory.lock_fd = -1, .data_lock_fd = -1, .server.pidfd = -1};
  if (cli->settings.log.head.from[0] == TXB_FROM_DEFAULT)
    txb_log_setup(TXB_LOG_WARN, TXB_LOG_LOGFMT, NULL); /* what goes well need not be told here */
  enum txb_rc rc = check_flags(cli, &err);
  if (rc == TXB_OK)
    rc = txb_signals_open(&dev.stop_fd, &err);
  if (rc == TXB_OK)
    rc = open_all(&dev, &err);
  if (rc != TXB_OK && txb_stopped(dev.stop_fd))
    rc = TXB_FAIL(&err, TXB_REFUSED, "stopped before everything was up");
  if (rc == TXB_OK) {
    print_addresses(&dev);
    if (txb_print_flush())
      rc = txb_roles_watch(&dev.roles, dev.stop_fd, true, &number, &err);
  }
  close_all(&dev);
  if (dev.stop_fd >= 0)
    (void)close(dev.stop_fd);
  return rc == TXB_OK ? TXB_EXIT_DONE : txb_fail(&err);
}
