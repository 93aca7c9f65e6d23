/* config: what is in force and where it came from. */
#include <string.h>

#include "broker/cli/cli.h"

/* ---- what is in force ------------------------------------------------------------------------------------ */

/* One row: "workers.ledger.start", its value as text (NULL: none), and where it came from. */
typedef void (*row_fn)(void *to, const char *setting, const char *value, const char *from);

static void each_of_entry(const struct txb_section *section, const void *entry, const char *name, row_fn row,
                          void *to) {
  for (size_t i = 0; i < section->count; i++) {
    const struct txb_setting *setting = &section->settings[i];
    struct txb_buffer key, value;
    txb_buffer_init(&key);
    txb_buffer_init(&value);
    txb_buffer_addf(&key, "%s%s%s.%s", section->name, name == NULL ? "" : ".", name == NULL ? "" : name, setting->key);
    txb_settings_show(entry, setting, &value);
    row(to, txb_buffer_text(&key), value.size == 0 ? NULL : txb_buffer_text(&value),
        txb_setting_from_name((enum txb_setting_from)((const struct txb_section_head *)entry)->from[i]));
    txb_buffer_fini(&key);
    txb_buffer_fini(&value);
  }
}

static void each(const struct txb_settings *s, row_fn row, void *to) {
  for (const struct txb_section *section = txb_sections; section->name != NULL; section++)
    if (!section->list)
      each_of_entry(section, (const char *)s + section->offset, NULL, row, to);
  for (size_t i = 0; i < s->sources.count; i++)
    each_of_entry(txb_settings_section("sources"), txb_settings_source(s, i), txb_settings_source(s, i)->name, row, to);
  for (size_t i = 0; i < s->workers.count; i++)
    each_of_entry(txb_settings_section("workers"), txb_settings_group(s, i), txb_settings_group(s, i)->group, row, to);
}

static void table_row(void *to, const char *setting, const char *value, const char *from) {
  txb_table_cell(to, setting);
  txb_table_cell(to, value);
  txb_table_cell(to, from);
}

static void print_table(const struct txb_cli *cli) {
  static const struct txb_column columns[] = {{"SETTING", TXB_LEFT}, {"VALUE", TXB_LEFT}, {"FROM", TXB_LEFT}};
  struct txb_table table;
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  each(&cli->settings, table_row, &table);
  txb_table_print(&table, cli, 0);
  txb_table_fini(&table);
}

static void line_row(void *to, const char *setting, const char *value, const char *from) {
  json_t *line = json_pack("{s:s, s:s?, s:s}", "setting", setting, "value", value, "from", from);
  txb_print_json(to, line);
  json_decref(line);
}

static void from_row(void *to, const char *setting, const char *value, const char *from) {
  (void)value;
  (void)json_object_set_new(to, setting, json_string(from));
}

/* The configuration as a file would have it, and beside it under "from" where each setting came from. */
static enum txb_rc print_document(const struct txb_cli *cli, struct txb_error *err) {
  struct txb_buffer text;
  json_error_t ignored;
  txb_buffer_init(&text);
  txb_settings_print_json(&cli->settings, &text);
  enum txb_rc rc = txb_buffer_check(&text, err);
  json_t *document = rc == TXB_OK ? json_loadb(text.data, text.size, 0, &ignored) : NULL;
  txb_buffer_fini(&text);
  TXB_TRY(rc);
  json_t *from = json_object();
  if (document == NULL || json_object_set_new(document, "from", from) != 0) {
    json_decref(document);
    return TXB_FAIL(err, TXB_FATAL, "out of memory");
  }
  each(&cli->settings, from_row, from);
  txb_print_json(cli, document);
  json_decref(document);
  return TXB_OK;
}

/* ---- what there is --------------------------------------------------------------------------------------- */

static const char *kind_of(const struct txb_setting *setting) {
  static const char *const kinds[] = {
      [TXB_SETTING_TEXT] = "text",     [TXB_SETTING_INTEGER] = "integer", [TXB_SETTING_BOOLEAN] = "boolean",
      [TXB_SETTING_CHOICE] = "choice", [TXB_SETTING_LIST] = "list",       [TXB_SETTING_MAP] = "map"};
  return kinds[setting->type];
}

static json_t *key_row(const struct txb_section *section, const struct txb_setting *setting) {
  json_t *row = json_pack("{s:s, s:s, s:s, s:b, s:s?, s:s?, s:s?, s:s}", "section", section->name, "key", setting->key,
                          "type", kind_of(setting), "required", setting->required, "default", setting->fallback, "unit",
                          setting->unit, "choices", setting->choices, "help", setting->help);
  if (setting->type == TXB_SETTING_INTEGER) {
    (void)json_object_set_new(row, "min", json_integer(setting->min));
    (void)json_object_set_new(row, "max", json_integer(setting->max));
  }
  return row;
}

static void print_keys(const struct txb_cli *cli) {
  json_t *keys = json_array();
  for (const struct txb_section *section = txb_sections; section->name != NULL; section++)
    for (size_t i = 0; i < section->count; i++)
      (void)json_array_append_new(keys, key_row(section, &section->settings[i]));
  const json_t *row;
  size_t i;
  if (cli->output == TXB_OUTPUT_JSON)
    txb_print_json(cli, keys);
  else
    json_array_foreach(keys, i, row) {
      txb_print_json(cli, row);
    }
  json_decref(keys);
}

static void print_right(const struct txb_cli *cli) {
  if (cli->output == TXB_OUTPUT_TEXT) {
    txb_say("the configuration is right");
    return;
  }
  json_t *verdict = json_pack("{s:b}", "ok", true);
  txb_print_json(cli, verdict);
  json_decref(verdict);
}

/* Pages of text, whatever --output says: the sample is JSON anyway, the reference Markdown. */
static enum txb_rc print_page(void (*print)(struct txb_buffer *), struct txb_error *err) {
  struct txb_buffer out;
  txb_buffer_init(&out);
  print(&out);
  enum txb_rc rc = txb_buffer_check(&out, err);
  txb_print_buffer(&out);
  txb_buffer_fini(&out);
  return rc;
}

int txb_cmd_config(struct txb_cli *cli) {
  struct txb_error err;
  enum txb_rc rc = TXB_OK;
  bool text = cli->output == TXB_OUTPUT_TEXT;
  if (txb_args_has(&cli->args, "check"))
    print_right(cli);
  else if (txb_args_has(&cli->args, "sample"))
    rc = print_page(txb_settings_print_sample, &err);
  else if (txb_args_has(&cli->args, "reference"))
    rc = print_page(txb_settings_print_reference, &err);
  else if (txb_args_has(&cli->args, "keys") && text)
    rc = print_page(txb_settings_print_help, &err);
  else if (txb_args_has(&cli->args, "keys"))
    print_keys(cli);
  else if (text)
    print_table(cli);
  else if (cli->output == TXB_OUTPUT_JSONL)
    each(&cli->settings, line_row, cli);
  else
    rc = print_document(cli, &err);
  return rc == TXB_OK ? TXB_EXIT_DONE : txb_fail(&err);
}
