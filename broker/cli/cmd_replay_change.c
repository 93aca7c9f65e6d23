/* replay pause, resume, cancel, rate. Each is one transaction of the server, which also tells who was first when the job
 * is not in a state for it. The workers notice with their next renewal of the lease. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "broker/cli/replay.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

/* What became of the job. */
static enum txb_rc report(const struct txb_cli *cli, struct txb_pg *pg, int64_t number, const char *done,
                          struct txb_error *err) {
  json_t *job;
  if (cli->output == TXB_OUTPUT_TEXT) {
    txb_print("job %" PRId64 " %s\n", number, done);
    return TXB_OK;
  }
  TXB_TRY(txb_replay_show(pg, number, &job, err));
  txb_failed_print_json(cli, job);
  json_decref(job);
  return TXB_OK;
}

struct change {
  int64_t number;
  bool rate; /* else an action */
  enum txb_replay_action action;
  const char *reason;
  int64_t rate_max;
  const char *done;
};

static enum txb_rc change(const struct txb_cli *cli, const struct change *c, struct txb_error *err) {
  const char *uri;
  struct txb_pg *pg = NULL;
  TXB_TRY(txb_replay_target(cli, &uri, err));
  TXB_TRY(txb_failed_connect(cli, uri, &pg, err));
  enum txb_rc rc = c->rate ? txb_replay_rate(pg, c->number, c->rate_max, err)
                           : txb_replay_decide(pg, c->action, c->number, c->reason, err);
  if (rc == TXB_OK)
    rc = report(cli, pg, c->number, c->done, err);
  txb_pg_close(pg);
  return rc;
}

static int run(struct txb_cli *cli, enum txb_replay_action action, const char *done) {
  struct txb_error err;
  struct change c = {.action = action, .reason = txb_args_text(&cli->args, "reason"), .done = done};
  enum txb_rc rc = txb_number_parse(cli->args.operands[0], "job", "replay list", &c.number, &err);
  if (rc == TXB_OK && action == TXB_REPLAY_CANCEL && txb_args_blank(&cli->args, "reason"))
    rc = REFUSE(&err, "replay cancel wants --reason TEXT: it is kept with the job, and in the audit");
  if (rc == TXB_OK && c.reason != NULL && !txb_slice_is_text(txb_slice_text(c.reason)))
    rc = REFUSE(&err, "--reason is not UTF-8");
  if (rc == TXB_OK)
    rc = change(cli, &c, &err);
  return rc == TXB_OK ? TXB_EXIT_DONE : txb_fail(&err);
}

int txb_cmd_replay_pause(struct txb_cli *cli) {
  return run(cli, TXB_REPLAY_PAUSE, "is paused");
}

int txb_cmd_replay_resume(struct txb_cli *cli) {
  return run(cli, TXB_REPLAY_RESUME, "is running again");
}

int txb_cmd_replay_cancel(struct txb_cli *cli) {
  return run(cli, TXB_REPLAY_CANCEL, "is cancelled; what it did stays done");
}

static enum txb_rc rate_of(const char *text, int64_t *out, struct txb_error *err) {
  char *end = NULL;
  if (strcmp(text, "none") == 0) {
    *out = 0;
    return TXB_OK;
  }
  errno = 0;
  long long rate = strtoll(text, &end, 10);
  if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || rate < 1 || rate > 1000000000)
    return REFUSE(err, "\"%s\" is no rate: give messages a second, from 1 to 1000000000, or none", text);
  *out = rate;
  return TXB_OK;
}

int txb_cmd_replay_rate(struct txb_cli *cli) {
  struct txb_error err;
  struct change c = {.rate = true};
  enum txb_rc rc = txb_number_parse(cli->args.operands[0], "job", "replay list", &c.number, &err);
  if (rc == TXB_OK)
    rc = rate_of(cli->args.operands[1], &c.rate_max, &err);
  c.done = c.rate_max == 0 ? "has no limit of its rate any more" : "has a new limit of its rate";
  if (rc == TXB_OK)
    rc = change(cli, &c, &err);
  return rc == TXB_OK ? TXB_EXIT_DONE : txb_fail(&err);
}
