/* replay pause, resume, cancel, rate. Each is one transaction of the server, which also tells who was first when the job
 * is not in a state for it. The workers notice with their next renewal of the lease.
 *
 * What a cancelled job kept from retention in its source is let go of: its pin is taken away there, in a transaction of
 * its own. A crash before that, or a source that is away, leaves the pin, which ends by itself in seven days. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "broker/cli/replay.h"
#include "common/clock.h"
#include "common/loop.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

#define LET_GO_US INT64_C(5000000) /* workers claim once a second, between two batches */
#define LOOK_US   50000

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

/* ---- the pin of a cancelled job --------------------------------------------------------------------------- */

/* Whether a worker may not know yet that the job is cancelled, and renew its pin. */
static bool is_served(const json_t *job) {
  const json_t *lane;
  size_t i;
  json_array_foreach(json_object_get(job, "lanes"), i, lane) {
    if (json_is_string(json_object_get(lane, "owner")) && json_integer_value(json_object_get(lane, "lease_ms")) > 0)
      return true;
  }
  return false;
}

/* The job, when its workers have let go of it; or as it is after a while: one that is dead keeps its lease, and what has
 * failed is tried again still. A worker renews the pin only right behind a claim, and never of a job that is cancelled. */
static enum txb_rc wait_let_go(struct txb_pg *pg, int64_t number, json_t **out, struct txb_error *err) {
  int64_t end_us = txb_clock_steady_us() + LET_GO_US;
  json_t *job;
  TXB_TRY(txb_replay_show(pg, number, &job, err));
  while (is_served(job) && txb_clock_steady_us() < end_us) {
    json_decref(job);
    (void)txb_pause(-1, LOOK_US);
    TXB_TRY(txb_replay_show(pg, number, &job, err));
  }
  *out = job;
  return TXB_OK;
}

static enum txb_rc unpin_in(const struct txb_cli *cli, const char *source, const char *pin, struct txb_error *err) {
  const struct txb_source_settings *settings = txb_targets_source(&cli->settings, source);
  struct txb_pg *pg = NULL;
  if (settings == NULL)
    return REFUSE(err, "the configuration has no source \"%s\"", source);
  TXB_TRY(txb_failed_connect(cli, settings->database, &pg, err));
  enum txb_rc rc = txb_replay_unpin(pg, pin, err);
  txb_pg_close(pg);
  return rc;
}

/* The job is cancelled, whatever becomes of this. */
static void unpin(const struct txb_cli *cli, struct txb_pg *pg, int64_t number) {
  struct txb_error err;
  json_t *job = NULL;
  enum txb_rc rc = wait_let_go(pg, number, &job, &err);
  if (rc == TXB_OK && txb_failed_text(job, "source") != NULL) /* Kafka keeps nothing for a job */
    rc = unpin_in(cli, txb_failed_text(job, "source"), txb_failed_text(job, "pin"), &err);
  if (rc != TXB_OK)
    txb_say("job %" PRId64 " is cancelled, but its source goes on keeping the range for seven days at most: %s", number,
            err.message);
  json_decref(job);
}

/* ---- changes ---------------------------------------------------------------------------------------------- */

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
  if (rc == TXB_OK && !c->rate && c->action == TXB_REPLAY_CANCEL)
    unpin(cli, pg, c->number);
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
