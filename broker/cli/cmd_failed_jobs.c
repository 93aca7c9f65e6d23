/* failed jobs, failed resume, failed cancel: the jobs that `failed retry` and `failed discard` made. A cancel is one
 * transaction, and what it leaves of a step of somebody else's is that step, done or not. */
#include <inttypes.h>

#include "broker/cli/job_list.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

int txb_cmd_failed_jobs(struct txb_cli *cli) {
  static const struct txb_job_kind kind = {.targets = txb_failed_targets,
                                           .list = txb_failed_job_list,
                                           .print_table = txb_failed_job_print_table,
                                           .owners = "groups and sources of the configuration"};
  return txb_job_list(cli, &kind);
}

static enum txb_rc connect_to_job(struct txb_cli *cli, int64_t *number_out, struct txb_pg **out,
                                  struct txb_error *err) {
  struct txb_targets targets = {NULL, 0};
  const char *uri = NULL;
  TXB_TRY(txb_number_parse(cli->args.operands[0], "job", "failed jobs", number_out, err));
  enum txb_rc rc = txb_failed_targets(cli, &targets, err);
  if (rc == TXB_OK)
    rc = txb_failed_one_target(cli, &targets, &uri, err);
  if (rc == TXB_OK)
    rc = txb_failed_connect(cli, uri, out, err);
  txb_targets_fini(&targets);
  return rc;
}

int txb_cmd_failed_resume(struct txb_cli *cli) {
  struct txb_error err;
  struct txb_pg *pg = NULL;
  int64_t number;
  int code = TXB_EXIT_DONE;
  enum txb_rc rc = connect_to_job(cli, &number, &pg, &err);
  if (rc == TXB_OK)
    rc = txb_failed_job_run(cli, pg, number, &code, &err);
  txb_pg_close(pg);
  return rc == TXB_OK ? code : txb_fail(&err);
}

static enum txb_rc cancel(struct txb_cli *cli, struct txb_error *err) {
  const char *reason = txb_args_text(&cli->args, "reason");
  struct txb_pg *pg = NULL;
  int64_t number;
  if (txb_args_blank(&cli->args, "reason"))
    return REFUSE(err, "failed cancel wants --reason TEXT: it is kept in the audit");
  if (!txb_slice_is_text(txb_slice_text(reason)))
    return REFUSE(err, "--reason is not UTF-8");
  TXB_TRY(connect_to_job(cli, &number, &pg, err));
  enum txb_rc rc = txb_failed_job_cancel(pg, number, reason, err);
  if (rc == TXB_OK && cli->output == TXB_OUTPUT_TEXT)
    txb_print("job %" PRId64 " is cancelled; what it did stays done\n", number);
  else if (rc == TXB_OK) {
    json_t *document =
        json_pack("{s:s, s:I, s:s}", "action", "failed cancel", "job", (json_int_t)number, "state", "cancelled");
    txb_failed_print_json(cli, document);
    json_decref(document);
  }
  txb_pg_close(pg);
  return rc;
}

int txb_cmd_failed_cancel(struct txb_cli *cli) {
  struct txb_error err;
  enum txb_rc rc = cancel(cli, &err);
  return rc == TXB_OK ? TXB_EXIT_DONE : txb_fail(&err);
}
