/* failed states: what may become of a failed message, printed from the table that decides it (consumer/failed_core.c), so
 * that no page says anything else. Changes nothing and connects to nothing. */
#include <string.h>

#include "broker/cli/failed.h"
#include "consumer/failed_core.h"

const struct txb_option txb_failed_states_options[] = {
    {.name = "reference", .help = "As the Markdown page docs/reference-failed-states.md, with a diagram."},
    {.name = NULL},
};

static const char *state_text(enum txb_failed_state state) {
  return state == TXB_FAILED_NONE ? "-" : txb_failed_state_name(state);
}

static json_t *row_of(const struct txb_failed_transition *t) {
  return json_pack("{s:s?,s:s,s:s,s:s}", "from", t->from == TXB_FAILED_NONE ? NULL : txb_failed_state_name(t->from),
                   "event", txb_failed_event_name(t->event), "to", txb_failed_state_name(t->to), "why", t->why);
}

static void print_json(const struct txb_cli *cli) {
  json_t *rows = json_array();
  for (size_t i = 0; i < txb_failed_transitions_count; i++) {
    json_t *row = row_of(&txb_failed_transitions[i]);
    if (cli->output == TXB_OUTPUT_JSONL) {
      txb_failed_print_json(cli, row);
      json_decref(row);
    } else {
      (void)json_array_append_new(rows, row);
    }
  }
  if (cli->output == TXB_OUTPUT_JSON) {
    json_t *document = json_pack("{s:O}", "transitions", rows);
    txb_failed_print_json(cli, document);
    json_decref(document);
  }
  json_decref(rows);
}

static void print_text(const struct txb_cli *cli) {
  static const struct txb_column columns[] = {
      {"FROM", TXB_LEFT}, {"EVENT", TXB_LEFT}, {"TO", TXB_LEFT}, {"WHY", TXB_LEFT}};
  struct txb_table table;
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  for (size_t i = 0; i < txb_failed_transitions_count; i++) {
    const struct txb_failed_transition *t = &txb_failed_transitions[i];
    txb_table_cell(&table, state_text(t->from));
    txb_table_cell(&table, txb_failed_event_name(t->event));
    txb_table_cell(&table, txb_failed_state_name(t->to));
    txb_table_cell(&table, t->why);
  }
  txb_table_print(&table, cli, 0);
  txb_table_fini(&table);
}

/* Events that lead from one state to another share an arrow. */
static void print_arrow(struct txb_buffer *out, enum txb_failed_state from, enum txb_failed_state to) {
  const char *separator = "";
  for (size_t i = 0; i < txb_failed_transitions_count; i++) {
    const struct txb_failed_transition *t = &txb_failed_transitions[i];
    if (t->from != from || t->to != to)
      continue;
    if (separator[0] == '\0')
      txb_buffer_addf(out, "  %s --> %s: ", from == TXB_FAILED_NONE ? "[*]" : txb_failed_state_name(from),
                      txb_failed_state_name(to));
    txb_buffer_addf(out, "%s%s", separator, txb_failed_event_name(t->event));
    separator = ", ";
  }
  if (separator[0] != '\0')
    txb_buffer_addf(out, "\n");
}

static void page(struct txb_buffer *out) {
  txb_buffer_addf(out, "# States of a failed message\n\n"
                       "Printed by `txbroker failed states --reference` from the table that decides "
                       "(`consumer/failed_core.c`). What is not in it can't happen.\n"
                       "[guides/failed-messages.md](guides/failed-messages.md) says what they mean and what to do.\n\n"
                       "```mermaid\nstateDiagram-v2\n");
  for (int from = 0; from < TXB_FAILED_STATES; from++)
    for (int to = 0; to < TXB_FAILED_STATES; to++)
      print_arrow(out, (enum txb_failed_state)from, (enum txb_failed_state)to);
  txb_buffer_addf(out, "  resolved --> [*]\n  discarded --> [*]\n```\n\n"
                       "| from | event | to | why |\n|---|---|---|---|\n");
  for (size_t i = 0; i < txb_failed_transitions_count; i++) {
    const struct txb_failed_transition *t = &txb_failed_transitions[i];
    txb_buffer_addf(out, "| %s | `%s` | %s | %s |\n", state_text(t->from), txb_failed_event_name(t->event),
                    txb_failed_state_name(t->to), t->why);
  }
}

int txb_cmd_failed_states(struct txb_cli *cli) {
  struct txb_error err;
  enum txb_rc rc = TXB_OK;
  if (txb_args_has(&cli->args, "reference")) {
    struct txb_buffer out;
    txb_buffer_init(&out);
    page(&out);
    rc = txb_buffer_check(&out, &err);
    txb_print_buffer(&out);
    txb_buffer_fini(&out);
  } else if (cli->output == TXB_OUTPUT_TEXT) {
    print_text(cli);
  } else {
    print_json(cli);
  }
  return rc == TXB_OK ? TXB_EXIT_DONE : txb_fail(&err);
}
