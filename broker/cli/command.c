/* Parsing a command line by the tables. Pure. */
#include "broker/cli/command.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/memory.h"
#include "common/nearest.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

const struct txb_command *txb_command_find(const char *name) {
  for (const struct txb_command *c = txb_commands; c->name != NULL; c++)
    if (strcmp(c->name, name) == 0)
      return c;
  return NULL;
}

const struct txb_family *txb_family_find(const char *name) {
  for (const struct txb_family *f = txb_families; f->name != NULL; f++)
    if (strcmp(f->name, name) == 0)
      return f;
  return NULL;
}

bool txb_command_is_of(const struct txb_command *command, const char *family) {
  size_t size = strlen(family);
  return strncmp(command->name, family, size) == 0 && command->name[size] == ' ';
}

const char *txb_command_second(const struct txb_command *command) {
  const char *space = strchr(command->name, ' ');
  return space == NULL ? NULL : space + 1;
}

struct txb_slice txb_command_first(const struct txb_command *command) {
  return txb_slice_of(command->name, strcspn(command->name, " "));
}

bool txb_command_leads(const struct txb_command *command) {
  return command == txb_commands || txb_command_second(command) == NULL ||
         !txb_slice_equal(txb_command_first(command), txb_command_first(command - 1));
}

static const struct txb_option *find_in(const struct txb_option *options, const char *name, size_t size) {
  for (const struct txb_option *o = options; o != NULL && o->name != NULL; o++)
    if (strncmp(o->name, name, size) == 0 && o->name[size] == '\0')
      return o;
  return NULL;
}

static const struct txb_option *find_long(const struct txb_command *command, const char *name, size_t size) {
  const struct txb_option *o = command == NULL ? NULL : find_in(command->options, name, size);
  return o == NULL ? find_in(txb_global_options, name, size) : o;
}

static const struct txb_option *find_letter(const struct txb_command *command, char letter) {
  const struct txb_option *tables[] = {command == NULL ? NULL : command->options, txb_global_options};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(tables); i++)
    for (const struct txb_option *o = tables[i]; o != NULL && o->name != NULL; o++)
      if (o->letter == letter)
        return o;
  return NULL;
}

static enum txb_rc unknown_option(const struct txb_command *command, const char *name, size_t size,
                                  struct txb_error *err) {
  const char *names[64];
  size_t count = 0;
  const struct txb_option *tables[] = {command == NULL ? NULL : command->options, txb_global_options};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(tables); i++)
    for (const struct txb_option *o = tables[i]; o != NULL && o->name != NULL && count < TXB_ARRAY_SIZE(names); o++)
      names[count++] = o->name;
  char word[64];
  size_t kept = size < sizeof(word) ? size : sizeof(word) - 1;
  memcpy(word, name, kept);
  word[kept] = '\0';
  const char *nearest = txb_nearest(word, names, count);
  const char *of = command == NULL ? "" : " ", *what = command == NULL ? "" : command->name;
  if (nearest != NULL)
    return REFUSE(err, "unknown option --%s; did you mean --%s?", word, nearest);
  return REFUSE(err, "unknown option --%s; `txbroker%s%s --help` lists them", word, of, what);
}

/* A first word that nothing begins with. */
static enum txb_rc unknown_command(const char *word, struct txb_error *err) {
  const char *names[64];
  size_t count = 0;
  for (const struct txb_command *c = txb_commands; c->name != NULL && count < TXB_ARRAY_SIZE(names); c++)
    if (!c->hidden && txb_command_second(c) == NULL)
      names[count++] = c->name;
  for (const struct txb_family *f = txb_families; f->name != NULL && count < TXB_ARRAY_SIZE(names); f++)
    names[count++] = f->name;
  const char *nearest = txb_nearest(word, names, count);
  if (nearest != NULL)
    return REFUSE(err, "unknown command \"%s\"; did you mean %s?", word, nearest);
  return REFUSE(err, "unknown command \"%s\"; `txbroker --help` lists them", word);
}

/* A second word that is none of the family, or is missing (NULL). */
static enum txb_rc unknown_of_family(const struct txb_family *family, const char *word, struct txb_error *err) {
  const char *names[16];
  size_t count = 0;
  char all[128];
  size_t used = 0;
  for (const struct txb_command *c = txb_commands; c->name != NULL && count < TXB_ARRAY_SIZE(names); c++) {
    if (!txb_command_is_of(c, family->name))
      continue;
    names[count] = txb_command_second(c);
    int n = snprintf(all + used, sizeof(all) - used, "%s%s", count == 0 ? "" : ", ", names[count]);
    TXB_ASSERT(n > 0 && (size_t)n < sizeof(all) - used); /* a longer table wants a longer line */
    used += (size_t)n;
    count++;
  }
  if (word == NULL)
    return REFUSE(err, "%s: which command of it? %s; `txbroker %s --help` tells more", family->name, all, family->name);
  const char *nearest = txb_nearest(word, names, count);
  if (nearest != NULL)
    return REFUSE(err, "unknown command \"%s %s\"; did you mean %s %s?", family->name, word, family->name, nearest);
  return REFUSE(err, "unknown command \"%s %s\"; there are %s", family->name, word, all);
}

static bool is_choice(const char *choices, const char *value) {
  TXB_ASSERT(value != NULL); /* an option with choices takes a value */
  size_t size = strlen(value);
  for (const char *c = choices; size > 0 && *c != '\0'; c += strcspn(c, "|"), c += *c == '|')
    if (strncmp(c, value, size) == 0 && (c[size] == '|' || c[size] == '\0'))
      return true;
  return false;
}

static enum txb_rc add_given(struct txb_args *args, const struct txb_option *option, const char *value,
                             struct txb_error *err) {
  if (option->choices != NULL && !is_choice(option->choices, value))
    return REFUSE(err, "--%s: \"%s\" is not one of %s", option->name, value, option->choices);
  for (size_t i = 0; i < args->given_count; i++)
    if (args->given[i].option == option && !option->many)
      return REFUSE(err, "--%s is given more than once", option->name);
  args->given[args->given_count++] = (struct txb_given){option, value};
  return TXB_OK;
}

static enum txb_rc parse_long(struct txb_args *args, const char *word, int argc, char *const *argv, int *i,
                              struct txb_error *err) {
  size_t size = strcspn(word, "=");
  const struct txb_option *option = find_long(args->command, word, size);
  if (option == NULL)
    return unknown_option(args->command, word, size, err);
  if (option->value == NULL && word[size] == '=')
    return REFUSE(err, "--%s takes no value", option->name);
  if (option->value == NULL)
    return add_given(args, option, NULL, err);
  if (word[size] == '=')
    return add_given(args, option, word + size + 1, err);
  if (*i + 1 >= argc)
    return REFUSE(err, "--%s wants a value: --%s %s", option->name, option->name, option->value);
  return add_given(args, option, argv[++*i], err);
}

/* -o json, -ojson, and several switches in one word. */
static enum txb_rc parse_letters(struct txb_args *args, const char *word, int argc, char *const *argv, int *i,
                                 struct txb_error *err) {
  for (; *word != '\0'; word++) {
    const struct txb_option *option = find_letter(args->command, *word);
    if (option == NULL)
      return REFUSE(err, "unknown option -%c; `txbroker --help` lists them", *word);
    if (option->value == NULL) {
      TXB_TRY(add_given(args, option, NULL, err));
      continue;
    }
    if (word[1] != '\0')
      return add_given(args, option, word + 1 + (word[1] == '='), err);
    if (*i + 1 >= argc)
      return REFUSE(err, "-%c wants a value: -%c %s", *word, *word, option->value);
    return add_given(args, option, argv[++*i], err);
  }
  return TXB_OK;
}

static enum txb_rc check_operands(const struct txb_args *args, struct txb_error *err) {
  const struct txb_command *c = args->command;
  if (txb_args_has(args, "help") || (c == NULL && txb_args_has(args, "version")))
    return TXB_OK;
  if (c == NULL)
    return args->family == NULL ? TXB_OK : unknown_of_family(args->family, NULL, err);
  if (args->operand_count > c->operands_max)
    return REFUSE(err, "%s: unexpected \"%s\"; usage: txbroker %s [OPTION]...%s%s", c->name,
                  args->operands[c->operands_max], c->name, c->operands == NULL ? "" : " ",
                  c->operands == NULL ? "" : c->operands);
  if (args->operand_count < c->operands_min)
    return REFUSE(err, "%s: usage: txbroker %s [OPTION]... %s", c->name, c->name, c->operands);
  for (size_t i = 0; c->choices != NULL && i < args->operand_count; i++)
    if (!is_choice(c->choices, args->operands[i]))
      return REFUSE(err, "%s: \"%s\" is not one of %s", c->name, args->operands[i], c->choices);
  return TXB_OK;
}

/* The first word that is no option names a command or a family, the next one its command. */
static enum txb_rc take_name(struct txb_args *args, const char *word, struct txb_error *err) {
  if (args->family == NULL) {
    args->family = txb_family_find(word);
    if (args->family != NULL)
      return TXB_OK;
    args->command = txb_command_find(word);
    return args->command == NULL || txb_command_second(args->command) != NULL ? unknown_command(word, err) : TXB_OK;
  }
  for (const struct txb_command *c = txb_commands; c->name != NULL; c++)
    if (txb_command_is_of(c, args->family->name) && strcmp(txb_command_second(c), word) == 0)
      args->command = c;
  return args->command == NULL ? unknown_of_family(args->family, word, err) : TXB_OK;
}

static enum txb_rc parse_words(struct txb_args *args, int argc, char *const *argv, struct txb_error *err) {
  bool options_end = false;
  for (int i = 1; i < argc; i++) {
    const char *word = argv[i];
    if (!options_end && strcmp(word, "--") == 0) {
      options_end = true;
    } else if (!options_end && strncmp(word, "--", 2) == 0) {
      TXB_TRY(parse_long(args, word + 2, argc, argv, &i, err));
    } else if (!options_end && word[0] == '-' && word[1] != '\0') {
      TXB_TRY(parse_letters(args, word + 1, argc, argv, &i, err));
    } else if (args->command == NULL) {
      TXB_TRY(take_name(args, word, err));
    } else {
      args->operands[args->operand_count++] = word;
    }
  }
  return check_operands(args, err);
}

enum txb_rc txb_args_parse(struct txb_args *args, int argc, char *const *argv, struct txb_error *err) {
  *args = (struct txb_args){0};
  size_t room =
      argc > 0 ? (size_t)argc * 2 : 1; /* a word of letters can hold more switches than words, but each only once */
  for (int i = 0; i < argc; i++)
    room += strlen(argv[i]);
  void *memory;
  TXB_TRY(txb_alloc_array(room, sizeof(struct txb_given), &memory, err));
  args->given = memory;
  TXB_TRY(txb_alloc_array(room, sizeof(char *), &memory, err));
  args->operands = memory;
  return parse_words(args, argc, argv, err);
}

void txb_args_fini(struct txb_args *args) {
  txb_free(args->given);
  txb_free(args->operands);
  *args = (struct txb_args){0};
}

const char *txb_args_nth(const struct txb_args *args, const char *name, size_t n) {
  TXB_ASSERT(find_long(args->command, name, strlen(name)) != NULL);
  for (size_t i = 0; i < args->given_count; i++)
    if (strcmp(args->given[i].option->name, name) == 0 && n-- == 0)
      return args->given[i].value;
  return NULL;
}

const char *txb_args_text(const struct txb_args *args, const char *name) {
  return txb_args_nth(args, name, 0);
}

bool txb_args_blank(const struct txb_args *args, const char *name) {
  const char *text = txb_args_text(args, name);
  return text == NULL || text[strspn(text, " \t\n")] == '\0';
}

bool txb_args_has(const struct txb_args *args, const char *name) {
  TXB_ASSERT(find_long(args->command, name, strlen(name)) != NULL);
  for (size_t i = 0; i < args->given_count; i++)
    if (strcmp(args->given[i].option->name, name) == 0)
      return true;
  return false;
}

enum txb_rc txb_args_integer(const struct txb_args *args, const char *name, long long min, long long max,
                             long long *out, struct txb_error *err) {
  const char *text = txb_args_text(args, name);
  if (text == NULL)
    return TXB_OK;
  char *end = NULL;
  errno = 0;
  long long value = strtoll(text, &end, 10);
  if (*text == '\0' || *end != '\0' || errno != 0 || value < min || value > max)
    return REFUSE(err, "--%s: \"%s\" is not a whole number from %lld to %lld", name, text, min, max);
  *out = value;
  return TXB_OK;
}
