/* saga list: instances, how many are in each state, or what is deployed. Changes nothing. */
#include <stdio.h>
#include <string.h>

#include "broker/cli/saga.h"
#include "cli_sql.h"

static const struct txb_pg_statement list_statement = {"cli_saga_list", txb_text_cli_saga_list},
                                     counts_statement = {"cli_saga_counts", txb_text_cli_saga_counts},
                                     definitions_statement = {"cli_saga_definitions", txb_text_cli_saga_definitions};

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

static void print_document(const struct txb_cli *cli, const char *name, json_t *rows) {
  const json_t *row;
  size_t i;
  if (cli->output == TXB_OUTPUT_JSON) {
    json_t *document = json_pack("{s:O}", name, rows);
    txb_failed_print_json(cli, document);
    json_decref(document);
    return;
  }
  json_array_foreach(rows, i, row) txb_failed_print_json(cli, row);
}

static void print_sagas(const struct txb_cli *cli, const json_t *rows, long long limit) {
  static const struct txb_column columns[] = {{"SAGA", TXB_LEFT},  {"NAME", TXB_LEFT},          {"VERSION", TXB_RIGHT},
                                              {"STATE", TXB_LEFT}, {"STARTED (UTC)", TXB_LEFT}, {"TOOK", TXB_RIGHT},
                                              {"KEY", TXB_LEFT},   {"REASON", TXB_LEFT}};
  struct txb_table table;
  const json_t *row;
  size_t i;
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  json_array_foreach(rows, i, row) {
    char age[24];
    txb_format_age(txb_failed_integer(row, "ms"), age);
    txb_failed_cell(&table, row, "saga", 0);
    txb_failed_cell(&table, row, "name", 0);
    txb_failed_cell(&table, row, "version", 0);
    txb_failed_cell(&table, row, "state", 0);
    txb_table_cellf(&table, "%.19s", txb_failed_text(row, "started_at"));
    txb_table_cell(&table, age);
    txb_failed_cell(&table, row, "key", 32);
    txb_failed_cell(&table, row, "reason", 80);
  }
  txb_table_print(&table, cli, 0);
  txb_table_fini(&table);
  if ((long long)json_array_size(rows) == limit)
    txb_print("more may follow: --before %s\n",
              txb_failed_text(json_array_get(rows, json_array_size(rows) - 1), "started_at"));
}

static void print_definitions(const struct txb_cli *cli, const json_t *rows) {
  static const struct txb_column columns[] = {{"NAME", TXB_LEFT},
                                              {"VERSION", TXB_RIGHT},
                                              {"RUNNING", TXB_RIGHT},
                                              {"DEPLOYED (UTC)", TXB_LEFT},
                                              {"BY", TXB_LEFT}};
  struct txb_table table;
  const json_t *row;
  size_t i;
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  json_array_foreach(rows, i, row) {
    txb_failed_cell(&table, row, "name", 0);
    txb_failed_cell(&table, row, "version", 0);
    txb_failed_cell(&table, row, "running", 0);
    txb_table_cellf(&table, "%.19s", txb_failed_text(row, "deployed_at"));
    txb_failed_cell(&table, row, "deployed_by", 60);
  }
  txb_table_print(&table, cli, 0);
  txb_table_fini(&table);
}

static enum txb_rc list_definitions(const struct txb_cli *cli, struct txb_pg *pg, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *r = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  TXB_TRY(txb_failed_ask(pg, &definitions_statement, &params, "txb_reader", &r, err));
  json_t *rows = txb_failed_json_rows(r);
  if (cli->output != TXB_OUTPUT_TEXT)
    print_document(cli, "definitions", rows);
  else if (json_array_size(rows) == 0)
    txb_print("nothing is deployed: txbroker saga deploy FILE\n");
  else
    print_definitions(cli, rows);
  json_decref(rows);
  return TXB_OK;
}

static enum txb_rc count(const struct txb_cli *cli, struct txb_pg *pg, struct txb_error *err) {
  static const char *const states[] = {"running", "waiting", "stuck", "completed", "compensated", "refused"};
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *r = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text(txb_args_text(&cli->args, "name")));
  TXB_TRY(txb_failed_ask(pg, &counts_statement, &params, "txb_reader", &r, err));
  json_t *counts = txb_failed_json(r, 0, 0);
  for (size_t i = 0; i < TXB_ARRAY_SIZE(states); i++) {
    if (json_object_get(counts, states[i]) == NULL)
      (void)json_object_set_new(counts, states[i], json_integer(0));
    if (cli->output == TXB_OUTPUT_TEXT)
      txb_print("%-12s %10" JSON_INTEGER_FORMAT "\n", states[i], txb_failed_integer(counts, states[i]));
  }
  if (cli->output != TXB_OUTPUT_TEXT)
    txb_failed_print_json(cli, counts);
  json_decref(counts);
  return TXB_OK;
}

static enum txb_rc list_sagas(const struct txb_cli *cli, struct txb_pg *pg, struct txb_error *err) {
  static const char *const options[] = {"name", "state", "key", "before"};
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *r = NULL;
  struct txb_pg_params params;
  long long limit = 50;
  struct txb_uuid id;
  const char *parent = txb_args_text(&cli->args, "parent");
  if (parent != NULL)
    TXB_TRY(txb_saga_id_parse(parent, &id, err));
  TXB_TRY(txb_args_integer(&cli->args, "limit", 1, 10000, &limit, err));
  txb_pg_params_init(&params);
  for (size_t i = 0; i < TXB_ARRAY_SIZE(options); i++)
    txb_pg_add_text(&params, txb_slice_text(txb_args_text(&cli->args, options[i])));
  txb_pg_add_int8(&params, limit);
  if (parent != NULL)
    txb_pg_add_uuid(&params, &id);
  else
    txb_pg_add_null(&params, TXB_OID_UUID);
  TXB_TRY(txb_failed_ask(pg, &list_statement, &params, "txb_reader", &r, err));
  json_t *rows = txb_failed_json_rows(r);
  if (cli->output != TXB_OUTPUT_TEXT)
    print_document(cli, "sagas", rows);
  else if (json_array_size(rows) == 0)
    txb_print("no sagas\n");
  else
    print_sagas(cli, rows, limit);
  json_decref(rows);
  return TXB_OK;
}

static enum txb_rc list(const struct txb_cli *cli, struct txb_error *err) {
  struct txb_pg *pg = NULL;
  TXB_TRY(txb_saga_connect(cli, -1, &pg, err));
  enum txb_rc rc = txb_args_has(&cli->args, "definitions") ? list_definitions(cli, pg, err)
                   : txb_args_has(&cli->args, "count")     ? count(cli, pg, err)
                                                           : list_sagas(cli, pg, err);
  txb_pg_close(pg);
  return rc;
}

int txb_cmd_saga_list(struct txb_cli *cli) {
  struct txb_error err;
  return list(cli, &err) == TXB_OK ? TXB_EXIT_DONE : txb_fail(&err);
}
