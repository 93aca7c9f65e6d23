/* The command line, and what is printed from its tables. */
#include <criterion/criterion.h>
#include <string.h>

#include "broker/cli/cli.h"

static struct txb_args args;
static struct txb_error err;

static void teardown(void) {
  txb_args_fini(&args);
}

TestSuite(command, .fini = teardown);

#define PARSE(...)                                                                                                     \
  parse((const char *const[]){"txbroker", __VA_ARGS__},                                                                \
        sizeof((const char *const[]){"txbroker", __VA_ARGS__}) / sizeof(char *))

static enum txb_rc parse(const char *const *words, size_t count) {
  char *argv[16];
  for (size_t i = 0; i < count; i++)
    argv[i] = (char *)(uintptr_t)words[i];
  txb_args_fini(&args);
  return txb_args_parse(&args, (int)count, argv, &err);
}

static void refused_with(enum txb_rc rc, const char *message) {
  cr_assert(rc == TXB_REFUSED && err.origin == TXB_ORIGIN_USAGE);
  cr_assert(strstr(err.message, message) != NULL, "\"%s\" does not hold \"%s\"", err.message, message);
}

Test(command, options_stand_before_or_after_the_command_in_every_form) {
  cr_assert(PARSE("-o", "json", "--set", "a.b=1", "publish", "--topic=t", "-k", "k", "-Hx=1", "--header", "y=2",
                  "--strict-order", "--set=c.d=2") == TXB_OK,
            "%s", err.message);
  cr_assert_str_eq(args.command->name, "publish");
  cr_assert_str_eq(txb_args_text(&args, "output"), "json");
  cr_assert_str_eq(txb_args_text(&args, "topic"), "t");
  cr_assert_str_eq(txb_args_nth(&args, "header", 0), "x=1");
  cr_assert_str_eq(txb_args_nth(&args, "header", 1), "y=2");
  cr_assert_str_eq(txb_args_nth(&args, "set", 1), "c.d=2");
  cr_assert(txb_args_nth(&args, "header", 2) == NULL);
  cr_assert(txb_args_has(&args, "strict-order") && !txb_args_has(&args, "jsonl"));
}

Test(command, operands_are_counted_and_checked) {
  cr_assert(PARSE("tail", "orders", "-n", "3") == TXB_OK);
  cr_assert(args.operand_count == 1 && strcmp(args.operands[0], "orders") == 0);
  cr_assert(PARSE("relay", "--", "-x") == TXB_OK);
  cr_assert_str_eq(args.operands[0], "-x");
  refused_with(PARSE("tail"), "usage: txbroker tail");
  refused_with(PARSE("tail", "a", "b"), "unexpected \"b\"");
  refused_with(PARSE("init", "x"), "unexpected \"x\"");
  refused_with(PARSE("completion", "tcsh"), "not one of bash|zsh|fish");
  cr_assert(PARSE("tail", "--help") == TXB_OK);
}

Test(command, what_is_unknown_is_refused_with_the_nearest) {
  refused_with(PARSE("relya"), "unknown command \"relya\"; did you mean relay?");
  refused_with(PARSE("frobnicate"), "`txbroker --help` lists them");
  refused_with(PARSE("--databse", "x", "relay"), "did you mean --database?");
  refused_with(PARSE("publish", "--topik", "x"), "did you mean --topic?");
  refused_with(PARSE("-Z"), "unknown option -Z");
}

Test(command, a_family_is_followed_by_its_command) {
  cr_assert(PARSE("-o", "json", "failed", "-c", "x.json", "list", "--key", "k", "--state", "dead", "--state=held") ==
                TXB_OK,
            "%s", err.message);
  cr_assert_str_eq(args.command->name, "failed list");
  cr_assert_str_eq(args.family->name, "failed");
  cr_assert_str_eq(txb_args_nth(&args, "state", 1), "held");
  cr_assert(args.operand_count == 0);
  cr_assert(PARSE("failed", "retry", "17", "18", "-y") == TXB_OK && args.operand_count == 2);
  cr_assert_str_eq(args.operands[1], "18");
  cr_assert(PARSE("audit", "list") == TXB_OK && txb_command_is_of(args.command, "audit"));
  cr_assert(PARSE("replay", "rate", "7", "none") == TXB_OK && args.operand_count == 2);
  refused_with(PARSE("replay", "rate", "7"), "usage: txbroker replay rate [OPTION]... NUMBER MESSAGES|none");
  refused_with(PARSE("replay", "show", "7", "--folow"), "did you mean --follow?");
  cr_assert(PARSE("help", "failed", "list") == TXB_OK && args.operand_count == 2 && args.family == NULL);
  cr_assert(PARSE("failed", "--help") == TXB_OK && args.command == NULL && args.family != NULL);
  refused_with(PARSE("failed"), "failed: which command of it? list, show, retry, edit, discard");
  refused_with(PARSE("failed", "-o", "json"), "which command of it?");
  refused_with(PARSE("failed", "lst"), "unknown command \"failed lst\"; did you mean failed list?");
  refused_with(PARSE("failed", "frobnicate"), "there are list, show, retry, edit, discard");
  refused_with(PARSE("faild", "list"), "did you mean failed?");
  refused_with(PARSE("failed list"), "unknown command");
  refused_with(PARSE("failed", "show"), "failed show: usage: txbroker failed show [OPTION]... NUMBER");
  refused_with(PARSE("failed", "--key", "k", "list"), "unknown option --key");
  refused_with(PARSE("failed", "list", "--group-by", "colour"), "not one of error|type|topic|key|state|group|source");
}

Test(command, values_are_held_to_what_the_table_says) {
  refused_with(PARSE("-o", "yaml", "status"), "not one of text|json|jsonl");
  refused_with(PARSE("status", "--output"), "wants a value");
  refused_with(PARSE("status", "-o"), "wants a value");
  refused_with(PARSE("tail", "t", "--follow=yes"), "takes no value");
  refused_with(PARSE("tail", "t", "--from", "end", "--from", "end"), "more than once");
  long long n = 7;
  cr_assert(PARSE("tail", "t", "-n", "x") == TXB_OK);
  refused_with(txb_args_integer(&args, "count", 1, 10, &n, &err), "--count: \"x\" is not a whole number from 1 to 10");
  cr_assert(n == 7);
  cr_assert(PARSE("tail", "t", "-n", "10") == TXB_OK && txb_args_integer(&args, "count", 1, 10, &n, &err) == TXB_OK &&
            n == 10);
}

/* A word of a list "..., verb, ...". */
static bool lists(const char *summary, const char *verb) {
  const char *at = strstr(summary, verb);
  size_t size = strlen(verb);
  while (at != NULL && (at == summary || at[-1] != ' ' || strchr(", ", at[size]) == NULL))
    at = strstr(at + 1, verb);
  return at != NULL;
}

Test(command, a_family_s_line_names_its_verbs) {
  for (const struct txb_family *f = txb_families; f->name != NULL; f++)
    for (const struct txb_command *c = txb_commands; c->name != NULL && strchr(f->summary, ':') != NULL; c++)
      if (txb_command_is_of(c, f->name))
        cr_assert(lists(f->summary, txb_command_second(c)), "the line of %s does not name %s", f->name, c->name);
}

Test(command, the_tables_are_sound) {
  for (const struct txb_family *f = txb_families; f->name != NULL; f++) {
    size_t count = 0, leaders = 0;
    for (const struct txb_command *c = txb_commands; c->name != NULL; c++) {
      count += txb_command_is_of(c, f->name);
      leaders += txb_command_is_of(c, f->name) && txb_command_leads(c);
    }
    cr_assert(count > 0 && leaders == 1 && txb_command_find(f->name) == NULL, "%s stands together", f->name);
  }
  for (const struct txb_command *c = txb_commands; c->name != NULL; c++) {
    const char *second = txb_command_second(c);
    cr_assert(second == NULL || strchr(second, ' ') == NULL, "%s", c->name);
    cr_assert(c->run != NULL && c->summary != NULL && strlen(c->summary) < 80, "%s", c->name);
    cr_assert((c->operands == NULL) == (c->operands_max == 0), "%s", c->name);
    for (const struct txb_option *o = c->options; o != NULL && o->name != NULL; o++) {
      cr_assert(o->help != NULL && o->help[strlen(o->help) - 1] == '.', "--%s", o->name);
      for (const struct txb_option *g = txb_global_options; g->name != NULL; g++) {
        cr_assert(strcmp(g->name, o->name) != 0, "%s --%s hides a global option", c->name, o->name);
        cr_assert(o->letter == 0 || g->letter != o->letter, "%s -%c hides a global option", c->name, o->letter);
      }
    }
  }
}
