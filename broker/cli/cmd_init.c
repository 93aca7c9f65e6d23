/* init: the schema, its roles and first partitions. */
#include <string.h>

#include "broker/cli/cli.h"
#include "broker/cli/migrate.h"
#include "common/memory.h"

static void print_list(const char *what, const json_t *list) {
  for (size_t i = 0; i < json_array_size(list); i++)
    txb_print("%s %s\n", what, json_string_value(json_array_get(list, i)));
}

static void print_report(const struct txb_cli *cli, const char *database, const json_t *report) {
  if (cli->output != TXB_OUTPUT_TEXT) {
    txb_print_json(cli, report);
    return;
  }
  print_list("applied", json_object_get(report, "applied"));
  print_list("granted", json_object_get(report, "granted"));
  json_int_t outbox = json_integer_value(json_object_get(report, "partitions"));
  json_int_t inbox = json_integer_value(json_object_get(report, "inbox_partitions"));
  if (outbox > 0)
    txb_print("made %" JSON_INTEGER_FORMAT " partitions of txb.outbox\n", outbox);
  if (inbox > 0)
    txb_print("made %" JSON_INTEGER_FORMAT " partitions of txb.inbox\n", inbox);
  txb_print("%s has schema version %" JSON_INTEGER_FORMAT "\n", database,
            json_integer_value(json_object_get(report, "version")));
}

static enum txb_rc init_database(struct txb_cli *cli, const char *const *grants, struct txb_error *err) {
  const char *uri;
  struct txb_pg *pg = NULL;
  TXB_TRY(txb_cli_database(cli, &uri, err));
  TXB_TRY(txb_cli_connect(cli, uri, &pg, err));
  struct txb_migrate_options options = {.partition_rows = cli->settings.relay.partition_rows,
                                        .partitions_ahead = (int)cli->settings.relay.partitions_ahead,
                                        .grants = grants};
  json_t *report = json_object();
  (void)json_object_set_new(report, "database", json_string(txb_pg_name(pg)));
  enum txb_rc rc = txb_migrate(pg, &options, report, err);
  if (rc == TXB_OK) {
    print_report(cli, txb_pg_name(pg), report);
    if (!txb_print_flush())
      txb_say("%s has its schema and roles; only the report could not be printed", txb_pg_name(pg));
  }
  json_decref(report);
  txb_pg_close(pg);
  return rc;
}

int txb_cmd_init(struct txb_cli *cli) {
  struct txb_error err;
  void *grants = NULL;
  enum txb_rc rc = txb_alloc_array(cli->args.given_count + 1, sizeof(char *), &grants, &err);
  if (rc == TXB_OK) {
    const char *text;
    for (size_t n = 0; (text = txb_args_nth(&cli->args, "role", n)) != NULL; n++)
      ((const char **)grants)[n] = text;
    rc = init_database(cli, grants, &err);
  }
  txb_free(grants);
  return rc == TXB_OK ? TXB_EXIT_DONE : txb_fail(&err);
}
