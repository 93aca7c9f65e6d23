/* failed retry, failed discard. A few messages are decided on in one transaction: a crash leaves all of them done or none.
 * More are a job: failed_job.c. */
#include "broker/cli/failed.h"

struct kind {
  struct txb_failed_words words;
  bool discard;
};

static enum txb_rc decide_now(const struct txb_cli *cli, const struct kind *kind,
                              const struct txb_failed_choice *choice, const struct txb_failed_decision *d,
                              int *code_out, struct txb_error *err) {
  json_t *results = json_array();
  enum txb_rc rc = txb_failed_decide(choice->pg, d, choice->numbers, choice->count, results, err);
  if (rc == TXB_OK)
    *code_out = txb_failed_report(cli, &kind->words, results);
  json_decref(results);
  return rc;
}

static int change(struct txb_cli *cli, const struct kind *kind, const json_t *states) {
  struct txb_error err;
  struct txb_failed_choice choice = {.may_be_job = true, .code = TXB_EXIT_DONE};
  bool go = false;
  enum txb_rc rc = txb_failed_choose(cli, kind->words.verb, states, &choice, &go, &err);
  int code = choice.code;
  if (rc == TXB_OK && go) {
    struct txb_failed_decision d = {.discard = kind->discard,
                                    .person = txb_person(),
                                    .reason = txb_args_text(&cli->args, "reason"),
                                    .filter = choice.filter};
    rc = choice.is_job ? txb_failed_job_begin(cli, &choice, &d, &code, &err)
                       : decide_now(cli, kind, &choice, &d, &code, &err);
  }
  txb_failed_choice_fini(&choice);
  return rc == TXB_OK ? code : txb_fail(&err);
}

/* What is held can't be tried again by itself: it follows. */
int txb_cmd_failed_retry(struct txb_cli *cli) {
  static const struct kind kind = {{"retry", "is due now", "retried"}, false};
  json_t *states = json_pack("[s, s]", "retrying", "dead");
  int code = change(cli, &kind, states);
  json_decref(states);
  return code;
}

int txb_cmd_failed_discard(struct txb_cli *cli) {
  static const struct kind kind = {{"discard", "is discarded", "discarded"}, true};
  struct txb_error err;
  if (txb_args_blank(&cli->args, "reason") && !txb_args_has(&cli->args, "dry-run")) {
    (void)TXB_FAIL_FROM(&err, TXB_REFUSED, TXB_ORIGIN_USAGE,
                        "failed discard wants --reason TEXT: it is kept with the message, and in the audit");
    return txb_fail(&err);
  }
  json_t *states = json_string("open");
  int code = change(cli, &kind, states);
  json_decref(states);
  return code;
}
