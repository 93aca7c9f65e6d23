/* The manual page, as roff from the tables. */
#include <string.h>

#include "broker/cli/help.h"

/* Text for roff: backslashes, hyphens that are typed, and lines that begin with a control character. */
static void roff(const char *text) {
  bool line_start = true;
  for (; *text != '\0'; text++) {
    if (line_start && (*text == '.' || *text == '\''))
      txb_print("\\&");
    if (*text == '\\')
      txb_print("\\e");
    else if (*text == '-')
      txb_print("\\-");
    else
      txb_print("%c", *text);
    line_start = *text == '\n';
  }
}

static void print_options(const struct txb_option *options) {
  for (const struct txb_option *o = options; o != NULL && o->name != NULL; o++) {
    struct txb_buffer left;
    txb_buffer_init(&left);
    txb_help_option(o, &left);
    txb_print(".TP\n.B ");
    roff(txb_buffer_text(&left));
    txb_print("\n");
    roff(o->help);
    if (o->choices != NULL) {
      txb_print(" (");
      roff(o->choices);
      txb_print(")");
    }
    txb_print("%s\n", o->many ? " May be given more than once." : "");
    txb_buffer_fini(&left);
  }
}

static void print_command(const struct txb_command *c) {
  txb_print(".SS txbroker %s%s", c->name, c->operands == NULL ? "" : " ");
  roff(c->operands == NULL ? "" : c->operands);
  txb_print("\n");
  roff(c->summary);
  txb_print(".\n");
  if (c->details != NULL) {
    txb_print(".PP\n");
    roff(c->details);
    txb_print("\n");
  }
  print_options(c->options);
  if (c->examples != NULL) {
    txb_print(".PP\n.nf\n");
    roff(c->examples);
    txb_print(".fi\n");
  }
}

static void print_settings(void) {
  txb_print(".SH SETTINGS\nA flag beats the environment, which beats the file, which beats the default. Keys of lists "
            "stand below the name of their entry:\n.BR "
            "sources.NAME.KEY ,\n.BR workers.GROUP.KEY .\n");
  for (const struct txb_section *section = txb_sections; section->name != NULL; section++) {
    txb_print(".SS %s\n%s\n", section->name, section->help);
    for (size_t i = 0; i < section->count; i++) {
      const struct txb_setting *setting = &section->settings[i];
      txb_print(".TP\n.B ");
      roff(setting->key);
      txb_print("\n");
      roff(setting->help);
      if (setting->fallback != NULL) {
        txb_print(" Default: ");
        roff(setting->fallback);
        txb_print(".");
      }
      txb_print("\n");
    }
  }
}

int txb_cmd_man(struct txb_cli *cli) {
  (void)cli;
  txb_print(".TH TXBROKER 1 \"\" \"txbroker %s\" \"User Commands\"\n.SH NAME\ntxbroker \\- transactional messaging for "
            "PostgreSQL and Kafka\n"
            ".SH SYNOPSIS\n.B txbroker\n[\\fIOPTION\\fR]... \\fICOMMAND\\fR [\\fIOPTION\\fR]...\n.SH DESCRIPTION\n",
            TXB_VERSION);
  txb_print("A service changes its own tables and tells others about it exactly when the change commits: it writes an "
            "intent into txb.outbox in its own "
            "transaction, a relay publishes committed intents to Kafka, and a worker applies each message exactly once "
            "to a PostgreSQL database.\n"
            ".PP\nAt\\-least\\-once transport, exactly\\-once effect inside the consumer's PostgreSQL "
            "transaction.\n.SH OPTIONS\n");
  print_options(txb_global_options);
  txb_print(".SH COMMANDS\n");
  for (const struct txb_command *c = txb_commands; c->name != NULL; c++)
    if (!c->hidden)
      print_command(c);
  print_settings();
  txb_print(".SH ENVIRONMENT\n.TP\n.B TXB_CONFIG\nThe configuration file, as \\-\\-config.\n.TP\n.B TXB_SECTION_KEY\nA "
            "setting.\n"
            ".TP\n.B NO_COLOR\nNo colours.\n.TP\n.B PGHOST, PGPASSFILE, ...\nAs libpq reads them.\n"
            ".SH EXIT STATUS\n0 done, 1 the thing asked about failed, 2 usage or configuration, 3 PostgreSQL "
            "unreachable, 4 Kafka unreachable, 5 refused for "
            "safety (schema version, fenced, permission).\n");
  return TXB_EXIT_DONE;
}
