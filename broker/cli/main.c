/* The program: parse, load the settings, run the command. A crash here leaves nothing: commands that change something
 * say what they leave. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "broker/cli/cli.h"
#include "broker/cli/help.h"
#include "common/log.h"
#include "common/memory.h"

/* --brokers and --database stand for settings, so that they take part in the precedence like any flag. */
static enum txb_rc load_flags(struct txb_cli *cli, struct txb_error *err) {
  const char *text;
  for (size_t n = 0; (text = txb_args_nth(&cli->args, "set", n)) != NULL; n++)
    TXB_TRY(txb_settings_load_flag(&cli->settings, text, err));
  text = txb_args_text(&cli->args, "brokers");
  if (text == NULL)
    return TXB_OK;
  const struct txb_section *kafka = txb_settings_section("kafka");
  return txb_settings_put(&cli->settings.kafka, kafka, txb_settings_key(kafka, "brokers"), text, TXB_FROM_FLAG,
                          "--brokers", err);
}

/* Commands that work with the entries of a configuration. The others live with what the environment sets for these. */
static bool is_for_entries(const struct txb_command *command) {
  static const char *const names[] = {"relay", "worker", "run", "config", "doctor", "status"};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(names); i++)
    if (strcmp(command->name, names[i]) == 0)
      return true;
  const char *second = txb_command_second(command); /* of the families only what prints a table needs none */
  return second != NULL && strcmp(second, "states") != 0;
}

static enum txb_rc load_settings(struct txb_cli *cli, struct txb_error *err) {
  TXB_TRY(txb_settings_init(&cli->settings, err));
  const char *file = txb_args_text(&cli->args, "config");
  if (file != NULL && *file == '\0') /* a shell variable that is not set; an empty TXB_CONFIG is one that is cleared */
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "--config is empty: give --config FILE, or leave it out");
  if (file == NULL)
    file = getenv("TXB_CONFIG");
  if (file != NULL && *file != '\0')
    TXB_TRY(txb_settings_load_file(&cli->settings, file, err));
  /* Twice: the first makes the entries that the environment may speak of, the second wins over it. */
  TXB_TRY(load_flags(cli, err));
  TXB_TRY(txb_settings_load_environment(&cli->settings, (const char *const *)environ, err));
  TXB_TRY(load_flags(cli, err));
  TXB_TRY(txb_cli_apply_database(cli, err));
  if (is_for_entries(cli->args.command))
    TXB_TRY(txb_settings_check_environment(&cli->settings, (const char *const *)environ, err));
  return txb_settings_finish(&cli->settings, err);
}

static void setup_log(const struct txb_settings *s) {
  static const char *const levels[] = {
      [TXB_LOG_DEBUG] = "debug", [TXB_LOG_INFO] = "info", [TXB_LOG_WARN] = "warn", [TXB_LOG_ERROR] = "error"};
  enum txb_log_level level = TXB_LOG_INFO;
  for (size_t i = 0; i < TXB_ARRAY_SIZE(levels); i++)
    if (levels[i] != NULL && strcmp(s->log.level, levels[i]) == 0)
      level = (enum txb_log_level)i;
  txb_log_setup(level, strcmp(s->log.format, "json") == 0 ? TXB_LOG_JSON : TXB_LOG_LOGFMT, NULL);
}

static void setup_output(struct txb_cli *cli) {
  const char *output = txb_args_text(&cli->args, "output");
  if (output != NULL)
    cli->output = strcmp(output, "json") == 0    ? TXB_OUTPUT_JSON
                  : strcmp(output, "jsonl") == 0 ? TXB_OUTPUT_JSONL
                                                 : TXB_OUTPUT_TEXT;
  const char *no_color = getenv("NO_COLOR"), *terminal = getenv("TERM");
  bool dumb = terminal == NULL || strcmp(terminal, "dumb") == 0;
  bool wanted = (no_color == NULL || *no_color == '\0') && !dumb;
  cli->color = wanted && isatty(STDOUT_FILENO) == 1;
  cli->progress = !dumb && cli->output == TXB_OUTPUT_TEXT && isatty(STDERR_FILENO) == 1;
}

static int run(struct txb_cli *cli) {
  const struct txb_args *args = &cli->args;
  struct txb_error err;
  setup_output(cli);
  if (txb_args_has(args, "version")) {
    return txb_cmd_version(cli);
  }
  if (txb_args_has(args, "help")) {
    if (args->command == NULL && args->family != NULL)
      txb_help_family(cli, args->family);
    else
      txb_help_print(cli, args->command);
    return TXB_EXIT_DONE;
  }
  if (args->command == NULL) {
    txb_say("no command; `txbroker --help` lists them, `txbroker demo` shows what it is for");
    return TXB_EXIT_USAGE;
  }
  if (load_settings(cli, &err) != TXB_OK)
    return txb_fail(&err);
  setup_log(&cli->settings);
  return args->command->run(cli);
}

int main(int argc, char **argv) {
  struct txb_cli cli = {.output = TXB_OUTPUT_TEXT};
  struct txb_error err;
  int code = txb_args_parse(&cli.args, argc, argv, &err) == TXB_OK ? run(&cli) : txb_fail(&err);
  txb_settings_fini(&cli.settings);
  txb_args_fini(&cli.args);
  if (!txb_print_flush() && code == TXB_EXIT_DONE)
    code = TXB_EXIT_FAILED;
  return code;
}
