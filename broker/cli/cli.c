/* What commands share: which database, which cluster. */
#include "broker/cli/cli.h"

#include <stdio.h>
#include <string.h>

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

enum txb_rc txb_cli_connect_to_publish(const struct txb_cli *cli, const char *uri, struct txb_pg **out,
                                       struct txb_error *err) {
  char name[64];
  (void)snprintf(name, sizeof(name), "txbroker %s", cli->args.command->name);
  struct txb_pg_options options = {.uri = uri, .application_name = name, .stop_fd = -1};
  return txb_pg_open(&options, out, err);
}

enum txb_rc txb_cli_connect(const struct txb_cli *cli, const char *uri, struct txb_pg **out, struct txb_error *err) {
  char name[64];
  (void)snprintf(name, sizeof(name), "txbroker %s", cli->args.command->name);
  return txb_cli_connect_as(uri, name, -1, out, err);
}

enum txb_rc txb_cli_connect_as(const char *uri, const char *name, int stop_fd, struct txb_pg **out,
                               struct txb_error *err) {
  struct txb_pg_options options = {.uri = uri, .application_name = name, .stop_fd = stop_fd, .builtins_only = true};
  return txb_pg_open(&options, out, err);
}

/* The database's own name, as far as it makes a source's name: "127.0.0.1:5432/shop" -> "shop". */
static void name_of_database(const char *uri, char out[64]) {
  char described[300];
  txb_pg_describe_uri(uri, described, sizeof(described));
  const char *slash = strrchr(described, '/');
  const char *from = slash == NULL ? described : slash + 1;
  size_t used = 0;
  for (; *from != '\0' && used < 63; from++) {
    bool plain = (*from >= 'a' && *from <= 'z') || (*from >= 'A' && *from <= 'Z') || (*from >= '0' && *from <= '9') ||
                 *from == '_' || *from == '-';
    out[used++] = plain ? *from : '_';
  }
  out[used] = '\0';
  if (used == 0)
    memcpy(out, "default", 8);
}

/* Groups that name no database work on the one of the command line, whichever command asks: `config` and `doctor` see
 * what `worker` would do. */
static enum txb_rc apply_to_groups(struct txb_settings *s, const char *uri, bool *taken, struct txb_error *err) {
  const struct txb_section *section = txb_settings_section("workers");
  for (size_t i = 0; i < s->workers.count; i++) {
    const struct txb_group_settings *group = txb_settings_group(s, i);
    void *entry;
    if (group->database != NULL || group->group == NULL)
      continue;
    TXB_TRY(txb_settings_entry(s, section, group->group, TXB_FROM_FLAG, "--database", &entry, err));
    TXB_TRY(
        txb_settings_put(entry, section, txb_settings_key(section, "database"), uri, TXB_FROM_FLAG, "--database", err));
    *taken = true;
  }
  return TXB_OK;
}

enum txb_rc txb_cli_apply_database(struct txb_cli *cli, struct txb_error *err) {
  const char *uri = txb_args_text(&cli->args, "database");
  if (uri == NULL)
    return TXB_OK;
  TXB_TRY(txb_settings_check_database(uri, "--database", err)); /* before a source is named after it */
  struct txb_settings *s = &cli->settings;
  bool taken = false;
  TXB_TRY(apply_to_groups(s, uri, &taken, err));
  const char *command = cli->args.command->name;
  if (taken && s->sources.count == 0 && (strcmp(command, "config") == 0 || strcmp(command, "doctor") == 0))
    return TXB_OK; /* as with `worker`: no source comes into it */
  bool worker = strcmp(command, "worker") == 0;
  const struct txb_section *section = txb_settings_section(worker ? "workers" : "sources");
  size_t count = worker ? s->workers.count : s->sources.count;
  if (count > 1 || (worker && count == 0))
    return TXB_OK;
  char name[64];
  name_of_database(uri, name);
  const char *entry_name = count == 0 ? name
                           : worker   ? txb_settings_group(s, 0)->group
                                      : txb_settings_source(s, 0)->name;
  void *entry;
  TXB_TRY(txb_settings_entry(s, section, entry_name, TXB_FROM_FLAG, "--database", &entry, err));
  return txb_settings_put(entry, section, txb_settings_key(section, "database"), uri, TXB_FROM_FLAG, "--database", err);
}
