/* saga retry, edit, skip, mark, cancel: a person's decision. One transaction: a message to the coordinator and a row of the audit, both
 * or none; what became of it is an event of the saga. What can't be any more is refused with that row alone. */
#include <string.h>
#include <unistd.h>

#include "broker/cli/input.h"
#include "broker/cli/saga.h"
#include "cli_sql.h"
#include "common/clock.h"
#include "common/event.h"
#include "common/loop.h"

static const struct txb_pg_statement decide_statement = {"cli_saga_decide", txb_text_cli_saga_decide};

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)
#define PATIENCE_US      INT64_C(10000000) /* for the coordinator to take it up */
#define LOOK_US          20000
#define NO_PAYLOAD       txb_slice_of(NULL, 0)

struct decision {
  const char *what, *step, *reason;
  long long at;             /* 0: not given */
  struct txb_slice payload; /* JSON text; absent: none */
};

static enum txb_rc read_decision(const struct txb_cli *cli, struct decision *d, struct txb_error *err) {
  d->step = cli->args.operand_count > 1 ? cli->args.operands[1] : NULL;
  d->reason = txb_args_text(&cli->args, "reason");
  TXB_TRY(txb_args_integer(&cli->args, "at", 1, INT32_MAX, &d->at, err));
  if (d->reason == NULL || txb_args_blank(&cli->args, "reason"))
    return REFUSE(err, "a decision about a saga needs a reason: --reason TEXT; it is kept with the saga");
  return TXB_OK;
}

static enum txb_rc send(struct txb_pg *pg, const struct txb_uuid *id, const struct decision *d, struct txb_uuid *out,
                        struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *r = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_uuid(&params, id);
  txb_pg_add_text(&params, txb_slice_text(d->what));
  txb_pg_add_text(&params, txb_slice_text(d->step));
  if (d->at > 0)
    txb_pg_add_int4(&params, (int32_t)d->at);
  else
    txb_pg_add_null(&params, TXB_OID_INT4);
  txb_pg_add_text(&params, txb_slice_text(d->reason));
  txb_pg_add_text(&params, txb_slice_text(txb_person()));
  txb_pg_add_text(&params, d->payload);
  TXB_TRY(txb_failed_ask(pg, &decide_statement, &params, "txb_admin", &r, err));
  if (!txb_pg_is_null(r, 0, 1))
    return TXB_FAIL(err, TXB_REFUSED, "%s", txb_pg_text(r, 0, 1));
  txb_pg_uuid(r, 0, 0, out);
  return TXB_OK;
}

/* The event that the message led to; NULL: none yet. */
static json_t *event_of(const struct txb_saga_shown *shown, const char *message) {
  json_t *event;
  size_t n;
  json_array_foreach(shown->events, n, event) {
    const char *by = txb_failed_text(event, "message_id");
    if (by != NULL && strcmp(by, message) == 0)
      return event;
  }
  return NULL;
}

/* Exit code 1 when the coordinator refused it. */
static enum txb_rc tell(const struct txb_cli *cli, json_t *event, const char *id, int *code) {
  bool refused = event != NULL && strcmp(txb_failed_text(event, "event"), "ignored") == 0;
  *code = refused ? TXB_EXIT_FAILED : TXB_EXIT_DONE;
  if (cli->output != TXB_OUTPUT_TEXT) {
    json_t *document = json_pack("{s:s, s:b, s:b}", "saga", id, "taken_up", event != NULL, "refused", refused);
    if (event != NULL)
      (void)json_object_set(document, "event", event);
    txb_failed_print_json(cli, document);
    json_decref(document);
  } else if (refused) {
    txb_say("refused: %s", txb_failed_text(event, "reason"));
  } else if (event == NULL) {
    txb_print("sent; the coordinator has not taken it up yet: txbroker saga show %s\n", id);
  } else {
    struct txb_buffer line;
    txb_buffer_init(&line);
    txb_saga_view_event(event, NULL, &line);
    txb_buffer_add_text(&line, "\n");
    txb_print_buffer(&line);
    txb_buffer_fini(&line);
  }
  return TXB_OK;
}

static enum txb_rc watch(const struct txb_cli *cli, struct txb_pg *pg, const struct txb_uuid *id,
                         const struct txb_uuid *message, int stop_fd, int *code, struct txb_error *err) {
  int64_t until_us = txb_clock_steady_us() + PATIENCE_US;
  char text[37], saga[37];
  txb_uuid_format(message, text);
  txb_uuid_format(id, saga);
  for (;;) {
    struct txb_saga_shown shown;
    TXB_TRY(txb_saga_show(pg, id, &shown, err));
    json_t *event = event_of(&shown, text);
    bool over = event != NULL || txb_clock_steady_us() >= until_us || txb_pause(stop_fd, LOOK_US);
    enum txb_rc rc = over ? tell(cli, event, saga, code) : TXB_OK;
    txb_saga_shown_fini(&shown);
    if (over)
      return rc;
  }
}

static int decide(struct txb_cli *cli, const char *what, struct txb_slice payload) {
  struct txb_error err;
  struct decision d = {.what = what, .payload = payload};
  struct txb_uuid id, message;
  struct txb_pg *pg = NULL;
  int stop_fd = -1, code = TXB_EXIT_DONE;
  enum txb_rc rc = txb_saga_id_parse(cli->args.operands[0], &id, &err);
  if (rc == TXB_OK)
    rc = read_decision(cli, &d, &err);
  if (rc == TXB_OK)
    rc = txb_signals_open(&stop_fd, &err);
  if (rc == TXB_OK)
    rc = txb_saga_connect(cli, stop_fd, &pg, &err);
  if (rc == TXB_OK)
    rc = send(pg, &id, &d, &message, &err);
  if (rc == TXB_OK)
    rc = watch(cli, pg, &id, &message, stop_fd, &code, &err);
  txb_pg_close(pg);
  if (stop_fd >= 0)
    (void)close(stop_fd);
  return rc == TXB_OK ? code : txb_fail(&err);
}

int txb_cmd_saga_retry(struct txb_cli *cli) {
  return decide(cli, "retry", NO_PAYLOAD);
}

int txb_cmd_saga_skip(struct txb_cli *cli) {
  return decide(cli, "skip", NO_PAYLOAD);
}

static enum txb_rc read_payload(const struct txb_cli *cli, struct txb_buffer *out, struct txb_error *err) {
  const char *path = txb_args_text(&cli->args, "payload-file");
  if (path == NULL)
    return REFUSE(err, "what is it to be sent instead? --payload-file FILE, or - for standard input");
  TXB_TRY(txb_input_read(path, TXB_PAYLOAD_SIZE_MAX, out, err));
  TXB_TRY(txb_buffer_check(out, err));
  return txb_saga_json_check(out, "payload", err);
}

int txb_cmd_saga_edit(struct txb_cli *cli) {
  struct txb_error err;
  struct txb_buffer payload TXB_CLEANUP(txb_buffer_fini);
  txb_buffer_init(&payload);
  if (read_payload(cli, &payload, &err) != TXB_OK)
    return txb_fail(&err);
  return decide(cli, "edit", txb_slice_of(payload.data, payload.size));
}

int txb_cmd_saga_mark(struct txb_cli *cli) {
  struct txb_error err;
  bool done = txb_args_has(&cli->args, "done"), undone = txb_args_has(&cli->args, "undone");
  if (done != undone)
    return decide(cli, done ? "mark_done" : "mark_undone", NO_PAYLOAD);
  (void)REFUSE(&err,
               "what has become of the step: --done (it took effect) or --undone (it has no effect, or not any more)");
  return txb_fail(&err);
}

int txb_cmd_saga_cancel(struct txb_cli *cli) {
  return decide(cli, "cancel", NO_PAYLOAD);
}
