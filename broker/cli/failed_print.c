/* Failed messages as text and JSON. What came in a message passes broker/cli/safe_text on its way to a terminal. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "broker/cli/failed.h"
#include "broker/cli/safe_text.h"

const char *txb_failed_text(const json_t *object, const char *name) {
  const json_t *value = json_object_get(object, name);
  return json_is_string(value) ? json_string_value(value) : NULL;
}

json_int_t txb_failed_integer(const json_t *object, const char *name) {
  return json_integer_value(json_object_get(object, name));
}

void txb_failed_print_json(const struct txb_cli *cli, const json_t *value) {
  size_t flags = JSON_ENCODE_ANY | JSON_ENSURE_ASCII;
  char *text = json_dumps(value, flags | (cli->output == TXB_OUTPUT_JSONL ? JSON_COMPACT : JSON_INDENT(2)));
  for (const char *p = text; p != NULL && *p != '\0'; p++)
    txb_print(*p == 0x7F ? "\\u007f" : "%c", *p); /* the one control character that JSON lets through */
  txb_print("\n");
  free(text);
}

void txb_failed_cell(struct txb_table *table, const json_t *object, const char *name, size_t width_max) {
  const json_t *value = json_object_get(object, name);
  if (json_is_integer(value)) {
    txb_table_cellf(table, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    return;
  }
  if (!json_is_string(value)) {
    txb_table_cell(table, NULL);
    return;
  }
  struct txb_buffer safe;
  txb_buffer_init(&safe);
  txb_safe_add(&safe, txb_slice_of(json_string_value(value), json_string_length(value)), width_max, TXB_SAFE_LINE);
  txb_table_cell(table, txb_buffer_text(&safe));
  txb_buffer_fini(&safe);
}

static void age_cell(struct txb_table *table, const json_t *object, const char *name) {
  const json_t *value = json_object_get(object, name);
  char age[24];
  if (!json_is_integer(value)) {
    txb_table_cell(table, NULL);
    return;
  }
  txb_format_age(json_integer_value(value), age);
  txb_table_cell(table, json_integer_value(value) <= 0 ? "now" : age);
}

/* With the replay job that it failed in, and the place in Kafka that the job read it from. */
static void topic_cell(struct txb_table *table, const json_t *message) {
  const json_t *job = json_object_get(message, "job"), *partition = json_object_get(message, "from_partition");
  if (json_is_integer(partition) && txb_failed_text(message, "topic") != NULL)
    txb_table_cellf(table, "%.32s[%" JSON_INTEGER_FORMAT "] %" JSON_INTEGER_FORMAT ", job %" JSON_INTEGER_FORMAT,
                    txb_failed_text(message, "topic"), json_integer_value(partition),
                    txb_failed_integer(message, "offset"), json_integer_value(job));
  else if (json_is_integer(job) && txb_failed_text(message, "topic") != NULL)
    txb_table_cellf(table, "%.32s, job %" JSON_INTEGER_FORMAT, txb_failed_text(message, "topic"),
                    json_integer_value(job));
  else
    txb_failed_cell(table, message, "topic", 32);
}

void txb_failed_print_table(const struct txb_cli *cli, const json_t *messages, int indent) {
  static const struct txb_column columns[] = {
      {"NUMBER", TXB_RIGHT},  {"STATE", TXB_LEFT},       {"OF", TXB_LEFT},   {"TOPIC", TXB_LEFT},
      {"KEY", TXB_LEFT},      {"TYPE", TXB_LEFT},        {"AGE", TXB_RIGHT}, {"ATTEMPTS", TXB_RIGHT},
      {"NEXT IN", TXB_RIGHT}, {"ERRORS LIKE", TXB_LEFT}, {"ERROR", TXB_LEFT}};
  struct txb_table table;
  const json_t *m;
  size_t i;
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  json_array_foreach(messages, i, m) {
    txb_failed_cell(&table, m, "number", 0);
    txb_failed_cell(&table, m, "state", 0);
    txb_failed_cell(&table, m, txb_failed_text(m, "group_name") != NULL ? "group_name" : "source", 24);
    topic_cell(&table, m);
    txb_failed_cell(&table, m, "key", 24);
    txb_failed_cell(&table, m, "type", 32);
    age_cell(&table, m, "age_ms");
    txb_failed_cell(&table, m, "attempts", 0);
    age_cell(&table, m, "due_in_ms");
    txb_failed_cell(&table, m, "error_group", 0);
    txb_failed_cell(&table, m, "error", 60);
  }
  txb_table_print(&table, cli, indent);
  txb_table_fini(&table);
}

void txb_failed_states_text(const json_t *states, struct txb_buffer *out) {
  static const char *const names[] = {"retrying", "held", "dead", "resolved", "discarded"};
  bool first = true;
  for (size_t i = 0; i < TXB_ARRAY_SIZE(names); i++) {
    const json_t *count = json_object_get(states, names[i]);
    if (count == NULL)
      continue;
    txb_buffer_addf(out, "%s%" JSON_INTEGER_FORMAT " %s", first ? "" : ", ", json_integer_value(count), names[i]);
    first = false;
  }
}

void txb_failed_called(const struct txb_cli *cli, const char *command, json_int_t number, struct txb_buffer *out) {
  bool jobs = strncmp(command, "replay ", 7) == 0; /* those live in their group's database, whatever the source */
  const char *config = txb_args_text(&cli->args, "config"), *group = txb_args_text(&cli->args, "group"),
             *source = jobs ? NULL : txb_args_text(&cli->args, "source");
  txb_buffer_add_text(out, "txbroker");
  if (config != NULL)
    txb_buffer_addf(out, " --config %s", config);
  if (txb_args_text(&cli->args, "database") != NULL)
    txb_buffer_add_text(out, " --database URI");
  txb_buffer_addf(out, " %s %" JSON_INTEGER_FORMAT, command, number);
  if (group != NULL)
    txb_buffer_addf(out, " --group %s", group);
  else if (source != NULL)
    txb_buffer_addf(out, " --source %s", source);
}

void txb_failed_print_called(const struct txb_cli *cli, const char *command, json_int_t number, const char *more) {
  struct txb_buffer text;
  txb_buffer_init(&text);
  txb_failed_called(cli, command, number, &text);
  txb_print("  %s%s\n", txb_buffer_text(&text), more);
  txb_buffer_fini(&text);
}
