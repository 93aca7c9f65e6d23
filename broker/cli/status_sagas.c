/* status: the sagas of a coordinator's database. */
#include "broker/cli/failed.h"
#include "broker/cli/status.h"
#include "cli_sql.h"

static const struct txb_pg_statement statement = {"cli_status_sagas", txb_text_cli_status_sagas};

enum txb_rc txb_status_sagas_add(struct txb_status *status, struct txb_pg *pg, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *rows = NULL;
  TXB_TRY(txb_pg_query(pg, &statement, NULL, &rows, err));
  for (int i = 0; i < txb_pg_rows(rows); i++) {
    json_t *sagas = txb_failed_json(rows, i, 0);
    (void)json_object_set_new(sagas, "database", json_string(txb_pg_name(pg)));
    (void)json_array_append_new(status->sagas, sagas);
  }
  return TXB_OK;
}

void txb_status_sagas_print(const struct txb_status *status, const struct txb_cli *cli) {
  static const struct txb_column columns[] = {{"SAGAS OF", TXB_LEFT},      {"TOPIC", TXB_LEFT},
                                              {"UNDER WAY", TXB_RIGHT},    {"STUCK", TXB_RIGHT},
                                              {"STUCK LONGEST", TXB_LEFT}, {"STRAYS", TXB_RIGHT}};
  struct txb_table table;
  const json_t *sagas;
  bool stuck = false;
  size_t i;
  if (json_array_size(status->sagas) == 0)
    return;
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  json_array_foreach(status->sagas, i, sagas) {
    const char *first = txb_failed_text(sagas, "stuck_first");
    char age[24];
    stuck = stuck || first != NULL;
    txb_failed_cell(&table, sagas, "database", 0);
    txb_failed_cell(&table, sagas, "topic", 40);
    txb_failed_cell(&table, sagas, "under_way", 0);
    txb_failed_cell(&table, sagas, "stuck", 0);
    txb_format_age(txb_failed_integer(sagas, "stuck_age_ms"), age);
    if (first != NULL)
      txb_table_cellf(&table, "%s, for %s", first, age);
    else
      txb_table_cell(&table, NULL);
    txb_failed_cell(&table, sagas, "strays", 0);
  }
  txb_print("\n");
  txb_table_print(&table, cli, 0);
  if (stuck)
    txb_print("  `txbroker saga list --state stuck` shows who waits for a person\n");
  txb_table_fini(&table);
}
