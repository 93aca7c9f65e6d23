/* audit list: who decided what. Changes nothing. */
#include <stdlib.h>
#include <unistd.h>

#include "broker/cli/failed.h"

struct page {
  const struct txb_cli *cli;
  long long limit, after;
  json_t *rows;
  bool more; /* rows follow */
};

static void print_table(const struct txb_cli *cli, const json_t *rows) {
  static const struct txb_column columns[] = {{"NUMBER", TXB_RIGHT},  {"WHEN (UTC)", TXB_LEFT}, {"ROLE", TXB_LEFT},
                                              {"PERSON", TXB_LEFT},   {"COMMAND", TXB_LEFT},    {"MEANT", TXB_RIGHT},
                                              {"CHANGED", TXB_RIGHT}, {"FILTER", TXB_LEFT},     {"REASON", TXB_LEFT},
                                              {"REFUSED", TXB_LEFT}};
  /* Only a terminal is too narrow for what they say. */
  bool cut = isatty(STDOUT_FILENO) == 1;
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
    txb_failed_cell(&table, row, "role", cut ? 32 : 0);
    txb_failed_cell(&table, row, "person", cut ? 32 : 0);
    txb_failed_cell(&table, row, "action", 0);
    txb_failed_cell(&table, row, "matched", 0);
    txb_failed_cell(&table, row, "changed", 0);
    txb_failed_cell(&table, row, "filter_text", cut ? 60 : 0);
    txb_failed_cell(&table, row, "reason", cut ? 80 : 0);
    txb_failed_cell(&table, row, "refused", cut ? 120 : 0);
  }
  txb_table_print(&table, cli, 0);
  txb_table_fini(&table);
}

static void print_text(const struct page *p, json_int_t last) {
  if (json_array_size(p->rows) > 0)
    print_table(p->cli, p->rows);
  else if (p->after > 0)
    txb_print(TXB_FAILED_PAST_END, p->after);
  else
    txb_print("nobody has decided anything\n");
  if (p->more)
    txb_print("more follow: --after %" JSON_INTEGER_FORMAT "\n", last);
}

static void print_all(const struct page *p) {
  size_t count = json_array_size(p->rows), i;
  json_int_t last = count == 0 ? 0 : txb_failed_integer(json_array_get(p->rows, count - 1), "number");
  const json_t *row;
  if (p->cli->output == TXB_OUTPUT_JSON) {
    json_t *document =
        json_pack("{s:O, s:o}", "audit", p->rows, "next_after", p->more ? json_integer(last) : json_null());
    txb_failed_print_json(p->cli, document);
    json_decref(document);
  } else if (p->cli->output == TXB_OUTPUT_JSONL) {
    json_array_foreach(p->rows, i, row) {
      txb_failed_print_json(p->cli, row);
    }
  } else {
    print_text(p, last);
  }
}

static enum txb_rc list(struct txb_cli *cli, struct txb_targets *targets, struct txb_error *err) {
  struct page page = {.cli = cli, .limit = 50};
  const char *uri;
  struct txb_pg *pg = NULL;
  TXB_TRY(txb_args_integer(&cli->args, "limit", 1, TXB_FAILED_PAGE_MAX, &page.limit, err));
  TXB_TRY(txb_args_integer(&cli->args, "after", 1, INT64_MAX, &page.after, err));
  TXB_TRY(txb_failed_targets(cli, targets, err));
  TXB_TRY(txb_failed_one_target(cli, targets, &uri, err));
  TXB_TRY(txb_failed_connect(cli, uri, &pg, err));
  enum txb_rc rc = txb_audit_list(pg, page.after, (int)page.limit, &page.rows, &page.more, err);
  if (rc == TXB_OK) {
    print_all(&page);
    json_decref(page.rows);
  }
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
