/* Completion scripts for bash, zsh and fish, from the tables. */
#include <string.h>

#include "broker/cli/help.h"

/* Text inside single quotes of a shell; characters of `special` get a backslash (zsh's _arguments reads them). */
static void quoted(const char *text, const char *special) {
  txb_print("'");
  for (; *text != '\0'; text++) {
    if (*text == '\'')
      txb_print("'\\''");
    else
      txb_print("%s%c", strchr(special, *text) != NULL ? "\\" : "", *text);
  }
  txb_print("'");
}

static void choices_spaced(const char *choices) {
  for (const char *c = choices; *c != '\0'; c++)
    txb_print("%c", *c == '|' ? ' ' : *c);
}

static bool takes_file(const struct txb_option *o) {
  return o->value != NULL && (strcmp(o->value, "FILE") == 0 || strcmp(o->value, "DIR") == 0);
}

static void bash_words(const struct txb_option *options) {
  for (const struct txb_option *o = options; o != NULL && o->name != NULL; o++)
    txb_print(" --%s", o->name);
}

/* The first words of all commands, each once. */
static void first_words(void) {
  for (const struct txb_command *c = txb_commands; c->name != NULL; c++) {
    struct txb_slice first = txb_command_first(c);
    if (!c->hidden && txb_command_leads(c))
      txb_print("%s%.*s", c == txb_commands ? "" : " ", (int)first.size, (const char *)first.data);
  }
}

static void second_words(const struct txb_family *family) {
  const char *space = "";
  for (const struct txb_command *c = txb_commands; c->name != NULL; c++) {
    if (c->hidden || !txb_command_is_of(c, family->name))
      continue;
    txb_print("%s%s", space, txb_command_second(c));
    space = " ";
  }
}

/* The operands that are offered: command names after `help`. */
static void operands(const struct txb_command *command) {
  if (command->choices != NULL)
    choices_spaced(command->choices);
  if (command->run == txb_cmd_help)
    first_words();
}

static bool has_operands(const struct txb_command *command) {
  return command->choices != NULL || command->run == txb_cmd_help;
}

/* Keys for --set; what lists hold begins with the list's name. */
static void setting_keys(void) {
  for (const struct txb_section *section = txb_sections; section->name != NULL; section++) {
    if (section->list)
      txb_print("%s%s.", section == txb_sections ? "" : " ", section->name);
    for (size_t i = 0; !section->list && i < section->count; i++)
      txb_print("%s%s.%s%s", section == txb_sections && i == 0 ? "" : " ", section->name, section->settings[i].key,
                section->settings[i].type == TXB_SETTING_MAP ? "." : "=");
  }
}

static bool takes_setting(const struct txb_option *o) {
  return strcmp(o->name, "set") == 0;
}

static bool has_values(const struct txb_option *o) {
  return o->choices != NULL || o->suggest != NULL || takes_setting(o);
}

static void values(const struct txb_option *o) {
  if (takes_setting(o))
    setting_keys();
  else
    choices_spaced(o->choices != NULL ? o->choices : o->suggest);
}

static void bash_values(const struct txb_option *options) {
  for (const struct txb_option *o = options; o != NULL && o->name != NULL; o++) {
    if (o->value == NULL)
      continue;
    txb_print("    --%s", o->name);
    if (o->letter != 0)
      txb_print(" | -%c", o->letter);
    if (has_values(o)) {
      txb_print(") %smapfile -t COMPREPLY < <(compgen -W '",
                takes_setting(o) ? "compopt -o nospace 2>/dev/null; " : "");
      values(o);
      txb_print("' -- \"$cur\"); return ;;\n");
    } else if (takes_file(o)) {
      txb_print(") mapfile -t COMPREPLY < <(compgen -%c -- \"$cur\"); return ;;\n",
                strcmp(o->value, "DIR") == 0 ? 'd' : 'f');
    } else {
      txb_print(") return ;;\n");
    }
  }
}

static void print_bash(void) {
  txb_print("# bash completion for txbroker\n_txbroker() {\n  local cur prev word command='' words\n  "
            "cur=${COMP_WORDS[COMP_CWORD]}\n"
            "  prev=${COMP_WORDS[COMP_CWORD - 1]}\n  COMPREPLY=()\n  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; "
            "do\n    case ${command:+$command }$word in\n     ");
  for (const struct txb_command *c = txb_commands; c->name != NULL; c++)
    txb_print("%s '%s'", c == txb_commands ? "" : " |", c->name);
  txb_print(") command=${command:+$command }$word; break ;;\n");
  for (const struct txb_family *f = txb_families; f->name != NULL; f++)
    txb_print("      %s) command=$word ;;\n", f->name);
  txb_print("    esac\n  done\n  case $prev in\n");
  bash_values(txb_global_options);
  txb_print("  esac\n  case $command in\n    '') words='");
  first_words();
  txb_print("' ;;\n");
  for (const struct txb_family *f = txb_families; f->name != NULL; f++) {
    txb_print("    %s) words='", f->name);
    second_words(f);
    txb_print("' ;;\n");
  }
  for (const struct txb_command *c = txb_commands; c->name != NULL; c++) {
    if (c->hidden)
      continue;
    txb_print("    '%s')\n      case $prev in\n", c->name);
    bash_values(c->options);
    txb_print("      esac\n      words='");
    operands(c);
    bash_words(c->options);
    txb_print("' ;;\n");
  }
  txb_print("  esac\n  words+='");
  bash_words(txb_global_options);
  txb_print("'\n  mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n}\ncomplete -F _txbroker txbroker\n");
}

static void zsh_option(const struct txb_option *o, const char *indent) {
  txb_print("%s%s", indent, o->many ? "'*'" : "");
  if (o->letter != 0 && !o->many)
    txb_print("'(-%c --%s)'{-%c,--%s}", o->letter, o->name, o->letter, o->name);
  else if (o->letter != 0)
    txb_print("{-%c,--%s}", o->letter, o->name);
  else
    txb_print("--%s", o->name);
  txb_print("'['");
  quoted(o->help, "[]:");
  txb_print("']'");
  if (o->value != NULL && has_values(o)) {
    txb_print("':%s:(", o->value);
    values(o);
    txb_print(")'");
  } else if (o->value != NULL) {
    txb_print("':%s:%s'", o->value, takes_file(o) ? "_files" : "");
  }
  txb_print(" \\\n");
}

/* What `case` chooses for a command, by its first or its second word. */
static void zsh_arguments(const struct txb_command *c, const char *word, const char *indent) {
  txb_print("%s%s) _arguments \\\n", indent, word);
  for (const struct txb_option *o = c->options; o != NULL && o->name != NULL; o++)
    zsh_option(o, "          ");
  for (const struct txb_option *o = txb_global_options; o->name != NULL; o++)
    zsh_option(o, "          ");
  txb_print("          '*:%s:", c->operands == NULL ? "nothing" : "operand");
  if (has_operands(c)) {
    txb_print("(");
    operands(c);
    txb_print(")");
  }
  txb_print("' ;;\n");
}

static void zsh_describe(struct txb_slice word, const char *summary, const char *indent) {
  txb_print("%s%.*s':'", indent, (int)word.size, (const char *)word.data);
  quoted(summary, ":");
  txb_print("\n");
}

/* The words after a family's name are its own command line: a state of its own in a function of its own. */
static void zsh_family(const struct txb_family *f) {
  txb_print("_txbroker_%s() {\n  local context state line\n  _arguments -C '1:command:->command' "
            "'*::argument:->argument'\n  case $state in\n    command)\n      local -a commands\n      commands=(\n",
            f->name);
  for (const struct txb_command *c = txb_commands; c->name != NULL; c++)
    if (!c->hidden && txb_command_is_of(c, f->name))
      zsh_describe(txb_slice_text(txb_command_second(c)), c->summary, "        ");
  txb_print("      )\n      _describe command commands ;;\n    argument)\n      case $words[1] in\n");
  for (const struct txb_command *c = txb_commands; c->name != NULL; c++)
    if (!c->hidden && txb_command_is_of(c, f->name))
      zsh_arguments(c, txb_command_second(c), "        ");
  txb_print("      esac ;;\n  esac\n}\n\n");
}

static void print_zsh(void) {
  txb_print("#compdef txbroker\n\n");
  for (const struct txb_family *f = txb_families; f->name != NULL; f++)
    zsh_family(f);
  txb_print("_txbroker() {\n  local context state line\n  typeset -A opt_args\n  _arguments -C \\\n");
  for (const struct txb_option *o = txb_global_options; o->name != NULL; o++)
    zsh_option(o, "    ");
  txb_print("    '1:command:->command' '*::argument:->argument'\n  case $state in\n    command)\n      local -a "
            "commands\n      commands=(\n");
  for (const struct txb_command *c = txb_commands; c->name != NULL; c++)
    if (!c->hidden && txb_command_second(c) == NULL)
      zsh_describe(txb_slice_text(c->name), c->summary, "        ");
  for (const struct txb_family *f = txb_families; f->name != NULL; f++)
    zsh_describe(txb_slice_text(f->name), f->summary, "        ");
  txb_print("      )\n      _describe command commands ;;\n    argument)\n      case $words[1] in\n");
  for (const struct txb_command *c = txb_commands; c->name != NULL; c++)
    if (!c->hidden && txb_command_second(c) == NULL)
      zsh_arguments(c, c->name, "        ");
  for (const struct txb_family *f = txb_families; f->name != NULL; f++)
    txb_print("        %s) _txbroker_%s ;;\n", f->name, f->name);
  txb_print("      esac ;;\n  esac\n}\n\n_txbroker \"$@\"\n");
}

static void fish_options(const struct txb_option *options, const char *condition) {
  for (const struct txb_option *o = options; o != NULL && o->name != NULL; o++) {
    txb_print("complete -c txbroker%s%s -l %s", condition == NULL ? "" : " -n ", condition == NULL ? "" : condition,
              o->name);
    if (o->letter != 0)
      txb_print(" -s %c", o->letter);
    if (o->value != NULL)
      txb_print(takes_file(o) ? " -rF" : " -x");
    if (o->value != NULL && has_values(o)) {
      txb_print(" -a '");
      values(o);
      txb_print("'");
    }
    txb_print(" -d ");
    quoted(o->help, "\\");
    txb_print("\n");
  }
}

/* The condition under which a command's own options are offered: its words were given. */
static void fish_condition(const struct txb_command *c, struct txb_buffer *out) {
  struct txb_slice first = txb_command_first(c);
  const char *second = txb_command_second(c);
  txb_buffer_addf(out, "'__fish_seen_subcommand_from %.*s", (int)first.size, (const char *)first.data);
  if (second != NULL)
    txb_buffer_addf(out, "; and __fish_seen_subcommand_from %s", second);
  txb_buffer_add_text(out, "'");
}

static void fish_family(const struct txb_family *f) {
  txb_print("complete -c txbroker -n __fish_use_subcommand -a %s -d ", f->name);
  quoted(f->summary, "\\");
  txb_print("\n");
  for (const struct txb_command *c = txb_commands; c->name != NULL; c++) {
    if (c->hidden || !txb_command_is_of(c, f->name))
      continue;
    txb_print("complete -c txbroker -n '__fish_seen_subcommand_from %s; and not __fish_seen_subcommand_from ", f->name);
    second_words(f);
    txb_print("' -a %s -d ", txb_command_second(c));
    quoted(c->summary, "\\");
    txb_print("\n");
  }
}

static void print_fish(void) {
  txb_print("# fish completion for txbroker\ncomplete -c txbroker -f\n");
  fish_options(txb_global_options, NULL);
  for (const struct txb_family *f = txb_families; f->name != NULL; f++)
    fish_family(f);
  for (const struct txb_command *c = txb_commands; c->name != NULL; c++) {
    if (c->hidden)
      continue;
    if (txb_command_second(c) == NULL) {
      txb_print("complete -c txbroker -n __fish_use_subcommand -a %s -d ", c->name);
      quoted(c->summary, "\\");
      txb_print("\n");
    }
    struct txb_buffer condition;
    txb_buffer_init(&condition);
    fish_condition(c, &condition);
    fish_options(c->options, txb_buffer_text(&condition));
    if (has_operands(c)) {
      txb_print("complete -c txbroker -n %s -a '", txb_buffer_text(&condition));
      operands(c);
      txb_print("'\n");
    }
    txb_buffer_fini(&condition);
  }
}

int txb_cmd_completion(struct txb_cli *cli) {
  const char *shell = cli->args.operands[0];
  if (strcmp(shell, "bash") == 0)
    print_bash();
  else if (strcmp(shell, "zsh") == 0)
    print_zsh();
  else
    print_fish();
  return TXB_EXIT_DONE;
}
