/* failed retry, failed discard. Each chunk of messages is one transaction: a crash leaves the rest as it was, and the
 * same command goes on. */
#include <inttypes.h>
#include <stdio.h>

#include "broker/cli/failed.h"

struct kind {
  struct txb_failed_words words;
  bool discard;
};

/* What was committed is reported even when a later chunk fails. */
static enum txb_rc decide_all(const struct txb_cli *cli, const struct kind *kind,
                              const struct txb_failed_choice *choice, json_t *results, struct txb_error *err) {
  struct txb_failed_decision d = {.discard = kind->discard,
                                  .person = txb_person(),
                                  .reason = txb_args_text(&cli->args, "reason"),
                                  .filter = choice->filter};
  char text[80];
  enum txb_rc rc = TXB_OK;
  for (size_t at = 0; rc == TXB_OK && at < choice->count; at += TXB_FAILED_CHUNK) {
    size_t left = choice->count - at;
    rc = txb_failed_decide(choice->pg, &d, choice->numbers + at, left < TXB_FAILED_CHUNK ? left : TXB_FAILED_CHUNK,
                           results, err);
    (void)snprintf(text, sizeof(text), "%s: %zu of %zu", kind->words.many, json_array_size(results), choice->count);
    if (choice->count > TXB_FAILED_CHUNK)
      txb_progress(cli, text);
  }
  txb_progress(cli, NULL);
  return rc;
}

static int change(struct txb_cli *cli, const struct kind *kind, const json_t *states) {
  struct txb_error err;
  struct txb_failed_choice choice = {.code = TXB_EXIT_DONE};
  bool go = false;
  enum txb_rc rc = txb_failed_choose(cli, kind->words.verb, states, &choice, &go, &err);
  int code = choice.code;
  if (rc == TXB_OK && go) {
    json_t *results = json_array();
    rc = decide_all(cli, kind, &choice, results, &err);
    if (rc == TXB_OK || json_array_size(results) > 0)
      code = txb_failed_report(cli, &kind->words, results);
    json_decref(results);
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
