/* saga start, saga wait. A start is one transaction: a crash before its COMMIT leaves no saga; after it there is one, and
 * with a key starting it again gives the same. */
#include <string.h>
#include <unistd.h>

#include "broker/cli/input.h"
#include "broker/cli/saga.h"
#include "cli_sql.h"
#include "common/clock.h"
#include "common/event.h"
#include "common/loop.h"

static const struct txb_pg_statement start_statement = {"cli_saga_start", txb_text_cli_saga_start};

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)
#define WAIT_MS_DEFAULT  INT64_C(60000)

static enum txb_rc read_duration(const struct txb_cli *cli, const char *option, int64_t *ms_out,
                                 struct txb_error *err) {
  const char *text = txb_args_text(&cli->args, option);
  if (text == NULL || txb_saga_duration_parse(text, ms_out))
    return TXB_OK;
  return REFUSE(err, "--%s %.40s is no time: a whole number with ms, s, m, h or d, as in 30s", option, text);
}

static enum txb_rc read_input(const struct txb_cli *cli, struct txb_buffer *out, struct txb_error *err) {
  const char *text = txb_args_text(&cli->args, "input"), *path = txb_args_text(&cli->args, "input-file");
  if (text != NULL && path != NULL)
    return REFUSE(err, "--input and --input-file are two inputs: give one");
  if (path == NULL)
    txb_buffer_add_text(out, text != NULL ? text : "{}");
  else
    TXB_TRY(txb_input_read(path, TXB_PAYLOAD_SIZE_MAX, out, err));
  TXB_TRY(txb_buffer_check(out, err));
  return txb_saga_json_check(out, "input", err);
}

static enum txb_rc start(const struct txb_cli *cli, struct txb_pg *pg, struct txb_slice input, int64_t deadline_ms,
                         struct txb_uuid *out, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *r = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text(cli->args.operands[0]));
  txb_pg_add_text(&params, input);
  txb_pg_add_text(&params, txb_slice_text(txb_args_text(&cli->args, "key")));
  if (deadline_ms > 0)
    txb_pg_add_int8(&params, deadline_ms);
  else
    txb_pg_add_null(&params, TXB_OID_INT8);
  txb_pg_add_text(&params, txb_slice_text(txb_args_text(&cli->args, "reply-topic")));
  txb_pg_add_text(&params, txb_slice_text(txb_args_text(&cli->args, "coordinator")));
  TXB_TRY(txb_failed_ask(pg, &start_statement, &params, "txb_app", &r, err));
  txb_pg_uuid(r, 0, 0, out);
  return TXB_OK;
}

static void print_started(const struct txb_cli *cli, const char *id) {
  if (cli->output == TXB_OUTPUT_TEXT) {
    txb_print("%s\n", id);
    return;
  }
  json_t *document = json_pack("{s:s}", "saga", id);
  txb_failed_print_json(cli, document);
  json_decref(document);
}

static enum txb_rc await(const struct txb_cli *cli, struct txb_pg *pg, const struct txb_uuid *id, int64_t ms,
                         int stop_fd, int *code, struct txb_error *err) {
  json_t *result = NULL;
  TXB_TRY(txb_saga_await(pg, id, txb_clock_steady_us() + ms * 1000, stop_fd, &result, err));
  *code = txb_saga_print_result(cli, result);
  json_decref(result);
  return TXB_OK;
}

static enum txb_rc run_start(struct txb_cli *cli, int stop_fd, int *code, struct txb_error *err) {
  struct txb_buffer input TXB_CLEANUP(txb_buffer_fini);
  int64_t deadline_ms = 0, wait_ms = 0;
  struct txb_uuid id;
  struct txb_pg *pg = NULL;
  char text[37];
  txb_buffer_init(&input);
  TXB_TRY(read_duration(cli, "deadline", &deadline_ms, err));
  TXB_TRY(read_duration(cli, "wait", &wait_ms, err));
  TXB_TRY(read_input(cli, &input, err));
  if (wait_ms > 0 && txb_args_has(&cli->args, "coordinator"))
    return REFUSE(err,
                  "--wait looks into the coordinator's database, which with --coordinator is another one: wait there, "
                  "`txbroker saga wait`");
  TXB_TRY(txb_saga_connect(cli, stop_fd, &pg, err));
  enum txb_rc rc = start(cli, pg, txb_slice_of(input.data, input.size), deadline_ms, &id, err);
  if (rc == TXB_OK && wait_ms > 0) {
    rc = await(cli, pg, &id, wait_ms, stop_fd, code, err);
  } else if (rc == TXB_OK) {
    txb_uuid_format(&id, text);
    print_started(cli, text);
  }
  txb_pg_close(pg);
  return rc;
}

static enum txb_rc run_wait(struct txb_cli *cli, int stop_fd, int *code, struct txb_error *err) {
  int64_t ms = WAIT_MS_DEFAULT;
  struct txb_uuid id;
  struct txb_pg *pg = NULL;
  TXB_TRY(read_duration(cli, "timeout", &ms, err));
  TXB_TRY(txb_saga_id_parse(cli->args.operands[0], &id, err));
  TXB_TRY(txb_saga_connect(cli, stop_fd, &pg, err));
  enum txb_rc rc = await(cli, pg, &id, ms, stop_fd, code, err);
  txb_pg_close(pg);
  return rc;
}

static int run(struct txb_cli *cli, enum txb_rc (*what)(struct txb_cli *, int, int *, struct txb_error *)) {
  struct txb_error err;
  int stop_fd = -1, code = TXB_EXIT_DONE;
  enum txb_rc rc = txb_signals_open(&stop_fd, &err);
  if (rc == TXB_OK)
    rc = what(cli, stop_fd, &code, &err);
  if (stop_fd >= 0)
    (void)close(stop_fd);
  return rc == TXB_OK ? code : txb_fail(&err);
}

int txb_cmd_saga_start(struct txb_cli *cli) {
  return run(cli, run_start);
}

int txb_cmd_saga_wait(struct txb_cli *cli) {
  return run(cli, run_wait);
}
