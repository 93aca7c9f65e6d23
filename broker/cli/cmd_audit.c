/* audit list: who decided what. Changes nothing. */
#include <stdlib.h>

#include "broker/cli/failed.h"

static void print_text(const struct txb_cli *cli, const json_t *rows) {
  static const struct txb_column columns[] = {{"NUMBER", TXB_RIGHT},  {"WHEN (UTC)", TXB_LEFT}, {"ROLE", TXB_LEFT},
                                              {"PERSON", TXB_LEFT},   {"COMMAND", TXB_LEFT},    {"MEANT", TXB_RIGHT},
                                              {"CHANGED", TXB_RIGHT}, {"FILTER", TXB_LEFT},     {"REASON", TXB_LEFT},
                                              {"REFUSED", TXB_LEFT}};
  struct txb_table table;
  json_t *row;
  size_t i;
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  json_array_foreach(rows, i, row) {
    char *filter = json_dumps(json_object_get(row, "filter"), JSON_COMPACT | JSON_ENCODE_ANY);
    (void)json_object_set_new(row, "filter_text", json_string(filter == NULL ? "" : filter));
    free(filter);
    txb_failed_cell(&table, row, "number", 0);
    txb_table_cellf(&table, "%.19s", txb_failed_text(row, "at"));
    txb_failed_cell(&table, row, "role", 32);
    txb_failed_cell(&table, row, "person", 32);
    txb_failed_cell(&table, row, "action", 0);
    txb_failed_cell(&table, row, "matched", 0);
    txb_failed_cell(&table, row, "changed", 0);
    txb_failed_cell(&table, row, "filter_text", 60);
    txb_failed_cell(&table, row, "reason", 80);
    txb_failed_cell(&table, row, "refused", 120);
  }
  txb_table_print(&table, cli, 0);
  txb_table_fini(&table);
}

static void print_all(const struct txb_cli *cli, json_t *rows) {
  const json_t *row;
  size_t i;
  if (cli->output == TXB_OUTPUT_JSON) {
    json_t *document = json_pack("{s:O}", "audit", rows);
    txb_failed_print_json(cli, document);
    json_decref(document);
  } else if (cli->output == TXB_OUTPUT_JSONL) {
    json_array_foreach(rows, i, row) {
      txb_failed_print_json(cli, row);
    }
  } else if (json_array_size(rows) > 0) {
    print_text(cli, rows);
  } else {
    txb_print("nobody has decided anything\n");
  }
}

static enum txb_rc list(struct txb_cli *cli, struct txb_targets *targets, struct txb_error *err) {
  long long page = 50, after = 0;
  const char *uri;
  struct txb_pg *pg = NULL;
  json_t *rows = NULL;
  TXB_TRY(txb_args_integer(&cli->args, "limit", 1, 10000, &page, err));
  TXB_TRY(txb_args_integer(&cli->args, "after", 1, INT64_MAX, &after, err));
  TXB_TRY(txb_failed_targets(cli, targets, err));
  TXB_TRY(txb_failed_one_target(cli, targets, &uri, err));
  TXB_TRY(txb_failed_connect(cli, uri, &pg, err));
  enum txb_rc rc = txb_audit_list(pg, after, (int)page, &rows, err);
  if (rc == TXB_OK)
    print_all(cli, rows);
  json_decref(rows);
  txb_pg_close(pg);
  return rc;
}

int txb_cmd_audit_list(struct txb_cli *cli) {
  struct txb_error err;
  struct txb_targets targets = {NULL, 0};
  enum txb_rc rc = list(cli, &targets, &err);
  txb_targets_fini(&targets);
  return rc == TXB_OK ? TXB_EXIT_DONE : txb_fail(&err);
}
