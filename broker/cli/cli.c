/* What commands share: which database, which cluster. */
#include "broker/cli/cli.h"

#include <stdio.h>

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

struct txb_kafka_cluster txb_cli_cluster(const struct txb_cli *cli, const char *client_id) {
  return (struct txb_kafka_cluster){.brokers = cli->settings.kafka.brokers,
                                    .options = (const char *const *)cli->settings.kafka.client.items,
                                    .client_id = client_id};
}

enum txb_rc txb_cli_need_brokers(const struct txb_cli *cli, struct txb_error *err) {
  if (cli->settings.kafka.brokers != NULL)
    return TXB_OK;
  return REFUSE(err, "no Kafka brokers: give --brokers HOST:PORT, or set kafka.brokers");
}

enum txb_rc txb_cli_database(const struct txb_cli *cli, const char **uri_out, struct txb_error *err) {
  const struct txb_settings *s = &cli->settings;
  const char *uri = txb_args_text(&cli->args, "database");
  if (uri == NULL && s->sources.count > 1)
    return REFUSE(err, "the configuration has %zu sources: choose one with --database URI", s->sources.count);
  if (uri == NULL && s->sources.count == 1)
    uri = txb_settings_source(s, 0)->database;
  if (uri == NULL && s->workers.count == 1)
    uri = txb_settings_group(s, 0)->database;
  if (uri == NULL)
    return REFUSE(err, "no database: give --database URI, as in --database postgresql:///shop");
  *uri_out = uri;
  return TXB_OK;
}

enum txb_rc txb_cli_connect(const struct txb_cli *cli, const char *uri, struct txb_pg **out, struct txb_error *err) {
  char name[64];
  (void)snprintf(name, sizeof(name), "txbroker %s", cli->args.command->name);
  struct txb_pg_options options = {.uri = uri, .application_name = name, .stop_fd = -1};
  return txb_pg_open(&options, out, err);
}
