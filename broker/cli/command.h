/* Commands and their options as tables. The parser, --help, shell completion and the man page are made from them. */
#ifndef TXB_BROKER_CLI_COMMAND_H
#define TXB_BROKER_CLI_COMMAND_H

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"
#include "common/slice.h"

struct txb_cli;

struct txb_option {
  const char *name;    /* without the dashes */
  char letter;         /* "-o"; 0: none */
  const char *value;   /* what stands for its value in help, "FILE"; NULL: a switch without one */
  const char *choices; /* "text|json|jsonl"; NULL: anything */
  const char *suggest; /* what completion offers where choices is NULL: "beginning|end" */
  bool many;           /* may be given more than once */
  const char *help;
};

struct txb_command {
  const char *name;     /* one word, or two: "failed list" is a command of the family "failed" */
  const char *operands; /* as in its usage line, "[GROUP]..."; NULL: it takes none */
  const char *choices;  /* of its operands */
  size_t operands_min, operands_max;
  const char *summary;              /* one line */
  const char *details;              /* paragraphs of help */
  const struct txb_option *options; /* ended by one without a name; NULL: none of its own */
  const char *examples;             /* lines; NULL: none */
  bool hidden;                      /* not in help, completion and man page */
  int (*run)(struct txb_cli *cli);  /* gives the exit code */
};

extern const struct txb_command txb_commands[];               /* ended by one without a name */
extern const struct txb_option txb_global_options[];          /* may stand before or after the command */
const struct txb_command *txb_command_find(const char *name); /* NULL: none */
/* Whether the first word of a command's name is this family's. */
bool txb_command_is_of(const struct txb_command *command, const char *family);
/* The name's second word; NULL: it has only one. Borrowed. */
const char *txb_command_second(const struct txb_command *command);
/* Whether it stands for itself in lists of first words, or is the first of its family. */
bool txb_command_leads(const struct txb_command *command);
/* The first word of its name. */
struct txb_slice txb_command_first(const struct txb_command *command);

/* What a family is about, in one line; for lists of commands. */
struct txb_family {
  const char *name;
  const char *summary;
};
extern const struct txb_family txb_families[];              /* ended by one without a name */
const struct txb_family *txb_family_find(const char *name); /* NULL: none */

struct txb_given {
  const struct txb_option *option;
  const char *value; /* NULL for a switch */
};

/* A parsed command line. Texts are borrowed from argv. */
struct txb_args {
  const struct txb_command *command; /* NULL: none was named, or only its family */
  const struct txb_family *family;   /* of which a command was named, or is still to be */
  struct txb_given *given;
  size_t given_count;
  const char **operands;
  size_t operand_count;
};

/* TXB_REFUSED (usage) names what is wrong and what comes nearest to it. fini in every case. argv[0] is the program. */
enum txb_rc txb_args_parse(struct txb_args *args, int argc, char *const *argv, struct txb_error *err) TXB_MUST_CHECK;
void txb_args_fini(struct txb_args *args);
/* The first value given, or NULL. The name must stand in a table: a typing error here is a bug and stops the program. */
const char *txb_args_text(const struct txb_args *args, const char *name);
/* Whether an option says nothing: it was not given, or is only spaces. */
bool txb_args_blank(const struct txb_args *args, const char *name);
bool txb_args_has(const struct txb_args *args, const char *name);
/* The nth (from 0) value of an option that may be given more than once, or NULL. */
const char *txb_args_nth(const struct txb_args *args, const char *name, size_t n);
/* A whole number within limits; *out untouched when it isn't given. TXB_REFUSED (usage) when it isn't one. */
enum txb_rc txb_args_integer(const struct txb_args *args, const char *name, long long min, long long max,
                             long long *out, struct txb_error *err) TXB_MUST_CHECK;

#endif
