/* saga locks: which names sagas hold, and who waits for them. Changes nothing. */
#include <string.h>

#include "broker/cli/saga.h"
#include "cli_sql.h"

static const struct txb_pg_statement locks_statement = {"cli_saga_locks", txb_text_cli_saga_locks};

const struct txb_option txb_saga_locks_options[] = {
    {.name = "name", .value = "TEXT", .help = "Only names that begin so."},
    {.name = "saga", .value = "ID", .help = "Only what this saga holds or waits for."},
    {.name = "limit", .value = "N", .help = "At most so many (default 50)."},
    {.name = NULL},
};

static void print_locks(const struct txb_cli *cli, const json_t *rows, long long limit) {
  static const struct txb_column columns[] = {{"NAME", TXB_LEFT}, {"STATE", TXB_LEFT}, {"TURN", TXB_RIGHT},
                                              {"SAGA", TXB_LEFT}, {"OF", TXB_LEFT},    {"SINCE (UTC)", TXB_LEFT},
                                              {"FOR", TXB_RIGHT}};
  struct txb_table table;
  const json_t *row;
  size_t i;
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  json_array_foreach(rows, i, row) {
    char age[24];
    txb_format_age(txb_failed_integer(row, "ms"), age);
    txb_failed_cell(&table, row, "name", 60);
    txb_table_cell(&table, json_is_true(json_object_get(row, "held")) ? "held" : "waits");
    txb_failed_cell(&table, row, "turn", 0);
    txb_failed_cell(&table, row, "saga", 0);
    txb_failed_cell(&table, row, "saga_name", 0);
    txb_table_cellf(&table, "%.19s", txb_failed_text(row, "since"));
    txb_table_cell(&table, age);
  }
  txb_table_print(&table, cli, 0);
  txb_table_fini(&table);
  if ((long long)json_array_size(rows) == limit)
    txb_print("more may follow: --limit, or --name\n");
}

static void print(const struct txb_cli *cli, json_t *rows, long long limit) {
  const json_t *row;
  size_t i;
  if (cli->output == TXB_OUTPUT_JSON) {
    json_t *document = json_pack("{s:O}", "locks", rows);
    txb_failed_print_json(cli, document);
    json_decref(document);
  } else if (cli->output == TXB_OUTPUT_JSONL) {
    json_array_foreach(rows, i, row) txb_failed_print_json(cli, row);
  } else if (json_array_size(rows) == 0) {
    txb_print("no locks\n");
  } else {
    print_locks(cli, rows, limit);
  }
}

static enum txb_rc list(const struct txb_cli *cli, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *r = NULL;
  struct txb_pg *pg = NULL;
  struct txb_pg_params params;
  struct txb_uuid saga;
  const char *of = txb_args_text(&cli->args, "saga");
  long long limit = 50;
  TXB_TRY(txb_args_integer(&cli->args, "limit", 1, 10000, &limit, err));
  if (of != NULL)
    TXB_TRY(txb_saga_id_parse(of, &saga, err));
  TXB_TRY(txb_saga_connect(cli, -1, &pg, err));
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text(txb_args_text(&cli->args, "name")));
  if (of != NULL)
    txb_pg_add_uuid(&params, &saga);
  else
    txb_pg_add_null(&params, TXB_OID_UUID);
  txb_pg_add_int8(&params, limit);
  enum txb_rc rc = txb_failed_ask(pg, &locks_statement, &params, "txb_reader", &r, err);
  if (rc == TXB_OK) {
    json_t *rows = txb_failed_json_rows(r);
    print(cli, rows, limit);
    json_decref(rows);
  }
  txb_pg_close(pg);
  return rc;
}

int txb_cmd_saga_locks(struct txb_cli *cli) {
  struct txb_error err;
  return list(cli, &err) == TXB_OK ? TXB_EXIT_DONE : txb_fail(&err);
}
