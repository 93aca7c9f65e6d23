/* Lists of jobs: what those of replays and those of decisions about failed messages have in common. */
#ifndef TXB_BROKER_CLI_JOB_LIST_H
#define TXB_BROKER_CLI_JOB_LIST_H

#include "broker/cli/failed.h"

struct txb_job_kind {
  /* The databases to look at; a page of one, as a JSON array with "number" in each row, the newest first; the table. */
  enum txb_rc (*targets)(const struct txb_cli *cli, struct txb_targets *out, struct txb_error *err);
  enum txb_rc (*list)(struct txb_pg *pg, int64_t after, int page, json_t **out, struct txb_error *err);
  void (*print_table)(const struct txb_cli *cli, const json_t *jobs, int indent);
  const char *owners; /* whose databases these are: "the groups of the configuration" */
};
/* Runs the command; --limit and --after are its options. Gives the exit code. */
int txb_job_list(struct txb_cli *cli, const struct txb_job_kind *kind);

#endif
