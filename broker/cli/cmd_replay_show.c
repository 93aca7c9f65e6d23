/* replay show: one job, once or until it has ended. Changes nothing; a server that goes away is waited for. */
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "broker/cli/replay.h"
#include "common/clock.h"
#include "common/loop.h"

#define LOOK_US 1000000 /* between two looks; a worker's batches take less */

struct follow {
  const struct txb_cli *cli;
  const char *uri;
  int64_t number;
  int stop_fd; /* a signal ends every wait */
  struct txb_pg *pg;
  bool away;
  json_t *last; /* what was seen last */
  struct txb_replay_progress before;
  int64_t before_us; /* 0: nothing was seen yet */
};

static void print_one(const struct txb_cli *cli, const json_t *job) {
  if (cli->output == TXB_OUTPUT_TEXT)
    txb_replay_print_job(cli, job);
  else
    txb_failed_print_json(cli, job);
}

static enum txb_rc look(struct follow *f, json_t **out, struct txb_error *err) {
  if (f->pg != NULL && !txb_pg_is_usable(f->pg)) {
    txb_pg_close(f->pg);
    f->pg = NULL;
  }
  if (f->pg == NULL)
    TXB_TRY(txb_failed_connect_until(f->cli, f->uri, f->stop_fd, &f->pg, err));
  return txb_replay_show(f->pg, f->number, out, err);
}

/* A bar on a terminal; with jsonl a line for each change. */
static void tell(struct follow *f, const json_t *job) {
  struct txb_replay_progress now;
  struct txb_buffer text;
  int64_t now_us = txb_clock_steady_us();
  txb_replay_progress_of(job, &now);
  txb_buffer_init(&text);
  txb_buffer_addf(&text, "job %" PRId64 " %s ", f->number, txb_failed_text(job, "state"));
  txb_replay_progress_text(&now, f->before_us == 0 ? NULL : &f->before, (now_us - f->before_us) / 1000, &text);
  txb_progress(f->cli, txb_buffer_text(&text));
  txb_buffer_fini(&text);
  bool moved = f->before_us == 0 || memcmp(&now, &f->before, sizeof(now)) != 0;
  if (f->cli->output == TXB_OUTPUT_JSONL && moved && !txb_replay_is_final(job)) {
    txb_failed_print_json(f->cli, job);
    (void)txb_print_flush();
  }
  f->before = now;
  f->before_us = now_us;
}

/* One look; *end_out when there is nothing to wait for any more. */
static enum txb_rc step(struct follow *f, bool *end_out, struct txb_error *err) {
  json_t *job;
  enum txb_rc rc = look(f, &job, err);
  if (rc == TXB_RETRY && !txb_stopped(f->stop_fd) && f->last != NULL) {
    if (!f->away)
      txb_say("%s; waiting for it", err->message);
    f->away = true;
    return TXB_OK;
  }
  if (rc != TXB_OK)
    return rc;
  if (f->away)
    txb_say("the server is back");
  f->away = false;
  json_decref(f->last);
  f->last = job;
  tell(f, job);
  *end_out = txb_replay_is_final(job);
  return TXB_OK;
}

/* 0 when the job is done, 1 when it was cancelled or somebody stopped the watching, which changes nothing of the job. */
static enum txb_rc follow(struct follow *f, int *code, struct txb_error *err) {
  enum txb_rc rc = TXB_OK;
  bool end = false;
  while (rc == TXB_OK && !end && !txb_pause(f->stop_fd, f->last == NULL ? 0 : LOOK_US))
    rc = step(f, &end, err);
  if (rc == TXB_RETRY && txb_stopped(f->stop_fd))
    rc = TXB_OK;
  txb_progress(f->cli, NULL);
  if (rc != TXB_OK)
    return rc;
  if (f->last != NULL)
    print_one(f->cli, f->last);
  bool done = end && strcmp(txb_failed_text(f->last, "state"), "done") == 0;
  if (!end)
    txb_say("stopped watching; the job goes on");
  *code = done ? TXB_EXIT_DONE : TXB_EXIT_FAILED;
  return TXB_OK;
}

static enum txb_rc show(struct txb_cli *cli, int64_t number, int *code, struct txb_error *err) {
  struct follow f = {.cli = cli, .number = number, .stop_fd = -1};
  json_t *job = NULL;
  bool once = !txb_args_has(&cli->args, "follow");
  enum txb_rc rc = txb_replay_target(cli, &f.uri, err);
  if (rc == TXB_OK && !once)
    rc = txb_signals_open(&f.stop_fd, err);
  if (rc == TXB_OK && !once)
    rc = follow(&f, code, err);
  if (rc == TXB_OK && once)
    rc = look(&f, &job, err);
  if (rc == TXB_OK && once)
    print_one(cli, job);
  json_decref(job);
  json_decref(f.last);
  txb_pg_close(f.pg);
  if (f.stop_fd >= 0)
    (void)close(f.stop_fd);
  return rc;
}

int txb_cmd_replay_show(struct txb_cli *cli) {
  struct txb_error err;
  int64_t number = 0;
  int code = TXB_EXIT_DONE;
  enum txb_rc rc = txb_number_parse(cli->args.operands[0], "job", "replay list", &number, &err);
  if (rc == TXB_OK)
    rc = show(cli, number, &code, &err);
  return rc == TXB_OK ? code : txb_fail(&err);
}
