/* config: what is in force and where it came from. */
#include <string.h>

#include "broker/cli/cli.h"

static void add_rows(struct txb_table *table, const struct txb_section *section, const void *entry, const char *name) {
  for (size_t i = 0; i < section->count; i++) {
    const struct txb_setting *setting = &section->settings[i];
    struct txb_buffer value;
    txb_buffer_init(&value);
    txb_settings_show(entry, setting, &value);
    txb_table_cellf(table, "%s%s%s.%s", section->name, name == NULL ? "" : ".", name == NULL ? "" : name, setting->key);
    txb_table_cell(table, value.size == 0 ? NULL : txb_buffer_text(&value));
    txb_table_cell(table,
                   txb_setting_from_name((enum txb_setting_from)((const struct txb_section_head *)entry)->from[i]));
    txb_buffer_fini(&value);
  }
}

static void print_table(const struct txb_cli *cli) {
  static const struct txb_column columns[] = {{"SETTING", TXB_LEFT}, {"VALUE", TXB_LEFT}, {"FROM", TXB_LEFT}};
  const struct txb_settings *s = &cli->settings;
  struct txb_table table;
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  for (const struct txb_section *section = txb_sections; section->name != NULL; section++)
    if (!section->list)
      add_rows(&table, section, (const char *)s + section->offset, NULL);
  for (size_t i = 0; i < s->sources.count; i++)
    add_rows(&table, txb_settings_section("sources"), txb_settings_source(s, i), txb_settings_source(s, i)->name);
  for (size_t i = 0; i < s->workers.count; i++)
    add_rows(&table, txb_settings_section("workers"), txb_settings_group(s, i), txb_settings_group(s, i)->group);
  txb_table_print(&table, cli, 0);
  txb_table_fini(&table);
}

int txb_cmd_config(struct txb_cli *cli) {
  struct txb_buffer out;
  struct txb_error err;
  txb_buffer_init(&out);
  if (txb_args_has(&cli->args, "check"))
    txb_say("the configuration is right");
  else if (txb_args_has(&cli->args, "sample"))
    txb_settings_print_sample(&out);
  else if (txb_args_has(&cli->args, "reference"))
    txb_settings_print_reference(&out);
  else if (txb_args_has(&cli->args, "keys"))
    txb_settings_print_help(&out);
  else if (cli->output == TXB_OUTPUT_TEXT)
    print_table(cli);
  else
    txb_settings_print_json(&cli->settings, &out);
  int code = txb_buffer_check(&out, &err) == TXB_OK ? TXB_EXIT_DONE : txb_fail(&err);
  txb_print_buffer(&out);
  txb_buffer_fini(&out);
  return code;
}
