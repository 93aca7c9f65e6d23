/* Prints a table of states and events, of whatever machine: as text, as JSON, or as its page of the documentation. */
#ifndef TXB_BROKER_CLI_STATES_H
#define TXB_BROKER_CLI_STATES_H

#include "broker/cli/cli.h"

/* Options of `failed states` and `replay states`. */
extern const struct txb_option txb_failed_states_options[], txb_replay_states_options[];

struct txb_states_line {
  const char *from; /* NULL: there is nothing yet */
  const char *event, *to, *why;
};

struct txb_states {
  const char *of;                 /* "a failed message" */
  const char *command;            /* that prints it: "failed states" */
  const char *source;             /* the file of the table */
  const char *see;                /* a line of Markdown below that; NULL: none */
  int count;                      /* of states, in the order of the diagram */
  const char *(*name)(int state); /* NULL: there is nothing yet */
  bool (*is_open)(int state);     /* false: nothing leads out of it */
  size_t line_count;
  struct txb_states_line (*line)(size_t index);
};

/* As the command line asks: --reference is the page. Gives the exit code. */
int txb_states_print(struct txb_cli *cli, const struct txb_states *states);

#endif
