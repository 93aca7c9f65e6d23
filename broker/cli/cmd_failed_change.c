/* failed retry, failed discard, failed copy. A few messages are decided on in one transaction: a crash leaves all of them
 * done or none. More are a job: failed_job.c. */
#include "broker/cli/failed.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

static int change(struct txb_cli *cli, enum txb_failed_verb verb, const json_t *states, const char *to_topic) {
  struct txb_error err;
  struct txb_failed_choice choice = {.may_be_job = true, .to_topic = to_topic, .code = TXB_EXIT_DONE};
  bool go = false;
  enum txb_rc rc = txb_failed_choose(cli, verb, states, &choice, &go, &err);
  int code = choice.code;
  if (rc == TXB_OK && go) {
    struct txb_failed_decision d = {.verb = verb,
                                    .person = txb_person(),
                                    .reason = txb_args_text(&cli->args, "reason"),
                                    .filter = choice.filter,
                                    .to_topic = to_topic};
    rc = txb_failed_carry_out(cli, &choice, &d, &code, &err);
  }
  txb_failed_choice_fini(&choice);
  return rc == TXB_OK ? code : txb_fail(&err);
}

static int change_open(struct txb_cli *cli, enum txb_failed_verb verb, const char *to_topic) {
  json_t *states = json_string("open");
  int code = change(cli, verb, states, to_topic);
  json_decref(states);
  return code;
}

/* What is held can't be tried again by itself: it follows. */
int txb_cmd_failed_retry(struct txb_cli *cli) {
  json_t *states = json_pack("[s, s]", "retrying", "dead");
  int code = change(cli, TXB_FAILED_RETRY, states, NULL);
  json_decref(states);
  return code;
}

int txb_cmd_failed_discard(struct txb_cli *cli) {
  struct txb_error err;
  if (txb_args_blank(&cli->args, "reason") && !txb_args_has(&cli->args, "dry-run")) {
    (void)REFUSE(&err, "failed discard wants --reason TEXT: it is kept with the message, and in the audit");
    return txb_fail(&err);
  }
  return change_open(cli, TXB_FAILED_DISCARD, NULL);
}

static enum txb_rc check_topic(const struct txb_cli *cli, const char *topic, struct txb_error *err) {
  if (txb_args_blank(&cli->args, "to-topic"))
    return REFUSE(err, "failed copy wants --to-topic TOPIC: where the copies go");
  if (!txb_slice_is_text(txb_slice_text(topic)))
    return REFUSE(err, "--to-topic is not UTF-8");
  if (txb_topic_name_problem(topic) != NULL)
    return TXB_OK; /* the server refuses it, and says why */
  return txb_target_topic(cli, "txbroker-failed-copy", topic, err);
}

int txb_cmd_failed_copy(struct txb_cli *cli) {
  struct txb_error err;
  const char *topic = txb_args_text(&cli->args, "to-topic");
  enum txb_rc rc = check_topic(cli, topic, &err);
  return rc == TXB_OK ? change_open(cli, TXB_FAILED_COPY, topic) : txb_fail(&err);
}
