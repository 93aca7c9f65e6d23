/* --help, from the tables. */
#include "broker/cli/help.h"

#include <stdio.h>
#include <string.h>

#define LINE_WIDTH 100

void txb_help_option(const struct txb_option *option, struct txb_buffer *out) {
  if (option->letter != 0)
    txb_buffer_addf(out, "-%c, ", option->letter);
  txb_buffer_addf(out, "--%s", option->name);
  if (option->value != NULL)
    txb_buffer_addf(out, " %s", option->value);
}

/* Words of text from column `from` on, broken at the line's width; further lines start at `from`. */
static void print_wrapped(const char *text, int from) {
  int column = from;
  while (*text != '\0') {
    int size = (int)strcspn(text, " \n");
    if (column > from && column + 1 + size > LINE_WIDTH) {
      txb_print("\n%*s", from, "");
      column = from;
    } else if (column > from) {
      txb_print(" ");
      column++;
    }
    txb_print("%.*s", size, text);
    column += size;
    text += size;
    if (*text == '\n') {
      txb_print("\n%*s", text[1] == '\0' || text[1] == '\n' ? 0 : from, "");
      column = from;
    }
    text += *text != '\0';
  }
  txb_print("\n");
}

static void print_options(const struct txb_cli *cli, const char *title, const struct txb_option *options) {
  if (options == NULL || options->name == NULL)
    return;
  txb_print("\n%s%s%s\n", txb_color(cli, "\033[1m"), title, txb_color(cli, "\033[0m"));
  for (const struct txb_option *o = options; o->name != NULL; o++) {
    struct txb_buffer left;
    txb_buffer_init(&left);
    txb_buffer_add_text(&left, o->letter == 0 ? "    " : "");
    txb_help_option(o, &left);
    txb_print("  %-30s ", txb_buffer_text(&left));
    if (left.size > 30)
      txb_print("\n%33s", "");
    txb_buffer_clear(&left);
    txb_buffer_add_text(&left, o->help);
    if (o->choices != NULL)
      txb_buffer_addf(&left, " (%s)", o->choices);
    if (o->many)
      txb_buffer_add_text(&left, " May be given more than once.");
    print_wrapped(txb_buffer_text(&left), 33);
    txb_buffer_fini(&left);
  }
}

static const struct txb_family *family_of(const struct txb_command *c) {
  for (const struct txb_family *f = txb_families; f->name != NULL; f++)
    if (txb_command_is_of(c, f->name))
      return f;
  return NULL;
}

void txb_help_family(const struct txb_cli *cli, const struct txb_family *family) {
  txb_print("txbroker %s: %s\n\nusage: txbroker %s COMMAND [OPTION]...\n\n%sCommands%s\n", family->name,
            family->summary, family->name, txb_color(cli, "\033[1m"), txb_color(cli, "\033[0m"));
  for (const struct txb_command *c = txb_commands; c->name != NULL; c++)
    if (txb_command_is_of(c, family->name))
      txb_print("  %-12s %s\n", txb_command_second(c), c->summary);
  txb_print("\n`txbroker %s COMMAND --help` tells more.\n", family->name);
}

static void print_program(const struct txb_cli *cli) {
  txb_print("txbroker: transactional messaging for PostgreSQL and Kafka\n\n"
            "usage: txbroker [OPTION]... COMMAND [OPTION]...\n\n%sCommands%s\n",
            txb_color(cli, "\033[1m"), txb_color(cli, "\033[0m"));
  for (const struct txb_command *c = txb_commands; c->name != NULL; c++) {
    if (c->hidden || !txb_command_leads(c))
      continue;
    struct txb_slice first = txb_command_first(c);
    const struct txb_family *family = txb_command_second(c) == NULL ? NULL : family_of(c);
    txb_print("  %-12.*s %s\n", (int)first.size, (const char *)first.data,
              family == NULL ? c->summary : family->summary);
  }
  print_options(cli, "Options", txb_global_options);
  txb_print("\n%sExit codes%s\n"
            "  0 done, 1 the thing asked about failed, 2 usage or configuration, 3 PostgreSQL unreachable,\n"
            "  4 Kafka unreachable, 5 refused for safety (schema version, fenced, permission)\n\n"
            "`txbroker COMMAND --help` tells more; `txbroker config --keys` lists all settings.\n",
            txb_color(cli, "\033[1m"), txb_color(cli, "\033[0m"));
}

void txb_help_print(const struct txb_cli *cli, const struct txb_command *command) {
  if (command == NULL) {
    print_program(cli);
    return;
  }
  txb_print("txbroker %s: %s\n\nusage: txbroker %s [OPTION]...%s%s\n", command->name, command->summary, command->name,
            command->operands == NULL ? "" : " ", command->operands == NULL ? "" : command->operands);
  if (command->details != NULL) {
    txb_print("\n");
    print_wrapped(command->details, 0);
  }
  print_options(cli, "Options", command->options);
  print_options(cli, "Options of every command", txb_global_options);
  if (command->examples != NULL)
    txb_print("\n%sExamples%s\n%s", txb_color(cli, "\033[1m"), txb_color(cli, "\033[0m"), command->examples);
}

int txb_cmd_help(struct txb_cli *cli) {
  const char *const *words = cli->args.operands;
  if (cli->args.operand_count == 0) {
    txb_help_print(cli, NULL);
    return TXB_EXIT_DONE;
  }
  char name[64];
  (void)snprintf(name, sizeof(name), "%s%s%s", words[0], cli->args.operand_count > 1 ? " " : "",
                 cli->args.operand_count > 1 ? words[1] : "");
  const struct txb_command *command = txb_command_find(name);
  const struct txb_family *family = txb_family_find(name);
  if (command != NULL)
    txb_help_print(cli, command);
  else if (family != NULL)
    txb_help_family(cli, family);
  else
    txb_say("unknown command \"%s\"; `txbroker --help` lists them", name);
  return command != NULL || family != NULL ? TXB_EXIT_DONE : TXB_EXIT_USAGE;
}

int txb_cmd_version(struct txb_cli *cli) {
  if (cli->output == TXB_OUTPUT_TEXT) {
    txb_print("txbroker %s (librdkafka %s)\n", TXB_VERSION, txb_kafka_library_version());
    return TXB_EXIT_DONE;
  }
  json_t *version = json_pack("{s:s, s:s}", "version", TXB_VERSION, "librdkafka", txb_kafka_library_version());
  txb_print_json(cli, version);
  json_decref(version);
  return TXB_EXIT_DONE;
}
