/* replay list: the jobs of all groups' databases, the newest first. Changes nothing. */
#include "broker/cli/job_list.h"
#include "broker/cli/replay.h"

int txb_cmd_replay_list(struct txb_cli *cli) {
  static const struct txb_job_kind kind = {.targets = txb_replay_targets,
                                           .list = txb_replay_list,
                                           .print_table = txb_replay_print_table,
                                           .owners = "the groups of the configuration"};
  return txb_job_list(cli, &kind);
}
