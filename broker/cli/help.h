/* Help, shell completion and man page: printed from the tables of commands and options. */
#ifndef TXB_BROKER_CLI_HELP_H
#define TXB_BROKER_CLI_HELP_H

#include "broker/cli/cli.h"

/* Of one command, or of the program when command is NULL; on standard output. */
void txb_help_print(const struct txb_cli *cli, const struct txb_command *command);
/* Of a family: its commands. */
void txb_help_family(const struct txb_cli *cli, const struct txb_family *family);
/* "-o, --output FORMAT" */
void txb_help_option(const struct txb_option *option, struct txb_buffer *out);

#endif
