/* See states.h. Each table is the one that decides, so that no page says anything else. */
#include "broker/cli/states.h"

#include <string.h>

#include "broker/cli/failed.h"

static void print_json(const struct txb_cli *cli, const struct txb_states *s) {
  json_t *rows = json_array();
  for (size_t i = 0; i < s->line_count; i++) {
    struct txb_states_line line = s->line(i);
    json_t *row =
        json_pack("{s:s?,s:s,s:s,s:s}", "from", line.from, "event", line.event, "to", line.to, "why", line.why);
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

static const char *from_text(const struct txb_states_line *line) {
  return line->from == NULL ? "-" : line->from;
}

static void print_text(const struct txb_cli *cli, const struct txb_states *s) {
  static const struct txb_column columns[] = {
      {"FROM", TXB_LEFT}, {"EVENT", TXB_LEFT}, {"TO", TXB_LEFT}, {"WHY", TXB_LEFT}};
  struct txb_table table;
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  for (size_t i = 0; i < s->line_count; i++) {
    struct txb_states_line line = s->line(i);
    txb_table_cell(&table, from_text(&line));
    txb_table_cell(&table, line.event);
    txb_table_cell(&table, line.to);
    txb_table_cell(&table, line.why);
  }
  txb_table_print(&table, cli, 0);
  txb_table_fini(&table);
}

static bool is_same(const char *a, const char *b) {
  return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

/* Events that lead from one state to another share an arrow. */
static void print_arrow(struct txb_buffer *out, const struct txb_states *s, const char *from, const char *to) {
  const char *separator = "";
  for (size_t i = 0; i < s->line_count; i++) {
    struct txb_states_line line = s->line(i);
    if (!is_same(line.from, from) || !is_same(line.to, to))
      continue;
    if (separator[0] == '\0')
      txb_buffer_addf(out, "  %s --> %s: ", from == NULL ? "[*]" : from, to);
    txb_buffer_addf(out, "%s%s", separator, line.event);
    separator = ", ";
  }
  if (separator[0] != '\0')
    txb_buffer_addf(out, "\n");
}

static void page(struct txb_buffer *out, const struct txb_states *s) {
  txb_buffer_addf(out,
                  "# States of %s\n\n"
                  "Printed by `txbroker %s --reference` from the table that decides (`%s`). What is not in it can't "
                  "happen.\n%s%s\n```mermaid\nstateDiagram-v2\n",
                  s->of, s->command, s->source, s->see == NULL ? "" : s->see, s->see == NULL ? "" : "\n");
  for (int from = 0; from < s->count; from++)
    for (int to = 0; to < s->count; to++)
      print_arrow(out, s, s->name(from), s->name(to));
  for (int i = 0; i < s->count; i++)
    if (s->name(i) != NULL && !s->is_open(i))
      txb_buffer_addf(out, "  %s --> [*]\n", s->name(i));
  txb_buffer_addf(out, "```\n\n| from | event | to | why |\n|---|---|---|---|\n");
  for (size_t i = 0; i < s->line_count; i++) {
    struct txb_states_line line = s->line(i);
    txb_buffer_addf(out, "| %s | `%s` | %s | %s |\n", from_text(&line), line.event, line.to, line.why);
  }
}

int txb_states_print(struct txb_cli *cli, const struct txb_states *states) {
  struct txb_error err;
  enum txb_rc rc = TXB_OK;
  if (txb_args_has(&cli->args, "reference")) {
    struct txb_buffer out;
    txb_buffer_init(&out);
    page(&out, states);
    rc = txb_buffer_check(&out, &err);
    txb_print_buffer(&out);
    txb_buffer_fini(&out);
  } else if (cli->output == TXB_OUTPUT_TEXT) {
    print_text(cli, states);
  } else {
    print_json(cli, states);
  }
  return rc == TXB_OK ? TXB_EXIT_DONE : txb_fail(&err);
}
